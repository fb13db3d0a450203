"""What is done with a trained network: restored from its folder, evaluated, applied, handed on."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jaxcnn import models
from jaxcnn.config import Experiment, Views, from_dict, to_dict
from jaxcnn.data import augment, sources, views
from jaxcnn.data.images import read_image
from jaxcnn.errors import InputError, as_input_error
from jaxcnn.runs.build import (
    build_model,
    compile_evaluate,
    describe,
    environment,
    network_shape,
    optimizer_layout,
)
from jaxcnn.train import files, mesh, metrics, optim
from jaxcnn.train import run_folder as folder
from jaxcnn.train.state import TrainState, eval_variables, init_state, state_from


@dataclass(frozen=True)
class Trained:
    """A network restored from a run folder.

    Attributes:
        experiment: what was trained.
        model: the network.
        state: of the training.
        classes: their names.
        image_shape: height, width and channels of the dataset's images.
        step: of the checkpoint.
    """

    experiment: Experiment
    model: nn.Module
    state: TrainState
    classes: tuple[str, ...]
    image_shape: tuple[int, int, int]
    step: int

    @property
    def variables(self) -> dict[str, Any]:
        """What the network is run with: the averages, where the training kept some."""
        return eval_variables(self.state)


def restore(workdir: Path, checkpoint: str = "latest") -> Trained:
    """Reads a trained network from a run folder, changing nothing in it.

    Args:
        workdir: the run folder.
        checkpoint: ``"latest"`` or ``"best"``.

    Raises:
        InputError: not a run folder, or no whole checkpoint in it.
    """
    experiment = from_dict(files.read_json(workdir / "config.json"))
    about = files.read_json(workdir / "dataset.json", "classes", "image_shape")
    classes = tuple(about["classes"])
    if len(about["image_shape"]) != 3:
        raise InputError(f"{workdir / 'dataset.json'}: damaged: image_shape must be three numbers")
    h, w, c = about["image_shape"]
    model = build_model(experiment, classes, (h, w, c))
    shape = network_shape(experiment, (h, w, c))
    layout = optimizer_layout(experiment, model, shape)
    tx = optim.make_optimizer(experiment.optim, lambda step: 0.0, layout)
    ema = experiment.train.ema_decay > 0
    shapes = jax.eval_shape(lambda seed: init_state(model, tx, seed, shape, ema=ema), jnp.int32(0))
    saved = folder.checkpoints(workdir, checkpoint, read_only=True)
    try:
        restored = saved.restore(mesh.placed(mesh.one_device(), shapes))
    finally:
        saved.close()
    if restored is None:
        raise InputError(f"workdir {workdir}: has no {checkpoint} checkpoint yet; train it first")
    state, _ = restored
    return Trained(experiment, model, state, classes, (h, w, c), int(state.step))


def transfer(
    trained: Any, fresh: Any, classes: tuple[int, int], source: str
) -> tuple[Any, list[str]]:
    """Trained arrays in place of fresh ones; arrays of logits stay fresh if the classes differ.

    Args:
        trained: arrays of the network to start from.
        fresh: arrays of the network to be trained.
        classes: numbers of classes of the two.
        source: where the trained arrays are from, for the message.

    Returns:
        The arrays, and the names of those that stayed fresh.

    Raises:
        InputError: other arrays are missing or of another shape; names them.
    """
    old = {jax.tree_util.keystr(k): v for k, v in jax.tree_util.tree_leaves_with_path(trained)}
    left: list[str] = []
    wrong: list[str] = []

    def choose(path: Any, new: jax.Array) -> jax.Array:
        name = jax.tree_util.keystr(path)
        held = old.pop(name, None)
        if held is not None and held.shape == new.shape:
            return held
        same_but_classes = (
            held is not None
            and held.shape[:-1] == new.shape[:-1]
            and (held.shape[-1], new.shape[-1]) == classes
        )
        if same_but_classes:
            left.append(name)
        else:
            had = "missing" if held is None else f"of shape {held.shape}"
            wrong.append(f"{name} is {had}, expected {new.shape}")
        return new

    arrays = jax.tree_util.tree_map_with_path(choose, fresh)
    wrong += [f"{name} has no place" for name in old]
    if wrong:
        raise InputError(f"model.init_from={source!r} holds another network: {wrong[0]}")
    return arrays, left


def evaluate(
    workdir: Path,
    checkpoint: str = "latest",
    data_dir: str | None = None,
    tta: Views = "none",
) -> dict[str, Any]:
    """Evaluates a trained run on its test set.

    Args:
        workdir: the run folder.
        checkpoint: ``"latest"`` or ``"best"``.
        data_dir: folder of prepared TFDS datasets, where it is another than in training.
        tta: the views of each image over which the probabilities are averaged.

    Returns:
        ``step``, ``test_loss``, ``test_top1``, ``test_top5``, ``test_examples``.
    """
    trained = restore(workdir, checkpoint)
    prepare = None if tta == "none" else views.make_views(trained.experiment.data, tta)
    dataset = data_of(workdir, trained, data_dir)
    run = compile_evaluate(trained.experiment, trained.model, dataset, trained.state, prepare)
    sums = jax.device_get(run(trained.state))
    return {
        "step": trained.step,
        **metrics.means(sums, "test"),
        "test_examples": int(sums["count"]),
    }


def data_of(workdir: Path, trained: Trained, data_dir: str | None = None) -> sources.Dataset:
    """Reads the dataset that a run was trained on, to evaluate it.

    Args:
        workdir: the run folder.
        trained: what was restored from it.
        data_dir: folder of prepared TFDS datasets, where it is another than in training.

    Raises:
        InputError: the data are not at hand, or are others by now.
    """
    data = trained.experiment.data
    dataset = sources.load(replace(data, dir=data_dir or data.dir))
    about = files.read_json(workdir / "dataset.json")
    now = describe(trained.experiment, dataset)
    if (
        len(dataset.classes) != len(trained.classes)
        or about.get("sha256", now["sha256"]) != (now["sha256"])
    ):
        raise InputError(
            f"data.name={data.name!r}: not the data that {workdir} was trained on "
            f"({len(trained.classes)} classes, sha256 {about.get('sha256')})"
        )
    return dataset


@dataclass(frozen=True)
class Prediction:
    """The most probable class of one image."""

    path: Path
    label: str
    probability: float


def predict(
    workdir: Path, images: Sequence[Path], *, checkpoint: str = "latest", resize: bool = False
) -> list[Prediction]:
    """Classifies image files with a trained run.

    An image of the dataset's size goes the way of the dataset's images; any other is given to
    the network as it is, which may refuse it.

    Args:
        workdir: the run folder.
        images: files that Pillow reads.
        checkpoint: ``"latest"`` or ``"best"``.
        resize: first resizes every image to the dataset's size.

    Raises:
        InputError: an image that is none, or that the network does not take; before any is
            classified.
    """
    trained = restore(workdir, checkpoint)
    height, width, channels = trained.image_shape
    arrays = [read_image(path, channels, (height, width) if resize else None) for path in images]
    as_stored = augment.make_prepare(trained.experiment.data)
    as_is = augment.make_prepare(trained.experiment.data, fitting=False)

    def probabilities(state: TrainState, image: jax.Array) -> jax.Array:
        prepare = as_stored if image.shape == trained.image_shape else as_is
        logits = trained.model.apply(eval_variables(state), prepare(image[None]), train=False)
        return jax.nn.softmax(logits[0].astype(jnp.float32))

    for path, array in zip(images, arrays, strict=True):
        got = "x".join(map(str, array.shape))
        wanted = "x".join(map(str, network_shape(trained.experiment, trained.image_shape)))
        with as_input_error(
            f"{path}: an image of {got} into a {trained.experiment.model.name} trained at "
            f"{wanted} (--resize would bring it to {height}x{width})"
        ):
            jax.eval_shape(probabilities, trained.state, array)
    compiled = jax.jit(probabilities)
    found = []
    for path, array in zip(images, arrays, strict=True):
        p = np.asarray(compiled(trained.state, array))
        found.append(Prediction(path, trained.classes[int(p.argmax())], float(p.max())))
    return found


def import_weights(
    path: Path,
    experiment: Experiment,
    classes: Sequence[str],
    image_shape: tuple[int, int, int],
    out: Path,
) -> int:
    """Writes weights from a safetensors file as a folder like that of a run, at step 0.

    Args:
        path: safetensors file in torchvision's (or timm's) layout.
        experiment: the network and the normalisation that the weights were trained with.
        classes: names of the classes, in the order of the logits.
        image_shape: height, width and channels of images that ``predict`` takes without resizing.
        out: the folder.

    Returns:
        Number of parameters.

    Raises:
        InputError: the file is not whole safetensors, or of another network.
    """
    model = build_model(experiment, classes, image_shape)
    shape = network_shape(experiment, image_shape)
    with as_input_error():
        variables = models.import_weights(model, path, input_shape=shape)
    tx = optim.make_optimizer(experiment.optim, lambda step: 0.0)
    state = state_from(variables, tx, jnp.int32(0))
    about = {
        "name": experiment.data.name,
        "classes": list(classes),
        "image_shape": list(image_shape),
    }
    run = folder.RunFolder(out)
    try:
        if any((out / "checkpoints").glob("*/*")):
            raise InputError(f"--out {out}: holds a run or weights already; give another folder")
        run.claim(to_dict(experiment), about, environment())
        saved = folder.checkpoints(out, "latest")
        try:
            saved.save(0, state, {"source": path.name})
        finally:
            saved.close()
    finally:
        run.close()
    return sum(leaf.size for leaf in jax.tree.leaves(state.params))
