"""AutoAugment and AugMix against torchvision's."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcnn.data.augment import chains, pairs, policies
from jaxcnn.data.augment.policies import ALL
from tests.data.augment.test_policies import IMAGES, H, W, named, operate, theirs, v2

KEY = jax.random.key(0)
mixed = jax.jit(chains.mixed)


def as_batch(images):
    import torch

    return torch.tensor(images.transpose(0, 3, 1, 2))


def title(name):
    """torchvision's name of an operation."""
    return "Invert" if name == "invert" else named(name)


@pytest.mark.parametrize("policy", pairs.POLICIES)
def test_policies_are_torchvisions(torchvision, policy):
    enum = torchvision.transforms.autoaugment.AutoAugmentPolicy
    found = v2().AutoAugment(enum(policy))._policies
    listed = [
        tuple((title(name), share, strength) for name, share, strength in pair)
        for pair in pairs.POLICIES[policy]
    ]
    assert listed == [tuple((name, p, m or 0) for name, p, m in pair) for pair in found]


@pytest.mark.parametrize("policy", ["auto_augment", "augmix"])
def test_magnitudes_are_torchvisions(torchvision, policy):
    if policy == "augmix":
        space, table = v2().AugMix._PARTIAL_AUGMENTATION_SPACE, chains.augmix_magnitudes(H, W)
        assert {*space} == {named(name) for name in chains.OPERATIONS}
    else:
        space, table = v2().AutoAugment._AUGMENTATION_SPACE, pairs.auto_augment_magnitudes(H, W)
    for name, row in zip(ALL, table, strict=True):
        if title(name) not in space:
            continue
        want = space[title(name)][0](10, H, W)
        want = np.zeros(10) if want is None else np.asarray(want, np.float64)
        if name.startswith("translate"):
            want = np.floor(want + 1e-4)
        want = 255 * want if name == "solarize" else want
        np.testing.assert_allclose(row, want, rtol=1e-5, atol=1e-4)


def test_inversion_is_torchvisions(torchvision):
    n = len(IMAGES)
    invert = jnp.full(n, ALL.index("invert"))
    got = operate(jnp.asarray(IMAGES, jnp.float32), invert, jnp.zeros(n))
    np.testing.assert_array_equal(got, v2().functional.invert(as_batch(IMAGES)).permute(0, 2, 3, 1))


@pytest.mark.parametrize("policy", pairs.POLICIES)
def test_pairs_give_the_pixels_of_torchvision(torchvision, monkeypatch, policy):
    """What is drawn of the pairs is noted, and given to torchvision's operations."""
    drawn = []
    real = policies.operate

    def noted(x, operation, magnitude):
        drawn.append((np.asarray(operation), np.asarray(magnitude)))
        return real(x, operation, magnitude)

    monkeypatch.setattr(pairs, "operate", noted)
    images = np.concatenate([IMAGES] * 3)
    got = pairs.auto_augment(jnp.asarray(images / 255, jnp.float32), KEY, policy)
    want = images
    for operation, magnitude in drawn:
        want = np.concatenate(
            [
                one[None]
                if ALL[i] == "identity"
                else 255 - one[None]
                if ALL[i] == "invert"
                else theirs(torchvision, one[None], ALL[i], m)
                for one, i, m in zip(want, operation, magnitude, strict=True)
            ]
        )
    off = np.abs(np.asarray(got) * 255 - want)
    # A level of rounding before equalisation or inversion may become more than one behind it.
    assert (off > 1.01).mean() < 0.02


def test_pairs_probabilities_and_signs_are_drawn_as_said(monkeypatch):
    drawn = []

    def spy(x, operation, magnitude):
        drawn.append((np.asarray(operation), np.asarray(magnitude)))
        return x

    monkeypatch.setattr(pairs, "operate", spy)
    n = 20_000
    pairs.auto_augment(jnp.zeros((n, 8, 8, 3)), KEY, "svhn")
    for place, (operation, magnitude) in enumerate(drawn):
        expected = np.zeros(len(ALL))
        for pair in pairs.POLICIES["svhn"]:
            name, share, _ = pair[place]
            expected[ALL.index(name)] += share / 25
        expected[0] = 1 - expected.sum()
        found = np.bincount(operation, minlength=len(ALL)) / n
        np.testing.assert_allclose(found, expected, atol=5 * 0.5 / n**0.5)
        sheared = magnitude[(operation == ALL.index("shear_x")) & (magnitude != 0)]
        assert not len(sheared) or abs((sheared > 0).mean() - 0.5) < 0.05


def test_chains_are_mixed_as_by_torchvision(torchvision, monkeypatch):
    """With torchvision's draws: operations, strengths, signs, depths and weights."""
    import torch

    transform = v2().AugMix(all_ops=False)
    spied: list = []
    weights: list = []
    real, dirichlet = transform._apply_image_or_video_transform, transform._sample_dirichlet

    def apply(image, name, magnitude, *args, **options):
        spied[-1].append((name, magnitude))
        return real(image, name, magnitude, *args, **options)

    def randint(*args, **options):
        if options.get("high") == 4:  # the depth of a chain, which begins
            spied.append([])
        return torch_randint(*args, **options)

    torch_randint = torch.randint
    monkeypatch.setattr(torch, "randint", randint)
    monkeypatch.setattr(transform, "_apply_image_or_video_transform", apply)
    monkeypatch.setattr(
        transform, "_sample_dirichlet", lambda p: weights.append(dirichlet(p)) or weights[-1]
    )
    torch.manual_seed(0)
    names = {named(name): name for name in chains.OPERATIONS}
    for image in IMAGES[[0, 2, 4]]:
        spied.clear(), weights.clear()
        want = transform(as_batch(image[None])[0]).numpy().transpose(1, 2, 0)
        operation, magnitude = np.zeros((2, 3, 3, 1))
        assert len(spied) == 3
        for i, chain in enumerate(spied):
            for j, (name, number) in enumerate(chain):
                operation[i, j] = ALL.index(names[name])
                number = int(number) if name.startswith("Translate") else number
                magnitude[i, j] = number * (255 if name == "Solarize" else 1)
        own, shares = weights[0][0, 0].item(), weights[1].numpy()
        got = mixed(
            jnp.asarray(image[None], jnp.float32),
            jnp.asarray(operation, jnp.int32),
            jnp.asarray(magnitude, jnp.float32),
            jnp.asarray(shares),
            jnp.array([own], jnp.float32),
        )
        off = np.abs(np.asarray(got)[0] - want)
        assert (off > 1).mean() < 0.02
        assert off.mean() < 0.6


def test_chains_and_weights_are_drawn_as_said(monkeypatch):
    seen = []

    def spy(x, *drawn):
        seen[:] = map(np.asarray, drawn)
        return x

    monkeypatch.setattr(chains, "mixed", spy)
    n = 5000
    chains.augmix(jnp.zeros((n, 8, 8, 3)), KEY, 3)
    op, size, weights, own = seen
    depth = (op > 0).sum(axis=1)
    np.testing.assert_allclose(
        np.bincount(depth.ravel()) / depth.size, [0, *[1 / 3] * 3], atol=0.02
    )
    kinds = np.bincount(op[op > 0], minlength=15)[[ALL.index(name) for name in chains.OPERATIONS]]
    np.testing.assert_allclose(kinds / (op > 0).sum(), 1 / 9, atol=0.01)
    allowed = chains.augmix_magnitudes(8, 8)[:, :3]
    for name in chains.OPERATIONS:
        mine = size[op == ALL.index(name)]
        np.testing.assert_allclose(np.unique(np.abs(mine)), np.unique(allowed[ALL.index(name)]))
    np.testing.assert_allclose(weights.sum(axis=1), 1, atol=1e-5)
    # Moments of Dirichlet(1, 1, 1) and of Beta(1, 1).
    np.testing.assert_allclose(weights.mean(axis=0), 1 / 3, atol=0.015)
    np.testing.assert_allclose(weights.var(axis=0), 1 / 18, atol=0.005)
    assert abs(own.mean() - 0.5) < 0.02
    assert abs(own.var() - 1 / 12) < 0.005


def test_an_image_mixed_with_itself_stays():
    images = jnp.asarray(IMAGES, jnp.float32)
    n = len(images)
    nothing = jnp.zeros((3, 3, n), jnp.int32)
    weights = jax.random.dirichlet(KEY, jnp.ones(3), (n,))
    own = jax.random.uniform(KEY, (n,))
    got = mixed(images, nothing, jnp.zeros((3, 3, n)), weights, own)
    np.testing.assert_array_equal(got, images)
    black = jnp.zeros((n, H, W, 3))
    one = jnp.full((3, 3, n), ALL.index("invert")).at[:, 1:].set(0)
    half = mixed(black, one, jnp.zeros((3, 3, n)), weights, jnp.full(n, 0.5))
    np.testing.assert_allclose(half, 127)
