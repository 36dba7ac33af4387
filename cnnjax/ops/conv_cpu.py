"""A convolution and its two gradients, each in the form that XLA's CPU backend runs fastest.

What XLA:CPU is fast at, and what it is not (measured on jaxlib 0.10 and 0.12):

* Only NHWC x HWIO -> NHWC with a kernel no larger than the input reaches Eigen's threaded convolution. Everything else
  falls to a scalar loop, 50 to 600 times slower; so layouts are written out here.
* jaxlib 0.10 sends a 2-D convolution without input dilation to a library fusion that is half as fast
  (`_off_library_fusion`).
* A kernel gradient in groups (`batch_group_count`) always takes the scalar loop; a forward convolution in groups is
  slow too.

The three functions take parsed arguments: pairs, and padding ((top, bottom), (left, right)).
"""

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from cnnjax.fusion import stored
from cnnjax.ops import conv_cpu_depthwise
from cnnjax.ops.conv_cpu_parts import (
    Pair,
    Sides,
    interleave,
    output_size,
    pad,
    phase_parts,
    phases_of,
    reach,
    spread_taps,
    taps_are_fewer_than_phases,
    taps_of,
)

DIMENSION_NUMBERS = ("NHWC", "HWIO", "NHWC")
# jaxlib 0.10 runs its library fusion of a convolution at half of Eigen's speed; from 0.11 on it is the faster of the
# two.
LIBRARY_FUSION_IS_SLOW = tuple(map(int, jax.__version__.split(".")[:2])) < (0, 11)
FEW_PRODUCTS = 36  # up to as many an output, a convolution is a sum of products; from 50 on Eigen is faster
FEW_IMAGES = 8  # below, a kernel gradient is a product a tap: a batch as input channels would leave lanes empty
SIMD_WIDTH = 16  # narrow groups are merged up to one vector register of float32
MOST_CONVOLUTIONS = 64  # that a convolution in groups is split into
# The s*s phases of a strided input gradient share one convolution if together they have up to this many channels, or if
# filling the kernel up to a multiple of the stride adds few taps (4x4 s2: none, 7x7 s2: 1.3 times, 3x3 s2: 1.8 times).
FEW_CHANNELS, LARGEST_FILL = 64, 1.5


# ---------------------------------------------------------------- the three maps on the CPU


def forward(x: jax.Array, kernel: jax.Array, *, stride: Pair, padding: Sides, dilation: Pair, groups: int) -> jax.Array:
    """`y[n, i, j, o] = sum_abc x[n, i*s + a*d - p, j*s + b*d - p, c] * kernel[a, b, c, o]`."""
    depth = kernel.shape[2]
    if groups > 1 and depth == 1:
        return conv_cpu_depthwise.forward(x, kernel, stride, padding, dilation)
    if groups > 1:
        dense = functools.partial(_convolution, stride=stride, padding=padding, dilation=dilation)
        return _by_groups(dense, x, kernel, groups)
    return _convolution(x, kernel, stride, padding, dilation)


def input_gradient(
    dy: jax.Array, kernel: jax.Array, *, input_size: Pair, stride: Pair, padding: Sides, dilation: Pair, groups: int
) -> jax.Array:
    """The gradient of `sum(forward * dy)` with respect to x, which is `input_size` high and wide."""
    depth = kernel.shape[2]
    if groups > 1 and depth == 1:
        return conv_cpu_depthwise.input_gradient(dy, kernel, groups, input_size, stride, padding, dilation)
    if groups > 1:
        dense = functools.partial(
            _dense_input_gradient, input_size=input_size, stride=stride, padding=padding, dilation=dilation
        )
        return _by_groups(dense, dy, kernel, groups)
    return _dense_input_gradient(dy, kernel, input_size, stride, padding, dilation)


def kernel_gradient(
    x: jax.Array, dy: jax.Array, *, kernel_size: Pair, stride: Pair, padding: Sides, dilation: Pair, groups: int
) -> jax.Array:
    """The gradient of `sum(forward * dy)` with respect to the kernel, which is `kernel_size` high and wide."""
    depth = x.shape[3] // groups
    if groups > 1 and depth == 1:
        return conv_cpu_depthwise.kernel_gradient(x, dy, kernel_size, stride, padding, dilation)
    if groups > 1:
        merged = _groups_to_merge(groups, depth)
        parts = [
            _dense_kernel_gradient(xs, dys, kernel_size, stride, padding, dilation)
            for xs, dys in zip(_split(x, groups // merged), _split(dy, groups // merged), strict=True)
        ]
        return _diagonal_blocks(jnp.concatenate(parts, -1), groups, merged)
    return _dense_kernel_gradient(x, dy, kernel_size, stride, padding, dilation)


# ---------------------------------------------------------------- dense


def _dense_input_gradient(
    dy: jax.Array, kernel: jax.Array, input_size: Pair, stride: Pair, padding: Sides, dilation: Pair
) -> jax.Array:
    if kernel.shape[:2] == (1, 1) or taps_are_fewer_than_phases(kernel, stride):
        product = functools.partial(lax.dot_general, dimension_numbers=(((3,), (1,)), ((), ())))
        return spread_taps(product, dy, kernel, input_size, stride, padding, dilation)
    kernel = kernel.swapaxes(2, 3)
    if stride == (1, 1):
        phase = phases_of(input_size, dy.shape[1:3], kernel.shape[:2], stride, padding, dilation)[0]
        return _phase_convolution(dy, kernel, phase)
    filled = math.prod(-(-k // s) * s for k, s in zip(kernel.shape[:2], stride, strict=True))
    merge = kernel.shape[3] * math.prod(stride) <= FEW_CHANNELS or filled <= LARGEST_FILL * math.prod(kernel.shape[:2])
    if dilation == (1, 1) and merge:
        return _merged_phases_input_gradient(dy, kernel, input_size, stride, padding)
    # s*s interleaved stride-1 convolutions: no zero-stuffed dy, so 1/(s*s) of its multiply-adds.
    phases = phases_of(input_size, dy.shape[1:3], kernel.shape[:2], stride, padding, dilation)
    return interleave([_phase_convolution(dy, kernel, phase) for phase in phases], stride, input_size)


def _dense_kernel_gradient(
    x: jax.Array, dy: jax.Array, kernel_size: Pair, stride: Pair, padding: Sides, dilation: Pair
) -> jax.Array:
    if kernel_size == (1, 1):
        x = taps_of(pad(x, padding), (1, 1), stride, dilation, dy.shape[1:3])[0]
        return lax.dot_general(x, dy, (((0, 1, 2), (0, 1, 2)), ((), ())))[None, None]
    if x.shape[0] < FEW_IMAGES:
        taps = taps_of(pad(x, padding), kernel_size, stride, dilation, dy.shape[1:3])
        products = [lax.dot_general(tap, dy, (((0, 1, 2), (0, 1, 2)), ((), ()))) for tap in taps]
        return jnp.stack(products).reshape(*kernel_size, x.shape[3], dy.shape[3])
    # x convolved with dy, the batch as the channels that are summed: stride and dilation trade places.
    extent = reach(kernel_size, dy.shape[1:3], stride, dilation)
    padding = tuple((lo, r - size - lo) for (lo, _), r, size in zip(padding, extent, x.shape[1:3], strict=True))
    dk = _convolution(x.transpose(3, 1, 2, 0), dy.transpose(1, 2, 0, 3), dilation, padding, stride, off_library=True)
    return dk.transpose(1, 2, 0, 3)


def _merged_phases_input_gradient(
    dy: jax.Array, kernel: jax.Array, input_size: Pair, stride: Pair, padding: Sides
) -> jax.Array:
    """All s*s phases as the channels of one convolution.

    An RGB image's gradient has 3 channels, which fill 3 of 16 vector lanes; 12 fill 12.
    """
    (sh, sw), channels = stride, kernel.shape[3]
    blocks = tuple(-(-size // s) for size, s in zip(kernel.shape[:2], stride, strict=True))
    extra = [(0, b * s - size, 0) for b, s, size in zip(blocks, stride, kernel.shape[:2], strict=True)]
    kernel = lax.pad(kernel, jnp.zeros((), kernel.dtype), [*extra, (0, 0, 0), (0, 0, 0)])
    kernel = (
        kernel.reshape(blocks[0], sh, blocks[1], sw, -1, channels)
        .transpose(0, 2, 4, 1, 3, 5)
        .reshape(*blocks, -1, sh * sw * channels)
    )
    dx = _convolution(dy, kernel[::-1, ::-1], (1, 1), tuple((b - 1, b - 1) for b in blocks), (1, 1))
    n, rows, columns, _ = dx.shape
    dx = (
        dx.reshape(n, rows, columns, sh, sw, channels)
        .transpose(0, 1, 3, 2, 4, 5)
        .reshape(n, rows * sh, columns * sw, channels)
    )
    return pad(
        dx,
        tuple((-lo, size + lo - have) for (lo, _), size, have in zip(padding, input_size, dx.shape[1:3], strict=True)),
    )


def _convolution(
    x: jax.Array, kernel: jax.Array, stride: Pair, padding: Sides, dilation: Pair, off_library: bool = False
) -> jax.Array:
    """A dense convolution: a matrix product, a sum of products, or Eigen's.

    The last in the only layout that reaches it, with no kernel larger than its input.
    """
    if not off_library and math.prod(kernel.shape[:3]) <= FEW_PRODUCTS:
        return _sum_of_products(x, kernel, stride, padding, dilation)
    if kernel.shape[:2] == (1, 1):
        size = output_size(x, (1, 1), stride, padding, dilation)
        x = taps_of(pad(x, padding), (1, 1), stride, dilation, size)[0]
        return lax.dot_general(x, kernel[0, 0], (((3,), (0,)), ((), ())))
    crop = tuple((min(lo, 0), min(hi, 0)) for lo, hi in padding)
    if any(k > size + sum(c) for k, size, c in zip(kernel.shape[:2], x.shape[1:3], crop, strict=True)):
        x, padding = pad(x, padding), ((0, 0), (0, 0))
    else:
        x, padding = pad(x, crop), tuple((max(lo, 0), max(hi, 0)) for lo, hi in padding)
    if off_library or LIBRARY_FUSION_IS_SLOW:
        return _off_library_fusion(x, kernel, stride, padding, dilation)
    return lax.conv_general_dilated(
        x, kernel, stride, padding, rhs_dilation=dilation, dimension_numbers=DIMENSION_NUMBERS
    )


def _phase_convolution(dy: jax.Array, kernel: jax.Array, phase: Any) -> jax.Array:
    kernel, padding, dilation, size = phase_parts(kernel, phase)
    if kernel.size == 0:
        return jnp.zeros((dy.shape[0], *size, kernel.shape[3]), dy.dtype)
    return _convolution(dy, kernel, (1, 1), padding, dilation)


def _sum_of_products(x: jax.Array, kernel: jax.Array, stride: Pair, padding: Sides, dilation: Pair) -> jax.Array:
    """One fused loop over pixels and output channels, every product of a tap and an input channel written out.

    For first layers. Eigen packs few input channels one by one (3x3 of RGB: 1.7 to 6 times slower than this).
    """
    window = kernel.shape[:2]
    size = output_size(x, window, stride, padding, dilation)

    def products(x: jax.Array) -> jax.Array:
        taps = taps_of(x, window, stride, dilation, size)
        pixels = [pixel for tap in taps for pixel in lax.split(tap, [1] * x.shape[3], axis=3)]
        weights = kernel.reshape(-1, kernel.shape[3])
        return functools.reduce(jnp.add, [pixel * weight for pixel, weight in zip(pixels, weights, strict=True)])

    return stored(products, stored(lambda x: pad(x, padding), x))


def _off_library_fusion(x: jax.Array, kernel: jax.Array, stride: Pair, padding: Sides, dilation: Pair) -> jax.Array:
    """The same numbers through Eigen.

    XLA's library fusion takes no convolution whose input is dilated, so every coordinate of the rows is doubled: input
    dilation, kernel dilation, stride and padding. Nothing is added to the work. Eigen packs a dilated input channel by
    channel, though, which is slow with few of them. One more output column than input columns is refused by the fusion
    as well; with a stride that would cost too much, and the fusion is kept.
    """
    if x.shape[3] < 8 and stride == (1, 1):
        return _one_more_column(x, kernel, padding, dilation)
    if x.shape[3] < 8:
        return lax.conv_general_dilated(
            x, kernel, stride, padding, rhs_dilation=dilation, dimension_numbers=DIMENSION_NUMBERS
        )
    (lo, hi), columns = padding
    return lax.conv_general_dilated(
        x,
        kernel,
        (2 * stride[0], stride[1]),
        ((2 * lo, 2 * hi), columns),
        lhs_dilation=(2, 1),
        rhs_dilation=(2 * dilation[0], dilation[1]),
        dimension_numbers=DIMENSION_NUMBERS,
    )


def _one_more_column(x: jax.Array, kernel: jax.Array, padding: Sides, dilation: Pair) -> jax.Array:
    rows, (lo, hi) = padding
    columns = output_size(x, kernel.shape[:2], (1, 1), padding, dilation)[1]
    extra = max(0, x.shape[2] + 1 - columns)
    y = lax.conv_general_dilated(
        x, kernel, (1, 1), (rows, (lo, hi + extra)), rhs_dilation=dilation, dimension_numbers=DIMENSION_NUMBERS
    )
    return y[:, :, :columns]


# ---------------------------------------------------------------- groups


def _groups_to_merge(groups: int, depth: int) -> int:
    """How many neighbouring groups make one dense convolution.

    As many as fill a vector register, for narrower ones run no faster; more where there would be too many to compile.
    """
    divisors = [m for m in range(1, groups + 1) if groups % m == 0]
    narrow = max(m for m in divisors if m == 1 or m * depth <= SIMD_WIDTH)
    return next(m for m in divisors if m >= narrow and groups // m <= MOST_CONVOLUTIONS)


def _by_groups(dense: Callable[..., jax.Array], a: jax.Array, kernel: jax.Array, groups: int) -> jax.Array:
    """One dense convolution per block of merged groups, each with a block-diagonal kernel. `a` is x or dy."""
    merged = _groups_to_merge(groups, kernel.shape[2])
    kernel = _block_diagonal(kernel, groups, merged)
    return jnp.concatenate(
        [
            dense(part, block)
            for part, block in zip(_split(a, groups // merged), _split(kernel, groups // merged), strict=True)
        ],
        -1,
    )


def _split(a: jax.Array, parts: int) -> list[jax.Array]:
    return [a] if parts == 1 else jnp.split(a, parts, axis=-1)


def _block_diagonal(kernel: jax.Array, groups: int, merged: int) -> jax.Array:
    kh, kw, depth, out = kernel.shape
    kernel = kernel.reshape(kh, kw, 1, depth, groups // merged, merged, out // groups)
    eye = jnp.eye(merged, dtype=kernel.dtype)[:, None, None, :, None]
    return (kernel * eye).reshape(kh, kw, merged * depth, out)


def _diagonal_blocks(kernel: jax.Array, groups: int, merged: int) -> jax.Array:
    kh, kw, depth, out = kernel.shape
    kernel = kernel.reshape(kh, kw, merged, depth // merged, groups // merged, merged, out // groups)
    kernel = jnp.stack([kernel[:, :, m, :, :, m] for m in range(merged)], axis=4)
    return kernel.reshape(kh, kw, depth // merged, out)
