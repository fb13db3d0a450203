"""The errors that a caller tells apart; importing them imports nothing else of this package."""

import contextlib
import errno
import signal
from collections.abc import Iterator
from pathlib import Path

FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
"""Error numbers of a disk, a quota or a file that can take no more."""


class InputError(ValueError):
    """A fault in what the user gave: one line with the field or file, its value, and the remedy."""


class NotAtHand(InputError):
    """Something that was brought to a run is known by name alone, and was not given again."""


class Diverged(Exception):
    """The loss or a parameter is no longer finite; the message says at which step."""


class Pruned(Exception):
    """A search has given a run up, whose results so far promise too little."""


class NotWritten(Exception):
    """What a run has to write does not fit on the disk, or its folder is gone."""


class Stopped(Exception):
    """A signal ended the training after its state was saved.

    Attributes:
        signal: the number of the signal.
    """

    def __init__(self, number: int, step: int | None = None) -> None:
        at = "" if step is None else f" at step {step}"
        super().__init__(f"{signal.Signals(number).name}{at}; run again to go on")
        self.signal = number


@contextlib.contextmanager
def as_not_written(folder: Path) -> Iterator[None]:
    """Turns the errors of writing into a run folder into one line that says how to go on."""
    try:
        yield
    except OSError as error:
        room = "free some room and " if error.errno in FULL else ""
        reason = error.strerror or error
        raise NotWritten(
            f"{folder}: cannot be written ({reason}); {room}run the same command again to go on"
        ) from error


@contextlib.contextmanager
def as_warning(what: str) -> Iterator[None]:
    """Turns any error into one line on stderr, where what fails is not what was asked for."""
    try:
        yield
    except Exception as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        import logging  # here, since --help need not wait for it

        logging.getLogger(__name__).warning("%s (%s)", what, reason)


@contextlib.contextmanager
def as_input_error(what: str = "") -> Iterator[None]:
    """Turns the shape and value errors of tracing into one line that says where they come from."""
    try:
        yield
    except InputError:
        raise
    except (ValueError, TypeError) as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise InputError(": ".join(filter(None, [what, reason]))) from error


@contextlib.contextmanager
def as_one_line(what: str, form: str = "{}") -> Iterator[None]:
    """Turns whatever code that is not this package's raises into one line.

    Args:
        what: names what was called.
        form: says around the type and the first line of the error what went wrong.
    """
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        reason = f"{type(error).__name__}: {str(error).strip()}".partition("\n")[0]
        raise InputError(f"{what}: {form.format(reason)}") from error
