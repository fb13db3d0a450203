"""What is shown on a terminal: what a training has to say as it goes, and tables."""

import contextlib
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from jaxcnn.analysis import formats
from jaxcnn.learning.selection import PREFIX
from jaxcnn.text import printable

Record = dict[str, Any]
"""A line of metrics.jsonl: what an evaluation found, with how far and how fast the run is."""


@dataclass(frozen=True)
class Progress:
    """How far a run is, with loss (nats), top-1 and speed of training since the last record."""

    step: int
    total_steps: int
    epoch: int
    train_loss: float
    train_top1: float
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
    """

    name: str
    result: Record | None
    done: int
    runs: int
    seconds_left: float

    def __str__(self) -> str:
        """Names the run and its result in a line."""
        line = f"run {self.done:{len(str(self.runs))}d} of {self.runs}: {self.name}"
        found = self.result
        if found is None:
            return line
        figures = f"top-1 {found['test_top1']:.2%}, loss {found['test_loss']:.4f}"
        return f"{line}: test {figures}, {found['seconds']:.1f} s"

    @property
    def left(self) -> str:
        """How long the others will take, in words; empty where there are none."""
        return "" if not self.seconds_left else f"{formats.duration(self.seconds_left)} left"


class Listener:
    """Hears what a training has to say; this one shows nothing."""

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
                loss, top1 = record[f"{prefix}_loss"], record[f"{prefix}_top1"]
                words[split] = f"{split} loss {loss:.4f} top-1 {top1:7.2%}"
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
        TextColumn("top-1 {task.fields[top1]:.2%}"),
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
                    "", total=progress.total_steps, epoch=0, loss=0.0, top1=0.0, rate=0.0
                )
            bar.update(
                self.task,
                total=progress.total_steps,  # another run's, where several follow one another
                completed=progress.step,
                epoch=progress.epoch,
                loss=progress.train_loss,
                top1=progress.train_top1,
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


def show(text: str) -> None:
    """Prints a text on stdout; on a terminal its lines are broken between words."""
    if sys.stdout.isatty():
        console().print(text)
    else:
        print(text)


def reached(result: Mapping[str, Any], classes: int, split: str = "test") -> str:
    """Says what a network has reached on a split; all but few classes are among the top 5."""
    top1, top5, loss = (result[f"{PREFIX[split]}_{name}"] for name in ("top1", "top5", "loss"))
    of_five = f"top-5 {top5:.2%}, " if classes > 5 else ""
    return f"{split} top-1 {top1:.2%}, {of_five}loss {loss:.4f}"


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
