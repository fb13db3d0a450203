"""What the trials of a sweep have come to, for the terminal, a file and a page."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import msgspec
import numpy as np
from msgspec import Meta

from jaxcnn.analysis import formats, plots, report, tables
from jaxcnn.errors import InputError
from jaxcnn.learning import files, run_folder
from jaxcnn.learning.records import Number, Selected, Text, Texts
from jaxcnn.learning.selection import OPTIMISTIC, PREFIX, score
from jaxcnn.tasks import LOSS, Metric
from jaxcnn.text import counted

if TYPE_CHECKING:
    from rich.table import Table

ENDINGS = ("pruned", "diverged", "failed", "refused", "unfinished")
"""What can have become of a trial that has no result; a row holds why under this name."""


@dataclass(frozen=True)
class Sweep:
    """What a sweep has come to.

    Attributes:
        name: the name of its experiment.
        rows: what is known of each trial, the best first: its name ``trial``, its ``values`` by
            field, and ``val_`` and ``test_`` figures, ``seconds`` and ``parameters``, or why it has
            none.
        split: the split that trials are chosen by.
        metric: what they are chosen by.
        importances: the share of that metric's variance which each field explains, where known.
        front: the trials that no other beats in all of several objectives.
        costs: names of figures of a row, such as ``macs``, that were sought to be low.
        scales: of the fields that are searched between bounds.
    """

    name: str
    rows: Sequence[Mapping[str, Any]]
    split: str
    metric: Metric
    importances: Mapping[str, float] = field(default_factory=dict)
    front: Sequence[str] = ()
    costs: Sequence[str] = ()
    scales: Mapping[str, plots.Scale] = field(default_factory=dict)

    @property
    def done(self) -> list[Mapping[str, Any]]:
        """The trials that have a result, the best first."""
        return [row for row in self.rows if "test_loss" in row]

    def best(self) -> str:
        """Names the best trial, with its figure by which it was chosen and its test figure."""
        values, figures = self.best_values_and_figures()
        return f"best: {self.done[0]['trial']} ({values}), {figures}"

    def best_values_and_figures(self) -> tuple[str, str]:
        """Returns the values of the best trial, and its figures with how it was chosen."""
        row, metric = self.done[0], self.metric
        splits = ("validation", "test") if self.split == "validation" else ("test",)
        figures = [
            f"{split} {metric.title} {metric.shown(row[f'{PREFIX[split]}_{metric.name}'])}"
            for split in splits
        ]
        chosen = OPTIMISTIC if self.split == "test" else "chosen on the validation set"
        values = ", ".join(f"{name}={value}" for name, value in row["values"].items())
        return values, f"{', '.join(figures)}, {chosen}"


def ordered(rows: Sequence[Mapping[str, Any]], metric: Metric) -> list[Mapping[str, Any]]:
    """Returns rows with the best first, and those without a result last."""
    return sorted(rows, key=lambda row: score(row, metric), reverse=True)


def to_json(sweep: Sweep) -> dict[str, Any]:
    """Returns what sweep.json holds."""
    found: dict[str, Any] = {
        "experiment": sweep.name,
        "selected_on": sweep.split,
        "selected_by": sweep.metric.name,
        "trials": [*sweep.rows],
    }
    if sweep.importances:
        found["importances"] = dict(sweep.importances)
    elif associated := associations(sweep):
        found["associations"] = associated
    if sweep.front:
        found["front"] = [*sweep.front]
    if sweep.costs:
        found["costs"] = [*sweep.costs]
    if sweep.scales:
        found["scales"] = {name: [*scale] for name, scale in sweep.scales.items()}
    return found


class Kept(msgspec.Struct, kw_only=True, frozen=True):
    """sweep.json, as far as a page of it needs."""

    experiment: Text
    selected_on: Selected
    selected_by: Text
    trials: Annotated[tuple[dict[str, Any], ...], Meta(description="a list of objects")]
    importances: Annotated[dict[str, Number], Meta(description="numbers by field")] = {}
    front: Texts = ()
    costs: Texts = ()
    scales: Annotated[
        dict[str, tuple[Literal["log", "uniform", "int"], Number, Number]],
        Meta(description="kinds and bounds by field"),
    ] = {}


def read(folder: Path) -> Sweep:
    """Reads what the sweep in a folder has come to.

    Raises:
        InputError: sweep.json is damaged, or no trial of it has a result.
    """
    file = folder / FILE
    kept = files.read(file, Kept)
    done = [row for row in kept.trials if "test_loss" in row]
    if not done:
        raise InputError(f"{file}: no trial has a result")
    if not isinstance(done[0].get("trial"), str):
        raise InputError(f"{file}: trials: `trial` of one is missing or damaged")
    known = (*run_folder.judged(folder / done[0]["trial"]).metrics, LOSS)
    metric = next((one for one in known if one.name == kept.selected_by), None)
    if metric is None:
        raise InputError(
            f"{file}: selected_by={kept.selected_by!r}: must be one of the trials' metrics"
        )
    for row in kept.trials:
        if wrong := _damaged(row, done[0], kept):
            raise InputError(f"{file}: trials: `{wrong}` of one is missing or damaged")
    for name, (kind, low, high) in kept.scales.items():
        if not (low < high and (low > 0 or kind != "log")):
            raise InputError(f"{file}: scales: {name}: must be from a bound to a greater one")
    return Sweep(
        kept.experiment,
        ordered(kept.trials, metric),
        kept.selected_on,
        metric,
        kept.importances,
        kept.front,
        kept.costs,
        kept.scales,
    )


def _damaged(row: Mapping[str, Any], other: Mapping[str, Any], kept: Kept) -> str | None:
    """Returns the name of what a trial lacks, compared with another one; None if it is whole."""
    if not isinstance(row.get("trial"), str):
        return "trial"
    values, others = row.get("values"), other.get("values")
    if not isinstance(values, dict) or not isinstance(others, dict):
        return "values"
    if values.keys() != others.keys() or not all(map(plots.drawable, values.values())):
        return "values"
    if "test_loss" not in row:
        told = any(isinstance(row.get(name), str) for name in ENDINGS)
        return None if told else "test_loss"
    prefixes = dict.fromkeys((PREFIX[kept.selected_on], "test"))
    names = [f"{p}_{name}" for p in prefixes for name in (kept.selected_by, LOSS.name)]
    for name in (*names, *kept.costs, "seconds"):
        value = row.get(name)
        if not isinstance(value, int | float) or not plots.drawable(value):
            return name
    return None


FILE = "sweep.json"


def associations(sweep: Sweep) -> dict[str, float]:
    """Returns how strongly each field goes with what trials reached, the strongest first.

    Of numbers that is Spearman's rank correlation; of words, which have no order, the correlation
    ratio of the ranks, from 0 to 1. Fields that are the same in all trials are left out; so are
    all, where fewer than three trials have a result.
    """
    from scipy.stats import rankdata, spearmanr

    rows = sweep.done
    reached = np.array([sweep.metric.score(score(row, sweep.metric)) for row in rows])
    if len(rows) < 3 or len(set(reached.tolist())) == 1:
        return {}
    found, ranks = {}, rankdata(reached)
    for name in rows[0]["values"]:
        values = [row["values"][name] for row in rows]
        words = np.array([json.dumps(value, default=str) for value in values])
        if len({*words.tolist()}) == 1:
            continue
        if plots.numeric(values):
            found[name] = float(spearmanr(values, ranks).statistic)
        else:
            means = np.array([ranks[words == word].mean() for word in words])
            found[name] = float(np.std(means) / np.std(ranks))
    return dict(sorted(found.items(), key=lambda item: -abs(item[1])))


def cells(sweep: Sweep) -> tuple[list[str], list[list[str]]]:
    """Returns headers and rows of the table of trials."""
    metrics, prefix = list(dict.fromkeys((sweep.metric, LOSS))), PREFIX[sweep.split]
    fields = list(sweep.rows[0]["values"])
    rows = []
    for row in sweep.rows:
        if "test_loss" in row:
            figures = [metric.shown(row[f"{prefix}_{metric.name}"]) for metric in metrics]
            figures += [formats.si(row[name]) for name in sweep.costs]
            figures.append(formats.duration(row["seconds"]))
        else:
            ended = next(name for name in ENDINGS if name in row)
            if ended == "pruned":  # after which epoch, without what it had reached
                ended = f"pruned {row[ended].partition(',')[0]}"
            figures = [ended, *[""] * (len(metrics) + len(sweep.costs))]
        starred = row["trial"] + " *" * (row["trial"] in sweep.front)
        rows.append([starred, *(str(row["values"][f]) for f in fields), *figures])
    titles = [f"{sweep.split} {m.title}" for m in metrics]
    return ["folder", *fields, *titles, *sweep.costs, "train time"], rows


def caption(sweep: Sweep) -> str:
    """Explains the table."""
    said = []
    if sweep.front:
        said.append("* no other trial is better in all objectives.")
    if len(sweep.importances) > 1:
        shares = [f"{name} {100 * share:.0f} %" for name, share in sweep.importances.items()]
        said.append(f"Share of the variance that each field explains: {', '.join(shares)}.")
    return " ".join(said)


def render(sweep: Sweep, width: int) -> "Table":
    """Lays the trials out as a table for a terminal of so many columns."""
    title = f"{sweep.name}: {counted(len(sweep.rows), 'trial')}"
    return tables.laid_out(*cells(sweep), width, title=title, caption=caption(sweep))


def page_cells(sweep: Sweep) -> tuple[list[str], list[list[str]]]:
    """Returns the table as a page shows it: by rank and values, with the folders' names last."""
    headers, rows = cells(sweep)
    short = plots.short_names(list(sweep.rows[0]["values"]))
    titles = ["rank", *(short.get(name, name) for name in headers[1:]), headers[0]]
    return titles, [[str(i), *rest, name] for i, (name, *rest) in enumerate(rows, start=1)]


def importance(sweep: Sweep) -> tuple[list[str], list[list[str]], str] | None:
    """Returns headers and rows of what matters most, with how that is measured; None if unknown."""
    reached = f"{sweep.split} {sweep.metric.title}"
    if len(sweep.importances) > 1:
        rows = [[name, f"{100 * share:.0f} %"] for name, share in sweep.importances.items()]
        said = (
            f"Share of the variance of {reached} that each field explains: functional ANOVA over "
            "the trees of a random forest (Hutter, Hoos and Leyton-Brown, 2014)."
        )
        return ["field", "importance"], rows, said
    if associated := associations(sweep):
        rows = []
        for name, value in associated.items():
            signed = plots.numeric([row["values"][name] for row in sweep.done])
            rows.append([name, f"{value:+.2f}" if signed else f"{value:.2f}"])
        said = (
            f"With {reached}: of numbers Spearman's rank correlation; of words, without a sign, "
            "the correlation ratio of the ranks. Few trials make both large by chance."
        )
        return ["field", "correlation"], rows, said
    return None


def page(sweep: Sweep, training: Mapping[str, Any] | None = None, live: str = "") -> str:
    """Builds a self-contained page on the trials.

    Args:
        sweep: the sweep, of which a trial has a result.
        training: what is shown of trials that are not finished.
        live: script of a page that is served, and updates itself.
    """
    drawn = len(sweep.done) > 1 and sweep.rows[0]["values"]
    return report.render(
        "sweep.html",
        live=live,
        title=sweep.name,
        data=to_json(sweep),
        training=training,
        best=sweep.best_values_and_figures(),
        best_trial=sweep.done[0]["trial"],
        trials=page_cells(sweep),
        front=sweep.front,
        columns=len(sweep.rows[0]["values"]) + 1,
        importance=importance(sweep),
        drawn=plots.parallel(sweep.done, sweep.split, sweep.metric, sweep.scales)
        if drawn
        else None,
    )
