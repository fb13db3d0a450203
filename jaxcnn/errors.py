"""The errors that a caller tells apart; importing them imports nothing else of this package."""

import contextlib
import signal
from collections.abc import Iterator


class InputError(ValueError):
    """A fault in what the user gave: one line with the field or file, its value, and the remedy."""


class Diverged(Exception):
    """The loss or a parameter is no longer finite; the message says at which step."""


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
def as_input_error(what: str = "") -> Iterator[None]:
    """Turns the shape and value errors of tracing into one line that says where they come from."""
    try:
        yield
    except InputError:
        raise
    except (ValueError, TypeError) as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise InputError(": ".join(filter(None, [what, reason]))) from error
