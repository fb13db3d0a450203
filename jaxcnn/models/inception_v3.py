"""Inception v3.

Szegedy, Vanhoucke, Ioffe, Shlens, Wojna: Rethinking the Inception Architecture for Computer
Vision, 2015, table 1.
"""

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from jaxcnn import ops
from jaxcnn.layers import ConvNormAct, Dense, check_images, fan_in_uniform

Endpoints = dict[str, jax.Array | tuple[jax.Array, ...]]

conv_norm = partial(
    ConvNormAct, epsilon=1e-3, kernel_init=nn.initializers.normal(0.1), names=("conv", "bn")
)


class InceptionA(nn.Module):
    """Figure 5: 1x1; 5x5; two 3x3; 3x3 average pool. 35x35 positions."""

    pool_features: int
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """Maps ``(n, h, w, c)`` to ``(n, h, w, 224 + pool_features)``."""
        conv = partial(conv_norm, dtype=self.dtype)
        a = conv(64, 1, name="branch1x1")(x, train=train)
        b = conv(48, 1, name="branch5x5_1")(x, train=train)
        b = conv(64, 5, name="branch5x5_2")(b, train=train)
        c = conv(64, 1, name="branch3x3dbl_1")(x, train=train)
        c = conv(96, 3, name="branch3x3dbl_2")(c, train=train)
        c = conv(96, 3, name="branch3x3dbl_3")(c, train=train)
        d = ops.avg_pool(x, 3, stride=1, padding=1)
        d = conv(self.pool_features, 1, name="branch_pool")(d, train=train)
        return jnp.concatenate([a, b, c, d], axis=-1)


class InceptionB(nn.Module):
    """Figure 10: from 35x35 to 17x17 positions by 3x3; two 3x3; max pool, all of stride 2."""

    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """Maps ``(n, h, w, c)`` to ``(n, (h - 1) / 2, (w - 1) / 2, c + 480)``."""
        conv = partial(conv_norm, dtype=self.dtype)
        a = conv(384, 3, stride=2, padding="VALID", name="branch3x3")(x, train=train)
        b = conv(64, 1, name="branch3x3dbl_1")(x, train=train)
        b = conv(96, 3, name="branch3x3dbl_2")(b, train=train)
        b = conv(96, 3, stride=2, padding="VALID", name="branch3x3dbl_3")(b, train=train)
        c = ops.max_pool(x, 3, stride=2)
        return jnp.concatenate([a, b, c], axis=-1)


class InceptionC(nn.Module):
    """Figure 6: 1x1; 1x7, 7x1; 7x1, 1x7 twice; 3x3 average pool. 17x17 positions."""

    inner: int
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """Maps ``(n, h, w, c)`` to ``(n, h, w, 768)``."""
        conv = partial(conv_norm, dtype=self.dtype)
        a = conv(192, 1, name="branch1x1")(x, train=train)
        b = conv(self.inner, 1, name="branch7x7_1")(x, train=train)
        b = conv(self.inner, (1, 7), name="branch7x7_2")(b, train=train)
        b = conv(192, (7, 1), name="branch7x7_3")(b, train=train)
        c = conv(self.inner, 1, name="branch7x7dbl_1")(x, train=train)
        c = conv(self.inner, (7, 1), name="branch7x7dbl_2")(c, train=train)
        c = conv(self.inner, (1, 7), name="branch7x7dbl_3")(c, train=train)
        c = conv(self.inner, (7, 1), name="branch7x7dbl_4")(c, train=train)
        c = conv(192, (1, 7), name="branch7x7dbl_5")(c, train=train)
        d = ops.avg_pool(x, 3, stride=1, padding=1)
        d = conv(192, 1, name="branch_pool")(d, train=train)
        return jnp.concatenate([a, b, c, d], axis=-1)


class InceptionD(nn.Module):
    """From 17x17 to 8x8 positions by 3x3; 1x7, 7x1, 3x3; max pool, each with stride 2."""

    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """Maps ``(n, h, w, c)`` to ``(n, (h - 1) / 2, (w - 1) / 2, c + 512)``."""
        conv = partial(conv_norm, dtype=self.dtype)
        a = conv(192, 1, name="branch3x3_1")(x, train=train)
        a = conv(320, 3, stride=2, padding="VALID", name="branch3x3_2")(a, train=train)
        b = conv(192, 1, name="branch7x7x3_1")(x, train=train)
        b = conv(192, (1, 7), name="branch7x7x3_2")(b, train=train)
        b = conv(192, (7, 1), name="branch7x7x3_3")(b, train=train)
        b = conv(192, 3, stride=2, padding="VALID", name="branch7x7x3_4")(b, train=train)
        c = ops.max_pool(x, 3, stride=2)
        return jnp.concatenate([a, b, c], axis=-1)


class InceptionE(nn.Module):
    """Figure 7: branches that end in 1x3 and 3x1 side by side. 8x8 positions."""

    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """Maps ``(n, h, w, c)`` to ``(n, h, w, 2048)``."""
        conv = partial(conv_norm, dtype=self.dtype)
        a = conv(320, 1, name="branch1x1")(x, train=train)
        b = conv(384, 1, name="branch3x3_1")(x, train=train)
        b1 = conv(384, (1, 3), name="branch3x3_2a")(b, train=train)
        b2 = conv(384, (3, 1), name="branch3x3_2b")(b, train=train)
        c = conv(448, 1, name="branch3x3dbl_1")(x, train=train)
        c = conv(384, 3, name="branch3x3dbl_2")(c, train=train)
        c1 = conv(384, (1, 3), name="branch3x3dbl_3a")(c, train=train)
        c2 = conv(384, (3, 1), name="branch3x3dbl_3b")(c, train=train)
        d = ops.avg_pool(x, 3, stride=1, padding=1)
        d = conv(192, 1, name="branch_pool")(d, train=train)
        return jnp.concatenate([a, b1, b2, c1, c2, d], axis=-1)


class InceptionAux(nn.Module):
    """Figure 8: 5x5 average pool / 3, 1x1 to 128, 5x5 to 768, average pool, dense layer."""

    num_classes: int
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """Maps ``(n, h, w, c)``, sides of at least 17, to ``(n, num_classes)``."""
        x = ops.avg_pool(x, 5, stride=3)
        conv = partial(conv_norm, dtype=self.dtype)
        x = conv(128, 1, name="conv0")(x, train=train)
        narrow = nn.initializers.normal(0.01)
        x = conv(768, 5, padding="VALID", kernel_init=narrow, name="conv1")(x, train=train)
        return Dense(
            self.num_classes,
            kernel_init=nn.initializers.normal(0.001),
            bias_init=fan_in_uniform(768),
            dtype=self.dtype,
            name="fc",
        )(ops.global_avg_pool(x))


class InceptionV3(nn.Module):
    """Inception v3: 27,161,264 parameters with the auxiliary head, 23,834,568 without.

    | layer                           | output      |
    |---------------------------------|-------------|
    | Conv2d_1a_3x3, stride 2         | 149x149x32  |
    | Conv2d_2a_3x3, 2b_3x3           | 147x147x64  |
    | 3x3 max pool / 2                | 73x73x64    |
    | Conv2d_3b_1x1, 4a_3x3           | 71x71x192   |
    | 3x3 max pool / 2                | 35x35x192   |
    | Mixed_5b, 5c, 5d                | 35x35x288   |
    | Mixed_6a                        | 17x17x768   |
    | Mixed_6b, 6c, 6d, 6e            | 17x17x768   |
    | Mixed_7a                        | 8x8x1280    |
    | Mixed_7b, 7c                    | 8x8x2048    |
    | average pool, dropout, dense    | num_classes |

    Takes images of at least 75x75. The auxiliary head, on Mixed_6e, needs 299x299: training with
    it does, and on smaller images ``endpoints`` hold no ``aux_logits``.

    Attributes:
        num_classes: number of logits.
        aux_heads: has the auxiliary head, which is computed in training only, or where endpoints
            are asked for.
        aux_weight: weight of the auxiliary loss in the total.
        dropout: rate before the dense layer, in training.
        dtype: type of the arithmetic.
        remat: recomputes each module in the backward pass instead of storing it.
    """

    num_classes: int
    aux_heads: bool = True
    aux_weight: float = 0.4
    dropout: float = 0.5
    dtype: DTypeLike = jnp.float32
    remat: bool = False

    @nn.compact
    def __call__(
        self, x: jax.Array, *, train: bool = False, endpoints: bool = False
    ) -> jax.Array | tuple[jax.Array, Endpoints]:
        """Maps ``(n, h, w, c)`` to ``(n, num_classes)`` logits."""
        check_images("inception_v3", x, 75)
        if self.aux_heads and train and not self.is_initializing():
            check_images("inception_v3 with aux_heads, in training,", x, 299)
        conv = partial(conv_norm, dtype=self.dtype)
        ends: Endpoints = {}

        x = conv(32, 3, stride=2, padding="VALID", name="Conv2d_1a_3x3")(x, train=train)
        x = conv(32, 3, padding="VALID", name="Conv2d_2a_3x3")(x, train=train)
        x = conv(64, 3, name="Conv2d_2b_3x3")(x, train=train)
        ends["stage1"] = x = ops.max_pool(x, 3, stride=2)
        x = conv(80, 1, name="Conv2d_3b_1x1")(x, train=train)
        x = conv(192, 3, padding="VALID", name="Conv2d_4a_3x3")(x, train=train)
        ends["stage2"] = x = ops.max_pool(x, 3, stride=2)
        x = self._block(InceptionA)(32, dtype=self.dtype, name="Mixed_5b")(x, train)
        x = self._block(InceptionA)(64, dtype=self.dtype, name="Mixed_5c")(x, train)
        x = self._block(InceptionA)(64, dtype=self.dtype, name="Mixed_5d")(x, train)
        ends["stage3"] = x
        x = self._block(InceptionB)(dtype=self.dtype, name="Mixed_6a")(x, train)
        x = self._block(InceptionC)(128, dtype=self.dtype, name="Mixed_6b")(x, train)
        x = self._block(InceptionC)(160, dtype=self.dtype, name="Mixed_6c")(x, train)
        x = self._block(InceptionC)(160, dtype=self.dtype, name="Mixed_6d")(x, train)
        x = self._block(InceptionC)(192, dtype=self.dtype, name="Mixed_6e")(x, train)
        ends["stage4"] = x
        aux = self._auxiliary(x, train, endpoints) if self.aux_heads else None
        x = self._block(InceptionD)(dtype=self.dtype, name="Mixed_7a")(x, train)
        x = self._block(InceptionE)(dtype=self.dtype, name="Mixed_7b")(x, train)
        ends["stage5"] = x = self._block(InceptionE)(dtype=self.dtype, name="Mixed_7c")(x, train)

        ends["features"] = x = ops.global_avg_pool(x)
        x = nn.Dropout(self.dropout, deterministic=not train)(x)
        logits = Dense(
            self.num_classes,
            kernel_init=nn.initializers.normal(0.1),
            bias_init=fan_in_uniform(2048),
            dtype=self.dtype,
            name="fc",
        )(x)
        if aux is not None:
            ends["aux_logits"] = (aux,)
        return (logits, ends) if endpoints else logits

    def _block(self, block: type[nn.Module]) -> type[nn.Module]:
        return nn.remat(block, static_argnums=(2,)) if self.remat else block

    def _auxiliary(self, x: jax.Array, train: bool, endpoints: bool) -> jax.Array | None:
        """The auxiliary logits, where they are wanted and the map is large enough."""
        fits = min(x.shape[1:3]) >= 17
        if not (self.is_initializing() or (fits and (train or endpoints))):
            return None
        head = InceptionAux(self.num_classes, dtype=self.dtype, name="AuxLogits")
        # Its parameters depend on the channels alone; any image size can create them.
        logits = head(x if fits else jnp.zeros((1, 17, 17, x.shape[-1]), x.dtype), train)
        return logits if fits else None
