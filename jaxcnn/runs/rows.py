"""The lines in which trainings say how they go: the same figures, in columns that fit a screen."""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from jaxcnn.analysis import formats
from jaxcnn.learning.selection import PREFIX
from jaxcnn.tasks import LOSS, Metric

TITLES_EVERY = 40
"""After so many lines their titles are repeated, for those who see the end of a long log."""

Span = tuple[str, str]
"""A part of a line, and the style in which a terminal shows it."""
Line = Sequence[Span]

TITLE, BEST = "dim", "bold green"
MARK = "best"


@dataclass(frozen=True)
class Cell:
    """A figure in a line.

    Attributes:
        title: what it is, which stands above it.
        text: the figure.
        over: what it is a figure of, which stands once above the titles of neighbours that share
            it.
        spare: where a line has no room, the cells with the largest number are left out first;
            those with 0 stay.
        least: the width of the column, where its title is no wider.
    """

    title: str
    text: str
    over: str = ""
    spare: int = 0
    least: int = 7

    @property
    def width(self) -> int:
        """The width of the column, whatever figures are in it."""
        return max(self.least, len(self.title))


class Rows:
    """Lays figures out in lines, under titles that come before the first of them.

    Args:
        width: so many characters fit into a line.
    """

    def __init__(self, width: int) -> None:
        self.width = width
        self.names = 0
        """The length of the longest name that a line may end with."""
        self._titles: object = None
        self._lines = 0

    def restart(self) -> None:
        """Has the titles repeated before the next line."""
        self._titles = None

    def lines(
        self, lead: str, cells: Sequence[Cell], *, best: bool, name: str = ""
    ) -> Iterator[Line]:
        """Yields a line, after lines of titles where they are due.

        Args:
            lead: what the line begins with.
            cells: its figures.
            best: whether they are the best so far.
            name: what the line ends with.
        """
        self.names = max(self.names, len(name))
        cells = self._fitting(len(lead), cells)
        titles = len(lead), [(cell.over, cell.title, cell.width) for cell in cells]
        if titles != self._titles or self._lines == TITLES_EVERY:
            yield from _titles(len(lead), cells)
            self._titles, self._lines = titles, 0
        self._lines += 1
        figures = "".join(f"  {cell.text:>{cell.width}}" for cell in cells)
        mark = MARK if best else " " * len(MARK) * bool(name)
        yield [(lead + figures, ""), (f"  {mark}", BEST), (f"  {name}", "")]

    def _fitting(self, lead: int, cells: Sequence[Cell]) -> Sequence[Cell]:
        """Returns the cells that a line has room for."""
        room = self.width - lead - len(f"  {MARK}") - (2 + self.names if self.names else 0)
        kept = list(cells)
        while sum(2 + cell.width for cell in kept) > room:
            least = max(kept, key=lambda cell: cell.spare)
            if not least.spare:
                break
            kept.remove(least)
        return kept


def _titles(lead: int, cells: Sequence[Cell]) -> Iterator[Line]:
    """Yields the lines of titles: what neighbours are figures of, and what each of them is."""
    over = " " * lead
    for name, same in itertools.groupby(cells, lambda cell: cell.over):
        span = sum(2 + cell.width for cell in same) - 2
        over += f"  {name:^{span}}"
    yield [(over, TITLE)]
    yield [(" " * lead + "".join(f"  {cell.title:>{cell.width}}" for cell in cells), TITLE)]


def plain(line: Line) -> str:
    """Returns a line without styles."""
    return "".join(text for text, _ in line).rstrip()


def of_record(
    record: Mapping[str, Any], metrics: Sequence[Metric], left: float | None
) -> Sequence[Cell]:
    """Returns the figures of an evaluation.

    Args:
        record: what the evaluation found.
        metrics: what the run is judged by, of which the first is shown beside the loss.
        left: about how many seconds the run will take, where that is known.
    """
    chosen = "validation" if any(key.startswith("val_") for key in record) else "test"
    speed = f"{record['images_per_sec']:,.0f}" if "images_per_sec" in record else ""
    return [
        *_figures(record, metrics, "train", loss=3, metric=2),
        *_figures(record, metrics, chosen, loss=0, metric=0),
        Cell("images/s", speed, spare=4, least=9),
        Cell("time left", _duration(left), spare=1, least=11),
    ]


def of_result(
    result: Mapping[str, Any], metrics: Sequence[Metric], left: float | None
) -> Sequence[Cell]:
    """Returns the figures of a run that has ended.

    Args:
        result: what summary.json holds.
        metrics: what the run is judged by, of which the first is shown beside the loss.
        left: about how many seconds the other runs will take, where that is known.
    """
    validated = any(key.startswith("val_") for key in result)
    held = _figures(result, metrics, "validation", loss=4, metric=0) if validated else []
    return [
        *held,
        *_figures(result, metrics, "test", loss=5 if validated else 3, metric=2 * validated),
        Cell("train time", _duration(result["seconds"]), spare=6, least=11),
        Cell("time left", _duration(left), spare=1, least=11),
    ]


def _figures(
    found: Mapping[str, Any], metrics: Sequence[Metric], split: str, *, loss: int, metric: int
) -> Sequence[Cell]:
    """Returns loss and first metric of a split, each with how well it can be spared."""
    kinds = {LOSS: loss} | dict.fromkeys(metrics[:1], metric)  # the loss may be the metric
    return [_figure(found, kind, split, spare) for kind, spare in kinds.items()]


def _figure(found: Mapping[str, Any], kind: Metric, split: str, spare: int) -> Cell:
    """Returns a figure; it is empty where a record was lost and made anew with less in it."""
    value = found.get(f"{PREFIX[split]}_{kind.name}")
    return Cell(kind.title, "" if value is None else kind.shown(value), split, spare)


def _duration(seconds: float | None) -> str:
    return formats.duration(seconds) if seconds else ""
