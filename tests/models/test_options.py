"""Options that a config can set, and names that it may misspell."""

import subprocess
import sys
from typing import Any

import jax
import jax.numpy as jnp
import pytest

from benchmarks.zoo import shapes
from jaxcnn import models
from jaxcnn.commands.model_options import option_docs
from jaxcnn.config import Model
from jaxcnn.errors import InputError


@pytest.mark.parametrize("name", ["lenet5", "mlp", "convnet"])
@pytest.mark.parametrize("activation", ["tanh", "logistic"])
def test_the_activation_is_a_name(name, activation):
    option = {"logistic": "sigmoid"}.get(activation, activation)
    model = models.create_model(name, num_classes=3, activation=option)
    program = jax.make_jaxpr(model.init)(jax.random.key(0), jnp.zeros((1, 16, 16, 1)))
    assert f" {activation}" in str(program)
    assert "relu" not in str(program)


@pytest.mark.parametrize(
    ("name", "options", "named"),
    [
        ("lenet5", {"activation": "swoosh"}, "activation='swoosh' must be one of relu,"),
        ("lenet5", {"pool": "median"}, "pool='median' must be 'max' or 'avg'"),
        ("convnet", {"widths": ()}, "widths=() must be positive, one for each stage"),
        (
            "convnet",
            {"widths": (8, 0)},
            "widths=(8, 0): each part of it=0 must be in [1, 1,048,576]",
        ),
        ("unet", {"widths": ()}, "widths=() must be positive, one for each level"),
        ("convnet", {"widths": (8, "x")}, "each part of it='x' must be a whole number"),
        ("convnet", {"widths": (8, True)}, "each part of it=True must be a whole number"),
        ("convnet", {"convs_per_stage": 0}, "convs_per_stage=0 must be in [1, 1,048,576]"),
        ("convnet", {"convs_per_stage": 10**20}, "convs_per_stage=100000000000000000000 must be"),
        ("convnet", {"hidden": -3}, "hidden=-3 must be in [1, 1,048,576]"),
        ("convnet", {"dropout": "x"}, "dropout='x' must be a number"),
        ("convnet", {"dropuot" * 10**6: 1}, "has no option 'dropuot"),
        ("conv" * 10**6, {}, "is unknown"),
        ("resnet20", {"depth": 10**9}, "depth=1000000000 must be in [1, 1,048,576]"),
        ("efficientnet_b0", {"depth": 1e30}, "depth=1e+30 must be in [0, 1,048,576]"),
        ("sequential", {"layers": "conv3-9999999"}, "'conv3-9999999' must be conv3-32"),
        ("sequential", {"layers": "conv3-²"}, "'conv3-²' must be conv3-32"),
        ("sequential", {"layers": "x" * 10**6}, "layers='xxx"),
        ("convnet", {"dropout": 1.0}, "dropout=1.0 must be a probability"),
        ("resnet18", {"drop_path": -0.1}, "drop_path=-0.1 must be a probability"),
        ("lenet5", {"dtype": "float8"}, "model.options.dtype='float8': is no option; model.dtype"),
        ("lenet5", {"num_classes": 3}, "model.options.num_classes=3: is no option; the data say"),
        ("lenet5", {"name": "x"}, "model.options.name='x': is no option; model.name names"),
        ("lenet5", {"parent": "x"}, "has no option 'parent'"),
    ],
)
def test_bad_options_are_named(name, options, named):
    with pytest.raises(InputError) as error:
        models.build_model(Model(name, options), 10, (32, 32, 1))
    assert named in str(error.value)
    assert "\n" not in str(error.value)


def test_networks_too_deep_to_be_traced_are_refused(monkeypatch):
    monkeypatch.setattr(models, "MOST_CALLS", 100)
    models.build_model(Model("resnet20", {"depth": 8}), 10, (32, 32, 3))
    with pytest.raises(InputError, match="too deep: it has more than 100 modules"):
        models.build_model(Model("resnet20", {"depth": 10**6 - 2}), 10, (32, 32, 3))


def test_messages_on_options_are_short():
    with pytest.raises(InputError) as error:
        models.build_model(
            Model("sequential", {"layers": "conv3-8 " * 10**5 + "x\n"}), 10, (8, 8, 1)
        )
    assert len(str(error.value)) < 500
    assert str(error.value).isprintable()


@pytest.mark.parametrize("name", ["resnet18", "efficientnet_b0", "convnext_tiny"])
def test_stochastic_depth_is_an_option(name):
    config = Model(name, {"drop_path": 0.3})
    assert models.build_model(config, 10, (64, 64, 3)).drop_path == 0.3


def test_a_config_becomes_a_network() -> None:
    config = Model("convnet", {"widths": (4,)}, dtype="bfloat16")
    expected = models.create_model("convnet", num_classes=7, widths=(4,), dtype="bfloat16")
    assert models.build_model(config, 7, (8, 8, 2)) == expected


@pytest.mark.parametrize(
    ("name", "image", "named"),
    [
        ("lenet6", (32, 32, 1), "model='lenet6' is unknown; did you mean lenet5"),
        (
            "lenet5",
            (12, 16, 1),
            "model.name='lenet5' on images of 12x16x1: lenet5 takes images of at least 16x16",
        ),
        # The auxiliary head is computed in training alone; only there 128x128 is too small.
        ("inception_v3", (128, 128, 3), "on images of 128x128x3: inception_v3 with aux_heads"),
    ],
)
def test_images_that_a_network_cannot_be_trained_on_are_named(
    name: str, image: tuple[int, int, int], named: str
) -> None:
    with pytest.raises(InputError) as error:
        models.build_model(Model(name), 10, image)
    assert named in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("num_classes", [0, -1, 2.5, "10", True, 10**6 + 1, 10**12])
def test_wrong_number_of_classes(num_classes: Any) -> None:
    with pytest.raises(ValueError, match=rf"num_classes={num_classes!r} must be"):
        models.create_model("lenet5", num_classes=num_classes)


@pytest.mark.parametrize(
    ("name", "near"),
    [("resnet51", "resnet50"), ("ResNet-50", "resnet50"), ("VGG16", "vgg16"), ("x", "list")],
)
def test_unknown_names_have_a_suggestion(name: str, near: str) -> None:
    for function in (models.standard_input, models.model_options):
        with pytest.raises(ValueError, match=rf"model='{name}' is unknown; .*{near}"):
            function(name)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("resnet18", {"dropuot": 0.1}, "has no option 'dropuot'; it takes .*dropout"),
        ("resnet18", {"dropout": "0.1"}, "dropout='0.1' must be a number"),
        ("resnet18", {"small_images": 1}, "small_images=1 must be True or False"),
        ("resnet18", {"groups": 2.5}, "groups=2.5 must be a whole number"),
        ("resnet18", {"stage_sizes": 3}, "stage_sizes=3 must be a sequence"),
        ("lenet5", {"pool": 2}, "pool=2 must be text"),
    ],
)
def test_wrong_options_are_named(name: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        models.create_model(name, num_classes=10, **options)


def test_groups_need_bottlenecks() -> None:
    with pytest.raises(ValueError, match="groups=32 and width_per_group=64 need bottleneck=True"):
        shapes(models.create_model("resnet18", num_classes=10, groups=32), (64, 64, 3))


def test_options_in_the_source_are_those_that_the_models_take() -> None:
    for name in models.MODELS:
        expected = models.model_options(name)
        del expected["dtype"]  # model.dtype sets it
        found = option_docs(name)
        assert {option: default for option, (default, _) in found.items()} == expected, name
        assert list(found) == list(expected), name
        assert all(meaning for _, meaning in found.values()), name
    assert option_docs("lenet5")["pool"] == (
        "max",
        'kind of pooling, "max", or "avg", which is closer to the paper\'s subsampling.',
    )
    with pytest.raises(ValueError, match="model='lenet6' is unknown"):
        option_docs("lenet6")


def test_reading_options_imports_no_jax() -> None:
    code = (
        "import sys; from jaxcnn.commands.model_options import option_docs; "
        "option_docs('resnet18'); sys.exit(bool({'jax', 'flax', 'numpy'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
