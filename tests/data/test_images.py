import io
import os
import struct
import zlib

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from jaxcnn.config import Data
from jaxcnn.data import augment, images
from jaxcnn.errors import InputError


class TestReadImage:
    @pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "P", "CMYK", "1", "LA", "I;16"])
    @pytest.mark.parametrize("channels", [1, 3])
    def test_any_colour_mode(self, tmp_path, mode, channels):
        suffix = "tif" if mode in ("CMYK", "I;16") else "png"
        path = tmp_path / f"image.{suffix}"
        Image.new(mode, (5, 4)).save(path)
        array = images.read_image(path, (4, 5, channels), "resize")
        assert array.shape == (4, 5, channels)
        assert array.dtype == np.uint8

    def test_16_bits_keep_their_brightness(self, tmp_path):
        grey = np.array([[0, 257, 257 * 100, 65535]], np.uint16)
        Image.fromarray(grey).save(tmp_path / "deep.png")
        got = images.read_image(tmp_path / "deep.png", (1, 4, 1), "resize")
        assert got[..., 0].tolist() == [[0, 1, 100, 255]]

    def test_no_program_is_started_for_a_file(self, tmp_path):
        path = tmp_path / "x.png"  # Pillow would give it to Ghostscript
        path.write_text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n%%EOF\n")
        with pytest.raises(InputError, match="not an image"):
            images.read_image(path, (8, 8, 1), "resize")

    def test_exif_rotation(self, tmp_path):
        image = Image.fromarray(np.arange(6, dtype=np.uint8).reshape(2, 3))
        exif = Image.Exif()
        exif[0x0112] = 3  # turned by 180 degrees
        image.save(tmp_path / "turned.png", exif=exif)
        got = images.read_image(tmp_path / "turned.png", (2, 3, 1), "resize")[..., 0]
        np.testing.assert_array_equal(got, np.arange(6).reshape(2, 3)[::-1, ::-1])

    def test_resize(self, tmp_path):
        Image.new("L", (40, 20), 7).save(tmp_path / "a.png")
        got = images.read_image(tmp_path / "a.png", (8, 6, 1), "resize")
        assert got.shape == (8, 6, 1)
        assert (got == 7).all()

    @pytest.mark.parametrize(
        "content", [b"", b"<html>not an image</html>", b"\x89PNG\r\n\x1a\n123"]
    )
    def test_not_an_image(self, tmp_path, content):
        path = tmp_path / "x.png"
        path.write_bytes(content)
        with pytest.raises(InputError, match=r"x\.png: not an image .* one of PNG, JPEG, WEBP"):
            images.read_image(path, (8, 8, 1), "resize")

    def test_truncated(self, tmp_path):
        rng = np.random.default_rng(0)
        path = tmp_path / "x.png"
        Image.fromarray(rng.integers(0, 255, (64, 64), np.uint8)).save(path)
        path.write_bytes(path.read_bytes()[:1000])
        with pytest.raises(InputError, match=r"x\.png: not an image"):
            images.read_image(path, (8, 8, 1), "resize")

    def test_missing_folder_and_channels(self, tmp_path):
        for path, said in ((tmp_path, "a folder or"), (tmp_path / "none.png", "no such image")):
            with pytest.raises(InputError, match=said):
                images.read_image(path, (8, 8, 1), "resize")
        with pytest.raises(InputError, match="5 channels"):
            images.read_image(tmp_path / "none.png", (8, 8, 5), "resize")

    def test_too_many_pixels(self, tmp_path, monkeypatch):
        Image.new("L", (40, 20)).save(tmp_path / "a.png")
        monkeypatch.setattr(images, "MAX_PIXELS", 799)
        with pytest.raises(InputError, match="40x20 pixels"):
            images.read_image(tmp_path / "a.png", (8, 8, 1), "resize")


@pytest.mark.parametrize("size", [(1, 40_000), (40_000, 1), (3, 40_000)])
@pytest.mark.parametrize("fit", ["resize", "crop", "square"])
def test_whether_a_picture_is_read_does_not_depend_on_its_fit(tmp_path, size, fit):
    """Else runs that fit their images in other ways would be tested on other images."""
    Image.new("L", size, 90).save(tmp_path / "a.png")
    assert (images.read_image(tmp_path / "a.png", (224, 224, 3), fit) == 90).all()


@pytest.mark.parametrize("fit", ["crop", "square"])
def test_the_middle_of_a_long_picture_is_the_same_whether_it_is_cut_out_first(fit, monkeypatch):
    pixels = np.random.default_rng(0).integers(0, 256, (12, 90), np.uint8)
    whole = images.fit_array(pixels[..., None], (28, 28, 1), fit)
    monkeypatch.setattr(images, "MAX_PIXELS", 2000)
    cut = images.fit_array(pixels[..., None], (28, 28, 1), fit)
    assert np.abs(whole.astype(int) - cut).max() <= 2


@pytest.mark.parametrize("size", [(60, 40), (40, 61), (33, 33), (20, 50), (32, 32)])
@pytest.mark.parametrize(("ratio", "short"), [(0.875, 32), (0.95, 29), (1.0, 28)])
def test_crops_are_those_of_torchvision(size, ratio, short, torchvision):
    transforms = torchvision.transforms
    rng = np.random.default_rng(0)
    picture = Image.fromarray(rng.integers(0, 256, (*size[::-1], 3), np.uint8))
    got = np.asarray(images.fitted(picture, (28, 28), "crop", ratio))
    bilinear = transforms.InterpolationMode.BILINEAR
    expected = transforms.CenterCrop(28)(transforms.Resize(short, bilinear)(picture))
    np.testing.assert_array_equal(got, np.asarray(expected))
    if short % 2:  # halves of a pixel are rounded twice
        return
    # Read with a margin, which evaluation then leaves out.
    margin = images.fitted(picture, (short, short), "square")
    assert margin.size == (short, short)
    data = Data("x", image_size=28, fit="crop", read_size=short, crop_ratio=ratio)
    assert images.reading(data) == (short, "square")
    seen = augment.fit(jnp.asarray(np.asarray(margin)[None], jnp.float32), data)[0]
    np.testing.assert_array_equal(seen, np.asarray(expected))


def grey(path, pixels, kind, **tags):
    """Writes a TIFF of one row whose numbers, in bytes, are of a sample format."""
    body = pixels.tobytes()
    entries = {256: pixels.size, 257: 1, 258: 8 * pixels.itemsize, 259: 1, 262: 1, 273: 0}
    entries |= {277: 1, 278: 1, 279: len(body), 339: kind}
    entries |= {int(tag[1:]): value for tag, value in tags.items()}
    entries[273] = 8 + 2 + 12 * len(entries) + 4
    listed = b"".join(
        struct.pack("<HHII", tag, 4, 1, value) for tag, value in sorted(entries.items())
    )
    head = struct.pack("<2sHIH", b"II", 42, 8, len(entries))
    path.write_bytes(head + listed + bytes(4) + body)


RAMP = np.array([0, 257, 25_700, 65_535])


@pytest.mark.parametrize(
    ("write", "expected"),
    [
        (lambda p: Image.fromarray(RAMP.astype(np.uint16)[None]).save(p, "PNG"), [0, 1, 100, 255]),
        (lambda p: Image.fromarray(RAMP.astype(np.uint16)[None]).save(p, "TIFF"), [0, 1, 100, 255]),
        (lambda p: Image.fromarray(RAMP.astype(np.uint16)[None]).save(p, "PPM"), [0, 1, 100, 255]),
        (lambda p: p.write_bytes(b"P5 3 1 1000 " + b"\0\0\1\xf4\3\xe8"), [0, 128, 255]),
        (lambda p: p.write_text("P2 3 1 1000 0 500 1000 "), [0, 128, 255]),
        (lambda p: grey(p, RAMP.astype("<u2"), 1), [0, 1, 100, 255]),
        (lambda p: grey(p, RAMP.astype("<u2"), 1, t262=0), [255, 254, 155, 0]),  # 0 is white
        (lambda p: grey(p, np.array([0, 10, 255], np.uint8), 1), [0, 10, 255]),
        (lambda p: grey(p, np.array([0, 10, 255], np.uint8), 1, t262=0), [255, 245, 0]),
        # Two numbers of 12 bits, 0 and 4095, and one of 2048.
        (
            lambda p: grey(
                p, np.frombuffer(b"\x00\x0f\xff\x80\x00\x00", np.uint8), 1, t256=4, t258=12
            ),
            [0, 255, 128, 0],
        ),
    ],
)
def test_numbers_of_more_than_8_bits_keep_their_brightness(tmp_path, write, expected):
    write(tmp_path / "a")
    got = images.read_image(tmp_path / "a", (1, len(expected), 1), "resize")
    assert got.ravel().tolist() == expected


@pytest.mark.parametrize(
    ("write", "named"),
    [
        (lambda p: grey(p, np.array([0, 0.5, 1], "<f4"), 3), "floating-point numbers"),
        (lambda p: Image.new("F", (4, 4)).save(p, "TIFF"), "floating-point numbers"),
        (lambda p: p.write_bytes(b"Pf 1 1 -1.0\n" + bytes(4)), "floating-point numbers"),
        (lambda p: grey(p, np.array([0, 5, 2**31], "<u4"), 1), "32-bit or signed numbers"),
        (lambda p: grey(p, np.array([0, 5, -9], "<i4"), 2), "32-bit or signed numbers"),
        (lambda p: grey(p, np.array([0, 5, -9], "<i2"), 2), "32-bit or signed numbers"),
        (lambda p: Image.new("LAB", (4, 4)).save(p, "TIFF"), "CIELAB"),
        (lambda p: p.write_bytes(b"P5 0 9 255 "), "a: "),
        (lambda p: p.write_bytes(b"P5 99999 99999 255 "), "far too many pixels; at most"),
        (lambda p: p.write_bytes(b"P6 2147483647 2147483647 255 "), "far too many pixels"),
        (lambda p: os.mkfifo(p), "a special file, must be"),
        (lambda p: p.symlink_to("/dev/zero"), "a special file, must be"),
        (lambda p: p.symlink_to(p), "no such image file"),
        (lambda p: (p.touch(), os.truncate(p, 2**40)), "1,099,511,627,776 bytes; at most"),
    ],
)
def test_what_has_no_white_or_no_end_is_refused_in_one_line(tmp_path, write, named):
    write(tmp_path / "a")
    with pytest.raises(InputError) as error:
        images.read_image(tmp_path / "a", (4, 4, 1), "resize")
    assert named in str(error.value)
    assert "\n" not in str(error.value)


def test_dimensions_beyond_what_is_accepted_take_no_memory(tmp_path):
    """In any format: what a header claims is refused before pixels are decoded."""
    import tracemalloc

    small = Image.new("RGB", (64, 64))
    claims = {
        "PNG": (16, ">II", (30_000, 30_000)),
        "BMP": (18, "<ii", (30_000, 30_000)),
        "GIF": (6, "<HH", (60_000, 60_000)),
    }
    for kind, (at, form, size) in claims.items():
        stream = io.BytesIO()
        small.save(stream, kind)
        data = bytearray(stream.getvalue())
        struct.pack_into(form, data, at, *size)
        if kind == "PNG":
            struct.pack_into(">I", data, 29, zlib.crc32(data[12:29]))
        tracemalloc.start()
        with pytest.raises(InputError):
            images.decoded(bytes(data), 3, turned=True)
        assert tracemalloc.get_traced_memory()[1] < 10**7
        tracemalloc.stop()
    with pytest.raises(InputError, match="100000x100000 pixels are asked for"):
        images.fitted(small, (100_000, 100_000), "resize")


@pytest.mark.parametrize("mode", ["P", "PA", "LA", "La", "RGBa", "RGBX", "YCbCr", "CMYK", "HSV"])
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_colours_of_any_mode_become_grey_or_rgb(mode, channels, monkeypatch):
    """Pillow cannot convert between all modes at once."""
    stream = io.BytesIO()
    Image.new("L", (3, 2), 255).save(stream, "PNG")
    shown = Image.new("RGBA", (3, 2), (200, 200, 200, 255))
    through = {"PA": ["LA"], "La": ["LA"], "P": ["RGB"], "LA": [], "RGBa": []}.get(mode, ["RGB"])
    for step in [*through, mode]:
        shown = shown.convert(step)
    opened = Image.open(stream)
    opened.load()
    monkeypatch.setattr(Image, "open", lambda *args, **options: shown)
    got = np.asarray(images.decoded(stream.getvalue(), channels, turned=False))
    assert got.shape == ((2, 3) if channels == 1 else (2, 3, channels))
    assert np.abs(got.astype(int)[..., :3] - 200).max() <= 3 or mode in ("CMYK", "P")


def test_a_picture_of_the_right_size_stays():
    picture = Image.new("RGB", (28, 28))
    assert images.fitted(picture, (28, 28), "crop") is picture
    assert images.fitted(picture, (28, 28), "resize") is picture


@pytest.mark.parametrize("size", [(60, 40), (40, 61), (20, 50)])
def test_crops_on_the_device_are_those_on_the_host(size):
    data = Data("x", image_size=28, fit="crop")
    pixels = np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)
    host = images.fit_array(pixels, (28, 28, 3), "crop")
    device = augment.fit(jnp.asarray(pixels[None], jnp.float32), data)[0]
    assert np.abs(np.asarray(device) - host).max() < 1.5  # the host rounds twice


def test_a_crop_keeps_the_part_that_the_config_says():
    """Where half of 56 pixels is kept, nothing is resized: on the host and in the program."""
    data = Data(image_size=28, fit="crop", crop_ratio=0.5)
    pixels = np.random.default_rng(0).integers(0, 256, (56, 56, 3), np.uint8)
    fit = images.stored_fit(data, (28, 28, 3))
    assert images.reading(data) == (28, fit)
    found = images.fit_array(pixels, (28, 28, 3), fit, data.crop_ratio)
    np.testing.assert_array_equal(found, pixels[14:42, 14:42])
    seen = augment.fit(jnp.asarray(pixels[None], jnp.float32), data)
    np.testing.assert_allclose(seen[0], pixels[14:42, 14:42], atol=1e-3)
    with pytest.raises(InputError, match=r"data\.crop_ratio=0\.0: must be in \[0\.1, 1\]"):
        Data(crop_ratio=0.0)
