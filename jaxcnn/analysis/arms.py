"""Reads finished run folders and groups them into arms: runs that differ in their seed alone."""

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from jaxcnn import models
from jaxcnn.analysis import summary
from jaxcnn.config import RESUME_MAY_CHANGE, Experiment, differences, flat, to_dict
from jaxcnn.data import augment
from jaxcnn.errors import InputError, as_input_error
from jaxcnn.learning import files, run_folder, standing
from jaxcnn.learning.records import Environment, Evaluation, RunDataset, Summary, plain
from jaxcnn.learning.selection import score
from jaxcnn.tasks import Metric


@dataclass(frozen=True)
class FinishedRun:
    """What a finished run left in its folder.

    Attributes:
        path: the folder.
        experiment: the experiment that was trained.
        dataset: contents of dataset.json.
        environment: contents of env.json.
        records: the lines of metrics.jsonl.
        summary: contents of summary.json.
        metrics: what it is judged by.
    """

    path: Path
    experiment: Experiment
    dataset: RunDataset
    environment: Environment
    records: tuple[Evaluation, ...]
    summary: Summary
    metrics: tuple[Metric, ...]

    @property
    def seed(self) -> int:
        """The seed of everything random in the run."""
        return self.experiment.train.seed

    def layers(self) -> summary.Summary | None:
        """Returns the network's layers; None if it was brought, and is not at hand."""
        config, classes = self.experiment, len(self.dataset.classes)
        if isinstance(config.model.name, str) and ":" in config.model.name:
            return None
        shape = augment.input_shape(config.data, config.augment, self.dataset.image_shape)
        name, options = config.model.name, {**config.model.options, "dtype": config.model.dtype}
        return _summarize(models.create_model(name, num_classes=classes, **options), shape)


@dataclass(frozen=True)
class Arm:
    """Runs of one experiment with different seeds, in ascending order of the seeds.

    Attributes:
        name: the experiment's name, made unique by the folder where two arms share it.
        runs: the runs, at least one.
    """

    name: str
    runs: tuple[FinishedRun, ...]

    @property
    def experiment(self) -> Experiment:
        """The experiment with the first seed."""
        return self.runs[0].experiment

    @property
    def metric(self) -> Metric:
        """What the runs are chosen and compared by."""
        return self.runs[0].metrics[0]

    @property
    def seeds(self) -> tuple[int, ...]:
        """The seeds of the runs."""
        return tuple(run.seed for run in self.runs)

    def last(self, field: str) -> list[float]:
        """Returns a field of every run's last record; NaN where it is missing."""
        values = [run.records[-1].value(field) for run in self.runs]
        return [np.nan if value is None else float(value) for value in values]

    def layers(self) -> summary.Summary | None:
        """Returns the network's layers with their costs, as of a run."""
        return self.runs[0].layers()


_summarize = functools.lru_cache(summary.summarize)  # seeds of one arm share it


def find(paths: Sequence[Path]) -> list[Path]:
    """Finds the run folders among the paths and within them.

    Those of a comparison come in the order in which it plans them, so that the arms have the order
    of its file, and the same one is the baseline.

    Raises:
        InputError: a path neither is nor holds a run folder.
    """
    found: dict[Path, None] = {}
    for path in paths:
        inside = run_folder.within(path)
        if not inside:
            raise InputError(f"{path}: neither is nor holds a run folder (one with config.json)")
        place = {run: i for i, run in enumerate(standing.planned_within(path))}
        found |= dict.fromkeys(sorted(inside, key=lambda run: place.get(run, len(place))))
    return list(found)


def read(path: Path) -> FinishedRun:
    """Reads a finished run.

    Raises:
        InputError: the run is unfinished or damaged; the message names the file.
    """
    experiment = run_folder.read_config(path)
    if not (path / "summary.json").exists():
        raise InputError(f"{path}: is not finished; `jaxcnn train` goes on with it")
    result, metrics = run_folder.read_summary(path), run_folder.judged(path).metrics
    if result.seed != experiment.train.seed:
        raise InputError(
            f"{path / 'summary.json'}: seed={result.seed}: must be {experiment.train.seed}, as in "
            "config.json"
        )
    records = run_folder.evaluations(path)
    ends = [score(plain(one), metrics[0]) for one in (*records[-1:], result)]
    if len({*ends}) != 1 or not records:
        raise InputError(f"{path / 'metrics.jsonl'}: does not end in the result of summary.json")
    run = FinishedRun(
        path,
        experiment,
        files.read(path / "dataset.json", RunDataset),
        files.read(path / "env.json", Environment),
        tuple(records),
        result,
        metrics,
    )
    with as_input_error(str(path / "config.json")):
        run.layers()
    return run


def read_all(paths: Sequence[Path]) -> tuple[list[FinishedRun], list[str]]:
    """Reads the runs that can be read; returns them, and a line on each that cannot."""
    runs, problems = [], []
    for path in paths:
        try:
            runs.append(read(path))
        except InputError as error:
            problems.append(str(error))
    return runs, problems


def group(runs: Sequence[FinishedRun], *, same_test: bool = True) -> list[Arm]:
    """Groups runs into arms, in the order of their first runs.

    Args:
        runs: the runs.
        same_test: whether all must have been tested on the same data.

    Raises:
        InputError: runs were tested on different data, or two are of the same arm and seed.
    """
    arms: list[list[FinishedRun]] = []
    for run in runs:
        arm = next((arm for arm in arms if _alike(arm[0].experiment, run.experiment)), None)
        if arm is None:
            arms.append([run])
            continue
        twin = next((other for other in arm if other.seed == run.seed), None)
        if twin is not None:
            raise InputError(f"{run.path}: has the experiment and the seed of {twin.path}")
        arm.append(run)
    if runs and same_test:
        _check_same_test(runs)
    names = [arm[0].experiment.name for arm in arms]
    for told_apart in (
        "{run.experiment.name} ({run.path.name})",
        "{run.experiment.name} ({run.path})",
    ):
        names = [
            told_apart.format(run=arm[0]) if names.count(name) > 1 else name
            for name, arm in zip(names, arms, strict=True)
        ]
    return [
        Arm(name, tuple(sorted(arm, key=lambda run: run.seed)))
        for name, arm in zip(names, arms, strict=True)
    ]


MAY_DIFFER = (RESUME_MAY_CHANGE | {"train.seed"}) - {"name", "train.epochs", "train.patience"}
"""Fields in which runs of one arm may differ; only the seed among them decides what is learned."""


def _alike(a: Experiment, b: Experiment) -> bool:
    """Returns whether two experiments are of one arm."""
    return not differences(to_dict(a), to_dict(b)).keys() - MAY_DIFFER


def _check_same_test(runs: Sequence[FinishedRun]) -> None:
    """Checks that runs were tested on the same images.

    Compared are the dataset's name, its classes and how many test images counted; among runs whose
    test images have one form, the digest of those; and where forms differ or data are streamed,
    the bytes of the files that the images were read from. Older folders lack some digests.

    Raises:
        InputError: they were not; names the field that differs.
    """
    for run in runs:
        form, in_memory = run.dataset.test_form, run.dataset.files_sha256 is None
        alike = next(other for other in runs if other.dataset.test_form == form)
        if run.metrics != runs[0].metrics:
            judged = [", ".join(m.title for m in one.metrics) for one in (run, runs[0])]
            raise InputError(
                f"{run.path}: is judged by {judged[0]}, but {runs[0].path} by {judged[1]}"
            )
        checks = [(runs[0], name) for name in ("name", "classes", "test_examples")]
        checks.append((alike, "test_sha256"))
        if run.dataset.test_files_sha256 is not None:
            first = next(other for other in runs if other.dataset.test_files_sha256 is not None)
            if not in_memory or first.dataset.test_form != form:
                checks.append((first, "test_files_sha256"))
        for other, field in checks:
            mine, theirs = (getattr(one.dataset, field) for one in (run, other))
            if mine != theirs:
                raise InputError(
                    f"{run.path}: was tested on other data than {other.path} "
                    f"(dataset.json: {field} {mine!r}, not {theirs!r})"
                )


def config_differences(arms: Sequence[Arm]) -> dict[str, list[Any]]:
    """Returns the fields in which the arms' experiments differ, with the value in each.

    Fields that may differ within an arm do not count; nor does the name.
    """
    dicts = [to_dict(arm.experiment) for arm in arms]
    fields = {name for other in dicts[1:] for name in differences(dicts[0], other)}
    return {
        name: [flat(values).get(name) for values in dicts]
        for name in sorted(fields - MAY_DIFFER - {"name"})
    }
