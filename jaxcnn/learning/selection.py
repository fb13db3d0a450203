"""By which examples epochs and trials are chosen, and what that means for their accuracy."""

from collections.abc import Mapping
from typing import Any

from jaxcnn.config import Experiment

OPTIMISTIC = "chosen on the test set: an optimistic estimate"
"""What is said of a test accuracy that is the best of several."""

PREFIX = {"train": "train", "validation": "val", "test": "test"}
"""With what the names of a split's metrics begin."""


def score(record: Mapping[str, Any]) -> float:
    """Returns what is chosen by: the higher, the better; -1 of a record without any evaluation.

    That is top-1 on the validation set, and where there is none on the test set.

    >>> score({"val_top1": 0.5, "test_top1": 0.75}), score({"test_top1": 0.75}), score({})
    (0.5, 0.75, -1.0)
    """
    return float(record.get("val_top1", record.get("test_top1", -1.0)))


def chosen_on_test(experiment: Experiment) -> bool:
    """Tells whether patience or a sweep chose a run, as it is recorded, by its test accuracy."""
    asked = experiment.train.patience is not None or experiment.train.select_on == "test"
    return asked and experiment.data.validation is None
