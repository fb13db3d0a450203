"""Arrays that show what a network has learned and what it sees, and pictures of them."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict

from jaxcnn.analysis.formats import sizes
from jaxcnn.analysis.gradcam import Apply
from jaxcnn.analysis.pictures import Block, Box, Tile, limits, save
from jaxcnn.analysis.summary import Summary
from jaxcnn.data.image_folder import natural
from jaxcnn.ops import filters
from jaxcnn.text import counted

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MOST_TILES, MOST_IMAGES, MOST_KEYS = 64, 24, 12
"""How many filters or feature maps, images, and names of colours one picture holds."""
OWN_SCALE = "Each has its own scale, from its 1st to its 99th percentile: outliers are cut off."


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


def bounds(field: np.ndarray, share: float = 1.0) -> tuple[int, int, int, int]:
    """Returns top, left, height and width of the part of a field that holds a share of its sum.

    With ``share=1`` that is the smallest box around everything but zeros; with less, rows and
    columns are each cut at both ends by half of what may be lost. Of zeros alone, it is all 0.

    >>> bounds(np.array([[0.0, 0.0, 0.0], [0.0, 0.5, 0.5], [0.0, 0.0, 0.0]]))
    (1, 1, 1, 2)
    """
    starts, lengths = [], []
    for axis in (1, 0):
        along = field.sum(axis=axis)
        if along.sum() == 0:
            return 0, 0, 0, 0
        before = np.cumsum(along) / along.sum()
        after = np.cumsum(along[::-1])[::-1] / along.sum()
        cut = (1 - share) / 2
        inside = np.flatnonzero((before > cut) & (after > cut) & (along > 0))
        starts.append(int(inside[0]))
        lengths.append(int(inside[-1] - inside[0] + 1))
    return starts[0], starts[1], lengths[0], lengths[1]


def extent(field: np.ndarray, share: float = 1.0) -> tuple[int, int]:
    """Returns height and width of the part of a field that holds a share of its sum.

    It is that of :func:`bounds`.

    >>> extent(np.array([[0.0, 0.0, 0.0], [0.0, 0.5, 0.5], [0.0, 0.0, 0.0]]))
    (1, 2)
    """
    return bounds(field, share)[2:]


def spread(names: Sequence[str], most: int) -> list[str]:
    """Returns so many of the names, evenly spaced, with the first and the last.

    >>> spread(["stage1", "stage2", "stage3", "stage4", "stage5"], 3)
    ['stage1', 'stage3', 'stage5']
    """
    if len(names) <= most:
        return list(names)
    return [names[int(i)] for i in np.linspace(0, len(names) - 1, most).round()]


def telling(maps: np.ndarray) -> np.ndarray:
    """Returns the places of the channels of maps ``(h, w, c)``: first those that vary the most.

    A map that answers alike everywhere says nothing about where; of those, the strongest are first.

    >>> maps = np.stack([np.full((2, 2), 9.0), np.eye(2), np.zeros((2, 2))], axis=-1)
    >>> telling(maps).tolist()
    [1, 0, 2]
    """
    flat = np.nan_to_num(maps.astype(np.float64).reshape(-1, maps.shape[-1]))
    return np.lexsort((flat.mean(axis=0), flat.std(axis=0)))[::-1]


def laid_over(images: np.ndarray, heats: np.ndarray) -> np.ndarray:
    """Returns images in grey with heat laid over them, as colours ``(n, h, w, 3)`` in [0, 1].

    Where there is no heat, the grey image stays as it is; a hot place keeps three tenths of it.

    Args:
        images: ``(n, h, w, c)`` in uint8.
        heats: ``(n, h, w)`` in [0, 1].
    """
    from matplotlib import colormaps

    colours = colormaps["plasma"](0.25 + 0.75 * heats)[..., :3]
    cover = 0.7 * np.sqrt(heats)[..., None]
    return np.asarray((1 - cover) * _grey(images)[..., None] + cover * colours)


def _grey(images: np.ndarray) -> np.ndarray:
    """Returns the brightness of images ``(..., h, w, c)`` in uint8, in [0, 1]."""
    weights = (0.299, 0.587, 0.114) if images.shape[-1] == 3 else (1 / images.shape[-1],)
    return np.asarray((images / 255.0 * weights).sum(axis=-1))


# ------------------------------------------------------------------------------- pictures


def save_filters(name: str, kernels: np.ndarray, path: Path) -> "Figure":
    """Draws the kernels of a first layer: in colour for three channels, else channel by channel."""
    height, width, inputs, outputs = kernels.shape
    low, high = limits(kernels, signed=True)
    if inputs == 3:
        coloured = np.clip((kernels - low) / (high - low), 0, 1)
        tiles = [Tile(coloured[..., i]) for i in range(outputs)]
        scale = "Grey is 0 in each colour, and bright is positive"
    else:
        tiles = [
            Tile(kernels[..., c, i], limits=(low, high))
            for i in range(outputs)
            for c in range(inputs)
        ]
        scale = f"Grey is 0, white is {high:.2g} or more, black {low:.2g} or less"
    return save(
        path,
        f"Filters of the first convolution, {name}",
        f"{_some(len(tiles), MOST_TILES, 'filter')} of {height}x{width} weights, which slide over "
        f"the image and answer where it looks like them. {scale}. Edges and blobs were learned; "
        "noise says that training was too short, or that the filter is not needed.",
        [Block(tiles[:MOST_TILES], _columns(len(tiles)))],
    )


def save_feature_maps(
    image: np.ndarray,
    maps: Mapping[str, np.ndarray],
    path: Path,
    title: str,
    each: int = MOST_TILES,
) -> "Figure":
    """Draws an image ``(h, w, c)`` in uint8, and below it what endpoints make of it.

    Args:
        image: the image, as the network sees it.
        maps: feature maps ``(h, w, c)`` by endpoint, in their order.
        path: PNG file.
        title: title of the picture.
        each: how many maps of an endpoint are shown at most: those that vary most.
    """
    blocks = [Block([Tile(_coloured(image))], 4, f"image: {sizes(image.shape[:2])}")]
    for endpoint, found in maps.items():
        number = found.shape[-1]
        chosen = [found[..., i] for i in telling(found)[:each]]
        tiles = [Tile(one, limits=limits(one), colours="viridis") for one in chosen]
        heading = f"{endpoint}: {_some(number, each, 'map')} of {sizes(found.shape[:2])}"
        blocks.append(Block(tiles, _columns(len(tiles)), heading))
    more = (
        " From stage to stage maps have fewer cells, and each cell sees more of the image: first "
        "edges, in the end what tells classes apart."
    ) * (len(maps) > 1)
    return save(
        path,
        title,
        "Each map shows where in the image one learned feature is found, the maps that vary most "
        f"over the image first; one of a single colour answers alike everywhere. {OWN_SCALE}{more}",
        blocks,
    )


def save_heat(
    images: np.ndarray, heats: np.ndarray, labels: Sequence[str], path: Path, endpoint: str
) -> "Figure":
    """Draws images ``(n, h, w, c)`` in uint8, each beside itself with its heat map over it.

    Args:
        images: the images, as the network sees them.
        heats: ``(n, h, w)`` in [0, 1], as :func:`jaxcnn.analysis.gradcam.grad_cam` gives them.
        labels: what stands above each pair.
        path: PNG file.
        endpoint: where the heat was found.
    """
    shown, covered = _coloured(images), laid_over(images, heats)
    gap = np.ones((*shown.shape[:2], max(1, shown.shape[2] // 16), 4))
    gap[..., 3] = 0
    pairs = np.concatenate([_opaque(shown), gap, _opaque(covered)], axis=2)
    tiles = [Tile(pair, label) for pair, label in zip(pairs, labels, strict=True)]
    return save(
        path,
        f"Grad-CAM at {endpoint}",
        f"{_some(len(tiles), MOST_IMAGES, 'image')}: left as the network sees it, right in grey "
        "under what speaks for the answer above it: the brighter the colour, the more. Heat beside "
        "the thing that is named shows that the network goes by something else. It is as coarse "
        "as the feature maps at this endpoint, and scaled for each image (Selvaraju et al. 2017).",
        [Block(tiles[:MOST_IMAGES], 2)],
    )


def save_label_maps(
    images: np.ndarray, maps: np.ndarray, names: Sequence[str], captions: Sequence[str], path: Path
) -> "Figure":
    """Draws images ``(n, h, w, c)`` in uint8 beside what each of their pixels was taken for.

    Args:
        images: the images, as the network sees them.
        maps: ``(n, h, w)``, the class of each pixel.
        names: the names of the classes.
        captions: what stands above each image.
        path: PNG file.
    """
    from matplotlib import colormaps

    shown = [int(c) for c in np.unique(maps)]
    colours = {c: np.asarray(colormaps["tab20"](i % 20)) for i, c in enumerate(shown)}
    tiles = []
    for image, labels, caption in zip(images, maps, captions, strict=True):
        painted = np.array([colours[int(c)] for c in labels.ravel()]).reshape(*labels.shape, 4)
        tiles += [Tile(_coloured(image), caption), Tile(painted)]
    more = f" Colours are named of {MOST_KEYS} of {len(shown)} classes." * (len(shown) > MOST_KEYS)
    keys = [Tile(np.tile(colours[c], (1, 8, 1)), names[c]) for c in shown[:MOST_KEYS]]
    return save(
        path,
        "What each pixel is taken for",
        f"{_some(len(images), MOST_IMAGES, 'image')} beside the class that the network gives to "
        f"each pixel. Look at the edges, where most mistakes are.{more}",
        [Block(tiles[: 2 * MOST_IMAGES], 4), Block(keys, 4)],
    )


def save_fields(
    fields: Mapping[str, np.ndarray], theory: Mapping[str, tuple[int, int]], path: Path
) -> "Figure":
    """Draws effective receptive fields, each in the box of the theoretical one.

    A field of zeros, of a unit that nothing moves, has no box.
    """
    tiles = [_field(name, field, theory[name]) for name, field in fields.items()]
    whole = sizes(next(iter(fields.values())).shape)
    return save(
        path,
        f"Receptive fields in an image of {whole}",
        "How much each pixel moves the unit in the middle of the feature maps: the brighter, the "
        "more. Solid box: what the unit can see, by kernels and strides. Dashed box: where 95 % of "
        "the effect comes from, which is less, since more paths lead to the middle (Luo et al. "
        "2016). A unit that cannot see a whole object cannot know it.",
        [Block(tiles, 2 if len(tiles) in (1, 2, 4) else 3)],
    )


def save_classic_kernels(image: np.ndarray, path: Path) -> "Figure":
    """Draws an image ``(h, w, c)`` in uint8 under every kernel of ``ops.filters``."""
    grey = jnp.asarray(image, jnp.float32).mean(axis=-1) / 255
    found = {n: np.asarray(filters.apply_filter(grey, k)) for n, k in filters.FILTERS.items()}
    tiles = [Tile(tile, n.replace("_", " "), limits(tile)) for n, tile in found.items()]
    return save(
        path,
        "The image under classic kernels",
        "What a convolution does to the image when its weights are set by hand. A network learns "
        f"its own: compare its filters with these. {OWN_SCALE}",
        [Block(tiles, 3)],
    )


def _columns(tiles: int) -> int:
    """Returns how many stand beside one another: of few tiles, few, which so are larger.

    >>> _columns(6), _columns(16), _columns(64)
    (6, 4, 8)
    """
    return tiles if 4 < tiles <= 6 else 4 if tiles <= 16 else 8


def _field(name: str, field: np.ndarray, theory: tuple[int, int]) -> Tile:
    """Returns a field, cut out where it is small in its image, with its boxes."""
    top, left, height, width = bounds(field)
    if not height:
        return Tile(field, f"{name}\nnothing moves it", colours="magma")
    inner = bounds(field, 0.95)
    # Drawn about the middle of what the unit sees, which borders may have cut.
    middle = top + height / 2, left + width / 2
    cut = [
        _cut(at, 1.3 * size, whole)
        for at, size, whole in zip(middle, theory, field.shape, strict=True)
    ]
    (first, last), (start, end) = cut
    shown = np.sqrt(field[first:last, start:end])
    boxes = (
        Box(middle[0] - theory[0] / 2 - first, middle[1] - theory[1] / 2 - start, *theory, "cyan"),
        Box(inner[0] - first, inner[1] - start, *inner[2:], "white", dashed=True),
    )
    label = (
        f"{name}\nin theory {sizes(theory)}\n95 % in {sizes(inner[2:])}\n"
        f"shown: {sizes(shown.shape)}"
    )
    return Tile(shown, label, (0.0, limits(shown)[1]), "magma", boxes)


def _cut(middle: float, size: float, whole: int) -> tuple[int, int]:
    """Returns where a stretch about a middle begins and ends, moved into what there is."""
    length = min(whole, math.ceil(size))
    first = min(max(0, round(middle - length / 2)), whole - length)
    return first, first + length


def _coloured(images: np.ndarray) -> np.ndarray:
    """Returns images ``(..., h, w, c)`` in uint8 as colours in [0, 1]."""
    if images.shape[-1] == 3:
        return images / 255.0
    return np.repeat(_grey(images)[..., None], 3, axis=-1)


def _opaque(colours: np.ndarray) -> np.ndarray:
    return np.concatenate([colours, np.ones((*colours.shape[:-1], 1))], axis=-1)


def _some(number: int, most: int, noun: str) -> str:
    """Says how many of some things are shown.

    >>> _some(6, 64, "filter"), _some(96, 64, "filter")
    ('6 filters', '64 of 96 filters')
    """
    return counted(number, noun) if number <= most else f"{most} of {counted(number, noun)}"
