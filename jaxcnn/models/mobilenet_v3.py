"""MobileNetV3: searched inverted residuals with squeeze-and-excitation and hard swish.

Howard, Sandler, Chu, Chen, Chen, Tan, Wang, Zhu, Pang, Vasudevan, Le, Adam: Searching for
MobileNetV3, 2019, tables 1 and 2.
"""

from collections.abc import Sequence
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from jaxcnn import ops
from jaxcnn.layers import (
    ConvNormAct,
    Dense,
    SqueezeExcite,
    check_images,
    he_fan_out,
    round_channels,
)


class InvertedResidual(nn.Module):
    """1x1 up, depthwise, squeeze-and-excitation, 1x1 down without activation.

    The input is added where its shape is the output's.

    Attributes:
        kernel: size of the depthwise convolution.
        expanded: its channels.
        features: output channels.
        squeeze_excite: reweights the expanded channels.
        hard_swish: activation ``x relu6(x + 3) / 6`` instead of ReLU.
        stride: stride of the depthwise convolution.
        epsilon: number that the normalisation adds to the variance.
        dtype: type of the arithmetic.
    """

    kernel: int
    expanded: int
    features: int
    squeeze_excite: bool
    hard_swish: bool
    stride: int
    epsilon: float = 1e-3
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """Maps ``(n, h, w, c)`` to ``(n, h / stride, w / stride, features)``."""
        unit = partial(
            ConvNormAct,
            activation=nn.hard_swish if self.hard_swish else nn.relu,
            momentum=0.99,
            epsilon=self.epsilon,
            names=("0", "1"),
            kernel_init=he_fan_out,
            dtype=self.dtype,
        )
        shortcut, k = x, 0
        if self.expanded != x.shape[-1]:
            x = unit(self.expanded, 1, padding=0, name="block_0")(x, train=train)
            k = 1
        x = unit(
            self.expanded,
            self.kernel,
            stride=self.stride,
            padding=self.kernel // 2,
            groups=self.expanded,
            name=f"block_{k}",
        )(x, train=train)
        if self.squeeze_excite:
            k += 1
            x = SqueezeExcite(
                round_channels(self.expanded // 4),
                gate=nn.hard_sigmoid,
                kernel_init=he_fan_out,
                dtype=self.dtype,
                name=f"block_{k}",
            )(x)
        x = unit(self.features, 1, padding=0, activation=None, name=f"block_{k + 1}")(
            x, train=train
        )
        return x + shortcut if x.shape == shortcut.shape and self.stride == 1 else x


# Kernel, expanded channels, output channels, squeeze-and-excitation, hard swish, stride.
LARGE = (
    (3, 16, 16, False, False, 1),
    (3, 64, 24, False, False, 2),
    (3, 72, 24, False, False, 1),
    (5, 72, 40, True, False, 2),
    (5, 120, 40, True, False, 1),
    (5, 120, 40, True, False, 1),
    (3, 240, 80, False, True, 2),
    (3, 200, 80, False, True, 1),
    (3, 184, 80, False, True, 1),
    (3, 184, 80, False, True, 1),
    (3, 480, 112, True, True, 1),
    (3, 672, 112, True, True, 1),
    (5, 672, 160, True, True, 2),
    (5, 960, 160, True, True, 1),
    (5, 960, 160, True, True, 1),
)
SMALL = (
    (3, 16, 16, True, False, 2),
    (3, 72, 24, False, False, 2),
    (3, 88, 24, False, False, 1),
    (5, 96, 40, True, True, 2),
    (5, 240, 40, True, True, 1),
    (5, 240, 40, True, True, 1),
    (5, 120, 48, True, True, 1),
    (5, 144, 48, True, True, 1),
    (5, 288, 96, True, True, 2),
    (5, 576, 96, True, True, 1),
    (5, 576, 96, True, True, 1),
)


class MobileNetV3(nn.Module):
    """MobileNetV3: 3x3 convolution to 16 channels, ``blocks``, 1x1 convolution, two dense layers.

    The tables are :data:`LARGE` and :data:`SMALL`; a stage ends in front of each stride.

    Attributes:
        num_classes: number of logits.
        blocks: for each block: kernel, expanded channels, output channels, whether it squeezes
            and excites, whether it uses hard swish, stride.
        hidden: width of the dense layer before the last.
        width: multiplies the channels, which stay multiples of 8.
        epsilon: number that the normalisation adds to the variance.
        dropout: rate before the last dense layer, in training.
        dtype: type of the arithmetic.
        remat: recomputes each block in the backward pass instead of storing it.
    """

    num_classes: int
    blocks: Sequence[tuple[int, int, int, bool, bool, int]] = LARGE
    hidden: int = 1280
    width: float = 1.0
    epsilon: float = 1e-3
    dropout: float = 0.2
    dtype: DTypeLike = jnp.float32
    remat: bool = False

    @nn.compact
    def __call__(
        self, x: jax.Array, *, train: bool = False, endpoints: bool = False
    ) -> jax.Array | tuple[jax.Array, dict[str, jax.Array]]:
        """Maps ``(n, h, w, c)`` to ``(n, num_classes)`` logits."""
        check_images("mobilenet_v3", x)
        ends: dict[str, jax.Array] = {}
        unit = partial(
            ConvNormAct,
            activation=nn.hard_swish,
            momentum=0.99,
            epsilon=self.epsilon,
            names=("0", "1"),
            kernel_init=he_fan_out,
            dtype=self.dtype,
        )
        dense = partial(Dense, kernel_init=nn.initializers.normal(0.01), dtype=self.dtype)
        block = nn.remat(InvertedResidual, static_argnums=(2,)) if self.remat else InvertedResidual

        x = unit(self._channels(16), 3, stride=2, padding=1, name="features_0")(x, train=train)
        for i, (kernel, expanded, features, squeeze, swish, stride) in enumerate(self.blocks, 1):
            if stride == 2:
                ends[f"stage{len(ends) + 1}"] = x
            x = block(
                kernel,
                self._channels(expanded),
                self._channels(features),
                squeeze,
                swish,
                stride,
                epsilon=self.epsilon,
                dtype=self.dtype,
                name=f"features_{i}",
            )(x, train)
        ends[f"stage{len(ends) + 1}"] = x

        x = unit(6 * x.shape[-1], 1, padding=0, name=f"features_{len(self.blocks) + 1}")(
            x, train=train
        )
        x = ops.global_avg_pool(x)
        x = nn.hard_swish(dense(self._channels(self.hidden), name="classifier_0")(x))
        ends["features"] = x
        x = nn.Dropout(self.dropout, deterministic=not train)(x)
        logits = dense(self.num_classes, name="classifier_3")(x)
        return (logits, ends) if endpoints else logits

    def _channels(self, features: int) -> int:
        return round_channels(features * self.width)


mobilenet_v3_large = partial(MobileNetV3, blocks=LARGE, hidden=1280)
mobilenet_v3_small = partial(MobileNetV3, blocks=SMALL, hidden=1024)
