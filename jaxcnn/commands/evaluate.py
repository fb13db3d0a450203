"""``jaxcnn eval``: accuracy of a trained run on its test set."""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from jaxcnn.commands.parsing import parse
from jaxcnn.config import Views


def main(args: Sequence[str]) -> int:
    """Runs the command and returns the exit code."""

    def parsed(
        workdir: Path,
        checkpoint: Literal["latest", "best"] = "latest",
        data_dir: str | None = None,
        tta: Views = "none",
    ) -> tuple[Path, str, str | None, Views]:
        """Evaluate a trained run on its whole test set.

        Args:
            workdir: the run folder.
            checkpoint: the last one, or the one with the best test accuracy (which was chosen on
                the test set, and is therefore an optimistic estimate).
            data_dir: folder of prepared TFDS datasets, where it is another than in training.
            tta: test-time augmentation: the mean of the probabilities of the image and its mirror
                image, of four corners and the centre, or of those and their mirror images.
        """
        return workdir, checkpoint, data_dir, tta

    workdir, checkpoint, data_dir, tta = parse(parsed, args, "eval")
    from jaxcnn.runs import evaluation

    result = evaluation.evaluate(workdir, checkpoint, data_dir, tta)
    print(
        f"{workdir} step {result['step']}: test top-1 {result['test_top1']:.2%}, "
        f"top-5 {result['test_top5']:.2%}, loss {result['test_loss']:.4f} "
        f"on {result['test_examples']:,} images"
        + (f", test-time augmentation {tta}" if tta != "none" else "")
    )
    return 0
