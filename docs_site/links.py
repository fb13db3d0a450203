"""Leads links that leave docs/ to the page of the site that shows what they mean.

On GitHub the same links lead to the files.
"""

import posixpath
import re
from typing import Any

from mkdocs.plugins import get_plugin_logger

from docs_site.pages import FROM_ROOT

LOG = get_plugin_logger(__name__)
LINK = re.compile(r"(?<=\]\()(?!\w+:|#)([^)#\s]+)")
SHOWN_BY = {
    "README.md": "index.md",
    "experiments": "experiments.md",
    "experiments/launch": "experiments/launch.md",
    **{source: page for page, source in FROM_ROOT.items()},
}
"""Pages of the site that show files and folders beside docs/."""


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Changes the links of a page."""
    here = page.file.src_uri
    where = posixpath.dirname(FROM_ROOT.get(here, f"docs/{here}"))

    def changed(found: re.Match[str]) -> str:
        target = posixpath.normpath(posixpath.join(where, found[0]))
        if target.startswith("docs/"):
            shown = target.removeprefix("docs/")
        elif target in SHOWN_BY:
            shown = SHOWN_BY[target]
        elif re.fullmatch(r"experiments/\w+\.py", target):
            shown = target.removesuffix(".py") + ".md"
        elif target.startswith("experiments/launch/"):
            shown = "experiments/launch.md"
        elif re.fullmatch(r"benchmarks/results/\w+\.png", target):
            shown = target.removeprefix("benchmarks/")
        else:
            LOG.warning(f"{here}: no page shows {target}, to which {found[0]} leads")
            return found[0]
        return posixpath.relpath(shown, posixpath.dirname(here) or ".")

    parts = re.split(r"(^```.*?^```$|`[^`\n]+`)", markdown, flags=re.M | re.S)
    return "".join(part if i % 2 else LINK.sub(changed, part) for i, part in enumerate(parts))
