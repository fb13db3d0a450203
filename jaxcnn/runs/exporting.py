"""Networks that leave: a trained network written so that others run it without this package.

An export is a folder with the network, ``model.json``, which says what it takes and gives, and,
where JAX alone can run it, ``load.py``, which does.
"""

import contextlib
import functools
import hashlib
import json
import secrets
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp

from jaxcnn.config import Model
from jaxcnn.errors import InputError, as_input_error, as_one_line
from jaxcnn.learning import files
from jaxcnn.learning.state import sha256
from jaxcnn.models.to_torch import to_torch
from jaxcnn.ops import lowering
from jaxcnn.runs.trained import Trained

Format = Literal["stablehlo", "safetensors", "onnx"]
Platform = Literal["cpu", "cuda", "rocm", "tpu"]
PLATFORMS: dict[Platform, str] = {"cpu": "cpu", "cuda": "gpu", "rocm": "gpu", "tpu": "tpu"}
"""JAX's names of platforms, and whose rules :mod:`jaxcnn.ops.lowering` takes for each."""
NAMES = {"model.json", "model.stablehlo", "model.safetensors", "load.py"}
"""The files of an export; a folder that holds others is not replaced."""
KIND = "jaxcnn export"
NO_ONNX = (
    "--to onnx: must be stablehlo or safetensors, since the converter, jax2onnx 0.17.1, needs an "
    "orbax-checkpoint below 0.11.37, where this package needs 0.12; docs/export.md shows how to "
    "convert in an environment of its own"
)
LOAD = '''\
"""Prints what the network says to images, with JAX alone: python load.py IMAGE.png, or .npy."""

import json
import pathlib
import sys

import numpy as np
from jax import export

here, path = pathlib.Path(__file__).parent, pathlib.Path(sys.argv[1])
about = json.loads((here / "model.json").read_text())
network = export.deserialize(bytearray((here / "model.stablehlo").read_bytes()))
height, width, channels = about["image_shape"]
if path.suffix == ".npy":  # (n, height, width, channels)
    images = np.load(path)
else:
    from PIL import Image

    picture = Image.open(path).convert({1: "L", 3: "RGB", 4: "RGBA"}[channels])
    images = np.asarray(picture.resize((width, height))).reshape(1, height, width, channels)
for row in np.asarray(network.call(images.astype(about["dtype"]))["answers"]):
    shown = [row.argmax()] if about["answer"] == "probability" else range(len(row))
    print(", ".join(f"{about['names'][i]} {row[i]:.4f}" for i in shown))
'''


def export(
    trained: Trained,
    to: Format,
    out: Path,
    *,
    platforms: Sequence[Platform] = ("cpu", "cuda", "tpu"),
    dtype: Literal["uint8", "float32"] = "uint8",
) -> list[Path]:
    """Writes a trained network into a folder, for others to run.

    Args:
        trained: the network.
        to: ``"stablehlo"``, a program that JAX alone runs, or ``"safetensors"``, its arrays in
            torchvision's layout.
        out: the folder; one that holds an export is replaced.
        platforms: what the program runs on.
        dtype: the type of the pixels that the program takes.

    Returns:
        The files.

    Raises:
        InputError: the folder holds something else, or the network cannot be exported.
    """
    if to not in ("stablehlo", "safetensors"):
        raise InputError(NO_ONNX if to == "onnx" else f"to={to!r}: must be stablehlo, safetensors")
    for name in platforms:
        if name not in PLATFORMS:
            raise InputError(f"platforms: {name!r} must be one of {', '.join(PLATFORMS)}")
    if not platforms or len(set(platforms)) < len(platforms):
        raise InputError(
            f"platforms: must each be named once, are {', '.join(platforms) or 'none'}"
        )
    _require_place(out)
    described = _described(trained)
    if to == "safetensors":
        network, load = _safetensors(trained, described), {}
    else:
        network = _stablehlo(trained, platforms, dtype)
        described |= {"dtype": dtype, "platforms": list(platforms)}
        load = {"load.py": LOAD.encode()}
    described |= {"file": f"model.{to}", "sha256": hashlib.sha256(network).hexdigest()}
    about = json.dumps(described, indent=2, allow_nan=False) + "\n"
    _replace(out, {f"model.{to}": network, **load, "model.json": about.encode()})
    return [out / name for name in (f"model.{to}", "model.json", *load)]


def program(
    trained: Trained, platforms: Sequence[Platform]
) -> Callable[[jax.Array], dict[str, jax.Array]]:
    """Returns the function from stored images to what the network says, its arrays inside.

    For each platform it has the operations that this package chooses there, never oneDNN's, which
    another machine may lack.

    Args:
        trained: the network.
        platforms: what it will be compiled for.
    """

    def answer(rules: str, variables: Any, images: jax.Array) -> dict[str, jax.Array]:
        with lowering.without_onednn(), lowering.force_impl(platform=rules):
            outputs: Any = trained.model.apply(variables, trained.prepare(images), train=False)
            task = trained.task
            said = {"predictions": task.predictions(outputs), "answers": task.answers(outputs)}
            return {"outputs": outputs, **said}

    def whole(images: jax.Array) -> dict[str, jax.Array]:
        # Behind the barrier they are no constants, which XLA would compute with when it compiles:
        # that takes long, and rounds otherwise than the run does.
        variables = jax.lax.optimization_barrier(trained.variables)
        branches = {name: functools.partial(answer, PLATFORMS[name]) for name in platforms}
        found: dict[str, jax.Array] = jax.lax.platform_dependent(variables, images, **branches)
        return found

    return whole


def _stablehlo(trained: Trained, platforms: Sequence[Platform], dtype: str) -> bytes:
    """Returns the network as JAX serialises it, for any number of images."""
    from jax import export as jax_export

    try:
        import flatbuffers  # noqa: F401  (JAX's own reason is a traceback)
    except ImportError as error:
        raise InputError(
            "--to stablehlo: needs flatbuffers; run `pip install 'jaxcnn[export]'`"
        ) from error
    images = jax.ShapeDtypeStruct((1, *trained.image_shape), jnp.dtype(dtype))
    what = f"model.name={str(trained.experiment.model.name)!r}: cannot be exported to stablehlo"
    with as_one_line(what):
        (batch,) = jax_export.symbolic_args_specs((images,), "n, ...")
        function = jax.jit(program(trained, platforms))
        exported = jax_export.export(function, platforms=list(platforms))(batch)
        return bytes(exported.serialize())


def _safetensors(trained: Trained, described: Mapping[str, Any]) -> bytes:
    """Returns the network's arrays, with what is known of them in the header."""
    import safetensors.numpy

    with as_input_error("--to safetensors"):
        arrays = to_torch(trained.model, trained.variables, trained.input_shape)
        header = {k: v if isinstance(v, str) else json.dumps(v) for k, v in described.items()}
        return safetensors.numpy.save(arrays, metadata={"format": "pt", **header})


def _described(trained: Trained) -> dict[str, Any]:
    """Returns what model.json and the header of safetensors say of a network."""
    shape = jax.ShapeDtypeStruct((1, *trained.image_shape), jnp.uint8)
    _, answers = jax.eval_shape(trained.answer, trained.variables, shape)
    experiment = trained.experiment
    model: Model = experiment.model
    return {
        "kind": KIND,
        "name": experiment.name,
        "model": str(model.name),
        "task": str(experiment.task.name),
        "num_classes": len(trained.classes),
        "classes": list(trained.classes),
        "names": [trained.named(i) for i in range(answers.shape[-1])],
        "answer": trained.task.answer,
        "image_shape": list(trained.image_shape),
        "input_shape": list(trained.input_shape),
        "mean": list(experiment.data.mean),
        "std": list(experiment.data.std),
        "step": trained.step,
        "params_sha256": sha256(trained.variables["params"]),
        "versions": {
            "jaxcnn": version("jaxcnn"),
            "jax": version("jax"),
            "jaxlib": version("jaxlib"),
        },
    }


def _require_place(out: Path) -> None:
    """Checks that a folder can be written: a new one, an empty one, or an earlier export.

    Raises:
        InputError: something else lies there, or it cannot be written.
    """
    fault = f"--out {out}: cannot be written"
    try:
        if out.is_symlink() or (out.exists() and not out.is_dir()):
            raise InputError(f"{fault} (must be a folder)")
        held = {path.name for path in out.iterdir()} if out.exists() else set()
        if held and not (held <= NAMES and _is_export(out)):
            raise InputError(f"{fault} (holds something else, which would be lost)")
        out.absolute().parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=out.absolute().parent):  # said now, not after the work
            pass
    except OSError as error:
        raise InputError(f"{fault} ({error.strerror})") from error
    except InputError:
        raise
    except ValueError as error:  # a NUL in it
        raise InputError(f"{fault} ({error})") from error


def _is_export(folder: Path) -> bool:
    with contextlib.suppress(InputError, ValueError):
        about = json.loads(files.read_bytes(folder / "model.json", follow=False))
        return isinstance(about, dict) and about.get("kind") == KIND
    return False


def _replace(out: Path, contents: Mapping[str, bytes]) -> None:
    """Writes a whole folder, which nobody sees half-written, in the place of an earlier one."""
    out = out.absolute()
    partial, before = (out.with_name(f".{secrets.token_hex(8)}.partial") for _ in range(2))
    try:
        partial.mkdir()
        for name, content in contents.items():
            files.write_bytes(partial / name, content)
        if out.exists():
            out.rename(before)
        partial.rename(out)
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(out)) from error
    finally:
        for leftover in (partial, before):
            shutil.rmtree(leftover, ignore_errors=True)
