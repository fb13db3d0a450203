"""Saves checkpoints through Orbax, and seals each with a sha256 manifest over every file.

A checkpoint counts once its manifest stands, so a run killed while saving falls back to the one
before. There are only arrays and strict JSON in it: restoring never runs code from a file.

Two things are done here that Orbax also seems to offer:

- The manifest, because Orbax has no digest of its own: it restores some flipped bits of an array
  without an error.
- Deleting, because Orbax's preservation policies act within the saving of a checkpoint. The oldest
  would go before the new one is sealed, by default file by file with its manifest among them, so
  that a kill could leave half of one that still counts; and which of the best must stay is known
  only once the latest that names them is sealed.

Where several processes train together, each writes its part of the arrays into a folder that all
of them see; the first one looks, seals with the manifest, and deletes.
"""

import hashlib
import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp

from jaxcnn.errors import InputError
from jaxcnn.train import processes
from jaxcnn.train.files import write_text

log = logging.getLogger(__name__)

MANIFEST = "manifest.sha256"  # in the format of sha256sum(1)


class Checkpoints:
    """A folder of checkpoints, one subfolder per step.

    Args:
        folder: the folder, which is created if it is not there, unless ``read_only``.
        keep: how many of the newest stay; with None all of them, until :meth:`keep_only`.
        read_only: whether the folder is only read, and nothing in it is changed.
    """

    def __init__(self, folder: Path, *, keep: int | None = 2, read_only: bool = False) -> None:
        self.folder = folder.absolute()
        self.keep = keep
        self.read_only = read_only
        if not read_only:
            processes.on_first(self._clean)
        self._manager = ocp.CheckpointManager(
            self.folder,
            options=ocp.CheckpointManagerOptions(
                cleanup_tmp_directories=not read_only, create=not read_only, read_only=read_only
            ),
        )

    def _clean(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        for path in self.folder.iterdir():
            # Left by a run that was killed while it saved, or while it deleted.
            if _step(path) is not None and not (path / MANIFEST).exists():
                shutil.rmtree(path)

    def steps(self) -> list[int]:
        """Returns the steps of the checkpoints whose manifest stands, the newest first."""
        return processes.on_first(lambda: sealed_steps(self.folder))

    def save(self, step: int, state: Any, meta: dict[str, Any]) -> None:
        """Saves a checkpoint, and returns when it is whole on disk.

        Args:
            step: the number of the checkpoint; one that is there already stays as it is.
            state: pytree of arrays.
            meta: what is stored with it as JSON.
        """
        if step in self.steps():
            return
        meta = {**meta, "arrays": _describe(state)}
        items = ocp.args.Composite(state=ocp.args.StandardSave(state), meta=ocp.args.JsonSave(meta))
        if not self._manager.save(step, args=items, force=True):
            raise OSError(f"checkpoint {self._path(step)} was not saved")
        self._manager.wait_until_finished()
        processes.on_first(lambda: self._seal(step))

    def _seal(self, step: int) -> None:
        """Writes the manifest, then deletes what is older than the newest ``keep``."""
        write_text(self._path(step) / MANIFEST, _digests(self._path(step)))
        if self.keep is not None:
            for old in sealed_steps(self.folder)[self.keep :]:
                self._delete(old)

    def restore(self, like: Any) -> tuple[Any, dict[str, Any]] | None:
        """Restores the newest whole checkpoint as ``(state, meta)``; None if there is none at all.

        A damaged one is reported and, unless the folder is read-only, set aside under
        ``damaged/`` if an older one is whole.

        Args:
            like: pytree of ``jax.ShapeDtypeStruct`` with shardings, or of arrays.

        Raises:
            InputError: checkpoints exist and none is whole, or the arrays differ from ``like`` in
                name, type or shape.
        """
        for _ in range(3):
            try:
                return self._restore(like)
            except FileNotFoundError:  # deleted by the run that is writing here: look again
                continue
        return self._restore(like)

    def _restore(self, like: Any) -> tuple[Any, dict[str, Any]] | None:
        step = processes.on_first(self._newest_whole)
        if step is None:
            return None
        self._manager.reload()
        meta = self._manager.restore(
            step, args=ocp.args.Composite(meta=ocp.args.JsonRestore())
        ).meta
        _check_same(meta.pop("arrays"), _describe(like), self._path(step))
        target = jax.tree.map(ocp.utils.to_shape_dtype_struct, like)
        restored = self._manager.restore(
            step, args=ocp.args.Composite(state=ocp.args.StandardRestore(target))
        )
        return restored.state, meta

    def _newest_whole(self) -> int | None:
        damaged: dict[int, str] = {}
        for step in sealed_steps(self.folder):
            fault = damage(self._path(step))
            if fault is not None:
                damaged[step] = fault
                continue
            for bad, why in damaged.items():
                log.warning(
                    "checkpoint %s is damaged: %s; using the one before", self._path(bad), why
                )
                if not self.read_only:
                    self._set_aside(bad)
            return step
        if damaged:
            listed = "; ".join(f"{self._path(step)}: {why}" for step, why in damaged.items())
            raise InputError(f"no whole checkpoint is left: {listed}")
        return None

    def drop_after(self, step: int) -> None:
        """Deletes the checkpoints behind a step, which a resumed run will make again."""
        self.keep_only(lambda held: held <= step)

    def keep_only(self, wanted: Callable[[int], bool]) -> None:
        """Deletes the checkpoints of the steps that are not wanted."""

        def drop() -> None:
            for step in sealed_steps(self.folder):
                if not wanted(step):
                    self._delete(step)

        processes.on_first(drop)
        self._manager.reload()

    def close(self) -> None:
        """Ends Orbax's threads."""
        self._manager.close()

    def _path(self, step: int) -> Path:
        return self.folder / str(step)

    def _delete(self, step: int) -> None:
        (self._path(step) / MANIFEST).unlink()  # first, so that half of it never counts
        shutil.rmtree(self._path(step))

    def _set_aside(self, step: int) -> None:
        aside = self.folder / "damaged"
        aside.mkdir(exist_ok=True)
        target = aside / str(step)
        if target.exists():
            shutil.rmtree(target)
        self._path(step).rename(target)


def sealed_steps(folder: Path) -> list[int]:
    """Returns the steps of the checkpoints in a folder whose manifest stands, the newest first."""
    if not folder.is_dir():
        return []
    paths = [p for p in folder.iterdir() if (p / MANIFEST).exists()]
    return sorted((s for s in map(_step, paths) if s is not None), reverse=True)


def _step(path: Path) -> int | None:
    return int(path.name) if path.name.isdigit() else None


def damage(checkpoint: Path) -> str | None:
    """Says how a checkpoint's files differ from its manifest; None if they do not."""
    manifest = checkpoint / MANIFEST
    try:
        stored = manifest.read_bytes().decode("ascii", "replace")
    except OSError:
        return f"{MANIFEST} is missing"
    found = _digests(checkpoint)
    if stored == found:
        return None
    changed = sorted({line[66:] for line in set(stored.splitlines()) ^ set(found.splitlines())})
    return f"its files do not match {MANIFEST}: {', '.join(changed[:3])}"


def _digests(checkpoint: Path) -> str:
    files = sorted(p for p in checkpoint.rglob("*") if p.is_file() and p.name != MANIFEST)
    return "".join(
        f"{hashlib.sha256(p.read_bytes()).hexdigest()}  {p.relative_to(checkpoint).as_posix()}\n"
        for p in files
    )


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
