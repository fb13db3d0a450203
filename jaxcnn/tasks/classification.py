"""Classification: one class for each image."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from jaxcnn.config import MOST_CLASSES
from jaxcnn.config.checked import require, shown
from jaxcnn.errors import InputError
from jaxcnn.tasks.interface import BaseTask, Batch, Metric, Sums
from jaxcnn.tasks.losses import binary_cross_entropy, cross_entropy, distillation
from jaxcnn.tasks.sums import classification_sums, rank_of_label

TOP1 = Metric("top1", "top-1", low=0, high=1, error="error", of_examples=True)
TOP5 = Metric("top5", "top-5", low=0, high=1, error="top-5 error")


@dataclass(frozen=True)
class Classification(BaseTask):
    """Learns one class for each image; labels are ``(n,)`` whole numbers, outputs logits.

    The loss is the cross-entropy in nats; networks are judged by top-1 and, where there are more
    than five classes, top-5.

    Attributes:
        label_smoothing: the share of each target that is spread over all classes.
        criterion: ``"cross_entropy"``, or ``"binary"``, the mean over the classes of the binary
            cross-entropy (Wightman et al. 2021). That is what is learned; evaluation gives the
            cross-entropy in either case, so that networks can be compared.
        threshold: from which share of a mixed image on a class counts as there, with ``"binary"``:
            targets above it are 1, all others 0. A negative number keeps the shares themselves.
    """

    label_smoothing: float = 0.0
    criterion: Literal["cross_entropy", "binary"] = "cross_entropy"
    threshold: float = -1.0
    metrics = (TOP1, TOP5)
    answer = "probability"

    def __post_init__(self) -> None:
        """Checks the fields."""
        binary = self.criterion == "binary"
        known = binary or self.criterion == "cross_entropy"
        accepted = "'cross_entropy' or 'binary'"
        require("task.options.criterion", self.criterion, known, accepted)
        number = isinstance(self.threshold, int | float) and not isinstance(self.threshold, bool)
        accepted = "a number below 1, and -1 without task.options.criterion='binary'"
        fits = number and (-1 <= self.threshold < 1 if binary else self.threshold == -1)
        require("task.options.threshold", self.threshold, fits, accepted)

    def loss(self, outputs: jax.Array, batch: Batch) -> jax.Array:
        """Returns the loss of each example against its label or mixed target."""
        target = batch.get("target", batch["label"])
        if self.criterion == "binary":
            threshold = self.threshold if self.threshold >= 0 else None
            return binary_cross_entropy(outputs, target, self.label_smoothing, threshold)
        return cross_entropy(outputs, target, self.label_smoothing)

    def check_labels(self, labels: np.ndarray, names: Sequence[str], what: str) -> None:
        """Checks that labels are whole numbers in the range of the classes."""
        if labels.ndim == 1:
            fits = (labels >= 0) & (labels < MOST_CLASSES) & (labels == np.round(labels))
            if np.issubdtype(labels.dtype, np.floating) and not fits.all():
                raise InputError(
                    f"task.name='classification': {what} labels must be whole numbers in [0, "
                    f"{MOST_CLASSES:,}), hold {labels[~fits][0]:g}"
                )
        require_whole(labels, ("n",), "classification", what)

    def metrics_of(self, names: Sequence[str]) -> tuple[Metric, ...]:
        """Returns top-1 and, unless every class is among the top 5, top-5."""
        return (TOP1, TOP5) if len(names) > 5 else (TOP1,)

    def sums(self, outputs: jax.Array, batch: Batch) -> Sums:
        """Returns the sums of :func:`classification_sums`; their loss has no smoothing."""
        losses = cross_entropy(outputs, batch["label"])
        return classification_sums(outputs, batch["label"], losses, batch["mask"])

    def means(self, sums: Mapping[str, ArrayLike]) -> dict[str, float]:
        """Returns loss and accuracies; top-5 only where there are more than five classes."""
        found = super().means({name: np.asarray(value) for name, value in sums.items()})
        if "confusion" in sums and len(np.asarray(sums["confusion"])) <= 5:
            del found["top5"]
        return found

    def training_sums(self, outputs: jax.Array, batch: Batch, losses: jax.Array) -> Sums:
        """Adds the number of the examples whose own label, mixed or not, comes first."""
        right = rank_of_label(outputs, batch["label"]) < 1
        summed = super().training_sums(outputs, batch, losses)
        return {**summed, "top1": right.sum(dtype=jnp.int32)}

    def zero_sums(self) -> Sums:
        """Returns :meth:`training_sums` of no examples."""
        return {**super().zero_sums(), "top1": jnp.int32(0)}

    def predictions(self, outputs: jax.Array) -> jax.Array:
        """Returns the probability of each class, ``(n, classes)``."""
        return jax.nn.softmax(outputs.astype(jnp.float32))

    def chosen(self, answers: np.ndarray, top_k: int | None) -> np.ndarray:
        """Returns the most probable classes, the first of them the most probable."""
        return np.argsort(-answers, kind="stable")[: top_k or 1]

    def judged(self, outputs: jax.Array, labels: jax.Array) -> dict[str, jax.Array]:
        """Returns the predicted class, its probability, and what the label was given.

        That is its probability, the logarithm of it, which is finite where it rounds to 0, and
        the squared distance of all probabilities from 1 for the label and 0 for the others.
        """
        p = self.predictions(outputs)
        log_p = jax.nn.log_softmax(outputs.astype(jnp.float32))
        at_label = labels[:, None]
        return {
            "predicted": p.argmax(axis=-1).astype(jnp.int32),
            "probability": p.max(axis=-1),
            "label_probability": jnp.take_along_axis(p, at_label, axis=1)[:, 0],
            "label_log_probability": jnp.take_along_axis(log_p, at_label, axis=1)[:, 0],
            "squared_error": ((p - jax.nn.one_hot(labels, p.shape[-1])) ** 2).sum(axis=-1),
        }

    def average(self, outputs: jax.Array) -> jax.Array:
        """Returns logits whose probabilities are the mean of those of the views."""
        log_p = jax.nn.log_softmax(outputs.astype(jnp.float32))
        return jax.nn.logsumexp(log_p, axis=0) - jnp.log(len(log_p))

    def soft_targets(self, labels: jax.Array, names: Sequence[str]) -> jax.Array:
        """Returns the shares of the classes, ``(n, classes)``: 1 for the label."""
        return jax.nn.one_hot(labels, len(names))

    def distillation(self, outputs: jax.Array, teacher: jax.Array, temperature: float) -> jax.Array:
        """Returns how far a student is from its teacher: see :func:`distillation`."""
        return distillation(outputs, teacher, temperature)


def tempered(outputs: Any, temperature: float | None) -> Any:
    """Returns logits divided by a temperature in float32; None leaves outputs as they are."""
    return outputs if temperature is None else outputs.astype(jnp.float32) / temperature


def require_whole(labels: np.ndarray, form: tuple[str, ...], task: str, what: str) -> None:
    """Checks that labels are whole numbers of so many dimensions.

    Raises:
        InputError: they are others; says which ones a task takes.
    """
    if labels.ndim != len(form) or not np.issubdtype(labels.dtype, np.integer):
        given = f"{labels.dtype} of shape {shown(labels.shape)}"
        raise InputError(
            f"task.name={task!r}: {what} labels must be whole numbers of shape "
            f"({', '.join(form)}{',' if len(form) == 1 else ''}), are {given}"
        )
