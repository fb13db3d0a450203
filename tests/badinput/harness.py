"""Runs the command line on bad input, a process for each case, and says what is unclean about it.

Starting Python with JAX takes seconds. A :class:`Server` does so once, without touching a device
or starting a thread, and forks for each case; the child then goes through ``jaxcnn.cli.main`` and
the interpreter's own end, as the command does. What is read while Python starts, such as most of
the environment, is tried in processes of their own instead (``Case.plain``).
"""

import contextlib
import hashlib
import json
import os
import resource
import select
import shlex
import shutil
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
ANSWER_SECONDS = float(os.environ.get("BADINPUT_SECONDS", "60"))
TRAINING_SECONDS = 15
"""A training that is still going after this long is told to stop, and must save and do so."""
TRAINS = ("train", "compare", "sweep", "bench")
CODES = {0, 1, 2, 129, 130, 143}
KILLED = {-signal.SIGHUP, -signal.SIGINT, -signal.SIGTERM}
"""A signal's own end, which shells show as 129, 130 and 143: there was nothing yet to save."""
UNSAID = {0, 129, 130, 143, *KILLED}
"""Exit codes that need no line on stderr."""
KEPT = (".lock", "predictions.npz", "corruptions.json", "__pycache__")
"""What a command may leave behind, or change, even where it fails: a lock and caches."""
LIMITS = {"RLIMIT_AS": 8 << 30, "RLIMIT_CPU": 150, "RLIMIT_CORE": 0}

LATE = (
    *("array_record.python.array_record_data_source", "grain", "jinja2", "rich.progress"),
    *("matplotlib.backends.backend_agg", "matplotlib.figure", "safetensors", "scipy.stats"),
    *("sklearn.datasets", "tensorboardX"),
)
"""What commands import when they need it, which takes seconds."""


@dataclass(frozen=True)
class Case:
    """One call of the command line.

    Attributes:
        name: what is wrong, for the test's name.
        argv: the arguments; a word that names one of the world's files brings a copy of it along.
        spoil: changes the folder of copies, in which the command then runs.
        writes: patterns of what may change although the command fails.
        env: variables to set, or with None to unset.
        streams: files in place of stdout and stderr; None closes one.
        limits: resource limits beside :data:`LIMITS`.
        signals: signals to send, each with seconds since the one before.
        plain: starts Python anew.
        needs: files of the world to copy beside those in ``argv``.
    """

    name: str
    argv: tuple[str, ...]
    spoil: Callable[[Path], object] = lambda folder: None
    writes: tuple[str, ...] = ()
    env: Mapping[str, str | None] = field(default_factory=dict)
    streams: Mapping[int, str | None] = field(default_factory=dict)
    limits: Mapping[str, int] = field(default_factory=dict)
    signals: tuple[tuple[float, int], ...] = ()
    plain: bool = False
    needs: tuple[str, ...] = ()


@dataclass(frozen=True)
class Outcome:
    """What became of a case: the exit code (below 0 for a signal), the output, and the traces."""

    code: int
    out: str
    err: str
    seconds: float
    traces: tuple[str, ...]


class Server:
    """Forks a process for each case from one that has imported everything.

    Args:
        log: where its own faults go.
    """

    def __init__(self, log: Path) -> None:
        env = os.environ | {
            "OPENBLAS_NUM_THREADS": "1",  # threads do not survive a fork
            "PYTHONPATH": str(ROOT),
            "MPLBACKEND": "Agg",
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        }
        with log.open("ab") as errors:
            self._process: Any = subprocess.Popen(
                [sys.executable, __file__],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                env=env,
            )

    def start(self, call: Mapping[str, Any]) -> int:
        """Starts a call and returns the process's id."""
        self._process.stdin.write(json.dumps(call).encode() + b"\n")
        self._process.stdin.flush()
        return int(self._process.stdout.readline())

    def wait(self, seconds: float | None) -> int | None:
        """Returns the exit code, or None where it takes longer."""
        ready, _, _ = select.select([self._process.stdout], [], [], seconds)
        return int(self._process.stdout.readline()) if ready else None

    def close(self) -> None:
        """Ends the server."""
        self._process.stdin.close()
        self._process.wait()


class Plain:
    """Starts Python anew for each case, with the methods of :class:`Server`."""

    def start(self, call: Mapping[str, Any]) -> int:
        """Starts a call and returns the process's id."""
        command = [sys.executable, "-P", "-m", "jaxcnn.cli", *call["argv"]]
        env = {**call["env"], "PYTHONPATH": f"{ROOT}:{call['modules']}"}
        self._process = subprocess.Popen(command, env=env, preexec_fn=lambda: become(call))
        return self._process.pid

    def wait(self, seconds: float | None) -> int | None:
        """Returns the exit code, or None where it takes longer."""
        try:
            return self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            return None


def become(call: Mapping[str, Any]) -> None:
    """Makes this process, newly forked, that of a call: limits, folder, streams, signals."""
    os.setsid()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)
    for name, limit in call["limits"].items():
        resource.setrlimit(getattr(resource, name), (limit, limit))
    os.chdir(call["cwd"])
    os.dup2(os.open("/dev/null", os.O_RDONLY), 0)
    for fd, path in call["streams"].items():
        os.close(int(fd))
        if path is not None:
            opened = os.open(path, os.O_WRONLY)
            os.dup2(opened, int(fd))
            if opened != int(fd):
                os.close(opened)
            os.set_inheritable(int(fd), True)


def run(case: Case, world: Path, folder: Path, server: Server | Plain) -> Outcome:
    """Runs a case in a new folder, in which it finds copies of what it needs from the world.

    Args:
        case: the case.
        world: the folder of valid files.
        folder: gets the copies in ``work``, and outside of that what the command does not see.
        server: starts the process.
    """
    work, hidden = folder / "work", ("tmp", "home", "modules")
    for name in ("work", *hidden):
        (folder / name).mkdir(parents=True)
    wanted = {*case.needs, *(word.partition("/")[0] for word in case.argv)}
    for path in world.iterdir():
        if path.name in wanted:
            copy(path, work / path.name)
    case.spoil(work)
    streams = {1: str(folder / "stdout"), 2: str(folder / "stderr")}
    for path in streams.values():
        Path(path).touch()
    env = {
        **os.environ,
        "HOME": str(folder / "home"),
        "TMPDIR": str(folder / "tmp"),
        "MPLBACKEND": "Agg",
        "BADINPUT_CANARY": str(folder / "canary"),
        **case.env,
    }
    env.pop("TFDS_DATA_DIR", None)
    if case.limits or case.signals:  # what is written half into the cache would spoil other cases
        env["JAX_COMPILATION_CACHE_DIR"] = str(folder / "cache")
    call = {
        "argv": case.argv,
        "cwd": str(work),
        "env": {name: value for name, value in env.items() if value is not None},
        "streams": {**streams, **case.streams},
        "limits": {**LIMITS, **case.limits},
        "modules": str(folder / "modules"),
    }
    before = digests(work)
    server = Plain() if case.plain else server
    started = time.monotonic()
    pid = server.start(call)
    code = _awaited(server, pid, case)
    seconds = time.monotonic() - started
    traces = []
    if code is None:
        _signal(-pid, signal.SIGKILL)
        code = server.wait(None)
        traces.append(f"no answer within {seconds:.0f} s")
    for _ in range(50):  # helpers of its own notice its end a moment later
        if not _signal(-pid, 0):
            break
        time.sleep(0.1)
    else:
        _signal(-pid, signal.SIGKILL)
        traces.append("left a process behind")
    if (folder / "canary").exists():
        traces.append("ran foreign code")
    traces += [f"left {path.name} in TMPDIR" for path in (folder / "tmp").iterdir()]
    if code not in {0, 1, 129, 130, 143, *KILLED}:  # a run that had begun may stay
        after = digests(work)
        changed = sorted(name for name in before | after if before.get(name) != after.get(name))
        traces += [f"changed {c}" for c in changed if not any(map(Path(c).match, case.writes))][:4]
    assert code is not None  # it has ended, or was killed
    out, err = (Path(p).read_bytes().decode(errors="replace") for p in streams.values())
    return Outcome(code, out, err, seconds, tuple(traces))


def _awaited(server: Server | Plain, pid: int, case: Case) -> int | None:
    """Returns the exit code; None where there is none in time."""
    for delay, number in case.signals:
        code = server.wait(delay)
        if code is not None:
            return code
        _signal(pid, number)
    if case.argv and case.argv[0] in TRAINS and not case.signals:
        code = server.wait(TRAINING_SECONDS)
        if code is not None:
            return code
        _signal(pid, signal.SIGTERM)
    return server.wait(ANSWER_SECONDS)


def _signal(pid: int, number: int) -> bool:
    try:
        os.killpg(-pid, number) if pid < 0 else os.kill(pid, number)
    except ProcessLookupError:
        return False
    return True


def faults(outcome: Outcome, streams: Sequence[int] = (1, 2)) -> list[str]:
    """Returns what is unclean about an outcome, a line for each; nothing where it is clean.

    Args:
        outcome: what became of the case.
        streams: those of stdout and stderr that could be written.
    """
    code, err = outcome.code, outcome.err
    found = list(outcome.traces)
    if code not in CODES | KILLED:
        found.append(f"exit code {code}")
    for word in ("Traceback", "Exception ignored in", "Fatal Python error"):
        if word in outcome.out + err:
            found.append(f"printed {word!r}")
    lines = err.splitlines()
    foreign = [line for line in lines if not line.startswith("jaxcnn: ")]
    if foreign:
        found.append(f"printed {foreign[0][:200]!r}")
    said = [line for line in lines if line.startswith("jaxcnn: error: ")]
    if 2 in streams and code not in UNSAID and not lines:
        found.append("failed without a word")
    if len(said) > 1:
        found.append(f"printed {len(said)} lines on one fault")
    return found


def reproduction(case: Case, folder: Path) -> str:
    """Returns the command that shows the case again."""
    words = [f"cd {shlex.quote(str(folder / 'work'))} &&"]
    for name, value in case.env.items():
        words.append(f"{name}={shlex.quote(value)}" if value is not None else f"env -u {name}")
    words.append(f"PYTHONPATH={ROOT} {sys.executable} -P -m jaxcnn.cli")
    words += [shlex.quote(word) for word in case.argv]
    return " ".join([*words, *(f"{fd}>{path or '&-'}" for fd, path in case.streams.items())])


def copy(source: Path, target: Path) -> None:
    """Copies a file or a folder."""
    if source.is_dir():
        shutil.copytree(source, target)
    else:
        shutil.copy(source, target)


def digests(folder: Path) -> dict[str, str]:
    """Returns the type, rights and content of everything in a folder, by relative path."""
    found = {}
    for at, below, files in os.walk(folder):
        for path in (Path(at, name) for name in (*below, *files)):
            status = path.lstat()
            what = f"{status.st_mode:o}"
            if stat.S_ISREG(status.st_mode) and status.st_size < 1 << 26:
                what += hashlib.sha256(path.read_bytes()).hexdigest()
            elif stat.S_ISLNK(status.st_mode):
                what += str(path.readlink())
            if not {*path.parts} & {*KEPT}:
                found[str(path.relative_to(folder))] = what
    return found


def _preload() -> None:
    import gc
    import importlib
    import logging
    import pkgutil
    import warnings

    import tensorflow_datasets as tfds

    import jaxcnn

    tfds.core.constants.DATA_DIR  # noqa: B018  (its modules are imported when they are used)
    for module in pkgutil.walk_packages(jaxcnn.__path__, "jaxcnn."):
        importlib.import_module(module.name)
    for name in LATE:
        importlib.import_module(name)
    for plugin in ("Png", "Jpeg", "Webp", "Gif", "Bmp", "Tiff", "Ppm"):
        with contextlib.suppress(ImportError):
            importlib.import_module(f"PIL.{plugin}ImagePlugin")
    logging.root.handlers.clear()  # a library has set one up, which a fresh process has not
    gc.freeze()
    warnings.filterwarnings("ignore", ".*os.fork.*", RuntimeWarning)


def _command() -> int:
    """Runs the command, and ends the process at once where there is nothing left to be taken down.

    The interpreter's own end takes half a second with all these modules. It can still fail where
    threads were started: those of a device, or of a checkpoint's saving.
    """
    import atexit
    import threading

    from jaxcnn.cli import main

    code = main()
    if len([*Path("/proc/self/task").iterdir()]) == 1:
        threading._shutdown()  # type: ignore[attr-defined]
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    return code


def _serve() -> int:
    """Answers each line on stdin, a call, with the id of a process and later its exit code.

    Returns only in a child, with the exit code of its command.
    """
    calls, answers = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)
    _preload()
    for line in calls:
        call = json.loads(line)
        pid = os.fork()
        if pid == 0:
            calls.close()
            answers.close()
            become(call)
            signal.signal(signal.SIGINT, signal.default_int_handler)
            os.environ.clear()
            os.environ.update(call["env"])
            sys.argv = ["jaxcnn", *call["argv"]]
            sys.path.append(call["modules"])
            cache = call["env"].get("JAX_COMPILATION_CACHE_DIR")
            sys.modules["jax"].config.update("jax_compilation_cache_dir", cache)
            return _command()
        answers.write(b"%d\n" % pid)
        _, status = os.waitpid(pid, 0)
        answers.write(b"%d\n" % os.waitstatus_to_exitcode(status))
    os._exit(0)


if __name__ == "__main__":
    sys.path[0] = str(ROOT)
    sys.exit(_serve())
