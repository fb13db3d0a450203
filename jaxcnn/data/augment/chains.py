"""AugMix: an image mixed with what chains of operations make of it."""

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Float, Int

from jaxcnn.data.augment.annotations import Array, Key, SameImages
from jaxcnn.data.augment.policies import ALL, magnitudes, operate, signed

OPERATIONS = (
    "shear_x",
    "shear_y",
    "translate_x",
    "translate_y",
    "rotate",
    "posterize",
    "solarize",
    "auto_contrast",
    "equalize",
)
"""What is drawn from: the paper leaves out what resembles the corruptions of ImageNet-C, such as
brightness and contrast."""
CHAINS, LONGEST = 3, 3
"""The number of chains, and of the operations in the longest."""
RISING = np.linspace(0, 1, 10)
"""Ten strengths, of which a severity takes the first."""


def augmix(x: SameImages, key: Key, severity: int) -> SameImages:
    """Applies AugMix (Hendrycks et al. 2020) to each image.

    ``m x + (1 - m) sum_i w_i chain_i(x)``: three chains of one to three operations each, with
    weights ``w`` from Dirichlet(1, 1, 1) and ``m`` from Beta(1, 1). Operations are those of
    torchvision's AugMix with ``all_ops=False``, and geometric ones interpolate bilinearly. The
    consistency loss of the paper, which sees three views of each image, is not part of it.

    Args:
        x: ``(n, h, w, c)`` images in [0, 1].
        key: random key of this step.
        severity: an operation's strength is one of the first so many of ten.
    """
    n, h, w, _ = x.shape
    table = jnp.asarray(augmix_magnitudes(h, w))
    listed = jnp.array([ALL.index(name) for name in OPERATIONS])
    drawn, strength_key, sign_key, depth_key, weight_key, own_key = jax.random.split(key, 6)
    steps = (CHAINS, LONGEST, n)
    operation = listed[jax.random.randint(drawn, steps, 0, len(OPERATIONS))]
    strength = jax.random.randint(strength_key, steps, 0, severity)
    magnitude = signed(table[operation, strength], operation, sign_key)
    depth = jax.random.randint(depth_key, (CHAINS, 1, n), 1, LONGEST + 1)
    inside = jnp.arange(LONGEST)[None, :, None] < depth
    operation = jnp.where(inside, operation, ALL.index("identity"))
    weights = jax.random.dirichlet(weight_key, jnp.ones(CHAINS), (n,))
    own = jax.random.uniform(own_key, (n,))  # which is Beta(1, 1)
    return mixed(jnp.round(x * 255), operation, magnitude, weights, own) / 255


def mixed(
    x: SameImages,
    operation: Int[Array, "chains steps n"],
    magnitude: Float[Array, "chains steps n"],
    weights: Float[Array, "n chains"],
    own: Float[Array, " n"],
) -> SameImages:
    """Mixes images with what chains of operations make of them.

    Args:
        x: ``(n, h, w, c)`` images, whole numbers from 0 to 255.
        operation: index into ALL.
        magnitude: magnitude of each operation, with its sign.
        weights: weight of each chain.
        own: weight of the image itself; the chains have the rest.

    Returns:
        Images like ``x``.
    """

    def step(seen: SameImages, one: tuple[jax.Array, jax.Array]) -> tuple[SameImages, None]:
        return operate(seen, *one, bilinear=True), None

    def chain(
        total: SameImages, one: tuple[tuple[jax.Array, jax.Array], jax.Array]
    ) -> tuple[SameImages, None]:
        steps, weight = one
        seen, _ = lax.scan(step, x, steps)
        return total + weight[:, None, None, None] * seen, None

    share = own[:, None, None, None]
    weighted = (1 - own)[None] * weights.T
    total, _ = lax.scan(chain, share * x, ((operation, magnitude), weighted))
    # The weights add up to 1 but for rounding, which must not lower a whole number.
    return jnp.clip(jnp.floor(total + 1e-3), 0, 255)


def augmix_magnitudes(height: int, width: int) -> Float[np.ndarray, "ops 10"]:
    """Returns magnitudes by operation and strength: pixels, degrees, bits or levels."""
    return magnitudes(0.3, width / 3, height / 3, 30.0, 0.9, 4 - 4 * RISING)
