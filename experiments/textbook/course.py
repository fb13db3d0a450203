"""The course: chapters whose figures, tables and pictures come from what the textbook measured.

Command:   python -m experiments.textbook.course

It fills docs/course/en and docs/course/es from benchmarks/results/textbook.json and draws
docs/course/pictures. In a chapter, a figure stands before the comment that names it,
``86.08 %<!--stride.stride_1-->``, and a table between two comments, ``<!-- table: stride -->`` and
``<!-- end -->``. What a chapter says besides is text.
"""

import json
import re
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.readme import table
from experiments.textbook import pictures

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "benchmarks" / "results" / "textbook.json"
COURSE = ROOT / "docs" / "course"
LANGUAGES = ("en", "es")


class Figure(NamedTuple):
    """Numbers, and how they are written: decimals, sign and what stands behind."""

    numbers: tuple[float, ...]
    decimals: int = 0
    signed: bool = False
    unit: str = ""


def written(figure: Figure, language: str) -> str:
    """Writes a number, or the two bounds of an interval in brackets.

    Spanish has a comma before the decimals and a thin space between groups of three digits, from
    five digits on.

    >>> written(Figure((-4.6133,), 2, signed=True), "en"), written(Figure((61706,)), "en")
    ('−4.61', '61,706')
    """
    parts = [_number(number, figure, language) for number in figure.numbers]
    if len(parts) == 1:
        return parts[0] + figure.unit
    return f"[{('; ' if language == 'es' else ', ').join(parts)}]"


def _number(number: float, figure: Figure, language: str) -> str:
    text = f"{number:{'+' if figure.signed else ''},.{figure.decimals}f}".replace("-", "−")
    if language == "en":
        return text
    groups = "\u202f" if abs(number) >= 10_000 else ""
    return text.replace(",", groups).replace(".", ",")


def _percent(share: float, decimals: int = 2) -> Figure:
    return Figure((100 * share,), decimals, unit=" %")


def _points(share: float) -> Figure:
    return Figure((100 * share,), 2, signed=True)


def _around(top1: Sequence[float]) -> Figure:
    """The bounds of the mean of seeds."""
    return Figure(pictures.percent(top1)[1:], 2)


def _p(value: float) -> Figure:
    return Figure((value,), 2 if value >= 0.1 else 3 if value >= 0.001 else 4)


def figures(results: Any) -> dict[str, Figure]:
    """Returns every number that a chapter may quote, by its name."""
    found: dict[str, Figure] = {}
    for part, values in results.items():
        for arm in values.get("results", []):
            found |= _of_arm(f"{part}.{arm['name']}", arm)
    for name, counted in results["counts"]["models"].items():
        found |= {f"counts.{name}.{what}": Figure((n,)) for what, n in counted.items()}
        for what in ("parameters", "macs"):
            share = counted[f"dense_{what}"] / counted[what]
            found[f"counts.{name}.dense_{what}.share"] = _percent(share, 1)
        found[f"counts.{name}.macs.millions"] = Figure((counted["macs"] / 1e6,))
    for example in results["counts"]["examples"]:
        found[f"counts.{example['what']}"] = Figure((example["counted"],))
    moved = results["translation"]
    for name, seeds in moved["top1"].items():
        for distance, top1 in zip(moved["distances"], zip(*seeds, strict=True), strict=True):
            found[f"translation.{name}.{distance}"] = _percent(statistics.mean(top1), 1)
    few = results["sample_efficiency"]
    for i, images in enumerate(few["images"]):
        dense, cnn = (few["top1"][name][i] for name in ("dense", "cnn"))
        for name, top1 in (("dense", dense), ("cnn", cnn)):
            found[f"sample_efficiency.{name}.{images}"] = _percent(statistics.mean(top1))
            found[f"sample_efficiency.{name}.{images}.interval"] = _around(top1)
        ahead = statistics.mean(cnn) - statistics.mean(dense)
        found[f"sample_efficiency.ahead.{images}"] = _points(ahead)
    scaled = results["normalisation"]
    for name, those in scaled["top1"].items():
        for rate, top1 in zip(scaled["rates"], those, strict=True):
            key = f"normalisation.{name}.{rate}"
            found[f"{key}.diverged"] = Figure((scaled["seeds"] - len(top1),))
            if len(top1) > 1:
                found[key] = _percent(statistics.mean(top1))
                found[f"{key}.interval"] = _around(top1)
    for name, top1 in results["image_size"]["top1"].items():
        found[f"image_size.{name}"] = _percent(statistics.mean(top1))
        found[f"image_size.{name}.interval"] = _around(top1)
    learned = results["image_size"]["learned"]
    found["image_size.learned"] = _percent(statistics.mean(learned))
    found["image_size.learned.interval"] = _around(learned)
    for layer, ratios in results["auxiliary_heads"]["gradient_ratio"].items():
        found[f"auxiliary_heads.gradient.{layer}"] = Figure((statistics.mean(ratios),), 2)
        for what, ratio in (("least", min(ratios)), ("most", max(ratios))):
            found[f"auxiliary_heads.gradient.{layer}.{what}"] = Figure((ratio,), 2)
    return found


def _of_arm(key: str, arm: Any) -> dict[str, Figure]:
    """The figures of one arm of a comparison."""
    reached, difference = arm["reached"], arm["difference"]
    found = {
        key: _percent(reached["mean"]),
        f"{key}.interval": Figure((100 * reached["low"], 100 * reached["high"]), 2),
        f"{key}.parameters": Figure((arm["parameters"],)),
        f"{key}.macs": Figure((arm["macs"],)),
        f"{key}.macs.millions": Figure((arm["macs"] / 1e6,), 2),
    }
    if difference:
        bounds = (100 * difference["low"], 100 * difference["high"])
        found |= {
            f"{key}.difference": _points(difference["mean"]),
            f"{key}.difference.interval": Figure(bounds, 2, signed=True),
            f"{key}.p": _p(arm["p_adjusted"]),
        }
    return found


SPANISH = {
    "standardised": "estandarizados",
    "0_to_1": "de 0 a 1",
    "0_to_255": "de 0 a 255",
    "dense": "densa",
    "dense_shuffled": "densa, píxeles barajados",
    "cnn": "CNN",
    "cnn_shuffled": "CNN, píxeles barajados",
    "cnn_gap": "CNN con GAP",
    "2_filters": "2 filtros",
    "4_filters": "4 filtros",
    "8_filters": "8 filtros",
    "16_filters": "16 filtros",
    "32_filters": "32 filtros",
    "stride_1": "paso 1",
    "stride_2": "paso 2",
    "stride_3": "paso 3",
    "padded": "con relleno",
    "unpadded": "sin relleno",
    "max": "máximo",
    "average": "media",
    "stride": "paso 2 en lugar de agrupación",
    "stride_behind": "paso 2 en otra convolución",
    "two_3x3": "dos 3×3",
    "three_3x3": "tres 3×3",
    "dense_head": "capa densa",
    "gap": "GAP",
    "reduced": "con reducciones 1×1",
    "naive": "ingenuo",
    "without": "sin clasificadores auxiliares",
    "with": "con clasificadores auxiliares",
    "learned": "aprendidos",
    "random_first": "el primero al azar",
    "random_both": "ambos al azar",
    "no_filters": "sin convoluciones",
    "middle": "en el centro",
    "moved": "desplazada 4 píxeles",
    "enlarged": "ampliada",
    "cut": "recortada",
    "shrunk": "reducida",
    "convolutional": "convolucional",
}
ENGLISH = {
    "cnn": "CNN",
    "cnn_shuffled": "CNN, shuffled pixels",
    "dense_shuffled": "dense, shuffled pixels",
    "cnn_gap": "CNN with GAP",
    "stride": "stride in place of the pool",
    "stride_behind": "stride in a further convolution",
    "without": "without auxiliary classifiers",
    "with": "with auxiliary classifiers",
    "reduced": "with 1×1 reductions",
    "random_first": "first one random",
    "random_both": "both random",
    "no_filters": "no convolutions",
    "dense_head": "dense layer",
    "gap": "GAP",
    "middle": "in the middle",
    "moved": "moved by 4 pixels",
}


def label(name: str, language: str) -> str:
    """What a network of the results is called in a language."""
    known = SPANISH if language == "es" else ENGLISH
    if "." in name:
        return ", ".join(label(part, language) for part in name.split("."))
    return known.get(name, re.sub(r"(?<=\d)x(?=\d)", "×", name.replace("_", " ")))


HEADERS = {
    "en": ("network", "test top-1", "95 % interval", "difference", "p", "parameters", "MACs"),
    "es": (
        "red",
        "exactitud (prueba)",
        "intervalo del 95 %",
        "diferencia",
        "p",
        "parámetros",
        "MAC",
    ),
}


class Chapters:
    """What fills the chapters of a language."""

    def __init__(self, results: Any, language: str) -> None:
        self.results, self.language = results, language
        self.known = figures(results)

    def number(self, key: str) -> str:
        """The figure of a name, written out; empty where there is none."""
        return written(self.known[key], self.language) if key in self.known else ""

    def said(self, english: str, spanish: str) -> str:
        """The words of the language."""
        return spanish if self.language == "es" else english

    def called(self, name: str) -> str:
        """What a network is called."""
        return label(name, self.language)

    def table(self, part: str) -> str:
        """The table of a part, and a line on its setting."""
        own = getattr(self, f"_{part}", None)
        made: str = own() if own else self._comparison(part)
        return made + (f"\n\n{self._setting(part)}" if part != "counts" else "")

    def _comparison(self, part: str) -> str:
        rows = []
        for arm in self.results[part]["results"]:
            key = f"{part}.{arm['name']}"
            bounds, p = self.number(f"{key}.difference.interval"), arm["p_adjusted"]
            rows.append(
                [
                    self.called(arm["name"]),
                    self.number(key),
                    self.number(f"{key}.interval"),
                    f"{self.number(f'{key}.difference')} {bounds}" if bounds else "",
                    ("< " + self.small() if p < 0.001 else self.number(f"{key}.p")) if p else "",
                    self.number(f"{key}.parameters"),
                    self.number(f"{key}.macs"),
                ]
            )
        return table(HEADERS[self.language], rows)

    def small(self) -> str:
        """The smallest p that is written out."""
        return written(Figure((0.001,), 3), self.language)

    def _translation(self) -> str:
        moved = self.results["translation"]
        headers = [HEADERS[self.language][0], *(f"{d} px" for d in moved["distances"])]
        return table(
            headers,
            [
                [
                    self.called(name),
                    *(self.number(f"translation.{name}.{d}") for d in moved["distances"]),
                ]
                for name in moved["top1"]
            ],
        )

    def _sample_efficiency(self) -> str:
        headers = (
            self.said("training images", "imágenes de entrenamiento"),
            self.called("dense"),
            self.called("cnn"),
            HEADERS[self.language][3],
        )
        rows = [
            [
                written(Figure((images,)), self.language),
                *(self.number(f"sample_efficiency.{name}.{images}") for name in ("dense", "cnn")),
                self.number(f"sample_efficiency.ahead.{images}"),
            ]
            for images in self.results["sample_efficiency"]["images"]
        ]
        return table(headers, rows)

    def _normalisation(self) -> str:
        scaled = self.results["normalisation"]
        word = self.said("rate", "tasa")
        headers = [self.said("pixels", "píxeles")]
        headers += [f"{word} {self._plain(rate)}" for rate in scaled["rates"]]

        def cell(name: str, rate: float) -> str:
            key = f"normalisation.{name}.{rate}"
            if self.number(f"{key}.diverged") == "0":
                return f"{self.number(key)} {self.number(f'{key}.interval')}"
            times, seeds = self.number(f"{key}.diverged"), scaled["seeds"]
            others = self.number(key)
            return self.said(
                f"{times} of {seeds} diverged, the others {others}",
                f"{times} de {seeds} divergen; las demás, {others}",
            )

        return table(
            headers,
            [
                [self.called(name), *(cell(name, rate) for rate in scaled["rates"])]
                for name in scaled["top1"]
            ],
        )

    def _plain(self, number: float) -> str:
        return f"{number:g}".replace(".", "," if self.language == "es" else ".")

    def _image_size(self) -> str:
        names = [name for name in self.results["image_size"]["top1"] if "." in name]
        shown = list(dict.fromkeys(name.split(".")[0] for name in names))
        ways = list(dict.fromkeys(name.split(".")[1] for name in names))
        headers = [self.said("image of 40×40", "imagen de 40×40"), *map(self.called, ways)]
        return table(
            headers,
            [
                [self.called(one), *(self.number(f"image_size.{one}.{way}") for way in ways)]
                for one in shown
            ],
        )

    def _counts(self) -> str:
        headers = (
            *(HEADERS[self.language][0], HEADERS[self.language][5]),
            self.said("of these in dense layers", "de ellos, en capas densas"),
            *(HEADERS[self.language][6], self.said("of these in dense layers", "en capas densas")),
        )
        return table(
            headers,
            [
                [
                    f"`{name}`",
                    self.number(f"counts.{name}.parameters"),
                    self.number(f"counts.{name}.dense_parameters.share"),
                    self.number(f"counts.{name}.macs"),
                    self.number(f"counts.{name}.dense_macs.share"),
                ]
                for name in self.results["counts"]["models"]
            ],
        )

    def _setting(self, part: str) -> str:
        """Data and training of a part, in a line."""
        values = self.results[part]
        name, train, test, epochs = re.match(
            r"(\w+), ([\d,]+(?: to [\d,]+)?) training and ([\d,]+) test images, (.*?) epochs",
            values["setting"],
        ).groups()  # type: ignore[union-attr]
        test = f"{values['test_images']:,}" if "test_images" in values else test
        data = {"fashion_mnist": "Fashion-MNIST", "mnist": "MNIST"}.get(name, name)
        seeds = _seeds(values)
        holm = "p_adjusted" in str(values.get("results"))
        english = (
            f"*{data}: {train} training and {test} test images, {epochs} epochs, {seeds} seeds; "
            "means over seeds"
            + (", with Student's 95 % interval" if part not in PLAIN else "")
            + ("; differences from the first row, p of the paired test after Holm" if holm else "")
            + f". `experiments/textbook/{part}.py`*"
        )
        train, test, epochs = (
            re.sub(
                r"[\d,]+", lambda n: written(Figure((int(n[0].replace(",", "")),)), "es"), x
            ).replace(" to ", " a ")
            for x in (train, test, epochs)
        )
        spanish = (
            f"*{data}: {train} imágenes de entrenamiento y {test} de prueba, {epochs} épocas, "
            f"{seeds} semillas; medias sobre las semillas"
            + (", con el intervalo del 95 % de Student" if part not in PLAIN else "")
            + (
                "; diferencias respecto a la primera fila, p del contraste pareado con corrección "
                "de Holm"
                if holm
                else ""
            )
            + f". `experiments/textbook/{part}.py`*"
        )
        return self.said(english, spanish)

    def filled(self, text: str) -> str:
        """Returns a chapter with every figure and table made anew.

        Raises:
            KeyError: a comment names no figure.
        """

        def made(found: re.Match[str]) -> str:
            return f"{found[1]}\n\n{self.table(found[2])}\n\n{found[3]}"

        text = TABLE.sub(made, text)
        return MARK.sub(
            lambda m: written(self.known[m["key"]], self.language) + f"<!--{m['key']}-->", text
        )


TABLE = re.compile(r"(<!-- table: (\w+) -->)\n(?:(?!<!-- table).)*?(<!-- end -->)", re.DOTALL)
"""A table, between the comment that names it and its end."""
PLAIN = ("translation", "sample_efficiency", "image_size")
"""Parts whose tables hold means alone."""
MARK = re.compile(r"(?P<shown>[+−]?\d[\d.,\u202f]*(?: %)?|\[[^\]]*\]|\?)<!--(?P<key>[^ ][^>]*?)-->")
"""A figure and the comment that names it; a question mark is a figure that is not filled in yet."""


def _seeds(values: Any) -> int:
    """How many seeds a part has."""
    if "results" in values:
        return len(values["results"][0]["seeds"])
    if "seeds" in values:
        return int(values["seeds"])
    first = next(iter(values["top1"].values()))
    if "images" in values:  # by number of images first
        return len(first[0])
    return len(first)


def results() -> Any:
    """What the textbook has measured."""
    return json.loads(RESULTS.read_text(encoding="utf-8"))


def chapters(language: str) -> list[Path]:
    """The chapters of a language, in order."""
    return sorted((COURSE / language).glob("[0-9]*.md"))


def drawings() -> dict[str, str]:
    """Returns every picture, by the name of its file."""
    found = {f"{name}.svg": draw() for name, draw in pictures.WORDLESS.items()}
    for language in LANGUAGES:

        def called(name: str, language: str = language) -> str:
            return label(name, language)

        for name, drawing in pictures.drawn(results(), language, called).items():
            found[f"{name}.{language}.svg"] = drawing
    return found


def main() -> None:
    """Fills the chapters and draws the pictures."""
    for language in LANGUAGES:
        fill = Chapters(results(), language).filled
        for chapter in chapters(language):
            chapter.write_text(fill(chapter.read_text(encoding="utf-8")), encoding="utf-8")
    (COURSE / "pictures").mkdir(parents=True, exist_ok=True)
    for name, drawing in drawings().items():
        (COURSE / "pictures" / name).write_text(drawing, encoding="utf-8")


if __name__ == "__main__":
    main()
