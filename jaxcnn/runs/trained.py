"""A trained network: opened from its folder, applied to images, handed on to another training."""

import contextlib
import functools
import logging
import math
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxcnn import models
from jaxcnn.config import Data, Experiment, to_dict
from jaxcnn.config.checked import require
from jaxcnn.data import label_maps, sources
from jaxcnn.data.images import image_size, read_image, stored_fit
from jaxcnn.errors import InputError, as_input_error, as_not_written
from jaxcnn.learning import brought, files, identity, mesh, records, run_folder
from jaxcnn.learning.state import TrainState, eval_variables, sha256
from jaxcnn.memory import require_memory
from jaxcnn.runs import network
from jaxcnn.tasks.classification import tempered

log = logging.getLogger(__name__)

TEMPERATURE = "temperature.json"
"""Holds the temperature of a run: :class:`~jaxcnn.learning.records.Temperature`."""


@dataclass(frozen=True)
class Trained(network.Network):
    """A network restored from a run folder.

    Attributes:
        folder: the run folder.
        state: the state of the training.
        step: the step of the checkpoint.
        temperature: what its logits are divided by; None of a network as it was trained.
    """

    folder: Path
    state: TrainState
    step: int
    temperature: float | None = None

    @property
    def variables(self) -> dict[str, Any]:
        """What the network is run with: the averages, where the training kept some."""
        return eval_variables(self.state)

    @functools.cached_property
    def answer(self) -> Callable[[Any, Any], tuple[jax.Array, jax.Array]]:
        """Variables and stored images to predictions and answers of the task, compiled once."""

        def answer(variables: Any, images: jax.Array) -> tuple[jax.Array, jax.Array]:
            outputs: Any = self.model.apply(variables, self.prepare(images), train=False)
            outputs = tempered(outputs, self.temperature)
            return self.task.predictions(outputs), self.task.answers(outputs)

        return jax.jit(answer)

    def calibrated(self, say: Callable[[str], object] | None = None) -> "Trained":
        """Returns the network with the temperature that is kept beside its run.

        Args:
            say: hears in one line that the temperature was fitted to other parameters; the network
                then stays as it is, as where none is kept. By default both are errors.

        Raises:
            InputError: temperature.json is damaged, or holds none for these parameters.
        """
        file = self.folder / TEMPERATURE
        fit = f"`jaxcnn eval {self.folder} --fit-temperature`"
        if not file.exists():
            if say is None:
                raise InputError(f"{file}: no such file; {fit} makes it")
            return self
        kept = files.read(file, records.Temperature)
        if kept.variables_sha256 == sha256(self.variables):
            return replace(self, temperature=kept.temperature)
        wrong = f"{file}: was fitted to other parameters ({kept.checkpoint}); {fit} makes it anew"
        if say is None:
            raise InputError(wrong)
        say(wrong)
        return self

    def read(self, path: Path) -> np.ndarray:
        """Reads an image file as the dataset's images are stored, which :attr:`prepare` takes.

        Raises:
            InputError: not a file, not an image, or one too large to be meant.
        """
        data = self.experiment.data
        fit = stored_fit(data, self.image_shape)
        return read_image(path, self.image_shape, fit, data.crop_ratio)

    def dataset(self, data_dir: str | None = None) -> sources.Dataset:
        """Reads the dataset that the network was trained on, to evaluate it.

        Args:
            data_dir: the folder of the data, where it is another than in training.

        Raises:
            InputError: the data are not at hand, or are others by now; see :func:`read_dataset`.
        """
        data = self.experiment.data
        return read_dataset(self.folder, replace(data, dir=data_dir or data.dir))


def restore(
    workdir: Path, checkpoint: str = "latest", experiment: Experiment | None = None
) -> Trained:
    """Restores a trained network from a run folder, and changes nothing in it.

    Args:
        workdir: the run folder.
        checkpoint: ``"latest"`` or ``"best"``.
        experiment: what its config.json holds, with the objects that were brought; by default
            these are the ones that are known by their names.

    Raises:
        InputError: not a run folder, or no whole checkpoint in it.
    """
    if workdir.is_file():
        raise InputError(
            f"{workdir}: is a file, must be a run folder; `jaxcnn import {workdir} --model NAME "
            "--out DIR` makes one of weights in safetensors"
        )
    experiment = experiment or run_folder.read_config(workdir)
    for line in brought.changes(workdir, experiment):
        log.warning("%s: %s", workdir, line)
    about = files.read(workdir / "dataset.json", records.Dataset)
    judged = run_folder.judged(workdir)
    built = network.build(experiment, about.classes, about.image_shape, judged.fitted)
    known = identity.read(workdir, to_dict(experiment))
    with contextlib.closing(run_folder.checkpoints(workdir, checkpoint, read_only=True)) as saved:
        restored = known.restore(saved, mesh.placed(mesh.one_device(), built.shapes))
    if restored is None:
        raise InputError(f"workdir {workdir}: has no {checkpoint} checkpoint yet; train it first")
    state, _ = restored
    parts = {name: getattr(built, name) for name in network.Network.__dataclass_fields__}
    return Trained(**parts, folder=workdir, state=state, step=int(state.step))


def read_dataset(folder: Path, data: Data) -> sources.Dataset:
    """Reads the dataset of a run again, to evaluate the run or to show its images.

    It must be the one that the run's dataset.json describes: the same classes, the same ``sha256``
    and, of streamed data, test files of the same bytes, as far as the folder knows them. (The bytes
    of streamed training files are compared where training goes on; here they are not read.)

    Args:
        folder: the run folder.
        data: the data that the run was trained on; only where they lie may differ, and the size
            that image files are brought to.

    Raises:
        InputError: the data are not at hand, or are others by now; says in what they differ.
    """
    about = files.read(folder / "dataset.json", records.Dataset)
    try:
        dataset = sources.load(data)
    except InputError as error:
        if data.dir is None or Path(data.dir).expanduser().is_dir():
            raise
        raise InputError(f"{error}; where they lie elsewhere, give --data-dir") from error
    if len(dataset.classes) != len(about.classes):
        differs = "classes"
    elif about.sha256 is None:  # imported weights, which know no data
        return dataset
    else:
        now = {"classes": dataset.classes, **_digests(dataset)}
        resized = dataset.image_shape != about.image_shape  # then their files are compared
        comparable = (dataset.streamed and about.files_sha256 is not None) or not resized
        compared = ["classes", *["sha256"] * comparable]
        compared += ["test_files_sha256"] * (dataset.streamed or resized)
        known = {name: getattr(about, name) for name in compared}
        differs = next((k for k, v in known.items() if v not in (None, now[k])), "")
    if differs:
        raise InputError(
            f"data.name={data.name!r}: not the data that {folder} was trained on "
            f"(dataset.json: {differs})"
        )
    return dataset


def describe(data: Data, dataset: sources.Dataset) -> dict[str, Any]:
    """Returns what dataset.json holds: enough to predict without the data, and to know them.

    ``sha256`` covers all images and labels that are held in memory; of data that are streamed it
    covers the files' names, labels and sizes, or the records' number. It tells too which examples
    are held out for validation. ``files_sha256`` covers every byte of the files of streamed data,
    so that a changed pixel changes it; it is None of data in memory. ``test_sha256`` and
    ``test_files_sha256`` are the same for the test images alone, but the latter is there of data in
    memory too, if they were read from files. ``image_dtype`` is the type of stored pixels.
    """
    own, held = _digests(dataset), dataset.validation
    files = None
    if dataset.streamed:
        files = [dataset.train.files_sha256(), own["test_files_sha256"]]
        files += [] if held is None else [held.files_sha256()]
    return {
        "name": str(data.name),
        "classes": list(dataset.classes),
        "image_shape": list(dataset.image_shape),
        "image_dtype": dataset.image_dtype,
        "train_examples": len(dataset.train),
        "test_examples": len(dataset.test),
        **({} if held is None else {"validation_examples": len(held)}),
        "test_form": dataset.test_form(data),
        "files_sha256": files and files[0] and sha256([np.array(files)]),
        **own,
    }


def _digests(dataset: sources.Dataset) -> dict[str, Any]:
    """Returns the digests of what is known of all the data, and of all bytes of the test files."""
    test, held = dataset.test.identity(), dataset.validation
    drawn = [] if dataset.render is None else [np.array(dataset.render.seed)]
    return {
        "sha256": sha256([*dataset.train.identity(), *(held.identity() if held else ()), *test]),
        "test_sha256": sha256([*test, *drawn]),
        "test_files_sha256": dataset.test.files_sha256(),
    }


def transfer(
    trained: Any, fresh: Any, classes: tuple[int, int], source: str
) -> tuple[Any, list[str]]:
    """Puts trained arrays in place of fresh ones; those of logits stay if the classes differ.

    Args:
        trained: arrays of the network to start from.
        fresh: arrays of the network to be trained.
        classes: numbers of classes of the two networks.
        source: names where the trained arrays come from, for the message.

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


@dataclass(frozen=True)
class Prediction:
    """What a network answers to one image.

    Attributes:
        path: the image file.
        labels: names of the classes that are shown, the first of them the most probable; or of the
            numbers, in their order.
        answers: a number for each of them, such as its probability.
        called: what such a number is called.
        whole: what :meth:`jaxcnn.tasks.BaseTask.predictions` gives.
        network: the network.
    """

    path: Path
    labels: tuple[str, ...]
    answers: tuple[float, ...]
    called: str
    whole: np.ndarray
    network: Trained

    @property
    def label(self) -> str:
        """The first of the names, such as the most probable class."""
        return self.labels[0]

    @property
    def is_map(self) -> bool:
        """Whether the network gives a label map."""
        return self.whole.ndim == 2 and np.issubdtype(self.whole.dtype, np.integer)

    def label_map(self) -> np.ndarray:
        """Returns the classes of the image file's own pixels, 255 where the network saw none."""
        data, stored = self.network.experiment.data, self.network.image_shape
        return label_maps.of_picture(self.whole, image_size(self.path), stored, data)


BATCH = 16
"""Images that are classified at once; the program for it is compiled once."""


def predict(
    workdir: Path,
    images: Sequence[Path],
    *,
    checkpoint: str = "latest",
    top_k: int | None = None,
    calibrated: bool = False,
) -> list[Prediction]:
    """Asks a trained run for its answers to image files.

    A file becomes network input as the dataset's images do in training and evaluation; one of
    another size than theirs is brought to it (:func:`jaxcnn.data.images.stored_fit`).

    Args:
        workdir: the run folder.
        images: files that Pillow reads.
        checkpoint: ``"latest"`` or ``"best"``.
        top_k: how many classes are returned for each image; None leaves it to the task.
        calibrated: divides the logits by the temperature that is kept beside the run.

    Raises:
        InputError: a file that is no image, or no such temperature; before any is classified.
    """
    trained = restore(workdir, checkpoint)
    trained = trained.calibrated() if calibrated else trained
    classes = len(trained.classes)
    fits = top_k is None or 1 <= top_k <= classes
    require("top_k", top_k, fits, f"a whole number in [1, {classes}]")
    found, task = [], trained.task
    each = asked(trained, read_all(trained, images))
    for path, whole, answers in zip(images, *each, strict=True):
        best = task.chosen(answers, top_k)
        labels = tuple(trained.named(int(i)) for i in best)
        shown = tuple(answers[best].tolist())
        found.append(Prediction(path, labels, shown, task.answer, whole, trained))
    return found


def read_all(trained: Trained, images: Sequence[Path]) -> np.ndarray:
    """Reads image files as the dataset's images are stored, ``(n, h, w, c)`` uint8.

    Raises:
        InputError: a file that is no image, or too many for the memory.
    """
    number, shape = len(images), trained.image_shape
    require_memory(f"{number:,} images to classify", number * math.prod(shape))
    stored = np.zeros((number, *shape), np.uint8)
    with ThreadPoolExecutor() as pool:  # the decoders let other threads run
        for i, image in enumerate(pool.map(trained.read, images)):
            stored[i] = image
    return stored


def asked(trained: Trained, stored: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns a network's predictions and answers for some images.

    Args:
        trained: the network.
        stored: ``(n, h, w, c)``, as the dataset's images are stored.

    Returns:
        What :meth:`jaxcnn.tasks.BaseTask.predictions` and ``answers`` give, ``(n, ...)``.
    """
    size, found = max(1, min(BATCH, len(stored))), []
    for first in range(0, max(len(stored), 1), BATCH):  # of no images, the shapes alone
        batch = stored[first : first + size]
        more = np.zeros((size - len(batch), *batch.shape[1:]), batch.dtype)
        filled = np.concatenate([batch, more])
        both = trained.answer(trained.variables, filled)
        found.append([np.asarray(part)[: len(batch)] for part in both])
    predictions, answers = (np.concatenate(parts) for parts in zip(*found, strict=True))
    return predictions, answers


def import_weights(
    path: Path,
    experiment: Experiment,
    classes: Sequence[str],
    image_shape: tuple[int, int, int],
    out: Path,
    source: str | None = None,
) -> int:
    """Writes weights from a safetensors file as a folder like that of a run, at step 0.

    Args:
        path: safetensors file in torchvision's (or timm's) layout.
        experiment: the network and the normalisation that the weights were trained with.
        classes: names of the classes, in the order of the logits.
        image_shape: height, width and channels of the images as ``predict`` reads them.
        out: the folder.
        source: what is recorded of where the weights are from; by default the file's name.

    Returns:
        The number of parameters.

    Raises:
        InputError: the file is not whole safetensors, or of another network.
    """
    built = network.build(experiment, classes, image_shape)
    with as_input_error():
        variables = models.load_torch_weights(built.model, path, input_shape=built.input_shape)
    state = built.start_from(variables, jnp.int32(experiment.train.seed))
    about = {"name": str(experiment.data.name), "classes": classes, "image_shape": image_shape}
    with as_not_written(out), contextlib.closing(run_folder.RunFolder(out)) as run:
        if run_folder.holds_checkpoints(out):
            raise InputError(f"--out {out}: holds a run or weights already; give another folder")
        known = identity.read(out, to_dict(experiment))
        run.claim(to_dict(experiment), about, run_folder.environment(), built.judged)
        known = known.claimed(0)
        with contextlib.closing(run_folder.checkpoints(out, "latest")) as saved:
            saved.save(0, state, {"source": source or path.name, **known.mark})
    return sum(leaf.size for leaf in jax.tree.leaves(state.params))
