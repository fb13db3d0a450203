"""The course: its figures, its pictures, its code, its two languages, and the page to play with."""

import contextlib
import html
import io
import json
import re
import textwrap

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import ndimage, stats
from sklearn.datasets import load_digits

from experiments.textbook import course, image_size, normalisation, shuffled_pixels
from jaxcnn.analysis.summary import summarize
from jaxcnn.config import Data
from jaxcnn.data import sources
from jaxcnn.learning import run_folder as folder
from jaxcnn.models import create_model
from jaxcnn.ops import filters
from jaxcnn.ops.geometry import conv_output_shape
from jaxcnn.runs.display import Listener
from tests.test_compare import browse, needs_browser

NAMES = [path.name for path in course.chapters("en")]
FENCE = re.compile(r"^( *)```(\w+)\n(.*?)^ *```$", re.DOTALL | re.MULTILINE)
PLAY = course.COURSE / "play.html"


def text(language, name):
    return (course.COURSE / language / name).read_text(encoding="utf-8")


def blocks(language, name):
    """Kind and content of every block of code, in order."""
    found = FENCE.findall(text(language, name))
    return [(kind, textwrap.dedent(body)) for _, kind, body in found]


def test_there_are_ten_chapters_in_both_languages():
    assert len(NAMES) == 10
    assert [path.name for path in course.chapters("es")] == NAMES
    assert [name[:2] for name in NAMES] == [f"{i:02}" for i in range(1, 11)]
    for language in course.LANGUAGES:
        links = re.findall(r"^\d+\. \[.*?\]\((.*?)\)", text(language, "index.md"), re.MULTILINE)
        assert links == NAMES


@pytest.mark.parametrize("language", course.LANGUAGES)
def test_every_figure_is_that_of_the_results(language):
    filled = course.Chapters(course.results(), language).filled
    for name in NAMES:
        assert filled(text(language, name)) == text(language, name)


def test_a_figure_that_was_changed_by_hand_is_seen():
    page = text("en", "04-stride-padding.md")
    changed = re.sub(r"\d(?= points)|\d(?=<!--)", "9", page)
    assert changed != page
    assert course.Chapters(course.results(), "en").filled(changed) == page
    with pytest.raises(KeyError):
        course.Chapters(course.results(), "en").filled("1 %<!--stride.stride_4-->")


@pytest.mark.parametrize("language", course.LANGUAGES)
def test_no_share_is_quoted_without_its_name(language):
    """Percentages, and what is written as a decimal, come from the results."""
    for name in NAMES:
        prose = FENCE.sub("", text(language, name))
        prose = re.sub(r"<!-- table.*?<!-- end -->", "", prose, flags=re.DOTALL)
        prose = re.sub(r"`[^`\n]*`", "", course.MARK.sub("", prose))
        told = re.findall(r"\d+[.,]\d\d(?!\d)|\d+ %", prose)
        assert set(told) <= {"95 %", "10 %", "0.01", "0,01"}, name  # confidence, chance, a rate


def test_figures_come_from_single_seeds():
    """The results' own means and intervals, by another way from the seeds."""
    found = course.figures(course.results())
    for part in ("stride", "shuffled_pixels"):
        first, *others = course.results()[part]["results"]
        for arm in (first, *others):
            key, seeds = f"{part}.{arm['name']}", 100 * np.array(arm["tested"])
            np.testing.assert_allclose(found[key].numbers, seeds.mean())
            half = stats.t.ppf(0.975, len(seeds) - 1) * stats.sem(seeds)
            np.testing.assert_allclose(
                found[f"{key}.interval"].numbers, seeds.mean() + np.array([-half, half])
            )
        for arm in others:
            apart = 100 * (np.array(arm["tested"]) - np.array(first["tested"]))
            key = f"{part}.{arm['name']}.difference"
            np.testing.assert_allclose(found[key].numbers, apart.mean())
    (moved,) = found["translation.cnn.3"].numbers
    seeds = course.results()["translation"]["top1"]["cnn"]
    np.testing.assert_allclose(moved, 100 * np.mean([seed[3] for seed in seeds]))


@pytest.mark.parametrize(
    ("figure", "english", "spanish"),
    [
        (course.Figure((86.078,), 2, unit=" %"), "86.08 %", "86,08 %"),
        (course.Figure((-4.6133,), 2, signed=True), "−4.61", "−4,61"),
        (course.Figure((0.3166,), 2, signed=True), "+0.32", "+0,32"),
        (course.Figure((-0.2, 0.1499), 2, signed=True), "[−0.20, +0.15]", "[−0,20; +0,15]"),
        (course.Figure((4640,)), "4,640", "4640"),
        (course.Figure((138357544,)), "138,357,544", "138\u202f357\u202f544"),
    ],
)
def test_numbers_are_written_as_the_language_does(figure, english, spanish):
    assert course.written(figure, "en") == english
    assert course.written(figure, "es") == spanish


@pytest.mark.parametrize("name", ["index.md", *NAMES])
def test_the_languages_are_in_step(name):
    english, spanish = (text(language, name) for language in course.LANGUAGES)

    def outline(page):
        page = FENCE.sub("", page)
        return [
            re.findall(r"^#+", page, re.MULTILINE),
            re.findall(r"^(\d+)\. ", page, re.MULTILINE),  # exercises and their answers
            re.findall(r"<!-- table: \w+ -->", page),
            sorted(re.findall(r"<!--([^ ].*?)-->", page)),
            re.sub(r"\.(en|es)\.svg", ".svg", " ".join(re.findall(r"\]\(([^)]*\.svg)\)", page))),
            sorted(re.findall(r"\]\((\d\d-[^)]*)\)", page)),
        ]

    assert outline(english) == outline(spanish)
    if name != "index.md":  # whose comments are words
        assert blocks("en", name) == blocks("es", name)
        exercises = outline(english)[1]
        assert exercises == [*exercises[: len(exercises) // 2]] * 2
        assert [kind for kind, _ in blocks("en", name)][:2] == ["python", "text"]
    for page, language in ((english, "en"), (spanish, "es")):
        assert not re.search(r"^<!--[^ ]", page, re.MULTILINE)  # would be a block of HTML
        for link in re.findall(r"\]\(([^)#]*)", page):
            assert (course.COURSE / language / link).exists(), link


@pytest.mark.parametrize("name", NAMES)
def test_the_code_prints_what_stands_below_it(name):
    names = {}
    said = ""
    for kind, body in blocks("en", name):
        if kind == "python":
            with contextlib.redirect_stdout(io.StringIO()) as printed:
                exec(body, names)
            said = printed.getvalue()
        else:
            assert said == body


@pytest.mark.parametrize("language", course.LANGUAGES)
def test_a_chapter_is_a_notebook(language):
    jupytext = pytest.importorskip("jupytext")
    for name in NAMES:
        cells = jupytext.read(course.COURSE / language / name).cells
        code = [cell.source for cell in cells if cell.cell_type == "code"]
        shown = [
            body.strip()
            for indent, kind, body in FENCE.findall(text(language, name))
            if kind == "python" and not indent  # those of answers stay text
        ]
        assert code == shown


def test_the_pictures_are_those_that_are_drawn():
    drawn = course.drawings()
    kept = {path.name: path.read_text("utf-8") for path in (course.COURSE / "pictures").iterdir()}
    assert drawn.keys() == kept.keys()
    assert [name for name in drawn if drawn[name] != kept[name]] == []
    shown = " ".join(text(language, name) for language in course.LANGUAGES for name in NAMES)
    assert {name for name in kept if f"../pictures/{name}" in shown} == kept.keys()
    for name, drawing in kept.items():
        assert not re.search(r"href|url\(|@import", drawing)
        assert len(drawing) < 60_000, name


def test_lenet_is_the_same_as_a_convolution():
    model = create_model("sequential", num_classes=10, layers=image_size.LENET)
    larger = jax.random.uniform(jax.random.key(0), (2, 40, 40, 1))
    corners = [(y, x) for y in (0, 4, 8) for x in (0, 4, 8)]
    images = jnp.concatenate([larger[:, y : y + 32, x : x + 32] for y, x in corners])
    variables = jax.jit(model.init)(jax.random.key(1), images)
    expected = jax.jit(model.apply)(variables, images)
    everywhere = jax.jit(image_size.everywhere)
    np.testing.assert_allclose(everywhere(variables["params"], images), expected, atol=1e-5)
    found = everywhere(variables["params"], larger)
    np.testing.assert_allclose(found, expected.reshape(9, 2, 10).max(axis=0), atol=1e-5)


def test_larger_images_are_cut_to_their_middle():
    image = jax.random.uniform(jax.random.key(0), (1, 28, 28, 1))
    np.testing.assert_array_equal(
        image_size.cut(image_size.framed(image, 40, 4))[:, 6:, 6:], image[:, :26, :26]
    )


def test_pixels_are_shuffled_in_the_same_way_in_all_images():
    data = Data("digits")
    plain, shuffled = sources.load(data), shuffled_pixels.shuffled_digits(data)
    for split in ("train", "test"):
        before, after = (getattr(one, split).images.reshape(-1, 64) for one in (plain, shuffled))
        assert not np.array_equal(before, after)
        # Pixels that have the same history over all images cannot be told apart.
        np.testing.assert_array_equal(np.unique(before, axis=1), np.unique(after, axis=1))
        np.testing.assert_array_equal(getattr(plain, split).labels, getattr(shuffled, split).labels)


@pytest.mark.slow
def test_a_training_that_diverges_is_a_result(tmp_path, monkeypatch):
    monkeypatch.setattr(normalisation, "LAYERS", "conv3-2/2 max2 dense-4")
    monkeypatch.setattr(normalisation, "RATES", (0.01, 1e30))
    part = normalisation.measure(tmp_path, Listener(), quick=True)
    assert [row[2] for row in part.rows] == ["1 of 1 diverged"] * 2
    for name, (finite, diverged) in part.values["top1"].items():
        last = folder.read_metrics(tmp_path / "0.01" / name / "seed0")[-1]
        assert finite == [last["test_top1"]]
        assert diverged == []


@pytest.mark.slow
def test_shuffled_pixels_are_compared_with_those_in_order(tmp_path, monkeypatch):
    small = {"dense": "dense-8", "cnn": "conv3-2/2 max2 dense-4"}
    monkeypatch.setattr(shuffled_pixels, "NETWORKS", small)
    part = shuffled_pixels.measure(tmp_path, Listener(), quick=True)
    names = ["dense", "cnn", "dense_shuffled", "cnn_shuffled"]
    assert [row[0] for row in part.rows] == names
    paths = [tmp_path / "as_they_are" / name for name in names[:2]]
    paths += [tmp_path / "shuffled" / name for name in names[2:]]
    last = [folder.read_metrics(path / "seed0")[-1]["test_top1"] for path in paths]
    assert [arm["tested"] for arm in part.values["results"]] == [[top1] for top1 in last]


def test_the_page_to_play_with_speaks_both_languages():
    page = PLAY.read_text("utf-8")
    assert page.count('<span lang="en">') == page.count('<span lang="es">') > 20
    spoken = re.findall(r"^    (en|es): \{\n(.*?)^    \},$", page, re.DOTALL | re.MULTILINE)
    keys = {language: re.findall(r"(\w+): [\"\[]", words) for language, words in spoken}
    assert keys["en"] == keys["es"]
    assert len(keys["en"]) > 20
    assert not re.search(r"""(src|href)=["'](?!en/|es/)|url\(|@import|https?://(?!www\.w3)""", page)


SHAPES = [(28, 1, 32, 3, 1, 1), (224, 3, 96, 11, 4, 2), (7, 2, 5, 3, 2, 0), (5, 1, 1, 6, 1, 0)]
SHAPES += [(28, 1, 1, 3, 2, 1), (8, 1, 1, 3, 3, 0)]
LINES = [
    ("valid5-6 max2 valid5-16 max2 dense-120 dense-84", 32, 1, 10),
    ("valid5-6 max2 valid5-16 max2 dense-120 dense-84", 40, 1, 10),
    ("conv3-16/2 max3/2 conv5-8 avg2 gap", 33, 3, 7),
    ("dense-256 dense-128", 28, 1, 10),
]
PROBE = """
const asked = %s;
const digit = course.DIGITS[0];
const byId = (id) => document.getElementById(id);
const change = (id, value, event) => {
  byId(id).value = value;
  byId(id).dispatchEvent(new Event(event, { bubbles: true }));
};
const found = {
  digits: course.DIGITS, kernels: course.KERNELS,
  answers: Object.fromEntries(
    Object.entries(course.KERNELS).map(([name, k]) => [name, course.correlate(digit, k)])),
  shapes: asked.shapes.map(([n, c, f, k, s, p]) => course.shape({ n, c, f, k, s, p })),
  networks: asked.lines.map((line) => course.network(...line)),
  wrong: ["conv3", "gap max2", "valid9-1", " "].map((line) => course.network(line, 8, 1, 2).error),
};
change("preset", "edge_all", "change");
change("place", 8 * 3 + 5, "input");
found.sum = byId("sum").textContent;
document.querySelector("#image [data-place='0']")
  .dispatchEvent(new MouseEvent("click", { bubbles: true }));
found.clicked = byId("place").value;
change("k", 4, "input");
found.counted = byId("counted").textContent;
change("s", 0, "input");
found.refused = byId("counted").textContent;
change("example", "LeNet-5, 40×40", "change");
found.said = byId("said").textContent;
byId("to-es").click();
setTimeout(() => {
  found.language = document.documentElement.lang;
  found.spanish = byId("said").textContent;
  found.visible = [...document.querySelectorAll("[lang=en]")].filter((e) => e.offsetParent).length;
  const kept = document.createElement("pre");
  kept.id = "found";
  kept.textContent = JSON.stringify(found);
  document.body.append(kept);
}, 100);
"""


@pytest.fixture(scope="module")
def played(tmp_path_factory):
    """What a browser answers that plays with the page."""
    page = tmp_path_factory.mktemp("play") / "play.html"
    asked = json.dumps({"shapes": SHAPES, "lines": LINES})
    probe = f"<script>location.hash = 'en'; onload = () => {{ {PROBE % asked} }}</script></body>"
    page.write_text(PLAY.read_text("utf-8").replace("</body>", probe), "utf-8")
    dom, complaints = browse(page, "--virtual-time-budget=3000", "--dump-dom")
    assert not complaints
    return json.loads(html.unescape(re.search(r'<pre id="found">(.*?)</pre>', dom)[1]))


@needs_browser
def test_a_kernel_moves_over_an_image(played):
    digits = load_digits()
    for label, image in played["digits"].items():
        assert any(np.array_equal(image, one) for one in digits.images[digits.target == int(label)])
    assert set(played["kernels"]) == set(filters.FILTERS)
    for name, kernel in filters.FILTERS.items():
        np.testing.assert_allclose(np.reshape(played["kernels"][name], (3, 3)), kernel, atol=1e-7)
        expected = ndimage.correlate(np.array(played["digits"]["0"], float), kernel, mode="nearest")
        np.testing.assert_allclose(played["answers"][name], expected, atol=1e-5)
    answer = np.array(played["answers"]["edge_all"])[3, 5]
    assert played["sum"].endswith(f" = {answer:g}".replace("-", "−"))
    assert played["clicked"] == "0"


@needs_browser
def test_shapes_and_counts_are_those_of_the_library(played):
    for (n, c, f, k, s, p), found in zip(SHAPES, played["shapes"], strict=True):
        if k > n + 2 * p:
            assert found is None
            continue
        side, _ = conv_output_shape((n, n), k, stride=s, padding=p)
        assert found["side"] == side
        assert found["parameters"] == (k * k * c + 1) * f
        assert found["macs"] == k * k * c * side * side * f
        assert found["dense"] == (n * n * c + 1) * side * side * f
        last = max(i * s - p + j for i in range(side) for j in range(k))
        assert found["unseen"] == sum(pixel > last for pixel in range(n))
    assert "⌊(7 + 2·1 − 4) / 2⌋ + 1 = 3" in played["counted"]
    assert played["refused"].startswith("Whole numbers")


@needs_browser
def test_a_network_in_a_line_is_counted_as_the_library_does(played):
    for (line, side, channels, classes), found in zip(LINES, played["networks"], strict=True):
        model = create_model("sequential", num_classes=classes, layers=line)
        expected = summarize(model, (side, side, channels))
        assert (found["parameters"], found["macs"]) == (expected.parameters, expected.macs)
        for row, layer in zip(found["rows"], expected.rows, strict=True):
            assert row["output"] == "×".join(map(str, layer.output_shape))
            assert row["parameters"] == layer.parameters
            field = layer.receptive_field
            assert row["field"] == (field[0] if field else None)
    assert all(played["wrong"])
    assert "784" in played["said"]
    assert played["language"] == "es"
    assert "784" in played["spanish"]
    assert played["spanish"] != played["said"]
    assert played["visible"] == 0


@needs_browser
def test_the_page_to_play_with_fits_a_telephone(tmp_path):
    page = tmp_path / "page.html"
    inside = html.escape(PLAY.read_text("utf-8"))
    frame = f'<iframe style="border:0;width:390px" srcdoc="{inside}"></iframe>'
    probe = "onload = () => { document.title = frames[0].document.documentElement.scrollWidth }"
    page.write_text(f"<!DOCTYPE html><title></title>{frame}<script>{probe}</script>", "utf-8")
    dom, complaints = browse(page, "--dump-dom")
    assert not complaints
    assert int(re.search(r"<title>(\d+)</title>", dom)[1]) <= 390
