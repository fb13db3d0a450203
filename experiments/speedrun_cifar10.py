"""CIFAR-10 in eight epochs: the network and recipe of airbench94, with Muon.

Command:   jaxcnn train experiments/speedrun_cifar10.py
           jaxcnn eval runs/speedrun_cifar10-seed0 --from FILE --tta flip_shift
           python -m benchmarks.speedrun    # many runs, each timed as one program
Hardware:  one NVIDIA H200, jax 0.11.2
Time:      1.27 s, median of 20 runs by benchmarks.speedrun, evaluation included, compilation not;
           PyTorch takes 2.33 s for the same there
Result:    test top-1 90.66 % with the six views of flip_shift (measured, the mean of seeds 0 to
           19, 95 % interval 90.59 to 90.72), on a copy of CIFAR-10 whose pixels were compressed as
           JPEG, which costs about 3.3 points; PyTorch reaches 90.77 % on it, and the author 94.0 %
           on CIFAR-10

Jordan (2024): 94% on CIFAR-10 in 3.29 Seconds on a Single GPU, arXiv 2404.00498; its later variant
with Muon, github.com/KellerJordan/cifar10-airbench. The first layer whitens patches and stays, its
bias learns for three epochs; images are mirrored every other epoch; Muon moves the kernels of
convolutions, whose norm is fixed, and SGD biases and head. Learning rates fall in a line to 0.

Differs: bfloat16 for float16, parameters and steps in float32; logits are divided by 9, for which
the head's rate and first values are translated; probabilities of views are averaged, not logits.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from jaxcnn.config import Augment, Data, Experiment, Model, Optim, Schedule, Train

Rate = Callable[[Any], Any]
NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)
"""Coefficients of ``a x + b (x x') x + c (x x')^2 x`` (Jordan 2024), steepest at 0."""


def config() -> Experiment:
    """2,000 images a batch, 25 steps an epoch."""
    return Experiment(
        name="speedrun_cifar10",
        data=Data(
            "cifar10",
            batch_size=2000,
            eval_batch_size=2000,
            mean=(0.4914, 0.4822, 0.4465),
            std=(0.2470, 0.2435, 0.2616),
        ),
        augment=Augment(flip="alternating", crop_padding=2, padding_mode="reflect"),
        model=Model("airbench", dtype="bfloat16"),
        optim=Optim(muon_and_sgd, peak_lr=1.0, freeze=("whiten/kernel",)),
        schedule=Schedule("polynomial", warmup_epochs=0),
        train=Train(epochs=8, label_smoothing=0.2, eval_every=8),
    )


def muon_and_sgd(
    learning_rate: Rate,
    filters: float = 0.24,
    biases: float = 106.0,
    head: float = 1.656,
    decay: float = 4e-3,
    whiten_share: float = 3 / 8,
) -> optax.GradientTransformation:
    """Makes Muon for kernels of convolutions, and Nesterov SGD with weight decay for the rest.

    Args:
        learning_rate: the factor of all rates at a step, 1 at its peak.
        filters: peak rate of Muon.
        biases: peak rate of the biases.
        head: peak rate of the last layer.
        decay: what a step at the peak takes off biases and head, as a share, before momentum.
        whiten_share: the share of the run after which the bias of the first layer stays.
    """

    def early(step: Any) -> Any:
        return jnp.maximum(0.0, 1 - (1 - learning_rate(step)) / whiten_share)

    def sgd(peak: float, factor: Rate) -> optax.GradientTransformation:
        return optax.chain(
            optax.add_decayed_weights(decay / peak),
            optax.trace(0.85, nesterov=True),
            optax.scale_by_schedule(lambda step: -peak * factor(step)),
        )

    muon = optax.chain(
        optax.trace(0.6, nesterov=True),
        optax.stateless(lambda updates, _: jax.tree.map(orthogonalised, updates)),
        optax.scale_by_schedule(lambda step: -filters * learning_rate(step)),
        optax.stateless(lambda updates, params: jax.tree.map(from_fixed_norm, updates, params)),
    )
    rules = {
        "filters": muon,
        "head": sgd(head, learning_rate),
        "biases": sgd(biases, learning_rate),
        "whiten": sgd(biases, early),
    }

    def rule(path: Any, parameter: jax.Array) -> str:
        first = "whiten" if path[0].key == "whiten" else "biases"
        return {4: "filters", 2: "head"}.get(parameter.ndim, first)

    return optax.partition(rules, lambda params: jax.tree_util.tree_map_with_path(rule, params))


def orthogonalised(kernel: jax.Array) -> jax.Array:
    """Brings the singular values of a kernel, as a matrix ``(h * w * i, o)``, near to 1.

    Three steps of Newton and Schulz in bfloat16, which is exact enough.
    """
    x = kernel.reshape(-1, kernel.shape[-1]).astype(jnp.bfloat16)
    tall = x.shape[0] > x.shape[1]
    x = (x.T if tall else x) / (jnp.linalg.norm(x) + 1e-7)
    a, b, c = NEWTON_SCHULZ
    for _ in range(3):
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    return (x.T if tall else x).reshape(kernel.shape).astype(kernel.dtype)


def from_fixed_norm(update: jax.Array, kernel: jax.Array) -> jax.Array:
    """Returns the update that starts from the kernel brought to the norm ``sqrt(o)``."""
    return update + (kernel.shape[-1] ** 0.5 / jnp.linalg.norm(kernel) - 1) * kernel
