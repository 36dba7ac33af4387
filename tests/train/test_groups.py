"""Parameters that are named stay as they are, or learn at a rate of their own."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cnnjax.errors import UserError
from cnnjax.train.averages import averaged_params
from cnnjax.train.optimizers import OPTIMIZERS, Optimization, make_optimizer
from tests.train.test_loop import Plain, fit

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
