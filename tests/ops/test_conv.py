"""Convolutions against NumPy loops, PyTorch, SciPy and finite differences."""

import itertools

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

SHAPES = {1: (2, 11, 4), 2: (2, 7, 8, 4), 3: (1, 5, 4, 6, 4)}
KERNELS = {1: (3,), 2: (3, 2), 3: (2, 3, 2)}

GRID = [
    {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups}
    for stride, padding, dilation, groups in itertools.product(
        (1, 2), ("SAME", "SAME_LOWER", "VALID", 1), (1, 2), (1, 2, 4)
    )
    if not (stride == 2 and dilation == 2 and groups == 2)
]


@pytest.mark.parametrize("rank", [1, 2, 3])
def test_conv_is_the_loop(rank):
    x, kernel = normal(0, SHAPES[rank]), KERNELS[rank]
    bias = normal(2, (8,))
    for arguments in GRID:
        if rank == 3 and arguments["padding"] == "VALID" and arguments["dilation"] == 2:
            continue  # the kernel would not fit
        w = normal(1, (*kernel, 4 // arguments["groups"], 8))
        conv = jax.jit(lambda x, w, arguments=arguments: ops.conv(x, w, bias=bias, **arguments))
        close(conv(x, w), oracles.conv(x, w, bias=bias, **arguments))


@pytest.mark.parametrize("mode", ["zeros", "reflect", "replicate", "circular"])
@pytest.mark.parametrize("rank", [1, 2, 3])
def test_padding_modes_are_the_loop(mode, rank):
    x, w = normal(0, SHAPES[rank]), normal(1, (*KERNELS[rank], 4, 3))
    for padding in ("SAME", 2, [(2, 1)] * rank):
        arguments = {"padding": padding, "padding_mode": mode, "stride": 2 if rank == 2 else 1}
        close(ops.conv(x, w, **arguments), oracles.conv(x, w, **arguments))


def test_padding_and_stride_per_dimension():
    x, w = normal(0, (2, 9, 8, 3)), normal(1, (3, 3, 3, 5))
    for arguments in (
        {"padding": [1, 2], "stride": (2, 1)},
        {"padding": [(0, 2), (3, 1)], "dilation": (1, 2)},
        {"padding": (2, 0), "stride": (1, 3), "dilation": (2, 1)},
    ):
        close(ops.conv(x, w, **arguments), oracles.conv(x, w, **arguments))


def test_numpy_arrays_and_jax_arrays_alike():
    x, w = normal(0, (1, 5, 5, 2)), normal(1, (3, 3, 2, 2))
    close(ops.conv(x, w), ops.conv(jnp.asarray(x), jnp.asarray(w)), 1e-7)


@settings(max_examples=30, deadline=None)
@given(st.data())
def test_output_shape_is_what_geometry_says(data):
    rank = data.draw(st.integers(1, 3))
    sizes = st.lists(st.integers(1, 12), min_size=rank, max_size=rank)
    small = st.lists(st.integers(1, 3), min_size=rank, max_size=rank)
    spatial, kernel = data.draw(sizes), data.draw(small)
    arguments = {
        "stride": tuple(data.draw(small)),
        "dilation": tuple(data.draw(small)),
        "padding": data.draw(st.sampled_from(["SAME", "SAME_LOWER", "VALID", 1, 2])),
    }
    try:
        expected = geometry.conv_output_shape(tuple(spatial), tuple(kernel), **arguments)
    except ValueError as error:
        assert "larger than the padded input" in str(error)  # noqa: PT017
        return
    x = jax.ShapeDtypeStruct((2, *spatial, 3), jnp.float32)
    w = jax.ShapeDtypeStruct((*kernel, 3, 5), jnp.float32)
    y = jax.eval_shape(lambda x, w: ops.conv(x, w, **arguments), x, w)
    assert y.shape == (2, *expected, 5)
    if arguments["padding"] == "SAME":
        assert expected == tuple(
            -(-n // s) for n, s in zip(spatial, arguments["stride"], strict=True)
        )


@settings(max_examples=8, deadline=None)
@given(
    size=st.integers(3, 9),
    kernel=st.integers(1, 3),
    stride=st.integers(1, 3),
    channels=st.sampled_from([(1, 3), (4, 2), (16, 16)]),
    seed=st.integers(0, 1000),
)
def test_gradients_are_the_adjoint(size, kernel, stride, channels, seed):
    """<conv(x, w), dy> is linear in x and in w, so the gradients must reproduce it."""
    c, o = channels
    x, w = normal(seed, (2, size, size, c)), normal(seed + 1, (kernel, kernel, c, o))

    @jax.jit
    def run(x, w):
        y, pullback = jax.vjp(lambda x, w: ops.conv(x, w, stride=stride), x, w)
        dy = normal(seed + 2, y.shape)
        return y, dy, *pullback(dy)

    y, dy, dx, dw = run(x, w)
    inner = np.vdot(y, dy)
    scale = np.linalg.norm(y) * np.linalg.norm(dy) + 1e-6
    assert abs(np.vdot(dx, x) - inner) < 1e-5 * scale
    assert abs(np.vdot(dw, w) - inner) < 1e-5 * scale


TRANSPOSED = [
    {},
    {"stride": 2},
    {"stride": 2, "padding": 1, "output_padding": 1},
    {"stride": 3, "padding": "VALID"},
    {"stride": 2, "padding": 1, "groups": 2},
    {"stride": 2, "padding": "VALID", "dilation": 2},
    {"stride": 1, "dilation": 3, "padding": 2, "output_padding": 2},
    {"stride": 4},  # a kernel shorter than the stride leaves zeros
    {"stride": 2, "padding": "SAME_LOWER"},
    {"stride": 2, "groups": 4},
]


@pytest.mark.parametrize("arguments", TRANSPOSED)
@pytest.mark.parametrize("rank", [1, 2, 3])
def test_conv_transpose_scatters_each_input(rank, arguments):
    spatial = (5, 4, 3)[:rank]
    groups = arguments.get("groups", 1)
    x, w = normal(0, (2, *spatial, 4)), normal(1, (*(3, 2, 3)[:rank], 4 // groups, 8))
    shape_arguments = {k: v for k, v in arguments.items() if k != "groups"}
    out = geometry.conv_transpose_output_shape(spatial, w.shape[:-2], **shape_arguments)
    stride, dilation = arguments.get("stride", 1), arguments.get("dilation", 1)
    pads = geometry.conv_transpose_padding(
        arguments.get("padding", "SAME"), w.shape[:-2], (stride,) * rank, (dilation,) * rank
    )
    expected = np.zeros((2, *out, 8))
    for i in itertools.product(*map(range, spatial)):
        for t in itertools.product(*map(range, w.shape[:-2])):
            j = tuple(
                a * stride + b * dilation - lo for a, b, (lo, _) in zip(i, t, pads, strict=True)
            )
            if all(0 <= p < n for p, n in zip(j, out, strict=True)):
                for g in range(groups):
                    ci, co = slice(g * 4 // groups, (g + 1) * 4 // groups), 8 // groups
                    expected[(slice(None), *j, slice(g * co, (g + 1) * co))] += (
                        x[(slice(None), *i, ci)] @ w[(*t, slice(None), slice(g * co, (g + 1) * co))]
                    )
    for impl in ("auto", "lax"):
        run = jax.jit(lambda x, w, impl=impl: ops.conv_transpose(x, w, impl=impl, **arguments))
        close(run(x, w), expected)


@pytest.mark.parametrize("arguments", TRANSPOSED)
def test_conv_transpose_gradients_agree_with_lax(arguments):
    x = normal(0, (2, 5, 4, 4))
    w = normal(1, (3, 2, 4 // arguments.get("groups", 1), 8))

    def run(impl, x, w):
        y, pullback = jax.vjp(lambda x, w: ops.conv_transpose(x, w, impl=impl, **arguments), x, w)
        return y, *pullback(jnp.sin(y))

    run = jax.jit(run, static_argnums=0)
    for actual, expected in zip(run("auto", x, w), run("lax", x, w), strict=True):
        close(actual, expected)


def torch_layout(x, torch):
    return torch.from_numpy(np.moveaxis(np.asarray(x), -1, 1).copy()).requires_grad_()


AS_IN_PYTORCH = [
    {"stride": 1, "padding": 0, "dilation": 1, "groups": 1},
    {"stride": 2, "padding": 1, "dilation": 1, "groups": 1},
    {"stride": 1, "padding": 2, "dilation": 2, "groups": 2},
    {"stride": 2, "padding": 1, "dilation": 1, "groups": 4},
]


@pytest.mark.parametrize("rank", [1, 2, 3])
@pytest.mark.parametrize("arguments", AS_IN_PYTORCH)
@pytest.mark.parametrize("transposed", [False, True])
def test_values_and_gradients_are_those_of_pytorch(rank, arguments, transposed):
    are_those_of_pytorch("auto", rank, arguments, transposed)


def are_those_of_pytorch(impl, rank, arguments, transposed=False):
    torch = pytest.importorskip("torch")
    groups = arguments["groups"]
    x, bias = normal(0, (2, *(9, 8, 7)[:rank], 4)), normal(2, (8,))
    w = normal(1, (*(3, 2, 3)[:rank], 4 // groups, 8))
    if transposed:
        arguments = {**arguments, "output_padding": arguments["stride"] - 1}
        ours = ops.conv_transpose
        theirs = getattr(torch.nn.functional, f"conv_transpose{rank}d")
        split = w.reshape(*w.shape[:-1], groups, -1)  # k, c/g, g, o/g -> g c/g, o/g, k
        order = (rank + 1, rank, rank + 2, *range(rank))
        torch_w = split.transpose(order).reshape(4, 8 // groups, *w.shape[:-2])
    else:
        ours, theirs = ops.conv, getattr(torch.nn.functional, f"conv{rank}d")
        torch_w = w.transpose(rank + 1, rank, *range(rank))

    @jax.jit
    def run(x, w, b):
        y, pullback = jax.vjp(lambda x, w, b: ours(x, w, bias=b, impl=impl, **arguments), x, w, b)
        dy = normal(3, y.shape)
        return y, dy, *pullback(dy)

    y, dy, dx, dw, db = jax.tree.map(np.asarray, run(x, w, bias))
    tx, tw = torch_layout(x, torch), torch.from_numpy(torch_w.copy()).requires_grad_()
    tb = torch.from_numpy(bias).requires_grad_()
    ty = theirs(tx, tw, tb, **arguments)
    ty.backward(torch.from_numpy(np.moveaxis(dy, -1, 1).copy()))
    close(y, np.moveaxis(ty.detach().numpy(), 1, -1))
    close(dx, np.moveaxis(tx.grad.numpy(), 1, -1))
    close(db, tb.grad.numpy())
    grad = tw.grad.numpy()
    if transposed:
        split = grad.reshape(groups, 4 // groups, 8 // groups, *w.shape[:-2])
        close(dw, split.transpose(*range(3, 3 + rank), 1, 0, 2).reshape(w.shape))
    else:
        close(dw, np.moveaxis(grad, (0, 1), (-1, -2)))


def test_depthwise_and_separable_are_grouped_convolutions():
    x, w, mixing = normal(0, (2, 6, 5, 4)), normal(1, (3, 3, 1, 8)), normal(2, (1, 1, 8, 5))
    depthwise = oracles.conv(x, w, stride=2, groups=4)
    close(ops.depthwise_conv(x, w, stride=2), depthwise)
    close(ops.separable_conv(x, w, mixing, stride=2), oracles.conv(depthwise, mixing))


@pytest.mark.parametrize("size", [3, 4])
def test_convolve_is_that_of_scipy(size):
    signal = pytest.importorskip("scipy.signal")
    image, kernel = normal(0, (8, 9)), normal(1, (size, size))
    for mode, padding in (("same", "SAME_LOWER"), ("valid", "VALID"), ("full", size - 1)):
        ours = ops.convolve(image[None, :, :, None], kernel[:, :, None, None], padding=padding)
        close(ours[0, :, :, 0], signal.convolve2d(image, kernel, mode))


@pytest.mark.parametrize(
    ("x_shape", "w_shape", "arguments"),
    [
        pytest.param((1, 5, 4, 2), (3, 3, 2, 3), {}, marks=pytest.mark.slow),
        ((1, 5, 4, 16), (1, 1, 16, 2), {"stride": 2}),
        ((2, 6, 2), (3, 1, 2), {"groups": 2, "stride": 2}),
        pytest.param((1, 5, 4), (3, 2, 4), {"groups": 2}, marks=pytest.mark.slow),
    ],
)
def test_float64_gradients_are_finite_differences(x_shape, w_shape, arguments):
    with jax.enable_x64():
        x, w = normal(0, x_shape, np.float64), normal(1, w_shape, np.float64)
        check_grads(
            lambda x, w: ops.conv(x, w, **arguments), (x, w), order=2, modes=["rev"], rtol=1e-6
        )
        check_grads(
            lambda x, w: ops.conv(x, w, impl="lax", **arguments), (x, w), order=2, rtol=1e-6
        )


CASES = {
    "dense": ((2, 6, 6, 16), (3, 3, 16, 16), {}),
    "pointwise": ((2, 6, 6, 4), (1, 1, 4, 8), {"stride": 2}),
    "depthwise": ((2, 6, 6, 4), (3, 3, 1, 4), {"groups": 4}),
    "groups": ((2, 6, 6, 8), (3, 3, 2, 8), {"groups": 4}),
    "thin": ((2, 6, 6, 1), (3, 3, 1, 6), {}),
}


@pytest.mark.parametrize(
    "case",
    [pytest.param(case, marks=pytest.mark.slow if case == "groups" else ()) for case in CASES],
)
def test_jit_vmap_scan_remat_and_half_precision(case):
    x_shape, w_shape, arguments = CASES[case]
    x, w = normal(0, x_shape), normal(1, w_shape)

    def loss(w, x):
        y = ops.conv(x, w, **arguments)
        return (y * jnp.cos(y)).sum()

    gradient = jax.jit(jax.grad(loss))
    expected = gradient(w, x)
    close(jax.jit(jax.grad(jax.checkpoint(loss)))(w, x), expected)
    many = np.stack([w, 2 * w])
    close(jax.vmap(gradient, (0, None))(many, x), [expected, gradient(2 * w, x)])
    images = np.stack([x, -x])
    close(jax.vmap(gradient, (None, 0))(w, images), [expected, gradient(w, -x)])
    close(
        jax.grad(lambda w: jax.vmap(loss, (None, 0))(w, images).sum())(w),
        expected + gradient(w, -x),
    )
    _, steps = jax.lax.scan(lambda carry, x: (carry, gradient(w, x)), 0, images)
    close(steps, [expected, gradient(w, -x)])
    half = gradient(w.astype(jnp.bfloat16), x.astype(jnp.bfloat16))
    assert half.dtype == jnp.bfloat16
    y = ops.conv(x.astype(jnp.bfloat16), w.astype(jnp.bfloat16), **arguments)
    assert y.dtype == jnp.bfloat16
    close(y, ops.conv(x, w, **arguments), 2e-2)


def test_second_derivatives():
    x, w = normal(0, (1, 4, 4, 2)), normal(1, (3, 3, 2, 2))

    def gradient(impl):
        return jax.grad(lambda w: (ops.conv(x, w, impl=impl) ** 3).sum())

    tangent = normal(2, w.shape)
    expected = jax.jvp(gradient("lax"), (w,), (tangent,))[1]
    close(jax.jvp(gradient("auto"), (w,), (tangent,))[1], expected)
    close(jax.grad(lambda w: (gradient("auto")(w) * tangent).sum())(w), expected)


def test_preferred_element_type_and_precision_pass_through():
    x, w = normal(0, (2, 6, 6, 4)), normal(1, (3, 3, 4, 4))
    half = ops.conv(
        x.astype(jnp.bfloat16),
        w.astype(jnp.bfloat16),
        preferred_element_type=jnp.float32,
        precision="highest",
    )
    assert half.dtype == jnp.float32
    gradient = jax.grad(
        lambda w: ops.conv(x.astype(jnp.bfloat16), w, preferred_element_type=jnp.float32).sum()
    )(jnp.asarray(w, jnp.bfloat16))
    assert gradient.dtype == jnp.bfloat16


WIDENED = {
    "conv": (ops.conv, (3, 3, 4, 4), {"stride": 2}),
    "pointwise": (ops.conv, (1, 1, 4, 4), {}),
    "groups": (ops.conv, (3, 3, 2, 4), {"groups": 2}),
    "above": (ops.conv, (7, 7, 4, 2), {"padding": 3}),
    "convolve": (ops.convolve, (3, 3, 4, 4), {}),
    "depthwise": (ops.depthwise_conv, (3, 3, 1, 4), {}),
    "separable": (ops.separable_conv, (3, 3, 1, 4), {"pointwise": (1, 1, 4, 3)}),
    "transposed": (ops.conv_transpose, (3, 3, 4, 4), {"stride": 2}),
    "transposed pointwise": (ops.conv_transpose, (1, 1, 4, 2), {"padding": "VALID"}),
    "transposed depthwise": (ops.conv_transpose, (3, 3, 1, 4), {"groups": 4}),
}


@pytest.mark.parametrize(
    "case",
    [pytest.param(case, marks=pytest.mark.slow if case == "above" else ()) for case in WIDENED],
)
@pytest.mark.parametrize("impl", ["auto", "lax"])
def test_half_precision_in_and_float32_out(case, impl):
    """The products of bfloat16 are exact in float32: so is the sum that is asked for in it."""
    op, w_shape, arguments = WIDENED[case]
    x, w = normal(0, (2, 6, 6, 4)), normal(1, w_shape)
    half = [jnp.asarray(a, jnp.bfloat16) for a in (x, w)]
    if "pointwise" in arguments:
        half.append(jnp.asarray(normal(2, arguments["pointwise"]), jnp.bfloat16))
        arguments = {}

    def run(*arrays):
        return op(*arrays, impl=impl, preferred_element_type=jnp.float32, **arguments)

    y, pullback = jax.vjp(run, *half)
    expected, exact_pullback = jax.vjp(run, *(a.astype(jnp.float32) for a in half))
    assert y.dtype == jnp.float32
    close(y, expected, 1e-5)
    for gradient, exact in zip(pullback(jnp.cos(y)), exact_pullback(jnp.cos(y)), strict=True):
        assert gradient.dtype == jnp.bfloat16
        close(gradient, exact, 2e-2)
