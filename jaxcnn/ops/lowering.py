"""Which implementation carries out a convolution or a pool, and why: one table per platform.

``impl="auto"`` reads the tables below while the program is traced. The first rule whose
condition holds is taken, direction by direction, so that the forward pass and each gradient are
chosen on their own. ``impl="lax"`` is always XLA's own operation, gradients included (but for a
dilated max-pool, whose gradient XLA lacks). It alone has forward-mode derivatives (``jax.jvp``,
``jax.jacfwd``, ``jax.linearize``); the others are ``jax.custom_vjp`` functions, differentiable
backwards as often as you like (so that forward-over-reverse, ``jax.jvp(jax.grad(f))``, works with
either).

A new implementation is a function in ``conv_rewrites`` or ``pool_rewrites``, an entry in the
dictionary at the end of that file, and a rule here.
"""

import contextlib
import dataclasses
import functools
import inspect
import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from jaxcnn.ops import conv_rewrites, pool_rewrites
from jaxcnn.ops.annotations import ArrayInput, Name
from jaxcnn.ops.conv_rewrites import ConvSpec
from jaxcnn.ops.native import calls, library
from jaxcnn.ops.pool_rewrites import PoolSpec

# The tables: op -> platform -> direction -> rules. GPUs and TPUs have libraries made for
# convolutions: a rewrite needs a measurement that says otherwise, which TPUs still lack.


class Rule(NamedTuple):
    """Chooses ``impl`` where ``when`` holds for the spec; ``why`` is what ``explain`` says."""

    impl: str
    when: Callable[[Any], bool]
    why: str


def _always(spec: Any) -> bool:
    return True


def _pointwise(spec: ConvSpec) -> bool:
    return set(spec.kernel) == {1} and spec.groups == 1 and spec.unpadded


def _depthwise(spec: ConvSpec) -> bool:
    return spec.groups == spec.in_channels > 1


def _grouped(spec: ConvSpec) -> bool:
    return spec.groups > 1


# Some rewrites spell out one slice per tap. A program grows with them, and the time that it takes
# to compile faster still.


def _few_taps(spec: ConvSpec) -> bool:
    return math.prod(spec.kernel) <= 256


def _small_depthwise(spec: ConvSpec) -> bool:
    return _depthwise(spec) and _few_taps(spec)


def _small_grouped(spec: ConvSpec) -> bool:
    return _grouped(spec) and _few_taps(spec)


def _narrow_groups(spec: ConvSpec) -> bool:
    return spec.groups > 1 and spec.in_channels <= 128 and spec.in_channels <= 32 * spec.groups


def _few_channels(spec: ConvSpec) -> bool:
    # XLA gathers the rows of its matrix product element by element unless channels come in
    # sixteens, and needs many output columns to make up for it. (From 17 channels on, the
    # multiplications by zero in a wider kernel cost more than they save.)
    channels = spec.in_channels, spec.out_channels
    odd = any(c % 16 != 0 for c in channels)
    return odd and max(channels) <= 16 and spec.groups == 1 and spec.dilation[-1] == 1


def _few_channels_stride_one(spec: ConvSpec) -> bool:
    return _few_channels(spec) and set(spec.stride) == {1}


# XLA exchanges the operands of a convolution whose kernel has more positions than its input.
# What comes of that is a layout for which the CPU has only its naive kernel, fifty times slower.


def _kernel_above_input(spec: ConvSpec) -> bool:
    above = math.prod(spec.kernel) > math.prod(spec.spatial)
    return spec.groups == 1 and _few_taps(spec) and above


def _kernel_above_output(spec: ConvSpec) -> bool:
    above = math.prod(spec.kernel) > math.prod(spec.out_spatial)
    return spec.groups == 1 and _few_taps(spec) and above


# oneDNN has kernels of its own for each kind of processor. A call of it takes some ten
# microseconds, and XLA fuses nothing with it: where a convolution is a small part of the work
# around it, as with one tap or one channel, networks are slower with it, though the convolution
# alone is faster.


def _by_onednn(spec: ConvSpec) -> bool:
    if _without_onednn.value:  # asked first: a program for any number of images has no batch size
        return False
    taps = math.prod(spec.kernel)
    multiplications = math.prod(spec.out_spatial) * math.prod(spec.w_shape) * spec.x_shape[0]
    worth_a_call = taps > 1 and not _depthwise(spec) and multiplications >= 200_000
    return worth_a_call and calls.takes(spec)


def _forward_by_onednn(spec: ConvSpec) -> bool:
    return _by_onednn(spec) and not _kernel_above_output(spec)


def _input_gradient_by_onednn(spec: ConvSpec) -> bool:
    return _by_onednn(spec) and spec.in_channels > 4


def _weight_gradient_by_onednn(spec: ConvSpec) -> bool:
    return _by_onednn(spec) and 2 * math.prod(spec.kernel) <= math.prod(spec.out_spatial)


# An image has three channels, which leave most of a GPU's matrix units without work.


def _undilated(spec: ConvSpec) -> bool:
    return spec.groups == 1 and max(spec.dilation) == 1


def _thin_stem(spec: ConvSpec) -> bool:
    strided = min(spec.stride) > 1 and math.prod(spec.kernel) >= 4 * math.prod(spec.stride)
    return strided and spec.in_channels <= 4 and _undilated(spec)


def _dilated(spec: PoolSpec) -> bool:
    return max(spec.dilation) > 1


def _long(spec: PoolSpec) -> bool:
    return max(spec.window) > 16


def _disjoint(spec: PoolSpec) -> bool:
    return spec.disjoint


def _stride_one(spec: PoolSpec) -> bool:
    return max(spec.stride) == 1


Rules = dict[str, dict[str, tuple[Rule, ...]]]
UNMEASURED = (Rule("lax", _always, "XLA's own, until a measurement says otherwise"),)

ONEDNN = "oneDNN has kernels for this processor"

CONV: Rules = {
    "cpu": {
        "forward": (
            Rule("onednn", _forward_by_onednn, ONEDNN),
            Rule("dot", _pointwise, "a 1x1 convolution is a matrix product"),
            Rule(
                "shift", _small_depthwise, "XLA convolves every channel on its own, in scalar code"
            ),
            Rule("dense", _narrow_groups, "the groups are too narrow for the vector units"),
            Rule(
                "patches",
                _kernel_above_input,
                "XLA falls to a naive kernel where the kernel is the larger",
            ),
            Rule("blocks", _few_channels, "too few channels for the vector units"),
            Rule("lax", _always, "XLA's convolution is already in the canonical layout"),
        ),
        "input_gradient": (
            Rule("onednn", _input_gradient_by_onednn, ONEDNN),
            Rule("dot", _pointwise, "a 1x1 convolution is a matrix product"),
            Rule(
                "shift", _small_depthwise, "XLA convolves every channel on its own, in scalar code"
            ),
            Rule("dense", _narrow_groups, "the groups are too narrow for the vector units"),
            Rule(
                "patches",
                _kernel_above_output,
                "XLA falls to a naive kernel where the kernel is the larger",
            ),
            Rule("blocks", _few_channels_stride_one, "too few channels for the vector units"),
            Rule("canonical", _always, "lax's layout falls to a naive kernel inside loops"),
        ),
        "weight_gradient": (
            Rule("onednn", _weight_gradient_by_onednn, ONEDNN),
            Rule("dot", _pointwise, "a 1x1 convolution is a matrix product"),
            Rule("shift", _small_depthwise, "lax convolves every pair of channels, then masks"),
            Rule("einsum", _small_grouped, "lax convolves every pair of channels, then masks"),
            Rule("lax", _grouped, "too many taps to spell out"),
            Rule("canonical", _always, "lax's layout falls to a naive kernel inside loops"),
        ),
    },
    "gpu": {
        "forward": (
            Rule("space_to_depth", _thin_stem, "too few channels for the matrix units"),
            Rule("lax", _always, "cuDNN's own, until a measurement says otherwise"),
        ),
        "input_gradient": (
            Rule("lax", _always, "cuDNN's own, until a measurement says otherwise"),
        ),
        "weight_gradient": (
            Rule("space_to_depth", _thin_stem, "too few channels for the matrix units"),
            Rule("lax", _always, "cuDNN's own, until a measurement says otherwise"),
        ),
    },
    "tpu": {"forward": UNMEASURED, "input_gradient": UNMEASURED, "weight_gradient": UNMEASURED},
}


def _rewritten_max_pool(forward: str, scatter: str) -> dict[str, tuple[Rule, ...]]:
    """Rewrites all but long windows.

    Args:
        forward: why shifted slices are faster than reduce_window.
        scatter: what select-and-scatter, which is lax's gradient, suffers from.
    """
    return {
        "forward": (
            Rule("lax", _long, "too many slices to spell out"),
            Rule("separable", _always, forward),
        ),
        "input_gradient": (
            Rule("separable", _dilated, "lax has no gradient for a dilated window"),
            Rule("lax", _long, "too many slices to spell out"),
            Rule("reshape", _disjoint, scatter),
            Rule("separable", _stride_one, scatter),
            Rule("phases", _always, scatter),
        ),
    }


MAX_POOL: Rules = {
    "cpu": _rewritten_max_pool(
        "shifted slices vectorise, reduce_window hardly",
        "select-and-scatter runs element by element",
    ),
    "gpu": _rewritten_max_pool(
        "fewer reads than one for each element of a window",
        "select-and-scatter adds in memory, one by one",
    ),
    "tpu": {
        "forward": UNMEASURED,
        "input_gradient": (
            Rule("separable", _dilated, "lax has no gradient for a dilated window"),
            *UNMEASURED,
        ),
    },
}

SUM_POOL: Rules = {
    "cpu": {
        "forward": (
            Rule("reshape", _disjoint, "a sum over two axes; reduce_window hardly vectorises"),
            Rule("lax", _long, "too many slices to spell out"),
            Rule("separable", _always, "shifted slices vectorise, reduce_window hardly"),
        ),
        "input_gradient": (
            Rule("reshape", _disjoint, "a broadcast"),
            Rule("lax", _long, "too many slices to spell out"),
            Rule("separable", _always, "shifted slices vectorise, reduce_window hardly"),
        ),
    },
    "gpu": {"forward": UNMEASURED, "input_gradient": UNMEASURED},
    "tpu": {"forward": UNMEASURED, "input_gradient": UNMEASURED},
}


class Plan(NamedTuple):
    """One implementation per direction; a pool has no weights."""

    forward: str
    input_gradient: str
    weight_gradient: str = "none"


class Pin(NamedTuple):
    """What a pinned ``impl`` means, and what it asks of the arguments."""

    plan: Plan
    holds: Callable[[Any], bool]
    requirement: str = ""


CONV_PINS = {
    "canonical": Pin(Plan("lax", "canonical", "canonical"), _always),
    "dot": Pin(Plan("dot", "dot", "dot"), _pointwise, "a 1x1 kernel, groups=1 and no padding"),
    "shift": Pin(Plan("shift", "shift", "shift"), _depthwise, "groups equal to x's channels"),
    "dense": Pin(Plan("dense", "dense", "einsum"), _grouped, "groups above 1"),
    "blocks": Pin(
        Plan("blocks", "canonical", "canonical"),
        lambda spec: spec.groups == 1 and spec.dilation[-1] == 1,
        "groups=1 and no dilation along the last dimension",
    ),
    "patches": Pin(
        Plan("patches", "patches", "patches"), lambda spec: spec.groups == 1, "groups=1"
    ),
    "space_to_depth": Pin(
        Plan("space_to_depth", "space_to_depth", "space_to_depth"),
        _undilated,
        "groups=1 and no dilation",
    ),
    "onednn": Pin(
        Plan("onednn", "onednn", "onednn"),
        calls.takes,
        "oneDNN (see `jaxcnn native status`), arrays of float32 that are not empty, and no padding "
        "below 0",
    ),
}
MAX_POOL_PINS = {
    "reshape": Pin(Plan("separable", "reshape"), _disjoint, "stride=window and no dilation"),
    "phases": Pin(Plan("separable", "phases"), lambda spec: not _dilated(spec), "no dilation"),
    "separable": Pin(Plan("separable", "separable"), _always),
}
SUM_POOL_PINS = {
    "reshape": Pin(Plan("reshape", "reshape"), _disjoint, "stride=window and no dilation"),
    "separable": Pin(Plan("separable", "separable"), _always),
}


class _Recorder:
    """Collects what is traced; compared by identity, so that no trace is taken from a cache."""

    def __init__(self) -> None:
        self.records: list[Explanation] = []


# JAX's own kind of context: thread-local, and part of the key of every cache of traces. With any
# other kind, ``jit`` and ``scan`` would hand back what they traced under another choice.
_forced_impl = jax.make_user_context("auto")
_forced_platform = jax.make_user_context(None)
_recorder = jax.make_user_context(None)
_in_turn = jax.make_user_context(False)
_without_onednn = jax.make_user_context(False)


@contextlib.contextmanager
def force_impl(impl: Name = "auto", *, platform: Name | None = None) -> Iterator[None]:
    """Pins the implementation of every op traced inside, where the call itself says "auto".

    It is read while tracing, and a function that was traced under another choice (by ``jax.jit``,
    ``lax.scan``, ...) is traced again. It holds for the current thread only. What is compiled
    inside the block, with ``.lower(...).compile()``, keeps its choice outside.

    Args:
        impl: "lax" for XLA's own operations, "auto" (default) to choose as usual.
        platform: choose as for "cpu", "gpu" or "tpu"; None (default) for the default backend.

    Yields:
        Nothing; the choice holds until the block ends.

    Raises:
        ValueError: an unknown name.

    >>> import jax, jax.numpy as jnp
    >>> from jaxcnn import ops
    >>> with ops.force_impl("lax"):
    ...     jaxpr = jax.make_jaxpr(ops.conv)(jnp.ones((1, 8, 8, 3)), jnp.ones((3, 3, 3, 4)))
    >>> "custom_vjp" in str(jaxpr)
    False
    """
    if impl not in ("auto", "lax"):
        raise ValueError(f"impl={impl!r} must be 'auto' or 'lax', which hold for every op")
    if platform not in (None, "cpu", "gpu", "tpu"):
        raise ValueError(f"platform={platform!r} must be 'cpu', 'gpu' or 'tpu'")
    with _forced_impl(impl), _forced_platform(platform or _forced_platform.value):
        yield


@contextlib.contextmanager
def batched_in_turn() -> Iterator[None]:
    """Has :func:`jax.vmap` carry out convolutions with other kernels one after the other.

    By JAX's own rule they become one grouped convolution, which is slower than one after the other
    on most devices; all other operations are batched as usual. It is read while tracing, as
    :func:`force_impl` is. What is traced inside can be differentiated once.

    Yields:
        Nothing; it holds until the block ends.

    >>> import jax, jax.numpy as jnp
    >>> from jaxcnn import ops
    >>> many = jnp.ones((4, 1, 8, 8, 3)), jnp.ones((4, 3, 3, 3, 4))
    >>> with batched_in_turn():
    ...     jaxpr = jax.make_jaxpr(jax.vmap(ops.conv))(*many)
    >>> "feature_group_count=1" in str(jaxpr), "scan" in str(jaxpr)
    (True, True)
    """
    with _in_turn(True):
        yield


@contextlib.contextmanager
def without_onednn(whether: bool = True) -> Iterator[None]:
    """Leaves oneDNN out of what ``impl="auto"`` chooses from, as where it is not built.

    The last bits differ with it and without it. It is read while tracing, as :func:`force_impl`.

    Args:
        whether: False changes nothing.

    Yields:
        Nothing; it holds until the block ends.

    >>> with without_onednn():
    ...     onednn_version()
    ''
    """
    with _without_onednn(whether or _without_onednn.value):
        yield


def onednn_version() -> str:
    """Returns the version of the oneDNN that ``impl="auto"`` chooses from; empty without one."""
    return "" if _without_onednn.value else library.version()


def current_platform() -> str:
    """Returns the platform that ``auto`` chooses for: the default backend unless forced.

    >>> with force_impl(platform="gpu"):
    ...     current_platform()
    'gpu'
    """
    return _forced_platform.value or jax.default_backend()


def is_pinned_to_lax() -> bool:
    """Returns whether every op must be left as plain as ``force_impl("lax")`` promises.

    >>> with force_impl("lax"):
    ...     is_pinned_to_lax()
    True
    """
    return bool(_forced_impl.value == "lax")


class Explanation(NamedTuple):
    """What was chosen for one operation; ``str`` of it is a small table."""

    op: str
    platform: str
    plan: Plan
    why: dict[str, str]

    def __str__(self) -> str:
        lines = [f"{self.op} on {self.platform}"]
        lines += [
            f"  {direction:15} {getattr(self.plan, direction):10} {why}"
            for direction, why in self.why.items()
        ]
        return "\n".join(lines)


def explain(
    op: Callable[..., Any], *args: Any, platform: Name | None = None, **kwargs: Any
) -> list[Explanation]:
    """Says which implementation each convolution or pool in a call gets, and why.

    Nothing is computed: the call is only traced.

    Args:
        op: any function of arrays, such as ``ops.conv`` or a model's ``apply``.
        *args: its arguments. For a parameter called ``x`` or ``w`` a tuple is taken as the shape
            of a float32 array.
        platform: "cpu", "gpu" or "tpu"; None (default) for the default backend.
        **kwargs: its keyword arguments.

    Returns:
        A list with one ``Explanation`` per convolution and windowed pool, in order of execution.

    Raises:
        ValueError: an unknown platform, or whatever the op raises.

    >>> from jaxcnn import ops
    >>> print(ops.explain(ops.conv, (8, 56, 56, 64), (1, 1, 64, 256), platform="cpu")[0])
    conv on cpu
      forward         dot        a 1x1 convolution is a matrix product
      input_gradient  dot        a 1x1 convolution is a matrix product
      weight_gradient dot        a 1x1 convolution is a matrix product
    >>> ops.explain(ops.max_pool, (8, 112, 112, 64), 3, stride=2, platform="cpu")[0].plan
    Plan(forward='separable', input_gradient='phases', weight_gradient='none')
    """
    given = list(args)
    for index, name in enumerate(inspect.signature(op).parameters):
        if name in ("x", "w") and index < len(args) and isinstance(args[index], tuple):
            given[index] = jax.ShapeDtypeStruct(args[index], jnp.float32)
    traced = {
        index: value
        for index, value in enumerate(given)
        if any(hasattr(leaf, "shape") for leaf in jax.tree.leaves(value))
    }

    def call(traced: dict[int, Any]) -> Any:
        return op(*(traced.get(index, value) for index, value in enumerate(given)), **kwargs)

    recorder = _Recorder()
    with _recorder(recorder), force_impl(_forced_impl.value, platform=platform):
        jax.eval_shape(call, traced)
    return recorder.records


def _plan(op: str, rules: Rules, pins: dict[str, Pin], spec: Any, impl: Name) -> Plan | None:
    """The implementation of each direction; None where it is plain lax, which needs no plan.

    A transposed convolution goes forward as its convolution's input gradient does, and back as
    its forward pass does; the plan is in its own terms.
    """
    platform = current_platform()
    chosen = _forced_impl.value if impl == "auto" else impl
    directions = rules["cpu"].keys()
    if chosen == "auto":
        picks = {}
        for direction in directions:
            table = rules[platform if platform in rules else "tpu"][direction]
            picks[direction] = next(rule for rule in table if rule.when(spec))
        plan = Plan(*(rule.impl for rule in picks.values()))
        why = {direction: rule.why for direction, rule in picks.items()}
    elif chosen == "lax":
        plan = Plan(*["lax"] * len(directions))
        if op == "max_pool" and _dilated(spec):
            plan = plan._replace(input_gradient="separable")  # lax has none
        why = dict.fromkeys(directions, "pinned")
    elif isinstance(chosen, str) and chosen in pins:
        pin = pins[chosen]
        if not pin.holds(spec):
            raise ValueError(f"impl={chosen!r} needs {pin.requirement}")
        plan, why = pin.plan, dict.fromkeys(directions, "pinned")
    else:
        raise ValueError(f"impl={impl!r} must be one of {', '.join(('auto', 'lax', *pins))}")
    if op == "conv_transpose":
        exchanged = {"forward": "input_gradient", "input_gradient": "forward"}
        plan = plan._replace(forward=plan.input_gradient, input_gradient=plan.forward)
        why = {direction: why[exchanged.get(direction, direction)] for direction in why}
    if _recorder.value is not None:
        _recorder.value.records.append(Explanation(op, platform, plan, why))
    # By lax alone, there is nothing that a rule for batches could be attached to.
    return None if set(plan) <= {"lax", "none"} and not _in_turn.value else plan


def _carried_out(function: Callable[..., Array], spec: ConvSpec, a: Array, b: Array) -> Array:
    """Calls an implementation of a convolution or of one of its gradients."""
    call = functools.partial(function, spec)
    if _in_turn.value:
        return jnp.asarray(jax.custom_batching.sequential_vmap(call)(a, b))
    return call(a, b)


# Each operation is one custom_vjp function of its arrays; spec and plan are static. The cotangent
# may be a NumPy array where a caller of ``jax.vjp`` hands one in.


def _conv(spec: ConvSpec, plan: Plan, x: Array, w: Array) -> Array:
    return _carried_out(conv_rewrites.FORWARD[plan.forward], spec, x, w)


def _conv_fwd(spec: ConvSpec, plan: Plan, x: Array, w: Array) -> tuple[Array, tuple[Array, Array]]:
    return _conv(spec, plan, x, w), (x, w)


def _conv_bwd(
    spec: ConvSpec, plan: Plan, residuals: tuple[Array, Array], cotangent: ArrayInput
) -> tuple[Array, Array]:
    (x, w), dy = residuals, jnp.asarray(cotangent)
    plain = dataclasses.replace(spec, preferred_element_type=None)  # it concerns the output alone
    dx = _carried_out(conv_rewrites.INPUT_GRADIENT[plan.input_gradient], plain, w, dy)
    dw = _carried_out(conv_rewrites.WEIGHT_GRADIENT[plan.weight_gradient], plain, x, dy)
    return dx.astype(x.dtype), dw.astype(w.dtype)


_planned_conv = jax.custom_vjp(_conv, nondiff_argnums=(0, 1))
_planned_conv.defvjp(_conv_fwd, _conv_bwd)


def run_conv(spec: ConvSpec, x: Array, w: Array, impl: Name) -> Array:
    """Carries out a convolution that has been checked."""
    plan = _plan("conv", CONV, CONV_PINS, spec, impl)
    if plan is None:
        return conv_rewrites.lax_forward(spec, x, w)
    return _planned_conv(spec, plan, x, w)


# A transposed convolution is the input gradient of the convolution that ``spec`` describes, so
# its own input gradient is that convolution, and its weight gradient has x and dy exchanged.


def _conv_transpose(spec: ConvSpec, plan: Plan, x: Array, w: Array) -> Array:
    return _carried_out(conv_rewrites.INPUT_GRADIENT[plan.forward], spec, w, x)


def _conv_transpose_fwd(
    spec: ConvSpec, plan: Plan, x: Array, w: Array
) -> tuple[Array, tuple[Array, Array]]:
    return _conv_transpose(spec, plan, x, w), (x, w)


def _conv_transpose_bwd(
    spec: ConvSpec, plan: Plan, residuals: tuple[Array, Array], cotangent: ArrayInput
) -> tuple[Array, Array]:
    (x, w), dy = residuals, jnp.asarray(cotangent)
    plain = dataclasses.replace(spec, preferred_element_type=None)
    dx = _carried_out(conv_rewrites.FORWARD[plan.input_gradient], plain, dy, w.astype(dy.dtype))
    dw = _carried_out(
        conv_rewrites.WEIGHT_GRADIENT[plan.weight_gradient], plain, dy, x.astype(dy.dtype)
    )
    return dx.astype(x.dtype), dw.astype(w.dtype)


_planned_conv_transpose = jax.custom_vjp(_conv_transpose, nondiff_argnums=(0, 1))
_planned_conv_transpose.defvjp(_conv_transpose_fwd, _conv_transpose_bwd)


def run_conv_transpose(spec: ConvSpec, x: Array, w: Array, impl: Name) -> Array:
    """Carries out a transposed convolution, given the convolution that it transposes."""
    plan = _plan("conv_transpose", CONV, CONV_PINS, spec, impl)
    if plan is None:
        return conv_rewrites.canonical_input_gradient(spec, w, x)
    return _planned_conv_transpose(spec, plan, x, w)


def _max_pool(spec: PoolSpec, plan: Plan, x: Array) -> Array:
    return pool_rewrites.MAX_FORWARD[plan.forward](spec, x)


def _max_pool_fwd(spec: PoolSpec, plan: Plan, x: Array) -> tuple[Array, tuple[Array, Array]]:
    # The gradient goes to the element that equals the maximum. XLA computes what it fuses anew for
    # each use, here with and there without rounding between a product and a sum; the two would
    # then not be equal, and the window's gradient would be lost (seen with jax 0.12 on a CPU). The
    # barrier costs little, since x is kept for the backward pass anyway.
    x = jax.lax.optimization_barrier(x)
    y = _max_pool(spec, plan, x)
    return y, (x, y)


def _max_pool_bwd(
    spec: PoolSpec, plan: Plan, residuals: tuple[Array, Array], cotangent: ArrayInput
) -> tuple[Array]:
    (x, y), dy = residuals, jnp.asarray(cotangent)
    return (pool_rewrites.MAX_GRADIENT[plan.input_gradient](spec, x, y, dy),)


_planned_max_pool = jax.custom_vjp(_max_pool, nondiff_argnums=(0, 1))
_planned_max_pool.defvjp(_max_pool_fwd, _max_pool_bwd)


def run_max_pool(spec: PoolSpec, x: Array, impl: Name) -> Array:
    """Carries out a max-pool that has been checked."""
    plan = _plan("max_pool", MAX_POOL, MAX_POOL_PINS, spec, impl)
    if plan is None:
        return pool_rewrites.lax_max_forward(spec, x)
    return _planned_max_pool(spec, plan, x)


def _sum_pool(spec: PoolSpec, plan: Plan, x: Array) -> Array:
    return pool_rewrites.SUM_FORWARD[plan.forward](spec, x)


def _sum_pool_fwd(spec: PoolSpec, plan: Plan, x: Array) -> tuple[Array, None]:
    return _sum_pool(spec, plan, x), None


def _sum_pool_bwd(
    spec: PoolSpec, plan: Plan, residuals: None, cotangent: ArrayInput
) -> tuple[Array]:
    return (pool_rewrites.SUM_GRADIENT[plan.input_gradient](spec, jnp.asarray(cotangent)),)


_planned_sum_pool = jax.custom_vjp(_sum_pool, nondiff_argnums=(0, 1))
_planned_sum_pool.defvjp(_sum_pool_fwd, _sum_pool_bwd)


def run_sum_pool(spec: PoolSpec, x: Array, impl: Name) -> Array:
    """Carries out the sum over windows of a pool that has been checked."""
    plan = _plan("sum_pool", SUM_POOL, SUM_POOL_PINS, spec, impl)
    if plan is None:
        return pool_rewrites.lax_sum_forward(spec, x)
    return _planned_sum_pool(spec, plan, x)
