"""The comparisons of `bench ops`: a primitive of ours, plain lax as Flax calls it, and torch's."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from cnnjax import ops
from cnnjax.ops.conv_primitives import reference_input_gradient
from experiments.bench import boxes

Function = Callable[..., Any]


class Row(NamedTuple):
    """One comparison: functions of the same arrays, image first, and whether it counts in the geometric mean."""

    name: str
    shapes: tuple[tuple[int, ...], ...]
    ours: Function
    plain: Function
    torch: Callable[[Any], Function]  # given torch.nn.functional
    counts: bool = False


def _conv(name: str, image: Sequence[int], kernel: Sequence[int], counts: bool = False, **options: Any) -> Row:
    stride, padding = options.get("stride", 1), options.get("padding", 0)
    dilation, groups = options.get("dilation", 1), options.get("groups", 1)
    return Row(
        f"conv {name}",
        (tuple(image), tuple(kernel)),
        lambda x, k: ops.conv2d(x, k, **options),
        lambda x, k: lax.conv_general_dilated(
            x,
            k,
            (stride, stride),
            [(padding, padding)] * 2,
            rhs_dilation=(dilation, dilation),
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
            feature_group_count=groups,
        ),
        lambda F: lambda x, k: F.conv2d(x, k, None, stride, padding, dilation, groups),  # noqa: N803
        counts,
    )


def _transposed(
    name: str, image: Sequence[int], kernel: Sequence[int], stride: int, padding: int, extra: int = 0
) -> Row:
    sizes = [(size - 1) * stride - 2 * padding + k + extra for size, k in zip(image[1:3], kernel[:2], strict=True)]
    return Row(
        f"transposed {name}",
        (tuple(image), tuple(kernel)),
        lambda x, k: ops.conv_transpose2d(x, k, stride=stride, padding=padding, output_padding=extra),
        lambda x, k: reference_input_gradient(
            x,
            k.swapaxes(2, 3),
            input_size=tuple(sizes),
            stride=(stride, stride),
            padding=((padding, padding - extra),) * 2,
            dilation=(1, 1),
            groups=1,
        ),
        lambda F: lambda x, k: F.conv_transpose2d(x, k, None, stride, padding, extra),  # noqa: N803
        name.startswith("4x4 s2"),
    )


def _pooled(x: jax.Array, start: float, operation: Any, window: int, stride: int, padding: int) -> jax.Array:
    sides = ((0, 0), (padding, padding), (padding, padding), (0, 0))
    return lax.reduce_window(x, np.float32(start), operation, (1, window, window, 1), (1, stride, stride, 1), sides)


def _max_pool(name: str, image: Sequence[int], window: int, stride: int, padding: int, counts: bool = False) -> Row:
    return Row(
        f"max pool {name}",
        (tuple(image),),
        lambda x: ops.max_pool2d(x, window, stride=stride, padding=padding),
        lambda x: _pooled(x, -np.inf, lax.max, window, stride, padding),
        lambda F: lambda x: F.max_pool2d(x, window, stride, padding),  # noqa: N803
        counts,
    )


def _plain_batch_norm(x: jax.Array, scale: jax.Array, bias: jax.Array) -> jax.Array:
    """As Flax: the variance as E[x^2] - E[x]^2."""
    mean, square = x.mean((0, 1, 2)), (x * x).mean((0, 1, 2))
    return (x - mean) * (lax.rsqrt(jnp.maximum(square - mean * mean, 0) + 1e-5) * scale) + bias


def _plain_response_norm(x: jax.Array) -> jax.Array:
    sums = lax.reduce_window(x * x, np.float32(0), lax.add, (1, 1, 1, 5), (1, 1, 1, 1), ((0, 0),) * 3 + ((2, 2),))
    return x / (2 + 1e-4 / 5 * sums) ** 0.75


def _plain_unpool(x: jax.Array) -> jax.Array:
    y, indices = ops.max_pool2d_with_indices(x, 2)
    n, h, w, c = y.shape
    image, channel = jnp.arange(n)[:, None, None], jnp.arange(c)[None, None]
    flat = jnp.zeros((n, 4 * h * w, c)).at[image, indices.reshape(n, h * w, c), channel].set(y.reshape(n, h * w, c))
    return flat.reshape(n, 2 * h, 2 * w, c)


def _resized(x: jax.Array, method: str) -> jax.Array:
    n, h, w, c = x.shape
    return jax.image.resize(x, (n, 2 * h, 2 * w, c), method)


def _unpool(name: str, image: Sequence[int]) -> Row:
    """Pool and put the maxima back, as a layer of SegNet's encoder and its mirror image do."""
    return Row(
        f"unpool {name}",
        (tuple(image),),
        lambda x: ops.max_unpool2d(*ops.max_pool2d_with_indices(x, 2), x.shape[1:3]),
        _plain_unpool,
        lambda F: lambda x: F.max_unpool2d(*F.max_pool2d(x, 2, return_indices=True), 2),  # noqa: N803
    )


def _logits(images: int, size: tuple[int, int]) -> Row:
    """Enlarge the logits of 11 classes from stride 8 to the images' size."""
    return Row(
        f"logits to {size[0]}x{size[1]}",
        ((images, -(-size[0] // 8), -(-size[1] // 8), 11),),
        lambda x: ops.resize_bilinear(x, size),
        lambda x: jax.image.resize(x, (images, *size, 11), "bilinear"),
        lambda F: lambda x: F.interpolate(x, size, mode="bilinear"),  # noqa: N803
    )


BIG, SMALL = (32, 56, 56, 64), (32, 28, 28, 128)
ROWS = (
    _conv("3x3 s1", BIG, (3, 3, 64, 64), True, padding=1),
    _conv("3x3 s2", BIG, (3, 3, 64, 128), True, stride=2, padding=1),
    _conv("1x1", (32, 28, 28, 256), (1, 1, 256, 256), True),
    _conv("7x7 s2 of RGB", (16, 224, 224, 3), (7, 7, 3, 64), True, stride=2, padding=3),
    _conv("3x3 dilation 2", (16, 56, 56, 64), (3, 3, 64, 64), True, padding=2, dilation=2),
    _conv("3x3 dilation 4", (16, 56, 56, 64), (3, 3, 64, 64), padding=4, dilation=4),
    # A stride of 8 leaves 23x30 of 180x240 pixels, and 45x60 of 360x480: ResNet's last blocks, and DeepLab's rates.
    *(
        _conv(f"3x3 dilation {rate} at {h}x{w}", (n, h, w, 256), (3, 3, 256, 256), padding=rate, dilation=rate)
        for n, h, w in ((8, 23, 30), (4, 45, 60))
        for rate in (2, 4, 12)
    ),
    _conv("3x3 of 512", (8, 14, 14, 512), (3, 3, 512, 512), padding=1),
    _conv("3x3 batch 1", (1, 56, 56, 64), (3, 3, 64, 64), padding=1),
    _conv("3x3 valid, lecture", (128, 13, 13, 64), (3, 3, 64, 128)),
    _conv("depthwise 3x3", SMALL, (3, 3, 1, 128), True, padding=1, groups=128),
    _conv("depthwise 5x5", SMALL, (5, 5, 1, 128), padding=2, groups=128),
    _conv("depthwise 3x3 s2", SMALL, (3, 3, 1, 128), stride=2, padding=1, groups=128),
    _conv("3x3 in 32 groups", (16, 28, 28, 256), (3, 3, 8, 256), True, padding=1, groups=32),
    _conv("3x3 in 8 groups", (16, 28, 28, 256), (3, 3, 32, 256), padding=1, groups=8),
    _conv("3x3 in 2 groups", (16, 28, 28, 256), (3, 3, 128, 256), padding=1, groups=2),
    _transposed("4x4 s2", (16, 28, 28, 64), (4, 4, 64, 64), 2, 1),
    _transposed("2x2 s2", (16, 28, 28, 64), (2, 2, 64, 64), 2, 0),
    _transposed("3x3 s2", (16, 28, 28, 64), (3, 3, 64, 64), 2, 1, 1),
    _max_pool("2x2 s2", BIG, 2, 2, 0, True),
    _max_pool("3x3 s2", BIG, 3, 2, 1, True),
    _max_pool("3x3 s1", BIG, 3, 1, 1),
    Row(
        "average pool 2x2",
        (BIG,),
        lambda x: ops.avg_pool2d(x, 2),
        lambda x: _pooled(x, 0, lax.add, 2, 2, 0) / 4,
        lambda F: lambda x: F.avg_pool2d(x, 2),  # noqa: N803
        True,
    ),
    Row(
        "batch norm (train)",
        (BIG, (64,), (64,)),
        lambda x, s, b: ops.batch_norm(x, *ops.moments(x), s, b),
        _plain_batch_norm,
        lambda F: lambda x, s, b: F.batch_norm(x, None, None, s, b, training=True),  # noqa: N803
        True,
    ),
    _unpool("2x2", BIG),
    _unpool("2x2 at 180x240", (4, 180, 240, 64)),
    _logits(8, (180, 240)),
    _logits(4, (360, 480)),
    Row(
        "nearest x2",
        (SMALL,),
        lambda x: ops.upsample_nearest(x, 2),
        lambda x: _resized(x, "nearest"),
        lambda F: lambda x: F.interpolate(x, scale_factor=2),  # noqa: N803
    ),
    Row(
        "bilinear x2",
        (SMALL,),
        lambda x: ops.upsample_bilinear(x, 2),
        lambda x: _resized(x, "bilinear"),
        lambda F: lambda x: F.interpolate(x, scale_factor=2, mode="bilinear"),  # noqa: N803
    ),
    Row(
        "global average",
        (BIG,),
        ops.global_avg_pool2d,
        lambda x: x.mean((1, 2)),
        lambda F: lambda x: x.mean((2, 3)),  # noqa: N803
    ),
    Row(
        "local response norm",
        (SMALL,),
        ops.local_response_norm,
        _plain_response_norm,
        lambda F: lambda x: F.local_response_norm(x, 5, 1e-4, 0.75, 2.0),  # noqa: N803
    ),
    *(Row(*row) for row in boxes.ROWS),
)
