"""A loss or parameter that is not finite stops a run before it is saved, or costs a batch."""

import logging
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from cnnjax import runs, train
from cnnjax.data import Split, epoch_order
from cnnjax.errors import RunError
from cnnjax.runs.metrics import read_rows
from cnnjax.train.finite import is_finite
from cnnjax.train.multi_seed import unstack
from tests.train.damage import rewrite_what_it_is_about
from tests.train.test_loop import TASK, Plain, fit, images

BAD = 41  # the image, in its epoch's batches of 16 somewhere
SEED = 1


class Fragile(Plain):
    """Divides by zero where an image is black."""

    def __call__(self, x):
        black = (x == 0).all((1, 2, 3))
        return super().__call__(x) / jnp.where(black, 0.0, 1.0)[:, None]


def with_a_black_image(split):
    if split.size < 72:
        return split
    pictures = split.images.copy()
    pictures[BAD] = 0
    return Split(pictures, split.labels)


def bad_steps(epochs, seed=SEED):
    """The steps, counted from 1, whose batch holds the black image."""
    orders = [epoch_order(seed, epoch, 72, 16) for epoch in range(epochs)]
    return [
        5 * epoch + step + 1
        for epoch, (indices, weights) in enumerate(orders)
        for step in range(5)
        if BAD in indices[step]
    ]


def run_fragile(path, parallel, **options):
    return fit(path, parallel, Fragile, source=with_a_black_image, seed=SEED, **options)


def test_a_run_stops_at_the_first_step_that_is_not_finite_and_names_it(tmp_path, one_device):
    first = bad_steps(1)[0]
    with pytest.raises(RunError, match=f"step {first} ends in .*last good state is of step 0.*`on_nan=rollback`"):
        run_fragile(tmp_path, one_device)
    with pytest.raises(RunError, match=f"step {first} ends in"):  # and again, for no such state was saved
        run_fragile(tmp_path, one_device)


def test_the_last_good_state_is_named(tmp_path, one_device):
    run = runs.Run(tmp_path, "test", save_every=1e-9).part("small")
    first = bad_steps(1)[0]
    assert first > 1
    with pytest.raises(RunError, match=f"step {first} ends in .*last good state is of step {first - 1}"):
        run_fragile(tmp_path, one_device, run=run)


@pytest.mark.parametrize(
    ("mode", "count", "epoch_program"),
    [
        pytest.param("shard_map", 1, False, marks=pytest.mark.published),
        ("shard_map", 2, True),
        ("pmap", 2, False),
    ],
)
def test_rollback_leaves_out_the_batches_that_are_not_finite_and_no_other(mode, count, epoch_program, tmp_path, caplog):
    parallel = train.Parallel(mode, jax.local_devices()[:count], epoch_program)
    with caplog.at_level(logging.WARNING):
        result = run_fragile(tmp_path, parallel, on_nan="rollback", epochs=2)
    for step in bad_steps(2):
        assert f"left out the batch of step {step}," in caplog.text
    assert caplog.text.count("left out the batch") == len(bad_steps(2))
    assert int(result.state.step) == 10
    assert np.isfinite(result.history["train/loss"]).all()
    assert is_finite(result.state)


def test_a_rolled_back_run_is_the_same_bits_again(tmp_path, one_device):
    one, two = (run_fragile(tmp_path / name, one_device, on_nan="rollback", epochs=2) for name in "ab")
    assert train.tree_sha256(one.state) == train.tree_sha256(two.state)


def test_rollback_from_a_damaged_newest_state_takes_the_one_before_and_ends_with_the_same_bits(
    tmp_path, one_device, caplog, monkeypatch
):
    options = {"on_nan": "rollback", "epochs": 3}
    undisturbed = run_fragile(tmp_path / "undisturbed", one_device, **options)
    states, restore = tmp_path / "run" / "checkpoints" / "small", train.Checkpoints.restore

    def from_a_bad_disk(checkpoints, like):
        checkpoints.wait()
        if (states / "10").exists() and not (states / "damaged").exists():
            rewrite_what_it_is_about(states / "10")
        return restore(checkpoints, like)

    monkeypatch.setattr(train.Checkpoints, "restore", from_a_bad_disk)
    with caplog.at_level(logging.WARNING):
        result = run_fragile(tmp_path / "run", one_device, **options)
    assert "damaged/10 is damaged" in caplog.text
    assert "resuming from step 5" in caplog.text
    assert "not finite in epoch 3; step by step from step 5 on" in caplog.text
    assert train.tree_sha256(result.state) == train.tree_sha256(undisturbed.state)
    for name, curve in undisturbed.history.items():
        if not {"seconds", "step_ms", "images_per_second"} & set(name.split("/")):
            assert result.history[name] == curve
    lines = [
        [(row["step"], row["split"], row["name"]) for row in read_rows(tmp_path / name / "metrics.jsonl")]
        for name in ("undisturbed", "run")
    ]
    assert lines[0] == lines[1]  # the epoch that was run again has its lines once


@pytest.mark.parametrize(("mode", "count"), [("shard_map", 1), pytest.param("pmap", 2, marks=pytest.mark.published)])
def test_of_seeds_in_one_program_each_leaves_out_its_own_bad_batches(mode, count, tmp_path, caplog):
    parallel, seeds = train.Parallel(mode, jax.local_devices()[:count]), (SEED, SEED + 1)
    assert not set(bad_steps(2, seeds[0])) & set(bad_steps(2, seeds[1]))
    recipe = train.Recipe(lr=1e-2, epochs=2, batch_size=16, optimizer="momentum", on_nan="rollback")
    recipe = replace(recipe, seed=SEED, seeds=2)
    run = runs.Run(tmp_path / "together", "test").part(f"seed{SEED}")
    splits = with_a_black_image(images(72)), images(20, 1)
    models = [Fragile(nnx.Rngs(0)) for _ in seeds]
    with caplog.at_level(logging.WARNING):
        fits = train.fit_together(models, TASK, recipe, *splits, run=run, parallel=parallel)
    told = [message.split(",")[0] for message in caplog.messages if "left out" in message]
    assert sorted(told) == [f"seed{s}: left out the batch of step {step}" for s in seeds for step in bad_steps(2, s)]
    for seed, result in zip(seeds, fits, strict=True):
        options = {"optimizer": "momentum", "on_nan": "rollback", "epochs": 2, "seed": seed}
        alone = fit(tmp_path / str(seed), parallel, Fragile, source=with_a_black_image, **options)
        for ours, theirs in zip(*map(jax.tree.leaves, (result.state, alone.state)), strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-5)


def test_a_network_that_overflows_does_not_touch_the_one_beside_it(one_device, tmp_path, caplog):
    """A CPU merges the few channels of both networks' first convolutions into one."""

    def build(seed):
        model = Plain(nnx.Rngs(seed))
        if seed == SEED:
            for kernel in (model.conv.kernel, model.dense.kernel):
                kernel.set_value(kernel[...] * 1e38)
        return model

    recipe = replace(train.Recipe(batch_size=16, optimizer="sgd", lr=0.1), seed=SEED, seeds=2)
    steps = [train.compile_step(build(SEED + k), TASK, replace(recipe, seed=SEED + k), one_device) for k in range(2)]
    batch = images(16).take(slice(None), np.ones(16, np.float32))
    both = train.together(steps)
    broken, whole = unstack(both(both.start(), jax.tree.map(lambda leaf: np.stack([leaf] * 2), batch)), 2)
    alone = steps[1](steps[1].start(), batch)
    assert not is_finite(broken)
    for ours, theirs in zip(*map(jax.tree.leaves, (whole, alone)), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6)
    options = {"run": runs.Run(tmp_path, "test").part(f"seed{SEED}"), "parallel": one_device}
    with pytest.raises(RunError, match=f"^seed{SEED}: no step of epoch 1"):
        train.fit_together(
            [build(SEED), build(SEED + 1)], TASK, replace(recipe, on_nan="rollback"), images(72), None, **options
        )
    assert not [message for message in caplog.messages if f"seed{SEED + 1}:" in message]


def test_parameters_that_are_not_finite_from_the_start_are_refused(tmp_path, one_device):
    class Broken(Plain):
        def __init__(self, rngs):
            super().__init__(rngs)
            self.dense.bias = nnx.Param(jnp.full(4, jnp.nan))

    with pytest.raises(RunError, match="not finite before the first step"):
        fit(tmp_path, one_device, Broken, on_nan="rollback")


@pytest.mark.parametrize("save_every", [10, 1e-9])
def test_an_epoch_of_which_no_step_is_left_ends_the_run(save_every, tmp_path, one_device):
    class Hopeless(Fragile):
        def __call__(self, x):
            return super().__call__(x * 0)

    run = runs.Run(tmp_path, "test", save_every=save_every).part("small")
    with pytest.raises(RunError, match="no step of epoch 1 ends in finite numbers; try a lower `lr`"):
        fit(tmp_path, one_device, Hopeless, on_nan="rollback", run=run)
