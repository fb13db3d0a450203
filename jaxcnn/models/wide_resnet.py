"""Wide ResNet for CIFAR.

Zagoruyko, Komodakis: Wide Residual Networks, 2016, table 1.
"""

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from jaxcnn import ops
from jaxcnn.layers import BatchNorm, Conv, Dense, check_images, he_fan_out


class WideBlock(nn.Module):
    """``x + conv3x3(dropout(relu(norm(conv3x3(relu(norm(x)))))))``.

    Where channels or size change, the shortcut is a 1x1 convolution of the activated input.

    Attributes:
        width: output channels.
        stride: stride of the first convolution.
        dropout: rate between the convolutions, in training.
        dtype: type of the arithmetic.
    """

    width: int
    stride: int
    dropout: float = 0.0
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """Maps ``(n, h, w, c)`` to ``(n, h / stride, w / stride, width)``."""
        conv = partial(Conv, self.width, use_bias=False, kernel_init=he_fan_out, dtype=self.dtype)
        norm = partial(BatchNorm, dtype=self.dtype)
        shortcut = x
        project = x.shape[-1] != self.width or self.stride > 1
        x = norm(name="norm1", activation=nn.relu)(x, train=train)
        if project:
            shortcut = conv(1, stride=self.stride, padding=0, name="downsample")(x)
        x = conv(3, stride=self.stride, padding=1, name="conv1")(x)
        x = norm(name="norm2", activation=nn.relu)(x, train=train)
        x = nn.Dropout(self.dropout, deterministic=not train)(x)
        x = conv(3, padding=1, name="conv2")(x)
        return shortcut + x


class WideResNet(nn.Module):
    """Three stages of 16, 32 and 64 times ``widen`` channels, ``(depth - 4) / 6`` blocks each.

    | layer        | output | WRN-28-10 |
    |--------------|--------|-----------|
    | conv1, 3x3   | 32x32  | 16        |
    | layer1       | 32x32  | 4 x 160   |
    | layer2       | 16x16  | 4 x 320   |
    | layer3       | 8x8    | 4 x 640   |
    | norm, ReLU, average pool, dense | 1x1 | num_classes |

    Attributes:
        num_classes: number of logits.
        depth: layers with weights, 6 n + 4.
        widen: factor on the channels, the paper's k.
        dropout: rate inside the blocks, in training.
        dtype: type of the arithmetic.
        remat: recomputes each block in the backward pass instead of storing it.
    """

    num_classes: int
    depth: int = 28
    widen: int = 10
    dropout: float = 0.0
    dtype: DTypeLike = jnp.float32
    remat: bool = False

    @nn.compact
    def __call__(
        self, x: jax.Array, *, train: bool = False, endpoints: bool = False
    ) -> jax.Array | tuple[jax.Array, dict[str, jax.Array]]:
        """Maps ``(n, h, w, c)`` to ``(n, num_classes)`` logits."""
        check_images(f"wide_resnet{self.depth}_{self.widen}", x)
        if self.depth < 10 or self.depth % 6 != 4:
            raise ValueError(f"depth={self.depth} must be 6 n + 4: 10, 16, 22, 28, 34, 40, ...")
        block = nn.remat(WideBlock, static_argnums=(2,)) if self.remat else WideBlock
        ends: dict[str, jax.Array] = {}
        x = Conv(
            16, 3, padding=1, use_bias=False, kernel_init=he_fan_out, dtype=self.dtype, name="conv1"
        )(x)
        for stage in (1, 2, 3):
            width = 16 * 2 ** (stage - 1) * self.widen
            for i in range((self.depth - 4) // 6):
                stride = 2 if stage > 1 and i == 0 else 1
                name = f"layer{stage}_{i}"
                x = block(width, stride, self.dropout, dtype=self.dtype, name=name)(x, train)
            ends[f"stage{stage}"] = x
        x = BatchNorm(dtype=self.dtype, name="norm", activation=nn.relu)(x, train=train)
        ends["features"] = x = ops.global_avg_pool(x)
        logits = Dense(self.num_classes, kernel_init=he_fan_out, dtype=self.dtype, name="fc")(x)
        return (logits, ends) if endpoints else logits


wide_resnet28_10 = partial(WideResNet, depth=28, widen=10)
