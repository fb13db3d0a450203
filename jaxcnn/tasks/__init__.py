"""What is learned and how it is judged: tasks by name, and the interface for your own."""

import dataclasses
import inspect
import re
from collections.abc import Mapping, Sequence
from typing import Any

from jaxcnn.config import Task
from jaxcnn.config.brought import Brought, require_given
from jaxcnn.config.checked import shown
from jaxcnn.errors import InputError, as_one_line
from jaxcnn.tasks.classification import Classification
from jaxcnn.tasks.interface import BaseTask, Batch, Metric, Sums
from jaxcnn.tasks.multilabel import Multilabel
from jaxcnn.tasks.regression import Regression
from jaxcnn.tasks.segmentation import Segmentation
from jaxcnn.text import printable

__all__ = [
    "LOSS",
    "TASKS",
    "BaseTask",
    "Batch",
    "Classification",
    "Metric",
    "Multilabel",
    "Regression",
    "Segmentation",
    "Sums",
    "build",
    "judged_by",
    "require_sound",
]

TASKS: dict[str, type[BaseTask]] = {
    "classification": Classification,
    "multilabel": Multilabel,
    "regression": Regression,
    "segmentation": Segmentation,
}
LOSS = Metric("loss", "loss", higher_is_better=False)
"""What judges a network whose task has no metrics."""


def build(
    config: Task, label_smoothing: float = 0.0, fitted: Mapping[str, Any] | None = None
) -> BaseTask:
    """Makes the task that a config names.

    Args:
        config: name and options.
        label_smoothing: the field ``train.label_smoothing``, for tasks that have it.
        fitted: what :meth:`BaseTask.fit` has found in the training labels.

    Raises:
        InputError: an unknown option, or what was brought makes no task.
    """
    require_given(config.name, "task.name")
    brought = isinstance(config.name, Brought)
    make: Any = config.name.target if isinstance(config.name, Brought) else TASKS[config.name]
    with as_one_line(f"task.name={str(config.name)!r}", "cannot be made ({})"):
        takes = inspect.signature(make).parameters
    given = dict(config.options)
    own = {"label_smoothing", *(fitted or ())}
    for option, value in given.items():
        if option not in takes or option in own:
            listed = ", ".join(name for name in takes if name not in own) or "no options"
            if hasattr(make, option) and not dataclasses.is_dataclass(make):
                listed += "; decorate it with @dataclass(frozen=True), which makes its fields such"
            raise InputError(f"task.options.{option}={shown(value)}: {config.name} takes {listed}")
    if "label_smoothing" in takes:
        given["label_smoothing"] = label_smoothing
    elif label_smoothing:
        raise InputError(
            f"train.label_smoothing={label_smoothing}: must be 0 with task.name={config.name!r}"
        )
    with as_one_line(f"task.name={config.name!r}", "cannot be made ({})"):
        task = make(**given, **(fitted or {}))
    if not isinstance(task, BaseTask):
        raise InputError(
            f"task.name={config.name!r}: must make a jaxcnn.BaseTask, made a {type(task).__name__}"
        )
    if brought:
        _check(task, str(config.name))
    return task


def _check(task: BaseTask, name: str) -> None:
    """Checks the metrics of a task that was brought, and that it can be told from others."""
    what = f"task.name={name!r}"
    if type(task).loss is BaseTask.loss:
        raise InputError(f"{what}: must have a method loss(outputs, batch)")
    with as_one_line(what, "must be hashable, such as a frozen dataclass ({})"):
        hash(task)
    if not isinstance(task.metrics, tuple):
        raise InputError(f"{what}: metrics must be a tuple, is {shown(task.metrics)}")
    seen = {"loss", "count"}
    for metric in task.metrics:
        if not isinstance(metric, Metric) or metric.name in seen:
            raise InputError(
                f"{what}: metrics must be jaxcnn.Metric with names of their own, which are not "
                f"loss or count; holds {shown(metric)}"
            )
        require_sound(metric, what)
        seen.add(metric.name)


def require_sound(metric: Metric, what: str) -> None:
    """Checks that the fields of a metric fit together.

    Raises:
        InputError: they do not; begins with ``what``.
    """
    if not re.fullmatch(r"[A-Za-z]\w*", str(metric.name), re.ASCII):
        raise InputError(
            f"{what}: name={shown(metric.name)}: must be letters, digits and underscores, the "
            "first of them a letter"
        )
    for text in (metric.title, metric.error):
        if not isinstance(text, str) or printable(text) != text:
            raise InputError(
                f"{what}: title and error of {metric.name} must be printable text, hold "
                f"{shown(text)}"
            )
    for bound in (metric.low, metric.high):
        if bound is not None and not isinstance(bound, int | float):
            raise InputError(
                f"{what}: bounds of {metric.name} must be numbers, hold {shown(bound)}"
            )
    if metric.of_examples and not metric.is_share:
        raise InputError(
            f"{what}: of_examples of {metric.name} must be False unless low is 0 and high is 1"
        )


def judged_by(task: BaseTask, names: Sequence[str]) -> tuple[Metric, ...]:
    """Returns the metrics of a task, at least one; the first is what is chosen by."""
    return tuple(task.metrics_of(names)) or (LOSS,)
