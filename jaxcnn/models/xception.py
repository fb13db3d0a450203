"""Xception: Inception's idea taken to its end, depthwise separable convolutions with shortcuts.

Chollet: Xception: Deep Learning with Depthwise Separable Convolutions, 2016, figure 5.
"""

from collections.abc import Sequence
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from jaxcnn import ops
from jaxcnn.layers import BatchNorm, Conv, ConvNormAct, Dense, check_images

glorot = nn.initializers.glorot_uniform()


class SeparableConv(nn.Module):
    """3x3 depthwise, then 1x1 convolution, with one normalisation behind both.

    Attributes:
        features: output channels.
        dtype: type of the arithmetic.
    """

    features: int
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        """Maps ``(n, h, w, c)`` to ``(n, h, w, features)``."""
        conv = partial(Conv, use_bias=False, kernel_init=glorot, dtype=self.dtype)
        c = x.shape[-1]
        x = conv(c, 3, groups=c, name="depthwise")(x)
        x = conv(self.features, 1, name="pointwise")(x)
        return BatchNorm(momentum=0.99, epsilon=1e-3, dtype=self.dtype, name="norm")(x, train=train)


class MiddleBlock(nn.Module):
    """Three times ReLU and a separable convolution, added to the input.

    Attributes:
        dtype: type of the arithmetic.
    """

    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """Maps ``(n, h, w, c)`` to the same shape."""
        y = x
        for i in (1, 2, 3):
            y = SeparableConv(x.shape[-1], dtype=self.dtype, name=f"sep{i}")(
                nn.relu(y), train=train
            )
        return x + y


class DownBlock(nn.Module):
    """Two separable convolutions and a max pool, added to a 1x1 convolution; halves the maps.

    Attributes:
        features: channels of the first and of the second separable convolution.
        relu_first: has a ReLU in front of the first.
        dtype: type of the arithmetic.
    """

    features: Sequence[int]
    relu_first: bool = True
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """Maps ``(n, h, w, c)`` to ``(n, h / 2, w / 2, features[1])``."""
        first, second = self.features
        shortcut = ConvNormAct(
            second,
            1,
            stride=2,
            activation=None,
            momentum=0.99,
            epsilon=1e-3,
            kernel_init=glorot,
            dtype=self.dtype,
            name="shortcut",
        )(x, train=train)
        x = nn.relu(x) if self.relu_first else x
        x = SeparableConv(first, dtype=self.dtype, name="sep1")(x, train=train)
        x = SeparableConv(second, dtype=self.dtype, name="sep2")(nn.relu(x), train=train)
        return ops.max_pool(x, 3, stride=2, padding="SAME") + shortcut


class Xception(nn.Module):
    """Xception: 22,855,952 parameters with 1000 classes, as Keras builds it.

    | flow   | layer                                        | output        |
    |--------|----------------------------------------------|---------------|
    | entry  | 3x3, 32, stride 2; 3x3, 64 (no padding)      | 147x147x64    |
    |        | block1: 2 x separable 128, max pool          | 74x74x128     |
    |        | block2: 2 x separable 256, max pool          | 37x37x256     |
    |        | block3: 2 x separable 728, max pool          | 19x19x728     |
    | middle | middle1 to middle8: 3 x separable 728        | 19x19x728     |
    | exit   | block4: separable 728, 1024, max pool        | 10x10x1024    |
    |        | separable 1536, separable 2048               | 10x10x2048    |
    |        | average pool, dense                          | num_classes   |

    Attributes:
        num_classes: number of logits.
        middle_blocks: blocks of the middle flow.
        dropout: rate before the dense layer, in training.
        dtype: type of the arithmetic.
        remat: recomputes each block in the backward pass instead of storing it.
    """

    num_classes: int
    middle_blocks: int = 8
    dropout: float = 0.5
    dtype: DTypeLike = jnp.float32
    remat: bool = False

    @nn.compact
    def __call__(
        self, x: jax.Array, *, train: bool = False, endpoints: bool = False
    ) -> jax.Array | tuple[jax.Array, dict[str, jax.Array]]:
        """Maps ``(n, h, w, c)`` to ``(n, num_classes)`` logits."""
        check_images("xception", x, 7)
        ends: dict[str, jax.Array] = {}
        unit = partial(
            ConvNormAct,
            padding="VALID",
            momentum=0.99,
            epsilon=1e-3,
            kernel_init=glorot,
            dtype=self.dtype,
        )
        down_block = nn.remat(DownBlock, static_argnums=(2,)) if self.remat else DownBlock
        middle_block = nn.remat(MiddleBlock, static_argnums=(2,)) if self.remat else MiddleBlock
        down = partial(down_block, dtype=self.dtype)
        middle = partial(middle_block, dtype=self.dtype)

        x = unit(32, 3, stride=2, name="stem1")(x, train=train)
        ends["stage1"] = x = unit(64, 3, name="stem2")(x, train=train)
        ends["stage2"] = x = down((128, 128), relu_first=False, name="block1")(x, train)
        ends["stage3"] = x = down((256, 256), name="block2")(x, train)
        x = down((728, 728), name="block3")(x, train)
        for i in range(1, self.middle_blocks + 1):
            x = middle(name=f"middle{i}")(x, train)
        ends["stage4"] = x
        x = down((728, 1024), name="block4")(x, train)
        x = nn.relu(SeparableConv(1536, dtype=self.dtype, name="sep1")(x, train=train))
        x = nn.relu(SeparableConv(2048, dtype=self.dtype, name="sep2")(x, train=train))
        ends["stage5"] = x

        ends["features"] = x = ops.global_avg_pool(x)
        x = nn.Dropout(self.dropout, deterministic=not train)(x)
        logits = Dense(self.num_classes, kernel_init=glorot, dtype=self.dtype, name="fc")(x)
        return (logits, ends) if endpoints else logits
