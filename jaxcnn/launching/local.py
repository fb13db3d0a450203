"""Workers as processes of this machine: one for each accelerator, or as many as are asked for."""

import contextlib
import functools
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from jaxcnn.analysis import status
from jaxcnn.config.checked import require
from jaxcnn.config.machines import Resources
from jaxcnn.errors import InputError, Stopped
from jaxcnn.launching import Job, Say
from jaxcnn.learning import run_folder, standing
from jaxcnn.learning.records import plain
from jaxcnn.runs import display
from jaxcnn.runs.stop import StopRequest
from jaxcnn.text import counted, draws

RESTARTS = 3
"""So often a worker is started again that was killed, as by the kernel when memory runs out."""
SECONDS_BETWEEN = 0.2
"""The workers are looked after this often."""
SECONDS_OF_A_LOOK = 2.0
"""Where there is no terminal, it is looked this often whether runs have ended."""


def place(folder: Path) -> str:
    """Returns what the workers call a folder."""
    return str(folder)


def filled(resources: Resources, runs: int) -> Resources:
    """Returns resources with a number of workers for so many runs, each with what it needs.

    Where nothing is said, each accelerator has a worker; so has the processor, if there is none.

    Raises:
        InputError: they ask for more than one machine.
    """
    accepted = "1 with --on local, which has this machine alone"
    require("resources.nodes", resources.nodes, resources.nodes == 1, accepted)
    if resources.workers and resources.devices:
        return resources
    count = accelerators()[1]
    devices = resources.devices or min(1, count)
    most = max(1, count // devices if devices else 1)
    return replace(resources, devices=devices, workers=resources.workers or min(runs, most))


@functools.cache
def accelerators() -> tuple[str, int]:
    """Returns the platform of this machine's devices, and how many there are; of CPUs, none.

    Another process asks, since this one is not to hold them.

    Raises:
        InputError: JAX cannot start there.
    """
    code = "import jax; d = jax.local_devices(); print(d[0].platform, len(d))"
    command = [sys.executable, "-c", code]
    asked = subprocess.run(command, capture_output=True, text=True, check=False)
    if asked.returncode:
        reason = (asked.stderr.strip().splitlines() or ["no word"])[-1]
        raise InputError(f"--on local: JAX finds no devices here ({reason})")
    platform, count = asked.stdout.split()[-2:]
    return platform, 0 if platform == "cpu" else int(count)


def written(job: Job) -> str:
    """Returns the command lines of the workers, each with what it adds to the environment."""
    lines = []
    for given in _environments(job):
        variables = [f"{name}={value}" for name, value in given.items()]
        lines.append(" ".join([*variables, shlex.join(_command(job))]))
    return "\n".join(lines) + "\n"


def _command(job: Job) -> Sequence[str]:
    """Returns the command line of a worker, which runs the lines of set-up first."""
    if not job.resources.setup:
        return job.command
    return ["bash", "-c", "\n".join([*job.resources.setup, f"exec {job.shell}"])]


def _environments(job: Job) -> Sequence[Mapping[str, str]]:
    """Returns for each worker the variables that give it accelerators of its own.

    Raises:
        InputError: there are fewer of them than the workers need.
    """
    each = job.resources.devices
    if not each:
        return [{} for _ in range(job.workers)]
    platform, count = accelerators()
    if each * job.workers > count:
        raise InputError(
            f"resources.devices={each}: {counted(job.workers, 'worker')} must have at most {count} "
            "in all, the accelerators of this machine"
        )
    shares = [range(i * each, (i + 1) * each) for i in range(job.workers)]
    return [_seeing(platform, share) for share in shares]


def _seeing(platform: str, share: Sequence[int]) -> Mapping[str, str]:
    """Returns the variables by which a process sees some of the accelerators alone."""
    if platform == "tpu":
        bounds = {f"TPU_{what}_BOUNDS": "1,1,1" for what in ("PROCESS", "CHIPS_PER_PROCESS")}
        return {
            "TPU_VISIBLE_CHIPS": ",".join(map(str, share)),
            **(bounds if len(share) == 1 else {}),
        }
    name = "ROCR_VISIBLE_DEVICES" if platform == "rocm" else "CUDA_VISIBLE_DEVICES"
    seen = [word for word in os.environ.get(name, "").split(",") if word]
    return {name: ",".join(seen[i] if seen else str(i) for i in share)}


def submit(job: Job, say: Say, accepted: Callable[[], None]) -> int:
    """Starts the workers, looks after them until all have ended, and returns the exit code.

    Where they share runs, one more of them then shows what all runs have come to. A signal is
    handed on to the workers, which save and end.

    Raises:
        InputError: there are not as many accelerators as the workers need, or another call is
            launching in the folder.
        Stopped: a signal came.
    """
    given = _environments(job)
    job.files.mkdir(parents=True, exist_ok=True)
    with standing.taking(job.files) as free:
        if not free:
            raise InputError(f"workdir {job.folder}: another call is launching there")
        accepted()
        say(f"{counted(job.workers, 'worker')} in {job.folder}, with logs in {job.files}")
        with standing.taking(job.folder) if job.shared else contextlib.nullcontext():
            codes = _look_after(job, given, say)
        return _show(job, given[0]) if job.shared else max(codes)


def _show(job: Job, given: Mapping[str, str]) -> int:
    """Has one more worker show what all runs have come to; returns its exit code."""
    with StopRequest() as stop:
        process = subprocess.Popen(_command(job), env={**os.environ, **given})
        while process.poll() is None:
            if stop.signal is not None:
                process.send_signal(signal.SIGTERM)
                process.wait()
            time.sleep(SECONDS_BETWEEN)
    if stop.signal is not None:
        raise Stopped(stop.signal)
    return process.returncode


def _look_after(job: Job, given: Sequence[Mapping[str, str]], say: Say) -> list[int]:
    """Returns the exit codes of the workers, when all have ended."""

    def seen(*room: int) -> Any:
        return _seen(job.folder, *room)

    told = _Told(job)
    with StopRequest() as stop, display.watching(seen, say) as watch:
        workers = [_Worker(job, number, own) for number, own in enumerate(given)]
        while sum(worker.is_working(watch.say) for worker in workers) and stop.signal is None:
            watch.look()
            told.look()
            time.sleep(SECONDS_BETWEEN)
        for worker in workers:
            worker.stop()
        for worker in workers:
            worker.wait()
        watch.look()
        told.look(at_once=True)
    if stop.signal is not None:
        raise Stopped(stop.signal)
    for worker in workers:
        if worker.code or not job.shared:
            say(f"{worker.log}: {worker.last_line()}")
    return [worker.code for worker in workers]


def _seen(folder: Path, width: int, rows: int) -> Any:
    """Returns how the runs stand, for a terminal; nothing before there are any."""
    try:
        return status.render(status.read_all(folder), width, rows)
    except InputError:
        return ""


class _Told:
    """Prints a line for each run of several that ends, where no terminal shows how all stand.

    Args:
        job: what the workers do.
    """

    def __init__(self, job: Job) -> None:
        self._folder, self._looked = job.folder, time.monotonic()
        self._lines = display.Lines(each_run=True) if job.shared and not draws() else None
        self._told: set[str] = set()

    def look(self, at_once: bool = False) -> None:
        """Prints what is new, if it is time."""
        if self._lines is None or (
            not at_once and time.monotonic() - self._looked < SECONDS_OF_A_LOOK
        ):
            return
        self._looked = time.monotonic()
        with contextlib.suppress(InputError):  # there are no runs yet
            self._tell(self._lines, status.read_all(self._folder))

    def _tell(self, lines: display.Lines, found: Sequence[status.Status]) -> None:
        ended = [one for one in found if one.state not in ("running", "stopped", "waiting")]
        if not self._told:
            lines.several([one.name for one in found])
        for one in ended:
            if one.name in self._told:
                continue
            self._told.add(one.name)
            done, left = len(self._told), status.seconds_left(found) or 0.0
            if one.state == "finished":
                path = self._folder / one.name
                result, metrics = run_folder.read_summary(path), run_folder.judged(path).metrics
                lines.ended(display.Ended(one.name, plain(result), done, len(found), left, metrics))
            else:
                lines.message(f"{one.name}: {one.reason}")


class _Worker:
    """A process that trains; it is started again if it is killed.

    Attributes:
        log: the file of what it says.
        code: its exit code, as a shell has it, once it has ended.
    """

    def __init__(self, job: Job, number: int, given: Mapping[str, str]) -> None:
        self.log, self.code = job.files / f"worker-{number}.log", 0
        self._command, self._given, self._restarts = _command(job), {**os.environ, **given}, 0
        self._start()

    def _start(self) -> None:
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                self._command,
                env=self._given,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,  # a Ctrl-C is handed on once
            )

    def is_working(self, say: Say) -> bool:
        """Tells whether it works; starts it again if it was killed, and says so."""
        code = self._process.poll()
        if code is None:
            return True
        self.code = 128 - code if code < 0 else code
        if code >= 0 or self._restarts == RESTARTS:
            return False
        say(f"{self.log}: killed by {signal.Signals(-code).name}; started again")
        self._restarts += 1
        self._start()
        return True

    def stop(self) -> None:
        """Tells it to save and end, if it still works."""
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)

    def wait(self) -> None:
        """Returns when it has ended."""
        self._process.wait()

    def last_line(self) -> str:
        """Returns the last line that it has said."""
        lines = self.log.read_text(errors="replace").splitlines()
        return lines[-1] if lines else ""
