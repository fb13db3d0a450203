"""Networks that leave: a trained network written so that others run it without this package.

An export is a folder with the network, ``model.json``, which says what it takes and gives, and,
where JAX alone can run it, ``load.py``, which does.
"""

import contextlib
import functools
import hashlib
import json
import logging
import secrets
import shutil
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import msgspec

from jaxcnn import models
from jaxcnn.config import Data, Model
from jaxcnn.data.images import stored_fit
from jaxcnn.errors import InputError, as_input_error, as_one_line
from jaxcnn.learning import files, records
from jaxcnn.learning.state import sha256
from jaxcnn.models.safetensors import read_header
from jaxcnn.models.to_torch import to_torch
from jaxcnn.ops import lowering
from jaxcnn.runs.trained import TEMPERATURE, Trained
from jaxcnn.tasks.classification import tempered

log = logging.getLogger(__name__)

Format = Literal["stablehlo", "safetensors", "onnx"]
Platform = Literal["cpu", "cuda", "rocm", "tpu"]
PLATFORMS: dict[Platform, str] = {"cpu": "cpu", "cuda": "gpu", "rocm": "gpu", "tpu": "tpu"}
"""JAX's names of platforms, and whose rules :mod:`jaxcnn.ops.lowering` takes for each."""
DEFAULT_PLATFORMS: tuple[Platform, ...] = ("cpu", "cuda", "tpu")
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
    from PIL import Image, ImageOps

    mode = {1: "L", 3: "RGB", 4: "RGBA"}[channels]
    picture = ImageOps.exif_transpose(Image.open(path)).convert(mode)
    if picture.size != (width, height):
        short = about["shorter_side"]  # is brought to this, then the middle counts; null: all does
        columns, rows = width, height
        if short:
            columns, rows = (int(short * side / min(picture.size)) for side in picture.size)
        left, top = round((columns - width) / 2), round((rows - height) / 2)
        picture = picture.resize((columns, rows), Image.Resampling.BILINEAR)
        picture = picture.crop((left, top, left + width, top + height))
    images = np.asarray(picture).reshape(1, height, width, channels)
for row in np.asarray(network.call(images.astype(about["dtype"]))["answers"]):
    shown = [row.argmax()] if about["answer"] == "probability" else range(len(row))
    print(", ".join(f"{about['names'][i]} {row[i]:.4f}" for i in shown))
'''


class Fitting(msgspec.Struct, frozen=True):
    """Holds how stored images become network input: fields of ``data``."""

    image_size: int | None
    fit: str
    read_size: int | None
    crop_ratio: float


class Described(msgspec.Struct, frozen=True):
    """Holds what the header of an exported safetensors file says that makes the network anew.

    Attributes:
        model: its name.
        options: its options.
        task: what it learned.
        classes: their names.
        image_shape: height, width and channels of the images as they are stored.
        data: how these become network input.
        mean: of each channel, or one for all, of pixels in [0, 1].
        std: likewise the standard deviation.
    """

    model: str
    options: dict[str, bool | int | float | str | tuple[bool | int | float | str, ...]]
    task: str
    classes: tuple[str, ...]
    image_shape: tuple[records.Side, records.Side, records.Side]
    data: Fitting
    mean: tuple[float, ...]
    std: tuple[float, ...]


def described_in(path: Path) -> Described | None:
    """Returns what the header of a safetensors file says, None where it was not exported here.

    Raises:
        InputError: not a whole safetensors file, or a header that no export has.
    """
    with as_input_error():
        header = read_header(path)
    if header.get("kind") != KIND or "options" not in header:  # earlier exports lack options
        return None
    try:
        found = {
            k: v if k in ("model", "task") else json.loads(v)
            for k, v in header.items()
            if k in Described.__struct_fields__
        }
        return msgspec.convert(found, Described)
    except ValueError as error:
        raise InputError(f"{path}: its header is damaged ({error})") from error


def export(
    trained: Trained,
    to: Format,
    out: Path,
    *,
    platforms: Sequence[Platform] | None = None,
    dtype: Literal["uint8", "float32"] | None = None,
) -> list[Path]:
    """Writes a trained network into a folder, for others to run.

    Args:
        trained: the network.
        to: ``"stablehlo"``, a program that JAX alone runs, or ``"safetensors"``, its arrays in
            torchvision's layout.
        out: the folder; one that holds an export is replaced.
        platforms: what the program runs on; by default :data:`DEFAULT_PLATFORMS`.
        dtype: the type of the pixels that the program takes; by default the run's own, and uint8
            of imported weights and folders of earlier versions, which do not say.

    Returns:
        The files.

    Raises:
        InputError: the folder holds something else, or the network cannot be exported.
    """
    if to not in ("stablehlo", "safetensors"):
        raise InputError(NO_ONNX if to == "onnx" else f"to={to!r}: must be stablehlo, safetensors")
    if to == "safetensors":
        for option, given in (("platforms", platforms), ("dtype", dtype)):
            if given is not None:
                raise InputError(
                    f"--{option}: must be left out with --to safetensors, arrays alone"
                )
    platforms = DEFAULT_PLATFORMS if platforms is None else platforms
    for name in platforms:
        if name not in PLATFORMS:
            raise InputError(f"platforms: {name!r} must be one of {', '.join(PLATFORMS)}")
    if not platforms or len(set(platforms)) < len(platforms):
        raise InputError(
            f"platforms: must each be named once, are {', '.join(platforms) or 'none'}"
        )
    if to == "safetensors" and trained.temperature is not None:
        raise InputError("--calibrated: must be left out with --to safetensors, arrays alone")
    if trained.temperature is None and (trained.folder / TEMPERATURE).exists():
        log.warning(
            "%s: has a temperature, by which the exported network does not divide its logits%s",
            trained.folder,
            "; --calibrated lets it" if to == "stablehlo" else "",
        )
    _require_place(out)
    described, dtype = _described(trained), _dtype(trained, dtype)
    if to == "safetensors":
        network, load = _safetensors(trained, described), {}
    else:
        network = _stablehlo(trained, platforms, dtype)
        described |= {"dtype": dtype, "platforms": list(platforms)}
        described |= {"temperature": trained.temperature}
        load = {"load.py": LOAD.encode()}
    described |= {"file": f"model.{to}", "sha256": hashlib.sha256(network).hexdigest()}
    about = json.dumps(described, indent=2, allow_nan=False) + "\n"
    _replace(out, {f"model.{to}": network, **load, "model.json": about.encode()})
    return [out / name for name in (f"model.{to}", "model.json", *load)]


def _dtype(
    trained: Trained, asked: Literal["uint8", "float32"] | None
) -> Literal["uint8", "float32"]:
    """Returns the type of the pixels that a network was trained on.

    Raises:
        InputError: another is asked for, whose numbers would be scaled otherwise.
    """
    known = files.read(trained.folder / "dataset.json", records.Dataset).image_dtype
    if None not in (asked, known) and asked != known:
        raise InputError(
            f"--dtype {asked}: must be {known}, the type of the images that {trained.folder} was "
            "trained on"
        )
    return known or asked or "uint8"


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
            outputs, task = tempered(outputs, trained.temperature), trained.task
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

    model: Model = trained.experiment.model
    epsilon, name = model.options.get("epsilon"), str(model.name)
    usual = models.model_options(name).get("epsilon") if name in models.MODELS else epsilon
    if epsilon not in (None, usual):
        log.warning(
            "model.options.epsilon=%s: torchvision's %s adds %s to variances: load the arrays into "
            "one with norm_layer=functools.partial(torch.nn.BatchNorm2d, eps=%s)",
            *(epsilon, name, usual, epsilon),
        )
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
    data: Data = experiment.data
    return {
        "kind": KIND,
        "name": experiment.name,
        "model": str(model.name),
        "options": dict(model.options),
        "task": str(experiment.task.name),
        "num_classes": len(trained.classes),
        "classes": list(trained.classes),
        "names": [trained.named(i) for i in range(answers.shape[-1])],
        "answer": trained.task.answer,
        "image_shape": list(trained.image_shape),
        "input_shape": list(trained.input_shape),
        "shorter_side": _shorter_side(trained),
        "data": {name: getattr(data, name) for name in Fitting.__struct_fields__},
        "mean": list(data.mean),
        "std": list(data.std),
        "step": trained.step,
        "params_sha256": sha256(trained.variables["params"]),
        "versions": {
            "jaxcnn": version("jaxcnn"),
            "jax": version("jax"),
            "jaxlib": version("jaxlib"),
        },
    }


def _shorter_side(trained: Trained) -> int | None:
    """Returns what a picture's shorter side is brought to before its middle is cut out.

    None where whole pictures are resized to the stored images, whatever their proportions.
    """
    data: Data = trained.experiment.data
    height, *_ = trained.image_shape
    fit = stored_fit(data, trained.image_shape)
    return {"resize": None, "square": height, "crop": round(height / data.crop_ratio)}[fit]


def _require_place(out: Path) -> None:
    """Checks that a folder can be written: a new one, an empty one, or an earlier export.

    Raises:
        InputError: something else lies there, or it cannot be written.
    """
    fault = f"--out {out}: cannot be written"
    with files.as_not_writable(fault):
        if out.is_symlink() or (out.exists() and not out.is_dir()):
            raise InputError(f"{fault} (must be a folder)")
        held = {path.name for path in out.iterdir()} if out.exists() else set()
        if held and not (held <= NAMES and _is_export(out)):
            raise InputError(f"{fault} (holds something else, which would be lost)")
        files.try_parent(out.absolute())


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
        try:
            partial.rename(out)
        except OSError:
            with contextlib.suppress(FileNotFoundError):  # where there was none
                before.rename(out)
            raise
        shutil.rmtree(before, ignore_errors=True)
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(out)) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
