"""What a launched command runs on, in the terms of schedulers."""

import re
from dataclasses import dataclass
from typing import Annotated

from jaxcnn.config.checked import Accepts, Checked

Count = Annotated[int, Accepts("a positive whole number up to 10000", lambda n: 0 < n <= 10_000)]
Devices = Annotated[int, Accepts("a whole number in [0, 10000]", lambda n: 0 <= n <= 10_000)]
Hours = Annotated[float, Accepts("a number of hours in (0, 8760]", lambda h: 0 < h <= 8760)]
Line = Annotated[
    str, Accepts("a text of one line", lambda text: text.strip() and text.isprintable())
]
Lines = Annotated[
    tuple[str, ...],
    Accepts("a tuple of lines of shell", lambda lines: all(line.isprintable() for line in lines)),
]
Options = Annotated[
    tuple[str, ...],
    Accepts(
        "a tuple of options of sbatch without dashes, such as account=vision",
        lambda options: all(re.fullmatch(r"[a-z][a-z-]*(=\S+)?", o) for o in options),
    ),
]


@dataclass(frozen=True)
class Resources(Checked, section="resources"):
    """What a launched command runs on.

    A run is trained by one worker, which may stretch over several nodes. A comparison, a sweep and
    several seeds are shared by many workers, of one node each.
    """

    workers: Count | None = None
    """How many workers share the runs; by default on this machine as many as it has accelerators,
    and under a scheduler as many as there are runs, at most 16."""
    nodes: Count = 1
    """The machines of a worker; more than one train a single run together."""
    devices: Devices = 0
    """The accelerators of a worker on each of its nodes; 0 where the processor trains."""
    card: Line | None = None
    """The kind of accelerator, as the scheduler calls it, such as h100."""
    cpus: Count | None = None
    """The processor cores of a worker on each of its nodes; by default what the scheduler gives."""
    memory: Count | None = None
    """The memory of a worker on each of its nodes, in gigabytes; by default what the scheduler
    gives."""
    hours: Hours = 24.0
    """After how many hours a worker is ended, to go on when it is its turn again."""
    partition: Line | None = None
    """The partition of SLURM; by default the cluster's."""
    setup: Lines = ()
    """Lines of shell that every worker runs first, such as "module load cuda"."""
    sbatch: Options = ()
    """More options of sbatch without their dashes, such as account=vision; they count where one is
    given twice."""

    def __post_init__(self) -> None:
        """Checks the fields, and that more nodes than one are given to a single worker."""
        super().__post_init__()
        if self.nodes > 1:
            accepted = f"1, since nodes={self.nodes} train a single run"
            self.require("workers", self.workers in (None, 1), accepted)
