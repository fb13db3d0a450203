"""How honest a trained run's probabilities are, and the temperature that is kept beside it."""

from collections.abc import Callable, Mapping
from pathlib import Path

import msgspec
import numpy as np

from jaxcnn.analysis import calibration
from jaxcnn.data import sources
from jaxcnn.errors import InputError, as_not_written
from jaxcnn.learning import files
from jaxcnn.learning.records import Temperature
from jaxcnn.learning.state import sha256
from jaxcnn.runs import evaluation
from jaxcnn.runs.trained import TEMPERATURE, Trained, restore
from jaxcnn.tasks import Classification


def fit_temperature(
    trained: Trained, checkpoint: str = "latest", data_dir: str | None = None
) -> Temperature:
    """Fits a temperature to what a run held out for validation, and keeps it in the run folder.

    Never to the test set, whose figures would then be of examples that were fitted to.

    Args:
        trained: the network.
        checkpoint: which of the run's checkpoints it is.
        data_dir: the folder of the data, where it is another than in training.

    Raises:
        InputError: another task than classification, no validation set, or no temperature that is
            the best for it; see :func:`jaxcnn.analysis.calibration.fit_temperature`.
    """
    require_classification(trained, "--fit-temperature")
    if trained.experiment.data.validation is None:
        raise InputError(
            f"--fit-temperature: {trained.folder} held out no examples for validation; train with "
            "--data.validation 0.1 to have some"
        )
    file = trained.folder / TEMPERATURE
    files.check_writable(file)
    with files.as_not_writable(f"--fit-temperature: {file}: cannot be written"):
        files.try_parent(file)  # before the network is run
    dataset = trained.dataset(data_dir)
    evaluation.require_split(trained, dataset, "validation")
    logits, labels = evaluation.logits(trained, dataset, "validation")
    if not np.isfinite(logits).all():
        raise InputError(f"{trained.folder}: its logits are not finite: its parameters are damaged")
    try:
        found = calibration.fit_temperature(logits, labels)
    except InputError as error:
        raise InputError(f"--fit-temperature: {trained.folder}: {error}") from error
    fitted = {"temperature": found.temperature, "standard_error": found.standard_error}
    losses = {"nll_before": found.nll_before, "nll_after": found.nll_after}
    kept = Temperature(
        **fitted,
        **losses,
        checkpoint="best" if checkpoint == "best" else "latest",
        variables_sha256=sha256(trained.variables),
        examples=len(labels),
    )
    with as_not_written(file):
        files.write_json(file, msgspec.to_builtins(kept))
    return kept


def require_classification(trained: Trained, asked: str) -> None:
    """Checks that a network gives each image one class.

    Raises:
        InputError: it learned another task; begins with what was asked.
    """
    if not isinstance(trained.task, Classification):
        name = trained.experiment.task.name
        raise InputError(
            f"{asked}: {trained.folder} is of task.name={str(name)!r}, must be of "
            "'classification', whose answers are probabilities of one class"
        )


def answers(
    trained: Trained, data_dir: str | None = None, split: sources.HeldOut = "test"
) -> Mapping[str, Mapping[str, np.ndarray]]:
    """Returns what is kept of every image of a split, as trained and at a temperature it has.

    The data are read, and the network is run, once for both.

    Args:
        trained: the network; with a temperature where both are wanted.
        data_dir: the folder of the data, where it is another than in training.
        split: which of them.

    Returns:
        For each way, by what it is called, what :func:`jaxcnn.runs.evaluation.predict` gives.

    Raises:
        InputError: another task than classification, or no such split.
    """
    require_classification(trained, "--calibration")
    dataset = trained.dataset(data_dir)
    evaluation.require_split(trained, dataset, split)
    ways: dict[str, float | None] = {"as trained": None}
    if trained.temperature is not None:
        ways[f"temperature {trained.temperature:.3f}"] = trained.temperature
    each = evaluation.predict_at(trained, dataset, split, [*ways.values()])
    found = dict(zip(ways, each, strict=True))
    for kept in found.values():
        if not all(np.isfinite(array).all() for array in kept.values()):
            raise InputError(f"{trained.folder}: its answers, or its parameters, are not finite")
    return found


def at_temperature(
    folder: Path, say: Callable[[str], object], data_dir: str | None = None
) -> dict[str, np.ndarray]:
    """Returns how a run answers its test images at its temperature; nothing if it has none.

    The names are those of :func:`jaxcnn.runs.evaluation.predict` behind
    :data:`~jaxcnn.analysis.calibration.TEMPERED`.

    Args:
        folder: the folder of a finished run whose task gives each image one class.
        say: hears in one line why a temperature is not taken.
        data_dir: the folder of the data, where it is another than in training.
    """
    if not (folder / TEMPERATURE).exists():
        return {}
    network = with_temperature(restore(folder), say)
    if network.temperature is None:
        return {}
    found = evaluation.predict(network, network.dataset(data_dir))
    return {calibration.TEMPERED + name: found[name] for name in calibration.FIELDS}


def with_temperature(trained: Trained, say: Callable[[str], object]) -> Trained:
    """Returns a network with its temperature if it has a good one, which nobody has asked for.

    Args:
        trained: the network.
        say: hears in one line what is wrong with the temperature that is kept.
    """
    try:
        return trained.calibrated(say)
    except InputError as error:
        say(str(error))
        return trained


def picture(folder: Path, split: sources.HeldOut) -> Path:
    """Returns the PNG file into which the calibration on a split is drawn."""
    return folder / ("calibration.png" if split == "test" else f"calibration_{split}.png")
