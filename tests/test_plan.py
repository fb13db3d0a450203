"""`jaxcnn plan`: compiled for eight simulated devices in a process of its own, and refused."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import get_args, get_type_hints

import jax
import numpy as np
import pytest

from jaxcnn import cli
from jaxcnn.analysis.cards import CARDS
from jaxcnn.analysis.collectives import Collective
from jaxcnn.commands import plan
from jaxcnn.config import Data
from jaxcnn.data import outline, sources
from jaxcnn.data.source import Source
from jaxcnn.errors import InputError
from jaxcnn.runs.forecast import Forecast

ROOT = Path(__file__).parents[1]
DIGITS = str(ROOT / "experiments" / "lenet5_digits.py")
RESNET50 = str(ROOT / "experiments" / "resnet50_imagenet.py")

CODE = """
import json, sys
from dataclasses import replace
from pathlib import Path
import jax
from jaxcnn.analysis.cards import CARDS
from jaxcnn.commands.parsing import load_experiment
from jaxcnn.config import Devices
from jaxcnn.learning import mesh
from jaxcnn.runs import forecast
from jaxcnn.runs.program import Program

forecast.simulate(8)
base = load_experiment(Path(sys.argv[1]))
found = {}
for name, fsdp, accumulate in (("data", 1, 1), ("fsdp", 2, 1), ("parts", 1, 2)):
    experiment = replace(
        base,
        devices=Devices(fsdp=fsdp),
        train=replace(base.train, accumulate=accumulate, patience=5),
    )
    experiment = forecast.settle(experiment, 8)
    dataset = forecast.dataset_of(experiment)
    of = forecast.forecast(experiment, dataset, CARDS["h100"], 8)
    program = Program(experiment, dataset, mesh.make_mesh(experiment))
    held = [part.data.nbytes for leaf in jax.tree.leaves(program.init(0) if fsdp > 1 else ())
            for part in leaf.addressable_shards if part.device == jax.devices()[0]]
    found[name] = {
        "held": sum(held),
        "params": sum(4 * leaf.size for leaf in jax.tree.leaves(program.network.shapes.params)),
        "memory": of.memory, "flops": of.flops, "xla": of.flops_of_xla, "moved": of.moved,
        "validation": experiment.data.validation,
        "collectives": [[c.kind, c.bytes, len(c.group), c.times] for c in of.collectives],
    }
print(json.dumps(found))
"""


def process(*argv):
    done = subprocess.run(
        [sys.executable, *argv], capture_output=True, text=True, check=False, env=os.environ
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def found():
    return json.loads(process("-c", CODE, DIGITS).splitlines()[-1])


@pytest.mark.slow
def test_gradients_are_summed_over_all_devices(found):
    of = found["data"]
    total = sum(size * times for _, size, _, times in of["collectives"])
    assert {(kind, number) for kind, _, number, _ in of["collectives"]} == {("all-reduce", 8)}
    assert of["params"] <= total < 1.01 * of["params"]  # and some sums for the record


@pytest.mark.slow
def test_with_fsdp_large_parameters_are_collected_where_they_are_used(found):
    gathered = [one for one in found["fsdp"]["collectives"] if one[0] == "all-gather"]
    assert gathered == [["all-gather", 4 * 400 * 120, 2, 1]]  # of LeNet-5 one array is large
    less = found["data"]["memory"]["state"] - found["fsdp"]["memory"]["state"]
    assert less == 4 * 2 * 400 * 120 / 2  # with its momentum, on one of two devices


@pytest.mark.slow
def test_the_state_takes_what_it_takes_on_a_device_of_a_run(found):
    assert found["fsdp"]["memory"]["state"] == found["fsdp"]["held"]


@pytest.mark.slow
def test_each_device_computes_its_part_as_xla_counts_it(found):
    of = found["data"]
    assert of["flops"] == pytest.approx(of["xla"], rel=0.15)
    # In two parts, half of the outputs are kept; the rest of the memory is the same.
    whole, parts = of["memory"], found["parts"]["memory"]
    images = 8 * 32 * 32 * 4
    assert parts["activations"] - images == (whole["activations"] - images) / 2
    assert parts["state"] == whole["state"]
    assert found["parts"]["flops"] == of["flops"]


def test_patience_puts_examples_aside_as_a_run_would(found):
    assert found["data"]["validation"] == 0.1


def test_a_plan_of_resnet50_needs_no_data(tmp_path):
    """The command of the documentation, with a smaller network for the same data."""
    out = process(
        *("-m", "jaxcnn.cli", "plan", RESNET50, "--devices", "8", "--model.name", "lenet5"),
        *("--data.dir", str(tmp_path)),
    )
    assert "1,281,167 train and 50,000 test images of 256x256x3" in out
    assert "8 x NVIDIA H100 SXM, a batch of 256 images, 32 on each" in out
    assert "all-reduce" in out
    assert "450,360 steps" in out  # 90 epochs of 5,004
    assert "This is a prediction" in out
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("options", "line"),
    [
        (["--devices", "0"], "--devices 0: must be a whole number in [1, 1024]"),
        (["--devices", "4096"], "--devices 4096: must be a whole number in [1, 1024]"),
        (["--devices", "2"], "--devices 2: JAX has started with 1; plan in a process of its own"),
        (["--devices.data", "3"], "--devices 1: must be devices.data=3 times devices.fsdp=1"),
        (["--devices.fsdp", "3"], "devices.fsdp=3: must divide --devices 1"),
        (["--card", "abacus"], "--card: must be one of 'h200', 'h100', "),
        (["--examples", "0"], "--examples 0: must be a positive whole number below 2**31"),
        (["--shape", "8", "0", "1"], "--shape 8 0 1: must be three whole numbers in [1, 32768]"),
        (["--data.name", "folder"], "data.name='folder': its sizes are not published; give --exam"),
        (
            ["--data.name", "mine", "--examples", "9"],
            "not published; give --shape and --num-classes",
        ),
        (
            ["--examples", "9", "--shape", "8", "8", "1", "--num-classes", "10"],
            "data.batch_size=64: must be at most the 9 training examples",
        ),
        (
            ["--data.name", "food101", "--data.fit", "pad"],
            "data.name='food101': its images have different sizes; data.image_size with",
        ),
    ],
)
def test_what_is_wrong_is_said_in_one_line(capsys, options, line):
    assert jax.device_count() == 1  # it has started: it is not started with other devices here
    assert cli.main(["plan", DIGITS, *options]) == 2
    said = capsys.readouterr().err
    assert line in said
    assert len(said.splitlines()) == 1


def test_devices_that_cannot_share_a_batch_evenly_are_refused():
    done = subprocess.run(
        [sys.executable, "-m", "jaxcnn.cli", "plan", DIGITS, "--devices", "3"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert "data.batch_size=64: must be a multiple of 3" in done.stderr


def test_a_card_without_room_is_told_by_the_exit_code(capsys, monkeypatch):
    small = replace(CARDS["l4"], memory=1e6)
    monkeypatch.setitem(CARDS, "l4", small)
    options = ["--card", "l4", "--data.batch-size", "512", "--train.epochs", "1"]
    assert cli.main(["plan", DIGITS, *options]) == 1
    assert "The memory of a card does not suffice" in capsys.readouterr().out


def test_the_cards_of_the_command_are_those_of_the_table():
    assert get_args(get_type_hints(plan.Command)["card"]) == (*CARDS, "cpu")


def test_every_card_stands_in_the_documentation_with_its_figures():
    text = (ROOT / "docs" / "plan.md").read_text()
    for name, card in CARDS.items():
        (row,) = [line for line in text.splitlines() if line.startswith(f"| `{name}` |")]
        for number in (card.flops["bf16"] / 1e12, card.bandwidth / 1e12, card.watts):
            assert number is None or f" {number:g} " in row, (name, number)


def test_the_errors_in_the_documentation_are_those_that_were_measured():
    text = (ROOT / "docs" / "plan.md").read_text()
    results = json.loads((ROOT / "benchmarks" / "results" / "plan.json").read_text())["results"]
    for card, found in results.items():
        for row in found["steps"]:
            cells = [
                *(card, row["model"], str(row["images"]), row["dtype"]),
                *(f"{row['measured_ms']:.4g}", f"{row['predicted_ms']:.4g}"),
                "fitted" if row["fitted"] else f"{100 * row['error']:+.0f} %",
            ]
            assert f"| {' | '.join(cells)} |" in text


FORECAST = Forecast(
    card=CARDS["h100"],
    devices=8,
    batch=256,
    dtype="bf16",
    memory={"state": 3.0, "data": 4.0},
    flops=1.0,
    flops_of_xla=None,
    moved=1.0,
    collectives=[Collective("all-reduce", 450 * 10**9, tuple(range(8)), 1, "")],
    computing=2.25,
    alone=16.0,
    steps=10,
    evaluating=5.0,
)


def test_efficiency_hours_and_energy_follow_from_the_time_of_a_step():
    step = 2.25 + 1.75  # seven eighths of 450 GB are sent twice, at 450 GB/s
    assert FORECAST.needed == 7
    assert FORECAST.step_seconds == pytest.approx(step, abs=1e-4)
    assert FORECAST.images_per_sec == pytest.approx(64, rel=1e-4)
    assert FORECAST.strong == pytest.approx(16 / (8 * step), rel=1e-4)
    assert FORECAST.weak == pytest.approx(2.25 / step, rel=1e-4)
    assert FORECAST.seconds == pytest.approx(45, rel=1e-4)
    assert FORECAST.joules == pytest.approx(8 * 700 * 45, rel=1e-4)
    assert replace(FORECAST, card=CARDS["tpu-v5e"]).joules is None


@pytest.mark.parametrize(
    ("data", "train", "test", "shape", "streamed"),
    [
        (Data("mnist"), 60_000, 10_000, (28, 28, 1), False),
        (Data("cifar10", train_limit=1000, validation=0.1), 900, 10_000, (32, 32, 3), False),
        (Data("cifar10", validation=5000, streaming=True), 45_000, 10_000, (32, 32, 3), True),
        (Data("imagenet2012", image_size=64, fit="crop"), 1_281_167, 50_000, (64, 64, 3), True),
        (Data("synthetic", image_size=16, channels=1), 10_000, 1_000, (16, 16, 1), False),
    ],
)
def test_an_outline_has_the_sizes_of_the_data(data, train, test, shape, streamed):
    found = outline.of(data)
    assert isinstance(found.train, Source)
    assert (len(found.train), len(found.test), found.image_shape) == (train, test, shape)
    assert found.streamed == streamed
    read = found.train.read(np.arange(3))
    assert read["image"].shape == (3, *shape)
    assert read["label"].dtype == np.int32
    assert len(found.train.take(np.arange(7))) == 7


@pytest.mark.parametrize("name", ["mnist", "fashion_mnist", "cifar10"])
def test_what_is_published_is_what_lies_here(name):
    data = Data(name, image_size=32, fit="resize")
    try:
        there = sources.load(replace(data, streaming=True))
    except InputError:
        pytest.skip(f"{name} is not prepared here")
    found = outline.of(data)
    assert len(found.classes) == len(there.classes)
    assert len(found.train) == len(there.train)
    assert len(found.test) == len(there.test)
    assert found.image_shape == there.image_shape


def test_generated_data_are_themselves():
    assert outline.of(Data("digits")).train.read(np.array([0]))["image"].any()


@pytest.mark.slow
def test_resnet50_is_planned_for_64_devices():
    out = process("-m", "jaxcnn.cli", "plan", RESNET50, "--devices", "64", "--devices.fsdp", "8")
    assert "64 x NVIDIA H100 SXM, a batch of 256 images, 4 on each" in out
    assert "8, every 8th" in out
