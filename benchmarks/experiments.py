"""Collects what the experiments have reached, from their run folders to experiments.json.

    python -m benchmarks.experiments RUN ...

Nothing is trained or measured here. Runs of one experiment that differ only in their seeds become
one row; rows of other experiments stay as they are.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from benchmarks import timing
from jaxcnn import cli
from jaxcnn.analysis import arms
from jaxcnn.commands.parsing import load_experiment
from jaxcnn.config import RESUME_MAY_CHANGE, differences, to_dict
from jaxcnn.errors import InputError

ROOT = Path(__file__).parents[1]
PATH = timing.RESULTS / "experiments.json"
Row = dict[str, Any]


def row(of: Sequence[arms.FinishedRun]) -> Row:
    """Returns the results, the cost and the environment of one experiment's runs."""
    first = of[0]
    return {
        "name": first.experiment.name,
        "epochs": first.summary.epochs,
        "seeds": [run.seed for run in of],
        "test_top1": [run.summary.value("test_top1") for run in of],
        "parameters": first.summary.parameters,
        "seconds": sum(run.summary.seconds for run in of),
        "params_sha256": [run.summary.params_sha256 for run in of],
        "environment": msgspec.to_builtins(first.environment),
    }


MAY_DIFFER = RESUME_MAY_CHANGE | {"train.seed", "model.init_from"}
"""Fields in which a run may differ from its experiment's file."""


def command() -> int:
    """Reads the runs, writes the JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN")
    args = parser.parse_args()
    old = json.loads(PATH.read_text()) if PATH.exists() else []
    rows = {(row["name"], row["epochs"]): row for row in old}
    found: dict[tuple[str, int], list[arms.FinishedRun]] = {}
    for path in arms.find(args.runs):
        run = arms.read(path)
        name = run.experiment.name
        stated = load_experiment(ROOT / "experiments" / f"{name}.py")
        changed = differences(to_dict(stated), to_dict(run.experiment)).keys() - MAY_DIFFER
        if changed:
            raise InputError(f"{path}: differs from experiments/{name}.py in {', '.join(changed)}")
        found.setdefault((name, run.summary.epochs), []).append(run)
    rows |= {key: row(of) for key, of in found.items()}
    PATH.write_text(json.dumps(list(rows.values()), indent=2) + "\n")
    print(PATH)
    return 0


if __name__ == "__main__":
    raise SystemExit(cli.guarded(command))
