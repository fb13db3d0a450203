"""ShuffleNet V2: half of the channels pass by, then the halves are interleaved.

Ma, Zhang, Zheng, Sun: ShuffleNet V2: Practical Guidelines for Efficient CNN Architecture Design,
2018, table 5.
"""

from collections.abc import Sequence
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from jaxcnn import ops
from jaxcnn.layers import Activation, BatchNorm, Conv, Dense, check_images, fan_in_uniform


def channel_shuffle(x: jax.Array, groups: int) -> jax.Array:
    """Interleaves the channels of ``groups`` equal parts: a, b, c, d becomes a, c, b, d.

    >>> channel_shuffle(jnp.arange(4).reshape(1, 1, 1, 4), 2).tolist()
    [[[[0, 2, 1, 3]]]]
    """
    *rest, c = x.shape
    return x.reshape(*rest, groups, c // groups).swapaxes(-1, -2).reshape(x.shape)


class ShuffleUnit(nn.Module):
    """Two branches of half the output channels each, side by side, then shuffled.

    Without a stride the first branch is the first half of the input as it is.

    Attributes:
        features: output channels.
        stride: stride of the depthwise convolutions.
        dtype: type of the arithmetic.
    """

    features: int
    stride: int
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """Maps ``(n, h, w, c)`` to ``(n, h / stride, w / stride, features)``."""
        half = self.features // 2
        if self.stride == 1:
            left, right = jnp.split(x, 2, axis=-1)
        else:
            left = right = x
            left = self._norm("branch1_1", self._depthwise("branch1_0", left), train)
            left = self._norm("branch1_3", self._pointwise("branch1_2", left, half), train, nn.relu)
        right = self._norm("branch2_1", self._pointwise("branch2_0", right, half), train, nn.relu)
        right = self._norm("branch2_4", self._depthwise("branch2_3", right), train)
        right = self._norm("branch2_6", self._pointwise("branch2_5", right, half), train, nn.relu)
        return channel_shuffle(jnp.concatenate([left, right], axis=-1), 2)

    def _pointwise(self, name: str, x: jax.Array, features: int) -> jax.Array:
        init = fan_in_uniform(x.shape[-1])
        return Conv(
            features, 1, padding=0, use_bias=False, kernel_init=init, dtype=self.dtype, name=name
        )(x)

    def _depthwise(self, name: str, x: jax.Array) -> jax.Array:
        return Conv(
            x.shape[-1],
            3,
            stride=self.stride,
            padding=1,
            groups=x.shape[-1],
            use_bias=False,
            kernel_init=fan_in_uniform(9),
            dtype=self.dtype,
            name=name,
        )(x)

    def _norm(
        self, name: str, x: jax.Array, train: bool, activation: Activation | None = None
    ) -> jax.Array:
        norm = BatchNorm(dtype=self.dtype, activation=activation, name=name)
        return norm(x, train=train)


class ShuffleNetV2(nn.Module):
    """ShuffleNet V2: 3x3 convolution, max pool, three stages of units, 1x1 convolution, dense.

    | layer              | output  | units | 0.5x | 1x   | 1.5x | 2x   |
    |--------------------|---------|-------|------|------|------|------|
    | conv1 3x3 /2       | 112x112 |       | 24   | 24   | 24   | 24   |
    | max pool 3x3 /2    | 56x56   |       |      |      |      |      |
    | stage2             | 28x28   | 4     | 48   | 116  | 176  | 244  |
    | stage3             | 14x14   | 8     | 96   | 232  | 352  | 488  |
    | stage4             | 7x7     | 4     | 192  | 464  | 704  | 976  |
    | conv5 1x1          | 7x7     |       | 1024 | 1024 | 1024 | 2048 |
    | average pool, dense| num_classes |   |      |      |      |      |

    Attributes:
        num_classes: number of logits.
        stage_sizes: units in each stage.
        widths: channels of each stage and of conv5.
        small_images: keeps conv1 at stride 1 and leaves the max pool out, for 32x32 images.
        dropout: rate before the dense layer, in training.
        dtype: type of the arithmetic.
        remat: recomputes each unit in the backward pass instead of storing it.
    """

    num_classes: int
    stage_sizes: Sequence[int] = (4, 8, 4)
    widths: Sequence[int] = (116, 232, 464, 1024)
    small_images: bool = False
    dropout: float = 0.0
    dtype: DTypeLike = jnp.float32
    remat: bool = False

    @nn.compact
    def __call__(
        self, x: jax.Array, *, train: bool = False, endpoints: bool = False
    ) -> jax.Array | tuple[jax.Array, dict[str, jax.Array]]:
        """Maps ``(n, h, w, c)`` to ``(n, num_classes)`` logits."""
        check_images("shufflenet_v2", x)
        ends: dict[str, jax.Array] = {}
        unit = nn.remat(ShuffleUnit, static_argnums=(2,)) if self.remat else ShuffleUnit
        conv = partial(Conv, use_bias=False, dtype=self.dtype)

        stride = 1 if self.small_images else 2
        init = fan_in_uniform(9 * x.shape[-1])
        x = conv(24, 3, stride=stride, padding=1, kernel_init=init, name="conv1_0")(x)
        x = BatchNorm(dtype=self.dtype, name="conv1_1", activation=nn.relu)(x, train=train)
        if not self.small_images:
            x = ops.max_pool(x, 3, stride=2, padding=1)
        ends["stage1"] = x

        for stage, (size, width) in enumerate(
            zip(self.stage_sizes, self.widths[:-1], strict=True), start=2
        ):
            for i in range(size):
                x = unit(width, 2 if i == 0 else 1, dtype=self.dtype, name=f"stage{stage}_{i}")(
                    x, train
                )
            ends[f"stage{stage}"] = x

        init = fan_in_uniform(x.shape[-1])
        x = conv(self.widths[-1], 1, padding=0, kernel_init=init, name="conv5_0")(x)
        x = BatchNorm(dtype=self.dtype, name="conv5_1", activation=nn.relu)(x, train=train)
        ends["features"] = x = ops.global_avg_pool(x)
        x = nn.Dropout(self.dropout, deterministic=not train)(x)
        init = fan_in_uniform(x.shape[-1])
        logits = Dense(
            self.num_classes, kernel_init=init, bias_init=init, dtype=self.dtype, name="fc"
        )(x)
        return (logits, ends) if endpoints else logits


shufflenet_v2_x0_5 = partial(ShuffleNetV2, widths=(48, 96, 192, 1024))
shufflenet_v2_x1_0 = partial(ShuffleNetV2, widths=(116, 232, 464, 1024))
shufflenet_v2_x1_5 = partial(ShuffleNetV2, widths=(176, 352, 704, 1024))
shufflenet_v2_x2_0 = partial(ShuffleNetV2, widths=(244, 488, 976, 2048))
