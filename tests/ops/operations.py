"""Every public operation: valid random calls, its direct reference, and how its numbers may be compared."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
from hypothesis import strategies as st

from cnnjax import geometry, ops
from tests.ops import cases, reference, reference_pools


class Operation(NamedTuple):
    """One operation; functions take the arrays and options of a case by name."""

    name: str
    cases: st.SearchStrategy
    compute: Callable[..., Any]
    reference: Callable[..., Any]
    exact: bool = False  # it moves values and computes none: they are compared bit by bit
    # What rounding errors are relative to: at the absolute values of the arrays, the sum of the absolute products that
    # the operation adds up. By default the reference itself, which is that sum where everything is a sum of products.
    magnitude: Callable[..., Any] | None = None
    signed: bool = False  # `magnitude` takes the arrays as they are: which pixels win depends on their signs
    sizes: Callable[..., tuple[int, int]] | None = None  # output height and width as `geometry` states them
    at_least_float32: bool = False  # of the results' dtype


# ---------------------------------------------------------------- sizes from geometry


def conv_sizes(x, kernel, bias=None, *, stride, padding, dilation, layout="NHWC", **_):
    size, window = (x.shape[2:], kernel.shape[2:]) if layout == "NCHW" else (x.shape[1:3], kernel.shape[:2])
    added = reference.both_sides(padding, size, window, stride, dilation)
    return window_sizes(size, window, stride, added, dilation)


def separable_sizes(x, depthwise, pointwise, bias=None, **options):
    return conv_sizes(x, depthwise, **options)


def window_sizes(size, window, stride, padding, dilation):
    numbers = map(reference.pair, (window, stride, padding, dilation))
    return tuple(
        geometry.conv_output_size(s, k, stride=t, padding=p, dilation=d)
        for s, k, t, p, d in zip(size, *numbers, strict=True)
    )


def transpose_sizes(x, kernel, bias=None, *, stride, padding, dilation, output_padding, **_):
    numbers = map(reference.pair, (stride, padding, dilation, output_padding))
    return tuple(
        geometry.conv_transpose_output_size(s, k, stride=t, padding=p, dilation=d, output_padding=e)
        for s, k, t, p, d, e in zip(x.shape[1:3], kernel.shape[:2], *numbers, strict=True)
    )


def pool_sizes(x, window, stride=None, padding=0, dilation=1, ceil_mode=False, **_):
    if ceil_mode:
        return None
    return window_sizes(x.shape[1:3], window, window if stride is None else stride, padding, dilation)


# ---------------------------------------------------------------- magnitudes


def batch_norm_magnitude(x, mean, var, scale, bias, eps):
    return reference.batch_norm(x, -mean, var, scale, bias, eps=eps)  # |x| + |mean|


def moments_magnitude(x):
    return x.mean((0, 1, 2)), (x * x).mean((0, 1, 2))  # the variance may be taken from squares


def lp_pool_magnitude(x, window, p, stride):
    return (1 + 1 / p) * reference_pools.lp_pool2d(x, window, p, stride=stride)  # the power 1/p, and all before it


def response_magnitude(x, size, alpha, beta, k):
    return x / k**beta  # the largest it can be


def batch_norm_of_moments(x, scale, bias, eps):
    return ops.batch_norm(x, *ops.moments(x), scale, bias, eps=eps)


def reference_batch_norm_of_moments(x, scale, bias, eps):
    return reference.batch_norm(x, *reference.moments(x), scale, bias, eps=eps)


def batch_norm_of_moments_magnitude(x, scale, bias, eps):
    """The variance, and all that is divided by it, has the relative error of the mean square that it is taken from."""
    square, var = (x.real**2).mean((0, 1, 2)), reference.moments(x.real)[1]
    condition = 1 + square / (var + eps)
    return (x + x.mean((0, 1, 2))) / np.sqrt(var + eps) * condition * scale + bias


def group_norm_magnitude(x, groups, scale, bias, eps):
    """As of batch normalisation, over the channel groups of every image."""
    n, h, w, c = x.shape
    split = x.reshape(n, h, w, groups, c // groups)
    square, var = (split.real**2).mean((1, 2, 4), keepdims=True), split.real.var((1, 2, 4), keepdims=True)
    condition = 1 + square / (var + eps)
    y = (split + split.mean((1, 2, 4), keepdims=True)) / np.sqrt(var + eps) * condition
    return y.reshape(x.shape) * scale + bias


def layer_norm_magnitude(x, scale, bias, eps):
    """One group, and every pixel an image."""
    return group_norm_magnitude(x.reshape(-1, 1, 1, x.shape[3]), 1, scale, bias, eps).reshape(x.shape)


def group_normalisation(rng):
    arrays, options = cases.normalisation("scale", "bias")(rng)
    channels = arrays["x"][3]
    return arrays, options | {"groups": cases.pick(rng, [g for g in range(1, channels + 1) if channels % g == 0])}


POOLINGS = cases.cases(cases.pooling(dilation=True, ceil_mode=True))
OPERATIONS = [
    Operation("conv2d", cases.cases(cases.convolution), ops.conv2d, reference.conv2d, sizes=conv_sizes),
    Operation("convolve2d", cases.cases(cases.convolution), ops.convolve2d, reference.convolve2d, sizes=conv_sizes),
    Operation(
        "depthwise_conv2d",
        cases.cases(cases.depthwise_convolution),
        ops.depthwise_conv2d,
        reference.depthwise_conv2d,
        sizes=conv_sizes,
    ),
    Operation(
        "separable_conv2d",
        cases.cases(cases.separable_convolution),
        ops.separable_conv2d,
        reference.separable_conv2d,
        sizes=separable_sizes,
    ),
    Operation(
        "conv_transpose2d",
        cases.cases(cases.transposed_convolution),
        ops.conv_transpose2d,
        reference.conv_transpose2d,
        sizes=transpose_sizes,
    ),
    Operation(
        "max_pool2d", POOLINGS, ops.max_pool2d, reference_pools.max_pool2d, exact=True, signed=True, sizes=pool_sizes
    ),
    Operation(
        "min_pool2d", POOLINGS, ops.min_pool2d, reference_pools.min_pool2d, exact=True, signed=True, sizes=pool_sizes
    ),
    Operation(
        "avg_pool2d",
        cases.cases(cases.pooling(ceil_mode=True, count_include_pad=[True, False])),
        ops.avg_pool2d,
        reference_pools.avg_pool2d,
        sizes=pool_sizes,
    ),
    Operation(
        "lp_pool2d",
        cases.cases(cases.pooling(padding=False, p=[2.0, 1.0, 3.0, 1.5, 0.5])),
        ops.lp_pool2d,
        reference_pools.lp_pool2d,
        magnitude=lp_pool_magnitude,
        sizes=pool_sizes,
    ),
    Operation(
        "max_pool2d_with_indices",
        cases.cases(cases.pooling()),
        ops.max_pool2d_with_indices,
        reference_pools.max_pool2d_with_indices,
        exact=True,
        signed=True,
        sizes=pool_sizes,
    ),
    Operation(
        "max_unpool2d",
        cases.cases(cases.unpooling, cases.indices),
        ops.max_unpool2d,
        reference_pools.max_unpool2d,
        exact=True,
    ),
    Operation(
        "global_avg_pool2d", cases.cases(cases.images()), ops.global_avg_pool2d, reference_pools.global_avg_pool2d
    ),
    Operation(
        "global_max_pool2d",
        cases.cases(cases.images()),
        ops.global_max_pool2d,
        reference_pools.global_max_pool2d,
        exact=True,
        signed=True,
    ),
    Operation(
        "adaptive_avg_pool2d",
        cases.cases(cases.images(output_size=lambda rng: cases.integer_or_pair(rng, 1, 9))),
        ops.adaptive_avg_pool2d,
        reference_pools.adaptive_avg_pool2d,
    ),
    Operation(
        "upsample_nearest",
        cases.cases(cases.images(scale=cases.scales)),
        ops.upsample_nearest,
        reference.upsample_nearest,
        exact=True,
    ),
    Operation(
        "upsample_bilinear",
        cases.cases(cases.images(scale=cases.scales, align_corners=lambda rng: cases.pick(rng, [False, True]))),
        ops.upsample_bilinear,
        reference.upsample_bilinear,
    ),
    Operation(
        "resize_bilinear",
        cases.cases(
            cases.images(
                output_size=lambda rng: cases.integer_or_pair(rng, 1, 9),
                align_corners=lambda rng: cases.pick(rng, [False, True]),
            )
        ),
        ops.resize_bilinear,
        reference.resize_bilinear,
    ),
    Operation(
        "bed_of_nails",
        cases.cases(cases.images(scale=cases.scales)),
        ops.bed_of_nails,
        reference.bed_of_nails,
        exact=True,
    ),
    Operation("pixel_shuffle", cases.cases(cases.shuffle), ops.pixel_shuffle, reference.pixel_shuffle, exact=True),
    Operation(
        "moments",
        cases.cases(cases.normalisation(), cases.about_means),
        ops.moments,
        reference.moments,
        magnitude=moments_magnitude,
        at_least_float32=True,
    ),
    Operation(
        "batch_norm",
        cases.cases(cases.normalisation("mean", "var", "scale", "bias"), cases.about_means),
        ops.batch_norm,
        reference.batch_norm,
        magnitude=batch_norm_magnitude,
    ),
    Operation(
        "batch_norm of moments",
        cases.cases(cases.normalisation("scale", "bias"), cases.about_means),
        batch_norm_of_moments,
        reference_batch_norm_of_moments,
        magnitude=batch_norm_of_moments_magnitude,
    ),
    Operation(
        "group_norm",
        cases.cases(group_normalisation, cases.about_means),
        ops.group_norm,
        reference.group_norm,
        magnitude=group_norm_magnitude,
    ),
    Operation(
        "layer_norm",
        cases.cases(cases.normalisation("scale", "bias"), cases.about_means),
        ops.layer_norm,
        reference.layer_norm,
        magnitude=layer_norm_magnitude,
    ),
    Operation(
        "local_response_norm",
        cases.cases(cases.response),
        ops.local_response_norm,
        reference.local_response_norm,
        magnitude=response_magnitude,
    ),
]
PUBLIC = [operation for operation in OPERATIONS if operation.name in ops.__all__]


def by_name(operation):
    return operation.name


# ---------------------------------------------------------------- running them

PRECISION = {"float32": 1e-5, "float64": 1e-12, "bfloat16": 2**-6}  # bfloat16 keeps 2**-8
# Compiles in a fifth of the time; jaxlib 0.11 has dropped the last option, and always uses the emitters.
QUICK = {"xla_backend_optimization_level": 0, "xla_cpu_parallel_codegen_split_count": 1}
if tuple(map(int, jax.__version__.split(".")[:2])) < (0, 11):
    QUICK["xla_cpu_use_fusion_emitters"] = False


def computed(function, *arrays):
    """`function(*arrays)`, as one program that compiles quickly."""
    return jax.jit(function).lower(*arrays).compile(QUICK)(*arrays)


def values_and_gradients(compute, case, cotangents):
    """A compiled program of such calls: floating results, other results, and gradients by argument.

    One program in ten is compiled as users have it, the others without XLA's optimisations, which take long.
    """

    def run(floats, others, cotangents):
        def results(floats):
            leaves = jax.tree.leaves(compute(**floats, **others, **case.options))
            floating = [leaf for leaf in leaves if jax.numpy.issubdtype(leaf.dtype, jax.numpy.floating)]
            return floating, [leaf for leaf in leaves if not jax.numpy.issubdtype(leaf.dtype, jax.numpy.floating)]

        values, pull, whole = jax.vjp(results, floats, has_aux=True)
        ours, expected = ([(v.shape, v.dtype) for v in side] for side in (values, cotangents))
        assert ours == expected, "shapes and dtypes"
        return values, whole, pull(cotangents)[0]

    def call(function, case, cotangents):
        floats = {name: case.arrays[name].astype(cases.DTYPES[case.dtype]) for name in case.floats}
        others = {name: array for name, array in case.arrays.items() if name not in floats}
        with jax.enable_x64(case.dtype == "float64"):
            return function(floats, others, cotangents)

    quick = cases.stream("compiler", case.seed).integers(10) > 0
    compiled = call(jax.jit(run).lower, case, cotangents).compile(QUICK if quick else None)
    return lambda case, cotangents: jax.tree.map(np.asarray, call(compiled, case, cotangents))
