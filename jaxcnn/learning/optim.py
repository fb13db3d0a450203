"""Turns the config into Optax: the learning rate over time, the optimizer, what stays frozen."""

import difflib
import inspect
import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from optax import contrib

from jaxcnn.config import Optim, Schedule
from jaxcnn.config.brought import Brought, require_given
from jaxcnn.config.checked import shown
from jaxcnn.errors import InputError, as_one_line

ONE_CYCLE_RISE = 25.0
"""A one-cycle schedule starts at this fraction of its peak (Smith & Topin 2019)."""


def make_schedule(
    schedule: Schedule, peak_lr: float, steps_per_epoch: int, epochs: int
) -> optax.Schedule:
    """Makes the learning rate as a function of the step: linear warm-up, then the named curve.

    With ``s = (t - warmup) / (total - warmup)``, after ``lr(t) = peak * t / warmup``:

    - constant: ``peak``
    - cosine: ``peak * (end + (1 - end) * (1 + cos(pi * s)) / 2)``
    - polynomial: ``peak * (end + (1 - end) * (1 - s) ** power)``
    - step: ``peak * factor ** (number of milestones reached)``
    - one_cycle: half a cosine up from ``peak / 25`` in place of the line, half a cosine down to
      ``peak * end``
    - a curve that was brought: ``peak * curve(s)``

    Raises:
        InputError: a curve that was brought was not given again, or gives no number.
    """
    total = steps_per_epoch * epochs
    warmup = round(schedule.warmup_epochs * steps_per_epoch)
    rest, end = max(total - warmup, 1), schedule.end_factor
    if schedule.name == "one_cycle":
        # Optax's own takes the rise as a share of all steps, and would round it to another step.
        start = peak_lr / ONE_CYCLE_RISE
        rise = optax.cosine_decay_schedule(start, max(warmup, 1), alpha=ONE_CYCLE_RISE)
        fall = optax.cosine_decay_schedule(peak_lr, rest, alpha=end)
        return optax.join_schedules([rise, fall], [warmup])
    milestones = Counter(  # two may fall on the same step; none behind the run is of any effect
        round(min(m, epochs + 1) * steps_per_epoch) - warmup for m in schedule.milestones
    )
    if isinstance(schedule.name, Brought) or ":" in schedule.name:
        own = _brought_curve(schedule, peak_lr, rest)
        return optax.join_schedules([optax.linear_schedule(0.0, peak_lr, warmup), own], [warmup])
    curve = {
        "constant": lambda: optax.constant_schedule(peak_lr),
        "cosine": lambda: optax.cosine_decay_schedule(peak_lr, rest, alpha=end),
        "polynomial": lambda: optax.polynomial_schedule(
            peak_lr, peak_lr * end, schedule.power, rest
        ),
        "step": lambda: optax.piecewise_constant_schedule(
            peak_lr, {step: schedule.factor**reached for step, reached in milestones.items()}
        ),
    }[schedule.name]()
    return optax.join_schedules([optax.linear_schedule(0.0, peak_lr, warmup), curve], [warmup])


def _brought_curve(schedule: Schedule, peak_lr: float, steps: int) -> optax.Schedule:
    """Makes a schedule of a function of the share of the steps that is done, 0 to 1."""
    require_given(schedule.name, "schedule.name")
    assert isinstance(schedule.name, Brought)
    what, curve = f"schedule.name={schedule.name.name!r}", schedule.name.target
    with as_one_line(what):
        found = jax.eval_shape(
            lambda share: curve(share, **schedule.options), jax.ShapeDtypeStruct((), jnp.float32)
        )
    if getattr(found, "shape", None) != () or not jnp.issubdtype(found.dtype, jnp.number):
        raise InputError(f"{what}: must return a number, the factor of optim.peak_lr")
    return lambda step: peak_lr * curve(jnp.minimum(step / steps, 1.0), **schedule.options)


@dataclass(frozen=True)
class Layout:
    """What an optimizer has to know about a network beside its arrays.

    Attributes:
        modules: top-level modules with parameters, in the order in which an image meets them.
        paths: the names of all parameters, as ``conv1/kernel``.
        head: the names of those whose shape depends on the number of classes.
    """

    modules: tuple[str, ...] = ()
    paths: tuple[str, ...] = ()
    head: frozenset[str] = frozenset()


NO_LAYOUT = Layout()


def needed_layout(optim: Optim, model: nn.Module, image_shape: tuple[int, int, int]) -> Layout:
    """Reads a network's layout where the optimizer makes use of it; else returns an empty one."""
    used = optim.name == "muon" or optim.layer_decay != 1 or optim.freeze or optim.head_only
    return layout_of(model, image_shape) if used else NO_LAYOUT


def layout_of(model: nn.Module, image_shape: tuple[int, int, int]) -> Layout:
    """Reads a network's layout by tracing it; computes nothing."""
    modules: list[str] = []

    def params_of(model: nn.Module) -> Any:
        images = jnp.zeros((1, *image_shape), jnp.float32)
        params = model.init(jax.random.key(0), images, train=False)["params"]
        modules[:] = params  # in the order of the calls; on the way out JAX sorts them
        return params

    more: Any = model.clone(num_classes=model.num_classes + 1)
    other = _by_path(jax.eval_shape(lambda: params_of(more)))
    own = _by_path(jax.eval_shape(lambda: params_of(model)))
    head = frozenset(name for name, leaf in own.items() if leaf.shape != other[name].shape)
    return Layout(tuple(modules), tuple(own), head)


def path_name(path: Any) -> str:
    """Returns a parameter's name, as ``conv1/kernel``, from its path in the tree."""
    return "/".join(str(key.key) for key in path)


def _by_path(tree: Any) -> dict[str, Any]:
    return {path_name(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}


def frozen_paths(optim: Optim, layout: Layout) -> frozenset[str]:
    """Returns the names of the parameters that stay as they are.

    Raises:
        InputError: a pattern matches no parameter, or nothing is left to train.
    """
    frozen = set(layout.paths) - layout.head if optim.head_only else set()
    for pattern in optim.freeze:
        # A pattern names whole parts of a path: conv1 means conv1/kernel, but not conv10/kernel.
        whole = re.compile(rf"(?:{pattern})(?:/.*)?")
        matched = [path for path in layout.paths if whole.fullmatch(path)]
        if not matched:
            raise InputError(
                f"optim.freeze={pattern!r}: must match a parameter; the network's groups are "
                + ", ".join(layout.modules)
            )
        frozen.update(matched)
    if frozen and frozen >= set(layout.paths):
        raise InputError(f"optim.freeze={optim.freeze!r}: must leave a parameter to train")
    return frozenset(frozen)


def make_optimizer(
    optim: Optim, lr: optax.Schedule, layout: Layout = NO_LAYOUT
) -> optax.GradientTransformationExtraArgs:
    """Makes the optimizer that a config names.

    It does in this order: it leaves frozen parameters out, clips the gradients, turns them into an
    update, scales that by ``layer_decay ** (distance of its module from the last)``, and, where
    asked for, averages free of a schedule. Weight decay acts on kernels only, in every optimizer.

    Args:
        optim: the config.
        lr: the learning rate as a function of the step.
        layout: the network's layout, which freezing, layer decay and Muon need.

    Raises:
        InputError: see :func:`frozen_paths`.
    """
    parts = [] if optim.clip_norm is None else [optax.clip_by_global_norm(optim.clip_norm)]
    parts.append(_rule(optim, lr, layout))
    if optim.layer_decay != 1.0:
        parts.append(_scale_by_depth(optim.layer_decay, layout.modules))
    tx: Any = optax.chain(*parts)
    if optim.schedule_free:
        beta = optim.momentum if optim.name == "sgd" else optim.b1
        tx = contrib.schedule_free(tx, lr, b1=beta)
    frozen = frozen_paths(optim, layout)
    if frozen:
        tx = optax.partition(
            {True: optax.set_to_zero(), False: tx},
            lambda params: _map_paths(lambda path, _: path in frozen, params),
        )
    return tx


def _rule(optim: Optim, lr: optax.Schedule, layout: Layout) -> optax.GradientTransformation:
    """Makes what turns gradients into updates, with learning rate and weight decay."""
    decay = optim.weight_decay
    no_momentum = optim.schedule_free  # its averaging takes the place of momentum
    decayed = optax.add_decayed_weights(decay, mask=is_kernel)
    b1 = 0.0 if no_momentum else optim.b1
    if optim.is_from_outside:
        return _of_optax(optim, lr)
    if optim.name == "sgd":
        momentum = None if no_momentum else optim.momentum
        return optax.chain(decayed, optax.sgd(lr, momentum, nesterov=optim.nesterov))
    if optim.name == "adamw":
        return optax.adamw(lr, b1=b1, b2=optim.b2, weight_decay=decay, mask=is_kernel)
    if optim.name == "lion":
        return optax.lion(lr, b1=optim.b1, b2=optim.b2, weight_decay=decay, mask=is_kernel)
    if optim.name == "lars":
        return optax.lars(
            lr,
            weight_decay=decay,
            weight_decay_mask=is_kernel,
            trust_ratio_mask=is_kernel,
            momentum=optim.momentum,
            nesterov=optim.nesterov,
        )
    if optim.name == "lamb":
        # Optax's own would also measure biases, whose norm starts at 0, against their updates.
        return optax.chain(
            optax.scale_by_adam(b1=optim.b1, b2=optim.b2, eps=1e-6),
            decayed,
            optax.masked(optax.scale_by_trust_ratio(), is_kernel),
            optax.scale_by_learning_rate(lr),
        )
    return optax.chain(_muon(optim, layout), decayed, optax.scale_by_learning_rate(lr))


def _of_optax(optim: Optim, lr: optax.Schedule) -> optax.GradientTransformation:
    """Makes an optimizer of Optax's, or one that was brought.

    It is given the schedule where it takes a ``learning_rate``; else its updates are taken for a
    direction, which is scaled by the negative learning rate. Where it takes ``weight_decay`` and
    ``mask``, it decays kernels by itself; else the decay is added to the gradient, as with SGD.

    Raises:
        InputError: there is no such optimizer, it does not take the options, or what it makes is
            no optax.GradientTransformation.
    """
    make = optim.name.target if isinstance(optim.name, Brought) else _exported(optim.name)
    what = f"optim.name={optim.name!r}"
    takes = inspect.signature(make).parameters
    elsewhere = {"learning_rate": "optim.peak_lr", "weight_decay": "optim.weight_decay"}
    for option, value in optim.options.items():
        said = elsewhere.get(option)
        if said or option not in takes:
            known = ", ".join(name for name in takes if name not in elsewhere) or "none"
            raise InputError(
                f"optim.options.{option}={shown(value)}: "
                + (f"is no option; {said} is the field for it" if said else f"must be of {known}")
            )
    given: dict[str, Any] = dict(optim.options)
    decays = {"weight_decay", "mask"} <= takes.keys()
    if "learning_rate" in takes:
        given["learning_rate"] = lr
    if decays:
        given |= {"weight_decay": optim.weight_decay, "mask": is_kernel}
    with as_one_line(what, "cannot be made ({})"):
        rule = make(**given)
    if not isinstance(rule, optax.GradientTransformation):
        raise InputError(
            f"{what}: must make an optax.GradientTransformation, made a {type(rule).__name__}"
        )
    parts = [rule] if "learning_rate" in takes else [rule, optax.scale_by_learning_rate(lr)]
    if optim.weight_decay and not decays:
        parts.insert(0, optax.add_decayed_weights(optim.weight_decay, mask=is_kernel))
    return parts[0] if len(parts) == 1 else optax.chain(*parts)


def _exported(name: str) -> Any:
    """Returns the function of Optax that ``optax:NAME`` names."""
    if not name.startswith("optax:"):
        require_given(name, "optim.name")
    inner, _, function = name.removeprefix("optax:").rpartition(".")
    module = {"": optax, "contrib": contrib}.get(inner)
    found = getattr(module, function, None)
    if not callable(found) or isinstance(found, type):
        near = difflib.get_close_matches(function, dir(module), n=1, cutoff=0.6)
        hint = f"; did you mean {name.removesuffix(function)}{near[0]}?" if near else ""
        raise InputError(f"optim.name={name!r}: Optax has no such optimizer{hint}")
    return found


def require_updates(optim: Optim, tx: optax.GradientTransformation, params: Any) -> None:
    """Checks, by tracing it, that an optimizer can be run in a compiled loop and saved.

    Args:
        optim: the config that names it.
        tx: the optimizer.
        params: types and shapes of the parameters.

    Raises:
        InputError: its update needs more than gradients, state and parameters, does not have the
            form of the parameters, or changes the form of the state.
    """

    def form(tree: Any) -> Any:
        return jax.tree.map(lambda a: (a.shape, a.dtype), tree)

    what = f"optim.name={optim.name!r}"
    with as_one_line(what, "cannot update the parameters ({})"):
        state = jax.eval_shape(tx.init, params)
        updates, after = jax.eval_shape(lambda p, s: tx.update(p, s, p), params, state)
    if form(updates) != form(params):
        raise InputError(f"{what}: must return updates of the parameters' shapes and types")
    if form(state) != form(after):
        raise InputError(f"{what}: must return a state of the shapes and types that it was given")


def _muon(optim: Optim, layout: Layout) -> optax.GradientTransformation:
    """Makes the direction of Muon for matrices, and that of Adam for the rest.

    Optax's switch for Nesterov momentum makes NAdam of Muon's Adam too, where Jordan's Muon has
    Adam. Both settings keep the same state, so the one gives the matrices, the other the rest;
    what neither gives is left out when the step is compiled.
    """

    def with_momentum(nesterov: bool) -> optax.GradientTransformationExtraArgs:
        both: Any = contrib.muon(
            -1.0,  # the direction itself: the rate comes behind the decay, which Muon cannot mask
            beta=optim.momentum,
            nesterov=nesterov,
            adam_b1=optim.b1,
            adam_b2=optim.b2,
            muon_weight_dimension_numbers=lambda params: muon_matrices(params, layout.head),
            consistent_rms=0.2,
        )
        return both

    muon, adam = with_momentum(optim.nesterov), with_momentum(nesterov=False)

    def update(grads: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        matrices, after = muon.update(grads, state, params)
        others, _ = adam.update(grads, state, params)
        seen = muon_matrices(grads, layout.head)
        chosen = jax.tree.map(
            lambda dims, *both: both[dims is None],
            *(seen, matrices, others),
            is_leaf=lambda node: node is None or isinstance(node, contrib.MuonDimensionNumbers),
        )
        return chosen, after

    return optax.GradientTransformation(muon.init, update)


def muon_matrices(params: optax.Params, head: frozenset[str]) -> optax.Params:
    """Says how Muon sees each parameter: as a matrix of inputs by outputs, or not at all (None).

    A convolution's kernel (h, w, i, o) is the matrix (h * w * i, o). The layers that give the
    logits, kernels with one input channel (depthwise ones) and all that is not a kernel are left
    to Adam.
    """

    def matrix(path: str, p: jax.Array) -> contrib.MuonDimensionNumbers | None:
        if p.ndim < 2 or path in head or (p.ndim > 2 and p.shape[-2] == 1):
            return None
        return contrib.MuonDimensionNumbers(tuple(range(p.ndim - 1)), p.ndim - 1)

    return _map_paths(matrix, params)


def _scale_by_depth(decay: float, modules: tuple[str, ...]) -> optax.GradientTransformation:
    last = len(modules) - 1

    def scaled(path: str, update: jax.Array) -> jax.Array:
        return update * decay ** (last - modules.index(path.split("/")[0]))

    return optax.stateless(lambda updates, _: _map_paths(scaled, updates))


def _map_paths(function: Callable[[str, Any], Any], tree: Any) -> Any:
    return jax.tree_util.tree_map_with_path(lambda path, a: function(path_name(path), a), tree)


def is_kernel(params: optax.Params) -> optax.Params:
    """Marks the arrays that weight decay acts on: kernels, not biases or normalisation."""
    return jax.tree.map(lambda p: p.ndim > 1, params)
