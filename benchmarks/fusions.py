"""Counts what a compiled training step reads and writes, fusion by fusion: passes over activations.

    python -m benchmarks.fusions MODEL [--batch-size 32] [--dtype bfloat16] [--input H W C]
        [--top 30] [--out fusions]

The step is the one that `jaxcnn train` makes (forward, backward, SGD with momentum), compiled for
the device at hand and never run. Each instruction of its optimised HLO reads its operands from
memory and writes its result, a fusion as one instruction; the table lists them by bytes. XLA's own
count is the figure to compare with: it differs by some per cent, for instance where a fusion reads
a slice of an operand, or one operand twice.

Beside the total stands the fewest bytes that a step can move,

    2 * (parameters + statistics + optimizer slots) + batch + 2 * activations,

each in bytes: what is learned and its slots are read and written once, images and labels are read,
and the outputs of convolutions and dense layers are written for the backward pass and read by it.
What lies between these can be computed on the way, and their gradients could stay on the chip, so
that no program reaches it.
"""

import argparse
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from benchmarks.timing import write
from jaxcnn import models
from jaxcnn.analysis import bench, summary
from jaxcnn.analysis.hlo import CALLED, Instruction, executed, parse, shape_bytes

DTYPES: dict[str, bench.Dtype] = {"float32": "fp32", "bfloat16": "bf16"}
FREE = frozenset(
    {"parameter", "constant", "tuple", "get-tuple-element", "bitcast", "after-all", "iota"}
)
"""Instructions that move nothing: they name a place in memory, or are known without one."""
MOVING = frozenset(
    {"copy", "transpose", "reshape", "broadcast", "concatenate", "pad", "slice", "reverse"}
    | {"dynamic-slice", "dynamic-update-slice", "convert", "copy-start", "copy-done"}
)
"""Instructions that put numbers elsewhere, or into another type."""
KINDS = {
    "convolution": re.compile("convolution|custom-call.*conv.*"),
    "product": re.compile("dot|custom-call.*(gemm|matmul|dot).*"),
    "scatter": re.compile("(select-and-)?scatter"),
    "reduction": re.compile("reduce(-window)?"),
    "other": re.compile("custom-call.*|conditional|sort|rng.*|fft|all-.*|collective-.*"),
}
"""Kinds of work, by the instructions that make a fusion of the kind; the first that holds."""
TARGET = 'custom_call_target="([^"]*)"'


class Pass(NamedTuple):
    """One instruction of the program: what it reads and writes each time, and how often it runs.

    Attributes:
        name: the instruction's name.
        kind: a key of :data:`KINDS`, "copy" or "elementwise".
        read: bytes of its operands, each counted once.
        written: bytes of its result.
        times: how often it runs, where a loop holds it.
        ops: where its operations come from, that of its result first.
    """

    name: str
    kind: str
    read: int
    written: int
    times: int
    ops: tuple[str, ...]

    @property
    def moved(self) -> int:
        """Bytes that it reads and writes in all."""
        return self.times * (self.read + self.written)


def passes(text: str) -> list[Pass]:
    """Returns what each instruction of a program moves, those in calls and loops included."""
    computations, entry = parse(text)
    shapes = {name: {one.name: one.shape for one in held} for name, held in computations.items()}
    found = []
    for computation, one, times in executed(computations, entry):
        if one.opcode in FREE:
            continue
        parts, known = list(_parts(computations, one)), shapes[computation]
        read = sum(shape_bytes(known[operand]) for operand in dict.fromkeys(one.operands))
        origins = (part.attribute('op_name="([^"]*)"') for part in parts)
        ops = tuple(dict.fromkeys(filter(None, origins)))
        found.append(Pass(one.name, _kind(parts), read, shape_bytes(one.shape), times, ops))
    return found


def _parts(
    computations: Mapping[str, list[Instruction]], one: Instruction
) -> Iterator[Instruction]:
    """Yields an instruction and, if it is a fusion, all that is fused in it, the last first."""
    yield one
    if one.opcode == "fusion":
        for part in reversed(computations[one.attribute(CALLED)]):
            yield from _parts(computations, part)


def _kind(parts: Sequence[Instruction]) -> str:
    """Names the kind of work that an instruction or the parts of a fusion do."""
    done = {
        f"{part.opcode} {part.attribute(TARGET)}".strip().lower()
        for part in parts
        if part.opcode not in FREE | {"fusion"}
    }
    for kind, pattern in KINDS.items():
        if any(map(pattern.fullmatch, done)):
            return kind
    return "elementwise" if done - MOVING else "copy"


def fewest_bytes(learned: Any, batch: Any, activations: int) -> int:
    """Returns the fewest bytes that a step can move, as the head of this file says.

    Args:
        learned: parameters, statistics and optimizer slots.
        batch: images and labels.
        activations: bytes of the outputs of convolutions and dense layers.
    """
    return 2 * _bytes(learned) + _bytes(batch) + 2 * activations


def _bytes(tree: Any) -> int:
    return sum(leaf.nbytes for leaf in jax.tree.leaves(tree))


def count(
    name: str, batch_size: int, dtype: bench.Dtype, shape: tuple[int, int, int]
) -> tuple[list[Pass], dict[str, Any]]:
    """Compiles a network's training step and returns its passes, most bytes first, and totals."""
    classes = models.standard_classes(name, shape)
    model = models.create_model(name, num_classes=classes, dtype=bench.DTYPES[dtype])
    images, labels = bench.random_batch(
        batch_size, shape, classes, per_pixel=name in models.PER_PIXEL
    )
    step = bench.compile_step(model, "train", images, labels, dtype)
    found = sorted(passes(step.compiled.as_text()), key=lambda one: -one.moved)
    state = step.variables
    learned = state.params, state.model_state, state.opt_state
    numbers = batch_size * summary.summarize(model, shape, train=True).activations
    activations = numbers * jnp.dtype(bench.DTYPES[dtype]).itemsize
    by_kind: Counter[str] = Counter()
    for one in found:
        by_kind[one.kind] += one.moved
    cost = step.compiled.cost_analysis() or {}
    totals = {
        "total": sum(by_kind.values()),
        "xla": cost.get("bytes accessed"),
        "fewest": fewest_bytes(learned, step.batch, activations),
        "activations": activations,
        "learned": _bytes(learned),
        "kinds": dict(by_kind.most_common()),
    }
    return found, totals


def show(found: Sequence[Pass], totals: Mapping[str, Any], top: int, console: Console) -> None:
    """Prints the instructions that move most, the totals of each kind, and the bounds."""
    total = totals["total"]
    table = Table(title=f"{min(top, len(found))} of {len(found)} instructions, most bytes first")
    for heading in ("MB read", "MB written", "share"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("kind", no_wrap=True)
    table.add_column("where from", overflow="fold")
    for one in found[:top]:
        place = (one.ops[0] if one.ops else one.name).removeprefix("jit(train_step)/")
        others = f" +{len(one.ops) - 1}" if len(one.ops) > 1 else ""
        rounds = f" ({one.times} times)" if one.times > 1 else ""
        table.add_row(
            *(f"{one.times * size / 1e6:,.2f}" for size in (one.read, one.written)),
            f"{one.moved / total:.1%}",
            one.kind,
            escape(place) + others + rounds,
        )
    console.print(table)
    table = Table("kind", title="by kind")
    for heading in ("instructions", "MB", "share"):
        table.add_column(heading, justify="right")
    numbers = Counter(one.kind for one in found)
    for kind, moved in totals["kinds"].items():
        table.add_row(kind, str(numbers[kind]), f"{moved / 1e6:,.2f}", f"{moved / total:.1%}")
    console.print(table)
    xla = "" if totals["xla"] is None else f" ({totals['xla'] / 1e6:,.1f} MB as XLA counts)"
    console.print(
        f"{total / 1e6:,.1f} MB read and written{xla}, {total / totals['fewest']:.1f} times the "
        f"fewest possible, {totals['fewest'] / 1e6:,.1f} MB; less the parameters and slots once, "
        f"{(total - 2 * totals['learned']) / totals['activations']:.1f} passes over the outputs of "
        "all convolutions and dense layers"
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Compiles the step, prints the tables and, if asked, writes the JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("model", metavar="MODEL")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--dtype", default="float32", choices=tuple(DTYPES))
    parser.add_argument("--input", type=int, nargs=3, metavar=("H", "W", "C"))
    parser.add_argument("--top", type=int, default=30, help="how many instructions are listed")
    parser.add_argument("--out", metavar="NAME", help="of a JSON file in the folder of results")
    options = parser.parse_args(arguments)
    if options.batch_size < 1:
        parser.error(f"--batch-size {options.batch_size}: must be at least 1")
    try:
        shape = tuple(options.input or models.standard_input(options.model))
        found, totals = count(options.model, options.batch_size, DTYPES[options.dtype], shape)
    except ValueError as error:
        parser.error(str(error))
    show(found, totals, options.top, Console(width=120))
    if options.out:
        rows = [{**one._asdict(), "moved": one.moved} for one in found]
        print("wrote", write(options.out, {**totals, "passes": rows}, **vars(options)))


if __name__ == "__main__":
    main()
