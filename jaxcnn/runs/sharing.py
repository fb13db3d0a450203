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
            if run.folder not in outcome.results | outcome.given_up:
                later.append(group)
        left = later
    outcome.elsewhere.extend(run.folder for (run,), _ in left)


def _ended_elsewhere(run: Run, outcome: Outcome, *, taken: bool = False) -> bool:
    """Takes over what has become of a run that another process has trained.

    Args:
        run: the run.
        outcome: hears of it.
        taken: whether this process holds the folder.
    """
    result = run_folder.finished(run.folder, to_dict(run.experiment))
    running = not taken and standing.is_taken(run.folder)
    fault = None if running else standing.fault(run.folder)
    if result is not None:
        outcome.results[run.folder] = result
    elif fault is not None:
        outcome.give_up(run.folder, fault.ended, fault.reason)
    return result is not None or fault is not None


def require_left(run: Run) -> None:
    """Refuses a run that had ended in another process before this one took its folder.

    Raises:
        Taken: it has.
    """
    if _ended_elsewhere(run, Outcome(), taken=True):
        raise standing.Taken(f"workdir {run.folder}: another process has trained it")


@contextlib.contextmanager
def finishing(outcome: Outcome, written: Path, shared: bool) -> Iterator[bool]:
    """Yields whether this process is to write what the runs come to.

    Of several that share the folder it is the one that finds all runs done first.

    Args:
        outcome: what became of the runs.
        written: the file that is written last of them, in the folder that holds them.
        shared: whether other processes train there too.
    """
    folder = written.parent
    if not shared:
        yield True
        return
    if outcome.elsewhere:
        others = f"{counted(len(outcome.elsewhere), 'run')} with other processes"
        show(f"{folder}: {others}; the last to end writes {written.name}")
        yield False
        return
    made_of = [run / "summary.json" for run in outcome.results] + [folder / standing.PLANNED]
    with standing.taking(folder) as free:
        if free and not _is_newest(written, made_of):
            yield True
        else:
            show(f"{written}: by another process")
            yield False


def _is_newest(file: Path, others: Sequence[Path]) -> bool:
    """Tells whether a file was written after all others that are there."""
    with contextlib.suppress(FileNotFoundError):
        written = file.stat().st_mtime_ns
        return all(o.stat().st_mtime_ns < written for o in others if o.exists())
    return False
