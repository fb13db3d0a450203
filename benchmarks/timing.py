"""Measures variants in turn, and records the medians and the environment they ran in."""

import json
import os
import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax

from jaxcnn.learning.run_folder import environment

RESULTS = Path(os.environ.get("OUT") or Path(__file__).parent / "results")
"""The folder for results: the one that the variable OUT names, or ``benchmarks/results``."""


def interleaved(variants: Mapping[str, Callable[[], Any]], rounds: int) -> dict[str, list[float]]:
    """Returns the seconds of each variant in each round; a round runs every variant once, in turn.

    Machines are noisy over minutes, not over milliseconds: only figures of one round, and
    ratios made of them, can be compared. The first, unmeasured round compiles and warms up.

    Args:
        variants: for each name, a call whose result is waited for.
        rounds: the number of measured rounds.
    """
    seconds: dict[str, list[float]] = {name: [] for name in variants}
    for call in variants.values():
        jax.block_until_ready(call())
    for _ in range(rounds):
        for name, call in variants.items():
            start = time.perf_counter()
            jax.block_until_ready(call())
            seconds[name].append(time.perf_counter() - start)
    return seconds


def median_ratio(numerator: list[float], denominator: list[float]) -> float:
    """Returns the median over the rounds of the ratio within each round."""
    return statistics.median(a / b for a, b in zip(numerator, denominator, strict=True))


def write(name: str, results: Any, **settings: Any) -> Path:
    """Writes NAME.json into :data:`RESULTS` with the environment and the settings beside it."""
    RESULTS.mkdir(parents=True, exist_ok=True)
    path = RESULTS / f"{name}.json"
    content = {"environment": environment(), "settings": settings, "results": results}
    path.write_text(json.dumps(content, indent=2) + "\n")
    return path
