"""How the runs in a folder stand, read from their folders alone."""

import math
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from jaxcnn.analysis import formats, tables
from jaxcnn.errors import InputError
from jaxcnn.learning import run_folder, selection, standing
from jaxcnn.learning.records import plain
from jaxcnn.tasks import LOSS, Metric
from jaxcnn.text import counted

if TYPE_CHECKING:
    from rich.console import Group

State = Literal["running", "stopped", "waiting", "pruned", "diverged", "failed", "finished"]
"""A run that is stopped has checkpoints, and goes on from there; one that waits has none yet."""
ORDER: Sequence[State] = (
    *("running", "failed", "diverged", "stopped", "waiting", "pruned", "finished"),
)
"""In this order the states are counted, and shown where not all runs have room."""

LINES_AROUND = 9
"""The lines around the rows of the table: of its frame and headers, two below, a reason or two."""


@dataclass(frozen=True)
class Status:
    """How a run stands.

    Attributes:
        name: see :func:`within`.
        state: see :data:`State`.
        epoch: epochs done; None where that is not known.
        epochs: those that the experiment asks for.
        step: steps done, where that is known.
        images_per_sec: the speed at which it runs, or ran on the whole.
        seconds_left: about how long it will go on running.
        figure: what it was found to reach last, with the split: the test set, once it is finished.
        host: the machine on which it runs, where that is known.
        reason: why it has failed.
        score: the higher, the better is what it has reached, by the split that is chosen by.
    """

    name: str
    state: State
    epoch: int | None = None
    epochs: int | None = None
    step: int | None = None
    images_per_sec: float | None = None
    seconds_left: float | None = None
    figure: str = ""
    host: str = ""
    reason: str = ""
    score: float = -math.inf


def read_all(folder: Path) -> list[Status]:
    """Reads how every run in a folder stands; see :func:`within`."""
    return [read(path, name) for name, path in within(folder).items()]


def within(folder: Path) -> dict[str, Path]:
    """Returns the runs in a folder, or itself, in the order in which they are to be trained.

    Returns:
        Folders by their names: as seen from that which was asked for; its own, if it is the run.

    Raises:
        InputError: the folder neither is nor holds a run.
    """
    planned = [os.path.relpath(path, folder) for path in standing.planned_within(folder)]
    found = [os.path.relpath(path, folder) for path in run_folder.within(folder)]
    names = dict.fromkeys([*planned, *found])
    if not names:
        raise InputError(f"{folder}: neither is nor holds a run folder (one with config.json)")
    own = folder.resolve().name
    return {own if name == os.curdir else name: folder / name for name in names}


def read(path: Path, name: str) -> Status:
    """Reads how a run stands; what is damaged there counts as its failure."""
    try:
        return _read(path, name)
    except InputError as error:
        return Status(name, "failed", reason=str(error))


def _read(path: Path, name: str) -> Status:
    taken = standing.is_taken(path)
    if not (path / "config.json").exists():
        return Status(name, "running" if taken else "waiting")
    experiment, metric = run_folder.read_config(path), run_folder.judged(path).metrics[0]
    epochs, fault = experiment.train.epochs, standing.fault(path)
    if (path / "summary.json").exists() and not taken:
        result = run_folder.read_summary(path)
        figure = _figure(plain(result), metric, ("test",))
        speed = result.images_per_sec
        found = Status(name, "finished", result.epochs, epochs, result.step, speed, figure=figure)
        return replace(found, score=selection.score(plain(result), metric))
    records = run_folder.evaluations(path, damaged_too=True)
    last = plain(records[-1]) if records else {}
    epoch, step = last.get("epoch"), last.get("step")
    figure, speed = _figure(last, metric, ("val", "test")), last.get("images_per_sec")
    score = selection.score(last, metric)
    if taken:
        running = Status(name, "running", epoch, epochs, step, speed, figure=figure, score=score)
        now = standing.progress(path)
        if now is None:
            return running
        return replace(
            running,
            epoch=max(now.epoch, epoch or 0),
            step=max(now.step, step or 0),
            images_per_sec=now.images_per_sec,
            seconds_left=now.seconds_left,
            host=now.host,
        )
    reason = "" if fault is None else fault.reason
    state: State = "waiting" if fault is None else fault.ended
    if fault is None and run_folder.newest_step(path) is not None:
        state, step = "stopped", run_folder.newest_step(path)
    return Status(name, state, epoch, epochs, step, figure=figure, reason=reason, score=score)


def _figure(record: dict[str, float], metric: Metric, prefixes: Sequence[str]) -> str:
    """Returns what a record says of the first split that it tells of, by a metric or the loss."""
    splits = {"val": "validation", "test": "test"}
    for prefix in prefixes:
        for kind in (metric, LOSS):
            if f"{prefix}_{kind.name}" in record:
                found = formats.value(kind, record[f"{prefix}_{kind.name}"])
                return f"{splits[prefix]} {kind.title} {found}"
    return ""


def go_on(found: Sequence[Status]) -> bool:
    """Tells whether a run is running, or waits for its turn."""
    return any(one.state in ("running", "waiting") for one in found)


def seconds_left(found: Sequence[Status]) -> float | None:
    """Returns about how long all runs will go on, where those that are running tell how long.

    Those that wait are taken to last as long as those that run, as many at a time as now.
    """
    left = [one.seconds_left for one in found if one.seconds_left is not None]
    waiting = sum(one.state == "waiting" for one in found)
    whole = [
        one.seconds_left * one.epochs / (one.epochs - (one.epoch or 0))
        for one in found
        if one.seconds_left is not None and one.epochs and (one.epoch or 0) < one.epochs
    ]
    if not left or (waiting and not whole):
        return None
    later = waiting * sum(whole) / len(whole) if waiting else 0.0
    return max(max(left), (sum(left) + later) / len(left))


def best(found: Sequence[Status]) -> str:
    """Names the run that has reached most so far; nothing where none of several has."""
    first = max(found, key=lambda one: one.score)
    return f"best so far: {first.name}, {first.figure}" if len(found) > 1 and first.figure else ""


def summary(found: Sequence[Status]) -> str:
    """Returns a line that counts the runs by their states.

    >>> summary([Status("a", "finished"), Status("b", "running"), Status("c", "finished")])
    '3 runs: 1 running, 2 finished'
    """
    count = Counter(one.state for one in found)
    parts = [f"{count[state]} {state}" for state in ORDER if count[state]]
    return f"{counted(len(found), 'run')}: {', '.join(parts)}"


def render(found: Sequence[Status], width: int, lines: int | None = None) -> "Group":
    """Lays out how runs stand for a terminal, with lines below on why some failed, and how many.

    Args:
        found: the runs.
        width: columns of the terminal.
        lines: those of the terminal. Where they are too few, the runs are shown that matter most;
            None shows all.
    """
    from rich.console import Group

    shown = list(found)
    rows = len(shown) if lines is None else max(1, lines - LINES_AROUND)
    if len(shown) > rows:
        shown = sorted(shown, key=lambda one: ORDER.index(one.state))[:rows]
    left_out = f"; {len(found) - len(shown)} are not shown" if len(shown) < len(found) else ""
    titles = ("run", "state", "epoch", "step", "images/s", "left", "reached", "on")
    cells = [
        [
            one.name,
            one.state,
            "" if one.epoch is None else f"{one.epoch} of {one.epochs}",
            "" if one.step is None else f"{one.step:,}",
            "" if one.images_per_sec is None else f"{one.images_per_sec:,.0f}",
            "" if one.seconds_left is None else formats.duration(one.seconds_left),
            one.figure,
            one.host,
        ]
        for one in shown
    ]
    kept = [i for i, _ in enumerate(titles) if any(row[i] for row in cells)]
    table = tables.laid_out(
        [titles[i] for i in kept],
        [[row[i] for i in kept] for row in cells],
        width,
        title="",
        caption="",
    )
    reasons = [f"{one.name}: {one.reason}" for one in shown if one.reason]
    left = seconds_left(found)
    said = f", {formats.duration(left)} left" if left else ""
    below = [*reasons, best(found), summary(found) + said + left_out]
    return Group(table, *filter(None, below))
