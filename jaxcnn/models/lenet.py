"""LeNet-5.

LeCun, Bottou, Bengio, Haffner: Gradient-Based Learning Applied to Document Recognition, 1998,
figure 2.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from jaxcnn import ops
from jaxcnn.layers import Conv, Dense, activation_named, check_images, flatten


class LeNet5(nn.Module):
    """LeNet-5 as taught today: 61,706 parameters for 32x32x1 images and 10 classes.

    | layer | kernel | output      | parameters |
    |-------|--------|-------------|------------|
    | conv1 | 5x5    | 28x28x6     |        156 |
    | pool1 | 2x2 /2 | 14x14x6     |            |
    | conv2 | 5x5    | 10x10x16    |      2,416 |
    | pool2 | 2x2 /2 | 5x5x16      |            |
    | fc1   |        | 120         |     48,120 |
    | fc2   |        | 84          |     10,164 |
    | fc3   |        | num_classes |        850 |

    The paper's C3 connects only some pairs of maps, its subsampling layers have a learned scale
    and its output layer measures distances to fixed codes; the network that carries its name
    since has full connections, plain pooling and a softmax.

    Attributes:
        num_classes: number of logits.
        activation: function after every layer but the last, by name; the paper's is ``"tanh"``.
        pool: kind of pooling, ``"max"``, or ``"avg"``, which is closer to the paper's subsampling.
        dropout: rate before the last two dense layers, in training.
        dtype: type of the arithmetic.
    """

    num_classes: int
    activation: str = "relu"
    pool: str = "max"
    dropout: float = 0.0
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self, x: jax.Array, *, train: bool = False, endpoints: bool = False
    ) -> jax.Array | tuple[jax.Array, dict[str, jax.Array]]:
        """Maps ``(n, 32, 32, c)`` to ``(n, num_classes)`` logits."""
        if self.pool not in {"max", "avg"}:
            raise ValueError(f"pool={self.pool!r} must be 'max' or 'avg'")
        check_images("lenet5", x, 16)
        pool = ops.max_pool if self.pool == "max" else ops.avg_pool
        activation = activation_named(self.activation)
        ends: dict[str, jax.Array] = {}
        x = activation(Conv(6, 5, padding="VALID", dtype=self.dtype, name="conv1")(x))
        ends["stage1"] = x = pool(x, 2)
        x = activation(Conv(16, 5, padding="VALID", dtype=self.dtype, name="conv2")(x))
        ends["stage2"] = x = pool(x, 2)
        x = flatten(x)
        x = activation(Dense(120, dtype=self.dtype, name="fc1")(x))
        x = nn.Dropout(self.dropout, deterministic=not train)(x)
        ends["features"] = x = activation(Dense(84, dtype=self.dtype, name="fc2")(x))
        x = nn.Dropout(self.dropout, deterministic=not train)(x)
        logits = Dense(self.num_classes, dtype=self.dtype, name="fc3")(x)
        return (logits, ends) if endpoints else logits
