"""``jaxcnn sweep``: trains one experiment with many values of its fields."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jaxcnn.commands import arguments
from jaxcnn.commands.parsing import load_experiment
from jaxcnn.errors import InputError, as_warning
from jaxcnn.text import complain


@dataclass(frozen=True)
class Command(arguments.Command):
    """Trains an experiment over a grid and random draws of its fields, and lists the best first.

    If it is interrupted, or called again with more values, it reuses the trials that are done.
    Trials that cannot be trained are left out and named. It writes sweep.json and sweep.png. The
    best trial was chosen on the test set, so its accuracy is an optimistic estimate.
    """

    file: Path = field(metadata={"place": "EXPERIMENT.py"})
    """An experiment file, which defines config() -> Experiment."""
    grid: tuple[str, ...] = ()
    """FIELD=VALUE,VALUE,... for each field, as optim.peak_lr=0.01,0.03."""
    random: tuple[str, ...] = ()
    """The number of draws, then FIELD=LOW:HIGH, FIELD=int:LOW:HIGH, FIELD=log:LOW:HIGH or
    FIELD=CHOICE,CHOICE for each field. With a grid, so many draws are made at each of its
    points."""
    seed: int = 0
    """The seed of the draws."""
    accept_changes: bool = False
    """Goes on although the source of something that was brought has changed since a run began."""
    workdir: Path | None = None
    """The folder of the run folders; by default runs/sweep_NAME, with the file's name."""


def run(command: Command) -> int:
    """Trains the trials, shows them, and returns the exit code."""
    file, workdir = command.file, command.workdir or Path("runs") / f"sweep_{command.file.stem}"
    base = load_experiment(file)
    count, ranges = _count(command.random)

    from jaxcnn.runs import display, group, search, together
    from jaxcnn.runs.training import Run
    from jaxcnn.train import files

    files.check_writable(workdir / "sweep.json", workdir / "sweep.png")
    trials = search.trials(base, command.grid, ranges, count, command.seed)
    runs = [Run(trial.experiment, workdir / trial.name) for trial in trials]
    with display.display() as listener:
        listener.message(f"{len(trials)} trials in {workdir}")
        modes = together.Modes(workdir / "together.json")
        outcome = group.train(
            runs, listener, modes=modes, skip_unfit=True, accept_changes=command.accept_changes
        )
    if len(outcome.refused) == len(runs):
        raise InputError(outcome.refused[runs[0].folder])
    rows: list[dict[str, Any]] = []
    for trial, run in zip(trials, runs, strict=True):
        row: dict[str, Any] = {"trial": trial.name, "values": dict(trial.values)}
        if run.folder in outcome.refused:
            row["refused"] = outcome.refused[run.folder]
        elif run.folder in outcome.diverged:
            row["diverged"] = outcome.diverged[run.folder]
        else:
            kept = ("test_top1", "test_loss", "seconds", "parameters")
            row |= {name: outcome.results[run.folder][name] for name in kept}
        rows.append(row)
    rows.sort(key=lambda row: -row.get("test_top1", -1.0))
    files.write_json(workdir / "sweep.json", {"experiment": base.name, "trials": rows})
    _show(base.name, rows)
    done = [row for row in rows if "test_top1" in row]
    if done:
        from jaxcnn.analysis import plots

        picture = workdir / "sweep.png"
        with as_warning(f"{picture}: could not be drawn"):
            plots.save_sweep(done, picture, base.name)
    print(f"{workdir}: sweep.json, sweep.png")
    for path, reason in (outcome.refused | outcome.diverged).items():
        complain(f"{path}: {reason}")
    return 0 if done else 1


def _count(random: Sequence[str]) -> tuple[int, Sequence[str]]:
    if not random:
        return 0, ()
    if re.fullmatch("[0-9]{1,9}", random[0]) is None:
        raise InputError(f"--random {random[0]}: must begin with how many draws, as in --random 20")
    return int(random[0]), random[1:]


def _show(name: str, rows: Sequence[Mapping[str, Any]]) -> None:
    from rich.table import Table

    from jaxcnn.runs import display

    table = Table(title=f"{name}: {len(rows)} trials")
    fields = list(rows[0]["values"])
    for header in (*fields, "test top-1", "test loss", "train time"):
        table.add_column(header, justify="right", no_wrap=True)
    table.add_column("folder", no_wrap=True)
    for row in rows:
        if "test_top1" in row:
            figures = [
                f"{row['test_top1']:.2%}",
                f"{row['test_loss']:.4f}",
                f"{row['seconds']:.1f} s",
            ]
        else:
            figures = ["refused" if "refused" in row else "diverged", "", ""]
        table.add_row(*(str(row["values"][f]) for f in fields), *figures, row["trial"])
    display.console().print(table)
