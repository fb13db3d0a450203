"""Measures how long the training step of each network takes to compile, and when that pays off.

    python -m benchmarks.compile [NAME ...] [--batch-size 8] [--dtype fp32] [--rounds 5]
        [--name compile]

Tracing included. ``lax`` is the same network with ``ops.force_impl("lax")``, as stock Flax layers
would be compiled; ``cold`` also writes the program to disk, where ``warm`` finds it, as a second
run does. Each is compiled once, in turn, with nothing in memory from before. Steps are then timed
in turn, one call each, after a first that does not count. Where ours takes longer to compile and
less for a step, it is ahead for good after ``ahead`` steps. Without names it is one network of each
family.
"""

import argparse
import math
import statistics
import tempfile
from collections.abc import Sequence
from typing import Any

import jax
from jax.experimental.compilation_cache import compilation_cache
from rich.console import Console
from rich.table import Table

from benchmarks.timing import RESULTS, interleaved, median_ratio, write
from benchmarks.zoo import ROWS, TABLE
from jaxcnn import models, ops
from jaxcnn.analysis import bench


def compile_anew(
    name: str, batch_size: int, dtype: bench.Dtype, impl: str, folder: str | None = None
) -> bench.CompiledStep:
    """Traces and compiles a training step; nothing is known from before.

    Args:
        name: the network.
        batch_size: images in a batch.
        dtype: type of the arithmetic.
        impl: "lax" or "auto", see ``ops.force_impl``.
        folder: where compiled programs are kept.
    """
    shape = models.standard_input(name)
    classes = models.standard_classes(name, shape)
    model = models.create_model(name, num_classes=classes, dtype=bench.DTYPES[dtype])
    images, labels = bench.random_batch(
        batch_size, shape, classes, per_pixel=name in models.PER_PIXEL
    )
    jax.clear_caches()
    jax.config.update("jax_compilation_cache_dir", folder)
    jax.config.update("jax_enable_compilation_cache", folder is not None)
    compilation_cache.reset_cache()
    with ops.force_impl(impl):
        return bench.compile_step(model, "train", images, labels, dtype)


def steps_until_ahead(lax_s: float, cold_s: float, lax_step_s: float, step_s: float) -> int | None:
    """Returns after how many steps ours is ahead of lax for good, or None if it never is.

    ``n`` steps take ``cold_s + n step_s`` and ``lax_s + n lax_step_s``.
    """
    longer, saved = cold_s - lax_s, lax_step_s - step_s
    if longer < 0 <= saved:
        return 0
    return math.floor(longer / saved) + 1 if saved > 0 else None


def measure(name: str, batch_size: int, dtype: bench.Dtype, rounds: int) -> dict[str, Any]:
    """Returns the seconds that each variant of a network takes to compile, and for a step."""
    lax = compile_anew(name, batch_size, dtype, "lax")
    with tempfile.TemporaryDirectory() as folder:
        cold = compile_anew(name, batch_size, dtype, "auto", folder)
        warm_s = compile_anew(name, batch_size, dtype, "auto", folder).compile_seconds
    seconds = interleaved({"lax": lax, "ours": cold}, rounds)
    compiled = {"lax_s": lax.compile_seconds, "cold_s": cold.compile_seconds}
    steps = {
        "lax_step_s": statistics.median(seconds["lax"]),
        "step_s": statistics.median(seconds["ours"]),
    }
    return {
        "model": name,
        **compiled,
        "warm_s": warm_s,
        "vs_lax": lax.compile_seconds / cold.compile_seconds,
        **steps,
        "step_vs_lax": median_ratio(seconds["lax"], seconds["ours"]),
        "ahead_after_steps": steps_until_ahead(**compiled, **steps),
    }


def show(rows: Sequence[dict[str, Any]], console: Console) -> None:
    """Prints the table, in red where it takes 5 % longer than with lax."""
    table = Table(
        title="seconds to compile, and of a training step; ratios above 1: ours is faster"
    )
    for heading in (
        "model",
        "lax",
        "cold",
        "warm",
        "/lax",
        "lax step",
        "step",
        "/lax step",
        "ahead",
    ):
        table.add_column(heading, justify="left" if heading == "model" else "right")
    for row in rows:
        compiled = [f"{row[key]:.1f}" for key in ("lax_s", "cold_s", "warm_s")]
        steps = [f"{row[key]:.4f}" for key in ("lax_step_s", "step_s")]
        ratios = [
            f"[red]{ratio:.2f}[/red]" if ratio < 0.95 else f"{ratio:.2f}"
            for ratio in (row["vs_lax"], row["step_vs_lax"])
        ]
        ahead = row["ahead_after_steps"]
        table.add_row(
            row["model"],
            *compiled,
            ratios[0],
            *steps,
            ratios[1],
            "never" if ahead is None else f"{ahead:,}",
        )
    console.print(table)


def main() -> None:
    """Measures the networks, prints the table, writes the JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    families = [row.name for row in TABLE if row.representative]
    parser.add_argument("names", nargs="*", default=families, metavar="NAME")
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--dtype", default="fp32", choices=tuple(bench.DTYPES))
    parser.add_argument("--rounds", type=int, default=5, help="steps that are timed")
    parser.add_argument("--name", default="compile", help="of the JSON file")
    options = parser.parse_args()
    if unknown := [name for name in options.names if name not in ROWS]:
        parser.error(f"{', '.join(unknown)}: must be of {', '.join(ROWS)}")
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    settings = {key: getattr(options, key) for key in ("batch_size", "dtype", "rounds")}
    rows: list[dict[str, Any]] = []
    for name in options.names:
        rows.append(measure(name, options.batch_size, options.dtype, options.rounds))
        write(options.name, rows, **settings)
    show(rows, Console(width=100))
    print(f"wrote {RESULTS / f'{options.name}.json'}")


if __name__ == "__main__":
    main()
