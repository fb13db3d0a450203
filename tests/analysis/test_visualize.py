"""Grad-CAM, receptive fields and pictures, where the right answer is known."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcnn import models
from jaxcnn.analysis.corrupted import save_corruptions
from jaxcnn.analysis.gradcam import grad_cam, tap
from jaxcnn.analysis.summary import endpoint_fields, summarize
from jaxcnn.analysis.visualize import deepest, effective_field, extent, first_filters, save_fields
from jaxcnn.config import Data, Experiment, Model, Optim, Train
from jaxcnn.data import shapes
from jaxcnn.data.augment import make_prepare
from jaxcnn.data.corruptions import corrupt
from jaxcnn.ops import geometry
from jaxcnn.runs import group
from jaxcnn.runs.trained import restore


def applied(name, shape, **options):
    model = models.create_model(name, num_classes=10, **options)
    variables = jax.jit(model.init)(jax.random.key(0), jnp.zeros((1, *shape)))
    return model, variables, lambda x: model.apply(variables, x, endpoints=True)


def quadratic(images):
    """A model whose Grad-CAM can be worked out by hand: two maps, two classes."""
    maps = jnp.concatenate([images, images**2], axis=-1)
    pooled = maps.mean(axis=(1, 2))
    return jnp.stack([pooled[:, 0] - pooled[:, 1], 3 * pooled[:, 1]], axis=1), {"maps": maps}


def test_grad_cam_by_hand():
    x = np.random.default_rng(0).uniform(0, 1, (2, 4, 4, 1)).astype(np.float32)
    heat = grad_cam(quadratic, jnp.asarray(x), "maps", jnp.array([0, 1]))
    for i, expected in enumerate((x[0, ..., 0] - x[0, ..., 0] ** 2, x[1, ..., 0] ** 2)):
        np.testing.assert_allclose(heat[i], expected / expected.max(), rtol=1e-5)


def test_a_class_without_evidence_has_no_heat():
    x = jnp.full((1, 4, 4, 1), 2.0)  # 2 - 4 < 0: every position speaks against class 0
    assert not grad_cam(quadratic, x, "maps", jnp.array([0])).any()


def test_a_change_of_an_endpoint_reaches_the_logits_through_all_later_layers():
    """Against finite differences, past a residual connection."""
    shape, endpoint = (12, 12, 3), "stage2"
    _, _, apply = applied("resnet20", shape, depth=8)
    x = jax.random.normal(jax.random.key(1), (2, *shape))
    _, maps, logits = jax.jit(lambda x: (0, *tap(apply, x, endpoint)[1:]))(x)
    logits_at = jax.jit(lambda change: tap(apply, x, endpoint)[0](change))
    expected, ends = jax.jit(apply)(x)
    np.testing.assert_allclose(maps, ends[endpoint], atol=1e-6)
    np.testing.assert_allclose(logits_at(jnp.zeros_like(maps)), expected, atol=1e-6)
    np.testing.assert_allclose(logits, expected, atol=1e-6)
    # Without the endpoint's own value nothing of the image is left: both images look alike,
    # as they would not if any later layer saw around the endpoint.
    gone = logits_at(-maps)
    np.testing.assert_allclose(gone[0], gone[1], atol=1e-6)
    direction = jax.random.normal(jax.random.key(2), maps.shape)
    gradient = jax.jit(jax.grad(lambda change: logits_at(change)[0, 3]))(jnp.zeros_like(maps))
    slope = float((gradient * direction).sum())
    there, back = (float(logits_at(sign * 1e-3 * direction)[0, 3]) for sign in (1, -1))
    assert (there - back) / 2e-3 == pytest.approx(slope, rel=0.05, abs=0.01)


def test_an_unknown_endpoint_is_named():
    with pytest.raises(ValueError, match="endpoint='mops' must be one of maps"):
        grad_cam(quadratic, jnp.zeros((1, 4, 4, 1)), "mops")
    with pytest.raises(ValueError, match="endpoint='mops' must be one of maps"):
        effective_field(quadratic, "mops", (4, 4, 1), jax.random.key(0))


# Kernel, stride and padding of the layers up to each endpoint.
STACKS = {
    ("convnet", (32, 32, 1)): {"stage2": [(3, 1, 1), (2, 2)] * 2},
    ("lenet5", (32, 32, 1)): {"stage1": [(5,), (2, 2)], "stage2": [(5,), (2, 2)] * 2},
}


@pytest.mark.parametrize(("name", "shape"), STACKS)
def test_the_effective_field_lies_inside_the_theoretical(name, shape):
    model, _, apply = applied(name, shape)
    theory = endpoint_fields(model, shape)
    for endpoint, layers in STACKS[name, shape].items():
        size = geometry.receptive_field(layers).size
        assert theory[endpoint] == (size, size)
        field = effective_field(apply, endpoint, shape, jax.random.key(0), samples=4)
        assert field.sum() == pytest.approx(1, abs=1e-5)
        # A max pool passes the gradient to one of its inputs, but of four images and all
        # channels every input is the largest once: the whole field is used, and no more.
        assert extent(field) == (size, size)
        most = extent(field, 0.9)
        assert max(most) <= size


def test_the_effective_field_is_a_fraction_of_a_deep_networks():
    """Luo et al.: the sum over paths makes it Gaussian, its width the root of the depth."""
    kernel = jnp.ones((3, 3, 1, 1)) / 9

    def stack(x):
        for _ in range(12):
            x = jax.lax.conv_general_dilated(
                x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
            )
        return x.mean(axis=(1, 2)), {"maps": x}

    field = effective_field(stack, "maps", (33, 33, 1), jax.random.key(0), samples=1)
    assert extent(field) == (25, 25)
    variance = (field.sum(axis=0) * (np.arange(33) - 16) ** 2).sum()
    assert variance == pytest.approx(12 * 2 / 3, rel=1e-3)
    assert extent(field, 0.95) == (11, 11)  # two standard deviations of 2.83 either way


def test_the_first_filters_are_those_that_see_the_image():
    for name, shape, expected in (
        ("convnet", (16, 16, 3), ("conv1", (3, 3, 3, 32))),
        # Depthwise kernels have fewer input channels than the image.
        ("mobilenet_v2", (32, 32, 3), ("features_0/0", (3, 3, 3, 32))),
        ("mlp", (8, 8, 1), None),
    ):
        model = models.create_model(name, num_classes=10)
        shapes = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, *shape)))
        params = jax.tree.map(lambda leaf: np.zeros(leaf.shape), shapes["params"])
        found = first_filters(params, summarize(model, shape))
        assert (found and (found[0], found[1].shape)) == expected


def test_the_deepest_maps_are_the_smallest_however_many_channels_they_have():
    sizes = {"stage1": (8, 8, 1), "stage2": (4, 4, 2), "stage9": (4, 4, 2), "stage10": (4, 4, 64)}
    maps = {name: jax.ShapeDtypeStruct((1, *size), jnp.float32) for name, size in sizes.items()}
    assert deepest(maps) == "stage10"


def test_a_field_of_zeros_is_drawn_without_a_box(tmp_path):
    fields = {"dead": np.zeros((8, 8)), "alive": np.full((8, 8), 1 / 64)}
    save_fields(fields, {"dead": (3, 3), "alive": (8, 8)}, tmp_path / "fields.png")
    assert (tmp_path / "fields.png").read_bytes()[:4] == b"\x89PNG"


@pytest.mark.slow
def test_grad_cam_finds_the_figure(tmp_path):
    """The centre of the heat lies on the figure, also where the middle of the picture does not."""
    side, number = 24, 200
    experiment = Experiment(
        name="shapes",
        data=Data(
            "shapes",
            image_size=side,
            examples=(8000, 500),
            batch_size=100,
            mean=(0.5,),
            std=(0.25,),
        ),
        model=Model("convnet", {"widths": (16, 32, 64), "hidden": 64, "batch_norm": True}),
        optim=Optim("adamw", peak_lr=3e-3),
        train=Train(epochs=8, eval_every=8, checkpoint_every=8),
    )
    assert group.train_one(experiment, tmp_path / "a")["test_top1"] > 0.4
    network = restore(tmp_path / "a")
    of = shapes.examples("test", number)
    drawn = shapes.draw(jnp.asarray(of), side)
    images = make_prepare(experiment.data)(drawn["image"])

    def apply(images):
        return network.model.apply(network.variables, images, train=False, endpoints=True)

    right = np.asarray(jax.jit(apply)(images)[0].argmax(axis=-1)) == shapes.labels(of)
    heat = np.asarray(jax.jit(lambda images: grad_cam(apply, images, "stage3"))(images))
    shown = right & (heat.max(axis=(1, 2)) > 0)
    weight = heat[shown] / heat[shown].sum(axis=(1, 2), keepdims=True)
    middle = [(weight.sum(axis=axis) * np.arange(side)).sum(axis=1) for axis in (2, 1)]
    centre, radius = (np.asarray(drawn[name])[shown] for name in ("centre", "radius"))

    def hits(rows, columns):
        return np.hypot(rows - centre[:, 0], columns - centre[:, 1]) <= radius

    found, by_chance = hits(*middle), hits((side - 1) / 2, (side - 1) / 2)
    assert found.mean() > 0.75
    assert found[~by_chance].mean() > 0.5


def test_a_picture_of_corruptions_shows_each_kind_at_each_severity(tmp_path):
    image = np.random.default_rng(0).integers(0, 256, (12, 12, 1), np.uint8)
    file = tmp_path / "corruptions.png"
    kinds = ("contrast", "brightness", "impulse_noise")
    figure = save_corruptions(image, file, kinds=kinds, severities=(0, 5))
    assert file.stat().st_size > 1000
    drawn = [axes for axes in figure.axes if axes.images]
    assert len(drawn) == 6
    assert [axes.get_title() for axes in drawn[:3]] == ["contrast", "brightness", "impulse noise"]
    np.testing.assert_allclose(drawn[0].images[0].get_array(), image[..., 0] / 255, atol=1e-6)
    key = jax.random.key(0)
    wanted = corrupt(jnp.asarray(image)[None], key, "brightness", 5)[0, ..., 0]
    np.testing.assert_allclose(drawn[4].images[0].get_array(), wanted, atol=1e-6)
