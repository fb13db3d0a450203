"""Runs as one self-contained HTML page: no script, no request, light and dark, also on a phone."""

import base64
import functools
import io
import json
import logging
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
from markupsafe import Markup

from jaxcnn.analysis import arms as finished
from jaxcnn.analysis import calibration, compare, formats, plots, summary, tables
from jaxcnn.analysis.arms import Arm, FinishedRun
from jaxcnn.analysis.calibration import Kept
from jaxcnn.analysis.compare import Predictions
from jaxcnn.config import flat, to_dict
from jaxcnn.errors import InputError
from jaxcnn.learning import files
from jaxcnn.learning.records import plain
from jaxcnn.tasks import LOSS
from jaxcnn.text import printable

if TYPE_CHECKING:
    import jinja2

log = logging.getLogger(__name__)

PNG = b"\x89PNG\r\n\x1a\n"
"""What every PNG file begins with."""
MISTAKES = 12
"""Images shown for each arm."""
WIDEST_CONFUSION = 20
"""Classes up to which the whole matrix is shown; of more, the most frequent confusions."""

Images = Callable[[Sequence[int]], np.ndarray]


def page(
    title: str,
    arms: Sequence[Arm],
    predictions: Predictions,
    images: Images | None = None,
    problems: Sequence[str] = (),
) -> str:
    """Builds the page on some arms.

    Args:
        title: heading of the page.
        arms: at least one, tested on the same data; the first is the baseline.
        predictions: predictions of the runs, as far as they are at hand.
        images: gives test images ``(n, h, w, c)`` in uint8 by their places in the test split,
            for the worst mistakes.
        problems: what could not be reported, one line each.

    Returns:
        HTML, with every number it shows as JSON in the element ``data``.
    """
    comparison = compare.compare(arms, predictions)
    classes = comparison.classes
    runs = [run for arm in arms for run in arm.runs]
    held = {
        arm.name: [predictions[run.path] for run in arm.runs if run.path in predictions]
        for arm in arms
    }
    held = {name: found for name, found in held.items() if found}
    environment, mixed = _environment(runs)
    return render(
        "report.html",
        title=title,
        data={"comparison": compare.to_json(comparison), "runs": _data(arms)},
        problems=problems,
        comparison=comparison,
        arms=arms,
        names=[arm.name for arm in arms],
        runs=len(runs),
        results=(tables.headers(comparison), tables.cells(comparison)),
        best=formats.interval(comparison.metric, comparison.best.reached),
        explanation=tables.explanation(comparison),
        curves=_curves(arms),
        several_seeds=any(len(arm.runs) > 1 for arm in arms),
        costs=[
            (front, plots.scatter(points, front, label, formats.titled(comparison.metric, "test")))
            for label, points, front in plots.costs(comparison)
        ],
        times=tables.times(arms),
        blocks=[
            (name, tables.block(comparison, name), tables.explained(comparison, name))
            for name in tables.blocks(comparison)
        ],
        diagrams={"calibration": _calibration(held, [arm.name for arm in arms])},
        class_errors=tables.class_errors(comparison) if held else None,
        confusions=[(name, _confusion(found, classes)) for name, found in held.items()],
        whole_matrix=len(classes) <= WIDEST_CONFUSION,
        mistakes=[(n, _mistakes(found, classes, images)) for n, found in held.items() if images],
        pictures=[(arm.name, files) for arm in arms if (files := _pictures(arm))],
        layers=[result.layers and summary.cells(result.layers) for result in comparison.results],
        layer_headers=summary.HEADERS,
        differences=[
            [field, *map(_word, values)]
            for field, values in finished.config_differences(arms).items()
        ],
        configurations=[json.dumps(to_dict(arm.experiment), indent=2) for arm in arms],
        environment=environment,
        mixed=mixed,
    )


def render(template: str, folder: Path | None = None, **values: Any) -> str:
    """Fills a template, which usually extends ``page.html``; all text in it is escaped.

    Args:
        template: name of the template.
        folder: where templates lie besides those of this package.
        values: what the template names; ``page.html`` wants a ``title`` and, as the numbers that
            the page shows, ``data``.

    Raises:
        jinja2.UndefinedError: the template names something that is not there.
    """
    return printable(_templates(folder).get_template(template).render(values), keep="\n\t")


def legend(names: Sequence[str]) -> Markup:
    """Returns names beside the colours that charts give to them in this order."""
    parts: Any = _templates().get_template("parts.html").module
    return Markup(parts.legend(names))


@functools.cache
def _templates(folder: Path | None = None) -> "jinja2.Environment":
    import jinja2

    own = jinja2.PackageLoader("jaxcnn.analysis")
    found = jinja2.Environment(
        loader=jinja2.ChoiceLoader([own, jinja2.FileSystemLoader(folder)]) if folder else own,
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    found.policies["json.dumps_kwargs"] = {"allow_nan": False}
    found.globals["colours"] = len(plots.COLOURS)
    found.filters["count"] = "{:,}".format
    found.filters["picture"] = picture
    found.filters["png"] = _png
    return found


def picture(png: bytes, alt: str) -> Markup:
    """Returns a PNG file as an image element that holds it."""
    address = f"data:image/png;base64,{base64.b64encode(png).decode()}"
    return Markup('<img alt="{}" src="{}">').format(alt, address)


def _data(arms: Sequence[Arm]) -> list[dict[str, Any]]:
    return [
        {
            "path": str(run.path),
            "arm": arm.name,
            "config": to_dict(run.experiment),
            "environment": msgspec.to_builtins(run.environment),
            "records": [*map(plain, run.records)],
            "summary": plain(run.summary),
        }
        for arm in arms
        for run in arm.runs
    ]


def _curves(arms: Sequence[Arm]) -> list[tuple[str, Markup]]:
    found, kinds = [], list(dict.fromkeys((arms[0].metric, LOSS)))
    splits = {"validation": "val", "test": "test", "training": "train"}
    for split, prefix in splits.items():
        for metric in kinds:
            label, of, logarithmic = plots.curve(metric, split)
            curves = {arm.name: _curve(arm, f"{prefix}_{metric.name}", of) for arm in arms}
            if any(curves.values()):
                chart = plots.lines(curves, "epoch", label, log_y=logarithmic)
                found.append((label[:1].upper() + label[1:], chart))
    return found


def _curve(arm: Arm, field: str, of: Callable[[float], float]) -> plots.Series:
    by_epoch: dict[float, list[float]] = {}
    for run in arm.runs:
        for record in run.records:
            value = record.value(field)
            if value is not None:
                by_epoch.setdefault(record.epoch, []).append(of(value))
    return dict(sorted(by_epoch.items()))


def _calibration(
    held: Mapping[str, Sequence[Kept]], names: Sequence[str]
) -> list[tuple[str, Markup]]:
    """Draws a reliability diagram of each arm, and accuracy against coverage of all.

    The images of an arm's seeds are counted together in the one; in the other its line is the mean.
    """
    known = {n: [k for k in kept if k.keys() >= calibration.FIELDS] for n, kept in held.items()}
    if not any(known.values()):
        return []
    charts = []
    for i, name in enumerate(names):
        if known.get(name):
            parts = [calibration.confident(kept) for kept in known[name]]
            confidence, right = (np.concatenate(part) for part in zip(*parts, strict=True))
            found = calibration.reliability(confidence, right)
            label = f"accuracy over confidence of {name}"
            charts.append((f"Reliability: {name}", plots.reliability(found, label, i)))
    # Of arms without predictions too, so that each keeps its colour.
    curves = {name: plots.coverage(known.get(name, [])) for name in names}
    charts.append(("Accuracy against coverage", plots.lines(curves, "coverage, %", "accuracy, %")))
    return charts


def _confusion(
    held: Sequence[Mapping[str, np.ndarray]], classes: Sequence[str]
) -> list[list[tuple[float, str]]] | list[list[str]]:
    """Returns depth and text of the whole matrix's cells, or rows of the frequent confusions."""
    counts = np.sum([compare.confusion(p, len(classes)) for p in held], axis=0)
    share = 100 * counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    if len(classes) <= WIDEST_CONFUSION:
        # Errors are what is looked for, and they are few: the square root lifts them.
        return [[(math.sqrt(value / 100), _share(value)) for value in row] for row in share]
    np.fill_diagonal(share, 0)
    order = np.argsort(share, axis=None)[::-1][:WIDEST_CONFUSION]
    return [
        [classes[label], classes[predicted], f"{share[label, predicted]:.1f}"]
        for label, predicted in zip(*np.unravel_index(order, share.shape), strict=True)
        if share[label, predicted] > 0
    ]


def _share(percent: float) -> str:
    return "" if percent == 0 else f"{percent:.0f}" if percent >= 9.95 else f"{percent:.1f}"


def _mistakes(
    held: Sequence[Mapping[str, np.ndarray]], classes: Sequence[str], images: Images
) -> list[dict[str, Any]]:
    """Returns what is shown of the images that an arm's runs are surest to take for others."""
    own = np.mean([p["label_probability"] for p in held], axis=0)
    wrong = np.sum([p["predicted"] != p["label"] for p in held], axis=0)
    worst = [int(i) for i in np.argsort(own)[:MISTAKES] if wrong[i]]
    places = held[0]["index"][worst].tolist()
    shown = []
    for i, place, image in zip(worst, places, images(places) if worst else (), strict=True):
        # What most seeds, or the first of them, took it for.
        taken = [int(p["predicted"][i]) for p in held if p["predicted"][i] != p["label"][i]]
        shown.append(
            {
                "place": place,
                "pixels": image,
                "label": classes[int(held[0]["label"][i])],
                "taken_for": classes[max(taken, key=taken.count)],
                "probability": own[i],
                "wrong": wrong[i],
                "seeds": len(held),
            }
        )
    return shown


def _png(image: np.ndarray) -> bytes:
    from PIL import Image

    buffer = io.BytesIO()
    grey = image.shape[-1] == 1
    Image.fromarray(image[..., 0] if grey else image[..., :3]).save(buffer, "PNG")
    return buffer.getvalue()


def _pictures(arm: Arm) -> list[tuple[str, bytes]]:
    """Returns the PNG files that ``jaxcnn viz`` has left in the folder of the arm's first seed.

    A page is handed on, so links, which could bring any file of the machine into it, are left out.
    """
    folders = [run.path / "viz" for run in arm.runs]
    folder = next((place for place in folders if place.is_dir() and not place.is_symlink()), None)
    found = []
    for file in sorted(folder.glob("*.png")) if folder else []:
        try:
            content = files.read_bytes(file, follow=False)
        except InputError as error:
            log.warning("left out: %s", error)
            continue
        if content.startswith(PNG):
            found.append((file.stem, content))
        else:
            log.warning("left out: %s: is no PNG file", file)
    return found


def _word(value: Any) -> str:
    if value is None:
        return formats.UNKNOWN
    return value if isinstance(value, str) else json.dumps(value)


def _environment(runs: Sequence[FinishedRun]) -> tuple[list[list[str]], bool]:
    """Returns the fields of the runs' environments with their values, and whether they differ."""
    each = [flat(msgspec.to_builtins(run.environment)) for run in runs]
    names = dict.fromkeys(name for one in each for name in one)
    rows = [
        [name, " | ".join(dict.fromkeys(_word(one.get(name)) for one in each))] for name in names
    ]
    return rows, any(one != each[0] for one in each)
