"""The ways in which pooling over windows is carried out, forward and backward."""

import dataclasses
import functools
import itertools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from jaxcnn.ops.annotations import Pairs
from jaxcnn.ops.geometry import window_output_shape


@dataclasses.dataclass(frozen=True)
class PoolSpec:
    """Everything about a pool that is known while it is traced; padding may include ceil mode's."""

    x_shape: tuple[int, ...]
    window: tuple[int, ...]
    stride: tuple[int, ...]
    padding: Pairs
    dilation: tuple[int, ...]

    @property
    def spatial(self) -> tuple[int, ...]:
        """The input's spatial shape."""
        return self.x_shape[1:-1]

    @property
    def out_spatial(self) -> tuple[int, ...]:
        """The output's spatial shape."""
        return window_output_shape(
            "window", self.spatial, self.window, self.stride, self.padding, self.dilation
        )


def _reduce_window(spec: PoolSpec, x: Array, identity: float, reducer: Callable[..., Any]) -> Array:
    return lax.reduce_window(
        x,
        np.asarray(identity, x.dtype),  # concrete, or lax does not see a max or a sum in it
        reducer,
        (1, *spec.window, 1),
        (1, *spec.stride, 1),
        ((0, 0), *spec.padding, (0, 0)),
        window_dilation=(1, *spec.dilation, 1),
    )


def lax_max_forward(spec: PoolSpec, x: Array) -> Array:
    """XLA's reduce_window."""
    return _reduce_window(spec, x, -jnp.inf, lax.max)


def lax_sum_forward(spec: PoolSpec, x: Array) -> Array:
    """XLA's reduce_window."""
    return _reduce_window(spec, x, 0.0, lax.add)


def lax_max_gradient(spec: PoolSpec, x: Array, y: Array, dy: Array) -> Array:
    """XLA's select-and-scatter: the first maximum of a window, in row-major order, gets it all."""
    _, pullback = jax.vjp(functools.partial(lax_max_forward, spec), x)
    (dx,) = pullback(dy)
    return dx


def pad_spatial(spec: PoolSpec, x: Array, value: float) -> Array:
    """X with the pool's padding around it."""
    config = [(0, 0, 0), *((lo, hi, 0) for lo, hi in spec.padding), (0, 0, 0)]
    return lax.pad(x, jnp.asarray(value, x.dtype), config)


def tap_starts(spec: PoolSpec) -> list[tuple[int, ...]]:
    """Where each tap of the first window lies, in row-major order."""
    steps = (range(0, k * d, d) for k, d in zip(spec.window, spec.dilation, strict=True))
    return list(itertools.product(*steps))


def tap_slice(spec: PoolSpec, padded: Array, start: tuple[int, ...]) -> Array:
    """The element at one tap of every window."""
    limits = [
        t + (n - 1) * s + 1 for t, n, s in zip(start, spec.out_spatial, spec.stride, strict=True)
    ]
    return lax.slice(
        padded,
        (0, *start, 0),
        (padded.shape[0], *limits, padded.shape[-1]),
        (1, *spec.stride, 1),
    )


def mask_max_gradient(spec: PoolSpec, x: Array, y: Array, dy: Array) -> Array:
    """Compare every tap with the maximum; the first that equals it, row-major, gets it all.

    Without overlap the taps lie side by side in x, so their gradients interleave by a reshape;
    with overlap each is spread out by the stride and they add up.
    """
    padded = pad_spatial(spec, x, -jnp.inf)
    taken = jnp.zeros(y.shape, bool)
    total = jnp.zeros(padded.shape, dy.dtype)
    for start in tap_starts(spec):
        equal = tap_slice(spec, padded, start) == y
        share = jnp.where(equal & ~taken, dy, 0)
        taken = taken | equal
        after = [
            n - (t + (o - 1) * s + 1)
            for n, t, o, s in zip(
                padded.shape[1:-1], start, spec.out_spatial, spec.stride, strict=True
            )
        ]
        config = [(lo, hi, s - 1) for lo, hi, s in zip(start, after, spec.stride, strict=True)]
        total = total + lax.pad(share, jnp.zeros((), dy.dtype), [(0, 0, 0), *config, (0, 0, 0)])
    crop = [lo for lo, _ in spec.padding]
    return lax.slice(
        total,
        (0, *crop, 0),
        (x.shape[0], *(lo + n for lo, n in zip(crop, spec.spatial, strict=True)), x.shape[-1]),
    )


MAX_FORWARD = {"lax": lax_max_forward}
MAX_GRADIENT = {"lax": lax_max_gradient, "mask": mask_max_gradient}


def _first_max(x: Array, axis: int) -> Array:
    return x.max(axis=axis)


def _first_max_fwd(x: Array, axis: int) -> tuple[Array, tuple[Array, Array]]:
    y = x.max(axis=axis)
    return y, (x, y)


def _first_max_bwd(axis: int, residuals: tuple[Array, Array], dy: Array) -> tuple[Array]:
    x, y = residuals
    first = jnp.argmax(x == jnp.expand_dims(y, axis), axis=axis)
    position = lax.broadcasted_iota(first.dtype, x.shape, axis)
    chosen = position == jnp.expand_dims(first, axis)
    return (jnp.where(chosen, jnp.expand_dims(dy, axis), 0),)


# The maximum along an axis, whose gradient goes to the first of equals (jnp.max would split it).
first_max = jax.custom_vjp(_first_max, nondiff_argnums=(1,))
first_max.defvjp(_first_max_fwd, _first_max_bwd)
