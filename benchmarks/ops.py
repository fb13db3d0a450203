"""Measures the ops against plain lax and PyTorch, on the layer shapes of well-known networks.

    python -m benchmarks.ops [--select resnet] [--quick] [--no-torch] [--rounds 9] [--name ops]
    python -m benchmarks.ops --card --dtype bfloat16   # the zoo's stems and pools, on a GPU

For every shape the forward pass, each gradient and all three together are timed as one jitted
program, and all three once more as the body of a ``lax.scan`` (with lax only where that ends in
reasonable time; ``vs_outside`` in the JSON is what the scan costs ops). In each round the variants
take turns, so that a ratio compares neighbours in time: ``lax`` is ``impl="lax"``, ``ops`` is
``impl="auto"`` without oneDNN, ``onednn`` with it, where `jaxcnn native build` has built it;
``torch`` is eager, channels_last, with as many threads. Then two
LeNet-like networks are trained for eight steps in one program, as a loop and unrolled. With
``--card`` the shapes fill an accelerator, and nothing is measured inside a scan.
"""

import argparse
import functools
import json
import math
import os
import statistics
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from rich.console import Console
from rich.table import Table

from benchmarks.timing import RESULTS, interleaved, median_ratio, write
from jaxcnn import ops
from jaxcnn.ops import lowering

try:
    import torch
except ImportError:
    torch = None

SCAN_STEPS = 4


class Case(NamedTuple):
    """One layer: a convolution (kernel and channels) or a pool (``out`` is 0)."""

    network: str
    op: str
    batch: int
    size: int
    channels: int
    out: int
    kernel: int
    stride: int = 1
    padding: int = 0
    groups: int = 1

    @property
    def name(self) -> str:
        """Names the layer, such as "conv 3x3/2 64-128 @56 g32"."""
        channels = f"{self.channels}-{self.out}" if self.out else f"{self.channels}"
        groups = f" g{self.groups}" if self.groups > 1 else ""
        return (
            f"{self.op} {self.kernel}x{self.kernel}/{self.stride} {channels} @{self.size}{groups}"
        )


CASES = [
    Case("LeNet-5", "conv", 64, 28, 1, 6, 5, 1, 2),
    Case("LeNet-5", "conv", 64, 14, 6, 16, 5),
    Case("LeNet-5", "max_pool", 64, 28, 6, 0, 2, 2),
    Case("LeNet-5", "avg_pool", 64, 28, 6, 0, 2, 2),
    Case("ResNet-18/CIFAR", "conv", 32, 32, 3, 64, 3, 1, 1),
    Case("ResNet-18/CIFAR", "conv", 32, 32, 64, 64, 3, 1, 1),
    Case("ResNet-18/CIFAR", "conv", 32, 32, 64, 128, 3, 2, 1),
    Case("ResNet-18/CIFAR", "conv", 32, 16, 128, 128, 3, 1, 1),
    Case("ResNet-18/CIFAR", "conv", 32, 8, 256, 256, 3, 1, 1),
    Case("ResNet-18/CIFAR", "conv", 32, 4, 512, 512, 3, 1, 1),
    Case("ResNet-18/224", "conv", 8, 224, 3, 64, 7, 2, 3),
    Case("ResNet-18/224", "max_pool", 8, 112, 64, 0, 3, 2, 1),
    Case("ResNet-18/224", "conv", 8, 56, 64, 64, 3, 1, 1),
    Case("ResNet-18/224", "conv", 8, 56, 64, 128, 1, 2),
    Case("ResNet-18/224", "conv", 8, 14, 256, 256, 3, 1, 1),
    Case("MobileNetV2", "conv", 8, 112, 3, 32, 3, 2, 1),
    Case("MobileNetV2", "conv", 8, 56, 24, 144, 1),
    Case("MobileNetV2", "conv", 8, 56, 144, 144, 3, 1, 1, 144),
    Case("MobileNetV2", "conv", 8, 28, 192, 192, 3, 2, 1, 192),
    Case("MobileNetV2", "conv", 8, 14, 384, 384, 3, 1, 1, 384),
    Case("MobileNetV2", "conv", 8, 14, 384, 64, 1),
    Case("ResNeXt-50", "conv", 4, 56, 128, 128, 3, 1, 1, 32),
    Case("ResNeXt-50", "conv", 8, 14, 512, 512, 3, 1, 1, 32),
    Case("VGG-16", "conv", 2, 112, 64, 128, 3, 1, 1),
    Case("VGG-16", "max_pool", 8, 112, 64, 0, 2, 2),
    Case("Inception", "max_pool", 8, 28, 256, 0, 3, 1, 1),
    Case("Inception", "avg_pool", 8, 28, 256, 0, 3, 1, 1),
]
# The stems and pools of the zoo, at a batch that fills a card.
CARD = [
    Case("ResNet", "conv", 256, 224, 3, 64, 7, 2, 3),
    Case("ResNet", "max_pool", 256, 112, 64, 0, 3, 2, 1),
    Case("VGG", "max_pool", 64, 224, 64, 0, 2, 2),
    Case("GoogLeNet", "max_pool", 256, 14, 480, 0, 3, 1, 1),
    Case("AlexNet", "conv", 256, 224, 3, 64, 11, 4, 2),
    Case("ConvNeXt", "conv", 256, 224, 3, 96, 4, 4),
    Case("MobileNet", "conv", 256, 224, 3, 32, 3, 2, 1),
    Case("AlexNet", "max_pool", 256, 55, 64, 0, 3, 2),
    Case("VGG", "max_pool", 256, 28, 512, 0, 2, 2),
    Case("DenseNet", "avg_pool", 256, 56, 128, 0, 2, 2),
    Case("Inception-v3", "avg_pool", 256, 35, 192, 0, 3, 1, 1),
    Case("ResNet/CIFAR", "conv", 256, 32, 3, 16, 3, 1, 1),
    Case("LeNet-5/MNIST", "max_pool", 256, 28, 6, 0, 2, 2),
]
QUICK = ("LeNet-5", "Inception")
TORCH_GRID = ("LeNet-5", "ResNet-18/CIFAR", "ResNet-18/224", "MobileNetV2")


def random(seed: int, *shape: int, dtype: str = "float32") -> Array:
    """Draws standard normal numbers: zeros may be faster to compute with."""
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape, np.float32), dtype)


def layer(case: Case, impl: str) -> Callable[..., Array]:
    """Returns the op as a function of its arrays alone."""
    if case.op == "conv":
        return functools.partial(
            ops.conv, stride=case.stride, padding=case.padding, groups=case.groups, impl=impl
        )
    pool = ops.max_pool if case.op == "max_pool" else ops.avg_pool
    return lambda x: pool(x, case.kernel, stride=case.stride, padding=case.padding, impl=impl)


def arrays(case: Case, dtype: str = "float32") -> tuple[Array, ...]:
    """Draws x, and w for a convolution. A pool gets zeros that tie, as after a ReLU."""
    x = random(0, case.batch, case.size, case.size, case.channels, dtype=dtype)
    if case.op != "conv":
        return (jax.nn.relu(x),)
    shape = case.kernel, case.kernel, case.channels // case.groups, case.out
    return x, random(1, *shape, dtype=dtype)


def programs(case: Case, impl: str) -> dict[str, Callable[..., Any]]:
    """Returns each direction as a function of (inputs, dy)."""
    f = layer(case, impl)

    def gradient(index: int) -> Callable[..., Any]:
        def run(inputs: tuple[Array, ...], dy: Array) -> Array:
            varied = lambda a: f(*inputs[:index], a, *inputs[index + 1 :])  # noqa: E731
            return jax.vjp(varied, inputs[index])[1](dy)[0]

        return run

    def everything(inputs: tuple[Array, ...], dy: Array) -> Any:
        y, pullback = jax.vjp(f, *inputs)
        return y, *pullback(dy)

    def scanned(inputs: tuple[Array, ...], dy: Array) -> Any:
        def body(carry: tuple[tuple[Array, ...], Array], _: None) -> tuple[Any, None]:
            y, *gradients = everything(carry[0], dy)
            # The next step needs the gradients of this one; y is carried, so that it is computed.
            return (tuple(a + 1e-9 * g for a, g in zip(carry[0], gradients, strict=True)), y), None

        return jax.lax.scan(body, (inputs, jnp.zeros_like(dy)), length=SCAN_STEPS)[0]

    result: dict[str, Callable[..., Any]] = {"forward": lambda inputs, dy: f(*inputs)}
    result["dx"] = gradient(0)
    if case.op == "conv":
        result["dw"] = gradient(1)
    return {**result, "all": everything, "scan": scanned}


def torch_programs(
    case: Case, inputs: tuple[Array, ...], dy: Array
) -> dict[str, Callable[[], Any]]:
    """Returns the same in eager PyTorch, through the kernels that its autograd calls."""

    def channels_last(a: Array, order: tuple[int, ...]) -> Any:
        tensor = torch.from_numpy(np.asarray(a).transpose(order).copy())
        return tensor.contiguous(memory_format=torch.channels_last)

    aten, s, p = torch.ops.aten, [case.stride] * 2, [case.padding] * 2
    x, g = (channels_last(a, (0, 3, 1, 2)) for a in (inputs[0], dy))
    if case.op == "conv":
        w = channels_last(inputs[1], (3, 2, 0, 1))

        def backward(*mask: bool) -> Any:
            return aten.convolution_backward(
                g, x, w, None, s, p, [1, 1], False, [0, 0], case.groups, list(mask)
            )

        forward = lambda: torch.nn.functional.conv2d(x, w, None, s, p, 1, case.groups)  # noqa: E731
        return {
            "forward": forward,
            "dx": lambda: backward(True, False, False),
            "dw": lambda: backward(False, True, False),
            "all": lambda: (forward(), backward(True, True, False)),
        }
    k = [case.kernel] * 2
    if case.op == "max_pool":
        forward = lambda: aten.max_pool2d_with_indices(x, k, s, p)  # noqa: E731
        index = forward()[1]
        pullback = lambda: aten.max_pool2d_with_indices_backward(  # noqa: E731
            g, x, k, s, p, [1, 1], False, index
        )
    else:
        forward = lambda: aten.avg_pool2d(x, k, s, p)  # noqa: E731
        pullback = lambda: aten.avg_pool2d_backward(  # noqa: E731
            g, x, k, s, p, False, True, None
        )
    return {"forward": forward, "dx": pullback, "all": lambda: (forward(), pullback())}


def measure(
    case: Case, rounds: int, with_torch: bool, dtype: str = "float32", with_scan: bool = True
) -> list[dict[str, Any]]:
    """Returns a row per direction: times in milliseconds and ratios (above 1: ops is faster)."""
    inputs = arrays(case, dtype)
    dy = random(2, *jax.eval_shape(layer(case, "lax"), *inputs).shape, dtype=dtype)
    peers = torch_programs(case, inputs, dy) if with_torch else {}
    rows = []
    with lowering.without_onednn():
        plan = ops.explain(layer(case, "auto"), *inputs)[0].plan
    chosen = {"forward": plan.forward, "dx": plan.input_gradient, "dw": plan.weight_gradient}
    compiled: dict[tuple[str, str], Callable[[], Any]] = {}
    for impl in implementations():
        if impl == "onednn" and case.op != "conv":
            continue  # it has no pools here
        for direction, program in programs(case, "lax" if impl == "lax" else "auto").items():
            if direction == "scan" and not with_scan:
                continue
            if (impl, direction) == ("lax", "scan") and _seconds(compiled["lax", "all"]) > 0.01:
                continue  # XLA's naive kernel for loops would take minutes
            with lowering.without_onednn(impl != "onednn"):
                executable = jax.jit(program).lower(inputs, dy).compile()
            compiled[impl, direction] = functools.partial(executable, inputs, dy)
    for direction in programs(case, "auto"):
        if ("auto", direction) not in compiled:
            continue
        variants: dict[str, Callable[[], Any]] = {}
        if ("lax", direction) in compiled:
            variants["lax"] = compiled["lax", direction]
        variants["ops"] = compiled["auto", direction]
        if ("onednn", direction) in compiled:
            variants["onednn"] = compiled["onednn", direction]
        if direction == "scan":
            variants["outside"] = compiled["auto", "all"]
        if direction in peers:
            # OpenMP's threads spin for a while after a call and would slow down their neighbour.
            rest = functools.partial(time.sleep, 0.005)
            torch_call = functools.partial(_discard, peers[direction])
            variants |= {"rest": rest, "torch": torch_call, "rest again": rest}
        slow = "lax" in variants and _seconds(variants["lax"]) > 0.5
        seconds = interleaved(variants, 3 if slow else rounds)
        if direction == "scan":
            for name in ("ops", "onednn", "lax"):
                seconds[name] = [s / SCAN_STEPS for s in seconds.get(name, [])]
        seconds = {name: t for name, t in seconds.items() if t and not name.startswith("rest")}
        row = {
            "network": case.network,
            "case": case.name,
            "batch": case.batch,
            "direction": direction,
            "impl": chosen.get(direction, ""),
            **{f"{name}_ms": statistics.median(times) * 1e3 for name, times in seconds.items()},
            **{f"{name}_best_ms": min(times) * 1e3 for name, times in seconds.items()},
        }
        for name in seconds.keys() - {"ops"}:
            row[f"vs_{name}"] = median_ratio(seconds[name], seconds["ops"])
        for name in seconds.keys() & {"ops", "torch"} if "onednn" in seconds else ():
            row[f"onednn_vs_{name}"] = median_ratio(seconds[name], seconds["onednn"])
        rows.append(row)
    return rows


def implementations() -> list[str]:
    """Names what is measured: lax, ours without oneDNN ("auto"), and with it where it is built."""
    return ["lax", "auto", *["onednn"] * bool(lowering.onednn_version())]


def _discard(call: Callable[[], Any]) -> None:
    """Calls PyTorch, whose results JAX need not see."""
    call()


def _seconds(call: Callable[[], Any]) -> float:
    """Returns the seconds of one call, which may be the first."""
    start = time.perf_counter()
    jax.block_until_ready(call())
    return time.perf_counter() - start


def lenet_loss(parameters: dict[str, Array], images: Array, labels: Array) -> Array:
    """Computes the loss of two convolutions, each with a pool, and dense layers; all from ops."""
    x = images
    for name in ("c1", "c2"):
        x = ops.max_pool(jax.nn.relu(ops.conv(x, parameters[name])), 2)
    x = x.reshape(images.shape[0], -1)
    *hidden, last = sorted(name for name in parameters if name.startswith("f"))
    for name in hidden:
        x = jax.nn.relu(x @ parameters[name])
    logits = jax.nn.log_softmax(x @ parameters[last])
    return -jnp.take_along_axis(logits, labels[:, None], axis=1).mean()


LOOPS = {
    "LeNet-5 (5x5, 6 and 16 kernels)": {
        "c1": (5, 5, 1, 6),
        "c2": (5, 5, 6, 16),
        "f1": (784, 120),
        "f2": (120, 84),
        "f3": (84, 10),
    },
    "tutorial network (3x3, 32 and 64 kernels)": {
        "c1": (3, 3, 1, 32),
        "c2": (3, 3, 32, 64),
        "f1": (3136, 128),
        "f2": (128, 10),
    },
}
"""The shapes of the parameters of each network."""


def lenet_loop(
    shapes: dict[str, tuple[int, ...]], rounds: int, steps: int = 8, batch: int = 64
) -> dict[str, float]:
    """Measures eight SGD steps as one program: a loop or unrolled, with plain lax or with ops."""
    parameters = {
        name: random(i, *shape) / math.sqrt(math.prod(shape[:-1]))
        for i, (name, shape) in enumerate(shapes.items())
    }
    images = random(9, steps, batch, 28, 28, 1)
    labels = jnp.asarray(np.random.default_rng(0).integers(0, 10, (steps, batch)))

    def step(parameters: Any, batch: Any) -> Any:
        gradients = jax.grad(lenet_loss)(parameters, *batch)
        return jax.tree.map(lambda p, g: p - 0.01 * g, parameters, gradients), None

    def loop(unroll: int) -> Callable[..., Any]:
        return lambda p, *data: jax.lax.scan(step, p, data, unroll=unroll)[0]

    variants = {}
    for impl in implementations():
        for name, unroll in (("scan", 1), ("unrolled", steps)):
            forced = ops.force_impl("lax" if impl == "lax" else "auto")
            with lowering.without_onednn(impl != "onednn"), forced:
                compiled = jax.jit(loop(unroll)).lower(parameters, images, labels).compile()
            variants[f"{impl} {name}"] = functools.partial(compiled, parameters, images, labels)
    if torch is not None:
        variants["rest"] = functools.partial(time.sleep, 0.02)
        steps_of_torch = torch_steps(parameters, np.asarray(images), np.asarray(labels))
        variants["torch eager"] = functools.partial(_discard, steps_of_torch)
        variants["rest again"] = variants["rest"]
    seconds = interleaved(variants, rounds)
    seconds = {name: taken for name, taken in seconds.items() if not name.startswith("rest")}
    result = {f"{name} ms": statistics.median(times) * 1e3 for name, times in seconds.items()}
    result["scan vs lax scan"] = median_ratio(seconds["lax scan"], seconds["auto scan"])
    result["scan vs unrolled"] = median_ratio(seconds["auto scan"], seconds["auto unrolled"])
    if "onednn scan" in seconds:
        result["onednn scan vs lax scan"] = median_ratio(
            seconds["lax scan"], seconds["onednn scan"]
        )
    for ours in ("auto scan", "onednn scan") if "torch eager" in seconds else ():
        if ours in seconds:
            result[f"{ours} vs torch"] = median_ratio(seconds["torch eager"], seconds[ours])
    return result


def torch_steps(
    parameters: dict[str, Array], images: np.ndarray, labels: np.ndarray
) -> Callable[[], None]:
    """Returns the same steps in eager PyTorch, channels_last."""
    from torch import nn

    layers: list[Any] = []
    for name, w in parameters.items():
        if name.startswith("c"):
            k, _, c, out = w.shape
            layers += [nn.Conv2d(c, out, k, padding=k // 2, bias=False), nn.ReLU(), nn.MaxPool2d(2)]
        else:
            layers += [nn.Flatten()] * (name == "f1") + [nn.Linear(*w.shape, bias=False), nn.ReLU()]
    network = nn.Sequential(*layers[:-1]).to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.01)
    x = torch.from_numpy(images.transpose(0, 1, 4, 2, 3).copy())
    y = torch.from_numpy(labels.astype(np.int64))

    @torch.enable_grad()
    def run() -> None:
        for batch, classes in zip(x, y, strict=True):
            optimizer.zero_grad(set_to_none=True)
            given = batch.contiguous(memory_format=torch.channels_last)
            nn.functional.cross_entropy(network(given), classes).backward()
            optimizer.step()

    return run


def show(rows: list[dict[str, Any]], console: Console) -> None:
    """Prints the table, in red where ops is more than 5 % slower than lax."""
    table = Table(title="milliseconds (median); ratios above 1: ops is faster")
    for heading in (
        "network",
        "case",
        "direction",
        "impl",
        "lax",
        "ops",
        "onednn",
        "torch",
        "lax/ops",
        "torch/ops",
        "torch/onednn",
    ):
        table.add_column(heading, justify="left" if heading in ("network", "case") else "right")
    last = None
    for row in rows:
        same, last = row["case"] == last, row["case"]
        ratio = f"{row['vs_lax']:.2f}" if "vs_lax" in row else ""
        table.add_row(
            "" if same else row["network"],
            "" if same else row["case"],
            row["direction"],
            row["impl"],
            f"{row['lax_ms']:.2f}" if "lax_ms" in row else "",
            f"{row['ops_ms']:.2f}",
            f"{row['onednn_ms']:.2f}" if "onednn_ms" in row else "",
            f"{row['torch_ms']:.2f}" if "torch_ms" in row else "",
            f"[red]{ratio}[/red]" if row.get("vs_lax", 1) < 0.95 else ratio,
            f"{row['vs_torch']:.2f}" if "vs_torch" in row else "",
            f"{row['onednn_vs_torch']:.2f}" if "onednn_vs_torch" in row else "",
        )
    console.print(table)


def geometric_mean(values: list[float]) -> float:
    """Returns the geometric mean of ratios; NaN where there are none."""
    return math.exp(statistics.mean(map(math.log, values))) if values else math.nan


def main() -> None:
    """Measures the selected cases, prints the table, writes the JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--select", default="", help="only cases whose network or name has this")
    parser.add_argument("--quick", action="store_true", help="the small shapes, three rounds")
    parser.add_argument("--card", action="store_true", help="shapes that fill an accelerator")
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16"))
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--no-torch", action="store_true")
    parser.add_argument("--name", default="ops", help="of the JSON file")
    parser.add_argument(
        "--keep", action="store_true", help="keep the file's rows of cases that are not selected"
    )
    options = parser.parse_args()
    grid = CARD if options.card else CASES
    with_torch = torch is not None and not options.no_torch and options.dtype == "float32"
    if with_torch:
        torch.set_num_threads(os.cpu_count() or 1)
        torch.set_grad_enabled(False)
    rounds = 3 if options.quick else options.rounds
    chosen = [
        case
        for case in grid
        if options.select.lower() in f"{case.network} {case.name}".lower()
        and (not options.quick or case.network in QUICK)
    ]
    if not chosen:
        parser.error(f"--select {options.select!r} matches none of {[c.name for c in grid]}")
    console = Console(width=130)
    kept: dict[str, Any] = {"rows": [], "loop": {}}
    path = RESULTS / f"{options.name}.json"
    if options.keep and path.exists():
        kept = json.loads(path.read_text())["results"]
    settings = {
        "rounds": rounds,
        "torch": torch.__version__ if with_torch else None,
        "dtype": options.dtype,
    }
    loop = kept["loop"]
    if any(case.network == "LeNet-5" for case in chosen):
        loop = {name: lenet_loop(shapes, rounds) for name, shapes in LOOPS.items()}
        console.print("eight steps as one program:", loop)
    names = {(case.network, case.name) for case in chosen}
    others = [row for row in kept["rows"] if (row["network"], row["case"]) not in names]
    measured: list[dict[str, Any]] = []
    for case in chosen:
        measured += measure(case, rounds, with_torch, options.dtype, not options.card)
        rows = others + measured
        results = {"summary": summarise(rows), "loop": loop, "rows": rows}
        write(options.name, results, **settings)
    show(measured, console)
    console.print(results["summary"])
    console.print(f"wrote {path}")


def summarise(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Returns the geometric means of the ratios, and what is slower than lax."""
    against_torch = [row for row in rows if "vs_torch" in row and row["network"] in TORCH_GRID]
    return {
        "slower than lax by over 5 %": [
            f"{row['case']} {row['direction']} {row['vs_lax']:.2f}"
            for row in rows
            if row.get("vs_lax", 1) < 0.95
        ],
        "geometric mean vs lax": geometric_mean([row["vs_lax"] for row in rows if "vs_lax" in row]),
        "inside scan vs outside": geometric_mean(
            [row["vs_outside"] for row in rows if "vs_outside" in row]
        ),
        "geometric mean vs torch": {
            network: geometric_mean(
                [row["vs_torch"] for row in against_torch if row["network"] == network]
            )
            for network in TORCH_GRID
        },
        "geometric mean vs torch over the grid": geometric_mean(
            [row["vs_torch"] for row in against_torch]
        ),
        **{
            f"geometric mean of onednn vs {peer}": geometric_mean(
                [row[f"onednn_vs_{peer}"] for row in rows if f"onednn_vs_{peer}" in row]
            )
            for peer in ("ops", "torch")
        },
        "slower with onednn by over 5 %": [
            f"{row['case']} {row['direction']} {row['onednn_vs_ops']:.2f}"
            for row in rows
            if row.get("onednn_vs_ops", 1) < 0.95
        ],
    }


if __name__ == "__main__":
    main()
