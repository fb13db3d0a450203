"""Numbers as people read them, the same on the terminal, on pages and in charts."""

import math
from collections.abc import Iterable

from jaxcnn.analysis.statistics import Interval, Paired

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


def percent(value: Interval) -> str:
    """Returns a mean and its bounds in percent.

    >>> percent(Interval(0.912, 0.908, 0.916))
    '91.20 % [90.80, 91.60]'
    """
    mean = f"{100 * value.mean:.2f} %"
    if math.isnan(value.low):
        return mean
    return f"{mean} [{100 * value.low:.2f}, {100 * min(value.high, 1):.2f}]"


def difference(value: Paired | None) -> str:
    """Returns a difference and its bounds in percentage points.

    >>> difference(Paired(0.0667, -0.0039, 0.1373, 0.16))
    '+6.67 [-0.39, +13.73]'
    """
    if value is None:
        return UNKNOWN
    bounds = "" if math.isnan(value.low) else f" [{100 * value.low:+.2f}, {100 * value.high:+.2f}]"
    return f"{100 * value.mean:+.2f}{bounds}"


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
