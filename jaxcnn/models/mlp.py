"""The dense baseline: a network without convolutions, which sees an image as a list of numbers."""

from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from jaxcnn.layers import Dense, activation_named, check_images, flatten


class MLP(nn.Module):
    """Multilayer perceptron: flatten, then dense layers ``fc1``, ``fc2``, ...

    Attributes:
        num_classes: number of logits.
        hidden: width of each hidden layer.
        activation: function after every layer but the last, by its name in :mod:`jaxcnn.layers`.
        dropout: rate after every hidden layer, in training.
        dtype: type of the arithmetic.
    """

    num_classes: int
    hidden: Sequence[int] = (512, 256)
    activation: str = "relu"
    dropout: float = 0.0
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self, x: jax.Array, *, train: bool = False, endpoints: bool = False
    ) -> jax.Array | tuple[jax.Array, dict[str, jax.Array]]:
        """Maps ``(n, h, w, c)`` to ``(n, num_classes)`` logits."""
        check_images("mlp", x)
        activation = activation_named(self.activation)
        ends: dict[str, jax.Array] = {}
        x = flatten(x)
        for i, width in enumerate(self.hidden, start=1):
            x = activation(Dense(width, dtype=self.dtype, name=f"fc{i}")(x))
            x = nn.Dropout(self.dropout, deterministic=not train)(x)
            ends[f"stage{i}"] = x
        ends["features"] = x
        logits = Dense(self.num_classes, dtype=self.dtype, name=f"fc{len(self.hidden) + 1}")(x)
        return (logits, ends) if endpoints else logits
