"""Where pixels come from: mirror, shifts, crops, affine maps."""

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float, Int

from jaxcnn.data.augment.annotations import Array, Images, Key, SameImages
from jaxcnn.ops.conv import PADDING_MODES


def random_flip(x: SameImages, key: Key) -> SameImages:
    """Mirrors each image left to right with probability 1/2."""
    mirrored = jax.random.bernoulli(key, 0.5, (x.shape[0], 1, 1, 1))
    return jnp.where(mirrored, x[:, :, ::-1], x)


def alternating(key: Key, places: Int[Array, " n"], epoch: Int[Array, ""]) -> Bool[Array, " n"]:
    """Tells which images are mirrored in an epoch: not those that were in the one before.

    In the first epoch each is with probability 1/2. Two epochs in turn so show both forms of every
    image (Jordan 2024, section 3.6).

    Args:
        key: random key of the run.
        places: places of the images in the training set.
        epoch: the epoch, counted from 0.
    """
    first = jax.vmap(lambda place: jax.random.bernoulli(jax.random.fold_in(key, place)))(places)
    return first ^ (epoch % 2 == 1)


def mirror(x: SameImages, mirrored: Bool[Array, " n"]) -> SameImages:
    """Mirrors some of the images left to right."""
    return jnp.where(mirrored[:, None, None, None], x[:, :, ::-1], x)


def pad_and_crop(x: SameImages, key: Key, padding: int, mode: str = "zeros") -> SameImages:
    """Shifts each image by up to ``padding`` pixels either way; zeros come in, or a reflection."""
    _, h, w, _ = x.shape
    sides = (0, 0), (padding, padding), (padding, padding), (0, 0)
    padded = jnp.pad(x, sides, mode=PADDING_MODES[mode])
    return random_crop(padded, key, (h, w))


def random_crop(x: Images, key: Key, size: tuple[int, int]) -> Images:
    """Takes a window of this size from each image, with all places equally likely."""
    n, h, w, c = x.shape
    room = jnp.broadcast_to(jnp.array([h - size[0], w - size[1]]), (n, 2))
    corner = jax.random.randint(key, (n, 2), 0, room + 1)

    def crop(image: jax.Array, at: jax.Array) -> jax.Array:
        return jax.lax.dynamic_slice(image, (at[0], at[1], 0), (*size, c))

    return jax.vmap(crop)(x, corner)


def random_boxes(
    key: Key, n: int, height: int, width: int, area: tuple[float, float], aspect: float
) -> tuple[Int[Array, "n 4"], Bool[Array, " n"]]:
    """Draws random rectangles inside images of ``height`` x ``width`` pixels.

    The share of the area is uniform in ``area``, the logarithm of width / height is uniform in
    ``[-log aspect, log aspect]``, sides are rounded to whole pixels, and all places are equally
    likely. Ten rectangles are drawn, and the first that fits is taken (as torchvision does).

    Returns:
        Top, left, height and width for each image, and whether one of its ten did fit.
    """
    area_key, aspect_key, place_key = jax.random.split(key, 3)
    share = jax.random.uniform(area_key, (n, 10), minval=area[0], maxval=area[1])
    limit = jnp.log(aspect)
    ratio = jnp.exp(jax.random.uniform(aspect_key, (n, 10), minval=-limit, maxval=limit))
    heights = jnp.round(jnp.sqrt(share * height * width / ratio)).astype(jnp.int32)
    widths = jnp.round(jnp.sqrt(share * height * width * ratio)).astype(jnp.int32)
    fits = (heights > 0) & (heights <= height) & (widths > 0) & (widths <= width)
    first = jnp.argmax(fits, axis=1, keepdims=True)
    sides = jnp.stack([jnp.take_along_axis(s, first, 1)[:, 0] for s in (heights, widths)], 1)
    # Where no rectangle fits, the place is of no interest, but must be possible to draw.
    room = jnp.maximum(jnp.array([[height, width]]) - sides, 0)
    place = jax.random.randint(place_key, (n, 2), 0, room + 1)
    return jnp.concatenate([place, sides], axis=1), fits.any(axis=1)


def random_resized_crop(
    x: Images, key: Key, size: tuple[int, int], area: tuple[float, float], aspect: float
) -> Images:
    """Takes a random rectangle of each image and resizes it (Szegedy et al. 2015).

    The rectangle is that of :func:`random_boxes`; where none of ten fits, it is the largest one
    at the centre whose aspect ratio is allowed. Resizing is bilinear and filters where it makes
    smaller; pixels beside the rectangle count at its border, as in Pillow's ``resize(box=...)``.

    Args:
        x: ``(n, h, w, c)`` images.
        key: random key of this step.
        size: height and width of the result.
        area: smallest and largest share of the image's area.
        aspect: largest ratio of width to height, and of height to width.
    """
    n, h, w, _ = x.shape
    boxes, found = random_boxes(key, n, h, w, area, aspect)
    tall, wide = min(h, round(w * aspect)), min(w, round(h * aspect))
    central = jnp.array([[(h - tall) // 2, (w - wide) // 2, tall, wide]])
    boxes = jnp.where(found[:, None], boxes, central)
    return crop_and_resize(x, boxes, size)


def crop_and_resize(x: Images, boxes: Int[Array, "n 4"], size: tuple[int, int]) -> Images:
    """Takes a rectangle (top, left, height, width) of each image and resizes it bilinearly."""
    scale = jnp.array([size]) / boxes[:, 2:]
    shift = -boxes[:, :2] * scale
    resize = functools.partial(
        jax.image.scale_and_translate,
        shape=(*size, x.shape[-1]),
        spatial_dims=(0, 1),
        method="linear",
        antialias=True,
    )
    return jax.vmap(lambda image, s, t: resize(image, scale=s, translation=t))(x, scale, shift)


def rotate_and_zoom(x: SameImages, key: Key, degrees: float, zoom: float) -> SameImages:
    """Turns and scales each image about its centre, bilinearly, with zeros from outside."""
    angle_key, zoom_key = jax.random.split(key)
    limit = jnp.deg2rad(degrees)
    angle = jax.random.uniform(angle_key, x.shape[:1], minval=-limit, maxval=limit)
    scale = 1.0 + jax.random.uniform(zoom_key, x.shape[:1], minval=-zoom, maxval=zoom)
    cos, sin, zero = jnp.cos(angle) / scale, jnp.sin(angle) / scale, jnp.zeros_like(angle)
    matrix = jnp.stack([cos, -sin, zero, sin, cos, zero], axis=1).reshape(-1, 2, 3)
    return warp(x, matrix, bilinear=True)


def warp(x: SameImages, matrix: Float[Array, "n 2 3"], *, bilinear: bool) -> SameImages:
    """Takes each pixel of the result from where an affine map says, and zeros from outside.

    Args:
        x: ``(n, h, w, c)`` images.
        matrix: map for each image, from ``(row, column, 1)`` in the result to row and column in
            the image, both counted from the centre.
        bilinear: interpolates; otherwise the nearest pixel is taken.
    """
    _, h, w, c = x.shape
    rows, columns = jnp.meshgrid(
        jnp.arange(h) - (h - 1) / 2, jnp.arange(w) - (w - 1) / 2, indexing="ij"
    )

    def one(image: jax.Array, m: jax.Array) -> jax.Array:
        row = m[0, 0] * rows + m[0, 1] * columns + m[0, 2] + (h - 1) / 2
        column = m[1, 0] * rows + m[1, 1] * columns + m[1, 2] + (w - 1) / 2
        pixels = image.reshape(h * w, c)

        def at(row: jax.Array, column: jax.Array) -> jax.Array:
            inside = (row >= 0) & (row < h) & (column >= 0) & (column < w)
            index = jnp.where(inside, row * w + column, h * w).astype(jnp.int32)
            return pixels.at[index].get(mode="fill", fill_value=0)

        if not bilinear:
            return at(jnp.round(row), jnp.round(column))
        top, left = jnp.floor(row), jnp.floor(column)
        down, right = (row - top)[..., None], (column - left)[..., None]
        upper = (1 - right) * at(top, left) + right * at(top, left + 1)
        lower = (1 - right) * at(top + 1, left) + right * at(top + 1, left + 1)
        return (1 - down) * upper + down * lower

    return jax.vmap(one)(x, matrix)
