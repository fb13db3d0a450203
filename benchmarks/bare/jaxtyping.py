"""Stands in for jaxtyping on a machine without it: a shape annotation is the array's type alone.

``benchmarks/gpu.sh`` puts this folder on the path where jaxtyping is not installed. Nothing is
checked at run time outside the tests, so nothing else of it is needed.
"""

from typing import Any

from jax import Array

PRNGKeyArray = Array


class _Annotation:
    """``Float[Array, "n h w c"]`` is ``Array``."""

    def __class_getitem__(cls, item: tuple[Any, str]) -> Any:
        return item[0]


Bool = Float = Int = Int32 = UInt8 = _Annotation
