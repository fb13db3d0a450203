"""What the trials of a sweep have come to, for the terminal, a file and a page."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jaxcnn.analysis import formats, report, tables
from jaxcnn.learning.selection import OPTIMISTIC, PREFIX, score
from jaxcnn.tasks import LOSS, Metric
from jaxcnn.text import counted

if TYPE_CHECKING:
    from rich.table import Table

ENDINGS = ("pruned", "diverged", "failed", "refused", "elsewhere")
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
    """

    name: str
    rows: Sequence[Mapping[str, Any]]
    split: str
    metric: Metric
    importances: Mapping[str, float] = field(default_factory=dict)
    front: Sequence[str] = ()
    costs: Sequence[str] = ()

    @property
    def done(self) -> list[Mapping[str, Any]]:
        """The trials that have a result, the best first."""
        return [row for row in self.rows if "test_loss" in row]

    def best(self) -> str:
        """Names the best trial, with its figure by which it was chosen and its test figure."""
        row, metric = self.done[0], self.metric
        splits = ("validation", "test") if self.split == "validation" else ("test",)
        figures = [
            f"{split} {metric.title} {metric.shown(row[f'{PREFIX[split]}_{metric.name}'])}"
            for split in splits
        ]
        chosen = OPTIMISTIC if self.split == "test" else "chosen on the validation set"
        values = ", ".join(f"{name}={value}" for name, value in row["values"].items())
        return f"best: {row['trial']} ({values}), {', '.join(figures)}, {chosen}"


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
    if sweep.front:
        found["front"] = [*sweep.front]
    return found


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


def page(sweep: Sweep, picture: Path) -> str:
    """Builds a self-contained page on the trials.

    Args:
        sweep: the sweep.
        picture: its PNG file, if there is one.
    """
    drawn = picture.read_bytes() if picture.exists() else None
    return report.render(
        "sweep.html",
        title=sweep.name,
        data=to_json(sweep),
        best=sweep.best(),
        trials=cells(sweep),
        explanation=caption(sweep),
        drawn=drawn,
    )
