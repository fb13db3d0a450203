"""The network of the speedrun, its optimizer and its first layer, against NumPy and PyTorch."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from experiments import speedrun_cifar10
from jaxcnn import models
from jaxcnn.models import airbench

RNG = np.random.default_rng(0)
WIDTHS = (8, 12, 12)
torch = pytest.importorskip("torch")
from benchmarks import speedrun_torch  # noqa: E402


def colours(n, height, width, channels=3):
    """Smooth images, whose patches have eigenvalues of very different sizes."""
    drawn = RNG.normal(size=(n, height // 3 + 1, width // 3 + 1, channels))
    return drawn.repeat(3, 1).repeat(3, 2)[:, :height, :width].astype(np.float32)


@pytest.mark.parametrize(
    ("shape", "size"), [((6, 9, 11, 3), 2), ((5, 8, 8, 1), 2), ((9, 7, 10, 2), 3)]
)
def test_whitening_is_that_of_numpy(shape, size):
    x, epsilon = colours(*shape), 5e-3
    n, h, w, c = shape
    patches = np.array(
        [
            x[k, i : i + size, j : j + size].ravel()
            for k in range(n)
            for i in range(h - size + 1)
            for j in range(w - size + 1)
        ],
        np.float64,
    )
    moments, d = patches.T @ patches / len(patches), size * size * c
    init = airbench.whitening(jnp.asarray(x), epsilon)
    kernel = np.asarray(init(jax.random.key(0), (size, size, c, 2 * d))).reshape(d, 2 * d)
    filters = kernel[:, :d]
    np.testing.assert_array_equal(kernel[:, d:], -filters)
    # Eigenvectors have no sign and, where values are equal, no order: these do not depend on it.
    inverse = np.linalg.inv(moments + epsilon * np.eye(d))
    np.testing.assert_allclose(filters @ filters.T, inverse, atol=1e-3 * np.abs(inverse).max())
    values = np.linalg.eigvalsh(moments)
    spread = filters.T @ moments @ filters
    np.testing.assert_allclose(spread, np.diag(values / (values + epsilon)), atol=1e-3)


def test_whitening_is_that_of_pytorch():
    x = colours(7, 12, 12)
    ours = airbench.whitening(jnp.asarray(x))(jax.random.key(0), (2, 2, 3, 24))
    theirs = speedrun_torch.whitening(torch.tensor(x.transpose(0, 3, 1, 2)))
    a = np.asarray(ours).transpose(3, 2, 0, 1).reshape(24, -1)[:12]
    b = theirs.reshape(24, -1)[:12].numpy()
    np.testing.assert_allclose(a.T @ a, b.T @ b, rtol=1e-2, atol=1e-3 * np.abs(b.T @ b).max())


@pytest.mark.parametrize("shape", [(3, 3, 4, 9), (3, 3, 5, 5), (3, 3, 6, 4)])
def test_convolutions_begin_as_the_identity(shape):
    kernel = np.asarray(airbench.identity(jax.random.key(0), shape)).transpose(3, 2, 0, 1)
    want = torch.empty(kernel.shape)
    i = shape[2]
    torch.nn.init.dirac_(want[:i])
    np.testing.assert_array_equal(kernel[:i], want[:i])
    rest = np.abs(kernel[i:])
    assert (rest <= (9 * i) ** -0.5).all()
    assert rest.size == 0 or rest.max() > 0.9 * (9 * i) ** -0.5


def transplanted(seed=0):
    """The network of PyTorch with random weights, and variables of ours with the same."""
    torch.manual_seed(seed)
    theirs = speedrun_torch.Network(WIDTHS)
    for name, value in theirs.state_dict().items():
        if "running" in name or name.endswith("bias"):
            value.uniform_(0.5, 1.5)
        elif name.startswith(("whiten", "blocks")) and value.ndim == 4:
            value.normal_(0, (2 / value[0].numel()) ** 0.5)
    held = {k: v.numpy().copy() for k, v in theirs.state_dict().items()}

    def conv(name):
        return {"kernel": held[f"{name}.weight"].transpose(2, 3, 1, 0)}

    params = {
        "whiten": conv("whiten") | {"bias": held["whiten.bias"]},
        "head": {"kernel": held["head.weight"].T},
    }
    stats = {}
    for i in range(3):
        norms = [f"blocks.{i}.norm{j}" for j in (1, 2)]
        params[f"block{i + 1}"] = {f"conv{j}": conv(f"blocks.{i}.conv{j}") for j in (1, 2)} | {
            f"norm{j}": {"bias": held[f"{n}.bias"]} for j, n in enumerate(norms, start=1)
        }
        stats[f"block{i + 1}"] = {
            f"norm{j}": {"mean": held[f"{n}.running_mean"], "var": held[f"{n}.running_var"]}
            for j, n in enumerate(norms, start=1)
        }
    return theirs, {"params": params, "batch_stats": stats}


@pytest.mark.parametrize("train", [False, True])
def test_the_network_is_that_of_pytorch(train):
    theirs, variables = transplanted()
    ours = models.create_model("airbench", num_classes=10, widths=WIDTHS)
    x = RNG.normal(size=(4, 32, 32, 3)).astype(np.float32)
    theirs.train(train)
    with torch.no_grad():
        want = theirs(torch.tensor(x.transpose(0, 3, 1, 2))).numpy()
    got, after = jax.jit(lambda v, x: ours.apply(v, x, train=train, mutable=["batch_stats"]))(
        variables, x
    )
    np.testing.assert_allclose(got, want, atol=2e-4 * np.abs(want).max())
    state = theirs.state_dict()
    for i in range(3):
        for j in (1, 2):
            found = after["batch_stats"][f"block{i + 1}"][f"norm{j}"]
            for ours_of, theirs_of in (("mean", "running_mean"), ("var", "running_var")):
                np.testing.assert_allclose(
                    found[ours_of], state[f"blocks.{i}.norm{j}.{theirs_of}"], rtol=1e-3, atol=1e-4
                )


def test_logits_of_the_views_are_those_of_pytorch():
    from jaxcnn.config import Data
    from jaxcnn.data import views

    theirs, variables = transplanted()
    ours = models.create_model("airbench", num_classes=10, widths=WIDTHS)
    images = RNG.integers(0, 256, (3, 32, 32, 3), np.uint8)
    data = Data(mean=speedrun_torch.MEAN, std=speedrun_torch.STD)
    seen = views.make_views(data, "flip_shift")(jnp.asarray(images))
    logits = jax.lax.map(lambda x: ours.apply(variables, x), seen)
    got = logits[np.array(views.COUNTED["flip_shift"])].mean(0)
    mean, std = (np.array(v, np.float32) for v in (speedrun_torch.MEAN, speedrun_torch.STD))
    x = torch.tensor(((images / np.float32(255) - mean) / std).transpose(0, 3, 1, 2))
    theirs.eval()
    with torch.no_grad():
        want = speedrun_torch.six_views(theirs, x).numpy()
    np.testing.assert_allclose(got, want, atol=2e-4 * np.abs(want).max())


def test_the_optimizer_is_that_of_pytorch():
    """Muon and SGD over six steps of a run of eight, of which the first layer learns for three."""
    shapes = {
        ("whiten", "bias"): (24,),
        ("block1", "conv1", "kernel"): (3, 3, 5, 6),
        ("block1", "conv2", "kernel"): (3, 3, 6, 6),
        ("block1", "norm1", "bias"): (6,),
        ("head", "kernel"): (6, 10),
    }
    start = {path: RNG.normal(size=s).astype(np.float32) for path, s in shapes.items()}

    def tree(flat):
        found: dict = {}
        for path, value in flat.items():
            at = found
            for key in path[:-1]:
                at = at.setdefault(key, {})
            at[path[-1]] = jnp.asarray(value)
        return found

    def theirs_of(value):
        return torch.tensor(value.transpose(3, 2, 0, 1) if value.ndim == 4 else value)

    tx = speedrun_cifar10.muon_and_sgd(lambda step: 1 - step / 8)
    params, rates = tree(start), speedrun_torch.Rates()
    state, update = tx.init(params), jax.jit(tx.update)
    held = {path: torch.nn.Parameter(theirs_of(v)) for path, v in start.items()}
    groups = [
        (path, rates.head if path[0] == "head" else rates.biases)
        for path, v in start.items()
        if v.ndim < 4
    ]
    sgd = torch.optim.SGD(
        [{"params": [held[p]], "lr": lr, "weight_decay": rates.decay / lr} for p, lr in groups],
        momentum=0.85,
        nesterov=True,
    )
    muon = speedrun_torch.Muon([held[path] for path, v in start.items() if v.ndim == 4])
    for done in range(6):
        grads = {p: 1e-3 * RNG.normal(size=s).astype(np.float32) for p, s in shapes.items()}
        for path, grad in grads.items():
            held[path].grad = theirs_of(grad)
        left = 1 - done / 8
        for group, (path, lr) in zip(sgd.param_groups, groups, strict=True):
            group["lr"] = lr * (max(0.0, 1 - done / 3) if path[0] == "whiten" else left)
        sgd.step()
        muon.step(rates.filters * left)
        updates, state = update(tree(grads), state, params)
        params = optax.apply_updates(params, updates)
    for path in shapes:
        found = params
        for key in path:
            found = found[key]
        want = held[path].detach().numpy()
        want = want.transpose(2, 3, 1, 0) if want.ndim == 4 else want
        size = np.sqrt((want**2).mean())
        loose = 0.025 if want.ndim == 4 else 1e-5  # bfloat16 within Muon
        assert np.sqrt(((found - want) ** 2).mean()) < loose * size, path


def test_muon_makes_singular_values_alike():
    kernel = jnp.asarray(RNG.normal(size=(3, 3, 5, 12)), jnp.float32)
    for shape in (kernel.shape, (1, 1, 4, 12)):
        x = kernel.ravel()[: np.prod(shape)].reshape(shape)
        found = np.asarray(speedrun_cifar10.orthogonalised(x)).reshape(-1, 12)
        values = np.linalg.svd(found, compute_uv=False)
        assert 0.3 < values.min() <= values.max() < 1.4
        # The polynomial changes singular values alone: both have the same singular vectors.
        product = np.asarray(x).reshape(-1, 12).T @ found
        np.testing.assert_allclose(product, product.T, atol=0.03 * np.abs(product).max())
