"""Multi-label classification: for each image any number of labels, from none to all."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxcnn.config.checked import shown
from jaxcnn.errors import InputError
from jaxcnn.tasks.classification import require_whole
from jaxcnn.tasks.interface import BaseTask, Batch, Metric, Sums, count_and_loss

PER_LOGIT = 128
"""Into so many steps a unit of a logit is divided where logits are ranked."""
LARGEST = 32
"""Logits are ranked within so much of 0; beyond, they are equal."""


@dataclass(frozen=True)
class Multilabel(BaseTask):
    r"""Learns which of several labels an image has; labels are ``(n, k)`` of 0 and 1.

    The loss of an example is the mean over its labels of the cross-entropy of sigmoid(logit), in
    nats. Networks are judged by the mean average precision: the mean, over the labels that occur,
    of $\sum_i (R_i - R_{i-1}) P_i$ with precision and recall at every threshold, as scikit-learn's
    ``average_precision_score``. Logits are rounded down to 1/128 for it, within 32 of 0, so that it
    can be computed from counts.

    Attributes:
        label_smoothing: the share of each target that is moved to 1/2.
    """

    label_smoothing: float = 0.0
    metrics = (Metric("map", "mAP", low=0, high=1),)
    answer = "probability"

    def loss(self, outputs: jax.Array, batch: Batch) -> jax.Array:
        """Returns the mean cross-entropy of the labels of each example."""
        target = jnp.asarray(batch.get("target", batch["label"]), jnp.float32)
        target = target + self.label_smoothing * (0.5 - target)
        logits = outputs.astype(jnp.float32)
        return optax.sigmoid_binary_cross_entropy(logits, target).mean(axis=-1)

    def check_labels(self, labels: np.ndarray, names: Sequence[str], what: str) -> None:
        """Checks that labels are 0 and 1, one for each name."""
        require_whole(labels, ("n", str(len(names))), "multilabel", what)
        if labels.shape[1] != len(names) or labels.min(initial=0) < 0 or labels.max(initial=0) > 1:
            raise InputError(
                f"task.name='multilabel': {what} labels must be 0 or 1 for each of the "
                f"{len(names)} names, are {shown(labels.shape)} from {labels.min()} to "
                f"{labels.max()}"
            )

    def sums(self, outputs: jax.Array, batch: Batch) -> Sums:
        """Returns loss, and for each label how many examples, and how many that have it, by rank.

        ``positives`` and ``examples`` are ``(k, ranks)``.
        """
        mask, labels = batch["mask"], batch["label"]
        losses = Multilabel().loss(outputs, {"label": labels})
        z = jnp.nan_to_num(outputs.astype(jnp.float32), nan=-LARGEST)
        rank = jnp.clip(jnp.floor(z * PER_LOGIT), -LARGEST * PER_LOGIT, LARGEST * PER_LOGIT - 1)
        place = (rank + LARGEST * PER_LOGIT).astype(jnp.int32)
        names = jnp.broadcast_to(jnp.arange(z.shape[1]), z.shape)
        none = jnp.zeros((z.shape[1], 2 * LARGEST * PER_LOGIT), jnp.int32)
        counted = jnp.broadcast_to(mask[:, None], z.shape).astype(jnp.int32)
        return {
            **count_and_loss(mask, losses),
            "positives": none.at[names, place].add(counted * labels),
            "examples": none.at[names, place].add(counted),
        }

    def means(self, sums: Mapping[str, np.ndarray]) -> dict[str, float]:
        """Returns loss and mean average precision."""
        found = super().means(sums)
        if "positives" in sums:
            found["map"] = _mean_average_precision(sums["positives"], sums["examples"])
        return found

    def predictions(self, outputs: jax.Array) -> jax.Array:
        """Returns the probability of each label, ``(n, k)``."""
        return jax.nn.sigmoid(outputs.astype(jnp.float32))

    def chosen(self, answers: np.ndarray, top_k: int | None) -> np.ndarray:
        """Returns the labels that are more probable than not, or the most probable ones."""
        order = np.argsort(-answers, kind="stable")
        return order[:top_k] if top_k else order[answers[order] >= 0.5]

    def average(self, outputs: jax.Array) -> jax.Array:
        """Returns logits whose probabilities are the mean of those of the views."""
        z = outputs.astype(jnp.float32)
        has, lacks = (jax.nn.logsumexp(jax.nn.log_sigmoid(x), axis=0) for x in (z, -z))
        return has - lacks

    def soft_targets(self, labels: jax.Array, names: Sequence[str]) -> jax.Array:
        """Returns the labels as numbers."""
        return labels.astype(jnp.float32)


def _mean_average_precision(positives: np.ndarray, examples: np.ndarray) -> float:
    """Returns the mean over labels that occur; counts are by rising rank, ``(k, ranks)``."""
    # The largest logits come first; ranks without examples are no thresholds.
    right, taken = (
        np.cumsum(counts[:, ::-1], axis=1, dtype=np.int64) for counts in (positives, examples)
    )
    occurs = right[:, -1] > 0
    precision = right / np.maximum(taken, 1)
    gained = np.diff(right, axis=1, prepend=0) / np.maximum(right[:, -1:], 1)
    each = (gained * precision).sum(axis=1)
    return float(each[occurs].mean()) if occurs.any() else 0.0
