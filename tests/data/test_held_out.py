"""Which examples are held out: a fair share of every class, by labels and seed alone."""

import random
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from jaxcnn.config import Data
from jaxcnn.data import sources
from jaxcnn.data.held_out import hold_out
from jaxcnn.errors import InputError
from jaxcnn.runs.trained import describe
from tests.data.test_prepared import SIZES, example, png, prepare, write_records

CLASSES = tuple("abcdefg")


def split(labels, amount, seed=0):
    return hold_out(np.array(labels), amount, seed, "data.validation", CLASSES)


@pytest.mark.parametrize("amount", [0.05, 0.1, 1 / 3, 0.9, 70, 333, 900])
@pytest.mark.parametrize("seed", [0, 1])
def test_every_class_gives_its_share(amount, seed):
    """Counted again with dictionaries and fractions."""
    labels = random.Random(3).choices(range(len(CLASSES)), weights=(1, 2, 2, 3, 5, 8, 9), k=1000)
    kept, held = split(labels, amount, seed)
    assert sorted([*kept, *held]) == list(range(1000))  # all of them, none twice
    assert kept.tolist() == sorted(kept)
    assert held.tolist() == sorted(held)
    share = amount if amount < 1 else amount / 1000
    assert len(held) == round(1000 * share)
    out = Counter(labels[i] for i in held)
    for label, count in Counter(labels).items():
        assert abs(out[label] - share * count) < 1


def test_the_seed_chooses_within_the_classes():
    labels = np.arange(700) % 7
    first, again, other = (split(labels, 0.2, seed)[1] for seed in (0, 0, 1))
    assert first.tolist() == again.tolist()
    shared = len({*first} & {*other})
    assert 10 <= shared <= 50  # of 140: 28 by chance
    # Neither the first nor the last of a class, nor at regular distances.
    places = np.sort(first[labels[first] == 0] // 7)
    assert 30 < places.mean() < 70
    assert len({*np.diff(places)}) > 3


def test_all_examples_of_a_class_are_as_likely():
    counts = np.zeros(20)
    for seed in range(400):
        counts[split([0, 1] * 10, 0.2, seed)[1]] += 1
    assert counts.sum() == 400 * 4
    assert (abs(counts - 80) < 5 * 8).all()  # five standard deviations


@pytest.mark.parametrize(
    ("labels", "amount", "named"),
    [
        ([0, 1] * 5, 10, "data.validation=10: must leave some of the 10 examples to learn from"),
        ([0, 1] * 5, 0.99, "data.validation=0.99: must leave some of the 10 examples"),
        ([0, 1] * 5, 0.01, "of the 5 of class a it holds out 0"),
        ([0, 1] * 5, 1, "it holds out 0"),
        ([0] * 99 + [1], 0.3, "of the 1 of class b it holds out 0"),
        ([0] * 99 + [1], 0.9, "of the 1 of class b it holds out 1"),
    ],
)
def test_no_class_is_left_without_examples(labels, amount, named):
    with pytest.raises(InputError) as error:
        split(labels, amount)
    assert named in str(error.value)
    assert "\n" not in str(error.value)


def test_a_class_without_examples_needs_none():
    kept, held = split([0, 2, 0, 2], 0.5)
    assert (len(kept), len(held)) == (2, 2)


# -------------------------------------------------------------------- of datasets


def rows(source):
    """What a split holds, as it is read."""
    found = source.read(np.arange(len(source)))
    return [
        (image.tobytes(), label)
        for image, label in zip(found["image"], found["label"], strict=True)
    ]


@pytest.mark.parametrize("name", ["digits", "shapes", "synthetic"])
def test_nothing_is_lost_and_nothing_is_in_both(name):
    data = Data(name, examples=(300, 50), train_limit=200, image_size=8)
    whole = sources.load(data)
    assert whole.validation is None
    found = sources.load(replace(data, validation=0.25))
    assert (len(found.train), len(found.validation)) == (150, 50)
    assert sorted(rows(found.train) + rows(found.validation)) == sorted(rows(whole.train))
    assert rows(found.test) == rows(whole.test)
    streamed = sources.load(replace(data, validation=50, streaming=True))
    assert rows(streamed.validation) == rows(found.validation)
    other = sources.load(replace(data, validation=50, seed=1))
    if name == "digits":  # of the others, the images depend on the seed too
        assert rows(other.validation) != rows(found.validation)


def digest(data):
    return describe(data, sources.load(data))["sha256"]


@pytest.mark.parametrize("streaming", [False, True])
def test_the_digest_tells_which_are_held_out(tmp_path, streaming):
    prepare(tmp_path)
    small = {"dir": str(tmp_path), "batch_size": 2, "streaming": streaming}
    for data in (Data("digits", streaming=streaming), Data("tinyset", **small)):
        changes = ({}, {"validation": 0.25}, {"validation": 0.5}, {"validation": 0.25, "seed": 1})
        found = [digest(replace(data, **change)) for change in changes]
        assert len({*found}) == len(changes)


def test_a_prepared_set_is_split_alike_in_memory_and_streamed(tmp_path):
    prepare(tmp_path)
    data = Data("tinyset", dir=str(tmp_path), batch_size=2, train_limit=20)
    whole = sources.load(data)
    for streaming in (False, True):
        found = sources.load(replace(data, validation=6, streaming=streaming))
        assert sorted(rows(found.train) + rows(found.validation)) == sorted(rows(whole.train))
        assert np.bincount(found.validation.read_labels()).tolist() == [2, 2, 2]
        if streaming:
            _, held = split(whole.train.labels, 6)
            assert found.validation.chosen.tolist() == held.tolist()


def test_a_split_of_a_prepared_set_is_held_out_by_its_name(tmp_path, monkeypatch):
    monkeypatch.setitem(SIZES, "validation", (7,))
    shards = prepare(tmp_path)
    data = Data("tinyset", dir=str(tmp_path), batch_size=2, validation="validation")
    for streaming in (False, True):
        found = sources.load(replace(data, streaming=streaming))
        sizes = [len(part) for part in (found.train, found.validation, found.test)]
        assert sizes == [32, 7, 16]
    with pytest.raises(InputError, match=r"nor tested on, of tinyset: validation$"):
        sources.load(replace(data, validation="test"))
    path = shards / "tinyset-validation.array_record-00000-of-00001"
    path.unlink()
    write_records(path, [example(png(0), -1)] * 7)
    with pytest.raises(InputError, match=r"data\.validation='validation': must be a split with l"):
        sources.load(data)


@pytest.mark.parametrize(
    ("validation", "named"),
    [
        ("validation", "data.validation='validation': must be a share in (0, 1), a number, or the"),
        ("test", "neither trained nor tested on, of tinyset: it has none"),
        ("train", "of tinyset: it has none"),
        (32, "data.validation=32: must leave some of the 32 examples"),
        (31, "data.validation=31: must leave every class examples on both sides"),
        (8, "data.batch_size=64: must be at most the 24 training examples of tinyset, without tho"),
    ],
)
def test_what_a_prepared_set_cannot_hold_out_is_named(tmp_path, validation, named):
    prepare(tmp_path)
    with pytest.raises(InputError) as error:
        sources.load(Data("tinyset", dir=str(tmp_path), validation=validation))
    assert named in str(error.value)
    assert "\n" not in str(error.value)


@pytest.fixture
def photos(tmp_path):
    """A folder of two classes, of 10 and 20 images that all differ, made in no order."""
    made = [(name, i) for name, n in (("cat", 10), ("dog", 20)) for i in range(n)]
    random.Random(1).shuffle(made)
    for name, i in made:
        (tmp_path / name).mkdir(exist_ok=True)
        Image.new("RGB", (9, 8), (i, 10, 20 + len(name))).save(tmp_path / name / f"{i}.png")
    return tmp_path


def folder(root, **changes):
    return Data("folder", dir=str(root), image_size=8, fit="resize", batch_size=2, **changes)


def test_a_single_folder_of_classes_is_split(photos):
    found = sources.load(folder(photos))
    assert found.classes == ("cat", "dog")
    assert np.bincount(found.train.labels).tolist() == [8, 16]
    assert np.bincount(found.test.labels).tolist() == [2, 4]
    assert len({*rows(found.train), *rows(found.test)}) == 30
    assert found.note == (
        f"{photos} has no train and test: of its images, 24 train and 6 test "
        "(data.test_share=0.2, data.seed=0)"
    )
    half = sources.load(folder(photos, test_share=0.5, validation=0.2, streaming=True))
    sizes = [len(half.train), len(half.validation), len(half.test)]
    assert sizes == [12, 3, 15]
    assert len({*rows(half.train), *rows(half.validation), *rows(half.test)}) == 30
    assert rows(sources.load(folder(photos, seed=1)).test) != rows(found.test)


def test_a_folder_beside_train_can_be_held_out(photos):
    for split_ in ("train", "test", "tuning"):
        (photos / split_).mkdir()
        (photos / split_ / "cat").symlink_to(photos / "cat")
        (photos / split_ / "dog").symlink_to(photos / "dog")
    found = sources.load(folder(photos, validation="tuning"))
    assert len(found.validation) == 30
    assert found.note == ""


@pytest.mark.parametrize(
    ("named_splits", "changes", "named"),
    [
        (False, {"test_share": 0.01}, "data.test_share=0.01: must leave every class examples on"),
        (False, {"validation": "cat"}, "data.validation='cat': must be a share in (0, 1), a numb"),
        (False, {"validation": 24}, "data.validation=24: must leave some of the 24 examples"),
        (True, {"test_share": 0.3}, "data.test_share=0.3: must be None with the folders train and"),
        (True, {"validation": "test"}, "data.validation='test': must be a share"),
        (True, {"validation": "../test"}, "data.validation='../test': must be a share"),
    ],
)
def test_what_a_folder_cannot_hold_out_is_named(photos, named_splits, changes, named):
    if named_splits:
        for name in ("train", "test"):
            (photos / name).mkdir()
            (photos / name / "cat").symlink_to(photos / "cat")
    with pytest.raises(InputError) as error:
        sources.load(folder(photos, **changes))
    assert named in str(error.value)
    assert "\n" not in str(error.value)
