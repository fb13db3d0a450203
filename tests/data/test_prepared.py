"""Prepared TFDS datasets: read as data, whatever they name; their faults get one line."""

import io
import json
import os
import sys

import numpy as np
import pytest
from PIL import Image

from jaxcnn import cli
from jaxcnn.config import Data
from jaxcnn.data import prepared, sources
from jaxcnn.errors import InputError

FEATURE = "tensorflow_datasets.core.features"
IMAGE, LABEL = f"{FEATURE}.image_feature.Image", f"{FEATURE}.class_label_feature.ClassLabel"
SIZES = {"train": (20, 12), "test": (8, 0, 8)}
"""Examples in each file of a split."""


def png(label, size=(6, 5), mode="L"):
    stream = io.BytesIO()
    Image.new(mode, size, 60 * label + 20).save(stream, "PNG")
    return stream.getvalue()


def example(image, label):
    from tensorflow_datasets.proto import tf_example_pb2

    record = tf_example_pb2.Example()
    record.features.feature["image"].bytes_list.value.append(image)
    record.features.feature["label"].int64_list.value.append(label)
    return record.SerializeToString()


def write_records(path, records):
    from array_record.python import array_record_module

    writer = array_record_module.ArrayRecordWriter(str(path), "group_size:1")
    for record in records:
        writer.write(record)
    writer.close()


def prepare(root, name="tinyset", version="1.0.0"):
    """Writes a dataset of grey images of three classes, as TFDS prepares it."""
    folder = root / name / version
    folder.mkdir(parents=True)
    image = {"shape": {"dimensions": ["5", "6", "1"]}, "dtype": "uint8"}
    features = {
        "pythonClassName": f"{FEATURE}.features_dict.FeaturesDict",
        "featuresDict": {
            "features": {
                "id": {"pythonClassName": f"{FEATURE}.text_feature.Text", "text": {}},
                "image": {"pythonClassName": IMAGE, "image": image},
                "label": {"pythonClassName": LABEL, "classLabel": {"numClasses": "3"}},
            }
        },
    }
    splits = []
    for split, sizes in SIZES.items():
        for i, size in enumerate(sizes):
            if size:
                shard = f"{name.partition('/')[0]}-{split}.array_record-{i:05}-of-{len(sizes):05}"
                write_records(folder / shard, [example(png(k % 3), k % 3) for k in range(size)])
        splits.append({"name": split, "shardLengths": list(map(str, sizes)), "numBytes": "99"})
    info = {"name": name.partition("/")[0], "version": version, "fileFormat": "array_record"}
    info |= {"splits": splits, "configName": name.partition("/")[2]}
    (folder / "features.json").write_text(json.dumps(features))
    (folder / "dataset_info.json").write_text(json.dumps(info))
    return folder


def edit(path, *keys_and_value):
    """Changes a value in a JSON file, found by the keys before it."""
    *keys, last, value = keys_and_value
    whole = part = json.loads(path.read_text())
    for key in keys:
        part = part[key]
    part[last] = value
    path.write_text(json.dumps(whole))


def data(root, name="tinyset", **changes):
    return Data(name, **{"dir": str(root), "batch_size": 8} | changes)


@pytest.mark.parametrize("name", ["tinyset", "mnist", "emnist/letters"])
def test_a_prepared_set_is_read(tmp_path, name):
    folder = prepare(tmp_path, name)
    found = sources.load(data(tmp_path, name))
    assert found.classes == ("0", "1", "2")
    assert found.image_shape == (5, 6, 1)
    assert found.train.labels.tolist() == [*np.arange(20) % 3, *np.arange(12) % 3]
    assert (found.train.images[..., 0] == 60 * found.train.labels[:, None, None] + 20).all()
    assert len(found.test) == 16
    (folder / "label.labels.txt").write_text("cat\nKäse\n dog\n\n")
    assert sources.load(data(tmp_path, name)).classes == ("cat", "Käse", "dog")


def test_the_newest_version_counts(tmp_path):
    for version in ("1.9.0", "1.10.0", "1.2.0"):
        prepare(tmp_path, version=version)
    assert [v.name for v in prepared.versions(tmp_path / "tinyset")] == ["1.2.0", "1.9.0", "1.10.0"]
    assert "tinyset/1.10.0" in sources.load(data(tmp_path, streaming=True)).train.about


@pytest.mark.parametrize("labelled", [True, False])
def test_a_split_without_labels_is_not_held_out(tmp_path, labelled):
    """As ImageNet's, where the archive of test images was there when it was prepared."""
    folder = prepare(tmp_path)
    info = json.loads((folder / "dataset_info.json").read_text())
    info["splits"].append({"name": "validation", "shardLengths": ["3"]})
    (folder / "dataset_info.json").write_text(json.dumps(info))
    write_records(
        folder / "tinyset-validation.array_record-00000-of-00001", [example(png(1), 1)] * 3
    )
    if not labelled:
        for i in (0, 2):
            path = folder / f"tinyset-test.array_record-0000{i}-of-00003"
            write_records(path, [example(png(1), -1)] * 8)
    assert len(sources.load(data(tmp_path)).test) == (16 if labelled else 3)


# Names that TFDS would import, and the places in which it looks for them.


CANARY = "import pathlib\npathlib.Path(__file__).with_name('ran').touch()\nclass Image: pass\n"
PLACES = {
    "the dictionary": ("features.json", "pythonClassName"),
    "the image": ("features.json", "featuresDict", "features", "image", "pythonClassName"),
    "the label": ("features.json", "featuresDict", "features", "label", "pythonClassName"),
    "another feature": ("features.json", "featuresDict", "features", "id", "pythonClassName"),
    "the builder": ("dataset_info.json", "moduleName"),
    "the file format": ("dataset_info.json", "fileFormat"),
}
EXPERIMENT = """
from jaxcnn.config import Data, Experiment, Model, Train
def config():
    return Experiment("tiny", Data("tinyset", batch_size=8), model=Model("mlp", {"hidden": (4,)}),
                      train=Train(epochs=1))
"""
COMPARISON = (
    EXPERIMENT
    + """
import dataclasses
from jaxcnn.config import Comparison
experiment = config
def config():
    arms = (experiment(), dataclasses.replace(experiment(), name="other"))
    return Comparison(arms, seeds=1)
"""
)


@pytest.fixture
def canary(tmp_path, monkeypatch):
    """The file that a module makes when it is imported, which Python could find."""
    (tmp_path / "modules").mkdir()
    (tmp_path / "modules" / "evil_canary.py").write_text(CANARY)
    monkeypatch.syspath_prepend(tmp_path / "modules")
    monkeypatch.chdir(tmp_path / "modules")
    yield tmp_path / "modules" / "ran"
    sys.modules.pop("evil_canary", None)


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("name", ["tinyset", "mnist"])
def test_no_module_that_a_set_names_is_imported(tmp_path, canary, place, name):
    folder = prepare(tmp_path, name)
    file, *keys = PLACES[place]
    edit(folder / file, *keys, "evil_canary.Image")
    if place in ("another feature", "the builder"):  # nobody asks for these
        assert len(sources.load(data(tmp_path, name)).train) == 32
    else:
        with pytest.raises(InputError, match=r"is not image classification|array_record"):
            sources.load(data(tmp_path, name))
    assert not canary.exists()


@pytest.mark.parametrize(
    "name", ["huggingface:tinyset", "evil_canary:x", "../tinyset", "tinyset/..", "/tinyset", "a b"]
)
def test_a_name_is_no_path_and_no_namespace(tmp_path, canary, name):
    prepare(tmp_path / "inside")
    prepare(tmp_path)
    said = "was brought by a user" if ":" in name else "unknown dataset"
    with pytest.raises(InputError, match=said) as error:
        sources.load(data(tmp_path / "inside", name))
    assert "\n" not in str(error.value)
    assert not canary.exists()


@pytest.mark.parametrize("way", ["--data.dir", "TFDS_DATA_DIR"])
def test_no_command_imports_what_a_set_names(tmp_path, canary, way, monkeypatch, capsys):
    """Neither where the folder is given nor where a stranger's run folder names it."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    folder = prepare(tmp_path / "sets")
    (tmp_path / "experiment.py").write_text(EXPERIMENT)
    (tmp_path / "comparison.py").write_text(COMPARISON)
    run, train = tmp_path / "run", ["train", str(tmp_path / "experiment.py"), "--workdir"]
    if way == "TFDS_DATA_DIR":
        monkeypatch.setenv(way, str(tmp_path / "sets"))
        given = []
    else:
        given = [way, str(tmp_path / "sets")]
    assert cli.main([*train, str(run), *given]) == 0
    Image.open(io.BytesIO(png(1))).save(tmp_path / "image.png")
    edit(folder / "features.json", *PLACES["the image"][1:], "evil_canary.Image")
    (run / "predictions.npz").unlink(missing_ok=True)
    for code, command in (
        (2, [*train, str(tmp_path / "other"), *given]),
        (2, ["eval", str(run)]),
        (2, ["viz", str(run)]),
        (0, ["predict", str(run), str(tmp_path / "image.png")]),
    ):
        assert cli.main(command) == code, command
        said = capsys.readouterr().err
        assert code == 0 or ("not image classification" in said and said.count("\n") == 1)
    cli.main(["report", str(run), "--out", str(tmp_path / "page.html")])
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "sets"))
    compared = ["compare", str(tmp_path / "comparison.py"), "--workdir", str(tmp_path / "runs")]
    assert cli.main(compared) == 2
    assert "not image classification" in capsys.readouterr().err
    assert not canary.exists()


# Faults.


NESTED = "[" * 100_000 + "]" * 100_000
SHAPE = ("featuresDict", "features", "image", "image", "shape", "dimensions")
BROKEN = {
    "no JSON": ("features.json", "{"),
    "not UTF-8": ("features.json", b'{"pythonClassName": "\xff"}'),
    "nested": ("features.json", NESTED),
    "nested in a field": ("features.json", f'{{"pythonClassName": "x", "featuresDict": {NESTED}}}'),
    "nested in another field": ("dataset_info.json", f'{{"name": "x", "unknown": {NESTED}}}'),
    "NaN": ("dataset_info.json", '{"name": "x", "version": NaN}'),
    "a list": ("dataset_info.json", "[]"),
    "nothing": ("dataset_info.json", ""),
    "names that are not UTF-8": ("label.labels.txt", b"a\n\xff\nc\n"),
    "too few names": ("label.labels.txt", "a\nb\n"),
    "the same name twice": ("label.labels.txt", "a\nb\na\n"),
    "names without end": ("label.labels.txt", "a\n" * 200_000),
}
WRONG = {
    "shape of text": ("features.json", *SHAPE, ["a", 6, 1]),
    "negative shape": ("features.json", *SHAPE, [-5, 6, 1]),
    "huge shape": ("features.json", *SHAPE, [10**7, 10**7, 3]),
    "beyond 64 bits": ("features.json", *SHAPE, [10**40, 6, 1]),
    "no shape": ("features.json", *SHAPE, [0, 6, 1]),
    "two channels": ("features.json", *SHAPE, [5, 6, 2]),
    "channels unknown": ("features.json", *SHAPE, [5, 6, -1]),
    "one size": ("features.json", *SHAPE, [5]),
    "another shape": ("features.json", *SHAPE, [7, 6, 1]),
    "16 bits": ("features.json", *SHAPE[:4], "dtype", "uint16"),
    "no classes": ("features.json", *SHAPE[:2], "label", "classLabel", "numClasses", 0),
    "too few classes": ("features.json", *SHAPE[:2], "label", "classLabel", "numClasses", 2),
    "1e12 classes": ("features.json", *SHAPE[:2], "label", "classLabel", "numClasses", 10**12),
    "another format": ("dataset_info.json", "fileFormat", "tfrecord"),
    "format of a number": ("dataset_info.json", "fileFormat", 3),
    "a name with a slash": ("dataset_info.json", "name", "../tinyset"),
    "a version with a line break": ("dataset_info.json", "version", "1.0.0\n"),
    "no splits": ("dataset_info.json", "splits", []),
    "splits by name": ("dataset_info.json", "splits", {"train": 3}),
    "negative length": ("dataset_info.json", "splits", 0, "shardLengths", [-20, 12]),
    "another length": ("dataset_info.json", "splits", 0, "shardLengths", ["20", "13"]),
    "huge length": ("dataset_info.json", "splits", 0, "shardLengths", [20, 10**18]),
    "files elsewhere": ("dataset_info.json", "splits", 0, "filepathTemplate", "../{SPLIT}"),
    "files of no name": ("dataset_info.json", "splits", 0, "filepathTemplate", "{UNKNOWN}"),
}


def refused(root, **changes):
    with pytest.raises(InputError) as error:
        sources.load(data(root, **changes))
    line = str(error.value)
    assert line.startswith("data."), line
    assert "\n" not in line
    assert line.isprintable()
    return line


@pytest.mark.parametrize("fault", BROKEN)
def test_a_broken_file_is_named(tmp_path, fault):
    folder = prepare(tmp_path)
    name, content = BROKEN[fault]
    (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    assert name in refused(tmp_path)


@pytest.mark.parametrize("name", ["\x1b[31mc", "c\x7f", "c\u2028d", "c" * 256])
def test_a_class_whose_name_cannot_be_shown_is_named(tmp_path, name):
    (prepare(tmp_path) / "label.labels.txt").write_text(f"a\nb\n{name}\n")
    assert "the class" in refused(tmp_path)


@pytest.mark.parametrize("fault", WRONG)
@pytest.mark.parametrize("streaming", [False, True])
def test_a_wrong_value_is_refused_in_one_line(tmp_path, fault, streaming):
    folder = prepare(tmp_path)
    edit(folder / WRONG[fault][0], *WRONG[fault][1:])
    if streaming and fault in ("another shape", "too few classes"):
        with pytest.raises(InputError, match=r"record [0-2] is damaged"):
            sources.load(data(tmp_path, streaming=True)).train.read(np.arange(3))
    else:
        refused(tmp_path, streaming=streaming)


def shard(folder):
    return next(folder.glob("*-train.array_record-00000*"))


RECORDS = {
    "a pipe": lambda path: (path.unlink(), os.mkfifo(path)),
    "a folder": lambda path: (path.unlink(), path.mkdir()),
    "gone": lambda path: path.unlink(),
    "empty": lambda path: path.write_bytes(b""),
    "cut short": lambda path: path.write_bytes(path.read_bytes()[:70_000]),
    "zeros": lambda path: path.write_bytes(bytes(131072)),
    "no example": lambda path: write_records(path, [b"\xff\xff\xff"] * 20),
    "no image": lambda path: write_records(path, [example(b"<html>", 0)] * 20),
    "of another size": lambda path: write_records(path, [example(png(0, (9, 9)), 0)] * 20),
    "no fields": lambda path: write_records(path, [b""] * 20),
    "a label of another class": lambda path: write_records(path, [example(png(0), 3)] * 20),
    "a negative label": lambda path: write_records(path, [example(png(0), -1)] * 20),
    "fewer": lambda path: write_records(path, [example(png(0), 0)] * 19),
    "PostScript": lambda path: write_records(path, [example(b"%!PS-Adobe-3.0 EPSF-3.0\n", 0)] * 20),
}


@pytest.mark.parametrize("fault", RECORDS)
def test_damaged_records_are_named(tmp_path, fault):
    RECORDS[fault](shard(prepare(tmp_path)))
    assert "tinyset" in refused(tmp_path)


def test_images_of_different_sizes_are_brought_to_one(tmp_path):
    folder = prepare(tmp_path)
    edit(folder / "features.json", *SHAPE, ["-1", "-1", "3"])
    write_records(shard(folder), [example(png(k % 3, (9, 5 + k)), k % 3) for k in range(20)])
    assert "data.image_size" in refused(tmp_path)
    assert "data.image_size=100000" in refused(tmp_path, image_size=100_000, fit="resize")
    found = sources.load(data(tmp_path, image_size=4, fit="crop"))
    assert found.image_shape == (4, 4, 3)
    assert (found.train.images == 60 * found.train.labels[:, None, None, None] + 20).all()


def test_metadata_of_any_size_are_refused_before_they_are_read(tmp_path):
    folder = prepare(tmp_path)
    with (folder / "label.labels.txt").open("wb") as file:
        file.truncate(2**40)
    assert "1,099,511,627,776 bytes" in refused(tmp_path)
