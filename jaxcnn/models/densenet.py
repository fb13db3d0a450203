"""DenseNet with 121 to 201 layers.

Huang, Liu, van der Maaten, Weinberger: Densely Connected Convolutional Networks, 2016, table 1.
"""

from collections.abc import Sequence
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from jaxcnn import ops
from jaxcnn.layers import BatchNorm, Conv, Dense, check_images, fan_in_uniform, he_fan_in


class DenseLayer(nn.Module):
    """Normalise, ReLU, 1x1 to four times ``growth``; normalise, ReLU, 3x3 to ``growth``.

    Attributes:
        growth: channels that the layer adds to what it has been given.
        dropout: rate on the new channels, in training.
        dtype: type of the arithmetic.
    """

    growth: int
    dropout: float = 0.0
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """Maps ``(n, h, w, c)`` to ``(n, h, w, c + growth)``."""
        conv = partial(Conv, use_bias=False, kernel_init=he_fan_in, dtype=self.dtype)
        norm = partial(BatchNorm, dtype=self.dtype)
        new = norm(name="norm1", activation=nn.relu)(x, train=train)
        new = conv(4 * self.growth, 1, padding=0, name="conv1")(new)
        new = norm(name="norm2", activation=nn.relu)(new, train=train)
        new = conv(self.growth, 3, padding=1, name="conv2")(new)
        new = nn.Dropout(self.dropout, deterministic=not train)(new)
        return jnp.concatenate([x, new], axis=-1)


class Transition(nn.Module):
    """Normalise, ReLU, 1x1 to half the channels, 2x2 average pool."""

    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """Maps ``(n, h, w, c)`` to ``(n, h / 2, w / 2, c / 2)``."""
        width = x.shape[-1] // 2
        x = BatchNorm(dtype=self.dtype, name="norm", activation=nn.relu)(x, train=train)
        x = Conv(
            width,
            1,
            padding=0,
            use_bias=False,
            kernel_init=he_fan_in,
            dtype=self.dtype,
            name="conv",
        )(x)
        return ops.avg_pool(x, 2)


class DenseNet(nn.Module):
    """Blocks in which each layer sees the feature maps of all layers before it.

    | layer        | output  | 121 (k=32) | 169 (k=32) | 201 (k=32) | 161 (k=48) |
    |--------------|---------|------------|------------|------------|------------|
    | conv0        | 112x112 | 7x7, 2 k channels, stride 2                     ||||
    | pool0        | 56x56   | 3x3 max pool, stride 2                          ||||
    | denseblock1  | 56x56   | 6          | 6          | 6          | 6          |
    | denseblock2  | 28x28   | 12         | 12         | 12         | 12         |
    | denseblock3  | 14x14   | 24         | 32         | 48         | 36         |
    | denseblock4  | 7x7     | 16         | 32         | 32         | 24         |
    | norm5, average pool, dense | 1x1 | num_classes                           ||||

    Attributes:
        num_classes: number of logits.
        growth: channels that each layer adds, the paper's k.
        block_sizes: layers in each block.
        small_images: has the paper's stem for 32x32 images: 3x3, stride 1, no pool.
        dropout: rate on the output of each layer, in training.
        dtype: type of the arithmetic.
        remat: recomputes each layer in the backward pass instead of storing it.
    """

    num_classes: int
    growth: int = 32
    block_sizes: Sequence[int] = (6, 12, 24, 16)
    small_images: bool = False
    dropout: float = 0.0
    dtype: DTypeLike = jnp.float32
    remat: bool = False

    @nn.compact
    def __call__(
        self, x: jax.Array, *, train: bool = False, endpoints: bool = False
    ) -> jax.Array | tuple[jax.Array, dict[str, jax.Array]]:
        """Maps ``(n, h, w, c)`` to ``(n, num_classes)`` logits."""
        check_images("densenet", x, 8 if self.small_images else 29)
        layer = nn.remat(DenseLayer, static_argnums=(2,)) if self.remat else DenseLayer
        ends: dict[str, jax.Array] = {}
        conv0 = partial(
            Conv, 2 * self.growth, use_bias=False, kernel_init=he_fan_in, dtype=self.dtype
        )
        if self.small_images:
            x = conv0(3, padding=1, name="features_conv0")(x)
        else:
            x = conv0(7, stride=2, padding=3, name="features_conv0")(x)
        x = BatchNorm(dtype=self.dtype, name="features_norm0", activation=nn.relu)(x, train=train)
        if not self.small_images:
            x = ops.max_pool(x, 3, stride=2, padding=1)

        for block, size in enumerate(self.block_sizes, start=1):
            for i in range(1, size + 1):
                name = f"features_denseblock{block}_denselayer{i}"
                x = layer(self.growth, self.dropout, dtype=self.dtype, name=name)(x, train)
            ends[f"stage{block}"] = x
            if block < len(self.block_sizes):
                x = Transition(dtype=self.dtype, name=f"features_transition{block}")(x, train)

        x = BatchNorm(dtype=self.dtype, name="features_norm5", activation=nn.relu)(x, train=train)
        ends["features"] = x = ops.global_avg_pool(x)
        logits = Dense(
            self.num_classes,
            kernel_init=fan_in_uniform(x.shape[-1]),
            dtype=self.dtype,
            name="classifier",
        )(x)
        return (logits, ends) if endpoints else logits


densenet121 = partial(DenseNet, block_sizes=(6, 12, 24, 16))
densenet161 = partial(DenseNet, block_sizes=(6, 12, 36, 24), growth=48)
densenet169 = partial(DenseNet, block_sizes=(6, 12, 32, 32))
densenet201 = partial(DenseNet, block_sizes=(6, 12, 48, 32))
