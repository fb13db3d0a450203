"""Images moved, turned or scaled by a given amount, for curves of accuracy against it.

All interpolate bilinearly about the image's centre. Surroundings are black, as they are where
training rotates and zooms, or the image mirrored at its border pixels, as ``augment.padding_mode``
names them. An amount is a number or may be traced, so that one program makes a whole curve.
"""

from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Float

from jaxcnn.data.augment.annotations import Array, SameImages
from jaxcnn.data.augment.geometry import warp
from jaxcnn.data.corruptions.planes import bilinear, reflected

Amount = Float[Array, ""] | float | int
"""One number for all images of a batch."""
Surroundings = Literal["zeros", "reflect"]
"""What is seen beside the image: black, or its mirror image."""


def shifted(x: SameImages, dy: Amount, dx: Amount, mode: Surroundings = "zeros") -> SameImages:
    """Moves images down by ``dy`` pixels and to the right by ``dx``.

    >>> shifted(jnp.arange(3.0).reshape(1, 1, 3, 1), 0, 1).ravel()
    Array([0., 0., 1.], dtype=float32)
    >>> shifted(jnp.arange(3.0).reshape(1, 1, 3, 1), 0, 0.5, "reflect").ravel()
    Array([0.5, 0.5, 1.5], dtype=float32)
    """
    return _mapped(x, [[1, 0, -dy], [0, 1, -dx]], mode)


def rotated(x: SameImages, degrees: Amount, mode: Surroundings = "zeros") -> SameImages:
    """Turns images counterclockwise about their centre."""
    angle = jnp.deg2rad(degrees)
    cos, sin = jnp.cos(angle), jnp.sin(angle)
    return _mapped(x, [[cos, sin, 0], [-sin, cos, 0]], mode)


def scaled(x: SameImages, factor: Amount, mode: Surroundings = "zeros") -> SameImages:
    """Makes what is seen larger by a factor, or smaller if it is below 1, about the centre.

    Nothing is filtered before pixels are left out: far below 1 fine detail turns into noise.
    """
    return _mapped(x, [[1 / factor, 0, 0], [0, 1 / factor, 0]], mode)


def _mapped(x: SameImages, matrix: list[list[Amount]], mode: Surroundings) -> SameImages:
    """Takes each pixel from where an affine map of :func:`~.augment.geometry.warp` says."""
    m = jnp.stack([jnp.stack([jnp.asarray(v, jnp.float32) for v in row]) for row in matrix])
    n, h, w, _ = x.shape
    if mode == "zeros":
        return warp(x, jnp.broadcast_to(m, (n, 2, 3)), bilinear=True)
    row, column = jnp.arange(h)[:, None] - (h - 1) / 2, jnp.arange(w)[None] - (w - 1) / 2
    from_row = m[0, 0] * row + m[0, 1] * column + m[0, 2] + (h - 1) / 2
    from_column = m[1, 0] * row + m[1, 1] * column + m[1, 2] + (w - 1) / 2

    def one(image: jax.Array) -> jax.Array:
        planes = bilinear(jnp.moveaxis(image, -1, 0), from_row, from_column, reflected)
        return jnp.moveaxis(planes, 0, -1)

    return jax.vmap(one)(x)
