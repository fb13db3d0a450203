"""Regression: one or several numbers for each image."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxcnn.config.checked import require, shown
from jaxcnn.errors import InputError
from jaxcnn.tasks.interface import BaseTask, Batch, Metric, Sums, count_and_loss

Numbers = tuple[float, ...]


@dataclass(frozen=True)
class Regression(BaseTask):
    r"""Learns numbers; labels are ``(n,)`` or ``(n, k)``, outputs ``(n, k)``.

    The network learns $z = (y - mean) / std$, with mean and standard deviation of the training
    labels, so that learning rates mean the same whatever the unit; answers and the mean absolute
    error are in the unit of the labels. Networks are judged by $R^2 = 1 - \sum (y - \hat y)^2 /
    \sum (y - \bar y)^2$ (the mean over the k numbers) and by the mean absolute error.

    Attributes:
        criterion: ``"squared"``, $\frac{1}{2} (z - \hat z)^2$, or ``"huber"`` (Huber 1964), which
            from delta on goes on as a straight line. Both are means over the k numbers.
        delta: where that is, in standard deviations.
        mean: mean of the training labels.
        std: their standard deviation.
    """

    criterion: Literal["squared", "huber"] = "squared"
    delta: float = 1.0
    mean: Numbers = (0.0,)
    std: Numbers = (1.0,)
    learns_numbers = True
    metrics = (Metric("r2", "R2", high=1), Metric("mae", "MAE", higher_is_better=False, low=0))

    def __post_init__(self) -> None:
        """Checks the fields."""
        known = self.criterion in ("squared", "huber")
        require("task.options.criterion", self.criterion, known, "'squared' or 'huber'")
        number = isinstance(self.delta, int | float) and 0 < self.delta < np.inf
        require("task.options.delta", self.delta, number, "a finite number above 0")
        fits = len(self.mean) == len(self.std) and min(self.std, default=0) > 0
        require("std", self.std, fits, "a number above 0 for each one in mean")

    def loss(self, outputs: jax.Array, batch: Batch) -> jax.Array:
        """Returns the mean loss of the numbers of each example."""
        z = self._normalised(batch.get("target", batch["label"]))
        guess = outputs.astype(jnp.float32)
        if self.criterion == "huber":
            return optax.huber_loss(guess, z, delta=self.delta).mean(axis=-1)
        return optax.l2_loss(guess, z).mean(axis=-1)

    def check_labels(self, labels: np.ndarray, names: Sequence[str], what: str) -> None:
        """Checks that labels are numbers, one for each name."""
        given = labels.reshape(len(labels), -1).shape[1] if labels.ndim <= 2 else 0
        if given != len(names):
            raise InputError(
                f"task.name='regression': {what} labels must be of shape (n, {len(names)}), one "
                f"number for each of {shown(tuple(names))}, are of shape {shown(labels.shape)}"
            )

    def fit(self, read_labels: Callable[[], np.ndarray]) -> dict[str, Any]:
        """Returns mean and standard deviation of the training labels."""
        labels = read_labels()
        y = labels.reshape(len(labels), -1).astype(np.float64)
        std = y.std(axis=0)
        return {
            "mean": tuple(y.mean(axis=0).tolist()),
            "std": tuple(np.where(std > 0, std, 1.0).tolist()),
        }

    def sums(self, outputs: jax.Array, batch: Batch) -> Sums:
        """Returns sums of the loss and, for each number, of errors and of squares, in units z."""
        mask = batch["mask"][:, None]
        z, guess = self._normalised(batch["label"]), outputs.astype(jnp.float32)
        each = {
            "absolute": jnp.abs(z - guess),
            "squared": (z - guess) ** 2,
            "label": z,
            "label_squared": z**2,
        }
        return {
            **count_and_loss(batch["mask"], self.loss(outputs, batch)),
            **{name: jnp.where(mask, value, 0.0).sum(axis=0) for name, value in each.items()},
        }

    def means(self, sums: Mapping[str, np.ndarray]) -> dict[str, float]:
        """Returns loss, R2 and mean absolute error; R2 is 0 of labels that are all equal."""
        found = super().means(sums)
        if "squared" in sums:
            n = int(sums["count"])
            names = ("squared", "label", "label_squared", "absolute")
            squared, label, square, absolute = (np.asarray(sums[x], np.float64) for x in names)
            total = square - label**2 / n
            varies = total > 1e-6 * n
            r2 = np.where(varies, 1 - squared / np.where(varies, total, 1.0), 0.0)
            found["r2"] = float(r2.mean())
            found["mae"] = float((absolute / n * np.array(self.std)).mean())
        return found

    def predictions(self, outputs: jax.Array) -> jax.Array:
        """Returns the numbers in the unit of the labels, ``(n, k)``."""
        mean, std = self._scale()
        return outputs.astype(jnp.float32) * std + mean

    def soft_targets(self, labels: jax.Array, names: Sequence[str]) -> jax.Array:
        """Returns the labels as numbers ``(n, k)``."""
        return labels.astype(jnp.float32).reshape(len(labels), -1)

    def _normalised(self, labels: jax.Array) -> jax.Array:
        mean, std = self._scale()
        return (labels.astype(jnp.float32).reshape(len(labels), -1) - mean) / std

    def _scale(self) -> tuple[np.ndarray, np.ndarray]:
        return np.array([self.mean], np.float32), np.array([self.std], np.float32)
