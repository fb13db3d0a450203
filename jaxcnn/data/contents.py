"""Reads regular files alone, and knows their bytes again by digests that the user's cache keeps."""

import contextlib
import hashlib
import logging
import os
import stat
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO, NamedTuple

from jaxcnn import cache

log = logging.getLogger(__name__)

BLOCK = 4096
"""The most files whose digests are kept together: as many are read again if one has changed."""
BLOCK_BYTES = 2**30
"""A block ends with the file that brings it to so many bytes, so that little is read twice."""
SETTLED_NS = 2 * 10**9
"""Digests of a file that changed within this time are not kept: it could change once more in the
same tick of the file system's clock, which nobody would see."""
KEPT_SECONDS = 90 * 24 * 3600
"""Digests that were of no use for so long are removed when others are kept."""
ANNOUNCED_BYTES = 4 * 2**30
"""Reading more than this takes long enough for a line that says why."""


@contextlib.contextmanager
def opened(path: str | os.PathLike[str]) -> Iterator[IO[bytes]]:
    """Opens a regular file to read its bytes; a pipe or a device does not make it wait.

    Raises:
        OSError: there is no such file, or it is something else than a file.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(descriptor, "rb") as file:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise OSError("is not a regular file")
        yield file


def read_bytes(path: str | os.PathLike[str], limit: int) -> bytes:
    """Reads a regular file of at most ``limit`` bytes.

    Raises:
        OSError: it cannot be read, or is larger; nothing of a larger file is read.
    """
    with opened(path) as file:
        size = os.fstat(file.fileno()).st_size
        if size > limit:
            raise OSError(f"has {size:,} bytes; at most {limit:,}")
        return file.read(limit)


def sha256_of(paths: Sequence[str], names: Sequence[bytes]) -> str:
    """Returns one digest of the names and bytes of files.

    Args:
        paths: where the files lie.
        names: what they are called in the digest, which stays the same if all of them move.
    """
    digest = hashlib.sha256()
    for name, own in zip(names, digests(paths), strict=True):
        digest.update(name + b"\0" + own)
    return digest.hexdigest()


def digests(paths: Sequence[str]) -> list[bytes]:
    """Returns the sha256 of every file's bytes; zeros where there is no file that can be read.

    The bytes are read once: digests are kept in the user's cache folder, and hold for a file as
    long as its path, device, inode, size and its times of modification and of change (mtime and
    ctime, in nanoseconds) stay as they are.
    """
    blocks = list(_blocks(map(_status, paths)))
    kept = [_kept(block) for block in blocks]
    unread = sum(
        file.size for block, own in zip(blocks, kept, strict=True) if own is None for file in block
    )
    if unread > ANNOUNCED_BYTES:
        log.warning("reading %.1f GB of data once, to know them again later", unread / 1e9)
    with ThreadPoolExecutor() as pool:  # hashing and reading let other threads run
        return [
            digest
            for block, own in zip(blocks, kept, strict=True)
            for digest in (_read(block, pool) if own is None else own)
        ]


class _File(NamedTuple):
    """A path with what tells that its file is still the same; all 0 where there is no file."""

    path: str
    device: int = 0
    inode: int = 0
    size: int = 0
    modified: int = 0
    changed: int = 0


def _status(path: str) -> _File:
    try:
        found = Path(path).stat()
    except (OSError, ValueError):  # a link to nowhere, or to itself
        return _File(path)
    if not stat.S_ISREG(found.st_mode):
        return _File(path)
    times = (found.st_mtime_ns, found.st_ctime_ns)
    return _File(path, found.st_dev, found.st_ino, found.st_size, *times)


def _blocks(files: Iterable[_File]) -> Iterator[list[_File]]:
    block: list[_File] = []
    size = 0
    for file in files:
        block.append(file)
        size += file.size
        if len(block) == BLOCK or size >= BLOCK_BYTES:
            yield block
            block, size = [], 0
    if block:
        yield block


def _read(block: Sequence[_File], pool: ThreadPoolExecutor) -> list[bytes]:
    """Reads the files of a block, and keeps their digests if they will hold."""
    newest = max(file.changed for file in block)
    settled = newest < time.time_ns() - SETTLED_NS
    found = list(pool.map(_digest, [file.path for file in block]))
    digests = [digest or bytes(32) for digest in found]
    path = _place(block)
    if path is not None and settled and all(found):
        with contextlib.suppress(OSError):  # a cache that cannot be written costs time alone
            path.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.NamedTemporaryFile(dir=path.parent, delete=False) as file:
                file.write(_sealed(path, b"".join(digests)))
            Path(file.name).replace(path)
            for old in path.parent.iterdir():
                if old.stat().st_mtime < time.time() - KEPT_SECONDS:
                    old.unlink()
    return digests


def _digest(path: str) -> bytes | None:
    try:
        with opened(path) as file:
            return hashlib.file_digest(file, "sha256").digest()  # type: ignore[arg-type]
    except (OSError, ValueError):
        return None


def _kept(block: Sequence[_File]) -> list[bytes] | None:
    """Returns the digests that the cache holds of a block's files; None unless all are whole."""
    path = _place(block)
    if path is None:
        return None
    try:
        held = read_bytes(path, 32 * (BLOCK + 1))
    except OSError:
        return None
    size = 32 * len(block)
    if held != _sealed(path, held[:size]):
        return None
    with contextlib.suppress(OSError):
        os.utime(path)
    return [held[i : i + 32] for i in range(0, size, 32)]


def _sealed(path: Path, digests: bytes) -> bytes:
    """Returns digests as the cache holds them: behind them is a digest of theirs and the name."""
    return digests + hashlib.sha256(path.name.encode() + digests).digest()


def _place(block: Sequence[_File]) -> Path | None:
    """Returns where the digests of a block's files are kept; None without a cache."""
    folder = cache.folder("contents")
    return folder and folder / hashlib.sha256(repr(block).encode()).hexdigest()
