"""Every implementation computes what XLA's own operation computes, gradients included."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcnn import ops


def normal(seed, shape, dtype="float32"):
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape), dtype)


def close(actual, expected, tolerance=1e-5):
    actual, expected = np.asarray(actual, np.float64), np.asarray(expected, np.float64)
    scale = max(np.abs(expected).max(initial=0), 1e-6)
    np.testing.assert_allclose(actual / scale, expected / scale, rtol=0, atol=tolerance)


CONVS = [
    # x shape, w shape, arguments
    ((2, 9, 3), (3, 3, 4), {}),
    ((2, 9, 8, 3), (3, 3, 3, 4), {}),
    ((2, 9, 8, 3), (3, 2, 3, 4), {"stride": 2}),
    ((2, 9, 8, 3), (5, 5, 3, 4), {"padding": 2, "stride": (2, 1)}),
    ((2, 9, 8, 3), (1, 1, 3, 4), {"stride": 2}),
    ((2, 9, 8, 3), (1, 1, 3, 4), {}),
    ((2, 9, 8, 4), (3, 3, 1, 4), {"groups": 4}),
    ((2, 9, 8, 4), (3, 3, 1, 8), {"groups": 4, "stride": 2, "dilation": (1, 2)}),
    ((2, 9, 8, 4), (3, 3, 2, 6), {"groups": 2, "padding": [(2, 0), (1, 3)]}),
    ((2, 9, 8, 3), (2, 3, 3, 4), {"dilation": 2, "padding": "SAME_LOWER"}),
    ((2, 10, 8, 3), (2, 3, 3, 4), {"stride": 3, "padding": "VALID"}),
    ((2, 5, 6, 4, 2), (3, 2, 3, 2, 3), {"stride": (1, 2, 1)}),
    ((2, 9, 8, 3), (3, 3, 3, 4), {"padding_mode": "reflect"}),
]


@pytest.mark.parametrize(("x_shape", "w_shape", "arguments"), CONVS)
def test_conv_and_its_gradients_agree_with_lax(x_shape, w_shape, arguments):
    x, w = normal(0, x_shape), normal(1, w_shape)

    def run(impl):
        y, pullback = jax.vjp(lambda x, w: ops.conv(x, w, impl=impl, **arguments), x, w)
        return y, *pullback(jnp.sin(y))

    for actual, expected in zip(run("auto"), run("lax"), strict=True):
        close(actual, expected)


POOLS = [
    ((2, 8, 6, 3), 2, {}),
    ((2, 9, 7, 3), 3, {"stride": 2, "padding": 1}),
    ((2, 9, 7, 3), 3, {"stride": 2, "padding": "SAME"}),
    ((2, 9, 7, 3), 2, {"ceil_mode": True}),
    ((2, 9, 7, 3), 2, {"stride": 3}),
    ((2, 9, 3), 3, {"stride": 1, "padding": "SAME"}),
    ((2, 5, 6, 4, 2), 2, {"stride": 1}),
]


@pytest.mark.parametrize(("shape", "window", "arguments"), POOLS)
@pytest.mark.parametrize("levels", [None, 2])
def test_max_pool_gradient_agrees_with_lax_at_ties_too(shape, window, arguments, levels):
    x = normal(0, shape)
    x = x if levels is None else jnp.round(jnp.clip(x, 0, 1) * levels)

    def run(impl):
        y, pullback = jax.vjp(lambda x: ops.max_pool(x, window, impl=impl, **arguments), x)
        return y, *pullback(normal(1, y.shape))

    for actual, expected in zip(run("auto"), run("lax"), strict=True):
        close(actual, expected)
