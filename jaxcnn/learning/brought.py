"""Keeps with a run what was brought to it: names, digests and copies of their sources.

``brought.json`` names each object by the field of the config that holds it; ``brought/`` has the
source files, to be read by people. Nothing here is ever run or imported again.
"""

import ast
import difflib
import hashlib
import itertools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from jaxcnn.config import Experiment, brought_in
from jaxcnn.config.brought import Brought, source_of
from jaxcnn.errors import InputError
from jaxcnn.learning import files, processes
from jaxcnn.learning.records import Source

FILE = "brought.json"


def keep(folder: Path, experiment: Experiment, step: int) -> None:
    """Writes brought.json and copies of the sources, where anything was brought.

    What a run learned with before stays: its copy, and in brought.json up to which step.

    Args:
        folder: the run folder.
        experiment: what is trained.
        step: the step at which the run begins or goes on.
    """
    objects = brought_in(experiment)
    if objects:
        processes.on_first(lambda: _keep(folder, objects, step))


def _keep(folder: Path, objects: Mapping[str, Brought], step: int) -> None:
    place = folder / "brought"
    if place.is_symlink():
        raise InputError(f"workdir {place}: cannot be written (must be a folder, and no link)")
    place.mkdir(exist_ok=True)
    former, known = _read(folder), {}
    for field, brought in objects.items():
        name, text, digest = _source(brought)
        record: dict[str, Any] = {"name": brought.name, "file": name, "sha256": digest}
        old = former.get(field)
        if old is not None:
            before = msgspec.to_builtins(old.before)
            if _changes(folder, {field: brought}):
                before = [*before, {"sha256": old.sha256, "until_step": step}]
            record["before"] = before
        known[field] = record
        if name and digest:
            files.write_text(_copy(folder, name, digest), text)
    files.write_json(folder / FILE, known)


def is_recorded(folder: Path) -> bool:
    """Tells whether something was brought to the run in a folder."""
    return (folder / FILE).exists()


def _read(folder: Path) -> dict[str, Source]:
    file = folder / FILE
    return files.read(file, dict[str, Source]) if file.exists() else {}


def _source(brought: Brought) -> tuple[str | None, str, str | None]:
    """Returns file name, text and digest of an object's source, where that is known."""
    name, text = (brought.has_source and source_of(brought.target)) or (None, "")
    return name, text, hashlib.sha256(text.encode()).hexdigest() if name else None


def _copy(folder: Path, file: str, digest: str) -> Path:
    """Returns where a copy lies: under a name that nothing imports or runs, one for each source."""
    return folder / "brought" / f"{Path(file).name}.{digest[:8]}.txt"


def changes(folder: Path, experiment: Experiment) -> list[str]:
    """Returns a line on each source that is another than when the run began.

    What ``config()`` does in an experiment file, comments and docstrings do not count: the config
    is compared by itself. They do where an object was made in it, such as a lambda.

    Raises:
        InputError: brought.json is damaged.
    """
    objects = brought_in(experiment)
    found = processes.on_first(lambda: _changes(folder, objects)) if objects else []
    return list(found)


def _changes(folder: Path, objects: Mapping[str, Brought]) -> list[str]:
    known, changed = _read(folder), dict[str, list[str]]()
    for field, brought in objects.items():
        before = known.get(field)
        name, now, digest = _source(brought)
        if before is None or before.file is None or before.sha256 in (None, digest):
            continue
        assert before.sha256 is not None
        line = f"{before.file} has changed since the run began"
        try:
            copy = _copy(folder, before.file, before.sha256)
            then = files.read_bytes(copy, follow=False).decode()
        except (InputError, UnicodeDecodeError):
            then = ""
        if then and name:
            whole = "<" in brought.name
            was, is_now = _meaning(then, whole), _meaning(now, whole)
            if was == is_now:
                continue
            line += f", {_first(was, is_now)}"
        changed.setdefault(line, []).append(brought.title)
    return [f"{', '.join(titles)}: {line}" for line, titles in changed.items()]


def _meaning(source: str, whole: bool) -> str:
    """Returns what a source says but for comments, docstrings and, unless whole, ``config()``."""
    try:
        tree = ast.parse(source)
        if not whole:
            tree.body = [part for part in tree.body if getattr(part, "name", None) != "config"]
        for node in ast.walk(tree):
            body = getattr(node, "body", None)
            match body:
                case [ast.Expr(value=ast.Constant()), *rest]:
                    node.body = rest  # type: ignore[attr-defined]
        return ast.unparse(tree)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return source


def _first(then: str, now: str) -> str:
    """Returns the first lines that differ, of two texts that do."""
    before, after = then.splitlines(), now.splitlines()
    matched = difflib.SequenceMatcher(None, before, after, autojunk=False).get_opcodes()
    a, b, c, d = next(place for kind, *place in matched if kind != "equal")
    old, new = (" ".join(" ".join(part).split()) for part in (before[a:b], after[c:d]))
    pairs = zip(old, new, strict=False)
    same = sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], pairs))
    start = max(0, same - 20) if same > 40 else 0
    return f"{_excerpt(old, start)} is now {_excerpt(new, start)}"


def _excerpt(text: str, start: int) -> str:
    """Returns 70 characters of a line from a place on, in quotes."""
    more = "..." if len(text) > start + 70 else ""
    return repr(f"{'...' if start else ''}{text[start : start + 70]}{more}")
