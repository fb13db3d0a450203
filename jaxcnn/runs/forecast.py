"""Says what a training will need on many devices of a given card, before there are any.

The training is compiled for so many simulated devices and never run. From the program come the
collectives and what lies on each device; from the network's layers and the card's roofline the time
of a step (:mod:`jaxcnn.analysis.step_cost`).
"""

import math
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxcnn import ops
from jaxcnn.analysis.cards import Card
from jaxcnn.analysis.collectives import Collective, find
from jaxcnn.analysis.roofline import Dtype
from jaxcnn.analysis.step_cost import StepCost, step_cost
from jaxcnn.config import Experiment, with_warmup_cut
from jaxcnn.data import outline
from jaxcnn.data.feed import BLOCK_BYTES, BLOCK_STEPS
from jaxcnn.data.sources import Dataset
from jaxcnn.errors import InputError
from jaxcnn.learning import mesh
from jaxcnn.runs import aside, settled
from jaxcnn.runs.program import Program

MOST_DEVICES = 1024
"""So many devices are simulated at most; each is a part of this process."""


def simulate(devices: int) -> None:
    """Starts JAX with so many simulated devices, which share this machine's cores.

    Raises:
        InputError: too many, or JAX has started with others.
    """
    if not 1 <= devices <= MOST_DEVICES:
        raise InputError(f"--devices {devices}: must be a whole number in [1, {MOST_DEVICES}]")
    try:
        jax.config.update("jax_num_cpu_devices", devices)
        jax.config.update("jax_platforms", "cpu")
    except RuntimeError:  # it has started
        if jax.default_backend() != "cpu" or jax.device_count() != devices:
            raise InputError(
                f"--devices {devices}: JAX has started with {jax.device_count()}; plan in a "
                "process of its own"
            ) from None


@dataclass(frozen=True)
class Forecast:
    """What a training needs, as far as is known beforehand.

    Attributes:
        card: what it is planned for.
        devices: how many share each step.
        batch: images of a step.
        dtype: type of the arithmetic.
        memory: bytes on each device, by what takes them.
        flops: FLOPs of a step on each device.
        flops_of_xla: the same as XLA counts them in the compiled program; None if it does not.
        moved: bytes that the layers and the update of a step move on each device.
        collectives: what the devices say to one another in a step.
        computing: seconds that each device computes in a step.
        alone: seconds that one device would take for the step of all.
        steps: the number of steps of the run.
        evaluating: seconds that all evaluations of the run take.
    """

    card: Card
    devices: int
    batch: int
    dtype: Dtype
    memory: dict[str, float]
    flops: float
    flops_of_xla: float | None
    moved: float
    collectives: list[Collective]
    computing: float
    alone: float
    steps: int
    evaluating: float

    @property
    def needed(self) -> float:
        """Bytes on each device."""
        return sum(self.memory.values())

    @property
    def waiting(self) -> float:
        """Seconds of a step that the devices wait for collectives, which nothing hides."""
        return sum(one.seconds(self.card) for one in self.collectives)

    @property
    def step_seconds(self) -> float:
        """Seconds of a step."""
        return self.computing + self.waiting

    @property
    def images_per_sec(self) -> float:
        """Images of all devices in a second of training."""
        return self.batch / self.step_seconds

    @property
    def strong(self) -> float:
        """Efficiency of strong scaling: the time of one device, shared evenly, over this one."""
        return self.alone / (self.devices * self.step_seconds)

    @property
    def weak(self) -> float:
        """Efficiency of weak scaling: the time of one device with its part, over this one."""
        return self.computing / self.step_seconds

    @property
    def seconds(self) -> float:
        """Seconds of the whole run: steps and evaluations."""
        return self.steps * self.step_seconds + self.evaluating

    @property
    def joules(self) -> float | None:
        """Joules that all cards take at most, without the machines around them."""
        return self.card.watts and self.card.watts * self.devices * self.seconds


def dataset_of(
    experiment: Experiment,
    examples: int | None = None,
    shape: tuple[int, int, int] | None = None,
    classes: int | None = None,
) -> Dataset:
    """Returns the outline of an experiment's data, with labels such as its task learns.

    Args:
        experiment: what is planned, from :func:`settle`.
        examples: see :func:`outline.of`.
        shape: likewise.
        classes: likewise.
    """
    known = outline.of(experiment.data, None, examples, shape, classes)
    number, task = len(known.classes), str(experiment.task.name)
    forms: dict[str, np.ndarray] = {
        "multilabel": np.zeros(number, np.int32),
        "regression": np.zeros(number, np.float32),
        "segmentation": np.zeros(known.image_shape[:2], np.int32),
    }
    if task not in forms or not isinstance(known.train, outline.Outline):
        return known
    return outline.of(experiment.data, forms[task], examples, shape, classes)


def settle(experiment: Experiment, devices: int) -> Experiment:
    """Returns the experiment as a run on so many devices would record it.

    Raises:
        InputError: it asks for another number of devices.
    """
    experiment = settled.with_numbers(with_warmup_cut(experiment))
    asked = experiment.devices
    if asked.data is not None and asked.data * asked.fsdp != devices:
        raise InputError(
            f"--devices {devices}: must be devices.data={asked.data} times "
            f"devices.fsdp={asked.fsdp}, or leave devices.data out"
        )
    if devices % asked.fsdp:
        raise InputError(f"devices.fsdp={asked.fsdp}: must divide --devices {devices}")
    train, data = experiment.train, experiment.data
    choosing = train.patience is not None and train.select_on == "auto"
    if choosing and data.validation is None:
        data = replace(data, validation=aside.SHARE)
    return replace(experiment, data=data)


def forecast(experiment: Experiment, dataset: Dataset, card: Card, devices: int) -> Forecast:
    """Compiles a training for simulated devices and says what it will need.

    Args:
        experiment: what is planned, from :func:`settle`.
        dataset: the outline of its data.
        card: what it is planned for.
        devices: how many share each step; :func:`simulate` has made them.

    Raises:
        InputError: a fault in the experiment, or a batch that the devices cannot share evenly.
    """
    data, train = experiment.data, experiment.train
    # float16 takes the room of bfloat16, and on these cards its time.
    dtype: Dtype = "fp32" if experiment.model.dtype == "float32" else "bf16"
    grid = mesh.make_mesh(experiment)
    program = Program(experiment, dataset, grid)
    with ops.force_impl(platform=card.platform):
        compiled = program.lower().compile({"xla_backend_optimization_level": 0})
        network = program.network
        own = step_cost(network.model, network.input_shape, dtype)
        taught = program.teacher and step_cost(
            program.teacher.model, network.input_shape, dtype, "infer"
        )
    # What a step computes: each part of the batch forward and backward, twice with SAM.
    rounds = train.accumulate * (2 if experiment.optim.sam_rho > 0 else 1)
    parts = [(own, rounds, train.accumulate)] + ([(taught, 1, 1)] if taught else [])
    memory = _memory(program, own, dtype)
    update = 2 * memory["state"] + memory["gradients"]

    def computing(images: int, update: float) -> float:
        times = (n * cost.seconds(images // cut, card, dtype) for cost, n, cut in parts)
        return sum(times) + update / card.roofs(dtype).bytes_per_sec

    local = data.batch_size // devices
    whole = 2 * _nbytes(network.shapes, None) + _nbytes(network.shapes.params, None)
    evaluations = math.ceil(train.epochs / train.eval_every)
    held = len(dataset.test if dataset.validation is None else dataset.validation)
    cost = compiled.cost_analysis() or {}
    return Forecast(
        card,
        devices,
        data.batch_size,
        dtype,
        memory,
        sum(n * each.flops(local // cut) for each, n, cut in parts),
        cost.get("flops"),
        sum(n * each.moved(local // cut) for each, n, cut in parts) + update,
        find(compiled.as_text(), devices),
        computing(local, update),
        computing(data.batch_size, whole),
        program.total_steps,
        evaluations * held * own.seconds(local, card, dtype) / (3 * data.batch_size),
    )


def _memory(program: Program, cost: StepCost, dtype: Dtype) -> dict[str, float]:
    """Returns the bytes that lie on each device, by what takes them."""
    network, data, devices = program.network, program.experiment.data, program.devices
    local = data.batch_size // devices.size // program.experiment.train.accumulate
    params = network.shapes.params
    layout = program.layout.params
    gathered = _nbytes(params, None) if devices.shape["fsdp"] > 1 else 0
    itemsize = jnp.dtype(jnp.bfloat16 if dtype == "bf16" else jnp.float32).itemsize
    images = 4 * data.batch_size // devices.size * math.prod(network.input_shape)
    return {
        "state": _nbytes(network.shapes, program.layout),
        "gradients": _nbytes(params, layout) + gathered,
        "activations": local * cost.activations * itemsize + images,
        "data": _stored(program, data.batch_size, devices.size),
    }


def _stored(program: Program, batch: int, devices: int) -> float:
    """Returns the bytes of data on each device: the training set, or two blocks of batches."""
    size = sum(leaf.size * leaf.dtype.itemsize for leaf in program.stored(1).values())
    if not program.dataset.streamed:
        return len(program.dataset.train) * size
    steps = min(BLOCK_STEPS, BLOCK_BYTES // (batch * size))
    return 2 * max(1, steps) * batch * size / devices


def _nbytes(shapes: Any, layout: Any) -> float:
    """Returns the bytes of arrays on each device, or of the whole arrays without a layout."""
    leaves = jax.tree.leaves(shapes)
    where = [None] * len(leaves) if layout is None else jax.tree.leaves(layout)
    return sum(
        math.prod(leaf.shape if at is None else at.shard_shape(leaf.shape)) * leaf.dtype.itemsize
        for leaf, at in zip(leaves, where, strict=True)
    )
