import doctest

import pytest

from jaxcnn import memory
from jaxcnn.errors import InputError


def test_the_examples_of_the_documentation_hold():
    result = doctest.testmod(memory)
    assert result.attempted
    assert not result.failed


def test_what_does_not_fit_is_refused_with_both_numbers(monkeypatch):
    monkeypatch.setattr(memory, "available", lambda: 4_500_000_000)
    memory.require_memory("data", 4_500_000_000)
    with pytest.raises(InputError) as refused:
        memory.require_memory("data", 12_300_000_000)
    assert str(refused.value) == "data: needs 12.3 GB of memory, of which 4.5 GB is available"
    with pytest.raises(InputError, match=r"4\.5 GB is available; fewer fit$"):
        memory.require_memory("data", 12_300_000_000, "fewer fit")


def test_there_is_some_memory_and_no_more_than_the_machine_has():
    assert 10**8 < memory.available() < 10**14


@pytest.mark.parametrize(
    ("groups", "limits", "expected"),
    [
        (None, {}, 8192),
        (None, {"": ("max", "5000", "anon 100")}, 4900),
        ("0::/", {"": ("max", "5000", "anon 100")}, 4900),
        ("0::/slice/job", {"": ("max", "max", ""), "slice/job": ("max", "3000", "anon 0")}, 3000),
        ("0::/slice/job", {"slice": ("max", "2000", "anon 500")}, 1500),
        ("0::/slice/job", {"other": ("max", "1", ""), "slice/job": ("max", "10000", "")}, 8192),
        ("5:cpu:/a:b\n4:pids,memory:/job", {"memory/job": ("limit_in_bytes", "700", "")}, 700),
        ("4:memory:/elsewhere", {"memory": ("limit_in_bytes", "900", "total_rss 1000")}, 0),
        ("nonsense", {"": ("max", "5000", "")}, 5000),
    ],
)
def test_the_limits_of_all_groups_that_hold_the_process_count(
    tmp_path, monkeypatch, groups, limits, expected
):
    proc, cgroup = tmp_path / "proc", tmp_path / "sys/fs/cgroup"
    (proc / "self").mkdir(parents=True)
    (proc / "meminfo").write_text("MemTotal: 16 kB\nMemAvailable: 8 kB\n")
    if groups is not None:
        (proc / "self/cgroup").write_text(groups + "\n")
    for group, (kind, limit, stat) in limits.items():
        (cgroup / group).mkdir(parents=True, exist_ok=True)
        (cgroup / group / f"memory.{kind}").write_text(limit + "\n")
        (cgroup / group / "memory.stat").write_text(stat + "\n")
    monkeypatch.setattr(memory, "ROOT", tmp_path)
    assert memory.available() == expected
