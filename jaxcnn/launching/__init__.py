"""How a command of jaxcnn reaches the machines that carry it out: each module is an engine."""

import shlex
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from jaxcnn.config.machines import Resources

Say = Callable[[str], object]
MOST_WORKERS = 16
"""A scheduler is asked for so many workers where nothing is said of them."""


def filled(resources: Resources, runs: int) -> Resources:
    """Returns resources of a scheduler with a number of workers for so many runs."""
    return replace(resources, workers=resources.workers or min(runs, MOST_WORKERS))


class Engine(Protocol):
    """What carries jobs out."""

    def filled(self, resources: Resources, runs: int) -> Resources:
        """Returns resources with a number of workers for so many runs."""

    def place(self, folder: Path) -> str:
        """Returns what the workers call a folder."""

    def written(self, job: "Job") -> str:
        """Returns in full what would be handed over."""

    def submit(self, job: "Job", say: Say, accepted: Callable[[], None]) -> int:
        """Hands the job over and returns the exit code.

        Args:
            job: the job.
            say: hears a line about what happens.
            accepted: called once nothing is left that can be refused.
        """


@dataclass(frozen=True)
class Job:
    """A command that is to be launched.

    Attributes:
        folder: the folder of its run, or of the runs that the workers share; all of them see it.
        words: what stands behind ``jaxcnn``; it names the folder.
        workers: how many times it is started; each takes the runs that no other one has.
        resources: what each worker gets.
        shared: whether the folder holds runs that several workers share.
        extras: extras of the package that the command needs.
    """

    folder: Path
    words: tuple[str, ...]
    workers: int
    resources: Resources
    shared: bool = False
    extras: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """The name by which a scheduler lists it."""
        return f"jaxcnn-{self.folder.name}"

    @property
    def files(self) -> Path:
        """The folder of what was handed to the engine, and of what the workers say."""
        return self.folder / "launch"

    @property
    def command(self) -> tuple[str, ...]:
        """The command line of a worker, with the Python that runs here."""
        return (sys.executable, "-m", "jaxcnn.cli", *self.words)

    @property
    def shell(self) -> str:
        """The command line of a worker, as a shell reads it."""
        return shlex.join(self.command)
