"""``jaxcnn import``: weights in torchvision's layout become a folder like that of a run."""

import re
from dataclasses import dataclass, field, replace
from pathlib import Path

from jaxcnn.commands import arguments
from jaxcnn.config import Data, Experiment, Model
from jaxcnn.errors import InputError, as_input_error


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
    """A text file with the name of one class on each line; by default the classes are numbered."""
    image_size: int | None = None
    """Side of the images; by default the one that the model was published for."""
    dataset: str = "imagenet2012"
    """The dataset that `eval` evaluates on."""
    mean: tuple[float, ...] | None = None
    """The mean of each channel, of pixels scaled to [0, 1], that the weights were trained with; by
    default that of torchvision's weights of the model."""
    std: tuple[float, ...] | None = None
    """The standard deviation of each channel, of pixels scaled to [0, 1], that the weights were
    trained with; by default that of torchvision's weights of the model."""


def run(command: Command) -> int:
    """Imports the weights and returns the exit code."""
    path, name, num_classes = command.weights, command.model, command.num_classes
    from jaxcnn import models
    from jaxcnn.runs import trained

    with as_input_error():
        height, width, channels = models.standard_input(name)
        usual_mean, usual_std = models.standard_normalization(name)
    data = Data(
        command.dataset,
        batch_size=1,
        fit="resize",
        mean=command.mean or usual_mean,
        std=command.std or usual_std,
    )
    if command.image_size is not None:
        height = width = command.image_size
    names = [str(i) for i in range(num_classes)]
    if command.classes is not None:
        try:
            names = command.classes.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"--classes {command.classes}: cannot be read ({error})") from error
        if len(names) != num_classes:
            raise InputError(
                f"--classes {command.classes}: has {len(names)} lines, must have {num_classes}"
            )
    experiment = Experiment(
        name=re.sub(r"[^\w.+-]", "_", path.stem),
        data=replace(data, image_size=height),
        model=Model(name),
    )
    shape = (height, width, channels)
    parameters = trained.import_weights(path, experiment, names, shape, command.out)
    print(f"{command.out}: {name} with {parameters:,} parameters from {path}")
    return 0
