"""The host side of training: chunks of steps, evaluation, reports, stopping."""

import math
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from types import FrameType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxcnn.train import metrics
from jaxcnn.train.state import TrainState, zero_sums

SECONDS_PER_CHUNK = 0.5
"""A chunk returns to the host about this often: for the display, and to notice a signal."""

Record = dict[str, Any]


class Diverged(Exception):
    """The loss or a parameter is no longer finite; says at which step."""


class Stopped(Exception):
    """A signal ended the run after its state was saved.

    Attributes:
        signal: its number.
    """

    def __init__(self, number: int, step: int) -> None:
        super().__init__(f"{signal.Signals(number).name} at step {step}; run again to go on")
        self.signal = number


@dataclass
class StopRequest:
    """While entered, SIGTERM and SIGINT are noted instead of ending the process."""

    signal: int | None = None
    _previous: dict[int, Any] = field(default_factory=dict)

    def __enter__(self) -> "StopRequest":
        """Takes the handlers over; a second signal acts as it would have before."""

        def note(number: int, frame: FrameType | None) -> None:
            self.signal = number
            self.__exit__()

        for number in (signal.SIGTERM, signal.SIGINT):
            self._previous[number] = signal.signal(number, note)
        return self

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


def fit(
    state: TrainState,
    plan: Plan,
    *,
    run_chunk: Callable[[TrainState, jax.Array], TrainState],
    evaluate: Callable[[TrainState], metrics.Sums],
    learning_rate: Callable[[int], float],
    save: Callable[[TrainState, Record], None],
    record: Callable[[TrainState, Record, metrics.Sums], None],
    progress: Callable[[Progress], None],
    stop: StopRequest,
    seconds_before: float = 0.0,
    recorded: int = -1,
) -> TrainState:
    """Trains from ``state`` to the end of the plan.

    Args:
        state: where to start; its step says how far it is.
        plan: lengths.
        run_chunk: ``(state, end) -> state``, compiled; may consume its argument.
        evaluate: sums over the test set.
        learning_rate: of a step, for the record.
        save: called with the state and the newest record when a checkpoint is due.
        record: called after each evaluation, with its record and its sums.
        progress: called after every chunk.
        stop: looked at after every chunk.
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
    since_report = [0, 0.0]  # images and seconds, for the rate
    chunk_steps = 1

    def report() -> Record:
        """Evaluates and records the state as it is."""
        test_sums = jax.device_get(evaluate(checked(state)))
        test = metrics.means(test_sums, "test")
        if not math.isfinite(test["test_loss"]):
            raise Diverged(f"the test loss is not finite after step {step}; nothing of it is saved")
        found = {
            "step": step,
            "epoch": step // plan.steps_per_epoch,
            **metrics.means(jax.device_get(state.sums), "train"),
            **test,
            "lr": float(learning_rate(step - 1)),
            **({"images_per_sec": rate} if math.isfinite(rate) else {}),
            "seconds": seconds,
        }
        record(state, found, test_sums)
        return found

    while step < plan.total_steps:
        epoch_end = (step // plan.steps_per_epoch + 1) * plan.steps_per_epoch
        end = min(step + chunk_steps, epoch_end)
        start = time.perf_counter()
        state = run_chunk(state, jnp.int32(end))
        sums = jax.device_get(state.sums)
        took = time.perf_counter() - start
        seconds += took
        since_report[0] += (end - step) * plan.batch_size
        since_report[1] += took
        rate = since_report[0] / since_report[1]
        chunk_steps = max(1, round((end - step) * SECONDS_PER_CHUNK / took))
        step = end
        if sums["bad_step"] >= 0:
            raise Diverged(
                f"the loss is not finite at step {int(sums['bad_step'])}; the last checkpoint "
                "before it stands; a lower optim.peak_lr or optim.clip_norm may help"
            )
        train = metrics.means(sums, "train")
        epoch = step // plan.steps_per_epoch
        progress(
            Progress(step, plan.total_steps, epoch, train["train_loss"], train["train_top1"], rate)
        )
        latest: Record = {"step": step, "seconds": seconds}
        if step == epoch_end and plan.due(epoch, plan.eval_every):
            latest, recorded = report(), step
            state = replace(state, sums=zero_sums())
            since_report = [0, 0.0]
        if step == epoch_end and plan.due(epoch, plan.checkpoint_every):
            save(checked(state), latest)
        if stop.signal is not None:
            save(checked(state), latest)
            raise Stopped(stop.signal, step)
    if recorded != step:  # the run was made shorter, or its record was lost
        report()
    return state


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
