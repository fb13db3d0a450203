"""Words, JSON values and ways to spoil a file, which the tables of cases combine."""

import json
import os
import random
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

WORDS = {
    "empty": "",
    "a space": " ",
    "a dash": "-",
    "minus one": "-1",
    "zero": "0",
    "a half": "0.5",
    "infinity": "1e999",
    "not a number": "nan",
    "a huge float": "1e308",
    "a tiny float": "1e-320",
    "beyond 64 bits": "99999999999999999999",
    "beyond 31 bits": "2147483648",
    "5000 digits": "9" * 5000,
    "an Arabic three": "٣",
    "a superscript two": "²",
    "digits with an underscore": "1_000",
    "hexadecimal": "0x10",
    "None": "None",
    "True": "True",
    "a bracket": "[",
    "markup": "[/a]",
    "mathematics": "$x_1$",
    "a tuple": "(1, 2)",
    "an object": '{"a": 1}',
    "a percent sign": "%s",
    "an escape": "\x1b[31m",
    "a line break": "a\nb",
    "a carriage return": "a\rb",
    "not UTF-8": "\udcff",
    "an accent": "é" * 200,
    "100,000 letters": "x" * 100_000,
    "nested brackets": "(" * 5000,
    "a regular expression that backtracks": "(a+)+$",
}

NO_PATH = {"a space", "a half", "zero", "True", "None"}  # fine names of files: nothing is wrong


class Raw(str):
    """JSON as it is written into a document."""


VALUES: dict[str, Any] = {
    "null": None,
    "true": True,
    "zero": 0,
    "minus one": -1,
    "a half": 0.5,
    "a whole float": 3.0,
    "NaN": Raw("NaN"),
    "Infinity": Raw("Infinity"),
    "1e999": Raw("1e999"),
    "beyond 64 bits": 10**30,
    "beyond 31 bits": 2**40,
    "5000 digits": Raw("9" * 5000),
    "an empty text": "",
    "a word": "x",
    "a lone surrogate": Raw('"\\ud800"'),
    "a text with a NUL": "a\0b",
    "a line break": "a\nb",
    "a path upward": "../../x",
    "markup": "[/a]$x_1$<b>",
    "100,000 letters": "x" * 100_000,
    "an empty list": [],
    "a list of one": [1],
    "a list of lists": [[1], [2]],
    "1000 numbers": [1] * 1000,
    "a deep list": Raw("[" * 900 + "]" * 900),
    "an empty object": {},
    "an object": {"x": 1},
}


def paths(document: Any, at: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yields the path to every value of a document but the document itself."""
    if isinstance(document, dict | list):
        pairs = document.items() if isinstance(document, dict) else enumerate(document[:2])
        for key, value in pairs:
            yield (*at, key)
            yield from paths(value, (*at, key))


def replaced(document: Any, path: Sequence[Any], value: Any) -> str:
    """Returns the JSON of a document with one value replaced, or with ... left out."""
    changed = json.loads(json.dumps(document))
    place = changed
    for key in path[:-1]:
        place = place[key]
    if value is ...:
        del place[path[-1]]
    else:
        place[path[-1]] = "RAW" if isinstance(value, Raw) else value
    text = json.dumps(changed, indent=1)
    return text.replace('"RAW"', value) if isinstance(value, Raw) else text


def _as(content: bytes) -> Callable[[Path], object]:
    return lambda path: path.write_bytes(content)


def _instead(make: Callable[[Path], object]) -> Callable[[Path], object]:
    def spoil(path: Path) -> None:
        path.unlink(missing_ok=True)
        make(path)

    return spoil


RUIN: dict[str, Callable[[Path], object]] = {
    "missing": lambda path: path.unlink(),
    "empty": _as(b""),
    "half": lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
    "a byte short": lambda path: path.write_bytes(path.read_bytes()[:-2]),
    "twice": lambda path: path.write_bytes(path.read_bytes() * 2),
    "of NULs": _as(b"\0" * 100),
    "not UTF-8": _as(b'{"a": "\xff"}'),
    "UTF-16": _as('{"a": 1}'.encode("utf-16")),
    "with a byte order mark": lambda path: path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes()),
    "nested": _as(b"[" * 100_000),
    "nested objects": _as(b'{"a":' * 100_000 + b"1" + b"}" * 100_000),
    "null": _as(b"null"),
    "a list": _as(b"[]"),
    "a number": _as(b"1"),
    "a text": _as(b'"x"'),
    "an empty object": _as(b"{}"),
    "NaN": _as(b"NaN"),
    "a key twice": _as(b'{"name": 1, "name": 2}'),
    "a pickle": _as(b"\x80\x04N."),
    "a folder": _instead(Path.mkdir),
    "a FIFO": _instead(os.mkfifo),
    "a link to itself": _instead(lambda path: path.symlink_to(path.name)),
    "a link to nothing": _instead(lambda path: path.symlink_to("nothing")),
    "a link to another file": _instead(lambda path: path.symlink_to("/etc/passwd")),
    "a link to a folder": _instead(lambda path: path.symlink_to("/etc")),
    "a device": _instead(lambda path: os.mknod(path, 0o20666, os.makedev(1, 5))),  # /dev/zero
}
if os.getuid():
    del RUIN["a device"]  # only root can make one


def flipped(path: Path, seed: int) -> None:
    """Flips one bit of a file, at a place that the seed draws."""
    content = bytearray(path.read_bytes())
    if content:
        content[random.Random(seed).randrange(len(content))] ^= 1 << seed % 8
    path.write_bytes(content)
