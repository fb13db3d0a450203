"""The pictures of terminals are what terminals showed, and ask no other host for anything."""

import re
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

from benchmarks import screens

RED = "\x1b[31m"


def shown(*said):
    """The screen after a program has said something."""
    terminal = screens.Terminal()
    for text in said:
        terminal.write(text)
    return terminal.screen()


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ("a\r\nb\r\n", ["a", "b"]),
        ("ab\rc", ["cb"]),
        ("a\r\nbc\x1b[1A!\r\n", ["a !", "bc"]),
        ("a\r\nb\r\x1b[2K\x1b[1A\x1b[2Kc", ["c"]),
        ("a\r\nb\r\nc\r\x1b[2Ad", ["d", "b", "c"]),
        ("\x1b[?25l\x1b[?25h", []),
        (f"a{RED}b\x1b[0mc", [f"a\x1b[0m{RED}b\x1b[0mc"]),
    ],
)
def test_a_terminal_obeys(said, expected):
    assert shown(said) == expected
    assert shown(*said) == expected  # letter by letter


@pytest.mark.parametrize("said", ["\x1b[2J", "\x1b[5;5H", "\x1b]0;title\x07", "\x1b[1^CA"])
def test_what_a_terminal_is_not_known_to_do_is_an_error(said):
    with pytest.raises(ValueError, match="a terminal was told"):
        shown(said)


def test_long_stretches_are_cut_and_a_line_says_so():
    lines = ["title", *(f"epoch {i}" for i in range(9)), "result"]
    assert screens.cut(lines, "epoch", first=2, last=1) == [
        *("title", "epoch 0", "epoch 1", screens.CUT, "epoch 8", "result")
    ]
    assert screens.cut(lines[:5], "epoch", first=2, last=1) == lines[:5]  # a dot for a line
    assert screens.between(lines, "epoch 0", "res") == ["title", screens.CUT, "result"]
    assert screens.between(lines, "nothing", "res") == lines


def test_a_screen_is_drawn_with_its_colours_and_without_other_hosts():
    code = "import sys; sys.stdout.write('\\x1b[1;31ma < b\\x1b[0m \\n50%')"
    screen, earlier = screens.record([sys.executable, "-c", code], wanted=lambda lines: bool(lines))
    assert list(map(screens.plain, screen)) == ["a < b ", "50%"]
    assert earlier is not None
    with pytest.raises(RuntimeError, match="exit code 3"):
        screens.record([sys.executable, "-c", "raise SystemExit(3)"])
    picture = screens.picture(screen, "python <code>")
    require_own(picture)
    assert {"a < b", "50%", "python <code>"} <= set(texts(picture))
    assert re.search(r"fill: #[0-9a-f]{6};font-weight: bold", picture)


def require_own(picture):
    """A picture that needs nothing from elsewhere."""
    assert not re.search(r"@font-face|url\((?!#)|<(script|image|foreignObject)", picture)


def texts(picture):
    """What stands in a picture, text by text."""
    root = ElementTree.fromstring(picture)
    found = root.iter("{http://www.w3.org/2000/svg}text")
    return ["".join(text.itertext()).replace("\xa0", " ").rstrip() for text in found]


PICTURES = sorted(screens.RESULTS.glob("*.svg"))


@pytest.mark.parametrize("path", PICTURES, ids=lambda path: path.name)
def test_the_pictures_at_hand_are_of_the_runs_that_they_name(path):
    picture = path.read_text(encoding="utf-8")
    require_own(picture)
    said = texts(picture)
    (recording,) = [one for one in screens.RECORDINGS if path.stem in names(one)]
    assert f"jaxcnn {' '.join(recording.words)}" in said
    assert any(line.startswith(recording.alike) for line in said)
    assert any(line.startswith(" ") and line.endswith("time left") for line in said)
    assert ("best so far:" in "".join(said)) == path.stem.endswith("_running")


def test_there_is_a_picture_of_every_recording():
    expected = [f"{name}.svg" for one in screens.RECORDINGS for name in names(one)]
    assert sorted(expected) == [path.name for path in PICTURES]


def names(recording):
    return recording.name, f"{recording.name}_running"


@pytest.mark.slow
def test_a_run_is_recorded(tmp_path):
    (tmp_path / "experiments").symlink_to(screens.ROOT / "experiments")
    recording = screens.Recording(
        "train", screens.RECORDINGS[0].words, "^epoch [2-9] of 9 ", "epoch  "
    )
    screens.draw(recording, tmp_path, tmp_path, ["--train.epochs", "9"])
    end, running = (texts((tmp_path / f"{name}.svg").read_text()) for name in names(recording))
    first = "lenet5_digits: lenet5 on digits, 61,706 parameters, in runs/lenet5_digits-seed0"
    assert first in end
    assert first in running
    alike = [line for line in end if line.startswith("epoch  ")]
    assert [line.split()[1] for line in alike] == ["1", "2", "3", "6", "7", "8", "9"]
    assert any(line.startswith("best so far: epoch") for line in running)
    assert "read on: jaxcnn report runs/lenet5_digits-seed0" in end
    assert Path(tmp_path / "runs/lenet5_digits-seed0/summary.json").exists()
