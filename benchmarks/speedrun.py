"""Measures whole trainings of experiments/speedrun_cifar10.py, each of them one program.

    python -m benchmarks.speedrun [--runs 20] [--epochs 8] [--examples N] [--widths 64 256 256]
        [--dtype bfloat16] [--peer] [--name speedrun]

As the author of the recipe measures: the images lie on the device and the program is compiled;
all else counts, from the initialisation (whitening included) over training to the evaluation with
six views. A run of the same program with another seed warms up. ``--peer`` measures the same in
PyTorch too, one after the other on the same images. Needs cifar10, prepared (README, Datasets).
"""

import argparse
import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax import lax

from benchmarks.timing import write
from jaxcnn.analysis.statistics import mean_interval
from jaxcnn.commands.parsing import load_experiment
from jaxcnn.config import Experiment, Views
from jaxcnn.data import pipeline, sources
from jaxcnn.data.views import COUNTED, make_views
from jaxcnn.learning import mesh, step
from jaxcnn.runs.program import Program

EXPERIMENT = Path(__file__).parents[1] / "experiments" / "speedrun_cifar10.py"
VIEWS: Views = "flip_shift"


def make_run(program: Program) -> Callable[[int], dict[str, Any]]:
    """Compiles a whole training and its evaluation; returns ``seed -> sums`` of the test set."""
    net, data, train = program.network, program.experiment.data, program.experiment.train
    views = make_views(data, VIEWS)
    judge = step.make_eval_step(net.model, net.task, COUNTED[VIEWS])
    evaluate = step.make_evaluate(judge, lambda batch: {**batch, "image": views(batch["image"])})

    def whole(seed: Any, seen: Any, given: Any, rates: Any, batches: Any) -> Any:
        def epoch(done: Any, state: Any) -> Any:
            return program.chunks[0](state, given, rates, (done + 1) * program.steps_per_epoch)

        return evaluate(lax.fori_loop(0, train.epochs, epoch, program.begin(seed, seen)), batches)

    batches = pipeline.in_batches(program.dataset.test, data.eval_batch_size)
    rates = program.rates(program.experiment)
    held = jax.device_put((program.seen(), program.given(), rates, batches))
    compiled = jax.jit(whole).lower(np.int32(0), *held).compile()
    return lambda seed: jax.device_get(compiled(np.int32(seed), *held))


def measured(run: Callable[[int], float], runs: int) -> tuple[list[float], list[float]]:
    """Returns accuracies and seconds of runs with the seeds 0, 1, ..., after one that warms up."""
    run(runs)
    found, seconds = [], []
    for seed in range(runs):
        start = time.perf_counter()
        found.append(run(seed))
        seconds.append(time.perf_counter() - start)
    return found, seconds


def ours(experiment: Experiment, dataset: sources.Dataset, runs: int) -> dict[str, Any]:
    """Measures this project's runs."""
    program = Program(experiment, dataset, mesh.one_device())
    start = time.perf_counter()
    run = make_run(program)
    compiling = time.perf_counter() - start
    task = program.network.task
    found, seconds = measured(lambda seed: task.means(run(seed))["top1"], runs)
    return {"compile_seconds": compiling, "top1": found, "seconds": seconds}


def peers(experiment: Experiment, dataset: sources.Dataset, runs: int) -> dict[str, Any]:
    """Measures the same in PyTorch."""
    from benchmarks.speedrun_torch import Speedrun

    train, test = (pipeline.whole(split) for split in (dataset.train, dataset.test))
    widths: Any = experiment.model.options.get("widths", (64, 256, 256))
    peer = Speedrun(train, test, widths, experiment.data.batch_size)
    found, seconds = measured(lambda seed: peer.run(seed, experiment.train.epochs), runs)
    return {"top1": found, "seconds": seconds}


def main() -> None:
    """Measures, prints a line for each framework, writes the JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--examples", type=int, help="at most so many of each split's images")
    parser.add_argument("--batch-size", type=int, default=2000)
    parser.add_argument("--widths", type=int, nargs="+", help="channels of the blocks")
    parser.add_argument("--dtype", default="bfloat16", choices=("bfloat16", "float32"))
    parser.add_argument("--peer", action="store_true", help="measure PyTorch too")
    parser.add_argument("--name", default="speedrun", help="of the JSON file")
    args = parser.parse_args()

    base = load_experiment(EXPERIMENT)
    options = {"widths": tuple(args.widths)} if args.widths else {}
    experiment = replace(
        base,
        data=replace(base.data, batch_size=args.batch_size, train_limit=args.examples),
        model=replace(base.model, dtype=args.dtype, options=options),
        train=replace(base.train, epochs=args.epochs),
    )
    dataset = sources.load(experiment.data)
    tested = np.arange(len(dataset.test))[: args.examples]
    dataset = replace(dataset, test=dataset.test.take(tested))
    settings = {name: value for name, value in vars(args).items() if name != "name"}
    frameworks = {"jaxcnn": ours, **({"PyTorch": peers} if args.peer else {})}
    results: dict[str, Any] = {}
    for name, measure in frameworks.items():
        results[name] = row = measure(experiment, dataset, args.runs)
        mean, low, high = mean_interval(row["top1"])
        print(
            f"{name}: top-1 {mean:.2%}, 95 % interval {low:.2%} to {high:.2%}, "
            f"median {statistics.median(row['seconds']):.3f} s of {args.runs} runs on "
            f"{jax.devices()[0].device_kind}",
            flush=True,
        )
        written = write(args.name, results, **settings)
    print(written)


if __name__ == "__main__":
    main()
