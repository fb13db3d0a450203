"""Measures whole networks against stock Flax, PyTorch and Keras, in inference and training.

    python benchmarks/vs_peers.py [MODEL ...] [--dtype fp32] [--batch-size N] [--rounds 7]

Every framework has a process of its own, so that no thread pool or allocator is shared. In each
round they take turns: one measures while the others wait for their pipes. The architectures, the
batch, the images, the precision and the optimizer (SGD with momentum) are the same; in bf16 the
parameters stay float32 everywhere. ``stock Flax`` is the same network with XLA's own convolutions,
pools and gradients. Prints a table, writes vs_peers.json and vs_peers.png.
"""

import argparse
import functools
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).parents[1]
if __name__ == "__main__" and not __package__:
    sys.path[0] = str(ROOT)

from benchmarks import peers, timing  # noqa: E402 - found only now where this file is the program

CASES = {
    # model: image, classes, the stem for small images, batch on a CPU
    "lenet5": ((32, 32, 1), 10, False, 64),
    "resnet18": ((32, 32, 3), 10, True, 16),
    "mobilenet_v2": ((64, 64, 3), 10, False, 8),
    "resnet50": ((224, 224, 3), 1000, False, 2),
}
DEFAULT = ("lenet5", "resnet18", "mobilenet_v2")
GPU_BATCH = 128
ROUND_SECONDS = 0.3
"""The length of one framework's turn in a round, which is at least a step."""


class Peer:
    """A framework in a process of its own."""

    def __init__(self, framework: str) -> None:
        path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
        self.process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.peers", framework],
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": path},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )

    def ask(self, **request: Any) -> dict[str, Any]:
        """Sends a request and waits for the answer, which has ``error`` where something failed."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        try:
            self.process.stdin.write(json.dumps(request) + "\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            return {"error": "the process has died"}
        line = self.process.stdout.readline()
        return json.loads(line) if line else {"error": "the process has died"}

    def close(self) -> None:
        """Ends the process."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()


Report = Callable[[str], None]


def measure(
    running: dict[str, Peer], case: peers.Case, rounds: int, report: Report, skipped: dict[str, str]
) -> Iterator[dict[str, Any]]:
    """Measures one network in every framework.

    Args:
        running: the processes, by framework.
        case: the network and its input.
        rounds: the number of measured rounds.
        report: called with a line of text whenever something happens.
        skipped: is given the reason of each framework that fails.

    Yields:
        The images per second for one kind of work after the other.
    """
    versions, able = {}, {}
    for name, peer in running.items():
        started = time.perf_counter()
        answer = peer.ask(case=case._asdict())
        if "error" in answer:
            skipped[name] = answer["error"]
            report(f"{case.model}: {name} skipped: {answer['error']}")
            continue
        able[name] = peer
        versions[name] = f"{answer['version']} on {answer['device']}"
        report(f"{case.model}: {name} ready after {time.perf_counter() - started:.0f} s")
    for work in peers.WORKS:
        steps = {}
        for name, peer in able.items():
            answer = peer.ask(work=work, steps=1)
            steps[name] = max(1, round(ROUND_SECONDS / answer.get("seconds", ROUND_SECONDS)))
        seconds: dict[str, list[float]] = {name: [] for name in able}
        for _ in range(rounds):
            for name, peer in able.items():
                time.sleep(0.02)  # the last one's threads may spin for a while
                answer = peer.ask(work=work, steps=steps[name])
                if "error" in answer:
                    skipped[name] = answer["error"]
                else:
                    seconds[name].append(answer["seconds"])
        whole = {name: taken for name, taken in seconds.items() if len(taken) == rounds}
        reference = next(iter(whole), "")
        yield {
            "model": case.model,
            "work": work,
            "image": list(case.shape),
            "batch_size": case.batch_size,
            "dtype": case.dtype,
            "frameworks": versions,
            "images_per_s": {
                name: case.batch_size / statistics.median(taken) for name, taken in whole.items()
            },
            "reference": reference,
            "speedup_of_reference_over": {
                name: timing.median_ratio(taken, whole[reference])
                for name, taken in whole.items()
                if name != reference
            },
        }


def table(results: list[dict[str, Any]], names: list[str]) -> Table:
    """Lays out the images per second, and how many times faster the first framework is."""
    title = "images/s (in brackets: how many times faster the first column is)"
    laid_out = Table("model", "", title=title)
    for name in names:
        laid_out.add_column(name, justify="right")
    for result in results:
        cells = []
        for name in names:
            speed = result["images_per_s"].get(name)
            ratio = result["speedup_of_reference_over"].get(name)
            cell = "" if speed is None else f"{speed:,.1f}"
            cells.append(cell if ratio is None else f"{cell} ({ratio:.2f}x)")
        laid_out.add_row(result["model"], result["work"], *cells)
    return laid_out


def save_plot(results: list[dict[str, Any]], names: list[str], path: Path) -> None:
    """Draws the speed of every framework as a multiple of the first one's."""
    from jaxcnn.analysis.plots import canvas

    with canvas(2 + 1.6 * len(results), 3.6, path) as figure:
        axes = figure.subplots()
        width = 0.8 / len(names)
        for i, name in enumerate(names):
            ratios = [
                float(name == r["reference"])
                or 1 / r["speedup_of_reference_over"].get(name, float("inf"))
                for r in results
            ]
            axes.bar([k + i * width for k in range(len(results))], ratios, width, label=name)
        ticks = [k + 0.4 - width / 2 for k in range(len(results))]
        axes.set_xticks(ticks, [f"{r['model']}\n{r['work']}" for r in results])
        axes.set(ylabel=f"speed, {names[0]} = 1", title=f"images/s, {results[0]['dtype']}")
        axes.grid(axis="y")
        figure.legend(loc="outside lower center", ncols=len(names), fontsize="small")


def on_gpu() -> bool:
    """Tells whether JAX finds a GPU; a process of its own asks, and gives the device back."""
    code = "import jax; print(jax.default_backend())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    return done.stdout.strip() not in {"cpu", ""}


def main() -> None:
    """Measures, prints the table, writes the JSON and the plot."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", default=list(DEFAULT), metavar="MODEL")
    parser.add_argument("--dtype", choices=("fp32", "bf16"), default="fp32")
    parser.add_argument("--batch-size", type=int, default=None)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--frameworks", nargs="+", default=list(peers.FRAMEWORKS))
    args = parser.parse_args()
    for given, known in ((args.names, CASES), (args.frameworks, peers.FRAMEWORKS)):
        for name in given:
            if name not in known:
                parser.error(f"{name!r}: must be one of {', '.join(known)}")
    gpu = args.batch_size is None and on_gpu()
    running = {name: Peer(name) for name in args.frameworks}
    results: list[dict[str, Any]] = []
    skipped: dict[str, dict[str, str]] = {}
    settings = {"dtype": args.dtype, "rounds": args.rounds, "skipped": skipped}
    report = functools.partial(print, flush=True)
    for name in args.names:
        shape, classes, small, cpu_batch = CASES[name]
        batch = args.batch_size or (GPU_BATCH if gpu else cpu_batch)
        case = peers.Case(name, shape, classes, small, batch, args.dtype)
        skipped[name] = {}
        for result in measure(running, case, args.rounds, report, skipped[name]):
            results.append(result)
            written = timing.write("vs_peers", results, **settings)  # lest it be cut off later
    for peer in running.values():
        peer.close()
    ran = [name for name in args.frameworks if any(name in r["images_per_s"] for r in results)]
    Console(width=150).print(table(results, ran))
    print(written)
    try:
        save_plot(results, ran, timing.RESULTS / "vs_peers.png")
    except ImportError as error:
        print(f"no plot: {error}")


if __name__ == "__main__":
    main()
