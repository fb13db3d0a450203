"""Noise: in each value of each channel by itself."""

import jax
import jax.numpy as jnp

from jaxcnn.data.augment.annotations import Key
from jaxcnn.data.corruptions.planes import Planes
from jaxcnn.data.corruptions.severities import Level, Rows, at


def gaussian_noise(x: Planes, key: Key, rows: Rows, level: Level) -> Planes:
    """Adds normal noise: ``x + scale * z``."""
    (scale,) = at(rows, level)
    return x + scale * jax.random.normal(key, x.shape)


def speckle_noise(x: Planes, key: Key, rows: Rows, level: Level) -> Planes:
    """Adds normal noise in proportion to the value: ``x + scale * x * z``."""
    (scale,) = at(rows, level)
    return x + scale * x * jax.random.normal(key, x.shape)


def shot_noise(x: Planes, key: Key, rows: Rows, level: Level) -> Planes:
    """Counts photons: ``Poisson(photons * x) / photons``.

    A count is the first number whose cumulative probability is above a uniform draw. There are
    256 levels only, so those probabilities are worked out once for each; rejection, which
    ``jax.random.poisson`` does, takes fifty times as long.
    """
    (photons,) = at(rows, level)
    most = int(rows.max() + 8 * rows.max() ** 0.5) + 8
    rate = photons * jnp.arange(256, dtype=jnp.float32)[:, None] / 255
    count = jnp.arange(most, dtype=jnp.float32)[None]
    mass = jnp.exp(jax.scipy.special.xlogy(count, rate) - rate - jax.lax.lgamma(count + 1))
    reached = jnp.cumsum(mass, axis=1)
    reached = (reached / reached[:, -1:]).reshape(-1)
    drawn = jax.random.uniform(key, x.shape)
    first = jnp.round(x * 255).astype(jnp.int32) * most
    # The position within the level's part of the table, by halves.
    count = jnp.zeros(x.shape, jnp.int32)
    for bit in reversed(range(most.bit_length())):
        there = count + (1 << bit)
        below = reached[first + jnp.minimum(there, most) - 1] <= drawn
        count = jnp.where(below & (there <= most), there, count)
    return count / photons


def impulse_noise(x: Planes, key: Key, rows: Rows, level: Level) -> Planes:
    """Sets a share of the values to 0 or 1, either with probability 1/2 (salt and pepper)."""
    (amount,) = at(rows, level)
    drawn = jax.random.uniform(key, x.shape)
    return jnp.where(drawn < amount / 2, 0.0, jnp.where(drawn >= 1 - amount / 2, 1.0, x))
