"""Simulated data, where the truth is known."""

import math

import numpy as np
import pytest
from scipy import stats

from jaxcnn.analysis.statistics import (
    NOT_NEGATIVE,
    SHARE,
    SHARES_APART,
    holm,
    mcnemar,
    mean_interval,
    paired_difference,
    wilson_interval,
)

REPEATS = 2000


def rates(hits):
    """Bounds in which a count of ``REPEATS`` fair trials lies in all but one case in 100,000."""
    low, high = stats.binom.interval(1 - 1e-5, REPEATS, hits)
    return low / REPEATS, high / REPEATS


def within(observed, expected):
    low, high = rates(expected)
    return low <= observed <= high


@pytest.mark.parametrize("seeds", [2, 3, 5])
@pytest.mark.parametrize("confidence", [0.95, 0.8])
def test_the_interval_covers_the_true_mean_as_often_as_it_says(seeds, confidence):
    rng = np.random.default_rng(seeds)
    found = [mean_interval(x, confidence) for x in rng.normal(0.9, 0.01, (REPEATS, seeds))]
    assert within(np.mean([i.low <= 0.9 <= i.high for i in found]), confidence)


@pytest.mark.parametrize("seeds", [2, 3, 5])
@pytest.mark.parametrize(("rate", "images"), [(0.5, 100), (0.97, 360), (0.995, 10_000)])
def test_the_interval_of_an_accuracy_covers_it_and_ends_at_all_of_the_images(seeds, rate, images):
    """Over seeds the rate is a beta variate of known mean, and skew as those close to 1 are."""
    rng = np.random.default_rng(seeds)
    strength = 50 / (1 - rate)
    rates = rng.beta(strength * rate, strength * (1 - rate), (REPEATS // 4, seeds))
    top1 = rng.binomial(images, rates) / images
    found = [mean_interval(x, within=SHARE) for x in top1 if np.ptp(x)]
    assert 0.9 < np.mean([i.low <= rate <= i.high for i in found]) <= 1
    assert all(0 <= i.low <= i.mean <= i.high <= 1 for i in found)
    free = [mean_interval(x) for x in top1 if np.ptp(x)]
    covering = [[i.low <= rate <= i.high for i in intervals] for intervals in (found, free)]
    assert covering[0] == covering[1]  # what is cut off covers nothing


def test_intervals_end_where_the_mean_cannot_lie():
    assert mean_interval([0.76, 1.0], within=SHARE).high == 1
    assert mean_interval([0.0, 0.2], within=SHARE) == pytest.approx((0.1, 0, 1))
    assert mean_interval([0.0, 0.2], within=NOT_NEGATIVE).low == 0
    assert paired_difference([1.0, 0.5], [0.0, 0.1], within=SHARES_APART)[1:3] == (-1, 1)
    assert math.isnan(mean_interval([1.0, 1.0], within=SHARE).high)


@pytest.mark.parametrize("seeds", [3, 5])
def test_equal_arms_differ_at_the_stated_rate(seeds):
    """Also where a seed's own luck is ten times what the arms add to it."""
    rng = np.random.default_rng(seeds)
    luck = rng.normal(0.9, 0.1, (REPEATS, seeds))
    a, b = (luck + rng.normal(0, 0.01, luck.shape) for _ in range(2))
    found = [paired_difference(x, y) for x, y in zip(a, b, strict=True)]
    assert within(np.mean([f.p_value < 0.05 for f in found]), 0.05)
    assert within(np.mean([f.low <= 0 <= f.high for f in found]), 0.95)


def test_pairing_finds_what_the_luck_of_seeds_would_hide():
    rng = np.random.default_rng(0)
    luck = rng.normal(0.9, 0.1, (200, 5))
    better = luck + 0.05 + rng.normal(0, 0.005, luck.shape)
    paired = [paired_difference(x, y).p_value < 0.05 for x, y in zip(better, luck, strict=True)]
    assert np.mean(paired) > 0.99
    assert np.mean(stats.ttest_ind(better, luck, axis=1).pvalue < 0.05) < 0.3


@pytest.mark.slow
def test_several_equal_arms_raise_one_false_alarm_in_twenty():
    """Four arms against one baseline: Holm keeps what no correction would triple."""
    rng = np.random.default_rng(1)
    alarms, uncorrected = [], []
    for x in rng.normal(0.9, 0.01, (REPEATS, 5, 4)):
        p = [paired_difference(arm, x[0]).p_value for arm in x[1:]]
        alarms.append(min(holm(p)) < 0.05)
        uncorrected.append(min(p) < 0.05)
    assert np.mean(alarms) <= rates(0.05)[1]
    assert np.mean(uncorrected) > 1.5 * 0.05


def test_holm_spares_true_differences_more_than_bonferroni():
    assert holm([0.01, 0.02, 0.03, 0.5]) == pytest.approx([0.04, 0.06, 0.06, 0.5])
    assert holm([]) == []
    with_nan = holm([0.02, math.nan, 0.03])
    assert with_nan[0] == with_nan[2] == pytest.approx(0.04)
    assert math.isnan(with_nan[1])
    assert holm([0.9, 0.8]) == [1.0, 1.0]


@pytest.mark.parametrize("confidence", [0.95, 0.8])
def test_the_paired_test_is_the_formula(confidence):
    a, b = np.random.default_rng(0).normal(size=(2, 6))
    found = paired_difference(a, b, confidence)
    mean, error = np.mean(a - b), np.std(a - b, ddof=1) / math.sqrt(6)
    half = stats.t.ppf((1 + confidence) / 2, 5) * error
    assert found.p_value == pytest.approx(2 * stats.t.sf(abs(mean) / error, 5))
    assert found[:3] == pytest.approx((mean, mean - half, mean + half))
    assert mean_interval(a - b, confidence) == pytest.approx(found[:3])
    opposite = paired_difference([1.0, 2.0], [2.0, 1.0])  # by t's table, 12.706 for one degree
    assert opposite == pytest.approx((0, -12.706, 12.706, 1), abs=1e-3)


def test_what_cannot_be_tested_is_nan():
    assert math.isnan(paired_difference([0.9], [0.8]).p_value)
    assert math.isnan(paired_difference([0.9, 0.8, 0.7], [0.8, 0.7, 0.6]).p_value)
    assert paired_difference([0.9, 0.8], [0.9, 0.8]).p_value == 1
    assert math.isnan(mean_interval([0.9]).low)
    assert math.isnan(mean_interval([0.9, 0.9, 0.9]).low)  # more likely few images than no spread
    with pytest.raises(ValueError, match="3 values cannot be paired with 2"):
        paired_difference([1, 2, 3], [1, 2])


@pytest.mark.parametrize(("rate", "images"), [(0.99, 360), (0.92, 10_000), (0.5, 40)])
def test_wilson_covers_the_true_rate(rate, images):
    """Counts are whole numbers, so coverage is that of the nearest one: a little off 95 %."""
    counts = np.arange(images + 1)
    weights = stats.binom.pmf(counts, images, rate)
    likely = counts[weights > 1e-6]
    covered = [wilson_interval(int(k), images) for k in likely]
    mass = sum(weights[k] for k, i in zip(likely, covered, strict=True) if i.low <= rate <= i.high)
    assert 0.93 < mass < 0.98


def test_mcnemar_calls_equal_networks_different_at_most_at_the_stated_rate():
    rng = np.random.default_rng(0)
    hard = rng.random((500, 400)) < 0.2  # images that both find hard
    a, b = (~(hard & (rng.random(hard.shape) < 0.5)) for _ in range(2))
    alarms = np.mean([mcnemar(x, y) < 0.05 for x, y in zip(a, b, strict=True)])
    assert 0.01 < alarms < 0.08
    assert mcnemar(np.ones(9, bool), np.ones(9, bool)) == 1
