"""Judges a network on images that are changed on the device.

What changes them is a program of its own, which all networks share that are tested alike: it takes
longer to compile than most networks do.
"""

import functools
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jaxcnn.analysis.robustness import CURVES, Change, Found
from jaxcnn.config import Data, Views
from jaxcnn.data import augment, corruptions, pipeline, shifts, views
from jaxcnn.errors import InputError
from jaxcnn.learning import step
from jaxcnn.runs.evaluation import require_finite
from jaxcnn.runs.seen import Seen
from jaxcnn.runs.tested import Test
from jaxcnn.runs.trained import Trained
from jaxcnn.tasks import BaseTask
from jaxcnn.tasks.sums import add

SEED = 0
"""The seed of the corruptions."""
KINDS = (*corruptions.CORRUPTIONS, *corruptions.EXTRA_CORRUPTIONS)
"""Names of the corruptions, in an order that their random numbers depend on."""


def judge(
    net: Trained, seen: Seen, test: Test, changes: Sequence[Change], tta: Views = "none"
) -> dict[Change, Found]:
    """Evaluates a network on some images under several changes, each image read once.

    Args:
        net: the network.
        seen: how it sees the images.
        test: the images.
        changes: what is done to them.
        tta: the views of each image over which the probabilities are averaged.

    Raises:
        InputError: no image can be read, a figure is not finite, or images that are to be
            corrupted are no pixels.
    """
    kinds = {kind for kind, _ in changes}
    # Where the data lie is nothing to what is done to them.
    data = replace(seen.data, name="digits", dir=None, validation=None, test_share=None)
    shown = {kind: _shown(data, seen.resized, tta, kind, test.render) for kind in kinds}
    judged = _judged(seen.model, net.task, tta, test.classes, net.metrics[0].of_examples)
    size = pipeline.shared_batch_size(seen.data.eval_batch_size, len(test.places), 1)
    sums: dict[Change, Any] = {}
    rights: dict[Change, list[Any]] = {change: [] for change in changes}
    masks = []
    for batch in test.batches(size, seen.data):
        if batch["image"].dtype != np.uint8 and test.render is None and kinds & {*KINDS}:
            raise InputError(
                f"{test.name}: its images are {batch['image'].dtype}; must be uint8 to be corrupted"
            )
        masks.append(batch["mask"])
        placed = jax.device_put(batch)
        for change in changes:
            level = np.float32(change.level) if change.kind in CURVES else np.int32(change.level)
            found, right = judged(net.variables, shown[change.kind](placed, level))
            sums[change] = add(sums[change], found) if change in sums else found
            rights[change].append(right)
    counted = np.concatenate(masks)
    if not counted.any():
        raise InputError(f"{test.name}: no image can be read")
    return {
        change: Found(
            require_finite(net.folder, net.task.means(jax.device_get(sums[change]))),
            int(counted.sum()),
            None if each[0] is None else np.concatenate(list(map(np.asarray, each)))[counted],
        )
        for change, each in rights.items()
    }


@functools.lru_cache(maxsize=64)  # arms that are tested alike share the program
def _shown(
    data: Data, resized: int | None, tta: Views, kind: str, render: Callable[..., Any] | None
) -> Callable[[Any, Any], list[step.Batch]]:
    """Compiles ``shown(batch, level)``, which makes network input of stored images."""
    show = _make_show(data, resized, tta, kind)

    def shown(batch: step.Batch, level: jax.Array) -> list[step.Batch]:
        return show(batch if render is None else render(batch), level)

    return jax.jit(shown)


@functools.lru_cache(maxsize=64)  # so do the seeds of an arm, and all changes and sets of images
def _judged(
    model: nn.Module, task: BaseTask, tta: Views, classes: tuple[int, ...] | None, of_images: bool
) -> Callable[[Any, list[step.Batch]], tuple[Any, jax.Array | None]]:
    """Compiles ``judged(variables, shown) -> (sums, right)``, means over what is shown."""
    outputs_of = step.make_outputs(model, task, views.COUNTED.get(tta))
    of_images = of_images and type(task).judged is not BaseTask.judged

    def judged(variables: Any, shown: list[step.Batch]) -> Any:
        sums, right = [], []
        for batch in shown:
            outputs = outputs_of(variables, batch["image"])
            if classes is not None:
                outputs = outputs[:, np.array(classes)]
            sums.append(task.sums(outputs, batch))
            answers = task.judged(outputs, batch["label"]) if of_images else None
            if answers is not None:
                right.append(answers["predicted"] == batch["label"])
        each = jnp.stack(right).mean(axis=0, dtype=jnp.float32) if right else None
        return functools.reduce(add, sums), each

    return jax.jit(judged)


def _make_show(
    data: Data, resized: int | None, tta: Views, kind: str
) -> Callable[[step.Batch, jax.Array], list[step.Batch]]:
    """Makes ``show(batch, level)``: stored images, changed, as the network sees them.

    A change is made to the fitted image in [0, 1], before it is normalised. Some are made in
    several ways, over which the figures are means.
    """
    seen = views.make_views(data, tta)
    prepare = augment.make_prepare_batch(data)
    if kind == "" and resized is None:
        return lambda batch, level: [
            prepare(batch) if tta == "none" else {**batch, "image": seen(batch["image"])}
        ]
    raw = augment.make_prepare_batch(replace(data, mean=(0.0,), std=(1.0,)))
    whole = replace(data, image_size=None, read_size=None, fit="pad")  # it is fitted by then
    finish = augment.make_prepare(whole) if tta == "none" else views.make_views(whole, tta)

    def show(batch: step.Batch, level: jax.Array) -> list[step.Batch]:
        batch = raw(batch)
        x = batch["image"]
        if resized is not None:
            x = jax.image.resize(x, (len(x), resized, resized, x.shape[-1]), "bilinear")
        changed = _changed(x, batch["place"], kind, level)
        return [{**batch, "image": finish(image)} for image in changed]

    return show


DIRECTIONS = ((0, 1), (0, -1), (1, 0), (-1, 0))
"""Where images are shifted to: right, left, down and up."""


def _changed(x: jax.Array, places: jax.Array, kind: str, level: jax.Array) -> list[jax.Array]:
    """Changes fitted images, in one or in several ways.

    What is random about the change of an image depends on its place in the data and on the kind,
    and neither on the other images of its batch nor on the severity.
    """
    if kind == "":
        return [x]
    if kind == "shift":
        return [shifts.shifted(x, level * down, level * right) for down, right in DIRECTIONS]
    if kind == "rotate":
        return [shifts.rotated(x, sign * level) for sign in (1, -1)]
    if kind == "scale":
        return [shifts.scaled(x, level)]
    own = jax.random.fold_in(jax.random.key(SEED), KINDS.index(kind))

    def one(image: jax.Array, place: jax.Array) -> jax.Array:
        key = jax.random.fold_in(own, place)
        return corruptions.corrupt(image[None], key, kind, level)[0]

    return [jax.vmap(one)(x, places)]
