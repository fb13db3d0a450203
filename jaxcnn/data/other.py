"""Reads the test images of other data than a run's own, in the form of the run's images."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from jaxcnn.config import Data
from jaxcnn.data import image_folder, own, records, schemes, sources
from jaxcnn.data.image_folder import Files
from jaxcnn.data.images import Fit, fit_array
from jaxcnn.data.records import Records
from jaxcnn.data.source import Source
from jaxcnn.errors import InputError

Shape = tuple[int, int, int]


@dataclass(frozen=True)
class Fitted:
    """A split whose images are brought to another height and width when they are read.

    Attributes:
        source: the split as it is stored.
        image_shape: height, width and channels that its images are brought to.
        fit: how they are.
    """

    source: Source
    image_shape: Shape
    fit: Fit

    def __len__(self) -> int:
        """Returns the number of examples."""
        return len(self.source)

    @property
    def label_form(self) -> np.ndarray:
        """Zeros in the shape and type of every label."""
        return self.source.label_form

    def take(self, index: np.ndarray) -> "Fitted":
        """Returns the split of some examples only, by their places."""
        return replace(self, source=self.source.take(index))

    def read(self, index: np.ndarray) -> dict[str, np.ndarray]:
        """Reads examples as the split does, and fits their images."""
        found = self.source.read(index)
        images = [fit_array(image, self.image_shape, self.fit) for image in found["image"]]
        return {**found, "image": np.stack(images) if images else self._none()}

    def _none(self) -> np.ndarray:
        return np.zeros((0, *self.image_shape), np.uint8)

    def read_labels(self) -> np.ndarray:
        """Reads the labels of all examples."""
        return self.source.read_labels()

    def fault(self, index: int) -> str:
        """Says in one line why an example cannot be read, and names it."""
        return self.source.fault(index)

    def identity(self) -> list[np.ndarray]:
        """Returns what tells the split from others."""
        return self.source.identity()

    def files_sha256(self) -> str | None:
        """Returns the digest of the files that hold the split."""
        return self.source.files_sha256()


def named(word: str, data_dir: str | None = None) -> Data:
    """Returns the data that a word names: data that are at hand by this name, or else a folder.

    Args:
        word: a name, an address or a path.
        data_dir: the folder of prepared TFDS datasets.

    Raises:
        InputError: it is no text that could name data.
    """
    config = Data(word, dir=data_dir)
    if word in sources.BUILT_IN or ":" in word or records.is_prepared(config):
        return config
    path = Path(word).expanduser()
    return Data("folder", dir=str(path)) if path.is_dir() else config


def find(config: Data, image_shape: Shape, fit: Fit) -> tuple[Source, Sequence[str]]:
    """Finds the held-out split of some data for a network that was trained on others.

    Image files become grey or RGB, whichever the network takes, as in training and prediction;
    stored images must have its channels.

    Args:
        config: names the data, and where they lie.
        image_shape: height, width and channels of the images that the network was trained on, as
            they are stored.
        fit: how an image of another size is brought to them: :func:`.images.stored_fit`.

    Returns:
        The split, and the names of its classes.

    Raises:
        InputError: there are no such data, their images have other channels, or their labels are
            not one class for each image.
    """
    height, width, channels = image_shape
    if config.name == "folder":
        if channels not in (1, 3):
            raise InputError(f"image files give 1 or 3 channels; the run's images have {channels}")
        return image_folder.to_test(Path(str(config.dir)).expanduser(), image_shape, fit)
    form: dict[str, Any] = {"channels": channels} if channels in (1, 3) else {}
    read = replace(config, image_size=max(height, width), read_size=None, fit="resize", **form)
    source, classes = _find(replace(read, validation=None))
    if source.label_form.ndim or not np.issubdtype(source.label_form.dtype, np.integer):
        raise InputError("its labels are not one class for each image")
    if source.image_shape[2] != channels:
        raise InputError(
            f"its images have {source.image_shape[2]} channels, the run's have {channels}; "
            "image files in class folders are converted"
        )
    if isinstance(source, Files | Records):
        return replace(source, image_shape=image_shape, fit=fit), classes
    if source.image_shape == image_shape:
        return source, classes
    if isinstance(source, sources.Split) and source.images.dtype != np.uint8:
        raise InputError(
            f"its images are floating-point numbers of {'x'.join(map(str, source.image_shape))}; "
            f"must be of {'x'.join(map(str, image_shape))} as the run's, or in uint8"
        )
    return Fitted(source, image_shape, fit), classes


def _find(config: Data) -> tuple[Source, Sequence[str]]:
    """Returns the held-out split as it is stored, and its classes."""
    name = str(config.name)
    if ":" in name:
        dataset = (schemes if schemes.scheme_of(config) else own).load(config)
    elif name in sources.BUILT_IN:
        dataset = sources.BUILT_IN[name](config)
    else:
        return records.find_test(config, list(sources.BUILT_IN))
    if dataset.render is None:
        return dataset.test, dataset.classes
    return _drawn(dataset), dataset.classes


def _drawn(dataset: sources.Dataset) -> sources.Split:
    """Returns a split of images in memory, of one whose images are drawn."""
    stored = dataset.test.read(np.arange(len(dataset.test)))
    found = dataset.rendered({name: jnp.asarray(stored[name]) for name in ("image", "label")})
    return sources.Split(np.asarray(found["image"]), np.asarray(found["label"]))
