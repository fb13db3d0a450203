"""ResNet, ResNeXt and Wide ResNet for ImageNet.

He, Zhang, Ren, Sun: Deep Residual Learning for Image Recognition, 2015, table 1.
Xie, Girshick, Dollár, Tu, He: Aggregated Residual Transformations for Deep Neural Networks, 2016.
Zagoruyko, Komodakis: Wide Residual Networks, 2016.
"""

from collections.abc import Sequence
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from jaxcnn import ops
from jaxcnn.layers import BatchNorm, Conv, Dense, DropPath, check_images, fan_in_uniform, he_fan_out

zeros, ones = nn.initializers.zeros_init(), nn.initializers.ones_init()


class BasicBlock(nn.Module):
    """``relu(x + norm(conv3x3(relu(norm(conv3x3(x))))))``; the first convolution may stride.

    Attributes:
        width: output channels.
        stride: stride of the first convolution.
        project: the shortcut is a 1x1 convolution instead of the identity.
        zero_init: the block starts as its shortcut.
        drop_path: probability of dropping the residual branch, in training.
        dtype: type of the arithmetic.
    """

    width: int
    stride: int
    project: bool
    zero_init: bool = False
    drop_path: float = 0.0
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """Maps ``(n, h, w, c)`` to ``(n, h / stride, w / stride, width)``."""
        conv = partial(Conv, use_bias=False, kernel_init=he_fan_out, dtype=self.dtype)
        norm = partial(BatchNorm, dtype=self.dtype)
        last = zeros if self.zero_init else ones
        shortcut = x
        x = conv(self.width, 3, stride=self.stride, padding=1, name="conv1")(x)
        x = norm(name="bn1", activation=nn.relu)(x, train=train)
        x = conv(self.width, 3, padding=1, name="conv2")(x)
        x = norm(scale_init=last, name="bn2")(x, train=train)
        if self.project:
            shortcut = conv(self.width, 1, stride=self.stride, padding=0, name="downsample_0")(
                shortcut
            )
            shortcut = norm(name="downsample_1")(shortcut, train=train)
        return nn.relu(shortcut + DropPath(self.drop_path)(x, train=train))


class Bottleneck(nn.Module):
    """1x1 down, 3x3 (in groups), 1x1 up to four times ``width``, added to the shortcut.

    The 3x3 convolution strides; the paper strides in the first 1x1, which loses more.

    Attributes:
        width: a quarter of the output channels.
        inner: channels of the 3x3 convolution.
        groups: number of groups of the 3x3 convolution; more than one makes a ResNeXt.
        stride: stride of the 3x3 convolution.
        project: the shortcut is a 1x1 convolution instead of the identity.
        zero_init: the block starts as its shortcut.
        drop_path: probability of dropping the residual branch, in training.
        dtype: type of the arithmetic.
    """

    width: int
    inner: int
    groups: int
    stride: int
    project: bool
    zero_init: bool = False
    drop_path: float = 0.0
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """Maps ``(n, h, w, c)`` to ``(n, h / stride, w / stride, 4 * width)``."""
        conv = partial(Conv, use_bias=False, kernel_init=he_fan_out, dtype=self.dtype)
        norm = partial(BatchNorm, dtype=self.dtype)
        last = zeros if self.zero_init else ones
        shortcut = x
        x = conv(self.inner, 1, padding=0, name="conv1")(x)
        x = norm(name="bn1", activation=nn.relu)(x, train=train)
        x = conv(self.inner, 3, stride=self.stride, padding=1, groups=self.groups, name="conv2")(x)
        x = norm(name="bn2", activation=nn.relu)(x, train=train)
        x = conv(4 * self.width, 1, padding=0, name="conv3")(x)
        x = norm(scale_init=last, name="bn3")(x, train=train)
        if self.project:
            shortcut = conv(4 * self.width, 1, stride=self.stride, padding=0, name="downsample_0")(
                shortcut
            )
            shortcut = norm(name="downsample_1")(shortcut, train=train)
        return nn.relu(shortcut + DropPath(self.drop_path)(x, train=train))


class ResNet(nn.Module):
    """Residual network with four stages.

    | layer        | output  | 18-layer | 34-layer | 50-layer        | 101 | 152 |
    |--------------|---------|----------|----------|-----------------|-----|-----|
    | conv1        | 112x112 | 7x7, 64, stride 2                             ||||
    | max pool     | 56x56   | 3x3, stride 2                                 ||||
    | layer1       | 56x56   | 2 x 64   | 3 x 64   | 3 x (64, 256)   | 3   | 3   |
    | layer2       | 28x28   | 2 x 128  | 4 x 128  | 4 x (128, 512)  | 4   | 8   |
    | layer3       | 14x14   | 2 x 256  | 6 x 256  | 6 x (256, 1024) | 23  | 36  |
    | layer4       | 7x7     | 2 x 512  | 3 x 512  | 3 x (512, 2048) | 3   | 3   |
    | average pool, dense | 1x1 | num_classes                                ||||

    Attributes:
        num_classes: number of logits.
        stage_sizes: blocks in each stage.
        bottleneck: 1x1-3x3-1x1 blocks instead of two 3x3 convolutions.
        groups: number of groups of the 3x3 convolutions in bottlenecks (ResNeXt's cardinality).
        width_per_group: channels of a group in the first stage.
        small_images: has the accepted stem for 32x32 images: 3x3, stride 1, no pool.
        zero_init_residual: every block starts as its shortcut (Goyal et al. 2017).
        drop_path: rate of the last block; earlier ones rise to it linearly.
        dropout: rate before the dense layer, in training.
        dtype: type of the arithmetic.
        remat: recomputes each block in the backward pass instead of storing it.
    """

    num_classes: int
    stage_sizes: Sequence[int] = (2, 2, 2, 2)
    bottleneck: bool = False
    groups: int = 1
    width_per_group: int = 64
    small_images: bool = False
    zero_init_residual: bool = False
    drop_path: float = 0.0
    dropout: float = 0.0
    dtype: DTypeLike = jnp.float32
    remat: bool = False

    @nn.compact
    def __call__(
        self, x: jax.Array, *, train: bool = False, endpoints: bool = False
    ) -> jax.Array | tuple[jax.Array, dict[str, jax.Array]]:
        """Maps ``(n, h, w, c)`` to ``(n, num_classes)`` logits."""
        check_images("resnet", x)
        if not self.bottleneck and (self.groups, self.width_per_group) != (1, 64):
            raise ValueError(
                f"groups={self.groups} and width_per_group={self.width_per_group} need "
                "bottleneck=True"
            )
        ends: dict[str, jax.Array] = {}
        conv1 = partial(Conv, 64, use_bias=False, kernel_init=he_fan_out, dtype=self.dtype)
        if self.small_images:
            x = conv1(3, padding=1, name="conv1")(x)
        else:
            x = conv1(7, stride=2, padding=3, name="conv1")(x)
        x = BatchNorm(dtype=self.dtype, name="bn1", activation=nn.relu)(x, train=train)
        if not self.small_images:
            x = ops.max_pool(x, 3, stride=2, padding=1)

        depth = 0
        for stage, size in enumerate(self.stage_sizes, start=1):
            for i in range(size):
                x = self._block(stage, i, depth / max(sum(self.stage_sizes) - 1, 1))(x, train)
                depth += 1
            ends[f"stage{stage}"] = x

        ends["features"] = x = ops.global_avg_pool(x)
        x = nn.Dropout(self.dropout, deterministic=not train)(x)
        init = fan_in_uniform(x.shape[-1])
        logits = Dense(
            self.num_classes, kernel_init=init, bias_init=init, dtype=self.dtype, name="fc"
        )(x)
        return (logits, ends) if endpoints else logits

    def _block(self, stage: int, i: int, depth: float) -> nn.Module:
        """The ``i``-th block of a stage; ``depth`` runs from 0 (first block) to 1 (last)."""
        width = 64 * 2 ** (stage - 1)
        stride = 2 if stage > 1 and i == 0 else 1
        options = {
            "zero_init": self.zero_init_residual,
            "drop_path": self.drop_path * depth,
            "dtype": self.dtype,
            "name": f"layer{stage}_{i}",
        }
        block: type[nn.Module] = Bottleneck if self.bottleneck else BasicBlock
        if self.remat:
            block = nn.remat(block, static_argnums=(2,))
        if not self.bottleneck:
            return block(width, stride, stride > 1, **options)
        inner = width * self.width_per_group // 64 * self.groups
        return block(width, inner, self.groups, stride, i == 0, **options)


resnet18 = partial(ResNet, stage_sizes=(2, 2, 2, 2))
resnet34 = partial(ResNet, stage_sizes=(3, 4, 6, 3))
resnet50 = partial(ResNet, stage_sizes=(3, 4, 6, 3), bottleneck=True)
resnet101 = partial(ResNet, stage_sizes=(3, 4, 23, 3), bottleneck=True)
resnet152 = partial(ResNet, stage_sizes=(3, 8, 36, 3), bottleneck=True)
resnext50_32x4d = partial(resnet50, groups=32, width_per_group=4)
resnext101_32x8d = partial(resnet101, groups=32, width_per_group=8)
resnext101_64x4d = partial(resnet101, groups=64, width_per_group=4)
wide_resnet50_2 = partial(resnet50, width_per_group=128)
wide_resnet101_2 = partial(resnet101, width_per_group=128)
