"""MNASNet, variant B1 (without squeeze-and-excitation), in four widths.

Tan, Chen, Pang, Vasudevan, Sandler, Howard, Le: MnasNet: Platform-Aware Neural Architecture
Search for Mobile, 2019, figure 7.
"""

from collections.abc import Sequence
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from jaxcnn import ops
from jaxcnn.layers import BatchNorm, Conv, Dense, check_images, he_fan_out, round_channels


class InvertedResidual(nn.Module):
    """1x1 up to ``expand`` times the channels, depthwise, 1x1 down without activation.

    The input is added where its shape is the output's.

    Attributes:
        features: output channels.
        kernel: size of the depthwise convolution.
        expand: channels of the depthwise convolution, as a multiple of the input's.
        stride: stride of the depthwise convolution.
        dtype: type of the arithmetic.
    """

    features: int
    kernel: int
    expand: int
    stride: int
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """Maps ``(n, h, w, c)`` to ``(n, h / stride, w / stride, features)``."""
        conv = partial(Conv, use_bias=False, kernel_init=he_fan_out, dtype=self.dtype)
        norm = partial(BatchNorm, momentum=0.9997, dtype=self.dtype)
        shortcut = x
        wide = self.expand * x.shape[-1]
        x = conv(wide, 1, padding=0, name="layers_0")(x)
        x = norm(name="layers_1", activation=nn.relu)(x, train=train)
        x = conv(
            wide,
            self.kernel,
            stride=self.stride,
            padding=self.kernel // 2,
            groups=wide,
            name="layers_3",
        )(x)
        x = norm(name="layers_4", activation=nn.relu)(x, train=train)
        x = conv(self.features, 1, padding=0, name="layers_6")(x)
        x = norm(name="layers_7")(x, train=train)
        return x + shortcut if x.shape == shortcut.shape and self.stride == 1 else x


class MNASNet(nn.Module):
    """MNASNet-B1; its normalisation keeps 0.9997 of the old statistics.

    | layer               | kernel | expand | channels | blocks | stride |
    |---------------------|--------|--------|----------|--------|--------|
    | convolution         | 3x3    |        | 32       | 1      | 2      |
    | separable           | 3x3    |        | 16       | 1      | 1      |
    | inverted residual   | 3x3    | 3      | 24       | 3      | 2      |
    | inverted residual   | 5x5    | 3      | 40       | 3      | 2      |
    | inverted residual   | 5x5    | 6      | 80       | 3      | 2      |
    | inverted residual   | 3x3    | 6      | 96       | 2      | 1      |
    | inverted residual   | 5x5    | 6      | 192      | 4      | 2      |
    | inverted residual   | 3x3    | 6      | 320      | 1      | 1      |
    | convolution         | 1x1    |        | 1280     | 1      | 1      |
    | average pool, dense |        |        | num_classes |     |        |

    Attributes:
        num_classes: number of logits.
        width: multiplies the channels but those of the last convolution; they stay multiples
            of 8.
        stages: kernel, expand, channels, blocks and stride of the inverted residuals.
        dropout: rate before the dense layer, in training.
        dtype: type of the arithmetic.
        remat: recomputes each block in the backward pass instead of storing it.
    """

    num_classes: int
    width: float = 1.0
    stages: Sequence[tuple[int, int, int, int, int]] = (
        (3, 3, 24, 3, 2),
        (5, 3, 40, 3, 2),
        (5, 6, 80, 3, 2),
        (3, 6, 96, 2, 1),
        (5, 6, 192, 4, 2),
        (3, 6, 320, 1, 1),
    )
    dropout: float = 0.2
    dtype: DTypeLike = jnp.float32
    remat: bool = False

    @nn.compact
    def __call__(
        self, x: jax.Array, *, train: bool = False, endpoints: bool = False
    ) -> jax.Array | tuple[jax.Array, dict[str, jax.Array]]:
        """Maps ``(n, h, w, c)`` to ``(n, num_classes)`` logits."""
        check_images("mnasnet", x)
        ends: dict[str, jax.Array] = {}
        conv = partial(Conv, use_bias=False, kernel_init=he_fan_out, dtype=self.dtype)
        norm = partial(BatchNorm, momentum=0.9997, dtype=self.dtype)
        block = nn.remat(InvertedResidual, static_argnums=(2,)) if self.remat else InvertedResidual
        first, second = round_channels(32 * self.width), round_channels(16 * self.width)

        x = conv(first, 3, stride=2, padding=1, name="layers_0")(x)
        x = norm(name="layers_1", activation=nn.relu)(x, train=train)
        x = conv(first, 3, padding=1, groups=first, name="layers_3")(x)
        x = norm(name="layers_4", activation=nn.relu)(x, train=train)
        x = conv(second, 1, padding=0, name="layers_6")(x)
        ends["stage1"] = x = norm(name="layers_7")(x, train=train)

        for stage, (kernel, expand, features, size, stride) in enumerate(self.stages):
            for i in range(size):
                x = block(
                    round_channels(features * self.width),
                    kernel,
                    expand,
                    stride if i == 0 else 1,
                    dtype=self.dtype,
                    name=f"layers_{8 + stage}_{i}",
                )(x, train)
            ends[f"stage{stage + 2}"] = x

        last = 8 + len(self.stages)
        x = conv(1280, 1, padding=0, name=f"layers_{last}")(x)
        x = norm(name=f"layers_{last + 1}", activation=nn.relu)(x, train=train)
        ends["features"] = x = ops.global_avg_pool(x)
        x = nn.Dropout(self.dropout, deterministic=not train)(x)
        logits = Dense(
            self.num_classes,
            kernel_init=nn.initializers.variance_scaling(1.0, "fan_out", "uniform"),
            dtype=self.dtype,
            name="classifier_1",
        )(x)
        return (logits, ends) if endpoints else logits


mnasnet0_5 = partial(MNASNet, width=0.5)
mnasnet0_75 = partial(MNASNet, width=0.75)
mnasnet1_0 = partial(MNASNet, width=1.0)
mnasnet1_3 = partial(MNASNet, width=1.3)
