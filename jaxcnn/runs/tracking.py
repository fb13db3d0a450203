"""Has runs tracked by MLflow or wandb, in a process of its own: no fault there reaches a training.

Steps never wait for it. A tracker that fails costs one line, and a command that ends waits for what
was not sent yet for no longer than :data:`SECONDS`.
"""

import contextlib
import importlib.util
import json
import os
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from jaxcnn.errors import InputError, as_warning
from jaxcnn.runs import trackers
from jaxcnn.runs.display import Listener, Record
from jaxcnn.runs.trackers import Tracker

SECONDS = 30.0
"""How long a command waits at its end for what was not sent yet."""


@contextlib.contextmanager
def tracked(tracker: Tracker | None, project: str) -> Iterator[Listener]:
    """Yields a listener that has the runs of which it hears tracked; without a tracker, none are.

    Args:
        tracker: which one.
        project: the experiment of MLflow, or the project of wandb, that holds the runs.

    Raises:
        InputError: its package is not installed.
    """
    if tracker is None:
        yield Listener()
        return
    found = importlib.util.find_spec(tracker)
    if found is None or found.origin is None:  # wandb leaves a folder of its name behind
        raise InputError(f"--track {tracker}: needs pip install 'jaxcnn[{tracker}]'")
    tracking = Tracking(tracker, project)
    try:
        yield tracking
    finally:
        tracking.settle()


class Tracking(Listener):
    """Tells a process that sends to a tracker which run folders hold something new.

    Args:
        tracker: which tracker.
        project: the experiment of MLflow, or the project of wandb, that holds the runs.
    """

    def __init__(self, tracker: Tracker, project: str) -> None:
        self._which = tracker, project
        self._folders: dict[str, Path] = {}
        self._waiting: set[str] = set()
        self._said: queue.SimpleQueue[tuple[Any, ...]] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._process: subprocess.Popen[str] | None = None
        self._late = ""

    def began(self, folder: Path, name: str = "", best: Record | None = None) -> None:
        """Has the settings sent, and what was recorded before."""
        self._folders[name] = folder
        self._update(folder)

    def record(self, record: Record) -> None:
        """Has the record sent."""
        self._update(self._folders[record.get("run", "")])

    def closed(self, folder: Path, diverged: str = "") -> None:
        """Has pictures, files and the result sent."""
        self._tell("close", str(folder.absolute()), diverged)

    def page(self, folder: Path, names: Sequence[str]) -> None:
        """Has the files sent."""
        self._tell("page", str(folder.absolute()), names)

    def settle(self) -> None:
        """Returns when all is sent, or after SECONDS."""
        if self._thread is None:
            return
        self._tell("end")
        self._thread.join(SECONDS)
        if self._thread.is_alive() and self._process is not None:
            self._late = f"not all was sent after {SECONDS:g} s"
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._thread.join()

    def _update(self, folder: Path) -> None:
        path = str(folder.absolute())
        if path not in self._waiting:  # else what is new is sent with what was before
            self._waiting.add(path)
            self._tell("update", path)

    def _tell(self, *said: Any) -> None:
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name="jaxcnn-tracking", daemon=True)
            self._thread.start()
        self._said.put(said)

    def _work(self) -> None:
        """Hands on what is said, and waits for each answer, until the end or a fault."""
        self._process = subprocess.Popen(
            [sys.executable, "-m", trackers.__name__, *self._which],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            start_new_session=True,  # a Ctrl-C and a closed terminal are the training's to hear
        )
        off = f"--track {self._which[0]}: nothing more is tracked"
        with self._process, as_warning(off):
            said: tuple[Any, ...] = ("",)
            while said[0] != "end":
                said = self._said.get()
                if said[0] == "update":
                    self._waiting.discard(said[1])
                self._send(self._process, said)

    def _send(self, process: "subprocess.Popen[str]", said: tuple[Any, ...]) -> None:
        """Hands on one thing, and returns when it is done.

        Raises:
            RuntimeError: it cannot be done.
        """
        assert process.stdin is not None
        assert process.stdout is not None
        with contextlib.suppress(BrokenPipeError):
            print(json.dumps(said), file=process.stdin, flush=True)
        answer = process.stdout.readline()
        if answer != "\n":
            ended = f"its process has ended with {process.wait()}" if not answer else ""
            raise RuntimeError(self._late or ended or answer)
