"""``jaxcnn sweep``: trains one experiment with many values of its fields."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

from jaxcnn.commands import arguments
from jaxcnn.commands.parsing import load_overridable
from jaxcnn.config import Experiment
from jaxcnn.errors import InputError, as_warning
from jaxcnn.runs.trackers import Tracker
from jaxcnn.text import complain, counted

if TYPE_CHECKING:
    from jaxcnn.runs.display import Listener
    from jaxcnn.tasks import Metric


@dataclass(frozen=True)
class Command(arguments.Command):
    """Trains an experiment over a grid and random draws of its fields, and lists the best first.

    If it is interrupted, or called again with more values, it reuses the trials that are done.
    Trials that cannot be trained are left out and named. It writes sweep.json and sweep.png.

    Trials are chosen by the validation set: data.validation, or else a tenth of the training
    examples, which is put aside. The test set is read once in each trial, at its end.

    Every field of the experiment is an option too, which takes precedence over the file in all
    trials.
    """

    most_used = ("grid", "random", "seed", "select_on", "workdir", "accept_changes")

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
    """What the best trial is chosen by: the validation set (auto), or the test set, whose figures
    are then optimistic estimates. Short for train.select_on."""
    accept_changes: bool = False
    """Goes on although the source of something that was brought has changed since a run began."""
    track: Tracker | None = None
    """Has every trial, and what the sweep found as a run of its own, tracked by MLflow or wandb; by
    default by neither."""
    workdir: Path | None = None
    """The folder of the run folders; by default runs/sweep_NAME, with the file's name. Where that
    holds trials with other settings, the default is a folder beside it, runs/sweep_NAME-2."""
    experiment: Experiment = field(default_factory=Experiment, metadata={"spread": True})

    @classmethod
    def defaults(cls, given: Mapping[str, Any]) -> Self | None:
        """Returns the command with the experiment of the file."""
        if "file" not in given:
            return None
        _require_apart(given)
        return cls(given["file"], experiment=load_overridable(given["file"], given))


def run(command: Command) -> int:
    """Trains the trials, shows them, and returns the exit code."""
    from jaxcnn.runs import tracking

    with tracking.tracked(command.track, command.experiment.name) as tracked:
        return _run(command, tracked)


def _run(command: Command, tracked: "Listener") -> int:
    base, workdir = command.experiment, command.workdir
    if command.select_on == "test":
        base = replace(base, train=replace(base.train, select_on="test"))
    count, ranges = _count(command.random)

    from jaxcnn.learning import files, run_folder
    from jaxcnn.learning.selection import score
    from jaxcnn.runs import aside, display, group, search, settled, together
    from jaxcnn.runs.start import Run
    from jaxcnn.tasks import LOSS

    trials = search.trials(base, command.grid, ranges, count, command.seed)
    tasks = {str(trial.experiment.task.name) for trial in trials}
    if len(tasks) > 1:
        raise InputError(f"task.name: must be the same in all trials, is {', '.join(tasks)}")

    def planned(folder: Path) -> list[Run]:
        return [Run(trial.experiment, folder / trial.name) for trial in trials]

    with display.display(each_run=True) as shown:
        listener = display.Both(shown, tracked)
        if workdir is None:
            usual = Path("runs") / f"sweep_{command.file.stem}"
            workdir = settled.vacant(planned, usual, listener.message, sweep=True)
        files.check_writable(workdir / "sweep.json", workdir / "sweep.png")
        listener.message(f"{counted(len(trials), 'trial')} in {workdir}")
        runs = aside.put_aside(planned(workdir), listener, sweep=True)
        split = aside.common_split(runs)
        modes = together.Modes(workdir / "together.json")
        outcome = group.train(
            runs, listener, modes=modes, skip_unfit=True, accept_changes=command.accept_changes
        )
    if len(outcome.refused) == len(runs):
        raise InputError(outcome.refused[runs[0].folder])
    rows: list[dict[str, Any]] = []
    metrics: Sequence["Metric"] = (LOSS,)
    for trial, run in zip(trials, runs, strict=True):
        row: dict[str, Any] = {"trial": trial.name, "values": dict(trial.values)}
        if run.folder in outcome.refused:
            row["refused"] = outcome.refused[run.folder]
        elif run.folder in outcome.diverged:
            row["diverged"] = outcome.diverged[run.folder]
        else:
            found, metrics = outcome.results[run.folder], run_folder.judged(run.folder).metrics
            names = dict.fromkeys((metrics[0].name, "loss"))
            kept = [f"{prefix}_{name}" for prefix in ("val", "test") for name in names]
            kept += ["seconds", "parameters"]
            row |= {name: found[name] for name in kept if name in found}
        rows.append(row)
    metric = metrics[0]
    rows.sort(key=lambda row: score(row, metric), reverse=True)
    chosen = {"experiment": base.name, "selected_on": split, "selected_by": metric.name}
    files.write_json(workdir / "sweep.json", {**chosen, "trials": rows})
    _show(base.name, rows, split, metric)
    done = [row for row in rows if "test_loss" in row]
    if done:
        print(_best(done[0], split, metric))
        from jaxcnn.analysis import plots

        picture = workdir / "sweep.png"
        with as_warning(f"{picture}: could not be drawn"):
            plots.save_sweep(done, picture, base.name, split, metric)
    tracked.page(workdir, ("sweep.json", "sweep.png"))
    print(f"{workdir}: sweep.json, sweep.png")
    for path, reason in (outcome.refused | outcome.diverged).items():
        complain(f"{path}: {reason}")
    return 0 if done else 1


def _require_apart(given: Mapping[str, Any]) -> None:
    """Refuses options that say something else than the sweep does."""
    words = [*given.get("grid", ()), *given.get("random", ())[1:]]
    swept = {word.partition("=")[0] for word in words}
    fixed = {f"model.options.{name}" for name in given.get("model.options", ())} | {*given}
    for name in sorted(swept & fixed):
        raise InputError(f"--{name.replace('_', '-')}: must be left out, since the sweep varies it")
    chosen = given.get("select_on"), given.get("train.select_on")
    if None not in chosen and len({*chosen}) > 1:
        raise InputError(f"--select-on {chosen[0]}: must be that of --train.select-on {chosen[1]}")


def _count(random: Sequence[str]) -> tuple[int, Sequence[str]]:
    if not random:
        return 0, ()
    if re.fullmatch("[0-9]{1,9}", random[0]) is None:
        raise InputError(f"--random {random[0]}: must begin with how many draws, as in --random 20")
    return int(random[0]), random[1:]


def _best(row: Mapping[str, Any], split: str, metric: "Metric") -> str:
    from jaxcnn.learning.selection import OPTIMISTIC

    reached = metric.shown(row[f"test_{metric.name}"])
    found = f"best: {row['trial']}, test {metric.title} {reached}"
    return f"{found}, {OPTIMISTIC if split == 'test' else 'chosen on the validation set'}"


def _show(name: str, rows: Sequence[Mapping[str, Any]], split: str, metric: "Metric") -> None:
    from jaxcnn.analysis import tables
    from jaxcnn.learning.selection import PREFIX
    from jaxcnn.runs import display
    from jaxcnn.tasks import LOSS

    shown_metrics, prefix = list(dict.fromkeys((metric, LOSS))), PREFIX[split]

    fields = list(rows[0]["values"])
    shown = []
    for row in rows:
        if "test_loss" in row:
            figures = [m.shown(row[f"{prefix}_{m.name}"]) for m in shown_metrics]
            figures.append(f"{row['seconds']:.1f} s")
        else:
            figures = ["refused" if "refused" in row else "diverged", *[""] * len(shown_metrics)]
        shown.append([row["trial"], *(str(row["values"][f]) for f in fields), *figures])
    titles = ("folder", *fields, *(f"{split} {m.title}" for m in shown_metrics), "train time")
    screen = display.console()
    title = f"{name}: {counted(len(rows), 'trial')}"
    screen.print(tables.laid_out(titles, shown, screen.width, title=title, caption=""))
