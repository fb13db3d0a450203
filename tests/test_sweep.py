"""Which trials a sweep makes, and that it reuses them."""

import json
import math
import signal
from dataclasses import replace

import pytest

from jaxcnn import cli
from jaxcnn.analysis import sweep
from jaxcnn.commands import sweep as sweep_command
from jaxcnn.config import Data, Experiment, Model, Optim, Schedule, Train, to_dict
from jaxcnn.errors import InputError, Stopped
from jaxcnn.runs import display, group, search, together
from jaxcnn.runs.start import Run

BASE = Experiment(
    name="base",
    data=Data("digits", batch_size=256, mean=(0.3,), std=(0.35,)),
    model=Model("mlp", {"hidden": (16,)}),
    optim=Optim("sgd", peak_lr=0.1),
    schedule=Schedule("constant", warmup_epochs=0),
    train=Train(epochs=1),
)


def grid(*words):
    return search.grid(BASE, search.spaces(BASE, words))


def test_a_grid_is_every_combination():
    found = grid("optim.peak_lr=0.01,3e-2", "model.options.hidden=[8],(8,4)", "augment.flip=true")
    assert [(t.experiment.optim.peak_lr, t.experiment.model.options["hidden"]) for t in found] == [
        (0.01, (8,)),
        (0.01, (8, 4)),
        (0.03, (8,)),
        (0.03, (8, 4)),
    ]
    assert all(t.experiment.augment.flip for t in found)
    assert len({t.name for t in found}) == 4


def test_fields_of_all_trials_are_overridden(tmp_path, capsys):
    file = tmp_path / "base.py"
    file.write_text(
        f"from jaxcnn.config import from_dict\n\ndef config(): return from_dict({to_dict(BASE)!r})"
    )
    given = ["optim.peak_lr=0.1", "--data.train-limit", "300", "--data.seed", "3"]
    assert cli.main(["sweep", str(file), *given, "--workdir", str(tmp_path / "s")]) == 0
    (trial,) = (path for path in (tmp_path / "s").iterdir() if path.is_dir())
    recorded = json.loads((trial / "config.json").read_text())
    assert (recorded["data"]["train_limit"], recorded["data"]["seed"]) == (300, 3)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["--optim.peak-lr", "0.5"], "--optim.peak-lr: must be left out"),
        (["--model.options.hidden", "(4,)"], "--model.options.hidden: must be left out"),
        (["--select-on", "test", "--train.select-on", "auto"], "--select-on test: must be that of"),
    ],
)
def test_an_option_cannot_say_otherwise_than_the_sweep(tmp_path, capsys, given, said):
    (tmp_path / "base.py").write_text(file_of(BASE))
    swept = ["optim.peak_lr=0.1,0.2", "model.options.hidden=[8],[4]"]
    assert cli.main(["sweep", str(tmp_path / "base.py"), *swept, *given]) == 2
    assert said in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["optim.peek_lr=1"], "optim.peek_lr: no such field; did you mean optim.peak_lr?"),
        (["peak_lr=1"], "did you mean optim.peak_lr?"),
        (["optim.peak_lr"], "must be FIELD=VALUES"),
        (["optim.peak_lr=fast"], "optim.peak_lr='fast': must be a finite number"),
        (["train.epochs=1.5"], "train.epochs=1.5: must be a positive whole number"),
        (["train.seed=1", "train.seed=2"], "train.seed: is swept twice"),
        (["optim.peak_lr=log:0:1"], "above 0 for log"),
        (["optim.peak_lr=1:0"], "LOW < HIGH"),
        (["train.epochs=int:1:x"], "int:LOW:HIGH"),
        (["optim.peak_lr=0:1"], "optim.peak_lr=uniform: must be a list of values for a grid"),
        (["optim.peak_lr=0:inf"], "with finite LOW < HIGH"),
        (["optim.peak_lr=nan:1"], "with finite LOW < HIGH"),
        (["optim.peak_lr=-1.7e308:1.7e308"], "with finite LOW < HIGH"),
        (["optim.peak_lr=log:1:inf"], "with finite LOW < HIGH"),
        (["train.epochs=int:1:²"], "int:LOW:HIGH"),
        ([f"train.epochs=int:1:{2**53}"], "within 2**53 for int"),
        ([f"train.epochs=int:{-(2**63)}:1"], "within 2**53 for int"),
        ([f"train.epochs=int:1:{'9' * 4000}"], "int:LOW:HIGH"),
        ([f"train.epochs=int:1:{'9' * 5000}"], "int:LOW:HIGH"),
        (["optim.peak_lr={1}"], "optim.peak_lr={1}: must be a finite number above 0 in float32"),
        (["optim.peak_lr=" + "[" * 500 + "]" * 500], "optim.peak_lr="),
        (["optim.peak_lr=" + "9" * 400], "optim.peak_lr=999"),
        (["optim.peak_lr=" + "9" * 5000], "optim.peak_lr='999"),
        (["model.options.widths=[[1]]"], "model.options.widths=((1,),): must be"),
        (["model.options.a.b=1"], "model.options.a.b: no such field"),
    ],
)
def test_what_makes_no_trial_is_named(words, named):
    with pytest.raises(InputError) as error:
        grid(*words)
    assert named in str(error.value)
    assert len(str(error.value)) < 300
    assert str(error.value).isprintable()


def test_grids_of_very_many_points_are_refused_at_once():
    fields = ("optim.peak_lr", "optim.b1", "optim.b2", "optim.momentum", "optim.weight_decay")
    values = ",".join(str(n / 200) for n in range(1, 101))
    with pytest.raises(InputError, match=r"sweep: 10,000,000,000 trials, of 5 fields; at most 10"):
        grid(*(f"{field}={values}" for field in fields))
    assert len(grid("optim.peak_lr=0.1,1e-1,0.10")) == 1


def file_of(experiment):
    return f"""
from jaxcnn.config import *
def config():
    return from_dict({to_dict(experiment)!r})
"""


FILE = file_of(BASE)


def test_a_sweep_trains_shows_and_reuses(capsys, tmp_path):
    file, workdir = tmp_path / "base.py", tmp_path / "out"
    file.write_text(FILE)
    start = ("sweep", str(file), "--workdir", str(workdir))
    assert cli.main([*start, "optim.peak_lr=0.03,1e30", "optim.nesterov=true"]) == 0
    captured = capsys.readouterr()
    assert "diverged" in captured.out
    assert "not finite" in captured.err
    args = ("optim.peak_lr=0.3,0.03", "optim.nesterov=true")
    assert cli.main([*start, *args]) == 0
    assert capsys.readouterr().out.count("is finished: 1 epoch") == 1
    rows = json.loads((workdir / "sweep.json").read_text())["trials"]
    assert {row["values"]["optim.peak_lr"] for row in rows} == {0.3, 0.03}
    assert rows[0]["test_top1"] >= rows[1]["test_top1"] > 0.1
    for row in rows:
        summary = json.loads((workdir / row["trial"] / "summary.json").read_text())
        assert summary["test_top1"] == row["test_top1"]
        assert math.isfinite(row["test_loss"])
    assert (workdir / "sweep.png").read_bytes()[:4] == b"\x89PNG"


@pytest.mark.parametrize("how", ["grid", pytest.param("random", marks=pytest.mark.slow)])
def test_a_sweep_that_is_cut_off_has_a_page_of_what_has_ended(tmp_path, monkeypatch, how):
    """And so has one that still goes on."""
    if how == "random":
        pytest.importorskip("optuna")

    def cut_off(found, workdir):
        raise InputError("before anything is told")

    monkeypatch.setattr(sweep_command, "_tell", cut_off)
    (tmp_path / "base.py").write_text(FILE)
    workdir, page = tmp_path / "out", tmp_path / "page.html"
    start = ["sweep", str(tmp_path / "base.py"), "--workdir", str(workdir), "--search", how]
    more = ["--trials", "2"] if how == "random" else []
    assert cli.main([*start, "data.batch_size=256,512", *more]) == 2
    assert cli.main(["report", str(workdir), "--out", str(page)]) == 0
    best = sweep.read(workdir).done[0]
    said = f"has <strong>data.batch_size={best['values']['data.batch_size']}</strong>: "
    assert said in page.read_text()


def test_a_sweep_of_a_changed_file_gets_a_folder_of_its_own(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for batch_size in (256, 512):
        changed = replace(BASE, data=replace(BASE.data, batch_size=batch_size))
        (tmp_path / "base.py").write_text(file_of(changed))
        assert cli.main(["sweep", "base.py", "optim.peak_lr=0.03"]) == 0
    line = "holds trials with another data.batch_size: these are in runs/sweep_base-2"
    assert line in capsys.readouterr().out
    assert {path.name for path in (tmp_path / "runs").iterdir()} == {"sweep_base", "sweep_base-2"}


def test_a_trial_that_cannot_be_trained_is_a_row_and_the_others_are_trained(capsys, tmp_path):
    file, workdir = tmp_path / "base.py", tmp_path / "out"
    file.write_text(FILE)
    start = ("sweep", str(file), "--workdir", str(workdir))
    swept = ("model.name=lenet5,mlp", "data.batch_size=5000,256")
    assert cli.main([*start, *swept, "--select-on", "test"]) == 0
    captured = capsys.readouterr()
    assert "run 4 of 4" in captured.out
    rows = json.loads((workdir / "sweep.json").read_text())["trials"]
    assert rows[0]["values"] == {"model.name": "mlp", "data.batch_size": 256}
    refused = [row["refused"] for row in rows[1:]]
    assert sum("at most the 1437 training examples" in reason for reason in refused) == 2
    assert sum("has no option 'hidden'" in reason for reason in refused) == 1
    assert all(reason in captured.err for reason in refused)
    assert captured.out.count("refused") == 3


@pytest.mark.slow
def test_trials_that_share_a_program_get_the_bits_that_they_get_alone(capsys, tmp_path):
    """Learning rate, schedule and seed are arguments of the program; batch size is not."""
    file, workdir = tmp_path / "base.py", tmp_path / "out"
    file.write_text(FILE)
    swept = ("optim.peak_lr=0.3,0.03", "schedule.name=constant,cosine", "data.batch_size=256,512")
    start = ("sweep", str(file), "--workdir", str(workdir), "--select-on", "test")
    assert cli.main([*start, *swept]) == 0
    assert capsys.readouterr().out.count("4 together (map)") == 2
    trials = {trial.name: trial.experiment for trial in grid(*swept)}
    assert len(trials) == 8
    modes = json.loads((workdir / "together.json").read_text())["modes"]
    assert modes == dict.fromkeys(trials, "map")
    digests = set()
    for name, experiment in trials.items():
        summary = json.loads((workdir / name / "summary.json").read_text())
        digests.add(summary["state_sha256"])
        if experiment.data.batch_size == 256 and experiment.schedule.name == "cosine":
            alone = group.train_one(experiment, tmp_path / "alone" / name)
            assert alone["state_sha256"] == summary["state_sha256"]
    assert len(digests) == 8


def train(runs, workdir, listener):
    return group.train(runs, listener, modes=together.Modes(workdir / "together.json"))


class Ear(display.Listener):
    """Keeps the messages; raises SIGTERM when it hears the record of that number."""

    def __init__(self, stop_at=None):
        self.stop_at, self.said, self.records = stop_at, [], 0

    def message(self, text):
        self.said.append(text)

    def record(self, record):
        self.records += 1
        if self.records == self.stop_at:
            signal.raise_signal(signal.SIGTERM)


@pytest.mark.slow
def test_parts_are_small_and_what_began_alone_stays_so(tmp_path, monkeypatch):
    """Five trials in parts of at most three: one of three, one of two; one has begun alone."""
    monkeypatch.setattr(together, "AT_MOST", 3)
    size = 4 * 2 * (64 * 16 + 16 + 16 * 10 + 10)  # parameters and momentum
    planned = [
        Run(search.override(BASE, {"optim.peak_lr": rate}), tmp_path / str(rate))
        for rate in (0.1, 0.2, 0.3, 0.4, 0.5, 0.6)
    ]
    together.Modes(tmp_path / "together.json").note([planned[0].folder], "alone")
    ear = Ear()
    assert not train(planned[:4], tmp_path, ear).diverged
    assert [line for line in ear.said if line.startswith("run ")] == [f"run 1 of 4: {tmp_path}/0.1"]
    assert ear.said.count("3 together (map)") == 1
    monkeypatch.setattr(group, "STATES_BYTES", int(1.5 * size))
    ear = Ear()
    assert not train(planned, tmp_path, ear).diverged
    assert ear.said.count("1 together (map)") == 2  # no room for a second state
    assert sum("is finished" in line for line in ear.said) == 4
    modes = json.loads((tmp_path / "together.json").read_text())["modes"]
    assert modes == {str(rate): "map" for rate in (0.2, 0.3, 0.4, 0.5, 0.6)} | {"0.1": "alone"}


@pytest.mark.slow
def test_a_stopped_sweep_goes_on_with_all_its_runs(tmp_path):
    ear = Ear(stop_at=1)
    longer = search.override(BASE, {"train.epochs": 2, "train.seeds_mode": "unroll"})
    planned = [
        Run(search.override(longer, {"optim.peak_lr": rate}), tmp_path / str(rate))
        for rate in (0.1, 0.2, 1e30)
    ]
    with pytest.raises(Stopped):
        train(planned, tmp_path, ear)
    assert "3 together (unroll)" in ear.said
    assert any("1e+30: the loss" in line for line in ear.said)  # at once
    ear = Ear()
    # Now left open, the mode is the one that they began with; the third has nothing saved.
    planned = [
        Run(search.override(run.experiment, {"train.seeds_mode": "auto"}), run.folder)
        for run in planned
    ]
    failed = train(planned, tmp_path, ear).diverged
    assert "3 together (unroll)" in ear.said
    assert "0.1: going on from step 5 of 10" in ear.said
    assert "0.2: going on from step 5 of 10" in ear.said
    assert [path.name for path in failed] == ["1e+30"]
    for run in planned[:2]:
        found = json.loads((run.folder / "summary.json").read_text())
        whole = group.train_one(run.experiment, tmp_path / "whole" / run.folder.name)
        assert found["state_sha256"] == whole["state_sha256"]


def test_a_folder_of_another_run_is_refused_before_anything_is_trained(tmp_path):
    """Also where that run has only begun."""
    begun, free = tmp_path / "begun", tmp_path / "free"
    (begun / "checkpoints" / "latest" / "5").mkdir(parents=True)
    (begun / "checkpoints" / "latest" / "5" / "manifest.sha256").touch()
    (begun / "config.json").write_text(json.dumps(search.to_dict(BASE)))
    planned = [
        Run(search.override(BASE, {"optim.peak_lr": rate}), path)
        for rate, path in ((0.1, free), (0.2, begun))
    ]
    with pytest.raises(InputError, match=r"begun: belongs to another run.*peak_lr was 0.1, now 0"):
        train(planned, tmp_path, display.Listener())
    assert not free.exists()


def test_bad_sweeps_end_in_one_line(capsys, tmp_path):
    file = tmp_path / "base.py"
    file.write_text(FILE)
    for args, named in (
        (("optim.peek_lr=1",), "did you mean optim.peak_lr?"),
        (("model.options.deep=1",), "has no option 'deep'"),
        (("model.name=lenet6",), "did you mean lenet5"),
        ((), "give FIELD=VALUES, as optim.peak_lr=0.01,0.1, or define in"),
        (("optim.peak_lr=0.1", "--trials", "3"), "--trials: is for a search; give bounds"),
        (("optim.peak_lr=0.1", "--pruner", "median"), "--pruner: is for a search"),
        (("optim.b1=0:0.9", "--trials", "0"), "--trials=0: must be in [1, 10000]"),
        (("optim.b1=0:0.9", "--seed", "-1"), "--seed=-1: must be a whole number >= 0"),
        (("optim.peak_lr=0:1", "--search", "grid"), "must be a list of values for a grid"),
        (
            ("optim.b1=0:0.9", "--objectives", "top2"),
            "--objectives top2: must be some of top1, loss",
        ),
        (("optim.b1=0:0.9", "--objectives", "top1", "macs", "--pruner", "median"), "goes by one"),
        (("train.epochs=int:1:3", "data.validation=0.1,0.2"), "must be the same in all trials"),
    ):
        assert cli.main(["sweep", str(file), "--workdir", str(tmp_path / "out"), *args]) == 2
        err = capsys.readouterr().err
        assert err.count("\n") == 1
        assert named in err
    assert not (tmp_path / "out").exists()
