"""Reads TFDS datasets prepared as array_record, in any order and without TensorFlow."""

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from jaxcnn.config import Data
from jaxcnn.data.images import Fit, fit_array, reading
from jaxcnn.errors import InputError


@dataclass(frozen=True)
class Records:
    """A split in array_record files, read when it is asked for.

    Attributes:
        source: TFDS's data source.
        where: the field of the config and the folder, for messages.
        about: JSON that tells this split from every other one.
        image_shape: height, width and channels of every image, after ``fit``.
        fit: how images of different sizes are brought to that shape; None where all have it.
        number: how many examples count, from the first.
    """

    source: Any = field(repr=False)
    where: str
    about: str
    image_shape: tuple[int, int, int]
    fit: Fit | None
    number: int

    def __len__(self) -> int:
        """Returns the number of examples."""
        return self.number

    def first(self, number: int) -> "Records":
        """Returns the split of the first examples only."""
        return replace(self, number=number)

    def read(self, index: np.ndarray) -> dict[str, np.ndarray]:
        """Reads examples: ``image``, ``label`` and ``ok``, which is True.

        Raises:
            InputError: the files are damaged.
        """
        try:
            # At once: array_record reads many records far faster than one at a time.
            examples = self.source.__getitems__([int(i) for i in index])
        except Exception as error:  # whatever TFDS stumbles upon in files that are damaged
            raise _damaged(self.where, error) from error
        images = [example["image"] for example in examples]
        if self.fit is not None:
            images = [fit_array(image, self.image_shape, self.fit) for image in images]
        return {
            "image": np.stack(images),
            "label": np.array([example["label"] for example in examples], np.int32),
            "ok": np.ones(len(images), bool),
        }

    def fault(self, index: int) -> str:
        """Raises ValueError: either all records can be read, or none (see :meth:`read`)."""
        raise ValueError(f"index={index}: no record is damaged by itself")

    def identity(self) -> list[np.ndarray]:
        """Returns arrays that tell this split from every other one."""
        return [np.array(self.about), np.array(self.number)]


def find(config: Data, others: Sequence[str]) -> tuple[Records, Records, tuple[str, ...]]:
    """Finds a prepared TFDS dataset.

    Args:
        config: names the dataset.
        others: the names of datasets that do not come from TFDS, for the message.

    Returns:
        The training split, the held-out split and the classes.

    Raises:
        InputError: it is not prepared, is damaged, or is not image classification.
    """
    try:
        import tensorflow_datasets as tfds
    except ImportError as error:
        raise InputError(
            f"data.name={config.name!r}: needs tensorflow-datasets, which is not installed "
            f"({error}); {', '.join(others)} need nothing"
        ) from error

    folder = Path(config.dir or os.environ.get("TFDS_DATA_DIR") or tfds.core.constants.DATA_DIR)
    folder = folder.expanduser()
    prepared = sorted(
        str(version.parent.relative_to(folder))  # NAME, or NAME/CONFIG as in emnist/letters
        for pattern in ("*/*/dataset_info.json", "*/*/*/dataset_info.json")
        for version in (info.parent for info in folder.glob(pattern))
    )
    if config.name not in prepared:
        raise InputError(_not_prepared(tfds, config.name, folder, [*others, *prepared]))
    where = f"data.name={config.name!r}: {folder / config.name}"
    try:
        # Only names are looked up: a folder's own description could name any module to import.
        builder = tfds.builder(config.name, data_dir=folder)
        train, test = (
            _records(builder, split, config, where) for split in _splits(builder, config)
        )
        classes = tuple(builder.info.features["label"].names)
    except InputError:
        raise
    except Exception as error:  # whatever TFDS stumbles upon in files that are damaged
        raise _damaged(where, error) from error
    return train, test, classes


def _records(builder: Any, split: str, config: Data, where: str) -> Records:
    info = builder.info.splits[split]
    about = {
        "name": builder.info.full_name,
        "split": split,
        "shards": list(info.shard_lengths),
        "bytes": info.num_bytes,
    }
    h, w, c = builder.info.features["image"].shape
    fit: Fit | None = None
    if None in (h, w):
        side, fit = reading(config)
        h = w = side
    source = builder.as_data_source(split=split)
    return Records(source, where, json.dumps(about), (h, w, c), fit, len(source))


def _damaged(where: str, error: Exception) -> InputError:
    reason = (str(error) or type(error).__name__).splitlines()[0]
    return InputError(f"{where} is damaged or was not prepared as array_record ({reason})")


def _not_prepared(tfds: Any, name: str, folder: Path, ready: Sequence[str]) -> str:
    here = ", ".join(ready)
    if name.split("/")[0] not in tfds.list_builders(with_community_datasets=False):
        return f"data.name={name!r}: unknown dataset; ready here: {here}; others: TFDS's catalogue"
    return (
        f"data.name={name!r}: not prepared in {folder} (ready here: {here}); prepare it with "
        f"`pip install 'jaxcnn[prepare]'` and "
        f"`tfds build {name} --file_format=array_record --data_dir={folder}`, "
        "or point TFDS_DATA_DIR or data.dir at the folder that holds it"
    )


def _splits(builder: Any, config: Data) -> tuple[str, str]:
    """Returns the names of the splits to train and to test on; refuses all but classification."""
    import tensorflow_datasets as tfds

    features, splits = builder.info.features, builder.info.splits
    wanted = {"image": tfds.features.Image, "label": tfds.features.ClassLabel}
    for name, kind in wanted.items():
        if not hasattr(features, "keys") or not isinstance(dict(features).get(name), kind):
            raise InputError(
                f"data.name={config.name!r}: is not image classification: has no {kind.__name__} "
                f"named {name!r}"
            )
    if None in features["image"].shape and (config.image_size is None or config.fit == "pad"):
        raise InputError(
            f"data.name={config.name!r}: its images have different sizes; "
            "data.image_size with data.fit='resize' or 'crop' brings them to one"
        )
    held_out = next(
        (s for s in ("test", "validation") if s in splits and _has_labels(builder, s)), None
    )
    if "train" not in splits or held_out is None:
        raise InputError(
            f"data.name={config.name!r}: needs the splits train and test (or validation), "
            f"has {', '.join(splits) or 'none'}"
        )
    return "train", held_out


def _has_labels(builder: Any, split: str) -> bool:
    """Tells whether labels are known; those of ImageNet's test images, for one, are all -1."""
    return bool(builder.as_data_source(split=split)[0]["label"] >= 0)
