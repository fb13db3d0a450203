"""Pictures of networks: read on light and on dark pages, with labels that have a place each."""

import itertools
import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from jaxcnn import models
from jaxcnn.analysis import pictures, plots, visualize
from jaxcnn.analysis.pictures import Block, Tile, limits, save

LONG = "black-footed albatross, Diomedea nigripes, of the warmer parts of the North Pacific"
UNBROKEN = "Rindfleischetikettierungsüberwachungsaufgabenübertragungsgesetz" * 3


def maps_of(name):
    """Numbers in place of the feature maps of a network, and an image in its size."""
    shape = models.standard_input(name)
    model = models.create_model(name, num_classes=10)
    image = jnp.zeros((1, *shape))
    ends = jax.eval_shape(
        lambda key: model.apply(model.init(key, image), image, endpoints=True)[1], jax.random.key(0)
    )
    rng = np.random.default_rng(0)
    maps = {n: rng.random(end.shape[1:]) for n, end in ends.items() if len(end.shape) == 4}
    return rng.integers(0, 256, shape, np.uint8), maps


def stages(path, name):
    image, maps = maps_of(name)
    return visualize.save_feature_maps(image, maps, path, f"{name} {LONG}", each=6)


def fields(path, name):
    image, maps = maps_of(name)
    found = {n: np.random.default_rng(0).random(image.shape[:2]) for n in maps}
    return visualize.save_fields(found, dict.fromkeys(found, (19, 19)), path)


def heat(path, *shape):
    images = np.random.default_rng(0).integers(0, 256, (3, *shape), np.uint8)
    said = [f"true class: {LONG}\nseen as {UNBROKEN}, 99.9 %", "6", f"{UNBROKEN}\n{LONG}"]
    return visualize.save_heat(images, np.full((3, *shape[:2]), 0.5), said, path, LONG)


def label_maps(path):
    images = np.zeros((2, 16, 16, 3), np.uint8)
    maps = np.arange(512).reshape(2, 16, 16) // 30
    names = [LONG, UNBROKEN, "c", *(f"class_{i}" for i in range(3, 18))]
    return visualize.save_label_maps(images, maps, names, [LONG, UNBROKEN], path)


PICTURES = {
    "filters of LeNet-5": lambda path: visualize.save_filters("c1", np.ones((5, 5, 1, 6)), path),
    "filters of ResNet-50": lambda path: visualize.save_filters(
        UNBROKEN, np.random.default_rng(0).normal(size=(7, 7, 3, 96)), path
    ),
    "stages of LeNet-5": lambda path: stages(path, "lenet5"),
    "stages of ResNet-50": lambda path: stages(path, "resnet50"),
    "fields of LeNet-5": lambda path: fields(path, "lenet5"),
    "fields of ResNet-50": lambda path: fields(path, "resnet50"),
    "heat": lambda path: heat(path, 32, 32, 1),
    "heat on tall images": lambda path: heat(path, 64, 4, 3),
    "heat on wide images": lambda path: heat(path, 4, 64, 3),
    "label maps": label_maps,
    "classic kernels": lambda path: visualize.save_classic_kernels(
        np.zeros((8, 8, 1), np.uint8), path
    ),
    "odd letters": lambda path: save(path, "$a_1$", "<b>\x1b\n漢字", [Block([Tile(np.eye(2))], 1)]),
}


@pytest.mark.parametrize("what", PICTURES)
def test_nothing_lies_over_a_label(what, tmp_path):
    """By the places that matplotlib draws at: no word is over another, an image, or an edge."""
    file = tmp_path / "a.png"
    figure = PICTURES[what](file)
    figure.set_dpi(pictures.DPI)
    inside = figure.get_window_extent().padded(1)
    words = [
        (text.get_text(), text.get_window_extent()) for text in figure.texts if text.get_text()
    ]
    images = [("an image", axes.get_window_extent()) for axes in figure.axes]
    assert len(words) > 2
    for name, box in [*words, *images]:
        assert inside.x0 <= box.x0 < box.x1 <= inside.x1, name
        assert inside.y0 <= box.y0 < box.y1 <= inside.y1, name
    for (a, one), (b, other) in itertools.combinations([*words, *images], 2):
        assert plots._overlap(one, other) < 1, (a, b)  # of a pixel


def luminance(colour):
    """Relative luminance by the Web Content Accessibility Guidelines 2.2."""
    shares = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [s / 12.92 if s <= 0.04045 else ((s + 0.055) / 1.055) ** 2.4 for s in shares]
    return float(np.dot(linear, (0.2126, 0.7152, 0.0722)))


def contrast(a, b):
    low, high = sorted((luminance(a), luminance(b)))
    return (high + 0.05) / (low + 0.05)


def test_the_ink_is_read_on_light_and_dark_pages():
    style = (Path(plots.__file__).parent / "templates" / "page.css").read_text()
    grounds = [*re.findall(r"--(?:page|card): (#[0-9a-f]{6})", style), "#ffffff", "#000000"]
    assert len(grounds) == 6
    least = {
        ink: min(contrast(ink, ground) for ground in grounds)
        for ink in (f"#{grey:02x}{grey:02x}{grey:02x}" for grey in range(256))
    }
    assert least[pictures.INK] == max(least.values()) > 3.8
    assert contrast(pictures.INK, "#ffffff") > 4
    assert contrast(pictures.INK, "#000000") > 5


def test_a_picture_is_drawn_in_ink_on_no_ground_and_says_what_it_is(tmp_path):
    figure = save(tmp_path / "a.png", "Title", "How and why.", [Block([Tile(np.eye(4), "a")], 2)])
    assert {text.get_color() for text in figure.texts} == {pictures.INK}
    image = Image.open(tmp_path / "a.png")
    assert (image.text["Title"], image.text["Description"]) == ("Title", "How and why.")
    pixels = np.asarray(image)
    assert pixels[:4, :, 3].max() == 0
    assert pixels[-4:, :, 3].max() == 0
    words = pixels[: int(0.25 * pictures.DPI)]
    assert {tuple(pixel) for pixel in words[words[..., 3] == 255]} == {(0x7C, 0x7C, 0x7C, 255)}


def test_an_outlier_takes_no_colours_from_the_rest():
    maps = np.random.default_rng(0).uniform(0, 1, (5, 5))
    expected = limits(maps)
    maps[2, 2] = 1e6
    low, high = limits(maps)
    assert 0 <= low < 0.2
    assert 0.8 < high <= 1
    assert high == pytest.approx(expected[1], abs=0.2)
    maps[0, 0] = np.inf
    assert limits(maps)[1] < 1.01
    for dull in (np.zeros((5, 5)), np.full(3, np.nan), np.array([2.0])):
        low, high = limits(dull)
        assert low < high
    assert limits(np.array([-1.0, 0.5, 3.0, -1000.0]), signed=True) == (-3.0, 3.0)


def test_heat_brightens_and_where_there_is_none_the_grey_image_stays():
    image = np.full((1, 2, 2, 3), (200, 100, 0), np.uint8)
    image[0, 0] = 0
    heats = np.array([[[0.0, 1.0], [0.0, 1.0]]])
    shown = visualize.laid_over(image, heats)[0]
    grey = (0.299 * 200 + 0.587 * 100) / 255
    np.testing.assert_allclose(shown[0, 0], 0)
    np.testing.assert_allclose(shown[1, 0], grey)
    assert shown[0, 1].max() > 0.6  # on black it is bright
    assert shown.max() <= 1


def test_a_field_that_is_small_in_its_image_is_cut_out_with_its_boxes_in_place(tmp_path):
    field = np.zeros((100, 100))
    field[40:47, 50:57] = 1 / 49
    figure = visualize.save_fields({"stage1": field}, {"stage1": (9, 9)}, tmp_path / "a.png")
    (axes,) = figure.axes
    shown = axes.images[0].get_array()
    assert shown.shape == (12, 12)
    assert shown.astype(bool).sum() == 49
    rows, columns = np.nonzero(shown)
    theory, inner = axes.patches
    assert inner.get_bbox().bounds == pytest.approx(
        (columns.min() - 0.5, rows.min() - 0.5, 7, 7)
    )  # all of its seven rows are needed for 95 %
    assert theory.get_bbox().bounds == pytest.approx((columns.min() - 1.5, rows.min() - 1.5, 9, 9))
    words = [text.get_text() for text in figure.texts]
    assert "stage1" in words
    assert "in theory 9x9" in words
    assert "shown: 12x12" in words


def test_feature_maps_that_vary_most_come_first(tmp_path):
    maps = np.zeros((4, 4, 20))
    maps[..., 7] = 50.0  # strong, but alike everywhere
    maps[1, 1, 3], maps[:2, :, 12] = 1.0, 10.0
    image = np.zeros((8, 8, 1), np.uint8)
    figure = visualize.save_feature_maps(image, {"last": maps}, tmp_path / "a.png", "t", each=3)
    _, *drawn = [np.asarray(axes.images[0].get_array()) for axes in figure.axes]
    for shown, channel in zip(drawn, (12, 3, 7), strict=True):
        np.testing.assert_array_equal(shown, maps[..., channel])
    assert "last: 3 of 20 maps of 4x4" in [text.get_text() for text in figure.texts]
