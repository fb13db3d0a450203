"""A comparison in words: the cells of its table, for the terminal and for the page."""

import math
from typing import TYPE_CHECKING

from jaxcnn.analysis.compare import Comparison
from jaxcnn.analysis.statistics import Interval, Paired

if TYPE_CHECKING:
    from rich.table import Table

HEADERS = (
    "arm",
    "test top-1",
    "against {baseline}",
    "p",
    "parameters",
    "MACs",
    "train time",
    "images/s",
    "memory",
)


def cells(comparison: Comparison) -> list[list[str]]:
    """The table of the comparison, a list of words for each arm, under :data:`HEADERS`."""
    return [
        [
            result.name,
            percent(result.accuracy),
            "" if i == 0 else difference(result.difference),
            "" if i == 0 else p_value(result.p_adjusted),
            f"{result.parameters:,}",
            si(result.macs),
            duration(result.seconds),
            f"{result.images_per_sec:,.0f}" if not math.isnan(result.images_per_sec) else "–",
            f"{si(result.memory_bytes)}B" if result.memory_bytes else "–",
        ]
        for i, result in enumerate(comparison.results)
    ]


def headers(comparison: Comparison) -> list[str]:
    """Headers of :func:`cells`."""
    return [header.format(baseline=comparison.results[0].name) for header in HEADERS]


def explanation(comparison: Comparison) -> str:
    """What the intervals and p-values of a comparison mean, in one or two sentences."""
    seeds = sorted({len(result.seeds) for result in comparison.results})
    if seeds == [1]:
        interval = (
            f"Single runs: intervals are Wilson's over the {comparison.test_examples:,} test "
            "images and say nothing of the chance of training"
        )
    else:
        count = f"{seeds[0]}" if len(seeds) == 1 else f"{seeds[0]} to {seeds[-1]}"
        interval = f"Means over {count} seeds with Student's 95 % interval"
        if seeds[0] == 1:
            interval += "; that of a single run is Wilson's over test images"
    test = {
        "paired t": "p: Student's paired test over common seeds",
        "McNemar": "p: McNemar's exact test over test images",
        "none": "",
    }[comparison.test]
    tested = sum(not math.isnan(result.p_adjusted) for result in comparison.results)
    correction = f", corrected for {tested} arms (Holm)" if tested > 1 else ""
    return ". ".join(filter(None, [interval, test + correction])) + "."


def render(comparison: Comparison) -> "Table":
    """Lays the comparison out as a table for a terminal."""
    from rich.table import Table

    title = f"{comparison.dataset}, {comparison.test_examples:,} test images"
    table = Table(title=title, caption=explanation(comparison), caption_justify="left")
    for i, header in enumerate(headers(comparison)):
        table.add_column(header, justify="right" if i else "left")
    for row in cells(comparison):
        table.add_row(*row)
    return table


def render_errors(comparison: Comparison) -> "Table":
    """Lays out error rates per class, in percent, for a terminal."""
    from rich.table import Table

    table = Table(title="error rate per class, %")
    table.add_column("class")
    shown = [result for result in comparison.results if result.class_errors]
    for result in shown:
        table.add_column(result.name, justify="right", no_wrap=True)
    for i, name in enumerate(comparison.classes):
        table.add_row(name, *(f"{100 * result.class_errors[i]:.1f}" for result in shown))
    return table


def percent(value: Interval) -> str:
    """A mean and its bounds in percent.

    >>> percent(Interval(0.912, 0.908, 0.916))
    '91.20 % [90.80, 91.60]'
    """
    if math.isnan(value.low):
        return f"{value.mean:.2%}".replace("%", " %")
    bounds = f"[{100 * value.low:.2f}, {100 * min(value.high, 1):.2f}]"
    return f"{100 * value.mean:.2f} % {bounds}"


def difference(value: Paired | None) -> str:
    """A difference and its bounds in percentage points."""
    if value is None:
        return "–"
    bounds = "" if math.isnan(value.low) else f" [{100 * value.low:+.2f}, {100 * value.high:+.2f}]"
    return f"{100 * value.mean:+.2f}{bounds}"


def p_value(p: float) -> str:
    """A p-value with two digits.

    >>> p_value(0.0312), p_value(0.00001)
    ('0.031', '<0.001')
    """
    if math.isnan(p):
        return "–"
    return "<0.001" if p < 0.001 else f"{p:.2g}"


def si(number: float) -> str:
    """A number with a prefix.

    >>> si(416_520)
    '416.5 k'
    """
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= size:
            return f"{number / size:.4g} {unit}"
    return f"{number:g} "


def duration(seconds: float) -> str:
    """A time.

    >>> duration(75.2), duration(3.14)
    ('1 min 15 s', '3.1 s')
    """
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"
