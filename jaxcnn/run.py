"""Training: an experiment becomes a trained run in its folder.

Here data, model, optimizer, checkpoints and the loop come together.
"""

import contextlib
import functools
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jaxcnn.analysis import plots
from jaxcnn.build import (
    build_model,
    compile_evaluate,
    describe,
    environment,
    make_stream,
    network_shape,
    on_device,
    optimizer_layout,
)
from jaxcnn.config import Data, Experiment, InputError, differences, to_dict
from jaxcnn.data import augment, pipeline, sources
from jaxcnn.data.feed import Feed, InBlocks
from jaxcnn.train import files, folder, loop, metrics, optim, step
from jaxcnn.train.state import TrainState, init_state, sha256, state_from, stream, variables_of
from jaxcnn.trained import Trained, restore, transfer


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
        jaxcnn.train.loop.Diverged: the loss is no longer finite.
        jaxcnn.train.loop.Stopped: a signal came; the state is saved.
    """
    listener = listener or Listener()
    # First of all, so that a signal while the data are read or compiled is not lost either.
    with loop.StopRequest() as stop, contextlib.ExitStack() as closing:
        finished = folder.finished(workdir, to_dict(experiment))
        if finished is not None:
            listener.message(f"{workdir} is finished: {finished['epochs']} epochs")
            return finished
        dataset = sources.load(experiment.data)
        model = build_model(experiment, dataset.classes, dataset.image_shape)
        training = _Training(experiment, dataset, model, listener, stop, profile)
        run = folder.RunFolder(workdir)
        closing.callback(run.close)
        training.begin(run, closing)
        return training.run()


class _Training:
    """One call of :func:`train`: everything is checked when it is built, nothing compiled."""

    def __init__(
        self,
        experiment: Experiment,
        dataset: sources.Dataset,
        model: nn.Module,
        listener: Listener,
        stop: loop.StopRequest,
        profile: tuple[int, int] | None,
    ) -> None:
        self.experiment, self.dataset, self.model = experiment, dataset, model
        self.listener, self.stop, self.profile = listener, stop, profile
        shuffle: pipeline.Shuffle | InBlocks = pipeline.Shuffle(
            len(dataset.train), experiment.data.batch_size
        )
        if dataset.streamed:
            shuffle = InBlocks(shuffle.steps_per_epoch)
        self.plan = loop.Plan(
            shuffle.steps_per_epoch,
            experiment.data.batch_size,
            experiment.train.epochs,
            experiment.train.eval_every,
            experiment.train.checkpoint_every,
        )
        if profile is not None and profile[1] > self.plan.total_steps:
            raise InputError(
                f"--profile {profile[0]}:{profile[1]}: must end within the run's "
                f"{self.plan.total_steps} steps"
            )
        self.schedule = optim.make_schedule(
            experiment.schedule,
            experiment.optim.peak_lr,
            self.plan.steps_per_epoch,
            self.plan.epochs,
        )
        shape = network_shape(experiment, dataset.image_shape)
        layout = optimizer_layout(experiment, model, shape)
        tx = optim.make_optimizer(experiment.optim, self.schedule, layout)
        frozen = optim.frozen_paths(experiment.optim, layout)
        ema = experiment.train.ema_decay > 0
        self.init = jax.jit(lambda seed: init_state(model, tx, seed, shape, ema=ema))
        self.init_from = jax.jit(lambda variables, seed: state_from(variables, tx, seed, ema=ema))
        self.teacher = _teacher(experiment, dataset)
        self.chunk = step.make_train_chunk(
            step.make_train_step(model, tx, experiment.train, experiment.optim, frozen),
            lambda seed, step: shuffle.order(stream(seed, "order"), step),
            functools.partial(_batch, experiment, dataset, shuffle, self.teacher),
        )
        self.best_so_far: loop.Record = {}
        self.confusion: np.ndarray | None = None

    def begin(self, run: folder.RunFolder, closing: contextlib.ExitStack) -> None:
        """Finds where to start, refuses what does not fit, then makes the folder this run's."""
        self.workdir, self.closing = run.path, closing
        self.latest = folder.checkpoints(self.workdir, "latest")
        closing.callback(self.latest.close)
        self.best = folder.checkpoints(self.workdir, "best")
        closing.callback(self.best.close)
        config, about = to_dict(self.experiment), describe(self.experiment, self.dataset)
        if self.teacher is not None:
            about["teacher_sha256"] = sha256(self.teacher.variables)
        here = environment()
        shapes = jax.eval_shape(self.init, jax.ShapeDtypeStruct((), jnp.int32))
        self.start: TrainState | None = None
        self.meta: dict[str, Any] = {"seconds": 0.0, "best": {}}
        self.source: Trained | None = None
        if self.latest.steps():  # a folder in which nothing was trained is free for any run
            folder.check_same(self.workdir, config, about)
            restored = self.latest.restore(on_device(shapes))
            assert restored is not None
            self.start, self.meta = restored
            done = int(self.start.step) // self.plan.steps_per_epoch
            if int(self.start.step) > self.plan.total_steps:
                raise InputError(
                    f"train.epochs={self.plan.epochs}: the run in {self.workdir} has done {done} "
                    "epochs already; give at least as many, or another --workdir"
                )
            self._compare_machines(here)
        elif self.experiment.model.init_from is not None:
            self.source = restore(Path(self.experiment.model.init_from))
            self._transferred(variables_of(shapes))
        first = 0 if self.start is None else int(self.start.step)
        self.recorded = max(
            (r["step"] for r in folder.read_metrics(self.workdir) if r["step"] <= first), default=-1
        )
        self.best.drop_after(first)  # made again on the way
        run.claim(config, about)
        files.write_json(self.workdir / "env.json", here)

    def _compare_machines(self, here: dict[str, Any]) -> None:
        before = files.read_json(self.workdir / "env.json")
        changed = differences(before, here)
        if changed:
            listed = "; ".join(f"{k} was {a!r}, now {b!r}" for k, (a, b) in changed.items())
            self.listener.message(
                f"another environment than before ({listed}): the last bits may differ from those "
                "of a run that was never interrupted"
            )

    def _transferred(self, variables: dict[str, Any]) -> tuple[dict[str, Any], list[str]]:
        """The variables to start from, and the names of the parameters that start anew."""
        assert self.source is not None
        classes = len(self.source.classes), len(self.dataset.classes)
        folder = str(self.experiment.model.init_from)
        old, found, fresh = self.source.variables, {}, []
        for kind in variables:
            found[kind], anew = transfer(old.get(kind, {}), variables[kind], classes, folder)
            fresh += anew
        return found, fresh

    def run(self) -> dict[str, Any]:
        """Compiles, trains to the end, and writes the summary."""
        state = self.start
        if state is None:
            state = self.init(jnp.int32(self.experiment.train.seed))
        if self.source is not None:
            variables, fresh = self._transferred(variables_of(state))
            state = self.init_from(variables, state.seed)
            anew = f"; {', '.join(fresh)} start anew" if fresh else ""
            self.listener.message(
                f"starting from {self.experiment.model.init_from} at step {self.source.step}{anew}"
            )
        self.best_so_far = self.meta["best"]
        self._announce(int(state.step))
        run_chunk = self._compile_chunk(state)
        evaluate = compile_evaluate(self.experiment, self.model, self.dataset, state)
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
            self.latest.save(record["step"], state, {**record, "best": self.best_so_far})

        try:
            state = loop.fit(
                state,
                self.plan,
                run_chunk=run_chunk,
                evaluate=evaluate,
                learning_rate=self.schedule,
                enough=self._enough,
                profile=self.profile and loop.Profile(*self.profile, self.workdir / "profile"),
                save=save,
                record=record,
                progress=self.listener.progress,
                stop=self.stop,
                seconds_before=self.meta["seconds"],
                recorded=self.recorded,
            )
        finally:
            log.close()
        return self._finish(state, evaluate)

    def _enough(self, epoch: int) -> bool:
        patience = self.experiment.train.patience
        return patience is not None and epoch - self.best_so_far.get("epoch", epoch) >= patience

    def _compile_chunk(self, state: TrainState) -> Callable[[TrainState, jax.Array], TrainState]:
        """Compiles the chunk of steps, with its data on the device or on their way to it."""
        given = {} if self.teacher is None else {"teacher": self.teacher.variables}
        given = jax.device_put(given)
        program = jax.jit(self.chunk, donate_argnums=0)
        if not self.dataset.streamed:
            given["train"] = jax.device_put(pipeline.whole(self.dataset.train))
            chunk = program.lower(state, given, jnp.int32(0)).compile()
            self.memory = _planned_bytes(chunk)
            return lambda state, end: chunk(state, given, end)
        first, stop = int(state.step), self.plan.total_steps
        if first == stop:  # nothing is left to be trained
            self.memory = None
            return lambda state, end: state
        feed = Feed(make_stream(self.experiment, self.dataset), first, stop)
        self.closing.callback(feed.close)
        chunk = program.lower(state, {**given, "train": feed.block}, jnp.int32(0)).compile()
        self.memory = _planned_bytes(chunk)
        return functools.partial(
            feed.run, lambda state, block, end: chunk(state, {**given, "train": block}, end)
        )

    def _announce(self, step: int) -> None:
        name, train, test = self.experiment.name, self.dataset.train, self.dataset.test
        self.listener.message(
            f"{name}: {self.experiment.model.name} on {self.experiment.data.name}, "
            f"{len(train):,} train and {len(test):,} test images, "
            f"{self.plan.epochs} epochs of {self.plan.steps_per_epoch} steps"
        )
        if step:
            self.listener.message(f"going on from step {step} of {self.plan.total_steps}")

    def _finish(
        self, state: TrainState, evaluate: Callable[[TrainState], metrics.Sums]
    ) -> dict[str, Any]:
        records = folder.read_metrics(self.workdir)
        last = records[-1]
        assert last["step"] == int(state.step)
        if self.confusion is None:  # the run was stopped between its last step and its summary
            self.confusion = np.asarray(evaluate(state)["confusion"])
        title = f"{self.experiment.name}: test top-1 {last['test_top1']:.2%}"
        plots.save_curves(records, self.workdir / "curves.png", title)
        plots.save_confusion(
            self.confusion, self.dataset.classes, self.workdir / "confusion.png", title
        )
        parameters = sum(leaf.size for leaf in jax.tree.leaves(state.params))
        summary = {
            "name": self.experiment.name,
            "model": self.experiment.model.name,
            "dataset": self.experiment.data.name,
            "seed": self.experiment.train.seed,
            "parameters": parameters,
            "memory_bytes": self.memory,
            **{k: v for k, v in last.items() if k not in ("epoch", "lr")},
            "epochs": last["epoch"],
            "best_test_top1": self.best_so_far["test_top1"],
            "best_epoch": self.best_so_far["epoch"],
            "stopped_early": last["epoch"] < self.plan.epochs,
            "params_sha256": sha256(state.params),
            "state_sha256": sha256(replace(state, sums={})),
        }
        files.write_json(self.workdir / "summary.json", summary)
        return summary


def _planned_bytes(program: Any) -> int | None:
    """Device memory that XLA plans for a program: arguments (state, data), results, temporaries."""
    plan = program.memory_analysis()
    if plan is None:  # not every platform tells
        return None
    return int(
        plan.argument_size_in_bytes
        + plan.output_size_in_bytes
        - plan.alias_size_in_bytes
        + plan.temp_size_in_bytes
    )


def _batch(
    experiment: Experiment,
    dataset: sources.Dataset,
    shuffle: pipeline.Shuffle | InBlocks,
    teacher: Trained | None,
    given: dict[str, Any],
    seed: jax.Array,
    order: jax.Array,
    step: jax.Array,
) -> step.Batch:
    batch = shuffle.batch(given["train"], order, step)
    key = jax.random.fold_in(stream(seed, "augment"), step)
    prepare = augment.make_training_batch(experiment.data, experiment.augment, len(dataset.classes))
    batch = prepare({**batch, "image": dataset.rendered(batch["image"])}, key)
    if teacher is not None:
        images = _renormalised(batch["image"], experiment.data, teacher.experiment.data)
        logits: Any = teacher.model.apply(given["teacher"], images, train=False)
        batch["teacher"] = logits
    return batch


def _renormalised(images: jax.Array, old: Data, new: Data) -> jax.Array:
    """Images normalised with the mean and standard deviation of other data."""
    if (old.mean, old.std) == (new.mean, new.std):
        return images
    mean_old, std_old, mean_new, std_new = (
        jnp.array(numbers, jnp.float32).reshape(1, 1, 1, -1)
        for numbers in (old.mean, old.std, new.mean, new.std)
    )
    return (images * std_old + mean_old - mean_new) / std_new


def _teacher(experiment: Experiment, dataset: sources.Dataset) -> Trained | None:
    """The network that teaches, if any.

    Raises:
        InputError: it is not there, or has other classes or another input.
    """
    folder = experiment.train.distill_from
    if folder is None:
        return None
    teacher = restore(Path(folder))
    theirs = len(teacher.classes), network_shape(teacher.experiment, teacher.image_shape)
    ours = len(dataset.classes), network_shape(experiment, dataset.image_shape)
    for what, its, own in zip(("classes", "input"), theirs, ours, strict=True):
        if its != own:
            raise InputError(
                f"train.distill_from={folder!r}: its {what} ({its}) must be those of the student "
                f"({own})"
            )
    return teacher
