"""Many seeds of one experiment, trained together in one compiled program.

Each has its own folder, as if it had been trained alone, and goes its own way in it; only the
steps are computed together. What the seeds say as a group stands beside them in seeds.json.
"""

import contextlib
import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from jaxcnn import jobs
from jaxcnn.analysis.statistics import mean_interval
from jaxcnn.build import build_model
from jaxcnn.config import Devices, Experiment, SeedsMode, to_dict
from jaxcnn.data import sources
from jaxcnn.program import Program
from jaxcnn.run import Listener, Training
from jaxcnn.train import files, folder, loop, mesh, processes, step
from jaxcnn.train.state import TrainState

States = tuple[TrainState, ...]
Together = Callable[[States, Any, Any], States]
"""``(states, given, ends) -> states``: a chunk of steps of every seed."""


def train(
    experiment: Experiment, workdir: Path, count: int, listener: Listener | None = None
) -> tuple[dict[str, Any], dict[Path, str]]:
    """Trains an experiment with the seeds ``train.seed``, ``train.seed + 1``, ...

    Interrupted, it goes on where it stopped when it is called again; finished seeds are reused.

    Args:
        experiment: what to train.
        workdir: where the run folders ``seedN`` and seeds.json go.
        count: how many seeds.
        listener: hears all of them.

    Returns:
        What seeds.json holds, and for each seed that diverged its folder, and at which step.

    Raises:
        InputError: a fault in the experiment, the data or a folder.
        jaxcnn.train.loop.Stopped: a signal came; every state is saved.
    """
    listener = listener or Listener()
    first = experiment.train.seed
    planned = [
        jobs.Job(
            replace(experiment, train=replace(experiment.train, seed=seed)),
            workdir / f"seed{seed}",
        )
        for seed in range(first, first + count)
    ]
    left = [job for job in planned if folder.finished(job.workdir, to_dict(job.experiment)) is None]
    failed: dict[Path, str] = {}
    if left and (jax.process_count() > 1 or _several(experiment.devices)):
        # Every seed needs all the devices that were asked for.
        failed = jobs.train_all(left, listener)
    elif left:
        failed = _train_together(left, workdir, listener)
    done = [job.workdir for job in planned if job.workdir not in failed]
    return processes.on_first(lambda: _summarise(experiment.name, done, workdir)), failed


def _several(config: Devices) -> bool:
    return (config.data or 1) * config.fsdp > 1


def _train_together(left: Sequence[jobs.Job], workdir: Path, listener: Listener) -> dict[Path, str]:
    experiment = left[0].experiment
    with loop.StopRequest() as stop, contextlib.ExitStack() as closing:
        dataset = sources.load(experiment.data)
        if dataset.streamed:  # each in an order of its own
            return jobs.train_all(left, listener)
        model = build_model(experiment, dataset.classes, dataset.image_shape)
        program = Program(experiment, dataset, model, mesh.one_device())
        listener.message(program.title())
        trainings = []
        for job in left:
            opened = folder.RunFolder(job.workdir)
            closing.callback(opened.close)
            heard = _OneOfMany(listener, job.experiment.train.seed, alone=job is left[0])
            trainings.append(Training(program, job.experiment, opened, heard, stop, closing))
        states = tuple(training.first_state() for training in trainings)
        mode, run = _chosen(program, states, _mode_before(workdir, experiment.train.seeds_mode))
        files.write_json(workdir / "seeds.json", {"mode": mode})
        listener.message(f"{len(left)} seeds together ({mode})")
        evaluate = program.compile_evaluate(states[0])
        active = [
            training.steps(state, evaluate)
            for training, state in zip(trainings, states, strict=True)
        ]
        folders = [job.workdir for job in left]
        return _drive(dict(zip(folders, active, strict=True)), states, run)


class _OneOfMany(Listener):
    """Passes on what one seed has to say, under its number; one of them moves the display."""

    def __init__(self, listener: Listener, seed: int, *, alone: bool) -> None:
        self._listener, self._seed, self._alone = listener, seed, alone

    def message(self, text: str) -> None:
        self._listener.message(f"seed {self._seed}: {text}")

    def progress(self, progress: loop.Progress) -> None:
        if self._alone:
            self._listener.progress(progress)

    def record(self, record: loop.Record) -> None:
        self._listener.record({"seed": self._seed, **record})


def _drive(
    active: dict[Path, loop.Chunks[dict[str, Any]]],
    states: States,
    run: Callable[[States, np.ndarray], States],
) -> dict[Path, str]:
    """Runs all trainings side by side; which diverged, and where.

    Those that have ended are given no more steps.
    """
    failed: dict[Path, str] = {}
    held = dict(zip(active, states, strict=True))
    ends = {path: np.int32(state.step) for path, state in held.items()}
    stopped: loop.Stopped | None = None

    def resume(path: Path, value: Any) -> loop.Stopped | None:
        """Sends a training what it waits for, and notes what it asks for next, or how it ends."""
        try:
            held[path], ends[path] = active[path].send(value)
            return None
        except StopIteration:
            ending = None
        except loop.Diverged as diverged:
            failed[path], ending = str(diverged), None
        except loop.Stopped as error:
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


def make_together(chunk: step.Chunk, mode: SeedsMode, devices: Sequence[jax.Device]) -> Together:
    """Makes the program of all seeds from that of one.

    Args:
        chunk: ``(state, given, end) -> state``.
        mode: ``"map"`` computes one seed after the other in a loop, ``"unroll"`` the same without
            the loop, ``"vmap"`` all at once, ``"devices"`` as many at once as there are devices.
        devices: for ``"devices"``.
    """
    if mode == "unroll":
        return lambda states, given, ends: tuple(
            chunk(state, given, end) for state, end in zip(states, ends, strict=True)
        )

    def mapped(states: TrainState, given: Any, ends: jax.Array) -> TrainState:
        if mode == "vmap":
            return jax.vmap(chunk, in_axes=(0, None, 0))(states, given, ends)
        return jax.lax.map(lambda one: chunk(one[0], given, one[1]), (states, ends))

    if mode != "devices":

        def together(states: States, given: Any, ends: jax.Array) -> States:
            return unstacked(mapped(stacked(states), given, ends), len(states))

        return together

    grid = mesh.in_a_row(devices, "seeds")
    parts, whole = PartitionSpec("seeds"), PartitionSpec()
    spread = jax.jit(
        jax.shard_map(
            mapped, mesh=grid, in_specs=(parts, whole, parts), out_specs=parts, check_vma=False
        )
    )
    stack, unstack = jax.jit(stacked), jax.jit(unstacked, static_argnums=1)

    def on_devices(states: States, given: Any, ends: Any) -> States:
        # Filled up with seeds that are given no steps, so that all devices have equally many.
        missing = -len(states) % len(devices)
        ends = np.concatenate([ends, np.zeros(missing, np.int32)])
        held = jax.device_put(stack(states + states[:1] * missing), NamedSharding(grid, parts))
        after = spread(held, given, jax.device_put(ends, NamedSharding(grid, parts)))
        return unstack(jax.device_put(after, states[0].step.sharding), len(states))

    return on_devices


def stacked(states: States) -> TrainState:
    """One state with a leading axis."""
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *states)


def unstacked(states: TrainState, count: int) -> States:
    """The first ``count`` of states with a leading axis."""
    return tuple(jax.tree.map(lambda leaf, i=i: leaf[i], states) for i in range(count))


def _chosen(
    program: Program, states: States, mode: SeedsMode
) -> tuple[SeedsMode, Callable[[States, np.ndarray], States]]:
    """The mode, and its compiled program; where it is left open, the fastest for a few steps."""
    devices = jax.devices()[: len(states)]
    candidates: list[SeedsMode] = [mode]
    if mode == "auto":
        # On CPUs the others gain nothing: vmap turns convolutions with other weights for each seed
        # into grouped ones, three to five times slower, and rounds differently.
        candidates = ["map"] if jax.default_backend() == "cpu" else ["map", "unroll", "vmap"]
        candidates += ["devices"] if len(devices) > 1 else []
    if len(candidates) == 1:
        return candidates[0], _compiled(program, states, candidates[0], devices)
    fresh = jax.jit(lambda seeds: tuple(map(program.init, seeds)))
    seeds = tuple(state.seed for state in states)
    ends = np.full(len(states), min(8, program.plan.steps_per_epoch), np.int32)
    fastest, least = None, math.inf
    for mode in candidates:
        try:
            run = _compiled(program, states, mode, devices)
            for _ in range(2):  # the first time warms up
                begin = jax.block_until_ready(fresh(seeds))
                start = time.perf_counter()
                jax.block_until_ready(run(begin, ends))
                seconds = time.perf_counter() - start
        except jax.errors.JaxRuntimeError as error:  # vmap holds all seeds' activations at once
            if "RESOURCE_EXHAUSTED" not in str(error) or (mode == candidates[-1] and not fastest):
                raise
            continue
        if seconds < least:
            fastest, least = (mode, run), seconds
    assert fastest is not None
    return fastest


def _compiled(
    program: Program, states: States, mode: SeedsMode, devices: Sequence[jax.Device]
) -> Callable[[States, np.ndarray], States]:
    together = make_together(program.chunk, mode, devices)
    if mode == "devices":
        given = program.given(mesh.replicated(mesh.in_a_row(devices, "seeds")))
        return lambda states, ends: together(states, given, ends)
    given = program.given()
    ends = np.zeros(len(states), np.int32)
    compiled = jax.jit(together, donate_argnums=0).lower(states, given, ends).compile()
    return lambda states, ends: compiled(states, given, ends)


def _mode_before(workdir: Path, mode: SeedsMode) -> SeedsMode:
    """What an earlier call has chosen, so that the same bits come out; else what is asked for."""
    path = workdir / "seeds.json"
    if mode != "auto" or not path.exists():
        return mode
    return files.read_json(path, "mode")["mode"]


def _summarise(name: str, done: Sequence[Path], workdir: Path) -> dict[str, Any]:
    """Writes seeds.json; on failure of all, without results."""
    summaries = [files.read_json(path / "summary.json") for path in done]
    path = workdir / "seeds.json"
    mode = files.read_json(path)["mode"] if path.exists() else "one after the other"
    results = {"name": name, "mode": mode, "seeds": [summary["seed"] for summary in summaries]}
    if summaries:
        results |= {
            key: spread([summary[key] for summary in summaries])
            for key in ("test_top1", "test_top5", "test_loss", "train_top1", "train_loss")
            if all(key in summary for summary in summaries)  # lost metrics have none of training
        }
    files.write_json(path, results)
    return results


def spread(values: Sequence[float]) -> Mapping[str, Any]:
    """Mean, standard deviation and 95 % interval of the mean; None where one value has none.

    >>> spread([1.0, 2.0, 3.0])["std"]
    1.0
    """
    mean, low, high = mean_interval(values)
    bounded = not math.isnan(low)
    return {
        "mean": mean,
        "std": statistics.stdev(values) if len(values) > 1 else None,
        "low": low if bounded else None,
        "high": high if bounded else None,
        "values": list(values),
    }
