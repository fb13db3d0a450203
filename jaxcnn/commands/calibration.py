"""What ``jaxcnn eval`` says of a run's calibration: its temperature, and how honest it is."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from jaxcnn.errors import InputError, as_warning
from jaxcnn.text import complain

if TYPE_CHECKING:
    from jaxcnn.commands.evaluate import Command
    from jaxcnn.data.sources import HeldOut
    from jaxcnn.runs.trained import Trained


def prepare(command: "Command", network: "Trained") -> "Trained":
    """Checks what is asked, fits a temperature if that is, and returns the network with its own.

    Raises:
        InputError: the run cannot be asked this.
    """
    from jaxcnn.runs import calibrating, display

    asked = "--calibration" if command.calibration else "--fit-temperature"
    if command.calibration or command.fit_temperature:
        calibrating.require_classification(network, asked)
        if command.tta != "none":
            why = "since it is of single views"
            raise InputError(f"{asked}: must be left out with --tta {command.tta}, {why}")
    if command.fit_temperature:
        found = calibrating.fit_temperature(network, command.checkpoint, command.data_dir)
        display.show(
            f"{network.folder}: temperature {found.temperature:.3f} (standard error "
            f"{found.standard_error:.3f}), fitted to {found.examples:,} images for validation, "
            f"whose loss goes from {found.nll_before:.4f} to {found.nll_after:.4f}"
        )
    if command.calibration:
        return network.calibrated(complain)
    return calibrating.with_temperature(network, complain)


def show(command: "Command", network: "Trained") -> None:
    """Says what a network reaches at its temperature, if it has one, and the rest if it is asked.

    Args:
        command: the command.
        network: from :func:`prepare`.
    """
    from jaxcnn.learning.selection import PREFIX
    from jaxcnn.runs import evaluation

    split = command.split
    if command.calibration:
        _show_calibration(command, network)
    elif network.temperature is not None:
        result = evaluation.evaluate_trained(
            network, command.checkpoint, command.data_dir, command.tta, split
        )
        _show_loss(network, split, result[f"{PREFIX[split]}_loss"])


def _show_loss(network: "Trained", split: "HeldOut", loss: float) -> None:
    from jaxcnn.runs import display, evaluation

    optimistic = ", fitted to it: an optimistic estimate"
    display.show(
        f"at temperature {network.temperature:.3f}: {split} loss {loss:.4f}"
        + optimistic * evaluation.fitted_to(network, split)
    )


def _show_calibration(command: "Command", network: "Trained") -> None:
    import numpy as np

    from jaxcnn.analysis import calibration, plots, tables
    from jaxcnn.runs import calibrating, display, evaluation

    with display.display() as listener, listener.waiting("asking for its confidence", said=False):
        answers: Mapping[str, Any] = calibrating.answers(network, command.data_dir, command.split)
        found = {name: calibration.figures(kept) for name, kept in answers.items()}
        drawn = calibration.by_chance(next(iter(answers.values()))["probability"])
    chance = float(drawn.mean()), float(np.quantile(drawn, 0.95))
    images = len(next(iter(answers.values()))["label"])
    title = f"{network.folder}, {images:,} {command.split} images"
    fitted = evaluation.fitted_to(network, command.split)
    if network.temperature is not None:
        *_, at_temperature = found.values()
        _show_loss(network, command.split, at_temperature[calibration.NLL].mean)
    display.console().print(tables.render_calibration(found, title, chance, fitted=fitted))
    picture = calibrating.picture(network.folder, command.split)
    with as_warning(f"{picture}: could not be drawn"):
        plots.save_calibration(answers, picture, title)
        print(f"{picture}")
