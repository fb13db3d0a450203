"""Repeated augmentation against timm's sampler."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcnn.data import pipeline, repeats
from jaxcnn.data.repeats import places
from tests.data.test_stream import labels, stream


@pytest.mark.parametrize(("batch", "times"), [(12, 3), (8, 2), (16, 3), (10, 4), (7, 7), (6, 1)])
def test_an_epoch_has_the_examples_of_timms_sampler(torchvision, batch, times):
    """Of one replica: each so many times in a row, and as many examples as without."""
    sampler = pytest.importorskip("timm.data.distributed_sampler").RepeatAugSampler
    steps = 256 // batch
    theirs = list(sampler(range(256), 1, 0, shuffle=False, num_repeats=times))[: steps * batch]
    ours = [places(step * batch, batch, times).tolist() for step in range(steps)]
    parts = [theirs[i : i + batch] for i in range(0, len(theirs), batch)]
    for mine, whole in zip(ours, parts, strict=True):
        assert sorted(mine) == sorted(whole)
    assert max(map(max, ours)) == (steps * batch - 1) // times


@pytest.mark.parametrize(("batch", "times"), [(12, 3), (16, 3), (2048, 3)])
def test_views_of_an_example_do_not_stand_side_by_side(batch, times):
    """Mixup and CutMix mix neighbours."""
    for start in range(0, 7 * batch, batch):
        found = places(start, batch, times)
        assert (found != np.roll(found, -1)).all()
        assert len(set(found.tolist())) <= batch // times + 2


def test_it_is_traced_to_the_same():
    for start in (0, 16, 32, 48):
        traced = jax.jit(places, static_argnums=(1, 2))(jnp.int32(start), 16, 3)
        np.testing.assert_array_equal(traced, places(start, 16, 3))


def test_in_memory_each_example_stands_in_a_batch_so_many_times():
    shuffle = pipeline.Shuffle(50, 12, 3)
    assert shuffle.steps_per_epoch == 4
    key = jax.random.key(0)
    epochs = []
    for epoch in range(2):
        seen = []
        for step in range(4 * epoch, 4 * epoch + 4):
            order = shuffle.order(key, jnp.int32(step))
            rows = np.asarray(shuffle.places(order, jnp.int32(step))).reshape(3, 4)
            assert (rows == rows[0]).all()
            seen += rows[0].tolist()
        assert len(set(seen)) == 16
        epochs.append(seen)
    assert epochs[0] != epochs[1]


def test_a_stream_reads_repeated_examples_once(monkeypatch):
    reads = []
    one = stream(repeats=2)
    real = type(one.train).read
    monkeypatch.setattr(
        type(one.train), "read", lambda self, index: reads.append(len(index)) or real(self, index)
    )
    found = np.array(labels(one.batches(0, 12)))
    assert (found[:, :4] == found[:, 4:]).all()
    assert len(np.unique(found[:6])) == 24
    assert reads == [4] * 12
    assert labels(one.batches(5, 12)) == found[5:].tolist()


def test_the_examples_of_the_documentation_hold():
    import doctest

    result = doctest.testmod(repeats)
    assert result.attempted
    assert not result.failed
