"""By which examples epochs and trials are chosen, and what that means for their accuracy."""

import math
from collections.abc import Mapping
from typing import Any

from jaxcnn.config import Experiment
from jaxcnn.errors import InputError
from jaxcnn.tasks import BaseTask, Metric

OPTIMISTIC = "chosen on the test set: an optimistic estimate"
"""What is said of a test accuracy that is the best of several."""

PREFIX = {"train": "train", "validation": "val", "test": "test"}
"""With what the names of a split's metrics begin."""


def score(record: Mapping[str, Any], metric: Metric) -> float:
    """Returns what is chosen by: the higher, the better; -inf of a record without any evaluation.

    That is the metric on the validation set, and where there is none on the test set.

    >>> top1 = Metric("top1", "top-1")
    >>> score({"val_top1": 0.5, "test_top1": 0.75}, top1), score({"test_top1": 0.75}, top1)
    (0.5, 0.75)
    >>> score({"test_mae": 2.0}, Metric("mae", "MAE", higher_is_better=False))
    -2.0
    """
    found = record.get(f"val_{metric.name}", record.get(f"test_{metric.name}"))
    return -math.inf if found is None else metric.score(found)


def of_split(task: BaseTask, sums: Mapping[str, Any], split: str) -> dict[str, float]:
    """Returns loss and metrics as a record names them, from sums; empty without examples.

    Args:
        task: what judges.
        sums: of the task, on the host.
        split: ``"train"``, ``"validation"`` or ``"test"``.

    Raises:
        InputError: a metric is not in its own bounds.
    """
    if not int(sums["count"]):
        return {}
    known, found = {metric.name: metric for metric in task.metrics}, {}
    for name, value in task.means(sums).items():
        low, high = known[name].bounds if name in known else (-math.inf, math.inf)
        margin = 1e-5 * max(1.0, abs(value))  # what rounding may add
        if value < low - margin or value > high + margin:
            raise InputError(f"{task}: {name}={value:g}: must be {known[name].accepted}")
        found[f"{PREFIX[split]}_{name}"] = min(max(value, low), high)
    return found


def chosen_on_test(experiment: Experiment) -> bool:
    """Tells whether patience or a sweep chose a run, as it is recorded, by its test accuracy."""
    asked = experiment.train.patience is not None or experiment.train.select_on == "test"
    return asked and experiment.data.validation is None
