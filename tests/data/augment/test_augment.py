import itertools
from collections import Counter

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import ndimage

from jaxcnn.config import Augment, Data
from jaxcnn.data import augment
from jaxcnn.data.augment import erase, geometry

KEY = jax.random.key(0)


@pytest.fixture
def images():
    return jnp.asarray(np.random.default_rng(0).integers(0, 256, (64, 8, 6, 3)), jnp.uint8)


def test_normalisation_is_by_255_then_mean_and_std(images):
    data = Data(mean=(0.1, 0.2, 0.3), std=(0.5, 0.6, 0.7))
    got = augment.make_prepare(data)(images)
    want = (np.asarray(images) / 255 - np.array(data.mean)) / np.array(data.std)
    np.testing.assert_allclose(got, want, atol=1e-6)


def test_padding_centres_the_image_in_black(images):
    got = augment.make_prepare(Data(image_size=12))(images)
    want = np.pad(np.asarray(images) / 255, ((0, 0), (2, 2), (3, 3), (0, 0)))
    np.testing.assert_allclose(got, want, atol=1e-6)


def test_resizing_keeps_constant_images_constant():
    x = jnp.full((2, 8, 8, 1), 51, jnp.uint8)
    got = augment.make_prepare(Data(image_size=32, fit="resize"))(x)
    assert got.shape == (2, 32, 32, 1)
    np.testing.assert_allclose(got, 0.2, atol=1e-6)


def test_padding_cannot_shrink():
    with pytest.raises(ValueError, match=r"data.image_size=7: an image of 8x6"):
        augment.fitted_size(8, 6, Data(image_size=7))


def test_flip_mirrors_about_half_the_images(images):
    x = images.astype(jnp.float32)
    got = geometry.random_flip(x, KEY)
    mirrored = (got == x[:, :, ::-1]).all((1, 2, 3))
    kept = (got == x).all((1, 2, 3))
    assert (mirrored ^ kept).all()
    assert 16 < int(mirrored.sum()) < 48


@pytest.mark.parametrize(("mode", "numpys"), [("zeros", "constant"), ("reflect", "reflect")])
def test_crop_shifts_by_at_most_the_padding(images, mode, numpys):
    x = np.asarray(images, np.float32)
    got = augment.geometric(jnp.asarray(x), KEY, Augment(crop_padding=2, padding_mode=mode))
    got = np.asarray(got)
    padded = np.pad(x, ((0, 0), (2, 2), (2, 2), (0, 0)), numpys)
    shifts = set()
    for image, big in zip(got, padded, strict=True):
        found = [
            (i, j) for i in range(5) for j in range(5) if (image == big[i : i + 8, j : j + 6]).all()
        ]
        assert len(found) == 1
        shifts.add(found[0])
    assert len(shifts) > 15  # of 25, with 64 draws


def test_an_image_is_mirrored_every_other_epoch():
    places = jax.random.permutation(KEY, 200)
    epochs = [np.asarray(geometry.alternating(KEY, places, jnp.int32(e))) for e in range(5)]
    assert 60 < epochs[0].sum() < 140
    for before, after in itertools.pairwise(epochs):
        np.testing.assert_array_equal(after, ~before)
    again = geometry.alternating(KEY, places[::-1], jnp.int32(0))
    np.testing.assert_array_equal(again, epochs[0][::-1])  # by place, not by order
    assert (geometry.alternating(jax.random.key(1), places, jnp.int32(0)) != epochs[0]).any()


def test_what_alternates_is_told_by_the_batch(images):
    mirrored = jnp.arange(64) % 3 == 0
    prepare = augment.make_prepare_batch(Data())
    got = prepare({"image": images, "mirrored": mirrored}, KEY, Augment(flip="alternating"))
    x = augment.make_prepare(Data())(images)
    want = np.where(np.asarray(mirrored)[:, None, None, None], x[:, :, ::-1], x)
    np.testing.assert_array_equal(got["image"], want)


def test_cutout_clears_one_square():
    got = np.asarray(erase.cutout(jnp.ones((200, 16, 16, 1)), KEY, 4))[..., 0]
    holes = (got == 0).sum((1, 2))
    assert holes.max() == 16
    assert holes.min() >= 4  # a corner cuts it to a quarter
    for image in got[holes == 16]:
        rows, columns = np.nonzero(image == 0)
        assert np.ptp(rows) == np.ptp(columns) == 3


def test_rotation_agrees_with_scipy():
    """One known angle: the drawn angles are recomputed from the same key."""
    x = np.random.default_rng(1).random((3, 9, 9, 2)).astype(np.float32)
    got = geometry.rotate_and_zoom(jnp.asarray(x), KEY, 30.0, 0.0)
    angle_key, _ = jax.random.split(KEY)
    limit = np.deg2rad(30.0).astype(np.float32)
    angles = np.rad2deg(jax.random.uniform(angle_key, (3,), minval=-limit, maxval=limit))
    for image, angle, out in zip(x, angles, np.asarray(got), strict=True):
        want = ndimage.rotate(image, -angle, reshape=False, order=1)
        np.testing.assert_allclose(out[1:-1, 1:-1], want[1:-1, 1:-1], atol=1e-4)


def test_zoom_without_rotation_keeps_the_centre():
    x = jnp.zeros((8, 9, 9, 1)).at[:, 4, 4].set(1.0)
    got = geometry.rotate_and_zoom(x, KEY, 0.0, 0.5)
    np.testing.assert_allclose(got[:, 4, 4, 0], 1.0, atol=1e-6)


def test_random_crops_are_windows_of_what_is_stored_and_reach_every_place():
    x = jnp.arange(6 * 7, dtype=jnp.uint8).reshape(1, 6, 7, 1).repeat(300, 0)
    data = Data(image_size=5, fit="crop", read_size=6)
    prepare = augment.make_prepare(data)
    got = np.asarray(prepare(x, KEY, Augment(random_crop=True)) * 255).round().astype(int)[..., 0]
    windows = {
        (i, j): np.asarray(x[0, i : i + 5, j : j + 5, 0]) for i in range(2) for j in range(3)
    }
    found = [at for one in got for at, window in windows.items() if (one == window).all()]
    assert len(found) == 300
    assert min(Counter(found).values()) > 25
    assert set(found) == set(windows)


EVERYTHING = Augment(
    flip=True,
    crop_padding=2,
    cutout=3,
    rotate=10.0,
    zoom=0.1,
    random_resized_crop=0.3,
    rand_augment=1,
    brightness=0.4,
    contrast=0.4,
    saturation=0.4,
    hue=0.1,
    random_erasing=0.5,
)


@pytest.mark.parametrize("channels", [1, 3])
def test_everything_at_once_is_a_pure_function_of_the_key(images, channels):
    images = images[..., :channels]
    prepare = jax.jit(lambda x, key: augment.make_prepare(Data())(x, key, EVERYTHING))
    one, again = prepare(images, KEY), prepare(images, KEY)
    assert one.shape == images.shape
    assert jnp.isfinite(one).all()
    np.testing.assert_array_equal(one, again)
    assert (one != prepare(images, jax.random.key(1))).any()
    # An example does not depend on the others.
    others = prepare(images.at[1:].set(255 - images[1:]), KEY)
    np.testing.assert_array_equal(one[0], others[0])
    assert (one[1:] != others[1:]).any((1, 2, 3)).mean() > 0.9


def test_nothing_changes_without_an_augmentation(images):
    np.testing.assert_array_equal(
        augment.make_prepare(Data())(images, KEY, Augment()), augment.make_prepare(Data())(images)
    )
    batch = augment.make_training_batch(Data(), Augment(), jnp.float32)({"image": images}, KEY)
    assert set(batch) == {"image"}
