"""Images that cannot be read: each is named once, and too many of them end the run."""

import logging
import threading
from dataclasses import dataclass, field

import numpy as np

from jaxcnn.data.source import Source
from jaxcnn.errors import InputError

log = logging.getLogger(__name__)


@dataclass
class Faults:
    """Counts the examples that could not be read.

    Attributes:
        limit: how many are tolerated, ``data.max_bad_images``.
        found: a line about each of them, by split and place in the split.
    """

    limit: int
    found: dict[tuple[int, int], str] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def note(self, source: Source, index: np.ndarray) -> None:
        """Notes examples of a split that could not be read, and warns of each once.

        Raises:
            InputError: there are more than the limit by now; the message names the first ones.
        """
        with self._lock:
            for i in index.tolist():
                if (id(source), i) in self.found:
                    continue
                line = source.fault(i)
                self.found[id(source), i] = line
                if len(self.found) > self.limit:
                    first = "; ".join(list(self.found.values())[:3])
                    raise InputError(
                        f"data.max_bad_images={self.limit}: more images cannot be read: {first}"
                    )
                log.warning(
                    "left out an image (%d of at most %d): %s", len(self.found), self.limit, line
                )
