"""Losses, one value per example."""

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Int


def cross_entropy(
    logits: Float[ArrayLike, "n classes"],
    labels: Int[ArrayLike, " n"] | Float[ArrayLike, "n classes"],
    smoothing: float = 0.0,
) -> Float[Array, " n"]:
    """Returns the cross-entropy of softmax(logits) against smoothed labels, in float32.

    ``-sum_k q_k log p_k`` with ``q = (1 - smoothing) * target + smoothing / classes``, where the
    target is the one-hot label or the given probabilities (Szegedy et al. 2016).

    Args:
        logits: ``(n, classes)``.
        labels: ``(n,)`` whole numbers, or ``(n, classes)`` probabilities.
        smoothing: the share of the target that is spread over all classes, in [0, 1).

    Returns:
        ``(n,)`` losses in nats.

    >>> import jax.numpy as jnp
    >>> round(float(cross_entropy(jnp.zeros((1, 10)), jnp.array([3]))[0]), 4)
    2.3026
    """
    logits = jnp.asarray(logits, jnp.float32)
    labels = jnp.asarray(labels)
    if labels.ndim == 1:
        if smoothing == 0.0:
            return optax.softmax_cross_entropy_with_integer_labels(logits, labels)
        labels = jax.nn.one_hot(labels, logits.shape[-1])
    return optax.softmax_cross_entropy(logits, optax.smooth_labels(labels, smoothing))


def binary_cross_entropy(
    logits: Float[ArrayLike, "n classes"],
    labels: Int[ArrayLike, " n"] | Float[ArrayLike, "n classes"],
    smoothing: float = 0.0,
    threshold: float | None = None,
) -> Float[Array, " n"]:
    """Returns the mean binary cross-entropy of sigmoid(logits) over the classes, in float32.

    ``-mean_k (q_k log s_k + (1 - q_k) log (1 - s_k))`` with ``s = sigmoid(logits)`` and the targets
    ``q`` of :func:`cross_entropy`: every class is a question of its own, and of two images that are
    mixed both classes may be there (Wightman et al. 2021).

    Args:
        logits: ``(n, classes)``.
        labels: ``(n,)`` whole numbers, or ``(n, classes)`` shares such as mixup makes.
        smoothing: the share of the target that is spread over all classes, in [0, 1).
        threshold: targets above it become 1, all others 0; None leaves them as they are.

    Returns:
        ``(n,)`` losses in nats.

    >>> import jax.numpy as jnp
    >>> round(float(binary_cross_entropy(jnp.zeros((1, 10)), jnp.array([3]))[0]), 4)
    0.6931
    """
    logits = jnp.asarray(logits, jnp.float32)
    labels = jnp.asarray(labels)
    if labels.ndim == 1:
        labels = jax.nn.one_hot(labels, logits.shape[-1])
    targets = optax.smooth_labels(labels, smoothing)
    if threshold is not None:
        targets = (targets > threshold).astype(jnp.float32)
    return optax.sigmoid_binary_cross_entropy(logits, targets).mean(axis=-1)


def distillation(
    logits: Float[ArrayLike, "n classes"],
    teacher: Float[ArrayLike, "n classes"],
    temperature: float,
) -> Float[Array, " n"]:
    """Returns how far a student is from its teacher, softened by a temperature, in float32.

    ``T^2 * KL(softmax(teacher / T) || softmax(logits / T))``: its gradient is that of the
    cross-entropy of Hinton et al. (2015), whose factor T^2 keeps the size of the gradient, and it
    is 0 where the two agree.

    Args:
        logits: the student's, ``(n, classes)``.
        teacher: the teacher's logits, ``(n, classes)``.
        temperature: T, above 0.

    Returns:
        ``(n,)`` losses in nats.

    >>> import jax.numpy as jnp
    >>> distillation(jnp.zeros((1, 2)), jnp.zeros((1, 2)), 4.0).tolist()
    [0.0]
    """
    soft = jax.nn.softmax(jnp.asarray(teacher, jnp.float32) / temperature)
    log_p = jax.nn.log_softmax(jnp.asarray(logits, jnp.float32) / temperature)
    return temperature**2 * optax.kl_divergence(log_p, soft)
