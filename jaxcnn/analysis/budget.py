"""A budget of time, and whether a further piece of work still fits into it."""

import contextlib
import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass


@dataclass
class Budget:
    """Seconds that may be spent from now on.

    What has begun is finished, so that a piece of work is begun only where the longest of its kind
    so far would still fit.

    Attributes:
        seconds: how many there are; by default, as many as it takes.
    """

    seconds: float = math.inf

    def __post_init__(self) -> None:
        self._begun = time.monotonic()
        self._longest: dict[str, float] = {}

    def fits(self, kind: str) -> bool:
        """Says whether a piece of work of a kind fits; of an unknown kind, the longest of any."""
        left = self.seconds - (time.monotonic() - self._begun)
        return left > self._longest.get(kind, max(self._longest.values(), default=0.0))

    @contextlib.contextmanager
    def spent_on(self, kind: str) -> Iterator[None]:
        """Notes how long a piece of work of a kind takes, unless it fails."""
        start = time.monotonic()
        yield
        taken = time.monotonic() - start
        self._longest[kind] = max(taken, self._longest.get(kind, 0.0))

    def left_out(self, names: Sequence[str]) -> str:
        """Returns the line that names what did not fit."""
        return f"left out, for lack of time in {self.seconds:g} s: {', '.join(names)}"
