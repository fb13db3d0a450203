"""Every command that README and docs show is understood; those that can be run here, are run."""

import contextlib
import functools
import importlib
import re
import shlex
import shutil
import tomllib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from jaxcnn import cli
from jaxcnn.commands import arguments
from tests.test_brought import command
from tests.test_export import sizes_may_be_symbols

ROOT = Path(__file__).parents[1]
PAGES = ["README.md", "CONTRIBUTING.md"] + [
    str(path.relative_to(ROOT)) for path in sorted((ROOT / "docs").glob("*.md"))
]
PAGES += ["docs/course/en/index.md", "docs/course/es/index.md"]


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


OTHERS_HAVE = {"--cpus-per-task", "--logdir", "--no-deps", "--peer", "--quick", "--signal"}
"""Options of SLURM, TensorBoard, pip, the benchmarks and the textbook."""


@functools.cache
def known_options():
    """The options of all commands, and the sections of an experiment that they begin with."""
    kinds = {
        name: importlib.import_module(f"jaxcnn.commands.{module}").Command
        for name, module in cli.COMMANDS.items()
    }
    parsers = [arguments.parser(kind, name) for name, kind in kinds.items()]
    found = {
        flag for parser in parsers for action in parser._actions for flag in action.option_strings
    }
    return found | {flag.partition(".")[0] for flag in found}


@pytest.mark.parametrize("page", PAGES)
def test_options_that_the_text_names_are_there(page):
    text = re.sub(r"```.*?```", "", (ROOT / page).read_text(), flags=re.S)
    named = re.findall(
        r"(?:^|(?<=\s))--[a-z][\w.-]*", "\n".join(re.findall(r"`([^`]+)`", text)), re.M
    )
    ours = [option for option in named if not option.startswith("--model.options.")]
    assert not set(ours) - known_options() - OTHERS_HAVE


PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
TARGETS = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.M)
FOREIGN = {
    "source",
    "tfds",
    "jupytext",
    "mlflow",
    "git",
    "MLFLOW_TRACKING_URI=http://127.0.0.1:5000",
}
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


NOT_RUN = {
    r"^import |weights/|photos|imported": "weights and photos: test_hub.py, test_photos.py",
    r"^plan ": "minutes of compiling for devices that are not there: test_plan.py",
    r"^native build": "a compiler of C++, and oneDNN: test_native_run.py",
    r"^(?!launch).*(fashion_mnist|mlp_fashion|--data mnist)": "data that have to be prepared",
    r"--track ": "a tracker: test_tracking.py",
    r"--distributed": "two processes: test_processes.py",
    r"--shared|--watch": "processes side by side: test_launching.py, test_pages_live.py",
    r"EXPERIMENT\.py": "a form for experiments with many epochs: test_run_recipes.py",
    r"--image-size 224": "a network that takes two sizes: test_docs.py, by docs/evaluation.md",
    r"^eval runs/compare_digits": "minutes: test_docs.py, by docs/evaluation.md",
    r"0\.01,0\.03,0\.1$": "minutes: a smaller grid stands in docs/start.md",
    r"^compare compare\.py": "minutes: test_docs.py compares the same",
}
"""Commands that are parsed but not run here: what they need, and the tests that run the like."""
SHORTER = {
    "train": ("--train.epochs", "1", "--data.train-limit", "200"),
    "sweep": ("--train.epochs", "1", "--data.train-limit", "200"),
    "compare": ("--seeds", "1"),
}


def to_run():
    """The commands of each page that are run; what many pages show in the same words, once."""
    found, seen = {}, set()
    for page in reversed(PAGES):  # README repeats what docs say
        lines = [" ".join(words) for words in OURS[page]]
        found[page] = [
            words
            for line, words in zip(lines, OURS[page], strict=True)
            if line not in seen and not any(re.search(pattern, line) for pattern in NOT_RUN)
        ]
        seen |= set(lines)
    return found


RUN = to_run()


def shortened(words):
    """What is run in place of a command: with fewer epochs, examples and trials, and no cluster."""
    if words[0] == "launch":
        return [words[0], "--dry-run", *words[1:]]
    fewer = [word for name in ("--trials", "--seeds") if name in words for word in (name, "2")]
    if {"--corruptions", "--shifts"} & set(words):
        fewer = ["--limit", "20"]
    return [*words, *SHORTER.get(words[0], ()), *fewer]


TWO_ARMS = """
def config(all_arms=config):
    return Comparison(arms=all_arms().arms[:2])
"""


@pytest.fixture(scope="module")
def trained(folder):
    """The folder with a run, a comparison, and scans to ask about."""
    (folder / "experiments").unlink()
    shutil.copytree(ROOT / "experiments", folder / "experiments")
    digits = folder / "experiments/lenet5_digits.py"  # a dense network is compiled in a second
    digits.write_text(digits.read_text().replace('Model("lenet5")', 'Model("mlp")'))
    compared = folder / "experiments/compare_digits.py"
    compared.write_text(re.sub(r"epochs=\d+", "epochs=2", compared.read_text()) + TWO_ARMS)
    for path in ("image.png", "scans/1.png", "more_scans/2.png"):
        (folder / path).parent.mkdir(exist_ok=True)
        Image.fromarray(np.arange(64, dtype=np.uint8).reshape(8, 8)).save(folder / path)
    (words,) = OURS["docs/evaluation.md"]
    command(folder, *shortened(words))
    command(folder, "compare", "experiments/compare_digits.py", "--seeds", "1")
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("page", [page for page in PAGES if RUN[page]])
def test_the_commands_of_a_page_run_one_after_the_other(trained, tmp_path, page):
    shutil.copytree(trained, tmp_path, dirs_exist_ok=True)
    for name in ("my_first.py", "compare.py"):  # which pages have made
        (tmp_path / name).unlink()
    if any(words[0] == "train" and "runs/a" in words for words in RUN[page]):
        shutil.rmtree(tmp_path / "runs/a")
    with sizes_may_be_symbols():  # which an export has
        for words in RUN[page]:
            assert command(tmp_path, *shortened(words))


def test_what_is_not_run_is_shown_somewhere():
    shown = [" ".join(words) for page in PAGES for words in OURS[page]]
    assert all(any(re.search(pattern, line) for line in shown) for pattern in NOT_RUN)
