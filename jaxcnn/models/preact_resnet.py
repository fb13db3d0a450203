"""ResNet with pre-activation.

He, Zhang, Ren, Sun: Identity Mappings in Deep Residual Networks, 2016, figure 1b.
"""

from collections.abc import Sequence
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from jaxcnn import ops
from jaxcnn.layers import BatchNorm, Conv, Dense, DropPath, check_images, fan_in_uniform, he_fan_out


class PreactBasicBlock(nn.Module):
    """``x + conv3x3(relu(norm(conv3x3(relu(norm(x))))))``.

    Attributes:
        width: output channels.
        stride: stride of the first convolution.
        project: the shortcut is a 1x1 convolution of the activated input, not the identity.
        drop_path: probability of dropping the residual branch, in training.
        dtype: type of the arithmetic.
    """

    width: int
    stride: int
    project: bool
    drop_path: float = 0.0
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """Maps ``(n, h, w, c)`` to ``(n, h / stride, w / stride, width)``."""
        conv = partial(Conv, use_bias=False, kernel_init=he_fan_out, dtype=self.dtype)
        norm = partial(BatchNorm, dtype=self.dtype)
        shortcut = x
        x = norm(name="norm1", activation=nn.relu)(x, train=train)
        if self.project:
            shortcut = conv(self.width, 1, stride=self.stride, padding=0, name="downsample")(x)
        x = conv(self.width, 3, stride=self.stride, padding=1, name="conv1")(x)
        x = norm(name="norm2", activation=nn.relu)(x, train=train)
        x = conv(self.width, 3, padding=1, name="conv2")(x)
        return shortcut + DropPath(self.drop_path)(x, train=train)


class PreactBottleneck(nn.Module):
    """1x1, 3x3, 1x1 to four times ``width``, each behind a normalisation and a ReLU.

    Attributes are those of :class:`PreactBasicBlock`; the 3x3 convolution strides.
    """

    width: int
    stride: int
    project: bool
    drop_path: float = 0.0
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """Maps ``(n, h, w, c)`` to ``(n, h / stride, w / stride, 4 * width)``."""
        conv = partial(Conv, use_bias=False, kernel_init=he_fan_out, dtype=self.dtype)
        norm = partial(BatchNorm, dtype=self.dtype)
        shortcut = x
        x = norm(name="norm1", activation=nn.relu)(x, train=train)
        if self.project:
            shortcut = conv(4 * self.width, 1, stride=self.stride, padding=0, name="downsample")(x)
        x = conv(self.width, 1, padding=0, name="conv1")(x)
        x = norm(name="norm2", activation=nn.relu)(x, train=train)
        x = conv(self.width, 3, stride=self.stride, padding=1, name="conv2")(x)
        x = norm(name="norm3", activation=nn.relu)(x, train=train)
        x = conv(4 * self.width, 1, padding=0, name="conv3")(x)
        return shortcut + DropPath(self.drop_path)(x, train=train)


class PreactResNet(nn.Module):
    """Residual network whose shortcuts are never normalised or activated.

    | layer        | output  | 18      | 34      | 50              | 101 | 152 |
    |--------------|---------|---------|---------|-----------------|-----|-----|
    | conv1        | 112x112 | 7x7, 64, stride 2                           ||||
    | max pool     | 56x56   | 3x3, stride 2                               ||||
    | layer1       | 56x56   | 2 x 64  | 3 x 64  | 3 x (64, 256)   | 3   | 3   |
    | layer2       | 28x28   | 2 x 128 | 4 x 128 | 4 x (128, 512)  | 4   | 8   |
    | layer3       | 14x14   | 2 x 256 | 6 x 256 | 6 x (256, 1024) | 23  | 36  |
    | layer4       | 7x7     | 2 x 512 | 3 x 512 | 3 x (512, 2048) | 3   | 3   |
    | norm, ReLU, average pool, dense | 1x1 | num_classes                  ||||

    Attributes:
        num_classes: number of logits.
        stage_sizes: blocks in each stage.
        bottleneck: 1x1-3x3-1x1 blocks instead of two 3x3 convolutions.
        small_images: has the accepted stem for 32x32 images: 3x3, stride 1, no pool.
        drop_path: rate of the last block; earlier ones rise to it linearly.
        dropout: rate before the dense layer, in training.
        dtype: type of the arithmetic.
        remat: recomputes each block in the backward pass instead of storing it.
    """

    num_classes: int
    stage_sizes: Sequence[int] = (2, 2, 2, 2)
    bottleneck: bool = False
    small_images: bool = False
    drop_path: float = 0.0
    dropout: float = 0.0
    dtype: DTypeLike = jnp.float32
    remat: bool = False

    @nn.compact
    def __call__(
        self, x: jax.Array, *, train: bool = False, endpoints: bool = False
    ) -> jax.Array | tuple[jax.Array, dict[str, jax.Array]]:
        """Maps ``(n, h, w, c)`` to ``(n, num_classes)`` logits."""
        check_images("preact_resnet", x)
        block: type[nn.Module] = PreactBottleneck if self.bottleneck else PreactBasicBlock
        if self.remat:
            block = nn.remat(block, static_argnums=(2,))
        ends: dict[str, jax.Array] = {}
        conv1 = partial(Conv, 64, use_bias=False, kernel_init=he_fan_out, dtype=self.dtype)
        if self.small_images:
            x = conv1(3, padding=1, name="conv1")(x)
        else:
            x = conv1(7, stride=2, padding=3, name="conv1")(x)
            x = ops.max_pool(x, 3, stride=2, padding=1)

        depth, last = 0, max(sum(self.stage_sizes) - 1, 1)
        for stage, size in enumerate(self.stage_sizes, start=1):
            for i in range(size):
                stride = 2 if stage > 1 and i == 0 else 1
                x = block(
                    64 * 2 ** (stage - 1),
                    stride,
                    project=stride > 1 or (self.bottleneck and i == 0),
                    drop_path=self.drop_path * depth / last,
                    dtype=self.dtype,
                    name=f"layer{stage}_{i}",
                )(x, train)
                depth += 1
            ends[f"stage{stage}"] = x

        x = BatchNorm(dtype=self.dtype, name="norm", activation=nn.relu)(x, train=train)
        ends["features"] = x = ops.global_avg_pool(x)
        x = nn.Dropout(self.dropout, deterministic=not train)(x)
        init = fan_in_uniform(x.shape[-1])
        logits = Dense(
            self.num_classes, kernel_init=init, bias_init=init, dtype=self.dtype, name="fc"
        )(x)
        return (logits, ends) if endpoints else logits


preact_resnet18 = partial(PreactResNet, stage_sizes=(2, 2, 2, 2))
preact_resnet34 = partial(PreactResNet, stage_sizes=(3, 4, 6, 3))
preact_resnet50 = partial(PreactResNet, stage_sizes=(3, 4, 6, 3), bottleneck=True)
preact_resnet101 = partial(PreactResNet, stage_sizes=(3, 4, 23, 3), bottleneck=True)
preact_resnet152 = partial(PreactResNet, stage_sizes=(3, 8, 36, 3), bottleneck=True)
