"""``jaxcnn eval``: accuracy of a trained run on its test set."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from jaxcnn.commands import arguments
from jaxcnn.config import Views


@dataclass(frozen=True)
class Command(arguments.Command):
    """Evaluates a trained run on its whole test set."""

    run: Path = field(metadata={"place": "RUN"})
    """The run folder."""
    checkpoint: Literal["latest", "best"] = "latest"
    """The latest checkpoint, or the one with the best test accuracy, which was chosen on the test
    set and is therefore an optimistic estimate."""
    data_dir: str | None = None
    """The folder of the data, of prepared TFDS datasets or of image files; by default the same as
    in training."""
    tta: Views = "none"
    """Test-time augmentation: averages the probabilities of the image and its mirror image (flip),
    of the four corners and the centre (five_crop), or of those and their mirror images
    (ten_crop)."""


def run(command: Command) -> int:
    """Evaluates the run and returns the exit code."""
    from jaxcnn.runs import display, evaluation

    tta = command.tta
    with display.display() as listener, listener.waiting(f"evaluating {command.run}", said=False):
        result = evaluation.evaluate(command.run, command.checkpoint, command.data_dir, tta)
    display.show(
        f"{command.run} step {result['step']}: {display.tested(result, result['classes'])} "
        f"on {result['test_examples']:,} images"
        + (f", test-time augmentation {tta}" if tta != "none" else "")
    )
    return 0
