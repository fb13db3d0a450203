"""Writes the tables of README and docs from the JSON in results/, between comments that name them.

Run it as ``python -m benchmarks.readme``.
"""

import json
import re
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

README = Path(__file__).parents[1] / "README.md"
MEASURING = README.parent / "docs" / "measuring.md"
RESULTS = Path(__file__).parent / "results"


def read(name: str) -> Any:
    """Reads what a measurement has written to results/."""
    return json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))


def table(headers: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Lays out a table in Markdown; all columns but the first hold figures."""
    rule = ["---", *["--:"] * (len(headers) - 1)]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (headers, rule, *rows))


def times(ratio: float | None) -> str:
    """Formats a ratio; None becomes an empty cell."""
    return "" if ratio is None else f"{ratio:.2f}x"


def experiments() -> str:
    """Lists the experiments trained with one seed, from ``benchmarks.experiments``."""
    headers = ("experiment", "test top-1", "parameters", "epochs", "training time", "cores")
    rows = [
        [
            row["name"],
            f"{100 * statistics.mean(row['test_top1']):.2f} %",
            f"{row['parameters']:,}",
            str(row["epochs"]),
            f"{row['seconds']:.0f} s",
            str(row["environment"]["cores"]),
        ]
        for row in read("experiments")
        if len(row["seeds"]) == 1
    ]
    return table(headers, rows)


def train_step() -> str:
    """Compares a training step of LeNet-5, from ``benchmarks.train_step``."""
    rows = [
        [row["variant"], f"{row['ms_per_step']:.2f}", times(row["ratio"])]
        for row in read("train_step")["results"]["peers"]
    ]
    return table(("variant", "ms/step", "time against ours"), rows)


def train_step_calls() -> str:
    """Compares a chunk of steps with a call per step, from ``benchmarks.train_step``."""
    rows = [
        [
            row["model"],
            "x".join(map(str, (row["batch_size"], *row["image"]))),
            f"{row['chunk_ms_per_step']:.2f}",
            f"{row['call_ms_per_step']:.2f}",
            times(row["ratio"]),
        ]
        for row in read("train_step")["results"]["calls"]
    ]
    headers = ("model", "batch", "ms/step, chunk", "ms/step, call per step", "calls over chunk")
    return table(headers, rows)


def models() -> str:
    """Compares whole networks in one process, from ``benchmarks.models``."""
    results = read("models")["results"]
    columns = {
        "over stock": "speedup_over_stock",
        "over PyTorch": "speedup_over_torch",
        "oneDNN over stock": "onednn_speedup_over_stock",
        "oneDNN over PyTorch": "onednn_speedup_over_torch",
    }
    rows = [
        [f"{row['model']}, {row['work']}", *(times(row.get(key)) for key in columns.values())]
        for row in results["models"]
    ]
    rows += [
        [f"geometric mean, {work}", *(times(mean[key]) for key in columns.values())]
        for work, mean in results["geometric_mean"].items()
    ]
    return table(("model", *columns), rows)


def vs_peers() -> str:
    """Compares frameworks in a process each, from ``benchmarks.vs_peers``."""
    results = read("vs_peers")["results"]
    names = list(results[0]["images_per_s"])
    rows = []
    for row in results:
        cells = []
        for name in names:
            speed = row["images_per_s"].get(name)
            ratio = row["speedup_of_reference_over"].get(name)
            cells.append(
                "" if speed is None else f"{speed:,.0f}" + (f" ({times(ratio)})" if ratio else "")
            )
        rows.append([f"{row['model']}, {row['work']}", *cells])
    return table(("images/s", *names), rows)


def compare_fashion_mnist() -> str:
    """Compares four networks over three seeds, from ``jaxcnn compare``."""
    rows = []
    for arm in read("compare_fashion_mnist")["results"]:
        mean, low, high = (f"{100 * arm['reached'][name]:.2f}" for name in ("mean", "low", "high"))
        difference = arm["difference"]
        rows.append(
            [
                arm["name"],
                f"{mean} % [{low}, {high}]",
                f"{100 * difference['mean']:+.2f}" if difference else "",
                f"{arm['p_adjusted']:.2g}" if difference else "",
                f"{arm['parameters']:,}",
                f"{arm['macs'] / 1e6:.2f}",
                f"{arm['seconds']:.1f} s",
                f"{arm['images_per_sec']:,.0f}",
            ]
        )
    first = rows[0][0]
    headers = ("arm", "test top-1 [95 % interval]", f"against {first}", "p", "parameters")
    return table((*headers, "million MACs", "training time", "images/s"), rows)


def beyond_accuracy() -> str:
    """Shows what else ``jaxcnn compare`` says of these networks: calibration and corruptions."""
    found = read("compare_fashion_mnist")
    first, *_ = (arm["name"] for arm in found["results"])
    shown = {
        "nll": "NLL",
        "brier": "Brier score",
        "ece": "ECE",
        "corrupted_top1": "corrupted top-1",
    }
    rows = []
    for arm in found["results"]:
        cells = [arm["name"]]
        for name in shown:
            measure, share = arm["measures"][name], name == "corrupted_top1"
            mean, low, high = (
                f"{100 * measure['reached'][k]:.2f}" if share else f"{measure['reached'][k]:.4f}"
                for k in ("mean", "low", "high")
            )
            p = measure["p_adjusted"]
            tested = "" if p is None else f", p {p:.2g}"
            cells.append(f"{mean}{' %' * share} [{low}, {high}]{tested}")
        rows.append(cells)
    return table((f"arm, p against {first}", *shown.values()), rows)


TABLES: dict[str, Callable[[], str]] = {
    f.__name__: f
    for f in (
        experiments,
        compare_fashion_mnist,
        beyond_accuracy,
        train_step,
        train_step_calls,
        models,
        vs_peers,
    )
}


def filled(text: str) -> str:
    """Returns the text of a page with every table made anew."""

    def made(found: re.Match[str]) -> str:
        return f"{found[1]}\n{TABLES[found[2]]()}\n{found[3]}"

    return re.sub(
        r"(<!-- table: (\w+) -->)\n(?:(?!<!-- table).)*?(<!-- end -->)", made, text, flags=re.DOTALL
    )


if __name__ == "__main__":
    for page in (README, MEASURING):
        page.write_text(filled(page.read_text(encoding="utf-8")), encoding="utf-8")
