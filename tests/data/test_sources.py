import doctest
import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
import pytest

from jaxcnn import memory
from jaxcnn.commands import import_weights
from jaxcnn.config import Data
from jaxcnn.data import sources
from jaxcnn.errors import InputError


def test_digits_are_scikit_learns_scans_split_once():
    from sklearn.datasets import load_digits

    dataset = sources.load(Data("digits"))
    assert (len(dataset.train), len(dataset.test)) == (1437, 360)
    assert dataset.image_shape == (8, 8, 1)
    assert dataset.train.images.dtype == np.uint8
    together = np.concatenate([dataset.train.images, dataset.test.images])[..., 0]
    raw = np.round(load_digits().images * 255 / 16)
    # The same multiset of images: each scan is in exactly one split.
    assert sorted(map(bytes, together)) == sorted(map(bytes, raw.astype(np.uint8)))
    again = sources.load(Data("digits"))
    np.testing.assert_array_equal(again.test.labels, dataset.test.labels)


def test_train_limit_takes_the_first_examples():
    few = sources.load(Data("digits", train_limit=100))
    assert (len(few.train), len(few.test)) == (100, 360)


@pytest.mark.parametrize(
    ("data", "named"),
    [
        (Data("digits", batch_size=1438), "data.batch_size=1438: must be at most the 1437"),
        (Data("digits", train_limit=1438), "data.train_limit=1438"),
        (Data("nonesuch", dir="/nonexistent"), "data.name='nonesuch': unknown dataset"),
        (Data("cifar100", dir="/nonexistent"), "tfds build cifar100 --file_format=array_record"),
    ],
    ids=lambda v: v if isinstance(v, str) else "",
)
def test_bad_data_are_named_in_one_line(data, named):
    with pytest.raises(InputError) as error:
        sources.load(data)
    assert named in str(error.value)
    assert "\n" not in str(error.value)


def test_the_examples_of_the_documentation_hold():
    assert doctest.testmod(sources) == (0, 1)


@pytest.mark.parametrize(
    ("name", "fits"),
    [
        ("Käse 2\N{NO-BREAK SPACE}%", True),
        ("a\N{ZERO WIDTH JOINER}b", True),
        ("x" * 255, True),
        ("x" * 256, False),
        ("", False),
        (" \N{NO-BREAK SPACE}", False),
        ("a\x1b[2J", False),
        ("a\u2028b", False),
        ("\udcff", False),
    ],
)
def test_names_of_classes_follow_one_rule_wherever_they_come_from(tmp_path, name, fits):
    dataset = sources.load(Data("digits"))
    classes = tmp_path / "classes.txt"
    classes.write_bytes(b"one\n" + os.fsencode(name) + b"\n")
    changed = replace(dataset, classes=("one", name))
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sources.BUILT_IN, "digits", lambda _: changed)
        for read in (
            lambda: list(sources.load(Data("digits")).classes),
            lambda: import_weights._class_names(classes, 2),
        ):
            if fits:
                assert read() == ["one", name]
            else:
                with pytest.raises(InputError):
                    read()


@pytest.mark.parametrize(("backend", "copies"), [("cpu", 2), ("gpu", 1)])
def test_noise_is_refused_for_what_the_host_holds_of_it(monkeypatch, backend, copies):
    """The memory of another device is its own."""
    data = Data("synthetic", batch_size=2, examples=(2, 2), image_size=100, channels=1)
    needed = 4 * (8 + copies * 100 * 100)
    monkeypatch.setattr(jax, "default_backend", lambda: backend)
    monkeypatch.setattr(memory, "available", lambda: needed)
    assert len(sources.load(replace(data, num_classes=2)).train) == 2
    monkeypatch.setattr(memory, "available", lambda: needed - 1)
    with pytest.raises(InputError, match=r"^data\.examples=\(2, 2\): generated examples of"):
        sources.load(data)


PREPARED = Path(os.environ.get("TFDS_DATA_DIR") or "/dev/null/unset")


@pytest.mark.skipif(not PREPARED.is_dir(), reason="TFDS_DATA_DIR points at no prepared datasets")
@pytest.mark.parametrize(
    ("name", "shape", "train", "test"),
    [
        pytest.param("mnist", (28, 28, 1), 60000, 10000, marks=pytest.mark.slow),
        pytest.param("cifar10", (32, 32, 3), 50000, 10000, marks=pytest.mark.slow),  # PNG
    ],
)
def test_prepared_sets_are_whole(name, shape, train, test):
    # In a process of its own, without the checks of shapes: four times as fast.
    code = f"""
import json
import numpy as np
from jaxcnn.config import Data
from jaxcnn.data import sources
found = sources.load(Data({name!r}))
counts = np.bincount(found.test.labels).tolist()
print(json.dumps([found.image_shape, len(found.train), len(found.test), found.classes, counts]))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    *found, classes, counts = json.loads(done.stdout)
    assert found == [list(shape), train, test]
    assert len(classes) == len(counts) == 10
    # CIFAR-10 is balanced by construction; MNIST's test set has 980 zeros (LeCun et al. 1998).
    assert counts[0] == {"mnist": 980, "cifar10": 1000}[name]


@pytest.mark.skipif(not PREPARED.is_dir(), reason="TFDS_DATA_DIR points at no prepared datasets")
@pytest.mark.parametrize("fault", ["format", "truncated", "missing", "info"])
def test_a_damaged_set_is_named(tmp_path, fault):
    version = next((PREPARED / "mnist").iterdir())
    copy = tmp_path / "mnist" / version.name
    shutil.copytree(version, copy, copy_function=shutil.copyfile)
    copy.chmod(0o755)
    info, records = copy / "dataset_info.json", next(copy.glob("mnist-train*"))
    if fault == "format":
        info.write_text(info.read_text().replace("array_record", "tfrecord"))
    elif fault == "truncated":
        records.write_bytes(records.read_bytes()[:100_000])
    elif fault == "missing":
        records.unlink()
    else:
        info.write_text("{")
    with pytest.raises(InputError, match=r"mnist.* (is damaged or|was not|damaged)") as error:
        sources.load(Data("mnist", dir=str(tmp_path)))
    assert "\n" not in str(error.value)
