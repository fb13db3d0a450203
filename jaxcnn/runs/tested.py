"""The images that a trained network is tested on: its own, or other data in their form."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxcnn.config import Data
from jaxcnn.data import class_names, other, pipeline, sources
from jaxcnn.data.faults import Faults
from jaxcnn.data.images import stored_fit
from jaxcnn.data.other import Shape
from jaxcnn.data.source import Source
from jaxcnn.data.stream import Stream
from jaxcnn.errors import InputError
from jaxcnn.learning import files, records
from jaxcnn.runs import trained
from jaxcnn.runs.seen import Seen
from jaxcnn.runs.trained import Trained
from jaxcnn.tasks import Classification
from jaxcnn.text import printable

SEED = 0
"""The seed of which images are taken where a limit is given."""


@dataclass(frozen=True)
class Test:
    """The images that a network is tested on, in the form of its own.

    Attributes:
        name: what they are called.
        source: where they are read.
        places: ``(n,)``, their places in the whole split.
        render: see :attr:`jaxcnn.data.sources.Dataset.render`.
        labels: the place of each label of the source among ``classes``, -1 where an image is left
            out; None where the labels are the network's own.
        classes: the places of the classes among which the network chooses; None for all.
    """

    name: str
    source: Source
    places: np.ndarray
    render: Any = None
    labels: np.ndarray | None = None
    classes: tuple[int, ...] | None = None

    def limited(self, limit: int | None) -> "Test":
        """Returns the test on a seeded, fixed subset of the images, in their order."""
        if limit is None or limit >= len(self.places):
            return self
        drawn = np.random.Generator(np.random.PCG64(SEED)).permutation(len(self.places))
        index = np.sort(drawn[:limit])
        return replace(self, source=self.source.take(index), places=self.places[index])

    def batches(self, size: int, data: Data) -> Iterator[dict[str, np.ndarray]]:
        """Yields batches of ``image``, ``label``, ``mask`` and ``place``, every image once."""
        source, missing = self.source, -len(self.places) % size
        places = np.concatenate([self.places, np.zeros(missing, np.int64)])
        blocks: Iterator[Mapping[str, np.ndarray]]
        if isinstance(source, sources.Split):
            held = pipeline.in_batches(source, size)
            number = len(held["mask"])
            blocks = ({name: array[i] for name, array in held.items()} for i in range(number))
        else:
            faults = Faults(data.max_bad_images)
            workers = 0 if jax.default_backend() == "cpu" else data.workers
            blocks = Stream(source, source, 0, size, size, faults, workers).eval_batches()
        for at, block in enumerate(blocks):
            batch = {**block, "place": places[at * size : (at + 1) * size].astype(np.int32)}
            if self.labels is not None:
                label = self.labels[batch["label"]]
                batch |= {"label": np.maximum(label, 0), "mask": batch["mask"] & (label >= 0)}
            yield batch


def own_name(net: Trained, split: str) -> str:
    """Returns what a split of a run's own data is called."""
    about = files.read(net.folder / "dataset.json", records.Dataset)
    name = printable(about.name, longest=40)
    return name if split == "test" else f"{name}, validation"


def own(net: Trained, seen: Seen, split: sources.HeldOut, data_dir: str | None) -> Test:
    """Reads a split of a run's own data, at the size at which the network sees them.

    Image files that are brought to another size than in training are read of this split alone.

    Args:
        net: the network.
        seen: how it sees them.
        split: which of them.
        data_dir: the folder of the data, where it is another than in training.

    Raises:
        InputError: the data are not at hand, or are others by now, or have no such split.
    """
    data = replace(seen.data, dir=data_dir or seen.data.dir)
    is_anew = data.name == "folder" and seen.data != net.experiment.data
    if is_anew:
        data = replace(data, streaming=True)
    dataset = trained.read_dataset(net.folder, data)
    if split not in dataset.held_out:
        raise InputError(
            f"--split {split}: {net.folder} held out no examples for validation "
            "(config.json: data.validation is None)"
        )
    source = dataset.held_out[split]
    if is_anew and math.prod(source.image_shape) * len(source) <= sources.STREAMED_BYTES:
        source, _ = sources.read_all(source, Faults(data.max_bad_images))
        if not len(source):
            raise InputError(f"--data-dir {data.dir}: no {split} image can be read")
    places = np.arange(len(source))
    return Test(own_name(net, split), source, places, dataset.render)


def other_data(
    net: Trained, seen: Seen, name: str, data: Data, mapping: Path | None, *, shared: bool = False
) -> Test:
    """Reads the test images of other data, and finds their classes among the run's.

    Args:
        net: the network.
        seen: how it sees them.
        name: what the data are called.
        data: names them, and where they lie.
        mapping: a file for classes of other names.
        shared: whether that is one for several datasets.

    Raises:
        InputError: they are not at hand, have other channels, or classes that are none of the
            run's; or the network does not learn classes.
    """
    what = f"--data {printable(name)}"
    if not isinstance(net.task, Classification):
        raise InputError(
            f"{what}: must be left out, since {net.folder} learns {net.experiment.task.name}; "
            "other data have classes alone"
        )
    shape = _scaled(net.experiment.data, seen.data, net.image_shape)
    fit = stored_fit(seen.data, shape)
    try:
        source, theirs = other.find(data, shape, fit)
        labels = source.read_labels()
        used = np.unique(labels).tolist()
        places = class_names.match(theirs, net.classes, mapping, used, shared=shared)
        number = math.prod(shape) * len(source)
        if number <= sources.STREAMED_BYTES and not isinstance(source, sources.Split):
            source, ok = sources.read_all(source, Faults(seen.data.max_bad_images))
            labels = labels[ok]
            if not len(source):
                raise InputError("no image can be read")
    except InputError as error:
        said = str(error)
        for known in (f"data.name={str(data.name)!r}: ", f"data.dir={data.dir!r}: "):
            said = said.removeprefix(known)
        already = said.startswith("--classes")
        raise InputError(said if already else f"{what}: {said}") from error
    classes = np.unique(places[np.unique(labels)])
    classes = classes[classes >= 0]
    among = np.full(len(places), -1, np.int32)
    among[places >= 0] = np.searchsorted(classes, places[places >= 0])
    if (among < 0).any():
        index = np.flatnonzero(among[labels] >= 0)
        source, labels = source.take(index), labels[index]
    every = len(classes) == len(net.classes)
    chosen = None if every else tuple(map(int, classes))
    return Test(printable(name), source, np.arange(len(source)), None, among, chosen)


def _scaled(before: Data, after: Data, image_shape: Shape) -> Shape:
    """Returns the shape in which images are stored for a network that sees them at another size.

    Where those of the run are read at a size that the config names, it is scaled along.

    Args:
        before: how the run's images are read.
        after: how images are read now.
        image_shape: of the run's images as they are stored.
    """
    height, width, channels = image_shape
    old, new = before.read_size or before.image_size, after.read_size or after.image_size
    if height == width == old and new is not None:
        return new, new, channels
    return image_shape
