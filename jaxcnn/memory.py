"""Says how much memory there is, and refuses what would not fit before any of it is taken."""

import contextlib
import os
from pathlib import Path, PurePosixPath

from jaxcnn.errors import InputError

ROOT = Path("/")
"""Where /proc and /sys lie."""


def require_memory(what: str, needed: int, instead: str = "") -> None:
    """Checks that so many bytes can be taken from the host's memory.

    Args:
        what: names what would take them: the field, its value and what it is for.
        needed: bytes.
        instead: says what would take less, if anything does.

    Raises:
        InputError: less is available; the line says how much is needed and how much there is.

    >>> require_memory("data.examples=[9, 9]: the images", 18 * 32 * 32)
    >>> require_memory("data.examples=[9, 9]: the images", 10**18)  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    ...
    jaxcnn.errors.InputError: data.examples=[9, 9]: the images: needs 1,000,000,000.0 GB of ...
    """
    there = available()
    if needed > there:
        raise InputError(
            f"{what}: needs {gigabytes(needed)} of memory, of which {gigabytes(there)} is available"
            + (instead and f"; {instead}")
        )


def available() -> int:
    """Returns the bytes of memory that this process may still take without swapping.

    It is what Linux calls available (free, or given back at once), or less where the control
    group of the process, or one that holds it, is held to less. Where the system does not say, it
    is half of the memory.
    """
    there = (_field(ROOT / "proc/meminfo", "MemAvailable:") or 0) * 1024
    if not there:
        there = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2
    groups = {"": "/", "memory": "/"}  # of versions 2 and 1
    with contextlib.suppress(OSError, ValueError):
        for line in (ROOT / "proc/self/cgroup").read_text().splitlines():
            _, controllers, group = line.split(":", 2)
            groups.update(dict.fromkeys(controllers.split(","), group))
    for version, limit, own in (
        ("", "memory.max", "anon"),
        ("memory", "memory.limit_in_bytes", "total_rss"),
    ):
        own_group = PurePosixPath(groups[version].strip("/"))
        for part in (own_group, *own_group.parents):
            folder = ROOT / "sys/fs/cgroup" / version / part
            with contextlib.suppress(OSError, ValueError):  # no such group, or "max"
                held_to = int((folder / limit).read_text())
                used = _field(folder / "memory.stat", own) or 0  # files' cache is given back
                there = min(there, max(held_to - used, 0))
    return there


def _field(file: Path, name: str) -> int | None:
    """Reads a number from a file whose lines begin with a name."""
    with contextlib.suppress(OSError, ValueError):
        for line in file.read_text().splitlines():
            if line.split()[:1] == [name]:
                return int(line.split()[1])
    return None


def gigabytes(size: int) -> str:
    """Writes a number of bytes.

    >>> gigabytes(12_345_678_901), gigabytes(1_234_567)
    ('12.3 GB', '0.0012 GB')
    """
    return f"{size / 1e9:,.{1 if size >= 1e8 else 4}f} GB"
