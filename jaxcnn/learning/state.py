"""Everything that training changes, as one plain pytree."""

import hashlib
from dataclasses import dataclass
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from optax import contrib

from jaxcnn.learning.loss_scale import LossScale, init_loss_scale
from jaxcnn.tasks import BaseTask, Classification


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class TrainState:
    """State between two steps; restoring it restores the run, bit for bit.

    Attributes:
        step: the number of steps done, int32.
        seed: the seed of the run, int32; every random stream is folded from it and the step.
        params: learned arrays, float32.
        model_state: other variable collections, such as ``batch_stats``.
        opt_state: Optax's state.
        sums: metrics summed since the last evaluation; ``bad_step`` is the first step whose loss
            or gradient was not finite, -1 while there is none.
        ema: the moving average of params and model_state, as one dict of collections; None where
            no average is kept.
        swa: the mean of the params that are averaged, beside the model_state of the newest step or,
            where the state was evaluated or saved, statistics of their own; else None.
        loss_scale: the factor of the loss where gradients are computed in float16; else None.
    """

    step: jax.Array
    seed: jax.Array
    params: Any
    model_state: Any
    opt_state: Any
    sums: dict[str, jax.Array]
    ema: Any = None
    swa: Any = None
    loss_scale: LossScale | None = None


def zero_sums(task: BaseTask | None = None) -> dict[str, jax.Array]:
    """Returns the metrics of no steps: of the task, by default classification, and of each step."""
    own = (task or Classification()).zero_sums()
    return {**own, "grad_norm": jnp.float32(0), "bad_step": jnp.int32(-1)}


def stream(seed: jax.Array, name: str) -> jax.Array:
    """Returns the key of one of the run's independent random streams.

    >>> bool((stream(1, "init") == stream(1, "dropout")).all())
    False
    """
    streams = ("init", "order", "augment", "dropout", "flip")
    return jax.random.fold_in(jax.random.key(seed), streams.index(name))


def init_state(
    model: nn.Module,
    tx: optax.GradientTransformation,
    seed: jax.Array,
    image_shape: tuple[int, int, int],
    *,
    ema: bool = False,
    swa: bool = False,
    scaled: bool = False,
    task: BaseTask | None = None,
    images: jax.Array | None = None,
) -> TrainState:
    """Returns the state before the first step, a pure function of the seed and perhaps of images.

    Args:
        model: the network, called on ``(n, h, w, c)`` images.
        tx: the optimizer.
        seed: an int32 scalar.
        image_shape: height, width and channels that the network sees.
        ema: whether the state keeps a moving average.
        swa: whether it keeps the mean of some parameters.
        scaled: whether it keeps a scale of the loss.
        task: what is learned; by default classification.
        images: those that the initialisation sees; by default a single black one.
    """
    if images is None:
        images = jnp.zeros((1, *image_shape), jnp.float32)
    variables = model.init(stream(seed, "init"), images, train=False)
    return state_from(variables, tx, seed, ema=ema, swa=swa, scaled=scaled, task=task)


def state_from(
    variables: Any,
    tx: optax.GradientTransformation,
    seed: jax.Array,
    *,
    ema: bool = False,
    swa: bool = False,
    scaled: bool = False,
    task: BaseTask | None = None,
) -> TrainState:
    """Returns the state before the first step from given variables."""
    params = variables["params"]
    return TrainState(
        step=jnp.int32(0),
        seed=jnp.asarray(seed, jnp.int32),
        params=params,
        model_state={k: v for k, v in variables.items() if k != "params"},
        opt_state=tx.init(params),
        sums=zero_sums(task),
        ema=jax.tree.map(jnp.copy, dict(variables)) if ema else None,
        swa=jax.tree.map(jnp.copy, dict(variables)) if swa else None,
        loss_scale=init_loss_scale() if scaled else None,
    )


def variables_of(state: TrainState) -> dict[str, Any]:
    """Returns parameters and other collections as ``model.apply`` takes them in training."""
    return {"params": state.params, **state.model_state}


def eval_variables(state: TrainState) -> dict[str, Any]:
    """Returns the variables that evaluation and prediction run the network with.

    They are the average where there is one: the moving average of parameters and batch statistics,
    or the mean of parameters beside the statistics that were computed for it; with
    a schedule-free optimizer its averaged parameters, beside the batch statistics of the parameters
    at which it takes gradients; else parameters and statistics as they are.
    """
    for average in (state.ema, state.swa):
        if average is not None:
            return dict(average)

    def is_free(node: Any) -> bool:
        return isinstance(node, contrib.ScheduleFreeState)

    def is_masked(node: Any) -> bool:
        return isinstance(node, optax.MaskedNode)

    params = state.params
    for found in filter(is_free, jax.tree.leaves(state.opt_state, is_leaf=is_free)):
        # Frozen parameters have no z: they are their own average.
        params = jax.tree.map(
            lambda z, y, b1=found.b1: y if is_masked(z) else (y - (1 - b1) * z) / b1,
            found.z,
            params,
            is_leaf=is_masked,
        )
    return {"params": params, **state.model_state}


@jax.jit
def snapshot(state: TrainState) -> tuple[TrainState, Any]:
    """Copies a state, which then may be consumed, and tells of each array whether it is finite."""
    return jax.tree.map(jnp.copy, state), jax.tree.map(lambda a: jnp.isfinite(a).all(), state)


def not_finite(found: Any) -> str | None:
    """Names the first array that is not finite throughout; None if all are finite.

    Args:
        found: what :func:`snapshot` tells of each array.
    """
    for path, finite in jax.tree_util.tree_leaves_with_path(jax.device_get(found)):
        if not finite:
            return jax.tree_util.keystr(path)
    return None


def sha256(tree: Any) -> str:
    """Returns the digest of names, types, shapes and bytes of all arrays in a pytree."""
    digest = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        array = np.asarray(leaf)
        head = f"{jax.tree_util.keystr(path)} {array.dtype} {array.shape}\n"
        digest.update(head.encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()
