"""Tables of a comparison: cells and words for terminal and page, and the terminal's tables."""

import math
import re
import statistics
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from jaxcnn.analysis import formats
from jaxcnn.analysis.arms import Arm, FinishedRun
from jaxcnn.analysis.compare import ArmResult, ComparisonResult
from jaxcnn.analysis.measures import ABOUT, OVER_IMAGES, Measure
from jaxcnn.analysis.statistics import Interval
from jaxcnn.learning.records import Summary
from jaxcnn.learning.selection import OPTIMISTIC
from jaxcnn.tasks import LOSS, Metric
from jaxcnn.tasks.classification import TOP1

if TYPE_CHECKING:
    from rich.table import Table


def cells(comparison: ComparisonResult) -> list[list[str]]:
    """Returns the table of the comparison: for each arm its cells, under :func:`headers`."""
    validation = _has_validation(comparison)
    return [
        [
            result.name,
            *([_mean(comparison.metric, result.validated)] if validation else []),
            formats.interval(comparison.metric, result.reached),
            "" if i == 0 else formats.difference(comparison.metric, result.difference),
            "" if i == 0 else formats.p_value(result.p_adjusted),
            f"{result.parameters:,}",
            formats.UNKNOWN if math.isnan(result.macs) else formats.si(int(result.macs)),
            formats.duration(result.seconds),
            formats.UNKNOWN if math.isnan(speed := result.images_per_sec) else f"{speed:,.0f}",
            _memory(result),
        ]
        for i, result in enumerate(comparison.results)
    ]


def best(comparison: ComparisonResult) -> str:
    """Says in a line which arm is the best, and how it differs from the first."""
    metric, results, found = comparison.metric, comparison.results, comparison.best
    line = f"best: {found.name}, test {metric.title} {formats.interval(metric, found.reached)}"
    if found is not results[0]:
        difference = formats.difference(metric, found.difference).partition(" [")[0]
        p = formats.p_value(found.p_adjusted)
        line += f", {difference} against {results[0].name}"
        line += "" if p == formats.UNKNOWN else f", p {p}"
    return f"{line}; chosen on the {comparison.chosen_by} set"


def of_one(comparison: ComparisonResult, runs: Sequence[FinishedRun]) -> list[list[str]]:
    """Returns what a single arm has reached and cost, a row for each figure that is known.

    Args:
        comparison: of this arm alone.
        runs: its runs.
    """
    (row,) = cells(comparison)
    figures = dict(zip(headers(comparison), row, strict=True))
    dropped = ("arm", f"against {comparison.results[0].name}", "p")
    summaries = [run.summary for run in runs]
    further = {
        f"test {m.title}": _mean(m, _known(summaries, f"test_{m.name}")) for m in runs[0].metrics
    }
    further["test loss"] = _mean(LOSS, _known(summaries, "test_loss"))
    epochs = [str(one.epochs) for one in summaries]
    best = [str(one.best_epoch) for one in summaries if one.best_epoch is not None]
    rows = {name: text for name, text in figures.items() if name not in dropped}
    rows = {
        **{name: text for name, text in rows.items() if " " in name and name != "train time"},
        **{name: text for name, text in further.items() if name not in rows},
        "epochs": ", ".join(dict.fromkeys(epochs)),
        "best epoch": ", ".join(best) or formats.UNKNOWN,
        **rows,
    }
    return [[name, text] for name, text in rows.items() if text != formats.UNKNOWN]


def _known(summaries: Sequence[Summary], name: str) -> list[float]:
    return [value for one in summaries if (value := one.value(name)) is not None]


def _memory(result: ArmResult) -> str:
    """Returns the memory of the training program, with how many runs it trains where several."""
    if not result.memory_bytes:
        return formats.UNKNOWN
    runs = f" ({result.runs_together} runs)" if result.runs_together > 1 else ""
    return formats.si(result.memory_bytes, "B") + runs


def _has_validation(comparison: ComparisonResult) -> bool:
    return any(result.validated for result in comparison.results)


def _mean(metric: Metric, found: Sequence[float]) -> str:
    return formats.value(metric, sum(found) / len(found)) if found else formats.UNKNOWN


def headers(comparison: ComparisonResult) -> list[str]:
    """Returns the headers of :func:`cells`."""
    title = comparison.metric.title
    validation = [f"validation {title}"] if _has_validation(comparison) else []
    against = f"against {comparison.results[0].name}"
    return [
        *("arm", *validation, f"test {title}", against, "p", "parameters"),
        *("MACs", "train time", "images/s", "memory"),
    ]


def times(arms: Sequence[Arm]) -> tuple[list[str], list[list[str]]] | None:
    """Returns headers and rows of where the time of runs went: means over an arm's seeds.

    It is None where no run says, as none did at first.
    """
    rows = []
    for arm in arms:
        told = [run.summary for run in arm.runs if run.summary.spent]
        if told:
            share = statistics.mean(summary.goodput or 0.0 for summary in told)
            seconds = [
                statistics.mean((summary.spent or {}).get(part, 0.0) for summary in told)
                for part in TIMES
            ]
            rows.append([arm.name, f"{100 * share:.1f} %", *(f"{value:,.1f}" for value in seconds)])
    headers = ["arm", "goodput", *(f"{title} (s)" for title in TIMES.values())]
    return (headers, rows) if rows else None


TIMES = {
    "steps": "steps",
    "evaluate": "evaluating",
    "data": "waiting for data",
    "save": "saving",
    "host": "host",
    "compile": "compiling, before",
}
"""What summary.json says that the time went into, and how it is called on pages."""


def explanation(comparison: ComparisonResult) -> str:
    """Explains intervals, p-values and choices of a comparison in a few sentences."""
    seeds = sorted({len(result.seeds) for result in comparison.results})
    if seeds == [1] and not comparison.metric.of_examples:
        interval = "Single runs, which say nothing of the chance of training"
    elif seeds == [1]:
        interval = (
            f"Single runs: intervals are Wilson's over the {comparison.test_examples:,} test "
            "images and say nothing of the chance of training"
        )
    else:
        count = f"{seeds[0]}" if len(seeds) == 1 else f"{seeds[0]} to {seeds[-1]}"
        interval = f"Means over {count} seeds with Student's 95 % interval"
        if seeds[0] == 1 and comparison.metric.of_examples:
            interval += "; that of a single run is Wilson's over test images"
    test = {
        "paired t": "p: Student's paired test over common seeds",
        "McNemar": "p: McNemar's exact test over test images",
        "none": "",
    }[comparison.test]
    tested = sum(not math.isnan(result.p_adjusted) for result in comparison.results)
    correction = f", corrected for {tested} arms (Holm)" if tested > 1 else ""
    return ". ".join(filter(None, [interval, test + correction, *_choices(comparison)])) + "."


def _choices(comparison: ComparisonResult) -> list[str]:
    """Says by which examples was chosen: a sentence for each split that has chosen."""
    chosen = [result.name for result in comparison.results if result.chosen_on_test]
    held_out = [result.name for result in comparison.results if result.validated]
    everywhere = len(held_out) == len(comparison.results)
    of = "" if everywhere else f" of {', '.join(held_out)}"
    said = []
    if held_out:
        said.append(f"The test set{of} was read once, at the end; the validation set chose before")
    if chosen:
        said.append(f"Test {comparison.metric.title} of {', '.join(chosen)} was {OPTIMISTIC}")
    return said


DISPENSABLE = ("memory", "images/s", "MACs", "parameters")
"""Headers of columns that a narrow terminal goes without, in this order."""


def render(comparison: ComparisonResult, width: int = 160) -> "Table":
    """Lays the comparison out as a table for a terminal of so many columns."""
    return laid_out(
        headers(comparison),
        cells(comparison),
        width,
        title=f"{comparison.dataset}, {comparison.test_examples:,} test images",
        caption=explanation(comparison),
    )


def block(comparison: ComparisonResult, name: str) -> tuple[list[str], list[list[str]]]:
    """Returns headers and rows of the measures of a block: of each, a row for every arm."""
    rows = [
        [measure.metric.title if i == 0 else "", *_of_measure(measure, result, i == 0)]
        for measure in comparison.measures
        if measure.block == name
        for i, result in enumerate(comparison.results)
    ]
    return ["measure", "arm", "test", f"against {comparison.results[0].name}", "p"], rows


def _of_measure(measure: Measure, result: ArmResult, first: bool) -> list[str]:
    """Returns an arm's cells; the first arm is not compared with itself."""
    metric, form, found = measure.metric, measure.form, result.measures.get(measure.metric.name)
    if found is None:
        return [result.name, *[formats.UNKNOWN] * (1 if first else 3), *[""] * (2 * first)]
    against = formats.difference(metric, found.difference, form)
    return [
        result.name,
        formats.interval(metric, found.reached, form),
        *(["", ""] if first else [against, formats.p_value(found.p_adjusted)]),
    ]


def blocks(comparison: ComparisonResult) -> list[str]:
    """Returns the names of the blocks of measures of which something is known."""
    return list(dict.fromkeys(measure.block for measure in comparison.measures))


def explained(comparison: ComparisonResult, name: str) -> str:
    """Explains intervals and p-values of a block of measures in a few sentences."""
    measures = [one.metric for one in comparison.measures if one.block == name]
    found = [
        result.measures[metric.name]
        for result in comparison.results
        for metric in measures
        if metric.name in result.measures
    ]
    said = [ABOUT[name].format(images=comparison.corrupted_examples)] if name in ABOUT else []
    if len({metric.higher_is_better for metric in measures}) == 1:
        said.append("Higher is better" if measures[0].higher_is_better else "Lower is better")
    seeds = sorted({len(one.values) for one in found})
    if seeds[-1] > 1:
        count = f"{seeds[0]}" if len(seeds) == 1 else f"{seeds[0]} to {seeds[-1]}"
        said.append(f"Means over {count} seeds with Student's 95 % interval")
    if any(len(one.values) == 1 and not math.isnan(one.reached.low) for one in found):
        said.append(f"Of a single run the interval is over test images: {OVER_IMAGES[name]}")
    tests = {one.test for one in found if not math.isnan(one.p_adjusted)}
    words = {
        "paired t": "Student's paired test over common seeds",
        "randomization": "the paired randomization test over test images",
    }
    tested = [sum(not math.isnan(p) for p in column) for column in _p_values(comparison, measures)]
    if tests:
        arms = f"corrected for {max(tested)} arms (Holm) but " if max(tested) > 1 else ""
        correction = f", {arms}not for several measures"
        said.append("p: " + " or ".join(words[one] for one in sorted(tests)) + correction)
    said += _untested(comparison, name)
    return ". ".join(said) + "."


def _untested(comparison: ComparisonResult, name: str) -> list[str]:
    """Says what a block does not compare, and what its figures at a temperature are."""
    measures = [one for one in comparison.measures if one.block == name]
    said = []
    several = len(comparison.results) > 1
    if several and not all(one.tested for one in measures):
        said.append("ECE is not compared: chance makes it larger, unevenly")
    if name == "calibration":
        said.append("ECE (mass): in bins of as many images each")
    if any(one.at_temperature for one in measures):
        said.append("At T: at the temperature that was fitted to each run's validation set")
    return said


def _p_values(comparison: ComparisonResult, metrics: Sequence[Metric]) -> list[list[float]]:
    return [
        [r.measures[m.name].p_adjusted for r in comparison.results if m.name in r.measures]
        for m in metrics
    ]


FITTED = "The temperature was fitted to these examples, of which its figures are optimistic"
"""Said of figures at a temperature on what it was fitted to."""


def render_calibration(
    found: Mapping[str, Mapping[Metric, Interval]],
    title: str,
    chance: tuple[float, float],
    *,
    fitted: bool = False,
) -> "Table":
    """Lays out what is known of a run's calibration, with a column for each way to answer.

    Args:
        found: by the ways, the figures with their intervals.
        title: stands above the table.
        chance: mean and 95th percentile of the calibration errors of a calibrated network.
        fitted: whether the temperature was fitted to these examples.
    """
    from rich.table import Table

    mean, most = (f"{100 * error:.2f} %" for error in chance)
    said = (
        f"95 % intervals over the images: Wilson's of {TOP1.title}, else the bootstrap's, of ECE "
        "the basic one. A calibrated network that is as sure as in the first column has an ECE of "
        f"{mean} by chance, and up to {most} in 95 of 100 cases."
    )
    if fitted and len(found) > 1:
        said += f" {FITTED}."
    table = Table(title=title, caption=said, caption_justify="left")
    table.add_column("")
    for name in found:
        table.add_column(name, justify="right")
    for metric in next(iter(found.values())):
        cells = [formats.interval(metric, figures[metric], ".4f") for figures in found.values()]
        table.add_row(metric.title, *cells)
    return table


def render_block(comparison: ComparisonResult, name: str, width: int = 160) -> "Table":
    """Lays a block of measures out as a table for a terminal of so many columns."""
    caption = explained(comparison, name)
    return laid_out(*block(comparison, name), width, title=name, caption=caption)


def laid_out(
    titles: Sequence[str],
    rows: Sequence[Sequence[str]],
    width: int,
    *,
    title: str,
    caption: str,
    dispensable: Sequence[str] = DISPENSABLE,
) -> "Table":
    """Lays rows out as a table for a terminal.

    Where it is too wide, headers and intervals are broken into lines; where it still is, columns
    some are left out, and the caption says which.

    Args:
        titles: the headers of the columns.
        rows: the cells below them.
        width: columns of the terminal.
        title: stands above the table.
        caption: stands below it.
        dispensable: headers of columns that it may go without, in this order.
    """
    from rich.cells import cell_len
    from rich.table import Table

    def needed() -> int:
        widest = [max(map(cell_len, "\n".join(column).split("\n"))) for column in columns]
        return sum(widest) + 3 * len(widest) + 1

    columns = [list(column) for column in zip(titles, *rows, strict=True)]
    left_out = []
    if needed() > width:
        for column in columns:
            column[0] = re.sub(r" |(?<=\.)", "\n", column[0])
            column[1:] = [cell.replace(" [", "\n[") for cell in column[1:]]
    for name in dispensable:
        if needed() > width and name in titles:
            columns = [column for column in columns if column[0] != name]
            left_out.append(name)
    if left_out:
        caption = f"{caption} Left out: {', '.join(left_out)}."
    table = Table(title=title, caption=caption, caption_justify="left")
    for i, (header, *_) in enumerate(columns):
        left = i == 0 or header == "arm"
        table.add_column(header, justify="left" if left else "right", overflow="fold")
    for row in list(zip(*columns, strict=True))[1:]:
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
