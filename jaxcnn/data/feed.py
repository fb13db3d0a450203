"""Streams of batches carried to the device in blocks, each while the steps before it run."""

import itertools
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from jaxcnn.config import Data
from jaxcnn.data.faults import Faults
from jaxcnn.data.pipeline import Batch
from jaxcnn.data.sources import Dataset
from jaxcnn.data.stream import Stream

BLOCK_BYTES = 2**26
"""A block holds about as much, and at most ``BLOCK_STEPS`` batches; two are on the device."""
BLOCK_STEPS = 32


@dataclass(frozen=True)
class InBlocks:
    """Where the compiled step finds its batch; stands in for :class:`~.pipeline.Shuffle`."""

    steps_per_epoch: int

    def order(self, key: jax.Array, step: jax.Array) -> jax.Array:
        """The host has put the examples in order."""
        return step

    def batch(self, block: Mapping[str, jax.Array], order: jax.Array, step: jax.Array) -> Batch:
        """The batch of ``step`` from the block that holds it."""
        at = step - block["first"]
        return {name: array[at] for name, array in block.items() if name != "first"}


def open_stream(dataset: Dataset, data: Data, seed: int, devices: int = 1) -> Stream:
    """Returns the batches of a dataset that is streamed, or this process's part of them.

    Args:
        dataset: its splits are read when they are asked for.
        data: sizes of the batches, workers, and how many faults are tolerated.
        seed: of the order of the training examples.
        devices: those that share a batch; the evaluation's is rounded up to a multiple.
    """
    workers = data.workers
    if workers is None and jax.default_backend() == "cpu":
        workers = 0  # processes would take the cores that train: benchmarks/input.py, on 2 cores
    eval_batch_size = min(data.eval_batch_size, len(dataset.test))
    return Stream(
        dataset.train,
        dataset.test,
        seed,
        data.batch_size,
        eval_batch_size + -eval_batch_size % devices,
        Faults(data.max_bad_images),
        workers,
        jax.process_index(),
        jax.process_count(),
    )


class Feed:
    """Carries the batches of a run to the device.

    Args:
        stream: where they come from.
        start: the first step.
        stop: the end of the run.
        put: a block on the host to the same on the device.

    Attributes:
        block: what the compiled chunk takes next.
        waited: seconds that the host has spent on the next block; the device works meanwhile, if
            it has not ended the one before.
    """

    def __init__(
        self,
        stream: Stream,
        start: int,
        stop: int,
        put: Callable[[dict[str, Any]], dict[str, Any]] = jax.device_put,
    ) -> None:
        self.waited = 0.0
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
        held += [first] * (self._length - len(held))  # behind the end of the run
        block = {name: np.stack([batch[name] for batch in held]) for name in first}
        self.waited += time.perf_counter() - began
        self.block: dict[str, Any] = self._put({**block, "first": np.int32(self._step)})

    def run(self, chunk: Callable[[Any, Any, np.int32], Any], state: Any, end: np.int32) -> Any:
        """Runs the compiled chunk up to ``end``, block by block."""
        while self._step < int(end):
            upto = min(int(end), self._end)
            state = chunk(state, self.block, np.int32(upto))
            self._step = upto
            if upto == self._end and upto < self._stop:
                self._load()  # while the device works
        return state

    def close(self) -> None:
        """Ends the workers."""
        self._batches.close()  # type: ignore[attr-defined]
