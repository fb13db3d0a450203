"""``jaxcnn report``: finished runs as one self-contained HTML page."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jaxcnn.commands import arguments, pages
from jaxcnn.commands.parsing import bring_from
from jaxcnn.errors import InputError, NotAtHand
from jaxcnn.text import complain, counted


@dataclass(frozen=True)
class Command(arguments.Command):
    """Writes one page on finished runs; runs that differ in their seed alone are one arm."""

    runs: tuple[Path, ...] = field(metadata={"place": "RUN"})
    """At least one run folder, or folder that holds some; the first arm is the baseline."""
    out: Path = Path("report.html")
    """The HTML file to write."""
    data_dir: str | None = None
    """The folder of the data, of prepared TFDS datasets or of image files; by default the same as
    in training."""
    source: tuple[Path, ...] = field(default=(), metadata=arguments.FROM)
    """A Python file with the network, or whatever else was brought to the run; may be given several
    times."""
    title: str | None = None
    """The heading of the page; by default the names of the folders."""


def run(command: Command) -> int:
    """Writes the page and returns the exit code."""
    from jaxcnn.learning import files

    paths, out = command.runs, files.destination(command.out, "--out", "<!DOCTYPE html>")

    from jaxcnn.analysis import arms
    from jaxcnn.runs import evaluation, robustness

    bring_from(command.source)
    read, problems = arms.read_all(arms.find(paths))
    if not read:
        raise InputError(f"report: none of {len(problems)} runs can be reported; {problems[0]}")
    for problem in problems:
        complain(f"left out: {problem}")
    failed = bool(problems)
    reported = arms.group(read)
    held: dict[Path, Any] = {}
    for run in read:
        try:
            answers = evaluation.predict_test_set(run.path, command.data_dir)
            if answers is not None:
                held[run.path] = answers
        except InputError as error:
            failed |= not isinstance(error, NotAtHand)  # which the page can do without
            problems.append(f"predictions of {run.path} ({error})")
            complain(f"left out: {problems[-1]}")
    corrupted, line = robustness.on_the_same(
        {path: robustness.known_under_all(path) for path in held}
    )
    for path, found in corrupted.items():
        held[path] = {**held[path], **found}
    if line:
        problems.append(line)
        complain(f"left out: {line}")
    title = command.title or ", ".join(path.resolve().name for path in paths)
    pages.write_page(title, reported, held, out, problems, command.data_dir)
    arms_too = f" in {counted(len(reported), 'arm')}" if len(reported) > 1 else ""
    print(f"{command.out}: {counted(len(read), 'run')}{arms_too}")
    return 2 if failed else 0
