"""``jaxcnn compare``: trains or reuses every arm and seed, then says which arm does better."""

import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path

from jaxcnn.commands import pages
from jaxcnn.commands.parsing import load_comparison, parse
from jaxcnn.errors import InputError


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

    from jaxcnn.runs import display, group, plan, together

    runs = plan.comparison(comparison, workdir)
    with display.display() as listener:
        outcome = group.train(runs, listener, modes=together.Modes(workdir / "together.json"))
    if not outcome.results:
        raise InputError(f"comparison {file}: every run diverged; lower optim.peak_lr")
    problems = [f"{path}: {reason}" for path, reason in outcome.diverged.items()]
    done = [run.folder for run in runs if run.folder in outcome.results]
    pages.write_comparison(file.stem, done, workdir, problems)
    for problem in problems:
        print(f"jaxcnn: {problem}", file=sys.stderr)
    return 1 if problems else 0
