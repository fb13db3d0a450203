"""Exported networks: the same answers without this package, in JAX and in PyTorch."""

import contextlib
import dataclasses
import json
import os
import re
import runpy
import shutil
import subprocess
import sys
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import jaxtyping
import msgspec
import numpy as np
import pytest
from PIL import Image

import jaxcnn
from benchmarks.torch_reference import reference
from benchmarks.zoo import TABLE, Row, build, variables
from jaxcnn import cli, models, ops
from jaxcnn.config import Data, Experiment, Model
from jaxcnn.errors import InputError
from jaxcnn.learning import files, records
from jaxcnn.learning.state import sha256
from jaxcnn.models.to_torch import to_torch
from jaxcnn.ops import lowering
from jaxcnn.runs import exporting
from jaxcnn.tasks import Classification, Segmentation

FAMILIES = [row for row in TABLE if row.representative]
HEAVY = {"alexnet", "alexnet_2012", "convnext_tiny", "googlenet", "googlenet_2014", "inception_v3"}
HEAVY |= {"densenet121", "mobilenet_v3_small", "regnet_y_400mf", "unet", "xception"}
COMPILED = {"mlp", "lenet5", "convnet", "resnet20", "mobilenet_v2"}
"""Those whose answers are compared; of the others, the program is made and checked."""
QUICK = {"mlp", "lenet5", "convnet"}
"""Those of which that is done by default."""
LOADED = {"resnet18", "squeezenet1_1"}
"""Those whose names and logits are compared with PyTorch's by default."""
STABLE = {"shape_assertion"}
"""Calls that every JAX understands: here the check that there is at least one image."""
slow = pytest.mark.slow


@contextlib.contextmanager
def sizes_may_be_symbols() -> Iterator[None]:
    """The annotations that are enforced in tests know whole numbers alone, here it is n images."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.fixture(autouse=True)
def _symbols() -> Iterator[None]:
    with sizes_may_be_symbols():
        yield


def load(content: bytes) -> Any:
    from jax import export

    return export.deserialize(bytearray(content))


def network_of(row: Row) -> Any:
    """What is needed of a trained network, with random weights."""
    model = build(row, **row.slim)
    return SimpleNamespace(
        model=model,
        variables=variables(model, row.image),
        task=Segmentation() if row.name in models.PER_PIXEL else Classification(),
        prepare=lambda images: images.astype(jnp.float32) / 255,
        image_shape=row.image,
        temperature=None,
        experiment=Experiment(model=Model(row.name)),
    )


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A small network, trained for a moment."""
    folder = tmp_path_factory.mktemp("export") / "run"
    return jaxcnn.train(
        model="lenet5", data=Data("digits", image_size=32), epochs=1, workdir=folder, quiet=True
    )


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A network with an option, on the middle of coloured squares."""
    folder = tmp_path_factory.mktemp("export") / "photos"
    data = Data(
        "synthetic", examples=(20, 20), batch_size=20, num_classes=4, image_size=12, fit="crop",
        crop_ratio=0.8, mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.4),
    )  # fmt: skip
    model = Model("mlp", {"hidden": (7,)})
    return jaxcnn.train(model=model, data=data, epochs=1, workdir=folder, quiet=True)


def pixels(n: int, shape: Any, dtype: str = "uint8") -> np.ndarray:
    return np.random.default_rng(n).integers(0, 256, (n, *shape)).astype(dtype)


def pictured(folder: Path) -> Path:
    """A photo in a file, which lies on its side as its EXIF data say."""
    file = folder / "photo.png"
    turned = Image.Exif()
    turned[0x0112] = 6
    Image.fromarray(np.kron(pixels(1, (5, 9, 3))[0], np.ones((8, 8, 1), np.uint8))).save(
        file, exif=turned
    )
    return file


@pytest.mark.parametrize(
    "row", [pytest.param(r, id=r.name, marks=[slow] * (r.name not in QUICK)) for r in FAMILIES]
)
def test_every_family_leaves_as_a_program(row: Row) -> None:
    network = network_of(row)
    content = exporting._stablehlo(network, ("cpu", "cuda", "tpu"), "uint8")
    exported = load(content)
    assert exported.platforms == ("cpu", "cuda", "tpu")
    assert str(exported.in_avals[0].shape[0]) == "n"
    # Nothing that only this machine has is called: neither oneDNN's handlers nor Python.
    assert set(re.findall(r"custom_call @(\w+)", exported.mlir_module())) <= STABLE
    if row.name not in COMPILED:
        return
    with lowering.without_onednn():
        ours = jax.jit(lambda held, x: network.model.apply(held, network.prepare(x), train=False))
        for n in (1, 3):
            images = pixels(n, row.image)
            expected = np.asarray(ours(network.variables, images))
            found = np.asarray(exported.call(images)["outputs"])
            np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6 * abs(expected).max())


def test_each_platform_has_its_own_plan() -> None:
    """On a GPU a 1x1 convolution is cuDNN's, on a CPU a matrix product."""
    seen = []

    class Watched(nn.Module):
        @nn.compact
        def __call__(self, x: jax.Array, *, train: bool = False) -> jax.Array:
            seen.append(lowering.current_platform())
            return ops.conv(x, jnp.ones((1, 1, x.shape[-1], 2))).mean(axis=(1, 2))

    network: Any = SimpleNamespace(
        model=Watched(),
        variables={},
        task=Classification(),
        prepare=lambda x: x / 255.0,
        temperature=None,
    )
    images = jnp.zeros((2, 4, 4, 3), jnp.uint8)
    for platforms in (("cpu",), ("cuda",), ("tpu",), ("rocm",)):
        seen.clear()
        jax.export.export(jax.jit(exporting.program(network, platforms)), platforms=platforms)(
            images
        )
        assert set(seen) == {exporting.PLATFORMS[platforms[0]]}


def test_the_program_answers_as_the_run_does(run: Any) -> None:
    folder = run.export("stablehlo")
    about = json.loads((folder / "model.json").read_text())
    network, trained = load((folder / "model.stablehlo").read_bytes()), run._network("latest")
    assert about["classes"] == list(run.classes) == about["names"]
    assert (about["image_shape"], about["dtype"]) == ([8, 8, 1], "uint8")
    for n in (1, 5, 16):
        images = pixels(n, (8, 8, 1))
        predictions, answers = trained.answer(trained.variables, images)
        found = network.call(images)
        assert set(found) == {"outputs", "predictions", "answers"}
        np.testing.assert_allclose(found["predictions"], predictions, rtol=0, atol=1e-6)
        np.testing.assert_allclose(found["answers"], answers, rtol=0, atol=1e-6)


def test_it_is_loaded_without_this_package(run: Any, tmp_path: Path) -> None:
    folder = run.export("stablehlo", tmp_path / "out")
    image = pixels(1, (8, 8))[0]
    Image.fromarray(image).save(tmp_path / "x.png")
    np.save(tmp_path / "x.npy", image[None, :, :, None])
    probabilities = run.predict(image)[0]
    expected = f"{run.classes[probabilities.argmax()]} {probabilities.max():.4f}"
    (tmp_path / "none").mkdir()
    (tmp_path / "none" / "jaxcnn.py").write_text("raise ImportError('not here')")
    path = [str(tmp_path / "none"), *filter(None, [os.environ.get("PYTHONPATH")])]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(path)}
    for name in ("x.png", "x.npy"):
        args = [sys.executable, str(folder / "load.py"), str(tmp_path / name)]
        done = subprocess.run(args, capture_output=True, text=True, env=env, check=False)
        assert done.stdout.strip() == expected, done.stderr


def test_photos_are_read_as_predict_reads_them(
    photos: Any, run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    """Turned upright, and the middle of the shorter side or all of it."""
    picture, seen = pictured(tmp_path), []
    exporting_run = SimpleNamespace(call=lambda x: seen.append(x) or {"answers": np.eye(10)[:1]})
    monkeypatch.setattr("jax.export.deserialize", lambda content: exporting_run)
    monkeypatch.setattr(sys, "argv", ["load.py", str(picture)])
    square = replaced_data(photos, read_size=12)
    for network in (photos._network("latest"), square, run._network("latest")):
        about = exporting._described(network) | {"dtype": "uint8"}
        about["names"] = list("0123456789")
        for name, content in (("model.json", json.dumps(about)), ("load.py", exporting.LOAD)):
            (tmp_path / name).write_text(content)
        (tmp_path / "model.stablehlo").write_bytes(b"")
        runpy.run_path(str(tmp_path / "load.py"))
        np.testing.assert_array_equal(seen.pop()[0], network.read(picture))


def replaced_data(run: Any, **fields: Any) -> Any:
    """The network of a run, of images that are read otherwise."""
    network = run._network("latest")
    data = dataclasses.replace(network.experiment.data, **fields)
    return dataclasses.replace(
        network, experiment=dataclasses.replace(network.experiment, data=data)
    )


def test_the_page_shows_the_lines_that_load_it() -> None:
    assert exporting.LOAD in Path("docs/export.md").read_text()


@pytest.mark.parametrize(
    ("task", "shape"),
    [
        ("regression", (2,)),
        pytest.param("multilabel", (3,), marks=slow),
        pytest.param("segmentation", (8, 8), marks=slow),
    ],
)
def test_other_tasks(task: str, shape: Any, tmp_path: Path) -> None:
    x = pixels(20, (8, 8, 1))
    rng = np.random.default_rng(0)
    y = {
        "regression": rng.standard_normal((20, 2), np.float32),
        "multilabel": rng.integers(0, 2, (20, 3)),
        "segmentation": rng.integers(0, 2, (20, 8, 8)).astype(np.uint8),
    }[task]
    network = Model("unet", {"widths": (4, 4)}) if task == "segmentation" else Model("mlp")
    run = jaxcnn.train(model=network, task=task, data=(x, y), test=(x, y), epochs=1, quiet=True)
    trained = run._network("latest")
    found = load((run.export("stablehlo", tmp_path / "out") / "model.stablehlo").read_bytes())
    predictions, answers = trained.answer(trained.variables, x[:3])
    said = found.call(x[:3])
    assert said["predictions"].shape == (3, *shape)
    np.testing.assert_allclose(said["predictions"], predictions, rtol=0, atol=1e-6)
    np.testing.assert_allclose(said["answers"], answers, rtol=0, atol=1e-6)


def test_the_program_takes_the_pixels_that_the_run_had(run: Any, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((20, 4, 4, 1), np.float32), np.arange(20) % 2
    model = Model("mlp", {"hidden": (7,)})
    floats = jaxcnn.train(
        model=model, data=(x, y), test=(x, y), epochs=1, quiet=True, workdir=tmp_path / "run"
    )
    folder = floats.export("stablehlo", tmp_path / "out")
    assert json.loads((folder / "model.json").read_text())["dtype"] == "float32"
    found = load((folder / "model.stablehlo").read_bytes()).call(x)["answers"]
    np.testing.assert_allclose(found, floats.predict(x), rtol=0, atol=1e-6)
    for other, dtype, own in ((floats, "uint8", "float32"), (run, "float32", "uint8")):
        with pytest.raises(InputError, match=f"--dtype {dtype}: must be {own}"):
            exporting.export(other._network("latest"), "stablehlo", tmp_path / "no", dtype=dtype)
    about = tmp_path / "run" / "dataset.json"  # as an earlier version wrote it
    about.write_text(about.read_text().replace('"image_dtype"', '"was"'))
    again = jaxcnn.open(tmp_path / "run")._network("latest")
    assert [exporting._dtype(again, dtype) for dtype in (None, "float32")] == ["uint8", "float32"]


def test_the_temperature_of_a_run_leaves_with_it(
    photos: Any, tmp_path: Path, capsys: Any, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "run"
    shutil.copytree(photos.folder, folder)
    network = photos._network("latest")
    kept = records.Temperature(
        temperature=3.0, standard_error=0.1, nll_before=2.0, nll_after=1.0, checkpoint="latest",
        variables_sha256=sha256(network.variables), examples=9,
    )  # fmt: skip
    files.write_json(folder / "temperature.json", msgspec.to_builtins(kept))
    images = pixels(3, network.image_shape)
    for args, temperature in (((), None), (("--calibrated",), 3.0)):
        out = tmp_path / f"at_{temperature}"
        asked = ["export", str(folder), "--to", "stablehlo", "--platforms", "cpu"]
        caplog.clear()
        assert cli.main([*asked, *args, "--out", str(out)]) == 0
        assert ("has a temperature" in caplog.text) == (temperature is None)
        assert json.loads((out / "model.json").read_text())["temperature"] == temperature
        meant = dataclasses.replace(network, temperature=temperature)
        found = load((out / "model.stablehlo").read_bytes()).call(images)["answers"]
        expected = meant.answer(meant.variables, images)[1]
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6)
    assert cli.main(["export", str(folder), "--to", "safetensors", "--calibrated"]) == 2
    assert "--calibrated: must be left out" in capsys.readouterr().err


class Own(nn.Module):
    """A network that is brought; ``fixed`` makes it one that takes whole batches only."""

    num_classes: int
    fixed: bool = False

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool = False) -> jax.Array:
        if self.fixed and len(range(x.shape[0])) < 1:
            raise ValueError
        return nn.Dense(self.num_classes)(x.mean(axis=(1, 2)))


def test_networks_that_were_brought(tmp_path: Path) -> None:
    x, y = pixels(20, (8, 8, 1)), np.arange(20) % 2
    data: Any = {"data": (x, y), "test": (x, y), "epochs": 1, "quiet": True}
    run = jaxcnn.train(model=Own(num_classes=2), **data)
    found = load((run.export("stablehlo", tmp_path / "out") / "model.stablehlo").read_bytes())
    np.testing.assert_allclose(found.call(x)["predictions"], run.predict(x), rtol=0, atol=1e-6)
    arrays = models.read_safetensors(run.export("safetensors") / "model.safetensors")
    assert set(arrays) == {"Dense.0.weight", "Dense.0.bias"}
    run = jaxcnn.train(model=Own(num_classes=2, fixed=True), **data)
    with pytest.raises(InputError, match=r"Own.*cannot be exported to stablehlo") as error:
        run.export("stablehlo", tmp_path / "fixed")
    assert "\n" not in str(error.value)
    assert not (tmp_path / "fixed").exists()


# --------------------------------------------------------------------------- safetensors


@pytest.mark.parametrize(
    "row", [pytest.param(r, id=r.name, marks=[slow] * (r.name in HEAVY)) for r in FAMILIES]
)
def test_safetensors_come_back_bit_for_bit(row: Row) -> None:
    model = build(row, **row.slim)
    held = variables(model, row.image)
    state = to_torch(model, held, row.image)
    back = models.from_torch(model, state, input_shape=row.image)
    jax.tree.map(np.testing.assert_array_equal, back, dict(held))


@pytest.mark.parametrize(
    "row",
    [
        pytest.param(r, id=r.name, marks=[slow] * (r.name not in LOADED))
        for r in TABLE
        if r.torchvision and not r.giant
    ],
)
def test_pytorch_has_the_same_names_and_shapes(row: Row, torchvision: Any) -> None:
    model = models.create_model(row.name, num_classes=1000)
    shape = models.standard_input(row.name)
    kinds = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, *shape)))
    zero = np.zeros((), np.float32)
    held = jax.tree.map(lambda leaf: np.broadcast_to(zero, leaf.shape), kinds)
    found = {name: array.shape for name, array in to_torch(model, held, shape).items()}
    theirs = reference(row.name, empty=True).state_dict()
    assert found == {name: tuple(tensor.shape) for name, tensor in theirs.items()}


@pytest.mark.parametrize(
    "row",
    [
        pytest.param(r, id=r.name, marks=[slow] * (r.name not in LOADED))
        for r in FAMILIES
        if r.torchvision and r.name != "vgg11_bn"
    ],
)
def test_pytorch_loads_them_and_gives_the_same_logits(row: Row, torchvision: Any) -> None:
    import torch

    model = build(row)
    held = variables(model, row.image)
    theirs = reference(row.name, num_classes=10).eval()
    state: Any = OrderedDict(
        {k: torch.tensor(v) for k, v in to_torch(model, held, row.image).items()}
    )
    state._metadata = theirs.state_dict()._metadata  # MNASNet asks for its version
    theirs.load_state_dict(state, strict=True)
    x = np.random.default_rng(0).standard_normal((2, *row.image), np.float32)
    with torch.no_grad():
        expected = theirs(torch.tensor(x.transpose(0, 3, 1, 2))).numpy()
    found = np.asarray(jax.jit(lambda held, x: model.apply(held, x, train=False))(held, x))
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5 * max(1, abs(expected).max()))


def test_import_reads_what_export_writes(run: Any, tmp_path: Path, capsys: Any) -> None:
    folder = run.export("safetensors", tmp_path / "out")
    import safetensors

    with safetensors.safe_open(folder / "model.safetensors", framework="numpy") as file:
        header = file.metadata()
    assert header["model"] == "lenet5"
    assert json.loads(header["classes"]) == list(run.classes)
    assert json.loads(header["mean"]) == list(run.experiment.data.mean)
    args = ["--model", "lenet5", "--num-classes", "10", "--dataset", "digits"]
    weights, out = str(folder / "model.safetensors"), str(tmp_path / "imported")
    code = cli.main(["import", weights, *args, "--out", out])
    assert code == 0, capsys.readouterr().err
    again, first = jaxcnn.open(out)._network("latest"), run._network("latest")
    jax.tree.map(np.testing.assert_array_equal, again.variables, first.variables)


def test_the_header_says_what_import_needs(photos: Any, tmp_path: Path, capsys: Any) -> None:
    weights = photos.export("safetensors", tmp_path / "out") / "model.safetensors"
    code = cli.main(["import", str(weights), "--out", str(tmp_path / "in")])
    assert code == 0, capsys.readouterr().err
    again, first = jaxcnn.open(tmp_path / "in")._network("latest"), photos._network("latest")
    assert (again.classes, again.image_shape) == (first.classes, first.image_shape)
    assert again.experiment.model.options == {"hidden": (7,)}
    assert again.read(pictured(tmp_path)).tobytes() == first.read(pictured(tmp_path)).tobytes()
    images = pixels(3, first.image_shape)
    for mine, theirs in zip(*(n.answer(n.variables, images) for n in (again, first)), strict=True):
        np.testing.assert_array_equal(mine, theirs)
    # What is given counts instead.
    args = ["--image-size", "16", "--mean", "0", "--std", "1", "--model", "sequential"]
    assert cli.main(["import", str(weights), *args, "--out", str(tmp_path / "no")]) == 2
    assert "does not fit" in capsys.readouterr().err
    for was, now in ((b"[12, 12, 3]", b"[12, 12, x]"), (b"read_size", b"read_type")):
        (tmp_path / "x.safetensors").write_bytes(weights.read_bytes().replace(was, now))
        assert cli.main(["import", str(tmp_path / "x.safetensors")]) == 2
        assert "its header is damaged" in capsys.readouterr().err


def test_an_epsilon_that_torchvision_has_not_comes_back_and_is_said(
    caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    row = next(row for row in TABLE if row.name == "mobilenet_v3_small")
    for epsilon, said in ((1e-5, True), (1e-3, False)):
        caplog.clear()
        options = {"epsilon": epsilon}
        blocks = ((3, 16, 16, True, False, 2),)  # one of them tells as much
        model = models.create_model(row.name, num_classes=4, blocks=blocks, **options)
        network: Any = SimpleNamespace(
            model=model,
            variables=variables(model, (32, 32, 3)),
            input_shape=(32, 32, 3),
            experiment=Experiment(model=Model(row.name, options)),
        )
        assert exporting._safetensors(network, {})
        assert ("eps=1e-05" in caplog.text) == said


# ---------------------------------------------------------------------------- the command


def test_an_export_is_replaced_and_nothing_else_is(run: Any, tmp_path: Path) -> None:
    out = tmp_path / "out"
    run.export("stablehlo", out)
    run.export("safetensors", out)
    assert {path.name for path in out.iterdir()} == {"model.safetensors", "model.json"}
    (out / "mine.txt").write_text("kept")
    with pytest.raises(InputError, match="holds something else"):
        run.export("safetensors", out)
    assert (out / "mine.txt").read_text() == "kept"
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_full_disk_leaves_what_was_there(
    run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = run.export("safetensors", tmp_path / "out")
    before = (out / "model.safetensors").read_bytes()

    def full(path: Path, content: bytes) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(exporting.files, "write_bytes", full)
    with pytest.raises(OSError, match="No space left"):
        run.export("stablehlo", out)
    assert (out / "model.safetensors").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_rename_that_fails_leaves_what_was_there(
    photos: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = photos.export("safetensors", tmp_path / "out")
    before, rename = (out / "model.safetensors").read_bytes(), Path.rename

    def refused(path: Path, target: Path) -> Path:
        if (path / "load.py").exists():
            raise OSError(5, "Input/output error")
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", refused)
    with pytest.raises(OSError, match="Input/output error"):
        exporting._replace(out, {"load.py": b"", "model.json": b"{}"})
    assert (out / "model.safetensors").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (("--to", "onnx"), "jax2onnx 0.17.1"),
        (("--to", "tflite"), "stablehlo"),
        (("--to", "stablehlo", "--platforms", "cpu", "cpu"), "named once"),
        (("--to", "stablehlo", "--platforms", "metal"), "cuda"),
        (("--to", "stablehlo", "--checkpoint", "first"), "latest"),
        (("--to", "stablehlo", "--out", "{file}"), "must be a folder"),
        (("--to", "stablehlo", "--out", "{file}/in"), "cannot be written"),
        (("--to", "safetensors", "--out", "{run}"), "holds something else"),
        (("--to", "safetensors", "--platforms", "tpu"), "--platforms: must be left out"),
        (("--to", "safetensors", "--dtype", "uint8"), "--dtype: must be left out"),
        ((), "--to"),
    ],
)
def test_bad_input_is_said_in_a_line(
    args: tuple[str, ...], said: str, run: Any, tmp_path: Path, capsys: Any
) -> None:
    (tmp_path / "file").write_text("x")
    places = {"file": tmp_path / "file", "run": run.folder}
    code = cli.main(["export", str(run.folder), *(arg.format(**places) for arg in args)])
    err = capsys.readouterr().err
    assert (code, len(err.strip().splitlines())) == (2, 1), err
    assert said in err


def test_no_checkpoint_is_said_in_a_line(run: Any, tmp_path: Path, capsys: Any) -> None:
    for name in ("config.json", "dataset.json"):
        (tmp_path / name).write_bytes((run.folder / name).read_bytes())
    assert cli.main(["export", str(tmp_path), "--to", "stablehlo"]) == 2
    assert "train it first" in capsys.readouterr().err
