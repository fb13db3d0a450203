"""What notebooks and other programs call: trains, opens a run, and asks it."""

import contextlib
import inspect
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import flax.linen as nn
import jax.numpy as jnp
import numpy as np

from jaxcnn import models
from jaxcnn.analysis import plots
from jaxcnn.analysis import summary as layers
from jaxcnn.analysis.visualize import first_filters
from jaxcnn.config import Data, Experiment, Model, Optim, Task, Views
from jaxcnn.config.brought import Brought, bring, know
from jaxcnn.config.checked import shown
from jaxcnn.data import other, own
from jaxcnn.data.held_out import hold_out, strata
from jaxcnn.data.images import as_stored
from jaxcnn.data.labels import largest, names_of
from jaxcnn.data.sources import Dataset, HeldOut
from jaxcnn.errors import InputError
from jaxcnn.learning import files, records, run_folder
from jaxcnn.learning.selection import PREFIX
from jaxcnn.runs import display, evaluation, exporting, group, robustness, settled, trained
from jaxcnn.tasks import Metric
from jaxcnn.text import counted

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PathLike = str | Path
Network = str | nn.Module | type[nn.Module]
TEST_SHARE = 0.2
"""The share of arrays that is held out for testing where no test arrays are given."""


class Run:
    """A run that was trained, whose folder holds all that is known of it.

    Args:
        folder: the run folder.
        experiment: what was trained.
        calibrated: whether the network's logits are divided by the temperature that is kept beside
            the run.
    """

    def __init__(self, folder: Path, experiment: Experiment, *, calibrated: bool = False) -> None:
        self.folder, self.experiment, self._calibrated = folder, experiment, calibrated
        self._restored: dict[str, trained.Trained] = {}

    def __repr__(self) -> str:
        metric, result = self.metrics[0], self.result
        reached = result.get(f"test_{metric.name}")
        done = "unfinished" if reached is None else f"test {metric.title} {metric.shown(reached)}"
        return f"<jaxcnn run of {self.experiment.name} in {self.folder}: {done}>"

    @property
    def result(self) -> dict[str, Any]:
        """What summary.json holds: the last evaluation, times, digests; empty if unfinished."""
        if not (self.folder / "summary.json").exists():
            return {}
        return records.plain(run_folder.read_summary(self.folder))

    @property
    def history(self) -> list[dict[str, Any]]:
        """What each evaluation has found, the oldest first: the lines of metrics.jsonl."""
        return run_folder.read_metrics(self.folder)

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of the classes, in the order of the labels."""
        return files.read(self.folder / "dataset.json", records.Dataset).classes

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """What the run is judged by, beside the loss; it is chosen by the first."""
        return run_folder.judged(self.folder).metrics

    def plot(self) -> "Figure":
        """Draws loss and error over the epochs, and returns the Matplotlib figure."""
        return plots.save_curves(self.history, None, self.experiment.name, self.metrics)

    def evaluate(
        self,
        split: HeldOut = "test",
        *,
        checkpoint: str = "latest",
        tta: Views = "none",
        data: str | Path | Data | None = None,
        classes: PathLike | None = None,
        image_size: int | None = None,
        corruptions: bool | Sequence[str] = (),
        severities: Sequence[int] | None = None,
        limit: int | None = None,
    ) -> dict[str, Any]:
        """Evaluates the network on its test set, or on other images, as ``jaxcnn eval`` does.

        Args:
            split: ``"test"``, or ``"validation"`` where examples were held out for it.
            checkpoint: ``"latest"`` or ``"best"``.
            tta: the views of each image over which the probabilities are averaged.
            data: other data, whose classes are among the run's: a folder of images, a name, or
                :class:`jaxcnn.Data`.
            classes: a file for classes of other names.
            image_size: the height and width of the images that the network sees.
            corruptions: corruptions by name, or True for all 15.
            severities: those of the corruptions, from 1 to 5; by default all.
            limit: how many images are taken, a fixed subset.

        Returns:
            Loss and metrics, ``test_top1``, and ``test_examples``; of the validation set they begin
            with ``val``. With corruptions, ``corruptions`` holds the first metric by kind and
            severity, and ``corrupted_top1`` its mean; of segmentation and regression without
            elastic_transform, which moves pixels and not labels.

        Raises:
            InputError: an argument is none of these, as one of the options of ``jaxcnn eval``.
        """
        kinds = (() if isinstance(corruptions, bool) else corruptions) if corruptions else None
        changes = [robustness.CLEAN, *robustness.corrupted_by(kinds, severities)]
        question = robustness.Question(
            data={} if data is None else {_called(data): _other(data)},
            sizes=() if image_size is None else (image_size,),
            changes=changes,
            classes=None if classes is None else Path(classes),
            split=split,
            checkpoint=checkpoint,
            tta=tta,
            limit=limit,
        )
        network = self._network(checkpoint)
        if not question.data and not question.sizes and limit is None and kinds is None:
            return evaluation.evaluate_trained(network, checkpoint, tta=tta, split=split)
        results = robustness.ask_one(network, question)
        reached = robustness.by_kind({result.change: result.found for result in results})
        prefix, name = PREFIX[split], self.metrics[0].name
        found: dict[str, Any] = {f"{prefix}_{k}": v for k, v in reached.clean.values.items()}
        found[f"{prefix}_examples"] = reached.clean.examples
        if reached.found:
            each = {
                kind: {severity: one.values[name] for severity, one in severities.items()}
                for kind, severities in reached.found.items()
            }
            found["corruptions"] = each
            mean = np.mean([value for values in each.values() for value in values.values()])
            found[f"corrupted_{name}"] = float(mean)
        return found

    def predict(self, images: Any, *, checkpoint: str = "latest") -> np.ndarray:
        """Returns the network's predictions for some images.

        Args:
            images: an image file, a list of image files, or an array ``(n, h, w, c)``,
                ``(h, w, c)`` or, of one channel, ``(h, w)``, whose pixels are as the network was
                trained on; an image of another size than those is brought to it.
            checkpoint: ``"latest"`` or ``"best"``.

        Returns:
            What the task predicts; n is 1 for one image. Of classification and multilabel it is
            the probability of every class, ``(n, classes)``, in the order of :attr:`classes`; of
            regression the numbers, ``(n, k)``; of segmentation the class of each pixel,
            ``(n, h, w)``.
        """
        network = self._network(checkpoint)
        return trained.asked(network, _stored(network, images))[0]

    def features(self, images: Any, name: str, *, checkpoint: str = "latest") -> np.ndarray:
        """Returns feature maps of some images.

        Args:
            images: as :meth:`predict` takes them.
            name: an endpoint of the network, such as ``"stage3"``; of a network that names none,
                one of its modules, such as ``"Conv_0"``.
            checkpoint: ``"latest"`` or ``"best"``.

        Raises:
            InputError: the network has no feature maps of this name.
        """
        network = self._network(checkpoint)
        prepared = network.prepare(jnp.asarray(_stored(network, images)))
        _, ends = models.with_endpoints(network.model, network.variables, prepared)
        maps = {key: value for key, value in ends.items() if hasattr(value, "shape")}
        if name not in maps:
            known = ", ".join(maps) or "none"
            raise InputError(f"name={name!r}: must be a name of feature maps: {known}")
        return np.asarray(maps[name])

    def filters(self, *, checkpoint: str = "latest") -> np.ndarray:
        """Returns the kernels ``(kh, kw, in, out)`` of the convolution that sees the image.

        Raises:
            InputError: the network has no convolution.
        """
        found = first_filters(self._network(checkpoint).variables["params"], self.summary())
        if found is None:
            raise InputError(f"model.name={self.experiment.model.name!r}: has no convolution")
        return found[1]

    def summary(self) -> layers.Summary:
        """Returns the network's layers, with shapes, parameters, costs and receptive fields."""
        network = self._network("latest")
        return layers.summarize(network.model, network.input_shape)

    def export(
        self, to: exporting.Format, out: PathLike | None = None, *, checkpoint: str = "latest"
    ) -> Path:
        """Writes the network into a folder, for others to run, as ``jaxcnn export`` does.

        Args:
            to: ``"stablehlo"`` or ``"safetensors"``.
            out: the folder; by default export/FORMAT in the run folder.
            checkpoint: ``"latest"`` or ``"best"``.

        Returns:
            The folder.
        """
        folder = self.folder / "export" / to if out is None else _path(out, "out")
        exporting.export(self._network(checkpoint), to, folder)
        return folder

    def _network(self, checkpoint: str) -> trained.Trained:
        if checkpoint not in ("latest", "best"):
            raise InputError(f"checkpoint={checkpoint!r}: must be 'latest' or 'best'")
        if checkpoint not in self._restored:
            network = trained.restore(self.folder, checkpoint, self.experiment)
            self._restored[checkpoint] = network.calibrated() if self._calibrated else network
        return self._restored[checkpoint]


def _called(data: str | Path | Data) -> str:
    return str(data.name if isinstance(data, Data) else data)


def _other(data: str | Path | Data) -> Data:
    return data if isinstance(data, Data) else other.named(str(data))


def train(
    experiment: Experiment | None = None,
    *,
    model: Network | Model | None = None,
    task: Any = None,
    data: Any = None,
    test: own.Arrays | None = None,
    classes: Sequence[str] | None = None,
    epochs: int | None = None,
    seed: int | None = None,
    workdir: PathLike | None = None,
    quiet: bool = False,
    accept_changes: bool = False,
    **sections: Any,
) -> Run:
    """Trains a network, or goes on where an earlier call in its folder ended.

    Args:
        experiment: what is trained; by default the defaults of every field.
        model: the network, in place of the experiment's: a Linen module, its class, or a name of
            :func:`jaxcnn.list_models`.
        task: what is learned, in place of the experiment's: a name such as ``"regression"``, a
            class derived from :class:`jaxcnn.BaseTask`, or :class:`jaxcnn.Task`.
        data: the data, in place of the experiment's: training images and labels ``(x, y)`` as
            :func:`jaxcnn.from_arrays` takes them, the name of a dataset, a function that returns
            one, or :class:`jaxcnn.Data`.
        test: test images and labels, where ``data`` are arrays; by default a fifth of those, drawn
            for each class alike.
        classes: the names of the classes, where ``data`` are arrays.
        epochs: the field ``train.epochs``.
        seed: the field ``train.seed``.
        workdir: the run folder; by default a new temporary one.
        quiet: prints nothing.
        accept_changes: goes on although the source of what was brought has changed.
        **sections: other parts of the experiment in place of its own, by the names of its fields:
            ``augment``, ``optim``, ``schedule``, ``train``, ``devices``, ``name``.

    Returns:
        The run, finished.

    Raises:
        InputError: a fault in what was given, said in one line before anything is compiled.
        Diverged: the loss is no longer finite.

    >>> run = train(model="mlp", data="digits", epochs=1, quiet=True)
    >>> len(run.history), run.predict(np.zeros((2, 8, 8, 1), np.uint8)).shape
    (1, (2, 10))
    """
    known = ("name", "augment", "optim", "schedule", "train", "devices")
    for name, value in sections.items():
        if name not in known:
            raise InputError(f"{name}={shown(value)}: must be one of {', '.join(known)}")
    if not isinstance(experiment, Experiment | None):
        raise InputError(f"experiment={shown(experiment)}: must be a jaxcnn.Experiment")
    made = replace(experiment or Experiment(), **sections)
    if model is not None:
        made = replace(made, model=_model(model))
    if task is not None:
        made = replace(made, task=task if isinstance(task, Task) else Task(task))
    arrays = isinstance(data, tuple | list)
    if not arrays and (test is not None or classes is not None):
        raise InputError("test, classes: must be left out unless data are arrays (x, y)")
    say = contextlib.nullcontext(group.Listener()) if quiet else display.display()
    with say as listener:
        if arrays:
            made = settled.with_numbers(made)
            made = replace(made, data=_of_arrays(made.data, data, test, classes, listener))
        elif data is not None:
            given = data if isinstance(data, Data) else replace(made.data, name=data)
            made = replace(made, data=given)
        if epochs is not None:
            made = replace(made, train=replace(made.train, epochs=epochs))
        if seed is not None:
            made = replace(made, train=replace(made.train, seed=seed))
        folder = Path(
            tempfile.mkdtemp(prefix="jaxcnn-") if workdir is None else _path(workdir, "workdir")
        )
        group.train_one(made, folder, listener, accept_changes=accept_changes)
    run = Run(folder, _with_objects(run_folder.read_config(folder), made))
    if not quiet:
        tested = display.reached(run.result, run.metrics)
        done = counted(run.result["epochs"], "epoch")
        print(f"{tested} after {done} in {run.result['seconds']:.1f} s")
        print(display.of_best(run.result, run.metrics[0]))
    return run


def open(  # noqa: A001  (as jaxcnn.open)
    folder: PathLike,
    *,
    model: Network | None = None,
    data: Any = None,
    test: own.Arrays | None = None,
    optim: Any = None,
    task: Any = None,
    calibrated: bool = False,
) -> Run:
    """Opens the folder of a run.

    Args:
        folder: the run folder.
        model: the network, where it was brought to the run and is not known by its name here.
        data: the function that returns the data, likewise, or their arrays, as for :func:`train`.
        test: test images and labels, as for :func:`train`.
        optim: the function that makes the optimizer, likewise.
        task: the class of the task, likewise.
        calibrated: gives probabilities, and the loss of them, at the temperature that ``jaxcnn eval
            RUN --fit-temperature`` has kept in the folder. It is looked for when it is needed.

    Raises:
        InputError: it is no run folder, or what was given is no object.
    """
    if not isinstance(calibrated, bool):
        raise InputError(f"calibrated={shown(calibrated)}: must be True or False")
    folder = _path(folder, "folder")
    experiment = run_folder.read_config(folder)
    if isinstance(data, tuple | list):
        dataset = _dataset(data, test, None, experiment.data)
        data = lambda: dataset  # noqa: E731
    for section, value in (("model", model), ("data", data), ("optim", optim), ("task", task)):
        if value is None:
            continue
        held = getattr(experiment, section)
        made = _model(value).name if section == "model" else bring(value)
        if isinstance(made, str) or not hasattr(made, "target"):
            raise InputError(f"{section}={shown(value)}: must be the object that was brought")
        if section != "data":  # which are compared by what they hold
            _require_same(section, made, held, value)
        name = know(made.target, str(held.name))
        experiment = replace(experiment, **{section: replace(held, name=name)})
    return Run(folder, experiment, calibrated=calibrated)


def _path(given: Any, name: str) -> Path:
    if not isinstance(given, str | Path) or not str(given):
        raise InputError(f"{name}={shown(given)}: must be the path of a folder")
    return Path(given)


def _require_same(section: str, made: Brought, held: Any, value: Any) -> None:
    """Refuses another object than the one of this name that was brought to a run.

    Where it was defined may differ: a file by then, a notebook now.
    """
    told = str(held.name).partition(":")[2]
    if made.name.partition(":")[2] != told:
        raise InputError(f"{section}: is {made.name!r}, must be {told}, as in config.json")
    if section == "model" and not isinstance(value, type) and not inspect.isfunction(value):
        given = _model(value).options
        for name in {**held.options, **given}:
            here, there = given.get(name, "its default"), held.options.get(name, "its default")
            if here != there:
                raise InputError(
                    f"model: its {name} is {shown(here)}, must be {shown(there)}, as in config.json"
                )


def _model(network: Any) -> Model:
    return network if isinstance(network, Model) else Model(network)


def _of_arrays(
    before: Data,
    data: Any,
    test: own.Arrays | None,
    classes: Sequence[str] | None,
    listener: display.Listener,
) -> Data:
    """Returns the config of data that are arrays, of which a part is held out if none is given."""
    dataset = _dataset(data, test, classes, before)
    if test is None:
        held, number = len(dataset.test), len(dataset.train) + len(dataset.test)
        listener.message(f"{held:,} of {number:,} examples are held out for testing")
    name = know(lambda: dataset, own.name_of_arrays(dataset), has_source=False)
    return replace(before, name=name, batch_size=min(before.batch_size, len(dataset.train)))


def _dataset(
    data: Any, test: own.Arrays | None, classes: Sequence[str] | None, config: Data
) -> Dataset:
    """Returns a dataset of arrays; without test arrays, a share of each class is held out."""
    for name, pair in (("data", data), ("test", test)):
        is_pair = isinstance(pair, tuple | list)
        if pair is not None and not (is_pair and len(pair) == 2):
            has = f"has {len(pair)} parts" if is_pair else f"is {shown(pair)}"
            raise InputError(f"{name}: must be images and labels (x, y), {has}")
    if not isinstance(classes, tuple | list | None):
        raise InputError(f"classes={shown(classes)}: must be a list of names")
    if test is not None:
        return own.from_arrays(data, test, classes)
    images, labels = data
    whole = own.split(images, labels, "train")
    names = names_of(classes, whole.labels, largest(whole.labels))
    of = strata(whole, numbers=config.labels == "numbers")
    kept, held = hold_out(of, TEST_SHARE, config.seed, "test", names)
    return Dataset(whole.take(kept), whole.take(held), names)


def _with_objects(recorded: Experiment, made: Experiment) -> Experiment:
    """Returns an experiment as it was recorded, with the objects of the one that it was made of."""
    model = replace(recorded.model, name=made.model.name)
    data = replace(recorded.data, name=made.data.name)
    optim: Optim = replace(recorded.optim, name=made.optim.name)
    augment = replace(recorded.augment, own=made.augment.own)
    task = replace(recorded.task, name=made.task.name)
    schedule = replace(recorded.schedule, name=made.schedule.name)
    found = replace(recorded, model=model, data=data, optim=optim, augment=augment, task=task)
    return replace(found, schedule=schedule)


def _stored(network: trained.Trained, images: Any) -> np.ndarray:
    """Returns images that are given in any form as the dataset's images are stored."""
    if isinstance(images, str | Path):
        images = [images]
    if isinstance(images, list | tuple) and images and isinstance(images[0], str | Path):
        return trained.read_all(network, [Path(image) for image in images])
    try:
        pixels = np.asarray(images)
    except ValueError as error:  # lists of different lengths
        raise InputError(f"images: must be files or an array ({error})") from error
    return as_stored(pixels, network.image_shape, network.experiment.data)
