"""Python files that are given to be run: experiments, comparisons, and what ``--from`` names."""

import contextlib
import difflib
import inspect
import sys
import traceback
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

from jaxcnn.config import Comparison, Experiment
from jaxcnn.config.brought import FILE_MODULE, know_networks
from jaxcnn.config.machines import Resources
from jaxcnn.errors import InputError, as_one_line

T = TypeVar("T")

LARGEST = 10_000_000
"""Bytes of the largest file that is taken for an experiment."""


def load_experiment(path: Path) -> Experiment:
    """Runs an experiment file and calls its ``config()``.

    Raises:
        InputError: no such file, or not an experiment.
    """
    return _load(path, Experiment)


def load_overridable(path: Path, given: Mapping[str, Any]) -> Experiment:
    """Runs an experiment file whose fields a command line overrides.

    Where it names another network, optimizer, schedule or task, the options of the file's are left
    out.

    Args:
        path: the file.
        given: what the command line says, by the names of the fields.

    Raises:
        InputError: no such file, or not an experiment.
    """
    experiment = load_experiment(path)
    model = experiment.model
    if given.get("model.name", model.name) != model.name:  # the options are those of another
        experiment = replace(experiment, model=replace(model, options={}))
    optim = experiment.optim
    if given.get("optim.name", optim.name) != optim.name and optim.options:
        name = "sgd"  # the name that is given comes later, with options of its own
        experiment = replace(experiment, optim=replace(optim, name=name, options={}))
    schedule = experiment.schedule
    if given.get("schedule.name", schedule.name) != schedule.name and schedule.options:
        experiment = replace(
            experiment, schedule=replace(schedule, name="constant", milestones=(), options={})
        )
    task = experiment.task
    if given.get("task.name", task.name) != task.name:
        experiment = replace(experiment, task=replace(task, options={}))
    return experiment


def load_comparison(path: Path) -> Comparison:
    """Runs a comparison file and calls its ``config()``.

    Raises:
        InputError: no such file, or not a comparison.
    """
    return _load(path, Comparison)


def load_resources(path: Path) -> Resources | None:
    """Runs an experiment or comparison file and calls its ``resources()``, if it has one.

    Raises:
        InputError: no such file, or the function returns something else.
    """
    found: Resources | None = _run(path, f"resources {path}", Resources, "resources", needed=False)
    return found


def load_sweep(path: Path) -> list[Experiment]:
    """Runs an experiment file and returns what its ``sweep()`` yields; nothing without one.

    Raises:
        InputError: no such file, or the function yields something else than experiments.
    """
    what = f"sweep {path}"
    with as_one_line(what):
        found = [*(_run(path, what, Iterable, "sweep", needed=False) or ())]
    for one in found:
        if not isinstance(one, Experiment):
            raise InputError(
                f"{what}: sweep() must yield experiments, yielded {type(one).__name__}"
            )
    return found


def _load(path: Path, kind: type[T]) -> T:
    """Returns what the ``config()`` of a Python file returns."""
    found: T = _run(path, f"{kind.__name__.lower()} {path}", kind)
    return found


def bring_from(paths: Sequence[Path]) -> None:
    """Runs Python files, so that the objects that they bring are known by their names.

    These are the networks that they define or import, and whatever else the experiment holds that
    their ``config()`` returns, where they have one.

    Raises:
        InputError: no such file, or one that fails.
    """
    for path in paths:
        _run(path, f"--from {path}")


def _run(
    path: Path, what: str, kind: type | None = None, function: str = "config", needed: bool = True
) -> Any:
    """Runs a Python file, and returns what its ``config()`` or another function returns.

    Args:
        path: the file.
        what: what it is called in errors.
        kind: what the function must return; None of any kind.
        function: the name of the function.
        needed: whether a file without it is refused; None is returned of one.
    """
    needed = needed and kind is not None
    if not path.exists():
        near = difflib.get_close_matches(
            path.stem, [p.stem for p in path.parent.glob("*.py")], n=1, cutoff=0.5
        )
        hint = f"; did you mean {path.parent / near[0]}.py?" if near else ""
        raise InputError(f"{what}: no such file{hint}")
    if path.suffix != ".py" or not path.is_file() or path.stat().st_size > LARGEST:
        must = "that defines config()" if kind else "that defines what was brought"
        raise InputError(f"{what}: must be a Python file {must}")
    module = ModuleType(f"{FILE_MODULE}{path.resolve()}")
    module.__file__ = str(path.resolve())
    sys.modules[module.__name__] = module  # where Python looks for the names of its classes
    if str(path.resolve().parent) not in sys.path:
        sys.path.append(str(path.resolve().parent))  # its own modules, behind all others
    try:
        with _undone():
            code = compile(path.read_bytes(), str(path), "exec", dont_inherit=True)
            exec(code, vars(module))
            know_networks(vars(module))
            there = hasattr(module, function)
            if kind and needed and not there:
                raise InputError(f"must define {function}() -> {kind.__name__}")
            found = getattr(module, function)() if there else None
            fits = kind is None or not there or isinstance(found, kind)
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # whatever the file does, such as sys.exit
        raise InputError(f"{what}{_fault(error, path)}") from error
    if not fits:
        if inspect.iscoroutine(found):
            found.close()  # else Python would warn that nobody awaited it
        hint = f"; use `jaxcnn compare {path}`" if isinstance(found, Comparison) else ""
        raise InputError(
            f"{what}: {function}() must return a {kind and f'{kind.__module__}.{kind.__name__}'}, "
            f"returned {type(found).__name__}{hint}"
        )
    return found


@contextlib.contextmanager
def _undone() -> Iterator[None]:
    """Gives working directory and streams back as they were."""
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(FileNotFoundError):  # the directory may be gone
            stack.enter_context(contextlib.chdir(Path.cwd()))
        stack.enter_context(contextlib.redirect_stdout(sys.stdout))
        stack.enter_context(contextlib.redirect_stderr(sys.stderr))
        yield


def _fault(error: BaseException, path: Path) -> str:
    """Returns the line of the file that an error comes from, if any, and what the error says."""
    frames = traceback.walk_tb(error.__traceback__)
    lines = [line for frame, line in frames if frame.f_code.co_filename == str(path)]
    try:
        said = error.msg if isinstance(error, SyntaxError) else str(error)
    except BaseException:  # even that may be of the file's making
        said = ""
    if isinstance(error, SyntaxError):
        lines = [error.lineno] if error.filename == str(path) and error.lineno else lines
    kind = "" if isinstance(error, InputError) else type(error).__name__
    place = f", line {lines[-1]}" if lines else ""
    return place + "".join(f": {word}" for word in (kind, said) if word)
