"""What labels may be: classes, several numbers, or maps of them; and the names that they need."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jaxcnn.config import MOST_CLASSES
from jaxcnn.config.checked import shown
from jaxcnn.errors import InputError

IGNORED = -1
"""What a label map holds where there is no class."""
ALSO_IGNORED = 255
"""What label maps of 8 bits hold there."""

RANGES = {1: (0, MOST_CLASSES), 2: (-(2**31), 2**31), 3: (IGNORED, MOST_CLASSES)}
"""The whole numbers that labels ``(n,)``, ``(n, k)`` and ``(n, h, w)`` may hold, from and below."""


def stored(labels: Any, images: np.ndarray, name: str) -> np.ndarray:
    """Returns the labels that a user gives as they are stored, checked.

    Args:
        labels: ``(n,)``, ``(n, k)`` or, as the images' heights and widths, ``(n, h, w)``.
        images: ``(n, h, w, c)``.
        name: names the split, for the message.

    Returns:
        int32, or float32 where one of them is not whole or, of ``(n,)`` and of floating-point
        numbers, beyond ``RANGES``: these are numbers, not classes.

    Raises:
        InputError: they have another form, or hold something else than finite numbers.
    """
    what = f"{name} labels: must be"
    try:
        numbers = np.asarray(labels)
    except ValueError as error:  # lists of different lengths
        raise InputError(f"{what} an array ({error})") from error
    tail = numbers.shape[1:] if numbers.ndim < 3 else images.shape[1:3]
    wanted = (len(images), *(max(side, 1) for side in tail))
    if numbers.shape != wanted:
        raise InputError(
            f"{what} of shape {wanted}, one for each image, are of shape {numbers.shape}"
        )
    if np.issubdtype(numbers.dtype, np.floating):
        small = _small(numbers)
        if not (finite := np.isfinite(small)).all():
            raise InputError(f"{what} finite numbers, hold {_first(numbers[~finite])}")
        if (numbers != np.round(numbers)).any() or not _inside(numbers, numbers.ndim).all():
            return small
    elif _is_whole(numbers) and numbers.ndim == 1 and not _inside(numbers, 1).all():
        return _small(numbers)
    elif not _is_whole(numbers) or not (inside := _inside(numbers, numbers.ndim)).all():
        bad = numbers[~inside] if _is_whole(numbers) else numbers
        low, high = RANGES[numbers.ndim]
        raise InputError(f"{what} whole numbers in [{low:,}, {high:,}), hold {_first(bad)}")
    return numbers.astype(np.int32)


def of_example(
    label: Any, size: tuple[int, ...], what: str, *, numbers: bool = False
) -> np.ndarray:
    """Returns the label of one example, checked: whole numbers in int32, others in float32.

    Args:
        label: a number, ``(k,)``, or ``(h, w)`` as the image.
        size: the height and width of the image.
        what: names the example, for the message.
        numbers: whether a whole number is no class, but a number.

    Raises:
        InputError: it has another form, or holds something else than finite numbers.
    """
    held = np.asarray(label)
    if numbers and held.ndim == 0 and (_is_whole(held) or np.issubdtype(held.dtype, np.floating)):
        held = _small(held)
    rank = held.ndim + 1
    if rank == 3 and held.shape != size:
        maps = ["x".join(map(str, shape)) for shape in (size, held.shape)]
        raise InputError(f"{what}: its label must be {maps[0]} as its image, is {maps[1]}")
    if rank in RANGES and held.size:
        if _is_whole(held) and _inside(held, rank).all():
            return held.astype(np.int32)
        if np.issubdtype(held.dtype, np.floating) and np.isfinite(_small(held)).all():
            return _small(held)
    accepted = {1: "a whole number >= 0", 3: f"whole numbers in [{IGNORED}, {MOST_CLASSES:,})"}.get(
        rank, "numbers (k,) or (h, w)"
    )
    if np.issubdtype(held.dtype, np.floating):
        accepted = "finite"
    raise InputError(f"{what}: its label must be {accepted}, is {shown(label)}")


def alike(labels: Mapping[str, np.ndarray], what: str = "") -> dict[str, np.ndarray]:
    """Returns the labels of several splits in one type, checked to be of one shape.

    Args:
        labels: the labels by the names of the splits.
        what: how the message begins.

    Raises:
        InputError: those of one split have another shape than those of the first.
    """
    first = next(iter(labels))
    for name, array in labels.items():
        if array.shape[1:] != labels[first].shape[1:]:
            wanted, is_ = (_form(a.shape[1:]) for a in (labels[first], array))
            raise InputError(
                f"{what}{name} labels: must be {wanted} as the {first} labels, are {is_}"
            )
    if all(array.dtype == np.int32 for array in labels.values()):
        return dict(labels)
    return {name: array.astype(np.float32) for name, array in labels.items()}


def are_classes(labels: np.ndarray) -> bool:
    """Returns whether labels are classes, one for each image or for each pixel.

    >>> are_classes(np.zeros(3, np.int32)), are_classes(np.zeros((3, 2), np.int32))
    (True, False)
    """
    return labels.ndim in (1, 3) and _is_whole(labels)


def largest(labels: np.ndarray) -> int:
    """Returns the largest class of labels; -1 where there are none.

    >>> largest(np.array([[[0, 2], [-1, 255]]]))
    2
    """
    if not are_classes(labels):
        return -1
    known = labels != ALSO_IGNORED if labels.ndim == 3 else True
    return int(labels.max(initial=-1, where=known))


def names_of(classes: Sequence[str] | None, labels: np.ndarray, most: int) -> tuple[str, ...]:
    """Returns the names of classes, or of the numbers that a label holds.

    Args:
        classes: the names that are given, if any are.
        labels: some labels, of which only the form counts.
        most: the largest class of all labels, as :func:`largest` finds it.

    Raises:
        InputError: there are too few names for the classes, or not as many as numbers.

    >>> names_of(None, np.zeros(0, np.int32), 2), names_of(None, np.zeros(0, np.float32), -1)
    (('0', '1', '2'), ('value',))
    """
    numbers = labels.shape[1] if labels.ndim == 2 else 1
    if classes is None:
        if are_classes(labels):
            return tuple(map(str, range(max(most + 1, 2))))
        return tuple(map(str, range(numbers))) if labels.ndim == 2 else ("value",)
    names = tuple(map(str, classes))
    if are_classes(labels) and len(names) <= most and (len(names) > 1 or labels.ndim > 1):
        raise InputError(
            f"classes={shown(names)}: must name {most + 1} classes, for labels up to {most}"
        )
    if not are_classes(labels) and len(names) != numbers:
        raise InputError(
            f"classes={shown(names)}: must name {numbers}, as many as a label has numbers"
        )
    return names


def _is_whole(numbers: np.ndarray) -> bool:
    return np.issubdtype(numbers.dtype, np.integer) or numbers.dtype == bool


def _inside(numbers: np.ndarray, rank: int) -> np.ndarray:
    low, high = RANGES[rank]
    return np.asarray((numbers >= low) & (numbers < high))


def _small(numbers: np.ndarray) -> np.ndarray:
    with np.errstate(over="ignore", invalid="ignore"):
        return numbers.astype(np.float32)


def _first(numbers: np.ndarray) -> str:
    return shown(numbers.ravel()[:1].tolist()[0]) if numbers.size else "none"


def _form(shape: tuple[int, ...]) -> str:
    return f"(n, {', '.join(map(str, shape))})" if shape else "(n,)"
