"""``jaxcnn compare``: trains or reuses every arm and seed, then says which arm does better."""

import dataclasses
import functools
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from jaxcnn.commands import arguments, pages
from jaxcnn.commands.parsing import load_comparison
from jaxcnn.errors import InputError, as_warning
from jaxcnn.runs.trackers import Tracker
from jaxcnn.text import complain

if TYPE_CHECKING:
    from jaxcnn.runs.display import Listener


@dataclass(frozen=True)
class Command(arguments.Command):
    """Trains, or reuses, every arm of a comparison with every seed, then compares them.

    If it is interrupted, the same command goes on where it stopped. It writes report.html,
    comparison.json and comparison.png.
    """

    file: Path = field(metadata={"place": "COMPARISON.py"})
    """A file that defines config() -> Comparison; the first arm is the baseline."""
    seeds: int | None = None
    """How many seeds each arm is trained with; by default as many as the file says."""
    accept_changes: bool = False
    """Goes on although the source of something that was brought has changed since a run began."""
    track: Tracker | None = None
    """Has every run, and the page as a run of its own, tracked by MLflow or wandb, under the file's
    name as experiment or project; by default by neither."""
    workdir: Path | None = None
    """The folder of the run folders ARM/seedN; by default runs/NAME, with the file's name. Where
    that holds an arm with other settings, the default is a folder beside it, runs/NAME-2."""


def run(command: Command) -> int:
    """Trains and compares the arms, and returns the exit code."""
    from jaxcnn.runs import tracking

    with tracking.tracked(command.track, command.file.stem) as tracked:
        return _run(command, tracked)


def _run(command: Command, tracked: "Listener") -> int:
    file, seeds, workdir = command.file, command.seeds, command.workdir
    comparison = load_comparison(file)
    if seeds is not None:
        comparison = dataclasses.replace(comparison, seeds=seeds)

    from jaxcnn.analysis import arms, plots, tables
    from jaxcnn.analysis import compare as comparing
    from jaxcnn.learning import files
    from jaxcnn.runs import display, evaluation, group, plan, settled, together

    made = ("report.html", "comparison.json", "comparison.png")
    with display.display(each_run=True) as shown:
        listener = display.Both(shown, tracked)
        if workdir is None:
            planned = functools.partial(plan.comparison, comparison)
            workdir = settled.vacant(planned, Path("runs") / file.stem, listener.message)
        files.check_writable(*(workdir / name for name in made))
        runs = plan.comparison(comparison, workdir)
        modes = together.Modes(workdir / "together.json")
        outcome = group.train(
            runs, listener, modes=modes, grouping="faster", accept_changes=command.accept_changes
        )
    if not outcome.results:
        raise InputError(f"comparison {file}: every run diverged; lower optim.peak_lr")
    problems = [f"{path}: {reason}" for path, reason in outcome.diverged.items()]
    done = [arms.read(run.folder) for run in runs if run.folder in outcome.results]
    compared = arms.group(done)
    answers = {run.path: evaluation.predict_test_set(run.path) for run in done}
    held = {path: found for path, found in answers.items() if found is not None}
    found = comparing.compare(compared, held)
    files.write_json(workdir / "comparison.json", comparing.to_json(found))
    screen = display.console()
    screen.print(tables.render(found, screen.width))
    if held:
        screen.print(tables.render_errors(found))
    picture = workdir / "comparison.png"
    with as_warning(f"{picture}: could not be drawn"):
        plots.save_comparison(found, picture)
    pages.write_page(file.stem, compared, held, workdir / "report.html", problems)
    tracked.page(workdir, made)
    print(f"{workdir}: {', '.join(made)}")
    for problem in problems:
        complain(problem)
    return 1 if problems else 0
