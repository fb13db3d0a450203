"""What a run reaches on its test images, corrupted or not, as its folder keeps it."""

import contextlib
import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from jaxcnn.analysis.robustness import CURVES, Change, Found
from jaxcnn.errors import InputError
from jaxcnn.learning import files, records, run_folder
from jaxcnn.runs.changed import SEED

FILE = "corruptions.json"
FORMULAS = 1
"""Raised where corruptions come out otherwise: what was kept before is then computed again."""


class Kept:
    """The results of a run on its own test images, changed or not, which its folder keeps.

    Those of other checkpoints, and on other numbers of images, are kept beside them.

    Args:
        path: the file.
        about: what they are results of.
    """

    def __init__(self, path: Path, about: records.Corruptions) -> None:
        self._path, self._about = path, about

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
        now = records.Corruptions(
            formulas=FORMULAS,
            params_sha256=digest,
            test_sha256=about.test_sha256,
            test_files_sha256=about.test_files_sha256,
            limit=limit,
            seed=SEED,
            metric=run_folder.judged(folder).metrics[0].name,
        )
        return cls(folder / FILE, now)

    def found(self, changes: Sequence[Change]) -> dict[Change, Found]:
        """Returns the results of those changes of which some are kept."""
        known, held = {}, self._held(_whole(self._path))
        for change in changes:
            cell = held.get(change.kind or "none", {}).get(f"{change.level:g}")
            if cell is not None and change.kind not in CURVES:
                right = None if cell.right is None else _unpacked(cell)
                known[change] = Found(cell.values, cell.examples, right)
        return known

    def keep(self, found: Mapping[Change, Found]) -> None:
        """Adds results to what the file holds by now, and writes it if that is possible."""
        there = _whole(self._path)  # anew: another process may have added some
        held = self._held(there)
        for (kind, level), one in found.items():
            if kind in CURVES:
                continue
            bits = None if one.right is None else np.packbits(one.right > 0).tobytes().hex()
            values = {name: float(value) for name, value in one.values.items()}
            cell = records.Corrupted(values=values, examples=one.examples, right=bits)
            held.setdefault(kind or "none", {})[f"{level:g}"] = cell
        ours = msgspec.structs.replace(self._about, found=held, found_sha256=_digest(held))
        others = [one for one in there if self._is_beside(one)]
        content = records.KeptCorruptions(results=(*others, ours))
        # In a folder that may only be read, or where a link lies, they are made again each time.
        with contextlib.suppress(OSError, InputError):
            files.write_json(self._path, msgspec.to_builtins(content))

    def _held(self, there: Sequence[records.Corruptions]) -> dict[str, dict[str, Any]]:
        """Returns the results among those of a file, by kind and severity."""
        same = [one for one in there if _about(one) == self._about]
        return {kind: dict(cells) for one in same for kind, cells in one.found.items()}

    def _is_beside(self, one: records.Corruptions) -> bool:
        """Returns whether results of another checkpoint or limit are of these images too."""
        params, limit = self._about.params_sha256, self._about.limit
        other = (one.params_sha256, one.limit) != (params, limit)
        alike = msgspec.structs.replace(_about(one), params_sha256=params, limit=limit)
        return other and alike == self._about


def limits(folder: Path, digest: str) -> list[int | None]:
    """Returns on how many images results of some parameters are kept, if any are."""
    return [one.limit for one in _whole(folder / FILE) if one.params_sha256 == digest]


def _about(one: records.Corruptions) -> records.Corruptions:
    return msgspec.structs.replace(one, found={}, found_sha256="")


def _digest(found: Mapping[str, Mapping[str, records.Corrupted]]) -> str:
    return hashlib.sha256(msgspec.json.encode(found, order="deterministic")).hexdigest()


def _unpacked(cell: records.Corrupted) -> np.ndarray:
    """Returns for each image whether it was answered rightly, as 0 or 1.

    Raises:
        ValueError: what is held is no such bits.
    """
    bits = np.unpackbits(np.frombuffer(bytes.fromhex(cell.right or ""), np.uint8))
    if not 0 <= bits.size - cell.examples < 8 or bits[cell.examples :].any():
        raise ValueError(f"examples={cell.examples}: {bits.size} bits are held")
    return bits[: cell.examples].astype(np.float32)


def _whole(path: Path) -> list[records.Corruptions]:
    """Returns the results of a file that are whole; none if it is missing or damaged."""
    try:
        held = files.read(path, records.KeptCorruptions)
    except InputError:  # they are computed again
        return []
    return [one for one in held.results if one.found_sha256 == _digest(one.found) and _agree(one)]


def _agree(held: records.Corruptions) -> bool:
    """Returns whether all results are of the same images, and of what these say one by one."""
    cells = [cell for severities in held.found.values() for cell in severities.values()]
    if len({(cell.examples, cell.right is None) for cell in cells}) > 1:
        return False
    for cell in cells:
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
