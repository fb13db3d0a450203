"""Dense network against CNN on 100 to 60,000 training images.

Command:   python -m experiments.textbook.sample_efficiency
Hardware:  1 core of an AMD EPYC (AVX-512), jax 0.10.2
Time:      3 min 17 s of training in 42 runs; compiling and reading not counted
Result:    measured: the CNN is ahead by +0.11 points with 100 images and by +2.28 with 60,000;
           with 10,000 images the CNN reaches what the dense network reaches with 60,000

A CNN shares its weights over the image and need not learn every pattern anew at every place, so it
needs fewer examples for the same accuracy.
"""

import dataclasses
from pathlib import Path

from experiments.textbook import recipe
from experiments.textbook.part import Part, setting, show, trained
from jaxcnn.analysis import plots, report
from jaxcnn.analysis.arms import Arm
from jaxcnn.analysis.statistics import Interval, mean_interval
from jaxcnn.config import Comparison
from jaxcnn.runs.display import Listener

NETWORKS = {"dense": "dense-256 dense-128", "cnn": "conv3-16 max2 conv3-32 max2 dense-64"}
EPOCHS = {100: 100, 300: 50, 1_000: 25, 3_000: 12, 10_000: 6, 30_000: 3, 60_000: 2}
"""Training images to passes over them: fewer are seen more often, but take fewer steps."""
DIGITS = {100: 20, 1_400: 5}
"""The same for digits."""


def config(images: int, quick: bool = False) -> Comparison:
    """Both networks with so many training images."""
    data = dataclasses.replace(recipe.data(quick=quick), train_limit=images, batch_size=50)
    epochs = (EPOCHS if data.name == "fashion_mnist" else DIGITS)[images]
    arms = tuple(recipe.experiment(n, layers, data, epochs) for n, layers in NETWORKS.items())
    return Comparison(arms, seeds=1 if quick else 3)


def measure(workdir: Path, listener: Listener, quick: bool) -> Part:
    """Test top-1 over the number of training images."""
    digits = recipe.data(quick=quick).name == "digits"
    sizes = list(DIGITS if digits else EPOCHS)
    arms: dict[str, list[Arm]] = {name: [] for name in NETWORKS}
    for images in sizes:
        for arm in trained(config(images, quick), workdir / str(images), listener):
            arms[arm.name].append(arm)
    percent = {
        name: [[100 * x for x in arm.last("test_top1")] for arm in those]
        for name, those in arms.items()
    }
    found = {name: [mean_interval(x) for x in top1] for name, top1 in percent.items()}
    lines = {name: dict(zip(sizes, top1, strict=True)) for name, top1 in percent.items()}
    runs = [run for those in arms.values() for arm in those for run in arm.runs]
    return Part(
        found=_found(sizes, found),
        headers=["training images", *NETWORKS, "difference"],
        rows=[
            [
                f"{images:,}",
                *(f"{found[name][i].mean:.2f} %" for name in NETWORKS),
                f"{found['cnn'][i].mean - found['dense'][i].mean:+.2f}",
            ]
            for i, images in enumerate(sizes)
        ],
        figures=[
            (
                f"Means over seeds ({len(runs) // len(NETWORKS) // len(sizes)}); bands from the "
                "lowest to the highest",
                report.legend(list(NETWORKS))
                + plots.lines(lines, "training images", "test top-1, %", log_x=True),
            )
        ],
        setting=setting(runs),
        values={
            "images": sizes,
            "top1": {n: [arm.last("test_top1") for arm in those] for n, those in arms.items()},
        },
    )


def _found(sizes: list[int], found: dict[str, list[Interval]]) -> str:
    dense, cnn = ([x.mean for x in found[name]] for name in ("dense", "cnn"))
    enough = next((n for n, x in zip(sizes, cnn, strict=True) if x >= dense[-1]), None)
    needed = (
        f"with {enough:,} images the CNN reaches what the dense network reaches with {sizes[-1]:,}"
        if enough
        else f"the CNN does not reach the dense network's {dense[-1]:.2f} %"
    )
    return (
        f"the CNN is ahead by {cnn[0] - dense[0]:+.2f} points with {sizes[0]:,} images and by "
        f"{cnn[-1] - dense[-1]:+.2f} with {sizes[-1]:,}; {needed}."
    )


if __name__ == "__main__":
    show(measure, "sample_efficiency")
