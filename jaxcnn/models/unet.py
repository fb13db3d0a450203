"""U-Net, which labels every pixel of an image.

Ronneberger, Fischer, Brox: U-Net: Convolutional Networks for Biomedical Image Segmentation, 2015,
figure 1.
"""

from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from jaxcnn import ops
from jaxcnn.layers import BatchNorm, Conv, ConvTranspose, check_images, he_fan_in

# Variance 1 / c: an output of a 2x2 kernel at stride 2 has one tap, not four, and no ReLU behind.
upconv_init = nn.initializers.variance_scaling(4.0, "fan_in", "normal")


class Level(nn.Module):
    """Two 3x3 convolutions, each with a ReLU behind it.

    Attributes:
        width: output channels.
        batch_norm: normalises after each convolution, which then has no bias.
        dtype: type of the arithmetic.
    """

    width: int
    batch_norm: bool = False
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """Maps ``(n, h, w, c)`` to ``(n, h, w, width)``."""
        for i in (1, 2):
            x = Conv(
                self.width,
                3,
                use_bias=not self.batch_norm,
                kernel_init=he_fan_in,
                dtype=self.dtype,
                name=f"conv{i}",
            )(x)
            if self.batch_norm:
                norm = BatchNorm(dtype=self.dtype, activation=nn.relu, name=f"norm{i}")
                x = norm(x, train=train)
            else:
                x = nn.relu(x)
        return x


class UpLevel(nn.Module):
    """Transposed 2x2 convolution at stride 2, the encoder's map beside it, and a :class:`Level`.

    Attributes are those of :class:`Level`.
    """

    width: int
    batch_norm: bool = False
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, skip: jax.Array, train: bool) -> jax.Array:
        """Maps ``(n, ceil(h / 2), ceil(w / 2), c)`` to the size of ``skip``, ``(n, h, w, k)``."""
        x = ConvTranspose(
            self.width, 2, stride=2, kernel_init=upconv_init, dtype=self.dtype, name="upconv"
        )(x)
        x = jnp.concatenate([skip, x[:, : skip.shape[1], : skip.shape[2]]], axis=-1)
        return Level(self.width, self.batch_norm, dtype=self.dtype, name="level")(x, train)


class UNet(nn.Module):
    """An encoder, and a decoder that sees the encoder's map of the same size at every level.

    | level | width | output  | encoder          | decoder          |
    |-------|-------|---------|------------------|------------------|
    | 1     | 64    | 512x512 | stage1           | up4, then `head` |
    | 2     | 128   | 256x256 | stage2           | up3              |
    | 3     | 256   | 128x128 | stage3           | up2              |
    | 4     | 512   | 64x64   | stage4           | up1              |
    | 5     | 1024  | 32x32   | stage5, dropout  |                  |

    A 2x2 max pool stands before each level of the encoder but the first, and `head` is a 1x1
    convolution. For grey images and two classes there are 31,030,658 parameters.

    The logits have the height and width of the image. The paper's convolutions are unpadded, and
    its map of logits is 184 pixels smaller than the image on either axis; these pad with zeros, as
    most networks have since. An image may have any size: the last window of a pool over an odd side
    holds one position alone, and the position too many that comes of it is cut off in the decoder.

    Attributes:
        num_classes: number of logits of each pixel.
        widths: channels of each level; as many levels as there are widths.
        batch_norm: normalises after each 3x3 convolution, as most networks since.
        dropout: rate behind the deepest level, in training.
        dtype: type of the arithmetic.
        remat: recomputes each level in the backward pass instead of storing it.
    """

    num_classes: int
    widths: Sequence[int] = (64, 128, 256, 512, 1024)
    batch_norm: bool = False
    dropout: float = 0.5
    dtype: DTypeLike = jnp.float32
    remat: bool = False

    @nn.compact
    def __call__(
        self, x: jax.Array, *, train: bool = False, endpoints: bool = False
    ) -> jax.Array | tuple[jax.Array, dict[str, jax.Array]]:
        """Maps ``(n, h, w, c)`` to ``(n, h, w, num_classes)`` logits."""
        if not self.widths or min(self.widths) < 1:
            raise ValueError(f"widths={tuple(self.widths)} must be positive, one for each level")
        check_images("unet", x)
        level = nn.remat(Level, static_argnums=(2,)) if self.remat else Level
        up_level = nn.remat(UpLevel, static_argnums=(3,)) if self.remat else UpLevel
        ends: dict[str, jax.Array] = {}
        skips: list[jax.Array] = []
        for i, width in enumerate(self.widths, start=1):
            if skips:
                x = ops.max_pool(x, 2, ceil_mode=True)
            x = level(width, self.batch_norm, dtype=self.dtype, name=f"stage{i}")(x, train)
            ends[f"stage{i}"] = x
            skips.append(x)
        x = nn.Dropout(self.dropout, deterministic=not train)(x)
        for i, skip in enumerate(reversed(skips[:-1]), start=1):
            width = skip.shape[-1]
            x = up_level(width, self.batch_norm, dtype=self.dtype, name=f"up{i}")(x, skip, train)
            ends[f"up{i}"] = x
        ends["features"] = x
        logits = Conv(self.num_classes, 1, kernel_init=he_fan_in, dtype=self.dtype, name="head")(x)
        return (logits, ends) if endpoints else logits
