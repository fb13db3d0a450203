import doctest

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcnn.data import image_folder, pipeline, shapes
from jaxcnn.data.sources import Split


def split(n: int) -> Split:
    images = np.arange(n, dtype=np.uint8).reshape(n, 1, 1, 1)
    return Split(images, np.arange(n, dtype=np.int32))


@pytest.mark.parametrize(("examples", "batch_size"), [(10, 3), (12, 4), (5, 5), (100, 7)])
def test_an_epoch_visits_each_example_at_most_once(examples, batch_size):
    shuffle = pipeline.Shuffle(examples, batch_size)
    arrays = jax.device_put(pipeline.whole(split(examples)))
    key = jax.random.key(3)
    epochs = []
    for epoch in range(3):
        seen = []
        for i in range(shuffle.steps_per_epoch):
            step = jnp.int32(epoch * shuffle.steps_per_epoch + i)
            batch = shuffle.batch(arrays, shuffle.order(key, step), step)
            assert batch["label"].shape == (batch_size,)
            np.testing.assert_array_equal(batch["image"][:, 0, 0, 0], batch["label"])
            seen += batch["label"].tolist()
        assert len(set(seen)) == len(seen) == examples // batch_size * batch_size
        epochs.append(seen)
    assert epochs[0] != epochs[1] != epochs[2]


def test_batches_depend_on_seed_and_step_alone():
    shuffle = pipeline.Shuffle(100, 10)
    step = jnp.int32(17)
    one = shuffle.order(jax.random.key(0), step)
    np.testing.assert_array_equal(one, jax.jit(shuffle.order)(jax.random.key(0), step))
    np.testing.assert_array_equal(one, shuffle.order(jax.random.key(0), jnp.int32(10)))
    assert (one != shuffle.order(jax.random.key(1), step)).any()
    assert (one != shuffle.order(jax.random.key(0), jnp.int32(20))).any()


@pytest.mark.parametrize(("n", "batch_size", "batches"), [(10, 4, 3), (8, 4, 2), (3, 500, 1)])
def test_evaluation_batches_hold_every_example_once(n, batch_size, batches):
    cut = pipeline.in_batches(split(n), batch_size)
    assert cut["mask"].shape[0] == batches
    assert cut["label"][cut["mask"]].tolist() == list(range(n))
    assert cut["mask"].sum() == n


@pytest.mark.parametrize("module", [image_folder, pipeline, shapes])
def test_the_examples_of_the_documentation_hold(module):
    result = doctest.testmod(module)
    assert result.attempted
    assert not result.failed


@pytest.mark.parametrize(
    ("batch_size", "examples", "devices", "expected"),
    [(10, 100, 1, 10), (10, 100, 4, 12), (10, 7, 1, 7), (10, 7, 4, 8), (8, 8, 8, 8)],
)
def test_devices_share_a_batch_of_evaluation(batch_size, examples, devices, expected):
    assert pipeline.shared_batch_size(batch_size, examples, devices) == expected
