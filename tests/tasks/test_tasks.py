"""Losses and metrics of every task against independent computations; what a task refuses."""

import inspect
import re
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn import metrics as sk

from jaxcnn import tasks
from jaxcnn.config import Task
from jaxcnn.errors import InputError
from jaxcnn.tasks import Classification, Metric, Multilabel, Regression, Segmentation

RNG = np.random.default_rng(0)
N = 50
MASK = RNG.random(N) < 0.8


def means(task, outputs, labels):
    """What the task makes of the masked examples, in two parts whose sums are added."""
    parts = [
        task.sums(
            jnp.asarray(outputs[part]),
            {"label": jnp.asarray(labels[part]), "mask": jnp.asarray(MASK[part])},
        )
        for part in (slice(20), slice(20, None))
    ]
    return task.means({name: np.asarray(parts[0][name] + parts[1][name]) for name in parts[0]})


# ------------------------------------------------------------------------------------ multilabel


def multilabel(k=6):
    labels = (RNG.random((N, k)) < np.linspace(0, 0.6, k)).astype(np.int32)  # one never occurs
    return labels, (RNG.normal(size=(N, k)) * 3 + 2 * labels).astype(np.float32)


def test_multilabel_agrees_with_scikit_learn_and_torch():
    labels, logits = multilabel()
    found = means(Multilabel(0.1), logits, labels)
    ranked = np.floor(logits[MASK] * 128) / 128
    occurs = labels[MASK].any(axis=0)
    assert not occurs[0]
    want = sk.average_precision_score(labels[MASK][:, occurs], ranked[:, occurs], average="macro")
    assert found["map"] == pytest.approx(want, abs=1e-12)
    # The rounding of logits hardly matters.
    exact = sk.average_precision_score(labels[MASK][:, occurs], logits[MASK][:, occurs])
    assert found["map"] == pytest.approx(exact, abs=0.01)
    torch = pytest.importorskip("torch")
    loss = torch.nn.functional.binary_cross_entropy_with_logits
    want = loss(torch.tensor(logits[MASK]), torch.tensor(labels[MASK], dtype=torch.float32))
    assert found["loss"] == pytest.approx(float(want), rel=1e-5)


def test_equal_and_broken_logits_are_not_well_ranked():
    labels, logits = multilabel()
    share = labels[MASK].mean(axis=0)[1:].mean()
    assert means(Multilabel(), np.zeros_like(logits), labels)["map"] == pytest.approx(share)
    assert means(Multilabel(), np.full_like(logits, np.nan), labels)["map"] == pytest.approx(share)


def test_smoothed_labels_move_towards_one_half():
    labels, logits = (jnp.asarray(array) for array in multilabel())
    smoothed = Multilabel(0.2).loss(logits, {"label": labels})
    want = Multilabel().loss(logits, {"label": labels, "target": 0.8 * labels + 0.1})
    np.testing.assert_allclose(smoothed, want, rtol=1e-6)


# ------------------------------------------------------------------------------------ regression


@pytest.mark.parametrize("form", [(N,), (N, 3)])
@pytest.mark.parametrize("offset", [0.0, 1e5])
def test_regression_agrees_with_scikit_learn(form, offset):
    """Also where the labels vary little beside their mean."""
    labels = (RNG.normal(size=form) * 4 + offset).astype(np.float32)
    task = Regression(**Regression().fit(lambda: labels))
    flat = labels.reshape(N, -1).astype(np.float64)
    z = (flat - flat.mean(axis=0)) / flat.std(axis=0)
    outputs = (z + 0.3 * RNG.normal(size=z.shape)).astype(np.float32)
    found = means(task, outputs, labels)
    guess = np.asarray(task.predictions(jnp.asarray(outputs)), np.float64)
    exact = outputs * flat.std(axis=0) + flat.mean(axis=0)
    np.testing.assert_allclose(guess, exact, rtol=1e-6)
    assert found["r2"] == pytest.approx(sk.r2_score(flat[MASK], exact[MASK]), abs=2e-3)
    mae = sk.mean_absolute_error(flat[MASK], exact[MASK])
    assert found["mae"] == pytest.approx(mae, rel=1e-4 if not offset else 1e-2)
    assert found["loss"] == pytest.approx(((outputs - z)[MASK] ** 2).mean() / 2, rel=1e-2)


def test_huber_is_square_inside_and_straight_outside():
    task = Regression("huber", delta=2.0)
    labels = jnp.array([0.0, 0.0, 0.0])
    loss = task.loss(jnp.array([[1.0], [2.0], [5.0]]), {"label": labels})
    np.testing.assert_allclose(loss, [0.5, 2.0, 2.0 * (5.0 - 1.0)], rtol=1e-6)


def test_equal_labels_have_no_r2_and_a_finite_scale():
    labels = np.full(N, 7.0, np.float32)
    task = Regression(**Regression().fit(lambda: labels))
    assert task.std == (1.0,)
    assert means(task, np.ones((N, 1), np.float32), labels)["r2"] == 0.0


# ---------------------------------------------------------------------------------- segmentation


def test_segmentation_agrees_with_numpy():
    classes = 4  # of which the last neither occurs nor is predicted
    labels = RNG.integers(0, 3, (N, 5, 6)).astype(np.int32)
    labels[RNG.random(labels.shape) < 0.1] = 255
    labels[RNG.random(labels.shape) < 0.1] = -1
    logits = RNG.normal(size=(N, 5, 6, classes)).astype(np.float32)
    logits[..., 3] -= 100
    found = means(Segmentation(0.1), logits, labels)

    y, predicted = labels[MASK], logits[MASK].argmax(axis=-1)
    counts = (y >= 0) & (y < classes)
    each = []
    for c in range(3):
        both = (counts & (y == c) & (predicted == c)).sum()
        either = (counts & ((y == c) | (predicted == c))).sum()
        each.append(both / either)
    assert found["iou"] == pytest.approx(np.mean(each))
    assert found["pixels"] == pytest.approx((predicted == y)[counts].mean())
    p = np.exp(logits[MASK] - np.log(np.exp(logits[MASK]).sum(axis=-1, keepdims=True)))
    own = -np.log(np.take_along_axis(p, np.where(counts, y, 0)[..., None], axis=-1)[..., 0])
    images = [own[i][counts[i]].mean() for i in range(len(y))]
    assert found["loss"] == pytest.approx(np.mean(images), rel=1e-5)


def test_an_image_without_labelled_pixels_has_no_loss_and_no_gradient():
    labels = jnp.full((1, 4, 4), 255)
    loss = jax.grad(lambda x: Segmentation().loss(x, {"label": labels}).sum())
    assert not loss(jnp.ones((1, 4, 4, 3))).any()


# ------------------------------------------------------------------------------------ all of them

LABELS = {
    "classification": np.zeros(4, np.int32),
    "multilabel": np.zeros((4, 3), np.int32),
    "regression": np.zeros((4, 3), np.float32),
    "segmentation": np.zeros((4, 8, 8), np.int32),
}


@pytest.mark.parametrize("name", tasks.TASKS)
def test_a_task_refuses_the_labels_of_others(name):
    task, names = tasks.build(Task(name)), ("a", "b", "c")
    for form, labels in LABELS.items():
        if form == name or (name, form) == ("regression", "multilabel"):
            task.check_labels(labels, names, "train")
        else:
            with pytest.raises(InputError, match=rf"task\.name='{name}': train labels must be .*"):
                task.check_labels(labels, names, "train")


@pytest.mark.parametrize(
    ("name", "labels", "said"),
    [
        ("multilabel", np.full((4, 3), 2), "0 or 1 for each of the 3 names"),
        ("multilabel", np.zeros((4, 2), int), "0 or 1 for each of the 3 names"),
        ("segmentation", np.full((4, 8, 8), 3), "below 3, the number of classes, or 255"),
        ("regression", np.zeros((4, 2)), "of shape (n, 3), one number for each of"),
    ],
)
def test_labels_that_do_not_fit_the_names_are_refused(name, labels, said):
    with pytest.raises(InputError, match=re.escape(said)):
        tasks.build(Task(name)).check_labels(labels, ("a", "b", "c"), "test")


@pytest.mark.parametrize("name", tasks.TASKS)
def test_training_sums_have_the_form_of_those_of_no_examples(name):
    task, labels = tasks.build(Task(name)), jnp.asarray(LABELS[name])
    outputs = jnp.zeros((4, *task.output_shape(("a", "b", "c"), (8, 8))))
    losses = task.loss(outputs, {"label": labels})
    assert losses.shape == (4,)
    summed = task.training_sums(outputs, {"label": labels}, losses)
    form = jax.tree.map(lambda a: (a.shape, a.dtype), summed)
    assert form == jax.tree.map(lambda a: (a.shape, a.dtype), task.zero_sums())
    whole = task.sums(outputs, {"label": labels, "mask": jnp.ones(4, bool)})
    known = task.means({k: np.asarray(v) for k, v in whole.items()})
    assert {"loss", *(metric.name for metric in task.metrics_of("abc"))} == known.keys()
    answers = task.answers(outputs)
    assert answers.shape == (4, 3)
    assert set(task.chosen(np.asarray(answers[0]), 2)) <= {0, 1, 2}


def test_views_are_averaged_as_probabilities():
    views = jnp.asarray(RNG.normal(size=(3, 4, 5)), jnp.float32)
    for task in (Classification(), Multilabel(), Regression()):
        mean = np.mean([task.predictions(view) for view in views], axis=0)
        np.testing.assert_allclose(task.predictions(task.average(views)), mean, rtol=1e-5)
    with pytest.raises(InputError, match="--tta: must be none"):
        Segmentation().average(jnp.zeros((2, 1, 4, 4, 3)))
    far = jnp.array([[[40.0]], [[80.0]]])  # whose probability is 1 in float32
    assert np.isfinite(Multilabel().average(far)).all()


def not_a_task():
    return 3


@pytest.mark.parametrize(
    ("config", "smoothing", "said"),
    [
        (Task("regression", {"bias": 1}), 0, "task.options.bias=1: regression takes criterion"),
        (Task("regression", {"mean": 1.0}), 0, "task.options.mean=1.0: regression takes criterion"),
        (Task("regression", {"criterion": "cubic"}), 0, "must be 'squared' or 'huber'"),
        (
            Task("regression", {"delta": 0}),
            0,
            "task.options.delta=0: must be a finite number above",
        ),
        (Task("regression"), 0.1, "train.label_smoothing=0.1: must be 0 with task.name='regr"),
        (
            Task("classification", {"label_smoothing": 0.1}),
            0,
            "task.options.label_smoothing=0.1: classification takes criterion, threshold",
        ),
        (Task("mine:Own"), 0, "task.name='mine:Own': was brought by a user"),
        (Task(dict), 0, "cannot be made"),
        (Task(not_a_task), 0, "must make a jaxcnn.BaseTask, made a int"),
    ],
)
def test_options_that_a_task_lacks_are_named(config, smoothing, said):
    fitted = {"mean": (0.0,), "std": (1.0,)} if config.name == "regression" else {}
    with pytest.raises(InputError, match=re.escape(said)):
        tasks.build(config, smoothing, fitted)


NAMES = "metrics must be jaxcnn.Metric with names of their own"


@pytest.mark.parametrize(
    ("metrics", "said"),
    [
        ((Metric("loss", "l"),), NAMES),
        ((Metric("a", ""), Metric("a", "")), NAMES),
        ((3,), NAMES),
        ((Metric("a b", "c"),), "name='a b': must be letters, digits and underscores"),
        ((Metric("a", "b\x00"),), "title and error of a must be printable text, hold 'b\\x00'"),
    ],
)
def test_metrics_need_names_of_their_own_and_text_that_can_be_shown(metrics, said):
    class Own(tasks.BaseTask):
        def loss(self, outputs, batch):
            return outputs[:, 0]

    Own.metrics = metrics
    with pytest.raises(InputError, match=re.escape(said)):
        tasks.build(Task(Own))


def test_an_answer_that_is_a_number_of_a_name_is_1_for_it():
    class Largest(tasks.BaseTask):
        def predictions(self, outputs):
            return outputs.argmax(-1)

    outputs = jnp.array([[0.1, 0.7, 0.2], [3.0, 1.0, 2.0]])
    np.testing.assert_array_equal(Largest().answers(outputs), [[0, 1, 0], [1, 0, 0]])


def test_the_fields_of_a_class_are_options_once_it_is_a_dataclass():
    class Focal(tasks.BaseTask):
        gamma: float = 2.0

        def loss(self, outputs, batch):
            return outputs[:, 0] ** self.gamma

    with pytest.raises(InputError, match=r"takes no options; decorate it with @dataclass\(frozen="):
        tasks.build(Task(Focal, {"gamma": 1.0}))
    assert tasks.build(Task(dataclass(frozen=True)(Focal), {"gamma": 1.0})).gamma == 1.0


def test_only_some_tasks_mix_and_distil():
    labels = jnp.zeros((4, 8, 8), jnp.int32)
    for task in (Segmentation(), tasks.BaseTask()):
        with pytest.raises(InputError, match=r"augment\.mixup, augment\.cutmix: must be 0"):
            task.soft_targets(labels, "abc")
    for task in (Segmentation(), Multilabel(), Regression()):
        with pytest.raises(InputError, match=r"train\.distill_from: must be None"):
            task.distillation(labels, labels, 1.0)


def test_shares_are_shown_in_percent_and_a_lower_error_is_better():
    share, error = Metric("a", "a", low=0, high=1), Metric("e", "e", higher_is_better=False, low=0)
    assert (share.shown(0.5), error.shown(1234.5678)) == ("50.00%", "1234.6")
    assert (share.score(0.5), error.score(0.5)) == (0.5, -0.5)
    words = [m.accepted for m in (share, error, Metric("r2", "", high=1), Metric("x", ""))]
    assert words == ["in [0, 1]", "a finite number >= 0", "a finite number <= 1", "a finite number"]


def test_the_interface_is_a_page():
    """Whoever writes a task reads all of it."""
    lines = inspect.getsource(tasks.BaseTask).splitlines()
    assert len(lines) < 150
    public = [name for name in vars(tasks.BaseTask) if not name.startswith("_")]
    assert all(getattr(getattr(tasks.BaseTask, name), "__doc__", "") for name in public)


def test_own_scores_are_summed_over_the_masked_examples():
    class Own(tasks.BaseTask):
        metrics = (Metric("far", "far off", higher_is_better=False),)

        def loss(self, outputs, batch):
            return (outputs[:, 0] - batch["label"]) ** 2

        def scores(self, outputs, batch):
            return {"far": jnp.abs(outputs[:, 0] - batch["label"]) > 1}

    labels, outputs = RNG.normal(size=N), RNG.normal(size=(N, 1))
    away = np.abs(outputs[:, 0] - labels)[MASK]
    found = means(Own(), outputs, labels)
    assert found == pytest.approx({"loss": (away**2).mean(), "far": (away > 1).mean()}, rel=1e-5)
