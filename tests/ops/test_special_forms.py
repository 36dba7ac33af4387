"""Shapes and values on which an operation changes its form: both sides of the choice against direct sums."""

from functools import partial

import jax
import numpy as np
import pytest

from cnnjax import ops
from tests.ops import reference, reference_pools


def test_unpooling_sees_every_index_that_is_not_in_its_own_cell():
    """One index of four goes anywhere else; a column or a row too far is the neighbour's cell."""
    y = np.arange(1, 5, dtype=np.float32).reshape(1, 2, 2, 1)
    cotangent = np.random.default_rng(0).standard_normal((1, 4, 6, 1)).astype(np.float32)

    @jax.jit
    def both(indices):
        x, pull = jax.vjp(lambda y: ops.max_unpool2d(y, indices, (4, 6)), y)
        return x, pull(cotangent)[0]

    own = np.array([0, 9, 13, 22], np.int32)  # of cells of 2x3 pixels, in which the others stay
    for moved in range(4):
        for place in set(range(24)) - set(own) | {own[moved]}:
            indices = own.copy()
            indices[moved] = place
            x, gradient = both(indices.reshape(y.shape))
            np.testing.assert_array_equal(x, reference_pools.max_unpool2d(y, indices.reshape(y.shape), (4, 6)))
            np.testing.assert_array_equal(gradient.ravel(), cotangent.ravel()[indices])


@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize(("channels", "multiplier"), [(3, 1), (2, 2)])
def test_the_kernel_s_gradient_of_a_depthwise_convolution_sums_over_images_rows_and_columns(
    batch, channels, multiplier
):
    rng = np.random.default_rng(0)
    x = np.float32(rng.standard_normal((batch, 5, 7, channels)))
    kernel = np.float32(rng.standard_normal((3, 2, 1, channels * multiplier)))
    options = {"stride": (2, 1), "padding": (1, 0), "dilation": (1, 2)}
    y, pull = jax.vjp(jax.jit(partial(ops.depthwise_conv2d, x, **options)), kernel)
    dy = np.float32(rng.standard_normal(y.shape))
    expected = np.zeros(kernel.shape)
    for tap in np.ndindex(3, 2):  # what the output is where one tap alone is 1
        only = np.zeros(kernel.shape)
        only[tap] = 1
        expected[tap][0] = (reference.depthwise_conv2d(x.astype(float), only, **options) * dy).sum((0, 1, 2))
    np.testing.assert_allclose(pull(dy)[0], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("batch", [1, 3, 7])
@pytest.mark.parametrize("height", [23, 24])
@pytest.mark.parametrize(
    "options", [{}, {"stride": (2, 1), "padding": ((3, 0), (1, 1))}, {"stride": (2, 3), "dilation": (2, 1)}]
)
def test_the_kernel_s_gradient_of_few_images_sums_over_bands_of_rows_and_over_those_left(batch, height, options):
    rng = np.random.default_rng(0)
    x = np.float32(rng.standard_normal((batch, height, 5, 8)))
    kernel = np.float32(rng.standard_normal((3, 2, 8, 9)))
    y, pull = jax.vjp(jax.jit(partial(ops.conv2d, x, **options)), kernel)
    dy = np.float32(rng.standard_normal(y.shape))
    expected = np.zeros(kernel.shape)
    for tap in np.ndindex(3, 2):  # the output's channels are those of x where one tap alone is the identity
        only = np.zeros((3, 2, 8, 8))
        only[tap] = np.eye(8)
        seen = reference.conv2d(x.astype(float), only, **options)
        expected[tap] = np.einsum("nijc,nijo->co", seen, dy)
    np.testing.assert_allclose(pull(dy)[0], expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["max_pool2d", "min_pool2d"])
def test_a_window_between_others_may_hold_no_pixel(name):
    """Its taps lie on both sides of the image: the second row and the second column of windows are infinities."""
    x = np.random.default_rng(0).standard_normal((2, 3, 3, 2)).astype(np.float32)
    options = {"window": 2, "stride": 1, "padding": 2, "dilation": 4}
    y = getattr(ops, name)(x, **options)
    assert np.isinf(y[:, 1]).all()
    assert np.isinf(y[:, :, 1]).all()
    np.testing.assert_array_equal(y, getattr(reference_pools, name)(x, **options))
