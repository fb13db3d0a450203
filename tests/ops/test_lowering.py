"""The choice of an implementation: explicit, inspectable, and possible to pin."""

import re
import threading

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcnn import ops

X, W = np.ones((1, 8, 8, 4), "f"), np.ones((3, 3, 4, 4), "f")

STEM = ("space_to_depth", "lax", "space_to_depth")
CHOICES = [
    # platform, op, shapes and arguments, expected plan
    ("cpu", ops.conv, ((8, 56, 56, 64), (1, 1, 64, 256)), {}, ("dot", "dot", "dot")),
    (
        "cpu",
        ops.conv,
        ((8, 56, 56, 64), (1, 1, 64, 256)),
        {"padding": 1},
        ("lax", "canonical", "canonical"),
    ),
    ("cpu", ops.conv, ((8, 32, 32, 64), (3, 3, 64, 64)), {}, ("lax", "canonical", "canonical")),
    ("cpu", ops.conv, ((8, 28, 28, 1), (5, 5, 1, 6)), {}, ("blocks", "blocks", "canonical")),
    ("cpu", ops.depthwise_conv, ((8, 14, 14, 96), (3, 3, 1, 96)), {}, ("shift", "shift", "shift")),
    (
        "cpu",
        ops.conv,
        ((8, 14, 14, 512), (3, 3, 16, 512)),
        {"groups": 32},
        ("lax", "canonical", "einsum"),
    ),
    ("gpu", ops.conv, ((8, 14, 14, 512), (3, 3, 16, 512)), {"groups": 32}, ("lax",) * 3),
    ("tpu", ops.conv, ((8, 56, 56, 64), (1, 1, 64, 256)), {}, ("lax",) * 3),
    # a transposed convolution goes forward as the convolution's input gradient
    (
        "cpu",
        ops.conv_transpose,
        ((8, 14, 14, 64), (3, 3, 64, 64)),
        {"stride": 2},
        ("canonical", "lax", "canonical"),
    ),
    ("cpu", ops.conv, ((8, 4, 4, 32), (5, 5, 32, 32)), {}, ("patches", "patches", "canonical")),
    # one slice per tap would make a program that takes minutes to compile
    ("cpu", ops.depthwise_conv, ((1, 90, 90, 3), (81, 81, 1, 3)), {}, ("dense", "dense", "lax")),
    (
        "cpu",
        ops.depthwise_conv,
        ((1, 9, 9, 256), (17, 17, 1, 256)),
        {},
        ("lax", "canonical", "lax"),
    ),
    ("cpu", ops.max_pool, ((8, 8, 8, 4), 2), {}, ("separable", "reshape", "none")),
    (
        "cpu",
        ops.max_pool,
        ((8, 9, 9, 4), 3),
        {"dilation": 2, "impl": "lax"},
        ("lax", "separable", "none"),
    ),
    ("cpu", ops.max_pool, ((8, 9, 9, 4), 3), {"stride": 2}, ("separable", "phases", "none")),
    ("cpu", ops.max_pool, ((8, 9, 9, 4), 3), {"stride": 1}, ("separable", "separable", "none")),
    ("gpu", ops.max_pool, ((8, 9, 9, 4), 3), {"stride": 2}, ("separable", "phases", "none")),
    ("gpu", ops.max_pool, ((8, 9, 9, 4), 3), {"stride": 1}, ("separable", "separable", "none")),
    ("gpu", ops.max_pool, ((8, 8, 8, 4), 2), {}, ("separable", "reshape", "none")),
    ("gpu", ops.max_pool, ((8, 9, 9, 4), 3), {"dilation": 2}, ("separable", "separable", "none")),
    ("tpu", ops.max_pool, ((8, 9, 9, 4), 3), {"stride": 2}, ("lax", "lax", "none")),
    ("tpu", ops.max_pool, ((8, 9, 9, 4), 3), {"dilation": 2}, ("lax", "separable", "none")),
    ("gpu", ops.avg_pool, ((8, 8, 8, 4), 2), {}, ("lax", "lax", "none")),
    ("gpu", ops.conv, ((8, 64, 64, 3), (7, 7, 3, 64)), {"stride": 2}, STEM),
    ("gpu", ops.conv, ((8, 64, 64, 3), (11, 11, 3, 64)), {"stride": 4}, STEM),
    ("gpu", ops.conv, ((8, 64, 64, 3), (3, 3, 3, 64)), {"stride": 2}, ("lax",) * 3),
    ("gpu", ops.conv, ((8, 64, 64, 64), (7, 7, 64, 64)), {"stride": 2}, ("lax",) * 3),
    ("tpu", ops.conv, ((8, 64, 64, 3), (7, 7, 3, 64)), {"stride": 2}, ("lax",) * 3),
    ("cpu", ops.avg_pool, ((8, 8, 8, 4), 2), {}, ("reshape", "reshape", "none")),
]


@pytest.mark.parametrize(("platform", "op", "positional", "arguments", "plan"), CHOICES)
def test_auto_chooses(platform, op, positional, arguments, plan):
    (record,) = ops.explain(op, *positional, platform=platform, **arguments)
    assert tuple(record.plan) == plan
    assert record.platform == platform
    assert all(why for why in record.why.values())
    assert str(record).startswith(f"{record.op} on {platform}\n")


def test_explain_walks_a_whole_function_and_computes_nothing():
    def network(x, w):
        return ops.max_pool(ops.conv(ops.conv(x, w), w), 2)

    records = ops.explain(network, X, W)
    assert [record.op for record in records] == ["conv", "conv", "max_pool"]


def primitives(f, *args):
    text = str(jax.make_jaxpr(f)(*args))
    return {
        name
        for name in (
            "conv_general_dilated",
            "custom_vjp_call",
            "dot_general",
            "reduce_window_max",
            "reduce_window_sum",
        )
        if name in text
    }


def test_lax_is_plain_lax():
    plain = {"conv_general_dilated"}
    assert primitives(lambda x, w: ops.conv(x, w, impl="lax"), X, W) == plain
    assert primitives(lambda x: ops.max_pool(x, 2, impl="lax"), X) == {"reduce_window_max"}
    assert primitives(lambda x: ops.avg_pool(x, 2, impl="lax"), X) == {"reduce_window_sum"}
    with ops.force_impl("lax"):
        assert primitives(lambda x, w: ops.conv(x, w), X, W) == plain
        assert primitives(lambda x, w: ops.conv_transpose(x, w), X, W) == plain
        assert primitives(lambda x: ops.max_pool(x, 2), X) == {"reduce_window_max"}
        assert primitives(lambda x: ops.avg_pool(x, 2), X) == {"reduce_window_sum"}
    with ops.force_impl(platform="gpu"):
        assert primitives(lambda x, w: ops.conv(x, w), X, W) == plain


def test_lax_keeps_forward_mode():
    with ops.force_impl("lax"):
        y, dy = jax.jvp(lambda x: ops.max_pool(ops.conv(x, W), 2), (X,), (X,))
    np.testing.assert_allclose(y, dy)
    with pytest.raises(TypeError, match="custom_vjp"):
        jax.jvp(lambda x: ops.conv(x, W), (X,), (X,))


def test_a_trace_under_another_choice_is_not_used_again():
    """``jit`` and ``scan`` cache what they trace by function; the choice is part of the key."""

    @jax.jit
    def inner(x):
        return ops.conv(x, W)

    def body(carry, x):
        return carry, ops.conv(x, W)

    for f in (inner, lambda x: jax.lax.scan(body, 0, x[None])):
        with ops.force_impl(platform="cpu"):
            assert "custom_vjp_call" in primitives(f, X)
            assert len(ops.explain(f, X)) == len(ops.explain(f, X)) == 1
        with ops.force_impl("lax"):
            assert "custom_vjp_call" not in primitives(f, X)


def test_force_impl_ends_with_its_block_and_stays_in_its_thread():
    inside, outside = [], []

    def look(into):
        into.append(primitives(lambda x, w: ops.conv(x, w), X, W))

    with ops.force_impl("lax"):
        with ops.force_impl("auto"):
            look(outside)
        look(inside)
        thread = threading.Thread(target=look, args=(outside,))
        thread.start()
        thread.join()
    look(outside)
    if jax.default_backend() == "cpu":
        assert inside == [{"conv_general_dilated"}]
        assert all("custom_vjp_call" in found for found in outside)


IN_TURN = [
    (ops.conv, (3, 3, 4, 4), {}),
    (ops.conv, (5, 5, 4, 6), {"stride": 2, "impl": "lax"}),
    (ops.conv, (1, 1, 4, 8), {}),
    (ops.depthwise_conv, (3, 3, 1, 4), {}),
    (ops.conv_transpose, (2, 2, 4, 3), {"stride": 2}),
]


@pytest.mark.parametrize("platform", ["cpu", "gpu"])
@pytest.mark.parametrize(("op", "kernel", "arguments"), IN_TURN)
def test_a_batch_of_kernels_is_convolved_in_turn(op, kernel, arguments, platform):
    """Values and gradients of each kernel, and no convolution with more groups than its own."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((3, 2, 8, 8, 4), np.float32)
    w = rng.standard_normal((3, *kernel), np.float32)

    def found(x, w):
        loss = lambda x, w: (op(x, w, **arguments) ** 2).sum()  # noqa: E731
        return op(x, w, **arguments), jax.grad(loss, (0, 1))(x, w)

    with ops.lowering.batched_in_turn(), ops.force_impl(platform=platform):
        jaxpr = str(jax.make_jaxpr(jax.vmap(found))(x, w))
        batch = jax.jit(jax.vmap(found))(x, w)
    groups = 4 if op is ops.depthwise_conv else 1
    assert {int(n) for n in re.findall(r"feature_group_count=(\d+)", jaxpr)} <= {1, groups}
    with ops.force_impl(platform=platform):
        each = [jax.jit(found)(*pair) for pair in zip(x, w, strict=True)]
    for place, one in enumerate(each):
        for a, b in zip(jax.tree.leaves(batch), jax.tree.leaves(one), strict=True):
            np.testing.assert_allclose(a[place], b, rtol=1e-5, atol=1e-4)


def test_a_pin_on_the_call_wins_over_the_block():
    with ops.force_impl("lax"):
        assert "custom_vjp_call" in primitives(lambda x: ops.max_pool(x, 2, impl="reshape"), X)


NAMED = {
    "conv": lambda x: ops.conv(x, W),
    "conv_transpose": lambda x: ops.conv_transpose(x, W),
    "depthwise_conv": lambda x: ops.depthwise_conv(x, W[:, :, :1]),
    "max_pool": lambda x: ops.max_pool(x, 2),
    "min_pool": lambda x: ops.min_pool(x, 2),
    "avg_pool": lambda x: ops.avg_pool(x, 2),
    "lp_pool": lambda x: ops.lp_pool(x, 2),
    "blur_pool": ops.blur_pool,
    "global_avg_pool": ops.global_avg_pool,
    "global_max_pool": ops.global_max_pool,
    "adaptive_avg_pool": lambda x: ops.adaptive_avg_pool(x, 3),
    "adaptive_max_pool": lambda x: ops.adaptive_max_pool(x, 3),
    "batch_norm": lambda x: ops.batch_norm(x, np.zeros(4, "f"), np.ones(4, "f"), train=True)[0],
    "layer_norm": ops.layer_norm,
    "group_norm": lambda x: ops.group_norm(x, 2),
    "local_response_norm": ops.local_response_norm,
}


@pytest.mark.parametrize("impl", ["auto", "lax"])
@pytest.mark.parametrize("name", NAMED)
def test_every_op_is_named_in_profiles(name, impl):
    with ops.force_impl(impl):
        jaxpr = jax.make_jaxpr(NAMED[name])(jnp.asarray(X))
    scopes = {str(equation.source_info.name_stack) for equation in jaxpr.eqns}
    assert any(name in scope.split("/") for scope in scopes)
