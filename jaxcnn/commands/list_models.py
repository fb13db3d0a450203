"""``jaxcnn list``: names of the models, with their figures on request."""

from dataclasses import dataclass, field

from jaxcnn.commands import arguments
from jaxcnn.errors import InputError


@dataclass(frozen=True)
class Command(arguments.Command):
    """Lists the models."""

    pattern: str = field(default="*", metadata={"place": "PATTERN"})
    """A shell pattern, such as 'res*'."""
    stats: bool = False
    """Also shows input size, parameters, MACs, activations and receptive field."""


def run(command: Command) -> int:
    """Prints the names and returns the exit code."""
    from jaxcnn import models

    names = models.list_models(command.pattern)
    if not names:
        raise InputError(f"pattern {command.pattern!r}: no model matches; `jaxcnn list` shows all")
    if command.stats:
        from jaxcnn.analysis import summary

        for line in summary.stats_lines(names):  # each takes a second or two
            print(line, flush=True)
    else:
        print("\n".join(names))
    return 0
