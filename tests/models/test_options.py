"""Options that a config can set."""

import jax
import jax.numpy as jnp
import pytest

from jaxcnn import models
from jaxcnn.build import build_model
from jaxcnn.config import Data, Experiment, InputError, Model

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
