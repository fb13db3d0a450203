"""By which examples epochs and trials are chosen, and that every output says so."""

import json
from dataclasses import replace

import pytest

from jaxcnn import cli
from jaxcnn.analysis import arms, compare, plots, tables
from jaxcnn.config import Data, Experiment, Model, Optim, Schedule, Train, to_dict
from jaxcnn.data import sources
from jaxcnn.errors import InputError, Stopped
from jaxcnn.learning import run_folder
from jaxcnn.runs import aside, group, plan, together
from jaxcnn.runs.evaluation import evaluate
from jaxcnn.runs.start import Run
from jaxcnn.runs.trained import describe
from tests.test_sweep import Ear

BASE = Experiment(
    name="base",
    data=Data("digits", train_limit=300, batch_size=32, mean=(0.3,), std=(0.35,)),
    model=Model("mlp", {"hidden": (16,), "dropout": 0.1}),
    optim=Optim("sgd", peak_lr=0.05),
    schedule=Schedule("constant", warmup_epochs=0),
    train=Train(epochs=3, checkpoint_every=1),
)
HELD = replace(BASE, data=replace(BASE.data, validation=0.2))
DIGESTS = ("params_sha256", "state_sha256")


@pytest.fixture(autouse=True)
def _pictures_are_not_drawn(monkeypatch):
    for name in ("save_curves", "save_confusion", "save_sweep"):
        monkeypatch.setattr(plots, name, lambda *args: None)


def with_train(experiment, **changes):
    return replace(experiment, train=replace(experiment.train, **changes))


@pytest.fixture(scope="module")
def held(tmp_path_factory):
    folder = tmp_path_factory.mktemp("held") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plots, "save_curves", lambda *args: None)
        return folder, group.train_one(HELD, folder)


def file_of(experiment, tmp_path):
    path = tmp_path / "experiment.py"
    path.write_text(
        "from jaxcnn.config import *\n"
        f"def config():\n    return from_dict({to_dict(experiment)!r})\n"
    )
    return path


# ------------------------------------------------------------------ known truth


@pytest.mark.slow
def test_the_best_of_many_on_noise_is_biased_where_it_was_chosen_and_nowhere_else(capsys, tmp_path):
    """Labels that no image tells: the accuracy of every network is 50 %."""
    noise = Data(
        *("synthetic",),
        examples=(200, 4000),
        num_classes=2,
        image_size=4,
        channels=1,
        batch_size=50,
        eval_batch_size=4000,
        validation=100,
    )
    base = replace(BASE, data=noise, model=Model("mlp", {"hidden": (4,)}))
    file = file_of(with_train(base, epochs=1), tmp_path)
    grid = (f"train.seed={','.join(map(str, range(24)))}",)
    assert cli.main(["sweep", str(file), "--workdir", str(tmp_path / "a"), *grid]) == 0
    found = json.loads((tmp_path / "a" / "sweep.json").read_text())
    assert found["selected_on"] == "validation"
    best = found["trials"][0]
    # Standard deviations: 0.05 on 100 examples, and 0.008 on 4,000.
    assert best["val_top1"] == max(trial["val_top1"] for trial in found["trials"])
    assert best["val_top1"] > 0.56
    assert abs(best["test_top1"] - 0.5) < 4 * 0.008
    named = f"best: {best['trial']} (train.seed={best['values']['train.seed']}), "
    shown = f"validation top-1 {best['val_top1']:.2%}, test top-1 {best['test_top1']:.2%}"
    assert named + shown in capsys.readouterr().out


def test_the_best_epoch_on_noise_is_tested_on_other_examples(tmp_path):
    noise = Data("synthetic", examples=(200, 4000), num_classes=2, image_size=4, channels=1)
    data = replace(noise, batch_size=50, eval_batch_size=4000, validation=60)
    found = group.train_one(with_train(replace(BASE, data=data), epochs=25), tmp_path / "a")
    assert found["best_val_top1"] > 0.56
    assert abs(found["best_test_top1"] - 0.5) < 4 * 0.008
    assert abs(found["test_top1"] - 0.5) < 4 * 0.008


# ------------------------------------------------------------------------- one run


def test_the_test_set_is_read_once_at_the_end(monkeypatch, tmp_path):
    seen = []
    compiled = group._compiled

    def noted(program, state, split):
        run = compiled(program, state, split)
        return lambda state: (seen.append((split, int(state.step))), run(state))[1]

    monkeypatch.setattr(group, "_compiled", noted)
    summary = group.train_one(HELD, tmp_path / "a")
    steps = [7, 14, 21]
    assert [step for split, step in seen if split == "validation"] == steps
    tested = [step for split, step in seen if split == "test"]
    assert tested[0] == 21
    assert {*tested} == {21, steps[summary["best_epoch"] - 1]}
    assert [split for split, _ in seen[3:]] == ["test"] * len(tested)


def test_records_are_of_the_validation_set_and_the_summary_of_both(held):
    folder, summary = held
    records = run_folder.read_metrics(folder)
    assert len(records) == 3
    for record in records:
        assert {"val_loss", "val_top1", "val_top5"} <= record.keys()
        assert not {"test_loss", "test_top1", "test_top5"} & record.keys()
    assert summary["selected_on"] == "validation"
    assert summary["best_val_top1"] == max(record["val_top1"] for record in records)
    about = json.loads((folder / "dataset.json").read_text())
    sizes = [about[f"{split}_examples"] for split in ("train", "validation", "test")]
    assert sizes == [240, 60, 360]
    assert arms.read(folder).summary.value("test_top1") == summary["test_top1"]


def test_each_split_can_be_evaluated(held, capsys):
    folder, summary = held
    assert evaluate(folder)["test_loss"] == summary["test_loss"]
    assert evaluate(folder, "best")["test_top1"] == summary["best_test_top1"]
    own = evaluate(folder, split="validation")
    assert (own["val_loss"], own["val_examples"]) == (summary["val_loss"], 60)
    assert "test_loss" not in own
    assert cli.main(["eval", str(folder), "--split", "validation", "--checkpoint", "best"]) == 0
    said = capsys.readouterr().out
    assert f"validation top-1 {summary['best_val_top1']:.2%}" in said
    assert "on 60 images, chosen on it: an optimistic estimate" in said
    assert cli.main(["eval", str(folder), "--checkpoint", "best"]) == 0
    assert "optimistic" not in capsys.readouterr().out


def test_a_run_without_a_validation_set_has_none_to_evaluate(tmp_path, capsys):
    summary = group.train_one(BASE, tmp_path / "a")
    assert summary["selected_on"] == "test"
    assert "best_val_top1" not in summary
    assert cli.main(["eval", str(tmp_path / "a"), "--split", "validation"]) == 2
    assert "held out no examples for validation" in capsys.readouterr().err
    assert cli.main(["eval", str(tmp_path / "a"), "--checkpoint", "best"]) == 0
    assert "chosen on it: an optimistic estimate" in capsys.readouterr().out


def test_a_stopped_run_ends_with_the_same_bits_and_figures(held, tmp_path):
    _, whole = held
    with pytest.raises(Stopped):
        group.train_one(HELD, tmp_path / "a", Ear(stop_at=1))
    resumed = group.train_one(HELD, tmp_path / "a")
    same = (*DIGESTS, "val_loss", "test_loss", "best_val_top1", "best_test_top1", "best_epoch")
    assert [resumed[name] for name in same] == [whole[name] for name in same]


def test_a_best_checkpoint_that_is_gone_costs_its_figure_alone(tmp_path):
    class Thief(Ear):
        def record(self, record):
            super().record(record)
            if self.records == 3:
                for path in (tmp_path / "a" / "checkpoints" / "best").glob("*/manifest.sha256"):
                    path.write_text("")

    ear = Thief()
    still = replace(HELD, optim=Optim("sgd", peak_lr=1e-12))  # the first epoch stays the best
    summary = group.train_one(still, tmp_path / "a", ear)
    assert summary["best_epoch"] == 1
    assert "best_test_top1" not in summary
    assert any("summary.json has no best_test_top1" in line for line in ear.said)


def test_other_examples_held_out_are_other_data(held):
    """Also where the config is the same, as where the rule that splits has changed."""
    folder, _ = held
    data = sources.load(HELD.data)
    other = sources.load(replace(HELD.data, seed=1))
    assert sorted(data.train.labels) == sorted(other.train.labels)
    with pytest.raises(InputError, match=r"dataset\.json: sha256 was"):
        run_folder.check_same(folder, to_dict(HELD), describe(HELD.data, other))
    more = replace(HELD, data=replace(HELD.data, validation=0.3))
    with pytest.raises(InputError, match=r"data\.validation was 0\.2, now 0\.3"):
        group.train_one(more, folder)


@pytest.mark.slow
def test_streamed_validation_gives_the_figures_of_memory(tmp_path):
    data = replace(HELD.data, streaming=True, workers=0)
    summary = group.train_one(replace(HELD, data=data), tmp_path / "a")
    assert summary["selected_on"] == "validation"
    found = evaluate(tmp_path / "a", split="validation")
    assert found["val_loss"] == pytest.approx(summary["val_loss"], abs=1e-6)


def test_seeds_in_one_program_hold_out_the_same_examples(held, tmp_path):
    _, alone = held
    runs = plan.seeds(HELD, tmp_path, 2)
    modes = together.Modes(tmp_path / "together.json")
    outcome = group.train(runs, modes=modes, grouping="all")
    first, second = (outcome.results[run.folder] for run in runs)
    same = (*DIGESTS, "val_loss", "test_loss", "best_val_top1", "best_test_top1")
    assert [first[name] for name in same] == [alone[name] for name in same]
    about = [json.loads((run.folder / "dataset.json").read_text()) for run in runs]
    assert about[0] == about[1]
    assert first["params_sha256"] != second["params_sha256"]
    found = plan.write_seeds("base", outcome, tmp_path)
    assert found["selected_on"] == "validation"
    assert found["val_top1"]["values"] == [first["val_top1"], second["val_top1"]]


@pytest.mark.parametrize(
    ("args", "named"),
    [
        (("--data.validation", "300"), "data.validation=300: must leave some of the 300 examples"),
        (("--data.validation", "0.001"), "data.validation=0.001: must leave every class examples"),
        (("--data.validation", "1e9"), "data.validation=1000000000.0: must be a positive whole"),
        (("--data.validation", "test"), "data.validation='test': must be a share in (0, 1), a num"),
        (("--data.validation", "270"), "data.batch_size=32: must be at most the 30 training exam"),
        (("--data.test-share", "0.1"), "data.test_share=0.1: must be None without data.name='fol"),
        (("--data.validation", "9", "--train.select-on", "test"), "train.select_on='test': must"),
    ],
)
def test_what_cannot_be_held_out_costs_one_line_and_no_folder(tmp_path, capsys, args, named):
    file, workdir = file_of(BASE, tmp_path), tmp_path / "a"
    assert cli.main(["train", str(file), "--workdir", str(workdir), *args]) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert named in err
    assert not workdir.exists()


# ------------------------------------------------------------------------ patience


def trained(experiment, folder):
    ear = Ear()
    return group.train_one(experiment, folder, ear), ear.said


def test_patience_takes_a_tenth_aside_and_says_so(tmp_path, capsys):
    patient = with_train(BASE, patience=2)
    summary, said = trained(patient, tmp_path / "a")
    assert summary["selected_on"] == "validation"
    line = "train.patience chooses by a tenth of the training examples (data.validation=0.1)"
    assert said.count(line) == 1
    assert run_folder.read_config(tmp_path / "a").data.validation == 0.1
    assert trained(patient, tmp_path / "a")[0] == summary  # finished, as it says
    _, said = trained(with_train(HELD, patience=2), tmp_path / "b")
    assert not any("train.patience" in line for line in said)
    on_test = with_train(patient, select_on="test")
    summary, said = trained(on_test, tmp_path / "c")
    assert summary["selected_on"] == "test"
    assert not any("a tenth" in line for line in said)
    plain, _ = trained(BASE, tmp_path / "d")
    assert plain["params_sha256"] == summary["params_sha256"]
    file = file_of(on_test, tmp_path)
    assert cli.main(["train", str(file), "--workdir", str(tmp_path / "c")]) == 0
    assert "patience: chosen on the test set: an optimistic estimate" in capsys.readouterr().out


def test_a_run_that_began_without_goes_on_as_it_began(tmp_path):
    """Both where patience is new and in a folder from before there was a validation set."""
    patient = with_train(BASE, patience=2)
    with pytest.raises(Stopped):
        group.train_one(BASE, tmp_path / "a", Ear(stop_at=1))
    config = json.loads((tmp_path / "a" / "config.json").read_text())
    del config["data"]["validation"], config["data"]["test_share"], config["train"]["select_on"]
    config["train"]["patience"] = 2
    (tmp_path / "a" / "config.json").write_text(json.dumps(config))
    summary, said = trained(patient, tmp_path / "a")
    assert summary["selected_on"] == "test"
    began = "a began without data.validation: chosen on the test set: an optimistic estimate"
    assert any(line.endswith(began) for line in said)
    assert summary["params_sha256"] == group.train_one(BASE, tmp_path / "b")["params_sha256"]
    assert run_folder.read_config(tmp_path / "a").train.select_on == "test"
    assert trained(patient, tmp_path / "a")[0] == summary


def test_runs_of_one_call_are_trained_on_the_same_examples(tmp_path):
    one, other = BASE, with_train(replace(BASE, name="patient"), patience=2)
    runs = [Run(one, tmp_path / "a"), Run(other, tmp_path / "b")]
    assert [run.experiment.data.validation for run in aside.put_aside(runs)] == [0.1, 0.1]
    assert aside.put_aside(runs[:1]) == runs[:1]
    fixed = replace(runs[0], experiment=with_train(one, select_on="test"))
    assert aside.put_aside([fixed, runs[1]])[0] == fixed


# --------------------------------------------------------------- sweeps and tables


def sweep(file, workdir, capsys, *args):
    code = cli.main(["sweep", str(file), "--workdir", str(workdir), *args])
    return code, capsys.readouterr()


def test_a_sweep_says_by_what_it_chooses(tmp_path, capsys):
    file, grid = file_of(with_train(BASE, epochs=1), tmp_path), ("optim.peak_lr=0.1,0.01",)
    code, said = sweep(file, tmp_path / "a", capsys, *grid)
    assert code == 0
    line = "sweep chooses by a tenth of the training examples (data.validation=0.1)"
    assert said.out.count(line) == 1
    assert "validation top-1" in said.out
    assert "chosen on the validation set" in said.out
    assert "optimistic" not in said.out
    rows = json.loads((tmp_path / "a" / "sweep.json").read_text())["trials"]
    assert rows[0]["val_top1"] >= rows[1]["val_top1"]
    code, said = sweep(file, tmp_path / "b", capsys, *grid, "--select-on", "test")
    assert code == 0
    assert "chosen on the test set: an optimistic estimate" in said.out
    assert "validation" not in said.out
    found = json.loads((tmp_path / "b" / "sweep.json").read_text())
    assert found["selected_on"] == "test"
    folder = tmp_path / "b" / found["trials"][0]["trial"]
    assert run_folder.read_config(folder).train.select_on == "test"
    # Begun on the test set, it goes on there, with a new trial too.
    code, said = sweep(file, tmp_path / "b", capsys, "optim.peak_lr=0.1,0.01,0.02")
    assert code == 0
    assert "began without data.validation: chosen on the test set" in said.out
    assert said.out.count("is finished") == 2


@pytest.mark.parametrize(
    ("args", "named"),
    [
        (("data.validation=0.2,None", "--select-on", "test"), "train.select_on='test'"),
        (("train.select_on=auto,test",), "data.validation: must be set in all trials"),
        (("data.validation=0.2,2.0",), "data.validation=2.0: must be a positive whole"),
        (("optim.b1=0.5", "--select-on", "train"), "must be one of 'auto', 'test'"),
    ],
)
def test_sweeps_that_cannot_choose_are_refused_in_one_line(tmp_path, capsys, args, named):
    code, said = sweep(file_of(BASE, tmp_path), tmp_path / "out", capsys, *args)
    assert code == 2
    assert said.err.count("\n") == 1
    assert named in said.err


def test_tables_and_pages_say_which_was_which(held, tmp_path, capsys):
    folder, _ = held
    on_test = with_train(replace(BASE, name="patient"), patience=2, select_on="test")
    group.train_one(on_test, tmp_path / "a")
    read = arms.group([arms.read(folder), arms.read(tmp_path / "a")])
    found = compare.compare(read, {})
    assert found.chosen_by == "test"
    assert [result.chosen_on_test for result in found.results] == [False, True]
    assert "validation top-1" in tables.headers(found)
    assert [len(row) for row in tables.cells(found)] == [len(tables.headers(found))] * 2
    said = tables.explanation(found)
    assert "The test set of base was read once, at the end" in said
    assert "Test top-1 of patient was chosen on the test set: an optimistic estimate" in said
    alone = compare.compare(read[:1], {})
    assert (alone.chosen_by, alone.best.name) == ("validation", "base")
    page = tmp_path / "page.html"
    assert cli.main(["report", str(folder), "--out", str(page)]) == 0
    text = page.read_text()
    reached = tables.cells(alone)[0]
    assert f"<td>validation top-1</td><td>{reached[1]}</td>" in text
    assert f"<td>test top-1</td><td>{reached[2]}</td>" in text
    assert "The test set was read once, at the end; the validation set chose before" in text
    assert "Validation error, %" in text
    assert "Test error, %" not in text
    assert "none was chosen by its test result" in text
    assert cli.main(["report", str(tmp_path / "a"), "--out", str(page)]) == 0
    assert "none was chosen by its test result" not in page.read_text()
    plain = compare.compare(arms.group([arms.read(tmp_path / "a")]), {})
    assert "validation top-1" not in tables.headers(plain)


def test_the_best_arm_is_the_best_on_the_validation_set(held):
    folder, _ = held
    (arm,) = arms.group([arms.read(folder)])
    one = compare.compare([arm], {}).results[0]
    low = replace(one, name="low", validated=(0.1,), reached=one.reached._replace(mean=1.0))
    both = replace(compare.compare([arm], {}), results=(low, one))
    assert both.best is one
    assert tables.best(both).startswith("best: base, ")
    assert tables.best(both).endswith("; chosen on the validation set")
    by_test = replace(both, results=(replace(low, validated=()), one))
    assert by_test.chosen_by == "test"
    assert tables.best(by_test).startswith("best: low, ")
    assert tables.best(by_test).endswith("; chosen on the test set")
