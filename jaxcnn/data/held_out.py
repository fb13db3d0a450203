"""Chooses which examples are held out: at random, and the same share of every class."""

from collections.abc import Sequence

import numpy as np

from jaxcnn.config import Data
from jaxcnn.config.checked import require
from jaxcnn.data.source import Source
from jaxcnn.errors import InputError
from jaxcnn.text import printable


def strata(source: Source, *, numbers: bool = False) -> np.ndarray:
    """Returns the labels ``(n,)`` of a split by which :func:`hold_out` draws its shares.

    Where an example's label is not a class, all examples are of one stratum.

    Args:
        source: the split.
        numbers: whether whole numbers are not classes.
    """
    form = source.label_form
    if not numbers and form.ndim == 0 and np.issubdtype(form.dtype, np.integer):
        return source.read_labels()
    return np.zeros(len(source), np.int32)


def hold_out(
    labels: np.ndarray, amount: int | float, seed: int, field: str, classes: Sequence[str]
) -> tuple[np.ndarray, np.ndarray]:
    """Splits examples in two by their labels and a seed, on which alone the split depends.

    Every class gives its share of the examples that are held out, rounded up or down; those that
    are rounded up are the ones that lose most by rounding down (largest remainders).

    Args:
        labels: ``(n,)`` whole numbers >= 0.
        amount: how many examples are held out: an int counts them, a float in (0, 1) is a share.
        seed: the seed of the choice within each class.
        field: the field of the config that says the amount, for the message.
        classes: the names of the classes, for the message.

    Returns:
        The places of the examples that are kept, and of those that are held out, each in order.

    Raises:
        InputError: a class that has examples would have none on one side.

    >>> kept, held = hold_out(np.array([0, 1, 0, 1, 0, 1]), 2, 0, "data.validation", ("a", "b"))
    >>> len(kept), len(held), [0, 1, 0, 1, 0, 1][held[0]] != [0, 1, 0, 1, 0, 1][held[1]]
    (4, 2, True)
    """
    n = len(labels)
    number = amount if isinstance(amount, int) else round(amount * n)
    if number >= n:
        raise InputError(f"{field}={amount}: must leave some of the {n:,} examples to learn from")
    counts = np.bincount(labels, minlength=len(classes)).astype(np.int64)
    chosen, rest = np.divmod(counts * number, n)
    chosen[np.argsort(-rest, kind="stable")[: number - chosen.sum()]] += 1
    for name, of, out in zip(classes, counts, chosen, strict=True):
        if of and not 0 < out < of:
            every, which = ("", "") if of == n else ("every class ", f" of class {printable(name)}")
            raise InputError(
                f"{field}={amount}: must leave {every}examples on both sides; of the {of:,}{which} "
                f"it holds out {out:,}"
            )
    order = np.random.Generator(np.random.PCG64(seed)).permutation(n)
    order = order[np.argsort(labels[order], kind="stable")]  # class by class, at random within
    starts = np.cumsum(counts) - counts
    held = np.zeros(n, bool)
    for start, out in zip(starts, chosen, strict=True):
        held[order[start : start + out]] = True
    return np.flatnonzero(~held), np.flatnonzero(held)


def require_named(name: str, free: Sequence[str], config: Data) -> None:
    """Checks that a split of a dataset can be held out by its name.

    Args:
        name: the name that ``data.validation`` gives.
        free: the names of the splits that are neither trained nor tested on.
        config: names the dataset.

    Raises:
        InputError: it is none of them.
    """
    splits = ", ".join(map(printable, free)) or "it has none"
    require(
        "data.validation",
        name,
        name in free,
        "a share in (0, 1), a number, or the name of a split that is neither trained nor tested "
        f"on, of {config.name}: {splits}",
    )
