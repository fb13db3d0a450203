"""``jaxcnn predict``: classes and probabilities of image files."""

import glob
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from jaxcnn.commands import arguments
from jaxcnn.commands.parsing import bring_from
from jaxcnn.errors import InputError
from jaxcnn.text import complain, printable

if TYPE_CHECKING:
    from jaxcnn.runs.trained import Prediction


@dataclass(frozen=True)
class Command(arguments.Command):
    """Asks a trained run about image files: prints file, class and probability, one line for each.

    All files are read before the first is classified; one that is no image ends the command.
    """

    run: Path = field(metadata={"place": "RUN"})
    """The run folder."""
    images: tuple[Path, ...] = field(metadata={"place": "IMAGE"})
    """At least one image file, folder of image files, or pattern such as 'photos/*.jpg'; an image
    of another size than the dataset's is brought to it."""
    checkpoint: Literal["latest", "best"] = "latest"
    """The latest checkpoint, or the one with the best result on the validation set, or without
    one on the test set."""
    top_k: int | None = None
    """How many of the most probable classes are printed for each image; by default one or, of
    multilabel, all that are more probable than not."""
    calibrated: bool = False
    """Gives the probabilities at the temperature that `jaxcnn eval RUN --fit-temperature` has kept
    beside the run; the order of the classes is the same."""
    out: Path | None = None
    """The folder into which label maps are written as PNG files of the images' own sizes, whose
    pixels are the numbers of the classes; 255 where a network sees less than the whole image. Only
    of segmentation."""
    json: bool = False
    """Prints a list of objects in JSON: file, and classes with class and probability (or, of other
    tasks, value)."""
    csv: bool = False
    """Prints a table of comma-separated values: file, rank, class, probability (or value)."""
    source: tuple[Path, ...] = field(default=(), metadata=arguments.FROM)
    """A Python file with the network, or whatever else was brought to the run; may be given several
    times."""
    resize: bool = False
    """No longer needed: every image is brought to the dataset's size anyway."""


def run(command: Command) -> int:
    """Prints the predictions and returns the exit code."""
    if command.resize:
        complain("--resize is no longer needed: every image is brought to the dataset's size")
    if command.json and command.csv:
        raise InputError("--json: gives another output than --csv; leave one of them out")
    images = list(dict.fromkeys(path for given in command.images for path in _files(given)))
    bring_from(command.source)

    from jaxcnn.runs import display, trained

    if command.out is not None:
        _check_maps(images, command.out)
    waiting = f"classifying {len(images):,} images"
    with display.display() as listener, listener.waiting(waiting, said=False):
        found = trained.predict(
            command.run,
            images,
            checkpoint=command.checkpoint,
            top_k=command.top_k,
            calibrated=command.calibrated,
        )
    if command.out is not None:
        _write_maps(found, command.out)
    show = _show_json if command.json else _show_csv if command.csv else _show
    show(found)
    return 0


def _files(given: Path) -> list[Path]:
    """Returns the file itself, or the image files of a folder, or the files of a pattern."""
    from jaxcnn.data import image_folder

    if given.is_dir():
        return image_folder.images_in(given)
    if given.exists() or not glob.has_magic(str(given)):
        return [given]
    found = glob.glob(str(given), recursive=True)  # noqa: PTH207  (a Path takes no absolute ones)
    matches = sorted(found, key=image_folder.natural)
    if not matches:
        raise InputError(f"{printable(str(given))}: no file has a name of this pattern")
    paths = [Path(match) for match in matches]
    shown = [
        path for path in paths if path.is_dir() or path.suffix.lower() in image_folder.SUFFIXES
    ]
    if len(shown) < len(paths):
        others = len(paths) - len(shown)
        complain(
            f"{printable(str(given))}: {others:,} files are left out, no images by their names"
        )
    return [path for one in shown for path in _files(one)]


def _show(found: Sequence["Prediction"]) -> None:
    for one in found:
        form = "#.6g" if one.called == "value" else ".4f"
        pairs = zip(one.labels, one.answers, strict=True)
        said = ", ".join(f"{label} {number:{form}}" for label, number in pairs) or "none"
        print(printable(f"{one.path}: {said}"))


def _show_json(found: Sequence["Prediction"]) -> None:
    import json

    rows = []
    for one in found:
        pairs = zip(one.labels, one.answers, strict=True)
        classes = [{"class": label, one.called: number} for label, number in pairs]
        rows.append(json.dumps({"file": str(one.path), "classes": classes}))
    print("[" + ",\n".join(rows) + "]")


def _show_csv(found: Sequence["Prediction"]) -> None:
    import csv

    table = csv.writer(sys.stdout, lineterminator="\n")
    table.writerow(("file", "rank", "class", found[0].called if found else "value"))
    for one in found:
        for i, (label, p) in enumerate(zip(one.labels, one.answers, strict=True), start=1):
            table.writerow((one.path, i, label, f"{p:.6g}"))


def _check_maps(images: Sequence[Path], out: Path) -> None:
    """Checks that label maps can be written, each under the name of its image.

    Raises:
        InputError: two images have one name, or a map would replace an image.
    """
    from jaxcnn.learning import files

    places = [out / f"{path.stem}.png" for path in images]
    for place, images_there in Counter(places).most_common(1):
        if images_there > 1:
            raise InputError(f"--out {out}: two of the images would be written to {place}")
    asked = {path.resolve() for path in images}
    for place in places:
        if place.resolve() in asked:
            raise InputError(f"--out {out}: must be another folder, since {place} is an image")
    files.check_writable(*places)


def _write_maps(found: Sequence["Prediction"], out: Path) -> None:
    """Writes the label maps of images.

    Raises:
        InputError: the task gives no label maps, or they do not fit into a byte.
    """
    import io

    import numpy as np
    from PIL import Image

    from jaxcnn.learning import files

    if not all(one.is_map and 0 <= one.whole.min() <= one.whole.max() < 255 for one in found):
        raise InputError(
            f"--out {out}: must be left out, since the run gives no label maps of classes below 255"
        )
    out.mkdir(parents=True, exist_ok=True)
    for one in found:
        png = io.BytesIO()
        Image.fromarray(one.label_map().astype(np.uint8)).save(png, "PNG")
        files.write_bytes(out / f"{one.path.stem}.png", png.getvalue())
