"""Searches by Optuna: what they draw, what they give up, and that many processes share one."""

import json
import math
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from jaxcnn import cli
from jaxcnn.config import Data, Experiment, Model, Optim, Schedule, Train, to_dict
from jaxcnn.errors import InputError
from jaxcnn.learning import run_folder, standing
from jaxcnn.runs import group, search
from jaxcnn.runs import study as study_module
from jaxcnn.runs.start import Outcome, Run
from jaxcnn.runs.study import Search, Study

pytest.importorskip("optuna")
ROOT = Path(__file__).parents[1]

BASE = Experiment(
    name="base",
    data=Data("digits", batch_size=256, mean=(0.3,), std=(0.35,), validation=0.2),
    model=Model("mlp", {"hidden": (16,)}),
    optim=Optim("sgd", peak_lr=0.1),
    schedule=Schedule("constant", warmup_epochs=0),
    train=Train(epochs=1),
)
RATE = ("optim.peak_lr=log:1e-3:1",)


def study(folder, *words, trials=1000, sampler="random", shared=True, **how):
    asked = Search(BASE, search.spaces(BASE, words or RATE), trials, sampler, **how)
    return Study(folder, asked, shared=shared)


def values(trials, field="optim.peak_lr"):
    return [trial.values[field] for trial in trials]


def result(value):
    return {"val_top1": value, "val_loss": 1 - value, "seconds": 1.0, "parameters": 10}


def test_draws_are_spread_as_their_space_says(tmp_path):
    words = (
        *RATE,
        "train.label_smoothing=0:0.2",
        "train.epochs=int:1:4",
        "model.options.hidden=[8],(8,4)",
        "optim.nesterov=true,false",
    )
    drawn = study(tmp_path, *words).ask(300)
    exponents = (np.log10(values(drawn)) + 3) / 3
    assert stats.kstest(exponents, "uniform").pvalue > 0.01  # even over the logarithm
    smoothing = np.array(values(drawn, "train.label_smoothing")) / 0.2
    assert stats.kstest(smoothing, "uniform").pvalue > 0.01
    for field, expected in {
        "train.epochs": {1, 2, 3, 4},
        "model.options.hidden": {(8,), (8, 4)},
        "optim.nesterov": {True, False},
    }.items():
        found = [tuple(v) if isinstance(v, list) else v for v in values(drawn, field)]
        counts = [found.count(value) for value in expected]
        assert sum(counts) == len(found)
        assert stats.chisquare(counts).pvalue > 0.01
    assert drawn[0].experiment.optim.peak_lr == drawn[0].values["optim.peak_lr"]


@pytest.mark.parametrize("sampler", ["random", "tpe", "cmaes"])
def test_a_search_that_goes_on_asks_what_it_would_have_asked(tmp_path, sampler):
    """Whoever asks, and however often it began anew, the draws are the same."""

    def asked(folder, begin_anew):
        found, one = [], study(folder, sampler=sampler)
        for number in range(14):
            if begin_anew:
                one = study(folder, sampler=sampler)
            (trial,) = one.ask(1)
            found.append(trial)
            reached = -((math.log10(trial.values["optim.peak_lr"]) + 1.3) ** 2)
            one.tell(Outcome(results={folder / trial.name: result(reached + number * 1e-9)}))
        return found

    whole, anew = (asked(tmp_path / f"{begin}", begin) for begin in (False, True))
    assert values(whole) == values(anew)
    assert len({*values(whole)}) > 10
    other = study(tmp_path / "seed", sampler=sampler, seed=1).ask(1)
    assert values(other) != values(whole[:1])


def test_tpe_finds_a_peak_better_than_chance(tmp_path):
    """A known truth: the metric falls off with the square of the distance from 10**-1.3."""

    def reached(sampler, seed):
        folder = tmp_path / f"{sampler}{seed}"
        one, best = study(folder, sampler=sampler, seed=seed), math.inf
        for _ in range(30):
            (trial,) = one.ask(1)
            distance = abs(math.log10(trial.values["optim.peak_lr"]) + 1.3)
            best = min(best, distance)
            one.tell(Outcome(results={folder / trial.name: result(1 - distance**2)}))
        return best

    by_tpe, by_chance = ([reached(s, seed) for seed in range(5)] for s in ("tpe", "random"))
    assert np.mean(by_tpe) < np.mean(by_chance)


def test_no_more_trials_are_asked_for_than_planned(tmp_path):
    one, other = (study(tmp_path, trials=5) for _ in range(2))
    assert len(one.ask(3)) == 3
    assert len(other.ask(8)) == 2
    assert one.ask(1) == []


def test_what_diverges_is_avoided_and_what_is_no_experiment_is_told(tmp_path):
    one, asked = study(tmp_path, "optim.b1=0:2", trials=20), []
    while more := one.ask(1):  # never empty before the last one
        asked += more
    assert all(trial.values["optim.b1"] < 1 for trial in asked)
    refused = one.refused()
    assert len(asked) + len(refused) == 20
    assert all("optim.b1=1." in why for why in refused.values())
    folder = tmp_path / asked[0].name
    one.tell(Outcome(diverged={folder: "not finite"}))
    states = {t.number: t.state.name for t in one._study.trials}
    assert [*states.values()].count("PRUNED") == 1
    assert [*states.values()].count("FAIL") == len(refused)


def in_another_process(folder):
    """Another process asks for a trial, and holds it until it is killed."""
    code = (
        "import sys, time\n"
        "from pathlib import Path\n"
        "from tests.test_study import study\n"
        "(trial,) = study(Path(sys.argv[1])).ask(1)\n"
        "print(trial.name, flush=True)\n"
        "time.sleep(1000)\n"
    )
    command = [sys.executable, "-c", code, str(folder)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT)
    return process, process.stdout.readline().strip()


def test_a_dead_process_leaves_its_trial_to_the_others(tmp_path):
    other, name = in_another_process(tmp_path)
    alive = study(tmp_path)
    assert alive.orphans() == []
    assert alive.elsewhere() == [tmp_path / name]
    other.kill()
    other.wait()
    assert [trial.name for trial in alive.orphans()] == [name]
    assert alive.elsewhere() == []


def test_a_trial_that_failed_is_not_taken_up_by_the_next_process(tmp_path):
    """A full disk would fail it once more; but alone, or launched again, it is tried again."""
    one = study(tmp_path)
    (trial,) = one.ask(1)
    one.release([trial])
    standing.note_fault(tmp_path / trial.name, "failed", "the disk is full")
    assert study(tmp_path).orphans() == []
    assert [t.name for t in study(tmp_path, shared=False).orphans()] == [trial.name]


def test_what_equals_a_pruned_trial_is_not_trained(tmp_path):
    one = study(tmp_path, "optim.nesterov=true")
    (first,) = one.ask(1)
    standing.note_fault(tmp_path / first.name, "pruned", "it promised too little")
    one.release([first])
    one.harvest()
    (again,) = one.ask(1)
    assert again.name == first.name
    assert one.has_ended(again)
    one.release([again])
    one.harvest()
    assert [t.state.name for t in one._study.trials] == ["PRUNED", "PRUNED"]


def test_what_a_dead_process_did_not_tell_is_told(tmp_path):
    dead, alive = (study(tmp_path) for _ in range(2))
    (trial,) = dead.ask(1)
    found = group.train_one(trial.experiment, tmp_path / trial.name)
    alive.harvest()
    assert not alive._running()
    assert alive._study.trials[0].value == found["val_top1"]


def test_a_process_that_was_killed_while_it_wrote_leaves_the_study_whole(tmp_path):
    study(tmp_path).ask(2)
    with (tmp_path / "study.jsonl").open("ab") as file:
        file.write(b'{"op_code":5,"wor')
    again = study(tmp_path)
    assert len(again.ask(1)) == 1
    assert len(study(tmp_path).values()) == 3


def test_a_damaged_study_is_said_in_one_line(tmp_path):
    study(tmp_path).ask(1)
    (tmp_path / "study.jsonl").write_bytes(b"nonsense\n")
    with pytest.raises(InputError, match=r"study\.jsonl: cannot be used .*the runs are kept"):
        study(tmp_path)


def test_a_study_that_fails_harms_no_run(tmp_path, caplog):
    longer = replace(BASE, train=replace(BASE.train, epochs=2))
    search_ = Search(longer, search.spaces(BASE, RATE), 3, "random", "median")
    one = Study(tmp_path, search_)
    (trial,) = one.ask(1)
    (tmp_path / "study.jsonl").unlink()
    (tmp_path / "study.jsonl").mkdir()
    outcome = group.train([Run(trial.experiment, tmp_path / trial.name)], prune=one.prune)
    assert [*outcome.results] == [tmp_path / trial.name]
    assert "its study was not told" in caplog.text


def test_the_study_of_another_search_is_refused(tmp_path):
    study(tmp_path, seed=0)
    study(tmp_path, seed=1, sampler="tpe", trials=7)  # which may change
    with pytest.raises(InputError, match=r"study of another search, with another spaces"):
        study(tmp_path, "optim.peak_lr=log:1e-3:2")
    with pytest.raises(InputError, match="with another objectives"):
        study(tmp_path, objectives=("loss",))
    for changed, named in (
        (replace(BASE, data=replace(BASE.data, batch_size=128)), r"data\.batch_size"),
        (replace(BASE, train=replace(BASE.train, epochs=2)), r"train\.epochs"),
    ):
        with pytest.raises(InputError, match=f"with another {named}"):
            Study(tmp_path, Search(changed, search.spaces(BASE, RATE), 3))


@pytest.mark.parametrize("missing", ["optuna", "cmaes"])
def test_what_is_not_installed_is_named(tmp_path, monkeypatch, missing):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == missing else 1)
    with pytest.raises(InputError, match=rf"needs {missing}: pip install 'jaxcnn\[search\]'"):
        study(tmp_path / "s", sampler="cmaes")
    assert not (tmp_path / "s").exists()


def test_a_pruned_run_stops_where_it_is_told(tmp_path):
    longer = replace(BASE, train=replace(BASE.train, epochs=4))
    heard = []

    def prune(folder, record):
        heard.append(record["epoch"])
        return record["epoch"] == 2

    outcome = group.train([Run(longer, tmp_path / "a")], prune=prune)
    assert heard == [1, 2]
    assert outcome.pruned[tmp_path / "a"].startswith("after epoch 2, with validation top-1 ")
    assert standing.fault(tmp_path / "a").ended == "pruned"
    assert len(run_folder.evaluations(tmp_path / "a")) == 2
    whole = group.train_one(longer, tmp_path / "a")  # anybody may go on with it
    assert whole["state_sha256"] == group.train_one(longer, tmp_path / "b")["state_sha256"]


def file_of(experiment, more=""):
    return (
        "from dataclasses import replace\n"
        "from jaxcnn.config import from_dict\n"
        f"def config(): return from_dict({to_dict(experiment)!r})\n{more}"
    )


def test_a_search_ends_in_a_table_and_a_page(tmp_path, capsys):
    (tmp_path / "base.py").write_text(file_of(replace(BASE, train=Train(epochs=3))))
    workdir = tmp_path / "out"
    words = (*RATE, "model.options.hidden=[4],[16]", "--search", "random", "--trials", "6")
    command = ["sweep", str(tmp_path / "base.py"), *words, "--pruner", "median"]
    assert cli.main([*command, "--workdir", str(workdir)]) == 0
    out = capsys.readouterr().out
    found = json.loads((workdir / "sweep.json").read_text())
    done = [row for row in found["trials"] if "test_top1" in row]
    pruned = [row for row in found["trials"] if "pruned" in row]
    assert len(done) + len(pruned) == 6
    assert pruned
    assert [row["val_top1"] for row in done] == sorted((r["val_top1"] for r in done), reverse=True)
    assert out.count("pruned after epoch") == 2 * len(pruned)  # when it was, and in the table
    said = re.findall(r"^run (\d) of 6.*peak_lr=[\d.e-]+ hidden=\S+", out, re.MULTILINE)
    assert said == list("123456")  # each trial, done or pruned, with its values
    assert "1 of 1" not in out
    assert sum(found["importances"].values()) == pytest.approx(1)
    best = done[0]
    assert f"best: {best['trial']} (optim.peak_lr={best['values']['optim.peak_lr']}, " in out
    assert f"validation top-1 {100 * best['val_top1']:.2f}%, test top-1" in out
    page = (workdir / "report.html").read_text()
    assert all(row["trial"] in page for row in found["trials"])
    before = {path: path.read_bytes() for path in workdir.glob("*/summary.json")}
    assert cli.main([*command, "--workdir", str(workdir)]) == 0  # nothing is left to be done
    assert before == {path: path.read_bytes() for path in workdir.glob("*/summary.json")}


@pytest.mark.slow
def test_a_search_goes_on_after_what_is_no_experiment(tmp_path, capsys):
    (tmp_path / "base.py").write_text(file_of(BASE))
    words = ["data.batch_size=256,5000", *RATE, "--search", "random", "--trials", "8"]
    command = ["sweep", str(tmp_path / "base.py"), *words, "--workdir", str(tmp_path / "out")]
    assert cli.main(command) == 0
    captured = capsys.readouterr()
    rows = json.loads((tmp_path / "out" / "sweep.json").read_text())["trials"]
    refused = [row["refused"] for row in rows if "refused" in row]
    assert len(rows) == 8
    assert 0 < len(refused) < 8
    assert all(reason in captured.err for reason in refused)
    none = ["data.batch_size=5000,6000", *words[1:]]
    command = ["sweep", str(tmp_path / "base.py"), *none, "--workdir", str(tmp_path / "none")]
    assert cli.main(command) == 2
    assert "at most the" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("optim.momentum=0:3",), "optim.momentum=3.0: must be in [0, 1)"),
        (("optim.nesterov=true,maybe",), "optim.nesterov='maybe': must be"),
        (("--at-once", "0"), "--at-once=0: must be a positive whole number"),
        (("--at-once", "2", "--shared"), "--at-once=2: must be 1 with --shared"),
        (("--search", "cmaes", "--objectives", "top1", "macs"), "cmaes: seeks one objective"),
    ],
)
def test_a_search_that_cannot_be_is_one_line(tmp_path, capsys, words, said):
    (tmp_path / "base.py").write_text(file_of(BASE))
    command = ["sweep", str(tmp_path / "base.py"), *RATE, *words]
    assert cli.main([*command, "--workdir", str(tmp_path / "out")]) == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_several_objectives_have_a_front(tmp_path, capsys, monkeypatch):
    traced, macs = [], study_module.macs
    monkeypatch.setattr(study_module, "macs", lambda folder: traced.append(folder) or macs(folder))
    (tmp_path / "base.py").write_text(file_of(BASE))
    words = ("optim.b1=0:0.9", "model.options.hidden=[2],[64]", "--trials", "6")
    command = ["sweep", str(tmp_path / "base.py"), *words, "--objectives", "top1", "macs"]
    assert cli.main([*command, "--workdir", str(tmp_path / "out")]) == 0
    found = json.loads((tmp_path / "out" / "sweep.json").read_text())
    points = {row["trial"]: (row["val_top1"], row["macs"]) for row in found["trials"]}
    assert len(traced) == len({*traced}) == len(points)
    assert {macs for _, macs in points.values()} <= {64 * 2 + 2 * 10, 64 * 64 + 64 * 10}
    beaten = {
        name
        for name, (top1, macs) in points.items()
        for top1_2, macs_2 in points.values()
        if top1_2 >= top1 and macs_2 <= macs and (top1_2, macs_2) != (top1, macs)
    }
    assert {*found["front"]} == {*points} - beaten
    assert "* no other trial is better in all objectives." in capsys.readouterr().out


@pytest.mark.slow
def test_the_file_may_say_what_is_swept(tmp_path, capsys):
    more = (
        "def sweep():\n"
        "    base = config()\n"
        "    for rate in (0.1, 0.5):\n"
        "        yield replace(base, optim=replace(base.optim, peak_lr=rate, momentum=0.5))\n"
    )
    (tmp_path / "base.py").write_text(file_of(BASE, more))
    command = ["sweep", str(tmp_path / "base.py"), "--workdir", str(tmp_path / "out")]
    assert cli.main(command) == 0
    rows = json.loads((tmp_path / "out" / "sweep.json").read_text())["trials"]
    assert sorted(row["values"]["optim.peak_lr"] for row in rows) == [0.1, 0.5]
    assert {row["values"]["optim.momentum"] for row in rows} == {0.5}
    # Options hold in all trials, but may not say otherwise than the sweep.
    longer = [*command[:-1], str(tmp_path / "longer"), "--train.epochs", "2"]
    assert cli.main(longer) == 0
    rows = json.loads((tmp_path / "longer" / "sweep.json").read_text())["trials"]
    assert {*rows[0]["values"]} == {"optim.peak_lr", "optim.momentum"}
    assert run_folder.read_config(tmp_path / "longer" / rows[0]["trial"]).train.epochs == 2
    assert cli.main([*command, "--optim.peak-lr", "0.3"]) == 2
    assert "optim.peak_lr: must be left out" in capsys.readouterr().err
    (tmp_path / "base.py").write_text(file_of(BASE, "def sweep(): return [3]\n"))
    capsys.readouterr()
    assert cli.main(command) == 2
    assert "sweep() must yield experiments, yielded int" in capsys.readouterr().err


@pytest.mark.slow
def test_four_processes_share_a_study_and_one_of_them_dies(tmp_path):
    (tmp_path / "base.py").write_text(file_of(replace(BASE, train=Train(epochs=9))))
    words = (*RATE, "optim.momentum=0.8,0.9", "--search", "tpe", "--trials", "16")
    command = (
        *(sys.executable, "-m", "jaxcnn.cli", "launch", "--workers", "4", "--", "sweep"),
        *("base.py", *words, "--pruner", "hyperband", "--workdir", "out"),
    )
    out = tmp_path / "out"
    with subprocess.Popen(command, cwd=tmp_path) as launcher:
        while len([*out.glob("*/metrics.jsonl")]) < 5:
            assert launcher.poll() is None
        subprocess.run(["pkill", "-9", "-n", "-P", str(launcher.pid)], check=True)
        assert launcher.wait(timeout=600) == 0
    found = json.loads((out / "sweep.json").read_text())["trials"]
    assert len(found) == 16
    assert all("test_top1" in row or "pruned" in row for row in found)
    epochs = [one.epoch for one in run_folder.evaluations(out / found[0]["trial"])]
    assert epochs == [*range(1, 10)]
    assert (out / "report.html").exists()
    faults = [standing.fault(path.parent) for path in out.glob("*/failed.json")]
    assert {fault.ended for fault in faults} <= {"pruned"}
