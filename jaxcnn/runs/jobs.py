"""Many runs, one after another, each in a folder of its own; finished ones are reused."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from jaxcnn.config import Experiment, to_dict
from jaxcnn.errors import Diverged, Stopped
from jaxcnn.runs import training as run
from jaxcnn.train import loop, processes
from jaxcnn.train import run_folder as folder


@dataclass(frozen=True)
class Job:
    """A run to be made.

    Attributes:
        experiment: what to train.
        workdir: its run folder.
    """

    experiment: Experiment
    workdir: Path


def is_finished(job: Job) -> bool:
    """Whether nothing is left to be trained.

    Raises:
        InputError: the folder holds a run of another config, finished or begun.
    """
    config = to_dict(job.experiment)
    if folder.finished(job.workdir, config) is not None:
        return True
    if processes.on_first((job.workdir / "checkpoints" / "latest").is_dir):
        begun = folder.checkpoints(job.workdir, "latest", read_only=True)
        try:
            if begun.steps():
                folder.check_same(job.workdir, config)
        finally:
            begun.close()
    return False


def train_all(
    jobs: Sequence[Job], listener: run.Listener, after: Callable[[Job], object] = lambda job: None
) -> dict[Path, str]:
    """Trains every job, or reuses or goes on with what its folder holds.

    A run that diverges is given up; the others go on.

    Args:
        jobs: in the order in which they are trained.
        listener: hears all of them.
        after: called after each run that ended well.

    Returns:
        For each run that diverged its folder, and at which step.

    Raises:
        InputError: a folder holds a run of another config (before anything is trained), or a
            fault in an experiment or its data.
        jaxcnn.errors.Stopped: a signal came; the state of the current run is saved.
    """
    for job in jobs:
        is_finished(job)
    failed = {}
    with loop.StopRequest() as stop:
        for number, job in enumerate(jobs, start=1):
            listener.message(f"run {number} of {len(jobs)}: {job.workdir}")
            try:
                run.train(job.experiment, job.workdir, listener)
            except Diverged as diverged:
                listener.message(f"{job.workdir}: {diverged}")
                failed[job.workdir] = str(diverged)
            else:
                after(job)
            stopping, _ = processes.agree(number, stop.signal, 0)
            if stopping is not None:
                records = folder.read_metrics(job.workdir)
                raise Stopped(stopping, records[-1]["step"] if records else 0)
    return failed
