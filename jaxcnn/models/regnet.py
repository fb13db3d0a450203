"""RegNet X and Y: networks whose widths follow a quantised line.

Radosavovic, Prateek Kosaraju, Girshick, He, Dollár: Designing Network Design Spaces, 2020,
figures 16 and 17.
"""

from collections.abc import Sequence
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from jaxcnn import ops
from jaxcnn.layers import Conv, ConvNormAct, Dense, check_images, fan_in_uniform, he_fan_out


class Block(nn.Module):
    """1x1, 3x3 in groups, squeeze-and-excitation in Y, 1x1, added to the shortcut.

    Attributes:
        width: output channels, and those of the 3x3 convolution.
        group_width: channels of a group.
        stride: stride of the 3x3 convolution; the shortcut becomes a 1x1 convolution where shapes
            differ.
        squeeze: channels of the excitation's bottleneck as a share of the input's; 0 for none.
        dtype: type of the arithmetic.
    """

    width: int
    group_width: int
    stride: int
    squeeze: float
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """Maps ``(n, h, w, c)`` to ``(n, h / stride, w / stride, width)``."""
        unit = partial(
            ConvNormAct, self.width, names=("0", "1"), kernel_init=he_fan_out, dtype=self.dtype
        )
        shortcut = x
        groups = self.width // self.group_width
        if self.stride != 1 or x.shape[-1] != self.width:
            shortcut = unit(1, stride=self.stride, padding=0, activation=None, name="proj")(
                x, train=train
            )
        y = unit(1, padding=0, name="f_a")(x, train=train)
        y = unit(3, stride=self.stride, padding=1, groups=groups, name="f_b")(y, train=train)
        if self.squeeze:
            y = self._excite(y, round(self.squeeze * x.shape[-1]))
        y = unit(1, padding=0, activation=None, name="f_c")(y, train=train)
        return nn.relu(shortcut + y)

    def _excite(self, x: jax.Array, squeezed: int) -> jax.Array:
        """Squeeze-and-excitation whose biases start uniform, as in the reference."""
        conv = partial(Conv, kernel_size=1, kernel_init=he_fan_out, dtype=self.dtype)
        init = fan_in_uniform(x.shape[-1])
        y = conv(squeezed, bias_init=init, name="f_se_fc1")(ops.global_avg_pool(x, keepdims=True))
        init = fan_in_uniform(squeezed)
        y = conv(x.shape[-1], bias_init=init, name="f_se_fc2")(nn.relu(y))
        return x * nn.sigmoid(y)


class RegNet(nn.Module):
    """RegNet: 3x3 convolution to 32 channels at stride 2, four stages, average pool, dense.

    The first block of each stage strides.

    Attributes:
        num_classes: number of logits.
        depths: blocks in each stage.
        widths: channels of each stage.
        group_width: channels of a group; narrower stages are one group.
        squeeze: channels of the excitation's bottleneck as a share of a block's input; 0 in X.
        small_images: keeps the first convolution at stride 1, for 32x32 images.
        dropout: rate before the dense layer, in training.
        dtype: type of the arithmetic.
        remat: recomputes each block in the backward pass instead of storing it.
    """

    num_classes: int
    depths: Sequence[int]
    widths: Sequence[int]
    group_width: int
    squeeze: float = 0.0
    small_images: bool = False
    dropout: float = 0.0
    dtype: DTypeLike = jnp.float32
    remat: bool = False

    @nn.compact
    def __call__(
        self, x: jax.Array, *, train: bool = False, endpoints: bool = False
    ) -> jax.Array | tuple[jax.Array, dict[str, jax.Array]]:
        """Maps ``(n, h, w, c)`` to ``(n, num_classes)`` logits."""
        check_images("regnet", x)
        ends: dict[str, jax.Array] = {}
        block = nn.remat(Block, static_argnums=(2,)) if self.remat else Block

        x = ConvNormAct(
            32,
            3,
            stride=1 if self.small_images else 2,
            padding=1,
            names=("0", "1"),
            kernel_init=he_fan_out,
            dtype=self.dtype,
            name="stem",
        )(x, train=train)
        for stage, (depth, width) in enumerate(zip(self.depths, self.widths, strict=True), start=1):
            for i in range(depth):
                x = block(
                    width,
                    min(self.group_width, width),
                    2 if i == 0 else 1,
                    self.squeeze,
                    dtype=self.dtype,
                    name=f"trunk_output_block{stage}_block{stage}-{i}",
                )(x, train)
            ends[f"stage{stage}"] = x

        ends["features"] = x = ops.global_avg_pool(x)
        x = nn.Dropout(self.dropout, deterministic=not train)(x)
        logits = Dense(
            self.num_classes, kernel_init=nn.initializers.normal(0.01), dtype=self.dtype, name="fc"
        )(x)
        return (logits, ends) if endpoints else logits


regnet_x_400mf = partial(RegNet, depths=(1, 2, 7, 12), widths=(32, 64, 160, 400), group_width=16)
regnet_x_800mf = partial(RegNet, depths=(1, 3, 7, 5), widths=(64, 128, 288, 672), group_width=16)
regnet_x_1_6gf = partial(RegNet, depths=(2, 4, 10, 2), widths=(72, 168, 408, 912), group_width=24)
regnet_x_3_2gf = partial(RegNet, depths=(2, 6, 15, 2), widths=(96, 192, 432, 1008), group_width=48)
regnet_x_8gf = partial(RegNet, depths=(2, 5, 15, 1), widths=(80, 240, 720, 1920), group_width=120)
regnet_x_16gf = partial(RegNet, depths=(2, 6, 13, 1), widths=(256, 512, 896, 2048), group_width=128)
regnet_x_32gf = partial(
    RegNet, depths=(2, 7, 13, 1), widths=(336, 672, 1344, 2520), group_width=168
)
_y = partial(RegNet, squeeze=0.25)
regnet_y_400mf = partial(_y, depths=(1, 3, 6, 6), widths=(48, 104, 208, 440), group_width=8)
regnet_y_800mf = partial(_y, depths=(1, 3, 8, 2), widths=(64, 144, 320, 784), group_width=16)
regnet_y_1_6gf = partial(_y, depths=(2, 6, 17, 2), widths=(48, 120, 336, 888), group_width=24)
regnet_y_3_2gf = partial(_y, depths=(2, 5, 13, 1), widths=(72, 216, 576, 1512), group_width=24)
regnet_y_8gf = partial(_y, depths=(2, 4, 10, 1), widths=(224, 448, 896, 2016), group_width=56)
regnet_y_16gf = partial(_y, depths=(2, 4, 11, 1), widths=(224, 448, 1232, 3024), group_width=112)
regnet_y_32gf = partial(_y, depths=(2, 5, 12, 1), widths=(232, 696, 1392, 3712), group_width=232)
