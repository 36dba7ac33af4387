"""What needs no library to check: adjoints, definitions, and derivatives of every order."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, PartitionSpec

from cnnjax import geometry, ops
from tests.ops import reference_pools
from tests.ops.operations import computed


def normal(seed, shape):
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape), jnp.float32)


X = normal(0, (2, 6, 8, 4))
KERNEL = normal(1, (3, 2, 4, 6))


def test_convolve2d_is_the_sum_over_shifted_images():
    x, kernel = X[:1, :, :, :1], KERNEL[:, :, :1, :1]
    y = ops.convolve2d(x, kernel, padding="FULL")
    expected = np.zeros((8, 9))
    for a in range(3):
        for b in range(2):
            expected[a : a + 6, b : b + 8] += kernel[a, b, 0, 0] * x[0, :, :, 0]
    np.testing.assert_allclose(y[0, :, :, 0], expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("stride", [1, 2, (1, 3)])
@pytest.mark.parametrize("padding", [0, 1])
@pytest.mark.parametrize("groups", [1, 2])
def test_conv_transpose2d_is_the_gradient_of_conv2d(stride, padding, groups):
    kernel = KERNEL[:, :, : 4 // groups]

    def conv(x):
        return ops.conv2d(x, kernel, stride=stride, padding=padding, groups=groups)

    y = normal(2, jax.eval_shape(conv, X).shape)
    strides = stride if isinstance(stride, tuple) else (stride, stride)
    extra = tuple(
        size - geometry.conv_transpose_output_size(out, k, stride=s, padding=padding)
        for size, out, k, s in zip((6, 8), y.shape[1:3], (3, 2), strides, strict=True)
    )
    options = {"stride": stride, "padding": padding, "output_padding": extra, "groups": groups}
    backward, gradient = computed(
        lambda y: (ops.conv_transpose2d(y, kernel.swapaxes(2, 3), **options), jax.vjp(conv, X)[1](y)[0]), y
    )
    np.testing.assert_allclose(backward, gradient, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
@pytest.mark.parametrize("p", [0.5, 1.5, 3.0])
def test_lp_pool_rounds_once_in_half_precision(dtype, p):
    x = jnp.asarray(np.random.default_rng(0).standard_normal((2, 8, 8, 16)) * 100, dtype)  # 100 ** 3 is beyond float16
    expected = reference_pools.lp_pool2d(np.asarray(x, float), 2, p)
    mine = np.asarray(ops.lp_pool2d(x, 2, p), float)
    np.testing.assert_allclose(mine, expected, rtol=1.01 * float(jnp.finfo(dtype).eps) / 2)


def test_lp_pool_has_a_finite_gradient_at_zero():
    for p in (1.0, 2.0, 3.0):
        gradient = jax.jit(jax.grad(lambda x, p=p: ops.lp_pool2d(x, 2, p).sum()))(jnp.zeros((1, 4, 4, 1)))
        np.testing.assert_array_equal(gradient, 0)


def test_unpooling_puts_maxima_back_in_their_places():
    y, indices = ops.max_pool2d_with_indices(X, 2)
    restored = ops.max_unpool2d(y, indices, (6, 8))
    np.testing.assert_array_equal(jnp.where(restored != 0, X, 0), restored)
    np.testing.assert_array_equal(ops.max_pool2d(jnp.where(restored != 0, restored, -jnp.inf), 2), y)


def test_batch_norm_variance_survives_a_large_mean():
    x = 1000 + X
    mean, var = ops.moments(x)
    np.testing.assert_allclose(var, np.asarray(x, np.float64).var((0, 1, 2)), rtol=1e-3)
    np.testing.assert_allclose(mean, np.asarray(x, np.float64).mean((0, 1, 2)), rtol=1e-6)


OPERATIONS = {
    "conv2d": lambda x: ops.conv2d(x, KERNEL, stride=2, padding=1),
    "depthwise": lambda x: ops.depthwise_conv2d(x, KERNEL[:, :, :1, :4], stride=(1, 2)),
    "grouped": lambda x: ops.conv2d(x, KERNEL[:, :, :2], groups=2, dilation=2),
    "transposed": lambda x: ops.conv_transpose2d(x, KERNEL, stride=2, padding=1),
    "max": lambda x: ops.max_pool2d(x, 3, stride=2, padding=1),
    "min": lambda x: ops.min_pool2d(x, (4, 3), stride=2),
    "average": lambda x: ops.avg_pool2d(x, 3, stride=2, padding=1),
    "lp": lambda x: ops.lp_pool2d(x, 2, 3.0),
    "global average": ops.global_avg_pool2d,
    "global max": ops.global_max_pool2d,
    "adaptive": lambda x: ops.adaptive_avg_pool2d(x, (4, 3)),
    "nearest": lambda x: ops.upsample_nearest(x, 2),
    "bilinear": lambda x: ops.upsample_bilinear(x, 2),
    "bilinear, corners": lambda x: ops.upsample_bilinear(x, 2, align_corners=True),
    "nails": lambda x: ops.bed_of_nails(x, 2),
    "shuffle": lambda x: ops.pixel_shuffle(x, 2),
    "batch norm": lambda x: ops.batch_norm(x, *ops.moments(x), jnp.ones(4), jnp.zeros(4)),
    "response norm": lambda x: ops.local_response_norm(x, 3, 0.5),
    "unpool": lambda x: ops.max_unpool2d(*ops.max_pool2d_with_indices(x, 2), (6, 8)),
}


@pytest.mark.parametrize("name", OPERATIONS)
def test_forward_reverse_and_second_derivatives_agree(name):
    """<pull(g), v> = <g, push(v)>; and the Hessian of sum(f(x)^2) times v, forward over reverse, is its transpose."""
    operation = OPERATIONS[name]
    direction = normal(5, X.shape)
    seed = normal(6, jax.eval_shape(operation, X).shape)

    def derivatives(x, direction, seed):
        _, push = jax.jvp(operation, (x,), (direction,))
        (pulled,) = jax.vjp(operation, x)[1](seed)
        gradient = jax.grad(lambda x: (operation(x) ** 2).sum())
        _, curvature = jax.jvp(gradient, (x,), (direction,))
        (transposed,) = jax.vjp(gradient, x)[1](direction)  # the Hessian is symmetric
        return push, pulled, curvature, transposed

    push, pulled, curvature, transposed = computed(derivatives, X, direction, seed)
    scale = float(jnp.linalg.norm(seed) * jnp.linalg.norm(push))
    assert abs(float((pulled * direction).sum() - (seed * push).sum())) <= 1e-5 * scale + 1e-6
    np.testing.assert_allclose(transposed, curvature, rtol=1e-3, atol=1e-3 * float(jnp.abs(curvature).max()) + 1e-6)


@pytest.mark.parametrize("name", OPERATIONS)
def test_vmap_is_a_loop_and_the_dtype_is_kept(name):
    operation = OPERATIONS[name]
    both = jnp.stack([X, jnp.flip(X, 1)])
    mapped, *alone = computed(lambda both: (jax.vmap(operation)(both), *map(operation, both)), both)
    np.testing.assert_allclose(mapped, jnp.stack(alone), rtol=1e-4, atol=1e-4)
    assert jax.eval_shape(operation, X.astype(jnp.bfloat16)).dtype == jnp.bfloat16


def test_vmap_over_kernels_and_their_gradients():
    kernels = jnp.stack([KERNEL, 2 * KERNEL, -KERNEL])
    xs = jnp.stack([X, X + 1, X - 1])

    def loss(x, kernel):
        return (ops.conv2d(x, kernel, stride=2, padding=1) ** 2).sum()

    gradients = jax.grad(loss, (0, 1))
    together, *alone = computed(
        lambda xs, kernels: (jax.vmap(gradients)(xs, kernels), *map(gradients, xs, kernels)), xs, kernels
    )
    for number, expected in enumerate(alone):
        for ours, theirs in zip(together, expected, strict=True):
            np.testing.assert_allclose(ours[number], theirs, rtol=1e-3, atol=1e-3)


def test_a_replicated_kernel_s_gradient_is_summed_over_the_replicas():
    """Under `shard_map` with its check of varying axes, as without a mesh."""
    mesh = Mesh(np.array(jax.local_devices()[:2]), ("data",))

    def loss(x, kernel):
        return (ops.conv2d(x, kernel, stride=2) ** 2).sum()

    replica = jax.grad(loss, (0, 1))
    split, whole = PartitionSpec("data"), PartitionSpec()
    mapped = jax.jit(jax.shard_map(replica, mesh=mesh, in_specs=(split, whole), out_specs=(split, whole)))
    for ours, alone in zip(mapped(X, KERNEL), computed(replica, X, KERNEL), strict=True):
        np.testing.assert_allclose(ours, alone, rtol=1e-4, atol=1e-4)


def test_an_output_pixel_may_lie_beyond_a_crop_of_the_whole_input():
    """Stride 4 over a 1-pixel kernel leaves phases whose window starts past the input."""
    x = jnp.arange(2.0).reshape(1, 1, 2, 1)
    kernel = jnp.ones((1, 2, 1, 1))
    y = ops.conv_transpose2d(x, kernel, stride=(1, 4), padding=(0, 1), output_padding=(0, 3), dilation=(1, 3))
    full = np.zeros(4 + 3 + 1 + 3)
    for pixel, value in ((0, 0.0), (1, 1.0)):
        for tap in (0, 1):
            full[4 * pixel + 3 * tap] += value
    np.testing.assert_array_equal(y[0, 0, :, 0], full[1:-1])


@pytest.mark.parametrize(
    ("call", "named"),
    [
        (lambda: ops.conv_transpose2d(X, KERNEL[:, :, :3]), "takes 3 channels, but x has 4"),
        (lambda: ops.conv_transpose2d(X, KERNEL, stride=2, output_padding=2), "output_padding"),
        (lambda: ops.conv_transpose2d(X, KERNEL, padding=9), "leaves no output"),
        (lambda: ops.conv_transpose2d(X, KERNEL, groups=3), "not divisible by groups=3"),
        (lambda: ops.conv_transpose2d(X, KERNEL, jnp.ones(5)), "bias must have shape"),
        (lambda: ops.depthwise_conv2d(X, KERNEL), "not divisible by groups=4"),
        (lambda: ops.lp_pool2d(X, 2, 0.0), "p must be positive"),
        (lambda: ops.avg_pool2d(X, 2, padding=2), "padding must be at most half"),
        (lambda: ops.adaptive_avg_pool2d(X, 0), "output_size must be at least 1"),
        (lambda: ops.upsample_nearest(X, 0), "scale must be at least 1"),
        (lambda: ops.upsample_bilinear(X, 1.5), "scale must be an integer"),
        (lambda: ops.pixel_shuffle(X, 3), "not divisible by the 9 pixels"),
        (lambda: ops.batch_norm(X, *[jnp.ones(3)] * 4), r"mean must have shape \(4,\)"),
        (lambda: ops.batch_norm(X, *[jnp.ones(4)] * 4, eps=0), "eps must be positive"),
        (lambda: ops.local_response_norm(X, 0), "size must be at least 1"),
        (lambda: ops.max_unpool2d(X, jnp.zeros(3, int), 4), "indices must be integers of y's shape"),
        (lambda: ops.max_unpool2d(X, jnp.full(X.shape, 99), 4), "indices must lie in a plane"),
        (lambda: ops.global_avg_pool2d(X[0]), "x must have 4 axes"),
        (lambda: ops.bed_of_nails(X.astype(int), 2), "x must be floating point"),
    ],
)
def test_wrong_arguments_are_named(call, named):
    with pytest.raises(ValueError, match=named):
        call()
