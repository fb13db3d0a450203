"""Architectures by name: ``create_model("lenet5", num_classes=10)``.

A model is a Linen module: ``variables = model.init(key, images, train=False)`` and
``logits = model.apply(variables, images, train=False)``, with images ``(n, h, w, c)``.
Logits are ``(n, num_classes)``, and ``(n, h, w, num_classes)`` of the models in :data:`PER_PIXEL`.
With ``endpoints=True`` it returns ``(logits, endpoints)``: a dict of named feature maps
(``stage1``, ...), the ``features`` that the logits are made of, and the ``aux_logits`` of networks
with auxiliary heads. Every family but the small ones (``mlp``, ``lenet5``, ``convnet``,
``sequential``, whose activations are few) has the option ``remat``, which recomputes its blocks in
the backward pass instead of storing their activations.
"""

import difflib
import fnmatch
import inspect
import itertools
from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jaxcnn.config import MOST_CLASSES, Model
from jaxcnn.config.brought import Brought, require_given
from jaxcnn.config.checked import shown
from jaxcnn.errors import InputError, as_input_error, as_one_line
from jaxcnn.layers import random_streams
from jaxcnn.models import (
    airbench,
    alexnet,
    convnet,
    convnext,
    densenet,
    efficientnet,
    googlenet,
    inception_v3,
    lenet,
    mlp,
    mnasnet,
    mobilenet_v1,
    mobilenet_v2,
    mobilenet_v3,
    own,
    preact_resnet,
    regnet,
    resnet,
    resnet_cifar,
    sequential,
    shufflenet_v2,
    squeezenet,
    unet,
    vgg,
    wide_resnet,
    xception,
)
from jaxcnn.models.safetensors import read_safetensors, read_shapes
from jaxcnn.models.torch_weights import from_torch, load_torch_weights, needed

__all__ = [
    "MODELS",
    "PER_PIXEL",
    "STANDARD_INPUTS",
    "build_model",
    "create_model",
    "from_torch",
    "list_models",
    "load_torch_weights",
    "model_options",
    "needed",
    "read_safetensors",
    "read_shapes",
    "standard_classes",
    "standard_input",
    "standard_normalization",
    "with_endpoints",
]

MODELS: dict[str, Callable[..., nn.Module]] = {
    "mlp": mlp.MLP,
    "lenet5": lenet.LeNet5,
    "convnet": convnet.ConvNet,
    "sequential": sequential.Sequential,
    "alexnet_2012": alexnet.AlexNet2012,
    "alexnet": alexnet.AlexNet,
    "vgg11": vgg.vgg11,
    "vgg13": vgg.vgg13,
    "vgg16": vgg.vgg16,
    "vgg19": vgg.vgg19,
    "vgg11_bn": vgg.vgg11_bn,
    "vgg13_bn": vgg.vgg13_bn,
    "vgg16_bn": vgg.vgg16_bn,
    "vgg19_bn": vgg.vgg19_bn,
    "googlenet_2014": googlenet.GoogLeNet2014,
    "googlenet": googlenet.GoogLeNet,
    "inception_v3": inception_v3.InceptionV3,
    "resnet18": resnet.resnet18,
    "resnet34": resnet.resnet34,
    "resnet50": resnet.resnet50,
    "resnet101": resnet.resnet101,
    "resnet152": resnet.resnet152,
    "resnext50_32x4d": resnet.resnext50_32x4d,
    "resnext101_32x8d": resnet.resnext101_32x8d,
    "resnext101_64x4d": resnet.resnext101_64x4d,
    "wide_resnet50_2": resnet.wide_resnet50_2,
    "wide_resnet101_2": resnet.wide_resnet101_2,
    "preact_resnet18": preact_resnet.preact_resnet18,
    "preact_resnet34": preact_resnet.preact_resnet34,
    "preact_resnet50": preact_resnet.preact_resnet50,
    "preact_resnet101": preact_resnet.preact_resnet101,
    "preact_resnet152": preact_resnet.preact_resnet152,
    "resnet20": resnet_cifar.resnet20,
    "resnet32": resnet_cifar.resnet32,
    "resnet44": resnet_cifar.resnet44,
    "resnet56": resnet_cifar.resnet56,
    "resnet110": resnet_cifar.resnet110,
    "wide_resnet28_10": wide_resnet.wide_resnet28_10,
    "airbench": airbench.Airbench,
    "densenet121": densenet.densenet121,
    "densenet161": densenet.densenet161,
    "densenet169": densenet.densenet169,
    "densenet201": densenet.densenet201,
    "squeezenet1_0": squeezenet.squeezenet1_0,
    "squeezenet1_1": squeezenet.squeezenet1_1,
    "mobilenet_v1": mobilenet_v1.MobileNetV1,
    "mobilenet_v2": mobilenet_v2.MobileNetV2,
    "mobilenet_v3_small": mobilenet_v3.mobilenet_v3_small,
    "mobilenet_v3_large": mobilenet_v3.mobilenet_v3_large,
    "shufflenet_v2_x0_5": shufflenet_v2.shufflenet_v2_x0_5,
    "shufflenet_v2_x1_0": shufflenet_v2.shufflenet_v2_x1_0,
    "shufflenet_v2_x1_5": shufflenet_v2.shufflenet_v2_x1_5,
    "shufflenet_v2_x2_0": shufflenet_v2.shufflenet_v2_x2_0,
    "mnasnet0_5": mnasnet.mnasnet0_5,
    "mnasnet0_75": mnasnet.mnasnet0_75,
    "mnasnet1_0": mnasnet.mnasnet1_0,
    "mnasnet1_3": mnasnet.mnasnet1_3,
    "xception": xception.Xception,
    "efficientnet_b0": efficientnet.efficientnet_b0,
    "efficientnet_b1": efficientnet.efficientnet_b1,
    "efficientnet_b2": efficientnet.efficientnet_b2,
    "efficientnet_b3": efficientnet.efficientnet_b3,
    "efficientnet_b4": efficientnet.efficientnet_b4,
    "efficientnet_b5": efficientnet.efficientnet_b5,
    "efficientnet_b6": efficientnet.efficientnet_b6,
    "efficientnet_b7": efficientnet.efficientnet_b7,
    "efficientnet_v2_s": efficientnet.efficientnet_v2_s,
    "efficientnet_v2_m": efficientnet.efficientnet_v2_m,
    "efficientnet_v2_l": efficientnet.efficientnet_v2_l,
    "convnext_tiny": convnext.convnext_tiny,
    "convnext_small": convnext.convnext_small,
    "convnext_base": convnext.convnext_base,
    "convnext_large": convnext.convnext_large,
    "regnet_x_400mf": regnet.regnet_x_400mf,
    "regnet_x_800mf": regnet.regnet_x_800mf,
    "regnet_x_1_6gf": regnet.regnet_x_1_6gf,
    "regnet_x_3_2gf": regnet.regnet_x_3_2gf,
    "regnet_x_8gf": regnet.regnet_x_8gf,
    "regnet_x_16gf": regnet.regnet_x_16gf,
    "regnet_x_32gf": regnet.regnet_x_32gf,
    "regnet_y_400mf": regnet.regnet_y_400mf,
    "regnet_y_800mf": regnet.regnet_y_800mf,
    "regnet_y_1_6gf": regnet.regnet_y_1_6gf,
    "regnet_y_3_2gf": regnet.regnet_y_3_2gf,
    "regnet_y_8gf": regnet.regnet_y_8gf,
    "regnet_y_16gf": regnet.regnet_y_16gf,
    "regnet_y_32gf": regnet.regnet_y_32gf,
    "unet": unet.UNet,
}

# Models that label every pixel: for images (n, h, w, c) their logits are (n, h, w, num_classes).
PER_PIXEL = {"unet"}

# The image shape (height, width, channels) a model was published for, where it is not 224x224x3.
STANDARD_INPUTS: dict[str, tuple[int, int, int]] = {
    "mlp": (28, 28, 1),
    "lenet5": (32, 32, 1),
    "convnet": (28, 28, 1),
    "sequential": (28, 28, 1),
    "inception_v3": (299, 299, 3),
    "resnet20": (32, 32, 3),
    "resnet32": (32, 32, 3),
    "resnet44": (32, 32, 3),
    "resnet56": (32, 32, 3),
    "resnet110": (32, 32, 3),
    "wide_resnet28_10": (32, 32, 3),
    "airbench": (32, 32, 3),
    "xception": (299, 299, 3),
    "efficientnet_b1": (240, 240, 3),
    "efficientnet_b2": (288, 288, 3),
    "efficientnet_b3": (300, 300, 3),
    "efficientnet_b4": (380, 380, 3),
    "efficientnet_b5": (456, 456, 3),
    "efficientnet_b6": (528, 528, 3),
    "efficientnet_b7": (600, 600, 3),
    "efficientnet_v2_s": (384, 384, 3),
    "efficientnet_v2_m": (480, 480, 3),
    "efficientnet_v2_l": (480, 480, 3),
    "unet": (512, 512, 1),
}

# Models whose weights torchvision trained on pixels scaled to [-1, 1]; ImageNet's statistics are
# those of all others. (GoogLeNet and Inception undo ImageNet's inside torchvision's model.)
SYMMETRIC = {"googlenet", "inception_v3", "efficientnet_v2_l"}


SET_ELSEWHERE = {
    "name": "model.name names the model",
    "num_classes": "the data say how many classes there are",
    "dtype": "model.dtype is the field for it",
}
"""What a model is built with besides its options, and what says it."""
LARGEST = 2**20
"""No layer is wider than this, and no number in a model's options is larger."""
MOST_CALLS = 8_000
"""No network calls more modules to be initialised and applied; the most in `jaxcnn list` are 1,978,
and a ResNet of 1,202 layers calls 6,000."""


def list_models(pattern: str = "*") -> list[str]:
    """Returns the names of the models that match a shell pattern, sorted.

    >>> list_models("lenet*")
    ['lenet5']
    """
    return sorted(fnmatch.filter(MODELS, pattern))


def model_options(name: str) -> dict[str, Any]:
    """Returns the options of a model and their defaults.

    >>> model_options("convnet")["dropout"]
    0.0
    """
    parameters = inspect.signature(_constructor(name)).parameters
    return {
        option: parameter.default
        for option, parameter in parameters.items()
        if option not in {"num_classes", "parent", "name"}
    }


def create_model(name: str | Brought, *, num_classes: int, **options: Any) -> nn.Module:
    """Builds a model; its parameters come from ``model.init``.

    Args:
        name: one of :func:`list_models`, or a network that was brought.
        num_classes: number of logits, at least 1.
        **options: fields of the model, see :func:`model_options`.

    Raises:
        ValueError: an unknown name or option, an option of another type than its default, a rate
            outside [0, 1), or ``num_classes`` outside [1, MOST_CLASSES].

    >>> create_model("lenet5", num_classes=10).num_classes
    10
    """
    if isinstance(name, Brought):
        return own.build(name, options, num_classes, options.pop("dtype", "float32"))
    require_given(name, "model.name")
    constructor = _constructor(name)
    if type(num_classes) is bool or not isinstance(num_classes, int | np.integer):
        raise ValueError(f"num_classes={shown(num_classes)} must be a whole number")
    if num_classes < 1:
        raise ValueError(f"num_classes={shown(num_classes)} must be at least 1")
    if num_classes > MOST_CLASSES:
        raise ValueError(f"num_classes={shown(num_classes)} must be at most {MOST_CLASSES:,}")
    known = model_options(name)
    for option, value in options.items():
        if option not in known:
            raise ValueError(
                f"model={name!r} has no option {shown(option)}; it takes {', '.join(sorted(known))}"
            )
        _check_option(option, value, known[option])
    return constructor(num_classes=num_classes, **options)


def build_model(
    config: Model,
    num_classes: int,
    input_shape: tuple[int, int, int],
    output_shape: tuple[int, ...] | None = None,
) -> nn.Module:
    """Builds the network that a config names, and checks that it can be trained on these images.

    The check traces a training pass and computes nothing.

    Args:
        config: name, options and dtype of the network.
        num_classes: number of logits.
        input_shape: height, width and channels of the images that the network will see.
        output_shape: the shape that its output for one image must have; by default it may be any,
            but of a network that was brought ``(num_classes,)``.

    Raises:
        InputError: an unknown model or option, images that the network cannot take, or outputs of
            another shape.

    >>> build_model(Model("lenet5"), 10, (32, 32, 1)).num_classes
    10
    """
    for option in SET_ELSEWHERE.keys() & config.options.keys():
        value = shown(config.options[option])
        raise InputError(f"model.options.{option}={value}: is no option; {SET_ELSEWHERE[option]}")
    with as_input_error():
        model = create_model(
            config.name, num_classes=num_classes, dtype=config.dtype, **config.options
        )

    size = "x".join(map(str, input_shape))
    what = f"model.name={config.name!r} on images of {size}"
    if isinstance(model, own.Own):
        assert isinstance(config.name, Brought)
        with as_one_line(what), nn.intercept_methods(_at_most(MOST_CALLS)):
            own.require_trainable(model, config.name, input_shape, output_shape)
            return own.carried_out(model, input_shape)

    def training_pass(images: jax.Array) -> Any:
        key = jax.random.key(0)
        variables = model.init(key, images, train=False)
        mutable = [name for name in variables if name != "params"]
        return model.apply(
            variables, images, train=True, endpoints=True, mutable=mutable, rngs=random_streams(key)
        )

    with as_input_error(what), nn.intercept_methods(_at_most(MOST_CALLS)):
        images = jax.ShapeDtypeStruct((2, *input_shape), jnp.float32)
        (outputs, _), _ = jax.eval_shape(training_pass, images)
    if output_shape is not None and outputs.shape[1:] != output_shape:
        raise InputError(
            f"{what}: returns outputs of shape {('n', *outputs.shape[1:])}, must be "
            f"{('n', *output_shape)} for the task".replace("'n'", "n")
        )
    return model


def with_endpoints(model: nn.Module, variables: Any, images: jax.Array) -> Any:
    """Returns ``(logits, endpoints)`` of any network; where it names none, what its modules give.

    Args:
        model: the network.
        variables: its variables.
        images: ``(n, h, w, c)``.
    """
    logits, ends = model.apply(variables, images, train=False, endpoints=True)
    if ends or not isinstance(model, own.Own):
        return logits, ends
    logits, kept = model.apply(
        variables, images, train=False, capture_intermediates=True, mutable=["intermediates"]
    )
    return logits, own.captured(kept)


def _at_most(calls: int) -> Callable[..., Any]:
    """Makes a Flax interceptor that ends the tracing of a network with more modules than this."""
    made = itertools.count(1)

    def count(function: Callable[..., Any], args: Any, kwargs: Any, context: Any) -> Any:
        if context.method_name == "__call__" and next(made) > calls:
            raise ValueError(f"the network is too deep: it has more than {calls:,} modules")
        return function(*args, **kwargs)

    return count


def standard_input(name: str) -> tuple[int, int, int]:
    """Returns the image shape (height, width, channels) that a model was published for.

    >>> standard_input("lenet5")
    (32, 32, 1)
    """
    _constructor(name)
    return STANDARD_INPUTS.get(name, (224, 224, 3))


def standard_classes(name: str, image_shape: Sequence[int]) -> int:
    """Returns how many classes the data has that a model's images of this shape usually come from.

    They are ImageNet's 1000, or the 10 of MNIST and CIFAR-10 where either side is below 64; for
    models that label every pixel they are 2, the objects and what is around them.

    >>> [standard_classes("resnet18", (side, side, 3)) for side in (224, 32)]
    [1000, 10]
    >>> standard_classes("unet", (512, 512, 1))
    2
    """
    if name in PER_PIXEL:
        return 2
    return 10 if min(image_shape[:2]) < 64 else 1000


def standard_normalization(name: str) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Returns mean and standard deviation of pixels for which torchvision trained a model.

    Pixels are numbers in [0, 1]. Networks of grey images, which torchvision does not have, see
    them as they are.

    >>> standard_normalization("googlenet")
    ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    """
    if standard_input(name)[2] == 1:
        return (0.0,), (1.0,)
    if name in SYMMETRIC:
        return (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)
    return (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def _check_option(option: str, value: Any, default: Any) -> None:
    """Raises a ValueError unless a value is of the default's type, and neither is any within it.

    Rates are in [0, 1), other numbers from 0 to LARGEST, and whole ones from 1 where the default
    is not 0.
    """
    kinds: dict[type, tuple[str, Any]] = {
        bool: ("True or False", bool),
        int: ("a whole number", int | np.integer),
        float: ("a number", int | float | np.number),
        str: ("text", str),
        tuple: ("a sequence", tuple | list),
    }
    what, kind = kinds.get(type(default), ("", object))
    number = type(default) in (int, float)
    if not isinstance(value, kind) or (isinstance(value, bool) and number):
        raise ValueError(f"{option}={shown(value)} must be {what}, as {shown(default)} is")
    if "drop" in option and number and not 0 <= value < 1:
        raise ValueError(f"{option}={shown(value)} must be a probability in [0, 1)")
    least = 1 if isinstance(default, int) and default else 0
    if number and not least <= value <= LARGEST:  # nor NaN
        raise ValueError(f"{option}={shown(value)} must be in [{least}, {LARGEST:,}]")
    if isinstance(default, tuple) and default:
        alike = len({type(part) for part in default}) == 1
        if not alike and len(value) != len(default):
            raise ValueError(f"{option}={shown(value)} must have {len(default)} parts")
        for part, usual in zip(value, default[:1] * len(value) if alike else default, strict=True):
            with as_input_error(f"{option}={shown(value)}"):
                _check_option("each part of it", part, usual)


def _constructor(name: str) -> Callable[..., nn.Module]:
    if name in MODELS:
        return MODELS[name]
    near = difflib.get_close_matches(name[:40].lower(), MODELS, n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(near)}?" if near else "`jaxcnn list` shows all"
    raise ValueError(f"model={shown(name)} is unknown; {hint}")
