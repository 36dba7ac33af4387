"""What is saved is restored bit by bit, or its damage is noticed."""

import errno
import json
import logging
import os
import pickle
import shutil
import subprocess
import sys
import time
import warnings
from pathlib import Path

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


def test_the_best_is_kept_though_others_go_on(tmp_path):
    saved(tmp_path, 1, 2, 3, scores=[0.9, 0.1, 0.2])
    saved(tmp_path, 4, 5, scores=[0.3, 0.4])
    assert steps_in(tmp_path) == [1, 4, 5]


def test_of_equal_scores_the_first_is_the_best(tmp_path):
    saved(tmp_path, 1, 2, 3, scores=[0.1, 0.9, 0.9])
    saved(tmp_path, 4, 5, 6, scores=[0.9, 0.9, 0.2])
    assert steps_in(tmp_path) == [2, 5, 6]


def test_the_best_is_restored_or_said_to_be_damaged(tmp_path, caplog):
    def best():
        checkpoints = train.Checkpoints(tmp_path)
        state = checkpoints.restore_best(state_at(0))
        checkpoints.close()
        return state

    assert best() is None
    saved(tmp_path, 1, 2, 3, 4, scores=[0.1, 0.9, 0.3, 0.4])
    assert train.tree_sha256(best()) == train.tree_sha256(state_at(2))
    shutil.rmtree(tmp_path / "2" / "state")
    assert best() is None
    assert "the best state" in caplog.text


@pytest.mark.parametrize("content", ["", "{", "[1]", '{"score": "high"}', None])
def test_a_score_that_cannot_be_read_is_as_none(content, tmp_path):
    saved(tmp_path, 1, 2, 3, scores=[0.9, 0.1, 0.2])
    score = tmp_path / "1" / "metrics" / "metrics"
    assert json.loads(score.read_text()) == {"score": 0.9, "step": 1}
    score.unlink() if content is None else score.write_text(content)
    saved(tmp_path, 4, scores=[0.05])
    assert steps_in(tmp_path) == [3, 4]  # 0.2 is the best that is known
    assert train.tree_sha256(restored(tmp_path)) == train.tree_sha256(state_at(4))


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
    saved(tmp_path, 3, 7, scores=[0.1, 0.2])
    damage(tmp_path / "7")
    with caplog.at_level(logging.WARNING):
        state = restored(tmp_path)
    assert train.tree_sha256(state) == train.tree_sha256(state_at(3))
    assert "damaged/7 is damaged" in caplog.text
    assert "resuming from step 3" in caplog.text
    assert train.tree_sha256(restored(saved(tmp_path, 7))) == train.tree_sha256(state_at(7))  # made again
    damage(tmp_path / "7")
    assert int(restored(tmp_path).step) == 3  # and again


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_where_every_state_is_damaged_that_is_said_and_nothing_changed(damage, tmp_path):
    saved(tmp_path, 3, 7, scores=[0.1, 0.2])
    damage(tmp_path / "3")
    damage(tmp_path / "7")
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    with pytest.raises(UserError, match=r"every checkpoint in .* is damaged \(step 7: .*; step 3: .*`overwrite`"):
        restored(tmp_path)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_a_state_of_another_network_is_named(tmp_path):
    saved(tmp_path, 3)
    with pytest.raises(UserError, match=r"of another network or optimiser .*\[8\] there, absent here.*`overwrite`"):
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


def test_the_coroutines_of_a_failed_save_end_without_a_word(monkeypatch):
    async def save():
        """Nobody waits for it."""

    monkeypatch.setattr(sys, "unraisablehook", sys.unraisablehook)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        save()
        assert len(said) == 1  # Python would print it
        train.checkpoints.hide_late_complaints()
        save()
    assert len(said) == 1


def test_while_nothing_can_be_written_every_state_is_tried_and_said(tmp_path, caplog, monkeypatch):
    saved(tmp_path, 3)
    checkpoints = train.Checkpoints(tmp_path)
    read_only = OSError(errno.EROFS, "Read-only file system")
    with monkeypatch.context() as patched, caplog.at_level(logging.WARNING):
        for name in ("save", "__init__"):  # an open manager cannot write, a new one not even its folder
            patched.setattr(
                f"orbax.checkpoint.CheckpointManager.{name}", lambda *_, **__: (_ for _ in ()).throw(read_only)
            )
        checkpoints.save(state_at(5))
        checkpoints.save(state_at(7))
    assert caplog.text.count("Read-only file system") == 2
    checkpoints.save(state_at(9))
    checkpoints.close()
    assert int(restored(tmp_path).step) == 9


def test_a_save_that_a_crash_cut_short_is_not_taken_for_a_state(tmp_path):
    saved(tmp_path, 3, 7)
    (tmp_path / "7").rename(tmp_path / "7.orbax-checkpoint-tmp")  # the rename that a file system forgot
    assert int(restored(tmp_path).step) == 3
    assert int(restored(saved(tmp_path, 7)).step) == 7
    assert {path.name for path in tmp_path.iterdir()} == {"3", "7"}


def test_states_are_kept_by_their_step_though_the_clock_goes_backwards(tmp_path, monkeypatch):
    hours = iter(range(10**6, 0, -1))
    monkeypatch.setattr(time, "time", lambda: 3600.0 * next(hours))
    saved(tmp_path, 1, 2, 3, scores=[0.9, 0.1, 0.2])
    assert steps_in(tmp_path) == [1, 2, 3]
    assert train.tree_sha256(restored(tmp_path)) == train.tree_sha256(state_at(3))


OLDER = {"jax": "0.4.1", "orbax-checkpoint": "0.1.0"}


def saved_by_older_versions(folder, monkeypatch):
    with monkeypatch.context() as patched:
        versions = train.checkpoints.describe_versions() | OLDER
        patched.setattr(train.checkpoints, "describe_versions", lambda: versions)
        return saved(folder, 3)


def test_a_state_that_other_versions_wrote_is_restored_and_they_are_named(tmp_path, monkeypatch, caplog):
    saved_by_older_versions(tmp_path, monkeypatch)
    with caplog.at_level(logging.WARNING):
        assert train.tree_sha256(restored(tmp_path)) == train.tree_sha256(state_at(3))
    assert "jax: 0.4.1 there" in caplog.text


def test_a_state_that_cannot_be_read_names_the_versions_that_wrote_it_where_they_are_others(tmp_path, monkeypatch):
    saved_by_older_versions(tmp_path, monkeypatch)
    DAMAGES["truncated"](tmp_path / "3" / "state")
    with pytest.raises(UserError, match=r"damaged .*other versions, jax: 0.4.1 there, .*, orbax-checkpoint: 0.1.0"):
        restored(tmp_path)
    with pytest.raises(UserError, match=r"another network .*other versions, jax: 0.4.1 there"):
        restored(tmp_path, state_at(0, Plain))


class Attack:
    def __reduce__(self):
        return os.mkdir, ("attacked",)


RESTORE = """
import contextlib, sys
from pathlib import Path
from cnnjax.errors import UserError
from tests.train.test_checkpoints import restored
for folder in sys.argv[1:]:
    with contextlib.suppress(UserError):  # damaged; some files do not matter
        restored(Path(folder))
    print(folder)
"""


def test_nothing_is_unpickled_from_a_checkpoint(tmp_path, monkeypatch):
    """In a process of its own: TensorStore complains of damaged arrays long after they were given up."""
    monkeypatch.chdir(tmp_path)
    pickle.loads(pickle.dumps(Attack()))
    (tmp_path / "attacked").rmdir()  # it works
    files = [path.relative_to(tmp_path) for path in saved(tmp_path / "good", 3).rglob("*") if path.is_file()]
    folders = [str(shutil.copytree(tmp_path / "good", tmp_path / str(number))) for number in range(len(files))]
    for folder, file in zip(folders, files, strict=True):
        Path(folder).joinpath(*file.parts[1:]).write_bytes(pickle.dumps(Attack()))
    command = [sys.executable, "-c", RESTORE, *folders]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == folders
    assert len(files) > 3
    assert not (tmp_path / "attacked").exists()
