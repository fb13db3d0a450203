"""``jaxcnn bench``: speed, memory and utilisation of models, as a CSV file."""

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
    file. Where memory runs out, the batch is halved.
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
    out: Path = Path("bench.csv")
    """The CSV file to write."""


def run(command: Command) -> int:
    """Measures the models and returns the exit code."""
    given = {"dtype": command.dtype, "batch_size": command.batch_size}
    chosen: dict[str, Any] = {key: value for key, value in given.items() if value is not None}
    if not 1 <= chosen.get("batch_size", 1) < 2**31:
        raise InputError(f"--batch-size {command.batch_size}: must be at least 1, below 2**31")

    from jaxcnn import models
    from jaxcnn.analysis import bench

    # A pattern that matches nothing stays as it is, and is refused as a name.
    found = [models.list_models(pattern) or [pattern] for pattern in command.models]
    names = list(dict.fromkeys(name for matched in found for name in matched))
    wanted = {"infer": command.infer, "train": command.train}
    works: list[Any] = [work for work in wanted if wanted[work]] or list(wanted)
    settings = replace(bench.default_settings(), **chosen)
    problems = bench.run(names, works, command.out, settings)
    for problem in problems:
        complain(problem)
    print(f"wrote {command.out}")
    return 1 if problems else 0
