"""Signals that end a training: noted when they come, acted upon when everything is saved."""

import itertools
import signal
from types import FrameType
from typing import Any

from jaxcnn.errors import Stopped
from jaxcnn.train import processes


class StopRequest:
    """While it is entered, SIGTERM and SIGINT are noted instead of ending the process.

    A second SIGINT acts as it would have before, so that an impatient Ctrl-C ends the process at
    once; further SIGTERMs, which schedulers like to repeat, change nothing. A signal that was
    ignored before stays ignored.
    """

    def __init__(self) -> None:
        self.signal: int | None = None
        self._calls = itertools.count()
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> "StopRequest":
        """Takes the handlers over."""
        for number in (signal.SIGTERM, signal.SIGINT):
            if signal.getsignal(number) is not signal.SIG_IGN:
                self._previous[number] = signal.signal(number, self._note) or signal.SIG_DFL
        return self

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.signal = number
        if signal.SIGINT in self._previous:
            signal.signal(signal.SIGINT, self._previous.pop(signal.SIGINT))

    def __exit__(self, *_: object) -> None:
        """Gives the handlers back."""
        while self._previous:
            signal.signal(*self._previous.popitem())

    def agreed(self, steps: int) -> tuple[int | None, int]:
        """Returns the signal that any of the processes has noted, and the first one's steps."""
        return processes.agree(next(self._calls), self.signal, steps)

    def raise_if_asked(self) -> None:
        """Ends the training between two groups of runs, when everything is saved.

        Raises:
            Stopped: a signal has come.
        """
        number, _ = self.agreed(0)
        if number is not None:
            raise Stopped(number)
