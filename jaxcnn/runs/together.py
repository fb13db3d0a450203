"""Which runs are computed together, in which mode, and the program that does it.

Seed, learning rate and schedule are arguments of the program of a run, so runs that differ in
nothing else can share it.
"""

import contextlib
import math
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from jaxcnn.config import SeedsMode
from jaxcnn.errors import InputError, as_one_line
from jaxcnn.learning import files, mesh, processes, records, run_folder
from jaxcnn.learning.state import TrainState
from jaxcnn.ops import lowering
from jaxcnn.runs.network import require_planned
from jaxcnn.runs.program import (
    Compiled,
    Program,
    ProgramKey,
    Programs,
    RatedChunk,
    States,
    program_key,
)
from jaxcnn.runs.start import Run

Grouping = Literal["all", "many", "faster", "never"]
"""Which runs that share a program are computed together: all of them, however few or many; up to
``AT_MOST``, where they are not fewer than the devices that one of them would use alone; these only
where that is faster; or none."""
AT_MOST = 8
"""The largest number of runs that are computed together, where not all of them are."""

Group = tuple[list[Run], SeedsMode]
"""Runs that are computed together, and how."""
Together = Callable[[States, Any, Any, Any], States]
"""``(states, given, rates, ends) -> states``: a chunk of steps of every run."""


class Modes:
    """Remembers in a file in which mode each run is computed.

    A run that goes on in the mode in which it began comes to the same bits; in ``"vmap"`` and
    ``"layers"`` only together with the same others, since another width of the batch rounds
    differently.

    Args:
        path: the file, together.json; it is made when the first mode is noted.

    Raises:
        InputError: the file is damaged or cannot be written.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        files.check_writable(path)
        processes.on_first(self._read)

    def name(self, folder: Path) -> str:
        """Returns the name of a run: its folder, as seen from the file's."""
        return os.path.relpath(folder, self.path.parent)

    def known(self, folder: Path) -> SeedsMode | None:
        """Returns the mode that was noted for a run, if there is one."""
        return processes.on_first(self._read).get(self.name(folder))

    def note(self, folders: Sequence[Path], mode: SeedsMode) -> None:
        """Notes the mode of some runs."""

        def write() -> None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            modes = dict(self._read()) | dict.fromkeys(map(self.name, folders), mode)
            files.write_json(self.path, {"modes": modes})

        processes.on_first(write)

    def _read(self) -> Mapping[str, records.Mode]:
        return files.read(self.path, records.Together).modes if self.path.exists() else {}


def groups(runs: Sequence[tuple[Run, bool]], modes: Modes | None, policy: Grouping) -> list[Group]:
    """Returns the runs that are computed together, and how, in the order of their first ones.

    Args:
        runs: those that are left to be trained, each with whether its data are streamed.
        modes: remembers how each run is computed; None computes each run alone, as a group of one
            in the mode ``"alone"``.
        policy: see :data:`Grouping`.
    """
    alike: dict[tuple[ProgramKey, SeedsMode, bool], list[Run]] = {}
    for run, streamed in runs:
        mode, settled = _mode(run, streamed, modes, policy)
        alike.setdefault((program_key(run.experiment), mode, settled), []).append(run)
    found: list[Group] = []
    for (_, mode, settled), those in alike.items():
        size = len(those) if policy == "all" else AT_MOST
        for part in (those[i : i + size] for i in range(0, len(those), size)):
            # A few runs leave devices idle that a run alone would use.
            devices = jax.devices()[: part[0].experiment.devices.data]
            few = len(part) == 1 or len(part) < len(devices)
            if mode == "alone" or (few and not settled and policy != "all"):
                found += [([run], "alone") for run in part]
            else:
                found.append((part, mode))
    order = [run.folder for run, _ in runs]
    return sorted(found, key=lambda group: order.index(group[0][0].folder))


def at_once() -> int:
    """Returns how many runs gain from being computed together here."""
    return 1 if jax.default_backend() == "cpu" and len(jax.devices()) == 1 else AT_MOST


def _mode(
    run: Run, streamed: bool, modes: Modes | None, policy: Grouping
) -> tuple[SeedsMode, bool]:
    """Returns how a run is computed, and whether that is settled, as where it has begun so."""
    config = run.experiment
    several = (config.devices.data or 1) * config.devices.fsdp > 1
    # Streams have an order of their own for every seed.
    if modes is None or streamed or several or jax.process_count() > 1:
        return "alone", False
    known, asked = modes.known(run.folder), config.train.seeds_mode
    if policy == "never":
        if known in ("vmap", "layers") and run_folder.newest_step(run.folder) is not None:
            raise InputError(
                f"{run.folder}: began together with others ({known}), whose bits it would lose "
                "alone; go on without --shared"
            )
        return "alone", False
    if run_folder.newest_step(run.folder) is not None:
        return known or "alone", True
    if known and asked == "auto":
        return known, True
    # On one CPU device runs gain nothing from one another, and one by one they end in order.
    alone = policy == "faster" and at_once() == 1
    return ("alone" if asked == "auto" and alone else asked), False


def compile_fastest(
    program: Program, states: States, rates: np.ndarray, mode: SeedsMode
) -> tuple[SeedsMode, Compiled]:
    """Compiles the chunk of steps of several runs; where the mode is open, the fastest one.

    Args:
        program: what the runs share.
        states: where they begin.
        rates: their learning rates, ``(runs, total_steps + 1)``.
        mode: how they are computed; ``"auto"`` times a few steps of each mode.

    Returns:
        The mode and the compiled chunk.
    """
    mode, chunk, given = _fastest(program, states, rates, mode)
    return mode, replace(chunk, completed=program.completing(states[0], given))


def _fastest(
    program: Program, states: States, rates: np.ndarray, mode: SeedsMode
) -> tuple[SeedsMode, Compiled, Any]:
    """Returns mode and chunk of :func:`compile_fastest`, and what one run is given on a device."""
    devices = jax.devices()[: program.experiment.devices.data][: len(states)]
    candidates: list[SeedsMode] = [mode]
    if mode == "auto":
        # On CPUs the others gain nothing: vmap turns convolutions with other weights for each run
        # into grouped ones, three to five times slower, and rounds differently.
        candidates = (
            ["map"] if jax.default_backend() == "cpu" else ["map", "unroll", "vmap", "layers"]
        )
        candidates += ["devices"] if len(devices) > 1 else []
    if len(candidates) == 1:
        return candidates[0], *_compiled(program, states, rates, candidates[0], devices)
    ends = np.full(len(states), min(8, program.steps_per_epoch), np.int32)
    fastest, least = None, math.inf
    for mode in candidates:
        try:
            chunk, given = _compiled(program, states, rates, mode, devices)
            for _ in range(2):  # the first time warms up
                begin = jax.block_until_ready(tuple(program.init(s.seed) for s in states))
                start = time.perf_counter()
                jax.block_until_ready(chunk.run(begin, ends))
                seconds = time.perf_counter() - start
        except jax.errors.JaxRuntimeError as error:  # vmap holds all runs' activations at once
            if "RESOURCE_EXHAUSTED" not in str(error) or (mode == candidates[-1] and not fastest):
                raise
            continue
        except InputError:
            if mode != "layers" or not fastest:  # which not every network can be computed in
                raise
            continue
        if seconds < least:
            fastest, least = (mode, chunk, given), seconds
    assert fastest is not None
    return fastest


def _compiled(
    program: Program,
    states: States,
    rates: np.ndarray,
    mode: SeedsMode,
    devices: Sequence[jax.Device],
) -> tuple[Compiled, Any]:
    spread = mode == "devices"
    on = mesh.replicated(mesh.in_a_row(devices, "runs")) if spread else None
    given = program.given(on)
    held = rates if spread else mesh.place(rates, mesh.replicated(mesh.one_device()))
    forms = jax.tree.map(
        lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=a.sharding), (states, given)
    )

    def compiled(place: int) -> Any:
        together = make_together(program.chunks[place], mode, devices)
        if spread:  # no steps: it is compiled before the clock starts
            blank = jax.tree.map(lambda a: jnp.zeros(a.shape, a.dtype, device=a.sharding), forms[0])
            together(blank, given, held, np.zeros(len(states), np.int32))
            return together
        program_of = jax.jit(together, donate_argnums=0)
        layers = as_one_line(f"train.seeds_mode={mode!r}", "is not for this network ({})")
        with layers if mode == "layers" else contextlib.nullcontext():
            lowered = program_of.lower(*forms, held, np.zeros(len(states), np.int32))
        found = lowered.compile()
        require_planned(found, program.experiment.data, "batch_size")
        return found

    programs = Programs(program.stages, compiled)

    def run(states: States, ends: np.ndarray) -> States:
        # Runs may be in different stages: in each, those of the others are given no steps.
        places = np.array([programs.place(end) for end in ends])
        for place in np.unique(places):
            own = np.where(places == place, ends, np.int32(0))
            states = programs.at(int(place))(states, given, held, own)
        return states

    programs.compile([int(state.step) + 1 for state in states])
    one = jax.tree.map(lambda a: a.addressable_data(0), given) if spread else given
    return Compiled(run, programs), one


def make_together(chunk: RatedChunk, mode: SeedsMode, devices: Sequence[jax.Device]) -> Together:
    """Makes the program of several runs from that of one.

    Args:
        chunk: ``(state, given, rates, end) -> state``.
        mode: ``"map"`` computes one run after the other in a loop, ``"unroll"`` the same without
            the loop, ``"vmap"`` all at once, ``"layers"`` all at once but for convolutions,
            ``"devices"`` as many at once as there are devices.
        devices: those that ``"devices"`` uses.
    """
    if mode == "unroll":
        return lambda states, given, rates, ends: tuple(
            chunk(state, given, *its) for state, *its in zip(states, rates, ends, strict=True)
        )

    def mapped(states: TrainState, given: Any, rates: jax.Array, ends: jax.Array) -> TrainState:
        if mode in ("vmap", "layers"):
            in_turn = lowering.batched_in_turn() if mode == "layers" else contextlib.nullcontext()
            with in_turn:
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
    """Stacks states into one with a leading axis."""
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *states)


def unstacked(states: TrainState, count: int) -> States:
    """Returns the first ``count`` of states with a leading axis, one by one."""
    return tuple(jax.tree.map(lambda leaf, i=i: leaf[i], states) for i in range(count))
