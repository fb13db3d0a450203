"""The host side of training: chunks of steps, evaluation, reports, stopping."""

import contextlib
import itertools
import math
import signal
import time
from collections.abc import Callable, Generator
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import FrameType
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from jaxcnn.errors import Diverged, Stopped
from jaxcnn.train import mesh, metrics, processes
from jaxcnn.train.state import TrainState, zero_sums

SECONDS_PER_CHUNK = 0.5
"""A chunk returns to the host about this often: for the display, and to notice a signal."""

Record = dict[str, Any]
T = TypeVar("T")


@dataclass
class StopRequest:
    """While entered, SIGTERM and SIGINT are noted instead of ending the process."""

    signal: int | None = None
    _previous: dict[int, Any] = field(default_factory=dict)

    def __enter__(self) -> "StopRequest":
        """Takes the handlers over; a second signal acts as it would have before."""
        for number in (signal.SIGTERM, signal.SIGINT):
            self._previous[number] = signal.signal(number, self._note)
        return self

    def _note(self, number: int, frame: FrameType | None) -> None:
        outer = self._previous[number]
        self.signal = number
        self.__exit__()
        if isinstance(getattr(outer, "__self__", None), StopRequest):
            outer(number, frame)  # many runs, of which this one may be about to end anyway

    def __exit__(self, *_: object) -> None:
        """Gives the handlers back."""
        while self._previous:
            signal.signal(*self._previous.popitem())


@dataclass(frozen=True)
class Plan:
    """Lengths of a run, in steps and epochs."""

    steps_per_epoch: int
    batch_size: int
    epochs: int
    eval_every: int
    checkpoint_every: int

    @property
    def total_steps(self) -> int:
        """Steps in the whole run."""
        return self.steps_per_epoch * self.epochs

    def due(self, epoch: int, every: int) -> bool:
        """Whether something that happens every so many epochs happens after this one."""
        return epoch % every == 0 or epoch == self.epochs


@dataclass(frozen=True)
class Progress:
    """How far a run is, for a display."""

    step: int
    total_steps: int
    epoch: int
    train_loss: float
    train_top1: float
    images_per_sec: float


@dataclass(frozen=True)
class Profile:
    """Steps that jax.profiler traces, a trace an epoch, for TensorBoard or xprof.

    Attributes:
        first: step at whose beginning the trace begins.
        last: step at whose beginning it ends.
        folder: where it is written.
    """

    first: int
    last: int
    folder: Path

    def chunk(self, step: int, end: int, epoch_end: int) -> tuple[int, Any]:
        """Where a chunk ends so that it is traced whole or not at all, and what to run it in."""
        if step < self.first:
            return min(end, self.first), contextlib.nullcontext()
        if step < self.last:
            return min(self.last, epoch_end), jax.profiler.trace(str(self.folder))
        return end, contextlib.nullcontext()


Chunks = Generator[tuple[TrainState, np.int32], tuple[TrainState, float], T]
"""A training that leaves the computing to others.

It yields a state and the step to which it is to be trained (within an epoch), and is sent the
state that comes of it, with the seconds that took. The state that it yields may be consumed.
"""


def drive(training: Chunks[T], run_chunk: Callable[[TrainState, np.int32], TrainState]) -> T:
    """Runs every chunk that a training asks for; what the training returns in the end."""
    try:
        asked = next(training)
        while True:
            start = time.perf_counter()
            state = run_chunk(*asked)
            jax.block_until_ready(state.sums)
            asked = training.send((state, time.perf_counter() - start))
    except StopIteration as end:
        return end.value


def chunks(
    state: TrainState,
    plan: Plan,
    *,
    evaluate: Callable[[TrainState], metrics.Sums],
    learning_rate: Callable[[int], float],
    save: Callable[[TrainState, Record], None],
    record: Callable[[TrainState, Record, metrics.Sums], None],
    progress: Callable[[Progress], None],
    stop: StopRequest,
    enough: Callable[[int], bool] = lambda epoch: False,
    data_wait: Callable[[], float] = lambda: 0.0,
    profile: Profile | None = None,
    seconds_before: float = 0.0,
    recorded: int = -1,
) -> Chunks[TrainState]:
    """The chunks of steps from ``state`` to the end of the plan, and all that happens in between.

    Args:
        state: where to start; its step says how far it is.
        plan: lengths.
        evaluate: sums over the test set.
        learning_rate: of a step, for the record.
        save: called with the state and the newest record when a checkpoint is due.
        record: called after each evaluation, with its record and its sums.
        progress: called after every chunk.
        stop: looked at after every chunk.
        enough: whether the run ends after this epoch, whose record is made.
        data_wait: seconds waited for data so far.
        profile: steps to trace.
        seconds_before: training time of earlier parts of this run.
        recorded: step of the newest evaluation that earlier parts have recorded.

    Returns:
        The last state.

    Raises:
        Diverged: the loss or a parameter is not finite; nothing of it is saved.
        Stopped: a signal came; the state was saved.
    """
    step = int(state.step)
    seconds = seconds_before
    rate = math.nan
    steps_since, seconds_since, wait_before = 0, 0.0, data_wait()  # the newest record
    chunk_steps = 1
    calls = itertools.count()

    def report() -> Record:
        """Evaluates and records the state as it is."""
        test_sums = jax.device_get(evaluate(checked(state)))
        test = metrics.means(test_sums, "test")
        if not math.isfinite(test["test_loss"]):
            raise Diverged(f"the test loss is not finite after step {step}; nothing of it is saved")
        found = {
            "step": step,
            "epoch": step // plan.steps_per_epoch,
            **_train_record(jax.device_get(state.sums), plan.batch_size),
            **test,
            "lr": float(learning_rate(step - 1)),
            "seconds": seconds,
        }
        if steps_since:
            found["images_per_sec"] = rate
            found["step_time"] = seconds_since / steps_since
            found["data_wait"] = data_wait() - wait_before
        record(state, found, test_sums)
        return found

    def is_enough() -> bool:
        epoch, rest = divmod(step, plan.steps_per_epoch)
        return step == recorded and rest == 0 and enough(epoch)

    while step < plan.total_steps and not is_enough():
        epoch_end = (step // plan.steps_per_epoch + 1) * plan.steps_per_epoch
        end = min(step + chunk_steps, epoch_end)
        tracing: Any = contextlib.nullcontext()
        if profile is not None:
            end, tracing = profile.chunk(step, end, epoch_end)
        with tracing:
            state, took = yield state, np.int32(end)
        sums = jax.device_get(state.sums)
        seconds += took
        steps_since += end - step
        seconds_since += took
        rate = steps_since * plan.batch_size / seconds_since
        chunk_steps = max(1, round((end - step) * SECONDS_PER_CHUNK / took))
        step = end
        if sums["bad_step"] >= 0:
            raise Diverged(
                f"the loss or its gradient is not finite at step {int(sums['bad_step'])}; the last "
                "checkpoint before it stands; a lower optim.peak_lr or optim.clip_norm may help"
            )
        train = metrics.means(sums, "train")
        epoch = step // plan.steps_per_epoch
        progress(
            Progress(step, plan.total_steps, epoch, train["train_loss"], train["train_top1"], rate)
        )
        latest: Record = {"step": step, "seconds": seconds}
        if step == epoch_end and plan.due(epoch, plan.eval_every):
            latest, recorded = report(), step
            state = replace(state, sums=mesh.place(zero_sums(), state.step.sharding))
            steps_since, seconds_since, wait_before = 0, 0.0, data_wait()
        if step == epoch_end and (plan.due(epoch, plan.checkpoint_every) or is_enough()):
            save(checked(state), latest)
        stopping, chunk_steps = processes.agree(next(calls), stop.signal, chunk_steps)
        if stopping is not None:
            save(checked(state), latest)
            raise Stopped(stopping, step)
    if recorded != step:  # the run was made shorter, or its record was lost
        report()
    return state


def _train_record(sums: metrics.Sums, batch_size: int) -> Record:
    found = metrics.means(sums, "train")
    steps = int(sums["count"]) / batch_size
    return {**found, "grad_norm": float(sums["grad_norm"]) / steps} if found else {}


def checked(state: TrainState) -> TrainState:
    """The state, if all its numbers are finite.

    Raises:
        Diverged: names the first array that is not.
    """
    for path, finite in jax.tree_util.tree_leaves_with_path(jax.device_get(_finite(state))):
        if not np.all(finite):
            name = jax.tree_util.keystr(path)
            raise Diverged(f"state{name} is not finite after step {int(state.step)}; not saved")
    return state


@jax.jit
def _finite(state: TrainState) -> Any:
    return jax.tree.map(lambda a: jnp.isfinite(a).all(), state)
