"""Every implementation computes what XLA's own operation computes, gradients included."""

import jax
import jax.numpy as jnp
import pytest

from jaxcnn import ops
from jaxcnn.ops import lowering
from tests.ops.oracles import close, normal

CONVS = [
    # x shape, w shape, arguments
    ((2, 9, 3), (3, 3, 4), {}),
    ((2, 9, 8, 3), (3, 2, 3, 4), {"stride": 2}),
    ((2, 9, 8, 3), (5, 5, 3, 4), {"padding": 2, "stride": (2, 1)}),
    ((2, 9, 8, 16), (3, 3, 16, 16), {"stride": 2, "padding": 1}),
    ((2, 9, 8, 3), (1, 1, 3, 4), {"stride": 2}),
    ((2, 9, 8, 3), (1, 1, 3, 4), {"padding": 1}),
    ((2, 9, 4), (1, 4, 4), {}),
    ((2, 9, 8, 4), (3, 3, 1, 4), {"groups": 4}),
    ((2, 9, 8, 4), (3, 3, 1, 8), {"groups": 4, "stride": 2, "dilation": (1, 2)}),
    ((3, 9, 8, 4), (3, 2, 1, 4), {"groups": 4, "stride": 3, "padding": "VALID"}),
    ((2, 9, 8, 4), (3, 3, 2, 6), {"groups": 2, "padding": [(2, 0), (1, 3)]}),
    ((2, 9, 8, 140), (1, 1, 70, 4), {"groups": 2}),
    ((2, 9, 8, 3), (2, 3, 3, 4), {"dilation": 2, "padding": "SAME_LOWER"}),
    ((2, 10, 8, 3), (2, 3, 3, 1), {"stride": 3, "padding": "VALID"}),
    ((2, 5, 6, 4, 2), (3, 2, 3, 2, 3), {"stride": (1, 2, 1)}),
    ((2, 5, 6, 4, 2), (3, 2, 3, 1, 2), {"stride": (1, 2, 1), "groups": 2}),
    ((2, 9, 8, 3), (3, 3, 3, 4), {"padding_mode": "reflect"}),
    ((1, 9, 8, 1), (5, 5, 1, 6), {"padding": 4}),
    # stems: their last pixels may be in no window, and a kernel need not fill its blocks
    ((2, 15, 16, 3), (7, 7, 3, 4), {"stride": 2, "padding": 3}),
    ((1, 23, 26, 3), (11, 9, 3, 4), {"stride": (4, 3), "padding": "VALID"}),
    ((2, 13, 12, 4), (4, 4, 4, 2), {"stride": 4, "padding": [(2, 1), (0, 5)]}),
    ((1, 13, 2), (2, 2, 3), {"stride": 5, "padding": "VALID"}),
    # kernels with more taps than the input, or the output, has positions
    ((2, 3, 2, 3), (3, 3, 3, 4), {}),
    ((2, 4, 3), (7, 3, 2), {"stride": 2}),
    ((2, 3, 4, 16), (3, 2, 16, 16), {"padding": [(3, 2), (0, 1)], "dilation": 2, "stride": (2, 3)}),
    ((1, 1, 1, 16), (3, 3, 16, 5), {}),
]


def conv_and_gradients(x, w, impl, arguments, op=ops.conv):
    @jax.jit
    def run(x, w):
        y, pullback = jax.vjp(lambda x, w: op(x, w, impl=impl, **arguments), x, w)
        return y, *pullback(jnp.sin(y))

    return run(x, w)


@pytest.mark.parametrize(("x_shape", "w_shape", "arguments"), CONVS)
def test_every_conv_agrees_with_lax(x_shape, w_shape, arguments):
    x, w = normal(0, x_shape), normal(1, w_shape)
    expected = conv_and_gradients(x, w, "lax", arguments)
    for impl in ("auto", *lowering.CONV_PINS):
        try:
            actual = conv_and_gradients(x, w, impl, arguments)
        except ValueError as error:
            assert f"impl={impl!r} needs" in str(error), impl  # noqa: PT017
            continue
        for a, b in zip(actual, expected, strict=True):
            close(a, b)


def test_every_conv_rewrite_was_tried():
    """The table above leaves no rewrite out."""
    plans = {
        plan
        for x, w, arguments in CONVS
        for platform in ("cpu", "gpu")
        for record in ops.explain(ops.conv, x, w, platform=platform, **arguments)
        for plan in record.plan
    }
    assert plans == {
        *("lax", "dot", "shift", "dense", "blocks", "canonical", "einsum", "patches"),
        "space_to_depth",
    }


TRANSPOSED = [
    ((2, 4, 3), (3, 3, 4), {"stride": 2}),
    ((2, 4, 3), (1, 3, 4), {"stride": 2, "padding": "VALID"}),
    ((2, 4, 4), (3, 1, 4), {"groups": 4, "stride": 2, "padding": 1, "output_padding": 1}),
    ((2, 4, 4), (2, 2, 6), {"groups": 2, "stride": 3}),
    ((2, 2, 3), (5, 3, 4), {"dilation": 2, "padding": 3}),
]


@pytest.mark.parametrize(("x_shape", "w_shape", "arguments"), TRANSPOSED)
def test_every_transposed_conv_agrees_with_lax(x_shape, w_shape, arguments):
    x, w = normal(0, x_shape), normal(1, w_shape)

    def run(impl):
        def both(x, w):
            y, pullback = jax.vjp(
                lambda x, w: ops.conv_transpose(x, w, impl=impl, **arguments), x, w
            )
            return y, *pullback(jnp.sin(y))

        return jax.jit(both)(x, w)

    expected = run("lax")
    for impl in ("auto", *lowering.CONV_PINS):
        try:
            actual = run(impl)
        except ValueError as error:
            assert f"impl={impl!r} needs" in str(error), impl  # noqa: PT017
            continue
        for a, b in zip(actual, expected, strict=True):
            close(a, b)


@pytest.mark.parametrize("op", [ops.conv, ops.conv_transpose])
def test_every_implementation_takes_an_empty_batch(op):
    for x_shape, w_shape, arguments in (
        ((0, 6, 6, 4), (3, 3, 4, 4), {}),
        ((0, 6, 6, 4), (1, 1, 4, 4), {"padding": "VALID"}),
        ((0, 6, 6, 4), (3, 3, 1, 4), {"groups": 4}),
        ((0, 6, 6, 4), (3, 3, 2, 4), {"groups": 2}),
    ):
        x = jax.ShapeDtypeStruct(x_shape, jnp.float32)
        w = jax.ShapeDtypeStruct(w_shape, jnp.float32)
        for impl in ("auto", "lax", *lowering.CONV_PINS):

            def run(x, w, impl=impl, arguments=arguments):
                y, pullback = jax.vjp(lambda x, w: op(x, w, impl=impl, **arguments), x, w)
                return pullback(y)

            try:
                dx, dw = jax.eval_shape(run, x, w)
            except ValueError as error:
                assert f"impl={impl!r} needs" in str(error), impl  # noqa: PT017
                continue
            assert (dx.shape, dw.shape) == (x_shape, w_shape)


POOLS = [
    ((2, 8, 6, 3), 2, {}),
    ((2, 9, 7, 3), (3, 2), {}),
    ((2, 9, 7, 3), 3, {"padding": 1}),
    ((2, 9, 7, 3), 3, {"stride": 2, "padding": 1}),
    ((2, 9, 7, 3), 3, {"stride": 2, "padding": "SAME"}),
    ((2, 9, 7, 3), 2, {"ceil_mode": True}),
    ((2, 9, 7, 3), 2, {"stride": 3}),
    ((2, 9, 7, 3), (5, 3), {"stride": (2, 1), "padding": [(2, 1), (0, 2)]}),
    ((2, 9, 3), 3, {"stride": 1, "padding": "SAME"}),
    ((2, 5, 6, 4, 2), 2, {"stride": 1}),
    ((2, 5, 6, 4, 2), 2, {}),
    ((2, 5, 6, 5, 2), 3, {"stride": 2, "padding": 1}),
    ((1, 40, 2), 18, {"stride": 2}),
]


def pool_and_gradient(op, x, window, impl, arguments):
    @jax.jit
    def run(x):
        y, pullback = jax.vjp(lambda x: op(x, window, impl=impl, **arguments), x)
        return y, *pullback(normal(1, y.shape))

    return run(x)


@pytest.mark.parametrize(("shape", "window", "arguments"), POOLS)
@pytest.mark.parametrize("levels", [None, 2], ids=["distinct", "ties"])
def test_every_max_pool_agrees_with_lax_at_ties_too(shape, window, arguments, levels):
    x = jnp.asarray(normal(0, shape))
    x = x if levels is None else jnp.round(jnp.clip(x, 0, 1) * levels)
    expected = pool_and_gradient(ops.max_pool, x, window, "lax", arguments)
    for impl in ("auto", *lowering.MAX_POOL_PINS):
        try:
            actual = pool_and_gradient(ops.max_pool, x, window, impl, arguments)
        except ValueError as error:
            assert f"impl={impl!r} needs" in str(error), impl  # noqa: PT017
            continue
        for a, b in zip(actual, expected, strict=True):
            close(a, b, 1e-6)


@pytest.mark.parametrize(("shape", "window", "arguments"), POOLS)
def test_every_avg_pool_agrees_with_lax(shape, window, arguments):
    x = normal(0, shape)
    expected = pool_and_gradient(ops.avg_pool, x, window, "lax", arguments)
    for impl in ("auto", *lowering.SUM_POOL_PINS):
        try:
            actual = pool_and_gradient(ops.avg_pool, x, window, impl, arguments)
        except ValueError as error:
            assert f"impl={impl!r} needs" in str(error), impl  # noqa: PT017
            continue
        for a, b in zip(actual, expected, strict=True):
            close(a, b)
