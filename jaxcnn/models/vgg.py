"""VGG with 11 to 19 layers, with and without batch normalisation.

Simonyan, Zisserman: Very Deep Convolutional Networks for Large-Scale Image Recognition, 2014,
table 1.
"""

from collections.abc import Sequence
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from jaxcnn import ops
from jaxcnn.layers import BatchNorm, Conv, Dense, check_images, flatten, he_fan_out


class VGG(nn.Module):
    """Stages of 3x3 convolutions, each with a 2x2 pool behind it, and three dense layers.

    | stage | width | A (11) | B (13) | D (16) | E (19) | output  |
    |-------|-------|--------|--------|--------|--------|---------|
    | 1     | 64    | 1      | 2      | 2      | 2      | 112x112 |
    | 2     | 128   | 1      | 2      | 2      | 2      | 56x56   |
    | 3     | 256   | 2      | 2      | 3      | 4      | 28x28   |
    | 4     | 512   | 2      | 2      | 3      | 4      | 14x14   |
    | 5     | 512   | 2      | 2      | 3      | 4      | 7x7     |
    | dense | 4096, 4096, num_classes                |||||         |

    Attributes:
        num_classes: number of logits.
        stage_sizes: convolutions in each stage.
        batch_norm: normalises after each convolution.
        small_images: has the accepted head for 32x32 images: one dense layer on the 512 features.
        dropout: rate before the last two dense layers (``small_images``: the only one), in
            training.
        dtype: type of the arithmetic.
        remat: recomputes each stage in the backward pass instead of storing it.
    """

    num_classes: int
    stage_sizes: Sequence[int] = (1, 1, 2, 2, 2)
    batch_norm: bool = False
    small_images: bool = False
    dropout: float = 0.5
    dtype: DTypeLike = jnp.float32
    remat: bool = False

    @nn.compact
    def __call__(
        self, x: jax.Array, *, train: bool = False, endpoints: bool = False
    ) -> jax.Array | tuple[jax.Array, dict[str, jax.Array]]:
        """Maps ``(n, h, w, c)`` to ``(n, num_classes)`` logits."""
        check_images("vgg", x, 32)
        stage = nn.remat(VGG._stage, static_argnums=(2, 3, 4, 5)) if self.remat else VGG._stage
        ends: dict[str, jax.Array] = {}
        index = 0
        for i, (size, width) in enumerate(
            zip(self.stage_sizes, (64, 128, 256, 512, 512), strict=True), start=1
        ):
            ends[f"stage{i}"] = x = stage(self, x, index, size, width, train)
            index += size * (3 if self.batch_norm else 2) + 1

        drop = nn.Dropout(self.dropout, deterministic=not train)
        dense = partial(Dense, kernel_init=nn.initializers.normal(0.01), dtype=self.dtype)
        if self.small_images:
            ends["features"] = x = ops.global_avg_pool(x)
            logits = dense(self.num_classes, name="classifier_6")(drop(x))
        else:
            x = flatten(ops.adaptive_avg_pool(x, 7))
            x = nn.relu(dense(4096, name="classifier_0")(x))
            ends["features"] = x = nn.relu(dense(4096, name="classifier_3")(drop(x)))
            logits = dense(self.num_classes, name="classifier_6")(drop(x))
        return (logits, ends) if endpoints else logits

    def _stage(self, x: jax.Array, index: int, size: int, width: int, train: bool) -> jax.Array:
        """``size`` convolutions and a pool; ``index`` counts the reference's layers."""
        for _ in range(size):
            x = Conv(
                width,
                3,
                padding=1,
                kernel_init=he_fan_out,
                dtype=self.dtype,
                name=f"features_{index}",
            )(x)
            if self.batch_norm:
                norm = BatchNorm(dtype=self.dtype, activation=nn.relu, name=f"features_{index + 1}")
                x = norm(x, train=train)
            else:
                x = nn.relu(x)
            index += 3 if self.batch_norm else 2
        return ops.max_pool(x, 2)


vgg11 = partial(VGG, stage_sizes=(1, 1, 2, 2, 2))
vgg13 = partial(VGG, stage_sizes=(2, 2, 2, 2, 2))
vgg16 = partial(VGG, stage_sizes=(2, 2, 3, 3, 3))
vgg19 = partial(VGG, stage_sizes=(2, 2, 4, 4, 4))
vgg11_bn = partial(vgg11, batch_norm=True)
vgg13_bn = partial(vgg13, batch_norm=True)
vgg16_bn = partial(vgg16, batch_norm=True)
vgg19_bn = partial(vgg19, batch_norm=True)
