"""Every operation beyond conv2d and max_pool2d against torch's, forward and all gradients: `pytest -m parity`."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cnnjax import ops

pytestmark = pytest.mark.parity
torch = pytest.importorskip("torch", reason="the parity extra is not installed")
F = torch.nn.functional

NCHW, NHWC = (0, 3, 1, 2), (0, 2, 3, 1)


def random(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def check_same(ours, theirs, *arrays, orders=None, rtol=1e-5):
    """Values and gradients of `ours(*arrays)` against `theirs` on arrays in torch's order; both sides image first."""
    orders = orders or [NCHW] * len(arrays)
    tensors = [torch.tensor(a.transpose(o).copy(), requires_grad=True) for a, o in zip(arrays, orders, strict=True)]
    expected = theirs(*tensors)
    y, pull = jax.vjp(ours, *map(jnp.asarray, arrays))
    back = NHWC if expected.ndim == 4 else (0, 1)
    assert_close(y, expected.detach().numpy().transpose(back), rtol)
    seed = random(*y.shape, seed=1)
    forth = NCHW if expected.ndim == 4 else (0, 1)
    expected.backward(torch.tensor(seed.transpose(forth).copy()))
    for gradient, tensor, order in zip(pull(jnp.asarray(seed)), tensors, orders, strict=True):
        assert_close(gradient, tensor.grad.numpy().transpose(np.argsort(order)), rtol)


def assert_close(ours, theirs, rtol):
    np.testing.assert_allclose(ours, theirs, rtol=rtol, atol=rtol * max(np.abs(theirs).max(), 1))


X = random(2, 7, 9, 6)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"stride": 2},
        {"stride": 2, "padding": 1, "output_padding": 1},
        {"stride": (3, 2), "padding": (1, 0), "dilation": (1, 2)},
        {"stride": 2, "padding": 1, "dilation": 2, "output_padding": 1},
        {"stride": 1, "dilation": 2, "output_padding": 1},
        {"stride": 2, "groups": 2},
        {"stride": 2, "padding": 1, "groups": 3},
        {"stride": 2, "groups": 6},
    ],
    ids=str,
)
@pytest.mark.parametrize("window", [(4, 4), (2, 2), (3, 3), (3, 5), (1, 1)], ids=str)
def test_conv_transpose2d(options, window):
    groups = options.get("groups", 1)
    if any((size - 1) * 1 + d * (k - 1) + 1 - 2 * 1 < 1 for size, k, d in zip((7, 9), window, (1, 1), strict=True)):
        pytest.skip("no output")
    kernel = random(*window, 6, 4, seed=2)
    check_same(
        lambda x, k: ops.conv_transpose2d(x, k, **options),
        lambda x, k: F.conv_transpose2d(x, k, **options),
        X,
        kernel,
        orders=[NCHW, (2, 3, 0, 1)],
        rtol=2e-5,
    )
    bias = random(4 * groups, seed=3)
    with_bias = ops.conv_transpose2d(X, kernel, bias, **options)
    assert_close(with_bias, ops.conv_transpose2d(X, kernel, **options) + bias, 1e-6)


@pytest.mark.parametrize("window", [2, 3, (2, 3), (4, 5)], ids=str)
@pytest.mark.parametrize("stride", [None, 1, 2, (2, 3)], ids=str)
@pytest.mark.parametrize("padding", [0, 1])
@pytest.mark.parametrize("ceil_mode", [False, True])
@pytest.mark.parametrize("count_include_pad", [False, True])
def test_avg_pool2d(window, stride, padding, ceil_mode, count_include_pad):
    options = {"stride": stride, "padding": padding, "ceil_mode": ceil_mode, "count_include_pad": count_include_pad}
    check_same(lambda x: ops.avg_pool2d(x, window, **options), lambda x: F.avg_pool2d(x, window, **options), X)


@pytest.mark.parametrize("p", [1.0, 2.0, 3.0])
def test_lp_pool2d(p):
    check_same(lambda x: ops.lp_pool2d(x, 2, p), lambda x: F.lp_pool2d(x, p, 2), np.abs(X) + 0.1)


@pytest.mark.parametrize(
    ("window", "stride", "padding"), [(2, None, 0), (3, 2, 1), (3, 1, 1), ((2, 3), (2, 3), 0), (5, 2, 2)]
)
def test_max_pool2d_with_indices_and_unpooling(window, stride, padding):
    y, indices = ops.max_pool2d_with_indices(jnp.asarray(X), window, stride=stride, padding=padding)
    image = torch.tensor(X.transpose(NCHW).copy())
    expected, places = F.max_pool2d(image, window, stride, padding, return_indices=True)
    np.testing.assert_array_equal(y, expected.numpy().transpose(NHWC))
    np.testing.assert_array_equal(indices, places.numpy().transpose(NHWC))
    if stride is None:  # torch leaves open which value stays where windows overlap
        restored = F.max_unpool2d(expected, places, window, output_size=(7, 9))
        np.testing.assert_array_equal(ops.max_unpool2d(y, indices, (7, 9)), restored.numpy().transpose(NHWC))


@pytest.mark.parametrize("size", [1, 2, 3, (7, 3), (5, 4), 10], ids=str)
def test_adaptive_avg_pool2d(size):
    check_same(lambda x: ops.adaptive_avg_pool2d(x, size), lambda x: F.adaptive_avg_pool2d(x, size), X)


def test_global_pools():
    check_same(ops.global_avg_pool2d, lambda x: x.mean((2, 3)), X)
    check_same(ops.global_max_pool2d, lambda x: x.amax((2, 3)), X)


@pytest.mark.parametrize("scale", [2, 3, (1, 2), (4, 3)], ids=str)
def test_upsampling(scale):
    pair = scale if isinstance(scale, tuple) else (scale, scale)
    factor = tuple(map(float, pair))
    check_same(lambda x: ops.upsample_nearest(x, scale), lambda x: F.interpolate(x, scale_factor=factor), X)
    for corners in (False, True):
        check_same(
            lambda x, corners=corners: ops.upsample_bilinear(x, scale, align_corners=corners),
            lambda x, corners=corners: F.interpolate(x, scale_factor=factor, mode="bilinear", align_corners=corners),
            X,
            rtol=2e-5,
        )


def test_pixel_shuffle():
    check_same(lambda x: ops.pixel_shuffle(x, 2), lambda x: F.pixel_shuffle(x, 2), random(2, 3, 4, 8))


def test_batch_norm_of_a_batch():
    scale, bias = random(6, seed=4), random(6, seed=5)
    check_same(
        lambda x, s, b: ops.batch_norm(x, *ops.moments(x), s, b),
        lambda x, s, b: F.batch_norm(x, None, None, s, b, training=True),
        3 + 2 * X,
        scale,
        bias,
        orders=[NCHW, (0,), (0,)],
        rtol=1e-4,
    )


@pytest.mark.parametrize("size", [1, 2, 3, 5])
def test_local_response_norm(size):
    check_same(
        lambda x: ops.local_response_norm(x, size, 0.5, 0.75, 2.0),
        lambda x: F.local_response_norm(x, size, 0.5, 0.75, 2.0),
        X,
    )
