"""What is shown of a training fits a terminal, and stays plain lines elsewhere."""

import fcntl
import os
import pty
import re
import struct
import subprocess
import sys
import termios

import pytest
from rich.console import Console

from jaxcnn.analysis import tables
from jaxcnn.runs import display
from jaxcnn.tasks import Classification
from jaxcnn.tasks.classification import TOP1, TOP5

FOUND = {"test_loss": 0.43781, "test_top1": 0.525, "test_top5": 0.9, "seconds": 12.34}
RECORD = {"epoch": 3, "step": 66, "train_loss": 2.035, "train_top1": 1.0, "images_per_sec": 3254.4}
EPOCH, STEP, SPEED = "epoch    3", "step     66", "    3,254 images/s"
TRAIN, TEST = "train loss 2.0350 top-1 100.00%", "test loss 0.4378 top-1  52.50%"


@pytest.mark.parametrize(
    ("width", "words"),
    [
        (None, (EPOCH, STEP, TRAIN, TEST, SPEED)),
        (108, (EPOCH, STEP, TRAIN, TEST, SPEED)),
        (107, (EPOCH, STEP, TRAIN, TEST)),
        (80, (EPOCH, TRAIN, TEST)),
        (60, (EPOCH, TEST)),
    ],
)
def test_a_record_leaves_out_what_a_terminal_has_no_room_for(capsys, width, words):
    lines = display.Lines(width=width)
    lines.metrics = (TOP1, TOP5)
    lines.record(RECORD | FOUND)
    assert capsys.readouterr().out == "  ".join(words) + "\n"


def test_many_runs_have_a_line_each_with_the_time_that_is_left(capsys):
    lines = display.Lines(each_run=True)
    lines.heading("run 3 of 12")
    with lines.waiting("compiling"):
        lines.record(RECORD | FOUND)
    lines.ended(display.Ended("lenet5/seed0", FOUND, 3, 12, 75.0, (TOP1, TOP5)))
    lines.ended(display.Ended("diverged", None, 4, 12, 60.0))
    lines.ended(display.Ended("lenet5/seed1", FOUND, 12, 12, 0.0, (TOP1, TOP5)))
    assert capsys.readouterr().out.splitlines() == [
        "run  3 of 12: lenet5/seed0: test top-1 52.50%, loss 0.4378, 12.3 s; 1 min 15 s left",
        "run 12 of 12: lenet5/seed1: test top-1 52.50%, loss 0.4378, 12.3 s",
    ]


def test_the_top_5_are_told_only_of_more_than_five_classes():
    assert Classification().metrics_of("abcdef") == (TOP1, TOP5)
    assert Classification().metrics_of("abcde") == (TOP1,)
    assert display.reached(FOUND, (TOP1, TOP5)) == "test top-1 52.50%, top-5 90.00%, loss 0.4378"
    assert display.reached(FOUND, (TOP1,)) == "test top-1 52.50%, loss 0.4378"


TITLES = ("arm", "test top-1", "against mlp", "parameters", "MACs", "images/s", "memory")
ROWS = [("convnet", "87.13 % [86.93, 87.34]", "+1.93 [1.1, 2.2]", "421,738", "4 M", "9", "1 MB")]


@pytest.mark.parametrize(
    ("width", "broken", "left_out"),
    [
        (160, False, ()),
        (95, False, ()),
        (94, True, ()),
        (66, True, ("memory", "images/s")),
        (53, True, ("memory", "images/s", "MACs", "parameters")),
    ],
)
def test_tables_fit_the_terminal(width, broken, left_out):
    console = Console(width=width)
    with console.capture() as capture:
        console.print(tables.laid_out(TITLES, ROWS, width, title="t", caption="c."))
    text = capture.get()
    assert all(len(line) <= width for line in text.splitlines())
    assert "…" not in text
    assert ("87.13 % [86.93, 87.34]" not in text) == broken
    assert "[86.93, 87.34]" in text
    for name in TITLES[3:]:
        assert (f" {name} " in text.partition("c.")[0]) == (name not in left_out)
    assert (f"Left out: {', '.join(left_out)}." in " ".join(text.split())) == bool(left_out)


PROGRAM = """
from jaxcnn import text
from jaxcnn.runs import display
from jaxcnn.tasks.classification import TOP1
record = {record}
with text.shown(), display.display(each_run={each_run}) as listener:
    listener.metrics = (TOP1,)
    with listener.waiting("compiling lenet5 for 32x32, this can take a minute"):
        listener.message("one " + "word " * 30)
    listener.progress(display.Progress(5, 10, 1, {{"loss": 0.5, "top1": 0.25}}, 3254.0))
    listener.record(record)
    listener.ended(display.Ended("a", record, 1, 2, 75.0, (TOP1,)))
"""


@pytest.mark.parametrize("each_run", [False, True])
def test_a_terminal_shows_the_wait_the_progress_and_whole_words(each_run):
    """Without escapes in the place of what a terminal obeys."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 80, 0, 0))
    env = {k: v for k, v in os.environ.items() if k not in ("COLUMNS", "LINES", "NO_COLOR")}
    code = PROGRAM.format(record=RECORD | FOUND, each_run=each_run)
    with subprocess.Popen(
        [sys.executable, "-c", code], stdout=theirs, stderr=theirs, env={**env, "TERM": "xterm"}
    ) as process:
        os.close(theirs)
        said = b""
        while chunk := read(ours):
            said += chunk
        os.close(ours)
    assert process.returncode == 0
    text = said.decode()
    assert "\\x1b" not in text
    lines = re.split(r"[\r\n]+", re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text))
    assert max(map(len, lines)) <= 80
    assert any(re.search(r"compiling lenet5 .* minute 0:00:0\d", line) for line in lines)
    assert any(line.rstrip().endswith(" word") for line in lines)
    assert any("epoch 1" in line and "3,254 images/s" in line for line in lines)
    assert any("1 of 2 runs" in line and "1 min 15 s left" in line for line in lines)
    assert any(line == f"{EPOCH}  {TRAIN}  {TEST}" for line in lines) == (not each_run)
    assert any(line.startswith("run 1 of 2: a: test") for line in lines) == each_run


def read(terminal):
    try:
        return os.read(terminal, 65536)
    except OSError:  # all of it was read, and nobody writes any more
        return b""
