"""EfficientNet and EfficientNetV2: one searched network, scaled.

Tan, Le: EfficientNet: Rethinking Model Scaling for Convolutional Neural Networks, 2019, table 1.
Tan, Le: EfficientNetV2: Smaller Models and Faster Training, 2021, table 4.
"""

import math
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
    DropPath,
    SqueezeExcite,
    check_images,
    fan_in_uniform,
    he_fan_out,
    round_channels,
)


class MBConv(nn.Module):
    """1x1 up, depthwise, squeeze-and-excitation, 1x1 down without activation.

    The input is added where its shape is the output's. The squeezed channels are a quarter of the
    input's.

    Attributes:
        features: output channels.
        kernel: size of the depthwise convolution.
        expand: channels of the depthwise convolution, as a multiple of the input's.
        stride: stride of the depthwise convolution.
        momentum: share of the old statistics that the normalisation keeps.
        epsilon: number that the normalisation adds to the variance.
        drop_path: probability of dropping the residual branch, in training.
        dtype: type of the arithmetic.
    """

    features: int
    kernel: int
    expand: int
    stride: int
    momentum: float = 0.9
    epsilon: float = 1e-5
    drop_path: float = 0.0
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """Maps ``(n, h, w, c)`` to ``(n, h / stride, w / stride, features)``."""
        unit = partial(
            ConvNormAct,
            activation=nn.silu,
            momentum=self.momentum,
            epsilon=self.epsilon,
            names=("0", "1"),
            kernel_init=he_fan_out,
            dtype=self.dtype,
        )
        shortcut, k = x, 0
        c = x.shape[-1]
        wide = round_channels(c * self.expand)
        if wide != c:
            x = unit(wide, 1, padding=0, name="block_0")(x, train=train)
            k = 1
        x = unit(
            wide,
            self.kernel,
            stride=self.stride,
            padding=self.kernel // 2,
            groups=wide,
            name=f"block_{k}",
        )(x, train=train)
        x = SqueezeExcite(
            max(1, c // 4),
            activation=nn.silu,
            kernel_init=he_fan_out,
            dtype=self.dtype,
            name=f"block_{k + 1}",
        )(x)
        x = unit(self.features, 1, padding=0, activation=None, name=f"block_{k + 2}")(
            x, train=train
        )
        if self.stride != 1 or c != self.features:
            return x
        return shortcut + DropPath(self.drop_path)(x, train=train)


class FusedMBConv(nn.Module):
    """One dense convolution up instead of 1x1 and depthwise, then 1x1 down without activation.

    With ``expand=1`` it is the one convolution alone, with its activation. The input is added
    where its shape is the output's.

    Attributes are those of :class:`MBConv`.
    """

    features: int
    kernel: int
    expand: int
    stride: int
    momentum: float = 0.9
    epsilon: float = 1e-5
    drop_path: float = 0.0
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """Maps ``(n, h, w, c)`` to ``(n, h / stride, w / stride, features)``."""
        unit = partial(
            ConvNormAct,
            activation=nn.silu,
            momentum=self.momentum,
            epsilon=self.epsilon,
            names=("0", "1"),
            kernel_init=he_fan_out,
            dtype=self.dtype,
        )
        shortcut = x
        c = x.shape[-1]
        wide = round_channels(c * self.expand) if self.expand != 1 else self.features
        x = unit(wide, self.kernel, stride=self.stride, padding=self.kernel // 2, name="block_0")(
            x, train=train
        )
        if self.expand != 1:
            x = unit(self.features, 1, padding=0, activation=None, name="block_1")(x, train=train)
        if self.stride != 1 or c != self.features:
            return x
        return shortcut + DropPath(self.drop_path)(x, train=train)


# Block, expand, kernel, stride, channels, blocks.
Stage = tuple[str, int, int, int, int, int]

V1: tuple[Stage, ...] = (
    ("mb", 1, 3, 1, 16, 1),
    ("mb", 6, 3, 2, 24, 2),
    ("mb", 6, 5, 2, 40, 2),
    ("mb", 6, 3, 2, 80, 3),
    ("mb", 6, 5, 1, 112, 3),
    ("mb", 6, 5, 2, 192, 4),
    ("mb", 6, 3, 1, 320, 1),
)
V2_S: tuple[Stage, ...] = (
    ("fused", 1, 3, 1, 24, 2),
    ("fused", 4, 3, 2, 48, 4),
    ("fused", 4, 3, 2, 64, 4),
    ("mb", 4, 3, 2, 128, 6),
    ("mb", 6, 3, 1, 160, 9),
    ("mb", 6, 3, 2, 256, 15),
)
V2_M: tuple[Stage, ...] = (
    ("fused", 1, 3, 1, 24, 3),
    ("fused", 4, 3, 2, 48, 5),
    ("fused", 4, 3, 2, 80, 5),
    ("mb", 4, 3, 2, 160, 7),
    ("mb", 6, 3, 1, 176, 14),
    ("mb", 6, 3, 2, 304, 18),
    ("mb", 6, 3, 1, 512, 5),
)
V2_L: tuple[Stage, ...] = (
    ("fused", 1, 3, 1, 32, 4),
    ("fused", 4, 3, 2, 64, 7),
    ("fused", 4, 3, 2, 96, 7),
    ("mb", 4, 3, 2, 192, 10),
    ("mb", 6, 3, 1, 224, 19),
    ("mb", 6, 3, 2, 384, 25),
    ("mb", 6, 3, 1, 640, 7),
)


class EfficientNet(nn.Module):
    """EfficientNet: 3x3 convolution, ``stages``, 1x1 convolution, average pool, dense.

    B0 (:data:`V1`); B1 to B7 multiply its channels and blocks:

    | stage  | block   | kernel | channels | blocks | output      |
    |--------|---------|--------|----------|--------|-------------|
    | stem   | conv    | 3x3    | 32       | 1      | 112x112     |
    | stage1 | MBConv1 | 3x3    | 16       | 1      | 112x112     |
    | stage2 | MBConv6 | 3x3    | 24       | 2      | 56x56       |
    | stage3 | MBConv6 | 5x5    | 40       | 2      | 28x28       |
    | stage4 | MBConv6 | 3x3    | 80       | 3      | 14x14       |
    | stage5 | MBConv6 | 5x5    | 112      | 3      | 14x14       |
    | stage6 | MBConv6 | 5x5    | 192      | 4      | 7x7         |
    | stage7 | MBConv6 | 3x3    | 320      | 1      | 7x7         |
    | head   | conv    | 1x1    | 1280     | 1      | 7x7         |

    Attributes:
        num_classes: number of logits.
        stages: block (``"mb"`` or ``"fused"``), expand, kernel, stride, channels and blocks.
        stem: channels of the first convolution.
        head: channels of the last convolution; 0 for four times the last stage's.
        width: multiplies the channels, which stay multiples of 8.
        depth: multiplies the blocks of each stage, rounded up.
        momentum: share of the old statistics that the normalisation keeps.
        epsilon: number that the normalisation adds to the variance.
        small_images: keeps the first convolution at stride 1, for 32x32 images.
        dropout: rate before the dense layer, in training.
        drop_path: rate that the blocks rise to linearly, from 0 for the first.
        dtype: type of the arithmetic.
        remat: recomputes each block in the backward pass instead of storing it.
    """

    num_classes: int
    stages: Sequence[Stage] = V1
    stem: int = 32
    head: int = 0
    width: float = 1.0
    depth: float = 1.0
    momentum: float = 0.9
    epsilon: float = 1e-5
    small_images: bool = False
    dropout: float = 0.2
    drop_path: float = 0.2
    dtype: DTypeLike = jnp.float32
    remat: bool = False

    @nn.compact
    def __call__(
        self, x: jax.Array, *, train: bool = False, endpoints: bool = False
    ) -> jax.Array | tuple[jax.Array, dict[str, jax.Array]]:
        """Maps ``(n, h, w, c)`` to ``(n, num_classes)`` logits."""
        check_images("efficientnet", x)
        ends: dict[str, jax.Array] = {}
        unit = partial(
            ConvNormAct,
            activation=nn.silu,
            momentum=self.momentum,
            epsilon=self.epsilon,
            names=("0", "1"),
            kernel_init=he_fan_out,
            dtype=self.dtype,
        )

        stride = 1 if self.small_images else 2
        x = unit(self._channels(self.stem), 3, stride=stride, padding=1, name="features_0")(
            x, train=train
        )
        sizes = [math.ceil(stage[-1] * self.depth) for stage in self.stages]
        done = 0
        for stage, (kind, expand, kernel, stride, features, _) in enumerate(self.stages, start=1):
            for i in range(sizes[stage - 1]):
                x = self._block(kind)(
                    self._channels(features),
                    kernel,
                    expand,
                    stride if i == 0 else 1,
                    momentum=self.momentum,
                    epsilon=self.epsilon,
                    drop_path=self.drop_path * done / sum(sizes),
                    dtype=self.dtype,
                    name=f"features_{stage}_{i}",
                )(x, train)
                done += 1
            ends[f"stage{stage}"] = x

        x = unit(
            self.head or 4 * x.shape[-1], 1, padding=0, name=f"features_{len(self.stages) + 1}"
        )(x, train=train)
        ends["features"] = x = ops.global_avg_pool(x)
        x = nn.Dropout(self.dropout, deterministic=not train)(x)
        logits = Dense(
            self.num_classes,
            kernel_init=fan_in_uniform(self.num_classes),
            dtype=self.dtype,
            name="classifier_1",
        )(x)
        return (logits, ends) if endpoints else logits

    def _channels(self, features: int) -> int:
        return round_channels(features * self.width)

    def _block(self, kind: str) -> type[nn.Module]:
        blocks: dict[str, type[nn.Module]] = {"mb": MBConv, "fused": FusedMBConv}
        if kind not in blocks:
            raise ValueError(f"stages: the block {kind!r} must be 'mb' or 'fused'")
        return nn.remat(blocks[kind], static_argnums=(2,)) if self.remat else blocks[kind]


efficientnet_b0 = partial(EfficientNet, width=1.0, depth=1.0, dropout=0.2)
efficientnet_b1 = partial(EfficientNet, width=1.0, depth=1.1, dropout=0.2)
efficientnet_b2 = partial(EfficientNet, width=1.1, depth=1.2, dropout=0.3)
efficientnet_b3 = partial(EfficientNet, width=1.2, depth=1.4, dropout=0.3)
efficientnet_b4 = partial(EfficientNet, width=1.4, depth=1.8, dropout=0.4)
_slow_norm = partial(EfficientNet, momentum=0.99, epsilon=1e-3)
efficientnet_b5 = partial(_slow_norm, width=1.6, depth=2.2, dropout=0.4)
efficientnet_b6 = partial(_slow_norm, width=1.8, depth=2.6, dropout=0.5)
efficientnet_b7 = partial(_slow_norm, width=2.0, depth=3.1, dropout=0.5)
_v2 = partial(EfficientNet, head=1280, epsilon=1e-3)
efficientnet_v2_s = partial(_v2, stages=V2_S, stem=24, dropout=0.2)
efficientnet_v2_m = partial(_v2, stages=V2_M, stem=24, dropout=0.3)
efficientnet_v2_l = partial(_v2, stages=V2_L, stem=32, dropout=0.4)
