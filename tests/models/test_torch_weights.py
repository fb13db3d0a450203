"""Weights from elsewhere: names, layouts, and everything that is refused."""

import contextlib
import json
import pickle
import re
import resource
import struct
import sys
import zipfile
from pathlib import Path
from typing import Any

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict
from safetensors.numpy import save_file

from jaxcnn import models
from jaxcnn.errors import InputError
from jaxcnn.models import safetensors, torch_weights
from jaxcnn.models.torch_weights import load_torch_weights


def squeezenet_state(num_classes: int = 3) -> dict[str, np.ndarray]:
    """A state dict in torchvision's layout, written out independently of the translation."""
    rng = np.random.default_rng(0)
    fires = [(3, 64, 16, 64), (4, 128, 16, 64), (6, 128, 32, 128), (7, 256, 32, 128)]
    fires += [(9, 256, 48, 192), (10, 384, 48, 192), (11, 384, 64, 256), (12, 512, 64, 256)]
    shapes = {"features.0": (64, 3, 3, 3), "classifier.1": (num_classes, 512, 1, 1)}
    for i, channels, squeezed, expanded in fires:
        shapes[f"features.{i}.squeeze"] = (squeezed, channels, 1, 1)
        shapes[f"features.{i}.expand1x1"] = (expanded, squeezed, 1, 1)
        shapes[f"features.{i}.expand3x3"] = (expanded, squeezed, 3, 3)
    state = {}
    for name, shape in shapes.items():
        state[f"{name}.weight"] = rng.standard_normal(shape, np.float32)
        state[f"{name}.bias"] = rng.standard_normal(shape[0], np.float32)
    return state


def test_layouts() -> None:
    state = squeezenet_state()
    variables = models.from_torch("squeezenet1_1", state, num_classes=3)
    kernel = variables["params"]["features_3"]["expand3x3"]["kernel"]
    np.testing.assert_array_equal(
        kernel, state["features.3.expand3x3.weight"].transpose(2, 3, 1, 0)
    )
    model = models.create_model("squeezenet1_1", num_classes=3)
    expected = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 64, 64, 3)))
    assert jax.tree.map(jnp.shape, variables) == jax.tree.map(jnp.shape, expected)
    again = models.from_torch(model, {k: v.astype(np.float16) for k, v in state.items()})
    assert {leaf.dtype for leaf in jax.tree.leaves(again)} == {jnp.dtype("float32")}


def aligned(array: np.ndarray) -> np.ndarray:
    """A copy at an address that a CPU device would take over without copying."""
    raw = np.zeros(array.nbytes + 64, np.uint8)
    start = -raw.ctypes.data % 64
    found = raw[start : start + array.nbytes].view(array.dtype).reshape(array.shape)
    found[:] = array
    return found


def test_what_becomes_of_the_state_dict_does_not_matter() -> None:
    shapes = {"fc1.weight": (64, 1), "fc1.bias": (64,), "fc2.weight": (32, 64), "fc2.bias": (32,)}
    state = {name: aligned(np.ones(shape, np.float32)) for name, shape in shapes.items()}
    variables = models.from_torch("mlp", state, num_classes=32, input_shape=(1, 1, 1), hidden=(64,))
    for array in state.values():
        array[:] = 7
    assert all((leaf == 1).all() for leaf in jax.tree.leaves(variables))


def test_wrong_state_dicts_are_named() -> None:
    state = squeezenet_state()
    bias = state.pop("features.9.squeeze.bias")
    with pytest.raises(ValueError, match=r"1 missing: features\.9\.squeeze\.bias"):
        models.from_torch("squeezenet1_1", state, num_classes=3)
    state["features.9.squeeze.bias"] = bias
    state["head.weight"] = bias
    with pytest.raises(ValueError, match=r"1 not part of it: head\.weight"):
        models.from_torch("squeezenet1_1", state, num_classes=3)
    del state["head.weight"]
    with pytest.raises(ValueError, match=r"classifier\.1\.weight has the shape \(3, 512, 1, 1\)"):
        models.from_torch("squeezenet1_1", state, num_classes=10)
    with pytest.raises(ValueError, match=r"model='resnet18'.*missing.*not part of it"):
        models.from_torch("resnet18", state)
    with pytest.raises(ValueError, match="did you mean squeezenet1_1"):
        models.from_torch("squeezenet1.1", state)
    with pytest.raises(ValueError, match="twice"):
        models.from_torch("squeezenet1_1", state | {"features_0.bias": bias}, num_classes=3)
    state["features.0.bias"] = np.array(["a"] * 64, dtype=object)
    with pytest.raises(ValueError, match=r"features\.0\.bias"):
        models.from_torch("squeezenet1_1", state, num_classes=3)


@pytest.mark.parametrize(
    ("number", "dtype"),
    [(np.nan, np.float32), (np.inf, np.float16), (-np.inf, np.float32), (1e300, np.float64)],
)
def test_weights_that_are_not_finite_are_named(number: float, dtype: Any) -> None:
    state = squeezenet_state()
    kernel = state["features.3.expand1x1.weight"].astype(dtype)
    kernel.flat[7] = number
    state["features.3.expand1x1.weight"] = kernel
    with pytest.raises(ValueError, match=r"type or range: features\.3\.expand1x1"):
        models.from_torch("squeezenet1_1", state, num_classes=3)


def test_variances_below_zero_are_named() -> None:
    model = models.create_model("resnet20", num_classes=3)
    template = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 32, 32, 3)))
    state = {
        torch_weights.spelled(path): np.ones(torch_weights._torch_shape(leaf.shape), np.float32)
        for path, leaf in flatten_dict(template).items()
    }
    models.from_torch(model, state, input_shape=(32, 32, 3))
    name = next(name for name in state if name.endswith("running_var"))
    state[name] = -state[name]
    with pytest.raises(ValueError, match=f"{re.escape(name)} holds variances below 0"):
        models.from_torch(model, state, input_shape=(32, 32, 3))


def test_names_in_messages_are_short_and_printable() -> None:
    with pytest.raises(ValueError, match="not part of it") as error:
        models.from_torch("mlp", {"\n\x1b[2J" + "x" * 10**6: np.ones(1)})
    assert str(error.value).isprintable()
    assert len(str(error.value)) < 999


@pytest.mark.slow
def test_weights_without_auxiliary_heads() -> None:
    model = models.create_model("googlenet", num_classes=4)
    template = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 64, 64, 3)))
    state: dict[str, Any] = {}

    def visit(path: tuple[Any, ...], leaf: Any) -> None:
        names = [key.key for key in path][1:]
        leaves = {"kernel": "weight", "scale": "weight", "mean": "running_mean",
                  "var": "running_var"}  # fmt: skip
        names[-1] = leaves.get(names[-1], names[-1])
        shape = leaf.shape
        if len(shape) > 1:
            shape = (shape[-1], shape[-2], *shape[:-2])
        state[".".join(names).replace("_0.", ".0.").replace("_1.", ".1.")] = np.zeros(shape)

    jax.tree_util.tree_map_with_path(visit, template)
    models.from_torch("googlenet", state, num_classes=4)
    without = {name: array for name, array in state.items() if not name.startswith("aux")}
    with pytest.raises(ValueError, match="aux_heads=False"):
        models.from_torch("googlenet", without, num_classes=4)
    variables = models.from_torch("googlenet", without, num_classes=4, aux_heads=False)
    assert "aux1" not in variables["params"]


def test_timm_names() -> None:
    """Where timm names the arrays of the same network otherwise."""
    model = models.create_model("preact_resnet50", num_classes=2)
    template = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 64, 64, 3)))
    params, stats = template["params"], template["batch_stats"]
    state = {
        "stem.conv.weight": np.zeros((64, 3, 7, 7)),
        "head.fc.weight": np.zeros((2, 2048, 1, 1)),
        "head.fc.bias": np.zeros(2),
    }
    leaves = {"scale": "weight", "bias": "bias", "mean": "running_mean", "var": "running_var"}
    for tree in (params, stats):
        for leaf, array in tree["norm"].items():
            state[f"norm.{leaves[leaf]}"] = np.zeros(array.shape)
        for block, layers in tree.items():
            if not block.startswith("layer"):
                continue
            stage, i = block.removeprefix("layer").split("_")
            for layer, arrays in layers.items():
                torch_name = "downsample.conv" if layer == "downsample" else layer
                for leaf, array in arrays.items():
                    shape = array.shape
                    if leaf == "kernel":
                        shape = (shape[3], shape[2], shape[0], shape[1])
                    name = f"stages.{int(stage) - 1}.blocks.{i}.{torch_name}"
                    state[f"{name}.{leaves.get(leaf, 'weight')}"] = np.zeros(shape)
    models.from_torch("preact_resnet50", state, num_classes=2)


def write(path: Path, arrays: dict[str, np.ndarray], **header: Any) -> Path:
    """A safetensors file, by the format's description."""
    names = {"float32": "F32", "float16": "F16", "int64": "I64"}
    entries: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    data = b""
    for name, array in arrays.items():
        raw = array.tobytes()
        entries[name] = {
            "dtype": names[array.dtype.name],
            "shape": list(array.shape),
            "data_offsets": [len(data), len(data) + len(raw)],
        }
        data += raw
    text = json.dumps(entries | header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)
    return path


def test_safetensors_round_trip(tmp_path: Path) -> None:
    arrays = {
        "a": np.arange(6, dtype=np.float32).reshape(2, 3),
        "scalar": np.array(7, np.int64),
        "empty": np.zeros((0, 4), np.float32),
        "half": np.ones(3, np.float16),
    }
    read = models.read_safetensors(write(tmp_path / "w.safetensors", arrays))
    assert read.keys() == arrays.keys()
    for name, array in arrays.items():
        assert read[name].dtype == array.dtype
        np.testing.assert_array_equal(read[name], array)
        read[name][...] = 1  # an array of the caller's own, not a view of the file
    # A header of this length starts like a pickle; it is none.
    pad = 640 - struct.unpack("<Q", (tmp_path / "w.safetensors").read_bytes()[:8])[0]
    metadata = {"__metadata__": {"format": "pt" + "." * pad}}
    path = write(tmp_path / "pad.safetensors", arrays, **metadata)
    assert path.read_bytes()[:2] == b"\x80\x02"
    assert models.read_safetensors(path).keys() == arrays.keys()


# Two numbers of every type, by the bytes that IEEE 754, or two's complement, gives them.
@pytest.mark.parametrize(
    ("code", "raw", "dtype", "numbers"),
    [
        ("F64", "000000000000f83f 00000000000000c0", "float64", [1.5, -2]),
        ("F32", "0000c03f 000000c0", "float32", [1.5, -2]),
        ("F16", "003e 00c0", "float16", [1.5, -2]),
        ("BF16", "c03f 00c0", "bfloat16", [1.5, -2]),
        ("I64", "0300000000000000 feffffffffffffff", "int64", [3, -2]),
        ("I32", "03000000 feffffff", "int32", [3, -2]),
        ("I16", "0300 feff", "int16", [3, -2]),
        ("I8", "03 fe", "int8", [3, -2]),
        ("U8", "03 fe", "uint8", [3, 254]),
        ("BOOL", "00 01", "bool", [False, True]),
    ],
)
def test_every_type_of_numbers_is_read(
    tmp_path: Path, code: str, raw: str, dtype: str, numbers: list[float]
) -> None:
    path, data = tmp_path / "w.safetensors", bytes.fromhex(raw)
    entry = {"dtype": code, "shape": [2], "data_offsets": [0, len(data)]}
    text = json.dumps({"a": entry}).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)
    read = models.read_safetensors(path)["a"]
    assert read.dtype == jnp.dtype(dtype)
    assert read.tolist() == numbers


def test_numbers_that_numpy_lacks_are_named(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    for code in ("F8_E4M3", "F4"):
        shape = [2] if code.startswith("F8") else [4]
        write(path, {}, a={"dtype": code, "shape": shape, "data_offsets": [0, 2]})
        path.write_bytes(path.read_bytes() + bytes(2))
        with pytest.raises(ValueError, match=f"w.safetensors: 'a' has dtype='{code}'"):
            models.read_safetensors(path)


def test_other_files_are_refused(tmp_path: Path) -> None:
    refused = "safetensors.torch.save_file"
    for suffix in (".pth", ".pt", ".bin"):
        path = tmp_path / f"weights{suffix}"
        path.write_bytes(pickle.dumps({"a": 1}))
        with pytest.raises(ValueError, match=rf"weights\{suffix} is a pickle.*{refused}"):
            models.read_safetensors(path)
    path = tmp_path / "renamed.safetensors"
    path.write_bytes(pickle.dumps({"a": 1}))
    with pytest.raises(ValueError, match=f"is a pickle, not a whole safetensors file.*{refused}"):
        models.read_safetensors(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("data.pkl", b"")
    with pytest.raises(ValueError, match=f"zip archive.*{refused}"):
        models.read_safetensors(path)
    for content in (b"", b"\x08", b"\x00" * 100, b"not weights at all"):
        path.write_bytes(content)
        with pytest.raises(ValueError, match="not a whole safetensors file"):
            models.read_safetensors(path)
    with pytest.raises(ValueError, match="is not a file"):
        models.read_safetensors(tmp_path / "absent.safetensors")


def test_headers_that_lie_are_refused(tmp_path: Path) -> None:
    def entry(**change: Any) -> dict[str, Any]:
        return {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]} | change

    def refused(message: str) -> None:
        with pytest.raises(ValueError, match=rf"w\.safetensors is .*damaged: .*{message}") as error:
            models.read_safetensors(path)
        assert str(error.value).isprintable()  # so it is one line

    a = {"a": np.zeros(2, np.float32)}
    path = tmp_path / "w.safetensors"
    for change, message in (
        ({"shape": [3]}, "invalid shape"),
        ({"shape": [-2]}, "`-2`, expected a whole number >= 0"),
        ({"shape": [2.0]}, "2.0"),
        ({"shape": [2**40] * 3}, "overflow"),
        ({"dtype": "O"}, "unknown variant `O`"),
        ({"dtype": ["F32"]}, "invalid JSON"),
        ({"data_offsets": [4, 12]}, "invalid offset for tensor `a`"),
        ({"data_offsets": [0, 8, 9]}, "invalid length 3"),
        ({"data_offsets": [8, 0]}, "invalid"),
        ({"shape": [2**40], "data_offsets": [0, 2**42]}, "not fully covered"),
    ):
        write(path, a, a=entry(**change))
        refused(message)
    for others, message in (
        ({"b": entry()}, "invalid offset for tensor"),
        ({"b": entry(data_offsets=[12, 20])}, "invalid offset for tensor `b`"),
        ({"\x1b[2J\n": entry(data_offsets=[12, 20])}, r"`\\x1b\[2J\\n`"),
        ({"__metadata__": {"format": 1}}, "invalid JSON"),
    ):
        write(path, a, **others)
        refused(message)
    write(path, a)
    path.write_bytes(path.read_bytes() + b"\x00")
    refused("not fully covered")
    for text, message in (
        ('{"a": {}, "a": {}}', "missing field"),
        (f'{{"a": {json.dumps(entry())}, "a": {json.dumps(entry())}}}', "twice"),
        ('{"a":' * 100_000, "recursion"),
        ('{"a": \udcff}', "UTF-8"),
        ("{", "invalid JSON"),
    ):
        raw = text.encode(errors="surrogateescape")
        path.write_bytes(struct.pack("<Q", len(raw)) + raw + bytes(8))
        refused(message)


def test_files_of_too_many_or_too_large_arrays_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(safetensors, "MOST_ARRAYS", 1)
    path = tmp_path / "w.safetensors"
    write(path, {"a": np.zeros(2, np.float32), "b": np.zeros(2, np.float32)})
    with pytest.raises(ValueError, match=r"w\.safetensors holds 2 arrays; at most 1"):
        models.read_safetensors(path)
    size = 2**42  # of zeros that take no room on the disk
    write(path, {}, a={"dtype": "U8", "shape": [size], "data_offsets": [0, size]})
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size + size)
    with pytest.raises(InputError, match=r"w\.safetensors: its arrays: needs 4,398\.0 GB"):
        models.read_safetensors(path)


def test_a_header_is_not_believed_about_its_length(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    unit = 1 if sys.platform == "darwin" else 1024
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    for length in (3, 99_999_999, 100_000_001, 2**40, 2**63, 2**64 - 1):
        path.write_bytes(struct.pack("<Q", length) + b"{}")
        with pytest.raises(ValueError, match=r"truncated or damaged: .*header"):
            models.read_safetensors(path)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit - before < 50 * 2**20


@hypothesis.given(st.data())
@hypothesis.settings(max_examples=100, deadline=None)
def test_damaged_files_never_escape_the_reader(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    path = tmp_path_factory.mktemp("w") / "w.safetensors"
    arrays = {"a": np.arange(4, dtype=np.float32), "b": np.ones((2, 2), np.float16)}
    whole = bytearray(write(path, arrays).read_bytes())
    if data.draw(st.booleans()):
        path.write_bytes(whole[: data.draw(st.integers(0, len(whole) - 1))])
        with pytest.raises(ValueError, match=r"w\.safetensors"):
            models.read_safetensors(path)
    else:
        for _ in range(data.draw(st.integers(1, 4))):
            whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
        path.write_bytes(whole)
        with contextlib.suppress(ValueError):
            read = models.read_safetensors(path)
            assert sum(array.nbytes for array in read.values()) == 24


@pytest.mark.slow
def test_load_torch_weights(tmp_path: Path) -> None:
    path = tmp_path / "squeezenet.safetensors"
    save_file(squeezenet_state(), path)
    variables = load_torch_weights("squeezenet1_1", path, num_classes=3)
    model = models.create_model("squeezenet1_1", num_classes=3)
    assert np.isfinite(model.apply(variables, jnp.ones((1, 32, 32, 3)))).all()
    with pytest.raises(ValueError, match=r"squeezenet\.safetensors: .*model='resnet18'"):
        load_torch_weights("resnet18", path)
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ValueError, match="truncated"):
        load_torch_weights("squeezenet1_1", path, num_classes=3)
