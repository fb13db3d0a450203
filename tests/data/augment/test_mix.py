"""Mixup and CutMix: labels have the share that the images have."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from jaxcnn.config import Augment, Data
from jaxcnn.data import augment
from jaxcnn.data.augment.mix import mix

N, H, W = 5, 12, 10
# Image i is i everywhere and has label i, so that a mixed pixel shows its origin.
X = jnp.broadcast_to(jnp.arange(N, dtype=jnp.float32)[:, None, None, None], (N, H, W, 1))
Y = jnp.eye(N)
KEYS = jax.random.split(jax.random.key(0), 600)


def drawn(mixup, cutmix):
    """Share of the own label, of the own pixels' value, and the pixels, for each key."""
    images, targets = jax.jit(jax.vmap(lambda key: mix(X, Y, key, mixup, cutmix)))(KEYS)
    return np.asarray(images)[..., 0], np.asarray(targets)


@pytest.mark.parametrize(("mixup", "cutmix"), [(0.4, 0.0), (0.0, 1.0), (0.4, 1.0)])
def test_labels_have_the_share_of_the_pixels(mixup, cutmix):
    images, targets = drawn(mixup, cutmix)
    np.testing.assert_allclose(targets.sum(-1), 1, atol=1e-5)
    for i in range(N):
        partner = (i + 1) % N
        share = targets[:, i, i]
        np.testing.assert_allclose(targets[:, i, partner], 1 - share, atol=1e-5)
        want = share * i + (1 - share) * partner
        np.testing.assert_allclose(images[:, i].mean((1, 2)), want, atol=1e-4)
    whole = np.isin(images, np.arange(N)).all((1, 2, 3))
    mixed_up = np.ptp(images, axis=(2, 3)).max(1) == 0
    if not mixup:
        assert whole.all()
    if not cutmix:
        assert mixed_up.all()
    if mixup and cutmix:
        assert (whole | mixed_up).all()
        used = (~whole).mean()  # mixup's values are whole numbers with probability 0
        assert abs(used - 0.5) < 0.1


@pytest.mark.parametrize("alpha", [0.2, 1.0])
def test_the_share_of_mixup_is_beta_distributed(alpha):
    _, targets = drawn(alpha, 0.0)
    assert stats.kstest(targets[:, 0, 0], stats.beta(alpha, alpha).cdf).pvalue > 0.01


def test_cutmix_pastes_one_rectangle_of_the_papers_size():
    """Sides are sqrt(1 - lam) of the image's, the centre is anywhere, what sticks out is cut."""
    images, _ = drawn(0.0, 1.0)
    pasted = images[:, 0] == 1
    tall, wide = pasted.any(2).sum(1), pasted.any(1).sum(1)
    assert (pasted.sum((1, 2)) == tall * wide).all()
    inner = pasted[:, 1:-1, 1:-1].sum((1, 2)) == pasted.sum((1, 2))  # not cut by the border
    assert inner.sum() > 50
    assert (abs(tall[inner] / H - wide[inner] / W) <= 1 / W + 1e-6).all()
    rng = np.random.default_rng(0)
    part = np.sqrt(1 - rng.uniform(size=20000))
    high, broad = (part * H).astype(int), (part * W).astype(int)
    top, left = rng.integers(0, H, 20000) - high // 2, rng.integers(0, W, 20000) - broad // 2
    rows = np.minimum(top + high, H) - np.maximum(top, 0)
    columns = np.minimum(left + broad, W) - np.maximum(left, 0)
    want = rows * columns
    got = tall * wide
    assert abs(got.mean() - want.mean()) < 4 * want.std() / len(got) ** 0.5


def test_a_batch_carries_soft_targets_beside_its_labels():
    batch = {"image": jnp.zeros((4, 8, 8, 3), jnp.uint8), "label": jnp.array([2, 0, 1, 2])}
    mixing = Augment(mixup=0.2, cutmix=1.0, flip=True)
    prepare = augment.make_training_batch(Data(), mixing, lambda label: jax.nn.one_hot(label, 3))
    got = prepare(batch, jax.random.key(3))
    np.testing.assert_array_equal(got["label"], batch["label"])
    assert got["target"].shape == (4, 3)
    assert got["target"].dtype == jnp.float32
    np.testing.assert_allclose(got["target"].sum(1), 1, atol=1e-6)
    again = prepare(batch, jax.random.key(3))
    np.testing.assert_array_equal(got["target"], again["target"])
    assert (got["target"] != prepare(batch, jax.random.key(4))["target"]).any()
