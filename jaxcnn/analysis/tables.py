"""Tables of a comparison: cells and words for terminal and page, and the terminal's tables."""

import math
from typing import TYPE_CHECKING

from jaxcnn.analysis import formats
from jaxcnn.analysis.compare import ArmResult, ComparisonResult

if TYPE_CHECKING:
    from rich.table import Table


def cells(comparison: ComparisonResult) -> list[list[str]]:
    """Returns the table of the comparison: for each arm its cells, under :func:`headers`."""
    return [
        [
            result.name,
            formats.percent(result.accuracy),
            "" if i == 0 else formats.difference(result.difference),
            "" if i == 0 else formats.p_value(result.p_adjusted),
            f"{result.parameters:,}",
            formats.UNKNOWN if math.isnan(result.macs) else formats.si(int(result.macs)),
            formats.duration(result.seconds),
            formats.UNKNOWN if math.isnan(speed := result.images_per_sec) else f"{speed:,.0f}",
            _memory(result),
        ]
        for i, result in enumerate(comparison.results)
    ]


def _memory(result: ArmResult) -> str:
    """Returns the memory of the training program, with how many runs it trains where several."""
    if not result.memory_bytes:
        return formats.UNKNOWN
    runs = f" ({result.runs_together} runs)" if result.runs_together > 1 else ""
    return formats.si(result.memory_bytes, "B") + runs


def headers(comparison: ComparisonResult) -> list[str]:
    """Returns the headers of :func:`cells`."""
    return [
        *("arm", "test top-1", f"against {comparison.results[0].name}", "p", "parameters"),
        *("MACs", "train time", "images/s", "memory"),
    ]


def explanation(comparison: ComparisonResult) -> str:
    """Explains the intervals and p-values of a comparison in one or two sentences."""
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


def render(comparison: ComparisonResult) -> "Table":
    """Lays the comparison out as a table for a terminal."""
    from rich.table import Table

    title = f"{comparison.dataset}, {comparison.test_examples:,} test images"
    table = Table(title=title, caption=explanation(comparison), caption_justify="left")
    for i, header in enumerate(headers(comparison)):
        table.add_column(header, justify="right" if i else "left")
    for row in cells(comparison):
        table.add_row(*row)
    return table


def class_errors(comparison: ComparisonResult) -> tuple[list[str], list[list[str]]]:
    """Returns headers and rows of the error rates per class, in percent, as far as known."""
    shown = [result for result in comparison.results if result.class_errors]
    rows = [
        [name, *(_percent(result.class_errors[i]) for result in shown)]
        for i, name in enumerate(comparison.classes)
    ]
    return ["class", *(result.name for result in shown)], rows


def _percent(share: float) -> str:
    return formats.UNKNOWN if math.isnan(share) else f"{100 * share:.1f}"


def render_errors(comparison: ComparisonResult) -> "Table":
    """Lays out error rates per class, in percent, for a terminal."""
    from rich.table import Table

    (first, *names), rows = class_errors(comparison)
    table = Table(first, title="error rate per class, %")
    for name in names:
        table.add_column(name, justify="right", no_wrap=True)
    for row in rows:
        table.add_row(*row)
    return table
