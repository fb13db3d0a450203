import dataclasses
import json
import logging
import os
import shutil
import sys
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcnn.errors import InputError
from jaxcnn.learning import checkpoint
from jaxcnn.learning.checkpoint import MANIFEST, Checkpoints
from jaxcnn.learning.state import TrainState, sha256


def state_at(step):
    return {
        "step": jnp.int32(step),
        "kernel": jnp.arange(2000, dtype=jnp.float32) * step,
        "half": jnp.full((3,), step, jnp.bfloat16),
    }


def save(folder, *steps, keep=2):
    saved = Checkpoints(folder, keep=keep)
    for step in steps:
        saved.save(step, state_at(step), {"seconds": step / 2})
    saved.close()


def restore(folder, *, read_only=True, like=None):
    saved = Checkpoints(folder, read_only=read_only)
    try:
        return saved.restore(like or state_at(0))
    finally:
        saved.close()


def test_restores_the_newest_and_keeps_as_many_as_asked(tmp_path):
    save(tmp_path, 1, 2, 3)
    state, meta = restore(tmp_path)
    assert sha256(state) == sha256(state_at(3))
    assert meta == {"seconds": 1.5, "step": 3}
    assert sorted(p.name for p in tmp_path.iterdir()) == ["2", "3"]


def test_nothing_there_is_not_an_error(tmp_path):
    assert restore(tmp_path, read_only=False) is None


def test_saving_a_step_again_does_nothing(tmp_path):
    save(tmp_path, 1, 2)
    before = checkpoint._digests(tmp_path / "2")
    save(tmp_path, 2)
    assert checkpoint._digests(tmp_path / "2") == before


def test_every_flipped_bit_is_noticed(tmp_path):
    """200 random flips over all files."""
    save(tmp_path / "good", 1, 2)
    rng = np.random.default_rng(0)
    files = sorted(p for p in (tmp_path / "good" / "2").rglob("*") if p.is_file())
    files = [p for p in files if p.stat().st_size]
    for trial in range(200):
        path = files[trial % len(files)]
        content = bytearray(path.read_bytes())
        content[rng.integers(len(content))] ^= 1 << rng.integers(8)
        original = path.read_bytes()
        path.write_bytes(content)
        assert checkpoint.damage(tmp_path / "good" / "2"), path
        path.write_bytes(original)
    assert checkpoint.damage(tmp_path / "good" / "2") is None


def test_steps_behind_the_resumed_one_can_be_made_again(tmp_path):
    save(tmp_path, 1, 2, 3, 4)
    saved = Checkpoints(tmp_path)
    saved.drop_after(2)
    for step in (3, 4, 5):
        saved.save(step, state_at(step), {})
    saved.close()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["4", "5"]


def test_a_damaged_checkpoint_is_named_set_aside_and_the_one_before_used(tmp_path, caplog):
    save(tmp_path, 1, 2)
    victim = next(p for p in (tmp_path / "2" / "state" / "d").iterdir())
    victim.write_bytes(victim.read_bytes()[:-1])
    state, _ = restore(tmp_path)  # reading changes nothing
    assert int(state["step"]) == 1
    assert (tmp_path / "2").exists()
    assert f"{tmp_path / '2'} is damaged" in caplog.text
    state, _ = restore(tmp_path, read_only=False)
    assert int(state["step"]) == 1
    assert not (tmp_path / "2").exists()
    assert (tmp_path / "damaged" / "2").exists()
    save(tmp_path, 2)  # the run goes on and saves the step again
    assert int(restore(tmp_path)[0]["step"]) == 2


@pytest.mark.parametrize("kind", ["missing file", "extra file", "manifest"])
def test_damage_of_every_kind(tmp_path, kind):
    save(tmp_path, 1)
    if kind == "missing file":
        (tmp_path / "1" / "state" / "_METADATA").unlink()
    elif kind == "extra file":
        (tmp_path / "1" / "state" / "x").write_text("")
    else:
        text = (tmp_path / "1" / MANIFEST).read_text()
        (tmp_path / "1" / MANIFEST).write_text(text[1:])
    for read_only in (True, False):  # also a second time: nothing is lost by asking
        with pytest.raises(InputError, match=r"no whole checkpoint is left.*manifest\.sha256"):
            restore(tmp_path, read_only=read_only)


def test_what_a_kill_cuts_short_is_removed(tmp_path, caplog):
    """Killed while Orbax writes, before the seal's rename, and while deleting; of any version."""
    save(tmp_path, 1)
    for name in ("2.orbax-checkpoint-tmp-7", "saving-2.orbax-checkpoint-tmp", "saving-2"):
        shutil.copytree(tmp_path / "1", tmp_path / name)
    (tmp_path / "1").rename(tmp_path / "deleting-1")
    save(tmp_path, 3)
    assert [p.name for p in tmp_path.iterdir()] == ["3"]
    assert not caplog.text


def test_a_checkpoint_gets_its_name_only_when_it_is_sealed(tmp_path, monkeypatch):
    def killed(path, text):
        raise KeyboardInterrupt

    monkeypatch.setattr(checkpoint, "write_text", killed)
    with pytest.raises(KeyboardInterrupt):
        save(tmp_path, 1)
    assert checkpoint.steps_in(tmp_path) == []


def test_a_checkpoint_loses_its_name_before_any_of_its_files(tmp_path, monkeypatch):
    save(tmp_path, 1, 2)

    def killed(path):
        raise KeyboardInterrupt

    monkeypatch.setattr(shutil, "rmtree", killed)
    with pytest.raises(KeyboardInterrupt):
        save(tmp_path, 3)
    assert checkpoint.steps_in(tmp_path) == [3, 2]


def test_removed_manifests_delete_nothing(tmp_path, caplog):
    """One is set aside where an older one is whole; where none is, nothing is changed."""
    save(tmp_path, 1, 2)
    (tmp_path / "2" / MANIFEST).unlink()
    state, _ = restore(tmp_path, read_only=False)
    assert int(state["step"]) == 1
    assert f"{tmp_path / '2'} is damaged: {MANIFEST} is missing" in caplog.text
    assert (tmp_path / "damaged" / "2" / "state" / "_METADATA").exists()
    (tmp_path / "1" / MANIFEST).unlink()
    for read_only in (True, False):
        with pytest.raises(InputError, match="no whole checkpoint is left"):
            restore(tmp_path, read_only=read_only)
    assert (tmp_path / "1" / "state" / "_METADATA").exists()


def test_a_damaged_one_is_saved_anew_and_set_aside(tmp_path):
    save(tmp_path, 1)
    for kept in (["1"], ["1", "1-2"], ["1", "1-2", "1-3"]):
        (tmp_path / "1" / MANIFEST).unlink()
        save(tmp_path, 1)
        assert checkpoint.damage(tmp_path / "1") is None
        assert sorted(p.name for p in (tmp_path / "damaged").iterdir()) == kept


@pytest.mark.parametrize("line", ["", "x", "0" * 64 + "  "])
def test_a_manifest_with_a_line_of_no_file_is_malformed(tmp_path, line):
    save(tmp_path, 1)
    with (tmp_path / "1" / MANIFEST).open("a") as file:
        file.write(f"{line}\n")
    assert checkpoint.damage(tmp_path / "1") == f"its {MANIFEST} is malformed"


def test_a_fault_leaves_loggers_as_they_were_and_passes_on_what_others_cannot_raise(
    tmp_path, monkeypatch, caplog
):
    """TensorStore's threads and Orbax's tasks, which may tell of it later, are not heard."""
    said = []
    monkeypatch.setattr(sys, "unraisablehook", said.append)
    save(tmp_path, 1)
    sealed(tmp_path / "1", "state/manifest.ocdbt", b"")
    logger = logging.getLogger("absl")
    level = logger.level
    for _ in range(2):
        with pytest.raises(InputError):
            restore(tmp_path)
        assert logger.level == level
    assert sys.unraisablehook.printed == said.append  # there is one hook more, and not two
    faults = [RuntimeError("Event loop is closed"), RuntimeError("another")]
    for fault in faults:
        sys.unraisablehook(SimpleNamespace(exc_value=fault, object=None))
    assert [unraisable.exc_value for unraisable in said] == faults[1:]
    for path in ("site-packages/orbax/checkpoint", "my_own"):
        logging.getLogger("asyncio").error(
            "Task exception was never retrieved\nfuture: %s",
            f"<Task coro=<write()> at {path}.py:1>",
        )
    assert ["my_own" in line for line in caplog.messages] == [True]


def emptied(path):
    shutil.rmtree(path)
    path.mkdir()
    (path / MANIFEST).write_text("")


def linked(path):
    path.rename(path.with_name("elsewhere"))
    path.symlink_to("elsewhere")


def link_inside(path):
    file = path / "state" / "_METADATA"
    file.rename(path.parent / "outside")
    file.symlink_to(path.parent / "outside")


def fifo_inside(path):
    os.mkfifo(path / "state" / "pipe")


def a_file(path):
    shutil.rmtree(path)
    path.write_text("")


@pytest.mark.parametrize("tamper", [emptied, linked, link_inside, fifo_inside, a_file])
def test_what_is_no_folder_of_plain_files_is_damaged(tmp_path, caplog, tamper):
    save(tmp_path, 1, 2)
    tamper(tmp_path / "2")
    state, _ = restore(tmp_path)
    assert int(state["step"]) == 1
    assert f"{tmp_path / '2'} is damaged" in caplog.text


@pytest.mark.parametrize("name", ["²", "007", "-1", "1e3", "٣", "9" * 200])
def test_other_names_are_left_alone(tmp_path, name):
    save(tmp_path, 1)
    (tmp_path / name).mkdir()
    assert int(restore(tmp_path, read_only=False)[0]["step"]) == 1
    assert (tmp_path / name).is_dir()


def sealed(path, name, content):
    """Changes a file as somebody would who also seals it."""
    (path / name).write_bytes(content)
    (path / MANIFEST).write_text(checkpoint._digests(path))


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("meta/metadata", b"{"),
        ("meta/metadata", b"[]"),
        ("meta/metadata", b'{"arrays": 3}'),
        ("state/_METADATA", b"{}"),
        ("state/_METADATA", b"\0"),
        ("state/manifest.ocdbt", b""),
        ("state/array_metadatas/process_0", b"[1]"),
        ("_CHECKPOINT_METADATA", b"{"),
    ],
)
def test_a_malformed_one_with_a_right_manifest_ends_in_one_line_or_in_its_arrays(
    tmp_path, name, content
):
    save(tmp_path, 1)
    sealed(tmp_path / "1", name, content)
    fault, state = None, None
    try:
        state, _ = restore(tmp_path)
    except InputError as error:
        fault = str(error)
    if fault is None:
        assert sha256(state) == sha256(state_at(1))
    else:
        assert fault.startswith(f"checkpoint {tmp_path / '1'}")
        assert "\n" not in fault


def test_arrays_larger_than_they_are_said_to_be_are_refused(tmp_path):
    """Orbax's own files hold others than meta says: they are not read into memory."""
    save(tmp_path, 1)
    large = Checkpoints(tmp_path / "large")
    large.save(1, {**state_at(1), "kernel": jnp.zeros((4000, 4000))}, {})
    large.close()
    right = (tmp_path / "1" / "meta" / "metadata").read_bytes()
    sealed(tmp_path / "large" / "1", "meta/metadata", right)
    with pytest.raises(InputError, match=r"large/1: cannot be restored .*shape"):
        restore(tmp_path / "large")


@pytest.mark.parametrize(
    ("name", "array"),
    [("kernel", jnp.zeros(2000, jnp.bfloat16)), ("kernel", jnp.zeros(1999)), ("new", jnp.zeros(1))],
)
def test_other_types_shapes_and_names_are_refused(tmp_path, name, array):
    save(tmp_path, 1)
    with pytest.raises(InputError, match=f"holds another network: .*{name}"):
        restore(tmp_path, like={**state_at(0), name: array})


@pytest.mark.parametrize("kept", [[], ["ema"], ["ema", "swa"]])
def test_a_state_saved_before_it_had_some_fields_goes_on(tmp_path, kept):
    stats = {"mean": jnp.full(3, 0.5)}
    now = TrainState(jnp.int32(7), jnp.int32(1), {"w": jnp.ones(2)}, stats, {}, {}, ema=None)
    names = [field.name for field in dataclasses.fields(now)][:6] + kept
    earlier = jax.tree_util.register_dataclass(dataclasses.make_dataclass("Earlier", names))
    saved = Checkpoints(tmp_path)
    saved.save(7, earlier(**{name: getattr(now, name) for name in names}), {})
    saved.close()
    found, _ = restore(tmp_path, like=now)
    assert type(found) is TrainState
    assert jax.tree.structure(found) == jax.tree.structure(now)
    assert sha256(found) == sha256(now)
    with pytest.raises(InputError, match=r"holds another network: .*ema"):
        restore(tmp_path, like=dataclasses.replace(now, ema={"params": {"w": jnp.ones(2)}}))


def test_arrays_and_strict_json_only(tmp_path):
    save(tmp_path, 1)
    assert json.loads((tmp_path / "1" / "meta" / "metadata").read_text())["seconds"] == 0.5
    for path in tmp_path.rglob("*"):
        assert path.suffix not in {".pkl", ".pickle", ".py", ".msgpack"}
    shutil.copytree(tmp_path, tmp_path.with_name("moved"))
    moved, _ = restore(tmp_path.with_name("moved"))
    jax.tree.map(np.testing.assert_array_equal, moved, state_at(1))
