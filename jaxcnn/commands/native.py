"""``jaxcnn native``: oneDNN's convolutions on the CPU, built once on this machine."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from jaxcnn.commands import arguments


@dataclass(frozen=True)
class Command(arguments.Command):
    """Builds what makes networks on CPUs faster, by oneDNN, or says whether it is in use.

    "build" compiles a file of C++ into the user's cache folder, which takes some seconds and is
    needed once for each version of jaxlib; "status" says what is in use, or why nothing is. The
    environment variable JAXCNN_NATIVE=0 leaves it unused.
    """

    action: Literal["build", "status"] = field(metadata={"place": "build|status"})
    """What to do."""
    onednn: Path | None = None
    """The folder of a oneDNN 3.x, with include and lib; by default that of the extra "native" of
    this package, or the one that pkg-config knows."""


def run(command: Command) -> int:
    """Builds or looks, says so, and returns the exit code."""
    from jaxcnn.ops.native import library

    if command.action == "build":
        print(library.build(command.onednn))
    if version := library.version():
        print(f"in use: oneDNN {version} ({library.path()})")
    else:
        print(f"not in use: {library.why_not()}")
    return 0
