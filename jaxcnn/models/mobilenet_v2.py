"""MobileNetV2: inverted residuals with linear bottlenecks.

Sandler, Howard, Zhu, Zhmoginov, Chen: MobileNetV2: Inverted Residuals and Linear Bottlenecks,
2018, table 2.
"""

from collections.abc import Sequence
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from jaxcnn import ops
from jaxcnn.layers import (
    BatchNorm,
    Conv,
    ConvNormAct,
    Dense,
    check_images,
    he_fan_out,
    round_channels,
)


class InvertedResidual(nn.Module):
    """1x1 up to ``expand`` times the channels, 3x3 depthwise, 1x1 down without activation.

    The input is added where its shape is the output's.

    Attributes:
        features: output channels.
        expand: channels of the depthwise convolution, as a multiple of the input's.
        stride: stride of the depthwise convolution.
        dtype: type of the arithmetic.
    """

    features: int
    expand: int
    stride: int
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """Maps ``(n, h, w, c)`` to ``(n, h / stride, w / stride, features)``."""
        unit = partial(
            ConvNormAct,
            activation=nn.relu6,
            names=("0", "1"),
            kernel_init=he_fan_out,
            dtype=self.dtype,
        )
        shortcut = x
        wide = self.expand * x.shape[-1]
        k = 0
        if self.expand != 1:
            x = unit(wide, 1, padding=0, name="conv_0")(x, train=train)
            k = 1
        x = unit(wide, 3, stride=self.stride, padding=1, groups=wide, name=f"conv_{k}")(
            x, train=train
        )
        x = Conv(
            self.features,
            1,
            padding=0,
            use_bias=False,
            kernel_init=he_fan_out,
            dtype=self.dtype,
            name=f"conv_{k + 1}",
        )(x)
        x = BatchNorm(dtype=self.dtype, name=f"conv_{k + 2}")(x, train=train)
        return x + shortcut if x.shape == shortcut.shape and self.stride == 1 else x


class MobileNetV2(nn.Module):
    """MobileNetV2: 3x3 convolution, inverted residuals, 1x1 convolution, average pool, dense.

    | layer             | expand | channels | blocks | stride |
    |-------------------|--------|----------|--------|--------|
    | 3x3 convolution   |        | 32       | 1      | 2      |
    | inverted residual | 1      | 16       | 1      | 1      |
    | inverted residual | 6      | 24       | 2      | 2      |
    | inverted residual | 6      | 32       | 3      | 2      |
    | inverted residual | 6      | 64       | 4      | 2      |
    | inverted residual | 6      | 96       | 3      | 1      |
    | inverted residual | 6      | 160      | 3      | 2      |
    | inverted residual | 6      | 320      | 1      | 1      |
    | 1x1 convolution   |        | 1280     | 1      | 1      |
    | average pool, dense |      | num_classes |     |        |

    Attributes:
        num_classes: number of logits.
        width: multiplies the channels, which stay multiples of 8.
        stages: expand, channels, blocks and stride for each line of the table.
        small_images: keeps the first two strides at 1, for 32x32 images.
        dropout: rate before the dense layer, in training.
        dtype: type of the arithmetic.
        remat: recomputes each block in the backward pass instead of storing it.
    """

    num_classes: int
    width: float = 1.0
    stages: Sequence[tuple[int, int, int, int]] = (
        (1, 16, 1, 1),
        (6, 24, 2, 2),
        (6, 32, 3, 2),
        (6, 64, 4, 2),
        (6, 96, 3, 1),
        (6, 160, 3, 2),
        (6, 320, 1, 1),
    )
    small_images: bool = False
    dropout: float = 0.2
    dtype: DTypeLike = jnp.float32
    remat: bool = False

    @nn.compact
    def __call__(
        self, x: jax.Array, *, train: bool = False, endpoints: bool = False
    ) -> jax.Array | tuple[jax.Array, dict[str, jax.Array]]:
        """Maps ``(n, h, w, c)`` to ``(n, num_classes)`` logits."""
        check_images("mobilenet_v2", x)
        ends: dict[str, jax.Array] = {}
        unit = partial(
            ConvNormAct,
            activation=nn.relu6,
            names=("0", "1"),
            kernel_init=he_fan_out,
            dtype=self.dtype,
        )
        block = nn.remat(InvertedResidual, static_argnums=(2,)) if self.remat else InvertedResidual

        stem = 1 if self.small_images else 2
        x = unit(round_channels(32 * self.width), 3, stride=stem, padding=1, name="features_0")(
            x, train=train
        )
        place = 1
        for stage, (expand, features, size, stride) in enumerate(self.stages, start=1):
            if self.small_images and stage == 2:
                stride = 1
            for i in range(size):
                x = block(
                    round_channels(features * self.width),
                    expand,
                    stride if i == 0 else 1,
                    dtype=self.dtype,
                    name=f"features_{place}",
                )(x, train)
                place += 1
            ends[f"stage{stage}"] = x

        last = round_channels(1280 * max(1.0, self.width))
        x = unit(last, 1, padding=0, name=f"features_{place}")(x, train=train)
        ends["features"] = x = ops.global_avg_pool(x)
        x = nn.Dropout(self.dropout, deterministic=not train)(x)
        logits = Dense(
            self.num_classes,
            kernel_init=nn.initializers.normal(0.01),
            dtype=self.dtype,
            name="classifier_1",
        )(x)
        return (logits, ends) if endpoints else logits
