"""Measures the host's side of training: decoding JPEG files, and streaming them to the device.

    python -m benchmarks.input [--files 512] [--model resnet20] [--steps 100] [--rounds 7]

Pictures of the ``shapes`` dataset are written as files into a temporary folder: JPEGs of 224x224
pixels, of 500x375 as most of ImageNet's are, and of 2000x1500 as cameras make them, of which one
thread decodes as many as it can; and 32x32 PNGs, which are streamed to a network that trains on
them. The same network trains on the same pictures held on the device, in turn; the
ratio of the two speeds is the share of the device's speed that the host can keep up with.
"""

import argparse
import itertools
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from PIL import Image

from benchmarks import timing
from jaxcnn import models
from jaxcnn.config import Data
from jaxcnn.data import augment, images, pipeline, shapes, sources
from jaxcnn.data.crops import Crop, Crops
from jaxcnn.data.feed import Feed, InBlocks, open_stream
from jaxcnn.data.image_folder import Files
from jaxcnn.learning import step
from jaxcnn.learning.state import init_state, stream


def write_pictures(
    root: Path, side: int, number: int, suffix: str, size: tuple[int, int] | None = None
) -> None:
    """Writes a training set of ``number`` files, and a test set of one file.

    Squares are resized to another width and height, if one is given.
    """
    render = jax.jit(lambda of: shapes.draw(of, side)["image"])
    for split, n in (("train", number), ("test", 1)):
        of = shapes.examples(split, n)
        for name in shapes.CLASSES:
            (root / split / name).mkdir(parents=True, exist_ok=True)
        for start in range(0, n, 64):
            block = of[start : start + 64]
            for (_, i), image in zip(block, np.asarray(render(block)), strict=True):
                name = shapes.CLASSES[i % len(shapes.CLASSES)]
                picture = Image.fromarray(image)
                picture = picture if size is None else picture.resize(size)
                picture.save(root / split / name / f"{i}.{suffix}", quality=90)


def decoding(root: Path, number: int, rounds: int) -> list[dict[str, Any]]:
    """Returns how many images one thread decodes in a second, for each way to read them."""
    rows = []
    for width, height, files in ((224, 224, number), (500, 375, number), (2000, 1500, number // 8)):
        folder = root / f"{width}x{height}"
        write_pictures(folder, min(width, 500), files, "jpg", (width, height))
        bytes_ = float(np.mean([path.stat().st_size for path in (folder / "train").rglob("*.jpg")]))
        ways = _ways(folder, files, square=width == height)
        rates: dict[str, list[float]] = {way: [] for way in ways}
        for _ in range(rounds):  # in turn, so that a slower minute meets all of them
            for way, read in ways.items():
                start = time.perf_counter()
                read(np.arange(files))
                rates[way].append(files / (time.perf_counter() - start))
        for way in ways:
            rate = float(np.median(rates[way]))
            row = {"bytes_per_file": bytes_, "images_per_sec_per_core": rate}
            rows.append({"decoding": f"{folder.name}{way}", **row})
    return rows


def _ways(
    folder: Path, files: int, *, square: bool
) -> dict[str, Callable[[np.ndarray], dict[str, np.ndarray]]]:
    """Returns functions that read files by their places, by what they do."""

    def brought_to(side: int, read_size: int | None = None) -> Files:
        data = Data("folder", dir=str(folder), batch_size=1, image_size=side, fit="crop")
        train = sources.load(replace(data, read_size=read_size, streaming=True)).train
        assert isinstance(train, Files)
        return train

    if square:
        whole, cut = brought_to(224), brought_to(160)
        return {" as it is": whole.read, ", cut to 160x160": cut.read}
    train, crops = brought_to(224, 256), Crops(224, 0.08, 4 / 3).of_step(0, 0, files)
    return {
        ", middle square of 256x256": train.read,
        ", random crop to 224x224": lambda index: train.read_crops(index, crops),
        ", the same, decoded at full size": lambda index: _at_full_size(train, index, crops),
    }


def _at_full_size(train: Files, index: np.ndarray, crops: list[Crop]) -> dict[str, np.ndarray]:
    """Reads crops as if JPEG had no smaller scales."""
    spare, images.SPARE = images.SPARE, 10**9
    try:
        return train.read_crops(index, crops)
    finally:
        images.SPARE = spare


def training(
    root: Path, name: str, batch_size: int, steps: int, rounds: int, workers: list[int]
) -> list[dict[str, Any]]:
    """Returns the speed of training on streamed files, and its share of that on data held."""
    write_pictures(root, 32, 10_000, "png")
    data = Data("folder", dir=str(root), batch_size=batch_size, image_size=32, fit="resize")
    model = models.create_model(name, num_classes=len(shapes.CLASSES))
    tx = optax.sgd(0.01, momentum=0.9)
    start = init_state(model, tx, jnp.int32(0), (32, 32, 3))
    prepare = augment.make_prepare(data)
    train_step = step.make_train_step(model, tx)
    on_device = sources.load(data)
    shuffle = pipeline.Shuffle(len(on_device.train), batch_size)
    # An epoch is as long as a chunk may be.
    steps = min(steps, shuffle.steps_per_epoch)

    def program(order: pipeline.Shuffle | InBlocks) -> Any:
        def batch_of(arrays: Any, seed: jax.Array, of: jax.Array, at: jax.Array) -> step.Batch:
            batch = order.batch(arrays, of, at)
            return {**batch, "image": prepare(batch["image"])}

        def order_of(seed: jax.Array, at: jax.Array) -> jax.Array:
            return order.order(stream(seed, "order"), at)

        return jax.jit(step.make_train_chunk(train_step, order_of, batch_of))

    held = jax.device_put(pipeline.whole(on_device.train))
    in_memory = program(shuffle)
    variants: dict[str, Callable[[], Any]] = {
        "on the device": lambda: in_memory(start, held, jnp.int32(steps))
    }
    feeds = []

    def advance(feed: Feed) -> Callable[[], Any]:
        ends = itertools.count(steps, steps)

        def run() -> Any:
            end = next(ends)
            return feed.run(streamed, replace(start, step=jnp.int32(end - steps)), np.int32(end))

        return run

    streamed = program(InBlocks(shuffle.steps_per_epoch))
    for count in workers:
        changed = replace(data, streaming=True, workers=count)
        source = open_stream(sources.load(changed), changed, seed=0)
        feed = Feed(source, 0, (rounds + 1) * steps)
        feeds.append(feed)

        variants[f"streamed, {count} workers"] = advance(feed)
    try:
        seconds = timing.interleaved(variants, rounds)
    finally:
        for feed in feeds:
            feed.close()
    return [
        {
            "training": variant,
            "images_per_sec": steps * batch_size / float(np.median(taken)),
            "share": timing.median_ratio(seconds["on the device"], taken),
        }
        for variant, taken in seconds.items()
    ]


def main() -> None:
    """Measures, prints the tables, writes the JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--files", type=int, default=512)
    parser.add_argument("--model", default="resnet20")
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--workers", type=int, nargs="+", default=[0, 1, 2])
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        results = decoding(root / "jpeg", args.files, args.rounds)
        results += training(
            root / "png", args.model, args.batch_size, args.steps, args.rounds, args.workers
        )
    for row in results:
        print(
            "  ".join(f"{k} {v:,.2f}" if isinstance(v, float) else str(v) for k, v in row.items())
        )
    print(timing.write("input", results, **vars(args)))


if __name__ == "__main__":
    main()
