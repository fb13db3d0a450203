"""Label maps go where their images go: the image whose colours are its classes is the oracle."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcnn import on_batches
from jaxcnn.config import Augment, Data
from jaxcnn.data import augment
from jaxcnn.data.augment import own
from jaxcnn.errors import InputError

CLASSES = 4
# A class is a corner of the colour cube, so that no mixture of two is a third; no class is black.
COLOURS = np.array([[255, 0, 0], [0, 255, 0], [0, 0, 255], [255, 255, 255]], np.uint8)


def same(labels):
    return labels


def blobs(n, h, w, seed=0):
    """Maps of a few large regions, and the images that have the classes' colours."""
    rng = np.random.default_rng(seed)
    at = rng.random((n, 5, 2)) * (h, w)
    pixels = np.stack(np.meshgrid(np.arange(h), np.arange(w), indexing="ij"), -1)
    far = ((pixels[None, :, :, None] - at[:, None, None]) ** 2).sum(-1)
    maps = (far.argmin(-1) % CLASSES).astype(np.int32)
    return {"image": jnp.asarray(COLOURS[maps]), "label": jnp.asarray(maps)}


def read_off(images):
    """The class of every pixel by its colour, -1 for black, and whether the colour is pure."""
    colours = np.concatenate([np.zeros((1, 3)), COLOURS / 255])
    far = np.abs(np.asarray(images)[..., None, :] - colours).max(-1)
    return far.argmin(-1) - 1, far.min(-1) < 0.02


TRAIN = {
    "nothing": (Data(), Augment(), True),
    "pad": (Data(image_size=40), Augment(), True),
    "resize": (Data(image_size=24, fit="resize"), Augment(), False),
    "enlarge": (Data(image_size=50, fit="resize"), Augment(), False),
    "crop": (Data(image_size=28, fit="crop"), Augment(), False),
    "flip": (Data(), Augment(flip=True), True),
    "pad and crop": (Data(), Augment(crop_padding=5), True),
    "random crop": (Data(image_size=20, fit="crop", read_size=32), Augment(random_crop=True), True),
    "random resized crop": (Data(), Augment(random_resized_crop=0.3), False),
    "padded resized crop": (Data(image_size=40), Augment(random_resized_crop=0.3), False),
    "rotate": (Data(), Augment(rotate=40.0), False),
    "zoom": (Data(), Augment(zoom=0.4), False),
    "all": (
        Data(image_size=40),
        Augment(flip=True, crop_padding=4, rotate=20.0, zoom=0.2, random_resized_crop=0.5),
        False,
    ),
}


@pytest.mark.parametrize("case", TRAIN)
def test_label_maps_move_as_their_images_do(case):
    data, changes, exact = TRAIN[case]
    prepare = jax.jit(augment.make_training_batch(data, changes, same))
    batch = blobs(32, 32, 32)
    for seed in range(3):
        got = prepare(batch, jax.random.key(seed))
        assert got["label"].shape == got["image"].shape[:3]
        assert got["label"].dtype == jnp.int32
        seen, pure = read_off(got["image"])
        labels = np.asarray(got["label"])
        if exact:
            assert pure.all()
            np.testing.assert_array_equal(labels, seen)
        assert pure.mean() > 0.6
        assert (labels == seen)[pure].mean() > 0.99  # away from borders
        assert (labels == seen).mean() > 0.95 - 0.5 * (1 - pure.mean())


@pytest.mark.parametrize("case", ["pad", "resize", "enlarge", "crop"])
def test_evaluation_fits_label_maps_as_training_does(case):
    data, batch = TRAIN[case][0], blobs(4, 32, 32)
    prepare = augment.make_prepare_batch(data)
    got = prepare({**batch, "mask": jnp.ones(4, bool)})
    trained = augment.make_training_batch(data, Augment(), same)(batch, jax.random.key(0))
    assert set(got) == {"image", "label", "mask"}
    np.testing.assert_array_equal(got["label"], trained["label"])
    np.testing.assert_allclose(got["image"], trained["image"], atol=1e-6)
    np.testing.assert_allclose(got["image"], augment.make_prepare(data)(batch["image"]), atol=1e-6)


def test_images_of_other_sides_and_many_classes_move_exactly():
    n, h, w = 6, 9, 30
    label = jnp.arange(n * h * w, dtype=jnp.int32).reshape(n, h, w) * 300  # each pixel its own
    image = jnp.stack([label % 251, label // 251 % 251, label // 251**2], -1) / 255.0
    changes = Augment(flip=True, crop_padding=3)
    got = augment.make_training_batch(Data(), changes, same)(
        {"image": image, "label": label}, jax.random.key(0)
    )
    seen = np.round(np.asarray(got["image"], np.float64) * 255).astype(int) @ [1, 251, 251**2]
    outside = np.asarray(got["label"]) == -1
    assert 0 < outside.mean() < 0.5
    np.testing.assert_array_equal(np.where(outside, 0, got["label"]), seen)


@pytest.mark.parametrize("ignored", [-1, 255])
def test_what_is_ignored_stays_so_and_what_comes_in_is(ignored):
    label = jnp.full((4, 16, 16), ignored, jnp.int32).at[:, :, :8].set(2)
    batch = {"image": jnp.full((4, 16, 16, 3), 200, jnp.uint8), "label": label}
    got = augment.make_training_batch(Data(image_size=20), Augment(rotate=30.0), same)(
        batch, jax.random.key(0)
    )
    labels, inside = np.asarray(got["label"]), np.asarray(got["image"])[..., 0] > 0.4
    assert set(np.unique(labels[inside])) == {2, ignored}
    assert (labels[np.asarray(got["image"])[..., 0] < 0.38] == -1).all()


def test_maps_of_numbers_move_too():
    numbers = jnp.linspace(0, 1, 2 * 8 * 8).reshape(2, 8, 8)
    batch = {"image": numbers[..., None], "label": numbers}
    got = augment.make_training_batch(Data(), Augment(flip=True, crop_padding=2), same)(
        batch, jax.random.key(0)
    )
    inside = np.asarray(got["label"]) >= 0
    np.testing.assert_array_equal(got["image"][..., 0][inside], got["label"][inside])


def test_changes_of_the_image_alone_leave_the_map():
    batch = blobs(4, 16, 16)
    changes = Augment(cutout=6, random_erasing=1.0, brightness=0.5, hue=0.2)
    got = augment.make_training_batch(Data(), changes, same)(batch, jax.random.key(0))
    assert got["label"] is batch["label"]  # at no cost
    assert (got["image"] != batch["image"] / 255.0).any()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"rand_augment": 2}, "augment.rand_augment=2: must be 0 where labels are maps"),
        ({"trivial_augment": True}, "augment.trivial_augment=True: must be False where labels"),
        ({"mixup": 0.2}, "augment.mixup=0.2: must be 0.0 where labels are maps"),
        ({"cutmix": 1.0}, "augment.cutmix=1.0: must be 0.0 where labels are maps"),
    ],
)
def test_what_label_maps_cannot_follow_is_refused(changes, said):
    prepare = augment.make_training_batch(Data(), Augment(**changes), same)
    with pytest.raises(InputError, match=said) as error:
        prepare(blobs(4, 16, 16), jax.random.key(0))
    assert "\n" not in str(error.value)


GEOMETRY = Augment(
    flip=True, crop_padding=2, rotate=10.0, zoom=0.1, random_resized_crop=0.3, cutout=3
)


@pytest.mark.parametrize("label", [jnp.zeros(4, jnp.int32), jnp.zeros((4, 2))])
def test_images_without_label_maps_are_prepared_by_the_program_of_images_alone(label):
    batch = {"image": blobs(4, 16, 16)["image"], "label": label}
    key = jax.random.key(0)
    prepare = augment.make_training_batch(Data(image_size=20), GEOMETRY, same)
    alone = augment.make_prepare(Data(image_size=20))

    def image_of(image, label, key):
        return prepare({"image": image, "label": label}, key)["image"]

    one = jax.make_jaxpr(image_of)(batch["image"], label, key)
    two = jax.make_jaxpr(lambda image, label, key: alone(image, key, GEOMETRY))(
        batch["image"], label, key
    )
    assert str(one) == str(two)
    # Of maps, images move by the same numbers.
    maps = augment.make_training_batch(Data(image_size=20), GEOMETRY, same)(blobs(4, 16, 16), key)
    np.testing.assert_allclose(maps["image"], prepare(batch, key)["image"], atol=1e-5)


# ------------------------------------------------------------------------- functions of the user


def turned(key, image, label):
    return jnp.rot90(image), jnp.rot90(label)


@on_batches
def reordered(key, images, labels):
    order = jax.random.permutation(key, len(images))
    return images[order], labels[order]


def test_own_functions_get_images_or_batches_and_label_maps():
    batch = blobs(8, 12, 12)
    turned_only = augment.make_training_batch(Data(), Augment(own=(turned,)), same)(
        batch, jax.random.key(0)
    )
    np.testing.assert_array_equal(turned_only["label"], np.rot90(batch["label"], axes=(1, 2)))
    both = jax.jit(augment.make_training_batch(Data(), Augment(own=(reordered, turned)), same))(
        batch, jax.random.key(0)
    )
    np.testing.assert_array_equal(read_off(both["image"])[0], both["label"])
    order = jax.random.permutation(jax.random.fold_in(jax.random.key(0), 100), 8)
    np.testing.assert_array_equal(both["label"], turned_only["label"][order])


def test_own_functions_are_applied_in_their_order():
    @on_batches
    def brighter(key, images, labels):
        return images + 1, labels

    def doubled(key, image, label):
        return image * 2, label

    batch = {"image": jnp.ones((2, 3, 3, 1)), "label": jnp.zeros(2, jnp.int32)}
    by_name = functools.partial(brighter, labels=None)  # marked as the function is
    assert own._is_on_batches(by_name)
    for functions, wanted in (((brighter, doubled), 4), ((doubled, brighter), 3)):
        got = augment.make_training_batch(Data(), Augment(own=functions), same)(
            batch, jax.random.key(0)
        )
        assert (got["image"] == wanted).all()


@pytest.mark.parametrize(
    ("function", "said"),
    [
        (lambda key, images, labels: (images[:1], labels), r"image of shape \(8, 12, .*\(1,"),
        (lambda key, images, labels: (images, labels[:, 0]), r"label of shape \(8, 12, 12\)"),
        (lambda key, images, labels: (images, labels * 1.0), "label of .* type int32, .* float32"),
        (lambda key, images, labels: images, "augment.own=.*: ValueError"),
        (lambda key, images, labels: (images, "x"), "augment.own=.*: TypeError"),
    ],
)
def test_an_own_function_on_batches_that_does_not_fit_is_said_in_one_line(function, said):
    prepare = augment.make_training_batch(Data(), Augment(own=(on_batches(function),)), same)
    with pytest.raises(InputError, match=said) as error:
        prepare(blobs(8, 12, 12), jax.random.key(0))
    assert "\n" not in str(error.value)


def test_the_function_that_is_given_says_what_is_mixed():
    """Two numbers for each image, as a regression has them."""
    batch = {"image": jnp.zeros((4, 8, 8, 1)), "label": jnp.arange(8.0).reshape(4, 2)}
    prepare = augment.make_training_batch(Data(), Augment(mixup=1.0), lambda label: 10 * label)
    got = prepare(batch, jax.random.key(0))
    following = jnp.roll(batch["label"], -1, axis=0)
    share = (got["target"] / 10 - following) / (batch["label"] - following)
    np.testing.assert_allclose(share, share[0, 0], atol=1e-5)
    assert 0 < share[0, 0] < 1
