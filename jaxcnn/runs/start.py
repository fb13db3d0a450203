"""What is trained in which folder, whether it can begin or go on there, and what became of it."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jax

from jaxcnn.config import Experiment
from jaxcnn.errors import InputError
from jaxcnn.learning import files, processes, run_folder
from jaxcnn.learning.records import Ending, Environment
from jaxcnn.learning.state import variables_of
from jaxcnn.runs.program import Program
from jaxcnn.runs.trained import Trained, restore, transfer


@dataclass(frozen=True)
class Run:
    """A run to be made: what is trained, and in which folder."""

    experiment: Experiment
    folder: Path


@dataclass(frozen=True)
class Outcome:
    """What became of runs, by their folders.

    Attributes:
        results: what summary.json holds, of every run that has ended well.
        diverged: why, of every run that has diverged.
        pruned: why, of every run that was given up since it promised too little.
        failed: why, of every run that ended in another process by a fault, such as a full disk.
        refused: why, of every run that could not be trained.
        elsewhere: the runs that other processes train, where a folder is shared.
    """

    results: dict[Path, dict[str, Any]] = field(default_factory=dict)
    diverged: dict[Path, str] = field(default_factory=dict)
    pruned: dict[Path, str] = field(default_factory=dict)
    failed: dict[Path, str] = field(default_factory=dict)
    refused: dict[Path, str] = field(default_factory=dict)
    elsewhere: list[Path] = field(default_factory=list)

    @property
    def given_up(self) -> dict[Path, str]:
        """Why runs ended before their last step."""
        return self.diverged | self.pruned | self.failed

    @property
    def faults(self) -> dict[Path, str]:
        """What a user is told of when all is over."""
        return self.refused | self.failed | self.diverged

    def give_up(self, folder: Path, ended: Ending, reason: str) -> None:
        """Notes that a run has ended before its last step."""
        {"diverged": self.diverged, "pruned": self.pruned, "failed": self.failed}[ended][folder] = (
            reason
        )

    def add(self, other: "Outcome") -> None:
        """Adds what became of other runs, but for those that are elsewhere."""
        self.results.update(other.results)
        self.diverged.update(other.diverged)
        self.pruned.update(other.pruned)
        self.failed.update(other.failed)
        self.refused.update(other.refused)


def trained_without_onednn(run: Run) -> bool:
    """Tells whether a run has done its steps without oneDNN, with which the last bits differ."""

    def known() -> bool:
        try:
            found = files.read(run.folder / "env.json", Environment)
        except (InputError, OSError):  # of which the run tells when it goes on
            return False
        return "onednn" not in found.versions

    return run_folder.holds_checkpoints(run.folder) and processes.on_first(known)


def check_starts(runs: Sequence[Run], program: Program) -> Trained | None:
    """Checks that runs can begin or go on in their folders, and changes nothing there.

    Returns the network to start from, if the experiment names one and a run is to begin.

    Raises:
        InputError: that network is not there or does not fit, or a run has done more steps already.
    """
    newest = [run_folder.newest_step(run.folder) for run in runs]
    for run, step in zip(runs, newest, strict=True):
        if step is not None and step > program.total_steps:
            step = restore(run.folder).step  # a folder's name alone may be wrong
        if step is not None and step > program.total_steps:
            raise InputError(
                f"train.epochs={run.experiment.train.epochs}: the run in {run.folder} has done "
                f"{step} steps, of {program.steps_per_epoch} an epoch, already; give at least "
                f"{-(-step // program.steps_per_epoch)} epochs, or another --workdir"
            )
    source = program.experiment.model.init_from
    if source is None or None not in newest:  # not needed, nor perhaps there any more
        return None
    trained = restore(Path(source))
    transferred(trained, program, variables_of(program.network.shapes))
    return trained


def transferred(
    source: Trained, program: Program, variables: dict[str, Any]
) -> tuple[dict[str, Any], list[str]]:
    """Returns the variables to start from, and the names of the parameters that start anew."""
    classes = len(source.classes), len(program.dataset.classes)
    folder = str(program.experiment.model.init_from)
    old, found, fresh = jax.device_get(source.variables), {}, []
    for kind in variables:
        found[kind], anew = transfer(old.get(kind, {}), variables[kind], classes, folder)
        fresh += anew
    return found, fresh
