"""The documentation as a site: built without a warning, whole, and of this machine alone."""

import json
import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

import pytest

import jaxcnn
from jaxcnn import cli, ops
from jaxcnn.models import MODELS
from tests.test_brought import command

for package in ("mkdocs", "material", "mkdocstrings", "latex2mathml"):
    pytest.importorskip(package, reason="the extra docs is not installed")

from docs_site import pages  # noqa: E402  (which needs them)

ROOT = Path(__file__).parents[1]


class Page(HTMLParser):
    """What a page loads, where it leads, what can be led to in it, and what it says."""

    def __init__(self, path):
        super().__init__()
        self.loads, self.links, self.anchors, self.text, self.cells = [], [], set(), [], []
        self.inside = []
        self.feed(path.read_text())

    def handle_starttag(self, tag, attributes):
        given = dict(attributes)
        self.anchors |= {given[name] for name in ("id", "name") if given.get(name)}
        if tag == "a" and "href" in given:
            self.links.append(given["href"])
        elif tag != "a":
            loaded = ("src", "srcset", "href", "poster", "data", "action")
            self.loads += [given[name] for name in loaded if given.get(name)]
        if tag in ("script", "style", "code", "math"):
            self.inside.append(tag)
        if tag == "tr":
            self.cells.append([])
        elif tag in ("td", "th") and self.cells:
            self.cells[-1].append("")

    def handle_endtag(self, tag):
        if self.inside[-1:] == [tag]:
            self.inside.pop()

    def handle_data(self, data):
        if not self.inside:
            self.text.append(data)
        if self.cells and self.cells[-1]:
            self.cells[-1][-1] += data


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The folder of the site, built as `make docs` does: strictly, and without a warning."""
    folder = tmp_path_factory.mktemp("site")
    (how,) = re.findall(r"/mkdocs (build.*)", (ROOT / "Makefile").read_text())
    built = subprocess.run(
        [sys.executable, "-m", "mkdocs", *how.split(), "-d", str(folder)],
        cwd=ROOT,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    said = built.stdout + built.stderr
    assert built.returncode == 0, said
    assert "--strict" in built.args
    # With --quiet MkDocs says nothing, and counts no warnings.
    assert "Documentation built" in said
    assert "WARNING" not in said
    return folder


@pytest.fixture(scope="module")
def found(site):
    """The pages of the site by their paths."""
    return {path: Page(path) for path in sorted(site.rglob("*.html")) if path.name != "404.html"}


@pytest.mark.slow
def test_nothing_is_asked_of_another_host(site, found):
    asked = [where for page in found.values() for where in page.loads]
    for path in site.rglob("*.css"):
        asked += re.findall(r"""(?:url\(|@import)\s*["']?([^"')]+)""", path.read_text())
    assert len(asked) > 300
    assert not [where for where in asked if re.match(r"(\w+:)?//", where)]


@pytest.mark.slow
def test_every_link_leads_somewhere(site, found):
    broken = []
    for path, page in found.items():
        for link in page.links:
            if re.match(r"\w+:|//", link) or link in ("", "."):
                continue
            name, _, anchor = unquote(link).partition("#")
            target = (path.parent / name).resolve() if name else path
            languages = ("en", "es") if target.name == "play.html" else ()  # by its address
            whole = target in found and anchor in ("", *languages, *found[target].anchors)
            if not (whole or (target.exists() and target.suffix != ".html")):
                broken.append(f"{path.relative_to(site)}: {link}")
    assert not broken


@pytest.mark.slow
def test_markdown_is_shown_and_not_its_signs(site, found):
    for path, page in found.items():
        text = "".join(page.text)
        for sign in (
            r"\$\$",
            r"\\\(",
            r"\|\s*:?---",
            r"```",
            r"<!--",
            r">>>",
            r"\n- \S",
            r":\w+:`",
        ):
            assert not re.search(sign, text), (path.relative_to(site), sign)


@pytest.mark.slow
def test_every_equation_of_the_operations_is_written(site):
    documented = [getattr(ops, name).__doc__ or "" for name in ops.__all__]
    equations = sum(doc.count("$$") // 2 for doc in documented)
    equations += sum(
        (function.__doc__ or "").count("$$") // 2 for function in [ops.filters.gaussian]
    )
    page = (site / "api" / "ops.html").read_text()
    assert len(re.findall(r'<math[^>]*display="block"', page)) == equations > 10


@pytest.mark.slow
@pytest.mark.parametrize("name", cli.COMMANDS)
def test_every_option_of_a_command_is_on_a_page(site, tmp_path, name):
    shown = "".join((site / page).read_text() for page in ("commands.html", "fields.html"))
    options = re.findall(r"^  (--[\w.-]+)", command(tmp_path, name, "--help"), re.M)
    assert len(options) >= 2
    assert not [option for option in options if not re.search(rf"<code>{option}\b", shown)]


@pytest.mark.slow
def test_everything_that_python_offers_is_described(site, found):
    anchors = {
        name for path, page in found.items() if path.parent.name == "api" for name in page.anchors
    }
    described = {anchor.rpartition(".")[2] for anchor in anchors if anchor.startswith("jaxcnn.")}
    functions = {name for name in ops.__all__ if name not in ("filters", "geometry")}
    assert not {*jaxcnn.__all__, *functions} - described


@pytest.mark.slow
def test_every_model_is_on_a_page_with_what_was_measured(site, found):
    cells = [[cell.strip() for cell in row] for row in found[site / "models.html"].cells]
    rows = {row[0]: row[1:] for row in cells if len(row) == 6}
    measured = json.loads((ROOT / "benchmarks/results/parity.json").read_text())["results"]
    assert rows.keys() - {"model"} == MODELS.keys()
    for name in MODELS:
        assert rows[name][1] == f"{measured[name]['parameters']:,}"
        error = measured[name]["max_relative_error"]
        assert (rows[name][3] == "") == (error is None)
        assert error is None or float(rows[name][3]) == pytest.approx(error, rel=0.5)


@pytest.mark.slow
def test_what_is_public_can_be_searched(site):
    index = json.loads((site / "search" / "search_index.json").read_text())["docs"]
    places = {doc["location"] for doc in index}
    assert {"commands.html#jaxcnn-launch", "fields.html#optim", "models.html#lenet-5"} <= places
    assert {"api/ops.html#jaxcnn.ops.conv.conv", "api/config.html#jaxcnn.config.Optim"} <= places
    functions = {f"api/index.html#jaxcnn.api.{name}" for name in ("train", "open", "Run.predict")}
    assert functions <= places


def test_a_name_with_a_star_stands_for_the_pages_that_are_there():
    nav = [{"Start": ["index.md", "page*.md", {"Course": "course/en/*.md"}]}]
    there = ["course/en/index.md", "course/en/01-pixels.md", "index.md", "pages.md"]
    assert [*pages._expanded(nav, ["index.md"])] == [{"Start": ["index.md"]}]
    assert [*pages._expanded(nav, there)] == [
        {"Start": ["index.md", "pages.md", {"Course": there[:2]}]}
    ]
