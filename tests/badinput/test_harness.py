"""The harness itself: it reports each kind of fault, and none where there is none."""

import dataclasses
import signal

import pytest

from tests.badinput import harness
from tests.badinput.harness import Case

HEAD = "import os, sys, time\nfrom pathlib import Path\n"
FAULTS = {
    "a traceback": ("sys.stderr.write('Traceback (most recent call last):\\n')", "Traceback"),
    "a foreign line": ("print('W0000 warming up', file=sys.stderr)", "printed 'W0000 warming up'"),
    "two lines": (
        "print('jaxcnn: error: a\\njaxcnn: error: b', file=sys.stderr)",
        "printed 3 lines on one fault",
    ),
    "silence": ("sys.stderr.close(); os._exit(2)", "failed without a word"),
    "another exit code": ("os._exit(70)", "exit code 70"),
    "a crash": ("os.abort()", "exit code -6"),
    "a file left behind": ("Path('left').touch()", "changed left"),
    "a changed file": ("Path('image.png').write_bytes(b'')", "changed image.png"),
    "a changed right": ("Path('image.png').chmod(0)", "changed image.png"),
    "a temporary file": ("Path(os.environ['TMPDIR'], 'x').touch()", "left x in TMPDIR"),
    "foreign code": ("Path(os.environ['BADINPUT_CANARY']).touch()", "ran foreign code"),
    "a process": ("os.fork() or time.sleep(60)", "left a process behind"),
    "a fault at the end": (
        "import atexit; atexit.register(lambda: 1 / 0)",
        "printed 'Exception ignored in'",
    ),
}


def experiment(code: str) -> Case:
    """A case whose experiment file does something, and then is none."""

    def spoil(folder):
        (folder / "spoilt.py").write_text(f"{HEAD}{code}\ndef config():\n    return None\n")

    return Case("spoilt", ("summary", "none", "image.png"), spoil)


@pytest.mark.parametrize(
    ("fault", "plain"),
    [*((fault, False) for fault in FAULTS), ("a traceback", True), ("a process", True)],
)
def test_each_fault_is_reported(server, valid, tmp_path, fault, plain):
    code, said = FAULTS[fault]
    case = dataclasses.replace(
        experiment(code), argv=("train", "spoilt.py"), needs=("image.png",), plain=plain
    )
    found = harness.faults(harness.run(case, valid, tmp_path, server))
    assert any(said in line for line in found), found


def test_a_case_without_an_answer_is_reported(server, valid, tmp_path, monkeypatch):
    monkeypatch.setattr(harness, "ANSWER_SECONDS", 2)
    case = dataclasses.replace(
        experiment("time.sleep(600)"), argv=("train", "spoilt.py"), signals=((0.1, signal.SIGCHLD),)
    )
    outcome = harness.run(case, valid, tmp_path, server)
    assert outcome.traces[0].startswith("no answer within")


def test_a_valid_call_and_a_fault_in_one_line_are_clean(server, valid, tmp_path):
    for case in (Case("valid", ("eval", "run")), Case("no run", ("eval", "nothing"))):
        outcome = harness.run(case, valid, tmp_path / case.name, server)
        assert harness.faults(outcome) == []
        assert outcome.code == (2 if case.name == "no run" else 0)
