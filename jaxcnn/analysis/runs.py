"""Run folders read for analysis, and grouped into arms: runs that differ in their seed alone."""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from jaxcnn import models
from jaxcnn.analysis import summary
from jaxcnn.config import Experiment, InputError, differences, from_dict, to_dict
from jaxcnn.data import augment
from jaxcnn.train import files, folder


@dataclass(frozen=True)
class Run:
    """What a finished run left in its folder.

    Attributes:
        path: the folder.
        experiment: what was trained.
        dataset: what dataset.json holds.
        environment: what env.json holds.
        records: the lines of metrics.jsonl.
        summary: what summary.json holds.
    """

    path: Path
    experiment: Experiment
    dataset: Mapping[str, Any]
    environment: Mapping[str, Any]
    records: tuple[Mapping[str, Any], ...]
    summary: Mapping[str, Any]

    @property
    def seed(self) -> int:
        """Seed of everything random in it."""
        return self.experiment.train.seed


@dataclass(frozen=True)
class Arm:
    """Runs of one experiment with different seeds, in ascending order of these.

    Attributes:
        name: of the experiment, made unique by the folder where two share it.
        runs: at least one.
    """

    name: str
    runs: tuple[Run, ...]

    @property
    def experiment(self) -> Experiment:
        """The experiment, with the first seed."""
        return self.runs[0].experiment

    @property
    def seeds(self) -> tuple[int, ...]:
        """Seeds of the runs."""
        return tuple(run.seed for run in self.runs)

    def last(self, field: str) -> list[float]:
        """A field of the last record, for every run; NaN where it is missing."""
        return [float(run.records[-1].get(field, np.nan)) for run in self.runs]

    def layers(self) -> summary.Summary:
        """The network's layers with their costs."""
        config, data = self.experiment.model, self.experiment.data
        about = self.runs[0].dataset
        model = models.create_model(
            config.name, num_classes=len(about["classes"]), dtype=config.dtype, **config.options
        )
        height, width, channels = about["image_shape"]
        shape = (*augment.fitted_size(height, width, data), channels)
        return summary.summarize(model, shape)


def find(paths: Sequence[Path]) -> list[Path]:
    """Run folders among the paths and within them.

    Raises:
        InputError: a path that neither is nor holds a run folder.
    """
    found: dict[Path, None] = {}
    for path in paths:
        inside = [file.parent for file in sorted(path.rglob("config.json"))]
        if not inside:
            raise InputError(f"{path}: neither is nor holds a run folder (one with config.json)")
        found |= dict.fromkeys(inside)
    return list(found)


def read(path: Path) -> Run:
    """Reads a finished run.

    Raises:
        InputError: it is unfinished or damaged; names the file.
    """
    experiment = from_dict(files.read_json(path / "config.json"))
    dataset = files.read_json(
        path / "dataset.json", "name", "classes", "image_shape", "test_examples"
    )
    if not (path / "summary.json").exists():
        raise InputError(f"{path}: is not finished; `jaxcnn train` goes on with it")
    result = files.read_json(path / "summary.json", "test_top1", "epochs", "parameters", "seconds")
    records = folder.read_metrics(path)
    if not records or records[-1].get("test_top1") != result["test_top1"]:
        raise InputError(f"{path / 'metrics.jsonl'}: does not end in the result of summary.json")
    environment = files.read_json(path / "env.json")
    return Run(path, experiment, dataset, environment, tuple(records), result)


def read_all(paths: Sequence[Path]) -> tuple[list[Run], list[str]]:
    """Reads the runs that can be read, and says in one line each why others cannot."""
    runs, problems = [], []
    for path in paths:
        try:
            runs.append(read(path))
        except InputError as error:
            problems.append(str(error))
    return runs, problems


def group(runs: Sequence[Run]) -> list[Arm]:
    """Arms, in the order of their first runs.

    Raises:
        InputError: runs were tested on different data, or two are of the same arm and seed.
    """
    arms: list[list[Run]] = []
    for run in runs:
        mine = _but_seed(run.experiment)
        arm = next((arm for arm in arms if _but_seed(arm[0].experiment) == mine), None)
        if arm is None:
            arms.append([run])
            continue
        twin = next((other for other in arm if other.seed == run.seed), None)
        if twin is not None:
            raise InputError(f"{run.path}: has the experiment and the seed of {twin.path}")
        arm.append(run)
    if runs:
        _check_same_test(runs)
    names = [arm[0].experiment.name for arm in arms]
    return [
        Arm(
            name if names.count(name) == 1 else f"{name} ({arm[0].path.name})",
            tuple(sorted(arm, key=lambda run: run.seed)),
        )
        for name, arm in zip(names, arms, strict=True)
    ]


def _but_seed(experiment: Experiment) -> Experiment:
    """The experiment without what may differ between the runs of one arm."""
    return dataclasses.replace(
        experiment,
        data=dataclasses.replace(experiment.data, dir=None),
        train=dataclasses.replace(experiment.train, seed=0),
    )


def _check_same_test(runs: Sequence[Run]) -> None:
    first = runs[0]
    for run in runs[1:]:
        for field in ("name", "classes", "test_examples"):
            if run.dataset[field] != first.dataset[field]:
                raise InputError(
                    f"{run.path}: was tested on other data than {first.path} "
                    f"(dataset.json: {field} {run.dataset[field]!r}, not {first.dataset[field]!r})"
                )


def config_differences(arms: Sequence[Arm]) -> dict[str, list[Any]]:
    """Fields in which the experiments of the arms differ, with the value in each.

    The seed does not count; nor does the name.
    """
    dicts = [to_dict(_but_seed(arm.experiment)) for arm in arms]
    fields = sorted({name for other in dicts[1:] for name in differences(dicts[0], other)})
    table = {}
    for name in fields:
        if name != "name":
            table[name] = [_value(config, name.split(".")) for config in dicts]
    return table


def _value(config: Any, path: Sequence[str]) -> Any:
    for key in path:
        config = config.get(key) if isinstance(config, Mapping) else None
    return config
