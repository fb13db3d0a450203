"""Arrays that show what a network has learned and what it sees, and pictures of them."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict

from jaxcnn.analysis.formats import sizes
from jaxcnn.analysis.gradcam import Apply
from jaxcnn.analysis.plots import canvas, legible
from jaxcnn.analysis.summary import Summary
from jaxcnn.data.image_folder import natural
from jaxcnn.ops import filters

MOST_TILES = 64
"""Filters or feature maps in one picture."""


def first_filters(params: Any, layers: Summary) -> tuple[str, np.ndarray] | None:
    """Returns name and kernels ``(kh, kw, in, out)`` of the convolution that sees the image.

    Args:
        params: parameters of the network.
        layers: its layers, in order of execution.

    Returns:
        None for a network without convolutions.
    """
    kernels = {
        "/".join(module): leaf
        for (*module, name), leaf in flatten_dict(params).items()
        if name == "kernel" and leaf.ndim == 4
    }
    name = next((row.layer for row in layers.rows if row.layer in kernels), None)
    return None if name is None else (name, np.asarray(kernels[name]))


def deepest(maps: Mapping[str, Any]) -> str:
    """Returns the name of the smallest feature maps ``(n, h, w, c)``, the last of equal ones.

    >>> maps = {name: np.zeros((1, 7, 7, 8)) for name in ("stage9", "stage10")}
    >>> deepest(maps | {"stage1": np.zeros((1, 14, 14, 1))})
    'stage10'
    """
    return max(maps, key=lambda name: (-math.prod(maps[name].shape[1:3]), natural(name)))


def effective_field(
    apply: Apply, endpoint: str, image_shape: Sequence[int], key: jax.Array, samples: int = 16
) -> np.ndarray:
    r"""Returns how much every input pixel moves the centre unit of an endpoint.

    $$E_{ij} = \frac{1}{n} \sum_{x \sim N(0, 1)} \sum_c
    \Big| \frac{\partial}{\partial x_{ijc}} \sum_k A_{h/2,\,w/2,\,k}(x) \Big|$$

    Args:
        apply: the model with fixed batch statistics.
        endpoint: name of feature maps ``(n, h', w', k)``.
        image_shape: ``(h, w, c)``, as the network sees it.
        key: key of the random images.
        samples: number of random images that are averaged over.

    Returns:
        ``(h, w)``, summing to 1 (all zeros where nothing moves the unit).

    Raises:
        ValueError: the model has no such endpoint, or the endpoint has no spatial axes.

    Luo et al., "Understanding the Effective Receptive Field in Deep Convolutional Neural
    Networks", 2016.
    """
    images = jax.random.normal(key, (samples, *image_shape))
    ends = jax.eval_shape(apply, images)[1]
    if endpoint not in ends:
        raise ValueError(f"endpoint={endpoint!r} must be one of {', '.join(sorted(ends))}")
    shape = ends[endpoint].shape
    if len(shape) != 4:
        raise ValueError(f"endpoint={endpoint!r} has the shape {shape}; must be (n, h, w, c)")

    def centre(images: jax.Array) -> jax.Array:
        return apply(images)[1][endpoint][:, shape[1] // 2, shape[2] // 2].sum()

    gradient = jnp.abs(jax.jit(jax.grad(centre))(images)).sum(axis=(0, -1))
    total = gradient.sum()
    return np.asarray(gradient / jnp.where(total > 0, total, 1))


def extent(field: np.ndarray, share: float = 1.0) -> tuple[int, int]:
    """Returns height and width of the part of a field that holds a share of its sum.

    With ``share=1`` that is the smallest box around everything but zeros; with less, rows and
    columns are each cut at both ends by half of what may be lost.

    >>> extent(np.array([[0.0, 0.0, 0.0], [0.0, 0.5, 0.5], [0.0, 0.0, 0.0]]))
    (1, 2)
    """
    sizes = []
    for axis in (1, 0):
        along = field.sum(axis=axis)
        if along.sum() == 0:
            sizes.append(0)
            continue
        before = np.cumsum(along) / along.sum()
        after = np.cumsum(along[::-1])[::-1] / along.sum()
        cut = (1 - share) / 2
        inside = np.flatnonzero((before > cut) & (after > cut) & (along > 0))
        sizes.append(int(inside[-1] - inside[0] + 1))
    return sizes[0], sizes[1]


# ------------------------------------------------------------------------------- pictures


def save_filters(name: str, kernels: np.ndarray, path: Path) -> None:
    """Draws the kernels of a first layer: in colour for three channels, else channel by channel."""
    if kernels.shape[2] == 3:
        tiles = [kernels[..., i] for i in range(kernels.shape[3])]
        largest = np.abs(kernels).max() or 1.0
        tiles = [0.5 + 0.5 * tile / largest for tile in tiles]
    else:
        tiles = [
            kernels[..., c, i] for i in range(kernels.shape[3]) for c in range(kernels.shape[2])
        ]
    text = f"{name}: {sizes(kernels.shape[:2])} kernels"
    _save_tiles(tiles, path, text, signed=True)


def save_feature_maps(maps: np.ndarray, path: Path, title: str) -> None:
    """Draws the channels of one image's feature maps ``(h, w, c)``, the strongest first."""
    order = np.argsort(maps.mean(axis=(0, 1)))[::-1]
    _save_tiles([maps[..., i] for i in order], path, title)


def save_heat(
    images: np.ndarray, heats: np.ndarray, captions: Sequence[str], path: Path, title: str
) -> None:
    """Draws images ``(n, h, w, c)`` in uint8 above the same with a heat map laid over them."""
    n = len(images)
    with canvas(max(1.6 * n, 4), 4.2, path) as figure:
        figure.suptitle(title)
        rows = figure.subplots(2, n, squeeze=False)
        for column, (image, heat, caption) in enumerate(zip(images, heats, captions, strict=True)):
            for row in rows[:, column]:
                row.imshow(image, cmap="gray" if image.shape[-1] == 1 else None, vmin=0, vmax=255)
                row.set_axis_off()
            rows[1][column].imshow(heat, cmap="inferno", alpha=0.65, vmin=0, vmax=1)
            rows[0][column].set_title(caption, fontsize=10)


def save_label_maps(
    images: np.ndarray, maps: np.ndarray, names: Sequence[str], captions: Sequence[str], path: Path
) -> None:
    """Draws images ``(n, h, w, c)`` in uint8 above what each of their pixels was taken for.

    Args:
        images: the images, as the network sees them.
        maps: ``(n, h, w)``, the class of each pixel.
        names: the names of the classes.
        captions: what stands above each image.
        path: PNG file.
    """
    from matplotlib import colormaps
    from matplotlib.patches import Patch

    n, shown = len(images), np.unique(maps)
    colours = {int(c): colormaps["tab20"](i % 20) for i, c in enumerate(shown)}
    with canvas(max(1.6 * n, 4), 4.6, path) as figure:
        figure.suptitle("What each pixel is taken for")
        rows = figure.subplots(2, n, squeeze=False)
        for column, (image, labels, caption) in enumerate(zip(images, maps, captions, strict=True)):
            grey = image.shape[-1] == 1
            rows[0][column].imshow(image, cmap="gray" if grey else None, vmin=0, vmax=255)
            rows[0][column].set_title(caption, fontsize=10)
            painted = np.array([colours[int(c)] for c in labels.ravel()])
            rows[1][column].imshow(painted.reshape(*labels.shape, 4), interpolation="nearest")
            for row in rows[:, column]:
                row.set_axis_off()
        patches = [Patch(color=colours[int(c)], label=legible(names[int(c)])) for c in shown[:12]]
        figure.legend(handles=patches, loc="outside lower center", ncols=min(len(patches), 4))


def save_fields(
    fields: Mapping[str, np.ndarray], theory: Mapping[str, tuple[int, int]], path: Path
) -> None:
    """Draws effective receptive fields, each in the box of the theoretical one.

    A field of zeros, of a unit that nothing moves, has no box.
    """
    from matplotlib.patches import Rectangle

    with canvas(max(3.2 * len(fields), 4), 3.9, path) as figure:
        figure.suptitle("Effective receptive field of the centre unit; box: theoretical")
        axes = figure.subplots(1, len(fields), squeeze=False)[0]
        for place, (name, field) in zip(axes, fields.items(), strict=True):
            place.imshow(np.sqrt(field), cmap="magma")
            height, width = theory[name]
            rows, columns = np.nonzero(field)
            if rows.size:
                # Drawn about the middle of what the unit sees, which borders may have cut.
                centre = ((columns.min() + columns.max()) / 2, (rows.min() + rows.max()) / 2)
                corner = (centre[0] - width / 2, centre[1] - height / 2)
                box = Rectangle(corner, width, height, fill=False, edgecolor="cyan", linewidth=1.5)
                place.add_patch(box)
            inner = sizes(extent(field, 0.95))
            place.set_title(f"{name}\ntheory {height}x{width}, 95 % in {inner}", fontsize=9)
            place.set(xlim=(-0.5, field.shape[1] - 0.5), ylim=(field.shape[0] - 0.5, -0.5))
            place.set_axis_off()


def save_classic_kernels(image: np.ndarray, path: Path) -> None:
    """Draws an image ``(h, w, c)`` in uint8 under every kernel of ``ops.filters``."""
    grey = jnp.asarray(image, jnp.float32).mean(axis=-1) / 255
    tiles = [np.asarray(filters.apply_filter(grey, k)) for k in filters.FILTERS.values()]
    _save_tiles(tiles, path, "Classic kernels", names=list(filters.FILTERS))


def _save_tiles(
    tiles: Sequence[np.ndarray],
    path: Path,
    title: str,
    *,
    signed: bool = False,
    names: Sequence[str] = (),
) -> None:
    """Draws a grid of small images; ``signed`` ones share a scale on which grey is zero."""
    shown = tiles[:MOST_TILES]
    columns = min(len(shown), 3 if names else 8)
    rows = math.ceil(len(shown) / columns)
    side = 1.8 if names else 1.0
    more = f" (first {MOST_TILES} of {len(tiles)})" if len(tiles) > MOST_TILES else ""
    largest = max(float(np.abs(tile).max()) for tile in shown) or 1.0
    scale = {"vmin": -largest, "vmax": largest} if signed else {}
    with canvas(max(side * columns, 4), side * rows + 0.5, path) as figure:
        figure.suptitle(title + more, fontsize=10)
        grid = figure.subplots(rows, columns, squeeze=False)
        for place in grid.flat:
            place.set_axis_off()
        for i, (place, tile) in enumerate(zip(grid.flat, shown, strict=False)):
            place.imshow(tile, cmap="gray", **({} if tile.ndim == 3 else scale))
            if names:
                place.set_title(names[i].replace("_", " "), fontsize=9)
