"""Measures how far each network's logits are from torchvision's, with the same random weights.

    python -m benchmarks.parity ['res*'] [--skip-giant]
    python -m benchmarks.parity --markdown   # prints a table of what the file holds

Writes ``benchmarks/results/parity.json``: per model its parameters, multiply-accumulates at the
standard input and the largest relative error of the logits in evaluation mode (float32). Models
measured by an earlier run keep their figures until they are measured again.
"""

import argparse
import fnmatch
import json
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks import timing
from benchmarks.torch_reference import eval_error, import_torchvision
from benchmarks.zoo import TABLE
from jaxcnn.analysis.summary import model_stats


def measure(pattern: str, skip_giant: bool) -> dict[str, dict[str, Any]]:
    """Returns the figures of each model; the error is None where torchvision has no such model."""
    results: dict[str, dict[str, Any]] = {}
    for row in TABLE:
        if not fnmatch.fnmatch(row.name, pattern) or (row.giant and skip_giant):
            continue
        stats = model_stats(row.name)
        error = eval_error(row) if row.torchvision else None
        results[row.name] = {
            "parameters": row.parameters,
            "input": list(stats.input_shape[-3:]),
            "gmacs": round(stats.macs / 1e9, 4),
            "test_size": row.size,
            "max_relative_error": error,
        }
        print(row.name, results[row.name], flush=True)
    return results


def markdown(results: dict[str, dict[str, Any]]) -> str:
    """Lays the figures out as a table, one row per model in the order of the families."""
    lines = ["| model | input | parameters | GMACs | error of logits |", "|---|---|--:|--:|--:|"]
    for row in TABLE:
        found = results[row.name]
        error = found["max_relative_error"]
        lines.append(
            f"| {row.name} | {'x'.join(map(str, found['input']))} | {found['parameters']:,} "
            f"| {found['gmacs']:.3g} | {'' if error is None else f'{error:.0e}'} |"
        )
    return "\n".join(lines)


def main() -> None:
    """Measures, prints the table, writes the JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("pattern", nargs="?", default="*")
    parser.add_argument("--skip-giant", action="store_true")
    parser.add_argument("--markdown", action="store_true", help="only prints what was measured")
    args = parser.parse_args()
    path = timing.RESULTS / "parity.json"
    results = json.loads(path.read_text())["results"] if path.is_file() else {}
    if args.markdown:
        print(markdown(results))
        return
    versions = {"torchvision": import_torchvision().__version__}
    results |= measure(args.pattern, args.skip_giant)

    table = Table("model", title="Eval-mode logits against torchvision, float32")
    for column in ("parameters", "GMACs", "largest relative error"):
        table.add_column(column, justify="right")
    for name, found in sorted(results.items()):
        error = found["max_relative_error"]
        shown = "" if error is None else f"{error:.1e}"
        table.add_row(name, f"{found['parameters']:,}", f"{found['gmacs']:.2f}", shown)
    Console(width=100).print(table)
    print(timing.write("parity", results, **versions))


if __name__ == "__main__":
    main()
