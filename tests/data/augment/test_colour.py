"""Colour jitter against torchvision's adjust_* functions."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcnn.data.augment import colour

KEY = jax.random.key(0)
IMAGES = np.random.default_rng(0).random((6, 9, 7, 3)).astype(np.float32)
IMAGES[0] = IMAGES[0, :, :, :1]  # grey, of which the hue is undefined
IMAGES[1, 0, 0] = (1, 0, 0)
IMAGES[1, 0, 1] = (0.5, 0.5, 0.2)


def torch_of(images):
    import torch

    return torch.tensor(np.asarray(images).transpose(0, 3, 1, 2))


def numpy_of(tensor):
    return tensor.numpy().transpose(0, 2, 3, 1)


@pytest.mark.slow
def test_hue_is_that_of_torchvision(torchvision):
    from torchvision.transforms.v2.functional import adjust_hue as adjust

    for turns in (-0.5, -0.13, 0.0, 0.3, 0.5):
        got = colour.shift_hue(jnp.asarray(IMAGES), jnp.full(6, turns))
        np.testing.assert_allclose(got, numpy_of(adjust(torch_of(IMAGES), turns)), atol=2e-6)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", ["brightness", "contrast", "saturation"])
def test_each_blend_is_that_of_torchvision(torchvision, name, channels):
    from torchvision.transforms.v2 import functional

    images = IMAGES[..., :channels]
    ranges = {"brightness": 0.0, "contrast": 0.0, "saturation": 0.0, "hue": 0.0, name: 0.6}
    got = np.asarray(colour.color_jitter(jnp.asarray(images), KEY, **ranges))
    adjust = getattr(functional, f"adjust_{name}")
    drawn = np.asarray(
        jax.random.uniform(
            jax.random.fold_in(jax.random.split(KEY)[1], 0), (6,), minval=0.4, maxval=1.6
        )
    )
    assert np.ptp(drawn) > 0.3
    for image, out, factor in zip(images, got, drawn, strict=True):
        want = numpy_of(adjust(torch_of(image[None]), float(factor)))[0]
        np.testing.assert_allclose(out, want, atol=2e-6)


def test_the_order_is_drawn_per_image():
    """One image many times: results differ as its 2 orders do, and every order occurs."""
    n = 64
    image = jnp.broadcast_to(jnp.asarray(IMAGES[2]), (n, 9, 7, 3))
    got = np.asarray(colour.color_jitter(image, KEY, 0.9, 0.0, 0.0, 0.5))
    key = jax.random.split(KEY)[1]
    factor = jax.random.uniform(jax.random.fold_in(key, 0), (n,), minval=0.1, maxval=1.9)
    turns = jax.random.uniform(jax.random.fold_in(key, 1), (n,), minval=-0.5, maxval=0.5)

    def bright(x):
        return jnp.clip(x * factor[:, None, None, None], 0, 1)

    def turned(x):
        return colour.shift_hue(x, turns)

    orders = [
        np.abs(got - np.asarray(second(first(image)))).max((1, 2, 3)) < 1e-5
        for first, second in itertools.permutations([bright, turned])
    ]
    assert (orders[0] | orders[1]).all()
    assert (orders[0] & ~orders[1]).any()
    assert (orders[1] & ~orders[0]).any()


def test_an_image_that_is_not_rgb_keeps_saturation_and_hue():
    x = jnp.asarray(IMAGES[..., :1])
    np.testing.assert_array_equal(colour.color_jitter(x, KEY, 0.0, 0.0, 0.9, 0.5), x)
    two = jnp.asarray(IMAGES[..., :2])
    np.testing.assert_array_equal(colour.color_jitter(two, KEY, 0.0, 0.0, 0.9, 0.5), two)
