"""One dense convolution in the form that XLA's CPU backend runs fastest.

What decides it (measured on jaxlib 0.10 and 0.12):

* Only NHWC x HWIO -> NHWC with a kernel no larger than the input reaches Eigen's threaded convolution. Everything else
  falls to a scalar loop, 50 to 600 times slower; so layouts are written out here.
* jaxlib 0.10 sends a 2-D convolution without input dilation to a library fusion that is half as fast
  (`_off_library_fusion`).
"""

import functools
import math

import jax
import jax.numpy as jnp
from jax import lax

from cnnjax.fusion import stored
from cnnjax.ops.conv_cpu_parts import Pair, Sides, output_size, pad, taps_of

DIMENSION_NUMBERS = ("NHWC", "HWIO", "NHWC")
# jaxlib 0.10 runs its library fusion of a convolution at half of Eigen's speed; from 0.11 on it is the faster of the
# two.
LIBRARY_FUSION_IS_SLOW = tuple(map(int, jax.__version__.split(".")[:2])) < (0, 11)
FEW_PRODUCTS = 36  # up to as many an output, a convolution is a sum of products; from 50 on Eigen is faster
FEW_CHANNELS = 8  # below, Eigen packs its input value by value
# The s*s phases of a stride may share one convolution of stride 1 if filling the kernel up to a multiple of the stride
# adds few taps (4x4 s2: none, 7x7 s2: 1.3 times, 3x3 s2: 1.8 times).
LARGEST_FILL = 1.5


def convolution(
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
    as well; with a stride that would cost too much: its phases become channels, or the fusion is kept.
    """
    channels, phases = x.shape[3], math.prod(stride)
    if channels < FEW_CHANNELS and phases == 1:
        return _one_more_column(x, kernel, padding, dilation)
    if channels < FEW_CHANNELS <= channels * phases and dilation == (1, 1) and fills_cells(kernel, stride):
        return _phases_as_channels(x, kernel, stride, padding)
    if channels < FEW_CHANNELS:
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


def fills_cells(kernel: jax.Array, stride: Pair) -> bool:
    """Whether a kernel is about as large as a whole number of cells of `stride` pixels."""
    filled = math.prod(-(-k // s) * s for k, s in zip(kernel.shape[:2], stride, strict=True))
    return filled <= LARGEST_FILL * math.prod(kernel.shape[:2])


def _phases_as_channels(x: jax.Array, kernel: jax.Array, stride: Pair, padding: Sides) -> jax.Array:
    """The convolution with stride 1 of cells of `stride` pixels: 12 channels instead of 3, 1.0 to 1.9 times as fast.

    Taps that fill up the kernel are zeros: a pixel just beyond a window makes its output NaN if it is not finite.
    """
    (sh, sw), (kh, kw, c, o) = stride, kernel.shape
    size = output_size(x, (kh, kw), stride, padding, (1, 1))
    taps = tuple(-(-k // s) for k, s in zip((kh, kw), stride, strict=True))
    rows, columns = (n + t - 1 for n, t in zip(size, taps, strict=True))
    ends = [
        (lo, cells * s - lo - n)
        for (lo, _), cells, s, n in zip(padding, (rows, columns), stride, x.shape[1:3], strict=True)
    ]
    x = pad(x, tuple(ends)).reshape(-1, rows, sh, columns, sw, c).transpose(0, 1, 3, 2, 4, 5)
    extra = [(0, t * s - k, 0) for t, s, k in zip(taps, stride, (kh, kw), strict=True)]
    kernel = lax.pad(kernel, jnp.zeros((), kernel.dtype), [*extra, (0, 0, 0), (0, 0, 0)])
    kernel = kernel.reshape(taps[0], sh, taps[1], sw, c, o).transpose(0, 2, 1, 3, 4, 5)
    x, kernel = x.reshape(-1, rows, columns, sh * sw * c), kernel.reshape(*taps, sh * sw * c, o)
    return convolution(x, kernel, (1, 1), ((0, 0), (0, 0)), (1, 1))


def _one_more_column(x: jax.Array, kernel: jax.Array, padding: Sides, dilation: Pair) -> jax.Array:
    rows, (lo, hi) = padding
    columns = output_size(x, kernel.shape[:2], (1, 1), padding, dilation)[1]
    extra = max(0, x.shape[2] + 1 - columns)
    y = lax.conv_general_dilated(
        x, kernel, (1, 1), (rows, (lo, hi + extra)), rhs_dilation=dilation, dimension_numbers=DIMENSION_NUMBERS
    )
    return y[:, :, :columns]
