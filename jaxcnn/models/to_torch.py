"""Weights for other frameworks: our variables become arrays in torchvision's layout.

It is the inverse of :mod:`jaxcnn.models.torch_weights`, whose rule of names and axes holds here the
other way: ``layer1_0/conv1/kernel`` is ``layer1.0.conv1.weight`` there.
"""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import numpy as np
from flax.traverse_util import flatten_dict

from jaxcnn.models.torch_weights import COUNTERS, spelled, traced


def to_torch(
    model: nn.Module, variables: Mapping[str, Any], input_shape: tuple[int, int, int]
) -> dict[str, np.ndarray]:
    """Returns a model's variables as a state dict in torchvision's layout.

    PyTorch's network of the same name takes it with ``load_state_dict(..., strict=True)``, and
    :func:`jaxcnn.models.from_torch` gives the same bits back. Convolution kernels turn from
    ``(h, w, in, out)`` to ``(out, in, h, w)``, dense ones from ``(in, out)`` to ``(out, in)``; each
    batch normalisation gets the ``num_batches_tracked`` that PyTorch asks for, which is 0.

    Args:
        model: the network.
        variables: ``{"params": ..., "batch_stats": ...}``, as ``model.init`` returns.
        input_shape: (height, width, channels) of the images that it sees.

    Returns:
        Names to arrays of NumPy.

    Raises:
        ValueError: two arrays would have one name.

    >>> import jax, jax.numpy as jnp
    >>> from jaxcnn import models
    >>> model = models.create_model("mlp", num_classes=3, hidden=(5,))
    >>> variables = model.init(jax.random.key(0), jnp.zeros((1, 2, 2, 1)))
    >>> {name: array.shape for name, array in to_torch(model, variables, (2, 2, 1)).items()}
    {'fc1.bias': (5,), 'fc1.weight': (5, 4), 'fc2.bias': (3,), 'fc2.weight': (3, 5)}
    """
    _, transposed = traced(model, input_shape)
    found: dict[str, np.ndarray] = {}
    for path, leaf in sorted(flatten_dict(dict(variables)).items()):
        arrays = {path: _to_theirs(leaf, path, path in transposed)}
        if path[0] == "batch_stats" and path[-1] == "mean":
            arrays[*path[:-1], COUNTERS[0]] = np.zeros((), np.int64)
        for place, array in arrays.items():
            whole = spelled(place)
            if whole in found:
                raise ValueError(f"two arrays would be called {whole!r}, one of them {path}")
            found[whole] = array
    return found


def _to_theirs(leaf: Any, path: tuple[str, ...], transposed: bool) -> np.ndarray:
    """Returns an array in PyTorch's layout: axes of channels first."""
    array = np.asarray(leaf)
    if path[-1] == "layer_scale" and array.ndim == 1:  # multiplies (n, c, h, w)
        array = array[:, None, None]
    elif path[-1] == "kernel" and array.ndim > 1:
        array = np.moveaxis(array, (-2, -1) if transposed else (-1, -2), (0, 1))
    return np.ascontiguousarray(array)
