"""Charts as they stand in a page: in its colours, beside one another, with names as they are."""

import html.parser
import math
import re
from importlib import resources

import matplotlib
import numpy as np
import pytest
from PIL import Image

from jaxcnn.analysis import plots, report
from jaxcnn.analysis.statistics import Interval

NAMES = ("plain", "$x_1$ & <b>", "under_score", '"quoted" #2563eb')
SERIES = {name: {1: [i + 0.5, i + 1.5], 2: [i + 2.0]} for i, name in enumerate(NAMES)}
POINTS = {name: (10.0**i, Interval(i, i - 0.5, i + 0.5)) for i, name in enumerate(NAMES)}
CHARTS = {
    "lines": lambda: plots.lines(SERIES, "epoch", "error, %", log_y=True),
    "scatter": lambda: plots.scatter(POINTS, NAMES[1:3], "cost", "top-1, %"),
    "intervals": lambda: plots.intervals({n: v for n, (_, v) in POINTS.items()}, "top-1, %"),
}


class Elements(html.parser.HTMLParser):
    """Attributes of all elements, and the text between them."""

    def __init__(self, text):
        super().__init__()
        self.attributes, self.texts = [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.attributes.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.texts.append(data)


@pytest.mark.parametrize("name", CHARTS)
def test_a_chart_fits_into_a_page_beside_others(name):
    chart = CHARTS[name]()
    assert CHARTS[name]() == chart
    read = Elements(chart)
    (tag, root), *inner = read.attributes
    assert (tag, root["role"]) == ("svg", "img")
    assert root["aria-label"]
    for tag, attributes in inner:
        assert tag in {"g", "path", "text"}  # no <style> that would hold for the whole page
        assert attributes.keys() <= {"d", "style", "transform", "x", "y"}
    assert not re.search(r"url\(|href|http|<!", chart)
    left = re.findall("#[0-9a-f]{3,6}", " ".join(a.get("style", "") for _, a in inner))
    assert not left  # every colour is the page's
    assert {"currentColor", "var(--rule)", "var(--c0)", "var(--c1)"} <= set(
        re.findall(r"currentColor|var\(--\w+\)", chart)
    )


@pytest.mark.parametrize("name", ["scatter", "intervals"])
def test_names_are_shown_as_they_are(name):
    texts = {text.strip() for text in Elements(CHARTS[name]()).texts}
    assert set(NAMES) <= texts


def test_the_label_is_escaped():
    chart = plots.lines(SERIES, 'a "b" <c>', "y")
    assert Elements(chart).attributes[0][1]["aria-label"] == 'y over a "b" <c>'


def test_colours_are_those_of_the_style_sheet_in_the_light():
    sheet = (resources.files("jaxcnn.analysis") / "templates" / "page.css").read_text()
    light, dark = (re.findall(r"--(\w+): (#\w+)", part) for part in sheet.split("@media", 2)[:2])
    for colour, variable in plots.VARIABLES.items():
        name = "text" if variable == "currentColor" else variable[len("var(--") : -1]
        assert dict(light)[name] == colour
        assert name in dict(dark)
    keys = re.findall(r"var\(--c(\d)\)", report.legend([str(i) for i in range(10)]))
    assert keys == [*"01234567", "0", "1"]


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([0.1, 0.2, 0.9], ["0.1", "0.2", "0.5"]),
        ([100, 30_000, 60_000], ["100", "300", "1 k", "3 k", "10 k", "30 k"]),
        ([0.0, 2.0, 40.0], ["0", "2", "5", "10", "20"]),  # none of the errors is lost
        ([0.0, 0.0], ["0"]),
    ],
)
def test_ticks_of_logarithmic_values(values, expected):
    series = {"a": {i: [value] for i, value in enumerate(values)}}
    texts = [t.strip() for t in Elements(plots.lines(series, "x", "y", log_y=True)).texts]
    assert set(expected) <= set(texts)


def test_single_values_and_missing_bounds_are_drawn():
    point = plots.lines({"a": {3: [1.0]}}, "x", "y")
    assert any("translate" in a.get("transform", "") for _, a in Elements(point).attributes)
    whole = {"a": (1.0, Interval(100.0, math.nan, math.nan)), "b": (1.0, Interval(1, 0, 0.999))}
    assert "NaN" not in plots.scatter(whole, ["a"], "x", "y")
    assert "nan" not in plots.intervals({"a": whole["a"][1]}, "x")


def test_names_do_not_cover_one_another():
    """Every name of eight points in a heap has a place of its own."""
    rng = np.random.default_rng(0)
    points = {
        f"network{i}": (x, Interval(y, y, y)) for i, (x, y) in enumerate(rng.uniform(1, 2, (8, 2)))
    }
    with plots.canvas(*plots.SIZE) as figure:
        axes = figure.subplots()
        plots._scatter(axes, points, [], "x", "y")
        boxes = [text.get_window_extent() for text in axes.texts]
    shared = [plots._overlap(a, b) for i, a in enumerate(boxes) for b in boxes[:i]]
    assert max(shared) < 0.1 * boxes[0].width * boxes[0].height


@pytest.mark.parametrize("prefix", ["test", "val"])
def test_curves_of_a_run_leave_out_what_was_lost(tmp_path, prefix):
    first = {"epoch": 1, f"{prefix}_loss": 1.0, f"{prefix}_top1": 0.5}
    second = {"epoch": 2, f"{prefix}_loss": 0.5, f"{prefix}_top1": 1.0}
    records = [first, {**second, "train_loss": 0.4, "train_top1": 0.9}]
    plots.save_curves(records, tmp_path / "curves.png", "$1")
    assert np.asarray(Image.open(tmp_path / "curves.png").convert("L")).std() > 10


ODD = (
    "$x_1$ \\frac{",
    "[/b]",
    "\x1b[31m\x00",
    "a\udcffb",
    "\u202eabc",
    "猫 🐈",
    "x" * 5000,
    "_a",
    "",
)


def test_of_labels_that_are_given_none_is_left_out(tmp_path, monkeypatch):
    labels, lay_out = {}, plots._lay_out

    def heard(figure):
        lay_out(figure)
        for axes in figure.axes:
            labels[axes.get_ylabel()] = [tick.get_text() for tick in axes.get_yticklabels()]

    monkeypatch.setattr(plots, "_lay_out", heard)
    names = [f"a class with a long name {i}" for i in range(30)]
    plots.save_confusion(np.eye(30), names, tmp_path / "a.png", "a")
    assert labels["label"] == names
    assert labels["percent of the class"] == ["0", "1", "5", "10", "25", "50", "100"]


@pytest.mark.parametrize(
    "settings",
    [
        {"figure.autolayout": True},
        {"figure.constrained_layout.use": True},
        {"savefig.dpi": 300, "figure.dpi": 50},
    ],
    ids=str,
)
def test_settings_of_ones_own_for_matplotlib_change_no_picture(tmp_path, settings):
    drawn = []
    for number, own in enumerate([{}, settings]):
        with matplotlib.rc_context(own):
            plots.save_confusion(np.eye(3), ["a", "b", "c"], tmp_path / f"{number}.png", "a")
            curve = plots.lines({"a": {1: [0.1], 2: [0.3]}}, "epoch", "loss")
        drawn.append(((tmp_path / f"{number}.png").read_bytes(), curve))
    assert drawn[0] == drawn[1]


def test_charts_and_pages_take_any_name(tmp_path):
    title, n = "".join(ODD), len(ODD)
    plots.save_confusion(np.eye(n), ODD, tmp_path / "a.png", title)
    plots.save_curves([{"epoch": 1, "test_loss": 1.0, "test_top1": 0.5}], tmp_path / "b.png", title)
    rows = [{"values": {"data.name": name}, "test_top1": 0.5} for name in ODD]
    plots.save_sweep(rows, tmp_path / "c.png", title, "test")
    points = {name: (1.0, Interval(1, 0, 2)) for name in ODD}
    chart = plots.scatter(points, ODD, "cost", "top-1") + plots.lines(
        {name: {1: [1.0]} for name in ODD}, "epoch", "error"
    )
    (tmp_path / "own.html").write_text(
        '{% extends "page.html" %}{% block body %}{{ title }}{% endblock %}'
    )
    page = report.render("own.html", tmp_path, title=title, data={"name": title})
    for text in (chart, page):
        assert not re.search("[\x00-\x08\x0e-\x1f\u202e]", text)
        text.encode()
