"""The temperature of a run from its fit to its use, and what commands say of calibration."""

import dataclasses
import errno
import io
import json
import os
import shutil

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from sklearn.metrics import brier_score_loss, log_loss

import jaxcnn
from jaxcnn import cli
from jaxcnn.analysis import arms, calibration, compare, plots, statistics, tables
from jaxcnn.data import sources
from jaxcnn.learning import files, run_folder
from jaxcnn.learning.state import sha256
from jaxcnn.runs import calibrating, evaluation, trained

EXPERIMENT = """
from jaxcnn.config import *

def config():
    return Experiment(
        name="mlp", data=Data("digits", batch_size=64, train_limit=400, validation=0.25),
        model=Model("mlp", {"hidden": (16,)}), optim=Optim("sgd", peak_lr=0.1),
        train=Train(epochs=4),
    )
"""


def call(capsys, *args):
    code = cli.main([str(arg) for arg in args])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """A run with a temperature, one of another seed without, one with no validation."""
    folder = tmp_path_factory.mktemp("calibration")
    (folder / "mlp.py").write_text(EXPERIMENT)
    for name, *options in (
        ("run",),
        ("other", "--train.seed", "1"),
        ("wide", "--model.options.hidden", "(64,)"),
        ("bare", "--data.validation", "None", "--train.epochs", "1"),
        ("numbers", "--task.name", "regression", "--train.epochs", "1"),
    ):
        args = ("train", str(folder / "mlp.py"), "--workdir", str(folder / name), *options)
        assert cli.main(args) == 0
    assert cli.main(["eval", str(folder / "run"), "--fit-temperature"]) == 0
    return folder


@pytest.fixture
def run(root, tmp_path):
    return shutil.copytree(root / "run", tmp_path / "run")


def test_the_temperature_is_that_of_the_validation_set_and_is_kept(root):
    """Against the logits of single images, which another way gives."""
    kept = json.loads((root / "run" / "temperature.json").read_text())
    network = trained.restore(root / "run")
    dataset = network.dataset()
    held = dataset.held_out["validation"]
    assert kept["examples"] == len(held) == 100
    assert kept["checkpoint"] == "latest"
    assert kept["variables_sha256"] == sha256(network.variables)
    images, labels = held.read(np.arange(100))["image"], held.read(np.arange(100))["label"]
    prepared = network.prepare(jnp.asarray(images))
    logits = network.model.apply(network.variables, prepared, train=False)
    found = calibration.fit_temperature(np.asarray(logits), labels)
    assert kept["temperature"] == pytest.approx(found.temperature, rel=1e-4)
    assert kept["nll_after"] < kept["nll_before"]
    summary = run_folder.read_summary(root / "run")
    assert kept["nll_before"] == pytest.approx(summary.val_loss, rel=1e-4)
    # With that temperature, the loss on these examples is what the fit says.
    after = evaluation.evaluate_trained(network.calibrated(), split="validation")
    assert after["val_loss"] == pytest.approx(kept["nll_after"], rel=1e-4)
    assert after["val_top1"] == summary.value("val_top1")


def test_eval_shows_figures_with_and_without_it(capsys, run):
    code, out, err = call(capsys, "eval", run)
    assert (code, err) == (0, "")
    whole, at = out.splitlines()
    loss = evaluation.evaluate_trained(trained.restore(run).calibrated())["test_loss"]
    temperature = json.loads((run / "temperature.json").read_text())["temperature"]
    assert f"at temperature {temperature:.3f}: test loss {loss:.4f}" == at
    assert f"loss {run_folder.read_summary(run).test_loss:.4f}" in whole
    (run / "temperature.json").unlink()
    assert call(capsys, "eval", run)[1] == f"{whole}\n"


def test_predictions_are_at_the_temperature_only_where_that_is_asked(capsys, run, tmp_path):
    pixels = sources.load(trained.restore(run).experiment.data).test.read(np.arange(3))["image"]
    pictures = [tmp_path / f"{i}.png" for i in range(3)]
    for file, image in zip(pictures, pixels, strict=True):
        Image.fromarray(image[..., 0]).save(file)
    said = {
        flag: json.loads(call(capsys, "predict", run, *pictures, "--top-k", 10, "--json", *flag)[1])
        for flag in ((), ("--calibrated",))
    }
    temperature = json.loads((run / "temperature.json").read_text())["temperature"]
    assert abs(temperature - 1) > 0.01
    asked = jaxcnn.open(run, calibrated=True).predict(pictures)
    for plain, bent, row in zip(*said.values(), asked, strict=True):
        p = {one["class"]: one["probability"] for one in plain["classes"]}
        # softmax(z / T) is p ** (1 / T), brought to a sum of 1.
        expected = {name: value ** (1 / temperature) for name, value in p.items()}
        total = sum(expected.values())
        for one in bent["classes"]:
            assert one["probability"] == pytest.approx(expected[one["class"]] / total, rel=1e-3)
            assert row[int(one["class"])] == pytest.approx(one["probability"], rel=1e-5)
        assert [c["class"] for c in plain["classes"]] == [c["class"] for c in bent["classes"]]
    plain = jaxcnn.open(run)
    assert plain.predict(pictures)[0].max() == pytest.approx(
        said[()][0]["classes"][0]["probability"]
    )
    losses = [one.evaluate()["test_loss"] for one in (plain, jaxcnn.open(run, calibrated=True))]
    assert losses[0] == pytest.approx(run_folder.read_summary(run).test_loss, rel=1e-5)
    assert losses[1] != losses[0]


def test_the_table_says_what_is_known_and_the_picture_is_drawn(capsys, run, monkeypatch):
    monkeypatch.setattr(statistics, "RESAMPLES", 100)
    code, out, err = call(capsys, "eval", run, "--calibration", "--split", "validation")
    assert (code, err) == (0, "")
    network = trained.restore(run)
    for way in (network, network.calibrated()):
        kept = evaluation.predict(way, way.dataset(), "validation")
        for metric, figure in calibration.FIGURES.items():
            shown = metric.shown(figure(kept)) if metric.is_share else f"{figure(kept):.4f}"
            assert shown.rstrip("%") in out, metric.title
    assert "as trained" in out
    assert "95 % intervals" in out
    assert (run / "calibration_validation.png").read_bytes()[:4] == b"\x89PNG"
    assert not (run / "calibration.png").exists()
    again = call(capsys, "eval", run, "--calibration", "--split", "validation")[1]
    assert again == out  # the draws are seeded
    assert max(map(len, out.splitlines()[2:-1])) <= 80


STALE = "was fitted to other parameters"
REFUSED = (
    (("eval", "bare", "--fit-temperature"), "train with --data.validation 0.1"),
    (("eval", "bare", "--calibration", "--split", "validation"), "held out no examples"),
    (("eval", "numbers", "--calibration"), "is of task.name='regression'"),
    (("eval", "numbers", "--fit-temperature"), "is of task.name='regression'"),
    (("eval", "run", "--calibration", "--tta", "flip"), "--calibration: must be left out with"),
    (("predict", "other", "image.png", "--calibrated"), "temperature.json: no such file"),
    (("predict", "stale", "image.png", "--calibrated"), STALE),
    (("predict", "damaged", "image.png", "--calibrated"), "temperature=0.0: must be a number in"),
    (("eval", "damaged", "--calibration"), "temperature=0.0: must be a number in"),
    (("eval", "linked", "--fit-temperature"), "temperature.json: cannot be written (is a link"),
)


@pytest.fixture(scope="module")
def spoilt(root):
    for name in ("stale", "damaged", "linked"):
        shutil.copytree(root / "other", root / name)
    shutil.copy(root / "run" / "temperature.json", root / "stale")
    shutil.copy(root / "run" / "temperature.json", root / "target.json")
    (root / "linked" / "temperature.json").symlink_to(root / "target.json")
    kept = json.loads((root / "run" / "temperature.json").read_text())
    text = json.dumps({**kept, "temperature": 0.0})
    (root / "damaged" / "temperature.json").write_text(text)
    Image.new("L", (8, 8)).save(root / "image.png")
    return root


@pytest.mark.parametrize(("args", "named"), REFUSED)
def test_what_cannot_be_is_said_in_one_line(args, named, capsys, spoilt, monkeypatch):
    monkeypatch.chdir(spoilt)
    code, _, err = call(capsys, *args)
    assert code == 2
    assert err.count("\n") == 1
    assert named in err


def test_a_folder_that_cannot_be_written_is_named_before_the_network_is_run(
    capsys, run, monkeypatch
):
    def refuse(path):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(files, "try_parent", refuse)
    for name in ("logits", "evaluate_trained"):
        monkeypatch.setattr(evaluation, name, None)
    code, out, err = call(capsys, "eval", run, "--fit-temperature")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert "temperature.json: cannot be written (Read-only file system)" in err


def test_a_foreign_temperature_is_named_and_fitted_anew(capsys, spoilt):
    code, out, err = call(capsys, "eval", spoilt / "stale")
    assert (code, out.count("\n"), err.count("\n")) == (0, 1, 1)
    assert STALE in err
    # Nor does a damaged one stop what does not ask for it.
    code, damaged, err = call(capsys, "eval", spoilt / "damaged")
    assert (code, damaged.count("\n"), err.count("\n")) == (0, 1, 1)
    assert "temperature=0.0: must be a number in" in err
    for name in ("stale", "damaged"):
        code, out, err = call(capsys, "eval", spoilt / name, "--fit-temperature")
        assert (code, err) == (0, "")
        assert "fitted to 100 images for validation" in out
        assert trained.restore(spoilt / name).calibrated().temperature


def test_what_a_temperature_was_fitted_to_is_no_fair_test_of_it(capsys, run, monkeypatch):
    monkeypatch.setattr(statistics, "RESAMPLES", 50)
    for split in ("test", "validation"):
        fitted = split == "validation"
        for options in ((), ("--calibration",)):
            code, out, _ = call(capsys, "eval", run, "--split", split, *options)
            assert code == 0
            (line,) = (line for line in out.splitlines() if line.startswith("at temperature"))
            assert line.endswith(", fitted to it: an optimistic estimate") == fitted
            said = " ".join(out.split())
            assert (tables.FITTED in said) == (fitted and bool(options))
        assert jaxcnn.open(run, calibrated=True).evaluate(split)["optimistic"] == fitted
        assert not jaxcnn.open(run).evaluate(split)["optimistic"]


def test_the_network_is_run_once_for_all_temperatures(run, monkeypatch):
    network = trained.restore(run).calibrated()
    asked, plain = [], evaluation._over
    monkeypatch.setattr(evaluation, "_over", lambda *args: asked.append(1) or plain(*args))
    both = calibrating.answers(network)
    assert len(asked) == 1
    for way, temperature in zip(both, (None, network.temperature), strict=True):
        alone = evaluation.predict(
            dataclasses.replace(network, temperature=temperature), network.dataset()
        )
        assert both[way].keys() == alone.keys()
        for name, array in alone.items():
            assert both[way][name] == pytest.approx(array, rel=1e-5, abs=1e-7), name


def test_a_temperature_has_rows_of_its_own_in_a_comparison(root, tmp_path):
    said = []
    assert calibrating.at_temperature(root / "bare", said.append) == {} == dict.fromkeys(said)
    shutil.copytree(root / "other", tmp_path / "other")
    for text in ((root / "run" / "temperature.json").read_text(), "{}"):
        (tmp_path / "other" / "temperature.json").write_text(text)
        assert calibrating.at_temperature(tmp_path / "other", said.append) == {}
    assert [STALE in line for line in said] == [True, False]
    comparison, _ = compared(root / "run", root / "wide", say=said.append)
    first, second = comparison.results
    network = trained.restore(root / "run").calibrated()
    kept = evaluation.predict(network, network.dataset())
    for metric in (calibration.NLL, calibration.BRIER, calibration.ECE):
        found = first.measures[f"tempered_{metric.name}"]
        assert found.values == pytest.approx((calibration.FIGURES[metric](kept),), rel=1e-5)
        assert found.values != first.measures[metric.name].values
        assert found.reached.low < found.reached.mean < found.reached.high
        assert f"tempered_{metric.name}" not in second.measures  # to which none was fitted
    rows = {row[0]: row for row in tables.block(comparison, "calibration")[1]}
    assert {"NLL at T", "ECE (mass)", "AURC"} <= rows.keys()
    text = tables.explained(comparison, "calibration")
    assert "not for several measures. ECE is not compared" in text
    assert "At T: at the temperature that was fitted to each run's validation set" in text


def compared(*folders, say=None):
    found = arms.group([arms.read(folder) for folder in folders])
    held = {folder: evaluation.predict_test_set(folder) for folder in folders}
    if say is not None:
        held = {
            path: {**kept, **calibrating.at_temperature(path, say)} for path, kept in held.items()
        }
    return compare.compare(found, held), held


def test_a_comparison_holds_the_figures_of_scikit_learn(root):
    comparison, _held = compared(root / "run", root / "other")
    (result,) = compare.to_json(comparison)["results"]
    assert [m["name"] for m in compare.to_json(comparison)["measures"]] == [
        *("nll", "brier", "ece", "ece_mass", "aurc")
    ]
    for seed, folder in enumerate(("run", "other")):
        network = trained.restore(root / folder)
        test = network.dataset().test
        stored = test.read(np.arange(len(test)))
        p = trained.asked(network, stored["image"])[0].astype(np.float64)
        p /= p.sum(axis=1, keepdims=True)
        expected = {
            "nll": log_loss(stored["label"], p, labels=range(10)),
            "brier": sum(brier_score_loss(stored["label"] == k, p[:, k]) for k in range(10)),
            **{
                name: calibration.reliability(
                    p.max(1), p.argmax(1) == stored["label"], mass=mass
                ).error
                for name, mass in (("ece", False), ("ece_mass", True))
            },
            "aurc": calibration.risks(p.max(1), p.argmax(1) == stored["label"]).mean(),
        }
        for name, value in expected.items():
            assert result["measures"][name]["values"][seed] == pytest.approx(value, rel=1e-4)
        assert expected["nll"] == pytest.approx(
            run_folder.read_summary(root / folder).test_loss, rel=1e-4
        )
    reached = result["measures"]["nll"]["reached"]
    assert reached["low"] < min(result["measures"]["nll"]["values"]) < reached["high"]


def test_single_runs_are_compared_over_test_images(root):
    comparison, _held = compared(root / "run", root / "wide")
    first, second = comparison.results
    for name, found in second.measures.items():
        assert found.reached.low < found.reached.mean < found.reached.high
        if name.startswith("ece"):  # chance makes it larger of a network that is less sure
            assert (found.difference, found.test) == (None, "none")
            continue
        if name == "aurc":  # which is no sum of the images' parts
            assert (np.isnan(found.difference.low), found.test) == (True, "none")
            continue
        assert found.test == "randomization"
        assert 0 < found.p_adjusted <= 1
        assert found.difference.low <= found.difference.mean <= found.difference.high
        gap = found.values[0] - first.measures[name].values[0]
        assert found.difference.mean == pytest.approx(gap)
    said = tables.explained(comparison, "calibration")
    assert said.startswith("Lower is better. Of a single run the interval is over test images: the")
    assert "the paired randomization test over test images" in said


@pytest.mark.parametrize("width", [80, 120])
def test_the_table_is_legible_on_a_narrow_terminal(root, width):
    from rich.console import Console

    comparison, _ = compared(root / "run", root / "wide")
    console = Console(width=width, record=True, file=io.StringIO())
    console.print(tables.render_block(comparison, "calibration", width))
    text = console.export_text()
    assert max(map(len, text.splitlines())) <= width
    for row in tables.block(comparison, "calibration")[1]:
        assert all(part in text for cell in row for part in cell.split(" ["))


def test_without_predictions_nothing_is_said_of_calibration(root):
    found = arms.group([arms.read(root / "run")])
    comparison = compare.compare(found, {})
    assert tables.blocks(comparison) == []
    assert compare.to_json(comparison)["results"][0]["measures"] == {}
    some = compare.compare(
        arms.group([arms.read(root / name) for name in ("run", "wide")]),
        {root / "wide": evaluation.predict_test_set(root / "wide")},
    )
    rows = tables.block(some, "calibration")[1]
    assert rows[0] == ["NLL", "mlp (run)", "–", "", ""]
    assert rows[1][2:] == [rows[1][2], "–", "–"]


def test_a_page_on_one_run_has_a_section_of_it(capsys, root, tmp_path):
    code, _, _ = call(capsys, "report", root / "run", "--out", tmp_path / "page.html")
    assert code == 0
    page = (tmp_path / "page.html").read_text()
    section = page.split("<h2>Calibration</h2>")[1].split("</section>")[0]
    assert section.count("<svg") == 2
    for word in ("NLL", "Brier score", "ECE", "Reliability: mlp", "Accuracy against coverage"):
        assert word in section
    code, _, _ = call(capsys, "report", root / "numbers", "--out", tmp_path / "page.html")
    assert "<h2>Calibration</h2>" not in (tmp_path / "page.html").read_text()


def test_a_reliability_diagram_has_the_colour_of_its_arm():
    kept = {
        "probability": np.array([0.6, 0.9]),
        "predicted": np.array([1, 1]),
        "label": np.array([1, 0]),
    }
    found = calibration.reliability(*calibration.confident(kept))
    for i in (0, 3):
        chart = plots.reliability(found, "label", i)
        assert f"var(--c{i})" in chart
        assert f"var(--c{i + 1})" not in chart
        assert "#" not in chart.replace("&#", "")


def test_only_what_is_named_is_asked_of_a_fit(root):
    """A run whose answers are all right has no temperature; it is said with its folder."""
    network = trained.restore(root / "run")
    dataset = network.dataset()
    z, labels = evaluation.logits(network, dataset, "validation")
    with pytest.MonkeyPatch.context() as patch:
        sure = np.where(np.arange(10) == labels[:, None], 10, z.clip(max=9))
        patch.setattr(evaluation, "logits", lambda *args: (sure, labels))
        with pytest.raises(jaxcnn.InputError, match=r"run: temperature: cannot be fitted"):
            calibrating.fit_temperature(dataclasses.replace(network, temperature=None))
