"""Reads batches of what does not fit into memory, in processes or threads ahead of the training.

Which examples make a batch is a pure function of (seed, step), whoever reads them and wherever a
run begins; a resumed run reads on from its step. Nothing here touches a device.
"""

import functools
import gc
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from multiprocessing import parent_process
from typing import Any

import numpy as np

from jaxcnn.config.brought import FILE_MODULE
from jaxcnn.data.crops import Crop, Crops
from jaxcnn.data.faults import Faults
from jaxcnn.data.repeats import places
from jaxcnn.data.source import Croppable, Source
from jaxcnn.errors import InputError


@dataclass(frozen=True)
class Stream:
    """The batches of a run, or one process's part of them, as arrays on the host.

    Attributes:
        train: the split that is learned from.
        held_out: the split that is evaluated.
        seed: the seed of the order of the training examples.
        batch_size: examples per training step, of all processes together.
        eval_batch_size: examples per evaluation batch, of all processes together.
        faults: counts the examples that cannot be read.
        workers: how many processes read; 0 for threads of this process, None for one on each core.
        process_index: the place of this process among those that train together.
        process_count: how many processes train together.
        crops: the random crops of the training images that are read in their place, of a split
            that is :class:`~.source.Croppable`; by default there are none.
        repeats: how often each example of a training batch stands in it.

    Raises:
        InputError: the processes cannot share a batch equally.
    """

    train: Source
    held_out: Source
    seed: int
    batch_size: int
    eval_batch_size: int
    faults: Faults
    workers: int | None = None
    process_index: int = 0
    process_count: int = 1
    crops: Crops | None = None
    repeats: int = 1

    def __post_init__(self) -> None:
        """Checks that a batch can be shared."""
        for name in ("batch_size", "eval_batch_size"):
            if getattr(self, name) % self.process_count:
                raise InputError(
                    f"data.{name}={getattr(self, name)}: must be a multiple of the "
                    f"{self.process_count} processes"
                )

    def batches(self, start: int, stop: int) -> Iterator[dict[str, np.ndarray]]:
        """Reads the training batches of the steps from ``start`` to before ``stop``.

        An example that cannot be read is replaced by the next one that can.

        Raises:
            InputError: more examples cannot be read than are tolerated, or none can.

        Yields:
            ``image`` (n, h, w, c) uint8 and ``label`` (n,) int32 of this process's examples.
        """
        reader = _TrainBatches(
            self.train,
            self._part(self.batch_size),
            self.seed,
            self.batch_size,
            stop,
            self.crops,
            self.repeats,
        )
        return self._read(reader, start, self.train)

    def eval_batches(self) -> Iterator[dict[str, np.ndarray]]:
        """Reads the split that is held out in batches, every example once.

        Raises:
            InputError: more examples cannot be read than are tolerated, or none can.

        Yields:
            ``image`` (n, h, w, c) uint8, ``label`` (n,) int32 and ``mask`` (n,) bool, which is
            False where an example cannot be read or only fills up the last batch.
        """
        part = self._part(self.eval_batch_size)
        source, count = self.held_out, 0
        for batch in self._read(_EvalBatches(source, part, self.eval_batch_size), 0, source):
            count += int(batch["mask"].sum())
            yield batch
        if not count and self.process_count == 1:  # of several, some may have nothing to read
            raise InputError(
                f"none of the {len(source):,} held-out images can be read: {source.fault(0)}"
            )

    def _part(self, batch_size: int) -> slice:
        own = batch_size // self.process_count
        return slice(self.process_index * own, (self.process_index + 1) * own)

    def _read(
        self, reader: "_TrainBatches | _EvalBatches", start: int, source: Source
    ) -> Iterator[dict[str, np.ndarray]]:
        elements = _prefetched(reader, start, self.workers)
        try:
            for shared in elements:
                # Memory shared with the workers is given back at once, whoever keeps the batch.
                batch = {name: np.array(array) for name, array in shared.items()}
                del shared
                bad = batch.pop("bad")
                self.faults.note(source, bad[bad >= 0])
                yield batch
        finally:
            elements.close()
            del elements
            gc.collect()  # in Grain's iterators are cycles that hold memory shared with the workers


# Grain asks these for elements, in any order and from any process.


@dataclass(frozen=True)
class _TrainBatches:
    """Element k is the batch of step k; ``bad`` names an example that was replaced, else -1."""

    source: Source
    part: slice
    seed: int
    batch_size: int
    stop: int
    crops: Crops | None = None
    repeats: int = 1

    def __len__(self) -> int:
        return self.stop

    def __getitem__(self, step: Any) -> dict[str, np.ndarray]:
        n = len(self.source)
        epoch, at = divmod(int(step), n // self.batch_size)
        chosen = places(at * self.batch_size, self.batch_size, self.repeats)
        index = _order(self.seed, epoch, n)[chosen][self.part]
        drawn: list[Crop | None] = [None] * len(index)
        if self.crops is not None:
            drawn[:] = self.crops.of_step(self.seed, int(step), self.batch_size)[self.part]
        batch = self._read(index, drawn)
        ok = batch.pop("ok")
        bad = np.where(ok, -1, index)
        for row in np.flatnonzero(~ok):
            found = self._next(int(index[row]), drawn[row])
            batch["image"][row], batch["label"][row] = found["image"][0], found["label"][0]
        return {**batch, "bad": bad}

    def _read(self, index: np.ndarray, crops: Sequence[Crop | None]) -> dict[str, np.ndarray]:
        """Reads examples, or a crop of each."""
        if self.crops is not None:
            assert isinstance(self.source, Croppable)
            return self.source.read_crops(index, [crop for crop in crops if crop is not None])
        once, back = np.unique(index, return_inverse=True)  # repeated ones are the same images
        if len(once) == len(index):
            return self.source.read(index)
        return {name: array[back] for name, array in self.source.read(once).items()}

    def _next(self, index: int, crop: Crop | None) -> dict[str, np.ndarray]:
        """Reads the next example that can be read."""
        n = len(self.source)
        for instead in range(1, n):
            found = self._read(np.array([(index + instead) % n]), [crop])
            if found["ok"][0]:
                return found
        raise InputError(f"none of the {n:,} training images can be read: {self.source.fault(0)}")


@dataclass(frozen=True)
class _EvalBatches:
    """Element k is batch k of a split that is held out, in the order of the files."""

    source: Source
    part: slice
    batch_size: int

    def __len__(self) -> int:
        return -(-len(self.source) // self.batch_size)

    def __getitem__(self, at: Any) -> dict[str, np.ndarray]:
        n = len(self.source)
        index = (np.arange(self.batch_size) + int(at) * self.batch_size)[self.part]
        inside = index < n
        batch = self.source.read(np.where(inside, index, n - 1))
        ok = batch.pop("ok")
        return {**batch, "mask": inside & ok, "bad": np.where(inside & ~ok, index, -1)}


@functools.lru_cache(maxsize=2)
def _order(seed: int, epoch: int, examples: int) -> np.ndarray:
    return np.random.default_rng([seed, epoch]).permutation(examples)


def _prefetched(reader: Any, start: int, workers: int | None) -> Any:
    """Reads the elements from ``start`` on, in order, a few of them ahead of their use."""
    import grain
    from absl import flags

    flags.FLAGS.mark_as_parsed()  # Grain reads flags of its own, which this command line lacks
    cores = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
    workers = cores if workers is None else workers
    threads = 1 if workers else cores
    read = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=threads + 1)
    elements = grain.MapDataset.source(reader)[start:].to_iter_dataset(read)
    if workers:
        import cloudpickle  # with which Grain hands the source to its processes

        for name, module in list(sys.modules.items()):
            if name.startswith(FILE_MODULE):  # which they could not import
                cloudpickle.register_pickle_by_value(module)
        elements = elements.mp_prefetch(
            grain.MultiprocessingOptions(num_workers=workers, per_worker_buffer_size=2),
            worker_init_fn=_begin_worker,
        )
    return iter(elements)


def _begin_worker(index: int, count: int) -> None:
    """Leaves signals to the training process, and ends with it even if that is killed."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    parent = parent_process()

    def watch() -> None:
        while parent is not None and parent.pid == os.getppid():
            time.sleep(1)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
