"""Finished runs to what is shown of them: tables on the terminal, files in a folder."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jaxcnn.errors import InputError
from jaxcnn.runs import display


def write_comparison(
    title: str, paths: Sequence[Path], folder: Path, problems: Sequence[str]
) -> None:
    """Prints the tables of a comparison and writes its page, its figures and its plot.

    Args:
        title: heading of the page.
        paths: run folders, all finished.
        folder: where report.html, comparison.json and comparison.png go.
        problems: runs that are left out, one line each.
    """
    from jaxcnn.analysis import arms, compare, plots, tables
    from jaxcnn.runs import evaluation
    from jaxcnn.train import files

    compared = arms.group([arms.read(path) for path in paths])
    held = {run.path: evaluation.predict_test_set(run.path) for arm in compared for run in arm.runs}
    found = compare.compare(compared, held)
    console = display.console()
    console.print(tables.render(found))
    console.print(tables.render_errors(found))
    files.write_json(folder / "comparison.json", compare.to_json(found))
    plots.save_comparison(found, folder / "comparison.png")
    write_page(title, compared, held, folder / "report.html", problems)
    print(f"{folder}: report.html, comparison.json, comparison.png")


def write_page(
    title: str, arms: Sequence[Any], held: dict[Path, Any], out: Path, problems: Sequence[str]
) -> None:
    """Writes the page on some arms.

    Args:
        title: its heading.
        arms: as :func:`jaxcnn.analysis.arms.group` gives them.
        held: predictions of the runs, as far as they are at hand.
        out: the HTML file.
        problems: what is left out, one line each.
    """
    import jax.numpy as jnp
    import numpy as np

    from jaxcnn.analysis import report
    from jaxcnn.data import sources
    from jaxcnn.train import files

    problems = list(problems)
    try:
        dataset: sources.Dataset | None = sources.load(arms[0].experiment.data)
    except InputError as error:
        dataset = None
        problems.append(f"images of the worst mistakes ({error})")

    def images(those: Sequence[int]) -> "np.ndarray":
        assert dataset is not None
        found = dataset.test.read(np.array(those))["image"]
        return np.asarray(dataset.rendered(jnp.asarray(found)))

    out.parent.mkdir(parents=True, exist_ok=True)
    files.write_text(out, report.page(title, arms, held, images if dataset else None, problems))
