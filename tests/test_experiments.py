"""The experiments at hand: what their headers state, and that each is ready to be trained."""

import ast
import re
from pathlib import Path

import numpy as np
import pytest

from jaxcnn.commands.parsing import load_experiment
from jaxcnn.data import records, sources
from jaxcnn.learning import mesh
from jaxcnn.runs.program import Program

FILES = sorted(
    path
    for path in (Path(__file__).parents[1] / "experiments").glob("*.py")
    if not path.stem.startswith("compare_")
)
TARGETS = {
    "alexnet_imagenet",
    "googlenet_imagenet",
    "resnet50_a2_imagenet",
    "resnet50_imagenet",
    "vgg16_imagenet",
}
"""What was not run, for want of the data."""
PROMISED = {
    "lenet5_digits": 98.0,
    "lenet5_mnist": 99.2,
    "lenet5_fashion_mnist": 90.5,
    "convnet_fashion_mnist": 93.0,
    "mlp_fashion_mnist": 0.0,
    "convnet_cifar10": 0.0,
    "resnet20_cifar10": 0.0,
    "resnet18_cifar10": 92.5,
    "speedrun_cifar10": 90.6,
    "wide_resnet_cifar10": 0.0,
    "googlenet_shapes": 0.0,
    "mobilenet_v2_finetune": 0.0,
    "unet_shapes": 90.0,
    "multilabel_digits": 99.0,
    "regression_shapes": 0.9,
}
"""What the measured ones must reach at least, in top-1 (per cent) or the task's first metric."""
# Height, width and channels as read, classes, and enough images for what is checked.
TFDS = {
    "mnist": ((28, 28, 1), 10, 2560),
    "fashion_mnist": ((28, 28, 1), 10, 2560),
    "cifar10": ((32, 32, 3), 10, 2560),
    "imagenet2012": ((256, 256, 3), 1000, 2048),
}


def test_none_is_missing():
    assert {path.stem for path in FILES} >= TARGETS | set(PROMISED)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_the_header_states_what_was_measured_or_is_aimed_at(path):
    """It is a contract: command, hardware, time and result, or the target where it was not run."""
    header = ast.get_docstring(ast.parse(path.read_text()))
    stated = ["Command:", f"jaxcnn train experiments/{path.name}", "Hardware:", "Time:"]
    stated += ["Target:", "not run here"] if path.stem in TARGETS else ["Result:", "measured"]
    for term in stated:
        assert term in header, f"does not state {term}"
    assert "not yet measured" not in header
    kind = "Target" if path.stem in TARGETS else "Result"
    figure = re.search(rf"{kind}:\s+test (?:top-1|mean IoU|mAP|R2) ([\d.]+)", header)
    assert float(figure[1]) >= PROMISED.get(path.stem, 0.0)
    if kind == "Result":
        assert re.search(r"\bseeds? \d", header)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_everything_is_in_order_before_anything_is_compiled(path, monkeypatch):
    """All that `jaxcnn train` checks, on black images in place of those of a prepared set."""
    experiment = load_experiment(path)
    assert experiment.name == path.stem

    def black(config, others):
        shape, classes, number = TFDS[config.name]
        labels = np.arange(number, dtype=np.int32) % np.int32(classes)
        split = sources.Split(np.broadcast_to(np.uint8(0), (number, *shape)), labels)
        return split, split.take(np.arange(100)), tuple(str(i) for i in range(classes)), None

    monkeypatch.setattr(records, "find", black)
    dataset = sources.load(experiment.data)
    program = Program(experiment, dataset, mesh.one_device())
    assert program.total_steps > 0
    rates = program.rates(experiment)
    assert len(rates) == program.total_steps + 1
    assert 0 <= rates[-2] < 0.2 * experiment.optim.peak_lr
