"""Loss scaling: gradients in float16 that neither vanish nor overflow.

Micikevicius et al., "Mixed Precision Training", ICLR 2018. The rule is that of jmp and of PyTorch's
GradScaler; Flax's DynamicScale would adjust the scale once for each part of a batch that is
computed in parts, and Optax's apply_if_finite knows no scale, statistics or averages.
"""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

START = 2.0**15
PERIOD = 2000
"""Finite steps in a row after which the scale is doubled."""
LEAST = 1.0
"""Below this scale a gradient that is not finite is not the fault of float16."""


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class LossScale:
    """The factor of the loss, which its gradients are divided by.

    Attributes:
        scale: the factor, float32, a power of two.
        finite: how many steps in a row were finite at it, int32.
        skipped: how many steps of the run were left out, since they were not finite, int32.
    """

    scale: jax.Array
    finite: jax.Array
    skipped: jax.Array

    def after(self, finite: jax.Array) -> "LossScale":
        """Returns the scale after a step: doubled after PERIOD finite ones, or else halved."""
        full = self.finite + 1 == PERIOD
        double = jnp.where(full & jnp.isfinite(2 * self.scale), 2 * self.scale, self.scale)
        return LossScale(
            jnp.where(finite, double, self.scale / 2),
            jnp.where(finite & ~full, self.finite + 1, 0),
            self.skipped + ~finite,
        )


def init_loss_scale() -> LossScale:
    """Returns the scale before the first step."""
    return LossScale(jnp.float32(START), jnp.int32(0), jnp.int32(0))


def chosen(finite: jax.Array, new: Any, old: Any) -> Any:
    """Returns what a step has changed, or what it was where the step is left out."""
    return jax.tree.map(lambda new, old: jnp.where(finite, new, old), new, old)
