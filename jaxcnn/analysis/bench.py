"""Measures how fast networks run and train here, in the columns of timm's benchmark results.

Nothing is read from a data sheet: the roofline comes from a large matrix product and a large copy
that run on the device first.
"""

import contextlib
import csv
import io
import math
import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxcnn import models
from jaxcnn.analysis import energy, summary
from jaxcnn.analysis.budget import Budget
from jaxcnn.analysis.roofline import DTYPES, Dtype, Roofs, measure_roofs
from jaxcnn.errors import as_input_error
from jaxcnn.learning import files
from jaxcnn.learning.state import state_from
from jaxcnn.learning.step import make_train_step, planned_bytes
from jaxcnn.memory import available
from jaxcnn.tasks import Classification, Segmentation

T = TypeVar("T")
Work = Literal["infer", "train"]
TIMM = {
    "infer": ("samples_per_sec", "step_time", "batch_size", "img_size", "gmacs", "macts"),
    "train": ("samples_per_sec", "step_time", "batch_size", "img_size"),
}
"""timm's columns of each kind of work; the kind stands in front of them, with an underscore."""
MEASURED = (
    *("compile_time", "peak_memory", "memory_source", "flops_per_sec", "utilisation"),
    "joules_per_1000",
)
"""Columns that timm does not have; the kind of work stands in front of them too."""
DEVICE = ("dtype", "device", "device_flops_per_sec", "device_bytes_per_sec")
"""Columns that stand once in a row."""


@dataclass(frozen=True)
class Settings:
    """How networks are measured.

    Attributes:
        dtype: type of the arithmetic and of the images; parameters stay float32.
        batch_size: images in a step; halved as long as they do not fit into memory.
        warm_up: steps before the clock starts.
        iterations: steps that are timed, each waited for, as in timm.
    """

    dtype: Dtype
    batch_size: int
    warm_up: int
    iterations: int


DEFAULTS = {"cpu": Settings("fp32", 4, 1, 5)}
"""Settings by platform, where the usual ones would take too long."""


def default_settings() -> Settings:
    """Returns small settings on a CPU, and timm's batch and numbers of steps elsewhere."""
    return DEFAULTS.get(jax.default_backend(), Settings("bf16", 256, 10, 40))


def with_halved_batch(measure: Callable[[int], T], batch_size: int) -> T:
    """Calls ``measure(batch_size)``, with half of it each time that memory runs out.

    Raises:
        MemoryError: not even a single image fits.

    >>> def fits_four(batch_size):
    ...     if batch_size > 4:
    ...         raise MemoryError
    ...     return batch_size
    >>> with_halved_batch(fits_four, 32)
    4
    """
    while batch_size >= 1:
        # The failed attempt's arrays live as long as its error: the next one is made outside.
        with contextlib.suppress(MemoryError):
            try:
                return measure(batch_size)
            except jax.errors.JaxRuntimeError as error:
                if "RESOURCE_EXHAUSTED" not in str(error):
                    raise
        batch_size //= 2
    raise MemoryError("out of memory, even with a batch of one image")


@dataclass
class CompiledStep:
    """A compiled step and its state; calling it runs one step.

    Attributes:
        compiled: the step, compiled.
        variables: the variables that the step takes and, in training, gives back.
        batch: images, and in training labels.
        work: the kind of step.
        compile_seconds: time taken to trace and to compile.
    """

    compiled: Any
    variables: Any
    batch: Any
    work: Work
    compile_seconds: float

    def __call__(self) -> Any:
        """Runs one step; who waits for the result waits for the whole step."""
        result = self.compiled(self.variables, self.batch)
        if self.work == "train":
            self.variables = result
        return result


def compile_step(
    model: nn.Module, work: Work, images: np.ndarray, labels: np.ndarray, dtype: Dtype
) -> CompiledStep:
    """Compiles inference, or the training step that `jaxcnn train` makes, with SGD and momentum.

    Args:
        model: the network.
        work: the kind of step.
        images: ``(n, h, w, c)``.
        labels: ``(n,)``, or ``(n, h, w)``.
        dtype: type of the images on the device.
    """
    variables = random_variables(model, images.shape[1:])
    pixels = jnp.asarray(images, DTYPES[dtype])
    start = time.perf_counter()
    if work == "infer":
        infer = jax.jit(lambda variables, images: model.apply(variables, images, train=False))
        compiled = infer.lower(variables, pixels).compile()
        return CompiledStep(compiled, variables, pixels, work, time.perf_counter() - start)
    tx = optax.sgd(1e-4, momentum=0.9)
    task = Segmentation() if labels.ndim > 1 else Classification()
    state = state_from(variables, tx, jnp.int32(0), task=task)
    batch = {"image": pixels, "label": jnp.asarray(labels, jnp.int32)}
    start = time.perf_counter()
    step = make_train_step(model, tx, task=task)
    compiled = jax.jit(step, donate_argnums=0).lower(state, batch).compile()
    return CompiledStep(compiled, state, batch, work, time.perf_counter() - start)


def random_variables(model: nn.Module, image_shape: Sequence[int]) -> Any:
    """Draws parameters and statistics of the usual size, without compiling the initialisers."""
    image = jax.ShapeDtypeStruct((1, *image_shape), jnp.float32)
    shapes = jax.eval_shape(lambda image: model.init(jax.random.key(0), image, train=False), image)
    rng = np.random.default_rng(0)

    def draw(path: Any, leaf: Any) -> jax.Array:
        if len(leaf.shape) < 2:
            return jnp.full(leaf.shape, path[-1].key in {"scale", "var"}, leaf.dtype)
        fan_in = np.prod(leaf.shape[:-1])
        return jnp.asarray(rng.standard_normal(leaf.shape, np.float32) / np.sqrt(fan_in))

    return dict(jax.tree_util.tree_map_with_path(draw, shapes))


def random_batch(
    batch_size: int, shape: Sequence[int], classes: int, *, per_pixel: bool = False
) -> Any:
    """Draws images and labels, one for each image or, if ``per_pixel``, for each of its pixels.

    They are the same for every framework.
    """
    rng = np.random.default_rng(0)
    images = rng.standard_normal((batch_size, *shape), np.float32)
    return images, rng.integers(0, classes, images.shape[:3] if per_pixel else batch_size)


def step_seconds(step: Callable[[], Any], warm_up: int, iterations: int) -> list[float]:
    """Times each step after the warm-up, in seconds; every step is waited for."""
    for _ in range(warm_up):
        jax.block_until_ready(step())
    seconds = []
    for _ in range(iterations):
        start = time.perf_counter()
        jax.block_until_ready(step())
        seconds.append(time.perf_counter() - start)
    return seconds


def needed_bytes(cost: summary.Summary, batch_size: int, dtype: Any) -> int:
    """Returns the bytes that one pass over a batch must move, however it is computed.

    Each is counted once: parameters, which are float32, and in the type of the arithmetic the
    images and the outputs of convolutions and dense layers. What lies between these can be computed
    on the way.

    >>> lenet5 = summary.model_stats("lenet5")
    >>> needed_bytes(lenet5, 2, jnp.float32) == 4 * (61_706 + 2 * (32 * 32 + 6518))
    True
    """
    numbers = math.prod(cost.input_shape) + cost.activations
    return 4 * cost.parameters + jnp.dtype(dtype).itemsize * batch_size * numbers


def measure(name: str, work: Work, settings: Settings, roofs: Roofs) -> dict[str, Any]:
    """Measures one kind of work of one model and returns its :func:`columns` by name.

    The utilisation is the speed as a share of the roofline, for the work that the network needs
    whatever the program really does: two FLOPs for each multiply-accumulate, and bytes as
    :func:`needed_bytes` counts them, both three times in training. It exceeds 100 % only where the
    device is faster than the matrix product and the copy that made the roofline: a small network
    lives in the caches, and Winograd's convolutions multiply less often.

    Raises:
        MemoryError: a single image does not fit.
    """
    shape = models.standard_input(name)
    classes = models.standard_classes(name, shape)
    model = models.create_model(name, num_classes=classes, dtype=DTYPES[settings.dtype])
    cost = summary.summarize(model, shape, train=work == "train")

    def at(batch_size: int) -> dict[str, Any]:
        if 2 * 4 * batch_size * math.prod(shape) > available():  # drawn, and held by the step
            raise MemoryError
        before = _peak_bytes()
        images, labels = random_batch(
            batch_size, shape, classes, per_pixel=name in models.PER_PIXEL
        )
        step = compile_step(model, work, images, labels, settings.dtype)
        if before is None and (planned_bytes(step.compiled) or 0) > available():
            raise MemoryError  # a CPU would take it, and the system end the process
        seconds = step_seconds(step, settings.warm_up, settings.iterations)
        passes = 3 if work == "train" else 1
        flops = passes * 2 * cost.macs * batch_size
        peak = _peak_bytes()
        # The device remembers the peak of the whole process: another program may have set it.
        seen = before is not None and peak is not None and peak > before
        found = {
            "samples_per_sec": batch_size / statistics.mean(seconds),
            "step_time": 1e3 * statistics.mean(seconds),
            "batch_size": batch_size,
            "img_size": shape[0],
            "gmacs": cost.macs / 1e9,
            "macts": cost.activations / 1e6,
            "compile_time": step.compile_seconds,
            "peak_memory": peak if seen else planned_bytes(step.compiled),
            "memory_source": "device" if seen else "xla_plan",
            "flops_per_sec": flops / statistics.mean(seconds),
        }
        moved = passes * needed_bytes(cost, batch_size, DTYPES[settings.dtype])
        found["utilisation"] = roofs.seconds(flops, moved) / statistics.mean(seconds)
        found["joules_per_1000"] = energy.joules_per_1000(step, batch_size)
        return found

    found = with_halved_batch(at, settings.batch_size)
    kept = (*TIMM[work], *MEASURED)
    row = {f"{work}_{key}": rounded(found[key]) for key in kept}
    return {"model": name, **row, "param_count": rounded(cost.parameters / 1e6)}


def rounded(value: Any) -> Any:
    """Rounds to five significant digits; counts and words stay as they are."""
    return float(f"{value:.5g}") if isinstance(value, float) else value


def _peak_bytes() -> int | None:
    """Returns the most bytes that were ever in use on the device; None if it does not count."""
    stats = jax.devices()[0].memory_stats()
    return None if stats is None else stats.get("peak_bytes_in_use")


def columns(works: Sequence[Work]) -> list[str]:
    """Returns the columns: those of timm's results in their order, then our own.

    >>> columns(["infer"])[:4]
    ['model', 'infer_samples_per_sec', 'infer_step_time', 'infer_batch_size']
    """
    theirs = [f"{work}_{name}" for work in works for name in TIMM[work]]
    own = [f"{work}_{name}" for work in works for name in MEASURED]
    return ["model", *theirs, "param_count", *own, *DEVICE]


def run(
    names: Sequence[str],
    works: Sequence[Work],
    out: Path,
    settings: Settings,
    report: Callable[[str], None] = print,
    budget: Budget | None = None,
) -> list[str]:
    """Measures models one after the other and writes the CSV anew after each measurement.

    Args:
        names: names of models; they are checked before anything runs.
        works: the kinds of work that are measured.
        out: the CSV file, which is overwritten.
        settings: how to measure.
        report: called with a line for each measurement, and with one that names what is left out.
        budget: the time that may be spent; without one, all that it takes.

    Returns:
        A line for each model that could not be measured, with the reason.

    Raises:
        InputError: a model is unknown, or the file cannot be written.
    """
    check_names(names)
    budget = budget or Budget()
    out = files.destination(out, "--out", "model,")
    rows: dict[str, dict[str, Any]] = {}
    files.write_text(out, as_csv(columns(works), ()))

    def piece(name: str, work: Work, roofs: Roofs, about: dict[str, Any]) -> list[str]:
        with budget.spent_on(work):
            found = measure(name, work, settings, roofs)
        report(_line(found, work))
        rows[name] = {**rows.get(name, about), **found}
        files.write_text(out, as_csv(columns(works), rows.values()))
        return []

    return in_turn([(name, works) for name in names], piece, settings.dtype, report, budget)


Piece = Callable[[str, Work, Roofs, dict[str, Any]], Sequence[str]]
"""Measures a kind of work of a model, given the roofline and the cells of :data:`DEVICE`; returns
the names of what it left out."""


def in_turn(
    entries: Iterable[tuple[str, Sequence[Work]]],
    piece: Piece,
    dtype: Dtype,
    report: Callable[[str], None],
    budget: Budget,
) -> list[str]:
    """Measures models one after the other, as far as a budget reaches.

    Args:
        entries: the models, with their kinds of work; one that fails ends its entry.
        piece: measures one of them.
        dtype: the type that the roofline is measured with.
        report: called with a line on the device, and with one that names what is left out.
        budget: the time that may be spent.

    Returns:
        A line for each entry that could not be measured, with the reason.
    """
    problems: list[str] = []
    left_out: list[str] = []
    with _compiling_anew():
        roofs, about = _describe_device(dtype, report)
        for name, works in entries:
            for work in works:
                if not budget.fits(work):
                    left_out.append(f"{name} {work}")
                    continue
                try:
                    left_out += piece(name, work, roofs, about)
                except (MemoryError, jax.errors.JaxRuntimeError) as error:
                    first_line = str(error).partition("\n")[0]
                    problems.append(f"{name}: {first_line} ({work})")
                    break
    if left_out:
        report(budget.left_out(left_out))
    return problems


def check_names(names: Sequence[str]) -> None:
    """Checks that there are such models.

    Raises:
        InputError: a model is unknown.
    """
    for name in names:
        with as_input_error():
            models.standard_input(name)


def _describe_device(dtype: Dtype, report: Callable[[str], None]) -> tuple[Roofs, dict[str, Any]]:
    """Measures the roofline and reports it; returns it and the cells of :data:`DEVICE`."""
    kind, roofs = jax.devices()[0].device_kind, measure_roofs(dtype)
    report(
        f"{kind}, {dtype}: {roofs.flops_per_sec:.3g} FLOP/s in a matrix product, "
        f"{roofs.bytes_per_sec:.3g} bytes/s in a copy"
    )
    cells = (dtype, kind, *map(rounded, roofs))
    return roofs, dict(zip(DEVICE, cells, strict=True))


def as_csv(header: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> str:
    """Returns a CSV file's text; what a row does not have is an empty cell."""
    written = io.StringIO()
    table = csv.DictWriter(written, header)
    table.writeheader()
    table.writerows(rows)
    return written.getvalue()


def _line(row: dict[str, Any], work: Work) -> str:
    of = {key.removeprefix(f"{work}_"): value for key, value in row.items()}
    share = of.get("utilisation")
    beyond = ", more than the product and copy that made it" if (share or 0) > 1 else ""
    return (
        f"{row['model']} {work}: {of['samples_per_sec']:,.1f} images/s, "
        f"{of['step_time']:.2f} ms a step of {of['batch_size']}, "
        f"compiled in {of['compile_time']:.1f} s, {of['flops_per_sec']:.3g} FLOP/s"
        + ("" if share is None else f", {share:.0%} of the roofline{beyond}")
    )


@contextlib.contextmanager
def _compiling_anew() -> Iterator[None]:
    """Turns off the cache on disk, from which a program would come in no time."""
    before = jax.config.values["jax_enable_compilation_cache"]
    jax.config.update("jax_enable_compilation_cache", False)
    try:
        yield
    finally:
        jax.config.update("jax_enable_compilation_cache", before)
