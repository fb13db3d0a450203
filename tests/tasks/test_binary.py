"""Binary cross-entropy for classes against PyTorch's and timm's, and what else it changes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcnn import tasks
from jaxcnn.config import Task
from jaxcnn.errors import InputError
from jaxcnn.tasks.losses import binary_cross_entropy

RNG = np.random.default_rng(0)
LOGITS = RNG.normal(scale=4, size=(6, 7)).astype(np.float32)
LABELS = RNG.integers(0, 7, 6).astype(np.int32)
LAM = 0.85
MIXED = (LAM * np.eye(7)[LABELS] + (1 - LAM) * np.eye(7)[np.roll(LABELS, -1)]).astype(np.float32)


def ours(target, **options):
    loss, gradient = jax.value_and_grad(
        lambda x: binary_cross_entropy(x, target, **options).mean()
    )(jnp.asarray(LOGITS))
    return float(loss), np.asarray(gradient)


def theirs(loss, target):
    import torch

    logits = torch.tensor(LOGITS, requires_grad=True)
    value = loss(logits, torch.tensor(target))
    value.backward()
    return value.item(), logits.grad.numpy()


def same(found, wanted):
    np.testing.assert_allclose(found[0], wanted[0], rtol=1e-5)
    np.testing.assert_allclose(found[1], wanted[1], rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("target", [np.eye(7, dtype=np.float32)[LABELS], MIXED])
def test_it_is_pytorchs(torchvision, target):
    import torch

    same(ours(target), theirs(torch.nn.functional.binary_cross_entropy_with_logits, target))


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("threshold", [None, 0.0, 0.2])
@pytest.mark.parametrize("mixed", [False, True])
def test_it_is_timms(torchvision, smoothing, threshold, mixed):
    """Whose targets are smoothed before they are mixed, which is the same."""
    loss = pytest.importorskip("timm.loss").BinaryCrossEntropy
    target = MIXED * (1 - smoothing) + smoothing / 7 if mixed else LABELS.astype(np.int64)
    wanted = theirs(loss(smoothing, threshold), target)
    given = MIXED if mixed else LABELS
    same(ours(given, smoothing=smoothing, threshold=threshold), wanted)


def test_both_classes_of_a_mixed_image_count_from_the_threshold_on():
    batch = {"label": jnp.asarray(LABELS), "target": jnp.asarray(MIXED)}
    for threshold, there in ((0.0, MIXED > 0), (0.2, MIXED > 0.2), (-1.0, MIXED)):
        task = tasks.build(Task(options={"criterion": "binary", "threshold": threshold}))
        s = 1 / (1 + np.exp(-LOGITS.astype(np.float64)))
        wanted = -(there * np.log(s) + (1 - there) * np.log(1 - s)).mean(axis=1)
        np.testing.assert_allclose(task.loss(jnp.asarray(LOGITS), batch), wanted, rtol=1e-5)


def test_evaluation_gives_the_cross_entropy_as_always():
    batch = {"label": jnp.asarray(LABELS), "mask": jnp.ones(6, bool)}
    binary = tasks.build(Task(options={"criterion": "binary"}))
    usual = tasks.build(Task())
    for name, value in usual.sums(jnp.asarray(LOGITS), batch).items():
        np.testing.assert_array_equal(binary.sums(jnp.asarray(LOGITS), batch)[name], value)


@pytest.mark.parametrize(
    ("task", "options", "line"),
    [
        ("classification", {"criterion": "bce"}, "task.options.criterion='bce': must be 'cross_e"),
        ("classification", {"threshold": 0.2}, "task.options.threshold=0.2: must be a number bel"),
        ("classification", {"criterion": "binary", "threshold": 1.0}, "task.options.threshold=1.0"),
        ("classification", {"criterion": "binary", "threshold": "x"}, "task.options.threshold='x'"),
        ("regression", {"criterion": "binary"}, "task.options.criterion='binary': must be 'squar"),
        ("segmentation", {"criterion": "binary"}, "task.options.criterion='binary': segmentation"),
        ("multilabel", {"criterion": "binary"}, "task.options.criterion='binary': multilabel tak"),
    ],
)
def test_what_does_not_fit_is_refused(task, options, line):
    with pytest.raises(InputError) as error:
        tasks.build(Task(task, options))
    assert str(error.value).startswith(line)
