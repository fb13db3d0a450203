"""Which implementation carries out a convolution or a pool, and why: one table per platform.

``impl="auto"`` reads the tables below while the program is traced. The first rule whose
condition holds is taken, direction by direction, so that the forward pass and each gradient are
chosen on their own. ``impl="lax"`` is always XLA's own operation, gradients included, and the
only one with forward-mode derivatives (``jax.jvp``, ``jax.jacfwd``).
"""

import contextlib
import contextvars
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
from jax import Array

from jaxcnn.ops import conv_rewrites, pool_rewrites
from jaxcnn.ops.conv_rewrites import ConvSpec
from jaxcnn.ops.pool_rewrites import PoolSpec

_forced_impl: contextvars.ContextVar[str | None] = contextvars.ContextVar("impl", default=None)
_forced_platform: contextvars.ContextVar[str | None] = contextvars.ContextVar(
    "platform", default=None
)


class Rule(NamedTuple):
    """Take ``impl`` where ``when`` holds of the spec; ``why`` is what ``explain`` says."""

    impl: str
    when: Callable[[Any], bool]
    why: str


class Choice(NamedTuple):
    """What was chosen for one direction, and why."""

    impl: str
    why: str


def _always(spec: Any) -> bool:
    return True


def _grouped(spec: ConvSpec) -> bool:
    return spec.groups > 1


CONV_RULES: dict[str, dict[str, tuple[Rule, ...]]] = {
    "cpu": {
        "forward": (Rule("lax", _always, "XLA's convolution is already canonical"),),
        "input_gradient": (
            Rule("canonical", _always, "stock falls to a naive kernel inside loops"),
        ),
        "weight_gradient": (
            Rule("einsum", _grouped, "stock computes all pairs of channels, then masks"),
            Rule("canonical", _always, "stock falls to a naive kernel inside loops"),
        ),
    },
    "gpu": {
        "forward": (Rule("lax", _always, "cuDNN"),),
        "input_gradient": (Rule("lax", _always, "cuDNN"),),
        "weight_gradient": (Rule("lax", _always, "cuDNN"),),
    },
}

MAX_POOL_RULES: dict[str, dict[str, tuple[Rule, ...]]] = {
    "cpu": {
        "forward": (Rule("lax", _always, "reduce_window"),),
        "input_gradient": (
            Rule("mask", _always, "select-and-scatter is a scalar loop on the CPU"),
        ),
    },
    "gpu": {
        "forward": (Rule("lax", _always, "reduce_window"),),
        "input_gradient": (
            Rule("mask", lambda spec: max(spec.dilation) > 1, "lax has no gradient here"),
            Rule("lax", _always, "select-and-scatter"),
        ),
    },
}

AVG_POOL_RULES: dict[str, dict[str, tuple[Rule, ...]]] = {
    "cpu": {
        "forward": (Rule("lax", _always, "reduce_window"),),
        "input_gradient": (Rule("lax", _always, "reduce_window"),),
    },
    "gpu": {
        "forward": (Rule("lax", _always, "reduce_window"),),
        "input_gradient": (Rule("lax", _always, "reduce_window"),),
    },
}


def platform() -> str:
    """The platform that ``auto`` chooses for: the default backend unless forced."""
    name = _forced_platform.get() or jax.default_backend()
    return "cpu" if name == "cpu" else "gpu"


@contextlib.contextmanager
def force_impl(impl: str | None = None, *, platform: str | None = None) -> Iterator[None]:
    """Pin the implementation of every op traced inside, where the call itself says "auto".

    It is read while tracing: a function that ``jax.jit`` has already compiled stays as it is.

    Args:
        impl: "lax" for XLA's own operations, "auto" to choose as usual; None changes nothing.
        platform: choose as for "cpu", "gpu" or "tpu"; None for the default backend.

    Raises:
        ValueError: an unknown name.

    >>> import jax, jax.numpy as jnp
    >>> from jaxcnn import ops
    >>> with ops.force_impl("lax"):
    ...     jaxpr = jax.make_jaxpr(ops.conv)(jnp.ones((1, 8, 8, 3)), jnp.ones((3, 3, 3, 4)))
    >>> "custom_vjp" in str(jaxpr)
    False
    """
    if impl not in (None, "auto", "lax"):
        raise ValueError(f"impl={impl!r} must be 'auto' or 'lax' to hold for every op")
    if platform not in (None, "cpu", "gpu", "tpu"):
        raise ValueError(f"platform={platform!r} must be 'cpu', 'gpu' or 'tpu'")
    tokens = []
    if impl is not None:
        tokens.append((_forced_impl, _forced_impl.set(impl)))
    if platform is not None:
        tokens.append((_forced_platform, _forced_platform.set(platform)))
    try:
        yield
    finally:
        for variable, token in tokens:
            variable.reset(token)


def choose(rules: dict[str, dict[str, tuple[Rule, ...]]], spec: Any, direction: str) -> Choice:
    """The first rule of the table that holds."""
    for rule in rules[platform()][direction]:
        if rule.when(spec):
            return Choice(rule.impl, rule.why)
    raise AssertionError(f"no rule for {direction} of {spec}")


class Plan(NamedTuple):
    """One implementation per direction."""

    forward: str
    input_gradient: str
    weight_gradient: str = ""


def resolve(impl: str) -> str:
    """The implementation asked for, once ``force_impl`` has had its say."""
    return (_forced_impl.get() or "auto") if impl == "auto" else impl


def conv_plan(spec: ConvSpec, impl: str) -> Plan:
    """Which implementation carries out each direction of a convolution."""
    if impl == "auto":
        return Plan(
            *(
                choose(CONV_RULES, spec, direction).impl
                for direction in ("forward", "input_gradient", "weight_gradient")
            )
        )
    if impl == "canonical":
        return Plan("lax", "canonical", "canonical")
    raise ValueError(f"impl={impl!r} must be one of 'auto', 'lax', 'canonical'")


def max_pool_plan(spec: PoolSpec, impl: str) -> Plan:
    """Which implementation carries out each direction of a max-pool."""
    if impl == "auto":
        return Plan(
            *(
                choose(MAX_POOL_RULES, spec, direction).impl
                for direction in ("forward", "input_gradient")
            )
        )
    if impl == "mask":
        return Plan("lax", "mask")
    raise ValueError(f"impl={impl!r} must be one of 'auto', 'lax', 'mask'")


def _conv(spec: ConvSpec, plan: Plan, x: Array, w: Array) -> Array:
    return conv_rewrites.FORWARD[plan.forward](spec, x, w)


def _conv_fwd(spec: ConvSpec, plan: Plan, x: Array, w: Array) -> tuple[Array, tuple[Array, Array]]:
    return _conv(spec, plan, x, w), (x, w)


def _conv_bwd(
    spec: ConvSpec, plan: Plan, residuals: tuple[Array, Array], dy: Array
) -> tuple[Array, Array]:
    x, w = residuals
    dx = conv_rewrites.INPUT_GRADIENT[plan.input_gradient](spec, w, dy)
    dw = conv_rewrites.WEIGHT_GRADIENT[plan.weight_gradient](spec, x, dy)
    return dx.astype(x.dtype), dw.astype(w.dtype)


_planned_conv = jax.custom_vjp(_conv, nondiff_argnums=(0, 1))
_planned_conv.defvjp(_conv_fwd, _conv_bwd)


def run_conv(spec: ConvSpec, x: Array, w: Array, impl: str) -> Array:
    """Carry out a convolution that has been checked."""
    impl = resolve(impl)
    if impl == "lax":
        return conv_rewrites.lax_forward(spec, x, w)
    return _planned_conv(spec, conv_plan(spec, impl), x, w)


def _max_pool(spec: PoolSpec, plan: Plan, x: Array) -> Array:
    return pool_rewrites.MAX_FORWARD[plan.forward](spec, x)


def _max_pool_fwd(spec: PoolSpec, plan: Plan, x: Array) -> tuple[Array, tuple[Array, Array]]:
    y = _max_pool(spec, plan, x)
    return y, (x, y)


def _max_pool_bwd(
    spec: PoolSpec, plan: Plan, residuals: tuple[Array, Array], dy: Array
) -> tuple[Array]:
    x, y = residuals
    return (pool_rewrites.MAX_GRADIENT[plan.input_gradient](spec, x, y, dy),)


_planned_max_pool = jax.custom_vjp(_max_pool, nondiff_argnums=(0, 1))
_planned_max_pool.defvjp(_max_pool_fwd, _max_pool_bwd)


def run_max_pool(spec: PoolSpec, x: Array, impl: str) -> Array:
    """Carry out a max-pool that has been checked."""
    impl = resolve(impl)
    if impl == "lax" and max(spec.dilation) == 1:
        return pool_rewrites.lax_max_forward(spec, x)
    # lax has no gradient for a dilated window, so that "lax" gets ours.
    plan = Plan("lax", "mask") if impl == "lax" else max_pool_plan(spec, impl)
    return _planned_max_pool(spec, plan, x)


def run_sum_pool(spec: PoolSpec, x: Array, impl: str) -> Array:
    """Carry out the sum over windows of a pool that has been checked."""
    if impl not in ("auto", "lax"):
        raise ValueError(f"impl={impl!r} must be one of 'auto', 'lax'")
    return pool_rewrites.lax_sum_forward(spec, x)
