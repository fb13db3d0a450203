"""``jaxcnn launch``: hands a training, a comparison or a sweep to the engine that runs it."""

import importlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

from jaxcnn.commands import arguments
from jaxcnn.commands.parsing import load_resources
from jaxcnn.config.checked import require
from jaxcnn.config.machines import Resources
from jaxcnn.errors import InputError, as_input_error
from jaxcnn.text import complain

if TYPE_CHECKING:
    from jaxcnn.runs.start import Run

LAUNCHED = ("train", "compare", "sweep")
"""The commands that can be launched; each is a module beside this one."""


@dataclass(frozen=True)
class Command(arguments.Command):
    """Hands a command to this machine, to SLURM or to a cloud: train, compare or sweep.

    A comparison, a sweep and several seeds are shared by many workers, each of which takes the
    runs that no other one has. A worker that ends early leaves its run to the others.

    The file of the experiment or comparison may say what the workers run on, in a function
    resources() -> Resources; options take precedence. `jaxcnn status` shows how the runs stand.
    """

    most_used = ("command", "on", "dry_run", "workers", "nodes", "devices", "hours", "partition")

    command: tuple[str, ...] = field(metadata={"place": "COMMAND", "rest": True})
    """What follows `jaxcnn`, behind two dashes: as in `-- compare FILE --seeds 5`."""
    on: Literal["local", "slurm", "skypilot"] = "local"
    """The engine: this machine, SLURM, or a cloud by SkyPilot."""
    dry_run: bool = False
    """Prints what would be handed to the engine, and does nothing."""
    resources: Resources = field(default_factory=Resources, metadata={"spread": True})

    @classmethod
    def defaults(cls, given: Mapping[str, Any]) -> Self | None:
        """Returns the command with the resources that the file asks for."""
        if not given.get("command"):
            return None
        words = tuple(given["command"])
        return cls(words, resources=load_resources(_parsed(words)[1].file) or Resources())


def _parsed(words: tuple[str, ...]) -> tuple[Any, Any]:
    """Returns the module of a command that is to be launched, and the command.

    Raises:
        InputError: there is no such command, or it cannot be launched, or is wrong.
    """
    name, *args = words
    if name not in LAUNCHED:
        raise InputError(f"launch -- {name}: must be one of {', '.join(LAUNCHED)}")
    module = importlib.import_module(f"jaxcnn.commands.{name}")
    return module, arguments.parse(module.Command, args, name)


def run(command: Command) -> int:
    """Launches the command and returns the exit code."""
    import jax

    jax.config.update("jax_platforms", "cpu")  # the accelerators are the workers'

    from jaxcnn.launching import Engine, Job

    say: Callable[[str], object] = complain if command.dry_run else print
    module, launched = _parsed(command.command)
    engine: Engine = importlib.import_module(f"jaxcnn.launching.{command.on}")
    folder, runs, count = module.planned(launched, say)
    asked, several = command.resources, count > 1
    if several:
        accepted = f"1, since {count} runs are shared by workers of one node each"
        require("resources.nodes", asked.nodes, asked.nodes == 1, accepted)
    else:
        alone = asked.workers in (None, 1)
        require("resources.workers", asked.workers, alone, "1, for a single run")
    asked = engine.filled(asked, count)
    _check(asked, runs, sweep=command.command[0] == "sweep")

    name, *words = command.command
    words = [name, "--workdir", engine.place(folder), *_without("--workdir", words)]
    if several and not launched.shared:
        words.insert(1, "--shared")
    searched = several and len(runs) < count
    extras = [*(["search"] if searched else []), *filter(None, [launched.track])]
    job = Job(folder, tuple(words), asked.workers or 1, asked, several, tuple(extras))
    if command.dry_run:
        print(engine.written(job), end="")
        return 0

    def accepted_there() -> None:
        from jaxcnn.learning import run_folder, standing

        standing.plan(folder, [] if searched else [each.folder for each in runs])
        for path in {each.folder for each in runs} | {*run_folder.within(folder)}:
            if not standing.is_taken(path):
                _try_again(path)

    return engine.submit(job, print, accepted_there)


def _check(asked: Resources, runs: "Sequence[Run]", sweep: bool) -> None:
    """Refuses runs that could not begin where they are to be trained.

    Raises:
        InputError: there is no such model, a batch cannot be split, or a folder is another run's.
    """
    from jaxcnn.commands.model_options import option_docs
    from jaxcnn.config import to_dict
    from jaxcnn.learning import mesh, run_folder
    from jaxcnn.runs import aside, settled

    processes = asked.nodes * (max(1, asked.devices) if asked.nodes > 1 else 1)
    for name in {run.experiment.model.name for run in runs}:
        if isinstance(name, str):
            with as_input_error():
                option_docs(name)
    for run in aside.put_aside(settled.settled(runs), sweep=sweep):
        mesh.arrangement(run.experiment, asked.nodes * max(1, asked.devices), processes)
        run_folder.check_place(run.folder)
        run_folder.finished(run.folder, to_dict(run.experiment))


def _try_again(folder: Path) -> None:
    """Lets a run be trained that has failed; one that was pruned stays so."""
    from jaxcnn.learning import standing

    fault = standing.fault(folder)
    if fault is not None and fault.ended != "pruned":
        standing.forget(folder)


def _without(option: str, words: Sequence[str]) -> list[str]:
    """Returns words without an option and its value."""
    kept, left = [], iter(words)
    for word in left:
        if word == option:
            next(left, None)
        elif not word.startswith(f"{option}="):
            kept.append(word)
    return kept
