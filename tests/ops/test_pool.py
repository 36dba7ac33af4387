"""max_pool2d against a direct loop, ties and NaN as torch, and its messages."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cnnjax import ops
from cnnjax.ops import extremes
from cnnjax.ops.windows import pool_axes
from tests.ops import reference


@st.composite
def poolings(draw, largest=5):
    """Random images of few distinct values (ties are common), and pooling arguments that fit."""
    window = draw(st.tuples(st.integers(1, largest), st.integers(1, largest)))
    dilation = draw(st.tuples(st.integers(1, 2), st.integers(1, 2)))
    stride = draw(st.tuples(st.integers(1, 4), st.integers(1, 4)))
    extent = [d * (k - 1) + 1 for k, d in zip(window, dilation, strict=True)]
    padding = tuple(draw(st.integers(0, e // 2)) for e in extent)
    size = [draw(st.integers(max(1, e - 2 * p), 10)) for e, p in zip(extent, padding, strict=True)]
    x = np.random.default_rng(draw(st.integers(0, 2**31))).integers(-2, 3, (2, *size, 2)).astype(np.float32)
    options = {"stride": stride, "padding": padding, "dilation": dilation, "ceil_mode": draw(st.booleans())}
    return x, window, options


@settings(max_examples=60, deadline=None)
@given(poolings())
def test_max_pool2d_and_its_gradient_are_the_direct_loop(case):
    x, window, options = case
    expected, gradient = reference.max_pool2d(x, window, **options)
    np.testing.assert_array_equal(ops.max_pool2d(x, window, **options), expected)
    ours = jax.grad(lambda x: jnp.where(jnp.isinf(y := ops.max_pool2d(x, window, **options)), 0, y).sum())(x)
    np.testing.assert_array_equal(ours, gradient)


@settings(max_examples=20, deadline=None)
@given(poolings(largest=3))
def test_slices_and_reduce_window_agree(case):
    x, window, options = case
    rows, columns = pool_axes(jnp.asarray(x), window, *options.values())
    np.testing.assert_array_equal(
        extremes.extreme_by_slices(x, rows, columns, extremes.MAXIMUM),
        extremes.extreme_by_reduce_window(jnp.asarray(x), rows, columns, extremes.MAXIMUM),
    )


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
    hessian = jax.hessian(lambda x: (ops.max_pool2d(x, 2) ** 3).sum() / 6)(x).reshape(16, 16)
    winners = np.array([5, 7, 13, 15])
    expected = np.zeros((16, 16))
    expected[winners, winners] = winners
    np.testing.assert_allclose(hessian, expected)


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
