"""Reads image files of many formats and colour modes as arrays, and runs no other program."""

import io
import math
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from jaxcnn.config import Data
from jaxcnn.data import contents
from jaxcnn.data.crops import Crop
from jaxcnn.errors import InputError
from jaxcnn.text import printable

if TYPE_CHECKING:
    from PIL.Image import Image as Picture

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM")
"""The formats that are read, whatever a file's name says: Pillow hands some others to programs such
as Ghostscript."""
MAX_PIXELS = 2**26
"""The largest image that is read. Pillow's own limit, 179 million pixels, needs half a gigabyte."""
MAX_BYTES = 2**29
"""The largest file that is read: one of ``MAX_PIXELS`` in RGBA with 16 bits, uncompressed."""
ORIENTATION = 0x0112
"""The tag of EXIF that says how a picture is turned."""
MODES = {1: "L", 3: "RGB", 4: "RGBA"}
"""Pillow's names of what images of so many channels hold."""
CROP_RATIO = 0.875
"""The part of the shorter side that a central crop keeps unless ``data.crop_ratio`` says another,
as 224 pixels of 256."""
Fit = Literal["resize", "crop", "square"]
"""How a picture is brought to a size: resized, whatever its proportions; or, to a square, cut to
its middle: ``data.crop_ratio`` of the shorter side ("crop") or all of that ("square")."""


def reading(config: Data) -> tuple[int, Fit]:
    """Returns the side that images of different sizes are brought to when read, and the fit."""
    assert config.image_size is not None
    assert config.fit != "pad"
    for name in ("image_size", "read_size"):
        side = getattr(config, name) or 0
        if side**2 > MAX_PIXELS:
            raise InputError(
                f"data.{name}={side}: must be at most {math.isqrt(MAX_PIXELS):,} for images of "
                "different sizes"
            )
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


def read_image(
    path: Path, image_shape: tuple[int, int, int], fit: Fit, kept: float = CROP_RATIO
) -> np.ndarray:
    """Reads an image file as a dataset stores its images: ``image_shape``, uint8.

    The picture is turned as its EXIF data say; of an animation the first picture counts. Folders
    of image files are read by this function, and so is every image that a trained network is
    asked about: the same file gives the same pixels.

    Args:
        path: the image file.
        image_shape: height, width and channels; 1 channel is grey, 3 are RGB.
        fit: how it is brought to that height and width; a picture that has them stays as it is.
        kept: the part of the shorter side that a central crop keeps.

    Raises:
        InputError: it is not a file, not an image, or has more than ``MAX_PIXELS``.
    """
    height, width, channels = image_shape

    def fitted_one(data: bytes) -> "Picture":
        return fitted(decoded(data, channels, turned=True), (height, width), fit, kept)

    return _of_file(path, channels, fitted_one)


def read_crop(path: Path, channels: int, crop: Crop) -> np.ndarray:
    """Reads a random crop of an image file, ``(side, side, channels)`` uint8: :func:`cropped`.

    Raises:
        InputError: as :func:`read_image` does.
    """
    return _of_file(path, channels, lambda data: cropped(data, channels, crop, turned=True))


def _of_file(path: Path, channels: int, make: "Callable[[bytes], Picture]") -> np.ndarray:
    """Reads an image file, and says of whatever goes wrong which file it was."""
    try:
        if channels not in (1, 3):
            raise InputError(f"the network takes {channels} channels; image files give 1 or 3")
        if not path.is_file():
            other = "a folder or a special file, must be an image file"
            raise InputError(other if path.exists() else "no such image file")
        return _array(make(contents.read_bytes(path, MAX_BYTES)))
    except InputError as error:
        raise InputError(f"{printable(str(path))}: {error}") from error
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"{printable(str(path))}: cannot be read ({reason})") from error


def image_size(path: Path) -> tuple[int, int]:
    """Returns height and width of an image file as :func:`read_image` turns it, from its header.

    Raises:
        InputError: it has none that can be read.
    """
    from PIL import Image

    try:
        with contents.opened(path) as file, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(file, formats=FORMATS) as picture:
                across = picture.getexif().get(ORIENTATION) in (5, 6, 7, 8)
                return picture.size if across else picture.size[::-1]
    except Exception as error:  # Pillow's decoders raise whatever they stumble upon
        raise InputError(f"{printable(str(path))}: cannot be read ({error})") from error


def fit_array(
    image: np.ndarray, image_shape: tuple[int, int, int], fit: Fit, kept: float = CROP_RATIO
) -> np.ndarray:
    """Brings ``(h, w, c)`` uint8 to another height and width, as :func:`read_image` does."""
    from PIL import Image

    picture = Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image)
    return _array(fitted(picture, image_shape[:2], fit, kept))


def fit_map(
    labels: np.ndarray, size: tuple[int, int], fit: Fit, kept: float = CROP_RATIO
) -> np.ndarray:
    """Brings a label map ``(h, w)`` to another height and width, along with its image."""
    from PIL import Image

    return np.array(fitted(Image.fromarray(labels), size, fit, kept, nearest=True))


def as_stored(images: np.ndarray, image_shape: tuple[int, int, int], config: Data) -> np.ndarray:
    """Brings an array of images to the form in which a dataset's images are stored.

    Args:
        images: ``(n, h, w, c)``, ``(h, w, c)`` or, of one channel, ``(n, h, w)`` or ``(h, w)``;
            uint8, or floating-point numbers of the dataset's own size.
        image_shape: height, width and channels of the dataset's images.
        config: how they are brought to one size.

    Raises:
        InputError: an array of another form.
    """
    height, width, channels = image_shape
    if channels == 1 and images.ndim in (2, 3) and images.shape[-1:] != (1,):
        images = images[..., None]
    if images.ndim == 3:
        images = images[None]
    fits = images.ndim == 4 and images.shape[-1] == channels and 0 not in images.shape[1:]
    sized = fits and images.shape[1:3] == (height, width)
    if fits and images.dtype == np.uint8 and not sized:
        fit = stored_fit(config, image_shape)
        kept = config.crop_ratio
        return np.stack([fit_array(image, image_shape, fit, kept) for image in images])
    if not sized or not (images.dtype == np.uint8 or np.issubdtype(images.dtype, np.floating)):
        raise InputError(
            f"images: must be (n, {height}, {width}, {channels}) in uint8 or floating point, or of "
            f"another size in uint8, are {images.shape} in {images.dtype}"
        )
    return images if images.dtype == np.uint8 else images.astype(np.float32)


def as_pixels(images: np.ndarray) -> np.ndarray:
    """Returns images ``(n, h, w, c)`` in uint8 to be shown; floating-point ones are stretched."""
    if images.dtype == np.uint8:
        return images
    low = images.min(axis=(1, 2, 3), keepdims=True)
    span = images.max(axis=(1, 2, 3), keepdims=True) - low
    return (255 * (images - low) / np.where(span > 0, span, 1)).round().astype(np.uint8)


def fitted(
    picture: "Picture",
    size: tuple[int, int],
    fit: Fit,
    kept: float = CROP_RATIO,
    *,
    nearest: bool = False,
) -> "Picture":
    """Brings a picture to a height and width; one of that size stays as it is.

    It interpolates bilinearly, or takes the nearest pixels.

    ``"crop"`` brings the shorter side to ``side / kept`` before it cuts the middle out, as is
    usual for ImageNet, ``"square"`` to ``side``.
    """
    from PIL import Image

    sampling = Image.Resampling.NEAREST if nearest else Image.Resampling.BILINEAR
    height, width = size
    if (picture.height, picture.width) == size:
        return picture
    if height * width > MAX_PIXELS:
        raise InputError(f"{width}x{height} pixels are asked for; at most {MAX_PIXELS:,} in all")
    if fit == "resize":
        return picture.resize((width, height), sampling)
    side = height
    short = side if fit == "square" else round(side / kept)
    (rows, columns), (top, left) = middle((picture.height, picture.width), side, short)
    if columns * rows > MAX_PIXELS:  # a long and narrow picture: only its middle is scaled
        across, down = picture.width / columns, picture.height / rows
        box = (left * across, top * down, (left + side) * across, (top + side) * down)
        return picture.resize((side, side), sampling, box=box)
    picture = picture.resize((columns, rows), sampling)
    return picture.crop((left, top, left + side, top + side))


def middle(size: tuple[int, int], side: int, short: int) -> tuple[tuple[int, int], tuple[int, int]]:
    """Returns an image's height and width once the shorter is scaled, and where its middle begins.

    Args:
        size: its height and width.
        side: the height and width of the square in the middle.
        short: what its shorter side is scaled to.
    """
    rows, columns = (int(short * one / min(size)) for one in size)
    return (rows, columns), (round((rows - side) / 2), round((columns - side) / 2))


def decoded(data: bytes, channels: int, *, turned: bool) -> "Picture":
    """Decodes a file's bytes as a picture of so many channels: 1 is grey, 3 are RGB, 4 are RGBA.

    Numbers of 16 bits (12 in a TIFF that says so) are scaled to 8, so that white stays white. What
    has no white by its format is refused: floating-point numbers, 32 bits, and signed numbers.

    Args:
        data: what the file holds.
        channels: 1, 3 or 4.
        turned: whether the picture is turned as its EXIF data say.

    Raises:
        InputError: not an image that can be read, or one of more than ``MAX_PIXELS``, whose pixels
            take no memory.
    """
    from PIL import ImageOps

    def whole(opened: "Picture") -> "Picture":
        white = _white(opened)
        opened.load()
        return _converted(ImageOps.exif_transpose(opened) if turned else opened, channels, white)

    return _of_bytes(data, whole)


def cropped(data: bytes, channels: int, crop: Crop, *, turned: bool) -> "Picture":
    """Decodes a random crop of a whole picture, with sides of ``crop.side`` pixels.

    It is resized bilinearly, with a filter where it becomes smaller, from what lies inside the crop
    (as torchvision's ``resized_crop`` of a Pillow image). A JPEG is decoded at a half, a quarter or
    an eighth of its size where the crop has at least :data:`SPARE` times the pixels that are needed
    along both sides. The crop is drawn of the picture as it is stored, and turned once it is small:
    heights and widths have the same distribution.

    Args:
        data: what the file holds.
        channels: 1, 3 or 4.
        crop: what is taken of the picture.
        turned: whether the picture is turned as its EXIF data say.

    Raises:
        InputError: as :func:`decoded` does.
    """
    from PIL import Image

    def part(opened: "Picture") -> "Picture":
        white, turn = _white(opened), opened.getexif().get(ORIENTATION) if turned else None
        box = _reduced(opened, crop)
        left, top = math.floor(box[0]), math.floor(box[1])
        picture = opened.crop((left, top, math.ceil(box[2]), math.ceil(box[3])))
        picture = _converted(picture, channels, white).resize(
            (crop.side, crop.side),
            Image.Resampling.BILINEAR,
            box=(box[0] - left, box[1] - top, box[2] - left, box[3] - top),
        )
        return picture.transpose(Image.Transpose[TURNS[turn]]) if turn in TURNS else picture

    return _of_bytes(data, part)


SPARE = 2
"""How many pixels a JPEG's reduced crop must have, along each side, for one that it is resized to:
with fewer, blocks of the reduced picture would show."""
TURNS = {
    2: "FLIP_LEFT_RIGHT",
    3: "ROTATE_180",
    4: "FLIP_TOP_BOTTOM",
    5: "TRANSPOSE",
    6: "ROTATE_270",
    7: "TRANSVERSE",
    8: "ROTATE_90",
}
"""What brings a picture with an orientation of EXIF upright."""


def _reduced(opened: "Picture", crop: Crop) -> tuple[float, float, float, float]:
    """Asks for a smaller scale where a crop allows, and returns left, top, right and bottom in it.

    Only JPEG has other scales.
    """
    width, height = opened.size
    top, left, tall, wide = crop.box(height, width)
    most = min(tall, wide) / (SPARE * crop.side)
    scale = 1.0
    if most >= 2:
        # Rounded up, so that Pillow finds no scale that is smaller than it may be.
        found = opened.draft(None, (math.ceil(width / most), math.ceil(height / most)))
        scale = 1.0 if found is None else width / found[1][2]
    return left / scale, top / scale, (left + wide) / scale, (top + tall) / scale


def _of_bytes(data: bytes, make: "Callable[[Picture], Picture]") -> "Picture":
    """Makes a picture of an opened one, of which nothing is decoded yet; names every fault."""
    from PIL import Image, UnidentifiedImageError

    try:
        with warnings.catch_warnings():
            # Too many pixels are refused below; other warnings are of metadata that are not used.
            warnings.simplefilter("ignore")
            with Image.open(io.BytesIO(data), formats=FORMATS) as opened:
                width, height = opened.size
                if not 1 <= width * height <= MAX_PIXELS:
                    raise InputError(f"{width}x{height} pixels; at most {MAX_PIXELS:,} in all")
                return make(opened)
    except InputError:
        raise
    except Image.DecompressionBombError as error:
        raise InputError(f"has far too many pixels; at most {MAX_PIXELS:,} in all") from error
    except UnidentifiedImageError as error:
        raise InputError(
            f"not an image of a known format: must be one of {', '.join(FORMATS)}"
        ) from error
    except Exception as error:  # Pillow's decoders raise whatever they stumble upon
        reason = " ".join(str(error).split()) or type(error).__name__
        raise InputError(f"not an image that Pillow can read ({reason})") from error


def _converted(picture: "Picture", channels: int, white: int) -> "Picture":
    """Returns a picture of so many channels in 8 bits; ``white`` is from :func:`_white`."""
    from PIL import Image

    if white != 255:
        picture = Image.fromarray(_to_8_bits(np.asarray(picture), white))
    # Pillow would warn of transparent colours, and lacks the other two conversions.
    between = {"P": "RGBA", "La": "LA", "RGBa": "RGBA"}
    if picture.mode in between:
        picture = picture.convert(between[picture.mode])
    mode = MODES[channels]
    return picture if picture.mode == mode else picture.convert(mode)  # which would copy it


def _white(picture: "Picture") -> int:
    """Returns the number that stands for white in a picture's file: negative if 0 is white.

    Raises:
        InputError: the format does not say.
    """
    mode, kind = picture.mode, picture.format
    if mode == "LAB":
        raise InputError("its colours are CIELAB; must be grey, RGB, CMYK or of a palette")
    if mode == "F" or (mode == "I" and kind == "TIFF"):
        raise InputError(
            f"its pixels are {'floating-point' if mode == 'F' else '32-bit or signed'} numbers, "
            "of which the file does not say which is white; must have 8 or 16 bits"
        )
    if not mode.startswith("I"):
        return 255
    if kind != "TIFF":
        return 65535
    tags = picture.tag_v2  # type: ignore[attr-defined]
    white = 2 ** tags.get(258, (16,))[0] - 1  # BitsPerSample
    return -white if tags.get(262) == 0 else white  # PhotometricInterpretation: WhiteIsZero


def _to_8_bits(pixels: np.ndarray, white: int) -> np.ndarray:
    scaled = (pixels.astype(np.float32) * np.float32(255 / abs(white))).round().clip(0, 255)
    return (scaled if white > 0 else 255 - scaled).astype(np.uint8)


def _array(picture: "Picture") -> np.ndarray:
    channels = len(picture.getbands())
    return np.asarray(picture, np.uint8).reshape(picture.height, picture.width, channels)
