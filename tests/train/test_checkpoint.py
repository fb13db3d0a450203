import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcnn.errors import InputError
from jaxcnn.train import checkpoint
from jaxcnn.train.checkpoint import MANIFEST, Checkpoints
from jaxcnn.train.state import sha256


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
    assert meta == {"seconds": 1.5}
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


def test_killed_before_the_manifest_counts_as_not_saved(tmp_path):
    save(tmp_path, 1, 2)
    (tmp_path / "2" / MANIFEST).unlink()
    (tmp_path / "3.orbax-checkpoint-tmp-7").mkdir()
    state, _ = restore(tmp_path, read_only=False)
    assert int(state["step"]) == 1
    assert sorted(p.name for p in tmp_path.iterdir()) == ["1"]


@pytest.mark.parametrize(
    ("name", "array"),
    [("kernel", jnp.zeros(2000, jnp.bfloat16)), ("kernel", jnp.zeros(1999)), ("new", jnp.zeros(1))],
)
def test_other_types_shapes_and_names_are_refused(tmp_path, name, array):
    save(tmp_path, 1)
    with pytest.raises(InputError, match=f"holds another network: .*{name}"):
        restore(tmp_path, like={**state_at(0), name: array})


def test_arrays_and_strict_json_only(tmp_path):
    save(tmp_path, 1)
    assert json.loads((tmp_path / "1" / "meta" / "metadata").read_text())["seconds"] == 0.5
    for path in tmp_path.rglob("*"):
        assert path.suffix not in {".pkl", ".pickle", ".py", ".msgpack"}
    shutil.copytree(tmp_path, tmp_path.with_name("moved"))
    moved, _ = restore(tmp_path.with_name("moved"))
    jax.tree.map(np.testing.assert_array_equal, moved, state_at(1))
