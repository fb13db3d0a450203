"""Neurons and parameters: the worked examples, counted.

Command:   python -m experiments.textbook.counts
Hardware:  any; nothing is trained
Time:      10 s
Result:    every count is the one worked out by hand (tests/test_textbook.py)

A convolution of k x k from c to f channels has (k k c + 1) f parameters, whatever the image, and as
many neurons as its maps have pixels; a dense layer from n to m units has (n + 1) m.
"""

import dataclasses
import functools
import math
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from experiments.textbook.part import Part, show
from jaxcnn.analysis import plots
from jaxcnn.analysis.statistics import Interval
from jaxcnn.analysis.summary import Row, Summary, summarize
from jaxcnn.models import create_model, standard_input
from jaxcnn.runs.display import Listener


class Example(NamedTuple):
    """A count that is worked out by hand, and how it is counted here."""

    what: str
    by_hand: str
    expected: int
    counted: Callable[[], int]


@functools.cache
def network(name: str, classes: int = 1000) -> Summary:
    """A model at its standard input."""
    return summarize(create_model(name, num_classes=classes), standard_input(name))


@functools.cache
def line(layers: str, side: int = 28, channels: int = 1) -> Summary:
    """A network in a line; its last row gives the logits."""
    model = create_model("sequential", num_classes=10, layers=layers)
    return summarize(model, (side, side, channels))


def below_head(layers: str, side: int = 28, channels: int = 1) -> Row:
    """Totals of a line without its logits."""
    found = line(layers, side, channels)
    head = found.rows[-1]
    return dataclasses.replace(
        head,
        parameters=found.parameters - head.parameters,
        macs=found.macs - head.macs,
        receptive_field=found.receptive_field,
    )


EXAMPLES = (
    Example(
        "neurons: 28x28x1 under 32 kernels of 3x3",
        "28 * 28 * 32",
        25_088,
        lambda: line("conv3-32 max2").rows[0].activations,
    ),
    Example(
        "neurons: behind a 2x2 pool",
        "14 * 14 * 32",
        6_272,
        lambda: line("conv3-32 max2").rows[1].activations,
    ),
    Example(
        "parameters: these 32 kernels",
        "(3 * 3 * 1 + 1) * 32",
        320,
        lambda: below_head("conv3-32").parameters,
    ),
    Example(
        "parameters: a dense layer to as many neurons",
        "(28 * 28 + 1) * 25088",
        19_694_080,
        lambda: below_head("dense-25088").parameters,
    ),
    Example(
        "weights: two 3x3 from 64 to 64 channels",
        "2 * (3 * 3 * 64 + 1) * 64",
        73_856,
        lambda: below_head("conv3-64 conv3-64", channels=64).parameters,
    ),
    Example(
        "weights: one 5x5",
        "(5 * 5 * 64 + 1) * 64",
        102_464,
        lambda: below_head("conv5-64", channels=64).parameters,
    ),
    Example(
        "weights: three 3x3",
        "3 * (3 * 3 * 64 + 1) * 64",
        110_784,
        lambda: below_head("conv3-64 conv3-64 conv3-64", channels=64).parameters,
    ),
    Example(
        "weights: one 7x7",
        "(7 * 7 * 64 + 1) * 64",
        200_768,
        lambda: below_head("conv7-64", channels=64).parameters,
    ),
    Example(
        "receptive field: two 3x3, side",
        "3 + 2",
        5,
        lambda: side(below_head("conv3-64 conv3-64", channels=64)),
    ),
    Example(
        "receptive field: three 3x3, side",
        "3 + 2 + 2",
        7,
        lambda: side(below_head("conv3-64 conv3-64 conv3-64", channels=64)),
    ),
    Example(
        "parameters: LeNet-5",
        "26 * 6 + 151 * 16 + 401 * 120 + 121 * 84 + 85 * 10",
        61_706,
        lambda: network("lenet5", 10).parameters,
    ),
    Example(
        "parameters: AlexNet of 2012, in two towers",
        "364 * 96 + 1201 * 256 + 2305 * 384 + 1729 * 384 + 1729 * 256"
        " + 9217 * 4096 + 4097 * 4096 + 4097 * 1000",
        60_965_224,
        lambda: network("alexnet_2012").parameters,
    ),
    Example(
        "parameters: VGG-16",
        "14714688 + 25089 * 4096 + 4097 * 4096 + 4097 * 1000",
        138_357_544,
        lambda: network("vgg16").parameters,
    ),
    Example(
        "of these, in its first dense layer",
        "(7 * 7 * 512 + 1) * 4096",
        102_764_544,
        lambda: max(row.parameters for row in network("vgg16").rows),
    ),
    Example(
        "parameters: VGG-19",
        "138357544 + 2305 * 256 + 2 * 4609 * 512",
        143_667_240,
        lambda: network("vgg19").parameters,
    ),
    Example(
        "parameters: Inception 3a on 28x28x192",
        "193 * 64 + 193 * 96 + 865 * 128 + 193 * 16 + 401 * 32 + 193 * 32",
        163_696,
        lambda: below_head("inception-3a", channels=192).parameters,
    ),
    Example(
        "parameters: naive module of these widths",
        "193 * 64 + 1729 * 128 + 4801 * 32",
        387_296,
        lambda: below_head("naive-3a", channels=192).parameters,
    ),
    Example(
        "MACs: Inception 3a",
        "784 * (192 * 64 + 192 * 96 + 864 * 128 + 192 * 16 + 400 * 32 + 192 * 32)",
        128_049_152,
        lambda: below_head("inception-3a", channels=192).macs,
    ),
    Example(
        "MACs: naive module",
        "784 * (192 * 64 + 1728 * 128 + 4800 * 32)",
        303_464_448,
        lambda: below_head("naive-3a", channels=192).macs,
    ),
)

SHOWN = ("lenet5", "alexnet_2012", "vgg16", "vgg19", "googlenet_2014", "resnet50")


def share_of_dense(found: Summary) -> dict[str, int]:
    """Parameters and MACs, and those that dense layers have of them.

    Layers that run in training alone, as auxiliary classifiers do, are left out.
    """
    used = [row for row in found.rows if row.output_shape is not None]
    dense = [row for row in used if row.type == "Dense"]
    return {
        "parameters": sum(row.parameters for row in used),
        "macs": found.macs,
        "dense_parameters": sum(row.parameters for row in dense),
        "dense_macs": sum(row.macs for row in dense),
    }


def side(row: Row) -> int:
    """Side of a receptive field."""
    assert row.receptive_field is not None
    return row.receptive_field[0]


def measure(workdir: Path, listener: Listener, quick: bool) -> Part:
    """Counts every example; trains nothing."""
    counted = [example.counted() for example in EXAMPLES]
    right = sum(n == example.expected for n, example in zip(counted, EXAMPLES, strict=True))
    models = [(name, network(name, 10 if name == "lenet5" else 1000)) for name in SHOWN]
    points: plots.Points = {
        name: (found.parameters, Interval(found.macs / 1e9, math.nan, math.nan))
        for name, found in models
    }
    return Part(
        found=f"{right} of {len(EXAMPLES)} counts are those worked out by hand.",
        headers=["what", "counted", "worked out", "by hand"],
        rows=[
            [e.what, f"{n:,}", f"{e.expected:,}", e.by_hand.replace("*", "×")]
            for e, n in zip(EXAMPLES, counted, strict=True)
        ],
        figures=[
            (
                "Parameters are no measure of the arithmetic",
                plots.scatter(points, [], "parameters", "GMACs for one image"),
            )
        ],
        setting="Nothing is trained: the networks are traced.",
        values={
            "examples": [
                {"what": e.what, "by_hand": e.by_hand, "expected": e.expected, "counted": n}
                for e, n in zip(EXAMPLES, counted, strict=True)
            ],
            "models": {name: share_of_dense(found) for name, found in models},
        },
    )


if __name__ == "__main__":
    show(measure, "counts")
