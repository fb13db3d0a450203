"""Puts examples aside where epochs or trials are chosen, or says that the test set chooses.

Patience chooses the epoch that ends a run, and a sweep the best of its trials.
"""

from collections.abc import Sequence
from dataclasses import replace

from jaxcnn.config import Experiment
from jaxcnn.data.sources import HeldOut
from jaxcnn.errors import InputError
from jaxcnn.learning import processes, run_folder
from jaxcnn.learning.selection import OPTIMISTIC
from jaxcnn.runs.display import Listener
from jaxcnn.runs.start import Run

SHARE = 0.1
"""The share of the training examples that is put aside where the experiment does not say."""


def put_aside(
    runs: Sequence[Run], listener: Listener | None = None, *, sweep: bool = False
) -> list[Run]:
    """Returns the runs as they are trained and recorded, with a validation set where one is needed.

    Runs that are trained by one call are compared with one another: if one of them puts examples
    aside, all do that may. Where one of them began without, which cannot be changed any more, they
    are chosen on the test set, as they were before.

    Args:
        runs: the runs of one call.
        listener: hears what is done, and why.
        sweep: whether the best of the runs is chosen.
    """
    without = [run for run in runs if _is_open(run.experiment)]
    choosing = [run for run in without if sweep or run.experiment.train.patience is not None]
    listener = listener or Listener()
    who = "sweep" if sweep else "train.patience"
    begun = next((run for run in choosing if _began_without(run)), None)
    if begun is not None:
        listener.message(f"{who}: {begun.folder} began without data.validation: {OPTIMISTIC}")
    elif choosing:
        listener.message(
            f"{who} chooses by a tenth of the training examples (data.validation={SHARE})"
        )
    changed = without if choosing and begun is None else choosing
    return [
        replace(run, experiment=_settled(run.experiment, on_test=begun is not None))
        if run in changed
        else run
        for run in runs
    ]


def common_split(runs: Sequence[Run]) -> HeldOut:
    """Returns the split by which the best of the runs is chosen.

    Raises:
        InputError: some hold examples out for validation, and others do not.
    """
    first, *others = (run.experiment.data.validation for run in runs)
    if any((other is None) != (first is None) for other in others):
        raise InputError(
            "data.validation: must be set in all trials of a sweep or in none; one is chosen by it"
        )
    return "test" if first is None else "validation"


def _is_open(experiment: Experiment) -> bool:
    return experiment.data.validation is None and experiment.train.select_on == "auto"


def _settled(experiment: Experiment, on_test: bool) -> Experiment:
    if on_test:
        return replace(experiment, train=replace(experiment.train, select_on="test"))
    return replace(experiment, data=replace(experiment.data, validation=SHARE))


def _began_without(run: Run) -> bool:
    """Tells whether something was trained in the folder of a run, without a validation set."""

    def look() -> bool:
        begun = (run.folder / "summary.json").exists() or run_folder.holds_checkpoints(run.folder)
        return begun and run_folder.read_config(run.folder).data.validation is None

    return processes.on_first(look)
