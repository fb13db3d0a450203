"""Parameters, multiply-accumulates, shapes and receptive field of every layer of a model.

The model is traced, never run: ``jax.make_jaxpr`` gives the list of primitive operations, each
with the path of the module it came from, and the figures follow from their shapes. A summary
costs seconds for the deepest model and no memory for its parameters. Flax's own ``nn.tabulate``
has no receptive fields, counts FLOPs by compiling, and knows no operation without parameters.
"""

import dataclasses
import io
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.traverse_util import flatten_dict
from jax.extend import core

from jaxcnn import models, ops
from jaxcnn.analysis.formats import si, sizes
from jaxcnn.layers import random_streams

if TYPE_CHECKING:
    from rich.table import Table


@dataclasses.dataclass(frozen=True)
class Row:
    """One layer: a module that owns parameters, or an operation of ``jaxcnn.ops`` without any.

    Attributes:
        layer: path of the module, followed by the name of the operation if it is one.
        type: class of the module or name of the operation.
        output_shape: shape for one example, without the batch axis; None if the layer did not
            run (an auxiliary head outside training).
        parameters: numbers that the layer itself learns.
        macs: multiply-accumulates of its convolutions and matrix products, for one example.
        activations: numbers in its output.
        receptive_field: input pixels per spatial axis that one output can see; None where the
            spatial axes are gone and it is the whole image.
    """

    layer: str
    type: str
    output_shape: tuple[int, ...] | None
    parameters: int
    macs: int
    activations: int
    receptive_field: tuple[int, ...] | None


@dataclasses.dataclass(frozen=True)
class Summary:
    """The layers of a model in order of execution, and their totals.

    Attributes:
        rows: the layers.
        input_shape: shape of one example.
        parameters: numbers learned.
        statistics: numbers tracked, such as running means.
        macs: multiply-accumulates for one example.
        activations: numbers in the outputs of all convolutions and dense layers, as Radosavovic
            et al. (2020) count them.
        receptive_field: the largest of those that are not the whole image; None without any.
    """

    rows: tuple[Row, ...]
    input_shape: tuple[int, ...]
    parameters: int
    statistics: int
    macs: int
    activations: int
    receptive_field: tuple[int, ...] | None

    def __repr__(self) -> str:
        """Returns the table of the layers, as ``jaxcnn summary`` prints it."""
        from rich.console import Console

        console = Console(
            file=io.StringIO(), width=160, markup=False, emoji=False, force_jupyter=False
        )
        with console.capture() as printed:
            console.print(render(self))
        return printed.get()


def summarize(
    module: nn.Module,
    input_shape: Sequence[int],
    *,
    train: bool = False,
    count_padding: bool = True,
) -> Summary:
    """Lists the layers of a model with their costs.

    The receptive field follows the windows of convolutions and pools: a kernel of size ``k`` at
    dilation ``d`` adds ``(k - 1) * d`` steps to it, and a stride makes the steps of all later
    windows longer; where branches meet, the widest counts. Gates and statistics computed over the
    whole image (squeeze-and-excitation, batch normalisation in training) do not widen it. Behind a
    transposed convolution, whose outputs do not all see equally far, it is an upper bound.

    Args:
        module: a model; ``module(x, train=...)`` takes ``(n, *input_shape)``.
        input_shape: ``(h, w, c)``.
        train: counts the training pass forward, with auxiliary heads.
        count_padding: counts products with the zeros of the padding, as is usual; XLA's cost
            analysis leaves them out. Those with the zeros that a transposed convolution puts
            between positions are never counted.

    >>> from jaxcnn.models import create_model
    >>> summarize(create_model("lenet5", num_classes=10), (32, 32, 1)).parameters
    61706
    """
    input_shape = tuple(input_shape)
    if len(input_shape) < 2 or any(size < 1 for size in input_shape):
        raise ValueError(
            f"input_shape={input_shape} must hold the spatial sizes and the number of channels, "
            "all at least 1"
        )
    image = jax.ShapeDtypeStruct((1, *input_shape), jnp.float32)
    variables, types = abstract_variables(module, image)
    owners = _owners(variables)

    def forward(variables: Any, image: jax.Array) -> Any:
        rngs = random_streams(jax.random.key(0))
        return module.apply(variables, image, train=train, mutable=["batch_stats"], rngs=rngs)

    with ops.force_impl("lax"):
        jaxpr = jax.make_jaxpr(forward)(variables, image)
    walk = _Walk(Naming.of(variables, types), count_padding)
    walk.model(jaxpr, input_shape)

    rows = []
    for key, layer in sorted(walk.layers.items(), key=lambda item: item[1].last):
        rows.append(
            Row(
                layer=key.name,
                type=key.op or types[key.path],
                output_shape=layer.shape[1:],
                parameters=0 if key.op else owners.get(key.path, 0),
                macs=layer.macs,
                activations=math.prod(layer.shape),
                receptive_field=_pixels(layer.field),
            )
        )
    ran = {key.path for key in walk.layers if not key.op}
    for path, count in owners.items():
        if path not in ran:
            rows.append(Row("/".join(path), types[path], None, count, 0, 0, None))
    windows = [row.receptive_field for row in rows if row.receptive_field]
    return Summary(
        rows=tuple(rows),
        input_shape=input_shape,
        parameters=_count(variables.get("params", {})),
        statistics=_count(variables.get("batch_stats", {})),
        macs=walk.macs,
        activations=sum(row.activations for row in rows if row.macs),
        receptive_field=max(windows, key=math.prod, default=None),
    )


def endpoint_fields(
    module: nn.Module, input_shape: Sequence[int]
) -> dict[str, tuple[int, ...] | None]:
    """Returns the theoretical receptive field of every endpoint, as :class:`Row` has it of layers.

    Args:
        module: a model, whose endpoints are those of :func:`jaxcnn.models.with_endpoints`; those
            that are not a single array are left out.
        input_shape: ``(h, w, c)``.

    >>> from jaxcnn.models import create_model
    >>> endpoint_fields(create_model("lenet5", num_classes=10), (32, 32, 1))["stage1"]
    (6, 6)
    """
    image = jax.ShapeDtypeStruct((1, *input_shape), jnp.float32)
    variables, _ = abstract_variables(module, image)

    def forward(variables: Any, image: jax.Array) -> Any:
        return models.with_endpoints(module, variables, image)[1]

    with ops.force_impl("lax"):
        jaxpr, shapes = jax.make_jaxpr(forward, return_shape=True)(variables, image)
    walk = _Walk(Naming(set(), set(), set()), count_padding=True)
    fields = walk.model(jaxpr, input_shape)
    found = jax.tree.unflatten(jax.tree.structure(shapes), fields)
    return {
        name: _pixels(found[name])
        for name, shape in shapes.items()
        if isinstance(shape, jax.ShapeDtypeStruct) and found[name]
    }


def model_stats(
    name: str, *, input_shape: Sequence[int] | None = None, num_classes: int | None = None
) -> Summary:
    """Summarizes a model, at the input size and number of classes it was published for.

    >>> model_stats("lenet5").receptive_field
    (16, 16)
    """
    shape = models.standard_input(name) if input_shape is None else input_shape
    classes = models.standard_classes(name, shape) if num_classes is None else num_classes
    return summarize(models.create_model(name, num_classes=classes), shape)


HEADERS = ("layer", "type", "output", "parameters", "MACs", "activations", "receptive field")


def cells(summary: Summary) -> list[list[str]]:
    """Returns the table of the layers: for each its cells, under :data:`HEADERS`."""
    return [
        [
            row.layer,
            row.type,
            "(training only)" if row.output_shape is None else sizes(row.output_shape),
            f"{row.parameters:,}" if row.parameters else "",
            f"{row.macs:,}" if row.macs else "",
            "" if row.output_shape is None else f"{row.activations:,}",
            "" if row.output_shape is None else _seen(row.receptive_field),
        ]
        for row in summary.rows
    ]


def _seen(receptive_field: tuple[int, ...] | None) -> str:
    return sizes(receptive_field) if receptive_field else "image"


def render(summary: Summary, title: str | None = None) -> "Table":
    """Lays a summary out as a table for a terminal."""
    from rich.table import Table

    totals = (
        *("total", f"input {sizes(summary.input_shape)}", "", f"{summary.parameters:,}"),
        *(f"{summary.macs:,}", f"{summary.activations:,}", sizes(summary.receptive_field or ())),
    )
    table = Table(title=title, show_footer=True)
    for i, (header, total) in enumerate(zip(HEADERS, totals, strict=True)):
        if i < 2:
            table.add_column(header, total, overflow="fold")
        else:
            table.add_column(header, total, justify="right", no_wrap=True)
    for row in cells(summary):
        table.add_row(*row)
    return table


def stats_lines(names: Sequence[str]) -> Iterator[str]:
    """Yields a header and a line on the totals of each model, each as soon as it is known."""
    widest = max(map(len, names))
    line = f"{{:<{widest}}}  {{:>11}}  {{:>10}}  {{:>8}}  {{:>11}}  {{:>15}}".format
    yield line("model", "input", "parameters", "MACs", "activations", "receptive field")
    for name in names:
        total = model_stats(name)
        counts = map(si, (total.parameters, total.macs, total.activations))
        yield line(name, sizes(total.input_shape), *counts, _seen(total.receptive_field))


Path = tuple[str, ...]
"""The names of a module and of those that hold it, the outermost first."""


def abstract_variables(module: nn.Module, image: Any) -> tuple[dict[str, Any], dict[Path, str]]:
    """Returns the shapes of a model's variables, and the class of the module at each path."""
    types: dict[Path, str] = {}

    def note(call: Callable[..., Any], args: Any, kwargs: Any, context: Any) -> Any:
        types[context.module.path] = type(context.module).__name__
        return call(*args, **kwargs)

    with nn.intercept_methods(note):
        variables = jax.eval_shape(
            lambda image: module.init(jax.random.key(0), image, train=False), image
        )
    return dict(variables), types


def _owners(variables: Mapping[str, Any]) -> dict[Path, int]:
    """Counts the parameters that each module itself owns; one with statistics alone has none."""
    owners: dict[Path, int] = {}
    for collection in ("params", "batch_stats"):
        for (*module, _), leaf in flatten_dict(variables.get(collection, {})).items():
            size = leaf.size if collection == "params" else 0
            owners[*module,] = owners.get((*module,), 0) + size
    return owners


def _count(tree: Any) -> int:
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


class _Window(NamedTuple):
    """What a position of a feature map's axis sees: ``size`` pixels along an axis of the image.

    ``jump`` is the number of pixels from one position to the next.
    """

    axis: int
    size: float
    jump: float

    def slide(self, taps: int, stride: float = 1, dilation: int = 1) -> "_Window":
        """Returns the window after one more, of ``taps`` positions that lie ``dilation`` apart."""
        return _Window(self.axis, self.size + (taps - 1) * dilation * self.jump, self.jump * stride)


# For each axis of an array its window, or None for an axis that is not one of the image's. An
# array that does not depend on the image has no field at all.
_Field = tuple[_Window | None, ...]


def _pixels(field: _Field) -> tuple[int, ...] | None:
    windows = sorted(window for window in field if window)
    return tuple(math.ceil(window.size) for window in windows) or None


def _widest(windows: Iterable[_Window | None]) -> _Window | None:
    present = [window for window in windows if window]
    if not present:
        return None
    return _Window(present[0].axis, max(w.size for w in present), max(w.jump for w in present))


def _merge(fields: Iterable[_Field]) -> _Field:
    return tuple(map(_widest, zip(*fields, strict=True)))


class Key(NamedTuple):
    """Which layer an operation belongs to: a module, or the ``call``-th use of one of our ops."""

    path: Path
    op: str = ""
    call: int = 0

    @property
    def name(self) -> str:
        """What a :class:`Row` calls the layer."""
        return "/".join((*self.path, self.op) if self.op else self.path)


@dataclasses.dataclass
class Naming:
    """Says which layer each operation belongs to, in the order in which they are carried out."""

    owners: set[Path]  # modules with parameters of their own
    modules: set[Path]
    parents: set[Path]  # modules that hold other modules
    position: int = 0
    previous: Key | None = None

    @classmethod
    def of(cls, variables: Mapping[str, Any], types: Mapping[Path, str]) -> "Naming":
        """Returns the names of a model's layers, given what :func:`abstract_variables` returns."""
        parents = {path[:-1] for path in types if path}
        return cls(owners=set(_owners(variables)), modules=set(types), parents=parents)

    def following(self, scope: Path, product: str) -> Key | None:
        """Returns the layer of the operation that follows, as :meth:`key` does."""
        self.position += 1
        self.previous = self.key(scope, product)
        return self.previous

    def key(self, scope: Path, product: str) -> Key | None:
        """Returns an operation's layer: the innermost module with parameters, else one of our ops.

        A product outside both is a layer of its own; other operations (activations, sums,
        concatenations) are none.

        Args:
            scope: the names of the modules and functions that the operation lies in.
            product: the name of the operation if it multiplies arrays, else nothing.
        """
        path: Path = ()
        op = ""
        for name in scope:
            if (*path, name) in self.modules:
                path, op = (*path, name), ""
            elif name in _OPS and not op:
                op = name
        if path in self.owners and not (op and path in self.parents):
            return Key(path)
        op = op or product
        if not op:
            return None
        if self.previous and self.previous[:2] == (path, op):
            return self.previous
        return Key(path, op, self.position)


@dataclasses.dataclass
class _Layer:
    shape: tuple[int, ...]
    field: _Field
    last: int
    macs: int = 0


@dataclasses.dataclass
class _Walk:
    """One pass over a jaxpr that follows the image and charges every operation to a layer."""

    naming: Naming
    count_padding: bool
    layers: dict[Key, _Layer] = dataclasses.field(default_factory=dict)
    macs: int = 0

    def model(self, jaxpr: core.ClosedJaxpr, input_shape: Sequence[int]) -> list[_Field | None]:
        """Walks a model of ``(variables, image)``; returns the fields of its outputs."""
        image = (None, *(_Window(axis, 1, 1) for axis in range(len(input_shape) - 1)), None)
        return self.jaxpr(jaxpr, [*[None] * (len(jaxpr.invars) - 1), image], ())

    def jaxpr(
        self, jaxpr: core.ClosedJaxpr | core.Jaxpr, fields: Sequence[_Field | None], scope: Path
    ) -> list[_Field | None]:
        """Returns the fields of a jaxpr's outputs, given those of its inputs."""
        known: dict[Any, _Field | None] = dict(zip(jaxpr.invars, fields, strict=True))

        def field_of(atom: Any) -> _Field | None:
            return None if isinstance(atom, core.Literal) else known.get(atom)

        for eqn in jaxpr.eqns:
            inputs = [field_of(atom) for atom in eqn.invars]
            if all(field is None for field in inputs):
                continue
            stack = str(eqn.source_info.name_stack)
            inner = (*scope, *stack.split("/")) if stack else scope
            body = called(eqn)
            if body is not None:
                name = eqn.params.get("name", "")
                outputs = self.jaxpr(body, inputs, (*inner, name))
            else:
                outputs = _propagate(eqn, inputs)
                self.charge(eqn, outputs, inner)
            known.update(zip(eqn.outvars, outputs, strict=True))
        return [field_of(atom) for atom in jaxpr.outvars]

    def charge(self, eqn: core.JaxprEqn, outputs: Sequence[_Field | None], scope: Path) -> None:
        """Adds an operation to its layer, whose output so far is that of the operation."""
        macs = _macs(eqn, self.count_padding)
        self.macs += macs
        key = self.naming.following(scope, eqn.primitive.name if macs else "")
        field = outputs[0]
        if key is None or field is None:
            return
        shape = _shape(eqn.outvars[0])
        layer = self.layers.setdefault(key, _Layer(shape, field, self.naming.position))
        layer.macs += macs
        # In training a batch normalisation ends with its running statistics, which are vectors.
        if key.op or len(shape) >= len(layer.shape):
            layer.shape, layer.field, layer.last = shape, field, self.naming.position


_OPS = frozenset(ops.__all__)


def _shape(atom: Any) -> tuple[int, ...]:
    return atom.aval.shape


def _shapes(atoms: Iterable[Any]) -> list[tuple[int, ...]]:
    return [_shape(atom) for atom in atoms]


def called(eqn: core.JaxprEqn) -> core.Jaxpr | None:
    """Returns the body of a call that runs once (jit, custom derivatives, remat), else None.

    It is told by its form, since JAX renames these calls now and then: the one body takes and
    gives what the operation does. A branch does not take the predicate, a body that combines two
    numbers takes numbers; a loop has two bodies or, as a scan, a length.
    """
    bodies = list(core.jaxprs_in_params(eqn.params))
    if len(bodies) != 1 or "length" in eqn.params:
        return None
    (body,) = bodies
    alike = _shapes(body.invars) == _shapes(eqn.invars) and (
        _shapes(body.outvars) == _shapes(eqn.outvars)
    )
    return body if alike else None


def _propagate(eqn: core.JaxprEqn, inputs: Sequence[_Field | None]) -> list[_Field | None]:
    """Returns the fields of the outputs of one primitive operation."""
    name, params = eqn.primitive.name, eqn.params
    shapes = _shapes(eqn.invars)
    shape = _shape(eqn.outvars[0])
    first = inputs[0]
    field: _Field
    if name == "conv_general_dilated" and first is not None:
        field = _conv_field(eqn, first)
    elif name.startswith("reduce_window") and first is not None:
        field = tuple(
            window and window.slide(taps, stride, dilation)
            for window, taps, stride, dilation in zip(
                _undilate(first, params["base_dilation"]),
                params["window_dimensions"],
                params["window_strides"],
                params["window_dilation"],
                strict=True,
            )
        )
    elif name == "dot_general":
        field = _dot_field(eqn, inputs)
    elif name == "transpose" and first is not None:
        field = tuple(first[axis] for axis in params["permutation"])
    elif name == "broadcast_in_dim" and first is not None:
        spread = dict(zip(params["broadcast_dimensions"], first, strict=True))
        field = tuple(spread.get(axis) for axis in range(len(shape)))
    elif name in {"reshape", "squeeze", "expand_dims"} and first is not None:
        field = _reshape_field(first, shapes[0], shape)
    elif name.startswith(("reduce_", "arg")) and "axes" in params and first is not None:
        field = tuple(w for axis, w in enumerate(first) if axis not in params["axes"])
    elif name == "slice" and first is not None:
        strides = params["strides"] or (1,) * len(shape)
        field = tuple(
            window and window.slide(1, stride)
            for window, stride in zip(first, strides, strict=True)
        )
    elif name == "pad" and first is not None:
        dilations = [interior + 1 for _, _, interior in params["padding_config"]]
        field = _undilate(first, dilations)
    else:
        alike = [f for f in inputs if f is not None and len(f) == len(shape)]
        field = _merge(alike) if alike else (None,) * len(shape)
    return [
        field if len(_shape(variable)) == len(field) else (None,) * len(_shape(variable))
        for variable in eqn.outvars
    ]


def _undilate(field: _Field, dilations: Sequence[int]) -> _Field:
    """Shortens the steps where zeros are put between the positions, as upsampling does."""
    return tuple(
        window and window.slide(1, 1 / dilation)
        for window, dilation in zip(field, dilations, strict=True)
    )


def _conv_field(eqn: core.JaxprEqn, field: _Field) -> _Field:
    params = eqn.params
    numbers = params["dimension_numbers"]
    kernel = _shape(eqn.invars[1])
    out: list[_Window | None] = [None] * len(field)
    for i, (axis_in, axis_out, axis_kernel) in enumerate(
        zip(numbers.lhs_spec[2:], numbers.out_spec[2:], numbers.rhs_spec[2:], strict=True)
    ):
        window = field[axis_in]
        if window:
            (window,) = _undilate((window,), (params["lhs_dilation"][i],))
            assert window is not None
            out[axis_out] = window.slide(
                kernel[axis_kernel], params["window_strides"][i], params["rhs_dilation"][i]
            )
    return tuple(out)


def _dot_field(eqn: core.JaxprEqn, inputs: Sequence[_Field | None]) -> _Field:
    contracting, batch = eqn.params["dimension_numbers"]
    lhs, rhs = (
        field if field is not None else (None,) * len(_shape(atom))
        for field, atom in zip(inputs, eqn.invars, strict=True)
    )
    shared = [_widest((lhs[i], rhs[j])) for i, j in zip(*batch, strict=True)]
    kept = [
        [w for i, w in enumerate(field) if i not in (*contracting[side], *batch[side])]
        for side, field in enumerate((lhs, rhs))
    ]
    return (*shared, *kept[0], *kept[1])


def _reshape_field(field: _Field, old: Sequence[int], new: Sequence[int]) -> _Field:
    """Keeps the window of an axis that a reshape leaves whole or splits into bins."""
    out: list[_Window | None] = [None] * len(new)
    free = 0
    for axis, window in enumerate(field):
        if window is None:
            continue
        size, before = old[axis], math.prod(old[:axis])
        places = [i for i in range(free, len(new)) if math.prod(new[:i]) == before]
        whole = [i for i in places if new[i] == size]
        split = [i for i in places if i + 1 < len(new) and new[i] * new[i + 1] == size]
        for place in (*whole, *split)[:1]:
            per_bin = size // new[place]
            out[place], free = window.slide(per_bin, per_bin), place + 1
    return tuple(out)


def _macs(eqn: core.JaxprEqn, count_padding: bool) -> int:
    """Counts multiply-accumulates of a convolution or matrix product; others have none."""
    if eqn.primitive.name == "dot_general":
        (contracting, _), _ = eqn.params["dimension_numbers"]
        depth = math.prod(_shape(eqn.invars[0])[axis] for axis in contracting)
        return depth * math.prod(_shape(eqn.outvars[0]))
    if eqn.primitive.name != "conv_general_dilated":
        return 0
    numbers = eqn.params["dimension_numbers"]
    image, kernel = (_shape(atom) for atom in eqn.invars)
    out = _shape(eqn.outvars[0])
    # n * out_channels * in_channels per group, times the (output, tap) pairs of every axis.
    macs = out[numbers.out_spec[0]] * kernel[numbers.rhs_spec[0]] * kernel[numbers.rhs_spec[1]]
    for i in range(len(image) - 2):
        positions, taps = out[numbers.out_spec[2 + i]], kernel[numbers.rhs_spec[2 + i]]
        size = image[numbers.lhs_spec[2 + i]]
        stride, low = eqn.params["window_strides"][i], eqn.params["padding"][i][0]
        spread, dilation = eqn.params["lhs_dilation"][i], eqn.params["rhs_dilation"][i]
        macs *= sum(
            (count_padding or 0 <= place <= (size - 1) * spread) and place % spread == 0
            for position in range(positions)
            for place in (position * stride - low + tap * dilation for tap in range(taps))
        )
    return macs
