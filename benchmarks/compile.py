"""Measures how long the training step of each network takes to compile, cold and warm.

    python -m benchmarks.compile [NAME ...] [--batch-size 8] [--dtype fp32] [--name compile]

Tracing included. ``lax`` is the same network with ``ops.force_impl("lax")``, as stock Flax layers
would be compiled; ``warm`` finds the program on disk, as a second run does. Each is compiled once,
in turn, with nothing in memory from before. Without names it is one network of each family.
"""

import argparse
import tempfile
from collections.abc import Sequence
from typing import Any

import jax
from jax.experimental.compilation_cache import compilation_cache
from rich.console import Console
from rich.table import Table

from benchmarks.timing import RESULTS, write
from benchmarks.zoo import ROWS, TABLE
from jaxcnn import models, ops
from jaxcnn.analysis import bench


def compile_seconds(
    name: str, batch_size: int, dtype: bench.Dtype, impl: str, folder: str | None = None
) -> float:
    """Returns the seconds to trace and compile a training step; nothing is known from before.

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
        return bench.compile_step(model, "train", images, labels, dtype).compile_seconds


def measure(name: str, batch_size: int, dtype: bench.Dtype) -> dict[str, Any]:
    """Returns the seconds of each variant of a network."""
    found: dict[str, Any] = {"model": name}
    found["lax_s"] = compile_seconds(name, batch_size, dtype, "lax")
    with tempfile.TemporaryDirectory() as folder:
        for variant in ("cold", "warm"):
            found[f"{variant}_s"] = compile_seconds(name, batch_size, dtype, "auto", folder)
    return {**found, "vs_lax": found["lax_s"] / found["cold_s"]}


def show(rows: Sequence[dict[str, Any]], console: Console) -> None:
    """Prints the table, in red where it takes 5 % longer than with lax."""
    table = Table(title="seconds to compile a training step; ratios above 1: ours is faster")
    for heading in ("model", "lax", "cold", "warm", "/lax"):
        table.add_column(heading, justify="left" if heading == "model" else "right")
    for row in rows:
        ratio = f"{row['vs_lax']:.2f}"
        figures = [f"{row[f'{name}_s']:.1f}" for name in ("lax", "cold", "warm")]
        table.add_row(
            row["model"], *figures, f"[red]{ratio}[/red]" if row["vs_lax"] < 0.95 else ratio
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
    parser.add_argument("--name", default="compile", help="of the JSON file")
    options = parser.parse_args()
    if unknown := [name for name in options.names if name not in ROWS]:
        parser.error(f"{', '.join(unknown)}: must be of {', '.join(ROWS)}")
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    rows: list[dict[str, Any]] = []
    for name in options.names:
        rows.append(measure(name, options.batch_size, options.dtype))
        write(options.name, rows, batch_size=options.batch_size, dtype=options.dtype)
    show(rows, Console(width=100))
    print(f"wrote {RESULTS / f'{options.name}.json'}")


if __name__ == "__main__":
    main()
