"""Runs as one self-contained HTML page: no script, no request, light and dark, also on a phone."""

import base64
import html
import importlib.resources
import io
import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from jaxcnn.analysis import arms as runs
from jaxcnn.analysis import charts, compare, tables
from jaxcnn.analysis.arms import Arm, Run
from jaxcnn.analysis.compare import Comparison, Predictions
from jaxcnn.analysis.summary import Summary
from jaxcnn.config import to_dict

MISTAKES = 12
"""Images shown for each arm."""
WIDEST_CONFUSION = 20
"""Classes up to which the whole matrix is shown; of more, the most frequent confusions."""

POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
"""The browser itself refuses whatever would not lie in the page."""

Images = Callable[[Sequence[int]], np.ndarray]

escape = html.escape


def page(
    title: str,
    arms: Sequence[Arm],
    predictions: Predictions,
    images: Images | None = None,
    problems: Sequence[str] = (),
) -> str:
    """Builds the page.

    Args:
        title: its heading.
        arms: at least one, tested on the same data; the first is the baseline.
        predictions: of the runs, as far as they are at hand.
        images: gives test images ``(n, h, w, c)`` in uint8 by their places in the test split,
            for the worst mistakes.
        problems: what could not be reported, one line each.

    Returns:
        HTML, with every number it shows as JSON in the element ``data``.
    """
    comparison = compare.compare(arms, predictions)
    body = [
        f"<h1>{escape(title)}</h1>",
        f"<p>{_lead(comparison, arms)}</p>",
        *(f'<p class="problem">Left out: {escape(problem)}</p>' for problem in problems),
        section("Result", _results(comparison)),
        section("Learning curves", _curves(arms)),
        section("Accuracy against cost", _costs(comparison)),
        section("Errors per class", _class_errors(comparison)),
        section("Confusion", _confusions(arms, predictions, comparison.classes)),
        section("Worst mistakes", _mistakes(arms, predictions, comparison.classes, images)),
        section("Inside the networks", _pictures(arms)),
        section("Layers", "".join(_layers(r.name, r.layers) for r in comparison.results)),
        section("Configuration", _configuration(arms)),
        section("Environment", _environment(arms)),
    ]
    return document(title, body, _data(comparison, arms))


def document(title: str, body: Sequence[str], data: Mapping[str, Any]) -> str:
    """A whole page of the house's style.

    Args:
        title: of the window.
        body: HTML, part by part; empty ones are left out.
        data: what the page shows, as JSON in the element ``data``.
    """
    style = importlib.resources.files(__package__).joinpath("report.css").read_text("utf-8")
    values = json.dumps(data, allow_nan=False).replace("</", "<\\/")
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">\n'
        '<link rel="icon" href="data:,">\n'
        f"<title>{escape(title)}</title>\n<style>\n{style}</style>\n</head>\n<body>\n"
        + "\n".join(filter(None, body))
        + f'\n<script type="application/json" id="data">{values}</script>\n</body>\n</html>\n'
    )


def _data(comparison: Comparison, arms: Sequence[Arm]) -> dict[str, Any]:
    return {
        "comparison": compare.to_json(comparison),
        "runs": [
            {
                "path": str(run.path),
                "arm": arm.name,
                "config": to_dict(run.experiment),
                "environment": run.environment,
                "records": run.records,
                "summary": run.summary,
            }
            for arm in arms
            for run in arm.runs
        ],
    }


def section(title: str, content: str) -> str:
    """A heading and what stands under it; nothing for no content."""
    return f"<section>\n<h2>{title}</h2>\n{content}\n</section>" if content else ""


def _lead(comparison: Comparison, arms: Sequence[Arm]) -> str:
    count = sum(len(arm.runs) for arm in arms)
    best = max(comparison.results, key=lambda result: result.accuracy.mean)
    return (
        f"{count} run{'s' * (count > 1)} on {escape(comparison.dataset)}, "
        f"{comparison.test_examples:,} test images. Highest test top-1: "
        f"<strong>{escape(best.name)}</strong> with {tables.percent(best.accuracy)}."
    )


def table(
    headers: Sequence[str], rows: Iterable[Sequence[str]], kind: str = "", *, raw: bool = False
) -> str:
    """A table in a container that scrolls by itself; with ``raw`` the cells are HTML."""
    clean: Callable[[str], str] = str if raw else escape
    head = "".join(f"<th>{clean(h)}</th>" for h in headers)
    body = "".join("<tr>" + "".join(f"<td>{clean(c)}</td>" for c in row) + "</tr>" for row in rows)
    return (
        f'<div class="scroll"><table class="{kind}"><thead><tr>{head}</tr></thead>'
        f"<tbody>{body}</tbody></table></div>"
    )


def figure(caption: str, content: str) -> str:
    """A card with a caption (HTML)."""
    return f"<figure><figcaption>{caption}</figcaption>{content}</figure>"


def _results(comparison: Comparison) -> str:
    note = (
        " Memory is what XLA plans for the training program, the data included. The figures are "
        "those of the last epoch, none was chosen by its test accuracy."
    )
    return (
        table(tables.headers(comparison), tables.cells(comparison))
        + f'<p class="note">{escape(tables.explanation(comparison) + note)}</p>'
    )


# ------------------------------------------------------------------------------------- charts


def _curves(arms: Sequence[Arm]) -> str:
    shown = (
        ("test_top1", "test error, %", lambda value: 100 * (1 - value)),
        ("test_loss", "test loss, nats", float),
        ("train_top1", "training error, %", lambda value: 100 * (1 - value)),
        ("train_loss", "training loss, nats", float),
    )
    figures = [
        figure(
            label.capitalize(),
            charts.lines([_curve(arm, field, of) for arm in arms], "epoch", label, log_y=True),
        )
        for field, label, of in shown
    ]
    several = any(len(arm.runs) > 1 for arm in arms)
    note = (
        '<p class="note">Lines are means over seeds, bands reach from the lowest seed to the '
        "highest. Training figures are averages over an epoch, with dropout and augmentation.</p>"
        if several
        else '<p class="note">Training figures are averages over an epoch, with dropout and '
        "augmentation.</p>"
    )
    return (
        charts.legend([arm.name for arm in arms])
        + f'<div class="columns">{"".join(figures)}</div>'
        + note
    )


def _curve(arm: Arm, field: str, of: Callable[[float], float]) -> charts.Line:
    by_epoch: dict[float, list[float]] = {}
    for run in arm.runs:
        for record in run.records:
            if field in record:
                by_epoch.setdefault(record["epoch"], []).append(of(record[field]))
    epochs = sorted(by_epoch)
    values = [by_epoch[epoch] for epoch in epochs]
    return charts.Line(
        arm.name,
        epochs,
        [float(np.mean(v)) for v in values],
        [min(v) for v in values],
        [max(v) for v in values],
    )


def _costs(comparison: Comparison) -> str:
    results = comparison.results
    accuracies = [100 * result.accuracy.mean for result in results]
    figures = []
    for label, costs in (
        ("multiply-accumulates for one image", [float(result.macs) for result in results]),
        ("training time, s", [result.seconds for result in results]),
    ):
        points = [
            charts.Point(
                result.name, cost, y, 100 * result.accuracy.low, 100 * min(result.accuracy.high, 1)
            )
            for result, cost, y in zip(results, costs, accuracies, strict=True)
        ]
        front = compare.pareto(costs, accuracies)
        names = ", ".join(escape(results[i].name) for i in front)
        figures.append(
            figure(
                f"On the Pareto front: {names}",
                charts.scatter(points, front, label, "test top-1, %"),
            )
        )
    return f'<div class="columns">{"".join(figures)}</div>'


# ------------------------------------------------------------------------- errors and images


def _class_errors(comparison: Comparison) -> str:
    shown = [result for result in comparison.results if result.class_errors]
    if not shown:
        return ""
    rows = [
        [name, *(_percent(result.class_errors[i]) for result in shown)]
        for i, name in enumerate(comparison.classes)
    ]
    note = '<p class="note">Share of the class taken for another, in percent, mean over seeds.</p>'
    return table(["class", *(result.name for result in shown)], rows) + note


def _percent(share: float) -> str:
    return "–" if math.isnan(share) else f"{100 * share:.1f}"


def _confusions(arms: Sequence[Arm], predictions: Predictions, classes: Sequence[str]) -> str:
    parts = []
    for arm in arms:
        held = [predictions[run.path] for run in arm.runs if run.path in predictions]
        if not held:
            continue
        counts = np.sum([compare.confusion(p, len(classes)) for p in held], axis=0)
        share = 100 * counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
        draw = _matrix if len(classes) <= WIDEST_CONFUSION else _frequent
        parts.append(figure(escape(arm.name), draw(share, classes)))
    if not parts:
        return ""
    note = '<p class="note">Rows are labels, columns predictions, in percent of the row.</p>'
    return f'<div class="columns">{"".join(parts)}</div>{note}'


def _matrix(share: np.ndarray, classes: Sequence[str]) -> str:
    head = "".join(f"<th><span>{escape(name)}</span></th>" for name in classes)
    rows = []
    for name, row in zip(classes, share, strict=True):
        cells = []
        for value in row:
            # Errors are what is looked for, and they are few: the square root lifts them.
            depth = math.sqrt(value / 100)
            text = "" if value == 0 else f"{value:.0f}" if value >= 9.95 else f"{value:.1f}"
            strong = ' class="strong"' if depth > 0.6 else ""
            cells.append(f'<td{strong} style="--p:{depth:.2f}">{text}</td>')
        rows.append(f"<tr><th>{escape(name)}</th>{''.join(cells)}</tr>")
    return (
        f'<div class="scroll"><table class="confusion"><thead><tr><th></th>{head}</tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table></div>"
    )


def _frequent(share: np.ndarray, classes: Sequence[str]) -> str:
    errors = share - np.diag(share.diagonal())
    order = np.argsort(errors, axis=None)[::-1][:WIDEST_CONFUSION]
    rows = []
    for label, predicted in zip(*np.unravel_index(order, errors.shape), strict=True):
        if errors[label, predicted] > 0:
            value = f"{errors[label, predicted]:.1f}"
            rows.append([classes[int(label)], classes[int(predicted)], value])
    return table(["label", "taken for", "%"], rows)


def _mistakes(
    arms: Sequence[Arm],
    predictions: Predictions,
    classes: Sequence[str],
    images: Images | None,
) -> str:
    if images is None:
        return ""
    parts = []
    for arm in arms:
        held = [predictions[run.path] for run in arm.runs if run.path in predictions]
        if not held:
            continue
        own = np.mean([p["label_probability"] for p in held], axis=0)
        wrong = np.sum([p["predicted"] != p["label"] for p in held], axis=0)
        worst = [int(i) for i in np.argsort(own)[:MISTAKES] if wrong[i]]
        places = held[0]["index"][worst].tolist()
        figures = []
        shown = images(places) if worst else ()
        for i, place, image in zip(worst, places, shown, strict=True):
            # What most seeds, or the first of them, took it for.
            taken = [int(p["predicted"][i]) for p in held if p["predicted"][i] != p["label"][i]]
            most = max(taken, key=taken.count)
            count = f", {wrong[i]} of {len(held)} seeds" if len(held) > 1 else ""
            label = classes[int(held[0]["label"][i])]
            figures.append(
                f'<figure><img alt="test image {place}" src="{_png(image)}">'
                f"<b>{escape(label)}</b> taken for <b>{escape(classes[most])}</b>: "
                f"{own[i]:.1%} for the label{count} (#{place})</figure>"
            )
        content = "".join(figures) or '<p class="note">None.</p>'
        parts.append(f'<h3>{escape(arm.name)}</h3><div class="mistakes">{content}</div>')
    return "".join(parts)


def _png(image: np.ndarray) -> str:
    from PIL import Image

    buffer = io.BytesIO()
    grey = image.shape[-1] == 1
    Image.fromarray(image[..., 0] if grey else image[..., :3]).save(buffer, "PNG")
    return data_uri(buffer.getvalue())


def data_uri(png: bytes) -> str:
    """A PNG file as an address that holds it."""
    return f"data:image/png;base64,{base64.b64encode(png).decode()}"


def _pictures(arms: Sequence[Arm]) -> str:
    """The PNG files that ``jaxcnn viz`` has left in the folders of the first seeds."""
    parts = []
    for arm in arms:
        folder = next((run.path / "viz" for run in arm.runs if (run.path / "viz").is_dir()), None)
        files = sorted(folder.glob("*.png")) if folder else []
        figures = "".join(
            figure(
                escape(file.stem.replace("_", " ")),
                f'<img alt="{escape(file.stem)}" src="{data_uri(file.read_bytes())}">',
            )
            for file in files
        )
        if figures:
            parts.append(f'<h3>{escape(arm.name)}</h3><div class="columns">{figures}</div>')
    return "".join(parts)


# ----------------------------------------------------------- layers, configuration, environment


def _layers(name: str, layers: Summary) -> str:
    rows = [
        [
            row.layer,
            row.type,
            "x".join(map(str, row.output_shape)) if row.output_shape else "(training only)",
            f"{row.parameters:,}" if row.parameters else "",
            f"{row.macs:,}" if row.macs else "",
            f"{row.activations:,}" if row.output_shape else "",
            "x".join(map(str, row.receptive_field)) if row.receptive_field else "image",
        ]
        for row in layers.rows
    ]
    headers = ["layer", "type", "output", "parameters", "MACs", "activations", "receptive field"]
    line = (
        f"{escape(name)}: {len(rows)} layers, {layers.parameters:,} parameters, "
        f"{layers.macs:,} MACs"
    )
    return f"<details><summary>{line}</summary>{table(headers, rows)}</details>"


def _configuration(arms: Sequence[Arm]) -> str:
    fields = runs.config_differences(arms)
    rows = [[name, *map(_plain, values)] for name, values in fields.items()]
    changed = table(["field", *(arm.name for arm in arms)], rows, "text") if rows else ""
    whole = "".join(
        f"<details><summary>{escape(arm.name)}: seeds {', '.join(map(str, arm.seeds))}, "
        f"whole configuration</summary><pre>"
        f"{escape(json.dumps(to_dict(arm.experiment), indent=2))}</pre></details>"
        for arm in arms
    )
    return changed + whole


def _plain(value: Any) -> str:
    if value is None:
        return "–"
    return json.dumps(value) if not isinstance(value, str) else value


def _environment(arms: Sequence[Arm]) -> str:
    every: list[Run] = [run for arm in arms for run in arm.runs]
    flat = [_flat(run.environment) for run in every]
    names = list(dict.fromkeys(name for one in flat for name in one))
    rows = []
    for name in names:
        values = list(dict.fromkeys(_plain(one.get(name)) for one in flat))
        rows.append([name, " | ".join(values)])
    mixed = any(one != flat[0] for one in flat)
    note = (
        '<p class="note problem">The runs come from different environments: compare their times '
        "with care.</p>"
    )
    return (note if mixed else "") + table(["", ""], rows, "text")


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            found |= _flat(value, f"{prefix}{name}.")
        else:
            found[prefix + name] = value
    return found
