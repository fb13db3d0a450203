"""Several views of each test image, over which a network's answers are averaged."""

import math
from collections.abc import Callable
from dataclasses import replace

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Float32, UInt8

from jaxcnn.config import Data, Views
from jaxcnn.data import augment


def make_views(data: Data, views: Views) -> Callable[[jax.Array], Float[Array, "views n _ _ c"]]:
    """Makes ``prepare(images)``: uint8 to normalised float32 views of the size the network sees.

    ``"flip"`` is the image and its mirror image. ``"five_crop"`` is four corners and the centre of
    the image enlarged by 8/7, as 224 pixels of 256 (Krizhevsky et al. 2012), ``"ten_crop"`` those
    and their mirror images. ``"flip_shift"`` is the image, the image shifted by one pixel down and
    to the right and by one up and to the left, reflected at the border, and the mirror images of
    the three (Jordan 2024, section 3.5); :data:`COUNTED` says how often each counts.
    """
    prepare = augment.make_prepare(data)

    def prepared(
        images: UInt8[Array, "n h w c"] | Float32[Array, "n h w c"],
    ) -> Float[Array, "views n _ _ c"]:
        if views.endswith("crop"):
            _, h, w, _ = images.shape
            seen = augment.fitted_size(h, w, data)
            shown = five_crops(enlarged(images, seen), *seen)
        else:
            shown = prepare(images)[None]
        if views == "flip_shift":
            shown = jnp.concatenate([shown, shifted(shown[0])])
        if views in ("flip", "ten_crop", "flip_shift"):
            shown = jnp.concatenate([shown, shown[:, :, :, ::-1]])
        return shown

    def enlarged(images: jax.Array, seen: tuple[int, int]) -> jax.Array:
        height, width = (math.ceil(side * 8 / 7) for side in seen)
        n, h, w, c = images.shape
        margin = data.fit == "crop" and h == w > seen[0]
        if data.image_size is not None and (data.fit == "resize" or margin):
            whole = replace(data, image_size=height, read_size=None, fit="resize")
            return augment.make_prepare(whole)(images)  # at once, from what is stored
        return jax.image.resize(prepare(images), (n, height, width, c), "bilinear")

    return prepared


COUNTED: dict[Views, tuple[int, ...]] = {"flip_shift": (0, 0, 1, 2, 3, 3, 4, 5)}
"""The views that are averaged, by their places, where not each counts once."""


def shifted(x: Float[Array, "n h w c"]) -> Float[Array, "2 n h w c"]:
    """Shifts each image by one pixel along both sides, either way, and reflects at the border."""
    padded = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)), mode="reflect")
    return jnp.stack([padded[:, :-2, :-2], padded[:, 2:, 2:]])


def five_crops(
    x: Float[Array, "n h w c"], height: int, width: int
) -> Float[Array, "5 n {height} {width} c"]:
    """Cuts the four corners and the centre out of each image."""
    down, right = x.shape[1] - height, x.shape[2] - width
    corners = [(0, 0), (0, right), (down, 0), (down, right), (round(down / 2), round(right / 2))]
    return jnp.stack([x[:, i : i + height, j : j + width] for i, j in corners])
