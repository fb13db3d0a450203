"""Settles what experiments leave open, before they are trained and recorded in their folders.

What is settled stands in config.json, so that resuming, evaluation and prediction find it there.
"""

import contextlib
import itertools
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from jaxcnn import tasks
from jaxcnn.config import Data, Experiment, to_dict, with_warmup_cut
from jaxcnn.config.brought import Brought
from jaxcnn.data import image_folder, schemes
from jaxcnn.errors import InputError
from jaxcnn.learning import processes, run_folder
from jaxcnn.runs.aside import put_aside
from jaxcnn.runs.start import Run

Say = Callable[[str], object]


def settled(
    runs: Sequence[Run], say: Say = lambda line: None, fits: "Fits | None" = None
) -> list[Run]:
    """Returns runs as they are trained and recorded.

    - A warm-up that is longer than the run takes a tenth of it: see :func:`with_warmup_cut`.
    - A relative ``data.dir`` becomes absolute, so that the run finds its data from anywhere.
    - ``data.mean`` and ``data.std``, left at their defaults, are those of ``model.init_from``.
    - ``data.labels`` is "numbers" for a task that learns numbers.
    - ``data.fit`` of image files, left at its default, is :func:`image_folder.fit_for`, or of those
      with masks :func:`image_folder.fit_of_masked`.

    Where the network to start from, or the data, are no longer at hand, the run that lies in the
    folder says what was settled before. A fault in any of them is left to those who need it.

    Args:
        runs: the runs; one may start from another that comes before it.
        say: hears each choice, in one line.
        fits: what is known of image files, all of whose headers are read for it.
    """
    found: list[Run] = []
    told: set[str] = set()
    made: dict[str, Data] = {}
    fits = {} if fits is None else fits
    for run in runs:
        experiment, lines = _settled(run, made, fits)
        made[str(run.folder)] = experiment.data
        found.append(replace(run, experiment=experiment))
        for line in lines:
            if line not in told:
                say(line)
        told |= {*lines}
    return found


def _settled(run: Run, made: dict[str, Data], fits: "Fits") -> tuple[Experiment, list[str]]:
    """Returns a run's experiment as it is trained, and what is to be said of it."""
    before = _recorded(run.folder)
    experiment = with_warmup_cut(run.experiment)
    asked, taken = (e.schedule.warmup_epochs for e in (run.experiment, experiment))
    lines = []
    if asked != taken:
        epochs = experiment.train.epochs
        lines.append(
            f"schedule.warmup_epochs={asked:g}: longer than train.epochs={epochs}, cut to {taken:g}"
        )
    data = with_numbers(experiment).data
    if data.dir is None and schemes.is_relative(data):
        data = replace(data, dir=".")
    if data.dir is not None and "://" not in data.dir:  # the address of a bucket is absolute
        data = replace(data, dir=str(Path(data.dir).expanduser().absolute()))
    data, said = _with_normalization(experiment, data, before, made)
    lines += said
    data, said = _with_fit(data, before, fits)
    return replace(experiment, data=data), lines + said


def with_numbers(experiment: Experiment) -> Experiment:
    """Returns the experiment with labels that are numbers where its task learns such."""
    name = experiment.task.name
    task = name.target if isinstance(name, Brought) else tasks.TASKS.get(str(name))
    if not getattr(task, "learns_numbers", False):
        return experiment
    return replace(experiment, data=replace(experiment.data, labels="numbers"))


OPEN = Data().mean, Data().std
"""Mean and standard deviation where an experiment says nothing of them."""


def _with_normalization(
    experiment: Experiment, data: Data, before: Experiment | None, made: dict[str, Data]
) -> tuple[Data, list[str]]:
    start, own = experiment.model.init_from, (data.mean, data.std)
    if start is None:
        return data, []
    if before is not None and before.model.init_from != start:
        before = None
    try:
        source = made.get(start) or run_folder.read_config(Path(start)).data
    except InputError:
        if before is None or own != OPEN:
            return data, []
        source = before.data
    theirs = source.mean, source.std
    if before is not None and (before.data.mean, before.data.std) == OPEN == own:
        return data, []  # a run of a version that took nothing from the weights
    if own == theirs:
        return data, []
    named = f"{_numbers(theirs[0])}, {_numbers(theirs[1])}"
    if own != OPEN:
        line = f"data.mean, data.std: {_numbers(own[0])}, {_numbers(own[1])} as the experiment says"
        return data, [f"{line}; {start} has {named}"]
    line = f"data.mean, data.std: taken from {start}: {named}"
    return replace(data, mean=theirs[0], std=theirs[1]), [line]


def _numbers(values: tuple[float, ...]) -> str:
    return f"({' '.join(f'{value:g}' for value in values)})"


Fits = dict[Data, image_folder.UsualFit]
"""The usual fits of image files, by what says which files they are."""


def _with_fit(data: Data, before: Experiment | None, fits: Fits) -> tuple[Data, list[str]]:
    kind = "folder" if data.name == "folder" else schemes.scheme_of(data) or ""
    usual_fit = {"folder": image_folder.usual_fit, "csv": schemes.usual_fit}.get(kind)
    if usual_fit is None or data.fit != "pad" or data.image_size is None:
        return data, []
    try:
        if data not in fits:
            fits[data] = usual_fit(data)
        fit, like = fits[data]
    except (InputError, OSError):
        return replace(data, fit=before.data.fit if before else data.fit), []
    if fit == "pad" or (before is not None and before.data == data):
        return data, []
    return replace(data, fit=fit), [f"data.fit: taken as {fit!r}, for images of {like}"]


def _recorded(folder: Path) -> Experiment | None:
    """Returns the experiment of the run that lies in a folder, if there is one to be read."""
    with contextlib.suppress(InputError, OSError):
        return run_folder.recorded(folder)
    return None


def vacant(
    planned: Callable[[Path], Sequence[Run]], folder: Path, say: Say, *, sweep: bool = False
) -> Path:
    """Returns a folder or, where a run of another config lies in it, one beside it.

    That is the one of NAME-2, NAME-3, ... in which runs of the same configs lie, which then go
    on, or else the first that is not there.

    Args:
        planned: the runs that are to be trained in a folder.
        folder: the folder to take if it is free.
        say: hears in one line why another folder is taken.
        sweep: whether the runs are the trials of a sweep.

    Raises:
        InputError: a run in the folder cannot be read.
    """
    fits: Fits = {}

    def changed(place: Path) -> list[str]:
        """Returns the fields in which the first run that differs from the one there does."""
        for run in put_aside(settled(planned(place), fits=fits), sweep=sweep):
            fields = [*run_folder.changed(run.folder, to_dict(run.experiment))]
            before = _recorded(run.folder)
            if before is not None and _other_files(before.data, run.experiment.data):
                fields.append("data.dir")
            if fields:
                return fields
        return []

    fields = changed(folder)
    if not fields:
        return folder
    numbers = processes.on_first(lambda: _numbers_beside(folder))
    free = next(number for number in itertools.count(2) if number not in numbers)
    for number in [*numbers, free]:
        chosen = folder.with_name(f"{folder.name}-{number}")
        if chosen.exists() and not chosen.is_dir():
            continue
        with contextlib.suppress(InputError, OSError):
            if number == free or not changed(chosen):
                break
    listed = ", ".join(fields[:4]) + (f" and {len(fields) - 4} more" if fields[4:] else "")
    held = "trials" if sweep else "a run"
    asked = "these are" if sweep or len(planned(folder)) > 1 else "this one is"
    say(f"{folder} holds {held} with another {listed}: {asked} in {chosen}")
    return chosen


def _other_files(a: Data, b: Data) -> bool:
    """Tells whether two configs name different folders of a user's, neither of which was moved."""
    own = b.name == "folder" or isinstance(b.name, Brought) or schemes.scheme_of(b) is not None
    if a.dir is None or b.dir is None or not own or str(a.name) != str(b.name):
        return False
    one, other = (Path(folder).expanduser() for folder in (a.dir, b.dir))
    return one.is_dir() and other.is_dir() and not one.samefile(other)


def _numbers_beside(folder: Path) -> list[int]:
    """Returns the numbers, from 2 on, of what lies beside a folder as NAME-NUMBER."""
    name = re.compile(re.escape(folder.name) + "-([2-9]|[1-9][0-9]{1,8})")
    found = (name.fullmatch(path.name) for path in folder.parent.iterdir())
    return sorted(int(number[1]) for number in found if number)
