"""All that a training computes, the same for every seed and every run folder."""

import contextlib
import copy
import functools
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh, Sharding

from jaxcnn.analysis.bench import planned_bytes
from jaxcnn.config import Data, Experiment, to_dict
from jaxcnn.data import augment, pipeline, sources
from jaxcnn.data.feed import Feed, InBlocks
from jaxcnn.errors import InputError
from jaxcnn.runs.build import (
    compile_evaluate,
    describe,
    environment,
    make_stream,
    network_shape,
    optimizer_layout,
)
from jaxcnn.runs.trained import Trained, restore
from jaxcnn.train import loop, mesh, metrics, optim, step
from jaxcnn.train.state import TrainState, init_state, sha256, state_from, stream

RatedChunk = Callable[[TrainState, Any, Any, Any], TrainState]
"""``(state, given, rates, end) -> state``: all steps up to ``end``, at these learning rates."""


class Program:
    """The parts of a training that are compiled; building it checks everything, compiles nothing.

    Args:
        experiment: what to train; its seed does not count.
        dataset: what on.
        model: the network.
        devices: those that share every step.

    Attributes:
        plan: lengths in steps and epochs.
        teacher: the network that teaches, if any.
        shapes: of the state.
        init: seed to the state before the first step.
        init_from: variables and seed to the same.
        chunk: state, :meth:`given`, :attr:`rates` and step to the state at that step; not compiled.
            The rates are an argument, so that runs which differ in theirs share one program.
        about: what dataset.json holds.
        environment: what env.json holds.
    """

    def __init__(
        self, experiment: Experiment, dataset: sources.Dataset, model: nn.Module, devices: Mesh
    ) -> None:
        self.experiment, self.dataset, self.model = experiment, dataset, model
        self.devices = devices
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
        shape = network_shape(experiment, dataset.image_shape)
        layout = optimizer_layout(experiment, model, shape)
        tx = optim.make_optimizer(experiment.optim, self._schedule(), layout)
        frozen = optim.frozen_paths(experiment.optim, layout)
        ema = experiment.train.ema_decay > 0

        def init(seed: jax.Array) -> TrainState:
            return init_state(model, tx, seed, shape, ema=ema)

        self.shapes = jax.eval_shape(init, jax.ShapeDtypeStruct((), jnp.int32))
        self.layout = mesh.of_state(devices, self.shapes)
        self.init = jax.jit(init, out_shardings=self.layout)
        self.init_from = jax.jit(
            lambda variables, seed: state_from(variables, tx, seed, ema=ema),
            out_shardings=self.layout,
        )
        self.teacher = _teacher(experiment, dataset)
        gather = mesh.make_gather(devices, self.shapes.params)
        batch_of = mesh.split_batches(
            devices, functools.partial(_batch, experiment, dataset, shuffle, self.teacher)
        )

        def chunk(state: TrainState, given: Any, rates: jax.Array, end: jax.Array) -> TrainState:
            rated = optim.make_optimizer(experiment.optim, lambda step: rates[step], layout)
            run = step.make_train_chunk(
                step.make_train_step(
                    model, rated, experiment.train, experiment.optim, frozen, gather
                ),
                lambda seed, step: shuffle.order(stream(seed, "order"), step),
                batch_of,
            )
            return run(state, given, end)

        self.chunk = chunk
        self.about = describe(experiment, dataset)
        if self.teacher is not None:
            self.about["teacher_sha256"] = sha256(self.teacher.variables)
        self.environment = {**environment(), "mesh": dict(devices.shape)}

    def shared_with(self, experiment: Experiment) -> "Program":
        """The same program for an experiment with the same :func:`program_key`."""
        assert program_key(experiment) == program_key(self.experiment)
        other = copy.copy(self)
        other.experiment = experiment
        other.__dict__.pop("rates", None)  # computed from the experiment when asked for
        return other

    def _schedule(self) -> optax.Schedule:
        config, plan = self.experiment, self.plan
        return optim.make_schedule(
            config.schedule, config.optim.peak_lr, plan.steps_per_epoch, plan.epochs
        )

    @functools.cached_property
    def rates(self) -> np.ndarray:
        """The learning rate of every step, (total_steps + 1,): some optimizers look one ahead."""
        steps = np.arange(self.plan.total_steps + 1)
        return np.asarray(jax.jit(jax.vmap(self._schedule()))(steps))

    def title(self) -> str:
        """What is trained on what, in one line."""
        train, test = self.dataset.train, self.dataset.test
        return (
            f"{self.experiment.name}: {self.experiment.model.name} on {self.experiment.data.name}, "
            f"{len(train):,} train and {len(test):,} test images, "
            f"{self.plan.epochs} epochs of {self.plan.steps_per_epoch} steps"
        )

    def given(self, sharding: Sharding | None = None) -> dict[str, Any]:
        """What every chunk is given, on the devices: data held in memory, the teacher's variables.

        Args:
            sharding: where it lies; by default every device holds all of it.
        """
        held: dict[str, Any] = {}
        if not self.dataset.streamed:
            held["train"] = pipeline.whole(self.dataset.train)
        if self.teacher is not None:
            held["teacher"] = self.teacher.variables
        return mesh.place(held, sharding or mesh.replicated(self.devices))

    def compile_chunk(self, state: TrainState, closing: contextlib.ExitStack) -> "Chunk":
        """Compiles the chunk of steps for states like the one given, which it will consume.

        Data that are streamed are on their way from here on, until the stack is closed.
        """
        given = self.given()
        rates = mesh.place(self.rates, mesh.replicated(self.devices))
        program = jax.jit(self.chunk, donate_argnums=0, out_shardings=self.layout)
        if not self.dataset.streamed:
            compiled = program.lower(state, given, rates, np.int32(0)).compile()
            return Chunk(
                lambda state, end: compiled(state, given, rates, end), planned_bytes(compiled)
            )
        first, stop = int(state.step), self.plan.total_steps
        if first == stop:  # nothing is left to be trained
            return Chunk(lambda state, end: state, None)
        stream = make_stream(self.experiment, self.dataset, self.devices.size)
        feed = Feed(stream, first, stop, self._put_block)
        closing.callback(feed.close)
        held = {**given, "train": feed.block}
        compiled = program.lower(state, held, rates, np.int32(0)).compile()

        def run(state: TrainState, block: Any, end: np.int32) -> TrainState:
            return compiled(state, {**given, "train": block}, rates, end)

        return Chunk(functools.partial(feed.run, run), planned_bytes(compiled), lambda: feed.waited)

    def _put_block(self, block: dict[str, Any]) -> dict[str, Any]:
        """A block of batches, (steps, n, ...) each, with the number of its first step."""
        first = mesh.place(block.pop("first"), mesh.replicated(self.devices))
        return {"first": first, **mesh.place_part(block, mesh.split(self.devices, axis=1))}

    def compile_evaluate(self, state: TrainState) -> Callable[[TrainState], metrics.Sums]:
        """Compiles the evaluation of the test set."""
        return compile_evaluate(
            self.experiment, self.model, self.dataset, state, devices=self.devices
        )


def program_key(experiment: Experiment) -> str:
    """The same for experiments that differ in no more than arguments of their program.

    These are the seed, the learning rate and the schedule.
    """
    config = to_dict(experiment)
    del config["name"], config["schedule"], config["optim"]["peak_lr"], config["train"]["seed"]
    return json.dumps(config, sort_keys=True)


@dataclass(frozen=True)
class Chunk:
    """A compiled chunk of steps.

    Attributes:
        run: ``(state, end) -> state``; consumes its argument.
        memory: bytes of device memory that it needs, where the platform tells.
        waited: seconds spent waiting for data so far.
    """

    run: Callable[[TrainState, np.int32], TrainState]
    memory: int | None
    waited: Callable[[], float] = lambda: 0.0


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
