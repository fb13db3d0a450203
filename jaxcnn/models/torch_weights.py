"""Weights from other frameworks: arrays in torchvision's layout become our variables.

Submodules here carry torchvision's names with dots as underscores, so one rule translates:
``layer1_0/conv1/kernel`` here is ``layer1.0.conv1.weight`` there. Where timm differs only in
names, :data:`OTHER_NAMES` says how. Nothing here imports torch, and nothing is unpickled.
"""

import itertools
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from jaxcnn.config.checked import shown
from jaxcnn.layers import ConvTranspose
from jaxcnn.models.safetensors import read_safetensors

LEAVES = {
    "kernel": "weight",
    "scale": "weight",
    "bias": "bias",
    "mean": "running_mean",
    "var": "running_var",
}

# Names that other libraries, or older releases, give to the same arrays: a regular expression
# over the dotted name and its replacement. A rule counts only where the model lacks the name on
# the left and has the one that one or more rules make of it.
OTHER_NAMES: tuple[tuple[str, str | Callable[[re.Match[str]], str]], ...] = (
    # timm, ResNetV2
    (r"^stem\.conv\.", "conv1."),
    (r"^stages\.(\d+)\.blocks\.", lambda match: f"layer{int(match[1]) + 1}."),
    (r"\.downsample\.conv\.", ".downsample."),
    (r"^head\.fc\.", "fc."),
    # timm, VGG: the dense layers are 7x7 and 1x1 convolutions
    (r"^pre\.logits\.fc1\.", "classifier.0."),
    (r"^pre\.logits\.fc2\.", "classifier.3."),
    (r"^head\.fc\.", "classifier.6."),
    # torchvision's first DenseNet files
    (r"\.(norm|conv|relu)\.([12])\.", r".\1\2."),
)


def from_torch(
    model: str | nn.Module,
    state_dict: Mapping[str, Any],
    *,
    num_classes: int = 1000,
    input_shape: tuple[int, int, int] | None = None,
    **options: Any,
) -> dict[str, Any]:
    """Returns a model's variables from a state dict in torchvision's layout (or timm's).

    Convolution kernels turn from ``(out, in, h, w)`` to ``(h, w, in, out)``, transposed ones from
    ``(in, out, h, w)``, dense ones from ``(out, in)`` to ``(in, out)``; everything becomes float32.
    ``num_batches_tracked`` is left out.

    Args:
        model: a name of :func:`jaxcnn.models.list_models`, or a module.
        state_dict: names to arrays (NumPy's, or what ``np.asarray`` takes).
        num_classes: number of logits of the weights, where ``model`` is a name.
        input_shape: (height, width, channels) the weights are for; by default the model's
            standard input.
        **options: fields of the model, where ``model`` is a name.

    Returns:
        ``{"params": ..., "batch_stats": ...}``, as ``model.init`` returns.

    Raises:
        ValueError: entries are missing, unknown, of another shape or type, or not finite; they are
            named.

    >>> import numpy as np
    >>> weights = {"fc1.weight": np.ones((5, 4)), "fc1.bias": np.ones(5),
    ...            "fc2.weight": np.ones((3, 5)), "fc2.bias": np.ones(3)}
    >>> variables = from_torch("mlp", weights, num_classes=3, input_shape=(2, 2, 1), hidden=(5,))
    >>> variables["params"]["fc1"]["kernel"].shape
    (4, 5)
    """
    from jaxcnn.models import create_model, standard_input  # the table imports the families

    if isinstance(model, str):
        module = create_model(model, num_classes=num_classes, **options)
        shape = input_shape or standard_input(model)
        title = f"model={model!r} with num_classes={num_classes}"
    else:
        if options:
            raise ValueError(f"options {sorted(options)} need a model's name, got a module")
        module = model
        shape = input_shape or (224, 224, 3)
        title = f"the {type(module).__name__}"
    transposed: set[tuple[str, ...]] = set()

    def note(call: Callable[..., Any], args: Any, kwargs: Any, context: Any) -> Any:
        if isinstance(context.module, ConvTranspose):
            transposed.add(("params", *context.module.path, "kernel"))
        return call(*args, **kwargs)

    with nn.intercept_methods(note):
        template = jax.eval_shape(
            lambda key, x: module.init(key, x), jax.random.key(0), jnp.zeros((1, *shape))
        )
    wanted = {_dotted(path): (path, leaf.shape) for path, leaf in flatten_dict(template).items()}
    given = _renamed(state_dict, wanted)

    found: dict[tuple[str, ...], jax.Array] = {}
    misshapen = []
    for name, (path, target) in wanted.items():
        if name not in given:
            continue
        key, value = given[name]
        array = _to_ours(np.asarray(value), target, path in transposed)
        if array is None:
            expected = _torch_shape(target, path in transposed)
            of = f"{np.shape(value)} and the dtype {np.asarray(value).dtype}"
            misshapen.append(f"{key} has the shape {of}, expected {expected} of numbers")
        elif not np.isfinite(array).all():
            misshapen.append(f"{key} holds numbers that are not finite in float32")
        elif path[-1] == "var" and (array < 0).any():
            misshapen.append(f"{key} holds variances below 0")
        else:
            # May be held in place, not copied again; `jnp.asarray` compiles for every shape.
            found[path] = jax.device_put(array)
    missing = [
        f"{name} (here {'/'.join(path)})" for name, (path, _) in wanted.items() if name not in given
    ]
    extra = [key for name, (key, _) in given.items() if name not in wanted]
    problems = [
        f"{len(names)} {what}: {_some(names)}"
        for what, names in (
            ("missing", missing),
            ("not part of it", extra),
            ("of another shape, type or range", misshapen),
        )
        if names
    ]
    if problems:
        hint = ""
        if not extra and not misshapen and all("aux" in name.lower() for name in missing):
            hint = "; weights without auxiliary heads fit aux_heads=False"
        raise ValueError(f"the state dict does not fit {title}: {'; '.join(problems)}{hint}")
    return unflatten_dict(found)


def load_torch_weights(
    model: str | nn.Module,
    path: str | Path,
    *,
    num_classes: int = 1000,
    input_shape: tuple[int, int, int] | None = None,
    **options: Any,
) -> dict[str, Any]:
    """Reads a model's variables from a safetensors file in torchvision's layout (or timm's).

    Arguments, result and errors are those of :func:`from_torch`. A file that is not safetensors,
    or not whole, is refused as in :func:`jaxcnn.models.safetensors.read_safetensors`.
    """
    try:
        return from_torch(
            model,
            read_safetensors(path),
            num_classes=num_classes,
            input_shape=input_shape,
            **options,
        )
    except ValueError as error:
        if str(path) in str(error):
            raise
        raise ValueError(f"{path}: {error}") from None


def _canonical(name: str) -> str:
    return re.sub(r"[_/]", ".", name)


def _dotted(path: tuple[str, ...]) -> str:
    """Turns ``("params", "layer1_0", "conv1", "kernel")`` to ``"layer1.0.conv1.weight"``."""
    *modules, leaf = path[1:]
    return _canonical(".".join([*modules, LEAVES.get(leaf, leaf)]))


def _renamed(
    state_dict: Mapping[str, Any], wanted: Mapping[str, Any]
) -> dict[str, tuple[str, Any]]:
    """Maps dotted names to the name in the state dict and the array."""
    given: dict[str, tuple[str, Any]] = {}
    for key, value in state_dict.items():
        if key.endswith("num_batches_tracked"):
            continue
        name = _canonical(key)
        if name not in wanted:
            others = [name]
            for pattern, new in OTHER_NAMES:
                others += [re.sub(pattern, new, n) for n in others if re.search(pattern, n)]
            name = next((other for other in others if other in wanted), name)
        if name in given:
            raise ValueError(f"the state dict holds {name} twice: {given[name][0]} and {key}")
        given[name] = key, value
    return given


def _torch_shape(target: tuple[int, ...], transposed: bool = False) -> tuple[int, ...]:
    if len(target) < 2:
        return target
    return (*(target[-2:] if transposed else target[:-3:-1]), *target[:-2])


def _to_ours(array: np.ndarray, target: tuple[int, ...], transposed: bool) -> np.ndarray | None:
    """Returns the array in our layout; None if it does not fit or does not hold numbers."""
    shape = _torch_shape(target, transposed)
    if array.shape != shape:
        # A dense layer stored as a convolution over its whole input, or the reverse, holds the
        # same numbers in the same order; a per-channel array may carry axes of length one.
        fits_dense = array.ndim > 2 and array.ndim > len(shape) >= 2 and array.shape[0] == shape[0]
        fits_conv = array.ndim == 2 and array.shape == shape[:2]
        fits_channel = len(shape) == 1 and tuple(n for n in array.shape if n != 1) == shape
        if not (fits_dense or fits_conv or fits_channel) or array.size != np.prod(shape):
            return None
        array = array.reshape(shape)
    if array.dtype.kind in "OSUMmc":
        return None
    if len(shape) > 1:
        array = np.moveaxis(array, (0, 1), (-2, -1) if transposed else (-1, -2))
    with np.errstate(over="ignore"):  # infinity tells
        return np.array(array, np.float32, order="C")  # always a copy: the caller's may change


def _some(names: list[str], most: int = 5) -> str:
    more = f", and {len(names) - most} more" if len(names) > most else ""
    short = (name if name.isprintable() and len(name) < 300 else shown(name) for name in names)
    return ", ".join(itertools.islice(short, most)) + more
