"""How strong each corruption is: the published parameters of five severities, at three sizes.

They are those of ``make_cifar_c.py`` (32 pixels), ``make_tinyimagenet_c.py`` (64) and
``make_imagenet_c.py`` (224) in https://github.com/hendrycks/robustness, which made CIFAR-10-C,
Tiny ImageNet-C and ImageNet-C.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from jaxcnn.data.augment.annotations import Array

SEVERITIES = 5
"""Number of severities; they are counted from 1."""
SIZES = (32, 64, 224)
"""Sides in pixels of the images that the parameters were chosen for."""

Level = Int[Array, ""]
"""Severity, counted from 0."""
Rows = Float[np.ndarray, "5 parameters"]
"""Parameters of a corruption, a row for each severity."""

PARAMETERS: dict[str, dict[int, tuple[tuple[float, ...], ...]]] = {
    # standard deviation
    "gaussian_noise": {
        32: ((0.04,), (0.06,), (0.08,), (0.09,), (0.10,)),
        64: ((0.04,), (0.08,), (0.12,), (0.15,), (0.18,)),
        224: ((0.08,), (0.12,), (0.18,), (0.26,), (0.38,)),
    },
    # photons that white stands for
    "shot_noise": {
        32: ((500,), (250,), (100,), (75,), (50,)),
        64: ((250,), (100,), (50,), (30,), (15,)),
        224: ((60,), (25,), (12,), (5,), (3,)),
    },
    # share of the values
    "impulse_noise": {
        32: ((0.01,), (0.02,), (0.03,), (0.05,), (0.07,)),
        64: ((0.01,), (0.02,), (0.05,), (0.08,), (0.14,)),
        224: ((0.03,), (0.06,), (0.09,), (0.17,), (0.27,)),
    },
    # radius of the disk, standard deviation that softens its edge
    "defocus_blur": {
        32: ((0.3, 0.4), (0.4, 0.5), (0.5, 0.6), (1, 0.2), (1.5, 0.1)),
        64: ((0.5, 0.6), (1, 0.1), (1.5, 0.1), (2.5, 0.01), (3, 0.1)),
        224: ((3, 0.1), (4, 0.5), (6, 0.5), (8, 0.5), (10, 0.5)),
    },
    # standard deviation of the blur, farthest step, number of passes
    "glass_blur": {
        32: ((0.05, 1, 1), (0.25, 1, 1), (0.4, 1, 1), (0.25, 1, 2), (0.4, 1, 2)),
        64: ((0.1, 1, 1), (0.5, 1, 1), (0.6, 1, 2), (0.7, 2, 1), (0.9, 2, 2)),
        224: ((0.7, 1, 2), (0.9, 2, 1), (1, 2, 3), (1.1, 3, 2), (1.5, 4, 2)),
    },
    # radius, standard deviation along the way
    "motion_blur": {
        32: ((6, 1), (6, 1.5), (6, 2), (8, 2), (9, 2.5)),
        64: ((10, 1), (10, 1.5), (10, 2), (10, 2.5), (12, 3)),
        224: ((10, 3), (15, 5), (15, 8), (15, 12), (20, 15)),
    },
    # end and step of the zoom factors, which begin at 1
    "zoom_blur": {
        32: ((1.06, 0.01), (1.11, 0.01), (1.16, 0.01), (1.21, 0.01), (1.26, 0.01)),
        64: ((1.06, 0.01), (1.11, 0.01), (1.16, 0.01), (1.21, 0.01), (1.26, 0.01)),
        224: ((1.11, 0.01), (1.16, 0.01), (1.21, 0.02), (1.26, 0.02), (1.31, 0.03)),
    },
    # mean and standard deviation of the flakes, zoom, threshold, radius and standard deviation
    # of their fall, share of the picture that keeps its colour
    "snow": {
        32: (
            (0.1, 0.2, 1, 0.6, 8, 3, 0.95),
            (0.1, 0.2, 1, 0.5, 10, 4, 0.9),
            (0.15, 0.3, 1.75, 0.55, 10, 4, 0.9),
            (0.25, 0.3, 2.25, 0.6, 12, 6, 0.85),
            (0.3, 0.3, 1.25, 0.65, 14, 12, 0.8),
        ),
        64: (
            (0.1, 0.2, 1, 0.6, 8, 3, 0.8),
            (0.1, 0.2, 1, 0.5, 10, 4, 0.8),
            (0.15, 0.3, 1.75, 0.55, 10, 4, 0.7),
            (0.25, 0.3, 2.25, 0.6, 12, 6, 0.65),
            (0.3, 0.3, 1.25, 0.65, 14, 12, 0.6),
        ),
        224: (
            (0.1, 0.3, 3, 0.5, 10, 4, 0.8),
            (0.2, 0.3, 2, 0.5, 12, 4, 0.7),
            (0.55, 0.3, 4, 0.9, 12, 8, 0.7),
            (0.55, 0.3, 4.5, 0.85, 12, 8, 0.65),
            (0.55, 0.3, 2.5, 0.85, 12, 12, 0.55),
        ),
    },
    # weights of the picture and of the ice
    "frost": {
        32: ((1, 0.2), (1, 0.3), (0.9, 0.4), (0.85, 0.4), (0.75, 0.45)),
        64: ((1, 0.3), (0.9, 0.4), (0.8, 0.45), (0.75, 0.5), (0.7, 0.55)),
        224: ((1, 0.4), (0.8, 0.6), (0.7, 0.7), (0.65, 0.7), (0.6, 0.75)),
    },
    # weight of the fog, ratio of its roughness from one scale to half of it
    "fog": {
        32: ((0.2, 3), (0.5, 3), (0.75, 2.5), (1, 2), (1.5, 1.75)),
        64: ((0.4, 3), (0.7, 3), (1, 2.5), (1.5, 2), (2, 1.75)),
        224: ((1.5, 2), (2, 2), (2.5, 1.7), (2.5, 1.5), (3, 1.4)),
    },
    # what is added to the value of HSV
    "brightness": {
        32: ((0.05,), (0.1,), (0.15,), (0.2,), (0.3,)),
        64: ((0.1,), (0.2,), (0.3,), (0.4,), (0.5,)),
        224: ((0.1,), (0.2,), (0.3,), (0.4,), (0.5,)),
    },
    # share of the distance from the mean that remains
    "contrast": {
        32: ((0.75,), (0.5,), (0.4,), (0.3,), (0.15,)),
        64: ((0.4,), (0.3,), (0.2,), (0.1,), (0.05,)),
        224: ((0.4,), (0.3,), (0.2,), (0.1,), (0.05,)),
    },
    # displacement, standard deviation that smooths it, and shift of three points: shares of the
    # side, which the published program takes to be 244 where images have 224 pixels
    "elastic_transform": {
        32: (
            (0, 0, 0.08),
            (0.05, 0.2, 0.07),
            (0.08, 0.06, 0.06),
            (0.1, 0.04, 0.05),
            (0.1, 0.03, 0.03),
        ),
        64: (
            (0, 0, 0.08),
            (0.05, 0.3, 0.06),
            (0.1, 0.08, 0.06),
            (0.1, 0.03, 0.03),
            (0.16, 0.03, 0.02),
        ),
        224: (
            (2, 0.7, 0.1),
            (2, 0.08, 0.2),
            (0.05, 0.01, 0.02),
            (0.07, 0.01, 0.02),
            (0.12, 0.01, 0.02),
        ),
    },
    # share of the side
    "pixelate": {
        32: ((0.95,), (0.9,), (0.85,), (0.75,), (0.65,)),
        64: ((0.9,), (0.8,), (0.7,), (0.6,), (0.5,)),
        224: ((0.6,), (0.5,), (0.4,), (0.3,), (0.25,)),
    },
    # quality
    "jpeg_compression": {
        32: ((80,), (65,), (58,), (50,), (40,)),
        64: ((65,), (58,), (50,), (40,), (25,)),
        224: ((25,), (18,), (15,), (10,), (7,)),
    },
    # standard deviation, as a share of the value
    "speckle_noise": {
        32: ((0.06,), (0.1,), (0.12,), (0.16,), (0.2,)),
        64: ((0.15,), (0.2,), (0.25,), (0.3,), (0.35,)),
        224: ((0.15,), (0.2,), (0.35,), (0.45,), (0.6,)),
    },
    # standard deviation
    "gaussian_blur": {
        32: ((0.4,), (0.6,), (0.7,), (0.8,), (1,)),
        64: ((0.5,), (0.75,), (1,), (1.25,), (1.5,)),
        224: ((1,), (2,), (3,), (4,), (6,)),
    },
    # factor of the saturation of HSV, and what is added to it
    "saturate": {
        32: ((0.3, 0), (0.1, 0), (1.5, 0), (2, 0.1), (2.5, 0.2)),
        64: ((0.3, 0), (0.1, 0), (2, 0), (5, 0.1), (30, 0.2)),
        224: ((0.3, 0), (0.1, 0), (2, 0), (5, 0.1), (20, 0.2)),
    },
}


def nearest_size(height: int, width: int) -> int:
    """Returns which of the three sizes is nearest to the shorter side, by ratio.

    >>> nearest_size(28, 28), nearest_size(96, 96), nearest_size(320, 480)
    (32, 64, 224)
    """
    return min(SIZES, key=lambda size: abs(np.log(min(height, width) / size)))


def parameters(kind: str, height: int, width: int) -> Rows:
    """Returns a corruption's parameters for images of a size."""
    return np.array(PARAMETERS[kind][nearest_size(height, width)], np.float64)


def at(rows: np.ndarray, level: Level) -> jax.Array:
    """Returns what stands in a table, made beforehand, for a severity that is only known later."""
    return jnp.asarray(rows, jnp.float32)[level]
