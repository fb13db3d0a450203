"""Predicts how long a training step takes on one card, from its layers and the roofline.

Each layer takes at least the time that the roofline allows for its products and for the bytes of
its arguments and results, each moved once, forward and backward:

    seconds = sum over layers of max(FLOPs / peak, bytes / bandwidth) / share + layers * overhead.

The share of the roofline that is attained and what a layer takes however small it is, which is
above all the launch of its kernels, are fitted to two measured steps: see :data:`ATTAINED`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import flax.linen as nn

from jaxcnn.analysis import layers
from jaxcnn.analysis.bench import Work
from jaxcnn.analysis.cards import Card, Platform
from jaxcnn.analysis.roofline import DTYPES, Dtype, Roofs


class Attained(NamedTuple):
    """How real steps differ from the roofline: the share attained, and seconds of each layer."""

    share: float
    overhead: float


ATTAINED: dict[Platform, Attained] = {
    "gpu": Attained(0.499, 49.5e-6),
    "tpu": Attained(0.499, 0.0),
    "cpu": Attained(0.308, 241e-6),
}
"""Fitted by ``python -m benchmarks.plan``: of GPUs to ResNet-50 and ResNet-20 on one H200, of CPUs
to ResNet-20 and LeNet-5, in an earlier run than that of ``benchmarks/results/plan.json``. Of TPUs
nothing was measured: the share is that of GPUs, and nothing is launched there layer by layer."""


class Validation(NamedTuple):
    """What was predicted against what was measured: steps, median and largest error."""

    steps: int
    median: float
    largest: float


VALIDATED: dict[Platform, Validation] = {
    "gpu": Validation(6, 0.06, 0.58),
    "cpu": Validation(4, 0.40, 0.72),
}
"""Errors of one device, as shares of what was measured, of steps that nothing was fitted to
(``benchmarks/results/plan.json``)."""


class LayerCost(NamedTuple):
    """What a layer needs in a step: FLOPs and bytes of each image, and bytes in any case."""

    flops: float
    moved: float
    held: float


@dataclass(frozen=True)
class StepCost:
    """What the layers of a network need in a step, for any number of images.

    Attributes:
        layers: what each needs.
        activations: numbers in the outputs of all layers, for each image.
    """

    layers: tuple[LayerCost, ...]
    activations: int

    def flops(self, images: int) -> float:
        """Returns the FLOPs of the products, two for each multiply-accumulate."""
        return images * sum(layer.flops for layer in self.layers)

    def moved(self, images: int) -> float:
        """Returns the bytes of the arguments and results of all layers, each once."""
        return sum(layer.held + images * layer.moved for layer in self.layers)

    def least(self, images: int, roofs: Roofs) -> float:
        """Returns the seconds that the roofline allows the layers, one after the other."""
        return sum(
            roofs.seconds(images * layer.flops, layer.held + images * layer.moved)
            for layer in self.layers
        )

    def seconds(self, images: int, card: Card, dtype: Dtype) -> float:
        """Returns the seconds that a step is predicted to take on one card."""
        share, overhead = ATTAINED[card.platform]
        return self.least(images, card.roofs(dtype)) / share + len(self.layers) * overhead


def step_cost(
    model: nn.Module, input_shape: Sequence[int], dtype: Dtype, work: Work = "train"
) -> StepCost:
    """Counts what each layer of a network needs.

    The bytes of a layer are those of a batch, as a straight line through two of its sizes.

    Args:
        model: the network.
        input_shape: ``(h, w, c)``.
        dtype: type of the arithmetic.
        work: the kind of step.
    """
    two, three = (
        layers.paired(model, input_shape, number, DTYPES[dtype], work) for number in (2, 3)
    )
    found = []
    for (row, layer), (_, larger) in zip(two, three, strict=True):
        at_two, at_three = layer.moved(work), larger.moved(work)
        each = at_three - at_two
        found.append(LayerCost(layer.passes(work) * 2 * row.macs, each, at_two - 2 * each))
    return StepCost(tuple(found), sum(row.activations for row, _ in two))
