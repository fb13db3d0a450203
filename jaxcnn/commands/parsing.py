"""From what stands on the command line to values: options by annotations, experiment files."""

import contextlib
import difflib
import importlib.util
import io
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

from jaxcnn.config import Comparison, Experiment, InputError

T = TypeVar("T")


def parse(function: Callable[..., T], args: Sequence[str], prog: str, description: str = "") -> T:
    """Calls a function with arguments from the command line, by its annotations."""
    import tyro

    errors = io.StringIO()
    try:
        with contextlib.redirect_stderr(errors):
            return tyro.cli(
                function, args=args, prog=f"jaxcnn {prog}", description=description or None
            )
    except SystemExit as end:
        if end.code == 0:  # --help
            raise
        raise InputError(_one_line(errors.getvalue())) from None


def _one_line(boxed: str) -> str:
    """The message in a box that tyro draws, without its title and its advice on --help."""
    text = re.sub(r"\x1b\[[0-9;]*m", "", boxed)
    text = re.sub(r"╭.*╮|[─╰╯│]+", " ", text)
    text = re.sub(r"(Argument helptext:|For full helptext,).*", "", text, flags=re.DOTALL)
    text = re.sub(r"Error parsing [\w.]+: (?=\w+\.\w+=)", "", " ".join(text.split()))
    return text.strip()


def load_experiment(path: Path) -> Experiment:
    """Runs an experiment file and calls its ``config()``.

    Raises:
        InputError: no such file, or not an experiment.
    """
    found = _load(path)
    if isinstance(found, Comparison):
        raise InputError(f"experiment {path}: holds a comparison; use `jaxcnn compare {path}`")
    if not isinstance(found, Experiment):
        raise InputError(
            f"experiment {path}: config() must return a jaxcnn.config.Experiment, "
            f"returned {type(found).__name__}"
        )
    return found


def load_comparison(path: Path) -> Comparison:
    """Runs a comparison file and calls its ``config()``.

    Raises:
        InputError: no such file, or not a comparison.
    """
    found = _load(path)
    if not isinstance(found, Comparison):
        raise InputError(
            f"comparison {path}: config() must return a jaxcnn.config.Comparison, "
            f"returned {type(found).__name__}"
        )
    return found


def _load(path: Path) -> object:
    """What the ``config()`` of a Python file returns."""
    if not path.is_file():
        near = difflib.get_close_matches(
            path.stem, [p.stem for p in path.parent.glob("*.py")], n=1, cutoff=0.5
        )
        hint = f"; did you mean {path.parent / near[0]}.py?" if near else ""
        raise InputError(f"experiment {path}: no such file{hint}")
    spec = importlib.util.spec_from_file_location("experiment", path)
    if spec is None or spec.loader is None:
        raise InputError(f"experiment {path}: must be a Python file that defines config()")
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
        return module.config()
    except InputError:
        raise
    except Exception as error:
        raise InputError(f"experiment {path}: {type(error).__name__}: {error}") from error
