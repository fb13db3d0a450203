"""The network of the CIFAR-10 speedruns, whose first layer whitens patches of the images.

Jordan: 94% on CIFAR-10 in 3.29 Seconds on a Single GPU, 2024 (arXiv 2404.00498), sections 3.1 to
3.4. Whitening patches was brought there by Page (How to Train Your ResNet, 2019).
"""

from collections.abc import Sequence
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from jaxcnn import ops
from jaxcnn.layers import BatchNorm, Conv, Dense, Initializer, check_images, fan_in_uniform

gelu = partial(nn.gelu, approximate=False)


def whitening(images: jax.Array, epsilon: float = 5e-4) -> Initializer:
    r"""Makes the initialiser of a kernel that whitens the patches of some images.

    With the eigenvectors $v_j$ and eigenvalues $\lambda_j$ of the second moments of all patches
    $p$ of the kernel's size, $\frac1n \sum p p^\top$, the filters are $v_j / \sqrt{\lambda_j +
    \epsilon}$ and their negatives. It is a function of the images alone; of black ones the filters
    are single taps.

    Args:
        images: ``(n, h, w, c)``, as the network sees them.
        epsilon: keeps directions in which the patches hardly differ from being magnified.

    Returns:
        An initialiser of kernels ``(k, k, c, 2 * k * k * c)``.
    """

    def init(key: jax.Array, shape: Sequence[int], dtype: DTypeLike = jnp.float32) -> jax.Array:
        k, (_, h, w, _) = shape[0], images.shape
        rows, columns = h - k + 1, w - k + 1
        taps = [images[:, i : i + rows, j : j + columns] for i in range(k) for j in range(k)]
        patches = jnp.concatenate(taps, axis=-1).astype(jnp.float32)
        summed = jnp.einsum("nhwi,nhwj->ij", patches, patches, precision="highest")
        values, vectors = jnp.linalg.eigh(summed / (images.shape[0] * rows * columns))
        filters = vectors / jnp.sqrt(jnp.maximum(values, 0) + epsilon)[None]
        return jnp.concatenate([filters, -filters], axis=1).reshape(shape).astype(dtype)

    return init


def identity(key: jax.Array, shape: Sequence[int], dtype: DTypeLike = jnp.float32) -> jax.Array:
    """Initialises a kernel ``(h, w, i, o)`` so that the first ``i`` outputs are the inputs.

    The other outputs are drawn as PyTorch does, uniformly in ``±1/sqrt(h * w * i)``.
    """
    h, w, i, o = shape
    drawn = fan_in_uniform(h * w * i)(key, shape, dtype)
    same = jnp.zeros((h, w, i, min(i, o)), dtype).at[h // 2, w // 2].set(jnp.eye(i, o)[:, :i])
    return jnp.concatenate([same, drawn[..., i:]], axis=-1)


class Block(nn.Module):
    """``gelu(norm(conv3x3(gelu(norm(max_pool(conv3x3(x)))))))``, whose norms learn no scale.

    Attributes:
        width: output channels.
        dtype: type of the arithmetic.
    """

    width: int
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """Maps ``(n, h, w, c)`` to ``(n, h // 2, w // 2, width)``."""
        conv = partial(Conv, self.width, 3, use_bias=False, kernel_init=identity, dtype=self.dtype)
        norm = partial(
            BatchNorm,
            momentum=0.6,
            epsilon=1e-12,
            use_scale=False,
            activation=gelu,
            dtype=self.dtype,
        )
        x = norm(name="norm1")(ops.max_pool(conv(name="conv1")(x), 2), train=train)
        return norm(name="norm2")(conv(name="conv2")(x), train=train)


class Airbench(nn.Module):
    """A layer that whitens, three blocks, and the largest of each channel.

    | layer            | output | airbench           |
    |------------------|--------|--------------------|
    | whiten, 2x2      | 31x31  | 24, of 3 channels  |
    | block1           | 15x15  | 64                 |
    | block2           | 7x7    | 256                |
    | block3           | 3x3    | 256                |
    | max pool, dense without bias, divided by 9 | 1x1 | num_classes |

    The kernel of ``whiten`` comes from the training images (:func:`whitening`), and is meant to
    stay as it is: ``optim.freeze=("whiten/kernel",)``.

    Attributes:
        num_classes: number of logits.
        widths: channels of the blocks.
        init_images: how many training images the first layer is made from.
        dtype: type of the arithmetic.
        remat: recomputes each block in the backward pass instead of storing it.
    """

    num_classes: int
    widths: tuple[int, ...] = (64, 256, 256)
    init_images: int = 5000
    dtype: DTypeLike = jnp.float32
    remat: bool = False

    @nn.compact
    def __call__(
        self, x: jax.Array, *, train: bool = False, endpoints: bool = False
    ) -> jax.Array | tuple[jax.Array, dict[str, jax.Array]]:
        """Maps ``(n, h, w, c)`` to ``(n, num_classes)`` logits."""
        if not self.widths:
            raise ValueError(f"widths={self.widths} must be positive, one for each block")
        check_images("airbench", x, 1 + 2 ** len(self.widths))
        block = nn.remat(Block, static_argnums=(2,)) if self.remat else Block
        ends: dict[str, jax.Array] = {}
        filters = 2 * 2 * 2 * x.shape[-1]
        x = gelu(
            Conv(filters, 2, padding=0, kernel_init=whitening(x), dtype=self.dtype, name="whiten")(
                x
            )
        )
        for stage, width in enumerate(self.widths, start=1):
            x = block(width, dtype=self.dtype, name=f"block{stage}")(x, train)
            ends[f"stage{stage}"] = x
        ends["features"] = x = ops.global_max_pool(x)
        head = Dense(
            self.num_classes,
            use_bias=False,
            kernel_init=fan_in_uniform(x.shape[-1]),
            dtype=self.dtype,
            name="head",
        )
        logits = head(x) / 9
        return (logits, ends) if endpoints else logits
