"""What README and docs show is run as it stands there."""

import ast
import contextlib
import json
import re
import shlex
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

import jaxcnn
from jaxcnn.commands import sweep
from jaxcnn.commands.parsing import load_experiment, load_resources
from tests.test_brought import command, killed_and_whole, summary
from tests.test_export import sizes_may_be_symbols

ROOT = Path(__file__).parents[1]


def blocks(name):
    """The blocks of Python in a file."""
    return re.findall(r"```python\n(.*?)```", (ROOT / name).read_text(), re.S)


def experiment(name):
    """The block that defines the experiment of a name."""
    files = ["README.md", "docs/own.md"]
    (found,) = [b for file in files for b in blocks(file) if f'name="{name}"' in b][:1]
    return found


FOUND = {
    "scans": ("data", "name", "scans:load_lazily"),
    "momentum": ("optim", "name", "momentum:momentum"),
    "ramp": ("schedule", "name", "ramp:ramp"),
    "noisy": ("augment", "own", ["noisy:noise"]),
}
SHORT = ("--train.epochs", "2", "--data.batch-size", "128")


@pytest.mark.parametrize("name", FOUND)
def test_an_experiment_trains_in_a_folder_that_holds_nothing_else(tmp_path, name):
    (tmp_path / f"{name}.py").write_text(experiment(name))
    said = command(tmp_path, "train", f"{name}.py", *SHORT)
    assert said.endswith(f"read on: jaxcnn report runs/{name}-seed0 --from {name}.py\n")
    section, field, value = FOUND[name]
    run = tmp_path / "runs" / f"{name}-seed0"
    assert json.loads((run / "config.json").read_text())[section][field] == value
    assert summary(run)["test_top1"] > 0.3  # by chance it is a tenth
    said = command(tmp_path, "eval", f"runs/{name}-seed0", "--from", f"{name}.py")
    assert f"top-1 {summary(run)['test_top1']:.2%}" in said


@pytest.mark.slow
@pytest.mark.parametrize("name", FOUND)
def test_killed_it_goes_on_with_the_same_bits(tmp_path, name):
    (tmp_path / f"{name}.py").write_text(experiment(name))
    argv = ("train", f"{name}.py", "--train.epochs", "30", "--train.checkpoint-every", "1")
    killed, whole = killed_and_whole(tmp_path, (*argv, "--workdir"), "epoch    2")
    assert killed["state_sha256"] == whole["state_sha256"]


@pytest.mark.parametrize(
    ("shown", "asked"), [("README.md", "README.md"), ("docs/own.md", "docs/notebook.md")]
)
def test_a_notebook_trains_the_network_that_is_shown(tmp_path, shown, asked):
    (network,) = [block for block in blocks(shown) if "class TinyNet" in block]
    (cells,) = [block for block in blocks(asked) if "jaxcnn.train(" in block]
    (tmp_path / "tiny.py").write_text(network)
    command(tmp_path, "train", "tiny.py", "--data.name", "digits", "--train.epochs", "1")
    rng = np.random.default_rng(0)
    x, y = rng.integers(0, 256, (96, 12, 12, 3), np.uint8), np.arange(96) % 3
    names = {"x": x[:64], "y": y[:64], "xt": x[64:], "yt": y[64:], "images": x[:4]}
    with contextlib.chdir(tmp_path):
        exec(network, names)
        exec(cells.replace("epochs=5", "epochs=2"), names)
        run, again = names["run"], names["again"]
        assert len(run.history) == 2
        assert run.predict(names["images"]).shape == (4, 3)
        assert again.result["epochs"] == 1
        assert again.predict(np.zeros((1, 8, 8, 1), np.uint8)).shape == (1, 10)


ASKING = blocks("docs/evaluation.md")
PAGES = ("concepts", "design", "index", "models", "robustness", "start", "tasks")
OTHERS = [
    block
    for name in ("README.md", *(f"docs/{page}.md" for page in PAGES))
    for block in blocks(name)
    # Tried here, in test_own_task, and in test_eval.
    if "TinyNet" not in block and "BaseTask" not in block and '"runs/a"' not in block
]


def test_no_block_is_left_out():
    shown = [
        b for file in ("README.md", *sorted((ROOT / "docs").glob("*.md"))) for b in blocks(file)
    ]
    tried = [*OTHERS, *map(experiment, FOUND), *blocks("docs/launching.md")]
    tried += [b for b in blocks("docs/robustness.md") if '"runs/a"' in b] + ASKING
    # In test_export, but for the conversion to ONNX, which needs an environment of its own.
    tried += blocks("docs/export.md")
    left = [b for b in shown if b not in tried and "TinyNet" not in b and "BaseTask" not in b]
    assert not left


def test_a_file_says_what_it_runs_on_and_what_is_swept(tmp_path):
    file = tmp_path / "widths.py"
    file.write_text("\n".join(blocks("docs/launching.md")))
    assert load_resources(file).devices == 1
    command = sweep.Command(file, experiment=load_experiment(file))
    trials = sweep._plan(command)
    assert [trial.values for trial in trials] == [
        {"model.options.widths": (width, 2 * width)} for width in (8, 16, 32)
    ]


@pytest.mark.parametrize("block", OTHERS, ids=lambda block: block.split("\n")[0][:40])
def test_whatever_else_is_shown_runs(block):
    names = {}
    exec(block, names)
    made = [node for node in ast.parse(block).body if isinstance(node, ast.FunctionDef)]
    assert all(isinstance(names[node.name](), jaxcnn.Experiment) for node in made)


README, EVALUATION = ((ROOT / name).read_text() for name in ("README.md", "docs/evaluation.md"))
# In README, too, as long as it has them; each once.
ASKED = [*dict.fromkeys(re.findall(r"^\| .* \| `jaxcnn ([^`]+)` \|$", README + EVALUATION, re.M))]
LONG = ("--corruptions", "--shifts", "runs/compare_digits", "--init-from")


@pytest.fixture(scope="module")
def asked(tmp_path_factory):
    """A folder with the run that is asked, and with images to ask it about."""
    folder = tmp_path_factory.mktemp("asked")
    (folder / "experiments").symlink_to(ROOT / "experiments")
    (trained,) = re.findall(r"^jaxcnn (train .* --workdir runs/a)$", EVALUATION, re.M)
    command(folder, *shlex.split(trained))
    digits = load_digits()
    of_folders = {"photos": range(40), "more": range(40, 60), "foreign": range(60, 90)}
    for name, places in of_folders.items():
        for i in places:
            label = f"figure {digits.target[i]}" if name == "foreign" else str(digits.target[i])
            path = folder / name / label / f"{i}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray((digits.images[i] * 255 / 16).astype(np.uint8)).save(path)
    (folder / "names.txt").write_text("".join(f"figure {i} = {i}\n" for i in range(10)))
    (folder / "image.png").write_bytes((folder / "photos/0/0.png").read_bytes())
    return folder


@pytest.mark.slow
def test_what_a_run_can_be_asked_it_answers(asked):
    short = [line for line in ASKED if not any(word in line for word in LONG)]
    for line in short:  # one after the other: a temperature is fitted before it is used
        with sizes_may_be_symbols():  # which an export has
            assert command(asked, *shlex.split(line))
    assert len(short) >= 10
    assert (asked / "runs/a/temperature.json").exists()
    assert (asked / "runs/a/export/stablehlo/model.stablehlo").exists()


def test_what_python_asks_it_answers(asked):
    with contextlib.chdir(asked):
        for block in ASKING:
            exec(block, {})


@pytest.mark.slow
def test_what_takes_a_run_longer_to_answer(asked):
    command(asked, "compare", "experiments/compare_digits.py", "--seeds", "2")
    for line in ASKED:
        if any(word in line for word in LONG):
            assert command(asked, *shlex.split(line))
    assert (asked / "curves.png").exists()
    assert "fog" in (asked / "fog.csv").read_text()
