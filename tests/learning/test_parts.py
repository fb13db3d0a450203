"""Loss, metrics, optimizer, state: each against an independent computation."""

import doctest
import signal

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from sklearn import metrics as sk

from jaxcnn import models
from jaxcnn.config import Optim, Schedule
from jaxcnn.errors import Stopped
from jaxcnn.learning import optim, selection, state
from jaxcnn.learning.state import init_state, sha256, stream
from jaxcnn.runs import stop as stopping
from jaxcnn.runs.stop import StopRequest
from jaxcnn.tasks import Classification, interface, losses
from jaxcnn.tasks import sums as sums_of
from jaxcnn.tasks.losses import cross_entropy

RNG = np.random.default_rng(0)
LOGITS = jnp.asarray(RNG.normal(size=(200, 7)), jnp.float32)
LABELS = RNG.integers(0, 7, 200)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_cross_entropy_agrees_with_its_definition(smoothing):
    p = np.exp(np.asarray(LOGITS, np.float64))
    p /= p.sum(1, keepdims=True)
    q = np.full(p.shape, smoothing / 7) + (1 - smoothing) * np.eye(7)[LABELS]
    want = -(q * np.log(p)).sum(1)
    np.testing.assert_allclose(cross_entropy(LOGITS, LABELS, smoothing), want, rtol=2e-5)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_cross_entropy_of_soft_targets_agrees_with_torch(smoothing):
    torch = pytest.importorskip("torch")
    targets = RNG.dirichlet(np.ones(7), 200).astype(np.float32)
    want = torch.nn.functional.cross_entropy(
        torch.tensor(np.asarray(LOGITS)),
        torch.tensor(targets),
        reduction="none",
        label_smoothing=smoothing,
    )
    np.testing.assert_allclose(cross_entropy(LOGITS, targets, smoothing), want, rtol=2e-5)


def test_metrics_agree_with_scikit_learn():
    mask = RNG.random(200) < 0.7
    losses = cross_entropy(LOGITS, LABELS)
    sums = sums_of.classification_sums(LOGITS, jnp.asarray(LABELS), losses, jnp.asarray(mask))
    got = selection.of_split(Classification(), sums, "test")
    y, scores = LABELS[mask], np.asarray(LOGITS)[mask]
    assert got["test_top1"] == pytest.approx(sk.accuracy_score(y, scores.argmax(1)))
    assert got["test_top5"] == pytest.approx(sk.top_k_accuracy_score(y, scores, k=5))
    p = np.exp(scores) / np.exp(scores).sum(1, keepdims=True)
    assert got["test_loss"] == pytest.approx(sk.log_loss(y, p, labels=range(7)), rel=1e-5)
    np.testing.assert_array_equal(
        sums["confusion"], sk.confusion_matrix(y, scores.argmax(1), labels=range(7))
    )


def test_sums_merge_by_addition():
    labels, losses = jnp.asarray(LABELS), cross_entropy(LOGITS, LABELS)
    ones = jnp.ones(200, bool)
    whole = sums_of.classification_sums(LOGITS, labels, losses, ones)
    first = sums_of.classification_sums(LOGITS[:30], labels[:30], losses[:30], ones[:30])
    rest = sums_of.classification_sums(LOGITS[30:], labels[30:], losses[30:], ones[30:])
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), whole, sums_of.add(first, rest)
    )


def test_constant_and_broken_networks_are_not_right():
    labels = jnp.array([0, 1, 2, 3])
    constant = sums_of.rank_of_label(jnp.zeros((4, 10)), labels)
    assert constant.tolist() == [0, 1, 2, 3]
    broken = sums_of.rank_of_label(jnp.full((4, 10), jnp.nan), labels)
    assert (broken >= 5).all()


def test_warmup_then_cosine():
    lr = optim.make_schedule(Schedule("cosine", 2, 0.1), 0.5, steps_per_epoch=10, epochs=12)
    assert float(lr(0)) == 0.0
    assert float(lr(10)) == pytest.approx(0.25)
    assert float(lr(20)) == pytest.approx(0.5)
    assert float(lr(70)) == pytest.approx(0.5 * (0.1 + 0.9 / 2))
    assert float(lr(120)) == pytest.approx(0.05)
    flat = optim.make_schedule(Schedule("constant", 0), 0.5, steps_per_epoch=10, epochs=12)
    assert [float(flat(s)) for s in (0, 60, 119)] == [0.5] * 3


@pytest.mark.parametrize("nesterov", [False, True])
def test_sgd_agrees_with_pytorch(nesterov):
    torch = pytest.importorskip("torch", reason="torch is the reference")
    config = Optim("sgd", peak_lr=0.1, momentum=0.9, nesterov=nesterov, weight_decay=0.01)
    # PyTorch decays every parameter; a bias is spared here, so it gets a group of its own.
    _same_as_torch(
        config,
        lambda kernel, bias: torch.optim.SGD(
            [{"params": [kernel], "weight_decay": 0.01}, {"params": [bias]}],
            lr=0.1,
            momentum=0.9,
            nesterov=nesterov,
        ),
    )


def test_adamw_agrees_with_pytorch():
    torch = pytest.importorskip("torch", reason="torch is the reference")
    _same_as_torch(
        Optim("adamw", peak_lr=0.01, weight_decay=0.1),
        lambda kernel, bias: torch.optim.AdamW(
            [{"params": [kernel], "weight_decay": 0.1}, {"params": [bias], "weight_decay": 0.0}],
            lr=0.01,
        ),
    )


def _same_as_torch(config, make):
    import torch

    start = {"kernel": RNG.normal(size=(3, 4)), "bias": RNG.normal(size=(4,))}
    params = jax.tree.map(lambda a: jnp.asarray(a, jnp.float32), start)
    theirs = {k: torch.tensor(v, dtype=torch.float32) for k, v in start.items()}
    reference = make(theirs["kernel"], theirs["bias"])
    tx = optim.make_optimizer(config, optax.constant_schedule(config.peak_lr))
    state = tx.init(params)
    for _ in range(5):
        grads = {k: RNG.normal(size=v.shape) for k, v in start.items()}
        updates, state = tx.update(
            jax.tree.map(lambda a: jnp.asarray(a, jnp.float32), grads), state, params
        )
        params = optax.apply_updates(params, updates)
        for name, tensor in theirs.items():
            tensor.grad = torch.tensor(grads[name], dtype=torch.float32)
        reference.step()
    for name, tensor in theirs.items():
        np.testing.assert_allclose(params[name], tensor.numpy(), rtol=1e-5, atol=1e-6)


def test_clipping_bounds_the_global_norm():
    tx = optim.make_optimizer(
        Optim("sgd", momentum=0.0, nesterov=False, clip_norm=1.0), optax.constant_schedule(1.0)
    )
    params = {"a": jnp.zeros(3), "b": jnp.zeros((2, 2))}
    grads = jax.tree.map(lambda p: p + 100.0, params)
    updates, _ = tx.update(grads, tx.init(params), params)
    assert float(optax.tree.norm(updates)) == pytest.approx(1.0, rel=1e-5)


def test_initial_state_is_a_pure_function_of_the_seed():
    model = models.create_model("convnet", num_classes=3, widths=(4,), hidden=8, batch_norm=True)
    tx = optim.make_optimizer(Optim(), optax.constant_schedule(0.1))
    make = jax.jit(lambda seed: init_state(model, tx, seed, (8, 8, 1)))
    assert sha256(make(1)) == sha256(make(1))
    assert sha256(make(1).params) != sha256(make(2).params)
    many = jax.vmap(make)(jnp.arange(3))
    assert sha256(jax.tree.map(lambda a: a[2], many.params)) == sha256(make(2).params)


def test_streams_are_independent():
    keys = [
        tuple(jax.random.key_data(stream(seed, name)).tolist())
        for seed in range(3)
        for name in ("init", "order", "augment", "dropout")
    ]
    assert len(set(keys)) == len(keys)


def test_digest_sees_names_types_shapes_and_values():
    trees = [
        {"a": np.zeros(4, np.float32)},
        {"b": np.zeros(4, np.float32)},
        {"a": np.zeros(4, np.int32)},
        {"a": np.zeros((2, 2), np.float32)},
        {"a": np.array([0, 0, 0, 1e-45], np.float32)},
    ]
    assert len({sha256(t) for t in trees}) == len(trees)


def test_signals_are_noted_and_a_second_ctrl_c_acts_as_before(monkeypatch):
    monkeypatch.setattr(stopping, "SECONDS_OF_ONE_PRESS", -1.0)
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    with StopRequest() as stop:
        assert stop.agreed(3) == (None, 3, False)
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGTERM)  # schedulers repeat it, while the state is saved
        assert stop.agreed(3) == (signal.SIGTERM, 3, False)
        with pytest.raises(Stopped, match="SIGTERM"):
            stop.raise_if_asked()
    with StopRequest() as stop:
        signal.raise_signal(signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert stop.agreed(3, True) == (signal.SIGINT, 3, True)
    assert {number: signal.getsignal(number) for number in before} == before


def test_a_signal_that_was_ignored_stays_ignored():
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)  # as in `nohup` or `&` in a script
    try:
        with StopRequest() as stop:
            signal.raise_signal(signal.SIGINT)
        assert stop.agreed(3) == (None, 3, False)
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize("module", [losses, interface, sums_of, selection, state])
def test_the_examples_of_the_documentation_hold(module):
    result = doctest.testmod(module)
    assert result.attempted
    assert not result.failed
