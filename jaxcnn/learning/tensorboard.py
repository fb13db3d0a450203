"""Writes the records of a run as TensorBoard events, where that can be done."""

import contextlib
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from jaxcnn.errors import as_warning


class Events:
    """A file of TensorBoard events; a fault in writing it costs a warning, never the run.

    It is written here and now: tensorboardX's own ``SummaryWriter`` does so in a thread, whose
    faults nobody catches, and which once it is gone leaves the next record waiting for ever.

    Args:
        folder: where the file is made. Nothing is written where tensorboardX is not installed;
            metrics.jsonl holds the same numbers.
        step: the step at which the run goes on; TensorBoard hides what it knows of later ones.
    """

    def __init__(self, folder: Path, step: int) -> None:
        self._writer: Any = None
        try:
            from tensorboardX.event_file_writer import EventsWriter
            from tensorboardX.proto.event_pb2 import Event, SessionLog
            from tensorboardX.summary import scalar
        except ImportError:  # a bare accelerator machine
            return
        self._folder, self._event, self._scalar = folder, Event, scalar
        with self._or_give_up():
            folder.mkdir(exist_ok=True)
            self._writer = EventsWriter(str(folder.absolute() / "events"))
            start = SessionLog(status=SessionLog.START)
            self._writer.write_event(Event(step=step + 1, session_log=start))

    def write(self, record: Mapping[str, Any]) -> None:
        """Writes every number of a record."""
        if self._writer is None:
            return
        with self._or_give_up():
            for name, value in record.items():
                if name != "step":
                    summary = self._scalar(name, value)
                    event = self._event(summary=summary, step=record["step"], wall_time=time.time())
                    self._writer.write_event(event)
            self._writer.flush()

    def close(self) -> None:
        """Closes the file."""
        if self._writer is not None:
            with contextlib.suppress(OSError):
                self._writer.close()
            self._writer = None

    @contextlib.contextmanager
    def _or_give_up(self) -> Iterator[None]:
        done = False
        with as_warning(f"{self._folder}: no more TensorBoard events are written"):
            yield
            done = True
        if not done:
            self.close()
