"""``jaxcnn eval``: accuracy of a trained run on its test set."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from jaxcnn.commands import arguments
from jaxcnn.commands.parsing import bring_from
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
    """The folder of the prepared TFDS datasets; by default the same as in training."""
    source: tuple[Path, ...] = field(default=(), metadata={"name": "from"})
    """Python files with the network, or whatever else was brought to the run."""
    tta: Views = "none"
    """Test-time augmentation: averages the probabilities of the image and its mirror image (flip),
    of the four corners and the centre (five_crop), or of those and their mirror images
    (ten_crop)."""


def run(command: Command) -> int:
    """Evaluates the run and returns the exit code."""
    bring_from(command.source)
    from jaxcnn.runs import evaluation

    tta = command.tta
    result = evaluation.evaluate(command.run, command.checkpoint, command.data_dir, tta)
    print(
        f"{command.run} step {result['step']}: test top-1 {result['test_top1']:.2%}, "
        f"top-5 {result['test_top5']:.2%}, loss {result['test_loss']:.4f} "
        f"on {result['test_examples']:,} images"
        + (f", test-time augmentation {tta}" if tta != "none" else "")
    )
    return 0
