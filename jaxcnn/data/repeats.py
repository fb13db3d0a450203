"""Repeated augmentation: each example stands several times in a batch, changed anew each time."""

from typing import Any

import numpy as np


def places(start: Any, batch_size: int, repeats: int) -> Any:
    """Returns the places in an epoch's order of a batch whose examples are repeated.

    The epoch goes through the order with every example ``repeats`` times in a row, and ends after
    as many steps as without, so that it sees one part in ``repeats`` of the training set (repeated
    augmentation, Hoffer et al. 2020, as timm's RepeatAugSampler has it). In the batch, the second
    views of the examples stand after the first views of all: neighbours, which mixup and CutMix
    mix, are different images.

    Args:
        start: the number of examples in the batches before; a whole number or a traced one.
        batch_size: examples per batch; where it is no multiple of ``repeats``, views of one example
            may be in two batches.
        repeats: how often each example is seen in turn.

    >>> places(0, 6, 2).tolist(), places(6, 6, 2).tolist()
    ([0, 1, 2, 0, 1, 2], [3, 4, 5, 3, 4, 5])
    """
    row = np.arange(batch_size)
    passed = start + row
    return passed[(passed % repeats * batch_size + row).argsort()] // repeats
