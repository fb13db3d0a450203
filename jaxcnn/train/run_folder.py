"""The run folder: what lies in it, who may write, and what must be the same to go on.

Where several processes train together, the first one reads and writes here for all of them.

| file            | content                                                         |
|-----------------|-----------------------------------------------------------------|
| config.json     | the resolved experiment                                         |
| dataset.json    | class names, image shape, sizes and digest of the data          |
| env.json        | versions, devices and cores at the newest start                 |
| run.json        | the random id of the run, which its checkpoints hold too        |
| metrics.jsonl   | one object per evaluation                                       |
| summary.json    | the result; written when the run is finished                    |
| tb/             | TensorBoard events                                              |
| *.png           | learning curves and confusion matrix                            |
| predictions.npz | the answer to every test image, where it was asked for          |
| profile/        | traces of jax.profiler, if asked for                            |
| checkpoints/    | ``latest/`` and ``best/``                                       |
"""

import contextlib
import fcntl
import importlib.metadata
import json
import os
import platform
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

import jax

from jaxcnn.config import RESUME_MAY_CHANGE, differences, from_dict, to_dict
from jaxcnn.errors import FULL, InputError
from jaxcnn.train import processes
from jaxcnn.train.checkpoint import Checkpoints, steps_in
from jaxcnn.train.files import read_json, write_json, write_text
from jaxcnn.train.tensorboard import Events


class RunFolder:
    """A run folder, opened for writing by one process, or one group of them, at a time.

    Args:
        path: the folder, which is created if it is not there.

    Raises:
        InputError: it cannot be written, or another process is writing into it.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock: IO[str] | None = None
        processes.on_first(self._open)

    def _open(self) -> None:
        path = self.path
        try:
            path.mkdir(parents=True, exist_ok=True)
            self._lock = (path / ".lock").open("w")
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise InputError(f"workdir {path}: another process is writing into it") from error
        except OSError as error:
            if error.errno in FULL:
                raise
            raise InputError(f"workdir {path}: cannot be written ({error.strerror})") from error

    def claim(
        self, config: Mapping[str, Any], dataset: Mapping[str, Any], env: Mapping[str, Any]
    ) -> None:
        """Makes the folder this run's: writes config.json, dataset.json and env.json."""

        def write() -> None:
            (self.path / "summary.json").unlink(missing_ok=True)  # it no longer holds
            write_json(self.path / "config.json", config)
            write_json(self.path / "dataset.json", dataset)
            write_json(self.path / "env.json", env)

        processes.on_first(write)

    def close(self) -> None:
        """Releases the folder to other processes."""
        if self._lock is not None:
            self._lock.close()


DATASET_MAY_CHANGE = frozenset({"test_form", "test_sha256", "test_files_sha256"})
"""Fields of dataset.json that are not compared: ``sha256`` and ``files_sha256`` cover the test
images too."""
DATASET_MAY_LACK = frozenset({"files_sha256"})
"""Fields that older folders lack; where there are some, they must not change."""


def check_same(
    path: Path, config: Mapping[str, Any], dataset: Mapping[str, Any] | None = None
) -> None:
    """Checks that a folder in which something was trained belongs to this run; changes nothing.

    Args:
        path: the run folder.
        config: what config.json would hold.
        dataset: what dataset.json would hold; None where the data have not been read.

    Raises:
        InputError: it belongs to another run, or a file is missing; the message says which.
    """

    def check() -> None:
        old = to_dict(from_dict(read_json(path / "config.json")))  # adds defaults of newer fields
        _refuse_changes(path, "config.json", old, config, RESUME_MAY_CHANGE)
        if dataset is not None:
            known = read_json(path / "dataset.json")
            uncompared = DATASET_MAY_CHANGE | (DATASET_MAY_LACK - known.keys())
            _refuse_changes(path, "dataset.json", known, dataset, uncompared)

    processes.on_first(check)


def _refuse_changes(
    path: Path,
    name: str,
    old: Mapping[str, Any],
    new: Mapping[str, Any],
    may_change: frozenset[str],
) -> None:
    changed = {k: v for k, v in differences(old, new).items() if k not in may_change}
    if changed:
        listed = "; ".join(f"{k} was {a!r}, now {b!r}" for k, (a, b) in changed.items())
        raise InputError(
            f"workdir {path}: belongs to another run ({name}: {listed}); "
            "give another --workdir, or the same settings to go on"
        )


def finished(path: Path, config: Mapping[str, Any]) -> dict[str, Any] | None:
    """Returns the summary of a run if all the epochs that the config asks for are done.

    Raises:
        InputError: the folder belongs to a run with another config, finished or not.
    """
    ended = processes.on_first((path / "summary.json").exists)
    if ended or holds_checkpoints(path):
        check_same(path, config)
    return processes.on_first(lambda: _finished(path, config)) if ended else None


def newest_step(path: Path) -> int | None:
    """Returns the step of the checkpoint from which a run would go on; None where there is none."""
    return processes.on_first(lambda: next(iter(steps_in(path / "checkpoints" / "latest")), None))


def holds_checkpoints(path: Path) -> bool:
    """Tells whether something was trained in a folder, which is then no other run's."""
    kinds = [path / "checkpoints" / kind for kind in ("latest", "best")]
    return processes.on_first(lambda: any(map(steps_in, kinds)))


def _finished(path: Path, config: Mapping[str, Any]) -> dict[str, Any] | None:
    summary = read_json(path / "summary.json", "epochs", "test_top1", "test_top5", "test_loss")
    if summary["epochs"] == config["train"]["epochs"]:
        return summary
    patience = read_json(path / "config.json")["train"].get("patience")
    same = patience == config["train"]["patience"]
    return summary if summary.get("stopped_early") and same else None


class MetricsLog:
    """Writes metrics.jsonl and TensorBoard events, from where a run goes on.

    Args:
        path: the run folder.
        step: the step at which it goes on; later records are dropped, and will be made again.
    """

    def __init__(self, path: Path, step: int) -> None:
        self._path = path / "metrics.jsonl"
        kept = [r for r in read_metrics(path) if r["step"] <= step]
        lines = "".join(f"{json.dumps(record)}\n" for record in kept)
        processes.on_first(lambda: write_text(self._path, lines))
        self._events = Events(path / "tb", step) if processes.is_first() else None

    def write(self, record: Mapping[str, Any]) -> None:
        """Appends one line and the same numbers to TensorBoard."""
        processes.on_first(lambda: self._append(record))

    def _append(self, record: Mapping[str, Any]) -> None:
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(record, allow_nan=False) + "\n")
            file.flush()
            os.fsync(file.fileno())
        if self._events is not None:
            self._events.write(record)

    def close(self) -> None:
        """Closes TensorBoard's file."""
        if self._events is not None:
            self._events.close()


def checkpoints(path: Path, kind: str, *, read_only: bool = False) -> Checkpoints:
    """Opens the checkpoints of a run.

    Args:
        path: the run folder.
        kind: ``"latest"``, of which two are kept, or ``"best"``, of which those are kept that the
            two name.
        read_only: opens them without changing anything.
    """
    keep = {"latest": 2, "best": None}[kind]
    return Checkpoints(path / "checkpoints" / kind, keep=keep, read_only=read_only)


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """Reads the records of metrics.jsonl, except a last line that was cut short by a kill."""
    return processes.on_first(lambda: _read_metrics(path))


def _read_metrics(path: Path) -> list[dict[str, Any]]:
    file = path / "metrics.jsonl"
    if not file.exists():
        return []
    records = []
    lines = file.read_text(encoding="utf-8").splitlines()
    for number, line in enumerate(lines, start=1):
        try:
            found = json.loads(line)
            if not isinstance(found, dict) or not isinstance(found.get("step"), int):
                raise ValueError("not an object with a step")
            records.append(found)
        except ValueError as error:
            if number < len(lines):
                raise InputError(f"{file}: line {number} is damaged ({error})") from error
    return records


def environment() -> dict[str, Any]:
    """Returns what env.json holds: all beside the config that can change the last bits."""
    packages = ("jaxcnn", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")
    versions = {}
    for name in packages:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[name] = importlib.metadata.version(name)
    return {
        "platform": jax.default_backend(),
        "devices": [d.device_kind for d in jax.devices()],
        "processes": jax.process_count(),
        "cores": len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count(),
        "processor": platform.machine(),
        "system": platform.system(),
        "python": platform.python_version(),
        "versions": versions,
    }
