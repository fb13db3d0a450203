"""What the files of a run folder hold, as records whose fields are checked when they are read.

A description says in words what a field accepts. Folders of older versions lack the fields that
have a default; fields of newer versions are passed over.
"""

import re
import reprlib
import sys
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

from msgspec import Meta, Struct, to_builtins

from jaxcnn.tasks import Metric

MAX = sys.float_info.max
EXACT = 2**53
"""The largest whole number that every reader of JSON keeps."""

Count = Annotated[int, Meta(ge=1, le=EXACT, description="a positive whole number")]
Natural = Annotated[int, Meta(ge=0, le=EXACT, description="a whole number >= 0")]
Number = Annotated[float, Meta(ge=-MAX, le=MAX, description="a finite number")]
NotNegative = Annotated[float, Meta(ge=0, le=MAX, description="a finite number >= 0")]
Warmth = Annotated[float, Meta(ge=0.01, le=100, description="a number in [0.01, 100]")]
Truth = Annotated[bool, Meta(description="true or false")]
Text = Annotated[str, Meta(description="a text")]
Texts = Annotated[tuple[str, ...], Meta(description="a list of texts")]
Selected = Annotated[Literal["validation", "test"], Meta(description="'validation' or 'test'")]
Mode = Literal["map", "unroll", "vmap", "layers", "devices", "alone"]
Side = Annotated[int, Meta(ge=1, le=2**14)]


class Dataset(Struct, kw_only=True, frozen=True, omit_defaults=True):
    """dataset.json, as far as imported weights have it too."""

    name: Text
    classes: Annotated[
        tuple[str, ...], Meta(min_length=1, description="a list of texts, one for each class")
    ]
    image_shape: Annotated[
        tuple[Side, Side, Annotated[int, Meta(ge=1, le=2**10)]],
        Meta(description="height, width (up to 16384) and channels (up to 1024) of an image"),
    ]
    image_dtype: Annotated[
        Literal["uint8", "float32"] | None, Meta(description="'uint8' or 'float32'")
    ] = None
    sha256: Text | None = None
    test_form: Text | None = None
    test_sha256: Text | None = None
    files_sha256: Text | None = None
    test_files_sha256: Text | None = None
    teacher_sha256: Text | None = None


class RunDataset(Dataset, kw_only=True, frozen=True, omit_defaults=True):
    """dataset.json of a run, which has seen the data."""

    train_examples: Count
    test_examples: Count
    validation_examples: Count | None = None


class RunId(Struct, kw_only=True, frozen=True):
    """run.json: see :mod:`jaxcnn.learning.identity`."""

    run: Text
    unmarked_until: Annotated[int, Meta(ge=-1, le=EXACT, description="a whole number >= -1")]


class Source(Struct, kw_only=True, frozen=True):
    """A field of brought.json: see :mod:`jaxcnn.learning.brought`."""

    name: Text
    file: Text | None = None
    sha256: Text | None = None
    before: Annotated[tuple["FormerSource", ...], Meta(description="a list of former sources")] = ()


class FormerSource(Struct, kw_only=True, frozen=True):
    """What a run learned with up to a step, before a change of the source was accepted."""

    sha256: Text
    until_step: Natural


class Environment(Struct, kw_only=True, frozen=True, omit_defaults=True):
    """env.json: all beside the config that can change the last bits."""

    platform: Text | None = None
    devices: Texts | None = None
    processes: Count | None = None
    cores: Count | None = None
    processor: Text | None = None
    system: Text | None = None
    python: Text | None = None
    versions: Annotated[dict[str, str], Meta(description="texts by the names of packages")] = {}
    mesh: (
        Annotated[dict[str, int], Meta(description="whole numbers by the names of axes")] | None
    ) = None


class Measured(Struct, kw_only=True, frozen=True, omit_defaults=True):
    """What an evaluation has found, and what the training since the one before has.

    A run that holds examples out for validation evaluates these; else it evaluates the test set.
    ``metrics`` are those of the task, under the names that they have in the file: ``test_top1``.
    """

    step: Natural
    seconds: NotNegative
    val_loss: Number | None = None
    train_loss: Number | None = None
    grad_norm: NotNegative | None = None
    images_per_sec: NotNegative | None = None
    step_time: NotNegative | None = None
    data_wait: NotNegative | None = None
    goodput: NotNegative | None = None
    loss_scale: NotNegative | None = None
    skipped_steps: Natural | None = None
    metrics: Annotated[dict[str, Any], Meta(description="numbers by the names of metrics")] = {}

    def value(self, name: str) -> float | None:
        """Returns the loss or a metric, such as ``test_top1``; None where it is not there."""
        found = self.metrics.get(name, getattr(self, name, None))
        return None if found is None else float(found)


class Evaluation(Measured, kw_only=True, frozen=True, omit_defaults=True):
    """A line of metrics.jsonl."""

    epoch: Natural
    lr: Number | None = None
    test_loss: Number | None = None

    def __post_init__(self) -> None:
        """Checks that something was evaluated."""
        if self.test_loss is None and self.val_loss is None:
            raise ValueError("missing required field `test_loss`")


class Summary(Measured, kw_only=True, frozen=True, omit_defaults=True):
    """summary.json: the last evaluation, and what else is known of a finished run."""

    test_loss: Number
    seed: Natural
    epochs: Natural
    parameters: Natural
    params_sha256: Text
    name: Text | None = None
    model: Text | None = None
    dataset: Text | None = None
    memory_bytes: Natural | None = None
    spent: (
        Annotated[dict[str, NotNegative], Meta(description="seconds by what took them")] | None
    ) = None
    runs_together: Count | None = None
    selected_on: Selected | None = None
    best_epoch: Natural | None = None
    stopped_early: Truth | None = None
    state_sha256: Text | None = None


class Temperature(Struct, kw_only=True, frozen=True):
    """temperature.json: what a run's logits are divided by, as ``eval --fit-temperature`` found it.

    Attributes:
        variables_sha256: digest of what the network was run with: parameters and statistics.
        examples: how many examples of the validation set it was fitted to.
        nll_before: their negative log-likelihood in nats at a temperature of 1.
        nll_after: the same at this temperature.
    """

    temperature: Warmth
    standard_error: NotNegative
    checkpoint: Annotated[Literal["latest", "best"], Meta(description="'latest' or 'best'")]
    variables_sha256: Text
    examples: Count
    nll_before: NotNegative
    nll_after: NotNegative


Ending = Literal["diverged", "failed", "pruned"]


class Fault(Struct, kw_only=True, frozen=True):
    """failed.json: why a run ended before its last step."""

    ended: Annotated[Ending, Meta(description="'diverged', 'failed' or 'pruned'")]
    reason: Text


class Progress(Struct, kw_only=True, frozen=True):
    """progress.json: how far a run is that is being trained, and where that is."""

    step: Natural
    total_steps: Count
    epoch: Natural
    images_per_sec: NotNegative
    seconds_left: NotNegative
    host: Text


class Planned(Struct, kw_only=True, frozen=True):
    """planned.json: the names of the runs that are trained in a folder, in their order."""

    runs: Texts


Fitted = dict[str, float | tuple[float, ...]]
"""Numbers that a task has found in the training labels, by the names of its fields."""


class Judged(Struct, kw_only=True, frozen=True):
    """task.json: how a task other than classification judges a run.

    Attributes:
        name: the task's name.
        metrics: its metrics, as :func:`jaxcnn.tasks.judged_by` gives them.
        fitted: what :meth:`jaxcnn.tasks.BaseTask.fit` found in the training labels.
    """

    name: Text
    metrics: Annotated[
        tuple[Metric, ...], Meta(min_length=1, description="a list of metrics, at least one")
    ]
    fitted: Annotated[Fitted, Meta(description="numbers by the names of fields")] = {}


class Corrupted(Struct, kw_only=True, frozen=True, omit_defaults=True):
    """What a run reaches on test images that were changed in one way.

    Attributes:
        values: loss and metrics by name.
        examples: how many images were counted.
        right: a bit for each of them, whether it was answered rightly, from the first on; in
            hexadecimal. None where the metric does not count that.
    """

    values: Annotated[dict[str, Number], Meta(description="finite numbers by the names of metrics")]
    examples: Count
    right: Text | None = None


class Corruptions(Struct, kw_only=True, frozen=True, omit_defaults=True):
    """What a run reaches on its test images as they are, and corrupted.

    Attributes:
        formulas: the number of the formulas by which images were corrupted.
        params_sha256: digest of what the network was run with.
        test_sha256: of the test images, as in dataset.json.
        test_files_sha256: likewise.
        limit: how many of the images were taken; None for all.
        seed: of the corruptions, and of which images were taken.
        metric: the one that ``right`` counts, if any does.
        found: by kind of corruption ("none" for the images as they are) and severity.
        found_sha256: digest of ``found``, by which damage is noticed.
    """

    formulas: Count
    params_sha256: Text
    test_sha256: Text
    test_files_sha256: Text | None = None
    limit: Count | None = None
    seed: Natural = 0
    metric: Text
    found: Annotated[
        dict[str, dict[str, Corrupted]], Meta(description="results by corruptions and severities")
    ] = {}
    found_sha256: Text = ""


class KeptCorruptions(Struct, kw_only=True, frozen=True):
    """corruptions.json: results of the checkpoints of a run, on all of its test images or on some.

    Attributes:
        results: one for the parameters of each checkpoint and each number of images.
    """

    results: Annotated[tuple[Corruptions, ...], Meta(description="a list of results")]


METRIC = re.compile(r"(best_)?(train|val|test)_[A-Za-z]\w*")
"""The names of metrics in a file."""


def gathered(values: Mapping[str, Any], kind: type[Struct]) -> dict[str, Any]:
    """Returns what a file holds with the task's metrics in a place of their own.

    Args:
        values: the content of a file, or of one of its lines.
        kind: the record that it is of.
    """
    fields = {*kind.__struct_fields__}
    own = {k: v for k, v in values.items() if k not in fields and METRIC.fullmatch(k)}
    rest = {k: v for k, v in values.items() if k not in own and k != "metrics"}
    return {**rest, "metrics": own}


def plain(record: Measured) -> dict[str, Any]:
    """Returns a record as it stands in its file."""
    found: dict[str, Any] = to_builtins(record)
    metrics = found.pop("metrics", {})
    return {**found, **metrics}


def fault(record: Measured, metrics: Sequence[Metric]) -> str | None:
    """Says what is wrong with the metrics of a record, by what judges its run; None if nothing is.

    Each must be in its bounds, and the one that is chosen by must be there.
    """
    known = {metric.name: metric for metric in metrics}
    for name, value in record.metrics.items():
        metric = known.get(name.removeprefix("best_").partition("_")[2], Metric("", ""))
        low, high = metric.bounds
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if not number or not max(low, -MAX) <= value <= min(high, MAX):
            return f"{name}={reprlib.repr(value)}: must be {metric.accepted}"
    first = metrics[0].name
    if record.value(f"val_{first}") is None and record.value(f"test_{first}") is None:
        return f"lacks test_{first}"
    return None


class Together(Struct, kw_only=True, frozen=True):
    """together.json: how each of several runs is computed."""

    modes: Annotated[
        dict[str, Mode],
        Meta(description="'map', 'unroll', 'vmap', 'layers', 'devices' or 'alone', by runs"),
    ]
