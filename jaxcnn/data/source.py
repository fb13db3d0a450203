"""What a split of a dataset must offer, wherever its examples lie."""

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import numpy as np

from jaxcnn.data.crops import Crop


@runtime_checkable
class Source(Protocol):
    """A split of a dataset, from which examples are read when they are asked for."""

    def __len__(self) -> int:
        """Returns the number of examples."""

    @property
    def image_shape(self) -> tuple[int, ...]:
        """The height, width and channels of every image."""

    @property
    def label_form(self) -> np.ndarray:
        """Zeros in the shape and type of every label."""

    def take(self, index: np.ndarray) -> "Source":
        """Returns the split of some examples only, by their places ``(k,)`` in this one."""

    def read(self, index: np.ndarray) -> dict[str, np.ndarray]:
        """Reads examples by their places in the split.

        Returns ``image`` ``(n, h, w, c)`` uint8, ``label`` as :mod:`~jaxcnn.data.labels` has them,
        ``(n,)`` int32 of classes, and ``ok`` ``(n,)`` bool, which is False where an image cannot be
        read.
        """

    def read_labels(self) -> np.ndarray:
        """Reads the labels of all examples, and no more than they need."""

    def fault(self, index: int) -> str:
        """Says in one line why an example cannot be read, and names it."""

    def identity(self) -> list[np.ndarray]:
        """Returns arrays that tell this split from others.

        In memory they are the images and labels themselves. Of what is streamed they are names,
        labels and sizes, which say nothing of the pixels: see :meth:`files_sha256`.
        """

    def files_sha256(self) -> str | None:
        """Returns the sha256 of all bytes of the files that hold the split; None without files."""


@runtime_checkable
class Croppable(Source, Protocol):
    """A split whose images may be of any size, of which random crops can be read instead."""

    def read_crops(self, index: np.ndarray, crops: Sequence[Crop]) -> dict[str, np.ndarray]:
        """Reads a crop of each of some examples; see :meth:`Source.read`.

        Args:
            index: places of the examples in the split, ``(n,)``.
            crops: what is taken of each, all of one side.
        """
