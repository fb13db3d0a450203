"""The course's pictures, as SVG that follows the reader's light or dark screen.

They are written out number by number, without a plotting library, so that the same results give
the same bytes everywhere: tests compare the files with what is drawn.
"""

import html
import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from jaxcnn.analysis.statistics import SHARE, Interval, mean_interval
from jaxcnn.ops import filters

STYLE = """
text{font:12px system-ui,sans-serif;fill:#1c2024}.small{font-size:10px}.faint{fill:#667080}
.page{fill:#fff}.rule{stroke:#d9dde3;fill:none}.edge{stroke:#667080;fill:none}
.s0{fill:#2563eb;stroke:#2563eb}.s1{fill:#d9480f;stroke:#d9480f}.s2{fill:#2b8a3e;stroke:#2b8a3e}
@media(prefers-color-scheme:dark){text{fill:#e6e8eb}.faint{fill:#9aa4b2}.page{fill:#16181d}
.rule{stroke:#363b44}.edge{stroke:#9aa4b2}.s0{fill:#7aa7ff;stroke:#7aa7ff}
.s1{fill:#ff9a5c;stroke:#ff9a5c}.s2{fill:#6ed08a;stroke:#6ed08a}}
.line{fill:none;stroke-width:2}.band{fill-opacity:.2;stroke:none}.flat{stroke:none}
""".replace("\n", "")
WIDE = 640
"""Width of a chart."""
LETTER = 6.8
"""Width of a letter at most, on average over a word."""


class Drawing:
    """Shapes, one below the other in the file."""

    def __init__(self, width: float, height: float) -> None:
        self.width, self.height = width, height
        self.shapes: list[str] = []

    def add(self, shape: str, **attributes: Any) -> None:
        """Adds a shape; ``class_`` is its class, and ``_`` stands for the hyphen."""
        written = "".join(
            f' {name.rstrip("_").replace("_", "-")}="{_short(value)}"'
            for name, value in attributes.items()
        )
        self.shapes.append(f"<{shape}{written}/>")

    def text(self, x: float, y: float, words: str, anchor: str = "start", kind: str = "") -> None:
        """Adds a line of text, whose baseline begins, has its middle or ends there."""
        about = f' text-anchor="{anchor}"' * (anchor != "start") + f' class="{kind}"' * bool(kind)
        self.shapes.append(
            f'<text x="{_short(x)}" y="{_short(y)}"{about}>{html.escape(words)}</text>'
        )

    def svg(self) -> str:
        """The file."""
        width, height = _short(self.width), _short(self.height)
        return (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
            f'width="{width}" height="{height}"><style>{STYLE}</style>\n'
            + f'<rect class="page" width="{width}" height="{height}" rx="6"/>\n'
            + "\n".join(self.shapes)
            + "\n</svg>\n"
        )


def _short(value: Any) -> str:
    return f"{value:.2f}".rstrip("0").rstrip(".") if isinstance(value, float) else str(value)


def _ticks(low: float, high: float) -> list[float]:
    """Four to eight round numbers that reach from one to the other."""
    step = next(s for s in (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50) if (high - low) / s <= 7)
    first, last = math.floor(low / step), math.ceil(high / step)
    return [i * step for i in range(first, last + 1)]


def intervals(rows: Sequence[tuple[str, Interval]], label: str) -> str:
    """Means with their intervals, one row each."""
    left, top, row = 24 + LETTER * max(len(name) for name, _ in rows), 16, 26
    drawing = Drawing(WIDE, top + row * len(rows) + 44)
    lows = [found.mean if math.isnan(found.low) else found.low for _, found in rows]
    highs = [found.mean if math.isnan(found.high) else found.high for _, found in rows]
    ticks = _ticks(min(lows), max(highs))

    def at(value: float) -> float:
        return left + (WIDE - left - 28) * (value - ticks[0]) / (ticks[-1] - ticks[0])

    bottom = top + row * len(rows)
    for tick in ticks:
        drawing.add("path", class_="rule", d=f"M{at(tick):.1f} {top}V{bottom}")
        drawing.text(at(tick), bottom + 16, f"{tick:g}", "middle", "small faint")
    drawing.text((left + WIDE - 28) / 2, bottom + 34, label, "middle", "faint")
    for i, ((name, found), low, high) in enumerate(zip(rows, lows, highs, strict=True)):
        y = top + row * (i + 0.5)
        drawing.text(left - 12, y + 4, name, "end")
        drawing.add("path", class_="s0 line", d=f"M{at(low):.1f} {y}H{at(high):.1f}")
        drawing.add("circle", class_="s0", cx=at(found.mean), cy=y, r=4)
    return drawing.svg()


Series = Mapping[str, Mapping[float, Sequence[float]]]
"""Name of a line to its place on the axis to the values there, one for each seed."""


def lines(series: Series, across: str, up: str, log: bool = False) -> str:
    """Means over seeds, in a band from the lowest to the highest."""
    left, right, top, bottom = 56, WIDE - (130 if len(series) > 1 else 24), 30, 290
    drawing = Drawing(WIDE, 340)
    places = sorted({x for line in series.values() for x in line})
    values = [v for line in series.values() for seeds in line.values() for v in seeds]
    ticks = _ticks(min(values), max(values))

    def x(place: float) -> float:
        low, high, here = places[0], places[-1], place
        if log:
            low, high, here = math.log(low), math.log(high), math.log(here)
        return left + 10 + (right - left - 20) * (here - low) / (high - low)

    def y(value: float) -> float:
        return bottom - (bottom - top) * (value - ticks[0]) / (ticks[-1] - ticks[0])

    for tick in ticks:
        drawing.add("path", class_="rule", d=f"M{left} {y(tick):.1f}H{right}")
        drawing.text(left - 8, y(tick) + 4, f"{tick:g}", "end", "small faint")
    for place in places:
        drawing.text(x(place), bottom + 16, _count(place), "middle", "small faint")
    drawing.text((left + right) / 2, bottom + 38, across, "middle", "faint")
    drawing.text(12, 18, up, kind="faint")
    named: list[float] = []
    for i, (name, line) in enumerate(series.items()):
        high = [f"{x(p):.1f} {y(max(v)):.1f}" for p, v in line.items()]
        low = [f"{x(p):.1f} {y(min(v)):.1f}" for p, v in line.items()]
        middle = [f"{x(p):.1f} {y(float(np.mean(v))):.1f}" for p, v in line.items()]
        drawing.add("path", class_=f"s{i} band", d=f"M{'L'.join([*high, *reversed(low)])}Z")
        drawing.add("path", class_=f"s{i} line", d=f"M{'L'.join(middle)}")
        # Names stand where their lines end, and at least a line of text apart.
        beside = y(float(np.mean(list(line.values())[-1])))
        while any(abs(beside - other) < 15 for other in named):
            beside += 1
        named.append(beside)
        if len(series) == 1:  # the axis says its name
            continue
        drawing.add("circle", class_=f"s{i}", cx=right + 8, cy=beside, r=4)
        drawing.text(right + 17, beside + 4, name)
    return drawing.svg()


def _count(value: float) -> str:
    return f"{value / 1000:g}k" if value >= 1000 else f"{value:g}"


def bars(rows: Sequence[tuple[str, Sequence[tuple[str, float]]]]) -> str:
    """Shares of a whole: for each row some bars from 0 to 100 %, each with its name."""
    left, row = 150, 22
    height = sum(row * len(inside) + 14 for _, inside in rows)
    drawing = Drawing(WIDE, height + 20)
    y = 16.0
    for name, inside in rows:
        drawing.text(14, y + 12, name)
        for i, (what, share) in enumerate(inside):
            whole = WIDE - left - 190
            drawing.add("rect", class_="edge", x=left, y=y, width=whole, height=15)
            drawing.add("rect", class_=f"s{i} flat", x=left, y=y, width=whole * share, height=15)
            drawing.text(left + whole + 8, y + 12, f"{100 * share:.1f} % {what}", kind="small")
            y += row
        y += 14
    return drawing.svg()


def _grid(
    drawing: Drawing, x: float, y: float, side: float, values: np.ndarray, kind: str = ""
) -> None:
    """The numbers of a small map, each in its square."""
    for (i, j), value in np.ndenumerate(values):
        drawing.add("rect", class_="edge", x=x + j * side, y=y + i * side, width=side, height=side)
        words = f"{value:g}".replace("-", "−")
        drawing.text(x + (j + 0.5) * side, y + (i + 0.5) * side + 4, words, "middle", kind)


def _image(drawing: Drawing, x: float, y: float, side: float, image: np.ndarray) -> None:
    """Grey pixels from 0 to 16, black to white."""
    size = side * len(image)
    drawing.add("rect", x=x, y=y, width=size, height=side * len(image), fill="#000")
    for (i, j), value in np.ndenumerate(image):
        if value:
            grey = f"#{round(value * 255 / 16):02x}" * 1
            place = {"x": x + j * side, "y": y + i * side, "width": side, "height": side}
            drawing.add("rect", **place, fill=f"#{grey[1:] * 3}")
    drawing.add("rect", class_="edge", x=x, y=y, width=size, height=size)


def _response(drawing: Drawing, x: float, y: float, side: float, values: np.ndarray) -> None:
    """What is above zero in one colour, what is below in another; the strongest are full."""
    most = float(np.abs(values).max())
    for (i, j), value in np.ndenumerate(values):
        strength = round(abs(float(value)) / most, 2)
        if strength:
            place = {"x": x + j * side, "y": y + i * side, "width": side, "height": side}
            kind = "s0 flat" if value > 0 else "s1 flat"
            drawing.add("rect", class_=kind, **place, fill_opacity=strength)
    size = side * len(values)
    drawing.add("rect", class_="edge", x=x, y=y, width=size, height=size)


def digit(number: int = 0) -> np.ndarray:
    """A scan of scikit-learn's, (8, 8), whole numbers from 0 to 16."""
    from sklearn.datasets import load_digits

    found: np.ndarray = load_digits().images[number]
    return found


def pixels() -> str:
    """A digit as it is seen, as numbers, and shuffled."""
    image = digit()
    order = np.random.RandomState(0).permutation(image.size)  # whose numbers never change
    drawing = Drawing(WIDE, 216)
    _image(drawing, 12, 12, 24, image)
    _grid(drawing, 224, 12, 24, image, "small")
    _image(drawing, 436, 12, 24, image.ravel()[order].reshape(image.shape))
    return drawing.svg()


KERNELS = ("identity", "box_blur", "sharpen", "sobel_x", "sobel_y", "edge_all")


def correlated(image: np.ndarray, kernel: np.ndarray) -> np.ndarray:
    """The sum of products at every place; what lies beyond the border repeats it."""
    wide = np.pad(image, len(kernel) // 2, mode="edge")
    windows = np.lib.stride_tricks.sliding_window_view(wide, kernel.shape)
    found: np.ndarray = np.einsum("ijkl,kl->ij", windows, np.asarray(kernel, np.float64))
    return found


def kernels() -> str:
    """Classic kernels above what they answer to a digit."""
    image, side = digit(), 11
    drawing = Drawing(WIDE + 40, 206)
    for place, name in enumerate(KERNELS):
        x = 14.0 + 111 * place
        kernel = filters.FILTERS[name]
        blur = name == "box_blur"
        shown = np.ones((3, 3)) if blur else kernel
        drawing.text(x, 22, name + " × 1/9" * blur, kind="small")
        _grid(drawing, x, 30, 20, shown, "small")
        _response(drawing, x, 102, side, correlated(image, kernel))
    return drawing.svg()


def strides() -> str:
    """Where a 3x3 kernel stands on 5x5 pixels: all places, every second, and with padding."""
    drawing = Drawing(WIDE, 168)
    for place, (stride, padding) in enumerate(((1, 0), (2, 0), (1, 1), (2, 1))):
        side, x, y = 16, 20.0 + 157 * place, 38.0
        size = 5 + 2 * padding
        out = (size - 3) // stride + 1
        start = (7 - size) * side / 2
        drawing.text(x, 22, f"k=3  s={stride}  p={padding}  →  {out}×{out}", kind="small")
        for i in range(size):
            for j in range(size):
                inner = padding <= i < 5 + padding and padding <= j < 5 + padding
                corner = {"x": x + start + j * side, "y": y + start + i * side}
                kind = "edge" if inner else "rule"
                drawing.add("rect", class_=kind, **corner, width=side, height=side)
        for i in range(out):
            for j in range(out):
                middle = {
                    "cx": x + start + (j * stride + 1.5) * side,
                    "cy": y + start + (i * stride + 1.5) * side,
                }
                drawing.add("circle", class_="s0", **middle, r=4)
        corner = {"x": x + start, "y": y + start}
        drawing.add("rect", class_="s1 band", **corner, width=3 * side, height=3 * side)
    return drawing.svg()


POOLED = np.array([[1, 3, 2, 0], [5, 2, 1, 1], [0, 1, 8, 4], [2, 1, 3, 1]])


def pools() -> str:
    """A map, and what 2x2 pools at stride 2 leave of it."""
    drawing, side = Drawing(WIDE, 184), 38
    blocks = POOLED.reshape(2, 2, 2, 2)
    _grid(drawing, 14, 16, side, POOLED)
    for i, (name, pooled) in enumerate(
        (("max", blocks.max(axis=(1, 3))), ("avg", blocks.mean(axis=(1, 3))))
    ):
        drawing.text(230 + 200 * i, 44, name, kind="faint")
        _grid(drawing, 230 + 200 * i, 54, side, pooled)
    for i in range(2):
        for j in range(2):
            corner = {"x": 14 + 2 * side * j, "y": 16 + 2 * side * i}
            kind = f"s{(i + j) % 2} band"
            drawing.add("rect", class_=kind, **corner, width=2 * side, height=2 * side)
    return drawing.svg()


def fields() -> str:
    """One place behind three convolutions of 3x3, and what it sees on each map below."""
    drawing, side = Drawing(WIDE, 170), 17
    for place, field in enumerate((7, 5, 3, 1)):
        x, y = 14 + 158.0 * place, 34.0
        for i in range(7):
            for j in range(7):
                corner = {"x": x + j * side, "y": y + i * side}
                drawing.add("rect", class_="rule", **corner, width=side, height=side)
        start = (7 - field) // 2 * side
        corner = {"x": x + start, "y": y + start}
        drawing.add("rect", class_="s0 band", **corner, width=field * side, height=field * side)
        drawing.text(x, 22, f"{field}×{field}", kind="small")
        if place < 3:
            drawing.text(x + 7 * side + 3, y + 64, "3×3 →", kind="small faint")
    return drawing.svg()


def lenet_maps() -> str:
    """The sides of LeNet-5's maps, to scale, for 32x32 and for 40x40 pixels."""
    drawing = Drawing(WIDE, 212)
    for row, sides in enumerate(((32, 28, 14, 10, 5), (40, 36, 18, 14, 7))):
        x, base = 14.0, 92.0 + 104 * row
        for i, side in enumerate(sides):
            size = 1.9 * side
            drawing.add("rect", class_="edge", x=x, y=base - size, width=size, height=size)
            drawing.text(x + size + 6, base - 2, f"{side}×{side}", kind="small")
            x += size + 60
            if i < 4:
                word = ("conv 5×5", "pool 2×2")[i % 2]
                drawing.text(x - 54, base - 18, word, kind="small faint")
        last = sides[-1]
        words = f"{last}·{last}·16 = {last * last * 16}"
        drawing.text(x - 14, base - 2, words + (" ✓" if last == 5 else " ≠ 400"))
    return drawing.svg()


WORDS: Mapping[str, Mapping[str, str]] = {
    "top-1": {"en": "test top-1, %", "es": "exactitud en la prueba, %"},
    "moved": {"en": "moved by, pixels", "es": "desplazamiento, píxeles"},
    "images": {"en": "training images", "es": "imágenes de entrenamiento"},
    "conv": {"en": "convolution", "es": "convolución"},
    "gradient": {
        "en": "norm of the gradient, with / without",
        "es": "norma del gradiente, con / sin",
    },
    "parameters": {"en": "of the parameters", "es": "de los parámetros"},
    "macs": {"en": "of the MACs", "es": "de las MAC"},
}
"""What charts say, in each language."""


def percent(top1: Sequence[float]) -> Interval:
    """The mean of seeds and its interval, in percent."""
    return Interval(*(100 * bound for bound in mean_interval(top1, within=SHARE)))


def compared(results: Any, part: str, label: Callable[[str], str], word: str) -> str:
    """The arms of a comparison, with their intervals."""
    rows = [
        (label(arm["name"]), Interval(*(100 * arm["reached"][x] for x in ("mean", "low", "high"))))
        for arm in results[part]["results"]
    ]
    return intervals(rows, word)


def drawn(results: Any, language: str, label: Callable[[str], str]) -> dict[str, str]:
    """Returns the pictures that have words, by name.

    Args:
        results: what the textbook has measured.
        language: "en" or "es".
        label: name of a network to what it is called in that language.
    """
    word = {name: words[language] for name, words in WORDS.items()}
    parts = ("shuffled_pixels", "random_filters", "stride", "pooling", "stacked", "global_pooling")
    found = {part: compared(results, part, label, word["top-1"]) for part in parts}
    normalised = results["normalisation"]
    found["normalisation"] = intervals(
        [
            (f"{label(scale)}, {rate}", percent(seeds))
            for scale, those in normalised["top1"].items()
            for rate, seeds in zip(normalised["rates"], those, strict=True)
            if len(seeds) == normalised["seeds"]
        ],
        word["top-1"],
    )
    moved = results["translation"]
    found["translation"] = lines(
        {
            label(name): dict(zip(moved["distances"], 100 * np.array(top1).T, strict=True))
            for name, top1 in moved["top1"].items()
        },
        word["moved"],
        word["top-1"],
    )
    few = results["sample_efficiency"]
    found["sample_efficiency"] = lines(
        {
            label(name): {
                n: [100 * x for x in top1] for n, top1 in zip(few["images"], those, strict=True)
            }
            for name, those in few["top1"].items()
        },
        word["images"],
        word["top-1"],
        log=True,
    )
    ratios = results["auxiliary_heads"]["gradient_ratio"]
    found["auxiliary_heads"] = lines(
        {label("with"): dict(enumerate(ratios.values(), start=1))}, word["conv"], word["gradient"]
    )
    sized = results["image_size"]["top1"]
    found["image_size"] = intervals(
        [(label(name), percent(top1)) for name, top1 in sized.items()], word["top-1"]
    )
    models = results["counts"]["models"]
    found["counts"] = bars(
        [
            (
                name,
                [
                    (word["parameters"], counted["dense_parameters"] / counted["parameters"]),
                    (word["macs"], counted["dense_macs"] / counted["macs"]),
                ],
            )
            for name, counted in models.items()
        ]
    )
    return found if language == "en" else {n: _with_commas(svg) for n, svg in found.items()}


def _with_commas(svg: str) -> str:
    """The drawing with a comma before the decimals of every number that is read."""
    return re.sub(
        "(<text[^>]*>)([^<]*)", lambda text: text[1] + re.sub(r"(?<=\d)\.(?=\d)", ",", text[2]), svg
    )


WORDLESS: Mapping[str, Callable[[], str]] = {
    "pixels": pixels,
    "kernels": kernels,
    "strides": strides,
    "pools": pools,
    "fields": fields,
    "lenet_maps": lenet_maps,
}
"""Pictures that both languages share."""
