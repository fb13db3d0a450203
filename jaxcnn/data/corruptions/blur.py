"""Blur: out of focus, behind uneven glass, in motion, towards the picture."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from jaxcnn.data.augment.annotations import Array, Key
from jaxcnn.data.corruptions.planes import (
    Planes,
    gaussian_matrices,
    motion_weights,
    moved,
    product,
    to_8_bits,
    zoom_matrix,
    zoom_sizes,
)
from jaxcnn.data.corruptions.severities import Level, Rows, at


def gaussian_blur(x: Planes, key: Key, rows: Rows, level: Level) -> Planes:
    """Convolves with a Gaussian, cut off at four standard deviations; the border continues."""
    return _gaussian(x, rows[:, 0], level)


def _gaussian(x: Planes, sigmas: np.ndarray, level: Level) -> Planes:
    _, h, w = x.shape
    tall, wide = (
        at(gaussian_matrices(size, sigmas, mode="nearest", truncate=4.0), level) for size in (h, w)
    )
    return product(tall, x, wide)


def defocus_blur(x: Planes, key: Key, rows: Rows, level: Level) -> Planes:
    """Convolves with a disk whose edge is softened; the border is mirrored."""
    kernel = at(disks(rows), level)
    margin = kernel.shape[0] // 2
    padded = jnp.pad(x, ((0, 0), (margin, margin), (margin, margin)), mode="reflect")
    # One plane, one image: the kernel is the same for all.
    return jax.lax.conv_general_dilated(
        padded[:, None], kernel[None, None], (1, 1), "VALID", precision="highest"
    )[:, 0]


def disks(rows: Rows) -> Float[np.ndarray, "5 side side"]:
    """Returns for each radius a disk of pixels of sum 1, blurred, with as little edge as they need.

    A disk is drawn on 17 x 17 pixels and blurred by 3 x 3 weights, or, where its radius is above
    8, on as many as it needs and blurred by 5 x 5, with mirrored borders, as by OpenCV.
    """
    from scipy.ndimage import correlate1d

    side = 2 * int(max(8, rows[:, 0].max())) + 1
    found = np.zeros((len(rows), side, side))
    for kernel, (radius, sigma) in zip(found, rows, strict=True):
        reach, half = (8, 1) if radius <= 8 else (int(radius), 2)
        across = np.arange(-reach, reach + 1)
        disk = (across[:, None] ** 2 + across**2 <= radius**2) * 1.0
        disk /= disk.sum()
        soft = np.exp(-(np.arange(-half, half + 1) ** 2) / (2 * sigma**2))
        for axis in (0, 1):
            disk = correlate1d(disk, soft / soft.sum(), axis, mode="mirror")
        inner = slice(side // 2 - reach, side // 2 + reach + 1)
        kernel[inner, inner] = disk
    needed = int(np.abs(np.argwhere(found > 1e-9)[:, 1:] - side // 2).max())
    inner = slice(side // 2 - needed, side // 2 + needed + 1)
    return found[:, inner, inner]


def glass_blur(x: Planes, key: Key, rows: Rows, level: Level) -> Planes:
    """Blurs, lets each pixel take a neighbour's place at random, and blurs again.

    In each pass, from the last pixel to the first, a pixel becomes what the one at a step drawn
    from ``[-far, far)`` in either direction is by then; the border of ``far`` pixels stays. The
    published program means to exchange the two but does not: in NumPy ``a[i], a[j] = a[j], a[i]``
    of colours writes one over the other. Its data sets were made so, and this does the same.

    One after the other is slow, and not needed. A pixel points to another, which has pointed on
    if its turn was before; so where each value comes from is found by following all pointers at
    once, twice as far each time.
    """
    sigmas = rows[:, 0]
    _, far, passes = at(rows, level)
    most = int(rows[:, 2].max())
    c, h, w = x.shape
    step = jax.random.uniform(key, (most, 2, h, w))
    x = to_8_bits(_gaussian(x, sigmas, level)).reshape(c, h * w)
    for i in range(most):
        comes_from = jnp.where(i < passes, _sources(step[i], far), jnp.arange(h * w))
        x = x[:, comes_from]
    return _gaussian(x.reshape(c, h, w), sigmas, level)


def _sources(drawn: Float[Array, "2 h w"], far: Float[Array, ""]) -> jax.Array:
    """Returns from which pixel of an image of ``h * w`` each one takes its colour in a pass."""
    _, h, w = drawn.shape
    row, column = jnp.arange(h)[:, None], jnp.arange(w)[None]
    far = far.astype(jnp.int32)
    down, right = jnp.floor(drawn * (2 * far)).astype(jnp.int32) - far
    taken = (row > far) & (row <= h - far) & (column > far) & (column <= w - far)
    place = row * w + column
    target = jnp.where(taken, (row + down) * w + column + right, place).reshape(-1)
    place = place.reshape(-1)
    # The turn of a later place comes first. A pixel that has had its turn is followed further; one
    # that has not is taken as it is. So that both kinds can be followed alike, there are twice as
    # many nodes: what a pixel becomes, and what it was, which leads nowhere.
    was = place + h * w
    becomes = jnp.where(target > place, target, target + h * w)
    pointer = jnp.concatenate([becomes, was])
    pointer = jax.lax.while_loop(lambda p: (p[: h * w] < h * w).any(), lambda p: p[p], pointer)
    return pointer[: h * w] - h * w


def motion_blur(x: Planes, key: Key, rows: Rows, level: Level) -> Planes:
    """Blurs along a straight way, at an angle uniform in [-45, 45] degrees."""
    degrees = jax.random.uniform(key, minval=-45.0, maxval=45.0)
    return moved(x, at(motion_weights(*rows.T), level), degrees)


def zoom_blur(x: Planes, key: Key, rows: Rows, level: Level) -> Planes:
    """Averages the image, counted twice, with its enlargements by several factors."""
    _, h, w = x.shape
    factors = [np.arange(1, stop, step) for stop, step in rows]
    count = at(np.array([len(f) for f in factors]), level)
    padded = np.stack([np.pad(f, (0, max(map(len, factors)) - len(f)), "edge") for f in factors])
    tall, wide = (at(zoom_sizes(size, padded), level) for size in (h, w))

    def add(i: jax.Array, total: jax.Array) -> jax.Array:
        return total + product(zoom_matrix(h, tall[i]), x, zoom_matrix(w, wide[i]))

    return jax.lax.fori_loop(0, count.astype(jnp.int32), add, x) / (count + 1)
