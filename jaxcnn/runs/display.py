"""What is shown on a terminal: what a training has to say as it goes, and tables."""

import contextlib
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

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
        try:
            print(text, flush=True)
        except OSError:  # nobody reads on, as after `| head`, or it is full: the training goes on
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())

    def record(self, record: Record) -> None:
        """Prints the record as a line."""
        words = [f"epoch {record['epoch']:4d}", f"step {record['step']:6d}"]
        words[:0] = [record["run"]] if "run" in record else []
        for split in ("train", "test"):
            if f"{split}_loss" in record:  # a record that was lost and made anew has less
                loss, top1 = record[f"{split}_loss"], record[f"{split}_top1"]
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
        transient=True,
    )

    class Live(Lines):
        task: Any = None

        def message(self, text: str) -> None:
            bar.console.print(text, highlight=False, markup=False, soft_wrap=True)

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
    """Returns a console that does not wrap tables where there is no terminal to wrap them for."""
    from rich.console import Console

    return Console() if sys.stdout.isatty() else Console(width=160)
