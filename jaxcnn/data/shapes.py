"""Shapes: pictures of coloured geometric figures, drawn in JAX at any size from two numbers each.

A picture is a pure function of (split, index, seed), so nothing is stored or downloaded, and
where its figure lies is known exactly. Edges are smooth because a pixel's colour is mixed by its
signed distance to the outline (after I. Quilez, "2D distance functions").
"""

from collections.abc import Mapping
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int32, PRNGKeyArray

CLASSES = (
    "circle",
    "crescent",
    "cross",
    "ellipse",
    "heart",
    "pentagon",
    "ring",
    "square",
    "star",
    "triangle",
)
"""Names of the figures; example ``i`` of a split shows figure ``i % 10``."""

SPLITS = ("train", "test")


def examples(split: str, number: int) -> np.ndarray:
    """Returns the first examples of a split as ``(n, 2)`` int32 for :func:`draw`: split and index.

    >>> examples("test", 2).tolist()
    [[1, 0], [1, 1]]
    """
    index = np.arange(number, dtype=np.int32)
    return np.stack([np.full_like(index, SPLITS.index(split)), index], axis=1)


def labels(of: Int32[np.ndarray, "n 2"]) -> np.ndarray:
    """Returns the classes of :func:`examples` as ``(n,)`` int32."""
    return of[:, 1] % np.int32(len(CLASSES))


def draw(of: Int32[Array, "n 2"], side: int, seed: int | jax.Array = 0) -> dict[str, Array]:
    """Draws pictures and tells what is where in them.

    Args:
        of: rows of :func:`examples`.
        side: height and width of a picture, in pixels.
        seed: seed of the whole set.

    Returns:
        ``image`` ``(n, side, side, 3)`` uint8; ``mask`` ``(n, side, side)`` float32, the part of
        each pixel that the figure covers, in [0, 1]; ``centre`` ``(n, 2)`` float32, row and column
        of the figure's centre in pixels, where (0, 0) is the middle of the first pixel; ``radius``
        ``(n,)`` float32, of the circle about the centre that holds the figure, in pixels.
    """
    key = jax.random.key(seed)

    def one(example: Array) -> dict[str, Array]:
        own = jax.random.fold_in(jax.random.fold_in(key, example[0]), example[1])
        return _picture(own, example[1] % len(CLASSES), side)

    return jax.vmap(one)(of)


@dataclass(frozen=True)
class Render:
    """Draws a batch inside a compiled step.

    Attributes:
        side: height and width, in pixels.
        seed: seed of the whole set.
        masks: makes label maps, in which the figure's pixels have its label, and all others 0.
    """

    side: int
    seed: int = 0
    masks: bool = False

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Height, width and channels of an image."""
        return self.side, self.side, 3

    def __call__(self, batch: Mapping[str, Array]) -> dict[str, Array]:
        """Draws ``image`` ``(n, h, w, 3)`` uint8 in place of :func:`examples`.

        With :attr:`masks`, ``label`` becomes ``(n, h, w)`` int32: a pixel belongs to the figure
        that covers at least half of it.
        """
        drawn = draw(batch["image"], self.side, self.seed)
        if not self.masks:
            return {**batch, "image": drawn["image"]}
        maps = jnp.where(drawn["mask"] >= 0.5, batch["label"][:, None, None], 0)
        return {**batch, "image": drawn["image"], "label": maps}


def _picture(key: PRNGKeyArray, label: Array, side: int) -> dict[str, Array]:
    """Draws a figure of random size, place, turn and colour on a sloping, noisy background."""
    # One draw for everything, since every further one takes noticeably long to compile.
    drawn = jax.random.uniform(key, (13,))
    size, top, left, turn, steepness, direction, strength = drawn[:7]
    radius = 0.15 + 0.2 * size  # of the side
    centre = radius + (1 - 2 * radius) * jnp.stack([top, left])  # all of it is in the picture
    angle = 2 * jnp.pi * turn

    pixels = (jnp.arange(side) + 0.5) / side
    rows, columns = pixels[:, None], pixels[None, :]
    y, x = (rows - centre[0]) / radius, (columns - centre[1]) / radius
    cos, sin = jnp.cos(angle), jnp.sin(angle)
    distance = _distance(label, cos * x + sin * y, cos * y - sin * x)
    mask = jnp.clip(0.5 - distance * radius * side, 0, 1)

    # In every channel the background is at least 0.3 from the figure, less 0.1 of slope.
    colour = drawn[7:10].reshape(1, 1, 3)
    ground = (colour + 0.3 + 0.4 * drawn[10:13].reshape(1, 1, 3)) % 1.0
    towards = 2 * jnp.pi * direction
    across = (columns - 0.5) * jnp.cos(towards) + (rows - 0.5) * jnp.sin(towards)
    back = ground + (0.1 * np.sqrt(2) * steepness * across)[..., None]
    noise = _noise(jax.random.key_data(key)[-1], side)
    image = back + mask[..., None] * (colour - back) + 0.3 * strength * noise
    return {
        "image": jnp.round(jnp.clip(image, 0, 1) * 255).astype(jnp.uint8),
        "mask": mask,
        "centre": centre * side - 0.5,
        "radius": radius * side,
    }


def _noise(seed: Array, side: int) -> Array:
    """Returns noise ``(side, side, 3)`` in [-0.5, 0.5], by a hash that is far cheaper than a key.

    The hash is the finaliser "lowbias32" of C. Wellons, "Prospecting for hash functions" (2018).
    """
    x = jnp.arange(side * side, dtype=jnp.uint32).reshape(side, side, 1) ^ seed
    x = (x ^ (x >> 16)) * jnp.uint32(0x7FEB352D)
    x = (x ^ (x >> 15)) * jnp.uint32(0x846CA68B)
    x = x ^ (x >> 16)
    bytes_ = (x >> jnp.array([[[0, 8, 16]]], jnp.uint32)) & 255  # one for each channel
    return bytes_.astype(jnp.float32) / 255 - 0.5


def _distance(label: Array, x: Array, y: Array) -> Array:
    """Returns the signed distance to a figure's outline in the unit circle, negative inside.

    Near the outline, where it decides a pixel's colour, it is the true distance.
    """
    length = jnp.sqrt(x**2 + y**2)
    corners, waist = jnp.array(STARS)[label]
    distances = {
        "circle": length - 1,
        "crescent": jnp.maximum(length - 1, 0.8 - jnp.sqrt((x - 0.45) ** 2 + y**2)),
        "cross": jnp.minimum(_box(x, y, *ARM), _box(x, y, *ARM[::-1])),
        "ellipse": _ellipse(x, y),
        "heart": _heart(x, y),
        "ring": jnp.abs(length - 0.8) - 0.2,
    }
    star = _star(x, y, length, corners, waist)
    found = star
    for name, distance in distances.items():
        found = jnp.where(label == CLASSES.index(name), distance, found)
    return found


ARM = (float(np.cos(0.3)), float(np.sin(0.3)))
"""Half the length and half the width of an arm of the cross."""

STARS = tuple(
    {
        "pentagon": (5.0, float(np.cos(np.pi / 5))),
        "square": (4.0, float(np.cos(np.pi / 4))),
        "star": (5.0, 0.45),
        "triangle": (3.0, float(np.cos(np.pi / 3))),
    }.get(name, (5.0, 0.5))
    for name in CLASSES
)
"""For each class: the number of outer corners of a star, and the radius of its inner ones.

The values of classes that are no star are computed with, and the results thrown away.
"""


def _box(x: Array, y: Array, width: float, height: float) -> Array:
    a, b = jnp.abs(x) - width, jnp.abs(y) - height
    outside = jnp.sqrt(jnp.maximum(a, 0) ** 2 + jnp.maximum(b, 0) ** 2)
    return outside + jnp.minimum(jnp.maximum(a, b), 0)


def _ellipse(x: Array, y: Array) -> Array:
    """Returns the distance to first order: the implicit function over its gradient's length."""
    value = jnp.sqrt(x**2 + 4 * y**2)
    gradient = jnp.sqrt(x**2 + 16 * y**2)
    return value * (value - 1) / jnp.maximum(gradient, 1e-6)


def _heart(x: Array, y: Array) -> Array:
    """A square on its corner, with half a disc on each of two neighbouring sides."""
    u, v = (x + y) / np.sqrt(2), (x - y) / np.sqrt(2)  # along the square's sides
    discs = jnp.minimum((u + 0.5) ** 2 + v**2, u**2 + (v - 0.5) ** 2)
    return jnp.minimum(_box(u, v, 0.5, 0.5), jnp.sqrt(discs) - 0.5)


def _star(x: Array, y: Array, length: Array, corners: Array, waist: Array) -> Array:
    """Distance to the edge between an outer corner, at radius 1, and an inner one, at ``waist``."""
    sector = jnp.pi / corners
    turned = jnp.arctan2(x, y) / (2 * sector)
    angle = 2 * sector * jnp.abs(turned - jnp.round(turned))
    a, b = length * jnp.cos(angle) - 1, length * jnp.sin(angle)
    edge = jnp.stack([waist * jnp.cos(sector) - 1, waist * jnp.sin(sector)])
    return (a * edge[1] - b * edge[0]) / jnp.sqrt((edge**2).sum())
