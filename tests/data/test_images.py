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
        with pytest.raises(InputError, match=r"x\.png: not an image"):
            images.read_image(path, (8, 8, 1), "resize")

    def test_truncated(self, tmp_path):
        rng = np.random.default_rng(0)
        path = tmp_path / "x.png"
        Image.fromarray(rng.integers(0, 255, (64, 64), np.uint8)).save(path)
        path.write_bytes(path.read_bytes()[:1000])
        with pytest.raises(InputError, match=r"x\.png: not an image"):
            images.read_image(path, (8, 8, 1), "resize")

    def test_missing_folder_and_channels(self, tmp_path):
        for path in (tmp_path, tmp_path / "none.png"):
            with pytest.raises(InputError, match="no such image file"):
                images.read_image(path, (8, 8, 1), "resize")
        with pytest.raises(InputError, match="5 channels"):
            images.read_image(tmp_path / "none.png", (8, 8, 5), "resize")

    def test_too_many_pixels(self, tmp_path, monkeypatch):
        Image.new("L", (40, 20)).save(tmp_path / "a.png")
        monkeypatch.setattr(images, "MAX_PIXELS", 799)
        with pytest.raises(InputError, match="40x20 pixels"):
            images.read_image(tmp_path / "a.png", (8, 8, 1), "resize")


def test_too_long_once_the_shorter_side_fits(tmp_path):
    Image.new("1", (1, 40_000)).save(tmp_path / "a.png")
    with pytest.raises(InputError, match=r"a\.png: 1x40000 pixels are 256x10240000 once"):
        images.read_image(tmp_path / "a.png", (224, 224, 3), "crop")


@pytest.mark.parametrize("size", [(60, 40), (40, 61), (33, 33), (20, 50), (32, 32)])
def test_crops_are_those_of_torchvision(size, torchvision):
    transforms = torchvision.transforms
    rng = np.random.default_rng(0)
    picture = Image.fromarray(rng.integers(0, 256, (*size[::-1], 3), np.uint8))
    got = np.asarray(images.fitted(picture, (28, 28), "crop"))
    bilinear = transforms.InterpolationMode.BILINEAR
    expected = transforms.CenterCrop(28)(transforms.Resize(32, bilinear)(picture))
    np.testing.assert_array_equal(got, np.asarray(expected))
    # Read with a margin, which evaluation then leaves out.
    margin = images.fitted(picture, (32, 32), "square")
    assert margin.size == (32, 32)
    data = Data("x", image_size=28, fit="crop", read_size=32)
    assert images.reading(data) == (32, "square")
    seen = augment.fit(jnp.asarray(np.asarray(margin)[None], jnp.float32), data)[0]
    np.testing.assert_array_equal(seen, np.asarray(expected))


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
