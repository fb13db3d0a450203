"""An image file to an array: any format and colour mode, turned, scaled; nothing is executed."""

import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from jaxcnn.config import Data
from jaxcnn.errors import InputError

if TYPE_CHECKING:
    from PIL.Image import Image as Picture

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM")
"""Pillow would also hand a file to programs such as Ghostscript, whatever its name says."""
MAX_PIXELS = 2**26
"""Pillow itself only warns up to 179 million pixels, which need half a gigabyte."""
CROP_RATIO = 0.875
"""Part of the shorter side that a central crop keeps: 224 pixels of 256."""
Fit = Literal["resize", "crop", "square"]
"""How a picture becomes a square of some side: in other proportions; the middle of it, as much as
``CROP_RATIO`` of the shorter side; or as much as the whole shorter side."""


def reading(config: Data) -> tuple[int, Fit]:
    """Side and way in which images of different sizes are read."""
    assert config.image_size is not None
    assert config.fit != "pad"
    if config.read_size is None:
        return config.image_size, config.fit
    return config.read_size, "square" if config.fit == "crop" else "resize"


def read_image(path: Path, channels: int, size: tuple[int, int] | None = None) -> np.ndarray:
    """Reads an image file as ``(h, w, channels)`` uint8, turned as its EXIF data say.

    Args:
        path: a file that Pillow reads; of an animation the first picture counts.
        channels: 1 (grey) or 3 (RGB).
        size: height and width to resize to; None leaves it.

    Raises:
        InputError: not a file, not an image, or one too large to be meant.
    """
    from PIL import Image

    picture = _open(path, channels)
    if size is not None:
        picture = picture.resize((size[1], size[0]), Image.Resampling.BILINEAR)
    return _array(picture)


def read_fitted(path: Path, channels: int, side: int, fit: Fit) -> np.ndarray:
    """Reads an image file as ``(side, side, channels)`` uint8.

    Raises:
        InputError: as :func:`read_image`.
    """
    picture = _open(path, channels)
    try:
        return _array(fitted(picture, side, fit))
    except InputError as error:
        raise InputError(f"{path}: {error}") from error


def fit_array(image: np.ndarray, side: int, fit: Fit) -> np.ndarray:
    """Brings ``(h, w, c)`` uint8 to ``(side, side, c)``."""
    from PIL import Image

    picture = Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image)
    return _array(fitted(picture, side, fit))


def fitted(picture: "Picture", side: int, fit: Fit) -> "Picture":
    """Brings a picture to ``side`` x ``side`` pixels, bilinearly; one of that size stays.

    ``"crop"`` brings the shorter side to ``side / CROP_RATIO`` before it cuts the middle out, as is
    usual for ImageNet, ``"square"`` to ``side``.
    """
    from PIL import Image

    if picture.size == (side, side):
        return picture
    if fit == "resize":
        return picture.resize((side, side), Image.Resampling.BILINEAR)
    short = side if fit == "square" else round(side / CROP_RATIO)
    width, height = scaled_size(picture.width, picture.height, short)
    if width * height > MAX_PIXELS:  # a long and narrow one
        raise InputError(
            f"{picture.width}x{picture.height} pixels are {width}x{height} once the shorter side "
            f"fits; at most {MAX_PIXELS:,} in all"
        )
    left, top = round((width - side) / 2), round((height - side) / 2)
    picture = picture.resize((width, height), Image.Resampling.BILINEAR)
    return picture.crop((left, top, left + side, top + side))


def scaled_size(a: int, b: int, short: int) -> tuple[int, int]:
    """Sides of an image of ``a`` by ``b`` once the shorter one is ``short``."""
    return int(short * a / min(a, b)), int(short * b / min(a, b))


def _open(path: Path, channels: int) -> "Picture":
    from PIL import Image, ImageOps

    modes = {1: "L", 3: "RGB"}
    if channels not in modes:
        raise InputError(f"{path}: the network takes {channels} channels; image files give 1 or 3")
    try:
        if not path.is_file():
            raise InputError(f"{path}: no such image file")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # refused below
            opened = Image.open(path, formats=FORMATS)
        with opened:
            if opened.width * opened.height > MAX_PIXELS:
                raise InputError(
                    f"{path}: {opened.width}x{opened.height} pixels; at most {MAX_PIXELS:,} in all"
                )
            turned = ImageOps.exif_transpose(opened)
            if turned.mode.startswith("I"):  # 16 bits: Pillow's own conversion would clip at 255
                turned = Image.fromarray((np.asarray(turned) / 257).round().astype(np.uint8))
            if turned.mode == "P":  # whose transparent colours Pillow would warn of
                turned = turned.convert("RGBA")
            return turned.convert(modes[channels])
    except InputError:
        raise
    except Exception as error:  # Pillow's decoders raise whatever they stumble upon
        raise InputError(f"{path}: not an image that Pillow can read ({error})") from error


def _array(picture: "Picture") -> np.ndarray:
    channels = len(picture.getbands())
    return np.asarray(picture, np.uint8).reshape(picture.height, picture.width, channels)
