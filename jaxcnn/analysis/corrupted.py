"""What corruptions make of an image, seen at a glance."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import jax
import numpy as np

from jaxcnn.analysis.plots import canvas, legible
from jaxcnn.data.corruptions import CORRUPTIONS, corrupt

if TYPE_CHECKING:
    from matplotlib.figure import Figure

WIDE = 8
"""Kinds beside one another in the picture."""


def save_corruptions(
    image: np.ndarray,
    path: Path | None,
    title: str = "",
    kinds: Sequence[str] = CORRUPTIONS,
    severities: Sequence[int] = (1, 3, 5),
    seed: int = 0,
) -> "Figure":
    """Draws an image under each kind of corruption, a column for each, by rising severity.

    Args:
        image: ``(h, w, c)`` bytes or numbers in [0, 1], of one channel or three.
        path: PNG file that is written, if any.
        title: title of the figure.
        kinds: names of corruptions.
        severities: those that are shown, 1 to 5; 0 is the image as it is.
        seed: seed of what is random.

    Returns:
        The figure.
    """
    run = jax.jit(corrupt, static_argnames="kind")
    key, images = jax.random.key(seed), jax.numpy.asarray(image)[None]
    clean = np.asarray(images[0]) / (255 if image.dtype == np.uint8 else 1)
    wide = min(WIDE, len(kinds))
    blocks = -(-len(kinds) // wide)
    tall = blocks * len(severities)
    aspect = image.shape[0] / image.shape[1]
    with canvas(1.25 * wide + 0.3, (1.2 * aspect * len(severities) + 0.3) * blocks, path) as figure:
        figure.suptitle(legible(title, 101) or None)
        grid = figure.subplots(tall, wide, squeeze=False)
        for axes in grid.flat:
            axes.set_axis_off()
        for place, kind in enumerate(kinds):
            block, column = divmod(place, wide)
            for row, severity in enumerate(severities, block * len(severities)):
                seen = np.asarray(run(images, key, kind, severity)[0]) if severity else clean
                axes = grid[row, column]
                axes.set_axis_on()
                axes.set(xticks=[], yticks=[])
                axes.imshow(seen if seen.shape[2] == 3 else seen[..., 0], "gray", vmin=0, vmax=1)
                if row % len(severities) == 0:
                    axes.set_title(legible(kind.replace("_", " ")), fontsize=9)
                if column == 0:
                    axes.set_ylabel(f"severity {severity}", fontsize=8)
    drawn: "Figure" = figure
    return drawn
