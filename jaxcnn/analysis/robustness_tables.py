"""Tables of what networks reach on other images: on other data, at other sizes, and changed."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from jaxcnn.analysis import formats, robustness
from jaxcnn.analysis.robustness import CLEAN, CURVES, Row
from jaxcnn.analysis.tables import laid_out
from jaxcnn.tasks import LOSS, Metric

if TYPE_CHECKING:
    from rich.table import Table

Metrics = Sequence[Metric]


def render(of: Sequence[Row], metrics: Metrics, width: int, caption: str) -> "Iterator[Table]":
    """Yields the tables of some rows, for a terminal of so many columns.

    Args:
        of: the rows.
        metrics: what the runs are judged by; intervals are of the first.
        width: columns of the terminal.
        caption: explains the intervals, below the first table.
    """
    yield overview(of, metrics, width, caption)
    for where, same in robustness.by_images(of).items():
        if corrupted := robustness.corruptions(same):
            make = _corruptions if len(_arms(same)) == 1 else _corruptions_of_arms
            yield make(corrupted, metrics[0], width, where)
        for kind in robustness.kinds(same):
            if kind in CURVES:
                moved = [row for row in same if row.change.kind == kind]
                yield _curve(moved, metrics[0], width, where)


def _arms(of: Sequence[Row]) -> list[str]:
    return list(dict.fromkeys(row.arm for row in of))


def overview(of: Sequence[Row], metrics: Metrics, width: int, caption: str) -> "Table":
    """Lays out what each arm reaches on each set of images at each size, as they are.

    Where there are corruptions, their mean stands beside it.
    """
    first, baseline = metrics[0], _arms(of)[0]
    others = [metric for metric in [*metrics[1:], LOSS] if metric != first]
    titles = ["arm", "data", "size", "images", first.title, *(metric.title for metric in others)]
    has_corrupted = bool(robustness.corruptions(of))
    relative = has_corrupted and robustness.errs(first) and len(_arms(of)) > 1
    titles += ["corrupted"] * has_corrupted + [f"error against {baseline}"] * relative
    rows = []
    for same in robustness.by_images(of).values():
        corrupted = robustness.corruptions(same)
        theirs = [row for row in corrupted if row.arm == baseline]
        for row in (row for row in same if row.change == CLEAN):
            ours = [one for one in corrupted if one.arm == row.arm]
            cells = [row.arm, row.data, row.size, f"{row.examples:,}"]
            cells.append(formats.interval(first, row.interval(first)))
            cells += [_value(metric, row) for metric in others]
            if has_corrupted:
                whole = robustness.mean(ours).interval(first)
                cells.append(formats.interval(first, whole))
            if relative:
                cells.append(f"{robustness.relative_error(ours, theirs, first):.3f}")
            rows.append(cells)
    needless = ("loss", *(metric.title for metric in metrics[1:]), "images", "size")
    return laid_out(titles, rows, width, title="", caption=caption, dispensable=needless)


def _value(metric: Metric, row: Row) -> str:
    if metric.name not in row.found[0].values:  # as of the five likeliest among four classes
        return formats.UNKNOWN
    found = row.value(metric.name)
    return f"{found:.4f}" if metric == LOSS else formats.value(metric, found)


def _short(metric: Metric, row: Row) -> str:
    found = row.value(metric.name)
    return f"{100 * found:.1f}" if metric.is_share else f"{found:.4g}"


def _titled(metric: Metric) -> str:
    return metric.title + (" in percent" if metric.is_share else "")


def _corruptions(of: Sequence[Row], metric: Metric, width: int, where: str) -> "Table":
    """Lays out one arm's corruptions by kind and severity, with their means."""
    levels = list(dict.fromkeys(row.change.level for row in of))

    def cells(name: str, rows: Sequence[Row]) -> list[str]:
        at = [[row for row in rows if row.change.level == level] for level in levels]
        each = [_short(metric, robustness.mean(same)) for same in at]
        whole = robustness.mean(rows).interval(metric)
        return [name, *each, formats.interval(metric, whole)]

    kinds = robustness.kinds(of)
    rows = [cells(kind, [row for row in of if row.change.kind == kind]) for kind in kinds]
    if len(kinds) > 1:
        rows.append(cells("mean", of))
    titles = ["corruption", *(f"{level:g}" for level in levels), "mean"]
    title = f"{where}: {_titled(metric)} by severity"
    return laid_out(titles, rows, width, title=title, caption=_error(of, metric))


def _error(of: Sequence[Row], metric: Metric) -> str:
    """Says the mean corruption error, which is what publications name."""
    if not robustness.errs(metric):
        return ""
    error = 1 - robustness.mean(of).value(metric.name)
    return f"Mean corruption error {formats.value(metric, error)}, not divided by a baseline's."


def _corruptions_of_arms(of: Sequence[Row], metric: Metric, width: int, where: str) -> "Table":
    """Lays out the means over severities by kind of corruption, a column for each arm."""
    arms, kinds = _arms(of), robustness.kinds(of)

    def cells(name: str, rows: Sequence[Row]) -> list[str]:
        each = [robustness.mean([row for row in rows if row.arm == arm]) for arm in arms]
        return [name, *(formats.interval(metric, row.interval(metric)) for row in each)]

    rows = [cells(kind, [row for row in of if row.change.kind == kind]) for kind in kinds]
    if len(kinds) > 1:
        rows.append(cells("mean", of))
    levels = ", ".join(f"{level:g}" for level in dict.fromkeys(row.change.level for row in of))
    title = f"{where}: {metric.title} under corruption, means over severities {levels}"
    return laid_out(["corruption", *arms], rows, width, title=title, caption="")


def _curve(of: Sequence[Row], metric: Metric, width: int, where: str) -> "Table":
    """Lays out what is reached under one kind of move, by its strength; a column for each arm."""
    kind, arms = CURVES[of[0].change.kind], _arms(of)
    rows = []
    for level in dict.fromkeys(row.change.level for row in of):
        same = {row.arm: row for row in of if row.change.level == level}
        each = [formats.interval(metric, same[arm].interval(metric)) for arm in arms]
        rows.append([f"{level:g}", *each])
    title = f"{where}: {metric.title} by {kind.title}"
    return laid_out([kind.unit, *arms], rows, width, title=title, caption="")
