"""What networks reach on other images than those they were tested on, as rows with intervals."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxcnn.analysis import statistics
from jaxcnn.analysis.statistics import Interval
from jaxcnn.learning.selection import OPTIMISTIC
from jaxcnn.tasks import LOSS, Metric


class Change(NamedTuple):
    """What is done to the images: a corruption at a severity, or a move by so much; or nothing."""

    kind: str = ""
    level: float = 0.0


CLEAN = Change()


class Curve(NamedTuple):
    """A change whose strength is varied.

    Attributes:
        title: what is varied, for people.
        unit: what the strengths are measured in.
        levels: those that are tried by default.
    """

    title: str
    unit: str
    levels: tuple[float, ...]


CURVES = {
    "shift": Curve("shifts", "pixels", (0, 1, 2, 3, 4, 6, 8)),
    "rotate": Curve("rotations", "degrees", (0, 5, 10, 15, 20, 30, 45, 60, 90)),
    "scale": Curve("scales", "factor", (0.5, 0.6, 0.75, 0.9, 1, 1.1, 1.25, 1.5, 2)),
}
"""The changes that are no corruptions."""


@dataclass(frozen=True)
class Found:
    """What one network reaches on some images.

    Attributes:
        values: loss and metrics by name.
        examples: how many images were counted.
        right: ``(n,)``, for each image how often it was answered rightly, in [0, 1]; None where the
            first metric does not count that.
    """

    values: Mapping[str, float]
    examples: int
    right: np.ndarray | None = None


@dataclass(frozen=True)
class Result:
    """What one run reaches under one condition.

    Attributes:
        run: its folder.
        data: what the images are called.
        side: the height and width that were asked for; None for those of training.
        size: height and width as the network sees them, in words.
        change: what is done to them.
        found: the figures.
    """

    run: Path
    data: str
    side: int | None
    size: str
    change: Change
    found: Found


@dataclass(frozen=True)
class Row:
    """What the runs of an arm reach under one condition.

    Attributes:
        arm: the name of the arm.
        data: as of :class:`Result`.
        side: likewise.
        size: likewise.
        change: likewise.
        found: the figures of each run, in the order of the seeds.
    """

    arm: str
    data: str
    side: int | None
    size: str
    change: Change
    found: tuple[Found, ...]

    @property
    def examples(self) -> int:
        """How many images were counted."""
        return self.found[0].examples

    def value(self, name: str) -> float:
        """Returns the mean of a metric, or of the loss, over the runs."""
        return float(np.mean([found.values[name] for found in self.found]))

    def interval(self, metric: Metric) -> Interval:
        """Returns the mean of a metric and its 95 % interval, of a single run of the first alone.

        Over seeds it is Student's. Of a single run, where the metric counts images, it is Wilson's
        over these; where each was shown in several ways, Student's over the images' own means,
        which are independent, while two ways to show one image are not.
        """
        values = [found.values[metric.name] for found in self.found]
        right = self.found[0].right
        if len(values) > 1:
            return statistics.mean_interval(values, within=metric.bounds)
        if right is None or not metric.of_examples:
            return Interval(values[0], math.nan, math.nan)
        if np.isin(right, (0, 1)).all():
            return statistics.wilson_interval(round(float(right.sum())), right.size)
        return statistics.mean_interval(right.tolist(), within=metric.bounds)


def rows(results: Sequence[Result], arms: Mapping[str, Sequence[Path]]) -> list[Row]:
    """Groups the results of runs by arm and condition, in the order in which they came.

    Args:
        results: of every run under the same conditions.
        arms: the run folders of each arm, in the order of their seeds.
    """
    found = []
    for arm, runs in arms.items():
        of_run = [[result for result in results if result.run == run] for run in runs]
        for same in zip(*of_run, strict=True):
            first = same[0]
            each = tuple(result.found for result in same)
            found.append(Row(arm, first.data, first.side, first.size, first.change, each))
    return found


def mean(of: Sequence[Row]) -> Row:
    """Returns the mean over several changes of the same images, for each run of an arm."""

    def together(found: Sequence[Found]) -> Found:
        values = {
            name: float(np.mean([one.values[name] for one in found])) for name in found[0].values
        }
        right = [one.right for one in found if one.right is not None]
        whole = np.mean(right, axis=0) if len(right) == len(found) else None
        return Found(values, found[0].examples, whole)

    each = tuple(together(found) for found in zip(*(row.found for row in of), strict=True))
    return replace(of[0], found=each)


def by_images(of: Sequence[Row]) -> dict[str, list[Row]]:
    """Returns the rows of each set of images at each size, by a title."""
    found: dict[tuple[str, int | None], list[Row]] = {}
    for row in of:
        found.setdefault((row.data, row.side), []).append(row)
    sizes = {key: {row.size for row in same} for key, same in found.items()}
    return {
        f"{key[0]} at {sizes[key].pop() if len(sizes[key]) == 1 else 'the size of training'}": same
        for key, same in found.items()
    }


def corruptions(of: Sequence[Row]) -> list[Row]:
    """Returns the rows of corruptions among others."""
    return [row for row in of if row.change.kind not in ("", *CURVES)]


def kinds(of: Sequence[Row]) -> list[str]:
    """Returns the kinds of changes of rows, in their order."""
    return list(dict.fromkeys(row.change.kind for row in of))


def relative_error(of: Sequence[Row], baseline: Sequence[Row], metric: Metric) -> float:
    r"""Returns the mean corruption error against a baseline, 1 where both err alike.

    $$\mathrm{mCE} = \frac{1}{|C|} \sum_c \frac{\sum_s E_{s,c}}{\sum_s E^\text{base}_{s,c}}$$

    as Hendrycks and Dietterich (2019) define it, whose baseline is AlexNet on ImageNet.

    Args:
        of: the corruptions of an arm.
        baseline: the same ones of another arm.
        metric: a share that is better if it is higher, whose error is 1 minus it.
    """

    def errors(rows: Sequence[Row], kind: str) -> float:
        return sum(1 - row.value(metric.name) for row in rows if row.change.kind == kind)

    ratios = []
    for kind in kinds(of):
        ours, theirs = errors(of, kind), errors(baseline, kind)
        ratios.append(ours / theirs if theirs else math.nan)
    return float(np.mean(ratios))


def errs(metric: Metric) -> bool:
    """Returns whether 1 minus a metric is an error rate."""
    return metric.is_share and metric.higher_is_better and metric != LOSS


def flat(of: Sequence[Row], metrics: Sequence[Metric]) -> list[dict[str, Any]]:
    """Returns rows as plain values, as they are written into files; what is not known is None.

    Beside the means over runs stand, as ``values``, lists of what each run reaches. The interval of
    the first metric is ``low`` and ``high``; those of the others, which only seeds give, begin with
    their names.

    Args:
        of: the rows.
        metrics: what the runs are judged by.
    """
    first = metrics[0]

    def plain(row: Row, kind: str, level: float | None) -> dict[str, Any]:
        low, high = (None if math.isnan(x) else x for x in row.interval(first)[1:])
        about = {"arm": row.arm, "data": row.data, "image_size": row.size}
        changed = {"change": kind, "level": level, "examples": row.examples}
        values = {name: row.value(name) for name in row.found[0].values}
        bounds = {"runs": len(row.found), "metric": first.name, "low": low, "high": high}
        for metric in (*metrics[1:], LOSS):
            if metric.name in values and metric != first and len(row.found) > 1:
                _, low, high = row.interval(metric)
                bounds |= {f"{metric.name}_low": low, f"{metric.name}_high": high}
        each = {name: [found.values[name] for found in row.found] for name in values}
        return {**about, **changed, **values, **bounds, "values": each}

    found = [plain(row, row.change.kind or "none", row.change.level) for row in of]
    conditions: dict[Any, list[Row]] = {}
    for row in corruptions(of):
        conditions.setdefault((row.arm, row.data, row.side), []).append(row)
    found += [plain(mean(same), "corruptions, mean", None) for same in conditions.values()]
    return found


def explanation(
    of: Sequence[Row], metric: Metric, *, optimistic: bool, tempered: bool = False
) -> str:
    """Explains the figures of rows and their intervals in a few sentences.

    Args:
        of: the rows.
        metric: the first, which intervals are of.
        optimistic: whether checkpoints were chosen by these images.
        tempered: whether a temperature is kept beside a run, which the figures do without.
    """
    seeds = sorted({len(row.found) for row in of})
    said = []
    if seeds[-1] > 1:
        count = f"{seeds[-1]}" if len(seeds) == 1 else f"up to {seeds[-1]}"
        said.append(f"Means over {count} seeds with Student's 95 % interval")
    if seeds[0] == 1 and metric.of_examples:
        said.append(
            "95 % intervals of single runs are over images, not over the chance of training"
        )
    if tempered:
        said.append("Loss without the temperature that is kept beside a run")
    if optimistic:
        said.append(f"The checkpoint was {OPTIMISTIC}")
    return ". ".join(said) + "." * bool(said)
