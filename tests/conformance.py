"""What every architecture promises, driven by one table (``benchmarks/zoo.py``)."""

import functools
import itertools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from benchmarks.zoo import ROWS, TABLE, Row, build, shapes, variables
from jaxcnn import models

ALL = pytest.mark.parametrize("row", TABLE, ids=lambda row: row.name)
# One of each family by default, and all of them in the slow tests.
EACH = pytest.mark.parametrize(
    "row",
    [
        pytest.param(row, id=row.name, marks=() if row.representative else pytest.mark.slow)
        for row in TABLE
    ],
)


def _families(fast: Callable[[Row], Any]) -> Any:
    """One row for each family; slow where ``fast`` does not hold."""
    return pytest.mark.parametrize(
        "row",
        [
            pytest.param(row, id=row.name, marks=() if fast(row) else pytest.mark.slow)
            for row in TABLE
            if row.representative
        ],
    )


FAMILIES = _families(lambda row: True)
# Their gradients take 10 s and more to compile, and to trace them takes as long as ten others.
DEEP = {"inception_v3", "googlenet", "googlenet_2014", "convnext_tiny", "xception"}
SHALLOW = _families(lambda row: row.name not in DEEP)
SMALL = _families(lambda row: row.parameters < 1_000_000)  # compiles every operation by itself
FAST = {"xla_backend_optimization_level": 0}  # compiling takes longer than running here


def images(batch: int, image: tuple[int, int, int]) -> np.ndarray:
    return np.random.default_rng(3).standard_normal((batch, *image), np.float32)


def out_shapes(model: Any, image: tuple[int, ...], batch: int = 2, **call: Any) -> Any:
    """Shapes of the output on one image size, without computing it."""
    x = jax.ShapeDtypeStruct((batch, *image), jnp.float32)

    def output(key: jax.Array, x: jax.Array) -> Any:
        return model.init_with_output(key, x, **call)[0]

    return jax.eval_shape(output, jax.random.key(0), x)


def test_the_table_is_the_zoo() -> None:
    assert sorted(ROWS) == models.list_models()
    assert len(ROWS) == len(TABLE)
    families = {row.family for row in TABLE}
    assert families == {row.family for row in TABLE if row.representative}


def logits_shape(
    row: Row, image: tuple[int, ...], num_classes: int, batch: int = 2
) -> tuple[int, ...]:
    return (batch, *(image[:2] if row.name in models.PER_PIXEL else ()), num_classes)


def check_output(logits: Any, ends: dict[str, Any], shape: tuple[int, ...]) -> None:
    assert logits.shape == shape
    stages = [name for name in ends if name.startswith("stage")]
    assert stages == [f"stage{i}" for i in range(1, len(stages) + 1)]
    assert stages
    assert ends["features"].shape[:-1] == shape[:-1]
    for head in ends.get("aux_logits", ()):
        assert head.shape == shape


@EACH
def test_parameters_and_any_sides(row: Row) -> None:
    model = build(row, row.classes, dtype=jnp.bfloat16)
    height, width, channels = models.standard_input(row.name)
    if row.any_size:
        side = max(row.size, row.smallest + 1)
        height, width = side | 1, side + 6
    x = jax.ShapeDtypeStruct((2, height, width, channels), jnp.float32)
    (logits, ends), state = jax.eval_shape(
        functools.partial(model.init_with_output, endpoints=True), jax.random.key(0), x
    )
    assert sum(leaf.size for leaf in jax.tree.leaves(state["params"])) == row.parameters
    assert {leaf.dtype for leaf in jax.tree.leaves(state)} == {jnp.dtype("float32")}
    assert logits.dtype == jnp.bfloat16
    check_output(logits, ends, logits_shape(row, (height, width), row.classes))


@SHALLOW
def test_any_classes_and_channels(row: Row) -> None:
    side = max(row.size, row.smallest + 1)
    for num_classes, image in ((7, (side | 1, side + 6, 5)), (1, (side + 2, side, 1))):
        logits, ends = out_shapes(build(row, num_classes), image, endpoints=True)
        assert logits.dtype == jnp.float32
        check_output(logits, ends, logits_shape(row, image, num_classes))


@ALL
def test_smallest_image(row: Row) -> None:
    model = build(row)
    if row.smallest > 1:
        below = (row.smallest - 1, row.smallest, row.channels)
        with pytest.raises(ValueError, match=f"at least {row.smallest}x{row.smallest}"):
            out_shapes(model, below)
    if row.representative:
        smallest = (row.smallest, row.smallest, row.channels)
        expected = logits_shape(row, smallest, 10, batch=1)
        assert out_shapes(model, smallest, batch=1).shape == expected


@FAMILIES
def test_small_images_stem(row: Row) -> None:
    if "small_images" not in models.model_options(row.name):
        pytest.skip("the family has no accepted stem for 32x32 images")
    logits, ends = out_shapes(build(row, small_images=True), (32, 32, 3), endpoints=True)
    assert logits.shape == (2, 10)
    assert ends["stage1"].shape[1] >= 16


@SHALLOW
def test_wrong_channels_are_named(row: Row) -> None:
    model = build(row)
    held = shapes(model, row.image)
    wrong = jax.ShapeDtypeStruct((1, *row.image[:2], row.channels + 1), jnp.float32)
    with pytest.raises(
        ValueError, match=r"expects \d+ features, got|takes \d+ input channels, got"
    ):
        jax.eval_shape(model.apply, held, wrong)


@SHALLOW
def test_eval_mode(row: Row) -> None:
    """One compilation; examples do not see one another; bf16 is close."""
    model = build(row, **row.slim)
    state = variables(model, row.image)
    x = images(3, row.image)
    traces = itertools.count()

    @functools.partial(jax.jit, compiler_options=FAST)
    def forward(state: Any, x: jax.Array) -> jax.Array:
        next(traces)
        return model.apply(state, x)

    logits = np.asarray(forward(state, x))
    assert np.isfinite(logits).all()
    scale = np.abs(logits).max()
    other = forward(state, x[np.array([2, 1, 2])])
    assert next(traces) == 1, "compiled more than once"
    np.testing.assert_array_equal(other[1:], logits[1:])
    np.testing.assert_allclose(other[0], logits[2], atol=1e-5 * scale)

    low = build(row, dtype=jnp.bfloat16, **row.slim)
    low = jax.jit(low.apply).lower(state, x).compile(FAST)(state, x)
    assert low.dtype == jnp.bfloat16
    error = np.asarray(low, np.float32) - logits
    assert np.sqrt((error**2).mean()) < 0.1 * scale


@SMALL
def test_jit_equals_eager(row: Row) -> None:
    model = build(row, **row.slim)
    state = variables(model, row.image)
    x = images(1, row.image)
    forward = functools.partial(model.apply, endpoints=True)
    compiled = jax.jit(forward, compiler_options=FAST)(state, x)
    results = jax.device_get((compiled, forward(state, x)))
    for jitted, eager in zip(*map(jax.tree.leaves, results), strict=True):
        assert np.isfinite(jitted).all()
        np.testing.assert_allclose(eager, jitted, atol=1e-4 * np.abs(jitted).max())


def gradients(row: Row, **options: Any) -> tuple[dict[str, np.ndarray], Any, Any]:
    """Gradients by parameter in training mode, and the statistics before and after."""
    model = build(row, **row.slim, **options)
    state = variables(model, row.train_image)
    x = images(row.train_batch, row.train_image)
    labels = jax.nn.one_hot(jnp.arange(row.train_batch), 10)

    def loss(params: Any) -> tuple[jax.Array, Any]:
        (logits, ends), updated = model.apply(
            {**state, "params": params}, x, train=True, endpoints=True, mutable=["batch_stats"]
        )
        heads = [logits, *ends.get("aux_logits", ())]
        scaled = [head / jnp.abs(jax.lax.stop_gradient(head)).max() for head in heads]
        return sum(jnp.einsum("n...c,nc->", head, labels) for head in scaled), updated

    step = jax.jit(jax.grad(loss, has_aux=True)).lower(state["params"]).compile(FAST)
    # To NumPy, since JAX compiles every comparison for every shape.
    state, (grads, updated) = jax.device_get((state, step(state["params"])))
    return flatten_dict(grads, sep="/"), state.get("batch_stats"), updated.get("batch_stats")


@SHALLOW
def test_gradients(row: Row) -> None:
    """Every gradient is finite and, unless the table says so, not zero; statistics move."""
    grads, before, after = gradients(row)
    for name, grad in grads.items():
        assert np.isfinite(grad).all(), f"the gradient of {name} is not finite"
        if not any(part in name for part in row.dead):
            assert np.any(grad), f"the gradient of {name} is zero"
    for old, new in zip(jax.tree.leaves(before), jax.tree.leaves(after), strict=True):
        assert np.isfinite(new).all()
        assert np.any(new != old), "a running statistic did not move"


@_families(lambda row: row.name == "resnet18")  # compiles twice
def test_remat_changes_nothing(row: Row) -> None:
    if "remat" not in models.model_options(row.name):
        pytest.skip("the model is too small to have the option")
    grads, _, after = gradients(row)
    again, _, after_again = gradients(row, remat=True)
    assert again.keys() == grads.keys()
    # A shift in front of a normalisation has no gradient but what rounding leaves of it.
    rounding = 1e-6 * max(np.abs(grad).max() for grad in grads.values())
    for name, grad in grads.items():
        atol = 1e-4 * np.abs(grad).max() + rounding
        np.testing.assert_allclose(again[name], grad, atol=atol, err_msg=name)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), after_again, after
    )


@SHALLOW
def test_remat_recomputes(row: Row) -> None:
    """The option takes effect and leaves the names of the variables as they are."""
    if "remat" not in models.model_options(row.name):
        pytest.skip("the model is too small to have the option")
    x = jax.ShapeDtypeStruct((1, *row.image), jnp.float32)
    model = build(row, remat=True, **row.slim)
    state = shapes(model, row.image)
    assert state == shapes(build(row, **row.slim), row.image)
    assert "remat" in str(jax.make_jaxpr(model.apply)(state, x))


@SHALLOW
def test_init_for_many_seeds(row: Row) -> None:
    model = build(row, **row.slim)
    x = jax.ShapeDtypeStruct((1, *row.image), jnp.float32)
    keys = jax.eval_shape(lambda: jax.random.split(jax.random.key(0), 3))
    many = jax.eval_shape(jax.vmap(model.init, in_axes=(0, None)), keys, x)
    one = shapes(model, row.image)
    jax.tree.map(lambda m, o: (m.shape == (3, *o.shape)) or pytest.fail("vmap"), many, one)


DRAWN = ["mobilenet_v1", "lenet5"]
DRAWN_SLOWLY = ["resnet20", "mobilenet_v2", "mnasnet0_5", "efficientnet_b0", "shufflenet_v2_x0_5"]


@pytest.mark.parametrize(
    "name", [*DRAWN, *(pytest.param(name, marks=pytest.mark.slow) for name in DRAWN_SLOWLY)]
)
def test_every_seed_draws_other_values(name: str) -> None:
    row = ROWS[name]
    model = build(row, **row.slim)
    init = jax.jit(jax.vmap(model.init, in_axes=(0, None)), compiler_options=FAST)
    drawn = init(jax.random.split(jax.random.key(0), 3), jnp.zeros((1, *row.image)))
    drawn = jax.device_get(drawn)
    for path, leaf in flatten_dict(drawn["params"], sep="/").items():
        assert np.isfinite(leaf).all(), path
        if path.endswith("kernel"):
            assert np.any(leaf[0] != leaf[1]), f"{path} is the same for two seeds"
