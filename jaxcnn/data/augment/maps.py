"""Label maps that move along with their images."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Num

from jaxcnn.data.augment.annotations import Array, Images
from jaxcnn.data.labels import IGNORED


def is_map(batch: dict[str, jax.Array]) -> bool:
    """Returns whether the labels of a batch are maps."""
    return "label" in batch and batch["label"].ndim == 3


def move_together(
    move: Callable[[Images], Images], x: Images, maps: Num[Array, "n h w"]
) -> tuple[Images, Num[Array, "n _ _"]]:
    """Moves images, and takes every pixel of their label maps from where the image's came from.

    Args:
        move: moves pixels, linearly and in every channel alike.
        x: ``(n, h, w, c)`` images.
        maps: ``(n, h, w)`` labels, of which the nearest is taken.

    Returns:
        Images and label maps, which hold -1 where more than half of a pixel is from outside.
    """
    # Rows and columns move as further channels: what comes back says where a pixel was. Unlike
    # one channel for each class, that takes three, however many classes there are.
    n, h, w, c = x.shape
    rows, columns = jnp.meshgrid(jnp.arange(h), jnp.arange(w), indexing="ij")
    places = jnp.stack([rows, columns, jnp.ones_like(rows)], axis=-1).astype(x.dtype)
    both = jnp.concatenate([x, jnp.broadcast_to(places, (n, h, w, 3))], axis=-1)
    moved = move(both)
    if moved is both:
        return x, maps
    inside = moved[..., c + 2]
    at = jnp.round(moved[..., c : c + 2] / jnp.maximum(inside, 0.5)[..., None]).astype(jnp.int32)
    found = jax.vmap(lambda one, at: one[at[..., 0], at[..., 1]])(maps, at)
    return moved[..., :c], jnp.where(inside >= 0.5, found, IGNORED).astype(maps.dtype)
