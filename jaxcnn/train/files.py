"""Reads and writes small text files that are never seen half-written."""

import json
import os
from pathlib import Path
from typing import Any

from jaxcnn.errors import InputError


def read_json(path: Path, *keys: str) -> dict[str, Any]:
    """Reads the object in a JSON file.

    Args:
        path: the file.
        *keys: keys that the object must have.

    Raises:
        InputError: the file is missing, is not JSON, holds no object, or lacks a key.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such file; is {path.parent} a run folder?") from error
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read as JSON ({error})") from error
    missing = [key for key in keys if not isinstance(value, dict) or key not in value]
    if missing or not isinstance(value, dict):
        raise InputError(f"{path}: damaged: must be an object with {', '.join(keys) or 'fields'}")
    return value


def write_json(path: Path, value: Any) -> None:
    """Writes strict, indented JSON; a reader never sees half a file."""
    write_text(path, json.dumps(value, indent=2, allow_nan=False) + "\n")


def write_text(path: Path, text: str) -> None:
    """Writes a text file; a reader never sees half of it."""
    partial = path.with_name(path.name + ".partial")
    with partial.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)
