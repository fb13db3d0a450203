"""Runs a network over a whole split: for its metrics, or for its answer to every test image."""

import contextlib
import functools
import io
import math
import zipfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import Mesh, Sharding

from jaxcnn.config import Data, Experiment, Views
from jaxcnn.data import augment, pipeline, sources, views
from jaxcnn.data.feed import open_stream
from jaxcnn.data.stream import Stream
from jaxcnn.errors import InputError
from jaxcnn.learning import files, mesh, run_folder, step
from jaxcnn.learning.records import RunDataset
from jaxcnn.learning.selection import PREFIX, chosen_on_test, of_split
from jaxcnn.learning.state import TrainState
from jaxcnn.memory import require_memory
from jaxcnn.runs.network import Network, require_planned
from jaxcnn.runs.trained import Trained, restore
from jaxcnn.tasks import BaseTask, Sums
from jaxcnn.tasks.classification import tempered
from jaxcnn.tasks.sums import add


def compile_evaluate(
    network: Network,
    dataset: sources.Dataset,
    state: Any,
    tta: Views = "none",
    devices: Mesh | None = None,
    split: sources.HeldOut = "test",
    temperature: float | None = None,
) -> Callable[[TrainState], Sums]:
    """Compiles the evaluation on a split, which is held on the devices or streamed.

    Args:
        network: the network, and how its images are prepared and how many at a time.
        dataset: the dataset of the split.
        state: a state of the shapes that the program will be called with.
        tta: the views of each image over which the outputs are averaged.
        devices: those that the state lies on; the first one by default.
        split: which of the dataset's splits is evaluated.
        temperature: what the logits are divided by; by default by nothing.

    Returns:
        ``state -> sums``.
    """
    devices = devices or mesh.one_device()
    data = network.experiment.data
    fitted = augment.make_prepare_batch(data)
    gather = mesh.make_gather(devices, state)

    seen = views.make_views(data, tta)

    def prepared(batch: step.Batch) -> step.Batch:
        batch = dataset.rendered(batch)
        return fitted(batch) if tta == "none" else {**batch, "image": seen(batch["image"])}

    counted = views.COUNTED.get(tta)
    judged = step.make_eval_step(network.model, network.task, counted, temperature)
    for_one = step.make_evaluate(judged, prepared)

    def evaluate(state: TrainState, batches: step.Batch) -> Sums:
        return for_one(gather(state), batches)

    program = jax.jit(evaluate, out_shardings=mesh.replicated(devices))
    where = mesh.split(devices, axis=1)
    if dataset.streamed:
        stream = open_stream(dataset, data, network.experiment.train.seed, devices.size, split)
        return functools.partial(_evaluate_stream, program, stream, where)
    batches = mesh.place(
        pipeline.in_batches(dataset.held_out[split], data.eval_batch_size, devices.size), where
    )
    compiled = program.lower(state, batches).compile()
    require_planned(compiled, data, "eval_batch_size")
    return lambda state: compiled(state, batches)


def _evaluate_stream(
    program: Callable[[TrainState, step.Batch], Sums],
    stream: Stream,
    where: Sharding,
    state: TrainState,
) -> Sums:
    sums: Sums = {}
    for batch in stream.eval_batches():
        rows = {name: array[None] for name, array in batch.items()}
        found = program(state, mesh.place_part(rows, where))
        sums = add(sums, found) if sums else found
    if not int(sums["count"]):
        raise InputError("data.name='folder': no held-out image can be read")
    return sums


def evaluate(
    workdir: Path,
    checkpoint: str = "latest",
    data_dir: str | None = None,
    tta: Views = "none",
    split: sources.HeldOut = "test",
) -> dict[str, Any]:
    """Evaluates a trained run on its test set, or on what it held out for validation.

    Args:
        workdir: the run folder.
        checkpoint: ``"latest"`` or ``"best"``.
        data_dir: the folder of the data, where it is another than in training.
        tta: the views of each image over which the probabilities are averaged.
        split: which of them.

    Returns:
        ``step``, ``test_loss``, the metrics of the task (``test_top1``), ``test_examples``; of the
        validation set they begin with ``val``. ``optimistic`` tells whether the checkpoint was
        chosen by these examples, or the temperature fitted to them.

    Raises:
        InputError: there is no such run, checkpoint or split, or the data are not at hand.
    """
    return evaluate_trained(restore(workdir, checkpoint), checkpoint, data_dir, tta, split)


def evaluate_trained(
    trained: Trained,
    checkpoint: str = "latest",
    data_dir: str | None = None,
    tta: Views = "none",
    split: sources.HeldOut = "test",
) -> dict[str, Any]:
    """Evaluates a network that was restored from a checkpoint, as :func:`evaluate` does."""
    dataset = trained.dataset(data_dir)
    require_split(trained, dataset, split)
    run = compile_evaluate(
        trained, dataset, trained.state, tta, split=split, temperature=trained.temperature
    )
    sums = jax.device_get(run(trained.state))
    with np.errstate(all="ignore"):  # what is not finite is said below
        found = require_finite(trained.folder, of_split(trained.task, sums, split))
    return {
        "step": trained.step,
        **found,
        f"{PREFIX[split]}_examples": int(sums["count"]),
        "optimistic": chosen_by(trained.experiment, checkpoint, split) or fitted_to(trained, split),
    }


def fitted_to(trained: Trained, split: sources.HeldOut) -> bool:
    """Returns whether a network has a temperature that was fitted to the examples of a split."""
    return trained.temperature is not None and split == "validation"


def require_split(trained: Trained, dataset: sources.Dataset, split: sources.HeldOut) -> None:
    """Checks that a run has examples of a split.

    Raises:
        InputError: it held out none.
    """
    if split not in dataset.held_out:
        raise InputError(
            f"--split {split}: {trained.folder} held out no examples for validation "
            "(config.json: data.validation is None)"
        )


def require_finite(folder: Path, found: dict[str, float]) -> dict[str, float]:
    """Returns the figures of a run, all of which must be finite."""
    for name, value in found.items():
        if not math.isfinite(value):
            raise InputError(
                f"{folder}: {name} is {value}: its parameters, or what task.json holds of "
                "the labels, are out of range"
            )
    return found


def chosen_by(experiment: Experiment, checkpoint: str, split: sources.HeldOut) -> bool:
    """Returns whether a checkpoint was chosen by the examples of a split."""
    if experiment.data.validation is None:
        return split == "test" and (checkpoint == "best" or chosen_on_test(experiment))
    stopped = experiment.train.patience is not None
    return split == "validation" and (checkpoint == "best" or stopped)


FIELDS = {
    "index": np.int64,
    "label": np.int32,
    "predicted": np.int32,
    "probability": np.float32,
    "label_probability": np.float32,
    "label_log_probability": np.float32,
    "squared_error": np.float32,
}
"""Arrays of predictions.npz, each with a number for every test image."""
BOUNDS = {"label_log_probability": (float(np.finfo(np.float32).min), 0), "squared_error": (0, 2)}
"""The smallest and the largest number of an array, where they are others than 0 and 1."""
MOST = 2**16
"""Bytes that predictions.npz may hold unpacked, beside 64 for every test image."""


def predict_test_set(workdir: Path, data_dir: str | None = None) -> dict[str, np.ndarray] | None:
    """Returns the predictions of a finished run's last parameters for its test set.

    They are kept in the run folder as predictions.npz, and made where they are not there yet.

    Args:
        workdir: the run folder.
        data_dir: the folder of the data, where it is another than in training.

    Returns:
        For every test image that can be read, in the dataset's order: ``index``, its place in
        the test split (int64), ``label`` and ``predicted`` class (int32), ``probability`` of the
        predicted class, and what :meth:`~jaxcnn.tasks.Classification.judged` says of the label
        (float32). None where the task does not give each image one class.

    Raises:
        InputError: not a finished run, or its data are not at hand.
    """
    if not run_folder.judged(workdir).metrics[0].of_examples:
        return None
    digest = run_folder.read_summary(workdir).params_sha256
    about = files.read(workdir / "dataset.json", RunDataset)
    kept = _read(workdir / "predictions.npz", digest, about)
    if kept is not None:
        return kept
    trained = restore(workdir)
    if type(trained.task).judged is BaseTask.judged:
        return None
    found = predict(trained, trained.dataset(data_dir))
    content = io.BytesIO()
    np.savez_compressed(content, params_sha256=digest, **found)  # type: ignore[arg-type]
    # In a folder that may only be read, or where a link lies, they are made again each time.
    with contextlib.suppress(OSError, InputError):
        files.write_bytes(workdir / "predictions.npz", content.getvalue())
    return found


def predict(
    trained: Trained, dataset: sources.Dataset, split: sources.HeldOut = "test"
) -> dict[str, np.ndarray]:
    """Returns what is kept of every example of a split, as :func:`predict_test_set` does.

    Args:
        trained: a network whose task gives each image one class, perhaps with a temperature.
        dataset: its dataset.
        split: which of the dataset's splits.
    """
    return predict_at(trained, dataset, split, [trained.temperature])[0]


def predict_at(
    trained: Trained,
    dataset: sources.Dataset,
    split: sources.HeldOut,
    temperatures: Sequence[float | None],
) -> list[dict[str, np.ndarray]]:
    """Returns what :func:`predict` gives at each of some temperatures; the network is run once."""
    judged = _predictor(trained.model, trained.task, trained.experiment.data, dataset.render)

    def program(block: Mapping[str, Any]) -> Mapping[Any, Any]:
        answers = judged(trained.variables, block, tuple(temperatures))
        flat = {(i, name): x for i, one in enumerate(answers) for name, x in one.items()}
        return {"label": block["label"], **flat}

    found = _over(trained, dataset, split, program)
    shared = {name: found[name] for name in ("index", "label")}
    each = [
        {key[1]: x for key, x in found.items() if key[0] == i} for i in range(len(temperatures))
    ]
    return [shared | one for one in each]


def logits(
    trained: Trained, dataset: sources.Dataset, split: sources.HeldOut
) -> tuple[np.ndarray, np.ndarray]:
    """Returns logits ``(n, classes)`` in float32 and labels ``(n,)`` of every example of a split.

    Raises:
        InputError: they do not fit into memory.
    """
    examples, classes = len(dataset.held_out[split]), len(trained.classes)
    require_memory(f"the logits of {examples:,} examples", 8 * examples * classes)
    outputs = _outputs(trained.model, trained.experiment.data, dataset.render)

    def program(block: Mapping[str, Any]) -> Mapping[str, Any]:
        return {"label": block["label"], "logits": outputs(trained.variables, block)}

    found = _over(trained, dataset, split, program)
    return found["logits"], found["label"]


def _over(
    trained: Trained,
    dataset: sources.Dataset,
    split: sources.HeldOut,
    program: Callable[[Mapping[str, Any]], Mapping[Any, Any]],
) -> dict[Any, np.ndarray]:
    """Returns what a program gives for every example of a split, and the places of these."""
    experiment = trained.experiment
    if dataset.streamed:
        stream = open_stream(dataset, experiment.data, experiment.train.seed, split=split)
        blocks: Iterable[Any] = (
            {k: v[None] for k, v in batch.items()} for batch in stream.eval_batches()
        )
    else:
        blocks = [pipeline.in_batches(dataset.held_out[split], experiment.data.eval_batch_size)]
    parts, masks = [], []
    for block in blocks:
        masks.append(block["mask"].ravel())
        parts.append({k: np.asarray(v)[block["mask"]] for k, v in program(block).items()})
    found = {k: np.concatenate([part[k] for part in parts]) for k in parts[0]}
    # Batches follow the split, and what fills up the last one lies behind its end.
    return {"index": np.flatnonzero(np.concatenate(masks)), **found}


@functools.lru_cache(maxsize=8)  # seeds of one arm share the program
def _predictor(
    model: nn.Module, task: BaseTask, data: Data, render: Callable[..., Any] | None
) -> Callable[..., list[dict[str, jax.Array]]]:
    outputs_of = _network(model, data, render)

    def one(
        variables: Any, temperatures: tuple[float | None, ...], batch: Mapping[str, jax.Array]
    ) -> list[Any]:
        outputs = outputs_of(variables, batch)
        return [task.judged(tempered(outputs, t), batch["label"]) for t in temperatures]

    return jax.jit(
        lambda variables, batches, temperatures: lax.map(
            functools.partial(one, variables, temperatures), batches
        )
    )


@functools.lru_cache(maxsize=8)
def _outputs(
    model: nn.Module, data: Data, render: Callable[..., Any] | None
) -> Callable[..., jax.Array]:
    outputs_of = _network(model, data, render)

    def one(variables: Any, batch: Mapping[str, jax.Array]) -> jax.Array:
        return outputs_of(variables, batch).astype(jnp.float32)

    return jax.jit(lambda variables, batches: lax.map(functools.partial(one, variables), batches))


def _network(
    model: nn.Module, data: Data, render: Callable[..., Any] | None
) -> Callable[[Any, Mapping[str, jax.Array]], Any]:
    """Makes the function from variables and a stored batch to the network's outputs."""
    prepare = augment.make_prepare(data)

    def outputs_of(variables: Any, batch: Mapping[str, jax.Array]) -> Any:
        batch = batch if render is None else render(batch)
        return model.apply(variables, prepare(batch["image"]), train=False)

    return outputs_of


def _read(path: Path, digest: str, about: RunDataset) -> dict[str, np.ndarray] | None:
    """Reads kept predictions; None unless they are whole and of these parameters."""
    try:
        content = io.BytesIO(files.read_bytes(path))
        with zipfile.ZipFile(content) as packed:
            if sum(part.file_size for part in packed.infolist()) > MOST + 64 * about.test_examples:
                return None
        with np.load(content, allow_pickle=False) as held:
            found = {name: held[name] for name in FIELDS}
            fits = str(held["params_sha256"]) == digest and _fit(found, about)
            return found if fits else None
    except Exception:  # missing, or whatever NumPy stumbles upon in a damaged file: made again
        return None


def _fit(found: Mapping[str, np.ndarray], about: RunDataset) -> bool:
    """Returns whether arrays are such as :func:`predict_test_set` gives for a dataset."""
    last = len(about.classes) - 1
    bounds: dict[str, tuple[float, float]] = {"label": (0, last), "predicted": (0, last)}
    bounds |= {"index": (0, about.test_examples - 1), **BOUNDS}
    for name, kind in FIELDS.items():
        array = found[name]
        if array.dtype != kind or array.shape != (found["index"].size,):
            return False
        low, high = bounds.get(name, (0, 1))
        if not ((array >= low) & (array <= high)).all():
            return False
    return True
