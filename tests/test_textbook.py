"""The textbook: its counts, its headers, its parts, and a whole page of the smallest."""

import ast
import html
import importlib
import json
import re
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from scipy import ndimage

from experiments.textbook import __main__ as textbook
from experiments.textbook import (
    auxiliary_heads,
    counts,
    padding,
    recipe,
    sample_efficiency,
    translation,
)
from jaxcnn.commands.parsing import load_comparison
from jaxcnn.config import Comparison
from jaxcnn.data import sources
from jaxcnn.learning import run_folder as folder
from jaxcnn.runs import network, trained
from jaxcnn.runs.display import Listener
from tests.test_compare import browse, needs_browser

FOLDER = Path(__file__).parents[1] / "experiments" / "textbook"


@pytest.mark.parametrize("example", counts.EXAMPLES, ids=lambda example: example.what)
def test_the_worked_examples(example):
    assert ast.literal_eval(str(eval(example.by_hand, {}))) == example.expected
    assert example.counted() == example.expected


@pytest.mark.slow
def test_every_part_states_its_cost_and_builds(monkeypatch, tmp_path):
    (tmp_path / "fashion_mnist").mkdir()
    (tmp_path / "mnist").mkdir()
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    for name in textbook.PARTS:
        module = importlib.import_module(f"experiments.textbook.{name}")
        for term in ("Command:", "Hardware:", "Time:", "Result:"):
            assert term in module.__doc__, f"{name} does not state {term}"
        title, claim = textbook.title_and_claim(module)
        assert title
        assert len(claim) > 40
        if name in ("counts", "sample_efficiency"):
            continue
        for quick, side in ((True, 8), (False, 28)):
            comparison = module.config(quick)
            assert comparison.arms[0].data.name == (
                "digits"
                if quick
                else "mnist"
                if name in ("translation", "image_size")
                else "fashion_mnist"
            )
            for arm in comparison.arms:
                network.build(arm, ["x"] * 10, (side, side, 1))
    assert set(textbook.PARTS) == {
        path.stem for path in FOLDER.glob("*.py") if "def config" in path.read_text()
    } | {"counts"}


def test_a_comparison_of_it_is_a_comparison_file():
    assert isinstance(load_comparison(FOLDER / "stride.py"), Comparison)


@pytest.mark.slow
def test_the_ratio_of_gradients_is_that_of_the_loss():
    """With classifiers that count for nothing it would be 1; below all of them it is not."""
    ratios = auxiliary_heads.gradients(auxiliary_heads.config(quick=True).arms[1], seeds=1)
    assert list(ratios)[-1] == "conv13"
    np.testing.assert_allclose([ratios[f"conv{i}"] for i in range(10, 14)], 1, rtol=1e-5)
    assert all(abs(ratio - 1) > 1e-3 for i in range(1, 10) for ratio in ratios[f"conv{i}"])


def make_small(workdir: Path) -> Path:
    """Writes the page of four parts, made small, and returns it."""
    small = {"dense": "dense-8", "cnn": "conv3-2/2 max2 dense-4"}
    parts = ["counts", "translation", "sample_efficiency", "padding"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(translation, "NETWORKS", small)
        patch.setattr(sample_efficiency, "NETWORKS", small)
        patch.setattr(sample_efficiency, "DIGITS", {200: 1})
        patch.setattr(padding, "config", lambda quick: recipe.comparison(small, quick, epochs=1))
        return textbook.textbook(parts, workdir, Listener(), quick=True)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A small page, made twice: the second time from what the first has left."""
    workdir = tmp_path_factory.mktemp("textbook")
    page = make_small(workdir)
    before = page.read_text()
    times = {path: path.stat().st_mtime_ns for path in workdir.rglob("metrics.jsonl")}
    make_small(workdir)
    assert len(times) == 2 + 2 + 2
    assert {path: path.stat().st_mtime_ns for path in times} == times
    assert page.read_text() == before
    return workdir


@pytest.mark.slow
def test_the_page_holds_the_numbers_of_the_runs(made):
    values = json.loads((made / "textbook.json").read_text())
    page = (made / "report.html").read_text()
    data = re.search(r'<script type="application/json" id="data">(.*?)</script>', page)[1]
    assert json.loads(data) == values
    for path, top1 in (
        ("sample_efficiency/200/cnn", values["sample_efficiency"]["top1"]["cnn"][0][0]),
        ("padding/dense", values["padding"]["results"][0]["tested"][0]),
    ):
        last = folder.read_metrics(made / path / "seed0")[-1]
        assert last["test_top1"] == top1
        assert f"{100 * top1:.2f} %" in page
    assert page.count("<section>") == 4
    assert page.count("<strong>Measured:</strong>") == 4
    assert not re.search(r"""(src|href)=["'](?!data:)|url\(|@import|https?://""", page)


@pytest.mark.slow
@needs_browser
def test_a_browser_shows_the_page_on_a_telephone(made, tmp_path):
    page = tmp_path / "page.html"
    text = (made / "report.html").read_text()
    page.write_text(text)
    _, complaints = browse(page, "--dump-dom")
    assert not complaints
    frame = f'<iframe style="border:0;width:390px" srcdoc="{html.escape(text)}"></iframe>'
    probe = "onload = () => { document.title = frames[0].document.documentElement.scrollWidth }"
    page.write_text(f"<!DOCTYPE html><title></title>{frame}<script>{probe}</script>")
    dom, _ = browse(page, "--dump-dom")
    assert int(re.search(r"<title>(\d+)</title>", dom)[1]) <= 390


@pytest.mark.slow
def test_images_are_moved_in_four_directions(made):
    run = made / "translation" / "cnn" / "seed0"
    network = trained.restore(run)
    test = sources.load(network.experiment.data).test
    framed = np.pad(np.asarray(test.images) / 255.0, ((0, 0), (4, 4), (4, 4), (0, 0)))
    expected = []
    for distance in (0, 3):
        shares = []
        for y, x in ((distance, 0), (-distance, 0), (0, distance), (0, -distance)):
            moved = ndimage.shift(framed, (0, y, x, 0), order=0)
            logits = network.model.apply(network.variables, jnp.array((moved - 0.31) / 0.35))
            shares.append(np.mean(np.argmax(logits, axis=1) == test.labels))
        expected.append(np.mean(shares))
    found = translation.accuracies(run, test.images, test.labels, (0, 3))
    np.testing.assert_allclose(found, expected, atol=2 / len(test))
    kept = json.loads((made / "textbook.json").read_text())["translation"]["top1"]["cnn"][0]
    assert [kept[0], kept[3]] == found


@pytest.mark.slow
def test_a_folder_of_other_runs_is_refused(capsys, made):
    args = ["--workdir", str(made), "--quick", "--only", "translation"]
    assert textbook.main(args) == 2
    error = capsys.readouterr().err
    assert error.startswith("jaxcnn: error: ")
    assert "model.options.layers was 'dense-8', now 'dense-256 dense-128'" in error
