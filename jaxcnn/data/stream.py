"""Batches of what does not fit into memory, read by processes or threads ahead of the training.

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
from collections.abc import Iterator
from dataclasses import dataclass
from multiprocessing import parent_process
from typing import Any, Protocol, runtime_checkable

import numpy as np

from jaxcnn.data.faults import Faults
from jaxcnn.data.source import Source
from jaxcnn.errors import InputError

HostBatch = dict[str, np.ndarray]
"""``image`` (n, h, w, c) uint8, ``label`` (n,) int32 and, in evaluation, ``mask`` (n,) bool."""


@dataclass(frozen=True)
class Stream:
    """The batches of a run, or one process's part of them.

    Attributes:
        train: what is learned from.
        test: what is held out.
        seed: of the order.
        batch_size: examples per training step, of all processes together.
        eval_batch_size: likewise in evaluation.
        faults: hears of examples that cannot be read.
        workers: processes that read, 0 for threads of this process, None for one on each core.
        process_index: of this process among those that train together.
        process_count: their number.

    Raises:
        InputError: the processes cannot share a batch equally.
    """

    train: Source
    test: Source
    seed: int
    batch_size: int
    eval_batch_size: int
    faults: Faults
    workers: int | None = None
    process_index: int = 0
    process_count: int = 1

    def __post_init__(self) -> None:
        """Checks that a batch can be shared."""
        for name in ("batch_size", "eval_batch_size"):
            if getattr(self, name) % self.process_count:
                raise InputError(
                    f"data.{name}={getattr(self, name)}: must be a multiple of the "
                    f"{self.process_count} processes"
                )

    @property
    def steps_per_epoch(self) -> int:
        """Whole batches in the training set."""
        return len(self.train) // self.batch_size

    @property
    def eval_steps(self) -> int:
        """Batches in the test set, the last one filled up."""
        return -(-len(self.test) // self.eval_batch_size)

    def batches(self, start: int, stop: int) -> Iterator[HostBatch]:
        """Training batches of the steps from ``start`` to before ``stop``.

        An example that cannot be read is replaced by the next one that can.
        """
        reader = _TrainBatches(
            self.train, self._part(self.batch_size), self.seed, self.batch_size, stop
        )
        return self._read(reader, start, self.train)

    def eval_batches(self) -> Iterator[HostBatch]:
        """The test set, every example once; ``mask`` is False where a batch is filled up."""
        part = self._part(self.eval_batch_size)
        return self._read(_EvalBatches(self.test, part, self.eval_batch_size), 0, self.test)

    def _part(self, batch_size: int) -> slice:
        own = batch_size // self.process_count
        return slice(self.process_index * own, (self.process_index + 1) * own)

    def _read(self, reader: "_Reader", start: int, source: Source) -> Iterator[HostBatch]:
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


@runtime_checkable
class _Reader(Protocol):
    """What Grain asks for elements, in any order and from any process."""

    def __len__(self) -> int: ...

    def __getitem__(self, at: Any) -> HostBatch: ...


@dataclass(frozen=True)
class _TrainBatches:
    """Element k is the batch of step k; ``bad`` names an example that was replaced, else -1."""

    source: Source
    part: slice
    seed: int
    batch_size: int
    stop: int

    def __len__(self) -> int:
        return self.stop

    def __getitem__(self, step: Any) -> HostBatch:
        n = len(self.source)
        epoch, at = divmod(int(step), n // self.batch_size)
        first = at * self.batch_size
        index = _order(self.seed, epoch, n)[first : first + self.batch_size][self.part]
        batch = self.source.read(index)
        ok = batch.pop("ok")
        bad = np.where(ok, -1, index)
        for row in np.flatnonzero(~ok):
            for instead in range(1, min(n, 100)):
                found = self.source.read(np.array([(index[row] + instead) % n]))
                if found["ok"][0]:
                    batch["image"][row], batch["label"][row] = found["image"][0], found["label"][0]
                    break
        return {**batch, "bad": bad}


@dataclass(frozen=True)
class _EvalBatches:
    """Element k is batch k of the test set, in the order of the files."""

    source: Source
    part: slice
    batch_size: int

    def __len__(self) -> int:
        return -(-len(self.source) // self.batch_size)

    def __getitem__(self, at: Any) -> HostBatch:
        n = len(self.source)
        index = (np.arange(self.batch_size) + int(at) * self.batch_size)[self.part]
        inside = index < n
        batch = self.source.read(np.where(inside, index, n - 1))
        ok = batch.pop("ok")
        return {**batch, "mask": inside & ok, "bad": np.where(inside & ~ok, index, -1)}


@functools.lru_cache(maxsize=2)
def _order(seed: int, epoch: int, examples: int) -> np.ndarray:
    return np.random.default_rng([seed, epoch]).permutation(examples)


def _prefetched(reader: _Reader, start: int, workers: int | None) -> Any:
    """Elements from ``start`` on, in order, a few of them read before they are asked for."""
    import grain
    from absl import flags

    flags.FLAGS.mark_as_parsed()  # Grain looks at its own, of which the command line has none
    cores = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
    workers = cores if workers is None else workers
    threads = 1 if workers else cores
    read = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=threads + 1)
    elements = grain.MapDataset.source(reader)[start:].to_iter_dataset(read)
    if workers:
        elements = elements.mp_prefetch(
            grain.MultiprocessingOptions(num_workers=workers, per_worker_buffer_size=2),
            worker_init_fn=_begin_worker,
        )
    return iter(elements)


def _begin_worker(index: int, count: int) -> None:
    """Leaves signals to the training process, and ends with it even where that is killed."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    parent = parent_process()

    def watch() -> None:
        while parent is not None and parent.pid == os.getppid():
            time.sleep(1)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
