"""Data that users bring: arrays, random-access sources, and functions that return a dataset."""

import hashlib
import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from jaxcnn.config import MOST_CLASSES, Data
from jaxcnn.config.brought import Brought, require_given
from jaxcnn.config.checked import shown
from jaxcnn.data.images import fit_array, stored_fit
from jaxcnn.data.sources import Dataset, Split
from jaxcnn.errors import InputError, as_one_line

Arrays = tuple[Any, Any]
"""Images ``(n, h, w, c)`` or ``(n, h, w)``, and ``n`` labels."""


def load(config: Data) -> Dataset:
    """Calls the function that was brought, with the config if it takes an argument.

    Raises:
        InputError: it was not given again, fails, or returns no :class:`Dataset`.
    """
    require_given(config.name, "data.name")
    assert isinstance(config.name, Brought)
    make, what = config.name.target, f"data.name={config.name!r}"
    with as_one_line(what):
        found = make(config) if inspect.signature(make).parameters else make()
    if not isinstance(found, Dataset):
        raise InputError(
            f"{what}: must return a jaxcnn.data.Dataset, as from_arrays and from_source do, "
            f"returned a {type(found).__name__}"
        )
    for name, source in [("train", found.train), *found.held_out.items()]:
        largest = int(source.labels.max(initial=0)) if isinstance(source, Split) else 0
        if largest >= len(found.classes):
            raise InputError(
                f"{what}: {name} labels must be below {len(found.classes)}, the number of classes, "
                f"hold {largest}"
            )
    return found


def from_arrays(train: Arrays, test: Arrays, classes: Sequence[str] | None = None) -> Dataset:
    """Makes a dataset of arrays.

    Args:
        train: images and labels to learn from. Images are ``(n, h, w, c)`` or, of one channel,
            ``(n, h, w)``: uint8, which the network sees as ``(pixel / 255 - mean) / std``, or
            floating-point numbers, which it sees as ``(pixel - mean) / std``. Labels are ``(n,)``
            whole numbers from 0 on.
        test: images of the same form, and labels, to test on.
        classes: the names of the classes; by default the numbers 0, 1, ...

    Raises:
        InputError: an array has another form or length, labels are not whole numbers in the range
            of the classes, or images hold NaN or infinity.
    """
    splits = [split(*pair, name) for name, pair in (("train", train), ("test", test))]
    first, second = splits
    if first.image_shape != second.image_shape or first.images.dtype != second.images.dtype:
        forms = [f"{'x'.join(map(str, s.image_shape))} {s.images.dtype}" for s in splits]
        raise InputError(f"test images: must be {forms[0]} as the training images, are {forms[1]}")
    number = 1 + max(int(split.labels.max(initial=0)) for split in splits)
    names = names_of(classes, number)
    return Dataset(first, second, names)


def split(images: Any, labels: Any, name: str) -> Split:
    """Returns a split of the arrays that a user gives, checked."""
    pixels, numbers = np.asarray(images), np.asarray(labels)
    if pixels.ndim == 3:
        pixels = pixels[..., None]
    if pixels.ndim != 4 or 0 in pixels.shape:
        raise InputError(
            f"{name} images: must be of shape (n, h, w, c) or (n, h, w), and not empty, are "
            f"{np.shape(images)}"
        )
    if np.issubdtype(pixels.dtype, np.floating):
        pixels = pixels.astype(np.float32)
        if not np.isfinite(pixels).all():
            raise InputError(f"{name} images: must be finite numbers, hold NaN or infinity")
    elif np.issubdtype(pixels.dtype, np.integer) and 0 <= pixels.min() <= pixels.max() <= 255:
        pixels = pixels.astype(np.uint8)
    elif pixels.dtype == bool:
        pixels = pixels.astype(np.uint8) * np.uint8(255)
    else:
        raise InputError(
            f"{name} images: must be whole numbers from 0 to 255 or floating-point numbers, are "
            f"{pixels.dtype}" + (" beyond that" if np.issubdtype(pixels.dtype, np.integer) else "")
        )
    if numbers.shape != pixels.shape[:1]:
        raise InputError(
            f"{name} labels: must be of shape ({len(pixels)},), one for each image, are of shape "
            f"{numbers.shape}"
        )
    whole = np.issubdtype(numbers.dtype, np.integer) or numbers.dtype == bool
    if not whole and np.issubdtype(numbers.dtype, np.floating):
        with np.errstate(invalid="ignore"):
            whole = bool((numbers == np.round(numbers)).all())
    if not whole or numbers.min() < 0 or numbers.max() >= MOST_CLASSES:
        bad = numbers[~_is_label(numbers)] if whole else numbers
        example = shown(bad.ravel()[0].item()) if bad.size else "none"
        raise InputError(
            f"{name} labels: must be whole numbers in [0, {MOST_CLASSES:,}), hold {example}"
        )
    return Split(np.ascontiguousarray(pixels), numbers.astype(np.int32))


def _is_label(numbers: np.ndarray) -> np.ndarray:
    found: np.ndarray = (numbers >= 0) & (numbers < MOST_CLASSES)
    return found


def names_of(classes: Sequence[str] | None, number: int) -> tuple[str, ...]:
    """Returns the names of at least so many classes."""
    if classes is None:
        return tuple(map(str, range(max(number, 2))))
    names = tuple(map(str, classes))
    if len(names) < number:
        raise InputError(
            f"classes={shown(names)}: must name {number} classes, for labels up to {number - 1}"
        )
    return names


def name_of_arrays(dataset: Dataset) -> str:
    """Returns a name under which a dataset of arrays is known: that of its content."""
    digest = hashlib.sha256()
    for split in (dataset.train, dataset.test):
        for array in split.identity():
            digest.update(f"{array.dtype} {array.shape}".encode())
            digest.update(np.ascontiguousarray(array).tobytes())
    return f"arrays:{digest.hexdigest()[:12]}"


@dataclass(frozen=True)
class Items:
    """A split of a random-access source, such as a PyTorch or Hugging Face dataset.

    Attributes:
        items: has ``__len__``, and ``__getitem__`` or ``__getitems__``, which gives an example as
            ``(image, label)`` or a mapping with ``image`` and ``label``. An image is an array
            ``(h, w, c)`` or ``(h, w)`` in uint8, or a Pillow image.
        config: how images are brought to one size.
        index: the places of the examples in the source.
        shape: the shape of the images.
        classes: the number of classes, where that is known.
    """

    items: Any
    config: Data
    index: np.ndarray
    shape: tuple[int, int, int]
    classes: int | None = None

    def __len__(self) -> int:
        """Returns the number of examples."""
        return len(self.index)

    @property
    def image_shape(self) -> tuple[int, ...]:
        """The height, width and channels of an image."""
        return self.shape

    def take(self, index: np.ndarray) -> "Items":
        """Returns the split of some examples only, by their places."""
        return replace(self, index=self.index[index])

    def read(self, index: np.ndarray) -> dict[str, np.ndarray]:
        """Reads examples: ``image``, ``label`` and ``ok``, False where one cannot be read."""
        images = np.zeros((len(index), *self.shape), np.uint8)
        labels, ok = np.zeros(len(index), np.int32), np.ones(len(index), bool)
        for row, place in enumerate(self.index[index].tolist()):
            try:
                images[row], labels[row] = self._example(place)
            except Exception:  # whatever the user's code does; fault() tells
                ok[row] = False
        return {"image": images, "label": labels, "ok": ok}

    def read_labels(self) -> np.ndarray:
        """Reads the labels of all examples, with their images."""
        return self.read(np.arange(len(self)))["label"]

    def fault(self, index: int) -> str:
        """Says in one line why an example cannot be read, and names it."""
        place = int(self.index[index])
        try:
            self._example(place)
        except Exception as error:
            return f"example {place}: {type(error).__name__}: {error}".partition("\n")[0]
        return f"example {place}: could not be read before, but can be read now"

    def identity(self) -> list[np.ndarray]:
        """Returns number and shape, since nothing else is known without reading everything."""
        return [self.index, np.array(self.shape)]

    def files_sha256(self) -> str | None:
        """Returns None: a source has no files that are known here."""
        return None

    def _example(self, place: int) -> tuple[np.ndarray, int]:
        pixels, label = _pair(self.items, place)
        if self.classes is not None and label >= self.classes:
            raise InputError(f"its label is {label}, must be below {self.classes}, the classes")
        if pixels.shape != self.shape:
            if self.config.image_size is None:
                size = "x".join(map(str, pixels.shape))
                raise InputError(f"its image is {size}; data.image_size brings all to one size")
            pixels = fit_array(pixels, self.shape, stored_fit(self.config, self.shape))
        return pixels, label


def from_source(
    train: Any, test: Any, config: Data, classes: Sequence[str] | None = None
) -> Dataset:
    """Makes a dataset of random-access sources, whose examples are read when they are needed.

    Args:
        train: the examples to learn from: see :class:`Items`.
        test: the examples to test on.
        config: what the function that loads the data was given.
        classes: the names of the classes; by default the numbers up to the largest label, for
            which all examples are read.

    Raises:
        InputError: the first examples cannot be read or are no images with labels, or their sizes
            differ and the config does not say to which one they are brought.
    """
    splits = items({"train": train, "test": test}, config)
    most = -1
    if classes is None:
        most = max(int(split.read_labels().max()) for split in splits.values())
    names = names_of(classes, most + 1)
    first, second = (replace(split, classes=len(names)) for split in splits.values())
    return Dataset(first, second, names)


def items(splits: Mapping[str, Any], config: Data) -> dict[str, Items]:
    """Makes splits of random-access sources, whose images are of one size or brought to one.

    Raises:
        InputError: as :func:`from_source` does.
    """
    shapes = set()
    for name, source in splits.items():
        if not hasattr(source, "__len__") or not len(source):
            raise InputError(f"{name}: must have a length above 0")
        for place in range(min(len(source), LOOKED_AT)):
            shapes.add(_pair(source, place, name)[0].shape)
    channels = {shape[2] for shape in shapes}
    side = config.read_size or config.image_size
    if len(channels) > 1 or (len(shapes) > 1 and side is None):
        listed = ", ".join("x".join(map(str, shape)) for shape in sorted(shapes)[:3])
        raise InputError(
            f"data.image_size={config.image_size}: must be a size, since images differ: {listed}"
        )
    height, width, depth = shapes.pop() if len(shapes) == 1 else (side, side, channels.pop())
    shape = int(height or 0), int(width or 0), int(depth)
    return {
        name: Items(source, config, np.arange(len(source)), shape)
        for name, source in splits.items()
    }


LOOKED_AT = 100
"""Examples of each split that are looked at for sizes and labels."""


def _pair(items: Any, place: int, name: str = "") -> tuple[np.ndarray, int]:
    """Returns image (h, w, c) in uint8 and label of an example of a random-access source."""
    what = f"{name} example {place}".strip()
    single = hasattr(items, "__getitem__")
    example = items[place] if single else items.__getitems__([place])[0]
    try:
        image, label = (example["image"], example["label"]) if hasattr(example, "keys") else example
    except (KeyError, TypeError, ValueError):
        kind = type(example).__name__
        raise InputError(
            f"{what}: must be (image, label), or a mapping with image and label, is a {kind}"
        ) from None
    pixels = np.asarray(image)
    if pixels.ndim == 2:
        pixels = pixels[..., None]
    if pixels.ndim != 3 or pixels.dtype != np.uint8:
        raise InputError(
            f"{what}: its image must be (h, w, c) or (h, w) in uint8, is {pixels.shape} in "
            f"{pixels.dtype}"
        )
    number = np.asarray(label)
    if number.shape != () or not np.issubdtype(number.dtype, np.integer) or number < 0:
        raise InputError(f"{what}: its label must be a whole number >= 0, is {shown(label)}")
    return pixels, int(number)
