"""``jaxcnn summary``: a model's layers, shapes, parameters and multiply-accumulates."""

from collections.abc import Sequence

from jaxcnn.commands.parsing import parse
from jaxcnn.errors import as_input_error
from jaxcnn.runs import display


def main(args: Sequence[str]) -> int:
    """Runs the command and returns the exit code."""
    import tyro

    def parsed(
        model: tyro.conf.Positional[str],
        input: tuple[int, int, int] | None = None,  # noqa: A002 - the flag is --input
        num_classes: int | None = None,
    ) -> tuple[str, tuple[int, int, int] | None, int | None]:
        """Show every layer's output shape, parameters, MACs and receptive field.

        Args:
            model: a name from `jaxcnn list`.
            input: height, width and channels; by default those the model was published for.
            num_classes: number of logits; by default 1000, and 10 for images under 64x64.
        """
        return model, input, num_classes

    name, shape, num_classes = parse(parsed, args, "summary")
    from jaxcnn import models
    from jaxcnn.analysis import summary

    with as_input_error():
        shape = shape or models.standard_input(name)
        classes = models.standard_classes(shape) if num_classes is None else num_classes
        model = models.create_model(name, num_classes=classes)
    with as_input_error(f"--input {' '.join(map(str, shape))}"):
        found = summary.summarize(model, shape)
    display.console().print(summary.render(found))
    return 0
