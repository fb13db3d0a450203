"""What the step adds to plain descent, on softmax regression in NumPy and on small networks."""

import signal
from dataclasses import replace

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxcnn import models
from jaxcnn.analysis import plots
from jaxcnn.config import Augment, Data, Experiment, Model, Optim, Schedule, Train
from jaxcnn.errors import Stopped
from jaxcnn.learning import optim, step
from jaxcnn.learning.state import eval_variables, init_state, sha256
from jaxcnn.runs import display, group
from jaxcnn.tasks.losses import distillation

N, CLASSES, LR = 24, 5, 0.1
RNG = np.random.default_rng(0)
DATA = {
    "image": jnp.asarray(RNG.normal(size=(N, 8, 8, 1)), jnp.float32),
    "label": jnp.asarray(RNG.integers(0, CLASSES, N)),
}
X, Y = np.asarray(DATA["image"], np.float64).reshape(N, -1), np.eye(CLASSES)[DATA["label"]]
PLAIN = Optim("sgd", peak_lr=LR, momentum=0.0, nesterov=False)


class Linear(nn.Module):
    num_classes: int = CLASSES

    @nn.compact
    def __call__(self, x, *, train=False, endpoints=False):
        logits = nn.Dense(self.num_classes, use_bias=False, name="fc")(x.reshape(x.shape[0], -1))
        return (logits, {}) if endpoints else logits


def convnet(**options):
    settings = {"widths": (4, 6), "hidden": 8, "batch_norm": True, "dropout": 0.2, **options}
    return models.create_model("convnet", num_classes=CLASSES, **settings)


def prepared(model, config=PLAIN, train=None):
    """The step, compiled, and the state before it."""
    train = train or Train()
    layout = optim.layout_of(model, (8, 8, 1))
    tx = optim.make_optimizer(config, optax.constant_schedule(config.peak_lr), layout)
    state = init_state(model, tx, jnp.int32(0), (8, 8, 1), ema=train.ema_decay > 0)
    frozen = optim.frozen_paths(config, layout)
    return jax.jit(step.make_train_step(model, tx, train, config, frozen)), state


def softmax(z):
    e = np.exp(z - z.max(1, keepdims=True))
    return e / e.sum(1, keepdims=True)


def slope(w, target=Y):
    """Gradient of the mean cross-entropy of softmax regression."""
    return X.T @ (softmax(X @ w) - target) / N


def kernel(state):
    return np.asarray(state.params["fc"]["kernel"], np.float64)


def test_the_gradient_norm_is_recorded():
    train_step, state = prepared(Linear())
    w, total = kernel(state), 0.0
    for _ in range(3):
        total += np.linalg.norm(slope(w))
        w = w - LR * slope(w)
        state = train_step(state, DATA)
    assert float(state.sums["grad_norm"]) == pytest.approx(total, rel=1e-5)


def test_sam_descends_the_gradient_at_the_worst_point_nearby():
    """Foret et al. (2021), algorithm 1."""
    train_step, state = prepared(Linear(), replace(PLAIN, sam_rho=0.5))
    w = kernel(state)
    for _ in range(3):
        g = slope(w)
        w = w - LR * slope(w + 0.5 * g / np.linalg.norm(g))
        state = train_step(state, DATA)
    np.testing.assert_allclose(kernel(state), w, atol=2e-6)


def test_distillation_agrees_with_hinton():
    """Gradient of the logits: (1 - a) (p - y) + a T (softmax(z / T) - softmax(v / T))."""
    share, t = 0.7, 3.0
    taught = Train(distill_weight=share, distill_temperature=t)
    train_step, state = prepared(Linear(), train=taught)
    v = RNG.normal(size=(N, CLASSES)) * 4
    w = kernel(state)
    for _ in range(3):
        z = X @ w
        dz = (1 - share) * (softmax(z) - Y) + share * t * (softmax(z / t) - softmax(v / t))
        w = w - LR * X.T @ dz / N
        state = train_step(state, {**DATA, "teacher": jnp.asarray(v, jnp.float32)})
    np.testing.assert_allclose(kernel(state), w, atol=2e-6)
    p, q = softmax(v / t), softmax(X @ w / t)
    want = t**2 * (p * np.log(p / q)).sum(1)
    got = distillation(jnp.asarray(X @ w, jnp.float32), jnp.asarray(v, jnp.float32), t)
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(("model", "decay"), [(convnet(widths=(4,)), 0.9), (Linear(), 0.9999)])
def test_the_moving_average_weighs_every_step_by_its_age(model, decay):
    train_step, state = prepared(model, train=Train(ema_decay=decay))
    seen = []
    for _ in range(6):
        state = train_step(state, DATA)
        seen.append(jax.tree.leaves({"params": state.params, **state.model_state}))
    weights = decay ** np.arange(5, -1, -1.0)
    weights /= weights.sum()
    got = jax.tree.leaves(eval_variables(state))
    assert len(got) == len(seen[0])
    for i, leaf in enumerate(got):
        want = sum(w * np.asarray(s[i], np.float64) for w, s in zip(weights, seen, strict=True))
        np.testing.assert_allclose(leaf, want, rtol=1e-4, atol=1e-6)


def test_a_batch_in_parts_has_the_gradient_of_the_whole():
    model = convnet(widths=(4,), batch_norm=False, dropout=0.0)
    config = Optim("adamw", peak_lr=0.01, sam_rho=0.05, clip_norm=1.0)
    whole_step, state = prepared(model, config)
    part_step, _ = prepared(model, config, Train(accumulate=6))
    whole = in_parts = state
    for _ in range(3):
        whole, in_parts = whole_step(whole, DATA), part_step(in_parts, DATA)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=2e-6), whole, in_parts
    )


def test_parts_differ_in_dropout_and_follow_the_statistics_in_turn():
    train_step, state = prepared(convnet(dropout=0.0), train=Train(accumulate=2))
    after = train_step(state, DATA)
    mean = state.model_state["batch_stats"]["norm1"]["mean"]
    conv = nn.Conv(4, (3, 3), use_bias=False)
    for half in (DATA["image"][::2], DATA["image"][1::2]):
        y = conv.apply({"params": {"kernel": state.params["conv1"]["kernel"]}}, half)
        mean = 0.9 * mean + 0.1 * y.mean((0, 1, 2))
    np.testing.assert_allclose(after.model_state["batch_stats"]["norm1"]["mean"], mean, atol=1e-6)


def test_frozen_parameters_keep_their_bits():
    train_step, before = prepared(convnet(), Optim(freeze=("conv.*", "norm1/scale")))
    after = train_step(train_step(before, DATA), DATA)
    for path, old in jax.tree_util.tree_leaves_with_path(before.params):
        name = optim.path_name(path)
        new = after.params[name.split("/")[0]][name.split("/")[1]]
        kept = name.startswith("conv") or name == "norm1/scale"
        assert (sha256(new) == sha256(old)) == kept, name
    # The statistics of a frozen normalisation layer follow the batches all the same.
    assert sha256(after.model_state) != sha256(before.model_state)


def test_a_linear_probe_learns_on_features_as_evaluation_computes_them():
    model = convnet(dropout=0.5)
    config = replace(PLAIN, head_only=True)
    train_step, before = prepared(model, config)
    after = train_step(before, DATA)
    assert sha256(after.model_state) == sha256(before.model_state)
    head = after.params.pop("fc2")
    old = before.params.pop("fc2")
    assert sha256(after.params) == sha256(before.params)
    variables = {"params": {**before.params, "fc2": old}, **before.model_state}
    _, ends = model.apply(variables, DATA["image"], train=False, endpoints=True)
    z = np.asarray(ends["features"], np.float64)
    error = (softmax(z @ np.asarray(old["kernel"]) + np.asarray(old["bias"])) - Y) / N
    np.testing.assert_allclose(head["kernel"], old["kernel"] - LR * z.T @ error, atol=1e-6)
    np.testing.assert_allclose(head["bias"], old["bias"] - LR * error.sum(0), atol=1e-6)


def test_bfloat16_keeps_everything_stored_in_float32_and_learns():
    model = convnet(widths=(4,), dropout=0.0, dtype="bfloat16")
    config = Optim("adamw", peak_lr=0.02, clip_norm=1.0)
    train_step, state = prepared(model, config, Train(ema_decay=0.5))
    for _ in range(60):
        state = train_step(state, DATA)
    kept = (state.params, state.model_state, state.opt_state, state.ema)
    assert {str(a.dtype) for a in jax.tree.leaves(kept)} == {"float32", "int32"}
    logits = model.apply(eval_variables(state), DATA["image"], train=False)
    assert logits.dtype == jnp.bfloat16
    assert (logits.argmax(1) == DATA["label"]).mean() > 0.9


@pytest.mark.slow
def test_stopped_after_every_step_it_ends_with_the_same_bits(tmp_path, monkeypatch):
    """Two epochs of three steps with all that a resumed run could get wrong, stopped five times."""
    monkeypatch.setattr(group, "SECONDS_PER_CHUNK", 1e-9)  # one step per chunk
    for picture in ("save_curves", "save_confusion"):
        monkeypatch.setattr(plots, picture, lambda *args: None)
    experiment = Experiment(
        data=Data("digits", batch_size=8, train_limit=24, mean=(0.4,), std=(0.2,)),
        augment=Augment(crop_padding=1, flip=True, cutout=2),
        model=Model("convnet", {"widths": (4,), "hidden": 8, "batch_norm": True, "dropout": 0.2}),
        optim=Optim("adamw", peak_lr=0.1),
        schedule=Schedule("polynomial", 0),
        train=Train(epochs=2, ema_decay=0.9, seed=3),
    )

    class StopNow(display.Listener):
        """Stops the run after its next step."""

        def progress(self, progress):
            steps.append(progress.step)
            signal.raise_signal(signal.SIGTERM)

    whole = group.train_one(experiment, tmp_path / "whole")
    steps = []
    for at in range(1, 6):
        with pytest.raises(Stopped, match=f"at step {at}"):
            group.train_one(experiment, tmp_path / "stopped", StopNow())
    assert steps == list(range(1, 6))
    stopped = group.train_one(experiment, tmp_path / "stopped")
    for digest in ("params_sha256", "state_sha256"):
        assert stopped[digest] == whole[digest]
