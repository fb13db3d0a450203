"""``jaxcnn launch``: hands a training, a comparison or a sweep to the engine that runs it."""

import importlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Self

from jaxcnn.commands import arguments
from jaxcnn.commands.parsing import load_resources
from jaxcnn.config.checked import require
from jaxcnn.config.machines import Resources
from jaxcnn.errors import InputError

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

    from jaxcnn.launching import Job
    from jaxcnn.learning import mesh, standing

    module, launched = _parsed(command.command)
    engine = importlib.import_module(f"jaxcnn.launching.{command.on}")
    folder, runs, count = module.planned(launched, print)
    asked, several = command.resources, count > 1
    if several:
        accepted = f"1, since {count} runs are shared by workers of one node each"
        require("resources.nodes", asked.nodes, asked.nodes == 1, accepted)
    else:
        alone = asked.workers in (None, 1)
        require("resources.workers", asked.workers, alone, "1, for a single run")
    asked = engine.filled(asked, count)
    processes = asked.nodes * (max(1, asked.devices) if asked.nodes > 1 else 1)
    for run in runs:
        mesh.arrangement(run.experiment, asked.nodes * max(1, asked.devices), processes)

    words = [*_without("--workdir", command.command), "--workdir", engine.place(folder)]
    if several and not launched.shared:
        words.append("--shared")
    job = Job(folder, tuple(words), asked.workers, asked, several)
    if command.dry_run:
        print(engine.written(job), end="")
        return 0
    if len(runs) == count:
        standing.plan(folder, [run.folder for run in runs])
    for run in runs:
        if not standing.is_taken(run.folder):
            standing.forget(run.folder)  # what failed before is tried again
    return engine.submit(job, print)


def _without(option: str, words: Sequence[str]) -> list[str]:
    """Returns words without an option and its value."""
    kept, left = [], iter(words)
    for word in left:
        if word == option:
            next(left, None)
        elif not word.startswith(f"{option}="):
            kept.append(word)
    return kept
