"""What is shown on a terminal: what a training has to say as it goes, and tables."""

import contextlib
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from jaxcnn.text import printable
from jaxcnn.train.selection import PREFIX

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


class Listener:
    """Hears what a training has to say; this one shows nothing."""

    def message(self, text: str) -> None:
        """Hears a line about what happens."""

    def progress(self, progress: Progress) -> None:
        """Hears after every chunk of steps how far the run is."""

    def record(self, record: Record) -> None:
        """Hears after every evaluation what it found; ``run`` names one of several runs."""


class Lines(Listener):
    """Prints messages and records as plain lines."""

    def message(self, text: str) -> None:
        """Prints the line."""
        with contextlib.suppress(OSError):  # nobody reads on, or it is full: the training goes on
            print(text, flush=True)

    def record(self, record: Record) -> None:
        """Prints the record as a line."""
        words = [f"epoch {record['epoch']:4d}", f"step {record['step']:6d}"]
        words[:0] = [record["run"]] if "run" in record else []
        for split, prefix in PREFIX.items():
            if f"{prefix}_loss" in record:  # a record that was lost and made anew has less
                loss, top1 = record[f"{prefix}_loss"], record[f"{prefix}_top1"]
                words.append(f"{split} loss {loss:.4f} top-1 {top1:7.2%}")
        if "images_per_sec" in record:
            words.append(f"{record['images_per_sec']:9,.0f} images/s")
        self.message("  ".join(words))


@contextlib.contextmanager
def display() -> Iterator[Listener]:
    """Shows a training: with a progress bar on a terminal, in plain lines elsewhere."""
    if not sys.stdout.isatty():
        yield Lines()
        return

    from rich.progress import BarColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    bar = Bar(
        TextColumn("epoch {task.fields[epoch]}"),
        BarColumn(bar_width=None),
        TextColumn("{task.percentage:3.0f}%"),
        TextColumn("loss {task.fields[loss]:.4f}"),
        TextColumn("top-1 {task.fields[top1]:.2%}"),
        TextColumn("{task.fields[rate]:,.0f} images/s"),
        TimeRemainingColumn(),
        console=console(),
        transient=True,
    )

    class Live(Lines):
        task: Any = None

        def message(self, text: str) -> None:
            bar.console.print(text, soft_wrap=True)

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

    with bar:
        yield Live()


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
