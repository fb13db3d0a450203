"""Planes of one image, and what several corruptions do to them: zoom, blur, move, resample.

Corruptions see one image at a time with its channels first, along whose rows XLA vectorises.
Blurs and zooms are linear along either axis, so that they are products of matrices, most of which
are made in NumPy for all severities before the program is compiled.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from jaxcnn.data.augment.annotations import Array

Planes = Float[Array, "c h w"]
"""Channels of one image."""
Column = Float[np.ndarray, " severities"]
"""A parameter of each severity."""


def product(rows: Float[Array, "h2 h"], x: Planes, columns: Float[Array, "w2 w"]) -> jax.Array:
    """Returns ``rows @ x @ columns.T`` for each channel, in the full precision of float32."""
    half = jnp.einsum("ij,cjk->cik", rows, x, precision="highest")
    return jnp.einsum("cik,lk->cil", half, columns, precision="highest")


def to_8_bits(x: jax.Array) -> jax.Array:
    """Rounds numbers in [0, 1] down to one of 256 levels, as a conversion to bytes does.

    What is a hair below a level is on it: float32 has no exact 255ths.
    """
    return jnp.floor(jnp.clip(x, 0, 1) * 255 + 2e-4) / 255


def luma(x: Planes) -> Float[Array, "1 h w"]:
    """Returns the luma of RGB planes (ITU-R BT.601), and the mean of any others."""
    if len(x) != 3:
        return x.mean(axis=0, keepdims=True)
    return 0.299 * x[:1] + 0.587 * x[1:2] + 0.114 * x[2:]


def gaussian_matrices(
    size: int, sigmas: Column, *, mode: str, truncate: float
) -> Float[np.ndarray, "severities size size"]:
    """Returns for each standard deviation the matrix of SciPy's ``gaussian_filter1d``."""
    from scipy.ndimage import gaussian_filter1d

    same = np.eye(size)
    return np.stack(
        [
            gaussian_filter1d(same, sigma, axis=0, mode=mode, truncate=truncate) if sigma else same
            for sigma in sigmas
        ]
    )


def zoom_sizes(size: int, factors: np.ndarray) -> np.ndarray:
    """Returns how many pixels in the middle of an axis are enlarged, and to how many.

    They are ``ceil(size / factor)`` and ``round(factor * them)``, as by SciPy's ``zoom``.
    """
    middle = np.ceil(size / factors)
    return np.stack([middle, np.round(middle * factors)], axis=-1)


def zoom_matrix(size: int, sizes: Float[Array, "2"]) -> Float[Array, "size size"]:
    """Returns the matrix that enlarges the middle of an axis, linearly, and cuts it to its size.

    The first and the last of the pixels that are enlarged keep their places.
    """
    middle, zoomed = sizes
    out, pixel = jnp.arange(size)[:, None], jnp.arange(size)[None]
    cut, first = jnp.floor((zoomed - size) / 2), jnp.floor((size - middle) / 2)
    place = (out + cut) * (middle - 1) / jnp.maximum(zoomed - 1, 1)
    return jnp.maximum(1 - jnp.abs(first + place - pixel), 0)


def motion_weights(radius: Column, sigma: Column) -> Float[np.ndarray, "severities taps"]:
    """Returns for each severity the weights along the way of :func:`moved`.

    They are the half of a Gaussian: ``exp(-i**2 / (2 sigma**2))`` for ``i`` from 0 to
    ``2 * radius``, of sum 1. Those that are less than a millionth in all severities are left out.
    """
    radius, sigma = radius[:, None], sigma[:, None]
    tap = np.arange(2 * int(radius.max()) + 1)
    weights = np.where(tap <= 2 * radius, np.exp(-(tap**2) / (2 * sigma**2)), 0)
    weights /= weights.sum(axis=1, keepdims=True)
    return weights[:, (weights > 1e-6).any(axis=0)]


def moved(x: Planes, weights: Float[Array, " taps"], degrees: Float[Array, ""]) -> Planes:
    """Blurs along a straight way, as ImageMagick's motion blur does.

    Pixel ``(row, column)`` becomes the sum over ``i`` of ``weights[i]`` times the pixel at
    ``(row + ceil(i * sin - 1/2), column + ceil(i * cos - 1/2))``, or the nearest one inside the
    image. The result is rounded to 8 bits, since ImageMagick is given and returns bytes.
    """
    c, h, w = x.shape
    far = len(weights) - 1
    padded = jnp.pad(x, ((0, 0), (far, far), (far, far)), mode="edge")
    angle, tap = jnp.deg2rad(degrees), jnp.arange(far + 1)
    down = jnp.ceil(tap * jnp.sin(angle) - 0.5).astype(jnp.int32) + far
    right = jnp.ceil(tap * jnp.cos(angle) - 0.5).astype(jnp.int32) + far

    def add(i: jax.Array, total: jax.Array) -> jax.Array:
        part = jax.lax.dynamic_slice(padded, (0, down[i], right[i]), (c, h, w))
        return total + weights[i] * part

    total = jax.lax.fori_loop(0, far + 1, add, jnp.zeros_like(x))
    return jnp.round(jnp.clip(total, 0, 1) * 255) / 255


Outside = Callable[[jax.Array, int], jax.Array]
"""Gives for indices outside an axis of a size the indices that stand in for them."""


def reflected(index: Int[Array, "..."], size: int) -> jax.Array:
    """Mirrors at the middle of the first and last pixel: ``c b | a b c | b a``."""
    if size == 1:
        return jnp.zeros_like(index)
    index = index % (2 * size - 2)
    return jnp.minimum(index, 2 * size - 2 - index)


def doubled(index: Int[Array, "..."], size: int) -> jax.Array:
    """Mirrors at the edge of the first and last pixel: ``b a | a b c | c b``."""
    index = index % (2 * size)
    return jnp.minimum(index, 2 * size - 1 - index)


def bilinear(
    x: Planes, row: Float[Array, "h w"], column: Float[Array, "h w"], outside: Outside
) -> Planes:
    """Takes each pixel of the result from between the four that are nearest to a place."""
    c, h, w = x.shape
    pixels = x.reshape(c, h * w)
    top, left = jnp.floor(row), jnp.floor(column)
    down, right = (row - top)[None], (column - left)[None]
    top, left = top.astype(jnp.int32), left.astype(jnp.int32)

    def across(row: jax.Array) -> jax.Array:
        first = outside(row, h) * w
        this, following = (pixels[:, first + outside(left + i, w)] for i in (0, 1))
        return (1 - right) * this + right * following

    return (1 - down) * across(top) + down * across(top + 1)
