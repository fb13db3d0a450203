"""Several processes share a folder of runs, and anybody can see there how the runs stand."""

import json
import os
import re
import subprocess
import sys
import time
from dataclasses import replace

import pytest
from rich.console import Console

from jaxcnn import cli
from jaxcnn.analysis import status
from jaxcnn.config import Data, Experiment, Model, Optim, Schedule, Train, to_dict
from jaxcnn.errors import Diverged, InputError
from jaxcnn.learning import standing
from jaxcnn.runs import display, group, plan, together
from jaxcnn.runs.start import Run
from jaxcnn.tasks import Metric
from tests.test_sweep import file_of

SMALL = Experiment(
    name="small",
    data=Data("digits", batch_size=256, mean=(0.3,), std=(0.35,), train_limit=512),
    model=Model("mlp", {"hidden": (16,)}),
    optim=Optim("sgd", peak_lr=0.1),
    schedule=Schedule("constant", warmup_epochs=0),
    train=Train(epochs=2, checkpoint_every=1),
)
DIVERGING = replace(SMALL, optim=Optim("sgd", peak_lr=1e30))


def share(runs, folder, listener=None):
    modes = together.Modes(folder / "together.json")
    return group.train(runs, listener, modes=modes, shared=True)


def folder_of(run):
    run.folder.mkdir(parents=True)
    return run.folder


def test_what_another_process_has_taken_is_left_to_it(tmp_path):
    runs = plan.seeds(SMALL, tmp_path, 3)
    with standing.take(folder_of(runs[1])):
        outcome = share(runs, tmp_path)
    assert [*outcome.results] == [runs[0].folder, runs[2].folder]
    assert outcome.elsewhere == [runs[1].folder]
    outcome = share(runs, tmp_path)  # whoever took it is gone
    assert {*outcome.results} == {run.folder for run in runs}
    assert not outcome.elsewhere
    alone = group.train_one(runs[1].experiment, tmp_path / "alone")
    assert outcome.results[runs[1].folder]["state_sha256"] == alone["state_sha256"]


def test_a_run_that_becomes_free_in_the_meantime_is_taken(tmp_path):
    runs = plan.seeds(SMALL, tmp_path, 2)
    lock = standing.take(folder_of(runs[0]))

    class Dying(display.Listener):
        def ended(self, run):
            lock.close()

    outcome = share(runs, tmp_path, Dying())
    assert [*outcome.results] == [runs[1].folder, runs[0].folder]


def test_a_run_that_is_taken_between_a_look_and_the_training_is_left(tmp_path, monkeypatch):
    runs = plan.seeds(SMALL, tmp_path, 2)
    looks = iter([False, False])
    real, refused = standing.is_taken, []
    monkeypatch.setattr(standing, "SECONDS_OF_A_LOOK", 0.05)
    monkeypatch.setattr(standing, "is_taken", lambda path: next(looks, True) and real(path))

    def take(path, take=standing.take):
        try:
            return take(path)
        except standing.Taken:
            refused.append(path)
            raise

    with standing.take(folder_of(runs[0])):
        monkeypatch.setattr(standing, "take", take)
        outcome = share(runs, tmp_path)
    assert refused == [runs[0].folder]
    assert ([*outcome.results], outcome.elsewhere) == ([runs[1].folder], [runs[0].folder])


@pytest.mark.parametrize("ended", ["finished", "pruned"])
def test_what_ended_before_its_folder_was_taken_is_not_trained_once_more(
    tmp_path, monkeypatch, ended
):
    (run,) = plan.seeds(SMALL, tmp_path, 1)

    def take(path, take=standing.take):
        """Another process ends the run between this one's look and its lock."""
        if path == run.folder:
            monkeypatch.setattr(standing, "take", real)
            if ended == "finished":
                group.train_one(run.experiment, path)
            else:
                standing.note_fault(path, "pruned", "it promised too little")
        return take(path)

    real = standing.take
    monkeypatch.setattr(standing, "take", take)
    heard = []

    class Hearing(display.Listener):
        def record(self, record):
            heard.append(record)

    outcome = share([run], tmp_path, Hearing())
    assert not heard
    assert [*(outcome.results if ended == "finished" else outcome.pruned)] == [run.folder]
    assert (run.folder / "summary.json").exists() == (ended == "finished")


def test_looking_at_a_run_never_keeps_its_owner_out(tmp_path):
    look = "import sys; from pathlib import Path; from jaxcnn.learning import standing\n"
    look += "print('looking', flush=True)\nwhile True: standing.is_taken(Path(sys.argv[1]))"
    standing.take(tmp_path).close()
    command = [sys.executable, "-c", look, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as looking:
        assert looking.stdout.readline()
        for _ in range(200):
            standing.take(tmp_path).close()
        looking.kill()


def test_a_run_that_diverged_is_not_trained_by_the_next_process_too(tmp_path):
    runs = [Run(DIVERGING, tmp_path / "bad"), Run(SMALL, tmp_path / "good")]
    first, heard = share(runs, tmp_path), []

    class Hearing(display.Listener):
        def heading(self, text):
            heard.append(text)

    second = share(runs, tmp_path, Hearing())
    assert first.diverged == second.diverged
    assert "is not finite" in second.diverged[tmp_path / "bad"]
    assert not heard
    group.train(runs, Hearing())  # but alone it is tried again
    assert any("bad" in line for line in heard)


def test_why_a_run_ended_is_told_until_it_goes_on(tmp_path, monkeypatch):
    with pytest.raises(Diverged):
        group.train_one(DIVERGING, tmp_path / "diverged")
    assert standing.fault(tmp_path / "diverged").ended == "diverged"

    class Full(display.Listener):
        def record(self, record):
            raise MemoryError("memory is full\nand more")

    with pytest.raises(MemoryError):
        group.train_one(SMALL, tmp_path / "failed", Full())
    fault = standing.fault(tmp_path / "failed")
    assert (fault.ended, fault.reason) == ("failed", "memory is full")
    group.train_one(SMALL, tmp_path / "failed")
    assert standing.fault(tmp_path / "failed") is None


def test_runs_that_began_as_one_batch_are_not_shared_out(tmp_path):
    runs = plan.seeds(replace(SMALL, train=replace(SMALL.train, epochs=1)), tmp_path, 2)
    modes = together.Modes(tmp_path / "together.json")
    group.train(runs, modes=modes, grouping="all")
    modes.note([run.folder for run in runs], "vmap")
    longer = plan.seeds(SMALL, tmp_path, 2)
    with pytest.raises(InputError, match=r"began together .*vmap.* without --shared"):
        share(longer, tmp_path)


def test_the_last_to_end_writes_what_all_come_to(tmp_path, capsys):
    file, workdir = tmp_path / "small.py", tmp_path / "seeds"
    file.write_text(file_of(SMALL))
    command = ["train", str(file), "--seeds", "2", "--shared", "--workdir", str(workdir)]
    (workdir / "seed1").mkdir(parents=True)
    with standing.take(workdir / "seed1"):
        assert cli.main(command) == 0
    assert (
        "1 run with other processes; the last to end writes seeds.json" in capsys.readouterr().out
    )
    assert not (workdir / "seeds.json").exists()
    with standing.take(workdir):  # another one ends at the same time
        assert cli.main(command) == 0
    assert not (workdir / "seeds.json").exists()
    assert cli.main(command) == 0
    written = (workdir / "seeds.json").read_bytes()
    assert json.loads(written)["seeds"] == [0, 1]
    before = (workdir / "seeds.json").stat().st_mtime_ns
    assert cli.main(command) == 0
    assert "by another process" in capsys.readouterr().out
    assert (workdir / "seeds.json").stat().st_mtime_ns == before


def test_one_run_alone_is_not_shared(tmp_path, capsys):
    (tmp_path / "small.py").write_text(file_of(SMALL))
    assert cli.main(["train", str(tmp_path / "small.py"), "--shared"]) == 2
    assert "--shared: shares out several seeds" in capsys.readouterr().err


def test_every_state_is_seen_in_the_folders(tmp_path, monkeypatch, capsys):
    runs = {name: Run(SMALL, tmp_path / name) for name in ("a_done", "b_stopped", "c_waits")}
    standing.plan(tmp_path, [run.folder for run in runs.values()])
    group.train_one(SMALL, runs["a_done"].folder)
    with pytest.raises(Diverged):
        group.train_one(DIVERGING, tmp_path / "d_bad")
    group.train_one(replace(SMALL, train=replace(SMALL.train, epochs=1)), runs["b_stopped"].folder)
    for name in ("config.json", "summary.json"):
        (runs["b_stopped"].folder / name).unlink()
    config = json.dumps(to_dict(SMALL))
    (runs["b_stopped"].folder / "config.json").write_text(config)
    (tmp_path / "e_broken").mkdir()
    (tmp_path / "e_broken" / "config.json").write_text("{")
    seen = []

    class Looking(display.Listener):
        def record(self, record):
            (found,) = [s for s in status.read_all(tmp_path) if s.name == "f_runs"]
            seen.append((found.state, found.epoch, found.epochs, found.step))

    monkeypatch.setattr(standing, "SECONDS_BETWEEN", 0)
    group.train_one(SMALL, tmp_path / "f_runs", Looking())
    assert seen[0] == ("running", 1, 2, 2)
    assert cli.main(["status", str(tmp_path)]) == 0
    lines = capsys.readouterr().out.splitlines()
    for name, said in {
        "a_done": r"finished .* 2 of 2 .* test top-1",
        "b_stopped": r"stopped .* 1 of 2 .* 2 ",
        "c_waits": "waiting",
        "d_bad": "diverged",
        "d_bad:": "the loss or its gradient is not finite at step 1",
        "e_broken": "failed",
        "e_broken:": r"config\.json is damaged",
        "f_runs": r"finished .* 2 of 2",
    }.items():
        assert any(re.search(f"{name} .*{said}", line) for line in lines), (name, lines)
    counted = "6 runs: 1 failed, 1 diverged, 1 stopped, 1 waiting, 2 finished"
    assert lines[-1].strip() == counted


@pytest.mark.slow
def test_a_run_in_another_process_is_seen_running(tmp_path):
    file = tmp_path / "small.py"
    file.write_text(file_of(replace(SMALL, train=replace(SMALL.train, epochs=200_000))))
    workdir = tmp_path / "run"
    command = [sys.executable, "-m", "jaxcnn.cli", "train", str(file), "--workdir", str(workdir)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as training:
        until = time.monotonic() + 120
        while not (workdir / "progress.json").exists():
            assert time.monotonic() < until
            time.sleep(0.1)
        (found,) = status.read_all(workdir)
        training.kill()
    assert (found.state, found.name, found.host) == ("running", "run", os.uname().nodename)
    assert found.images_per_sec > 0
    assert found.seconds_left > 0
    (found,) = status.read_all(workdir)
    assert found.state in ("stopped", "waiting")


def test_a_folder_without_runs_is_refused(tmp_path, capsys):
    assert cli.main(["status", str(tmp_path / "none")]) == 2
    assert "neither is nor holds a run folder" in capsys.readouterr().err


RUNNING = {"epoch": 1, "epochs": 4, "state": "running"}


@pytest.mark.parametrize(
    ("runs", "seconds"),
    [
        ([], None),
        ([{"state": "finished"}, {"state": "waiting"}], None),
        ([RUNNING | {"seconds_left": 30.0}, {"state": "finished"}], 30),
        ([RUNNING | {"seconds_left": 30.0}, RUNNING | {"seconds_left": 60.0}], 60),
        # Each lasts 40 s, so that two workers need 30 s and two times 40 s more.
        ([RUNNING | {"seconds_left": 30.0}] * 2 + [{"state": "waiting"}] * 4, 30 + 80),
        ([RUNNING | {"seconds_left": 30.0, "epoch": 4}, {"state": "waiting"}], None),
    ],
)
def test_the_time_that_all_runs_will_take(runs, seconds):
    found = [status.Status(f"run{i}", **run) for i, run in enumerate(runs)]
    assert status.seconds_left(found) == seconds
    if seconds:
        assert f"{seconds // 60} min {seconds % 60} s left" in text_of(found) or seconds < 60


@pytest.mark.parametrize("higher", [True, False])
def test_the_best_so_far_is_named_where_there_are_several(higher):
    metric = Metric("m", "m", higher_is_better=higher)
    scores = [metric.score(value) for value in (0.5, 0.9, 0.1)]
    found = [
        status.Status(f"run{i}", "finished", figure=f"test m {i}", score=score)
        for i, score in enumerate(scores)
    ]
    found.append(status.Status("waits", "waiting"))
    assert ("best so far: run1, test m 1" if higher else "best so far: run2") in text_of(found)
    assert "best" not in text_of(found[:1])
    assert "best" not in text_of(found[3:] * 2)


def text_of(found):
    console = Console(width=80)
    with console.capture() as capture:
        console.print(status.render(found, 80))
    return capture.get()


def test_of_more_runs_than_have_room_those_are_shown_that_matter_most(tmp_path):
    found = [status.Status(f"run{i}", "finished") for i in range(30)]
    found += [status.Status("late", "running"), status.Status("bad", "failed", reason="why " * 20)]
    with open(os.devnull, "w") as nothing:  # noqa: PTH123
        from rich.console import Console

        screen = Console(file=nothing, width=80, record=True)
        screen.print(status.render(found, 80, 4 + status.LINES_AROUND))
        lines = screen.export_text().splitlines()
    assert max(map(len, lines)) <= 80
    text = "\n".join(lines)
    assert "late" in text
    assert "bad" in text
    assert "32 runs: 1 running, 1 failed, 30 finished; 28 are not shown" in text
