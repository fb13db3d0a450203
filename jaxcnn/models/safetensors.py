"""Reading safetensors files, and refusing pickles in words that say what to do instead.

The format holds a header in JSON and raw numbers, so reading a file runs no code that it brings.
https://github.com/huggingface/safetensors
"""

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from jaxcnn.memory import require_memory

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
PLAIN = {"usize": "a whole number >= 0", "a sequence": "a list", "string or map": "an object"}
"""What the library says, in words that need no knowledge of Rust."""
MOST_ARRAYS = 100_000
"""Far more than any network of this package has."""


def read_safetensors(path: str | Path) -> dict[str, np.ndarray]:
    """Reads the arrays of a safetensors file, by name.

    Args:
        path: the file; what its header says is checked before anything is read.

    Raises:
        ValueError: the file is missing, truncated, of another format, or a pickle (reading a
            pickle can run any program hidden in it).
    """
    with _opened(Path(path)) as arrays:
        require_memory(f"{path}: its arrays", Path(path).stat().st_size)
        names = arrays.keys()
        return {name: _array(Path(path), arrays, name) for name in names}


def read_shapes(path: str | Path) -> dict[str, tuple[int, ...]]:
    """Reads the shapes of the arrays of a safetensors file, by name, and none of the arrays.

    Arguments and errors are those of :func:`read_safetensors`.
    """
    with _opened(Path(path)) as arrays:
        names = arrays.keys()
        return {name: tuple(arrays.get_slice(name).get_shape()) for name in names}


def read_header(path: str | Path) -> dict[str, str]:
    """Reads what the header of a safetensors file says besides its arrays: texts by their names.

    Arguments and errors are those of :func:`read_safetensors`.
    """
    with _opened(Path(path)) as arrays:
        return dict(arrays.metadata() or {})


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """Opens a safetensors file whose header has been checked; its faults become a ValueError."""
    if not path.is_file():
        raise ValueError(f"{path} is not a file")
    if path.suffix.lower() in PICKLE_SUFFIXES:
        raise ValueError(
            f"{path} is a pickle by its name, and reading a pickle can run any program; {SAFE_WAY}"
        )
    with path.open("rb") as file:
        start = file.read(64)
    if start[8:9] != b"{":
        what = next((FOREIGN[magic] for magic in FOREIGN if start.startswith(magic)), "")
        way = SAFE_WAY if "pickle" in what else "jaxcnn imports safetensors only"
        raise ValueError(
            f"{path} is {what or 'something else'}, not a whole safetensors file; {way}"
        )
    import ml_dtypes  # noqa: F401  (NumPy knows bfloat16 only once this is imported)
    import safetensors  # only here: machines that import no weights need not have it

    try:
        with safetensors.safe_open(path, framework="numpy") as arrays:
            number = len(arrays.keys())
            if number > MOST_ARRAYS:
                raise ValueError(f"{path} holds {number:,} arrays; at most {MOST_ARRAYS:,}")
            _refuse_repeated_names(path)
            yield arrays
    except safetensors.SafetensorError as error:
        reason = str(error).removeprefix("Error while deserializing header: ")
        for term, plain in PLAIN.items():
            reason = reason.replace(term, plain)
        line = reason.encode("unicode_escape").decode()  # a name in it may hold a line break
        raise ValueError(f"{path} is truncated or damaged: {line}") from None


def _refuse_repeated_names(path: Path) -> None:
    """Raises a ValueError for a name that the header holds twice; the library takes the last."""

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        entries = dict(pairs)
        if len(entries) != len(pairs):
            raise ValueError(f"{path} is damaged: a name occurs twice in its header")
        return entries

    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        json.loads(file.read(length), object_pairs_hook=unique)


def _array(path: Path, arrays: Any, name: str) -> np.ndarray:
    from safetensors import SafetensorError

    try:
        return arrays.get_tensor(name)
    except (AttributeError, TypeError, SafetensorError):
        dtype = arrays.get_slice(name).get_dtype()
        raise ValueError(f"{path}: {name!r} has dtype={dtype!r}, which NumPy lacks") from None
