"""Reads TFDS datasets prepared as array_record, in any order and without TensorFlow."""

import difflib
import functools
import json
import os
import re
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from jaxcnn.config import Data
from jaxcnn.config.checked import shown
from jaxcnn.data import contents, prepared
from jaxcnn.data.crops import Crop
from jaxcnn.data.held_out import require_named
from jaxcnn.data.images import CROP_RATIO, Fit, cropped, decoded, fitted, reading
from jaxcnn.errors import InputError
from jaxcnn.text import printable


@dataclass(frozen=True)
class Records:
    """A split in array_record files, read when it is asked for.

    Attributes:
        source: reads the bytes of records by their places in the split.
        paths: the files.
        where: the field of the config and the folder, for messages.
        about: JSON that names this split and says how large its files are.
        image_shape: height, width and channels of every image, after ``fit``.
        classes: the number of classes.
        fit: how images of different sizes are brought to that shape; None where all have it.
        number: how many records the files hold.
        chosen: the places of the examples among them, ``(n,)``; None where all are examples.
        kept: the part of the shorter side that a central crop keeps.
    """

    source: Any = field(repr=False)
    paths: tuple[str, ...] = field(repr=False)
    where: str
    about: str
    image_shape: tuple[int, int, int]
    classes: int
    fit: Fit | None
    number: int
    chosen: np.ndarray | None = field(default=None, repr=False)
    kept: float = CROP_RATIO

    def __len__(self) -> int:
        """Returns the number of examples."""
        return self.number if self.chosen is None else len(self.chosen)

    @property
    def label_form(self) -> np.ndarray:
        """A zero in the type of the labels, which are classes."""
        return np.zeros((), np.int32)

    def take(self, index: np.ndarray) -> "Records":
        """Returns the split of some examples only, by their places."""
        return replace(self, chosen=index if self.chosen is None else self.chosen[index])

    def read_labels(self) -> np.ndarray:
        """Reads the labels of all examples, ``(n,)`` int32, with the whole of their records.

        Raises:
            InputError: the files are damaged.
        """
        n = len(self)
        blocks = [np.arange(at, min(at + LABELS_AT_ONCE, n)) for at in range(0, n, LABELS_AT_ONCE)]
        with ThreadPoolExecutor() as pool:
            return np.concatenate([np.zeros(0, np.int32), *pool.map(self._labels, blocks)])

    def _labels(self, index: np.ndarray) -> np.ndarray:
        try:
            found = [self._label(_features(record)) for record in self._records(index)]
            return np.array(found, np.int32)
        except Exception as error:  # whatever array_record stumbles upon in damaged files
            raise _damaged(self.where, error) from error

    def _places(self, index: np.ndarray) -> list[int]:
        return (index if self.chosen is None else self.chosen[index]).tolist()

    def _records(self, index: np.ndarray) -> Sequence[bytes]:
        """Reads records at once: array_record reads many far faster than one at a time."""
        return self.source.__getitems__(self._places(index)) if len(index) else ()

    def read(self, index: np.ndarray) -> dict[str, np.ndarray]:
        """Reads examples: ``image``, ``label`` and ``ok``, which is True.

        Raises:
            InputError: the files are damaged.
        """
        return self._read(index, self.image_shape, lambda row, features: self._image(features))

    def read_crops(self, index: np.ndarray, crops: Sequence[Crop]) -> dict[str, np.ndarray]:
        """Reads a random crop of each of some examples, as :meth:`read` does."""
        channels, side = self.image_shape[2], crops[0].side

        def crop(row: int, features: Any) -> np.ndarray:
            picture = cropped(_image_bytes(features), channels, crops[row], turned=False)
            return np.asarray(picture, np.uint8).reshape(side, side, channels)

        return self._read(index, (side, side, channels), crop)

    def _read(
        self, index: np.ndarray, shape: tuple[int, int, int], read: Callable[[int, Any], np.ndarray]
    ) -> dict[str, np.ndarray]:
        """Reads examples, their images by ``read(row, features)``, which gives some of a shape."""
        images = np.empty((len(index), *shape), np.uint8)
        labels = np.empty(len(index), np.int32)
        try:
            records = self._records(index)
        except Exception as error:  # whatever array_record stumbles upon in damaged files
            raise _damaged(self.where, error) from error
        for row, (i, record) in enumerate(zip(self._places(index), records, strict=True)):
            try:
                features = _features(record)
                labels[row] = self._label(features)
                images[row] = read(row, features)
            except Exception as error:  # whatever the decoders stumble upon
                raise _damaged(f"{self.where}: record {i}", error) from error
        return {"image": images, "label": labels, "ok": np.ones(len(index), bool)}

    def _label(self, features: Any) -> int:
        label = _label(features)
        if not 0 <= label < self.classes:
            raise InputError(f"label {label} is none of the {self.classes} classes")
        return label

    def _image(self, features: Any) -> np.ndarray:
        height, width, channels = self.image_shape
        # As TFDS stores it, so it is meant.
        picture = decoded(_image_bytes(features), channels, turned=False)
        if self.fit is not None:
            picture = fitted(picture, (height, width), self.fit, self.kept)
        if picture.size != (width, height):
            raise InputError(f"the image has {picture.size[0]}x{picture.size[1]} pixels")
        return np.asarray(picture, np.uint8).reshape(self.image_shape)

    def fault(self, index: int) -> str:
        """Raises ValueError: either all records can be read, or none (see :meth:`read`)."""
        raise ValueError(f"index={index}: no record is damaged by itself")

    def identity(self) -> list[np.ndarray]:
        """Returns what tells this split from every other one: its name, sizes and places.

        Of the first examples there are no places, only their number.
        """
        places = np.arange(len(self)) if self.chosen is None else self.chosen
        first = np.array_equal(places, np.arange(len(self)))
        return [np.array(self.about), np.array(len(self)), *([] if first else [places])]

    def files_sha256(self) -> str:
        """Returns the sha256 of the bytes of the split's files, all of them, in their order."""
        return contents.sha256_of(self.paths, [b""] * len(self.paths))


def _features(record: bytes) -> Any:
    """Returns the features of a record, a serialized ``tf.train.Example``, by their names."""
    return _example().FromString(record).features.feature


@functools.cache
def _example() -> Any:
    from tensorflow_datasets.proto import tf_example_pb2

    return tf_example_pb2.Example


def _image_bytes(features: Any) -> bytes:
    (data,) = features["image"].bytes_list.value
    return data


def _label(features: Any) -> int:
    (label,) = features["label"].int64_list.value
    return label


def find(
    config: Data, others: Sequence[str]
) -> tuple[Records, Records, tuple[str, ...], Records | None]:
    """Finds a prepared TFDS dataset, of which the newest version counts.

    Nothing of TFDS is asked to open the folder, since it imports the modules that are named there.

    Args:
        config: names the dataset.
        others: the names of datasets that do not come from TFDS, for the message.

    Returns:
        The training split, the held-out split, the classes, and the split to choose by if the
        config names one.

    Raises:
        InputError: it is not prepared, is damaged, or is not image classification.
    """
    found, splits = _find(config, others, ("train", *HELD_OUT, config.validation))
    held_out = _tested(splits)
    if "train" not in splits or held_out is None:
        raise InputError(
            f"data.name={config.name!r}: needs the splits train and test (or validation), "
            f"has {', '.join(found.splits) or 'none'}"
        )
    free = [s for s in found.splits if s != "train" and splits.get(s) is not held_out]
    validation = _validation(config, splits, free) if isinstance(config.validation, str) else None
    return splits["train"], held_out, found.classes, validation


def find_test(config: Data, others: Sequence[str]) -> tuple[Records, tuple[str, ...]]:
    """Finds the held-out split of a prepared TFDS dataset, which need not have another one.

    Args:
        config: names the dataset.
        others: as of :func:`find`.

    Returns:
        The split and the classes.

    Raises:
        InputError: as :func:`find` does.
    """
    found, splits = _find(config, others, HELD_OUT)
    held_out = _tested(splits)
    if held_out is None:
        raise InputError(
            f"data.name={config.name!r}: needs the split test or validation with labels, "
            f"has {', '.join(found.splits) or 'none'}"
        )
    return held_out, found.classes


def _find(
    config: Data, others: Sequence[str], wanted: Sequence[Any]
) -> tuple[prepared.Prepared, dict[str, Records]]:
    """Returns what is prepared of a dataset, and those of its splits that are wanted.

    Raises:
        InputError: as :func:`find` does.
    """
    try:
        from array_record.python import array_record_data_source as array_record

        _example()
    except ImportError as error:
        raise InputError(
            f"data.name={config.name!r}: needs tensorflow-datasets, which is not installed "
            f"({error}); {', '.join(others)} need nothing"
        ) from error

    name, folder = str(config.name), _folder(config)
    versions = _versions(config)
    if not versions:
        raise InputError(_not_prepared(name, folder, others))
    where = f"data.name={config.name!r}: {printable(str(folder / name))}"
    try:
        found = prepared.read(versions[-1])
    except InputError as error:
        raise InputError(f"data.name={config.name!r}: {error}") from error
    shape, fit = _shape(found, config)
    splits = {
        name: Records(
            _opened(array_record.ArrayRecordDataSource, shards, where),
            shards.paths,
            where,
            json.dumps({"name": found.full_name, "split": name, **shards.about()}),
            shape,
            len(found.classes),
            fit,
            sum(shards.lengths),
            kept=config.crop_ratio,
        )
        for name, shards in found.splits.items()
        if name in wanted
    }
    return found, splits


def is_prepared(config: Data) -> bool:
    """Returns whether there is a prepared TFDS dataset of the name, whole or not."""
    return bool(_versions(config))


def _folder(config: Data) -> Path:
    """Returns the folder of prepared datasets."""
    given = config.dir or os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets"
    return Path(given).expanduser()


def _versions(config: Data) -> list[Path]:
    """Returns the prepared versions of a dataset, NAME, or NAME/CONFIG as in emnist/letters."""
    name = str(config.name)
    known = re.fullmatch(r"\w+(/[\w.+-]+)?", name) and ".." not in name
    return prepared.versions(_folder(config) / name) if known else []


def _tested(splits: Mapping[str, Records]) -> Records | None:
    """Returns the split that is held out: the first whose labels are known."""
    return next((splits[s] for s in HELD_OUT if s in splits and _has_labels(splits[s])), None)


def _validation(config: Data, splits: Mapping[str, Records], free: Sequence[str]) -> Records:
    """Returns the split that the config names to choose by.

    Raises:
        InputError: there is none of that name, it has another use, or its labels are not known.
    """
    name = str(config.validation)
    require_named(name, free, config)
    if not _has_labels(splits[name]):
        raise InputError(f"data.validation={shown(name)}: must be a split with labels")
    return splits[name]


LABELS_AT_ONCE = 1024
"""How many records are read at once for their labels."""
HELD_OUT = ("test", "validation")
"""Names of the split that is held out; the first with labels counts."""


def _opened(reader: Any, shards: prepared.Shards, where: str) -> Any:
    """Opens the files of a split, and counts the records in them."""
    if not shards.paths:
        return ()
    try:
        for path in shards.paths:
            with contents.opened(path):  # the reader would wait for what is written into a pipe
                pass
        source = reader(shards.paths)
    except Exception as error:  # whatever array_record stumbles upon in damaged files
        raise _damaged(where, error) from error
    if len(source) != sum(shards.lengths):
        told = f"{len(source):,} records, dataset_info.json says {sum(shards.lengths):,}"
        raise _damaged(where, ValueError(told))
    return source


def _shape(found: prepared.Prepared, config: Data) -> tuple[tuple[int, int, int], Fit | None]:
    """Returns the shape that images are read with, and how they are brought to it."""
    height, width, channels = found.image_shape
    if height is not None and width is not None:
        return (height, width, channels), None
    if config.image_size is None or config.fit == "pad":
        raise InputError(
            f"data.name={config.name!r}: its images have different sizes; "
            "data.image_size with data.fit='resize' or 'crop' brings them to one"
        )
    side, fit = reading(config)
    return (side, side, channels), fit


def _has_labels(split: Records) -> bool:
    """Tells whether labels are known; those of ImageNet's test images, for one, are all -1."""
    try:
        return len(split) > 0 and _label(_features(split.source[0])) >= 0
    except Exception as error:  # whatever array_record stumbles upon in damaged files
        raise _damaged(split.where, error) from error


def _damaged(where: str, error: Exception) -> InputError:
    reason = (str(error) or type(error).__name__).splitlines()[0]
    return InputError(f"{where} is damaged or was not prepared as array_record ({reason})")


def _not_prepared(name: str, folder: Path, others: Sequence[str]) -> str:
    import tensorflow_datasets as tfds

    ready = sorted(
        printable(str(version.parent.relative_to(folder)))
        for pattern in ("*/*/dataset_info.json", "*/*/*/dataset_info.json")
        for version in {info.parent for info in folder.glob(pattern)}
    )
    here = ", ".join([*others, *ready])
    if name.split("/")[0] not in tfds.list_builders(with_community_datasets=False):
        near = difflib.get_close_matches(name, [*others, *ready], n=1)
        meant = f", perhaps {near[0]} is meant" if near else ""
        return (
            f"data.name={name!r}: unknown dataset{meant}; ready here: {here}; others: TFDS's "
            "catalogue"
        )
    return (
        f"data.name={name!r}: not prepared in {printable(str(folder))} (ready here: {here}); "
        "prepare it with `pip install 'jaxcnn[prepare]'` and "
        f"`tfds build {name} --file_format=array_record --data_dir={printable(str(folder))}`, "
        "or point TFDS_DATA_DIR or data.dir at the folder that holds it"
    )
