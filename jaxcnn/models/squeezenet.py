"""SqueezeNet 1.0 and 1.1.

Iandola, Han, Moskewicz, Ashraf, Dally, Keutzer: SqueezeNet: AlexNet-level accuracy with 50x fewer
parameters and <0.5MB model size, 2016, table 1.
"""

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from jaxcnn import ops
from jaxcnn.layers import Conv, check_images

he_uniform = nn.initializers.variance_scaling(2.0, "fan_in", "uniform")


class Fire(nn.Module):
    """A 1x1 convolution squeezes the channels; 1x1 and 3x3 side by side expand them.

    Attributes:
        squeezed: channels between.
        expanded: channels of each of the two expanding convolutions.
        dtype: type of the arithmetic.
    """

    squeezed: int
    expanded: int
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps ``(n, h, w, c)`` to ``(n, h, w, 2 * expanded)``."""
        conv = partial(Conv, kernel_init=he_uniform, dtype=self.dtype)
        x = nn.relu(conv(self.squeezed, 1, padding=0, name="squeeze")(x))
        left = nn.relu(conv(self.expanded, 1, padding=0, name="expand1x1")(x))
        right = nn.relu(conv(self.expanded, 3, padding=1, name="expand3x3")(x))
        return jnp.concatenate([left, right], axis=-1)


class SqueezeNet(nn.Module):
    """A convolution, eight Fire modules in three stages, and a 1x1 convolution to the classes.

    | layer      | 1.0                         | 1.1                         |
    |------------|-----------------------------|-----------------------------|
    | features_0 | 7x7, 96, stride 2           | 3x3, 64, stride 2           |
    |            | 3x3 pool / 2                | 3x3 pool / 2                |
    | Fire 2 to 4 | 128, 128, 256; pool        | 128, 128; pool              |
    | Fire 5 to 8 | 256, 384, 384, 512; pool   | (from 4) 256, 256; pool     |
    | Fire 9     | 512                         | (from 6) 384, 384, 512, 512 |
    | classifier_1 | 1x1, num_classes, ReLU, global average pool            ||

    Attributes:
        num_classes: number of logits.
        version: ``"1_0"``, or ``"1_1"`` with less than half the arithmetic.
        dropout: rate before the last convolution, in training.
        dtype: type of the arithmetic.
        remat: recomputes each Fire module in the backward pass instead of storing it.
    """

    num_classes: int
    version: str = "1_0"
    dropout: float = 0.5
    dtype: DTypeLike = jnp.float32
    remat: bool = False

    @nn.compact
    def __call__(
        self, x: jax.Array, *, train: bool = False, endpoints: bool = False
    ) -> jax.Array | tuple[jax.Array, dict[str, jax.Array]]:
        """Maps ``(n, h, w, c)`` to ``(n, num_classes)`` logits."""
        if self.version not in {"1_0", "1_1"}:
            raise ValueError(f"version={self.version!r} must be '1_0' or '1_1'")
        check_images(f"squeezenet{self.version}", x, 21 if self.version == "1_0" else 17)
        fire_module = nn.remat(Fire) if self.remat else Fire

        def fire(index: int, squeezed: int, expanded: int) -> nn.Module:
            return fire_module(squeezed, expanded, dtype=self.dtype, name=f"features_{index}")

        conv = partial(Conv, dtype=self.dtype)
        pool = partial(ops.max_pool, window=3, stride=2, ceil_mode=True)
        ends: dict[str, jax.Array] = {}
        if self.version == "1_0":
            x = conv(96, 7, stride=2, padding=0, kernel_init=he_uniform, name="features_0")(x)
            ends["stage1"] = x = pool(nn.relu(x))
            x = fire(3, 16, 64)(x)
            x = fire(4, 16, 64)(x)
            x = fire(5, 32, 128)(x)
            ends["stage2"] = x = pool(x)
            x = fire(7, 32, 128)(x)
            x = fire(8, 48, 192)(x)
            x = fire(9, 48, 192)(x)
            x = fire(10, 64, 256)(x)
            ends["stage3"] = x = pool(x)
            ends["stage4"] = x = fire(12, 64, 256)(x)
        else:
            x = conv(64, 3, stride=2, padding=0, kernel_init=he_uniform, name="features_0")(x)
            ends["stage1"] = x = pool(nn.relu(x))
            x = fire(3, 16, 64)(x)
            x = fire(4, 16, 64)(x)
            ends["stage2"] = x = pool(x)
            x = fire(6, 32, 128)(x)
            x = fire(7, 32, 128)(x)
            ends["stage3"] = x = pool(x)
            x = fire(9, 48, 192)(x)
            x = fire(10, 48, 192)(x)
            x = fire(11, 64, 256)(x)
            ends["stage4"] = x = fire(12, 64, 256)(x)

        ends["features"] = ops.global_avg_pool(x)
        x = nn.Dropout(self.dropout, deterministic=not train)(x)
        last = nn.initializers.normal(0.01)
        x = conv(self.num_classes, 1, padding=0, kernel_init=last, name="classifier_1")(x)
        logits = ops.global_avg_pool(nn.relu(x))
        return (logits, ends) if endpoints else logits


squeezenet1_0 = partial(SqueezeNet, version="1_0")
squeezenet1_1 = partial(SqueezeNet, version="1_1")
