"""Several seeds in one program: each gets what it would get alone."""

import json
import re
import shutil
import signal
from dataclasses import replace
from typing import get_args

import numpy as np
import pytest
from scipy import stats

from jaxcnn import cli
from jaxcnn.commands.train import _of_seeds
from jaxcnn.config import (
    Augment,
    Data,
    Experiment,
    Model,
    Optim,
    Schedule,
    SeedsMode,
    Train,
    to_dict,
)
from jaxcnn.errors import InputError, Stopped
from jaxcnn.learning import run_folder as folder
from jaxcnn.learning import standing
from jaxcnn.runs import display, group, plan, together
from jaxcnn.runs.evaluation import evaluate

SMALL = Experiment(
    name="small",
    data=Data("digits", batch_size=64, eval_batch_size=180, train_limit=256, mean=(0.3,)),
    augment=Augment(crop_padding=1),
    model=Model("convnet", {"widths": (4,), "hidden": 8, "batch_norm": True, "dropout": 0.2}),
    optim=Optim("sgd", peak_lr=0.1),
    schedule=Schedule("constant", 0),
    train=Train(epochs=3, seed=5, checkpoint_every=1),
)
DIGESTS = ("params_sha256", "state_sha256", "test_loss", "best_test_top1")


def train_two(experiment, workdir, listener=None):
    """As `jaxcnn train --seeds 2`: what seeds.json holds, and which seeds diverged."""
    runs = plan.seeds(experiment, workdir, 2)
    modes = together.Modes(workdir / "together.json")
    outcome = group.train(runs, listener, modes=modes, grouping="all")
    return plan.write_seeds(experiment.name, outcome, workdir), outcome.diverged


def summaries(workdir):
    return [json.loads((workdir / f"seed{n}" / "summary.json").read_text()) for n in (5, 6)]


def timeless(path):
    times = {"seconds", "images_per_sec", "step_time", "data_wait", "goodput"}
    return [{k: v for k, v in r.items() if k not in times} for r in folder.read_metrics(path)]


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("alone")
    for seed in (5, 6):
        experiment = replace(SMALL, train=replace(SMALL.train, seed=seed))
        group.train_one(experiment, workdir / f"seed{seed}")
    return workdir


@pytest.mark.parametrize("mode", [m for m in get_args(SeedsMode) if m != "auto"])
def test_each_mode_is_known_again(tmp_path, mode):
    together.Modes(tmp_path / "together.json").note([tmp_path / "seed0"], mode)
    assert together.Modes(tmp_path / "together.json").known(tmp_path / "seed0") == mode


def in_mode(mode):
    return replace(SMALL, train=replace(SMALL.train, seeds_mode=mode))


def same_as(found, alone):
    """The bits and the records of seeds that were trained alone."""
    for one, expected in zip(summaries(found), summaries(alone), strict=True):
        assert [one[k] for k in DIGESTS] == [expected[k] for k in DIGESTS]
    for name in ("seed5", "seed6"):
        assert timeless(found / name) == timeless(alone / name)


def test_every_seed_gets_the_bits_that_it_gets_alone(alone, tmp_path, capsys):
    file = tmp_path / "small.py"
    file.write_text(
        f"from jaxcnn.config import *\ndef config():\n    return from_dict({to_dict(SMALL)!r})\n"
    )
    workdir = tmp_path / "a"
    assert cli.main(["train", str(file), "--seeds", "2", "--workdir", str(workdir)]) == 0
    same_as(workdir, alone)
    out = capsys.readouterr().out
    assert "2 together (map)" in out
    assert re.search("^epoch    3 .*  seed6$", out, re.MULTILINE)
    assert "\n2 seeds, 5 to 6, in " in f"\n{out}"
    result = json.loads((workdir / "seeds.json").read_text())
    assert result["seeds"] == [5, 6]
    top1 = [summary["test_top1"] for summary in summaries(alone)]
    assert f"test top-1 {np.mean(top1):.2%}, standard deviation {np.std(top1, ddof=1):.2%}" in out
    # The folders are ordinary ones, and stay so.
    assert evaluate(workdir / "seed6")["test_loss"] == summaries(alone)[1]["test_loss"]
    assert group.train_one(SMALL, workdir / "seed5") == summaries(workdir)[0]
    # Given again, it reuses what is finished.
    before = (workdir / "seed5" / "metrics.jsonl").read_text()
    assert cli.main(["train", str(file), "--seeds", "2", "--workdir", str(workdir)]) == 0
    assert (workdir / "seed5" / "metrics.jsonl").read_text() == before
    assert cli.main(["train", str(file), "--seeds", "0"]) == 2
    assert "--seeds 0: must be a whole number in [1, 10000]" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["unroll", "devices"])
def test_likewise_without_the_loop_and_on_devices(alone, tmp_path, mode):
    result, failed = train_two(in_mode(mode), tmp_path)
    assert not failed
    assert result["seeds"] == [5, 6]
    modes = json.loads((tmp_path / "together.json").read_text())["modes"]
    assert modes == {"seed5": mode, "seed6": mode}
    same_as(tmp_path, alone)


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["vmap", "layers"])
def test_as_one_batch_the_seeds_differ_by_rounding_alone(alone, tmp_path, mode):
    train_two(in_mode(mode), tmp_path)
    for found, expected in zip(summaries(tmp_path), summaries(alone), strict=True):
        assert found["train_loss"] == pytest.approx(expected["train_loss"], rel=1e-3)


class StopAt(display.Listener):
    def __init__(self, step):
        self.step, self.said = step, []

    def message(self, text):
        self.said.append(text)

    def progress(self, progress):
        if progress.step == self.step:
            self.step = None  # a second signal would end the process
            signal.raise_signal(signal.SIGTERM)


def test_stopped_or_killed_all_go_on_from_where_each_was(alone, tmp_path, monkeypatch):
    monkeypatch.setattr(group, "SECONDS_PER_CHUNK", 1e-9)  # one step per chunk
    with pytest.raises(Stopped):
        train_two(SMALL, tmp_path, StopAt(6))
    saved = [sorted(int(p.name) for p in tmp_path.glob(f"seed{n}/*/latest/*")) for n in (5, 6)]
    assert saved == [[4, 6], [4, 6]]
    # As if killed between the two last checkpoints.
    shutil.rmtree(tmp_path / "seed6" / "checkpoints" / "latest" / "6")
    ear = StopAt(None)
    train_two(SMALL, tmp_path, ear)
    assert "seed5: going on from step 6 of 12" in ear.said
    assert "seed6: going on from step 4 of 12" in ear.said
    same_as(tmp_path, alone)


def test_the_spread_is_that_of_a_normal_sample():
    values = [0.91, 0.92, 0.94, 0.9, 0.95]
    found = plan.spread(values)
    low, high = stats.t.interval(0.95, 4, np.mean(values), stats.sem(values))
    assert found["std"] == pytest.approx(np.std(values, ddof=1))
    assert (found["mean"], found["low"], found["high"]) == pytest.approx(
        (np.mean(values), low, high)
    )
    assert plan.spread([0.5]) == {
        "mean": 0.5,
        "std": None,
        "low": None,
        "high": None,
        "values": [0.5],
    }


@pytest.mark.parametrize(
    ("first", "count", "most"),
    [
        (0, 0, 10_000),
        (0, -1, 10_000),
        (0, 5_000_000, 10_000),
        (2**31 - 2, 3, 2),
        (9, 10**30, 10_000),
    ],
)
def test_numbers_of_seeds_that_cannot_be_are_refused(tmp_path, first, count, most):
    assert len(plan.seeds(plan.with_seed(SMALL, first), tmp_path, min(most, 9))) == min(most, 9)
    with pytest.raises(InputError) as error:
        plan.seeds(plan.with_seed(SMALL, first), tmp_path, count)
    assert str(error.value) == f"--seeds {count}: must be a whole number in [1, {most}]"


def test_the_interval_of_an_accuracy_ends_at_all_of_the_images(tmp_path):
    values = {"test_top1": (0.76, 1.0), "test_loss": (0.01, 0.9)}
    outcome = group.Outcome(
        {
            tmp_path / str(n): {"seed": n, **{key: pair[n] for key, pair in values.items()}}
            for n in (0, 1)
        }
    )
    said = _of_seeds(plan.write_seeds("x", outcome, tmp_path), tmp_path)
    assert "95 % interval 0.00% to 100.00% (2 seeds)" in said
    assert "95 % interval 0.0000 to" in said


def test_seeds_that_all_reach_the_same_are_told_without_an_interval(tmp_path):
    outcome = group.Outcome(
        {tmp_path / str(n): {"seed": n, "test_top1": 1.0, "test_loss": 0.5 + n} for n in (5, 6)}
    )
    said = _of_seeds(plan.write_seeds("x", outcome, tmp_path), tmp_path)
    assert "test top-1 100.00%, standard deviation 0.00% (2 seeds)" in said
    assert "test loss 6.0000, standard deviation 0.7071, 95 % interval" in said


@pytest.mark.slow
def test_seeds_that_diverge_are_named(tmp_path):
    wild = replace(SMALL, optim=Optim("sgd", peak_lr=1e30))
    result, failed = train_two(wild, tmp_path)
    assert [path.name for path in failed] == ["seed5", "seed6"]
    assert all("not finite" in reason for reason in failed.values())
    assert "test_top1" not in result


def test_time_left_is_that_of_all_that_share_a_program(tmp_path, monkeypatch):
    told = []
    monkeypatch.setattr(standing.Teller, "tell", lambda self, **progress: told.append(progress))
    train_two(in_mode("map"), tmp_path)
    assert len(told) > 2
    for now in told:
        images_left = (now["total_steps"] - now["step"]) * SMALL.data.batch_size
        assert now["seconds_left"] * now["images_per_sec"] == pytest.approx(2 * images_left)
