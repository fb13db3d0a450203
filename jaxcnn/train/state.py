"""Everything that training changes, as one plain pytree."""

import hashlib
from dataclasses import dataclass
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class TrainState:
    """State between two steps; restoring it restores the run, bit for bit.

    Attributes:
        step: steps done, int32.
        seed: of every random stream of the run, int32; the streams are folded from it and step.
        params: learned arrays, float32.
        model_state: other variable collections, such as ``batch_stats``.
        opt_state: Optax's state.
        sums: metrics summed since the last report; ``bad_step`` is the first step of a loss
            that was not finite, -1 while there is none.
    """

    step: jax.Array
    seed: jax.Array
    params: Any
    model_state: Any
    opt_state: Any
    sums: dict[str, jax.Array]


def zero_sums() -> dict[str, jax.Array]:
    """Metrics of no steps."""
    return {
        "count": jnp.int32(0),
        "loss": jnp.float32(0),
        "top1": jnp.int32(0),
        "bad_step": jnp.int32(-1),
    }


def stream(seed: jax.Array, name: str) -> jax.Array:
    """Key of one of the run's independent random streams.

    >>> bool((stream(1, "init") == stream(1, "dropout")).all())
    False
    """
    streams = ("init", "order", "augment", "dropout")
    return jax.random.fold_in(jax.random.key(seed), streams.index(name))


def init_state(
    model: nn.Module,
    tx: optax.GradientTransformation,
    seed: jax.Array,
    image_shape: tuple[int, int, int],
) -> TrainState:
    """State before the first step; a pure function of the seed.

    Args:
        model: called on ``(n, h, w, c)`` images.
        tx: optimizer.
        seed: int32 scalar.
        image_shape: height, width and channels that the network sees.
    """
    images = jnp.zeros((1, *image_shape), jnp.float32)
    variables = model.init(stream(seed, "init"), images, train=False)
    params = variables["params"]
    return TrainState(
        step=jnp.int32(0),
        seed=jnp.asarray(seed, jnp.int32),
        params=params,
        model_state={k: v for k, v in variables.items() if k != "params"},
        opt_state=tx.init(params),
        sums=zero_sums(),
    )


def sha256(tree: Any) -> str:
    """Digest of names, types, shapes and bytes of all arrays in a pytree."""
    digest = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        array = np.asarray(leaf)
        head = f"{jax.tree_util.keystr(path)} {array.dtype} {array.shape}\n"
        digest.update(head.encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()
