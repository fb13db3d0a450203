"""Says where this program keeps what it has computed once, in the user's cache folder."""

import os
from pathlib import Path


def switched_on(name: str) -> bool:
    """Tells whether an environment variable is set to anything but 0."""
    return os.environ.get(name, "0") not in ("", "0")


def folder(name: str) -> Path | None:
    """Returns where things of one kind are kept, or None where nothing is to be kept.

    That is so if JAXCNN_NO_CACHE is set, and where the user's cache folder is not known: it has no
    absolute path.

    Args:
        name: the kind, which names the folder.
    """
    if switched_on("JAXCNN_NO_CACHE"):
        return None
    home = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")  # noqa: PTH111
    return Path(home) / "jaxcnn" / name if Path(home).is_absolute() else None
