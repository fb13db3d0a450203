"""What is shown on a terminal: what a training has to say as it goes, and tables."""

import contextlib
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from jaxcnn.analysis import formats
from jaxcnn.learning.selection import OPTIMISTIC, PREFIX
from jaxcnn.tasks import LOSS, Metric
from jaxcnn.text import printable

Metrics = Sequence[Metric]
Record = dict[str, Any]
"""A line of metrics.jsonl: what an evaluation found, with how far and how fast the run is."""


@dataclass(frozen=True)
class Progress:
    """How far a run is, with loss, metrics and speed of training since the last record."""

    step: int
    total_steps: int
    epoch: int
    train: Mapping[str, float]
    images_per_sec: float


@dataclass(frozen=True)
class Ended:
    """One of several runs has ended.

    Attributes:
        name: what it is called among them.
        result: what summary.json holds; None of a run that diverged or was refused.
        done: how many have ended.
        runs: how many there are.
        seconds_left: about how long the others will take.
        metrics: what it is judged by.
    """

    name: str
    result: Record | None
    done: int
    runs: int
    seconds_left: float
    metrics: Metrics = ()

    def __str__(self) -> str:
        """Names the run and its result in a line."""
        line = f"run {self.done:{len(str(self.runs))}d} of {self.runs}: {self.name}"
        found = self.result
        if found is None:
            return line
        return f"{line}: {reached(found, self.metrics[:1])}, {found['seconds']:.1f} s"

    @property
    def left(self) -> str:
        """How long the others will take, in words; empty where there are none."""
        return "" if not self.seconds_left else f"{formats.duration(self.seconds_left)} left"


class Listener:
    """Hears what a training has to say; this one shows nothing.

    Attributes:
        metrics: what the runs are judged by of which it hears; set before it hears of any.
    """

    metrics: Metrics = ()

    def message(self, text: str) -> None:
        """Hears a line about what happens."""

    def heading(self, text: str) -> None:
        """Hears a line about what is trained from here on; by default it is a message."""
        self.message(text)

    def waiting(self, text: str, *, said: bool = True) -> contextlib.AbstractContextManager[Any]:
        """Hears what will take a while, and that it is over when the context is left.

        Args:
            text: a line about it.
            said: whether the line is of interest where no terminal shows how time goes by.
        """
        return contextlib.nullcontext()

    def progress(self, progress: Progress) -> None:
        """Hears after every chunk of steps how far the run is."""

    def record(self, record: Record) -> None:
        """Hears after every evaluation what it found; ``run`` names one of several runs."""

    def ended(self, run: Ended) -> None:
        """Hears that one of several runs has ended."""

    def began(self, folder: Path, name: str = "") -> None:
        """Hears that a run begins or goes on in its folder; records of one of several name it."""

    def closed(self, folder: Path, diverged: str = "") -> None:
        """Hears that nothing more is written into a run folder.

        Args:
            folder: the run folder.
            diverged: why, if the run has diverged or was pruned; else it is finished, now or since
                long.
        """

    def page(self, folder: Path, names: Sequence[str]) -> None:
        """Hears which files in a folder tell of all runs together."""


class Both(Listener):
    """Lets a tracker hear what a display hears.

    Args:
        shown: the display.
        tracked: hears of records and folders too.
    """

    def __init__(self, shown: Listener, tracked: Listener) -> None:
        self.shown, self.tracked = shown, tracked

    @property
    def metrics(self) -> Metrics:
        """What the display shows the runs to be judged by."""
        return self.shown.metrics

    @metrics.setter
    def metrics(self, metrics: Metrics) -> None:
        self.shown.metrics = metrics

    def message(self, text: str) -> None:
        """Shows the line."""
        self.shown.message(text)

    def heading(self, text: str) -> None:
        """Shows the line."""
        self.shown.heading(text)

    def waiting(self, text: str, *, said: bool = True) -> contextlib.AbstractContextManager[Any]:
        """Shows the wait."""
        return self.shown.waiting(text, said=said)

    def progress(self, progress: Progress) -> None:
        """Shows how far the run is."""
        self.shown.progress(progress)

    def record(self, record: Record) -> None:
        """Shows and tracks the record."""
        self.shown.record(record)
        self.tracked.record(record)

    def ended(self, run: Ended) -> None:
        """Shows that the run has ended."""
        self.shown.ended(run)

    def began(self, folder: Path, name: str = "") -> None:
        """Has the run tracked."""
        self.tracked.began(folder, name)

    def closed(self, folder: Path, diverged: str = "") -> None:
        """Has what the run has left tracked."""
        self.tracked.closed(folder, diverged)


class Lines(Listener):
    """Prints messages and records as plain lines.

    Args:
        each_run: prints a line for each run, in place of headings and records.
        width: where a record is longer, it is shortened; None prints all of it.
    """

    def __init__(self, each_run: bool = False, width: int | None = None) -> None:
        self.each_run, self.width = each_run, width

    def message(self, text: str) -> None:
        """Prints the line."""
        with contextlib.suppress(OSError):  # nobody reads on, or it is full: the training goes on
            print(text, flush=True)

    def heading(self, text: str) -> None:
        """Prints the line, unless each run has one."""
        if not self.each_run:
            self.message(text)

    def waiting(self, text: str, *, said: bool = True) -> contextlib.AbstractContextManager[Any]:
        """Prints the line before the wait."""
        if said and not self.each_run:
            self.message(text)
        return contextlib.nullcontext()

    def record(self, record: Record) -> None:
        """Prints the record as a line."""
        if self.each_run:
            return
        words = {"run": record.get("run", ""), "epoch": f"epoch {record['epoch']:4d}"}
        words["step"] = f"step {record['step']:6d}"
        for split, prefix in PREFIX.items():
            if f"{prefix}_loss" in record:  # a record that was lost and made anew has less
                figures = {
                    m: record[f"{prefix}_{m.name}"]
                    for m in self.metrics[:1]
                    if f"{prefix}_{m.name}" in record and m != LOSS
                }
                shown = "".join(f" {m.title} {m.shown(v):>7}" for m, v in figures.items())
                words[split] = f"{split} loss {record[f'{prefix}_loss']:.4f}{shown}"
        if "images_per_sec" in record:
            words["speed"] = f"{record['images_per_sec']:9,.0f} images/s"
        for dispensable in ("speed", "step", "train"):
            if self.width is not None and len(_joined(words)) > self.width:
                words[dispensable] = ""
        self.message(_joined(words))

    def ended(self, run: Ended) -> None:
        """Prints the result of the run, and how long the others will take."""
        if self.each_run and run.result is not None:
            self.message(f"{run}; {run.left}" if run.left else f"{run}")


def _joined(words: Mapping[str, str]) -> str:
    return "  ".join(filter(None, words.values()))


@contextlib.contextmanager
def display(each_run: bool = False) -> Iterator[Listener]:
    """Shows a training: with progress bars on a terminal, in plain lines elsewhere.

    Args:
        each_run: shows a line for each run, and how long all of them will take, in place of a line
            for each evaluation.
    """
    if not sys.stdout.isatty():
        yield Lines(each_run)
        return

    from rich.console import Group
    from rich.live import Live
    from rich.progress import (
        BarColumn,
        SpinnerColumn,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )
    from rich.progress import Progress as Bar

    screen = console()
    text = TextColumn("{task.description}", markup=False)
    waits = Bar(SpinnerColumn(), text, TimeElapsedColumn(), console=screen)
    bar = Bar(
        TextColumn("epoch {task.fields[epoch]}"),
        BarColumn(bar_width=None),
        TextColumn("{task.percentage:3.0f}%"),
        TextColumn("loss {task.fields[loss]:.4f}"),
        TextColumn("{task.fields[figure]}"),
        TextColumn("{task.fields[rate]:,.0f} images/s"),
        TimeRemainingColumn(),
        console=screen,
    )
    total = Bar(
        TextColumn("{task.completed:.0f} of {task.total:.0f} runs"),
        BarColumn(bar_width=None),
        text,
        console=screen,
    )

    class OnTerminal(Lines):
        task: Any = None
        all: Any = None

        def message(self, text: str) -> None:
            screen.print(text)

        @contextlib.contextmanager
        def waiting(self, text: str, *, said: bool = True) -> Iterator[None]:
            task = waits.add_task(text, total=None)
            try:
                yield
            finally:
                waits.remove_task(task)

        def progress(self, progress: Progress) -> None:
            if self.task is None:
                self.task = bar.add_task(
                    "", total=progress.total_steps, epoch=0, loss=0.0, figure="", rate=0.0
                )
            known = [m for m in self.metrics[:1] if m.name in progress.train and m != LOSS]
            bar.update(
                self.task,
                total=progress.total_steps,  # another run's, where several follow one another
                completed=progress.step,
                epoch=progress.epoch,
                loss=progress.train["loss"],
                figure=" ".join(f"{m.title} {m.shown(progress.train[m.name])}" for m in known),
                rate=progress.images_per_sec,
            )

        def ended(self, run: Ended) -> None:
            if self.each_run and run.result is not None:
                self.message(f"{run}")
            if self.all is None:
                self.all = total.add_task("", total=run.runs)
            total.update(self.all, completed=run.done, description=run.left)

    with Live(
        Group(waits, bar, total),
        console=screen,
        transient=True,
        refresh_per_second=8,
        redirect_stdout=False,  # all that is said goes through the screen
        redirect_stderr=sys.stderr.isatty(),
    ):
        yield OnTerminal(each_run, screen.width)


class Watch(NamedTuple):
    """What :func:`watching` lets do meanwhile."""

    look: Callable[[], None]
    """Shows it anew, if it is time."""
    say: Callable[[str], object]
    """Prints a line above it."""


@contextlib.contextmanager
def watching(
    render: Callable[[int, int], Any], say: Callable[[str], object] = print, every: float = 1.0
) -> Iterator[Watch]:
    """Shows on a terminal what changes; elsewhere nothing.

    Args:
        render: returns what is shown, for so many columns and lines.
        say: prints a line where there is no terminal.
        every: seconds between two looks.
    """
    if not sys.stdout.isatty():
        yield Watch(lambda: None, say)
        return

    from rich.live import Live

    screen, looked = console(), 0.0
    with Live(console=screen, auto_refresh=False, redirect_stdout=False) as live:

        def look() -> None:
            nonlocal looked
            if time.monotonic() - looked >= every:
                live.update(render(screen.width, screen.height), refresh=True)
                looked = time.monotonic()

        yield Watch(look, screen.print)


def show(text: str) -> None:
    """Prints a text on stdout; on a terminal its lines are broken between words."""
    if sys.stdout.isatty():
        console().print(text)
    else:
        print(text)


def reached(result: Mapping[str, Any], metrics: Metrics, split: str = "test") -> str:
    """Says what a network has reached on a split, by what it is judged by."""
    prefix = PREFIX[split]
    figures = [
        f"{metric.title} {metric.shown(result[f'{prefix}_{metric.name}'])}"
        for metric in metrics
        if metric != LOSS
    ]
    loss = f"loss {result[f'{prefix}_loss']:.4f}"
    return f"{split} {', '.join([*figures, loss])}"


def console() -> Any:
    """Returns a console that does not wrap tables where there is no terminal to wrap them for.

    It shows every text as it is: nothing in a name is a mark, a picture or a command to the
    terminal.
    """
    from rich.console import Console

    class Plain(Console):
        def render_str(self, text: str, **settings: Any) -> Any:
            return super().render_str(printable(text, keep="\n"), **settings)

        def on_broken_pipe(self) -> None:
            raise BrokenPipeError

    width = None if sys.stdout.isatty() else 160
    return Plain(width=width, markup=False, emoji=False, highlight=False)


def of_best(summary: Mapping[str, Any], metric: Metric) -> str:
    """Returns the line on the best checkpoint, and by which examples it was chosen."""
    found = f"best epoch {summary['best_epoch']}: "
    name, title = metric.name, metric.title
    test, validation = (summary.get(f"best_{prefix}_{name}") for prefix in ("test", "val"))
    known = "" if test is None else f"test {title} {metric.shown(test)}"
    if validation is None:
        return f"{found}{known}, {OPTIMISTIC}"
    return f"{found}validation {title} {metric.shown(validation)}{', ' * bool(known)}{known}"
