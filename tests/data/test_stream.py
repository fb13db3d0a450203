import itertools
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from jaxcnn.config import Data
from jaxcnn.data import feed, sources
from jaxcnn.data.faults import Faults
from jaxcnn.data.stream import Stream
from jaxcnn.errors import InputError


def numbered(n):
    images = np.arange(n, dtype=np.uint8).reshape(n, 1, 1, 1)
    return sources.Split(images, np.arange(n, dtype=np.int32))


def stream(train=50, test=23, **changes):
    options = {"seed": 3, "batch_size": 8, "eval_batch_size": 10, "workers": 0} | changes
    return Stream(numbered(train), numbered(test), faults=Faults(0), **options)


def labels(batches):
    found = []
    for batch in batches:
        np.testing.assert_array_equal(batch["image"][:, 0, 0, 0], batch["label"])
        found.append(batch["label"].tolist())
    return found


def flat(lists):
    return list(itertools.chain.from_iterable(lists))


def test_every_epoch_visits_each_example_at_most_once_in_another_order():
    one = stream()
    found = labels(one.batches(0, 18))
    epochs = [flat(found[i : i + 6]) for i in (0, 6, 12)]
    assert all(len(set(epoch)) == 48 for epoch in epochs)
    assert epochs[0] != epochs[1] != epochs[2]
    assert labels(stream(seed=4).batches(0, 6)) != found[:6]


def test_the_stream_depends_on_seed_and_step_alone():
    """Neither on who reads it nor on where a run goes on."""
    whole = labels(stream().batches(0, 15))
    assert labels(stream().batches(7, 15)) == whole[7:]
    assert labels(stream(workers=2).batches(5, 15)) == whole[5:]


def test_processes_share_each_batch():
    whole = labels(stream().batches(0, 8))
    parts = [labels(stream(process_index=i, process_count=2).batches(0, 8)) for i in range(2)]
    assert [flat(rows) for rows in zip(*parts, strict=True)] == whole
    with pytest.raises(InputError, match=r"data\.batch_size=8: must be a multiple of the 3"):
        stream(process_count=3)


@pytest.mark.parametrize("processes", [1, 2])
def test_evaluation_visits_every_example_once(processes):
    seen = []
    for i in range(processes):
        one = stream(process_index=i, process_count=processes)
        batches = list(one.eval_batches())
        assert len(batches) == 3
        assert {len(b["label"]) for b in batches} == {10 // processes}
        seen += [label for b in batches for label in b["label"][b["mask"]].tolist()]
    assert sorted(seen) == list(range(23))


class Holey(sources.Split):
    """Every fifth example cannot be read."""

    def read(self, index):
        found = super().read(index)
        return {**found, "ok": found["label"] % 5 != 0}

    def fault(self, index):
        return f"{index} is a hole"


def test_what_cannot_be_read_is_replaced_or_masked_and_named(caplog):
    split = Holey(numbered(50).images, numbered(50).labels)
    one = Stream(split, split, 3, 8, 10, Faults(10), workers=0)
    whole, found = labels(stream().batches(0, 6)), labels(one.batches(0, 6))
    for expected, got in zip(flat(whole), flat(found), strict=True):
        assert got == (expected + 1 if expected % 5 == 0 else expected)
    masked = [b["label"][b["mask"]].tolist() for b in one.eval_batches()]
    assert flat(masked) == [i for i in range(50) if i % 5]
    named = [record.getMessage() for record in caplog.records]
    assert len(named) == len(set(named)) == 10  # each once
    assert all("is a hole" in line for line in named)
    with pytest.raises(InputError, match=r"data\.max_bad_images=2: .* hole; .* hole; .* hole$"):
        list(Stream(split, split, 3, 8, 10, Faults(2), workers=0).eval_batches())


class Few(sources.Split):
    """Only the last example can be read, or none."""

    last = True

    def read(self, index):
        found = super().read(index)
        return {**found, "ok": (found["label"] == len(self) - 1) & self.last}

    def fault(self, index):
        return f"{index} is a hole"


class NoneAtAll(Few):
    last = False


@pytest.mark.parametrize("workers", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_no_image_is_trained_on_that_could_not_be_read(workers):
    """However many unreadable ones lie between it and the next."""
    split = Few(numbered(250).images, numbered(250).labels)
    one = Stream(split, split, 3, 8, 10, Faults(1000), workers)
    assert set(flat(labels(one.batches(0, 4)))) == {249}
    split = NoneAtAll(split.images, split.labels)
    none = Stream(split, split, 3, 8, 10, Faults(1000), workers)
    for batches in (none.batches(0, 4), none.eval_batches()):
        with pytest.raises(InputError, match=r"none of the 250 .* images can be read: 0 is a hole"):
            list(batches)


KILLED = """
import sys, time
from tests.data.test_stream import stream
if __name__ == "__main__":
    batches = stream(workers=2).batches(0, 1000)
    next(batches)
    print("reading", flush=True)
    time.sleep(60)
"""


def test_workers_end_with_a_process_that_is_killed(tmp_path):
    script = tmp_path / "killed.py"
    script.write_text(KILLED)
    root = str(Path(__file__).parents[2])
    environment = {**os.environ, "PYTHONPATH": root}
    with subprocess.Popen(
        [sys.executable, str(script)], stdout=subprocess.PIPE, env=environment
    ) as process:
        assert process.stdout.readline() == b"reading\n"
        children = Path(f"/proc/{process.pid}/task").glob("*/children")
        workers = [int(pid) for file in children for pid in file.read_text().split()]
        assert len(workers) >= 2
        process.send_signal(signal.SIGKILL)
    deadline = time.monotonic() + 10
    while any(Path(f"/proc/{pid}").exists() for pid in workers):
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_small_sets_are_held_and_large_ones_are_streamed(monkeypatch):
    assert not sources.load(Data("digits")).streamed
    assert sources.load(Data("digits", streaming=True)).streamed
    monkeypatch.setattr(sources, "STREAMED_BYTES", 1797 * 64 - 1)
    assert sources.load(Data("digits")).streamed
    assert not sources.load(Data("digits", streaming=False)).streamed


@pytest.mark.parametrize("ready", [True, False])
def test_a_device_that_is_done_before_its_next_block_was_idle(monkeypatch, ready):
    class State:
        def is_ready(self):
            return ready

    monkeypatch.setattr(feed, "BLOCK_STEPS", 2)
    fed = feed.Feed(stream(), 0, 6, lambda block: block)
    first = fed.waited
    fed.run(lambda state, block, end: state, State(), np.int32(6))
    assert fed.waited > first  # the second block and the third
    assert fed.idle == (pytest.approx(fed.waited - first) if ready else 0)
