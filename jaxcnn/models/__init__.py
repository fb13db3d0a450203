"""Architectures by name: ``create_model("lenet5", num_classes=10)``.

A model is a Linen module: ``variables = model.init(key, images, train=False)`` and
``logits = model.apply(variables, images, train=False)``, with images ``(n, h, w, c)``.
With ``endpoints=True`` it returns ``(logits, endpoints)``: a dict of named feature maps.
"""

import difflib
import fnmatch
import inspect
from collections.abc import Callable
from typing import Any

import flax.linen as nn

from jaxcnn.models.alexnet import AlexNet, AlexNet2012
from jaxcnn.models.convnet import ConvNet
from jaxcnn.models.densenet import densenet121, densenet161, densenet169, densenet201
from jaxcnn.models.googlenet import GoogLeNet, GoogLeNet2014
from jaxcnn.models.inception_v3 import InceptionV3
from jaxcnn.models.lenet import LeNet5
from jaxcnn.models.mlp import MLP
from jaxcnn.models.preact_resnet import (
    preact_resnet18,
    preact_resnet34,
    preact_resnet50,
    preact_resnet101,
    preact_resnet152,
)
from jaxcnn.models.resnet import (
    resnet18,
    resnet34,
    resnet50,
    resnet101,
    resnet152,
    resnext50_32x4d,
    resnext101_32x8d,
    resnext101_64x4d,
    wide_resnet50_2,
    wide_resnet101_2,
)
from jaxcnn.models.resnet_cifar import resnet20, resnet32, resnet44, resnet56, resnet110
from jaxcnn.models.safetensors import read_safetensors
from jaxcnn.models.squeezenet import squeezenet1_0, squeezenet1_1
from jaxcnn.models.torch_weights import from_torch, import_weights
from jaxcnn.models.vgg import (
    vgg11,
    vgg11_bn,
    vgg13,
    vgg13_bn,
    vgg16,
    vgg16_bn,
    vgg19,
    vgg19_bn,
)
from jaxcnn.models.wide_resnet import wide_resnet28_10

__all__ = [
    "MODELS",
    "STANDARD_INPUTS",
    "create_model",
    "from_torch",
    "import_weights",
    "list_models",
    "model_options",
    "read_safetensors",
    "standard_input",
]

MODELS: dict[str, Callable[..., nn.Module]] = {
    "mlp": MLP,
    "lenet5": LeNet5,
    "convnet": ConvNet,
    "alexnet_2012": AlexNet2012,
    "alexnet": AlexNet,
    "vgg11": vgg11,
    "vgg13": vgg13,
    "vgg16": vgg16,
    "vgg19": vgg19,
    "vgg11_bn": vgg11_bn,
    "vgg13_bn": vgg13_bn,
    "vgg16_bn": vgg16_bn,
    "vgg19_bn": vgg19_bn,
    "googlenet_2014": GoogLeNet2014,
    "googlenet": GoogLeNet,
    "inception_v3": InceptionV3,
    "resnet18": resnet18,
    "resnet34": resnet34,
    "resnet50": resnet50,
    "resnet101": resnet101,
    "resnet152": resnet152,
    "resnext50_32x4d": resnext50_32x4d,
    "resnext101_32x8d": resnext101_32x8d,
    "resnext101_64x4d": resnext101_64x4d,
    "wide_resnet50_2": wide_resnet50_2,
    "wide_resnet101_2": wide_resnet101_2,
    "preact_resnet18": preact_resnet18,
    "preact_resnet34": preact_resnet34,
    "preact_resnet50": preact_resnet50,
    "preact_resnet101": preact_resnet101,
    "preact_resnet152": preact_resnet152,
    "resnet20": resnet20,
    "resnet32": resnet32,
    "resnet44": resnet44,
    "resnet56": resnet56,
    "resnet110": resnet110,
    "wide_resnet28_10": wide_resnet28_10,
    "densenet121": densenet121,
    "densenet161": densenet161,
    "densenet169": densenet169,
    "densenet201": densenet201,
    "squeezenet1_0": squeezenet1_0,
    "squeezenet1_1": squeezenet1_1,
}

# The image shape (height, width, channels) a model was published for, where it is not 224x224x3.
STANDARD_INPUTS: dict[str, tuple[int, int, int]] = {
    "mlp": (28, 28, 1),
    "lenet5": (32, 32, 1),
    "convnet": (28, 28, 1),
    "inception_v3": (299, 299, 3),
    "resnet20": (32, 32, 3),
    "resnet32": (32, 32, 3),
    "resnet44": (32, 32, 3),
    "resnet56": (32, 32, 3),
    "resnet110": (32, 32, 3),
    "wide_resnet28_10": (32, 32, 3),
}


def list_models(pattern: str = "*") -> list[str]:
    """Names of the models that match a shell pattern, sorted.

    >>> list_models("lenet*")
    ['lenet5']
    """
    return sorted(fnmatch.filter(MODELS, pattern))


def model_options(name: str) -> dict[str, Any]:
    """Options of a model and their defaults.

    >>> model_options("convnet")["dropout"]
    0.0
    """
    parameters = inspect.signature(_constructor(name)).parameters
    return {
        option: parameter.default
        for option, parameter in parameters.items()
        if option not in {"num_classes", "parent", "name"}
    }


def create_model(name: str, *, num_classes: int, **options: Any) -> nn.Module:
    """Builds a model; its parameters come from ``model.init``.

    Args:
        name: one of :func:`list_models`.
        num_classes: number of logits, at least 1.
        **options: fields of the model, see :func:`model_options`.

    Raises:
        ValueError: an unknown name or option, or ``num_classes`` below 1.

    >>> create_model("lenet5", num_classes=10).num_classes
    10
    """
    constructor = _constructor(name)
    if num_classes < 1:
        raise ValueError(f"num_classes={num_classes} must be at least 1")
    known = model_options(name)
    for option in options:
        if option not in known:
            raise ValueError(
                f"model={name!r} has no option {option!r}; it takes {', '.join(sorted(known))}"
            )
    return constructor(num_classes=num_classes, **options)


def standard_input(name: str) -> tuple[int, int, int]:
    """Image shape (height, width, channels) that a model was published for.

    >>> standard_input("lenet5")
    (32, 32, 1)
    """
    _constructor(name)
    return STANDARD_INPUTS.get(name, (224, 224, 3))


def _constructor(name: str) -> Callable[..., nn.Module]:
    if name in MODELS:
        return MODELS[name]
    near = difflib.get_close_matches(name, MODELS, n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(near)}?" if near else "`jaxcnn list` shows all"
    raise ValueError(f"model={name!r} is unknown; {hint}")
