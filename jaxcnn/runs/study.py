"""A search by Optuna, whose trials are asked for, trained and told: by one process or by many.

The study lies beside its runs, in a journal that all processes append to. It names the trials; what
became of each is in its run folder, so that nothing is lost with the process that trained it.
"""

import contextlib
import itertools
import json
import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from jaxcnn import tasks
from jaxcnn.analysis import arms
from jaxcnn.config import Experiment, differences, from_dict, to_dict
from jaxcnn.errors import InputError, as_one_line, as_warning
from jaxcnn.learning import run_folder, standing
from jaxcnn.learning.records import plain
from jaxcnn.runs import samplers
from jaxcnn.runs.aside import put_aside
from jaxcnn.runs.display import Listener, Record
from jaxcnn.runs.samplers import Pruner, Sampler
from jaxcnn.runs.search import Space, Trial, name_of, trial, values_at
from jaxcnn.runs.settled import settled
from jaxcnn.runs.start import Outcome, Run
from jaxcnn.tasks import LOSS, judged_by

COSTS = ("macs", "parameters", "seconds")
"""Objectives that are no metrics: the lower, the better."""
MAY_CHANGE = frozenset(
    {"name", "data.dir", "data.workers", "data.eval_batch_size", "devices.data", "devices.fsdp"}
)
"""Fields that a study which goes on may change: they decide nothing of what its trials come to."""


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
        if self.sampler == "cmaes" and len(found) > 1:
            raise InputError("--search cmaes: seeks one objective; give --search tpe for several")
        return found

    def epochs(self) -> int:
        """Returns the epochs of the longest trial."""
        swept = [space for space in self.spaces if space.field == "train.epochs"]
        ends = [space.value(end) for space in swept for end in space.ends()]
        return max(ends, default=self.base.train.epochs)

    def about(self) -> dict[str, Any]:
        """Returns what may not change in a study that goes on."""
        spaces = [vars(space) for space in self.spaces]
        about = {"config": to_dict(self.base), "spaces": spaces, "objectives": self.directions()}
        found: dict[str, Any] = json.loads(json.dumps(about, default=str))
        return found


class Study:
    """A study of Optuna's in the folder of a sweep.

    A trial's run folder is reserved while it is asked for, so that a trial whose folder nobody
    holds is a dead process's.

    Args:
        folder: the folder of the sweep.
        search: what is searched.
        shared: whether other processes search there too.

    Raises:
        InputError: Optuna is not installed, or the folder holds the study of another search.
    """

    def __init__(self, folder: Path, search: Search, *, shared: bool = False) -> None:
        self.folder, self.search, self._shared = folder, search, shared
        self._objectives, self._asked = search.directions(), dict[Path, Any]()
        self._macs: dict[Path, float] = {}
        samplers.load(search.sampler)  # before anything is made
        folder.mkdir(parents=True, exist_ok=True)
        with self._locked():
            self._study = _opened(folder, search)
            if "about" not in self._study.user_attrs:
                self._study.set_user_attr("about", search.about())
        require_same(folder, self._study, search)

    # -------------------------------------------------------------------- what is to be trained

    def ask(self, most: int) -> list[Trial]:
        """Returns up to so many trials that are new, as long as the search has some left.

        Those that can be no experiment are told to have failed; of equal ones one is returned.
        """
        space = {space.field: samplers.distribution(space) for space in self.search.spaces}
        made: dict[str, Trial] = {}
        with self._locked(), _said(self.folder):
            there = len(self._whole())
            while there < self.search.trials and len(made) < most:
                asked = self._study.ask(space)
                there += 1
                made |= self._reserved(asked, asked)
        return [*made.values()]

    def orphans(self) -> list[Trial]:
        """Returns the trials that were asked for by processes that are gone."""
        from optuna.trial import Trial as Asked

        made: dict[str, Trial] = {}
        with self._locked(), _said(self.folder):
            for one in self._running():
                folder = self.folder / name_of(self._values(one))
                fault = standing.fault(folder)
                if self._shared and fault is not None and fault.ended == "failed":
                    continue  # by a fault that would strike once more
                if not standing.is_taken(folder):
                    made |= self._reserved(one, Asked(self._study, one._trial_id))
        return [*made.values()]

    def _reserved(self, one: Any, asked: Any) -> dict[str, Trial]:
        """Returns a trial by its name, with its folder reserved; nothing where that cannot be."""
        values = self._values(one)
        folder = self.folder / name_of(values)
        try:
            found = trial(self.search.base, values)
        except InputError as error:
            self._refuse(one.number, str(error))
            return {}
        if not standing.reserve(folder):
            return {}
        self._asked[folder] = asked
        return {found.name: found}

    def has_ended(self, found: Trial) -> bool:
        """Tells whether an equal trial has ended before, whose end is then this one's too."""
        folder = self.folder / found.name
        fault = standing.fault(folder)
        given_up = fault is not None and fault.ended != "failed"
        return given_up or (folder / "summary.json").exists()

    def release(self, trials: Sequence[Trial]) -> None:
        """Gives back the folders of trials that were not trained after all."""
        for one in trials:
            standing.release(self.folder / one.name)

    def elsewhere(self) -> list[Path]:
        """Returns the run folders of the trials that other processes train."""
        running = [self.folder / name_of(self._values(one)) for one in self._running()]
        return [folder for folder in running if standing.is_taken(folder)]

    # ------------------------------------------------------------------- what it is told

    def prune(self, folder: Path, record: Record) -> bool:
        """Tells the study of an evaluation; returns whether the run is to be given up.

        A study that fails here costs a warning.
        """
        if self.search.pruner == "none" or folder not in self._asked:
            return False
        (name,), asked = self._objectives, self._asked[folder]
        with as_warning(f"{folder}: its study was not told"):
            asked.report(_of_split(name, record), record["epoch"])
            return bool(asked.should_prune())
        return False

    def tell(self, outcome: Outcome) -> None:
        """Tells the study what trials came to, as far as they have come to an end.

        Raises:
            InputError: the study cannot be told; the runs are there all the same.
        """
        with _said(self.folder):
            for one in self._running():
                self._tell(one.number, self.folder / name_of(self._values(one)), outcome)

    def harvest(self) -> None:
        """Tells the study of trials that have ended, but whose process did not come to tell.

        Raises:
            InputError: as :meth:`tell`.
        """
        outcome = Outcome()
        for one in self._running():
            folder = self.folder / name_of(self._values(one))
            if standing.is_taken(folder):
                continue
            fault = standing.fault(folder)
            if (folder / "summary.json").exists():
                outcome.results[folder] = plain(run_folder.read_summary(folder))
            elif fault is not None and fault.ended != "failed":
                outcome.give_up(folder, fault.ended, fault.reason)
        self.tell(outcome)

    def _tell(self, number: int, folder: Path, outcome: Outcome) -> None:
        from optuna.trial import TrialState

        if folder in outcome.results:
            result = outcome.results[folder]
            values = [self._reached(name, folder, result) for name in self._objectives]
            self._study.tell(number, values, skip_if_finished=True)
        elif folder in outcome.pruned or folder in outcome.diverged:
            # TPE keeps away from what was pruned, but does not look at what has failed.
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
            return self.macs(folder)
        return float(result[name]) if name in COSTS else _of_split(name, result)

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

    def macs(self, folder: Path) -> float:
        """Returns what :func:`macs` does, but traces each network only once."""
        if folder not in self._macs:
            self._macs[folder] = macs(folder)
        return self._macs[folder]

    def _values(self, one: Any) -> dict[str, Any]:
        return values_at(self.search.spaces, [one.params[s.field] for s in self.search.spaces])

    def _whole(self) -> Sequence[Any]:
        """Returns the trials, as Optuna holds them, without one in whose asking a process died."""
        found = self._study.get_trials(deepcopy=False)
        return [one for one in found if len(one.params) == len(self.search.spaces)]

    def _running(self) -> Sequence[Any]:
        """Returns those of them that have not ended."""
        return [one for one in self._whole() if not one.state.is_finished()]

    def _locked(self) -> contextlib.AbstractContextManager[None]:
        """Keeps other processes from asking; what is asked for is reserved before they may."""
        return standing.held(self.folder / ".study.lock")


JOURNAL = "study.jsonl"
"""The file of a study."""


def _opened(folder: Path, search: Search) -> Any:
    """Returns Optuna's study in a folder, which is made if it is not there."""
    optuna = samplers.load(search.sampler)
    with _said(folder):
        return optuna.create_study(
            storage=samplers.storage(folder / JOURNAL),
            study_name="sweep",  # by which Hyperband draws a trial's bracket
            sampler=samplers.seeded(search.sampler, search.seed),
            pruner=samplers.pruner(search.pruner, search.epochs()),
            directions=[*search.directions().values()],
            load_if_exists=True,
        )


def _said(folder: Path) -> contextlib.AbstractContextManager[None]:
    """Says in one line what is wrong with the study in a folder."""
    return as_one_line(f"{folder / JOURNAL}", "cannot be used ({}); the runs are kept")


def require_same(folder: Path, study: Any, search: Search) -> None:
    """Refuses to go on with a study in which something else was searched.

    Raises:
        InputError: names what has changed.
    """
    about, now = study.user_attrs["about"], search.about()
    then = about["config"]
    with contextlib.suppress(InputError):  # a version before, whose config lacks fields
        then = json.loads(json.dumps(to_dict(from_dict(then)), default=str))
    changed = [name for name in differences(then, now["config"]) if name not in MAY_CHANGE]
    changed += [name for name in ("spaces", "objectives") if about[name] != now[name]]
    if changed:
        raise InputError(
            f"workdir {folder}: holds the study of another search, with another "
            f"{', '.join(changed)}; give another --workdir"
        )


def check(folder: Path, search: Search) -> None:
    """Checks that a search can begin or go on in a folder, and changes nothing there.

    Raises:
        InputError: Optuna is not installed, or the study there cannot be used, or is of another
            search.
    """
    samplers.load(search.sampler)
    if (folder / JOURNAL).exists():
        require_same(folder, _opened(folder, search), search)


def vacant(folder: Path, search: Search, say: Callable[[str], object]) -> Path:
    """Returns a folder or, where another sweep lies in it, the first one of NAME-2, NAME-3, ...

    Args:
        folder: the folder to take if it is free.
        search: what is searched.
        say: hears in one line why another folder is taken.

    Raises:
        InputError: a study that lies there cannot be used, or Optuna is not installed.
    """
    for number in itertools.count(1):
        chosen = folder if number == 1 else folder.with_name(f"{folder.name}-{number}")
        if (chosen / JOURNAL).exists():
            study = _opened(chosen, search)
            with contextlib.suppress(InputError):
                require_same(chosen, study, search)
                break
        elif not run_folder.within(chosen):
            break
    if chosen != folder:
        say(f"{folder} holds another sweep: this one is in {chosen}")
    return chosen


def settled_base(base: Experiment, folder: Path, listener: Listener | None = None) -> Experiment:
    """Returns the experiment as its trials are trained, with a validation set.

    Args:
        base: the experiment of the file.
        folder: the folder of the sweep.
        listener: hears what was settled.
    """
    say = (listener or Listener()).message
    (run,) = put_aside(settled([Run(base, folder)], say), listener, sweep=True)
    return run.experiment


def macs(folder: Path) -> float:
    """Returns the multiply-accumulates of a finished run's network; NaN where it is not at hand."""
    layers = arms.group([arms.read(folder)])[0].layers()
    return math.nan if layers is None else float(layers.macs)


def _of_split(name: str, record: Mapping[str, Any]) -> float:
    """Returns a metric on the split that is chosen by."""
    return float(record.get(f"val_{name}", record.get(f"test_{name}")))
