"""``jaxcnn predict``: class and probability of image files."""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from jaxcnn.commands.parsing import parse
from jaxcnn.errors import InputError


def main(args: Sequence[str]) -> int:
    """Runs the command and returns the exit code."""
    import tyro

    def parsed(
        images: tyro.conf.Positional[tuple[Path, ...]],
        workdir: Path,
        checkpoint: Literal["latest", "best"] = "latest",
        resize: bool = False,
    ) -> tuple[tuple[Path, ...], Path, str, bool]:
        """Classify image files: file, class and probability, one line each.

        Args:
            images: files of the dataset's size, or of a size that the network takes.
            workdir: the run folder.
            checkpoint: the last one, or the one with the best test accuracy.
            resize: first resizes every image to the dataset's size.
        """
        return images, workdir, checkpoint, resize

    images, workdir, checkpoint, _ = parse(parsed, args, "predict")
    if not images:
        raise InputError("predict: give at least one image file")
    from jaxcnn.runs import trained

    for found in trained.predict(workdir, images, checkpoint=checkpoint):
        print(f"{found.path}: {found.label} {found.probability:.4f}")
    return 0
