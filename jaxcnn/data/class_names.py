"""Finds the classes of one dataset among those of another, by their names or by a file of these."""

import difflib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from jaxcnn.data.contents import read_bytes
from jaxcnn.errors import InputError
from jaxcnn.text import printable

MAX_BYTES = 2**24
"""The largest file of names that is read."""


def match(
    theirs: Sequence[str],
    ours: Sequence[str],
    file: Path | None = None,
    used: Sequence[int] = (),
    *,
    shared: bool = False,
) -> np.ndarray:
    """Finds each class of another dataset among a run's classes.

    Names are the same if they are written alike or, where only one class is meant, if they differ
    in no more than case, and in underscores, hyphens and spaces. A file says the rest: lines
    ``their name = our name``, of which several may name one of ours, and none behind the sign
    leaves the images of a class out; or one of our names on each line, in the order of theirs.

    Args:
        theirs: the names of the other dataset's classes.
        ours: the names of the run's classes.
        file: the file of names.
        used: the places of theirs that have images; the others need no counterpart. By default all.
        shared: whether the file is one for several datasets, and may name classes of another.

    Returns:
        For each of theirs the place among ours, ``(k,)``; -1 where it is left out or not used.

    Raises:
        InputError: a class has no counterpart, or could have two; or the file cannot be read.

    >>> match(["T shirt", "bag"], ["Bag", "t-shirt"]).tolist()
    [1, 0]
    """
    known = _Names(ours)
    told = {} if file is None else _read(file, theirs, known, shared)
    needed = range(len(theirs)) if len(used) == 0 else sorted({*map(int, used)})
    found = np.full(len(theirs), -1)
    missing: list[str] = []
    by_name: dict[int, str] = {}
    for i in needed:
        name = theirs[i]
        if name in told:
            found[i] = told[name]
            continue
        place = known.place(name, "")
        if place is None:
            missing.append(name)
            continue
        if place in by_name:
            raise InputError(
                f"classes {_shown(by_name[place])} and {_shown(name)} both match "
                f"{_shown(ours[place])}; --classes says which class each is"
            )
        by_name[place] = name
        found[i] = place
    if missing:
        raise InputError(_unmatched(missing, len(needed), ours))
    if not (found >= 0).any():
        raise InputError("no class is left to evaluate on")
    return found


def _plain(name: str) -> str:
    """Returns a name without what may differ between two spellings of it.

    >>> _plain(" Great_white  Shark")
    'great white shark'
    """
    return " ".join(name.casefold().replace("_", " ").replace("-", " ").split())


class _Names:
    """Finds names among those of a dataset's classes."""

    def __init__(self, names: Sequence[str]) -> None:
        self.names = names
        self._exact, self._alike = (_places(kind(name) for name in names) for kind in (str, _plain))

    def place(self, name: str, where: str) -> int | None:
        """Returns the place of the one class that has a name; None where none has.

        Raises:
            InputError: several have; begins with ``where``.
        """
        places = self._exact.get(name) or self._alike.get(_plain(name), [])
        if len(places) > 1:
            few = " and ".join(f"{_shown(self.names[i])} (class {i})" for i in places[:2])
            raise InputError(f"{where}the class {_shown(name)} may be {few}")
        return places[0] if places else None

    def nearest(self, name: str) -> str:
        """Returns the name that is most like another, quoted; empty where none is like it."""
        near = difflib.get_close_matches(name, self.names, n=1, cutoff=0.5)
        return _shown(near[0]) if near else ""


def _places(names: Iterable[str]) -> dict[str, list[int]]:
    found: dict[str, list[int]] = {}
    for place, name in enumerate(names):
        found.setdefault(name, []).append(place)
    return found


def _unmatched(missing: Sequence[str], number: int, ours: Sequence[str]) -> str:
    """Says which names are not among the run's classes, and which of these are the nearest."""
    plain = {_plain(our): our for our in ours}
    first = missing[0]
    near = difflib.get_close_matches(_plain(first), plain, n=3, cutoff=0.5)
    names = [plain[name] for name in near] or ours[:5]
    listed = printable(", ".join(names), longest=200)
    more = "" if near or len(ours) <= 5 else ", ..."
    known = f"the nearest are {listed}" if near else f"these are {listed}{more}"
    how = "" if len(missing) == 1 else f" ({len(missing):,} of {number:,} are not)"
    return (
        f"the class {_shown(first)} is none of the run's {len(ours):,} classes{how}: {known}; "
        "--classes FILE maps names that differ"
    )


def _shown(name: str) -> str:
    return repr(printable(name, longest=80))


def _read(file: Path, theirs: Sequence[str], ours: _Names, shared: bool) -> Mapping[str, int]:
    """Returns the places of the run's classes by the names of the other's, as a file says them.

    Raises:
        InputError: it cannot be read, names no class, or one of theirs twice.
    """
    what = f"--classes {printable(str(file))}"
    try:
        text = read_bytes(file, MAX_BYTES).decode("utf-8-sig")
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"{what}: cannot be read as lines of names ({reason})") from error
    numbered = [(i, line.strip()) for i, line in enumerate(text.split("\n"), start=1)]
    lines = [(i, line) for i, line in numbered if line and not line.startswith("#")]
    in_order = not any("=" in line for _, line in lines)
    if in_order and len(lines) != len(theirs):
        raise InputError(
            f"{what}: must have lines 'their name = our name', or one of our names for each of "
            f"the {len(theirs):,} classes; has {len(lines):,} lines"
        )
    known, found = _Names(theirs), dict[str, int]()
    for place, (i, line) in enumerate(lines):
        at = f"{what}: line {i}: "
        their, our = (theirs[place], line) if in_order else _pair(line, known, at, shared)
        if their is None:
            continue
        if their in found:
            raise InputError(f"{at}names {_shown(their)} a second time")
        found[their] = -1 if not our else _named(our, ours, at)
    return found


def _pair(line: str, theirs: _Names, at: str, shared: bool) -> tuple[str | None, str]:
    """Returns one of their names and what stands behind the sign, which may be in a name too.

    The name is None if it is not among theirs, in a file that is one for several datasets.

    Raises:
        InputError: there is no sign, or none of theirs before it; begins with ``at``.
    """
    signs = [i for i, letter in enumerate(line) if letter == "="]
    if not signs:
        raise InputError(f"{at}must be 'their name = our name', is {_shown(line)}")
    for sign in signs:
        place = theirs.place(line[:sign].strip(), at)
        if place is not None:
            return theirs.names[place], line[sign + 1 :].strip()
    if shared:
        return None, ""
    name = line[: signs[0]].strip()
    near = theirs.nearest(name) or _shown(theirs.names[0])
    raise InputError(f"{at}{_shown(name)} is no class of the data, which have {near}")


def _named(name: str, ours: _Names, at: str) -> int:
    """Returns the place of a class of the run that a file names.

    Raises:
        InputError: there is none; begins with ``at``.
    """
    place = ours.place(name, at)
    if place is None:
        near = ours.nearest(name)
        hint = f", perhaps {near} is meant" if near else ""
        raise InputError(f"{at}{_shown(name)} is none of the run's classes{hint}")
    return place
