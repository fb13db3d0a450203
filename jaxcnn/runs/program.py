"""What the training of an experiment computes, the same for every seed and every run folder."""

import bisect
import contextlib
import functools
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import msgspec
import numpy as np
import optax
from jax.sharding import Mesh, Sharding

from jaxcnn import models, tasks
from jaxcnn.config import Data, Experiment, brought_in, to_dict
from jaxcnn.config.brought import Brought, titled
from jaxcnn.config.checked import require
from jaxcnn.data import augment, pipeline, sources
from jaxcnn.data.augment.geometry import alternating
from jaxcnn.data.crops import Crops
from jaxcnn.data.feed import Feed, InBlocks, crops_of, open_stream
from jaxcnn.data.source import Croppable, Source
from jaxcnn.data.stream import Stream
from jaxcnn.errors import InputError, as_one_line
from jaxcnn.learning import averages, mesh, optim, processes, records, run_folder, step
from jaxcnn.learning.state import TrainState, sha256, stream
from jaxcnn.runs import network
from jaxcnn.runs.trained import Trained, describe, restore
from jaxcnn.tasks import BaseTask
from jaxcnn.text import counted

States = tuple[TrainState, ...]
"""One state for each run that is computed together with others; a run alone has one."""
RatedChunk = Callable[[TrainState, Any, Any, Any], TrainState]
"""``(state, given, rates, end) -> state``: all steps up to ``end``, at these learning rates."""


@dataclass(frozen=True)
class Compiled:
    """A compiled chunk of steps of one run, or of several together.

    Attributes:
        run: ``(states, ends) -> states``: trains each state up to its step; consumes the states.
        programs: what it runs, for each size of the images; None where nothing is compiled.
        waited: gives the seconds that were spent waiting for data so far.
        idle: gives those of them in which the devices may have had nothing to do.
        completed: a state and its step to the state as it is evaluated and saved.
    """

    run: Callable[[States, np.ndarray], States]
    programs: "Programs | None" = None
    waited: Callable[[], float] = lambda: 0.0
    idle: Callable[[], float] = lambda: 0.0
    completed: Callable[[TrainState, int], TrainState] = lambda state, step: state

    def memory(self) -> int | None:
        """Returns the bytes of device memory that it needs, where that is known."""
        return None if self.programs is None else self.programs.memory()

    def due(self, ends: Sequence[int]) -> int | None:
        """Returns a size of images for whose steps up to some ends nothing is compiled yet."""
        return None if self.programs is None else self.programs.due(ends)

    def compile(self, ends: Sequence[int]) -> None:
        """Compiles what is due."""
        if self.programs is not None:
            self.programs.compile(ends)


@dataclass(frozen=True)
class Stage:
    """A part of the training in which images have one size.

    Attributes:
        first: its first step.
        network: the network on images of that size.
    """

    first: int
    network: network.Network

    @property
    def side(self) -> int:
        """The height of its images."""
        return self.network.input_shape[0]


def place_of(stages: Sequence[Stage], end: Any) -> int:
    """Returns which stage the step before an end belongs to."""
    return bisect.bisect_left([stage.first for stage in stages[1:]], int(end))


class Programs:
    """The compiled programs of a training, one for each size of its images.

    Each is compiled when it is due, since one may never be, and since on a CPU compiling takes the
    cores that train.

    Args:
        stages: the parts of the training.
        compiled: compiles the program of one of them, which it is given by its place.
    """

    def __init__(self, stages: Sequence[Stage], compiled: Callable[[int], Any]) -> None:
        self._stages, self._compiled = stages, compiled
        self._made: dict[int, Any] = {}

    def place(self, end: Any) -> int:
        """Returns which stage the step before an end belongs to."""
        return place_of(self._stages, end)

    def due(self, ends: Sequence[int]) -> int | None:
        """Returns a size of images for whose steps up to some ends nothing is compiled yet."""
        places = {self.place(end) for end in ends} - self._made.keys()
        return self._stages[min(places)].side if places else None

    def compile(self, ends: Sequence[int]) -> None:
        """Compiles what the steps up to some ends need."""
        for end in ends:
            self.at(self.place(end))

    def at(self, place: int) -> Any:
        """Returns the program of a stage, which is compiled if it is not yet."""
        if place not in self._made:
            self._made[place] = self._compiled(place)
        return self._made[place]

    def memory(self) -> int | None:
        """Returns the bytes of device memory that they need, where that is known."""
        made = [program for program in self._made.values() if hasattr(program, "memory_analysis")]
        known = [step.planned_bytes(program) for program in made]
        return max((planned for planned in known if planned is not None), default=None)


class Program:
    """What is compiled of a training. Building it checks everything and compiles nothing.

    Runs that differ in no more than name, seed, learning rate and schedule share it: these are
    arguments of the compiled program (:func:`program_key`).

    Args:
        experiment: what is trained.
        dataset: what it is trained and tested on.
        devices: those that share every step.

    Attributes:
        network: the network and its optimizer.
        crops: the random crops that are taken of whole images as they are read, if there are any.
        steps_per_epoch: whole batches in the training set.
        total_steps: steps of the whole run.
        teacher: the network that teaches, if there is one.
        layout: where the arrays of the state lie.
        init: seed to the state before the first step.
        start_from: variables and seed to the same.
        stages: the parts of the run, in each of which images have one size.
        averaging: which weights are averaged, if any.
        chunks: the steps of one run in each stage, not compiled: see :data:`RatedChunk`.
        about: what dataset.json holds.
        environment: what env.json holds.

    Raises:
        InputError: a fault in the experiment, or data that it does not fit.
    """

    def __init__(self, experiment: Experiment, dataset: sources.Dataset, devices: Mesh) -> None:
        task = tasks.build(experiment.task, experiment.train.label_smoothing)
        self.experiment, self.dataset, self.devices = experiment, dataset, devices
        self.network = _built(experiment, task, dataset)
        # Of the run's data, which are read alike for every size that images are trained at.
        config = experiment.data, experiment.augment, experiment.train.sizes
        self.crops = crops_of(dataset, *config)
        self._shuffle: pipeline.Shuffle | InBlocks = pipeline.Shuffle(
            len(dataset.train), experiment.data.batch_size, experiment.augment.repeats
        )
        if dataset.streamed:
            self._shuffle = InBlocks(self._shuffle.steps_per_epoch)
        self.steps_per_epoch = self._shuffle.steps_per_epoch
        self.total_steps = self.steps_per_epoch * experiment.train.epochs
        self.stages = self._stages()
        for stage in self.stages:
            batch = experiment.data.batch_size // devices.size
            _require_augmentable(stage.network, dataset, batch, self.crops)
        self.averaging = averages.averaging_of(experiment.train, self.steps_per_epoch)
        self._require_averages()
        self._require_room()
        if not isinstance(experiment.schedule.name, str):
            self.rates(experiment)  # a fault in what was brought is said before anything is made
        self.teacher = _teacher(self.network)
        self.layout = mesh.of_state(devices, self.network.shapes)
        begin = jax.jit(self.begin, out_shardings=self.layout)
        self.init: Callable[[Any], TrainState] = lambda seed: begin(seed, self.seen())
        self.start_from = jax.jit(self.network.start_from, out_shardings=self.layout)
        self.chunks = [self._make_chunk(stage.network) for stage in self.stages]
        # All processes train on the same data, all files of which may take long to read.
        self.about = processes.on_first(lambda: describe(experiment.data, dataset))
        if self.teacher is not None:
            self.about["teacher_sha256"] = sha256(self.teacher.variables)
        self.environment = {**run_folder.environment(), "mesh": dict(devices.shape)}

    def _require_room(self) -> None:
        """Checks that steps can be counted, and that a learning rate for each of them has room.

        So must the evaluation's confusion matrix. What a step needs is known once it is compiled.

        Raises:
            InputError: names what is too large.
        """
        epochs, classes = self.experiment.train.epochs, len(self.dataset.classes)
        accepted = f"of fewer than 2**31 steps; an epoch has {self.steps_per_epoch:,}"
        require("train.epochs", epochs, self.total_steps < 2**31 - 1, accepted)
        # The schedule is computed for all steps at once, from their numbers in 64 bits.
        rates = f"train.epochs={epochs}: the learning rates of all steps"
        network.require_room(rates, 32 * self.total_steps)
        network.require_room(f"{classes:,} classes: the confusion matrix", 4 * classes**2)

    def seen(self) -> dict[str, np.ndarray]:
        """Reads the training examples that the initialisation sees.

        They are as many as the network says by its ``init_images``, evenly spread over the set; of
        a network that says nothing, there are none.
        """
        train = self.dataset.train
        number = min(getattr(self.network.model, "init_images", 0), len(train))
        if not number:
            return {}
        batch = train.read(np.arange(number) * len(train) // number)
        sound = batch.pop("ok")
        return {name: array[sound] for name, array in batch.items()}

    def begin(self, seed: jax.Array, seen: dict[str, Any]) -> TrainState:
        """Returns the state before the first step, a pure function of the seed and :meth:`seen`."""
        if not seen:
            return self.network.init(seed)
        return self.network.init(seed, self.network.prepare(self.dataset.rendered(seen)["image"]))

    def _stages(self) -> list[Stage]:
        """Returns the parts of the run, in each of which images have one size.

        Raises:
            InputError: the network cannot take a size, or would have other parameters with it.
        """
        train = self.experiment.train
        if not train.sizes:
            return [Stage(0, self.network)]
        return [
            Stage(epoch * self.steps_per_epoch, network.at_size(self.network, side))
            for epoch, side in zip((0, *train.resize_at), train.sizes, strict=True)
        ]

    def _require_averages(self) -> None:
        """Checks that at least one of the run's weights is averaged, if any are to be."""
        averaging, train = self.averaging, self.experiment.train
        if averaging is None or averaging.number(self.total_steps) >= 1:
            return
        left = self.total_steps - averaging.origin
        if train.swa_every is None:
            accepted = f"below train.epochs={train.epochs} by at least half a step"
            require("train.swa_start", train.swa_start, False, accepted)
        accepted = f"at most {left}, the steps from train.swa_start={train.swa_start:g} to the end"
        require("train.swa_every", train.swa_every, False, accepted)

    def _order(self, seed: jax.Array, step: jax.Array) -> jax.Array:
        """Returns the order of the examples in the epoch of a step."""
        return self._shuffle.order(stream(seed, "order"), step)

    def _batch_of(self, net: network.Network) -> Callable[..., step.Batch]:
        """Returns ``(given, seed, order, step) -> batch``, of the size that a network takes."""
        batch = functools.partial(
            _batch, net, self.dataset, self.crops, self._shuffle, self.teacher
        )
        return mesh.split_batches(self.devices, batch)

    def _make_chunk(self, net: network.Network) -> RatedChunk:
        config = self.experiment
        frozen = optim.frozen_paths(config.optim, net.layout)
        gather = mesh.make_gather(self.devices, net.shapes.params)
        batch_of = self._batch_of(net)

        def chunk(state: TrainState, given: Any, rates: jax.Array, end: jax.Array) -> TrainState:
            def train_step(state: TrainState, batch: step.Batch) -> TrainState:
                scale = state.loss_scale

                def rate(count: jax.Array) -> jax.Array:  # Optax does not count what is left out
                    return rates[count if scale is None else count + scale.skipped]

                parts = config.train, config.optim, frozen, gather, net.task, self.averaging
                made = step.make_train_step(net.model, net.optimizer(rate), *parts)
                return made(state, batch)

            return step.make_train_chunk(train_step, self._order, batch_of)(state, given, end)

        return chunk

    def completing(self, state: TrainState, given: Any) -> Callable[[TrainState, int], TrainState]:
        """Compiles what gives averages of weights their batch statistics.

        They are those of the batches of the run's first steps, as many as hold
        ``train.swa_bn_examples``, at ``data.image_size``: a function of weights and seed, whenever
        a run was stopped. Of a network in float16 they are computed in float32, since the averages
        may overflow where none of the weights did, and no step can be left out here.

        Args:
            state: a state of the run.
            given: what every chunk is given; of streamed data, one batch at a time is read.

        Returns:
            A state and its step to the state with these statistics, or to itself, where nothing is
            averaged yet or the network has none.
        """
        averaging, config, net = self.averaging, self.experiment, self.network
        known = averages.STATISTICS in net.shapes.model_state and not config.optim.head_only
        if averaging is None or not known:
            return lambda state, step: state
        batches = -(-config.train.swa_bn_examples // config.data.batch_size)
        batches = min(batches, self.steps_per_epoch)
        gather = mesh.make_gather(self.devices, net.shapes.params)
        model = net.model
        if config.model.dtype == "float16":
            exact = replace(config.model, dtype="float32")
            outputs = net.task.output_shape(net.classes, net.input_shape[:2])
            model = models.build_model(exact, len(net.classes), net.input_shape, outputs)
        sums = averages.make_statistics(model, self._order, self._batch_of(net), gather)
        where = self.layout.swa[averages.STATISTICS]
        blocks = functools.partial(self._first_blocks, int(state.seed), batches)
        first: Any = next(blocks()) if self.dataset.streamed else {}
        program = jax.jit(sums, out_shardings=where if self.devices.size > 1 else None)
        like = state.swa, state.seed, {**given, **first}, np.int32(0), np.int32(0)
        compiled = program.lower(*like).compile()
        network.require_planned(compiled, config.data, "batch_size")

        def summed(state: TrainState) -> Any:
            if not self.dataset.streamed:
                return compiled(state.swa, state.seed, given, np.int32(0), np.int32(batches))
            found = [
                compiled(state.swa, state.seed, {**given, **block}, np.int32(i), np.int32(i + 1))
                for i, block in enumerate(blocks())
            ]
            return jax.tree.map(lambda *parts: sum(parts), *found)

        def completed(state: TrainState, step: int) -> TrainState:
            if averaging.number(step) < 1:
                return state
            mean = jax.tree.map(lambda total: total / batches, summed(state))
            return replace(state, swa={**state.swa, averages.STATISTICS: mean})

        return completed

    def _first_blocks(self, seed: int, number: int) -> Iterator[dict[str, Any]]:
        """Reads the batches of the first steps of a run whose data are streamed, one by one."""
        source = self._stream(seed)
        with contextlib.closing(source.batches(0, number)) as read:  # type: ignore[type-var]
            for i, batch in enumerate(read):
                rows = {name: array[None] for name, array in batch.items()}
                yield {"train": self._put_block({**rows, "first": np.int32(i)})}

    @property
    def selected_on(self) -> sources.HeldOut:
        """The split that best checkpoints and patience choose by."""
        return "test" if self.dataset.validation is None else "validation"

    def rates(self, experiment: Experiment) -> np.ndarray:
        """Returns the learning rate of every step of a run that shares this program.

        There is one more than steps, ``(total_steps + 1,)``: some optimizers look one ahead.
        """
        schedule: optax.Schedule = optim.make_schedule(
            experiment.schedule,
            experiment.optim.peak_lr,
            self.steps_per_epoch,
            experiment.train.epochs,
        )
        if self.averaging is not None:
            schedule = self.averaging.rate(schedule, experiment.schedule, self.steps_per_epoch)
        rates = np.asarray(jax.jit(jax.vmap(schedule))(np.arange(self.total_steps + 1)))
        sound = np.isfinite(rates[:-1]) & (rates[:-1] >= 0)
        if not sound.all():
            raise InputError(
                f"schedule.name={str(experiment.schedule.name)!r}: must give finite numbers >= 0, "
                f"gives {rates[:-1][~sound][0]}"
            )
        return rates

    def title(self, folder: Path | None = None) -> str:
        """Says in two lines what is trained on what, for how long, and where.

        Args:
            folder: the run folder, where it is to be named.
        """
        config, dataset = self.experiment, self.dataset
        weights = sum(leaf.size for leaf in jax.tree.leaves(self.network.shapes.params))
        held = "" if dataset.validation is None else f"{len(dataset.validation):,} validation, "
        return (
            f"{config.name}: {titled(config.model.name)} on {titled(config.data.name)}, "
            f"{counted(weights, 'parameter')}{f', in {folder}' if folder else ''}\n"
            f"{len(dataset.train):,} train, {held}{len(dataset.test):,} test images; "
            f"{counted(config.train.epochs, 'epoch')} of {counted(self.steps_per_epoch, 'step')} "
            f"of {config.data.batch_size:,}; {mesh.named([*self.devices.devices.flat])}"
        )

    def given(self, sharding: Sharding | None = None) -> dict[str, Any]:
        """Puts on the devices what every chunk is given: data in memory, the teacher's variables.

        Args:
            sharding: where it lies; by default every device holds all of it.
        """
        held: dict[str, Any] = {}
        if not self.dataset.streamed:
            held["train"] = pipeline.whole(self.dataset.train)
        if self.teacher is not None:
            held["teacher"] = self.teacher.variables
        return mesh.place(held, sharding or mesh.replicated(self.devices))

    def compile_chunk(
        self, state: TrainState, rates: np.ndarray, closing: contextlib.ExitStack
    ) -> Compiled:
        """Compiles the chunk of steps of one run.

        Data that are streamed are on their way from here on, until the stack is closed.

        Args:
            state: where the run begins.
            rates: its learning rates, from :meth:`rates`.
            closing: closed when the run has ended.
        """
        given = self.given()
        placed = mesh.place(rates, mesh.replicated(self.devices))
        if not self.dataset.streamed:
            programs = self._programs(state, given, placed)

            def run_in_memory(states: States, ends: np.ndarray) -> States:
                program = programs.at(programs.place(ends[0]))
                return (program(states[0], given, placed, ends[0]),)

            completed = self.completing(state, given)
            return Compiled(run_in_memory, programs, completed=completed)
        first = int(state.step)
        if first == self.total_steps:  # nothing is left to be trained
            return Compiled(lambda states, ends: states, completed=self.completing(state, given))
        feed = Feed(self._stream(int(state.seed)), first, self.total_steps, self._put_block)
        closing.callback(feed.close)
        programs = self._programs(state, {**given, "train": feed.block}, placed)

        def run(state: TrainState, block: Any, end: np.int32) -> TrainState:
            program = programs.at(programs.place(end))
            return program(state, {**given, "train": block}, placed, end)

        return Compiled(
            lambda states, ends: (feed.run(run, states[0], ends[0]),),
            programs,
            lambda: feed.waited,
            lambda: feed.idle,
            self.completing(state, given),
        )

    def _programs(self, state: TrainState, held: Any, placed: Any) -> Programs:
        """Returns the programs of one run, of which the next that is due is compiled."""
        forms = jax.tree.map(
            lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=a.sharding), (state, held)
        )

        def compiled(place: int) -> Any:
            program = jax.jit(self.chunks[place], donate_argnums=0, out_shardings=self.layout)
            found = program.lower(*forms, placed, np.int32(0)).compile()
            network.require_planned(found, self.experiment.data, "batch_size")
            return found

        programs = Programs(self.stages, compiled)
        programs.compile([int(state.step) + 1])
        return programs

    def stored(self, number: int) -> dict[str, jax.ShapeDtypeStruct]:
        """Returns the form of some training examples as they are put on the devices."""
        return _form(self.dataset.train, number, self.crops)

    def lower(self) -> Any:
        """Lowers the chunk of steps of one run for arrays of which only the forms are known.

        What is compiled of it is never run: it says what a step needs, on devices that may be
        simulated, without any of the data.
        """
        everywhere = mesh.replicated(self.devices)

        def form(leaf: Any, where: Sharding = everywhere) -> jax.ShapeDtypeStruct:
            return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=where)

        train, size = self.dataset.train, self.experiment.data.batch_size
        stored = self.stored(size if self.dataset.streamed else len(train))
        given: dict[str, Any] = {"train": jax.tree.map(form, stored)}
        if self.dataset.streamed:
            parts = mesh.split(self.devices, axis=1)
            block = {
                name: jax.ShapeDtypeStruct((1, *leaf.shape), leaf.dtype, sharding=parts)
                for name, leaf in stored.items()
            }
            given["train"] = {**block, "first": form(np.int32(0))}
        if self.teacher is not None:
            given["teacher"] = jax.tree.map(form, self.teacher.variables)
        rates = jax.ShapeDtypeStruct((self.total_steps + 1,), jnp.float32, sharding=everywhere)
        # Of several sizes of images the largest, which needs most.
        place = max(range(len(self.stages)), key=lambda place: self.stages[place].side)
        program = jax.jit(self.chunks[place], donate_argnums=0, out_shardings=self.layout)
        state = mesh.placed(self.devices, self.network.shapes)
        return program.lower(state, given, rates, np.int32(0))

    def _stream(self, seed: int) -> Stream:
        """Opens the training examples of a run whose data are streamed."""
        data, repeats = self.experiment.data, self.experiment.augment.repeats
        shared = seed, self.devices.size
        return open_stream(self.dataset, data, *shared, crops=self.crops, repeats=repeats)

    def _put_block(self, block: dict[str, Any]) -> dict[str, Any]:
        """Puts a block of batches, (steps, n, ...) each, and the number of its first step."""
        first = mesh.place(block.pop("first"), mesh.replicated(self.devices))
        return {"first": first, **mesh.place_part(block, mesh.split(self.devices, axis=1))}


ProgramKey = tuple[str, tuple[Brought, ...]]


def program_key(experiment: Experiment) -> ProgramKey:
    """Returns what is the same for experiments that share their program."""
    config = to_dict(experiment)
    del config["name"], config["schedule"], config["optim"]["peak_lr"], config["train"]["seed"]
    return json.dumps(config, sort_keys=True), tuple(brought_in(experiment).values())


def _built(experiment: Experiment, task: BaseTask, dataset: sources.Dataset) -> network.Network:
    """Builds the network for a dataset, whose labels must be such as its task learns."""
    brought, names = isinstance(experiment.task.name, Brought), dataset.classes
    own = as_one_line(f"task.name={str(experiment.task.name)!r}")
    with own if brought else contextlib.nullcontext():
        for split, source in [("train", dataset.train), *dataset.held_out.items()]:
            for labels in _labels(dataset, source):
                task.check_labels(labels, names, split)
        found = task.fit(dataset.train.read_labels)
        fitted = msgspec.convert(found, records.Fitted, from_attributes=True)
    built = network.build(experiment, names, dataset.image_shape, fitted)
    if brought:
        network.require_judging(built, _seen_label(experiment.data, dataset))
    return built


def _labels(dataset: sources.Dataset, source: Source) -> Iterator[np.ndarray]:
    """Gives the labels of a split as the task gets them.

    Of classes that are streamed, whose numbers are in range by construction, and of what is drawn,
    it gives one in their form.
    """
    form = source.label_form
    if dataset.render is not None:
        drawn = jax.eval_shape(dataset.rendered, source.read(np.array([0])))["label"]
        yield np.zeros(drawn.shape, drawn.dtype)
    elif isinstance(source, sources.Split):
        yield source.labels
    elif form.ndim == 0 and np.issubdtype(form.dtype, np.integer):
        yield form[None]
    else:
        for first in range(0, len(source), LABELS):
            yield source.take(np.arange(first, min(first + LABELS, len(source)))).read_labels()


LABELS = 1024
"""Labels of a stream that are checked at once."""


def _seen_label(data: Data, dataset: sources.Dataset) -> jax.ShapeDtypeStruct:
    """Returns the form of the labels of two examples, as they stand beside network input."""
    prepare = augment.make_prepare_batch(data)
    found = jax.eval_shape(
        lambda batch: prepare(dataset.rendered(batch))["label"], _form(dataset.train, 2)
    )
    return jax.ShapeDtypeStruct(found.shape, found.dtype)


def _form(
    source: Source, number: int, crops: Crops | None = None
) -> dict[str, jax.ShapeDtypeStruct]:
    """Returns the form of a batch of a split, as it is stored, or cropped as it is read."""
    first = np.array([0])
    if crops is None:
        found = source.read(first)
    else:
        assert isinstance(source, Croppable)
        found = source.read_crops(first, crops.of_step(0, 0, 1))
    return {
        name: jax.ShapeDtypeStruct((number, *found[name].shape[1:]), found[name].dtype)
        for name in ("image", "label")
    }


def _require_augmentable(
    net: network.Network, dataset: sources.Dataset, number: int, crops: Crops | None
) -> None:
    """Traces the augmentation of a batch, where functions of a user's are part of it.

    Raises:
        InputError: one of them does not fit, or flips cannot alternate, which is said before
            anything is compiled.
    """
    flip = net.experiment.augment.flip
    accepted = "True or False where data are streamed, whose examples have no place to go by"
    require("augment.flip", flip, not (dataset.streamed and flip == "alternating"), accepted)
    if net.experiment.augment.own:
        prepare, batch = _preparing(net, crops), _form(dataset.train, number, crops)
        if flip == "alternating":
            batch["mirrored"] = jax.ShapeDtypeStruct((number,), jnp.bool_)
        jax.eval_shape(
            lambda batch: prepare({**batch, **dataset.rendered(batch)}, jax.random.key(0)), batch
        )


def _preparing(net: network.Network, crops: Crops | None) -> Callable[..., step.Batch]:
    """Returns what makes network input of a batch in training, which may have been cropped."""
    soft = functools.partial(net.task.soft_targets, names=net.classes)
    data, changes = net.experiment.data, net.experiment.augment
    if crops is not None:  # they are cropped already: all of it is seen
        data, changes = replace(data, fit="resize"), replace(changes, random_resized_crop=0.0)
    return augment.make_training_batch(data, changes, soft)


def _batch(
    net: network.Network,
    dataset: sources.Dataset,
    crops: Crops | None,
    shuffle: pipeline.Shuffle | InBlocks,
    teacher: Trained | None,
    given: dict[str, Any],
    seed: jax.Array,
    order: jax.Array,
    step: jax.Array,
) -> step.Batch:
    """Makes the batch of a step, prepared for the network."""
    experiment = net.experiment
    batch = dataset.rendered(shuffle.batch(given["train"], order, step))
    if experiment.augment.flip == "alternating":
        assert isinstance(shuffle, pipeline.Shuffle)
        places, epoch = shuffle.places(order, step), step // shuffle.steps_per_epoch
        batch["mirrored"] = alternating(stream(seed, "flip"), places, epoch)
    key = jax.random.fold_in(stream(seed, "augment"), step)
    batch = _preparing(net, crops)(batch, key)
    if teacher is not None:
        images = _renormalised(batch["image"], experiment.data, teacher.experiment.data)
        logits: Any = teacher.model.apply(given["teacher"], images, train=False)
        batch["teacher"] = logits
    return batch


def _renormalised(images: jax.Array, old: Data, new: Data) -> jax.Array:
    """Normalises images with the mean and standard deviation of other data than before."""
    if (old.mean, old.std) == (new.mean, new.std):
        return images
    mean_old, std_old, mean_new, std_new = (
        jnp.array(numbers, jnp.float32).reshape(1, 1, 1, -1)
        for numbers in (old.mean, old.std, new.mean, new.std)
    )
    return (images * std_old + mean_old - mean_new) / std_new


def _teacher(student: network.Network) -> Trained | None:
    """Restores the network that teaches, if there is one.

    Raises:
        InputError: it is not there, or has another task, other classes or another input.
    """
    folder = student.experiment.train.distill_from
    if folder is None:
        return None
    teacher = restore(Path(folder))
    theirs = type(teacher.task).__name__, len(teacher.classes), teacher.input_shape
    ours = type(student.task).__name__, len(student.classes), student.input_shape
    for what, its, own in zip(("task", "classes", "input"), theirs, ours, strict=True):
        if its != own:
            raise InputError(
                f"train.distill_from={folder!r}: its {what} ({its}) must be those of the student "
                f"({own})"
            )
    return teacher
