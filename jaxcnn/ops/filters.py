"""The classic kernels of image processing, as arrays, and a way to apply one.

The kernels are NumPy arrays of shape (h, w), ready to print and to compare with a textbook.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float

from jaxcnn.ops.annotations import ArrayInput, Int, Name, Number
from jaxcnn.ops.checks import floating_array, number_at_least
from jaxcnn.ops.conv import depthwise_conv
from jaxcnn.ops.geometry import per_dimension

IDENTITY = np.array([[0, 0, 0], [0, 1, 0], [0, 0, 0]], np.float32)
EDGE_DIAGONAL = np.array([[1, 0, -1], [0, 0, 0], [-1, 0, 1]], np.float32)
EDGE_CROSS = np.array([[0, 1, 0], [1, -4, 1], [0, 1, 0]], np.float32)
EDGE_ALL = np.array([[-1, -1, -1], [-1, 8, -1], [-1, -1, -1]], np.float32)
SHARPEN = np.array([[0, -1, 0], [-1, 5, -1], [0, -1, 0]], np.float32)
BOX_BLUR = np.full((3, 3), 1 / 9, np.float32)
GAUSSIAN_BLUR = np.array([[1, 2, 1], [2, 4, 2], [1, 2, 1]], np.float32) / 16
SOBEL_X = np.array([[-1, 0, 1], [-2, 0, 2], [-1, 0, 1]], np.float32)
SOBEL_Y = SOBEL_X.T.copy()

FILTERS: dict[str, np.ndarray] = {
    "identity": IDENTITY,
    "edge_diagonal": EDGE_DIAGONAL,
    "edge_cross": EDGE_CROSS,
    "edge_all": EDGE_ALL,
    "sharpen": SHARPEN,
    "box_blur": BOX_BLUR,
    "gaussian_blur": GAUSSIAN_BLUR,
    "sobel_x": SOBEL_X,
    "sobel_y": SOBEL_Y,
}


def gaussian(sigma: Number, *, size: Int | None = None) -> np.ndarray:
    r"""Returns a Gaussian kernel of any width, normalised to sum to one.

    $$g_{ij} \propto \exp\Big(-\frac{i^2 + j^2}{2 \sigma^2}\Big)$$

    Args:
        sigma: the standard deviation in pixels, above 0.
        size: the odd side length; by default it reaches four sigma on each side, as in SciPy.

    Returns:
        A float32 kernel, (size, size).

    Raises:
        TypeError: sigma is not a number, or the size not an int.
        ValueError: sigma not above 0, or an even or non-positive size.

    >>> gaussian(1.0).shape
    (9, 9)
    >>> gaussian(0.5, size=3).round(2)
    array([[0.01, 0.08, 0.01],
           [0.08, 0.62, 0.08],
           [0.01, 0.08, 0.01]], dtype=float32)
    """
    number_at_least("sigma", sigma, 0)
    if not sigma > 0:
        raise ValueError(f"sigma={sigma} must be above 0")
    if size is None:
        size = 2 * int(4 * sigma + 0.5) + 1
    per_dimension("size", size, 1)
    if size % 2 == 0:
        raise ValueError(f"size={size} must be odd")
    offset = np.arange(size) - size // 2
    row = np.exp(-0.5 * (offset / sigma) ** 2)
    row /= row.sum()
    return np.outer(row, row).astype(np.float32)


def apply_filter(
    image: ArrayInput, kernel: ArrayInput, *, padding_mode: Name = "replicate"
) -> Float[Array, "*shape"]:
    r"""Slides a kernel over a grey or colour image, each channel on its own; the size stays.

    $$y_{i,c} = \sum_t x_{i + t - \lfloor k/2 \rfloor,\, c}\; w_t$$

    The kernel is not flipped (for the symmetric ones it makes no difference).

    Args:
        image: (h, w), (h, w, c) with 1, 3 or 4 channels, or a batch (n, h, w, c).
        kernel: (kh, kw), with odd sides; one of ``FILTERS`` for instance.
        padding_mode: what lies beyond the border: "replicate" (default), "reflect",
            "circular" or "zeros".

    Returns:
        An image of the same shape.

    Raises:
        TypeError: the image or kernel is not a floating-point array.
        ValueError: a rank, a number of channels or a kernel that does not fit.

    >>> import jax.numpy as jnp
    >>> apply_filter(jnp.eye(3), FILTERS["edge_cross"])
    Array([[-2.,  2.,  0.],
           [ 2., -4.,  2.],
           [ 0.,  2., -2.]], dtype=float32)
    """
    x, w = floating_array("image", image), floating_array("kernel", kernel)
    with jax.named_scope("apply_filter"):
        if w.ndim != 2 or w.shape[0] % 2 == 0 or w.shape[1] % 2 == 0:
            raise ValueError(f"kernel.shape={w.shape} must be (kh, kw) with odd sides")
        if x.ndim not in (2, 3, 4):
            raise ValueError(f"image.shape={x.shape} must be (h, w), (h, w, c) or (n, h, w, c)")
        if x.ndim == 3 and x.shape[-1] not in (1, 3, 4):
            raise ValueError(f"image.shape={x.shape} must end in 1, 3 or 4 channels")
        batch = {2: x[None, ..., None] if x.ndim == 2 else x, 3: x[None], 4: x}[x.ndim]
        channels = batch.shape[-1]
        stacked = jnp.broadcast_to(w.astype(x.dtype)[..., None, None], (*w.shape, 1, channels))
        y = depthwise_conv(batch, stacked, padding_mode=padding_mode)
        return y.reshape(x.shape)
