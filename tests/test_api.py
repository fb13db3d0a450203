"""What notebooks call: ten lines from arrays to answers, and nothing else."""

import inspect
import threading

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

import jaxcnn
from jaxcnn.config import brought
from jaxcnn.runs import evaluation


class TinyNet(nn.Module):
    num_classes: int
    width: int = 8

    @nn.compact
    def __call__(self, x, *, train=False):
        x = nn.relu(nn.Conv(self.width, (3, 3))(x))
        x = nn.Dropout(0.1, deterministic=not train)(x.reshape(len(x), -1))
        return nn.Dense(self.num_classes)(x)


def rows(n, seed):
    """Noise with a bright row, whose place is the class."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 3, n)
    images = rng.integers(0, 80, (n, 8, 8), np.uint8)
    images[np.arange(n), 2 * labels] += 150
    return images, labels


X, Y = rows(300, 0)
XT, YT = rows(90, 1)


@pytest.fixture(scope="module")
def run():
    model = TinyNet(num_classes=3)
    return jaxcnn.train(model=model, data=(X, Y), test=(XT, YT), epochs=5, quiet=True)


def test_arrays_are_learned_and_the_run_answers(run):
    assert [record["epoch"] for record in run.history] == [1, 2, 3, 4, 5]
    assert run.result["test_top1"] > 0.95
    assert run.evaluate()["test_top1"] == run.result["test_top1"]
    p = run.predict(XT)
    assert p.shape == (90, 3)
    np.testing.assert_allclose(p.sum(axis=1), 1, rtol=1e-5)
    assert (p.argmax(axis=1) == YT).mean() == pytest.approx(run.result["test_top1"])
    assert run.classes == ("0", "1", "2")
    assert isinstance(run.plot(), Figure)
    assert f"{run.result['test_top1']:.2%}" in repr(run)
    assert "Conv_0" in repr(run.summary())


def test_answers_are_those_of_the_network_itself(run):
    params = run._network("latest").variables["params"]
    x = jnp.asarray(XT[:5, ..., None]) / 255
    logits = TinyNet(3).apply({"params": params}, x)
    np.testing.assert_allclose(run.predict(XT[:5]), jax.nn.softmax(logits), atol=1e-6)
    kernel, bias = params["Conv_0"]["kernel"], params["Conv_0"]["bias"]
    np.testing.assert_array_equal(run.filters(), kernel)
    maps = jax.lax.conv_general_dilated(
        x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    expected = np.asarray(maps) + np.asarray(bias)
    np.testing.assert_allclose(run.features(XT[:5], "Conv_0"), expected, atol=1e-5)


def test_images_may_come_in_any_form(run, tmp_path):
    expected = run.predict(XT[:1])
    for form in (XT[0], XT[0][..., None], XT[:1, ..., None]):
        np.testing.assert_array_equal(run.predict(form), expected)
    file = tmp_path / "ä 1.png"
    Image.fromarray(XT[0]).save(file)
    for form in (file, str(file), [file]):
        np.testing.assert_array_equal(run.predict(form), expected)
    larger = np.asarray(Image.fromarray(XT[0]).resize((32, 32), Image.Resampling.NEAREST))
    assert run.predict(larger).shape == (1, 3)
    for wrong in (
        np.zeros((2, 8, 8, 3), np.uint8),
        np.zeros(8),
        XT[0].astype(int),
        np.zeros((2, 9, 9)),
    ):
        with pytest.raises(jaxcnn.InputError, match=r"images: must be \(n, 8, 8, 1\)"):
            run.predict(wrong)
    with pytest.raises(jaxcnn.InputError, match="checkpoint='bst': must be 'latest' or 'best'"):
        run.predict(XT, checkpoint="bst")
    with pytest.raises(jaxcnn.InputError, match="images: must be files or an array"):
        run.predict([[1, 2], [3]])
    with pytest.raises(jaxcnn.InputError, match=r"name='stage9': .*: Conv_0, "):
        run.features(XT[:1], "stage9")


def test_a_run_is_opened_with_what_was_brought_to_it(run):
    brought._known.clear()
    again = jaxcnn.open(str(run.folder), model=TinyNet, data=(X, Y), test=(XT, YT))
    np.testing.assert_array_equal(again.predict(XT), run.predict(XT))
    assert again.evaluate() == run.evaluate()
    brought._known.clear()
    alone = jaxcnn.open(run.folder)
    assert alone.history == run.history
    with pytest.raises(jaxcnn.InputError, match="TinyNet': was brought by a user"):
        alone.predict(XT)
    with pytest.raises(jaxcnn.InputError, match="model='TinyNet': must be the object"):
        jaxcnn.open(run.folder, model="TinyNet")
    other = type("Other", (TinyNet,), {"__module__": __name__})
    with pytest.raises(jaxcnn.InputError, match=r"model: is '.*:Other', must be TinyNet, as in"):
        jaxcnn.open(run.folder, model=other)
    with pytest.raises(jaxcnn.InputError, match="model: its width is 5, must be 'its default'"):
        jaxcnn.open(run.folder, model=TinyNet(num_classes=3, width=5))
    jaxcnn.open(run.folder, model=TinyNet(num_classes=3))
    for folder in (3, ""):
        with pytest.raises(jaxcnn.InputError, match=r"folder=.*: must be the path of a folder"):
            jaxcnn.open(folder)
        with pytest.raises(jaxcnn.InputError, match=r"workdir=.*: must be the path of a folder"):
            jaxcnn.train(model=TinyNet, data=(X, Y), workdir=folder)
    for given, said in (
        ({"experiment": 42}, "experiment=42: must be a jaxcnn.Experiment"),
        ({"data": (X, Y), "test": 5}, "test: must be images and labels .* is 5"),
        ({"data": (X, Y), "test": (X,)}, "test: must be images and labels .* has 1 parts"),
        ({"data": (X, Y), "classes": 5}, "classes=5: must be a list of names"),
    ):
        with pytest.raises(jaxcnn.InputError, match=said):
            jaxcnn.train(**given)
    with pytest.raises(jaxcnn.InputError, match=r"no such file; is .* a run folder"):
        jaxcnn.open(run.folder / "nowhere")


@pytest.mark.slow
def test_a_call_goes_on_where_one_before_ended(tmp_path):
    given = {"model": TinyNet, "data": (X, Y), "test": (XT, YT), "quiet": True}
    same = {"schedule": jaxcnn.Schedule("constant", warmup_epochs=0), **given}
    whole = jaxcnn.train(**same, epochs=3, workdir=tmp_path / "c")
    jaxcnn.train(**same, epochs=2, workdir=tmp_path / "d")
    parts = jaxcnn.train(**same, epochs=3, workdir=tmp_path / "d")
    assert len(parts.history) == 3
    assert parts.result["params_sha256"] == whole.result["params_sha256"]


def test_without_test_arrays_a_fifth_is_held_out_and_said(capsys):
    small = jaxcnn.train(model=lambda num_classes: TinyNet(num_classes), data=(X, Y), epochs=1)
    out = capsys.readouterr().out
    assert "60 of 300 examples are held out for testing" in out
    assert "epoch    1" in out
    assert f"test top-1 {small.result['test_top1']:.2%}" in out
    assert small.evaluate()["test_examples"] == 60
    config = (small.folder / "config.json").read_text()
    assert "<lambda>" in config  # recorded as what it is
    brought._known.clear()
    with pytest.raises(jaxcnn.InputError, match="was brought by a user"):
        evaluation.evaluate(small.folder)


@pytest.mark.slow
def test_it_trains_in_any_thread():
    found = []
    thread = threading.Thread(
        target=lambda: found.append(jaxcnn.train(model="mlp", data="digits", epochs=1, quiet=True))
    )
    thread.start()
    thread.join()
    assert found[0].result["epochs"] == 1


WRONG = [
    ({"data": (X, Y), "optimizer": 3}, "optimizer=3: must be one of name, augment, optim"),
    ({"data": (X, Y, X)}, "data: must be images and labels .* has 3 parts"),
    ({"data": "digits", "test": (XT, YT)}, "test, classes: must be left out"),
    ({"data": (X, Y[:5])}, r"train labels: must be of shape \(300,\)"),
    ({"data": (X, Y), "test": (XT[:, :4], YT)}, "test images: must be 8x8x1 uint8"),
    ({"data": (X, Y), "model": TinyNet(num_classes=5)}, "has num_classes=5, must be 3"),
    ({"data": (X, Y), "model": "resnet"}, "model='resnet' is unknown; did you mean"),
    ({"data": (X, Y), "model": 3}, "model.name=3: must be a name of `jaxcnn list`"),
    ({"data": (X, Y), "epochs": 0}, "train.epochs=0"),
    ({"data": "nothing"}, "unknown dataset"),
    ({"data": X}, "data.name=array"),
]


@pytest.mark.parametrize(("given", "said"), WRONG)
def test_a_fault_is_one_line_before_anything_is_compiled(given, said):
    with pytest.raises(jaxcnn.InputError, match=said) as error:
        jaxcnn.train(**{"model": TinyNet, "quiet": True, **given})
    assert "\n" not in str(error.value)


def test_all_that_is_offered_is_there_and_explained():
    assert set(jaxcnn.__all__) <= set(dir(jaxcnn))
    for name in jaxcnn.__all__:
        assert inspect.getdoc(getattr(jaxcnn, name)), name
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        jaxcnn.nothing  # noqa: B018
