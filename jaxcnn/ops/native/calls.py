"""oneDNN's convolutions as functions of arrays, differentiable backwards.

A convolution is linear in each of its two arrays, and so are its two gradients: the three are the
gradients of one another. Each is a ``custom_vjp`` function, so that gradients of gradients stay
with oneDNN too. Under ``jax.vmap`` they are carried out one after the other.
"""

import functools
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxcnn.ops.native import library

if TYPE_CHECKING:
    from jaxcnn.ops.conv_rewrites import ConvSpec

Arrays = tuple[Array, Array]


def takes(spec: "ConvSpec") -> bool:
    """Tells whether the handlers are there, and made for a convolution of this kind."""
    whole = 0 not in (*spec.x_shape, *spec.w_shape, *spec.out_spatial)
    plain = spec.preferred_element_type in (None, spec.dtype)
    unclipped = all(side >= 0 for pair in spec.padding for side in pair)
    return (
        spec.dtype in library.DTYPES and bool(library.version()) and whole and plain and unclipped
    )


def _call(target: str, spec: "ConvSpec", shape: tuple[int, ...], a: Array, b: Array) -> Array:
    result = jax.ShapeDtypeStruct(shape, a.dtype)
    call = jax.ffi.ffi_call(library.TARGET + target, result, vmap_method="sequential")
    before, after = zip(*spec.padding, strict=True)
    windows = {"stride": spec.stride, "dilation": spec.dilation, "before": before, "after": after}
    attributes: dict[str, Any] = {k: np.asarray(v, np.int64) for k, v in windows.items()}
    return jnp.asarray(call(a, b, **attributes, groups=np.int64(spec.groups)))


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def forward(spec: "ConvSpec", x: Array, w: Array) -> Array:
    """The convolution."""
    shape = (spec.x_shape[0], *spec.out_spatial, spec.out_channels)
    return _call("conv_forward", spec, shape, x, w)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def input_gradient(spec: "ConvSpec", w: Array, dy: Array) -> Array:
    """The gradient of the input."""
    return _call("conv_input_gradient", spec, spec.x_shape, w, dy)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def weight_gradient(spec: "ConvSpec", x: Array, dy: Array) -> Array:
    """The gradient of the kernel."""
    return _call("conv_weight_gradient", spec, spec.w_shape, x, dy)


def _forward_bwd(spec: "ConvSpec", given: Arrays, dy: Array) -> Arrays:
    x, w = given
    return input_gradient(spec, w, dy), weight_gradient(spec, x, dy)


def _input_gradient_bwd(spec: "ConvSpec", given: Arrays, dx: Array) -> Arrays:
    w, dy = given
    return weight_gradient(spec, dx, dy), forward(spec, dx, w)


def _weight_gradient_bwd(spec: "ConvSpec", given: Arrays, dw: Array) -> Arrays:
    x, dy = given
    return input_gradient(spec, dw, dy), forward(spec, x, dw)


forward.defvjp(lambda spec, x, w: (forward(spec, x, w), (x, w)), _forward_bwd)
input_gradient.defvjp(
    lambda spec, w, dy: (input_gradient(spec, w, dy), (w, dy)), _input_gradient_bwd
)
weight_gradient.defvjp(
    lambda spec, x, dy: (weight_gradient(spec, x, dy), (x, dy)), _weight_gradient_bwd
)
