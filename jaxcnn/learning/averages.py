"""Stochastic weight averaging: which weights are averaged, and the statistics of their network.

Izmailov et al., "Averaging Weights Leads to Wider Optima and Better Generalization", UAI 2018.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from jax import lax

from jaxcnn.config import Schedule, Train
from jaxcnn.layers import random_streams
from jaxcnn.learning.state import stream

STATISTICS = "batch_stats"
"""The collection that batch normalisation keeps its running statistics in."""


@dataclass(frozen=True)
class Averaging:
    """Which weights are averaged: those after every so many steps.

    How many are averaged is a function of the step, so the state need not count them.

    Attributes:
        start: the step from which on they may be, with a learning rate of their own.
        origin: the step from which the steps between two of them are counted.
        every: the number of these steps.
    """

    start: int
    origin: int
    every: int

    def number(self, step: Any) -> Any:
        """Returns how many weights are averaged after so many steps; none if it is below 1."""
        return (step - self.origin) // self.every

    def update(self, averages: Any, params: Any, step: jax.Array) -> Any:
        """Returns the averages after so many steps: the parameters, until two are averaged.

        Args:
            averages: those before the last of these steps.
            params: the parameters after it.
            step: the number of steps.
        """
        number, since = self.number(step), step - self.origin
        due = since % self.every == 0
        follows = (number < 1) | (due & (number == 1))

        def average(old: jax.Array, new: jax.Array) -> jax.Array:
            moved = old + (new - old) / jnp.maximum(number, 1).astype(new.dtype)
            return jnp.where(follows, new, jnp.where(due, moved, old))

        return jax.tree.map(average, averages, params)

    def rate(
        self, curve: optax.Schedule, schedule: Schedule, steps_per_epoch: int
    ) -> optax.Schedule:
        """Returns a learning rate that follows a curve up to ``start``, and then is its own.

        With ``t`` steps since ``start``, from the curve's rate there to ``swa_lr``:

        - ``a * swa_lr + (1 - a) * curve(start)``, where ``a`` rises from 0 to 1 in
          ``swa_anneal_epochs``, in a line or as ``(1 - cos(pi * a)) / 2``;
        - or, with ``swa_cycle_lr``, from there to ``swa_lr`` in a line, in every cycle of
          ``every`` steps, whose last has ``swa_lr``.
        """
        last, first = schedule.swa_lr, schedule.swa_cycle_lr
        if last is None:
            return curve
        steps = schedule.swa_anneal_epochs * steps_per_epoch

        def own(step: Any) -> Any:
            if first is not None:
                done = ((step - self.origin) % self.every + 1) / self.every
                return first + done * (last - first)
            done = jnp.minimum((step - self.start) / steps, 1.0) if steps else jnp.float32(1)
            share = done if schedule.swa_anneal == "linear" else (1 - jnp.cos(jnp.pi * done)) / 2
            return share * last + (1 - share) * curve(self.start)

        return lambda step: jnp.where(step < self.start, curve(step), own(step))


def averaging_of(train: Train, steps_per_epoch: int) -> Averaging | None:
    """Returns which weights an experiment averages; None if it averages none."""
    if train.swa_start is None:
        return None
    start = round(train.swa_start * steps_per_epoch)
    if train.swa_every is None:
        return Averaging(start, start - start % steps_per_epoch, steps_per_epoch)
    return Averaging(start, start, train.swa_every)


def make_statistics(
    model: nn.Module,
    order_of: Callable[[jax.Array, jax.Array], jax.Array],
    batch_of: Callable[[Any, jax.Array, jax.Array, jax.Array], Any],
    gather: Callable[[Any], Any] = lambda params: params,
) -> Callable[..., Any]:
    """Makes ``sums(variables, seed, arrays, first, end)``: statistics summed over some batches.

    They are those of each batch by itself, as a pass in training sees them, whatever share of the
    old ones a layer keeps. Divided by the number of batches, their sum is what PyTorch's
    ``update_bn`` computes.

    Args:
        model: the network.
        order_of: ``(seed, step) -> order``, the order of the examples in the step's epoch, which is
            that of all the batches.
        batch_of: ``(arrays, seed, order, step) -> batch``, as training prepares it.
        gather: a function that collects parameters that lie in parts on several devices.
    """

    def of_batch(variables: Any, images: jax.Array, key: jax.Array) -> Any:
        def after(statistics: Any) -> Any:
            _, changed = model.apply(
                {**variables, STATISTICS: statistics},
                images,
                train=True,
                endpoints=True,
                mutable=[name for name in variables if name != "params"],
                rngs=random_streams(key),
            )
            return changed[STATISTICS]

        # A layer makes m * old + (1 - m) * batch of its statistics: the slope tells its m.
        old = variables[STATISTICS]
        zeros, ones = (jax.tree.map(like, old) for like in (jnp.zeros_like, jnp.ones_like))
        new, kept = jax.jvp(after, (zeros,), (ones,))
        return jax.tree.map(
            lambda old, new, m: jnp.where(m < 1, new / jnp.where(m < 1, 1 - m, 1), old),
            *(old, new, kept),
        )

    def sums(variables: Any, seed: jax.Array, arrays: Any, first: Any, end: Any) -> Any:
        held, order = {**variables, "params": gather(variables["params"])}, order_of(seed, first)
        key = stream(seed, "dropout")

        def one_more(step: jax.Array, total: Any) -> Any:
            batch = batch_of(arrays, seed, order, step)
            found = of_batch(held, batch["image"], jax.random.fold_in(key, step))
            return jax.tree.map(jnp.add, total, found)

        zeros = jax.tree.map(jnp.zeros_like, variables[STATISTICS])
        return lax.fori_loop(first, end, one_more, zeros)

    return sums
