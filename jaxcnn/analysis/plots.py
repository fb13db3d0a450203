"""Figures of one run: learning curves and confusion matrix."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np


def _figure(width: float, height: float) -> Any:
    from matplotlib.figure import Figure  # not pyplot: no global state, no window system

    return Figure(figsize=(width, height), layout="constrained")


def save_curves(records: Sequence[Mapping[str, Any]], path: Path, title: str) -> None:
    """Draws loss and error rate over epochs, train against test.

    Args:
        records: lines of metrics.jsonl.
        path: PNG file.
        title: above the figure.
    """
    figure = _figure(9, 3.6)
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
    figure = _figure(side + 1, side)
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
