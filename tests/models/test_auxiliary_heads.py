"""The auxiliary heads do what they are for: a stronger gradient in the first layers."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from benchmarks.zoo import ROWS, build, variables
from experiments.textbook.auxiliary_classifiers import CASES, FAST, gradient_norms


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [
        "googlenet_2014",
        pytest.param("googlenet", marks=pytest.mark.slow),
        pytest.param("inception_v3", marks=pytest.mark.slow),  # 299x299
    ],
)
def test_gradient_reaching_the_first_layers(name: str) -> None:
    """Cross-entropy with He-normal weights, with and without the weighted auxiliary losses."""
    row = ROWS[name]
    size, layers = CASES[name]
    assert size == row.train_image[0]
    model = build(row)
    state = variables(model, row.train_image)
    x = jax.random.normal(jax.random.key(1), (row.train_batch, *row.train_image))
    labels = jnp.arange(row.train_batch)

    norms = jax.jit(gradient_norms(model, layers)).lower(state, x, labels).compile(FAST)
    for layer, (alone, together) in norms(state, x, labels).items():
        assert alone > 0, layer
        assert together > 1.01 * alone, layer


class TwoHeads(nn.Module):
    aux_weight: float = 0.25

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool, endpoints: bool) -> Any:
        x = nn.tanh(nn.Dense(5, name="first")(x))
        return nn.Dense(3, name="main")(x), {"aux_logits": (nn.Dense(3, name="aux")(x),)}


@pytest.mark.slow
def test_the_norms_are_those_of_the_training_loss() -> None:
    model = TwoHeads()
    x, labels = jax.random.normal(jax.random.key(0), (4, 2)), jnp.array([0, 1, 2, 1])
    state = model.init(jax.random.key(1), x, train=True, endpoints=True)

    def loss(params: Any, weight: float) -> jax.Array:
        logits, ends = model.apply({"params": params}, x, train=True, endpoints=True)
        loss_of = optax.softmax_cross_entropy_with_integer_labels
        return (loss_of(logits, labels) + weight * loss_of(ends["aux_logits"][0], labels)).mean()

    found = gradient_norms(model, ["first"])(state, x, labels)["first"]
    for norm, weight in zip(found, (0.0, 0.25), strict=True):
        expected = optax.tree.norm(jax.grad(loss)(state["params"], weight)["first"])
        np.testing.assert_allclose(norm, expected, rtol=1e-5)
