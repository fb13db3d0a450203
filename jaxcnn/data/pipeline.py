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

from jaxcnn.data.repeats import places
from jaxcnn.data.source import Source
from jaxcnn.data.sources import Split

StoredBatch = dict[str, jax.Array]
"""A batch as the dataset stores it: ``image`` (n, h, w, c) uint8, ``label`` such as (n,) int32."""


@dataclass(frozen=True)
class Shuffle:
    """Visits the examples in another random order every epoch; drops the last, partial batch.

    Attributes:
        examples: the size of the training set.
        batch_size: examples per batch, at most ``examples``.
        repeats: how often each example of a batch stands in it: see :func:`places`.
    """

    examples: int
    batch_size: int
    repeats: int = 1

    @property
    def steps_per_epoch(self) -> int:
        """The number of whole batches in the training set."""
        return self.examples // self.batch_size

    def order(self, key: jax.Array, step: jax.Array) -> jax.Array:
        """Returns the order of the examples in the epoch that ``step`` belongs to."""
        epoch = step // self.steps_per_epoch
        return jax.random.permutation(jax.random.fold_in(key, epoch), self.examples)

    def places(self, order: jax.Array, step: jax.Array) -> jax.Array:
        """Returns the places of the examples of ``step``, given the order of its epoch."""
        start = (step % self.steps_per_epoch) * self.batch_size
        if self.repeats == 1:
            return lax.dynamic_slice(order, (start,), (self.batch_size,))
        return order[places(start, self.batch_size, self.repeats)]

    def batch(
        self, split: Mapping[str, jax.Array], order: jax.Array, step: jax.Array
    ) -> StoredBatch:
        """Returns the batch of ``step``, given the order of its epoch."""
        index = self.places(order, step)
        return {name: jnp.take(array, index, axis=0) for name, array in split.items()}


def whole(split: Source) -> dict[str, np.ndarray]:
    """Returns the arrays of a split in memory, from which :meth:`Shuffle.batch` draws."""
    assert isinstance(split, Split)
    return {"image": split.images, "label": split.labels}


def shared_batch_size(batch_size: int, examples: int, devices: int) -> int:
    """Returns an evaluation's batch size: a multiple of the devices, not larger than need be.

    >>> shared_batch_size(1000, examples=90, devices=4)
    92
    """
    batch_size = min(batch_size, examples)
    return batch_size + -batch_size % devices


def in_batches(split: Source, batch_size: int, devices: int = 1) -> dict[str, np.ndarray]:
    """Cuts a split in memory into batches for evaluation, every example once.

    Args:
        split: a split of n examples.
        batch_size: examples per batch, before :func:`shared_batch_size`.
        devices: how many devices share a batch.

    Returns:
        ``image``, ``label`` and ``mask``, ``(batches, batch_size, ...)`` each. The last batch is
        filled up with zeros, whose ``mask`` is False.
    """
    assert isinstance(split, Split)
    n = len(split)
    batch_size = shared_batch_size(batch_size, n, devices)
    missing = -n % batch_size

    def cut(array: np.ndarray) -> np.ndarray:
        padding = np.zeros((missing, *array.shape[1:]), array.dtype)
        return np.concatenate([array, padding]).reshape(-1, batch_size, *array.shape[1:])

    return {"image": cut(split.images), "label": cut(split.labels), "mask": cut(np.ones(n, bool))}
