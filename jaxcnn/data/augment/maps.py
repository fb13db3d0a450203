"""Label maps that move along with their images."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from jaxcnn.data.augment.annotations import Batch, Images
from jaxcnn.data.labels import IGNORED


def is_map(batch: Batch) -> bool:
    """Returns whether the labels of a batch are maps."""
    return "label" in batch and batch["label"].ndim == 3


def moved(batch: Batch, x: Images, move: Callable[[Images], Images]) -> Batch:
    """Returns a batch with moved images, and label maps that were moved along.

    Every pixel of a label map comes from where the pixel of its image came from, or from nearest to
    there. It is -1 where more than half of that is outside of the image.

    Args:
        batch: holds ``label`` ``(n, h, w)``, or other labels, or none.
        x: ``(n, h, w, c)`` images, which take the place of the batch's.
        move: moves pixels, linearly and in every channel alike.
    """
    if not is_map(batch):
        return {**batch, "image": move(x)}
    maps = batch["label"]
    # Rows and columns move as further channels: what comes back says where a pixel was. Unlike
    # one channel for each class, that takes three, however many classes there are.
    n, h, w, c = x.shape
    rows, columns = jnp.meshgrid(jnp.arange(h), jnp.arange(w), indexing="ij")
    places = jnp.stack([rows, columns, jnp.ones_like(rows)], axis=-1).astype(x.dtype)
    both = jnp.concatenate([x, jnp.broadcast_to(places, (n, h, w, 3))], axis=-1)
    seen = move(both)
    if seen is both:
        return {**batch, "image": x}
    inside = seen[..., c + 2]
    at = jnp.round(seen[..., c : c + 2] / jnp.maximum(inside, 0.5)[..., None]).astype(jnp.int32)
    found = jax.vmap(lambda one, at: one[at[..., 0], at[..., 1]])(maps, at)
    labels = jnp.where(inside >= 0.5, found, IGNORED).astype(maps.dtype)
    return {**batch, "image": seen[..., :c], "label": labels}
