"""``jaxcnn train``: trains an experiment, or goes on where an earlier call ended."""

import re
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from jaxcnn.commands import arguments
from jaxcnn.commands.arguments import Argument
from jaxcnn.commands.model_options import brought_docs, option_docs
from jaxcnn.commands.parsing import bring_from, load_overridable
from jaxcnn.config import Distributed, Experiment
from jaxcnn.config.brought import Brought
from jaxcnn.errors import InputError, as_input_error
from jaxcnn.runs.trackers import Tracker
from jaxcnn.text import complain, counted

if TYPE_CHECKING:
    from jaxcnn.runs.display import Listener
    from jaxcnn.runs.plan import Planned
    from jaxcnn.runs.start import Run


@dataclass(frozen=True)
class Command(arguments.Command):
    """Trains an experiment, or goes on where an earlier call in the same folder ended.

    Every field of the experiment is an option too, which takes precedence over the file.
    """

    most_used = (
        "train.epochs",
        "data.batch_size",
        "optim.peak_lr",
        "optim.name",
        "optim.weight_decay",
        "model.name",
        "model.options",
        "data.name",
        "data.dir",
        "train.seed",
        "workdir",
    )

    file: Path = field(metadata={"place": "EXPERIMENT.py"})
    """A file that defines config() -> Experiment, such as experiments/lenet5_digits.py."""
    workdir: Path | None = None
    """The run folder, or the folder of several seeds; by default runs/NAME-seedSEED, with --seeds
    runs/NAME-seeds. Where that holds a run with other settings, the default is a folder beside it,
    runs/NAME-seedSEED-2."""
    seeds: int | None = None
    """How many seeds, from train.seed on, are trained together, each in a folder seedN; by default
    train.seed alone."""
    shared: bool = False
    """With --seeds, shares the folder with other processes that were called alike, on machines that
    all see it: trains the seeds that none of them has taken. The last to end writes seeds.json."""
    init_from: str | None = None
    """A run or imported weights to start from, short for --model.init-from; by default what the
    experiment says."""
    source: tuple[Path, ...] = field(default=(), metadata=arguments.FROM)
    """A Python file with what was brought to other runs: those to start from, or to learn from. May
    be given several times."""
    accept_changes: bool = False
    """Goes on although the source of something that was brought has changed since a run began."""
    track: Tracker | None = None
    """Has the run, or each of several, tracked by MLflow or wandb, whose own environment variables
    say where; by default by neither. What fails there costs a line and not the run."""
    profile: str | None = None
    """The steps that jax.profiler traces into the run folder, such as 10:20 for the steps 10 to
    19; by default none."""
    experiment: Experiment = field(default_factory=Experiment, metadata={"spread": True})
    distributed: Distributed = field(default_factory=Distributed)

    @classmethod
    def defaults(cls, given: Mapping[str, Any]) -> Self | None:
        """Returns the command with the experiment of the file."""
        if "file" not in given:
            return None
        return cls(given["file"], experiment=load_overridable(given["file"], given))

    def more_help(self, given: Mapping[str, Any]) -> Sequence[Argument]:
        """Returns the options of the experiment's model."""
        name = given.get("model.name", self.experiment.model.name)
        with as_input_error():
            known = brought_docs(name) if isinstance(name, Brought) else option_docs(name)
        about, rows = f'The options of {name}; a tuple is written "(8, 16)".', []
        for option, (default, text) in known.items():
            value = str(self.experiment.model.options.get(option, default))
            text = arguments.with_default(text[:1].upper() + text[1:], value)
            flag = f"--model.options.{option}".replace("_", "-")
            settings = {"metavar": "VALUE", "help": text}
            rows.append(Argument(f"model.options.{option}", False, [flag], settings, about))
        return rows


def planned(command: Command, say: Callable[[str], object]) -> "Planned":
    """Returns the folder of a run, or of several seeds, and the runs.

    Args:
        command: the command.
        say: hears in one line why another folder is taken than usual.
    """
    from jaxcnn.runs import plan, settled
    from jaxcnn.runs.start import Run

    _require_fitting(command)
    bring_from(command.source)
    experiment, count, workdir = command.experiment, command.seeds, command.workdir
    if command.init_from is not None:
        model = replace(experiment.model, init_from=command.init_from)
        experiment = replace(experiment, model=model)
    seed = f"seed{experiment.train.seed}"
    if workdir is None:
        name, inside = (seed, "") if count is None else ("seeds", seed)
        usual = Path("runs") / f"{experiment.name}-{name}"
        workdir = settled.vacant(lambda folder: [Run(experiment, folder / inside)], usual, say)
    if count is None:
        return plan.Planned(workdir, [Run(experiment, workdir)], 1)
    return plan.Planned(workdir, plan.seeds(experiment, workdir, count), count)


def run(command: Command) -> int:
    """Trains the experiment and returns the exit code."""
    from jaxcnn.runs import tracking

    with tracking.tracked(command.track, command.experiment.name) as tracked:
        return _run(command, tracked)


def _require_fitting(command: Command) -> None:
    """Refuses options that do not fit one another."""
    if _steps(command.profile) is not None and command.seeds is not None:
        raise InputError(f"--profile {command.profile}: traces one run; leave --seeds out")
    if command.seeds is None and command.shared:
        raise InputError("--shared: shares out several seeds; give --seeds, or leave it out")


def _run(command: Command, tracked: "Listener") -> int:
    profile, count = _steps(command.profile), command.seeds
    _require_fitting(command)

    from jaxcnn.learning import processes
    from jaxcnn.learning.selection import OPTIMISTIC
    from jaxcnn.runs import display, group

    found = processes.start(command.distributed)
    result: Mapping[str, Any] | None
    diverged: Mapping[Path, str] = {}
    with display.display() as shown, processes.ending_together():
        listener = display.Both(shown, tracked)
        told = listener if processes.is_first() else display.Listener()
        if found:
            told.message(found)
        workdir, runs, _ = planned(command, told.message)
        if count is None:
            result = group.train_one(
                runs[0].experiment,
                workdir,
                listener,
                profile=profile,
                accept_changes=command.accept_changes,
            )
        else:
            first, last = (run.experiment.train.seed for run in (runs[0], runs[-1]))
            told.title(f"{counted(count, 'seed')}, {first} to {last}, in {workdir}")
            result, diverged = _train_seeds(command, workdir, runs, listener)
    if processes.is_first() and result is not None:
        said = _of_one(result, workdir) if count is None else _of_seeds(result, workdir)
        display.show_result(f"{said}\n{_read_on(command, workdir)}")
        patience = runs[0].experiment.train.patience
        if patience is not None and result.get("selected_on", "test") == "test":
            display.show(f"patience: {OPTIMISTIC}")
    for path, reason in diverged.items():
        complain(f"{path}: {reason}")
    return 1 if diverged else 0


def _train_seeds(
    command: Command, workdir: Path, runs: "Sequence[Run]", listener: "Listener"
) -> tuple[Mapping[str, Any] | None, Mapping[Path, str]]:
    """Returns what seeds.json holds, unless another process writes it, and what diverged."""
    from jaxcnn.learning import files
    from jaxcnn.runs import group, plan, sharing, together

    files.check_writable(workdir / "seeds.json")
    outcome = group.train(
        runs,
        listener,
        modes=together.Modes(workdir / "together.json"),
        grouping="all",
        shared=command.shared,
        accept_changes=command.accept_changes,
    )
    name = runs[0].experiment.name
    with sharing.finishing(outcome, workdir / "seeds.json", command.shared) as mine:
        return plan.write_seeds(name, outcome, workdir) if mine else None, outcome.diverged


def _of_one(summary: Mapping[str, Any], workdir: Path) -> str:
    from jaxcnn.learning import run_folder
    from jaxcnn.runs import display

    metrics = run_folder.judged(workdir).metrics
    files = ("summary.json", "metrics.jsonl", "curves.png", "confusion.png")
    written = ", ".join(name for name in files if (workdir / name).exists())
    return (
        f"{display.reached(summary, metrics)} after {counted(summary['epochs'], 'epoch')} "
        f"in {summary['seconds']:.1f} s\n"
        f"{display.of_best(summary, metrics[0])}\n"
        f"{workdir}: {written}"
    )


def _of_seeds(result: Mapping[str, Any], workdir: Path) -> str:
    """Returns the lines on all seeds: mean and, of several, standard deviation and interval."""
    from jaxcnn.learning import run_folder
    from jaxcnn.tasks import LOSS

    lines, seeds = [], result["seeds"]
    metric = run_folder.judged(workdir / f"seed{seeds[0]}").metrics[0] if seeds else LOSS
    for split, prefix, kind in (
        ("validation", "val", metric),
        ("test", "test", metric),
        ("test", "test", LOSS),
    ):
        found = result.get(f"{prefix}_{kind.name}")
        if found is not None:
            line = f"{split} {kind.title} {kind.shown(found['mean'])}"
            if found["std"] is not None:
                line += f", standard deviation {kind.shown(found['std'])}"
            if found["low"] is not None:  # seeds that are all equal have no interval
                low, high = kind.shown(found["low"]), kind.shown(found["high"])
                line += f", 95 % interval {low} to {high}"
            lines.append(f"{line} ({counted(len(found['values']), 'seed')})")
    written = f"{workdir}: seeds.json, and a run folder for each seed"
    return "\n".join([*lines, written])


def _read_on(command: Command, workdir: Path) -> str:
    """Returns the command that shows more of a result, with what was brought handed over again."""
    from jaxcnn.learning import brought

    words = ["jaxcnn", "report", str(workdir)]
    if any(map(brought.is_recorded, (workdir, *workdir.glob("*/")))):
        words += ["--from", *map(str, command.source or (command.file,))]
    return f"read on: {shlex.join(words)}"


def _steps(text: str | None) -> tuple[int, int] | None:
    """Returns the first and the last step of ``10:20``."""
    if text is None:
        return None
    found = re.fullmatch("([0-9]{1,18}):([0-9]{1,18})", text)
    if found is None or int(found[1]) >= int(found[2]):
        raise InputError(f"--profile {text}: must be FIRST:LAST, as in 10:20, FIRST below LAST")
    return int(found[1]), int(found[2])
