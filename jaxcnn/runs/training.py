"""Training: an experiment becomes a trained run in its folder.

Here data, model, optimizer, checkpoints and the loop come together.
"""

import contextlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxcnn.analysis import plots
from jaxcnn.config import Experiment, differences, to_dict
from jaxcnn.data import sources
from jaxcnn.errors import InputError
from jaxcnn.runs.build import (
    build_model,
)
from jaxcnn.runs.program import Program
from jaxcnn.runs.trained import Trained, restore, transfer
from jaxcnn.train import files, loop, mesh, metrics, processes
from jaxcnn.train import run_folder as folder
from jaxcnn.train.state import TrainState, sha256, variables_of


class Listener:
    """Hears what a run has to say; the command line shows it."""

    def message(self, text: str) -> None:
        """One line about what happens."""

    def progress(self, progress: loop.Progress) -> None:
        """After every chunk of steps."""

    def record(self, record: loop.Record) -> None:
        """After every evaluation."""


def train(
    experiment: Experiment,
    workdir: Path,
    listener: Listener | None = None,
    *,
    profile: tuple[int, int] | None = None,
) -> dict[str, Any]:
    """Trains an experiment in a run folder, going on where an earlier call ended.

    Everything the user gave is checked before anything is compiled.

    Args:
        experiment: what to train.
        workdir: the run folder.
        listener: hears messages, progress and records.
        profile: first and last step of a trace, which goes into the folder ``profile``.

    Returns:
        What summary.json holds.

    Raises:
        InputError: a fault in the experiment, the data or the folder.
        jaxcnn.errors.Diverged: the loss is no longer finite.
        jaxcnn.errors.Stopped: a signal came; the state is saved.
    """
    if listener is None or not processes.is_first():
        listener = Listener()
    # First of all, so that a signal while the data are read or compiled is not lost either.
    with loop.StopRequest() as stop, contextlib.ExitStack() as closing:
        finished = folder.finished(workdir, to_dict(experiment))
        if finished is not None:
            listener.message(f"{workdir} is finished: {finished['epochs']} epochs")
            return finished
        program = _program(experiment, sources.load(experiment.data))
        if profile is not None and profile[1] > program.plan.total_steps:
            raise InputError(
                f"--profile {profile[0]}:{profile[1]}: must end within the run's "
                f"{program.plan.total_steps} steps"
            )
        run = folder.RunFolder(workdir)
        closing.callback(run.close)
        training = Training(program, experiment, run, listener, stop, closing)
        listener.message(program.title())
        state = training.first_state()
        chunk = program.compile_chunk(state, closing)
        evaluate = program.compile_evaluate(state)
        steps = training.steps(state, evaluate, chunk.memory, chunk.waited, profile)
        return loop.drive(steps, chunk.run)


def check(experiment: Experiment, dataset: sources.Dataset) -> None:
    """Checks all that :func:`train` checks, but for the run folder; compiles and writes nothing.

    Raises:
        InputError: a fault in the experiment, or data that it does not fit.
    """
    program = _program(experiment, dataset)
    if experiment.model.init_from is not None:
        source = restore(Path(experiment.model.init_from))
        _transferred(source, program, variables_of(program.shapes))


def _program(experiment: Experiment, dataset: sources.Dataset) -> Program:
    model = build_model(experiment, dataset.classes, dataset.image_shape)
    return Program(experiment, dataset, model, mesh.make_mesh(experiment))


def _transferred(
    source: Trained, program: Program, variables: dict[str, Any]
) -> tuple[dict[str, Any], list[str]]:
    """The variables to start from, and the names of the parameters that start anew."""
    classes = len(source.classes), len(program.dataset.classes)
    folder = str(program.experiment.model.init_from)
    old, found, fresh = jax.device_get(source.variables), {}, []
    for kind in variables:
        found[kind], anew = transfer(old.get(kind, {}), variables[kind], classes, folder)
        fresh += anew
    return found, fresh


class Training:
    """One run in its folder: where it starts, what it writes, how it ends.

    Building it refuses what does not fit, then makes the folder this run's.
    """

    def __init__(
        self,
        program: Program,
        experiment: Experiment,
        run: folder.RunFolder,
        listener: Listener,
        stop: loop.StopRequest,
        closing: contextlib.ExitStack,
    ) -> None:
        self.program, self.experiment, self.plan = program, experiment, program.plan
        self.workdir, self.listener, self.stop = run.path, listener, stop
        self.latest = folder.checkpoints(self.workdir, "latest")
        closing.callback(self.latest.close)
        self.best = folder.checkpoints(self.workdir, "best")
        closing.callback(self.best.close)
        self.confusion: np.ndarray | None = None
        self.start: TrainState | None = None
        self.meta: dict[str, Any] = {"seconds": 0.0, "best": {}}
        self.source: Trained | None = None
        self._find_start()
        self.best_so_far: loop.Record = self.meta["best"]
        first = 0 if self.start is None else int(self.start.step)
        self.recorded = max(
            (r["step"] for r in folder.read_metrics(self.workdir) if r["step"] <= first), default=-1
        )
        self.best.drop_after(first)  # made again on the way
        run.claim(to_dict(experiment), program.about, program.environment)

    def _find_start(self) -> None:
        """Reads the newest checkpoint, or else the weights to start from, if there are any."""
        program = self.program
        if self.latest.steps():  # a folder in which nothing was trained is free for any run
            folder.check_same(self.workdir, to_dict(self.experiment), program.about)
            restored = self.latest.restore(mesh.placed(program.devices, program.shapes))
            assert restored is not None
            self.start, self.meta = restored
            done = int(self.start.step) // self.plan.steps_per_epoch
            if int(self.start.step) > self.plan.total_steps:
                raise InputError(
                    f"train.epochs={self.plan.epochs}: the run in {self.workdir} has done {done} "
                    "epochs already; give at least as many, or another --workdir"
                )
            self._compare_machines(program.environment)
        elif self.experiment.model.init_from is not None:
            self.source = restore(Path(self.experiment.model.init_from))
            _transferred(self.source, program, variables_of(program.shapes))

    def _compare_machines(self, here: dict[str, Any]) -> None:
        before = processes.on_first(lambda: files.read_json(self.workdir / "env.json"))
        changed = differences(before, here)
        if changed:
            listed = "; ".join(f"{k} was {a!r}, now {b!r}" for k, (a, b) in changed.items())
            self.listener.message(
                f"another environment than before ({listed}): the last bits may differ from those "
                "of a run that was never interrupted"
            )

    def first_state(self) -> TrainState:
        """Where the run goes on, or begins."""
        program, state = self.program, self.start
        if state is None:
            state = program.init(np.int32(self.experiment.train.seed))
        if self.source is not None:
            variables, fresh = _transferred(self.source, program, variables_of(state))
            state = program.init_from(variables, state.seed)
            anew = f"; {', '.join(fresh)} start anew" if fresh else ""
            self.listener.message(
                f"starting from {self.experiment.model.init_from} at step {self.source.step}{anew}"
            )
        if int(state.step):
            self.listener.message(f"going on from step {state.step} of {self.plan.total_steps}")
        return state

    def steps(
        self,
        state: TrainState,
        evaluate: Callable[[TrainState], metrics.Sums],
        memory: int | None = None,
        waited: Callable[[], float] = lambda: 0.0,
        profile: tuple[int, int] | None = None,
    ) -> loop.Chunks[dict[str, Any]]:
        """The chunks of steps from a state to the end; returns the summary that it has written."""
        log = folder.MetricsLog(self.workdir, int(state.step))

        def record(state: TrainState, record: loop.Record, sums: metrics.Sums) -> None:
            # The best goes to disk before the latest that names it.
            if record["test_top1"] > self.best_so_far.get("test_top1", -1.0):
                self.best_so_far = record
                self.best.save(record["step"], state, {**record, "best": record})
            log.write(record)
            self.confusion = np.asarray(sums["confusion"])
            self.listener.record(record)

        def save(state: TrainState, record: loop.Record) -> None:
            before, now = self.meta["best"], self.best_so_far
            self.latest.save(record["step"], state, {**record, "best": now})
            # The run may go on from this checkpoint, or from the one before.
            self.best.keep_only({best.get("step") for best in (before, now)}.__contains__)
            self.meta["best"] = now

        try:
            state = yield from loop.chunks(
                state,
                self.plan,
                evaluate=evaluate,
                learning_rate=self.program.rates.__getitem__,
                enough=self._enough,
                data_wait=waited,
                profile=loop.Profile(*profile, self.workdir / "profile") if profile else None,
                save=save,
                record=record,
                progress=self.listener.progress,
                stop=self.stop,
                seconds_before=self.meta["seconds"],
                recorded=self.recorded,
            )
        finally:
            log.close()
        return self._finish(state, evaluate, memory)

    def _enough(self, epoch: int) -> bool:
        patience = self.experiment.train.patience
        return patience is not None and epoch - self.best_so_far.get("epoch", epoch) >= patience

    def _finish(
        self,
        state: TrainState,
        evaluate: Callable[[TrainState], metrics.Sums],
        memory: int | None,
    ) -> dict[str, Any]:
        records = folder.read_metrics(self.workdir)
        last = records[-1]
        assert last["step"] == int(state.step)
        arrays = mesh.whole(self.program.devices, state)
        if self.confusion is None:  # the run was stopped between its last step and its summary
            self.confusion = np.asarray(evaluate(state)["confusion"])
        parameters = sum(leaf.size for leaf in jax.tree.leaves(state.params))
        summary = {
            "name": self.experiment.name,
            "model": self.experiment.model.name,
            "dataset": self.experiment.data.name,
            "seed": self.experiment.train.seed,
            "parameters": parameters,
            "memory_bytes": memory,
            **{k: v for k, v in last.items() if k not in ("epoch", "lr")},
            "epochs": last["epoch"],
            "best_test_top1": self.best_so_far["test_top1"],
            "best_epoch": self.best_so_far["epoch"],
            "stopped_early": last["epoch"] < self.plan.epochs,
            "params_sha256": sha256(arrays.params),
            "state_sha256": sha256(replace(arrays, sums={})),
        }
        processes.on_first(lambda: self._write(records, summary))
        return summary

    def _write(self, records: list[dict[str, Any]], summary: dict[str, Any]) -> None:
        """What is looked at when the run is done; summary.json last, which says that it is."""
        assert self.confusion is not None
        title = f"{self.experiment.name}: test top-1 {summary['test_top1']:.2%}"
        plots.save_curves(records, self.workdir / "curves.png", title)
        plots.save_confusion(
            self.confusion, self.program.dataset.classes, self.workdir / "confusion.png", title
        )
        files.write_json(self.workdir / "summary.json", summary)
