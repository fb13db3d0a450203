"""``jaxcnn viz``: pictures of what trained networks have learned and of what they look at."""

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from jaxcnn.commands.parsing import parse
from jaxcnn.errors import InputError

if TYPE_CHECKING:
    import jax

    from jaxcnn.runs.trained import Trained

SHOWN = 5
"""Images that Grad-CAM explains where none is given: the first of the test set."""


def main(args: Sequence[str]) -> int:
    """Runs the command and returns the exit code."""
    import tyro

    def parsed(
        runs: tyro.conf.Positional[tuple[Path, ...]],
        image: tuple[Path, ...] = (),
        endpoint: str | None = None,
        checkpoint: Literal["latest", "best"] = "latest",
    ) -> tuple[tuple[Path, ...], tuple[Path, ...], str | None, str]:
        """Draw filters, feature maps, Grad-CAM, receptive fields and the classic kernels.

        The PNG files go to the folder viz of each run, from where `jaxcnn report` takes them.

        Args:
            runs: run folders, or folders that hold some.
            image: files to look at, resized to the dataset's size; by default test images.
            endpoint: whose feature maps and Grad-CAM are drawn; by default the last of those
                with the smallest maps.
            checkpoint: the last one, or the one with the best test accuracy.
        """
        return runs, image, endpoint, checkpoint

    paths, images, endpoint, checkpoint = parse(parsed, args, "viz")
    if not paths:
        raise InputError("viz: give at least one run folder")

    from jaxcnn.analysis import arms as runs
    from jaxcnn.runs import trained

    failed = 0
    for path in runs.find(paths):
        try:
            made = _draw(path, trained.restore(path, checkpoint), images, endpoint)
            print(f"{path / 'viz'}: {', '.join(made)}")
        except InputError as error:
            failed += 1
            print(f"jaxcnn: error: {error}", file=sys.stderr)
    return 2 if failed else 0


def _draw(
    workdir: Path, network: "Trained", image_files: Sequence[Path], endpoint: str | None
) -> list[str]:
    """Draws everything for one run; the names of the files."""
    import jax
    import jax.numpy as jnp
    import numpy as np

    from jaxcnn.analysis import gradcam, summary, visualize
    from jaxcnn.data import augment

    if image_files:
        pixels = np.stack([network.read(file) for file in image_files])
        truth = [file.name for file in image_files]
    else:
        dataset = network.dataset()
        examples = dataset.test.read(np.arange(min(SHOWN, len(dataset.test))))
        pixels = np.asarray(dataset.rendered(jnp.asarray(examples["image"])))
        truth = [network.classes[label] for label in examples["label"]]
    apply = applied(network)
    shape = network.input_shape
    shapes = jax.eval_shape(apply, jax.ShapeDtypeStruct((1, *shape), jnp.float32))[1]
    spatial = [name for name, value in shapes.items() if value.ndim == 4]
    if endpoint is not None and endpoint not in spatial:
        raise InputError(
            f"--endpoint {endpoint}: {network.experiment.model.name} has the feature maps "
            f"{', '.join(spatial) or 'none'}"
        )

    seen = network.prepare(jnp.asarray(pixels))
    logits, ends = jax.jit(apply)(seen)
    folder = workdir / "viz"
    folder.mkdir(exist_ok=True)
    made = ["kernels.png"]
    visualize.save_classic_kernels(pixels[0], folder / made[-1])
    layers = summary.summarize(network.model, shape)
    first = visualize.first_filters(network.variables["params"], layers)
    if first is not None:
        made.append("filters.png")
        visualize.save_filters(*first, folder / made[-1])
    if not spatial:
        return made
    chosen = endpoint or visualize.deepest({name: ends[name] for name in spatial})
    made.append(f"features_{chosen}.png")
    title = f"{chosen} of {truth[0]}: {'x'.join(map(str, ends[chosen].shape[1:]))}"
    visualize.save_feature_maps(np.asarray(ends[chosen][0]), folder / made[-1], title)
    made.append(f"gradcam_{chosen}.png")
    heats = jax.jit(lambda images: gradcam.grad_cam(apply, images, chosen))(seen)
    classes = [network.classes[int(i)] for i in logits.argmax(axis=-1)]
    captions = [f"{a}\nseen as {b}" for a, b in zip(truth, classes, strict=True)]
    shown = np.asarray(augment.fit(jnp.asarray(pixels, jnp.float32), network.experiment.data))
    visualize.save_heat(
        shown.astype(np.uint8),
        np.asarray(heats),
        captions,
        folder / made[-1],
        f"Grad-CAM at {chosen}",
    )
    made.append("receptive_field.png")
    theory = summary.endpoint_fields(network.model, shape)
    fields = {
        name: visualize.effective_field(apply, name, shape, jax.random.key(0)) for name in spatial
    }
    known = {name: size for name, size in theory.items() if size is not None and len(size) == 2}
    visualize.save_fields(
        {name: field for name, field in fields.items() if name in known},
        {name: (size[0], size[1]) for name, size in known.items()},
        folder / made[-1],
    )
    return made


def applied(network: "Trained") -> "Callable[[jax.Array], tuple[jax.Array, dict[str, Any]]]":
    """Prepared images to logits and endpoints, with the trained parameters."""
    variables = network.variables

    def apply(images: "jax.Array") -> Any:
        return network.model.apply(variables, images, train=False, endpoints=True)

    return apply
