"""Arms against one another: what they cost, what they reach, and whether they differ."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import msgspec
import numpy as np

from jaxcnn.analysis import measures, statistics, summary
from jaxcnn.analysis.arms import Arm, FinishedRun
from jaxcnn.analysis.calibration import CORRUPTED
from jaxcnn.analysis.measures import MEASURES, Measure, MeasureResult
from jaxcnn.analysis.statistics import Interval, Paired
from jaxcnn.data.sources import HeldOut
from jaxcnn.learning.records import RunDataset
from jaxcnn.learning.selection import chosen_on_test
from jaxcnn.tasks import Metric

Predictions = Mapping[Path, Mapping[str, np.ndarray]]
"""What :func:`jaxcnn.runs.evaluation.predict_test_set` gives, by run folder."""


@dataclass(frozen=True)
class ArmResult:
    """The figures of one arm.

    Attributes:
        name: name of the arm.
        seeds: the seeds of its runs.
        layers: its network, layer by layer; None where it was brought and is not at hand.
        parameters: number of learned parameters.
        macs: multiply-accumulates for one image; NaN where the layers are not known.
        seconds: training time, mean over seeds.
        images_per_sec: speed of training: median over epochs, then over seeds.
        memory_bytes: memory planned for the training program, the data included; None if unknown.
        runs_together: how many runs that program trains.
        tested: what the metric is on the test set, one for each seed.
        validated: the same on the validation set; empty without one.
        chosen_on_test: whether patience or a sweep chose by the test set, whose figures are then
            optimistic estimates.
        reached: the mean of ``tested`` and its 95 % interval: over seeds, or for a single run
            Wilson's over test images, if the metric counts them.
        difference: difference from the first arm over the seeds that both have; None for the
            first arm, and where no seed is common.
        p_adjusted: p-value of the difference after Holm's correction; NaN where nothing was
            tested.
        class_errors: share of each class that was taken for another, mean over seeds; empty
            without predictions.
        measures: what it reaches in the measures of which something is known, by their names.
    """

    name: str
    seeds: tuple[int, ...]
    layers: summary.Summary | None
    parameters: int
    macs: float
    seconds: float
    images_per_sec: float
    memory_bytes: int | None
    runs_together: int
    tested: tuple[float, ...]
    validated: tuple[float, ...]
    chosen_on_test: bool
    reached: Interval
    difference: Paired | None
    p_adjusted: float
    class_errors: tuple[float, ...]
    measures: Mapping[str, MeasureResult]


@dataclass(frozen=True)
class ComparisonResult:
    """The figures of all arms on one test set.

    Attributes:
        dataset: name of the dataset.
        classes: names of the classes.
        metric: what is compared.
        test_examples: number of test images.
        corrupted_examples: number of those that were corrupted too; None if none was.
        test: the test that gave the p-values: ``"paired t"`` over seeds, ``"McNemar"`` over test
            images, or ``"none"``. McNemar's needs a baseline of a single run and Student's one of
            several, so it is the same for all arms.
        measures: further figures, of which something is known of at least one arm.
        results: one for each arm; the first is the baseline.
    """

    dataset: str
    classes: tuple[str, ...]
    metric: Metric
    test_examples: int
    corrupted_examples: int | None
    test: str
    measures: tuple[Measure, ...]
    results: tuple[ArmResult, ...]

    @property
    def chosen_by(self) -> HeldOut:
        """The split by which the best arm is chosen: the validation set, where all have one."""
        return "validation" if all(r.validated for r in self.results) else "test"

    @property
    def best(self) -> ArmResult:
        """The arm whose mean on that split is the best."""
        field = {"validation": "validated", "test": "tested"}[self.chosen_by]

        def score(result: ArmResult) -> float:
            return self.metric.score(float(np.mean(getattr(result, field))))

        return max(self.results, key=score)


def compare(arms: Sequence[Arm], predictions: Predictions) -> ComparisonResult:
    """Compares arms with the first.

    Arms with two or more seeds in common are compared by Student's paired test over seeds; two
    arms of a single run each by McNemar's test over test images, which does not know the chance
    of training. P-values are corrected for the number of arms (Holm).

    Args:
        arms: at least one, tested on the same data.
        predictions: predictions of the runs, as far as they are at hand; those on corrupted images
            are of the same images for all runs.
    """
    about = arms[0].runs[0].dataset
    tested = [_difference(arm, arms[0], predictions) for arm in arms[1:]]
    differences = [None, *(difference for difference, _ in tested)]
    adjusted = statistics.holm([d.p_value if d else math.nan for d in differences])
    further = {one: measures.compare(one, arms, predictions) for one in MEASURES}
    corrupted = [len(one[CORRUPTED]) for one in predictions.values() if CORRUPTED in one]
    results = tuple(
        _result(arm, difference, p, predictions, about, _of_arm(further, i))
        for i, (arm, difference, p) in enumerate(zip(arms, differences, adjusted, strict=True))
    )
    return ComparisonResult(
        dataset=about.name,
        classes=about.classes,
        metric=arms[0].metric,
        test_examples=about.test_examples,
        corrupted_examples=max(corrupted, default=None),
        test=next((test for d, test in tested if d and not math.isnan(d.p_value)), "none"),
        measures=tuple(one for one, found in further.items() if any(found)),
        results=results,
    )


def _of_arm(
    further: Mapping[Measure, Sequence[MeasureResult | None]], i: int
) -> dict[str, MeasureResult]:
    found = {measure.metric.name: results[i] for measure, results in further.items()}
    return {name: result for name, result in found.items() if result is not None}


def _difference(
    arm: Arm, baseline: Arm, predictions: Predictions
) -> tuple[Paired | None, Literal["paired t", "McNemar"]]:
    """Returns the difference over the seeds that both have, if any, and the test it was put to."""
    ours = dict(zip(arm.seeds, arm.runs, strict=True))
    theirs = dict(zip(baseline.seeds, baseline.runs, strict=True))
    common = sorted(ours.keys() & theirs.keys())
    if not common:
        return None, "paired t"
    low, high = arm.metric.bounds
    found = statistics.paired_difference(
        [_tested(ours[seed]) for seed in common],
        [_tested(theirs[seed]) for seed in common],
        within=(low - high, high - low),
    )
    a, b = (predictions.get(runs[common[0]].path) for runs in (ours, theirs))
    if len(arm.runs) == len(baseline.runs) == 1 and a is not None and b is not None:
        right, baseline_right = (x["predicted"] == x["label"] for x in (a, b))
        return found._replace(p_value=statistics.mcnemar(right, baseline_right)), "McNemar"
    return found, "paired t"


def _tested(run: FinishedRun) -> float:
    value = run.summary.value(f"test_{run.metrics[0].name}")
    assert value is not None
    return value


def _result(
    arm: Arm,
    difference: Paired | None,
    p_adjusted: float,
    predictions: Predictions,
    about: RunDataset,
    further: Mapping[str, MeasureResult],
) -> ArmResult:
    layers = arm.layers()
    tested, metric = tuple(map(_tested, arm.runs)), arm.metric
    validated = [run.summary.value(f"val_{metric.name}") for run in arm.runs]
    images = about.test_examples
    rates = [
        [r.images_per_sec for r in run.records if r.images_per_sec is not None] for run in arm.runs
    ]
    held = [predictions[run.path] for run in arm.runs if run.path in predictions]
    errors = [class_errors(p, len(about.classes)) for p in held]
    memory = [run.summary.memory_bytes for run in arm.runs]
    return ArmResult(
        name=arm.name,
        seeds=arm.seeds,
        layers=layers,
        parameters=arm.runs[0].summary.parameters,
        macs=layers.macs if layers else math.nan,
        seconds=float(np.mean([run.summary.seconds for run in arm.runs])),
        images_per_sec=float(np.median([np.median(r) if r else np.nan for r in rates])),
        memory_bytes=max((m for m in memory if m), default=None),
        runs_together=max(run.summary.runs_together or 1 for run in arm.runs),
        tested=tested,
        validated=tuple(value for value in validated if value is not None),
        chosen_on_test=chosen_on_test(arm.experiment),
        reached=(
            statistics.wilson_interval(round(tested[0] * images), images)
            if len(tested) == 1 and metric.of_examples
            else statistics.mean_interval(tested, within=metric.bounds)
        ),
        difference=difference,
        p_adjusted=p_adjusted,
        class_errors=tuple(np.mean(errors, axis=0).tolist()) if errors else (),
        measures=further,
    )


def class_errors(predictions: Mapping[str, np.ndarray], classes: int) -> np.ndarray:
    """Returns the share of each class that was taken for another; NaN without images of it."""
    counts = confusion(predictions, classes)
    total = counts.sum(axis=1)
    wrong = total - counts.diagonal()
    return np.divide(wrong, total, out=np.full(classes, np.nan), where=total > 0)


def confusion(predictions: Mapping[str, np.ndarray], classes: int) -> np.ndarray:
    """Counts the images of each label and prediction: ``(label, predicted)``."""
    counts = np.zeros((classes, classes), np.int64)
    np.add.at(counts, (predictions["label"], predictions["predicted"]), 1)
    return counts


def to_json(comparison: ComparisonResult) -> dict[str, Any]:
    """Returns everything but the layers as plain values; NaN becomes null."""
    results = [
        {name: value for name, value in vars(result).items() if name != "layers"}
        for result in comparison.results
    ]
    metric = msgspec.to_builtins(comparison.metric)
    further = [
        {**msgspec.to_builtins(one.metric), "block": one.block} for one in comparison.measures
    ]
    known = {"metric": metric, "measures": further, "results": results}
    return _plain(vars(comparison) | known)


def _plain(value: Any) -> Any:
    if isinstance(value, Interval | Paired):
        value = value._asdict()
    if isinstance(value, MeasureResult):
        value = vars(value)
    if isinstance(value, dict):
        return {name: _plain(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    return None if isinstance(value, float) and math.isnan(value) else value


def pareto(costs: Sequence[float], scores: Sequence[float]) -> list[int]:
    """Returns the indices of the points that no other beats in both, from cheap to costly.

    >>> pareto([1.0, 2.0, 3.0], [0.8, 0.7, 0.9])
    [0, 2]
    """
    front: list[int] = []
    for i in sorted(range(len(costs)), key=lambda i: (costs[i], -scores[i])):
        if not front or scores[i] > scores[front[-1]]:
            front.append(i)
    return front
