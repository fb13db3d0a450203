"""Options that a config can set, and names that it may misspell."""

from typing import Any

import jax
import jax.numpy as jnp
import pytest

from jaxcnn import models
from jaxcnn.config import Data, Experiment, Model
from jaxcnn.errors import InputError
from jaxcnn.runs.build import build_model
from tests.models.table import shapes

CLASSES = [str(i) for i in range(10)]


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
        ("convnet", {"widths": (8, 0)}, "widths=(8, 0) must be positive"),
        ("convnet", {"convs_per_stage": 0}, "convs_per_stage=0 must be at least 1"),
        ("convnet", {"dropout": 1.0}, "dropout=1.0 must be a probability"),
        ("resnet18", {"drop_path": -0.1}, "drop_path=-0.1 must be a probability"),
    ],
)
def test_bad_options_are_named(name, options, named):
    experiment = Experiment(data=Data(image_size=32), model=Model(name, options))
    with pytest.raises(InputError) as error:
        build_model(experiment, CLASSES, (32, 32, 1))
    assert named in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["resnet18", "efficientnet_b0", "convnext_tiny"])
def test_stochastic_depth_is_an_option(name):
    experiment = Experiment(model=Model(name, {"drop_path": 0.3}))
    assert build_model(experiment, CLASSES, (64, 64, 3)).drop_path == 0.3


@pytest.mark.parametrize("num_classes", [0, -1, 2.5, "10", True])
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
