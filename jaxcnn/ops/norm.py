"""Normalisation as pure functions: statistics go in, statistics come out.

Whatever the input's dtype, means and variances are computed in float32 (float64 for float64);
the result has the input's dtype.
"""

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

from jaxcnn.ops import lowering
from jaxcnn.ops.annotations import Activation, ArrayInput, AxisName, Flag, Int, Ints, Number
from jaxcnn.ops.checks import channel_vector, floating_array, number_at_least, per_channel, wide
from jaxcnn.ops.geometry import is_int, per_dimension


def _affine(y: Array, scale: ArrayInput | None, bias: ArrayInput | None) -> Array:
    channels = y.shape[-1]
    if scale is not None:
        y = y * per_channel(channel_vector("scale", scale, channels), y.ndim)
    if bias is not None:
        y = y + per_channel(channel_vector("bias", bias, channels), y.ndim)
    return y


def _activations(value: ArrayInput) -> Array:
    """The argument as an array (n, ..., c) of rank 2 or more."""
    x = floating_array("x", value)
    if x.ndim < 2:
        raise ValueError(f"x.shape={x.shape} must have rank 2 or more, (n, ..., c)")
    if 0 in x.shape[1:]:
        raise ValueError(f"x.shape={x.shape} must have no empty dimension but the batch")
    return x


def batch_norm(
    x: ArrayInput,
    mean: ArrayInput,
    var: ArrayInput,
    scale: ArrayInput | None = None,
    bias: ArrayInput | None = None,
    *,
    train: Flag,
    momentum: Number = 0.9,
    epsilon: Number = 1e-5,
    unbiased: Flag = True,
    axis_name: AxisName = None,
    mask: ArrayInput | None = None,
    activation: Activation | None = None,
) -> tuple[Array, Array, Array]:
    r"""Normalises each channel by the statistics of the batch, or by running statistics.

    $$y = \gamma\,\frac{x - \mu_c}{\sqrt{\sigma_c^2 + \epsilon}} + \beta, \qquad
    \mu' = m\,\mu + (1 - m)\,\mu_\text{batch}$$

    In training the gradient is a closed form, for which JAX has no forward mode; the plain form
    serves under ``force_impl("lax")`` and with a mask or mapped axes. On a GPU, which waits for its
    memory here, one pass over x gives mean and variance, and the gradient computes anew what the
    activation was given, in place of storing it.

    Args:
        x: activations, (n, ..., c), of any rank from 2.
        mean: running mean, (c,).
        var: running variance, (c,).
        scale: gamma, (c,); None for 1.
        bias: beta, (c,); None for 0.
        train: True normalises by the batch and updates the statistics; False normalises by the
            statistics given and returns them unchanged.
        momentum: m, the share of the old statistics that is kept, 0.9 by default (PyTorch's
            momentum is 1 - m).
        epsilon: number added to the variance, 1e-5 by default.
        unbiased: the running variance uses the unbiased batch variance, as in PyTorch; True by
            default. The batch is always normalised by the biased one.
        axis_name: mapped axes (``vmap``, ``shard_map``) over which the batch is spread.
        mask: which entries count, (n,) or x.shape[:-1]; None for all. Every entry is normalised;
            where none counts, the statistics stay as they were.
        activation: an elementwise function of arrays that y goes through, such as
            ``jax.nn.relu``; None (default) for the identity.

    Returns:
        The normalised (and activated) x, the new mean and the new variance.

    Raises:
        TypeError: an argument is not a floating-point array, not a number or not a function.
        ValueError: a shape that does not fit, an empty batch to train on, a negative epsilon, or
            a momentum outside [0, 1].

    >>> import jax.numpy as jnp
    >>> x = jnp.array([[0.0], [2.0]])
    >>> y, mean, var = batch_norm(x, jnp.zeros(1), jnp.ones(1), train=True, epsilon=0)
    >>> y[:, 0], mean, var
    (Array([-1.,  1.], dtype=float32), Array([0.1], dtype=float32), Array([1.1], dtype=float32))

    Ioffe and Szegedy, "Batch Normalization", ICML 2015.
    """
    x = _activations(x)
    with jax.named_scope("batch_norm"):
        channels = x.shape[-1]
        mean = channel_vector("mean", mean, channels)
        var = channel_vector("var", var, channels)
        number_at_least("momentum", momentum, 0)
        if momentum > 1:
            raise ValueError(f"momentum={momentum} must lie in [0, 1]")
        number_at_least("epsilon", epsilon, 0)
        if activation is not None and not callable(activation):
            raise TypeError(f"activation={activation!r} must be a function of arrays, or None")
        weights = None if mask is None else _mask_weights(mask, x)
        if not train:
            multiplier = lax.rsqrt(wide(var) + epsilon)
            y = (wide(x) - per_channel(wide(mean), x.ndim)) * per_channel(multiplier, x.ndim)
            y = _affine(y, scale, bias).astype(x.dtype)
            return y if activation is None else activation(y), mean, var
        if not x.size:
            raise ValueError(f"x.shape={x.shape} must not be empty: it has no statistics")
        count: Array | float
        inside, outside = None, activation
        if weights is None and axis_name is None and not lowering.is_pinned_to_lax():
            default = wide(jnp.ones(channels, x.dtype))
            gamma = default if scale is None else channel_vector("scale", scale, channels)
            beta = (
                jnp.zeros_like(default) if bias is None else channel_vector("bias", bias, channels)
            )
            on_gpu = lowering.current_platform() == "gpu"
            if on_gpu and activation is not None and not _holds_traced(activation, x):
                inside, outside = activation, None
            how = _How(float(epsilon), on_gpu, inside)
            y, batch_mean, batch_var = _normalise_by_batch(x, gamma, beta, how)
            count = float(x.size // channels)
        else:
            batch_mean, batch_var, count = _batch_statistics(x, weights, axis_name)
            centered = wide(x) - per_channel(batch_mean, x.ndim)
            y = centered * per_channel(lax.rsqrt(batch_var + epsilon), x.ndim)
            y = _affine(y, scale, bias).astype(x.dtype)
        y = y if outside is None else outside(y)
        correction = count / jnp.maximum(count - 1, 1) if unbiased else 1.0
        new_mean = momentum * mean + (1 - momentum) * batch_mean.astype(mean.dtype)
        new_var = momentum * var + (1 - momentum) * (batch_var * correction).astype(var.dtype)
        if weights is not None:  # a batch in which nothing counts has no statistics to learn from
            new_mean = jnp.where(count >= 1, new_mean, mean)
            new_var = jnp.where(count >= 1, new_var, var)
        return y, new_mean, new_var


class _How(NamedTuple):
    """What is static about a normalisation; the activation is one that is part of it."""

    epsilon: float
    in_one_pass: bool
    activation: Activation | None


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def _normalise_by_batch(
    x: Array, scale: Array, bias: Array, how: _How
) -> tuple[Array, Array, Array]:
    """The normalised batch, its mean and its biased variance.

    The gradient in closed form needs two sums over the batch,
    ``dx = gamma / sigma (dy - mean(dy) - xhat mean(dy xhat))``; differentiating the forward pass
    step by step makes twice as many passes over the activations.
    """
    if how.in_one_pass:
        mean, var = _statistics_in_one_pass(x)
    else:
        mean, var, _ = _batch_statistics(x, None, None)
    y = _normalised(x, scale, bias, mean, var, how.epsilon)
    return y if how.activation is None else how.activation(y), mean, var


def _normalised(
    x: Array, scale: Array, bias: Array, mean: Array, var: Array, epsilon: float
) -> Array:
    multiplier = per_channel(lax.rsqrt(var + epsilon) * wide(scale), x.ndim)
    y = (wide(x) - per_channel(mean, x.ndim)) * multiplier + per_channel(wide(bias), x.ndim)
    return y.astype(x.dtype)


def _normalise_by_batch_fwd(x: Array, scale: Array, bias: Array, how: _How) -> tuple[Any, Any]:
    y, mean, var = _normalise_by_batch(x, scale, bias, how)
    return (y, mean, var), (x, scale, bias, mean, var)


def _normalise_by_batch_bwd(how: _How, residuals: Any, cotangents: Any) -> Any:
    x, scale, bias, mean, var = residuals
    dy, dmean, dvar = map(jnp.asarray, cotangents)
    if how.activation is not None:
        given = _normalised(x, scale, bias, mean, var, how.epsilon)
        (dy,) = jax.vjp(how.activation, given)[1](dy)
    axes, count = tuple(range(x.ndim - 1)), x.size // x.shape[-1]
    dy, centered = wide(dy), wide(x) - per_channel(mean, x.ndim)
    inverse = lax.rsqrt(var + how.epsilon)
    dy_sum, product_sum = dy.sum(axes), (dy * centered).sum(axes)
    # dx = a dy + b + c (x - mean), with one number per channel for each of a, b and c
    a = inverse * wide(scale)
    b = (dmean - a * dy_sum) / count
    c = (2 * dvar - a * inverse**2 * product_sum) / count
    dx = per_channel(a, x.ndim) * dy + per_channel(b, x.ndim) + per_channel(c, x.ndim) * centered
    dscale = (inverse * product_sum).astype(scale.dtype)
    return dx.astype(x.dtype), dscale, dy_sum.astype(bias.dtype)


_normalise_by_batch.defvjp(_normalise_by_batch_fwd, _normalise_by_batch_bwd)


def _holds_traced(activation: Activation, x: Array) -> bool:
    """Says whether a function closes over values with gradients, which must stay outside."""
    return bool(jax.closure_convert(activation, x)[1])


def _statistics_in_one_pass(x: Array) -> tuple[Array, Array]:
    """Mean and biased variance of each channel, of sums that are computed together.

    With a shift ``k`` they are ``k + E[x - k]`` and ``E[(x - k)^2] - E[x - k]^2``. The shift is
    the entry in the middle of the first example, so that the difference loses no more digits than
    the square of that entry's distance from the mean, in standard deviations, has.
    """
    middle = (0, *(size // 2 for size in x.shape[1:-1]))
    shift, axes = wide(x[middle]), tuple(range(x.ndim - 1))
    shifted = wide(x) - per_channel(shift, x.ndim)
    first, second = shifted.mean(axes), jnp.square(shifted).mean(axes)
    return shift + first, jnp.maximum(second - jnp.square(first), 0)


def _mask_weights(mask: ArrayInput, x: Array) -> Array:
    """One weight per entry, with a trailing dimension for the channels."""
    if not hasattr(mask, "shape"):
        raise TypeError(f"mask must be an array, not {type(mask).__name__}")
    weights = jnp.asarray(mask)
    if weights.shape == x.shape[:1]:
        weights = weights.reshape((-1,) + (1,) * (x.ndim - 2))
    elif weights.shape != x.shape[:-1]:
        raise ValueError(f"mask.shape={weights.shape} must be {x.shape[:1]} or {x.shape[:-1]}")
    weights = jnp.broadcast_to(weights, x.shape[:-1])[..., None]
    return weights.astype(jnp.promote_types(x.dtype, jnp.float32))


def _batch_statistics(
    x: Array, weights: Array | None, axis_name: AxisName
) -> tuple[Array, Array, Array | float]:
    """Mean, biased variance and number of the entries of each channel."""
    axes = tuple(range(x.ndim - 1))

    def total(values: Array) -> Array:
        summed = values.sum(axis=axes)
        return summed if axis_name is None else lax.psum(summed, axis_name)

    values = wide(x)
    count: Array | float
    if weights is None:
        count = float(x.size // x.shape[-1]) * (
            1 if axis_name is None else lax.axis_size(axis_name)
        )
        mean = total(values) / count
        # Two passes: E[x^2] - E[x]^2 loses every digit where the mean is large.
        var = total(jnp.square(values - per_channel(mean, x.ndim))) / count
    else:
        count = jnp.maximum(total(weights), 1e-12)
        mean = total(values * weights) / count
        var = total(jnp.square(values - per_channel(mean, x.ndim)) * weights) / count
    return mean, var, count


def layer_norm(
    x: ArrayInput,
    scale: ArrayInput | None = None,
    bias: ArrayInput | None = None,
    *,
    epsilon: Number = 1e-6,
    axis: Ints = -1,
) -> Array:
    r"""Normalises each example over the given axes; over the channels of each position by default.

    $$y = \gamma\,\frac{x - \mu}{\sqrt{\sigma^2 + \epsilon}} + \beta$$

    Args:
        x: activations, (..., c).
        scale: gamma, (c,), whichever axes are normalised; None for 1.
        bias: beta, (c,); None for 0.
        epsilon: number added to the variance, 1e-6 by default.
        axis: an axis or several, -1 by default.

    Returns:
        Activations of the same shape.

    Raises:
        TypeError: an argument is not a floating-point array, or an axis not an int.
        ValueError: a shape or an axis that does not fit, or a negative epsilon.

    >>> import jax.numpy as jnp
    >>> layer_norm(jnp.array([[1.0, 3.0]]), epsilon=0)
    Array([[-1.,  1.]], dtype=float32)

    Ba, Kiros and Hinton, "Layer Normalization", 2016.
    """
    x = floating_array("x", x)
    with jax.named_scope("layer_norm"):
        number_at_least("epsilon", epsilon, 0)
        axes = tuple(axis) if isinstance(axis, Sequence) else (axis,)
        if not all(map(is_int, axes)):
            raise TypeError(f"axis={axis!r} must be an int or a sequence of ints")
        distinct = {a % x.ndim for a in axes if -x.ndim <= a < x.ndim}
        if not axes or len(distinct) != len(axes):
            raise ValueError(f"axis={axis} must name distinct dimensions of x.shape={x.shape}")
        y = _standardise(wide(x), axes, epsilon)
        return _affine(y, scale, bias).astype(x.dtype)


def group_norm(
    x: ArrayInput,
    groups: Int,
    scale: ArrayInput | None = None,
    bias: ArrayInput | None = None,
    *,
    epsilon: Number = 1e-5,
) -> Array:
    r"""Normalises each example over all positions of each group of neighbouring channels.

    $$y = \gamma\,\frac{x - \mu_{n,g}}{\sqrt{\sigma_{n,g}^2 + \epsilon}} + \beta$$

    ``groups=1`` is layer normalisation over all of an example, ``groups=c`` instance normalisation.

    Args:
        x: activations, (n, ..., c).
        groups: the number of groups; it divides c.
        scale: gamma, (c,); None for 1.
        bias: beta, (c,); None for 0.
        epsilon: number added to the variance, 1e-5 by default.

    Returns:
        Activations of the same shape.

    Raises:
        TypeError: an argument is not a floating-point array.
        ValueError: ``groups`` does not divide c, or a shape that does not fit.

    >>> import jax.numpy as jnp
    >>> group_norm(jnp.array([[1.0, 3.0, 10.0, 20.0]]), 2, epsilon=0)
    Array([[-1.,  1., -1.,  1.]], dtype=float32)

    Wu and He, "Group Normalization", ECCV 2018.
    """
    x = _activations(x)
    with jax.named_scope("group_norm"):
        number_at_least("epsilon", epsilon, 0)
        if not is_int(groups):
            raise TypeError(f"groups={groups!r} must be an int")
        if groups < 1 or x.shape[-1] % groups:
            raise ValueError(f"groups={groups} must divide channels={x.shape[-1]}")
        split = wide(x).reshape(*x.shape[:-1], groups, x.shape[-1] // groups)
        axes = (*range(1, x.ndim - 1), x.ndim)
        y = _standardise(split, axes, epsilon).reshape(x.shape)
        return _affine(y, scale, bias).astype(x.dtype)


def _standardise(x: Array, axes: tuple[int, ...], epsilon: Number) -> Array:
    """Zero mean and unit variance over the axes."""
    centered = x - x.mean(axis=axes, keepdims=True)
    var = jnp.square(centered).mean(axis=axes, keepdims=True)
    return centered * lax.rsqrt(var + epsilon)


def local_response_norm(
    x: ArrayInput,
    size: Int = 5,
    alpha: Number = 1e-4,
    beta: Number = 0.75,
    k: Number = 1.0,
    *,
    divide_alpha: Flag = True,
) -> Array:
    r"""Divides each activation by the energy of its neighbouring channels.

    $$y_c = x_c \Big/ \Big(k + a \sum_{j = c - \lfloor s / 2 \rfloor}^{c + \lfloor (s - 1) / 2
    \rfloor} x_j^2\Big)^\beta, \qquad
    a = \alpha / s \text{ or } \alpha$$

    PyTorch divides alpha by the size and AlexNet's paper does not. AlexNet as published is
    ``local_response_norm(x, 5, 1e-4, 0.75, 2.0, divide_alpha=False)``; PyTorch's default layer is
    ``local_response_norm(x, 5)``.

    Args:
        x: activations, (n, ..., c).
        size: s, the number of channels summed over, 5 by default; an even one reaches further
            down, as in PyTorch.
        alpha: 1e-4 by default.
        beta: 0.75 by default.
        k: 1.0 by default.
        divide_alpha: True (default) for PyTorch's alpha / size, False for the paper's alpha.

    Returns:
        Activations of the same shape.

    Raises:
        TypeError: x is not a floating-point array.
        ValueError: ``size`` below 1, alpha or beta below 0, or k not above 0.

    >>> import jax.numpy as jnp
    >>> x = jnp.array([[1.0, 1.0, 1.0]])
    >>> local_response_norm(x, 3, alpha=1.0, beta=1.0, divide_alpha=False)
    Array([[0.33333334, 0.25      , 0.33333334]], dtype=float32)

    Krizhevsky, Sutskever and Hinton, "ImageNet Classification with Deep CNNs", 2012.
    """
    x = _activations(x)
    with jax.named_scope("local_response_norm"):
        (reach,) = per_dimension("size", size, 1)
        for name, value in (("alpha", alpha), ("beta", beta), ("k", k)):
            number_at_least(name, value, 0)
        if not k > 0:
            raise ValueError(f"k={k} must be above 0: an activation of 0 would be divided by 0")
        values = wide(x)
        no_padding = [(0, 0)] * (x.ndim - 1)
        squares = jnp.pad(jnp.square(values), [*no_padding, (reach // 2, (reach - 1) // 2)])
        channels = x.shape[-1]
        energy = sum(squares[..., i : i + channels] for i in range(reach))
        factor = alpha / reach if divide_alpha else alpha
        return (values * (k + factor * energy) ** -beta).astype(x.dtype)
