"""Ours against timm with the same random weights: the same function under other names."""

import re
from typing import Any

import pytest

from benchmarks.torch_reference import reference, timm_error, timm_reference
from benchmarks.zoo import ROWS, TABLE
from jaxcnn import models
from jaxcnn.models import timm_names

# One for each way of naming arrays whose forward pass compiles fast; resnet18 has torchvision's.
QUICK = {"mobilenetv3_small_100", "regnety_002", "resnetv2_18"}
# Those of the others that stand for a family, a way of naming or an option; what is left differs
# from them in widths and depths.
STANDING = {
    "convnext_atto", "densenet121", "efficientnet_b0", "efficientnetv2_s", "inception_v3",
    "mnasnet_050", "mnasnet_100", "mobilenetv2_035", "mobilenetv3_large_100", "regnetx_004",
    "regnetx_004_tv", "resnet18", "resnet26", "resnetv2_50", "vgg11",
}  # fmt: skip
RENAMED_ONLY = {
    name: ours
    for name, (ours, options) in timm_names.NETWORKS.items()
    if options.keys() <= {"epsilon"} and ROWS[ours].torchvision and ours != "inception_v3"
}
"""timm's names of networks that torchvision has too."""
BEGIN = (
    "convnext_", "densenet", "efficientnet_", "efficientnetv2_", "inception_v3", "legacy_xception",
    "mnasnet", "mobilenetv", "nf_res", "regnetx", "regnety", "resnet", "resnext", "tf_", "vgg",
    "wide_resnet", "xception",
)  # fmt: skip
"""Names that such networks of timm's have as may be ours."""


def marks(name: str) -> list[Any]:
    if name in QUICK:
        return []
    return [pytest.mark.slow] + [pytest.mark.giant] * (name not in STANDING)


@pytest.fixture(scope="module")
def timm(torchvision: Any) -> Any:
    """timm, or a visible skip."""
    return pytest.importorskip("timm")


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=marks(name)) for name in timm_names.NETWORKS]
)
def test_eval_logits(name: str, timm: Any) -> None:
    assert timm_error(name) < 1e-4


def shapes(model: Any) -> dict[str, tuple[int, ...]]:
    """Shapes of the arrays by their names, without axes of length one, which stand for layouts."""
    return {
        name: tuple(n for n in array.shape if n != 1)
        for name, array in model.state_dict().items()
        if not name.endswith("num_batches_tracked")
    }


@pytest.mark.parametrize(
    ("name", "ours"),
    [
        pytest.param(name, ours, marks=[pytest.mark.slow] * ROWS[ours].giant)
        for name, ours in RENAMED_ONLY.items()
    ],
)
def test_names_become_torchvisions(name: str, ours: str, timm: Any) -> None:
    theirs = shapes(timm_reference(name, empty=True))
    new = timm_names.renamed(ROWS[ours].family, theirs)
    found = {new.get(name, name): shape for name, shape in theirs.items()}
    if ROWS[ours].family == "vgg":  # the same numbers, of a convolution over all of its input
        found["classifier.0.weight"] = (4096, 512 * 7 * 7)
    assert found == shapes(reference(ours, empty=True))


@pytest.mark.slow
@pytest.mark.giant  # hundreds of networks are built
def test_every_network_with_as_many_parameters_is_known_or_known_to_differ(timm: Any) -> None:
    import torch

    numbers = {row.parameters for row in TABLE}
    for name in timm.list_models():
        if not name.startswith(BEGIN):
            continue
        with torch.device("meta"):
            model = timm.create_model(name)
        if sum(p.numel() for p in model.parameters()) in numbers:
            differs = any(re.fullmatch(pattern, name) for pattern in timm_names.DIFFERENT)
            assert differs != (name in timm_names.NETWORKS), name


def test_all_names_are_timms_and_ours(timm: Any) -> None:
    assert timm_names.NETWORKS.keys() <= set(timm.list_models())
    for ours, options in timm_names.NETWORKS.values():
        assert options.keys() <= models.model_options(ours).keys()
