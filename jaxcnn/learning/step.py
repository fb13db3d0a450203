"""Makes pure steps of training and evaluation, and the programs that are compiled of them."""

import math
from collections.abc import Callable, Container, Sequence
from dataclasses import replace
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax

from jaxcnn.config import Optim, Train
from jaxcnn.layers import random_streams
from jaxcnn.learning.averages import Averaging
from jaxcnn.learning.loss_scale import LEAST, chosen
from jaxcnn.learning.optim import path_name
from jaxcnn.learning.state import TrainState, eval_variables, stream
from jaxcnn.tasks import BaseTask, Classification
from jaxcnn.tasks.classification import tempered
from jaxcnn.tasks.interface import Sums
from jaxcnn.tasks.sums import add

Batch = dict[str, jax.Array]
"""A batch as the network takes it: see :data:`jaxcnn.tasks.Batch`. In training also, where another
network teaches, ``teacher`` (n, classes), its outputs."""


def make_train_step(
    model: nn.Module,
    tx: optax.GradientTransformation,
    train: Train | None = None,
    optim: Optim | None = None,
    frozen: Container[str] = frozenset(),
    gather: Callable[[Any], Any] = lambda params: params,
    task: BaseTask | None = None,
    averaging: Averaging | None = None,
) -> Callable[[TrainState, Batch], TrainState]:
    """Makes ``step(state, batch) -> state``: forward, backward, update, averages, metrics.

    The loss is the mean of the task's loss of each example, mixed with the loss of distillation
    where there is a ``teacher``; where the network has auxiliary heads
    (``endpoints["aux_logits"]``), their loss is added, times the network's ``aux_weight``. Where
    the state keeps a scale of the loss, a step that is not finite is left out: it halves the scale
    and counts as a step, no more.

    Args:
        model: the network.
        tx: the optimizer.
        train: sets accumulation, moving average and distillation; by default there are none.
        optim: sets ``sam_rho`` and ``head_only``; everything else of it is in ``tx``.
        frozen: the names of the parameters that have no gradient.
        gather: a function that collects parameters that lie in parts on several devices.
        task: what is learned; by default classification, with the label smoothing of ``train``.
        averaging: which parameters are averaged, where the state keeps their mean.
    """
    train, optim = train or Train(), optim or Optim()
    task = task or Classification(train.label_smoothing)
    loss_of = _make_loss(model, task, train, optim.head_only, frozen, gather)
    gradient = _make_gradient(loss_of, train.accumulate)

    def train_step(state: TrainState, batch: Batch) -> TrainState:
        key = jax.random.fold_in(stream(state.seed, "dropout"), state.step)
        given = state.model_state, batch, key, state.loss_scale and state.loss_scale.scale
        grads, loss, model_state, sums = gradient(state.params, *given)
        if optim.sam_rho > 0:
            reach = optim.sam_rho / jnp.maximum(optax.tree.norm(grads), 1e-12)
            worst = jax.tree.map(lambda p, g: p + reach * g, state.params, grads)
            grads, *_ = gradient(worst, *given)
        updates, opt_state = tx.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        norm = optax.tree.norm(grads)
        finite = jnp.isfinite(loss) & jnp.isfinite(norm)
        summed = add({k: state.sums[k] for k in sums}, sums)
        after = replace(
            state,
            params=params,
            model_state=model_state,
            opt_state=opt_state,
            sums={**state.sums, **summed, "grad_norm": state.sums["grad_norm"] + norm},
            ema=moved_average(state, {"params": params, **model_state}, train.ema_decay),
        )
        bad, known = ~finite, state.sums["bad_step"]
        if state.loss_scale is not None:
            after, scale = chosen(finite, after, state), state.loss_scale.after(finite)
            after, bad = replace(after, loss_scale=scale), bad & (scale.scale < LEAST)
        if averaging is not None:
            mean = averaging.update(state.swa["params"], after.params, state.step + 1)
            after = replace(after, swa={"params": mean, **after.model_state})
        bad_step = jnp.where((known < 0) & bad, state.step, known)
        return replace(after, step=state.step + 1, sums={**after.sums, "bad_step": bad_step})

    return train_step


def _make_loss(
    model: nn.Module,
    task: BaseTask,
    train: Train,
    head_only: bool,
    frozen: Container[str],
    gather: Callable[[Any], Any],
) -> Callable[..., Any]:
    """Makes ``loss(params, model_state, batch, key) -> (loss, (model_state, sums))``.

    That is the mean loss of a batch, the new statistics, and sums for the record.
    """

    def loss_of(
        params: Any, model_state: Any, batch: Batch, key: jax.Array
    ) -> tuple[jax.Array, tuple[Any, Sums]]:
        (outputs, ends), model_state = model.apply(
            {"params": gather(_without_gradient(params, frozen)), **model_state},
            batch["image"],
            train=not head_only,
            endpoints=True,
            mutable=list(model_state),
            rngs=random_streams(key),
        )
        losses = task.loss(outputs, batch)
        total = losses
        if "teacher" in batch:
            taught = task.distillation(outputs, batch["teacher"], train.distill_temperature)
            total = (1 - train.distill_weight) * losses + train.distill_weight * taught
        for aux in jax.tree.leaves(ends.get("aux_logits", ())):
            total = total + model.aux_weight * task.loss(aux, batch)
        return total.mean(), (model_state, task.training_sums(outputs, batch, losses))

    return loss_of


def _make_gradient(loss_of: Callable[..., Any], accumulate: int) -> Callable[..., Any]:
    """Makes ``gradient(params, model_state, batch, key, scale)``.

    It returns ``(gradient, loss, model_state, sums)``. The batch is taken in ``accumulate`` parts,
    one after the other. Unless ``scale`` is None, the loss is multiplied by it on the way back, and
    the gradient divided.

    Args:
        loss_of: from :func:`_make_loss`.
        accumulate: the number of parts.
    """

    def gradient(
        params: Any, model_state: Any, batch: Batch, key: jax.Array, scale: jax.Array | None = None
    ) -> tuple[Any, jax.Array, Any, Sums]:
        def scaled(*args: Any) -> tuple[jax.Array, Any]:
            loss, (model_state, sums) = loss_of(*args)
            return (loss if scale is None else scale * loss), (model_state, sums, loss)

        def part(model_state: Any, batch: Batch, key: jax.Array) -> tuple[Any, Any]:
            value_and_grad = jax.value_and_grad(scaled, has_aux=True)
            (_, found), grads = value_and_grad(params, model_state, batch, key)
            model_state, sums, loss = found
            if scale is not None:
                grads = jax.tree.map(lambda g: g / scale, grads)
            return model_state, (grads, loss, sums)

        if accumulate == 1:
            model_state, (grads, loss, sums) = part(model_state, batch, key)
            return grads, loss, model_state, sums

        def one_more(carry: Any, xs: tuple[Batch, jax.Array]) -> tuple[Any, None]:
            model_state, found = part(carry[0], *xs)
            return (model_state, jax.tree.map(jnp.add, carry[1], found)), None

        # Part i has the examples i, i + accumulate, ...: each device keeps its own.
        parts = jax.tree.map(
            lambda a: a.reshape(-1, accumulate, *a.shape[1:]).swapaxes(0, 1), batch
        )
        xs = parts, jax.random.split(key, accumulate)
        first = jax.tree.map(lambda a: a[0], xs)
        _, shapes = jax.eval_shape(part, model_state, *first)
        zeros = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)
        (model_state, (grads, loss, sums)), _ = lax.scan(one_more, (model_state, zeros), xs)
        grads, loss = jax.tree.map(lambda a: a / accumulate, (grads, loss))
        return grads, loss, model_state, sums

    return gradient


def _without_gradient(params: Any, frozen: Container[str]) -> Any:
    """Stops the gradient of frozen parameters, so that their backward pass is not computed."""
    return jax.tree_util.tree_map_with_path(
        lambda path, p: lax.stop_gradient(p) if path_name(path) in frozen else p, params
    )


def moved_average(state: TrainState, variables: Any, decay: float) -> Any:
    """Returns the mean of the variables after each step so far, weighted by ``decay ** age``.

    ``ema += (1 - decay) / (1 - decay ** t) * (variables - ema)`` after step ``t = 1, 2, ...``: the
    weights add up to 1 from the first step on, as with Adam's moments. Where the state keeps no
    average, there is none: None. Steps that were left out are none of these.
    """
    if state.ema is None:
        return None
    skipped = 0 if state.loss_scale is None else state.loss_scale.skipped
    t = (state.step + 1 - skipped).astype(jnp.float32)
    share = (1 - decay) / -jnp.expm1(t * math.log(decay))
    return optax.incremental_update(variables, state.ema, jnp.minimum(share, 1.0))


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
        order_of: ``(seed, step) -> order``, the order of the epoch's examples.
        batch_of: ``(arrays, seed, order, step) -> batch``, prepared for the network.
    """

    def chunk(state: TrainState, arrays: Any, end: jax.Array) -> TrainState:
        order = order_of(state.seed, state.step)

        def body(_: jax.Array, state: TrainState) -> TrainState:
            return train_step(state, batch_of(arrays, state.seed, order, state.step))

        return lax.fori_loop(state.step, end, body, state)

    return chunk


def make_eval_step(
    model: nn.Module,
    task: BaseTask | None = None,
    counted: Sequence[int] | None = None,
    temperature: float | None = None,
) -> Callable[[TrainState, Batch], Sums]:
    """Makes ``step(state, batch) -> sums`` over the examples whose mask is True.

    Where ``image`` is ``(views, n, h, w, c)``, the outputs are the average of those of the views.

    Args:
        model: the network.
        task: what says how it is judged; by default classification.
        counted: the places of the views that are averaged, one as often as it is named; by default
            each counts once.
        temperature: what logits are divided by; by default by nothing.
    """
    judge = task or Classification()
    outputs_of = make_outputs(model, judge, counted, temperature)

    def eval_step(state: TrainState, batch: Batch) -> Sums:
        return judge.sums(outputs_of(eval_variables(state), batch["image"]), batch)

    return eval_step


def make_outputs(
    model: nn.Module,
    task: BaseTask,
    counted: Sequence[int] | None = None,
    temperature: float | None = None,
) -> Callable[[Any, jax.Array], Any]:
    """Makes ``outputs(variables, images)`` as :func:`make_eval_step` judges them, of all views.

    Args:
        model: the network.
        task: what says how the outputs for several views become one.
        counted: as of :func:`make_eval_step`.
        temperature: likewise.
    """

    def outputs(variables: Any, images: jax.Array) -> Any:
        def of(images: jax.Array) -> Any:
            return tempered(model.apply(variables, images, train=False), temperature)

        if images.ndim == 4:
            return of(images)
        found = lax.map(of, images)
        return task.average(found if counted is None else found[np.array(counted)])

    return outputs


def make_evaluate(
    eval_step: Callable[[TrainState, Batch], Sums], prepare: Callable[[Batch], Batch]
) -> Callable[[TrainState, Batch], Sums]:
    """Makes ``evaluate(state, batches) -> sums`` over all batches, in one program.

    Args:
        eval_step: from :func:`make_eval_step`.
        prepare: a function from a stored batch to what the network sees.
    """

    def evaluate(state: TrainState, batches: Batch) -> Sums:
        def one(batch: Batch) -> Sums:
            return eval_step(state, prepare(batch))

        shapes = jax.eval_shape(one, jax.tree.map(lambda a: a[0], batches))
        zero = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)
        sums, _ = lax.scan(lambda sums, batch: (add(sums, one(batch)), None), zero, batches)
        return sums

    return evaluate


def planned_bytes(program: Any, *, arguments: bool = True) -> int | None:
    """Returns the device memory that XLA plans for a compiled program; None where it does not say.

    Counted are results, temporaries and, unless told otherwise, the arguments: the state and the
    data.
    """
    plan = program.memory_analysis()
    if plan is None:
        return None
    return int(
        plan.argument_size_in_bytes * arguments
        + plan.output_size_in_bytes
        - plan.alias_size_in_bytes
        + plan.temp_size_in_bytes
    )
