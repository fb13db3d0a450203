"""Sums that judge a classifier: they merge by addition and are divided once, at the end."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from jaxcnn.tasks.interface import Sums, count_and_loss


def rank_of_label(logits: Float[Array, "n classes"], labels: Int[Array, " n"]) -> Int[Array, " n"]:
    """Counts the classes that come before the label when logits are sorted in descending order.

    Equal logits keep the order of the classes, and what cannot be compared (NaN) comes first, so
    that neither a constant nor a broken network looks right.

    >>> rank_of_label(jnp.array([[0.1, 0.7, 0.2]]), jnp.array([2])).tolist()
    [1]
    """
    own = jnp.take_along_axis(logits, labels[:, None], axis=1)
    earlier = jnp.arange(logits.shape[-1])[None, :] < labels[:, None]
    before = ~(logits <= own) | ((logits == own) & earlier)
    return before.sum(axis=-1)


def classification_sums(
    logits: Float[Array, "n classes"],
    labels: Int[Array, " n"],
    losses: Float[Array, " n"],
    mask: Bool[Array, " n"],
) -> Sums:
    """Returns the metrics of a classifier, summed over the examples whose mask is True.

    Args:
        logits: ``(n, classes)``.
        labels: ``(n,)``.
        losses: ``(n,)``, in nats.
        mask: ``(n,)`` bool.

    Returns:
        ``count``, ``loss``, ``top1``, ``top5`` (scalars) and ``confusion`` ``(classes, classes)``,
        the number of examples by label and prediction.
    """
    classes = logits.shape[-1]
    rank = rank_of_label(logits, labels)
    predicted = jnp.argmax(logits, axis=-1)
    confusion = jnp.zeros((classes, classes), jnp.int32)
    return {
        **count_and_loss(mask, losses),
        "top1": (mask & (rank < 1)).sum(dtype=jnp.int32),
        "top5": (mask & (rank < 5)).sum(dtype=jnp.int32),
        "confusion": confusion.at[labels, predicted].add(mask.astype(jnp.int32)),
    }


def add(a: Sums, b: Sums) -> Sums:
    """Merges the sums of two sets of examples."""
    return jax.tree.map(jnp.add, a, b)
