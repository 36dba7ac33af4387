"""Every option of a layer reaches its operation, and initial values have the spread that their fan gives."""

import numpy as np
import pytest
from flax import nnx

from cnnjax import nn
from tests.ops import reference, reference_pools
from tests.ops.operations import computed

X = np.random.default_rng(0).standard_normal((2, 7, 9, 4)).astype(np.float32)
SLIDING = {"stride": (2, 1), "padding": (1, 2), "dilation": (1, 2)}


def parameters(layer):
    return [np.asarray(array[...], float) for array in (layer.kernel, layer.bias)]


def test_a_convolution_takes_every_option():
    options = SLIDING | {"groups": 2, "padding_mode": "replicate"}
    layer = nn.Conv(4, 6, (3, 2), **options, rngs=nnx.Rngs(0))
    np.testing.assert_allclose(
        computed(layer, X), reference.conv2d(X, *parameters(layer), **options), rtol=1e-4, atol=1e-5
    )


def test_a_transposed_convolution_takes_every_option():
    options = {"stride": (2, 3), "padding": (1, 0), "output_padding": (1, 2), "groups": 2, "dilation": (2, 1)}
    layer = nn.ConvTranspose(4, 6, (3, 2), **options, rngs=nnx.Rngs(0))
    expected = reference.conv_transpose2d(X, *parameters(layer), **options)
    np.testing.assert_allclose(computed(layer, X), expected, rtol=1e-4, atol=1e-5)


def test_a_separable_convolution_takes_every_option():
    options = SLIDING | {"padding_mode": "circular"}
    layer = nn.SeparableConv(4, 6, (3, 2), 2, **options, rngs=nnx.Rngs(0))
    depthwise = np.asarray(layer.depthwise.kernel[...], float)
    expected = reference.separable_conv2d(X, depthwise, *parameters(layer.pointwise), **options)
    np.testing.assert_allclose(computed(layer, X), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("layer", "pool"), [(nn.MaxPool, reference_pools.max_pool2d), (nn.MinPool, reference_pools.min_pool2d)]
)
def test_a_pool_of_extremes_takes_every_option(layer, pool):
    options = {"stride": (3, 2), "padding": (1, 0), "dilation": (2, 3), "ceil_mode": True}
    np.testing.assert_array_equal(computed(layer((2, 2), **options), X), pool(X, (2, 2), **options))


def test_a_pool_with_places_takes_every_option():
    options = {"stride": (2, 1), "padding": (1, 0)}
    ours = computed(nn.MaxPool((3, 2), **options, return_indices=True), X)
    for mine, theirs in zip(ours, reference_pools.max_pool2d_with_indices(X, (3, 2), **options), strict=True):
        np.testing.assert_array_equal(mine, theirs)


@pytest.mark.parametrize("options", [{"ceil_mode": True}, {"count_include_pad": False}])
def test_an_average_pool_takes_every_option(options):
    options = {"stride": (2, 3), "padding": (1, 0)} | options
    expected = reference_pools.avg_pool2d(X.astype(float), (3, 2), **options)
    np.testing.assert_allclose(computed(nn.AvgPool((3, 2), **options), X), expected, rtol=1e-5, atol=1e-6)


def test_other_layers_take_every_option():
    wide = X.astype(float)
    pairs = {
        "norm": (nn.LocalResponseNorm(3, 0.5, 0.6, 1.5), reference.local_response_norm(wide, 3, 0.5, 0.6, 1.5)),
        "power": (nn.LPPool(3.0, (3, 2), (2, 1)), reference_pools.lp_pool2d(wide, (3, 2), 3.0, stride=(2, 1))),
        "bins": (nn.AdaptiveAvgPool((3, 2)), reference_pools.adaptive_avg_pool2d(wide, (3, 2))),
        "areas": (nn.Upsample((2, 3), "bilinear"), reference.upsample_bilinear(wide, (2, 3))),
        "corners": (nn.Upsample(2, "bilinear", True), reference.upsample_bilinear(wide, 2, align_corners=True)),
    }
    found = computed(lambda x: {name: layer(x) for name, (layer, _) in pairs.items()}, X)
    for name, (_, expected) in pairs.items():
        np.testing.assert_allclose(found[name], expected, rtol=1e-4, atol=1e-5, err_msg=name)


LAYERS = {  # with the fans that torch.nn.init computes from its weights, no two of a layer alike
    "Conv": (lambda init: nn.Conv(40, 160, (3, 2), init=init, rngs=nnx.Rngs(0)), 240, 960),
    "Conv in groups": (lambda init: nn.Conv(40, 160, (3, 2), groups=4, init=init, rngs=nnx.Rngs(0)), 60, 960),
    # torch's weight is (in, out / groups, kh, kw), of which it takes the second axis as the inputs.
    "ConvTranspose": (lambda init: nn.ConvTranspose(40, 160, (3, 2), init=init, rngs=nnx.Rngs(0)), 960, 240),
    "ConvTranspose in groups": (
        lambda init: nn.ConvTranspose(40, 160, (3, 2), groups=2, init=init, rngs=nnx.Rngs(0)),
        480,
        240,
    ),
    "Linear": (lambda init: nn.Linear(240, 160, init=init, rngs=nnx.Rngs(0)), 240, 160),
    "Linear of images": (lambda init: nn.Linear((3, 4, 20), 160, init=init, rngs=nnx.Rngs(0)), 240, 160),
}


@pytest.mark.parametrize("name", LAYERS)
def test_initial_values_fill_the_range_that_the_fans_give(name):
    build, fan_in, fan_out = LAYERS[name]
    layer = build("torch")
    for values in (layer.kernel[...], layer.bias[...]):  # the largest of n uniform numbers is 1 - 1 / n of the bound
        largest = float(abs(values).max()) * np.sqrt(fan_in)
        assert 1 - 8 / values.size < largest <= 1 + 1e-6
    assert float(build("he_normal_fan_out").kernel[...].var()) == pytest.approx(2 / fan_out, rel=0.15)
    assert float(build("glorot_uniform").kernel[...].var()) == pytest.approx(2 / (fan_in + fan_out), rel=0.15)


@pytest.mark.parity
@pytest.mark.parametrize("groups", [1, 4])
def test_a_transposed_convolution_starts_in_torch_s_range(groups):
    torch = pytest.importorskip("torch", reason="the parity extra is not installed")
    torch.manual_seed(0)
    theirs = torch.nn.ConvTranspose2d(40, 64, (3, 2), groups=groups)
    ours = nn.ConvTranspose(40, 64, (3, 2), groups=groups, rngs=nnx.Rngs(0))
    for mine, other in ((ours.kernel, theirs.weight), (ours.bias, theirs.bias)):
        assert float(abs(mine[...]).max()) == pytest.approx(float(other.detach().abs().max()), rel=0.1)


def test_a_linear_layer_flattens_images_of_its_shape_and_of_no_other():
    layer = nn.Linear((3, 4, 2), 5, rngs=nnx.Rngs(0))
    images = np.random.default_rng(0).standard_normal((2, 3, 4, 2)).astype(np.float32)
    np.testing.assert_allclose(layer(images), layer(images.reshape(2, 24)), rtol=1e-6)
    with pytest.raises(ValueError, match=r"expected 24 features on the last axis of x, got shape \(2, 4, 3, 2\)"):
        layer(images.swapaxes(1, 2))


def test_a_single_group_is_normalised_too():
    images = np.random.default_rng(0).standard_normal((2, 3, 4, 6)).astype(np.float32)
    expected = (images - images.mean((1, 2, 3), keepdims=True)) / np.sqrt(images.var((1, 2, 3), keepdims=True) + 1e-5)
    np.testing.assert_allclose(computed(nn.GroupNorm(1, 6), images), expected, rtol=1e-4, atol=1e-5)
