"""The arithmetic of shapes: padding, output sizes, neuron counts and receptive fields.

Everything here is plain Python on integers, so it can be used before any array exists. The ops
check their own arguments with it, which is why a bad stride is reported by name at trace time.
"""

import math
import numbers
import operator
from collections.abc import Sequence
from typing import Any, NamedTuple

from jaxcnn.ops.annotations import Int, Ints, Padding, Pairs, Shape

__all__ = [
    "LayerGeometry",
    "ReceptiveField",
    "conv_output_shape",
    "conv_transpose_output_shape",
    "explicit_padding",
    "layer_activations",
    "layer_parameters",
    "per_dimension",
    "pool_output_shape",
    "receptive_field",
    "same_padding",
]

PADDING_NAMES = ("SAME", "SAME_LOWER", "VALID")


def per_dimension(name: str, value: Any, rank: int, *, minimum: int = 1) -> tuple[int, ...]:
    r"""Spreads an int over the spatial dimensions, or checks a sequence of them.

    $$\text{stride} = s \;\mapsto\; (s, \dots, s)$$

    Args:
        name: what to call the argument in an error.
        value: an int, or one int per spatial dimension.
        rank: the number of spatial dimensions.
        minimum: the smallest value accepted, 1 by default.

    Returns:
        A tuple of ``rank`` ints.

    Raises:
        TypeError: an entry is not an integer.
        ValueError: the length is not ``rank``, or an entry is below ``minimum``.

    >>> per_dimension("stride", 2, rank=3)
    (2, 2, 2)
    """
    entries = [value] * rank if is_int(value) else value
    if isinstance(entries, str | bytes) or not isinstance(entries, Sequence):
        raise TypeError(f"{name}={value!r} must be an int or a sequence of {rank} ints")
    if len(entries) != rank:
        raise ValueError(
            f"{name}={value!r} has {len(entries)} entries; give an int or one per spatial "
            f"dimension ({rank})"
        )
    if not all(is_int(entry) for entry in entries):
        raise TypeError(f"{name}={value!r} must hold integers only")
    result = tuple(operator.index(entry) for entry in entries)
    if min(result) < minimum:
        raise ValueError(f"{name}={value!r} must be at least {minimum} in every dimension")
    return result


def same_padding(
    size: Int, window: Int, stride: Int = 1, dilation: Int = 1, *, lower: bool = False
) -> tuple[int, int]:
    r"""Returns the padding with which an output has ceil(size / stride) positions.

    $$p = \max\big((\lceil n/s \rceil - 1)\,s + d(k-1) + 1 - n,\; 0\big)$$

    An odd ``p`` puts the extra element after the input ("SAME", as TensorFlow does), or before it
    ("SAME_LOWER").

    Args:
        size: n, the length of the dimension.
        window: k, the length of the kernel.
        stride: s, 1 by default.
        dilation: d, 1 by default.
        lower: put the odd element first; False by default.

    Returns:
        The padding before and after.

    Raises:
        TypeError: an argument is not an integer.
        ValueError: an argument below 1.

    >>> same_padding(224, 7, stride=2), same_padding(224, 7, stride=2, lower=True)
    ((2, 3), (3, 2))
    """
    for name, value in zip(
        ("size", "window", "stride", "dilation"), (size, window, stride, dilation), strict=True
    ):
        per_dimension(name, value, 1)
    out = -(-size // stride)
    total = max((out - 1) * stride + dilation * (window - 1) + 1 - size, 0)
    return (total - total // 2, total // 2) if lower else (total // 2, total - total // 2)


def explicit_padding(
    padding: Padding,
    shape: Sequence[int],
    window: Sequence[int],
    stride: Sequence[int],
    dilation: Sequence[int],
) -> Pairs:
    """Turns any way of writing a padding into pairs (before, after).

    Args:
        padding: "SAME", "SAME_LOWER", "VALID", an int for every side, one int per dimension, or
            one pair per dimension.
        shape: the spatial shape of the input.
        window: the kernel's spatial shape.
        stride: one stride per dimension.
        dilation: one dilation per dimension.

    Returns:
        One (before, after) pair per dimension.

    Raises:
        TypeError: an entry is not an integer.
        ValueError: an unknown name, a wrong length, or a negative padding.

    >>> explicit_padding("SAME", (5, 5), (3, 2), (1, 1), (1, 1))
    ((1, 1), (0, 1))
    >>> explicit_padding([1, 2], (5, 5), (3, 3), (1, 1), (1, 1))
    ((1, 1), (2, 2))
    """
    rank = len(shape)
    if isinstance(padding, str):
        if padding not in PADDING_NAMES:
            raise ValueError(
                f"padding={padding!r} must be one of {', '.join(PADDING_NAMES)}, an int, "
                "or a sequence of ints or pairs"
            )
        if padding == "VALID":
            return ((0, 0),) * rank
        lower = padding == "SAME_LOWER"
        return tuple(
            same_padding(n, k, s, d, lower=lower)
            for n, k, s, d in zip(shape, window, stride, dilation, strict=True)
        )
    if (
        not isinstance(padding, Sequence)
        or isinstance(padding, bytes)
        or all(is_int(entry) for entry in padding)
    ):
        return tuple((p, p) for p in per_dimension("padding", padding, rank, minimum=0))
    if len(padding) != rank:
        raise ValueError(
            f"padding={padding!r} has {len(padding)} entries; give one pair per spatial "
            f"dimension ({rank})"
        )
    pairs = []
    for pair in padding:
        if not isinstance(pair, Sequence) or len(pair) != 2:
            raise ValueError(f"padding={padding!r} must hold pairs (before, after)")
        before, after = per_dimension("padding", pair, 2, minimum=0)
        pairs.append((before, after))
    return tuple(pairs)


def conv_output_shape(
    shape: Shape, kernel: Ints, *, stride: Ints = 1, padding: Padding = "SAME", dilation: Ints = 1
) -> tuple[int, ...]:
    r"""Returns the spatial shape of a convolution's output.

    $$n_\text{out} = \left\lfloor \frac{n + p_\text{lo} + p_\text{hi} - d(k-1) - 1}{s}
    \right\rfloor + 1$$

    Args:
        shape: the input's spatial shape, without batch and channels.
        kernel: the kernel's spatial shape, or one int for all dimensions.
        stride: 1 by default.
        padding: as in ``conv``; "SAME" by default.
        dilation: 1 by default.

    Returns:
        The output's spatial shape.

    Raises:
        ValueError: the dilated kernel is larger than the padded input, or a bad argument.

    >>> conv_output_shape((224, 224), 7, stride=2, padding=3)
    (112, 112)
    """
    rank = len(_checked_shape("shape", shape))
    window = per_dimension("kernel", kernel, rank)
    strides = per_dimension("stride", stride, rank)
    dilations = per_dimension("dilation", dilation, rank)
    pairs = explicit_padding(padding, shape, window, strides, dilations)
    return window_output_shape("kernel", shape, window, strides, pairs, dilations)


def window_output_shape(
    name: str,
    shape: Sequence[int],
    window: Sequence[int],
    stride: Sequence[int],
    padding: Pairs,
    dilation: Sequence[int],
) -> tuple[int, ...]:
    """Counts the positions of a window on a padded input; a window that cannot fit raises.

    Args:
        name: what the error calls the window, "kernel" or "window".
        shape: the input's spatial shape.
        window: the window's spatial shape.
        stride: one per dimension.
        padding: one (before, after) per dimension.
        dilation: one per dimension.

    Returns:
        The output's spatial shape.

    Raises:
        ValueError: the dilated window is larger than the padded input.

    >>> window_output_shape("window", (4,), (2,), (2,), ((0, 0),), (1,))
    (2,)
    """
    out = []
    for n, k, s, (lo, hi), d in zip(shape, window, stride, padding, dilation, strict=True):
        reach = d * (k - 1) + 1
        if n + lo + hi < reach:
            raise ValueError(
                f"{name}={tuple(window)} with dilation={tuple(dilation)} spans {reach} and is "
                f"larger than the padded input, {n} + {lo} + {hi} of spatial shape "
                f"{tuple(shape)}: the output would be empty"
            )
        out.append((n + lo + hi - reach) // s + 1)
    return tuple(out)


def ceil_padding(
    shape: Sequence[int],
    window: Sequence[int],
    stride: Sequence[int],
    padding: Pairs,
    dilation: Sequence[int],
) -> Pairs:
    """Lengthens the padding so that ``ceil_mode`` keeps the last, partial window.

    As in PyTorch, a window that would start in the padding after the input is dropped.

    Args:
        shape: the input's spatial shape.
        window: the window's spatial shape.
        stride: one per dimension.
        padding: one (before, after) per dimension.
        dilation: one per dimension.

    Returns:
        The padding whose floor-mode output has ceil-mode's shape.

    >>> ceil_padding((5,), (2,), (2,), ((0, 0),), (1,))
    ((0, 1),)
    """
    pairs = []
    for n, k, s, (lo, hi), d in zip(shape, window, stride, padding, dilation, strict=True):
        reach = d * (k - 1) + 1
        out = -(-(n + lo + hi - reach) // s) + 1
        if (out - 1) * s >= n + lo:
            out -= 1
        pairs.append((lo, max((out - 1) * s + reach - n - lo, hi)))
    return tuple(pairs)


def pool_output_shape(
    shape: Shape,
    window: Ints,
    *,
    stride: Ints | None = None,
    padding: Padding = "VALID",
    dilation: Ints = 1,
    ceil_mode: bool = False,
) -> tuple[int, ...]:
    r"""Returns the spatial shape of a pooling layer's output.

    $$n_\text{out} = \left\lfloor \frac{n + p_\text{lo} + p_\text{hi} - d(k-1) - 1}{s}
    \right\rfloor + 1 \quad (\lceil\cdot\rceil \text{ in ceil mode})$$

    Args:
        shape: the input's spatial shape, without batch and channels.
        window: the window's spatial shape, or one int for all dimensions.
        stride: the window by default.
        padding: "VALID" by default.
        dilation: 1 by default.
        ceil_mode: keep the last, partial window; False by default.

    Returns:
        The output's spatial shape.

    Raises:
        ValueError: the window is larger than the padded input, or a bad argument.

    >>> pool_output_shape((7, 7), 2), pool_output_shape((7, 7), 2, ceil_mode=True)
    ((3, 3), (4, 4))
    """
    rank = len(_checked_shape("shape", shape))
    windows = per_dimension("window", window, rank)
    strides = windows if stride is None else per_dimension("stride", stride, rank)
    dilations = per_dimension("dilation", dilation, rank)
    pairs = explicit_padding(padding, shape, windows, strides, dilations)
    if ceil_mode:
        pairs = ceil_padding(shape, windows, strides, pairs, dilations)
    return window_output_shape("window", shape, windows, strides, pairs, dilations)


def conv_transpose_padding(
    padding: Padding, kernel: Sequence[int], stride: Sequence[int], dilation: Sequence[int]
) -> Pairs:
    """Returns the padding that a transposed convolution removes from its full output.

    "SAME" removes what makes the output ``stride`` times the input; "VALID" removes nothing.

    Args:
        padding: as in ``conv_transpose``.
        kernel: the kernel's spatial shape.
        stride: one per dimension.
        dilation: one per dimension.

    Returns:
        One (before, after) pair per dimension.

    >>> conv_transpose_padding("SAME", (4,), (2,), (1,))
    ((1, 1),)
    """
    if not isinstance(padding, str) or padding not in ("SAME", "SAME_LOWER"):
        return explicit_padding(padding, kernel, kernel, stride, dilation)
    pairs = []
    for k, s, d in zip(kernel, stride, dilation, strict=True):
        # The full output has (n - 1) s + d (k - 1) + 1 positions; n s are wanted. A kernel
        # shorter than the stride leaves too few: a negative padding adds zeros at the end.
        excess = d * (k - 1) + 1 - s
        small, large = max(excess, 0) // 2, excess - max(excess, 0) // 2
        pairs.append((large, small) if padding == "SAME_LOWER" and excess > 0 else (small, large))
    return tuple(pairs)


def conv_transpose_output_shape(
    shape: Shape,
    kernel: Ints,
    *,
    stride: Ints = 1,
    padding: Padding = "SAME",
    output_padding: Ints = 0,
    dilation: Ints = 1,
) -> tuple[int, ...]:
    r"""Returns the spatial shape of a transposed convolution's output.

    $$n_\text{out} = (n - 1)\,s - p_\text{lo} - p_\text{hi} + d(k-1) + 1 + p_\text{out}$$

    Args:
        shape: the input's spatial shape.
        kernel: the kernel's spatial shape, or one int.
        stride: 1 by default.
        padding: what the matching forward convolution would add; "SAME" by default.
        output_padding: extra positions at the end, 0 by default.
        dilation: 1 by default.

    Returns:
        The output's spatial shape.

    Raises:
        ValueError: the output would be empty, or a bad argument.

    >>> conv_transpose_output_shape((7, 7), 4, stride=2, padding=1)
    (14, 14)
    """
    rank = len(_checked_shape("shape", shape))
    window = per_dimension("kernel", kernel, rank)
    strides = per_dimension("stride", stride, rank)
    dilations = per_dimension("dilation", dilation, rank)
    extra = per_dimension("output_padding", output_padding, rank, minimum=0)
    for e, s, d in zip(extra, strides, dilations, strict=True):
        if e >= max(s, d):
            raise ValueError(
                f"output_padding={output_padding!r} must be smaller than stride={stride!r} or "
                f"dilation={dilation!r}"
            )
    pairs = conv_transpose_padding(padding, window, strides, dilations)
    out = tuple(
        (n - 1) * s - lo - hi + d * (k - 1) + 1 + e
        for n, k, s, d, (lo, hi), e in zip(
            shape, window, strides, dilations, pairs, extra, strict=True
        )
    )
    if min(out) < 1:
        raise ValueError(
            f"padding={padding!r} removes the whole output: kernel={window}, stride={strides} on "
            f"spatial shape {tuple(shape)} would leave {out}"
        )
    return out


def layer_activations(spatial: Shape, features: Int) -> int:
    r"""Counts the outputs ("neurons") of a layer for one image.

    $$A = c \prod_i n_i$$

    Args:
        spatial: the output's spatial shape.
        features: c, the number of output channels.

    Returns:
        The number of activations.

    Raises:
        TypeError: a size is not an integer.
        ValueError: a size below 1.

    >>> layer_activations((28, 28), 32)
    25088
    """
    per_dimension("features", features, 1)
    return math.prod(_checked_shape("spatial", spatial)) * features


def layer_parameters(
    kernel: Shape, in_features: Int, features: Int, *, groups: Int = 1, bias: bool = True
) -> int:
    r"""Counts the parameters of a convolution.

    $$P = c_\text{out}\left(\frac{c_\text{in}}{g} \prod_i k_i + [\text{bias}]\right)$$

    Args:
        kernel: the kernel's spatial shape.
        in_features: input channels.
        features: output channels.
        groups: 1 by default.
        bias: True by default.

    Returns:
        The number of parameters.

    Raises:
        TypeError: a number is not an integer.
        ValueError: ``groups`` does not divide both channel counts, or a number below 1.

    >>> layer_parameters((5, 5), 1, 6)
    156
    """
    per_dimension("in_features", in_features, 1)
    per_dimension("features", features, 1)
    check_groups(groups, in_features, features)
    return features * (
        math.prod(_checked_shape("kernel", kernel)) * in_features // groups + int(bias)
    )


def check_groups(groups: Int, in_channels: int, out_channels: int) -> None:
    """Refuses a number of groups that does not divide both channel counts.

    Args:
        groups: the number of groups.
        in_channels: input channels.
        out_channels: output channels.

    Raises:
        TypeError: ``groups`` is not an int.
        ValueError: it is not positive, or does not divide one of them.

    >>> check_groups(4, 64, 128)
    """
    if not is_int(groups):
        raise TypeError(f"groups={groups!r} must be an int")
    if groups < 1:
        raise ValueError(f"groups={groups} must be at least 1")
    for name, channels in (("in_channels", in_channels), ("out_channels", out_channels)):
        if channels % groups:
            raise ValueError(f"groups={groups} must divide {name}={channels}")


class LayerGeometry(NamedTuple):
    """The window of one layer in one dimension: all that its receptive field depends on."""

    kernel: int
    stride: int = 1
    padding: int = 0
    dilation: int = 1


class ReceptiveField(NamedTuple):
    """What one output position sees of the input, in one dimension, in input pixels.

    ``size`` is the extent it sees, ``stride`` the distance between the fields of neighbouring
    outputs, and ``center`` where the field of output 0 is centred (pixel 0 spans [-0.5, 0.5]).
    """

    size: int
    stride: int
    center: float


def receptive_field(layers: Sequence[Shape]) -> ReceptiveField:
    r"""Returns the theoretical receptive field of a stack of convolutions and pools.

    $$r_l = r_{l-1} + d_l(k_l - 1)\,j_{l-1}, \qquad j_l = j_{l-1} s_l, \qquad
    c_l = c_{l-1} + \Big(\frac{d_l(k_l - 1)}{2} - p_l\Big) j_{l-1}$$

    Args:
        layers: from input to output, each (kernel, stride, padding, dilation); the last three may
            be left out (1, 0, 1). The padding is the one before the input.

    Returns:
        Size, stride and centre; an empty stack sees one pixel.

    Raises:
        TypeError: an entry is not a sequence of integers.
        ValueError: a kernel, stride or dilation below 1, or the wrong number of entries.

    >>> receptive_field([(3, 1, 1), (3, 1, 1)])
    ReceptiveField(size=5, stride=1, center=0.0)
    >>> receptive_field([(7, 2, 3), (3, 2, 1)])  # the stem of ResNet
    ReceptiveField(size=11, stride=4, center=0.0)

    Araujo, Norris and Sim, "Computing Receptive Fields of Convolutional Neural Networks",
    Distill, 2019.
    """
    size, jump, center = 1, 1, 0.0
    for index, entry in enumerate(layers):
        if not isinstance(entry, Sequence) or not all(map(is_int, entry)):
            raise TypeError(f"layers[{index}]={entry!r} must hold ints: kernel, stride, ...")
        if not 1 <= len(entry) <= 4:
            raise ValueError(
                f"layers[{index}]={entry!r} must be (kernel, stride, padding, dilation) or less"
            )
        layer = LayerGeometry(*entry)
        if min(layer.kernel, layer.stride, layer.dilation) < 1:
            raise ValueError(f"layers[{index}]={layer} must have kernel, stride, dilation >= 1")
        reach = layer.dilation * (layer.kernel - 1)
        size += reach * jump
        center += (reach / 2 - layer.padding) * jump
        jump *= layer.stride
    return ReceptiveField(size, jump, center)


def is_int(value: object) -> bool:
    """Returns whether a value is an int or a NumPy integer; neither bools nor arrays are.

    >>> is_int(3), is_int(True), is_int(3.0)
    (True, False, False)
    """
    return isinstance(value, numbers.Integral) and not isinstance(value, bool)


def _checked_shape(name: str, value: Shape) -> tuple[int, ...]:
    """Returns a spatial shape, which is a sequence of positive ints and may be empty."""
    if isinstance(value, str | bytes) or not isinstance(value, Sequence):
        raise TypeError(f"{name}={value!r} must be a sequence of ints, one per spatial dimension")
    return per_dimension(name, value, len(value)) if value else ()
