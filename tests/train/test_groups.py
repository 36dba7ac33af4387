"""Parameters that are named stay as they are, or learn at a rate of their own."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from cnnjax import nn, tasks, train
from cnnjax.errors import UserError
from cnnjax.train.averages import averaged_params, averaged_variables
from cnnjax.train.groups import Frozen
from cnnjax.train.multi_seed import together, unstack
from cnnjax.train.optimizers import OPTIMIZERS, Optimization, make_optimizer
from tests.train.test_loop import Plain, Small, fit, images

PARAMS = {
    "layer1": {"layers": {"0": {"conv": {"kernel": jnp.ones((3, 3, 2, 4)), "bias": jnp.ones(4)}}}},
    "layer10": {"conv": {"kernel": jnp.ones((3, 3, 4, 4))}},
    "fc": {"kernel": jnp.ones((4, 2)), "bias": jnp.ones(2)},
}


def updates(steps=2, **options):
    """What some steps of the same gradient change, by name."""
    optimizer = make_optimizer(Optimization(**options), 10, 1)
    params, state = PARAMS, optimizer.init(PARAMS)
    gradient = jax.tree.map(lambda p: jnp.linspace(-1, 1, p.size).reshape(p.shape), PARAMS)
    for _ in range(steps):
        change, state = optimizer.update(gradient, state, params)
        params = jax.tree.map(jnp.add, params, change)
    moved = jax.tree.map(lambda new, old: np.asarray(new - old), params, PARAMS)
    return {jax.tree_util.keystr(path, simple=True, separator="."): leaf
            for path, leaf in jax.tree_util.tree_leaves_with_path(moved)}, params, state  # fmt: skip


def still(moved):
    return {name for name, change in moved.items() if not change.any()}


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_what_is_frozen_stays_and_the_rest_learns_under_every_optimiser(optimizer):
    moved, _, _ = updates(optimizer=optimizer, freeze="layer1 fc.bias")
    assert still(moved) == {"layer1.layers.0.conv.kernel", "layer1.layers.0.conv.bias", "fc.bias"}


def test_a_frozen_gradient_does_not_count_for_clipping():
    moved, _, _ = updates(1, optimizer="sgd", lr=1.0, clip_norm=1e-3, freeze="layer1 layer10 fc.kernel")
    assert np.linalg.norm(moved["fc.bias"]) == pytest.approx(1e-3, rel=1e-3)  # added to ones and taken from them again


@pytest.mark.parametrize("pattern", ["layer1*", "layer1", "*.conv.*", "layer1.0.conv"])
def test_a_pattern_is_a_layers_name_or_has_stars(pattern):
    expected = {
        "layer1*": {"layer1.layers.0.conv.kernel", "layer1.layers.0.conv.bias", "layer10.conv.kernel"},
        "*.conv.*": {"layer1.layers.0.conv.kernel", "layer1.layers.0.conv.bias", "layer10.conv.kernel"},
    }.get(pattern, {"layer1.layers.0.conv.kernel", "layer1.layers.0.conv.bias"})
    assert still(updates(freeze=pattern)[0]) == expected


def test_factors_scale_updates_and_the_first_that_matches_counts():
    plain, _, _ = updates(optimizer="adam")
    scaled, _, _ = updates(optimizer="adam", lr_factors="fc.bias=3 fc=10 layer1*=0.1")
    factors = {"fc.bias": 3, "fc.kernel": 10}
    for name, change in plain.items():
        np.testing.assert_allclose(scaled[name], factors.get(name, 0.1) * change, rtol=1e-4, atol=1e-7)


def test_what_no_factor_names_learns_at_the_rate_itself():
    moved, _, _ = updates(1, optimizer="sgd", lr=0.5, lr_factors="fc.kernel=10")
    rates = {name: change.ravel()[-1] for name, change in moved.items()}  # of a gradient that ends in 1
    assert rates.pop("fc.kernel") == pytest.approx(-5)
    assert list(rates.values()) == pytest.approx([-0.5] * 4)


def test_the_average_covers_frozen_parameters_too():
    _, params, state = updates(ema=0.9, freeze="fc")
    np.testing.assert_array_equal(averaged_params(state, params)["fc"]["kernel"], PARAMS["fc"]["kernel"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"freeze": "layer3"}, "unknown parameter or layer 'layer3': did you mean layer1 or layer10"),
        ({"freeze": "head"}, "unknown parameter or layer 'head': there are fc, layer1, layer10$"),
        ({"lr_factors": "layer3=2"}, "unknown parameter or layer that is not frozen 'layer3': did you mean layer1"),
        ({"lr_factors": "fc=2", "freeze": "fc"}, "that is not frozen 'fc': there are layer1, layer10$"),
    ],
)
def test_a_pattern_that_matches_nothing_is_named_with_the_nearest(options, message):
    with pytest.raises(UserError, match=message):
        updates(**options)


@pytest.mark.parametrize("text", ["fc", "fc=", "=2", "fc=0", "fc=-1", "fc=nan", "fc=many"])
def test_factors_are_positive_numbers(text):
    with pytest.raises(UserError, match="factors larger than 0"):
        Optimization(lr_factors=text)


def test_training_freezes_and_learns(tmp_path, one_device):
    result = fit(tmp_path, one_device, model=Plain, epochs=1, freeze="conv")
    before = fit(tmp_path / "before", one_device, model=Plain, epochs=1, freeze="conv dense.kernel dense.bias", lr=1e-9)
    same = jax.tree.map(lambda a, b: bool((a == b).all()), result.state.params, before.state.params)
    assert same == {"conv": {"kernel": True, "bias": True}, "dense": {"kernel": False, "bias": False}}


# ---------------------------------------------------------------- batch statistics


class Normalised(nn.Module):
    """Two convolutions with batch statistics that are not what they begin as, and a -0.0 among the parameters."""

    def __init__(self, rngs):
        self.conv1, self.bn1 = nn.Conv(3, 4, 3, rngs=rngs), nn.BatchNorm(4)
        self.conv2, self.bn2 = nn.Conv(4, 4, 3, rngs=rngs), nn.BatchNorm(4)
        self.pool, self.fc = nn.GlobalAvgPool(), nn.Linear(4, 4, rngs=rngs)
        for norm in (self.bn1, self.bn2):
            norm.mean[...], norm.var[...] = jnp.float32([0.1, -0.3, 0.7, 0.2]), jnp.float32([0.3, 1.7, 0.9, 0.1])
            norm.bias[...] = jnp.float32([-0.0, 0.1, 0.3, -0.7])

    def __call__(self, x):
        return self.fc(self.pool(nnx.relu(self.bn2(self.conv2(nnx.relu(self.bn1(self.conv1(x))))))))


def bits(tree):
    return {jax.tree_util.keystr(path, simple=True, separator="."): np.asarray(leaf).tobytes()
            for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}  # fmt: skip


BATCH = images(48).take(slice(None), np.ones(48, np.float32))


@pytest.mark.parametrize(
    ("mode", "count", "options"),
    [
        ("shard_map", 1, {"optimizer": "adamw", "accumulate": 2, "clip_norm": 0.1}),
        ("shard_map", 3, {"optimizer": "sgd", "ema": 0.7, "l2": 0.1}),
        ("pmap", 3, {"optimizer": "lion", "ema": 0.9, "sync_batch_norm": True, "precision": "bfloat16"}),
    ],
)
def test_what_is_frozen_computes_the_same_after_training_to_the_bit(mode, count, options):
    parallel = train.Parallel(mode, jax.local_devices()[:count])
    recipe = train.Recipe(freeze="conv1 bn1", **options)
    step = train.compile_step(Normalised(nnx.Rngs(0)), tasks.Classification(), recipe, parallel, steps_per_epoch=5)
    state = step.start()
    for _ in range(4):
        state = step(state, parallel.split(BATCH))
    state = parallel.one_copy(state)
    averages = averaged_variables(state.opt_state, state.params, state.model_state)
    for variables in (state[1:3], averages):
        before, after = bits(step.initial[1:3]), bits(variables)
        assert all(before[name] == after[name] for name in before if "conv1" in name or "bn1" in name)
        assert all(before[name] != after[name] for name in ("0.conv2.kernel", "0.bn2.scale", "1.bn2.mean"))


def test_frozen_layers_of_several_seeds_in_one_program_stay_each_its_own(one_device):
    recipe = train.Recipe(freeze="conv1 bn1")
    steps = [
        train.compile_step(Normalised(nnx.Rngs(seed)), tasks.Classification(), recipe, one_device) for seed in (0, 1)
    ]
    both = together(steps)
    batch = jax.tree.map(lambda array: np.stack([array, array]), BATCH)
    state = both(both(both.start(), batch), batch)
    for one, step in zip(unstack(state, 2), steps, strict=True):
        before, after = bits(step.initial[1:3]), bits(one[1:3])
        assert all((before[name] == after[name]) == ("conv1" in name or "bn1" in name) for name in before)


def test_a_frozen_layer_normalises_by_its_running_statistics_in_training_too(one_device):
    recipe = train.Recipe(freeze="conv* bn*", optimizer="sgd", lr=0.1)
    step = train.compile_step(Normalised(nnx.Rngs(0)), tasks.Classification(), recipe, one_device)
    state = step(step.start(), BATCH)
    evaluated = train.evaluate(step.network, step.initial, tasks.Classification(), images(48), parallel=one_device)
    assert float(state.sums["loss"]) / 48 == pytest.approx(evaluated.figures["loss"], rel=1e-5)


@pytest.mark.parametrize(
    ("patterns", "layers"),
    [
        ("bn1", {"bn1"}),
        ("bn1.*", {"bn1"}),
        ("bn*", {"bn1", "bn2"}),
        ("*", {"bn1", "bn2"}),
        ("bn1.scale bn1.bias", {"bn1"}),
        ("bn1.scale", set()),
        ("*.bias", set()),
        ("conv1 fc", set()),
        ("", set()),
    ],
)
def test_statistics_are_frozen_with_all_parameters_of_their_layer(patterns, layers):
    network, state = train.split_model(Normalised(nnx.Rngs(0)), make_optimizer(Optimization(), 1, 1))
    frozen = Frozen.of(patterns.split(), state.params, state.model_state)
    assert frozen.layers == layers
    held = {name: {"mean": name in layers, "var": name in layers} for name in ("bn1", "bn2")}
    assert frozen.model_state == held
    model = network.merge(state.params, state.model_state)
    model.train()
    frozen.hold(model)
    assert {name for name in held if getattr(model, name).use_running_average} == layers


def test_a_resumed_training_keeps_what_is_frozen(tmp_path, one_device):
    options = {"model": Small, "freeze": "conv norm", "ema": 0.9, "epochs": 2}
    whole = fit(tmp_path / "whole", one_device, **options)

    class Stop(train.Callback):
        def on_epoch(self, end):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit(tmp_path / "stopped", one_device, **options, callbacks=[Stop()])
    resumed = fit(tmp_path / "stopped", one_device, **options)
    assert bits(resumed.state[1:3]) == bits(whole.state[1:3])
    start = train.split_model(Small(nnx.Rngs(0)), make_optimizer(Optimization(), 1, 1))[1]
    assert bits(resumed.state.model_state) == bits(start.model_state)
    assert bits(resumed.state.params["conv"]) == bits(start.params["conv"])
