"""The auxiliary heads do what they are for: a stronger gradient in the first layers."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.models.table import ROWS, build, variables

FAST = {"xla_backend_optimization_level": 0}


@pytest.mark.parametrize(
    ("name", "first"),
    [
        ("googlenet_2014", "conv1"),
        ("googlenet", "conv1"),
        pytest.param("inception_v3", "Conv2d_1a_3x3", marks=pytest.mark.slow),  # 299x299
    ],
)
def test_gradient_reaching_the_first_layer(name: str, first: str) -> None:
    """Cross-entropy with He-normal weights, with and without the weighted auxiliary losses.

    The published initial values of the heads are so small that on the first step they add 3 % to
    the norm of the gradient (googlenet_2014) or under 0.1 % (the others).
    """
    row = ROWS[name]
    model = build(row)
    x = jax.random.normal(jax.random.key(1), (row.train_batch, *row.train_image))
    labels = jax.nn.one_hot(jnp.arange(row.train_batch), 10)
    state = variables(model, row.train_image)

    def losses(layer: Any) -> list[jax.Array]:
        params = state["params"] | {first: layer}
        (logits, ends), _ = model.apply(
            {**state, "params": params}, x, train=True, endpoints=True, mutable=["batch_stats"]
        )
        heads = [logits, *ends["aux_logits"]]
        return [-(jax.nn.log_softmax(head) * labels).sum(-1).mean() for head in heads]

    def gradients(layer: Any) -> tuple[Any, Any]:
        values, back = jax.vjp(losses, layer)
        main, *aux = [jnp.zeros_like(value) for value in values]
        without = back([jnp.ones_like(main), *aux])[0]
        weighted = back([jnp.ones_like(main)] + [a + model.aux_weight for a in aux])[0]
        return without, weighted

    layer = state["params"][first]
    without, weighted = jax.jit(gradients).lower(layer).compile(FAST)(layer)

    def norm(tree: Any) -> float:
        return float(np.sqrt(sum(float((leaf**2).sum()) for leaf in jax.tree.leaves(tree))))

    assert norm(without) > 0
    assert norm(weighted) > 1.01 * norm(without)
