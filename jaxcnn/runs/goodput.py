"""Where the time of a training goes: into its steps, and into what they wait for."""

import contextlib
import time
from collections.abc import Callable, Iterator
from typing import Any, Literal

Part = Literal["evaluate", "save"]


class Clock:
    """Adds up where time goes between the first step and the last of one call.

    Goodput is the share of that time which is spent in steps. What happens while steps are done
    takes no time.
    """

    def __init__(self) -> None:
        self._parts = {"evaluate": 0.0, "save": 0.0}
        self._then = dict(self._parts)
        self._compile = self._steps = self._wall = 0.0
        self._first = time.perf_counter()
        self._idle: Callable[[], float] = lambda: 0.0

    def begin(self, compiling: float, idle: Callable[[], float] = lambda: 0.0) -> None:
        """Begins with the first step.

        Args:
            compiling: the seconds before it, in which the programs were compiled.
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
            What gives the seconds of the steps, once the block has ended. Saving does not keep
            them waiting, but may last longer than they do.
        """
        start, before, seconds = time.perf_counter(), dict(self._parts), 0.0
        yield lambda: seconds
        now = time.perf_counter()
        seconds = now - start - (self._parts["evaluate"] - before["evaluate"])
        self._steps += max(0.0, seconds - (self._parts["save"] - before["save"]))
        self._wall, self._then = now - self._first, dict(self._parts)

    def reading(self) -> tuple[float, float]:
        """Returns the seconds in steps, and all of them, from the first step to the newest."""
        return self._steps, self._wall

    def goodput(self, since: tuple[float, float] = (0.0, 0.0)) -> float:
        """Returns the share of time that was spent in steps since an earlier reading."""
        return (self._steps - since[0]) / (self._wall - since[1])

    def found(self) -> dict[str, Any]:
        """Returns what summary.json holds of it; nothing if there was no step."""
        if not self._wall:
            return {}
        waited = min(self._idle(), self._steps)
        steps, others = self._steps - waited, sum(self._then.values())
        spent = {
            "compile": self._compile,
            "steps": steps,
            "data": waited,
            **self._then,
            "host": max(0.0, self._wall - self._steps - others),
        }
        return {"goodput": steps / self._wall, "spent": spent}
