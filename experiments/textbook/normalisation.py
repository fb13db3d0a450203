"""Pixels from 0 to 255, from 0 to 1, and standardised.

Command:   python -m experiments.textbook.normalisation
Hardware:  2 shared cores of an AMD EPYC (AVX-512), jax 0.10.2
Time:      4 min 11 s of training in 45 runs; compiling and reading not counted
Result:    test top-1, mean of five seeds, measured, at rates of 0.001, 0.01 and 0.1: standardised
           81.07 %, 85.47 %, 84.08 %; 0_to_1 76.31 %, 83.69 %, 85.26 %; 0_to_255 74.69 %,
           63.64 %, one of five diverged and the others 12.22 %

Gradients of the first layer grow with its inputs, so a learning rate fits inputs of one scale.
Pixels of mean 0 and standard deviation 1 suit the usual initial weights and the usual rates.
"""

import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path

from experiments.textbook import recipe
from experiments.textbook.part import Part, setting, show
from jaxcnn.analysis import arms, plots, report
from jaxcnn.analysis.arms import FinishedRun
from jaxcnn.analysis.statistics import SHARE, mean_interval
from jaxcnn.config import Comparison, Experiment, Optim
from jaxcnn.runs import group, plan, together
from jaxcnn.runs.display import Listener

LAYERS = "conv3-16 max2 conv3-32 max2 dense-64"
SCALES = {"standardised": None, "0_to_1": (0.0, 1.0), "0_to_255": (0.0, 1 / 255)}
"""Name to mean and standard deviation by which pixels from 0 to 1 are scaled; None: their own."""
RATES = (0.001, 0.01, 0.1)
"""Learning rates of SGD with momentum."""


def config(quick: bool = False, rate: float = 0.01) -> Comparison:
    """One network on pixels of three scales, under plain SGD with momentum."""
    found = recipe.comparison(dict.fromkeys(SCALES, LAYERS), quick, seeds=5)

    def scaled(arm: Experiment) -> Experiment:
        scale, data = SCALES[arm.name], arm.data
        if scale is not None:
            data = dataclasses.replace(data, mean=(scale[0],), std=(scale[1],))
        return dataclasses.replace(arm, data=data, optim=Optim("sgd", peak_lr=rate, nesterov=False))

    return dataclasses.replace(found, arms=tuple(map(scaled, found.arms)))


def _finished(comparison: Comparison, workdir: Path, listener: Listener) -> list[FinishedRun]:
    """Trains, and returns the runs that did not diverge, which here is a result."""
    planned = plan.comparison(comparison, workdir)
    outcome = group.train(planned, listener, modes=together.Modes(workdir / "together.json"))
    return [arms.read(run.folder) for run in planned if run.folder not in outcome.diverged]


def measure(workdir: Path, listener: Listener, quick: bool) -> Part:
    """Test top-1 at each rate; where training diverged, how often."""
    comparison = config(quick)
    runs = {r: _finished(config(quick, r), workdir / str(r), listener) for r in RATES}
    top1 = {arm.name: [_tested(arm.name, runs[rate]) for rate in RATES] for arm in comparison.arms}
    lines = {
        name: {rate: [100 * x for x in v] for rate, v in zip(RATES, those, strict=True) if v}
        for name, those in top1.items()
        if any(those)
    }
    cells = {
        name: [_cell(values, comparison.seeds) for values in those] for name, those in top1.items()
    }
    return Part(
        found="; ".join(f"{name}: {', '.join(those)}" for name, those in cells.items())
        + f", at learning rates of {', '.join(map(str, RATES))}.",
        headers=["pixels", *(f"rate {rate}" for rate in RATES)],
        rows=[[name, *those] for name, those in cells.items()],
        figures=[
            (
                f"Means over seeds ({comparison.seeds}); bands from the lowest to the highest",
                report.legend(list(lines))
                + plots.lines(lines, "learning rate", "test top-1, %", log_x=True),
            )
        ],
        setting=f"{setting([run for those in runs.values() for run in those])} SGD with momentum "
        "0.9. Means with Student's 95 % interval.",
        values={"rates": list(RATES), "seeds": comparison.seeds, "top1": top1},
    )


def _tested(name: str, runs: Sequence[FinishedRun]) -> list[float]:
    """Test top-1 of those runs that are of an arm."""
    return [x for arm in arms.group(runs) if arm.name == name for x in arm.last("test_top1")]


def _cell(top1: Sequence[float], seeds: int) -> str:
    """The mean and its interval, or that training diverged."""
    if len(top1) < seeds:
        return f"{seeds - len(top1)} of {seeds} diverged"
    mean, low, high = (100 * x for x in mean_interval(top1, within=SHARE))
    return f"{mean:.2f} %" + ("" if math.isnan(low) else f" [{low:.2f}, {high:.2f}]")


if __name__ == "__main__":
    show(measure, "normalisation")
