"""Signals that end a training: noted when they come, acted upon when everything is saved."""

import itertools
import signal
import threading
import time
from types import FrameType
from typing import Any

from jaxcnn.errors import Stopped
from jaxcnn.learning import processes

NOTED = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
SECONDS_OF_ONE_PRESS = 0.5
"""SIGINTs so close together are one Ctrl-C, which a terminal and a wrapper both pass on."""


class StopRequest:
    """While it is entered, SIGTERM, SIGINT and SIGHUP are noted instead of ending the process.

    A second Ctrl-C acts as it would have before, so that an impatient one ends the process at once;
    further SIGTERMs, which schedulers like to repeat, change nothing. A signal that was ignored
    before stays ignored, such as SIGHUP under nohup.
    """

    def __init__(self) -> None:
        self.signal: int | None = None
        self._at = 0.0
        self._calls = itertools.count()
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> "StopRequest":
        """Takes the handlers over; in another thread than the main one no signal ever comes."""
        if threading.current_thread() is not threading.main_thread():
            return self
        for number in NOTED:
            if signal.getsignal(number) is not signal.SIG_IGN:
                self._previous[number] = signal.signal(number, self._note) or signal.SIG_DFL
        return self

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.signal is None:
            self.signal, self._at = number, time.monotonic()
        elif number == signal.SIGINT and time.monotonic() - self._at > SECONDS_OF_ONE_PRESS:
            signal.signal(number, self._previous[number])
            signal.raise_signal(number)

    def __exit__(self, *_: object) -> None:
        """Gives the handlers back."""
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def agreed(self, steps: int, late: bool = False) -> tuple[int | None, int, bool]:
        """Returns the signal that any of the processes has noted, and the first one's numbers.

        Args:
            steps: how many steps are to be done next.
            late: whether it is time to save.
        """
        asked, numbers = processes.agree(next(self._calls), self.signal, steps, late)
        return asked, numbers[0], bool(numbers[1])

    def raise_if_asked(self) -> None:
        """Ends the training between two groups of runs, when everything is saved.

        Raises:
            Stopped: a signal has come.
        """
        number, *_ = self.agreed(0)
        if number is not None:
            raise Stopped(number)
