"""Calibration on data whose truth is known: drawn from the probabilities themselves, or bent."""

import doctest
import itertools
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import brier_score_loss, log_loss

from jaxcnn.analysis import calibration, measures, statistics
from jaxcnn.analysis.measures import Found, Measure
from jaxcnn.errors import InputError
from jaxcnn.tasks import Classification, Metric


def drawn(n, classes=5, scale=2.0, seed=0):
    """Logits, and labels drawn from their probabilities: a network that is calibrated."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(scale=scale, size=(n, classes))
    # The largest of logits with Gumbel noise is a draw from their softmax.
    return logits, (logits + rng.gumbel(size=logits.shape)).argmax(axis=1)


def kept(logits, labels):
    judged = Classification().judged(jnp.asarray(logits, jnp.float32), jnp.asarray(labels))
    return {"label": np.asarray(labels), **{k: np.asarray(v) for k, v in judged.items()}}


def loop_error(confidence, right, bounds):
    """The calibration error bin by bin, as the papers write it; a bin holds its upper bound."""
    total = 0.0
    for low, high in itertools.pairwise(bounds):
        inside = [i for i, c in enumerate(confidence) if low < c <= high]
        if inside:
            accuracy = sum(bool(right[i]) for i in inside) / len(inside)
            gap = accuracy - sum(float(confidence[i]) for i in inside) / len(inside)
            total += len(inside) / len(confidence) * abs(gap)
    return total


@pytest.mark.parametrize("bins", [1, 10, 15])
def test_the_calibration_error_is_that_of_a_loop(bins):
    confidence, right = calibration.confident(kept(*drawn(400)))
    confidence[:6] = 0, 1, 1 / bins, 0.2, 0.4, 0.6  # on the bounds too
    found = calibration.reliability(confidence, right, bins)
    bounds = np.linspace(0, 1, bins + 1)
    bounds[0] = -1
    assert found.error == pytest.approx(loop_error(confidence, right, bounds))
    assert found.counts.sum() == 400
    ordered = np.sort(confidence)
    parts = np.array_split(ordered, bins)
    edges = [-1, *(part[-1] for part in parts)]
    split = calibration.reliability(confidence, right, bins, mass=True)
    if bins == 10:  # which divides 400: every bin is as large as the others
        assert (split.counts == 40).all()
        assert split.error == pytest.approx(loop_error(confidence, right, edges))
    assert np.ptp(split.counts) <= 1


def test_images_of_one_confidence_share_a_bin():
    confidence = np.array([1.0] * 50 + [0.5] * 3)
    assert len(set(calibration.equal_mass(confidence)[:50])) == 1
    right = np.random.default_rng(0).random(53) < 0.7
    orders = [np.random.default_rng(i).permutation(53) for i in range(5)]
    for figure in (
        lambda c, r: calibration.reliability(c, r, mass=True).error,
        lambda c, r: calibration.risks(c, r).mean(),
    ):
        assert len({round(float(figure(confidence[o], right[o])), 12) for o in orders}) == 1


def test_the_error_of_a_calibrated_network_is_chance_and_vanishes_with_more_images():
    found = []
    for n in (500, 5_000, 50_000):
        one = kept(*drawn(n))
        confidence, right = calibration.confident(one)
        error = calibration.reliability(confidence, right).error
        chance = calibration.by_chance(confidence, draws=200)
        assert np.quantile(chance, 0.005) < error < np.quantile(chance, 0.995)
        assert calibration.reliability(confidence, right, mass=True).error < 2 * chance.max()
        found.append(chance.mean())
    # It falls as 1 / sqrt(n).
    assert found[0] / found[2] == pytest.approx(10, rel=0.15)


def test_a_known_overconfidence_is_found():
    """Whose answers are right by 0.1 less often than they say."""
    rng = np.random.default_rng(0)
    confidence = rng.uniform(0.3, 1, 200_000)
    right = rng.random(200_000) < confidence - 0.1
    for mass in (False, True):
        found = calibration.reliability(confidence, right, mass=mass)
        assert found.error == pytest.approx(0.1, abs=0.005)
        filled = found.counts > 0
        gap = (found.confidence - found.accuracy)[filled]
        assert gap == pytest.approx(np.full(filled.sum(), 0.1), abs=0.03)


def test_the_error_is_the_sum_of_the_images_parts():
    one = kept(*drawn(300))
    whole = calibration.reliability(*calibration.confident(one)).error
    assert statistics.of_parts(calibration.gaps(one)) == pytest.approx(whole)


@pytest.mark.parametrize("scale", [0.5, 2.0, 30.0])
def test_likelihood_and_brier_score_are_those_of_scikit_learn(scale):
    logits, labels = drawn(500, scale=scale)
    one = kept(logits, labels)
    p = np.exp(logits - logits.max(axis=1, keepdims=True))
    p /= p.sum(axis=1, keepdims=True)
    found = {m.name: figure(one) for m, figure in calibration.FIGURES.items()}
    assert found["nll"] == pytest.approx(log_loss(labels, p, labels=range(5)), rel=1e-5)
    each = [brier_score_loss(labels == k, p[:, k]) for k in range(5)]
    assert found["brier"] == pytest.approx(sum(each), rel=1e-5, abs=1e-7)
    assert found["top1"] == np.mean(p.argmax(axis=1) == labels)


def test_of_the_wrongest_answers_the_likelihood_is_finite_and_exact():
    one = kept(np.array([[0.0, 500.0]]), np.array([0]))
    assert one["label_probability"] == 0  # rounded
    assert calibration.negative_log_likelihoods(one) == 500
    assert calibration.brier_scores(one) == 2


def test_risks_are_those_of_all_orders_of_equal_confidences():
    confidence = np.array([0.9, 0.5, 0.7, 0.5, 0.7, 0.5])
    right = np.array([False, False, True, True, True, False])  # the surest one is wrong
    curves = []
    for order in itertools.permutations(range(6)):
        if all(confidence[a] >= confidence[b] for a, b in itertools.pairwise(order)):
            wrong = [not right[i] for i in order]
            curves.append([sum(wrong[:k]) / k for k in range(1, 7)])
    assert len(curves) == 2 * 6
    found = calibration.risks(confidence, right)
    assert found == pytest.approx(np.mean(curves, axis=0))
    assert calibration.accuracy_at(0.5, confidence, right) == pytest.approx(1 - found[2])
    assert calibration.accuracy_at(1.0, confidence, right) == pytest.approx(right.mean())
    curve = calibration.coverage_curve(
        {"probability": confidence, "predicted": np.zeros(6), "label": 1 - right}
    )
    assert curve[100] == pytest.approx(right.mean())
    assert curve[1] == 0


@pytest.mark.parametrize("true", [0.4, 1.0, 1.7, 5.0])
def test_a_known_temperature_is_found_within_its_standard_error(true):
    scores = []
    for seed in range(40):
        logits, labels = drawn(400, seed=seed)
        found = calibration.fit_temperature(true * logits, labels)
        scores.append((found.temperature - true) / found.standard_error)
        assert found.nll_after <= found.nll_before
    # Both the temperature and its error are right: the scores are standard normal.
    assert abs(np.mean(scores)) < 4 / np.sqrt(40)
    assert 0.7 < np.std(scores) < 1.35


def test_no_temperature_near_by_is_better():
    logits, labels = drawn(300)
    found = calibration.fit_temperature(3 * logits, labels)

    def loss(temperature):
        return float(-jax.nn.log_softmax(3 * logits / temperature)[np.arange(300), labels].mean())

    assert found.nll_before == pytest.approx(loss(1.0), rel=1e-5)
    assert found.nll_after == pytest.approx(loss(found.temperature), rel=1e-5)
    near = [loss(found.temperature * (1 + step)) for step in (-0.02, 0.02)]
    assert min(near) > found.nll_after


@pytest.mark.parametrize(
    ("logits", "labels", "why"),
    [
        (np.eye(4), np.arange(4), "all of the 4 examples are predicted rightly"),
        (np.eye(4), (np.arange(4) + 1) % 4, "suit none"),
        (np.zeros((4, 3)), np.zeros(4, int), "predicted rightly"),
    ],
)
def test_a_temperature_that_is_not_there_is_refused(logits, labels, why):
    with pytest.raises(InputError, match=why):
        calibration.fit_temperature(logits, labels)


# ----------------------------------------------------------------------------- intervals and tests


def test_bootstrap_intervals_hold_means():
    held = 0
    for seed in range(100):
        values = np.random.default_rng(seed).exponential(size=(200, 1))
        found = statistics.parts_interval(values)
        held += found.low <= 1 <= found.high
        assert found.mean == pytest.approx(values.mean())
    assert 88 <= held <= 100
    constant = statistics.parts_interval(np.full((50, 1), 0.3))
    assert constant.mean == pytest.approx(0.3)
    assert np.isnan(constant.low)
    assert statistics.parts_interval(np.eye(2)[[0] * 99 + [1]][:, 1:], (0, 1)).low == 0


def test_the_randomization_test_is_that_of_scipy():
    rng = np.random.default_rng(0)
    for shift in (0.0, 0.3, 0.6):
        a, b = rng.gamma(2, size=(2, 40))
        a = a + shift
        found = statistics.parts_difference(a[:, None], b[:, None])
        exact = stats.permutation_test(
            (a, b),
            lambda x, y: x.mean() - y.mean(),
            permutation_type="samples",
            n_resamples=20_000,
            rng=np.random.default_rng(1),
        )
        assert found.mean == pytest.approx(exact.statistic)
        assert found.p_value == pytest.approx(exact.pvalue, abs=0.035)
        assert found.low < found.mean < found.high


def test_the_randomization_test_swaps_whole_calibration_errors():
    """Against a loop over all swaps of eight images."""
    one, other = (calibration.gaps(kept(*drawn(8, seed=seed))) for seed in (0, 1))

    def difference(swapped):
        mask = np.array(swapped)[:, None]
        sides = np.where(mask, other, one), np.where(mask, one, other)
        a, b = (np.abs(side.mean(axis=0)).sum() for side in sides)
        return a - b

    each = [abs(difference(s)) for s in itertools.product((False, True), repeat=8)]
    exact = np.mean(np.array(each) >= each[0] - 1e-12)
    assert statistics.parts_difference(one, other).p_value == pytest.approx(exact, abs=0.04)


def test_figures_of_a_draw_are_those_of_the_images_written_out():
    """Also where many share a confidence, and where a draw lacks most of them."""
    rng = np.random.default_rng(0)
    for seed, rounded in enumerate((None, 2, 1, 0)):
        one = kept(*drawn(300, seed=seed))
        if rounded is not None:
            one["probability"] = one["probability"].round(rounded)
        images = calibration.Images(one)
        order = np.argsort(-one["probability"], kind="stable")
        few = np.bincount(rng.integers(9, size=300), minlength=300)[rng.permutation(300)]
        for counts in (np.ones(300, int), rng.multinomial(300, np.full(300, 1 / 300)), few):
            written = {name: np.repeat(one[name][order], counts) for name in calibration.FIELDS}
            draw = calibration.Draw(images, counts)
            for metric, figure in calibration.DRAWN.items():
                expected = calibration.FIGURES[metric](written)
                assert figure(draw) == pytest.approx(expected, abs=1e-12), metric.title


def test_shares_of_right_answers_have_wilsons_interval():
    logits, _ = drawn(200)
    one = kept(logits, logits.argmax(axis=1))  # all are right: no draw would differ
    found = calibration.figures(one, [*calibration.COVERAGES])
    for (metric, share), interval in zip(
        calibration.COVERAGES.items(), found.values(), strict=True
    ):
        number = round(200 * share)
        assert interval == pytest.approx(statistics.wilson_interval(number, number)), metric
    assert np.isnan(calibration.figures(one, [calibration.AURC])[calibration.AURC].low)


def simulated(rng, images, sure):
    """Answers that are right as often as they say, and mostly if ``sure`` is large."""
    p = 0.1 + 0.9 * rng.beta(sure, 1, images)
    right = rng.random(images) < p
    losses = np.where(right, np.log(p), np.log((1 - p) / 9 * rng.uniform(0.2, 1.8, images) + 1e-9))
    squares = np.where(right, (1 - p) ** 2, 1 + p**2)
    found = {"probability": p, "label_log_probability": losses, "squared_error": squares}
    return {**found, "label": np.zeros(images, int), "predicted": np.where(right, 0, 1)}


HELD = [metric for metric in calibration.FIGURES if not metric.name.startswith("ece")]


def holding(images, sure, repeats):
    """Returns how often the interval of each figure holds what a million images give."""
    rng = np.random.default_rng(0)
    million = simulated(rng, 1_000_000, sure)
    truth = {metric: calibration.FIGURES[metric](million) for metric in HELD}
    held = dict.fromkeys(HELD, 0)
    for _ in range(repeats):
        found = calibration.figures(simulated(rng, images, sure), HELD)
        for metric, interval in found.items():
            held[metric] += interval.low <= truth[metric] <= interval.high
    return {metric.name: count / repeats for metric, count in held.items()}


def test_intervals_close_to_all_right_hold_what_they_say(monkeypatch):
    """98.5 % of 360 images, of which the surest 80 % hold two or three errors."""
    monkeypatch.setattr(statistics, "RESAMPLES", 200)
    found = holding(360, 60, 150)
    for name, share in found.items():
        assert share >= (0.8 if name == "aurc" else 0.85 if name in ("nll", "brier") else 0.91)


@pytest.mark.slow
@pytest.mark.parametrize(("images", "sure"), [(360, 20), (360, 3), (2000, 60), (2000, 7)])
def test_intervals_of_figures_hold_what_they_say(images, sure, monkeypatch):
    monkeypatch.setattr(statistics, "RESAMPLES", 300)
    found = holding(images, sure, 200)
    for name, share in found.items():
        assert share >= (0.84 if name == "aurc" else 0.88), name


@pytest.mark.slow
@pytest.mark.parametrize(("bias", "least"), [(0.0, 0.5), (0.01, 0.78), (0.03, 0.85), (0.08, 0.9)])
def test_intervals_of_calibration_errors_hold_as_often_as_is_said(bias, least):
    """As the docstring of the bootstrap says, and more often than percentiles do."""
    rng, held = np.random.default_rng(0), 0
    for _ in range(150):
        confidence = 0.1 + 0.9 * rng.beta(6, 1, 2000)
        right = rng.random(2000) < confidence - bias
        parts = np.zeros((2000, 15))
        parts[np.arange(2000), calibration.equal_width(confidence)] = right - confidence
        found = statistics.parts_interval(parts, (0, 1))
        held += found.low <= bias <= found.high
    assert held / 150 > least


# ------------------------------------------------------------------------------------- comparisons


def arm(name, values):
    """An arm whose runs hold nothing but what a measure of this test finds there."""
    runs = [SimpleNamespace(seed=s, path=f"{name}{s}", value=v) for s, v in values.items()]
    return SimpleNamespace(name=name, runs=tuple(runs))


OWN = Measure(
    Metric("own", "own", higher_is_better=False, low=0),
    "own",
    lambda run, _: None if run.value is None else Found(run.value),
)


def test_intervals_and_tests_over_seeds_are_students():
    truth, held, rejected = 0.2, 0, 0
    for seed in range(200):
        rng = np.random.default_rng(seed)
        base, other, same = rng.normal(1, 0.02, (3, 4))
        arms = [
            arm("a", dict(enumerate(base))),
            arm("b", dict(enumerate(other + truth))),
            arm("c", dict(enumerate(same))),
        ]
        first, second, third = measures.compare(OWN, arms, {})
        held += first.reached.low <= 1 <= first.reached.high
        assert first.difference is None
        p = [stats.ttest_rel(arm_, base).pvalue for arm_ in (other + truth, same)]
        assert second.difference.p_value == pytest.approx(p[0])
        low, high = sorted(p)
        expected = {low: min(1, 2 * low), high: max(high, min(1, 2 * low))}
        assert second.p_adjusted == pytest.approx(expected[p[0]])
        assert third.p_adjusted == pytest.approx(expected[p[1]])
        rejected += third.difference.low > 0 or third.difference.high < 0
        assert second.test == third.test == "paired t"
    assert 178 <= held <= 200
    assert rejected <= 20


def test_seeds_of_which_nothing_is_known_are_left_out():
    arms = [arm("a", {0: 1.0, 1: 2.0}), arm("b", {0: 3.0, 1: None}), arm("c", {5: None})]
    first, second, third = measures.compare(OWN, arms, {})
    assert first.values == (1.0, 2.0)
    assert second.values == (3.0,)
    assert np.isnan(second.reached.low)  # its images are not known
    assert second.difference.mean == 2.0
    assert np.isnan(second.p_adjusted)
    assert third is None
    assert second.test == "none"


@pytest.mark.parametrize("module", [calibration, measures])
def test_examples_in_docstrings(module):
    assert doctest.testmod(module).failed == 0
