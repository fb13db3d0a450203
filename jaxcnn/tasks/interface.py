"""What a task is: the loss that is learned, the figures that judge it, and what is answered."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from msgspec import Struct

from jaxcnn.errors import InputError

Batch = Mapping[str, jax.Array]
"""A batch as the network takes it: ``image`` (n, h, w, c), and ``label`` (n, ...) in the form that
the task learns. In evaluation also ``mask`` (n,), False where an example does not count; in
training, where images are mixed, ``target`` (n, ...), the mixed labels."""
Sums = dict[str, jax.Array]
"""Figures summed over examples, by name; ``count`` is the number of the examples."""


class Metric(Struct, frozen=True):
    """A figure by which a network is judged.

    Attributes:
        name: its name in records, where the split stands before it: ``test_NAME``.
        title: its name for people.
        higher_is_better: whether a larger one is the better one.
        low: the smallest value that it can have; None if there is none.
        high: the largest one.
        error: what 1 minus the value is called, where curves show that; empty where they show the
            value itself.
        of_examples: whether it is the share of the examples that were answered rightly: then a
            single run has Wilson's interval, and two of them are compared by McNemar's test.
    """

    name: str
    title: str
    higher_is_better: bool = True
    low: float | None = None
    high: float | None = None
    error: str = ""
    of_examples: bool = False

    @property
    def bounds(self) -> tuple[float, float]:
        """The smallest and the largest value, infinite where there is none."""
        low = -np.inf if self.low is None else self.low
        return low, np.inf if self.high is None else self.high

    @property
    def is_share(self) -> bool:
        """Whether it is a share, which is shown in percent."""
        return self.bounds == (0, 1)

    def shown(self, value: float) -> str:
        """Returns a value for people.

        >>> Metric("top1", "top-1", low=0, high=1).shown(0.5), Metric("mae", "MAE").shown(2.0)
        ('50.00%', '2')
        """
        if self.name == "loss":
            return f"{value:.4f}"
        return f"{value:.2%}" if self.is_share else f"{value:.5g}"

    def score(self, value: float) -> float:
        """Returns a number that is the higher the better the value is."""
        return value if self.higher_is_better else -value

    @property
    def accepted(self) -> str:
        """Says which values it can have."""
        ends = {(True, True): "in [{0}, {1}]", (True, False): "a finite number >= {0}"}
        ends[False, True] = "a finite number <= {1}"
        words = ends.get((self.low is not None, self.high is not None), "a finite number")
        return words.format(self.low, self.high)


def count_and_loss(mask: jax.Array, losses: jax.Array) -> Sums:
    """Returns the number of the examples whose mask is True, and the sum of their losses."""
    return {"count": mask.sum(dtype=jnp.int32), "loss": jnp.where(mask, losses, 0.0).sum()}


class BaseTask:
    """A task that networks are trained for; a task of your own derives from it.

    It must say :meth:`loss`. All else has a default: a task that only adds :attr:`metrics`, and
    their values for each example in :meth:`scores`, is complete. Names are those of the classes or,
    in general, of the numbers that the network gives for each image or pixel.

    Attributes:
        metrics: the figures beside the loss. The first heads tables and charts, and best
            checkpoints, patience and sweeps choose by it; without any, they choose by the loss.
        answer: what one of the network's answers is called.
        learns_numbers: whether labels that are whole numbers are numbers, and not classes.
    """

    metrics: tuple[Metric, ...] = ()
    answer: str = "value"
    learns_numbers: bool = False

    # ------------------------------------------------------------------------------- learning

    def loss(self, outputs: jax.Array, batch: Batch) -> jax.Array:
        """Returns the loss of each example, ``(n,)``, of which training descends the mean.

        Args:
            outputs: what the network returns, ``(n, *output_shape)``.
            batch: see :data:`Batch`.
        """
        raise NotImplementedError

    def output_shape(self, names: Sequence[str], size: tuple[int, int]) -> tuple[int, ...]:
        """Returns the shape that the network's output must have for one image of this size."""
        return (len(names),)

    def check_labels(self, labels: np.ndarray, names: Sequence[str], what: str) -> None:
        """Checks the labels of a split that lies in memory.

        Args:
            labels: ``(n, ...)``.
            names: see the class.
            what: names the split for the error.

        Raises:
            InputError: the task cannot learn them.
        """

    def fit(self, read_labels: Callable[[], np.ndarray]) -> dict[str, Any]:
        """Returns fields of the task that depend on the training labels, for its constructor.

        They are kept with the run, so that it is evaluated and asked with the same ones.

        Args:
            read_labels: reads all training labels, which may take a while.
        """
        return {}

    # -------------------------------------------------------------------------------- judging

    def metrics_of(self, names: Sequence[str]) -> tuple[Metric, ...]:
        """Returns the metrics that mean something with these names."""
        return self.metrics

    def scores(self, outputs: jax.Array, batch: Batch) -> dict[str, jax.Array]:
        """Returns a number for each example, ``(n,)``, under the name of each metric."""
        return {}

    def sums(self, outputs: jax.Array, batch: Batch) -> Sums:
        """Returns sums over the examples whose mask is True: ``count``, ``loss`` and others.

        They merge by addition. A matrix ``confusion``, of counts by label and prediction, is drawn.
        """
        mask, each = batch["mask"], self.scores(outputs, batch)
        summed = {name: jnp.where(mask, value, 0.0).sum() for name, value in each.items()}
        return {**count_and_loss(mask, self.loss(outputs, batch)), **summed}

    def means(self, sums: Mapping[str, np.ndarray]) -> dict[str, float]:
        """Returns loss and metrics from sums, as far as these have them; the count is not 0."""
        names = ("loss", *(metric.name for metric in self.metrics))
        return {name: float(sums[name]) / int(sums["count"]) for name in names if name in sums}

    def training_sums(self, outputs: jax.Array, batch: Batch, losses: jax.Array) -> Sums:
        """Returns what is summed while training: count, loss, and what else costs next to nothing.

        Args:
            outputs: as in :meth:`loss`, in training mode.
            batch: the batch.
            losses: the loss of each example.
        """
        return {"count": jnp.int32(losses.size), "loss": losses.sum()}

    def zero_sums(self) -> Sums:
        """Returns :meth:`training_sums` of no examples."""
        return {"count": jnp.int32(0), "loss": jnp.float32(0)}

    # ------------------------------------------------------------------------------ answering

    def predictions(self, outputs: jax.Array) -> jax.Array:
        """Returns what the network answers, as ``jaxcnn.Run.predict`` does: here the outputs."""
        return outputs

    def answers(self, outputs: jax.Array) -> jax.Array:
        """Returns a number for each name, ``(n, names)``, as ``jaxcnn predict`` prints them.

        Of maps, it is their mean; of predictions that are whole numbers ``(n,)``, such as the
        largest of the outputs, 1 for the name that they mean and 0 for the others.
        """
        found = self.predictions(outputs)
        if found.ndim == 2:
            return found
        if found.ndim == 1 and jnp.issubdtype(found.dtype, jnp.integer):
            return jax.nn.one_hot(found, outputs.shape[-1])
        return found.reshape(len(found), -1).mean(axis=1, keepdims=True)

    def chosen(self, answers: np.ndarray, top_k: int | None) -> np.ndarray:
        """Returns which of the answers for one image are shown, in their order: here all.

        Args:
            answers: ``(names,)``.
            top_k: how many were asked for; None where nothing was said.
        """
        return np.arange(len(answers))[:top_k]

    def evidence(self, outputs: jax.Array) -> jax.Array:
        """Returns what speaks for each name, ``(n, names)``, whose largest Grad-CAM explains."""
        return outputs.reshape(len(outputs), -1)

    def judged(self, outputs: jax.Array, labels: jax.Array) -> dict[str, jax.Array] | None:
        """Returns what is kept of every test example to compare networks; None of most tasks."""
        return None

    # ------------------------------------------------- what only some tasks can be combined with

    def average(self, outputs: jax.Array) -> jax.Array:
        """Returns the outputs for several views of each image, ``(views, n, k)``, as one."""
        if outputs.ndim > 3:
            raise InputError("--tta: must be none, since maps of several views have other places")
        return outputs.mean(axis=0)

    def soft_targets(self, labels: jax.Array, names: Sequence[str]) -> jax.Array:
        """Returns labels as numbers ``(n, ...)`` that mixup and CutMix can mix."""
        raise InputError(
            f"augment.mixup, augment.cutmix: must be 0, since {self} cannot mix labels"
        )

    def distillation(self, outputs: jax.Array, teacher: jax.Array, temperature: float) -> jax.Array:
        """Returns the loss of each example, ``(n,)``, against a teacher's outputs."""
        raise InputError(f"train.distill_from: must be None, since {self} has no distillation")

    def __str__(self) -> str:
        return f"the task {type(self).__name__}"
