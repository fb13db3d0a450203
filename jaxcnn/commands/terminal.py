"""What the commands show: a live display on a terminal, plain lines when piped, tables."""

import contextlib
import os
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jaxcnn.runs import training as run
    from jaxcnn.train import loop


@contextlib.contextmanager
def display() -> "Iterator[run.Listener]":
    """A live display on a terminal, plain lines when piped."""
    from jaxcnn.runs import training as run

    class Lines(run.Listener):
        def message(self, text: str) -> None:
            try:
                print(text, flush=True)
            except BrokenPipeError:  # nobody reads on, as after `| head`: the training goes on
                os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())

        def record(self, record: "loop.Record") -> None:
            run = f"{record['run']}  " if "run" in record else ""
            self.message(
                f"{run}epoch {record['epoch']:4d}  step {record['step']:6d}  "
                f"train loss {record['train_loss']:.4f} top-1 {record['train_top1']:7.2%}  "
                f"test loss {record['test_loss']:.4f} top-1 {record['test_top1']:7.2%}  "
                f"{record['images_per_sec']:9,.0f} images/s"
            )

    if not sys.stdout.isatty():
        yield Lines()
        return

    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    bar = Progress(
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

        def progress(self, progress: "loop.Progress") -> None:
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
    """A console that does not wrap tables where there is no terminal to wrap them for."""
    from rich.console import Console

    return Console() if sys.stdout.isatty() else Console(width=160)
