"""Weather: snow, frost, fog and bright light."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from jaxcnn.data.augment.annotations import Array, Key
from jaxcnn.data.corruptions.planes import (
    Planes,
    luma,
    motion_weights,
    moved,
    product,
    to_8_bits,
    zoom_matrix,
    zoom_sizes,
)
from jaxcnn.data.corruptions.severities import Level, Rows, at


def snow(x: Planes, key: Key, rows: Rows, level: Level) -> Planes:
    """Whitens the image and lets flakes fall on it, and the same ones turned by 180 degrees.

    Flakes are normal noise, enlarged, of which only what is above a threshold stays, blurred along
    a straight way at an angle uniform in [-135, -45] degrees.
    """
    _, h, w = x.shape
    mean, scale, _, threshold, _, _, kept = at(rows, level)
    noise_key, angle_key = jax.random.split(key)
    noise = mean + scale * jax.random.normal(noise_key, (1, h, w))
    tall, wide = (zoom_matrix(size, at(zoom_sizes(size, rows[:, 2]), level)) for size in (h, w))
    flakes = product(tall, noise, wide)
    flakes = to_8_bits(jnp.where(flakes < threshold, 0, flakes))
    degrees = jax.random.uniform(angle_key, minval=-135.0, maxval=-45.0)
    flakes = moved(flakes, at(motion_weights(rows[:, 4], rows[:, 5]), level), degrees)
    white = jnp.maximum(x, luma(x) * 1.5 + 0.5)
    return kept * x + (1 - kept) * white + flakes + flakes[:, ::-1, ::-1]


def frost(x: Planes, key: Key, rows: Rows, level: Level) -> Planes:
    """Adds ice to a darkened image: ``picture * x + ice * texture``, with the published weights.

    The published program takes a part of one of five photographs of frosted windows, which are not
    shipped here: the texture is made by :func:`ice`, of about the photographs' colour, brightness
    and contrast. So results under frost cannot be compared with published ones.
    """
    picture, weight = at(rows, level)
    texture = ice(key, *x.shape[1:])
    return picture * x + weight * (texture if len(x) == 3 else luma(texture))


def ice(key: Key, height: int, width: int) -> Float[Array, "3 height width"]:
    """Draws needles of ice in three directions 60 degrees apart, on a pane that is frosted over.

    A needle starts at a random pixel and fades over an eighth of the image's side; the pane is a
    fractal as that of :func:`fog`. The mean level, uniform in [0.45, 0.8], is what the means of
    the photographs span.
    """
    seed_key, angle_key, pane_key, mean_key = jax.random.split(key, 4)
    length = max(2, min(height, width) // 8)
    (weights,) = motion_weights(np.array([2.0 * length]), np.array([1.0 * length]))
    weights = jnp.asarray(weights / weights.max(), jnp.float32)
    drawn = jax.random.uniform(seed_key, (3, height, width))
    seeds = jnp.maximum(1 - 4 * length * drawn, 0)  # the longer the needles, the fewer
    # At the border one would go on as wide as it is long, since pixels repeat beyond it.
    seeds = seeds.at[:, (0, -1)].set(0).at[:, :, (0, -1)].set(0)
    first = jax.random.uniform(angle_key, maxval=60.0)
    directions = first + jnp.arange(3) * 60.0
    needles = jax.vmap(moved, (0, None, 0))(seeds[:, None], weights, directions).max(axis=0)
    pane = plasma(pane_key, map_side(height, width), jnp.float32(2))[None, :height, :width]
    texture = 0.35 * pane + 0.4 * needles
    mean = jax.random.uniform(mean_key, minval=0.45, maxval=0.8)
    texture = texture - texture.mean() + mean
    tint = jnp.array([-0.06, 0.01, 0.05])[:, None, None]  # a little blue, as ice is
    return jnp.clip(texture + tint, 0, 1)


def fog(x: Planes, key: Key, rows: Rows, level: Level) -> Planes:
    """Adds a fractal of light and darkens so that the brightest value cannot rise.

    ``(x + weight * plasma) * brightest / (brightest + weight)``, the brightest value of all.
    """
    weight, decay = at(rows, level)
    _, h, w = x.shape
    haze = plasma(key, map_side(h, w), decay)[None, :h, :w]
    brightest = x.max()
    return (x + weight * haze) * brightest / (brightest + weight)


def map_side(height: int, width: int) -> int:
    """Returns the side of the fractal for an image: the next power of two."""
    return max(2, 1 << (max(height, width) - 1).bit_length())


def plasma(key: Key, side: int, decay: Float[Array, ""]) -> Float[Array, "side side"]:
    """Draws a fractal in [0, 1] by the diamond-square algorithm on a torus.

    On a grid that is made twice as fine until it has ``side`` points a side, the middle of each
    square becomes the mean of its corners, and the middle of each edge the mean of the four
    points around it, plus ``rough**2 * uniform(-1, 1)``; ``rough`` is 100 at first and is divided
    by ``decay`` each time.
    """
    grid, rough = jnp.zeros((1, 1)), jnp.float32(100)
    drawn = jax.random.uniform(key, (side**2,), minval=-1.0, maxval=1.0)
    while len(grid) < side:
        n = grid.size  # so many points are known, and the three times as many new ones follow
        middle, across, down = rough**2 * drawn[n : 4 * n].reshape(3, *grid.shape)
        right, below = jnp.roll(grid, -1, axis=1), jnp.roll(grid, -1, axis=0)
        middle = middle + (grid + right + below + jnp.roll(right, -1, axis=0)) / 4
        across = across + (grid + right + middle + jnp.roll(middle, 1, axis=0)) / 4
        down = down + (grid + below + middle + jnp.roll(middle, 1, axis=1)) / 4
        upper, lower = (jnp.stack(pair, axis=-1) for pair in ((grid, across), (down, middle)))
        grid = jnp.stack([upper, lower], axis=1).reshape(2 * len(grid), -1)
        rough = rough / decay
    grid = grid - grid.min()
    return grid / grid.max()


def brightness(x: Planes, key: Key, rows: Rows, level: Level) -> Planes:
    """Adds to the value of HSV: all channels grow by the ratio by which the largest one does.

    Black, which has no hue, becomes grey; so does each grey image become brighter by the sum.
    """
    (more,) = at(rows, level)
    value = x.max(axis=0, keepdims=True)
    brighter = jnp.minimum(value + more, 1)
    return jnp.where(value > 0, x * brighter / jnp.where(value > 0, value, 1), brighter)
