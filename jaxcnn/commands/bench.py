"""``jaxcnn bench``: speed, memory and utilisation of models, as a CSV file."""

import math
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from jaxcnn.commands import arguments
from jaxcnn.errors import InputError
from jaxcnn.text import complain


@dataclass(frozen=True)
class Command(arguments.Command):
    """Measures inference and training of models on random images of their standard size.

    Warm-up and timed steps are as in timm's benchmark.py, and so are the first columns of the CSV
    file, which is written anew after each measurement. Where memory runs out, the batch is halved.
    """

    models: tuple[str, ...] = field(
        default=("lenet5", "resnet18", "mobilenet_v2"), metadata={"place": "MODEL"}
    )
    """Names or patterns from `jaxcnn list`."""
    train: bool = False
    """Measures a training step; without --train and --infer both are measured."""
    infer: bool = False
    """Measures inference."""
    dtype: Literal["fp32", "bf16"] | None = None
    """Type of the arithmetic; by default fp32 on a CPU and bf16 elsewhere."""
    batch_size: int | None = None
    """Images in a batch; by default 4 on a CPU and 256 elsewhere."""
    budget: float | None = None
    """Seconds that it may take: what does not fit into those left is named and left out, judged by
    the longest measurement so far; by default, all that it takes."""
    layers: bool = False
    """Measures each named layer on its own, and shows it beside what the roofline allows."""
    out: Path | None = None
    """The CSV file to write; by default bench.csv, with --layers layers.csv."""


def run(command: Command) -> int:
    """Measures the models and returns the exit code."""
    given = {"dtype": command.dtype, "batch_size": command.batch_size}
    chosen: dict[str, Any] = {key: value for key, value in given.items() if value is not None}
    if not 1 <= chosen.get("batch_size", 1) < 2**31:
        raise InputError(f"--batch-size {command.batch_size}: must be at least 1, below 2**31")
    seconds = math.inf if command.budget is None else command.budget
    if command.budget is not None and not 0 < seconds < math.inf:
        raise InputError(f"--budget {seconds:g}: must be a positive number of seconds")

    from jaxcnn import models
    from jaxcnn.analysis import bench, layers
    from jaxcnn.analysis.budget import Budget
    from jaxcnn.runs import display

    budget = Budget(seconds)

    # A pattern that matches nothing stays as it is, and is refused as a name.
    found = [models.list_models(pattern) or [pattern] for pattern in command.models]
    names = list(dict.fromkeys(name for matched in found for name in matched))
    wanted = {"infer": command.infer, "train": command.train}
    works: list[Any] = [work for work in wanted if wanted[work]] or list(wanted)
    settings = replace(bench.default_settings(), **chosen)
    out = command.out or Path("layers.csv" if command.layers else "bench.csv")
    if command.layers:
        problems = layers.run(names, works, out, settings, display.console().print, budget)
    else:
        problems = bench.run(names, works, out, settings, budget=budget)
    for problem in problems:
        complain(problem)
    print(f"wrote {out}")
    return 1 if problems else 0
