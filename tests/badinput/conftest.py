"""The world and the server of a session, how many cases it tries, and what came of them."""

import fcntl
import functools
import os
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.badinput import harness, world
from tests.badinput.harness import Case


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[harness.Server]:
    """The process that forks one for each case."""
    server = harness.Server(tmp_path_factory.getbasetemp() / "server.txt")
    yield server
    server.close()


@pytest.fixture(scope="session")
def valid(tmp_path_factory: pytest.TempPathFactory, server: harness.Server) -> Path:
    """The folder of valid files, made once by all of pytest's processes together."""
    base = tmp_path_factory.getbasetemp()
    if "popen-gw" in base.name:  # a process of pytest-xdist
        base = base.parent
    folder = base / "world" / "files"
    folder.mkdir(parents=True, exist_ok=True)
    _once(folder.parent / "written", lambda: world.write(folder))
    for wait in (False, True):
        for number, argv in enumerate(world.MADE):
            made = functools.partial(world.call, server, folder, argv)
            _once(folder.parent / f"made-{number}", made, wait=wait)
    return folder


def _once(mark: Path, make: Callable[[], object], *, wait: bool = True) -> None:
    """Makes a part of the world unless a process has; where one is at it, waits or goes on."""
    with mark.open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return
        if not mark.stat().st_size:
            make()
            file.write("done")


@pytest.fixture
def clean(
    request: pytest.FixtureRequest, server: harness.Server, valid: Path, tmp_path: Path
) -> Callable[[str, Case], None]:
    """Runs a case and fails where it is unclean, with the command that shows it again."""

    def check(kind: str, case: Case, folder: Path = tmp_path) -> None:
        outcome = harness.run(case, valid, folder, server)
        found = harness.faults(outcome, [fd for fd in (1, 2) if fd not in case.streams])
        request.node.user_properties.append(("badinput", (kind, not found)))
        if found:
            again = harness.reproduction(case, folder)
            pytest.fail(
                f"{kind}: {case.name}: {'; '.join(found)}\n{again}\n"
                f"exit code {outcome.code} after {outcome.seconds:.1f} s\n{outcome.err[-2000:]}",
                pytrace=False,
            )

    return check


CASES = int(os.environ.get("BADINPUT_CASES", "250"))
SEED = os.environ.get("BADINPUT_SEED", "0")


def table(cases: Iterable[Case], fast: int) -> Any:
    """Parametrizes a test with some cases of a table.

    Args:
        cases: the table.
        fast: how many of them belong to the fast tests, the same in every session. The slow tests
            try others, drawn by the seed ``BADINPUT_SEED``; both together are ``BADINPUT_CASES``.
    """
    chosen = sorted(cases, key=lambda case: _drawn("0", case))
    others = sorted(chosen[fast:], key=lambda case: _drawn(SEED, case))
    slow = [pytest.param(c, marks=pytest.mark.slow, id=ident(c.name)) for c in others]
    quick = [pytest.param(c, id=ident(c.name)) for c in chosen[:fast]]
    return pytest.mark.parametrize("case", [*quick, *slow[: max(0, CASES - fast)]])


def _drawn(seed: str, case: Case) -> int:
    return zlib.crc32(f"{seed} {case.name}".encode(errors="replace"))


def ident(name: str) -> str:
    """Returns a name as plain, short ASCII."""
    return name.encode("unicode_escape").decode()[:100]


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Prints how many cases of each kind were tried, and how many of them were unclean."""
    tried: Counter[str] = Counter()
    clean: Counter[str] = Counter()
    for reports in terminalreporter.stats.values():
        for report in reports:
            if getattr(report, "when", "") == "call":
                for name, value in report.user_properties:
                    if name == "badinput":
                        tried[value[0]] += 1
                        clean[value[0]] += value[1]
    if tried:
        terminalreporter.section("bad input")
        rows = [(kind, tried[kind], clean[kind]) for kind in sorted(tried)]
        rows.append(("all", tried.total(), clean.total()))
        for kind, number, good in rows:
            line = f"{kind:14} tried {number:6,}  clean {good:6,}  unclean {number - good:6,}"
            terminalreporter.write_line(line)
