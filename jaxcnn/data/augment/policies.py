"""RandAugment, TrivialAugment, and the operations of all policies: each image has its own.

An operation is a setting of an affine map, of a look-up table, and of a blend with another image,
so all images go through the same three passes, whichever operation each has drawn.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from jaxcnn.data.augment.annotations import Array, Key, PerExample, SameImages
from jaxcnn.data.augment.colour import blend, gray
from jaxcnn.data.augment.geometry import warp

OPERATIONS = (
    "identity",
    "shear_x",
    "shear_y",
    "translate_x",
    "translate_y",
    "rotate",
    "brightness",
    "color",
    "contrast",
    "sharpness",
    "posterize",
    "solarize",
    "auto_contrast",
    "equalize",
)
"""What RandAugment and TrivialAugment draw from."""
ALL = (*OPERATIONS, "invert")
"""What AutoAugment knows besides."""
GEOMETRIC = OPERATIONS[1:6]
TABULATED = (
    "brightness",
    "contrast",
    "posterize",
    "solarize",
    "auto_contrast",
    "equalize",
    "invert",
)
SIGNED = np.array([1 <= OPERATIONS.index(name) <= 9 for name in OPERATIONS])
"""Operations whose magnitude is negative for half the images."""
BINS = 31
"""Number of strengths, 0 to 30, for which a table gives an operation's magnitude."""
RISING = np.linspace(0, 1, BINS)

Operations = Int[Array, " n"]
"""Index into ALL for each image."""


def rand_augment(x: SameImages, key: Key, num_ops: int, strength: int) -> SameImages:
    """Applies RandAugment (Cubuk et al. 2020): ``num_ops`` operations of one strength per image.

    Operations and magnitudes are torchvision's, applied to 8-bit levels; geometric ones take the
    nearest pixel, and what comes in is black. Images that are not RGB keep their colour.

    Args:
        x: ``(n, h, w, c)`` images in [0, 1].
        key: random key of this step.
        num_ops: operations, one after the other.
        strength: 0 to 30.
    """
    table = jnp.asarray(rand_augment_magnitudes(x.shape[1], x.shape[2]))
    levels = jnp.round(x * 255)
    for step_key in jax.random.split(key, num_ops):
        operation_key, sign_key = jax.random.split(step_key)
        operation = jax.random.randint(operation_key, x.shape[:1], 0, len(OPERATIONS))
        magnitude = signed(table[operation, strength], operation, sign_key)
        levels = operate(levels, operation, magnitude)
    return levels / 255


def trivial_augment(x: SameImages, key: Key) -> SameImages:
    """Applies wide TrivialAugment (Müller & Hutter 2021): one operation of a random strength.

    It works as :func:`rand_augment` does, with wider magnitudes.
    """
    table = jnp.asarray(trivial_augment_magnitudes())
    operation_key, strength_key, sign_key = jax.random.split(key, 3)
    operation = jax.random.randint(operation_key, x.shape[:1], 0, len(OPERATIONS))
    strength = jax.random.randint(strength_key, x.shape[:1], 0, BINS)
    magnitude = signed(table[operation, strength], operation, sign_key)
    return operate(jnp.round(x * 255), operation, magnitude) / 255


def signed(
    magnitude: Float[Array, "*of"], operation: Int[Array, "*of"], key: Key
) -> Float[Array, "*of"]:
    """Makes the magnitudes of half the operations negative, of those that have a direction."""
    directed = jnp.asarray([*SIGNED, False])[operation]
    negative = jax.random.bernoulli(key, 0.5, magnitude.shape) & directed
    return jnp.where(negative, -magnitude, magnitude)


def rand_augment_magnitudes(height: int, width: int) -> Float[np.ndarray, "ops bins"]:
    """Returns magnitudes by operation and strength: pixels, degrees, changes, bits or levels."""
    translation = 150 / 331 * np.array([height, width])
    table = magnitudes(0.3, translation[1], translation[0], 30.0, 0.9, 8 - 4 * RISING)
    return table[: len(OPERATIONS)]


def trivial_augment_magnitudes() -> Float[np.ndarray, "ops bins"]:
    """Returns wider magnitudes than :func:`rand_augment_magnitudes` does, in the same units."""
    return magnitudes(0.99, 32.0, 32.0, 135.0, 0.99, 8 - 6 * RISING)[: len(OPERATIONS)]


def magnitudes(
    shear: float,
    right: float,
    down: float,
    degrees: float,
    change: float,
    bits: Float[np.ndarray, " bins"],
) -> Float[np.ndarray, "ops bins"]:
    """Returns magnitudes by operation and strength, all but bits rising evenly from 0 to these."""
    rising = np.linspace(0, 1, len(bits))
    named = {
        "shear_x": shear * rising,
        "shear_y": shear * rising,
        "translate_x": np.floor(right * rising + 1e-6),
        "translate_y": np.floor(down * rising + 1e-6),
        "rotate": degrees * rising,
        "posterize": np.round(bits),
        "solarize": 255 * (1 - rising),
    }
    named |= dict.fromkeys(("brightness", "color", "contrast", "sharpness"), change * rising)
    rows = [named.get(name, np.zeros(len(bits))) for name in ALL]
    return np.stack(rows).astype(np.float32)


def operate(
    x: SameImages, operation: Operations, magnitude: PerExample, *, bilinear: bool = False
) -> SameImages:
    """Applies one operation to each image.

    Args:
        x: ``(n, h, w, c)`` images, whole numbers from 0 to 255.
        operation: index into ALL.
        magnitude: magnitude of the operation, with its sign.
        bilinear: interpolates in geometric operations; otherwise the nearest pixel is taken.

    Returns:
        Images like ``x``.
    """
    chosen = {name: operation == i for i, name in enumerate(ALL)}
    # The branches also keep XLA from computing a pass again for each use of each pixel.
    x = jax.lax.cond(
        _any(chosen, GEOMETRIC),
        lambda x, matrix: jnp.round(warp(x, matrix, bilinear=bilinear)),
        lambda x, matrix: x,
        x,
        _matrix(chosen, magnitude, x.shape[1], x.shape[2]),
    )
    x = jax.lax.cond(
        _any(chosen, TABULATED), _look_up, lambda x, table: x, x, _table(x, chosen, magnitude)
    )
    color, sharpness = (chosen[k][:, None, None, None] for k in ("color", "sharpness"))
    other = jnp.where(color, jnp.floor(gray(x)), x) if x.shape[-1] == 3 else x
    other = jnp.where(sharpness, smoothed(x), other)
    factor = jnp.where(chosen["color"] | chosen["sharpness"], 1 + magnitude, 1)
    return jnp.clip(jnp.floor(blend(x, other, factor)), 0, 255)


def _any(chosen: dict[str, jax.Array], names: tuple[str, ...]) -> jax.Array:
    return jnp.stack([chosen[name] for name in names]).any()


def _matrix(
    chosen: dict[str, jax.Array], magnitude: PerExample, height: int, width: int
) -> Float[Array, "n 2 3"]:
    """Returns the affine map for :func:`warp`: shears keep the first row or column where it is."""
    one, zero = jnp.ones_like(magnitude), jnp.zeros_like(magnitude)

    def of(name: str) -> jax.Array:
        return jnp.where(chosen[name], magnitude, zero)

    angle = jnp.deg2rad(of("rotate"))
    cos, sin = jnp.where(chosen["rotate"], jnp.cos(angle), one), jnp.sin(angle)
    down = of("shear_y") * (width / 2) - of("translate_y")
    right = of("shear_x") * (height / 2) - of("translate_x")
    row = jnp.stack([cos, sin + of("shear_y"), down], axis=1)
    column = jnp.stack([of("shear_x") - sin, cos, right], axis=1)
    return jnp.stack([row, column], axis=1)


def _table(
    x: SameImages, chosen: dict[str, jax.Array], magnitude: PerExample
) -> Float[Array, "n c 256"]:
    """Returns what each level becomes, where that depends on the level alone."""
    count = histogram(x)
    level = jnp.arange(256, dtype=jnp.float32)[None, None]
    magnitude = magnitude[:, None, None]
    factor = 1 + magnitude
    _, h, w, _ = x.shape
    mean = gray((count * level).sum(axis=-1)[:, None, None] / (h * w))[:, 0]
    step = jnp.exp2(8 - magnitude)
    tables = {
        "brightness": factor * level,
        "contrast": factor * level + (1 - factor) * mean,
        "posterize": jnp.floor(level / step) * step,
        "solarize": jnp.where(level >= magnitude, 255 - level, level),
        "auto_contrast": auto_contrast_table(count),
        "equalize": equalize_table(count),
        "invert": 255 - level,
    }
    result = jnp.broadcast_to(level, count.shape)
    for name, table in tables.items():
        result = jnp.where(chosen[name][:, None, None], table, result)
    return jnp.clip(jnp.floor(result), 0, 255)


def _look_up(x: SameImages, table: Float[Array, "n c 256"]) -> SameImages:
    n, h, w, c = x.shape

    def one(image: jax.Array, table: jax.Array) -> jax.Array:
        return jnp.take_along_axis(table, image.T, axis=1, mode="clip").T

    return jax.vmap(one)(x.reshape(n, h * w, c).astype(jnp.int32), table).reshape(x.shape)


def histogram(x: SameImages) -> Int[Array, "n c 256"]:
    """Counts the pixels of each level, from 0 to 255."""
    n, h, w, c = x.shape
    channel = (jnp.arange(n)[:, None, None] * c + jnp.arange(c)[None, None]) * 256
    index = x.reshape(n, h * w, c).astype(jnp.int32) + channel
    return jnp.zeros(n * c * 256, jnp.int32).at[index.reshape(-1)].add(1).reshape(n, c, 256)


def auto_contrast_table(count: Int[Array, "n c 256"]) -> Float[Array, "n c 256"]:
    """Stretches the levels that occur over the whole range; one level alone stays."""
    level = jnp.arange(256, dtype=jnp.float32)[None, None]
    low = jnp.argmax(count > 0, axis=-1, keepdims=True)
    high = 255 - jnp.argmax(count[..., ::-1] > 0, axis=-1, keepdims=True)
    return jnp.where(high > low, (level - low) * 255 / jnp.maximum(high - low, 1), level)


def equalize_table(count: Int[Array, "n c 256"]) -> Float[Array, "n c 256"]:
    """Spreads the levels so that all are about equally frequent, as Pillow's ``equalize``.

    With ``before`` the number of pixels below a level and ``step`` the 255th part of the number
    of pixels below the highest level that occurs, rounded down, a level becomes
    ``(before + step // 2) // step``; where step is 0 the image stays.
    """
    before = jnp.cumsum(count, axis=-1) - count
    step = jnp.max(jnp.where(count > 0, before, 0), axis=-1, keepdims=True) // 255
    table = ((before + step // 2) // jnp.maximum(step, 1)).astype(jnp.float32)
    level = jnp.arange(256, dtype=jnp.float32)[None, None]
    return jnp.where(step > 0, table, level)


def smoothed(x: SameImages) -> SameImages:
    """Returns the rounded 3x3 mean in which the centre counts five times; the border stays."""
    n, h, w, c = x.shape
    # Columns and channels as one axis, along which XLA on CPU vectorises.
    flat = jnp.pad(x.reshape(n, h, w * c), ((0, 0), (1, 1), (c, c)))
    rows = flat[:, :-2] + flat[:, 1:-1] + flat[:, 2:]
    nine = rows[:, :, : -2 * c] + rows[:, :, c:-c] + rows[:, :, 2 * c :]
    mean = jnp.round((nine.reshape(x.shape) + 4 * x) / 13)
    row, column = jnp.arange(h)[:, None, None], jnp.arange(w)[None, :, None]
    inner = (row > 0) & (row < h - 1) & (column > 0) & (column < w - 1)
    return jnp.where(inner[None], mean, x)
