"""What is shown of a training fits a terminal, and stays plain lines elsewhere."""

import itertools
import re
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console

from benchmarks import screens
from jaxcnn.analysis import tables
from jaxcnn.runs import display, rows
from jaxcnn.tasks import LOSS, Classification, Metric
from jaxcnn.tasks.classification import TOP1, TOP5

ROOT = Path(__file__).parents[1]
FOUND = {"test_loss": 0.43781, "test_top1": 0.525, "test_top5": 0.9, "seconds": 12.34}
VALIDATED = {"val_loss": 0.5, "val_top1": 0.75}
RECORD = {"epoch": 3, "step": 66, "train_loss": 2.035, "train_top1": 1.0, "images_per_sec": 3254.4}
MAE = Metric("mae", "MAE", higher_is_better=False)


@pytest.mark.parametrize(
    ("width", "shown"),
    [
        (120, "2.0350 100.00% 0.4378 52.50% 3,254 1.5 s best"),
        (80, "2.0350 100.00% 0.4378 52.50% 3,254 1.5 s best"),
        (75, "2.0350 100.00% 0.4378 52.50% 1.5 s best"),
        (60, "100.00% 0.4378 52.50% 1.5 s best"),
        (50, "0.4378 52.50% 1.5 s best"),
        (40, "0.4378 52.50% best"),
        (20, "0.4378 52.50% best"),
    ],
)
def test_a_record_leaves_out_what_a_terminal_has_no_room_for(capsys, width, shown):
    lines = display.Lines(width=width)
    lines.metrics = (TOP1, TOP5)
    lines._pace.left = 1.5
    lines.record(RECORD | FOUND)
    over, under, line = capsys.readouterr().out.splitlines()
    assert line.split() == ["epoch", "3", *shown.split()]
    assert max(map(len, (over, under, line))) <= max(width, 34)
    assert ("train" in over) == ("100.00%" in shown)
    assert ("images/s" in under, "time left" in under) == ("3,254" in shown, " s " in shown)
    figures = line.removesuffix("best").removeprefix("epoch    3")
    assert ends(under) == {end + len("epoch    3") for end in ends(figures)}


def ends(text):
    """Where the words of a line end that two spaces part."""
    return {match.end() for match in re.finditer(r"\S+(?: \S+)*", text)}


@pytest.mark.parametrize(
    ("metrics", "record", "titles", "figures"),
    [
        ((), {"train_loss": 2.0, "test_loss": 12.5}, "loss loss", "2.0000 12.5000"),
        ((LOSS,), {"train_loss": 2.0, "test_loss": 0.5}, "loss loss", "2.0000 0.5000"),
        ((MAE,), {"train_mae": 2.0, "test_mae": 0.5}, "loss MAE loss MAE", "2 0.5"),
        ((TOP1,), VALIDATED, "loss top-1 loss top-1", "0.5000 75.00%"),  # lost and made anew
        ((TOP1,), VALIDATED | FOUND, "loss top-1 loss top-1", "0.5000 75.00%"),
    ],
)
def test_a_record_tells_what_there_is(capsys, metrics, record, titles, figures):
    lines = display.Lines()
    lines.metrics = metrics
    lines.record({"epoch": 3, "step": 66, **record})
    _, under, line = capsys.readouterr().out.splitlines()
    assert under.split() == [*titles.split(), "images/s", "time", "left"]
    assert line.split() == ["epoch", "3", *figures.split(), "best"]


def test_many_runs_have_a_line_each_with_the_time_that_is_left(capsys):
    lines = display.Lines(each_run=True)
    lines.labels = {"b": "a rate of 0.1"}
    lines.several([f"run{i}" for i in range(10)] + ["a", "b"])
    lines.heading("run 3 of 12")
    with lines.waiting("compiling"):
        lines.record(RECORD | FOUND)
    lines.ended(display.Ended("a", FOUND, 3, 12, 75.0, (TOP1, TOP5)))
    lines.ended(display.Ended("diverged", None, 4, 12, 60.0))
    lines.ended(display.Ended("b", FOUND, 12, 12, 0.0, (TOP1, TOP5)))
    assert capsys.readouterr().out.splitlines() == [
        "                    test",
        "                 loss    top-1   train time    time left",
        "run  3 of 12   0.4378   52.50%       12.3 s   1 min 15 s  best  a",
        "run 12 of 12   0.4378   52.50%       12.3 s                     a rate of 0.1",
    ]


@pytest.mark.parametrize("metric", [TOP1, MAE])
def test_the_best_so_far_of_each_run_is_marked(capsys, metric):
    """Also when it goes on, and one run at a time where they have no names."""
    lines, better = display.Lines(), max if metric.higher_is_better else min
    lines.metrics = (metric,)
    for name, before in itertools.product(("", "seed1"), (None, 0.3, 0.6)):
        known = None if before is None else {"epoch": 1, f"test_{metric.name}": before}
        lines.began(Path(name), name, known)
        so_far = [] if before is None else [before]
        for value in (0.5, 0.25, 0.75, 0.75, 0.05, 0.05):
            lines.record({"epoch": 2, "run": name, f"test_{metric.name}": value})
            is_best = value not in so_far and value == better([*so_far, value])
            assert ("  best" in capsys.readouterr().out) == is_best
            so_far.append(value)


def test_titles_come_again_in_a_long_log_and_after_a_heading(capsys):
    lines = display.Lines()
    for _ in range(rows.TITLES_EVERY + 1):
        lines.record(RECORD | FOUND)
    lines.heading("another run")
    lines.record(RECORD | FOUND)
    said = [line.split()[0] for line in capsys.readouterr().out.splitlines()]
    once = ["train", "loss"]
    many = ["epoch"] * rows.TITLES_EVERY
    assert said == [*once, *many, *once, "epoch", "another", *once, "epoch"]


def test_the_time_left_is_that_of_the_clock_on_the_wall(monkeypatch):
    """From the first chunk of a call, which compiling and earlier calls precede."""
    pace, now = display.Pace(), [100.0]
    monkeypatch.setattr(display.time, "monotonic", lambda: now[0])

    def left(step, seconds):
        now[0] += seconds
        pace.hear(display.Progress(step, 100, 1, {}, 0.0))
        return pace.left

    assert [left(41, 60), left(51, 5), left(61, 15)] == [None, 49 * 0.5, 39 * 1.0]
    assert left(100, 39) == 0
    assert [left(1, 60), left(11, 20)] == [None, 89 * 2.0]  # the next run


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
import sys, time
from pathlib import Path
from jaxcnn import text
from jaxcnn.runs import display
from jaxcnn.tasks.classification import TOP1
record = {record}
with text.shown(), display.display(each_run={each_run}) as listener:
    listener.metrics = (TOP1,)
    listener.title("the title\\nits second line")
    listener.several(["a", "b"])
    with listener.waiting("compiling lenet5 for 32x32, this can take a minute"):
        listener.message("one \x1b[31m" + "word " * 30)
        time.sleep(0.3)
    listener.heading("lenet5 on digits")
    listener.began(Path(), "", {{"epoch": 2, "test_top1": 0.5}})
    listener.progress(display.Progress(5, 10, 1, {{"loss": 0.5, "top1": 0.25}}, 3254.0, 2))
    listener.record(record)
    listener.ended(display.Ended("a", record, 1, 2, 75.0, (TOP1,)))
    time.sleep(0.3)
display.show_result("it is over\\nread on")
"""


@pytest.mark.parametrize(("each_run", "width"), [(False, 80), (True, 120)])
def test_a_terminal_shows_the_wait_the_progress_and_whole_words(each_run, width):
    """Nothing in a name or a message commands the terminal, and nothing stays of what is below."""
    code = PROGRAM.format(record=RECORD | FOUND, each_run=each_run)
    seen = []

    def wanted(screen):
        seen.append([screens.plain(line).rstrip() for line in screen])
        return False

    end, _ = screens.record([sys.executable, "-c", code], width, wanted)
    styled, lines = end, [screens.plain(line).rstrip() for line in end]
    assert max(len(line) for screen in [*seen, lines] for line in screen) <= width
    below = "\n".join(line for screen in seen for line in screen if line not in lines)
    assert re.search(r"compiling lenet5 .* minute 0:00:0\d", below)
    assert re.search(r"epoch 1 of 2 ━.* 50% loss 0.5000  top-1 25.00%", below)
    assert bool(re.search(r"1 of 2 runs +━.* 1 min 15 s left", below)) == each_run
    best = "a, test top-1 52.50%" if each_run else "epoch 3, test top-1 52.50%"
    assert f"best so far: {best}" in below
    assert lines[:2] == ["the title", "its second line"]
    assert lines[2].startswith(r"one \x1b[31mword word")
    assert lines[2].endswith("word")
    assert lines[-2:] == ["it is over", "read on"]
    row = next(line for line in styled if "52.50%" in line)
    assert screens.plain(row).startswith("run 1 of 2  " if each_run else "epoch    3  ")
    assert re.search(r"\x1b\[1;32m  best", row)  # bold and green
    assert all("\x1b[" in styled[i] for i in (0, -2))  # bold
    assert "lenet5 on digits" in (below if each_run else lines)


WHOLE = "epoch    3   2.0350  100.00%   0.4378   52.50%      3,254               best"
NARROW = "epoch    3  100.00%   0.4378   52.50%               best"
PLAIN = {
    "a pipe": (None, {}, WHOLE),
    "NO_COLOR": (80, {"NO_COLOR": "1"}, WHOLE),
    "dumb": (60, {"TERM": "dumb"}, NARROW),
}


@pytest.mark.parametrize(("width", "env", "line"), PLAIN.values(), ids=PLAIN)
def test_elsewhere_there_are_plain_lines_and_no_control_characters(width, env, line):
    code = PROGRAM.format(record=RECORD | FOUND, each_run=False)
    code += "display.console().print(display.console().render_str('a table'), style='bold')\n"
    command = [sys.executable, "-c", code]
    if width:
        said = "\n".join(screens.record(command, width, env=env)[0]) + "\n"
    else:
        said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f]", said)
    lines = said.splitlines()
    assert lines[:2] == ["the title", "its second line"]
    assert line in lines
    assert [line.rstrip() for line in lines[-3:]] == ["it is over", "read on", "a table"]
