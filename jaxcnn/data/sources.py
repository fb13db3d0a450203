"""The dataset that the config names, as uint8 arrays in memory or as what they are drawn from."""

import math
import os
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxcnn.config import Data, InputError

if TYPE_CHECKING:
    import jax

    from jaxcnn.data import shapes


@dataclass(frozen=True)
class Split:
    """Images ``(n, h, w, c)`` in uint8 and labels ``(n,)`` in int32.

    Of a dataset that is rendered, the images are instead what :attr:`Dataset.render` takes.
    """

    images: np.ndarray
    labels: np.ndarray

    def __len__(self) -> int:
        """Number of examples."""
        return len(self.labels)


@dataclass(frozen=True)
class Dataset:
    """A classification dataset.

    Attributes:
        train: what is learned from.
        test: what is held out.
        classes: their names.
        render: makes images, inside the compiled step, of what the splits hold in their place.
    """

    train: Split
    test: Split
    classes: tuple[str, ...]
    render: "shapes.Render | None" = None

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Height, width and channels of an image."""
        if self.render is not None:
            return self.render.image_shape
        h, w, c = self.train.images.shape[1:]
        return h, w, c

    def rendered(self, images: "jax.Array") -> "jax.Array":
        """Images ``(n, h, w, c)`` in uint8 from a batch of what a split holds."""
        return images if self.render is None else self.render(images)


def load(config: Data) -> Dataset:
    """Reads the dataset that the config names.

    Raises:
        InputError: the dataset is unknown, not prepared, not a set of equally sized images with
            one label each, or smaller than the config asks.
    """
    dataset = BUILT_IN.get(config.name, _tfds)(config)
    if config.train_limit is not None:
        if config.train_limit > len(dataset.train):
            raise InputError(
                f"data.train_limit={config.train_limit}: {config.name} has only "
                f"{len(dataset.train)} training examples"
            )
        head = slice(config.train_limit)
        train = Split(dataset.train.images[head], dataset.train.labels[head])
        dataset = replace(dataset, train=train)
    if config.batch_size > len(dataset.train):
        raise InputError(
            f"data.batch_size={config.batch_size}: must be at most the {len(dataset.train)} "
            f"training examples of {config.name}"
        )
    channels = dataset.image_shape[2]
    for name in ("mean", "std"):
        given = getattr(config, name)
        if len(given) not in (1, channels):
            raise InputError(
                f"data.{name}={given}: {config.name} has {channels} channels; "
                f"give 1 or {channels} numbers"
            )
    return dataset


def _digits(_: Data) -> Dataset:
    """1,797 scans of handwritten digits, 8x8 (Alpaydin & Kaynak 1998), as scikit-learn ships them.

    The split is fixed: 1,437 train, 360 test, drawn by a seeded permutation. Writers are not
    kept apart.
    """
    from sklearn.datasets import load_digits

    raw = load_digits()
    images = np.round(raw.images * (255 / 16)).astype(np.uint8)[..., None]  # scans hold 0 .. 16
    labels = raw.target.astype(np.int32)
    order = np.random.Generator(np.random.PCG64(0)).permutation(len(labels))
    test, train = order[:360], order[360:]
    return Dataset(
        Split(images[train], labels[train]),
        Split(images[test], labels[test]),
        tuple(str(i) for i in range(10)),
    )


def _shapes(config: Data) -> Dataset:
    """Figures to learn, of which only the numbers are in memory."""
    from jaxcnn.data import shapes

    keys = [
        shapes.examples(split, n) for split, n in zip(shapes.SPLITS, config.examples, strict=True)
    ]
    train, test = (Split(k, shapes.labels(k)) for k in keys)
    return Dataset(train, test, shapes.CLASSES, shapes.Render(_side(config), config.seed))


def _synthetic(config: Data) -> Dataset:
    """Noise in memory, to measure speed with; there is nothing to learn."""
    shape = (_side(config), _side(config), config.channels)
    needed = sum(config.examples) * math.prod(shape)
    if needed > SYNTHETIC_BYTES:
        raise InputError(
            f"data.examples={config.examples}: {needed:,} bytes of synthetic images, which are "
            f"held in memory; at most {SYNTHETIC_BYTES:,}"
        )
    rng = np.random.Generator(np.random.PCG64(config.seed))
    train, test = (
        Split(
            np.frombuffer(rng.bytes(n * math.prod(shape)), np.uint8).reshape(n, *shape),
            np.arange(n, dtype=np.int32) % np.int32(config.num_classes),
        )
        for n in config.examples
    )
    return Dataset(train, test, tuple(str(i) for i in range(config.num_classes)))


def _side(config: Data) -> int:
    return config.image_size or 32


BUILT_IN: dict[str, Callable[[Data], Dataset]] = {
    "digits": _digits,
    "shapes": _shapes,
    "synthetic": _synthetic,
}
SYNTHETIC_BYTES = 2**32


def _tfds(config: Data) -> Dataset:
    """Reads a TFDS dataset, prepared as array_record, without TensorFlow."""
    try:
        import tensorflow_datasets as tfds
    except ImportError as error:
        raise InputError(
            f"data.name={config.name!r}: needs tensorflow-datasets, which is not installed "
            f"({error}); data.name='digits' needs nothing"
        ) from error

    folder = Path(config.dir or os.environ.get("TFDS_DATA_DIR") or tfds.core.constants.DATA_DIR)
    folder = folder.expanduser()
    prepared = sorted(
        str(version.parent.relative_to(folder))  # NAME, or NAME/CONFIG as in emnist/letters
        for pattern in ("*/*/dataset_info.json", "*/*/*/dataset_info.json")
        for version in (info.parent for info in folder.glob(pattern))
    )
    if config.name not in prepared:
        raise InputError(_not_prepared(tfds, config.name, folder, prepared))
    try:
        # Only names are looked up: a folder's own description could name any module to import.
        builder = tfds.builder(config.name, data_dir=folder)
        train, test = (_read(builder, split, config) for split in _splits(builder, config))
        classes = tuple(builder.info.features["label"].names)
    except InputError:
        raise
    except Exception as error:  # whatever TFDS stumbles upon in files that are damaged
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise InputError(
            f"data.name={config.name!r}: {folder / config.name} is damaged or was not prepared as "
            f"array_record ({reason})"
        ) from error
    return Dataset(train, test, classes)


def _not_prepared(tfds: Any, name: str, folder: Path, prepared: list[str]) -> str:
    here = ", ".join([*BUILT_IN, *prepared])
    if name.split("/")[0] not in tfds.list_builders(with_community_datasets=False):
        return f"data.name={name!r}: unknown dataset; ready here: {here}; others: TFDS's catalogue"
    return (
        f"data.name={name!r}: not prepared in {folder} (ready here: {here}); prepare it with "
        f"`pip install 'jaxcnn[prepare]'` and "
        f"`tfds build {name} --file_format=array_record --data_dir={folder}`, "
        "or point TFDS_DATA_DIR or data.dir at the folder that holds it"
    )


def _splits(builder: Any, config: Data) -> tuple[str, str]:
    """Names of the splits to train and to test on, of a set that can be classified."""
    import tensorflow_datasets as tfds

    features, splits = builder.info.features, builder.info.splits
    wanted = {"image": tfds.features.Image, "label": tfds.features.ClassLabel}
    for name, kind in wanted.items():
        if not hasattr(features, "keys") or not isinstance(dict(features).get(name), kind):
            raise InputError(
                f"data.name={config.name!r}: is not image classification: has no {kind.__name__} "
                f"named {name!r}"
            )
    if None in features["image"].shape and (config.image_size is None or config.fit != "resize"):
        raise InputError(
            f"data.name={config.name!r}: its images have different sizes; "
            "data.image_size with data.fit='resize' brings them to one"
        )
    held_out = next((s for s in ("test", "validation") if s in splits), None)
    if "train" not in splits or held_out is None:
        raise InputError(
            f"data.name={config.name!r}: needs the splits train and test (or validation), "
            f"has {', '.join(splits) or 'none'}"
        )
    return "train", held_out


def _read(builder: Any, split: str, config: Data) -> Split:
    source = builder.as_data_source(split=split)
    different = None in builder.info.features["image"].shape
    images, labels = [], []
    # In blocks: array_record reads many records far faster than one at a time.
    for start in range(0, len(source), 4096):
        block = list(range(start, min(start + 4096, len(source))))
        for example in source.__getitems__(block):
            image = example["image"]
            if different and config.image_size is not None:
                image = _resized(image, config.image_size)
            images.append(image)
            labels.append(example["label"])
    return Split(np.stack(images), np.array(labels, np.int32))


def _resized(image: np.ndarray, side: int) -> np.ndarray:
    from PIL import Image

    grey = image.shape[-1] == 1
    picture = Image.fromarray(image[..., 0] if grey else image)
    resized = np.asarray(picture.resize((side, side), Image.Resampling.BILINEAR))
    return resized[..., None] if grey else resized


def read_image(path: Path, channels: int, size: tuple[int, int] | None = None) -> np.ndarray:
    """Reads an image file as ``(h, w, channels)`` uint8, turned as its EXIF data say.

    Args:
        path: a file that Pillow reads.
        channels: 1 (grey) or 3 (RGB).
        size: height and width to resize to; None leaves it.

    Raises:
        InputError: not a file, not an image, or one too large to be meant.
    """
    from PIL import Image, ImageOps

    modes = {1: "L", 3: "RGB"}
    if channels not in modes:
        raise InputError(f"{path}: the network takes {channels} channels; image files give 1 or 3")
    if not path.is_file():
        raise InputError(f"{path}: no such image file")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # refused below
            opened = Image.open(path, formats=FORMATS)
        with opened:
            if opened.width * opened.height > MAX_PIXELS:
                raise InputError(
                    f"{path}: {opened.width}x{opened.height} pixels; at most {MAX_PIXELS:,} in all"
                )
            turned = ImageOps.exif_transpose(opened)
            if turned.mode.startswith("I"):  # 16 bits: Pillow's own conversion would clip at 255
                turned = Image.fromarray((np.asarray(turned) / 257).round().astype(np.uint8))
            image = turned.convert(modes[channels])
    except InputError:
        raise
    except Exception as error:  # Pillow's decoders raise whatever they stumble upon
        raise InputError(f"{path}: not an image that Pillow can read ({error})") from error
    if size is not None:
        image = image.resize((size[1], size[0]), Image.Resampling.BILINEAR)
    return np.asarray(image, np.uint8).reshape(image.height, image.width, channels)


FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM")
"""Pillow would also hand a file to programs such as Ghostscript, whatever its name says."""
MAX_PIXELS = 2**26
"""Pillow itself only warns up to 179 million pixels, which need half a gigabyte."""
