"""Normalisation layers compute what their formulas say, on one device and across replicas."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.sharding import Mesh, PartitionSpec

from cnnjax import nn, ops

RNG = np.random.default_rng(0)
X = (RNG.standard_normal((3, 5, 4, 6)) * 2 + np.arange(6)).astype(np.float32)
SCALE, BIAS = RNG.standard_normal((2, 6)).astype(np.float32)
COTANGENT = RNG.standard_normal(X.shape).astype(np.float32)


def learned(layer):
    layer.scale[...], layer.bias[...] = jnp.asarray(SCALE), jnp.asarray(BIAS)
    return layer


def normal(x, axes, eps=1e-5):
    x = x.astype(float)
    return (x - x.mean(axes, keepdims=True)) / np.sqrt(x.var(axes, keepdims=True) + eps)


@pytest.mark.parametrize("groups", [1, 2, 3, 6])
def test_group_norm_normalises_each_group_of_channels_of_each_image(groups):
    split = X.reshape(3, 5, 4, groups, -1)
    expected = normal(split, (1, 2, 4)).reshape(X.shape) * SCALE + BIAS
    np.testing.assert_allclose(learned(nn.GroupNorm(groups, 6))(X), expected, rtol=1e-4, atol=1e-5)


def test_layer_norm_normalises_the_channels_of_each_pixel():
    expected = normal(X, (3,), 1e-6) * SCALE + BIAS
    np.testing.assert_allclose(learned(nn.LayerNorm(6, eps=1e-6))(X), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("layer", [nn.GroupNorm(2, 6), nn.LayerNorm(6)], ids=lambda layer: type(layer).__name__)
def test_vectors_are_images_of_one_pixel_and_eval_changes_nothing(layer):
    vectors = X[:, 0, 0]
    np.testing.assert_array_equal(layer(vectors), layer(X[:, :1, :1])[:, 0, 0])
    trained = layer(X)
    layer.eval()
    np.testing.assert_array_equal(layer(X), trained)


def test_a_channel_far_from_zero_is_normalised_as_well():
    """Where the variance cannot be had from the mean square in float32."""
    far = X + np.float32(4096)
    expected = normal(far.reshape(3, 5, 4, 2, 3), (1, 2, 4)).reshape(X.shape)
    np.testing.assert_allclose(nn.GroupNorm(2, 6)(far), expected, atol=2e-3)
    np.testing.assert_allclose(nn.LayerNorm(6)(far), normal(far, (3,)), atol=2e-3)


@pytest.mark.parity
@pytest.mark.parametrize("groups", [None, 1, 2, 6])
def test_values_and_gradients_are_those_of_torch(groups):
    """None: layer normalisation."""
    torch = pytest.importorskip("torch", reason="the parity extra is not installed")
    x, scale, bias = (torch.tensor(a, dtype=torch.double, requires_grad=True) for a in (X, SCALE, BIAS))
    if groups is None:
        layer, expected = learned(nn.LayerNorm(6)), torch.nn.functional.layer_norm(x, (6,), scale, bias)
    else:
        layer = learned(nn.GroupNorm(groups, 6))
        planes = torch.nn.functional.group_norm(x.permute(0, 3, 1, 2), groups, scale, bias)
        expected = planes.permute(0, 2, 3, 1)
    expected.backward(torch.tensor(COTANGENT, dtype=torch.double))
    graphdef, params = nnx.split(layer, graph=False)
    y, pull = jax.vjp(lambda params, x: nnx.merge(graphdef, params, copy=True)(x), params, jnp.asarray(X))
    slopes, x_slope = pull(jnp.asarray(COTANGENT))
    np.testing.assert_allclose(y, expected.detach(), rtol=1e-4, atol=1e-5)
    for ours, theirs in ((x_slope, x), (slopes["scale"][...], scale), (slopes["bias"][...], bias)):
        np.testing.assert_allclose(ours, theirs.grad, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
@pytest.mark.parametrize("groups", [None, 2])
def test_the_gradient_of_half_precision_images_is_rounded_once(groups, dtype):
    """Of cotangents of one sign little is left; None: batch normalisation."""
    layer = nn.BatchNorm(4) if groups is None else nn.GroupNorm(groups, 4)
    rng = np.random.default_rng(1)
    x, cotangent = (jnp.asarray(rng.uniform(*ends, (2, 56, 56, 4)), dtype) for ends in ((0.5, 1.5), (0.95, 1.05)))
    graphdef, state = nnx.split(layer)
    ours = jax.jit(lambda x, ct: jax.vjp(lambda x: nnx.merge(graphdef, state, copy=True)(x), x)[1](ct)[0])(x, cotangent)
    images, pull = (np.asarray(a, np.float64).reshape(2, 56, 56, groups or 1, -1) for a in (x, cotangent))
    axes = (0, 1, 2) if groups is None else (1, 2, 4)
    y = normal(images, axes)
    rest = pull - pull.mean(axes, keepdims=True) - y * (pull * y).mean(axes, keepdims=True)
    expected = (rest / np.sqrt(images.var(axes, keepdims=True) + 1e-5)).reshape(x.shape)
    np.testing.assert_allclose(np.asarray(ours, np.float64), expected, rtol=float(jnp.finfo(dtype).eps), atol=1e-5)


# ---------------------------------------------------------------- batch normalisation and replicas

BATCH = (RNG.standard_normal((16, 4, 4, 6)) + np.arange(16)[:, None, None, None]).astype(np.float32)
PULL = RNG.standard_normal(BATCH.shape).astype(np.float32)


def values_and_gradients(axis_name, params, x, cotangent):
    """Outputs, running mean and variance, and gradients of `sum(outputs * cotangent)`."""

    def loss(params, x):
        layer = nn.BatchNorm(6, axis_name=axis_name)
        layer.scale[...], layer.bias[...] = params
        y = layer(x)
        return (y * cotangent).sum(), (y, layer.mean[...], layer.var[...])

    slopes, outputs = jax.grad(loss, (0, 1), has_aux=True)(params, x)
    return outputs, slopes


def on_replicas(axis_name):
    """The same on eight devices: (outputs, averages by replica), gradients of parameters summed, of images."""

    def replica(params, x, cotangent):
        (y, *averages), (slopes, x_slope) = values_and_gradients(axis_name, params, x, cotangent)
        slopes = jax.lax.psum(slopes, "data")
        return y, [average[None] for average in averages], slopes, x_slope

    mesh, split, whole = Mesh(np.array(jax.devices()[:8]), ("data",)), PartitionSpec("data"), PartitionSpec()
    mapped = jax.shard_map(
        replica, mesh=mesh, in_specs=(whole, split, split), out_specs=(split, split, whole, split), check_vma=False
    )
    return jax.jit(mapped)((SCALE, BIAS), BATCH, PULL)


def test_across_eight_devices_it_is_batch_norm_of_the_whole_batch_with_its_gradients():
    y, averages, slopes, x_slope = on_replicas("data")
    outputs, (whole_slopes, whole_x_slope) = values_and_gradients(None, (SCALE, BIAS), BATCH, PULL)
    np.testing.assert_allclose(y, outputs[0], rtol=1e-4, atol=1e-5)
    for ours, expected in zip(averages, outputs[1:], strict=True):
        np.testing.assert_allclose(ours, np.broadcast_to(expected, (8, 6)), rtol=1e-5)
    for ours, expected in zip((*slopes, x_slope), (*whole_slopes, whole_x_slope), strict=True):
        np.testing.assert_allclose(ours, expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())


def test_per_replica_each_share_is_normalised_by_itself():
    y, averages, _, _ = on_replicas(None)
    shares = BATCH.reshape(8, 2, 4, 4, 6)
    expected = normal(shares, (1, 2, 3)) * SCALE + BIAS
    np.testing.assert_allclose(y, expected.reshape(BATCH.shape), rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(averages[0], 0.1 * shares.mean((1, 2, 3)), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(averages[1], 0.9 + 0.1 * shares.var((1, 2, 3), ddof=1), rtol=1e-4)


def test_a_model_shares_its_batch_statistics_or_not():
    class Block(nn.Module):
        def __init__(self):
            self.norms = nnx.List([nn.BatchNorm(6), nn.BatchNorm(6)])
            self.inner = nn.BatchNorm(6)

        def __call__(self, x):
            return self.inner(self.norms[1](self.norms[0](x)))

    def replica(x):
        model = Block()
        nn.share_batch_statistics(model, "data")
        return model(x)

    shared = jax.vmap(replica, axis_name="data")(BATCH.reshape(8, 2, 4, 4, 6)).reshape(BATCH.shape)
    model = Block()
    np.testing.assert_allclose(shared, model(BATCH), rtol=1e-3, atol=1e-4)
    nn.share_batch_statistics(model, "data")
    nn.share_batch_statistics(model, None)
    assert np.isfinite(model(BATCH)).all()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: nn.GroupNorm(4, 6), "num_groups=4 must divide num_channels=6"),
        (lambda: nn.GroupNorm(0, 6), "num_groups must be at least 1, got 0"),
        (lambda: nn.GroupNorm(1, 0), "num_channels must be at least 1, got 0"),
        (lambda: nn.LayerNorm(0), "normalized_shape must be at least 1, got 0"),
        (lambda: nn.GroupNorm(2, 4)(X), r"expected 4 channels on the last axis of x, got shape \(3, 5, 4, 6\)"),
        (lambda: nn.LayerNorm(5)(X), r"expected 5 channels on the last axis of x, got shape \(3, 5, 4, 6\)"),
        (lambda: nn.LayerNorm(6, eps=0.0)(X), "eps must be positive, got 0.0"),
    ],
)
def test_wrong_arguments_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_tracing_does_not_ask_for_what_tracers_lack(monkeypatch):
    asked = []
    monkeypatch.setattr(jax.core.Tracer, "sharding", property(lambda tracer: asked.append(tracer)))

    def train(x):
        convolution, norm = nn.Conv(3, 4, 3, rngs=nnx.Rngs(0)), nn.BatchNorm(4)
        return norm(convolution(x)), norm.mean[...]

    jax.eval_shape(train, jnp.ones((2, 8, 8, 3)))
    assert asked == []


def test_statistics_of_an_empty_batch_stay_as_they_were():
    layer = nn.BatchNorm(2)
    layer(jnp.asarray(np.random.default_rng(0).normal(size=(4, 3, 3, 2)), jnp.float32))
    before = np.asarray(layer.mean[...]), np.asarray(layer.var[...])
    assert layer(jnp.zeros((0, 3, 3, 2))).shape == (0, 3, 3, 2)
    np.testing.assert_array_equal((layer.mean[...], layer.var[...]), before)


@pytest.mark.parametrize("shape", [(1, 1, 1, 2), (1, 2)])
def test_statistics_of_one_value_a_channel_are_refused_in_training(shape):
    layer = nn.BatchNorm(2)
    with pytest.raises(ValueError, match=r"more than 1 value a channel in training, got x of shape \(1, "):
        layer(jnp.zeros(shape))
    layer.eval()
    assert layer(jnp.zeros(shape)).shape == shape


@pytest.mark.parametrize("mean", [0, 3, 30, 1e3, 1e4])
def test_the_scale_s_gradient_keeps_its_digits_at_a_large_mean(mean):
    """Of float32's rounding of the mean alone, as torch (google/flax#1491)."""
    rng = np.random.default_rng(0)
    x = (rng.normal(size=(8, 16, 16, 2)) + mean).astype(np.float32)
    weight = rng.normal(size=x.shape).astype(np.float32)

    def weighted(scale):
        return (ops.batch_norm(x, *ops.moments(x), scale, jnp.zeros(2)) * weight).sum()

    wide = x.astype(np.float64)
    centre = wide.mean((0, 1, 2)).astype(np.float32).astype(np.float64)
    terms = weight * (wide - centre) / np.sqrt(wide.var((0, 1, 2)) + 1e-5)
    error = np.abs(jax.grad(weighted)(jnp.ones(2)) - terms.sum((0, 1, 2))) / np.abs(terms).sum((0, 1, 2))
    assert error.max() < 1e-7
