"""conv2d against a direct float64 loop, its gradients against the loop's own linearity, and its messages."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cnnjax import ops
from tests.ops import reference


@st.composite
def convolutions(draw):
    """A random convolution that fits: arguments for numpy and for conv2d."""
    pairs = st.tuples(st.integers(1, 3), st.integers(1, 3))
    window, stride, dilation = draw(pairs), draw(pairs), draw(st.tuples(st.integers(1, 2), st.integers(1, 2)))
    sides = draw(st.tuples(*[st.tuples(st.integers(0, 2), st.integers(0, 2))] * 2))
    size = [
        draw(st.integers(max(1, d * (k - 1) + 1 - sum(side)), 8))
        for k, d, side in zip(window, dilation, sides, strict=True)
    ]
    groups = draw(st.sampled_from([1, 1, 2, 3]))
    channels, outs = groups * draw(st.integers(1, 3)), groups * draw(st.integers(1, 3))
    seed = draw(st.integers(0, 2**31))
    rng = np.random.default_rng(seed)
    x = rng.standard_normal(
        (draw(st.sampled_from([1, 2, 8])), *size, channels)
    )  # from 8 on gradients take another form
    kernel = rng.standard_normal((*window, channels // groups, outs))
    return x, kernel, {"stride": stride, "padding": sides, "dilation": dilation, "groups": groups}


@settings(max_examples=60, deadline=None)
@given(convolutions())
def test_conv2d_is_the_direct_sum_and_its_gradients_are_the_adjoint(case):
    x, kernel, options = case
    expected = reference.conv2d(
        x, kernel, options["stride"], options["padding"], options["dilation"], options["groups"]
    )
    y, pull = jax.vjp(lambda x, k: ops.conv2d(x, k, **options), jnp.float32(x), jnp.float32(kernel))
    np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-5 * np.abs(expected).max())
    # conv2d is linear in x and in the kernel, so <g, conv(u, k)> = <pull_x(g), u> for every u: checked in float64.
    rng = np.random.default_rng(0)
    g, u, v = (rng.standard_normal(shape) for shape in (expected.shape, x.shape, kernel.shape))
    grad_x, grad_kernel = pull(jnp.float32(g))
    for gradient, direction, moved in ((grad_x, u, (u, kernel)), (grad_kernel, v, (x, v))):
        y_moved = reference.conv2d(
            *moved, options["stride"], options["padding"], options["dilation"], options["groups"]
        )
        scale = np.abs(g).ravel() @ np.abs(y_moved).ravel()
        np.testing.assert_allclose((gradient * direction).sum(), (g * y_moved).sum(), atol=1e-5 * scale)


@pytest.mark.parametrize(
    ("name", "expected"), [("VALID", (3, 3)), ("SAME", (4, 4)), ("HALF", (4, 4)), ("FULL", (5, 5))]
)
def test_named_paddings_have_their_sizes(name, expected):
    x, kernel = jnp.ones((1, 7, 7, 1)), jnp.ones((3, 3, 1, 1))
    assert ops.conv2d(x, kernel, stride=2, padding=name).shape[1:3] == expected


def test_same_padding_puts_the_odd_pixel_after():
    x, kernel = jnp.ones((1, 4, 4, 1)), jnp.ones((2, 2, 1, 1))
    np.testing.assert_array_equal(ops.conv2d(x, kernel, padding="SAME")[0, :, :, 0][-1], [2, 2, 2, 1])


@pytest.mark.parametrize(("mode", "numpy_mode"), [("reflect", "reflect"), ("replicate", "edge"), ("circular", "wrap")])
def test_padding_modes_extend_the_image_by_its_own_pixels(mode, numpy_mode):
    rng = np.random.default_rng(0)
    x, kernel = rng.standard_normal((2, 5, 6, 3)), rng.standard_normal((3, 3, 3, 4))
    padded = np.pad(x, ((0, 0), (2, 1), (0, 3), (0, 0)), mode=numpy_mode)
    expected = reference.conv2d(padded, kernel, (1, 1), ((0, 0), (0, 0)), (1, 1), 1)
    y = ops.conv2d(jnp.float32(x), jnp.float32(kernel), padding=((2, 1), (0, 3)), padding_mode=mode)
    np.testing.assert_allclose(y, expected, rtol=1e-4, atol=1e-4)


def test_nchw_gives_the_same_numbers():
    rng = np.random.default_rng(0)
    x, kernel = jnp.float32(rng.standard_normal((2, 5, 6, 4))), jnp.float32(rng.standard_normal((3, 2, 2, 6)))
    bias = jnp.arange(6.0)
    nhwc = ops.conv2d(x, kernel, bias, groups=2, stride=2, padding=1)
    nchw = ops.conv2d(
        x.transpose(0, 3, 1, 2), kernel.transpose(3, 2, 0, 1), bias, groups=2, stride=2, padding=1, layout="NCHW"
    )
    np.testing.assert_allclose(nchw.transpose(0, 2, 3, 1), nhwc, rtol=1e-6)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_the_float_dtype_is_kept(dtype):
    x = jnp.ones((1, 4, 4, 2), dtype)
    assert ops.conv2d(x, jnp.ones((3, 3, 2, 3)), jnp.ones(3)).dtype == x.dtype


def test_works_under_vmap_jvp_and_hessian():
    x, kernel = jnp.arange(16.0).reshape(1, 4, 4, 1), jnp.ones((3, 3, 1, 1))
    batched = jax.vmap(ops.conv2d, (None, 0))(x, jnp.stack([kernel, 2 * kernel]))
    np.testing.assert_allclose(batched[1], 2 * batched[0])
    _, tangent = jax.jvp(lambda x: ops.conv2d(x, kernel), (x,), (jnp.ones_like(x),))
    np.testing.assert_allclose(tangent, 9 * jnp.ones((1, 2, 2, 1)))
    hessian = jax.hessian(lambda k: (ops.conv2d(x, k) ** 2).sum())(kernel)
    patches = np.stack([x[0, i : i + 3, j : j + 3, 0].ravel() for i in range(2) for j in range(2)])
    np.testing.assert_allclose(hessian.reshape(9, 9), 2 * patches.T @ patches, rtol=1e-5)


X, K = jnp.ones((2, 5, 5, 4)), jnp.ones((3, 3, 4, 8))


@pytest.mark.parametrize("transform", [lambda f: f, jax.jit])
@pytest.mark.parametrize(
    ("call", "named"),
    [
        (lambda: ops.conv2d(X[0], K), r"x must have 4 axes .* got shape \(5, 5, 4\)"),
        (lambda: ops.conv2d(X.astype(int), K), "x must be floating point, got int32"),
        (lambda: ops.conv2d(X, K[0]), "kernel must have 4 axes"),
        (lambda: ops.conv2d(X[..., :3], K), "x has 3 channels in groups=1: expected 3"),
        (lambda: ops.conv2d(X, K, groups=3), "not divisible by groups=3"),
        (lambda: ops.conv2d(X, K, groups=0), "groups must be at least 1, got 0"),
        (lambda: ops.conv2d(X, K, stride=0), "stride must be at least 1, got 0"),
        (lambda: ops.conv2d(X, K, stride=1.5), "stride must be an integer, got 1.5"),
        (lambda: ops.conv2d(X, K, dilation=(1, -1)), "dilation must be at least 1, got -1"),
        (lambda: ops.conv2d(X, K, stride=(1, 2, 3)), "stride must be an integer or a pair"),
        (lambda: ops.conv2d(X, K, padding=-1), "padding must be at least 0, got -1"),
        (lambda: ops.conv2d(X, K, padding="SOME"), "padding must be .* got 'SOME'"),
        (lambda: ops.conv2d(X, K, dilation=3), "the window spans 7 pixels"),
        (lambda: ops.conv2d(X, K, padding_mode="mirror", padding=1), "padding_mode must be one of"),
        (lambda: ops.conv2d(X, K, padding_mode="reflect", padding=5), "allows at most 4"),
        (lambda: ops.conv2d(X, K, layout="CHWN"), "layout must be one of"),
        (lambda: ops.conv2d(X, K, jnp.ones(3)), r"bias must have shape \(8,\)"),
    ],
)
def test_wrong_arguments_are_named(transform, call, named):
    with pytest.raises(ValueError, match=named):
        transform(call)()
