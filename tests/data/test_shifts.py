"""Images moved, turned and scaled by a given amount, against SciPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import ndimage

from jaxcnn.data.shifts import rotated, scaled, shifted

IMAGES = jnp.asarray(np.random.default_rng(0).random((2, 9, 12, 3)), jnp.float32)
SIDES = {"zeros": "grid-constant", "reflect": "mirror"}


def affine(images, matrix, offset, mode):
    """SciPy's bilinear map about the centre, from the place in the result to that in the image."""
    middle = (np.array(images.shape[1:3]) - 1) / 2
    offset = middle - matrix @ middle + offset
    one = [
        [ndimage.affine_transform(p, matrix, offset, order=1, mode=SIDES[mode]) for p in image]
        for image in np.moveaxis(images, -1, 1)
    ]
    return np.moveaxis(np.array(one), 1, -1)


@pytest.mark.parametrize("mode", SIDES)
def test_images_are_moved_turned_and_scaled_as_scipy_does(mode):
    same = np.eye(2)
    for dy, dx in ((2, -3), (0.5, 1.25), (-20, 0)):
        found = jax.jit(lambda x, dy, dx: shifted(x, dy, dx, mode))(IMAGES, float(dy), float(dx))
        np.testing.assert_allclose(found, affine(IMAGES, same, [-dy, -dx], mode), atol=1e-5)
    for degrees in (-30.0, 10.0, 77.0):
        cos, sin = np.cos(np.deg2rad(degrees)), np.sin(np.deg2rad(degrees))
        found = rotated(IMAGES, degrees, mode)
        wanted = affine(IMAGES, np.array([[cos, sin], [-sin, cos]]), 0, mode)
        np.testing.assert_allclose(found, wanted, atol=1e-4)
    for factor in (0.6, 1.3):
        found = scaled(IMAGES, factor, mode)
        np.testing.assert_allclose(found, affine(IMAGES, same / factor, 0, mode), atol=1e-5)


def test_a_quarter_turn_is_that_of_numpy():
    square = IMAGES[:, :9, :9]
    found = rotated(square, 90.0, "reflect")
    np.testing.assert_allclose(found, np.rot90(square, axes=(1, 2)), atol=1e-4)


def test_amounts_of_nothing_leave_images_as_they_are():
    for mode in SIDES:
        for found in (
            shifted(IMAGES, 0, 0, mode),
            rotated(IMAGES, 0.0, mode),
            scaled(IMAGES, 1, mode),
        ):
            np.testing.assert_array_equal(found, IMAGES)
