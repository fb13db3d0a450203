"""The page on finished runs, which `jaxcnn compare` and `jaxcnn report` write."""

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jaxcnn.errors import InputError

if TYPE_CHECKING:
    import numpy as np


def answers(
    path: Path, say: Callable[[str], object], data_dir: str | None = None
) -> dict[str, "np.ndarray"] | None:
    """Returns what pages are told of a run's test images, also at its temperature if it has one.

    Args:
        path: the folder of a finished run.
        say: hears in one line why a temperature is not taken.
        data_dir: the folder of the data, where it is another than in training.

    Raises:
        InputError: as :func:`jaxcnn.runs.evaluation.predict_test_set`.
    """
    from jaxcnn.runs import calibrating, evaluation

    found = evaluation.predict_test_set(path, data_dir)
    return found and {**found, **calibrating.at_temperature(path, say, data_dir)}


def with_corrupted(held: dict[Path, Any]) -> tuple[dict[Path, Any], str]:
    """Adds to runs' answers what is kept of their corrupted images; returns what is left out too.

    Args:
        held: what :func:`answers` gives of each run.
    """
    from jaxcnn.runs import robustness

    found, line = robustness.on_the_same({p: robustness.known_under_all(p) for p in held})
    return {path: {**kept, **found.get(path, {})} for path, kept in held.items()}, line


def write_page(
    title: str,
    arms: Sequence[Any],
    held: dict[Path, Any],
    out: Path,
    problems: Sequence[str],
    data_dir: str | None = None,
) -> None:
    """Writes the page on some arms, with the predictions of their runs that are at hand."""
    from jaxcnn.learning import files

    files.write_text(out, page(title, arms, held, problems, data_dir))


def page(
    title: str,
    arms: Sequence[Any],
    held: dict[Path, Any],
    problems: Sequence[str],
    data_dir: str | None = None,
    **more: Any,
) -> str:
    """Returns that page; ``more`` is what :func:`jaxcnn.analysis.report.page` is told besides."""
    import jax
    import jax.numpy as jnp
    import numpy as np

    from jaxcnn.analysis import report
    from jaxcnn.data import sources
    from jaxcnn.data.images import as_pixels
    from jaxcnn.runs import trained

    problems = list(problems)
    dataset: sources.Dataset | None = None
    try:
        shown = arms[0].runs[0]
        data = shown.experiment.data
        data = dataclasses.replace(data, dir=data_dir or data.dir)
        if held:
            dataset = trained.read_dataset(shown.path, data)
    except InputError as error:
        problems.append(f"images of the worst mistakes ({error})")

    def images(those: Sequence[int]) -> "np.ndarray":
        assert dataset is not None
        found = jax.tree.map(jnp.asarray, dataset.test.read(np.array(those)))
        return as_pixels(np.asarray(dataset.rendered(found)["image"]))

    return report.page(title, arms, held, images if dataset else None, problems, **more)
