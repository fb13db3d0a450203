"""A part of the textbook: a claim, and what was measured of it as a table, a figure and JSON."""

import argparse
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, NoReturn

from markupsafe import Markup

from jaxcnn import cli
from jaxcnn.analysis import arms, compare, formats, plots, tables
from jaxcnn.analysis.arms import Arm, FinishedRun
from jaxcnn.config import Comparison
from jaxcnn.errors import InputError
from jaxcnn.runs import display, group, plan, together
from jaxcnn.runs.display import Listener
from jaxcnn.tasks.classification import TOP1

Measure = Callable[[Path, Listener, bool], "Part"]
"""Folder of the runs, who hears of them, and whether it is to be quick, to a part."""


@dataclass(frozen=True)
class Part:
    """A part, measured.

    Attributes:
        found: what was measured, in a sentence.
        headers: headers of the table.
        rows: rows of the table, their cells as text: numbers, or words in the last column.
        figures: caption and drawing of each figure.
        setting: data and training, in a sentence.
        values: the figures, for JSON.
    """

    found: str
    headers: Sequence[str]
    rows: Sequence[Sequence[str]]
    figures: Sequence[tuple[str, Markup]]
    setting: str
    values: Mapping[str, Any]


def title_and_claim(module: ModuleType) -> tuple[str, str]:
    """Returns the first line of an experiment's docstring, and the paragraph behind its header."""
    title, _, claim = (inspect.getdoc(module) or "").split("\n\n")[:3]
    return title.rstrip("."), " ".join(claim.split())


def trained(comparison: Comparison, workdir: Path, listener: Listener) -> list[Arm]:
    """Trains every arm and seed, or reuses what is done.

    Raises:
        InputError: a run diverged.
        jaxcnn.errors.Stopped: a signal came.
    """
    planned = plan.comparison(comparison, workdir)
    outcome = group.train(planned, listener, modes=together.Modes(workdir / "together.json"))
    for path, reason in outcome.diverged.items():
        raise InputError(f"{path}: {reason}")
    return arms.group([arms.read(run.folder) for run in planned])


def of_comparison(comparison: Comparison, workdir: Path, listener: Listener) -> Part:
    """Trains the arms of a comparison and sets them against one another."""
    return of_arms(trained(comparison, workdir, listener))


def of_arms(compared: Sequence[Arm]) -> Part:
    """Sets trained arms against the first."""
    runs = [run for arm in compared for run in arm.runs]
    found = compare.compare(compared, {})
    results, first = found.results, found.results[0]
    best = max(results, key=lambda result: result.reached.mean)
    clear = [r.name for r in results[1:] if r.p_adjusted < 0.05]
    tested = (
        f"; from {first.name} differs with p < 0.05: {', '.join(clear) or 'none'}"
        if found.test != "none"
        else ""
    )
    percent = {result.name: formats.in_unit(TOP1, result.reached) for result in results}
    figures = [("Test top-1 with its 95 % interval", plots.intervals(percent, "test top-1, %"))]
    if len({r.macs for r in results}) > 1:
        (label, points, front), _ = plots.costs(found)
        drawing = plots.scatter(points, front, label, "top-1, %")
        figures.append(("Against cost, with the Pareto front", drawing))
    return Part(
        found=f"highest is {best.name} with {formats.interval(TOP1, best.reached)}{tested}.",
        headers=[
            *("network", "test top-1", f"against {first.name}", "p", "parameters", "MACs"),
            *("receptive field", "train time", "layers"),
        ],
        rows=[
            _row(arm, result, result is first)
            for arm, result in zip(compared, results, strict=True)
        ],
        figures=figures,
        setting=f"{setting(runs)} {tables.explanation(found)}",
        values=compare.to_json(found)
        | {"layers": {arm.name: arm.experiment.model.options["layers"] for arm in compared}},
    )


def _row(arm: Arm, result: compare.ArmResult, is_first: bool) -> list[str]:
    assert result.layers is not None  # the networks are those of the zoo
    field = result.layers.receptive_field
    frozen = ", ".join(arm.experiment.optim.freeze)
    return [
        result.name,
        formats.interval(TOP1, result.reached),
        "" if is_first else formats.difference(TOP1, result.difference),
        "" if is_first else formats.p_value(result.p_adjusted),
        f"{result.parameters:,}",
        formats.si(result.macs),
        formats.sizes(field) if field else "image",
        formats.duration(result.seconds),
        str(arm.experiment.model.options["layers"]) + (f" (frozen: {frozen})" if frozen else ""),
    ]


def setting(those: Sequence[FinishedRun]) -> str:
    """Data and training of some runs, in a sentence."""
    sizes = sorted({run.dataset.train_examples for run in those})
    epochs = sorted({run.summary.epochs for run in those})
    number, passes = (
        f"{v[0]:,}" if len(v) == 1 else f"{v[0]:,} to {v[-1]:,}" for v in (sizes, epochs)
    )
    seconds = sum(run.summary.seconds for run in those)
    first = those[0]
    return (
        f"{first.dataset.name}, {number} training and {first.dataset.test_examples:,} test "
        f"images, {passes} epochs, {len(those)} runs, {formats.duration(seconds)} of training."
    )


def show(measure: Measure, name: str) -> NoReturn:
    """Measures one part, from the command line, and prints its table."""
    parser = argparse.ArgumentParser(prog=f"python -m experiments.textbook.{name}")
    parser.add_argument("--workdir", type=Path, default=Path("runs/textbook") / name)
    parser.add_argument("--quick", action="store_true", help="one seed of digits")
    given = parser.parse_args()

    def command() -> int:
        with display.display() as listener:
            part = measure(given.workdir, listener, given.quick)
        from rich.table import Table

        table = Table(*part.headers, caption=f"{part.found} {part.setting}")
        for row in part.rows:
            table.add_row(*row)
        display.console().print(table)
        return 0

    raise SystemExit(cli.guarded(command))
