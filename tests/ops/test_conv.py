"""conv2d by example, and its messages; `test_properties` compares it with a direct sum."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cnnjax import ops
from cnnjax.ops.conv_primitives import reference_forward, reference_input_gradient, reference_kernel_gradient
from cnnjax.ops.cpu import conv
from tests.ops.operations import computed

SIDES = ((2, 1), (0, 3))
FORMS = [  # image, kernel, stride, sides: where the CPU's forms differ
    ((9, 13, 14, 3), (5, 5, 3, 4), (2, 2), SIDES),  # phases as channels
    ((2, 24, 20, 3), (4, 4, 3, 5), (4, 4), ((0, 0), (0, 0))),
    ((2, 12, 9, 7), (7, 7, 7, 2), (2, 1), SIDES),
    ((1, 17, 19, 3), (5, 5, 3, 2), (6, 6), SIDES),
    ((8, 30, 30, 1), (11, 11, 1, 3), (4, 4), SIDES),
    ((3, 4, 4, 5), (3, 3, 5, 32), (1, 1), SIDES),  # few pixels a channel
    ((9, 5, 7, 40), (3, 3, 40, 33), (2, 2), ((1, 1), (1, 1))),
    ((8, 9, 10, 3), (9, 9, 3, 16), (1, 1), ((0, 0), (0, 0))),  # few, of too many taps
    ((8, 9, 9, 17), (1, 1, 17, 6), (2, 2), ((0, 0), (0, 0))),
]


@pytest.mark.parametrize(("image", "kernel", "stride", "sides"), FORMS)
def test_the_cpu_s_forms_as_users_have_them_compiled_are_lax_s(image, kernel, stride, sides):
    rng = np.random.default_rng(0)
    x, weights = (np.float32(rng.standard_normal(shape)) for shape in (image, kernel))
    params = {"stride": stride, "padding": sides, "dilation": (1, 1), "groups": 1}
    y = jax.eval_shape(partial(reference_forward, **params), x, weights)
    dy = np.float32(rng.standard_normal(y.shape))

    def all_three(forward, input_gradient, kernel_gradient):
        return lambda x, weights, dy: {
            "forward": forward(x, weights, **params),
            "input gradient": input_gradient(dy, weights, input_size=image[1:3], **params),
            "kernel gradient": kernel_gradient(x, dy, kernel_size=kernel[:2], **params),
        }

    ours = jax.jit(all_three(conv.forward, conv.input_gradient, conv.kernel_gradient))(x, weights, dy)
    references = reference_forward, reference_input_gradient, reference_kernel_gradient
    for name, expected in computed(all_three(*references), x, weights, dy).items():
        atol = 1e-4 * float(abs(expected).max())
        np.testing.assert_allclose(ours[name], expected, rtol=1e-4, atol=atol, err_msg=name)


@pytest.mark.parametrize(
    ("name", "expected"), [("VALID", (3, 3)), ("SAME", (4, 4)), ("HALF", (4, 4)), ("FULL", (5, 5))]
)
def test_named_paddings_have_their_sizes(name, expected):
    x, kernel = jnp.ones((1, 7, 7, 1)), jnp.ones((3, 3, 1, 1))
    assert ops.conv2d(x, kernel, stride=2, padding=name).shape[1:3] == expected


def test_same_padding_puts_the_odd_pixel_after():
    x, kernel = jnp.ones((1, 4, 4, 1)), jnp.ones((2, 2, 1, 1))
    np.testing.assert_array_equal(ops.conv2d(x, kernel, padding="SAME")[0, :, :, 0][-1], [2, 2, 2, 1])


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
    hessian = jax.jit(jax.hessian(lambda k: (ops.conv2d(x, k) ** 2).sum()))(kernel)
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
        (
            lambda: ops.conv2d(X[..., :3], K),
            "x has 3 channels in groups=1: expected x of 4 channels, or a kernel that takes 3",
        ),
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


def test_depthwise_takes_nchw_and_separable_refuses_it():
    x, kernel = jnp.arange(36.0).reshape(1, 3, 4, 3), jnp.arange(24.0).reshape(2, 2, 1, 6)
    nchw = ops.depthwise_conv2d(x.transpose(0, 3, 1, 2), kernel.transpose(3, 2, 0, 1), layout="NCHW")
    np.testing.assert_allclose(nchw.transpose(0, 2, 3, 1), ops.depthwise_conv2d(x, kernel))
    with pytest.raises(ValueError, match=r"layout must be one of \('NHWC',\), got 'NCHW'"):
        ops.separable_conv2d(x, kernel, jnp.ones((1, 1, 6, 2)), layout="NCHW")
