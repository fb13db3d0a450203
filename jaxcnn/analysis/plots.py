"""Figures as PNG files: learning curves, confusion matrix, arms against their cost."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxcnn.analysis.compare import Comparison, pareto


def new_figure(width: float, height: float) -> Any:
    """An empty figure of so many inches."""
    from matplotlib.figure import Figure  # not pyplot: no global state, no window system

    return Figure(figsize=(width, height), layout="constrained")


def save_curves(records: Sequence[Mapping[str, Any]], path: Path, title: str) -> None:
    """Draws loss and error rate over epochs, train against test.

    Args:
        records: lines of metrics.jsonl.
        path: PNG file.
        title: above the figure.
    """
    figure = new_figure(9, 3.6)
    figure.suptitle(title)
    left, right = figure.subplots(1, 2)
    epochs = [r["epoch"] for r in records]
    for split, style in (("train", "--"), ("test", "-")):
        # Training figures are missing where metrics.jsonl was lost and its last line made anew.
        losses = [r.get(f"{split}_loss", np.nan) for r in records]
        errors = [100 * (1 - r.get(f"{split}_top1", np.nan)) for r in records]
        left.plot(epochs, losses, style, marker=".", label=split)
        right.plot(epochs, errors, style, marker=".", label=split)
    left.set(xlabel="epoch", ylabel="cross-entropy (nats)", yscale="log")
    right.set(xlabel="epoch", ylabel="top-1 error (%)", yscale="symlog", ylim=(0, None))
    right.yaxis.set_major_formatter("{x:g}")
    for axes in (left, right):
        axes.grid(alpha=0.3)
        axes.legend()
    figure.savefig(path, dpi=120)


def save_confusion(confusion: np.ndarray, classes: Sequence[str], path: Path, title: str) -> None:
    """Draws how often each class was taken for each other, in percent of the class.

    Args:
        confusion: counts, ``(label, prediction)``.
        classes: their names.
        path: PNG file.
        title: above the figure.
    """
    percent = 100 * confusion / np.maximum(confusion.sum(axis=1, keepdims=True), 1)
    n = len(classes)
    side = min(4 + 0.42 * n, 16)
    figure = new_figure(side + 1, side)
    axes = figure.subplots()
    # Errors are what is looked for, and they are few: the square root lifts them.
    image = axes.imshow(np.sqrt(percent), cmap="Blues", vmin=0, vmax=10)
    axes.set(xlabel="prediction", ylabel="label", title=title)
    if n <= 30:
        axes.set_xticks(range(n), classes, rotation=45, ha="right")
        axes.set_yticks(range(n), classes)
        for i, row in enumerate(percent):
            for j, value in enumerate(row):
                if value:
                    colour = "white" if value > 36 else "black"
                    text = f"{value:.0f}" if value >= 10 else f"{value:.1f}"
                    axes.text(j, i, text, ha="center", va="center", color=colour, fontsize=8)
    bar = figure.colorbar(image, label="percent of the class")
    ticks = [0, 1, 5, 10, 25, 50, 100]
    bar.set_ticks(np.sqrt(ticks), labels=[str(t) for t in ticks])
    figure.savefig(path, dpi=120)


def save_comparison(comparison: Comparison, path: Path) -> None:
    """Draws the accuracy of every arm against its cost, with 95 % intervals and Pareto fronts.

    Args:
        comparison: at least one arm.
        path: PNG file.
    """
    figure = new_figure(10, 4)
    left, right = figure.subplots(1, 2, sharey=True)
    results = comparison.results
    top1 = [100 * result.accuracy.mean for result in results]
    for axes, label, costs in (
        (left, "multiply-accumulates for one image", [float(r.macs) for r in results]),
        (right, "training time (s)", [r.seconds for r in results]),
    ):
        front = pareto(costs, top1)
        x, y = [costs[i] for i in front], [top1[i] for i in front]
        axes.step(x, y, where="post", color="0.6", linestyle=":", label="Pareto front")
        for result, cost, value in zip(results, costs, top1, strict=True):
            low, high = 100 * result.accuracy.low, 100 * min(result.accuracy.high, 1.0)
            error = [[value - low], [high - value]]
            axes.errorbar(cost, value, yerr=error, marker="o", capsize=3, linestyle="none")
            axes.annotate(
                result.name, (cost, value), xytext=(6, 4), textcoords="offset points", fontsize=9
            )
        axes.set(xlabel=label, xscale="log")
        axes.margins(x=0.25)
        axes.grid(alpha=0.3)
    left.set(ylabel="test top-1 (%)")
    right.legend(loc="lower right")
    figure.suptitle(f"{comparison.dataset}: test top-1 against cost, 95 % intervals")
    figure.savefig(path, dpi=120)
