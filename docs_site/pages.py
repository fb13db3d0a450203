"""Adds the pages, and the parts of pages, that are made of the code, and fills the navigation."""

import fnmatch
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

from docs_site import commands, experiments, models

ROOT = Path(__file__).parents[1]
FROM_ROOT = {"contributing.md": "CONTRIBUTING.md", "changelog.md": "CHANGELOG.md"}
"""Pages that are files beside docs/."""
PARTS: dict[str, Callable[[], str]] = {
    "commands": commands.commands,
    "fields": commands.fields,
    "experiments": experiments.table,
    "models": models.table,
    "trained": models.trained,
}
"""What stands in place of a comment, such as ``<!-- made: models -->``."""


def on_files(files: Files, config: Any) -> Files:
    """Adds pages to those of docs/, and finds the ones that the navigation names by a star."""
    made = {page: (ROOT / source).read_text() for page, source in FROM_ROOT.items()}
    for page, text in (made | experiments.pages()).items():
        files.append(File.generated(config, page, content=text))
    for picture in sorted((ROOT / "benchmarks" / "results").glob("*.png")):
        files.append(File.generated(config, f"results/{picture.name}", abs_src_path=str(picture)))
    pages = [file.src_uri for file in files.documentation_pages()]
    first = sorted(pages, key=lambda page: (not page.endswith("index.md"), page))
    config.nav = [*_expanded(config.nav, first)]
    return files


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Puts what the code knows of commands, fields and models where a page asks for it."""
    for name, part in PARTS.items():
        if f"<!-- made: {name} -->" in markdown:
            markdown = markdown.replace(f"<!-- made: {name} -->", part())
    return markdown


def _expanded(nav: Any, pages: list[str]) -> Iterator[Any]:
    """Yields the entries of a navigation, with pages in place of names with a star."""
    for entry in nav:
        title, value = next(iter(entry.items())) if isinstance(entry, dict) else (None, entry)
        if isinstance(value, list):
            yield {title: [*_expanded(value, pages)]}
        elif "*" not in value:
            yield entry
        elif found := fnmatch.filter(pages, value):
            yield from [{title: found}] if title else found
