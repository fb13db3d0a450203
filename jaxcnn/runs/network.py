"""An experiment's network on the images of a dataset, with the optimizer that trains it."""

import contextlib
import functools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import msgspec
import numpy as np
import optax

from jaxcnn import models, tasks
from jaxcnn.config import Data, Experiment, Task
from jaxcnn.config.checked import require, shown
from jaxcnn.data import augment
from jaxcnn.errors import InputError, as_one_line
from jaxcnn.learning import optim
from jaxcnn.learning.state import TrainState, init_state, state_from, variables_of
from jaxcnn.learning.step import planned_bytes
from jaxcnn.memory import gigabytes, require_memory
from jaxcnn.tasks import BaseTask, Metric, judged_by


@dataclass(frozen=True)
class Network:
    """What is known of a network before any array of it exists.

    Attributes:
        experiment: what says how it is built and trained.
        model: the module.
        task: what it learns, and how it is judged.
        fitted: what the task has found in the training labels.
        classes: names of the classes or, in general, of the network's outputs, in their order.
        image_shape: height, width and channels of the dataset's images, as they are stored.
        input_shape: the same of the images that the network sees.
        layout: what the optimizer has to know about the network.
    """

    experiment: Experiment
    model: nn.Module
    task: BaseTask
    fitted: Mapping[str, Any]
    classes: tuple[str, ...]
    image_shape: tuple[int, int, int]
    input_shape: tuple[int, int, int]
    layout: optim.Layout

    def optimizer(self, rate: optax.Schedule = lambda step: 0.0) -> optax.GradientTransformation:
        """Returns the optimizer at a learning rate, on which its state does not depend."""
        return optim.make_optimizer(self.experiment.optim, rate, self.layout)

    def init(self, seed: jax.Array, images: jax.Array | None = None) -> TrainState:
        """Returns the state before the first step, a pure function of its arguments.

        Args:
            seed: the seed of the run.
            images: network input that the initialisation sees, where it looks at any.
        """
        tx, shape = self.optimizer(), self.input_shape
        return init_state(self.model, tx, seed, shape, **self._kept, task=self.task, images=images)

    def start_from(self, variables: Any, seed: jax.Array) -> TrainState:
        """Returns the state before the first step from given variables."""
        return state_from(variables, self.optimizer(), seed, **self._kept, task=self.task)

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """The figures that judge it; it is chosen by the first."""
        return judged_by(self.task, self.classes)

    def named(self, output: int) -> str:
        """Returns the name of one of the outputs, of which a task may have more than names."""
        return self.classes[output] if output < len(self.classes) else f"output {output}"

    @property
    def judged(self) -> dict[str, Any] | None:
        """What task.json holds; None of classification, which is understood without."""
        name = str(self.experiment.task.name)
        if name == Task().name:
            return None
        metrics = [msgspec.to_builtins(metric) for metric in self.metrics]
        return {"name": name, "metrics": metrics, "fitted": self.fitted}

    @property
    def _kept(self) -> dict[str, bool]:
        """What the state keeps beside parameters, statistics and the optimizer's."""
        train, dtype = self.experiment.train, self.experiment.model.dtype
        averaged = train.swa_start is not None
        return {"ema": train.ema_decay > 0, "swa": averaged, "scaled": dtype == "float16"}

    @functools.cached_property
    def shapes(self) -> TrainState:
        """Types and shapes of the state's arrays."""
        return jax.eval_shape(self.init, jax.ShapeDtypeStruct((), jnp.int32))

    @functools.cached_property
    def prepare(self) -> Callable[..., jax.Array]:
        """The function from stored images to network input: :func:`augment.make_prepare`."""
        return augment.make_prepare(self.experiment.data)


def build(
    experiment: Experiment,
    classes: Sequence[str],
    image_shape: tuple[int, int, int],
    fitted: Mapping[str, Any] | None = None,
) -> Network:
    """Builds the experiment's network and checks, without computing, that it takes the images.

    Args:
        experiment: what is trained.
        classes: see :class:`Network`.
        image_shape: likewise.
        fitted: what the task has found in the training labels.

    Raises:
        InputError: an unknown model or option, images that the network cannot take, outputs that
            the task cannot, or another number of means than channels.
    """
    task = tasks.build(experiment.task, experiment.train.label_smoothing, fitted)
    for name in ("mean", "std"):
        numbers, channels = getattr(experiment.data, name), image_shape[2]
        accepted = f"1 number, or one for each of the images' channels, which are {channels}"
        require(f"data.{name}", numbers, len(numbers) in (1, channels), accepted)
    shape = augment.input_shape(experiment.data, experiment.augment, image_shape)
    outputs = task.output_shape(classes, shape[:2])
    model = models.build_model(experiment.model, len(classes), shape, outputs)
    layout = optim.needed_layout(experiment.optim, model, shape)
    held = dict(fitted or {})
    built = Network(experiment, model, task, held, tuple(classes), image_shape, shape, layout)
    if experiment.optim.is_from_outside:
        images = jax.ShapeDtypeStruct((1, *shape), jnp.float32)
        init = functools.partial(model.init, train=False)
        params = jax.eval_shape(init, jax.random.key(0), images)["params"]
        optim.require_updates(experiment.optim, built.optimizer(), params)
    require_room(f"model.name={experiment.model.name!r}: its state", nbytes(built.shapes))
    return built


def at_size(network: Network, side: int) -> Network:
    """Returns a network as it sees training images that are resized, with the same parameters.

    Args:
        network: the network on images of the size that it is evaluated with.
        side: height and width of the others.

    Raises:
        InputError: images are padded, or the network cannot take this size, or would have other
            parameters with it.
    """
    if network.input_shape[:2] == (side, side):
        return network
    data, (height, width, _) = network.experiment.data, network.image_shape
    what, sizes = "train.sizes", network.experiment.train.sizes
    whole = network.input_shape[:2] == (height, width)
    accepted = "() with data.fit='pad' where images are padded; data.fit='resize' resizes them"
    require(what, sizes, whole or data.fit != "pad", accepted)
    fit = "resize" if whole else data.fit
    resized = replace(
        network.experiment,
        data=replace(data, image_size=side, fit=fit, read_size=None if whole else data.read_size),
    )
    try:
        built = build(resized, network.classes, network.image_shape, network.fitted)
    except InputError as error:
        raise InputError(f"train.sizes={sizes}: {error}") from error
    seen = {net.input_shape: net.shapes.params for net in (built, network)}
    _require_same(network.experiment, seen)
    return replace(network, experiment=resized, input_shape=built.input_shape)


def require_sizes(experiment: Experiment) -> None:
    """Refuses a network whose parameters depend on the size of images, before data are read.

    It is traced on images of three channels. What only the data can tell, as the size at which it
    is evaluated, or whatever it raises on images that it cannot take, is left to :func:`at_size`.

    Raises:
        InputError: it would have other parameters on images of another of ``train.sizes``.
    """
    data, sizes, seen = experiment.data, experiment.train.sizes, {}
    for side in {*sizes, data.image_size or sizes[0]} if sizes else ():
        with contextlib.suppress(Exception):
            model = models.create_model(
                experiment.model.name, num_classes=2, **experiment.model.options
            )
            images = jax.ShapeDtypeStruct((1, side, side, 3), jnp.float32)
            init = functools.partial(model.init, train=False)
            seen[side, side, 3] = jax.eval_shape(init, jax.random.key(0), images)["params"]
    _require_same(experiment, seen)


def _require_same(experiment: Experiment, seen: Mapping[tuple[int, int, int], Any]) -> None:
    """Checks that a network has the same parameters whatever the shape of the images it sees."""
    name = str(experiment.model.name)
    known: dict[Any, tuple[str, str]] = {}
    for (height, width, _), params in sorted(seen.items()):
        for path, leaf in jax.tree_util.tree_leaves_with_path(params):
            shape = "x".join(map(str, leaf.shape))
            said = f"{shape} on images of {height}x{width}"
            before, told = known.setdefault(path, (shape, said))
            accepted = (
                f"() with model.name={name!r}, whose {optim.path_name(path)} is {told} and {said}"
            )
            require("train.sizes", experiment.train.sizes, before == shape, accepted)


def require_judging(network: Network, labels: jax.ShapeDtypeStruct) -> None:
    """Checks what a task that was brought makes of two examples, without computing.

    Args:
        network: the network.
        labels: the form of the labels of two examples.

    Raises:
        InputError: it fails, or does not give a number for each example.
    """
    what, task = f"task.name={str(network.experiment.task.name)!r}", network.task
    images = jax.ShapeDtypeStruct((2, *network.input_shape), jnp.float32)

    def traced(of: Callable[..., Any]) -> Any:
        def judged(state: TrainState, images: jax.Array, labels: jax.Array) -> Any:
            outputs: Any = network.model.apply(variables_of(state), images, train=False)
            return of(outputs, {"image": images, "label": labels, "mask": jnp.ones(2, bool)})

        with as_one_line(what):
            return jax.eval_shape(judged, network.shapes, images, labels)

    _require_numbers(what, {"loss": traced(task.loss)}, (2,))
    scores = traced(task.scores)
    if not isinstance(scores, Mapping):
        raise InputError(f"{what}: scores must return a dict, returns {type(scores).__name__}")
    _require_numbers(what, scores, (2,))
    _require_numbers(what, {"answers": traced(lambda outputs, _: task.answers(outputs))}, None)
    trained = traced(lambda outputs, batch: task.training_sums(outputs, batch, jnp.ones(2)))
    form = [jax.tree.map(lambda a: (a.shape, a.dtype), x) for x in (trained, task.zero_sums())]
    if form[0] != form[1]:
        raise InputError(f"{what}: zero_sums must have the names and shapes of training_sums")
    for sums, names in (
        (trained, {"loss"}),
        (traced(task.sums), {"loss", *(metric.name for metric in network.metrics)}),
    ):
        if "count" not in sums:
            raise InputError(f"{what}: sums must hold count, hold {', '.join(sums)}")
        with as_one_line(what):
            known = task.means({k: np.ones(v.shape, v.dtype) for k, v in sums.items()})
        lacks = names - known.keys()
        if lacks:
            raise InputError(
                f"{what}: must give scores, or sums and means, for its metric {min(lacks)}; gives "
                f"{', '.join(known)}"
            )
        for name, value in known.items():
            if not isinstance(value, float):
                raise InputError(f"{what}: means must return floats, {name} is {shown(value)}")


def _require_numbers(what: str, values: Mapping[str, Any], shape: tuple[int, ...] | None) -> None:
    """Checks that a task gives a number for each of two examples or, of answers, several."""
    for name, value in values.items():
        given, kind = getattr(value, "shape", None), getattr(value, "dtype", np.dtype(object))
        fits = given == shape if shape else given is not None and len(given) == 2 == given[0]
        if not fits or not any(jnp.issubdtype(kind, of) for of in (jnp.number, jnp.bool_)):
            form = type(value).__name__ if given is None else f"{kind} of shape {given}"
            accepted = (
                "a number for each example, of shape (n,)" if shape else "of shape (n, names)"
            )
            raise InputError(f"{what}: {name} must be {accepted}, is {form} for 2 examples")


def nbytes(shapes: Any) -> int:
    """Returns the bytes of arrays, or of what they would be."""
    return sum(
        math.prod(leaf.shape) * jnp.dtype(leaf.dtype).itemsize
        for leaf in jax.tree.leaves(shapes)
        if not jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)
    )


def require_room(what: str, needed: int) -> None:
    """Checks, before any is taken, that the devices of this process have room for so many bytes.

    Several processes share what is needed, at best evenly.

    Args:
        what: names what would take them.
        needed: bytes that all devices together would hold.

    Raises:
        InputError: there are fewer.
    """
    needed //= jax.process_count()
    stats = [device.memory_stats() or {} for device in jax.local_devices()]
    limits: list[int] = [stat["bytes_limit"] for stat in stats if "bytes_limit" in stat]
    if not limits:  # a CPU counts nothing: its devices share the host's memory
        require_memory(what, needed)
    elif needed > sum(limits):
        raise InputError(
            f"{what}: needs {gigabytes(needed)} of device memory, of which there are "
            f"{gigabytes(sum(limits))}"
        )


def require_planned(compiled: Any, data: Data, field: str) -> None:
    """Checks that there is room for what XLA plans beside a program's arguments, which are there.

    Args:
        compiled: the program.
        data: the config of the data.
        field: the field of it that says how large a batch is.

    Raises:
        InputError: there is less.
    """
    needed = planned_bytes(compiled, arguments=False)
    if needed is not None:
        require_room(f"data.{field}={getattr(data, field)}: each step with a batch", needed)
