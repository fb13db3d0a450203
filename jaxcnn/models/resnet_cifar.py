"""The small residual networks for CIFAR.

He, Zhang, Ren, Sun: Deep Residual Learning for Image Recognition, 2015, section 4.2.
"""

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from jaxcnn import ops
from jaxcnn.layers import BatchNorm, Conv, Dense, DropPath, check_images, he_fan_in


class CifarBlock(nn.Module):
    """``relu(shortcut(x) + norm(conv3x3(relu(norm(conv3x3(x))))))`` without parameters outside.

    Where the size changes, the shortcut takes every second position and fills the new channels
    with zeros (the paper's option A).

    Attributes:
        width: output channels.
        stride: stride of the first convolution.
        drop_path: probability of dropping the residual branch, in training.
        dtype: type of the arithmetic.
    """

    width: int
    stride: int
    drop_path: float = 0.0
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """Maps ``(n, h, w, c)`` to ``(n, h / stride, w / stride, width)``."""
        conv = partial(
            Conv, self.width, 3, padding=1, use_bias=False, kernel_init=he_fan_in, dtype=self.dtype
        )
        norm = partial(BatchNorm, dtype=self.dtype)
        new = self.width - x.shape[-1]
        shortcut = x[:, :: self.stride, :: self.stride]
        shortcut = jnp.pad(shortcut, ((0, 0), (0, 0), (0, 0), (new // 2, new - new // 2)))
        x = conv(stride=self.stride, name="conv1")(x)
        x = norm(name="bn1", activation=nn.relu)(x, train=train)
        x = conv(name="conv2")(x)
        x = norm(name="bn2")(x, train=train)
        return nn.relu(shortcut + DropPath(self.drop_path)(x, train=train))


class CifarResNet(nn.Module):
    """Three stages of 16, 32 and 64 channels with ``(depth - 2) / 6`` blocks each.

    | layer        | output | resnet20 | 32 | 44 | 56 | 110 |
    |--------------|--------|----------|----|----|----|-----|
    | conv1, 3x3   | 32x32  | 16                        |||||
    | layer1       | 32x32  | 3 x 16   | 5  | 7  | 9  | 18  |
    | layer2       | 16x16  | 3 x 32   | 5  | 7  | 9  | 18  |
    | layer3       | 8x8    | 3 x 64   | 5  | 7  | 9  | 18  |
    | average pool, dense | 1x1 | num_classes           |||||

    Attributes:
        num_classes: number of logits.
        depth: layers with weights: 20, 32, 44, 56, 110, or another 6 n + 2.
        drop_path: rate of the last block; earlier ones rise to it linearly.
        dtype: type of the arithmetic.
        remat: recomputes each block in the backward pass instead of storing it.
    """

    num_classes: int
    depth: int = 20
    drop_path: float = 0.0
    dtype: DTypeLike = jnp.float32
    remat: bool = False

    @nn.compact
    def __call__(
        self, x: jax.Array, *, train: bool = False, endpoints: bool = False
    ) -> jax.Array | tuple[jax.Array, dict[str, jax.Array]]:
        """Maps ``(n, h, w, c)`` to ``(n, num_classes)`` logits."""
        check_images(f"resnet{self.depth}", x)
        if self.depth < 8 or self.depth % 6 != 2:
            raise ValueError(f"depth={self.depth} must be 6 n + 2: 8, 14, 20, 26, 32, ...")
        size = (self.depth - 2) // 6
        block = nn.remat(CifarBlock, static_argnums=(2,)) if self.remat else CifarBlock
        ends: dict[str, jax.Array] = {}
        x = Conv(
            16, 3, padding=1, use_bias=False, kernel_init=he_fan_in, dtype=self.dtype, name="conv1"
        )(x)
        x = BatchNorm(dtype=self.dtype, name="bn1", activation=nn.relu)(x, train=train)
        for stage, width in enumerate((16, 32, 64), start=1):
            for i in range(size):
                stride = 2 if stage > 1 and i == 0 else 1
                rate = self.drop_path * ((stage - 1) * size + i) / max(3 * size - 1, 1)
                name = f"layer{stage}_{i}"
                x = block(width, stride, rate, dtype=self.dtype, name=name)(x, train)
            ends[f"stage{stage}"] = x
        ends["features"] = x = ops.global_avg_pool(x)
        logits = Dense(self.num_classes, kernel_init=he_fan_in, dtype=self.dtype, name="fc")(x)
        return (logits, ends) if endpoints else logits


resnet20 = partial(CifarResNet, depth=20)
resnet32 = partial(CifarResNet, depth=32)
resnet44 = partial(CifarResNet, depth=44)
resnet56 = partial(CifarResNet, depth=56)
resnet110 = partial(CifarResNet, depth=110)
