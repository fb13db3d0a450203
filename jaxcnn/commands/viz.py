"""``jaxcnn viz``: pictures of what trained networks have learned and of what they look at."""

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from jaxcnn.commands import arguments
from jaxcnn.commands.parsing import bring_from
from jaxcnn.errors import InputError
from jaxcnn.text import complain

if TYPE_CHECKING:
    import jax
    import numpy as np

    from jaxcnn.runs.trained import Trained

SHOWN = 6
"""Images that Grad-CAM explains where none is given: the first of the test set."""
STAGES, FIELDS = 5, 6
"""Endpoints whose feature maps, and whose receptive fields, are drawn beside one another."""


@dataclass(frozen=True)
class Command(arguments.Command):
    """Draws filters, feature maps, Grad-CAM, receptive fields and the classic kernels.

    The PNG files, each with a caption, go into the folder viz of each run, from which `jaxcnn
    report` takes them. Their ground is transparent: they are read on light and on dark pages.
    """

    runs: tuple[Path, ...] = field(metadata={"place": "RUN"})
    """At least one run folder, or folder that holds some."""
    image: tuple[Path, ...] = ()
    """The image files to look at, brought to the dataset's size as its own files are; by default
    the first test images."""
    endpoint: str | None = None
    """The endpoint whose feature maps and Grad-CAM are drawn large; by default the last of those
    with the smallest maps."""
    source: tuple[Path, ...] = field(default=(), metadata=arguments.FROM)
    """A Python file with the network, or whatever else was brought to the run; may be given several
    times."""
    checkpoint: Literal["latest", "best"] = "latest"
    """The latest checkpoint, or the one with the best result on the validation set, or without
    one on the test set."""
    data_dir: str | None = None
    """The folder of the data, of prepared TFDS datasets or of image files; by default the same as
    in training."""


def run(command: Command) -> int:
    """Draws the pictures and returns the exit code."""
    bring_from(command.source)
    from jaxcnn.analysis import arms
    from jaxcnn.runs import trained

    failed = 0
    for path in arms.find(command.runs):
        try:
            network = trained.restore(path, command.checkpoint)
            made = _draw(path, network, command)
            print(f"{path / 'viz'}: {', '.join(made)}")
        except InputError as error:
            failed += 1
            complain(f"error: {error}")
    return 2 if failed else 0


@dataclass(frozen=True)
class _Seen:
    """What a network makes of the images that it is shown.

    Attributes:
        network: the network.
        apply: gives its outputs and endpoints.
        inputs: the images as the network takes them.
        pixels: the same ``(n, h, w, c)`` in uint8.
        names: what each image is called.
        known: whether that is its class.
        outputs: what the network returns.
        ends: its endpoints.
        spatial: the names of those that are feature maps ``(n, h, w, c)``.
        theory: the receptive fields of endpoints.
    """

    network: "Trained"
    apply: Any
    inputs: "jax.Array"
    pixels: "np.ndarray"
    names: Sequence[str]
    known: bool
    outputs: "jax.Array"
    ends: "Mapping[str, jax.Array]"
    spatial: Sequence[str]
    theory: Mapping[str, tuple[int, ...] | None]


def _draw(workdir: Path, network: "Trained", command: Command) -> list[str]:
    """Draws everything for one run and returns the names of the files."""
    import jax
    import jax.numpy as jnp
    import numpy as np

    from jaxcnn import models
    from jaxcnn.analysis import plots, summary, visualize
    from jaxcnn.data import augment
    from jaxcnn.data.images import as_pixels

    stored, names, known = _looked_at(network, command.image, command.data_dir)
    apply: Any = functools.partial(models.with_endpoints, network.model, network.variables)
    theory = summary.endpoint_fields(network.model, network.input_shape)
    spatial = _spatial(apply, network.input_shape, theory)
    if command.endpoint is not None and command.endpoint not in spatial:
        raise InputError(
            f"--endpoint {command.endpoint}: {network.experiment.model.name} has the feature maps "
            f"{', '.join(spatial) or 'none'}"
        )
    inputs = network.prepare(jnp.asarray(stored))
    fitted = augment.fit(jnp.asarray(as_pixels(stored), jnp.float32), network.experiment.data)
    pixels = np.asarray(fitted).astype(np.uint8)
    names = [plots.legible(name) for name in names]
    outputs, ends = jax.jit(apply)(inputs)
    seen = _Seen(
        network, apply, inputs, pixels, names, known, outputs, ends, spatial=spatial, theory=theory
    )

    folder = workdir / "viz"
    folder.mkdir(exist_ok=True)
    made: list[str] = []

    def file(name: str) -> Path:
        made.append(f"{name.replace('/', '_')}.png")
        return folder / made[-1]

    visualize.save_classic_kernels(as_pixels(stored)[0], file("kernels"))
    _draw_filters(seen, file)
    _draw_label_maps(seen, file)
    if spatial:
        chosen = command.endpoint or visualize.deepest({name: seen.ends[name] for name in spatial})
        _draw_maps(seen, chosen, file)
        _draw_heat(seen, chosen, file)
        _draw_fields(seen, file)
    return made


def _spatial(
    apply: Any, shape: Sequence[int], theory: Mapping[str, tuple[int, ...] | None]
) -> list[str]:
    """Returns the names of the feature maps ``(n, h, w, c)``, by how much one of their units sees.

    Args:
        apply: gives outputs and endpoints.
        shape: ``(h, w, c)`` of an image.
        theory: receptive fields, as far as they are known.
    """
    import jax
    import jax.numpy as jnp

    from jaxcnn.data.image_folder import natural

    ends = jax.eval_shape(apply, jax.ShapeDtypeStruct((1, *shape), jnp.float32))[1]
    found = [name for name, value in ends.items() if getattr(value, "ndim", 0) == 4]
    return sorted(found, key=lambda n: (math.prod(theory.get(n) or (math.inf,)), natural(n)))


def _draw_filters(seen: _Seen, file: Callable[[str], Path]) -> None:
    from jaxcnn.analysis import summary, visualize

    layers = summary.summarize(seen.network.model, seen.network.input_shape)
    first = visualize.first_filters(seen.network.variables["params"], layers)
    if first is not None:
        visualize.save_filters(*first, file("filters"))


def _draw_label_maps(seen: _Seen, file: Callable[[str], Path]) -> None:
    import numpy as np

    from jaxcnn.analysis import visualize

    maps = np.asarray(seen.network.task.predictions(seen.outputs))
    if maps.shape == seen.inputs.shape[:3] and np.issubdtype(maps.dtype, np.integer):
        classes = seen.network.classes
        visualize.save_label_maps(seen.pixels, maps, classes, seen.names, file("label_maps"))


def _draw_maps(seen: _Seen, chosen: str, file: Callable[[str], Path]) -> None:
    """Draws feature maps of the first image: some of several endpoints, and those of one."""
    import numpy as np

    from jaxcnn.analysis import visualize

    def maps(names: Sequence[str]) -> "dict[str, np.ndarray]":
        return {name: np.asarray(seen.ends[name][0]) for name in names}

    image, name = seen.pixels[0], seen.names[0]
    of = f"an image of class {name}" if seen.known else name
    title = f"From the image to the last feature maps: {of}"
    several = maps(visualize.spread(seen.spatial, STAGES))
    visualize.save_feature_maps(image, several, file("stages"), title, each=6)
    title = f"Feature maps at {chosen}: {of}"
    visualize.save_feature_maps(image, maps([chosen]), file(f"features_{chosen}"), title)


def _draw_heat(seen: _Seen, chosen: str, file: Callable[[str], Path]) -> None:
    import jax
    import numpy as np

    from jaxcnn.analysis import gradcam, visualize

    def explained(images: jax.Array) -> Any:
        outputs, ends = seen.apply(images)
        return seen.network.task.evidence(outputs), ends

    heats = jax.jit(lambda images: gradcam.grad_cam(explained, images, chosen))(seen.inputs)
    labels = [
        f"{f'true class: {name}' if seen.known else name}\n{answer}"
        for name, answer in zip(seen.names, _answers(seen.network, seen.outputs), strict=True)
    ]
    place = file(f"gradcam_{chosen}")
    visualize.save_heat(seen.pixels, np.asarray(heats), labels, place, chosen)


def _draw_fields(seen: _Seen, file: Callable[[str], Path]) -> None:
    """Draws the receptive fields of some endpoints, as far as they have any."""
    import jax

    from jaxcnn.analysis import visualize

    shape, key = seen.network.input_shape, jax.random.key(0)
    known = {
        n: (size[0], size[1]) for n in seen.spatial if len(size := seen.theory.get(n) or ()) == 2
    }
    fields = {
        name: visualize.effective_field(seen.apply, name, shape, key)
        for name in visualize.spread([*known], FIELDS)
    }
    if fields:
        visualize.save_fields(fields, known, file("receptive_field"))


def _answers(network: "Trained", outputs: "jax.Array") -> list[str]:
    """Returns for each image what Grad-CAM explains: the class with its probability, say."""
    import numpy as np

    from jaxcnn.analysis import plots

    most = np.asarray(network.task.evidence(outputs).argmax(axis=-1))
    numbers = np.asarray(network.task.answers(outputs))
    found = []
    for i, row in zip(most, numbers, strict=True):
        name = plots.legible(network.named(int(i)))
        number = row[i] if i < len(row) else math.nan
        if network.task.answer == "value":
            found.append(f"{name}: {number:.4g}" if math.isfinite(number) else f"for {name}")
        else:
            found.append(f"seen as {name}, {100 * number:.1f} %")
    return found


def _looked_at(
    network: "Trained", files: Sequence[Path], data_dir: str | None
) -> "tuple[np.ndarray, list[str], bool]":
    """Returns the images, as they are stored, what each is called, and if that is its class."""
    import jax
    import jax.numpy as jnp
    import numpy as np

    if files:
        return (
            np.stack([network.read(file) for file in files]),
            [file.name for file in files],
            False,
        )
    dataset = network.dataset(data_dir)
    examples = dataset.test.read(np.arange(min(SHOWN, len(dataset.test))))
    pixels = np.asarray(dataset.rendered(jax.tree.map(jnp.asarray, examples))["image"])
    labels = examples["label"]
    if labels.ndim == 1 and network.task.answer != "value":
        return pixels, [network.classes[label] for label in labels.astype(int)], True
    return pixels, [f"test image {i}" for i in range(len(pixels))], False
