"""``jaxcnn list``: names of the models, with their figures on request."""

from collections.abc import Sequence

from jaxcnn.commands.parsing import parse
from jaxcnn.errors import InputError
from jaxcnn.runs import display


def main(args: Sequence[str]) -> int:
    """Runs the command and returns the exit code."""
    import tyro

    def parsed(pattern: tyro.conf.Positional[str] = "*", stats: bool = False) -> tuple[str, bool]:
        """List the models.

        Args:
            pattern: a shell pattern such as 'res*'.
            stats: with input size, parameters, MACs, activations and receptive field.
        """
        return pattern, stats

    pattern, stats = parse(parsed, args, "list")
    from jaxcnn import models

    names = models.list_models(pattern)
    if not names:
        raise InputError(f"pattern {pattern!r}: no model matches; `jaxcnn list` shows all")
    if stats:
        from jaxcnn.analysis import summary

        display.console().print(summary.render_stats(map(summary.model_stats, names)))
    else:
        print("\n".join(names))
    return 0
