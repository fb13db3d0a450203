"""Normalisation against its definition and PyTorch; statistics, masks, replicas, half precision."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from jaxcnn import ops
from jaxcnn.layers import BatchNorm
from tests.ops.oracles import close, normal


def channel_values(seed, c):
    return normal(seed, (c,)), np.abs(normal(seed + 1, (c,))) + 0.5


@pytest.mark.parametrize("shape", [(6, 3), (4, 5, 3), (4, 5, 6, 3), (2, 3, 4, 5, 3)])
@pytest.mark.parametrize("train", [True, False])
@pytest.mark.parametrize("platform", ["cpu", "gpu"])
@pytest.mark.parametrize("activation", [None, "relu", "relu6", "silu"])
def test_batch_norm_is_that_of_pytorch(shape, train, platform, activation):
    torch = pytest.importorskip("torch")
    x = 3 + 2 * normal(0, shape)
    (mean, var), (scale, bias) = channel_values(1, 3), channel_values(3, 3)

    def ours(x, scale, bias):
        function = activation and getattr(jax.nn, activation)
        with ops.force_impl(platform=platform):
            return ops.batch_norm(
                x, mean, var, scale, bias, train=train, momentum=0.8, activation=function
            )

    dy = normal(5, shape)

    @jax.jit
    def run(x, scale, bias):
        y, pullback, statistics = jax.vjp(
            lambda *a: (lambda y, *statistics: (y, statistics))(*ours(*a)),
            x,
            scale,
            bias,
            has_aux=True,
        )
        return y, *statistics, *pullback(dy)

    y, new_mean, new_var, dx, dscale, dbias = run(x, scale, bias)
    tensors = [torch.from_numpy(np.moveaxis(x, -1, 1).copy()), *map(torch.tensor, (scale, bias))]
    for tensor in tensors:
        tensor.requires_grad_()
    running = torch.tensor(mean), torch.tensor(var)
    ty = torch.nn.functional.batch_norm(
        tensors[0], *running, *tensors[1:], training=train, momentum=0.2, eps=1e-5
    )
    ty = getattr(torch.nn.functional, activation)(ty) if activation else ty
    ty.backward(torch.from_numpy(np.moveaxis(dy, -1, 1).copy()))
    close(y, np.moveaxis(ty.detach().numpy(), 1, -1))
    close(new_mean, running[0].numpy())
    close(new_var, running[1].numpy())
    close(dx, np.moveaxis(tensors[0].grad.numpy(), 1, -1))
    close(dscale, tensors[1].grad.numpy())
    close(dbias, tensors[2].grad.numpy())


@pytest.mark.parametrize("platform", ["cpu", "gpu"])
def test_batch_norm_survives_a_large_mean(platform):
    x = 1e4 + normal(0, (64, 8, 8, 2))
    with ops.force_impl(platform=platform):
        y, _, _ = ops.batch_norm(x, np.zeros(2, "f"), np.ones(2, "f"), train=True)
    exact = x.astype(np.float64)
    expected = (exact - exact.mean((0, 1, 2))) / np.sqrt(exact.var((0, 1, 2)) + 1e-5)
    close(y, expected, 1e-3)


def test_masked_entries_do_not_count():
    x = normal(0, (6, 4, 3))
    garbage = x.copy()
    garbage[4:] = 1e6
    start = np.zeros(3, "f"), np.ones(3, "f")
    expected = ops.batch_norm(x[:4], *start, train=True)
    mask = np.array([1, 1, 1, 1, 0, 0])
    for m in (mask, mask.astype(bool), np.broadcast_to(mask[:, None], (6, 4)).astype("f")):
        y, mean, var = ops.batch_norm(garbage, *start, train=True, mask=m)
        close(y[:4], expected[0])
        close(mean, expected[1])
        close(var, expected[2])


def test_a_batch_in_which_nothing_counts_leaves_the_statistics_alone():
    start = np.array([1.0, -2.0], "f"), np.array([3.0, 0.5], "f")
    _, mean, var = ops.batch_norm(normal(0, (4, 2)), *start, train=True, mask=np.zeros(4, "f"))
    np.testing.assert_array_equal([mean, var], start)


def test_statistics_over_replicas_are_those_of_the_whole_batch():
    x = normal(0, (8, 5, 3))
    start = np.zeros(3, "f"), np.ones(3, "f")
    mask = np.array([1, 1, 0, 1, 1, 1, 1, 0], "f")
    for m in (None, mask):
        expected = ops.batch_norm(x, *start, train=True, mask=m)
        y, mean, var = jax.vmap(
            lambda x, m: ops.batch_norm(x, *start, train=True, axis_name="replica", mask=m),
            axis_name="replica",
            in_axes=(0, None if m is None else 0),
        )(x.reshape(2, 4, 5, 3), None if m is None else m.reshape(2, 4))
        close(y.reshape(x.shape), expected[0])
        close(mean[0], expected[1])
        close(var[1], expected[2])


def test_the_biased_running_variance_is_a_choice():
    x = np.array([[0.0], [2.0]], np.float32)
    start = np.zeros(1, "f"), np.zeros(1, "f")
    for unbiased, expected in ((True, 2.0), (False, 1.0)):
        _, _, var = ops.batch_norm(x, *start, train=True, momentum=0.0, unbiased=unbiased)
        assert float(var[0]) == pytest.approx(expected)


def test_one_entry_gives_no_nan():
    y, mean, var = ops.batch_norm(
        np.ones((1, 2), "f"), np.zeros(2, "f"), np.ones(2, "f"), train=True
    )
    assert np.isfinite(np.concatenate([y[0], mean, var])).all()


def test_layer_and_group_norm_are_those_of_pytorch():
    torch = pytest.importorskip("torch")
    functional = torch.nn.functional
    x, (scale, bias) = normal(0, (3, 5, 4, 6)), channel_values(1, 6)
    tensors = torch.tensor(scale), torch.tensor(bias)
    expected = functional.layer_norm(torch.tensor(x), (6,), *tensors, eps=1e-6)
    close(ops.layer_norm(x, scale, bias), expected.numpy())
    expected = functional.layer_norm(torch.tensor(x), (5, 4, 6), eps=1e-6)
    close(ops.layer_norm(x, axis=(1, 2, 3)), expected.numpy())
    for groups in (1, 2, 6):
        channels_first = torch.from_numpy(np.moveaxis(x, -1, 1).copy())
        expected = functional.group_norm(channels_first, groups, *tensors, eps=1e-5).numpy()
        close(ops.group_norm(x, groups, scale, bias), np.moveaxis(expected, 1, -1))


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 9])
def test_local_response_norm_is_the_loop(size):
    x = 3 * normal(0, (2, 4, 4, 6))
    for k, divide in ((1.0, True), (2.0, False)):
        expected = np.empty_like(x)
        for c in range(6):
            window = x[..., max(0, c - size // 2) : c + (size - 1) // 2 + 1]
            alpha = 0.1 / size if divide else 0.1
            expected[..., c] = x[..., c] / (k + alpha * (window**2).sum(-1)) ** 0.75
        close(ops.local_response_norm(x, size, 0.1, 0.75, k, divide_alpha=divide), expected)


@pytest.mark.parametrize("size", [2, 5])
def test_local_response_norm_is_that_of_pytorch(size):
    torch = pytest.importorskip("torch")
    x = 3 * normal(0, (2, 4, 5, 8))
    tx = torch.from_numpy(np.moveaxis(x, -1, 1).copy())
    expected = torch.nn.functional.local_response_norm(tx, size, 0.1, 0.75, 2.0)
    close(ops.local_response_norm(x, size, 0.1, 0.75, 2.0), np.moveaxis(expected.numpy(), 1, -1))


NORMS = {
    "batch": lambda x: ops.batch_norm(x, np.zeros(4, "f"), np.ones(4, "f"), train=True)[0],
    "layer": ops.layer_norm,
    "group": lambda x: ops.group_norm(x, 2),
    "local response": lambda x: ops.local_response_norm(x, 3, 0.5),
}


@pytest.mark.parametrize("name", NORMS)
def test_jit_vmap_half_precision_and_finite_differences(name):
    norm = NORMS[name]
    x = normal(0, (4, 3, 4))
    close(jax.jit(norm)(x), norm(x))
    close(jax.vmap(norm)(np.stack([x, x + 1])), [norm(x), norm(x + 1)])
    half = norm(x.astype(jnp.bfloat16))
    assert half.dtype == jnp.bfloat16
    close(half, norm(x), 2e-2)
    with jax.enable_x64():
        modes = ["rev"] if name == "batch" else ["fwd", "rev"]
        check_grads(jax.jit(norm), (x.astype(np.float64),), order=2, modes=modes, rtol=1e-5)
        with ops.force_impl("lax"):
            check_grads(jax.jit(norm), (x.astype(np.float64),), order=2, rtol=1e-5)


@pytest.mark.parametrize("platform", ["cpu", "gpu"])
def test_the_closed_gradient_of_batch_norm_is_that_of_its_plain_form(platform):
    x, dy, (scale, bias) = (
        normal(0, (4, 3, 3, 5)) + 2,
        normal(1, (4, 3, 3, 5)),
        channel_values(2, 5),
    )

    def loss(x, scale, bias):  # depends on the statistics, too
        y, mean, var = ops.batch_norm(
            x, bias, scale, scale, bias, train=True, momentum=0.3, activation=jax.nn.silu
        )
        return (y * dy).sum() + jnp.sin(mean).sum() + jnp.square(var).sum()

    for order in (
        jax.grad,
        lambda f, **k: jax.grad(lambda *a: jnp.sin(jax.grad(f)(*a)).sum(), **k),
    ):
        with ops.force_impl(platform=platform):
            closed = jax.jit(order(loss, argnums=(0, 1, 2)))(x, scale, bias)
        with ops.force_impl("lax"):
            plain = jax.jit(order(loss, argnums=(0, 1, 2)))(x, scale, bias)
        jax.tree.map(close, closed, plain)


def test_half_precision_statistics_are_kept_in_float32():
    x = jnp.full((4096, 1), 1.0, jnp.bfloat16).at[::2].set(1.5)
    _, mean, var = ops.batch_norm(x, np.zeros(1, "f"), np.ones(1, "f"), train=True, momentum=0.0)
    assert mean.dtype == var.dtype == jnp.float32
    np.testing.assert_allclose(mean, 1.25, rtol=1e-6)


def test_on_a_gpu_what_an_activation_was_given_is_not_stored():
    x, ones = normal(0, (4, 8, 8, 3)), np.ones(3, "f")

    def stored(platform):
        def loss(x):
            y, _, _ = ops.batch_norm(x, ones, ones, train=True, activation=jax.nn.relu)
            return y.sum()

        with ops.force_impl(platform=platform):
            return [
                one.dtype for one in jax.tree.leaves(jax.vjp(loss, x)[1]) if one.shape == x.shape
            ]

    assert stored("gpu") == [jnp.float32]  # x alone
    assert jnp.bool_ in stored("cpu")


def test_an_activation_that_is_no_function_is_refused():
    ones = np.ones(3, "f")
    with pytest.raises(TypeError, match="activation='relu' must be a function of arrays, or None"):
        ops.batch_norm(normal(0, (4, 3)), ones, ones, train=True, activation="relu")


@pytest.mark.parametrize("platform", ["cpu", "gpu"])
def test_an_activation_may_hold_values_with_gradients(platform):
    x, dy, ones = normal(0, (4, 8, 8, 3)), normal(1, (4, 8, 8, 3)), np.ones(3, "f")

    def loss(slope, inside):
        def prelu(y):
            return jnp.where(y > 0, y, slope * y)

        with ops.force_impl(platform=platform):
            activation = prelu if inside else None
            y, _, _ = ops.batch_norm(x, ones, ones, train=True, activation=activation)
        return ((y if inside else prelu(y)) * dy).sum()

    grad = jax.jit(jax.grad(loss), static_argnums=1)
    close(grad(0.1, True), grad(0.1, False))


def test_the_activation_of_a_layer_may_have_parameters():
    norm, x = BatchNorm(activation=nn.PReLU()), normal(0, (4, 3))
    variables = norm.init(jax.random.key(0), x, train=False)

    def loss(params):
        y, _ = norm.apply({**variables, "params": params}, x, train=True, mutable=["batch_stats"])
        return jnp.square(y).sum()

    with ops.force_impl(platform="gpu"):
        slope = jax.grad(loss)(variables["params"])["activation"]["negative_slope"]
    assert slope > 0
