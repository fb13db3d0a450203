"""Whatever the files of a run folder hold, each command says in a line what is wrong with which."""

import json
import re
import shutil

import numpy as np
import pytest
from PIL import Image

from jaxcnn import cli
from jaxcnn.analysis import arms, plots, report
from jaxcnn.commands.parsing import load_experiment
from jaxcnn.errors import InputError
from jaxcnn.learning import files, records, run_folder
from jaxcnn.runs import evaluation, group, together
from jaxcnn.tasks import Metric

FILE = """
from jaxcnn.config import *

def config():
    return Experiment(
        name="small", data=Data("digits", batch_size=128), model=Model("mlp", {"hidden": (4,)}),
        schedule=Schedule("constant", 0), train=Train(epochs=1),
    )
"""
GARBAGE = {
    "empty": b"",
    "null": b"null",
    "list": b"[1]",
    "text": b'"classes"',
    "half": b'{"name": "dig',
    "no UTF-8": b'{"name": "\xff"}',
    "NaN": b'{"seconds": NaN}',
    "infinity": b'{"test_loss": 1e999, "versions": 1}',
    "brackets": b"[" * 100_000,
    "braces": b'{"name":' * 100_000,
    "long number": b'{"step": ' + b"9" * 5000 + b"}",
    "large number": b'{"optim": {"peak_lr": ' + b"9" * 400 + b'}, "versions": 1}',
    "deep": b'{"model": {"options": ' + b'{"a":' * 900 + b"1" + b"}" * 901 + b', "versions": 1}',
    "half a character": b'{"\\ud800": 1, "versions": 1}',
    "nothing in it": b'{"classes": null, "train": null, "versions": 1}',
}
FIELDS = {
    "config.json": {
        "train": [[], None, "epochs", {"epochs": "9"}, {"epochs": None}, {"epochs": [[]] * 9}],
        "optim": [{"peak_lr": True}],
        "model": [{"name": "mlp", "options": {"hidden": {"a": [{}]}}}, {"name": {}}],
        "name": [{}, None, 3, "../a"],
        "other": [{}],
    },
    "dataset.json": {
        "classes": ["0123456789", [], [1], None, {"0": 1}],
        "image_shape": [[8, 8], [-8, 8, 1], [8, 8, 0], [8.0, 8, 1], [10**9, 8, 1], "8x8x1", None],
        "name": [None, 3],
        "sha256": [3],
    },
    "summary.json": {
        "test_top1": [1.5, -0.1, "high", True, None, [0.9]],
        "epochs": ["1", 1.5, -1, None, 10**30],
        "params_sha256": [3, None],
        "seconds": [-1, "long"],
    },
    "env.json": {"versions": [3, {"jax": 3}], "cores": ["2", 0], "mesh": [{"data": "1"}]},
}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """The experiment's file, a finished run of it, and an image."""
    root = tmp_path_factory.mktemp("made")
    (root / "small.py").write_text(FILE)
    group.train_one(load_experiment(root / "small.py"), root / "run")
    Image.new("L", (8, 8)).save(root / "image.png")
    return root


@pytest.fixture
def run(made, tmp_path):
    shutil.copytree(made / "run", tmp_path / "run")
    return tmp_path / "run"


def call(capsys, made, command, run):
    arguments = {
        "predict": [str(run), str(made / "image.png")],
        "report": [str(run), "--out", str(run.parent / "report.html")],
        "train": [str(made / "small.py"), "--workdir", str(run)],
        "resume": [str(made / "small.py"), "--workdir", str(run), "--train.epochs", "2"],
    }
    name = "train" if command == "resume" else command
    code = cli.main([name, *arguments.get(command, [str(run)])])
    captured = capsys.readouterr()
    assert "Traceback" not in captured.err
    assert all(line.startswith("jaxcnn: ") for line in captured.err.splitlines())
    return code, captured.err


READERS = {
    "config.json": ("eval", "predict", "report", "viz", "train"),
    "dataset.json": ("eval", "predict", "report", "viz", "resume"),
    "summary.json": ("report", "train"),
    "env.json": ("report",),  # a run that goes on says so, and does
}


@pytest.mark.parametrize(
    ("file", "command"), [(file, command) for file in READERS for command in READERS[file]]
)
def test_a_damaged_file_is_named(file, command, capsys, made, run):
    path = run / file
    whole = json.loads(path.read_text())
    contents = list(GARBAGE.values())[:: 4 if command == "resume" else 1]
    for content in contents:
        path.write_bytes(content)
        code, err = call(capsys, made, command, run)
        assert (code, str(path) in err) == (2, True), (content[:20], err)
    for field, values in FIELDS[file].items():
        for value in values[:: 4 if command == "resume" else 1]:
            path.write_text(json.dumps({**whole, field: value}))
            code, err = call(capsys, made, command, run)
            assert code == 2, (field, value)
            assert re.search(rf"{path}.*\b{field}", err), (value, err)
            assert "must be" in err or "unknown section" in err
    if file in ("dataset.json", "summary.json"):
        del whole["name" if file == "dataset.json" else "seconds"]
        path.write_text(json.dumps(whole))
        assert f"{path} is damaged: lacks " in call(capsys, made, command, run)[1]


def test_a_field_of_a_newer_version_is_passed_over(capsys, made, run):
    for name in ("dataset.json", "summary.json", "env.json"):
        files.write_json(run / name, json.loads((run / name).read_text()) | {"newer": [{}]})
    record = json.loads((run / "metrics.jsonl").read_text())
    (run / "metrics.jsonl").write_text(json.dumps({**record, "newer": 1}) + "\n")
    assert call(capsys, made, "report", run) == (0, "")
    assert call(capsys, made, "resume", run) == (0, "")
    kept, own = (json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines())
    assert (kept["newer"], "newer" in own) == (1, False)


def test_the_seed_of_a_summary_is_that_of_the_config(run):
    files.write_json(
        run / "summary.json", json.loads((run / "summary.json").read_text()) | {"seed": 7}
    )
    with pytest.raises(InputError, match=r"summary\.json: seed=7: must be 0, as in config\.json"):
        arms.read(run)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (b'{"step": 1', "cannot be read as JSON"),
        (b"\xff", "cannot be read as JSON"),
        (b"[" * 100_000, "cannot be read as JSON"),
        (b'{"step": "1"}', "step='1': must be a whole number >= 0"),
        (b'{"step": 1}', "lacks seconds"),
        (b'{"step": 1, "seconds": 1, "epoch": 1, "test_loss": 1}', "lacks test_top1"),
        (b'{"step": 1, "seconds": 1, "epoch": 1, "val_top1": 1}', "lacks test_loss"),
        (
            b'{"step": 1, "seconds": 1, "epoch": 1, "val_loss": 1, "val_top1": 2}',
            "val_top1=2: must be in [0, 1]",
        ),
        (b"[]", "must be an object"),
    ],
)
def test_damaged_metrics_cost_a_report_but_not_a_run(line, said, capsys, caplog, made, run):
    path = run / "metrics.jsonl"
    whole = path.read_bytes()
    path.write_bytes(line + b"\n" + whole)
    code, err = call(capsys, made, "report", run)
    assert code == 2
    assert f"{path}: line 1 is damaged: {said}" in err
    if line in (b"\xff", b"[]"):  # a second or two each
        assert call(capsys, made, "resume", run)[0] == 0
        (warning,) = [r.getMessage() for r in caplog.records if "damaged" in r.getMessage()]
        assert f"{path}: line 1 is damaged: {said}" in warning
        assert f"kept in {path}.damaged" in warning
        assert (run / "metrics.jsonl.damaged").read_bytes() == line + b"\n" + whole
        assert [r["epoch"] for r in run_folder.read_metrics(run)] == [1, 2]
        assert path.read_bytes().startswith(whole)
        assert call(capsys, made, "report", run) == (0, "")


def test_metrics_are_read_by_rising_steps(run):
    path = run / "metrics.jsonl"
    record = json.loads(path.read_text())
    lines = [{**record, "step": step} for step in (9, 3, 9)]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert [r["step"] for r in run_folder.read_metrics(run)] == [3, 9]


@pytest.mark.parametrize(
    "content",
    [*GARBAGE.values(), b'{"modes": 3}', b'{"modes": {"a": "auto"}}', b'{"modes": {"a": 3}}'],
)
def test_damaged_modes_are_named_before_the_work(content, tmp_path):
    (tmp_path / "together.json").write_bytes(content)
    with pytest.raises(InputError, match=r"together\.json is damaged: "):
        together.Modes(tmp_path / "together.json")


KINDS = [kind for kind in vars(records).values() if getattr(kind, "__struct_fields__", ())]
KINDS.remove(Metric)  # its own docstring says it


@pytest.mark.parametrize("kind", KINDS)
def test_every_field_says_what_it_accepts(kind):
    assert all(files.accepted(kind, field) for field in kind.__struct_fields__)


# ------------------------------------------------------------------------------- arrays, pictures


@pytest.mark.parametrize(
    "change",
    [
        {"label": np.full(360, 10, np.int32)},
        {"predicted": np.full(360, -1, np.int32)},
        {"index": np.arange(1, 361)},
        {"probability": np.full(360, np.nan, np.float32)},
        {"label_probability": np.full(360, 0.5)},
        {"label": np.zeros(359, np.int32)},
        {"label": np.zeros((360, 1), np.int32)},
        {"label": np.array([{}] * 360)},
        {"more": np.zeros(100_000)},
        {"label_log_probability": np.full(360, 0.5, np.float32)},
        {"label_log_probability": np.full(360, -np.inf, np.float32)},
        {"squared_error": np.full(360, 2.5, np.float32)},
        {"params_sha256": "0"},
    ],
)
def test_predictions_that_cannot_be_are_made_anew(change, run):
    about = files.read(run / "dataset.json", records.RunDataset)
    digest = files.read(run / "summary.json", records.Summary).params_sha256
    found = {
        "index": np.arange(360),
        **dict.fromkeys(("label", "predicted"), np.zeros(360, np.int32)),
        **dict.fromkeys(("probability", "label_probability"), np.ones(360, np.float32)),
        **dict.fromkeys(("label_log_probability", "squared_error"), np.zeros(360, np.float32)),
        "params_sha256": digest,
    }
    path = run / "predictions.npz"
    np.savez_compressed(path, **found)
    assert evaluation._read(path, digest, about) is not None
    np.savez_compressed(path, **{**found, **change})
    assert evaluation._read(path, digest, about) is None
    np.savez_compressed(path, **{k: v for k, v in found.items() if k != "squared_error"})
    assert evaluation._read(path, digest, about) is None  # as older ones were


def test_a_page_holds_only_pictures_of_the_run(run, tmp_path, caplog):
    folder = run / "viz"
    folder.mkdir()
    Image.new("L", (8, 8)).save(folder / "good.png")
    Image.new("L", (8, 8)).save(tmp_path / "foreign.png")
    (folder / "link.png").symlink_to(tmp_path / "foreign.png")
    (folder / "text.png").write_text("no picture")
    (folder / "folder.png").mkdir()
    (arm,) = arms.group([arms.read(run)])
    assert [name for name, _ in report._pictures(arm)] == ["good"]
    assert {r.getMessage().split(".png")[0].rsplit("/")[-1] for r in caplog.records} == {
        "folder",
        "link",
        "text",
    }
    folder.rename(tmp_path / "viz")
    folder.symlink_to(tmp_path / "viz")
    assert report._pictures(arm) == []


def test_a_picture_is_not_drawn_through_a_link(tmp_path):
    (tmp_path / "victim").write_text("mine")
    (tmp_path / "curves.png").symlink_to(tmp_path / "victim")
    with (
        pytest.raises(InputError, match=r"curves\.png: cannot be written"),
        plots.canvas(1, 1, tmp_path / "curves.png"),
    ):
        pass
    assert (tmp_path / "victim").read_text() == "mine"
