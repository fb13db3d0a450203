"""Which experiments a sweep makes: grids and random draws over the fields of one experiment.

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
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from jaxcnn.config import Experiment, flat, from_dict, to_dict
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
        """The name of its folder: a digest of the values, so that a sweep can grow around it."""
        text = json.dumps(self.values, sort_keys=True)
        return f"trial-{hashlib.sha256(text.encode()).hexdigest()[:10]}"


@dataclass(frozen=True)
class Range:
    """Where random values of a field come from.

    Attributes:
        field: the dotted name of the field.
        draw: draws a value with a random generator.
        log: whether values are spread evenly over the logarithm.
    """

    field: str
    draw: Callable[[np.random.Generator], Any]
    log: bool = False


def trials(
    base: Experiment,
    grid: Sequence[str] = (),
    ranges: Sequence[str] = (),
    count: int = 0,
    seed: int = 0,
) -> list[Trial]:
    """Makes every combination of the grid, each with ``count`` random draws where there are ranges.

    More draws with the same seed begin with the fewer.

    Args:
        base: the experiment that the fields belong to.
        grid: ``"optim.peak_lr=0.01,0.03"`` for each field.
        ranges: ``"optim.peak_lr=log:1e-3:1e-1"``, ``"augment.rotate=0:20"``,
            ``"train.epochs=int:5:20"`` or choices, ``"model.name=mlp,lenet5"``.
        count: draws for each combination of the grid.
        seed: the seed of the draws.

    Raises:
        InputError: an unknown field, a value that it refuses, a range that is none, or more than
            MOST_TRIALS trials.
    """
    if seed < 0:
        raise InputError(f"--seed {seed}: must be a whole number >= 0")
    axes = [_grid_axis(base, text) for text in grid]
    drawn = [_range(base, text) for text in ranges]
    names = [name for name, _ in axes] + [r.field for r in drawn]
    for name in names:
        if names.count(name) > 1:
            raise InputError(f"{name}: is swept twice; give each field once")
    if bool(drawn) != (count > 0):
        raise InputError(
            f"--random {count} with {len(drawn)} ranges: give how many, then the ranges, as in "
            "--random 20 optim.peak_lr=log:1e-3:1e-1"
        )
    if not names:
        raise InputError("sweep: give --grid FIELD=VALUES or --random COUNT FIELD=RANGE")
    planned = math.prod(len(values) for _, values in axes) * max(count, 1)
    if planned > MOST_TRIALS:
        raise InputError(
            f"sweep: {planned:,} trials, of {len(axes)} grids and {count:,} draws at each of their "
            f"points; at most {MOST_TRIALS:,}"
        )
    rng = np.random.Generator(np.random.PCG64(seed))
    draws = [{r.field: r.draw(rng) for r in drawn} for _ in range(count)] or [{}]
    found: dict[str, Trial] = {}
    for point in itertools.product(*(values for _, values in axes)):
        fixed = dict(zip([name for name, _ in axes], point, strict=True))
        for draw in draws:
            values = {**fixed, **draw}
            trial = Trial(values, override(base, values))
            found[trial.name] = trial  # choices can be drawn twice
    return list(found.values())


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


def _grid_axis(base: Experiment, text: str) -> tuple[str, list[Any]]:
    name, values = _split(base, text)
    return name, [value(part) for part in _parts(values)]


def _range(base: Experiment, text: str) -> Range:
    name, spread = _split(base, text)
    kind, *bounds = spread.split(":")
    if not bounds:
        choices = [value(part) for part in _parts(spread)]
        return Range(name, lambda rng: choices[int(rng.integers(len(choices)))])
    if kind not in ("log", "int"):
        kind, bounds = "uniform", spread.split(":")
    try:
        low, high = (int(b) if kind == "int" else float(b) for b in bounds)
        if not (math.isfinite(high - low) and low < high and (kind != "log" or low > 0)):
            raise ValueError
        if kind == "int" and max(-low, high) >= 2**53:  # what a JSON number holds exactly
            raise ValueError
    except (ValueError, OverflowError):
        raise InputError(
            f"--random {shown(text)}: must be LOW:HIGH, int:LOW:HIGH or log:LOW:HIGH with finite "
            "LOW < HIGH (above 0 for log, within 2**53 for int), or choices such as a,b,c"
        ) from None
    if kind == "int":
        return Range(name, lambda rng: int(rng.integers(int(low), int(high) + 1)))
    if kind == "log":
        return Range(name, lambda rng: _round(math.exp(rng.uniform(*np.log([low, high])))), True)
    return Range(name, lambda rng: _round(rng.uniform(low, high)))


def _round(value: float) -> float:
    """Rounds to four digits, which can be read, written and typed again."""
    return float(f"{value:.4g}")


def _split(base: Experiment, text: str) -> tuple[str, str]:
    name, equals, values = text.partition("=")
    if not equals or not values:
        raise InputError(f"{shown(text)}: must be FIELD=VALUES, as in optim.peak_lr=0.01,0.03")
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
