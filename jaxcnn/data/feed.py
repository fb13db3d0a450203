"""Carries streamed batches to the device in blocks, each while the steps before it run."""

import itertools
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from jaxcnn.config import Augment, Data
from jaxcnn.data.crops import Crops, of_whole_images
from jaxcnn.data.faults import Faults
from jaxcnn.data.pipeline import StoredBatch, shared_batch_size
from jaxcnn.data.source import Croppable
from jaxcnn.data.sources import Dataset, HeldOut
from jaxcnn.data.stream import Stream
from jaxcnn.memory import require_memory

BLOCK_BYTES = 2**26
"""The bytes that a block should hold; two blocks are on the device at a time."""
BLOCK_STEPS = 32
"""The most batches that a block holds."""
WORKER_BYTES = 2**27
"""The memory that a process takes that reads, beside its batches."""


@dataclass(frozen=True)
class InBlocks:
    """Finds the batch of a step in a block; stands in for :class:`~.pipeline.Shuffle`.

    Attributes:
        steps_per_epoch: whole batches in the training set.
    """

    steps_per_epoch: int

    def order(self, key: jax.Array, step: jax.Array) -> jax.Array:
        """Returns the step itself: the host has already put the examples in order."""
        return step

    def batch(
        self, block: Mapping[str, jax.Array], order: jax.Array, step: jax.Array
    ) -> StoredBatch:
        """Returns the batch of ``step`` from the block that holds it."""
        at = step - block["first"]
        return {name: array[at] for name, array in block.items() if name != "first"}


def open_stream(
    dataset: Dataset,
    data: Data,
    seed: int,
    devices: int = 1,
    split: HeldOut = "test",
    crops: Crops | None = None,
    repeats: int = 1,
) -> Stream:
    """Opens the stream of a dataset's batches, or of this process's part of them.

    The seed is that of the order of the training examples; so many devices share a batch; of the
    splits that are held out, one can be evaluated. Training examples are cropped and repeated as
    they are read.

    Raises:
        InputError: the processes cannot share a batch, or do not fit into memory.
    """
    workers = data.workers
    if workers is None and jax.default_backend() == "cpu":
        workers = 0  # processes would take the cores that train: benchmarks/input.py, on 2 cores
    if workers:
        require_memory(f"data.workers={workers}: so many processes", workers * WORKER_BYTES)
    held_out = dataset.held_out[split]
    return Stream(
        dataset.train,
        held_out,
        seed,
        data.batch_size,
        shared_batch_size(data.eval_batch_size, len(held_out), devices),
        Faults(data.max_bad_images),
        workers,
        jax.process_index(),
        jax.process_count(),
        crops,
        repeats,
    )


def crops_of(
    dataset: Dataset, data: Data, augment: Augment, sizes: Sequence[int] = ()
) -> Crops | None:
    """Returns the random crops that are taken of whole images as they are read.

    There are some where images are streamed that may be of any size; others are cropped inside the
    compiled step. They are resized to the largest of ``data.image_size`` and the sizes of training.
    """
    croppable = dataset.streamed and isinstance(dataset.train, Croppable)
    return of_whole_images(data, augment, sizes) if croppable else None


def crops_squares(dataset: Dataset, data: Data, augment: Augment) -> bool:
    """Tells whether crops are taken of the middle squares of photos, which are held in memory."""
    side = data.read_size or data.image_size
    squares = data.fit == "crop" and dataset.image_shape[:2] == (side, side)
    return squares and not dataset.streamed and of_whole_images(data, augment) is not None


class Feed:
    """Carries the batches of a run to the device.

    Args:
        stream: the source of the batches.
        start: the first step.
        stop: the step at which the run ends.
        put: a function that copies a block from the host to the device.

    Attributes:
        block: the block that the compiled chunk takes next, on the device.
        waited: the seconds that the host has spent on making blocks. The device works meanwhile,
            unless it is done with the block before.
        idle: those of them in which the device may have had nothing to do: all that a block took
            which the device was waiting for at its end.
    """

    def __init__(
        self,
        stream: Stream,
        start: int,
        stop: int,
        put: Callable[[dict[str, Any]], dict[str, Any]] = jax.device_put,
    ) -> None:
        self.waited = self.idle = 0.0
        self._put = put
        self._batches = stream.batches(start, stop)
        self._step, self._stop = start, stop
        self._length = 0
        self._load()

    def _load(self) -> None:
        began = time.perf_counter()
        first = next(self._batches)
        if not self._length:
            size = sum(array.nbytes for array in first.values())
            steps = min(BLOCK_STEPS, BLOCK_BYTES // size, self._stop - self._step)
            self._length = max(1, steps)
        self._end = min(self._step + self._length, self._stop)
        held = [first, *itertools.islice(self._batches, self._end - self._step - 1)]
        held += [first] * (self._length - len(held))  # so that every block has the same shape
        block = {name: np.stack([batch[name] for batch in held]) for name in first}
        self.waited += time.perf_counter() - began
        self.block: dict[str, Any] = self._put({**block, "first": np.int32(self._step)})

    def run(self, chunk: Callable[[Any, Any, np.int32], Any], state: Any, end: np.int32) -> Any:
        """Runs the compiled ``chunk(state, block, end) -> state`` up to ``end``, block by block."""
        while self._step < int(end):
            upto = min(int(end), self._end)
            state = chunk(state, self.block, np.int32(upto))
            self._step = upto
            if upto == self._end and upto < self._stop:
                before = self.waited
                self._load()  # while the device works
                if all(leaf.is_ready() for leaf in jax.tree.leaves(state)):
                    self.idle += self.waited - before
        return state

    def close(self) -> None:
        """Ends the workers that read ahead."""
        self._batches.close()  # type: ignore[attr-defined]
