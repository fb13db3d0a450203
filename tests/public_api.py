"""Uses what the package offers as a stranger's code does; mypy --strict accepts all of it.

Each line with `type: ignore` is a mistake that a type checker has to find: where it finds none, the
comment is one too many, which --strict refuses as well.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

import jaxcnn
from jaxcnn import layers, models, ops, tasks
from jaxcnn.config import Devices, Distributed


class Network(nn.Module):
    """A network of two layers."""

    num_classes: int
    width: int = 8

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool = False) -> jax.Array:
        """Returns the logits of images."""
        x = nn.relu(layers.Conv(self.width, 3)(x))
        return nn.Dense(self.num_classes)(ops.global_avg_pool(x))


class Direction(jaxcnn.BaseTask):
    """Learns an angle as a vector."""

    metrics = (jaxcnn.Metric("degrees", "error in degrees", higher_is_better=False, low=0),)

    def output_shape(self, names: Sequence[str], size: tuple[int, int]) -> tuple[int, ...]:
        """Returns the shape of the outputs for an image."""
        return (2,)

    def loss(self, outputs: jax.Array, batch: tasks.Batch) -> jax.Array:
        """Returns the loss of each image."""
        return jnp.sum(outputs, axis=-1) - batch["label"]

    def scores(self, outputs: jax.Array, batch: tasks.Batch) -> dict[str, jax.Array]:
        """Returns the metrics of each image."""
        return {"degrees": jnp.abs(self.predictions(outputs)[:, 0] - batch["label"])}


@jaxcnn.on_batches
def blend(key: jax.Array, images: jax.Array, labels: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Changes whole batches."""
    return images * jax.random.uniform(key), labels


def noisy(key: jax.Array, image: jax.Array) -> jax.Array:
    """Changes an image."""
    return image + jax.random.normal(key, image.shape)


def pixels() -> jaxcnn.Dataset:
    """Returns data of one's own."""
    images, labels = np.zeros((8, 4, 4, 1), np.uint8), np.arange(8) % 2
    return jaxcnn.from_arrays((images, labels), (images, labels), classes=["a", "b"])


def files(data: jaxcnn.Data) -> jaxcnn.Dataset:
    """Returns data that are read one by one."""
    examples = [(np.zeros((4, 4, 1), np.uint8), 0)]
    return jaxcnn.from_source(examples, examples, data)


def config() -> jaxcnn.Experiment:
    """Returns an experiment in which everything is brought."""
    return jaxcnn.Experiment(
        name="typed",
        data=jaxcnn.Data(pixels, batch_size=4, validation=0.1),
        augment=jaxcnn.Augment(flip=True, own=(noisy, blend)),
        model=jaxcnn.Model(Network, {"width": 16}),
        task=jaxcnn.Task(Direction),
        optim=jaxcnn.Optim("adamw", peak_lr=1e-3),
        schedule=jaxcnn.Schedule("cosine", warmup_epochs=1),
        train=jaxcnn.Train(epochs=2, seed=0),
        devices=Devices(data=1),
    )


def by_name() -> jaxcnn.Experiment:
    """Returns an experiment of what the package holds."""
    return jaxcnn.Experiment(
        name="named", data=jaxcnn.Data("digits"), model=jaxcnn.Model("resnet20", {"depth": 8})
    )


def comparison() -> jaxcnn.Comparison:
    """Returns a comparison."""
    return jaxcnn.Comparison(arms=(config(), by_name()), seeds=2)


def resources() -> jaxcnn.Resources:
    """Says what a launch takes."""
    return jaxcnn.Resources(nodes=2, devices=4, card="h100")


def sweep() -> Iterator[jaxcnn.Experiment]:
    """Yields trials."""
    yield from (config(), by_name())


def asked(images: np.ndarray[Any, Any], folder: Path) -> Mapping[str, float]:
    """Trains a run, opens it, and asks it everything."""
    run: jaxcnn.Run = jaxcnn.train(by_name(), epochs=1, workdir=folder, quiet=True)
    run = jaxcnn.train(model=Network(num_classes=3), data=(images, images), classes=["a", "b"])
    run = jaxcnn.open(str(folder), model=Network)
    last: dict[str, Any] = run.history[-1]
    for metric in run.metrics:
        print(metric.name, metric.shown(last[metric.name]), run.classes, run.result)
    run.plot().savefig(folder / "curves.png")
    probabilities: np.ndarray[Any, Any] = run.predict([folder / "1.png"], checkpoint="best")
    maps: np.ndarray[Any, Any] = run.features(images, "Conv_0")
    total: int = run.summary().parameters
    print(probabilities.shape, maps.shape, run.filters().shape, total)
    return run.evaluate("validation", tta="flip")


def applied(images: jax.Array) -> jax.Array:
    """Uses networks and operations by themselves."""
    names: list[str] = jaxcnn.list_models("res*")
    model: nn.Module = jaxcnn.create_model(names[0], num_classes=10)
    variables = model.init(jax.random.key(0), images)
    logits = model.apply(variables, images, train=False)
    kernel = jnp.zeros((3, 3, images.shape[-1], 8))
    x: jax.Array = ops.conv(images, kernel, stride=2, padding="SAME")
    x = ops.max_pool(ops.avg_pool(x, 2), 2)
    print(len(models.MODELS), logits, ops.explain(ops.conv, images, kernel))
    return ops.layer_norm(x, jnp.ones(8), jnp.zeros(8))


def refused() -> None:
    """Makes mistakes."""
    jaxcnn.Data("digits", batch_size="64")  # type: ignore[arg-type]
    jaxcnn.Optim("sgd", lr=0.1)  # type: ignore[call-arg]
    jaxcnn.Train(epochs=2.5)  # type: ignore[arg-type]
    jaxcnn.Comparison(arms=config())  # type: ignore[arg-type]
    jaxcnn.Resources(nodes="two")  # type: ignore[arg-type]
    jaxcnn.train("lenet5_digits.py")  # type: ignore[arg-type]
    jaxcnn.open(5)  # type: ignore[arg-type]
    jaxcnn.open("runs/a").evaluate("train")  # type: ignore[arg-type]
    jaxcnn.list_models(5)  # type: ignore[arg-type]
    jaxcnn.create_model("lenet5", classes=10)  # type: ignore[call-arg]
    print(jaxcnn.nothing)  # type: ignore[attr-defined]
    print(Distributed(processes="2"), Network(classes=2))  # type: ignore[arg-type, call-arg]
    print(jaxcnn.InputError("a").line)  # type: ignore[attr-defined]
