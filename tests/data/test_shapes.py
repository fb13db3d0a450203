import jax
import numpy as np
import pytest

from jaxcnn import memory
from jaxcnn.config import Data
from jaxcnn.data import shapes, sources
from jaxcnn.errors import InputError

SIDE = 96

draw = jax.jit(shapes.draw, static_argnums=1)


@pytest.fixture(scope="module")
def drawn():
    of = shapes.examples("train", 40)
    figures = draw(of, SIDE, 0)
    return shapes.labels(of), {name: np.asarray(array) for name, array in figures.items()}


def lens(r, d):
    """Area that a disc of radius 1 and one of radius r share, their centres d apart."""
    a = np.arccos((d**2 + r**2 - 1) / (2 * d * r))
    b = np.arccos((d**2 + 1 - r**2) / (2 * d))
    return r**2 * (a - np.sin(2 * a) / 2) + b - np.sin(2 * b) / 2


# Of figures that touch the unit circle from within; elementary geometry.
AREAS = {
    "circle": np.pi,
    "crescent": np.pi - lens(0.8, 0.45),
    "cross": 8 * np.cos(0.3) * np.sin(0.3) - 4 * np.sin(0.3) ** 2,
    "ellipse": np.pi / 2,
    "heart": 1 + np.pi / 4,
    "pentagon": 5 / 2 * np.sin(2 * np.pi / 5),
    "ring": np.pi * (1 - 0.6**2),
    "square": 2.0,
    "star": 5 * 0.45 * np.sin(np.pi / 5),
    "triangle": 3 / 4 * np.sqrt(3),
}


def test_each_figure_covers_its_area_about_its_centre(drawn):
    labels, figures = drawn
    rows, columns = np.mgrid[:SIDE, :SIDE]
    for label, mask, centre, radius in zip(
        labels, figures["mask"], figures["centre"], figures["radius"], strict=True
    ):
        name = shapes.CLASSES[label]
        assert mask.sum() / radius**2 == pytest.approx(AREAS[name], rel=0.02), name
        away = np.hypot(rows - centre[0], columns - centre[1])
        assert away[mask > 0.5].max() == pytest.approx(radius, abs=2.0), name  # a corner is thin
        inside = [(mask * rows).sum() / mask.sum(), (mask * columns).sum() / mask.sum()]
        if name not in ("crescent", "heart"):  # whose centroid is elsewhere
            assert np.abs(inside - centre).max() < 0.1, name
        assert 0.149 * SIDE < radius < 0.351 * SIDE
        assert centre.min() >= radius - 0.51
        assert centre.max() <= SIDE - radius - 0.49


def test_a_figure_stands_out_from_the_background_and_from_the_others(drawn):
    _, figures = drawn
    for image, mask in zip(figures["image"].astype(float), figures["mask"], strict=True):
        difference = np.abs(image[mask == 1].mean(0) - image[mask == 0].mean(0))
        assert difference.min() > 0.15 * 255
    assert len({image.tobytes() for image in figures["image"]}) == len(figures["image"])


def test_edges_are_smooth(drawn):
    _, figures = drawn
    partly = ((figures["mask"] > 0.05) & (figures["mask"] < 0.95)).sum(axis=(1, 2))
    assert (partly > figures["radius"]).all()


def test_a_picture_depends_on_split_index_and_seed_alone(drawn):
    _, figures = drawn
    images = figures["image"]
    backwards = draw(shapes.examples("train", 40)[::-1], SIDE, 0)["image"]
    np.testing.assert_array_equal(np.asarray(backwards)[::-1], images)
    for split, seed in (("test", 0), ("train", 1)):
        other = np.asarray(draw(shapes.examples(split, 40), SIDE, seed)["image"])
        assert (other != images).any(axis=(1, 2, 3)).all()


def test_only_numbers_are_in_memory():
    dataset = sources.load(Data("shapes", image_size=224, examples=(1_000_000, 10)))
    assert dataset.image_shape == (224, 224, 3)
    assert dataset.train.images.nbytes == 8_000_000
    assert dataset.classes == shapes.CLASSES
    assert np.bincount(dataset.train.labels).tolist() == [100_000] * 10
    assert len(dataset.test) == 10


def test_synthetic_images_are_noise_from_the_seed():
    config = Data("synthetic", image_size=16, channels=1, num_classes=7, examples=(100, 20))
    one, again = sources.load(config), sources.load(config)
    assert one.image_shape == (16, 16, 1)
    assert (len(one.train), len(one.test), len(one.classes)) == (100, 20, 7)
    assert one.train.images.mean() == pytest.approx(127.5, abs=3)
    np.testing.assert_array_equal(one.train.images, again.train.images)
    assert set(one.train.labels) == set(range(7))


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"name": "synthetic", "image_size": 1024, "examples": (10**8, 1)}, "data.examples"),
        ({"name": "synthetic", "image_size": 2**15, "examples": (64, 1)}, "data.examples"),
        ({"name": "synthetic", "examples": (2**31 - 1, 1)}, "data.examples"),
        ({"name": "shapes", "examples": (2**31 - 1, 2**31 - 1)}, "data.examples"),
        ({"name": "shapes", "image_size": 2**15}, "data.batch_size=64"),
        ({"name": "digits", "image_size": 2**15}, "data.batch_size=64"),
        ({"name": "digits", "image_size": 10**4}, "data.eval_batch_size=500"),
    ],
)
def test_what_does_not_fit_into_memory_is_refused_before_any_is_taken(changes, named, monkeypatch):
    monkeypatch.setattr(memory, "available", lambda: 20 * 10**9)
    with pytest.raises(InputError, match=r"needs [0-9,.]+ GB of memory") as e:
        sources.load(Data(**changes))
    assert str(e.value).startswith(named)
    assert "\n" not in str(e.value)
