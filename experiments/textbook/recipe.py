"""What the experiments of the textbook share: the data that lie ready, one recipe for all."""

import dataclasses
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from jaxcnn.config import Comparison, Data, Experiment, Model, Optim, Schedule, Train

STATISTICS = {"fashion_mnist": ((0.286,), (0.353,)), "mnist": ((0.131,), (0.308,))}


def data(name: str = "fashion_mnist", quick: bool = False) -> Data:
    """A dataset of 28x28 grey images where it lies ready, else digits, enlarged to 16x16."""
    folder = Path(os.environ.get("TFDS_DATA_DIR", "~/tensorflow_datasets")).expanduser()
    if quick or not (folder / name).is_dir():
        return Data("digits", image_size=16, fit="resize", mean=(0.31,), std=(0.35,))
    mean, std = STATISTICS[name]
    return Data(name, train_limit=8_000, mean=mean, std=std)


def experiment(name: str, layers: str, data: Data, epochs: int) -> Experiment:
    """A network, written as a line, under AdamW; looked at once, when it is trained."""
    return Experiment(
        name=name,
        data=data,
        model=Model("sequential", {"layers": layers}),
        optim=Optim("adamw", peak_lr=2e-3, weight_decay=0.01),
        schedule=Schedule("cosine", warmup_epochs=min(1, epochs / 4)),
        train=Train(epochs=epochs, eval_every=epochs, checkpoint_every=epochs),
    )


def comparison(
    networks: Mapping[str, str],
    quick: bool = False,
    *,
    freeze: Mapping[str, Sequence[str]] | None = None,
    train_limit: int = 6_000,
    epochs: int = 3,
    seeds: int = 3,
) -> Comparison:
    """Networks under the same recipe.

    Args:
        networks: name of the arm to its layers; the first is the baseline.
        quick: one seed and two epochs of digits, of the first network and the last.
        freeze: name of an arm to what of it stays as it was drawn.
        train_limit: training images, of Fashion-MNIST.
        epochs: over them; digits take eight times as many, since they are few.
        seeds: of every network.
    """
    shown = data(quick=quick)
    if quick:
        first, *_, last = networks
        networks = {name: networks[name] for name in (first, last)}
    if shown.name == "digits":
        epochs = 2 if quick else 8 * epochs
    else:
        shown = dataclasses.replace(shown, train_limit=train_limit, batch_size=32)

    def arm(name: str) -> Experiment:
        found = experiment(name, networks[name], shown, epochs)
        frozen = tuple((freeze or {}).get(name, ()))
        return dataclasses.replace(found, optim=dataclasses.replace(found.optim, freeze=frozen))

    return Comparison(tuple(map(arm, networks)), seeds=1 if quick else seeds)
