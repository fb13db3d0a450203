"""Which examples make batch k: a pure function of (seed, step).

The data need no iterator whose position would have to be saved: a resumed run computes the same
batches because it starts at the same step.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxcnn.data.source import Source
from jaxcnn.data.sources import Split

Batch = dict[str, jax.Array]
"""``image`` (n, h, w, c) uint8, ``label`` (n,) int32 and, in evaluation, ``mask`` (n,) bool."""


@dataclass(frozen=True)
class Shuffle:
    """Every epoch visits the examples in another random order and drops the last partial batch.

    Attributes:
        examples: size of the training set.
        batch_size: examples per batch, at most ``examples``.
    """

    examples: int
    batch_size: int

    @property
    def steps_per_epoch(self) -> int:
        """Whole batches in the training set."""
        return self.examples // self.batch_size

    def order(self, key: jax.Array, step: jax.Array) -> jax.Array:
        """Order of the examples in the epoch that ``step`` belongs to."""
        epoch = step // self.steps_per_epoch
        return jax.random.permutation(jax.random.fold_in(key, epoch), self.examples)

    def batch(self, split: Mapping[str, jax.Array], order: jax.Array, step: jax.Array) -> Batch:
        """Batch ``step`` of the epoch whose order is given."""
        start = (step % self.steps_per_epoch) * self.batch_size
        index = lax.dynamic_slice(order, (start,), (self.batch_size,))
        return {name: jnp.take(array, index, axis=0) for name, array in split.items()}


def whole(split: Source) -> dict[str, np.ndarray]:
    """A split in memory as the arrays that :meth:`Shuffle.batch` draws from."""
    assert isinstance(split, Split)
    return {"image": split.images, "label": split.labels}


def in_batches(split: Source, batch_size: int, devices: int = 1) -> dict[str, np.ndarray]:
    """A split in memory as ``(batches, batch_size, ...)``, every example once.

    The last batch is filled up with zeros, whose ``mask`` is False. The size of a batch is the
    next multiple of the number of devices.
    """
    assert isinstance(split, Split)
    n = len(split)
    batch_size = min(batch_size, n)
    batch_size += -batch_size % devices
    missing = -n % batch_size

    def cut(array: np.ndarray) -> np.ndarray:
        padding = np.zeros((missing, *array.shape[1:]), array.dtype)
        return np.concatenate([array, padding]).reshape(-1, batch_size, *array.shape[1:])

    return {
        "image": cut(split.images),
        "label": cut(split.labels),
        "mask": cut(np.ones(n, bool)),
    }
