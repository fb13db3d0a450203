"""Runs with oneDNN: resumed bit for bit, and with what they were begun with."""

import json
from dataclasses import replace

import pytest

from jaxcnn.config import Model, Schedule, Train
from jaxcnn.ops.native import library
from jaxcnn.runs import display, group
from jaxcnn.runs.start import Run
from tests.test_run import DIGESTS, SMALL

# Wide enough for each convolution to be worth a call of oneDNN.
OPTIONS = {"widths": (4, 8), "hidden": 16, "batch_norm": True, "dropout": 0.2}
RUN = replace(
    SMALL,
    model=Model("convnet", OPTIONS),
    schedule=Schedule("constant"),
    train=Train(epochs=2, seed=0),
)
HALF = replace(RUN, train=Train(epochs=1, seed=0))


class Ear(display.Listener):
    def __init__(self):
        super().__init__()
        self.heard = []

    def message(self, text):
        self.heard.append(text)


def digests(summary):
    return {name: summary[name] for name in DIGESTS}


def versions(folder):
    return json.loads((folder / "env.json").read_text())["versions"]


@pytest.mark.slow
def test_a_resumed_run_ends_with_the_same_bits(onednn, tmp_path):
    whole = group.train_one(RUN, tmp_path / "whole")
    assert versions(tmp_path / "whole")["onednn"] == library.version()
    group.train_one(HALF, tmp_path / "halves")
    onednn()  # as another process, which has nothing compiled
    ear = Ear()
    assert digests(group.train_one(RUN, tmp_path / "halves", ear)) == digests(whole)
    assert not any("oneDNN" in text or "environment" in text for text in ear.heard)


@pytest.mark.slow
def test_a_run_begun_without_it_goes_on_without_it(onednn, monkeypatch, tmp_path):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JAXCNN_NATIVE", "0")
        onednn()
        whole = group.train_one(RUN, tmp_path / "whole")
        group.train_one(HALF, tmp_path / "halves")
    onednn()
    with_it = group.train_one(RUN, tmp_path / "with")
    assert digests(with_it) != digests(whole)
    ear = Ear()
    assert digests(group.train_one(RUN, tmp_path / "halves", ear)) == digests(whole)
    assert "onednn" not in versions(tmp_path / "halves")
    assert [text for text in ear.heard if "oneDNN" in text] == [
        f"{tmp_path / 'halves'}: goes on without oneDNN, as it was trained so far"
    ]


@pytest.mark.slow
def test_a_run_begun_with_it_says_that_it_is_gone(onednn, monkeypatch, tmp_path):
    group.train_one(HALF, tmp_path)
    monkeypatch.setenv("JAXCNN_NATIVE", "0")
    onednn()
    ear = Ear()
    group.train_one(RUN, tmp_path, ear)
    (line,) = [text for text in ear.heard if "environment" in text]
    assert "versions.onednn was '3." in line
    assert "now None" in line


@pytest.mark.slow
def test_each_run_of_many_goes_on_as_it_was_begun(onednn, monkeypatch, tmp_path):
    runs = [Run(replace(RUN, train=replace(RUN.train, seed=n)), tmp_path / f"{n}") for n in (0, 1)]
    halves = [Run(replace(HALF, train=replace(HALF.train, seed=n)), runs[n].folder) for n in (0, 1)]
    group.train(halves[:1])
    monkeypatch.setenv("JAXCNN_NATIVE", "0")
    onednn()
    group.train(halves[1:])
    monkeypatch.delenv("JAXCNN_NATIVE")
    onednn()
    group.train(runs)
    assert ["onednn" in versions(run.folder) for run in runs] == [True, False]
