"""``jaxcnn sweep``: trains one experiment with many values of its fields."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from jaxcnn.commands import arguments
from jaxcnn.commands.parsing import load_experiment
from jaxcnn.errors import InputError, as_warning
from jaxcnn.text import complain


@dataclass(frozen=True)
class Command(arguments.Command):
    """Trains an experiment over a grid and random draws of its fields, and lists the best first.

    If it is interrupted, or called again with more values, it reuses the trials that are done.
    Trials that cannot be trained are left out and named. It writes sweep.json and sweep.png.

    Trials are chosen by the validation set: data.validation, or else a tenth of the training
    examples, which is put aside. The test set is read once in each trial, at its end.
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
    select_on: Literal["auto", "test"] = "auto"
    """What the best trial is chosen by: the validation set (auto), or the test set, whose accuracy
    is then an optimistic estimate. Short for train.select_on."""
    accept_changes: bool = False
    """Goes on although the source of something that was brought has changed since a run began."""
    workdir: Path | None = None
    """The folder of the run folders; by default runs/sweep_NAME, with the file's name."""


def run(command: Command) -> int:
    """Trains the trials, shows them, and returns the exit code."""
    file, workdir = command.file, command.workdir or Path("runs") / f"sweep_{command.file.stem}"
    base = load_experiment(file)
    if command.select_on == "test":
        base = replace(base, train=replace(base.train, select_on="test"))
    count, ranges = _count(command.random)

    from jaxcnn.learning import files
    from jaxcnn.learning.selection import PREFIX, score
    from jaxcnn.runs import aside, display, group, search, together
    from jaxcnn.runs.training import Run

    files.check_writable(workdir / "sweep.json", workdir / "sweep.png")
    trials = search.trials(base, command.grid, ranges, count, command.seed)
    runs = [Run(trial.experiment, workdir / trial.name) for trial in trials]
    with display.display(each_run=True) as listener:
        listener.message(f"{len(trials)} trials in {workdir}")
        runs = aside.put_aside(runs, listener, sweep=True)
        split = aside.common_split(runs)
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
            kept = ("val_top1", "val_loss", "test_top1", "test_loss", "seconds", "parameters")
            found = outcome.results[run.folder]
            row |= {name: found[name] for name in kept if name in found}
        rows.append(row)
    rows.sort(key=score, reverse=True)
    chosen = {"experiment": base.name, "selected_on": split}
    files.write_json(workdir / "sweep.json", {**chosen, "trials": rows})
    _show(base.name, rows, split, PREFIX[split])
    done = [row for row in rows if "test_top1" in row]
    if done:
        print(_best(done[0], split))
        from jaxcnn.analysis import plots

        picture = workdir / "sweep.png"
        with as_warning(f"{picture}: could not be drawn"):
            plots.save_sweep(done, picture, base.name, split)
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


def _best(row: Mapping[str, Any], split: str) -> str:
    from jaxcnn.learning.selection import OPTIMISTIC

    found = f"best: {row['trial']}, test top-1 {row['test_top1']:.2%}"
    return f"{found}, {OPTIMISTIC if split == 'test' else 'chosen on the validation set'}"


def _show(name: str, rows: Sequence[Mapping[str, Any]], split: str, prefix: str) -> None:
    from jaxcnn.analysis import tables
    from jaxcnn.runs import display

    fields = list(rows[0]["values"])
    shown = []
    for row in rows:
        if "test_top1" in row:
            figures = [
                f"{row[f'{prefix}_top1']:.2%}",
                f"{row[f'{prefix}_loss']:.4f}",
                f"{row['seconds']:.1f} s",
            ]
        else:
            figures = ["refused" if "refused" in row else "diverged", "", ""]
        shown.append([row["trial"], *(str(row["values"][f]) for f in fields), *figures])
    titles = ("folder", *fields, f"{split} top-1", f"{split} loss", "train time")
    screen = display.console()
    title = f"{name}: {len(rows)} trials"
    screen.print(tables.laid_out(titles, shown, screen.width, title=title, caption=""))
