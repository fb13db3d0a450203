"""Config to Optax."""

import jax
import optax

from jaxcnn.config import Optim, Schedule


def make_schedule(schedule: Schedule, peak_lr: float, steps_per_epoch: int, epochs: int):
    """Learning rate as a function of the step: linear warm-up, then constant or half a cosine.

    ``lr(t) = peak * t / warmup`` up to ``warmup`` steps, then, for the cosine,
    ``peak * (end + (1 - end) * (1 + cos(pi * (t - warmup) / (total - warmup))) / 2)``.
    """
    total = steps_per_epoch * epochs
    warmup = round(schedule.warmup_epochs * steps_per_epoch)
    if schedule.name == "constant":
        curve = optax.constant_schedule(peak_lr)
    else:
        curve = optax.cosine_decay_schedule(
            peak_lr, max(total - warmup, 1), alpha=schedule.end_factor
        )
    return optax.join_schedules([optax.linear_schedule(0.0, peak_lr, warmup), curve], [warmup])


def make_optimizer(optim: Optim, lr: optax.Schedule) -> optax.GradientTransformation:
    """SGD with momentum or AdamW, with weight decay on kernels only and optional clipping."""
    clip = (
        optax.identity() if optim.clip_norm is None else optax.clip_by_global_norm(optim.clip_norm)
    )
    if optim.name == "adamw":
        return optax.chain(
            clip,
            optax.adamw(
                lr, b1=optim.b1, b2=optim.b2, weight_decay=optim.weight_decay, mask=is_kernel
            ),
        )
    return optax.chain(
        clip,
        optax.add_decayed_weights(optim.weight_decay, mask=is_kernel),
        optax.sgd(lr, momentum=optim.momentum, nesterov=optim.nesterov),
    )


def is_kernel(params: optax.Params) -> optax.Params:
    """Marks the arrays that weight decay acts on: kernels, not biases or normalisation."""
    return jax.tree.map(lambda p: p.ndim > 1, params)
