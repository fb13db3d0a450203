"""The tutorial network: two convolutions, two pools, a dense layer."""

from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from jaxcnn import ops
from jaxcnn.layers import BatchNorm, Conv, Dense, activation_named, check_images, flatten


class ConvNet(nn.Module):
    """3x3 convolutions, each with a 2x2 pool behind it, then a dense hidden layer.

    On a 28x28x1 image the first convolution gives 28x28x32 = 25,088 activations, its pool leaves
    14x14x32 = 6,272.

    Attributes:
        num_classes: number of logits.
        widths: number of kernels of each convolution.
        convs_per_stage: convolutions before each pool.
        hidden: width of the dense layer before the last.
        batch_norm: normalises after each convolution.
        activation: function after every layer but the last, by its name in :mod:`jaxcnn.layers`.
        dropout: rate before the dense layers, in training.
        dtype: type of the arithmetic.
    """

    num_classes: int
    widths: Sequence[int] = (32, 64)
    convs_per_stage: int = 1
    hidden: int = 128
    batch_norm: bool = False
    activation: str = "relu"
    dropout: float = 0.0
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self, x: jax.Array, *, train: bool = False, endpoints: bool = False
    ) -> jax.Array | tuple[jax.Array, dict[str, jax.Array]]:
        """Maps ``(n, h, w, c)`` to ``(n, num_classes)`` logits."""
        if not self.widths or min(self.widths) < 1:
            raise ValueError(f"widths={tuple(self.widths)} must be positive, one for each stage")
        if self.convs_per_stage < 1:
            raise ValueError(f"convs_per_stage={self.convs_per_stage} must be at least 1")
        check_images(f"convnet with {len(self.widths)} pools", x, 2 ** len(self.widths))
        activation = activation_named(self.activation)
        ends: dict[str, jax.Array] = {}
        for stage, width in enumerate(self.widths, start=1):
            for i in range(1, self.convs_per_stage + 1):
                name = f"{stage}" if self.convs_per_stage == 1 else f"{stage}_{i}"
                x = Conv(
                    width, 3, use_bias=not self.batch_norm, dtype=self.dtype, name=f"conv{name}"
                )(x)
                if self.batch_norm:
                    x = BatchNorm(dtype=self.dtype, name=f"norm{name}")(x, train=train)
                x = activation(x)
            ends[f"stage{stage}"] = x = ops.max_pool(x, 2)
        x = flatten(x)
        x = nn.Dropout(self.dropout, deterministic=not train)(x)
        ends["features"] = x = activation(Dense(self.hidden, dtype=self.dtype, name="fc1")(x))
        x = nn.Dropout(self.dropout, deterministic=not train)(x)
        logits = Dense(self.num_classes, dtype=self.dtype, name="fc2")(x)
        return (logits, ends) if endpoints else logits
