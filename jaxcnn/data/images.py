"""Reads image files of many formats and colour modes as arrays, and runs no other program."""

import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from jaxcnn.config import Data
from jaxcnn.errors import InputError

if TYPE_CHECKING:
    from PIL.Image import Image as Picture

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM")
"""The formats that are read, whatever a file's name says: Pillow hands some others to programs such
as Ghostscript."""
MAX_PIXELS = 2**26
"""The largest image that is read. Pillow's own limit, 179 million pixels, needs half a gigabyte."""
CROP_RATIO = 0.875
"""The part of the shorter side that a central crop keeps, as 224 pixels of 256."""
Fit = Literal["resize", "crop", "square"]
"""How a picture is brought to a size: resized, whatever its proportions; or, to a square, cut to
its middle: ``CROP_RATIO`` of the shorter side ("crop") or all of that ("square")."""


def reading(config: Data) -> tuple[int, Fit]:
    """Returns the side that images of different sizes are brought to when read, and the fit."""
    assert config.image_size is not None
    assert config.fit != "pad"
    if config.read_size is None:
        return config.image_size, config.fit
    return config.read_size, "square" if config.fit == "crop" else "resize"


def stored_fit(config: Data, image_shape: tuple[int, int, int]) -> Fit:
    """Returns the fit that brings any image file to the shape of a dataset's images.

    Where the dataset's images have different sizes by nature, it is the fit of :func:`reading`.
    Where they all have one size, a file of another size is resized to it, or, with
    ``data.fit="crop"``, its middle square is.
    """
    height, width, _ = image_shape
    if config.fit == "crop" and height == width:
        whole = config.read_size or config.image_size != height
        return "square" if whole else "crop"
    return "resize"


def read_image(path: Path, image_shape: tuple[int, int, int], fit: Fit) -> np.ndarray:
    """Reads an image file as a dataset stores its images: ``image_shape``, uint8.

    The picture is turned as its EXIF data say; of an animation the first picture counts. Folders
    of image files are read by this function, and so is every image that a trained network is
    asked about: the same file gives the same pixels.

    Args:
        path: the image file.
        image_shape: height, width and channels; 1 channel is grey, 3 are RGB.
        fit: how it is brought to that height and width; a picture that has them stays as it is.

    Raises:
        InputError: it is not a file, not an image, or has more than ``MAX_PIXELS``.
    """
    height, width, channels = image_shape
    picture = _open(path, channels)
    try:
        return _array(fitted(picture, (height, width), fit))
    except InputError as error:
        raise InputError(f"{path}: {error}") from error


def fit_array(image: np.ndarray, image_shape: tuple[int, int, int], fit: Fit) -> np.ndarray:
    """Brings ``(h, w, c)`` uint8 to another height and width, as :func:`read_image` does."""
    from PIL import Image

    picture = Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image)
    return _array(fitted(picture, image_shape[:2], fit))


def fitted(picture: "Picture", size: tuple[int, int], fit: Fit) -> "Picture":
    """Brings a picture to a height and width, bilinearly; one of that size stays as it is.

    ``"crop"`` brings the shorter side to ``side / CROP_RATIO`` before it cuts the middle out, as is
    usual for ImageNet, ``"square"`` to ``side``.
    """
    from PIL import Image

    height, width = size
    if (picture.height, picture.width) == size:
        return picture
    if fit == "resize":
        return picture.resize((width, height), Image.Resampling.BILINEAR)
    side = height
    short = side if fit == "square" else round(side / CROP_RATIO)
    columns, rows = scaled_size(picture.width, picture.height, short)
    if columns * rows > MAX_PIXELS:  # a long and narrow picture is small only before it is scaled
        raise InputError(
            f"{picture.width}x{picture.height} pixels are {columns}x{rows} once the shorter side "
            f"fits; at most {MAX_PIXELS:,} in all"
        )
    left, top = round((columns - side) / 2), round((rows - side) / 2)
    picture = picture.resize((columns, rows), Image.Resampling.BILINEAR)
    return picture.crop((left, top, left + side, top + side))


def scaled_size(a: int, b: int, short: int) -> tuple[int, int]:
    """Returns the sides of an image of ``a`` by ``b`` once the shorter is scaled to ``short``."""
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
            if turned.mode == "P":  # else Pillow would warn of transparent colours
                turned = turned.convert("RGBA")
            return turned.convert(modes[channels])
    except InputError:
        raise
    except Exception as error:  # Pillow's decoders raise whatever they stumble upon
        raise InputError(f"{path}: not an image that Pillow can read ({error})") from error


def _array(picture: "Picture") -> np.ndarray:
    channels = len(picture.getbands())
    return np.asarray(picture, np.uint8).reshape(picture.height, picture.width, channels)
