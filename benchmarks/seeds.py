"""Measures five seeds in one program against five single runs, step for step, in one process.

    python -m benchmarks.seeds [--model lenet5] [--seeds 5] [--batch-size 64] [--steps 22]
        [--rounds 15] [--modes map unroll vmap layers]

Every variant trains the same seeds for the same steps on digits, from the same states, with
augmentation: ``single`` calls the program of one run once for each seed. Compilation, evaluation
and saving are left out; a single program is also compiled once instead of five times.
"""

import argparse
import functools
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import jax
import numpy as np

from benchmarks import timing
from jaxcnn.commands.parsing import load_experiment
from jaxcnn.config import SeedsMode
from jaxcnn.data import sources
from jaxcnn.learning import mesh
from jaxcnn.runs.program import Program
from jaxcnn.runs.together import make_together

EXPERIMENT = Path(__file__).parents[1] / "experiments" / "lenet5_digits.py"


def main() -> None:
    """Measures, prints the table, writes the JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="lenet5")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--steps", type=int, default=22)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument(
        "--modes",
        nargs="+",
        default=["map", "unroll", "vmap", "layers"],
        choices=get_args(SeedsMode)[1:],
    )
    args = parser.parse_args()

    experiment = load_experiment(EXPERIMENT)
    experiment = replace(
        experiment,
        model=replace(experiment.model, name=args.model),
        data=replace(experiment.data, batch_size=args.batch_size),
    )
    dataset = sources.load(experiment.data)
    program = Program(experiment, dataset, mesh.one_device())
    if args.steps > program.steps_per_epoch:
        parser.error(f"--steps: an epoch has {program.steps_per_epoch}")
    given = program.given()
    states = tuple(program.init(np.int32(seed)) for seed in range(args.seeds))
    rates = np.tile(program.rates(experiment), (args.seeds, 1))
    ends = np.full(args.seeds, args.steps, np.int32)

    single = jax.jit(program.chunks[0])
    variants: dict[str, Callable[[], Any]] = {
        "single": lambda: [single(state, given, rates[0], np.int32(args.steps)) for state in states]
    }
    for mode in args.modes:
        together = make_together(program.chunks[0], mode, jax.devices()[: args.seeds])
        run = together if mode == "devices" else jax.jit(together)
        held = given
        if mode == "devices":
            held = program.given(
                mesh.replicated(mesh.in_a_row(jax.devices()[: args.seeds], "runs"))
            )
        variants[mode] = functools.partial(run, states, held, rates, ends)
    seconds = timing.interleaved(variants, args.rounds)

    from rich.console import Console
    from rich.table import Table

    title = f"{args.seeds} seeds of {args.model}, batch {args.batch_size}, {args.steps} steps"
    table = Table("variant", title=title)
    for column in ("ms/step of one seed", "images/s of all", "time against single"):
        table.add_column(column, justify="right")
    results = []
    for name, taken in seconds.items():
        per_step = float(np.median(taken)) / args.steps / args.seeds
        ratio = timing.median_ratio(taken, seconds["single"])
        results.append({"variant": name, "ms_per_step": 1e3 * per_step, "ratio": ratio})
        table.add_row(
            name, f"{1e3 * per_step:.2f}", f"{args.batch_size / per_step:,.0f}", f"{ratio:.2f}x"
        )
    Console(width=100).print(table)
    print(timing.write("seeds", results, **vars(args)))


if __name__ == "__main__":
    main()
