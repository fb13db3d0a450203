"""Charts, drawn by matplotlib: as PNG files, and as SVG for pages.

Both have the colours of the pages' style sheet in the light. In SVG every colour becomes the
style sheet's variable of it, so that a chart follows its page into the dark.
"""

import contextlib
import io
import itertools
import math
import re
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxcnn.analysis import calibration, formats
from jaxcnn.analysis.calibration import Kept, Reliability, edges
from jaxcnn.analysis.compare import ComparisonResult, pareto
from jaxcnn.analysis.formats import si
from jaxcnn.analysis.robustness import CLEAN, CURVES, Row, by_images, corruptions, mean
from jaxcnn.analysis.statistics import Interval
from jaxcnn.learning import files
from jaxcnn.learning.selection import PREFIX, score
from jaxcnn.tasks import LOSS, Metric
from jaxcnn.tasks.classification import TOP1
from jaxcnn.text import printable

if TYPE_CHECKING:
    from markupsafe import Markup
    from matplotlib.figure import Figure

COLOURS = (
    *("#2563eb", "#d9480f", "#2b8a3e", "#9c36b5"),
    *("#0b7285", "#c2255c", "#866100", "#495057"),
)
"""Colours of the series; further series start again."""
TEXT, FAINT, RULE, CARD = "#1c2024", "#667080", "#d9dde3", "#f6f7f9"
VARIABLES = {
    TEXT: "currentColor",
    FAINT: "var(--faint)",
    RULE: "var(--rule)",
    CARD: "var(--card)",
    **{colour: f"var(--c{i})" for i, colour in enumerate(COLOURS)},
}
"""What each colour becomes in SVG."""

STYLE: dict[Any, Any] = {
    # Nobody's own settings move what is drawn here.
    **dict.fromkeys(("figure.autolayout", "figure.constrained_layout.use"), False),
    "figure.dpi": 100,
    "savefig.dpi": "figure",
    "text.parse_math": False,  # a dollar in a name is a dollar
    "svg.fonttype": "none",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 9,
    "axes.axisbelow": True,
    "axes.prop_cycle": f"cycler(color={list(COLOURS)})",
    "legend.frameon": False,
    **dict.fromkeys(("axes.spines.top", "axes.spines.right", "xtick.bottom", "ytick.left"), False),
    **dict.fromkeys(("axes.edgecolor", "grid.color"), RULE),
    **dict.fromkeys(("text.color", "axes.labelcolor", "xtick.color", "ytick.color"), TEXT),
}
SIZE = (4.2, 2.7)
"""Width and height of a chart on a page, in inches; the page scales them."""


@contextlib.contextmanager
def canvas(width: float, height: float, png: Path | None = None) -> Iterator[Any]:
    """Gives an empty figure in the style of all charts, and saves it at the end.

    Args:
        width: width in inches.
        height: height in inches.
        png: file that is written, if any.
    """
    import matplotlib
    from matplotlib.figure import Figure  # not pyplot: no global state, no window system

    # No font has all signs, and long names may leave a chart no room: it is drawn all the same.
    with matplotlib.rc_context(STYLE), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing|constrained_layout not applied")
        dpi = None if png is None else 120
        figure = Figure(figsize=(width, height), layout="constrained", dpi=dpi)
        yield figure
        if png is not None:
            _lay_out(figure)
            file = io.BytesIO()
            figure.savefig(file, format="png")
            files.write_bytes(png, file.getvalue())


def _lay_out(figure: Any) -> None:
    """Gives everything its place once, which would otherwise be found anew at each drawing.

    Leaves out every other label of an axis of numbers, as often as some would collide.
    """
    every = [axis for axes in figure.axes for axis in (axes.xaxis, axes.yaxis)]
    of_numbers = [a for a in every if getattr(a.get_major_formatter(), "func", None) is _number]
    figure.draw_without_rendering()  # from here on, places on the canvas are known
    for axis in of_numbers:
        while True:
            low, high = sorted(axis.get_view_interval())
            ticks = [t for t in axis.get_major_ticks() if low <= t.get_loc() <= high]
            boxes = [tick.label1.get_window_extent().padded(2) for tick in ticks]
            if not any(a.overlaps(b) for a, b in itertools.pairwise(boxes)):
                break
            axis.set_ticks([tick.get_loc() for tick in ticks[::2]])
            figure.draw_without_rendering()
    figure.set_layout_engine(None)  # with any, even "none", savefig draws twice


def legible(name: str, longest: int = 41) -> str:
    r"""Returns a name from outside as a chart shows it: nothing in it that fonts or files refuse.

    >>> print(legible("a\x1b" + "b" * 60, longest=11))
    a\x1b…bbbbb
    """
    return printable(name, longest=longest)


_NEEDLESS = re.compile(
    r"<\?xml.*?\?>|<!DOCTYPE.*?>|<!--.*?-->|<(?P<tag>defs|metadata)>.*?</(?P=tag)>", re.DOTALL
)
_ATTRIBUTES = re.compile(r' (?:id|clip-path|xmlns(?::\w+)?|version|width|height)="[^"]*"')


def svg(figure: Any, label: str) -> "Markup":
    """Returns a figure as an element of a page, of the same bytes each time.

    It holds no ids, no style rules and no addresses, so that several fit into one page. Nothing is
    clipped: charts here draw nothing outside their axes.

    Args:
        figure: a figure of :func:`canvas`.
        label: text that is read out in place of the chart.
    """
    file = io.StringIO()
    _lay_out(figure)
    figure.savefig(file, format="svg", transparent=True, metadata={"Date": None})
    text = file.getvalue()
    marks = dict(re.findall('<path id="([^"]*)" d="([^"]*)"', text))

    def put(use: re.Match[str]) -> str:
        return f'<path transform="translate({use[2]} {use[3]})" d="{marks[use[1]]}"'

    def adapt(tag: re.Match[str]) -> str:
        plain = re.sub('<use xlink:href="#([^"]*)" x="([^"]*)" y="([^"]*)"', put, tag[0])
        plain = _ATTRIBUTES.sub("", plain)
        return re.sub("#[0-9a-f]{6}", lambda colour: VARIABLES.get(colour[0], colour[0]), plain)

    text = re.sub("<[^>]*>", adapt, _NEEDLESS.sub("", text)).strip()
    from markupsafe import Markup  # only here: training draws PNG files alone

    return Markup(text.replace("<svg", Markup('<svg role="img" aria-label="{}"').format(label), 1))


# ----------------------------------------------------------------------- curves, points, intervals


Series = Mapping[Any, Sequence[float]]
"""Positions, in ascending order, with the values of all seeds."""
Points = Mapping[str, tuple[float, Interval]]
"""Names with a cost, and a value with its bounds (NaN for none)."""
TRAINING_AND_HELD_OUT = ("--", "-")
"""Styles of the curves of a run: dashed is what it was trained on."""


def lines(
    series: Mapping[str, Series],
    x_label: str,
    y_label: str,
    *,
    log_x: bool = False,
    log_y: bool = False,
    styles: Sequence[str] = ("-",),
) -> "Markup":
    """Draws curves of means over seeds, in bands from the lowest to the highest seed, as SVG.

    Args:
        series: the curves by name, one for each colour.
        x_label: what the positions are.
        y_label: what the values are.
        log_x: makes the positions logarithmic.
        log_y: makes the values logarithmic; where some are 0, linear below the smallest other.
        styles: of the lines in turn, as Matplotlib names them.
    """
    with canvas(*SIZE) as figure:
        _lines(figure.subplots(), series, x_label, y_label, log_x, log_y, styles)
        return svg(figure, f"{y_label} over {x_label}")


def _lines(
    axes: Any,
    series: Mapping[str, Series],
    x_label: str,
    y_label: str,
    log_x: bool,
    log_y: bool,
    styles: Sequence[str] = ("-",),
) -> None:
    """Draws curves, a curve of a single position as a point."""
    _frame(axes, x_label, y_label)
    for (name, values), style in zip(series.items(), itertools.cycle(styles)):
        mean, low, high = ([float(of(v)) for v in values.values()] for of in (np.mean, min, max))
        marker = "o" if len(values) == 1 else None
        (line,) = axes.plot(
            list(values), mean, style, marker=marker, markersize=4, label=legible(name)
        )
        if low != high:
            axes.fill_between(
                list(values), low, high, color=line.get_color(), alpha=0.2, linewidth=0
            )
    drawn = list(series.values())
    axes.margins(x=0.02)
    _scale(axes.xaxis, [x for values in drawn for x in values], log_x)
    _scale(axes.yaxis, [y for values in drawn for seeds in values.values() for y in seeds], log_y)


def _frame(axes: Any, x_label: str, y_label: str) -> None:
    axes.set(xlabel=x_label, ylabel=y_label)
    axes.grid(linewidth=0.6)


def _number(value: float, _: object) -> str:
    """Labels an axis of numbers; others have labels of their own."""
    return si(value)


def _scale(axis: Any, values: Sequence[float], log: bool) -> None:
    """Sets scale and ticks of an axis to suit its values."""
    from matplotlib import ticker

    shown = [v for v in values if math.isfinite(v)]
    positive = [v for v in shown if v > 0]
    set_scale, set_limits = (
        getattr(axis.axes, f"set_{axis.axis_name}{what}") for what in ("scale", "lim")
    )
    if not log or not positive or min(shown) < 0:
        whole = all(v == int(v) for v in shown)
        axis.set_major_locator(
            ticker.MaxNLocator(7, steps=[1, 2, 5, 10], integer=whole, min_n_ticks=1 if whole else 2)
        )
        if log and shown and not any(shown):  # an axis around 0 would show negative errors
            set_limits(0, 1)
    elif len(positive) < len(shown):
        set_scale("symlog", linthresh=min(positive), linscale=0.4)
        axis.set_major_locator(ticker.SymmetricalLogLocator(axis.get_transform(), [1, 2, 5]))
        set_limits(0, None)
    else:
        set_scale("log")
        decades = math.log10(max(positive) / min(positive))
        subs = (1,) if decades > 3 else (1, 3) if decades > 1.3 else (1, 2, 5)
        axis.set_major_locator(ticker.LogLocator(subs=subs))
    axis.set_minor_locator(ticker.NullLocator())
    axis.set_major_formatter(ticker.FuncFormatter(_number))


def scatter(points: Points, front: Sequence[str], x_label: str, y_label: str) -> "Markup":
    """Draws points with intervals over their logarithmic cost, and a Pareto front, as SVG.

    Args:
        points: the points, one for each colour.
        front: names of those on the front, by ascending cost.
        x_label: what the costs are.
        y_label: what the values are.
    """
    with canvas(*SIZE) as figure:
        _scatter(figure.subplots(), points, front, x_label, y_label)
        return svg(figure, f"{y_label} against {x_label}")


def _scatter(axes: Any, points: Points, front: Sequence[str], x_label: str, y_label: str) -> None:
    _frame(axes, x_label, y_label)
    drawn = []
    for i, (x, value) in enumerate(points.values()):
        bounds = _bounds(value)
        axes.errorbar(x, value.mean, yerr=bounds, fmt="o", markersize=5, color=_colour(i))
        low, high = value.mean - bounds[0][0], value.mean + bounds[1][0]
        drawn += [((x, low), (x, high)), ((x, value.mean), (x, value.mean))]
    _scale(axes.xaxis, [x for x, _ in points.values()], True)
    _scale(axes.yaxis, [y for _, value in points.values() for y in value], False)
    axes.margins(x=0.12, y=0.08)
    if front:
        edge = axes.get_xlim()[1]
        steps = [(x, value.mean) for x, value in (points[name] for name in front)]
        steps.append((edge, steps[-1][1]))
        style = {"where": "post", "color": FAINT, "linestyle": ":", "linewidth": 1.2}
        axes.step(*zip(*steps, strict=True), **style)
        axes.set_xlim(right=edge)
        drawn += [((a, y), (b, y)) for (a, y), (b, _) in itertools.pairwise(steps)]
    _name(axes, points, drawn)


def _bounds(value: Interval) -> list[list[float]]:
    """Returns how far an interval reaches to either side, as matplotlib takes it; NaN as 0."""
    mean, low, high = value
    return [[max(0.0, mean - low)], [max(0.0, high - mean)]] if high > low else [[0.0], [0.0]]


def _colour(i: int) -> str:
    return COLOURS[i % len(COLOURS)]


def _name(axes: Any, points: Points, drawn: Sequence[Any]) -> None:
    """Writes each point's name beside it, where it covers least of the lines that are drawn."""
    from matplotlib.transforms import Bbox

    axes.figure.draw_without_rendering()  # from here on, places on the canvas are known
    taken = [Bbox(axes.transData.transform(ends)).padded(4) for ends in drawn]
    inside = axes.get_window_extent()
    places = [(ha, va) for va in ("bottom", "center", "top") for ha in ("left", "right")]
    for text, (x, value) in points.items():
        name = axes.annotate(legible(text), (x, value.mean), (0, 0), textcoords="offset points")
        covered = {}
        for place in places:
            box = _put(name, *place)
            outside = box.width * box.height - _overlap(box, inside)
            covered[place] = outside + sum(_overlap(box, other) for other in taken)
        taken.append(_put(name, *min(places, key=covered.__getitem__)))


def _put(name: Any, ha: str, va: str) -> Any:
    """Puts a name beside its point and returns where it then is on the canvas."""
    name.set(ha=ha, va=va)
    name.xyann = ({"left": 6, "right": -6}[ha], {"bottom": 3, "center": 0, "top": -3}[va])
    return name.get_window_extent()


def _overlap(a: Any, b: Any) -> float:
    width, height = (min(a.max[i], b.max[i]) - max(a.min[i], b.min[i]) for i in (0, 1))
    return max(width, 0) * max(height, 0)


def intervals(found: Mapping[str, Interval], label: str) -> "Markup":
    """Draws means with their intervals, one below the other, as SVG.

    Args:
        found: the intervals by name; bounds that are NaN are left out.
        label: what the values are.
    """
    width, _ = SIZE
    with canvas(width, 0.6 + 0.38 * len(found)) as figure:
        axes = figure.subplots()
        _frame(axes, label, "")
        for i, (name, value) in enumerate(found.items()):
            bounds = _bounds(value)
            axes.errorbar(value.mean, i, xerr=bounds, fmt="o", markersize=5, color=_colour(i))
            axes.annotate(legible(name), (0, i), (0, 7), ("axes fraction", "data"), "offset points")
        _scale(axes.xaxis, [x for value in found.values() for x in value], False)
        axes.set(yticks=[], ylim=(len(found) - 0.6, -0.9))
        axes.spines["left"].set_visible(False)
        return svg(figure, label)


def reliability(found: Reliability, label: str, colour: int = 0) -> "Markup":
    """Draws a reliability diagram above the histogram of its confidences, as SVG.

    Args:
        found: of bins of equal width.
        label: text that is read out in place of the chart.
        colour: the place of the series among the colours.
    """
    with canvas(SIZE[0], SIZE[0]) as figure:
        _reliability(figure, [(found, _colour(colour), "")])
        return svg(figure, label)


def _reliability(figure: Any, shown: Sequence[tuple[Reliability, str, str]]) -> None:
    """Draws accuracy over confidence: points with a rule to the diagonal, and how many images."""
    above, below = figure.subplots(2, sharex=True, height_ratios=(3, 1))
    _frame(above, "", "accuracy, %")
    _frame(below, "confidence, %", "images, %")
    above.plot((0, 100), (0, 100), color=FAINT, linestyle=":", linewidth=1.2)
    for found, colour, name in shown:
        filled = found.counts > 0
        confidence, accuracy = (100 * x[filled] for x in (found.confidence, found.accuracy))
        above.vlines(confidence, confidence, accuracy, color=colour, linewidth=2, alpha=0.35)
        (points,) = above.plot(confidence, accuracy, "o", color=colour, markersize=4.5)
        points.set(label=legible(name), clip_on=False)
        share = 100 * found.counts / max(1, found.counts.sum())
        below.stairs(share, 100 * edges(len(share)), fill=True, color=colour, alpha=0.5)
    above.set(xlim=(0, 100), ylim=(0, 100))
    below.set(ylim=(0, None))


# -------------------------------------------------------------------------------------- PNG files


def save_calibration(found: Mapping[str, Kept], path: Path, title: str) -> None:
    """Draws reliability diagram, histogram of confidences, and accuracy against coverage.

    Args:
        found: what is kept of the images, by what it is called in the legend.
        path: PNG file.
        title: title of the figure.
    """
    with canvas(9, 4.4, path) as figure:
        figure.suptitle(legible(title, 101))
        left, right = figure.subfigures(1, 2)
        shown = [
            (calibration.reliability(*calibration.confident(kept)), _colour(i), name)
            for i, (name, kept) in enumerate(found.items())
        ]
        _reliability(left, shown)
        if len(found) > 1:
            left.axes[0].legend(loc="lower right")
        axes = right.subplots()
        curves = {name: coverage([kept]) for name, kept in found.items()}
        _lines(axes, curves, "coverage, %", "accuracy, %", False, False)
        axes.set(xlim=(0, 100))
        if len(found) > 1:
            axes.legend()


def coverage(held: Sequence[Kept]) -> Series:
    """Returns accuracy over coverage of a network's seeds, both in percent."""
    seeds = [calibration.coverage_curve(kept) for kept in held]
    return {share: [100 * seed[share] for seed in seeds] for share in (seeds[0] if seeds else ())}


def curve(metric: Metric, split: str = "") -> tuple[str, Callable[[float], float], bool]:
    """Returns how a metric is drawn over time: label, what is drawn of it, and if logarithmically.

    Of a share of errors and of the loss the logarithm is drawn, as both fall towards 0.
    """
    if metric == LOSS:
        return f"{split} loss".lstrip(), float, True
    if metric.error:
        return f"{split} {metric.error}, %".lstrip(), lambda value: 100 * (1 - value), True
    return (
        formats.titled(metric, split),
        lambda value: value * (100 if metric.is_share else 1),
        False,
    )


def save_curves(
    records: Sequence[Mapping[str, Any]],
    path: Path | None,
    title: str,
    metrics: Sequence[Metric] = (TOP1,),
) -> "Figure":
    """Draws a run's loss and first metric over epochs: in training, and on what is held out.

    Args:
        records: lines of metrics.jsonl.
        path: PNG file that is written, if any.
        title: title of the figure.
        metrics: what the run is judged by.

    Returns:
        The figure.
    """
    shown = list(dict.fromkeys((LOSS, metrics[0])))
    with canvas(4.5 * len(shown), 3.6, path) as figure:
        figure.suptitle(legible(title, 101))
        for axes, metric in zip(
            figure.subplots(1, len(shown), squeeze=False)[0], shown, strict=True
        ):
            label, of, logarithmic = curve(metric)
            # Training figures are missing where metrics.jsonl was lost and its last line made anew.
            series = {
                split: {r["epoch"]: [of(r[name])] for r in records if name in r}
                for split, name in ((s, f"{prefix}_{metric.name}") for s, prefix in PREFIX.items())
                if any(name in r for r in records)
            }
            _lines(axes, series, "epoch", label, False, logarithmic, TRAINING_AND_HELD_OUT)
            axes.legend()
    drawn: "Figure" = figure
    return drawn


def save_robustness(rows: Sequence[Row], metric: Metric, path: Path) -> None:
    """Draws what arms reach under changes of the images over their strength: a chart for each kind.

    Corruptions are shown together, as their mean at each severity, beginning with none. Each set of
    images, at each size, has a line of charts.

    Args:
        rows: under changes; at least one.
        metric: what the runs are judged by.
        path: PNG file.
    """
    lines = {title: _charts(same, metric) for title, same in by_images(rows).items()}
    columns = max(map(len, lines.values()))
    with canvas(4.5 * columns, 3.6 * len(lines), path) as figure:
        grid = figure.subplots(len(lines), columns, squeeze=False, sharey=True)
        for (title, charts), all_axes in zip(lines.items(), grid, strict=True):
            all_axes[0].set_title(legible(title, 101), loc="left")
            for axes, (label, series) in zip(all_axes, charts.items(), strict=True):
                _lines(axes, series, label, formats.titled(metric), False, False)
                for line in axes.lines:
                    line.set(marker="o", markersize=3)
                if len(series) > 1:
                    axes.legend()


def _charts(rows: Sequence[Row], metric: Metric) -> dict[str, dict[str, Series]]:
    """Returns the curves of one set of images, by what is varied and by arm."""
    factor = 100 if metric.is_share else 1

    def values(row: Row) -> list[float]:
        return [factor * found.values[metric.name] for found in row.found]

    charts: dict[str, dict[str, Any]] = {}
    for arm, corrupted in _by_severity(rows).items():
        means = {level: values(row) for level, row in corrupted.items()}
        charts.setdefault("corruptions, severity", {})[arm] = means
    for row in rows:
        kind, level = row.change
        if kind in CURVES:
            label = f"{CURVES[kind].title}, {CURVES[kind].unit}"
            charts.setdefault(label, {}).setdefault(row.arm, {})[level] = values(row)
    return charts


def _by_severity(rows: Sequence[Row]) -> dict[str, dict[float, Row]]:
    """Returns for each arm the mean over corruptions at each severity, from none on."""
    found: dict[str, dict[float, Row]] = {}
    for row in corruptions(rows):
        own = [one for one in rows if one.arm == row.arm]
        same = [one for one in corruptions(own) if one.change.level == row.change.level]
        clean = {one.change.level: one for one in own if one.change == CLEAN}
        found.setdefault(row.arm, clean)[row.change.level] = mean(same)
    return {arm: dict(sorted(of.items())) for arm, of in found.items()}


def save_confusion(confusion: np.ndarray, classes: Sequence[str], path: Path, title: str) -> None:
    """Draws how often each class was taken for each other, in percent of the class.

    Args:
        confusion: counts, ``(label, prediction)``.
        classes: their names.
        path: PNG file.
        title: title of the figure.
    """
    percent = 100 * confusion / np.maximum(confusion.sum(axis=1, keepdims=True), 1)
    n = len(classes)
    side = min(4 + 0.42 * n, 16)
    with canvas(side + 1, side, path) as figure:
        axes = figure.subplots()
        # Errors are what is looked for, and they are few: the square root lifts them.
        image = axes.imshow(np.sqrt(percent), cmap="Blues", vmin=0, vmax=10)
        axes.set(xlabel="prediction", ylabel="label", title=legible(title, 101))
        if n <= 30:
            names = [legible(name) for name in classes]
            axes.set_xticks(range(n), names, rotation=45, ha="right")
            axes.set_yticks(range(n), names)
            for (i, j), value in np.ndenumerate(percent):
                if value:
                    colour = "white" if value > 36 else "black"
                    text = f"{value:.0f}" if value >= 10 else f"{value:.1f}"
                    cell = axes.text(j, i, text, ha="center", va="center", color=colour, fontsize=8)
                    cell.set_in_layout(False)  # it lies inside, and a hundred take a second
        ticks = [0, 1, 5, 10, 25, 50, 100]
        bar = figure.colorbar(image, label="percent of the class")
        bar.set_ticks(np.sqrt(ticks), labels=[str(tick) for tick in ticks])


def save_comparison(comparison: ComparisonResult, path: Path) -> None:
    """Draws what every arm reached against its cost, with 95 % intervals and Pareto fronts.

    Args:
        comparison: at least one arm.
        path: PNG file.
    """
    with canvas(10, 4, path) as figure:
        for axes, (label, points, front) in zip(
            figure.subplots(1, 2), costs(comparison), strict=True
        ):
            _scatter(axes, points, front, label, formats.titled(comparison.metric, "test"))
        reached = f"test {comparison.metric.title}"
        title = f"{reached} against cost, 95 % intervals and Pareto front (dotted)"
        figure.suptitle(f"{legible(comparison.dataset)}: {title}")


def costs(comparison: ComparisonResult) -> list[tuple[str, Points, list[str]]]:
    """Returns for each kind of cost its name, what the arms reached, and the front."""
    results, metric = comparison.results, comparison.metric
    found: list[tuple[str, Points, list[str]]] = []
    for label, values in (
        ("multiply-accumulates for one image", [float(result.macs) for result in results]),
        ("training time, s", [result.seconds for result in results]),
    ):
        if not all(map(math.isfinite, values)):
            continue
        front = pareto(values, [metric.score(result.reached.mean) for result in results])
        points = {
            r.name: (x, formats.in_unit(metric, r.reached))
            for r, x in zip(results, values, strict=True)
        }
        found.append((label, points, [results[i].name for i in front]))
    return found


Scale = tuple[str, float, float]
"""How a field is searched, ``"log"``, ``"uniform"`` or ``"int"``, and between which bounds."""


def save_sweep(
    rows: Sequence[Mapping[str, Any]],
    path: Path,
    title: str,
    split: str,
    metric: Metric = TOP1,
    scales: Mapping[str, Scale] | None = None,
) -> None:
    """Draws the trials of a sweep in parallel coordinates: an axis for each field, a line for each.

    Args:
        rows: ``values`` by field, and what :func:`~jaxcnn.learning.selection.score` is made of.
        path: PNG file.
        title: title of the figure.
        split: the split that trials are chosen by.
        metric: what they are chosen by.
        scales: of the fields that are searched between bounds.
    """
    with canvas(_width(rows), 4.2, path) as figure:
        axes = _parallel(figure, rows, split, metric, scales or {})
        axes.set_title(legible(title, 101))


def parallel(
    rows: Sequence[Mapping[str, Any]], split: str, metric: Metric, scales: Mapping[str, Scale]
) -> "Markup":
    """Draws what :func:`save_sweep` does as SVG."""
    with canvas(_width(rows), 3.6) as figure:
        _parallel(figure, rows, split, metric, scales)
        return svg(figure, f"{formats.titled(metric, split)} over the fields of each trial")


INCHES_OF_A_COLUMN, LONGEST_OF_A_COLUMN = 1.6, 17
"""So wide is a column of parallel coordinates, in which so many letters have room."""


def _width(rows: Sequence[Mapping[str, Any]]) -> float:
    return float(INCHES_OF_A_COLUMN * (len(rows[0]["values"]) + 1.2))


def _parallel(
    figure: Any,
    rows: Sequence[Mapping[str, Any]],
    split: str,
    metric: Metric,
    scales: Mapping[str, Scale],
) -> Any:
    """Draws a line for each trial, the better the stronger, and the best in colour."""
    fields = list(rows[0]["values"])
    columns = [_coordinate([row["values"][f] for row in rows], scales.get(f)) for f in fields]
    scores: list[Any] = [score(row, metric) for row in rows]
    factor = 100 if metric.is_share else 1
    columns.append(_coordinate([factor * metric.score(found) for found in scores]))  # as found
    axes = figure.subplots()
    # The best lie on top; of equal ones the first, which is the best in the table too.
    order = sorted(range(len(rows)), key=lambda i: (scores[i], -i))
    for rank, i in enumerate(order, start=1):
        heights = [where[i] for where, _ in columns]
        share = rank / len(rows)
        best = {"color": COLOURS[0], "linewidth": 2.2}
        style = best if i == order[-1] else {"color": FAINT, "alpha": 0.2 + 0.6 * share}
        axes.plot(range(len(columns)), heights, marker="o", markersize=3, **style)
    names = [*short_names(fields).values(), formats.titled(metric, split)]
    for place, (_, ticks) in enumerate(columns):
        axes.axvline(place, color=RULE, linewidth=1, zorder=0)
        for height, text in _apart(ticks):
            axes.annotate(
                legible(text, LONGEST_OF_A_COLUMN),
                (place, height),
                xytext=(6, 0),
                textcoords="offset points",
                va="center",
                fontsize=8,
                bbox={"facecolor": CARD, "edgecolor": "none", "alpha": 0.8, "pad": 0.8},
            )
    shown = [legible(name, LONGEST_OF_A_COLUMN) for name in names[:-1]]
    axes.set_xticks(range(len(names)), [*shown, legible(names[-1], 23)])  # with room at the edge
    axes.set_yticks([])
    axes.set(xlim=(-0.4, len(names) - 0.2), ylim=(-0.06, 1.06))
    axes.spines[:].set_visible(False)
    return axes


def short_names(fields: Sequence[str]) -> dict[str, str]:
    """Returns what fields are called where a column is narrow: no two of them alike.

    >>> short_names(["optim.name", "optim.peak_lr", "model.options.hidden"])
    {'optim.name': 'optim', 'optim.peak_lr': 'peak_lr', 'model.options.hidden': 'hidden'}
    >>> short_names(["data.seed", "train.seed"])
    {'data.seed': 'data.seed', 'train.seed': 'train.seed'}
    """
    short = {f: f.removesuffix(".name").rpartition(".")[2] for f in fields}
    names = list(short.values())
    return {f: name if names.count(name) == 1 else f for f, name in short.items()}


SPACING = 0.055
"""Share of its axis that a tick of parallel coordinates takes."""


def drawable(value: Any) -> bool:
    """Tells whether a value is no number, or one that an axis has a place for.

    >>> drawable("adamw"), drawable(0.1), drawable(10**400)
    (True, True, False)
    """
    return not isinstance(value, int | float) or abs(value) <= sys.float_info.max


def numeric(values: Sequence[Any]) -> bool:
    """Tells whether all values are numbers, which true and false are not.

    >>> numeric([1, 0.5]), numeric([1, True])
    (True, False)
    """
    return all(isinstance(v, int | float) and not isinstance(v, bool) for v in values)


def _apart(ticks: Sequence[tuple[float, str]]) -> list[tuple[float, str]]:
    """Returns the ticks that do not cover one another: the outermost, and what fits between."""
    order = sorted(ticks)
    kept = order[:1]
    for tick in order[1:-1]:
        if min(tick[0] - kept[-1][0], order[-1][0] - tick[0]) >= SPACING:
            kept.append(tick)
    return kept + [last for last in order[1:][-1:] if last[0] - kept[-1][0] >= SPACING]


def _coordinate(
    values: Sequence[Any], scale: Scale | None = None
) -> tuple[list[float], list[tuple[float, str]]]:
    """Returns the heights of a column's values in [0, 1], and the ticks beside its axis."""
    if numeric(values):
        if scale or len(set(values)) > 1:
            return _numbers(values, scale)
        values = [f"{v:g}" for v in values]
    words = sorted({*map(str, values)}, key=lambda word: (len(word), word))  # [8] below [32]
    height = {word: (i + 0.5) / len(words) for i, word in enumerate(words)}
    return [height[str(v)] for v in values], [(h, word) for word, h in height.items()]


def _numbers(
    values: Sequence[float], scale: Scale | None
) -> tuple[list[float], list[tuple[float, str]]]:
    """Does so for numbers, on the scale of the search.

    Those of a list are on a logarithmic one if they span decades and crowd at the lower end.
    """
    from matplotlib import ticker

    distinct = sorted(set(values))
    low, high = distinct[0], distinct[-1]
    log = low > 0 and high / low > 20 and float(np.median(values)) < (low + high) / 4
    if scale:
        log, low, high = scale[0] == "log", *scale[1:]

    def at(value: float) -> float:
        share = np.log(value / low) / np.log(high / low) if log else (value - low) / (high - low)
        return float(share)

    marks = distinct
    if scale or len(distinct) > 6:
        whole = all(v == int(v) for v in distinct)
        between = ticker.LogLocator() if log else ticker.MaxNLocator(5, integer=whole)
        inside = [float(m) for m in between.tick_values(low, high) if low < m < high]
        marks = [low, *inside, high]
    return [at(v) for v in values], [(at(v), f"{v:.4g}") for v in marks]
