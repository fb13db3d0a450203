"""Reading safetensors files: a JSON header and raw numbers, so that loading runs no code.

The format: eight bytes with the length of the header (little endian), the header, the data.
The header maps each name to its dtype, shape and place in the data; the places follow one
another and fill the data exactly. https://github.com/huggingface/safetensors
"""

import json
import math
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

DTYPES = {
    "F64": np.dtype("<f8"),
    "F32": np.dtype("<f4"),
    "F16": np.dtype("<f2"),
    "BF16": np.dtype(jnp.bfloat16),
    "I64": np.dtype("<i8"),
    "I32": np.dtype("<i4"),
    "I16": np.dtype("<i2"),
    "I8": np.dtype("i1"),
    "U8": np.dtype("u1"),
    "BOOL": np.dtype("?"),
}
MAX_HEADER = 100_000_000  # the format's own limit

PICKLE_SUFFIXES = {".pth", ".pt", ".bin", ".pkl", ".pickle", ".ckpt"}
SAFE_WAY = (
    "where you trust the file, convert it with PyTorch: safetensors.torch.save_file("
    "torch.load(path, weights_only=True), 'weights.safetensors')"
)
FOREIGN = {  # first bytes of files that are handed over in safetensors' place
    b"PK\x03\x04": "a zip archive (PyTorch's .pth is one, with a pickle inside)",
    b"\x80\x02": "a pickle",
    b"\x80\x03": "a pickle",
    b"\x80\x04": "a pickle",
    b"\x80\x05": "a pickle",
    b"\x89HDF": "an HDF5 file",
    b"\x93NUM": "a NumPy .npy file",
    b"\x1f\x8b": "compressed with gzip",
    b"GGUF": "a GGUF file",
    b"version https://git-lfs": "a Git LFS pointer; fetch the file itself with `git lfs pull`",
}


def read_safetensors(path: str | Path) -> dict[str, np.ndarray]:
    """Arrays by name from a safetensors file.

    Args:
        path: the file.

    Raises:
        ValueError: the file is missing, truncated, of another format, or a pickle (reading a
            pickle can run any program hidden in it).
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"{path} is not a file")
    if path.suffix.lower() in PICKLE_SUFFIXES:
        raise ValueError(
            f"{path} is a pickle by its name, and reading a pickle can run any program; {SAFE_WAY}"
        )
    data = np.memmap(path, np.uint8, "r") if path.stat().st_size else np.zeros(0, np.uint8)
    header, begin = _header(path, data)
    arrays = {}
    end = 0
    for name, entry in sorted(header.items(), key=lambda item: item[1]["data_offsets"]):
        dtype, shape, (first, last) = _entry(path, name, entry)
        if first != end:
            raise ValueError(f"{path}: {name!r} starts at byte {first} of the data, not at {end}")
        end = last
        if begin + end > data.size:
            raise ValueError(
                f"{path} is truncated: {name!r} ends at byte {begin + end}, the file has "
                f"{data.size}"
            )
        arrays[name] = np.asarray(data[begin + first : begin + last]).view(dtype).reshape(shape)
    if begin + end != data.size:
        raise ValueError(
            f"{path} is damaged: the file has {data.size} bytes, its header accounts for "
            f"{begin + end}"
        )
    return arrays


def _header(path: Path, data: np.ndarray) -> tuple[dict[str, Any], int]:
    """The header's entries and the place where the data starts."""
    length = int.from_bytes(data[:8].tobytes(), "little")
    if data.size < 8 or not 2 <= length <= MAX_HEADER or data[8:9].tobytes() not in (b"{", b""):
        start = data[:64].tobytes()
        what = next((FOREIGN[magic] for magic in FOREIGN if start.startswith(magic)), "")
        way = SAFE_WAY if "pickle" in what else "jaxcnn imports safetensors only"
        raise ValueError(
            f"{path} is {what or 'something else'}, not a whole safetensors file; {way}"
        )
    if 8 + length > data.size:
        raise ValueError(
            f"{path} is truncated: its header has {length} bytes, the file has {data.size}"
        )

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        entries = dict(pairs)
        if len(entries) != len(pairs):
            raise ValueError("a name occurs twice")
        return entries

    try:
        header = json.loads(data[8 : 8 + length].tobytes(), object_pairs_hook=unique)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: the safetensors header is not valid JSON: {error}") from None
    header.pop("__metadata__", None)
    for name, entry in header.items():
        if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
            raise ValueError(f"{path}: the header's entry {name!r} lacks dtype, shape or place")
        for field in ("shape", "data_offsets"):
            values = entry[field]
            if not isinstance(values, list) or not all(
                type(value) is int and value >= 0 for value in values
            ):
                raise ValueError(f"{path}: {name!r} has {field}={values!r}")
    return header, 8 + length


def _entry(
    path: Path, name: str, entry: dict[str, Any]
) -> tuple[np.dtype, tuple[int, ...], tuple[int, int]]:
    dtype = DTYPES.get(entry["dtype"]) if isinstance(entry["dtype"], str) else None
    if dtype is None:
        known = ", ".join(DTYPES)
        raise ValueError(f"{path}: {name!r} has dtype={entry['dtype']!r}; known are {known}")
    shape = tuple(entry["shape"])
    place = entry["data_offsets"]
    if len(place) != 2 or place[1] - place[0] != math.prod(shape) * dtype.itemsize:
        raise ValueError(
            f"{path}: {name!r} of shape {shape} and {entry['dtype']} cannot lie at bytes {place}"
        )
    return dtype, shape, (place[0], place[1])
