"""Augmentations that users bring: functions on single images, or on whole batches."""

import functools
from collections.abc import Callable
from typing import Any, TypeVar

import jax
import jax.numpy as jnp

from jaxcnn.config.brought import Brought, require_given
from jaxcnn.data.augment.annotations import Batch, Key
from jaxcnn.errors import InputError, as_one_line

F = TypeVar("F", bound=Callable[..., Any])


def on_batches(function: F) -> F:
    """Marks a function of ``augment.own`` that is applied to a whole batch at once.

    It is called as ``(key, images, labels) -> (images, labels)``, with images ``(n, h, w, c)`` and
    ``n`` labels, instead of once for each image.

    >>> @on_batches
    ... def backwards(key, images, labels):
    ...     return images[::-1], labels[::-1]
    """
    function.on_batches = True  # type: ignore[attr-defined]
    return function


def apply(function: Brought | str, batch: Batch, key: Key) -> Batch:
    """Applies a function that was brought to the images and labels of a batch.

    Raises:
        InputError: it was not given again, fails, or changes the shape or type of an image or a
            label.
    """
    require_given(function, "augment.own")
    assert isinstance(function, Brought)
    images, labels = batch["image"], batch["label"]
    what, whole = f"augment.own={function.name!r}", _is_on_batches(function.target)
    with as_one_line(what):
        if whole:
            image, label = map(jnp.asarray, function.target(key, images, labels))
        else:
            keys = jax.random.split(key, len(images))
            image, label = jax.vmap(function.target)(keys, images, labels)
    for name, was, now in (("image", images, image), ("label", labels, label)):
        form, wanted = ((a.shape[0 if whole else 1 :], str(a.dtype)) for a in (now, was))
        if form != wanted:
            raise InputError(
                f"{what}: must return {name} of shape {wanted[0]} and type {wanted[1]}, returned "
                f"{form[0]} and {form[1]}"
            )
    return {"image": image, "label": label}


def _is_on_batches(function: Any) -> bool:
    while isinstance(function, functools.partial):
        function = function.func
    return getattr(function, "on_batches", False) is True
