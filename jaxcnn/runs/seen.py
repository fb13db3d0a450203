"""How a trained network sees stored images: at the size of training, or at another."""

import functools
from dataclasses import dataclass, replace

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxcnn.config import Augment, Data
from jaxcnn.config.brought import titled
from jaxcnn.errors import InputError
from jaxcnn.runs import network
from jaxcnn.runs.trained import Trained
from jaxcnn.tasks import Segmentation


@dataclass(frozen=True)
class Seen:
    """A network, and how stored images reach it.

    Attributes:
        model: the module.
        data: how images are prepared.
        resized: the height and width to which prepared images are brought; None leaves them.
        size: the height and width that the network sees, in words.
    """

    model: nn.Module
    data: Data
    resized: int | None
    size: str


def at_size(net: Trained, side: int | None) -> Seen:
    """Returns how a network sees images at another height and width than in training.

    The fit is that of the config, at the same crop ratio. Images that were padded are padded as in
    training, then resized: more of a border would be no other resolution.

    Raises:
        InputError: the network does not take the size.
    """
    data, (height, width, _) = net.experiment.data, net.input_shape
    if side is None or (height, width) == (side, side):
        return Seen(net.model, data, None, f"{height}x{width}")
    if height != width:
        raise InputError(
            f"--image-size {side}: must be left out, since {net.folder} sees images of "
            f"{height}x{width}, which are not square"
        )
    if data.fit == "pad":
        if isinstance(net.task, Segmentation):
            raise InputError(
                f"--image-size {side}: must be left out with data.fit='pad', since label maps are "
                "not resized"
            )
        prepared, resized = data, side
    else:
        read = data.read_size and round(data.read_size * side / height)
        prepared, resized = replace(data, image_size=side, read_size=read), None
    model, reason = _at(net, side)
    if model is None:
        raise InputError(f"--image-size {side}: {_sizes(net)}{reason}")
    return Seen(model, prepared, resized, f"{side}x{side}")


def _at(net: Trained, side: int) -> tuple[nn.Module | None, str]:
    """Returns the module that sees images of a size with a run's weights; None if none does."""
    channels = net.input_shape[2]
    data = replace(net.experiment.data, image_size=None, read_size=None, fit="pad")
    experiment = replace(net.experiment, data=data, augment=Augment())
    try:
        built = network.build(experiment, net.classes, (side, side, channels), net.fitted)
        images = jax.ShapeDtypeStruct((1, side, side, channels), jnp.float32)
        init = functools.partial(built.model.init, train=False)
        shapes = jax.eval_shape(init, jax.random.key(0), images)
    except InputError as error:
        return None, f" ({error})"
    forms = [jax.tree.map(lambda a: a.shape, tree) for tree in (shapes, net.variables)]
    return (built.model, "") if forms[0] == forms[1] else (None, "")


def _sizes(net: Trained) -> str:
    """Says which sizes a network takes, looked for up to twice that of training."""
    trained = net.input_shape[0]
    low, high = _last(net, trained, 1), _last(net, trained, 2 * trained)
    which = f"of {low}x{low} to {high}x{high}"
    if low == high:
        which = f"of {low}x{low} alone"
    elif high == 2 * trained:
        which = f"from {low}x{low} on"
    return f"{titled(net.experiment.model.name)} with these weights takes images {which}"


def _last(net: Trained, taken: int, end: int) -> int:
    """Returns the last size that a network takes on the way from one that it takes to an end."""
    if _at(net, end)[0] is not None:
        return end
    while abs(end - taken) > 1:
        middle = (taken + end) // 2
        if _at(net, middle)[0] is None:
            end = middle
        else:
            taken = middle
    return taken
