"""Pooling: each window of the feature maps becomes one number per channel."""

import math
import numbers

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jaxtyping import Float, Int32

from jaxcnn.ops import lowering, pool_rewrites
from jaxcnn.ops.annotations import (
    ArrayInput,
    Flag,
    Int,
    Ints,
    Name,
    Number,
    OptionalInts,
    Padding,
    Pairs,
)
from jaxcnn.ops.checks import images, wide
from jaxcnn.ops.conv import depthwise_conv
from jaxcnn.ops.geometry import ceil_padding, explicit_padding, per_dimension, window_output_shape
from jaxcnn.ops.pool_rewrites import PoolSpec


def _feature_maps(value: ArrayInput) -> Array:
    """Checks the argument of a pool, and keeps bfloat16 on a CPU from being computed within it.

    XLA fuses a reduction with what precedes it, and hands both to YNNPACK. From jax 0.11.2 to
    0.12.0.1 at least, that gives NaN or garbage where two maxima or minima share a bfloat16 scalar,
    as two ReLUs in front of a pool do. The same without this package::

        x = jnp.ones((8, 8, 64), jnp.bfloat16)
        jax.jit(lambda x: nn.relu(nn.relu(x) + x).astype(jnp.float32).sum((0, 1)))(x)  # NaN
    """
    x = images("x", value)
    affected = jax.__version_info__ >= (0, 11, 2) and lowering.current_platform() == "cpu"
    return lax.optimization_barrier(x) if affected and x.dtype == jnp.bfloat16 else x


def _pool_spec(
    x: Array, window: Ints, stride: Ints | None, padding: Padding, dilation: Ints, ceil_mode: bool
) -> PoolSpec:
    """Checks the arguments that all windowed pools share."""
    rank, spatial = x.ndim - 2, x.shape[1:-1]
    windows = per_dimension("window", window, rank)
    strides = windows if stride is None else per_dimension("stride", stride, rank)
    dilations = per_dimension("dilation", dilation, rank)
    pads = explicit_padding(padding, spatial, windows, strides, dilations)
    if ceil_mode:
        pads = ceil_padding(spatial, windows, strides, pads, dilations)
    window_output_shape("window", spatial, windows, strides, pads, dilations)
    return PoolSpec(x.shape, windows, strides, pads, dilations)


def max_pool(
    x: ArrayInput,
    window: Ints,
    *,
    stride: Ints | None = None,
    padding: Padding = "VALID",
    dilation: Ints = 1,
    ceil_mode: Flag = False,
    impl: Name = "auto",
) -> Float[Array, "n *out c"]:
    r"""Takes the largest element of each window.

    $$y_{n,i,c} = \max_t\; x_{n,\; i s + t d - p,\; c}$$

    The gradient goes to the first maximum of a window in row-major order, whatever the
    implementation, so that a window of equal elements (zeros after a ReLU) counts once. A window
    that lies wholly in the padding gives -inf. lax has no gradient for a dilated window, so that
    it gets ours, which has no forward mode, even under ``impl="lax"``.

    Args:
        x: feature maps, (n, *spatial, c) with 1 to 3 spatial dimensions.
        window: an int or one per dimension.
        stride: the window by default.
        padding: "VALID" (default), "SAME", "SAME_LOWER", an int, ints or pairs; holds -inf.
        dilation: the distance between the elements of a window, 1 by default.
        ceil_mode: keep the last, partial window, as PyTorch does; False by default.
        impl: "auto" (default), "lax", "reshape", "phases" or "separable"; see ``explain``.

    Returns:
        Feature maps, (n, *out, c).

    Raises:
        TypeError: x is not a floating-point array.
        ValueError: a window, stride, padding or dilation that does not fit.

    >>> import jax.numpy as jnp
    >>> x = jnp.array([[1, 1, 2, 4], [5, 6, 7, 8], [3, 2, 1, 0], [1, 2, 3, 4.0]])
    >>> max_pool(x[None, :, :, None], 2)[0, :, :, 0]
    Array([[6., 8.],
           [3., 4.]], dtype=float32)

    Ranzato et al., "Unsupervised Learning of Invariant Feature Hierarchies", CVPR 2007.
    """
    x = _feature_maps(x)
    with jax.named_scope("max_pool"):
        spec = _pool_spec(x, window, stride, padding, dilation, ceil_mode)
        return lowering.run_max_pool(spec, x, impl)


def min_pool(
    x: ArrayInput,
    window: Ints,
    *,
    stride: Ints | None = None,
    padding: Padding = "VALID",
    dilation: Ints = 1,
    ceil_mode: Flag = False,
    impl: Name = "auto",
) -> Float[Array, "n *out c"]:
    r"""Takes the smallest element of each window.

    $$y_{n,i,c} = \min_t\; x_{n,\; i s + t d - p,\; c}$$

    The gradient goes to the first minimum of a window in row-major order.

    Args:
        x: feature maps, (n, *spatial, c) with 1 to 3 spatial dimensions.
        window: an int or one per dimension.
        stride: the window by default.
        padding: "VALID" (default), "SAME", "SAME_LOWER", an int, ints or pairs; holds +inf.
        dilation: the distance between the elements of a window, 1 by default.
        ceil_mode: keep the last, partial window, as PyTorch does; False by default.
        impl: as in ``max_pool``.

    Returns:
        Feature maps, (n, *out, c).

    Raises:
        TypeError: x is not a floating-point array.
        ValueError: a window, stride, padding or dilation that does not fit.

    >>> import jax.numpy as jnp
    >>> min_pool(jnp.array([4.0, 1.0, 2.0, 3.0]).reshape(1, 4, 1), 2)[0, :, 0]
    Array([1., 2.], dtype=float32)
    """
    x = _feature_maps(x)
    with jax.named_scope("min_pool"):
        spec = _pool_spec(x, window, stride, padding, dilation, ceil_mode)
        return -lowering.run_max_pool(spec, -x, impl)


def avg_pool(
    x: ArrayInput,
    window: Ints,
    *,
    stride: Ints | None = None,
    padding: Padding = "VALID",
    dilation: Ints = 1,
    ceil_mode: Flag = False,
    count_include_pad: Flag = True,
    impl: Name = "auto",
) -> Float[Array, "n *out c"]:
    r"""Averages each window.

    $$y_{n,i,c} = \frac{1}{|W_i|} \sum_t x_{n,\; i s + t d - p,\; c}$$

    Args:
        x: feature maps, (n, *spatial, c) with 1 to 3 spatial dimensions.
        window: an int or one per dimension.
        stride: the window by default.
        padding: "VALID" (default), "SAME", "SAME_LOWER", an int, ints or pairs; holds zeros.
        dilation: the distance between the elements of a window, 1 by default.
        ceil_mode: keep the last, partial window, as PyTorch does; False by default.
        count_include_pad: count the padding among the averaged elements; True by default. What
            ``ceil_mode`` adds beyond the padding never counts. The average of nothing is 0.
        impl: "auto" (default), "lax", "reshape" or "separable"; see ``explain``.

    Returns:
        Feature maps, (n, *out, c).

    Raises:
        TypeError: x is not a floating-point array.
        ValueError: a window, stride, padding or dilation that does not fit.

    >>> import jax.numpy as jnp
    >>> avg_pool(jnp.arange(4.0).reshape(1, 4, 1), 2)[0, :, 0]
    Array([0.5, 2.5], dtype=float32)

    LeCun et al., "Gradient-Based Learning Applied to Document Recognition", 1998.
    """
    x = _feature_maps(x)
    with jax.named_scope("avg_pool"):
        spec = _pool_spec(x, window, stride, padding, dilation, ceil_mode)
        given = explicit_padding(padding, spec.spatial, spec.window, spec.stride, spec.dilation)
        total = lowering.run_sum_pool(spec, wide(x), impl)
        margin = given if count_include_pad else None
        counts = [np.maximum(count, 1) for count in _elements_of_x(spec, margin)]
        if all((count == count[0]).all() for count in counts):
            return (total * (1 / math.prod(int(count[0]) for count in counts))).astype(x.dtype)
        grid = np.ones((1,) * x.ndim)
        for axis, count in enumerate(counts, start=1):
            grid = grid * count.reshape([-1 if i == axis else 1 for i in range(x.ndim)])
        return (total * jnp.asarray(1 / grid, total.dtype)).astype(x.dtype)


def lp_pool(
    x: ArrayInput,
    window: Ints,
    p: Number = 2,
    *,
    stride: Ints | None = None,
    padding: Padding = "VALID",
    dilation: Ints = 1,
    ceil_mode: Flag = False,
    impl: Name = "auto",
) -> Float[Array, "n *out c"]:
    r"""Takes the p-norm of each window.

    $$y_{n,i,c} = \Big(\sum_t |x_{n,\; i s + t d - p,\; c}|^p\Big)^{1/p}$$

    Between the sum of magnitudes (p = 1) and their maximum (p = inf). PyTorch leaves out the
    absolute value, which differs for odd p, and scales partial windows in ceil mode. The gradient
    of a window of zeros is zero.

    Args:
        x: feature maps, (n, *spatial, c) with 1 to 3 spatial dimensions.
        window: an int or one per dimension.
        p: the order, at least 1; 2 by default.
        stride: the window by default.
        padding: "VALID" (default), "SAME", "SAME_LOWER", an int, ints or pairs; holds zeros.
        dilation: the distance between the elements of a window, 1 by default.
        ceil_mode: keep the last, partial window; False by default.
        impl: as in ``avg_pool``.

    Returns:
        Feature maps, (n, *out, c).

    Raises:
        TypeError: x is not a floating-point array.
        ValueError: ``p`` below 1, or a window, stride, padding or dilation that does not fit.

    >>> import jax.numpy as jnp
    >>> lp_pool(jnp.array([3.0, 4.0]).reshape(1, 2, 1), 2)[0, :, 0]
    Array([5.], dtype=float32)

    Sermanet, Chintala and LeCun, "Convolutional Neural Networks Applied to House Numbers Digit
    Classification", ICPR 2012.
    """
    x = _feature_maps(x)
    with jax.named_scope("lp_pool"):
        if not isinstance(p, numbers.Real) or isinstance(p, bool) or not p >= 1:
            raise ValueError(f"p={p!r} must be a number, at least 1")
        spec = _pool_spec(x, window, stride, padding, dilation, ceil_mode)
        magnitude = jnp.abs(x)
        if math.isinf(p):
            return lowering.run_max_pool(spec, magnitude, impl)
        order = int(p) if float(p).is_integer() else float(p)  # whole powers are products
        total = lowering.run_sum_pool(spec, wide(magnitude) ** order, impl)
        positive = total > 0  # the root of zero has an infinite slope
        root = jnp.where(positive, jnp.where(positive, total, 1) ** (1 / order), 0)
        return root.astype(x.dtype)


def max_pool_with_indices(
    x: ArrayInput,
    window: Ints,
    *,
    stride: Ints | None = None,
    padding: Padding = "VALID",
    dilation: Ints = 1,
    ceil_mode: Flag = False,
    impl: Name = "auto",
) -> tuple[Float[Array, "n *out c"], Int32[Array, "n *out c"]]:
    r"""Takes the largest element of each window, and says where in the input it was.

    $$y_{n,i,c} = x_{n,\, j_{n,i,c},\, c}$$

    Args:
        x: feature maps, (n, *spatial, c) with 1 to 3 spatial dimensions.
        window: an int or one per dimension.
        stride: the window by default.
        padding: as in ``max_pool``, "VALID" by default.
        dilation: 1 by default.
        ceil_mode: False by default.
        impl: as in ``max_pool``.

    Returns:
        The pooled maps, (n, *out, c), and int32 indices of the same shape into the spatial
        dimensions of x, flattened in row-major order, as PyTorch counts them. Among equals the
        first.

    Raises:
        TypeError: x is not a floating-point array.
        ValueError: a window, stride, padding or dilation that does not fit, or a window that lies
            wholly in the padding.

    >>> import jax.numpy as jnp
    >>> y, index = max_pool_with_indices(jnp.array([4.0, 1.0, 2.0, 3.0]).reshape(1, 4, 1), 2)
    >>> y[0, :, 0], index[0, :, 0]
    (Array([4., 3.], dtype=float32), Array([0, 3], dtype=int32))

    Zeiler and Fergus, "Visualizing and Understanding Convolutional Networks", ECCV 2014.
    """
    # Computed once, so that y equals one of its elements: see ``lowering``.
    x = jnp.asarray(lax.optimization_barrier(_feature_maps(x)))
    with jax.named_scope("max_pool_with_indices"):
        spec = _pool_spec(x, window, stride, padding, dilation, ceil_mode)
        if not all(count.all() for count in _elements_of_x(spec)):
            raise ValueError(
                f"padding={padding!r} leaves windows of {spec.window} without an element of "
                f"x.shape={x.shape}, so without an index"
            )
        y = lowering.run_max_pool(spec, x, impl)
        padded = pool_rewrites.pad_spatial(spec, x, -np.inf)
        inside = pool_rewrites.pad_spatial(spec, jnp.ones((1, *spec.spatial, 1)), 0.0)
        first = jnp.zeros(y.shape, jnp.int32)
        for number, tap in reversed(list(enumerate(spec.taps))):
            part = pool_rewrites.tap_slice(spec, padded, tap)
            is_maximum = (part == y) | jnp.isnan(part)
            # An input of -inf equals the padding, which has no index.
            is_maximum &= pool_rewrites.tap_slice(spec, inside, tap) > 0
            first = jnp.where(is_maximum, number, first)
        index = jnp.zeros(y.shape, jnp.int32)
        for axis, tap_position in enumerate(jnp.unravel_index(first, spec.window)):
            window_position = lax.broadcasted_iota(jnp.int32, y.shape, axis + 1)
            position = (
                window_position * spec.stride[axis]
                + tap_position.astype(jnp.int32) * spec.dilation[axis]
                - spec.padding[axis][0]
            )
            index = index * spec.spatial[axis] + position
        return y, index


def max_unpool(
    y: ArrayInput, indices: ArrayInput, output_shape: Ints
) -> Float[Array, "n *spatial c"]:
    r"""Puts each maximum back where it came from, zeros elsewhere.

    $$x_{n,\, j_{n,i,c},\, c} = y_{n,i,c}$$

    Where windows overlap and two maxima came from one place, it holds that one value. An index
    beyond ``output_shape`` is dropped.

    Args:
        y: pooled maps, (n, *out, c).
        indices: what ``max_pool_with_indices`` returned, of the same shape.
        output_shape: the spatial shape to go back to, an int or one per dimension.

    Returns:
        Feature maps, (n, *output_shape, c).

    Raises:
        TypeError: y is not a floating-point array or the indices are not integers.
        ValueError: shapes that do not fit.

    >>> import jax.numpy as jnp
    >>> y, index = max_pool_with_indices(jnp.array([4.0, 1.0, 2.0, 3.0]).reshape(1, 4, 1), 2)
    >>> max_unpool(y, index, 4)[0, :, 0]
    Array([4., 0., 0., 3.], dtype=float32)

    Zeiler and Fergus, "Visualizing and Understanding Convolutional Networks", ECCV 2014.
    """
    y = images("y", y)
    with jax.named_scope("max_unpool"):
        if not hasattr(indices, "dtype"):
            raise TypeError(f"indices must be an array, not {type(indices).__name__}")
        index = jnp.asarray(indices)
        if not jnp.issubdtype(index.dtype, jnp.integer):
            raise TypeError(f"indices.dtype={index.dtype} must be an integer type")
        if index.shape != y.shape:
            raise ValueError(f"indices.shape={index.shape} must equal y.shape={y.shape}")
        spatial = per_dimension("output_shape", output_shape, y.ndim - 2)
        n, c = y.shape[0], y.shape[-1]
        flat = jnp.zeros((n, math.prod(spatial), c), y.dtype)
        columns = (n, math.prod(y.shape[1:-1]), c)
        example, channel = jnp.arange(n)[:, None, None], jnp.arange(c)[None, None, :]
        position = index.reshape(columns)
        put = flat.at[example, position, channel].set(y.reshape(columns), mode="drop")
        return put.reshape(n, *spatial, c)


def blur_pool(
    x: ArrayInput, *, size: Int = 3, stride: Ints = 2, padding_mode: Name = "reflect"
) -> Float[Array, "n *out c"]:
    r"""Blurs with a binomial kernel, then takes every stride-th position, so that nothing aliases.

    $$y = (x * b)[::s], \qquad b = \tfrac{1}{2^{k-1}}\tbinom{k-1}{t} \text{ along each axis}$$

    Args:
        x: feature maps, (n, *spatial, c) with 1 to 3 spatial dimensions.
        size: k, the kernel's length, 3 by default.
        stride: 2 by default.
        padding_mode: "reflect" (default), "zeros", "replicate" or "circular".

    Returns:
        Feature maps, (n, *ceil(spatial / stride), c).

    Raises:
        TypeError: x is not a floating-point array.
        ValueError: a size or stride below 1, or a dimension too short to reflect.

    >>> import jax.numpy as jnp
    >>> blur_pool(jnp.array([0.0, 4.0, 0.0, 4.0]).reshape(1, 4, 1))[0, :, 0]
    Array([2., 2.], dtype=float32)

    Zhang, "Making Convolutional Networks Shift-Invariant Again", ICML 2019.
    """
    x = _feature_maps(x)
    with jax.named_scope("blur_pool"):
        rank = x.ndim - 2
        (length,) = per_dimension("size", size, 1)
        row = np.array([math.comb(length - 1, t) / 2 ** (length - 1) for t in range(length)])
        kernel = np.ones((1,) * rank)
        for axis in range(rank):
            kernel = kernel * row.reshape([-1 if i == axis else 1 for i in range(rank)])
        w = np.broadcast_to(kernel[..., None, None], (*kernel.shape, 1, x.shape[-1]))
        return depthwise_conv(
            x,
            jnp.asarray(w, x.dtype),
            stride=stride,
            padding=[((length - 1) // 2, length // 2)] * rank,
            padding_mode=padding_mode,
        )


def _elements_of_x(spec: PoolSpec, margin: Pairs | None = None) -> list[np.ndarray]:
    """For each dimension, how many elements of each window lie on x or on a margin around it."""
    counts = []
    for axis, (n, out) in enumerate(zip(spec.spatial, spec.out_spatial, strict=True)):
        start = np.arange(out)[:, None] * spec.stride[axis] - spec.padding[axis][0]
        position = start + np.arange(spec.window[axis]) * spec.dilation[axis]
        before, after = margin[axis] if margin else (0, 0)
        counts.append(((position >= -before) & (position < n + after)).sum(axis=1))
    return counts


def global_avg_pool(x: ArrayInput, *, keepdims: Flag = False) -> Float[Array, "n *out c"]:
    r"""Averages each channel over all positions.

    $$y_{n,c} = \frac{1}{|I|} \sum_i x_{n,i,c}$$

    Args:
        x: feature maps, (n, *spatial, c) with 1 to 3 spatial dimensions.
        keepdims: keep the spatial dimensions with length 1; False by default.

    Returns:
        (n, c), or (n, 1, ..., c).

    Raises:
        TypeError: x is not a floating-point array.
        ValueError: x has a wrong rank.

    >>> import jax.numpy as jnp
    >>> global_avg_pool(jnp.arange(4.0).reshape(1, 2, 2, 1))
    Array([[1.5]], dtype=float32)

    Lin, Chen and Yan, "Network In Network", ICLR 2014.
    """
    x = _feature_maps(x)
    with jax.named_scope("global_avg_pool"):
        return x.mean(axis=tuple(range(1, x.ndim - 1)), keepdims=keepdims)


def global_max_pool(x: ArrayInput, *, keepdims: Flag = False) -> Float[Array, "n *out c"]:
    r"""Takes the largest element of each channel.

    $$y_{n,c} = \max_i x_{n,i,c}$$

    The gradient goes to the first maximum in row-major order.

    Args:
        x: feature maps, (n, *spatial, c) with 1 to 3 spatial dimensions.
        keepdims: keep the spatial dimensions with length 1; False by default.

    Returns:
        (n, c), or (n, 1, ..., c).

    Raises:
        TypeError: x is not a floating-point array.
        ValueError: x has a wrong rank.

    >>> import jax.numpy as jnp
    >>> global_max_pool(jnp.arange(4.0).reshape(1, 2, 2, 1))
    Array([[3.]], dtype=float32)
    """
    x = _feature_maps(x)
    with jax.named_scope("global_max_pool"):
        flat = x.reshape(x.shape[0], math.prod(x.shape[1:-1]), x.shape[-1])
        y = pool_rewrites.first_max(flat, 1)
        return y.reshape(x.shape[0], *(1,) * (x.ndim - 2), x.shape[-1]) if keepdims else y


def _output_size(x: Array, output_size: object) -> tuple[int, ...]:
    """The adaptive pools' target: an int, or one int or None (keep the length) per dimension."""
    spatial = x.shape[1:-1]
    if output_size is None:
        return spatial
    if isinstance(output_size, list | tuple) and len(output_size) == len(spatial):
        filled = [n if size is None else size for size, n in zip(output_size, spatial, strict=True)]
        return per_dimension("output_size", filled, len(spatial))
    return per_dimension("output_size", output_size, len(spatial))


def _bins(size: int, out: int) -> list[tuple[int, int]]:
    """Where PyTorch's adaptive bins begin and end; neighbours may overlap."""
    return [(i * size // out, -(-(i + 1) * size // out)) for i in range(out)]


def adaptive_avg_pool(x: ArrayInput, output_size: OptionalInts) -> Float[Array, "n *out c"]:
    r"""Averages over as many bins as the output has positions, whatever the input's size.

    $$y_{n,i,c} = \operatorname{mean}\, x_{n,j,c}, \quad
    \lfloor i\,n/m \rfloor \le j < \lceil (i+1)\,n/m \rceil$$

    Args:
        x: feature maps, (n, *spatial, c) with 1 to 3 spatial dimensions.
        output_size: an int, or one int per dimension; None keeps a dimension.

    Returns:
        Feature maps, (n, *output_size, c).

    Raises:
        TypeError: x is not a floating-point array.
        ValueError: an output size below 1 or of the wrong length.

    >>> import jax.numpy as jnp
    >>> adaptive_avg_pool(jnp.arange(5.0).reshape(1, 5, 1), 2)[0, :, 0]
    Array([1., 3.], dtype=float32)

    He et al., "Spatial Pyramid Pooling in Deep Convolutional Networks", ECCV 2014.
    """
    x = _feature_maps(x)
    with jax.named_scope("adaptive_avg_pool"):
        y = wide(x)
        for axis, out in enumerate(_output_size(x, output_size), start=1):
            size = y.shape[axis]
            if size % out == 0:
                split = (*y.shape[:axis], out, size // out, *y.shape[axis + 1 :])
                y = y.reshape(split).mean(axis=axis + 1)
            else:
                means = [
                    lax.slice_in_dim(y, lo, hi, axis=axis).mean(axis=axis, keepdims=True)
                    for lo, hi in _bins(size, out)
                ]
                y = jnp.concatenate(means, axis=axis)
        return y.astype(x.dtype)


def adaptive_max_pool(x: ArrayInput, output_size: OptionalInts) -> Float[Array, "n *out c"]:
    r"""Takes the largest element of as many bins as the output has positions.

    $$y_{n,i,c} = \max\, x_{n,j,c}, \quad
    \lfloor i\,n/m \rfloor \le j < \lceil (i+1)\,n/m \rceil$$

    The gradient goes to the first maximum of a bin in row-major order.

    Args:
        x: feature maps, (n, *spatial, c) with 1 to 3 spatial dimensions.
        output_size: an int, or one int per dimension; None keeps a dimension.

    Returns:
        Feature maps, (n, *output_size, c).

    Raises:
        TypeError: x is not a floating-point array.
        ValueError: an output size below 1 or of the wrong length.

    >>> import jax.numpy as jnp
    >>> adaptive_max_pool(jnp.arange(5.0).reshape(1, 5, 1), 2)[0, :, 0]
    Array([2., 4.], dtype=float32)

    He et al., "Spatial Pyramid Pooling in Deep Convolutional Networks", ECCV 2014.
    """
    x = _feature_maps(x)
    with jax.named_scope("adaptive_max_pool"):
        sizes = _output_size(x, output_size)
        # Last dimension first: then the first row that holds the maximum wins, and in it the
        # first column, which is row-major order.
        for axis in reversed(range(1, x.ndim - 1)):
            out, size = sizes[axis - 1], x.shape[axis]
            if size % out == 0:
                split = (*x.shape[:axis], out, size // out, *x.shape[axis + 1 :])
                x = pool_rewrites.first_max(x.reshape(split), axis + 1)
            else:
                maxima = [
                    pool_rewrites.first_max(lax.slice_in_dim(x, lo, hi, axis=axis), axis)
                    for lo, hi in _bins(size, out)
                ]
                x = jnp.stack(maxima, axis=axis)
        return x
