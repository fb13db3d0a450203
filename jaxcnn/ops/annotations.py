"""The types of public arguments: exact for the reader and for mypy, silent at run time.

The tests enforce every annotation of this package. A caller's mistake must still meet our own
error, which says what would be accepted, so at run time these names accept anything; the ops
check. Inside the package arrays are annotated with their shapes, and those are enforced.
"""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from jax import Array, lax
from jax.typing import ArrayLike, DTypeLike

if TYPE_CHECKING:
    ArrayInput = ArrayLike
    Int = int
    Ints = int | Sequence[int]
    Shape = Sequence[int]
    OptionalInts = int | Sequence[int | None] | None
    Number = float
    Name = str
    AxisName = str | tuple[str, ...] | None
    Flag = bool
    Padding = str | int | Sequence[int] | Sequence[tuple[int, int]]
    Precision = lax.PrecisionLike
    DType = DTypeLike
    Activation = Callable[[Array], Array]
else:
    ArrayInput = Int = Ints = Shape = OptionalInts = Number = Name = AxisName = Any
    Flag = Padding = Precision = DType = Activation = Any

Pairs = tuple[tuple[int, int], ...]
