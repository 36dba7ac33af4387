"""A call of every operation, and of every form that a CPU has for it, for tests of the contexts that JAX offers.

Each is a function of arrays, its shapes with the batch first, and whether it is a weighted sum of the first array.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from cnnjax import ops


class Call(NamedTuple):
    compute: Any
    shapes: tuple[tuple[int, ...], ...]
    linear: bool = True
    cancels: bool = False


def conv(kernel, **options):
    return Call(lambda x, k, b: ops.conv2d(x, k, b, **options), ((8, 7, 8, 4), kernel, kernel[3:]))


def transposed(kernel, **options):
    out = kernel[3] * options.get("groups", 1)
    return Call(lambda x, k, b: ops.conv_transpose2d(x, k, b, **options), ((8, 4, 3, 4), kernel, (out,)))


def of_image(function, shape=(8, 7, 8, 4), linear=True):
    return Call(function, (shape,), linear)


def normalised(x, scale, bias):
    return ops.batch_norm(x, *ops.moments(x), scale, bias)


def unpooled(x):
    y, indices = ops.max_pool2d_with_indices(x, 2)
    return ops.max_unpool2d(y, indices, x.shape[1:3])


VECTORS = ((4,), (4,))
CALLS = {
    "conv 3x3": conv((3, 3, 4, 6), padding=1),
    "conv 3x3, stride 2": conv((3, 3, 4, 6), stride=2, padding=1),
    "conv 3x3, dilation 2": conv((3, 3, 4, 6), dilation=2, padding=2),
    "conv 1x1": conv((1, 1, 4, 6)),
    "conv of few channels, stride 2": Call(
        lambda x, k: ops.conv2d(x, k, stride=2, padding=2), ((8, 9, 10, 3), (5, 5, 3, 16))
    ),
    "conv of one image": Call(lambda x, k: ops.conv2d(x, k, padding=1), ((1, 7, 8, 16), (3, 3, 16, 4))),
    "conv in 2 groups": conv((3, 3, 2, 6), groups=2),
    "conv in 2 groups, stride 2": conv((3, 3, 2, 6), groups=2, stride=2, padding=1),
    "conv, reflected": conv((3, 3, 4, 6), padding=1, padding_mode="reflect"),
    "conv, replicated": conv((5, 5, 4, 6), padding=2, padding_mode="replicate"),
    "conv of NCHW": Call(lambda x, k: ops.conv2d(x, k, padding=1, layout="NCHW"), ((8, 4, 7, 8), (6, 4, 3, 3))),
    "convolve2d": Call(lambda x, k: ops.convolve2d(x, k), ((8, 7, 8, 4), (3, 2, 4, 6))),
    "depthwise 3x3": conv((3, 3, 1, 4), groups=4, padding=1),
    "depthwise 5x5, stride 2, 2 outputs": conv((5, 5, 1, 8), groups=4, stride=2, padding=2),
    "separable": Call(
        lambda x, d, p: ops.separable_conv2d(x, d, p, padding=1), ((8, 7, 8, 4), (3, 3, 1, 4), (1, 1, 4, 6))
    ),
    "transposed 2x2, stride 2": transposed((2, 2, 4, 6), stride=2),
    "transposed 3x3, stride 2": transposed((3, 3, 4, 6), stride=2, padding=1, output_padding=1),
    "transposed 3x3, stride 2, many channels": Call(
        lambda x, k: ops.conv_transpose2d(x, k, stride=2), ((8, 3, 3, 2), (3, 3, 2, 32))
    ),
    "transposed in 2 groups": transposed((3, 3, 4, 3), groups=2),
    "max 2x2": of_image(lambda x: ops.max_pool2d(x, 2), linear=False),
    "max 3x3, stride 2": of_image(lambda x: ops.max_pool2d(x, 3, stride=2, padding=1), linear=False),
    "max 5x5, stride 1": of_image(lambda x: ops.max_pool2d(x, 5, stride=1), linear=False),
    "max, dilation 2": of_image(lambda x: ops.max_pool2d(x, 2, stride=1, dilation=2), linear=False),
    "min 3x3, stride 2": of_image(lambda x: ops.min_pool2d(x, 3, stride=2), linear=False),
    "average 2x2": of_image(lambda x: ops.avg_pool2d(x, 2)),
    "average 3x3, stride 1, not the padding": of_image(
        lambda x: ops.avg_pool2d(x, 3, stride=1, padding=1, count_include_pad=False)
    ),
    "average 4x5, stride 3": of_image(lambda x: ops.avg_pool2d(x, (4, 5), stride=3)),
    "lp 2x2": of_image(lambda x: ops.lp_pool2d(x, 2), linear=False),
    "global average": of_image(ops.global_avg_pool2d),
    "global maximum": of_image(ops.global_max_pool2d, linear=False),
    "adaptive, bins that divide": of_image(lambda x: ops.adaptive_avg_pool2d(x, (7, 4))),
    "adaptive, bins that overlap": of_image(lambda x: ops.adaptive_avg_pool2d(x, (3, 5))),
    "adaptive, more bins than pixels": of_image(lambda x: ops.adaptive_avg_pool2d(x, 10)),
    "nearest": of_image(lambda x: ops.upsample_nearest(x, (2, 3))),
    "bilinear x2": of_image(lambda x: ops.upsample_bilinear(x, 2)),
    "bilinear x3": of_image(lambda x: ops.upsample_bilinear(x, 3)),
    "bilinear x2, aligned": of_image(lambda x: ops.upsample_bilinear(x, 2, align_corners=True)),
    "resized": of_image(lambda x: ops.resize_bilinear(x, (10, 5))),
    "resized, aligned": of_image(lambda x: ops.resize_bilinear(x, (4, 22), align_corners=True)),
    "bed of nails": of_image(lambda x: ops.bed_of_nails(x, 2)),
    "pixel shuffle": of_image(lambda x: ops.pixel_shuffle(x, 2)),
    "unpooled": of_image(unpooled, (8, 6, 8, 4), linear=False),
    "batch norm": Call(normalised, ((8, 7, 8, 4), *VECTORS), False, True),
    "group norm": Call(lambda x, s, b: ops.group_norm(x, 2, s, b), ((8, 7, 8, 4), *VECTORS), False, True),
    "layer norm": Call(ops.layer_norm, ((8, 7, 8, 4), *VECTORS), False, True),
    "local response": of_image(lambda x: ops.local_response_norm(x, 3), (8, 3, 4, 8), linear=False),
}


def arrays_of(call, dtype=np.float32, low=-1.0, high=1.0, shapes=None):
    rng = np.random.default_rng(0)
    return tuple(jnp.asarray(rng.uniform(low, high, shape), dtype) for shape in shapes or call.shapes)


def with_gradients(call):
    """The call as a function of arrays and a cotangent that returns its value and the gradient of every array."""

    def compute(arrays, cotangent):
        value, pull = jax.vjp(call.compute, *arrays)
        return value, pull(cotangent.astype(value.dtype))

    return compute


def cotangent_of(call, arrays, low=-1.0, high=1.0):
    value = jax.eval_shape(call.compute, *arrays)
    return jnp.asarray(np.random.default_rng(1).uniform(low, high, value.shape), value.dtype)
