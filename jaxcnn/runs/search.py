"""Which experiments a sweep tries: the fields that it varies, over which values, and its trials.

A trial is a value like any experiment, made before anything is trained, so that trials which
share their shapes can be told from the values alone.
"""

import ast
import contextlib
import difflib
import hashlib
import itertools
import json
import math
import re
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from jaxcnn.config import Experiment, differences, flat, from_dict, to_dict
from jaxcnn.config.checked import shown
from jaxcnn.errors import InputError

MOST_TRIALS = 10_000
"""So many trials are planned at once; to make them alone takes ten seconds."""


@dataclass(frozen=True)
class Trial:
    """One point of a sweep.

    Attributes:
        values: the values of the fields that the sweep changes, by dotted name.
        experiment: the experiment with these values.
    """

    values: Mapping[str, Any]
    experiment: Experiment

    @property
    def name(self) -> str:
        """The name of its folder."""
        return name_of(self.values)


def name_of(values: Mapping[str, Any]) -> str:
    """Returns a trial's name, a digest of its values, so that a sweep can grow around it."""
    text = json.dumps(values, sort_keys=True, default=str)
    return f"trial-{hashlib.sha256(text.encode()).hexdigest()[:10]}"


def label(values: Mapping[str, Any]) -> str:
    """Returns what a trial is called on a screen: its values, by the last words of their fields.

    >>> label({"optim.peak_lr": 0.012345678, "optim.nesterov": True})
    'peak_lr=0.01235 nesterov=True'
    >>> label({"optim.name": "sgd", "model.name": "mlp"})
    'optim.name=sgd model.name=mlp'
    """
    short = {field: field.rpartition(".")[2] for field in values}
    clear = len(set(short.values())) == len(short)
    said = {field: f"{v:.4g}" if isinstance(v, float) else v for field, v in values.items()}
    return " ".join(f"{short[field] if clear else field}={said[field]}" for field in values)


@dataclass(frozen=True)
class Space:
    """The values of a field among which a sweep searches.

    Attributes:
        field: the dotted name of the field.
        choices: the words that stand for its values, where these are listed.
        low: the least value, where it is any between two.
        high: the greatest one.
        kind: how it lies between them: ``"log"`` is even over the logarithm, ``"int"`` a whole
            number.
    """

    field: str
    choices: tuple[str, ...] = ()
    low: float = 0.0
    high: float = 0.0
    kind: Literal["choices", "uniform", "log", "int"] = "choices"

    def ends(self) -> Sequence[Any]:
        """Returns its values or, of bounds, the two, as :meth:`value` takes them."""
        return self.choices or (self.low, self.high)

    def value(self, found: Any) -> Any:
        """Returns the value of the field for a word of ``choices``, or a number between the bounds.

        Numbers are rounded to four digits, which can be read, written and typed again.
        """
        if self.kind == "choices":
            return value(found)
        return int(found) if self.kind == "int" else float(f"{found:.4g}")


def spaces(base: Experiment, words: Sequence[str]) -> list[Space]:
    """Reads what a sweep varies.

    Args:
        base: the experiment that the fields belong to.
        words: for each field ``"model.name=mlp,lenet5"``, ``"optim.peak_lr=log:1e-3:1e-1"``,
            ``"augment.rotate=0:20"`` or ``"train.epochs=int:5:20"``.

    Raises:
        InputError: an unknown field, one that is given twice, or bounds that are none.
    """
    found = [_space(base, word) for word in words]
    names = [space.field for space in found]
    for name in names:
        if names.count(name) > 1:
            raise InputError(f"{name}: is swept twice; give each field once")
    return found


def grid(base: Experiment, among: Sequence[Space]) -> list[Trial]:
    """Returns every combination of the listed values.

    Raises:
        InputError: a field has no list of values, a value that it refuses, or there are more than
            MOST_TRIALS trials.
    """
    for space in among:
        if space.kind != "choices":
            raise InputError(
                f"{space.field}={space.kind}: must be a list of values for a grid, as 1,2,3; "
                "--search random or tpe takes bounds"
            )
    planned = math.prod(len(space.choices) for space in among)
    if planned > MOST_TRIALS:
        raise InputError(
            f"sweep: {planned:,} trials, of {len(among)} fields; at most {MOST_TRIALS:,}"
        )
    points = itertools.product(*(space.choices for space in among))
    return distinct(trial(base, values_at(among, point)) for point in points)


def values_at(among: Sequence[Space], point: Sequence[Any]) -> dict[str, Any]:
    """Returns the values of the fields at a point of their spaces."""
    return {space.field: space.value(at) for space, at in zip(among, point, strict=True)}


def trial(base: Experiment, values: Mapping[str, Any]) -> Trial:
    """Returns the trial with these values.

    Raises:
        InputError: a field refuses its value.
    """
    return Trial(values, override(base, values))


def listed(base: Experiment, experiments: Sequence[Experiment]) -> list[Trial]:
    """Returns the trials of experiments that were made in code, by what they change.

    Args:
        base: the experiment with which they are compared.
        experiments: the experiments.
    """
    changes = [differences(to_dict(base), to_dict(one)) for one in experiments]
    fields = dict.fromkeys(name for changed in changes for name in changed)
    values = [{name: flat(to_dict(one)).get(name) for name in fields} for one in experiments]
    return distinct(map(Trial, values, experiments))


def distinct(trials: Iterable[Trial]) -> list[Trial]:
    """Returns trials without those whose values another one has."""
    return list({trial.name: trial for trial in trials}.values())


def override(base: Experiment, values: Mapping[str, Any]) -> Experiment:
    """Returns the experiment with other values of some fields, by dotted name.

    >>> override(Experiment(), {"optim.peak_lr": 0.3}).optim.peak_lr
    0.3
    """
    config = to_dict(base)
    for name, value in values.items():
        *sections, field = name.split(".")
        place = config
        for section in sections:
            place = place[section]
        place[field] = value
    return from_dict(config)


def _space(base: Experiment, text: str) -> Space:
    name, spread = _split(base, text)
    kind, *bounds = spread.split(":")
    if kind not in ("log", "int"):
        kind, bounds = "uniform", spread.split(":")
        if len(bounds) == 1 or not all(map(_is_number, bounds)):  # such as hf:cifar10
            return Space(name, tuple(_parts(spread)))
    try:
        low, high = (int(b) if kind == "int" else float(b) for b in bounds)
        if not (math.isfinite(high - low) and low < high and (kind != "log" or low > 0)):
            raise ValueError
        if kind == "int" and max(-low, high) >= 2**53:  # what a JSON number holds exactly
            raise ValueError
    except (ValueError, OverflowError):
        raise InputError(
            f"{shown(text)}: must be FIELD=LOW:HIGH, int:LOW:HIGH or log:LOW:HIGH with finite "
            "LOW < HIGH (above 0 for log, within 2**53 for int), or choices such as a,b,c"
        ) from None
    return Space(name, (), low, high, kind)  # type: ignore[arg-type]


def _is_number(text: str) -> bool:
    with contextlib.suppress(ValueError):
        float(text)
        return True
    return False


def _split(base: Experiment, text: str) -> tuple[str, str]:
    name, equals, values = text.partition("=")
    if not equals or not values:
        raise InputError(
            f"{shown(text)}: must be FIELD=VALUES, as in optim.peak_lr=0.01,0.03 or "
            "optim.peak_lr=log:1e-3:1e-1"
        )
    name = name.replace("-", "_")
    known = [field for field in flat(to_dict(base)) if "." in field]
    if name not in known and re.fullmatch(r"model\.options\.\w{1,60}", name) is None:
        near = difflib.get_close_matches(name, known, n=1, cutoff=0.4)
        same = [field for field in known if field.split(".")[-1] == name]
        hint = next(iter(same or near), None)
        advice = f"did you mean {hint}?" if hint else f"must be one of {', '.join(known)}"
        raise InputError(f"{name}: no such field; {advice}")
    return name, values


def _parts(text: str) -> list[str]:
    """Splits at commas that stand outside brackets."""
    parts, depth = [""], 0
    for letter in text:
        depth += (letter in "[(") - (letter in "])")
        if letter == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += letter
    return parts


def value(text: str) -> Any:
    """Reads a number, truth value, None, tuple or word, as Python or JSON would write it.

    >>> value("0.1"), value("(8, 16)"), value("true"), value("relu")
    (0.1, (8, 16), True, 'relu')
    """
    with contextlib.suppress(ValueError, RecursionError):
        return json.loads(text)
    with warnings.catch_warnings(), contextlib.suppress(*NO_LITERAL):
        warnings.simplefilter("ignore", SyntaxWarning)
        return ast.literal_eval(text.strip())
    return text.strip()


NO_LITERAL = (ValueError, SyntaxError, TypeError, MemoryError, RecursionError)
"""What :func:`ast.literal_eval` raises on other text."""
