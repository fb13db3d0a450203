"""Many seeds of one experiment, trained together, and what they say as a group."""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from jaxcnn.analysis.statistics import mean_interval
from jaxcnn.config import Experiment, to_dict
from jaxcnn.runs import group as together
from jaxcnn.runs import jobs
from jaxcnn.runs.training import Listener
from jaxcnn.train import files, processes
from jaxcnn.train import run_folder as folder


def train(
    experiment: Experiment, workdir: Path, count: int, listener: Listener | None = None
) -> tuple[dict[str, Any], dict[Path, str]]:
    """Trains an experiment with the seeds ``train.seed``, ``train.seed + 1``, ...

    Interrupted, it goes on where it stopped when it is called again; finished seeds are reused.

    Args:
        experiment: what to train.
        workdir: where the run folders ``seedN`` and seeds.json go.
        count: how many seeds.
        listener: hears all of them.

    Returns:
        What seeds.json holds, and for each seed that diverged its folder, and at which step.

    Raises:
        InputError: a fault in the experiment, the data or a folder.
        jaxcnn.errors.Stopped: a signal came; every state is saved.
    """
    listener = listener or Listener()
    first = experiment.train.seed
    planned = [
        jobs.Job(
            replace(experiment, train=replace(experiment.train, seed=seed)),
            workdir / f"seed{seed}",
        )
        for seed in range(first, first + count)
    ]
    left = [job for job in planned if folder.finished(job.workdir, to_dict(job.experiment)) is None]
    modes = together.Modes(workdir / "together.json")
    failed = together.train(left, modes, listener) if left else {}
    done = [job.workdir for job in planned if job.workdir not in failed]
    return processes.on_first(lambda: _summarise(experiment.name, done, workdir)), failed


def _summarise(name: str, done: Sequence[Path], workdir: Path) -> dict[str, Any]:
    """Writes seeds.json; on failure of all, without results."""
    summaries = [files.read_json(path / "summary.json") for path in done]
    results: dict[str, Any] = {"name": name, "seeds": [summary["seed"] for summary in summaries]}
    if summaries:
        results |= {
            key: spread([summary[key] for summary in summaries])
            for key in ("test_top1", "test_top5", "test_loss", "train_top1", "train_loss")
            if all(key in summary for summary in summaries)  # lost metrics have none of training
        }
    files.write_json(workdir / "seeds.json", results)
    return results


def spread(values: Sequence[float]) -> Mapping[str, Any]:
    """Mean, standard deviation and 95 % interval of the mean; None where one value has none.

    >>> spread([1.0, 2.0, 3.0])["std"]
    1.0
    """
    mean, low, high = mean_interval(values)
    bounded = not math.isnan(low)
    return {
        "mean": mean,
        "std": statistics.stdev(values) if len(values) > 1 else None,
        "low": low if bounded else None,
        "high": high if bounded else None,
        "values": list(values),
    }
