"""Several seeds in one program train to what each trains to alone."""

import dataclasses
from functools import partial

import jax
import numpy as np
import pytest
from flax import nnx

from cnnjax import nn, runs, train
from cnnjax.errors import UserError
from cnnjax.train import multi_seed, reporting
from tests.train.test_loop import TASK, Plain, Small, StopAfter, fit, images, streamed

SEEDS = [3, 4]


def together(path, parallel, model=Small, epochs=2, **options):
    names = {field.name for field in dataclasses.fields(train.Recipe)}
    chosen = {"seed": SEEDS[0], "seeds": len(SEEDS)} | {name: options.pop(name) for name in names & options.keys()}
    return train.fit_together(
        [model(nnx.Rngs(seed)) for seed in SEEDS],
        TASK,
        train.Recipe(lr=1e-2, epochs=epochs, batch_size=16, **chosen),
        images(72),
        images(20, 1),
        run=runs.Run(path, "test").part(f"small/seed{SEEDS[0]}"),
        parallel=parallel,
        **options,
    )


def assert_same(ours, theirs):
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("mode", "count", "epoch_program"),
    [
        pytest.param("shard_map", 1, False, marks=pytest.mark.published),
        ("shard_map", 2, True),
        pytest.param("pmap", 2, False, marks=pytest.mark.published),
    ],
)
def test_each_of_several_seeds_trains_to_what_it_trains_to_alone(mode, count, epoch_program, tmp_path):
    parallel = train.Parallel(mode, jax.local_devices()[:count], epoch_program)
    # Not Adam: a bias before a normalisation has a gradient of rounding errors, which Adam scales up.
    options = {"optimizer": "momentum", "augment": "mirror brightness", "ema": 0.9}
    fits = together(tmp_path / "all", parallel, **options)
    assert len({train.tree_sha256(result.state.params) for result in fits}) == len(SEEDS)
    for seed, result in zip(SEEDS, fits, strict=True):
        alone = fit(
            tmp_path / str(seed),
            parallel,
            lambda rngs, seed=seed: Small(nnx.Rngs(seed)),
            epochs=2,
            seed=seed,
            **options,
        )
        assert_same(result.state, alone.state)
        for name in ("train/loss", "train/accuracy", "validation/loss", "validation/accuracy"):
            np.testing.assert_allclose(result.history[name], alone.history[name], rtol=1e-5)


def test_several_seeds_that_are_stopped_resume_to_the_same_bits(tmp_path, one_device):
    whole = together(tmp_path / "whole", one_device, ema=0.9)
    with pytest.raises(runs.Interrupted):
        together(tmp_path / "stopped", one_device, ema=0.9, callbacks=[StopAfter(7)])
    resumed = together(tmp_path / "stopped", one_device, ema=0.9)
    again = together(tmp_path / "stopped", one_device, ema=0.9)
    for a, b, c in zip(whole, resumed, again, strict=True):
        assert train.tree_sha256(a.state.params) == train.tree_sha256(b.state.params)
        assert train.tree_sha256(a.state.params) == train.tree_sha256(c.state.params)
        for name in ("train/loss", "validation/loss"):
            assert a.history[name] == b.history[name] == c.history[name]


def test_callbacks_see_every_step_and_the_epochs_of_every_seed(tmp_path, one_device):
    class Observer(train.Callback):
        steps, epochs, ends = 0, (), 0

        def on_step(self, step, state):
            self.steps += 1

        def on_epoch(self, epoch):
            self.epochs += ((epoch.number, epoch.figures["validation"]["loss"]),)

        def on_end(self):
            self.ends += 1

    observer = Observer()
    fits = together(tmp_path, one_device, callbacks=[observer])
    assert (observer.steps, observer.ends) == (10, 1)
    expected = [(epoch + 1, one.history["validation/loss"][epoch]) for epoch in range(2) for one in fits]
    assert list(observer.epochs) == expected


def seeds_of(path, parallel, source=lambda split: split, callbacks=(), **options):
    run = runs.Run(path, "test", callbacks=callbacks)
    recipe = train.Recipe(lr=1e-2, epochs=1, batch_size=16, seed=3, seeds=3, **options)
    splits = source(images(72)), source(images(20, 1))
    build = lambda seed: Plain(nnx.Rngs(seed))  # noqa: E731
    return list(train.fit_seeds(build, TASK, recipe, *splits, run=run, name="plain", parallel=parallel))


def test_seeds_are_one_program_or_one_after_another_to_the_same_numbers(tmp_path, one_device):
    turns = seeds_of(tmp_path / "turns", one_device)
    assert sorted(p.name for p in (tmp_path / "turns" / "checkpoints" / "plain").iterdir()) == [
        "seed3",
        "seed4",
        "seed5",
    ]
    one = seeds_of(tmp_path / "one", one_device, vmap_seeds="always")
    assert [p.name for p in (tmp_path / "one" / "checkpoints" / "plain").iterdir()] == ["seed3-5"]
    for a, b in zip(turns, one, strict=True):
        assert_same(a.state.params, b.state.params)
        assert a.history.keys() == b.history.keys()


def test_an_accelerator_takes_as_many_seeds_at_once_as_its_memory_holds(monkeypatch):
    class Accelerator:
        platform = "gpu"

    recipe = train.Recipe(seeds=8)
    parallel = train.Parallel(devices=[Accelerator()])
    fits = partial(multi_seed._fits, lambda seed: None, TASK, recipe, images(72), parallel)
    count = lambda: multi_seed._seeds_at_once(recipe, images(72), parallel, fits)  # noqa: E731
    monkeypatch.setattr(
        multi_seed, "_bytes_needed", lambda model, task, recipe, train, parallel, count: 100 + 10 * count
    )
    monkeypatch.setattr(multi_seed, "memory_limit", lambda device: None)
    assert count() == 8
    monkeypatch.setattr(multi_seed, "memory_limit", lambda device: 150)
    assert count() == 4
    monkeypatch.setattr(multi_seed, "memory_limit", lambda device: 5)
    assert count() == 1


def test_seeds_that_began_in_one_program_go_on_in_it_whatever_fits_now(monkeypatch, tmp_path, one_device):
    options = {"vmap_seeds": "auto"}
    whole = seeds_of(tmp_path / "whole", one_device, **options)
    with monkeypatch.context() as patched:
        patched.setattr(multi_seed, "_seeds_at_once", lambda *_: 2)
        with pytest.raises(runs.Interrupted):
            seeds_of(tmp_path / "run", one_device, callbacks=[StopAfter(3)], **options)
    states = tmp_path / "run" / "checkpoints" / "plain" / "seed3-4"
    assert any(states.iterdir())
    with monkeypatch.context() as patched:
        patched.setattr(multi_seed, "memory_limit", lambda device: 1)
        with pytest.raises(UserError, match=f"{states} holds the states of 2 seeds in one program, .*`overwrite`"):
            seeds_of(tmp_path / "run", one_device, **options)
    rest = StopAfter()
    resumed = seeds_of(tmp_path / "run", one_device, callbacks=[rest], **options)
    assert rest.done < 2 * 5  # of five steps each: what was left of two seeds, and the third
    assert sorted(path.name for path in states.parent.iterdir()) == ["seed3-4", "seed5"]
    for ours, expected in zip(resumed, whole, strict=True):
        assert_same(ours.state.params, expected.state.params)
        assert ours.history.keys() == expected.history.keys()


def test_the_memory_of_a_step_grows_with_its_seeds(one_device):
    recipe = train.Recipe(batch_size=16)
    one, eight = (
        multi_seed._bytes_needed(Small(nnx.Rngs(0)), TASK, recipe, images(72), one_device, count) for count in (1, 8)
    )
    parameters = 4 * sum(leaf.size for leaf in jax.tree.leaves(nnx.state(Small(nnx.Rngs(0)), nnx.Param)))
    assert one > 3 * parameters  # Adam's two moments beside them
    assert eight - one > 7 * 3 * parameters


def test_a_stream_has_one_order_so_its_seeds_take_turns(tmp_path, one_device):
    assert len(seeds_of(tmp_path / "turns", one_device, streamed)) == 3
    with pytest.raises(UserError, match="`vmap_seeds=always` needs the images in memory"):
        seeds_of(tmp_path / "one", one_device, streamed, vmap_seeds="always")


class Normalised(Plain):
    """Batch normalisation and nothing random."""

    def __init__(self, rngs):
        super().__init__(rngs)
        self.norm = nn.BatchNorm(3)

    def __call__(self, x):
        return super().__call__(self.norm(x))


def test_replicas_that_share_batch_statistics_train_as_one_device_does(tmp_path, one_device):
    four = train.Parallel(devices=jax.local_devices()[:4])
    one = fit(tmp_path / "one", one_device, Normalised, epochs=2)
    shared = fit(tmp_path / "shared", four, Normalised, epochs=2, sync_batch_norm=True)
    own = fit(tmp_path / "own", four, Normalised, epochs=2)
    np.testing.assert_allclose(shared.history["train/loss"], one.history["train/loss"], rtol=1e-4)
    assert abs(own.history["train/loss"][0] / one.history["train/loss"][0] - 1) > 1e-3


def test_flop_utilization_is_recorded_where_the_peak_is_known(monkeypatch, tmp_path, one_device):
    assert "train/flop_utilization" not in fit(tmp_path / "unknown", one_device, Plain, epochs=1).history
    monkeypatch.setattr(reporting, "peak_flops", lambda devices, precision: 1e12)
    history = fit(tmp_path / "known", one_device, Plain, epochs=1).history
    multiply_adds = 6 * 6 * 27 * 8 + 288 * 4
    expected = history["train/images_per_second"][0] * 6 * multiply_adds / 1e12
    assert history["train/flop_utilization"] == [pytest.approx(expected)]


@pytest.mark.parametrize(
    ("kind", "precision", "count", "expected"),
    [
        ("NVIDIA H200", "float32", 1, 494.7e12),
        ("NVIDIA A100-SXM4-40GB", "bfloat16", 8, 8 * 312e12),
        ("TPU v5 lite", "float32", 4, 4 * 197e12),
        ("cpu", "float32", 1, None),
    ],
)
def test_peaks_are_those_of_the_data_sheets(kind, precision, count, expected):
    class Device:
        device_kind = kind

    from cnnjax.runs.hardware import peak_flops

    assert peak_flops([Device()] * count, precision) == (expected and pytest.approx(expected))
