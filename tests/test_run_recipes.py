"""Recipes in whole runs: what is saved, resumed, evaluated and handed on."""

import shutil
import signal
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from jaxcnn.config import Augment, Data, Experiment, Model, Optim, Schedule, Task, Train
from jaxcnn.errors import InputError, Stopped
from jaxcnn.learning import optim
from jaxcnn.learning import run_folder as folder
from jaxcnn.learning.state import sha256, state_from
from jaxcnn.runs import display, group, program
from jaxcnn.runs.evaluation import evaluate
from jaxcnn.runs.trained import restore

DATA = Data("digits", train_limit=256, batch_size=64, eval_batch_size=180, mean=(0.3,), std=(0.4,))
MLP = Experiment(
    name="small",
    data=DATA,
    model=Model("mlp", {"hidden": (16,)}),
    optim=Optim("adamw", peak_lr=0.01),
    schedule=Schedule("constant", 0),
    train=Train(epochs=2, checkpoint_every=1),
)
DIGESTS = ("params_sha256", "state_sha256")


class Stop(display.Listener):
    """Stops the run at a step, as a signal would."""

    def __init__(self, step):
        self.step = step

    def progress(self, progress):
        if progress.step == self.step:
            signal.raise_signal(signal.SIGTERM)


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("runs") / "teacher"
    group.train_one(replace(MLP, data=replace(DATA, mean=(0.0,), std=(1.0,))), workdir)
    return workdir


@pytest.mark.slow
def test_a_run_with_much_of_it_on(teacher, tmp_path, monkeypatch):
    """Stopped within an epoch it ends with the same bits, and its averages are what counts."""
    monkeypatch.setattr(group, "SECONDS_PER_CHUNK", 1e-9)  # one step per chunk
    net = {"hidden": (8,), "dropout": 0.1, "activation": "tanh"}
    experiment = replace(
        MLP,
        augment=Augment(crop_padding=1),
        model=Model("mlp", net),
        optim=Optim("adamw", peak_lr=0.01, layer_decay=0.8, freeze=("fc1/bias",)),
        train=Train(epochs=2, ema_decay=0.9, accumulate=2, distill_from=str(teacher)),
    )
    whole = group.train_one(experiment, tmp_path / "whole", profile=(2, 6))
    with pytest.raises(Stopped):
        group.train_one(experiment, tmp_path / "a", Stop(5))
    resumed = group.train_one(experiment, tmp_path / "a")
    assert [resumed[k] for k in DIGESTS] == [whole[k] for k in DIGESTS]
    assert evaluate(tmp_path / "a")["test_loss"] == whole["test_loss"]
    assert evaluate(tmp_path / "a", "best")["test_top1"] == whole["best_test_top1"]
    trained = restore(tmp_path / "a")
    assert sha256(trained.variables) == sha256(dict(trained.state.ema))
    assert sha256(trained.variables["params"]) != whole["params_sha256"]
    for record in folder.read_metrics(tmp_path / "a"):
        for key in ("grad_norm", "step_time", "images_per_sec", "lr"):
            assert np.isfinite(record[key]), key
            assert record[key] > 0, key
        assert record["data_wait"] == 0.0
    # Steps 2 to 6 of epochs of 4 steps: a trace in each.
    assert list((tmp_path / "whole" / "profile").rglob("*.xplane.pb"))
    assert not (tmp_path / "a" / "profile").exists()


def photos(root):
    """A few photos of several sizes, of dark and of light ones."""
    rng = np.random.default_rng(0)
    for split, number in (("train", 8), ("test", 2)):
        for name, level in (("dark", 60), ("light", 180)):
            (root / split / name).mkdir(parents=True)
            for place in range(number):
                size = [(20, 90), (40, 30), (120, 130), (3, 5)][place % 4]
                pixels = rng.normal(level, 30, (*size, 3)).clip(0, 255).astype(np.uint8)
                Image.fromarray(pixels).save(root / split / name / f"{place}.jpg")
    return root


STREAMED = {"fit": "crop", "image_size": 8, "batch_size": 4, "streaming": True, "workers": 0}
BINARY = Task(options={"criterion": "binary", "threshold": 0.2})
CROPPED = Augment(random_resized_crop=0.08, flip=True, mixup=0.1, cutmix=1.0, repeats=2)
AS_PUBLISHED = {
    "whole images, repeated, mixed, binary": (STREAMED, CROPPED, BINARY),
    "repeated in memory": (None, Augment(repeats=3), Task()),
    "AutoAugment": (None, Augment(auto_augment="cifar10"), Task()),
    "AugMix": (None, Augment(augmix=3), Task()),
}


@pytest.mark.slow
@pytest.mark.parametrize(("streamed", "augment", "task"), AS_PUBLISHED.values(), ids=AS_PUBLISHED)
def test_recipes_as_published_resume_with_the_same_bits(
    tmp_path, monkeypatch, streamed, augment, task
):
    """Stopped within an epoch, of which every batch is a function of seed and step."""
    monkeypatch.setattr(group, "SECONDS_PER_CHUNK", 1e-9)  # one step per chunk
    data = replace(DATA, batch_size=62)
    if streamed:
        data = Data("folder", dir=str(photos(tmp_path / "photos")), eval_batch_size=4, **streamed)
    experiment = replace(MLP, data=data, augment=augment, task=task)
    whole = group.train_one(experiment, tmp_path / "whole")
    with pytest.raises(Stopped):
        group.train_one(experiment, tmp_path / "a", Stop(3))
    resumed = group.train_one(experiment, tmp_path / "a")
    assert [resumed[k] for k in DIGESTS] == [whole[k] for k in DIGESTS]
    losses = [record["train_loss"] for record in folder.read_metrics(tmp_path / "whole")]
    assert np.isfinite(losses).all()


def test_a_teacher_that_does_not_fit_is_refused(teacher, tmp_path):
    for change, named in (
        ({"train": Train(distill_from=str(tmp_path / "x"))}, "is " + str(tmp_path / "x")),
        ({"data": replace(DATA, image_size=12)}, "its input ((8, 8, 1)) must be those"),
        (
            {"data": Data("synthetic", image_size=8, batch_size=8, channels=1, num_classes=7)},
            "its classes (10) must be those of the student (7)",
        ),
    ):
        student = replace(MLP, train=Train(distill_from=str(teacher)))
        with pytest.raises(InputError) as error:
            group.train_one(replace(student, **change), tmp_path / "a")
        assert named in str(error.value)
    assert not (tmp_path / "a").exists()


def test_the_teacher_sees_images_in_its_own_scale():
    pixels = np.random.default_rng(0).random((2, 3, 3, 3), np.float32)
    ours = Data(mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.1))
    theirs = Data(mean=(0.1,), std=(0.7,))
    got = program._renormalised((pixels - np.array(ours.mean)) / np.array(ours.std), ours, theirs)
    np.testing.assert_allclose(got, (pixels - 0.1) / 0.7, atol=1e-5)


def test_another_teacher_is_not_taken_up_half_way(teacher, tmp_path):
    own = tmp_path / "teacher"
    shutil.copytree(teacher, own)
    student = replace(MLP, train=Train(epochs=2, distill_from=str(own)))
    with pytest.raises(Stopped):
        group.train_one(student, tmp_path / "a", Stop(4))
    shutil.rmtree(own / "checkpoints" / "latest" / "8")  # an older state of it
    with pytest.raises(InputError, match="teacher_sha256 was"):
        group.train_one(student, tmp_path / "a")


@pytest.mark.parametrize(
    ("select_on", "epoch"), [("auto", 3), pytest.param("test", 4, marks=pytest.mark.slow)]
)
def test_patience_ends_a_run_that_no_longer_gains(tmp_path, select_on, epoch):
    """A tenth of the examples is put aside for it, but where the test set chooses."""
    still = replace(
        MLP,
        optim=Optim("sgd", peak_lr=1e-12),
        train=Train(epochs=9, patience=2, checkpoint_every=5, select_on=select_on),
    )
    summary = group.train_one(still, tmp_path / "a")
    assert (summary["epochs"], summary["best_epoch"], summary["stopped_early"]) == (3, 1, True)
    assert evaluate(tmp_path / "a")["step"] == summary["step"] == 3 * epoch
    assert group.train_one(still, tmp_path / "a") == summary  # finished, as it says
    (tmp_path / "a" / "summary.json").unlink()  # killed just before the end
    again = group.train_one(still, tmp_path / "a")
    timed = {"goodput", "spent"}  # of a call that has done steps
    assert again == {name: found for name, found in summary.items() if name not in timed}
    longer = replace(still, train=replace(still.train, patience=4))
    assert group.train_one(longer, tmp_path / "a")["epochs"] == 5


@pytest.mark.slow
def test_a_schedule_free_average_is_evaluated_and_handed_on(tmp_path):
    free = replace(MLP, optim=Optim("adamw", peak_lr=0.02, schedule_free=True, freeze=("fc1",)))
    summary = group.train_one(free, tmp_path / "a")
    trained = restore(tmp_path / "a")
    moved = jax.tree.map(lambda x, y: bool((x != y).any()), trained.variables["params"],
                         trained.state.params)  # fmt: skip
    assert moved == {"fc1": {"bias": False, "kernel": False}, "fc2": {"bias": True, "kernel": True}}
    assert evaluate(tmp_path / "a")["test_loss"] == summary["test_loss"]
    # A vanishing rate leaves the network where it started: all averages start from there too.
    tuned = replace(
        MLP,
        model=replace(MLP.model, init_from=str(tmp_path / "a")),
        optim=Optim("adamw", peak_lr=1e-9, schedule_free=True),
        train=Train(epochs=1),
    )
    summary = group.train_one(tuned, tmp_path / "b")
    assert summary["test_loss"] == pytest.approx(evaluate(tmp_path / "a")["test_loss"], rel=1e-3)


def test_averages_start_where_the_parameters_start():
    variables = {"params": {"w": jnp.ones(3)}, "batch_stats": {"mean": jnp.full(3, 2.0)}}
    tx = optim.make_optimizer(Optim(schedule_free=True), lambda step: 0.1)
    state = jax.jit(lambda v: state_from(v, tx, jnp.int32(0), ema=True))(variables)
    jax.tree.map(np.testing.assert_array_equal, state.ema, variables)
    jax.tree.map(np.testing.assert_array_equal, state.opt_state.z, variables["params"])
    donated = jax.jit(lambda s: jax.tree.map(lambda a: a + 1, s), donate_argnums=0)(state)
    assert (donated.ema["params"]["w"] == 2).all()  # no two arrays share their memory
