"""AlexNet: as published in 2012, and as torchvision builds it.

Krizhevsky, Sutskever, Hinton: ImageNet Classification with Deep Convolutional Neural Networks,
2012, section 3.5. Krizhevsky: One weird trick for parallelizing convolutional neural networks,
2014.
"""

from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from jaxcnn import ops
from jaxcnn.layers import Conv, Dense, check_images, fan_in_uniform, flatten

zeros, ones = nn.initializers.zeros_init(), nn.initializers.ones_init()
gaussian = nn.initializers.normal(0.01)


class AlexNet2012(nn.Module):
    """The network of 2012: 60,965,224 parameters, 2,334,080 of them in convolutions.

    | layer | kernel          | groups | output   | behind it                      |
    |-------|-----------------|--------|----------|--------------------------------|
    | conv1 | 11x11, stride 4 | 1      | 55x55x96 | normalisation, 3x3 pool / 2    |
    | conv2 | 5x5             | 2      | 27x27x256 | normalisation, 3x3 pool / 2   |
    | conv3 | 3x3             | 1      | 13x13x384 |                               |
    | conv4 | 3x3             | 2      | 13x13x384 |                               |
    | conv5 | 3x3             | 2      | 13x13x256 | 3x3 pool / 2, to 6x6          |
    | fc6, fc7, fc8 | | | 4096, 4096, num_classes |                                |

    The groups are the paper's two GPUs. 224 pixels do not give the paper's 55 positions without
    padding; two on each side do. The dense layers fix the size of the images at ``init``.

    Attributes:
        num_classes: number of logits.
        dropout: rate behind each of the first two dense layers, in training.
        dtype: type of the arithmetic.
        remat: recomputes each convolution's stage in the backward pass instead of storing it.
    """

    num_classes: int
    dropout: float = 0.5
    dtype: DTypeLike = jnp.float32
    remat: bool = False

    @nn.compact
    def __call__(
        self, x: jax.Array, *, train: bool = False, endpoints: bool = False
    ) -> jax.Array | tuple[jax.Array, dict[str, jax.Array]]:
        """Maps ``(n, 224, 224, c)`` to ``(n, num_classes)`` logits."""
        check_images("alexnet_2012", x, 63)
        stage1, stage2, stage3 = AlexNet2012._stage1, AlexNet2012._stage2, AlexNet2012._stage3
        if self.remat:
            stage1, stage2, stage3 = nn.remat(stage1), nn.remat(stage2), nn.remat(stage3)
        ends: dict[str, jax.Array] = {}
        ends["stage1"] = x = stage1(self, x)
        ends["stage2"] = x = stage2(self, x)
        ends["stage3"] = x = stage3(self, x)
        x = flatten(x)
        dense = partial(Dense, kernel_init=gaussian, dtype=self.dtype)
        x = nn.relu(dense(4096, bias_init=ones, name="fc6")(x))
        x = nn.Dropout(self.dropout, deterministic=not train)(x)
        ends["features"] = x = nn.relu(dense(4096, bias_init=ones, name="fc7")(x))
        x = nn.Dropout(self.dropout, deterministic=not train)(x)
        logits = dense(self.num_classes, bias_init=zeros, name="fc8")(x)
        return (logits, ends) if endpoints else logits

    def _conv(self, x: jax.Array, width: int, size: int, **options: Any) -> jax.Array:
        conv = partial(Conv, width, size, kernel_init=gaussian, dtype=self.dtype)
        return nn.relu(conv(**options)(x))

    def _stage1(self, x: jax.Array) -> jax.Array:
        x = self._conv(x, 96, 11, stride=4, padding=2, name="conv1")
        x = ops.local_response_norm(x, 5, 1e-4, 0.75, 2.0, divide_alpha=False)
        return ops.max_pool(x, 3, stride=2)

    def _stage2(self, x: jax.Array) -> jax.Array:
        x = self._conv(x, 256, 5, padding=2, groups=2, bias_init=ones, name="conv2")
        x = ops.local_response_norm(x, 5, 1e-4, 0.75, 2.0, divide_alpha=False)
        return ops.max_pool(x, 3, stride=2)

    def _stage3(self, x: jax.Array) -> jax.Array:
        x = self._conv(x, 384, 3, padding=1, name="conv3")
        x = self._conv(x, 384, 3, padding=1, groups=2, bias_init=ones, name="conv4")
        x = self._conv(x, 256, 3, padding=1, groups=2, bias_init=ones, name="conv5")
        return ops.max_pool(x, 3, stride=2)


class AlexNet(nn.Module):
    """The one-tower AlexNet of 2014: no groups, no normalisation, 61,100,840 parameters.

    | layer           | kernel          | output    | behind it    |
    |-----------------|-----------------|-----------|--------------|
    | features_0      | 11x11, stride 4 | 55x55x64  | 3x3 pool / 2 |
    | features_3      | 5x5             | 27x27x192 | 3x3 pool / 2 |
    | features_6      | 3x3             | 13x13x384 |              |
    | features_8      | 3x3             | 13x13x256 |              |
    | features_10     | 3x3             | 13x13x256 | 3x3 pool / 2 |
    | average pool    |                 | 6x6x256   |              |
    | classifier_1, 4, 6 | | 4096, 4096, num_classes |             |

    Attributes:
        num_classes: number of logits.
        dropout: rate before the first two dense layers, in training.
        dtype: type of the arithmetic.
        remat: recomputes each convolution's stage in the backward pass instead of storing it.
    """

    num_classes: int
    dropout: float = 0.5
    dtype: DTypeLike = jnp.float32
    remat: bool = False

    @nn.compact
    def __call__(
        self, x: jax.Array, *, train: bool = False, endpoints: bool = False
    ) -> jax.Array | tuple[jax.Array, dict[str, jax.Array]]:
        """Maps ``(n, h, w, c)`` to ``(n, num_classes)`` logits."""
        check_images("alexnet", x, 63)
        stage1, stage2, stage3 = AlexNet._stage1, AlexNet._stage2, AlexNet._stage3
        if self.remat:
            stage1, stage2, stage3 = nn.remat(stage1), nn.remat(stage2), nn.remat(stage3)
        ends: dict[str, jax.Array] = {}
        ends["stage1"] = x = stage1(self, x)
        ends["stage2"] = x = stage2(self, x)
        ends["stage3"] = x = stage3(self, x)
        x = flatten(ops.adaptive_avg_pool(x, 6))
        x = nn.Dropout(self.dropout, deterministic=not train)(x)
        x = nn.relu(self._dense(x, 4096, "classifier_1"))
        x = nn.Dropout(self.dropout, deterministic=not train)(x)
        ends["features"] = x = nn.relu(self._dense(x, 4096, "classifier_4"))
        logits = self._dense(x, self.num_classes, "classifier_6")
        return (logits, ends) if endpoints else logits

    def _conv(self, x: jax.Array, width: int, size: int, **options: Any) -> jax.Array:
        init = fan_in_uniform(x.shape[-1] * size**2)
        conv = partial(Conv, width, size, kernel_init=init, bias_init=init, dtype=self.dtype)
        return nn.relu(conv(**options)(x))

    def _dense(self, x: jax.Array, width: int, name: str) -> jax.Array:
        init = fan_in_uniform(x.shape[-1])
        return Dense(width, kernel_init=init, bias_init=init, dtype=self.dtype, name=name)(x)

    def _stage1(self, x: jax.Array) -> jax.Array:
        x = self._conv(x, 64, 11, stride=4, padding=2, name="features_0")
        return ops.max_pool(x, 3, stride=2)

    def _stage2(self, x: jax.Array) -> jax.Array:
        x = self._conv(x, 192, 5, padding=2, name="features_3")
        return ops.max_pool(x, 3, stride=2)

    def _stage3(self, x: jax.Array) -> jax.Array:
        x = self._conv(x, 384, 3, padding=1, name="features_6")
        x = self._conv(x, 256, 3, padding=1, name="features_8")
        x = self._conv(x, 256, 3, padding=1, name="features_10")
        return ops.max_pool(x, 3, stride=2)
