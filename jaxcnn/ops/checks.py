"""What every op asks of its arrays and numbers, and the errors when it does not get it."""

import math
import numbers
from collections.abc import Iterable

import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxcnn.ops.annotations import ArrayInput, Name, Number

LAYOUTS = {3: "(n, w, c)", 4: "(n, h, w, c)", 5: "(n, d, h, w, c)"}


def floating_array(name: str, value: ArrayInput) -> Array:
    """Returns the argument as a JAX array, or raises a TypeError that says why it cannot.

    >>> floating_array("x", np.zeros(3, np.float32)).shape
    (3,)
    """
    if not isinstance(value, Array | np.ndarray | np.generic | float):
        raise TypeError(f"{name} must be an array, not {type(value).__name__}")
    dtype = np.dtype(float) if isinstance(value, float) else value.dtype
    if not jnp.issubdtype(dtype, jnp.floating):
        raise TypeError(
            f"{name}.dtype={dtype} must be floating; convert with {name}.astype(jnp.float32)"
        )
    return jnp.asarray(value)


def images(name: str, value: ArrayInput) -> Array:
    """Returns the argument as a batch of 1-D, 2-D or 3-D feature maps, channels last.

    >>> images("x", np.zeros((1, 8, 8, 3), np.float32)).ndim
    4
    """
    array = floating_array(name, value)
    if array.ndim not in LAYOUTS:
        raise ValueError(
            f"{name}.shape={array.shape} has rank {array.ndim}; expected "
            f"{', '.join(LAYOUTS.values())}"
        )
    if 0 in array.shape[1:]:
        raise ValueError(f"{name}.shape={array.shape} must have no empty dimension but the batch")
    return array


def channel_vector(name: str, value: ArrayInput, channels: int) -> Array:
    """Returns the argument as an array of one number per channel.

    >>> channel_vector("bias", np.zeros(3, np.float32), 3).shape
    (3,)
    """
    array = floating_array(name, value)
    if array.shape != (channels,):
        raise ValueError(f"{name}.shape={array.shape} must be ({channels},), one per channel")
    return array


def number_at_least(name: str, value: Number, minimum: int) -> None:
    """Refuses what is not a finite real number, or is too small.

    >>> number_at_least("epsilon", 1e-5, 0)
    """
    if not isinstance(value, numbers.Real) or isinstance(value, bool):
        raise TypeError(f"{name}={value!r} must be a number")
    if not minimum <= value < math.inf:
        raise ValueError(f"{name}={value} must be at least {minimum} and finite")


def one_of(name: str, value: Name, accepted: Iterable[str]) -> None:
    """Refuses a name that is not among those accepted.

    >>> one_of("padding_mode", "zeros", ("zeros", "reflect"))
    """
    names = tuple(accepted)
    if not isinstance(value, str) or value not in names:
        raise ValueError(f"{name}={value!r} must be one of {', '.join(names)}")


def wide(x: Array) -> Array:
    """Converts to float32 where that is wider, since sums of half-precision numbers need it."""
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def per_channel(vector: Array, rank: int) -> Array:
    """Gives a vector over channels the rank of the feature maps it is combined with."""
    return vector.reshape((1,) * (rank - 1) + (-1,))
