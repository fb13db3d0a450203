"""float16 with a scaled loss: the scale against PyTorch's, and steps that overflow."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxcnn import models
from jaxcnn.config import Optim, Train
from jaxcnn.learning import loss_scale, optim, step
from jaxcnn.learning.averages import Averaging
from jaxcnn.learning.loss_scale import LossScale, init_loss_scale
from jaxcnn.learning.state import init_state, sha256

RNG = np.random.default_rng(0)
DATA = {
    "image": jnp.asarray(RNG.normal(size=(24, 8, 8, 1)), jnp.float32),
    "label": jnp.asarray(RNG.integers(0, 5, 24)),
}
TOO_LARGE = {**DATA, "image": DATA["image"] * 1e7}
"""Images that are infinite in float16."""


def test_the_scale_is_that_of_pytorch(monkeypatch):
    torch = pytest.importorskip("torch")
    monkeypatch.setattr(loss_scale, "PERIOD", 3)
    weight = torch.zeros(1, requires_grad=True)
    optimizer = torch.optim.SGD([weight], lr=1.0)
    theirs = torch.amp.GradScaler("cpu", init_scale=loss_scale.START, growth_interval=3)
    ours, skipped = init_loss_scale(), 0
    after = jax.jit(LossScale.after)
    for finite in RNG.random(60) < 0.8:
        before = weight.item()
        theirs.scale(weight.sum() * (1.0 if finite else float("inf"))).backward()
        theirs.step(optimizer)
        theirs.update()
        optimizer.zero_grad()
        ours = after(ours, jnp.bool_(finite))
        skipped += not finite
        assert (weight.item() == before) == (not finite)
        assert float(ours.scale) == theirs.get_scale()
        assert int(ours.finite) == theirs._get_growth_tracker()
    assert 0 < skipped == int(ours.skipped)
    largest = LossScale(jnp.float32(2.0**127), jnp.int32(2), jnp.int32(0)).after(jnp.bool_(True))
    assert float(largest.scale) == 2.0**127


def prepared(config=None, train=None, averaging=None, dtype="float16", **options):
    config, train = config or Optim("adamw", peak_lr=0.02, clip_norm=1.0), train or Train()
    settings = {"widths": (4,), "hidden": 8, "batch_norm": True, "dtype": dtype, **options}
    model = models.create_model("convnet", num_classes=5, **settings)
    tx = optim.make_optimizer(config, optax.constant_schedule(config.peak_lr))
    kept = {"ema": train.ema_decay > 0, "swa": averaging is not None}
    state = init_state(model, tx, jnp.int32(0), (8, 8, 1), scaled=dtype == "float16", **kept)
    return jax.jit(step.make_train_step(model, tx, train, config, averaging=averaging)), state


@pytest.mark.parametrize("accumulate", [1, 3])
def test_a_step_that_overflows_changes_the_scale_alone(accumulate):
    """And no average: the mean of what was trained so far stays that of the steps that counted."""
    train = Train(ema_decay=0.5, accumulate=accumulate)
    config = Optim("adamw", peak_lr=0.02, clip_norm=1.0, sam_rho=0.05)
    train_step, state = prepared(config, train, Averaging(0, 0, 1))
    first = train_step(state, TOO_LARGE)
    second = train_step(first, DATA)
    skipped = train_step(second, TOO_LARGE)
    for before, after in ((state, first), (second, skipped)):
        for name in ("params", "model_state", "opt_state", "ema"):
            assert sha256(getattr(after, name)) == sha256(getattr(before, name)), name
        assert int(after.step) == int(before.step) + 1
        assert float(after.loss_scale.scale) == float(before.loss_scale.scale) / 2
        assert int(after.sums["bad_step"]) == -1
        for name in ("loss", "count", "grad_norm"):
            assert float(after.sums[name]) == float(before.sums[name]), name
    assert int(skipped.loss_scale.skipped) == 2
    mean = jax.tree.map(lambda a, b: (a + 2 * b) / 3, state.params, second.params)
    for found, expected in (
        (second.ema["params"], second.params),  # the first step that counts is the whole average
        (skipped.swa["params"], mean),  # of what the parameters were after each step
    ):
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), found, expected)


def test_a_loss_that_is_never_finite_diverges():
    train_step, state = prepared()
    halvings = 0
    while int(state.sums["bad_step"]) < 0:
        state, halvings = train_step(state, TOO_LARGE), halvings + 1
    assert halvings == 16  # from 2 ** 15 to below 1
    assert int(state.sums["bad_step"]) == 15


@pytest.mark.parametrize("clip_norm", [None, 0.1])
def test_scaling_leaves_the_step_as_it_is_in_float32(clip_norm):
    """The gradient is unscaled before it is clipped, recorded and used."""
    config = Optim("sgd", peak_lr=0.1, momentum=0.0, clip_norm=clip_norm, nesterov=False)
    plain_step, plain = prepared(config, dtype="float32")
    scaled_step, state = prepared(config)
    scaled = scaled_step(state, DATA)
    plain = plain_step(plain, DATA)
    assert float(scaled.sums["grad_norm"]) == pytest.approx(
        float(plain.sums["grad_norm"]), rel=0.02
    )
    jax.tree.map(
        lambda new, plain: np.testing.assert_allclose(new, plain, atol=2e-3),
        *(scaled.params, plain.params),
    )
    assert {str(a.dtype) for a in jax.tree.leaves(scaled)} == {"float32", "int32"}


def test_gradients_that_would_vanish_in_float16_are_learned_from():
    """A loss of millionths, whose gradients are below the least number of float16."""

    class Faint(step.Classification):
        def loss(self, outputs, batch):
            return 1e-7 * super().loss(outputs, batch)

    model = models.create_model("convnet", num_classes=5, widths=(8,), hidden=16, dtype="float16")
    config = Optim("lion", peak_lr=0.01)  # whose steps do not depend on the size of gradients
    tx = optim.make_optimizer(config, optax.constant_schedule(config.peak_lr))
    train_step = jax.jit(step.make_train_step(model, tx, task=Faint()))
    begin, right = init_state(model, tx, jnp.int32(0), (8, 8, 1), scaled=True), {}
    for scale in (1.0, loss_scale.START):
        assert begin.loss_scale is not None
        fixed = replace(begin.loss_scale, scale=jnp.float32(scale))
        state = replace(begin, loss_scale=fixed)
        for _ in range(50):
            state = train_step(state, DATA)
        moved = (state.params["conv1"]["kernel"] != begin.params["conv1"]["kernel"]).any()
        assert moved == (scale > 1)
        logits = model.apply({"params": state.params}, DATA["image"], train=False)
        right[scale] = float((logits.argmax(1) == DATA["label"]).mean())
    assert right[loss_scale.START] > 0.9 > right[1.0]
