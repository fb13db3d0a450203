"""What a run reaches on its test images, corrupted or not, as its folder keeps it."""

import contextlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec
import numpy as np

from jaxcnn.analysis.robustness import CURVES, Change, Found
from jaxcnn.errors import InputError
from jaxcnn.learning import files, records, run_folder
from jaxcnn.runs.changed import SEED

FORMULAS = 1
"""Raised where corruptions come out otherwise: what was kept before is then computed again."""


class Kept:
    """The results of a run on its own test images, changed or not, which its folder keeps.

    Args:
        path: the file.
        about: what they are results of.
        held: the results, by kind and severity.
    """

    def __init__(
        self, path: Path, about: records.Corruptions, held: dict[str, dict[str, records.Corrupted]]
    ) -> None:
        self._path, self._about, self._held = path, about, held

    @classmethod
    def of(cls, folder: Path, digest: str, limit: int | None) -> "Kept | None":
        """Returns those of a run; None where nothing is known of its data, as of imported weights.

        Args:
            folder: the run folder.
            digest: of the parameters.
            limit: how many of the images are taken; None for all.
        """
        about = files.read(folder / "dataset.json", records.Dataset)
        if about.test_sha256 is None:
            return None
        path = folder / "corruptions.json"
        now = records.Corruptions(
            formulas=FORMULAS,
            params_sha256=digest,
            test_sha256=about.test_sha256,
            test_files_sha256=about.test_files_sha256,
            limit=limit,
            seed=SEED,
            metric=run_folder.judged(folder).metrics[0].name,
        )
        try:
            held = files.read(path, records.Corruptions)
        except InputError:  # missing, or damaged: computed again
            return cls(path, now, {})
        same = msgspec.structs.replace(held, found={}) == now
        return cls(path, now, dict(held.found) if same and _whole(held) else {})

    def found(self, changes: Sequence[Change]) -> dict[Change, Found]:
        """Returns the results of those changes of which some are kept."""
        known = {}
        for change in changes:
            cell = self._held.get(change.kind or "none", {}).get(f"{change.level:g}")
            if cell is not None and change.kind not in CURVES:
                right = None if cell.right is None else _unpacked(cell)
                known[change] = Found(cell.values, cell.examples, right)
        return known

    def keep(self, found: Mapping[Change, Found]) -> None:
        """Adds results, and writes the file if that is possible."""
        for (kind, level), one in found.items():
            if kind in CURVES:
                continue
            bits = None if one.right is None else np.packbits(one.right > 0).tobytes().hex()
            cell = records.Corrupted(values=dict(one.values), examples=one.examples, right=bits)
            self._held.setdefault(kind or "none", {})[f"{level:g}"] = cell
        # In a folder that may only be read, or where a link lies, they are made again each time.
        with contextlib.suppress(OSError, InputError):
            content = msgspec.structs.replace(self._about, found=self._held)
            files.write_json(self._path, msgspec.to_builtins(content))


def _unpacked(cell: records.Corrupted) -> np.ndarray:
    """Returns for each image whether it was answered rightly, as 0 or 1.

    Raises:
        ValueError: what is held is no such bits.
    """
    bits = np.unpackbits(np.frombuffer(bytes.fromhex(cell.right or ""), np.uint8))
    if not 0 <= bits.size - cell.examples < 8 or bits[cell.examples :].any():
        raise ValueError(f"examples={cell.examples}: {bits.size} bits are held")
    return bits[: cell.examples].astype(np.float32)


def _whole(held: records.Corruptions) -> bool:
    """Returns whether what a file holds of each image agrees with its figures."""
    for severities in held.found.values():
        for cell in severities.values():
            if held.metric not in cell.values or "loss" not in cell.values:
                return False
            if cell.right is None:
                continue
            try:
                share = float(_unpacked(cell).mean())
            except ValueError:
                return False
            if abs(share - cell.values[held.metric]) > 1e-6:
                return False
    return True
