"""What a run folder holds: JSON that is spoilt as a whole or at one place, and checkpoints."""

import hashlib
import itertools
import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from jaxcnn.config import Experiment, to_dict
from tests.badinput.conftest import table
from tests.badinput.harness import Case
from tests.badinput.values import RUIN, VALUES, flipped, paths, replaced

PAGE = ("--out", "page.html")
CORRUPTED = ("--corruptions", "contrast", "--severities", "1", "--limit", "4")
GO_ON = ("train", "two.py", "--train.epochs", "3")
ON_A_RUN = {
    "eval": ("eval", "run"),
    "predict": ("predict", "run", "image.png"),
    "report": ("report", "run", *PAGE),
    "viz": ("viz", "run"),
    "train again": ("train", "two.py", "--workdir", "run"),
    "train on": (*GO_ON, "--workdir", "run"),
    "start from": ("train", "experiment.py", "--workdir", "new", "--model.init-from", "run"),
    "learn from": ("train", "experiment.py", "--workdir", "new", "--train.distill-from", "run"),
}
"""Commands that read a run folder."""
ON_SEVERAL = {
    "seeds": ("train", "experiment.py", "--workdir", "seeds", "--seeds", "2"),
    "report seeds": ("report", "seeds", *PAGE),
    "compare": ("compare", "comparison.py", "--workdir", "comparison"),
}
LATER = {name: ON_A_RUN[name] for name in ("report", "train again", "train on")}
TEMPERED = {
    "eval": ("eval", "run"),
    "eval calibration": ("eval", "run", "--calibration"),
    "predict calibrated": ("predict", "run", "image.png", "--calibrated"),
    "fit a temperature": ("eval", "run", "--fit-temperature"),
}
PLACES = {
    "run/config.json": ON_A_RUN,
    "run/dataset.json": ON_A_RUN,
    "run/summary.json": LATER,
    "run/env.json": LATER,
    "run/metrics.jsonl": LATER,
    "run/temperature.json": TEMPERED,
    "imported/config.json": {"eval": ("eval", "imported"), "viz": ("viz", "imported")},
    "imported/dataset.json": {"predict": ("predict", "imported", "image.png")},
    "numbers/task.json": {
        **{
            name: tuple(word.replace("run", "numbers") for word in argv)
            for name, argv in ON_A_RUN.items()
            if name in ("eval", "predict", "report", "viz")
        },
        "train again": ("train", "numbers.py", "--workdir", "numbers"),
    },
    "seeds/seeds.json": ON_SEVERAL,
    "seeds/together.json": {"seeds": ON_SEVERAL["seeds"]},
    "seeds/seed1/config.json": ON_SEVERAL,
    "seeds/seed1/summary.json": ON_SEVERAL,
    "run/corruptions.json": {"corruptions": ("eval", "run", *CORRUPTED)},
    "comparison/together.json": {"compare": ON_SEVERAL["compare"]},
    "comparison/comparison.json": {"compare": ON_SEVERAL["compare"]},
    "comparison/a/seed1/dataset.json": {"compare": ON_SEVERAL["compare"]},
    "comparison/b/seed0/metrics.jsonl": {"compare": ON_SEVERAL["compare"]},
}
"""Files, and the commands that may read them."""
WRITES = ("page.html",)


def whole() -> Iterator[Case]:
    for place, commands in PLACES.items():
        for way, ruin in RUIN.items():
            for name, argv in commands.items():

                def spoil(folder: Path, place: str = place, ruin: Any = ruin) -> None:
                    path = folder / place
                    path.parent.mkdir(parents=True, exist_ok=True)
                    if not path.exists():
                        path.write_text("{}")
                    ruin(path)

                yield Case(f"{name} with {place} {way}", argv, spoil, WRITES)


DOCUMENTS: dict[str, Any] = {
    "run/config.json": json.loads(json.dumps(to_dict(Experiment()))),
    "run/dataset.json": {
        **dict.fromkeys(("name", "train_examples", "test_examples", "sha256", "test_form")),
        "classes": ["0", "1"],
        "image_shape": [8, 8, 1],
        "test_sha256": "",
    },
    "run/summary.json": {
        **dict.fromkeys(("epochs", "test_top1", "test_top5", "test_loss", "parameters", "seconds")),
        **dict.fromkeys(("params_sha256", "state_sha256", "stopped_early", "goodput")),
        "spent": {"steps": 1.0},
    },
    "run/env.json": {
        **dict.fromkeys(("platform", "processes", "cores", "processor", "system", "python")),
        "devices": ["cpu"],
        "versions": {"jax": "0"},
    },
    "run/temperature.json": {
        "temperature": 1.5,
        "standard_error": 0.1,
        "checkpoint": "latest",
        "examples": 10,
        "variables_sha256": "",
        "nll_before": 0.5,
        "nll_after": 0.4,
    },
    "numbers/task.json": {
        "name": "regression",
        "metrics": [dict.fromkeys(("name", "title", "higher_is_better", "low", "high"))],
        "fitted": {"mean": [0.0], "std": [1.0]},
    },
    "run/metrics.jsonl": {
        **dict.fromkeys(("step", "epoch", "train_loss", "train_top1", "test_loss", "test_top1")),
        **dict.fromkeys(("lr", "test_top5", "images_per_sec", "goodput")),
    },
}
"""The outlines of the files: where a value can be replaced."""


def single() -> Iterator[Case]:
    """Yields a case for each value in each place; the commands take turns."""
    turn = itertools.count()
    for place, outline in DOCUMENTS.items():
        commands = [*PLACES[place].items()]
        for path in paths(outline):
            for wrong, value in {**VALUES, "left out": ...}.items():
                command, argv = commands[next(turn) % len(commands)]

                def spoil(
                    folder: Path,
                    place: str = place,
                    outline: Any = outline,
                    path: Any = path,
                    value: Any = value,
                ) -> None:
                    file = folder / place
                    *lines, last = [file.read_text() if file.exists() else json.dumps(outline)]
                    if place.endswith("l"):
                        *lines, last = last.splitlines()
                    try:
                        text = replaced(json.loads(last), path, value)
                    except (KeyError, IndexError, TypeError):
                        pytest.skip("this file has no such value")
                    file.write_text("\n".join([*lines, " ".join(text.split("\n")) + "\n"]))

                where = ".".join(map(str, path))
                yield Case(f"{command} with {place} {where} {wrong}", argv, spoil, WRITES)


STEP = "run/checkpoints/latest/4"
BEST = "run/checkpoints/best"


def reseal(step: Path) -> None:
    """Writes the manifest that fits the files, as somebody would who changed them on purpose."""
    files = sorted(p for p in step.rglob("*") if p.is_file() and p.name != "manifest.sha256")
    lines = (
        f"{hashlib.sha256(p.read_bytes()).hexdigest()}  {p.relative_to(step).as_posix()}\n"
        for p in files
    )
    (step / "manifest.sha256").write_text("".join(lines))


def renamed(name: str) -> Callable[[Path], object]:
    return lambda folder: (folder / STEP).rename(folder / STEP / ".." / name)


def added(name: str) -> Callable[[Path], object]:
    return lambda folder: shutil.copytree(folder / STEP, folder / STEP / ".." / name)


def empty_step(name: str) -> Callable[[Path], object]:
    def spoil(folder: Path) -> None:
        (folder / STEP / ".." / name).mkdir()
        (folder / STEP / ".." / name / "manifest.sha256").touch()

    return spoil


def foreign(source: str) -> Callable[[Path], object]:
    def spoil(folder: Path) -> None:
        shutil.rmtree(folder / STEP)
        step = next((folder / source / "checkpoints" / "latest").iterdir())
        shutil.copytree(step, folder / STEP)

    return spoil


def instead(place: str, make: Callable[[Path], object]) -> Callable[[Path], object]:
    def spoil(folder: Path) -> None:
        shutil.rmtree(folder / place)
        make(folder / place)

    return spoil


def manifest(content: bytes) -> Callable[[Path], object]:
    def spoil(folder: Path) -> None:
        for path in (folder / "run").rglob("manifest.sha256"):
            path.write_bytes(content)

    return spoil


FOLDERS: dict[str, Callable[[Path], object]] = {
    **{f"a step named {n}": renamed(n) for n in ("²", "٣", "-1", "007", "1e3", "x", "9" * 200)},
    **{f"a step {n} beside": added(n) for n in ("²", "٣", "-1", "007", "99", "x", "4.tmp")},
    **{f"an empty step {n}": empty_step(n) for n in ("²", "99", "9" * 30, "0")},
    "a checkpoint of another network": foreign("imported"),
    "a checkpoint of another run": foreign("seeds/seed1"),
    "a file for the folder": instead("run/checkpoints", Path.touch),
    "a file for the latest": instead("run/checkpoints/latest", Path.touch),
    "a FIFO for the latest": instead("run/checkpoints/latest", os.mkfifo),
    "a link to itself": instead("run/checkpoints/latest", lambda p: p.symlink_to(p.name)),
    "a link to nothing": instead("run/checkpoints/latest", lambda p: p.symlink_to("x")),
    "a link to the best": instead("run/checkpoints/latest", lambda p: p.symlink_to("best")),
    "a link upward": instead(STEP, lambda p: p.symlink_to("../..")),
    "a step that is a file": instead(STEP, Path.touch),
    "no step": instead("run/checkpoints/latest", Path.mkdir),
    "no checkpoints": lambda folder: shutil.rmtree(folder / "run" / "checkpoints"),
    "empty manifests": manifest(b""),
    "manifests that are not ASCII": manifest(b"\xff\xfe\0" * 50),
    "manifests of one long line": manifest(b"a" * 10**6),
    "manifests of files outside": manifest(b"0" * 64 + b"  ../../../../etc/passwd\n"),
    "no manifests": lambda folder: [p.unlink() for p in folder.rglob("manifest.sha256")],
}
FILES = (
    "manifest.sha256",
    "_CHECKPOINT_METADATA",
    "commit_success.txt",
    "meta/metadata",
    "state/_METADATA",
    "state/_sharding",
    "state/manifest.ocdbt",
    "state/array_metadatas/process_0",
    "state/ocdbt.process_0/manifest.ocdbt",
)
"""Files of a checkpoint; the numbers themselves have names that Orbax makes up."""


def checkpoints() -> Iterator[Case]:
    commands = {**ON_A_RUN, "eval best": ("eval", "run", "--checkpoint", "best")}
    for name, argv in commands.items():
        for what, spoil in FOLDERS.items():
            yield Case(f"{name} with {what}", argv, spoil, WRITES, needs=("imported", "seeds"))
        for file in (*FILES, "the numbers"):
            for way in RUIN:
                yield Case(
                    f"{name} with {file} {way}", argv, _spoilt(file, RUIN[way], False), WRITES
                )
                yield Case(
                    f"{name} with {file} {way}, resealed",
                    argv,
                    _spoilt(file, RUIN[way], True),
                    WRITES,
                )
            for seed in range(6):
                for seal in (False, True):

                    def flip(path: Path, seed: int = seed) -> None:
                        flipped(path, seed)

                    yield Case(
                        f"{name} with {file}, bit {seed} flipped{', resealed' * seal}",
                        argv,
                        _spoilt(file, flip, seal),
                        WRITES,
                    )
        for file in ("meta/metadata", "state/_METADATA", "_CHECKPOINT_METADATA", "state/_sharding"):
            for wrong, value in VALUES.items():
                for place in range(4):
                    yield Case(
                        f"{name} with {file} {wrong} at place {place}, resealed",
                        argv,
                        _spoilt(file, _changed(place, value), True),
                        WRITES,
                    )


def _changed(place: int, value: Any) -> Callable[[Path], object]:
    def change(path: Path) -> None:
        document = json.loads(path.read_text())
        places = list(paths(document))
        path.write_text(replaced(document, places[place * 5 % len(places)], value))

    return change


def _spoilt(file: str, ruin: Callable[[Path], object], seal: bool) -> Callable[[Path], object]:
    def spoil(folder: Path) -> None:
        for step in (folder / STEP, *(folder / BEST).iterdir()):
            if file == "the numbers":
                path = max((step / "state").rglob("d/*"), key=lambda p: (p.stat().st_size, p.name))
            else:
                path = step / file
            ruin(path)
            if seal and file != "manifest.sha256":
                reseal(step)

    return spoil


@table(whole(), fast=5)
def test_whole_files(clean, case):
    clean("records", case)


@table(single(), fast=6)
def test_single_values(clean, case):
    clean("values", case)


@table(checkpoints(), fast=5)
def test_checkpoints(clean, case):
    clean("checkpoints", case)
