"""Pure steps and the compiled programs made of them."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from jax import lax

from jaxcnn.train import metrics
from jaxcnn.train.loss import cross_entropy
from jaxcnn.train.state import TrainState, stream

Batch = dict[str, jax.Array]
"""``image`` (n, h, w, c) as the network takes it, ``label`` (n,), in evaluation ``mask`` (n,); in
training, where images are mixed, ``target`` (n, classes): the probabilities to learn."""


def make_train_step(
    model: nn.Module, tx: optax.GradientTransformation, *, label_smoothing: float = 0.0
) -> Callable[[TrainState, Batch], TrainState]:
    """Makes ``step(state, batch) -> state``: forward, backward, update, metrics.

    The loss is the mean cross-entropy against ``target`` or else ``label``; where the network has
    auxiliary heads (``endpoints["aux_logits"]``), theirs is added, times the network's
    ``aux_weight``.
    """

    def train_step(state: TrainState, batch: Batch) -> TrainState:
        dropout = jax.random.fold_in(stream(state.seed, "dropout"), state.step)
        target = batch.get("target", batch["label"])

        def loss_of(params: Any) -> tuple[jax.Array, tuple[jax.Array, jax.Array, Any]]:
            (logits, ends), model_state = model.apply(
                {"params": params, **state.model_state},
                batch["image"],
                train=True,
                endpoints=True,
                mutable=list(state.model_state),
                rngs={"dropout": dropout},
            )
            losses = cross_entropy(logits, target, label_smoothing)
            total = losses
            for aux in jax.tree.leaves(ends.get("aux_logits", ())):
                aux_losses = cross_entropy(aux, target, label_smoothing)
                total = total + model.aux_weight * aux_losses
            return total.mean(), (logits, losses, model_state)

        (loss, (logits, losses, model_state)), grads = jax.value_and_grad(loss_of, has_aux=True)(
            state.params
        )
        updates, opt_state = tx.update(grads, state.opt_state, state.params)
        sums = {
            "count": state.sums["count"] + jnp.int32(losses.size),
            "loss": state.sums["loss"] + losses.sum(),
            "top1": state.sums["top1"]
            + (metrics.rank_of_label(logits, batch["label"]) < 1).sum(dtype=jnp.int32),
            "bad_step": jnp.where(
                (state.sums["bad_step"] < 0) & ~jnp.isfinite(loss),
                state.step,
                state.sums["bad_step"],
            ),
        }
        return replace(
            state,
            step=state.step + 1,
            params=optax.apply_updates(state.params, updates),
            model_state=model_state,
            opt_state=opt_state,
            sums=sums,
        )

    return train_step


def make_train_chunk(
    train_step: Callable[[TrainState, Batch], TrainState],
    order_of: Callable[[jax.Array, jax.Array], jax.Array],
    batch_of: Callable[[Any, jax.Array, jax.Array, jax.Array], Batch],
) -> Callable[[TrainState, Any, jax.Array], TrainState]:
    """Makes ``chunk(state, arrays, end) -> state``: all steps up to ``end``, in one program.

    The number of steps is traced, so one compilation serves every length, and the bits do not
    depend on where a run is cut into chunks. A chunk must not cross the end of an epoch, since
    the order of the examples is drawn once for all its steps.

    Args:
        train_step: from :func:`make_train_step`.
        order_of: ``(seed, step) -> order`` of the epoch's examples.
        batch_of: ``(arrays, seed, order, step) -> batch``, prepared for the network.
    """

    def chunk(state: TrainState, arrays: Any, end: jax.Array) -> TrainState:
        order = order_of(state.seed, state.step)

        def body(_: jax.Array, state: TrainState) -> TrainState:
            return train_step(state, batch_of(arrays, state.seed, order, state.step))

        return lax.fori_loop(state.step, end, body, state)

    return chunk


def make_eval_step(model: nn.Module) -> Callable[[TrainState, Batch], metrics.Sums]:
    """Makes ``step(state, batch) -> sums`` over the examples whose mask is True.

    Where ``image`` is ``(views, n, h, w, c)``, the probabilities of the classes are the mean of
    those of the views.
    """

    def eval_step(state: TrainState, batch: Batch) -> metrics.Sums:
        variables = {"params": state.params, **state.model_state}

        def logits_of(images: jax.Array) -> Any:
            return model.apply(variables, images, train=False)

        if batch["image"].ndim == 4:
            logits = logits_of(batch["image"])
        else:
            log_p = jax.nn.log_softmax(lax.map(logits_of, batch["image"]).astype(jnp.float32))
            logits = jax.nn.logsumexp(log_p, axis=0) - jnp.log(len(log_p))
        losses = cross_entropy(logits, batch["label"])
        return metrics.classification_sums(logits, batch["label"], losses, batch["mask"])

    return eval_step


def make_evaluate(
    eval_step: Callable[[TrainState, Batch], metrics.Sums],
    prepare: Callable[[jax.Array], jax.Array],
) -> Callable[[TrainState, Batch], metrics.Sums]:
    """Makes ``evaluate(state, batches) -> sums``: a whole split, each example once, in one program.

    Args:
        eval_step: from :func:`make_eval_step`.
        prepare: stored images to network input.
    """

    def evaluate(state: TrainState, batches: Batch) -> metrics.Sums:
        def one(batch: Batch) -> metrics.Sums:
            return eval_step(state, {**batch, "image": prepare(batch["image"])})

        shapes = jax.eval_shape(one, jax.tree.map(lambda a: a[0], batches))
        zero = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)
        sums, _ = lax.scan(lambda sums, batch: (metrics.add(sums, one(batch)), None), zero, batches)
        return sums

    return evaluate
