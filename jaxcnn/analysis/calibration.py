r"""How honest a classifier's probabilities are: figures, curves, and the temperature that helps.

A network is calibrated when, among images whose predicted class it gives the probability c, the
share c is predicted rightly. Functions here take NumPy arrays with a number for each image:
``confidence``, the probability of the predicted class in [0, 1], and ``right``, whether it is the
label.
"""

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from jaxcnn.analysis.statistics import Interval, bootstrap, wilson_interval
from jaxcnn.errors import InputError
from jaxcnn.tasks import Metric
from jaxcnn.tasks.classification import TOP1

Kept = Mapping[str, np.ndarray]
"""What :func:`jaxcnn.runs.evaluation.predict_test_set` gives: a number for each image, by name; and
:data:`CORRUPTED`, where it is known."""
CORRUPTED = "corrupted"
"""Of each test image that was corrupted, or of a subset of them, and each kind of corruption, the
share of severities at which it is answered rightly: ``(images, kinds)``."""
UNCORRUPTED = "uncorrupted"
"""Of the same images as they are, whether each is answered rightly, 0 or 1: ``(images, 1)``."""
TEMPERED = "tempered_"
"""Begins the names of the arrays that are of the same network at the temperature of its run."""

FIELDS = frozenset(("label", "predicted", "probability", "label_log_probability", "squared_error"))
"""The arrays that the figures below are made of."""
BINS = 15
"""Bins of the reliability diagram, as in Guo et al. 2017."""
LEAST, MOST = 0.01, 100.0
"""Bounds of a temperature that is fitted."""


class Reliability(NamedTuple):
    """The numbers of a reliability diagram, ``(bins,)`` each.

    Attributes:
        counts: the number of images in each bin.
        confidence: their mean confidence; NaN in an empty bin.
        accuracy: the share of them that is predicted rightly; NaN in an empty bin.
    """

    counts: np.ndarray
    confidence: np.ndarray
    accuracy: np.ndarray

    @property
    def error(self) -> float:
        r"""The expected calibration error, $\sum_b \frac{n_b}{n} |a_b - c_b|$."""
        gaps = np.abs(np.nan_to_num(self.accuracy - self.confidence))
        return float(np.dot(self.counts, gaps) / max(1, self.counts.sum()))


def edges(bins: int = BINS) -> np.ndarray:
    """Returns the bounds of bins of equal width, ``(bins + 1,)``; a bin holds its upper bound."""
    return np.linspace(0, 1, bins + 1)


def equal_width(confidence: np.ndarray, bins: int = BINS) -> np.ndarray:
    """Returns the bin of each image, ``(n,)``, where bins divide [0, 1] evenly.

    >>> equal_width(np.array([0.0, 0.5, 0.51, 1.0]), bins=2).tolist()
    [0, 0, 1, 1]
    """
    return np.maximum(np.searchsorted(edges(bins), confidence) - 1, 0)


def equal_mass(confidence: np.ndarray, bins: int = BINS) -> np.ndarray:
    """Returns the bin of each image, ``(n,)``, where each bin holds as many images as the others.

    Images of one confidence share a bin, so that their order in the data changes nothing; where
    there are many, as of networks that say 1 of most images, bins are of different sizes.

    >>> equal_mass(np.array([0.9, 0.3, 0.8, 0.7]), bins=2).tolist()
    [1, 0, 1, 0]
    """
    from scipy import stats

    ranks = stats.rankdata(confidence)  # from 1; of equal ones the mean
    return ((ranks - 0.5) * bins / max(1, len(confidence))).astype(int)


def reliability(
    confidence: np.ndarray, right: np.ndarray, bins: int = BINS, *, mass: bool = False
) -> Reliability:
    r"""Returns how confident a network is, and how often it is right, from bin to bin.

    The expected calibration error is its :attr:`Reliability.error`, with $n_b$ of the n images in
    bin b, mean confidence $c_b$ and accuracy $a_b$:

    $$\mathrm{ECE} = \sum_b \frac{n_b}{n} \, |a_b - c_b|$$

    Of few images it is too large, since chance moves every bin away from its confidence and the
    error counts that as a gap: see :func:`by_chance`.

    Args:
        confidence: ``(n,)``, the probability of the predicted class.
        right: ``(n,)`` bool, whether that is the label.
        bins: the number of bins.
        mass: makes bins of equal mass in place of equal width.

    Naeini et al., "Obtaining Well Calibrated Probabilities Using Bayesian Binning", 2015 (equal
    width); Nguyen & O'Connor, "Posterior calibration and exploratory analysis for natural language
    processing models", 2015 (equal mass); Guo et al., "On Calibration of Modern Neural Networks",
    2017.

    >>> found = reliability(np.array([0.6, 0.7, 0.9, 0.9]), np.array([True, False, True, True]))
    >>> found.counts.sum(), round(found.error, 3)
    (np.int64(4), 0.325)
    """
    place = (equal_mass if mass else equal_width)(confidence, bins)

    def totals(values: np.ndarray | None = None) -> np.ndarray:
        return np.bincount(place, values, minlength=bins)

    counts = totals()
    with np.errstate(invalid="ignore"):  # of an empty bin nothing is known
        return Reliability(counts, totals(confidence) / counts, totals(right) / counts)


def gaps(kept: Kept) -> np.ndarray:
    """Returns each image's part in the calibration error of equal width, ``(n, bins)``.

    It is ``right - confidence`` in the image's bin and 0 in the others: the error is the sum of
    the absolute values of the columns' means.
    """
    confidence, right = confident(kept)
    found = np.zeros((len(confidence), BINS))
    found[np.arange(len(confidence)), equal_width(confidence)] = right - confidence
    return found


def by_chance(confidence: np.ndarray, draws: int = 1000, seed: int = 0) -> np.ndarray:
    """Returns calibration errors that a calibrated network of these confidences has by chance.

    In each draw an image is answered rightly with the probability that the network gives. What is
    measured means little unless it lies above them (consistency resampling: Bröcker & Smith,
    "Increasing the Reliability of Reliability Diagrams", 2007).

    Args:
        confidence: ``(n,)``.
        draws: how many are drawn.
        seed: of the draws.

    Returns:
        ``(draws,)``, of bins of equal width.
    """
    rng = np.random.default_rng(seed)
    place = equal_width(confidence)
    sums = [
        np.bincount(place, (rng.random(len(place)) < confidence) - confidence, minlength=BINS)
        for _ in range(draws)
    ]
    return np.abs(sums).sum(axis=1) / max(1, len(place))


# ----------------------------------------------------------------------------- selective prediction


def risks(confidence: np.ndarray, right: np.ndarray) -> np.ndarray:
    r"""Returns the share of errors among the k most confident images, for k from 1 to n.

    $$r_k = \frac{1}{k} \sum_{i \le k} [\hat y_{(i)} \ne y_{(i)}], \qquad
      \mathrm{AURC} = \frac{1}{n} \sum_k r_k$$

    Their mean is the area under the risk-coverage curve, AURC: the lower, the better does a
    network know which images it gets wrong. Images of one confidence count with their mean error,
    which is what an order among them by chance gives on average.

    Geifman & El-Yaniv, "Selective Classification for Deep Neural Networks", 2017.

    >>> risks(np.array([0.9, 0.8, 0.7, 0.6]), np.array([True, True, False, True])).round(2).tolist()
    [0.0, 0.0, 0.33, 0.25]
    """
    _, group, counts = np.unique(-confidence, return_inverse=True, return_counts=True)
    errors = np.bincount(group, 1.0 - right) / counts
    return np.cumsum(np.repeat(errors, counts)) / np.arange(1, len(confidence) + 1)


def accuracy_at(coverage: float, confidence: np.ndarray, right: np.ndarray) -> float:
    """Returns the accuracy on the share of the images of which the network is surest.

    Args:
        coverage: the share, in (0, 1]; a fraction of an image is rounded up.
        confidence: ``(n,)``.
        right: ``(n,)`` bool.
    """
    return 1 - float(risks(confidence, right)[covered(coverage, len(confidence)) - 1])


def covered(coverage: float, images: int) -> int:
    """Returns how many images a share of them is, a fraction of an image rounded up."""
    return math.ceil(round(coverage * images, 6))  # 0.07 * 100 is more than 7


def coverage_curve(kept: Kept) -> dict[float, float]:
    """Returns accuracy by coverage in percent: at 1, 2, ... 100 %."""
    curve = 1 - risks(*confident(kept))
    shares = np.arange(1, 101)
    places = np.ceil(shares * len(curve) / 100).astype(int) - 1
    return dict(zip(shares.tolist(), curve[places].tolist(), strict=True))


# ------------------------------------------------------------------------------ figures of a split


def confident(kept: Kept) -> tuple[np.ndarray, np.ndarray]:
    """Returns for each image the confidence and whether it is predicted rightly."""
    return kept["probability"].astype(np.float64), kept["predicted"] == kept["label"]


def negative_log_likelihoods(kept: Kept) -> np.ndarray:
    r"""Returns $-\log p_y$ of each image, in nats, whose mean is the NLL and the test loss."""
    return -kept["label_log_probability"].astype(np.float64)


def brier_scores(kept: Kept) -> np.ndarray:
    r"""Returns $\sum_k (p_k - [k = y])^2$ of each image, whose mean is the Brier score, in [0, 2].

    Brier, "Verification of forecasts expressed in terms of probability", 1950.
    """
    return kept["squared_error"].astype(np.float64)


NLL = Metric("nll", "NLL", higher_is_better=False, low=0)
BRIER = Metric("brier", "Brier score", higher_is_better=False, low=0, high=2)
ECE = Metric("ece", "ECE", higher_is_better=False, low=0, high=1)
ECE_MASS = Metric("ece_mass", "ECE, equal mass", higher_is_better=False, low=0, high=1)
AURC = Metric("aurc", "AURC", higher_is_better=False, low=0, high=1)
COVERAGES = {
    TOP1: 1.0,
    Metric(f"{TOP1.name}_at_90", f"{TOP1.title}, surest 90 %", low=0, high=1): 0.9,
    Metric(f"{TOP1.name}_at_80", f"{TOP1.title}, surest 80 %", low=0, high=1): 0.8,
}
"""The share of the images, the surest ones, on which accuracy is found."""

FIGURES: dict[Metric, Callable[[Kept], float]] = {
    TOP1: lambda kept: float(confident(kept)[1].mean()),
    NLL: lambda kept: float(negative_log_likelihoods(kept).mean()),
    BRIER: lambda kept: float(brier_scores(kept).mean()),
    ECE: lambda kept: reliability(*confident(kept)).error,
    ECE_MASS: lambda kept: reliability(*confident(kept), mass=True).error,
    AURC: lambda kept: float(risks(*confident(kept)).mean()),
    **{
        metric: lambda kept, share=share: accuracy_at(share, *confident(kept))  # type: ignore[misc]
        for metric, share in COVERAGES.items()
        if share < 1
    },
}
"""What ``jaxcnn eval --calibration`` says of a split, and how it is found."""


class Images:
    """Images from the surest to the least sure, sorted once for figures of many draws of them."""

    def __init__(self, kept: Kept) -> None:
        order = np.argsort(-kept["probability"], kind="stable")
        held = {name: kept[name][order] for name in FIELDS}
        confidence, right = confident(held)
        self.nll, self.brier = negative_log_likelihoods(held), brier_scores(held)
        self.gaps, self.errors = right - confidence, 1.0 - right
        self.firsts = np.flatnonzero(np.diff(confidence, prepend=np.inf))
        """Where those of another confidence than the ones before begin: a group."""
        self.bins = equal_width(confidence[self.firsts])
        self.harmonic = np.append(0, np.cumsum(1 / np.arange(1, len(order) + 1)))


class Draw:
    """Figures of images that count as often as they are drawn, as many as there are in all.

    They are those of :data:`FIGURES` of the images written out so often. Neither these are, nor is
    anything sorted again.
    """

    def __init__(self, images: Images, counts: np.ndarray) -> None:
        self._images, self._counts = images, counts

    @functools.cached_property
    def _number(self) -> np.ndarray:
        """How many images of each group are drawn."""
        return np.add.reduceat(self._counts, self._images.firsts)

    @functools.cached_property
    def _gaps(self) -> np.ndarray:
        return np.add.reduceat(self._counts * self._images.gaps, self._images.firsts)

    def nll(self) -> float:
        """Returns the mean of :func:`negative_log_likelihoods`."""
        return float((self._counts * self._images.nll).sum()) / len(self._counts)

    def brier(self) -> float:
        """Returns the mean of :func:`brier_scores`."""
        return float((self._counts * self._images.brier).sum()) / len(self._counts)

    def ece(self) -> float:
        """Returns the calibration error in bins of equal width."""
        return self._error(self._images.bins)

    def ece_mass(self) -> float:
        """Returns the calibration error in bins of equal mass."""
        images = len(self._counts)
        ranks = images - np.cumsum(self._number) + self._number / 2  # of a group the mean, from 0
        return self._error((ranks * BINS / images).astype(int))

    def _error(self, bins: np.ndarray) -> float:
        return float(np.abs(np.bincount(bins, self._gaps)).sum()) / len(self._counts)

    def aurc(self) -> float:
        r"""Returns the mean of :func:`risks`.

        After s images with e errors, the risk at the k-th, in a group with a share q of errors, is
        ``(e + q (k - s)) / k``.
        """
        errors = np.add.reduceat(self._counts * self._images.errors, self._images.firsts)
        end, share = np.cumsum(self._number), errors / np.maximum(self._number, 1)
        begin, before = end - self._number, np.cumsum(errors) - errors
        reciprocals = self._images.harmonic[end] - self._images.harmonic[begin]
        sums = errors + (before - share * begin) * reciprocals
        return float(sums.sum()) / len(self._counts)


DRAWN = {NLL: Draw.nll, BRIER: Draw.brier, ECE: Draw.ece, ECE_MASS: Draw.ece_mass, AURC: Draw.aurc}
"""How the figures that are no shares of images are found of a draw."""


def figures(kept: Kept, metrics: Sequence[Metric] = (*FIGURES,)) -> dict[Metric, Interval]:
    """Returns figures of some images, by default all, with 95 % intervals over the images.

    Those of the shares of right answers are Wilson's, as everywhere, and close to 100 % hold what
    they say. Those of the calibration errors are the basic bootstrap's, the others its percentiles.
    """
    images = Images(kept)
    drawn = [metric for metric in metrics if metric in DRAWN]

    def statistic(counts: np.ndarray) -> list[float]:
        draw = Draw(images, counts)
        return [DRAWN[metric](draw) for metric in drawn]

    found: dict[Metric, Interval] = {}
    if drawn:
        bounds = [metric.bounds for metric in drawn]
        basic = [metric in (ECE, ECE_MASS) for metric in drawn]
        each = bootstrap(statistic, len(images.gaps), bounds, basic)
        found = dict(zip(drawn, each, strict=True))
    for metric in metrics:
        if metric in COVERAGES:
            number, share = covered(COVERAGES[metric], len(images.gaps)), FIGURES[metric](kept)
            around = wilson_interval(round(share * number), number)
            found[metric] = around._replace(mean=share)  # of images of one confidence a fraction
    return {metric: found[metric] for metric in metrics}


def at_temperature(kept: Kept) -> Kept | None:
    """Returns what is kept of the network at the temperature of its run; None without one."""
    if f"{TEMPERED}probability" not in kept:
        return None
    return {name: kept[f"{TEMPERED}{name}"] for name in FIELDS}


# ------------------------------------------------------------------------------------- temperature


class Temperature(NamedTuple):
    """A temperature and what it does to the examples that it was fitted to.

    Attributes:
        temperature: what logits are divided by.
        standard_error: of the temperature, over such examples.
        nll_before: negative log-likelihood in nats at a temperature of 1.
        nll_after: the same at this temperature.
    """

    temperature: float
    standard_error: float
    nll_before: float
    nll_after: float


def fit_temperature(logits: np.ndarray, labels: np.ndarray) -> Temperature:
    r"""Fits the temperature by which logits are divided to the labels.

    It minimises the negative log-likelihood, which is convex in $\beta = 1/T$:

    $$L(\beta) = \frac{1}{n} \sum_i \log \sum_k e^{\beta z_{ik}} - \beta z_{i y_i}, \qquad
      L'(\beta) = \frac{1}{n} \sum_i \mathrm{E}_{p_i}[z_i] - z_{i y_i}$$

    so that the only root of $L'$ is found, by Brent's method. No class changes its place. The
    standard error is the sandwich $\sqrt{\mathrm{Var}(L'_i) / n} / L''$, brought from β to T.

    Args:
        logits: ``(n, classes)``.
        labels: ``(n,)`` whole numbers.

    Raises:
        InputError: no temperature in [0.01, 100] is the best: every example is predicted rightly,
            so that ever lower ones are better, or the logits say nothing of the labels.

    Guo et al., "On Calibration of Modern Neural Networks", 2017.
    """
    from scipy import optimize

    z = logits.astype(np.float64)
    z -= z.max(axis=1, keepdims=True)
    own = z[np.arange(len(z)), labels]

    def moments(beta: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Returns for each example its loss, and mean and variance of its logits."""
        p = np.exp(beta * z)
        total = p.sum(axis=1)
        p /= total[:, None]
        mean = np.einsum("nk,nk->n", p, z)
        losses = np.log(total) - beta * own
        return losses, mean, np.einsum("nk,nk,nk->n", p, z, z) - mean**2

    def slope(log_beta: float) -> float:
        return float((moments(math.exp(log_beta))[1] - own).mean())

    low, high = -math.log(MOST), -math.log(LEAST)
    if not slope(low) < 0 < slope(high):
        if (own == 0).all():
            why = f"all of the {len(z):,} examples are predicted rightly, which any lower one suits"
        else:
            why = f"the logits of {len(z):,} examples suit none in [{LEAST:g}, {MOST:g}]"
        raise InputError(f"temperature: cannot be fitted, since {why}")
    beta = math.exp(optimize.brentq(slope, low, high, xtol=1e-10))
    losses, mean, variance = moments(beta)
    error = (mean - own).std() / math.sqrt(len(z)) / variance.mean()
    before = float(moments(1.0)[0].mean())
    return Temperature(1 / beta, float(error) / beta**2, before, float(losses.mean()))
