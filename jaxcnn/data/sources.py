"""Reads the dataset that the config names: into memory where it fits, else when it is needed."""

import functools
import importlib.util
import math
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from jaxcnn.config import Data
from jaxcnn.data import image_folder, records
from jaxcnn.data.faults import Faults
from jaxcnn.data.held_out import hold_out, require_named, strata
from jaxcnn.data.images import CROP_RATIO
from jaxcnn.data.source import Source
from jaxcnn.errors import InputError
from jaxcnn.memory import require_memory
from jaxcnn.text import printable

if TYPE_CHECKING:
    import jax

    from jaxcnn.data import shapes


@dataclass(frozen=True)
class Split:
    """A split in memory.

    Attributes:
        images: ``(n, h, w, c)`` uint8; where the dataset is rendered, what
            :attr:`Dataset.render` takes instead.
        labels: ``(n,)`` int32 of classes, or in another form of :mod:`~jaxcnn.data.labels`.
        files: the digest of the files that the images were read from, if there are any.
    """

    images: np.ndarray
    labels: np.ndarray
    files: str | None = None

    def __len__(self) -> int:
        """Returns the number of examples."""
        return len(self.labels)

    @property
    def image_shape(self) -> tuple[int, ...]:
        """The height, width and channels of an image."""
        return self.images.shape[1:]

    @property
    def label_form(self) -> np.ndarray:
        """Zeros in the shape and type of every label."""
        return np.zeros(self.labels.shape[1:], self.labels.dtype)

    def take(self, index: np.ndarray) -> "Split":
        """Returns the split of some examples only, by their places."""
        return replace(self, images=self.images[index], labels=self.labels[index])

    def read(self, index: np.ndarray) -> dict[str, np.ndarray]:
        """Returns examples: ``image``, ``label`` and ``ok``, which is True."""
        ok = np.ones(len(index), bool)
        return {"image": self.images[index], "label": self.labels[index], "ok": ok}

    def read_labels(self) -> np.ndarray:
        """Returns the labels of all examples."""
        return self.labels

    def fault(self, index: int) -> str:
        """Raises ValueError, since what lies in memory can always be read."""
        raise ValueError(f"index={index}: an example in memory has no fault")

    def identity(self) -> list[np.ndarray]:
        """Returns the images and labels, which tell this split from every other one."""
        return [self.images, self.labels]

    def files_sha256(self) -> str | None:
        """Returns the digest of the files that the images were read from."""
        return self.files


HeldOut = Literal["test", "validation"]
"""The splits that are not learned from."""


@dataclass(frozen=True)
class Dataset:
    """Images with labels.

    Attributes:
        train: the split that is learned from.
        test: the split that is held out to the end.
        classes: the names of the classes, in the order of the labels, or of the numbers that a
            label holds.
        render: draws the images, and perhaps label maps, inside the compiled step, from what the
            splits hold in their place; None where the splits hold images.
        streamed: whether the splits are read batch by batch; else all are a :class:`Split`.
        validation: the split that is held out to choose by; None where there is none.
        note: says how the examples were split, where the data do not say so themselves.
    """

    train: Source
    test: Source
    classes: tuple[str, ...]
    render: "shapes.Render | None" = None
    streamed: bool = False
    validation: Source | None = None
    note: str = ""

    @property
    def held_out(self) -> dict[HeldOut, Source]:
        """The splits that can be evaluated."""
        found: dict[HeldOut, Source] = {"test": self.test}
        return found if self.validation is None else {**found, "validation": self.validation}

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """The height, width and channels of an image."""
        if self.render is not None:
            return self.render.image_shape
        h, w, c = self.train.image_shape
        return h, w, c

    def rendered(self, batch: "Mapping[str, jax.Array]") -> "dict[str, jax.Array]":
        """Returns a batch with images ``(n, h, w, c)`` from a batch of what a split holds."""
        return dict(batch) if self.render is None else self.render(batch)

    @property
    def image_dtype(self) -> str:
        """The type of the pixels: uint8, or float32 of arrays of floating-point numbers."""
        if self.render is None and isinstance(self.train, Split):
            return str(self.train.images.dtype)
        return "uint8"

    def test_form(self, data: Data) -> str:
        """Names the form of the test images: digests can be compared only where it is the same."""
        if self.render is not None:
            return "rendered"
        if not isinstance(self.test, Split):
            return type(self.test).__name__.lower()
        fit: str = "square" if data.fit == "crop" and data.read_size else data.fit
        if fit == "crop" and data.crop_ratio != CROP_RATIO:
            fit = f"crop {data.crop_ratio:g}"
        return f"{'x'.join(map(str, self.test.image_shape))} {fit}"  # as the files were decoded


def load(config: Data) -> Dataset:
    """Reads the dataset that the config names.

    Raises:
        InputError: the dataset is unknown, not prepared, not a set of equally sized images with
            one label each, or smaller than the config asks for.
    """
    if ":" in str(config.name):
        from jaxcnn.data import own, schemes

        dataset = (schemes if schemes.scheme_of(config) else own).load(config)
    else:
        name = str(config.name)
        dataset = BUILT_IN[name](config) if name in BUILT_IN else _tfds(config)
    _check_names(dataset.classes, config)
    if config.labels == "numbers":
        dataset = _of_numbers(dataset, config)
    if config.train_limit is not None:
        if config.train_limit > len(dataset.train):
            raise InputError(
                f"data.train_limit={config.train_limit}: {config.name} has only "
                f"{len(dataset.train)} training examples"
            )
        dataset = replace(dataset, train=dataset.train.take(np.arange(config.train_limit)))
    if isinstance(config.validation, str) and dataset.validation is None:
        require_named(config.validation, (), config)
    streamed = config.streaming
    if streamed is None:
        size = _number(dataset) * _stored_bytes(dataset)
        streamed = dataset.render is None and size > STREAMED_BYTES
    dataset = _to_stream(dataset, config) if streamed else _in_memory(dataset, config)
    if isinstance(config.validation, int | float):
        whole, names = dataset.train, dataset.classes
        share, seed = config.validation, config.seed
        of = strata(whole, numbers=config.labels == "numbers")
        kept, held = hold_out(of, share, seed, "data.validation", names)
        dataset = replace(dataset, train=whole.take(kept), validation=whole.take(held))
    if config.batch_size > len(dataset.train):
        left = "" if config.validation is None else ", without those held out for validation"
        raise InputError(
            f"data.batch_size={config.batch_size}: must be at most the {len(dataset.train)} "
            f"training examples of {config.name}{left}"
        )
    for split, source in dataset.held_out.items():
        if not len(source):
            raise InputError(
                f"data.max_bad_images={config.max_bad_images}: no {split} image of {config.name} "
                f"{config.dir or ''} can be read"
            )
    _check_batch(dataset, config)
    return dataset


def unseen(dataset: Dataset, config: Data) -> str:
    """Says in one line which classes have no training examples, such as those of labels with gaps.

    It is empty where all have some, and where a label is no class or would have to be read.
    """
    form, number = dataset.train.label_form, len(dataset.classes)
    is_class = form.ndim == 0 and form.dtype == np.int32 and config.labels == "classes"
    if not is_class or not isinstance(dataset.train, Split | image_folder.Files):
        return ""
    seen = np.bincount(dataset.train.read_labels(), minlength=number) > 0
    if seen.all():
        return ""
    if seen.sum() == 1:
        only = printable(dataset.classes[int(seen.argmax())])
        return f"{only} is the only class of the training examples; there is nothing to tell apart"
    line = "no training example is of the class "
    line += image_folder.few([dataset.classes[i] for i in np.flatnonzero(~seen)])
    tested = np.bincount(dataset.test.read_labels(), minlength=number) > 0
    if (missed := tested & ~seen).any():
        line += ", although test examples are of "
        line += image_folder.few([dataset.classes[i] for i in np.flatnonzero(missed)])
    return line


def _of_numbers(dataset: Dataset, config: Data) -> Dataset:
    """Returns a dataset whose labels are numbers, where they might have been taken for classes.

    Raises:
        InputError: they are classes with names of their own.
    """
    form, names = dataset.train.label_form, dataset.classes
    if form.ndim:
        return dataset
    if len(names) > 1 and names != tuple(map(str, range(len(names)))):
        raise InputError(
            f"data.labels='numbers': the labels of {config.name} are no numbers, but the classes "
            f"{printable(', '.join(names), longest=100)}"
        )

    def numbers(source: Source) -> Source:
        if not isinstance(source, Split):
            return source
        return replace(source, labels=source.labels.astype(np.float32))

    held = dataset.validation
    return replace(
        dataset,
        train=numbers(dataset.train),
        test=numbers(dataset.test),
        validation=None if held is None else numbers(held),
        classes=names if len(names) == 1 else ("value",),
    )


UNFIT = frozenset({"Cc", "Cs", "Zl", "Zp"})
"""Unicode's categories of what names of classes must not hold: control characters, bytes that are
not UTF-8, and separators of lines and paragraphs."""
CLASS_NAME = "a name of 1 to 255 characters of UTF-8, without line breaks and control characters"


def is_class_name(name: str) -> bool:
    r"""Tells whether a class can have a name, which must be shown and saved: ``CLASS_NAME``.

    >>> is_class_name("saint bernard"), is_class_name(" "), is_class_name("a\nb")
    (True, False, False)
    """
    fit = all(unicodedata.category(letter) not in UNFIT for letter in name)
    return fit and len(name) <= 255 and not name.isspace() and name != ""


def _check_names(classes: Sequence[str], config: Data) -> None:
    """Checks the names of classes, which are those of folders or come from a file."""
    for name in classes:
        if not is_class_name(name):
            shown = printable(name, longest=255)
            raise InputError(f"data.name={config.name!r}: the class {shown} must have {CLASS_NAME}")


STREAMED_BYTES = 2**31
"""A dataset of more decoded bytes than this is streamed, unless the config says otherwise."""

BLOCK = 256
"""How many examples are read at once: array_record reads many far faster than one at a time."""


def _check_batch(dataset: Dataset, config: Data) -> None:
    """Checks that the images of a batch fit into memory, as they are stored and as they are seen.

    Raises:
        InputError: they do not, even in one byte a channel.
    """
    height, width, channels = dataset.image_shape
    pixels = max(height * width, (config.image_size or 0) ** 2)
    label = dataset.train.label_form
    of_label = label.itemsize * (pixels if label.ndim == 2 else label.size)
    for name, most in (("batch_size", len(dataset.train)), ("eval_batch_size", len(dataset.test))):
        number = min(getattr(config, name), most)
        require_memory(
            f"data.{name}={getattr(config, name)}: {number:,} images of {pixels:,} pixels",
            number * (pixels * channels + of_label),
        )


def _to_stream(dataset: Dataset, config: Data) -> Dataset:
    """Reads the first images of every split, before a run begins that could read none.

    Raises:
        InputError: more images than the config tolerates cannot be read, or all of a split, or a
            batch does not fit into memory.
    """
    _check_batch(dataset, config)
    for name, source in [("training", dataset.train), *dataset.held_out.items()]:
        bad: list[int] = []
        for at in range(len(source)):
            if source.read(np.array([at]))["ok"][0]:
                break
            bad.append(at)
            if len(bad) > config.max_bad_images:
                Faults(config.max_bad_images).note(source, np.array(bad))
        else:
            if bad:
                raise InputError(
                    f"data.max_bad_images={config.max_bad_images}: none of the {len(bad):,} {name} "
                    f"images can be read: {source.fault(0)}"
                )
    return replace(dataset, streamed=True)


def _in_memory(dataset: Dataset, config: Data) -> Dataset:
    """Reads all images that can be read.

    Raises:
        InputError: they do not fit into the host's memory, or more images than the config tolerates
            cannot be read.
    """
    height, width, channels = dataset.image_shape
    number = _number(dataset)
    if not isinstance(dataset.train, Split):
        # While some are being held out, there are two copies of the images.
        copies = 2 if isinstance(config.validation, int | float) else _copies()
        require_memory(
            f"data.streaming={config.streaming}: to hold {number:,} images of "
            f"{height}x{width}x{channels}",
            copies * number * _stored_bytes(dataset),
            "data.streaming=True holds a few batches",
        )
    faults = Faults(config.max_bad_images)
    train, _ = read_all(dataset.train, faults)
    test, ok = read_all(dataset.test, faults)
    validation = dataset.validation
    if validation is not None:
        validation, _ = read_all(validation, faults)
    # Runs whose images are of another form are compared by the files that their tests counted.
    counted = dataset.test
    if isinstance(counted, image_folder.Files):
        counted = counted.take(ok)
    test = replace(test, files=counted.files_sha256())
    return replace(dataset, train=train, test=test, validation=validation)


def _stored_bytes(dataset: Dataset) -> int:
    """Returns the bytes of an example: those of an image in one byte a channel, and of a label."""
    return math.prod(dataset.image_shape) + dataset.train.label_form.nbytes


def _number(dataset: Dataset) -> int:
    """Returns the number of all examples."""
    return sum(map(len, (dataset.train, *dataset.held_out.values())))


def _copies() -> int:
    """Returns how often data in memory lie in the host's: a CPU's own copy of them does so too."""
    import jax

    return 2 if jax.default_backend() == "cpu" else 1


SMALL_PIXELS = 96**2
"""Pixels of an image up to which one thread decodes a set faster than two (EPYC, 2 cores)."""


def read_all(source: Source, faults: Faults) -> tuple[Split, np.ndarray]:
    """Reads the examples of a split that can be read, and tells which these are, ``(n,)`` bool."""
    n = len(source)
    if isinstance(source, Split):
        return source, np.ones(n, bool)
    images, form = np.empty((n, *source.image_shape), np.uint8), source.label_form
    labels, ok = np.empty((n, *form.shape), form.dtype), np.empty(n, bool)

    def read(start: int) -> None:
        at = np.arange(start, min(start + BLOCK, n))
        got = source.read(at)
        images[at], labels[at], ok[at] = got["image"], got["label"], got["ok"]
        faults.note(source, at[~got["ok"]])

    # Decoders let other threads run, but so seldom with small images that two are slower than one.
    small = (
        isinstance(source, records.Records)
        and source.fit is None
        and math.prod(source.image_shape[:2]) <= SMALL_PIXELS
    )
    with ThreadPoolExecutor(1 if small else None) as pool:
        for _ in pool.map(read, range(0, n, BLOCK)):
            pass
    return Split(images, labels) if ok.all() else Split(images[ok], labels[ok]), ok


def _digits(_: Data) -> Dataset:
    """Reads 1,797 scans of handwritten digits, 8x8 (Alpaydin & Kaynak 1998), from scikit-learn.

    The split is fixed: 1,437 train, 360 test, drawn by a seeded permutation. Writers are not
    kept apart.
    """
    rows = _digits_of_scikit_learn()
    images = np.round(rows[:, :-1] * (255 / 16)).astype(np.uint8)  # scans hold 0 .. 16
    images, labels = images.reshape(-1, 8, 8, 1), rows[:, -1].astype(np.int32)
    order = np.random.Generator(np.random.PCG64(0)).permutation(len(labels))
    test, train = order[:360], order[360:]
    return Dataset(
        Split(images[train], labels[train]),
        Split(images[test], labels[test]),
        tuple(str(i) for i in range(10)),
    )


def _digits_of_scikit_learn() -> np.ndarray:
    """Returns the 64 pixels and the label of each scan.

    They are read from the library's file where that is found: importing the library takes seconds.
    """
    library = importlib.util.find_spec("sklearn")
    for folder in (library and library.submodule_search_locations) or ():
        file = Path(folder, "datasets", "data", "digits.csv.gz")
        if file.exists():
            return np.loadtxt(file, delimiter=",")
    from sklearn.datasets import load_digits

    raw = load_digits()
    return np.column_stack([raw.data, raw.target])


def _shapes(config: Data, *, masks: bool = False) -> Dataset:
    """Makes figures to learn, which are drawn in the compiled step from two numbers each.

    With ``masks``, the labels that are drawn are maps, in which 0 is the background.
    """
    from jaxcnn.data import shapes

    _check_examples(config, 20)  # two numbers, a label, and what comes between
    keys = [
        shapes.examples(split, n) for split, n in zip(shapes.SPLITS, config.examples, strict=True)
    ]
    classes = ("background", *shapes.CLASSES) if masks else shapes.CLASSES
    train, test = (Split(k, shapes.labels(k) + np.int32(masks)) for k in keys)
    return Dataset(train, test, classes, shapes.Render(_side(config), config.seed, masks))


def _check_examples(config: Data, size: int) -> None:
    """Checks that there can be so many generated examples of ``size`` bytes each."""
    require_memory(
        f"data.examples={config.examples}: generated examples of {size:,} bytes each",
        sum(config.examples) * size,
    )


def _synthetic(config: Data) -> Dataset:
    """Makes noise in memory to measure speed with; there is nothing to learn."""
    shape = (_side(config), _side(config), config.channels)
    _check_examples(config, 8 + _copies() * math.prod(shape))
    rng = np.random.Generator(np.random.PCG64(config.seed))
    train, test = (
        Split(
            np.frombuffer(rng.bytes(n * math.prod(shape)), np.uint8).reshape(n, *shape),
            np.arange(n, dtype=np.int32) % np.int32(config.num_classes),
        )
        for n in config.examples
    )
    return Dataset(train, test, tuple(str(i) for i in range(config.num_classes)))


def _folder(config: Data) -> Dataset:
    train, test, classes, validation = image_folder.scan(config)
    note = ""
    if train.root == test.root:
        share = image_folder.TEST_SHARE if config.test_share is None else config.test_share
        note = (
            f"{printable(str(train.root))} has no train and test: of its images, {len(train):,} "
            f"train and {len(test):,} test (data.test_share={share:g}, data.seed={config.seed})"
        )
    return Dataset(train, test, classes, validation=validation, note=note)


def _tfds(config: Data) -> Dataset:
    train, test, classes, validation = records.find(config, list(BUILT_IN))
    return Dataset(train, test, classes, validation=validation)


def _side(config: Data) -> int:
    return config.image_size or 32


BUILT_IN: dict[str, Callable[[Data], Dataset]] = {
    "digits": _digits,
    "shapes": _shapes,
    "shapes_masks": functools.partial(_shapes, masks=True),
    "synthetic": _synthetic,
    "folder": _folder,
}
