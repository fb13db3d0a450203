"""Many runs computed together in one compiled program: seeds, or the trials of a sweep.

Each has its own folder, as if it had been trained alone, and goes its own way in it; only the
steps are computed together. Seed, learning rate and schedule are arguments of the program of a
run, so runs that differ in nothing else share it.
"""

import contextlib
import functools
import math
import os
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from jaxcnn.config import Devices, Experiment, SeedsMode
from jaxcnn.data import sources
from jaxcnn.errors import Diverged, Stopped
from jaxcnn.runs import jobs
from jaxcnn.runs.build import build_model
from jaxcnn.runs.program import Program, RatedChunk, program_key
from jaxcnn.runs.training import Listener, Training
from jaxcnn.train import files, loop, mesh
from jaxcnn.train import run_folder as folder
from jaxcnn.train.state import TrainState

AT_MOST = 8
"""So many trials of a sweep are computed together."""
STATES_BYTES = 2**32
"""The states of runs that are computed together are held at once; at most this much."""

States = tuple[TrainState, ...]
Together = Callable[[States, Any, Any, Any], States]
"""``(states, given, rates, ends) -> states``: a chunk of steps of every run."""


def train_all(planned: Sequence[jobs.Job], workdir: Path, listener: Listener) -> dict[Path, str]:
    """As :func:`jaxcnn.runs.jobs.train_all`; runs that share their program are trained together.

    Args:
        planned: any runs.
        workdir: where together.json goes, which says how each was computed.
        listener: hears all of them.

    Returns:
        For each run that diverged its folder, and at which step.

    Raises:
        InputError: a folder holds a run of another config (before anything is trained), or a
            fault in an experiment or its data.
        jaxcnn.errors.Stopped: a signal came; every state is saved.
    """
    modes = Modes(workdir / "together.json")
    alone: list[jobs.Job] = []
    groups: dict[tuple[str, str | None], list[jobs.Job]] = {}
    for job in planned:
        if jobs.is_finished(job):
            alone.append(job)
        else:
            key = program_key(job.experiment), modes.known(job)
            groups.setdefault(key, []).append(job)
    parts = []
    for (_, mode), group in groups.items():
        for part in (group[i : i + AT_MOST] for i in range(0, len(group), AT_MOST)):
            # A few runs leave devices idle that a run alone would use.
            many = len(part) > 1 and len(part) >= len(_devices(part[0].experiment))
            if many if mode is None else mode != "alone":
                parts.append(part)
            else:
                alone += part
                modes.note(part, "alone")
    with loop.StopRequest() as stop:
        failed = jobs.train_all(alone, listener) if alone else {}
        for part in parts:
            if stop.signal is not None:
                raise Stopped(stop.signal)
            failed |= train(part, modes, listener)
    return failed


class Modes:
    """In which mode each run is computed, in a file: gone on with, it comes to the same bits."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def name(self, run: jobs.Job) -> str:
        """Of a run: its folder, as seen from the file's."""
        return os.path.relpath(run.workdir, self.path.parent)

    def known(self, run: jobs.Job) -> SeedsMode | None:
        """What an earlier call has chosen."""
        return self._read().get(self.name(run))

    def note(self, runs: Sequence[jobs.Job], mode: SeedsMode) -> None:
        """Notes the mode of these runs, if there is a folder to go on with later."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        modes = self._read() | dict.fromkeys(map(self.name, runs), mode)
        files.write_json(self.path, {"modes": modes})

    def _read(self) -> dict[str, SeedsMode]:
        return files.read_json(self.path, "modes")["modes"] if self.path.exists() else {}


def train(runs: Sequence[jobs.Job], modes: Modes, listener: Listener) -> dict[Path, str]:
    """Trains unfinished runs that share their program.

    One after the other where each needs several devices, or streams data in an order of its own.

    Returns:
        For each run that diverged its folder, and at which step.

    Raises:
        InputError: a fault in the experiment, the data or a folder.
        jaxcnn.errors.Stopped: a signal came; every state is saved.
    """
    first = runs[0].experiment
    known = (mode for mode in map(modes.known, runs) if mode is not None)
    asked: SeedsMode = next(known, first.train.seeds_mode)
    if jax.process_count() > 1 or _several(first.devices) or asked == "alone":
        return jobs.train_all(runs, listener)
    with loop.StopRequest() as stop:
        dataset = sources.load(first.data)
        if dataset.streamed:
            return jobs.train_all(runs, listener)
        model = build_model(first, dataset.classes, dataset.image_shape)
        program = Program(first, dataset, model, mesh.one_device())
        listener.message(program.title())
        size = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(program.shapes))
        most = max(1, STATES_BYTES // size)
        failed: dict[Path, str] = {}
        for part in (runs[i : i + most] for i in range(0, len(runs), most)):
            if stop.signal is not None:
                raise Stopped(stop.signal)
            failed |= _train_part(program, part, asked, modes, listener, stop)
        return failed


def _train_part(
    program: Program,
    runs: Sequence[jobs.Job],
    asked: SeedsMode,
    modes: Modes,
    listener: Listener,
    stop: loop.StopRequest,
) -> dict[Path, str]:
    """Runs whose states are held at once."""
    active: dict[Path, loop.Chunks[dict[str, Any]]] = {}
    with contextlib.ExitStack() as closing:
        trainings = []
        for job in runs:
            opened = folder.RunFolder(job.workdir)
            closing.callback(opened.close)
            leads = functools.partial(_is_first, active, job.workdir)
            heard = _OneOfMany(listener, modes.name(job), leads)
            own = program.shared_with(job.experiment)
            trainings.append(Training(own, job.experiment, opened, heard, stop, closing))
        states = tuple(training.first_state() for training in trainings)
        rates = np.stack([training.program.rates for training in trainings])
        mode, run = _chosen(program, states, rates, asked)
        modes.note(runs, mode)
        listener.message(f"{len(runs)} together ({mode})")
        evaluate = program.compile_evaluate(states[0])
        for training, state in zip(trainings, states, strict=True):
            active[training.workdir] = training.steps(state, evaluate)
        return _drive(active, states, run, listener)


def _is_first(active: Mapping[Path, Any], path: Path) -> bool:
    return next(iter(active), None) == path


def _devices(experiment: Experiment) -> list[jax.Device]:
    """Those that a run alone would use, of one process."""
    return jax.devices()[: experiment.devices.data]


def _several(config: Devices) -> bool:
    return (config.data or 1) * config.fsdp > 1


class _OneOfMany(Listener):
    """Passes on what one run has to say, under its name; one of them moves the display."""

    def __init__(self, listener: Listener, name: str, leads: Callable[[], bool]) -> None:
        self._listener, self._name, self._leads = listener, name, leads

    def message(self, text: str) -> None:
        self._listener.message(f"{self._name}: {text}")

    def progress(self, progress: loop.Progress) -> None:
        if self._leads():
            self._listener.progress(progress)

    def record(self, record: loop.Record) -> None:
        self._listener.record({"run": self._name, **record})


def _drive(
    active: dict[Path, loop.Chunks[dict[str, Any]]],
    states: States,
    run: Callable[[States, np.ndarray], States],
    listener: Listener,
) -> dict[Path, str]:
    """Runs all trainings side by side; which diverged, and where.

    Those that have ended are given no more steps.
    """
    failed: dict[Path, str] = {}
    held = dict(zip(active, states, strict=True))
    ends = {path: np.int32(state.step) for path, state in held.items()}
    stopped: Stopped | None = None

    def resume(path: Path, value: Any) -> Stopped | None:
        """Sends a training what it waits for, and notes what it asks for next, or how it ends."""
        try:
            held[path], ends[path] = active[path].send(value)
            return None
        except StopIteration:
            ending = None
        except Diverged as diverged:
            listener.message(f"{path}: {diverged}")
            failed[path], ending = str(diverged), None
        except Stopped as error:
            ending = error
        del active[path]
        return ending

    try:
        for path in list(active):
            stopped = resume(path, None) or stopped
        while active:
            start = time.perf_counter()
            after = run(tuple(held.values()), np.array(list(ends.values()), np.int32))
            jax.block_until_ready(after[-1].sums)
            share = (time.perf_counter() - start) / len(active)
            held = dict(zip(held, after, strict=True))
            for path in list(active):
                stopped = resume(path, (held[path], share)) or stopped
    finally:
        for training in active.values():
            training.close()
    if stopped is not None:
        raise stopped
    return failed


def make_together(chunk: RatedChunk, mode: SeedsMode, devices: Sequence[jax.Device]) -> Together:
    """Makes the program of all runs from that of one.

    Args:
        chunk: ``(state, given, rates, end) -> state``.
        mode: ``"map"`` computes one run after the other in a loop, ``"unroll"`` the same without
            the loop, ``"vmap"`` all at once, ``"devices"`` as many at once as there are devices.
        devices: for ``"devices"``.
    """
    if mode == "unroll":
        return lambda states, given, rates, ends: tuple(
            chunk(state, given, *its) for state, *its in zip(states, rates, ends, strict=True)
        )

    def mapped(states: TrainState, given: Any, rates: jax.Array, ends: jax.Array) -> TrainState:
        if mode == "vmap":
            return jax.vmap(chunk, in_axes=(0, None, 0, 0))(states, given, rates, ends)
        return jax.lax.map(lambda one: chunk(one[0], given, one[1], one[2]), (states, rates, ends))

    if mode != "devices":

        def together(states: States, given: Any, rates: Any, ends: Any) -> States:
            return unstacked(mapped(stacked(states), given, rates, ends), len(states))

        return together

    grid = mesh.in_a_row(devices, "runs")
    parts, whole = PartitionSpec("runs"), PartitionSpec()
    spread = jax.jit(
        jax.shard_map(
            mapped,
            mesh=grid,
            in_specs=(parts, whole, parts, parts),
            out_specs=parts,
            check_vma=False,
        )
    )
    stack, unstack = jax.jit(stacked), jax.jit(unstacked, static_argnums=1)

    def on_devices(states: States, given: Any, rates: Any, ends: Any) -> States:
        # Filled up with runs that are given no steps, so that all devices have equally many.
        missing = -len(states) % len(devices)
        rates = np.concatenate([rates, np.zeros((missing, *rates.shape[1:]), rates.dtype)])
        ends = np.concatenate([ends, np.zeros(missing, np.int32)])
        filled = stack(states + states[:1] * missing), rates, ends
        held, rates, ends = jax.device_put(filled, NamedSharding(grid, parts))
        after = spread(held, given, rates, ends)
        return unstack(jax.device_put(after, states[0].step.sharding), len(states))

    return on_devices


def stacked(states: States) -> TrainState:
    """One state with a leading axis."""
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *states)


def unstacked(states: TrainState, count: int) -> States:
    """The first ``count`` of states with a leading axis."""
    return tuple(jax.tree.map(lambda leaf, i=i: leaf[i], states) for i in range(count))


def _chosen(
    program: Program, states: States, rates: np.ndarray, mode: SeedsMode
) -> tuple[SeedsMode, Callable[[States, np.ndarray], States]]:
    """The mode, and its compiled program; where it is left open, the fastest for a few steps."""
    devices = _devices(program.experiment)[: len(states)]
    candidates: list[SeedsMode] = [mode]
    if mode == "auto":
        # On CPUs the others gain nothing: vmap turns convolutions with other weights for each run
        # into grouped ones, three to five times slower, and rounds differently.
        candidates = ["map"] if jax.default_backend() == "cpu" else ["map", "unroll", "vmap"]
        candidates += ["devices"] if len(devices) > 1 else []
    if len(candidates) == 1:
        return candidates[0], _compiled(program, states, rates, candidates[0], devices)
    fresh = jax.jit(lambda seeds: tuple(map(program.init, seeds)))
    seeds = tuple(state.seed for state in states)
    ends = np.full(len(states), min(8, program.plan.steps_per_epoch), np.int32)
    fastest, least = None, math.inf
    for mode in candidates:
        try:
            run = _compiled(program, states, rates, mode, devices)
            for _ in range(2):  # the first time warms up
                begin = jax.block_until_ready(fresh(seeds))
                start = time.perf_counter()
                jax.block_until_ready(run(begin, ends))
                seconds = time.perf_counter() - start
        except jax.errors.JaxRuntimeError as error:  # vmap holds all runs' activations at once
            if "RESOURCE_EXHAUSTED" not in str(error) or (mode == candidates[-1] and not fastest):
                raise
            continue
        if seconds < least:
            fastest, least = (mode, run), seconds
    assert fastest is not None
    return fastest


def _compiled(
    program: Program,
    states: States,
    rates: np.ndarray,
    mode: SeedsMode,
    devices: Sequence[jax.Device],
) -> Callable[[States, np.ndarray], States]:
    together = make_together(program.chunk, mode, devices)
    if mode == "devices":
        given = program.given(mesh.replicated(mesh.in_a_row(devices, "runs")))
        return lambda states, ends: together(states, given, rates, ends)
    given = program.given()
    held = mesh.place(rates, mesh.replicated(mesh.one_device()))
    ends = np.zeros(len(states), np.int32)
    compiled = jax.jit(together, donate_argnums=0).lower(states, given, held, ends).compile()
    return lambda states, ends: compiled(states, given, held, ends)
