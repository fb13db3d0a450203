"""Lets several processes train one run together: how they start, agree, and who writes.

All of them take part in every computation and in saving arrays; whatever else they share, such as
the config, the metrics and the lock, the first one writes. With a single process all of this is
free.
"""

import contextlib
import importlib.util
import json
import os
import re
import signal
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple, TypeVar

import jax
import numpy as np

from jaxcnn.config import Distributed
from jaxcnn.errors import InputError
from jaxcnn.text import complain

T = TypeVar("T")

SECONDS_TO_NOTICE = 20
"""When one process is gone without a word, the others notice after so long, and end."""


class Cluster(NamedTuple):
    """What runs a process as one of several."""

    name: str
    method: str | None
    """How JAX calls its way to find the others; None lets it look."""


def start(config: Distributed) -> str:
    """Joins the processes of a run, before anything else is done with JAX.

    With a coordinator these are the processes that name it; else those that :func:`cluster` finds;
    else this process is the only one.

    Returns:
        How many processes there are and what has started them; empty where there is one.

    Raises:
        InputError: the processes do not find each other.
    """
    found = Cluster("--distributed", "deactivate") if config.coordinator else cluster(os.environ)
    if found is None:
        return ""
    try:
        jax.distributed.initialize(
            config.coordinator,
            config.processes,
            config.process,
            cluster_detection_method=found.method,
            heartbeat_timeout_seconds=SECONDS_TO_NOTICE,
            shutdown_timeout_seconds=2 * SECONDS_TO_NOTICE,
        )
    except (RuntimeError, ValueError) as error:
        where = config.coordinator or f"the coordinator of {found.name}"
        reason = str(error).splitlines()[0]
        raise InputError(f"distributed: could not join at {where} ({reason})") from error
    count = jax.process_count()
    return f"{count} processes, found by {found.name}" if count > 1 else ""


def cluster(environ: Mapping[str, str]) -> Cluster | None:
    """Returns what runs this process as one of several, if anything does.

    Raises:
        InputError: a variable of SLURM or Open MPI that counts processes is no number.
    """
    counts = ("SLURM_STEP_NUM_TASKS", "SLURM_PROCID", "SLURM_LOCALID", "OMPI_COMM_WORLD_SIZE")
    for name in counts:
        if not re.fullmatch("[0-9]{1,9}", environ.get(name, "1")):
            raise InputError(f"{name}={environ[name]!r}: must be a whole number, or not set")
    if int(environ.get("OMPI_COMM_WORLD_SIZE", "1")) > 1:
        # Since version 5 it does not say where the first process is, but mpi4py can ask that.
        return Cluster("Open MPI", "ompi" if "OMPI_MCA_orte_hnp_uri" in environ else "mpi4py")
    if int(environ.get("SLURM_STEP_NUM_TASKS", "1")) > 1 and "SLURM_PROCID" in environ:
        return Cluster("SLURM", "slurm")
    slices = environ.get("MEGASCALE_NUM_SLICES", "1")
    if "," in environ.get("TPU_WORKER_HOSTNAMES", "") or slices not in ("", "1"):
        return Cluster("Cloud TPU", None)
    indexed = "KUBERNETES_SERVICE_HOST" in environ and "JOB_COMPLETION_INDEX" in environ
    if indexed and importlib.util.find_spec("kubernetes") is not None:
        return Cluster("Kubernetes", None)
    return None


@contextlib.contextmanager
def ending_together() -> Iterator[None]:
    """Ends this process with one line when another one of the run is gone.

    It ends at once, because an orderly exit would wait for the one that is gone.
    """
    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        if jax.process_count() == 1 or "RESOURCE_EXHAUSTED" in str(error):
            raise
        reason = str(error).splitlines()[0][:200]
        complain(
            f"process {jax.process_index()} of {jax.process_count()}: lost the others "
            f"({reason}); start all of them again to go on"
        )
        sys.stderr.flush()
        os._exit(1)


def is_first() -> bool:
    """Tells whether this process is the one that writes what is shared."""
    return jax.process_index() == 0


def on_first(function: Callable[[], T]) -> T:
    """Calls a function in the first process; all processes get its result, or its error.

    Args:
        function: a function whose result JSON can hold.
    """
    if jax.process_count() == 1:
        return function()
    said: dict[str, Any] = {}
    if is_first():
        try:
            said = {"result": function()}
        except InputError as error:
            said = {"fault": str(error)}
        except OSError as error:
            name = None if error.filename is None else str(error.filename)
            said = {"os": [error.errno, error.strerror or str(error), name]}
        except Exception as error:  # the others must hear of it, or they would wait
            said = {"error": f"{type(error).__name__}: {error}"}
    heard = json.loads(_broadcast(json.dumps(said)))
    if "fault" in heard:
        raise InputError(heard["fault"])
    if "os" in heard:
        raise OSError(*heard["os"])
    if "error" in heard:
        raise RuntimeError(heard["error"])
    return heard["result"]


def _broadcast(text: str) -> str:
    """Returns the first process's text in every process."""
    from jax.experimental import multihost_utils

    content = np.frombuffer(text.encode(), np.uint8)
    length = int(multihost_utils.broadcast_one_to_all(np.int32(content.size)))
    padded = np.resize(content, length)
    return bytes(np.asarray(multihost_utils.broadcast_one_to_all(padded))).decode()


def agree(calls: int, stop: int | None, *numbers: int) -> tuple[int | None, list[int]]:
    """Agrees on what all processes do next: stop for a signal, or go on by the same numbers.

    Args:
        calls: how often this was called before, in this run.
        stop: the signal that this process has received, if any. A notice of preemption that comes
            through ``jax.distributed`` counts as SIGTERM.
        numbers: such as how many steps this process would take; the first one's count.

    Returns:
        The signal to stop for, or None, and the first one's numbers.
    """
    if jax.process_count() == 1:
        return stop, list(numbers)
    from jax.experimental import multihost_utils

    if multihost_utils.reached_preemption_sync_point(calls) and stop is None:
        stop = signal.SIGTERM
    views = multihost_utils.process_allgather(np.array([stop or 0, *numbers], np.int32))
    return int(views[:, 0].max()) or None, views[0, 1:].tolist()
