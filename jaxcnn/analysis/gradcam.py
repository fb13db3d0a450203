"""Grad-CAM of any model, at any of its endpoints."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend import core

Apply = Callable[[jax.Array], tuple[jax.Array, Mapping[str, jax.Array]]]
"""Images ``(n, h, w, c)`` to logits ``(n, classes)`` and endpoints by name."""


def grad_cam(
    apply: Apply, images: jax.Array, endpoint: str, classes: jax.Array | None = None
) -> jax.Array:
    r"""Returns a map of where in each image the evidence for a class lies.

    $$\alpha_k = \frac{1}{hw} \sum_{ij} \frac{\partial y_c}{\partial A_{ijk}}, \qquad
    L_{ij} = \max\Big(0, \sum_k \alpha_k A_{ijk}\Big)$$

    Args:
        apply: the model; batch statistics must be fixed, so that images do not mix.
        images: ``(n, h, w, c)``.
        endpoint: name of feature maps ``(n, h', w', k)``.
        classes: ``(n,)`` classes to explain; the predicted ones by default.

    Returns:
        ``(n, h, w)``, enlarged bilinearly to the image, in [0, 1]; all zeros where no position
        speaks for the class.

    Raises:
        ValueError: the model has no such endpoint, or the endpoint has no spatial axes.

    Selvaraju et al., "Grad-CAM: Visual Explanations from Deep Networks via Gradient-based
    Localization", 2017.
    """
    logits_at, maps, logits = tap(apply, images, endpoint)
    if maps.ndim != 4:
        raise ValueError(f"endpoint={endpoint!r} has the shape {maps.shape}; must be (n, h, w, c)")
    chosen = logits.argmax(axis=-1) if classes is None else jnp.asarray(classes)

    def evidence(change: jax.Array) -> jax.Array:
        return jnp.take_along_axis(logits_at(change), chosen[:, None], axis=1).sum()

    gradient = jax.grad(evidence)(jnp.zeros_like(maps))
    weights = gradient.mean(axis=(1, 2), keepdims=True)
    heat = jax.nn.relu((weights * maps).sum(axis=-1)).astype(jnp.float32)
    heat = jax.image.resize(heat, (len(heat), *images.shape[1:3]), "bilinear")
    largest = heat.max(axis=(1, 2), keepdims=True)
    return jnp.where(largest > 0, heat / jnp.where(largest > 0, largest, 1), 0)


def tap(
    apply: Apply, images: jax.Array, endpoint: str
) -> tuple[Callable[[jax.Array], jax.Array], jax.Array, jax.Array]:
    """Returns the logits as a function of a change that is added to an endpoint.

    The model is traced with one more input, which then takes the endpoint's place in every later
    operation. No model has to be written for it; but ``apply`` must not be jitted as a whole,
    since its inside would not be seen.

    Returns:
        ``change -> logits``, the endpoint's value, and the logits without change.

    Raises:
        ValueError: the model has no such endpoint.
    """
    shapes = jax.eval_shape(apply, images)[1]
    if endpoint not in shapes:
        raise ValueError(f"endpoint={endpoint!r} must be one of {', '.join(sorted(shapes))}")

    def forward(images: jax.Array, instead: jax.Array) -> tuple[jax.Array, jax.Array]:
        logits, ends = apply(images)
        return logits, ends[endpoint]

    closed = jax.make_jaxpr(forward)(images, shapes[endpoint])
    original, instead = closed.outvars[1], closed.invars[1]

    def moved(atoms: Sequence[Any]) -> list[Any]:
        return [instead if atom is original else atom for atom in atoms]

    changed = core.Jaxpr(
        closed.constvars,
        closed.invars,
        moved(closed.outvars),
        [eqn.replace(invars=moved(eqn.invars)) for eqn in closed.eqns],
        closed.effects,
        closed.debug_info,
    )
    run = core.jaxpr_as_fun(core.ClosedJaxpr(changed, closed.consts))
    logits, ends = apply(images)
    maps = ends[endpoint]
    return lambda change: run(images, maps + change)[0], maps, logits
