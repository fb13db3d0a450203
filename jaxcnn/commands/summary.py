"""``jaxcnn summary``: a model's layers, shapes, parameters and multiply-accumulates."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from jaxcnn.commands import arguments
from jaxcnn.commands.parsing import load_experiment
from jaxcnn.config import Model
from jaxcnn.errors import InputError, as_input_error

if TYPE_CHECKING:
    import flax.linen as nn
from jaxcnn.runs import display


@dataclass(frozen=True)
class Command(arguments.Command):
    """Shows every layer's output shape, parameters, MACs and receptive field."""

    model: str = field(metadata={"place": "MODEL"})
    """A name from `jaxcnn list`, of a network of an installed package too, or an experiment file,
    whose network is shown on its data."""
    input: tuple[int, int, int] | None = None
    """Height, width and channels; by default those that the model was published for, or those of
    the experiment."""
    num_classes: int | None = None
    """How many logits the model has; by default 1000, 10 for images under 64x64, 2 for models that
    label every pixel, or as many as the experiment's data have classes."""


def run(command: Command) -> int:
    """Prints the table and returns the exit code."""
    from jaxcnn import models
    from jaxcnn.analysis import summary

    if command.model.endswith(".py"):
        model, shape = _of_experiment(command)
        display.console().print(summary.render(summary.summarize(model, shape)))
        return 0
    with as_input_error():
        own = ":" in command.model
        shape = command.input or ((224, 224, 3) if own else models.standard_input(command.model))
        classes = command.num_classes
        if classes is None:
            classes = models.standard_classes(command.model, shape)
        name = Model(command.model).name
        if own and isinstance(name, str):
            raise InputError(
                f"MODEL {name!r}: no installed package offers it; an experiment file is given as "
                f"{name.partition(':')[0].removesuffix('.py')}.py alone"
            )
        model = models.create_model(name, num_classes=classes)
    with as_input_error(f"--input {' '.join(map(str, shape))}"):
        found = summary.summarize(model, shape)
    display.console().print(summary.render(found))
    return 0


def _of_experiment(command: Command) -> "tuple[nn.Module, tuple[int, int, int]]":
    """Returns the network of an experiment file, and the images that it sees."""
    experiment = load_experiment(Path(command.model))

    from jaxcnn import models, tasks
    from jaxcnn.data import augment, sources
    from jaxcnn.runs import settled

    experiment = settled.with_numbers(experiment)

    shape, classes = command.input, command.num_classes
    if shape is None or classes is None:
        dataset = sources.load(experiment.data)
        shape = shape or augment.input_shape(
            experiment.data, experiment.augment, dataset.image_shape
        )
        classes = classes or len(dataset.classes)
    names = [str(i) for i in range(classes)]
    outputs = tasks.build(experiment.task).output_shape(names, shape[:2])
    return models.build_model(experiment.model, classes, shape, outputs), shape
