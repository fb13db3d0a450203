"""What README and docs name is there: fields of an experiment, and files."""

import dataclasses
import re
import statistics
from pathlib import Path

import pytest

from benchmarks import readme
from jaxcnn.config import Distributed, Experiment

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
SECTIONS = vars(Experiment()) | {"distributed": Distributed()}
FIELDS = {
    f"{name}.{field.name}"
    for name, section in SECTIONS.items()
    if dataclasses.is_dataclass(section)
    for field in dataclasses.fields(section)
}


EXPORTED = (".json", ".safetensors", ".stablehlo")  # `model.json` is a file, and no field


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_options_and_files_that_a_page_names_exist(page):
    text = page.read_text()
    options = re.findall(r"--([a-z]+\.[a-z0-9_-]+)", text)
    # Without dashes, where the page speaks of a field, as `train.seeds_mode`.
    options += [
        name
        for name in re.findall(r"`([a-z]+\.\w+)`", text)
        if name.split(".")[0] in SECTIONS and not name.endswith(EXPORTED)
    ]
    assert not {name.replace("-", "_") for name in options} - FIELDS
    files = re.findall(r"\b(?:experiments|benchmarks|docs)/[\w/.-]+\.\w+", text)
    assert not [name for name in files if not (ROOT / name).exists()]
    modules = re.findall(r"python -m ((?:experiments|benchmarks)\.[\w.]+)", text)
    for path in (ROOT / name.replace(".", "/") for name in modules):
        assert path.with_suffix(".py").exists() or (path / "__main__.py").exists(), path


def test_the_tables_are_those_that_the_measurements_give():
    pages = [page.read_text() for page in (readme.README, readme.MEASURING)]
    assert set(re.findall(r"<!-- table: (\w+) -->", "".join(pages))) == set(readme.TABLES)
    assert [readme.filled(page) for page in pages] == pages


def test_headers_state_what_the_runs_reached():
    for row in readme.read("experiments"):
        header = (ROOT / "experiments" / f"{row['name']}.py").read_text().split('"""')[1]
        assert f"{100 * statistics.mean(row['test_top1']):.2f} %" in header
        header = " ".join(header.split())
        assert re.search(rf"\b{row['epochs']} epochs\b", header)
        assert re.search(rf"\b{row['seconds']:.0f} s of training\b", header)
        cores = row["environment"]["cores"]
        assert re.search(rf"\b{cores} core{'s' * (cores > 1)} of an AMD EPYC\b", header)
