"""What several processes do that share a folder of runs: each run is trained by one of them.

They need nothing in common but the folder. A process takes a run by its lock, which ends with the
process however that ends; then another one takes the run, and goes on where it was saved.
"""

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path

import jax

from jaxcnn.config import to_dict
from jaxcnn.errors import InputError
from jaxcnn.learning import run_folder, standing
from jaxcnn.runs.display import show
from jaxcnn.runs.start import Outcome, Run
from jaxcnn.runs.together import Group
from jaxcnn.text import counted


def free(groups: Sequence[Group], outcome: Outcome) -> Iterator[Group]:
    """Yields groups of one run that no other process has taken, as long as there are such.

    What others had taken is looked at again, since they may have ended before their run did.

    Args:
        groups: the runs that are left.
        outcome: hears what others come to, and at last which runs they still train.
    """
    if jax.process_count() > 1:
        raise InputError("--shared: must be left out where several processes train each run")
    left, tried = [*groups], True
    while left and tried:
        later, tried = [], False
        for group in left:
            (run,) = group[0]
            if _ended_elsewhere(run, outcome):
                continue
            if not standing.is_taken(run.folder):
                tried = True
                yield group
            if run.folder not in outcome.results | outcome.diverged | outcome.pruned:
                later.append(group)
        left = later
    outcome.elsewhere.extend(run.folder for (run,), _ in left)


def _ended_elsewhere(run: Run, outcome: Outcome) -> bool:
    """Takes over what has become of a run that another process has trained."""
    result = run_folder.finished(run.folder, to_dict(run.experiment))
    fault = None if standing.is_taken(run.folder) else standing.fault(run.folder)
    if result is not None:
        outcome.results[run.folder] = result
    elif fault is not None:
        outcome.gave_up(fault.ended)[run.folder] = fault.reason
    return result is not None or fault is not None


@contextlib.contextmanager
def finishing(outcome: Outcome, written: Path, shared: bool) -> Iterator[bool]:
    """Yields whether this process is to write what the runs come to.

    Of several that share the folder it is the one that finds all runs done first.

    Args:
        outcome: what became of the runs.
        written: the file that is written last of them, in the folder that holds them.
        shared: whether other processes train there too.
    """
    if not shared:
        yield True
        return
    if outcome.elsewhere:
        others = f"{counted(len(outcome.elsewhere), 'run')} with other processes"
        show(f"{written.parent}: {others}; the last to end writes {written.name}")
        yield False
        return
    with standing.taking(written.parent) as free:
        if not free or _is_newest(written, [folder / "summary.json" for folder in outcome.results]):
            show(f"{written}: by another process")
            yield False
        else:
            yield True


def _is_newest(file: Path, others: Sequence[Path]) -> bool:
    """Tells whether a file was written after all others."""
    with contextlib.suppress(FileNotFoundError):
        written = file.stat().st_mtime_ns
        return all(other.stat().st_mtime_ns < written for other in others)
    return False
