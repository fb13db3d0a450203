"""Random rectangles: what is cropped, what is erased."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from jaxcnn.config import Augment, Data
from jaxcnn.data import augment
from jaxcnn.data.augment import erase, geometry

KEY = jax.random.key(0)


def test_a_crop_is_resized_as_by_pillow():
    """Smaller with its filter, larger, and of another aspect."""
    x = np.random.default_rng(0).random((3, 20, 24, 2)).astype(np.float32)
    boxes = np.array([[2, 3, 17, 19], [5, 0, 6, 4], [0, 0, 20, 24]])
    got = geometry.crop_and_resize(jnp.asarray(x), jnp.asarray(boxes), (8, 10))
    for image, (top, left, tall, wide), out in zip(x, boxes, np.asarray(got), strict=True):
        for channel in range(2):
            want = Image.fromarray(image[..., channel]).resize(
                (10, 8), Image.Resampling.BILINEAR, box=(left, top, left + wide, top + tall)
            )
            np.testing.assert_allclose(out[..., channel], np.asarray(want), atol=1e-5)


@pytest.mark.parametrize(("size", "area"), [((30, 40), (0.08, 1.0)), ((8, 200), (0.5, 1.0))])
def test_boxes_have_the_distribution_of_torchvision(torchvision, size, area):
    """An ordinary image, and one so long that ten attempts often fail."""
    import torch

    torch.manual_seed(0)
    params = torchvision.transforms.RandomResizedCrop.get_params
    image = torch.empty(1, *size)
    want = np.array([params(image, list(area), [3 / 4, 4 / 3]) for _ in range(2000)])
    boxes, found = geometry.random_boxes(KEY, 4000, *size, area, 4 / 3)
    got = np.asarray(boxes)[np.asarray(found)]
    if size == (30, 40):
        assert found.mean() > 0.99
        spread = want.std(0) * (1 / len(want) + 1 / len(got)) ** 0.5
        assert (abs(got.mean(0) - want.mean(0)) < 4 * spread).all()
        np.testing.assert_allclose(got.std(0), want.std(0), rtol=0.1)
    else:
        assert not found.any()
    assert (got[:, :2] >= 0).all()
    assert (got[:, :2] + got[:, 2:] <= np.array(size)).all()


def test_where_no_box_fits_the_largest_one_at_the_centre_is_taken():
    x = jnp.asarray(np.random.default_rng(0).random((2, 8, 200, 1)), jnp.float32)
    got = geometry.random_resized_crop(x, KEY, (8, 11), (0.5, 1.0), 4 / 3)
    np.testing.assert_allclose(got, x[:, :, 94:105], atol=1e-6)


@pytest.mark.parametrize(
    ("data", "size"),
    [
        (Data(), (12, 9)),
        (Data(image_size=16), (16, 16)),
        (Data(image_size=6, fit="resize"), (6, 6)),
    ],
)
def test_crops_have_the_size_that_the_network_sees(data, size):
    x = jnp.full((3, 12, 9, 3), 51, jnp.uint8)
    got = augment.make_prepare(data)(x, KEY, Augment(random_resized_crop=0.2))
    assert got.shape == (3, *size, 3)
    if data.fit == "resize":  # no black was added
        np.testing.assert_allclose(got, 0.2, atol=1e-6)


def test_erased_rectangles_have_the_stated_chance_area_and_aspect():
    x = jnp.ones((4000, 20, 30, 2))
    got = np.asarray(erase.random_erasing(x, KEY, 0.4, (0.1, 0.3), 3.0))
    assert (got[..., 0] == got[..., 1]).all()
    holes = got[..., 0] == 0
    erased = holes.any((1, 2))
    assert abs(erased.mean() - 0.4) < 4 * (0.4 * 0.6 / 4000) ** 0.5
    tall, wide = holes[erased].any(2).sum(1), holes[erased].any(1).sum(1)
    assert (holes[erased].sum((1, 2)) == tall * wide).all()  # one whole rectangle each
    share = tall * wide / 600
    assert 0.08 < share.min() < 0.12
    assert 0.28 < share.max() < 0.32
    assert abs(share.mean() - 0.2) < 0.01
    assert abs(np.log(wide / tall).mean()) < 0.1  # wide as often as tall
    assert 2.5 < (wide / tall).max() < 3.6
