"""Measures a training step: LeNet-5 against peers, and a chunk of steps against a call per step.

    python -m benchmarks.train_step [--batch-size 64] [--steps 20] [--rounds 15]
        [--calls lenet5 resnet20 mobilenet_v2]

Every variant of a network does the same work in one process, in turn: forward, backward and SGD
with momentum, in float32, on random data. ``jaxcnn chunk`` is the loop that `jaxcnn train` runs.
Stock Flax and PyTorch are compared on LeNet-5 with 32x32x1 images.
"""

import argparse
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax

from benchmarks import timing
from jaxcnn import models
from jaxcnn.learning import step
from jaxcnn.learning.state import init_state
from jaxcnn.tasks.losses import cross_entropy

CALLS = {"lenet5": (64, 20), "resnet20": (16, 10), "mobilenet_v2": (4, 4)}
"""Networks whose chunk is compared with calls: images in a batch, and steps in a chunk."""


class StockLeNet(nn.Module):
    """LeNet-5 in plain Flax, as anybody would write it."""

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool = False, endpoints: bool = False) -> Any:
        """Maps ``(n, 32, 32, 1)`` to ``(n, 10)``."""
        x = nn.max_pool(nn.relu(nn.Conv(6, (5, 5), padding="VALID")(x)), (2, 2), (2, 2))
        x = nn.max_pool(nn.relu(nn.Conv(16, (5, 5), padding="VALID")(x)), (2, 2), (2, 2))
        x = x.reshape(x.shape[0], -1)
        x = nn.relu(nn.Dense(120)(x))
        x = nn.relu(nn.Dense(84)(x))
        logits = nn.Dense(10)(x)
        return (logits, {}) if endpoints else logits


def jax_variants(
    name: str, model: nn.Module, batches: dict[str, jax.Array]
) -> dict[str, Callable[[], Any]]:
    """Returns three ways to run the steps: a chunk of traced length, a scan, one call per step."""
    tx = optax.sgd(0.01, momentum=0.9)
    state = init_state(model, tx, jnp.int32(0), batches["image"].shape[2:])  # type: ignore[arg-type]
    train_step = step.make_train_step(model, tx)
    steps = batches["label"].shape[0]
    chunk = jax.jit(
        step.make_train_chunk(
            train_step,
            lambda seed, at: jnp.arange(steps),
            lambda arrays, seed, order, at: {k: v[order[at]] for k, v in arrays.items()},
        )
    )
    scan = jax.jit(lambda s, b: lax.scan(lambda s, one: (train_step(s, one), None), s, b)[0])
    one = jax.jit(train_step)
    separate = [jax.tree.map(lambda a, i=i: a[i], batches) for i in range(steps)]

    def per_call() -> Any:
        s = state
        for batch in separate:
            s = one(s, batch)
        return s

    return {
        f"{name} chunk": lambda: chunk(state, batches, jnp.int32(steps)),
        f"{name} scan": lambda: scan(state, batches),
        f"{name} call per step": per_call,
    }


def torch_variant(batches: dict[str, jax.Array]) -> dict[str, Callable[[], Any]]:
    """Builds the same network and optimizer in eager PyTorch, channels_last; none without torch."""
    try:
        import torch
        from torch import nn as tnn
    except ImportError:
        return {}
    torch.set_num_threads(timing.environment()["cores"])
    relu, pool = tnn.ReLU(), tnn.MaxPool2d(2)
    net = tnn.Sequential(
        *(tnn.Conv2d(1, 6, 5), relu, pool, tnn.Conv2d(6, 16, 5), relu, pool, tnn.Flatten()),
        *(tnn.Linear(400, 120), relu, tnn.Linear(120, 84), relu, tnn.Linear(84, 10)),
    )
    net = net.to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.01, momentum=0.9)
    images = torch.tensor(np.asarray(batches["image"]).transpose(0, 1, 4, 2, 3))
    labels = torch.tensor(np.asarray(batches["label"]), dtype=torch.long)
    separate = [
        (x.contiguous(memory_format=torch.channels_last), y)
        for x, y in zip(images, labels, strict=True)
    ]

    def per_call() -> Any:
        for x, y in separate:
            optimizer.zero_grad()
            tnn.functional.cross_entropy(net(x), y).backward()
            optimizer.step()

    return {"PyTorch eager": per_call}


def check_same_loss(batches: dict[str, jax.Array]) -> None:
    """Checks that both JAX networks have the same layers: equal parameters give equal losses."""
    ours, stock = models.create_model("lenet5", num_classes=10), StockLeNet()
    x, y = batches["image"][0], batches["label"][0]
    params = ours.init(jax.random.key(0), x)["params"]
    # This project flattens channel by channel, Flax row by row.
    fc1 = params["fc1"]["kernel"].reshape(16, 5, 5, -1).transpose(1, 2, 0, 3).reshape(400, -1)
    names = {"conv1": "Conv_0", "conv2": "Conv_1", "fc1": "Dense_0", "fc2": "Dense_1"}
    theirs = {names.get(k, "Dense_2"): v for k, v in params.items()}
    theirs["Dense_0"] = {**theirs["Dense_0"], "kernel": fc1}
    logits: Any = ours.apply({"params": params}, x)
    their_logits: Any = stock.apply({"params": theirs}, x)
    a, b = cross_entropy(logits, y), cross_entropy(their_logits, y)
    np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


def draw(steps: int, batch_size: int, shape: tuple[int, int, int]) -> dict[str, jax.Array]:
    """Draws batches of random images, and of labels of ten classes."""
    rng = np.random.default_rng(0)
    return {
        "image": jnp.asarray(rng.normal(size=(steps, batch_size, *shape)), jnp.float32),
        "label": jnp.asarray(rng.integers(0, 10, (steps, batch_size)), jnp.int32),
    }


def against_peers(batch_size: int, steps: int, rounds: int) -> list[dict[str, Any]]:
    """Measures LeNet-5 here, in stock Flax and PyTorch; ``ratio`` is the time over our chunk's."""
    batches = draw(steps, batch_size, (32, 32, 1))
    check_same_loss(batches)
    variants = {
        **jax_variants("jaxcnn", models.create_model("lenet5", num_classes=10), batches),
        **jax_variants("stock Flax", StockLeNet(), batches),
        **torch_variant(batches),
    }
    seconds = timing.interleaved(variants, rounds)
    return [
        {
            "variant": name,
            "ms_per_step": 1e3 * float(np.median(taken)) / steps,
            "ratio": timing.median_ratio(taken, seconds["jaxcnn chunk"]),
        }
        for name, taken in seconds.items()
    ]


def against_calls(name: str, rounds: int) -> dict[str, Any]:
    """Measures a chunk of steps against a call per step; ``ratio`` is the calls' time over its."""
    batch_size, steps = CALLS[name]
    shape = models.standard_input(name)
    model = models.create_model(name, num_classes=10)
    variants = jax_variants("", model, draw(steps, batch_size, shape))
    seconds = timing.interleaved({k: variants[k] for k in (" chunk", " call per step")}, rounds)
    chunk, calls = seconds.values()
    return {
        "model": name,
        "image": list(shape),
        "batch_size": batch_size,
        "steps": steps,
        "chunk_ms_per_step": 1e3 * float(np.median(chunk)) / steps,
        "call_ms_per_step": 1e3 * float(np.median(calls)) / steps,
        "ratio": timing.median_ratio(calls, chunk),
    }


def main() -> None:
    """Measures, prints the tables, writes the JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--calls", nargs="+", default=list(CALLS), choices=list(CALLS))
    args = parser.parse_args()
    peers = against_peers(args.batch_size, args.steps, args.rounds)
    calls: list[dict[str, Any]] = []
    results = {"peers": peers, "calls": calls}
    written = timing.write("train_step", results, **vars(args))
    for name in args.calls:
        calls.append(against_calls(name, args.rounds))
        timing.write("train_step", results, **vars(args))  # lest it be cut off at the next one

    from rich.console import Console
    from rich.table import Table

    console = Console(width=100)
    table = Table("variant", title=f"LeNet-5 training, batch {args.batch_size}, float32")
    for column in ("ms/step", "images/s", "time against jaxcnn chunk"):
        table.add_column(column, justify="right")
    for row in peers:
        rate = 1e3 * args.batch_size / row["ms_per_step"]
        table.add_row(
            row["variant"], f"{row['ms_per_step']:.2f}", f"{rate:,.0f}", f"{row['ratio']:.2f}x"
        )
    console.print(table)
    table = Table("model", "images", title="ms/step in a chunk of steps, and in one call per step")
    for column in ("chunk", "call per step", "calls over chunk"):
        table.add_column(column, justify="right")
    for row in calls:
        table.add_row(
            row["model"],
            "x".join(map(str, (row["batch_size"], *row["image"]))),
            f"{row['chunk_ms_per_step']:.2f}",
            f"{row['call_ms_per_step']:.2f}",
            f"{row['ratio']:.3f}x",
        )
    console.print(table)
    print(written)


if __name__ == "__main__":
    main()
