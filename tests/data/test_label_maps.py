"""A label map is brought back to the picture: pixels come from where the picture's were brought."""

import jax.numpy as jnp
import numpy as np
import pytest

from jaxcnn.config import Data
from jaxcnn.data import augment
from jaxcnn.data.images import fit_map, stored_fit
from jaxcnn.data.label_maps import of_picture


@pytest.mark.parametrize(
    ("size", "stored", "data", "covers"),
    [
        ((9, 13), (9, 13), Data(), 1),
        ((9, 13), (64, 64), Data(image_size=64, fit="resize"), 1),
        ((12, 7), (12, 7), Data(image_size=48, fit="resize"), 1),
        ((9, 13), (20, 30), Data(), 1),  # a file of another size than the dataset's
        ((6, 9), (60, 60), Data(image_size=60, read_size=60, fit="crop"), 6 / 9),
        ((9, 6), (60, 60), Data(image_size=60, fit="crop"), 7 / 8 * 7 / 8 * 6 / 9),
        ((16, 16), (64, 64), Data(image_size=96, read_size=64, fit="crop"), (14 / 16) ** 2),
        ((8, 6), (8, 6), Data(image_size=11, fit="pad"), 1),
        ((5, 4), (8, 6), Data(image_size=11, fit="pad"), 1),
    ],
)
def test_it_is_the_map_that_was_brought_to_the_network(size, stored, data, covers):
    picture = np.random.default_rng(0).integers(0, 200, size, np.uint8)
    shape = (*stored, 3)
    brought = fit_map(picture.astype(np.int32), stored, stored_fit(data, shape))
    prepare = augment.make_prepare_batch(data)
    batch = {"image": jnp.zeros((1, *shape), jnp.uint8), "label": jnp.asarray(brought[None])}
    seen = prepare(batch)["label"][0]
    assert seen.shape == augment.fitted_size(*stored, data)
    found = of_picture(np.asarray(seen, np.uint8), size, shape, data)
    assert found.shape == size
    assert found.dtype == np.int32
    known = found != 255
    np.testing.assert_array_equal(found[known], picture[known])
    assert known.mean() == pytest.approx(covers, abs=2 * (size[0] + size[1]) / (size[0] * size[1]))
    assert known.all() == (covers == 1)


def test_a_map_of_another_resolution_covers_the_same_picture():
    quarters = np.array([[1, 2], [3, 4]], np.int8)
    found = of_picture(quarters, (8, 6), (64, 64, 3), Data(image_size=64, fit="resize"))
    np.testing.assert_array_equal(found, np.kron(quarters, np.ones((4, 3), int)))
