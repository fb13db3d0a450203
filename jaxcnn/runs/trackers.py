"""Sends to MLflow or wandb what run folders hold: the program that :mod:`.tracking` starts.

It knows of files alone, and imports neither JAX nor what trains. Whatever the tracker holds already
is not sent again, and whatever it lacks is: a run that goes on continues its tracked run, which it
finds by the id in run.json.
"""

import contextlib
import fcntl
import hashlib
import json
import os
import re
import signal
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Literal, Protocol

from jaxcnn.config import flat

Tracker = Literal["mlflow", "wandb"]

FILES = ("config.json", "dataset.json", "env.json", "metrics.jsonl", "summary.json")
PICTURES = ("curves.png", "confusion.png")
RESULT = "params_sha256"
"""The field of summary.json by which a tracked run is known to hold this result."""
SECONDS_ALONE = 30
"""How long this program goes on after the one that started it is gone."""
ENTITIES = 1000, 100
"""How many metrics, and parameters or tags, MLflow takes at once."""

Ending = Literal["finished", "diverged", "interrupted"]


class TrackedRun(Protocol):
    """What a tracker knows of a run.

    Attributes:
        last: the newest step of which it holds a record; -1 where it holds none.
        result: the ``params_sha256`` of the result that it holds.
    """

    last: int
    result: str | None

    def begin(self, config: Mapping[str, Any], env: Mapping[str, Any]) -> None:
        """Takes the settings of a run that begins or goes on."""

    def log(self, records: Sequence[Mapping[str, Any]]) -> None:
        """Takes lines of metrics.jsonl."""

    def summarize(self, summary: Mapping[str, Any], last: Mapping[str, Any]) -> None:
        """Takes what summary.json holds; ``last`` is the last line of metrics.jsonl."""

    def attach(self, folder: Path, names: Sequence[str]) -> None:
        """Takes those files of a folder that are there."""

    def end(self, ending: Ending, why: str = "") -> None:
        """Hears how the run has ended, and returns when everything is sent."""


class MLflow:
    """A run of MLflow, in the experiment of a name, found by its tag ``jaxcnn.run``."""

    def __init__(self, project: str, run: str, name: str) -> None:
        import mlflow

        self._mlflow, self._client = mlflow, mlflow.MlflowClient()
        experiment = mlflow.set_experiment(project).experiment_id
        found = self._client.search_runs([experiment], f"tags.`jaxcnn.run` = '{run}'")
        if found:
            tracked = found[0]
        else:
            tags = {"jaxcnn.run": run}
            tracked = self._client.create_run(experiment, tags=tags, run_name=name)
        self._id, self._status = tracked.info.run_id, tracked.info.status
        self._params = tracked.data.params
        self.result = tracked.data.tags.get(RESULT)
        held = self._client.get_metric_history(self._id, "seconds") if found else []
        self.last = max((metric.step for metric in held), default=-1)

    def begin(self, config: Mapping[str, Any], env: Mapping[str, Any]) -> None:
        """Logs the config as parameters, which MLflow never changes, and env.json as tags."""
        self._status = "RUNNING"
        self._client.update_run(self._id, self._status)
        param, tag = self._mlflow.entities.Param, self._mlflow.entities.RunTag
        new = {k: v for k, v in flat(config).items() if k not in self._params}
        self._batches(ENTITIES[1], params=[param(k, str(v)) for k, v in new.items()])
        self._batches(ENTITIES[1], tags=[tag(k, str(v)) for k, v in flat({"env": env}).items()])

    def log(self, records: Sequence[Mapping[str, Any]]) -> None:
        """Logs every number of the records."""
        now, metric = time.time_ns() // 10**6, self._mlflow.entities.Metric
        found = [
            metric(name, value, now, record["step"])
            for record in records
            for name, value in record.items()
            if name != "step"
        ]
        self._batches(ENTITIES[0], metrics=found)

    def summarize(self, summary: Mapping[str, Any], last: Mapping[str, Any]) -> None:
        """Logs numbers that no record has as metrics of the last step, and texts as tags."""
        values, tag = flat(summary), self._mlflow.entities.RunTag
        known = {*last, "seed"}  # which is a parameter
        numbers = {k: v for k, v in values.items() if type(v) in (int, float) and k not in known}
        self.log([{**numbers, "step": summary["step"]}])
        texts = [tag(k, v) for k, v in values.items() if isinstance(v, str)]
        self._batches(ENTITIES[1], tags=texts)

    def attach(self, folder: Path, names: Sequence[str]) -> None:
        """Logs the files as artifacts."""
        for file in _existing(folder, names):
            self._client.log_artifact(self._id, str(file))

    def end(self, ending: Ending, why: str = "") -> None:
        """Sets the status of the run."""
        if why:
            self._client.set_tag(self._id, ending, why)
        status = {"finished": "FINISHED", "diverged": "FAILED", "interrupted": "KILLED"}[ending]
        if status != self._status:  # else it would seem to have ended only now
            self._client.set_terminated(self._id, status)

    def _batches(self, size: int, **entities: Sequence[Any]) -> None:
        for kind, values in entities.items():
            for first in range(0, len(values), size):
                batch: dict[str, Any] = {kind: values[first : first + size]}
                self._client.log_batch(self._id, **batch)


class Wandb:
    """A run of wandb, in the project of a name, under the run's own id."""

    def __init__(self, project: str, run: str, name: str) -> None:
        import wandb

        self._wandb, self._name = wandb, name
        self._run = wandb.init(
            project=project,
            id=run,
            name=name,
            resume="allow",
            reinit="create_new",  # several runs are open at a time
            settings=wandb.Settings(console="off", silent=True),
        )
        self.last = self._run.step - 1
        self.result = self._run.summary.get(RESULT)

    def begin(self, config: Mapping[str, Any], env: Mapping[str, Any]) -> None:
        """Sets the config, with env.json as its section ``env``."""
        self._run.config.update({**config, "env": {**env}}, allow_val_change=True)

    def log(self, records: Sequence[Mapping[str, Any]]) -> None:
        """Logs every number of the records."""
        for record in records:
            values = {name: value for name, value in record.items() if name != "step"}
            self._run.log(values, step=record["step"], commit=True)

    def summarize(self, summary: Mapping[str, Any], last: Mapping[str, Any]) -> None:
        """Sets the summary."""
        self._run.summary.update({**summary})

    def attach(self, folder: Path, names: Sequence[str]) -> None:
        """Logs an artifact with the files, and shows pictures and pages beside the metrics."""
        artifact = self._wandb.Artifact(re.sub(r"[^\w.-]", "-", self._name), type="run")
        shown = {".png": self._wandb.Image, ".html": self._wandb.Html}
        for file in _existing(folder, names):
            artifact.add_file(str(file))
            if file.suffix in shown:
                self._run.summary[file.stem] = shown[file.suffix](str(file))
        self._run.log_artifact(artifact)

    def end(self, ending: Ending, why: str = "") -> None:
        """Finishes the run, with the exit code that wandb gives to such an end."""
        if why:
            self._run.summary[ending] = why
        self._run.finish({"finished": 0, "diverged": 1, "interrupted": 255}[ending])


KINDS: Mapping[Tracker, Callable[[str, str, str], TrackedRun]] = {"mlflow": MLflow, "wandb": Wandb}
"""Begins, or continues, the tracked run of a project, an id and a name."""


@dataclass
class _Open:
    """What is known of a run that is tracked: how far its metrics.jsonl is read, the last line."""

    run: TrackedRun
    lock: IO[bytes]
    begun: bool = False
    read: int = 0
    last: Mapping[str, Any] = field(default_factory=dict)


class Sender:
    """Sends what is new in run folders to a tracker.

    Args:
        tracker: which one.
        project: the experiment of MLflow, or the project of wandb, that holds the runs.
    """

    def __init__(self, tracker: Tracker, project: str) -> None:
        self._kind = KINDS[tracker]
        self._project = project
        self._runs: dict[Path, _Open] = {}
        self._closed: set[str] = set()

    def update(self, folder: str) -> None:
        """Sends what a run has recorded, and before that, when it begins or goes on, its settings.

        Args:
            folder: its run folder.
        """
        path = Path(folder)
        found = self._found(path)
        if not found.begun:
            found.run.begin(_read(path / "config.json"), _read(path / "env.json"))
            found.begun = True
        with (path / "metrics.jsonl").open("rb") as file:
            file.seek(found.read)
            whole, end, _ = file.read().rpartition(b"\n")
        found.read += len(whole + end)
        records = [json.loads(line) for line in whole.splitlines()]
        found.run.log([record for record in records if record["step"] > found.run.last])
        found.last = records[-1] if records else found.last

    def close(self, folder: str, diverged: str) -> None:
        """Sends what a run has left, if the tracker does not hold it, and says how it has ended.

        Args:
            folder: its run folder.
            diverged: why, if it has.
        """
        path = Path(folder)
        run = self._found(path).run
        summary = {} if diverged else _read(path / "summary.json")
        if run.result != summary.get(RESULT, ""):
            self.update(folder)
            run.attach(path, FILES + PICTURES)
        if summary and run.result != summary[RESULT]:
            run.summarize(summary, self._runs[path].last)  # the last, since it says what is held
        run.end("diverged" if diverged else "finished", diverged)
        self._runs.pop(path).lock.close()
        self._closed.add(_id(path))

    def page(self, folder: str, names: Sequence[str]) -> None:
        """Sends files on all runs together, as a tracked run that is the same for the same runs.

        Args:
            folder: where they are.
            names: the names of the files.
        """
        path = Path(folder)
        together = hashlib.sha256("".join(sorted(self._closed)).encode()).hexdigest()[:32]
        run = self._kind(self._project, together, path.name)
        run.attach(path, names)
        run.end("finished")

    def end(self) -> None:
        """Says of the runs that are not closed that they were interrupted."""
        for path in [*self._runs]:
            self._runs[path].run.end("interrupted")
            self._runs.pop(path).lock.close()

    def _found(self, path: Path) -> _Open:
        if path not in self._runs:
            lock = (path / "run.json").open("rb")
            with contextlib.suppress(OSError):  # a file system without locks
                # The tracker of a call that was killed may still be sending.
                fcntl.flock(lock, fcntl.LOCK_EX)
            name = f"{path.parent.name}/{path.name}"
            self._runs[path] = _Open(self._kind(self._project, _id(path), name), lock)
        return self._runs[path]


def _read(file: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(file.read_bytes())
    return found


def _existing(folder: Path, names: Sequence[str]) -> list[Path]:
    return [folder / name for name in names if (folder / name).exists()]


def _id(folder: Path) -> str:
    return str(_read(folder / "run.json")["run"])


def main(tracker: Tracker, project: str) -> None:
    """Does what each line of stdin says, and answers it with a line: empty, or what went wrong."""
    said, answers = (os.fdopen(os.dup(n), mode) for n, mode in ((0, "r"), (1, "w")))
    for number in (0, 1):
        os.dup2(2, number)  # which is /dev/null: no library asks or tells anybody anything
    os.nice(10)  # the training comes first
    # A server that is gone is noticed soon, by MLflow's own means.
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
    sender, training = Sender(tracker, project), os.getppid()

    def done(method: str, *given: Any) -> str:
        try:
            getattr(sender, method)(*given)
        except Exception as error:
            return (str(error).strip() or type(error).__name__).splitlines()[0]
        return ""

    for line in said:
        if os.getppid() != training:
            break  # killed, and perhaps begun again: what is new is for its new tracker to send
        answer = done(*json.loads(line))
        print(answer, file=answers, flush=True)
        if answer:
            os._exit(1)  # no library holds this up at its exit
    signal.alarm(SECONDS_ALONE)
    with contextlib.suppress(Exception):
        sender.end()


if __name__ == "__main__":
    main(*sys.argv[1:])  # type: ignore[arg-type]
