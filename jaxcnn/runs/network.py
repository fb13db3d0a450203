"""An experiment's network on the images of a dataset, with the optimizer that trains it."""

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from jaxcnn import models
from jaxcnn.config import Data, Experiment
from jaxcnn.config.checked import require
from jaxcnn.data import augment
from jaxcnn.errors import InputError
from jaxcnn.learning import optim
from jaxcnn.learning.state import TrainState, init_state, state_from
from jaxcnn.learning.step import planned_bytes
from jaxcnn.memory import gigabytes, require_memory


@dataclass(frozen=True)
class Network:
    """What is known of a network before any array of it exists.

    Attributes:
        experiment: what says how it is built and trained.
        model: the module.
        classes: names of the classes, in the order of the logits.
        image_shape: height, width and channels of the dataset's images, as they are stored.
        input_shape: the same of the images that the network sees.
        layout: what the optimizer has to know about the network.
    """

    experiment: Experiment
    model: nn.Module
    classes: tuple[str, ...]
    image_shape: tuple[int, int, int]
    input_shape: tuple[int, int, int]
    layout: optim.Layout

    def optimizer(self, rate: optax.Schedule = lambda step: 0.0) -> optax.GradientTransformation:
        """Returns the optimizer at a learning rate, on which its state does not depend."""
        return optim.make_optimizer(self.experiment.optim, rate, self.layout)

    def init(self, seed: jax.Array) -> TrainState:
        """Returns the state before the first step, a pure function of the seed."""
        return init_state(self.model, self.optimizer(), seed, self.input_shape, ema=self._ema)

    def start_from(self, variables: Any, seed: jax.Array) -> TrainState:
        """Returns the state before the first step from given variables."""
        return state_from(variables, self.optimizer(), seed, ema=self._ema)

    @property
    def _ema(self) -> bool:
        return self.experiment.train.ema_decay > 0

    @functools.cached_property
    def shapes(self) -> TrainState:
        """Types and shapes of the state's arrays."""
        return jax.eval_shape(self.init, jax.ShapeDtypeStruct((), jnp.int32))

    @functools.cached_property
    def prepare(self) -> Callable[..., jax.Array]:
        """The function from stored images to network input: :func:`augment.make_prepare`."""
        return augment.make_prepare(self.experiment.data)


def build(
    experiment: Experiment, classes: Sequence[str], image_shape: tuple[int, int, int]
) -> Network:
    """Builds the experiment's network and checks, without computing, that it takes the images.

    Raises:
        InputError: an unknown model or option, images that the network cannot take, or another
            number of means than channels.
    """
    for name in ("mean", "std"):
        numbers, channels = getattr(experiment.data, name), image_shape[2]
        accepted = f"1 number, or one for each of the images' channels, which are {channels}"
        require(f"data.{name}", numbers, len(numbers) in (1, channels), accepted)
    shape = augment.input_shape(experiment.data, experiment.augment, image_shape)
    model = models.build_model(experiment.model, len(classes), shape)
    layout = optim.needed_layout(experiment.optim, model, shape)
    built = Network(experiment, model, tuple(classes), image_shape, shape, layout)
    if experiment.optim.is_from_outside:
        images = jax.ShapeDtypeStruct((1, *shape), jnp.float32)
        init = functools.partial(model.init, train=False)
        params = jax.eval_shape(init, jax.random.key(0), images)["params"]
        optim.require_updates(experiment.optim, built.optimizer(), params)
    require_room(f"model.name={experiment.model.name!r}: its state", nbytes(built.shapes))
    return built


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
