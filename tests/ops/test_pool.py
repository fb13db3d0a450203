"""Pools against NumPy loops and PyTorch; what happens at ties; windows that hang over."""

import functools
import os

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.test_util import check_grads

from jaxcnn import ops
from jaxcnn.ops import geometry
from tests.ops import oracles
from tests.ops.oracles import close, normal

SHAPES = [(2, 11, 3), (2, 9, 7, 3), (1, 5, 6, 4, 2)]
GRID = [
    {},
    {"ceil_mode": True},
    {"stride": 1, "padding": "SAME"},
    {"stride": 2, "padding": "SAME_LOWER"},
    {"stride": 3, "padding": 1, "ceil_mode": True},
    {"stride": 1, "dilation": 2},
    {"stride": 2, "dilation": 2, "padding": 1, "ceil_mode": True},
]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("arguments", GRID)
def test_pools_are_the_loop(shape, arguments):
    x = normal(0, shape)
    window = 2

    @jax.jit
    def pools(x):
        return {
            "max": ops.max_pool(x, window, **arguments),
            "min": ops.min_pool(x, window, **arguments),
            "lp": ops.lp_pool(x, window, 3, **arguments),
            "avg": ops.avg_pool(x, window, **arguments),
            "avg inside": ops.avg_pool(x, window, count_include_pad=False, **arguments),
        }

    y = pools(x)
    close(y["max"], oracles.pool("max", x, window, **arguments), 1e-6)
    close(y["min"], oracles.pool("min", x, window, **arguments), 1e-6)
    close(y["lp"], oracles.pool("lp", x, window, p=3, **arguments))
    close(y["avg"], oracles.pool("avg", x, window, **arguments))
    inside = oracles.pool("avg", x, window, count_include_pad=False, **arguments)
    close(y["avg inside"], inside)


def test_the_textbook_example():
    x = np.array([[1, 1, 2, 4], [5, 6, 7, 8], [3, 2, 1, 0], [1, 2, 3, 4]], np.float32)
    y = ops.max_pool(x[None, :, :, None], 2)
    np.testing.assert_array_equal(y[0, :, :, 0], [[6, 8], [3, 4]])


def test_ties_go_to_the_first_in_row_major_order():
    ones = jnp.ones((1, 4, 4, 1))
    for impl in ("auto", "lax", "reshape", "phases", "separable"):
        gradient = jax.grad(lambda x, impl=impl: ops.max_pool(x, 2, impl=impl).sum())(ones)
        expected = np.zeros((4, 4))
        expected[::2, ::2] = 1
        np.testing.assert_array_equal(gradient[0, :, :, 0], expected)
    first = np.zeros((4, 4))
    first[0, 0] = 1
    for pool in (ops.global_max_pool, lambda x: ops.adaptive_max_pool(x, 1)):
        gradient = jax.grad(lambda x, pool=pool: pool(x).sum())(ones)
        np.testing.assert_array_equal(gradient[0, :, :, 0], first)


def test_padding_never_wins():
    x = jnp.full((1, 3, 3, 1), -5.0)
    assert float(ops.max_pool(x, 3, stride=1, padding=1).min()) == -5
    assert float(ops.min_pool(-x, 3, stride=1, padding=1).max()) == 5


def test_an_index_is_never_in_the_padding():
    blank = np.full((1, 5, 5, 1), -np.inf, "f")  # equals the padding everywhere
    _, index = ops.max_pool_with_indices(blank, 3, stride=2, padding=1)
    np.testing.assert_array_equal(index[0, :, :, 0], [[0, 1, 3], [5, 6, 8], [15, 16, 18]])
    spoilt = normal(0, (1, 5, 5, 1))
    spoilt[0, 2, 2] = np.nan
    _, index = ops.max_pool_with_indices(spoilt, 5, padding=1, stride=3)
    assert np.asarray(index)[0, 0, 0, 0] == 12


def test_half_precision_is_summed_in_float32():
    large = jnp.full((1, 4, 4, 1), 3e4, jnp.float16)
    np.testing.assert_allclose(ops.avg_pool(large, 2), 3e4, rtol=1e-3)  # the sum would be inf
    np.testing.assert_allclose(ops.lp_pool(large / 64, 2), 3e4 / 32, rtol=1e-3)
    x = jnp.asarray(normal(0, (1, 16, 16, 2)) + 4, jnp.bfloat16)
    for pool in (
        lambda x: ops.avg_pool(x, 16),
        lambda x: ops.avg_pool(x, 14, stride=1),
        lambda x: ops.lp_pool(x, 14, stride=1),
    ):
        assert pool(x).dtype == jnp.bfloat16
        np.testing.assert_allclose(pool(x), pool(x.astype(jnp.float32)), rtol=2**-8)


@pytest.mark.parametrize(
    "pool",
    [
        lambda x: ops.avg_pool(x, 8),
        lambda x: ops.avg_pool(x, 2),
        lambda x: ops.max_pool(x, 8, impl="lax"),
        lambda x: ops.lp_pool(x, 8, 16) / 64 ** (1 / 16),
        ops.global_avg_pool,
        ops.global_max_pool,
        lambda x: ops.adaptive_avg_pool(x, 2),
        lambda x: ops.adaptive_max_pool(x, 2),
    ],
)
def test_two_relus_before_a_pool_in_bfloat16(pool):
    """XLA fused all three into one call of YNNPACK, which gave NaN."""
    x = jnp.ones((4, 8, 8, 64), jnp.bfloat16)
    y = jax.jit(lambda x: pool(jax.nn.relu(jax.nn.relu(x) + x)))(x)
    np.testing.assert_allclose(y.astype(jnp.float32), 2, rtol=2**-7)


def as_usual(function, level, *arrays):
    """Compiles with fusions as a user has them, which the tests have not everywhere."""
    options = {"xla_backend_optimization_level": level}
    if "fusion_emitters" in os.environ["XLA_FLAGS"]:  # elsewhere they are not to be chosen
        options["xla_cpu_use_fusion_emitters"] = True
    return jax.jit(function).lower(*arrays).compile(options)


@pytest.mark.parametrize("level", [0, 3])
@pytest.mark.parametrize(
    "pool",
    [
        *(
            functools.partial(ops.max_pool, window=2, impl=impl)
            for impl in ("auto", "lax", "reshape", "separable", "phases")
        ),
        functools.partial(ops.max_pool, window=3, stride=2),
        ops.global_max_pool,
        functools.partial(ops.adaptive_max_pool, output_size=8),
    ],
)
def test_the_maximum_is_found_however_xla_rounds_what_precedes_the_pool(pool, level):
    """Compiled with what precedes it, a pool gives the gradient that it gives step by step."""
    x, scale = normal(0, (2, 64, 16, 64)), normal(1, (1, 1, 1, 64)) ** 2 + 0.5
    weight = normal(2, jax.eval_shape(pool, x).shape)

    def loss(bias, x, scale, weight):
        return (pool(jax.nn.relu(x * scale + bias)) * weight).sum()

    gradient = jax.grad(loss)
    arrays = np.full((1, 1, 1, 64), 0.1, np.float32), x, scale, weight
    compiled = as_usual(gradient, level, *arrays)
    np.testing.assert_allclose(compiled(*arrays), gradient(*arrays), rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("level", [0, 3])
def test_an_index_is_that_of_the_maximum_however_xla_rounds_what_precedes_the_pool(level):
    x, scale = normal(0, (2, 64, 16, 64)), normal(1, (1, 1, 1, 64)) ** 2 + 0.5

    def indices(x, scale):
        return ops.max_pool_with_indices(jax.nn.relu(x * scale + 0.1), 2)[1]

    compiled = as_usual(indices, level, x, scale)
    np.testing.assert_array_equal(compiled(x, scale), indices(x, scale))


def test_dilated_max_pool_has_a_gradient():
    with jax.enable_x64():
        x = normal(0, (1, 7, 6, 2), np.float64)
        for impl in ("auto", "lax"):
            check_grads(
                lambda x, impl=impl: ops.max_pool(x, 2, stride=1, dilation=2, impl=impl),
                (x,),
                order=1,
                modes=["rev"],
                rtol=1e-6,
            )


@pytest.mark.parametrize("rank", [1, 2, 3])
@pytest.mark.parametrize(
    "arguments",
    [
        {"stride": 2, "padding": 1, "ceil_mode": True},
        {"stride": 2, "padding": 0, "ceil_mode": False},
        {"stride": 1, "padding": 1, "ceil_mode": False},
    ],
)
def test_values_and_gradients_are_those_of_pytorch(rank, arguments):
    torch = pytest.importorskip("torch")
    functional = torch.nn.functional
    x = normal(0, (2, *(9, 8, 6)[:rank], 3))

    def compare(ours, theirs):
        @jax.jit
        def run(x):
            y, pullback = jax.vjp(ours, x)
            dy = normal(1, y.shape)
            return y, dy, *pullback(dy)

        y, dy, dx = jax.tree.map(np.asarray, run(x))
        tx = torch.from_numpy(np.moveaxis(x, -1, 1).copy()).requires_grad_()
        ty = theirs(tx)
        ty.backward(torch.from_numpy(np.moveaxis(dy, -1, 1).copy()))
        close(y, np.moveaxis(ty.detach().numpy(), 1, -1))
        close(dx, np.moveaxis(tx.grad.numpy(), 1, -1))

    compare(
        lambda x: ops.max_pool(x, 3, **arguments),
        lambda x: getattr(functional, f"max_pool{rank}d")(x, 3, **arguments),
    )
    for include in (True, False):
        compare(
            lambda x, include=include: ops.avg_pool(x, 3, count_include_pad=include, **arguments),
            lambda x, include=include: getattr(functional, f"avg_pool{rank}d")(
                x, 3, count_include_pad=include, **arguments
            ),
        )
    for size in (1, 4, 5):
        compare(
            lambda x, size=size: ops.adaptive_avg_pool(x, size),
            lambda x, size=size: getattr(functional, f"adaptive_avg_pool{rank}d")(x, size),
        )
        compare(
            lambda x, size=size: ops.adaptive_max_pool(x, size),
            lambda x, size=size: getattr(functional, f"adaptive_max_pool{rank}d")(x, size),
        )
    if rank < 3 and not arguments["ceil_mode"] and not arguments["padding"]:
        compare(
            lambda x: ops.lp_pool(x, 3, 2, stride=2),
            lambda x: getattr(functional, f"lp_pool{rank}d")(x, 2, 3, stride=2),
        )
    pool = getattr(functional, f"max_pool{rank}d")
    ty, ti = pool(
        torch.from_numpy(np.moveaxis(x, -1, 1).copy()), 3, return_indices=True, **arguments
    )
    y, index = jax.jit(lambda x: ops.max_pool_with_indices(x, 3, **arguments))(x)
    np.testing.assert_array_equal(index, np.moveaxis(ti.numpy(), 1, -1))
    if arguments == {"stride": 2, "padding": 0, "ceil_mode": False}:
        unpooled = getattr(functional, f"max_unpool{rank}d")(
            ty, ti, 3, 2, output_size=x.shape[1:-1]
        )
        close(ops.max_unpool(y, index, x.shape[1:-1]), np.moveaxis(unpooled.numpy(), 1, -1), 1e-6)


@settings(max_examples=30, deadline=None)
@given(
    size=st.integers(2, 9),
    window=st.integers(1, 4),
    stride=st.integers(1, 3),
    dilation=st.integers(1, 2),
    ceil_mode=st.booleans(),
    padding=st.sampled_from(["VALID", "SAME", 1]),
)
def test_shapes_are_what_geometry_says(size, window, stride, dilation, ceil_mode, padding):
    arguments = {"stride": stride, "dilation": dilation, "ceil_mode": ceil_mode, "padding": padding}
    try:
        expected = geometry.pool_output_shape((size, size), window, **arguments)
    except ValueError as error:
        assert "larger than the padded input" in str(error)  # noqa: PT017
        return
    x = jax.ShapeDtypeStruct((1, size, size, 2), jnp.float32)
    for op in (ops.max_pool, ops.avg_pool):
        y = jax.eval_shape(lambda x, op=op: op(x, window, **arguments), x)
        assert y.shape == (1, *expected, 2)


@settings(max_examples=8, deadline=None)
@given(
    size=st.integers(3, 9),
    window=st.integers(1, 3),
    stride=st.integers(1, 3),
    seed=st.integers(0, 99),
)
def test_every_window_passes_on_exactly_its_gradient(size, window, stride, seed):
    """Whatever the ties, the gradient that goes in is the gradient that comes out."""
    x = np.random.default_rng(seed).integers(0, 2, (1, size, size, 1)).astype(np.float32)

    @jax.jit
    def run(x):
        y, pullback = jax.vjp(lambda x: ops.max_pool(x, window, stride=stride, padding="SAME"), x)
        dy = normal(seed, y.shape)
        return y, dy, *pullback(dy)

    y, dy, dx = run(x)
    np.testing.assert_allclose(dx.sum(), dy.sum(), rtol=1e-4, atol=1e-4)
    close((dx * x).sum(), (dy * y).sum(), 1e-4)  # a maximum is homogeneous


def test_global_pools():
    x = normal(0, (2, 3, 4, 5))
    close(ops.global_avg_pool(x), x.mean((1, 2)))
    close(ops.global_max_pool(x), x.max((1, 2)))
    assert ops.global_avg_pool(x, keepdims=True).shape == (2, 1, 1, 5)
    assert ops.global_max_pool(x, keepdims=True).shape == (2, 1, 1, 5)


def test_adaptive_pools_keep_a_dimension_marked_none():
    x = normal(0, (2, 6, 7, 3))
    assert ops.adaptive_avg_pool(x, (3, None)).shape == (2, 3, 7, 3)
    assert ops.adaptive_max_pool(x, (None, 2)).shape == (2, 6, 2, 3)
    close(ops.adaptive_avg_pool(x, None), x)


def test_unpooling_undoes_pooling_where_the_maxima_were():
    x = jnp.asarray(normal(0, (2, 6, 4, 3)))
    y, index = ops.max_pool_with_indices(x, 2)
    back = ops.max_unpool(y, index, (6, 4))
    assert int((back != 0).sum()) == y.size
    np.testing.assert_array_equal(ops.max_pool(jnp.where(back != 0, back, -jnp.inf), 2), y)
    gradient = jax.grad(lambda y: (ops.max_unpool(y, index, (6, 4)) * x).sum())(y)
    close(gradient, y)


@pytest.mark.parametrize("size", [1, 2, 3, 5])
def test_blur_pool_is_a_strided_binomial_blur(size):
    x = normal(0, (2, 9, 8, 3))
    row = np.poly1d([0.5, 0.5]) ** (size - 1)
    kernel = np.outer(row.coef, row.coef)[:, :, None, None].repeat(3, -1).astype(np.float32)
    pads = [((size - 1) // 2, size // 2)] * 2
    expected = oracles.conv(x, kernel, stride=2, padding=pads, padding_mode="reflect", groups=3)
    close(ops.blur_pool(x, size=size), expected)
    np.testing.assert_allclose(ops.blur_pool(jnp.ones((1, 8, 8, 1)), size=size), 1, rtol=1e-6)


def test_lp_pool_between_its_limits():
    x = normal(0, (1, 6, 6, 2))
    close(ops.lp_pool(x, 2, 1), 4 * ops.avg_pool(np.abs(x), 2))
    close(ops.lp_pool(x, 2, float("inf")), ops.max_pool(np.abs(x), 2))
    gradient = jax.grad(lambda x: ops.lp_pool(x, 2, 2).sum())(jnp.zeros((1, 4, 4, 1)))
    np.testing.assert_array_equal(gradient, 0)


POOLS = {
    "max 2/2": lambda x: ops.max_pool(x, 2),
    "max 3/2": lambda x: ops.max_pool(x, 3, stride=2, padding=1),
    "max 3/1": lambda x: ops.max_pool(x, 3, stride=1, padding=1),
    "min": lambda x: ops.min_pool(x, 2),
    "avg 2/2": lambda x: ops.avg_pool(x, 2),
    "avg 3/2": lambda x: ops.avg_pool(x, 3, stride=2, padding=1, count_include_pad=False),
    "lp": lambda x: ops.lp_pool(x, 2, 2),
    "global avg": ops.global_avg_pool,
    "global max": ops.global_max_pool,
    "adaptive avg": lambda x: ops.adaptive_avg_pool(x, 4),
    "adaptive max": lambda x: ops.adaptive_max_pool(x, 4),
    "indices": lambda x: ops.max_pool_with_indices(x, 2)[0],
    "blur": ops.blur_pool,
}


@pytest.mark.parametrize("name", POOLS)
def test_jit_vmap_gradients_and_half_precision(name):
    pool = POOLS[name]
    x = normal(0, (2, 6, 6, 3))

    @jax.jit
    def gradient(x):
        return jax.grad(lambda x: (pool(x) ** 2).sum())(x)

    expected = gradient(x)
    close(jax.vmap(gradient)(np.stack([x, 2 * x])), [expected, gradient(2 * x)])
    half = x.astype(jnp.bfloat16)
    assert pool(half).dtype == jnp.bfloat16
    assert gradient(half).dtype == jnp.bfloat16
    close(pool(half), pool(x), 2e-2)
    with jax.enable_x64():
        check_grads(
            jax.jit(pool), (x.astype(np.float64),), order=1, modes=["rev"], rtol=1e-5, eps=1e-7
        )


@pytest.mark.parametrize("name", POOLS)
def test_an_empty_batch_stays_empty(name):
    empty = jax.ShapeDtypeStruct((0, 6, 6, 3), jnp.float32)
    for impl in ("auto", "lax"):
        with ops.force_impl(impl):
            dx = jax.eval_shape(jax.grad(lambda x: POOLS[name](x).sum()), empty)
        assert dx.shape == empty.shape


@pytest.mark.parametrize("impl", ["lax", "reshape", "phases", "separable"])
def test_second_derivatives_of_max_pool(impl):
    """Piecewise linear: the curvature is that of the function it is put into."""
    x, v = normal(0, (1, 4, 6, 2)), normal(1, (1, 4, 6, 2))
    winners = np.repeat(np.repeat(oracles.pool("max", x, 2), 2, 1), 2, 2) == x
    gradient = jax.grad(lambda x: (ops.max_pool(x, 2, impl=impl) ** 3).sum())
    expected = np.where(winners, 6 * x * v, 0)
    close(jax.jit(jax.grad(lambda x: (gradient(x) * v).sum()))(x), expected)
    close(jax.jit(lambda x: jax.jvp(gradient, (x,), (v,))[1])(x), expected)
