from typing import get_args

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcnn.config import Data, Views
from jaxcnn.data import augment, views
from jaxcnn.learning import step
from jaxcnn.learning.state import TrainState
from jaxcnn.tasks import BaseTask

IMAGES = jnp.asarray(np.random.default_rng(0).integers(0, 256, (3, 14, 7, 3)), jnp.uint8)


def test_crops_are_those_of_torchvision(torchvision):
    import torch

    x = np.random.default_rng(1).random((2, 9, 8, 3)).astype(np.float32)
    got = views.five_crops(jnp.asarray(x), 6, 5)
    want = torchvision.transforms.functional.five_crop(
        torch.tensor(x.transpose(0, 3, 1, 2)), [6, 5]
    )
    np.testing.assert_array_equal(got.transpose(0, 1, 4, 2, 3), np.stack(want))


VIEWS = (("none", 1), ("flip", 2), ("five_crop", 5), ("ten_crop", 10), ("flip_shift", 6))


@pytest.mark.parametrize(
    ("data", "shape"),
    [
        (Data(), (14, 7)),
        (Data(image_size=16), (16, 16)),
        (Data(image_size=10, fit="resize"), (10, 10)),
    ],
)
def test_every_view_has_the_size_that_the_network_sees(data, shape):
    plain = augment.make_prepare(data)(IMAGES)
    got = {name: views.make_views(data, name)(IMAGES) for name in get_args(Views)}
    assert {name: view.shape for name, view in got.items()} == {
        name: (count, 3, *shape, 3) for name, count in VIEWS
    }
    np.testing.assert_array_equal(got["none"][0], plain)
    np.testing.assert_array_equal(got["flip"][1], plain[:, :, ::-1])
    np.testing.assert_array_equal(got["ten_crop"][:5], got["five_crop"])
    np.testing.assert_array_equal(got["ten_crop"][5:], got["five_crop"][:, :, :, ::-1])


def test_shifts_weigh_half_as_much_as_the_image_itself():
    """Against a weighted sum over NumPy's padded images, with a network that is linear in them."""
    data = Data(mean=(0.3,), std=(0.5,))
    weights = np.random.default_rng(3).normal(size=(14 * 7 * 3, 4)).astype(np.float32)

    class Linear(nn.Module):
        @nn.compact
        def __call__(self, x, *, train=False):
            return x.reshape(len(x), -1) @ weights

    class Kept(BaseTask):
        def sums(self, outputs, batch):
            return {"count": jnp.int32(len(outputs)), "outputs": outputs}

    judge = step.make_eval_step(Linear(), Kept(), views.COUNTED["flip_shift"])
    state = TrainState(0, 0, {}, {}, {}, {})
    got = judge(state, {"image": views.make_views(data, "flip_shift")(IMAGES)})["outputs"]
    x = (np.asarray(IMAGES) / 255 - 0.3) / 0.5
    padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)), "reflect")
    want = x / 2 + padded[:, :14, :7] / 4 + padded[:, 2:, 2:] / 4
    want = (want + want[:, :, ::-1]) / 2
    np.testing.assert_allclose(got, want.reshape(3, -1) @ weights, rtol=1e-4, atol=1e-4)


def test_crops_of_a_resized_image_are_made_from_the_stored_pixels():
    """The centre of 14x14 stored pixels brought to 12x12 (10 * 8/7) shows no pixel twice."""
    images = jnp.asarray(np.random.default_rng(2).integers(0, 256, (1, 12, 12, 1)), jnp.uint8)
    got = views.make_views(Data(image_size=10, fit="resize"), "five_crop")(images)
    np.testing.assert_allclose(got[4, 0], images[0, 1:11, 1:11] / 255, atol=1e-6)


def test_crops_of_an_image_with_a_margin_are_of_all_of_it():
    """Ten crops of 224 of 256 stored pixels, as Krizhevsky et al. took them."""
    images = jnp.asarray(np.random.default_rng(2).integers(0, 256, (1, 16, 16, 1)), jnp.uint8)
    data = Data(image_size=14, fit="crop", read_size=16)
    got = views.make_views(data, "five_crop")(images)
    for view, (top, left) in zip(got, ((0, 0), (0, 2), (2, 0), (2, 2), (1, 1)), strict=True):
        window = images[0, top : top + 14, left : left + 14]
        np.testing.assert_allclose(view[0], window / 255, atol=1e-6)
