"""Measures the energy that a GPU takes, where it tells: NVML counts joules on NVIDIA's cards."""

import os
import time
from collections.abc import Callable
from typing import Any

import jax

SECONDS = 2.0
"""How long steps are run: the card counts about ten times in a second."""


def joules_per_1000(step: Callable[[], Any], images: int) -> float | None:
    """Returns the joules that the GPU takes for 1,000 images; None where it does not tell.

    It is the energy of the whole card, idle parts included, over :data:`SECONDS` of steps.

    Args:
        step: runs one step and returns arrays, which are waited for.
        images: the number of images in a step.
    """
    joules = counter()
    if joules is None:
        return None
    jax.block_until_ready(step())
    start, before, steps = time.perf_counter(), joules(), 0
    while time.perf_counter() - start < SECONDS:
        jax.block_until_ready(step())
        steps += 1
    return 1000 * (joules() - before) / (steps * images)


def counter() -> Callable[[], float] | None:
    """Returns a function that reads the joules which the first GPU has taken since it was started.

    It is None without an NVIDIA GPU, without the package nvidia-ml-py, and where the card does not
    count (before Volta, and a part of a card).
    """
    if jax.default_backend() != "gpu":
        return None
    try:
        import pynvml
    except ImportError:
        return None
    # NVML knows nothing of the variable that says which cards CUDA uses.
    first = os.environ.get("CUDA_VISIBLE_DEVICES", "0").partition(",")[0]
    try:
        pynvml.nvmlInit()
        if first.isdecimal():
            card = pynvml.nvmlDeviceGetHandleByIndex(int(first))
        else:
            card = pynvml.nvmlDeviceGetHandleByUUID(first)
        pynvml.nvmlDeviceGetTotalEnergyConsumption(card)
    except pynvml.NVMLError:
        return None
    return lambda: pynvml.nvmlDeviceGetTotalEnergyConsumption(card) / 1e3
