"""What JPEG makes of an image: colours, blocks, cosines and quantisation, as libjpeg does it.

Huffman coding loses nothing and is left out. All is rounded to whole numbers where libjpeg rounds
it, so that Pillow reads the same levels but for very few.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from jaxcnn.data.augment.annotations import Array
from jaxcnn.data.corruptions.planes import Planes

LUMINANCE = np.array(
    [
        [16, 11, 10, 16, 24, 40, 51, 61],
        [12, 12, 14, 19, 26, 58, 60, 55],
        [14, 13, 16, 24, 40, 57, 69, 56],
        [14, 17, 22, 29, 51, 87, 80, 62],
        [18, 22, 37, 56, 68, 109, 103, 77],
        [24, 35, 55, 64, 81, 104, 113, 92],
        [49, 64, 78, 87, 103, 121, 120, 101],
        [72, 92, 95, 98, 112, 100, 103, 99],
    ]
)
"""Quantisation table of brightness at quality 50 (ITU-T T.81, table K.1)."""
CHROMINANCE = np.full((8, 8), 99)
CHROMINANCE[:4, :4] = [[17, 18, 24, 47], [18, 21, 26, 66], [24, 26, 56, 99], [47, 66, 99, 99]]
"""Quantisation table of colour at quality 50 (ITU-T T.81, table K.2)."""

_HALF = np.array(
    [
        [8192, 8192, 8192, 8192],
        [11363, 9633, 6437, 2260],
        [10703, 4433, -4433, -10703],
        [9633, -2259, -11362, -6436],
        [8192, -8192, -8192, 8192],
        [6437, -11362, 2261, 9633],
        [4433, -10704, 10704, -4433],
        [2260, -6436, 9633, -11363],
    ]
)
_SIGN = np.array([1, -1] * 4)[:, None]
COSINES = np.concatenate([_HALF, _SIGN * _HALF[:, ::-1]], axis=1).astype(np.int32)
"""The cosine transform of 8 values times ``2**13 * sqrt(8)``, as libjpeg's ``islow`` computes it.

It is made of few products of rounded constants, so that some entries are off by one.
"""


def tables(quality: int) -> Float[np.ndarray, "2 8 8"]:
    """Returns the quantisation tables of brightness and colour that libjpeg has for a quality."""
    percent = 5000 // quality if quality < 50 else 200 - 2 * quality
    both = np.stack([LUMINANCE, CHROMINANCE])
    return np.clip((both * percent + 50) // 100, 1, 255).astype(np.float64)


def written_and_read(levels: Planes, tables: Float[Array, "2 8 8"]) -> Planes:
    """Returns what is read of levels 0 to 255 that were written with quantisation tables.

    Three channels are RGB, and their colour is kept at half the resolution (4:2:0), as Pillow
    does where it is not told otherwise; of any others each is kept as a grey image.
    """
    _, h, w = levels.shape
    if len(levels) != 3:
        return quantised(levels, tables[0])
    brightness, blue, red = to_ycc(levels)
    brightness = quantised(brightness[None], tables[0])[0]
    small = halved(jnp.stack([blue, red]))
    blue, red = enlarged(quantised(small, tables[1])[:, : -(-h // 2), : -(-w // 2)])[:, :h, :w]
    return to_rgb(brightness, blue, red)


def quantised(levels: Planes, table: Float[Array, "8 8"]) -> Planes:
    """Rounds the cosine coefficients of 8 x 8 blocks to multiples of a table's entries.

    It works in whole numbers, as libjpeg does: what lies between two multiples is often exactly
    half, which goes the same way only so.
    """
    c, h, w = levels.shape
    padded = jnp.pad(levels, ((0, 0), (0, -h % 8), (0, -w % 8)), mode="edge")
    blocks = padded.reshape(c, padded.shape[1] // 8, 8, padded.shape[2] // 8, 8)

    def along(equation: str, x: jax.Array, bits: int) -> jax.Array:
        return (jnp.einsum(equation, x, COSINES) + (1 << (bits - 1))) >> bits

    blocks = blocks.astype(jnp.int32) - 128
    found = along("caubj,vu->cavbj", along("caibj,vj->caibv", blocks, 11), 15)  # 8 times each
    table = table.astype(jnp.int32)[None, None, :, None]
    found = jnp.sign(found) * ((jnp.abs(found) + 4 * table) // (8 * table)) * table
    blocks = along("caibv,vj->caibj", along("caubv,ui->caibv", found, 11), 18) + 128
    blocks = jnp.clip(blocks, 0, 255).astype(jnp.float32)
    return blocks.reshape(padded.shape)[:, :h, :w]


def to_ycc(levels: Planes) -> jax.Array:
    """Returns brightness, blueness and redness of RGB levels, in libjpeg's whole numbers."""
    weights = np.array(
        [
            [0.299, 0.587, 0.114],
            [-0.168735892, -0.331264108, 0.5],
            [0.5, -0.418687589, -0.081312411],
        ]
    )
    weights = np.floor(weights * 2**16 + 0.5).astype(np.int32)
    offset = np.array([1 << 15, (128 << 16) + (1 << 15) - 1, (128 << 16) + (1 << 15) - 1], np.int32)
    r, g, b = levels.astype(jnp.int32)
    planes = [wr * r + wg * g + wb * b + o for (wr, wg, wb), o in zip(weights, offset, strict=True)]
    return (jnp.stack(planes) >> 16).astype(jnp.float32)


def to_rgb(brightness: jax.Array, blue: jax.Array, red: jax.Array) -> jax.Array:
    """Returns RGB levels of brightness, blueness and redness."""
    blue, red = blue - 128, red - 128
    green = -0.344136286 * blue - 0.714136286 * red
    rgb = [brightness + jnp.round(more) for more in (1.402 * red, green, 1.772 * blue)]
    return jnp.clip(jnp.stack(rgb), 0, 255)


def halved(levels: Planes) -> jax.Array:
    """Returns the means of 2 x 2 levels; halves are rounded down and up in turn along a row.

    As in libjpeg, columns are repeated at the right before, and rows at the bottom afterwards, so
    that the result is made of whole blocks.
    """
    _, h, w = levels.shape
    padded = jnp.pad(levels, ((0, 0), (0, h % 2), (0, -w % 16)), mode="edge")
    total = (
        padded[:, ::2, ::2] + padded[:, ::2, 1::2] + padded[:, 1::2, ::2] + padded[:, 1::2, 1::2]
    )
    rounding = 1 + jnp.arange(total.shape[2])[None, None] % 2
    means = jnp.floor((total + rounding) / 4)
    return jnp.pad(means, ((0, 0), (0, -means.shape[1] % 8), (0, 0)), mode="edge")


def enlarged(levels: Planes) -> jax.Array:
    """Makes planes twice as large: 3/4 of the nearer level and 1/4 of the one beyond.

    As libjpeg does, those of at most two columns are repeated instead.
    """
    c, h, w = levels.shape
    if w <= 2:
        return levels.repeat(2, axis=1).repeat(2, axis=2)
    padded = jnp.pad(levels, ((0, 0), (1, 1), (1, 1)), mode="edge")
    beyond = jnp.stack([padded[:, :-2], padded[:, 2:]], axis=2)
    rows = (3 * padded[:, 1:-1, None] + beyond).reshape(c, 2 * h, w + 2)
    beyond = jnp.stack([rows[..., :-2] + 8, rows[..., 2:] + 7], axis=-1)
    return jnp.floor((3 * rows[..., 1:-1, None] + beyond) / 16).reshape(c, 2 * h, 2 * w)
