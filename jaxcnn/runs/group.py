"""The only entry that trains: one run or many, alone or together in one compiled program.

A run alone is a group of one. The way of a group is read from top to bottom: :func:`train` says
which runs are left and which are computed together, :func:`_train_group` builds what they share
and finds where each begins, :func:`_loop` trains.
"""

import contextlib
import functools
import itertools
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

import jax
import numpy as np

from jaxcnn.config import Data, Experiment, SeedsMode, to_dict
from jaxcnn.data import sources
from jaxcnn.errors import Diverged, InputError, Stopped
from jaxcnn.runs import together
from jaxcnn.runs.display import Listener
from jaxcnn.runs.program import Compiled, Program, program_key
from jaxcnn.runs.together import Modes
from jaxcnn.runs.training import Evaluate, Run, Training, start_of
from jaxcnn.train import mesh, processes, run_folder

SECONDS_PER_CHUNK = 0.5
"""A chunk returns to the host about this often: for the display, and to notice a signal."""
STATES_BYTES = 2**32
"""The states of runs that are computed together are held at once; at most this much."""

Load = Callable[[Data], sources.Dataset]


@dataclass(frozen=True)
class Outcome:
    """What became of runs, by their folders.

    Attributes:
        results: what summary.json holds, of every run that has ended well.
        diverged: at which step, and what may help, of every run that has diverged.
        refused: why, of every run that could not be trained.
    """

    results: dict[Path, dict[str, Any]] = field(default_factory=dict)
    diverged: dict[Path, str] = field(default_factory=dict)
    refused: dict[Path, str] = field(default_factory=dict)


def train_one(
    experiment: Experiment,
    folder: Path,
    listener: Listener | None = None,
    *,
    profile: tuple[int, int] | None = None,
) -> dict[str, Any]:
    """Trains one run, going on where an earlier call ended; returns what summary.json holds.

    Args:
        experiment: what is trained.
        folder: the run folder.
        listener: hears messages, progress and records.
        profile: first and last step of a trace, which goes into the folder ``profile``.

    Raises:
        InputError: a fault in the experiment, the data or the folder.
        Diverged: the loss is no longer finite.
        Stopped: a signal came; the state is saved.
    """
    outcome = train([Run(experiment, folder)], listener, profile=profile)
    if outcome.diverged:
        raise Diverged(outcome.diverged[folder])
    return outcome.results[folder]


def train(
    runs: Sequence[Run],
    listener: Listener | None = None,
    *,
    modes: Modes | None = None,
    even_few: bool = False,
    skip_unfit: bool = False,
    profile: tuple[int, int] | None = None,
) -> Outcome:
    """Trains runs, or goes on with them, or reuses what their folders hold.

    Everything is checked before anything is trained. A run that diverges is given up; the others
    go on. Runs come in the order given, but those that are computed together come together.

    Args:
        runs: any runs, in folders of their own.
        listener: hears messages, progress and records.
        modes: remembers how each run is computed; None computes each run alone.
        even_few: runs that share their program are computed together although they are fewer than
            the devices that a run alone would use.
        skip_unfit: leaves out the runs that cannot be trained, which then are ``refused``.
        profile: first and last step of a trace of a single run.

    Raises:
        InputError: a folder holds a run of another config, or there is a fault in an experiment
            or its data.
        Stopped: a signal came; every state is saved.
    """
    if listener is None or not processes.is_first():
        listener = Listener()
    load = functools.lru_cache(maxsize=1)(sources.load)  # most runs share their data
    # First of all, so that a signal while the data are read or compiled is not lost either.
    with StopRequest() as stop:
        session = _Session(listener, stop, Outcome(), modes, load)
        left = []
        for run in runs:
            result = run_folder.finished(run.folder, to_dict(run.experiment))
            if result is None:
                left.append(run)
            else:
                listener.message(f"{run.folder} is finished: {result['epochs']} epochs")
                session.outcome.results[run.folder] = result
        fit = [(run, False) for run in left]
        if modes is not None or len(left) > 1:
            fit = _checked(left, load, session.outcome.refused if skip_unfit else None)
        for number, (group, mode) in enumerate(together.groups(fit, modes, even_few)):
            if number:
                stop.raise_if_asked()
            if len(runs) > 1 and mode == "alone":
                place = runs.index(group[0]) + 1
                listener.message(f"run {place} of {len(runs)}: {group[0].folder}")
            _train_group(session, group, mode, profile)
    return session.outcome


class StopRequest:
    """While it is entered, SIGTERM and SIGINT are noted instead of ending the process."""

    def __init__(self) -> None:
        self.signal: int | None = None
        self._calls = itertools.count()
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> "StopRequest":
        """Takes the handlers over; a second signal acts as it would have before."""
        for number in (signal.SIGTERM, signal.SIGINT):
            self._previous[number] = signal.signal(number, self._note)
        return self

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.signal = number
        self.__exit__()

    def __exit__(self, *_: object) -> None:
        """Gives the handlers back."""
        while self._previous:
            signal.signal(*self._previous.popitem())

    def agreed(self, steps: int) -> tuple[int | None, int]:
        """Returns the signal that any of the processes has noted, and the first one's steps."""
        return processes.agree(next(self._calls), self.signal, steps)

    def raise_if_asked(self) -> None:
        """Ends the training between two groups, when everything is saved."""
        number, _ = self.agreed(0)
        if number is not None:
            raise Stopped(number)


def _checked(
    runs: Sequence[Run], load: Load, refused: dict[Path, str] | None
) -> list[tuple[Run, bool]]:
    """Checks runs without compiling anything: one of those that share their program for all.

    Args:
        runs: those that are left to be trained.
        load: reads a dataset.
        refused: takes up those that cannot be trained; None raises the first one's error.

    Returns:
        The runs that can be trained, each with whether its data are streamed.
    """
    keys = [program_key(run.experiment) for run in runs]
    found: dict[str, bool | InputError] = {}
    for key, run in zip(keys, runs, strict=True):
        if key not in found:
            try:
                dataset = load(run.experiment.data)
                start_of(Program(run.experiment, dataset, mesh.make_mesh(run.experiment)))
                found[key] = dataset.streamed
            except InputError as error:
                if refused is None:
                    many = len(set(keys)) > 1
                    raise InputError(f"{run.folder}: {error}" if many else str(error)) from error
                found[key] = error
    fit = []
    for key, run in zip(keys, runs, strict=True):
        verdict = found[key]
        if isinstance(verdict, InputError):
            assert refused is not None
            refused[run.folder] = str(verdict)
        else:
            fit.append((run, verdict))
    return fit


@dataclass(frozen=True)
class _Session:
    """What one call of :func:`train` keeps from its beginning to its end."""

    listener: Listener
    stop: StopRequest
    outcome: Outcome
    modes: Modes | None
    load: Load

    @contextlib.contextmanager
    def giving_up(self, training: Training, count: int) -> Iterator[None]:
        """Gives a run up that diverges; the others of its group, ``count`` in all, go on."""
        try:
            yield
        except Diverged as diverged:
            training.active = False
            self.outcome.diverged[training.folder] = str(diverged)
            if count > 1:
                self.listener.message(f"{training.folder}: {diverged}")


def _train_group(
    session: _Session, runs: Sequence[Run], mode: SeedsMode, profile: tuple[int, int] | None
) -> None:
    """Trains runs that share their program, as many at once as their states have room."""
    experiment, alone = runs[0].experiment, mode == "alone"
    devices = mesh.make_mesh(experiment) if alone else mesh.one_device()
    program = Program(experiment, session.load(experiment.data), devices)
    window = Window(*profile, runs[0].folder / "profile") if profile else None
    if window is not None and window.last > program.total_steps:
        raise InputError(
            f"--profile {window.first}:{window.last}: must end within the run's "
            f"{program.total_steps} steps"
        )
    size = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(program.network.shapes))
    room = max(1, STATES_BYTES // size)
    session.listener.message(program.title())
    for part in (runs[i : i + room] for i in range(0, len(runs), room)):
        with contextlib.ExitStack() as closing:
            trainings = []
            for run in part:
                name = session.modes.name(run.folder) if session.modes and not alone else ""
                trainings.append(Training(run, program, session.listener, closing, name))
            if alone:
                chosen, (training,) = mode, trainings
                chunk = program.compile_chunk(training.state, training.rates, closing)
            else:
                states = tuple(training.state for training in trainings)
                rates = np.stack([training.rates for training in trainings])
                chosen, chunk = together.compile_fastest(program, states, rates, mode)
                session.listener.message(f"{len(part)} together ({chosen})")
            if session.modes is not None:
                session.modes.note([run.folder for run in part], chosen)
            evaluate = program.compile_evaluate(trainings[0].state)
            _loop(session, trainings, chunk, evaluate, window)


def _loop(
    session: _Session,
    trainings: Sequence[Training],
    chunk: Compiled,
    evaluate: Evaluate,
    window: "Window | None",
) -> None:
    """Trains a group from where its runs begin to where the last of them ends.

    Raises:
        Stopped: a signal came; every state is saved.
    """
    count = len(trainings)
    steps = 1  # of the next chunk; the first one tells how long a step takes
    for training in trainings:
        training.measure(chunk.waited)
    while True:
        for training in trainings:
            if training.active and training.is_over():
                with session.giving_up(training, count):
                    result = training.finish(evaluate, chunk.memory, count)
                    session.outcome.results[training.folder] = result
        active = [training for training in trainings if training.active]
        if not active:
            return

        asked, steps = session.stop.agreed(steps)
        if asked is not None:
            for training in active:
                with session.giving_up(training, count):
                    training.save()
            raise Stopped(asked, max(training.step for training in active))

        ends = [training.next_end(steps) for training in trainings]
        tracing: Any = contextlib.nullcontext()
        if window is not None:
            ends[0], tracing = window.cut(active[0], ends[0])
        longest = max(end - training.step for training, end in zip(trainings, ends, strict=True))
        states = tuple(training.state for training in trainings)
        start = time.perf_counter()
        with tracing:
            states = chunk.run(states, np.array(ends, np.int32))
            jax.block_until_ready(states[-1].sums)
        seconds = time.perf_counter() - start
        steps = max(1, round(longest * SECONDS_PER_CHUNK / seconds))

        for training, state in zip(trainings, states, strict=True):
            if not training.active:
                training.state = state  # given no steps, but its arrays were consumed
                continue
            with session.giving_up(training, count):
                progress = training.advance(state, seconds / len(active))
                if training is active[0]:
                    session.listener.progress(progress)
                if training.evaluation_is_due():
                    training.evaluate(evaluate)
                if training.checkpoint_is_due():
                    training.save()


@dataclass(frozen=True)
class Window:
    """Steps that jax.profiler traces, a trace an epoch, for TensorBoard or xprof.

    Attributes:
        first: step at whose beginning the trace begins.
        last: step at whose beginning it ends.
        folder: where it is written.
    """

    first: int
    last: int
    folder: Path

    def cut(self, training: Training, end: int) -> tuple[int, Any]:
        """Returns where a chunk ends so that it is traced whole or not at all, and its context."""
        if training.step < self.first:
            return min(end, self.first), contextlib.nullcontext()
        if training.step < self.last:
            return min(self.last, training.epoch_end), jax.profiler.trace(str(self.folder))
        return end, contextlib.nullcontext()
