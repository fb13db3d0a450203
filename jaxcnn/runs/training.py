"""One run in its folder: where it starts, what it writes, how it ends."""

import concurrent.futures
import contextlib
import math
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Any

import jax
import msgspec
import numpy as np

from jaxcnn.analysis import plots
from jaxcnn.config import differences, to_dict
from jaxcnn.data import sources
from jaxcnn.errors import Diverged, InputError, Pruned, Stopped, as_not_written, as_warning
from jaxcnn.learning import (
    brought,
    files,
    identity,
    mesh,
    processes,
    records,
    run_folder,
    selection,
    standing,
)
from jaxcnn.learning.background import Background
from jaxcnn.learning.standing import Taken
from jaxcnn.learning.state import TrainState, not_finite, sha256, snapshot, variables_of, zero_sums
from jaxcnn.runs.display import Listener, Progress, Record
from jaxcnn.runs.goodput import Clock
from jaxcnn.runs.program import Program
from jaxcnn.runs.start import Run, check_starts, transferred
from jaxcnn.runs.trained import Trained
from jaxcnn.tasks import Sums

Evaluate = Callable[[TrainState], Sums]
Prune = Callable[[Path, Record], bool]
"""Says of the run in a folder, and its newest record, whether it is given up."""


class _Before(msgspec.Struct):
    """What a checkpoint tells beside its state: seconds of training, and the best record."""

    seconds: records.NotNegative
    best: records.Evaluation | None


@dataclass(frozen=True)
class _Look:
    """What the devices were asked for after a chunk of steps, and the host has not read yet.

    Attributes:
        step: the step after which it was.
        state: a copy of the state.
        finite: whether each of its arrays is.
        sums: what the evaluation finds; None without one.
        trained: what the record tells of training, before what the evaluation finds.
        speed: what it tells of the speed, after that.
        save: whether the state is saved.
    """

    step: int
    state: TrainState
    finite: Any
    sums: Sums | None
    trained: Record
    speed: Record
    save: bool


class Training:
    """A run that is being trained; between two chunks of steps it holds all that is known of it.

    Building it refuses what does not fit, then makes the folder this run's.

    Args:
        run: the experiment and its folder.
        program: what is compiled, which the runs of a group share.
        listener: hears messages and records.
        closing: closed when the run has ended.
        background: does what need not be waited for.
        clock: counts where the time goes.
        name: what the listener hears it called, where it is one of several.
        prune: says after each evaluation but the last whether the run is given up.
        require_left: refuses a run that another process has ended in the meantime.

    Attributes:
        state: the newest state; a compiled chunk may consume it.
        step: steps done.
        rates: the learning rate of every step.
        seconds: time spent in training steps, of earlier calls too.
        chosen_by: the metric that says which record is the best.
        best: the record with the highest :func:`~jaxcnn.learning.selection.score`.
        active: whether it is still trained: it has neither ended nor diverged.
        completed: state and step to the state as it is evaluated and saved, with what is computed
            then alone.
    """

    def __init__(
        self,
        run: Run,
        program: Program,
        listener: Listener,
        closing: contextlib.ExitStack,
        background: Background,
        clock: Clock,
        name: str = "",
        prune: Prune | None = None,
        require_left: Callable[[Run], None] | None = None,
    ) -> None:
        self.folder, self.experiment, self.program = run.folder, run.experiment, program
        self.listener, self.name = listener, name
        self._background, self._clock, self._prune = background, clock, prune
        self.task, self.chosen_by = program.network.task, program.network.metrics[0]
        self.rates = program.rates(run.experiment)  # before anything is made
        source = check_starts([run], program)
        with as_not_written(run.folder):
            opened = run_folder.RunFolder(run.folder)
            closing.callback(opened.close)
            if require_left is not None:
                require_left(run)
            self._latest_saved = run_folder.checkpoints(run.folder, "latest")
            closing.callback(self._latest_saved.close)
            self._best_saved = run_folder.checkpoints(run.folder, "best")
            closing.callback(self._best_saved.close)
        self._identity = identity.read(run.folder, to_dict(run.experiment))
        restored, before = self._restored() or (None, _Before(0.0, None))

        self._saved = self.step = 0 if restored is None else int(restored.step)
        best = {} if before.best is None else records.plain(before.best)
        self._best_of_checkpoint: Record = best
        known = [r for r in run_folder.read_metrics(run.folder) if r["step"] <= self.step]
        self._recorded = known[-1]["step"] if known else -1
        # The last evaluation may have come after the last checkpoint, at the same step.
        candidates = [best, *known]
        self.best: Record = max(candidates, key=self._score)
        self.seconds = before.seconds
        self.active = True
        self.completed: Callable[[TrainState, int], TrainState] = lambda state, step: state
        with as_not_written(run.folder):
            self._best_saved.drop_after(self.step)  # they will be made again
            recorded = to_dict(run.experiment), program.about, program.environment
            opened.claim(*recorded, program.network.judged)
            brought.keep(run.folder, run.experiment, self.step)
            closing.push(self._note_failure)
            # After config.json, without which files like this one are no run's.
            self._identity = self._identity.claimed(self.step)
            self._mark = self._identity.mark
            self._log = run_folder.MetricsLog(run.folder, self.step)
        closing.callback(self._log.close)

        self._teller = standing.Teller(run.folder)
        self.state = self._begin(restored, source)
        self._last: Record = {}
        self._zero_sums = jax.device_get(zero_sums(self.task))
        self._looked: _Look | None = None
        self._best_unsaved: tuple[TrainState, Record] | None = None
        self._writing: Future[None] | None = None
        named = self.step > 0 and self.best.get("step") == self.step
        if named and self.step not in self._best_saved.steps():  # its record was written, no more
            self._best_unsaved = snapshot(self.state)[0], self.best
        self._saved_at = time.monotonic()
        self._confusion: np.ndarray | None = None
        self.restart_clock(lambda: 0.0)
        listener.began(run.folder, name, self.best)

    # ---------------------------------------------------------------------------- the start

    def _restored(self) -> "tuple[TrainState, _Before] | None":
        """Restores the newest checkpoint, if there is one, after checking that it is this run's."""
        program, config = self.program, to_dict(self.experiment)
        if not run_folder.holds_checkpoints(self.folder):  # any run may use the folder
            aside = self._latest_saved.damaged
            if processes.on_first(lambda: aside.is_dir() and any(aside.iterdir())):
                self._say(f"no checkpoint is left but damaged ones in {aside}: the run begins anew")
            return None
        run_folder.check_same(self.folder, config, program.about)
        shapes = mesh.placed(program.devices, program.network.shapes)
        restored = self._identity.restore(self._latest_saved, shapes)
        if restored is None:
            self._say(
                f"{self._latest_saved.folder} holds no checkpoint: the run begins anew, and makes "
                f"those in {self._best_saved.folder} again"
            )
            return None
        state, meta = restored
        if "run" not in meta:
            self._say(
                f"the checkpoint of step {meta['step']} was made before checkpoints named their run"
            )
        env = self.folder / "env.json"
        changed: dict[str, tuple[Any, Any]] = {}
        try:
            before = processes.on_first(
                lambda: msgspec.to_builtins(files.read(env, records.Environment))
            )
            changed = differences(before, program.environment)
        except InputError as error:
            self._say(f"{error}; going on without a comparison of the environment with the former")
        if changed:
            listed = "; ".join(f"{k} was {a!r}, now {b!r}" for k, (a, b) in changed.items())
            self._say(
                f"another environment than before ({listed}): the last bits may differ from those "
                "of a run that was never interrupted"
            )
        try:
            held = dict(meta)
            if isinstance(best := held.get("best"), dict):
                # A run that was never evaluated has saved an empty object as its best.
                held["best"] = records.gathered(best, records.Evaluation) if best else None
            found = msgspec.convert(held, _Before)
            wrong = found.best and records.fault(found.best, program.network.metrics)
            if wrong:
                raise msgspec.ValidationError(f"best: {wrong}")
            return state, found
        except msgspec.ValidationError as error:
            path = self._latest_saved.folder / str(meta["step"])
            raise InputError(f"checkpoint {path}: meta/metadata is damaged ({error})") from error

    def _begin(self, restored: TrainState | None, source: Trained | None) -> TrainState:
        """Returns the state at which the run goes on, or begins."""
        program = self.program
        state = restored or program.init(np.int32(self.experiment.train.seed))
        if source is not None:
            variables, fresh = transferred(source, program, variables_of(state))
            state = program.start_from(variables, state.seed)
            anew = f"; {', '.join(fresh)} start anew" if fresh else ""
            self._say(
                f"starting from {self.experiment.model.init_from} at step {source.step}{anew}"
            )
        if self.step:
            self._say(f"going on from step {self.step} of {program.total_steps}")
        return state

    # ----------------------------------------------------------------------------- the loop

    @property
    def epoch_end(self) -> int:
        """The step at which the epoch of the next step ends."""
        return (self.step // self.program.steps_per_epoch + 1) * self.program.steps_per_epoch

    def next_end(self, steps: int) -> int:
        """Returns where a chunk of so many steps ends, at the latest with the epoch.

        A run that is no longer active stays where it is.
        """
        return min(self.step + steps, self.epoch_end) if self.active else self.step

    def advance(self, state: TrainState, end: int, seconds: float, share: float) -> Progress:
        """Takes over the state after a chunk of steps.

        Args:
            state: the state after it.
            end: its last step.
            seconds: its time.
            share: this run's share of it, 1 where no other is trained in the same program.

        Raises:
            Diverged: the loss or its gradient is not finite.
        """
        sums = jax.device_get(state.sums)
        steps = end - self.step
        self.state, self.step = state, end
        self.seconds += seconds * share
        self._steps_since += steps
        self._seconds_since += seconds * share
        if sums["bad_step"] >= 0:
            raise Diverged(
                f"the loss or its gradient is not finite at step {int(sums['bad_step'])}; nothing "
                "after the last checkpoint is kept; a lower optim.peak_lr, or optim.clip_norm, may "
                "help, in another --workdir if there is a checkpoint"
            )
        if processes.is_first():
            self._teller.tell(
                step=self.step,
                total_steps=self.program.total_steps,
                epoch=self.step // self.program.steps_per_epoch,
                images_per_sec=self._images_per_sec,
                seconds_left=(self.program.total_steps - self.step) * self._step_time / share,
            )
        return Progress(
            self.step,
            self.program.total_steps,
            self.step // self.program.steps_per_epoch,
            self.task.means(sums) if int(sums["count"]) else {},
            self._images_per_sec,
            self.experiment.train.epochs,
        )

    def give_up(self, ended: records.Ending, reason: str) -> None:
        """Ends the run before its last step, and notes in its folder why."""
        self.active = False
        if processes.is_first():
            standing.note_fault(self.folder, ended, reason)

    def _note_failure(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        """Notes an error that ends the run; a signal does not, since it goes on where it was."""
        if self.active and isinstance(error, Exception) and not isinstance(error, Stopped | Taken):
            reason = (str(error) or type(error).__name__).splitlines()[0]
            self.give_up("failed", reason)

    def evaluation_is_due(self) -> bool:
        """Tells whether the split that is chosen by is due to be evaluated."""
        return self._due(self.experiment.train.eval_every)

    def time_to_save(self) -> bool:
        """Tells whether so much time has passed that the state is due to be saved."""
        since = time.monotonic() - self._saved_at
        return since >= 60 * self.experiment.train.save_minutes and not self._background.busy

    def save_is_due(self) -> bool:
        """Tells whether the state is due to be saved after an epoch, or as the last one."""
        every = self.experiment.train.checkpoint_every
        return self.step == self.program.total_steps or (every is not None and self._due(every))

    def waits(self) -> bool:
        """Tells whether what was asked for is read before the run goes on.

        It is if the run may end with it, and on a CPU, where an evaluation and steps at the same
        time would only slow each other down.
        """
        ending = self.experiment.train.patience is not None or self.step == self.program.total_steps
        alone = jax.process_count() == 1  # else saving keeps the host
        return ending or not alone or self.program.devices.devices.flat[0].platform == "cpu"

    def is_over(self) -> bool:
        """Tells whether the last step is done, or patience has ended the run."""
        return self.step >= self.program.total_steps or self._is_out_of_patience()

    def _due(self, every: int) -> bool:
        epoch, rest = divmod(self.step, self.program.steps_per_epoch)
        return rest == 0 and (epoch % every == 0 or self.step == self.program.total_steps)

    def _is_out_of_patience(self) -> bool:
        epoch, rest = divmod(self.step, self.program.steps_per_epoch)
        patience = self.experiment.train.patience
        looked = self.step == self._recorded and rest == 0
        return looked and patience is not None and epoch - self.best.get("epoch", epoch) >= patience

    def look(self, evaluate: Evaluate | None, *, save: bool) -> None:
        """Has the state copied, looked through and perhaps evaluated, without waiting for it.

        The state may be consumed from then on. With an evaluation, the sums over training steps
        and the clock begin anew.

        Args:
            evaluate: state to sums over the split that is chosen by; None if no evaluation is due.
            save: whether the state is saved.
        """
        if save and self._writing is not None:  # at most one in flight, whose copy takes room
            with self._clock.spent("save"):
                concurrent.futures.wait([self._writing])
        with self._clock.spent("evaluate"):
            self.state = self.completed(self.state, self.step)
        copied, finite = snapshot(self.state)
        if evaluate is None:
            speed: Record = {"seconds": self.seconds}
            self._looked = _Look(self.step, copied, finite, None, {}, speed, save)
            return
        with self._clock.spent("evaluate"):  # the examples may be read as it goes
            sums = evaluate(self.state)
        trained, speed = self._trained(), self._speed()
        self.state, copied = (self._with_zero_sums(state) for state in (self.state, copied))
        self._looked = _Look(self.step, copied, finite, sums, trained, speed, save)
        self.restart_clock(self._waited)

    def _trained(self) -> Record:
        done = jax.device_get(self.state.sums)
        train = selection.of_split(self.task, done, "train")
        if train:
            steps = int(done["count"]) / self.experiment.data.batch_size
            train["grad_norm"] = float(done["grad_norm"]) / steps
        if self.state.loss_scale is not None:
            scale = jax.device_get(self.state.loss_scale)
            train |= {"loss_scale": float(scale.scale), "skipped_steps": int(scale.skipped)}
        return {"step": self.step, "epoch": self.step // self.program.steps_per_epoch, **train}

    def _speed(self) -> Record:
        found = {"lr": float(self.rates[self.step - 1]), "seconds": self.seconds}
        if self._steps_since:
            found["images_per_sec"] = self._images_per_sec
            found["step_time"] = self._step_time
            found["data_wait"] = self._waited() - self._waited_before
            found["goodput"] = self._clock.goodput(self._read_before)
        return found

    def _with_zero_sums(self, state: TrainState) -> TrainState:
        return replace(state, sums=mesh.place(self._zero_sums, state.step.sharding))

    def read(self) -> None:
        """Reads what :meth:`look` has asked for: records the evaluation, has the state saved.

        Raises:
            Diverged: the state or the loss is not finite; nothing of it is saved.
            NotWritten: what was to be saved before could not be.
        """
        self._background.check()
        look, self._looked = self._looked, None
        if look is None:
            return
        with self._clock.spent("evaluate"):
            name, sums = not_finite(look.finite), jax.device_get(look.sums)
        if name is not None:
            raise Diverged(f"state{name} is not finite after step {look.step}; not saved")
        if sums is not None:
            self._record(look, sums)
        if look.save:
            self._save(look)

    def _record(self, look: _Look, sums: Sums) -> None:
        held, self._confusion = self._means(sums, self.program.selected_on, look.step)
        found = {**look.trained, **held, **look.speed}
        if self._score(found) > self._score(self.best):
            self.best, self._best_unsaved = found, (look.state, found)
        with as_not_written(self.folder):
            self._log.write(found)
        self.listener.record({"run": self.name, **found} if self.name else found)
        self._last, self._recorded = found, look.step
        ending = look.step == self.program.total_steps
        if self._prune is not None and not ending and self._prune(self.folder, found):
            split, name = self.program.selected_on, self.chosen_by.name
            reached = self.chosen_by.shown(found[f"{selection.PREFIX[split]}_{name}"])
            raise Pruned(
                f"after epoch {found['epoch']}, with {split} {self.chosen_by.title} {reached}"
            )

    def _means(
        self, sums: Sums, split: sources.HeldOut, step: int
    ) -> tuple[dict[str, float], np.ndarray | None]:
        """Returns the metrics of an evaluation, and its confusion matrix, if the task has one.

        Raises:
            Diverged: the loss is not finite.
        """
        sums, prefix = jax.device_get(sums), selection.PREFIX[split]
        found = selection.of_split(self.task, sums, split)
        for name, value in found.items():
            if not math.isfinite(value):
                raise Diverged(
                    f"the {split} {name.removeprefix(f'{prefix}_')} is not finite after step "
                    f"{step}; nothing of it is saved"
                )
        return found, np.asarray(sums["confusion"]) if "confusion" in sums else None

    def save(self) -> None:
        """Saves the newest state, and returns when it is on disk.

        Raises:
            Diverged: the state is not finite; it is not saved.
            NotWritten: it cannot be saved.
        """
        self.read()
        if self.step != self._saved:
            self.look(None, save=True)
            self.read()
        elif self._best_unsaved is not None:
            self._write(self._best_writer())
        with self._clock.spent("save"):
            self._background.settle()
        self._background.check()

    def _save(self, look: _Look) -> None:
        """Has the latest checkpoint saved, and the best ones deleted that no kept one names."""
        best = self._best_writer()
        about = {"step": look.step, "seconds": look.speed["seconds"]}
        if self._last.get("step") == look.step:
            about = self._last
        meta = {**about, "best": self.best, **self._mark}
        # The run may go on from this checkpoint, or from the one before.
        wanted = {best.get("step") for best in (self._best_of_checkpoint, self.best)}

        def write() -> None:
            best()  # before the latest that names it
            self._latest_saved.save(look.step, look.state, meta)
            self._best_saved.keep_only(wanted.__contains__)

        self._write(write)
        self._best_of_checkpoint, self._saved = self.best, look.step
        self._saved_at = time.monotonic()

    def _best_writer(self) -> Callable[[], None]:
        """Returns what saves the best state, if it is not saved yet."""
        unsaved, self._best_unsaved = self._best_unsaved, None
        if unsaved is None:
            return lambda: None
        state, found = unsaved
        meta = {**found, "best": found, **self._mark}
        return lambda: self._best_saved.save(found["step"], state, meta)

    def _write(self, write: Callable[[], None]) -> None:
        """Has something written in the background, once what was before is."""

        def work() -> None:
            with as_not_written(self.folder):
                write()

        with self._clock.spent("save"):  # which takes none but with several processes
            self._writing = self._background.start(work)

    def restart_clock(self, waited: Callable[[], float]) -> None:
        """Begins to measure the speed anew.

        Args:
            waited: gives the seconds that were spent waiting for data so far.
        """
        self._waited, self._waited_before = waited, waited()
        self._steps_since, self._seconds_since = 0, 0.0
        self._read_before = self._clock.reading()

    def _score(self, record: Record) -> float:
        return selection.score(record, self.chosen_by)

    @property
    def _images_per_sec(self) -> float:
        return self._steps_since * self.experiment.data.batch_size / self._seconds_since

    @property
    def _step_time(self) -> float:
        return self._seconds_since / self._steps_since

    def _say(self, text: str) -> None:
        self.listener.message(f"{self.name}: {text}" if self.name else text)

    # ------------------------------------------------------------------------------ the end

    def finish(
        self, evaluate: Evaluate, test: Evaluate, memory: int | None, together: int
    ) -> dict[str, Any]:
        """Writes what is looked at when a run is done, and returns what summary.json holds.

        Args:
            evaluate: state to sums over the split that is chosen by.
            test: state to sums over the test set.
            memory: bytes that the training program needs, where that is known.
            together: how many runs that program trains.

        Raises:
            Diverged: the state was never evaluated, and it or the loss is not finite.
        """
        self.read()
        if self._recorded != self.step:  # the run was made shorter, or its record was lost
            self.look(evaluate, save=False)
        self.save()
        log = run_folder.read_metrics(self.folder)
        last = log[-1]
        assert last["step"] == self.step
        tested: Record
        if self.program.selected_on == "validation":  # the only look at the test set
            tested, self._confusion = self._means(test(self.state), "test", self.step)
            best = f"val_{self.chosen_by.name}"
            tested |= {f"best_{best}": self.best[best]} | self._best_tested(test)
        else:
            best = f"test_{self.chosen_by.name}"
            tested = {f"best_{best}": self.best[best]}
            if self._confusion is None:  # stopped between the last step and the summary
                _, self._confusion = self._means(evaluate(self.state), "test", self.step)
        arrays = mesh.whole(self.program.devices, self.state)
        summary = {
            "name": self.experiment.name,
            "model": str(self.experiment.model.name),
            "dataset": str(self.experiment.data.name),
            "seed": self.experiment.train.seed,
            "parameters": sum(leaf.size for leaf in jax.tree.leaves(arrays.params)),
            "memory_bytes": memory,
            **({"runs_together": together} if together > 1 else {}),
            **{k: v for k, v in last.items() if k not in ("epoch", "lr", "goodput")},
            **tested,
            "epochs": last["epoch"],
            "selected_on": self.program.selected_on,
            "best_epoch": self.best["epoch"],
            "stopped_early": last["epoch"] < self.experiment.train.epochs,
            **self._clock.found(),
            "params_sha256": sha256(arrays.params),
            "state_sha256": sha256(replace(arrays, sums={})),
        }
        with as_not_written(self.folder):
            processes.on_first(lambda: files.write_json(self.folder / "summary.json", summary))
            processes.on_first(lambda: standing.forget(self.folder))
        self.active = False
        if processes.is_first():
            self._draw(log, summary)
        return summary

    def _best_tested(self, test: Evaluate) -> Record:
        """Returns the test result of the best checkpoint, which was chosen on other examples.

        It is unknown where somebody has damaged or removed that checkpoint.
        """
        state, name = self.state, f"test_{self.chosen_by.name}"
        if self.best["step"] != self.step:
            shapes = mesh.placed(self.program.devices, self.program.network.shapes)
            try:
                restored = self._identity.restore(self._best_saved, shapes)
            except InputError as error:
                self._say(f"{error}; summary.json has no best_{name}")
                return {}
            if restored is None or int(restored[0].step) != self.best["step"]:
                return {}
            state, _ = restored
        found, _ = self._means(test(state), "test", self.best["step"])
        return {f"best_{name}": found[name]}

    def _draw(self, log: list[dict[str, Any]], summary: Mapping[str, Any]) -> None:
        """Draws the pictures; the run is done, with or without them."""
        metrics, first = self.program.network.metrics, self.chosen_by
        reached = first.shown(summary[f"test_{first.name}"])
        title = f"{self.experiment.name}: test {first.title} {reached}"
        curves, confusion = (self.folder / name for name in ("curves.png", "confusion.png"))
        with as_warning(f"{curves}: could not be drawn"):
            plots.save_curves(log, curves, title, metrics)
        if self._confusion is None:
            return
        with as_warning(f"{confusion}: could not be drawn"):
            classes = self.program.dataset.classes
            plots.save_confusion(self._confusion, classes, confusion, title)
