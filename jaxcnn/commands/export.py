"""``jaxcnn export``: a trained network written for others to run."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from jaxcnn.commands import arguments
from jaxcnn.commands.parsing import bring_from


@dataclass(frozen=True)
class Command(arguments.Command):
    """Writes a trained network into a folder, from which it runs without jaxcnn.

    As stablehlo it is a program for any number of images as they are stored, which JAX alone runs;
    as safetensors it is the arrays in torchvision's layout.
    """

    run: Path = field(metadata={"place": "RUN"})
    """The run folder."""
    to: Literal["stablehlo", "safetensors", "onnx"]
    """The format; onnx is converted in an environment of its own (docs/export.md)."""
    out: Path | None = None
    """The folder to write, in the place of an earlier export; by default export/FORMAT in the run
    folder."""
    checkpoint: Literal["latest", "best"] = "latest"
    """The latest checkpoint, or the one with the best result on the validation set, or without
    one on the test set."""
    platforms: tuple[Literal["cpu", "cuda", "rocm", "tpu"], ...] | None = None
    """What the program of stablehlo runs on; by default cpu, cuda and tpu."""
    dtype: Literal["uint8", "float32"] | None = None
    """The type of the pixels that the program of stablehlo takes, by default that of the run's
    images. Runs of earlier versions do not say it: those on arrays of floating-point numbers need
    float32."""
    calibrated: bool = False
    """Divides the logits by the temperature that `jaxcnn eval RUN --fit-temperature` has kept
    beside the run; only of stablehlo."""
    source: tuple[Path, ...] = field(default=(), metadata=arguments.FROM)
    """A Python file with the network, or whatever else was brought to the run; may be given several
    times."""


def run(command: Command) -> int:
    """Exports the network and returns the exit code."""
    bring_from(command.source)
    from jaxcnn.runs import display, exporting, trained

    out = command.out or command.run / "export" / command.to
    with display.display() as listener, listener.waiting(f"exporting {command.run}", said=False):
        network = trained.restore(command.run, command.checkpoint)
        network = network.calibrated() if command.calibrated else network
        written = exporting.export(
            network, command.to, out, platforms=command.platforms, dtype=command.dtype
        )
    display.show(f"{out}: {', '.join(path.name for path in written)}")
    return 0
