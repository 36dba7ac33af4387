"""Layers compute what their formulas say and switch with train() and eval()."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from cnnjax import nn, ops


def test_conv_is_conv2d_with_its_parameters():
    layer = nn.Conv(
        4, 6, (3, 2), stride=2, padding=1, dilation=(1, 2), groups=2, padding_mode="reflect", rngs=nnx.Rngs(0)
    )
    x = jax.random.normal(jax.random.key(0), (2, 8, 9, 4))
    expected = ops.conv2d(
        x, layer.kernel[...], layer.bias[...], stride=2, padding=1, dilation=(1, 2), groups=2, padding_mode="reflect"
    )
    np.testing.assert_array_equal(layer(x), expected)
    assert nn.Conv(4, 6, 3, bias=False, rngs=nnx.Rngs(0)).bias is None


@pytest.mark.parametrize("scheme", sorted(nn.SCHEMES))
@pytest.mark.parametrize(
    "layer",
    [lambda s: nn.Conv(16, 32, 3, init=s, rngs=nnx.Rngs(0)), lambda s: nn.Linear(144, 256, init=s, rngs=nnx.Rngs(0))],
)
def test_initial_kernels_have_the_variance_of_their_scheme(scheme, layer):
    built = layer(scheme)
    fan_in = np.prod(built.kernel.shape[:-1])
    fan_out = np.prod(built.kernel.shape[:-2]) * built.kernel.shape[-1]
    variance = {
        "keras": 2 / (fan_in + fan_out),
        "torch": 1 / (3 * fan_in),
        "torch_zero_bias": 1 / (3 * fan_in),
        "glorot_uniform": 2 / (fan_in + fan_out),
        "glorot_normal": 2 / (fan_in + fan_out),
        "he_uniform": 2 / fan_in,
        "he_normal": 2 / fan_in,
        "he_normal_fan_in": 2 / fan_in,
        "he_normal_fan_out": 2 / fan_out,
        "lecun_uniform": 1 / fan_in,
        "lecun_normal": 1 / fan_in,
        "lecun_uniform_fan_out": 1 / fan_out,
        "uniform_fan_out": 1 / (3 * fan_out),
        "normal_0.1_torch_bias": 0.1**2,
        "normal_0.01_torch_bias": 0.01**2,
        "normal_0.001_torch_bias": 0.001**2,
        "normal_0.01": 0.01**2,
        "normal_0.02": 0.02**2,
        "zeros": 0,
    }[scheme]
    assert float(built.kernel[...].var()) == pytest.approx(variance, rel=0.06)
    bias, bound = built.bias[...], 1 / np.sqrt(fan_in) if scheme == "torch" or scheme.endswith("torch_bias") else 0
    assert float(jnp.abs(bias).max()) <= bound
    assert bool(bias.any()) == (bound > 0)


@pytest.mark.parity
def test_torch_layers_start_within_the_bounds_of_the_scheme_of_that_name():
    torch = pytest.importorskip("torch", reason="the parity extra is not installed")
    bound = 1 / np.sqrt(144)
    for layer in (torch.nn.Conv2d(16, 64, 3), torch.nn.Linear(144, 512)):
        assert 0.98 * bound < layer.weight.abs().max().item() <= bound
        assert 0.9 * bound < layer.bias.abs().max().item() <= bound


def test_batch_norm_normalises_in_training_and_follows_its_averages_in_eval():
    layer = nn.BatchNorm(3, momentum=0.5)
    x = 5 + 2 * jax.random.normal(jax.random.key(0), (4, 6, 6, 3))
    y = layer(x)
    np.testing.assert_allclose(y.mean((0, 1, 2)), 0, atol=1e-5)
    np.testing.assert_allclose(y.var((0, 1, 2)), 1, rtol=1e-4)
    flat = np.asarray(x).reshape(-1, 3)
    np.testing.assert_allclose(layer.mean[...], 0.5 * flat.mean(0), rtol=1e-5)
    np.testing.assert_allclose(layer.var[...], 0.5 + 0.5 * flat.var(0, ddof=1), rtol=1e-5)
    layer.eval()
    expected = (flat - layer.mean[...]) / np.sqrt(layer.var[...] + 1e-5)
    np.testing.assert_allclose(layer(x).reshape(-1, 3), expected, rtol=1e-4, atol=1e-5)


def test_flatten_and_max_pool():
    x = jnp.arange(32.0).reshape(1, 4, 4, 2)
    np.testing.assert_array_equal(nn.Flatten()(x), jnp.arange(32.0)[None])
    np.testing.assert_array_equal(nn.MaxPool(2, stride=1, padding=1)(x), ops.max_pool2d(x, 2, stride=1, padding=1))


X = jax.random.normal(jax.random.key(0), (2, 8, 8, 4))
KERNEL = nn.ConvTranspose(4, 6, 3, stride=2, padding=1, output_padding=1, groups=2, rngs=nnx.Rngs(0))
SEPARABLE = nn.SeparableConv(4, 6, 3, 2, padding=1, rngs=nnx.Rngs(0))


@pytest.mark.parametrize(
    ("layer", "operation"),
    [
        (
            nn.AvgPool(3, 2, 1, True, False),
            lambda x: ops.avg_pool2d(x, 3, stride=2, padding=1, ceil_mode=True, count_include_pad=False),
        ),
        (nn.LPPool(3.0, 2), lambda x: ops.lp_pool2d(x, 2, 3.0)),
        (nn.MinPool(3, 2, 1), lambda x: ops.min_pool2d(x, 3, stride=2, padding=1)),
        (nn.GlobalAvgPool(), ops.global_avg_pool2d),
        (nn.GlobalMaxPool(), ops.global_max_pool2d),
        (nn.BedOfNails((2, 3)), lambda x: ops.bed_of_nails(x, (2, 3))),
        (nn.AdaptiveAvgPool((3, 2)), lambda x: ops.adaptive_avg_pool2d(x, (3, 2))),
        (nn.Upsample(2), lambda x: ops.upsample_nearest(x, 2)),
        (nn.Upsample(2, "bilinear", True), lambda x: ops.upsample_bilinear(x, 2, align_corners=True)),
        (nn.PixelShuffle(2), lambda x: ops.pixel_shuffle(x, 2)),
        (nn.LocalResponseNorm(3, 0.5), lambda x: ops.local_response_norm(x, 3, 0.5, 0.75, 1.0)),
        (
            KERNEL,
            lambda x: ops.conv_transpose2d(
                x, KERNEL.kernel[...], KERNEL.bias[...], stride=2, padding=1, output_padding=1, groups=2
            ),
        ),
        (
            SEPARABLE,
            lambda x: ops.separable_conv2d(
                x,
                SEPARABLE.depthwise.kernel[...],
                SEPARABLE.pointwise.kernel[...],
                SEPARABLE.pointwise.bias[...],
                padding=1,
            ),
        ),
    ],
    ids=lambda part: type(part).__name__,
)
def test_layers_are_their_operations(layer, operation):
    np.testing.assert_allclose(layer(X), operation(X), rtol=1e-6)


def test_indices_are_only_of_plain_windows():
    with pytest.raises(ValueError, match="return_indices takes dilation=1 and ceil_mode=False, got 2 and False"):
        nn.MaxPool(2, dilation=2, return_indices=True)


def test_unpooling_is_its_operation():
    y, indices = nn.MaxPool(2, return_indices=True)(X)
    np.testing.assert_array_equal(nn.MaxUnpool(8)(y, indices), ops.max_unpool2d(y, indices, 8))


def test_batch_norm_takes_vectors_too():
    x = jax.random.normal(jax.random.key(0), (50, 3)) * 4 + 1
    np.testing.assert_allclose(nn.BatchNorm(3)(x), (x - x.mean(0)) / np.sqrt(x.var(0) + 1e-5), rtol=1e-4, atol=1e-5)


def test_calls_are_watched_only_inside_the_block():
    seen = []
    layer = nn.Flatten()
    with nn.watch_calls(lambda module, x, y: seen.append((module, x.shape, y.shape))):
        layer(jnp.ones((2, 3, 3, 1)))
    layer(jnp.ones((2, 3, 3, 1)))
    assert seen == [(layer, (2, 3, 3, 1), (2, 9))]


@pytest.mark.parametrize(
    ("build", "named"),
    [
        (lambda: nn.Conv(3, 4, 3, groups=2, rngs=nnx.Rngs(0)), "divisible by groups=2"),
        (lambda: nn.Conv(0, 4, 3, rngs=nnx.Rngs(0)), "in_channels must be at least 1, got 0"),
        (lambda: nn.Conv(3, 4, 0, rngs=nnx.Rngs(0)), "kernel_size must be at least 1, got 0"),
        (lambda: nn.Conv(3, 4, 3, init="xavier", rngs=nnx.Rngs(0)), "init must be one of"),
        (lambda: nn.Linear(3, 0, rngs=nnx.Rngs(0)), "out_features must be at least 1, got 0"),
        (lambda: nn.Linear(3, 4, rngs=nnx.Rngs(0))(jnp.ones((2, 5))), "expected 3 features"),
        (lambda: nn.BatchNorm(3)(jnp.ones((2, 4, 4, 5))), "expected 3 channels"),
    ],
)
def test_wrong_arguments_are_named(build, named):
    with pytest.raises(ValueError, match=named):
        build()
