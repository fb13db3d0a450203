"""``jaxcnn import``: weights in torchvision's layout become a folder like that of a run."""

import re
from dataclasses import dataclass, field
from pathlib import Path

from jaxcnn import data
from jaxcnn.commands import arguments
from jaxcnn.config import Data, Experiment, Model, Task
from jaxcnn.config.checked import shown
from jaxcnn.errors import InputError, as_input_error

IMAGENET = Path(data.__file__).with_name("imagenet_classes.txt")
"""The names of ImageNet's 1000 classes, in the order of the logits of torchvision's weights."""
CLASSES_BYTES = 10**8
"""A file of so many bytes does not hold the names of classes."""


@dataclass(frozen=True)
class Command(arguments.Command):
    """Imports weights in torchvision's layout for `eval`, `predict` and `train --init-from`."""

    weights: Path = field(metadata={"place": "WEIGHTS"})
    """A safetensors file; pickles (.pth) are refused, since reading one can run any program."""
    model: str
    """A name from `jaxcnn list`."""
    out: Path
    """The folder to write."""
    num_classes: int = 1000
    """How many logits the weights give."""
    classes: Path | None = None
    """A text file with the name of one class on each line; by default the 1000 classes of ImageNet
    have their names, and others are numbered."""
    image_size: int | None = None
    """Side of the images; by default the one that the model was published for."""
    dataset: str = "imagenet2012"
    """The dataset that `eval` evaluates on."""
    mean: tuple[float, ...] | None = None
    """The mean of each channel, or one for all, of pixels scaled to [0, 1], that the weights were
    trained with; by default that of torchvision's weights of the model, and 0 for grey images."""
    std: tuple[float, ...] | None = None
    """The standard deviation of each channel, or one for all, of pixels scaled to [0, 1], that the
    weights were trained with; by default that of torchvision's weights of the model, and 1 for grey
    images."""


def run(command: Command) -> int:
    """Imports the weights and returns the exit code."""
    path, name, num_classes = command.weights, command.model, command.num_classes
    from jaxcnn import models
    from jaxcnn.runs import trained

    with as_input_error():
        height, width, channels = models.standard_input(name)
        usual_mean, usual_std = models.standard_normalization(name)
        models.create_model(name, num_classes=num_classes)  # before so many names are made
    names = [str(i) for i in range(num_classes)]
    named = command.classes
    if named is None and num_classes == 1000 and command.dataset.startswith("imagenet"):
        named = IMAGENET
    if named is not None:
        names = _class_names(named, num_classes)
    if command.image_size is not None:
        height = width = command.image_size
    experiment = Experiment(
        name=re.sub(r"[^\w.+-]|^[.+-]*$", "_", path.stem)[:200],
        data=Data(
            command.dataset,
            batch_size=1,
            image_size=height,
            fit="resize",
            mean=usual_mean if command.mean is None else command.mean,
            std=usual_std if command.std is None else command.std,
        ),
        model=Model(name),
        task=Task("segmentation" if name in models.PER_PIXEL else "classification"),
    )
    shape = (height, width, channels)
    parameters = trained.import_weights(path, experiment, names, shape, command.out)
    print(f"{command.out}: {name} with {parameters:,} parameters from {path}")
    return 0


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
