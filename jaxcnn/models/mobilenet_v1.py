"""MobileNet, the first: depthwise separable convolutions throughout.

Howard, Zhu, Chen, Kalenichenko, Wang, Weyand, Andreetto, Adam: MobileNets: Efficient
Convolutional Neural Networks for Mobile Vision Applications, 2017, table 1.
"""

from collections.abc import Sequence
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from jaxcnn import ops
from jaxcnn.layers import ConvNormAct, Dense, check_images

glorot = nn.initializers.glorot_uniform()


class SeparableBlock(nn.Module):
    """3x3 depthwise, then 1x1 convolution, each with normalisation and ReLU6.

    Attributes:
        features: output channels.
        stride: stride of the depthwise convolution.
        dtype: type of the arithmetic.
    """

    features: int
    stride: int = 1
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """Maps ``(n, h, w, c)`` to ``(n, h / stride, w / stride, features)``."""
        unit = partial(
            ConvNormAct,
            activation=nn.relu6,
            momentum=0.99,
            epsilon=1e-3,
            dtype=self.dtype,
            kernel_init=glorot,
        )
        c = x.shape[-1]
        x = unit(c, 3, stride=self.stride, groups=c, name="depthwise")(x, train=train)
        return unit(self.features, 1, name="pointwise")(x, train=train)


class MobileNetV1(nn.Module):
    """MobileNet: 4,231,976 parameters at width 1 with 1000 classes.

    | layer                | output      |
    |----------------------|-------------|
    | 3x3, 32, stride 2    | 112x112     |
    | separable 64         | 112x112     |
    | 2 x separable 128    | 56x56       |
    | 2 x separable 256    | 28x28       |
    | 6 x separable 512    | 14x14       |
    | 2 x separable 1024   | 7x7         |
    | average pool, dense  | num_classes |

    The first of each line halves the maps, but for the first line. Padding is TensorFlow's
    ``SAME``; activations, normalisation and initialisers are those of Keras.

    Attributes:
        num_classes: number of logits.
        width: multiplies the channels of every layer.
        stages: blocks and channels for each line of the table.
        small_images: keeps the first convolution at stride 1, for 32x32 images.
        dropout: rate before the dense layer, in training.
        dtype: type of the arithmetic.
        remat: recomputes each block in the backward pass instead of storing it.
    """

    num_classes: int
    width: float = 1.0
    stages: Sequence[tuple[int, int]] = ((1, 64), (2, 128), (2, 256), (6, 512), (2, 1024))
    small_images: bool = False
    dropout: float = 0.001
    dtype: DTypeLike = jnp.float32
    remat: bool = False

    @nn.compact
    def __call__(
        self, x: jax.Array, *, train: bool = False, endpoints: bool = False
    ) -> jax.Array | tuple[jax.Array, dict[str, jax.Array]]:
        """Maps ``(n, h, w, c)`` to ``(n, num_classes)`` logits."""
        check_images("mobilenet_v1", x)
        ends: dict[str, jax.Array] = {}
        block = nn.remat(SeparableBlock, static_argnums=(2,)) if self.remat else SeparableBlock

        x = ConvNormAct(
            self._channels(32),
            3,
            stride=1 if self.small_images else 2,
            activation=nn.relu6,
            momentum=0.99,
            epsilon=1e-3,
            dtype=self.dtype,
            kernel_init=glorot,
            name="stem",
        )(x, train=train)
        for stage, (size, features) in enumerate(self.stages, start=1):
            for i in range(size):
                stride = 2 if stage > 1 and i == 0 else 1
                x = block(
                    self._channels(features), stride, dtype=self.dtype, name=f"block{stage}_{i}"
                )(x, train)
            ends[f"stage{stage}"] = x

        ends["features"] = x = ops.global_avg_pool(x)
        x = nn.Dropout(self.dropout, deterministic=not train)(x)
        logits = Dense(self.num_classes, dtype=self.dtype, kernel_init=glorot, name="fc")(x)
        return (logits, ends) if endpoints else logits

    def _channels(self, features: int) -> int:
        return max(8, int(features * self.width))
