"""``jaxcnn viz``: pictures of what trained networks have learned and of what they look at."""

import functools
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from jaxcnn.commands import arguments
from jaxcnn.commands.parsing import bring_from
from jaxcnn.errors import InputError
from jaxcnn.text import complain

if TYPE_CHECKING:
    import numpy as np

    from jaxcnn.runs.trained import Trained

SHOWN = 5
"""Images that Grad-CAM explains where none is given: the first of the test set."""


@dataclass(frozen=True)
class Command(arguments.Command):
    """Draws filters, feature maps, Grad-CAM, receptive fields and the classic kernels.

    The PNG files go into the folder viz of each run, from which `jaxcnn report` takes them.
    """

    runs: tuple[Path, ...] = field(metadata={"place": "RUN"})
    """At least one run folder, or folder that holds some."""
    image: tuple[Path, ...] = ()
    """The image files to look at, brought to the dataset's size as its own files are; by default
    the first test images."""
    endpoint: str | None = None
    """The endpoint whose feature maps and Grad-CAM are drawn; by default the last of those with
    the smallest maps."""
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


def _draw(workdir: Path, network: "Trained", command: Command) -> list[str]:
    """Draws everything for one run and returns the names of the files."""
    import jax
    import jax.numpy as jnp
    import numpy as np

    from jaxcnn import models
    from jaxcnn.analysis import gradcam, plots, summary, visualize
    from jaxcnn.data import augment
    from jaxcnn.data.images import as_pixels

    endpoint = command.endpoint
    pixels, truth = _looked_at(network, command.image, command.data_dir)
    truth = [plots.legible(name) for name in truth]
    apply: Any = functools.partial(models.with_endpoints, network.model, network.variables)
    shape = network.input_shape
    shapes = jax.eval_shape(apply, jax.ShapeDtypeStruct((1, *shape), jnp.float32))[1]
    spatial = [name for name, value in shapes.items() if getattr(value, "ndim", 0) == 4]
    if endpoint is not None and endpoint not in spatial:
        raise InputError(
            f"--endpoint {endpoint}: {network.experiment.model.name} has the feature maps "
            f"{', '.join(spatial) or 'none'}"
        )

    seen = network.prepare(jnp.asarray(pixels))
    outputs, ends = jax.jit(apply)(seen)
    folder = workdir / "viz"
    folder.mkdir(exist_ok=True)
    made = ["kernels.png"]
    visualize.save_classic_kernels(as_pixels(pixels)[0], folder / made[-1])
    layers = summary.summarize(network.model, shape)
    first = visualize.first_filters(network.variables["params"], layers)
    if first is not None:
        made.append("filters.png")
        visualize.save_filters(*first, folder / made[-1])
    shown = augment.fit(jnp.asarray(as_pixels(pixels), jnp.float32), network.experiment.data)
    seen_pixels = np.asarray(shown).astype(np.uint8)
    predicted = np.asarray(network.task.predictions(outputs))
    if predicted.shape == seen.shape[:3] and np.issubdtype(predicted.dtype, np.integer):
        made.append("label_maps.png")
        place = folder / made[-1]
        visualize.save_label_maps(seen_pixels, predicted, network.classes, truth, place)
    if not spatial:
        return made
    chosen = endpoint or visualize.deepest({name: ends[name] for name in spatial})
    part = chosen.replace("/", "_")
    made.append(f"features_{part}.png")
    title = f"{chosen} of {truth[0]}: {'x'.join(map(str, ends[chosen].shape[1:]))}"
    visualize.save_feature_maps(np.asarray(ends[chosen][0]), folder / made[-1], title)
    made.append(f"gradcam_{part}.png")

    def explained(images: jax.Array) -> Any:
        outputs, ends = apply(images)
        return network.task.evidence(outputs), ends

    heats = jax.jit(lambda images: gradcam.grad_cam(explained, images, chosen))(seen)
    most = network.task.evidence(outputs).argmax(axis=-1)
    classes = [plots.legible(network.named(int(i))) for i in most]
    as_ = "for" if network.task.answer == "value" else "seen as"
    captions = [f"{a}\n{as_} {b}" for a, b in zip(truth, classes, strict=True)]
    visualize.save_heat(
        seen_pixels, np.asarray(heats), captions, folder / made[-1], f"Grad-CAM at {chosen}"
    )
    made.append("receptive_field.png")
    theory = summary.endpoint_fields(network.model, shape)
    known = {
        name: (size[0], size[1]) for name in spatial if len(size := theory.get(name) or ()) == 2
    }
    key = jax.random.key(0)
    fields = {name: visualize.effective_field(apply, name, shape, key) for name in known}
    visualize.save_fields(fields, known, folder / made[-1])
    return made


def _looked_at(
    network: "Trained", files: Sequence[Path], data_dir: str | None
) -> "tuple[np.ndarray, list[str]]":
    """Returns the images, as they are stored, and what each is called: files or test images."""
    import jax
    import jax.numpy as jnp
    import numpy as np

    if files:
        return np.stack([network.read(file) for file in files]), [file.name for file in files]
    dataset = network.dataset(data_dir)
    examples = dataset.test.read(np.arange(min(SHOWN, len(dataset.test))))
    pixels = np.asarray(dataset.rendered(jax.tree.map(jnp.asarray, examples))["image"])
    labels = examples["label"]
    if labels.ndim == 1 and network.task.answer != "value":
        return pixels, [network.classes[label] for label in labels.astype(int)]
    return pixels, [f"test image {i}" for i in range(len(pixels))]
