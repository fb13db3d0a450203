"""Reads what lies beside a prepared TFDS dataset as data: nothing in it is imported or run."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import msgspec

from jaxcnn.data.contents import read_bytes
from jaxcnn.errors import InputError

MAX_BYTES = 2**26
"""The largest file of metadata that is read."""
MAX_CLASSES = 2**20
"""The most classes of a set whose classes have no names."""
FEATURES = "tensorflow_datasets.core.features."
"""Where TFDS keeps its features: a set with an image of another class is not read as one of its."""
FORMAT = "array_record"

_Natural = Annotated[int, msgspec.Meta(ge=0)]
_Name = Annotated[str, msgspec.Meta(pattern=r"^[\w.+-]+\Z")]


class _Shape(msgspec.Struct):
    dimensions: list[Annotated[int, msgspec.Meta(ge=-1)]] = []


class _Image(msgspec.Struct, rename="camel"):
    shape: _Shape = msgspec.field(default_factory=_Shape)
    dtype: str = ""


class _ClassLabel(msgspec.Struct, rename="camel"):
    num_classes: _Natural = 0


class _Feature(msgspec.Struct, rename="camel"):
    python_class_name: str
    image: _Image | None = None
    class_label: _ClassLabel | None = None


class _Dict(msgspec.Struct):
    features: dict[str, _Feature]


class _Features(msgspec.Struct, rename="camel"):
    python_class_name: str
    features_dict: _Dict | None = None


class _Split(msgspec.Struct, rename="camel"):
    name: _Name
    shard_lengths: list[_Natural] = []
    num_bytes: _Natural = 0
    filepath_template: str = "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}"


class _Info(msgspec.Struct, rename="camel"):
    name: _Name
    version: _Name
    file_format: str = ""
    config_name: str = ""
    splits: list[_Split] = []


@dataclass(frozen=True)
class Shards:
    """The files of a split.

    Attributes:
        paths: the files that hold examples, in their order.
        lengths: how many examples each file of the split holds; 0 where it is not among ``paths``.
        size: bytes of all examples.
    """

    paths: tuple[str, ...]
    lengths: tuple[int, ...]
    size: int

    def about(self) -> dict[str, Any]:
        """Returns what tells these files from others by their sizes."""
        return {"shards": list(self.lengths), "bytes": self.size}


@dataclass(frozen=True)
class Prepared:
    """A prepared dataset for image classification.

    Attributes:
        full_name: name, config if there is one, and version, with slashes between them.
        image_shape: height, width and channels of the images; None for a size that differs.
        classes: the names of the classes, in the order of the labels.
        splits: the splits by name.
    """

    full_name: str
    image_shape: tuple[int | None, int | None, int]
    classes: tuple[str, ...]
    splits: Mapping[str, Shards]


def versions(folder: Path) -> list[Path]:
    """Returns the versions of a dataset that are prepared in its folder, the newest last."""
    found = [info.parent for info in folder.glob("*/dataset_info.json")]
    return sorted(found, key=lambda path: [int(n) for n in re.findall("[0-9]+", path.name)])


def read(folder: Path) -> Prepared:
    """Reads what lies in the folder of one version of a dataset.

    Raises:
        InputError: it is not image classification, not in array_record files, or a file of
            metadata is missing or damaged; the line names the file or what is missing.
    """
    features = _decoded(folder / "features.json", _Features)
    is_dict = features.python_class_name == FEATURES + "features_dict.FeaturesDict"
    found = features.features_dict.features if features.features_dict and is_dict else {}
    image, label = found.get("image"), found.get("label")
    for name, kind, value, content in (
        ("image", "image_feature.Image", image, image and image.image),
        ("label", "class_label_feature.ClassLabel", label, label and label.class_label),
    ):
        if value is None or content is None or value.python_class_name != FEATURES + kind:
            kind = kind.partition(".")[2]
            raise InputError(f"is not image classification: has no {kind} named {name!r}")
    assert image
    assert image.image
    assert label
    assert label.class_label
    info = _decoded(folder / "dataset_info.json", _Info)
    if info.file_format != FORMAT:
        raise InputError(
            f"{folder / 'dataset_info.json'}: fileFormat is {info.file_format!r}: was not prepared "
            f"as {FORMAT}"
        )
    return Prepared(
        "/".join(filter(None, [info.name, info.config_name, info.version])),
        _shape(folder / "features.json", image.image),
        _classes(folder, label.class_label.num_classes),
        {split.name: _shards(folder, info.name, split) for split in info.splits},
    )


def _decoded(path: Path, kind: type[Any]) -> Any:
    """Reads JSON into a record; numbers may stand in quotes, as protocol buffers write them."""
    try:
        return msgspec.json.decode(read_bytes(path, MAX_BYTES), type=kind, strict=False)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error})") from error
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise InputError(f"{path}: damaged ({str(error) or type(error).__name__})") from error


def _shape(path: Path, image: _Image) -> tuple[int | None, int | None, int]:
    """Returns the shape of the images, which is that of TFDS's Image where the file names none."""
    sizes = image.shape.dimensions or [-1, -1, 3]
    if len(sizes) != 3 or 0 in sizes or sizes[2] not in (1, 3, 4):
        raise InputError(f"{path}: shape of the image is {sizes}: must be [height, width, 1 or 3]")
    if image.dtype not in ("", "uint8"):
        raise InputError(f"{path}: dtype of the image is {image.dtype!r}: must be 'uint8'")
    height, width = (None if size == -1 else size for size in sizes[:2])
    return height, width, sizes[2]


def _classes(folder: Path, number: int) -> tuple[str, ...]:
    """Returns the names of the classes: lines of a file, or their numbers where there is none."""
    path = folder / "label.labels.txt"
    try:
        text = read_bytes(path, MAX_BYTES).decode()
    except FileNotFoundError:
        if not 1 <= number <= MAX_CLASSES:
            raise InputError(
                f"{folder / 'features.json'}: numClasses is {number}: must be 1 to {MAX_CLASSES:,}"
            ) from None
        return tuple(map(str, range(number)))
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read as names of classes ({error})") from error
    names = tuple(filter(None, map(str.strip, text.split("\n"))))
    if len(set(names)) != len(names) or len(names) != (number or len(names)) or not names:
        raise InputError(
            f"{path}: has {len(names):,} names, {len(set(names)):,} of them different; "
            f"must be one for each of the {number:,} classes of features.json"
        )
    return names


def _shards(folder: Path, dataset: str, split: _Split) -> Shards:
    """Returns the files of a split, each of which must lie in the folder."""
    number = len(split.shard_lengths)
    digits = max(5, len(str(number)))
    paths = []
    for i, length in enumerate(split.shard_lengths):
        at, of = f"{i:0{digits}}", f"{number:0{digits}}"
        name = split.filepath_template
        for variable, value in {
            "DATASET": dataset,
            "SPLIT": split.name,
            "FILEFORMAT": FORMAT,
            "SHARD_X_OF_Y": f"{at}-of-{of}",
            "SHARD_INDEX": at,
            "NUM_SHARDS": of,
        }.items():
            name = name.replace(f"{{{variable}}}", value)
        if not re.fullmatch(r"[\w.+-]+", name):
            raise InputError(
                f"{folder / 'dataset_info.json'}: filepathTemplate {split.filepath_template!r} "
                "names no file in this folder"
            )
        if length:
            paths.append(str(folder / name))
    return Shards(tuple(paths), tuple(split.shard_lengths), split.num_bytes)
