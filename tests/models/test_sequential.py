"""The network in a line is the network that it names."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks.zoo import shapes
from jaxcnn import models
from jaxcnn.analysis.summary import summarize
from jaxcnn.models.sequential import read, smallest_side


def sequential(layers, classes=10):
    return models.create_model("sequential", num_classes=classes, layers=layers)


@pytest.mark.parametrize(
    ("layers", "other", "options", "image"),
    [
        ("conv3-4 max2 conv3-6 max2 dense-8", "convnet", {"widths": (4, 6), "hidden": 8}, (9, 9)),
        ("valid5-6 max2 valid5-16 max2 dense-120 dense-84", "lenet5", {}, (32, 32)),
        ("valid5-6 avg2 valid5-16 avg2 dense-120 dense-84", "lenet5", {"pool": "avg"}, (32, 32)),
        ("dense-16 dense-8", "mlp", {"hidden": (16, 8)}, (5, 5)),
    ],
)
def test_it_computes_what_the_named_networks_do(layers, other, options, image):
    model, named = sequential(layers), models.create_model(other, num_classes=10, **options)
    x = jax.random.normal(jax.random.key(0), (2, *image, 1))
    variables = jax.jit(named.init)(jax.random.key(1), x)
    ours, theirs = (jax.jit(one.apply)(variables, x) for one in (model, named))
    np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("layers", "maps"),
    [
        ("conv3-4/2 conv2-5", [(7, 8, 4), (7, 8, 5)]),
        ("valid3-4/2 max2", [(6, 7, 4), (3, 3, 4)]),
        ("avg3/2 gap", [(6, 7, 3), (3,)]),
        ("naive-3a inception-3a", [(13, 15, 64 + 128 + 32 + 3), (13, 15, 256)]),
        ("conv1-4 aux max2 gap dense-9", [(13, 15, 4), (6, 7, 4), (4,), (9,)]),
    ],
)
def test_shapes(layers, maps):
    x = jax.ShapeDtypeStruct((2, 13, 15, 3), jnp.float32)

    def run(key, x):
        return sequential(layers).init_with_output(key, x, endpoints=True)[0]

    logits, ends = jax.eval_shape(run, jax.random.key(0), x)
    assert logits.shape == (2, 10)
    assert [ends[f"stage{i}"].shape[1:] for i in range(1, len(maps) + 1)] == maps
    assert len(ends.get("aux_logits", ())) == layers.count("aux")


@pytest.mark.parametrize(
    ("layers", "side"),
    [
        ("conv3-4/2 conv3-4", 1),
        ("max2 conv3-4 max2", 4),
        ("valid3-4/2 max2", 5),
        ("valid5-6 max2 valid5-16 max2", 16),
        ("max3/2 valid3-1 dense-2", 7),
    ],
)
def test_smallest_image(layers, side):
    assert smallest_side(read(layers)) == side
    shapes(sequential(layers), (side, side, 1))
    if side > 1:
        with pytest.raises(ValueError, match=f"at least {side}x{side}, got"):
            shapes(sequential(layers), (side - 1, side, 1))


def test_auxiliary_classifiers_are_for_training():
    model = sequential("conv3-4 aux max2 gap")
    found = summarize(model, (8, 8, 1))
    assert found.rows[-1].layer == "aux1"
    assert found.rows[-1].output_shape is None
    x = jnp.ones((1, 8, 8, 1))
    variables = model.init(jax.random.key(0), x)
    _, ends = model.apply(variables, x, train=True, endpoints=True)
    (aux,) = ends["aux_logits"]
    head = jax.tree.map(np.asarray, variables["params"]["aux1"])
    maps = np.asarray(ends["stage1"])
    expected = maps.mean(axis=(1, 2)) @ head["kernel"] + head["bias"]
    np.testing.assert_allclose(aux, expected, rtol=1e-6)


@pytest.mark.parametrize(
    ("layers", "named"),
    [
        ("", "layers='': must name a layer"),
        ("conv3", "'conv3' must be conv3-32"),
        ("conv0-4", "'conv0-4' must be"),
        ("max2-3", "'max2-3' must be"),
        ("inception-9z", "'inception-9z' must be"),
        ("gap conv3-4", "'conv3-4' cannot stand behind 'gap'"),
        ("dense-4 gap", "'gap' cannot stand behind 'dense-4'"),
    ],
)
def test_what_is_no_layer_is_named(layers, named):
    with pytest.raises(ValueError) as error:
        shapes(sequential(layers), (16, 16, 1))
    assert named in str(error.value)
