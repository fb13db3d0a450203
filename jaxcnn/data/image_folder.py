"""Reads folders of image files with one subfolder for each class."""

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from jaxcnn.config import Data
from jaxcnn.config.checked import require
from jaxcnn.data import contents
from jaxcnn.data.held_out import hold_out, require_named
from jaxcnn.data.images import Fit, read_image, reading
from jaxcnn.errors import InputError
from jaxcnn.text import printable

SUFFIXES = frozenset(
    {".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".ppm", ".pgm"}
)
"""The files that count as images; what is in them is found from their first bytes."""


@dataclass(frozen=True)
class Files:
    """A split of image files, read when they are asked for.

    Attributes:
        root: the folder of the split.
        names: ``(n,)`` paths below it, as bytes, since these take less memory than text.
        labels: ``(n,)`` int32.
        image_shape: height, width and channels to which every image is brought.
        fit: how it is brought to them.
    """

    root: Path
    names: np.ndarray
    labels: np.ndarray
    image_shape: tuple[int, int, int]
    fit: Fit

    def __len__(self) -> int:
        """Returns the number of files."""
        return len(self.labels)

    def path(self, index: int) -> Path:
        """Returns the path of one of the files."""
        return self.root / os.fsdecode(bytes(self.names[index]))

    def take(self, index: np.ndarray) -> "Files":
        """Returns the split of some files only, by their places, or by a truth value for each.

        The classes take turns in the list of files: of the first, each has as many, if it has
        enough.
        """
        return replace(self, names=self.names[index], labels=self.labels[index])

    def read(self, index: np.ndarray) -> dict[str, np.ndarray]:
        """Reads files: ``image``, ``label`` and ``ok``, which is False where one cannot be read."""
        images = np.zeros((len(index), *self.image_shape), np.uint8)
        ok = np.ones(len(index), bool)
        for row, i in enumerate(index.tolist()):
            try:
                images[row] = read_image(self.path(i), self.image_shape, self.fit)
            except InputError:
                ok[row] = False
        return {"image": images, "label": self.labels[index], "ok": ok}

    def read_labels(self) -> np.ndarray:
        """Returns the labels of all files, which are not read for it."""
        return self.labels

    def fault(self, index: int) -> str:
        """Says in one line why a file cannot be read, and names it."""
        try:
            read_image(self.path(index), self.image_shape, self.fit)
        except InputError as error:
            return " ".join(str(error).split())
        return f"{printable(str(self.path(index)))}: could not be read before, but can be read now"

    def identity(self) -> list[np.ndarray]:
        """Returns names, labels and sizes of the files; :meth:`files_sha256` tells what is in."""
        return [self.names, self.labels, np.array([_size(self.path(i)) for i in range(len(self))])]

    def files_sha256(self) -> str:
        """Returns the sha256 of the names and bytes of all files; it does not depend on the fit.

        A file that cannot be read counts as one of zeros.
        """
        names = [bytes(name) for name in self.names]
        root = os.fspath(self.root)
        return contents.sha256_of([f"{root}/{os.fsdecode(name)}" for name in names], names)


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:  # a link to nowhere, or to itself
        return -1


HELD_OUT = ("test", "val", "validation")
"""Names of the folder that is held out; the first that is there counts."""
TEST_SHARE = 0.2
"""The share of a folder without splits that is held out, unless the config says another."""


def scan(config: Data) -> tuple[Files, Files, tuple[str, ...], Files | None]:
    """Finds the images under ``data.dir``: ``train/CLASS/...`` and ``test/CLASS/...`` (or val).

    A folder that holds ``CLASS/...`` alone is split in two.

    Returns:
        The training split, the held-out split, the classes in natural order (2 before 10), and the
        split to choose by if the config names one.

    Raises:
        InputError: a folder or its images are missing; the message names the folder.
    """
    if config.dir is None:
        raise InputError("data.dir=None: must be the folder that holds train/ and test/")
    root = Path(config.dir).expanduser()
    if config.image_size is None or config.fit == "pad":
        raise InputError(
            f"data.fit={config.fit!r} with data.image_size={config.image_size}: files may differ "
            "in size; must be data.image_size=224, say, with data.fit='resize' or 'crop'"
        )
    side, fit = reading(config)
    shape = (side, side, config.channels)
    held_out = next((s for s in HELD_OUT if (root / s).is_dir()), None)
    if root.is_dir() and not held_out and "train" not in _folders(root) and len(_folders(root)) > 1:
        classes = sorted(_folders(root), key=natural)
        whole = Files(root, *_listed(root, classes), shape, fit)
        _require_all(config, whole, classes)
        if isinstance(config.validation, str):
            require_named(config.validation, (), config)
        share = TEST_SHARE if config.test_share is None else config.test_share
        kept, held = hold_out(whole.labels, share, config.seed, "data.test_share", classes)
        return whole.take(kept), whole.take(held), tuple(classes), None
    if not (root / "train").is_dir() or held_out is None:
        raise InputError(
            f"data.dir={config.dir!r}: must hold the folders train and test (or val), "
            "with a folder for each class, or such folders alone"
        )
    together = f"None with the folders train and {held_out} in {printable(str(root))}"
    require("data.test_share", config.test_share, config.test_share is None, together)
    classes = sorted(_folders(root / "train"), key=natural)
    if not classes:
        raise InputError(f"data.dir={config.dir!r}: {root / 'train'} has no folders, one a class")
    names = ["train", held_out]
    if isinstance(config.validation, str):
        require_named(config.validation, sorted({*_folders(root)} - {*names}), config)
        names.append(config.validation)
    for split in names[1:]:
        unknown = sorted(set(_folders(root / split)) - set(classes))
        if unknown:
            folder = printable(str(root / split / unknown[0]))
            raise InputError(f"data.dir={config.dir!r}: {folder} is no class of {root / 'train'}")
    train, *others = (
        Files(root / split, *_listed(root / split, classes), shape, fit) for split in names
    )
    _require_all(config, train, classes)
    for files in others:
        if len(files) == 0:
            raise InputError(f"data.dir={config.dir!r}: {files.root} has no image files")
    return train, others[0], tuple(classes), others[1] if len(others) > 1 else None


def _require_all(config: Data, files: Files, classes: Sequence[str]) -> None:
    """Checks that there are images of every class."""
    for name, count in zip(classes, np.bincount(files.labels, minlength=len(classes)), strict=True):
        if count == 0:
            raise InputError(
                f"data.dir={config.dir!r}: {files.root / name} has no image files "
                f"({', '.join(sorted(SUFFIXES))})"
            )


def natural(name: str) -> tuple[list[tuple[bool, int, str]], str]:
    """Returns a key that sorts numbers by value, and the rest regardless of case.

    >>> sorted(["class10", "Class2", "class1"], key=natural)
    ['class1', 'Class2', 'class10']
    """
    parts = [p for p in re.split(r"([0-9]+)", name.casefold()) if p]
    return [(p.isdecimal(), int(p) if p.isdecimal() else 0, p) for p in parts], name


def _folders(path: Path) -> list[str]:
    return [p.name for p in path.iterdir() if p.is_dir() and not p.name.startswith(".")]


def _listed(root: Path, classes: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Returns names and labels of a split's images, the first of each class before the second."""
    found = [
        (rank, label, name)
        for label, class_name in enumerate(classes)
        if (root / class_name).is_dir()  # some classes may not be tested
        for rank, name in enumerate(_images(root, class_name))
    ]
    found.sort()
    names = np.array([os.fsencode(name) for _, _, name in found], dtype=bytes)
    return names, np.array([label for _, label, _ in found], np.int32)


def _images(root: Path, class_name: str) -> list[str]:
    """Lists the image files of a class at any depth; a folder that is reached twice counts once."""
    seen: set[tuple[int, int]] = set()
    found = []
    for name, below, files in os.walk(root / class_name, onerror=_refuse, followlinks=True):
        folder = Path(name)
        status = folder.stat()
        if (status.st_dev, status.st_ino) in seen:
            below.clear()
            continue
        seen.add((status.st_dev, status.st_ino))
        below[:] = sorted((b for b in below if not b.startswith(".")), key=natural)
        found += [
            str((folder / file).relative_to(root))
            for file in sorted(files, key=natural)
            if Path(file).suffix.lower() in SUFFIXES and not file.startswith(".")
        ]
    return found


def _refuse(error: OSError) -> None:
    where = printable(str(error.filename or "?"))
    raise InputError(f"data.dir: {where}: cannot be read ({error.strerror})") from error
