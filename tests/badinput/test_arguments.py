"""Command lines: every option of every command, and every field of an experiment."""

import dataclasses
import importlib
from collections.abc import Iterator

from jaxcnn import cli
from jaxcnn.config import Experiment
from tests.badinput.conftest import table
from tests.badinput.harness import Case
from tests.badinput.values import NO_PATH, WORDS
from tests.badinput.world import IMPORT

CALLS = {
    "new": ("new", "mine.py"),
    "train": ("train", "experiment.py"),
    "eval": ("eval", "run"),
    "predict": ("predict", "run", "image.png"),
    "import": (*IMPORT, "--out", "new"),
    "compare": ("compare", "comparison.py"),
    "sweep": ("sweep", "experiment.py", "optim.peak_lr=0.1"),
    "launch": ("launch", "--on", "slurm", "--dry-run", "--", "train", "experiment.py"),
    "status": ("status", "run", "--once"),
    "report": ("report", "run", "--out", "page.html"),
    "export": ("export", "run", "--to", "safetensors", "--out", "new"),
    "viz": ("viz", "run"),
    "bench": ("bench", "mlp", "--batch-size", "1", "--infer"),
    "plan": ("plan", "experiment.py"),
    "summary": ("summary", "mlp"),
    "list": ("list",),
    "native": ("native", "status"),
}
"""A valid call of every command."""


def test_every_command_is_called():
    assert CALLS.keys() == cli.COMMANDS.keys()


def options() -> Iterator[Case]:
    for name, call in CALLS.items():
        module = importlib.import_module(f"jaxcnn.commands.{cli.COMMANDS[name]}")
        for field in dataclasses.fields(module.Command):
            if "spread" in field.metadata:
                continue
            if field.name == "distributed":
                names = ["distributed.coordinator", "distributed.processes", "distributed.process"]
            else:
                names = [field.metadata.get("name", field.name)]
            for option in names:
                for wrong, word in WORDS.items():
                    if "Path" in str(field.type) and wrong in NO_PATH:
                        continue
                    added = [word] if "place" in field.metadata else [_flag(option), word]
                    yield Case(f"{name} {option} {wrong}", (*call, *added))
            yield Case(f"{name} {names[0]} without a value", (*call, _flag(names[0])))
        for position in range(1, len(call)):
            for wrong, word in WORDS.items():
                argv = (*call[:position], word, *call[position + 1 :])
                yield Case(f"{name} word {position} {wrong}", argv, writes=("page.html",))


def lines() -> Iterator[Case]:
    yield Case("nothing", ())
    for wrong, word in WORDS.items():
        yield Case(f"command {wrong}", (word,))
        yield Case(f"option {wrong}", ("list", f"--{word}"))
        yield Case(f"option {wrong} with a value", ("list", f"--{word}=1"))
        yield Case(f"option of a model {wrong}", ("train", "experiment.py", f"--model.{word}", "1"))
        yield Case(f"model option {wrong}", (*TRAIN, f"--model.options.{word}", "1"))
        yield Case(f"model option hidden {wrong}", (*TRAIN, "--model.options.hidden", word))
        yield Case(f"grid {wrong}", ("sweep", "experiment.py", word))
        yield Case(f"grid value {wrong}", ("sweep", "experiment.py", f"data.name={word}"))
        yield Case(f"grid field {wrong}", ("sweep", "experiment.py", f"{word}=1"))
        yield Case(f"draws {wrong}", ("sweep", "experiment.py", "--trials", word, "optim.b1=0:0.9"))
        for kind, space in {
            "values": f"optim.peak_lr={word}",
            "bound": f"optim.b1=log:{word}:1",
            "whole bound": f"data.cutout=int:0:{word}",
        }.items():
            searched = ("--search", "random", "--trials", "1")
            yield Case(f"{kind} {wrong}", ("sweep", "experiment.py", space, *searched))
        yield Case(
            f"objective {wrong}",
            ("sweep", "experiment.py", "optim.b1=0:0.9", "--trials", "1", "--objectives", word),
        )
    for name, call in CALLS.items():
        yield Case(f"{name} alone", (name,))
        yield Case(f"{name} twice", (*call, *call[1:]))
        yield Case(f"{name} with a double dash", (name, "--", *call[1:]))
        yield Case(f"{name} ending in a double dash", (*call, "--"))
        yield Case(f"{name} help amid faults", (*call, "--nothing", "--help"))
        yield Case(f"{name} with 5000 words", (*call, *["x"] * 5000))
        yield Case(f"{name} with an equals sign", (*call, "--=x"))
        yield Case(f"{name} debug", (*call, "--debug=1"))
        yield Case(f"{name} response file", (*call, "@experiment.py"))


TRAIN = ("train", "experiment.py")
SAYS_LITTLE = {"a regular expression that backtracks", "a percent sign", "mathematics", "a bracket"}


def fields() -> Iterator[Case]:
    experiment = Experiment()
    for section in dataclasses.fields(experiment):
        value = getattr(experiment, section.name)
        names = [section.name]
        if dataclasses.is_dataclass(value):
            names = [f"{section.name}.{field.name}" for field in dataclasses.fields(value)]
        for name in names:
            for wrong, word in WORDS.items():
                if wrong not in SAYS_LITTLE:
                    yield Case(f"{name} {wrong}", (*TRAIN, _flag(name), word))


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")


@table(options(), fast=6)
def test_options(clean, case):
    clean("options", case)


@table(lines(), fast=6)
def test_command_lines(clean, case):
    clean("command lines", case)


@table(fields(), fast=6)
def test_fields(clean, case):
    clean("fields", case)
