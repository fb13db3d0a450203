"""Linen modules that own parameters and hand the arithmetic to ``jaxcnn.ops``.

Every module keeps its parameters and statistics in float32 and computes in ``dtype``.
Parameter names follow Flax (``kernel``, ``bias``, ``scale``, ``mean``, ``var``).
"""

from collections.abc import Callable, Sequence
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from jaxcnn import ops

Size = int | Sequence[int]
Padding = str | int | Sequence[int] | Sequence[tuple[int, int]]
Initializer = Callable[..., jax.Array]
Activation = Callable[[jax.Array], jax.Array]

he_fan_in = nn.initializers.variance_scaling(2.0, "fan_in", "normal")
he_fan_out = nn.initializers.variance_scaling(2.0, "fan_out", "normal")
"""Initialisers of He et al. 2015, from a normal distribution without Flax's truncation."""

ACTIVATIONS: dict[str, Activation] = {
    "relu": nn.relu,
    "leaky_relu": nn.leaky_relu,
    "elu": nn.elu,
    "gelu": nn.gelu,
    "silu": nn.silu,
    "tanh": nn.tanh,
    "sigmoid": nn.sigmoid,
}
"""Activations by the names that a config gives them."""


def activation_named(name: str) -> Activation:
    """Returns one of :data:`ACTIVATIONS` by its name.

    Raises:
        ValueError: there is no activation of this name.
    """
    if name not in ACTIVATIONS:
        raise ValueError(f"activation={name!r} must be one of {', '.join(ACTIVATIONS)}")
    return ACTIVATIONS[name]


def _per_axis(value: Size, rank: int) -> tuple[int, ...]:
    return (value,) * rank if isinstance(value, int) else tuple(value)


class Conv(nn.Module):
    """Convolution with a learned kernel: ``y = conv(x, kernel) + bias``.

    The kernel has the shape ``(*kernel_size, in_channels // groups, features)``; the rank (1-D,
    2-D, 3-D) is that of the input, ``(n, *spatial, c)``.

    Attributes:
        features: number of output channels.
        kernel_size: size of the kernel, one number for all axes or one per axis.
        stride: step of the window.
        padding: ``"SAME"``, ``"VALID"``, or explicit numbers as in :func:`jaxcnn.ops.conv`.
        dilation: distance between the taps of the kernel.
        groups: number of channel groups that do not see one another.
        use_bias: adds one learned number per output channel.
        dtype: type of the arithmetic; parameters stay float32.
        kernel_init: initialiser of the kernel (default: He et al. 2015, fan-in).
    """

    features: int
    kernel_size: Size = 3
    stride: Size = 1
    padding: Padding = "SAME"
    dilation: Size = 1
    groups: int = 1
    use_bias: bool = True
    dtype: DTypeLike = jnp.float32
    kernel_init: Initializer = nn.initializers.he_normal()
    bias_init: Initializer = nn.initializers.zeros_init()

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps ``(n, *spatial, c)`` to ``(n, *new_spatial, features)``."""
        in_channels = x.shape[-1]
        if in_channels % self.groups or self.features % self.groups:
            raise ValueError(
                f"{self._where()}: groups={self.groups} must divide "
                f"in_channels={in_channels} and features={self.features}"
            )
        size = _per_axis(self.kernel_size, x.ndim - 2)
        shape = (*size, in_channels // self.groups, self.features)
        if self.has_variable("params", "kernel"):
            held: tuple[int, ...] = self.get_variable("params", "kernel").shape
            if held != shape:
                raise ValueError(
                    f"{self._where()}: the kernel has the shape {held} and takes "
                    f"{held[-2] * self.groups} input channels, got {in_channels}"
                )
        kernel = self.param("kernel", self.kernel_init, shape)
        bias = self.param("bias", self.bias_init, (self.features,)) if self.use_bias else None
        return ops.conv(
            x.astype(self.dtype),
            kernel.astype(self.dtype),
            stride=self.stride,
            padding=self.padding,
            dilation=self.dilation,
            groups=self.groups,
            bias=None if bias is None else bias.astype(self.dtype),
        )

    def _where(self) -> str:
        return "/".join(self.path) or "Conv"


class ConvTranspose(nn.Module):
    """Transposed convolution with a learned kernel, which enlarges a map ``stride`` times.

    The kernel has the shape ``(*kernel_size, in_channels, features)``; the operation is that of
    :func:`jaxcnn.ops.conv_transpose`.

    Attributes:
        features: number of output channels.
        kernel_size: size of the kernel, one number for all axes or one per axis.
        stride: distance at which neighbouring positions land.
        padding: what is removed around, as in :func:`jaxcnn.ops.conv_transpose`.
        dtype: type of the arithmetic; parameters stay float32.
        kernel_init: initialiser of the kernel.
    """

    features: int
    kernel_size: Size = 2
    stride: Size = 2
    padding: Padding = "SAME"
    dtype: DTypeLike = jnp.float32
    kernel_init: Initializer = nn.initializers.he_normal()
    bias_init: Initializer = nn.initializers.zeros_init()

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps ``(n, *spatial, c)`` to ``(n, *new_spatial, features)``."""
        size = _per_axis(self.kernel_size, x.ndim - 2)
        kernel = self.param("kernel", self.kernel_init, (*size, x.shape[-1], self.features))
        bias = self.param("bias", self.bias_init, (self.features,))
        return ops.conv_transpose(
            x.astype(self.dtype),
            kernel.astype(self.dtype),
            stride=self.stride,
            padding=self.padding,
            bias=bias.astype(self.dtype),
        )


class Dense(nn.Module):
    """Dense (fully connected) layer on the last axis: ``y = x @ kernel + bias``.

    Attributes:
        features: number of outputs.
        use_bias: adds one learned number per output.
        dtype: type of the arithmetic; parameters stay float32.
        kernel_init: initialiser of the ``(in_features, features)`` kernel.
    """

    features: int
    use_bias: bool = True
    dtype: DTypeLike = jnp.float32
    kernel_init: Initializer = nn.initializers.lecun_normal()
    bias_init: Initializer = nn.initializers.zeros_init()

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps ``(..., in_features)`` to ``(..., features)``."""
        if self.has_variable("params", "kernel"):
            expected: int = self.get_variable("params", "kernel").shape[0]
            if expected != x.shape[-1]:
                raise ValueError(
                    f"{'/'.join(self.path) or 'Dense'}: the dense layer expects {expected} "
                    f"features, got {x.shape[-1]}"
                )
        kernel = self.param("kernel", self.kernel_init, (x.shape[-1], self.features))
        y = jnp.dot(x.astype(self.dtype), kernel.astype(self.dtype))
        if self.use_bias:
            bias = self.param("bias", self.bias_init, (self.features,)).astype(self.dtype)
            y = y + bias.reshape((1,) * (y.ndim - 1) + (-1,))
        return y


class BatchNorm(nn.Module):
    """Batch normalisation (Ioffe & Szegedy 2015) over all axes but the last.

    ``y = (x - mean) / sqrt(var + epsilon) * scale + bias``. In training, mean and variance are
    those of the batch, and the running ones in the ``batch_stats`` collection move towards them:
    ``running = momentum * running + (1 - momentum) * batch``, with the unbiased variance, as
    PyTorch does. Statistics are float32 in any ``dtype``.

    Attributes:
        momentum: share of the old running statistic that is kept (PyTorch's is 1 - momentum).
        epsilon: added to the variance.
        dtype: type of the output.
        scale_init: initialiser of ``scale``; zeros make a residual branch start as identity.
        use_scale: multiplies by the learned ``scale``; else it is 1 and no parameter.
        activation: an elementwise function that the output goes through; in training on a GPU its
            gradient takes less memory here than outside, unless it has parameters.
    """

    momentum: float = 0.9
    epsilon: float = 1e-5
    dtype: DTypeLike = jnp.float32
    scale_init: Initializer = nn.initializers.ones_init()
    use_scale: bool = True
    activation: Activation | None = None

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        """Normalises ``(n, ..., c)`` per channel."""
        c = (x.shape[-1],)
        mean = self.variable("batch_stats", "mean", jnp.zeros, c, jnp.float32)
        var = self.variable("batch_stats", "var", jnp.ones, c, jnp.float32)
        scale = self.param("scale", self.scale_init, c) if self.use_scale else None
        bias = self.param("bias", nn.initializers.zeros_init(), c)
        outside = self.activation if isinstance(self.activation, nn.Module) else None
        y, new_mean, new_var = ops.batch_norm(
            x.astype(self.dtype),
            mean.value,
            var.value,
            scale,
            bias,
            train=train,
            momentum=self.momentum,
            epsilon=self.epsilon,
            activation=self.activation if outside is None else None,
        )
        if train and not self.is_initializing():
            mean.value, var.value = new_mean, new_var
        return y if outside is None else outside(y)


class LayerNorm(nn.Module):
    """Layer normalisation (Ba et al. 2016) over the channel axis.

    Attributes:
        epsilon: added to the variance.
        dtype: type of the output.
    """

    epsilon: float = 1e-6
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Normalises every ``c``-vector of ``(..., c)``."""
        c = (x.shape[-1],)
        scale = self.param("scale", nn.initializers.ones_init(), c)
        bias = self.param("bias", nn.initializers.zeros_init(), c)
        return ops.layer_norm(x.astype(self.dtype), scale, bias, epsilon=self.epsilon)


class ConvNormAct(nn.Module):
    """Convolution without bias, batch normalisation, activation: the unit of most CNNs.

    Attributes are those of :class:`Conv` and :class:`BatchNorm`; ``activation=None`` leaves the
    activation out, and ``names`` are those of the two submodules.
    """

    features: int
    kernel_size: Size = 3
    stride: Size = 1
    padding: Padding = "SAME"
    groups: int = 1
    activation: Activation | None = nn.relu
    momentum: float = 0.9
    epsilon: float = 1e-5
    dtype: DTypeLike = jnp.float32
    kernel_init: Initializer = nn.initializers.he_normal()
    scale_init: Initializer = nn.initializers.ones_init()
    names: tuple[str, str] = ("conv", "norm")

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        """Maps ``(n, *spatial, c)`` to ``(n, *new_spatial, features)``."""
        x = Conv(
            self.features,
            self.kernel_size,
            stride=self.stride,
            padding=self.padding,
            groups=self.groups,
            use_bias=False,
            dtype=self.dtype,
            kernel_init=self.kernel_init,
            name=self.names[0],
        )(x)
        norm = BatchNorm(
            momentum=self.momentum,
            epsilon=self.epsilon,
            dtype=self.dtype,
            scale_init=self.scale_init,
            activation=self.activation,
            name=self.names[1],
        )
        return norm(x, train=train)


class SqueezeExcite(nn.Module):
    """Squeeze-and-excitation (Hu et al. 2018): channels reweighted by what the whole image holds.

    ``y = x * gate(fc2(activation(fc1(mean_spatial(x)))))``, with 1x1 convolutions as dense
    layers, as the reference implementations store them.

    Attributes:
        squeezed: channels between ``fc1`` and ``fc2``.
        activation: the function between ``fc1`` and ``fc2``.
        gate: maps the output of ``fc2`` to weights: the logistic function, or its piecewise
            linear form.
        dtype: type of the arithmetic.
        kernel_init: initialiser of both kernels.
    """

    squeezed: int
    activation: Activation = nn.relu
    gate: Activation = nn.sigmoid
    dtype: DTypeLike = jnp.float32
    kernel_init: Initializer = nn.initializers.he_normal()

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Reweights the channels of ``(n, *spatial, c)``."""
        conv = partial(Conv, kernel_size=1, kernel_init=self.kernel_init, dtype=self.dtype)
        pooled = ops.global_avg_pool(x, keepdims=True)
        squeezed = self.activation(conv(self.squeezed, name="fc1")(pooled))
        return x * self.gate(conv(x.shape[-1], name="fc2")(squeezed))


class DropPath(nn.Module):
    """Stochastic depth (Huang et al. 2016): drops a residual branch for whole examples.

    In training, each example's branch is zero with probability ``rate`` and divided by
    ``1 - rate`` otherwise; the random numbers come from the ``dropout`` stream.

    Attributes:
        rate: probability of dropping, in [0, 1).
    """

    rate: float

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        """Drops rows of ``(n, ...)``."""
        if not train or self.rate == 0.0:
            return x
        shape = (x.shape[0],) + (1,) * (x.ndim - 1)
        keep = jax.random.bernoulli(self.make_rng("dropout"), 1.0 - self.rate, shape)
        return jnp.where(keep, x / (1.0 - self.rate), 0).astype(x.dtype)


def random_streams(key: jax.Array) -> dict[str, jax.Array]:
    """Returns the random streams of a training pass, as ``rngs`` of ``Module.apply``.

    Dropout draws from the first. Linen gives any other name that a module asks for numbers of the
    second, which are others at each call.
    """
    return {"dropout": key, "params": jax.random.fold_in(key, 1)}


def round_channels(channels: float, divisor: int = 8) -> int:
    """Returns the nearest multiple of ``divisor``, or the next one if that loses over 10 %.

    >>> round_channels(32 * 1.4), round_channels(11), round_channels(16 * 0.5)
    (48, 16, 8)
    """
    nearest = max(divisor, int(channels + divisor / 2) // divisor * divisor)
    return nearest if nearest >= 0.9 * channels else nearest + divisor


def flatten(x: jax.Array) -> jax.Array:
    """Flattens ``(n, *spatial, c)`` to ``(n, c * prod(spatial))``, channel by channel.

    The reference implementations hold images as ``(n, c, h, w)``; flattening in their order
    makes the weights of the dense layer behind it interchangeable.
    """
    return jnp.moveaxis(x, -1, 1).reshape(x.shape[0], -1)


def fan_in_uniform(fan_in: int) -> Initializer:
    """Returns PyTorch's default initialiser of kernels and biases, uniform in ``±1/sqrt(fan_in)``.

    >>> bool(abs(fan_in_uniform(4)(jax.random.key(0), (100,))).max() <= 0.5)
    True
    """

    def init(key: jax.Array, shape: Sequence[int], dtype: DTypeLike = jnp.float32) -> jax.Array:
        limit = fan_in**-0.5
        return jax.random.uniform(key, tuple(shape), dtype, -limit, limit)

    return init


def check_images(model: str, x: jax.Array, smallest: int = 1) -> None:
    """Raises a ValueError unless ``x`` is ``(n, h, w, c)`` with sides of at least ``smallest``."""
    if x.ndim != 4:
        raise ValueError(f"{model} takes images (n, h, w, c), got the shape {x.shape}")
    if min(x.shape[1:3]) < smallest:
        raise ValueError(
            f"{model} takes images of at least {smallest}x{smallest}, got {x.shape[1]}x{x.shape[2]}"
        )
    if x.shape[3] < 1:
        raise ValueError(f"{model} takes images with channels, got the shape {x.shape}")
