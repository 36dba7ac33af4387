"""Kernels are put where the layer's formula reads them: no two of their axes are as long, or both orders would fit."""

import numpy as np
import pytest
from flax import nnx

from cnnjax import interop, nn
from tests.ops import reference

RNG = np.random.default_rng(0)
X = np.float32(RNG.standard_normal((2, 4, 5, 6)))


@pytest.mark.parametrize("groups", [1, 2])
def test_a_transposed_convolution_s_kernel_of_torch_computes_its_formula(groups):
    """torch's weight is (in, out / groups, kh, kw); as many inputs as outputs hide a wrong order from the shapes."""
    weight, bias = RNG.standard_normal((6, 6 // groups, 3, 2)), RNG.standard_normal(6)
    model = nn.Sequential(up=nn.ConvTranspose(6, 6, (3, 2), 2, groups=groups, rngs=nnx.Rngs(0)))
    interop.load_torch(model, {"up.weight": weight, "up.bias": bias})
    expected = np.zeros((2, 2 * 3 + 3, 2 * 4 + 2, 6)) + bias
    for i, o, a, b in np.ndindex(weight.shape):
        group = i // (6 // groups)
        expected[:, a : a + 7 : 2, b : b + 9 : 2, group * (6 // groups) + o] += X[..., i] * weight[i, o, a, b]
    np.testing.assert_allclose(model(X), expected, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(interop.to_torch(model)["up.weight"], weight, rtol=1e-6)


def test_a_convolution_s_kernel_of_torch_computes_its_formula():
    weight, bias = RNG.standard_normal((6, 6, 2, 2)), RNG.standard_normal(6)
    model = nn.Sequential(conv=nn.Conv(6, 6, 2, rngs=nnx.Rngs(0)))
    interop.load_torch(model, {"conv.weight": weight, "conv.bias": bias})
    np.testing.assert_allclose(model(X), reference.conv2d(X, weight.transpose(2, 3, 1, 0), bias), rtol=1e-4, atol=1e-4)


def test_a_linear_layer_on_images_reads_torch_s_channels_first():
    weight, bias = RNG.standard_normal((7, 6 * 4 * 5)), RNG.standard_normal(7)
    model = nn.Sequential(fc=nn.Linear((4, 5, 6), 7, rngs=nnx.Rngs(0)))
    interop.load_torch(model, {"fc.weight": weight, "fc.bias": bias})
    np.testing.assert_allclose(model(X), X.transpose(0, 3, 1, 2).reshape(2, -1) @ weight.T + bias, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(interop.to_torch(model)["fc.weight"], weight, rtol=1e-6)
