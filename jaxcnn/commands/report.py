"""``jaxcnn report``: finished runs as one self-contained HTML page."""

import sys
from collections.abc import Sequence
from pathlib import Path

from jaxcnn.commands import pages
from jaxcnn.commands.parsing import parse
from jaxcnn.errors import InputError


def main(args: Sequence[str]) -> int:
    """Runs the command and returns the exit code."""
    import tyro

    def parsed(
        runs: tyro.conf.Positional[tuple[Path, ...]],
        out: Path = Path("report.html"),
        title: str | None = None,
    ) -> tuple[tuple[Path, ...], Path, str | None]:
        """Write one page on some runs; runs that differ in their seed alone are one arm.

        Args:
            runs: run folders, or folders that hold some; the first arm is the baseline.
            out: the HTML file.
            title: heading of the page; by default the names of the folders.
        """
        return runs, out, title

    paths, out, title = parse(parsed, args, "report")
    if not paths:
        raise InputError("report: give at least one run folder")
    if out.is_dir():
        raise InputError(f"--out {out}: is a folder; give the name of an HTML file")

    from jaxcnn.analysis import arms as runs
    from jaxcnn.runs import evaluation

    read, problems = runs.read_all(runs.find(paths))
    for problem in problems:
        print(f"jaxcnn: left out: {problem}", file=sys.stderr)
    if not read:
        raise InputError(f"report: none of {len(problems)} runs can be reported; {problems[0]}")
    arms = runs.group(read)
    held = {}
    for run in read:
        try:
            held[run.path] = evaluation.predict_test_set(run.path)
        except InputError as error:
            problems.append(f"predictions of {run.path} ({error})")
            print(f"jaxcnn: left out: {problems[-1]}", file=sys.stderr)
    name = title or ", ".join(path.resolve().name for path in paths)
    pages.write_page(name, arms, held, out, problems)
    print(f"{out}: {len(read)} runs in {len(arms)} arms")
    return 2 if problems else 0
