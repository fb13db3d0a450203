"""``jaxcnn compare``: trains or reuses every arm and seed, then says which arm does better."""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from jaxcnn.commands import arguments, pages
from jaxcnn.commands.parsing import load_comparison
from jaxcnn.config import Comparison
from jaxcnn.errors import InputError, as_warning
from jaxcnn.runs.trackers import Tracker
from jaxcnn.text import complain, counted

if TYPE_CHECKING:
    import numpy as np

    from jaxcnn.runs.display import Listener
    from jaxcnn.runs.plan import Planned


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
    corrupted: int | None = None
    """How many test images are corrupted in 15 ways at 5 severities, to compare the arms on those
    too, 0 for none; by default as many as the file says, or none."""
    accept_changes: bool = False
    """Goes on although the source of something that was brought has changed since a run began."""
    shared: bool = False
    """Shares the folder with other processes that were called alike, on machines that all see it:
    trains the runs that none of them has taken. The last to end compares them."""
    track: Tracker | None = None
    """Has every run, and the page as a run of its own, tracked by MLflow or wandb, under the file's
    name as experiment or project; by default by neither."""
    workdir: Path | None = None
    """The folder of the run folders ARM/seedN; by default runs/NAME, with the file's name. Where
    that holds an arm with other settings, the default is a folder beside it, runs/NAME-2."""


def planned(command: Command, say: Callable[[str], object]) -> "Planned":
    """Returns the folder of a comparison, and its runs.

    Args:
        command: the command.
        say: hears in one line why another folder is taken than usual.
    """
    return _planned(_comparison(command), command, say)


def _comparison(command: Command) -> Comparison:
    """Returns what the file says, with the options of the command in their place."""
    given = {name: getattr(command, name) for name in ("seeds", "corrupted")}
    given = {name: value for name, value in given.items() if value is not None}
    if given.get("corrupted") == 0:
        given["corrupted"] = None
    return dataclasses.replace(load_comparison(command.file), **given)


def _planned(comparison: Comparison, command: Command, say: Callable[[str], object]) -> "Planned":
    from jaxcnn.runs import plan, settled

    workdir = command.workdir
    if workdir is None:
        runs = functools.partial(plan.comparison, comparison)
        workdir = settled.vacant(runs, Path("runs") / command.file.stem, say)
    found = plan.comparison(comparison, workdir)
    return plan.Planned(workdir, found, len(found))


def run(command: Command) -> int:
    """Trains and compares the arms, and returns the exit code."""
    from jaxcnn.runs import tracking

    with tracking.tracked(command.track, command.file.stem) as tracked:
        return _run(command, tracked)


def _run(command: Command, tracked: "Listener") -> int:
    from jaxcnn.learning import files
    from jaxcnn.runs import display, group, robustness, sharing, together

    with display.display(each_run=True) as shown:
        listener = display.Both(shown, tracked)
        comparison = _comparison(command)
        workdir, runs, _ = _planned(comparison, command, listener.message)
        files.check_writable(*(workdir / name for name in MADE))
        if comparison.corrupted is not None:
            robustness.require_pixels(arm.data for arm in comparison.arms)
        listener.title(_title(command.file.stem, comparison, workdir))
        outcome = group.train(
            runs,
            listener,
            modes=together.Modes(workdir / "together.json"),
            grouping="faster",
            shared=command.shared,
            accept_changes=command.accept_changes,
        )
    problems = [f"{path}: {reason}" for path, reason in outcome.faults.items()]
    with sharing.finishing(outcome, workdir / MADE[0], command.shared) as mine:
        if mine and not outcome.results:
            why = "every run diverged; lower optim.peak_lr" if outcome.diverged else problems[0]
            raise InputError(f"comparison {command.file}: {why}")
        if mine:
            done = [run.folder for run in runs if run.folder in outcome.results]
            _compare(command.file.stem, done, workdir, problems, comparison.corrupted)
            tracked.page(workdir, MADE)
    for problem in problems:
        complain(problem)
    return 1 if problems else 0


def _title(name: str, comparison: Comparison, workdir: Path) -> str:
    """Says in two lines what is compared, and where."""
    import jax

    from jaxcnn.config.brought import titled
    from jaxcnn.learning import mesh

    arms, data = comparison.arms, titled(comparison.arms[0].data.name)
    number = counted(len(arms) * comparison.seeds, "run")
    return (
        f"{name}: {', '.join(arm.name for arm in arms)} on {data}\n"
        f"{counted(len(arms), 'arm')} with {counted(comparison.seeds, 'seed')}, {number}, "
        f"on {mesh.named(jax.devices())}, in {workdir}"
    )


MADE = ("report.html", "comparison.json", "comparison.png")


def _compare(
    title: str, done: Sequence[Path], workdir: Path, problems: list[str], corrupted: int | None
) -> None:
    """Compares the runs that are done, on the screen and in files.

    Args:
        title: of the page.
        done: the run folders.
        workdir: the folder of the comparison.
        problems: what was left out, and why; what is left out here is added.
        corrupted: on how many corrupted test images they are compared too, if on any.
    """
    from jaxcnn.analysis import arms, plots, tables
    from jaxcnn.analysis import compare as comparing
    from jaxcnn.learning import files
    from jaxcnn.runs import display

    compared = arms.group([arms.read(folder) for folder in done])
    answers = {folder: pages.answers(folder, complain) for folder in done}
    held = {path: found for path, found in answers.items() if found is not None}
    if corrupted is not None:
        try:
            held = _with_corrupted(held, corrupted)
        except InputError as error:  # the runs are compared all the same
            problems.append(f"corrupted={corrupted}: {error}")
    found = comparing.compare(compared, held)
    files.write_json(workdir / "comparison.json", comparing.to_json(found))
    screen = display.console()
    screen.print(tables.render(found, screen.width))
    for block in tables.blocks(found):
        screen.print(tables.render_block(found, block, screen.width))
    if held:
        screen.print(tables.render_errors(found))
    picture = workdir / "comparison.png"
    with as_warning(f"{picture}: could not be drawn"):
        plots.save_comparison(found, picture)
    pages.write_page(title, compared, held, workdir / "report.html", problems)
    display.show_result(f"{tables.best(found)}\n{workdir}: {', '.join(MADE)}")


def _with_corrupted(
    held: "dict[Path, dict[str, np.ndarray]]", limit: int
) -> "dict[Path, dict[str, np.ndarray]]":
    """Returns the predictions of runs together with those for so many corrupted test images.

    Raises:
        InputError: the images are not at hand, or are no pixels.
    """
    from jaxcnn.runs import display, robustness

    with display.display() as listener:
        found = robustness.under_all([*held], limit, listener)
    return {path: {**answers, **found[path]} for path, answers in held.items()}
