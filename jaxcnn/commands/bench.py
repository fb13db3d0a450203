"""``jaxcnn bench``: speed, memory and share of the roofline of models, as a CSV file."""

import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from jaxcnn.commands.parsing import parse
from jaxcnn.errors import InputError


def main(args: Sequence[str]) -> int:
    """Runs the command and returns the exit code."""
    import tyro

    def parsed(
        models: tyro.conf.Positional[tuple[str, ...]] = ("lenet5", "resnet18", "mobilenet_v2"),
        train: tyro.conf.FlagCreatePairsOff[bool] = False,
        infer: tyro.conf.FlagCreatePairsOff[bool] = False,
        dtype: Literal["fp32", "bf16"] | None = None,
        batch_size: int | None = None,
        out: Path = Path("bench.csv"),
    ) -> tuple[tuple[str, ...], list[Any], Path, dict[str, Any]]:
        """Measure inference and training of models on random images of their standard size.

        Warm-up and timed steps are as in timm's benchmark.py, and so are the first columns of
        the CSV. Where memory ends, the batch is halved.

        Args:
            models: names or patterns from `jaxcnn list`.
            train: a training step; without --train and --infer both are measured.
            infer: inference.
            dtype: type of the arithmetic; by default fp32 on a CPU and bf16 elsewhere.
            batch_size: by default 4 on a CPU and 256 elsewhere.
            out: the CSV file.
        """
        works = [work for work, wanted in (("infer", infer), ("train", train)) if wanted]
        given = {"dtype": dtype, "batch_size": batch_size}
        chosen = {key: value for key, value in given.items() if value is not None}
        return models, works or ["infer", "train"], out, chosen

    patterns, works, out, chosen = parse(parsed, args, "bench")
    if chosen.get("batch_size", 1) < 1:
        raise InputError(f"--batch-size {chosen['batch_size']}: must be at least 1")

    from jaxcnn import models
    from jaxcnn.analysis import bench

    # A pattern that matches nothing stays as it is, and is refused as a name.
    found = [models.list_models(pattern) or [pattern] for pattern in patterns]
    names = list(dict.fromkeys(name for matched in found for name in matched))
    problems = bench.run(names, works, out, replace(bench.default_settings(), **chosen))
    for problem in problems:
        print(f"jaxcnn: {problem}", file=sys.stderr)
    print(f"wrote {out}")
    return 1 if problems else 0
