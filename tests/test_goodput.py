"""Saving and evaluating keep the steps waiting as little as can be, and nothing of them is lost."""

import errno
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace

import pytest

from jaxcnn.analysis import arms, plots, tables
from jaxcnn.config import Data, Experiment, Model, Optim, Schedule, Train, to_dict
from jaxcnn.errors import Diverged, InputError, NotWritten, Stopped
from jaxcnn.learning import run_folder
from jaxcnn.learning.background import Background
from jaxcnn.learning.checkpoint import Checkpoints
from jaxcnn.runs import display, goodput, group, together, training
from jaxcnn.runs.start import Run
from jaxcnn.runs.training import Training

SMALL = Experiment(
    name="small",
    data=Data("digits", batch_size=256, eval_batch_size=360, mean=(0.3,), std=(0.35,)),
    model=Model("mlp", {"hidden": (16,)}),
    optim=Optim("sgd", peak_lr=0.1),
    schedule=Schedule("constant", warmup_epochs=0),
    train=Train(epochs=4),
)
STEPS = 5  # of an epoch
DIGESTS = ("params_sha256", "state_sha256", "test_loss", "best_epoch", "best_test_top1")


@pytest.fixture(autouse=True)
def _pictures_are_not_drawn(monkeypatch):
    monkeypatch.setattr(plots, "save_curves", lambda *args: None)
    monkeypatch.setattr(plots, "save_confusion", lambda *args: None)


@pytest.fixture
def overlapping(monkeypatch):
    """Reads what a chunk has found while the next one runs, as on accelerators."""

    def waits(self):
        return self.experiment.train.patience is not None or self.step == self.program.total_steps

    monkeypatch.setattr(Training, "waits", waits)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole") / "a"
    return folder, group.train_one(SMALL, folder)


def train(folder, listener=None, **fields):
    return group.train_one(replace(SMALL, train=replace(SMALL.train, **fields)), folder, listener)


def saved(folder, kind="latest"):
    return sorted(int(path.name) for path in (folder / "checkpoints" / kind).iterdir())


def timeless(folder):
    times = {"seconds", "images_per_sec", "step_time", "data_wait", "goodput"}
    return [{k: v for k, v in r.items() if k not in times} for r in run_folder.read_metrics(folder)]


class StopAt(display.Listener):
    def __init__(self, step):
        self.step, self.records = step, []

    def progress(self, progress):
        if progress.step == self.step:
            signal.raise_signal(signal.SIGTERM)

    def record(self, record):
        self.records.append(record)


# ---------------------------------------------------------------------------- overlapping


@pytest.mark.usefixtures("overlapping")
def test_reading_while_the_next_steps_run_changes_nothing(whole, tmp_path):
    folder, summary = whole
    found = train(tmp_path / "a")
    assert [found[name] for name in DIGESTS] == [summary[name] for name in DIGESTS]
    assert timeless(tmp_path / "a") == timeless(folder)
    assert saved(tmp_path / "a", "best") == saved(folder, "best")


@pytest.mark.usefixtures("overlapping")
@pytest.mark.parametrize("step", [STEPS - 1, STEPS, STEPS + 1, 4 * STEPS])
def test_stopped_while_something_is_to_be_read_it_is_read_and_saved(
    whole, tmp_path, monkeypatch, step
):
    """Also where the step is the last of an epoch, whose evaluation has been asked for by then."""
    monkeypatch.setattr(group, "SECONDS_PER_CHUNK", 1e-9)  # one step per chunk
    folder, summary = whole
    ear = StopAt(step)
    if step < 4 * STEPS:
        with pytest.raises(Stopped):
            train(tmp_path / "a", ear)
        assert [record["step"] for record in ear.records] == [STEPS] * (step >= STEPS)
        assert saved(tmp_path / "a") == [step]
        assert saved(tmp_path / "a", "best") == [STEPS] * (step >= STEPS)
    found = train(tmp_path / "a")
    assert [found[name] for name in DIGESTS] == [summary[name] for name in DIGESTS]
    assert timeless(tmp_path / "a") == timeless(folder)


@pytest.mark.usefixtures("overlapping")
def test_a_state_that_is_not_finite_is_found_one_chunk_later_and_not_saved(tmp_path, monkeypatch):
    monkeypatch.setattr(training, "not_finite", lambda found: ".params['Dense_0']")
    with pytest.raises(Diverged, match=rf"Dense_0'\] is not finite after step {STEPS}; not saved"):
        train(tmp_path / "a")
    assert saved(tmp_path / "a") == saved(tmp_path / "a", "best") == []


# --------------------------------------------------------------------------- when it saves


def test_the_clock_decides_when_a_run_is_saved(tmp_path, monkeypatch):
    """Within epochs too, and beside checkpoint_every; the best is written before."""
    monkeypatch.setattr(group, "SECONDS_PER_CHUNK", 1e-9)  # one step per chunk
    kept, save, now = [], Checkpoints.save, [0.0]

    def note(self, step, *args):
        kept.append((self.folder.name, step))
        save(self, step, *args)

    class Ticking(StopAt):
        def progress(self, progress):
            now[0] += 50.0  # seconds a step

    monkeypatch.setattr(Background, "busy", False)  # each is waited for
    monkeypatch.setattr(Checkpoints, "save", note)
    monkeypatch.setattr(training.time, "monotonic", lambda: now[0])
    train(tmp_path / "a", Ticking(0), epochs=2, save_minutes=2)
    # What is due is seen between two chunks, and saved after the next.
    assert kept == [("latest", 4), ("best", 5), ("latest", 8), ("best", 10), ("latest", 10)]
    kept.clear()
    train(tmp_path / "b", Ticking(0), epochs=3, save_minutes=60, checkpoint_every=2)
    assert [step for kind, step in kept if kind == "latest"] == [2 * STEPS, 3 * STEPS]
    kept.clear()
    train(tmp_path / "c", Ticking(0), epochs=1, save_minutes=0)
    assert {step for kind, step in kept if kind == "latest"} >= {STEPS}
    assert len(kept) > 2


def test_a_run_of_before_with_a_cadence_in_epochs_goes_on(whole, tmp_path):
    """Its config.json has no save_minutes, and a number for checkpoint_every."""
    _, summary = whole
    monkey = StopAt(2 * STEPS)
    with pytest.raises(Stopped):
        train(tmp_path / "a", monkey, checkpoint_every=1)
    file = tmp_path / "a" / "config.json"
    config = json.loads(file.read_text())
    del config["train"]["save_minutes"]
    file.write_text(json.dumps(config))
    found = train(tmp_path / "a")
    assert [found[name] for name in DIGESTS] == [summary[name] for name in DIGESTS]


@pytest.mark.parametrize("minutes", [-1, float("nan")])
def test_a_cadence_that_is_none_is_refused(minutes):
    with pytest.raises(InputError, match=r"train\.save_minutes=.*: must be a finite number >= 0"):
        Train(save_minutes=minutes)


# ---------------------------------------------------------------------------- what goes wrong


def test_a_save_that_fails_ends_the_run_at_the_next_chunk(tmp_path, monkeypatch):
    """The newest checkpoint that is sealed stands, and the run goes on from it."""
    monkeypatch.setattr(group, "SECONDS_PER_CHUNK", 1e-9)  # one step per chunk
    save, failed = Checkpoints.save, threading.Event()

    def full(self, step, *args):
        if self.folder.name == "latest" and step == 2 * STEPS:
            failed.set()
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        save(self, step, *args)

    class Late(StopAt):
        def progress(self, progress):
            self.newest = progress.step
            if progress.step == 2 * STEPS + 1:
                assert failed.wait(60)

    ear = Late(0)
    monkeypatch.setattr(Checkpoints, "save", full)
    with pytest.raises(NotWritten, match=r"a: cannot be written \(No space left on device\); free"):
        train(tmp_path / "a", ear, checkpoint_every=1)
    assert 2 * STEPS + 1 <= ear.newest <= 2 * STEPS + 2
    assert saved(tmp_path / "a") == [STEPS]
    monkeypatch.undo()
    assert train(tmp_path / "a")["epochs"] == 4


def test_what_is_done_beside_is_done_in_order_and_its_faults_are_heard():
    done, let = [], threading.Event()
    with Background() as background:
        background.start(lambda: done.append(let.wait(60)))
        assert background.busy
        background.check()  # says nothing while it is being done
        let.set()
        background.start(lambda: done.append(2))
        background.settle()
        assert done == [True, 2]
        background.start(lambda: [][0])
        background.settle()
        with pytest.raises(IndexError):
            background.check()
        background.check()  # it is heard once
    with pytest.raises(IndexError), Background() as background:
        background.start(lambda: [][0])


def test_a_fault_beside_another_is_told(capsys):
    def fails():
        raise OSError("the disk is full")

    def goes_wrong():
        with Background() as background:
            background.start(fails)
            raise KeyError

    with pytest.raises(KeyError):
        goes_wrong()
    assert capsys.readouterr().err == "jaxcnn: the disk is full\n"


@pytest.mark.slow
@pytest.mark.parametrize("seconds", [0.0, 0.7, 1.3])
def test_killed_while_it_saves_beside_the_steps_it_ends_with_the_same_bits(tmp_path, seconds):
    long = replace(SMALL, train=Train(epochs=100, save_minutes=0))
    whole = group.train_one(long, tmp_path / "whole")
    (tmp_path / "long.py").write_text(
        f"from jaxcnn.config import from_dict\ndef config(): return from_dict({to_dict(long)!r})\n"
    )
    command = [sys.executable, "-m", "jaxcnn.cli", "train", str(tmp_path / "long.py")]
    command += ["--workdir", str(tmp_path / "a")]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    latest = tmp_path / "a" / "checkpoints" / "latest"
    while not (latest.is_dir() and any(latest.iterdir())) and process.poll() is None:
        time.sleep(0.01)
    time.sleep(seconds)
    process.kill()
    process.wait()
    found = group.train_one(long, tmp_path / "a")
    assert [found[name] for name in DIGESTS] == [whole[name] for name in DIGESTS]


def test_a_run_that_diverges_keeps_its_folder_until_what_it_saved_is_on_disk(tmp_path, monkeypatch):
    order, save, close = [], Checkpoints.save, Checkpoints.close

    def slow(self, *args):
        time.sleep(0.5)
        save(self, *args)
        order.append("saved")

    def closed(self):
        order.append("closed")
        close(self)

    monkeypatch.setattr(Checkpoints, "save", slow)
    monkeypatch.setattr(Checkpoints, "close", closed)
    calls = []
    monkeypatch.setattr(
        training, "not_finite", lambda found: calls.append(1) or (".params" if calls[1:] else None)
    )
    with pytest.raises(Diverged):
        train(tmp_path / "a", checkpoint_every=1)
    assert order == ["saved", "saved", "closed", "closed"]


def test_the_best_whose_record_alone_was_written_is_saved_by_the_next_call(tmp_path, monkeypatch):
    """Such as when the disk was full, or the run killed, between a record and its checkpoint."""
    with pytest.raises(Stopped):
        train(tmp_path / "a", StopAt(2 * STEPS), eval_every=4)
    save = Checkpoints.save

    def full(self, step, *args):
        if self.folder.name == "best":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        save(self, step, *args)

    monkeypatch.setattr(Checkpoints, "save", full)
    with pytest.raises(NotWritten):
        train(tmp_path / "a", epochs=2)
    monkeypatch.undo()
    found = train(tmp_path / "a", epochs=2)
    assert (found["best_epoch"], saved(tmp_path / "a", "best")) == (2, [2 * STEPS])


def test_many_runs_do_not_wait_for_one_another_to_be_saved(tmp_path, monkeypatch):
    save = Checkpoints.save

    def slow(self, *args):
        time.sleep(0.2)
        save(self, *args)

    monkeypatch.setattr(Checkpoints, "save", slow)
    runs = [
        Run(replace(SMALL, train=Train(epochs=1, seed=seed)), tmp_path / f"seed{seed}")
        for seed in range(3)
    ]
    modes = together.Modes(tmp_path / "together.json")
    results = group.train(runs, modes=modes, grouping="all").results.values()
    assert [result["runs_together"] for result in results] == [3, 3, 3]
    assert all(saved(run.folder) == saved(run.folder, "best") == [STEPS] for run in runs)
    assert all(result["spent"]["save"] < 0.2 for result in results)


def test_streamed_examples_that_come_in_time_cost_no_goodput(tmp_path):
    streamed = replace(SMALL, data=replace(SMALL.data, streaming=True, workers=0))
    found = group.train_one(streamed, tmp_path / "a")
    assert 0 < found["goodput"] <= 1
    assert found["spent"]["data"] <= found["seconds"]
    assert run_folder.read_summary(tmp_path / "a").goodput == found["goodput"]


# ---------------------------------------------------------------------------------- goodput


def test_goodput_is_the_share_of_time_in_steps(monkeypatch):
    """On a clock that is wound by hand."""
    now = [100.0]
    monkeypatch.setattr(goodput.time, "perf_counter", lambda: now[0])

    def passes(seconds):
        now[0] += seconds

    clock = goodput.Clock()
    assert clock.found() == {}
    passes(7)
    clock.begin(compiling=7.0, idle=lambda: 2.0)
    with clock.chunk() as seconds:
        passes(10)
    assert seconds() == 10
    with clock.spent("evaluate"):
        passes(2)
    passes(1)
    first = clock.reading()
    assert first == (8, 10)
    with clock.chunk() as seconds:  # half of an evaluation is waited for within
        with clock.spent("evaluate"):
            passes(3)
        with clock.spent("save"):
            passes(1)
        passes(5)
    assert seconds() == 5
    assert clock.goodput(first) == pytest.approx(5 / 12)
    with clock.spent("save"):  # after the last step, which nothing keeps waiting
        passes(50)
    spent = {"compile": 7, "steps": 13, "data": 2, "evaluate": 5, "save": 1, "host": 1}
    assert clock.found() == {"goodput": pytest.approx(13 / 22), "spent": spent}


def test_a_run_says_where_its_time_went(whole):
    folder, summary = whole
    spent = summary["spent"]
    assert spent.keys() == {"compile", "steps", "data", "evaluate", "save", "host"}
    inside = sum(spent.values()) - spent["compile"]
    assert summary["goodput"] == pytest.approx(spent["steps"] / inside)
    assert spent["steps"] == pytest.approx(summary["seconds"])
    assert all(0 < record["goodput"] <= 1 for record in run_folder.read_metrics(folder))
    (arm,) = arms.group([arms.read(folder)])
    headers, rows = tables.times([arm])
    assert headers[:3] == ["arm", "goodput", "steps (s)"]
    goodput, steps = f"{100 * summary['goodput']:.1f} %", f"{summary['seconds']:.1f}"
    assert [row[:3] for row in rows] == [["small", goodput, steps]]
    file = folder / "summary.json"
    file.write_text(re.sub('"goodput": [0-9.e-]+', '"goodput": "all"', file.read_text()))
    with pytest.raises(InputError, match=r"summary\.json is damaged: goodput='all': must be a"):
        run_folder.read_summary(folder)
