"""The ways in which pooling over windows is carried out, forward and backward.

A maximum's gradient goes to the first of equals in row-major order, as XLA's does, in every one
of them. (A window that holds a NaN passes no gradient, except through XLA's own operation.)
"""

import dataclasses
import functools
import itertools
import operator
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jaxtyping import Float

from jaxcnn.ops.annotations import ArrayInput, Pairs
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
    def rank(self) -> int:
        """The number of spatial dimensions."""
        return len(self.window)

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

    @property
    def disjoint(self) -> bool:
        """The windows tile the input: no overlap, no gap."""
        return self.window == self.stride and max(self.dilation) == 1

    @property
    def taps(self) -> list[tuple[int, ...]]:
        """The positions within a window, in row-major order."""
        return list(itertools.product(*(range(k) for k in self.window)))


def _reduce_window(spec: PoolSpec, x: Array, identity: float, reducer: Callable[..., Any]) -> Array:
    return lax.reduce_window(
        x,
        np.asarray(identity, x.dtype),  # concrete, or lax does not see a maximum or a sum in it
        reducer,
        (1, *spec.window, 1),
        (1, *spec.stride, 1),
        ((0, 0), *spec.padding, (0, 0)),
        window_dilation=(1, *spec.dilation, 1),
    )


def lax_max_forward(spec: PoolSpec, x: Float[Array, "n *s c"]) -> Float[Array, "n *o c"]:
    """XLA's reduce_window."""
    return _reduce_window(spec, x, -np.inf, lax.max)


def lax_sum_forward(spec: PoolSpec, x: Float[Array, "n *s c"]) -> Float[Array, "n *o c"]:
    """XLA's reduce_window."""
    return _reduce_window(spec, x, 0.0, lax.add)


def lax_max_gradient(
    spec: PoolSpec, x: Float[Array, "n *s c"], y: Float[Array, "n *o c"], dy: Float[Array, "n *o c"]
) -> Float[Array, "n *s c"]:
    """XLA's select-and-scatter: the first maximum of a window, in row-major order, gets it all."""
    _, pullback = jax.vjp(functools.partial(lax_max_forward, spec), x)
    (dx,) = pullback(dy)
    return dx


def lax_sum_gradient(spec: PoolSpec, dy: Float[Array, "n *o c"]) -> Float[Array, "n *s c"]:
    """What differentiation of ``lax.reduce_window`` gives."""
    x = jax.ShapeDtypeStruct(spec.x_shape, dy.dtype)
    (dx,) = jax.linear_transpose(functools.partial(lax_sum_forward, spec), x)(dy)
    return dx


def pad_spatial(spec: PoolSpec, x: Array, value: float) -> Array:
    """Puts the pool's padding around x."""
    if all(pair == (0, 0) for pair in spec.padding):
        return x
    config = [(0, 0, 0), *((lo, hi, 0) for lo, hi in spec.padding), (0, 0, 0)]
    return lax.pad(x, np.asarray(value, x.dtype), config)


def _crop_padding(spec: PoolSpec, padded: Array) -> Array:
    """Undoes ``pad_spatial``."""
    starts = [lo for lo, _ in spec.padding]
    return lax.slice(
        padded,
        (0, *starts, 0),
        (
            padded.shape[0],
            *(lo + n for lo, n in zip(starts, spec.spatial, strict=True)),
            padded.shape[-1],
        ),
    )


def tap_slice(spec: PoolSpec, padded: Array, tap: tuple[int, ...]) -> Array:
    """The element at one tap of every window."""
    starts = [t * d for t, d in zip(tap, spec.dilation, strict=True)]
    limits = [
        start + (n - 1) * s + 1
        for start, n, s in zip(starts, spec.out_spatial, spec.stride, strict=True)
    ]
    return lax.slice(
        padded, (0, *starts, 0), (padded.shape[0], *limits, padded.shape[-1]), (1, *spec.stride, 1)
    )


def _row_taps(spec: PoolSpec, x: Array, axis: int) -> list[Array]:
    """The elements of every window along one spatial axis (0 is the first)."""
    k, s, d, out = (
        spec.window[axis],
        spec.stride[axis],
        spec.dilation[axis],
        spec.out_spatial[axis],
    )
    return [
        lax.slice_in_dim(x, t * d, t * d + (out - 1) * s + 1, s, axis=axis + 1) for t in range(k)
    ]


def _separable(spec: PoolSpec, padded: Array, combine: Callable[..., Array]) -> list[Array]:
    """Reduces one axis after the other, the last first; returns every stage, the result last."""
    stages = [padded]
    for axis in reversed(range(spec.rank)):
        stages.append(functools.reduce(combine, _row_taps(spec, stages[-1], axis)))
    return stages


def separable_max_forward(spec: PoolSpec, x: Float[Array, "n *s c"]) -> Float[Array, "n *o c"]:
    """The maximum of shifted slices, axis by axis: k + k comparisons instead of k k."""
    return _separable(spec, pad_spatial(spec, x, -np.inf), jnp.maximum)[-1]


def separable_sum_forward(spec: PoolSpec, x: Float[Array, "n *s c"]) -> Float[Array, "n *o c"]:
    """The sum of shifted slices, axis by axis."""
    return _separable(spec, pad_spatial(spec, x, 0.0), operator.add)[-1]


def separable_max_gradient(
    spec: PoolSpec, x: Float[Array, "n *s c"], y: Float[Array, "n *o c"], dy: Float[Array, "n *o c"]
) -> Float[Array, "n *s c"]:
    """Axis by axis, back from the first: the first row that holds the maximum, then its column."""
    padded = pad_spatial(spec, x, -np.inf)
    stages = _separable(spec, padded, jnp.maximum)
    for axis in range(spec.rank):
        before, after = stages[spec.rank - axis - 1], stages[spec.rank - axis]
        # Held apart, each stage is one pass over memory; fused, it is computed again per tap.
        after, dy = lax.optimization_barrier((after, dy))
        dy = _first_in_row(spec, before, after, dy, axis)
    return _crop_padding(spec, dy)


def _first_in_row(spec: PoolSpec, before: Array, after: Array, dy: Array, axis: int) -> Array:
    """Gives each window's gradient to the first of its elements along one axis that equals it."""
    n, s, d = before.shape[axis + 1], spec.stride[axis], spec.dilation[axis]
    taken = jnp.zeros(after.shape, bool)
    total = jnp.zeros(before.shape, dy.dtype)
    for t, part in enumerate(_row_taps(spec, before, axis)):
        equal = part == after
        share = jnp.where(equal & ~taken, dy, 0)
        taken = taken | equal
        config = [(0, 0, 0)] * before.ndim
        config[axis + 1] = (t * d, n - (t * d + (after.shape[axis + 1] - 1) * s + 1), s - 1)
        total = total + lax.pad(share, np.asarray(0, dy.dtype), config)
    return total


def separable_sum_gradient(spec: PoolSpec, dy: Float[Array, "n *o c"]) -> Float[Array, "n *s c"]:
    """The cotangent, spread out by the stride, summed over windows of stride 1."""
    config = []
    for n, o, k, s, d, (lo, _) in zip(
        spec.spatial,
        spec.out_spatial,
        spec.window,
        spec.stride,
        spec.dilation,
        spec.padding,
        strict=True,
    ):
        config.append((d * (k - 1) - lo, n + lo - ((o - 1) * s + 1), s - 1))
    spread = lax.pad(dy, np.asarray(0, dy.dtype), [(0, 0, 0), *config, (0, 0, 0)])
    ones = (1,) * spec.rank
    whole = PoolSpec(spread.shape, spec.window, ones, ((0, 0),) * spec.rank, spec.dilation)
    return _separable(whole, spread, operator.add)[-1]


def _tiles(spec: PoolSpec, x: Array, fill: float) -> Array:
    """Disjoint windows side by side: (n, o1, k1, o2, k2, ..., c)."""
    padded = pad_spatial(spec, x, fill)
    used = [o * k for o, k in zip(spec.out_spatial, spec.window, strict=True)]
    cropped = padded[(slice(None), *(slice(0, u) for u in used))]
    split = [size for o, k in zip(spec.out_spatial, spec.window, strict=True) for size in (o, k)]
    return cropped.reshape(x.shape[0], *split, x.shape[-1])


def _untile(spec: PoolSpec, tiles: Array) -> Array:
    """Back to the input's shape; what no window covered gets zeros."""
    used = [o * k for o, k in zip(spec.out_spatial, spec.window, strict=True)]
    padded = tiles.reshape(tiles.shape[0], *used, tiles.shape[-1])
    config = [
        (-lo, lo + n - u, 0) for (lo, _), n, u in zip(spec.padding, spec.spatial, used, strict=True)
    ]
    return lax.pad(padded, np.asarray(0, tiles.dtype), [(0, 0, 0), *config, (0, 0, 0)])


def _within(spec: PoolSpec) -> tuple[int, ...]:
    """The axes of ``_tiles`` that run within a window."""
    return tuple(range(2, 2 * spec.rank + 1, 2))


def _first_tap(spec: PoolSpec, taps: list[Array], y: Array) -> Array:
    """The number of the first tap that equals the maximum."""
    dtype = np.int8 if len(taps) < np.iinfo(np.int8).max else np.int32
    first = jnp.full(y.shape, len(taps), dtype)
    for number, part in reversed(list(enumerate(taps))):
        first = jnp.where(part == y, dtype(number), first)
    return first


def reshape_max_gradient(
    spec: PoolSpec, x: Float[Array, "n *s c"], y: Float[Array, "n *o c"], dy: Float[Array, "n *o c"]
) -> Float[Array, "n *s c"]:
    """Disjoint windows: each element asks whether it is the first maximum of its own window."""
    tiles = _tiles(spec, x, -np.inf)
    whole = slice(None)
    taps = [
        tiles[(whole, *itertools.chain.from_iterable((whole, t) for t in tap))] for tap in spec.taps
    ]
    first = jnp.expand_dims(_first_tap(spec, taps, y), _within(spec))
    number = jnp.zeros(tiles.shape, first.dtype)
    for axis, k in zip(_within(spec), spec.window, strict=True):
        number = number * first.dtype.type(k) + lax.broadcasted_iota(first.dtype, tiles.shape, axis)
    return _untile(spec, jnp.where(number == first, jnp.expand_dims(dy, _within(spec)), 0))


def reshape_sum_forward(spec: PoolSpec, x: Float[Array, "n *s c"]) -> Float[Array, "n *o c"]:
    """Disjoint windows: a sum over the axes within each."""
    return _tiles(spec, x, 0.0).sum(axis=_within(spec))


def reshape_sum_gradient(spec: PoolSpec, dy: Float[Array, "n *o c"]) -> Float[Array, "n *s c"]:
    """Disjoint windows: every element gets its window's cotangent."""
    split = [size for o, k in zip(spec.out_spatial, spec.window, strict=True) for size in (o, k)]
    tiles = (dy.shape[0], *split, dy.shape[-1])
    return _untile(spec, jnp.broadcast_to(jnp.expand_dims(dy, _within(spec)), tiles))


def phases_max_gradient(
    spec: PoolSpec, x: Float[Array, "n *s c"], y: Float[Array, "n *o c"], dy: Float[Array, "n *o c"]
) -> Float[Array, "n *s c"]:
    """Sorts the input's positions by their remainder modulo the stride, sums, and interleaves.

    Positions with one remainder are covered by the same taps, so that each class is a sum of
    plain shifts of the masked cotangent, with no holes to fill.
    """
    padded = pad_spatial(spec, x, -np.inf)
    taps = [tap_slice(spec, padded, tap) for tap in spec.taps]
    first = lax.optimization_barrier(_first_tap(spec, taps, y))  # once, not again per class
    zero = np.asarray(0, dy.dtype)
    rows = [-(-n // s) for n, s in zip(padded.shape[1:-1], spec.stride, strict=True)]
    numbers = {tap: number for number, tap in enumerate(spec.taps)}
    classes = []
    for remainder in itertools.product(*(range(s) for s in spec.stride)):
        total = jnp.zeros((x.shape[0], *rows, x.shape[-1]), dy.dtype)
        members = (
            range(r, k, s) for r, k, s in zip(remainder, spec.window, spec.stride, strict=True)
        )
        for tap in itertools.product(*members):
            share = jnp.where(first == first.dtype.type(numbers[tap]), dy, 0)
            shifts = [t // s for t, s in zip(tap, spec.stride, strict=True)]
            config = [
                (shift, q - o - shift, 0)
                for shift, q, o in zip(shifts, rows, spec.out_spatial, strict=True)
            ]
            total = total + lax.pad(share, zero, [(0, 0, 0), *config, (0, 0, 0)])
        classes.append(total)
    # Interleave one axis after the other, the last first. (One stack and one transpose would be
    # the same array, five times slower.)
    for axis in reversed(range(spec.rank)):
        s = spec.stride[axis]
        classes = [jnp.stack(classes[i : i + s], axis=axis + 2) for i in range(0, len(classes), s)]
    full = [q * s for q, s in zip(rows, spec.stride, strict=True)]
    return _crop_padding(spec, classes[0].reshape(x.shape[0], *full, x.shape[-1]))


MAX_FORWARD = {"lax": lax_max_forward, "separable": separable_max_forward}
MAX_GRADIENT = {
    "lax": lax_max_gradient,
    "reshape": reshape_max_gradient,
    "phases": phases_max_gradient,
    "separable": separable_max_gradient,
}
SUM_FORWARD = {
    "lax": lax_sum_forward,
    "reshape": reshape_sum_forward,
    "separable": separable_sum_forward,
}
SUM_GRADIENT = {
    "lax": lax_sum_gradient,
    "reshape": reshape_sum_gradient,
    "separable": separable_sum_gradient,
}


def _first_max(x: Array, axis: int) -> Array:
    return x.max(axis=axis)


def _first_max_fwd(x: Array, axis: int) -> tuple[Array, tuple[Array, Array]]:
    x = lax.optimization_barrier(x)  # as for max-pools, in ``lowering``
    y = x.max(axis=axis)
    return y, (x, y)


def _first_max_bwd(
    axis: int, residuals: tuple[Array, Array], cotangent: ArrayInput
) -> tuple[Array]:
    (x, y), dy = residuals, jnp.asarray(cotangent)
    first = jnp.argmax(x == jnp.expand_dims(y, axis), axis=axis)
    position = lax.broadcasted_iota(first.dtype, x.shape, axis)
    chosen = position == jnp.expand_dims(first, axis)
    return (jnp.where(chosen, jnp.expand_dims(dy, axis), 0),)


# The maximum along an axis, whose gradient goes to the first of equals (jnp.max would split it).
first_max = jax.custom_vjp(_first_max, nondiff_argnums=(1,))
first_max.defvjp(_first_max_fwd, _first_max_bwd)
