"""Text from outside, shown as it is: a terminal, a chart or a page obeys and refuses none of it."""

import contextlib
import os
import re
import sys
from collections.abc import Iterator
from typing import Any

# Controls, marks and overrides of the writing direction, further line ends, and what stands for
# the bytes of a file name that is not UTF-8.
_UNSHOWN = re.compile(
    "[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]"
)


def printable(text: str, keep: str = "", longest: int | None = None) -> str:
    r"""Returns a text with escapes in place of characters that would not be shown.

    Args:
        text: any text.
        keep: characters that stay, such as line ends.
        longest: how many characters the text may have; of a longer one the middle is left out.

    >>> print(printable("a\x1b[2J\tb\n\udcff"))
    a\x1b[2J\tb\n\xff
    >>> printable("abcdefghi", longest=5)
    'ab…hi'
    """

    def escape(found: re.Match[str]) -> str:
        character = found[0]
        if character in keep:
            return character
        if "\udc80" <= character <= "\udcff":  # a byte, as Python writes those of file names
            return f"\\x{ord(character) - 0xDC00:02x}"
        return character.encode("unicode_escape").decode()

    shown = _UNSHOWN.sub(escape, text)
    if longest is None or len(shown) <= longest:
        return shown
    half = (longest - 1) // 2
    return f"{shown[:half]}…{shown[-half:]}"


def counted(number: int, noun: str) -> str:
    """Returns a number and its noun, which ends in s if they are several.

    >>> counted(1, "epoch"), counted(2000, "run")
    ('1 epoch', '2,000 runs')
    """
    return f"{number:,} {noun}{'s' if number != 1 else ''}"


def draws() -> bool:
    """Tells whether stdout is a terminal that may be drawn on, with colours and a moving cursor.

    Elsewhere, as in a pipe, a dumb terminal, or where NO_COLOR is set, it gets plain lines.
    """
    dumb = os.environ.get("TERM", "dumb").lower() in ("dumb", "unknown", "")
    return sys.stdout.isatty() and not dumb and not os.environ.get("NO_COLOR")


def complain(line: str) -> None:
    """Prints one line about a problem on stderr."""
    print(f"jaxcnn: {printable(line, longest=2000)}", file=sys.stderr)


class _Shown:
    """Writes printable text to a stream, which has no more to say after it has failed.

    Args:
        stream: the stream.
        name: what an error calls the stream; without a name, errors are passed over.
    """

    def __init__(self, stream: Any, name: str | None) -> None:
        self.rich_proxied_file = stream  # where rich looks for the stream, whose colours are meant
        self._name = name

    def __getattr__(self, name: str) -> Any:
        return getattr(self.rich_proxied_file, name)

    def write(self, text: str) -> int:
        """Writes a text and returns its length."""
        with self._failing():
            self.rich_proxied_file.write(printable(text, keep="\n\t"))
        return len(text)

    def flush(self) -> None:
        """Hands on what was written."""
        with self._failing():
            self.rich_proxied_file.flush()

    def close(self) -> None:
        """Closes nothing: there is more to say."""
        self.flush()

    @contextlib.contextmanager
    def _failing(self) -> Iterator[None]:
        """Names the stream in an error; what is still in its buffer must not fail once more."""
        try:
            yield
        except OSError as error:
            with contextlib.suppress(OSError), open(os.devnull, "w") as nothing:  # noqa: PTH123
                os.dup2(nothing.fileno(), self.fileno())
            if self._name:
                raise OSError(error.errno, error.strerror, self._name) from None


@contextlib.contextmanager
def shown() -> Iterator[None]:
    """Makes stdout and stderr take any text, and nothing in it but line ends and tabs take effect.

    A stream that was closed takes the text and drops it.
    """
    for number in (0, 1, 2):  # else the next file would be opened in the place of stdout
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
    before: tuple[Any, Any] = (sys.stdout, sys.stderr)
    out, err = (stream or open(os.devnull, "w") for stream in before)  # noqa: PTH123, SIM115
    for stream in (out, err):
        with contextlib.suppress(AttributeError):
            stream.reconfigure(errors="backslashreplace")
    sys.stdout, sys.stderr = _Shown(out, "standard output"), _Shown(err, None)
    try:
        yield
    finally:
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError, ValueError):
                stream.flush()
        sys.stdout, sys.stderr = out, err
