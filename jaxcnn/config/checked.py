"""Dataclasses whose fields are checked against their annotations, with errors that name the field.

>>> from dataclasses import dataclass
>>> @dataclass(frozen=True)
... class Train(Checked, section="train"):
...     epochs: Annotated[int, Accepts("a positive whole number", lambda n: n >= 1)] = 10
...     mode: Literal["fast", "exact"] | None = None
>>> Train(epochs=0)
Traceback (most recent call last):
jaxcnn.errors.InputError: train.epochs=0: must be a positive whole number
>>> Train(mode="slow")
Traceback (most recent call last):
jaxcnn.errors.InputError: train.mode='slow': must be 'fast', 'exact' or None
"""

import functools
import operator
import reprlib
from collections.abc import Callable, Mapping
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, NamedTuple, Union, get_args, get_origin, get_type_hints

from jaxcnn.errors import InputError

FLOAT32_MAX = 3.4028234663852886e38
"""The largest number of a field: all are computed with in float32, to which more is infinite."""


class Accepts(NamedTuple):
    """Says in an annotation what a field accepts: in words, and as a condition beside the type."""

    words: str
    holds: Callable[[Any], object] = lambda value: True


class Checked:
    """Checks all fields of a dataclass that derives from it, whenever a value is made.

    Annotations are made of ``bool``, ``int``, ``float``, ``str``, classes, ``Literal``, ``tuple``,
    ``Mapping``, unions, and ``Annotated[type, Accepts(...)]``. Types are checked strictly: True is
    no number, and NaN and infinity are no floats; but an int is a float.

    Args:
        section: what stands before the names of the fields in errors.

    Raises:
        InputError: names the field, its value, and what would be accepted.
    """

    _prefix = ""

    def __init_subclass__(cls, section: str = "") -> None:
        cls._prefix = section and f"{section}."

    def __post_init__(self) -> None:
        kind: Any = type(self)
        for name, annotation in annotations(kind).items():
            check(self._prefix + name, getattr(self, name), annotation)

    def require(self, name: str, holds: object, accepted: str) -> None:
        """Checks a relation to other fields.

        Args:
            name: the field to blame, such as ``epochs``, or ``train.epochs`` of a field's field.
            holds: whether the relation holds.
            accepted: what the error says that the value must be.

        Raises:
            InputError: it does not hold.
        """
        require(self._prefix + name, operator.attrgetter(name)(self), holds, accepted)


def require(name: str, value: object, holds: object, accepted: str) -> None:
    """Raises an InputError that names a field, its value and what is accepted, unless it holds."""
    if not holds:
        raise InputError(f"{name}={shown(value)}: must be {accepted}")


def shown(value: object) -> str:
    """Returns a value as Python writes it, on one line, and not much longer than a line.

    >>> shown("x" * 10**6)[:9], len(shown("x" * 10**6)), shown([[]] * 1000)
    ("'xxxxxxxx", 120, '[[], [], [], [], [], [], [], [], [], [], [], [], ...]')
    """
    return " ".join(_SHORT.repr(value).splitlines())


class _Short(reprlib.Repr):
    """Shortens what is long, and whole numbers that Python would not write for their length."""

    def __init__(self) -> None:
        super().__init__()
        self.maxstring = self.maxother = self.maxlong = 120
        self.maxtuple = self.maxlist = self.maxdict = self.maxset = self.maxfrozenset = 12

    def repr_int(self, value: int, level: int) -> str:
        digits = value.bit_length() * 0.302
        return (
            super().repr_int(value, level) if digits < 4000 else f"a number of {digits:.0f} digits"
        )


_SHORT = _Short()


@functools.cache
def annotations(kind: Any) -> dict[str, Any]:
    """Returns the annotation of each field of a class, with what ``Annotated`` adds to it."""
    return get_type_hints(kind, include_extras=True)


def check(name: str, value: object, annotation: Any) -> None:
    """Raises an InputError that names a field, unless its value fits the annotation."""
    if not _fits(value, annotation):
        *others, last = _accepted(annotation)
        require(name, value, False, f"{', '.join(others)} or {last}" if others else last)
    if isinstance(value, Mapping):
        for key, item in value.items():
            require(f"{name}: key", key, isinstance(key, str), "a text")
            check(f"{name}.{key}", item, get_args(annotation)[1])


def _fits(value: Any, annotation: Any) -> bool:
    """Returns whether a value has the type, and meets the conditions, of an annotation."""
    origin, args = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _fits(value, args[0]) and all(accepts.holds(value) for accepts in args[1:])
    if origin is Literal:
        return any(type(value) is type(choice) and value == choice for choice in args)
    if origin in (Union, UnionType):
        return any(_fits(value, arg) for arg in args)
    if origin is tuple and isinstance(value, tuple):
        elements = args[:1] * len(value) if args[-1] is ... else args
        return len(value) == len(elements) and all(map(_fits, value, elements))
    if annotation is float:
        number = isinstance(value, float | int) and type(value) is not bool
        return number and -FLOAT32_MAX <= value <= FLOAT32_MAX  # NaN is neither
    if annotation is int:
        return isinstance(value, int) and type(value) is not bool
    return isinstance(value, origin or annotation)


def _accepted(annotation: Any) -> list[str]:
    """Returns the words for what an annotation accepts, one entry for each alternative."""
    origin, args = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return [args[1].words]
    if origin is Literal:
        return [repr(choice) for choice in args]
    if origin in (Union, UnionType):
        return [words for arg in args for words in _accepted(arg) if words]
    named = {bool: ["True", "False"], NoneType: ["None"]}
    return named.get(annotation, [f"of type {(origin or annotation).__name__}"])
