"""Experiment and comparison files: Python files that define ``config()``."""

import difflib
import importlib.util
from pathlib import Path
from typing import TypeVar

from jaxcnn.config import Comparison, Experiment
from jaxcnn.errors import InputError

T = TypeVar("T")


def load_experiment(path: Path) -> Experiment:
    """Runs an experiment file and calls its ``config()``.

    Raises:
        InputError: no such file, or not an experiment.
    """
    return _load(path, Experiment)


def load_comparison(path: Path) -> Comparison:
    """Runs a comparison file and calls its ``config()``.

    Raises:
        InputError: no such file, or not a comparison.
    """
    return _load(path, Comparison)


def _load(path: Path, kind: type[T]) -> T:
    """Returns what the ``config()`` of a Python file returns."""
    what = f"{kind.__name__.lower()} {path}"
    if not path.is_file():
        near = difflib.get_close_matches(
            path.stem, [p.stem for p in path.parent.glob("*.py")], n=1, cutoff=0.5
        )
        hint = f"; did you mean {path.parent / near[0]}.py?" if near else ""
        raise InputError(f"{what}: no such file{hint}")
    spec = importlib.util.spec_from_file_location("experiment", path)
    if spec is None or spec.loader is None:
        raise InputError(f"{what}: must be a Python file that defines config()")
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
        found = module.config()
    except InputError:
        raise
    except Exception as error:
        raise InputError(f"{what}: {type(error).__name__}: {error}") from error
    if not isinstance(found, kind):
        hint = f"; use `jaxcnn compare {path}`" if isinstance(found, Comparison) else ""
        raise InputError(
            f"{what}: config() must return a jaxcnn.config.{kind.__name__}, "
            f"returned {type(found).__name__}{hint}"
        )
    return found
