"""Data by address: ``npz:PATH`` of NumPy, ``csv:PATH`` of files and labels, ``hf:PATH``.

The last is what Hugging Face's datasets saved. A relative PATH begins at ``data.dir``, or in the
current folder.
"""

import contextlib
import csv
import io
import os
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from jaxcnn.config import Data
from jaxcnn.data import image_folder, own
from jaxcnn.data.contents import read_bytes
from jaxcnn.data.held_out import hold_out, require_named, strata
from jaxcnn.data.image_folder import Files, natural
from jaxcnn.data.images import MAX_BYTES, MAX_PIXELS, decoded
from jaxcnn.data.labels import names_of
from jaxcnn.data.sources import Dataset, Split
from jaxcnn.errors import InputError, as_one_line
from jaxcnn.memory import require_memory
from jaxcnn.text import printable

SPLITS = {"train": "train", "test": "test", "val": "validation", "validation": "validation"}
"""What files and columns call splits, and what they are called here."""


def load(config: Data) -> Dataset:
    """Reads the dataset at an address.

    Raises:
        InputError: there is no such file, or it holds no images with labels.
    """
    scheme = scheme_of(config)
    assert scheme is not None
    return SCHEMES[scheme](_path(config), config)


def scheme_of(config: Data) -> str | None:
    """Returns what begins the address of the data; None if they have another name.

    >>> scheme_of(Data("npz:cells.npz")), scheme_of(Data("mnist"))
    ('npz', None)
    """
    if not isinstance(config.name, str):  # brought from a file that may be called csv.py
        return None
    scheme, colon, _ = config.name.partition(":")
    return scheme if colon and scheme in SCHEMES else None


def is_relative(config: Data) -> bool:
    """Returns whether the data are at an address whose path begins in a folder."""
    return scheme_of(config) is not None and not _rest(config).is_absolute()


def usual_fit(config: Data) -> image_folder.UsualFit:
    """Returns the usual fit of the image files that a table names: :func:`image_folder.fit_for`.

    Raises:
        InputError: as :func:`load` does.
    """
    path = _path(config)
    rows, with_masks = _rows(path, config)
    names = [_file_names(rows)]
    if with_masks:
        return image_folder.fit_of_masked([path.parent], names, config.image_size)
    return image_folder.fit_for([path.parent], names, config.image_size)


def _path(config: Data) -> Path:
    """Returns the path behind the scheme, which exists."""
    path = Path(config.dir or ".").expanduser() / _rest(config)
    if str(config.name).endswith(":") or not path.exists():
        raise InputError(f"data.name={config.name!r}: {printable(str(path))} does not exist")
    return path


def _rest(config: Data) -> Path:
    """Returns the path behind the scheme as it is given."""
    return Path(str(config.name).partition(":")[2]).expanduser()


def _divided(splits: Mapping[str, Any], classes: Sequence[str], config: Data) -> Dataset:
    """Makes a dataset of named splits; where there is no test split, of a share of the examples."""
    what = f"data.name={config.name!r}"
    if "train" not in splits:
        raise InputError(f"{what}: needs a split train, has {', '.join(splits) or 'none'}")
    held = "test" if "test" in splits else "validation" if "validation" in splits else None
    validation = None
    if isinstance(config.validation, str):
        require_named(config.validation, sorted({*splits} - {"train", held}), config)
        validation = splits[config.validation]
    names, train = tuple(classes), splits["train"]
    if held is not None:
        if config.test_share is not None:
            raise InputError(
                f"data.test_share={config.test_share}: must be None with a {held} split"
            )
        return Dataset(train, splits[held], names, validation=validation)
    share = image_folder.TEST_SHARE if config.test_share is None else config.test_share
    kept, out = hold_out(
        strata(train, numbers=config.labels == "numbers"),
        share,
        config.seed,
        "data.test_share",
        names,
    )
    note = (
        f"{what} has no test split: of its examples, {len(kept):,} train and {len(out):,} test "
        f"(data.test_share={share:g}, data.seed={config.seed})"
    )
    return Dataset(train.take(kept), train.take(out), names, validation=validation, note=note)


def _npz(path: Path, config: Data) -> Dataset:
    """Reads arrays ``x_train`` and ``y_train`` (or ``train_images`` and ``train_labels``), ..."""
    what = f"data.name={config.name!r}"
    try:
        with zipfile.ZipFile(path) as packed:
            size = sum(part.file_size for part in packed.infolist())
        require_memory(f"{what}: its arrays", size)
        with np.load(path, allow_pickle=False) as held:
            arrays = {name: held[name] for name in held.files}
    except InputError:
        raise
    except Exception as error:  # whatever NumPy stumbles upon in a damaged file
        reason = str(error).partition("\n")[0]
        raise InputError(f"{what}: cannot be read as arrays without pickle ({reason})") from error
    splits: dict[str, Split] = {}
    for called, name in SPLITS.items():
        for x, y in ((f"x_{called}", f"y_{called}"), (f"{called}_images", f"{called}_labels")):
            if x in arrays and y in arrays:
                numbers = arrays[y]
                if numbers.ndim == 2 and numbers.shape[1] == 1:
                    numbers = numbers[:, 0]
                splits[name] = own.split(arrays[x], numbers, f"{what}: {name}")
    if not splits:
        raise InputError(
            f"{what}: needs arrays x_train and y_train, or train_images and train_labels; has "
            f"{printable(', '.join(arrays), longest=200) or 'none'}"
        )
    shapes = {source.image_shape for source in splits.values()}
    if len(shapes) > 1:
        raise InputError(f"{what}: images of all splits must be of one shape, are of {shapes}")
    classes = [str(name) for name in arrays["classes"].ravel()] if "classes" in arrays else None
    found, names = own.together(splits, classes, f"{what}: ")
    return _divided(found, names, config)


def _csv(path: Path, config: Data) -> Dataset:
    """Reads a table with the columns ``file``, ``label`` or ``mask``, and perhaps ``split``.

    Labels are names of classes or, with data.labels, numbers. Masks are image files whose pixels
    are the numbers of classes.
    """
    what, root = f"data.name={config.name!r}", path.parent
    rows, with_masks = _rows(path, config)
    used = np.array([SPLITS[split] for _, _, split in rows])
    if with_masks:
        return _with_masks(root, rows, used, config)
    classes = sorted({label for _, label, _ in rows}, key=natural)
    if len(classes) == 1 and config.labels == "classes" and "train" in used:
        raise InputError(f"{what}: must name two classes or more, names {printable(classes[0])}")
    places = {name: place for place, name in enumerate(classes)}
    names = _file_names(rows)
    labels = np.array([places[label] for _, label, _ in rows], np.int32)
    if config.labels == "numbers":
        labels, classes = _numbers([label for _, label, _ in rows], what), ["value"]
    shape, fit = image_folder.shape_of(config, [root], [names])
    whole = Files(root, names, labels, shape, fit, config.crop_ratio)
    return _divided({name: whole.take(used == name) for name in {*used.tolist()}}, classes, config)


def _rows(path: Path, config: Data) -> tuple[list[tuple[str, str, str]], bool]:
    """Returns file, label or mask, and split of each row, and whether it is masks that they name.

    Raises:
        InputError: it is no such table; the message names the line.
    """
    what = f"data.name={config.name!r}"
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file, strict=True)
            columns = {*(reader.fieldnames or ())}
            label_column = "mask" if "mask" in columns and "label" not in columns else "label"
            missing = {"file", label_column} - columns
            if missing:
                raise InputError(
                    f"{what}: needs the columns file and label (or mask), lacks {min(missing)}"
                )
            rows, lines = [], []
            for row in reader:
                kept = row["file"] or "", row[label_column] or "", row.get("split") or "train"
                rows.append(kept)
                lines.append(reader.line_num)
    except InputError:
        raise
    except (OSError, ValueError, csv.Error) as error:
        raise InputError(f"{what}: cannot be read as a table in UTF-8 ({error})") from error
    if not rows:
        raise InputError(f"{what}: has no rows below the header")
    root = path.parent
    for number, (file_name, label, split) in zip(lines, rows, strict=True):
        paths = {"file": file_name} | ({"mask": label} if label_column == "mask" else {})
        for column, name in paths.items():
            if not name or Path(name).is_absolute() or ".." in Path(name).parts:
                raise InputError(
                    f"{what}: line {number}: {column}={name!r} must be a path below "
                    f"{printable(str(root))}"
                )
        if not label or split not in SPLITS:
            wrong, accepted = ("label", "not empty") if not label else ("split", ", ".join(SPLITS))
            raise InputError(f"{what}: line {number}: {wrong} must be {accepted}")
    return rows, label_column == "mask"


def _file_names(rows: Sequence[tuple[str, str, str]]) -> np.ndarray:
    """Returns the names of the files in rows, as :class:`Files` holds them."""
    return np.array([os.fsencode(name) for name, _, _ in rows], dtype=bytes)


def _with_masks(
    root: Path, rows: Sequence[tuple[str, str, str]], used: np.ndarray, config: Data
) -> Dataset:
    """Returns the dataset of rows ``(file, mask, split)``; ``used`` names the split of each."""
    pairs = np.array([(file, mask) for file, mask, _ in rows], object)
    channels = 1 if config.channels == 1 else 3
    masked = {name: _Masked(root, pairs[used == name], channels) for name in {*used.tolist()}}
    splits = own.items(masked, config)
    form = next(iter(splits.values())).label_form[None]
    names = names_of(None, form, max(source.largest_class() for source in splits.values()))
    known = {name: replace(split, classes=len(names)) for name, split in splits.items()}
    return _divided(known, names, config)


def _numbers(labels: Sequence[str], what: str) -> np.ndarray:
    """Returns labels as numbers, those of a table's lines from the second on."""
    found = np.empty(len(labels), np.float32)
    for place, label in enumerate(labels):
        try:
            found[place] = float(label)
        except ValueError:
            found[place] = np.nan
        if not np.isfinite(found[place]):
            raise InputError(f"{what}: line {place + 2}: label={label!r} must be a finite number")
    return found


@contextlib.contextmanager
def _named(path: Path) -> Iterator[None]:
    """Says of whatever goes wrong which file it was."""
    try:
        yield
    except (OSError, ValueError, InputError) as error:
        raise InputError(f"{printable(str(path))}: {error}") from error


@dataclass(frozen=True)
class _Masked:
    """Image files, each with a file that holds the class of each of its pixels."""

    root: Path
    files: np.ndarray
    channels: int

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, place: int) -> tuple[np.ndarray, np.ndarray]:
        from PIL import Image

        image, mask = (self.root / name for name in self.files[place])
        with _named(image):
            pixels = decoded(read_bytes(image, MAX_BYTES), self.channels, turned=True)
        with _named(mask), Image.open(io.BytesIO(read_bytes(mask, MAX_BYTES))) as labels:
            if labels.width * labels.height > MAX_PIXELS:
                raise InputError(f"has more than {MAX_PIXELS:,} pixels")
            if labels.mode not in ("L", "P", "1", "I", "I;16"):
                raise InputError(
                    "must be a mask of one channel, the numbers of the classes, is of mode "
                    f"{labels.mode}"
                )
            if labels.size != pixels.size:
                raise InputError(f"is a mask of another size than {printable(image.name)}")
            numbers = np.asarray(labels).astype(np.int32)
        return np.asarray(pixels), numbers


@dataclass(frozen=True)
class _Rows:
    """Rows of Hugging Face's table as images and labels."""

    table: Any
    image: str
    label: str
    mode: str

    def __len__(self) -> int:
        return len(self.table)

    def __getitem__(self, place: int) -> tuple[np.ndarray, int]:
        row = self.table[place]
        return np.asarray(row[self.image].convert(self.mode)), int(row[self.label])


def _hf(path: Path, config: Data) -> Dataset:
    """Reads what ``save_to_disk`` wrote, Parquet files named by their splits, or an imagefolder."""
    what = f"data.name={config.name!r}"
    try:
        import datasets
    except ImportError as error:
        raise InputError(f"{what}: needs `pip install 'jaxcnn[hf]'` (datasets)") from error
    with as_one_line(what, "cannot be read by Hugging Face's datasets ({})"):
        if (path / "dataset_dict.json").exists() or (path / "state.json").exists():
            found = datasets.load_from_disk(str(path))
        elif parquet := sorted(path.rglob("*.parquet")):
            by_split: dict[str, list[str]] = {}
            for file in parquet:
                called = file.name.partition("-")[0].removesuffix(".parquet")
                by_split.setdefault(called, []).append(str(file))
            found = datasets.load_dataset("parquet", data_files=by_split)
        else:
            found = datasets.load_dataset("imagefolder", data_dir=str(path))
    tables = dict(found) if isinstance(found, Mapping) else {"train": found}
    features = next(iter(tables.values())).features
    images = [name for name, kind in features.items() if isinstance(kind, datasets.Image)]
    labels = [name for name, kind in features.items() if isinstance(kind, datasets.ClassLabel)]
    if len(images) != 1 or len(labels) != 1:
        raise InputError(
            f"{what}: must have one column of images and one of ClassLabel, has "
            f"{', '.join(f'{name}: {type(kind).__name__}' for name, kind in features.items())}"
        )
    mode = "L" if config.channels == 1 else "RGB"
    rows = {
        SPLITS[name]: _Rows(table, images[0], labels[0], mode)
        for name, table in tables.items()
        if name in SPLITS
    }
    names = features[labels[0]].names
    splits = own.items(rows, config)
    known = {name: replace(split, classes=len(names)) for name, split in splits.items()}
    return _divided(known, names, config)


SCHEMES: dict[str, Callable[[Path, Data], Dataset]] = {"npz": _npz, "csv": _csv, "hf": _hf}
"""What begins an address, and what reads it."""
