"""Where the time of a training goes: into its steps, and into what they wait for."""

import contextlib
import time
from collections.abc import Callable, Iterator
from typing import Any, Literal

Part = Literal["evaluate", "save", "compile"]


class Clock:
    """Adds up where time goes between the first step and the last of one call.

    Goodput is the share of that time which is spent in steps. What happens while steps are done
    takes no time.
    """

    def __init__(self) -> None:
        self._parts = {"evaluate": 0.0, "save": 0.0, "compile": 0.0}
        self._then = dict(self._parts)
        self._compile = self._steps = self._wall = 0.0
        self._first = time.perf_counter()
        self._idle: Callable[[], float] = lambda: 0.0

    def begin(self, compiling: float, idle: Callable[[], float] = lambda: 0.0) -> None:
        """Begins with the first step.

        Args:
            compiling: the seconds before it, in which checkpoints were read and the programs
                compiled.
            idle: gives the seconds in which steps waited for data so far.
        """
        self._compile, self._first, self._idle = compiling, time.perf_counter(), idle

    @contextlib.contextmanager
    def spent(self, part: Part) -> Iterator[None]:
        """Counts the seconds in the block as spent on something else than steps."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self._parts[part] += time.perf_counter() - start

    @contextlib.contextmanager
    def chunk(self) -> Iterator[Callable[[], float]]:
        """Counts the seconds in the block, less what was spent otherwise, as spent in steps.

        Yields:
            What gives the seconds of the steps, once the block has ended.
        """
        start, others, seconds = time.perf_counter(), sum(self._parts.values()), 0.0
        yield lambda: seconds
        now = time.perf_counter()
        seconds = now - start - (sum(self._parts.values()) - others)
        self._steps += seconds
        self._wall, self._then = now - self._first, dict(self._parts)

    def reading(self) -> tuple[float, float]:
        """Returns the seconds in steps, and all of them, from the first step to the newest."""
        return self._steps - self._waited, self._wall

    @property
    def _waited(self) -> float:
        return min(self._idle(), self._steps)

    def goodput(self, since: tuple[float, float] = (0.0, 0.0)) -> float:
        """Returns the share of time that was spent in steps since an earlier reading."""
        steps, wall = self.reading()
        return (steps - since[0]) / (wall - since[1])

    def found(self) -> dict[str, Any]:
        """Returns what summary.json holds of it; nothing if there was no step."""
        if not self._wall:
            return {}
        (steps, wall), parts = self.reading(), dict(self._then)
        others, late = sum(parts.values()), parts.pop("compile")
        spent = {
            "compile": self._compile + late,
            "steps": steps,
            "data": self._waited,
            **parts,
            "host": max(0.0, self._wall - self._steps - others),
        }
        return {"goodput": steps / wall, "spent": spent}
