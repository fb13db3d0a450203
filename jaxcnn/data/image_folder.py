"""Reads folders of image files with one subfolder for each class."""

import contextlib
import logging
import os
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np

from jaxcnn.config import Data
from jaxcnn.config.checked import require
from jaxcnn.data import contents
from jaxcnn.data.crops import Crop
from jaxcnn.data.held_out import hold_out, require_named
from jaxcnn.data.images import CROP_RATIO, Fit, image_size, read_crop, read_image, reading
from jaxcnn.errors import InputError
from jaxcnn.text import printable

log = logging.getLogger(__name__)

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
        labels: ``(n,)`` int32 of classes, or float32 of numbers.
        image_shape: height, width and channels to which every image is brought.
        fit: how it is brought to them.
        kept: the part of the shorter side that a central crop keeps.
    """

    root: Path
    names: np.ndarray
    labels: np.ndarray
    image_shape: tuple[int, int, int]
    fit: Fit
    kept: float = CROP_RATIO

    def __len__(self) -> int:
        """Returns the number of files."""
        return len(self.labels)

    @property
    def label_form(self) -> np.ndarray:
        """A zero in the type of the labels."""
        return np.zeros((), self.labels.dtype)

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
        return self._read(
            index,
            self.image_shape,
            lambda row, path: read_image(path, self.image_shape, self.fit, self.kept),
        )

    def read_crops(self, index: np.ndarray, crops: Sequence[Crop]) -> dict[str, np.ndarray]:
        """Reads a random crop of each of some files, as :meth:`read` does."""
        channels, side = self.image_shape[2], crops[0].side
        return self._read(
            index, (side, side, channels), lambda row, path: read_crop(path, channels, crops[row])
        )

    def _read(
        self,
        index: np.ndarray,
        shape: tuple[int, int, int],
        read: Callable[[int, Path], np.ndarray],
    ) -> dict[str, np.ndarray]:
        """Reads files by ``read(row, path)``, which gives images of a shape."""
        images = np.zeros((len(index), *shape), np.uint8)
        ok = np.ones(len(index), bool)
        for row, i in enumerate(index.tolist()):
            try:
                images[row] = read(row, self.path(i))
            except InputError:
                ok[row] = False
        return {"image": images, "label": self.labels[index], "ok": ok}

    def read_labels(self) -> np.ndarray:
        """Returns the labels of all files, which are not read for it."""
        return self.labels

    def fault(self, index: int) -> str:
        """Says in one line why a file cannot be read, and names it."""
        try:
            read_image(self.path(index), self.image_shape, self.fit, self.kept)
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


UsualFit = tuple[Literal["pad", "crop", "resize"], str]
"""A fit, and in words what the files are like that it is usual for."""
HELD_OUT = ("test", "val", "validation")
"""Names of the folder that is held out; the first that is there counts."""
TEST_SHARE = 0.2
"""The share of a folder without splits that is held out, unless the config says another."""


def scan(config: Data) -> tuple[Files, Files, tuple[str, ...], Files | None]:
    """Finds the images under ``data.dir``: ``train/CLASS/...`` and ``test/CLASS/...`` (or val).

    A folder that holds ``CLASS/...`` alone is split in two. A warning tells of files that are no
    images by their names, of classes without test images, and of a class that is the only one.

    Returns:
        The training split, the held-out split, the classes in natural order (2 before 10), and the
        split to choose by if the config names one.

    Raises:
        InputError: a folder or its images are missing; the message names the folder.
    """
    splits = _splits(config)
    classes = _classes(config, splits)
    skipped: Counter[str] = Counter()
    listed = [_listed(split, classes, skipped) for split in splits]
    shape, fit = shape_of(config, splits, [names for names, _ in listed])
    train, *others = (
        Files(root, *found, shape, fit, config.crop_ratio)
        for root, found in zip(splits, listed, strict=True)
    )
    where = f"data.dir={config.dir!r}"
    left_out = _left_out(skipped)
    counts = np.bincount(train.labels, minlength=len(classes))
    for name, count in zip(classes, counts, strict=True):
        if count == 0:
            folder = printable(str(train.root / name))
            said = f"; {left_out}" if skipped else ""
            raise InputError(
                f"{where}: {folder} has no image files ({', '.join(sorted(SUFFIXES))}){said}"
            )
    for files in others:
        if len(files) == 0:
            raise InputError(f"{where}: {files.root} has no image files")
    if skipped:
        log.warning("%s: %s", where, left_out)
    if not others:
        share = TEST_SHARE if config.test_share is None else config.test_share
        kept, held = hold_out(train.labels, share, config.seed, "data.test_share", classes)
        return train.take(kept), train.take(held), classes, None
    test = others[0]
    untested = np.flatnonzero(np.bincount(test.labels, minlength=len(classes)) == 0)
    if untested.size:
        names = few([classes[i] for i in untested])
        log.warning("%s: %s has no images of the class %s", where, test.root.name, names)
    if len(classes) == 1:
        log.warning("%s: %s is the only class; there is nothing to tell apart", where, classes[0])
    return train, test, classes, others[1] if len(others) > 1 else None


def to_test(root: Path, image_shape: tuple[int, int, int], fit: Fit) -> tuple[Files, Sequence[str]]:
    """Finds the images of a folder to evaluate on: those of its held-out split, or without one all.

    Args:
        root: holds ``test/CLASS/...`` (or val), or ``CLASS/...`` alone.
        image_shape: height, width and channels to which every image is brought.
        fit: how it is brought to them.

    Returns:
        The files, and the classes in natural order, which may lack images.

    Raises:
        InputError: there are no such folders, or no images in them.
    """
    what = printable(str(root))
    if not root.is_dir():
        raise InputError(f"{what} is no folder")
    split = next((root / name for name in HELD_OUT if (root / name).is_dir()), root)
    if split == root and (root / "train").is_dir():
        raise InputError(f"{what} has train alone; give {what}/train to evaluate its images")
    classes = _classes(Data("folder", dir=str(root)), (split,))
    skipped: Counter[str] = Counter()
    names, labels = _listed(split, classes, skipped)
    said = _left_out(skipped) if skipped else ""
    if not len(names):
        raise InputError(f"{printable(str(split))} has no image files{said and f'; {said}'}")
    if said:
        log.warning("%s: %s", what, said)
    return Files(split, names, labels, image_shape, fit), classes


def usual_fit(config: Data) -> UsualFit:
    """Returns the usual fit of the files under ``data.dir``: :func:`fit_for`.

    Raises:
        InputError: as :func:`scan` does.
    """
    splits = _splits(config)
    classes = _classes(config, splits)
    names = [_listed(split, classes, Counter())[0] for split in splits]
    return fit_for(splits, names, config.image_size)


def fit_for(splits: Sequence[Path], names: Sequence[np.ndarray], side: int | None) -> UsualFit:
    """Returns how files are brought to ``data.image_size`` where ``data.fit`` is left at "pad".

    Those that all have that size, or are to keep their own, stay as they are. Other squares of one
    size are resized, which shows them whole, and photos of any sizes are cropped.

    Args:
        splits: the folders of the splits.
        names: the names of the files in each.
        side: ``data.image_size``.

    Returns:
        The fit, and in words what the files are like.
    """
    sizes = _sizes(splits, names)
    if side is None or list(sizes) == [(side, side)]:
        return "pad", "all have that size"
    if len(sizes) == 1 and len({*next(iter(sizes))}) == 1:
        return "resize", f"squares of {_pixels(next(iter(sizes)))} pixels"
    return "crop", " and ".join(f"{_pixels(size)} pixels" for size in sizes)


def fit_of_masked(
    splits: Sequence[Path], names: Sequence[np.ndarray], side: int | None
) -> UsualFit:
    """Returns the same for photos with masks, all of which is to be learned: none is cropped.

    Those of one size that fit into that of the network stay as they are; all others are resized.
    """
    sizes = _sizes(splits, names)
    if side is None or (len(sizes) == 1 and max(next(iter(sizes))) <= side):
        return "pad", "fit into that size"
    return "resize", " and ".join(f"{_pixels(size)} pixels" for size in sizes) + ", with masks"


def _splits(config: Data) -> tuple[Path, ...]:
    """Returns the folders of the training and the held-out split, and of the one to choose by.

    Where the folders of the classes lie side by side without splits, it is theirs alone.
    """
    if config.dir is None:
        raise InputError("data.dir=None: must be the folder that holds train/ and test/")
    root = Path(config.dir).expanduser()
    held_out = _held_out(root)
    if held_out is None:
        is_split = (root / "train").is_dir() or _meant(root) is not None
        if not is_split and root.is_dir() and len(_folders(root)) > 1:
            if isinstance(config.validation, str):
                require_named(config.validation, (), config)
            return (root,)
        wanted = (
            "must hold the folders train and test (or val), with a folder for each class, or at "
            "least two such folders alone"
        )
        raise InputError(f"data.dir={config.dir!r}: {_nearby(root)}{wanted}")
    beside = f"None with the folders train and {held_out.name} in {printable(str(root))}"
    require("data.test_share", config.test_share, config.test_share is None, beside)
    if not isinstance(config.validation, str):
        return root / "train", held_out
    free = sorted({*_folders(root)} - {"train", held_out.name})
    require_named(config.validation, free, config)
    return root / "train", held_out, root / config.validation


def _held_out(root: Path) -> Path | None:
    """Returns the folder of the held-out split; None where there are no splits."""
    if not (root / "train").is_dir():
        return None
    return next((root / name for name in HELD_OUT if (root / name).is_dir()), None)


def _meant(root: Path) -> Path | None:
    """Returns the folder with splits above a folder or in it, if there is one."""
    inside = [root / name for name in sorted(_folders(root), key=natural)] if root.is_dir() else []
    near = (*root.absolute().parents[:2], *inside)
    return next((other for other in near if _held_out(other) is not None), None)


def _nearby(root: Path) -> str:
    """Says what is found in the place of a folder with splits, and where there is one nearby."""
    if not root.is_dir():
        return "is a file; " if root.exists() else "there is no such folder; "
    if (other := _meant(root)) is not None:
        return f"is not the folder meant, perhaps {printable(str(other))} is; "
    inside = [root / name for name in sorted(_folders(root), key=natural)]
    if (root / "train").is_dir():
        return "has train alone; "
    if len(inside) == 1:
        if len(_folders(inside[0])) > 1:
            return f"is not the folder meant, perhaps {printable(str(inside[0]))} is; "
        return f"has the folder of a single class, {printable(inside[0].name)}; "
    return f"has the folders {few([path.name for path in inside])} instead; " if inside else ""


def _classes(config: Data, splits: Sequence[Path]) -> tuple[str, ...]:
    """Returns the names of the folders in the training split, after a look at all splits'."""
    train, *others = splits
    classes = sorted(_folders(train), key=natural)
    if not classes:
        raise InputError(f"data.dir={config.dir!r}: {train} has no folders, one a class")
    for split in others:
        unknown = sorted(set(_folders(split)) - set(classes))
        if unknown:
            folder = printable(str(split / unknown[0]))
            raise InputError(f"data.dir={config.dir!r}: {folder} is no class of {train}")
    for path in [split / name for split in splits for name in _folders(split)]:
        if path.is_symlink() and path.resolve() in path.parent.resolve().joinpath("x").parents:
            raise InputError(
                f"data.dir={config.dir!r}: {printable(str(path))} is a link to a folder above it; "
                "must hold the images of one class"
            )
    return tuple(classes)


def shape_of(
    config: Data, splits: Sequence[Path], names: Sequence[np.ndarray]
) -> tuple[tuple[int, int, int], Fit]:
    """Returns the shape that files are read with, and how they are brought to it."""
    side = config.image_size
    if config.fit != "pad" and side is not None:
        read, fit = reading(config)
        return (read, read, config.channels), fit
    sizes = list(_sizes(splits, names))
    if config.fit == "pad" and len(sizes) == 1 and (side is None or sizes == [(side, side)]):
        return (*sizes[0], config.channels), "resize"
    found = " and ".join(map(_pixels, sizes)) or "none can be read"
    raise InputError(
        f"data.fit={config.fit!r} with data.image_size={side}: files may differ in size ({found}); "
        "must be data.image_size=224, say, with data.fit='resize' or 'crop'"
    )


def _sizes(splits: Sequence[Path], names: Sequence[np.ndarray]) -> dict[tuple[int, int], None]:
    """Returns the one height and width of all images that can be read, or the first two."""
    sizes: dict[tuple[int, int], None] = {}
    for root, files in zip(splits, names, strict=True):
        for name in files:
            with contextlib.suppress(InputError):  # told of when it is read
                sizes[image_size(root / os.fsdecode(bytes(name)))] = None
            if len(sizes) == 2:
                return sizes
    return sizes


def _pixels(size: tuple[int, int]) -> str:
    height, width = size
    return f"{width}x{height}"


def few(names: Sequence[str]) -> str:
    """Names the first few, and counts the others."""
    more = f" and {len(names) - 5:,} others" if len(names) > 5 else ""
    return printable(", ".join(names[:5]), longest=300) + more


def _left_out(skipped: Counter[str]) -> str:
    """Says how many files of which suffixes do not count."""
    ordered = sorted(skipped.items(), key=lambda kind: (-kind[1], kind[0]))
    kinds = [f"{count:,} {suffix or 'without suffix'}" for suffix, count in ordered]
    return f"files that are no images by their names are left out: {few(kinds)}"


def natural(name: str) -> tuple[list[tuple[bool, int, str]], str]:
    """Returns a key that sorts numbers by value, and the rest regardless of case.

    >>> sorted(["class10", "Class2", "class1"], key=natural)
    ['class1', 'Class2', 'class10']
    """
    parts = [p for p in re.split(r"([0-9]+)", name.casefold()) if p]
    return [(p.isdecimal(), int(p) if p.isdecimal() else 0, p) for p in parts], name


def _folders(path: Path) -> list[str]:
    return [p.name for p in path.iterdir() if p.is_dir() and not p.name.startswith(".")]


def _listed(
    root: Path, classes: Sequence[str], skipped: Counter[str]
) -> tuple[np.ndarray, np.ndarray]:
    """Returns names and labels of a split's images, the first of each class before the second.

    Args:
        root: the folder of the split.
        classes: the names of the folders in it; some may be missing.
        skipped: counts the suffixes of other files.
    """
    found = [
        (rank, label, name)
        for label, class_name in enumerate(classes)
        if (root / class_name).is_dir()  # some classes may not be tested
        for rank, name in enumerate(_images(root, root / class_name, skipped))
    ]
    found.sort()
    names = np.array([os.fsencode(name) for _, _, name in found], dtype=bytes)
    return names, np.array([label for _, label, _ in found], np.int32)


def images_in(folder: Path) -> list[Path]:
    """Returns the image files in a folder, at any depth and in natural order.

    Raises:
        InputError: a folder in it cannot be read, or there are none.
    """
    skipped: Counter[str] = Counter()
    found = [folder / name for name in _images(folder, folder, skipped)]
    left_out = _left_out(skipped)
    if not found:
        others = f"; {left_out}" if skipped else ""
        raise InputError(f"{printable(str(folder))}: has no image files{others}")
    if skipped:
        log.warning("%s: %s", folder, left_out)
    return found


def _images(root: Path, folder: Path, skipped: Counter[str]) -> list[str]:
    """Lists the image files of a class at any depth; a folder that is reached twice counts once.

    Args:
        root: the folder that the names begin at.
        folder: the folder of the class, or any other.
        skipped: counts the suffixes of other files.
    """
    seen: set[tuple[int, int]] = set()
    found = []
    for name, below, files in os.walk(folder, onerror=_refuse, followlinks=True):
        place = Path(name)
        status = place.stat()
        if (status.st_dev, status.st_ino) in seen:
            below.clear()
            continue
        seen.add((status.st_dev, status.st_ino))
        below[:] = sorted((b for b in below if not b.startswith(".")), key=natural)
        for file in sorted(files, key=natural):
            suffix = Path(file).suffix.lower()
            if suffix in SUFFIXES and not file.startswith("."):
                found.append(str((place / file).relative_to(root)))
            elif not file.startswith("."):
                skipped[suffix] += 1
    return found


def _refuse(error: OSError) -> None:
    where = printable(str(error.filename or "?"))
    raise InputError(f"{where}: cannot be read ({error.strerror})") from error
