"""Pages in a browser: axe-core finds nothing, and no label of a chart covers another."""

import importlib.util
import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from markupsafe import Markup

from jaxcnn import cli
from jaxcnn.analysis import plots, report, sweep
from jaxcnn.analysis.statistics import Interval
from jaxcnn.tasks.classification import TOP1
from tests.test_compare import FILE
from tests.test_course import PLAY
from tests.test_textbook import make_small

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("chrome")
AXE = importlib.util.find_spec("axe_playwright_python")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None or AXE is None, reason="no Chromium or no axe"),
]

OVERLAPS = """
const all = [];
for (const svg of document.querySelectorAll("svg")) {
  const boxes = [...svg.querySelectorAll("text")].map(
    (text) => [text.textContent, text.getBoundingClientRect()]);
  boxes.forEach(([a, p], i) => boxes.slice(i + 1).forEach(([b, q]) => {
    const w = Math.min(p.right, q.right) - Math.max(p.left, q.left);
    const h = Math.min(p.bottom, q.bottom) - Math.max(p.top, q.top);
    if (w > 1 && h > 1) all.push(a + " / " + b);
  }));
}
"""
TRAINING = {
    "headers": ["run", "state", "epoch", "last"],
    "rows": [["a", "running", "epoch 7 of 20", "test top-1 50.00 %"]],
    "names": ["a"],
    "curves": [("Error", plots.lines({"a": {1: [90.0], 2: [50.0]}}, "epoch", "error, %"))],
}


def swept() -> str:
    fields = ("optim.peak_lr", "model.options.a_rather_long_name", "optim.name")
    rows = [
        {
            "trial": f"trial-{i}",
            "values": dict(zip(fields, (10 ** (-i / 3), 8 + i, f"word{i}"), strict=True)),
            **dict.fromkeys(("val_top1", "test_top1"), 0.9 - i**2 / 999),
            **dict.fromkeys(("val_loss", "test_loss", "seconds"), 1.0),
        }
        for i in range(25)
    ]
    return sweep.page(sweep.Sweep("a", rows, "validation", TOP1))


def live() -> str:
    return report.render("live.html", title="a", data={}, training=TRAINING, problems=["b"])


def charts(folder: Path) -> str:
    """Costs from 90 M to 100 M, whose ticks have little room, and runs of a single epoch."""
    points = {f"net{i}": (9e7 + 2.5e6 * i, Interval(50 + i, 49, 58)) for i in range(5)}
    drawn = [
        plots.scatter(points, ["net0"], "parameters", "top-1, %"),
        plots.lines({"a": {1: [3.0]}}, "epoch", "error, %"),
        plots.lines({"a": {0.0: [9e7], 1.0: [1e8]}}, "epoch", "loss", log_y=True),
    ]
    (folder / "own.html").write_text(
        '{% extends "page.html" %}{% block body %}{{ it }}{% endblock %}'
    )
    return report.render("own.html", folder, title="a", data={}, it=Markup("").join(drawn))


@pytest.fixture(scope="module")
def reports(tmp_path_factory):
    """The pages of a comparison, of one of its runs and of the textbook, as commands write them."""
    folder = tmp_path_factory.mktemp("reports")
    (folder / "two_arms.py").write_text(FILE)
    compared = folder / "compared"
    assert cli.main(["compare", str(folder / "two_arms.py"), "--workdir", str(compared)]) == 0
    run = folder / "run.html"
    assert cli.main(["viz", str(compared / "conv" / "seed0")]) == 0
    assert cli.main(["report", str(compared / "conv" / "seed0"), "--out", str(run)]) == 0
    textbook = make_small(folder / "textbook")
    return {"comparison": compared / "report.html", "run": run, "textbook": textbook, "play": PLAY}


DARK_AND_LIGHT = pytest.mark.parametrize("scheme", [0, 1], ids=["dark", "light"])


@DARK_AND_LIGHT
@pytest.mark.parametrize("kind", ["sweep", "live", "charts"])
def test_everybody_can_read_it(tmp_path, kind, scheme):
    page = {"sweep": swept, "live": live, "charts": lambda: charts(tmp_path)}[kind]()
    found = probe(page, tmp_path, scheme)
    assert found == {"violations": [], "overlaps": []}


@DARK_AND_LIGHT
@pytest.mark.parametrize("width", [390, 1200])
@pytest.mark.parametrize("kind", ["run", "comparison", "textbook", "play"])
def test_everybody_can_read_what_commands_write(tmp_path, reports, kind, width, scheme):
    found = probe(reports[kind].read_text(), tmp_path, scheme, width)
    assert found == {"violations": [], "overlaps": []}


def test_the_probe_finds_faults(tmp_path):
    bad = swept().replace("<title>a</title>", "").replace("--text: #", "--text: #f")
    twice = re.sub(r"(<text [^>]*>)", r"\1twice</text>\1", bad)
    found = probe(twice, tmp_path, 1)
    assert "document-title" in found["violations"]
    assert found["overlaps"]


def probe(page: str, folder: Path, scheme: int, width: int = 390) -> dict:
    """Returns what axe-core objects to in an unfolded page, and labels that cover one another."""
    axe = (Path(AXE.submodule_search_locations[0]) / "axe.min.js").read_text()
    page = re.sub("<meta http-equiv[^>]*>", "", page)  # which lets no script run
    run = (
        'for (const e of document.querySelectorAll("details")) e.open = true;'
        f"{OVERLAPS} axe.run().then(r => document.body.dataset.found = "
        "JSON.stringify({violations: r.violations.map(v => v.id), overlaps: all}))"
    )
    file = folder / "probe.html"
    file.write_text(page.replace("</body>", f"<script>{axe}</script><script>{run}</script></body>"))
    done = subprocess.run(
        [
            *(
                CHROMIUM,
                "--headless",
                "--no-sandbox",
                "--disable-gpu",
                f"--window-size={width},900",
            ),
            *(f"--blink-settings=preferredColorScheme={scheme}", "--virtual-time-budget=20000"),
            *(f"--user-data-dir={folder / 'profile'}", "--dump-dom", file.as_uri()),
        ],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    dom = re.search(r"data-found=\"([^\"]*)\"", done.stdout)
    assert dom, "the page was not judged"
    return json.loads(dom[1].replace("&quot;", '"').replace("&amp;", "&"))
