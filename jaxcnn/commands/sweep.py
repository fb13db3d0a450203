"""``jaxcnn sweep``: trains one experiment with many values of its fields."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

from jaxcnn.commands import arguments
from jaxcnn.commands.parsing import load_experiment, load_overridable, load_sweep
from jaxcnn.config import Experiment
from jaxcnn.config.checked import require
from jaxcnn.errors import InputError, as_warning
from jaxcnn.runs.trackers import Tracker
from jaxcnn.text import complain, counted

if TYPE_CHECKING:
    from jaxcnn.analysis.plots import Scale
    from jaxcnn.analysis.sweep import Sweep
    from jaxcnn.runs.display import Lines, Listener
    from jaxcnn.runs.plan import Planned
    from jaxcnn.runs.search import Trial
    from jaxcnn.runs.start import Outcome
    from jaxcnn.runs.study import Search, Study
    from jaxcnn.tasks import Metric

MADE = ("report.html", "sweep.json", "sweep.png")


@dataclass(frozen=True)
class Command(arguments.Command):
    """Trains an experiment over values of its fields, and lists the best first.

    Lists of values make a grid. Bounds are searched by Optuna, which `pip install jaxcnn[search]`
    brings. Without any, the file says in sweep() -> Iterable[Experiment] what is trained.

    If it is interrupted, or called again with more, it reuses the trials that are done. Trials that
    cannot be trained are left out and named. It writes report.html, sweep.json and sweep.png.

    Trials are chosen by the validation set: data.validation, or else a tenth of the training
    examples, which is put aside. The test set is read once in each trial, at its end.

    Every field of the experiment is an option too, which takes precedence over the file in all
    trials.
    """

    most_used = (
        *("file", "spaces", "search", "trials", "pruner", "objectives", "seed", "select_on"),
        *("at_once", "shared", "workdir", "accept_changes"),
    )

    file: Path = field(metadata={"place": "EXPERIMENT.py"})
    """An experiment file, which defines config() -> Experiment."""
    spaces: tuple[str, ...] = field(default=(), metadata={"place": "FIELD=VALUES"})
    """FIELD=VALUE,VALUE,... as model.name=mlp,lenet5, or bounds: FIELD=LOW:HIGH, FIELD=int:LOW:HIGH
    or FIELD=log:LOW:HIGH, as optim.peak_lr=log:1e-3:1e-1."""
    search: Literal["auto", "grid", "random", "tpe", "cmaes", "gp"] = "auto"
    """How trials are chosen: every combination of the lists (grid), at random, or by one of
    Optuna's samplers: tree-structured Parzen estimators (tpe), CMA-ES or Gaussian processes (gp);
    by default grid, and with bounds tpe."""
    trials: int | None = None
    """How many trials are searched with bounds; by default 20."""
    pruner: Literal["none", "median", "hyperband"] = "none"
    """Gives up trials early that promise too little, by the metric after each evaluation."""
    objectives: tuple[str, ...] = ()
    """What is sought: metrics of the task, loss, macs, parameters or seconds. Of several, those
    trials are marked that no other one beats in all; by default the task's first metric."""
    at_once: int | None = None
    """How many trials are asked for at once, to be trained together where they share a program; by
    default 8 on accelerators, else 1."""
    seed: int = 0
    """The seed of the search."""
    select_on: Literal["auto", "test"] = "auto"
    """What the best trial is chosen by: the validation set (auto), or the test set, whose figures
    are then optimistic estimates. Short for train.select_on."""
    shared: bool = False
    """Shares the folder with other processes that were called alike, on machines that all see it:
    each trains trials that none of them has taken. The last to end lists them."""
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


TRIALS = 20
"""So many are searched where nothing is said."""
CONSTANT = ("task.name", "data.validation", "train.select_on")
"""Fields that are the same in all trials of a search, which compares by them."""


def planned(command: Command, say: Callable[[str], object]) -> "Planned":
    """Returns the folder of a sweep, and the runs in it as far as they are known.

    Args:
        command: the command.
        say: hears in one line why another folder is taken than usual.
    """
    from jaxcnn.runs import study
    from jaxcnn.runs.plan import Planned
    from jaxcnn.runs.start import Run

    plan = _plan(command)
    workdir = _workdir(command, plan, say)
    if isinstance(plan, list):
        runs = [Run(trial.experiment, workdir / trial.name) for trial in plan]
        return Planned(workdir, runs, len(runs))
    study.check(workdir, plan)
    return Planned(workdir, [Run(plan.base, workdir)], plan.trials)


def run(command: Command) -> int:
    """Trains the trials, shows them, and returns the exit code."""
    from jaxcnn.runs import tracking

    with tracking.tracked(command.track, command.experiment.name) as tracked:
        return _run(command, tracked)


def _run(command: Command, tracked: "Listener") -> int:
    from jaxcnn.learning import files
    from jaxcnn.runs import display, search, sharing
    from jaxcnn.runs.study import Study

    study = None
    with display.display(each_run=True) as shown:
        listener = display.Both(shown, tracked)
        plan = _plan(command, listener)
        workdir = _workdir(command, plan, listener.message)
        files.check_writable(*(workdir / name for name in MADE))
        if isinstance(plan, list):
            fields = list(dict.fromkeys(field for trial in plan for field in trial.values))
            listener.title(_title(command, len(plan), fields, "every one of them", workdir))
            shown.labels = {trial.name: search.label(trial.values) for trial in plan}
            trials = {trial.name: trial.values for trial in plan}
            kept = _kept_so_far(command, workdir, trials, shown, tracked)
            outcome = _train_listed(command, plan, workdir, kept)
        else:
            study = Study(workdir, plan, shared=command.shared)
            fields = [space.field for space in plan.spaces]
            listener.title(_title(command, plan.trials, fields, f"by {plan.sampler}", workdir))
            outcome = _train_searched(command, study, shown, tracked)
            trials = study.values()
    if len(outcome.refused) == len(trials):
        raise InputError(next(iter(outcome.refused.values())))
    done = True
    with sharing.finishing(outcome, workdir / MADE[0], command.shared) as mine:
        if mine:
            done = _tell(_sweep(command, workdir, trials, outcome, study), workdir)
            if done:
                tracked.page(workdir, MADE)
    for path, reason in outcome.faults.items():
        complain(f"{path}: {reason}")
    return 0 if done else 1


def _title(command: Command, number: int, fields: Sequence[str], how: str, workdir: Path) -> str:
    """Says in two lines what is swept, how and where."""
    import jax

    from jaxcnn.learning import mesh

    return (
        f"{command.experiment.name}: {counted(number, 'trial')} of {', '.join(fields)}\n"
        f"{how}, on {mesh.named(jax.devices())}, in {workdir}"
    )


def _plan(command: Command, listener: "Listener | None" = None) -> "list[Trial] | Search":
    """Returns the trials of a grid or of the file's sweep(), or what is to be searched."""
    from jaxcnn.runs import search, study

    base = command.experiment
    if command.select_on == "test":
        base = replace(base, train=replace(base.train, select_on="test"))
    among = search.spaces(base, command.spaces)
    if not among:
        _refuse_options(command, "FIELD=VALUES")
        return _of_one_task(_coded(command, base))
    bounded = any(space.kind != "choices" for space in among)
    kind = command.search if command.search != "auto" else "tpe" if bounded else "grid"
    if kind == "grid":
        _refuse_options(command, "bounds, or --search tpe")
        return _of_one_task(search.grid(base, among))
    for space in among:
        if space.field in CONSTANT:
            raise InputError(f"{space.field}: must be the same in all trials of a search")
        for end in space.ends():
            search.override(base, {space.field: space.value(end)})  # refuses what the field does
    asked = command.trials if command.trials is not None else TRIALS
    require("--trials", asked, 0 < asked <= search.MOST_TRIALS, f"in [1, {search.MOST_TRIALS}]")
    require("--seed", command.seed, command.seed >= 0, "a whole number >= 0")
    if command.at_once is not None:
        most = 1 if command.shared else search.MOST_TRIALS
        accepted = "1 with --shared" if command.shared else "a positive whole number"
        require("--at-once", command.at_once, 1 <= command.at_once <= most, accepted)
    by = command.pruner, command.seed, command.objectives
    base = study.settled_base(base, command.workdir or Path("runs"), listener)
    found = study.Search(base, among, asked, kind, *by)
    found.directions()  # whatever is wrong with the objectives is said at once
    return found


def _refuse_options(command: Command, needed: str) -> None:
    """Refuses options of a search where nothing is searched."""
    for option in ("trials", "pruner", "objectives", "at_once", "seed"):
        if getattr(command, option) != getattr(Command, option):
            name = option.replace("_", "-")
            raise InputError(f"--{name}: is for a search; give {needed}")


def _of_one_task(trials: "list[Trial]") -> "list[Trial]":
    """Refuses trials of several tasks, among which none is the best."""
    tasks = {str(trial.experiment.task.name) for trial in trials}
    if len(tasks) > 1:
        raise InputError(f"task.name: must be the same in all trials, is {', '.join(tasks)}")
    return trials


def _coded(command: Command, base: Experiment) -> "list[Trial]":
    """Returns the trials that the file's sweep() yields, with the command line's fields."""
    from jaxcnn.config import differences, to_dict
    from jaxcnn.runs import search

    experiments = load_sweep(command.file)
    if not experiments:
        raise InputError(
            "sweep: give FIELD=VALUES, as optim.peak_lr=0.01,0.1, or define in "
            f"{command.file} sweep() -> Iterable[Experiment]"
        )
    of_file = to_dict(load_experiment(command.file))
    given = {name: new for name, (_, new) in differences(of_file, to_dict(base)).items()}
    trials = search.listed(
        base, [search.override(one, given) if given else one for one in experiments]
    )
    for name in given:
        if _varies(name, experiments):
            raise InputError(f"{name}: must be left out, since sweep() in {command.file} varies it")
    return trials


def _varies(name: str, experiments: Sequence[Experiment]) -> bool:
    """Tells whether experiments differ in a field."""
    from jaxcnn.config import flat, to_dict

    values = [flat(to_dict(one)).get(name) for one in experiments]
    return any(value != values[0] for value in values)


def _workdir(command: Command, plan: "list[Trial] | Search", say: Callable[[str], object]) -> Path:
    from jaxcnn.runs import settled, study
    from jaxcnn.runs.start import Run

    usual = Path("runs") / f"sweep_{command.file.stem}"
    if command.workdir is not None:
        return command.workdir
    if not isinstance(plan, list):
        return study.vacant(usual, plan, say)
    return settled.vacant(
        lambda folder: [Run(trial.experiment, folder / trial.name) for trial in plan],
        usual,
        say,
        sweep=True,
    )


def _train_listed(
    command: Command, trials: "Sequence[Trial]", workdir: Path, listener: "Listener"
) -> "Outcome":
    """Trains trials that are all known."""
    from jaxcnn.runs import aside, group, together
    from jaxcnn.runs.start import Run

    planned = [Run(trial.experiment, workdir / trial.name) for trial in trials]
    runs = aside.put_aside(planned, listener, sweep=True)
    aside.common_split(runs)
    outcome = group.train(
        runs,
        listener,
        modes=together.Modes(workdir / "together.json"),
        skip_unfit=True,
        shared=command.shared,
        accept_changes=command.accept_changes,
    )
    if len(outcome.refused) == len(runs):
        raise InputError(outcome.refused[runs[0].folder])
    return outcome


def _kept_so_far(
    command: Command,
    workdir: Path,
    trials: Mapping[str, Mapping[str, Any]],
    shown: "Listener",
    tracked: "Listener",
) -> "Listener":
    """Returns a listener that also writes what all trials have come to as each of them ends."""
    from jaxcnn.runs import display
    from jaxcnn.runs.start import Outcome

    class SoFar(display.Both):
        """Adds a trial to what a page of the sweep shows."""

        def ended(self, run: "display.Ended") -> None:
            """Shows that the trial has ended, and writes it."""
            super().ended(run)
            _keep(_sweep(command, workdir, trials, Outcome(), None), workdir)

    return SoFar(shown, tracked)


def _train_searched(
    command: Command, study: "Study", shown: "Lines", tracked: "Listener"
) -> "Outcome":
    """Trains trials as the study proposes them, until there are enough."""
    from jaxcnn.runs import display, group, together
    from jaxcnn.runs.start import Outcome, Run

    class Part(display.Both):
        """Leaves it to the search to say how many of all trials have ended."""

        def several(self, names: Sequence[str]) -> None:
            """Hears only a part of them."""

        def ended(self, run: "display.Ended") -> None:
            """Hears its place in a part of them."""

    outcome, modes = Outcome(), together.Modes(study.folder / "together.json")
    began = time.monotonic()
    shown.several([""] * study.search.trials)  # by which names is not known yet
    at_once = 1 if command.shared else command.at_once or together.at_once()
    while True:
        study.harvest()
        trials = study.orphans() or study.ask(at_once)
        if not trials:
            break
        try:
            left = [trial for trial in trials if not study.has_ended(trial)]
            if not left:
                continue
            found = group.train(
                [Run(trial.experiment, study.folder / trial.name) for trial in left],
                Part(shown, tracked),
                modes=modes,
                skip_unfit=True,
                shared=command.shared,
                prune=study.prune,
                accept_changes=command.accept_changes,
            )
        finally:
            study.release(trials)
        study.tell(found)
        outcome.add(found)
        each = (time.monotonic() - began) / max(1, len(outcome.results) + len(outcome.given_up))
        _tell_each(study, left, found, shown, 0.0 if command.shared else each)
        so_far = _sweep(command, study.folder, study.values(), outcome, study, ended=False)
        _keep(so_far, study.folder)
    outcome.elsewhere.extend(study.elsewhere())
    outcome.refused.update({study.folder / name: why for name, why in study.refused().items()})
    return outcome


def _tell_each(
    study: "Study", trials: "Sequence[Trial]", found: "Outcome", shown: "Lines", each: float
) -> None:
    """Shows what trials of a search have come to, where each takes so many seconds."""
    from jaxcnn.runs import search
    from jaxcnn.runs.display import Ended

    numbers = {name: number for number, name in enumerate(study.values(), start=1)}
    shown.labels = {name: search.label(values) for name, values in study.values().items()}
    count = study.search.trials
    for trial in trials:
        folder, number = study.folder / trial.name, numbers[trial.name]
        result, left = found.results.get(folder), each * (count - number)
        if why := found.pruned.get(folder):
            label = shown.labels[trial.name]
            shown.message(f"run {number} of {count}: {label}: pruned {why}")
        shown.ended(Ended(trial.name, result, number, count, left, shown.metrics))


def _sweep(
    command: Command,
    workdir: Path,
    trials: Mapping[str, Mapping[str, Any]],
    outcome: "Outcome",
    study: "Study | None",
    *,
    ended: bool = True,
) -> "Sweep":
    """Gathers what the trials have come to, from their folders; what matters most at the end."""
    from jaxcnn.analysis import sweep
    from jaxcnn.learning import run_folder, standing
    from jaxcnn.learning.records import plain
    from jaxcnn.tasks import LOSS

    refused = {folder.name: why for folder, why in outcome.refused.items()}
    rows: list[dict[str, Any]] = []
    metrics: Sequence[Metric] = (LOSS,)
    split, costs = "test", [name for name in command.objectives if name in ("macs", "parameters")]
    for name, values in trials.items():
        row: dict[str, Any] = {"trial": name, "values": dict(values)}
        folder = workdir / name
        if name in refused:
            row["refused"] = refused[name]
        elif (folder / "summary.json").exists():
            found = plain(run_folder.read_summary(folder))
            metrics = run_folder.judged(folder).metrics
            names = dict.fromkeys((metrics[0].name, "loss"))
            kept = [f"{prefix}_{name}" for prefix in ("val", "test") for name in names]
            row |= {key: found[key] for key in (*kept, "seconds", "parameters") if key in found}
            if study is not None and "macs" in costs:
                row["macs"] = study.macs(folder)
            split = "validation" if f"val_{metrics[0].name}" in found else "test"
        else:
            fault = standing.fault(folder)
            row[fault.ended if fault else "unfinished"] = fault.reason if fault else ""
        rows.append(row)
    return sweep.Sweep(
        command.experiment.name,
        sweep.ordered(rows, metrics[0]),
        split,
        metrics[0],
        study.importances() if study and ended else {},
        study.front() if study else (),
        costs,
        _scales(study),
    )


def _scales(study: "Study | None") -> "dict[str, Scale]":
    """Returns how the fields are searched that are so between bounds."""
    searched = study.search.spaces if study else ()
    return {s.field: (s.kind, s.low, s.high) for s in searched if s.kind != "choices"}


def _keep(found: "Sweep", workdir: Path) -> None:
    """Writes what the trials have come to, if one has a result."""
    from jaxcnn.analysis import sweep
    from jaxcnn.learning import files

    if found.done:
        files.write_json(workdir / sweep.FILE, sweep.to_json(found))


def _tell(found: "Sweep", workdir: Path) -> bool:
    """Shows what the trials have come to, and writes it; returns whether one has a result."""
    from jaxcnn.analysis import plots, sweep
    from jaxcnn.learning import files
    from jaxcnn.runs import display

    files.write_json(workdir / sweep.FILE, sweep.to_json(found))
    screen = display.console()
    screen.print(sweep.render(found, screen.width))
    if not found.done:
        return False
    print(found.best())
    picture = workdir / "sweep.png"
    with as_warning(f"{picture}: could not be drawn"):
        plots.save_sweep(found.done, picture, found.name, found.split, found.metric, found.scales)
    files.write_text(workdir / "report.html", sweep.page(found))
    print(f"{workdir}: {', '.join(MADE)}")
    return True


def _require_apart(given: Mapping[str, Any]) -> None:
    """Refuses options that say something else than the sweep does."""
    swept = {word.partition("=")[0] for word in given.get("spaces", ())}
    fixed = {f"model.options.{name}" for name in given.get("model.options", ())} | {*given}
    for name in sorted(swept & fixed):
        raise InputError(f"--{name.replace('_', '-')}: must be left out, since the sweep varies it")
    chosen = given.get("select_on"), given.get("train.select_on")
    if None not in chosen and len({*chosen}) > 1:
        raise InputError(f"--select-on {chosen[0]}: must be that of --train.select-on {chosen[1]}")
