"""Arranges devices as a grid: where the training state lies, and how a batch is split over it.

Every array of a run is one global array, whose sharding says which device holds which part. The
compiled step is written as if there were one device; XLA puts in the communication. Statistics of
a batch are therefore those of the global batch, on any number of devices.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec, Sharding

from jaxcnn.config import Devices, Experiment
from jaxcnn.errors import InputError

AXES = ("data", "fsdp")
"""Both split the batch; ``fsdp`` also splits large arrays of the state."""
LARGE = 2**14
"""Elements from which on an array of the state is split over ``fsdp``: below, the latency of
collecting it costs more than the memory is worth."""


def make_mesh(experiment: Experiment) -> Mesh:
    """Arranges the devices that a run uses as a grid ``(data, fsdp)``.

    Raises:
        InputError: as :func:`arrangement` says.
    """
    there = jax.devices()
    config = arrangement(experiment, len(there), jax.process_count())
    return _mesh(there[: (config.data or 1) * config.fsdp], config)


def arrangement(experiment: Experiment, there: int, processes: int = 1) -> Devices:
    """Returns how a run arranges devices of which it is known only how many there are.

    Args:
        experiment: the experiment.
        there: how many devices its processes have in all.
        processes: how many processes.

    Raises:
        InputError: there are fewer devices than asked for, they cannot be arranged so, or the
            batch cannot be split evenly over them.
    """
    config, batch_size = experiment.devices, experiment.data.batch_size
    fsdp = config.fsdp
    data = config.data if config.data is not None else max(1, there // fsdp)
    used = data * fsdp
    if used > there:
        raise InputError(
            f"devices: data={data} times fsdp={fsdp} are {used} devices; there are {there}"
        )
    if used < there and (config.data is None or processes > 1):
        raise InputError(
            f"devices: data={config.data} times fsdp={fsdp} must take all of the {there} "
            f"devices of {processes} processes"
            if processes > 1
            else f"devices.fsdp={fsdp}: must divide the number of devices, {there}"
        )
    parts = used * experiment.train.accumulate
    if batch_size % parts:
        raise InputError(
            f"data.batch_size={batch_size}: must be a multiple of {parts}, to be split evenly over "
            f"{used} devices"
            + (f" in train.accumulate={experiment.train.accumulate} parts" if parts > used else "")
            + "; devices.data limits their number"
        )
    return Devices(data, fsdp)


def one_device() -> Mesh:
    """Returns the grid of the first device alone."""
    return _mesh(jax.local_devices()[:1], Devices(1, 1))


def named(devices: Sequence[jax.Device]) -> str:
    """Returns what some devices are, and how many, such as ``8 x NVIDIA H200``."""
    many = f"{len(devices)} x " if len(devices) > 1 else ""
    return f"{many}{devices[0].device_kind}"


def in_a_row(devices: Sequence[jax.Device], axis: str) -> Mesh:
    """Arranges devices along one axis of any name."""
    return jax.make_mesh((len(devices),), (axis,), axis_types=(AxisType.Auto,), devices=devices)


def _mesh(devices: list[jax.Device], config: Devices) -> Mesh:
    assert config.data is not None
    auto = (AxisType.Auto, AxisType.Auto)
    return jax.make_mesh((config.data, config.fsdp), AXES, axis_types=auto, devices=devices)


def replicated(mesh: Mesh) -> NamedSharding:
    """Returns the sharding in which every device holds the whole array."""
    return NamedSharding(mesh, PartitionSpec())


def split(mesh: Mesh, axis: int = 0) -> NamedSharding:
    """Returns the sharding that cuts an axis of examples into one part for each device."""
    return NamedSharding(mesh, PartitionSpec(*(None,) * axis, AXES))


def of_state(mesh: Mesh, shapes: Any) -> Any:
    """Returns the sharding of each array of the state.

    Large arrays (parameters and, of the same shapes, their moments and averages) are split over
    ``fsdp`` along their longest axis that it divides; the rest is replicated.

    Args:
        mesh: the devices.
        shapes: pytree of arrays or of their shapes.
    """
    parts = mesh.shape["fsdp"]

    def sharding(leaf: Any) -> NamedSharding:
        axes = [axis for axis, n in enumerate(leaf.shape) if n % parts == 0]
        if parts == 1 or not axes or leaf.size < LARGE:
            return replicated(mesh)
        longest = max(axes, key=lambda axis: leaf.shape[axis])
        return NamedSharding(mesh, PartitionSpec(*(None,) * longest, "fsdp"))

    return jax.tree.map(sharding, shapes)


def placed(mesh: Mesh, shapes: Any) -> Any:
    """Returns shapes and shardings of a state's arrays, which a checkpoint is restored to."""
    return jax.tree.map(
        lambda s, where: jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=where),
        shapes,
        of_state(mesh, shapes),
    )


def place(tree: Any, sharding: Sharding) -> Any:
    """Copies arrays from the host to the devices.

    Args:
        tree: pytree of arrays, which every process has whole.
        sharding: which part goes to which device; each process copies the parts of its own.
    """

    def put(array: Any) -> jax.Array:
        host = np.asarray(array)
        return jax.make_array_from_callback(host.shape, sharding, lambda index: host[index])

    return jax.tree.map(put, tree)


def place_part(tree: Any, sharding: Sharding) -> Any:
    """Copies arrays to the devices, where each process has only the rows for its own devices."""
    return jax.tree.map(lambda array: jax.make_array_from_process_local_data(sharding, array), tree)


def whole(mesh: Mesh, tree: Any) -> Any:
    """Copies arrays from the devices to the host of every process, whole."""
    if mesh.shape["fsdp"] > 1:
        tree = jax.jit(lambda tree: tree, out_shardings=replicated(mesh))(tree)
    return jax.device_get(tree)


def split_batches(mesh: Mesh, batch_of: Callable[..., Any]) -> Callable[..., Any]:
    """Makes each device prepare its own part of every batch."""
    if mesh.size == 1:
        return batch_of
    return lambda *args: jax.lax.with_sharding_constraint(batch_of(*args), split(mesh))


def make_gather(mesh: Mesh, shapes: Any) -> Callable[[Any], Any]:
    """Makes ``gather(params)``: whole arrays where they are used, gradients in parts again.

    Without it the partitioner might collect activations, which are larger than parameters.

    Args:
        mesh: the devices.
        shapes: pytree of the parameters or of their shapes.
    """
    if mesh.shape["fsdp"] == 1:
        return lambda params: params
    parts = of_state(mesh, shapes)

    @jax.custom_vjp
    def gather(params: Any) -> Any:
        return jax.lax.with_sharding_constraint(params, replicated(mesh))

    gather.defvjp(
        lambda params: (gather(params), None),
        lambda _, grads: (jax.lax.with_sharding_constraint(grads, parts),),
    )
    return gather
