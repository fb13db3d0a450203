"""A search by Optuna, whose trials are asked for, trained and told: by one process or by many.

The study lies beside its runs, in a journal that all processes append to. It names the trials; what
became of each is in its run folder, so that nothing is lost with the process that trained it.
"""

import contextlib
import functools
import importlib.util
import itertools
import json
import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

import numpy as np

from jaxcnn import tasks
from jaxcnn.analysis import arms
from jaxcnn.config import RESUME_MAY_CHANGE, Experiment, differences, to_dict
from jaxcnn.errors import InputError, as_one_line, as_warning
from jaxcnn.learning import run_folder, standing
from jaxcnn.learning.records import plain
from jaxcnn.learning.selection import PREFIX
from jaxcnn.runs.aside import put_aside
from jaxcnn.runs.display import Record
from jaxcnn.runs.search import Space, Trial, distinct, name_of, trial, values_at
from jaxcnn.runs.settled import settled
from jaxcnn.runs.start import Outcome, Run
from jaxcnn.tasks import LOSS, judged_by

Sampler = Literal["random", "tpe", "cmaes", "gp"]
Pruner = Literal["none", "median", "hyperband"]
NEEDED = {"cmaes": "cmaes", "gp": "torch"}
"""Packages that a sampler of Optuna's needs."""
COSTS = ("macs", "parameters", "seconds")
"""Objectives that are no metrics: the lower, the better."""
SECONDS_TO_BEGIN = 60
"""After so long a trial that was asked for, and that nobody trains, is a dead process's."""


@dataclass(frozen=True)
class Search:
    """What a study searches, and how.

    Attributes:
        base: the experiment that all trials are made from, as it is trained.
        spaces: the fields that they vary.
        trials: how many.
        sampler: what proposes them.
        pruner: what gives up those that promise too little.
        seed: of the sampler.
        objectives: names of what is sought, the first of which says which trial is the best.
    """

    base: Experiment
    spaces: Sequence[Space]
    trials: int
    sampler: Sampler = "tpe"
    pruner: Pruner = "none"
    seed: int = 0
    objectives: tuple[str, ...] = ()

    def directions(self) -> dict[str, Literal["maximize", "minimize"]]:
        """Returns the objectives, each with whether more of it is better or less.

        Raises:
            InputError: there is no such objective, or one that cannot be pruned by.
        """
        known = judged_by(tasks.build(self.base.task, self.base.train.label_smoothing), ())
        metrics = {metric.name: metric for metric in (*known, LOSS)}
        found: dict[str, Literal["maximize", "minimize"]] = {}
        for name in self.objectives or (known[0].name,):
            if name not in metrics and name not in COSTS:
                listed = ", ".join([*metrics, *COSTS])
                raise InputError(f"--objectives {name}: must be some of {listed}")
            higher = name in metrics and metrics[name].higher_is_better
            found[name] = "maximize" if higher else "minimize"
        if self.pruner != "none" and [*found] not in [[name] for name in metrics]:
            raise InputError(
                f"--pruner {self.pruner}: goes by one metric; leave --objectives at one of "
                f"{', '.join(metrics)}, or the pruner out"
            )
        return found

    def about(self) -> dict[str, Any]:
        """Returns what may not change in a study that goes on."""
        spaces = [vars(space) for space in self.spaces]
        about = {"config": to_dict(self.base), "spaces": spaces, "objectives": self.directions()}
        found: dict[str, Any] = json.loads(json.dumps(about, default=str))
        return found


class Study:
    """A study of Optuna's in the folder of a sweep.

    Args:
        folder: the folder of the sweep.
        search: what is searched.
        shared: whether other processes search there too.

    Raises:
        InputError: Optuna is not installed, or the folder holds the study of another search.
    """

    def __init__(self, folder: Path, search: Search, *, shared: bool = False) -> None:
        search = replace(search, base=_settled(search.base, folder))
        self.folder, self.search = folder, search
        self._patience = SECONDS_TO_BEGIN if shared else 0
        self._objectives = search.directions()
        optuna = _optuna(search.sampler)
        self._asked: dict[Path, Any] = {}
        folder.mkdir(parents=True, exist_ok=True)
        with self._locked(), as_one_line(f"{folder / JOURNAL} is damaged"):
            self._study = optuna.create_study(
                storage=_storage(folder / JOURNAL),
                study_name="sweep",  # by which Hyperband draws a trial's bracket
                sampler=_seeded(search.sampler, search.seed),
                pruner=_pruner(search),
                directions=[*self._objectives.values()],
                load_if_exists=True,
            )
            if "about" not in self._study.user_attrs:
                self._study.set_user_attr("about", search.about())
        require_same(folder, self._study.user_attrs["about"], search)

    # -------------------------------------------------------------------- what is to be trained

    def ask(self, most: int) -> list[Trial]:
        """Returns up to so many trials that are new, as long as the search has some left."""
        space = {space.field: _distribution(space) for space in self.search.spaces}
        made = []
        with self._locked():
            there = len(self._study.get_trials(deepcopy=False))
            for _ in range(min(most, self.search.trials - there)):
                asked = self._study.ask(space)
                made += self._made([asked], {asked.number: asked})
        return distinct(made)

    def orphans(self) -> list[Trial]:
        """Returns the trials that were asked for by processes that are gone."""
        from optuna.trial import Trial as Asked

        gone = [one for one in self._unheld() if _age(one) > self._patience]
        return distinct(self._made(gone, {o.number: Asked(self._study, o._trial_id) for o in gone}))

    def waits(self) -> bool:
        """Tells whether a trial was asked for a moment ago that nobody trains yet."""
        return bool(self._unheld())

    def elsewhere(self) -> list[Path]:
        """Returns the run folders of the trials that other processes train."""
        return [self.folder / name_of(self._values(one)) for one in self._running()]

    def _made(self, trials: Sequence[Any], asked: Mapping[int, Any]) -> list[Trial]:
        """Returns the trials that can be experiments, and tells the study of the others."""
        made = []
        for one in trials:
            try:
                found = trial(self.search.base, self._values(one))
            except InputError as error:
                self._refuse(one.number, str(error))
                continue
            self._asked[self.folder / found.name] = asked[one.number]
            made.append(found)
        return made

    # ------------------------------------------------------------------- what it is told

    def prune(self, folder: Path, record: Record) -> bool:
        """Tells the study of an evaluation; returns whether the run is to be given up."""
        if self.search.pruner == "none" or folder not in self._asked:
            return False
        (name,), asked = self._objectives, self._asked[folder]
        with _unharmed(folder):
            asked.report(_of_split(name, record), record["epoch"])
            return bool(asked.should_prune())
        return False

    def tell(self, outcome: Outcome) -> None:
        """Tells the study what trials came to, as far as they have come to an end."""
        for one in self._running():
            folder = self.folder / name_of(self._values(one))
            with _unharmed(folder):
                self._tell(one.number, folder, outcome)

    def harvest(self) -> None:
        """Tells the study of trials that have ended, but whose process did not come to tell."""
        outcome = Outcome()
        for one in self._unheld():
            folder = self.folder / name_of(self._values(one))
            with contextlib.suppress(InputError):  # which whoever trains it will hear
                if (folder / "summary.json").exists():
                    outcome.results[folder] = plain(run_folder.read_summary(folder))
                elif (fault := standing.fault(folder)) is not None and fault.ended != "failed":
                    outcome.gave_up(fault.ended)[folder] = fault.reason
        if outcome != Outcome():
            self.tell(outcome)

    def _tell(self, number: int, folder: Path, outcome: Outcome) -> None:
        from optuna.trial import TrialState

        if folder in outcome.results:
            result = outcome.results[folder]
            values = [self._reached(name, folder, result) for name in self._objectives]
            self._study.tell(number, values, skip_if_finished=True)
        elif folder in outcome.pruned or folder in outcome.diverged:
            # A sampler avoids what was pruned, but does not look at what has failed.
            self._study.tell(number, state=TrialState.PRUNED, skip_if_finished=True)
        elif folder in outcome.refused:
            self._refuse(number, outcome.refused[folder])

    def _refuse(self, number: int, reason: str) -> None:
        from optuna.trial import TrialState

        self._study.set_user_attr(f"refused {number}", reason)
        self._study.tell(number, state=TrialState.FAIL, skip_if_finished=True)

    def _reached(self, name: str, folder: Path, result: Mapping[str, Any]) -> float:
        """Returns what a finished run came to, by an objective."""
        if name == "macs":
            return macs(folder)
        return float(result[name]) if name in COSTS else _of_split(name, result)

    def lines(self, trials: Sequence[Trial], outcome: Outcome) -> list[str]:
        """Says in a line each what trials have come to."""
        said, there = [], {name: number for number, name in enumerate(self.values(), start=1)}
        for one in trials:
            folder, values = (
                self.folder / one.name,
                ", ".join(f"{k}={v}" for k, v in one.values.items()),
            )
            line = f"trial {there[one.name]} of {self.search.trials}: {values}"
            if folder in outcome.results:
                first = next(iter(self._objectives))
                reached = self._reached(first, folder, outcome.results[folder])
                said.append(f"{line}: {first} {reached:.4g}")
            elif folder in outcome.pruned:
                said.append(f"{line}: pruned {outcome.pruned[folder]}")
        return said

    # ------------------------------------------------------------------- what it knows

    def values(self) -> dict[str, Mapping[str, Any]]:
        """Returns the values of the trials that were asked for, by name, in their order."""
        values = [self._values(one) for one in self._whole()]
        return {name_of(one): one for one in values}

    def refused(self) -> dict[str, str]:
        """Returns why trials cannot be trained, by name."""
        reasons = self._study.user_attrs
        found = {name_of(self._values(one)): f"refused {one.number}" for one in self._whole()}
        return {name: reasons[key] for name, key in found.items() if key in reasons}

    def importances(self) -> dict[str, float]:
        """Returns the share of the variance of the first objective that each field explains.

        That is functional ANOVA over the trees of a random forest (Hutter, Hoos and Leyton-Brown,
        2014); it is empty where too few trials have ended.
        """
        from optuna import importance

        target = (lambda one: one.values[0]) if len(self._objectives) > 1 else None
        with contextlib.suppress(ValueError, RuntimeError), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            evaluator = importance.FanovaImportanceEvaluator(seed=self.search.seed)
            return importance.get_param_importances(self._study, evaluator=evaluator, target=target)
        return {}

    def front(self) -> list[str]:
        """Returns the names of the trials that no other beats in all of several objectives."""
        if len(self._objectives) == 1:
            return []
        return [name_of(self._values(one)) for one in self._study.best_trials]

    def _values(self, one: Any) -> dict[str, Any]:
        return values_at(self.search.spaces, [one.params[s.field] for s in self.search.spaces])

    def _whole(self) -> Sequence[Any]:
        """Returns the trials, as Optuna holds them, without one in whose asking a process died."""
        with self._locked():
            found = self._study.get_trials(deepcopy=False)
        return [one for one in found if len(one.params) == len(self.search.spaces)]

    def _running(self) -> Sequence[Any]:
        """Returns those of them that have not ended."""
        return [one for one in self._whole() if not one.state.is_finished()]

    def _unheld(self) -> Sequence[Any]:
        """Returns those of them that no process trains."""
        folders = [(one, self.folder / name_of(self._values(one))) for one in self._running()]
        return [one for one, folder in folders if not standing.is_taken(folder)]

    def _locked(self) -> contextlib.AbstractContextManager[None]:
        return standing.held(self.folder / ".study.lock")


JOURNAL = "study.jsonl"
"""The file of a study."""


def require_same(folder: Path, about: Mapping[str, Any], search: Search) -> None:
    """Refuses to go on with a study in which something else was searched.

    Raises:
        InputError: names what has changed.
    """
    now = search.about()
    changed = [*differences(about["config"], now["config"])]
    changed = [name for name in changed if name not in RESUME_MAY_CHANGE]
    changed += [name for name in ("spaces", "objectives") if about[name] != now[name]]
    if changed:
        raise InputError(
            f"workdir {folder}: holds the study of another search, with another "
            f"{', '.join(changed)}; give another --workdir"
        )


def vacant(folder: Path, search: Search, say: Callable[[str], object]) -> Path:
    """Returns a folder or, where another search lies in it, the first one of NAME-2, NAME-3, ...

    Args:
        folder: the folder to take if it is free.
        search: what is searched.
        say: hears in one line why another folder is taken.
    """
    for number in itertools.count(1):
        chosen = folder if number == 1 else folder.with_name(f"{folder.name}-{number}")
        if not chosen.exists():
            break
        if (chosen / JOURNAL).exists():
            with contextlib.suppress(InputError):
                Study(chosen, search)
                break
    if chosen != folder:
        say(f"{folder} holds another sweep: this one is in {chosen}")
    return chosen


def _settled(base: Experiment, folder: Path) -> Experiment:
    """Returns the experiment as its trials are trained, with a validation set."""
    (run,) = put_aside(settled([Run(base, folder)]), sweep=True)
    return run.experiment


def macs(folder: Path) -> float:
    """Returns the multiply-accumulates of a finished run's network; NaN where it is not at hand."""
    layers = arms.group([arms.read(folder)])[0].layers()
    return math.nan if layers is None else float(layers.macs)


def _of_split(name: str, record: Mapping[str, Any]) -> float:
    """Returns a metric on the split that is chosen by."""
    prefix = PREFIX["validation" if f"val_{name}" in record else "test"]
    return float(record[f"{prefix}_{name}"])


def _age(one: Any) -> float:
    """Returns the seconds since a trial was asked for."""
    return (datetime.now() - one.datetime_start).total_seconds()


def _unharmed(folder: Path) -> contextlib.AbstractContextManager[None]:
    """Lets a run be, whatever its study says."""
    return as_warning(f"{folder}: its study was not told")


# ------------------------------------------------------------------------- what Optuna is given


def _optuna(sampler: str) -> Any:
    """Imports Optuna, which then says nothing below a warning.

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


def _storage(path: Path) -> Any:
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
                content = file.read()
                file.truncate(content.rfind(b"\n") + 1)
            return True

        def release(self) -> None:
            self._held.close()

    return JournalStorage(JournalFileBackend(str(path), Lock()))  # type: ignore[arg-type]


def _seeded(name: Sampler, seed: int) -> Any:
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


def _pruner(search: Search) -> Any:
    from optuna import pruners

    epochs = search.base.train.epochs
    kinds: dict[Pruner, Callable[[], Any]] = {
        "none": pruners.NopPruner,
        "median": pruners.MedianPruner,
        "hyperband": lambda: pruners.HyperbandPruner(max_resource=epochs),
    }
    return kinds[search.pruner]()


def _distribution(space: Space) -> Any:
    from optuna import distributions

    if space.kind == "choices":
        return distributions.CategoricalDistribution(space.choices)
    if space.kind == "int":
        return distributions.IntDistribution(int(space.low), int(space.high))
    return distributions.FloatDistribution(space.low, space.high, log=space.kind == "log")
