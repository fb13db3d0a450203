"""Measures how far each network's logits are from torchvision's and timm's, with random weights.

    python -m benchmarks.parity ['res*'] [--skip-giant] [--against timm]
    python -m benchmarks.parity --markdown   # prints a table of what the file holds
    python -m benchmarks.parity --names      # prints a table of timm's networks that are ours

Writes ``benchmarks/results/parity.json``: per model its parameters, multiply-accumulates at the
standard input and the largest relative error of the logits in evaluation mode (float32), against
torchvision's model and against each of timm's that it becomes. Models measured by an earlier run
keep their figures until they are measured again.
"""

import argparse
import fnmatch
import json
from importlib.metadata import version
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks import timing
from benchmarks.torch_reference import eval_error, import_torchvision, timm_error
from benchmarks.zoo import TABLE, Row
from jaxcnn.analysis.summary import model_stats
from jaxcnn.models import timm_names


def measure(row: Row, against: str) -> dict[str, Any]:
    """Returns the figures of a model; the error is None where torchvision has no such model."""
    found: dict[str, Any] = {}
    if against != "timm":
        stats = model_stats(row.name)
        found |= {
            "parameters": row.parameters,
            "input": list(stats.input_shape[-3:]),
            "gmacs": round(stats.macs / 1e9, 4),
            "test_size": row.size,
            "max_relative_error": eval_error(row) if row.torchvision else None,
        }
    if against != "torchvision":
        theirs = [name for name, (ours, _) in timm_names.NETWORKS.items() if ours == row.name]
        found["timm"] = {name: timm_error(name) for name in theirs}
    print(row.name, found, flush=True)
    return found


def _largest(errors: dict[str, float]) -> float | None:
    return max(errors.values(), default=None)


def markdown(results: dict[str, dict[str, Any]]) -> str:
    """Lays the figures out as a table, one row per model in the order of the families."""
    lines = [
        "| model | input | parameters | GMACs | error against torchvision | against timm |",
        "|---|---|--:|--:|--:|--:|",
    ]
    for row in TABLE:
        found = results[row.name]
        errors = found["max_relative_error"], _largest(found.get("timm", {}))
        shown = " | ".join("" if error is None else f"{error:.0e}" for error in errors)
        lines.append(
            f"| {row.name} | {'x'.join(map(str, found['input']))} | {found['parameters']:,} "
            f"| {found['gmacs']:.3g} | {shown} |"
        )
    return "\n".join(lines)


def names() -> str:
    """Lays out which of timm's networks is which of ours, with what options, as a table."""
    lines = ["| timm | jaxcnn | options |", "|---|---|---|"]
    for name, (ours, options) in sorted(timm_names.NETWORKS.items()):
        said = ", ".join(f"{option}={value}" for option, value in options.items())
        lines.append(f"| {name} | {ours} | {said} |")
    return "\n".join(lines)


def main() -> None:
    """Measures, prints the table, writes the JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("pattern", nargs="?", default="*")
    parser.add_argument("--skip-giant", action="store_true")
    parser.add_argument("--markdown", action="store_true", help="only prints what was measured")
    parser.add_argument("--names", action="store_true", help="only prints timm's names of ours")
    parser.add_argument("--against", choices=("torchvision", "timm", "both"), default="both")
    args = parser.parse_args()
    path = timing.RESULTS / "parity.json"
    results = json.loads(path.read_text())["results"] if path.is_file() else {}
    if args.names:
        print(names())
        return
    if args.markdown:
        print(markdown(results))
        return
    versions = {"torchvision": import_torchvision().__version__, "timm": version("timm")}
    for row in TABLE:
        if fnmatch.fnmatch(row.name, args.pattern) and not (row.giant and args.skip_giant):
            results[row.name] = results.get(row.name, {}) | measure(row, args.against)

    table = Table("model", title="Largest relative error of eval-mode logits, float32")
    for column in ("parameters", "GMACs", "torchvision", "timm"):
        table.add_column(column, justify="right")
    for name, found in sorted(results.items()):
        errors = found["max_relative_error"], _largest(found.get("timm", {}))
        shown = ["" if error is None else f"{error:.1e}" for error in errors]
        table.add_row(name, f"{found['parameters']:,}", f"{found['gmacs']:.2f}", *shown)
    Console(width=100).print(table)
    print(timing.write("parity", results, **versions))


if __name__ == "__main__":
    main()
