"""Label maps that a network gives, brought back to the pictures that it was asked about."""

from typing import Literal

import numpy as np

from jaxcnn.config import Data
from jaxcnn.data.augment import fitted_size
from jaxcnn.data.images import Fit, middle, shorter_side, stored_fit
from jaxcnn.data.labels import ALSO_IGNORED

Size = tuple[int, int]


def of_picture(
    labels: np.ndarray, size: Size, image_shape: tuple[int, int, int], data: Data
) -> np.ndarray:
    """Returns the label of each pixel of a picture: that of the network's nearest pixel.

    Args:
        labels: ``(h, w)``, what the network gives, of any height and width.
        size: the height and width of the picture, as it is shown.
        image_shape: height, width and channels of the dataset's images, to which it was brought.
        data: how it was brought to them, and these to what the network sees.

    Returns:
        ``size``, int32; 255 where the network sees nothing of the picture.
    """
    stored = image_shape[:2]
    seen = fitted_size(*stored, data)
    outer = _sides(size, stored, stored_fit(data, image_shape))
    inner = _sides(stored, seen, data.crop_ratio if data.fit == "crop" else data.fit)
    places = []
    for pixels, shown, side, (start, end), part in zip(
        size, labels.shape, stored, outer, inner, strict=True
    ):
        first, last = (start + (end - start) * edge / side for edge in part)
        at = (np.arange(pixels) + 0.5 - first) / (last - first) * shown
        places.append(np.where((at >= 0) & (at < shown), at, -1).astype(int))
    rows, columns = places
    found = labels[rows[:, None], columns].astype(np.int32)
    return np.where((rows[:, None] < 0) | (columns < 0), np.int32(ALSO_IGNORED), found)


def _sides(
    size: Size, to: Size, fit: Fit | Literal["pad"]
) -> list[tuple[int | float, int | float]]:
    """Returns from where to where an image is seen that was brought to another size, by axis."""
    if size == to or fit == "resize":
        return [(0, side) for side in size]
    if fit == "pad":
        margins = [(wide - side) // 2 for side, wide in zip(size, to, strict=True)]
        return [(-margin, wide - margin) for margin, wide in zip(margins, to, strict=True)]
    scaled, starts = middle(size, to[0], shorter_side(to[0], fit))
    return [
        (start * side / more, (start + to[0]) * side / more)
        for side, more, start in zip(size, scaled, starts, strict=True)
    ]
