"""What colours become: brightness, contrast, saturation and hue."""

import jax
import jax.numpy as jnp
from jaxtyping import Float

from jaxcnn.data.augment.annotations import Array, Key, PerExample, SameImages

# Channels are taken apart, and images are summed one axis after the other, since XLA on CPU does
# not vectorise over a last axis of three.


def gray(x: Float[Array, "n h w c"]) -> Float[Array, "n h w 1"]:
    """Returns the luma of RGB images (ITU-R BT.601), and the mean of any other channels."""
    if x.shape[-1] != 3:
        return x.mean(axis=-1, keepdims=True)
    return 0.2989 * x[..., :1] + 0.587 * x[..., 1:2] + 0.114 * x[..., 2:]


def spatial_mean(x: Float[Array, "n h w c"]) -> Float[Array, "n 1 1 c"]:
    """Returns the mean over all pixels of each image and channel."""
    return x.mean(axis=1, keepdims=True).mean(axis=2, keepdims=True)


def blend(x: SameImages, other: Float[Array, "n _ _ _"], factor: PerExample) -> SameImages:
    """Returns ``factor * x + (1 - factor) * other``; a factor above 1 leads away from ``other``."""
    factor = factor[:, None, None, None]
    return factor * x + (1 - factor) * other


def shift_hue(x: SameImages, turns: PerExample) -> SameImages:
    """Turns the hue of HSV by a part of the circle; images that are not RGB stay as they are.

    With ``v`` the largest channel, ``c`` the largest minus the smallest and ``h`` the hue in
    sixths of the circle, a channel is ``v - c * clip(min(k, 4 - k), 0, 1)`` where
    ``k = (h + offset) mod 6`` with offsets 5, 3, 1 for red, green, blue.
    """
    if x.shape[-1] != 3:
        return x
    r, g, b = x[..., 0], x[..., 1], x[..., 2]
    v = jnp.maximum(jnp.maximum(r, g), b)
    chroma = v - jnp.minimum(jnp.minimum(r, g), b)
    over = 1 / jnp.where(chroma == 0, 1, chroma)
    of_red, of_green, of_blue = (g - b) * over, 2 + (b - r) * over, 4 + (r - g) * over
    hue = jnp.where(v == r, of_red, jnp.where(v == g, of_green, of_blue))
    hue = hue + 6 * turns[:, None, None]

    def channel(offset: int) -> jax.Array:
        k = hue + offset
        k = k - 6 * jnp.floor(k / 6)
        return v - chroma * jnp.clip(jnp.minimum(k, 4 - k), 0, 1)

    return jnp.stack([channel(5), channel(3), channel(1)], axis=-1)


def color_jitter(
    x: SameImages, key: Key, brightness: float, contrast: float, saturation: float, hue: float
) -> SameImages:
    """Changes brightness, contrast, saturation and hue of each image, in a random order.

    Brightness blends with black, contrast with the mean grey value, saturation with the grey
    image, each with a factor uniform in ``[max(0, 1 - range), 1 + range]``; hue turns by a part of
    the circle uniform in ``[-range, range]`` (as torchvision's ColorJitter). Results are clipped.
    Where images are not RGB, only their brightness and contrast change.

    Args:
        x: ``(n, h, w, c)`` images in [0, 1].
        key: random key of this step.
        brightness: range of the factor; 0 leaves it out.
        contrast: range of the factor; 0 leaves it out.
        saturation: range of the factor; 0 leaves it out.
        hue: range of the turn, in [0, 0.5]; 0 leaves it out.
    """
    n = x.shape[0]
    ranges = {"brightness": brightness, "contrast": contrast}
    if x.shape[-1] == 3:
        ranges |= {"saturation": saturation, "hue": hue}
    ranges = {name: value for name, value in ranges.items() if value}
    order_key, key = jax.random.split(key)
    order = jnp.argsort(jax.random.uniform(order_key, (n, len(ranges))), axis=1)

    factors, turns = {}, jnp.zeros(n)
    for i, (name, value) in enumerate(ranges.items()):
        low, high = (-value, value) if name == "hue" else (max(0.0, 1 - value), 1 + value)
        drawn = jax.random.uniform(jax.random.fold_in(key, i), (n,), minval=low, maxval=high)
        if name == "hue":
            turns = drawn
        else:
            factors[name] = drawn

    for place in range(len(ranges)):
        now = {name: order[:, place] == i for i, name in enumerate(ranges)}
        factor, other = jnp.ones(n), jnp.zeros((n, 1, 1, 1))
        for name, drawn in factors.items():
            factor = jnp.where(now[name], drawn, factor)
        if "contrast" in now:
            chosen = now["contrast"][:, None, None, None]
            other = jnp.where(chosen, spatial_mean(gray(x)), other)
        if "saturation" in now:
            other = jnp.where(now["saturation"][:, None, None, None], gray(x), other)
        x = jnp.clip(blend(x, other, factor), 0, 1)
        if "hue" in now:
            x = shift_hue(x, jnp.where(now["hue"], turns, 0.0))
    return x
