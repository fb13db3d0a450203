"""Schedules and optimizers, each against its paper's equations in NumPy."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxcnn import models
from jaxcnn.config import Optim, Schedule
from jaxcnn.errors import InputError
from jaxcnn.learning import optim
from jaxcnn.learning.optim import Layout
from jaxcnn.learning.state import eval_variables, state_from

RNG = np.random.default_rng(0)
LR, STEPS = 0.1, 4
PARAMS = {
    "conv1": {"kernel": RNG.normal(size=(3, 3, 4, 6)), "bias": RNG.normal(size=6)},
    "norm1": {"scale": RNG.normal(size=6), "bias": RNG.normal(size=6)},
    "deep": {"kernel": RNG.normal(size=(3, 3, 1, 6))},
    "fc1": {"kernel": RNG.normal(size=(6, 8))},
    "fc2": {"kernel": RNG.normal(size=(8, 5)), "bias": RNG.normal(size=5)},
}
PATHS = ("conv1/bias", "conv1/kernel", "deep/kernel", "fc1/kernel", "fc2/bias", "fc2/kernel",
         "norm1/bias", "norm1/scale")  # fmt: skip
LAYOUT = Layout(
    ("conv1", "norm1", "deep", "fc1", "fc2"), PATHS, frozenset({"fc2/bias", "fc2/kernel"})
)
NAMES = ("sgd", "adamw", "lamb", "lars", "lion", "muon")


def by_path(tree):
    return {
        optim.path_name(path): np.asarray(leaf)
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    }


def run(config, steps=STEPS, lr=LR, grads=None):
    """Parameters after some steps of random gradients, by name, and the optimizer's state."""
    tx = optim.make_optimizer(config, optax.constant_schedule(lr), LAYOUT)
    params = jax.tree.map(lambda a: jnp.asarray(a, jnp.float32), PARAMS)
    state = tx.init(params)
    update = jax.jit(tx.update)
    for step in range(steps):
        given = jax.tree.map(jnp.asarray, grads or gradients(step))
        updates, state = update(given, state, params)
        params = optax.apply_updates(params, updates)
    return by_path(params), state


def gradients(step):
    rng = np.random.default_rng(step)
    return jax.tree.map(lambda p: rng.normal(size=p.shape).astype(np.float32), PARAMS)


def simulate(rule, steps=STEPS):
    """The same in NumPy: ``rule(step, w, g, memory, is_kernel) -> w``, an array at a time."""
    params = by_path(PARAMS)
    memory = {name: {} for name in params}
    for step in range(steps):
        for name, g in by_path(gradients(step)).items():
            w = params[name]
            params[name] = rule(step, w, g.astype(np.float64), memory[name], w.ndim > 1)
    return params


def norm(a):
    return np.sqrt((a * a).sum())


def same(got, want, **tolerance):
    assert got.keys() == want.keys()
    for name in want:
        np.testing.assert_allclose(
            got[name], want[name], err_msg=name, **{"rtol": 2e-4, "atol": 2e-5, **tolerance}
        )


def lars(step, w, g, memory, is_kernel):
    """You, Gitman, Ginsburg (2017), algorithm 1, with trust coefficient 0.001."""
    rate = LR
    if is_kernel:
        g = g + 0.01 * w
        rate *= 0.001 * norm(w) / norm(g)
    memory["v"] = 0.9 * memory.get("v", 0) + rate * g
    return w - memory["v"]


def moments(step, g, memory, b1=0.9, b2=0.999, eps=1e-8):
    """Kingma & Ba (2015), algorithm 1: the direction of Adam."""
    memory["m"] = b1 * memory.get("m", 0) + (1 - b1) * g
    memory["v"] = b2 * memory.get("v", 0) + (1 - b2) * g * g
    m, v = memory["m"] / (1 - b1 ** (step + 1)), memory["v"] / (1 - b2 ** (step + 1))
    return m / (np.sqrt(v) + eps)


def lamb(step, w, g, memory, is_kernel):
    """You et al. (2020), algorithm 2."""
    r = moments(step, g, memory, eps=1e-6)
    if not is_kernel:
        return w - LR * r
    r = r + 0.01 * w
    return w - LR * norm(w) / norm(r) * r


def lion(step, w, g, memory, is_kernel):
    """Chen et al. (2023), algorithm 2."""
    m = memory.get("m", 0)
    u = np.sign(0.9 * m + 0.1 * g)
    memory["m"] = 0.99 * m + 0.01 * g
    return w - LR * (u + 0.01 * w * is_kernel)


@pytest.mark.parametrize(
    ("config", "rule"),
    [
        (Optim("lars", nesterov=False, weight_decay=0.01), lars),
        (Optim("lamb", weight_decay=0.01), lamb),
        (Optim("lion", b2=0.99, weight_decay=0.01), lion),
    ],
)
def test_agrees_with_the_papers_equations(config, rule):
    same(run(config)[0], simulate(rule))


def test_muon_orthogonalises_the_kernels_of_convolutions():
    """The update is the polar factor of the gradient as (h * w * i, o), of AdamW's size."""
    got, _ = run(Optim("muon", momentum=0.95, nesterov=False), steps=1)
    grads, start = by_path(gradients(0)), by_path(PARAMS)
    for name in ("conv1/kernel", "fc1/kernel"):
        matrix = grads[name].reshape(-1, grads[name].shape[-1])
        u, _, vt = np.linalg.svd(matrix, full_matrices=False)
        size = 0.2 * np.sqrt(max(matrix.shape))
        step = (start[name] - got[name]).reshape(matrix.shape) / (LR * size)
        singular = np.linalg.svd(step, compute_uv=False)
        assert singular.min() > 0.65, name
        assert singular.max() < 1.25, name  # five Newton-Schulz steps do not converge further
        assert (step * (u @ vt)).sum() / norm(step) / norm(u @ vt) > 0.98, name
    for name in set(PATHS) - {"conv1/kernel", "fc1/kernel"}:
        want = start[name] - LR * moments(0, grads[name], {})
        np.testing.assert_allclose(got[name], want, rtol=1e-4, atol=1e-5, err_msg=name)


@pytest.mark.parametrize("nesterov", [True, False])
def test_muon_leaves_the_rest_to_adam_whatever_its_own_momentum(nesterov):
    def adam(step, w, g, memory, is_kernel):
        return w - LR * moments(step, g, memory)

    got, _ = run(Optim("muon", nesterov=nesterov))
    rest = set(PATHS) - {"conv1/kernel", "fc1/kernel"}
    want = simulate(adam)
    same({name: got[name] for name in rest}, {name: want[name] for name in rest})
    other, _ = run(Optim("muon", nesterov=not nesterov))
    changed = {name for name in PATHS if not np.array_equal(got[name], other[name])}
    assert changed == set(PATHS) - rest  # of the kernels as matrices, it is Nesterov's or not


@pytest.mark.parametrize("name", NAMES)
def test_weight_decay_spares_biases_and_normalisation(name):
    still = jax.tree.map(lambda p: np.zeros(p.shape, np.float32), PARAMS)
    got, _ = run(Optim(name, weight_decay=0.1), grads=still)
    for path, start in by_path(PARAMS).items():
        if path.endswith("kernel"):
            ratio = got[path] / start.astype(np.float32)
            assert 0 < ratio.mean() < 1 - 1e-5, path
            np.testing.assert_allclose(ratio, ratio.mean(), rtol=1e-4)
        else:
            np.testing.assert_array_equal(got[path], start.astype(np.float32))


def test_schedule_free_averages_and_evaluates_the_average():
    """Defazio et al. (2024), equations 1 to 3, with equal weights at a constant rate."""
    y = np.array([[1.0, -2.0], [0.5, 3.0]])
    z = x = y
    slope = np.array([[1.0, 0.2], [0.3, 0.5]])  # gradient of 1/2 sum(slope * y^2) is slope * y
    tx = optim.make_optimizer(
        Optim("sgd", momentum=0.9, schedule_free=True), optax.constant_schedule(LR)
    )
    state = state_from({"params": {"w": jnp.asarray(y, jnp.float32)}}, tx, jnp.int32(0))
    params, opt_state = state.params, state.opt_state
    for t in range(1, 8):
        z = z - LR * slope * y
        x = (1 - 1 / t) * x + z / t
        y = 0.1 * z + 0.9 * x
        updates, opt_state = tx.update({"w": slope * params["w"]}, opt_state, params)
        params = optax.apply_updates(params, updates)
    np.testing.assert_allclose(params["w"], y, rtol=1e-5)
    after = replace(state, params=params, opt_state=opt_state)
    np.testing.assert_allclose(eval_variables(after)["params"]["w"], x, rtol=1e-4)


def scheduled(schedule, peak=0.5, spe=10, epochs=12):
    lr = optim.make_schedule(schedule, peak, steps_per_epoch=spe, epochs=epochs)
    return np.array([float(lr(t)) for t in range(spe * epochs + 1)])


@pytest.mark.parametrize(
    ("schedule", "curve"),
    [
        (Schedule("constant", 2), lambda t, s: 0.5),
        (Schedule("cosine", 2, 0.1), lambda t, s: 0.5 * (0.1 + 0.45 * (1 + np.cos(np.pi * s)))),
        (Schedule("polynomial", 2, 0.1, power=2.0), lambda t, s: 0.5 * (0.1 + 0.9 * (1 - s) ** 2)),
        (Schedule("polynomial", 0), lambda t, s: 0.5 * (1 - s)),
        (
            Schedule("step", 2, milestones=(6, 9.5), factor=0.2),
            lambda t, s: 0.5 * 0.2 ** ((t >= 60) + (t >= 95.0)),
        ),
    ],
    ids=lambda v: getattr(v, "name", ""),
)
def test_warmup_then_the_named_curve(schedule, curve):
    warmup = int(schedule.warmup_epochs * 10)
    want = [
        0.5 * t / warmup if t < warmup else curve(t, (t - warmup) / (120 - warmup))
        for t in range(121)
    ]
    np.testing.assert_allclose(scheduled(schedule), want, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize(
    ("milestones", "reached"),
    [
        ((3.0, 3.001), (30, 30)),
        ((3.0, 3.001, 3.002, 5), (30, 30, 30, 50)),
        ((3.0, 13, 1e38), (30,)),
        ((11.99, 12), (120, 120)),
    ],
)
def test_milestones_on_the_same_step_each_count(milestones, reached):
    found = scheduled(Schedule("step", 0, milestones=milestones, factor=0.5))
    want = [0.5 * 0.5 ** sum(t >= step for step in reached) for t in range(121)]
    np.testing.assert_allclose(found, want, rtol=1e-6)


def test_one_cycle_agrees_with_pytorch():
    torch = pytest.importorskip("torch", reason="torch is the reference")
    # PyTorch's peak is one step before pct_start of its total, and its end one step before it.
    parameter = torch.nn.Parameter(torch.zeros(1))
    sgd = torch.optim.SGD([parameter], lr=1.0)
    theirs = torch.optim.lr_scheduler.OneCycleLR(
        sgd, 0.5, total_steps=121, pct_start=31 / 121, div_factor=25, final_div_factor=4
    )
    want = [theirs.get_last_lr()[0]]
    for _ in range(120):
        sgd.step()
        theirs.step()
        want.append(theirs.get_last_lr()[0])
    np.testing.assert_allclose(scheduled(Schedule("one_cycle", 3, 0.01)), want, rtol=1e-4)


def test_frozen_parameters_have_no_update_and_no_state():
    config = Optim("adamw", weight_decay=0.1, freeze=("conv1", "norm.*", "fc2/bias"))
    got, state = run(config)
    start = by_path(PARAMS)
    frozen = {"conv1/bias", "conv1/kernel", "norm1/bias", "norm1/scale", "fc2/bias"}
    for name in PATHS:
        same_bits = (got[name] == start[name].astype(np.float32)).all()
        assert same_bits == (name in frozen), name
    trained = sum(start[name].size for name in set(PATHS) - frozen)
    numbers = sum(np.size(leaf) for leaf in jax.tree.leaves(state))
    assert 2 * trained <= numbers < 2 * trained + 10  # two moments and a few counters
    assert optim.frozen_paths(Optim(head_only=True), LAYOUT) == set(PATHS) - LAYOUT.head


@pytest.mark.parametrize("name", NAMES)
def test_every_optimizer_trains_what_is_not_frozen(name):
    got, _ = run(Optim(name, freeze=("conv1",), clip_norm=1.0, layer_decay=0.5), steps=2)
    start = by_path(PARAMS)
    for path in PATHS:
        moved = np.abs(got[path] - start[path]).max() > 1e-5
        assert moved == (not path.startswith("conv1")), path
        assert np.isfinite(got[path]).all()


@pytest.mark.parametrize(
    ("freeze", "said"),
    [
        (("conv",), "optim.freeze='conv': must match a parameter; the network's groups are conv1,"),
        (("fc2", "kernel"), "optim.freeze='kernel'"),
        ((".*",), "must leave a parameter to train"),
    ],
)
def test_patterns_that_match_nothing_or_all_are_refused(freeze, said):
    with pytest.raises(InputError) as error:
        optim.frozen_paths(Optim(freeze=freeze), LAYOUT)
    assert said in str(error.value)


def test_layer_decay_slows_the_layers_before_the_last():
    plain = Optim("sgd", momentum=0.0, nesterov=False)
    whole, _ = run(plain, steps=1)
    scaled, _ = run(Optim("sgd", momentum=0.0, nesterov=False, layer_decay=0.5), steps=1)
    start = by_path(PARAMS)
    for name in PATHS:
        factor = 0.5 ** (4 - LAYOUT.modules.index(name.split("/")[0]))
        want = start[name] + factor * (whole[name] - start[name])
        np.testing.assert_allclose(scaled[name], want, atol=1e-6)


@pytest.mark.parametrize(
    ("name", "first", "last", "head"),
    [
        ("lenet5", ["conv1", "conv2", "fc1"], "fc3", {"fc3/kernel", "fc3/bias"}),
        ("resnet20", ["conv1"], "fc", {"fc/kernel", "fc/bias"}),
        ("squeezenet1_1", ["features_0"], "classifier_1", None),
        ("convnext_tiny", ["features_0_0", "features_0_1"], "classifier_2", None),
        ("unet", ["stage1", "stage2"], "head", None),
    ],
)
def test_the_layout_of_a_network(name, first, last, head):
    model = models.create_model(name, num_classes=7)
    layout = optim.layout_of(model, models.standard_input(name))
    assert list(layout.modules[: len(first)]) == first
    assert layout.modules[-1] == last
    assert layout.head == (head or {f"{last}/kernel", f"{last}/bias"})
    assert {path.split("/")[0] for path in layout.paths} == set(layout.modules)
