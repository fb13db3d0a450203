"""Outlines of datasets: how many examples of which form there are, without any of them.

An outline is enough to compile a training and to say what it will need. Nothing is read for it.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from jaxcnn.config import Data
from jaxcnn.data import images, sources
from jaxcnn.data.crops import Crop
from jaxcnn.errors import InputError
from jaxcnn.text import printable


@dataclass(frozen=True)
class Sizes:
    """What is known of a dataset.

    Attributes:
        train: examples to learn from.
        test: examples that are held out.
        image_shape: height, width and channels of the images; None for a size that differs.
        classes: the number of classes.
    """

    train: int
    test: int
    image_shape: tuple[int | None, int | None, int]
    classes: int


PUBLISHED = {
    "mnist": Sizes(60_000, 10_000, (28, 28, 1), 10),
    "fashion_mnist": Sizes(60_000, 10_000, (28, 28, 1), 10),
    "kmnist": Sizes(60_000, 10_000, (28, 28, 1), 10),
    "cifar10": Sizes(50_000, 10_000, (32, 32, 3), 10),
    "cifar100": Sizes(50_000, 10_000, (32, 32, 3), 100),
    "svhn_cropped": Sizes(73_257, 26_032, (32, 32, 3), 10),
    "stl10": Sizes(5_000, 8_000, (96, 96, 3), 10),
    "food101": Sizes(75_750, 25_250, (None, None, 3), 101),
    "imagenet2012": Sizes(1_281_167, 50_000, (None, None, 3), 1000),
}
"""What TFDS publishes in its catalogue. ImageNet is tested on the 50,000 validation images."""


def of(
    config: Data,
    label: np.ndarray | None = None,
    examples: int | None = None,
    shape: tuple[int, int, int] | None = None,
    classes: int | None = None,
) -> sources.Dataset:
    """Returns a dataset that stands in for the one that the config names.

    What is built in or drawn is itself; of all others only the sizes are known.

    Args:
        config: names the dataset.
        label: zeros in the form of a label; by default that of a class.
        examples: how many examples there are to learn from; by default what is published.
        shape: height, width and channels of the images as they are stored; likewise.
        classes: the number of classes; likewise.

    Raises:
        InputError: something that is needed is not known.
    """
    name = str(config.name)
    if (examples, shape, classes) == (None, None, None) and name in (
        "digits",
        "shapes",
        "shapes_masks",
    ):
        return sources.load(config)
    found = _published(config)
    train = examples or (found and found.train)
    stored = shape or (found and found.image_shape)
    number = classes or (found and found.classes)
    if not (train and stored and number):
        needed = {"examples": train, "shape": stored, "num-classes": number}
        missing = [f"--{option}" for option, value in needed.items() if not value]
        raise InputError(
            f"data.name={printable(name)!r}: its sizes are not published; give "
            + " and ".join(missing)
        )
    train = min(train, config.train_limit or train)
    held = config.validation
    if isinstance(held, int | float):
        train -= held if isinstance(held, int) else round(held * train)
    if config.batch_size > train:
        raise InputError(
            f"data.batch_size={config.batch_size}: must be at most the {train:,} training examples"
        )
    form = np.zeros((), np.int32) if label is None else label
    split = Outline(train, _read_shape(config, stored), form)
    test = replace(split, examples=found.test if found else 0)
    size = (train + len(test)) * (math.prod(split.image_shape) + form.nbytes)
    streamed = size > sources.STREAMED_BYTES if config.streaming is None else config.streaming
    return sources.Dataset(split, test, tuple(map(str, range(number))), streamed=streamed)


def _published(config: Data) -> Sizes | None:
    """Returns the sizes of a dataset that is known by its name or made to measure."""
    if config.name == "synthetic":
        side = config.image_size or 32
        return Sizes(*config.examples, (side, side, config.channels), config.num_classes)
    return PUBLISHED.get(str(config.name))


def _read_shape(config: Data, shape: tuple[int | None, int | None, int]) -> tuple[int, int, int]:
    """Returns the shape that images are read with."""
    height, width, channels = shape
    if height is not None and width is not None:
        return height, width, channels
    if config.image_size is None or config.fit == "pad":
        raise InputError(
            f"data.name={config.name!r}: its images have different sizes; "
            "data.image_size with data.fit='resize' or 'crop' brings them to one"
        )
    side, _ = images.reading(config)
    return side, side, channels


@dataclass(frozen=True)
class Outline:
    """A split of which only the sizes are known: all that is read from it is zeros."""

    examples: int
    image_shape: tuple[int, ...]
    label_form: np.ndarray

    def __len__(self) -> int:
        """Returns the number of examples."""
        return self.examples

    def take(self, index: np.ndarray) -> "Outline":
        """Returns the outline of some of the examples."""
        return replace(self, examples=len(index))

    def read(self, index: np.ndarray) -> dict[str, np.ndarray]:
        """Returns zeros for each of some examples."""
        n = len(index)
        return {
            "image": np.zeros((n, *self.image_shape), np.uint8),
            "label": self.take(index).read_labels(),
            "ok": np.ones(n, bool),
        }

    def read_crops(self, index: np.ndarray, crops: Sequence[Crop]) -> dict[str, np.ndarray]:
        """Returns zeros for a crop of each of some examples."""
        side = crops[0].side
        form = np.zeros((side, side), np.int32) if self.label_form.ndim == 2 else self.label_form
        shape = (side, side, self.image_shape[-1])
        return replace(self, image_shape=shape, label_form=form).read(index)

    def read_labels(self) -> np.ndarray:
        """Returns zeros for the labels of all examples."""
        return np.zeros((self.examples, *self.label_form.shape), self.label_form.dtype)

    def fault(self, index: int) -> str:
        """Raises ValueError, since what is not read has no fault."""
        raise ValueError(f"index={index}: an outline has no faults")

    def identity(self) -> list[np.ndarray]:
        """Returns the sizes, which are all that is known."""
        return [np.array([self.examples, *self.image_shape])]

    def files_sha256(self) -> str | None:
        """Returns None, since there are no files."""
        return None
