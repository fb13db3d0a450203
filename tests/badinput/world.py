"""The valid files that every case works on a copy of, each as small as it may be."""

import json
import os
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from tests.badinput import harness

EXPERIMENT = """\
from jaxcnn.config import (
    Augment, Comparison, Data, Experiment, Model, Optim, Schedule, Task, Train,
)


def config() -> Experiment:
    return Experiment(
        name="tiny",
        data={data},
        model=Model("mlp", {{"hidden": (4,)}}),
        optim=Optim("sgd", peak_lr=0.05),
        schedule=Schedule("constant", warmup_epochs=0),
        train=Train(epochs={epochs}, checkpoint_every=1),
    )
"""
DIGITS = 'Data("digits", batch_size=32, eval_batch_size=360, train_limit=64)'
PHOTOS = 'Data("folder", dir="photos", batch_size=2, image_size=8, fit="resize", workers=0)'
RECORDS = 'Data("mnist", dir="tfds", batch_size=8)'
COMPARISON = (
    EXPERIMENT.replace("config() -> Experiment", "arm(name)").replace('"tiny"', "name")
    + '\n\ndef config() -> Comparison:\n    return Comparison((arm("a"), arm("b")), seeds=2)\n'
)


def write(world: Path) -> None:
    """Writes the files from which the rest is made."""
    for name, data in (("experiment", DIGITS), ("photos", PHOTOS), ("records", RECORDS)):
        (world / f"{name}.py").write_text(EXPERIMENT.format(data=data, epochs=1))
    (world / "numbers.py").write_text(
        EXPERIMENT.format(data=DIGITS, epochs=1).replace(
            "train=", 'task=Task("regression"), train='
        )
    )
    (world / "two.py").write_text(EXPERIMENT.format(data=DIGITS, epochs=2))
    (world / "comparison.py").write_text(COMPARISON.format(data=DIGITS, epochs=1))
    pixels = np.random.Generator(np.random.PCG64(0)).integers(0, 256, (8, 8, 3), np.uint8)
    Image.fromarray(pixels).save(world / "image.png")
    for place in ("train/a", "train/b", "test/a", "test/b"):
        (world / "photos" / place).mkdir(parents=True)
        for i in range(3):
            Image.fromarray(np.roll(pixels, i)).save(world / "photos" / place / f"{i}.png")
    write_records(world / "tfds" / "mnist" / "3.0.1")
    weights = lenet5()
    (world / "weights.safetensors").write_bytes(safetensors(*weights))


IMPORT = (
    *("import", "weights.safetensors", "--model", "lenet5", "--num-classes", "10"),
    *("--dataset", "digits", "--mean", "0.31", "--std", "0.35"),
)
MADE: Sequence[Sequence[str]] = (
    ("compare", "comparison.py", "--workdir", "comparison"),
    ("train", "two.py", "--workdir", "run"),
    ("train", "experiment.py", "--workdir", "seeds", "--seeds", "2"),
    ("train", "numbers.py", "--workdir", "numbers"),
    ("train", "photos.py", "--workdir", "photo_run"),
    ("train", "records.py", "--workdir", "record_run"),
    (*IMPORT, "--out", "imported"),
)
"""What makes the rest of the world, each a folder of its own; the longest come first."""


def call(server: harness.Server, folder: Path, argv: Sequence[str]) -> None:
    """Runs a command that must succeed."""
    out = folder.parent / f"said-{os.getpid()}.txt"
    out.touch()
    streams = {1: str(out), 2: str(out)}
    server.start(
        {
            "argv": argv,
            "cwd": str(folder),
            "env": dict(os.environ),
            "modules": "",
            "streams": streams,
            "limits": harness.LIMITS,
        }
    )
    code = server.wait(300)
    assert code == 0, f"{argv}: {out.read_text()}"


def lenet5() -> tuple[dict[str, object], bytes]:
    """Returns header and numbers of a LeNet-5 in torchvision's layout."""
    shapes: Mapping[str, tuple[int, ...]] = {
        "conv1": (6, 1, 5, 5),
        "conv2": (16, 6, 5, 5),
        "fc1": (120, 400),
        "fc2": (84, 120),
        "fc3": (10, 84),
    }
    rng = np.random.Generator(np.random.PCG64(0))
    header: dict[str, object] = {}
    data = b""
    for layer, shape in shapes.items():
        for name, size in ((f"{layer}.weight", shape), (f"{layer}.bias", shape[:1])):
            array = rng.normal(scale=0.1, size=size).astype(np.float32)
            place = [len(data), len(data) + array.nbytes]
            header[name] = {"dtype": "F32", "shape": list(size), "data_offsets": place}
            data += array.tobytes()
    return header, data


def safetensors(header: object, data: bytes) -> bytes:
    """Returns the bytes of a safetensors file; a header that is text or bytes is taken as it is."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def write_records(folder: Path) -> None:
    """Writes a TFDS dataset as array_record: the form of MNIST, with noise for images."""
    from array_record.python.array_record_module import ArrayRecordWriter

    folder.mkdir(parents=True)
    rng = np.random.Generator(np.random.PCG64(0))
    splits = []
    for split, number in (("train", 16), ("test", 8)):
        file = folder / f"mnist-{split}.array_record-00000-of-00001"
        writer, total = ArrayRecordWriter(str(file), "group_size:1"), 0
        for label in range(number):
            record = example(rng.integers(0, 256, (28, 28), np.uint8), label % 10)
            writer.write(record)
            total += len(record)
        writer.close()
        splits.append(
            {
                "filepathTemplate": "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}",
                "name": split,
                "numBytes": str(total),
                "shardLengths": [str(number)],
            }
        )
    info = {
        "fileFormat": "array_record",
        "moduleName": "tensorflow_datasets.image_classification.mnist",
        "name": "mnist",
        "splits": splits,
        "version": "3.0.1",
    }
    (folder / "dataset_info.json").write_text(json.dumps(info, indent=2))
    (folder / "features.json").write_text(json.dumps(FEATURES, indent=2))
    (folder / "label.labels.txt").write_text("".join(f"{i}\n" for i in range(10)))


CLASS = "tensorflow_datasets.core.features"
FEATURES = {
    "pythonClassName": f"{CLASS}.features_dict.FeaturesDict",
    "featuresDict": {
        "features": {
            "image": {
                "pythonClassName": f"{CLASS}.image_feature.Image",
                "image": {"dtype": "uint8", "shape": {"dimensions": ["28", "28", "1"]}},
            },
            "label": {
                "pythonClassName": f"{CLASS}.class_label_feature.ClassLabel",
                "classLabel": {"numClasses": "10"},
            },
        }
    },
}


def example(image: np.ndarray, label: int) -> bytes:
    """Returns a tf.train.Example of a PNG image and its label, in protocol buffers by hand."""
    import io

    file = io.BytesIO()
    Image.fromarray(image).save(file, "PNG")

    def field(number: int, content: bytes) -> bytes:
        size, length = len(content), b""
        while size > 127:
            length, size = length + bytes([size & 127 | 128]), size >> 7
        return bytes([number << 3 | 2]) + length + bytes([size]) + content

    features = {
        b"image": field(1, field(1, file.getvalue())),  # a list of bytes
        b"label": field(3, field(1, bytes([label]))),  # a packed list of integers
    }
    entries = (field(1, name) + field(2, feature) for name, feature in features.items())
    return field(1, b"".join(field(1, entry) for entry in entries))
