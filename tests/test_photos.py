"""Photos of odd sizes: whoever asks, the same file becomes the same network input and answer."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from jaxcnn import cli
from jaxcnn.analysis import report
from jaxcnn.config import Augment, Data, Experiment, Model, Optim, Schedule, Train
from jaxcnn.data import sources
from jaxcnn.learning import mesh
from jaxcnn.runs import evaluation, group, trained
from jaxcnn.runs.program import Program, _batch

SIZES = [(31, 57), (64, 20), (28, 28), (90, 33), (25, 41), (200, 61)]
WAYS = {
    "crop": {"fit": "crop"},
    "crop with a margin": {"fit": "crop", "read_size": 32},
    "grey": {"fit": "resize", "channels": 1},
    "resize": {"fit": "resize"},
    "crop, streamed": {"fit": "crop", "streaming": True, "workers": 0},
}
SLOW = ("resize", "crop, streamed", "crop with a margin")


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Two classes of noisy photos, light and dark ones, some of them turned by their EXIF data."""
    root, rng = tmp_path_factory.mktemp("photos"), np.random.default_rng(0)
    for split, count in (("train", 12), ("test", 6)):
        for brightness, name in ((70, "dark"), (170, "light")):
            (root / split / name).mkdir(parents=True)
            for i in range(count):
                width, height = SIZES[i % len(SIZES)]
                pixels = rng.normal(brightness, 40, (height, width, 3)).clip(0, 255)
                exif = Image.Exif()
                exif[0x0112] = 6 if i % 3 == 2 else 1
                path = root / split / name / f"{i}.jpg"
                Image.fromarray(pixels.astype(np.uint8)).save(path, exif=exif)
    return root


@pytest.fixture(
    scope="module",
    params=[pytest.param(way, marks=[pytest.mark.slow] * (way in SLOW)) for way in WAYS],
)
def run(request, photos, tmp_path_factory):
    """A run folder, its network, and its photos with what the network is given of each."""
    options = {"image_size": 28, "batch_size": 8, "eval_batch_size": 5, **WAYS[request.param]}
    channels = options.get("channels", 3)
    data = Data("folder", str(photos), mean=(0.4,) * channels, std=(0.3,) * channels, **options)
    experiment = Experiment(
        "photos",
        data,
        model=Model("convnet", {"widths": (4,), "hidden": 8}),
        optim=Optim(peak_lr=0.003),
        schedule=Schedule("constant", 0),
        train=Train(epochs=2),
    )
    folder = tmp_path_factory.mktemp("runs") / "photos"
    group.train_one(experiment, folder)
    network = trained.restore(folder)
    dataset = sources.load(replace(data, streaming=True))  # whose splits are the files
    paths = [dataset.test.path(i) for i in range(len(dataset.test))]
    inputs = np.concatenate(
        [network.prepare(jnp.asarray(network.read(path)[None])) for path in paths]
    )
    assert inputs.shape[1:] == network.input_shape == (28, 28, channels)
    return folder, network, paths, inputs


def probabilities(network, inputs):
    logits = network.model.apply(network.variables, jnp.asarray(inputs), train=False)
    return np.asarray(jax.nn.softmax(logits))


def test_predict_answers_as_the_evaluation_does(run):
    folder, network, paths, inputs = run
    expected = probabilities(network, inputs)
    found = trained.predict(folder, paths)
    assert [p.label for p in found] == [network.classes[i] for i in expected.argmax(axis=1)]
    np.testing.assert_allclose([p.answers[0] for p in found], expected.max(axis=1), rtol=1e-5)
    kept = evaluation.predict_test_set(folder)  # for reports and comparisons
    assert [network.classes[i] for i in kept["predicted"]] == [p.label for p in found]
    np.testing.assert_allclose(kept["probability"], [p.answers[0] for p in found], rtol=1e-5)
    right = [p.label == path.parent.name for p, path in zip(found, paths, strict=True)]
    assert evaluation.evaluate(folder)["test_top1"] == np.mean(right)
    # The network tells light from dark, so that equal answers are no accident.
    assert np.mean(right) > 0.7
    assert len({round(p.answers[0], 4) for p in found}) > len(paths) // 2


def test_the_dataset_holds_what_is_read_of_each_file(run):
    _, network, paths, _ = run
    stored = network.dataset().test.read(np.arange(len(paths)))
    assert stored["ok"].all()
    for path, image in zip(paths, stored["image"], strict=True):
        np.testing.assert_array_equal(network.read(path), image)


def test_training_is_given_the_same_images(run):
    """Without augmentation, the batch of a training step holds what predict makes of the files."""
    _, network, _, _ = run
    experiment = replace(network.experiment, augment=Augment())
    dataset = sources.load(replace(experiment.data, streaming=False))
    program = Program(experiment, dataset, mesh.one_device())
    shuffle = sources_shuffle(program)
    step = jnp.int32(0)
    order = shuffle.order(jax.random.key(1), step)
    crops, teacher, seed = None, None, jnp.int32(0)
    batch = _batch(
        program.network, dataset, crops, shuffle, teacher, program.given(), seed, order, step
    )
    files = sources.load(replace(experiment.data, streaming=True)).train
    for i, image, label in zip(order, batch["image"], batch["label"], strict=False):
        stored = jnp.asarray(network.read(files.path(int(i)))[None])
        expected = network.prepare(stored)[0]
        np.testing.assert_allclose(image, expected, atol=1e-6)
        assert files.labels[int(i)] == label


def sources_shuffle(program):
    from jaxcnn.data import pipeline

    return pipeline.Shuffle(len(program.dataset.train), program.experiment.data.batch_size)


def test_viz_and_report_show_and_explain_the_same_images(run, monkeypatch, capsys, tmp_path):
    from jaxcnn.analysis import gradcam

    folder, network, paths, inputs = run
    seen = {}
    real = gradcam.grad_cam

    def grad_cam(apply, images, *args):
        jax.debug.callback(lambda x: seen.update(images=np.asarray(x)), images)
        return real(apply, images, *args)

    monkeypatch.setattr(gradcam, "grad_cam", grad_cam)
    assert cli.main(["viz", str(folder), "--image", *map(str, paths[:4])]) == 0
    jax.effects_barrier()
    np.testing.assert_allclose(seen["images"], inputs[:4], atol=1e-6)

    shown = {}
    page = report.page

    def spied(title, arms, held, images, *args):
        shown["images"] = images(list(range(len(paths))))
        return page(title, arms, held, images, *args)

    monkeypatch.setattr(report, "page", spied)
    assert cli.main(["report", str(folder), "--out", str(tmp_path / "page.html")]) == 0
    np.testing.assert_array_equal(shown["images"], [network.read(path) for path in paths])


def test_an_image_of_any_size_is_brought_to_that_of_a_set_of_one_size(tmp_path):
    """Digits are 8x8: a copy of one keeps its pixels, a larger picture is resized to them."""
    experiment = Experiment(
        data=Data("digits", batch_size=256, image_size=16, fit="resize", mean=(0.3,)),
        model=Model("mlp", {"hidden": (16,)}),
        train=Train(epochs=1),
    )
    group.train_one(experiment, tmp_path / "run")
    network = trained.restore(tmp_path / "run")
    digit = network.dataset().test.images[0]
    Image.fromarray(digit[..., 0]).save(tmp_path / "copy.png")
    np.testing.assert_array_equal(network.read(tmp_path / "copy.png"), digit)
    large = Image.fromarray(digit[..., 0]).resize((80, 40), Image.Resampling.NEAREST)
    large.convert("RGB").save(tmp_path / "large.png")
    expected = large.resize((8, 8), Image.Resampling.BILINEAR)
    np.testing.assert_array_equal(network.read(tmp_path / "large.png")[..., 0], expected)
    found = trained.predict(tmp_path / "run", [tmp_path / "copy.png", tmp_path / "large.png"])
    assert found[0].label == found[1].label
