import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from jaxcnn.config import Data, InputError
from jaxcnn.data import sources


def test_digits_are_scikit_learns_scans_split_once():
    from sklearn.datasets import load_digits

    dataset = sources.load(Data("digits"))
    assert (len(dataset.train), len(dataset.test)) == (1437, 360)
    assert dataset.image_shape == (8, 8, 1)
    assert dataset.train.images.dtype == np.uint8
    together = np.concatenate([dataset.train.images, dataset.test.images])[..., 0]
    raw = np.round(load_digits().images * 255 / 16)
    # The same multiset of images: each scan is in exactly one split.
    assert sorted(map(bytes, together)) == sorted(map(bytes, raw.astype(np.uint8)))
    again = sources.load(Data("digits"))
    np.testing.assert_array_equal(again.test.labels, dataset.test.labels)


def test_train_limit_takes_the_first_examples():
    few = sources.load(Data("digits", train_limit=100))
    assert (len(few.train), len(few.test)) == (100, 360)


@pytest.mark.parametrize(
    ("data", "named"),
    [
        (Data("digits", batch_size=1438), "data.batch_size=1438: must be at most the 1437"),
        (Data("digits", train_limit=1438), "data.train_limit=1438"),
        (Data("digits", mean=(0.1, 0.2, 0.3)), "data.mean"),
        (Data("digits", std=(0.1, 0.2)), "data.std"),
        (Data("nonesuch", dir="/nonexistent"), "data.name='nonesuch': unknown dataset"),
        (Data("cifar100", dir="/nonexistent"), "tfds build cifar100 --file_format=array_record"),
    ],
    ids=lambda v: v if isinstance(v, str) else "",
)
def test_bad_data_are_named_in_one_line(data, named):
    with pytest.raises(InputError) as error:
        sources.load(data)
    assert named in str(error.value)
    assert "\n" not in str(error.value)


PREPARED = Path(os.environ.get("TFDS_DATA_DIR", "/nonexistent"))


@pytest.mark.skipif(not PREPARED.is_dir(), reason="TFDS_DATA_DIR points at no prepared datasets")
@pytest.mark.parametrize(
    ("name", "shape", "train", "test"),
    [
        ("mnist", (28, 28, 1), 60000, 10000),
        ("cifar10", (32, 32, 3), 50000, 10000),
    ],
)
def test_prepared_sets_are_whole(name, shape, train, test):
    dataset = sources.load(Data(name))
    assert dataset.image_shape == shape
    assert (len(dataset.train), len(dataset.test)) == (train, test)
    assert len(dataset.classes) == 10
    counts = np.bincount(dataset.test.labels)
    # CIFAR-10 is balanced by construction; MNIST's test set has 980 zeros (LeCun et al. 1998).
    assert counts[0] == {"mnist": 980, "cifar10": 1000}[name]


@pytest.mark.skipif(not PREPARED.is_dir(), reason="TFDS_DATA_DIR points at no prepared datasets")
@pytest.mark.parametrize("fault", ["format", "truncated", "missing", "info"])
def test_a_damaged_set_is_named(tmp_path, fault):
    version = next((PREPARED / "mnist").iterdir())
    copy = tmp_path / "mnist" / version.name
    shutil.copytree(version, copy, copy_function=shutil.copyfile)
    copy.chmod(0o755)
    info, records = copy / "dataset_info.json", next(copy.glob("mnist-train*"))
    if fault == "format":
        info.write_text(info.read_text().replace("array_record", "tfrecord"))
    elif fault == "truncated":
        records.write_bytes(records.read_bytes()[:100_000])
    elif fault == "missing":
        records.unlink()
    else:
        info.write_text("{")
    with pytest.raises(InputError, match=r"mnist is damaged or was not prepared") as error:
        sources.load(Data("mnist", dir=str(tmp_path)))
    assert "\n" not in str(error.value)


class TestReadImage:
    @pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "P", "CMYK", "1", "LA", "I;16"])
    @pytest.mark.parametrize("channels", [1, 3])
    def test_any_colour_mode(self, tmp_path, mode, channels):
        suffix = "tif" if mode in ("CMYK", "I;16") else "png"
        path = tmp_path / f"image.{suffix}"
        Image.new(mode, (5, 4)).save(path)
        array = sources.read_image(path, channels)
        assert array.shape == (4, 5, channels)
        assert array.dtype == np.uint8

    def test_16_bits_keep_their_brightness(self, tmp_path):
        grey = np.array([[0, 257, 257 * 100, 65535]], np.uint16)
        Image.fromarray(grey).save(tmp_path / "deep.png")
        got = sources.read_image(tmp_path / "deep.png", 1)
        assert got[..., 0].tolist() == [[0, 1, 100, 255]]

    def test_no_program_is_started_for_a_file(self, tmp_path):
        path = tmp_path / "x.png"  # Pillow would give it to Ghostscript
        path.write_text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n%%EOF\n")
        with pytest.raises(InputError, match="not an image"):
            sources.read_image(path, 1)

    def test_exif_rotation(self, tmp_path):
        image = Image.fromarray(np.arange(6, dtype=np.uint8).reshape(2, 3))
        exif = Image.Exif()
        exif[0x0112] = 3  # turned by 180 degrees
        image.save(tmp_path / "turned.png", exif=exif)
        got = sources.read_image(tmp_path / "turned.png", 1)[..., 0]
        np.testing.assert_array_equal(got, np.arange(6).reshape(2, 3)[::-1, ::-1])

    def test_resize(self, tmp_path):
        Image.new("L", (40, 20), 7).save(tmp_path / "a.png")
        got = sources.read_image(tmp_path / "a.png", 1, (8, 6))
        assert got.shape == (8, 6, 1)
        assert (got == 7).all()

    @pytest.mark.parametrize(
        "content", [b"", b"<html>not an image</html>", b"\x89PNG\r\n\x1a\n123"]
    )
    def test_not_an_image(self, tmp_path, content):
        path = tmp_path / "x.png"
        path.write_bytes(content)
        with pytest.raises(InputError, match=r"x\.png: not an image"):
            sources.read_image(path, 1)

    def test_truncated(self, tmp_path):
        rng = np.random.default_rng(0)
        path = tmp_path / "x.png"
        Image.fromarray(rng.integers(0, 255, (64, 64), np.uint8)).save(path)
        path.write_bytes(path.read_bytes()[:1000])
        with pytest.raises(InputError, match=r"x\.png: not an image"):
            sources.read_image(path, 1)

    def test_missing_folder_and_channels(self, tmp_path):
        for path in (tmp_path, tmp_path / "none.png"):
            with pytest.raises(InputError, match="no such image file"):
                sources.read_image(path, 1)
        with pytest.raises(InputError, match="5 channels"):
            sources.read_image(tmp_path / "none.png", 5)

    def test_too_many_pixels(self, tmp_path, monkeypatch):
        Image.new("L", (40, 20)).save(tmp_path / "a.png")
        monkeypatch.setattr(sources, "MAX_PIXELS", 799)
        with pytest.raises(InputError, match="40x20 pixels"):
            sources.read_image(tmp_path / "a.png", 1)
