"""``jaxcnn predict``: class and probability of image files."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from jaxcnn.commands import arguments
from jaxcnn.commands.parsing import bring_from
from jaxcnn.text import complain, printable


@dataclass(frozen=True)
class Command(arguments.Command):
    """Classifies image files: prints file, class and probability, one line for each."""

    run: Path = field(metadata={"place": "RUN"})
    """The run folder."""
    images: tuple[Path, ...] = field(metadata={"place": "IMAGE"})
    """At least one image file; one of another size than the dataset's is brought to it."""
    checkpoint: Literal["latest", "best"] = "latest"
    """The latest checkpoint, or the one with the best test accuracy."""
    source: tuple[Path, ...] = field(default=(), metadata={"name": "from"})
    """Python files with the network, or whatever else was brought to the run."""
    resize: bool = False
    """No longer needed: every image is brought to the dataset's size anyway."""


def run(command: Command) -> int:
    """Prints the predictions and returns the exit code."""
    if command.resize:
        complain("--resize is no longer needed: every image is brought to the dataset's size")
    bring_from(command.source)
    from jaxcnn.runs import trained

    for found in trained.predict(command.run, command.images, checkpoint=command.checkpoint):
        print(printable(f"{found.path}: {found.label} {found.probability:.4f}"))
    return 0
