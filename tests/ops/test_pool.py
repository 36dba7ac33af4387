"""max_pool2d by example, and its messages; `test_properties` compares it with a direct loop."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings

from cnnjax import ops
from cnnjax.ops.axes import pool_axes
from cnnjax.ops.cpu.extremes import MAXIMUM, extremes
from cnnjax.ops.pool import reduce_window
from tests.ops import cases
from tests.ops.operations import computed


@settings(max_examples=20, deadline=None)
@given(cases.cases(cases.pooling(ceil_mode=True)))  # windows with gaps are slices everywhere
def test_slices_and_reduce_window_agree(case):
    x = np.float32(case.arrays["x"])
    rows, columns = pool_axes(x, **case.options)
    ours, expected = computed(
        lambda x: (
            extremes(x, rows, columns, MAXIMUM),
            reduce_window(x, rows, columns, MAXIMUM.worst, MAXIMUM.keep),
        ),
        x,
    )
    np.testing.assert_array_equal(ours, expected)


def test_the_lecture_example():
    x = jnp.array([[1, 3, 6, 2], [9, 5, 6, 5], [9, 1, 1, 2], [0, 2, 8, 2]], float)[None, :, :, None]
    np.testing.assert_array_equal(ops.max_pool2d(x, 2)[0, :, :, 0], [[9, 6], [9, 8]])


def test_nan_propagates():
    x = jnp.ones((1, 2, 2, 1)).at[0, 1, 0, 0].set(jnp.nan)
    assert jnp.isnan(ops.max_pool2d(x, 2)).all()


def test_works_under_vmap_jvp_and_second_derivatives():
    x = jnp.arange(16.0).reshape(1, 4, 4, 1)
    np.testing.assert_array_equal(
        jax.vmap(lambda x: ops.max_pool2d(x, 2))(jnp.stack([x, -x])),
        jnp.stack([ops.max_pool2d(x, 2), ops.max_pool2d(-x, 2)]),
    )
    _, tangent = jax.jvp(lambda x: ops.max_pool2d(x, 2), (x,), (x**2,))
    np.testing.assert_array_equal(tangent, ops.max_pool2d(x, 2) ** 2)
    hessian = jax.jit(jax.hessian(lambda x: (ops.max_pool2d(x, 2) ** 3).sum() / 6))(x).reshape(16, 16)
    winners = np.array([5, 7, 13, 15])
    expected = np.zeros((16, 16))
    expected[winners, winners] = winners
    np.testing.assert_allclose(hessian, expected)


def test_a_window_beyond_any_image_is_cut_to_the_padded_image():
    """Its taps were once counted one by one: a window of a billion took minutes."""
    x = jnp.arange(50.0).reshape(1, 5, 5, 2)
    huge = {"window": 10**9, "padding": 1, "ceil_mode": True}
    np.testing.assert_array_equal(ops.max_pool2d(x, **huge), ops.global_max_pool2d(x)[:, None, None])
    np.testing.assert_allclose(ops.avg_pool2d(x, **huge), x.sum((1, 2), keepdims=True) / 49, rtol=1e-6)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_float_dtype_is_kept(dtype):
    assert ops.max_pool2d(jnp.ones((1, 4, 4, 2), dtype), 2).dtype == dtype


X = jnp.ones((2, 5, 5, 4))


@pytest.mark.parametrize(
    ("call", "named"),
    [
        (lambda: ops.max_pool2d(X[0], 2), "x must have 4 axes"),
        (lambda: ops.max_pool2d(X.astype(int), 2), "x must be floating point"),
        (lambda: ops.max_pool2d(X, 0), "window must be at least 1, got 0"),
        (lambda: ops.max_pool2d(X, 2, stride=0), "stride must be at least 1, got 0"),
        (lambda: ops.max_pool2d(X, 2, padding=2), "padding must be at most half the window's 2 pixels, 1, got 2"),
        (lambda: ops.max_pool2d(X, 6), "the window spans 6 pixels"),
        (lambda: ops.max_pool2d(X, 2, dilation=0), "dilation must be at least 1, got 0"),
    ],
)
def test_wrong_arguments_are_named(call, named):
    with pytest.raises(ValueError, match=named):
        call()
