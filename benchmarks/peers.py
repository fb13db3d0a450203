"""Runs one framework in a process of its own, which measures when it is told to.

``benchmarks.vs_peers`` starts it as ``python -m benchmarks.peers FRAMEWORK`` and writes a line of
JSON for each request; each is answered by a line of JSON. ``{"case": {...}}`` builds a network and
warms up; ``{"work": "infer" | "train", "steps": n}`` runs n steps and reports the seconds of one.
"""

import json
import os
import sys
import time
from collections.abc import Callable
from typing import Any, NamedTuple

from jaxcnn.analysis import bench

os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # the processes share a device

WORKS = ("infer", "train")


class Case(NamedTuple):
    """A network and its input.

    Attributes:
        model: the network's name, here and in torchvision.
        shape: ``(height, width, channels)`` of an image.
        classes: the number of logits.
        small_images: whether a ResNet has the stem for small images: 3x3, stride 1, no pool.
        batch_size: the number of images in a step.
        dtype: ``"fp32"`` or ``"bf16"``; parameters are float32 in either.
    """

    model: str
    shape: tuple[int, int, int]
    classes: int
    small_images: bool
    batch_size: int
    dtype: str


class Calls(NamedTuple):
    """A framework's steps by kind of work, how to wait for one, its version and its device."""

    steps: dict[str, Callable[[], Any]]
    wait: Callable[[Any], Any]
    version: str
    device: str


def jax_calls(case: Case, impl: str, by_onednn: bool = False) -> Calls:
    """Prepares this project's network; ``impl="lax"`` computes it as stock Flax layers do.

    Raises:
        RuntimeError: oneDNN is asked for and not in use.
    """
    import flax
    import jax

    from jaxcnn import models, ops
    from jaxcnn.ops import lowering
    from jaxcnn.ops.native import library

    if by_onednn and not lowering.onednn_version():
        raise RuntimeError(f"oneDNN is not in use: {library.why_not()}")

    options = {"small_images": True} if case.small_images else {}
    dtype: Any = case.dtype
    model = models.create_model(
        case.model, num_classes=case.classes, dtype=bench.DTYPES[dtype], **options
    )
    images, labels = bench.random_batch(case.batch_size, case.shape, case.classes)
    steps: dict[str, Callable[[], Any]] = {}
    with lowering.without_onednn(not by_onednn), ops.force_impl(impl):
        steps["infer"] = bench.compile_step(model, "infer", images, labels, dtype)
        steps["train"] = bench.compile_step(model, "train", images, labels, dtype)
    version = f"jax {jax.__version__}, flax {flax.__version__}"
    return Calls(steps, jax.block_until_ready, version, jax.default_backend())


def torch_model(case: Case) -> Any:
    """Builds torchvision's network, LeNet-5, or a ResNet written out without torchvision.

    Raises:
        ImportError: only torchvision has the network, and it is not installed.
    """
    from torch import nn

    from benchmarks.torch_reference import import_torchvision

    if case.model == "lenet5":
        return nn.Sequential(
            *(nn.Conv2d(case.shape[2], 6, 5), nn.ReLU(), nn.MaxPool2d(2)),
            *(nn.Conv2d(6, 16, 5), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten()),
            *(nn.Linear(400, 120), nn.ReLU(), nn.Linear(120, 84), nn.ReLU()),
            nn.Linear(84, case.classes),
        )
    try:
        torchvision = import_torchvision()
    except ImportError:
        if case.model not in RESNETS:
            raise
        return torch_resnet(case)
    model = getattr(torchvision.models, case.model)(num_classes=case.classes)
    if case.small_images:
        model.conv1 = nn.Conv2d(3, 64, 3, padding=1, bias=False)
        model.maxpool = nn.Identity()
    return model


RESNETS = {"resnet18": (False, (2, 2, 2, 2)), "resnet50": (True, (3, 4, 6, 3))}
"""Whether the blocks are bottlenecks, and how many there are in each stage."""


def torch_resnet(case: Case) -> Any:
    """Builds the layers of torchvision's ResNet without torchvision."""
    import torch
    from torch import nn

    bottleneck, sizes = RESNETS[case.model]

    def unit(c: int, out: int, k: int, stride: int = 1) -> list[nn.Module]:
        return [nn.Conv2d(c, out, k, stride, k // 2, bias=False), nn.BatchNorm2d(out)]

    class Block(nn.Module):
        def __init__(self, c: int, width: int, stride: int) -> None:
            super().__init__()
            out = 4 * width if bottleneck else width
            layers = [*unit(c, width, 3, stride), nn.ReLU(), *unit(width, out, 3)]
            if bottleneck:
                middle = unit(width, width, 3, stride)
                layers = [*unit(c, width, 1), nn.ReLU(), *middle, nn.ReLU(), *unit(width, out, 1)]
            self.body = nn.Sequential(*layers)
            same = stride == 1 and c == out
            self.shortcut = nn.Identity() if same else nn.Sequential(*unit(c, out, 1, stride))

        def forward(self, x: Any) -> Any:
            return torch.relu(self.body(x) + self.shortcut(x))

    stem = unit(case.shape[2], 64, 3 if case.small_images else 7, 1 if case.small_images else 2)
    layers = [*stem, nn.ReLU()]
    if not case.small_images:
        layers.append(nn.MaxPool2d(3, 2, 1))
    channels = 64
    for stage, size in enumerate(sizes):
        for i in range(size):
            layers.append(Block(channels, 64 * 2**stage, 2 if stage and not i else 1))
            channels = 64 * 2**stage * (4 if bottleneck else 1)
    head = (nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, case.classes))
    return nn.Sequential(*layers, *head)


def torch_calls(case: Case, compiled: bool) -> Calls:
    """Prepares PyTorch in eager mode or compiled, channels_last, with autocast for bf16."""
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cpu":
        torch.set_num_threads(len(os.sched_getaffinity(0)))
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True  # as XLA does
    torch.backends.cudnn.benchmark = True
    networks: list[Any] = []
    for work in WORKS:
        network = torch_model(case).to(device, memory_format=torch.channels_last)
        network.train(work == "train")
        networks.append(torch.compile(network) if compiled else network)
    inferring, training = networks
    optimizer = torch.optim.SGD(training.parameters(), lr=1e-4, momentum=0.9)
    pixels, classes = bench.random_batch(case.batch_size, case.shape, case.classes)
    images = torch.from_numpy(pixels.transpose(0, 3, 1, 2)).to(device)
    images = images.contiguous(memory_format=torch.channels_last)
    labels = torch.from_numpy(classes).to(device)

    def autocast() -> Any:
        return torch.autocast(device, torch.bfloat16, enabled=case.dtype == "bf16")

    def infer() -> None:
        with torch.inference_mode(), autocast():
            inferring(images)

    def train() -> None:
        optimizer.zero_grad(set_to_none=True)
        with autocast():
            loss = torch.nn.functional.cross_entropy(training(images), labels)
        loss.backward()
        optimizer.step()

    def wait(_: Any) -> None:
        if device == "cuda":
            torch.cuda.synchronize()

    return Calls({"infer": infer, "train": train}, wait, f"torch {torch.__version__}", device)


def keras_model(case: Case) -> Any:
    """Builds the same layers in Keras; MobileNetV2 is the one that comes with it."""
    from keras import Input, Model, applications, layers

    if case.model == "mobilenet_v2":
        return applications.MobileNetV2(
            case.shape, weights=None, classes=case.classes, classifier_activation=None
        )

    def unit(x: Any, out: int, k: int, stride: int = 1) -> Any:
        x = layers.ZeroPadding2D(k // 2)(x)
        x = layers.Conv2D(out, k, stride, use_bias=False)(x)
        return layers.BatchNormalization(epsilon=1e-5)(x)

    x = first = Input(case.shape)
    if case.model == "lenet5":
        for out in (6, 16):
            x = layers.MaxPooling2D()(layers.Conv2D(out, 5, activation="relu")(x))
        x = layers.Flatten()(x)
        for out in (120, 84):
            x = layers.Dense(out, activation="relu")(x)
        return Model(first, layers.Dense(case.classes)(x))
    bottleneck, sizes = RESNETS[case.model]
    x = layers.ReLU()(unit(x, 64, 3) if case.small_images else unit(x, 64, 7, 2))
    if not case.small_images:
        x = layers.MaxPooling2D(3, 2)(layers.ZeroPadding2D(1)(x))
    for stage, size in enumerate(sizes):
        for i in range(size):
            width, stride = 64 * 2**stage, 2 if stage and not i else 1
            out = 4 * width if bottleneck else width
            same = stride == 1 and x.shape[-1] == out
            shortcut = x if same else unit(x, out, 1, stride)
            if bottleneck:
                x = layers.ReLU()(unit(x, width, 1))
            x = layers.ReLU()(unit(x, width, 3, stride))
            x = layers.Add()([unit(x, out, 1 if bottleneck else 3), shortcut])
            x = layers.ReLU()(x)
    return Model(first, layers.Dense(case.classes)(layers.GlobalAveragePooling2D()(x)))


def keras_calls(case: Case) -> Calls:
    """Prepares Keras 3 on JAX, through its own step for a batch that lies ready."""
    os.environ["KERAS_BACKEND"] = "jax"
    import jax
    import keras

    keras.config.set_dtype_policy("mixed_bfloat16" if case.dtype == "bf16" else "float32")
    model = keras_model(case)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.SGD(1e-4, momentum=0.9), loss)
    drawn = bench.random_batch(case.batch_size, case.shape, case.classes)
    images, labels = map(jax.numpy.asarray, drawn)
    steps = {
        "infer": lambda: model.predict_on_batch(images),
        "train": lambda: model.train_on_batch(images, labels),
    }
    version = f"keras {keras.__version__}, jax {jax.__version__}"
    return Calls(steps, lambda _: None, version, jax.default_backend())  # both give NumPy arrays


FRAMEWORKS: dict[str, Callable[[Case], Calls]] = {
    "jaxcnn, oneDNN": lambda case: jax_calls(case, "auto", by_onednn=True),
    "jaxcnn": lambda case: jax_calls(case, "auto"),
    "stock Flax": lambda case: jax_calls(case, "lax"),
    "PyTorch eager": lambda case: torch_calls(case, compiled=False),
    "PyTorch compiled": lambda case: torch_calls(case, compiled=True),
    "Keras on JAX": keras_calls,
}


def prepare(framework: str, case: Case) -> Calls:
    """Builds a network and runs every step twice, which compiles it."""
    calls = FRAMEWORKS[framework](case)
    for step in calls.steps.values():
        for _ in range(2):
            calls.wait(step())
    return calls


def seconds_of(calls: Calls, work: str, steps: int) -> float:
    """Returns the seconds of one of several steps; on a CPU it waits for each, as PyTorch does."""
    start = time.perf_counter()
    for _ in range(steps):
        result = calls.steps[work]()
        if calls.device == "cpu":
            calls.wait(result)
    calls.wait(result)
    return (time.perf_counter() - start) / steps


def main() -> None:
    """Answers requests until the pipe is closed."""
    # What libraries print must not get between the answers.
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w", buffering=1)
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    calls: Calls | None = None
    for line in sys.stdin:
        request = json.loads(line)
        answer: dict[str, Any]
        try:
            if "case" in request:
                calls = None  # its memory goes to the next
                calls = prepare(sys.argv[1], Case(**request["case"]))
                answer = {"version": calls.version, "device": calls.device}
            else:
                assert calls is not None
                answer = {"seconds": seconds_of(calls, request["work"], request["steps"])}
        except Exception as error:  # whatever a framework raises, the others go on
            message = str(error).strip().splitlines() or [""]
            answer = {"error": f"{type(error).__name__}: {message[0]}"}
        print(json.dumps(answer), file=answers)


if __name__ == "__main__":
    main()
