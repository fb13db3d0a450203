"""What is released: the wheel and what it is installed as, its version, its types, its files."""

import ast
import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tomllib
import venv
import zipfile
from pathlib import Path

import pytest
import yaml

import jaxcnn
from jaxcnn import cli
from jaxcnn.commands.parsing import load_comparison, load_experiment

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
EXPERIMENTS = sorted(path.stem for path in (ROOT / "experiments").glob("*.py"))
DATA = [
    "jaxcnn/py.typed",
    "jaxcnn/data/imagenet_classes.txt",
    "jaxcnn/commands/template.py.txt",
    "jaxcnn/analysis/templates/report.html",
    "jaxcnn/ops/native/onednn.cpp",
    "jaxcnn/experiments/lenet5_digits.py",
]


def done(*command, cwd, env=None):
    """What a command prints, which must end well; it is run as a user does."""
    usual = {k: v for k, v in os.environ.items() if k not in ("JAXCNN_NATIVE", "XLA_FLAGS")}
    found = subprocess.run(
        command, cwd=cwd, env=usual | (env or {}), capture_output=True, text=True, check=False
    )
    assert found.returncode == 0, found.stdout + found.stderr
    return found.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The wheel, built without a network from a copy, into which the build writes the version."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    unwanted = shutil.ignore_patterns("__pycache__", "_version.py")
    for name in ("jaxcnn", "experiments", "tests", "benchmarks"):
        shutil.copytree(ROOT / name, source / name, ignore=unwanted)
    for name in ("pyproject.toml", "README.md", "LICENSE", ".gitignore"):
        shutil.copy(ROOT / name, source / name)
    pip = (sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check")
    done(*pip, "wheel", "--no-build-isolation", "--no-deps", "--no-index", source, cwd=folder)
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory):
    """The programs of an environment that has the wheel, and what it depends on from here."""
    folder = tmp_path_factory.mktemp("installed")
    venv.create(folder, symlinks=True)
    site = Path(sysconfig.get_path("purelib", vars={"base": str(folder)}))
    here = {sysconfig.get_path(kind) for kind in ("purelib", "platlib")}
    (site / "dependencies.pth").write_text("\n".join(here))
    pip = (sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check")
    python = folder / "bin" / "python"
    done(*pip, "--python", python, "install", "--no-deps", "--no-index", wheel, cwd=folder)
    return folder / "bin"


def test_the_wheel_holds_the_package_with_its_data_and_experiments_and_nothing_else(wheel):
    with zipfile.ZipFile(wheel) as archive:
        held = {name for name in archive.namelist() if ".dist-info/" not in name}
        version = archive.read("jaxcnn/_version.py").decode()
    package = {
        str(path.relative_to(ROOT))
        for path in (ROOT / "jaxcnn").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts and path.name != "_version.py"
    }
    shipped = {f"jaxcnn/experiments/{name}.py" for name in EXPERIMENTS}
    assert held == package | shipped | {"jaxcnn/_version.py"}
    assert held >= set(DATA)
    assert f'__version__ = "{wheel.name.split("-")[1]}"' in version


GIT = ("git", "-c", "user.name=test", "-c", "user.email=test@example.org")
COMMITTED = "init -q . ; add . ; commit -q -m first"
FALLBACK = PROJECT["tool"]["hatch"]["version"]["fallback-version"]
STATES = {
    "no git": ("", FALLBACK),
    "no tags": (COMMITTED, rf"{FALLBACK[:-1]}{int(FALLBACK[-1]) + 1}\.dev1\+g\w+"),
    "a tag": (f"{COMMITTED} ; tag v7.2.0", r"7\.2\.0"),
    "after a tag": (
        f"{COMMITTED} ; tag v7.2.0 ; commit -q --allow-empty -m second",
        r"7\.2\.1\.dev1\+g\w+",
    ),
}


@pytest.mark.parametrize("state", STATES)
def test_the_version_is_that_of_the_tag_and_there_is_one_without(tmp_path, state):
    commands, version = STATES[state]
    for name in ("pyproject.toml", ".gitignore", ".gitattributes", ".git_archival.txt"):
        shutil.copy(ROOT / name, tmp_path / name)
    for words in filter(None, commands.split(" ; ")):
        done(*GIT, *words.split(), cwd=tmp_path)
    found = done(sys.executable, "-m", "hatchling", "version", cwd=tmp_path).strip()
    assert re.fullmatch(version, found)
    if commands:  # an archive has no history, but tells by the newest tag what it is of
        done(*GIT, "archive", "--prefix=unpacked/", "--output=a.tar", "HEAD", cwd=tmp_path)
        done("tar", "xf", "a.tar", cwd=tmp_path)
        told = done(sys.executable, "-m", "hatchling", "version", cwd=tmp_path / "unpacked")
        assert re.fullmatch(version if "tag " in commands else re.escape(FALLBACK), told.strip())


def test_the_changelog_names_the_last_release_first():
    text = (ROOT / "CHANGELOG.md").read_text()
    titles = re.findall(r"^## (.*)$", text, re.MULTILINE)
    assert titles[0] == "[Unreleased]"
    assert all(re.fullmatch(r"\[\d+\.\d+\.\d+\] - \d{4}-\d\d-\d\d", title) for title in titles[1:])
    assert titles[1].startswith(f"[{FALLBACK}] ")
    kinds = {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}
    assert set(re.findall(r"^### (.*)$", text, re.MULTILINE)) <= kinds


def test_the_version_is_shown(capsys):
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out == f"{jaxcnn.__version__}\n"


# ------------------------------------------------------------------------ experiments to start from


def call(capsys, *args):
    code = cli.main(args)
    return code, *capsys.readouterr()


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_a_copy_of_an_experiment_is_ready_under_another_name(capsys, monkeypatch, tmp_path, name):
    monkeypatch.chdir(tmp_path)
    action, load = ("compare", load_comparison) if "compare" in name else ("train", load_experiment)
    for file in (f"{name}.py", "mine.py"):
        given = () if file.startswith(name) else (file,)
        code, out, err = call(capsys, "new", "--from", name, *given)
        assert (code, err) == (0, "")
        assert out == f"{file}: now `jaxcnn {action} {file}`, or `jaxcnn {action} {file} --help`\n"
        header = ast.get_docstring(ast.parse(Path(file).read_text()))
        assert f"jaxcnn {action} {file}" in header
        assert f"experiments/{name}" not in header
    source, copy = (load(path) for path in (ROOT / "experiments" / f"{name}.py", Path("mine.py")))
    if action == "train":
        assert (source.name, copy.name) == (name, "mine")
    assert str(copy).replace("mine", name) == str(source)


REFUSED = {
    "a name that is nearly one": (("--from", "lenet5_digit", "x.py"), "did you mean lenet5_digits"),
    "a path": (("--from", "experiments/unet_shapes.py"), "did you mean unet_shapes"),
    "no such name": (("--from", "\x1bzzz\n"), r"'\x1bzzz\n'; `jaxcnn new --list` shows all"),
    "a file that is there": (("--from", "lenet5_digits"), "lenet5_digits.py: is there already"),
    "no file of Python": (("--from", "lenet5_digits", "x.txt"), "must be a name such as"),
    "nothing": ((), "give FILE.py, the file to write, or --from NAME"),
}


@pytest.mark.parametrize("given", REFUSED)
def test_what_cannot_be_written_is_said_in_a_line(capsys, monkeypatch, tmp_path, given):
    monkeypatch.chdir(tmp_path)
    Path("lenet5_digits.py").write_text("mine")
    args, said = REFUSED[given]
    code, out, err = call(capsys, "new", *args)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert said in err
    assert [path.read_text() for path in tmp_path.iterdir()] == ["mine"]


@pytest.mark.parametrize("width", [80, 120])
def test_the_list_names_every_experiment_within_the_terminal(capsys, monkeypatch, width):
    monkeypatch.setenv("COLUMNS", str(width))
    code, out, err = call(capsys, "new", "--list")
    assert (code, err) == (0, "")
    assert re.findall(r"^(\w+) +\S", out, re.MULTILINE) == EXPERIMENTS
    assert max(map(len, out.splitlines())) <= width


# ------------------------------------------------------------------------------- as it is installed


@pytest.mark.slow
def test_it_trains_in_an_empty_folder_far_from_the_checkout(installed, tmp_path):
    env = {"PATH": f"{installed}:{os.environ['PATH']}", "PYTHONPATH": ""}
    asked = "import jaxcnn; print(jaxcnn.__version__, jaxcnn.__file__)"
    version, file = done("python", "-c", asked, cwd=tmp_path, env=env).split()
    assert Path(file).is_relative_to(installed.parent)
    assert done("jaxcnn", "--version", cwd=tmp_path, env=env).strip() == version
    documented = "jaxcnn new --from lenet5_digits && jaxcnn train lenet5_digits.py"
    done("sh", "-c", documented, cwd=tmp_path, env=env)
    summary = json.loads((tmp_path / "runs/lenet5_digits-seed0/summary.json").read_text())
    assert summary["test_top1"] > 0.98


@pytest.mark.slow
def test_strict_type_checkers_know_what_it_offers(installed, tmp_path):
    code = (ROOT / "tests" / "public_api.py").read_text()
    assert not [name for name in jaxcnn.__all__ if f"jaxcnn.{name}" not in code]
    (tmp_path / "public_api.py").write_text(code)
    mypy = (sys.executable, "-m", "mypy", "--strict", "--config-file=", "public_api.py")
    python = ("--python-executable", str(installed / "python"))
    assert "Success" in done(*mypy, *python, cwd=tmp_path, env={"PYTHONPATH": ""})


# -------------------------------------------------------------------------- what is beside the code


def test_the_workflow_runs_targets_of_the_makefile_on_every_python():
    jobs = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text())["jobs"]
    steps = [step["run"] for job in jobs.values() for step in job["steps"] if "run" in step]
    targets = set(re.findall(r"^(\S+?):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    called = set(re.findall(r"\bmake ([\w-]+)", "\n".join(steps)))
    assert {"lint", "test"} <= called <= targets
    named = [name.split(" :: ")[-1] for name in PROJECT["project"]["classifiers"]]
    assert jobs["test"]["strategy"]["matrix"]["python"] == named


@pytest.mark.parametrize("kind", ["bug", "question", "feature"])
def test_issue_forms_ask_for_something(kind):
    form = yaml.safe_load((ROOT / f".github/ISSUE_TEMPLATE/{kind}.yml").read_text())
    assert {"name", "description", "body"} <= form.keys()
    assert any(part.get("validations", {}).get("required") for part in form["body"])
    assert set(form["labels"]) == {kind}


def test_the_citation_says_what_the_project_says():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert {"cff-version", "message", "title", "authors"} <= citation.keys()
    assert citation["title"].startswith("jaxcnn: ")
    assert citation["license"] == PROJECT["project"]["license"]
