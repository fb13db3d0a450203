"""Charts as inline SVG: they need no program and no network, and take their colours from CSS.

A series is drawn in the class ``s0`` ... ``s7``; text and axes in the page's own colour.
"""

import html
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from jaxcnn.analysis.statistics import Interval

COLOURS = 8
"""Classes that the style sheet knows; further series start again."""

WIDTH, HEIGHT = 560, 340
LEFT, RIGHT, TOP, BOTTOM = 76, 16, 14, 48


@dataclass(frozen=True)
class Line:
    """A curve with a band.

    Attributes:
        name: shown when pointed at.
        x: positions.
        y: values; NaN leaves a gap.
        low: lower edge of the band.
        high: upper edge.
        dashed: draws it dashed, without the band.
    """

    name: str
    x: Sequence[float]
    y: Sequence[float]
    low: Sequence[float]
    high: Sequence[float]
    dashed: bool = False


@dataclass(frozen=True)
class Point:
    """A value with an interval (NaN for none)."""

    name: str
    x: float
    y: float
    low: float
    high: float


@dataclass(frozen=True)
class _Axis:
    """Maps values to pixels."""

    low: float
    high: float
    start: float
    end: float
    log: bool

    def at(self, value: float) -> float:
        a, b, v = (
            (math.log(self.low), math.log(self.high), math.log(max(value, 1e-300)))
            if self.log
            else (self.low, self.high, value)
        )
        share = min(max((v - a) / (b - a), -0.02), 1.02)
        return self.start + share * (self.end - self.start)

    def ticks(self) -> list[float]:
        return _log_ticks(self.low, self.high) if self.log else _ticks(self.low, self.high)


def _axis(values: Sequence[float], start: float, end: float, log: bool, margin: float) -> _Axis:
    finite = [v for v in values if math.isfinite(v) and (v > 0 or not log)] or [1.0]
    low, high = min(finite), max(finite)
    if log:
        spread = max((high / low) ** margin, 1.15)
        return _Axis(low / spread, high * spread, start, end, True)
    spread = max((high - low) * margin, abs(high) * 1e-3, 1e-9)
    return _Axis(low - spread, high + spread, start, end, False)


def _ticks(low: float, high: float) -> list[float]:
    """About five round numbers."""
    raw = (high - low) / 5
    size = 10.0 ** math.floor(math.log10(raw))
    step = next(m * size for m in (1, 2, 5, 10) if m * size >= raw)
    first = math.ceil(low / step)
    return [k * step for k in range(first, math.floor(high / step) + 1)]


def _log_ticks(low: float, high: float) -> list[float]:
    for multiples in ((1,), (1, 3), (1, 2, 5), (1, 1.5, 2, 3, 4, 5, 6, 7, 8, 9)):
        exponents = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
        found = [m * 10.0**e for e in exponents for m in multiples]
        found = [tick for tick in found if low <= tick <= high]
        if len(found) >= 3:
            return found[:: math.ceil(len(found) / 8)]
    return _ticks(low, high)


def _number(value: float) -> str:
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:.3g}{unit}"
    return f"{value:.3g}"


def lines(
    series: Sequence[Line],
    x_label: str,
    y_label: str,
    *,
    log_y: bool = False,
    log_x: bool = False,
) -> str:
    """Curves with bands over a common axis.

    Args:
        series: one for each colour; a dashed one takes the colour of the one before it.
        x_label: below.
        y_label: on the left.
        log_y: logarithmic values, where all are above 0.
        log_x: logarithmic positions.
    """
    values = [v for s in series for v in (*s.y, *s.low, *s.high) if math.isfinite(v)]
    log = log_y and bool(values) and min(values) > 0
    x = _axis([v for s in series for v in s.x], LEFT, WIDTH - RIGHT, log_x, 0.02)
    y = _axis(values, HEIGHT - BOTTOM, TOP, log, 0.05)
    parts = [_frame(x, y, x_label, y_label)]
    colour = -1
    for line in series:
        colour += not line.dashed
        shown = [i for i, v in enumerate(line.y) if math.isfinite(v)]
        where = [(x.at(line.x[i]), y.at(line.y[i])) for i in shown]
        if not where:
            continue
        kind = f"s{max(colour, 0) % COLOURS}"
        if not line.dashed and any(line.high[i] > line.low[i] for i in shown):
            edge = [(x.at(line.x[i]), y.at(line.high[i])) for i in shown]
            edge += [(x.at(line.x[i]), y.at(line.low[i])) for i in reversed(shown)]
            parts.append(f'<polygon class="band {kind}" points="{_points(edge)}"/>')
        style = f"line {kind} dashed" if line.dashed else f"line {kind}"
        parts.append(
            f'<polyline class="{style}" points="{_points(where)}">'
            f"<title>{html.escape(line.name)}</title></polyline>"
        )
        if len(where) == 1:
            parts.append(_dot(*where[0], kind, line.name))
    return _svg(parts, f"{y_label} over {x_label}")


def scatter(points: Sequence[Point], front: Sequence[int], x_label: str, y_label: str) -> str:
    """Named points with intervals over a logarithmic axis, and the Pareto front as steps.

    Args:
        points: one for each colour.
        front: indices of those on the front, by ascending x.
        x_label: below.
        y_label: on the left.
    """
    values = [v for p in points for v in (p.y, p.low, p.high)]
    x = _axis([p.x for p in points], LEFT, WIDTH - RIGHT - 40, True, 0.08)
    y = _axis(values, HEIGHT - BOTTOM, TOP, False, 0.08)
    parts = [_frame(x, y, x_label, y_label)]
    steps: list[tuple[float, float]] = []
    for i in front:
        at = x.at(points[i].x), y.at(points[i].y)
        if steps:
            steps.append((at[0], steps[-1][1]))
        steps.append(at)
    if steps:
        steps.append((WIDTH - RIGHT, steps[-1][1]))
        parts.append(
            f'<polyline class="front" points="{_points(steps)}"><title>Pareto front</title>'
            "</polyline>"
        )
    taken: list[tuple[float, float]] = []
    for i, point in enumerate(points):
        cx, cy = x.at(point.x), y.at(point.y)
        kind = f"s{i % COLOURS}"
        if point.high > point.low:
            a, b = y.at(point.low), y.at(point.high)
            parts.append(f'<path class="line {kind}" d="M{cx:.1f} {a:.1f}V{b:.1f}"/>')
        parts.append(_dot(cx, cy, kind, f"{point.name}: {point.y:.4g} at {_number(point.x)}"))
        right = cx > WIDTH * 0.7
        text_y = cy - 8
        while any(abs(text_y - ty) < 14 and abs(cx - tx) < 110 for tx, ty in taken):
            text_y += 15
        taken.append((cx, text_y))
        anchor = "end" if right else "start"
        shift = -8 if right else 8
        parts.append(
            f'<text x="{cx + shift:.1f}" y="{text_y:.1f}" text-anchor="{anchor}">'
            f"{html.escape(point.name)}</text>"
        )
    return _svg(parts, f"{y_label} against {x_label}")


def intervals(found: Mapping[str, Interval], label: str) -> str:
    """Means with their intervals, one below the other.

    Args:
        found: by name; bounds that are NaN are left out.
        label: of the axis.
    """
    row = 42
    height = TOP + row * len(found) + BOTTOM
    values = [v for interval in found.values() for v in interval if math.isfinite(v)]
    x = _axis(values, RIGHT, WIDTH - RIGHT, False, 0.05)
    parts = []
    for tick in x.ticks():
        at, end = x.at(tick), height - BOTTOM
        parts.append(f'<path class="grid" d="M{at:.1f} {TOP}V{end}"/>')
        parts.append(
            f'<text x="{at:.1f}" y="{end + 17}" text-anchor="middle">{_number(tick)}</text>'
        )
    for i, (name, interval) in enumerate(found.items()):
        kind, y = f"s{i % COLOURS}", TOP + row * i + 30
        if math.isfinite(interval.low):
            low, high = x.at(interval.low), x.at(interval.high)
            parts.append(f'<path class="line {kind}" d="M{low:.1f} {y}H{high:.1f}"/>')
        parts.append(_dot(x.at(interval.mean), y, kind, f"{name}: {interval.mean:.4g}"))
        parts.append(f'<text x="{RIGHT}" y="{y - 12}">{html.escape(name)}</text>')
    parts.append(
        f'<text x="{WIDTH / 2}" y="{height - 6}" text-anchor="middle">{html.escape(label)}</text>'
    )
    return _svg(parts, label, height)


def legend(names: Sequence[str]) -> str:
    """Names beside their colours, in the order of the series."""
    items = "".join(
        f'<li><i class="key s{i % COLOURS}"></i>{html.escape(name)}</li>'
        for i, name in enumerate(names)
    )
    return f'<ul class="legend">{items}</ul>'


def _frame(x: _Axis, y: _Axis, x_label: str, y_label: str) -> str:
    parts = []
    for tick in y.ticks():
        at = y.at(tick)
        parts.append(f'<path class="grid" d="M{LEFT} {at:.1f}H{WIDTH - RIGHT}"/>')
        text = _number(tick)
        parts.append(f'<text x="{LEFT - 7}" y="{at + 4:.1f}" text-anchor="end">{text}</text>')
    for tick in x.ticks():
        at = x.at(tick)
        low = HEIGHT - BOTTOM
        parts.append(f'<path class="grid" d="M{at:.1f} {TOP}V{low}"/>')
        text = _number(tick)
        parts.append(f'<text x="{at:.1f}" y="{low + 17}" text-anchor="middle">{text}</text>')
    middle = (LEFT + WIDTH - RIGHT) / 2
    parts.append(
        f'<text x="{middle}" y="{HEIGHT - 6}" text-anchor="middle">{html.escape(x_label)}</text>'
    )
    height = (TOP + HEIGHT - BOTTOM) / 2
    parts.append(
        f'<text transform="translate(13 {height}) rotate(-90)" text-anchor="middle">'
        f"{html.escape(y_label)}</text>"
    )
    return "".join(parts)


def _dot(x: float, y: float, kind: str, name: str) -> str:
    return (
        f'<circle class="dot {kind}" cx="{x:.1f}" cy="{y:.1f}" r="4.5">'
        f"<title>{html.escape(name)}</title></circle>"
    )


def _points(where: Sequence[tuple[float, float]]) -> str:
    return " ".join(f"{a:.1f},{b:.1f}" for a, b in where)


def _svg(parts: Sequence[str], title: str, height: int = HEIGHT) -> str:
    return (
        f'<svg viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{html.escape(title)}">'
        + "".join(parts)
        + "</svg>"
    )
