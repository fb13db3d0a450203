"""Saves checkpoints through Orbax, each of which appears whole, by one rename, or not at all.

There are only arrays and strict JSON in a checkpoint: restoring never runs code from a file. It is
written as ``saving-STEP``, sealed with a sha256 manifest over every file, and only then renamed to
``STEP``; it is renamed to ``deleting-STEP`` before it is deleted. So a kill leaves nothing under
the name of a step but what is whole, and what is not whole there was damaged by somebody else: it
is never deleted, but reported and set aside.

The manifest is there because Orbax has no digest of its own: it restores some flipped bits of an
array without an error.

Where several processes train together, each writes its part of the arrays into a folder that all
of them see; the first one looks, seals, renames and deletes.
"""

import contextlib
import gc
import hashlib
import inspect
import json
import logging
import os
import re
import shutil
import stat
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields, is_dataclass, replace
from itertools import count
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp

from jaxcnn.errors import InputError
from jaxcnn.learning import processes
from jaxcnn.learning.files import write_text

log = logging.getLogger(__name__)

MANIFEST = "manifest.sha256"  # in the format of sha256sum(1)
NEEDED = ("_CHECKPOINT_METADATA", "meta/metadata", "state/_METADATA", "state/manifest.ocdbt")
"""Files without which Orbax restores nothing."""
CUT_SHORT = re.compile(r"(saving|deleting)-\d+|(saving-)?\d+\.orbax-checkpoint-tmp.*")
"""Names of what a run leaves that is killed while it saves or deletes, at any version."""


class Checkpoints:
    """A folder of checkpoints, one subfolder per step.

    Args:
        folder: the folder, which is created if it is not there, unless ``read_only``.
        keep: how many of the newest stay; with None all of them, until :meth:`keep_only`.
        read_only: whether the folder is only read, and nothing in it is changed.
    """

    def __init__(self, folder: Path, *, keep: int | None = 2, read_only: bool = False) -> None:
        self.folder = folder.absolute()
        self.damaged = self.folder / "damaged"
        self.keep = keep
        self.read_only = read_only
        if not read_only:
            processes.on_first(self._clean)
        self._orbax = ocp.Checkpointer(ocp.CompositeCheckpointHandler())

    def _clean(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        for path in self.folder.iterdir():
            if CUT_SHORT.fullmatch(path.name):
                _remove(path)

    def steps(self) -> list[int]:
        """Returns the steps of the checkpoints, damaged ones among them, the newest first."""
        return processes.on_first(lambda: steps_in(self.folder))

    def save(self, step: int, state: Any, meta: dict[str, Any]) -> None:
        """Saves a checkpoint, and returns when it is whole on disk.

        Args:
            step: the number of the checkpoint; one that is there and whole stays as it is.
            state: pytree of arrays.
            meta: what is stored with it as JSON.

        Raises:
            OSError: it cannot be written; those before it stand.
        """
        if processes.on_first(lambda: self._is_there(step)):
            return
        meta = {**meta, "step": step, "arrays": _describe(state)}
        items = ocp.args.Composite(state=ocp.args.StandardSave(state), meta=ocp.args.JsonSave(meta))
        unsealed = self.folder / f"saving-{step}"
        with _one_error(unsealed):
            self._orbax.save(unsealed, args=items, force=True)
        processes.on_first(lambda: self._seal(unsealed, step))

    def _is_there(self, step: int) -> bool:
        self.folder.stat()  # Orbax would make it anew where somebody has removed it
        if step not in steps_in(self.folder):
            return False
        fault = damage(self._path(step))
        if fault is not None:
            self._set_aside(step, f"{fault}; saving it anew")
        return fault is None

    def _seal(self, unsealed: Path, step: int) -> None:
        """Makes a checkpoint count, then deletes what is older than the newest ``keep``."""
        write_text(unsealed / MANIFEST, _digests(unsealed))
        unsealed.rename(self._path(step))
        if self.keep is not None:
            for old in steps_in(self.folder)[self.keep :]:
                self._delete(old)

    def restore(
        self, like: Any, check: Callable[[Path, int, dict[str, Any]], None] = lambda *_: None
    ) -> tuple[Any, dict[str, Any]] | None:
        """Restores the newest whole checkpoint as ``(state, meta)``; None if there is none at all.

        A damaged one is reported and, unless the folder is read-only, set aside under
        ``damaged/`` if an older one is whole.

        Args:
            like: pytree of ``jax.ShapeDtypeStruct`` with shardings, or of arrays.
            check: given the path, the step by its name and meta, before any array is read; it
                raises InputError to refuse the checkpoint.

        Raises:
            InputError: checkpoints exist and none is whole, ``check`` refuses the newest whole one,
                or its arrays differ from ``like`` in name, type or shape.
        """
        for _ in range(3):
            with contextlib.suppress(_Vanished):  # deleted by the run that is writing here
                return self._restore(like, check)
        return self._restore(like, check)

    def _restore(self, like: Any, check: Callable[..., None]) -> tuple[Any, dict[str, Any]] | None:
        step = processes.on_first(self._newest_whole)
        if step is None:
            return None
        path = self._path(step)
        try:
            meta = processes.on_first(lambda: _read_meta(path))
            check(path, step, meta)
            _check_same(meta.pop("arrays"), _describe(like), path)
            target = jax.tree.map(ocp.utils.to_shape_dtype_struct, like)
            known = processes.on_first(lambda: _stored_fields(target, path))
            stored = {name: getattr(target, name) for name in known} if known else target
            items = ocp.args.Composite(state=ocp.args.StandardRestore(stored))
            with _one_error(path):
                found = self._orbax.restore(path, args=items).state
            return (replace(target, **found) if known else found), meta
        except (MemoryError, jax.errors.JaxRuntimeError):
            raise
        except Exception as error:
            if not path.exists():
                raise _Vanished(path) from error
            if isinstance(error, InputError):
                raise
            reason = str(error).strip().partition("\n")[0][:200] or type(error).__name__
            raise InputError(f"checkpoint {path}: cannot be restored ({reason})") from error

    def _newest_whole(self) -> int | None:
        damaged: dict[int, str] = {}
        for step in steps_in(self.folder):
            fault = damage(self._path(step))
            if fault is not None:
                damaged[step] = fault
                continue
            for bad, why in damaged.items():
                self._set_aside(bad, f"{why}; using the one before")
            return step
        if damaged:
            listed = "; ".join(f"{self._path(step)}: {why}" for step, why in damaged.items())
            raise InputError(
                f"no whole checkpoint is left: {listed}; put whole ones there, or delete "
                f"{self.folder.parent} to begin anew"
            )
        return None

    def drop_after(self, step: int) -> None:
        """Deletes the checkpoints behind a step, which a resumed run will make again."""
        self.keep_only(lambda held: held <= step)

    def keep_only(self, wanted: Callable[[int], bool]) -> None:
        """Deletes the checkpoints of the steps that are not wanted."""

        def drop() -> None:
            for step in steps_in(self.folder):
                if not wanted(step):
                    self._delete(step)

        processes.on_first(drop)

    def close(self) -> None:
        """Ends Orbax's threads."""
        self._orbax.close()

    def _path(self, step: int) -> Path:
        return self.folder / str(step)

    def _delete(self, step: int) -> None:
        doomed = self.folder / f"deleting-{step}"
        _remove(doomed)
        _remove(self._path(step).rename(doomed))

    def _set_aside(self, step: int, why: str) -> None:
        """Reports a damaged checkpoint, and keeps it out of the way, beside any earlier ones."""
        path = self._path(step)
        if not os.path.lexists(path):
            raise _Vanished(path)
        log.warning("checkpoint %s is damaged: %s", path, why)
        if not self.read_only:
            self.damaged.mkdir(exist_ok=True)
            names = (f"{step}-{number}" if number > 1 else f"{step}" for number in count(1))
            free = (aside for name in names if not os.path.lexists(aside := self.damaged / name))
            path.rename(next(free))


class _Vanished(FileNotFoundError):
    """A checkpoint was deleted by the run that is writing here, while it was being read."""


def _stored_fields(state: Any, checkpoint: Path) -> list[str]:
    """Returns the fields of a state that were written, where it is a dataclass.

    A field that is None holds no array, and versions that did not have it yet wrote nothing of it.
    """
    if not is_dataclass(state):
        return []
    tree = json.loads((checkpoint / "state/_METADATA").read_text(encoding="utf-8"))["tree_metadata"]
    written = {entry["key_metadata"][0]["key"] for entry in tree.values()}
    names = [field.name for field in fields(state)]
    return [name for name in names if name in written or getattr(state, name) is not None]


def steps_in(folder: Path) -> list[int]:
    """Returns the steps of the checkpoints in a folder, whole or not, the newest first.

    Whatever has the name of a step counts, so that nothing is overlooked that may be whole; other
    names, such as ``007``, are nobody's.
    """
    names = [path.name for path in folder.iterdir()] if folder.is_dir() else []
    return sorted(map(int, filter(re.compile("0|[1-9][0-9]{0,9}").fullmatch, names)), reverse=True)


def damage(checkpoint: Path) -> str | None:
    """Says what is wrong with a checkpoint's files; None if they are those of its manifest."""
    try:
        found = _digests(checkpoint)
        with (checkpoint / MANIFEST).open("rb") as file:
            stored = file.read(len(found) + 2**16).decode("ascii", "replace")
    except FileNotFoundError as error:
        return f"{Path(error.filename).name} is missing"
    except ValueError as error:
        return str(error)
    if stored != found:
        differ = sorted({line[66:] for line in set(stored.splitlines()) ^ set(found.splitlines())})
        if not all(differ) or not differ:  # a line without a path, or one line twice
            return f"its {MANIFEST} is malformed"
        return f"its files do not match {MANIFEST}: {', '.join(differ[:3])}"
    missing = [name for name in NEEDED if f"  {name}\n" not in found]
    return f"{missing[0]} is missing, also in {MANIFEST}" if missing else None


def _digests(checkpoint: Path) -> str:
    lines = []
    for path in sorted(_files(checkpoint)):
        if path.name != MANIFEST:
            with path.open("rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
            lines.append(f"{digest}  {path.relative_to(checkpoint).as_posix()}\n")
    return "".join(lines)


def _files(folder: Path) -> Iterator[Path]:
    """Yields the files in a folder and in those below it; refuses what leads out of it."""
    if not stat.S_ISDIR(folder.lstat().st_mode):
        raise ValueError(f"{folder.name} is not a folder")
    for path in folder.iterdir():
        mode = path.lstat().st_mode
        if stat.S_ISDIR(mode):
            yield from _files(path)
        elif stat.S_ISREG(mode):
            yield path
        else:
            raise ValueError(f"{path.name} is neither a file nor a folder")


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


@dataclass(frozen=True)
class _OfOthers:
    """Prints what cannot be raised, except for reads and writes that lost their event loop."""

    printed: Callable[[Any], object]

    def __call__(self, unraisable: Any) -> None:
        closed = str(unraisable.exc_value) == "Event loop is closed"  # as TensorStore finds it
        if not closed and not inspect.iscoroutine(unraisable.object):
            self.printed(unraisable)


def _is_not_abandoned(record: logging.LogRecord) -> bool:
    """Returns whether a line of asyncio's tells of anything but a task that Orbax left behind."""
    line = record.getMessage()
    return not ("never retrieved" in line and "orbax" in line)


@contextlib.contextmanager
def _one_error(path: Path) -> Iterator[None]:
    """Turns all that Orbax logs, prints and raises at one fault into one error.

    A fault of the disk becomes an OSError. Reads and writes that are still on their way would tell
    of it again and again: they are waited for, and what they leave is collected, in silence.
    TensorStore's own threads and Orbax's abandoned tasks, for which nobody can wait, are not heard
    from then on either.
    """
    loggers = [logging.getLogger(name) for name in ("absl", "asyncio")]
    levels, printed = [logger.level for logger in loggers], sys.unraisablehook
    threads = _threads()
    for logger in loggers:
        logger.setLevel(logging.CRITICAL + 1)
    if not isinstance(printed, _OfOthers):
        sys.unraisablehook = _OfOthers(printed)
    fault: Exception | None = None
    try:
        yield
    except Exception as error:
        for thread in _threads() - threads:
            threading.Thread.join(thread, timeout=10)  # Orbax's own would raise
        code = re.search(r"os_error_code='(\d+)'", str(error))
        fault = error
        if code is not None:
            fault = OSError(int(code[1]), os.strerror(int(code[1])), str(path))
        traceback.clear_frames(error.__traceback__)
    finally:
        if fault is not None:
            logging.getLogger("asyncio").addFilter(_is_not_abandoned)
            gc.collect()
        else:
            sys.unraisablehook = printed
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
    if fault is not None:
        raise fault


def _threads() -> set[threading.Thread]:
    return set(threading.enumerate())


def _read_meta(checkpoint: Path) -> dict[str, Any]:
    meta = json.loads((checkpoint / "meta" / "metadata").read_bytes())
    if not isinstance(meta, dict) or not isinstance(meta.get("arrays"), dict):
        raise InputError(f"checkpoint {checkpoint}: meta/metadata must hold an object with arrays")
    return meta


def _describe(state: Any) -> dict[str, list[Any]]:
    """Returns the type and shape of every array: Orbax would cast types silently."""
    return {
        jax.tree_util.keystr(path): [str(leaf.dtype), list(leaf.shape)]
        for path, leaf in jax.tree_util.tree_leaves_with_path(state)
    }


def _check_same(stored: dict[str, Any], wanted: dict[str, Any], path: Path) -> None:
    for name in sorted(stored.keys() | wanted.keys()):
        if stored.get(name) != wanted.get(name):
            raise InputError(
                f"checkpoint {path} holds another network: {name} is "
                f"{stored.get(name, 'missing')}, expected {wanted.get(name, 'nothing')}"
            )
