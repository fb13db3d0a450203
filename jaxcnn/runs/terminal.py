"""What a terminal shows of a training: its lines, and below them how far it is."""

import contextlib
import sys
import time
from collections.abc import Iterator, Sequence
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bar
from rich.text import Text

from jaxcnn.analysis import formats
from jaxcnn.runs import rows
from jaxcnn.runs.display import Ended, Lines, Progress
from jaxcnn.tasks import LOSS
from jaxcnn.text import printable

BAR = 20
"""The columns of the bars."""


class OnTerminal(Lines):
    """Prints lines above what changes: waits, the run, all runs, and the best so far.

    Args:
        screen: the terminal.
        each_run: as :class:`~jaxcnn.runs.display.Lines` takes it.
    """

    def __init__(self, screen: Console, each_run: bool) -> None:
        super().__init__(each_run, screen.width)
        self._screen = screen
        text = TextColumn("{task.description}", markup=False)
        done = "cyan"
        bar = (
            BarColumn(BAR, complete_style=done, finished_style=done),
            TextColumn("{task.percentage:3.0f}%"),
        )
        self._waits = Bar(SpinnerColumn(), text, TimeElapsedColumn(), console=screen)
        self._bars = Bar(
            TextColumn("{task.fields[what]}", markup=False), *bar, text, console=screen
        )
        self._run = self._bars.add_task("", what="", visible=False)
        self._all: Any = None
        self._ended, self._ends = 0, 0.0
        self._now = self._top = Text()

    def __rich__(self) -> Group:
        """Returns what is below the lines."""
        below = [self._now] if self.each_run and self._now else []
        return Group(self._waits, *below, self._bars, *([self._top] if self._top else []))

    def message(self, text: str) -> None:
        """Prints the line above what changes."""
        self._screen.print(text)

    def line(self, line: rows.Line) -> None:
        """Prints a line of figures above what changes."""
        self._screen.print(Text.assemble(*line))

    def title(self, text: str) -> None:
        """Prints the lines, the first of them bold."""
        first, end, others = printable(text, keep="\n").partition("\n")
        self._screen.print(Text.assemble((first, "bold"), end, others))

    def heading(self, text: str) -> None:
        """Prints the lines; where each run has one, their first is below."""
        super().heading(text)
        if self.each_run:
            first = printable(text, keep="\n").partition("\n")[0]
            self._bars.update(self._run, visible=False)  # that of the run before
            self._now = Text(first, style="dim", no_wrap=True, overflow="ellipsis")

    @contextlib.contextmanager
    def waiting(self, text: str, *, said: bool = True) -> Iterator[None]:
        """Shows the wait, and for how long it has lasted, until it is over."""
        task = self._waits.add_task(printable(text), total=None)
        try:
            yield
        finally:
            self._waits.remove_task(task)

    def several(self, names: Sequence[str]) -> None:
        """Shows how many of them have ended."""
        super().several(names)
        if self.each_run and self._all is None:
            what = f"{self._ended} of {len(names)} runs"
            self._all = self._bars.add_task("", total=len(names), what=what)

    def progress(self, progress: Progress) -> None:
        """Shows how far the run is, and with it all runs."""
        super().progress(progress)
        figures = {"loss": LOSS} | {metric.name: metric for metric in self.metrics[:1]}
        said = [
            f"{metric.title} {metric.shown(progress.train[name])}"
            for name, metric in figures.items()
            if name in progress.train
        ]
        said.append(_left(self._pace.left))
        done = progress.step / progress.total_steps
        self._bars.update(
            self._run,
            visible=True,
            total=progress.total_steps,  # another run's, where several follow one another
            completed=progress.step,
            what=f"epoch {progress.epoch} of {progress.epochs}",
            description="  ".join(filter(None, said)),
        )
        if self._all is not None:
            left = _left(self._ends - time.monotonic())
            self._bars.update(self._all, completed=self._ended + done, description=left)

    def ended(self, run: Ended) -> None:
        """Prints the result of the run, and shows how many have ended."""
        super().ended(run)
        self._ended, self._ends = run.done, time.monotonic() + run.seconds_left
        if self._all is not None:
            what, left = f"{run.done} of {run.runs} runs", _left(run.seconds_left)
            self._bars.update(
                self._all, total=run.runs, completed=run.done, what=what, description=left
            )

    def best_so_far(self, text: str) -> None:
        """Shows it below all else."""
        self._top = Text(f"best so far: {text}", style=rows.BEST)


def _left(seconds: float | None) -> str:
    return f"{formats.duration(seconds)} left" if seconds and seconds > 0 else ""


@contextlib.contextmanager
def on_terminal(screen: Console, each_run: bool) -> Iterator[OnTerminal]:
    """Shows a training on a terminal."""
    shown = OnTerminal(screen, each_run)
    with Live(
        shown,
        console=screen,
        transient=True,
        refresh_per_second=8,
        redirect_stdout=False,  # all that is said goes through the screen
        redirect_stderr=sys.stderr.isatty(),
    ):
        yield shown
