"""The classic filters, against SciPy."""

import jax
import pytest

from jaxcnn import ops
from jaxcnn.ops import filters
from tests.ops.oracles import close, normal

ndimage = pytest.importorskip("scipy.ndimage")
MODES = {"replicate": "nearest", "reflect": "mirror", "circular": "wrap", "zeros": "constant"}


@pytest.mark.parametrize("name", filters.FILTERS)
def test_filters_are_those_of_scipy(name):
    image, kernel = normal(0, (9, 11)), filters.FILTERS[name]
    filtered = jax.jit(
        lambda image: {mode: ops.apply_filter(image, kernel, padding_mode=mode) for mode in MODES}
    )(image)
    for ours, theirs in MODES.items():
        close(filtered[ours], ndimage.correlate(image, kernel, mode=theirs))


def test_sobel_is_that_of_scipy():
    image = normal(0, (9, 11))
    close(ops.apply_filter(image, filters.SOBEL_X), ndimage.sobel(image, 1, mode="nearest"))
    close(ops.apply_filter(image, filters.SOBEL_Y), ndimage.sobel(image, 0, mode="nearest"))


@pytest.mark.parametrize("sigma", [0.5, 1.0, 2.3])
def test_gaussian_is_that_of_scipy(sigma):
    image = normal(0, (30, 31))
    ours = jax.jit(lambda image: ops.apply_filter(image, filters.gaussian(sigma)))(image)
    close(ours, ndimage.gaussian_filter(image, sigma, mode="nearest"))


def test_sums():
    for name in ("identity", "sharpen", "box_blur", "gaussian_blur"):
        assert filters.FILTERS[name].sum() == pytest.approx(1)
    for name in ("edge_diagonal", "edge_cross", "edge_all", "sobel_x", "sobel_y"):
        assert filters.FILTERS[name].sum() == 0
    assert filters.gaussian(3.0).sum() == pytest.approx(1)


def test_channels_and_batches_are_filtered_one_by_one():
    images = normal(0, (2, 8, 8, 3))
    every = ops.apply_filter(images, filters.SHARPEN)
    close(ops.apply_filter(images[0], filters.SHARPEN), every[0])
    close(ops.apply_filter(images[1, :, :, 2], filters.SHARPEN), every[1, :, :, 2])
    close(jax.jit(jax.vmap(lambda x: ops.apply_filter(x, filters.SHARPEN)))(images), every)
    close(ops.apply_filter(images, filters.IDENTITY), images)
