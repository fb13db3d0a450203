"""Semantic segmentation: a class for each pixel."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

from jaxcnn.config.checked import shown
from jaxcnn.errors import InputError
from jaxcnn.tasks.classification import require_whole
from jaxcnn.tasks.interface import BaseTask, Batch, Metric, Sums, count_and_loss
from jaxcnn.tasks.losses import cross_entropy

IGNORED = 255
"""Pixels of this label, and those below 0, are neither learned nor judged."""


@dataclass(frozen=True)
class Segmentation(BaseTask):
    r"""Learns the class of each pixel; labels are ``(n, h, w)``, outputs ``(n, h, w, classes)``.

    The loss of an image is the mean cross-entropy of its pixels, in nats. Networks are judged by
    the mean intersection over union, $\frac{1}{C} \sum_c TP_c / (TP_c + FP_c + FN_c)$ over the
    pixels of all images, of the classes that occur in labels or predictions (Everingham et al.
    2010), and by the share of the pixels that are right. Pixels labelled 255, or below 0, are left
    out.

    Attributes:
        label_smoothing: the share of each target that is spread over all classes.
    """

    label_smoothing: float = 0.0
    metrics = (
        Metric("iou", "mean IoU", low=0, high=1),
        Metric("pixels", "pixel accuracy", low=0, high=1),
    )
    answer = "share of pixels"

    def loss(self, outputs: jax.Array, batch: Batch) -> jax.Array:
        """Returns the mean cross-entropy of the pixels of each image."""
        return self._loss(outputs, batch["label"], self.label_smoothing)

    def _loss(self, outputs: jax.Array, labels: jax.Array, smoothing: float) -> jax.Array:
        counts = _counts(labels)
        classes = outputs.shape[-1]
        flat = jnp.where(counts, labels, 0).reshape(-1)
        each = cross_entropy(outputs.reshape(-1, classes), flat, smoothing).reshape(labels.shape)
        pixels = jnp.maximum(counts.sum(axis=(1, 2)), 1)
        return jnp.where(counts, each, 0.0).sum(axis=(1, 2)) / pixels

    def output_shape(self, names: Sequence[str], size: tuple[int, int]) -> tuple[int, ...]:
        """Returns height and width of the image, and the number of classes."""
        return (*size, len(names))

    def check_labels(self, labels: np.ndarray, names: Sequence[str], what: str) -> None:
        """Checks that labels are maps of the classes, and that their pixels can be counted."""
        require_whole(labels, ("n", "h", "w"), "segmentation", what)
        if len(names) > IGNORED:
            raise InputError(
                f"task.name='segmentation': {len(names):,} classes; must be at most {IGNORED}, "
                f"since {IGNORED} stands for pixels to ignore"
            )
        known = labels[(labels >= 0) & (labels != IGNORED)]
        if len(names) <= 2 and (labels == IGNORED).any() and not known.any():
            raise InputError(
                f"task.name='segmentation': {what} labels hold nothing but 0 and {IGNORED}, which "
                "stands for pixels to ignore; for two classes they must be 0 and 1"
            )
        wrong = labels[(labels >= len(names)) & (labels != IGNORED)]
        if wrong.size:
            raise InputError(
                f"task.name='segmentation': {what} labels must be below {len(names)}, the number "
                f"of classes, or {IGNORED} (ignored), hold {shown(int(wrong[0]))}"
            )
        if labels.size >= 2**32:
            raise InputError(
                f"task.name='segmentation': {what} labels must have fewer than 2**32 pixels, have "
                f"{labels.size:,}"
            )

    def sums(self, outputs: jax.Array, batch: Batch) -> Sums:
        """Returns the loss and the number of pixels by label and prediction, ``confusion``."""
        mask, labels, classes = batch["mask"], batch["label"], outputs.shape[-1]
        losses = self._loss(outputs, labels, 0.0)
        counts = _counts(labels) & mask[:, None, None]
        predicted = outputs.argmax(axis=-1)
        place = jnp.where(counts, labels * classes + predicted, 0).reshape(-1)
        flat = jnp.zeros(classes**2, jnp.uint32).at[place].add(counts.reshape(-1))
        return {**count_and_loss(mask, losses), "confusion": flat.reshape(classes, classes)}

    def means(self, sums: Mapping[str, np.ndarray]) -> dict[str, float]:
        """Returns loss, mean intersection over union and pixel accuracy."""
        found = super().means(sums)
        if "confusion" in sums:
            confusion = np.asarray(sums["confusion"], np.float64)
            right = confusion.diagonal()
            union = confusion.sum(axis=0) + confusion.sum(axis=1) - right
            occurs = union > 0
            found["iou"] = float((right[occurs] / union[occurs]).mean()) if occurs.any() else 0.0
            found["pixels"] = float(right.sum() / max(confusion.sum(), 1))
        return found

    def predictions(self, outputs: jax.Array) -> jax.Array:
        """Returns the class of each pixel, ``(n, h, w)``."""
        return outputs.argmax(axis=-1).astype(jnp.int32)

    def answers(self, outputs: jax.Array) -> jax.Array:
        """Returns the share of the pixels that each class takes, ``(n, classes)``."""
        return jax.nn.one_hot(self.predictions(outputs), outputs.shape[-1]).mean(axis=(1, 2))

    def evidence(self, outputs: jax.Array) -> jax.Array:
        """Returns the mean logit of each class over the pixels taken for it.

        So Grad-CAM explains segmentation: Vinogradova, Dibrov & Myers (2020), where it is the sum.
        """
        taken = jax.nn.one_hot(outputs.argmax(axis=-1), outputs.shape[-1])
        pixels = taken.sum(axis=(1, 2))
        mean = (taken * outputs).sum(axis=(1, 2)) / jnp.maximum(pixels, 1)
        return jnp.where(pixels > 0, mean, -jnp.inf)

    def chosen(self, answers: np.ndarray, top_k: int | None) -> np.ndarray:
        """Returns the classes that some pixel has, the most frequent first."""
        order = np.argsort(-answers, kind="stable")
        return order[answers[order] > 0][:top_k]


def _counts(labels: jax.Array) -> jax.Array:
    return (labels >= 0) & (labels != IGNORED)
