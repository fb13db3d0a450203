"""Data that users bring: arrays, random-access sources, and functions that return a dataset."""

import hashlib
import inspect
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from jaxcnn.config import Data
from jaxcnn.config.brought import Brought, require_given
from jaxcnn.data.crops import Crop
from jaxcnn.data.images import fit_array, fit_map, stored_fit
from jaxcnn.data.labels import alike, are_classes, largest, names_of, of_example, stored
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
        most = largest(source.labels) if isinstance(source, Split) else -1
        if most >= len(found.classes) and config.labels == "classes":
            raise InputError(
                f"{what}: {name} labels must be below {len(found.classes)}, the number of classes, "
                f"hold {most}"
            )
    return found


def from_arrays(train: Arrays, test: Arrays, classes: Sequence[str] | None = None) -> Dataset:
    """Makes a dataset of arrays.

    Args:
        train: images and labels to learn from. Images are ``(n, h, w, c)`` or, of one channel,
            ``(n, h, w)``: uint8, which the network sees as ``(pixel / 255 - mean) / std``, or
            floating-point numbers, which it sees as ``(pixel - mean) / std``. Labels are classes
            ``(n,)``, whole numbers from 0 on; maps of them ``(n, h, w)``, where -1 and 255 are
            pixels to ignore; several numbers for each image ``(n, k)``; or one ``(n,)``.
        test: images and labels of the same form, to test on.
        classes: the names of the classes, or of the k numbers; by default 0, 1, ...

    Raises:
        InputError: an array has another form or length, labels are not in the range of the
            classes, or there is NaN or infinity.
    """
    splits = {name: split(*pair, name) for name, pair in (("train", train), ("test", test))}
    first, second = splits.values()
    if first.image_shape != second.image_shape or first.images.dtype != second.images.dtype:
        forms = [f"{'x'.join(map(str, s.image_shape))} {s.images.dtype}" for s in splits.values()]
        raise InputError(f"test images: must be {forms[0]} as the training images, are {forms[1]}")
    found, names = together(splits, classes)
    return Dataset(found["train"], found["test"], names)


def together(
    splits: Mapping[str, Split], classes: Sequence[str] | None, what: str = ""
) -> tuple[dict[str, Split], tuple[str, ...]]:
    """Returns splits whose labels have one form, and the names that these need."""
    labels = alike({name: split.labels for name, split in splits.items()}, what)
    one = next(iter(labels.values()))
    names = names_of(classes, one, max(map(largest, labels.values())))
    return {name: replace(split, labels=labels[name]) for name, split in splits.items()}, names


def split(images: Any, labels: Any, name: str) -> Split:
    """Returns a split of the arrays that a user gives, checked."""
    pixels = np.asarray(images)
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
    return Split(np.ascontiguousarray(pixels), stored(labels, pixels, name))


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
        label_form: zeros in the shape and type of every label.
        classes: the number of classes, where that is known.
    """

    items: Any
    config: Data
    index: np.ndarray
    shape: tuple[int, int, int]
    label_form: np.ndarray
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
        return self._read(index, [None] * len(index), self.shape)

    def read_crops(self, index: np.ndarray, crops: Sequence[Crop]) -> dict[str, np.ndarray]:
        """Reads a random crop of each of some examples, as :meth:`read` does."""
        side = crops[0].side
        return self._read(index, crops, (side, side, self.shape[2]))

    def _read(
        self, index: np.ndarray, crops: Sequence[Crop | None], shape: tuple[int, int, int]
    ) -> dict[str, np.ndarray]:
        form = self._label_shape(shape)
        images = np.zeros((len(index), *shape), np.uint8)
        labels = np.zeros((len(index), *form), self.label_form.dtype)
        ok = np.ones(len(index), bool)
        for row, place in enumerate(self.index[index].tolist()):
            try:
                images[row], labels[row] = self._example(place, crops[row])
            except Exception:  # whatever the user's code does; fault() tells
                ok[row] = False
        return {"image": images, "label": labels, "ok": ok}

    def _label_shape(self, shape: tuple[int, int, int]) -> tuple[int, ...]:
        """Returns the shape of the label of an image of a shape; maps have its height and width."""
        return shape[:2] if self.label_form.ndim == 2 else self.label_form.shape

    def read_labels(self) -> np.ndarray:
        """Reads the labels of all examples that can be read, a few images at a time."""
        found = [part["label"][part["ok"]] for part in map(self.read, self._blocks())]
        return np.concatenate(found)

    def largest_class(self) -> int:
        """Returns the largest class of all examples, of which it holds a few at a time."""
        return max(largest(self.read(block)["label"]) for block in self._blocks())

    def _blocks(self) -> Iterator[np.ndarray]:
        return (np.arange(at, min(at + 64, len(self))) for at in range(0, len(self), 64))

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

    def _example(self, place: int, crop: Crop | None = None) -> tuple[np.ndarray, np.ndarray]:
        pixels, label = _pair(self.items, place, numbers=self.config.labels == "numbers")
        shape, fit = self.shape, stored_fit(self.config, self.shape)
        if crop is not None:
            top, left, tall, wide = crop.box(*pixels.shape[:2])
            inside = slice(top, top + tall), slice(left, left + wide)
            pixels, label = pixels[inside], label[inside] if label.ndim == 2 else label
            shape, fit = (crop.side, crop.side, self.shape[2]), "resize"
        if pixels.shape != shape:
            if self.config.image_size is None:
                size = "x".join(map(str, pixels.shape))
                raise InputError(f"its image is {size}; data.image_size brings all to one size")
            kept = self.config.crop_ratio
            pixels = fit_array(pixels, shape, fit, kept)
            if label.ndim == 2:
                label = fit_map(label, shape[:2], fit, kept)
        form = self.label_form
        wanted = self._label_shape(shape)
        if label.shape != wanted or label.dtype not in (np.int32, form.dtype):
            raise InputError(
                f"its label is {label.dtype} of shape {label.shape}, must be {form.dtype} of shape "
                f"{wanted} as that of the first example"
            )
        label = label.astype(form.dtype)
        most = largest(label[None])
        if self.classes is not None and most >= self.classes:
            raise InputError(f"its label is {most}, must be below {self.classes}, the classes")
        return pixels, label


def from_source(
    train: Any, test: Any, config: Data, classes: Sequence[str] | None = None
) -> Dataset:
    """Makes a dataset of random-access sources, whose examples are read when they are needed.

    Args:
        train: the examples to learn from: see :class:`Items`. Labels are such as
            :func:`from_arrays` takes, all of the form of the first one.
        test: the examples to test on.
        config: what the function that loads the data was given.
        classes: the names of the classes, or of the numbers that a label holds; by default 0,
            1, ... up to the largest class, for which all examples are read.

    Raises:
        InputError: the first examples cannot be read or are no images with labels, or their sizes
            differ and the config does not say to which one they are brought.
    """
    splits = items({"train": train, "test": test}, config)
    form, most = splits["train"].label_form[None], -1
    if classes is None and are_classes(form):
        most = max(split.largest_class() for split in splits.values())
    names = names_of(classes, form, most)
    first, second = (replace(split, classes=len(names)) for split in splits.values())
    return Dataset(first, second, names)


def items(splits: Mapping[str, Any], config: Data) -> dict[str, Items]:
    """Makes splits of random-access sources, whose images are of one size or brought to one.

    Raises:
        InputError: as :func:`from_source` does.
    """
    shapes, forms = set(), []
    for name, source in splits.items():
        if not hasattr(source, "__len__") or not len(source):
            raise InputError(f"{name}: must have a length above 0")
        for place in range(min(len(source), LOOKED_AT)):
            pixels, label = _pair(source, place, name, numbers=config.labels == "numbers")
            shapes.add(pixels.shape)
            forms.append(label)
    channels = {shape[2] for shape in shapes}
    side = config.read_size or config.image_size
    if len(channels) > 1 or (len(shapes) > 1 and side is None):
        listed = ", ".join("x".join(map(str, shape)) for shape in sorted(shapes)[:3])
        raise InputError(
            f"data.image_size={config.image_size}: must be a size, since images differ: {listed}"
        )
    height, width, depth = shapes.pop() if len(shapes) == 1 else (side, side, channels.pop())
    shape = int(height or 0), int(width or 0), int(depth)
    first = forms[0]
    form = np.zeros(shape[:2] if first.ndim == 2 else first.shape, first.dtype)
    return {
        name: Items(source, config, np.arange(len(source)), shape, form)
        for name, source in splits.items()
    }


LOOKED_AT = 100
"""Examples of each split that are looked at for sizes and labels."""


def _pair(
    items: Any, place: int, name: str = "", *, numbers: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """Returns image (h, w, c) in uint8 and label of an example of a random-access source."""
    what = f"{name} example {place}".strip()
    single = hasattr(items, "__getitem__")
    try:
        example = items[place] if single else items.__getitems__([place])[0]
    except OSError as error:
        raise InputError(f"{what}: cannot be read ({error})") from error
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
    return pixels, of_example(label, pixels.shape[:2], what, numbers=numbers)
