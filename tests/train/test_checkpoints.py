"""What is saved is restored bit by bit, or its damage is noticed."""

import logging

import jax
import jax.numpy as jnp
import optax
import pytest
from flax import nnx

from cnnjax import train
from cnnjax.errors import UserError
from tests.train.damage import DAMAGES
from tests.train.test_loop import Plain, Small


def state_at(step, model=Small):
    _, state = train.split_model(model(nnx.Rngs(step)), optax.adam(1e-3))
    return state._replace(step=jnp.int32(step))


def saved(folder, *steps, scores=()):
    checkpoints = train.Checkpoints(folder)
    for step, score in zip(steps, (*scores, *[None] * len(steps)), strict=False):
        checkpoints.save(state_at(step), score)
    checkpoints.close()
    return folder


def restored(folder, like=None):
    checkpoints = train.Checkpoints(folder)
    state = checkpoints.restore(state_at(0) if like is None else like)
    checkpoints.close()
    return state


def steps_in(folder):
    return sorted(int(path.name) for path in folder.iterdir() if path.name.isdigit())


def test_a_state_is_restored_to_the_same_bits(tmp_path):
    assert restored(tmp_path) is None
    assert train.tree_sha256(restored(saved(tmp_path, 3))) == train.tree_sha256(state_at(3))


def test_the_newest_two_and_the_best_are_kept(tmp_path):
    saved(tmp_path, 1, 2, 3, 4, 5, scores=[0.1, 0.9, 0.3, 0.4, 0.5])
    assert steps_in(tmp_path) == [2, 4, 5]
    assert int(restored(tmp_path).step) == 5


def test_a_state_may_be_overwritten_while_it_is_saved(tmp_path):
    checkpoints = train.Checkpoints(tmp_path)
    state = train.Parallel(devices=jax.local_devices()[:1]).replicate(state_at(3))
    expected = train.tree_sha256(state)
    overwrite = jax.jit(lambda s: jax.tree.map(lambda x: x * 0, s), donate_argnums=0)
    checkpoints.save(state)
    jax.block_until_ready(overwrite(state))
    checkpoints.close()
    assert train.tree_sha256(restored(tmp_path)) == expected


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_state_is_noticed_and_the_one_before_it_taken(damage, tmp_path, caplog):
    saved(tmp_path, 3, 7)
    damage(tmp_path / "7")
    with caplog.at_level(logging.WARNING):
        state = restored(tmp_path)
    assert train.tree_sha256(state) == train.tree_sha256(state_at(3))
    assert "damaged/7 is damaged" in caplog.text
    assert "going on from step 3" in caplog.text
    assert train.tree_sha256(restored(saved(tmp_path, 7))) == train.tree_sha256(state_at(7))  # made again


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_where_every_state_is_damaged_that_is_said_and_nothing_changed(damage, tmp_path):
    saved(tmp_path, 3, 7)
    damage(tmp_path / "3")
    damage(tmp_path / "7")
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    with pytest.raises(UserError, match=r"every checkpoint in .* is damaged \(step 7: .*; step 3: .*--overwrite"):
        restored(tmp_path)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_a_state_of_another_network_is_named(tmp_path):
    saved(tmp_path, 3)
    with pytest.raises(UserError, match=r"of another network or optimiser .*\[8\] there, absent here.*--overwrite"):
        restored(tmp_path, state_at(0, Plain))


def test_what_cannot_be_saved_is_said_and_training_goes_on(tmp_path, caplog, monkeypatch):
    saved(tmp_path, 3)
    checkpoints = train.Checkpoints(tmp_path)
    full = OSError(28, "No space left on device")
    with monkeypatch.context() as patched, caplog.at_level(logging.WARNING):
        patched.setattr(type(checkpoints._manager), "save", lambda *_, **__: (_ for _ in ()).throw(full))
        checkpoints.save(state_at(5))
    assert "cannot be saved" in caplog.text
    assert "No space left" in caplog.text
    checkpoints.save(state_at(7))
    checkpoints.close()
    assert int(restored(tmp_path).step) == 7
    assert steps_in(tmp_path) == [3, 7]
