"""ConvNeXt: a ResNet with a vision transformer's choices.

Liu, Mao, Wu, Feichtenhofer, Darrell, Xie: A ConvNet for the 2020s, 2022, table 9.
"""

from collections.abc import Sequence
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from jaxcnn import ops
from jaxcnn.layers import Conv, Dense, DropPath, LayerNorm, check_images

narrow_normal = nn.initializers.normal(0.02)


class Block(nn.Module):
    """``x + scale * dense(gelu(dense(norm(depthwise7x7(x)))))``, four times wider inside.

    Attributes:
        layer_scale: what the learned ``scale`` of each channel starts as.
        drop_path: probability of dropping the residual branch, in training.
        dtype: type of the arithmetic.
    """

    layer_scale: float = 1e-6
    drop_path: float = 0.0
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """Maps ``(n, h, w, c)`` to the same shape."""
        dense = partial(Dense, kernel_init=narrow_normal, dtype=self.dtype)
        shortcut, c = x, x.shape[-1]
        x = Conv(
            c, 7, padding=3, groups=c, kernel_init=narrow_normal, dtype=self.dtype, name="block_0"
        )(x)
        x = LayerNorm(dtype=self.dtype, name="block_2")(x)
        x = nn.gelu(dense(4 * c, name="block_3")(x), approximate=False)
        x = dense(c, name="block_5")(x)
        scale = self.param("layer_scale", nn.initializers.constant(self.layer_scale), (c,))
        x = x * scale.astype(self.dtype).reshape(1, 1, 1, c)
        return shortcut + DropPath(self.drop_path)(x, train=train)


class ConvNeXt(nn.Module):
    """ConvNeXt: a stem of patches, four stages of blocks, average pool, dense layer.

    | layer              | output  | tiny    | small    | base      | large     |
    |--------------------|---------|---------|----------|-----------|-----------|
    | stem 4x4 /4        | 56x56   | 96      | 96       | 128       | 192       |
    | stage1             | 56x56   | 3 x 96  | 3 x 96   | 3 x 128   | 3 x 192   |
    | norm, 2x2 /2       | 28x28   |         |          |           |           |
    | stage2             | 28x28   | 3 x 192 | 3 x 192  | 3 x 256   | 3 x 384   |
    | norm, 2x2 /2       | 14x14   |         |          |           |           |
    | stage3             | 14x14   | 9 x 384 | 27 x 384 | 27 x 512  | 27 x 768  |
    | norm, 2x2 /2       | 7x7     |         |          |           |           |
    | stage4             | 7x7     | 3 x 768 | 3 x 768  | 3 x 1024  | 3 x 1536  |
    | average pool, norm, dense | num_classes |  |          |           |           |

    Attributes:
        num_classes: number of logits.
        stage_sizes: blocks in each stage.
        widths: channels of each stage.
        patch: kernel and stride of the stem; 1 or 2 for 32x32 images.
        layer_scale: initial scale of the residual branches.
        dropout: rate before the dense layer, in training.
        drop_path: rate of the last block; earlier ones rise to it linearly.
        dtype: type of the arithmetic.
        remat: recomputes each block in the backward pass instead of storing it.
    """

    num_classes: int
    stage_sizes: Sequence[int] = (3, 3, 9, 3)
    widths: Sequence[int] = (96, 192, 384, 768)
    patch: int = 4
    layer_scale: float = 1e-6
    dropout: float = 0.0
    drop_path: float = 0.1
    dtype: DTypeLike = jnp.float32
    remat: bool = False

    @nn.compact
    def __call__(
        self, x: jax.Array, *, train: bool = False, endpoints: bool = False
    ) -> jax.Array | tuple[jax.Array, dict[str, jax.Array]]:
        """Maps ``(n, h, w, c)`` to ``(n, num_classes)`` logits."""
        check_images("convnext", x, self.patch * 2 ** (len(self.widths) - 1))
        ends: dict[str, jax.Array] = {}
        block = nn.remat(Block, static_argnums=(2,)) if self.remat else Block
        conv = partial(Conv, padding=0, kernel_init=narrow_normal, dtype=self.dtype)
        norm = partial(LayerNorm, dtype=self.dtype)

        x = conv(self.widths[0], self.patch, stride=self.patch, name="features_0_0")(x)
        x = norm(name="features_0_1")(x)
        done, last = 0, max(sum(self.stage_sizes) - 1, 1)
        for stage, (size, width) in enumerate(zip(self.stage_sizes, self.widths, strict=True)):
            if stage > 0:
                x = norm(name=f"features_{2 * stage}_0")(x)
                x = conv(width, 2, stride=2, name=f"features_{2 * stage}_1")(x)
            for i in range(size):
                x = block(
                    self.layer_scale,
                    self.drop_path * done / last,
                    dtype=self.dtype,
                    name=f"features_{2 * stage + 1}_{i}",
                )(x, train)
                done += 1
            ends[f"stage{stage + 1}"] = x

        ends["features"] = x = norm(name="classifier_0")(ops.global_avg_pool(x))
        x = nn.Dropout(self.dropout, deterministic=not train)(x)
        logits = Dense(
            self.num_classes, kernel_init=narrow_normal, dtype=self.dtype, name="classifier_2"
        )(x)
        return (logits, ends) if endpoints else logits


convnext_tiny = partial(ConvNeXt, drop_path=0.1)
convnext_small = partial(ConvNeXt, stage_sizes=(3, 3, 27, 3), drop_path=0.4)
convnext_base = partial(
    ConvNeXt, stage_sizes=(3, 3, 27, 3), widths=(128, 256, 512, 1024), drop_path=0.5
)
convnext_large = partial(
    ConvNeXt, stage_sizes=(3, 3, 27, 3), widths=(192, 384, 768, 1536), drop_path=0.5
)
