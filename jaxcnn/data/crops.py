"""Random rectangles of whole images, drawn on the host as a function of (seed, step, example)."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from jaxcnn.config import Augment, Data

ATTEMPTS = 10
"""Rectangles that are tried before the central one is taken, as torchvision does."""
STREAM = 1
"""Tells the numbers that crops are drawn from apart from those of the order of the examples."""
Box = tuple[int, int, int, int]
"""Top, left, height and width."""


@dataclass(frozen=True)
class Crop:
    """The random numbers that decide on a rectangle of an image, whatever its size.

    Attributes:
        side: the height and width that the rectangle is resized to.
        area: the smallest share of the image's area.
        aspect: the largest ratio of width to height, and of height to width.
        drawn: ``(ATTEMPTS + 1, 2)`` in [0, 1): area and aspect of each attempt, then the place.
    """

    side: int
    area: float
    aspect: float
    drawn: np.ndarray

    def box(self, height: int, width: int) -> Box:
        """Returns the rectangle in an image of this height and width (Szegedy et al. 2015).

        The share of the area is uniform in ``[area, 1]``, the logarithm of width / height in
        ``[-log aspect, log aspect]``, sides are rounded to whole pixels, and all places are equally
        likely. Of ten rectangles the first that fits is taken; where none does, it is the largest
        one at the centre whose aspect ratio is allowed (as in torchvision's RandomResizedCrop).
        """
        limit = math.log(self.aspect)
        *attempts, (down, right) = self.drawn.tolist()
        for share, turn in attempts:
            pixels = height * width * (self.area + (1 - self.area) * share)
            ratio = math.exp(limit * (2 * turn - 1))
            tall, wide = round(math.sqrt(pixels / ratio)), round(math.sqrt(pixels * ratio))
            if 0 < tall <= height and 0 < wide <= width:
                return int(down * (height - tall + 1)), int(right * (width - wide + 1)), tall, wide
        tall, wide = (
            min(height, round(width * self.aspect)),
            min(width, round(height * self.aspect)),
        )
        return (height - tall) // 2, (width - wide) // 2, tall, wide


@dataclass(frozen=True)
class Crops:
    """The random crops of a training run.

    Attributes:
        side: see :class:`Crop`.
        area: see :class:`Crop`.
        aspect: see :class:`Crop`.
    """

    side: int
    area: float
    aspect: float

    def of_step(self, seed: int, step: int, number: int) -> list[Crop]:
        """Draws the crops of the ``number`` examples of a step's batch, of all processes."""
        drawn = np.random.default_rng([seed, step, STREAM]).random((number, ATTEMPTS + 1, 2))
        return [Crop(self.side, self.area, self.aspect, one) for one in drawn]


def of_whole_images(data: Data, augment: Augment, sizes: Sequence[int] = ()) -> Crops | None:
    """Returns the crops that are taken of images of any size as they are read, if there are any.

    Where images keep their own size, or are padded, they are stored whole, and the compiled step
    crops them. Of several sizes that images are trained at, they have the largest.
    """
    if not augment.random_resized_crop or data.image_size is None or data.fit == "pad":
        return None
    side = max((data.image_size, *sizes))
    return Crops(side, augment.random_resized_crop, augment.crop_aspect)
