"""``jaxcnn report``: finished runs as one self-contained HTML page."""

import contextlib
import signal
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jaxcnn.commands import arguments, pages
from jaxcnn.commands.parsing import bring_from
from jaxcnn.config.checked import require
from jaxcnn.errors import InputError, NotAtHand
from jaxcnn.text import complain, counted

if TYPE_CHECKING:
    from jaxcnn.analysis.sweep import Sweep


@dataclass(frozen=True)
class Command(arguments.Command):
    """Writes one page on finished runs; runs that differ in their seed alone are one arm.

    A single run, or one with several seeds, has a page of its own; so has the folder of a sweep.
    With --watch no page is written: the page is served on this machine, shows runs that are still
    trained, and updates itself until Ctrl-C ends it.
    """

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
    watch: bool = False
    """Serves the page of one folder at http://127.0.0.1:PORT instead, while its runs train."""
    port: int | None = None
    """The port of --watch, 0 for any that is free; by default 8010."""


PORT = 8010


def run(command: Command) -> int:
    """Writes or serves the page and returns the exit code."""
    if command.watch:
        return _watch(command)
    if command.port is not None:
        raise InputError(f"--port {command.port}: is for --watch")
    from jaxcnn.analysis import sweep
    from jaxcnn.learning import files

    if len(command.runs) == 1 and (command.runs[0] / sweep.FILE).is_file():
        return _of_sweep(command)
    paths, out = command.runs, files.destination(command.out, "--out", "<!DOCTYPE html>")

    from jaxcnn.analysis import arms

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
            answers = pages.answers(run.path, complain, command.data_dir)
            if answers is not None:
                held[run.path] = answers
        except InputError as error:
            failed |= not isinstance(error, NotAtHand)  # which the page can do without
            problems.append(f"predictions of {run.path} ({error})")
            complain(f"left out: {problems[-1]}")
    held, line = pages.with_corrupted(held)
    if line:
        problems.append(line)
        complain(f"left out: {line}")
    title = command.title or ", ".join(path.resolve().name for path in paths)
    pages.write_page(title, reported, held, out, problems, command.data_dir)
    arms_too = f" in {counted(len(reported), 'arm')}" if len(reported) > 1 else ""
    print(f"{command.out}: {counted(len(read), 'run')}{arms_too}")
    return 2 if failed else 0


def _of_sweep(command: Command) -> int:
    from jaxcnn.analysis import sweep
    from jaxcnn.learning import files

    if command.data_dir is not None or command.source:
        given = "--data-dir" if command.data_dir is not None else "--from"
        raise InputError(f"{given}: must be left out, since {command.runs[0]} is that of a sweep")
    out = files.destination(command.out, "--out", "<!DOCTYPE html>")
    found = _titled(command)
    files.write_text(out, sweep.page(found))
    print(f"{command.out}: {counted(len(found.rows), 'trial')}")
    return 0


def _titled(command: Command) -> "Sweep":
    """Reads a sweep, and gives it the name that the command gives."""
    from jaxcnn.analysis import sweep

    found = sweep.read(command.runs[0])
    return found if command.title is None else replace(found, name=command.title)


def _watch(command: Command) -> int:
    """Serves the page until Ctrl-C."""
    port = PORT if command.port is None else command.port
    require("--port", port, 0 <= port < 2**16, "a whole number in [0, 65535]")
    if len(command.runs) != 1:
        raise InputError(f"report --watch: must be of one folder, got {len(command.runs)}")
    if command.out != Command.out:
        raise InputError(
            f"--out {command.out}: must be left out with --watch, which writes no page"
        )
    import jax

    jax.config.update("jax_platforms", "cpu")  # the accelerator is that of the runs

    from jaxcnn.analysis import live, status

    (folder,) = command.runs
    status.read_all(folder)  # refuses a folder without runs
    bring_from(command.source)
    held: dict[Any, Any] = {}
    with live.server(live.Served(folder, lambda: _live(command, held)), port) as server:
        address = f"http://{live.HOST}:{server.server_address[1]}"
        print(f"{folder}: at {address}, until Ctrl-C", flush=True)
        if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
            signal.signal(signal.SIGINT, signal.default_int_handler)  # here Ctrl-C is the usual end
        with contextlib.suppress(KeyboardInterrupt):
            server.serve_forever()
    return 0


def _live(command: Command, held: dict[Any, Any]) -> str:
    """Returns the page of a folder as it now is.

    Args:
        command: the command.
        held: predictions of runs by when they were finished, which is added to.
    """
    from jaxcnn.analysis import arms, live, report, sweep
    from jaxcnn.learning import run_folder

    (folder,) = command.runs
    training = report.unfinished(folder)
    if (folder / sweep.FILE).is_file():
        with contextlib.suppress(InputError):  # of a sweep that begins
            return sweep.page(_titled(command), training, live.SCRIPT)
    title = command.title or folder.resolve().name
    paths = arms.find([folder]) if run_folder.within(folder) else []
    done = [path for path in paths if (path / "summary.json").exists()]
    read, problems = arms.read_all(done)
    grouped: list[arms.Arm] = []
    try:
        grouped = arms.group(read)
    except InputError as error:  # as of runs on different data
        problems.append(str(error))
    if not grouped:
        shown: dict[str, Any] = {"training": training, "problems": problems, "live": live.SCRIPT}
        return report.render("live.html", title=title, data={}, **shown)
    answers = {}
    for run in read:
        files = (run.path / name for name in ("summary.json", "temperature.json"))
        known = run.path, *(file.stat().st_mtime_ns for file in files if file.exists())
        try:
            if known not in held:
                held[known] = pages.answers(run.path, complain, command.data_dir)
            if held[known] is not None:
                answers[run.path] = held[known]
        except InputError as error:
            problems.append(f"predictions of {run.path} ({error})")
    answers, line = pages.with_corrupted(answers)
    problems += [line] if line else []
    more = {"training": training, "live": live.SCRIPT}
    return pages.page(title, grouped, answers, problems, command.data_dir, **more)
