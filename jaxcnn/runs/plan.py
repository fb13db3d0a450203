"""Which runs several seeds or a comparison are made of, and what seeds say as a group."""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from jaxcnn.analysis.statistics import ANYWHERE, NOT_NEGATIVE, mean_interval
from jaxcnn.config import MOST_SEEDS, Comparison, Experiment
from jaxcnn.errors import InputError
from jaxcnn.learning import files, processes, run_folder
from jaxcnn.runs.start import Outcome, Run
from jaxcnn.tasks import Metric


class Planned(NamedTuple):
    """What a command will train."""

    folder: Path
    """The folder of its run, or of its runs."""
    runs: Sequence[Run]
    """The runs; of a search one that is like all of them."""
    number: int
    """How many runs there will be."""


def with_seed(experiment: Experiment, seed: int) -> Experiment:
    """Returns the experiment with another seed."""
    return replace(experiment, train=replace(experiment.train, seed=seed))


def seeds(experiment: Experiment, workdir: Path, count: int) -> list[Run]:
    """Returns runs with the seeds ``train.seed``, ``train.seed + 1``, ..., in folders ``seedN``.

    Raises:
        InputError: there are none, too many, or seeds too large; or the folder is that of a run.
    """
    if processes.on_first((workdir / "config.json").exists):
        raise InputError(
            f"--seeds {count}: workdir {workdir} is a run itself; give a folder for several runs"
        )
    first = experiment.train.seed
    most = min(MOST_SEEDS, 2**31 - first)
    if not 0 < count <= most:
        raise InputError(f"--seeds {count}: must be a whole number in [1, {most}]")
    return [
        Run(with_seed(experiment, seed), workdir / f"seed{seed}")
        for seed in range(first, first + count)
    ]


def comparison(arms: Comparison, workdir: Path) -> list[Run]:
    """Returns every arm with every seed, in folders ``ARM/seedN``.

    One seed of all arms comes before the next, so that what is done when an interruption comes
    can be compared in pairs; those that are computed together come together.
    """
    return [
        Run(with_seed(arm, seed), workdir / arm.name / f"seed{seed}")
        for seed in range(arms.seeds)
        for arm in arms.arms
    ]


def write_seeds(name: str, outcome: Outcome, workdir: Path) -> dict[str, Any]:
    """Writes seeds.json, and returns what it holds; without results where all seeds diverged.

    It tells the spread of the loss and of every metric, on each split.
    """
    summaries = sorted(outcome.results.values(), key=lambda summary: summary["seed"])
    results: dict[str, Any] = {"name": name, "seeds": [summary["seed"] for summary in summaries]}
    if summaries:
        results["selected_on"] = summaries[0].get("selected_on", "test")  # the same for all
        first = next(iter(outcome.results))
        known = processes.on_first(
            lambda: [msgspec.to_builtins(metric) for metric in run_folder.judged(first).metrics]
        )
        metrics = [Metric(**values) for values in known]
        positive = all(summary["test_loss"] >= 0 for summary in summaries)
        within = {"loss": NOT_NEGATIVE if positive else ANYWHERE}
        within |= {metric.name: metric.bounds for metric in metrics}
        results |= {
            key: spread([summary[key] for summary in summaries], bounds)
            for prefix in ("val", "test", "train")
            for key, bounds in ((f"{prefix}_{name}", bounds) for name, bounds in within.items())
            if all(key in summary for summary in summaries)  # lost metrics have none of training
        }
    processes.on_first(lambda: files.write_json(workdir / "seeds.json", results))
    return results


def spread(values: Sequence[float], within: tuple[float, float] = ANYWHERE) -> Mapping[str, Any]:
    """Returns mean, standard deviation and 95 % interval of the mean; None where there is none.

    The interval is that of :func:`~jaxcnn.analysis.statistics.mean_interval`.

    >>> spread([1.0, 2.0, 3.0])["std"]
    1.0
    """
    mean, low, high = mean_interval(values, within=within)
    bounded = not math.isnan(low)
    return {
        "mean": mean,
        "std": statistics.stdev(values) if len(values) > 1 else None,
        "low": low if bounded else None,
        "high": high if bounded else None,
        "values": list(values),
    }
