"""The ways in which one convolution is carried out: its forward pass and its two gradients.

With x of shape (n, *spatial, c) and w of shape (*kernel, c / groups, o), each function below is
exact and computes one of

* forward          y[i]  = sum over taps t, channels: x[i s + t d - p] w[t]
* input gradient   dx[j] = sum over i, t with i s + t d - p = j: dy[i] w[t]
* weight gradient  dw[t] = sum over images, i: x[i s + t d - p] dy[i]

They are functions of arrays and one static ``ConvSpec``; ``lowering`` says which is used.
"""

import dataclasses
import functools
import itertools
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import Array, lax
from jaxtyping import Float

from jaxcnn.ops.annotations import Pairs
from jaxcnn.ops.checks import wide
from jaxcnn.ops.geometry import window_output_shape
from jaxcnn.ops.native import calls


@dataclasses.dataclass(frozen=True)
class ConvSpec:
    """Everything about a convolution that is known while it is traced."""

    x_shape: tuple[int, ...]
    w_shape: tuple[int, ...]
    stride: tuple[int, ...]
    padding: Pairs
    dilation: tuple[int, ...]
    groups: int
    precision: lax.PrecisionLike = None
    preferred_element_type: str | None = None
    dtype: str = "float32"

    @property
    def spatial(self) -> tuple[int, ...]:
        """The input's spatial shape."""
        return self.x_shape[1:-1]

    @property
    def kernel(self) -> tuple[int, ...]:
        """The kernel's spatial shape."""
        return self.w_shape[:-2]

    @property
    def rank(self) -> int:
        """The number of spatial dimensions."""
        return len(self.kernel)

    @property
    def out_spatial(self) -> tuple[int, ...]:
        """The output's spatial shape."""
        return window_output_shape(
            "kernel", self.spatial, self.kernel, self.stride, self.padding, self.dilation
        )

    @property
    def in_channels(self) -> int:
        """Channels of x."""
        return self.x_shape[-1]

    @property
    def out_channels(self) -> int:
        """Channels of y."""
        return self.w_shape[-1]

    @property
    def unpadded(self) -> bool:
        """No side is padded."""
        return all(pair == (0, 0) for pair in self.padding)


def dimension_numbers(rank: int) -> tuple[str, str, str]:
    """The one layout of this package: channels last, kernels spatial-in-out."""
    space = "DHW"[3 - rank :]
    return (f"N{space}C", f"{space}IO", f"N{space}C")


def _convolve(
    spec: ConvSpec,
    x: Float[Array, "n *spatial c"],
    w: Float[Array, "*kernel i o"],
    *,
    padding: Pairs,
    stride: tuple[int, ...] | None = None,
    lhs_dilation: tuple[int, ...] | None = None,
    rhs_dilation: tuple[int, ...] | None = None,
    groups: int = 1,
) -> Float[Array, "n *out o"]:
    """A convolution in the canonical layout, its operands brought to one dtype."""
    dtype = jnp.result_type(x, w)
    return lax.conv_general_dilated(
        x.astype(dtype),
        w.astype(dtype),
        window_strides=stride or (1,) * spec.rank,
        padding=padding,
        lhs_dilation=lhs_dilation,
        rhs_dilation=rhs_dilation,
        dimension_numbers=dimension_numbers(spec.rank),
        feature_group_count=groups,
        precision=spec.precision,
        preferred_element_type=spec.preferred_element_type,
    )


def lax_forward(spec: ConvSpec, x: Array, w: Array) -> Array:
    """The plain convolution of XLA."""
    return lax.conv_general_dilated(
        x,
        w,
        window_strides=spec.stride,
        padding=spec.padding,
        rhs_dilation=spec.dilation,
        dimension_numbers=dimension_numbers(spec.rank),
        feature_group_count=spec.groups,
        precision=spec.precision,
        preferred_element_type=spec.preferred_element_type,
    )


def _transposed(linear: Callable[[Array], Array], shape: tuple[int, ...], dy: Array) -> Array:
    """The cotangent of the argument of a linear function, which is of this shape and dy's type."""
    (dx,) = jax.linear_transpose(linear, jax.ShapeDtypeStruct(shape, dy.dtype))(dy)
    return dx


def lax_input_gradient(spec: ConvSpec, w: Array, dy: Array) -> Array:
    """What differentiation of ``lax.conv_general_dilated`` gives."""
    return _transposed(lambda x: lax_forward(spec, x, w.astype(dy.dtype)), spec.x_shape, dy)


def lax_weight_gradient(spec: ConvSpec, x: Array, dy: Array) -> Array:
    """What differentiation of ``lax.conv_general_dilated`` gives."""
    return _transposed(lambda w: lax_forward(spec, x.astype(dy.dtype), w), spec.w_shape, dy)


def transpose_kernel(spec: ConvSpec, w: Array) -> Array:
    """The kernel of the input gradient: flipped, inputs and outputs of each group exchanged."""
    flipped = jnp.flip(w, tuple(range(spec.rank)))
    # (*k, c/g, g o/g) -> (*k, c/g, g, o/g) -> (*k, o/g, g, c/g) -> (*k, o/g, g c/g)
    grouped = flipped.reshape(*spec.kernel, w.shape[-2], spec.groups, -1)
    return jnp.swapaxes(grouped, -1, -3).reshape(*spec.kernel, -1, spec.in_channels)


def transpose_padding(spec: ConvSpec) -> Pairs:
    """The padding, after spreading out by the stride, that gives the input gradient its shape."""
    pairs = []
    for n, out, k, s, d, (lo, _) in zip(
        spec.spatial,
        spec.out_spatial,
        spec.kernel,
        spec.stride,
        spec.dilation,
        spec.padding,
        strict=True,
    ):
        reach = d * (k - 1)
        spread = (out - 1) * s + 1
        pairs.append((reach - lo, n + lo - spread))
    return tuple(pairs)


def _spread(spec: ConvSpec, dy: Array) -> Array:
    """The cotangent, spread out by the stride and padded: its windows give the input gradient."""
    config = [
        (lo, hi, s - 1) for (lo, hi), s in zip(transpose_padding(spec), spec.stride, strict=True)
    ]
    return lax.pad(dy, jnp.zeros((), dy.dtype), [(0, 0, 0), *config, (0, 0, 0)])


def canonical_input_gradient(spec: ConvSpec, w: Array, dy: Array) -> Array:
    """The cotangent, spread out by the stride, convolved with the flipped kernel."""
    return _convolve(
        spec,
        dy,
        transpose_kernel(spec, w),
        padding=transpose_padding(spec),
        lhs_dilation=spec.stride,
        rhs_dilation=spec.dilation,
        groups=spec.groups,
    )


def canonical_weight_gradient(spec: ConvSpec, x: Array, dy: Array) -> Array:
    """The input convolved with the cotangent, channels as the batch and the batch as channels.

    Stock JAX asks for the same sum with unusual dimension numbers. XLA turns those back into
    the usual layout, but not inside a loop body, where the CPU then falls to a naive kernel
    (https://github.com/jax-ml/jax/issues/12868). Written like this it has nothing to turn.
    """
    if spec.groups > 1:
        return grouped_weight_gradient(spec, x, dy)
    space = range(spec.rank)
    padding = []
    for i in space:
        before = spec.padding[i][0]
        spread = (spec.out_spatial[i] - 1) * spec.stride[i] + 1
        used = spec.dilation[i] * (spec.kernel[i] - 1) + spread
        padding.append((before, used - spec.spatial[i] - before))
    dw = _convolve(
        spec,
        jnp.swapaxes(x, 0, -1),  # (c, *spatial, n)
        jnp.moveaxis(dy, 0, -2),  # (*out, n, o)
        padding=tuple(padding),
        stride=spec.dilation,
        rhs_dilation=spec.stride,
    )
    return jnp.moveaxis(dw, 0, -2)  # (c, *kernel, o) -> (*kernel, c, o)


def tap_slices(spec: ConvSpec, x: Array) -> list[Array]:
    """For every kernel tap, in row-major order, the part of x that it multiplies."""
    padded = lax.pad(
        x, jnp.zeros((), x.dtype), [(0, 0, 0), *((lo, hi, 0) for lo, hi in spec.padding), (0, 0, 0)]
    )
    return [
        lax.slice(
            padded,
            (0, *start, 0),
            (padded.shape[0], *limit, padded.shape[-1]),
            (1, *spec.stride, 1),
        )
        for start, limit in _tap_windows(spec)
    ]


def _tap_windows(spec: ConvSpec) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
    """Start and limit of every tap's slice of the padded input, along its spatial dimensions."""
    windows: list[tuple[tuple[int, ...], tuple[int, ...]]] = [((), ())]
    for k, d, s, out in zip(spec.kernel, spec.dilation, spec.stride, spec.out_spatial, strict=True):
        windows = [
            ((*start, t * d), (*limit, t * d + (out - 1) * s + 1))
            for start, limit in windows
            for t in range(k)
        ]
    return windows


def grouped_weight_gradient(spec: ConvSpec, x: Array, dy: Array) -> Array:
    """One batched matrix product per tap: sum over images and positions of x_g^T dy_g."""
    g = spec.groups
    dtype = jnp.result_type(x, dy)
    grads = dy.astype(dtype).reshape(*dy.shape[:-1], g, spec.out_channels // g)
    position = "nabd"[: spec.rank + 1]
    taps = [
        jnp.einsum(
            f"{position}gc,{position}go->cgo",
            tap.astype(dtype).reshape(*tap.shape[:-1], g, spec.in_channels // g),
            grads,
            precision=spec.precision,
        )
        for tap in tap_slices(spec, x)
    ]
    return jnp.stack(taps).reshape(spec.w_shape)


def dot_forward(spec: ConvSpec, x: Array, w: Array) -> Array:
    """A 1x1 convolution is a matrix product over channels, on every stride-th position."""
    kept = lax.slice(x, (0,) * x.ndim, x.shape, (1, *spec.stride, 1))
    return lax.dot_general(
        kept,
        w.reshape(w.shape[-2:]),
        (((x.ndim - 1,), (0,)), ((), ())),
        precision=spec.precision,
        preferred_element_type=spec.preferred_element_type,
    )


def dot_input_gradient(spec: ConvSpec, w: Array, dy: Array) -> Array:
    """The cotangent times the transposed matrix; skipped positions get zeros."""
    kernel = w.reshape(w.shape[-2:]).astype(dy.dtype)
    dx = lax.dot_general(
        dy,
        kernel,
        (((dy.ndim - 1,), (1,)), ((), ())),
        precision=spec.precision,
        preferred_element_type=spec.preferred_element_type,
    )
    spread = [
        (0, n - (out - 1) * s - 1, s - 1)
        for n, out, s in zip(spec.spatial, spec.out_spatial, spec.stride, strict=True)
    ]
    return lax.pad(dx, jnp.zeros((), dx.dtype), [(0, 0, 0), *spread, (0, 0, 0)])


def dot_weight_gradient(spec: ConvSpec, x: Array, dy: Array) -> Array:
    """One matrix product over all images and positions."""
    kept = lax.slice(x, (0,) * x.ndim, x.shape, (1, *spec.stride, 1))
    dw = jnp.matmul(
        kept.reshape(-1, spec.in_channels).T.astype(dy.dtype),
        dy.reshape(-1, spec.out_channels),
        precision=spec.precision,
    )
    return dw.reshape(spec.w_shape)


def _multiplied(spec: ConvSpec, w: Array) -> list[Array]:
    """A depthwise kernel's taps in row-major order, each (c, multiplier)."""
    return list(w.reshape(-1, *_multiplier_shape(spec)))


def _multiplier_shape(spec: ConvSpec) -> tuple[int, int]:
    """A depthwise convolution's output channels: for each input channel, its multiples."""
    return spec.in_channels, spec.out_channels // spec.in_channels


def _traced_once(function: "Implementation") -> "Implementation":
    """Has equal blocks of a network share one trace of a function with a slice for each tap."""
    return jax.jit(function, static_argnums=0)


@_traced_once
def shift_forward(spec: ConvSpec, x: Array, w: Array) -> Array:
    """A depthwise convolution is a sum of shifted inputs, each scaled by one tap per channel."""
    total = sum(
        wide(part)[..., None] * _aligned(wide(tap), part.ndim + 1)
        for part, tap in zip(tap_slices(spec, x), _multiplied(spec, w), strict=True)
    )
    dtype = spec.preferred_element_type or x.dtype
    return (
        jnp.asarray(total).reshape(x.shape[0], *spec.out_spatial, spec.out_channels).astype(dtype)
    )


def _aligned(tap: Array, rank: int) -> Array:
    """A (c, multiplier) tap with the rank of what it scales."""
    return tap.reshape((1,) * (rank - 2) + tap.shape)


@_traced_once
def shift_input_gradient(spec: ConvSpec, w: Array, dy: Array) -> Array:
    """The same sum the other way: the cotangent, spread out by the stride, shifted and scaled."""
    spread = _spread(spec, dy)
    split = spread.reshape(*spread.shape[:-1], *_multiplier_shape(spec))
    total: Array | float = 0.0
    taps = itertools.product(*(range(k) for k in spec.kernel))
    for tap, weight in zip(taps, _multiplied(spec, w), strict=True):
        start = [d * (k - 1 - t) for t, k, d in zip(tap, spec.kernel, spec.dilation, strict=True)]
        window = tuple(slice(a, a + n) for a, n in zip(start, spec.spatial, strict=True))
        part = wide(split[(slice(None), *window)]) * _aligned(wide(weight), split.ndim)
        total = total + part.sum(axis=-1)
    return jnp.asarray(total).astype(spec.preferred_element_type or dy.dtype)


@_traced_once
def shift_weight_gradient(spec: ConvSpec, x: Array, dy: Array) -> Array:
    """Per tap and channel, the sum over images and positions of input times cotangent.

    XLA:CPU runs a sum down to few numbers on one core and without vector instructions. So the
    first eightfold of it is spelled out as additions, which it does fuse, split and vectorise.
    """
    axis = 0 if _divisor(x.shape[0]) > 1 else 1
    pieces = _divisor(dy.shape[axis])
    grads = jnp.split(wide(dy).reshape(*dy.shape[:-1], *_multiplier_shape(spec)), pieces, axis)
    sums = []
    for part in tap_slices(spec, x):
        inputs = jnp.split(wide(part)[..., None], pieces, axis)
        sums.append(sum(a * b for a, b in zip(inputs, grads, strict=True)))
    partial = lax.optimization_barrier(jnp.stack(sums))
    return partial.sum(axis=tuple(range(1, partial.ndim - 2))).reshape(spec.w_shape)


def _divisor(n: int) -> int:
    """The largest divisor up to 8."""
    return max(i for i in range(1, 9) if n % i == 0) if n else 1


def block_length(out_channels: int) -> int:
    """How many neighbouring outputs ``blocks`` computes at once: up to 8, for 32 columns."""
    return min(max(32 // out_channels, 1), 8)


def block_forward(spec: ConvSpec, x: Array, w: Array) -> Array:
    """Computes m neighbouring outputs of a row as m times the channels of one output.

    The kernel is laid m times into a wider one, a stride further each time. That costs a few
    multiplications by zero and buys columns: with few output channels the matrix product inside
    a convolution is too narrow for the vector units and for the cost of gathering its rows.
    """
    m = block_length(spec.out_channels)
    k, s, out = spec.kernel[-1], spec.stride[-1], spec.out_spatial[-1]
    blocks = -(-out // m)
    length = k + (m - 1) * s
    before = spec.padding[-1][0]
    after = (blocks - 1) * m * s + length - spec.spatial[-1] - before
    keep = [(0, 0)]
    shifted = [
        jnp.pad(w, [*keep * (spec.rank - 1), (j * s, (m - 1 - j) * s), *keep * 2]) for j in range(m)
    ]
    y = _convolve(
        spec,
        x,
        jnp.stack(shifted, -2).reshape(*spec.kernel[:-1], length, spec.w_shape[-2], -1),
        padding=(*spec.padding[:-1], (before, after)),
        stride=(*spec.stride[:-1], m * s),
        rhs_dilation=spec.dilation,
    )
    rows = y.reshape(*y.shape[:-2], blocks * m, spec.out_channels)
    return lax.slice_in_dim(rows, 0, out, axis=-2)


def block_input_gradient(spec: ConvSpec, w: Array, dy: Array) -> Array:
    """At stride 1 the input gradient is an ordinary convolution, which ``block_forward`` does."""
    kernel = transpose_kernel(spec, w).astype(dy.dtype)
    ordinary = dataclasses.replace(
        spec, x_shape=dy.shape, w_shape=kernel.shape, padding=transpose_padding(spec)
    )
    return block_forward(ordinary, dy, kernel)


def _dense(spec: ConvSpec) -> ConvSpec:
    """The same convolution without groups."""
    shape = (*spec.kernel, spec.in_channels, spec.out_channels)
    return dataclasses.replace(spec, w_shape=shape, groups=1)


def _dense_kernel(spec: ConvSpec, w: Array) -> Array:
    """A grouped kernel as a dense one, zero between the groups."""
    g = spec.groups
    split = w.reshape(*spec.kernel, spec.w_shape[-2], g, -1)
    same_group = jnp.eye(g, dtype=w.dtype).reshape(*(1,) * spec.rank, g, 1, g, 1)
    blocks = split[..., None, :, :, :] * same_group  # (*k, g, c/g, g, o/g)
    return blocks.reshape(_dense(spec).w_shape)


def dense_forward(spec: ConvSpec, x: Array, w: Array) -> Array:
    """Few channels in narrow groups: one dense convolution beats many that are too narrow."""
    return lax_forward(_dense(spec), x, _dense_kernel(spec, w))


def dense_input_gradient(spec: ConvSpec, w: Array, dy: Array) -> Array:
    """The canonical gradient of the dense convolution."""
    return canonical_input_gradient(_dense(spec), _dense_kernel(spec, w), dy)


def _patches(spec: ConvSpec, x: Array) -> Array:
    """Every position's window as one row: (n positions, taps c)."""
    return jnp.concatenate(tap_slices(spec, x), axis=-1).reshape(-1, math.prod(spec.w_shape[:-1]))


def patches_forward(spec: ConvSpec, x: Array, w: Array) -> Array:
    """Gathers every window into a row (im2col), and multiplies all rows with the kernel at once."""
    y = jnp.matmul(
        _patches(spec, x),
        w.reshape(-1, spec.out_channels),
        precision=spec.precision,
        preferred_element_type=spec.preferred_element_type,
    )
    return y.reshape(x.shape[0], *spec.out_spatial, spec.out_channels)


def patches_input_gradient(spec: ConvSpec, w: Array, dy: Array) -> Array:
    """The cotangent, spread out by the stride, in rows of windows times the flipped kernel."""
    kernel = transpose_kernel(spec, w).astype(dy.dtype)
    spread = _spread(spec, dy)
    ordinary = dataclasses.replace(
        spec,
        x_shape=spread.shape,
        w_shape=kernel.shape,
        stride=(1,) * spec.rank,
        padding=((0, 0),) * spec.rank,
    )
    return patches_forward(ordinary, spread, kernel)


def patches_weight_gradient(spec: ConvSpec, x: Array, dy: Array) -> Array:
    """The windows, transposed, times the cotangent."""
    dw = jnp.matmul(
        _patches(spec, x).T.astype(dy.dtype),
        dy.reshape(-1, spec.out_channels),
        precision=spec.precision,
    )
    return dw.reshape(spec.w_shape)


def _by_blocks(spec: ConvSpec) -> ConvSpec:
    """The same sum over blocks of pixels, at stride 1: see :func:`space_to_depth_forward`."""
    kernel = tuple(-(-k // s) for k, s in zip(spec.kernel, spec.stride, strict=True))
    blocks = tuple(i + k - 1 for i, k in zip(spec.out_spatial, kernel, strict=True))
    channels = spec.in_channels * math.prod(spec.stride)
    return dataclasses.replace(
        spec,
        x_shape=(spec.x_shape[0], *blocks, channels),
        w_shape=(*kernel, channels, spec.out_channels),
        stride=(1,) * spec.rank,
        padding=((0, 0),) * spec.rank,
    )


def _in_blocks(a: Array, first: int, stride: tuple[int, ...]) -> Array:
    """Makes the pixels of each block channels: (.., J s, I s, c, ..) to (.., J, I, s s c, ..).

    Args:
        a: the array, whose spatial sides are multiples of the strides; its channels come next.
        first: the first spatial axis.
        stride: the sides of a block.
    """
    rank = len(stride)
    sides = a.shape[first : first + rank]
    split = [part for side, s in zip(sides, stride, strict=True) for part in (side // s, s)]
    places = range(first, first + 2 * rank)
    a = a.reshape(*a.shape[:first], *split, *a.shape[first + rank :])
    rest = range(first + 2 * rank, a.ndim)
    a = a.transpose(*range(first), *places[::2], *places[1::2], *rest)
    channels = math.prod(stride) * a.shape[rest[0]]
    return a.reshape(*a.shape[: first + rank], channels, *a.shape[rest[0] + 1 :])


def _blocks_of(spec: ConvSpec, x: Array) -> Array:
    sides = _by_blocks(spec).spatial
    margins = [
        (low, blocks * s - n - low)  # below 0 where the last pixels are in no window
        for n, s, (low, _), blocks in zip(
            spec.spatial, spec.stride, spec.padding, sides, strict=True
        )
    ]
    config = [(0, 0, 0), *((low, high, 0) for low, high in margins), (0, 0, 0)]
    return _in_blocks(lax.pad(x, jnp.zeros((), x.dtype), config), 1, spec.stride)


def _block_kernel(spec: ConvSpec, w: Array) -> Array:
    margins = [(0, -k % s) for k, s in zip(spec.kernel, spec.stride, strict=True)]
    return _in_blocks(jnp.pad(w, [*margins, (0, 0), (0, 0)]), 0, spec.stride)


def space_to_depth_forward(spec: ConvSpec, x: Array, w: Array) -> Array:
    """A strided convolution as one of stride 1 over blocks, whose pixels are channels.

    With t = s a + b, and w[t] = 0 beyond the kernel, ``y[i] = sum over a, b: x[s (i + a) + b - p]
    w[s a + b]``: of 7x7 at stride 2 with 3 channels one of 4x4 with 12 channels, which fill the
    units of a GPU better.
    """
    return lax_forward(_by_blocks(spec), _blocks_of(spec, x), _block_kernel(spec, w))


def space_to_depth_input_gradient(spec: ConvSpec, w: Array, dy: Array) -> Array:
    """The gradient of the blocks, put back where they come from."""
    kernel = _block_kernel(spec, w.astype(dy.dtype))
    blocks = lax_input_gradient(_by_blocks(spec), kernel, dy)
    return _transposed(functools.partial(_blocks_of, spec), spec.x_shape, blocks)


def space_to_depth_weight_gradient(spec: ConvSpec, x: Array, dy: Array) -> Array:
    """The gradient of the kernel of the blocks, less what lies beyond the kernel."""
    blocks = _blocks_of(spec, x.astype(dy.dtype))
    kernel = lax_weight_gradient(_by_blocks(spec), blocks, dy)
    return _transposed(functools.partial(_block_kernel, spec), spec.w_shape, kernel)


Implementation = Callable[[ConvSpec, Array, Array], Array]

FORWARD: dict[str, Implementation] = {
    "lax": lax_forward,
    "dot": dot_forward,
    "shift": shift_forward,
    "blocks": block_forward,
    "dense": dense_forward,
    "patches": patches_forward,
    "space_to_depth": space_to_depth_forward,
    "onednn": calls.forward,
}
INPUT_GRADIENT: dict[str, Implementation] = {
    "lax": lax_input_gradient,
    "canonical": canonical_input_gradient,
    "dot": dot_input_gradient,
    "shift": shift_input_gradient,
    "blocks": block_input_gradient,
    "dense": dense_input_gradient,
    "patches": patches_input_gradient,
    "space_to_depth": space_to_depth_input_gradient,
    "onednn": calls.input_gradient,
}
WEIGHT_GRADIENT: dict[str, Implementation] = {
    "lax": lax_weight_gradient,
    "canonical": canonical_weight_gradient,
    "dot": dot_weight_gradient,
    "shift": shift_weight_gradient,
    "einsum": grouped_weight_gradient,
    "patches": patches_weight_gradient,
    "space_to_depth": space_to_depth_weight_gradient,
    "onednn": calls.weight_gradient,
}
