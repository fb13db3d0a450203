"""What is shown on a terminal: what a training has to say as it goes, and tables."""

import contextlib
import math
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from jaxcnn.learning.selection import OPTIMISTIC, PREFIX, score
from jaxcnn.runs import rows
from jaxcnn.tasks import LOSS, Metric
from jaxcnn.text import draws, printable

WIDTH = 80
"""Lines have at most so many characters where no terminal says how many it has room for."""

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
    epochs: int = 0


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


class Listener:
    """Hears what a training has to say; this one shows nothing.

    Attributes:
        metrics: what the runs are judged by of which it hears; set before it hears of any.
    """

    metrics: Metrics = ()

    def message(self, text: str) -> None:
        """Hears a line about what happens."""

    def title(self, text: str) -> None:
        """Hears in a line or two what is trained in all; by default it is a message."""
        self.message(text)

    def heading(self, text: str) -> None:
        """Hears in a line or two what is trained from here on; by default it is a message."""
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

    def several(self, names: Sequence[str]) -> None:
        """Hears what the runs are called that are to be trained, where there are several."""

    def began(self, folder: Path, name: str = "", best: Record | None = None) -> None:
        """Hears that a run begins or goes on in its folder.

        Args:
            folder: the run folder.
            name: what its records call it, where it is one of several.
            best: its best record so far, where there is one.
        """

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

    def title(self, text: str) -> None:
        """Shows the lines."""
        self.shown.title(text)

    def heading(self, text: str) -> None:
        """Shows the lines."""
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

    def several(self, names: Sequence[str]) -> None:
        """Shows which runs there will be."""
        self.shown.several(names)

    def began(self, folder: Path, name: str = "", best: Record | None = None) -> None:
        """Shows the run, and has it tracked."""
        self.shown.began(folder, name, best)
        self.tracked.began(folder, name)

    def closed(self, folder: Path, diverged: str = "") -> None:
        """Has what the run has left tracked."""
        self.tracked.closed(folder, diverged)


class Pace:
    """Tells how long a run will go on, by the clock on the wall: evaluations and saving count.

    Attributes:
        left: about so many seconds; None where that is not known.
    """

    def __init__(self) -> None:
        self.left: float | None = None
        self._first = self._newest = (0.0, -1)

    def hear(self, progress: Progress) -> None:
        """Takes in how far the run is; one that has gone back is another run."""
        now = time.monotonic(), progress.step
        if self._newest[1] < 0 or now[1] <= self._newest[1]:
            self._first = now
        self._newest, done = now, now[1] - self._first[1]
        took = now[0] - self._first[0]
        self.left = took / done * (progress.total_steps - now[1]) if done else None


class Lines(Listener):
    """Prints messages, and what is found, as plain lines.

    Args:
        each_run: prints a line for each run, in place of headings and records.
        width: so many characters fit into a line.

    Attributes:
        labels: what runs are called on the screen, where that is not their name.
    """

    def __init__(self, each_run: bool = False, width: int = WIDTH) -> None:
        self.each_run = each_run
        self.labels: Mapping[str, str] = {}
        self._rows, self._pace = rows.Rows(width), Pace()
        self._best: dict[str, float] = {}

    def message(self, text: str) -> None:
        """Prints the line."""
        with contextlib.suppress(OSError):  # nobody reads on, or it is full: the training goes on
            print(text, flush=True)

    def line(self, line: rows.Line) -> None:
        """Prints a line of figures."""
        self.message(rows.plain(line))

    def heading(self, text: str) -> None:
        """Prints the line, unless each run has one."""
        if not self.each_run:
            self._rows.restart()
            self.title(text)

    def waiting(self, text: str, *, said: bool = True) -> contextlib.AbstractContextManager[Any]:
        """Prints the line before the wait."""
        if said and not self.each_run:
            self.message(text)
        return contextlib.nullcontext()

    def several(self, names: Sequence[str]) -> None:
        """Learns how much room their names take."""
        self._rows.names = max(len(self._label(name)) for name in names)

    def began(self, folder: Path, name: str = "", best: Record | None = None) -> None:
        """Learns what is the best of a run so far."""
        if not self.each_run:
            self._best.pop(name, None)  # of a run before that was called so
            if best:
                self._judge(name, best, self.metrics)

    def progress(self, progress: Progress) -> None:
        """Learns how fast the run is."""
        self._pace.hear(progress)

    def record(self, record: Record) -> None:
        """Prints the record as a line."""
        if self.each_run:
            return
        name = record.get("run", "")
        cells = rows.of_record(record, self.metrics, self._pace.left)
        best = self._judge(name, record, self.metrics)
        lead = f"epoch {record['epoch']:4d}"
        for line in self._rows.lines(lead, cells, best=best, name=self._label(name)):
            self.line(line)

    def ended(self, run: Ended) -> None:
        """Prints the result of the run, and how long the others will take."""
        if not self.each_run or run.result is None:
            return
        cells = rows.of_result(run.result, run.metrics, run.seconds_left)
        best = self._judge("", run.result, run.metrics, self._label(run.name))
        lead = f"run {run.done:{len(str(run.runs))}d} of {run.runs}"
        for line in self._rows.lines(lead, cells, best=best, name=self._label(run.name)):
            self.line(line)

    def _label(self, name: str) -> str:
        return printable(self.labels.get(name, name))

    def _judge(self, name: str, found: Record, metrics: Metrics, what: str = "") -> bool:
        """Tells whether something is the best so far of what is called so."""
        metric = (metrics or (LOSS,))[0]
        now = score(found, metric)
        if now <= self._best.get(name, -math.inf):
            return False
        self._best[name] = now
        if now == max(self._best.values()):
            epoch = "" if what else f"epoch {found['epoch']}"
            split = "validation" if f"val_{metric.name}" in found else "test"
            value = metric.shown(found[f"{PREFIX[split]}_{metric.name}"])
            said = self._label(name), what, epoch, f"{split} {metric.title} {value}"
            self.best_so_far(", ".join(filter(None, said)))
        return True

    def best_so_far(self, text: str) -> None:
        """Hears what is the best of all that was found so far."""


@contextlib.contextmanager
def display(each_run: bool = False) -> Iterator[Lines]:
    """Shows a training: in lines and, on a terminal, with a bar below them.

    Args:
        each_run: shows a line for each run, and how long all of them will take, in place of a line
            for each evaluation.
    """
    if not draws():
        room = shutil.get_terminal_size((WIDTH, 24)).columns if sys.stdout.isatty() else WIDTH
        yield Lines(each_run, room)
        return

    from jaxcnn.runs.terminal import on_terminal

    with on_terminal(console(), each_run) as shown:
        yield shown


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
    if not draws():
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


def show_result(text: str) -> None:
    """Prints what a training has come to; on a terminal the first line is bold."""
    if not draws():
        show(text)
        return
    from rich.text import Text

    first, end, others = printable(text, keep="\n").partition("\n")
    console().print(Text.assemble((first, "bold"), end, others))


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
    colours: Any = None if os.environ.get("NO_COLOR") else "auto"  # nor bold type without them
    return Plain(width=width, markup=False, emoji=False, highlight=False, color_system=colours)


def of_best(summary: Mapping[str, Any], metric: Metric) -> str:
    """Returns the line on the best checkpoint, and by which examples it was chosen."""
    found = f"best epoch {summary['best_epoch']}: "
    name, title = metric.name, metric.title
    test, validation = (summary.get(f"best_{prefix}_{name}") for prefix in ("test", "val"))
    if validation is None:
        reached = "" if test is None else f"{title} {metric.shown(test)}, "
        return f"{found}{reached}{OPTIMISTIC}"
    known = "" if test is None else f", test {title} {metric.shown(test)}"
    return f"{found}validation {title} {metric.shown(validation)}{known}"
