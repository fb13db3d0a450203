"""How a run stands, as its folder tells others: taken, so far trained, failed.

Whoever trains a run holds a lock in its folder, which ends with its process however that ends. So
several processes, on any machines that see the folder, can share the runs in it.
"""

import contextlib
import fcntl
import os
import platform
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO

import msgspec

from jaxcnn.errors import FULL, InputError
from jaxcnn.learning import files
from jaxcnn.learning.records import Ending, Fault, Planned, Progress

SECONDS_BETWEEN = 5.0
"""A run writes this often how far it is."""
SECONDS_OF_A_LOOK = 0.5
"""Somebody who only looks whether a run is taken is waited for this long."""


class Taken(InputError):
    """Another process holds the folder."""


def take(path: Path) -> IO[bytes]:
    """Takes a folder, which is there: no other process can, until the file is closed.

    Raises:
        Taken: another process holds it.
        InputError: it cannot be written.
    """
    if path in _reserved:
        return _reserved.pop(path)
    flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW
    until = time.monotonic() + SECONDS_OF_A_LOOK
    try:
        lock = os.fdopen(os.open(path / ".lock", flags, 0o666), "r+b")
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return lock
            except BlockingIOError as error:
                if time.monotonic() > until:
                    lock.close()
                    raise Taken(f"workdir {path}: another process is writing into it") from error
                time.sleep(0.02)
    except Taken:
        raise
    except OSError as error:
        if error.errno in FULL:
            raise
        raise InputError(f"workdir {path}: cannot be written ({error.strerror})") from error


_reserved: dict[Path, IO[bytes]] = {}
"""What this process has taken ahead of using it."""


def reserve(path: Path) -> bool:
    """Takes a folder ahead of the call that will :func:`take` it; returns whether it was free."""
    path.mkdir(parents=True, exist_ok=True)
    if path in _reserved:
        return True
    with contextlib.suppress(Taken):
        _reserved[path] = take(path)
    return path in _reserved


def release(path: Path) -> None:
    """Gives a folder back that was reserved, unless it has been taken since."""
    if path in _reserved:
        _reserved.pop(path).close()


def is_taken(path: Path) -> bool:
    """Tells whether another process holds a folder; changes nothing there."""
    if path in _reserved:
        return False
    with contextlib.suppress(OSError):
        descriptor = os.open(path / ".lock", os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        finally:
            os.close(descriptor)
    return False


@contextlib.contextmanager
def taking(path: Path) -> Iterator[bool]:
    """Takes a folder for a while; yields whether no other process had it."""
    try:
        lock = take(path)
    except Taken:
        yield False
        return
    with lock:
        yield True


@contextlib.contextmanager
def held(path: Path) -> Iterator[None]:
    """Takes a file for a moment that others take for no longer; waits until it is free."""
    with os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666), "r+b") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


class Teller:
    """Writes into the folder of a run how far it is, every few seconds.

    Args:
        path: the run folder.
    """

    def __init__(self, path: Path) -> None:
        self._path = path / "progress.json"
        self._host = platform.node()
        self._told = time.monotonic()

    def tell(self, **progress: float) -> None:
        """Writes the fields of :class:`Progress`, unless that was done a moment ago."""
        if time.monotonic() - self._told < SECONDS_BETWEEN:
            return
        self._told = time.monotonic()
        with contextlib.suppress(OSError, InputError):  # the run goes on without
            content = {**progress, "host": self._host}
            files.write_json(self._path, content, lasting=False)


def progress(path: Path) -> Progress | None:
    """Returns how far the run in a folder was when it last told, if it has."""
    with contextlib.suppress(InputError):
        return files.read(path / "progress.json", Progress)
    return None


def note_fault(path: Path, ended: Ending, reason: str) -> None:
    """Notes in the folder of a run, which the caller holds, why it ended before its last step."""
    content = msgspec.to_builtins(Fault(ended=ended, reason=reason))
    with contextlib.suppress(OSError, InputError):  # a full disk may be the very reason
        files.write_json(path / "failed.json", content)


def fault(path: Path) -> Fault | None:
    """Returns why the run in a folder ended before its last step, if it did.

    Raises:
        InputError: failed.json is damaged.
    """
    file = path / "failed.json"
    return files.read(file, Fault) if file.exists() else None


def forget(path: Path) -> None:
    """Removes what earlier calls have told of a run, which begins or goes on now."""
    for name in ("failed.json", "progress.json"):
        (path / name).unlink(missing_ok=True)


def plan(folder: Path, runs: Sequence[Path]) -> None:
    """Writes which runs are to be trained in a folder, so that those are known which wait."""
    folder.mkdir(parents=True, exist_ok=True)
    names = [os.path.relpath(run, folder) for run in runs]
    files.write_json(folder / PLANNED, {"runs": names})


def planned(folder: Path) -> list[str]:
    """Returns the names of the runs that are to be trained in a folder, where that is known."""
    with contextlib.suppress(InputError):
        return [name for name in files.read(folder / PLANNED, Planned).runs if "\0" not in name]
    return []


def planned_within(folder: Path) -> list[Path]:
    """Returns the runs that are to be trained in a folder and in those in it, in their order."""
    plans = sorted([folder / PLANNED, *folder.glob(f"*/{PLANNED}")])
    return [plan.parent / name for plan in plans for name in planned(plan.parent)]


PLANNED = "planned.json"
"""The file of the names of runs that are to be trained in a folder."""
