"""The ways in which one convolution is carried out: its forward pass and its two gradients.

With x of shape (n, *spatial, c) and w of shape (*kernel, c / groups, o), each function below is
exact and computes one of

* forward          y[i]  = sum over taps t, channels: x[i s + t d - p] w[t]
* input gradient   dx[j] = sum over i, t with i s + t d - p = j: dy[i] w[t]
* weight gradient  dw[t] = sum over images, i: x[i s + t d - p] dy[i]

They are plain functions of arrays and one static ``ConvSpec``; ``lowering`` says which is used.
"""

import dataclasses

import jax
import jax.numpy as jnp
from jax import Array, lax

from jaxcnn.ops.annotations import Pairs
from jaxcnn.ops.geometry import window_output_shape


@dataclasses.dataclass(frozen=True)
class ConvSpec:
    """Everything about a convolution that is known while it is traced."""

    x_shape: tuple[int, ...]
    w_shape: tuple[int, ...]
    stride: tuple[int, ...]
    padding: Pairs
    dilation: tuple[int, ...]
    groups: int
    dtype: str
    precision: lax.PrecisionLike = None
    preferred_element_type: str | None = None

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
    x: Array,
    w: Array,
    *,
    padding: Pairs,
    stride: tuple[int, ...] | None = None,
    lhs_dilation: tuple[int, ...] | None = None,
    rhs_dilation: tuple[int, ...] | None = None,
    groups: int = 1,
) -> Array:
    """A gradient's convolution: canonical layout, operands brought to one dtype."""
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


def lax_input_gradient(spec: ConvSpec, w: Array, dy: Array) -> Array:
    """What differentiation of ``lax.conv_general_dilated`` gives."""
    x = jax.ShapeDtypeStruct(spec.x_shape, dy.dtype)
    (dx,) = jax.linear_transpose(
        lambda x: lax_forward(dataclasses.replace(spec, preferred_element_type=None), x, w), x
    )(dy)
    return dx


def lax_weight_gradient(spec: ConvSpec, x: Array, dy: Array) -> Array:
    """What differentiation of ``lax.conv_general_dilated`` gives."""
    w = jax.ShapeDtypeStruct(spec.w_shape, dy.dtype)
    (dw,) = jax.linear_transpose(
        lambda w: lax_forward(dataclasses.replace(spec, preferred_element_type=None), x, w), w
    )(dy)
    return dw


def canonical_input_gradient(spec: ConvSpec, w: Array, dy: Array) -> Array:
    """The cotangent, spread out by the stride, convolved with the flipped kernel."""
    taps = range(spec.rank)
    flipped = jnp.flip(w, tuple(taps))
    # (*k, c/g, g o/g) -> (*k, o/g, g c/g): within each group inputs and outputs change places.
    grouped = flipped.reshape(*spec.kernel, w.shape[-2], spec.groups, -1)
    swapped = jnp.moveaxis(grouped, -1, spec.rank)
    swapped = jnp.swapaxes(swapped, -1, -2).reshape(*spec.kernel, -1, spec.in_channels)
    padding = []
    for i in taps:
        reach = spec.dilation[i] * (spec.kernel[i] - 1)
        before = reach - spec.padding[i][0]
        spread = (spec.out_spatial[i] - 1) * spec.stride[i] + 1
        padding.append((before, spec.spatial[i] + reach - spread - before))
    return _convolve(
        spec,
        dy,
        swapped,
        padding=tuple(padding),
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
        lax.slice(padded, start, limit, (1, *spec.stride, 1))
        for start, limit in _tap_windows(spec, padded.shape)
    ]


def _tap_windows(
    spec: ConvSpec, padded: tuple[int, ...]
) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
    """Start and limit of every tap's slice of the padded input."""
    windows: list[tuple[tuple[int, ...], tuple[int, ...]]] = [((0,), (padded[0],))]
    for k, d, s, out in zip(spec.kernel, spec.dilation, spec.stride, spec.out_spatial, strict=True):
        windows = [
            ((*start, t * d), (*limit, t * d + (out - 1) * s + 1))
            for start, limit in windows
            for t in range(k)
        ]
    return [((*start, 0), (*limit, padded[-1])) for start, limit in windows]


def grouped_weight_gradient(spec: ConvSpec, x: Array, dy: Array) -> Array:
    """One batched matrix product per tap: sum over images and positions of x_g^T dy_g."""
    g = spec.groups
    dtype = jnp.result_type(x, dy)
    grads = dy.astype(dtype).reshape(*dy.shape[:-1], g, -1)
    position = "nabd"[: spec.rank + 1]
    taps = [
        jnp.einsum(
            f"{position}gc,{position}go->cgo",
            tap.astype(dtype).reshape(*tap.shape[:-1], g, -1),
            grads,
            precision=spec.precision,
        )
        for tap in tap_slices(spec, x)
    ]
    return jnp.stack(taps).reshape(spec.w_shape)


FORWARD = {"lax": lax_forward}
INPUT_GRADIENT = {"lax": lax_input_gradient, "canonical": canonical_input_gradient}
WEIGHT_GRADIENT = {
    "lax": lax_weight_gradient,
    "canonical": canonical_weight_gradient,
    "einsum": grouped_weight_gradient,
}
