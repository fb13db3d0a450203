"""``jaxcnn eval``: accuracy of a trained run on its test set."""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from jaxcnn.commands.parsing import parse


def main(args: Sequence[str]) -> int:
    """Runs the command and returns the exit code."""

    def parsed(
        workdir: Path,
        checkpoint: Literal["latest", "best"] = "latest",
        data_dir: str | None = None,
    ) -> tuple[Path, str, str | None]:
        """Evaluate a trained run on its whole test set.

        Args:
            workdir: the run folder.
            checkpoint: the last one, or the one with the best test accuracy (which was chosen on
                the test set, and is therefore an optimistic estimate).
            data_dir: folder of prepared TFDS datasets, where it is another than in training.
        """
        return workdir, checkpoint, data_dir

    workdir, checkpoint, data_dir = parse(parsed, args, "eval")
    from jaxcnn import trained

    result = trained.evaluate(workdir, checkpoint, data_dir)
    print(
        f"{workdir} step {result['step']}: test top-1 {result['test_top1']:.2%}, "
        f"top-5 {result['test_top5']:.2%}, loss {result['test_loss']:.4f} "
        f"on {result['test_examples']:,} images"
    )
    return 0
