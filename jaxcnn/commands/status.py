"""``jaxcnn status``: how the runs in a folder stand."""

import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jaxcnn.commands import arguments
from jaxcnn.text import draws

SECONDS_BETWEEN = 1.0
"""A terminal shows this often how the runs stand."""


@dataclass(frozen=True)
class Command(arguments.Command):
    """Shows every run in a folder: waiting, running and how far, finished, or failed and why.

    It reads the folder alone, so that it may be called on any machine that sees it. On a terminal
    it goes on until no run is running or waiting any more, or Ctrl-C ends it.
    """

    folder: Path = field(metadata={"place": "DIR"})
    """A run folder, or one that holds some: of a comparison, a sweep or several seeds."""
    once: bool = False
    """Shows it once, on a terminal too."""


def run(command: Command) -> int:
    """Shows how the runs stand and returns the exit code."""
    import jax

    jax.config.update("jax_platforms", "cpu")  # the accelerator is that of the runs

    from jaxcnn.analysis import status
    from jaxcnn.runs import display

    found = status.read_all(command.folder)

    def shown(width: int, lines: int | None = None) -> Any:
        return status.render(found, width, lines)

    with display.watching(shown) as watch:
        while not command.once and draws() and status.go_on(found):
            watch.look()
            time.sleep(SECONDS_BETWEEN)
            found = status.read_all(command.folder)
    screen = display.console()
    screen.print(shown(screen.width))
    return 0
