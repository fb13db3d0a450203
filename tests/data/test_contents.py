"""Files are known again by their bytes, which are read once."""

import hashlib
import os
import time

import pytest

from jaxcnn.data import contents


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("JAXCNN_NO_CACHE", raising=False)
    monkeypatch.setattr(contents, "SETTLED_NS", 0)
    return tmp_path / "cache" / "jaxcnn" / "contents"


@pytest.fixture
def files(tmp_path):
    paths = [tmp_path / f"{i}.jpg" for i in range(5)]
    for i, path in enumerate(paths):
        path.write_bytes(b"%d" % i)
    return [str(path) for path in paths]


@pytest.fixture
def reads(monkeypatch):
    """The paths of all files whose digests were made from their bytes."""
    found, real = [], contents._digest
    monkeypatch.setattr(contents, "_digest", lambda path: (found.append(path), real(path))[1])
    return found


def expected(paths):
    return [hashlib.sha256(open(path, "rb").read()).digest() for path in paths]  # noqa: PTH123


def test_bytes_are_read_once(cache, files, reads):
    assert contents.digests(files) == expected(files)
    assert sorted(reads) == files
    assert contents.digests(files) == expected(files)
    assert len(reads) == 5
    assert len(list(cache.iterdir())) == 1


def test_changed_bytes_are_seen_though_size_and_times_are_the_old_ones(cache, files):
    before, status = contents.sha256_of(files, [b""] * 5), os.stat(files[2])  # noqa: PTH116
    with open(files[2], "r+b") as file:  # noqa: PTH123
        file.write(b"x")
    os.utime(files[2], ns=(status.st_atime_ns, status.st_mtime_ns))
    assert contents.sha256_of(files, [b""] * 5) != before
    assert contents.digests(files) == expected(files)


def test_only_the_blocks_of_changed_files_are_read_again(cache, files, reads, monkeypatch):
    monkeypatch.setattr(contents, "BLOCK", 2)
    contents.digests(files)
    reads.clear()
    with open(files[2], "wb") as file:  # noqa: PTH123
        file.write(b"y")
    assert contents.digests(files) == expected(files)
    assert sorted(reads) == files[2:4]


@pytest.mark.parametrize("content", [b"", b"x", bytes(32 * 6), bytes(10**6)])
def test_a_damaged_cache_is_not_believed(cache, files, content):
    contents.digests(files)
    (kept,) = cache.iterdir()
    kept.write_bytes(content)
    assert contents.digests(files) == expected(files)


def test_a_cache_of_other_files_is_not_believed(cache, files):
    contents.digests(files[:4])
    contents.digests(files[1:])
    one, other = cache.iterdir()
    one.write_bytes(other.read_bytes())
    assert contents.digests(files[:4]) == expected(files[:4])
    assert contents.digests(files[1:]) == expected(files[1:])


@pytest.mark.parametrize("fault", ["a file", "a pipe"])
def test_a_cache_that_cannot_be_used_costs_time_alone(cache, files, fault):
    cache.parent.mkdir(parents=True)
    cache.touch() if fault == "a file" else os.mkfifo(cache)
    assert contents.digests(files) == expected(files)


def test_what_has_just_changed_is_not_kept(cache, files, monkeypatch):
    """It could change again within the same tick of the clock, unseen."""
    monkeypatch.setattr(contents, "SETTLED_NS", 10**12)
    contents.digests(files)
    assert not cache.exists()


def test_digests_are_removed_that_were_of_no_use_for_long(cache, files):
    contents.digests(files[:1])
    contents.digests(files[1:2])
    for kept in cache.iterdir():
        os.utime(kept, (0, time.time() - contents.KEPT_SECONDS - 9))
    contents.digests(files[:1])  # used again
    contents.digests(files[2:])
    assert len(list(cache.iterdir())) == 2


@pytest.mark.parametrize(
    "variables", [{"JAXCNN_NO_CACHE": "1"}, {"XDG_CACHE_HOME": "cache"}, {"XDG_CACHE_HOME": "~"}]
)
def test_no_cache_is_made_where_none_is_wanted(files, tmp_path, monkeypatch, variables):
    monkeypatch.setattr(contents, "SETTLED_NS", 0)
    monkeypatch.chdir(tmp_path)
    for name, value in {"XDG_CACHE_HOME": str(tmp_path / "cache"), **variables}.items():
        monkeypatch.setenv(name, value)
    assert contents.digests(files) == expected(files)
    assert sorted(map(str, tmp_path.iterdir())) == files


def test_0_switches_nothing_on(cache, files, monkeypatch):
    monkeypatch.setenv("JAXCNN_NO_CACHE", "0")
    contents.digests(files)
    assert cache.exists()


def test_what_is_no_file_is_zeros_and_does_not_block(cache, files, tmp_path):
    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / "folder.jpg").mkdir()
    (tmp_path / "itself.jpg").symlink_to(tmp_path / "itself.jpg")
    (tmp_path / "device.jpg").symlink_to("/dev/zero")
    odd = [str(tmp_path / f"{name}.jpg") for name in ("pipe", "folder", "itself", "device", "gone")]
    assert contents.digests([*files, *odd]) == [*expected(files), *[bytes(32)] * 5]
    for path in odd:
        with pytest.raises(OSError):
            contents.read_bytes(path, 10)


def test_names_count_and_places_do_not(cache, files, tmp_path):
    names = [b"%d" % i for i in range(5)]
    one = contents.sha256_of(files, names)
    assert contents.sha256_of(files, names[::-1]) != one
    (tmp_path / "moved").mkdir()
    moved = [str(tmp_path / "moved" / f"{i}") for i in range(5)]
    for old, new in zip(files, moved, strict=True):
        os.rename(old, new)  # noqa: PTH104
    assert contents.sha256_of(moved, names) == one
