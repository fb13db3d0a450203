"""Reads small files into typed records, and writes files that are never seen half-written.

Only regular files are read and replaced: never a device, a FIFO, a socket or a folder. A path that
the user gives may lead over links (:func:`destination`). A file to which the program itself gives
the name, as those of a run folder, is not written where a link lies, since that leads elsewhere.
Folders may be links anywhere.
"""

import contextlib
import json
import os
import re
import reprlib
import secrets
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn, TypeVar, get_args, get_type_hints

import msgspec

from jaxcnn.errors import InputError
from jaxcnn.learning.records import Measured, gathered

T = TypeVar("T")

LARGEST = 2**26
"""Bytes up to which a file is read; none of those that are written here comes near."""

# ------------------------------------------------------------------------------- reading


def read(path: Path, kind: type[T]) -> T:
    """Reads a JSON file into a typed record; fields that the type lacks are passed over.

    Args:
        path: the file.
        kind: a struct of :mod:`jaxcnn.learning.records`, or another type that msgspec knows.

    Raises:
        InputError: the file is missing, is no JSON, lacks a field, or a field holds what its type
            does not accept; the message names file and field.
    """
    return _record(read_bytes(path), kind, str(path))


def read_lines(path: Path, kind: type[T]) -> Iterator[tuple[int, bytes, T | InputError]]:
    """Reads a file with a JSON value on each line.

    A last line without an end was cut short by a kill; if it cannot be read, it is left out.

    Args:
        path: the file.
        kind: the type of each line's record, as in :func:`read`.

    Yields:
        Each line's number and bytes, and its record or what is wrong with it.

    Raises:
        InputError: the file cannot be read at all.
    """
    *whole, last = read_bytes(path).split(b"\n")
    for number, line in enumerate([*whole, last], start=1):
        try:
            yield number, line, _record(line, kind, f"{path}: line {number}")
        except InputError as error:
            if number <= len(whole):
                yield number, line, error


def read_bytes(path: Path, *, follow: bool = True) -> bytes:
    """Reads a regular file of at most ``LARGEST`` bytes.

    Args:
        path: the file.
        follow: whether it may be a link.

    Raises:
        InputError: it is missing, is no regular file, is too large, or may not be read.
    """
    # Opening a FIFO would wait for a writer.
    flags = os.O_RDONLY | os.O_NONBLOCK | (0 if follow else os.O_NOFOLLOW)
    try:
        with open(path, "rb", opener=lambda name, _: os.open(name, flags)) as file:
            _refuse_special(os.fstat(file.fileno()), f"{path}: cannot be read")
            content = file.read(LARGEST + 1)
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such file; is {path.parent} a run folder?") from error
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from error
    if len(content) > LARGEST:
        raise InputError(f"{path}: cannot be read (has more than {LARGEST:,} bytes)")
    return content


def _record(content: bytes, kind: type[T], where: str) -> T:
    """Turns JSON into a record.

    Not with msgspec's own reader, which refuses half surrogates: they stand in JSON for the bytes
    of file names that are not UTF-8.
    """
    try:
        value = json.loads(content.decode(), parse_constant=_no_number)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{where} is damaged: cannot be read as JSON ({error})") from error
    if isinstance(value, dict) and isinstance(kind, type) and issubclass(kind, Measured):
        value = gathered(value, kind)
    try:
        return msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        raise InputError(f"{where} is damaged: {_fault(str(error), value, kind)}") from error
    except UnicodeError as error:  # such a half in the name of a field, which msgspec looks up
        raise InputError(f"{where} is damaged: holds half a character ({error})") from error


def _no_number(name: str) -> NoReturn:
    raise ValueError(f"{name} is not allowed in it")


def _fault(said: str, value: Any, kind: type) -> str:
    """Says in the words of the field's annotation what msgspec has found."""
    missing = re.search(r"missing required field `(\w+)`", said)
    if missing:
        return f"lacks {missing[1]}"
    field = re.search(r"at `\$\.(\w+)", said)
    if field is None:
        return f"must be an object, is {reprlib.repr(value)}"
    name = field[1]
    return f"{name}={reprlib.repr(value[name])}: must be {accepted(kind, name)}"


def accepted(kind: type, field: str) -> str:
    """Says what a field of a record accepts, in the words of its annotation."""
    annotation = get_type_hints(kind, include_extras=True)[field]
    choices = (annotation, *get_args(annotation))  # those of ``X | None`` too
    (words,) = [
        meta.description for choice in choices for meta in getattr(choice, "__metadata__", ())
    ]
    return words


# ------------------------------------------------------------------------------- writing


def write_json(path: Path, value: Any, *, lasting: bool = True) -> None:
    """Writes strict, indented JSON; see :func:`write_bytes`."""
    write_text(path, json.dumps(value, indent=2, allow_nan=False) + "\n", lasting=lasting)


def write_text(path: Path, text: str, *, lasting: bool = True) -> None:
    """Writes a text in UTF-8; see :func:`write_bytes`."""
    # Bytes of file names that are not UTF-8 are shown, not lost with the whole text.
    write_bytes(path, text.encode(errors="backslashreplace"), lasting=lasting)


def write_bytes(path: Path, content: bytes, *, lasting: bool = True) -> None:
    """Writes a file, or replaces one; a reader never sees half of it.

    Args:
        path: the file.
        content: what it will hold.
        lasting: waits until the disk holds it, which a file that soon changes again does not need.

    Raises:
        InputError: what lies there is no regular file.
        OSError: it cannot be written, as on a full disk; what was there before is still whole.
    """
    check_writable(path)
    partial = path.with_name(f".{secrets.token_hex(8)}.partial")  # no other writer has it
    try:
        with partial.open("xb") as file:
            file.write(content)
            file.flush()
            if lasting:
                os.fsync(file.fileno())
        partial.replace(path)
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error
    finally:
        with contextlib.suppress(OSError):  # it is gone, unless something went wrong
            partial.unlink()


def append_bytes(path: Path, content: bytes, *, create: bool = True) -> None:
    """Appends to a file, or begins one; a link is refused.

    Args:
        path: the file.
        content: what is appended.
        create: whether the file is made if it is not there.

    Raises:
        OSError: it cannot be written, as on a full disk.
    """
    flags = os.O_WRONLY | os.O_APPEND | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CREAT * create
    with open(path, "ab", opener=lambda name, _: os.open(name, flags, 0o666)) as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def destination(path: Path, option: str, begins: str) -> Path:
    """Returns the file that a path from the user leads to, after checking that it can be written.

    Links are followed, also one to nothing; missing folders are made.

    Args:
        path: the path as it was given.
        option: the option that it was given to, for the message.
        begins: how a file begins that may be replaced; what holds something else stays.

    Raises:
        InputError: it leads to something that is no regular file, or cannot be written.
    """
    fault = f"{option} {path}: cannot be written"
    with as_not_writable(fault):
        with contextlib.suppress(FileNotFoundError):
            _refuse_special(path.stat(), fault)
            with path.open("rb") as file:
                start = file.read(len(begins))
            if start not in (b"", begins.encode()):
                raise InputError(f"{fault} (holds something else, which would be lost)")
        found = Path(os.path.realpath(path))
        try_parent(found)
    return found


@contextlib.contextmanager
def as_not_writable(fault: str) -> Iterator[None]:
    """Turns what a path from the user leads to into an InputError that begins with the fault."""
    try:
        yield
    except OSError as error:
        raise InputError(f"{fault} ({error.strerror})") from error
    except InputError:
        raise
    except ValueError as error:  # a NUL in it
        raise InputError(f"{fault} ({error})") from error


def try_parent(path: Path) -> None:
    """Makes the folder that a path lies in, and tries whether it can be written into.

    Raises:
        OSError: it cannot, which is said now and not when the work is done.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=path.parent):
        pass


def check_writable(*paths: Path) -> None:
    """Checks that at each path lies a regular file that may be replaced, or nothing.

    Raises:
        InputError: names the first path where there is something else.
    """
    for path in paths:
        fault = f"{path}: cannot be written"
        try:
            with contextlib.suppress(FileNotFoundError):
                _refuse_special(path.lstat(), fault)
        except OSError as error:
            raise InputError(f"{fault} ({error.strerror})") from error


KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFLNK: "a link",
    stat.S_IFIFO: "a FIFO",
    stat.S_IFSOCK: "a socket",
}


def _refuse_special(found: os.stat_result, fault: str) -> None:
    if not stat.S_ISREG(found.st_mode):
        kind = KINDS.get(stat.S_IFMT(found.st_mode), "a device")
        raise InputError(f"{fault} (is {kind}, must be a regular file)")
