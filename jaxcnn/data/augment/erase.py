"""Rectangles of an image that are set to zero, the mean where images are normalised."""

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Int

from jaxcnn.data.augment.annotations import Array, Key, SameImages
from jaxcnn.data.augment.geometry import random_boxes


def cutout(x: SameImages, key: Key, side: int) -> SameImages:
    """Sets a ``side`` x ``side`` square to zero, its centre anywhere in the image."""
    n, h, w, _ = x.shape
    top_key, left_key = jax.random.split(key)
    top = jax.random.randint(top_key, (n,), 0, h) - side // 2
    left = jax.random.randint(left_key, (n,), 0, w) - side // 2
    square = jnp.full((n,), side)
    return jnp.where(inside(jnp.stack([top, left, square, square], axis=1), h, w), 0.0, x)


def random_erasing(
    x: SameImages, key: Key, probability: float, area: tuple[float, float], aspect: float
) -> SameImages:
    """Sets a random rectangle of some images to zero (Zhong et al. 2020).

    Args:
        x: ``(n, h, w, c)`` images.
        key: random key of this step.
        probability: probability that an image is changed.
        area: smallest and largest share of the image's area.
        aspect: largest ratio of width to height, and of height to width.
    """
    n, h, w, _ = x.shape
    chance, place = jax.random.split(key)
    boxes, found = random_boxes(place, n, h, w, area, aspect)
    erased = found & jax.random.bernoulli(chance, probability, (n,))
    return jnp.where(inside(boxes, h, w) & erased[:, None, None, None], 0.0, x)


def inside(boxes: Int[Array, "n 4"], height: int, width: int) -> Bool[Array, "n h w 1"]:
    """Marks the pixels within a rectangle (top, left, height, width), which may stick out."""
    rows, columns = jnp.arange(height)[None], jnp.arange(width)[None]
    top, left, tall, wide = (side[:, None] for side in boxes.T)
    in_rows = (rows >= top) & (rows < top + tall)
    in_columns = (columns >= left) & (columns < left + wide)
    return in_rows[:, :, None, None] & in_columns[:, None, :, None]
