"""Convolutions of every kind a CNN needs, in 1, 2 or 3 spatial dimensions."""

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float

from jaxcnn.ops import lowering
from jaxcnn.ops.annotations import ArrayInput, DType, Int, Ints, Name, Padding, Pairs, Precision
from jaxcnn.ops.checks import channel_vector, floating_array, images, one_of, per_channel
from jaxcnn.ops.conv_rewrites import ConvSpec
from jaxcnn.ops.geometry import (
    check_groups,
    conv_transpose_output_shape,
    conv_transpose_padding,
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
) -> Float[Array, "n *out o"]:
    r"""Convolves feature maps with a kernel, as CNNs do: the kernel is not flipped.

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
        impl: "auto" (default), "lax" for XLA's own operation and derivatives (forward mode
            included), a rewrite ("canonical", "dot", "shift", "dense", "blocks", "patches" or
            "space_to_depth"), or "onednn" where `jaxcnn native` has built it; see ``explain`` and
            ``lowering``.
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
    x = images("x", x)
    with jax.named_scope("conv"):
        w = _kernel(x, w, groups)
        rank = x.ndim - 2
        spatial, kernel = x.shape[1:-1], w.shape[:-2]
        strides = per_dimension("stride", stride, rank)
        dilations = per_dimension("dilation", dilation, rank)
        pads = explicit_padding(padding, spatial, kernel, strides, dilations)
        window_output_shape("kernel", spatial, kernel, strides, pads, dilations)
        one_of("padding_mode", padding_mode, PADDING_MODES)
        if padding_mode != "zeros":
            x = _pad_by_mode(x, pads, padding_mode)
            pads = ((0, 0),) * rank
        spec = ConvSpec(
            x_shape=x.shape,
            w_shape=w.shape,
            stride=strides,
            padding=pads,
            dilation=dilations,
            groups=int(groups),
            precision=tuple(precision) if isinstance(precision, list) else precision,
            preferred_element_type=_element_type(x, preferred_element_type),
            dtype=x.dtype.name,
        )
        return _add_bias(lowering.run_conv(spec, x, w, impl), bias)


def conv_transpose(
    x: ArrayInput,
    w: ArrayInput,
    *,
    stride: Ints = 1,
    padding: Padding = "SAME",
    output_padding: Ints = 0,
    dilation: Ints = 1,
    groups: Int = 1,
    bias: ArrayInput | None = None,
    impl: Name = "auto",
    precision: Precision = None,
    preferred_element_type: DType | None = None,
) -> Float[Array, "n *out o"]:
    r"""Spreads each input position over the output: the transpose of ``conv`` as a linear map.

    $$y_{n,j,o} = b_o + \sum_{i s + t d - p = j} \sum_c x_{n,i,c}\; w_{t,c,o}$$

    It is PyTorch's ``conv_transpose`` with w of shape (*kernel, c / groups, o). To the kernel of
    ``lax.conv_transpose`` or of Flax it is flipped.

    Args:
        x: feature maps, (n, *spatial, c) with 1 to 3 spatial dimensions.
        w: kernel, (*kernel, c / groups, o).
        stride: how far apart neighbouring inputs land, 1 by default.
        padding: what the matching ``conv`` would add and this op therefore removes: "SAME"
            (default; the output is ``stride`` times the input), "SAME_LOWER", "VALID" (removes
            nothing), an int, ints or pairs.
        output_padding: extra positions at the end, 0 by default; below the stride or dilation.
        dilation: the distance between taps, 1 by default.
        groups: independent convolutions, 1 by default.
        bias: (o,); None for none.
        impl: as in ``conv``.
        precision: as in ``lax.conv_general_dilated``.
        preferred_element_type: as in ``lax.conv_general_dilated``.

    Returns:
        Feature maps, (n, *out, o); see ``geometry.conv_transpose_output_shape``.

    Raises:
        TypeError: an input is not a floating-point array, or the two dtypes differ.
        ValueError: a rank, channel, group, stride, padding or name that does not fit.

    >>> import jax.numpy as jnp
    >>> x = jnp.array([1.0, 10.0]).reshape(1, 2, 1)
    >>> conv_transpose(x, jnp.array([1.0, 2.0, 3.0]).reshape(3, 1, 1), padding="VALID")[0, :, 0]
    Array([ 1., 12., 23., 30.], dtype=float32)

    Zeiler et al., "Deconvolutional Networks", CVPR 2010; Dumoulin and Visin, "A guide to
    convolution arithmetic for deep learning", 2016.
    """
    x = images("x", x)
    with jax.named_scope("conv_transpose"):
        w = _kernel(x, w, groups)
        rank = x.ndim - 2
        spatial, kernel = x.shape[1:-1], w.shape[:-2]
        out = conv_transpose_output_shape(
            spatial,
            kernel,
            stride=stride,
            padding=padding,
            output_padding=output_padding,
            dilation=dilation,
        )
        strides = per_dimension("stride", stride, rank)
        dilations = per_dimension("dilation", dilation, rank)
        removed = conv_transpose_padding(padding, kernel, strides, dilations)
        extra = per_dimension("output_padding", output_padding, rank, minimum=0)
        # The convolution that this transposes: from ``out`` with o channels to ``spatial`` with c.
        split = w.reshape(*kernel, w.shape[-2], groups, -1)
        exchanged = jnp.swapaxes(split, -1, -3).reshape(*kernel, -1, x.shape[-1])
        spec = ConvSpec(
            x_shape=(x.shape[0], *out, w.shape[-1]),
            w_shape=exchanged.shape,
            stride=strides,
            padding=tuple((lo, hi - e) for (lo, hi), e in zip(removed, extra, strict=True)),
            dilation=dilations,
            groups=int(groups),
            precision=tuple(precision) if isinstance(precision, list) else precision,
            preferred_element_type=_element_type(x, preferred_element_type),
            dtype=x.dtype.name,
        )
        return _add_bias(lowering.run_conv_transpose(spec, x, exchanged, impl), bias)


def depthwise_conv(
    x: ArrayInput,
    w: ArrayInput,
    *,
    stride: Ints = 1,
    padding: Padding = "SAME",
    padding_mode: Name = "zeros",
    dilation: Ints = 1,
    bias: ArrayInput | None = None,
    impl: Name = "auto",
    precision: Precision = None,
    preferred_element_type: DType | None = None,
) -> Float[Array, "n *out o"]:
    r"""Convolves every channel on its own: ``conv`` with as many groups as channels.

    $$y_{n,i,c m + j} = \sum_t x_{n,\; i s + t d - p,\; c}\; w_{t,0,c m + j}$$

    Args:
        x: feature maps, (n, *spatial, c) with 1 to 3 spatial dimensions.
        w: kernel, (*kernel, 1, c m), with m outputs for every channel.
        stride: as in ``conv``, 1 by default.
        padding: as in ``conv``, "SAME" by default.
        padding_mode: as in ``conv``, "zeros" by default.
        dilation: as in ``conv``, 1 by default.
        bias: (c m,); None for none.
        impl: as in ``conv``.
        precision: as in ``lax.conv_general_dilated``.
        preferred_element_type: as in ``lax.conv_general_dilated``.

    Returns:
        Feature maps, (n, *out, c m).

    Raises:
        TypeError: an input is not a floating-point array, or the two dtypes differ.
        ValueError: a shape or argument that does not fit.

    >>> import jax.numpy as jnp
    >>> depthwise_conv(jnp.ones((1, 3, 2)), jnp.array([[[1.0, 2.0]]] * 3))[0]
    Array([[2., 4.],
           [3., 6.],
           [2., 4.]], dtype=float32)

    Howard et al., "MobileNets", 2017.
    """
    x, kernel = images("x", x), floating_array("w", w)
    with jax.named_scope("depthwise_conv"):
        channels = x.shape[-1]
        if kernel.ndim != x.ndim or kernel.shape[-2] != 1 or kernel.shape[-1] % channels:
            raise ValueError(
                f"w.shape={kernel.shape} must be (*kernel, 1, {channels} m), with rank {x.ndim}, "
                f"for x.shape={x.shape}"
            )
        return conv(
            x,
            kernel,
            stride=stride,
            padding=padding,
            padding_mode=padding_mode,
            dilation=dilation,
            groups=channels,
            bias=bias,
            impl=impl,
            precision=precision,
            preferred_element_type=preferred_element_type,
        )


def separable_conv(
    x: ArrayInput,
    depthwise: ArrayInput,
    pointwise: ArrayInput,
    *,
    stride: Ints = 1,
    padding: Padding = "SAME",
    padding_mode: Name = "zeros",
    dilation: Ints = 1,
    bias: ArrayInput | None = None,
    impl: Name = "auto",
    precision: Precision = None,
    preferred_element_type: DType | None = None,
) -> Float[Array, "n *out o"]:
    r"""Convolves every channel on its own, then mixes the channels with a 1x1 convolution.

    $$y = \text{conv}_{1\times1}(\text{depthwise\_conv}(x, w_d), w_p) + b$$

    Args:
        x: feature maps, (n, *spatial, c) with 1 to 3 spatial dimensions.
        depthwise: (*kernel, 1, c m).
        pointwise: (1, ..., 1, c m, o).
        stride: that of the depthwise part, 1 by default.
        padding: that of the depthwise part, "SAME" by default.
        padding_mode: as in ``conv``, "zeros" by default.
        dilation: that of the depthwise part, 1 by default.
        bias: (o,); None for none.
        impl: as in ``conv``; "auto", "lax" or "canonical".
        precision: as in ``lax.conv_general_dilated``.
        preferred_element_type: as in ``lax.conv_general_dilated``, for both parts.

    Returns:
        Feature maps, (n, *out, o).

    Raises:
        TypeError: an input is not a floating-point array, or the dtypes differ.
        ValueError: a shape or argument that does not fit.

    >>> import jax.numpy as jnp
    >>> separable_conv(jnp.ones((1, 3, 2)), jnp.ones((3, 1, 2)), jnp.ones((1, 2, 1)))[0, :, 0]
    Array([4., 6., 4.], dtype=float32)

    Chollet, "Xception: Deep Learning with Depthwise Separable Convolutions", CVPR 2017.
    """
    x, mixing = images("x", x), floating_array("pointwise", pointwise)
    kernel = floating_array("depthwise", depthwise)
    with jax.named_scope("separable_conv"):
        if (*mixing.shape[:-2], mixing.shape[-2:-1]) != (*(1,) * (x.ndim - 2), kernel.shape[-1:]):
            raise ValueError(
                f"pointwise.shape={mixing.shape} must be ({'1, ' * (x.ndim - 2)}c m, o), with the "
                f"c m of depthwise.shape={kernel.shape}"
            )
        if mixing.dtype != x.dtype:
            raise TypeError(f"pointwise.dtype={mixing.dtype} must equal x.dtype={x.dtype}")
        y = depthwise_conv(
            x,
            kernel,
            stride=stride,
            padding=padding,
            padding_mode=padding_mode,
            dilation=dilation,
            impl=impl,
            precision=precision,
            preferred_element_type=preferred_element_type,
        )
        return conv(
            y,
            mixing.astype(y.dtype),
            bias=bias,
            impl=impl,
            precision=precision,
            preferred_element_type=preferred_element_type,
        )


def convolve(
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
) -> Float[Array, "n *out o"]:
    r"""Convolves as mathematics does: as ``conv``, with the kernel flipped.

    $$y_{n,i,o} = b_o + \sum_{t,c} x_{n,\; i s - t d + p',\; c}\; w_{t,c,o}$$

    Args:
        x: feature maps, (n, *spatial, c) with 1 to 3 spatial dimensions.
        w: kernel, (*kernel, c / groups, o).
        stride: as in ``conv``, 1 by default.
        padding: as in ``conv``, "SAME" by default. For an even kernel, "SAME_LOWER" is what
            NumPy and SciPy call "same".
        padding_mode: as in ``conv``, "zeros" by default.
        dilation: as in ``conv``, 1 by default.
        groups: as in ``conv``, 1 by default.
        bias: (o,); None for none.
        impl: as in ``conv``.
        precision: as in ``lax.conv_general_dilated``.
        preferred_element_type: as in ``lax.conv_general_dilated``.

    Returns:
        Feature maps, (n, *out, o).

    Raises:
        TypeError: an input is not a floating-point array, or the two dtypes differ.
        ValueError: a shape or argument that does not fit.

    >>> import jax.numpy as jnp
    >>> x, w = jnp.array([1.0, 2.0, 3.0]), jnp.array([1.0, 10.0, 100.0])
    >>> convolve(x[None, :, None], w[:, None, None])[0, :, 0]  # numpy.convolve(x, w, "same")
    Array([ 12., 123., 230.], dtype=float32)
    """
    x, kernel = images("x", x), floating_array("w", w)
    with jax.named_scope("convolve"):
        return conv(
            x,
            jnp.flip(kernel, tuple(range(max(kernel.ndim - 2, 0)))),
            stride=stride,
            padding=padding,
            padding_mode=padding_mode,
            dilation=dilation,
            groups=groups,
            bias=bias,
            impl=impl,
            precision=precision,
            preferred_element_type=preferred_element_type,
        )


def _kernel(x: Array, w: ArrayInput, groups: Int) -> Array:
    """Checks a kernel against the feature maps it is for."""
    kernel = floating_array("w", w)
    if kernel.ndim != x.ndim:
        raise ValueError(
            f"w.shape={kernel.shape} must have rank {x.ndim}, (*kernel, c / groups, o), for "
            f"x.shape={x.shape}"
        )
    if kernel.dtype != x.dtype:
        raise TypeError(f"w.dtype={kernel.dtype} must equal x.dtype={x.dtype}")
    if 0 in kernel.shape:
        raise ValueError(f"w.shape={kernel.shape} must have no empty dimension")
    check_groups(groups, x.shape[-1], kernel.shape[-1])
    if kernel.shape[-2] * groups != x.shape[-1]:
        raise ValueError(
            f"w.shape={kernel.shape} takes {kernel.shape[-2]} channels in each of "
            f"groups={groups}, so x must have {kernel.shape[-2] * groups} channels; "
            f"x.shape={x.shape} has {x.shape[-1]}"
        )
    return kernel


def _add_bias(y: Array, bias: ArrayInput | None) -> Array:
    if bias is None:
        return y
    return y + per_channel(channel_vector("bias", bias, y.shape[-1]), y.ndim).astype(y.dtype)


def _element_type(x: Array, dtype: DType | None) -> str | None:
    """The name of the output's dtype, where one is asked for."""
    if dtype is None:
        return None
    try:
        wanted = jax.dtypes.canonicalize_dtype(dtype)
    except TypeError:
        wanted = None
    if wanted is None or jnp.promote_types(x.dtype, wanted) != wanted:
        raise ValueError(
            f"preferred_element_type={dtype!r} must be a floating dtype no narrower than "
            f"x.dtype={x.dtype}"
        )
    return wanted.name


def _pad_by_mode(x: Array, pads: Pairs, mode: str) -> Array:
    """Pads the spatial dimensions with reflected, replicated or wrapped values."""
    for (before, after), size in zip(pads, x.shape[1:-1], strict=True):
        widest = {"reflect": size - 1, "circular": size}.get(mode)
        if widest is not None and max(before, after) > widest:
            raise ValueError(
                f"padding={(before, after)} with padding_mode={mode!r} must be at most {widest} "
                f"for a dimension of {size}"
            )
    return jnp.pad(x, ((0, 0), *pads, (0, 0)), mode=PADDING_MODES[mode])
