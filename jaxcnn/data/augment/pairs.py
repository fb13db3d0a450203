"""AutoAugment: for each image, a pair of operations that was found by search on a dataset."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from jaxcnn.data.augment.annotations import Key, SameImages
from jaxcnn.data.augment.policies import ALL, magnitudes, operate, signed

RISING = np.linspace(0, 1, 10)
"""Ten strengths, 0 to 9."""
Part = tuple[str, float, int]
"""An operation, its probability, and its strength, which only some operations have."""
POLICIES: dict[str, tuple[tuple[Part, Part], ...]] = {
    "imagenet": (
        (("posterize", 0.4, 8), ("rotate", 0.6, 9)),
        (("solarize", 0.6, 5), ("auto_contrast", 0.6, 0)),
        (("equalize", 0.8, 0), ("equalize", 0.6, 0)),
        (("posterize", 0.6, 7), ("posterize", 0.6, 6)),
        (("equalize", 0.4, 0), ("solarize", 0.2, 4)),
        (("equalize", 0.4, 0), ("rotate", 0.8, 8)),
        (("solarize", 0.6, 3), ("equalize", 0.6, 0)),
        (("posterize", 0.8, 5), ("equalize", 1.0, 0)),
        (("rotate", 0.2, 3), ("solarize", 0.6, 8)),
        (("equalize", 0.6, 0), ("posterize", 0.4, 6)),
        (("rotate", 0.8, 8), ("color", 0.4, 0)),
        (("rotate", 0.4, 9), ("equalize", 0.6, 0)),
        (("equalize", 0.0, 0), ("equalize", 0.8, 0)),
        (("invert", 0.6, 0), ("equalize", 1.0, 0)),
        (("color", 0.6, 4), ("contrast", 1.0, 8)),
        (("rotate", 0.8, 8), ("color", 1.0, 2)),
        (("color", 0.8, 8), ("solarize", 0.8, 7)),
        (("sharpness", 0.4, 7), ("invert", 0.6, 0)),
        (("shear_x", 0.6, 5), ("equalize", 1.0, 0)),
        (("color", 0.4, 0), ("equalize", 0.6, 0)),
        (("equalize", 0.4, 0), ("solarize", 0.2, 4)),
        (("solarize", 0.6, 5), ("auto_contrast", 0.6, 0)),
        (("invert", 0.6, 0), ("equalize", 1.0, 0)),
        (("color", 0.6, 4), ("contrast", 1.0, 8)),
        (("equalize", 0.8, 0), ("equalize", 0.6, 0)),
    ),
    "cifar10": (
        (("invert", 0.1, 0), ("contrast", 0.2, 6)),
        (("rotate", 0.7, 2), ("translate_x", 0.3, 9)),
        (("sharpness", 0.8, 1), ("sharpness", 0.9, 3)),
        (("shear_y", 0.5, 8), ("translate_y", 0.7, 9)),
        (("auto_contrast", 0.5, 0), ("equalize", 0.9, 0)),
        (("shear_y", 0.2, 7), ("posterize", 0.3, 7)),
        (("color", 0.4, 3), ("brightness", 0.6, 7)),
        (("sharpness", 0.3, 9), ("brightness", 0.7, 9)),
        (("equalize", 0.6, 0), ("equalize", 0.5, 0)),
        (("contrast", 0.6, 7), ("sharpness", 0.6, 5)),
        (("color", 0.7, 7), ("translate_x", 0.5, 8)),
        (("equalize", 0.3, 0), ("auto_contrast", 0.4, 0)),
        (("translate_y", 0.4, 3), ("sharpness", 0.2, 6)),
        (("brightness", 0.9, 6), ("color", 0.2, 8)),
        (("solarize", 0.5, 2), ("invert", 0.0, 0)),
        (("equalize", 0.2, 0), ("auto_contrast", 0.6, 0)),
        (("equalize", 0.2, 0), ("equalize", 0.6, 0)),
        (("color", 0.9, 9), ("equalize", 0.6, 0)),
        (("auto_contrast", 0.8, 0), ("solarize", 0.2, 8)),
        (("brightness", 0.1, 3), ("color", 0.7, 0)),
        (("solarize", 0.4, 5), ("auto_contrast", 0.9, 0)),
        (("translate_y", 0.9, 9), ("translate_y", 0.7, 9)),
        (("auto_contrast", 0.9, 0), ("solarize", 0.8, 3)),
        (("equalize", 0.8, 0), ("invert", 0.1, 0)),
        (("translate_y", 0.7, 9), ("auto_contrast", 0.9, 0)),
    ),
    "svhn": (
        (("shear_x", 0.9, 4), ("invert", 0.2, 0)),
        (("shear_y", 0.9, 8), ("invert", 0.7, 0)),
        (("equalize", 0.6, 0), ("solarize", 0.6, 6)),
        (("invert", 0.9, 0), ("equalize", 0.6, 0)),
        (("equalize", 0.6, 0), ("rotate", 0.9, 3)),
        (("shear_x", 0.9, 4), ("auto_contrast", 0.8, 0)),
        (("shear_y", 0.9, 8), ("invert", 0.4, 0)),
        (("shear_y", 0.9, 5), ("solarize", 0.2, 6)),
        (("invert", 0.9, 0), ("auto_contrast", 0.8, 0)),
        (("equalize", 0.6, 0), ("rotate", 0.9, 3)),
        (("shear_x", 0.9, 4), ("solarize", 0.3, 3)),
        (("shear_y", 0.8, 8), ("invert", 0.7, 0)),
        (("equalize", 0.9, 0), ("translate_y", 0.6, 6)),
        (("invert", 0.9, 0), ("equalize", 0.6, 0)),
        (("contrast", 0.3, 3), ("rotate", 0.8, 4)),
        (("invert", 0.8, 0), ("translate_y", 0.0, 2)),
        (("shear_y", 0.7, 6), ("solarize", 0.4, 8)),
        (("invert", 0.6, 0), ("rotate", 0.8, 4)),
        (("shear_y", 0.3, 7), ("translate_x", 0.9, 3)),
        (("shear_x", 0.1, 6), ("invert", 0.6, 0)),
        (("solarize", 0.7, 2), ("translate_y", 0.6, 7)),
        (("shear_y", 0.8, 4), ("invert", 0.8, 0)),
        (("shear_x", 0.7, 9), ("translate_y", 0.8, 3)),
        (("shear_y", 0.8, 5), ("auto_contrast", 0.7, 0)),
        (("shear_x", 0.7, 2), ("invert", 0.1, 0)),
    ),
}
"""Cubuk et al. 2019, tables 7 to 9, as in torchvision."""


def auto_augment(x: SameImages, key: Key, policy: str) -> SameImages:
    """Applies AutoAugment (Cubuk et al. 2019): one of a policy's pairs of operations to each image.

    Each operation of the pair is applied with a probability of its own. Operations are those of
    :func:`.policies.rand_augment`, and inversion.

    Args:
        x: ``(n, h, w, c)`` images in [0, 1].
        key: random key of this step.
        policy: the dataset that the pairs were found on, one of POLICIES.
    """
    operation, probability, strength = tables(policy)
    table = jnp.asarray(auto_augment_magnitudes(x.shape[1], x.shape[2]))
    levels = jnp.round(x * 255)
    pair_key, *keys = jax.random.split(key, 3)
    pair = jax.random.randint(pair_key, x.shape[:1], 0, len(operation))
    for place, part_key in enumerate(keys):
        applied_key, sign_key = jax.random.split(part_key)
        applied = jax.random.bernoulli(applied_key, jnp.asarray(probability)[pair, place])
        chosen = jnp.where(applied, jnp.asarray(operation)[pair, place], ALL.index("identity"))
        magnitude = table[chosen, jnp.asarray(strength)[pair, place]]
        levels = operate(levels, chosen, signed(magnitude, chosen, sign_key))
    return levels / 255


def tables(
    policy: str,
) -> tuple[Int[np.ndarray, "pairs 2"], Float[np.ndarray, "pairs 2"], Int[np.ndarray, "pairs 2"]]:
    """Returns operations (index into ALL), probabilities and strengths of a policy's pairs."""
    pairs = POLICIES[policy]
    operation = np.array([[ALL.index(name) for name, _, _ in pair] for pair in pairs], np.int32)
    probability = np.array([[share for _, share, _ in pair] for pair in pairs], np.float32)
    strength = np.array([[number for _, _, number in pair] for pair in pairs], np.int32)
    return operation, probability, strength


def auto_augment_magnitudes(height: int, width: int) -> Float[np.ndarray, "ops 10"]:
    """Returns magnitudes by operation and strength: pixels, degrees, changes, bits or levels."""
    down, right = 150 / 331 * np.array([height, width])
    return magnitudes(0.3, right, down, 30.0, 0.9, 8 - 4 * RISING)
