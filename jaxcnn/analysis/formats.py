"""Numbers as people read them, the same on the terminal, on pages and in charts."""

import math
from collections.abc import Iterable

from jaxcnn.analysis.statistics import Interval, Paired
from jaxcnn.tasks import Metric

UNKNOWN = "–"


def si(number: float, unit: str = "") -> str:
    """Returns a number with four digits and a decimal prefix.

    >>> si(416_520), si(5_490_000, "B"), si(0.05)
    ('416.5 k', '5.49 MB', '0.05')
    """
    prefix = ""
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(number) >= size:
            number, prefix = number / size, letter
            break
    return f"{number:.4g} {prefix}{unit}".rstrip()


def sizes(shape: Iterable[int]) -> str:
    """Returns the sizes of axes.

    >>> sizes((28, 28, 6))
    '28x28x6'
    """
    return "x".join(map(str, shape))


def value(metric: Metric, number: float, form: str = ".4g") -> str:
    """Returns what a metric has been found to be; a share in percent, else in this form.

    >>> value(Metric("top1", "top-1", low=0, high=1), 0.912), value(Metric("mae", "MAE"), 0.912)
    ('91.20 %', '0.912')
    """
    return f"{100 * number:.2f} %" if metric.is_share else f"{number:{form}}"


def interval(metric: Metric, found: Interval, form: str = ".4g") -> str:
    """Returns a mean and its bounds; of a share in percent, else in this form.

    >>> interval(Metric("top1", "top-1", low=0, high=1), Interval(0.912, 0.908, 0.916))
    '91.20 % [90.80, 91.60]'
    """
    mean = value(metric, found.mean, form)
    if math.isnan(found.low):
        return mean
    low, high = in_unit(metric, found)[1:]
    form = ".2f" if metric.is_share else form
    return f"{mean} [{low:{form}}, {high:{form}}]"


def difference(metric: Metric, found: Paired | None, form: str = ".4g") -> str:
    """Returns a difference and its bounds; of shares in percentage points, else in this form.

    >>> difference(Metric("top1", "", low=0, high=1), Paired(0.0667, -0.0039, 0.1373, 0.16))
    '+6.67 [-0.39, +13.73]'
    """
    if found is None:
        return UNKNOWN
    factor, form = (100, "+.2f") if metric.is_share else (1, f"+{form}")
    mean, low, high = (factor * number for number in (found.mean, found.low, found.high))
    return f"{mean:{form}}" + ("" if math.isnan(low) else f" [{low:{form}}, {high:{form}}]")


def in_unit(metric: Metric, found: Interval) -> Interval:
    """Returns a mean and its bounds as charts show them: of a share in percent, at most 100."""
    if not metric.is_share:
        return found
    return Interval(*(100 * min(bound, 1) for bound in found))


def titled(metric: Metric, split: str = "") -> str:
    """Returns the title of an axis.

    >>> titled(Metric("top1", "top-1", low=0, high=1), "test"), titled(Metric("mae", "MAE"))
    ('test top-1, %', 'MAE')
    """
    return f"{split} {metric.title}".lstrip() + (", %" if metric.is_share else "")


def p_value(p: float) -> str:
    """Returns a p-value with two digits.

    >>> p_value(0.0312), p_value(0.00001)
    ('0.031', '<0.001')
    """
    if math.isnan(p):
        return UNKNOWN
    return "<0.001" if p < 0.001 else f"{p:.2g}"


def duration(seconds: float) -> str:
    """Returns a time.

    >>> duration(75.2), duration(3.14)
    ('1 min 15 s', '3.1 s')
    """
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"
