"""``jaxcnn summary``: a model's layers, shapes, parameters and multiply-accumulates."""

from dataclasses import dataclass, field

from jaxcnn.commands import arguments
from jaxcnn.errors import as_input_error
from jaxcnn.runs import display


@dataclass(frozen=True)
class Command(arguments.Command):
    """Shows every layer's output shape, parameters, MACs and receptive field."""

    model: str = field(metadata={"place": "MODEL"})
    """A name from `jaxcnn list`."""
    input: tuple[int, int, int] | None = None
    """Height, width and channels; by default those that the model was published for."""
    num_classes: int | None = None
    """How many logits the model has; by default 1000, and 10 for images under 64x64."""


def run(command: Command) -> int:
    """Prints the table and returns the exit code."""
    from jaxcnn import models
    from jaxcnn.analysis import summary

    with as_input_error():
        shape = command.input or models.standard_input(command.model)
        classes = command.num_classes
        if classes is None:
            classes = models.standard_classes(shape)
        model = models.create_model(command.model, num_classes=classes)
    with as_input_error(f"--input {' '.join(map(str, shape))}"):
        found = summary.summarize(model, shape)
    display.console().print(summary.render(found))
    return 0
