"""Figures by which arms are compared beside their metric: how each is called, and found of a run.

A further one is a line of :data:`MEASURES`; tables, pages and comparison.json take it from there.
Measures of one block share a table.
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import msgspec
import numpy as np

from jaxcnn.analysis import calibration, statistics
from jaxcnn.analysis.arms import Arm, FinishedRun
from jaxcnn.analysis.calibration import AURC, BRIER, ECE, ECE_MASS, NLL, Kept
from jaxcnn.analysis.statistics import Interval, Paired
from jaxcnn.data.corruptions import CORRUPTIONS, GROUPS
from jaxcnn.tasks import Metric
from jaxcnn.tasks.classification import TOP1


class Found(NamedTuple):
    """What a run reaches.

    Attributes:
        value: the figure.
        parts: the test images' parts in it, ``(images, columns)``, as
            :func:`~jaxcnn.analysis.statistics.of_parts` sums them up; None where they are not
            known, and a single run then has no test.
        interval: finds the interval over test images; None where that is not known either.
    """

    value: float
    parts: np.ndarray | None = None
    interval: Callable[[], Interval] | None = None


@dataclass(frozen=True)
class Measure:
    """A figure of a run.

    Attributes:
        metric: its name, its title, which is better, and in which bounds it lies.
        block: the heading of the table that it stands in.
        find: returns it for a run, of which the predictions are given where they are at hand; None
            where it is not known.
        form: how it is shown where it is no share.
        tested: whether arms are compared with the first by it. By the expected calibration error
            they are not: chance makes it too large, and more so the less sure a network is, so
            that two calibrated networks would differ.
        at_temperature: whether it is of the network at the temperature of its run.
    """

    metric: Metric
    block: str
    find: Callable[[FinishedRun, Kept | None], Found | None]
    form: str = ".4f"
    tested: bool = True
    at_temperature: bool = False


Test = Literal["paired t", "randomization", "none"]


@dataclass(frozen=True)
class MeasureResult:
    """What an arm reaches.

    Attributes:
        values: one for each seed of which it is known, in their order.
        reached: their mean and its 95 % interval: over seeds Student's, or for a single run
            Wilson's or the bootstrap's over test images.
        difference: difference from the first arm over the seeds that both have; None for the first
            arm, and where no seed is common.
        p_adjusted: p-value of the difference after Holm's correction for the number of arms.
        test: the test that gave it.
    """

    values: tuple[float, ...]
    reached: Interval
    difference: Paired | None
    p_adjusted: float
    test: Test


def _of_predictions(
    metric: Metric,
    parts: Callable[[Kept], np.ndarray] | None = None,
    *,
    title: str = "",
    tested: bool = True,
    at_temperature: bool = False,
) -> Measure:
    """Makes a measure of a figure of calibration.

    Args:
        metric: one of :data:`jaxcnn.analysis.calibration.FIGURES`.
        parts: the images' parts in it, by which single runs are tested.
        title: its title in a narrow table, where it is another.
        tested: see :class:`Measure`.
        at_temperature: likewise.
    """

    def find(run: FinishedRun, kept: Kept | None) -> Found | None:
        if kept is None or not kept.keys() >= calibration.FIELDS:
            return None
        ours = calibration.at_temperature(kept) if at_temperature else kept
        if ours is None:
            return None
        each = None if parts is None else parts(ours).reshape(len(ours["label"]), -1)
        interval = lambda: calibration.figures(ours, [metric])[metric]  # noqa: E731
        return Found(calibration.FIGURES[metric](ours), each, interval)

    name = calibration.TEMPERED * at_temperature + metric.name
    shown = msgspec.structs.replace(metric, name=name, title=title or metric.title)
    return Measure(shown, "calibration", find, tested=tested, at_temperature=at_temperature)


def _of_shares(each: np.ndarray) -> Found:
    """Returns the mean of the images' shares of right answers, ``(images, 1)``."""
    if np.isin(each, (0, 1)).all():
        right = round(float(each.sum()))
        interval = functools.partial(statistics.wilson_interval, right, len(each))
    else:
        interval = functools.partial(statistics.parts_interval, each, statistics.SHARE)
    return Found(statistics.of_parts(each), each, interval)


def _under(kinds: Sequence[str]) -> Callable[[FinishedRun, Kept | None], Found | None]:
    """Returns what finds the share of images that are answered rightly under some corruptions."""
    columns = [CORRUPTIONS.index(kind) for kind in kinds]

    def find(run: FinishedRun, kept: Kept | None) -> Found | None:
        if kept is None or calibration.CORRUPTED not in kept:
            return None
        return _of_shares(kept[calibration.CORRUPTED][:, columns].mean(axis=1, keepdims=True))

    return find


def _uncorrupted(run: FinishedRun, kept: Kept | None) -> Found | None:
    """Finds the share of the same images that are answered rightly as they are."""
    if kept is None or calibration.UNCORRUPTED not in kept:
        return None
    return _of_shares(kept[calibration.UNCORRUPTED])


def _right(name: str, title: str) -> Metric:
    return Metric(f"{name}_{TOP1.name}", f"{TOP1.title}, {title}", low=0, high=1)


MEASURES = (
    _of_predictions(NLL, calibration.negative_log_likelihoods),
    _of_predictions(BRIER, calibration.brier_scores),
    _of_predictions(ECE, tested=False),
    _of_predictions(ECE_MASS, title="ECE (mass)", tested=False),
    _of_predictions(AURC),
    _of_predictions(
        NLL, calibration.negative_log_likelihoods, title="NLL at T", at_temperature=True
    ),
    _of_predictions(BRIER, calibration.brier_scores, title="Brier at T", at_temperature=True),
    _of_predictions(ECE, title="ECE at T", tested=False, at_temperature=True),
    Measure(_right("uncorrupted", "not corrupted"), "corruption", _uncorrupted),
    Measure(_right("corrupted", "all kinds"), "corruption", _under(CORRUPTIONS)),
    *(
        Measure(_right(group, group), "corruption", _under(kinds))
        for group, kinds in GROUPS.items()
    ),
)
"""All measures, in the order in which they are shown. A temperature hardly changes AURC."""

ABOUT = {
    "corruption": "On {images:,} test images that are corrupted in 15 ways at 5 severities "
    "(Hendrycks & Dietterich 2019), which count alike"
}
"""What is to be known about the measures of a block, on so many images."""
OVER_IMAGES = {
    "calibration": "the bootstrap's, of ECE the basic one",
    "corruption": "Wilson's, or where each counts in part the bootstrap's",
}
"""What the intervals of single runs are in each block."""


def compare(
    measure: Measure, arms: Sequence[Arm], predictions: Mapping[Any, Kept]
) -> list[MeasureResult | None]:
    """Compares arms with the first by a measure, as they are compared by their metric.

    Arms with two or more seeds in common are compared by Student's paired test over seeds, two arms
    of a single run each by the paired randomization test over test images.

    Returns:
        One for each arm; None where nothing is known of its runs.
    """
    found = [_found(measure, arm, predictions) for arm in arms]
    first = found[0] if measure.tested else {}
    tested = [_difference(measure.metric, ours, first) for ours in found[1:]]
    differences: list[Paired | None] = [None, *(difference for difference, _ in tested)]
    tests: list[Test] = ["none", *(test for _, test in tested)]
    nan = float("nan")
    adjusted = statistics.holm([d.p_value if d else nan for d in differences])
    return [
        MeasureResult(
            tuple(one.value for one in ours.values()),
            _reached(measure.metric, [*ours.values()]),
            *(difference, p, test),
        )
        if ours
        else None
        for ours, difference, p, test in zip(found, differences, adjusted, tests, strict=True)
    ]


def _found(measure: Measure, arm: Arm, predictions: Mapping[Any, Kept]) -> dict[int, Found]:
    """Returns what is known of an arm's runs, by their seeds."""
    each = {run.seed: measure.find(run, predictions.get(run.path)) for run in arm.runs}
    return {seed: found for seed, found in each.items() if found is not None}


def _reached(metric: Metric, found: Sequence[Found]) -> Interval:
    interval = found[0].interval
    if len(found) == 1 and interval is not None:
        return interval()
    return statistics.mean_interval([one.value for one in found], within=metric.bounds)


def _difference(
    metric: Metric, ours: Mapping[int, Found], theirs: Mapping[int, Found]
) -> tuple[Paired | None, Test]:
    """Returns the difference over the seeds that both have, if any, and the test it was put to."""
    common = sorted(ours.keys() & theirs.keys())
    if not common:
        return None, "none"
    low, high = metric.bounds
    within = (low - high, high - low)
    pairs = [(ours[seed], theirs[seed]) for seed in common]
    (a, b), *more = pairs
    single = len(ours) == len(theirs) == 1
    if single and a.parts is not None and b.parts is not None and len(a.parts) == len(b.parts):
        return statistics.parts_difference(a.parts, b.parts, within), "randomization"
    found = statistics.paired_difference(
        [mine.value for mine, _ in pairs], [other.value for _, other in pairs], within=within
    )
    return found, "paired t" if more else "none"
