"""Every command that README and docs show is understood; those that can be run here, are run."""

import contextlib
import functools
import importlib
import re
import shlex
import tomllib
from pathlib import Path

import pytest

from jaxcnn import cli
from jaxcnn.commands import arguments

ROOT = Path(__file__).parents[1]
PAGES = ["README.md", "CONTRIBUTING.md"] + [
    str(path.relative_to(ROOT)) for path in sorted((ROOT / "docs").glob("*.md"))
]


@functools.cache
def commands(page):
    """The command lines in a page's blocks for a shell, as words, without what the shell takes."""
    lines = []
    for block in re.findall(r"```sh\n(.*?)```", (ROOT / page).read_text(), re.S):
        for line in block.replace("\\\n", " ").split("\n"):
            words = shlex.split(re.sub(r" > \S+", "", line), comments=True)
            for part in " ".join(map(shlex.quote, words)).split(" '&&' "):
                said = shlex.split(part)
                while said and re.match(r"[A-Z_]+=|export$", said[0]):
                    del said[0]
                lines += [said] if said else []
    return lines


OURS = {page: [words[1:] for words in commands(page) if words[0] == "jaxcnn"] for page in PAGES}
OTHERS = {page: [words for words in commands(page) if words[0] != "jaxcnn"] for page in PAGES}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with the files that pages speak of."""
    made = tmp_path_factory.mktemp("shown")
    (made / "experiments").symlink_to(ROOT / "experiments")
    # Whatever a page calls an experiment, with as many epochs as the schedules there need.
    (network,) = re.findall(r"```python\n(.*?)```", (ROOT / "docs/own.md").read_text(), re.S)[:1]
    (made / "tiny.py").write_text(network)
    digits = (ROOT / "experiments/lenet5_digits.py").read_text().replace("epochs=30", "epochs=90")
    for name in ("EXPERIMENT.py", "my_first.py", "photos.py", "my_experiment.py"):
        (made / name).write_text(digits)
    compared = (ROOT / "experiments/compare_digits.py").read_text()
    (made / "compare.py").write_text(compared)
    return made


def understood(words):
    """Builds the command that words describe, and the one that a launch hands on."""
    name, *args = ["experiments/lenet5_digits.py" if word == "FILE" else word for word in words]
    kind = importlib.import_module(f"jaxcnn.commands.{cli.COMMANDS[name]}").Command
    built = arguments.parse(kind, args, name)
    if name == "launch":
        understood(built.command)
    return built


@pytest.mark.parametrize("page", [page for page in PAGES if OURS[page]])
def test_every_command_is_understood(folder, page):
    with contextlib.chdir(folder):
        for words in OURS[page]:
            assert understood(words)


PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
TARGETS = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.M)
FOREIGN = {"source", "tfds", "mlflow", "git", "MLFLOW_TRACKING_URI=http://127.0.0.1:5000"}
"""Programs of others, and of the shell."""


@pytest.mark.parametrize("page", [page for page in PAGES if OTHERS[page]])
def test_what_other_programs_are_given_is_there(page):
    for words in OTHERS[page]:
        match words[0].rpartition("/")[2], *words[1:]:
            case "make", *targets:
                assert {word for word in targets if "=" not in word} <= set(TARGETS)
            case "pip", "install", *what:
                extras = re.findall(r"\[(.*?)\]", " ".join(what))
                known = PROJECT["optional-dependencies"]
                assert {name for names in extras for name in names.split(",")} <= known.keys()
            case (("python" | "python3"), *how):
                where = how[1].replace(".", "/") if how[0] == "-m" else how[0]
                paths = [ROOT / where, ROOT / f"{where}.py"]
                assert how[1] == "venv" or any(path.exists() for path in paths)
            case name, *_:
                assert name in FOREIGN
