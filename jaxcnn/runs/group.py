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
from jaxcnn.runs.display import Listener
from jaxcnn.runs.program import Compiled, Program, program_key
from jaxcnn.runs.together import Modes, compile_fastest, devices_of
from jaxcnn.runs.training import Evaluate, Run, Training, check_start
from jaxcnn.train import mesh, processes, run_folder

SECONDS_PER_CHUNK = 0.5
"""A chunk returns to the host about this often: for the display, and to notice a signal."""
AT_MOST = 8
"""The largest number of runs that are computed together."""
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
    outcome = Outcome()
    # First of all, so that a signal while the data are read or compiled is not lost either.
    with StopRequest() as stop:
        left = []
        for run in runs:
            result = run_folder.finished(run.folder, to_dict(run.experiment))
            if result is None:
                left.append(run)
            else:
                listener.message(f"{run.folder} is finished: {result['epochs']} epochs")
                outcome.results[run.folder] = result
        load = functools.lru_cache(maxsize=1)(sources.load)  # most runs share their data
        fit = [(run, False) for run in left]
        if modes is not None or len(left) > 1:
            fit = _checked(left, load, outcome.refused if skip_unfit else None)
        for number, (group, mode) in enumerate(_groups(fit, modes, even_few)):
            if number:
                stop.raise_if_asked()
            if len(runs) > 1 and mode == "alone":
                place = runs.index(group[0]) + 1
                listener.message(f"run {place} of {len(runs)}: {group[0].folder}")
            _train_group(group, mode, modes, load, listener, stop, outcome, profile)
    return outcome


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
                check_start(Program(run.experiment, dataset, mesh.make_mesh(run.experiment)))
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


def _groups(
    runs: Sequence[tuple[Run, bool]], modes: Modes | None, even_few: bool
) -> list[tuple[list[Run], SeedsMode]]:
    """Returns the runs that are computed together, and how, in the order of their first ones.

    Seed, learning rate and schedule are arguments of the program of a run, so runs that differ in
    nothing else can share it. A run alone is a group of one in the mode ``"alone"``.
    """
    alike: dict[tuple[str, SeedsMode, bool], list[Run]] = {}
    for run, streamed in runs:
        mode, known = _mode(run, streamed, modes)
        alike.setdefault((program_key(run.experiment), mode, known), []).append(run)
    groups: list[tuple[list[Run], SeedsMode]] = []
    for (_, mode, known), those in alike.items():
        for part in (those[i : i + AT_MOST] for i in range(0, len(those), AT_MOST)):
            # A few runs leave devices idle that a run alone would use.
            few = len(part) == 1 or len(part) < len(devices_of(part[0].experiment))
            if mode == "alone" or (few and not known and not even_few):
                groups += [([run], "alone") for run in part]
            else:
                groups.append((part, mode))
    order = [run.folder for run, _ in runs]
    return sorted(groups, key=lambda group: order.index(group[0][0].folder))


def _mode(run: Run, streamed: bool, modes: Modes | None) -> tuple[SeedsMode, bool]:
    """Returns how a run is computed, and whether it has begun so."""
    config = run.experiment
    several = (config.devices.data or 1) * config.devices.fsdp > 1
    # Streams have an order of their own for every seed.
    if modes is None or streamed or several or jax.process_count() > 1:
        return "alone", False
    known = modes.known(run.folder)
    if known is None and run_folder.begun(run.folder):
        return "alone", True
    return known or config.train.seeds_mode, known is not None


def _train_group(
    runs: Sequence[Run],
    mode: SeedsMode,
    modes: Modes | None,
    load: Load,
    listener: Listener,
    stop: StopRequest,
    outcome: Outcome,
    profile: tuple[int, int] | None,
) -> None:
    """Trains runs that share their program, as many at once as their states have room."""
    first = runs[0]
    alone = mode == "alone"
    devices = mesh.make_mesh(first.experiment) if alone else mesh.one_device()
    program = Program(first.experiment, load(first.experiment.data), devices)
    if profile is not None and profile[1] > program.total_steps:
        raise InputError(
            f"--profile {profile[0]}:{profile[1]}: must end within the run's "
            f"{program.total_steps} steps"
        )
    size = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(program.network.shapes))
    room = max(1, STATES_BYTES // size)
    name = modes.name if modes is not None and not alone else lambda folder: ""
    listener.message(program.title())
    for part in (runs[i : i + room] for i in range(0, len(runs), room)):
        with contextlib.ExitStack() as closing:
            trainings = [
                Training(run, program, listener, closing, name(run.folder)) for run in part
            ]
            if alone:
                chosen, (training,) = mode, trainings
                chunk = program.compile_chunk(training.state, training.rates, closing)
            else:
                states = tuple(training.state for training in trainings)
                rates = np.stack([training.rates for training in trainings])
                chosen, chunk = compile_fastest(program, states, rates, mode)
                listener.message(f"{len(part)} together ({chosen})")
            if modes is not None:
                modes.note([run.folder for run in part], chosen)
            evaluate = program.compile_evaluate(trainings[0].state)
            window = Window(*profile, first.folder / "profile") if profile else None
            _loop(trainings, chunk, evaluate, listener, stop, outcome, window)


def _loop(
    trainings: Sequence[Training],
    chunk: Compiled,
    evaluate: Evaluate,
    listener: Listener,
    stop: StopRequest,
    outcome: Outcome,
    window: "Window | None",
) -> None:
    """Trains a group from where its runs begin to where the last of them ends.

    Raises:
        Stopped: a signal came; every state is saved.
    """
    steps = 1  # of the next chunk; the first one tells how long a step takes
    for training in trainings:
        training.measure(chunk.waited)
    while True:
        for training in trainings:
            if training.active and training.is_over():
                with _given_up_if_diverged(training, listener, outcome, len(trainings)):
                    result = training.finish(evaluate, chunk.memory)
                    outcome.results[training.folder] = result
        active = [training for training in trainings if training.active]
        if not active:
            return

        asked, steps = stop.agreed(steps)
        if asked is not None:
            for training in active:
                with _given_up_if_diverged(training, listener, outcome, len(trainings)):
                    training.save()
            raise Stopped(asked, max(training.step for training in active))

        ends = [training.next_end(steps) for training in trainings]
        tracing: Any = contextlib.nullcontext()
        if window is not None:
            ends[0], tracing = window.cut(active[0], ends[0])
        longest = max(end - training.step for training, end in zip(trainings, ends, strict=True))
        start = time.perf_counter()
        with tracing:
            states = chunk.run(
                tuple(training.state for training in trainings), np.array(ends, np.int32)
            )
            jax.block_until_ready(states[-1].sums)
        seconds = time.perf_counter() - start
        steps = max(1, round(longest * SECONDS_PER_CHUNK / seconds))

        for training, state in zip(trainings, states, strict=True):
            if not training.active:
                training.state = state  # given no steps, but its arrays were consumed
                continue
            with _given_up_if_diverged(training, listener, outcome, len(trainings)):
                progress = training.advance(state, seconds / len(active))
                if training is active[0]:
                    listener.progress(progress)
                if training.evaluation_is_due():
                    training.evaluate(evaluate)
                if training.checkpoint_is_due():
                    training.save()


@contextlib.contextmanager
def _given_up_if_diverged(
    training: Training, listener: Listener, outcome: Outcome, count: int
) -> Iterator[None]:
    """Gives a run up that diverges; the others of its group go on."""
    try:
        yield
    except Diverged as diverged:
        training.active = False
        outcome.diverged[training.folder] = str(diverged)
        if count > 1:
            listener.message(f"{training.folder}: {diverged}")


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
