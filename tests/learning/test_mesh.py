"""Eight simulated devices, in a process of their own, against one."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest

pytestmark = pytest.mark.slow

CODE = r"""
import json, signal, sys
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np

from jaxcnn.runs import display, group, network
from jaxcnn.config import Augment, Data, Devices, Experiment, Model, Optim, Schedule, Train
from jaxcnn.errors import InputError, Stopped
from jaxcnn.data import sources
from jaxcnn.learning import mesh
from jaxcnn.runs.evaluation import evaluate
from jaxcnn.runs.trained import restore

mesh.LARGE = 64  # so that the arrays of a tiny network count as large
group.SECONDS_PER_CHUNK = 1e-9  # one step per chunk: a loss for every step
SMALL = Experiment(
    name="small",
    data=Data("digits", batch_size=32, eval_batch_size=100, train_limit=320, mean=(0.3,)),
    augment=Augment(flip=True),
    model=Model("convnet", {"widths": (4,), "hidden": 16, "batch_norm": True, "dropout": 0.2}),
    optim=Optim("adamw", peak_lr=0.003),
    schedule=Schedule("constant", 0),
    train=Train(epochs=2, accumulate=2 if "moved" in sys.argv[2:] else 1, ema_decay=0.9),
)

class Ear(display.Listener):
    def __init__(self, stop_at=None):
        self.losses, self.said, self.stop_at = [], [], stop_at
    def message(self, text):
        self.said.append(text)
    def progress(self, progress):
        self.losses.append(progress.train["loss"])
        if progress.step == self.stop_at:
            signal.raise_signal(signal.SIGTERM)

def on(data, fsdp=1):
    return replace(SMALL, devices=Devices(data, fsdp))

def outcome(name, ear):
    state = restore(workdir / name).state
    arrays = {"params": state.params, "statistics": state.model_state, "ema": state.ema}
    flat = {jax.tree_util.keystr(k): np.asarray(v).ravel().tolist()
            for k, v in jax.tree_util.tree_leaves_with_path(arrays)}
    return {"losses": ear.losses, "said": ear.said, "arrays": flat,
            "test_loss": evaluate(workdir / name)["test_loss"],
            "summary": json.loads((workdir / name / "summary.json").read_text())["test_loss"]}

def stopping(name, *stops):
    ear = Ear()
    for where, stop_at in stops:
        ear.stop_at = stop_at
        try:
            group.train_one(on(*where), workdir / name, ear)
        except Stopped:
            pass
    return outcome(name, ear)

workdir, found = Path(sys.argv[1]), {}
runs = {"1": [((1,), None)], "8": [((8,), None)], "4x2": [((4, 2), None)],
        "moved": [((1,), 5), ((2,), 10), ((2, 2), 15), ((8,), None)]}
for name in sys.argv[2:]:
    found[name] = stopping(name, *runs[name])

# Where the state lies, and what the devices say to one another.
eight = mesh.make_mesh(on(4, 2))
shapes = {"large": np.zeros((3, 4, 50, 2)), "odd": np.zeros((65, 3)), "small": np.zeros(8)}
found["specs"] = {k: list(s.spec) for k, s in mesh.of_state(eight, shapes).items()}
found["refused"] = []
for bad in (on(9), on(8, 2), on(None, 3), replace(on(8), data=replace(SMALL.data, batch_size=20))):
    try:
        mesh.make_mesh(bad)
    except InputError as error:
        found["refused"].append(str(error))
print(json.dumps(found))
"""


def simulate(workdir, *names):
    flags = os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"
    done = subprocess.run(
        [sys.executable, "-c", CODE, str(workdir), *names],
        env={**os.environ, "XLA_FLAGS": flags},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    return simulate(tmp_path_factory.mktemp("runs"), "1", "4x2")


def same(many, one):
    """Only the order of sums differs, so float32 rounding is all that may.

    Losses agree to 1e-4 and arrays to 1e-3 of their scale.
    """
    assert len(one["losses"]) == len(many["losses"]) == 20
    np.testing.assert_allclose(many["losses"], one["losses"], rtol=1e-4)
    np.testing.assert_allclose(many["test_loss"], one["test_loss"], rtol=1e-4)
    assert one["arrays"].keys() == many["arrays"].keys()
    assert any("batch_stats" in name for name in one["arrays"])
    for name, expected in one["arrays"].items():
        scale = np.abs(expected).max()
        np.testing.assert_allclose(
            many["arrays"][name], expected, atol=1e-3 * scale + 1e-6, err_msg=name
        )


def test_the_number_of_devices_does_not_change_what_is_learned(found):
    """20 steps with batch statistics, dropout, augmentation and a moving average."""
    same(found["4x2"], found["1"])


def test_a_run_goes_on_on_another_number_of_devices(tmp_path):
    """Stopped and resumed on 1, 2, 2x2 and 8 devices, or all on 8, with accumulation."""
    found = simulate(tmp_path, "1", "8", "moved")
    same(found["8"], found["1"])
    same(found["moved"], found["1"])
    said = [text for text in found["moved"]["said"] if "another environment" in text]
    assert len(said) == 3
    assert "mesh.data was 1, now 2" in said[0]
    assert "mesh.fsdp was 1, now 2" in said[1]


def test_evaluation_on_many_devices_counts_every_example_once(found):
    assert found["4x2"]["summary"] == pytest.approx(found["4x2"]["test_loss"], rel=1e-5)


def test_large_arrays_are_split_along_their_longest_axis(found):
    assert found["specs"] == {"large": [None, None, "fsdp"], "odd": [], "small": []}


def test_what_cannot_be_arranged_is_refused(found):
    for message, named in zip(
        found["refused"],
        (
            "data=9 times fsdp=1 are 9 devices; there are 8",
            "data=8 times fsdp=2 are 16 devices; there are 8",
            "devices.fsdp=3: must divide the number of devices, 8",
            "data.batch_size=20: must be a multiple of 8",
        ),
        strict=True,
    ):
        assert named in message
