"""Convolutions of every kind a CNN needs, in 1, 2 or 3 spatial dimensions."""

import jax
import jax.numpy as jnp
from jax import Array

from jaxcnn.ops import lowering
from jaxcnn.ops.annotations import ArrayInput, DType, Int, Ints, Name, Padding, Pairs, Precision
from jaxcnn.ops.checks import channel_vector, floating_array, images, per_channel
from jaxcnn.ops.conv_rewrites import ConvSpec
from jaxcnn.ops.geometry import (
    check_groups,
    explicit_padding,
    per_dimension,
    window_output_shape,
)

PADDING_MODES = {"zeros": "constant", "reflect": "reflect", "replicate": "edge", "circular": "wrap"}


def conv(
    x: ArrayInput,
    w: ArrayInput,
    *,
    stride: Ints = 1,
    padding: Padding = "SAME",
    padding_mode: Name = "zeros",
    dilation: Ints = 1,
    groups: Int = 1,
    bias: ArrayInput | None = None,
    impl: Name = "auto",
    precision: Precision = None,
    preferred_element_type: DType | None = None,
) -> Array:
    r"""Convolve feature maps with a kernel, as CNNs do: the kernel is not flipped.

    $$y_{n,i,o} = b_o + \sum_{t,c} x_{n,\; i s + t d - p,\; c}\; w_{t,c,o}$$

    Args:
        x: feature maps, (n, *spatial, c) with 1 to 3 spatial dimensions.
        w: kernel, (*kernel, c / groups, o).
        stride: an int or one per dimension, 1 by default.
        padding: "SAME" (default; at stride s the output has ceil(n / s) positions, an odd pad
            goes after), "SAME_LOWER" (an odd pad goes before), "VALID" (none), an int, one int
            per dimension, or one (before, after) pair per dimension.
        padding_mode: what the padding holds: "zeros" (default), "reflect", "replicate" or
            "circular".
        dilation: the distance between taps, 1 by default.
        groups: split the channels into this many independent convolutions, 1 by default.
        bias: (o,), added to the output; None for none.
        impl: "auto" (default), "lax" for XLA's own operation and derivatives, or "canonical";
            see ``explain``.
        precision: as in ``lax.conv_general_dilated``.
        preferred_element_type: as in ``lax.conv_general_dilated``.

    Returns:
        Feature maps, (n, *out, o).

    Raises:
        TypeError: an input is not a floating-point array, or the two dtypes differ.
        ValueError: a rank, channel, group, stride, padding or name that does not fit.

    >>> import jax.numpy as jnp
    >>> x = jnp.arange(16.0).reshape(1, 4, 4, 1)
    >>> conv(x, jnp.ones((3, 3, 1, 1)), padding="VALID")[0, :, :, 0]
    Array([[45., 54.],
           [81., 90.]], dtype=float32)

    LeCun et al., "Gradient-Based Learning Applied to Document Recognition", 1998.
    """
    x, w = images("x", x), floating_array("w", w)
    with jax.named_scope("conv"):
        if w.ndim != x.ndim:
            raise ValueError(
                f"w.shape={w.shape} must have rank {x.ndim}, (*kernel, c / groups, o), for "
                f"x.shape={x.shape}"
            )
        if w.dtype != x.dtype:
            raise TypeError(f"w.dtype={w.dtype} must equal x.dtype={x.dtype}")
        if 0 in w.shape:
            raise ValueError(f"w.shape={w.shape} must have no empty dimension")
        rank = x.ndim - 2
        spatial, kernel = x.shape[1:-1], w.shape[:-2]
        check_groups(groups, x.shape[-1], w.shape[-1])
        if w.shape[-2] * groups != x.shape[-1]:
            raise ValueError(
                f"w.shape={w.shape} takes {w.shape[-2]} channels in each of groups={groups}, so x "
                f"must have {w.shape[-2] * groups} channels; x.shape={x.shape} has {x.shape[-1]}"
            )
        strides = per_dimension("stride", stride, rank)
        dilations = per_dimension("dilation", dilation, rank)
        pads = explicit_padding(padding, spatial, kernel, strides, dilations)
        window_output_shape("kernel", spatial, kernel, strides, pads, dilations)
        if padding_mode not in PADDING_MODES:
            raise ValueError(
                f"padding_mode={padding_mode!r} must be one of {', '.join(PADDING_MODES)}"
            )
        if padding_mode != "zeros":
            x = pad_by_mode(x, pads, padding_mode)
            pads = ((0, 0),) * rank
        spec = ConvSpec(
            x_shape=x.shape,
            w_shape=w.shape,
            stride=strides,
            padding=pads,
            dilation=dilations,
            groups=int(groups),
            dtype=x.dtype.name,
            precision=precision,
            preferred_element_type=(
                None if preferred_element_type is None else jnp.dtype(preferred_element_type).name
            ),
        )
        y = lowering.run_conv(spec, x, w, impl)
        if bias is not None:
            offset = channel_vector("bias", bias, w.shape[-1])
            y = y + per_channel(offset, y.ndim).astype(y.dtype)
        return y


def pad_by_mode(x: Array, pads: Pairs, mode: str) -> Array:
    """Pad the spatial dimensions with reflected, replicated or wrapped values."""
    for (before, after), size in zip(pads, x.shape[1:-1], strict=True):
        widest = {"reflect": size - 1, "circular": size}.get(mode)
        if widest is not None and max(before, after) > widest:
            raise ValueError(
                f"padding={(before, after)} with padding_mode={mode!r} must be at most {widest} "
                f"for a dimension of {size}"
            )
    return jnp.pad(x, ((0, 0), *pads, (0, 0)), mode=PADDING_MODES[mode])
