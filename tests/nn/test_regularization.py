"""Layers that drop: what goes together, how much, and that nothing is dropped in `eval`."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from cnnjax import nn

LAYERS = [nn.Dropout, nn.SpatialDropout, nn.StochasticDepth]
# The axes of (batch, height, width, channels) along which what is dropped is one.
TOGETHER = {nn.Dropout: (), nn.SpatialDropout: (1, 2), nn.StochasticDepth: (1, 2, 3)}


@pytest.mark.parametrize("layer", LAYERS)
def test_a_share_is_dropped_and_the_rest_scaled_so_that_the_mean_stays(layer):
    y = np.asarray(layer(0.25, rngs=nnx.Rngs(0))(jnp.ones((400, 2, 3, 40))))
    np.testing.assert_allclose(np.unique(y), [0, 1 / 0.75], rtol=1e-6)
    units = y.min(TOGETHER[layer])
    assert abs((units == 0).mean() - 0.25) < 4 * np.sqrt(0.25 * 0.75 / units.size)


@pytest.mark.parametrize("layer", LAYERS)
def test_what_belongs_together_is_dropped_together_and_nothing_else_is(layer):
    y = np.asarray(layer(0.5, rngs=nnx.Rngs(0))(jnp.ones((64, 2, 3, 8))))
    axes = TOGETHER[layer]
    np.testing.assert_array_equal(y.min(axes), y.max(axes))
    for axis in set(range(4)) - set(axes):
        assert (y.min(axis) != y.max(axis)).any(), axis


@pytest.mark.parametrize("layer", LAYERS)
def test_values_that_stay_are_scaled_and_gradients_with_them(layer):
    x = jax.random.normal(jax.random.key(0), (8, 2, 3, 8))
    build = lambda: layer(0.5, rngs=nnx.Rngs(0))  # noqa: E731
    mask = build()(jnp.ones_like(x))
    np.testing.assert_array_equal(build()(x), x * mask)
    np.testing.assert_array_equal(jax.grad(lambda x: build()(x).sum())(x), mask)


@pytest.mark.parametrize("bad", [np.inf, np.nan])
@pytest.mark.parametrize("layer", LAYERS)
def test_what_is_dropped_may_be_anything(layer, bad):
    x, cotangent = jnp.full((8, 2, 3, 8), bad), jnp.ones((8, 2, 3, 8))
    mask = layer(0.5, rngs=nnx.Rngs(0))(jnp.ones_like(x))
    y, pull = jax.vjp(lambda x: layer(0.5, rngs=nnx.Rngs(0))(x), x)
    np.testing.assert_array_equal(np.isfinite(y), mask == 0)
    np.testing.assert_array_equal(pull(cotangent)[0], mask)


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize(("shape", "dtype"), [((4, 3, 3, 2), jnp.float32), ((4, 6), jnp.bfloat16)])
def test_in_eval_it_is_the_identity_and_in_training_keeps_shape_and_dtype(layer, shape, dtype):
    x = jax.random.normal(jax.random.key(0), shape, dtype)
    built = layer(0.5, rngs=nnx.Rngs(0))
    assert (built(x).shape, built(x).dtype) == (shape, dtype)
    built.eval()
    np.testing.assert_array_equal(built(x), x)
    np.testing.assert_array_equal(layer(0.0, rngs=nnx.Rngs(0))(x), x)


@pytest.mark.parametrize("layer", LAYERS)
def test_a_reseeded_model_repeats_itself_and_its_layers_differ(layer):
    """As the training step reseeds it."""

    class Two(nn.Module):
        def __init__(self, rngs):
            self.first, self.second = layer(0.5, rngs=rngs), layer(0.5, rngs=rngs)

        def __call__(self, x):
            return self.first(x), self.second(x)

    model, x = Two(nnx.Rngs(0)), jnp.ones((64, 1, 1, 4))

    def drawn(seed):
        nnx.reseed(model, graph=False, dropout=jax.random.key(seed))
        return model(x)

    first, second = drawn(1)
    for ours, again, other in zip((first, second), drawn(1), drawn(2), strict=True):
        np.testing.assert_array_equal(ours, again)
        assert (ours != other).any()
    assert (first != second).any()


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("rate", [-0.1, 1.0, float("nan")])
def test_a_rate_out_of_range_is_named(layer, rate):
    with pytest.raises(ValueError, match=rf"rate must be in \[0, 1\), got {rate}"):
        layer(rate, rngs=nnx.Rngs(0))
