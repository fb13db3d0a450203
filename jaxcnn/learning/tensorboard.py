"""Writes the records of a run as TensorBoard events, where that can be done.

Training, validation and test are three runs for TensorBoard, in folders of these names, and a
figure has the same tag in each: so that it draws them in one chart. Tags are in groups, which
TensorBoard sorts by name:

| tags        | figures                                                              |
|-------------|----------------------------------------------------------------------|
| metrics/*   | the loss and what the task judges by, of all that were evaluated     |
| optimizer/* | learning rate, norm of the gradient, scale of the loss               |
| time/*      | epoch, seconds, speed, and where the time of the machine went        |
"""

import contextlib
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from jaxcnn.errors import as_warning
from jaxcnn.learning.selection import PREFIX

OPTIMIZER = ("grad_norm", "loss_scale", "lr", "skipped_steps")
"""Fields of records that say how the optimizer does; all that are no metrics are of the time."""


def place(name: str) -> tuple[str, str]:
    """Returns the run and the tag under which TensorBoard shows a field of a record.

    >>> place("test_top1"), place("val_loss")
    (('test', 'metrics/top1'), ('validation', 'metrics/loss'))
    >>> place("lr"), place("data_wait")
    (('train', 'optimizer/lr'), ('train', 'time/data_wait'))
    """
    for split, prefix in PREFIX.items():
        if name.startswith(f"{prefix}_"):
            return split, f"metrics/{name.removeprefix(f'{prefix}_')}"
    return "train", f"{'optimizer' if name in OPTIMIZER else 'time'}/{name}"


@contextlib.contextmanager
def _without_torch() -> Iterator[None]:
    """Hides PyTorch from tensorboardX, which would import it, in seconds, to annotate a type."""
    if {"torch", "tensorboardX.writer"} & sys.modules.keys():
        yield
        return
    sys.modules["torch"] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        if sys.modules.get("torch", 0) is None:
            del sys.modules["torch"]


class Events:
    """Files of TensorBoard events; a fault in writing them costs a warning, never the run.

    They are written here and now: tensorboardX's own ``SummaryWriter`` does so in a thread, whose
    faults nobody catches, and which once it is gone leaves the next record waiting for ever.

    Args:
        folder: where the files are made. Nothing is written where tensorboardX is not installed;
            metrics.jsonl holds the same numbers.
        step: the step at which the run goes on; TensorBoard hides what it knows of later ones.
    """

    def __init__(self, folder: Path, step: int) -> None:
        self._writers: dict[str, Any] = {}
        self._open = False
        try:
            with _without_torch():
                from tensorboardX.event_file_writer import EventsWriter
                from tensorboardX.proto.event_pb2 import Event, SessionLog
                from tensorboardX.summary import scalar
        except ImportError:  # a bare accelerator machine
            return
        self._make, self._event, self._scalar = EventsWriter, Event, scalar
        self._start = Event(step=step + 1, session_log=SessionLog(status=SessionLog.START))
        self._folder, self._open = folder, True
        with self._or_give_up():
            folder.mkdir(exist_ok=True)
            for split in PREFIX:
                if split == "train" or (folder / split).exists():
                    self._begin(split)

    def _begin(self, split: str) -> None:
        """Makes a file for a split, which hides what an earlier one has of later steps."""
        folder = self._folder / split
        folder.mkdir(exist_ok=True)
        self._writers[split] = self._make(str(folder.absolute() / "events"))
        self._writers[split].write_event(self._start)

    def write(self, record: Mapping[str, Any]) -> None:
        """Writes every number of a record."""
        if not self._open:
            return
        with self._or_give_up():
            for name, value in record.items():
                if name != "step":
                    split, tag = place(name)
                    if split not in self._writers:
                        self._begin(split)
                    event = self._event(
                        summary=self._scalar(tag, value), step=record["step"], wall_time=time.time()
                    )
                    self._writers[split].write_event(event)
            for writer in self._writers.values():
                writer.flush()

    def close(self) -> None:
        """Closes the files."""
        for writer in self._writers.values():
            with contextlib.suppress(OSError):
                writer.close()
        self._writers, self._open = {}, False

    @contextlib.contextmanager
    def _or_give_up(self) -> Iterator[None]:
        done = False
        with as_warning(f"{self._folder}: no more TensorBoard events are written"):
            yield
            done = True
        if not done:
            self.close()
