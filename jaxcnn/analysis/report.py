"""Runs as one self-contained HTML page: no script, no request, light and dark, also on a phone."""

import base64
import functools
import hashlib
import io
import json
import logging
import math
import pprint
import textwrap
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
from markupsafe import Markup

from jaxcnn.analysis import arms as finished
from jaxcnn.analysis import calibration, compare, formats, plots, status, summary, tables
from jaxcnn.analysis.arms import Arm, FinishedRun
from jaxcnn.analysis.calibration import Kept
from jaxcnn.analysis.compare import Predictions
from jaxcnn.config import flat, to_dict
from jaxcnn.errors import InputError
from jaxcnn.learning import brought, files, run_folder
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

SPLITS = {"validation": "val", "test": "test", "training": "train"}
"""Of what curves are drawn, and with what the names of its metrics begin."""

Images = Callable[[Sequence[int]], np.ndarray]


def page(
    title: str,
    arms: Sequence[Arm],
    predictions: Predictions,
    images: Images | None = None,
    problems: Sequence[str] = (),
    training: Mapping[str, Any] | None = None,
    live: str = "",
) -> str:
    """Builds the page on some arms: that of a comparison, or of a single one that of a run.

    Args:
        title: heading of the page.
        arms: at least one, tested on the same data; the first is the baseline.
        predictions: predictions of the runs, as far as they are at hand.
        images: gives test images ``(n, h, w, c)`` in uint8 by their places in the test split,
            for the worst mistakes.
        problems: what could not be reported, one line each.
        training: what is shown of runs that are not finished: see :func:`unfinished`.
        live: script of a page that is served, and updates itself.

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
    alone = len(arms) == 1
    return render(
        "run.html" if alone else "report.html",
        live=live,
        title=title,
        data={"comparison": compare.to_json(comparison), "runs": _data(arms)},
        problems=problems,
        comparison=comparison,
        arms=arms,
        names=[arm.name for arm in arms],
        runs=len(runs),
        training=training,
        results=(
            tables.of_one(comparison, runs)
            if alone
            else (tables.headers(comparison), tables.cells(comparison))
        ),
        best=formats.interval(comparison.metric, comparison.best.reached),
        explanation=tables.explanation(comparison),
        curves=_curves_of_one(arms[0]) if alone else _curves(arms),
        splits=("training", "held out"),
        per_class=_per_class(held, classes),
        again=_again(arms[0]),
        brought=brought.is_recorded(arms[0].runs[0].path),
        several_seeds=any(len(arm.runs) > 1 for arm in arms),
        costs=[
            (front, plots.scatter(points, front, label, formats.titled(comparison.metric, "test")))
            for label, points, front in plots.costs(comparison)
            if not alone
        ],
        times=tables.times(arms),
        blocks=[
            (name, _block(comparison, name), tables.explained(comparison, name))
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


def unfinished(folder: Path) -> dict[str, Any] | None:
    """Returns what a page shows of the runs in a folder that are not finished; None if all are.

    Raises:
        InputError: the folder neither is nor holds a run.
    """
    paths = status.within(folder)
    read = (status.read(path, name) for name, path in paths.items())
    found = [one for one in read if one.state != "finished"]
    if not found:
        return None
    curves: dict[str, dict[str, plots.Series]] = {}
    for one in found:
        for label, series in _curves_so_far(paths[one.name]).items():
            curves.setdefault(label, {})[one.name] = series
    # Runs without curves too, so that each keeps its colour.
    charts = [
        (
            label[:1].upper() + label[1:],
            plots.lines({one.name: drawn.get(one.name, {}) for one in found}, "epoch", label),
        )
        for label, drawn in curves.items()
    ]
    rows = [[one.name, one.state, _how_far(one), one.figure or one.reason] for one in found]
    headers, names = ["run", "state", "epoch", "last"], [one.name for one in found]
    return {"headers": headers, "rows": rows, "curves": charts, "names": names}


def _how_far(run: status.Status) -> str:
    if run.epochs is None:
        return formats.UNKNOWN
    return f"epoch {run.epoch or 0} of {run.epochs}"


def _curves_so_far(path: Path) -> dict[str, plots.Series]:
    """Returns what a run that is not finished has reached at each epoch, by what is drawn of it."""
    if not (path / "config.json").exists():
        return {}
    try:
        metric, records = run_folder.judged(path).metrics[0], run_folder.evaluations(path)
    except InputError:  # its state says why
        return {}
    found: dict[str, plots.Series] = {}
    for split, prefix in SPLITS.items():
        label, of, _ = plots.curve(metric, split)
        values = {record.epoch: record.value(f"{prefix}_{metric.name}") for record in records}
        series = {epoch: [of(value)] for epoch, value in values.items() if value is not None}
        if series:
            found[label] = series
    return found


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
    found = _templates(folder).get_template(template).render({"live": "", **values})
    return printable(found, keep="\n\t")


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
    found.filters["sha256"] = _digest
    found.filters["count"] = "{:,}".format
    found.filters["picture"] = picture
    found.filters["png"] = _png
    return found


def _digest(script: str) -> str:
    """Returns what a page's policy names a script by that it may run."""
    return f"sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}"


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
    for split, prefix in SPLITS.items():
        for metric in kinds:
            label, of, logarithmic = plots.curve(metric, split)
            curves = {arm.name: _curve(arm, f"{prefix}_{metric.name}", of) for arm in arms}
            if any(curves.values()):
                chart = plots.lines(curves, "epoch", label, log_y=logarithmic)
                found.append((label[:1].upper() + label[1:], chart))
    return found


def _curves_of_one(arm: Arm) -> list[tuple[str, Markup]]:
    """Draws loss and metric of a single arm: what is held out and what is trained on together."""
    found: list[tuple[str, Markup]] = []
    for metric in dict.fromkeys((arm.metric, LOSS)):
        for split in ("validation", "test"):
            label, of, logarithmic = plots.curve(metric, split)
            curves = {
                name: _curve(arm, f"{prefix}_{metric.name}", of)
                for name, prefix in (("training", "train"), ("held out", SPLITS[split]))
            }
            if len(curves["held out"]) > 1 or (split == "test" and not found):
                whole = plots.curve(metric)[0]
                chart = plots.lines(
                    curves, "epoch", whole, log_y=logarithmic, styles=plots.TRAINING_AND_HELD_OUT
                )
                found.append((f"{label[:1].upper()}{label[1:]}, and in training", chart))
    return found


def _block(comparison: compare.ComparisonResult, name: str) -> tuple[list[str], list[list[str]]]:
    """Returns the table of a block of measures; of one arm without what compares arms."""
    headers, rows = tables.block(comparison, name)
    if len(comparison.results) > 1:
        return headers, rows
    return [], [[title, value] for title, _, value, *_ in rows]


def _per_class(
    held: Mapping[str, Sequence[Mapping[str, np.ndarray]]], classes: Sequence[str]
) -> tuple[list[str], list[list[str]]] | None:
    """Returns the table of a single arm's classes: recall, precision, what each is taken for.

    The answers of all seeds are counted together.
    """
    if len(held) != 1:
        return None
    (answers,) = held.values()
    counts = np.sum([compare.confusion(kept, len(classes)) for kept in answers], axis=0)
    rows = []
    for i, name in enumerate(classes):
        wrong = np.where(np.arange(len(classes)) == i, 0, counts[i])
        taken = int(wrong.argmax())
        rows.append(
            [
                name,
                f"{counts[i].sum() // len(answers):,}",
                _ratio(counts[i, i], counts[i].sum()),
                _ratio(counts[i, i], counts[:, i].sum()),
                f"{classes[taken]} ({_ratio(wrong[taken], counts[i].sum())})"
                if wrong.any()
                else "",
            ]
        )
    return ["class", "images", "recall", "precision", "most often taken for"], rows


def _ratio(part: int, whole: int) -> str:
    return f"{100 * part / whole:.1f} %" if whole else formats.UNKNOWN


def _again(arm: Arm) -> str:
    """Returns an experiment file with the configuration of an arm's first run."""
    config = pprint.pformat(to_dict(arm.experiment), width=96, sort_dicts=False)
    body = textwrap.indent(f"return from_dict(\n{textwrap.indent(config, ' ' * 4)}\n)", " " * 4)
    return f"from jaxcnn.config import from_dict\n\n\ndef config():\n{body}\n"


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
