"""What training and the use of a trained network share: the network, its evaluation, records."""

import contextlib
import functools
import importlib.metadata
import os
import platform
import sys
from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, Sharding

from jaxcnn import models
from jaxcnn.config import Data, Experiment
from jaxcnn.data import augment, pipeline, sources
from jaxcnn.data.faults import Faults
from jaxcnn.data.stream import Stream
from jaxcnn.errors import InputError, as_input_error
from jaxcnn.train import mesh, metrics, optim, step
from jaxcnn.train.state import TrainState, sha256


def build_model(
    experiment: Experiment, classes: Sequence[str], image_shape: tuple[int, int, int]
) -> nn.Module:
    """Builds the experiment's network and checks, without computing, that it takes the images.

    Raises:
        InputError: an unknown model or option, or images that the network cannot take.
    """
    config = experiment.model
    shape = network_shape(experiment, image_shape)
    with as_input_error():
        model = models.create_model(
            config.name, num_classes=len(classes), dtype=config.dtype, **config.options
        )
    with as_input_error(f"model.name={config.name!r} on images of {'x'.join(map(str, shape))}"):
        jax.eval_shape(
            functools.partial(_forward, model), jax.ShapeDtypeStruct((2, *shape), jnp.float32)
        )
    return model


def _forward(model: nn.Module, images: jax.Array) -> Any:
    """Everything that training does with a network before the loss."""
    key = jax.random.key(0)
    variables = model.init(key, images, train=False)
    mutable = [name for name in variables if name != "params"]
    return model.apply(
        variables, images, train=True, endpoints=True, mutable=mutable, rngs={"dropout": key}
    )


def optimizer_layout(
    experiment: Experiment, model: nn.Module, shape: tuple[int, int, int]
) -> optim.Layout:
    """The network's layout, where the optimizer makes use of it; else an empty one."""
    config = experiment.optim
    used = config.name == "muon" or config.layer_decay != 1 or config.freeze or config.head_only
    return optim.layout_of(model, shape) if used else optim.NO_LAYOUT


def network_shape(
    experiment: Experiment, image_shape: tuple[int, int, int]
) -> tuple[int, int, int]:
    """Height, width and channels that the network sees."""
    h, w, c = image_shape
    data = experiment.data
    if experiment.augment.random_crop and (h, w) != (data.read_size, data.read_size):
        raise InputError(
            f"augment.random_crop=True: must be False for data.name={data.name!r}, whose images "
            f"are {h}x{w}: data.read_size={data.read_size} is of images of different sizes"
        )
    try:
        return *augment.fitted_size(h, w, data), c
    except ValueError as error:
        raise InputError(str(error)) from error


def compile_evaluate(
    experiment: Experiment,
    model: nn.Module,
    dataset: sources.Dataset,
    state: Any,
    prepare: Callable[[jax.Array], jax.Array] | None = None,
    devices: Mesh | None = None,
) -> Callable[[TrainState], metrics.Sums]:
    """Compiles the evaluation of the test set, held on the devices.

    Args:
        experiment: how images are prepared and how many at a time.
        model: the network.
        dataset: whose test set is meant.
        state: of the shapes that the program will be called with.
        prepare: stored images to network input, where it is another than the experiment's.
        devices: those that the state lies on; the first one by default.
    """
    devices = devices or mesh.one_device()
    fitted = prepare or augment.make_prepare(experiment.data)
    gather = mesh.make_gather(devices, state)
    for_one = step.make_evaluate(
        step.make_eval_step(model), lambda images: fitted(dataset.rendered(images))
    )

    def evaluate(state: TrainState, batches: step.Batch) -> metrics.Sums:
        return for_one(gather(state), batches)

    program = jax.jit(evaluate, out_shardings=mesh.replicated(devices))
    where = mesh.split(devices, axis=1)
    if dataset.streamed:
        stream = make_stream(experiment, dataset, devices.size)
        return functools.partial(_evaluate_stream, program, stream, where)
    batches = mesh.place(
        pipeline.in_batches(dataset.test, experiment.data.eval_batch_size, devices.size), where
    )
    compiled = program.lower(state, batches).compile()
    return lambda state: compiled(state, batches)


def _evaluate_stream(
    program: Callable[[TrainState, step.Batch], metrics.Sums],
    stream: Stream,
    where: Sharding,
    state: TrainState,
) -> metrics.Sums:
    sums: metrics.Sums = {}
    for batch in stream.eval_batches():
        rows = {name: array[None] for name, array in batch.items()}
        found = program(state, mesh.place_part(rows, where))
        sums = metrics.add(sums, found) if sums else found
    if not int(sums["count"]):
        raise InputError("data.name='folder': no test image can be read")
    return sums


def make_stream(experiment: Experiment, dataset: sources.Dataset, devices: int = 1) -> Stream:
    """The batches of a dataset that is streamed, or this process's part of them."""
    data, workers = experiment.data, experiment.data.workers
    if workers is None and jax.default_backend() == "cpu":
        workers = 0  # processes would take the cores that train: benchmarks/input.py, on 2 cores
    eval_batch_size = min(data.eval_batch_size, len(dataset.test))
    return Stream(
        dataset.train,
        dataset.test,
        experiment.train.seed,
        data.batch_size,
        eval_batch_size + -eval_batch_size % devices,
        Faults(data.max_bad_images),
        workers,
        jax.process_index(),
        jax.process_count(),
    )


def describe(experiment: Experiment, dataset: sources.Dataset) -> dict[str, Any]:
    """What dataset.json holds: enough to predict without the data, and to know them again."""
    test = dataset.test.identity()
    drawn = [] if dataset.render is None else [np.array(dataset.render.seed)]
    return {
        "name": experiment.data.name,
        "classes": list(dataset.classes),
        "image_shape": list(dataset.image_shape),
        "train_examples": len(dataset.train),
        "test_examples": len(dataset.test),
        "sha256": sha256([*dataset.train.identity(), *test]),
        "test_form": _form(dataset.test, experiment.data, rendered=dataset.render is not None),
        "test_sha256": sha256([*test, *drawn]),
    }


def _form(split: sources.Source, data: Data, *, rendered: bool) -> str:
    """What the identity of a split is of; two splits can only be told apart in the same form."""
    if rendered or not isinstance(split, sources.Split):
        return "rendered" if rendered else type(split).__name__.lower()
    fit = "square" if data.fit == "crop" and data.read_size else data.fit
    return f"{'x'.join(map(str, split.image_shape))} {fit}"  # as the files were decoded


def environment() -> dict[str, Any]:
    """What env.json holds: all that the last bits of a result can depend on, beside the config."""
    packages = ("jaxcnn", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")
    versions = {}
    for name in packages:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[name] = importlib.metadata.version(name)
    return {
        "platform": jax.default_backend(),
        "devices": [d.device_kind for d in jax.devices()],
        "processes": jax.process_count(),
        "cores": len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count(),
        "processor": platform.machine(),
        "system": platform.system(),
        "python": platform.python_version(),
        "versions": versions,
    }
