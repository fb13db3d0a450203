"""What computers do to images: contrast, distortion, coarse pixels, JPEG."""

import jax
import jax.numpy as jnp
import numpy as np

from jaxcnn.data.augment.annotations import Key
from jaxcnn.data.corruptions import jpeg
from jaxcnn.data.corruptions.planes import (
    Planes,
    bilinear,
    doubled,
    gaussian_matrices,
    product,
    reflected,
)
from jaxcnn.data.corruptions.severities import Level, Rows, at, nearest_size


def contrast(x: Planes, key: Key, rows: Rows, level: Level) -> Planes:
    """Brings all values nearer to the mean of their channel: ``mean + share * (x - mean)``."""
    (share,) = at(rows, level)
    mean = x.mean(axis=(1, 2), keepdims=True)
    return mean + share * (x - mean)


def saturate(x: Planes, key: Key, rows: Rows, level: Level) -> Planes:
    """Changes the saturation of HSV: ``clip(factor * saturation + more, 0, 1)``.

    Grey pixels, which have no hue, become red, as in the published program; images that are not
    RGB stay as they are.
    """
    if len(x) != 3:
        return x
    factor, more = at(rows, level)
    value = x.max(axis=0, keepdims=True)
    below = value - x  # of a saturation of ``below.max() / value``
    saturation = below.max(axis=0, keepdims=True) / jnp.where(value > 0, value, 1)
    wanted = jnp.clip(factor * saturation + more, 0, 1)
    is_grey = saturation == 0
    red = jnp.array([0.0, 1.0, 1.0])[:, None, None] * value
    ratio = wanted / jnp.where(is_grey, 1, saturation)
    return value - jnp.where(is_grey, wanted * red, ratio * below)


def elastic_transform(x: Planes, key: Key, rows: Rows, level: Level) -> Planes:
    """Moves three points of the image, and then each pixel by a smooth random field.

    An affine map takes three points around the centre to where they are shifted, uniformly in
    either direction, and mirrors at the border pixels; then each pixel is taken from a place that
    is off by ``displacement`` times uniform noise in [-1, 1], smoothed by a Gaussian that is cut
    off at three standard deviations, with mirrored edges. Both interpolate bilinearly; the
    published program does the first at multiples of 1/32 of a pixel.
    """
    _, h, w = x.shape
    side = min(h, w) * (244 / 224 if nearest_size(h, w) == 224 else 1)
    displacement, _, shift = at(rows * side, level)
    corner_key, field_key = jax.random.split(key)
    middle, reach = np.array([w // 2, h // 2]), max(1, min(h, w) // 3)
    points = np.array([middle + reach, middle + np.array([reach, -reach]), middle - reach])
    moves = jax.random.uniform(corner_key, (3, 2), minval=-1.0, maxval=1.0)
    # matrix @ (column, row, 1) = where that point goes; the inverse says where it comes from.
    inverse = np.linalg.inv(np.concatenate([points, np.ones((3, 1))], axis=1).T)
    matrix = (points + shift * moves).T @ jnp.asarray(inverse, jnp.float32)
    (a, b, right), (c, d, down) = matrix
    row, column = jnp.arange(h)[:, None] - down, jnp.arange(w)[None] - right
    det = a * d - b * c
    x = bilinear(x, (a * row - c * column) / det, (d * column - b * row) / det, reflected)

    noise = jax.random.uniform(field_key, (2, h, w), minval=-1.0, maxval=1.0)
    tall, wide = (
        at(gaussian_matrices(size, rows[:, 1] * side, mode="reflect", truncate=3.0), level)
        for size in (h, w)
    )
    right, down = displacement * product(tall, noise, wide)
    return bilinear(x, jnp.arange(h)[:, None] + down, jnp.arange(w)[None] + right, doubled)


def pixelate(x: Planes, key: Key, rows: Rows, level: Level) -> Planes:
    """Makes the image smaller by taking means of pixels, and larger again, as Pillow's BOX does."""
    _, h, w = x.shape
    across, down = (
        [
            (box_matrix(size, int(size * s) or 1), box_matrix(int(size * s) or 1, size))
            for s in rows[:, 0]
        ]
        for size in (w, h)
    )
    levels = jnp.round(x * 255)
    for step in (0, 1):
        wide, tall = (
            at(_stacked([pair[step] for pair in pairs]), level) for pairs in (across, down)
        )
        levels = _means(levels, wide)
        levels = _means(levels.mT, tall).mT
    return levels / 255


def _stacked(matrices: list[np.ndarray]) -> np.ndarray:
    """Returns matrices as one array, filled up with rows and columns of zeros."""
    most = np.max([m.shape for m in matrices], axis=0)
    return np.stack([np.pad(m, [(0, n) for n in most - m.shape]) for m in matrices])


def _means(levels: jax.Array, chosen: jax.Array) -> jax.Array:
    """Returns along the last axis means of the chosen levels, rounded as Pillow rounds them.

    Pillow multiplies by integers that stand for shares of ``2**22``, which decides how halves are
    rounded.
    """
    total = jnp.einsum("chw,ow->cho", levels, chosen, precision="highest").astype(jnp.int32)
    share = jnp.round(2.0**22 / jnp.maximum(chosen.sum(axis=1), 1)).astype(jnp.int32)[None, None]
    return ((total * share + (1 << 21)) >> 22).astype(jnp.float32)


def box_matrix(size: int, wanted: int) -> np.ndarray:
    """Returns with ones which pixels of an axis a pixel is the mean of, when it is resized.

    They are those whose middles are inside of it, ``(first, last]``; where it is smaller than a
    pixel, the one that its own middle is in.
    """
    scale = size / wanted
    middle = (np.arange(wanted)[:, None] + 0.5) * scale
    offset = (np.arange(size)[None] + 0.5 - middle) / max(scale, 1.0)
    return ((offset > -0.5) & (offset <= 0.5)).astype(np.float64)


def jpeg_compression(x: Planes, key: Key, rows: Rows, level: Level) -> Planes:
    """Writes and reads the image as a JPEG file of a quality."""
    tables = at(np.stack([jpeg.tables(int(quality)) for quality in rows[:, 0]]), level)
    return jpeg.written_and_read(jnp.round(x * 255), tables) / 255
