"""Common corruptions of images, as pure functions of images and a key.

They are those of Hendrycks & Dietterich (2019), "Benchmarking Neural Network Robustness to Common
Corruptions and Perturbations" (arXiv:1903.12261), after the formulas and parameters of the
program that made CIFAR-10-C, Tiny ImageNet-C and ImageNet-C. A kind is compiled once for all
severities.
"""

import difflib
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Float, Float32, Int, UInt8
from jaxtyping import Key as Keys

from jaxcnn.data.augment.annotations import Array, Key
from jaxcnn.data.corruptions import blur, digital, noise, weather
from jaxcnn.data.corruptions.planes import to_8_bits
from jaxcnn.data.corruptions.severities import SEVERITIES, parameters
from jaxcnn.errors import InputError

__all__ = ["CORRUPTIONS", "EXTRA_CORRUPTIONS", "GROUPS", "SEVERITIES", "corrupt", "require_kind"]

_FUNCTIONS: dict[str, Callable[..., jax.Array]] = {
    "gaussian_noise": noise.gaussian_noise,
    "shot_noise": noise.shot_noise,
    "impulse_noise": noise.impulse_noise,
    "defocus_blur": blur.defocus_blur,
    "glass_blur": blur.glass_blur,
    "motion_blur": blur.motion_blur,
    "zoom_blur": blur.zoom_blur,
    "snow": weather.snow,
    "frost": weather.frost,
    "fog": weather.fog,
    "brightness": weather.brightness,
    "contrast": digital.contrast,
    "elastic_transform": digital.elastic_transform,
    "pixelate": digital.pixelate,
    "jpeg_compression": digital.jpeg_compression,
}
_EXTRA: dict[str, Callable[..., jax.Array]] = {
    "speckle_noise": noise.speckle_noise,
    "gaussian_blur": blur.gaussian_blur,
    "saturate": digital.saturate,
}

CORRUPTIONS = tuple(_FUNCTIONS)
"""The 15 kinds that the benchmark's mean is taken over."""
GROUPS = {
    "noise": CORRUPTIONS[:3],
    "blur": CORRUPTIONS[3:7],
    "weather": CORRUPTIONS[7:11],
    "digital": CORRUPTIONS[11:],
}
"""The paper's four groups of them."""
EXTRA_CORRUPTIONS = tuple(_EXTRA)
"""Kinds that the paper keeps for validation; of its four, spatter is left out."""


def corrupt(
    images: UInt8[Array, "n h w c"] | Float32[Array, "n h w c"],
    key: Key | Keys[Array, " n"],
    kind: str,
    severity: Int[Array, ""] | int,
) -> Float32[Array, "n h w c"]:
    """Corrupts images in one of the ways of :data:`CORRUPTIONS` or :data:`EXTRA_CORRUPTIONS`.

    Images are brought to 256 levels, as stored ones are, and so is the result, rounded down, as
    the published program does. Everything random is drawn anew for each image. Parameters are
    those for 32, 64 or 224 pixels, whichever is nearest to the shorter side by ratio; they are in
    pixels and are not scaled, but for ``elastic_transform`` and ``pixelate``, whose
    parameters are shares of the side. Whole images are corrupted as network input of that size:
    where images are resized or cropped, that comes before.

    Images of other than three channels are taken as grey ones: JPEG compresses each channel by
    itself, and ``saturate`` changes nothing.

    Args:
        images: ``(n, h, w, c)`` images, bytes or numbers in [0, 1].
        key: random key, or one for each image, so that a corruption does not depend on the batch.
        kind: name of the corruption.
        severity: 1 to 5; may be traced.

    Returns:
        ``(n, h, w, c)`` images in [0, 1].

    Raises:
        InputError: there is no such kind or severity.

    >>> x = jnp.zeros((2, 28, 28, 1), jnp.uint8)
    >>> corrupt(x, jax.random.key(0), "brightness", 5).max()
    Array(0.29803923, dtype=float32)
    """
    function = require_kind(kind)
    if isinstance(severity, int) and not 1 <= severity <= SEVERITIES:
        raise InputError(f"severity={severity}: must be 1 to {SEVERITIES}")
    n, h, w, _ = images.shape
    rows, level = parameters(kind, h, w), jnp.asarray(severity) - 1
    x = images if images.dtype == jnp.uint8 else jnp.round(jnp.clip(images, 0, 1) * 255)
    x = x.astype(jnp.float32) / 255
    keys = jax.random.split(key, n) if key.ndim == 0 else key

    def one(image: Float[Array, "h w c"], key: Key) -> Float[Array, "h w c"]:
        planes = function(jnp.moveaxis(image, -1, 0), key, rows, level)
        return jnp.moveaxis(to_8_bits(planes), 0, -1)

    return jax.vmap(one)(x, keys)


def require_kind(kind: str) -> Callable[..., jax.Array]:
    """Returns the function of a kind on one image.

    Raises:
        InputError: there is none of this name; it tells the nearest names, and all.
    """
    known = _FUNCTIONS | _EXTRA
    if kind in known:
        return known[kind]
    near = difflib.get_close_matches(str(kind)[:40].lower(), known, n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(near)}? " if near else ""
    raise InputError(f"corruption={kind!r}: {hint}there are {', '.join(known)}")
