import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxcnn import models
from jaxcnn.config import Optim, Train
from jaxcnn.learning import optim, selection, step
from jaxcnn.learning.state import init_state, sha256
from jaxcnn.tasks import Classification
from jaxcnn.tasks.losses import cross_entropy

N, CLASSES = 24, 5
RNG = np.random.default_rng(0)
DATA = {
    "image": jnp.asarray(RNG.normal(size=(N, 8, 8, 1)), jnp.float32),
    "label": jnp.asarray(RNG.integers(0, CLASSES, N)),
}


def parts(**options):
    settings = {"widths": (4, 6), "hidden": 8, "batch_norm": True, "dropout": 0.2, **options}
    model = models.create_model("convnet", num_classes=CLASSES, **settings)
    tx = optim.make_optimizer(Optim(weight_decay=1e-3), optax.constant_schedule(0.05))
    return model, tx, init_state(model, tx, jnp.int32(0), (8, 8, 1))


def chunk_of(model, tx):
    def batch_of(arrays, seed, order, at):
        index = jax.lax.dynamic_slice(order, ((at % 6) * 4,), (4,))
        return {k: a[index] for k, a in arrays.items()}

    return jax.jit(
        step.make_train_chunk(
            step.make_train_step(model, tx),
            lambda seed, at: jax.random.permutation(jax.random.key(at // 6), N),
            batch_of,
        )
    )


def test_a_step_descends_the_gradient_of_the_mean_loss():
    model, _, _ = parts(batch_norm=False, dropout=0.0)
    tx = optax.sgd(0.1)
    state = init_state(model, tx, jnp.int32(0), (8, 8, 1))
    after = jax.jit(step.make_train_step(model, tx, Train(label_smoothing=0.1)))(state, DATA)

    @jax.jit
    @jax.value_and_grad
    def loss(params):
        logits = model.apply({"params": params}, DATA["image"])
        return cross_entropy(logits, DATA["label"], 0.1).mean()

    value, gradient = loss(state.params)
    want = jax.tree.map(lambda p, g: p - 0.1 * g, state.params, gradient)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), after.params, want)
    assert int(after.step) == 1
    assert int(after.sums["count"]) == N
    assert float(after.sums["loss"]) / N == pytest.approx(float(value), rel=1e-5)


def test_a_step_learns_the_soft_targets_where_a_batch_has_them():
    model, tx, state = parts(batch_norm=False, dropout=0.0)
    train_step = jax.jit(step.make_train_step(model, tx, Train(label_smoothing=0.1)))
    onehot = jax.nn.one_hot(DATA["label"], CLASSES)
    hard, same = train_step(state, DATA), train_step(state, {**DATA, "target": onehot})
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), hard.params, same.params)
    mixed = train_step(state, {**DATA, "target": 0.5 * onehot + 0.5 * onehot[::-1]})
    logits = model.apply({"params": state.params}, DATA["image"])
    want = 0.5 * cross_entropy(logits, DATA["label"], 0.1)
    want += 0.5 * cross_entropy(logits, DATA["label"][::-1], 0.1)
    assert float(mixed.sums["loss"]) == pytest.approx(float(want.sum()), rel=1e-5)
    assert int(mixed.sums["top1"]) == int(hard.sums["top1"])  # of the image's own label


def test_bits_do_not_depend_on_where_a_run_is_cut():
    model, tx, start = parts()
    chunk = chunk_of(model, tx)
    digests = set()
    for cuts in ([6], [1, 6], [2, 3, 5, 6], [1, 2, 3, 4, 5, 6]):
        state = start
        for end in cuts:
            state = chunk(state, DATA, jnp.int32(end))
        assert int(state.step) == 6
        digests.add(sha256(state))
    assert len(digests) == 1
    assert chunk._cache_size() == 1  # one compilation for every length


def test_training_learns_and_changes_statistics():
    model, tx, state = parts(dropout=0.0, hidden=32)
    chunk = chunk_of(model, tx)
    before = state
    # A bright row tells the class: labels that mean nothing are learned or not by rounding errors.
    bright = 3.0 * jax.nn.one_hot(DATA["label"], 8)[..., None, None]
    data = {**DATA, "image": DATA["image"] + bright}
    for epoch in range(1, 31):
        state = chunk(state, data, jnp.int32(6 * epoch))
    assert sha256(state.model_state) != sha256(before.model_state)
    logits = model.apply({"params": state.params, **state.model_state}, data["image"], train=False)
    assert (logits.argmax(1) == data["label"]).mean() > 0.9


def test_the_first_step_that_is_not_finite_is_remembered():
    model, tx, state = parts()
    train_step = jax.jit(step.make_train_step(model, tx))
    bad = {**DATA, "image": DATA["image"].at[0, 0, 0, 0].set(jnp.nan)}
    for batch in (DATA, bad, bad):
        state = train_step(state, batch)
    assert int(state.sums["bad_step"]) == 1


@pytest.mark.parametrize("missing", [0, 3])
def test_evaluation_counts_every_example_once(missing):
    model, _, state = parts()
    n = N - missing
    mask = np.arange(N) < n
    batches = {k: v.reshape(6, 4, *v.shape[1:]) for k, v in {**DATA, "mask": mask}.items()}
    evaluate = jax.jit(step.make_evaluate(step.make_eval_step(model), lambda x: x))
    got = selection.of_split(Classification(), evaluate(state, batches), "test")
    variables = {"params": state.params, **state.model_state}
    logits = model.apply(variables, DATA["image"][:n], train=False)
    labels = DATA["label"][:n]
    assert got["test_top1"] == pytest.approx(float((logits.argmax(1) == labels).mean()))
    assert got["test_loss"] == pytest.approx(float(cross_entropy(logits, labels).mean()), rel=1e-5)


def test_the_probabilities_of_views_are_averaged():
    model, _, state = parts()
    batch = {"label": DATA["label"], "mask": jnp.ones(N, bool)}
    views = jnp.stack([DATA["image"], DATA["image"][:, :, ::-1], DATA["image"][:, ::-1]])
    got = step.make_eval_step(model)(state, {**batch, "image": views})
    variables = {"params": state.params, **state.model_state}
    p = np.mean([jax.nn.softmax(model.apply(variables, x, train=False)) for x in views], axis=0)
    assert float(got["loss"]) == pytest.approx(-np.log(p[np.arange(N), batch["label"]]).sum(), 1e-5)
    assert int(got["top1"]) == (p.argmax(1) == batch["label"]).sum()


def test_auxiliary_heads_add_their_weighted_loss():
    import flax.linen as nn

    class TwoHeads(nn.Module):
        aux_weight = 0.3

        @nn.compact
        def __call__(self, x, *, train=False, endpoints=False):
            x = x.reshape(x.shape[0], -1)
            logits = nn.Dense(CLASSES, name="main", use_bias=False)(x)
            aux = nn.Dense(CLASSES, name="aux", use_bias=False)(x)
            return (logits, {"aux_logits": {"aux": aux}}) if endpoints else logits

    model, tx = TwoHeads(), optax.sgd(1.0)
    state = init_state(model, tx, jnp.int32(0), (8, 8, 1))
    after = step.make_train_step(model, tx)(state, DATA)

    def loss(kernel):
        return cross_entropy(DATA["image"].reshape(N, -1) @ kernel, DATA["label"]).mean()

    for head, weight in (("main", 1.0), ("aux", 0.3)):
        kernel = state.params[head]["kernel"]
        want = kernel - weight * jax.grad(loss)(kernel)
        np.testing.assert_allclose(after.params[head]["kernel"], want, atol=1e-5)
