"""Labels of every form: classes, several numbers for each image, maps; from arrays and sources."""

import re

import jax.numpy as jnp
import numpy as np
import pytest

from jaxcnn import api
from jaxcnn.config import Data
from jaxcnn.data import held_out, labels, own, shapes, sources
from jaxcnn.data.feed import open_stream
from jaxcnn.errors import InputError

N, H, W = 8, 6, 4
PIXELS = np.random.default_rng(0).integers(0, 256, (N, H, W, 3), np.uint8)
CLASSES = np.arange(N) % 3
MAPS = np.random.default_rng(1).integers(0, 4, (N, H, W))
SEVERAL = np.random.default_rng(2).integers(0, 2, (N, 5))

FORMS = {  # what is given; what is stored, its type, and the names
    "classes": (CLASSES, CLASSES, np.int32, ("0", "1", "2")),
    "truths": (CLASSES > 0, CLASSES > 0, np.int32, ("0", "1")),
    "whole floats": (CLASSES * 1.0, CLASSES, np.int32, ("0", "1", "2")),
    "a list": (CLASSES.tolist(), CLASSES, np.int32, ("0", "1", "2")),
    "a number": (CLASSES + 0.5, CLASSES + 0.5, np.float32, ("value",)),
    "a whole number below 0": (CLASSES - 5.0, CLASSES - 5.0, np.float32, ("value",)),
    "a large whole number": (CLASSES + 1e6, CLASSES + 1e6, np.float32, ("value",)),
    "several truths": (SEVERAL > 0, SEVERAL, np.int32, tuple("01234")),
    "several whole numbers": (SEVERAL - 7, SEVERAL - 7, np.int32, tuple("01234")),
    "several numbers": (SEVERAL / 3, SEVERAL / 3, np.float32, tuple("01234")),
    "one of several": (SEVERAL[:, :1] / 3, SEVERAL[:, :1] / 3, np.float32, ("0",)),
    "maps": (MAPS, MAPS, np.int32, tuple("0123")),
    "maps of bytes": (MAPS.astype(np.uint8), MAPS, np.int32, tuple("0123")),
    "maps of truths": (MAPS > 1, MAPS > 1, np.int32, ("0", "1")),
    "maps with holes": (np.where(MAPS == 3, -1, MAPS), None, np.int32, tuple("012")),
    "maps with holes in bytes": (np.where(MAPS == 3, 255, MAPS), None, np.int32, tuple("012")),
    "maps of numbers": (MAPS / 3, MAPS / 3, np.float32, ("value",)),
}


@pytest.mark.parametrize("form", FORMS)
def test_arrays_keep_labels_of_every_form(form):
    given, stored, kind, names = FORMS[form]
    found = own.from_arrays((PIXELS, given), (PIXELS[:4], given[:4]))
    wanted = np.asarray(given if stored is None else stored, kind)
    assert found.train.labels.dtype == kind
    np.testing.assert_array_equal(found.train.labels, wanted)
    np.testing.assert_array_equal(found.test.labels, wanted[:4])
    assert found.classes == names
    given_names = [f"name {i}" for i in range(len(names))]
    assert own.from_arrays((PIXELS, given), (PIXELS, given), given_names).classes == tuple(
        given_names
    )


@pytest.mark.parametrize("form", [name for name in FORMS if name != "a list"])
def test_files_of_numpy_keep_labels_of_every_form(form, tmp_path):
    given, stored, kind, names = FORMS[form]
    np.savez(tmp_path / "a.npz", x_train=PIXELS, y_train=given, x_test=PIXELS, y_test=given)
    found = sources.load(Data("npz:a.npz", dir=str(tmp_path), batch_size=4))
    wanted = np.asarray(given if stored is None else stored, kind)
    if form == "one of several":  # a column is one number, as MedMNIST has labels
        wanted, names = wanted[:, 0], ("value",)
    np.testing.assert_array_equal(found.test.labels, wanted)
    assert found.train.labels.dtype == kind
    assert found.classes == names


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("named", [False, True])
@pytest.mark.parametrize("form", FORMS)
def test_sources_keep_labels_of_every_form(form, named, streaming):
    given, stored, kind, names = FORMS[form]
    if form == "whole floats":  # what is seen of the first is a floating-point number
        stored, kind, names = given, np.float32, ("value",)
    items = [(PIXELS[i], given[i]) for i in range(N)]

    def load(data):
        return own.from_source(items, items[:4], data, names if named else None)

    found = sources.load(Data(load, batch_size=4, streaming=streaming))
    batch = found.train.read(np.arange(N))
    assert batch["ok"].all()
    assert batch["label"].dtype == kind
    np.testing.assert_array_equal(
        batch["label"], np.asarray(given if stored is None else stored, kind)
    )
    assert found.classes == names


WRONG = [
    (CLASSES[:3], r"must be of shape \(8,\), one for each image, are of shape \(3,\)"),
    (SEVERAL[:3], r"must be of shape \(8, 5\), one for each image, are of shape \(3, 5\)"),
    (SEVERAL[:, :0], r"must be of shape \(8, 1\), one for each image, are of shape \(8, 0\)"),
    (MAPS[:, :3], r"must be of shape \(8, 6, 4\), one for each image, are of shape \(8, 3, 4\)"),
    (MAPS.transpose(0, 2, 1), r"must be of shape \(8, 6, 4\), .* are of shape \(8, 4, 6\)"),
    (MAPS[..., None], r"must be of shape \(8, 6, 4\), .* are of shape \(8, 6, 4, 1\)"),
    (3, r"must be of shape \(8,\), one for each image, are of shape \(\)"),
    ([[1], [1, 2]], "must be an array .*inhomogeneous"),
    (CLASSES + np.nan, "must be finite numbers, hold nan"),
    (SEVERAL - np.inf, "must be finite numbers, hold -inf"),
    (MAPS * 1e300 + 1e300, r"must be finite numbers, hold \d*.?\d*e\+300"),
    (MAPS - 2, r"must be whole numbers in \[-1, 1,000,000\), hold -2"),
    (MAPS + 10**6, r"must be whole numbers in \[-1, 1,000,000\), hold 100000"),
    (SEVERAL + 2**40, r"must be whole numbers in \[-2,147,483,648, .*\), hold 10995116277"),
    (SEVERAL.astype(str), "must be whole numbers in .* hold '[01]'"),
    (SEVERAL * 1j, "must be whole numbers in .* hold "),
    (np.array([None] * N), "must be whole numbers in .* hold None"),
]


@pytest.mark.parametrize(("given", "said"), WRONG)
def test_labels_that_are_none_are_said_in_one_line(given, said):
    with pytest.raises(InputError, match=f"^train labels: {said}") as error:
        own.from_arrays((PIXELS, given), (PIXELS, CLASSES))
    assert "\n" not in str(error.value)


WRONG_ITEMS = [
    ([np.nan], "its label must be finite, is nan"),
    ([-1], "its label must be a whole number >= 0, is -1"),
    (["a"], "its label must be a whole number >= 0, is 'a'"),
    ([MAPS[0, :3]], "its label must be 6x4 as its image, is 3x4"),
    ([MAPS[0] - 2], r"its label must be whole numbers in \[-1, 1,000,000\), is "),
    ([MAPS[0, ..., None]], r"its label must be numbers \(k,\) or \(h, w\), is "),
    ([SEVERAL[0, :0]], r"its label must be numbers \(k,\) or \(h, w\), is "),
]


@pytest.mark.parametrize(("given", "said"), WRONG_ITEMS)
def test_labels_of_a_source_that_are_none_are_said_in_one_line(given, said):
    items = [(PIXELS[0], label) for label in given]
    with pytest.raises(InputError, match=f"train example 0: {said}") as error:
        own.from_source(items, items, Data())
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("first", "other", "said"),
    [
        (1, 0.5, "is float32 of shape .., must be int32 of shape .. as that of the first"),
        (1, SEVERAL[0], r"is int32 of shape \(5,\), must be int32 of shape \(\)"),
        (SEVERAL[0], SEVERAL[0, :2], r"is int32 of shape \(2,\), must be int32 of shape \(5,\)"),
        (MAPS[0] % 2, MAPS[0] * 0 + 2, "is 2, must be below 2, the classes"),
    ],
)
def test_an_example_whose_label_has_another_form_cannot_be_read(first, other, said):
    items = [(PIXELS[0], first), (PIXELS[0], other)]
    names = None if np.shape(first) == (5,) else ("a", "b")
    train = own.from_source(items, items[:1], Data(), names).train
    assert train.read(np.arange(2))["ok"].tolist() == [True, False]
    assert re.search(said, train.fault(1))


def test_whole_numbers_join_others():
    found = own.from_arrays((PIXELS, CLASSES), (PIXELS, CLASSES + 0.5))
    assert found.train.labels.dtype == found.test.labels.dtype == np.float32
    assert found.classes == ("value",)
    items = [(PIXELS[0], 0.5), (PIXELS[0], 1)]
    batch = own.from_source(items, items, Data()).train.read(np.arange(2))
    assert batch["label"].tolist() == [0.5, 1.0]


NAMES = [
    (CLASSES, ("a", "b"), "must name 3 classes, for labels up to 2"),
    (MAPS, ("a", "b", "c"), "must name 4 classes, for labels up to 3"),
    (SEVERAL, ("a", "b"), "must name 5, as many as a label has numbers"),
    (SEVERAL, tuple("abcdef"), "must name 5, as many as a label has numbers"),
    (CLASSES + 0.5, ("a", "b"), "must name 1, as many as a label has numbers"),
]


@pytest.mark.parametrize(("given", "names", "said"), NAMES)
def test_names_are_as_many_as_labels_need(given, names, said):
    with pytest.raises(InputError, match=said):
        own.from_arrays((PIXELS, given), (PIXELS, given), names)
    if given.ndim == 1 and given.dtype == CLASSES.dtype:
        return  # a source that names its classes is not read for them
    if given.ndim != 3:
        items = list(zip(PIXELS, given, strict=True))
        with pytest.raises(InputError, match=said):
            own.from_source(items, items, Data(), names)


def test_splits_have_labels_of_one_form(tmp_path):
    said = r"test labels: must be \(n, 5\) as the train labels, are \(n,\)"
    with pytest.raises(InputError, match=f"^{said}"):
        own.from_arrays((PIXELS, SEVERAL), (PIXELS, CLASSES))
    np.savez(tmp_path / "a.npz", x_train=PIXELS, y_train=SEVERAL, x_test=PIXELS, y_test=CLASSES)
    with pytest.raises(InputError, match=f"^data.name='npz:a.npz': {said}"):
        sources.load(Data("npz:a.npz", dir=str(tmp_path), batch_size=1))


@pytest.mark.parametrize(
    ("given", "fits"),
    [(MAPS, False), (np.where(MAPS > 1, 255, MAPS), True), (MAPS / 9, True), (SEVERAL * 9, True)],
)
def test_classes_alone_must_be_below_their_number(given, fits):
    split = sources.Split(PIXELS, labels.stored(given, PIXELS, "train"))
    config = Data(lambda: sources.Dataset(split, split, ("a", "b")), batch_size=1)
    if fits:
        sources.load(config)
        return
    with pytest.raises(InputError, match=r"train labels must be below 2, .* hold 3"):
        sources.load(config)


@pytest.mark.parametrize("form", ["several truths", "a number", "maps", "maps of numbers"])
def test_a_share_is_held_out_of_labels_of_every_form(form, tmp_path):
    given = FORMS[form][0]
    several = api._dataset((PIXELS, given), None, None, Data(seed=3))
    assert (len(several.train), len(several.test)) == (6, 2)
    np.savez(tmp_path / "a.npz", x_train=PIXELS, y_train=given)
    found = sources.load(Data("npz:a.npz", dir=str(tmp_path), batch_size=1, validation=2))
    assert [len(found.train), *map(len, found.held_out.values())] == [4, 2, 2]
    drawn = set()
    for seed in range(20):  # at random, whatever the labels are
        _, held = held_out.hold_out(
            held_out.strata(sources.Split(PIXELS, np.asarray(given))), 2, seed, "test", "ab"
        )
        drawn.update(held.tolist())
    assert drawn == set(range(N))
    with pytest.raises(InputError, match=r"leave examples on both sides; of the 8 it holds out 0$"):
        sources.load(Data("npz:a.npz", dir=str(tmp_path), batch_size=1, test_share=0.01))


class Unread(sources.Split):
    def read_labels(self):
        raise AssertionError


def test_labels_that_are_no_classes_are_not_read_to_hold_some_out():
    assert held_out.strata(Unread(PIXELS, MAPS)).tolist() == [0] * N
    with pytest.raises(AssertionError):
        held_out.strata(Unread(PIXELS, CLASSES))


def test_label_maps_are_streamed_and_count_for_the_memory(monkeypatch):
    items = list(zip(PIXELS, MAPS, strict=True))

    def load(data):
        return own.from_source(items, items[:4], data)

    monkeypatch.setattr(sources, "STREAMED_BYTES", 12 * PIXELS[0].size + 1)
    dataset = sources.load(Data(load, batch_size=4, workers=0))
    assert dataset.streamed
    stream = open_stream(dataset, Data(load, batch_size=4, eval_batch_size=3, workers=0), seed=0)
    for batch in [*stream.batches(0, 4), *stream.eval_batches()]:
        known = {PIXELS[i].tobytes(): MAPS[i] for i in range(N)}
        for image, label in zip(batch["image"], batch["label"], strict=True):
            np.testing.assert_array_equal(label, known[image.tobytes()])


@pytest.mark.parametrize("fit", ["resize", "crop"])
def test_label_maps_of_images_of_different_sizes_are_fitted_along(fit):
    """Images of one colour for each class: after both are fitted, they still agree."""
    rng = np.random.default_rng(0)
    items = []
    for h, w in ((20, 31), (40, 24)):
        corners = rng.integers(0, 4, (2, 2))
        found = corners[np.arange(h)[:, None] * 2 // h, np.arange(w)[None] * 2 // w]
        items.append(((found[..., None] * 60).astype(np.uint8).repeat(3, 2), found))
    split = own.items({"train": items}, Data(image_size=16, fit=fit))["train"]
    batch = split.read(np.arange(2))
    assert batch["ok"].all()
    assert batch["label"].shape == (2, 16, 16)
    agree = batch["label"] == np.round(batch["image"][..., 0] / 60)
    assert agree.mean() > 0.9
    clear = batch["image"][..., 0] % 60 == 0  # not at an edge
    assert agree[clear].mean() > 0.97


def test_shapes_with_masks_are_the_shapes_with_what_they_cover():
    plain, masks = (
        sources.load(Data(name, image_size=24, examples=(20, 20), seed=3, batch_size=8))
        for name in ("shapes", "shapes_masks")
    )
    assert masks.classes == ("background", *plain.classes)
    for name in ("train", "test"):
        batch = plain.held_out[name] if name == "test" else plain.train
        other = masks.held_out[name] if name == "test" else masks.train
        one, two = (
            d.rendered({"image": jnp.asarray(s.images), "label": jnp.asarray(s.labels)})
            for d, s in ((plain, batch), (masks, other))
        )
        np.testing.assert_array_equal(one["image"], two["image"])
        np.testing.assert_array_equal(one["label"], batch.labels)
        drawn = shapes.draw(jnp.asarray(batch.images), 24, 3)
        found = np.asarray(two["label"])
        assert found.dtype == np.int32
        np.testing.assert_array_equal(found > 0, np.asarray(drawn["mask"]) >= 0.5)
        for i, label in enumerate(batch.labels):
            assert set(np.unique(found[i])) == {0, label + 1}
    held = sources.load(
        Data("shapes_masks", image_size=24, examples=(40, 20), validation=10, batch_size=8)
    )
    assert np.bincount(held.validation.labels, minlength=11).tolist() == [0] + [1] * 10


def test_a_batch_of_label_maps_must_fit_into_memory(monkeypatch):
    asked = []
    monkeypatch.setattr(sources, "require_memory", lambda what, size, *_: asked.append(size))
    arrays = own.from_arrays((PIXELS, MAPS), (PIXELS, MAPS))
    sources.load(Data(lambda: arrays, batch_size=2, eval_batch_size=4, image_size=10))
    assert asked == [2 * 100 * (3 + 4), 4 * 100 * (3 + 4)]
