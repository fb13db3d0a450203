"""From stored pixels to network input: fit, random changes, normalisation; pure and in JAX.

Everything random is drawn per example from the key that is passed in.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.scipy.ndimage import map_coordinates
from jaxtyping import Array, Float, PRNGKeyArray, UInt8

from jaxcnn.config import Augment, Data

Key = PRNGKeyArray
Images = Float[Array, "_ _ _ _"]
"""``(n, h, w, c)``, of which a function may change the height and the width."""
SameImages = Float[Array, "n h w c"]
"""``(n, h, w, c)``, which a function keeps."""


def make_prepare(data: Data, *, fitting: bool = True) -> Callable[..., jax.Array]:
    """Makes ``prepare(images, key=None, augment=None)``: uint8 to normalised float32 images.

    ``x = (pixel / 255 - mean) / std`` after fitting the image to ``data.image_size``. With a key,
    the random changes of ``augment`` are applied: geometric ones on the pixels, whose surroundings
    are black, cutout on the normalised image. ``fitting=False`` leaves the size as it is.
    """
    mean, std = jnp.array(data.mean, jnp.float32), jnp.array(data.std, jnp.float32)

    def prepare(
        images: UInt8[Array, "n h w c"], key: Key | None = None, augment: Augment | None = None
    ) -> Images:
        x = images.astype(jnp.float32) / 255.0
        if fitting:
            x = fit(x, data)
        if key is not None and augment is not None:
            x = geometric(x, jax.random.fold_in(key, 0), augment)
        x = (x - mean.reshape(1, 1, 1, -1)) / std.reshape(1, 1, 1, -1)
        if key is not None and augment is not None and augment.cutout:
            x = cutout(x, jax.random.fold_in(key, 1), augment.cutout)
        return x

    return prepare


def fitted_size(height: int, width: int, data: Data) -> tuple[int, int]:
    """Height and width that the network sees.

    Raises:
        ValueError: padding cannot make an image smaller.
    """
    if data.image_size is None:
        return height, width
    if data.fit == "pad" and max(height, width) > data.image_size:
        raise ValueError(
            f"data.image_size={data.image_size}: an image of {height}x{width} cannot be padded to "
            f"{data.image_size}x{data.image_size}; use data.fit='resize' or a larger image_size"
        )
    return data.image_size, data.image_size


def fit(x: Images, data: Data) -> Images:
    """Brings ``(n, h, w, c)`` to ``data.image_size``, by zeros around it or bilinear resizing."""
    n, h, w, c = x.shape
    height, width = fitted_size(h, w, data)
    if (height, width) == (h, w):
        return x
    if data.fit == "resize":
        return jax.image.resize(x, (n, height, width, c), "bilinear")
    top, left = (height - h) // 2, (width - w) // 2
    return jnp.pad(x, ((0, 0), (top, height - h - top), (left, width - w - left), (0, 0)))


def geometric(x: Images, key: Key, augment: Augment) -> Images:
    """Rotation and zoom, then pad-and-crop, then mirror, each drawn per example."""
    warp, crop, flip = jax.random.split(key, 3)
    if augment.rotate or augment.zoom:
        x = rotate_and_zoom(x, warp, augment.rotate, augment.zoom)
    if augment.crop_padding:
        x = pad_and_crop(x, crop, augment.crop_padding)
    if augment.flip:
        x = random_flip(x, flip)
    return x


def random_flip(x: SameImages, key: Key) -> SameImages:
    """Mirrors each image left to right with probability 1/2."""
    mirrored = jax.random.bernoulli(key, 0.5, (x.shape[0], 1, 1, 1))
    return jnp.where(mirrored, x[:, :, ::-1], x)


def pad_and_crop(x: SameImages, key: Key, padding: int) -> SameImages:
    """Shifts each image by up to ``padding`` pixels either way; zeros come in."""
    n, h, w, c = x.shape
    padded = jnp.pad(x, ((0, 0), (padding, padding), (padding, padding), (0, 0)))
    corner = jax.random.randint(key, (n, 2), 0, 2 * padding + 1)

    def crop(image: jax.Array, at: jax.Array) -> jax.Array:
        return jax.lax.dynamic_slice(image, (at[0], at[1], 0), (h, w, c))

    return jax.vmap(crop)(padded, corner)


def rotate_and_zoom(x: SameImages, key: Key, degrees: float, zoom: float) -> SameImages:
    """Turns and scales each image about its centre, bilinearly, zeros outside."""
    n, h, w, _ = x.shape
    angle_key, zoom_key = jax.random.split(key)
    limit = jnp.deg2rad(degrees)
    angle = jax.random.uniform(angle_key, (n,), minval=-limit, maxval=limit)
    scale = 1.0 + jax.random.uniform(zoom_key, (n,), minval=-zoom, maxval=zoom)
    rows, columns = jnp.meshgrid(
        jnp.arange(h) - (h - 1) / 2, jnp.arange(w) - (w - 1) / 2, indexing="ij"
    )

    def warp(image: jax.Array, angle: jax.Array, scale: jax.Array) -> jax.Array:
        cos, sin = jnp.cos(angle) / scale, jnp.sin(angle) / scale
        source = [
            cos * rows - sin * columns + (h - 1) / 2,
            sin * rows + cos * columns + (w - 1) / 2,
        ]
        sample = functools.partial(map_coordinates, coordinates=source, order=1, cval=0.0)
        return jax.vmap(sample, in_axes=-1, out_axes=-1)(image)

    return jax.vmap(warp)(x, angle, scale)


def cutout(x: SameImages, key: Key, side: int) -> SameImages:
    """Sets a ``side`` x ``side`` square to zero, its centre anywhere in the image."""
    n, h, w, _ = x.shape
    top_key, left_key = jax.random.split(key)
    top = jax.random.randint(top_key, (n, 1), 0, h) - side // 2
    left = jax.random.randint(left_key, (n, 1), 0, w) - side // 2
    rows, columns = jnp.arange(h)[None], jnp.arange(w)[None]
    in_rows = (rows >= top) & (rows < top + side)
    in_columns = (columns >= left) & (columns < left + side)
    hole = in_rows[:, :, None, None] & in_columns[:, None, :, None]
    return jnp.where(hole, 0.0, x)
