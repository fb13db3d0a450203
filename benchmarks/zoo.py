"""The one table of models that the conformance tests, the parity tests and benchmarks share."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from jaxcnn import models


@dataclass(frozen=True)
class Row:
    """A model and what the tests need to know about it.

    Attributes:
        name: its name in ``models.MODELS``.
        family: the file in ``jaxcnn/models`` that defines it.
        parameters: their number with ``classes`` classes and the standard input.
        torchvision: whether torchvision has it under the same name.
        representative: whether it stands for its family in the costly checks.
        giant: whether it is too large for the default run, and compared in the slow one alone.
        size: height and width of the images that the tests use.
        train_size: the same in training mode, where that needs larger images; None for ``size``.
        smallest: the smallest height and width that the model takes.
        any_size: whether variables made for one image size work for another.
        classes: the number of logits that ``parameters`` is for.
        slim: options of a shallower member of the family, for the checks that compile gradients.
        dead: parts of the names of parameters that do not change the loss in training mode, such
            as the bias of a convolution in front of a batch normalisation.
    """

    name: str
    family: str
    parameters: int
    torchvision: bool = True
    representative: bool = False
    giant: bool = False
    size: int = 64
    train_size: int | None = None
    smallest: int = 1
    any_size: bool = True
    classes: int = 1000
    slim: Mapping[str, Any] = field(default_factory=dict)
    dead: tuple[str, ...] = ()

    @property
    def channels(self) -> int:
        """The number of channels of an image."""
        return models.standard_input(self.name)[2]

    @property
    def image(self) -> tuple[int, int, int]:
        """Height, width and channels of the images in evaluation mode."""
        return self.size, self.size, self.channels

    @property
    def train_image(self) -> tuple[int, int, int]:
        """Height, width and channels of the images in training mode."""
        size = self.train_size or self.size
        return size, size, self.channels

    @property
    def train_batch(self) -> int:
        """The number of images in a training batch."""
        return 2 if self.train_size else 4


# fmt: off
TABLE = (
    Row("mlp", "mlp", 535_818, torchvision=False, representative=True, size=28, any_size=False,
        classes=10),
    Row("lenet5", "lenet", 61_706, torchvision=False, representative=True, size=32, smallest=16,
        any_size=False, classes=10),
    Row("convnet", "convnet", 421_642, torchvision=False, representative=True, size=28, smallest=4,
        any_size=False, classes=10),
    Row("sequential", "sequential", 421_642, torchvision=False, representative=True, size=28,
        smallest=4, any_size=False, classes=10),

    Row("alexnet_2012", "alexnet", 60_965_224, torchvision=False, representative=True, size=80,
        smallest=63, any_size=False),
    Row("alexnet", "alexnet", 61_100_840, representative=True, smallest=63),

    Row("vgg11", "vgg", 132_863_336, size=32, smallest=32),
    Row("vgg13", "vgg", 133_047_848, size=32, smallest=32, giant=True),
    Row("vgg16", "vgg", 138_357_544, size=32, smallest=32, giant=True),
    Row("vgg19", "vgg", 143_667_240, size=32, smallest=32, giant=True),
    Row("vgg11_bn", "vgg", 132_868_840, size=40, smallest=32, representative=True,
        slim={"stage_sizes": (1, 1, 1, 1, 1), "small_images": True}),
    Row("vgg13_bn", "vgg", 133_053_736, size=32, smallest=32, giant=True),
    Row("vgg16_bn", "vgg", 138_365_992, size=32, smallest=32, giant=True),
    Row("vgg19_bn", "vgg", 143_678_248, size=32, smallest=32, giant=True),

    Row("googlenet_2014", "googlenet", 13_378_280, torchvision=False, representative=True, size=80,
        smallest=79, any_size=False),
    Row("googlenet", "googlenet", 13_004_888, representative=True, smallest=15),

    Row("inception_v3", "inception_v3", 27_161_264, representative=True, size=75, train_size=299,
        smallest=75),

    Row("resnet18", "resnet", 11_689_512, representative=True,
        slim={"stage_sizes": (1, 1, 1, 1)}),
    Row("resnet34", "resnet", 21_797_672),
    Row("resnet50", "resnet", 25_557_032),
    Row("resnet101", "resnet", 44_549_160, giant=True),
    Row("resnet152", "resnet", 60_192_808, giant=True),
    Row("resnext50_32x4d", "resnet", 25_028_904),
    Row("resnext101_32x8d", "resnet", 88_791_336, giant=True),
    Row("resnext101_64x4d", "resnet", 83_455_272, giant=True),
    Row("wide_resnet50_2", "resnet", 68_883_240, giant=True),
    Row("wide_resnet101_2", "resnet", 126_886_696, giant=True),

    Row("preact_resnet18", "preact_resnet", 11_687_720, torchvision=False, representative=True,
        slim={"stage_sizes": (1, 1, 1, 1)}),
    Row("preact_resnet34", "preact_resnet", 21_795_880, torchvision=False),
    Row("preact_resnet50", "preact_resnet", 25_549_352, torchvision=False),
    Row("preact_resnet101", "preact_resnet", 44_541_480, torchvision=False),
    Row("preact_resnet152", "preact_resnet", 60_185_128, torchvision=False),

    Row("resnet20", "resnet_cifar", 269_722, torchvision=False, representative=True, size=32,
        classes=10,
        slim={"depth": 8}),
    Row("resnet32", "resnet_cifar", 464_154, torchvision=False, size=32, classes=10),
    Row("resnet44", "resnet_cifar", 658_586, torchvision=False, size=32, classes=10),
    Row("resnet56", "resnet_cifar", 853_018, torchvision=False, size=32, classes=10),
    Row("resnet110", "resnet_cifar", 1_727_962, torchvision=False, size=32, classes=10),

    Row("wide_resnet28_10", "wide_resnet", 36_479_194, torchvision=False, representative=True,
        size=16, classes=10,
        slim={"depth": 10, "widen": 2}),

    Row("airbench", "airbench", 1_971_640, torchvision=False, representative=True, size=32,
        smallest=9, classes=10,
        slim={"widths": (8, 16, 16)}),

    Row("densenet121", "densenet", 7_978_856, representative=True, smallest=29,
        slim={"block_sizes": (2, 2, 2, 2)}),
    Row("densenet161", "densenet", 28_681_000, smallest=29, giant=True),
    Row("densenet169", "densenet", 14_149_480, smallest=29, giant=True),
    Row("densenet201", "densenet", 20_013_928, smallest=29, giant=True),

    Row("squeezenet1_0", "squeezenet", 1_248_424, smallest=21),
    Row("squeezenet1_1", "squeezenet", 1_235_496, representative=True, smallest=17),

    Row("mobilenet_v1", "mobilenet_v1", 4_231_976, torchvision=False, representative=True,
        slim={"stages": ((1, 16), (2, 32), (1, 64))}),

    Row("mobilenet_v2", "mobilenet_v2", 3_504_872, representative=True,
        slim={"stages": ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 1, 2))}),

    Row("mobilenet_v3_small", "mobilenet_v3", 2_542_856, representative=True,
        slim={"blocks": ((3, 16, 16, True, False, 2), (3, 72, 24, False, False, 2),
              (5, 96, 40, True, True, 2), (5, 240, 40, True, True, 1))}),
    Row("mobilenet_v3_large", "mobilenet_v3", 5_483_032),

    Row("shufflenet_v2_x0_5", "shufflenet_v2", 1_366_792, representative=True,
        slim={"stage_sizes": (2, 1), "widths": (48, 96, 128)}),
    Row("shufflenet_v2_x1_0", "shufflenet_v2", 2_278_604),
    Row("shufflenet_v2_x1_5", "shufflenet_v2", 3_503_624),
    Row("shufflenet_v2_x2_0", "shufflenet_v2", 7_393_996),

    Row("mnasnet0_5", "mnasnet", 2_218_512, representative=True,
        slim={"stages": ((3, 3, 24, 2, 2), (5, 6, 40, 1, 2))}),
    Row("mnasnet0_75", "mnasnet", 3_170_208),
    Row("mnasnet1_0", "mnasnet", 4_383_312),
    Row("mnasnet1_3", "mnasnet", 6_282_256),

    Row("efficientnet_b0", "efficientnet", 5_288_548, representative=True,
        slim={"stages": (("fused", 1, 3, 1, 16, 2), ("fused", 4, 3, 2, 24, 1),
                         ("mb", 6, 3, 2, 24, 2))}),
    Row("efficientnet_b1", "efficientnet", 7_794_184),
    Row("efficientnet_b2", "efficientnet", 9_109_994),
    Row("efficientnet_b3", "efficientnet", 12_233_232, giant=True, size=128),
    Row("efficientnet_b4", "efficientnet", 19_341_616, giant=True, size=128),
    Row("efficientnet_b5", "efficientnet", 30_389_784, giant=True, size=128),
    Row("efficientnet_b6", "efficientnet", 43_040_704, giant=True, size=128),
    Row("efficientnet_b7", "efficientnet", 66_347_960, giant=True, size=192),
    Row("efficientnet_v2_s", "efficientnet", 21_458_488),
    Row("efficientnet_v2_m", "efficientnet", 54_139_356, giant=True, size=128),
    Row("efficientnet_v2_l", "efficientnet", 118_515_272, giant=True, size=192),

    Row("convnext_tiny", "convnext", 28_589_128, representative=True, smallest=32,
        slim={"stage_sizes": (1, 1, 2, 1)}),
    Row("convnext_small", "convnext", 50_223_688, giant=True, smallest=32),
    Row("convnext_base", "convnext", 88_591_464, giant=True, smallest=32),
    Row("convnext_large", "convnext", 197_767_336, giant=True, smallest=32),

    Row("regnet_x_400mf", "regnet", 5_495_976),
    Row("regnet_x_800mf", "regnet", 7_259_656),
    Row("regnet_x_1_6gf", "regnet", 9_190_136),
    Row("regnet_x_3_2gf", "regnet", 15_296_552),
    Row("regnet_x_8gf", "regnet", 39_572_648, giant=True),
    Row("regnet_x_16gf", "regnet", 54_278_536, giant=True),
    Row("regnet_x_32gf", "regnet", 107_811_560, giant=True, size=96),
    Row("regnet_y_400mf", "regnet", 4_344_144, representative=True,
        slim={"depths": (1, 1, 2, 1)}),
    Row("regnet_y_800mf", "regnet", 6_432_512),
    Row("regnet_y_1_6gf", "regnet", 11_202_430),
    Row("regnet_y_3_2gf", "regnet", 19_436_338),
    Row("regnet_y_8gf", "regnet", 39_381_472, giant=True),
    Row("regnet_y_16gf", "regnet", 83_590_140, giant=True),
    Row("regnet_y_32gf", "regnet", 145_046_770, giant=True),

    Row("xception", "xception", 22_855_952, torchvision=False, representative=True, smallest=7,
        slim={"middle_blocks": 1}),

    Row("unet", "unet", 31_030_658, torchvision=False, representative=True, classes=2,
        slim={"widths": (8, 16, 32)}),
)
# fmt: on
ROWS = {row.name: row for row in TABLE}


def build(row: Row, num_classes: int = 10, **options: Any) -> nn.Module:
    """Builds the model without dropout or stochastic depth: its training is deterministic."""
    drops = {
        option: 0.0
        for option, default in models.model_options(row.name).items()
        if option.startswith(("dropout", "drop_path")) and isinstance(default, float)
    }
    return models.create_model(row.name, num_classes=num_classes, **(drops | options))


def shapes(model: nn.Module, image: tuple[int, int, int], batch: int = 1) -> dict[str, Any]:
    """Returns the shapes of a model's variables, without computing any."""
    x = jax.ShapeDtypeStruct((batch, *image), jnp.float32)
    return jax.eval_shape(lambda key, x: model.init(key, x), jax.random.key(0), x)


def variables(model: nn.Module, image: tuple[int, int, int], seed: int = 0) -> dict[str, Any]:
    """Draws variables much faster than ``model.init``; no statistic is zero or one."""
    rng = np.random.default_rng(seed)
    flat = flatten_dict(shapes(model, image))
    return unflatten_dict(
        {
            path: jnp.asarray(draw(rng, path[-1] == "var", leaf.shape, math.prod(leaf.shape[:-1])))
            for path, leaf in flat.items()
        }
    )


def draw(
    rng: np.random.Generator, positive: bool, shape: tuple[int, ...], fan_in: int
) -> np.ndarray:
    """Draws He-normal weights, uniform scales and variances, or small biases and means."""
    if positive:
        return rng.uniform(0.5, 1.5, shape).astype(np.float32)
    if len(shape) > 1:
        return rng.standard_normal(shape, np.float32) * np.float32(math.sqrt(2 / fan_in))
    return rng.uniform(-0.2, 0.2, shape).astype(np.float32)
