"""``jaxcnn compare``: trains or reuses every arm and seed, then says which arm does better."""

import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from jaxcnn.commands import pages, terminal
from jaxcnn.commands.parsing import load_comparison, parse
from jaxcnn.config import Comparison
from jaxcnn.errors import InputError

if TYPE_CHECKING:
    from jaxcnn.runs.jobs import Job


def main(args: Sequence[str]) -> int:
    """Runs the command and returns the exit code."""
    import tyro

    def parsed(
        file: tyro.conf.Positional[Path], seeds: int | None = None, workdir: Path | None = None
    ) -> tuple[Path, int | None, Path]:
        """Train, or reuse, every arm of a comparison with every seed, then compare them.

        Interrupted, it goes on where it stopped when it is called again. Writes report.html,
        comparison.json and comparison.png.

        Args:
            file: defines config() -> Comparison; the first arm is the baseline.
            seeds: how many; by default what the file says.
            workdir: folder of the run folders ARM/seedN; by default runs/NAME of the file.
        """
        return file, seeds, workdir or Path("runs") / file.stem

    file, seeds, workdir = parse(parsed, args, "compare")
    comparison = load_comparison(file)
    if seeds is not None:
        comparison = dataclasses.replace(comparison, seeds=seeds)

    from jaxcnn.runs import jobs, predictions

    planned = planned_jobs(comparison, workdir)
    with terminal.display() as listener:
        failed = jobs.train_all(
            planned, listener, after=lambda job: predictions.of_test_set(job.workdir)
        )
    done = [job.workdir for job in planned if job.workdir not in failed]
    if not done:
        raise InputError(f"comparison {file}: every run diverged; lower optim.peak_lr")
    problems = [f"{path}: {reason}" for path, reason in failed.items()]
    pages.write_comparison(file.stem, done, workdir, problems)
    for problem in problems:
        print(f"jaxcnn: {problem}", file=sys.stderr)
    return 1 if failed else 0


def planned_jobs(comparison: Comparison, workdir: Path) -> "list[Job]":
    """Every arm and seed in a folder of its own; one seed of all arms comes before the next.

    Interrupted at any time, what is done can be compared in pairs.
    """
    from jaxcnn.runs import jobs

    return [
        jobs.Job(
            dataclasses.replace(arm, train=dataclasses.replace(arm.train, seed=seed)),
            workdir / arm.name / f"seed{seed}",
        )
        for seed in range(comparison.seeds)
        for arm in comparison.arms
    ]
