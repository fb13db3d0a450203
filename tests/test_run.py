"""A run from end to end: its folder, its resumption, and what it refuses."""

import json
import logging
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import replace

import jax
import numpy as np
import pytest

from jaxcnn.analysis import plots
from jaxcnn.config import Augment, Data, Experiment, Model, Optim, Schedule, Train, to_dict
from jaxcnn.data import feed, sources
from jaxcnn.errors import Diverged, InputError, Stopped
from jaxcnn.learning import files, selection
from jaxcnn.learning import run_folder as folder
from jaxcnn.learning.checkpoint import Checkpoints
from jaxcnn.runs import display, group, plan, together
from jaxcnn.runs.evaluation import compile_evaluate, evaluate
from jaxcnn.runs.trained import predict, restore
from jaxcnn.tasks import classification

# Dropout, augmentation and batch statistics: all that a resumed run could get wrong.
SMALL = Experiment(
    name="small",
    data=Data("digits", batch_size=128, eval_batch_size=100, mean=(0.3,), std=(0.35,)),
    augment=Augment(crop_padding=1, cutout=2),
    model=Model("convnet", {"widths": (2, 4), "hidden": 16, "batch_norm": True, "dropout": 0.2}),
    optim=Optim("sgd", peak_lr=0.1, weight_decay=1e-4),
    schedule=Schedule("cosine", warmup_epochs=1),
    train=Train(epochs=4, seed=0, checkpoint_every=1),
)
DIGESTS = ("params_sha256", "state_sha256")


def longer(experiment, epochs):
    return replace(experiment, train=replace(experiment.train, epochs=epochs))


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("runs") / "a"
    return workdir, group.train_one(SMALL, workdir)


@pytest.fixture(autouse=True)
def _pictures_are_not_drawn(request):
    """But by ``finished``, made before, and slow tests: they take a quarter of a run this small."""
    with pytest.MonkeyPatch.context() as patch:
        if not request.node.get_closest_marker("slow"):
            patch.setattr(plots, "save_curves", lambda *args: None)
            patch.setattr(plots, "save_confusion", lambda *args: None)
        yield


def test_the_run_folder_holds_what_it_promises(finished):
    workdir, summary = finished
    names = {p.name for p in workdir.iterdir()}
    assert names >= {
        "config.json",
        "dataset.json",
        "env.json",
        "metrics.jsonl",
        "summary.json",
        "tb",
        "checkpoints",
        "curves.png",
        "confusion.png",
    }
    assert json.loads((workdir / "summary.json").read_text()) == summary
    assert json.loads((workdir / "config.json").read_text()) == json.loads(
        json.dumps(to_dict(SMALL))
    )
    env = json.loads((workdir / "env.json").read_text())
    assert env["versions"]["jax"] == jax.__version__
    assert env["cores"] >= 1
    records = folder.read_metrics(workdir)
    assert [r["epoch"] for r in records] == [1, 2, 3, 4]
    assert [r["step"] for r in records] == [11, 22, 33, 44]
    for key in ("train_loss", "train_top1", "test_loss", "test_top1", "lr", "images_per_sec"):
        assert all(np.isfinite(r[key]) for r in records), key
    assert summary["test_top1"] == records[-1]["test_top1"]
    assert summary["best_test_top1"] == max(r["test_top1"] for r in records)
    assert list((workdir / "tb").iterdir())
    for name in ("curves.png", "confusion.png"):
        assert (workdir / name).read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"


def test_evaluation_from_the_folder_gives_the_summary(finished):
    workdir, summary = finished
    result = evaluate(workdir)
    assert result["test_examples"] == 360
    for key in ("test_loss", "test_top1", "test_top5"):
        assert result[key] == summary[key]
    best = evaluate(workdir, "best")
    assert best["test_top1"] == summary["best_test_top1"]


def test_a_finished_run_says_so_and_changes_nothing(finished):
    workdir, summary = finished
    said = []

    class Ear(display.Listener):
        def message(self, text):
            said.append(text)

    before = (workdir / "metrics.jsonl").read_text()
    assert group.train_one(SMALL, workdir, Ear()) == summary
    assert (workdir / "metrics.jsonl").read_text() == before
    assert said == [f"{workdir} is finished: 4 epochs"]


def test_train_and_eval_compile_once_each(tmp_path, caplog):
    """Also with a last evaluation batch of 60, and chunks of every length."""
    with jax.log_compiles(True), caplog.at_level(logging.WARNING):
        group.train_one(longer(SMALL, 3), tmp_path / "a")
    compiled = [r.getMessage() for r in caplog.records if "Compiling jit(" in r.getMessage()]
    for program in ("chunk", "evaluate"):
        assert sum(f"jit({program})" in line for line in compiled) == 1, compiled


def test_same_seed_same_bits_other_seed_other_bits(finished, tmp_path):
    _, summary = finished
    again = group.train_one(SMALL, tmp_path / "again")
    assert [again[k] for k in DIGESTS] == [summary[k] for k in DIGESTS]
    other = group.train_one(replace(SMALL, train=replace(SMALL.train, seed=1)), tmp_path / "other")
    assert other["params_sha256"] != summary["params_sha256"]


class StopAt(display.Listener):
    """Sends this process a signal once training has come so far."""

    def __init__(self, step, number):
        self.step, self.number, self.sent = step, number, False

    def progress(self, progress):
        if progress.step >= self.step and not self.sent:
            self.sent = True
            os.kill(os.getpid(), self.number)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "steps"),
    [pytest.param(signal.SIGTERM, (1, 16, 33), marks=pytest.mark.slow), (signal.SIGINT, (11,))],
)
def test_stopping_after_any_chunk_changes_nothing(finished, tmp_path, number, steps, monkeypatch):
    """Stopped and resumed within and between epochs: same state, same metrics."""
    monkeypatch.setattr(group, "SECONDS_PER_CHUNK", 1e-9)  # one step per chunk
    done, summary = finished
    workdir, handler = tmp_path / "a", signal.getsignal(number)
    for step in steps:
        with pytest.raises(Stopped) as stopped:
            group.train_one(SMALL, workdir, StopAt(step, number))
        assert stopped.value.signal == number
    resumed = group.train_one(SMALL, workdir)
    assert [resumed[k] for k in DIGESTS] == [summary[k] for k in DIGESTS]

    def timeless(path):
        times = {"seconds", "images_per_sec", "step_time", "data_wait", "goodput"}
        return [{k: v for k, v in r.items() if k not in times} for r in folder.read_metrics(path)]

    assert timeless(workdir) == timeless(done)
    assert signal.getsignal(number) == handler


@pytest.mark.slow
def test_mixed_images_are_learnt_and_resumed_to_the_same_bits(tmp_path, monkeypatch):
    real, seen = classification.cross_entropy, []
    monkeypatch.setattr(
        classification,
        "cross_entropy",
        lambda logits, y, *a: seen.append(y.shape) or real(logits, y, *a),
    )
    mixed = Augment(trivial_augment=True, random_erasing=0.5, mixup=0.2, cutmix=1.0)
    experiment = replace(longer(SMALL, 2), augment=mixed)
    whole = group.train_one(experiment, tmp_path / "whole")
    with pytest.raises(Stopped):
        group.train_one(experiment, tmp_path / "a", StopAt(11, signal.SIGTERM))
    resumed = group.train_one(experiment, tmp_path / "a")
    assert [resumed[k] for k in DIGESTS] == [whole[k] for k in DIGESTS]
    assert (128, 10) in seen  # soft targets in training
    assert (100,) in seen  # labels in evaluation


@pytest.mark.slow
def test_a_finished_run_can_be_made_longer(tmp_path):
    """With a constant rate the longer run is the one that was long from the start."""
    flat = replace(SMALL, schedule=Schedule("constant", warmup_epochs=1))
    group.train_one(longer(flat, 2), tmp_path / "a")
    resumed = group.train_one(longer(flat, 3), tmp_path / "a")
    whole = group.train_one(longer(flat, 3), tmp_path / "b")
    assert [resumed[k] for k in DIGESTS] == [whole[k] for k in DIGESTS]


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"train": Train(epochs=4, seed=9)}, "train.seed was 0, now 9"),
        ({"optim": Optim(peak_lr=0.2, weight_decay=1e-4)}, "optim.peak_lr was 0.1, now 0.2"),
        ({"model": Model("mlp")}, "model.name was 'convnet', now 'mlp'"),
        ({"data": replace(SMALL.data, train_limit=200)}, "data.train_limit was None, now 200"),
    ],
)
def test_a_folder_of_another_run_is_refused_by_field(finished, change, named):
    workdir, _ = finished
    with pytest.raises(InputError, match="belongs to another run") as error:
        group.train_one(replace(SMALL, **change), workdir)
    assert named in str(error.value)


def test_other_data_under_the_same_name_are_refused(tmp_path, monkeypatch):
    workdir = tmp_path / "a"
    with pytest.raises(Stopped):
        group.train_one(SMALL, workdir, StopAt(11, signal.SIGTERM))
    real = sources.load(SMALL.data)
    other = replace(real, test=sources.Split(255 - real.test.images, real.test.labels))
    monkeypatch.setattr(sources, "load", lambda config: other)
    with pytest.raises(InputError, match=r"dataset\.json: sha256 was"):
        group.train_one(SMALL, workdir)
    with pytest.raises(InputError, match="not the data that"):
        evaluate(workdir)


class Killed(BaseException):
    """What kill -9 is to the code: nothing after it runs, but files stay as they are."""


KILLS = [
    ("best", 2, "after"),
    pytest.param("latest", 3, "before", marks=pytest.mark.slow),
    pytest.param("best", 2, "before", marks=pytest.mark.slow),
    pytest.param("latest", 1, "before", marks=pytest.mark.slow),
    pytest.param("latest", 1, "after", marks=pytest.mark.slow),
    pytest.param("latest", 3, "after", marks=pytest.mark.slow),
]


@pytest.mark.parametrize(("kind", "number", "when"), KILLS)
def test_killed_around_any_checkpoint(finished, tmp_path, monkeypatch, kind, number, when):
    """Deterministic kills at the moments where the two kinds of checkpoint disagree."""
    _, summary = finished
    save = Checkpoints.save
    count = 0

    def strike(self, *args):
        nonlocal count
        count += self.folder.name == kind
        mine = self.folder.name == kind and count == number
        if mine and when == "before":
            raise Killed
        save(self, *args)
        if mine:
            raise Killed

    monkeypatch.setattr(Checkpoints, "save", strike)
    with pytest.raises(Killed):
        group.train_one(SMALL, tmp_path / "a")
    monkeypatch.undo()
    resumed = group.train_one(SMALL, tmp_path / "a")
    assert [resumed[k] for k in DIGESTS] == [summary[k] for k in DIGESTS]
    for name, kept in (("latest", {2}), ("best", {1, 2})):
        assert len(list((tmp_path / "a" / "checkpoints" / name).iterdir())) in kept


@pytest.mark.slow
def test_the_best_that_a_checkpoint_names_outlives_a_better_one(tmp_path, monkeypatch):
    experiment = replace(SMALL, train=Train(epochs=4, checkpoint_every=2))
    save = Checkpoints.save

    def strike(self, step, *args):
        if self.folder.name == "latest" and step == 44:
            raise Killed
        save(self, step, *args)

    monkeypatch.setattr(Checkpoints, "save", strike)
    with pytest.raises(Killed):
        group.train_one(experiment, tmp_path / "a")
    monkeypatch.undo()
    top1 = [record["test_top1"] for record in folder.read_metrics(tmp_path / "a")]
    assert max(top1[:2]) < max(top1)
    ended = group.train_one(replace(experiment, train=Train(epochs=2)), tmp_path / "a")
    assert evaluate(tmp_path / "a", "best")["test_top1"] == ended["best_test_top1"] == max(top1[:2])


@pytest.mark.slow
def test_made_shorter_the_summary_belongs_to_the_last_step(tmp_path):
    rare = replace(SMALL, train=Train(epochs=9, eval_every=5))
    with pytest.raises(Stopped):
        group.train_one(rare, tmp_path / "a", StopAt(33, signal.SIGTERM))
    at = max(int(p.name) for p in (tmp_path / "a/checkpoints/latest").iterdir()) // 11
    with pytest.raises(InputError, match=f"train.epochs=1: .* give at least {at} epochs"):
        group.train_one(replace(rare, train=Train(epochs=1, eval_every=5)), tmp_path / "a")
    short = group.train_one(replace(rare, train=Train(epochs=at, eval_every=5)), tmp_path / "a")
    assert (short["epochs"], short["step"]) == (at, 11 * at)
    assert evaluate(tmp_path / "a")["test_loss"] == short["test_loss"]


@pytest.mark.slow
def test_made_shorter_and_killed_before_its_summary_a_run_ends_and_keeps_its_best(
    tmp_path, monkeypatch
):
    """Its evaluation is in the metrics then, but not in the checkpoint that it goes on from."""
    rare = replace(SMALL, train=Train(epochs=9, eval_every=5))
    with pytest.raises(Stopped):
        group.train_one(rare, tmp_path / "a", StopAt(33, signal.SIGTERM))
    at = max(int(p.name) for p in (tmp_path / "a/checkpoints/latest").iterdir()) // 11

    def killed(path, value):
        if path.name == "summary.json":
            raise Killed
        write(path, value)

    short = replace(rare, train=Train(epochs=at, eval_every=5))
    write = files.write_json
    monkeypatch.setattr(files, "write_json", killed)
    with pytest.raises(Killed):
        group.train_one(short, tmp_path / "a")
    monkeypatch.setattr(files, "write_json", write)
    ended = group.train_one(short, tmp_path / "a")
    assert ended["test_top1"] == ended["best_test_top1"]
    assert evaluate(tmp_path / "a", "best")["test_top1"] == ended["best_test_top1"]
    longer_ = group.train_one(replace(rare, train=Train(epochs=at + 1)), tmp_path / "a")
    assert longer_["best_test_top1"] >= ended["best_test_top1"]


def test_stopped_at_the_end_of_an_epoch_every_checkpoint_still_has_its_best(tmp_path, monkeypatch):
    monkeypatch.setattr(group, "SECONDS_PER_CHUNK", 1e-9)  # one step per chunk
    with pytest.raises(Stopped):
        group.train_one(SMALL, tmp_path / "a", StopAt(22, signal.SIGTERM))
    folder_ = tmp_path / "a" / "checkpoints"
    named = {
        json.loads((path / "meta" / "metadata").read_text())["best"]["step"]
        for path in (folder_ / "latest").iterdir()
    }
    assert named == {11, 22}  # the second epoch is better than the first
    assert {int(path.name) for path in (folder_ / "best").iterdir()} == named


def test_a_finished_run_is_not_taken_for_a_shorter_one(finished):
    workdir, _ = finished
    with pytest.raises(InputError, match=r"epochs=2: .* done 44 steps, .* at least 4 epochs"):
        group.train_one(longer(SMALL, 2), workdir)


@pytest.mark.slow
def test_a_run_goes_on_although_the_weights_it_started_from_are_gone(tmp_path):
    group.train_one(longer(SMALL, 1), tmp_path / "first")
    tuned = replace(SMALL, model=replace(SMALL.model, init_from=str(tmp_path / "first")))
    runs = plan.seeds(tuned, tmp_path, 2)
    for run in runs:
        with pytest.raises(Stopped):
            group.train_one(run.experiment, run.folder, StopAt(11, signal.SIGTERM))
    shutil.rmtree(tmp_path / "first")
    outcome = group.train(runs, modes=together.Modes(tmp_path / "together.json"), grouping="all")
    assert len(outcome.results) == 2
    with pytest.raises(InputError, match=r"first.config\.json: no such file"):
        group.train_one(tuned, tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_lost_metrics_do_not_stop_a_run_from_ending(tmp_path):
    group.train_one(longer(SMALL, 1), tmp_path / "a")
    (tmp_path / "a" / "metrics.jsonl").unlink()
    (tmp_path / "a" / "summary.json").unlink()
    again = group.train_one(longer(SMALL, 1), tmp_path / "a")
    assert again["test_top1"] == evaluate(tmp_path / "a")["test_top1"]


def test_another_machine_is_mentioned(tmp_path):
    said = []

    class Ear(StopAt):
        def message(self, text):
            said.append(text)

    with pytest.raises(Stopped):
        group.train_one(SMALL, tmp_path / "a", Ear(11, signal.SIGTERM))
    env = json.loads((tmp_path / "a" / "env.json").read_text())
    (tmp_path / "a" / "env.json").write_text(json.dumps({**env, "cores": 64}))
    with pytest.raises(Stopped):
        group.train_one(SMALL, tmp_path / "a", Ear(22, signal.SIGTERM))
    assert any("cores was 64, now" in text for text in said)


def test_checkpoints_without_their_config_are_refused(tmp_path):
    with pytest.raises(Stopped):
        group.train_one(SMALL, tmp_path / "a", StopAt(11, signal.SIGTERM))
    (tmp_path / "a" / "config.json").unlink()
    with pytest.raises(InputError, match=r"config\.json: no such file"):
        group.train_one(SMALL, tmp_path / "a")


@pytest.mark.slow
def test_a_config_from_before_a_field_existed_still_fits(tmp_path):
    with pytest.raises(Stopped):
        group.train_one(SMALL, tmp_path / "a", StopAt(11, signal.SIGTERM))
    path = tmp_path / "a" / "config.json"
    config = json.loads(path.read_text())
    del config["optim"]["nesterov"]
    path.write_text(json.dumps(config))
    group.train_one(SMALL, tmp_path / "a")


def test_one_writer_per_folder(tmp_path):
    held = folder.RunFolder(tmp_path / "a")
    with pytest.raises(InputError, match="another process is writing"):
        group.train_one(SMALL, tmp_path / "a")
    held.close()


@pytest.mark.parametrize(
    "batch_size", [pytest.param(128, marks=pytest.mark.slow), 1437]
)  # 1437: one step an epoch
def test_divergence_stops_the_run_and_is_never_saved(tmp_path, batch_size):
    wild = replace(
        SMALL,
        data=replace(SMALL.data, batch_size=batch_size),
        optim=Optim("sgd", peak_lr=1e30),
        schedule=Schedule("constant", 0),
    )
    with pytest.raises(Diverged, match="not finite"):
        group.train_one(wild, tmp_path / "a")
    for kind in ("latest", "best"):
        assert not list((tmp_path / "a" / "checkpoints" / kind).iterdir())
    # Nothing was trained here, so the folder is free for a better learning rate.
    calm = replace(wild, optim=Optim("sgd", peak_lr=1e-3), train=Train(epochs=1))
    assert group.train_one(calm, tmp_path / "a")["epochs"] == 1


def test_a_damaged_latest_checkpoint_is_replaced_by_the_one_before(finished, tmp_path, caplog):
    workdir = tmp_path / "a"
    _, whole = finished
    with pytest.raises(Stopped):
        group.train_one(SMALL, workdir, StopAt(30, signal.SIGTERM))
    latest = max((workdir / "checkpoints" / "latest").glob("[0-9]*"), key=lambda p: int(p.name))
    victim = max((p for p in latest.rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)
    victim.write_bytes(b"\0" + victim.read_bytes()[1:])
    resumed = group.train_one(SMALL, workdir)
    assert f"{latest} is damaged" in caplog.text
    assert [resumed[k] for k in DIGESTS] == [whole[k] for k in DIGESTS]


def test_predictions_are_those_of_the_test_set(finished, tmp_path):
    from PIL import Image

    workdir, summary = finished
    test = sources.load(SMALL.data).test
    paths = [tmp_path / f"{i}.png" for i in range(60)]
    for path, image in zip(paths, test.images, strict=False):
        Image.fromarray(image[..., 0]).save(path)
    found = predict(workdir, paths)
    right = [p.label == str(y) for p, y in zip(found, test.labels, strict=False)]
    assert np.mean(right) == pytest.approx(summary["test_top1"], abs=0.1)
    assert all(0.1 <= p.answers[0] <= 1 for p in found)


EXPERIMENT_FILE = f"""
from jaxcnn.config import *
def config():
    return from_dict({to_dict(longer(SMALL, 40))!r})
"""


def start(experiment, workdir):
    command = [sys.executable, "-m", "jaxcnn.cli", "train", str(experiment), "--workdir"]
    return subprocess.Popen(
        [*command, str(workdir)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def test_sigterm_saves_and_exits_143(tmp_path):
    experiment = tmp_path / "small.py"
    experiment.write_text(EXPERIMENT_FILE.replace("'epochs': 40", "'epochs': 4000"))
    process = start(experiment, tmp_path / "a")
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("epoch    2"):
            break
    process.send_signal(signal.SIGTERM)
    out, errors = process.communicate(timeout=60)
    assert process.returncode == 143, errors
    assert "SIGTERM at step" in out
    assert "Traceback" not in errors
    saved = [int(p.name) for p in (tmp_path / "a/checkpoints/latest").glob("[0-9]*")]
    assert max(saved) == int(out.split("SIGTERM at step ")[1].split(";")[0])


def test_the_core_needs_no_tfds_or_grain(tmp_path):
    """As on a bare accelerator machine: those imports are made to fail."""
    code = f"""
import sys
for name in ("tensorflow_datasets", "grain", "tensorboardX", "safetensors", "jinja2", "markupsafe"):
    sys.modules[name] = None
from pathlib import Path
from jaxcnn import config
from jaxcnn.runs import display, group, plan, together
experiment = config.from_dict({to_dict(longer(SMALL, 1))!r})
print(group.train_one(experiment, Path({str(tmp_path / "a")!r}))["test_top1"])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert 0 <= float(done.stdout) <= 1


def test_nobody_waits_for_libraries_that_a_run_has_no_use_for(tmp_path):
    """PyTorch, which tensorboardX imports where it is there, and scikit-learn: seconds each."""
    (tmp_path / "torch.py").write_text("raise SystemExit('torch is imported')")
    code = f"""
import sys
from pathlib import Path
from jaxcnn.config import Data
from jaxcnn.data import sources
from jaxcnn.learning.tensorboard import Events
Events(Path({str(tmp_path / "events")!r}), 0)
sources.load(Data("digits"))
sys.exit(str({{"torch", "sklearn"}} & set(sys.modules)))
"""
    env = {**os.environ, "PYTHONPATH": f"{tmp_path}:{os.environ.get('PYTHONPATH', '')}"}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    assert done.stderr == "set()\n"
    assert list((tmp_path / "events").glob("train/*"))


def test_a_rendered_set_is_trained_on_and_evaluated(tmp_path):
    data = Data("shapes", batch_size=32, eval_batch_size=40, image_size=12, examples=(96, 60))
    model = Model("mlp", {"hidden": (8,)})
    experiment = Experiment("shapes", data, model=model, train=Train(epochs=2))
    summary = group.train_one(experiment, tmp_path / "a")
    assert summary["test_top1"] == evaluate(tmp_path / "a")["test_top1"]
    assert summary["step"] == 6


STREAMED = replace(
    SMALL,
    data=replace(SMALL.data, streaming=True, workers=0, train_limit=500),
    train=replace(SMALL.train, epochs=3),
)


@pytest.mark.slow
def test_a_streamed_run_goes_on_with_the_same_bits(tmp_path, monkeypatch):
    """Whoever reads the data, however many batches a block holds, and wherever it was stopped."""
    whole = group.train_one(STREAMED, tmp_path / "whole")
    assert whole["step"] == 9
    assert whole["test_loss"] == evaluate(tmp_path / "whole")["test_loss"]
    monkeypatch.setattr(feed, "BLOCK_STEPS", 2)
    workers = replace(STREAMED, data=replace(STREAMED.data, workers=1))

    class StopAt(display.Listener):
        def progress(self, progress):
            if progress.step >= 4:
                os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(Stopped):
        group.train_one(STREAMED, tmp_path / "stopped", StopAt())
    resumed = group.train_one(workers, tmp_path / "stopped")
    assert resumed["data_wait"] > 0
    for digest in DIGESTS:
        assert resumed[digest] == whole[digest]


def test_a_stream_holds_the_examples_of_the_set_in_memory(tmp_path):
    held = replace(STREAMED, data=replace(STREAMED.data, streaming=False))
    group.train_one(replace(held, train=Train(epochs=1)), tmp_path / "held")
    restored = restore(tmp_path / "held")
    streamed = compile_evaluate(restored, sources.load(STREAMED.data), restored.state)
    sums = selection.of_split(restored.task, jax.device_get(streamed(restored.state)), "test")
    result = evaluate(tmp_path / "held")
    assert {name: result[name] for name in sums} == pytest.approx(sums, rel=1e-6)


@pytest.mark.slow
def test_a_warm_up_that_is_cut_is_told_recorded_and_stays_so(tmp_path):
    said = []
    listener = display.Listener()
    listener.message = said.append
    short = replace(longer(SMALL, 1), schedule=Schedule("cosine", warmup_epochs=2))
    summary = group.train_one(short, tmp_path / "a", listener)
    assert said[0] == "schedule.warmup_epochs=2: longer than train.epochs=1, cut to 0.1"
    config = json.loads((tmp_path / "a/config.json").read_text())
    assert config["schedule"]["warmup_epochs"] == 0.1
    by_hand = replace(short, schedule=Schedule("cosine", warmup_epochs=0.1))
    assert group.train_one(by_hand, tmp_path / "b")["state_sha256"] == summary["state_sha256"]
    assert group.train_one(short, tmp_path / "a") == summary  # finished
    with pytest.raises(InputError, match=r"schedule\.warmup_epochs was 0\.1, now 2\)"):
        group.train_one(longer(short, 3), tmp_path / "a")
    longer_by_hand = group.train_one(longer(by_hand, 2), tmp_path / "a")
    fresh = group.train_one(longer(by_hand, 2), tmp_path / "c")
    assert longer_by_hand["epochs"] == fresh["epochs"] == 2
