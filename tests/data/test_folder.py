import json
import os
import shutil
import struct
import zlib
from dataclasses import replace

import jax
import numpy as np
import pytest
from PIL import Image

from jaxcnn import memory
from jaxcnn.config import Augment, Data, Experiment
from jaxcnn.data import augment, image_folder, sources
from jaxcnn.data.feed import WORKER_BYTES, open_stream
from jaxcnn.errors import InputError
from jaxcnn.runs.trained import describe
from jaxcnn.text import printable

BLUE = (20, 40, 200)


def picture(size=(9, 7)):
    return Image.new("RGB", size, BLUE)


def jpeg(path):
    picture().save(path, "JPEG", quality=95)


@pytest.fixture
def root(tmp_path):
    for split, n in (("train", 3), ("test", 2)):
        for name in ("class10", "class2"):
            (tmp_path / split / name).mkdir(parents=True)
            for i in range(n):
                jpeg(tmp_path / split / name / f"{i}.jpg")
    return tmp_path


def config(root, **changes):
    options = {"dir": str(root), "image_size": 8, "fit": "resize", "batch_size": 2} | changes
    return Data("folder", **options)


def test_classes_are_folders_in_natural_order(root):
    dataset = sources.load(config(root))
    assert dataset.classes == ("class2", "class10")
    assert (len(dataset.train), len(dataset.test)) == (6, 4)
    assert dataset.image_shape == (8, 8, 3)
    assert np.bincount(dataset.train.labels).tolist() == [3, 3]
    grey = sources.load(config(root, channels=1, fit="crop"))
    assert grey.image_shape == (8, 8, 1)


def test_images_are_read_with_the_margin_that_random_crops_want(root):
    data = config(root, fit="crop", read_size=10)
    dataset = sources.load(data)
    assert dataset.image_shape == (10, 10, 3)
    seen = augment.input_shape(data, Augment(random_crop=True), dataset.image_shape)
    assert seen == (8, 8, 3)
    one, other = (
        sources.load(d).test_form(d) for d in (data, config(root, fit="crop", image_size=10))
    )
    assert one == "10x10x3 square"
    assert other.startswith("10x10x3")


def test_random_crops_want_images_that_are_read_larger(root):
    data = Data("digits", image_size=6, fit="crop", read_size=7)
    with pytest.raises(InputError, match="'digits', whose images are 8x8"):
        augment.input_shape(data, Augment(random_crop=True), sources.load(data).image_shape)
    for changes, crop in (({"read_size": 8}, 0.0), ({"read_size": None}, 0.0), ({}, 0.5)):
        with pytest.raises(InputError, match=r"augment\.random_crop=True"):
            Experiment(
                data=config(root, **{"fit": "crop", "read_size": 10} | changes),
                augment=Augment(random_crop=True, random_resized_crop=crop),
            )


def test_on_a_cpu_threads_read(root, monkeypatch):
    """There the processes would take the cores that train."""
    data = config(root, streaming=True)
    for asked, backend, workers in ((None, "cpu", 0), (2, "cpu", 2), (None, "gpu", None)):
        monkeypatch.setattr(jax, "default_backend", lambda backend=backend: backend)
        assert open_stream(sources.load(data), replace(data, workers=asked), 0).workers == workers


def test_processes_that_do_not_fit_into_memory_are_not_started(root, monkeypatch):
    data = config(root, streaming=True, workers=8)
    dataset = sources.load(data)
    monkeypatch.setattr(memory, "available", lambda: 8 * WORKER_BYTES)
    assert open_stream(dataset, data, 0).workers == 8
    monkeypatch.setattr(memory, "available", lambda: 8 * WORKER_BYTES - 1)
    with pytest.raises(InputError, match=r"^data\.workers=8: so many processes: needs"):
        open_stream(dataset, data, 0)


def test_the_first_examples_are_of_all_classes(root):
    assert sorted(sources.load(config(root, train_limit=2)).train.labels.tolist()) == [0, 1]


@pytest.mark.parametrize("name", ["val", "validation"])
def test_other_names_of_the_held_out_folder(root, name):
    (root / "test").rename(root / name)
    assert len(sources.load(config(root)).test) == 4


def loaded_blue(root):
    """How many training images are there, after checking that all are blue."""
    found = sources.load(config(root)).train
    mean = found.images.reshape(len(found), -1, 3).mean(axis=1)
    np.testing.assert_allclose(mean, np.tile(BLUE, (len(found), 1)), atol=3)
    return len(found)


def cmyk(path):
    picture().convert("CMYK").save(path, "JPEG", quality=95)


def palette_with_alpha(path):
    image = Image.new("P", (9, 7), 0)
    image.putpalette([*BLUE, 255, 255, 255])
    image.save(path, "PNG", transparency=bytes([255, 0]))


def animated(path):
    picture().save(
        path, "WEBP", save_all=True, append_images=[Image.new("RGB", (9, 7))], quality=99
    )


def turned(path):
    exif = Image.Exif()
    exif[0x0112] = 6
    picture().save(path, "JPEG", exif=exif, quality=95)


GOOD = {
    "cmyk.jpg": cmyk,
    "palette.png": palette_with_alpha,
    "animated.webp": animated,
    "turned.JPEG": turned,
    "a_png.jpg": lambda path: picture().save(path, "PNG"),
    "Käse 猫.png": lambda path: picture().save(path),
    "deep/er/x.png": lambda path: picture().save(path),
    "linked.jpg": lambda path: path.symlink_to(path.parent / "0.jpg"),
    "large.png": lambda path: picture((600, 400)).save(path),
}


@pytest.mark.parametrize("name", GOOD)
def test_unusual_images_are_read(root, name):
    path = root / "train" / "class2" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    GOOD[name](path)
    assert loaded_blue(root) == 7


def test_16_bits_are_read(root):
    deep = Image.fromarray(np.full((9, 7), 257 * 100, np.uint16))
    deep.save(root / "train" / "class2" / "00.png")
    images = sources.load(config(root, channels=1)).train.images
    assert (images == 100).all(axis=(1, 2, 3)).sum() == 1


def test_what_is_no_image_by_name_and_folders_seen_before_do_not_count(root):
    folder = root / "train" / "class2"
    (folder / "notes.txt").write_text("x")
    (folder / ".hidden.jpg").write_text("x")
    (folder / "loop").symlink_to(folder)
    (folder / "up").symlink_to(root)
    (folder / "empty").mkdir()
    assert loaded_blue(root) == 6 + 3 + 2 + 2  # `up` leads to the images of all other folders


def huge_png(path):
    """400 megapixels, as its header claims."""

    def chunk(kind, data):
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 20000, 20000, 8, 2, 0, 0, 0))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(bytes(1000))))


def truncated(path):
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    Image.fromarray(noise).save(path, "JPEG")
    path.write_bytes(path.read_bytes()[:2000])


def forbidden(path):
    if os.geteuid() == 0:
        pytest.skip("root may read everything")
    jpeg(path)
    path.chmod(0)


BAD = {
    "truncated.jpg": truncated,
    "cut.webp": lambda path: (animated(path), path.write_bytes(path.read_bytes()[:60])),
    "page.jpg": lambda path: path.write_text("<!DOCTYPE html><html>404</html>"),
    "empty.png": lambda path: path.write_bytes(b""),
    "huge.png": huge_png,
    "forbidden.jpg": forbidden,
    "postscript.png": lambda path: path.write_text("%!PS-Adobe-3.0 EPSF-3.0\n%%EOF\n"),
    "itself.jpg": lambda path: path.symlink_to(path),
    "nowhere.jpg": lambda path: path.symlink_to(path.parent / "gone.jpg"),
    "猫.gif": lambda path: path.write_bytes(b"GIF89a"),
    "zeros.bmp": lambda path: path.write_bytes(bytes(5000)),
    "drawing.png": lambda path: path.write_text("<svg xmlns='http://www.w3.org/2000/svg'/>"),
    "pipe.jpg": lambda path: os.mkfifo(path),
    "device.jpg": lambda path: path.symlink_to("/dev/zero"),
    "no_range.tif": lambda path: Image.new("F", (9, 7)).save(path),
    "two\nlines\x1b[31m.jpg": lambda path: path.write_bytes(b""),
    "not_utf8_\udcff.jpg": lambda path: path.write_bytes(b""),
    "[a]$HOME.jpg": lambda path: path.write_bytes(b""),
    "other_end.png": lambda path: (picture().save(path), path.write_bytes(path.read_bytes()[::-1])),
}


def test_at_least_twelve_kinds_of_image_are_refused():
    assert len(BAD) >= 12


@pytest.mark.parametrize("name", BAD)
def test_what_cannot_be_read_is_left_out_and_named_once(root, name, caplog):
    BAD[name](root / "train" / "class2" / name)
    assert loaded_blue(root) == 6
    (line,) = [record.getMessage() for record in caplog.records]
    assert printable(name) in line
    assert line.isprintable()
    with pytest.raises(
        InputError, match=r"data\.max_bad_images=0: more images cannot be read"
    ) as e:
        sources.load(config(root, max_bad_images=0))
    assert printable(name) in str(e.value)
    assert str(e.value).isprintable()


@pytest.mark.parametrize(
    ("break_it", "changes", "named"),
    [
        (None, {"dir": None}, "data.dir=None"),
        (None, {"dir": "/nonexistent"}, "must hold the folders train and test"),
        (None, {"image_size": None}, "data.image_size=None"),
        (None, {"fit": "pad"}, "data.fit='pad'"),
        (None, {"batch_size": 7}, "data.batch_size=7: must be at most the 6"),
        (None, {"image_size": 10_000}, "data.image_size=10000: must be at most 8,192"),
        (None, {"image_size": 8, "read_size": 10_000}, "data.read_size=10000"),
        ("test/class3", {}, "test/class3 is no class of"),
        ("test/class\udcff", {}, "test/class\\xff is no class of"),
        ("train/class3", {}, "train/class3 has no image files"),
    ],
)
def test_faults_of_the_folder_are_named(root, break_it, changes, named):
    if break_it:
        (root / break_it).mkdir()
    with pytest.raises(InputError) as error:
        sources.load(config(root, **changes))
    assert named in str(error.value)
    assert "\n" not in str(error.value)


WANTED = (
    "must hold the folders train and test (or val), with a folder for each class, or at least two "
    "such folders alone"
)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("gone", "there is no such folder"),
        ("train/class2/0.jpg", "is a file"),
        ("train", "is not the folder meant, perhaps {root} is"),
        ("train/class2", "is not the folder meant, perhaps {root} is"),
        ("above", "is not the folder meant, perhaps {above}/{root.name} is"),
        ("half", "has train alone"),
        ("one", "has the folder of a single class, a"),
        ("deep", "is not the folder meant, perhaps {other}/deep/photos is"),
        ("empty", ""),
    ],
)
def test_a_folder_that_is_not_the_one_meant_is_told_from_others(
    root, tmp_path_factory, given, said
):
    other = tmp_path_factory.mktemp("other")
    for name in ("half/train", "one/a", "deep/photos/a", "deep/photos/b", "empty"):
        (other / name).mkdir(parents=True)
    (other / "above").mkdir()
    (other / "above" / root.name).symlink_to(root)
    above = other / "above"
    place = other / given if (other / given).exists() else root / given
    with pytest.raises(InputError) as error:
        sources.load(config(place))
    expected = said.format(root=root, above=above, other=other) + "; " if said else ""
    assert str(error.value) == f"data.dir={str(place)!r}: {expected}{WANTED}"


def test_what_may_be_meant_otherwise_is_said_in_one_line_each(root, caplog):
    """Files of other kinds, a class that is not tested, a class that is the only one."""
    for name in ("a.HEIC", "b.heic", "notes.txt", "README", ".DS_Store"):
        (root / "train" / "class2" / name).write_text("x")
    (root / "test" / "class2" / "c.heic").write_text("x")
    shutil.rmtree(root / "test" / "class10")
    sources.load(config(root))
    where = f"data.dir={str(root)!r}"
    assert [record.getMessage() for record in caplog.records] == [
        f"{where}: files that are no images by their names are left out: "
        "3 .heic, 1 without suffix, 1 .txt",
        f"{where}: test has no images of the class class10",
    ]
    caplog.clear()
    shutil.rmtree(root / "train" / "class10")
    for path in root.rglob("*.*"):
        if path.suffix != ".jpg":
            path.unlink()
    (root / "train" / "class2" / "README").unlink()
    sources.load(config(root))
    (line,) = [record.getMessage() for record in caplog.records]
    assert line == f"{where}: class2 is the only class; there is nothing to tell apart"


def test_a_class_of_other_files_alone_is_named_with_their_kinds(root):
    for path in (root / "train" / "class2").iterdir():
        path.rename(path.with_suffix(".HEIC"))
    with pytest.raises(InputError, match=r"class2 has no image files .* left out: 3 \.heic$"):
        sources.load(config(root))


@pytest.mark.parametrize("target", [".", "..", "../.."])
@pytest.mark.parametrize("split", ["train", "test"])
def test_a_class_that_is_a_link_to_a_folder_above_is_refused(root, split, target):
    (root / "train" / "up").mkdir()
    jpeg(root / "train" / "up" / "0.jpg")
    shutil.rmtree(root / split / "up", ignore_errors=True)
    (root / split / "up").symlink_to(target)
    with pytest.raises(InputError, match=rf"/{split}/up is a link to a folder above it; must hold"):
        sources.load(config(root))
    (root / split / "up").unlink()
    (root / split / "up").symlink_to("class2")
    assert len(sources.load(config(root)).classes) == 3


def test_images_in_a_folder_are_found_at_any_depth_in_natural_order(root, caplog):
    (root / "train" / "class2" / "10.jpg").write_bytes(b"")
    (root / "train" / "class2" / "notes.txt").write_text("x")
    found = image_folder.images_in(root / "train")
    assert [str(path.relative_to(root / "train")) for path in found] == [
        *(f"class2/{i}.jpg" for i in (0, 1, 2, 10)),
        *(f"class10/{i}.jpg" for i in range(3)),
    ]
    assert "are left out: 1 .txt" in caplog.text
    (root / "none").mkdir()
    with pytest.raises(InputError, match=r"none: has no image files$"):
        image_folder.images_in(root / "none")


def test_a_test_set_of_which_nothing_can_be_read_is_named(root):
    for path in (root / "test").rglob("*.*"):
        truncated(path)
    with pytest.raises(InputError, match=r"no test image of folder .* can be read"):
        sources.load(config(root))


def test_streamed_examples_are_those_in_memory(root):
    truncated(root / "train" / "class2" / "bad.jpg")
    held = sources.load(config(root)).train
    streamed = sources.load(config(root, streaming=True)).train
    assert len(streamed) == 7
    found = streamed.read(np.arange(7))
    assert found["ok"].sum() == 6
    np.testing.assert_array_equal(found["image"][found["ok"]], held.images)
    np.testing.assert_array_equal(found["label"][found["ok"]], held.labels)


ODD = ("not_utf8_\udcff.png", "two\nlines.png", "[a].png", "$HOME.png", "a\x1b[31m.png", " .png")


def test_file_names_of_any_bytes_are_read(root, tmp_path):
    for name in ODD:
        picture().save(root / "train" / "class2" / "new.png")
        (root / "train" / "class2" / "new.png").rename(root / "train" / "class2" / name)
    (root / "train" / "class2" / ".DS_Store").write_text("x")
    (root / "train" / ".DS_Store").write_text("x")
    assert loaded_blue(root) == 6 + len(ODD)
    data = config(root, streaming=True)
    json.dumps(describe(data, sources.load(data))).encode()


@pytest.mark.parametrize("name", ["class\udcff", "two\nlines", "a\x1b[31m", "a\u2028b"])
def test_a_class_whose_name_cannot_be_shown_is_refused(root, name):
    for split in ("train", "test"):
        (root / split / "class2").rename(root / split / name)
    with pytest.raises(InputError, match="must have a name of 1 to 255") as error:
        sources.load(config(root))
    assert printable(name) in str(error.value)
    assert str(error.value).isprintable()


@pytest.mark.parametrize("name", ["[red]", "$HOME", "Käse 猫", "<script>", "-x", "{a}", "%s"])
def test_a_class_of_any_other_name_is_read(root, name):
    for split in ("train", "test"):
        (root / split / "class2").rename(root / split / name)
    assert name in sources.load(config(root)).classes


def test_one_class_and_thousands_are_read(root):
    for split in ("train", "test"):
        shutil.rmtree(root / split / "class10")
    assert sources.load(config(root)).classes == ("class2",)
    for i in range(2000):
        (root / "train" / f"{i}").mkdir()
        (root / "train" / f"{i}" / "a.jpg").symlink_to(root / "train" / "class2" / "0.jpg")
    assert len(sources.load(config(root, streaming=True)).classes) == 2001


def test_a_file_that_vanishes_after_it_was_listed_is_left_out(root):
    found = sources.load(config(root, streaming=True))
    before = found.test.files_sha256()
    (root / "train" / "class2" / "0.jpg").unlink()
    (root / "test" / "class2" / "0.jpg").unlink()
    assert found.train.read(np.arange(6))["ok"].sum() == 5
    assert "no such image file" in found.train.fault(0)
    assert found.test.files_sha256() != before


def test_a_digest_of_test_files_counts_those_that_were_read(root):
    """Whatever the form of the images: so that runs on other forms can be compared."""
    truncated(root / "test" / "class2" / "bad.jpg")
    held, other = (sources.load(config(root, image_size=size)).test for size in (8, 5))
    (root / "test" / "class2" / "bad.jpg").write_bytes(b"cut even shorter")
    assert held.files == other.files == sources.load(config(root)).test.files
    (root / "test" / "class2" / "1.jpg").write_bytes(b"")
    assert sources.load(config(root)).test.files != held.files


@pytest.mark.parametrize(("backend", "copies"), [("cpu", 2), ("gpu", 1)])
def test_images_are_not_held_that_do_not_fit_into_memory(root, monkeypatch, backend, copies):
    """The copy on a device counts where the device has no memory of its own."""
    monkeypatch.setattr(jax, "default_backend", lambda: backend)
    monkeypatch.setattr(memory, "available", lambda: 10 * (8192**2 * 3 + 4) * copies - 1)
    with pytest.raises(InputError) as refused:
        sources.load(config(root, image_size=8192, streaming=False))
    size = f"{copies * 2}.0 GB"
    assert str(refused.value) == (
        f"data.streaming=False: to hold 10 images of 8192x8192x3: needs {size} of memory, of which "
        f"{size} is available; data.streaming=True holds a few batches"
    )
    monkeypatch.setattr(memory, "available", lambda: 10 * (8**2 * 3 + 4) * copies)
    assert not sources.load(config(root, image_size=8, streaming=False)).streamed
    monkeypatch.setattr(memory, "available", lambda: 2 * 8192**2 * 3 - 1)
    with pytest.raises(InputError, match=r"^data\.batch_size=2: 2 images .* needs 0\.4 GB"):
        sources.load(config(root, image_size=8192, streaming=True))
