"""The only entry that trains: one run or many, alone or together in one compiled program.

A run alone is a group of one. Read from top to bottom: :func:`train` says which runs are left and
which are computed together, :func:`_train_group` builds what they share and finds where each
begins, :func:`_loop` trains them.
"""

import contextlib
import functools
import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxcnn.config import Data, Experiment, SeedsMode, to_dict
from jaxcnn.config.brought import titled
from jaxcnn.data import sources
from jaxcnn.data.feed import crops_squares
from jaxcnn.errors import Diverged, InputError, Pruned, Stopped
from jaxcnn.learning import brought, mesh, processes, run_folder, standing
from jaxcnn.learning.background import Background
from jaxcnn.learning.records import Ending
from jaxcnn.learning.standing import Taken
from jaxcnn.learning.state import TrainState, snapshot
from jaxcnn.ops import lowering
from jaxcnn.runs import aside, sharing, together
from jaxcnn.runs.display import Ended, Listener
from jaxcnn.runs.evaluation import compile_evaluate
from jaxcnn.runs.goodput import Clock
from jaxcnn.runs.network import require_sizes
from jaxcnn.runs.program import Compiled, Program, ProgramKey, place_of, program_key
from jaxcnn.runs.settled import settled
from jaxcnn.runs.start import Outcome, Run, check_starts, trained_without_onednn
from jaxcnn.runs.stop import StopRequest
from jaxcnn.runs.together import Group, Grouping, Modes
from jaxcnn.runs.training import Evaluate, Prune, Training
from jaxcnn.tasks import Sums
from jaxcnn.text import counted

SECONDS_PER_CHUNK = 0.5
"""A chunk returns to the host about this often, or when its epoch ends: for the display, and to
notice a signal."""
PROGRAMS = 4
"""Programs that are kept between the check of a group and its training; each holds its data."""
STATES_BYTES = 2**32
"""Runs that are computed together are taken in parts whose states have at most this many bytes."""


def train_one(
    experiment: Experiment,
    folder: Path,
    listener: Listener | None = None,
    *,
    profile: tuple[int, int] | None = None,
    accept_changes: bool = False,
) -> dict[str, Any]:
    """Trains one run as :func:`train` does, and returns what summary.json holds.

    Raises:
        Diverged: the loss is no longer finite.
    """
    runs = [Run(experiment, folder)]
    outcome = train(runs, listener, profile=profile, accept_changes=accept_changes)
    if outcome.diverged:
        raise Diverged(f"{folder}: {outcome.diverged[folder]}")
    return outcome.results[folder]


def train(
    runs: Sequence[Run],
    listener: Listener | None = None,
    *,
    modes: Modes | None = None,
    grouping: Grouping = "many",
    skip_unfit: bool = False,
    shared: bool = False,
    prune: Prune | None = None,
    profile: tuple[int, int] | None = None,
    accept_changes: bool = False,
) -> Outcome:
    """Trains runs, or goes on with them, or reuses what their folders hold.

    Configs, folders and data are checked before anything is trained. A run that diverges is given
    up; the others go on. Runs come in the order given, but those that are computed together come
    together.

    Args:
        runs: any runs, in folders of their own.
        listener: hears messages, progress and records.
        modes: remembers how each run is computed; None computes each run alone.
        grouping: which runs that share their program are computed together.
        skip_unfit: leaves out the runs that cannot be trained, which then are ``refused``.
        shared: trains, one by one, the runs that no other process has taken, until none is left to
            be taken; a run that has diverged is not trained once more.
        prune: says after each evaluation whether the run is given up.
        profile: the steps of a single run, from the first to before the second, that are traced.
        accept_changes: goes on although what was brought has changed since a run began.

    Raises:
        InputError: a folder holds a run of another config, or there is a fault in an experiment
            or its data.
        Stopped: a signal came; every state that is finite is saved.
    """
    if listener is None or not processes.is_first():
        listener = Listener()
    # First of all, so that a signal while the data are read or compiled is not lost either.
    with StopRequest() as stop, Background() as background:
        session = _Session(listener, stop, background, modes, len(runs), shared, prune)
        runs = aside.put_aside(settled(runs, listener.message), listener)
        left = []
        for run in runs:
            result = run_folder.finished(run.folder, to_dict(run.experiment))
            _check_brought(run, accept_changes or result is not None, listener)
            if result is None:
                require_sizes(run.experiment)
                run_folder.check_place(run.folder)  # before hours are spent on the runs before
                left.append(run)
            else:
                done = counted(result["epochs"], "epoch")
                if not shared:
                    listener.message(f"{run.folder} is finished: {done}")
                session.outcome.results[run.folder] = result
                listener.closed(run.folder)
        if lowering.onednn_version():
            session.without_onednn = {run.folder for run in left if trained_without_onednn(run)}
        groups: list[Group] = [([run], "alone") for run in left]
        if session.many or modes is not None:
            groups = _checked_groups(session, left, "never" if shared else grouping, skip_unfit)
        if modes is not None and prune is None and (groups or session.outcome.results):
            _plan(modes.path.parent, runs)
        if session.many:
            listener.several([session.name(run.folder) for run in runs])
        session.began = time.monotonic()  # what is finished, or cannot be trained, took no time
        for number, (group, mode) in enumerate(
            sharing.free(groups, session.outcome) if shared else groups
        ):
            if number:
                stop.raise_if_asked()
            if session.many and mode == "alone":
                nth = runs.index(group[0]) + 1
                listener.heading(f"run {nth} of {len(runs)}: {group[0].folder}")
            with session.choosing(group) as choice:
                if choice:
                    listener.message(choice)
                with contextlib.suppress(*[Taken] * shared):  # by another, a moment ago
                    _train_group(session, group, mode, profile)
        if session.many:
            stop.raise_if_asked()  # what the caller would do with all of them can wait
    return session.outcome


def _plan(folder: Path, runs: Sequence[Run]) -> None:
    """Lets the folder of several runs tell which they are, before they are there."""
    names = [os.path.relpath(run.folder, folder) for run in runs]
    if processes.is_first() and standing.planned(folder) != names:
        standing.plan(folder, [run.folder for run in runs])


def _check_brought(run: Run, accept_changes: bool, listener: Listener) -> None:
    """Refuses a run with what was brought to it before, if that has changed, or tells of it."""
    changed = brought.changes(run.folder, run.experiment)
    if changed and not accept_changes:
        raise InputError(
            f"workdir {run.folder}: {'; '.join(changed)}; give another --workdir, or "
            "--accept-changes to go on with it as it is now"
        )
    for line in changed:
        listener.message(line)


def _train_group(
    session: "_Session", runs: Sequence[Run], mode: SeedsMode, profile: tuple[int, int] | None
) -> None:
    """Trains runs that share their program, as many at a time as fit into STATES_BYTES."""
    program = session.program(runs[0].experiment, mode)
    window = Window(*profile, runs[0].folder / "profile") if profile else None
    if window is not None and window.last > program.total_steps:
        raise InputError(
            f"--profile {window.first}:{window.last}: must end within the run's "
            f"{program.total_steps} steps"
        )
    size = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(program.network.shapes))
    room = max(1, STATES_BYTES // size)
    session.listener.metrics = program.network.metrics
    session.listener.heading(program.title(None if session.many else runs[0].folder))
    if crops_squares(program.dataset, program.experiment.data, program.experiment.augment):
        session.listener.message(
            "augment.random_resized_crop: crops are taken of the squares that photos are held as; "
            "--data.streaming True takes them of whole photos"
        )
    name = titled(runs[0].experiment.model.name)
    for first in range(0, len(runs), room):
        if first:
            session.stop.raise_if_asked()
        part = runs[first : first + room]
        step = run_folder.newest_step(part[0].folder) or 0
        stage = program.stages[place_of(program.stages, step + 1)]
        height, width, _ = stage.network.input_shape
        compiling = f"compiling {name} for {height}x{width}, this can take a minute"
        with contextlib.ExitStack() as closing:
            with session.listener.waiting(compiling):
                ready = _ready(session, program, part, mode, closing)
            _loop(session, *ready, window)
        session.background.check()


def _ready(
    session: "_Session",
    program: Program,
    runs: Sequence[Run],
    mode: SeedsMode,
    closing: contextlib.ExitStack,
) -> tuple[list[Training], Compiled, Evaluate, Evaluate, Clock]:
    """Finds where runs begin, and compiles what trains them together and what evaluates each."""
    start = time.perf_counter()
    trainings, chosen, clock = [], mode, Clock()
    for run in runs:
        name = session.modes.name(run.folder) if session.modes and mode != "alone" else ""
        looking = session.prune, sharing.require_left if session.shared else None
        known = session.listener, closing, session.background, clock, name, *looking
        trainings.append(Training(run, program, *known))
    closing.callback(session.background.settle)  # before their folders are given back
    if mode == "alone":
        (training,) = trainings
        chunk = program.compile_chunk(training.state, training.rates, closing)
    else:
        states = tuple(training.state for training in trainings)
        rates = np.stack([training.rates for training in trainings])
        chosen, chunk = together.compile_fastest(program, states, rates, mode)
        session.listener.message(f"{len(runs)} together ({chosen})")
    if session.modes is not None:
        session.modes.note([run.folder for run in runs], chosen)
    evaluate = _compiled(program, trainings[0].state, program.selected_on)
    test = evaluate if program.selected_on == "test" else _compiled_late(program)
    jax.block_until_ready(snapshot(trainings[0].state))  # compiled before the clock begins
    clock.begin(time.perf_counter() - start, chunk.idle)
    return trainings, chunk, evaluate, test, clock


def _compiled(program: Program, state: TrainState, split: sources.HeldOut) -> Evaluate:
    devices = program.devices
    return compile_evaluate(program.network, program.dataset, state, devices=devices, split=split)


def _compiled_late(program: Program) -> Evaluate:
    """Returns the evaluation on the test set, which takes no memory before a run has ended."""
    compiled: list[Evaluate] = []

    def test(state: TrainState) -> Sums:
        if not compiled:
            compiled.append(_compiled(program, state, "test"))
        return compiled[0](state)

    return test


def _loop(
    session: "_Session",
    trainings: Sequence[Training],
    chunk: Compiled,
    evaluate: Evaluate,
    test: Evaluate,
    clock: Clock,
    window: "Window | None",
) -> None:
    """Trains a group from where its runs begin to where the last of them ends.

    What is known after a chunk of steps is read, recorded and saved while the next one runs.

    Raises:
        Stopped: a signal came; every state that is finite is saved.
    """
    steps = 1  # of the next chunk; the first one tells how long a step takes
    for training in trainings:
        training.completed = chunk.completed
        training.restart_clock(chunk.waited)
    while True:
        for training in trainings:
            if training.active and training.waits():
                with session.giving_up(training):
                    training.read()
            if training.active and training.is_over():
                with session.giving_up(training):
                    result = training.finish(evaluate, test, chunk.memory(), len(trainings))
                    session.outcome.results[training.folder] = result
                    session.ended(training.folder)
        active = [training for training in trainings if training.active]
        if not active:
            return

        late = any(training.time_to_save() for training in active)
        asked, steps, late = session.stop.agreed(steps, late)
        if asked is not None:
            for training in active:
                with session.giving_up(training):
                    training.save()
            saved = [training.step for training in active if training.active]
            if not saved:
                return  # all that were left have diverged
            raise Stopped(asked, max(saved))

        ends = [training.next_end(steps) for training in trainings]
        tracing: Any = contextlib.nullcontext()
        if window is not None:
            ends[0], tracing = window.cut(trainings[0], ends[0])
        done = [end - training.step for training, end in zip(trainings, ends, strict=True)]
        states = tuple(training.state for training in trainings)
        if side := chunk.due(ends):
            compiling = session.listener.waiting(f"compiling for {side}x{side} pixels")
            with compiling, clock.spent("compile"):
                chunk.compile(ends)
        with tracing, clock.chunk() as seconds:
            states = chunk.run(states, np.array(ends, np.int32))
            for training in active:
                with session.giving_up(training):
                    training.read()
            jax.block_until_ready(states[-1].sums)
        steps = max(1, round(max(done) * SECONDS_PER_CHUNK / seconds()))

        for training, state, end, own in zip(trainings, states, ends, done, strict=True):
            if not training.active:
                training.state = state  # given no steps, but its arrays were consumed
                continue
            with session.giving_up(training):
                progress = training.advance(state, end, seconds(), own / sum(done))
                if training is active[0]:
                    session.listener.progress(progress)
                save = late or training.save_is_due()
                if training.evaluation_is_due():
                    training.look(evaluate, save=save)
                elif save:
                    training.look(None, save=True)


class _Session:
    """What one call of :func:`train` keeps from its beginning to its end."""

    def __init__(
        self,
        listener: Listener,
        stop: StopRequest,
        background: Background,
        modes: Modes | None,
        runs: int,
        shared: bool = False,
        prune: Prune | None = None,
    ) -> None:
        self.listener, self.stop, self.background = listener, stop, background
        self.modes, self.runs, self.shared, self.prune = modes, runs, shared, prune
        self.many, self.trained, self.began = runs > 1, 0, time.monotonic()
        self.outcome = Outcome()
        self.load = functools.lru_cache(maxsize=2)(self._load)  # most runs share their data
        self.without_onednn: set[Path] = set()
        self._noted: set[str] = set()
        self._programs: dict[tuple[ProgramKey, SeedsMode, str], Program] = {}

    def program(self, experiment: Experiment, mode: SeedsMode) -> Program:
        """Returns what experiments share that differ in no more than arguments of their program.

        Raises:
            InputError: a fault in the experiment, or data that it does not fit.
        """
        key = program_key(experiment), mode, lowering.onednn_version()
        if key not in self._programs:
            if len(self._programs) == PROGRAMS:  # the oldest goes, and with it its data
                del self._programs[next(iter(self._programs))]
            devices = mesh.make_mesh(experiment) if mode == "alone" else mesh.one_device()
            with self.listener.waiting(f"reading {experiment.data.name}", said=False):
                dataset = self.load(experiment.data)
            self._programs[key] = Program(experiment, dataset, devices)
        return self._programs[key]

    @contextlib.contextmanager
    def choosing(self, group: Sequence[Run]) -> Iterator[str]:
        """Leaves oneDNN out where runs have done their steps without it; yields a line on that."""
        those = [str(run.folder) for run in group if run.folder in self.without_onednn]
        line = f"{', '.join(those)}: goes on without oneDNN, as it was trained so far"
        with lowering.without_onednn(bool(those)):
            yield line if those else ""

    def _load(self, data: Data) -> sources.Dataset:
        found = sources.load(data)
        for line in (found.note, sources.unseen(found, data)):
            if line and line not in self._noted:
                self._noted.add(line)
                self.listener.message(line)
        return found

    @contextlib.contextmanager
    def giving_up(self, training: Training) -> Iterator[None]:
        """Gives a run up that diverges or is pruned; the others of its group go on."""
        try:
            yield
        except (Diverged, Pruned) as why:
            ended: Ending = "diverged" if isinstance(why, Diverged) else "pruned"
            training.give_up(ended, str(why))
            self.outcome.give_up(training.folder, ended, str(why))
            if self.many:
                self.listener.message(f"{training.folder}: {why}")
            self.ended(training.folder)

    def ended(self, folder: Path) -> None:
        """Says that a run has ended and, of several, about how long the others will take."""
        found = self.outcome
        self.listener.closed(folder, found.given_up.get(folder, ""))
        self.trained += 1
        if self.many:
            done = len(found.results) + len(found.given_up) + len(found.refused)
            left = (time.monotonic() - self.began) / self.trained * (self.runs - done)
            left = 0.0 if self.shared else left  # nobody here knows how fast the others are
            result, metrics = found.results.get(folder), self.listener.metrics
            self.listener.ended(Ended(self.name(folder), result, done, self.runs, left, metrics))

    def name(self, folder: Path) -> str:
        """Returns what one of several runs is called."""
        return self.modes.name(folder) if self.modes else str(folder)


def _checked_groups(
    session: _Session, runs: Sequence[Run], grouping: Grouping, skip_unfit: bool
) -> list[Group]:
    """Groups runs that share their program, and checks each group without compiling anything."""

    def refuse(those: Sequence[Run], error: InputError) -> None:
        if not skip_unfit:
            alike = len(runs) == len(those)
            raise InputError(str(error) if alike else f"{those[0].folder}: {error}") from error
        session.outcome.refused.update({run.folder: str(error) for run in those})

    streamed: dict[Data, bool | InputError] = {}
    for run in runs:
        data = run.experiment.data
        if data not in streamed:
            try:
                with session.listener.waiting(f"reading {data.name}", said=False):
                    streamed[data] = session.load(data).streamed
            except InputError as error:
                streamed[data] = error
                refuse([other for other in runs if other.experiment.data == data], error)
    readable = [
        (run, verdict)
        for run in runs
        if not isinstance(verdict := streamed[run.experiment.data], InputError)
    ]
    made_here = {str(run.folder) for run in runs}
    groups = []
    for group, mode in together.groups(readable, session.modes, grouping):
        config = group[0].experiment
        if not {config.model.init_from, config.train.distill_from} & made_here:
            try:
                with session.choosing(group):
                    check_starts(group, session.program(config, mode))
            except InputError as error:
                refuse(group, error)
                continue
        groups.append((group, mode))
    return groups


@dataclass(frozen=True)
class Window:
    """The steps from ``first`` to before ``last`` that jax.profiler traces, a trace an epoch."""

    first: int
    last: int
    folder: Path

    def cut(self, training: Training, end: int) -> tuple[int, Any]:
        """Shortens a chunk so that it lies inside or outside; returns its end and its context."""
        if training.step < self.first:
            return min(end, self.first), contextlib.nullcontext()
        if training.step < self.last:
            return min(self.last, training.epoch_end), jax.profiler.trace(str(self.folder))
        return end, contextlib.nullcontext()
