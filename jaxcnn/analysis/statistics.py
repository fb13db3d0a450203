"""What few seeds and one test set allow to be said: intervals, paired tests, corrections.

Two kinds of chance are kept apart. Over seeds, a result varies with initialisation, order and
augmentation: intervals and tests are Student's, with the number of seeds. Over test images, the
accuracy of one trained network is uncertain because the test set is a sample: Wilson's interval
and McNemar's test. The first says what training again would give, the second what other images
of the same kind would give.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np


class Interval(NamedTuple):
    """An estimate and the bounds that hold with the stated confidence; NaN where there are none."""

    mean: float
    low: float
    high: float


class Paired(NamedTuple):
    """A mean difference, its interval, and the p-value of no difference; NaN where undefined."""

    mean: float
    low: float
    high: float
    p_value: float


ANYWHERE = (-math.inf, math.inf)
SHARE = (0.0, 1.0)
"""Where an accuracy lies."""
SHARES_APART = (-1.0, 1.0)
"""Where the difference of two accuracies lies."""
NOT_NEGATIVE = (0.0, math.inf)
"""Where a loss lies."""


def mean_interval(
    values: Sequence[float], confidence: float = 0.95, within: tuple[float, float] = ANYWHERE
) -> Interval:
    r"""Returns the mean of a normal sample and Student's interval for it.

    $$\bar x \pm t_{n-1,\,(1+c)/2}\; s / \sqrt n$$

    The interval ends where the mean cannot lie, since that part of it covers nothing. For 2 to 5
    seeds of accuracies between 50 and 99.5 %, simulated on 100 to 10,000 images, its 95 % are 93
    to 100 %. Intervals on the logit or arcsine scale hold no more exactly what they say, and are
    up to three times as wide close to 100 %.

    Args:
        values: one for each seed; at least one. A single value has no bounds, nor have values
            that are all the same: a test set of few images rounds their spread away.
        confidence: in (0, 1).
        within: the smallest and the largest number that a value can be.

    >>> [round(bound, 3) for bound in mean_interval([1.0, 2.0, 3.0])]
    [2.0, -0.484, 4.484]
    >>> [round(bound, 3) for bound in mean_interval([0.92, 0.98, 0.99], within=SHARE)]
    [0.963, 0.869, 1.0]
    """
    from scipy import stats

    if len(values) == 0:
        raise ValueError("values=[]: must hold at least one number")
    mean = float(np.mean(values))
    if _all_the_same(values):
        return Interval(mean, math.nan, math.nan)
    bounds = stats.ttest_1samp(values, 0).confidence_interval(confidence)
    low, high = np.clip(bounds, *within)
    return Interval(mean, float(low), float(high))


def _all_the_same(values: Sequence[float] | np.ndarray) -> bool:
    """Returns whether values, up to rounding, are a single number and thus without spread."""
    return len(values) < 2 or bool(np.ptp(values) <= 1e-12 * abs(np.mean(values)))


def paired_difference(
    values: Sequence[float],
    baseline: Sequence[float],
    confidence: float = 0.95,
    within: tuple[float, float] = ANYWHERE,
) -> Paired:
    r"""Tests by Student's paired test whether the mean of ``values - baseline`` is zero.

    $$t = \bar d\, \sqrt n / s_d, \qquad n - 1 \text{ degrees of freedom}$$

    A seed fixes the order of the examples and the stream of augmentation, so runs of two arms
    with the same seed share part of their chance, which the difference takes out. The test
    assumes that differences are roughly normal; unlike signed ranks or permutations, which with
    n seeds cannot give less than ``2 / 2**n`` (0.0625 with five), it can reach significance with
    three seeds.

    Args:
        values: one for each seed.
        baseline: those of the same seeds, in the same order.
        confidence: in (0, 1).
        within: the smallest and the largest number that a difference can be.

    Returns:
        Bounds and p-value are NaN for a single pair, and where all differences are the same
        number but not zero (the test has no scale to measure it by).

    >>> round(paired_difference([3.0, 5.0, 4.0], [1.0, 2.0, 3.0]).p_value, 3)
    0.074
    """
    from scipy import stats

    if len(values) != len(baseline):
        raise ValueError(f"{len(values)} values cannot be paired with {len(baseline)}")
    differences = np.subtract(values, baseline)
    mean = float(np.mean(differences))
    if _all_the_same(differences):
        equal = len(differences) > 1 and mean == 0
        return Paired(mean, math.nan, math.nan, 1.0 if equal else math.nan)
    test = stats.ttest_rel(values, baseline)
    low, high = np.clip(test.confidence_interval(confidence), *within)
    return Paired(mean, float(low), float(high), float(test.pvalue))


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjusts p-values so that calling those below alpha errs at all with probability alpha.

    The k-th smallest of m is multiplied by ``m - k + 1``, and none may fall below a smaller one
    (Holm 1979). NaN stays NaN and counts as no test.

    >>> [round(p, 3) for p in holm([0.01, 0.04, 0.03])]
    [0.03, 0.06, 0.06]
    """
    adjusted = [math.nan] * len(p_values)
    tested = sorted((p, i) for i, p in enumerate(p_values) if not math.isnan(p))
    largest = 0.0
    for rank, (p, i) in enumerate(tested):
        largest = max(largest, min(1.0, (len(tested) - rank) * p))
        adjusted[i] = largest
    return adjusted


def wilson_interval(successes: int, trials: int, confidence: float = 0.95) -> Interval:
    """Returns a proportion, such as accuracy on a test set, and Wilson's score interval for it.

    Args:
        successes: in [0, trials].
        trials: at least 1.
        confidence: in (0, 1).

    >>> [round(bound, 3) for bound in wilson_interval(95, 100)]
    [0.95, 0.888, 0.978]
    """
    from scipy import stats

    if not 0 <= successes <= trials or trials < 1:
        raise ValueError(f"{successes} of {trials}: must be at least 0 of at least 1")
    found = stats.binomtest(successes, trials).proportion_ci(confidence, method="wilson")
    return Interval(successes / trials, float(found.low), float(found.high))


def mcnemar(right: np.ndarray, baseline_right: np.ndarray) -> float:
    """Tests by McNemar's exact test whether two networks err equally often on the same images.

    Only images on which exactly one is right count; under no difference each goes either way
    with probability 1/2.

    Args:
        right: for each image, whether one network is right.
        baseline_right: for each image, whether the other is.

    Returns:
        The two-sided p-value.

    >>> mcnemar(np.array([True] * 6), np.array([False] * 6))
    0.03125
    """
    from scipy import stats

    won = int(np.sum(right & ~baseline_right))
    lost = int(np.sum(baseline_right & ~right))
    return float(stats.binomtest(won, won + lost).pvalue) if won + lost else 1.0
