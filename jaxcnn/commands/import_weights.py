"""``jaxcnn import``: published weights become a folder like that of a run."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jaxcnn import data
from jaxcnn.commands import arguments
from jaxcnn.config import Data, Experiment, Model, Task
from jaxcnn.config.checked import shown
from jaxcnn.errors import InputError, as_input_error

if TYPE_CHECKING:
    from jaxcnn.models.hub import Published
    from jaxcnn.runs.exporting import Described

IMAGENET = Path(data.__file__).with_name("imagenet_classes.txt")
"""The names of ImageNet's 1000 classes, in the order of the logits of torchvision's weights."""
CLASSES_BYTES = 10**8
"""A file of so many bytes does not hold the names of classes."""


@dataclass(frozen=True)
class Command(arguments.Command):
    """Imports weights in torchvision's or timm's layout, from a file or by name.

    They are then what `eval`, `predict` and `train --init-from` take.
    """

    weights: str = field(metadata={"place": "WEIGHTS"})
    """A safetensors file, or hf:OWNER/NAME[@REVISION] on the Hugging Face Hub, as
    hf:timm/resnet50.a1_in1k; pickles (.pth) are refused, since reading one can run any program."""
    model: str | None = None
    """A name from `jaxcnn list`, or timm's name of such a network; of weights on the Hub, and of
    files that `jaxcnn export` wrote, by default the one that they are for."""
    out: Path | None = None
    """The folder to write; by default weights/NAME after the file or the repository."""
    num_classes: int | None = None
    """How many logits the weights give; by default as many as their last layer has."""
    classes: Path | None = None
    """A text file with the name of one class on each line; by default those that were published
    or exported with the weights, else 1000 classes have the names of ImageNet's, and others are
    numbered."""
    image_size: int | None = None
    """Side of the images; by default the one that the weights or the model were published for, or
    trained on."""
    dataset: str = "imagenet2012"
    """The dataset that `eval` evaluates on."""
    mean: tuple[float, ...] | None = None
    """The mean of each channel, or one for all, of pixels scaled to [0, 1], that the weights were
    trained with; by default that published or exported with them, else that of torchvision's
    weights of the model, and 0 for grey images."""
    std: tuple[float, ...] | None = None
    """The standard deviation of each channel, or one for all, of pixels scaled to [0, 1], that the
    weights were trained with; by default that published or exported with them, else that of
    torchvision's weights of the model, and 1 for grey images."""


def run(command: Command) -> int:
    """Imports the weights and returns the exit code."""
    from jaxcnn import models
    from jaxcnn.models import hub
    from jaxcnn.runs import exporting, trained

    published, exported, path = None, None, Path(command.weights)
    stem = path.stem
    if command.weights.startswith(hub.SCHEME):
        stem = hub.name_of(command.weights)
        if command.model is None:
            hub.require_known(command.weights)
        published = hub.fetch(command.weights)
        path = published.weights
    else:
        _require_file(path)
        exported = exporting.described_in(path)
    name, options = _network(command, published, exported)
    if exported is not None and name != exported.model:
        exported = None  # --model names what the arrays are to be instead
    with as_input_error():
        height, width, channels = models.standard_input(name)
        logits = command.num_classes
        if logits is not None:
            models.create_model(name, num_classes=logits)  # before so many names are made
        found, options = models.needed(name, models.read_shapes(path), **options)
        logits = logits or found or 1000
    images = _images(command, name, published, exported, height)
    task = "segmentation" if name in models.PER_PIXEL else "classification"
    if exported is not None and exported.task == "multilabel":
        task = exported.task
    experiment = Experiment(
        name=re.sub(r"[^\w.+-]|^[.+-]*$", "_", stem)[:200],
        data=images,
        model=Model(name, options),
        task=Task(task),
    )
    if exported is not None:
        height, width, channels = exported.image_shape
    if command.image_size is not None or published is not None:
        height = width = images.image_size or height
    names = _names(command, published, exported, logits)
    out, source = command.out or Path("weights") / stem, published and published.source
    shape = (height, width, channels)
    parameters = trained.import_weights(path, experiment, names, shape, out, source or path.name)
    print(f"{out}: {name} with {parameters:,} parameters from {source or path}")
    if published is not None:
        print(_preparation(command, published, images, out))
    return 0


def _require_file(path: Path) -> None:
    """Checks that there is a file of weights.

    Raises:
        InputError: there is none, but perhaps one on the Hub, whose name lacks its beginning.
    """
    from jaxcnn.models import hub, timm_names

    if path.is_file():
        return
    named = timm_names.is_known(path.name)
    hint = f"; {hub.SCHEME}timm/{path.name} names weights of timm's on the Hub" if named else ""
    raise InputError(f"{path} is not a file{hint}")


def _network(
    command: Command, published: "Published | None", exported: "Described | None"
) -> tuple[str, Mapping[str, Any]]:
    """Returns our name and options of the network that the weights are for.

    Raises:
        InputError: nothing says, or it is none of ours.
    """
    from jaxcnn import models
    from jaxcnn.models import timm_names

    config = published and published.config
    theirs = config.architecture if config else None
    if exported and exported.model in models.MODELS and command.model in (None, exported.model):
        return exported.model, exported.options
    given = command.model or theirs
    if given is None:
        accepted = "a name from `jaxcnn list` or timm's name, which nothing else says here"
        raise InputError(f"--model: must be given: {accepted}")
    name: str = given
    options: Mapping[str, Any] = {}
    with as_input_error(command.weights if published else f"--model {shown(given)}"):
        if theirs not in timm_names.NETWORKS and timm_names.is_known(theirs or ""):
            timm_names.network(theirs or "")  # says how it differs, whatever --model says
        if command.model is None or (given not in models.MODELS and timm_names.is_known(given)):
            name, options = timm_names.network(given)
        elif theirs in timm_names.NETWORKS and timm_names.NETWORKS[theirs][0] == name:
            options = timm_names.NETWORKS[theirs][1]
    if config and config.unusual:
        raise InputError(
            f"{command.weights}: the network was built with {config.unusual}, which jaxcnn's "
            f"{name} has not"
        )
    return name, options


def _images(
    command: Command,
    name: str,
    published: "Published | None",
    exported: "Described | None",
    height: int,
) -> Data:
    """Returns how images reach the network: as published, but for what the command says."""
    import msgspec

    from jaxcnn import models

    mean, std = models.standard_normalization(name)
    crop: dict[str, Any] = {"fit": "resize"}
    if published is not None:
        as_published = published.config.pretrained_cfg
        mean, std, height = as_published.mean, as_published.std, as_published.input_size[1]
        if as_published.crop_mode != "squash":
            ratio = as_published.crop_ratio(command.image_size or height)
            crop = {"fit": "crop", "crop_ratio": ratio}
    sized: dict[str, Any] = {"image_size": height, **crop}
    if exported is not None:
        mean, std, sized = exported.mean, exported.std, msgspec.structs.asdict(exported.data)
    if command.image_size is not None:
        fit = "resize" if sized["fit"] == "pad" else sized["fit"]
        sized |= {"image_size": command.image_size, "fit": fit, "read_size": None}
    return Data(
        command.dataset,
        batch_size=1,
        mean=mean if command.mean is None else command.mean,
        std=std if command.std is None else command.std,
        **sized,
    )


def _names(
    command: Command, published: "Published | None", exported: "Described | None", number: int
) -> list[str]:
    """Returns the names of the classes: those given, or published, or ImageNet's, or numbers."""
    from jaxcnn.data import sources

    if command.classes is not None:
        return _class_names(command.classes, number)
    known = published.config.classes if published else None
    known = list(exported.classes) if exported else known
    if known and len(known) == number and all(map(sources.is_class_name, known)):
        return known
    if number == 1000 and command.dataset.startswith("imagenet"):
        return _class_names(IMAGENET, number)
    return [str(i) for i in range(number)]


def _preparation(command: Command, published: "Published", images: Data, out: Path) -> str:
    """Says how images are prepared, and where that is not as it was published."""
    about = published.config.pretrained_cfg
    size = f"{images.image_size}x{images.image_size}"
    kept = f"{images.crop_ratio:.4g} of the shorter side" if images.fit == "crop" else "all of it"
    lines = [f"an image becomes {size}: {kept}"]
    tested = about.test_input_size and about.test_input_size[1]
    if tested and tested != images.image_size:
        again = f"--image-size {tested} --out {out}_{tested}"
        given = f" --model {command.model}" if command.model else ""
        lines.append(
            f"`jaxcnn import {command.weights}{given} {again}` takes them as they were tested"
        )
    if about.interpolation != "bilinear":
        lines.append(
            f"bilinearly where they were {about.interpolation}, so figures differ a little"
        )
    return "; ".join(lines)


def _class_names(path: Path, number: int) -> list[str]:
    """Reads the name of one class from each line; several may be called alike.

    Raises:
        InputError: not a text of so many lines, or a line without a name.
    """
    from jaxcnn.data import sources

    try:
        if path.stat().st_size > CLASSES_BYTES or not path.is_file():
            raise ValueError("not a text file of at most 100 MB")
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, ValueError) as error:
        raise InputError(f"--classes {path}: cannot be read ({error})") from error
    names = text.removesuffix("\n").split("\n")
    for line, name in enumerate(names, start=1):
        if not sources.is_class_name(name):
            raise InputError(
                f"--classes {path}: line {line} is {shown(name)}; must be {sources.CLASS_NAME}"
            )
    if len(names) != number:
        raise InputError(f"--classes {path}: has {len(names)} lines, must have {number}")
    return names
