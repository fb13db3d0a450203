"""Averages of weights, float16 and growing images in whole runs, alone and with other seeds."""

import json
import signal
from dataclasses import replace

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from jaxcnn.config import (
    Augment,
    Data,
    Devices,
    Experiment,
    Model,
    Optim,
    Schedule,
    Train,
    brought,
    brought_in,
)
from jaxcnn.data import sources
from jaxcnn.errors import Diverged, InputError, Stopped
from jaxcnn.learning import loss_scale, mesh
from jaxcnn.learning import run_folder as folder
from jaxcnn.learning.state import sha256
from jaxcnn.runs import display, group, plan, program, together
from jaxcnn.runs.evaluation import evaluate
from jaxcnn.runs.network import require_sizes
from jaxcnn.runs.trained import restore


class Tiny(nn.Module):
    """One convolution with batch statistics, on images of any size."""

    num_classes: int = 10
    dtype: str = "float32"

    @nn.compact
    def __call__(self, x, train=False):
        x = nn.Conv(6, (3, 3), dtype=self.dtype)(x)
        x = nn.BatchNorm(use_running_average=not train, dtype=self.dtype)(x)
        return nn.Dense(self.num_classes, dtype=self.dtype)(nn.relu(x).mean((1, 2)))


PLAIN = Experiment(
    name="small",
    data=Data("digits", train_limit=96, batch_size=32, eval_batch_size=180, mean=(0.3,)),
    model=Model(Tiny),
    optim=Optim("adamw", peak_lr=0.03),
    schedule=Schedule("constant", 0),
    train=Train(epochs=3, swa_bn_examples=64),
)
"""Three epochs of three steps."""
ALL = replace(
    PLAIN,
    augment=Augment(crop_padding=1),
    model=replace(PLAIN.model, dtype="float16"),
    schedule=Schedule("constant", 0, swa_lr=0.01, swa_anneal_epochs=1),
    train=replace(PLAIN.train, swa_start=1, swa_every=2, sizes=(4, 6, 8), resize_at=(1, 2)),
)
CASES = {
    "averages": replace(PLAIN, train=replace(PLAIN.train, swa_start=1)),
    "float16": replace(ALL, train=replace(PLAIN.train, ema_decay=0.9), schedule=PLAIN.schedule),
    "sizes": replace(PLAIN, train=replace(PLAIN.train, sizes=(4, 5), resize_at=(1,))),
    "streamed": replace(ALL, data=replace(ALL.data, streaming=True, workers=0)),
    "devices": replace(ALL, devices=Devices(data=2), data=replace(ALL.data, eval_batch_size=90)),
}
DIGESTS = ("params_sha256", "state_sha256", "test_loss", "train_loss", "best_test_top1")


class StopAt(display.Listener):
    """Stops at a step, as a signal would, and hears what is said."""

    def __init__(self, step=None):
        self.step, self.waits = step, []

    def waiting(self, text, *, said=True):
        self.waits.append(text)
        return super().waiting(text)

    def progress(self, progress):
        if progress.step == self.step:
            self.step = None  # a second signal would end the process
            signal.raise_signal(signal.SIGTERM)


@pytest.fixture(autouse=True)
def single_steps(monkeypatch):
    """One step per chunk, so that a run can be stopped after any; the network is known by name."""
    for known in brought_in(PLAIN).values():  # which other tests may have forgotten
        monkeypatch.setitem(brought._known, known.name, known)
    monkeypatch.setattr(group, "SECONDS_PER_CHUNK", 1e-9)


def timeless(path):
    times = {"seconds", "images_per_sec", "step_time", "data_wait", "goodput"}
    return [{k: v for k, v in r.items() if k not in times} for r in folder.read_metrics(path)]


def stopped_and_resumed(experiment, workdir, *steps, listener=None):
    """What a run comes to that is stopped after each of some steps."""
    for step in steps:
        with pytest.raises(Stopped, match=f"at step {step}"):
            group.train_one(experiment, workdir, StopAt(step))
        # What is saved is what counts, with statistics of its own.
        found, trained = evaluate(workdir), restore(workdir)
        assert found["step"] == step
        assert sha256(trained.variables) == sha256(restore(workdir).variables)
    return group.train_one(experiment, workdir, listener)


@pytest.mark.slow
def test_stopped_with_all_of_it_on_a_run_ends_with_the_same_bits(tmp_path):
    heard = StopAt()
    whole = group.train_one(ALL, tmp_path / "whole", heard)
    # One program for each size, and none anew for a step.
    sizes = [text for text in heard.waits if text.startswith("compiling")]
    assert [text.split(" for ")[1].split(",")[0] for text in sizes] == [
        "4x4",
        "6x6 pixels",
        "8x8 pixels",
    ]
    spent = whole["spent"]
    assert spent["compile"] > spent["steps"]
    resumed = StopAt()
    again = stopped_and_resumed(ALL, tmp_path / "a", 3, 7, listener=resumed)
    sizes = [text for text in resumed.waits if text.startswith("compiling")]
    assert [text.split(" for ")[1].split(",")[0] for text in sizes] == ["8x8"]
    assert [again[k] for k in DIGESTS] == [whole[k] for k in DIGESTS]
    assert timeless(tmp_path / "a") == timeless(tmp_path / "whole")
    assert evaluate(tmp_path / "a")["test_loss"] == whole["test_loss"]
    assert evaluate(tmp_path / "a", "best")["test_top1"] == whole["best_test_top1"]
    state = restore(tmp_path / "a").state
    assert sha256(state.swa["params"]) != sha256(state.params)
    assert sha256(state.swa["batch_stats"]) != sha256(state.model_state["batch_stats"])
    rates = [record["lr"] for record in timeless(tmp_path / "a")]
    assert rates[0] == pytest.approx(0.03)
    assert rates[2] == pytest.approx(0.01)
    for record in timeless(tmp_path / "a"):
        assert record["loss_scale"] == 2.0 ** (15 - record["skipped_steps"])


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_likewise_with_each_of_it(case, tmp_path, request):
    if case == "devices" and jax.device_count() < 2:
        pytest.skip("one device")
    whole = group.train_one(CASES[case], tmp_path / "whole")
    again = stopped_and_resumed(CASES[case], tmp_path / "a", 4, 8)
    assert [again[k] for k in DIGESTS] == [whole[k] for k in DIGESTS]
    assert timeless(tmp_path / "a") == timeless(tmp_path / "whole")


@pytest.mark.slow
def test_the_averages_are_means_of_the_weights_of_a_run_without(tmp_path):
    """And their statistics are those of the first batches, each by itself."""
    seen = []
    for epochs in (2, 3):
        shorter = replace(PLAIN, train=replace(PLAIN.train, epochs=epochs))
        group.train_one(shorter, tmp_path / "plain")
        seen.append(restore(tmp_path / "plain").state)
    group.train_one(CASES["averages"], tmp_path / "a")
    trained = restore(tmp_path / "a")
    mean = jax.tree.map(lambda a, b: (a + b) / 2, *(state.params for state in seen))
    close = lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)  # noqa: E731
    jax.tree.map(close, trained.variables["params"], mean)
    jax.tree.map(np.testing.assert_array_equal, trained.state.params, seen[-1].params)
    order = jax.random.permutation(
        jax.random.fold_in(jax.random.fold_in(jax.random.key(0), 1), 0), 96
    )
    images = trained.dataset().train.images
    found = []
    for first in (0, 32):  # of swa_bn_examples = 64
        batch = jnp.asarray(images[np.asarray(order[first : first + 32])])
        y = nn.Conv(6, (3, 3)).apply({"params": mean["Conv_0"]}, trained.prepare(batch))
        found.append((y.mean((0, 1, 2)), y.var((0, 1, 2))))
    own = trained.variables["batch_stats"]["BatchNorm_0"]
    for name, values in zip(("mean", "var"), zip(*found, strict=True), strict=True):
        np.testing.assert_allclose(own[name], np.mean(values, 0), rtol=1e-4, atol=1e-5)


def test_averages_that_overflow_in_float16_have_finite_statistics():
    config = replace(CASES["averages"], model=replace(PLAIN.model, dtype="float16"))
    made = program.Program(config, sources.load(config.data), mesh.one_device())
    state = made.init(np.int32(0))
    large = jax.tree.map(lambda a: 1e6 * a, state.swa["params"])
    state = replace(state, swa={**state.swa, "params": large})
    found = made.completing(state, made.given())(state, 6)
    for leaf in jax.tree.leaves(found.swa["batch_stats"]):
        assert np.isfinite(leaf).all()
    assert max(jnp.abs(leaf).max() for leaf in jax.tree.leaves(found.swa["batch_stats"])) > 1e5


def test_statistics_are_compiled_for_the_fastest_mode_alone(monkeypatch):
    config, made, calls = CASES["averages"], [], []
    monkeypatch.setattr(program.Program, "completing", lambda *given: calls.append(given))
    compiled = together._compiled
    monkeypatch.setattr(together, "_compiled", lambda *a: made.append(a) or compiled(*a))
    of = program.Program(config, sources.load(config.data), mesh.one_device())
    states = tuple(of.init(np.int32(seed)) for seed in (0, 1))
    together.compile_fastest(of, states, np.stack([of.rates(config)] * 2), "auto")
    assert (len(made), len(calls)) == (min(jax.device_count(), 2), 1)


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["map", "vmap", "devices"])
def test_several_seeds_in_one_program(mode, tmp_path):
    """Stopped and resumed, each comes to what it comes to alone."""
    single = replace(ALL, model=PLAIN.model)  # in float16 some seeds end with other bits
    experiment = replace(single, train=replace(single.train, seeds_mode=mode))

    def train(listener=None):
        runs = plan.seeds(experiment, tmp_path / "a", 2)
        modes = together.Modes(tmp_path / "a" / "together.json")
        return group.train(runs, listener, modes=modes, grouping="all")

    with pytest.raises(Stopped):
        train(StopAt(5))
    assert not train().faults
    for seed in (0, 1):
        alone = replace(single, train=replace(single.train, seed=seed))
        expected = group.train_one(alone, tmp_path / f"alone{seed}")
        found = json.loads((tmp_path / "a" / f"seed{seed}" / "summary.json").read_text())
        if mode == "vmap":  # rounds differently
            assert found["train_loss"] == pytest.approx(expected["train_loss"], rel=0.02)
        else:
            assert [found[k] for k in DIGESTS] == [expected[k] for k in DIGESTS]
        assert evaluate(tmp_path / "a" / f"seed{seed}")["test_loss"] == found["test_loss"]


@pytest.mark.parametrize("image_size", [None, 10])
def test_photos_that_are_streamed_are_cropped_once_at_every_size(image_size, tmp_path):
    """By the host where images become squares there, or else in the step."""
    for place in range(8):
        folder = tmp_path / ("train", "test")[place // 4] / "ab"[place % 2]
        folder.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(place).integers(0, 255, (16, 16, 3), np.uint8)
        Image.fromarray(pixels).save(folder / f"{place}.png")
    fit = {"fit": "resize", "image_size": 10} if image_size else {}
    data = Data("folder", str(tmp_path), batch_size=4, streaming=True, workers=0, **fit)
    config = replace(PLAIN, data=data, train=Train(epochs=2, sizes=(6, 12), resize_at=(1,)))
    cut = replace(config, augment=Augment(random_resized_crop=0.1))

    def batches(experiment):
        made = program.Program(experiment, sources.load(data), mesh.one_device())
        block = next(made._first_blocks(0, 1))
        parts = block, jnp.int32(0), jnp.int32(0), jnp.int32(0)
        return [made._batch_of(stage.network)(*parts)["image"] for stage in made.stages], block

    (small, large), stored = batches(cut)
    assert (small.shape, large.shape) == ((4, 6, 6, 3), (4, 12, 12, 3))
    (small_whole, large_whole), whole = batches(config)
    for cropped, other in ((small, small_whole), (large, large_whole)):
        assert (np.abs(cropped - other).max(axis=(1, 2, 3)) > 0.05).sum() >= 3
    if image_size:
        assert whole["train"]["image"].shape[2:] == (10, 10, 3)
        assert stored["train"]["image"].shape[2:] == (12, 12, 3)  # the largest of them
        np.testing.assert_allclose(large, stored["train"]["image"][0] / 255, atol=1e-6)
    else:
        np.testing.assert_array_equal(stored["train"]["image"], whole["train"]["image"])


class Grey(Tiny):
    """A network that takes images of one channel alone."""

    @nn.compact
    def __call__(self, x, train=False):
        assert x.shape[-1] == 1
        return Tiny(self.num_classes)(x, train)


def test_a_network_that_fails_on_colours_is_trained_on_grey_images_that_grow():
    grey = replace(CASES["sizes"], model=Model(Grey))
    require_sizes(grey)  # which knows nothing of the data yet
    made = program.Program(grey, sources.load(grey.data), mesh.one_device())
    assert [stage.side for stage in made.stages] == [4, 5]


def test_what_does_not_go_together_is_refused_before_data_are_read(tmp_path, monkeypatch):
    convnet = Model("convnet", {"widths": (4,), "hidden": 8})
    sized = Train(epochs=3, sizes=(4, 8), resize_at=(1,))

    def refused(**change):
        with pytest.raises(InputError) as error:
            group.train_one(replace(PLAIN, **change), tmp_path / "a")
        assert not (tmp_path / "a").exists()
        return str(error.value)

    small = {
        "model": Model("sequential", {"layers": "conv3-4 max2 gap"}),
        "train": replace(sized, sizes=(1, 8)),
    }
    assert "train.sizes=(1, 8): model.name='sequential' on images of 1x1" in refused(**small)
    padded = replace(PLAIN.data, image_size=12)
    assert "with data.fit='pad' where images are padded" in refused(data=padded, train=sized)
    late = replace(PLAIN.train, swa_start=1, swa_every=7)
    assert "train.swa_every=7: must be at most 6, the steps" in refused(train=late)
    monkeypatch.setattr(group.sources, "load", None)
    assert "whose fc1/kernel is 16x8 on images of 4x4 and 64x8 on images of 8x8" in refused(
        model=convnet, train=sized
    )


def test_the_learning_rate_goes_by_steps_that_were_left_out_too(tmp_path, monkeypatch):
    """It falls to nothing after the first epoch, whose first two steps overflow."""
    monkeypatch.setattr(loss_scale, "START", 2.0**20)
    schedule = Schedule("step", 0, milestones=(1,), factor=1e-30)
    half = replace(PLAIN, model=replace(PLAIN.model, dtype="float16"), schedule=schedule)
    optim = Optim("sgd", peak_lr=0.03)
    for epochs in (1, 2):
        config = replace(half, optim=optim, train=Train(epochs=epochs))
        group.train_one(config, tmp_path / str(epochs))
    first, second = (restore(tmp_path / str(epochs)).state for epochs in (1, 2))
    assert int(first.loss_scale.skipped) == int(second.loss_scale.skipped) == 2
    close = lambda a, b: np.testing.assert_allclose(a, b, atol=1e-9)  # noqa: E731
    jax.tree.map(close, first.params, second.params)


@pytest.mark.slow
def test_a_run_whose_loss_is_never_finite_in_float16_diverges(tmp_path):
    endless = replace(CASES["float16"], data=replace(PLAIN.data, std=(1e-9,)))
    train = replace(PLAIN.train, epochs=9, eval_every=9)  # what is evaluated is not finite either
    with pytest.raises(Diverged, match="not finite at step 15"):
        group.train_one(replace(endless, train=train), tmp_path / "a")
