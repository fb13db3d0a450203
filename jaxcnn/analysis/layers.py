"""Times each named layer of a network on its own, beside what the roofline allows it.

The network is traced once. The operations of each layer, as :mod:`jaxcnn.analysis.summary` names
layers, become a program of their own: forward, and in training backward to its parameters and, but
for the first layers, to its inputs. Layers whose programs are equal are timed once. What lies
between named layers (sums, dropout, activations that no normalisation holds) is not timed; fused
with its neighbours, a layer may take less in the network than alone.
"""

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.extend import core

from jaxcnn import models
from jaxcnn.analysis import bench, summary
from jaxcnn.analysis.bench import Settings, Work
from jaxcnn.analysis.budget import Budget
from jaxcnn.analysis.formats import si, sizes
from jaxcnn.analysis.roofline import DTYPES, Roofs, best_seconds
from jaxcnn.layers import random_streams
from jaxcnn.learning import files
from jaxcnn.memory import available

if TYPE_CHECKING:
    from rich.table import Table

COLUMNS = (
    *("model", "work", "layer", "type", "output", "batch_size", "ms", "flops_per_sec", "bytes"),
    *("bytes_per_sec", "utilisation", *bench.DEVICE),
)
"""Columns of the CSV file; the utilisation is the speed as a share of the roofline."""
PRODUCTS = frozenset({"conv_general_dilated", "dot_general"})


class Origin(NamedTuple):
    """What an array of a traced network depends on: on the image, and on what is learned."""

    image: bool = False
    learned: bool = False


class Layer(NamedTuple):
    """The operations of one layer as a function.

    Attributes:
        name: its name in the summary.
        run: maps a list of inputs to a list of outputs.
        inputs: shape and type of each input.
        outputs: those of each output.
        origins: what each input depends on.
    """

    name: str
    run: Callable[..., list[jax.Array]]
    inputs: list[jax.ShapeDtypeStruct]
    outputs: list[jax.ShapeDtypeStruct]
    origins: tuple[Origin, ...]

    def passes(self, work: Work) -> int:
        """Returns how often its products are computed: forward, and for each gradient."""
        if work == "infer":
            return 1
        images = sum(origin.image for origin in self.origins if origin.learned)
        kernels = any(not origin.image for origin in self.origins if origin.learned)
        return 1 + min(images + kernels, 2)

    def program(self, work: Work) -> tuple[Callable[..., Any], list[Any]]:
        """Returns a function, and shapes and types of its arguments.

        These are the inputs and, in training, the gradients of the outputs.
        """
        if work == "infer":
            return self.run, [self.inputs]
        learned = [i for i, origin in enumerate(self.origins) if origin.learned]

        def both(inputs: list[jax.Array], dys: list[jax.Array]) -> Any:
            def forward(*varied: jax.Array) -> list[jax.Array]:
                known = dict(enumerate(inputs)) | dict(zip(learned, varied, strict=True))
                return self.run([known[i] for i in range(len(inputs))])

            ys, pullback = jax.vjp(forward, *(inputs[i] for i in learned))
            return ys, pullback(dys)

        return both, [self.inputs, self.outputs]

    def moved(self, work: Work) -> int:
        """Returns the bytes of the arguments and results of its program, each once."""
        function, shapes = self.program(work)
        return _bytes((shapes, jax.eval_shape(function, *shapes)))


def split(
    model: nn.Module, input_shape: Sequence[int], batch_size: int, dtype: Any, work: Work
) -> list[Layer]:
    """Returns the layers of a model in order of execution, cut out of its trace.

    Args:
        model: the network.
        input_shape: ``(h, w, c)``.
        batch_size: the number of images.
        dtype: type of the images.
        work: "train" for the forward pass in training, with auxiliary heads.
    """
    images = jax.ShapeDtypeStruct((batch_size, *input_shape), dtype)
    variables, types = summary.abstract_variables(model, images)

    def forward(params: Any, statistics: Any, images: jax.Array) -> Any:
        return model.apply(
            {"params": params, **statistics},
            images,
            train=work == "train",
            endpoints=work == "train",  # auxiliary heads, which a training step uses
            mutable=list(statistics),
            rngs=random_streams(jax.random.key(0)),
        )

    params = variables.pop("params")
    jaxpr = jax.make_jaxpr(forward)(params, variables, images).jaxpr
    counts = [len(jax.tree.leaves(tree)) for tree in (params, variables, images)]
    kinds = (Origin(learned=True), Origin(), Origin(image=True))
    origins = [kind for kind, count in zip(kinds, counts, strict=True) for _ in range(count)]
    cut = _Cut(summary.Naming.of({"params": params, **variables}, types))
    cut.jaxpr(jaxpr, origins, ())
    return cut.layers


@dataclass
class _Cut:
    """One pass over a jaxpr that collects the operations of each layer."""

    naming: summary.Naming
    layers: list[Layer] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.parents = {summary.Key(path) for path in self.naming.parents}

    def jaxpr(
        self, jaxpr: core.Jaxpr, origins: Sequence[Origin], scope: summary.Path
    ) -> list[Origin]:
        """Returns what a jaxpr's outputs depend on, given what its inputs do."""
        known = dict(zip(jaxpr.invars, origins, strict=True))
        parts: dict[summary.Key, list[core.JaxprEqn]] = defaultdict(list)
        for eqn in jaxpr.eqns:
            inputs = [_of(atom, known) for atom in eqn.invars]
            origin = Origin(any(o.image for o in inputs), any(o.learned for o in inputs))
            known.update((variable, origin) for variable in eqn.outvars)
            stack = str(eqn.source_info.name_stack)
            inner = (*scope, *stack.split("/")) if stack else scope
            name = eqn.primitive.name
            body = summary.called(eqn)
            key = self.naming.key(inner, "")
            if body is not None and (key is None or key in self.parents):
                before = len(self.layers)
                within = (*inner, eqn.params.get("name", ""))
                known.update(zip(eqn.outvars, self.jaxpr(body, inputs, within), strict=True))
                if key is None or any(layer.name != key.name for layer in self.layers[before:]):
                    continue
                del self.layers[before:]  # all of it belongs to this layer
            if origin.image:
                key = self.naming.following(inner, name if name in PRODUCTS else "")
            if key:
                parts[key].append(eqn)
        for key, eqns in parts.items():
            self.finish(key, eqns, jaxpr, known)
        return [_of(atom, known) for atom in jaxpr.outvars]

    def finish(
        self,
        key: summary.Key,
        eqns: Sequence[core.JaxprEqn],
        jaxpr: core.Jaxpr,
        known: dict[core.Var, Origin],
    ) -> None:
        """Adds a layer: its inputs come from outside of it, its outputs are used there."""
        made: dict[Any, None] = {variable: None for eqn in eqns for variable in eqn.outvars}
        needed = {atom: None for eqn in eqns for atom in _variables(eqn.invars)}
        inside = set(map(id, eqns))
        others = [eqn.invars for eqn in jaxpr.eqns if id(eqn) not in inside]
        used = {atom for atoms in (*others, jaxpr.outvars) for atom in _variables(atoms)}
        inputs = [variable for variable in needed if variable not in made]
        outputs = [v for v in made if v in used and _is_real(v)]
        sources = [known.get(v, Origin()) for v in inputs]
        if not outputs or not any(source.image for source in sources):
            return
        part = jaxpr.replace(constvars=[], invars=inputs, outvars=outputs, eqns=list(eqns))
        run = core.jaxpr_as_fun(core.ClosedJaxpr(part, ()))
        arguments, results = (
            [jax.ShapeDtypeStruct(v.aval.shape, v.aval.dtype) for v in variables]
            for variables in (inputs, outputs)
        )
        origins = tuple(
            Origin(source.image, source.learned and _is_real(v))
            for v, source in zip(inputs, sources, strict=True)
        )
        layer = Layer(key.name, lambda arrays: run(*arrays), arguments, results, origins)
        self.layers.append(layer)


def _is_real(variable: Any) -> bool:
    """Says whether a variable holds numbers that have gradients."""
    return jnp.issubdtype(variable.aval.dtype, jnp.inexact)


def _variables(atoms: Sequence[Any]) -> list[Any]:
    return [atom for atom in atoms if not isinstance(atom, core.Literal)]


def _of(atom: Any, known: dict[core.Var, Origin]) -> Origin:
    return Origin() if isinstance(atom, core.Literal) else known.get(atom, Origin())


def paired(
    model: nn.Module, input_shape: Sequence[int], batch_size: int, dtype: Any, work: Work
) -> list[tuple[summary.Row, Layer]]:
    """Returns the rows of a model's summary, each with the layer that :func:`split` cuts out.

    Rows whose layers make something that is not used are left out.
    """
    layers: dict[Any, list[Layer]] = defaultdict(list)
    for layer in split(model, input_shape, batch_size, dtype, work):
        largest = max(layer.outputs, key=lambda output: output.size)
        layers[layer.name, largest.shape[1:]].append(layer)
    rows = summary.summarize(model, input_shape, train=work == "train").rows
    named = [(row, layers[row.layer, row.output_shape]) for row in rows]
    return [(row, known.pop(0)) for row, known in named if known]


def measure(
    name: str, work: Work, settings: Settings, roofs: Roofs, budget: Budget
) -> list[dict[str, Any]]:
    """Measures one kind of work of each layer of a model; returns rows with :data:`COLUMNS`.

    FLOPs are those of the layer's convolutions and products, two for each multiply-accumulate;
    bytes are those of the arguments and results of its program, each once. The utilisation is the
    least time that the roofline allows for both, divided by the time taken.

    Args:
        name: the model, whose images have their standard size.
        work: the kind of work.
        settings: type and batch; as long as a layer does not fit into memory, it is halved.
        roofs: the roofline.
        budget: layers that do not fit into it have rows without figures.
    """
    shape = models.standard_input(name)
    classes = models.standard_classes(name, shape)
    dtype = DTYPES[settings.dtype]
    model = models.create_model(name, num_classes=classes, dtype=dtype)

    def at(batch_size: int) -> list[dict[str, Any]]:
        seconds: dict[str, float] = {}
        found = []
        for row, layer in paired(model, shape, batch_size, dtype, work):
            about = {
                "model": name,
                "work": work,
                "layer": row.layer,
                "type": row.type,
                "output": sizes(row.output_shape or ()),
                "batch_size": batch_size,
            }
            flops = layer.passes(work) * 2 * row.macs * batch_size
            found.append(about | _timed(layer, work, flops, roofs, budget, seconds))
        return found

    return bench.with_halved_batch(at, settings.batch_size)


def _timed(
    layer: Layer, work: Work, flops: int, roofs: Roofs, budget: Budget, known: dict[str, float]
) -> dict[str, Any]:
    """Returns the figures of a layer, none if it does not fit into the budget.

    Args:
        layer: the layer.
        work: the kind of work.
        flops: what its products need.
        roofs: the roofline.
        budget: the time that may be spent.
        known: seconds of programs that were timed, by their text; this one is added.
    """
    kind = f"{work} of a layer"
    if not budget.fits(kind):
        return {}
    function, shapes = layer.program(work)
    lowered = jax.jit(function).lower(*shapes)
    text = lowered.as_text()
    moved = layer.moved(work)
    if text not in known:
        if moved > available():
            raise MemoryError
        with budget.spent_on(kind):
            compiled = lowered.compile()
            arrays = _draw(shapes)
            known[text] = best_seconds(lambda: compiled(*arrays))
    taken = known[text]
    figures = {
        "ms": 1e3 * taken,
        "flops_per_sec": flops / taken if flops else None,
        "bytes": moved,
        "bytes_per_sec": moved / taken,
        "utilisation": roofs.seconds(flops, moved) / taken,
    }
    return {key: bench.rounded(value) for key, value in figures.items()}


def _draw(shapes: Any) -> Any:
    """Draws numbers in [0.5, 1.5), which no layer turns into zeros, infinities or NaN."""
    key = jax.random.key(0)

    def draw(one: jax.ShapeDtypeStruct) -> jax.Array:
        if jnp.issubdtype(one.dtype, jnp.floating):
            return jax.random.uniform(key, one.shape, one.dtype, 0.5, 1.5)
        return jnp.zeros(one.shape, one.dtype)

    return jax.tree.map(draw, shapes)


def _bytes(shapes: Any) -> int:
    return sum(one.size * one.dtype.itemsize for one in jax.tree.leaves(shapes))


def run(
    names: Sequence[str],
    works: Sequence[Work],
    out: Path,
    settings: Settings,
    report: Callable[[Any], None],
    budget: Budget,
) -> list[str]:
    """Measures the layers of models and writes the CSV anew after each model and kind of work.

    Args:
        names: names of models; they are checked before anything runs.
        works: the kinds of work that are measured.
        out: the CSV file, which is overwritten.
        settings: how to measure.
        report: called with tables and lines, to be printed.
        budget: the time that may be spent.

    Returns:
        A line for each model that could not be measured, with the reason.

    Raises:
        InputError: a model is unknown, or the file cannot be written.
    """
    bench.check_names(names)
    out = files.destination(out, "--out", "model,")
    rows: list[dict[str, Any]] = []
    files.write_text(out, bench.as_csv(COLUMNS, rows))

    def piece(name: str, work: Work, roofs: Roofs, about: dict[str, Any]) -> list[str]:
        found = measure(name, work, settings, roofs, budget)
        measured = [row for row in found if "ms" in row]
        if not measured:
            return [f"{name} {work}"]
        report(render(measured))
        rows.extend(row | about for row in measured)
        files.write_text(out, bench.as_csv(COLUMNS, rows))
        return [f"{name} {work} {row['layer']}" for row in found if "ms" not in row]

    each: list[tuple[str, Sequence[Work]]] = [(name, [work]) for name in names for work in works]
    return bench.in_turn(each, piece, settings.dtype, report, budget)


def render(rows: Sequence[dict[str, Any]]) -> "Table":
    """Lays the layers of a model out as a table for a terminal."""
    from rich.table import Table

    first, total = rows[0], sum(row["ms"] for row in rows)
    table = Table(
        title=f"{first['model']} {first['work']}: each layer alone, batch {first['batch_size']}",
        show_footer=True,
    )
    table.add_column("layer", "total", overflow="fold")
    table.add_column("type")
    for header, footer in (
        *(("output", ""), ("ms", f"{total:.3f}"), ("share", ""), ("FLOP/s", "")),
        *(("bytes", si(sum(row["bytes"] for row in rows), "B")), ("bytes/s", "")),
        ("of the attainable", ""),
    ):
        table.add_column(header, footer, justify="right", no_wrap=True)
    for row in rows:
        table.add_row(
            *(row["layer"], row["type"], row["output"], f"{row['ms']:.3f}"),
            f"{row['ms'] / total:.1%}",
            si(row["flops_per_sec"]) if row["flops_per_sec"] else "",
            *(si(row["bytes"], "B"), si(row["bytes_per_sec"], "B"), f"{row['utilisation']:.0%}"),
        )
    return table
