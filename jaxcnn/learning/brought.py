"""Keeps with a run what was brought to it: names, digests and copies of their sources.

``brought.json`` names each object by the field of the config that holds it; ``brought/`` has the
source files, to be read by people. Nothing here is ever run or imported again.
"""

import ast
import difflib
import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jaxcnn.config import Experiment, brought_in
from jaxcnn.config.brought import Brought, source_of
from jaxcnn.errors import InputError
from jaxcnn.learning import files, processes
from jaxcnn.learning.records import Source


def keep(folder: Path, experiment: Experiment) -> None:
    """Writes brought.json and the copies, where anything was brought."""
    objects = brought_in(experiment)
    if objects:
        processes.on_first(lambda: _keep(folder, objects))


def _keep(folder: Path, objects: Mapping[str, Brought]) -> None:
    known: dict[str, Any] = {}
    (folder / "brought").mkdir(exist_ok=True)
    for field, brought in objects.items():
        name, text = source_of(brought.target) or (None, "")
        digest = hashlib.sha256(text.encode()).hexdigest() if name else None
        known[field] = {"name": brought.name, "file": name, "sha256": digest}
        if name:
            files.write_text(_copy(folder, name), text)
    files.write_json(folder / "brought.json", known)


def _copy(folder: Path, file: str) -> Path:
    return folder / "brought" / f"{Path(file).name}.txt"  # which nothing imports or runs


def changes(folder: Path, experiment: Experiment) -> list[str]:
    """Returns a line on each object whose source is another than when the run began.

    What ``config()`` does in an experiment file, comments and docstrings do not count: the config
    is compared by itself.

    Raises:
        InputError: brought.json is damaged.
    """
    objects = brought_in(experiment)
    found = processes.on_first(lambda: _changes(folder, objects)) if objects else []
    return list(found)


def _changes(folder: Path, objects: Mapping[str, Brought]) -> list[str]:
    file = folder / "brought.json"
    if not file.exists():
        return []
    known, lines = files.read(file, dict[str, Source]), []
    for field, brought in objects.items():
        before = known.get(field)
        if before is None or before.file is None or before.sha256 is None:
            continue
        name, now = source_of(brought.target) or (None, "")
        if hashlib.sha256(now.encode()).hexdigest() == before.sha256:
            continue
        try:
            then = files.read_bytes(_copy(folder, before.file), follow=False).decode()
        except (InputError, UnicodeDecodeError):
            then = None
        if then is None or name is None:
            lines.append(f"{brought.title} has changed since the run began: {before.file}")
        elif (was := _meaning(then)) != (is_now := _meaning(now)):
            lines.append(f"{brought.title} has changed since the run began: {_first(was, is_now)}")
    return lines


def _meaning(source: str) -> str:
    """Returns what a source file says but for comments, docstrings and its ``config()``."""
    try:
        tree = ast.parse(source)
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
    old, new = (" ".join(" ".join(part).split())[:70] for part in (before[a:b], after[c:d]))
    return f"{old!r} is now {new!r}"
