"""Parallel coordinates: what every trial of a sweep was given, and what it reached."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxcnn.analysis.plots import new_figure


def save_sweep(rows: Sequence[Mapping[str, Any]], path: Path, title: str) -> None:
    """Draws parallel coordinates: an axis for each swept field, a line for each trial.

    Args:
        rows: ``values`` by field, and ``test_top1``.
        path: PNG file.
        title: above the figure.
    """
    from matplotlib import colormaps
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize

    fields = list(rows[0]["values"])
    columns = [_coordinate([row["values"][field] for row in rows]) for field in fields]
    top1 = [100 * row["test_top1"] for row in rows]
    columns.append(_coordinate(top1))
    names = [*fields, "test top-1 (%)"]
    figure = new_figure(max(2.4 * len(names), 6) + 1, 4.2)
    axes = figure.subplots()
    colour = ScalarMappable(Normalize(min(top1), max(top1)), colormaps["viridis"])
    # The best trials lie on top.
    for i in sorted(range(len(rows)), key=lambda i: top1[i]):
        heights = [where[i] for where, _ in columns]
        axes.plot(range(len(names)), heights, color=colour.to_rgba(top1[i]), alpha=0.85)
    for place, (_, ticks) in enumerate(columns):
        axes.axvline(place, color="0.3", linewidth=1)
        for height, text in ticks:
            axes.annotate(
                text,
                (place, height),
                xytext=(5, 0),
                textcoords="offset points",
                va="center",
                fontsize=8,
                bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 0.8},
            )
    axes.set_xticks(range(len(names)), names)
    axes.set_yticks([])
    axes.set(xlim=(-0.15, len(names) - 0.6), ylim=(-0.06, 1.06), title=title)
    for side in ("left", "right", "top", "bottom"):
        axes.spines[side].set_visible(False)
    figure.colorbar(colour, ax=axes, label="test top-1 (%)")
    figure.savefig(path, dpi=120)


def _coordinate(values: Sequence[Any]) -> tuple[list[float], list[tuple[float, str]]]:
    """Heights in [0, 1] of a column's values, and the ticks beside its axis."""
    if all(isinstance(v, int | float) and not isinstance(v, bool) for v in values):
        if len(set(values)) > 1:
            return _numbers(values)
        values = [f"{v:g}" for v in values]
    words = list(dict.fromkeys(map(str, values)))  # in the order of their first appearance
    height = {word: (i + 0.5) / len(words) for i, word in enumerate(words)}
    return [height[str(v)] for v in values], [(h, word) for word, h in height.items()]


def _numbers(values: Sequence[float]) -> tuple[list[float], list[tuple[float, str]]]:
    """Of numbers; on a logarithmic axis if they span decades and crowd at the lower end."""
    distinct = sorted(set(values))
    low, high = distinct[0], distinct[-1]
    log = low > 0 and high / low > 20 and float(np.median(values)) < (low + high) / 4

    def at(value: float) -> float:
        share = np.log(value / low) / np.log(high / low) if log else (value - low) / (high - low)
        return float(share)

    if len(distinct) <= 6:
        marks = distinct
    else:
        marks = [float(m) for m in (np.geomspace if log else np.linspace)(low, high, 5)]
    return [at(v) for v in values], [(at(v), f"{v:.4g}") for v in marks]
