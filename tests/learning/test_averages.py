"""Stochastic weight averaging against PyTorch's, on the same numbers."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcnn import models
from jaxcnn.config import Schedule, Train
from jaxcnn.layers import BatchNorm, Conv
from jaxcnn.learning import averages
from jaxcnn.learning.averages import Averaging

RNG = np.random.default_rng(0)
STEPS, EPOCH = 24, 4


@pytest.mark.parametrize(
    ("train", "averaged"),
    [
        (Train(swa_start=3), [16, 20, 24]),
        (Train(swa_start=2.5), [12, 16, 20, 24]),
        (Train(swa_start=0), [4, 8, 12, 16, 20, 24]),
        (Train(swa_start=4.5, swa_every=3), [21, 24]),
        (Train(swa_start=3, swa_every=1), list(range(13, 25))),
    ],
)
def test_the_averages_are_those_of_pytorch(train, averaged):
    swa_utils = pytest.importorskip("torch.optim.swa_utils")
    import torch

    weights = RNG.normal(size=(STEPS + 1, 5)).astype(np.float32)
    module = torch.nn.Linear(5, 1, bias=False)
    theirs = swa_utils.AveragedModel(module)
    averaging = averages.averaging_of(train, EPOCH)
    assert averaging is not None
    mean = jnp.asarray(weights[0])
    update = jax.jit(averaging.update)
    for step in range(1, STEPS + 1):
        mean = update(mean, weights[step], jnp.int32(step))
        if step in averaged:
            module.weight.data[:] = torch.from_numpy(weights[step])
            theirs.update_parameters(module)
        assert max(averaging.number(step), 0) == sum(at <= step for at in averaged)
        expected = (
            theirs.module.weight.detach().numpy()[0] if step >= averaged[0] else weights[step]
        )
        np.testing.assert_allclose(mean, expected, rtol=1e-6, atol=1e-7)
    np.testing.assert_allclose(mean, weights[averaged].mean(0), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("anneal", ["cosine", "linear"])
@pytest.mark.parametrize("epochs", [0.0, 1.0, 2.5])
def test_the_learning_rate_is_that_of_pytorch(anneal, epochs):
    swa_utils = pytest.importorskip("torch.optim.swa_utils")
    import torch

    averaging = Averaging(8, 8, EPOCH)
    schedule = Schedule(swa_lr=0.05, swa_anneal=anneal, swa_anneal_epochs=epochs)
    rate = averaging.rate(lambda step: 0.4 - 0.02 * step, schedule, EPOCH)
    before = [float(rate(step)) for step in range(8)]
    np.testing.assert_allclose(before, 0.4 - 0.02 * np.arange(8), rtol=1e-6)
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=0.4 - 0.02 * 8)
    strategy = {"cosine": "cos", "linear": "linear"}[anneal]
    theirs = swa_utils.SWALR(
        optimizer, swa_lr=0.05, anneal_epochs=round(epochs * EPOCH), anneal_strategy=strategy
    )
    for step in range(8, STEPS):
        assert float(rate(step)) == pytest.approx(optimizer.param_groups[0]["lr"], rel=1e-5), step
        optimizer.step()
        theirs.step()


def test_a_cycle_falls_to_the_rate_at_which_weights_are_averaged():
    """Izmailov et al. (2018), section 3.2: with iteration i = 1, 2, ... of the phase."""
    averaging = averages.averaging_of(Train(swa_start=2, swa_every=5), EPOCH)
    assert averaging is not None
    rate = averaging.rate(lambda step: 9.0, Schedule(swa_lr=0.01, swa_cycle_lr=0.06), EPOCH)
    for i in range(1, 17):
        t = ((i - 1) % 5 + 1) / 5
        assert float(rate(8 + i - 1)) == pytest.approx((1 - t) * 0.06 + t * 0.01, rel=1e-5)
        if t == 1:
            assert averaging.number(8 + i) - averaging.number(8 + i - 1) == 1


class Net(nn.Module):
    """Two convolutions, whose normalisations keep different shares of the old statistics."""

    @nn.compact
    def __call__(self, x, *, train=False, endpoints=False):
        x = Conv(4, 3, use_bias=False, name="conv1")(x)
        x = nn.relu(BatchNorm(0.9, name="norm1")(x, train=train))
        x = Conv(6, 3, use_bias=False, name="conv2")(x)
        x = BatchNorm(0.99, name="norm2")(x, train=train)
        return (x, {}) if endpoints else x


def test_the_statistics_are_those_of_pytorch():
    swa_utils = pytest.importorskip("torch.optim.swa_utils")
    import torch

    batches = RNG.normal(size=(4, 8, 8, 8, 2)).astype(np.float32)
    variables = Net().init(jax.random.key(0), batches[0])
    old = jax.tree.map(lambda a: a + 3.0, variables["batch_stats"])  # which count for nothing
    sums = averages.make_statistics(
        Net(), lambda seed, step: step, lambda arrays, seed, order, step: {"image": arrays[step]}
    )
    given = {**variables, "batch_stats": old}, jnp.int32(0), batches, 0, 4
    found = jax.tree.map(lambda a: np.asarray(a) / 4, jax.jit(sums)(*given))

    net = torch.nn.Sequential(
        torch.nn.Conv2d(2, 4, 3, padding=1, bias=False),
        torch.nn.BatchNorm2d(4),
        torch.nn.ReLU(),
        torch.nn.Conv2d(4, 6, 3, padding=1, bias=False),
        torch.nn.BatchNorm2d(6),
    )
    for name, place in (("conv1", 0), ("conv2", 3)):
        kernel = np.array(variables["params"][name]["kernel"]).transpose(3, 2, 0, 1)
        net[place].weight.data = torch.from_numpy(kernel.copy())
    swa_utils.update_bn([torch.from_numpy(b.transpose(0, 3, 1, 2).copy()) for b in batches], net)
    for name, place in (("norm1", 1), ("norm2", 4)):
        for ours, theirs in (("mean", "running_mean"), ("var", "running_var")):
            expected = getattr(net[place], theirs)
            np.testing.assert_allclose(found[name][ours], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["resnet20", "airbench"])
def test_networks_with_rules_of_their_own_for_gradients_have_statistics(name):
    """Their convolutions, pools and recomputed blocks have no forward mode, which nothing needs."""
    model = models.create_model(
        name, num_classes=3, **{"remat": True} if name != "airbench" else {}
    )
    images = jax.ShapeDtypeStruct((2, 32, 32, 3), jnp.float32)
    variables = jax.eval_shape(lambda x: model.init(jax.random.key(0), x, train=False), images)
    sums = averages.make_statistics(
        model, lambda seed, step: step, lambda arrays, seed, order, step: {"image": arrays}
    )
    found = jax.eval_shape(sums, variables, jnp.int32(0), images, 0, 4)
    assert jax.tree.map(jnp.shape, found) == jax.tree.map(jnp.shape, variables["batch_stats"])
