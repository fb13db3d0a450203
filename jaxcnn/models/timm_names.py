"""Networks and arrays by the names that timm gives them.

:data:`NETWORKS` says which of timm's networks are ours, and :func:`renamed` calls the arrays of one
as torchvision does, whose names the modules here carry. No code of timm's is needed.

Wightman: PyTorch Image Models, 2019, https://github.com/huggingface/pytorch-image-models
"""

import difflib
import re
from collections import defaultdict
from collections.abc import Callable, Collection, Mapping
from typing import Any, NamedTuple

from jaxcnn.config.checked import shown

TORCH_EPSILON = {"epsilon": 1e-5}
"""timm normalises with PyTorch's default where torchvision took over TensorFlow's."""


def _regnet(depths: tuple[int, ...], widths: tuple[int, ...], group_width: int) -> dict[str, Any]:
    return {"depths": depths, "widths": widths, "group_width": group_width}


def _convnext(stage_sizes: tuple[int, ...], width: int) -> dict[str, Any]:
    return {"stage_sizes": stage_sizes, "widths": tuple(width * 2**stage for stage in range(4))}


# fmt: off
NETWORKS: dict[str, tuple[str, Mapping[str, Any]]] = {
    **{name: (name, {}) for name in (
        "resnet18", "resnet34", "resnet50", "resnet101", "resnet152",
        "resnext50_32x4d", "resnext101_32x8d", "resnext101_64x4d",
        "wide_resnet50_2", "wide_resnet101_2",
        "vgg11", "vgg13", "vgg16", "vgg19", "vgg11_bn", "vgg13_bn", "vgg16_bn", "vgg19_bn",
        "densenet121", "densenet161", "densenet169", "densenet201",
        "inception_v3",
        "convnext_tiny", "convnext_small", "convnext_base", "convnext_large",
        "efficientnet_b0", "efficientnet_b1", "efficientnet_b2", "efficientnet_b3",
        "efficientnet_b4",
    )},
    "resnet26": ("resnet50", {"stage_sizes": (2, 2, 2, 2)}),
    "resnet200": ("resnet50", {"stage_sizes": (3, 24, 36, 3)}),
    "resnext101_32x4d": ("resnext101_32x8d", {"width_per_group": 4}),
    "resnext101_32x16d": ("resnext101_32x8d", {"width_per_group": 16}),
    "resnext101_32x32d": ("resnext101_32x8d", {"width_per_group": 32}),
    "resnetv2_18": ("preact_resnet18", {}),
    "resnetv2_34": ("preact_resnet34", {}),
    "resnetv2_50": ("preact_resnet50", {}),
    "resnetv2_101": ("preact_resnet101", {}),
    "resnetv2_152": ("preact_resnet152", {}),
    "convnext_atto": ("convnext_tiny", _convnext((2, 2, 6, 2), 40)),
    "convnext_femto": ("convnext_tiny", _convnext((2, 2, 6, 2), 48)),
    "convnext_pico": ("convnext_tiny", _convnext((2, 2, 6, 2), 64)),
    "convnext_nano": ("convnext_tiny", _convnext((2, 2, 8, 2), 80)),
    "convnext_xlarge": ("convnext_large", _convnext((3, 3, 27, 3), 256)),
    "efficientnet_b5": ("efficientnet_b5", TORCH_EPSILON),
    "efficientnet_b6": ("efficientnet_b6", TORCH_EPSILON),
    "efficientnet_b7": ("efficientnet_b7", TORCH_EPSILON),
    "efficientnetv2_s": ("efficientnet_v2_s", TORCH_EPSILON),
    "efficientnetv2_m": ("efficientnet_v2_m", TORCH_EPSILON),
    "efficientnetv2_l": ("efficientnet_v2_l", TORCH_EPSILON),
    "mobilenetv2_035": ("mobilenet_v2", {"width": 0.35}),
    "mobilenetv2_050": ("mobilenet_v2", {"width": 0.5}),
    "mobilenetv2_075": ("mobilenet_v2", {"width": 0.75}),
    "mobilenetv2_100": ("mobilenet_v2", {}),
    "mobilenetv2_140": ("mobilenet_v2", {"width": 1.4}),
    "mobilenetv3_small_100": ("mobilenet_v3_small", TORCH_EPSILON),
    "mobilenetv3_large_100": ("mobilenet_v3_large", TORCH_EPSILON),
    "mnasnet_050": ("mnasnet0_5", {}),
    "mnasnet_075": ("mnasnet0_75", {}),
    "mnasnet_100": ("mnasnet1_0", {}),
    "mnasnet_140": ("mnasnet1_0", {"width": 1.4}),
    "regnetx_002": ("regnet_x_400mf", _regnet((1, 1, 4, 7), (24, 56, 152, 368), 8)),
    "regnetx_004": ("regnet_x_400mf", {"widths": (32, 64, 160, 384)}),
    "regnetx_004_tv": ("regnet_x_400mf", {}),
    "regnetx_006": ("regnet_x_400mf", _regnet((1, 3, 5, 7), (48, 96, 240, 528), 24)),
    "regnetx_008": ("regnet_x_800mf", {}),
    "regnetx_016": ("regnet_x_1_6gf", {}),
    "regnetx_032": ("regnet_x_3_2gf", {}),
    "regnetx_040": ("regnet_x_3_2gf", _regnet((2, 5, 14, 2), (80, 240, 560, 1360), 40)),
    "regnetx_064": ("regnet_x_8gf", _regnet((2, 4, 10, 1), (168, 392, 784, 1624), 56)),
    "regnetx_080": ("regnet_x_8gf", {}),
    "regnetx_120": ("regnet_x_16gf", _regnet((2, 5, 11, 1), (224, 448, 896, 2240), 112)),
    "regnetx_160": ("regnet_x_16gf", {}),
    "regnetx_320": ("regnet_x_32gf", {}),
    "regnety_002": ("regnet_y_400mf", _regnet((1, 1, 4, 7), (24, 56, 152, 368), 8)),
    "regnety_004": ("regnet_y_400mf", {}),
    "regnety_006": ("regnet_y_400mf", _regnet((1, 3, 7, 4), (48, 112, 256, 608), 16)),
    "regnety_008": ("regnet_y_800mf", {"widths": (64, 128, 320, 768)}),
    "regnety_008_tv": ("regnet_y_800mf", {}),
    "regnety_016": ("regnet_y_1_6gf", {}),
    "regnety_032": ("regnet_y_3_2gf", {}),
    "regnety_040": ("regnet_y_3_2gf", _regnet((2, 6, 12, 2), (128, 192, 512, 1088), 64)),
    "regnety_064": ("regnet_y_8gf", _regnet((2, 7, 14, 2), (144, 288, 576, 1296), 72)),
    "regnety_080": ("regnet_y_8gf", {"widths": (168, 448, 896, 2016)}),
    "regnety_080_tv": ("regnet_y_8gf", {}),
    "regnety_120": ("regnet_y_16gf", _regnet((2, 5, 11, 1), (224, 448, 896, 2240), 112)),
    "regnety_160": ("regnet_y_16gf", {}),
    "regnety_320": ("regnet_y_32gf", {}),
}
"""timm's name of each network that is one of ours: our name and the options that make it so."""
# fmt: on

PADDING = (
    "it pads as TensorFlow does, more at the right and the bottom than at the left and the top"
)
GROUP_NORM = "it normalises groups of channels, not batches"
SMOOTH = "it blurs or averages where ours strides"
DIFFERENT: dict[str, str] = {
    r"tf_(efficientnet|mobilenet).*": PADDING,
    r"(resnet50|efficientnet_b0)_gn": GROUP_NORM,
    r"resnetv2_.*_bit": f"{GROUP_NORM}, and standardises its weights",
    r"nf_.*": "it standardises its weights, and normalises no activations",
    r"(resnetaa|resnetblur|efficientnet_blur).*": SMOOTH,
    r"convnext_tiny_hnf": "it normalises in front of the last pool, ours behind it",
    r"mobilenetv1_100": "it pads alike on all sides and normalises with 1e-5, ours as Keras does",
    r"mobilenetv3_(small|large)_0.*": "it rounds the widths of its layers differently",
    r"legacy_xception": "it pads alike on all sides and normalises with 1e-5, ours as Keras does",
}
"""Networks of timm, as regular expressions, that have as many parameters as one of ours but compute
something else, and what."""


def network(name: str) -> tuple[str, Mapping[str, Any]]:
    """Returns our name and options of one of timm's networks.

    Args:
        name: timm's name; a tag of its weights behind a dot does not count.

    Raises:
        ValueError: it is none of ours.

    >>> network("regnety_004.tv2_in1k")
    ('regnet_y_400mf', {})
    """
    base = name.partition(".")[0]
    if base in NETWORKS:
        return NETWORKS[base]
    for pattern, difference in DIFFERENT.items():
        if re.fullmatch(pattern, base):
            raise ValueError(f"timm's {base} is another network than ours: {difference}")
    near = difflib.get_close_matches(base, NETWORKS, n=3)
    hint = f"; did you mean {', '.join(near)}?" if near else ""
    raise ValueError(f"{shown(base)} is none of timm's networks that jaxcnn has{hint}")


def is_known(name: str) -> bool:
    """Tells whether timm has a network of this name that is one of ours, or only looks like it.

    >>> is_known("regnety_004"), is_known("tf_efficientnet_b0"), is_known("lenet5")
    (True, True, False)
    """
    base = name.partition(".")[0]
    return base in NETWORKS or any(re.fullmatch(pattern, base) for pattern in DIFFERENT)


Rule = tuple[str, str | Callable[[re.Match[str]], str]]

RULES: dict[str, tuple[Rule, ...]] = {
    "preact_resnet": (
        (r"^stem\.conv\.", "conv1."),
        (r"^stages\.(\d+)\.blocks\.", lambda match: f"layer{int(match[1]) + 1}."),
        (r"\.downsample\.conv\.", ".downsample."),
        (r"^head\.fc\.", "fc."),
    ),
    "vgg": (  # the dense layers are 7x7 and 1x1 convolutions
        (r"^pre_logits\.fc1\.", "classifier.0."),
        (r"^pre_logits\.fc2\.", "classifier.3."),
        (r"^head\.fc\.", "classifier.6."),
    ),
    "densenet": ((r"\.(norm|conv|relu)\.([12])\.", r".\1\2."),),  # torchvision's first files
    "convnext": (
        (r"^stem\.", "features.0."),
        (r"^stages\.(\d+)\.downsample\.", lambda match: f"features.{2 * int(match[1])}."),
        (r"^stages\.(\d+)\.blocks\.", lambda match: f"features.{2 * int(match[1]) + 1}."),
        (r"\.gamma$", ".layer_scale"),
        (r"\.conv_dw\.", ".block.0."),
        (r"(features\.\d+\.\d+)\.norm\.", r"\1.block.2."),
        (r"\.mlp\.fc1\.", ".block.3."),
        (r"\.mlp\.fc2\.", ".block.5."),
        (r"^head\.norm\.", "classifier.0."),
        (r"^head\.fc\.", "classifier.2."),
    ),
    "regnet": (
        (r"^s(\d+)\.b(\d+)\.",
         lambda match: f"trunk_output.block{match[1]}.block{match[1]}-{int(match[2]) - 1}."),
        (r"\.downsample\.", ".proj."),
        (r"\.conv1\.", ".f.a."),
        (r"\.conv2\.", ".f.b."),
        (r"\.conv3\.", ".f.c."),
        (r"\.se\.", ".f.se."),
        (r"\.conv\.(\w+)$", r".0.\1"),
        (r"\.bn\.(\w+)$", r".1.\1"),
        (r"^head\.fc\.", "fc."),
    ),
}  # fmt: skip
"""Per family, the steps from timm's name of an array to torchvision's: what each regular expression
finds is replaced, in this order. Families that are not here have the same names, or blocks as in
:data:`PLACES`."""


class Place(NamedTuple):
    """Says where an array of a block with a depthwise convolution, or of a simpler one, stands.

    Attributes:
        stage: number of timm's stage, from 0.
        block: number of the block in its stage, from 0.
        number: number of the block in the whole network, from 1.
        unit: number of the convolution, or of the squeeze-and-excitation, in its block, from 0.
        last: whether the block ends with this unit.
        kind: timm's name of the unit: ``"se"`` is a squeeze-and-excitation.
        part: 0 is the convolution, 1 its normalisation; in a squeeze-and-excitation they are its
            two convolutions.
    """

    stage: int
    block: int
    number: int
    unit: int
    last: bool
    kind: str
    part: int

    @property
    def within(self) -> str:
        """What torchvision calls the array in its block."""
        return f"{self.unit}.fc{self.part + 1}" if self.kind == "se" else f"{self.unit}.{self.part}"


def _in_mobilenet_v2(at: Place) -> str:
    within = f"{at.unit + at.part}" if at.last else at.within
    return f"features.{at.number}.conv.{within}"


def _in_mobilenet_v3(at: Place) -> str:
    if at.kind == "conv":  # alone in its block, behind all others
        return f"features.{at.number}.{at.part}"
    return f"features.{at.number}.block.{at.within}"


def _in_mnasnet(at: Place) -> str:
    if at.stage == 0:
        return f"layers.{3 * at.unit + 3 + at.part}"
    return f"layers.{at.stage + 7}.{at.block}.layers.{3 * at.unit + at.part}"


def _in_efficientnet(at: Place) -> str:
    return f"features.{at.stage + 1}.{at.block}.block.{at.within}"


class Mobile(NamedTuple):
    """Holds what torchvision calls the layers of a network whose blocks are inverted residuals.

    Attributes:
        block: returns the name of an array of a block.
        around: the layers around the blocks, of which there are so many in so many stages.
    """

    block: Callable[[Place], str]
    around: Callable[[int, int], dict[str, str]]


MOBILE = {
    "mobilenet_v2": Mobile(_in_mobilenet_v2, lambda blocks, stages: {
        "conv_stem": "features.0.0", "bn1": "features.0.1",
        "conv_head": f"features.{blocks + 1}.0", "bn2": f"features.{blocks + 1}.1",
        "classifier": "classifier.1",
    }),
    "mobilenet_v3": Mobile(_in_mobilenet_v3, lambda blocks, stages: {
        "conv_stem": "features.0.0", "bn1": "features.0.1",
        "conv_head": "classifier.0", "classifier": "classifier.3",
    }),
    "mnasnet": Mobile(_in_mnasnet, lambda blocks, stages: {
        "conv_stem": "layers.0", "bn1": "layers.1",
        "conv_head": f"layers.{stages + 7}", "bn2": f"layers.{stages + 8}",
        "classifier": "classifier.1",
    }),
    "efficientnet": Mobile(_in_efficientnet, lambda blocks, stages: {
        "conv_stem": "features.0.0", "bn1": "features.0.1",
        "conv_head": f"features.{stages + 1}.0", "bn2": f"features.{stages + 1}.1",
        "classifier": "classifier.1",
    }),
}  # fmt: skip
"""Per family with inverted residuals, what torchvision calls their arrays."""

BLOCK = re.compile(r"blocks\.(\d{1,4})\.(\d{1,4})\.(conv\w*|se)\.")
EXPANDED = ("conv_exp", "conv_pw", "conv_dw", "se", "conv_pwl")
"""The units of a block that widens its input and narrows it again, in their order."""
PLAIN = ("conv", "conv_dw", "se", "conv_pw")
"""The units of other blocks, in their order."""


def renamed(family: str, names: Collection[str]) -> dict[str, str]:
    """Returns torchvision's names of arrays that timm names otherwise.

    Args:
        family: the module of ``jaxcnn.models`` that defines the network.
        names: all arrays of the network, by timm's names.

    >>> renamed("regnet", ["s1.b2.conv3.bn.weight"])
    {'s1.b2.conv3.bn.weight': 'trunk_output.block1.block1-1.f.c.1.weight'}
    >>> renamed("mnasnet", ["blocks.0.0.conv_dw.weight"])
    {'blocks.0.0.conv_dw.weight': 'layers.3.weight'}
    """
    if family in MOBILE:
        layers = _mobile_layers(MOBILE[family], names)
        parts = {name: name.rpartition(".") for name in names}
        return {
            name: f"{layers[layer]}.{leaf}"
            for name, (layer, _, leaf) in parts.items()
            if layer in layers
        }
    found = {}
    for name in names:
        new = name
        for pattern, replacement in RULES.get(family, ()):
            new = re.sub(pattern, replacement, new)
        if new != name:
            found[name] = new
    return found


def _mobile_layers(mobile: Mobile, names: Collection[str]) -> dict[str, str]:
    """Returns torchvision's name of each layer of a network of inverted residuals."""
    blocks: dict[tuple[int, int], set[str]] = defaultdict(set)
    for match in filter(None, map(BLOCK.match, names)):
        blocks[int(match[1]), int(match[2])].add(match[3])
    layers = mobile.around(len(blocks), len({stage for stage, _ in blocks}))
    for number, ((stage, block), kinds) in enumerate(sorted(blocks.items()), start=1):
        units = [kind for kind in (EXPANDED if "conv_pwl" in kinds else PLAIN) if kind in kinds]
        convolutions = [kind for kind in units if kind != "se"]
        for unit, kind in enumerate(units):
            if kind == "se":
                parts = ["se.conv_reduce", "se.conv_expand"]
            else:
                parts = [kind, f"bn{convolutions.index(kind) + 1}"]
            for part, layer in enumerate(parts):
                place = Place(stage, block, number, unit, kind == units[-1], kind, part)
                layers[f"blocks.{stage}.{block}.{layer}"] = mobile.block(place)
    return layers
