"""Measures the speed of whole networks, in inference and training, in one process and in turn.

    python -m benchmarks.models [NAME ...] [--batch-size 4] [--size 224] [--rounds 7]

``jaxcnn`` is the network as it is; ``stock`` the same architecture with XLA's own convolutions,
pools and their gradients, as stock Flax layers use them; ``torch`` is torchvision's in eager
mode, channels_last, on as many threads as there are cores. A training step is forward, backward
(auxiliary heads included) and SGD with momentum.
"""

import argparse
import contextlib
import json
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from rich.console import Console
from rich.table import Table

from benchmarks import timing
from benchmarks.zoo import ROWS, build, variables
from jaxcnn import models, ops

NAMES = ("lenet5", "alexnet", "vgg11", "googlenet", "resnet18", "mobilenet_v2")


def jax_calls(name: str, x: np.ndarray, impl: str) -> dict[str, Callable[[], Any]]:
    """Compiles inference and a training step ahead of time, under one choice of ops."""
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

    opt_state = tx.init(state["params"])
    with ops.force_impl(impl):
        infer = jax.jit(model.apply).lower(state, images).compile()
        step = jax.jit(train_step).lower(state, opt_state, images).compile()
    return {
        "inference": lambda: infer(state, images),
        "training": lambda: step(state, opt_state, images),
    }


def torch_calls(name: str, x: np.ndarray) -> dict[str, Callable[[], Any]]:
    """Builds the same calls in PyTorch; none where torch or the model is absent."""
    try:
        import torch

        from benchmarks.torch_reference import randomize, reference
    except ImportError:
        return {}
    if not ROWS[name].torchvision:
        return {}
    torch.set_num_threads(timing.environment()["cores"])
    inferring, training = reference(name), reference(name)
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


def measure(name: str, batch_size: int, size: int | None, rounds: int) -> list[dict[str, Any]]:
    """Returns the images per second of every variant, and how many times faster ours is."""
    shape = models.standard_input(name)
    if size is not None and ROWS[name].any_size:
        shape = (size, size, shape[2])
    x = np.random.default_rng(0).standard_normal((batch_size, *shape), np.float32)
    calls = {
        "jaxcnn": jax_calls(name, x, "auto"),
        "stock": jax_calls(name, x, "lax"),
        "torch": torch_calls(name, x),
    }
    flat = {(w, v): f for v, by_work in calls.items() for w, f in by_work.items()}
    seconds = timing.interleaved({f"{w} {v}": f for (w, v), f in flat.items()}, rounds)
    results = []
    for work in ("inference", "training"):
        ours = seconds[f"{work} jaxcnn"]
        result: dict[str, Any] = {"model": name, "work": work, "image": list(shape)}
        result["batch_size"] = batch_size
        for variant in calls:
            taken = seconds.get(f"{work} {variant}")
            if taken is None:
                continue
            result[f"{variant}_images_per_s"] = batch_size / float(np.median(taken))
            if variant != "jaxcnn":
                result[f"speedup_over_{variant}"] = timing.median_ratio(taken, ours)
        results.append(result)
    return results


def geometric_mean(results: list[dict[str, Any]], work: str, column: str) -> float | None:
    """Returns the mean over the models that have the column; None where none has."""
    logs = [np.log(r[column]) for r in results if r["work"] == work and column in r]
    return float(np.exp(np.mean(logs))) if logs else None


def main() -> None:
    """Measures, prints the table, writes the JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", default=list(NAMES))
    parser.add_argument("--batch-size", type=int, default=4)
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
        results += measure(name, args.batch_size, args.size, args.rounds)
        print(json.dumps(results[-2:]), flush=True)

    table = Table("model", "", title="images/s, float32")
    columns = ("jaxcnn", "stock", "torch")
    for column in (*columns, "over stock", "over torch"):
        table.add_column(column, justify="right")
    for result in results:
        speeds = [result.get(f"{column}_images_per_s") for column in columns]
        ratios = [result.get(f"speedup_over_{column}") for column in columns[1:]]
        table.add_row(
            result["model"],
            result["work"],
            *("" if speed is None else f"{speed:.1f}" for speed in speeds),
            *("" if ratio is None else f"{ratio:.2f}x" for ratio in ratios),
        )
    means = {}
    for work in ("inference", "training"):
        found = [geometric_mean(results, work, f"speedup_over_{c}") for c in columns[1:]]
        means[work] = dict(zip(columns[1:], found, strict=True))
        shown = ("" if mean is None else f"{mean:.2f}x" for mean in found)
        table.add_row("geometric mean", work, "", "", "", *shown)
    Console(width=110).print(table)
    settings = {"batch_size": args.batch_size, "size": args.size, "rounds": args.rounds}
    with contextlib.suppress(ImportError):
        import torch

        settings["torch"] = torch.__version__
    print(timing.write("models", {"models": results, "geometric_mean": means}, **settings))


if __name__ == "__main__":
    main()
