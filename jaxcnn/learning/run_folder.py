"""The run folder: what lies in it, who may write, and what must be the same to go on.

Where several processes train together, the first one reads and writes here for all of them.

| file             | content                                                         |
|------------------|-----------------------------------------------------------------|
| config.json      | the resolved experiment                                         |
| dataset.json     | class names, image shape, sizes and digest of the data          |
| env.json         | versions, devices and cores at the newest start                 |
| run.json         | the random id of the run, which its checkpoints hold too        |
| task.json        | how the run is judged, if by another task than classification   |
| brought.json     | names and digests of objects that were brought; their sources   |
|                  | lie in ``brought/``, to be read                                 |
| metrics.jsonl    | one object per evaluation; where lines were damaged, a run that |
|                  | goes on leaves the whole file behind as metrics.jsonl.damaged   |
| summary.json     | the result; written when the run is finished                    |
| progress.json    | how far the run is, while it is trained: see                    |
|                  | :mod:`jaxcnn.learning.standing`                                 |
| failed.json      | why it ended before its last step, if it did                    |
| tb/              | TensorBoard events                                              |
| *.png            | learning curves and confusion matrix                            |
| predictions.npz  | the answer to every test image, where it was asked for          |
| temperature.json | what logits are divided by, where that was asked for            |
| corruptions.json | what is reached on corrupted test images, likewise              |
| profile/         | traces of jax.profiler, if asked for                            |
| checkpoints/     | ``latest/`` and ``best/``                                       |

The folder, and the folders in it, may be links. The files may not, where they are written.
"""

import contextlib
import importlib.metadata
import json
import logging
import os
import platform
import reprlib
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

import jax
import msgspec

from jaxcnn.config import RESUME_MAY_CHANGE, Experiment, Task, differences, from_dict, to_dict
from jaxcnn.errors import FULL, InputError
from jaxcnn.learning import files, processes, standing
from jaxcnn.learning.checkpoint import Checkpoints, steps_in
from jaxcnn.learning.records import Dataset, Evaluation, Judged, RunDataset, Summary, fault, plain
from jaxcnn.learning.tensorboard import Events
from jaxcnn.ops import lowering
from jaxcnn.tasks import Classification, judged_by, require_sound

log = logging.getLogger(__name__)

FILES = (
    *("config.json", "dataset.json", "env.json", "run.json", "metrics.jsonl", "summary.json"),
    *("brought.json", "task.json", "progress.json", "failed.json"),
    *("curves.png", "confusion.png"),
)
"""What a run writes into its folder, beside the folders in :data:`FOLDERS`."""
KINDS = ("latest", "best")
"""The folders of checkpoints."""
FOLDERS = ("tb", "brought", "checkpoints", "checkpoints/latest", "checkpoints/best")


def check_place(path: Path) -> None:
    """Checks that a run may be written into a folder, which need not be there; changes nothing.

    Raises:
        InputError: something lies where a file of the run would, or files there are of no run.
    """
    processes.on_first(lambda: _check_place(path))


def _check_place(path: Path) -> None:
    for folder in (path, *(path / name for name in FOLDERS)):
        if os.path.lexists(folder) and not folder.is_dir():
            raise InputError(f"workdir {folder}: cannot be written (must be a folder)")
    for kind in KINDS:
        folder = path / "checkpoints" / kind / "damaged"  # checkpoints are renamed into it
        if folder.is_symlink() or (folder.exists() and not folder.is_dir()):
            raise InputError(f"workdir {folder}: cannot be written (must be a folder, and no link)")
    files.check_writable(path / ".lock", *(path / name for name in FILES))
    if (path / "config.json").exists():
        read_config(path)
        return
    # Versions that wrote run.json before config.json may have left it alone.
    strange = [name for name in FILES if name != "run.json" and (path / name).exists()]
    if strange:
        raise InputError(
            f"workdir {path}: holds a {strange[0]} of no run, which has a config.json; give "
            "another --workdir"
        )


def within(folder: Path) -> list[Path]:
    """Returns the run folders in a folder, itself included; those of a run are not looked into."""
    found = []
    for path, inside, names in os.walk(folder):
        inside.sort()
        if "config.json" in names:
            found.append(Path(path))
            inside.clear()
    return found


class RunFolder:
    """A run folder, opened for writing by one process, or one group of them, at a time.

    Args:
        path: the folder, which is created if it is not there.

    Raises:
        InputError: another process is writing into it, or it cannot be written; see
            :func:`check_place`.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock: IO[bytes] | None = None
        processes.on_first(self._open)

    def _open(self) -> None:
        path = self.path
        _check_place(path)
        try:
            path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            if error.errno in FULL:
                raise
            raise InputError(f"workdir {path}: cannot be written ({error.strerror})") from error
        self._lock = standing.take(path)

    def claim(
        self,
        config: Mapping[str, Any],
        dataset: Mapping[str, Any],
        env: Mapping[str, Any],
        task: Mapping[str, Any] | None = None,
    ) -> None:
        """Makes the folder this run's: writes config.json, dataset.json, env.json and task.json."""

        def write() -> None:
            (self.path / "summary.json").unlink(missing_ok=True)  # it no longer holds
            standing.forget(self.path)
            files.write_json(self.path / "config.json", config)
            if task is None:
                (self.path / "task.json").unlink(missing_ok=True)
            else:
                files.write_json(self.path / "task.json", task)
            files.write_json(self.path / "dataset.json", dataset)
            files.write_json(self.path / "env.json", env)

        processes.on_first(write)

    def close(self) -> None:
        """Releases the folder to other processes."""
        if self._lock is not None:
            self._lock.close()


DATASET_MAY_CHANGE = frozenset({"test_form", "test_sha256", "test_files_sha256"})
"""Fields of dataset.json that are not compared: ``sha256`` and ``files_sha256`` cover the test
images too."""
DATASET_MAY_LACK = frozenset({"files_sha256", "image_dtype"})
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
        old = to_dict(read_config(path))  # adds defaults of newer fields
        _refuse_changes(path, "config.json", old, config, RESUME_MAY_CHANGE)
        if dataset is not None:
            known = msgspec.to_builtins(files.read(path / "dataset.json", RunDataset))
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
            f"give another --workdir, or the same settings to go on{_warmup_hint(changed)}"
        )


def _warmup_hint(changed: Mapping[str, tuple[Any, Any]]) -> str:
    """Says how a run goes on whose warm-up was cut to its epochs, now that it is given more."""
    if changed.keys() != {"schedule.warmup_epochs"}:
        return ""
    old, _ = changed["schedule.warmup_epochs"]
    return (
        "; its steps so far had the learning rates of its own warm-up: --schedule.warmup-epochs "
        f"{old:g} goes on as it began"
    )


def read_config(path: Path) -> Experiment:
    """Reads the experiment of a run folder.

    Raises:
        InputError: config.json is missing or holds no experiment.
    """
    file = path / "config.json"
    return experiment(files.read(file, dict[str, Any]), str(file))


def experiment(config: Any, where: str) -> Experiment:
    """Returns the experiment of a config that was read from a file.

    Args:
        config: what should be a :func:`to_dict` dict.
        where: the file or checkpoint that holds it, for the message.

    Raises:
        InputError: it holds no experiment.
    """
    if not isinstance(config, dict):
        raise InputError(f"{where}: config must be an object, is {reprlib.repr(config)}")
    try:
        return from_dict(config)
    except InputError as error:
        raise InputError(f"{where}: {error}") from error
    except (RecursionError, OverflowError) as error:  # no value of an experiment is so deep or big
        raise InputError(f"{where} is damaged: holds no experiment ({error})") from error


def finished(path: Path, config: Mapping[str, Any]) -> dict[str, Any] | None:
    """Returns the summary of a run if all the epochs that the config asks for are done.

    Raises:
        InputError: the folder belongs to a run with another config, finished or not.
    """
    ended = processes.on_first((path / "summary.json").exists)
    if ended or holds_checkpoints(path):
        check_same(path, config)
    return processes.on_first(lambda: _finished(path, config)) if ended else None


def recorded(path: Path) -> Experiment | None:
    """Returns the experiment of which something was trained in a folder, if there is one.

    Raises:
        InputError: its config.json cannot be read.
    """

    def read() -> dict[str, Any] | None:
        kinds = [path / "checkpoints" / kind for kind in KINDS]
        trained = (path / "summary.json").exists() or any(map(steps_in, kinds))
        return to_dict(read_config(path)) if trained else None

    held = processes.on_first(read)
    return None if held is None else from_dict(held)


def changed(path: Path, config: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Returns the fields in which the run in a folder differs from one that would go on there."""
    held = recorded(path)
    found = {} if held is None else differences(to_dict(held), config)
    return {name: both for name, both in found.items() if name not in RESUME_MAY_CHANGE}


def newest_step(path: Path) -> int | None:
    """Returns the step of the checkpoint from which a run would go on; None where there is none."""
    return processes.on_first(lambda: next(iter(steps_in(path / "checkpoints" / "latest")), None))


def holds_checkpoints(path: Path) -> bool:
    """Tells whether something was trained in a folder, which is then no other run's."""
    kinds = [path / "checkpoints" / kind for kind in KINDS]
    return processes.on_first(lambda: any(map(steps_in, kinds)))


def _finished(path: Path, config: Mapping[str, Any]) -> dict[str, Any] | None:
    summary = read_summary(path)
    if summary.epochs != config["train"]["epochs"]:
        same_patience = read_config(path).train.patience == config["train"]["patience"]
        if not (summary.stopped_early and same_patience):
            return None
    return plain(summary)


def judged(path: Path) -> Judged:
    """Reads how a run is judged.

    Raises:
        InputError: config.json or task.json is missing or damaged.
    """
    file, name = path / "task.json", Task().name
    if (path / "config.json").exists():
        name = str(read_config(path).task.name)
    if name != Task().name:
        found = files.read(file, Judged)
        if found.name != name:
            raise InputError(f"{file}: name={found.name!r}: must be {name!r}, as in config.json")
        for metric in found.metrics:
            require_sound(metric, f"{file} is damaged")
        return found
    classes: tuple[str, ...] = ()
    with contextlib.suppress(InputError):  # a finished run needs no dataset.json
        classes = files.read(path / "dataset.json", Dataset).classes
    return Judged(name=name, metrics=judged_by(Classification(), classes))


def read_summary(path: Path) -> Summary:
    """Reads summary.json.

    Raises:
        InputError: it is missing or damaged; the message names the field.
    """
    file = path / "summary.json"
    found = files.read(file, Summary)
    wrong = fault(found, judged(path).metrics)
    if wrong:
        raise InputError(f"{file} is damaged: {wrong}")
    return found


class MetricsLog:
    """Writes metrics.jsonl and TensorBoard events, from where a run goes on.

    Args:
        path: the run folder.
        step: the step at which it goes on; later records are dropped, and will be made again.

    Lines that cannot be read cost a warning, not the run; the file is then kept aside.
    """

    def __init__(self, path: Path, step: int) -> None:
        self._path = path / "metrics.jsonl"
        processes.on_first(lambda: self._begin(step))
        self._events = Events(path / "tb", step) if processes.is_first() else None

    def _begin(self, step: int) -> None:
        lines, faults = _evaluations(self._path.parent)
        if faults:
            aside = self._path.with_name(f"{self._path.name}.damaged")
            files.append_bytes(aside, files.read_bytes(self._path))
            log.warning("%s; such lines are left out, and kept in %s", faults[0], aside)
        kept = [line + b"\n" for at, (line, _) in lines.items() if at <= step]
        files.write_bytes(self._path, b"".join(kept))

    def write(self, record: Mapping[str, Any]) -> None:
        """Appends one line and the same numbers to TensorBoard."""
        processes.on_first(lambda: self._append(record))

    def _append(self, record: Mapping[str, Any]) -> None:
        line = f"{json.dumps(record, allow_nan=False)}\n"
        # Not made anew where somebody has removed the folder, of which nothing else would be there.
        files.append_bytes(self._path, line.encode(), create=False)
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
    """Reads the records of metrics.jsonl that can be read, as a run needs them to go on."""
    return processes.on_first(lambda: [*map(plain, evaluations(path, damaged_too=True))])


def evaluations(path: Path, *, damaged_too: bool = False) -> list[Evaluation]:
    """Reads metrics.jsonl, by rising steps, except a last line that was cut short by a kill.

    Args:
        path: the run folder.
        damaged_too: leaves out the lines that cannot be read, instead of raising.

    Raises:
        InputError: a line cannot be read; the message says which.
    """
    lines, faults = _evaluations(path)
    if faults and not damaged_too:
        raise faults[0]
    return [record for _, record in lines.values()]


def _evaluations(path: Path) -> tuple[dict[int, tuple[bytes, Evaluation]], list[InputError]]:
    """Returns lines and records by rising steps, and what is wrong with other lines."""
    file = path / "metrics.jsonl"
    if not file.exists():
        return {}, []
    metrics = judged(path).metrics
    found, faults = {}, []
    for number, line, record in files.read_lines(file, Evaluation):
        if isinstance(record, InputError):
            faults.append(record)
        elif wrong := fault(record, metrics):
            faults.append(InputError(f"{file}: line {number} is damaged: {wrong}"))
        else:
            found[record.step] = line, record
    return dict(sorted(found.items())), faults


def environment() -> dict[str, Any]:
    """Returns what env.json holds: all beside the config that can change the last bits."""
    packages = ("jaxcnn", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")
    versions = {}
    for name in packages:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[name] = importlib.metadata.version(name)
    if onednn := lowering.onednn_version():
        versions["onednn"] = onednn
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
