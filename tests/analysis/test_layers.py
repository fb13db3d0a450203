import csv
import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from jaxcnn import cli, ops
from jaxcnn.analysis import bench, layers, summary
from jaxcnn.analysis.budget import Budget
from jaxcnn.layers import BatchNorm, Conv, Dense
from jaxcnn.models import create_model, standard_input

ROOFS = bench.Roofs(1e12, 1e10)
FP32 = bench.Settings("fp32", 2, 0, 1)


class Block(nn.Module):
    """Has a parameter of its own around other modules, as ConvNeXt's blocks."""

    @nn.compact
    def __call__(self, x, train):
        y = nn.remat(Conv)(x.shape[-1], name="conv")(x)
        y = nn.relu(BatchNorm(name="norm")(y, train=train))
        return x + self.param("gamma", nn.initializers.ones_init(), (1, 1, 1, y.shape[-1])) * y


class Mixed(nn.Module):
    """Recomputes a block, uses a module twice, multiplies activations, has an auxiliary head."""

    @nn.compact
    def __call__(self, x, *, train=False, endpoints=False):
        x = ops.max_pool(nn.relu(Conv(4, name="stem")(x)), 2)
        x = nn.remat(Block, static_argnums=(2,))(name="again")(x, train)
        x = Block(name="block")(x, train)
        shared = Conv(4, name="shared")
        x = ops.max_pool(shared(nn.relu(shared(x))), 2)
        x = jnp.einsum("nhwc,nhwd->ncd", x, x).reshape(x.shape[0], -1)
        ends = {}
        if train or self.is_initializing():
            ends["aux_logits"] = Dense(3, name="aux")(x)
        logits = Dense(3, name="fc")(x)
        return (logits, ends) if endpoints else logits


def cut(model, shape, work, batch_size=2):
    return layers.split(model, shape, batch_size, jnp.float32, work)


@pytest.mark.parametrize("work", ["infer", "train"])
@pytest.mark.parametrize("name", ["lenet5", "resnet20", "mixed"])
def test_the_layers_are_those_of_the_summary(name, work):
    model = Mixed() if name == "mixed" else create_model(name, num_classes=10)
    shape = (16, 16, 3) if name == "mixed" else standard_input(name)
    rows = summary.summarize(model, shape, train=work == "train").rows
    found = cut(model, shape, work)
    ran = [row.layer for row in rows if row.output_shape]
    assert sorted(layer.name for layer in found) == sorted(ran)
    assert ("aux" in {layer.name for layer in found}) == (name == "mixed" and work == "train")


def reference(name):
    """The layers of LeNet-5 as plain lax."""

    def conv(x, w, b):
        numbers = ("NHWC", "HWIO", "NHWC")
        return lax.conv_general_dilated(
            x, w, (1, 1), "VALID", dimension_numbers=numbers
        ) + b.reshape(1, 1, 1, -1)

    def pool(x):
        return lax.reduce_window(x, -jnp.inf, lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "VALID")

    return {"conv": conv, "max_": pool, "fc": lambda x, w, b: x @ w + b.reshape(1, -1)}[
        name.rstrip("123pol")
    ]


@pytest.mark.parametrize("place", range(7))
def test_each_program_is_the_layer_and_its_gradients(place):
    layer = cut(create_model("lenet5", num_classes=10), (32, 32, 1), "train")[place]
    rng = np.random.default_rng(place)
    inputs = [jnp.asarray(rng.standard_normal(x.shape), jnp.float32) for x in layer.inputs]
    plain = reference(layer.name)
    (y,) = layer.run(inputs)
    np.testing.assert_allclose(y, plain(*inputs), rtol=1e-5, atol=1e-5)
    program, (given, dys) = layer.program("train")
    assert [x.shape for x in given] == [x.shape for x in inputs]
    assert [dy.shape for dy in dys] == [y.shape]
    dy = jnp.asarray(rng.standard_normal(y.shape), jnp.float32)
    ys, gradients = jax.jit(program)(inputs, [dy])
    np.testing.assert_allclose(ys[0], y, rtol=1e-5, atol=1e-5)
    expected = jax.vjp(plain, *inputs)[1](dy)
    if layer.name == "conv1":  # nothing is learned of the image
        expected = expected[1:]
    assert len(gradients) == len(expected)
    for ours, theirs in zip(gradients, expected, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-4)


def test_passes_over_a_product():
    passes = {layer.name: layer.passes("train") for layer in cut(Mixed(), (16, 16, 3), "train")}
    # Forward, and backward to the kernel; behind the stem, to the input too.
    assert passes["stem"] == 2
    assert passes["block/conv"] == passes["shared"] == passes["fc"] == 3
    assert all(layer.passes("infer") == 1 for layer in cut(Mixed(), (16, 16, 3), "infer"))


def test_the_figures_of_a_layer(monkeypatch):
    monkeypatch.setattr(layers, "best_seconds", lambda call: 0.25 if call() else None)
    conv1, pool1, *_, fc3 = layers.measure("lenet5", "train", FP32, ROOFS, Budget())
    assert (conv1["layer"], conv1["output"], conv1["ms"]) == ("conv1", "28x28x6", 250)
    # Two passes over 117,600 multiply-accumulates of each image.
    assert conv1["flops_per_sec"] == pytest.approx(2 * 2 * 117_600 * 2 / 0.25, rel=1e-4)
    # Images, kernel and bias, gradient of the output; output, gradients of kernel and bias.
    assert conv1["bytes"] == 4 * (2 * (1024 + 2 * 28 * 28 * 6) + 2 * 156)
    assert conv1["utilisation"] == pytest.approx(conv1["bytes"] / 1e10 / 0.25, rel=1e-4)
    # Input and its gradient, output and its gradient.
    assert pool1["flops_per_sec"] is None
    assert pool1["bytes"] == 4 * 2 * 2 * (28 * 28 * 6 + 14 * 14 * 6)
    assert fc3["flops_per_sec"] == pytest.approx(3 * 2 * 840 * 2 / 0.25, rel=1e-4)
    assert fc3["bytes"] == 4 * (2 * 2 * (84 + 10) + 2 * 850)


def test_every_layer_has_a_row_in_the_order_of_the_summary(monkeypatch):
    monkeypatch.setattr(layers, "_timed", lambda *args: {})
    rows = layers.measure("resnet20", "train", FP32, ROOFS, Budget())
    model = create_model("resnet20", num_classes=10)
    expected = summary.summarize(model, (32, 32, 3), train=True).rows
    assert [row["layer"] for row in rows] == [row.layer for row in expected]


def test_equal_layers_are_timed_once(monkeypatch):
    calls = []
    monkeypatch.setattr(layers, "best_seconds", lambda call: calls.append(call) or len(calls))
    rows = layers.measure("resnet20", "infer", FP32, ROOFS, Budget())
    assert len(rows) == 40
    times = {row["layer"]: row["ms"] for row in rows}
    assert times["layer2_1/conv1"] == times["layer2_2/conv2"] != times["layer2_0/conv1"]
    # Three widths: convolutions, those with a stride, normalisations with a ReLU and without; stem,
    # head, global pool.
    assert len(calls) == 3 + 2 + 3 + 3 + 3


@pytest.fixture
def quick(monkeypatch):
    """Layers take 10 s each on the clock of budgets."""
    passed = [0.0]
    monkeypatch.setattr("jaxcnn.analysis.budget.time.monotonic", lambda: sum(passed))
    monkeypatch.setattr(layers, "best_seconds", lambda call: passed.append(10) or 1e-3)
    monkeypatch.setattr(bench, "measure_roofs", lambda dtype: ROOFS)


@pytest.mark.parametrize(
    ("seconds", "works", "done", "left_out"),
    [
        (1e6, ["--infer"], 7, None),
        (1e6, [], 14, None),
        (
            35,
            ["--infer"],
            3,
            [f"lenet5 infer {name}" for name in ("max_pool", "fc1", "fc2", "fc3")],
        ),
        (71, [], 7, ["lenet5 train"]),
    ],
)
def test_the_command(seconds, works, done, left_out, quick, tmp_path, capsys):
    out = tmp_path / "layers.csv"
    args = ["lenet5", "--layers", *works, "--batch-size", "2", "--budget", str(seconds)]
    assert cli.main(["bench", *args, "--out", str(out)]) == 0
    with out.open() as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == list(layers.COLUMNS)
    assert len(rows) == done
    assert all(math.isfinite(float(row["utilisation"])) for row in rows)
    assert {row["device_flops_per_sec"] for row in rows} == {"1000000000000.0"}
    shown = capsys.readouterr().out
    assert "lenet5 infer: each layer alone, batch 2" in shown
    assert ("lenet5 train: each" in shown) == (done == 14)
    lines = [line for line in shown.splitlines() if "left out" in line]
    expected = f"left out, for lack of time in {seconds} s: {', '.join(left_out or [])}"
    assert lines == ([expected] if left_out else [])


def test_the_batch_is_halved_for_all_layers(monkeypatch):
    def best_seconds(call):
        ((y,), _) = call()
        if y.shape[0] > 3:
            raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory")
        return 1.0

    monkeypatch.setattr(layers, "best_seconds", best_seconds)
    settings = bench.Settings("bf16", 8, 0, 1)
    rows = layers.measure("mlp", "train", settings, ROOFS, Budget())
    assert {row["batch_size"] for row in rows} == {2}
