import io
import time

import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest
from rich.console import Console

from jaxcnn import ops
from jaxcnn.analysis.summary import (
    Summary,
    endpoint_fields,
    model_stats,
    render,
    stats_lines,
    summarize,
)
from jaxcnn.layers import BatchNorm, Conv, ConvNormAct, Dense, SqueezeExcite
from jaxcnn.models import create_model


def _row(summary: Summary, layer: str, nth: int = 0):
    return [row for row in summary.rows if row.layer == layer][nth]


def test_lenet5():
    summary = summarize(create_model("lenet5", num_classes=10), (32, 32, 1))
    assert summary.parameters == 61_706
    assert summary.statistics == 0
    conv1, pool1, conv2, pool2, *dense = summary.rows
    assert (conv1.layer, conv1.type) == ("conv1", "Conv")
    assert (conv1.parameters, conv1.macs, conv1.output_shape) == (156, 117_600, (28, 28, 6))
    assert (conv2.parameters, conv2.macs, conv2.output_shape) == (2_416, 240_000, (10, 10, 16))
    fields = [row.receptive_field for row in (conv1, pool1, conv2, pool2)]
    assert fields == [(5, 5), (6, 6), (14, 14), (16, 16)]
    assert [row.macs for row in dense] == [48_000, 10_080, 840]
    assert [row.receptive_field for row in dense] == [None] * 3
    assert summary.macs == sum(row.macs for row in summary.rows) == 416_520
    assert summary.receptive_field == (16, 16)


def test_convnet_activations():
    summary = summarize(create_model("convnet", num_classes=10), (28, 28, 1))
    assert _row(summary, "conv1").activations == 25_088
    assert _row(summary, "max_pool").activations == 6_272


# Name: MACs at 224x224x3 with 1000 classes and receptive field, from the literature.
PUBLISHED = {
    "alexnet": (0.714e9, 195),
    "vgg16": (15.470e9, 212),
    "resnet18": (1.814e9, 435),
    "resnet50": (4.089e9, 427),
    "resnet152": (11.514e9, 1451),
    "mobilenet_v1": (0.569e9, 315),
    "mobilenet_v2": (0.301e9, 491),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_figures(name):
    macs, field = PUBLISHED[name]
    start = time.process_time()
    stats = model_stats(name)
    assert time.process_time() - start < 60  # it traces; running any of these takes longer
    assert stats.macs == pytest.approx(macs, rel=1e-3)
    assert stats.receptive_field == (field, field)


# XLA counts one operation for every elementwise result too, so its half is a little above ours.
@pytest.mark.parametrize(
    ("name", "shape", "tolerance"),
    [
        ("lenet5", (32, 32, 1), 0.03),
        ("mlp", (28, 28, 1), 0.01),
        ("convnet", (28, 28, 1), 0.02),
        ("resnet18", (64, 64, 3), 0.03),
        ("squeezenet1_0", (64, 64, 3), 0.03),
        ("resnext50_32x4d", (64, 64, 3), 0.05),
        ("mobilenet_v2", (64, 64, 3), 0.15),
        ("unet", (64, 64, 1), 0.01),
    ],
)
def test_macs_agree_with_xla(name, shape, tolerance):
    model = create_model(name, num_classes=10)
    image = jax.ShapeDtypeStruct((1, *shape), jnp.float32)
    with ops.force_impl("lax"):
        variables = jax.eval_shape(lambda x: model.init(jax.random.key(0), x), image)
        lowered = jax.jit(lambda v, x: model.apply(v, x)).lower(variables, image)
    xla = lowered.cost_analysis()["flops"] / 2
    ours = summarize(model, shape, count_padding=False).macs
    assert ours <= xla <= ours * (1 + tolerance)
    assert summarize(model, shape).macs >= ours


class Stem(nn.Module):
    @nn.compact
    def __call__(self, x, train):
        return ConvNormAct(8, 3, stride=2, padding=1, name="unit")(x, train=train)


class Zigzag(nn.Module):
    """One of everything that moves a receptive field."""

    remat: bool = False

    @nn.compact
    def __call__(self, x, *, train: bool = False):
        stem = nn.remat(Stem, static_argnums=(2,)) if self.remat else Stem
        x = stem(name="stem")(x, train)  # 3, jump 2
        left = Conv(8, 3, dilation=2, groups=4, padding=2, name="dilated")(x)  # 3 + 2*2*2 = 11
        right = Conv(8, (1, 5), padding="SAME", name="wide")(x)  # 3 x 11
        x = jnp.concatenate([left, right], axis=-1)  # 11 x 11
        x = SqueezeExcite(4, name="se")(x)  # the gate does not widen it
        n, h, w, c = x.shape
        x = x.reshape(n, h, w, 2, c // 2).swapaxes(3, 4).reshape(n, h, w, c)  # shuffle
        x = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
        x = ops.avg_pool(nn.silu(x), 3, stride=2)  # 11 + 2*2 = 15, jump 4
        x = x[:, ::2]  # jump 8 down, 4 across
        x = BatchNorm(name="norm")(Conv(6, 2, padding="VALID", name="last")(x), train=train)
        x = x + self.param("shift", nn.initializers.zeros_init(), (1, 1, 1, 6))
        return Dense(5, name="fc")(ops.global_avg_pool(x))


@pytest.mark.parametrize("remat", [False, True])
@pytest.mark.parametrize("train", [False, True])
def test_receptive_field_arithmetic(remat, train):
    summary = summarize(Zigzag(remat=remat), (32, 32, 3), train=train)
    fields = {row.layer: row.receptive_field for row in summary.rows}
    assert fields["stem/unit/conv"] == (3, 3)
    assert fields["dilated"] == (11, 11)
    assert fields["wide"] == (3, 11)
    assert fields["se/global_avg_pool"] is None
    assert fields["se/fc2"] is None
    assert fields["avg_pool"] == (15, 15)
    assert fields["last"] == fields["norm"] == (23, 19)
    assert fields["fc"] is None
    assert summary.receptive_field == (23, 19)
    assert _row(summary, "norm").output_shape == (3, 7, 6)


def test_rows_cover_all_parameters_and_products():
    summary = summarize(Zigzag(), (32, 32, 3))
    assert sum(row.parameters for row in summary.rows) == summary.parameters
    assert sum(row.macs for row in summary.rows) == summary.macs
    assert _row(summary, "").parameters == 6  # the model's own
    assert _row(summary, "dilated").macs == 16 * 16 * 8 * 9 * 2
    assert summary.statistics == 2 * 8 + 2 * 6
    layers = [row.layer for row in summary.rows]
    assert layers.index("dilated") < layers.index("se/fc1") < layers.index("avg_pool")


class Auxiliary(nn.Module):
    @nn.compact
    def __call__(self, x, *, train: bool = False):
        x = Conv(4, name="conv")(x)
        if train or self.is_initializing():
            Dense(3, name="aux")(ops.global_avg_pool(x))
        return Dense(3, name="fc")(ops.global_avg_pool(x))


def test_heads_that_only_train():
    evaluated = _row(summarize(Auxiliary(), (8, 8, 3)), "aux")
    assert (evaluated.output_shape, evaluated.parameters, evaluated.macs) == (None, 15, 0)
    trained = _row(summarize(Auxiliary(), (8, 8, 3), train=True), "aux")
    assert (trained.output_shape, trained.parameters, trained.macs) == ((3,), 15, 12)


class Adaptive(nn.Module):
    @nn.compact
    def __call__(self, x, *, train: bool = False):
        x = Conv(4, 3, name="conv")(x)
        return Conv(4, 3, name="after")(ops.adaptive_avg_pool(x, 4))


def test_bins_of_an_adaptive_pool():
    # 3, then bins of 4 pixels: 3 + 3 = 6 with jump 4, then 6 + 2 * 4 = 14.
    summary = summarize(Adaptive(), (16, 16, 3))
    fields = [row.receptive_field for row in summary.rows]
    assert fields == [(3, 3), (6, 6), (14, 14)]
    # A pool to the size that is there already changes nothing.
    assert summarize(Adaptive(), (4, 4, 3)).receptive_field == (5, 5)


@jax.custom_vjp
def _vjp(x):
    return x @ jnp.ones((8, 4))


_vjp.defvjp(lambda x: (_vjp(x), x), lambda x, g: (g @ jnp.ones((4, 8)),))


@jax.custom_jvp
def _jvp(x):
    return x @ jnp.ones((8, 4))


_jvp.defjvp(lambda x, dx: (_jvp(*x), _jvp(*dx)))


def _scanned(x):
    return jax.lax.scan(lambda y, _: (y @ jnp.ones((8, 8)), None), x, length=3)[0]


@pytest.mark.parametrize(
    ("call", "macs"),
    [
        (jax.jit(_jvp.fun), 32),
        (jax.checkpoint(_jvp.fun), 32),
        (jax.jit(jax.checkpoint(jax.jit(_jvp.fun))), 32),
        (_vjp, 32),
        (_jvp, 32),
        # What runs several times, or perhaps not at all, is no part of the layers.
        (_scanned, 0),
        (lambda x: jax.lax.cond(x.sum() > 0, _jvp.fun, _jvp.fun, x), 0),
        (lambda x: jax.lax.while_loop(lambda y: y.sum() < 0, lambda y: y @ jnp.ones((8, 8)), x), 0),
    ],
)
def test_products_inside_a_call_that_runs_once_are_counted(call, macs):
    class Net(nn.Module):
        @nn.compact
        def __call__(self, x, *, train: bool = False):
            return call(x.reshape(1, 8))

    assert summarize(Net(), (4, 2)).macs == macs


def test_endpoints_that_are_several_arrays_have_no_field():
    model = create_model("googlenet", num_classes=10)
    assert endpoint_fields(model, (224, 224, 3)).keys() == {
        *(f"stage{i}" for i in range(1, 6)),
        "features",
    }


def test_other_ranks():
    class Net(nn.Module):
        @nn.compact
        def __call__(self, x, *, train: bool = False):
            return Conv(4, 3, stride=2, name="conv")(x)

    assert summarize(Net(), (9, 2)).receptive_field == (3,)
    summary = summarize(Net(), (8, 8, 8, 1))
    assert summary.receptive_field == (3, 3, 3)
    assert summary.macs == 4**3 * 27 * 4


@pytest.mark.parametrize("shape", [(32,), (), (32, 0, 3)])
def test_bad_input_shape(shape):
    with pytest.raises(ValueError, match="input_shape="):
        summarize(create_model("lenet5", num_classes=10), shape)


def test_tables():
    out = Console(file=io.StringIO(), width=120)
    out.print(render(summarize(create_model("lenet5", num_classes=10), (32, 32, 1)), "lenet5"))
    out.print(render(summarize(Auxiliary(), (8, 8, 3))))
    text = "\n".join([out.file.getvalue(), *stats_lines(["lenet5", "mlp"])])
    for expected in ("61,706", "416,520", "14x14", "(training only)", "61.71 k", "image"):
        assert expected in text


def test_the_table_is_text_in_a_notebook_too(monkeypatch, capsys):
    found = summarize(create_model("lenet5", num_classes=10), (32, 32, 1))
    expected = repr(found)
    monkeypatch.setattr("rich.console._is_jupyter", lambda: True)
    assert repr(found) == expected
    assert "\x1b" not in expected
    assert capsys.readouterr().out == ""  # where Rich displays, without a kernel
