"""Many interruptions at random moments: minutes long, so marked slow."""

import functools
import json
import random
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace

import numpy as np
import pytest

from jaxcnn.config import Augment, Data, Experiment, Model, Optim, Schedule, Train, to_dict
from jaxcnn.learning import run_folder as folder
from jaxcnn.learning.checkpoint import MANIFEST

pytestmark = pytest.mark.slow

EXPERIMENT = Experiment(
    name="interrupted",
    data=Data("digits", batch_size=128, eval_batch_size=360),
    augment=Augment(crop_padding=1, cutout=2),
    model=Model("convnet", {"widths": (4, 8), "hidden": 16, "batch_norm": True, "dropout": 0.2}),
    optim=Optim("adamw", peak_lr=0.01),
    schedule=Schedule("cosine", warmup_epochs=1),
    train=Train(ema_decay=0.99, checkpoint_every=1),
)


def start(experiment, workdir):
    command = [sys.executable, "-m", "jaxcnn.cli", "train", str(experiment), "--workdir"]
    return subprocess.Popen(
        [*command, str(workdir)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def committed(workdir):
    """The newest step whose checkpoint has its manifest."""
    manifests = (workdir / "checkpoints" / "latest").glob(f"[0-9]*/{MANIFEST}")
    return max((int(path.parent.name) for path in manifests), default=0)


@pytest.fixture(scope="module")
def file_of(tmp_path_factory):
    """The experiment's file, in a folder of its own for each number of epochs."""

    @functools.cache
    def file_of(epochs):
        file = tmp_path_factory.mktemp("whole") / "experiment.py"
        plain = to_dict(replace(EXPERIMENT, train=replace(EXPERIMENT.train, epochs=epochs)))
        file.write_text(
            f"from jaxcnn.config import from_dict\ndef config():\n    return from_dict({plain!r})\n"
        )
        return file

    return file_of


def uninterrupted(file, workdir):
    """The summary of a run that nothing interrupts."""
    if not (workdir / "summary.json").exists():
        process = start(file, workdir)
        _, errors = process.communicate()
        assert process.returncode == 0, errors
    return json.loads((workdir / "summary.json").read_text())


@pytest.mark.timeout(1800)
@pytest.mark.parametrize(
    ("number", "times", "epochs"),
    [
        (signal.SIGKILL, 5, 100),
        (signal.SIGTERM, 5, 100),
        pytest.param(signal.SIGKILL, 20, 250, marks=pytest.mark.giant),
        pytest.param(signal.SIGTERM, 10, 250, marks=pytest.mark.giant),
    ],
)
def test_no_committed_step_is_lost(file_of, tmp_path, number, times, epochs):
    file = file_of(epochs)
    summary = uninterrupted(file, file.parent / "whole")
    interrupt(file, tmp_path, number, times, summary)


@pytest.mark.timeout(1800)
def test_no_committed_step_is_lost_with_onednn(file_of, tmp_path, onednn):
    file = file_of(60)
    summary = uninterrupted(file, file.parent / "by-onednn")
    interrupt(file, tmp_path, signal.SIGKILL, 3, summary)
    assert "onednn" in json.loads((tmp_path / "env.json").read_text())["versions"]


def interrupt(file, workdir, number, times, summary):
    """Interrupts a run at random moments; it ends with the bits of the one that nothing did."""
    rng = random.Random(number + times)
    before = 0
    for _ in range(times):
        process = start(file, workdir)
        assert process.stdout is not None
        lines = [process.stdout.readline()]
        if before:
            while "going on from step" not in lines[-1] and lines[-1]:
                lines.append(process.stdout.readline())
            began = int(re.search(r"going on from step (\d+)", lines[-1])[1])
            assert began == before
        if rng.random() < 0.75:  # otherwise it may strike before anything is compiled
            while committed(workdir) <= before and process.poll() is None:
                time.sleep(0.002)
        time.sleep(rng.uniform(0, 0.8))  # while it trains, evaluates or saves
        process.send_signal(number)
        out, errors = process.communicate(timeout=120)
        assert process.returncode == {signal.SIGKILL: -9, signal.SIGTERM: 143}[number], errors
        assert "Traceback" not in errors
        after = committed(workdir)
        assert after >= before
        if number == signal.SIGTERM:
            assert after == int(re.search(r"SIGTERM at step (\d+)", out)[1])
        before = after
    assert 0 < before < summary["step"]
    last = start(file, workdir)
    _, errors = last.communicate()
    assert last.returncode == 0, errors
    found = json.loads((workdir / "summary.json").read_text())
    for key in ("params_sha256", "state_sha256"):
        assert found[key] == summary[key]
    assert len(folder.read_metrics(workdir)) == summary["epochs"]


def test_every_flipped_bit_leads_to_the_checkpoint_before(tmp_path, caplog):
    from tests.learning.test_checkpoint import restore, save

    save(tmp_path, 1, 2)
    rng = np.random.default_rng(0)
    files = [p for p in sorted((tmp_path / "2").rglob("*")) if p.is_file() and p.stat().st_size]
    for trial in range(200):
        path = files[trial % len(files)]
        whole = path.read_bytes()
        content = bytearray(whole)
        content[rng.integers(len(content))] ^= 1 << rng.integers(8)
        path.write_bytes(content)
        state, _ = restore(tmp_path)
        assert int(state["step"]) == 1, path
        assert f"{tmp_path / '2'} is damaged" in caplog.text
        caplog.clear()
        path.write_bytes(whole)
    assert int(restore(tmp_path)[0]["step"]) == 2
