"""``jaxcnn eval``: what a trained run reaches on its test set, or on its validation set."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from jaxcnn.commands import arguments, calibration
from jaxcnn.commands.parsing import bring_from
from jaxcnn.config import Views


@dataclass(frozen=True)
class Command(arguments.Command):
    """Evaluates a trained run on its whole test set, or on all that it held out for validation."""

    run: Path = field(metadata={"place": "RUN"})
    """The run folder."""
    checkpoint: Literal["latest", "best"] = "latest"
    """The latest checkpoint, or the one with the best result on the validation set; without one
    it is the best on the test set, whose figures there are optimistic estimates."""
    split: Literal["test", "validation"] = "test"
    """The test set, or the examples that data.validation held out."""
    data_dir: str | None = None
    """The folder of the data, of prepared TFDS datasets or of image files; by default the same as
    in training."""
    source: tuple[Path, ...] = field(default=(), metadata=arguments.FROM)
    """A Python file with the network, or whatever else was brought to the run; may be given several
    times."""
    tta: Views = "none"
    """Test-time augmentation: averages the probabilities of the image and its mirror image (flip),
    of the four corners and the centre (five_crop), of those and their mirror images (ten_crop), or
    of the image and two shifts by a pixel with half its weight, each mirrored too (flip_shift)."""
    calibration: bool = False
    """Says too how honest the probabilities are: negative log-likelihood, Brier score, expected
    calibration error, and accuracy on the images of which the network is surest, with intervals;
    draws calibration.png into the run folder."""
    fit_temperature: bool = False
    """First fits a temperature, by which the logits are divided, to the examples that
    data.validation held out, and keeps it as temperature.json in the run folder."""


def run(command: Command) -> int:
    """Evaluates the run and returns the exit code."""
    bring_from(command.source)

    from jaxcnn.learning.selection import PREFIX
    from jaxcnn.runs import display, evaluation, trained

    tta, split = command.tta, command.split
    with display.display() as listener, listener.waiting(f"evaluating {command.run}", said=False):
        network = trained.restore(command.run, command.checkpoint)
        tempered = calibration.prepare(command, network)
        result = evaluation.evaluate_trained(
            network, command.checkpoint, command.data_dir, tta, split
        )
    display.show(
        f"{command.run} step {result['step']}: "
        f"{display.reached(result, network.metrics, split)} "
        f"on {result[f'{PREFIX[split]}_examples']:,} images"
        + (f", test-time augmentation {tta}" if tta != "none" else "")
        + (", chosen on it: an optimistic estimate" if result["optimistic"] else "")
    )
    calibration.show(command, tempered)
    return 0
