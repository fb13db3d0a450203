"""``jaxcnn list``: names of the models, with their figures on request."""

import fnmatch
from dataclasses import dataclass, field

from jaxcnn.commands import arguments
from jaxcnn.config.brought import offered
from jaxcnn.errors import InputError


@dataclass(frozen=True)
class Command(arguments.Command):
    """Lists the models, and after them what installed packages offer: see docs/own.md."""

    pattern: str = field(default="*", metadata={"place": "PATTERN"})
    """A shell pattern, such as 'res*'."""
    stats: bool = False
    """Shows input size, parameters, MACs, activations and receptive field, of the models alone."""


def run(command: Command) -> int:
    """Prints the names and returns the exit code."""
    from jaxcnn import models

    names = models.list_models(command.pattern)
    others = [] if command.stats else fnmatch.filter(offered(), command.pattern)
    if not names + others:
        raise InputError(f"pattern {command.pattern!r}: no model matches; `jaxcnn list` shows all")
    if command.stats:
        from jaxcnn.analysis import summary

        for line in summary.stats_lines(names):  # each takes a second or two
            print(line, flush=True)
    else:
        print("\n".join(names + others))
    return 0
