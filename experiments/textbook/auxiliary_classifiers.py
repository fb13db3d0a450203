"""What the auxiliary classifiers of GoogLeNet and Inception add to the gradient below them.

Command:   python -m experiments.textbook.auxiliary_classifiers
Hardware:  2 cores of a cloud CPU, jax 0.10.2
Time:      under 5 minutes on one core
Result:    norm of the gradient of the training loss, auxiliary losses included at their weight,
           relative to that of the main loss alone (mean over three seeds, measured):

           model           layer            He-normal   published
           googlenet_2014  conv1                1.070       1.067
           googlenet_2014  conv2                1.247       1.220
           googlenet_2014  inception3a          1.186       1.244
           googlenet       conv1                1.014       1.002
           googlenet       conv3                1.015       1.001
           googlenet       inception3a          1.014       1.001
           inception_v3    Conv2d_1a_3x3        1.575       1.000
           inception_v3    Conv2d_4a_3x3        1.553       1.000
           inception_v3    Mixed_5b             1.550       1.000

Szegedy et al. (Going Deeper with Convolutions, 2014, section 5) add the classifiers to increase the
gradient that reaches the lower layers. It is larger in every network once the heads' kernels are
as large as the others'. The initial kernels that torchvision gives the heads, with deviations of
0.01 and 0.001, let next to nothing through on the first step. Loss: cross-entropy of random
images and labels; dropout is off.
"""

import statistics
from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from jaxcnn import models

FAST = {"xla_backend_optimization_level": 0}  # compiling takes longer than running here
# Model: height and width of the images, and layers below its first auxiliary classifier.
CASES = {
    "googlenet_2014": (80, ("conv1", "conv2", "inception3a")),
    "googlenet": (64, ("conv1", "conv3", "inception3a")),
    "inception_v3": (299, ("Conv2d_1a_3x3", "Conv2d_4a_3x3", "Mixed_5b")),
}


def gradient_norms(
    model: nn.Module, layers: Sequence[str]
) -> Callable[[Any, jax.Array, jax.Array], dict[str, tuple[jax.Array, jax.Array]]]:
    """Returns a function of variables, images and labels that gives the gradient's norms.

    For each layer: the norm of the gradient of the cross-entropy of the logits alone, and of that
    with the auxiliary losses added at the weight that the model trains with.
    """

    def norms(variables: Any, images: jax.Array, labels: jax.Array) -> Any:
        def losses(params: Any) -> list[jax.Array]:
            (logits, ends), _ = model.apply(
                {**variables, "params": variables["params"] | params},
                images,
                train=True,
                endpoints=True,
                mutable=["batch_stats"],
            )
            one_hot = jax.nn.one_hot(labels, logits.shape[-1])
            heads = [logits, *ends["aux_logits"]]
            return [-(jax.nn.log_softmax(head) * one_hot).sum(-1).mean() for head in heads]

        values, back = jax.vjp(losses, {name: variables["params"][name] for name in layers})
        one, zero = jnp.ones_like(values[0]), jnp.zeros_like(values[0])
        (alone,) = back([one] + [zero for _ in values[1:]])
        (together,) = back([one] + [one * model.aux_weight for _ in values[1:]])
        norm = optax.tree.norm
        return {name: (norm(alone[name]), norm(together[name])) for name in layers}

    return norms


def he_normal(key: jax.Array, variables: Any) -> Any:
    """The variables with every kernel drawn anew: normal, variance 2 / fan-in."""
    leaves, tree = jax.tree.flatten(variables)
    draw = nn.initializers.variance_scaling(2.0, "fan_in", "normal")
    drawn = [
        draw(k, leaf.shape) if leaf.ndim > 1 else leaf
        for k, leaf in zip(jax.random.split(key, len(leaves)), leaves, strict=True)
    ]
    return jax.tree.unflatten(tree, drawn)


def ratios(name: str, seeds: Sequence[int], batch_size: int = 4) -> dict[str, dict[str, list[Any]]]:
    """Initialisation to layer to the ratio of the norms, with and without, for each seed."""
    size, layers = CASES[name]
    drops = {field: 0.0 for field in models.model_options(name) if field.startswith("dropout")}
    model = models.create_model(name, num_classes=10, **drops)
    shape = (batch_size, size, size, 3)
    init_published = jax.jit(model.init)
    norms = jax.jit(gradient_norms(model, layers), compiler_options=FAST)
    found: dict[str, dict[str, list[Any]]] = {
        init: {layer: [] for layer in layers} for init in ("He-normal", "published")
    }
    for seed in seeds:
        for_weights, for_images, for_labels = jax.random.split(jax.random.key(seed), 3)
        images = jax.random.normal(for_images, shape)
        labels = jax.random.randint(for_labels, (batch_size,), 0, 10)
        start = init_published(for_weights, images)
        for init, variables in (("He-normal", he_normal(for_weights, start)), ("published", start)):
            for layer, (alone, together) in norms(variables, images, labels).items():
                found[init][layer].append(float(together / alone))
    return found


def main() -> None:
    """Measures and prints the table."""
    print(f"{'model':<15}{'layer':<15}{'He-normal':>10}{'published':>11}")
    for name, (_, layers) in CASES.items():
        found = ratios(name, seeds=(0, 1, 2))
        for layer in layers:
            he, published = (statistics.mean(found[init][layer]) for init in found)
            print(f"{name:<15}{layer:<15}{he:>10.3f}{published:>11.4f}", flush=True)


if __name__ == "__main__":
    main()
