"""Trains every experiment of the textbook, or reuses what is done, and writes one page of all.

Command:   python -m experiments.textbook --workdir runs/textbook
"""

import argparse
import functools
import importlib
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from experiments.textbook.part import Measure, Part, of_comparison, title_and_claim
from jaxcnn import cli
from jaxcnn.analysis import report
from jaxcnn.learning import files
from jaxcnn.runs import display
from jaxcnn.runs.display import Listener

PARTS = (
    "counts",
    "shuffled_pixels",
    "normalisation",
    "translation",
    "sample_efficiency",
    "kernel_size",
    "filter_count",
    "stride",
    "padding",
    "pooling",
    "global_pooling",
    "stacked",
    "image_size",
    "inception_module",
    "auxiliary_heads",
    "random_filters",
)
"""In the order of the page."""


def measure_of(module: ModuleType) -> Measure:
    """How a part is measured: as it says itself, or as the comparison that it is."""
    own: Measure | None = getattr(module, "measure", None)
    return own or functools.partial(_compared, module)


def _compared(module: ModuleType, workdir: Path, listener: Listener, quick: bool) -> Part:
    return of_comparison(module.config(quick), workdir, listener)


def textbook(parts: Sequence[str], workdir: Path, listener: Listener, quick: bool) -> Path:
    """Measures the parts, each in a folder of its name, and writes report.html and textbook.json.

    Returns:
        The page.
    """
    measured = []
    values = {}
    page = workdir / "report.html"
    workdir.mkdir(parents=True, exist_ok=True)
    for name in parts:
        module = importlib.import_module(f"experiments.textbook.{name}")
        part = measure_of(module)(workdir / name, listener, quick)
        title, claim = title_and_claim(module)
        measured.append((title, claim, part))
        table: dict[str, Any] = {"headers": part.headers, "rows": part.rows}
        values[name] = {"title": title, "found": part.found, "setting": part.setting}
        values[name] |= {**table, **part.values}
        # After every part, so that an interrupted run has a page of what is done.
        files.write_json(workdir / "textbook.json", values)
        shown = {"title": "The textbook, executed", "parts": measured, "data": values}
        files.write_text(page, report.render("textbook.html", Path(__file__).parent, **shown))
    return page


def main(args: Sequence[str] | None = None) -> int:
    """Runs from the command line and returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m experiments.textbook")
    parser.add_argument("--workdir", type=Path, help="folder of all runs and of report.html")
    parser.add_argument("--quick", action="store_true", help="one seed of digits throughout")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS, metavar="PART")
    given = parser.parse_args(args)
    workdir = given.workdir or Path("runs") / ("textbook_quick" if given.quick else "textbook")

    def command() -> int:
        with display.display() as listener:
            print(textbook(given.only, workdir, listener, given.quick))
        return 0

    return cli.guarded(command)


if __name__ == "__main__":
    sys.exit(main())
