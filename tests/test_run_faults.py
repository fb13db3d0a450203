"""Foreign checkpoints, full disks and pictures that fail: one line each, and nothing is lost."""

import errno
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import jax.numpy as jnp
import pytest

from jaxcnn.analysis import plots
from jaxcnn.cli import _verdict
from jaxcnn.config import Data, Experiment, Model, Optim, Schedule, Train, to_dict
from jaxcnn.errors import InputError, NotWritten, as_not_written
from jaxcnn.learning import checkpoint, files, run_folder, tensorboard
from jaxcnn.learning.checkpoint import MANIFEST, Checkpoints
from jaxcnn.learning.state import variables_of
from jaxcnn.runs import group, trained
from jaxcnn.runs.evaluation import evaluate
from jaxcnn.runs.stop import NOTED, StopRequest
from jaxcnn.runs.trained import restore

TINY = Experiment(
    name="tiny",
    data=Data("digits", batch_size=64, eval_batch_size=360, train_limit=128),
    model=Model("mlp", {"hidden": (4,)}),
    optim=Optim("sgd", peak_lr=0.1),
    schedule=Schedule("constant", warmup_epochs=0),
    train=Train(epochs=2, checkpoint_every=1),
)
LONGER = replace(TINY, train=Train(epochs=3, checkpoint_every=1))
OTHER_SEED = replace(TINY, train=Train(epochs=2, seed=7, checkpoint_every=1))
OTHER_RATE = replace(TINY, optim=Optim("sgd", peak_lr=0.2))


@pytest.fixture(autouse=True)
def _pictures_are_not_drawn(monkeypatch):
    monkeypatch.setattr(plots, "save_curves", lambda *args: None)
    monkeypatch.setattr(plots, "save_confusion", lambda *args: None)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A run, its twin of the same config, and those of another seed and another rate."""
    path = tmp_path_factory.mktemp("runs")
    with pytest.MonkeyPatch.context() as patch:
        for name in ("save_curves", "save_confusion"):
            patch.setattr(plots, name, lambda *args: None)
        for name, experiment in {
            "own": TINY,
            "twin": TINY,
            "seed": OTHER_SEED,
            "rate": OTHER_RATE,
        }.items():
            group.train_one(experiment, path / name)
    return path


@pytest.fixture
def own(runs, tmp_path):
    """A copy of the run: it may be copied whole."""
    shutil.copytree(runs / "own", tmp_path / "own")
    return tmp_path / "own"


class Said(group.Listener):
    """Keeps the messages."""

    def __init__(self):
        self.texts = []

    def message(self, text):
        self.texts.append(text)


def unmarked(folder):
    """Makes of a run what an older version would have left."""
    (folder / "run.json").unlink(missing_ok=True)
    for path in folder.glob("checkpoints/*/[0-9]*"):
        meta = json.loads((path / "meta" / "metadata").read_text())
        del meta["run"], meta["config"]
        (path / "meta" / "metadata").write_text(json.dumps(meta))
        (path / MANIFEST).write_text(checkpoint._digests(path))


FOREIGN = [
    ("twin", "its run is [0-9a-f]{32}, expected [0-9a-f]{32} of .*run.json"),
    ("seed", "its train.seed is 7, expected 0"),
    ("rate", "its optim.peak_lr is 0.2, expected 0.1"),
]


@pytest.mark.parametrize(("other", "named"), FOREIGN)
@pytest.mark.parametrize("kind", ["latest", "best"])
def test_another_runs_checkpoints_are_refused(runs, own, other, named, kind):
    folder = own / "checkpoints" / kind
    shutil.rmtree(folder)
    shutil.copytree(runs / other / "checkpoints" / kind, folder)
    with pytest.raises(
        InputError, match=f"checkpoint {folder}/[0-9]+: belongs to another.*{named}"
    ):
        evaluate(own, kind)
    if kind == "latest":
        with pytest.raises(InputError, match=named):
            group.train_one(LONGER, own)
        start = replace(TINY, model=replace(TINY.model, init_from=str(own)))
        with pytest.raises(InputError, match=named):
            group.train_one(start, own.with_name("new"))


def test_another_runs_old_checkpoints_are_refused_in_a_new_folder(runs, own, tmp_path):
    shutil.copytree(runs / "rate", tmp_path / "rate")
    unmarked(tmp_path / "rate")
    shutil.rmtree(own / "checkpoints")
    (tmp_path / "rate" / "checkpoints").rename(own / "checkpoints")
    with pytest.raises(InputError, match="its run is unknown, expected"):
        evaluate(own)


def test_checkpoints_are_refused_where_their_id_is_missing(own):
    (own / "run.json").unlink()
    with pytest.raises(InputError, match=r"its run is [0-9a-f]{32}, expected none: .*run\.json is"):
        evaluate(own)


@pytest.mark.parametrize("content", ["{", "[]", "{}", '{"run": 1, "unmarked_until": 2}'])
def test_a_damaged_id_is_named(own, content):
    (own / "run.json").write_text(content)
    with pytest.raises(InputError, match=r"run\.json"):
        evaluate(own)


@pytest.mark.parametrize("old", [False, True])
def test_a_renamed_step_is_refused(own, old):
    if old:
        unmarked(own)
    (own / "checkpoints" / "latest" / "4").rename(own / "checkpoints" / "latest" / "6")
    for use in (lambda: evaluate(own), lambda: group.train_one(LONGER, own)):
        with pytest.raises(InputError, match="latest/6: was saved as step 4"):
            use()


@pytest.mark.parametrize("field", ["step", "seed"])
def test_the_arrays_must_be_of_the_step_and_the_seed(own, field):
    """Where meta has been made to fit."""
    path = own / "checkpoints" / "latest"
    saved = run_folder.checkpoints(own, "latest")
    state = replace(restore(own).state, **{field: jnp.int32(9)})
    meta = json.loads((path / "4" / "meta" / "metadata").read_text())
    shutil.rmtree(path / "4")
    saved.save(4, state, meta)
    saved.close()
    with pytest.raises(InputError, match=f"latest/4: its state is of {field} 9, expected"):
        evaluate(own)


def test_an_older_folder_opens_and_goes_on_with_one_line(own, caplog):
    unmarked(own)
    assert evaluate(own)["test_examples"] == 360
    assert not caplog.text
    said = Said()
    group.train_one(LONGER, own, said)
    assert sum("before checkpoints named their run" in text for text in said.texts) == 1
    assert json.loads((own / "run.json").read_text())["unmarked_until"] == 4
    # The one before the newest still opens, since it is not newer than the id.
    shutil.rmtree(own / "checkpoints" / "latest" / "6")
    assert evaluate(own)["test_examples"] == 360


def test_the_id_stays_and_changes_no_bits(runs, own):
    before = (own / "run.json").read_text()
    longer = group.train_one(LONGER, own)
    assert (own / "run.json").read_text() == before
    twin = runs / "twin" / "summary.json"
    assert (
        json.loads(twin.read_text())["state_sha256"]
        == json.loads((runs / "own" / "summary.json").read_text())["state_sha256"]
    )
    assert longer["epochs"] == 3


def with_meta(own, change):
    """Changes what the newest checkpoint tells beside its state, and seals it again."""
    path = own / "checkpoints" / "latest" / "4"
    meta = json.loads((path / "meta" / "metadata").read_text()) | change
    meta = {name: value for name, value in meta.items() if value is not LACKING}
    (path / "meta" / "metadata").write_text(json.dumps(meta))
    (path / MANIFEST).write_text(checkpoint._digests(path))


LACKING = object()


@pytest.mark.parametrize(
    "change",
    [
        {"best": {"test_top1": "x"}},
        {"best": {"test_top1": 1.0}},
        {"best": 3},
        {"best": LACKING},
        {"seconds": "x"},
        {"seconds": -5},
    ],
)
def test_a_malformed_meta_is_named_on_resuming(own, change):
    with_meta(own, change)
    with pytest.raises(InputError, match=r"latest/4: meta/metadata is damaged"):
        group.train_one(LONGER, own)


def test_a_run_that_was_never_evaluated_goes_on(own):
    """It has saved no best record."""
    with_meta(own, {"best": {}})
    assert group.train_one(LONGER, own)["epochs"] == 3


@pytest.mark.parametrize(
    ("config", "named"),
    [
        (LACKING, "config must be an object, is None"),
        ([], r"config must be an object, is \[\]"),
        ({"nets": {}}, "unknown section 'nets'"),
        ({"train": {"epochs": -1}}, "epochs=-1"),
    ],
)
def test_a_malformed_config_in_meta_is_named(own, config, named):
    with_meta(own, {"config": config})
    with pytest.raises(InputError, match=f"^checkpoint .*latest/4: .*{named}") as error:
        evaluate(own)
    assert len(str(error.value)) < 300


def test_a_folders_name_is_not_believed_before_its_checkpoint_is_checked(own, caplog):
    latest = own / "checkpoints" / "latest"
    (latest / "9999999999").mkdir()
    assert group.train_one(LONGER, own)["epochs"] == 3
    assert f"{latest / '9999999999'} is damaged" in caplog.text
    with pytest.raises(InputError, match=r"has done 6 steps.*at least 3 epochs"):
        group.train_one(replace(TINY, train=Train(epochs=1)), own)
    (latest / "6").rename(latest / "60")
    with pytest.raises(InputError, match="latest/60: was saved as step 6; rename"):
        group.train_one(replace(TINY, train=Train(epochs=4)), own)


@pytest.mark.parametrize("content", [None, "{", '{"cores": "x"}'])
def test_a_damaged_environment_costs_a_line(own, content):
    if content is None:
        (own / "env.json").unlink()
    else:
        (own / "env.json").write_text(content)
    said = Said()
    assert group.train_one(LONGER, own, said)["epochs"] == 3
    assert sum("env.json" in text for text in said.texts) == 1
    json.loads((own / "env.json").read_text())


def test_a_warm_up_that_was_cut_is_named_with_what_goes_on(tmp_path):
    asked = replace(TINY, schedule=Schedule("constant", warmup_epochs=2))
    group.train_one(replace(asked, train=Train(epochs=1)), tmp_path / "a")
    with pytest.raises(InputError, match=r"--schedule\.warmup-epochs 0\.1 goes on as it began"):
        group.train_one(asked, tmp_path / "a")
    begun = replace(asked, schedule=Schedule("constant", warmup_epochs=0.1))
    assert group.train_one(begun, tmp_path / "a")["epochs"] == 2


@pytest.mark.parametrize("name", ["latest", "best", "latest/damaged", "best/damaged"])
@pytest.mark.parametrize("what", ["a file", "a link"])
def test_what_lies_where_checkpoints_would_is_refused(tmp_path, name, what):
    place = tmp_path / "a" / "checkpoints" / name
    place.parent.mkdir(parents=True)
    if what == "a file":
        place.write_text("")
    else:
        place.symlink_to(tmp_path / "nothing")
    with pytest.raises(InputError, match=f"{place}: cannot be written .must be a folder"):
        group.train_one(TINY, tmp_path / "a")
    assert not (tmp_path / "nothing").exists()


def test_damaged_checkpoints_are_not_moved_over_a_link(own, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (own / "checkpoints" / "latest" / "damaged").symlink_to(tmp_path / "elsewhere")
    (own / "checkpoints" / "latest" / "4" / MANIFEST).unlink()
    with pytest.raises(InputError, match=r"damaged: cannot be written \(must be a folder, and no"):
        group.train_one(LONGER, own)
    assert not list((tmp_path / "elsewhere").iterdir())


def test_a_run_that_begins_anew_beside_damaged_checkpoints_says_so(own):
    latest = own / "checkpoints" / "latest"
    (latest / "damaged").mkdir()
    (latest / "4").rename(latest / "damaged" / "4")
    shutil.rmtree(latest / "2")
    shutil.rmtree(own / "checkpoints" / "best")
    (own / "summary.json").unlink()
    said = Said()
    group.train_one(TINY, own, said)
    assert sum("latest/damaged: the run begins anew" in text for text in said.texts) == 1
    assert (latest / "damaged" / "4").exists()


def test_no_run_begins_anew_where_all_manifests_were_removed(own):
    for manifest in own.glob(f"checkpoints/*/*/{MANIFEST}"):
        manifest.unlink()
    (own / "summary.json").unlink()
    before = sorted(own.rglob("*"))
    with pytest.raises(InputError, match="no whole checkpoint is left"):
        group.train_one(TINY, own)
    assert sorted(own.rglob("*")) == before


def test_the_best_alone_keeps_a_folder_from_another_run(own):
    shutil.rmtree(own / "checkpoints" / "latest")
    (own / "summary.json").unlink()
    with pytest.raises(InputError, match=r"optim\.peak_lr was 0.1, now 0.2"):
        group.train_one(OTHER_RATE, own)
    assert list((own / "checkpoints" / "best").iterdir())


# ------------------------------------------------------------------------------- the disk


def full(*args, **kwargs):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


WRITES = [
    (files, "write_json", files),
    (checkpoint, "write_text", checkpoint),
    (run_folder.MetricsLog, "_append", run_folder.MetricsLog),
    (Checkpoints, "save", Checkpoints),
    (Checkpoints, "_clean", Checkpoints),
]


@pytest.mark.parametrize(("_", "name", "where"), WRITES)
def test_a_full_disk_costs_one_line_wherever_it_strikes(
    runs, tmp_path, monkeypatch, _, name, where
):
    monkeypatch.setattr(where, name, full)
    with pytest.raises(NotWritten, match=r"a: cannot be written \(No space left on device\); free"):
        group.train_one(TINY, tmp_path / "a")
    monkeypatch.undo()
    ended = group.train_one(TINY, tmp_path / "a")
    whole = json.loads((runs / "own" / "summary.json").read_text())
    assert ended["state_sha256"] == whole["state_sha256"]


def cut_short(monkeypatch, number, run):
    """Ends a run as a kill would, before so many of its files were written."""
    written, write = [], files.write_bytes

    def killed(path, content, **settings):
        if len(written) == number:
            raise KeyboardInterrupt
        write(path, content, **settings)
        written.append(path.name)

    with monkeypatch.context() as patch:
        patch.setattr(files, "write_bytes", killed)
        with pytest.raises(KeyboardInterrupt):
            run()
    return written


@pytest.mark.parametrize("number", range(5))
def test_a_first_start_that_was_cut_short_can_be_given_again(runs, tmp_path, monkeypatch, number):
    """Whatever it has written; and so can an import."""
    folder, out = tmp_path / "a", tmp_path / "weights"
    written = cut_short(monkeypatch, number, lambda: group.train_one(TINY, folder))
    assert sorted(p.name for p in folder.iterdir() if p.is_file()) == sorted([".lock", *written])
    ended = group.train_one(TINY, folder)
    whole = json.loads((runs / "own" / "summary.json").read_text())
    assert ended["state_sha256"] == whole["state_sha256"]

    known = variables_of(restore(runs / "own").state)
    monkeypatch.setattr(trained.models, "load_torch_weights", lambda *args, **shape: known)
    given = Path("x.safetensors"), TINY, tuple("0123456789"), (8, 8, 1), out
    cut_short(monkeypatch, min(number, 3), lambda: trained.import_weights(*given))
    trained.import_weights(*given)
    assert restore(out).step == 0


def test_a_folder_with_nothing_but_an_id_can_be_used(tmp_path):
    """Such as a version left that wrote run.json first."""
    (tmp_path / "run.json").write_text(json.dumps({"run": "ab" * 16, "unmarked_until": -1}))
    assert group.train_one(TINY, tmp_path)["epochs"] == 2
    assert json.loads((tmp_path / "run.json").read_text())["run"] == "ab" * 16


def test_an_import_that_found_no_room_can_be_given_again(runs, tmp_path, monkeypatch):
    """What it leaves is no run; and what it makes is bound to its folder as a run is."""
    known = variables_of(restore(runs / "own").state)
    monkeypatch.setattr(trained.models, "load_torch_weights", lambda *args, **shape: known)
    out = tmp_path / "weights"
    given = Path("x.safetensors"), TINY, tuple("0123456789"), (8, 8, 1), out
    monkeypatch.setattr(checkpoint, "write_text", full)
    with pytest.raises(NotWritten, match=r"weights: cannot be written"):
        trained.import_weights(*given)
    monkeypatch.setattr(checkpoint, "write_text", files.write_text)
    trained.import_weights(*given)
    assert restore(out).step == 0
    with pytest.raises(InputError, match="holds a run or weights already"):
        trained.import_weights(*given)
    (out / "checkpoints" / "latest" / "0").rename(out / "checkpoints" / "latest" / "4")
    with pytest.raises(InputError, match="latest/4: was saved as step 0"):
        restore(out)


@pytest.mark.parametrize(
    ("number", "room"),
    [(errno.ENOSPC, True), (errno.EDQUOT, True), (errno.EIO, False), (errno.EROFS, False)],
)
def test_the_line_says_what_would_help(number, room):
    with pytest.raises(NotWritten) as error, as_not_written(Path("runs/a")):
        raise OSError(number, os.strerror(number))
    code, line = _verdict(error.value)
    assert code == 1
    assert line.startswith(f"error: runs/a: cannot be written ({os.strerror(number)}); ")
    assert ("free some room" in line) == room
    assert line.endswith("run the same command again to go on")


EXPERIMENT_FILE = f"""
from jaxcnn.config import from_dict
def config():
    return from_dict({to_dict(replace(TINY, train=Train(epochs=3000)))!r})
"""


def start(path, *words, before=(), **kwargs):
    (path / "tiny.py").write_text(EXPERIMENT_FILE)
    command = [*before, sys.executable, "-m", "jaxcnn.cli", "train", str(path / "tiny.py"), *words]
    return subprocess.Popen(
        [*command, "--workdir", str(path / "a")],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **kwargs,
    )


@pytest.mark.slow
@pytest.mark.parametrize("blocks", [4, 20])
def test_files_that_may_not_grow_end_a_run_in_one_line(tmp_path, blocks):
    """As on a full disk, in the threads of Orbax and TensorStore too."""
    limit = "import resource, signal, os, sys; signal.signal(signal.SIGXFSZ, signal.SIG_IGN);"
    limit += f"resource.setrlimit(resource.RLIMIT_FSIZE, ({blocks} * 512,) * 2);"
    limit += "os.execv(sys.argv[1], sys.argv[1:])"
    wide = ["--model.options.hidden", "(64,)", "--train.checkpoint-every", "1"]
    environ = {**os.environ, "JAX_ENABLE_COMPILATION_CACHE": "false", "JAXCNN_NO_CACHE": "1"}
    process = start(tmp_path, *wide, before=[sys.executable, "-c", limit], env=environ)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 1, errors
    assert re.fullmatch(r"jaxcnn: error: .*a: cannot be written \(File too large\); .*\n", errors)


def test_a_folder_that_vanishes_ends_a_run_in_one_line(tmp_path):
    class Remove(group.Listener):
        def record(self, record):
            shutil.rmtree(tmp_path / "a")

    with pytest.raises(NotWritten, match=r"a: cannot be written \(No such file or directory\)"):
        group.train_one(TINY, tmp_path / "a", Remove())
    assert not (tmp_path / "a").exists()


def test_a_record_does_not_make_a_removed_folder_anew(tmp_path):
    log = run_folder.MetricsLog(tmp_path, 0)
    (tmp_path / "metrics.jsonl").unlink()
    with pytest.raises(FileNotFoundError):
        log.write({"step": 1})
    log.close()


# ------------------------------------------------------------------- pictures and TensorBoard


def test_no_picture_stands_between_a_run_and_its_summary(tmp_path, monkeypatch, caplog):
    def broken(*args):
        raise ValueError("Expected end of text\nParseException")

    monkeypatch.setattr(plots, "save_curves", broken)
    monkeypatch.setattr(plots, "save_confusion", full)
    summary = group.train_one(TINY, tmp_path / "a")
    assert json.loads((tmp_path / "a" / "summary.json").read_text()) == summary
    assert "curves.png: could not be drawn (Expected end of text)" in caplog.text
    assert "confusion.png: could not be drawn ([Errno 28] No space left" in caplog.text
    assert group.train_one(TINY, tmp_path / "a") == summary


@pytest.mark.parametrize("at", ["start", "write"])
def test_events_that_cannot_be_written_cost_one_warning(tmp_path, monkeypatch, caplog, at):
    from tensorboardX.event_file_writer import EventsWriter

    monkeypatch.setattr(EventsWriter, "__init__" if at == "start" else "flush", full)
    group.train_one(TINY, tmp_path / "a")
    assert caplog.text.count("no more TensorBoard events are written") == 1


def events_in(folder):
    """What TensorBoard would read of a run of its own, which is a folder."""
    event_pb2 = pytest.importorskip("tensorboardX.proto.event_pb2")
    found = []
    for file in sorted(folder.iterdir()):
        content = file.read_bytes()
        while content:  # records of length, check, event, check
            size = int.from_bytes(content[:8], "little")
            found.append(event_pb2.Event.FromString(content[12 : 12 + size]))
            content = content[16 + size :]
    return found


def test_events_hold_the_records(tmp_path):
    events = tensorboard.Events(tmp_path / "tb", 0)
    events.write({"step": 4, "test_top1": 0.5})
    events.close()
    found = events_in(tmp_path / "tb" / "test")
    assert found[1].step == 1  # what TensorBoard knew of this step and later ones is hidden
    assert (found[2].step, found[2].summary.value[0].tag) == (4, "metrics/top1")
    assert found[2].summary.value[0].simple_value == 0.5


def test_tensorboard_shows_metrics_first_with_all_splits_in_one_chart(tmp_path):
    """It has one chart for a tag, whichever runs have it, and sorts the groups by name."""
    pytest.importorskip("tensorboardX")
    group.train_one(replace(TINY, data=replace(TINY.data, validation=0.2)), tmp_path / "a")
    tags = {
        split.name: {value.tag for event in events_in(split) for value in event.summary.value}
        for split in (tmp_path / "a" / "tb").iterdir()
    }
    assert tags.keys() == {"train", "validation"}  # the test set is read once, in the end
    assert {"metrics/loss", "metrics/top1"} <= tags["train"] & tags["validation"]
    groups = sorted({tag.partition("/")[0] for of in tags.values() for tag in of})
    assert groups == ["metrics", "optimizer", "time"]
    assert {"time/data_wait", "optimizer/lr"} <= tags["train"]
    records = [json.loads(line) for line in (tmp_path / "a" / "metrics.jsonl").open()]
    kept = sum(
        len(event.summary.value) for of in tags for event in events_in(tmp_path / "a/tb" / of)
    )
    assert kept == sum(len(record) - 1 for record in records)  # nothing is lost but the step


def test_a_run_that_goes_on_hides_later_events_of_every_split(tmp_path, monkeypatch):
    pytest.importorskip("tensorboardX")
    began = time.time()
    for step in (0, 3):
        monkeypatch.setattr(
            time, "time", lambda now=began + step: now
        )  # of which files have their names
        events = tensorboard.Events(tmp_path / "tb", step)
        if not step:
            events.write({"step": 8, "train_loss": 1.0, "test_loss": 2.0})
        events.close()
    for split in ("train", "test"):
        steps = [event.step for event in events_in(tmp_path / "tb" / split)]
        assert steps == [0, 1, 8, 0, 4], split


def test_a_run_of_few_records_ends(own):
    """Its metrics were lost in part."""
    (own / "metrics.jsonl").write_text("")
    assert group.train_one(LONGER, own)["epochs"] == 3


# ----------------------------------------------------------------------------------- signals


@pytest.mark.parametrize(
    ("numbers", "code"),
    [
        pytest.param([signal.SIGHUP], 129, marks=pytest.mark.slow),
        pytest.param([signal.SIGINT], 130, marks=pytest.mark.slow),
        ([signal.SIGINT, signal.SIGINT], 130),
        pytest.param([signal.SIGHUP, signal.SIGTERM], 129, marks=pytest.mark.slow),
    ],
)
def test_a_signal_saves_and_ends_quietly(tmp_path, numbers, code):
    process = start(tmp_path)
    for line in process.stdout:
        if line.startswith("epoch    2"):
            break
    for number in numbers:
        process.send_signal(number)
        time.sleep(0.01)  # as a terminal and a wrapper pass it on, long before the run has saved
    out, errors = process.communicate(timeout=60)
    assert (process.returncode, errors) == (code, "")
    at = int(re.search(r" at step (\d+); run again to go on", out)[1])
    assert (tmp_path / "a" / "checkpoints" / "latest" / str(at)).is_dir()


def test_a_second_ctrl_c_ends_at_once(monkeypatch):
    monkeypatch.setattr("jaxcnn.runs.stop.SECONDS_OF_ONE_PRESS", 0)
    with StopRequest() as stop:
        signal.raise_signal(signal.SIGINT)
        assert stop.signal == signal.SIGINT
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)


def test_what_was_ignored_stays_ignored_and_handlers_come_back():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        handlers = [signal.getsignal(number) for number in NOTED]
        with StopRequest() as stop:
            signal.raise_signal(signal.SIGHUP)
            assert stop.signal is None
        assert [signal.getsignal(number) for number in NOTED] == handlers
    finally:
        signal.signal(signal.SIGHUP, before)


@pytest.mark.slow
@pytest.mark.parametrize("delay", [0.3, 0.6, 1.0, 1.5])
def test_ctrl_c_is_quiet_while_everything_is_imported(tmp_path, delay):
    command = [sys.executable, "-m", "jaxcnn.cli", "eval", str(tmp_path)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    time.sleep(delay)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    # After its line, Python itself may be ending, which has given the signal back by then.
    said = (2, -signal.SIGINT)
    assert process.returncode in (130, *said), errors
    assert process.returncode in said or not errors


@pytest.mark.slow
@pytest.mark.parametrize("streams", [">&-", ">/dev/full", "<&- >&- 2>&-"])
def test_a_run_goes_on_without_anybody_to_hear_it(tmp_path, streams):
    (tmp_path / "tiny.py").write_text(EXPERIMENT_FILE.replace("3000", "1"))
    command = f"{sys.executable} -m jaxcnn.cli train {tmp_path}/tiny.py --workdir {tmp_path}/a"
    subprocess.run(["sh", "-c", f"{command} {streams}"], check=False, timeout=120)
    assert (tmp_path / "a" / "summary.json").exists()


# --------------------------------------------------------------------------------- the promises


def test_every_promise_names_a_test_that_exists():
    root = Path(__file__).parent.parent
    table = (root / "docs" / "resuming.md").read_text().partition("| what happens")[2]
    rows = table.partition("\n\n")[0].splitlines()[2:]
    assert len(rows) > 15
    for row in rows:
        named = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", row.split("|")[3])
        assert named, row
        for file, test in named:
            assert f"def {test}(" in (root / file).read_text(), row
