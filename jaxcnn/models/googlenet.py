"""GoogLeNet (Inception v1): as published in 2014, and as torchvision builds it.

Szegedy, Liu, Jia, Sermanet, Reed, Anguelov, Erhan, Vanhoucke, Rabinovich: Going Deeper with
Convolutions, 2014, table 1.
"""

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from jaxcnn import ops
from jaxcnn.layers import Conv, ConvNormAct, Dense, check_images, fan_in_uniform, flatten

Endpoints = dict[str, jax.Array | tuple[jax.Array, ...]]

# Table 1: channels of 1x1, 3x3 reduce, 3x3, 5x5 reduce, 5x5, pool projection.
INCEPTION = {
    "3a": (64, 96, 128, 16, 32, 32),
    "3b": (128, 128, 192, 32, 96, 64),
    "4a": (192, 96, 208, 16, 48, 64),
    "4b": (160, 112, 224, 24, 64, 64),
    "4c": (128, 128, 256, 24, 64, 64),
    "4d": (112, 144, 288, 32, 64, 64),
    "4e": (256, 160, 320, 32, 128, 128),
    "5a": (256, 160, 320, 32, 128, 128),
    "5b": (384, 192, 384, 48, 128, 128),
}


class Inception2014(nn.Module):
    """Four branches side by side: 1x1; 1x1, 3x3; 1x1, 5x5; 3x3 max pool, 1x1.

    Attributes:
        widths: a row of :data:`INCEPTION`.
        naive: figure 2a: no 1x1 reductions and no projection behind the pool.
        dtype: type of the arithmetic.
    """

    widths: tuple[int, int, int, int, int, int]
    naive: bool = False
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps ``(n, h, w, c)`` to ``(n, h, w, sum of the branches)``."""

        def conv(x: jax.Array, width: int, size: int, name: str) -> jax.Array:
            init = nn.initializers.xavier_uniform()
            layer = Conv(
                width, size, padding=size // 2, kernel_init=init, dtype=self.dtype, name=name
            )
            return nn.relu(layer(x))

        n1, reduce3, n3, reduce5, n5, project = self.widths
        pooled = ops.max_pool(x, 3, stride=1, padding=1)
        if self.naive:
            branches = [conv(x, n1, 1, "1x1"), conv(x, n3, 3, "3x3"), conv(x, n5, 5, "5x5"), pooled]
        else:
            branches = [
                conv(x, n1, 1, "1x1"),
                conv(conv(x, reduce3, 1, "3x3_reduce"), n3, 3, "3x3"),
                conv(conv(x, reduce5, 1, "5x5_reduce"), n5, 5, "5x5"),
                conv(pooled, project, 1, "pool_proj"),
            ]
        return jnp.concatenate(branches, axis=-1)


class GoogLeNet2014(nn.Module):
    """The network of 2014: 6,998,552 parameters, 13,378,280 with both auxiliary classifiers.

    | layer            | output    |                                                   |
    |------------------|-----------|---------------------------------------------------|
    | conv1            | 112x112x64 | 7x7, stride 2; 3x3 pool / 2; normalisation       |
    | conv2            | 56x56x192 | 1x1, then 3x3; normalisation; 3x3 pool / 2        |
    | 3a, 3b           | 28x28x480 | 3x3 pool / 2 behind them                          |
    | 4a to 4e         | 14x14x832 | auxiliary classifiers on 4a and 4d; 3x3 pool / 2  |
    | 5a, 5b           | 7x7x1024  |                                                   |
    | average pool, dropout, dense | num_classes |                                     |

    An auxiliary classifier: 5x5 average pool / 3, 1x1 convolution to 128, dense layer to 1024,
    dropout, dense layer to ``num_classes``. Its dense layer fixes the size of the images at
    ``init``; without the auxiliary classifiers any size from 15x15 will do.

    Attributes:
        num_classes: number of logits.
        naive: the paper's naive module (figure 2a) in place of its Inception module.
        aux_heads: has the two auxiliary classifiers, which are computed in training only, or
            where endpoints are asked for.
        aux_weight: weight of each auxiliary loss in the total.
        dropout: rate before the dense layer, in training.
        dropout_aux: rate in the auxiliary classifiers, in training.
        dtype: type of the arithmetic.
        remat: recomputes each module in the backward pass instead of storing it.
    """

    num_classes: int
    naive: bool = False
    aux_heads: bool = True
    aux_weight: float = 0.3
    dropout: float = 0.4
    dropout_aux: float = 0.7
    dtype: DTypeLike = jnp.float32
    remat: bool = False

    @nn.compact
    def __call__(
        self, x: jax.Array, *, train: bool = False, endpoints: bool = False
    ) -> jax.Array | tuple[jax.Array, Endpoints]:
        """Maps ``(n, 224, 224, c)`` to ``(n, num_classes)`` logits."""
        with_aux = self.aux_heads and (train or endpoints or self.is_initializing())
        check_images(
            "googlenet_2014 with aux_heads" if with_aux else "googlenet_2014",
            x,
            79 if with_aux else 15,
        )
        block = nn.remat(Inception2014) if self.remat else Inception2014
        inception = {
            name: block(widths, self.naive, dtype=self.dtype, name=f"inception{name}")
            for name, widths in INCEPTION.items()
        }
        pool = partial(ops.max_pool, window=3, stride=2, ceil_mode=True)
        norm = partial(ops.local_response_norm, size=5, alpha=1e-4, beta=0.75, k=1.0)
        ends: Endpoints = {}

        x = pool(self._conv(x, 64, 7, "conv1", stride=2))
        ends["stage1"] = x = norm(x)
        x = self._conv(x, 64, 1, "conv2_reduce")
        x = norm(self._conv(x, 192, 3, "conv2"))
        ends["stage2"] = x = pool(x)
        x = inception["3a"](x)
        ends["stage3"] = x = inception["3b"](x)
        x = inception["4a"](pool(x))
        aux1 = self._classifier(x, "aux1", train) if with_aux else None
        x = inception["4b"](x)
        x = inception["4c"](x)
        x = inception["4d"](x)
        aux2 = self._classifier(x, "aux2", train) if with_aux else None
        ends["stage4"] = x = inception["4e"](x)
        x = inception["5a"](pool(x))
        ends["stage5"] = x = inception["5b"](x)

        ends["features"] = x = ops.global_avg_pool(x)
        x = nn.Dropout(self.dropout, deterministic=not train)(x)
        logits = self._dense(x, self.num_classes, "fc")
        if aux1 is not None and aux2 is not None:
            ends["aux_logits"] = (aux1, aux2)
        return (logits, ends) if endpoints else logits

    def _conv(self, x: jax.Array, width: int, size: int, name: str, stride: int = 1) -> jax.Array:
        layer = Conv(
            width,
            size,
            stride=stride,
            padding=size // 2,
            kernel_init=nn.initializers.xavier_uniform(),
            dtype=self.dtype,
            name=name,
        )
        return nn.relu(layer(x))

    def _dense(self, x: jax.Array, width: int, name: str) -> jax.Array:
        init = nn.initializers.xavier_uniform()
        return Dense(width, kernel_init=init, dtype=self.dtype, name=name)(x)

    def _classifier(self, x: jax.Array, name: str, train: bool) -> jax.Array:
        """An auxiliary classifier (section 5)."""
        x = ops.avg_pool(x, 5, stride=3)
        x = flatten(self._conv(x, 128, 1, f"{name}_conv"))
        x = nn.relu(self._dense(x, 1024, f"{name}_fc1"))
        x = nn.Dropout(self.dropout_aux, deterministic=not train)(x)
        return self._dense(x, self.num_classes, f"{name}_fc2")


conv_norm = partial(
    ConvNormAct, epsilon=1e-3, kernel_init=nn.initializers.normal(0.01), names=("conv", "bn")
)


class Inception(nn.Module):
    """Four branches side by side; the third has a 3x3 where the paper has a 5x5.

    Attributes:
        widths: a row of :data:`INCEPTION`.
        dtype: type of the arithmetic.
    """

    widths: tuple[int, int, int, int, int, int]
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """Maps ``(n, h, w, c)`` to ``(n, h, w, sum of the branches)``."""
        conv = partial(conv_norm, dtype=self.dtype)
        n1, reduce3, n3, reduce5, n5, project = self.widths
        branch1 = conv(n1, 1, name="branch1")(x, train=train)
        branch2 = conv(reduce3, 1, name="branch2_0")(x, train=train)
        branch2 = conv(n3, 3, name="branch2_1")(branch2, train=train)
        branch3 = conv(reduce5, 1, name="branch3_0")(x, train=train)
        branch3 = conv(n5, 3, name="branch3_1")(branch3, train=train)
        branch4 = ops.max_pool(x, 3, stride=1, padding=1)
        branch4 = conv(project, 1, name="branch4_1")(branch4, train=train)
        return jnp.concatenate([branch1, branch2, branch3, branch4], axis=-1)


class InceptionAux(nn.Module):
    """Auxiliary classifier: 4x4 average pool, 1x1 convolution, two dense layers."""

    num_classes: int
    dropout: float = 0.7
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """Maps ``(n, h, w, c)`` to ``(n, num_classes)``."""
        x = ops.adaptive_avg_pool(x, 4)
        x = flatten(conv_norm(128, 1, dtype=self.dtype, name="conv")(x, train=train))
        dense = partial(Dense, kernel_init=nn.initializers.normal(0.01), dtype=self.dtype)
        x = nn.relu(dense(1024, bias_init=fan_in_uniform(2048), name="fc1")(x))
        x = nn.Dropout(self.dropout, deterministic=not train)(x)
        return dense(self.num_classes, bias_init=fan_in_uniform(1024), name="fc2")(x)


class GoogLeNet(nn.Module):
    """GoogLeNet with batch normalisation, and 3x3 in place of 5x5 branches, as torchvision's.

    | layer      | output     |                                               |
    |------------|------------|-----------------------------------------------|
    | conv1      | 112x112x64 | 7x7, stride 2; 3x3 pool / 2                   |
    | conv2, 3   | 56x56x192  | 1x1, then 3x3; 3x3 pool / 2                   |
    | 3a, 3b     | 28x28x480  | 3x3 pool / 2 behind them                      |
    | 4a to 4e   | 14x14x832  | auxiliary classifiers on 4a and 4d; 2x2 pool  |
    | 5a, 5b     | 7x7x1024   |                                               |
    | average pool, dropout, dense | num_classes |                            |

    Attributes:
        num_classes: number of logits.
        aux_heads: has the two auxiliary classifiers, which are computed in training only, or
            where endpoints are asked for.
        aux_weight: weight of each auxiliary loss in the total.
        dropout: rate before the dense layer, in training.
        dropout_aux: rate in the auxiliary classifiers, in training.
        dtype: type of the arithmetic.
        remat: recomputes each module in the backward pass instead of storing it.
    """

    num_classes: int
    aux_heads: bool = True
    aux_weight: float = 0.3
    dropout: float = 0.2
    dropout_aux: float = 0.7
    dtype: DTypeLike = jnp.float32
    remat: bool = False

    @nn.compact
    def __call__(
        self, x: jax.Array, *, train: bool = False, endpoints: bool = False
    ) -> jax.Array | tuple[jax.Array, Endpoints]:
        """Maps ``(n, h, w, c)`` to ``(n, num_classes)`` logits."""
        check_images("googlenet", x, 15)
        with_aux = self.aux_heads and (train or endpoints or self.is_initializing())
        conv = partial(conv_norm, dtype=self.dtype)
        aux = partial(InceptionAux, self.num_classes, self.dropout_aux, dtype=self.dtype)
        block = nn.remat(Inception, static_argnums=(2,)) if self.remat else Inception
        inception = {
            name: block(widths, dtype=self.dtype, name=f"inception{name}")
            for name, widths in INCEPTION.items()
        }
        pool = partial(ops.max_pool, window=3, stride=2, ceil_mode=True)
        ends: Endpoints = {}

        ends["stage1"] = x = pool(conv(64, 7, stride=2, padding=3, name="conv1")(x, train=train))
        x = conv(64, 1, name="conv2")(x, train=train)
        ends["stage2"] = x = pool(conv(192, 3, name="conv3")(x, train=train))
        x = inception["3a"](x, train)
        ends["stage3"] = x = inception["3b"](x, train)
        x = inception["4a"](pool(x), train)
        aux1 = aux(name="aux1")(x, train) if with_aux else None
        x = inception["4b"](x, train)
        x = inception["4c"](x, train)
        x = inception["4d"](x, train)
        aux2 = aux(name="aux2")(x, train) if with_aux else None
        ends["stage4"] = x = inception["4e"](x, train)
        x = inception["5a"](ops.max_pool(x, 2, stride=2, ceil_mode=True), train)
        ends["stage5"] = x = inception["5b"](x, train)

        ends["features"] = x = ops.global_avg_pool(x)
        x = nn.Dropout(self.dropout, deterministic=not train)(x)
        logits = Dense(
            self.num_classes,
            kernel_init=nn.initializers.normal(0.01),
            bias_init=fan_in_uniform(1024),
            dtype=self.dtype,
            name="fc",
        )(x)
        if aux1 is not None and aux2 is not None:
            ends["aux_logits"] = (aux1, aux2)
        return (logits, ends) if endpoints else logits
