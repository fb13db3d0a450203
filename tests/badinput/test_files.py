"""Files from elsewhere: images, folders of photos, TFDS datasets, weights, experiments."""

import io
import json
import os
import shutil
import struct
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from tests.badinput import world
from tests.badinput.conftest import table
from tests.badinput.harness import Case
from tests.badinput.values import RUIN, VALUES, flipped, paths, replaced


def encoded(form: str, mode: str = "RGB", size: tuple[int, int] = (8, 8), **options: Any) -> bytes:
    """Returns an image file's bytes."""
    file = io.BytesIO()
    Image.new(mode, size, 1).save(file, form, **options)
    return file.getvalue()


def png(width: int, height: int, content: bytes = b"", depth: int = 8, colour: int = 0) -> bytes:
    """Returns a PNG file by hand, whose header may say anything."""

    def chunk(name: bytes, content: bytes) -> bytes:
        crc = struct.pack(">I", zlib.crc32(name + content))
        return struct.pack(">I", len(content)) + name + content + crc

    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    data = zlib.compress(content)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")
    )


def images() -> dict[str, bytes]:
    """Returns files in the place of images, by what is wrong with them."""
    whole = encoded("PNG")
    jpeg = encoded("JPEG")
    exif = Image.Exif()
    exif[0x0112] = 99
    found = {
        "of 16 bits": encoded("PNG", "I;16"),
        "of 32 bits": encoded("TIFF", "I"),
        "of floats": encoded("TIFF", "F"),
        "of 1 bit": encoded("PNG", "1"),
        "of CMYK": encoded("JPEG", "CMYK"),
        "of LAB": encoded("TIFF", "LAB"),
        "with a palette": encoded("GIF", "P"),
        "with a transparent palette": encoded("PNG", "P", transparency=b"\0\1"),
        "of grey and alpha": encoded("PNG", "LA"),
        "of one pixel": encoded("PNG", size=(1, 1)),
        "of one row": encoded("PNG", size=(3000, 1)),
        "of one column": encoded("PNG", size=(1, 60000)),
        "in BMP": encoded("BMP"),
        "in ICO": encoded("ICO", size=(16, 16)),
        "in EPS": encoded("EPS"),
        "in PDF": encoded("PDF"),
        "in TGA": encoded("TGA"),
        "with odd EXIF": encoded("JPEG", exif=exif),
        "with broken EXIF": encoded("JPEG", exif=b"Exif\0\0MM\0*\xff\xff\xff\xff"),
        "in text": b"P3 2 2 255 0 0 0 1 1 1",
        "in text, huge": b"P6 999999999 999999999 255 ",
        "in text, negative": b"P6 -1 -1 255 ",
        "in text, of letters": b"P5 a b c ",
        "in SVG": b"<svg xmlns='http://www.w3.org/2000/svg'/>",
        "in HTML": b"<html>",
        "huge by its header": png(100_000, 100_000),
        "over the limit by its header": png(8193, 8193),
        "wide by its header": png(2**31 - 1, 1),
        "of no size": png(0, 0),
        "of depth 3": png(8, 8, b"\0" * 72, depth=3),
        "of colour 9": png(8, 8, b"\0" * 72, colour=9),
        "with a bomb": png(8, 8, b"\0" * 10_000_000),
        "with no data": png(8, 8),
        "with a huge text": whole[:-12] + b"\0\0\0\0zTXt\0\0\0\0" + whole[-12:],
    }
    for n in range(0, len(whole), 9):
        found[f"in PNG, {n} bytes of it"] = whole[:n]
    for n in range(0, len(jpeg), 60):
        found[f"in JPEG, {n} bytes of it"] = jpeg[:n]
    for form in ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM"):
        data = encoded(form, "P" if form == "GIF" else "RGB")
        for seed in range(8):
            content = bytearray(data)
            for at in range(4):
                content[(zlib.crc32(b"%d%d" % (seed, at))) % len(content)] ^= 1 << at
            found[f"in {form}, damaged {seed}"] = bytes(content)
    return found


HERE = ("--data-dir", "photos")
"""A run holds the absolute path of its data, which a case has a copy of."""
ON_AN_IMAGE = {
    "predict": (("predict", "run", "image.png"), "image.png"),
    "predict a photo": (("predict", "photo_run", "image.png"), "image.png"),
    "viz": (("viz", "run", "--image", "image.png"), "image.png"),
    "train": (("train", "photos.py", "--workdir", "new"), "photos/train/a/1.png"),
    "test": (("train", "photos.py", "--workdir", "new"), "photos/test/b/0.png"),
    "eval": (("eval", "photo_run", *HERE), "photos/test/b/0.png"),
    "eval on other data": (("eval", "photo_run", "--data", "./photos"), "photos/test/b/0.png"),
    "report": (("report", "photo_run", *HERE, "--out", "page.html"), "photos/test/a/0.png"),
    "predict a folder": (("predict", "run", "photos", "--csv"), "photos/test/a/0.png"),
    "predict a pattern": (("predict", "run", "photos/*/*/0*", "--json"), "photos/test/a/0.png"),
}


def image_cases() -> Iterator[Case]:
    files = images()
    for command, (argv, place) in ON_AN_IMAGE.items():
        for what, content in files.items():

            def write(folder: Path, place: str = place, content: bytes = content) -> None:
                (folder / place).write_bytes(content)

            yield Case(f"{command} an image {what}", argv, write, ("page.html",), needs=("photos",))
        for way, ruin in RUIN.items():

            def spoil(folder: Path, place: str = place, ruin: Any = ruin) -> None:
                ruin(folder / place)

            yield Case(f"{command} an image {way}", argv, spoil, ("page.html",), needs=("photos",))


def _named(name: bytes | str) -> Callable[[Path], object]:
    def spoil(photos: Path) -> None:
        for split in ("train", "test"):
            shutil.copytree(photos / split / "a", photos / split / os.fsdecode(name))

    return spoil


def _image_named(name: bytes | str) -> Callable[[Path], object]:
    named = os.fsdecode(name)[:250] + ".png"
    return lambda photos: shutil.copy(photos / "train/a/0.png", photos / "train/a" / named)


def _link(place: str, target: str) -> Callable[[Path], object]:
    def spoil(photos: Path) -> None:
        path = photos / place
        if path.is_dir():
            shutil.rmtree(path)
        path.unlink(missing_ok=True)
        path.symlink_to(target)

    return spoil


def _without(place: str) -> Callable[[Path], object]:
    return lambda photos: shutil.rmtree(photos / place)


def _all(ruin: Callable[[Path], object]) -> Callable[[Path], object]:
    return lambda photos: [ruin(path) for path in sorted(photos.rglob("*.png"))]


NAMES = ("[red]", "$x_1$", "a\nb", "\x1b[31m", b"\xff\xfe", "x" * 255, "²", " ", "..a", "<b>", "%s")
PHOTOS: dict[str, Callable[[Path], object]] = {
    **{f"a class named {name!r}"[:60]: _named(name) for name in NAMES},
    **{f"an image named {name!r}"[:60]: _image_named(name) for name in NAMES},
    "one class": lambda photos: [shutil.rmtree(photos / s / "b") for s in ("train", "test")],
    "an empty class": lambda photos: (photos / "train" / "c").mkdir(),
    "an empty class to test": lambda photos: _without("test/b")(photos),
    "a class to test alone": _without("train/b"),
    "no classes": lambda photos: [_without(f"train/{c}")(photos) for c in "ab"],
    "no training": _without("train"),
    "no test": _without("test"),
    "a file for a class": lambda photos: (photos / "train" / "c").touch(),
    "a FIFO for a class": lambda photos: os.mkfifo(photos / "train" / "c"),
    "a FIFO for a split": lambda photos: (_without("test")(photos), os.mkfifo(photos / "test")),
    "a class that links to itself": _link("train/b", "b"),
    "a class that links upward": _link("train/b", ".."),
    "a split that links to itself": _link("test", "test"),
    "a split that links to the other": _link("test", "train"),
    "a split that links to nothing": _link("test", "nothing"),
    "an image that links to a device": _link("train/a/0.png", "/dev/zero"),
    "an image that links to a folder": _link("train/a/0.png", ".."),
    **{f"all images {way}": _all(ruin) for way, ruin in RUIN.items()},
}
OWN_SIZE = ("--data.fit", "pad", "--data.image-size", "None")
ON_PHOTOS = {
    "train": ("train", "photos.py", "--workdir", "new"),
    "stream": ("train", "photos.py", "--workdir", "new", "--data.streaming", "True"),
    "workers": (
        *("train", "photos.py", "--workdir", "new", "--data.streaming", "True"),
        *("--data.workers", "1"),
    ),
    "no bad ones": ("train", "photos.py", "--workdir", "new", "--data.max-bad-images", "0"),
    "eval": ("eval", "photo_run", *HERE),
    "report": ("report", "photo_run", *HERE, "--out", "page.html"),
    "viz": ("viz", "photo_run", *HERE),
    "left open": ("train", "photos.py", "--workdir", "new", "--data.fit", "pad"),
    "of any size": ("train", "photos.py", "--workdir", "new", *OWN_SIZE),
    "predict": ("predict", "run", "photos", "--top-k", "2", "--json"),
}


def photo_cases() -> Iterator[Case]:
    for command, argv in ON_PHOTOS.items():
        for what, ruin in PHOTOS.items():

            def spoil(folder: Path, ruin: Any = ruin) -> None:
                ruin(folder / "photos")

            name = f"{command} photos with {what}"
            yield Case(name, argv, spoil, ("page.html",), needs=("photos",))


ON_RECORDS = {
    "train": ("train", "records.py", "--workdir", "new"),
    "eval": ("eval", "record_run", "--data-dir", "tfds"),
    "report": ("report", "record_run", "--data-dir", "tfds", "--out", "page.html"),
    "viz": ("viz", "record_run", "--data-dir", "tfds"),
}
TFDS = "tfds/mnist/3.0.1"
SHARDS = tuple(f"mnist-{split}.array_record-00000-of-00001" for split in ("train", "test"))
MORE_VALUES = {
    **VALUES,
    "a canary": "canary.Evil",
    "a canary's module": "canary",
    "a module": "os.system",
    "another feature": "tensorflow_datasets.core.features.text_feature.Text",
    "no such feature": "tensorflow_datasets.core.features.nothing.Nothing",
    "left out": ...,
}


def canary(folder: Path) -> None:
    """Puts a module on the path that says that it was imported."""
    (folder / ".." / "modules" / "canary.py").write_text(
        "import os, pathlib\npathlib.Path(os.environ['BADINPUT_CANARY']).touch()\n"
        "class Evil:\n    from_json_content = from_config = classmethod(lambda cls, *a: cls())\n"
    )


def record_cases() -> Iterator[Case]:
    info = {
        "fileFormat": "array_record",
        "moduleName": "m",
        "name": "mnist",
        "splits": [
            {"filepathTemplate": "t", "name": "train", "numBytes": "1", "shardLengths": ["16"]}
        ],
        "version": "3.0.1",
    }
    documents = {"features.json": world.FEATURES, "dataset_info.json": info}
    for command, argv in ON_RECORDS.items():
        for name, outline in documents.items():
            for path in paths(outline):
                for wrong, value in MORE_VALUES.items():

                    def change(
                        folder: Path, name: str = name, path: Any = path, value: Any = value
                    ) -> None:
                        canary(folder)
                        file = folder / TFDS / name
                        file.write_text(replaced(json.loads(file.read_text()), path, value))

                    where = ".".join(map(str, path))
                    yield Case(
                        f"{command} records with {name} {where} {wrong}",
                        *(argv, change, ("page.html",)),
                        needs=("tfds",),
                    )
        for file in (*documents, *SHARDS, "label.labels.txt"):
            for way, ruin in RUIN.items():

                def spoil(folder: Path, file: str = file, ruin: Any = ruin) -> None:
                    ruin(folder / TFDS / file)

                yield Case(
                    f"{command} records with {file} {way}",
                    *(argv, spoil, ("page.html",)),
                    needs=("tfds",),
                )
        for file in SHARDS:
            for seed in range(20):

                def flip(folder: Path, file: str = file, seed: int = seed) -> None:
                    flipped(folder / TFDS / file, seed)

                yield Case(
                    f"{command} records with bit {seed} of {file} flipped",
                    *(argv, flip, ("page.html",)),
                    needs=("tfds",),
                )


IMPORT = (*world.IMPORT, "--out", "new")


def _weights(content: Callable[[], bytes]) -> Callable[[Path], object]:
    return lambda folder: (folder / "weights.safetensors").write_bytes(content())


def _of(header: object, data: bytes = b"\0" * 8) -> Callable[[Path], object]:
    return _weights(lambda: world.safetensors(header, data))


def _one(**changes: Any) -> object:
    return {"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8], **changes}}


class Pickled:
    """Runs foreign code where it is unpickled."""

    def __reduce__(self) -> Any:
        return os.system, ("touch $BADINPUT_CANARY",)


def _pickle() -> bytes:
    import pickle

    return pickle.dumps(Pickled())


def _numbers(value: float) -> Callable[[], bytes]:
    def content() -> bytes:
        header, data = world.lenet5()
        filled = np.full(len(data) // 4, value, np.float32)
        return world.safetensors(header, filled.tobytes())

    return content


FILES: dict[str, Callable[[Path], object]] = {
    **{f"weights {way}": (lambda f, r=r: r(f / "weights.safetensors")) for way, r in RUIN.items()},
    **{f"weights all {value}": _weights(_numbers(value)) for value in (np.nan, np.inf, 1e38, 0)},
    "a header of no length": _weights(lambda: b"\0" * 8 + b"{}"),
    "a header of 2**64 - 1 bytes": _weights(lambda: b"\xff" * 8 + b"{}"),
    "a header of 2**63 bytes": _weights(lambda: b"\0" * 7 + b"\x80{}"),
    "a header of 100 MB": _weights(lambda: struct.pack("<Q", 10**8) + b"{}"),
    "a header longer than the file": _weights(lambda: struct.pack("<Q", 500) + b"{}"),
    "a header of spaces": _of(b" " * 1000),
    "an empty header": _of(b"{}"),
    "a header with a name twice": _of(
        b'{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},'
        b'"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}'
    ),
    "a deep header": _of(b'{"a":' * 50_000 + b"1" + b"}" * 50_000),
    "deep metadata": _of(b'{"__metadata__":' + b"[" * 50_000 + b"]" * 50_000 + b"}"),
    "a header that is a list": _of(b"[]"),
    "a header that is not UTF-8": _of(b'{"\xff":1}'),
    "a surrogate for a name": _of(b'{"\\ud800":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}'),
    "a name with a line break": _of({"a\nb": _one()["a"]}),
    "a name of 100,000 letters": _of({"x" * 100_000: _one()["a"]}),
    "100,000 names": _of(dict.fromkeys(map(str, range(100_000)), 1)),
    "bytes left over": _of(_one(), b"\0" * 100),
    "bytes missing": _of(_one(), b"\0" * 4),
    "half an array": _of(_one(), b"\0" * 7),
    "another network": _of(_one()),
    "a zip archive": _weights(lambda: b"PK\x03\x04" + b"\0" * 100),
    "a pickle": _weights(_pickle),
    "a pickle after a length": _weights(lambda: b"\x10" + b"\0" * 7 + b"{" + _pickle()),
    **{f"dtype {d}": _of(_one(dtype=d)) for d in ("F64", "BF16", "F8_E4M3", "BOOL", "C64", "I4")},
}


def weight_cases() -> Iterator[Case]:
    for what, spoil in FILES.items():
        yield Case(f"import {what}", IMPORT, spoil)
    outline = _one()
    for path in paths(outline):
        for wrong, value in VALUES.items():
            text = replaced(outline, path, value).encode("utf-8", "surrogatepass")
            yield Case(f"import with {'.'.join(map(str, path))} {wrong}", IMPORT, _of(text))
    header, data = world.lenet5()
    for path in paths(header):
        for wrong, value in {**VALUES, "left out": ...}.items():
            text = replaced(header, path, value).encode("utf-8", "surrogatepass")
            name = f"import a network with {'.'.join(map(str, path))} {wrong}"
            yield Case(name, IMPORT, _of(text, data))
    for seed in range(60):

        def flip(folder: Path, seed: int = seed) -> None:
            path = folder / "weights.safetensors"
            content = bytearray(path.read_bytes())
            content[zlib.crc32(b"%d" % seed) % 1200] ^= 1 << seed % 8
            path.write_bytes(content)

        yield Case(f"import with bit {seed} of the header flipped", IMPORT, flip)
    for suffix in ("pth", "pt", "bin", "pkl", "npz", "h5", "SAFETENSORS", ""):

        def rename(folder: Path, suffix: str = suffix) -> None:
            (folder / f"x.{suffix}").write_bytes(_pickle())

        yield Case(
            f"import a pickle named .{suffix}", ("import", f"x.{suffix}", *IMPORT[2:]), rename
        )
    classes = {"few": b"a\nb\n", "not UTF-8": b"\xff\n" * 10, "of markup": b"[/a]$x_1$\n" * 10}
    classes |= {"empty": b"", "with line breaks": b"\x85\x0b" * 10, "of NULs": b"\0\n" * 10}
    for what, content in classes.items():

        def name_classes(folder: Path, content: bytes = content) -> None:
            (folder / "classes.txt").write_bytes(content)

        yield Case(
            f"import with classes {what}", (*IMPORT, "--classes", "classes.txt"), name_classes
        )
    for way, ruin in RUIN.items():

        def ruin_classes(folder: Path, ruin: Any = ruin) -> None:
            (folder / "classes.txt").write_text("a\n" * 10)
            ruin(folder / "classes.txt")

        yield Case(
            f"import with classes {way}", (*IMPORT, "--classes", "classes.txt"), ruin_classes
        )


@table(image_cases(), fast=6)
def test_images(clean, case):
    clean("images", case)


@table(photo_cases(), fast=3)
def test_folders_of_photos(clean, case):
    clean("photos", case)


@table(record_cases(), fast=4)
def test_records(clean, case):
    clean("TFDS", case)


@table(weight_cases(), fast=12)
def test_weights(clean, case):
    clean("weights", case)
