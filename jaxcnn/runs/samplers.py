"""What a study is given of Optuna's: its journal, samplers, pruners and distributions.

Optuna is imported where it is used: it is an extra, and takes a second.
"""

import contextlib
import functools
import importlib.util
import os
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO, Literal

import numpy as np

from jaxcnn.errors import InputError
from jaxcnn.learning import standing
from jaxcnn.runs.search import Space

Sampler = Literal["random", "tpe", "cmaes", "gp"]
Pruner = Literal["none", "median", "hyperband"]
NEEDED = {"cmaes": "cmaes", "gp": "torch"}
"""Packages that a sampler of Optuna's needs."""


def load(sampler: Sampler) -> Any:
    """Imports Optuna, which then says nothing below an error.

    Raises:
        InputError: it is not installed, or what the sampler needs is not.
    """
    needed = ["optuna", *filter(None, [NEEDED.get(sampler)])]
    missing = [name for name in needed if importlib.util.find_spec(name) is None]
    if missing:
        raise InputError(
            f"--search {sampler}: needs {' and '.join(missing)}: pip install 'jaxcnn[search]'"
            + (", and torch" if "torch" in missing else "")
        )
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)
    return optuna


def storage(path: Path) -> Any:
    """Returns a journal that many processes append to, and that a killed one leaves whole."""
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    class Lock:  # as Optuna's own, which outlive a killed process
        """Ends with its process, and drops the line that a process was killed in."""

        def __init__(self) -> None:
            self._held = contextlib.ExitStack()

        def acquire(self) -> bool:
            self._held.enter_context(standing.held(path.with_name(f".{path.name}.lock")))
            with path.open("r+b") as file:
                if file.seek(0, os.SEEK_END) and not _ends_a_line(file):
                    file.seek(0)
                    file.truncate(file.read().rfind(b"\n") + 1)
            return True

        def release(self) -> None:
            self._held.close()

    lock: Any = Lock()
    return JournalStorage(JournalFileBackend(str(path), lock))


def _ends_a_line(file: BinaryIO) -> bool:
    file.seek(-1, os.SEEK_END)
    return file.read(1) == b"\n"


def seeded(name: Sampler, seed: int) -> Any:
    """Returns a sampler whose draws for a trial depend on its number and on what ended before it.

    So a search that goes on, or that many processes share, draws nothing twice.
    """
    from optuna import samplers

    kinds: dict[Sampler, Callable[..., Any]] = {
        "random": samplers.RandomSampler,
        "tpe": functools.partial(samplers.TPESampler, multivariate=True, constant_liar=True),
        "cmaes": functools.partial(samplers.CmaEsSampler, warn_independent_sampling=False),
        "gp": samplers.GPSampler,
    }

    class Seeded(samplers.BaseSampler):
        def __init__(self) -> None:
            self._number, self._sampler = -1, None

        def _of(self, one: Any) -> Any:
            if one.number != self._number:
                drawn = np.random.SeedSequence([seed, one.number]).generate_state(1)[0]
                self._number, self._sampler = one.number, kinds[name](seed=int(drawn))
            return self._sampler

        def infer_relative_search_space(self, study: Any, trial: Any) -> Any:
            return self._of(trial).infer_relative_search_space(study, trial)

        def sample_relative(self, study: Any, trial: Any, search_space: Any) -> Any:
            return self._of(trial).sample_relative(study, trial, search_space)

        def sample_independent(self, study: Any, trial: Any, *of: Any) -> Any:
            return self._of(trial).sample_independent(study, trial, *of)

        def before_trial(self, study: Any, trial: Any) -> None:
            self._of(trial).before_trial(study, trial)

        def after_trial(self, study: Any, trial: Any, *of: Any) -> None:
            self._of(trial).after_trial(study, trial, *of)

    return Seeded()


def pruner(name: Pruner, epochs: int) -> Any:
    """Returns what gives up trials of at most so many epochs, each of which it is told of."""
    from optuna import pruners

    kinds: dict[Pruner, Callable[[], Any]] = {
        "none": pruners.NopPruner,
        "median": pruners.MedianPruner,
        "hyperband": lambda: pruners.HyperbandPruner(max_resource=epochs),
    }
    return kinds[name]()


def distribution(space: Space) -> Any:
    """Returns the values of a field as Optuna draws them."""
    from optuna import distributions

    if space.kind == "choices":
        return distributions.CategoricalDistribution(space.choices)
    if space.kind == "int":
        return distributions.IntDistribution(int(space.low), int(space.high))
    return distributions.FloatDistribution(space.low, space.high, log=space.kind == "log")
