"""Streamed data of which a pixel has changed are refused; run folders from before still go on."""

import json
import os
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from jaxcnn.config import Data, Experiment, Model, Train
from jaxcnn.errors import InputError
from jaxcnn.runs import evaluation, group, trained


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run on streamed BMP files, with its folder and that of the files."""
    root = tmp_path_factory.mktemp("data")
    for split in ("train", "test"):
        for name, shade in (("dark", 40), ("light", 200)):
            (root / split / name).mkdir(parents=True)
            for i in range(4):
                Image.new("L", (4, 4), shade + i).save(root / split / name / f"{i}.bmp")
    data = Data(
        "folder", str(root), batch_size=4, image_size=4, fit="resize", channels=1, streaming=True
    )
    experiment = Experiment(
        "tiny", data, model=Model("mlp", {"hidden": (4,)}), train=Train(epochs=1)
    )
    folder = tmp_path_factory.mktemp("runs") / "tiny"
    group.train_one(experiment, folder)
    return experiment, folder, root


def more(experiment, folder):
    group.train_one(replace(experiment, train=replace(experiment.train, epochs=2)), folder)


@pytest.fixture(params=["train", "test"])
def inverted(request, run):
    """The split of which the pixels of one file are inverted; neither size nor time tells it."""
    path = run[2] / request.param / "dark" / "1.bmp"
    held, status = path.read_bytes(), path.stat()
    pixels = 255 - np.frombuffer(held[-16:], np.uint8)
    path.write_bytes(held[:-16] + pixels.tobytes())
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    yield request.param
    path.write_bytes(held)


def test_a_changed_pixel_is_refused(run, inverted):
    experiment, folder, _ = run
    with pytest.raises(InputError, match=r"dataset\.json: files_sha256 was"):
        more(experiment, folder)
    if inverted == "test":
        with pytest.raises(InputError, match=r"not the data .* \(dataset\.json: test_files_sha256"):
            evaluation.evaluate(folder)
    else:  # an evaluation does not look at them
        assert evaluation.evaluate(folder)["test_examples"] == 8


def test_classes_of_other_names_are_refused(run):
    _, folder, root = run
    for split in ("train", "test"):
        (root / split / "light").rename(root / split / "other")
    try:
        with pytest.raises(InputError, match=r"not the data .* \(dataset\.json: classes"):
            evaluation.evaluate(folder)
    finally:
        for split in ("train", "test"):
            (root / split / "other").rename(root / split / "light")


def test_the_same_files_elsewhere_are_the_same_data(run, tmp_path):
    experiment, folder, root = run
    (tmp_path / "moved").symlink_to(root)
    data = replace(experiment.data, dir=str(tmp_path / "moved"))
    assert len(trained.read_dataset(folder, data).test) == 8


def test_a_folder_from_before_files_had_digests_goes_on(run):
    experiment, folder, _ = run
    path = folder / "dataset.json"
    about = json.loads(path.read_text())
    assert len(about["files_sha256"]) == len(about.pop("test_files_sha256")) == 64
    path.write_text(json.dumps({k: v for k, v in about.items() if k != "files_sha256"}))
    assert evaluation.evaluate(folder)["test_examples"] == 8
    more(experiment, folder)
    assert len(json.loads(path.read_text())["files_sha256"]) == 64
