"""Compares the step times that `jaxcnn plan` predicts with measured ones, on one device.

    python -m benchmarks.plan [--rounds 15] [--fit]

The steps on a GPU were measured on one NVIDIA H200: they are those of ``benchmarks/results/h200``.
Those on the CPU are measured here and now, one network after the other in each round, beside the
matrix product and the copy that make the roofline. Two steps of each kind are those that the
attained share and the overhead of a layer were fitted to (``--fit`` prints what they would be);
the errors of the others are what a prediction can be trusted to. Memory and energy are compared
where the H200's were counted.
"""

import argparse
import csv
import json
import statistics
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks import timing
from jaxcnn import models, ops
from jaxcnn.analysis import bench
from jaxcnn.analysis.cards import CARDS, Card, this_machine
from jaxcnn.analysis.roofline import DTYPES, Dtype
from jaxcnn.analysis.step_cost import StepCost, step_cost
from jaxcnn.commands.parsing import load_experiment
from jaxcnn.config import Data, Experiment, Model
from jaxcnn.runs import forecast

H200 = Path(__file__).parent / "results" / "h200"
EXPERIMENTS = Path(__file__).parents[1] / "experiments"


@dataclass(frozen=True)
class Step:
    """A training step of one device.

    Attributes:
        model: the network.
        images: the batch.
        dtype: type of the arithmetic.
        input_shape: ``(h, w, c)``.
        fitted: whether the model of the time was fitted to it.
        source: where it was measured.
        options: options of the network.
    """

    model: str
    images: int
    dtype: Dtype
    input_shape: tuple[int, int, int]
    fitted: bool = False
    source: str = "here"
    options: tuple[tuple[str, Any], ...] = ()

    def network(self) -> Any:
        """Builds the network."""
        classes = 1000 if self.input_shape[0] == 224 else 10
        dtype = DTYPES[self.dtype]
        return models.create_model(
            self.model, num_classes=classes, dtype=dtype, **dict(self.options)
        )

    def cost(self, card: Card) -> StepCost:
        """Counts what its layers need, as a card carries them out."""
        with ops.force_impl("lax", platform=card.platform):
            return step_cost(self.network(), self.input_shape, self.dtype)


CIFAR, GREY = (32, 32, 3), (32, 32, 1)
ON_CPU = (
    Step("resnet20", 32, "fp32", CIFAR, fitted=True),
    Step("lenet5", 4, "fp32", GREY, fitted=True),
    Step("lenet5", 64, "fp32", GREY),
    Step("convnet", 32, "fp32", (28, 28, 1)),
    Step("resnet20", 8, "fp32", CIFAR),
    Step("resnet18", 4, "fp32", CIFAR, options=(("small_images", True),)),
)
"""The steps that are measured here."""


def on_h200() -> Iterator[tuple[Step, float]]:
    """Yields the steps that were measured on one H200, and the seconds that each took."""
    photo = (224, 224, 3)
    yield (
        Step("resnet50", 256, "bf16", photo, True, "bench.csv"),
        float(_of_resnet50()["train_step_time"]) / 1e3,
    )
    peers = json.loads((H200 / "vs_peers.json").read_text())["results"]
    (found,) = [row for row in peers if row["work"] == "train"]
    yield (
        Step("resnet50", found["batch_size"], "bf16", photo, False, "vs_peers.json"),
        found["batch_size"] / found["images_per_s"]["jaxcnn"],
    )
    steps = json.loads((H200 / "train_step.json").read_text())
    for row in steps["results"]["calls"]:
        h, w, c = row["image"]
        fitted = row["model"] == "resnet20"
        yield (
            Step(row["model"], row["batch_size"], "fp32", (h, w, c), fitted, "train_step.json"),
            row["chunk_ms_per_step"] / 1e3,
        )
    chunk = steps["results"]["peers"][0]["ms_per_step"] / 1e3
    images = steps["settings"]["batch_size"]
    yield Step("lenet5", images, "fp32", GREY, False, "train_step.json"), chunk
    speedrun = json.loads((H200 / "speedrun.json").read_text())
    images, runs = speedrun["settings"]["batch_size"], speedrun["results"]["jaxcnn"]["seconds"]
    steps_of_run = speedrun["settings"]["epochs"] * (50_000 // images)
    yield (
        Step("airbench", images, "bf16", CIFAR, False, "speedrun.json, with evaluation"),
        statistics.median(runs) / steps_of_run,
    )
    small = (("small_images", True),)
    for name, run in (
        ("resnet20_cifar10", Step("resnet20", 128, "fp32", CIFAR)),
        ("resnet18_cifar10", Step("resnet18", 512, "bf16", CIFAR, options=small)),
    ):
        summary = json.loads((H200 / f"{name}.json").read_text())["summary"]
        yield (
            Step(run.model, run.images, run.dtype, CIFAR, False, f"{name}.json", run.options),
            summary["step_time"],
        )


def measured_here(rounds: int) -> tuple[dict[Step, float], Card]:
    """Measures :data:`ON_CPU` and the roofline in turn; returns medians of seconds, and the CPU."""
    variants: dict[Any, Callable[[], Any]] = {}
    seen: list[Card] = []
    for step in ON_CPU:
        images, labels = bench.random_batch(step.images, step.input_shape, 10)
        variants[step] = bench.compile_step(step.network(), "train", images, labels, step.dtype)
    variants["roofs"] = lambda: seen.append(this_machine())
    taken = timing.interleaved(variants, rounds)
    roofs = [card.roofs("fp32") for card in seen[1:]]
    flops, moved = (statistics.median(numbers) for numbers in zip(*roofs, strict=True))
    card = replace(seen[0], flops={"fp32": flops, "bf16": flops}, bandwidth=moved)
    return {step: statistics.median(taken[step]) for step in ON_CPU}, card  # type: ignore[index]


def fit(steps: dict[Step, float], card: Card) -> tuple[float, float]:
    """Returns the share and the overhead with which two steps take the time that was measured.

    They solve ``seconds = least / share + layers * overhead`` for both.
    """
    (a, b, seconds), (c, d, others) = (
        (cost.least(step.images, card.roofs(step.dtype)), len(cost.layers), taken)
        for step, taken in steps.items()
        if step.fitted
        for cost in [step.cost(card)]
    )
    inverse = (seconds * d - others * b) / (a * d - c * b)
    return 1 / inverse, (seconds - a * inverse) / b


def rows(steps: dict[Step, float], card: Card) -> list[dict[str, Any]]:
    """Returns what is predicted and what was measured of each step, in milliseconds."""
    found = []
    for step, taken in steps.items():
        predicted = step.cost(card).seconds(step.images, card, step.dtype)
        found.append(
            {
                "model": step.model,
                "images": step.images,
                "image": list(step.input_shape),
                "dtype": step.dtype,
                "source": step.source,
                "fitted": step.fitted,
                "measured_ms": bench.rounded(1e3 * taken),
                "predicted_ms": bench.rounded(1e3 * predicted),
                "error": bench.rounded(predicted / taken - 1),
            }
        )
    return found


def memory_on_h200() -> list[dict[str, Any]]:
    """Returns what is predicted and what was counted of memory on one H200, in megabytes.

    Of ResNet-50 the card counted the peak; of the others it is what XLA planned there.
    """
    photos = Experiment(
        name="resnet50",
        data=Data("synthetic", image_size=224, num_classes=1000, batch_size=256, examples=(256, 1)),
        model=Model("resnet50", dtype="bfloat16"),
    )
    cases = [(photos, float(_of_resnet50()["train_peak_memory"]), "bench.csv")]
    for name in ("resnet18_cifar10", "resnet20_cifar10"):
        summary = json.loads((H200 / f"{name}.json").read_text())["summary"]
        experiment = load_experiment(EXPERIMENTS / f"{name}.py")
        cases.append((experiment, summary["memory_bytes"], f"{name}.json"))
    found = []
    for experiment, counted, source in cases:
        experiment = forecast.settle(experiment, 1)
        dataset = forecast.dataset_of(experiment)
        needed = forecast.forecast(experiment, dataset, CARDS["h200"], 1).needed
        found.append(
            {
                "experiment": experiment.name,
                "source": source,
                "measured_mb": bench.rounded(counted / 1e6),
                "predicted_mb": bench.rounded(needed / 1e6),
                "error": bench.rounded(needed / counted - 1),
            }
        )
    return found


def energy_on_h200() -> dict[str, float]:
    """Returns the joules for 1,000 images of ResNet-50 as counted on one H200, and at its watts."""
    row = _of_resnet50()
    counted, watts = float(row["train_joules_per_1000"]), CARDS["h200"].watts
    assert watts is not None
    at_most = 1000 * watts / float(row["train_samples_per_sec"])
    return {"measured": counted, "predicted": at_most, "error": at_most / counted - 1}


def _of_resnet50() -> dict[str, str]:
    """Returns ResNet-50's row of what `jaxcnn bench` measured on one H200."""
    with (H200 / "bench.csv").open() as file:
        return next(row for row in csv.DictReader(file) if row["model"] == "resnet50")


def errors(found: list[dict[str, Any]]) -> dict[str, float]:
    """Returns how many steps were not fitted, and the median and largest of their errors."""
    sizes = [abs(row["error"]) for row in found if not row["fitted"]]
    return {"steps": len(sizes), "median": statistics.median(sizes), "largest": max(sizes)}


def main() -> None:
    """Predicts, measures, prints the table and writes the JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--fit", action="store_true", help="prints what is fitted")
    args = parser.parse_args()
    measured = {"h200": (dict(on_h200()), CARDS["h200"]), "cpu": measured_here(args.rounds)}
    results: dict[str, Any] = {}
    table = Table("card", "model", "images", "type", title="One training step on one device")
    for heading in ("measured ms", "predicted ms", "error"):
        table.add_column(heading, justify="right")
    table.add_column("from")
    for name, (steps, card) in measured.items():
        found = rows(steps, card)
        share, overhead = fit(steps, card)
        results[name] = {
            "steps": found,
            "errors": errors(found),
            "fitted": {"share": share, "overhead": overhead},
            "roofs": {dtype: card.roofs(dtype)._asdict() for dtype in ("fp32", "bf16")},
        }
        for row in found:
            table.add_row(
                *(name, row["model"], "x".join(map(str, (row["images"], *row["image"])))),
                *(row["dtype"], f"{row['measured_ms']:.3f}", f"{row['predicted_ms']:.3f}"),
                f"{row['error']:+.0%}",
                row["source"] + ", fitted" * row["fitted"],
            )
        if args.fit:
            print(f"{name}: Attained({share:.3f}, {overhead:.3g})")
    console = Console(width=110)
    console.print(table)
    for name, result in results.items():
        of = result["errors"]
        console.print(
            f"{name}: {of['steps']} steps that nothing was fitted to: median error "
            f"{of['median']:.0%}, largest {of['largest']:.0%}"
        )
    results["h200"] |= {"memory": memory_on_h200(), "joules_per_1000": energy_on_h200()}
    for row in results["h200"]["memory"]:
        console.print(
            f"memory of {row['experiment']}: {row['predicted_mb']:,.0f} MB predicted, "
            f"{row['measured_mb']:,.0f} MB on the H200 ({row['error']:+.0%})"
        )
    joules = results["h200"]["joules_per_1000"]
    console.print(
        f"energy of 1,000 images in ResNet-50: {joules['predicted']:.1f} J predicted, "
        f"{joules['measured']:.1f} J on the H200 ({joules['error']:+.0%})"
    )
    print("wrote", timing.write("plan", results, rounds=args.rounds))


if __name__ == "__main__":
    main()
