"""Measures the speed of whole networks, in inference and training, in one process and in turn.

    python -m benchmarks.models [NAME ...] [--batch-size 4] [--size 224] [--rounds 7]

``jaxcnn`` is the network without oneDNN, and ``onednn`` with it, where `jaxcnn native build` has
built it. ``stock`` is the same architecture with XLA's own convolutions, pools and their gradients,
as stock Flax layers use them; ``torch`` is torchvision's in eager mode, channels_last, on as many
threads as there are cores. A training step is forward, backward (auxiliary heads included) and SGD
with momentum. Ours are several in one program, as a run of `jaxcnn train` takes them, which saves
the fresh memory of each call; in a loop stock layers would fall to a naive kernel.
"""

import argparse
import contextlib
import functools
import json
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from rich.console import Console
from rich.table import Table

from benchmarks import peers, timing
from benchmarks.zoo import ROWS, build, variables
from jaxcnn import models, ops
from jaxcnn.ops import lowering

NAMES = ("lenet5", "alexnet", "vgg11", "googlenet", "resnet18", "mobilenet_v2")


class Load(NamedTuple):
    """How much work one call is: images in a batch, and training steps in a program of ours."""

    batch_size: int
    steps: int


LOADS = {"lenet5": Load(64, 64)}
"""Of networks for which the others' is too little to be told from the call itself."""
OTHERS = Load(4, 4)


def jax_calls(
    name: str, x: np.ndarray, steps: int, impl: str, by_onednn: bool = False
) -> dict[str, Callable[[], Any]]:
    """Compiles inference and training steps ahead of time, under one choice of ops."""
    num_classes = ROWS[name].classes
    model = build(ROWS[name], num_classes)
    state = variables(model, x.shape[1:])
    labels = jnp.arange(len(x)) % num_classes
    tx = optax.sgd(1e-4, momentum=0.9)
    images = jnp.asarray(x)

    def train_step(state: Any, opt_state: Any, x: jax.Array) -> Any:
        def loss_of(params: Any) -> Any:
            (logits, ends), updated = model.apply(
                {**state, "params": params}, x, train=True, endpoints=True, mutable=["batch_stats"]
            )
            heads = [(logits, 1.0)]
            heads += [(aux, model.aux_weight) for aux in ends.get("aux_logits", ())]
            loss = optax.softmax_cross_entropy_with_integer_labels
            return sum(w * loss(h, labels).mean() for h, w in heads), updated

        grads, updated = jax.grad(loss_of, has_aux=True)(state["params"])
        updates, opt_state = tx.update(grads, opt_state, state["params"])
        return {**updated, "params": optax.apply_updates(state["params"], updates)}, opt_state

    def chunk(state: Any, opt_state: Any, x: jax.Array) -> Any:
        return jax.lax.fori_loop(
            0, steps, lambda _, at: train_step(at[0], at[1], x), (state, opt_state)
        )

    opt_state = tx.init(state["params"])
    with lowering.without_onednn(not by_onednn), ops.force_impl(impl):
        infer = jax.jit(model.apply).lower(state, images).compile()
        trained = train_step if steps == 1 else chunk
        train = jax.jit(trained).lower(state, opt_state, images).compile()
    return {
        "inference": lambda: infer(state, images),
        "training": lambda: train(state, opt_state, images),
    }


def torch_calls(name: str, x: np.ndarray) -> dict[str, Callable[[], Any]]:
    """Builds the same calls in PyTorch; none where torch or the model is absent."""
    try:
        import torch

        from benchmarks.torch_reference import randomize, reference
    except ImportError:
        return {}
    torch.set_num_threads(timing.environment()["cores"])
    if name == "lenet5":
        case = peers.Case(name, x.shape[1:], ROWS[name].classes, False, len(x), "fp32")
        inferring, training = peers.torch_model(case), peers.torch_model(case)
    elif ROWS[name].torchvision:
        inferring, training = reference(name), reference(name)
    else:
        return {}
    for model in (inferring, training):
        randomize(model)
        model.to(memory_format=torch.channels_last)
    inferring.eval()
    training.train()
    for module in training.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0  # as in ours
    images = torch.from_numpy(x.transpose(0, 3, 1, 2)).contiguous(memory_format=torch.channels_last)
    labels = torch.arange(len(x)) % ROWS[name].classes
    optimizer = torch.optim.SGD(training.parameters(), lr=1e-4, momentum=0.9)

    def infer() -> None:
        with torch.inference_mode():
            inferring(images)

    def step() -> None:
        optimizer.zero_grad()
        output = training(images)
        heads = [(output, 1.0)] if torch.is_tensor(output) else [(output[0], 1.0)]
        heads += [] if torch.is_tensor(output) else [(aux, 0.3) for aux in output[1:]]
        loss = torch.nn.functional.cross_entropy
        sum(w * loss(h, labels) for h, w in heads).backward()
        optimizer.step()

    return {"inference": infer, "training": step}


def measure(name: str, load: Load, size: int | None, rounds: int) -> list[dict[str, Any]]:
    """Returns the images per second of every variant, and how many times faster ours is."""
    shape = models.standard_input(name)
    if size is not None and ROWS[name].any_size:
        shape = (size, size, shape[2])
    x = np.random.default_rng(0).standard_normal((load.batch_size, *shape), np.float32)
    ours = {"jaxcnn": jax_calls(name, x, load.steps, "auto")}
    if lowering.onednn_version():
        ours["onednn"] = jax_calls(name, x, load.steps, "auto", by_onednn=True)
    calls = {**ours, "stock": jax_calls(name, x, 1, "lax"), "torch": torch_calls(name, x)}
    # OpenMP's threads spin for a while after a call and would slow down their neighbour.
    rest = functools.partial(time.sleep, 0.02)
    turns: dict[str, Callable[[], Any]] = {}
    for variant, by_work in calls.items():
        for work, call in by_work.items():
            turns |= {f"{variant} {work}": call, f"{variant} {work}, rest": rest}
    taken = timing.interleaved(turns, rounds)
    results = []
    for work in ("inference", "training"):
        result: dict[str, Any] = {"model": name, "work": work, "image": list(shape)}
        result |= load._asdict()
        seconds = {
            v: [
                s / (load.steps if v in ours and work == "training" else 1)
                for s in taken[f"{v} {work}"]
            ]
            for v in calls
            if f"{v} {work}" in taken
        }
        for variant, of_rounds in seconds.items():
            result[f"{variant}_images_per_s"] = load.batch_size / float(np.median(of_rounds))
        for column, (faster, slower) in RATIOS.items():
            if {faster, slower} <= seconds.keys():
                result[column] = timing.median_ratio(seconds[slower], seconds[faster])
        results.append(result)
    return results


RATIOS = {
    "speedup_over_stock": ("jaxcnn", "stock"),
    "speedup_over_torch": ("jaxcnn", "torch"),
    "onednn_speedup_over_jaxcnn": ("onednn", "jaxcnn"),
    "onednn_speedup_over_stock": ("onednn", "stock"),
    "onednn_speedup_over_torch": ("onednn", "torch"),
}
"""Columns that say how many times faster the first variant is than the second."""


def geometric_mean(results: list[dict[str, Any]], work: str, column: str) -> float | None:
    """Returns the mean over the models that have the column; None where none has."""
    logs = [np.log(r[column]) for r in results if r["work"] == work and column in r]
    return float(np.exp(np.mean(logs))) if logs else None


def main() -> None:
    """Measures, prints the table, writes the JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", default=list(NAMES))
    parser.add_argument("--batch-size", type=int, default=None)
    parser.add_argument("--size", type=int, default=None, help="in place of the standard input's")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--merge", action="store_true", help="keep other models' earlier figures")
    args = parser.parse_args()
    results: list[dict[str, Any]] = []
    path = timing.RESULTS / "models.json"
    if args.merge and path.is_file():
        earlier = json.loads(path.read_text())["results"]["models"]
        results = [result for result in earlier if result["model"] not in args.names]
    for name in args.names:
        load = LOADS.get(name, OTHERS)
        load = load._replace(batch_size=args.batch_size or load.batch_size)
        results += measure(name, load, args.size, args.rounds)
        print(json.dumps(results[-2:]), flush=True)

    table = Table("model", "", title="images/s, float32")
    columns = ("jaxcnn", "onednn", "stock", "torch")
    for column in (*columns, *(f"{a} / {b}" for a, b in RATIOS.values())):
        table.add_column(column, justify="right")
    for result in results:
        speeds = [result.get(f"{column}_images_per_s") for column in columns]
        table.add_row(
            result["model"],
            result["work"],
            *("" if speed is None else f"{speed:.1f}" for speed in speeds),
            *(f"{result[ratio]:.2f}x" if ratio in result else "" for ratio in RATIOS),
        )
    means = {}
    for work in ("inference", "training"):
        means[work] = {ratio: geometric_mean(results, work, ratio) for ratio in RATIOS}
        shown = ("" if mean is None else f"{mean:.2f}x" for mean in means[work].values())
        table.add_row("geometric mean", work, *[""] * len(columns), *shown)
    Console(width=130).print(table)
    settings = {"size": args.size, "rounds": args.rounds}
    with contextlib.suppress(ImportError):
        import torch

        settings["torch"] = torch.__version__
    print(timing.write("models", {"models": results, "geometric_mean": means}, **settings))


if __name__ == "__main__":
    main()
