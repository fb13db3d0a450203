"""Pictures made of small images with words about them, as PNG files for light and dark pages.

The ground is transparent, and the ink is one that reads on white and on black. Every label is
measured, wrapped and, where it must be, shortened before it is drawn, and has a place of its own:
none lies over another or over an image, however long a name is.
"""

import bisect
import contextlib
import functools
import io
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxcnn.analysis.plots import STYLE
from jaxcnn.learning import files
from jaxcnn.text import printable

if TYPE_CHECKING:
    from matplotlib.figure import Figure

INK = "#7c7c7c"
"""Colour of all words and frames: of all greys, the one whose least contrast with the grounds of
light and dark pages is the greatest."""
WIDTH = 5.0
"""Width of every picture in inches: so narrow that its words can be read on a phone."""
DPI = 220
TITLE, WORDS = 12.0, 9.5
"""Sizes of letters in points."""
GAP = 0.08
"""Space between neighbours, in inches."""
TALLEST = 1.5
"""How many times as high as wide an image may be drawn; a taller one is drawn narrower."""
LEADING = 1.3
"""Height of a line, as a multiple of the size of its letters."""


@dataclass(frozen=True)
class Box:
    """A frame that is drawn over an image, in its pixels."""

    top: float
    left: float
    height: float
    width: float
    colour: str
    dashed: bool = False


@dataclass(frozen=True)
class Tile:
    """A small image under its label.

    Attributes:
        image: ``(h, w)`` numbers, or ``(h, w, 3)`` or ``(h, w, 4)`` colours in [0, 1].
        label: what stands above it; a line that is too long is wrapped once, then shortened.
        limits: the numbers that have the first and the last colour; see :func:`limits`.
        colours: name of matplotlib's colour map for numbers.
        boxes: frames over it.
    """

    image: np.ndarray
    label: str = ""
    limits: tuple[float, float] = (0.0, 1.0)
    colours: str = "gray"
    boxes: Sequence[Box] = ()


@dataclass(frozen=True)
class Block:
    """Tiles in rows of so many columns, under a heading."""

    tiles: Sequence[Tile]
    columns: int
    heading: str = ""


def limits(values: np.ndarray, signed: bool = False) -> tuple[float, float]:
    """Returns the numbers between which colours differ: an outlier does not take them all.

    They leave out at least the lowest and the highest number, and a hundredth at either end; where
    the others are all the same, nothing is left out.

    Args:
        values: what is shown.
        signed: makes them lie evenly about zero.

    >>> limits(np.array([0.0, 1.0, 2.0, 3.0, 1000.0]))
    (1.0, 3.0)
    >>> limits(np.array([0.0, 0.0, 0.0, 5.0]))
    (0.0, 5.0)
    """
    shown = values[np.isfinite(values)]
    if not shown.size:
        return 0.0, 1.0
    if signed:
        size = np.abs(shown)
        most = float(np.percentile(size, 99, method="lower")) or float(size.max()) or 1.0
        return -most, most
    low = float(np.percentile(shown, 1, method="higher"))
    high = float(np.percentile(shown, 99, method="lower"))
    if low < high:
        return low, high
    low, high = float(shown.min()), float(shown.max())
    return (low, high) if low < high else (low, low + 1.0)


def save(path: Path, title: str, caption: str, blocks: Sequence[Block]) -> "Figure":
    """Draws a title, blocks of tiles and a caption, one below the other.

    Args:
        path: PNG file that is written. Title and caption are in its metadata too, under PNG's
            keywords ``Title`` and ``Description``.
        title: what is shown.
        caption: how it is read, and why one looks at it.
        blocks: the tiles.

    Returns:
        The figure.
    """
    from matplotlib.figure import Figure

    with _style():
        strips: list[_Words | _Row] = [_words(title, size=TITLE, bold=True)]
        strips += [strip for block in blocks for strip in _strips(block)]
        strips += [_words(caption, most=99)]
        height = sum(strip.height for strip in strips) + GAP * (len(strips) + 1)
        figure = Figure(figsize=(WIDTH + 2 * GAP, height))
        top = height - GAP
        for strip in strips:
            strip.draw(figure, GAP, top)
            top -= strip.height + GAP
        file = io.BytesIO()
        about = {"Title": printable(title), "Description": printable(caption)}
        figure.savefig(file, format="png", dpi=DPI, transparent=True, metadata=about)
    files.write_bytes(path, file.getvalue())
    return figure


@contextlib.contextmanager
def _style() -> Iterator[None]:
    import matplotlib

    style: dict[Any, Any] = {**STYLE, "text.color": INK, "axes.edgecolor": INK}
    style |= dict.fromkeys(("axes.spines.top", "axes.spines.right"), True)
    # No font has all signs.
    with matplotlib.rc_context(style), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing")
        yield


# -------------------------------------------------------------------------------------- strips


@dataclass(frozen=True)
class _Words:
    """Lines of text from the left edge on."""

    lines: Sequence[str]
    size: float
    bold: bool

    @property
    def height(self) -> float:
        return len(self.lines) * self.size * LEADING / 72

    def draw(self, figure: "Figure", left: float, top: float) -> None:
        """Draws them, each as a text of its own, from a place on the canvas in inches."""
        width, height = figure.get_size_inches()
        for i, line in enumerate(self.lines):
            base = top - (i * LEADING + 1) * self.size / 72
            weight = "bold" if self.bold else "normal"
            figure.text(left / width, base / height, line, fontsize=self.size, fontweight=weight)


@dataclass(frozen=True)
class _Row:
    """Tiles beside one another, each under its label in a column of its own."""

    tiles: Sequence[Tile]
    labels: Sequence[_Words]
    column: float

    @property
    def height(self) -> float:
        return self._above + max(self._size(tile)[1] for tile in self.tiles)

    @property
    def _above(self) -> float:
        """Returns how far below the top images begin."""
        highest = max(label.height for label in self.labels)
        return highest and highest + GAP / 3

    def _size(self, tile: Tile) -> tuple[float, float]:
        """Returns width and height of an image in inches."""
        aspect = tile.image.shape[0] / tile.image.shape[1]
        return min(self.column, self.column * TALLEST / aspect), self.column * min(aspect, TALLEST)

    def draw(self, figure: "Figure", left: float, top: float) -> None:
        """Draws labels, which end where the images begin, and images."""
        for i, (tile, label) in enumerate(zip(self.tiles, self.labels, strict=True)):
            start = left + i * (self.column + GAP)
            label.draw(figure, start, top - self._above + label.height + GAP / 3)
            self._put(figure, tile, start, top - self._above)

    def _put(self, figure: "Figure", tile: Tile, left: float, top: float) -> None:
        from matplotlib.patches import Rectangle

        (width, height), (across, down) = figure.get_size_inches(), self._size(tile)
        axes = figure.add_axes(
            (left / width, (top - down) / height, across / width, down / height),
            xticks=[],
            yticks=[],
        )
        axes.spines[:].set_linewidth(0.5)
        low, high = tile.limits
        axes.imshow(
            *(tile.image, tile.colours), vmin=low, vmax=high, aspect="auto", interpolation="nearest"
        )
        for box in tile.boxes:
            style: dict[str, Any] = {"linestyle": "--" if box.dashed else "-", "linewidth": 1.2}
            corner = (box.left - 0.5, box.top - 0.5)  # places are those of pixels' centres
            axes.add_patch(
                Rectangle(corner, box.width, box.height, fill=False, edgecolor=box.colour, **style)
            )


def _strips(block: Block) -> Iterator[_Words | _Row]:
    """Yields the heading of a block, and its rows."""
    if block.heading:
        yield _words(block.heading, bold=True)
    column = (WIDTH + GAP) / block.columns - GAP
    for first in range(0, len(block.tiles), block.columns):
        tiles = block.tiles[first : first + block.columns]
        yield _Row(tiles, [_words(tile.label, column) for tile in tiles], column)


# --------------------------------------------------------------------------------------- words


def _words(
    text: str, width: float = WIDTH, size: float = WORDS, bold: bool = False, most: int = 2
) -> _Words:
    """Returns a text in lines that fit into a width in inches, each wrapped into at most some."""
    lines = [part for line in text.splitlines() for part in _wrapped(line, width, size, bold, most)]
    return _Words(lines, size, bold)


def _wrapped(text: str, width: float, size: float, bold: bool, most: int) -> list[str]:
    lines: list[str] = [""]
    for word in printable(text).split(" "):
        longer = f"{lines[-1]} {word}".lstrip()
        if not lines[-1] or _width(longer, size, bold) <= width:
            lines[-1] = longer
        else:
            lines.append(word)
    lines[most - 1 :] = [" ".join(lines[most - 1 :])] * (len(lines) >= most)
    return [_shortened(line, width, size, bold) for line in lines]


def _shortened(text: str, width: float, size: float, bold: bool) -> str:
    """Leaves out as much of the middle of a line as it is too long."""
    if _width(text, size, bold) <= width:
        return text
    lengths = range(3, len(text))
    fitting = bisect.bisect_right(
        lengths, width, key=lambda n: _width(printable(text, longest=n), size, bold)
    )
    return printable(text, longest=lengths[max(0, fitting - 1)])


@functools.lru_cache(1024)
def _width(text: str, size: float, bold: bool) -> float:
    """Returns the width of a line in inches."""
    from matplotlib.font_manager import FontProperties
    from matplotlib.textpath import text_to_path

    font = FontProperties(size=size, weight="bold" if bold else "normal")
    across, _, _ = text_to_path.get_text_width_height_descent(text, font, ismath=False)
    return float(across) / 72
