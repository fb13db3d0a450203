"""LeNet-5, trained on 32x32 pixels, on images of 40x40.

Command:   python -m experiments.textbook.image_size
Hardware:  2 shared cores of an AMD EPYC (AVX-512), jax 0.10.2
Time:      2 min 47 s of training in 10 runs; compiling and reading not counted
Result:    test top-1, mean of five seeds, measured: 97.18 % on 32x32; on 40x40, in the middle,
           moved and enlarged: cut 97.18 %, 10.28 %, 78.42 %; shrunk 91.88 %, 18.05 %, 95.30 %;
           convolutional 87.65 %, 90.44 %, 64.51 %

A dense layer fits maps of one size: LeNet-5's takes 5x5x16 and is given 7x7x16. Images can be cut
or shrunk; or its dense layers are taken as the convolutions that they are, which gives 3x3 answers,
of which the clearest counts.
"""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from experiments.textbook import recipe
from experiments.textbook.part import Part, setting, show
from experiments.textbook.part import trained as train
from jaxcnn import ops
from jaxcnn.analysis import plots
from jaxcnn.analysis.statistics import mean_interval
from jaxcnn.config import Comparison
from jaxcnn.data import sources
from jaxcnn.runs import trained
from jaxcnn.runs.display import Listener

LENET = "valid5-6 max2 valid5-16 max2 dense-120 dense-84"
CONVOLUTIONAL = "valid5-6 max2 valid5-16 max2 valid5-120 gap dense-84"
"""The same with its first dense layer as a convolution; on 32x32 pixels the same function."""
SIDE, LARGER = 32, 40
TESTED = 2_000
"""Test images that are shown, at most."""

Images = jax.Array
"""(n, h, w, 1), pixels from 0 to 1."""


def config(quick: bool = False) -> Comparison:
    """LeNet-5 in both forms, on images in a frame of 32x32 pixels."""
    data = dataclasses.replace(recipe.data("mnist", quick), image_size=SIDE, fit="pad")
    epochs = 3 if data.name == "mnist" else 2 if quick else 24
    forms = {"lenet": LENET, "convolutional": CONVOLUTIONAL}
    arms = tuple(recipe.experiment(n, layers, data, epochs) for n, layers in forms.items())
    return Comparison(arms, seeds=1 if quick else 5)


def framed(images: Images, side: int, move: int = 0) -> Images:
    """In the middle of a black frame, or moved from there down and to the right."""
    before = (side - images.shape[1]) // 2 + move
    after = side - images.shape[1] - before
    return jnp.pad(images, ((0, 0), (before, after), (before, after), (0, 0)))


def resized(images: Images, side: int) -> Images:
    """Larger or smaller, bilinearly; what gets smaller is smoothed before."""
    return jax.image.resize(images, (len(images), side, side, 1), "bilinear")


def cut(images: Images) -> Images:
    """The middle 32x32 pixels."""
    margin = (LARGER - SIDE) // 2
    return images[:, margin:-margin, margin:-margin]


SHOWN: dict[str, Callable[[Images], Images]] = {
    "middle": lambda x: framed(x, LARGER),
    "moved": lambda x: framed(x, LARGER, 4),
    "enlarged": lambda x: resized(x, LARGER),
}
"""How images come to have 40x40 pixels."""
WAYS: dict[str, Callable[[Images], Images]] = {
    "cut": cut,
    "shrunk": lambda x: resized(x, SIDE),
    "convolutional": lambda x: x,
}
"""What is done about it."""


def everywhere(params: Any, images: Images) -> jax.Array:
    """The largest logits of LeNet-5 over all places of a larger image, ``(n, 10)``.

    Its dense layers are convolutions: the first one of 5x5, the others of 1x1.
    """

    def conv(x: jax.Array, name: str, kernel: jax.Array | None = None) -> jax.Array:
        own = params[name]["kernel"]
        found: jax.Array = ops.conv(x, own if kernel is None else kernel, padding="VALID")
        return found + params[name]["bias"].reshape(1, 1, 1, -1)

    x = ops.max_pool(nn.relu(conv(images, "conv1")), 2)
    x = ops.max_pool(nn.relu(conv(x, "conv2")), 2)
    # Maps are flattened channel by channel.
    first = params["fc1"]["kernel"].reshape(16, 5, 5, 120).transpose(1, 2, 0, 3)
    x = nn.relu(conv(x, "fc1", first))
    x = nn.relu(conv(x, "fc2", params["fc2"]["kernel"][None, None]))
    x = conv(x, "fc3", params["fc3"]["kernel"][None, None])
    return x.max(axis=(1, 2))


def accuracies(workdir: Path, images: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """Top-1 of a run on images as it was trained, and for each way to show it larger ones."""
    restored = trained.restore(workdir)
    params: Any = restored.variables["params"]
    mean, std = restored.experiment.data.mean[0], restored.experiment.data.std[0]
    x = jnp.asarray(images, jnp.float32) / 255

    @jax.jit
    def dense(images: Images) -> jax.Array:
        found: Any = restored.model.apply(restored.variables, (images - mean) / std)
        return found

    @jax.jit
    def conv(images: Images) -> jax.Array:
        return everywhere(params, (images - mean) / std)

    def right(logits: jax.Array) -> float:
        return float((logits.argmax(axis=-1) == labels).mean())

    found = {"32x32": right(dense(framed(x, SIDE)))}
    for shown, enlarge in SHOWN.items():
        for way, change in WAYS.items():
            answer = conv if way == "convolutional" else dense
            found[f"{shown}.{way}"] = right(answer(change(enlarge(x))))
    return found


def measure(workdir: Path, listener: Listener, quick: bool) -> Part:
    """Test top-1 on 32x32 pixels and, in each way, on 40x40."""
    comparison = config(quick)
    arm, convolved = train(comparison, workdir, listener)
    test = sources.load(comparison.arms[0].data).test
    few = test.read(np.arange(min(TESTED, len(test))))
    those = [accuracies(run.path, few["image"], few["label"]) for run in arm.runs]
    top1 = {name: [found[name] for found in those] for name in those[0]}
    learned = convolved.last("test_top1")
    percent = {name: [100 * x for x in values] for name, values in top1.items()}
    intervals = {name: mean_interval(values) for name, values in percent.items()}
    means = {shown: [intervals[f"{shown}.{way}"].mean for way in WAYS] for shown in SHOWN}
    return Part(
        found=f"{intervals['32x32'].mean:.2f} % on 32x32 pixels; on 40x40, "
        + "; ".join(
            f"{shown}: " + ", ".join(f"{way} {m:.2f} %" for way, m in zip(WAYS, row, strict=True))
            for shown, row in means.items()
        )
        + ".",
        headers=["image of 40x40", *WAYS],
        rows=[[shown, *(f"{mean:.2f} %" for mean in row)] for shown, row in means.items()],
        figures=[("Test top-1 with its 95 % interval", plots.intervals(intervals, "top-1, %"))],
        setting=f"{setting([*arm.runs, *convolved.runs])} Tested on the first "
        f"{len(few['label']):,} test images; means over seeds with Student's 95 % interval.",
        values={"test_images": len(few["label"]), "top1": top1, "learned": learned},
    )


if __name__ == "__main__":
    show(measure, "image_size")
