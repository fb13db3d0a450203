"""Networks that users bring: any Linen module, called as the networks of this package are."""

import contextlib
import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

from jaxcnn import ops
from jaxcnn.config.brought import Brought, enumerations, plain_types
from jaxcnn.config.checked import check, shown
from jaxcnn.errors import InputError, as_one_line
from jaxcnn.layers import random_streams

CALLED_WITH = ("train", "deterministic", "endpoints")
"""Arguments beside the images that a module may take."""


class Own(nn.Module):
    """A network that was brought, with the arguments that the networks of this package take.

    Its variables have the names that the brought module gives them: this one adds no scope. Its
    convolutions, as far as they are plain ones of Linen, are carried out by :func:`ops.conv`.

    Attributes:
        make: makes the module from the options and, where it takes it, ``num_classes``.
        options: names and values of the options.
        num_classes: number of logits.
        aux_weight: weight of each auxiliary loss, where the module has auxiliary heads.
        by_ops: whether its convolutions are those of :mod:`jaxcnn.ops`; see :func:`carried_out`.
        init_images: how many training images its initialisation sees.
    """

    make: Callable[..., nn.Module]
    options: tuple[tuple[str, Any], ...]
    num_classes: int
    aux_weight: float = 1.0
    init_images: int = 0
    by_ops: bool = True

    def setup(self) -> None:
        """Makes the module."""
        self.network = _made(self.make, dict(self.options), self.num_classes)
        nn.share_scope(self, self.network)

    def __call__(self, images: jax.Array, *, train: bool = False, endpoints: bool = False) -> Any:
        """Returns logits and, if asked for, the endpoints that the module itself returns."""
        takes = _parameters(type(self.network).__call__)
        given = dict(zip(CALLED_WITH, (train, not train, endpoints), strict=True))
        taken = {k: v for k, v in given.items() if k in takes}
        if any(p.kind is p.VAR_KEYWORD for p in takes.values()):
            taken["train"] = train
        with nn.intercept_methods(_by_ops) if self.by_ops else contextlib.nullcontext():
            found = self.network(images, **taken)
        return (found, {}) if endpoints and "endpoints" not in takes else found


def _by_ops(call: Callable[..., Any], args: Any, kwargs: Any, context: Any) -> Any:
    """Has a convolution of Linen carried out by :func:`convolved`, unless it names another way."""
    module, name = context.module, "conv_general_dilated"
    plain = type(module) is nn.Conv and getattr(module, name) is None
    if plain and context.method_name == "__call__" and getattr(module, f"{name}_cls") is None:
        object.__setattr__(module, name, convolved)  # setattr would find the module frozen
    return call(*args, **kwargs)


def convolved(
    x: jax.Array,
    kernel: jax.Array,
    strides: Sequence[int],
    padding: str | Sequence[tuple[int, int]],
    *,
    lhs_dilation: Sequence[int],
    rhs_dilation: Sequence[int],
    feature_group_count: int,
    **others: Any,
) -> jax.Array:
    """Computes a convolution as Linen asks :func:`jax.lax.conv_general_dilated` for it."""
    padded = isinstance(padding, str) or min(map(min, padding), default=0) >= 0
    known = jnp.issubdtype(x.dtype, jnp.floating) and 3 <= x.ndim <= 5
    if {*lhs_dilation} != {1} or not padded or not known:
        return lax.conv_general_dilated(
            x,
            kernel,
            strides,
            padding,
            lhs_dilation=lhs_dilation,
            rhs_dilation=rhs_dilation,
            feature_group_count=feature_group_count,
            **others,
        )
    return ops.conv(
        x,
        kernel,
        stride=tuple(strides),
        padding=padding.upper() if isinstance(padding, str) else padding,
        dilation=tuple(rhs_dilation),
        groups=feature_group_count,
        precision=others["precision"],
    )


def build(
    brought: Brought, options: Mapping[str, Any], num_classes: int, dtype: str = "float32"
) -> Own:
    """Builds a network that was brought.

    Args:
        brought: a class of Linen modules, or a function of the options that returns a module.
        options: what it is given.
        num_classes: number of logits, which it is given where it takes it.
        dtype: type of the arithmetic, which it is given where it takes it.

    Raises:
        InputError: an unknown or missing option, one of another type than its field, what is made
            is no Linen module, or it cannot compute in another type than its own.
    """
    known = parameters(brought)
    for option in options:
        if option not in known:
            raise InputError(
                f"model.options.{option}={shown(options[option])}: {brought.title} has no such "
                f"option; it takes {', '.join(sorted(known)) or 'none'}"
            )
    for option, kind in plain_types(brought.target).items():
        if option in options:
            check(f"model.options.{option}", options[option], kind)
    given = _with_members(brought, options)
    if "dtype" in _parameters(brought.target):
        given["dtype"] = dtype
    elif dtype != "float32":
        raise InputError(
            f"model.dtype={dtype!r}: {brought.title} has no field dtype, so it must be 'float32'"
        )
    fixed = getattr(brought.target, "keywords", {}).get("num_classes", num_classes)
    if fixed != num_classes:
        raise InputError(
            f"model.name={brought.name!r}: has num_classes={fixed}, must be {num_classes}, as many "
            "as the data have"
        )
    with as_one_line(f"model.name={brought.name!r}", "cannot be made ({})"):
        network = _made(brought.target, given, num_classes)
        weight = getattr(network, "aux_weight", 1.0)
        images = getattr(network, "init_images", 0)
    if not isinstance(network, nn.Module):
        raise InputError(
            f"model.name={brought.name!r}: must make a flax.linen.Module, "
            f"made a {type(network).__name__}"
        )
    others = list(inspect.signature(network.__call__).parameters.values())[1:]
    for other in others:
        positional = other.kind not in (other.VAR_POSITIONAL, other.VAR_KEYWORD)
        if other.name in ("training", "is_training"):
            raise InputError(
                f"model.name={brought.name!r}: {brought.title} is told by train (or deterministic) "
                f"whether it is trained; call {other.name} so"
            )
        if positional and other.default is other.empty and other.name not in CALLED_WITH:
            raise InputError(
                f"model.name={brought.name!r}: is called with images and, where it takes it, "
                f"train; {brought.title} also wants {other.name}"
            )
    if type(images) is not int or images < 0:
        raise InputError(
            f"model.name={brought.name!r}: has init_images={shown(images)}, must be a whole number "
            ">= 0, of training images"
        )
    return Own(brought.target, tuple(sorted(given.items())), num_classes, weight, images)


def _with_members(brought: Brought, options: Mapping[str, Any]) -> dict[str, Any]:
    """Returns options with the members of enumerations, which a config holds by their names."""
    given = dict(options)
    for name, kind in enumerations(brought.target).items():
        if isinstance(given.get(name), str):
            members = {member.name: member for member in kind}
            if given[name] not in members:
                raise InputError(
                    f"model.options.{name}={given[name]!r}: must be one of {', '.join(members)}"
                )
            given[name] = members[given[name]]
    return given


def parameters(brought: Brought) -> dict[str, Any]:
    """Returns the options that a brought network takes, with their defaults, `...` for none."""
    return {
        name: ... if parameter.default is parameter.empty else parameter.default
        for name, parameter in _parameters(brought.target).items()
        if name not in {"num_classes", "dtype", "parent", "name"}
        and parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
    }


def require_trainable(
    model: Own,
    brought: Brought,
    input_shape: tuple[int, int, int],
    output_shape: tuple[int, ...] | None = None,
) -> None:
    """Checks that a brought network can be trained and saved, by tracing it; computes nothing.

    Raises:
        InputError: it has no parameters or some that are not learned in float32, its outputs are
            of another shape than ``output_shape`` (by default one number for each class), or a
            pass of training changes the form of its other variables.
        Exception: whatever the network raises, also where it needs random numbers to evaluate.
    """
    what = f"model.name={brought.name!r}"
    images = jax.ShapeDtypeStruct((2, *input_shape), jnp.float32)

    def traced() -> tuple[Any, Any, Any]:
        def run(x: jax.Array) -> tuple[Any, Any, Any]:
            key = jax.random.key(0)
            before = model.init(key, x[:1], train=False)
            mutable = [name for name in before if name != "params"]
            logits, after = model.apply(
                before, x, train=True, mutable=mutable, rngs=random_streams(key)
            )
            return before, logits, after

        return jax.eval_shape(run, images)

    before, logits, after = traced()
    if not jax.tree.leaves(before.get("params")):
        raise InputError(f"{what}: has no parameters, so there is nothing to train")
    for path, leaf in jax.tree_util.tree_leaves_with_path(before["params"]):
        if leaf.dtype != jnp.float32:
            raise InputError(
                f"{what}: its parameter {jax.tree_util.keystr(path, simple=True, separator='/')} "
                f"is of type {leaf.dtype}, must be float32"
            )
    shape, kind = getattr(logits, "shape", None), getattr(logits, "dtype", "")
    wanted = (model.num_classes,) if output_shape is None else output_shape
    if shape != (2, *wanted) or not jnp.issubdtype(kind, jnp.floating):
        found = type(logits).__name__ if shape is None else f"{kind} of shape {shape}"
        form = ", ".join(map(str, ("n", *wanted)))
        raise InputError(
            f"{what}: must return outputs of shape ({form}), returns {found} for 2 images"
        )
    state = {name: part for name, part in before.items() if name != "params"}
    form, form_after = (jax.tree.map(lambda a: (a.shape, a.dtype), dict(x)) for x in (state, after))
    if form != form_after:
        raise InputError(
            f"{what}: a pass of training changes names, shapes or types of its variables in "
            f"{', '.join(sorted({*state} | {*after}))}, which then cannot be saved"
        )
    # Evaluation gives it no random numbers, and changes nothing.
    jax.eval_shape(functools.partial(model.apply, train=False), before, images)


def carried_out(model: Own, input_shape: tuple[int, int, int]) -> Own:
    """Returns a network with convolutions by :mod:`jaxcnn.ops`, or by lax where it needs these.

    So does a network that differentiates forwards within itself, which the former do not allow.
    """

    def total(params: Any, others: Any, images: jax.Array) -> jax.Array:
        streams = random_streams(jax.random.key(0))
        given = {**others, "params": params}
        outputs, _ = model.apply(given, images, train=True, mutable=[*others], rngs=streams)
        return outputs.astype(jnp.float32).sum()

    def traced(images: jax.Array) -> Any:
        others = dict(model.init(jax.random.key(0), images, train=False))
        return jax.grad(total)(others.pop("params"), others, images)

    try:
        jax.eval_shape(traced, jax.ShapeDtypeStruct((2, *input_shape), jnp.float32))
    except Exception:  # whatever the network does
        return model.clone(by_ops=False)
    return model


def captured(variables: Any) -> dict[str, jax.Array]:
    """Names what ``capture_intermediates`` has kept, as ``Block_0`` or ``Block_0/Conv_0``.

    These are the outputs of the modules that the network itself calls or, where none of them is a
    feature map, of all below; of a module that is called several times, the last.
    """
    found: dict[str, jax.Array] = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(variables.get("intermediates", {})):
        *modules, method, _ = (getattr(key, "key", getattr(key, "idx", "")) for key in path)
        if modules and method == "__call__" and isinstance(leaf, jax.Array):
            found["/".join(map(str, modules))] = leaf
    own = {name: leaf for name, leaf in found.items() if "/" not in name}
    return own if any(leaf.ndim == 4 for leaf in own.values()) else found


def _made(make: Callable[..., Any], options: dict[str, Any], num_classes: int) -> Any:
    if "num_classes" in _parameters(make):
        options = {**options, "num_classes": num_classes}
    return make(**options)


def _parameters(function: Any) -> Mapping[str, inspect.Parameter]:
    return inspect.signature(function).parameters
