"""Weights from other frameworks: arrays in torchvision's layout become our variables.

Submodules here carry torchvision's names with dots as underscores, so one rule translates:
``layer1_0/conv1/kernel`` here is ``layer1.0.conv1.weight`` there. What timm calls the same arrays,
:mod:`jaxcnn.models.timm_names` says. Nothing here imports torch, and nothing is unpickled.
"""

import difflib
import itertools
import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from jaxcnn.config.checked import shown
from jaxcnn.layers import ConvTranspose
from jaxcnn.models import timm_names
from jaxcnn.models.safetensors import read_safetensors

LEAVES = {
    "kernel": "weight",
    "scale": "weight",
    "bias": "bias",
    "mean": "running_mean",
    "var": "running_var",
}

PARTS = ("state_dict_ema.", "model_ema.", "state_dict.")
"""Parts of checkpoints, laid flat, that hold weights; of weights and their moving average the
average counts."""
WRAPPERS = ("module.", "_orig_mod.", "model.")
"""What data parallelism, torch.compile and trainers put in front of the names of all weights."""
COUNTERS = ("num_batches_tracked", "n_averaged")
"""Names of counters of training steps, which are no weights."""
UNDERSCORES = re.compile(
    r"Conv2d_\d\w_\dx\d|Mixed_\d\w|branch\dx\d(x\d|dbl)?_\d\w?|branch_pool|trunk_output|_"
)
"""The names of torchvision's that have underscores, or an underscore that stands for a dot."""
TIMM_EPSILON = 1e-5
"""What timm's networks add to the variance; torchvision took TensorFlow's 1e-3 over for some."""
UNUSUAL_CLASSES = 977
"""A number of logits that no hidden layer has as its width."""
MOST_NAMED = 5
"""So many of several names are written out in an error."""
LONGEST_NAME = 300
"""Names in a file with more letters are cut short in an error."""
MOST_COMPARED = 1000
"""Among so many names in a file, those like a missing one are looked for."""


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
    Counters as ``num_batches_tracked`` are left out, and so is what data parallelism, torch.compile
    or a checkpoint puts in front of all names (``module.``, ``_orig_mod.``, ``state_dict.``, ...).

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
    template, transposed = traced(module, shape)
    wanted = {_canonical(spelled(path)): (path, leaf.shape) for path, leaf in template.items()}
    given = _named(state_dict, wanted, _family(module))
    epsilon = getattr(module, "epsilon", TIMM_EPSILON)
    if epsilon != TIMM_EPSILON and _has_timms_names(state_dict):
        raise ValueError(
            f"the state dict has timm's names, whose networks normalise with {TIMM_EPSILON}: give "
            f"epsilon={TIMM_EPSILON} in place of {epsilon}"
        )

    found: dict[tuple[str, ...], jax.Array] = {}
    misshapen = []
    classes, logits = getattr(module, "num_classes", None), None
    for name, (path, target) in wanted.items():
        if name not in given:
            continue
        key, value = given[name]
        array = _to_ours(np.asarray(value), target, path in transposed)
        if array is None:
            expected = _torch_shape(target, path in transposed)
            of = f"{np.shape(value)} and the dtype {np.asarray(value).dtype}"
            misshapen.append(f"{key} has the shape {of}, expected {expected} of numbers")
            if expected[:1] == (classes,) and expected[1:] == np.shape(value)[1:]:
                logits = len(value)
        elif not np.isfinite(array).all():
            misshapen.append(f"{key} holds numbers that are not finite in float32")
        elif path[-1] == "var" and (array < 0).any():
            misshapen.append(f"{key} holds variances below 0")
        else:
            # May be held in place, not copied again; `jnp.asarray` compiles for every shape.
            found[path] = jax.device_put(array)
    extra = [key for name, (key, _) in given.items() if name not in wanted]
    missing = [
        f"{spelled(path)} (here {'/'.join(path)})"
        for name, (path, _) in wanted.items()
        if name not in given
    ]
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
        hint = _nearest(missing, extra)
        if not extra and not misshapen and all("aux" in name.lower() for name in missing):
            hint = "; weights without auxiliary heads fit aux_heads=False"
        if not extra and not missing and logits:
            hint = f"; the weights give {logits} logits: give num_classes={logits} (--num-classes)"
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


def needed(
    name: str, shapes: Mapping[str, Sequence[int]], **options: Any
) -> tuple[int | None, dict[str, Any]]:
    """Returns how many logits weights give, and what options a model needs to take them.

    Args:
        name: a name of :func:`jaxcnn.models.list_models`.
        shapes: of the arrays in a state dict, by their names.
        **options: fields of the model, which the options returned hold too.

    Returns:
        The number of logits, None where the last layer is not among the arrays; and the options:
        no auxiliary heads where there are no weights for them, and where the names are timm's the
        epsilon that its networks normalise with.

    >>> needed("mlp", {"fc2.weight": (3, 5), "fc2.bias": (3,)}, hidden=(5,))
    (3, {'hidden': (5,)})
    """
    from jaxcnn.models import create_model, model_options, standard_input

    known = model_options(name)
    if "aux_heads" in known and not any("aux" in key.lower() for key in shapes):
        options["aux_heads"] = False
    if known.get("epsilon", TIMM_EPSILON) != TIMM_EPSILON and _has_timms_names(shapes):
        options.setdefault("epsilon", TIMM_EPSILON)
    model = create_model(name, num_classes=UNUSUAL_CLASSES, **options)
    template, _ = traced(model, standard_input(name))
    wanted = {_canonical(spelled(path)): leaf.shape for path, leaf in template.items()}
    given = _named(shapes, wanted, _family(model))
    for place, shape in wanted.items():
        if shape == (UNUSUAL_CLASSES,) and place in given:
            (logits, *_) = given[place][1]
            return logits, options
    return None, options


def traced(
    module: nn.Module, shape: tuple[int, ...]
) -> tuple[dict[tuple[str, ...], Any], set[tuple[str, ...]]]:
    """Returns a module's variables as shapes by their paths, and the transposed kernels' paths."""
    transposed: set[tuple[str, ...]] = set()

    def note(call: Callable[..., Any], args: Any, kwargs: Any, context: Any) -> Any:
        if isinstance(context.module, ConvTranspose):
            transposed.add(("params", *context.module.path, "kernel"))
        return call(*args, **kwargs)

    with nn.intercept_methods(note):
        template = jax.eval_shape(
            lambda key, x: module.init(key, x), jax.random.key(0), jnp.zeros((1, *shape))
        )
    return flatten_dict(template), transposed


def _family(module: nn.Module) -> str:
    """Returns the module of this package that defines a network, "" where none does."""
    package, _, family = type(module).__module__.rpartition(".")
    return family if package == "jaxcnn.models" else ""


def _has_timms_names(names: Iterable[str]) -> bool:
    """Tells whether arrays of a network with inverted residuals are called as in timm."""
    return any(name.endswith("conv_stem.weight") for name in names)


def _canonical(name: str) -> str:
    return re.sub(r"[_/]", ".", name)


def spelled(path: tuple[str, ...]) -> str:
    """Turns ``("batch_stats", "layer1_0", "bn1", "mean")`` to ``"layer1.0.bn1.running_mean"``."""
    *modules, leaf = path[1:]
    dotted = UNDERSCORES.sub(lambda found: "." if found[0] == "_" else found[0], ".".join(modules))
    return f"{dotted}.{LEAVES.get(leaf, leaf)}".removeprefix(".")


def _nearest(missing: Sequence[str], extra: Sequence[str]) -> str:
    """Returns a hint at the names in a file that are nearly those that are missing."""
    names = {name.partition(" ")[0]: None for name in missing[:MOST_NAMED]}
    given = [name for name in extra[:MOST_COMPARED] if len(name) < LONGEST_NAME]
    pairs = {name: difflib.get_close_matches(name, given, n=1, cutoff=0.9) for name in names}
    like = [f"{found[0]} for {name}" for name, found in pairs.items() if found]
    return f"; it has {', '.join(map(_short, like))}" if like else ""


def _unwrapped(
    state_dict: Mapping[str, Any], wanted: Collection[str]
) -> dict[str, tuple[str, Any]]:
    """Maps names to those in the state dict, before something was put in front, and the arrays."""
    entries = {key: (key, value) for key, value in state_dict.items() if not key.endswith(COUNTERS)}
    while not any(_canonical(name) in wanted for name in entries):
        for prefix in PARTS + WRAPPERS:
            inner = {n.removeprefix(prefix): e for n, e in entries.items() if n.startswith(prefix)}
            if inner and (prefix in PARTS or len(inner) == len(entries)):
                entries = inner
                break
        else:
            break
    return entries


def _named(
    state_dict: Mapping[str, Any], wanted: Collection[str], family: str
) -> dict[str, tuple[str, Any]]:
    """Maps canonical names to the name in the state dict and the array.

    What timm's names become counts only where the model lacks the name and has the new one.
    """
    entries = _unwrapped(state_dict, wanted)
    renamed = timm_names.renamed(family, entries)
    given: dict[str, tuple[str, Any]] = {}
    for name, entry in entries.items():
        place = _canonical(name)
        new = _canonical(renamed.get(name, name))
        if place not in wanted and new in wanted:
            place = new
        if place in given:
            raise ValueError(
                f"the state dict holds an array twice: as {given[place][0]} and as {entry[0]}"
            )
        given[place] = entry
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


def _some(names: Sequence[str]) -> str:
    more = f", and {len(names) - MOST_NAMED} more" if len(names) > MOST_NAMED else ""
    return ", ".join(map(_short, itertools.islice(names, MOST_NAMED))) + more


def _short(name: str) -> str:
    return name if name.isprintable() and len(name) < LONGEST_NAME else shown(name)
