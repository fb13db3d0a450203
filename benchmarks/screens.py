"""Records what a terminal shows of real runs, as pictures for README and the documentation.

Run it as ``python -m benchmarks.screens``, on a machine that does nothing else: it trains LeNet-5
and compares four networks on digits in a terminal of 80 columns, and writes what stood there to
results/screens/*.svg. Long stretches of lines alike are cut, and a line of dots says so.
"""

import argparse
import codecs
import fcntl
import io
import os
import pty
import re
import struct
import subprocess
import sys
import tempfile
import termios
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.terminal_theme import TerminalTheme
from rich.text import Text

ROOT = Path(__file__).parents[1]
RESULTS = Path(__file__).parent / "results" / "screens"
COLUMNS, LINES = 80, 40
THEME = TerminalTheme(
    background=(24, 24, 27),
    foreground=(236, 236, 236),  # so light that half of it, which is dim, is read easily too
    normal=[
        *((24, 24, 27), (240, 113, 120), (130, 200, 120), (235, 195, 100)),
        *((120, 170, 245), (200, 150, 235), (95, 200, 215), (236, 236, 236)),
    ],
)
CUT = "   ⋮"
"""The line in the place of those that were cut."""


@dataclass(frozen=True)
class Recording:
    """A command whose screen is drawn.

    Attributes:
        name: the name of the pictures.
        words: what follows ``jaxcnn``.
        moment: what stands on the screen when it is drawn while the command runs.
        alike: what the lines begin with of which only the first and the last are drawn.
    """

    name: str
    words: tuple[str, ...]
    moment: str
    alike: str


RECORDINGS = (
    Recording(
        "train", ("train", "experiments/lenet5_digits.py"), "^epoch 2[0-9] of 30 ", "epoch  "
    ),
    Recording(
        "compare",
        ("compare", "experiments/compare_digits.py"),
        "^epoch [5-9] of 15 .*\n[89] of 12 runs",
        "run ",
    ),
)

UNFINISHED = re.compile(r"(\x1b(\[[0-9;?]*)?)?\Z")
"""The beginning of an escape whose rest is still to come."""

Screen = list[str]
"""The lines of a terminal, with the escapes for their colours."""


class Terminal:
    """What a terminal shows: the few commands to it that rich gives are obeyed.

    Anything else is an error, so that no picture shows what no terminal would.
    """

    def __init__(self) -> None:
        self._cells: list[list[tuple[str, str]]] = [[]]
        self._row = self._column = 0
        self._style = self._rest = ""

    def write(self, text: str) -> None:
        """Takes in what a program has written, in pieces that may end within an escape."""
        text = self._rest + text
        self._rest = UNFINISHED.search(text)[0]  # type: ignore[index]
        text = text.removesuffix(self._rest)
        for escape, code, character in re.findall(
            r"(\x1b\[([0-9;?]*[A-Za-z]))|(.)", text, re.DOTALL
        ):
            if escape:
                self._obey(escape, code)
            elif character == "\x1b":
                raise ValueError("a terminal was told something that is not known here")
            elif character == "\r":
                self._column = 0
            elif character == "\n":
                self._row, self._column = self._row + 1, 0
                self._cells += [[] for _ in range(self._row + 1 - len(self._cells))]
            else:
                row = self._cells[self._row]
                row += [(" ", "")] * (self._column + 1 - len(row))
                row[self._column] = character, self._style
                self._column += 1

    def _obey(self, escape: str, code: str) -> None:
        number, command = code[:-1], code[-1]
        if command == "m":
            self._style = "" if number in ("", "0") else self._style + escape
        elif command == "A":
            self._row -= int(number or 1)
        elif code == "2K":
            self._cells[self._row] = []
        elif code not in ("?25l", "?25h"):
            raise ValueError(f"a terminal was told {escape!r}, which is not known here")

    def screen(self) -> Screen:
        """Returns the lines as they stand, without empty ones at their end."""
        lines = ["".join(_styled(row)) for row in self._cells]
        while lines and not lines[-1].strip():
            lines.pop()
        return lines


def _styled(row: Sequence[tuple[str, str]]) -> Iterator[str]:
    """Yields the characters of a line, each with the escapes where the style changes."""
    before = ""
    for character, style in row:
        if style != before:
            yield f"\x1b[0m{style}"
        yield character
        before = style
    yield "\x1b[0m" if before else ""


def record(
    command: Sequence[str],
    columns: int = COLUMNS,
    wanted: Callable[[Screen], bool] = lambda screen: False,
    folder: Path | None = None,
    env: Mapping[str, str] | None = None,
) -> tuple[Screen, Screen | None]:
    """Runs a command in a terminal and returns the screen at its end, and an earlier one.

    Args:
        command: the command line.
        columns: the columns of the terminal.
        wanted: tells whether the earlier screen is this one; the first that is so is kept.
        folder: where the command runs; by default here.
        env: variables of its environment beside those that say what the terminal can.

    Raises:
        RuntimeError: the command fails.
    """
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", LINES, columns, 0, 0))
    kept = {k: v for k, v in os.environ.items() if k not in ("COLUMNS", "LINES", "NO_COLOR")}
    kept |= {"TERM": "xterm-256color", "COLORTERM": "truecolor", "PYTHONPATH": str(ROOT)}
    terminal, earlier = Terminal(), None
    decoded = codecs.getincrementaldecoder("utf-8")()
    with subprocess.Popen(
        command, stdout=theirs, stderr=theirs, env={**kept, **(env or {})}, cwd=folder
    ) as process:
        os.close(theirs)
        while chunk := _read(ours):
            terminal.write(decoded.decode(chunk))
            if earlier is None and wanted(found := terminal.screen()):
                earlier = found
    os.close(ours)
    if process.returncode:
        raise RuntimeError(f"{' '.join(command)}: exit code {process.returncode}")
    return terminal.screen(), earlier


def _read(terminal: int) -> bytes:
    try:
        return os.read(terminal, 65536)
    except OSError:  # all of it was read, and nobody writes any more
        return b""


def cut(screen: Screen, kind: str, first: int, last: int) -> Screen:
    """Leaves out lines of a kind, but for the first and the last of them.

    Args:
        screen: the lines.
        kind: what lines of the kind begin with.
        first: how many stay at their beginning.
        last: how many stay at their end.
    """
    alike = [i for i, line in enumerate(screen) if plain(line).startswith(kind)]
    if len(alike) <= first + last + 1:
        return screen
    return [*screen[: alike[first]], CUT, *screen[alike[-last] :]]


def plain(line: str) -> str:
    """Returns a line without its colours."""
    return Text.from_ansi(line).plain


def picture(screen: Screen, title: str, columns: int = COLUMNS) -> str:
    """Draws a screen as SVG, whose letters come from the fonts at hand and from no other host."""
    console = Console(
        record=True,
        width=columns,
        file=io.StringIO(),
        force_terminal=True,
        color_system="truecolor",
    )
    for line in [*screen, ""]:  # of the last line rich cuts off what is below the letters
        console.print(Text.from_ansi(line), soft_wrap=True)
    svg = console.export_svg(title=title, theme=THEME, unique_id="screen")
    return re.sub(r"@font-face \{.*?\}\s*", "", svg, flags=re.DOTALL).replace(
        "Fira Code, monospace", "ui-monospace, SFMono-Regular, Menlo, Consolas, monospace"
    )


def between(screen: Screen, first: str, last: str) -> Screen:
    """Leaves out the lines from one that says this to one that begins with that.

    Args:
        screen: the lines.
        first: what the first line that is left out says.
        last: what the first line after them begins with.
    """
    texts = [plain(line) for line in screen]
    start = next((i for i, text in enumerate(texts) if text.strip() == first), None)
    end = next((i for i, text in enumerate(texts) if text.startswith(last)), None)
    if start is None or end is None:
        return screen
    return [*screen[:start], CUT, *screen[end:]]


def draw(recording: Recording, folder: Path, out: Path, options: Sequence[str] = ()) -> None:
    """Records a run and draws its screen at its end, and as it was while it ran.

    Args:
        recording: what is recorded.
        folder: where it runs, with the experiments in it.
        out: where the pictures are written.
        options: further options of the command.
    """
    words = [*recording.words, *options]
    command = [sys.executable, "-m", "jaxcnn.cli", *words]

    def wanted(screen: Screen) -> bool:
        return re.search(recording.moment, "\n".join(map(plain, screen)), re.MULTILINE) is not None

    end, running = record(command, wanted=wanted, folder=folder)
    if running is None:
        raise RuntimeError(
            f"jaxcnn {' '.join(words)}: {recording.moment!r} was never on the screen"
        )
    title = f"jaxcnn {' '.join(words)}"
    for name, screen in ((f"{recording.name}_running", running), (recording.name, end)):
        shown = cut(screen, recording.alike, first=3, last=4)
        shown = between(shown, "calibration", "best: ")
        (out / f"{name}.svg").write_text(picture(shown, title), encoding="utf-8")


def main() -> None:
    """Records the runs and writes the pictures."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, default=RESULTS, help="the folder of the pictures")
    out = parser.parse_args().out
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "experiments").symlink_to(ROOT / "experiments")
        for recording in RECORDINGS:
            draw(recording, Path(folder), out)
            print(f"{out}: {recording.name}_running.svg, {recording.name}.svg", flush=True)


if __name__ == "__main__":
    main()
