"""Binds every checkpoint to its run, its step and its seed, and refuses it anywhere else.

The first run in a folder writes ``run.json`` with a random id, which stays whatever becomes of the
run, so that a whole run folder can be copied or moved. Every checkpoint holds that id, the config
and its step; its arrays hold step and seed.
"""

import dataclasses
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from jaxcnn.config import RESUME_MAY_CHANGE, differences, to_dict
from jaxcnn.errors import InputError
from jaxcnn.learning import files, processes, run_folder
from jaxcnn.learning.checkpoint import Checkpoints
from jaxcnn.learning.records import RunId
from jaxcnn.learning.state import TrainState


@dataclass(frozen=True)
class Identity:
    """What the checkpoints of a run folder must agree with.

    Attributes:
        file: the folder's run.json.
        config: what its config.json holds, or will hold.
        run: the random id; None where there is no run.json, as in old folders.
        unmarked_until: checkpoints up to this step may be older than run.json, and hold neither
            the id nor a config.
    """

    file: Path
    config: Mapping[str, Any]
    run: str | None = None
    unmarked_until: int = -1

    @property
    def mark(self) -> dict[str, Any]:
        """What is saved with every checkpoint."""
        assert self.run is not None
        return {"run": self.run, "config": self.config}

    def claimed(self, step: int) -> "Identity":
        """Returns the identity with an id, which is written to run.json if it is new.

        Args:
            step: the step at which the run begins or goes on.
        """
        if self.run is not None:
            return self
        new = dataclasses.replace(self, run=uuid.uuid4().hex, unmarked_until=step if step else -1)
        known = {"run": new.run, "unmarked_until": new.unmarked_until}

        def write() -> dict[str, Any]:
            files.write_json(self.file, known)
            return known

        return dataclasses.replace(new, **processes.on_first(write))

    def restore(
        self, saved: Checkpoints, like: TrainState
    ) -> tuple[TrainState, dict[str, Any]] | None:
        """Restores the newest whole checkpoint as :meth:`Checkpoints.restore` does.

        Raises:
            InputError: it belongs to another run or step, besides what ``Checkpoints`` refuses.
        """
        found = saved.restore(like, self._check)
        if found is not None:
            state, meta = found
            expected = {"step": meta["step"], "seed": self.config["train"]["seed"]}
            for name, value in expected.items():
                held = int(getattr(state, name))
                if held != value:
                    raise InputError(
                        f"checkpoint {saved.folder / str(meta['step'])}: its state is of {name} "
                        f"{held}, expected {value}; it is another run's, or was renamed"
                    )
        return found

    def _check(self, path: Path, step: int, meta: dict[str, Any]) -> None:
        """Refuses another run's checkpoint, and one of another step, before it is restored."""
        if meta.setdefault("step", step) != step:
            raise InputError(
                f"checkpoint {path}: was saved as step {meta['step']}; rename its folder back"
            )
        if "run" not in meta and (self.run is None or step <= self.unmarked_until):
            return
        changed = {}
        if "run" in meta:
            config = to_dict(run_folder.experiment(meta.get("config"), f"checkpoint {path}"))
            changed = differences(config, self.config)
        changed = {k: v for k, v in changed.items() if k not in RESUME_MAY_CHANGE}
        listed = [f"its {name} is {a!r}, expected {b!r}" for name, (a, b) in changed.items()]
        if meta.get("run") != self.run:
            expected = f"{self.run} of {self.file}" if self.run else f"none: {self.file} is missing"
            listed.append(f"its run is {meta.get('run', 'unknown')}, expected {expected}")
        if listed:
            raise InputError(f"checkpoint {path}: belongs to another run ({'; '.join(listed)})")


def read(folder: Path, config: Mapping[str, Any]) -> Identity:
    """Reads what the checkpoints of a run folder must agree with.

    Args:
        folder: the run folder.
        config: what its config.json holds, or will hold.

    Raises:
        InputError: its run.json is damaged.
    """
    file = folder / "run.json"
    if not processes.on_first(file.exists):
        return Identity(file, config)
    known = processes.on_first(lambda: msgspec.to_builtins(files.read(file, RunId)))
    return Identity(file, config, **known)
