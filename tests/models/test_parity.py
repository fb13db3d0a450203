"""Ours against torchvision with the same random weights: the same function, not a similar one."""

from dataclasses import replace
from typing import Any

import jax
import numpy as np
import pytest

from benchmarks.torch_reference import eval_error, reference, train_errors
from benchmarks.zoo import ROWS, TABLE, Row
from jaxcnn import models

SHARED = [row for row in TABLE if row.torchvision]
slow = pytest.mark.slow
# Their forward and backward passes in float64 are compiled in the default run.
QUICK_TO_COMPILE = {"squeezenet1_1"}
# They stand for their families, but take many seconds.
COSTLY = {"convnext_tiny", "densenet121", "efficientnet_b0", "inception_v3", "mobilenet_v3_small"}
# Their blocks are others than those of the network that stands for their family, and compile fast.
OTHER_BLOCKS = {"regnet_x_400mf", "resnext50_32x4d", "squeezenet1_0"}
# Theirs are too, but they take many seconds.
COSTLY_BLOCKS = {"efficientnet_v2_s", "mobilenet_v3_large", "resnet50", "vgg11"}


def _param(row: Row) -> Any:
    """Slow where it is costly, giant where it differs from others in widths and depths alone."""
    by_default = (row.representative or row.name in OTHER_BLOCKS) and row.name not in COSTLY
    alike = not (by_default or row.name in COSTLY | COSTLY_BLOCKS)
    marks = [slow] * (not by_default) + [pytest.mark.giant] * (alike or row.giant)
    return pytest.param(row, id=row.name, marks=marks)


@pytest.mark.parametrize(
    "row", [pytest.param(row, id=row.name, marks=slow if row.giant else ()) for row in SHARED]
)
def test_names_shapes_and_counts_are_the_references(row: Row, torchvision: Any) -> None:
    theirs = reference(row.name, empty=True)
    assert sum(p.numel() for p in theirs.parameters()) == row.parameters
    if row.giant:  # test_eval_logits moves the weights of the others
        zero = np.zeros((), np.float32)
        state = {name: np.broadcast_to(zero, t.shape) for name, t in theirs.state_dict().items()}
        assert models.from_torch(row.name, state).keys() <= {"params", "batch_stats"}


@pytest.mark.parametrize(
    "row", [row for row in SHARED if row.smallest > 1 and not row.giant], ids=lambda row: row.name
)
def test_smallest_image_is_the_references(row: Row, torchvision: Any) -> None:
    import torch

    theirs = reference(row.name, empty=True).eval()
    theirs(torch.empty(1, 3, row.smallest, row.smallest, device="meta"))
    with pytest.raises(RuntimeError):
        theirs(torch.empty(1, 3, row.smallest - 1, row.smallest - 1, device="meta"))


def test_pixels_of_the_references_weights(torchvision: Any) -> None:
    for row in SHARED:
        weights = torchvision.models.get_model_weights(row.name).DEFAULT
        usual = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
        expected = usual | weights.transforms.keywords
        if row.family in {"googlenet", "inception_v3"}:  # rescaled inside the model
            expected |= {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)}
        found = models.standard_normalization(row.name)
        assert found == (expected["mean"], expected["std"]), row.name


@pytest.mark.parametrize("row", [_param(row) for row in SHARED])
def test_eval_logits(row: Row, torchvision: Any) -> None:
    assert eval_error(row) < 1e-4


@pytest.mark.parametrize(
    ("row", "without_aux"),
    [
        pytest.param(row, False, id=row.name, marks=() if row.name in QUICK_TO_COMPILE else slow)
        for row in SHARED
        if row.representative
    ]
    + [
        pytest.param(
            replace(ROWS["inception_v3"], train_size=None),
            True,
            id="inception_v3 alone",
            marks=slow,
        )
    ],
)
def test_train_mode(row: Row, without_aux: bool, torchvision: Any) -> None:
    """Logits, auxiliary logits, updated statistics and the gradient of the images.

    The auxiliary head of inception_v3 takes images of 299x299, which is slow.
    """
    with jax.enable_x64(True):
        errors = train_errors(row, "float64", without_aux=without_aux)
    # Statistics pass through float32 on their way from torch.
    assert errors.pop("batch statistics", 0.0) < 1e-6
    # PyTorch's hard sigmoid has a gradient of 1/6 rounded to float32.
    assert max(errors.values()) < 1e-7, errors
