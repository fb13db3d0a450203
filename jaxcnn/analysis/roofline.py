"""Measures what the device reaches at its best: a large matrix product and a large copy."""

import time
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp

Dtype = Literal["fp32", "bf16"]

DTYPES = {"fp32": jnp.float32, "bf16": jnp.bfloat16}


class Roofs(NamedTuple):
    """What the device reaches at its best: FLOP/s of a matrix product, bytes/s of a copy."""

    flops_per_sec: float
    bytes_per_sec: float

    def seconds(self, flops: float, bytes_moved: float) -> float:
        """Returns the least time for work: that of its arithmetic, or of its bytes if it is longer.

        Williams et al., "Roofline: An Insightful Visual Performance Model", 2009: a program of so
        many FLOPs for each byte reaches ``min(peak, intensity * bandwidth)`` at best.

        >>> Roofs(100.0, 10.0).seconds(flops=8.0, bytes_moved=2.0)
        0.2
        """
        return max(flops / self.flops_per_sec, bytes_moved / self.bytes_per_sec)


def measure_roofs(dtype: Dtype) -> Roofs:
    """Times a large matrix product and a large copy and returns the best of five each."""
    side, floats = (1024, 2**24) if jax.default_backend() == "cpu" else (8192, 2**26)
    a, b = jax.random.normal(jax.random.key(0), (2, side, side), DTYPES[dtype])
    product = jax.jit(jnp.matmul)
    # In place: fresh memory would be measured with the time in which the system finds its pages.
    copy = jax.jit(lambda x: x + 1, donate_argnums=0)
    held = [jax.random.normal(jax.random.key(1), (floats,))]

    def next_copy() -> jax.Array:
        held[0] = copy(held[0])
        return held[0]

    return Roofs(
        2 * side**3 / best_seconds(lambda: product(a, b)), 2 * 4 * floats / best_seconds(next_copy)
    )


def best_seconds(call: Callable[[], Any]) -> float:
    """Times a call in seconds, the best of five.

    On an accelerator eight calls are queued before the last is waited for: each hides the launch of
    the next.
    """
    queue = 1 if jax.default_backend() == "cpu" else 8
    result = jax.block_until_ready(call())
    times = []
    for _ in range(5):
        start = time.perf_counter()
        for _ in range(queue):
            result = call()
        jax.block_until_ready(result)  # the earlier ones are done
        times.append((time.perf_counter() - start) / queue)
    return min(times)
