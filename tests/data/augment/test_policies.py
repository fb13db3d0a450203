"""RandAugment and TrivialAugment against torchvision's."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcnn.data.augment import policies
from jaxcnn.data.augment.policies import BINS, GEOMETRIC, OPERATIONS, SIGNED

KEY = jax.random.key(0)
H, W = 24, 20
RNG = np.random.default_rng(0)
# Smooth, noisy, dark and flat images: what equalising and stretching can meet.
IMAGES = np.stack(
    [
        np.add.outer(np.arange(H), np.arange(W))[..., None] * np.array([3, 4, 5]),
        RNG.integers(0, 256, (H, W, 3)),
        RNG.integers(20, 40, (H, W, 3)),
        np.full((H, W, 3), (7, 100, 255)),
        RNG.choice([0, 9, 255], (H, W, 3), p=[0.9, 0.05, 0.05]),
    ]
).astype(np.uint8)
operate = jax.jit(policies.operate)


def v2():
    from torchvision.transforms import v2

    return v2


def named(name):
    """torchvision's name of an operation."""
    space = v2().RandAugment._AUGMENTATION_SPACE
    return next(n for n in space if n.lower() == name.replace("_", ""))


def theirs(torchvision, images, name, magnitude):
    import torch

    if name == "solarize":
        magnitude /= 255
    policy = v2().RandAugment()
    tensor = torch.tensor(images.transpose(0, 3, 1, 2))
    interpolation = torchvision.transforms.InterpolationMode.NEAREST
    results = [
        policy._apply_image_or_video_transform(
            one, named(name), float(magnitude), interpolation, {torch.Tensor: None}
        )
        for one in tensor
    ]
    return np.stack([np.asarray(r) for r in results]).transpose(0, 2, 3, 1)


def ours(images, name, magnitude):
    n = len(images)
    operation = jnp.full(n, OPERATIONS.index(name))
    return np.asarray(operate(jnp.asarray(images, jnp.float32), operation, jnp.full(n, magnitude)))


# Share of pixels that may be a level apart where blending gives a whole number up to rounding,
# which is then cut off: in what order it is summed, and whether fused, is the compiler's choice.
MOSTLY_WHOLE = {"contrast": 0.6, "color": 0.3, "sharpness": 0.3}


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", OPERATIONS)
def test_every_operation_is_torchvisions(torchvision, name, channels):
    images = IMAGES[..., :channels]
    row = OPERATIONS.index(name)
    for table, bins in (
        (policies.rand_augment_magnitudes(H, W), (9, 30)),
        (policies.trivial_augment_magnitudes(), (7, 29)),
    ):
        for strength in bins:
            for sign in (1, -1) if SIGNED[row] else (1,):
                magnitude = np.float32(sign * table[row, strength])
                got = ours(images, name, magnitude)
                want = theirs(torchvision, images, name, magnitude)
                assert (got == np.round(got)).all()
                difference = np.abs(got - want)
                if name in GEOMETRIC:  # a pixel halfway between two may become either
                    assert (difference > 0).mean() < 0.01
                else:  # a level of which rounding decides
                    assert difference.max() <= 1
                    assert (difference > 0).mean() < MOSTLY_WHOLE.get(name, 0.05)


def test_magnitudes_are_torchvisions(torchvision):
    transforms = v2()
    for policy, table in (
        (transforms.RandAugment, policies.rand_augment_magnitudes(H, W)),
        (transforms.TrivialAugmentWide, policies.trivial_augment_magnitudes()),
    ):
        space = policy._AUGMENTATION_SPACE
        assert len(space) == len(OPERATIONS)
        for name, row, signed in zip(OPERATIONS, table, SIGNED, strict=True):
            magnitudes, their_signed = space[named(name)]
            want = magnitudes(BINS, H, W)
            want = np.zeros(BINS) if want is None else np.asarray(want, np.float64)
            if name.startswith("translate"):
                want = np.floor(want + 1e-4)  # in float32, 16 pixels are 15.999999
            if name == "solarize":
                want = 255 * want
            np.testing.assert_allclose(row, want, rtol=1e-5, atol=1e-4)
            assert signed == their_signed


def test_each_image_has_its_own_operation():
    """A batch in which every image has another operation equals batches of one operation."""
    n = len(OPERATIONS)
    images = np.repeat(RNG.integers(10, 240, (1, H, W, 3)), n, 0)
    magnitude = jnp.asarray(policies.rand_augment_magnitudes(H, W)[:, 15])
    together = operate(jnp.asarray(images, jnp.float32), jnp.arange(n), magnitude)
    for i, name in enumerate(OPERATIONS):
        np.testing.assert_array_equal(together[i], ours(images, name, magnitude[i])[0])
    assert len({np.asarray(image).tobytes() for image in together}) == n


@pytest.mark.parametrize("policy", ["rand", "trivial"])
def test_operations_strengths_and_signs_are_equally_frequent(monkeypatch, policy):
    drawn = []

    def spy(x, operation, magnitude):
        drawn.append((np.asarray(operation), np.asarray(magnitude)))
        return x

    monkeypatch.setattr(policies, "operate", spy)
    n = 7000
    x = jnp.asarray(RNG.integers(0, 256, (n, 2, 2, 1)) / 255, jnp.float32)
    if policy == "rand":
        out = policies.rand_augment(x, KEY, 2, 9)
        table = policies.rand_augment_magnitudes(2, 2)
        assert len(drawn) == 2
        assert (drawn[0][0] == drawn[1][0]).mean() < 0.1  # independent of one another
    else:
        out = policies.trivial_augment(x, KEY)
        table = policies.trivial_augment_magnitudes()
        assert len(drawn) == 1
    np.testing.assert_allclose(out, x, atol=1e-6)
    for operation, magnitude in drawn:
        counts = np.bincount(operation, minlength=len(OPERATIONS))
        assert len(counts) == len(OPERATIONS)
        assert (abs(counts - 500) < 5 * 500**0.5).all()
        for i, signed in enumerate(SIGNED):
            mine = magnitude[operation == i]
            allowed = table[i] if policy == "trivial" else table[i, 9:10]
            assert np.isin(np.abs(mine), allowed).all()
            if policy == "trivial":
                assert len(np.unique(np.abs(mine))) == len(np.unique(allowed))
            negative = (mine[mine != 0] < 0).mean() if (mine != 0).any() else 0
            assert abs(negative - 0.5 * bool(signed and (mine != 0).any())) < 0.12
