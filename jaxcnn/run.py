"""The composition root: an experiment becomes a trained run.

The one place that knows data, models and training alike.
"""

import contextlib
import functools
import importlib.metadata
import os
import platform
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jaxcnn import models
from jaxcnn.analysis import plots
from jaxcnn.config import Experiment, InputError, differences, from_dict, to_dict
from jaxcnn.data import augment, pipeline, sources
from jaxcnn.train import files, folder, loop, metrics, optim, step
from jaxcnn.train.state import TrainState, init_state, sha256, stream


class Listener:
    """Hears what a run has to say; the command line shows it."""

    def message(self, text: str) -> None:
        """One line about what happens."""

    def progress(self, progress: loop.Progress) -> None:
        """After every chunk of steps."""

    def record(self, record: loop.Record) -> None:
        """After every evaluation."""


def train(
    experiment: Experiment, workdir: Path, listener: Listener | None = None
) -> dict[str, Any]:
    """Trains an experiment in a run folder, going on where an earlier call ended.

    Everything the user gave is checked before anything is compiled.

    Args:
        experiment: what to train.
        workdir: the run folder.
        listener: hears messages, progress and records.

    Returns:
        What summary.json holds.

    Raises:
        InputError: a fault in the experiment, the data or the folder.
        jaxcnn.train.loop.Diverged: the loss is no longer finite.
        jaxcnn.train.loop.Stopped: a signal came; the state is saved.
    """
    listener = listener or Listener()
    # First of all, so that a signal while the data are read or compiled is not lost either.
    with loop.StopRequest() as stop, contextlib.ExitStack() as closing:
        finished = folder.finished(workdir, to_dict(experiment))
        if finished is not None:
            listener.message(f"{workdir} is finished: {finished['epochs']} epochs")
            return finished
        dataset = sources.load(experiment.data)
        model = build_model(experiment, dataset.classes, dataset.image_shape)
        run = folder.RunFolder(workdir)
        closing.callback(run.close)
        return _Training(experiment, dataset, model, run, listener, stop, closing).run()


class _Training:
    """One call of :func:`train`: everything is checked when it is built, nothing compiled."""

    def __init__(
        self,
        experiment: Experiment,
        dataset: sources.Dataset,
        model: nn.Module,
        run: folder.RunFolder,
        listener: Listener,
        stop: loop.StopRequest,
        closing: contextlib.ExitStack,
    ) -> None:
        self.experiment, self.dataset, self.model = experiment, dataset, model
        self.workdir, self.listener, self.stop = run.path, listener, stop
        shuffle = pipeline.Shuffle(len(dataset.train), experiment.data.batch_size)
        self.plan = loop.Plan(
            shuffle.steps_per_epoch,
            experiment.data.batch_size,
            experiment.train.epochs,
            experiment.train.eval_every,
            experiment.train.checkpoint_every,
        )
        self.schedule = optim.make_schedule(
            experiment.schedule,
            experiment.optim.peak_lr,
            self.plan.steps_per_epoch,
            self.plan.epochs,
        )
        tx = optim.make_optimizer(experiment.optim, self.schedule)
        shape = network_shape(experiment, dataset.image_shape)
        self.init = jax.jit(lambda seed: init_state(model, tx, seed, shape))
        self.chunk = step.make_train_chunk(
            step.make_train_step(model, tx, label_smoothing=experiment.train.label_smoothing),
            lambda seed, step: shuffle.order(stream(seed, "order"), step),
            functools.partial(_batch, experiment, shuffle),
        )
        self.latest = folder.checkpoints(self.workdir, "latest")
        closing.callback(self.latest.close)
        self.best = folder.checkpoints(self.workdir, "best")
        closing.callback(self.best.close)
        self.best_so_far: loop.Record = {}
        self.confusion: np.ndarray | None = None
        self._begin(run)

    def _begin(self, run: folder.RunFolder) -> None:
        """Finds where to start, refuses what does not fit, then makes the folder this run's."""
        config, about = to_dict(self.experiment), describe(self.experiment, self.dataset)
        here = environment()
        shapes = jax.eval_shape(self.init, jax.ShapeDtypeStruct((), jnp.int32))
        self.start: TrainState | None = None
        self.meta: dict[str, Any] = {"seconds": 0.0, "best": {}}
        self.source: Trained | None = None
        if self.latest.steps():  # a folder in which nothing was trained is free for any run
            folder.check_same(self.workdir, config, about)
            restored = self.latest.restore(on_device(shapes))
            assert restored is not None
            self.start, self.meta = restored
            done = int(self.start.step) // self.plan.steps_per_epoch
            if int(self.start.step) > self.plan.total_steps:
                raise InputError(
                    f"train.epochs={self.plan.epochs}: the run in {self.workdir} has done {done} "
                    "epochs already; give at least as many, or another --workdir"
                )
            self._compare_machines(here)
        elif self.experiment.model.init_from is not None:
            self.source = restore(Path(self.experiment.model.init_from))
            self._transferred(shapes)
        first = 0 if self.start is None else int(self.start.step)
        self.recorded = max(
            (r["step"] for r in folder.read_metrics(self.workdir) if r["step"] <= first), default=-1
        )
        self.best.drop_after(first)  # made again on the way
        run.claim(config, about)
        files.write_json(self.workdir / "env.json", here)

    def _compare_machines(self, here: dict[str, Any]) -> None:
        before = files.read_json(self.workdir / "env.json")
        changed = differences(before, here)
        if changed:
            listed = "; ".join(f"{k} was {a!r}, now {b!r}" for k, (a, b) in changed.items())
            self.listener.message(
                f"another environment than before ({listed}): the last bits may differ from those "
                "of a run that was never interrupted"
            )

    def _transferred(self, state: TrainState) -> tuple[TrainState, list[str]]:
        """The state with the parameters to start from, and the names of those that start anew."""
        assert self.source is not None
        classes = len(self.source.classes), len(self.dataset.classes)
        folder = str(self.experiment.model.init_from)
        old = self.source.state
        params, fresh = transfer(old.params, state.params, classes, folder)
        model_state, _ = transfer(old.model_state, state.model_state, classes, folder)
        return replace(state, params=params, model_state=model_state), fresh

    def run(self) -> dict[str, Any]:
        """Compiles, trains to the end, and writes the summary."""
        state = self.start
        if state is None:
            state = self.init(jnp.int32(self.experiment.train.seed))
        if self.source is not None:
            state, fresh = self._transferred(state)
            anew = f"; {', '.join(fresh)} start anew" if fresh else ""
            self.listener.message(
                f"starting from {self.experiment.model.init_from} at step {self.source.step}{anew}"
            )
        self.best_so_far = self.meta["best"]
        self._announce(int(state.step))
        train_set = jax.device_put(pipeline.whole(self.dataset.train))
        chunk = (
            jax.jit(self.chunk, donate_argnums=0).lower(state, train_set, jnp.int32(0)).compile()
        )
        evaluate = compile_evaluate(self.experiment, self.model, self.dataset.test, state)
        log = folder.MetricsLog(self.workdir, int(state.step))

        def record(state: TrainState, record: loop.Record, sums: metrics.Sums) -> None:
            # The best goes to disk before the latest that names it.
            if record["test_top1"] > self.best_so_far.get("test_top1", -1.0):
                self.best_so_far = record
                self.best.save(record["step"], state, {**record, "best": record})
            log.write(record)
            self.confusion = np.asarray(sums["confusion"])
            self.listener.record(record)

        def save(state: TrainState, record: loop.Record) -> None:
            self.latest.save(record["step"], state, {**record, "best": self.best_so_far})

        try:
            state = loop.fit(
                state,
                self.plan,
                run_chunk=lambda state, end: chunk(state, train_set, end),
                evaluate=evaluate,
                learning_rate=self.schedule,
                save=save,
                record=record,
                progress=self.listener.progress,
                stop=self.stop,
                seconds_before=self.meta["seconds"],
                recorded=self.recorded,
            )
        finally:
            log.close()
        return self._finish(state, evaluate)

    def _announce(self, step: int) -> None:
        name, train, test = self.experiment.name, self.dataset.train, self.dataset.test
        self.listener.message(
            f"{name}: {self.experiment.model.name} on {self.experiment.data.name}, "
            f"{len(train):,} train and {len(test):,} test images, "
            f"{self.plan.epochs} epochs of {self.plan.steps_per_epoch} steps"
        )
        if step:
            self.listener.message(f"going on from step {step} of {self.plan.total_steps}")

    def _finish(
        self, state: TrainState, evaluate: Callable[[TrainState], metrics.Sums]
    ) -> dict[str, Any]:
        records = folder.read_metrics(self.workdir)
        last = records[-1]
        assert last["step"] == int(state.step)
        if self.confusion is None:  # the run was stopped between its last step and its summary
            self.confusion = np.asarray(evaluate(state)["confusion"])
        title = f"{self.experiment.name}: test top-1 {last['test_top1']:.2%}"
        plots.save_curves(records, self.workdir / "curves.png", title)
        plots.save_confusion(
            self.confusion, self.dataset.classes, self.workdir / "confusion.png", title
        )
        parameters = sum(leaf.size for leaf in jax.tree.leaves(state.params))
        summary = {
            "name": self.experiment.name,
            "model": self.experiment.model.name,
            "dataset": self.experiment.data.name,
            "seed": self.experiment.train.seed,
            "parameters": parameters,
            **{k: v for k, v in last.items() if k not in ("epoch", "lr")},
            "epochs": last["epoch"],
            "best_test_top1": self.best_so_far["test_top1"],
            "best_epoch": self.best_so_far["epoch"],
            "params_sha256": sha256(state.params),
            "state_sha256": sha256((state.step, state.params, state.model_state, state.opt_state)),
        }
        files.write_json(self.workdir / "summary.json", summary)
        return summary


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
    state = init_state(model, tx, jnp.int32(0), shape)
    params = variables.pop("params")
    state = replace(state, params=params, model_state=variables, opt_state=tx.init(params))
    about = {
        "name": experiment.data.name,
        "classes": list(classes),
        "image_shape": list(image_shape),
    }
    run = folder.RunFolder(out)
    try:
        if any((out / "checkpoints").glob("*/*")):
            raise InputError(f"--out {out}: holds a run or weights already; give another folder")
        run.claim(to_dict(experiment), about)
        files.write_json(out / "env.json", environment())
        saved = folder.checkpoints(out, "latest")
        try:
            saved.save(0, state, {"source": path.name})
        finally:
            saved.close()
    finally:
        run.close()
    return sum(leaf.size for leaf in jax.tree.leaves(params))


def _batch(
    experiment: Experiment,
    shuffle: pipeline.Shuffle,
    arrays: dict[str, jax.Array],
    seed: jax.Array,
    order: jax.Array,
    step: jax.Array,
) -> step.Batch:
    batch = shuffle.batch(arrays, order, step)
    key = jax.random.fold_in(stream(seed, "augment"), step)
    prepare = augment.make_prepare(experiment.data)
    return {**batch, "image": prepare(batch["image"], key, experiment.augment)}


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


@contextlib.contextmanager
def as_input_error(what: str = "") -> Iterator[None]:
    """Turns the shape and value errors of tracing into one line that says where they come from."""
    try:
        yield
    except InputError:
        raise
    except (ValueError, TypeError) as error:
        raise InputError(": ".join(filter(None, [what, str(error).splitlines()[0]]))) from error


def network_shape(
    experiment: Experiment, image_shape: tuple[int, int, int]
) -> tuple[int, int, int]:
    """Height, width and channels that the network sees."""
    h, w, c = image_shape
    try:
        return *augment.fitted_size(h, w, experiment.data), c
    except ValueError as error:
        raise InputError(str(error)) from error


def compile_evaluate(
    experiment: Experiment, model: nn.Module, split: sources.Split, state: Any
) -> Callable[[TrainState], metrics.Sums]:
    """Compiles the evaluation of a split, held on the device."""
    batches = jax.device_put(pipeline.in_batches(split, experiment.data.eval_batch_size))
    program = step.make_evaluate(step.make_eval_step(model), augment.make_prepare(experiment.data))
    compiled = jax.jit(program).lower(state, batches).compile()
    return lambda state: compiled(state, batches)


def on_device(shapes: Any) -> Any:
    """The same shapes, placed on the first device."""
    sharding = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    return jax.tree.map(lambda s: jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=sharding), shapes)


def describe(experiment: Experiment, dataset: sources.Dataset) -> dict[str, Any]:
    """What dataset.json holds: enough to predict without the data, and to know them again."""
    return {
        "name": experiment.data.name,
        "classes": list(dataset.classes),
        "image_shape": list(dataset.image_shape),
        "train_examples": len(dataset.train),
        "test_examples": len(dataset.test),
        "sha256": sha256(
            [dataset.train.images, dataset.train.labels, dataset.test.images, dataset.test.labels]
        ),
    }


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
        "cores": len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count(),
        "processor": platform.machine(),
        "system": platform.system(),
        "python": platform.python_version(),
        "versions": versions,
    }


@dataclass(frozen=True)
class Trained:
    """A network restored from a run folder.

    Attributes:
        experiment: what was trained.
        model: the network.
        state: its parameters and statistics; only what prediction needs.
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
    tx = optim.make_optimizer(experiment.optim, lambda step: 0.0)
    shape = network_shape(experiment, (h, w, c))
    shapes = jax.eval_shape(lambda seed: init_state(model, tx, seed, shape), jnp.int32(0))
    saved = folder.checkpoints(workdir, checkpoint, read_only=True)
    try:
        restored = saved.restore(on_device(shapes))
    finally:
        saved.close()
    if restored is None:
        raise InputError(f"workdir {workdir}: has no {checkpoint} checkpoint yet; train it first")
    state, _ = restored
    return Trained(experiment, model, state, classes, (h, w, c), int(state.step))


def evaluate(
    workdir: Path, checkpoint: str = "latest", data_dir: str | None = None
) -> dict[str, Any]:
    """Evaluates a trained run on its test set.

    Args:
        workdir: the run folder.
        checkpoint: ``"latest"`` or ``"best"``.
        data_dir: folder of prepared TFDS datasets, where it is another than in training.

    Returns:
        ``step``, ``test_loss``, ``test_top1``, ``test_top5``, ``test_examples``.
    """
    trained = restore(workdir, checkpoint)
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
    run = compile_evaluate(trained.experiment, trained.model, dataset.test, trained.state)
    sums = jax.device_get(run(trained.state))
    return {
        "step": trained.step,
        **metrics.means(sums, "test"),
        "test_examples": int(sums["count"]),
    }


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
    arrays = [
        sources.read_image(path, channels, (height, width) if resize else None) for path in images
    ]
    as_stored = augment.make_prepare(trained.experiment.data)
    as_is = augment.make_prepare(trained.experiment.data, fitting=False)

    def probabilities(state: TrainState, image: jax.Array) -> jax.Array:
        prepare = as_stored if image.shape == trained.image_shape else as_is
        variables = {"params": state.params, **state.model_state}
        logits = trained.model.apply(variables, prepare(image[None]), train=False)
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
