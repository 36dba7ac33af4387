"""A dense convolution and its gradients in the forms that XLA's CPU backend runs fastest.

Two facts decide (measured on jaxlib 0.10 and 0.12):

* Only NHWC x HWIO -> NHWC with a kernel no larger than the input reaches Eigen's threaded convolution. Everything else
  runs in a scalar loop, 50 to 600 times slower; so transposed layouts are written out here.
* jaxlib 0.10 sends a 2-D convolution without input dilation to a library fusion at half of Eigen's speed; from 0.11 on
  the library fusion is the faster of the two.
"""

import functools
import math

import jax
import jax.numpy as jnp
from jax import lax

from cnnjax.ops.cpu.finite import where_finite
from cnnjax.ops.cpu.fusion import stored
from cnnjax.ops.cpu.phases import (
    AxisPhase,
    Pair,
    Sides,
    interleave,
    known,
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
LIBRARY_FUSION_IS_SLOW = tuple(map(int, jax.__version__.split(".")[:2])) < (0, 11)
MAX_PRODUCTS_PER_OUTPUT = 36  # up to as many, a convolution is a sum of products; from 50 on Eigen is faster
MIN_PACKED_CHANNELS = 8  # with fewer, Eigen packs its input value by value
# The s*s phases of a stride may share one convolution of stride 1 where filling the kernel up to a multiple of the
# stride adds few taps (4x4 s2: none, 7x7 s2: 1.3 times as many, 3x3 s2: 1.8 times).
MAX_FILLED_TAPS_PER_TAP = 1.5
MAX_CHANNELS_OF_MERGED_PHASES = 64  # up to as many in all, the phases of an input gradient share one convolution
# With up to as many pixels per channel, dy is multiplied by all taps at once: a convolution would transpose the kernel
# first (3x3 of 256 to 512 channels: 1.3 to 2.6 times slower; with 10 pixels per channel it is faster).
MAX_PIXELS_PER_CHANNEL = 2.5
MAX_TAPS_PER_PRODUCT = 64  # each of them is a term to compile
MIN_IMAGES_AS_CHANNELS = 8  # with fewer, the batch as input channels would leave vector lanes empty
MAX_ROWS_PER_ROW = 3  # of x that a band may see for each row of x that is its own; they are copied for every band


# ---------------------------------------------------------------- which form runs


def convolution(
    x: jax.Array, kernel: jax.Array, stride: Pair, padding: Sides, dilation: Pair, off_library: bool = False
) -> jax.Array:
    """Return a dense convolution; `off_library` keeps it away from XLA's library fusion on every version."""
    if not off_library and math.prod(kernel.shape[:3]) <= MAX_PRODUCTS_PER_OUTPUT:
        return sum_of_products(x, kernel, stride, padding, dilation)
    if kernel.shape[:2] == (1, 1):
        return matrix_product(x, kernel, stride, padding, dilation)
    x, padding = _with_room_for(kernel, x, padding)
    if not (off_library or LIBRARY_FUSION_IS_SLOW):
        return library_convolution(x, kernel, stride, padding, dilation)
    channels, phases = known(x.shape[3]), math.prod(stride)
    if channels >= MIN_PACKED_CHANNELS:
        return doubled_rows(x, kernel, stride, padding, dilation)
    if phases == 1:
        return one_more_column(x, kernel, padding, dilation)
    if channels * phases >= MIN_PACKED_CHANNELS and dilation == (1, 1) and _fills_cells(kernel, stride):
        return phases_as_channels(x, kernel, stride, padding)
    return library_convolution(x, kernel, stride, padding, dilation)


def input_gradient(
    dy: jax.Array, kernel: jax.Array, input_size: Pair, stride: Pair, padding: Sides, dilation: Pair
) -> jax.Array:
    """Return the gradient of `sum(convolution * dy)` with respect to x."""
    taps, channels = math.prod(kernel.shape[:2]), kernel.shape[2]
    pixels = known(dy.shape[0]) * math.prod(dy.shape[1:3])
    few_pixels = pixels <= MAX_PIXELS_PER_CHANNEL * dy.shape[3] and taps <= MAX_TAPS_PER_PRODUCT
    if few_pixels or taps == 1 or taps_are_fewer_than_phases(kernel, stride):
        return spread_products(dy, kernel, input_size, stride, padding, dilation)
    few_channels = channels * math.prod(stride) <= MAX_CHANNELS_OF_MERGED_PHASES
    if stride != (1, 1) and dilation == (1, 1) and (few_channels or _fills_cells(kernel, stride)):
        return merged_phases(dy, kernel, input_size, stride, padding)
    return interleaved_phases(dy, kernel, input_size, stride, padding, dilation)


def kernel_gradient(
    x: jax.Array, dy: jax.Array, kernel_size: Pair, stride: Pair, padding: Sides, dilation: Pair
) -> jax.Array:
    """Return the gradient of `sum(convolution * dy)` with respect to the kernel."""
    # Both are transposed before they are multiplied: XLA would compute whatever they come from again in that loop,
    # value by value across the memory (a max pooling before a 1x1 convolution: 7 of the 130 ms of a SqueezeNet's step).
    x, dy = stored(lambda x: x, x), stored(lambda dy: dy, dy)
    if kernel_size == (1, 1):
        return product_per_tap(x, dy, kernel_size, stride, padding, dilation)
    if known(x.shape[0]) < MIN_IMAGES_AS_CHANNELS:
        return bands_as_images(x, dy, kernel_size, stride, padding, dilation)
    return images_as_channels(x, dy, kernel_size, stride, padding, dilation)


# ---------------------------------------------------------------- forms of the convolution


def sum_of_products(x: jax.Array, kernel: jax.Array, stride: Pair, padding: Sides, dilation: Pair) -> jax.Array:
    """One fused loop over pixels and output channels, every product of a tap and an input channel written out.

    For first layers: Eigen packs few input channels one by one.
    """
    window = kernel.shape[:2]
    size = output_size(x, window, stride, padding, dilation)

    def products(x: jax.Array) -> jax.Array:
        taps = taps_of(x, window, stride, dilation, size)
        pixels = [pixel for tap in taps for pixel in lax.split(tap, [1] * x.shape[3], axis=3)]
        weights = kernel.reshape(-1, 1, 1, 1, kernel.shape[3])
        return functools.reduce(jnp.add, [pixel * weight for pixel, weight in zip(pixels, weights, strict=True)])

    return stored(products, stored(lambda x: pad(x, padding), x))


def matrix_product(x: jax.Array, kernel: jax.Array, stride: Pair, padding: Sides, dilation: Pair) -> jax.Array:
    """A kernel of one tap is a matrix, applied to every pixel that the stride leaves."""
    size = output_size(x, (1, 1), stride, padding, dilation)
    x = taps_of(pad(x, padding), (1, 1), stride, dilation, size)[0]
    return lax.dot_general(x, kernel[0, 0], (((3,), (0,)), ((), ())))


def library_convolution(x: jax.Array, kernel: jax.Array, stride: Pair, padding: Sides, dilation: Pair) -> jax.Array:
    """XLA's own convolution."""
    return lax.conv_general_dilated(
        x, kernel, stride, padding, rhs_dilation=dilation, dimension_numbers=DIMENSION_NUMBERS
    )


def doubled_rows(x: jax.Array, kernel: jax.Array, stride: Pair, padding: Sides, dilation: Pair) -> jax.Array:
    """The same numbers through Eigen, because XLA's library fusion takes no convolution whose input is dilated.

    Every coordinate of the rows is doubled: input dilation, kernel dilation, stride and padding. That adds no work, but
    Eigen packs a dilated input channel by channel, which is slow with few of them.
    """
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


def one_more_column(x: jax.Array, kernel: jax.Array, padding: Sides, dilation: Pair) -> jax.Array:
    """The same numbers through Eigen, because XLA's library fusion takes no output that is wider than its input.

    With a stride, the padding that this needs would cost too much.
    """
    rows, (lo, hi) = padding
    columns = output_size(x, kernel.shape[:2], (1, 1), padding, dilation)[1]
    extra = max(0, x.shape[2] + 1 - columns)
    return library_convolution(x, kernel, (1, 1), (rows, (lo, hi + extra)), dilation)[:, :, :columns]


def phases_as_channels(x: jax.Array, kernel: jax.Array, stride: Pair, padding: Sides) -> jax.Array:
    """The convolution with stride 1 of cells of `stride` pixels: 12 channels instead of 3."""
    exact = functools.partial(library_convolution, kernel=kernel, stride=stride, padding=padding, dilation=(1, 1))
    return _unless_filled(functools.partial(_in_cells, kernel=kernel, stride=stride, padding=padding), exact, x)


def _in_cells(x: jax.Array, kernel: jax.Array, stride: Pair, padding: Sides) -> jax.Array:
    (sh, sw), (kh, kw, c, o) = stride, kernel.shape
    size = output_size(x, (kh, kw), stride, padding, (1, 1))
    taps = tuple(-(-k // s) for k, s in zip((kh, kw), stride, strict=True))
    rows, columns = (n + t - 1 for n, t in zip(size, taps, strict=True))
    ends = [
        (lo, cells * s - lo - n)
        for (lo, _), cells, s, n in zip(padding, (rows, columns), stride, x.shape[1:3], strict=True)
    ]
    x = pad(x, tuple(ends)).reshape(x.shape[0], rows, sh, columns, sw, c).transpose(0, 1, 3, 2, 4, 5)
    kernel = _filled(kernel, stride).transpose(0, 2, 1, 3, 4, 5)
    x, kernel = x.reshape(x.shape[0], rows, columns, sh * sw * c), kernel.reshape(*taps, sh * sw * c, o)
    return convolution(x, kernel, (1, 1), ((0, 0), (0, 0)), (1, 1))


def _with_room_for(kernel: jax.Array, x: jax.Array, padding: Sides) -> tuple[jax.Array, Sides]:
    """Crop x, and pad it where it is smaller than the kernel; return it and the padding that remains, not negative."""
    crop = tuple((min(lo, 0), min(hi, 0)) for lo, hi in padding)
    if any(k > size + sum(c) for k, size, c in zip(kernel.shape[:2], x.shape[1:3], crop, strict=True)):
        return pad(x, padding), ((0, 0), (0, 0))
    return pad(x, crop), tuple((max(lo, 0), max(hi, 0)) for lo, hi in padding)


def _fills_cells(kernel: jax.Array, stride: Pair) -> bool:
    """Whether a kernel is about as large as a whole number of cells of `stride` pixels."""
    filled = math.prod(-(-k // s) * s for k, s in zip(kernel.shape[:2], stride, strict=True))
    return filled <= MAX_FILLED_TAPS_PER_TAP * math.prod(kernel.shape[:2])


def _unless_filled(in_cells: functools.partial, exact: functools.partial, x: jax.Array) -> jax.Array:
    """Return `in_cells(x)`; or, where zeros fill up the kernel to whole cells, `exact(x)` unless x is finite."""
    kernel, stride = in_cells.keywords["kernel"], in_cells.keywords["stride"]
    if all(k % s == 0 for k, s in zip(kernel.shape[:2], stride, strict=True)):
        return in_cells(x)
    return where_finite(in_cells, exact, x)


def _filled(kernel: jax.Array, stride: Pair) -> jax.Array:
    """Fill a kernel up with zeros to whole cells and return it as (cells, sh, cells, sw, in, out)."""
    (sh, sw), (kh, kw, c, o) = stride, kernel.shape
    extra = [(0, -size % s, 0) for size, s in zip((kh, kw), stride, strict=True)]
    kernel = lax.pad(kernel, jnp.zeros((), kernel.dtype), [*extra, (0, 0, 0), (0, 0, 0)])
    return kernel.reshape(-(-kh // sh), sh, -(-kw // sw), sw, c, o)


# ---------------------------------------------------------------- forms of the input gradient


def spread_products(
    dy: jax.Array, kernel: jax.Array, input_size: Pair, stride: Pair, padding: Sides, dilation: Pair
) -> jax.Array:
    """One product of dy with the kernel as it lies in memory, whose parts, one per tap, are spread and added."""
    taps = math.prod(kernel.shape[:2])
    products = lax.dot_general(dy, kernel.reshape(-1, dy.shape[3]), (((3,), (1,)), ((), ())))
    parts = lax.split(products, [kernel.shape[2]] * taps, axis=3)
    return spread_taps(parts, kernel.shape[:2], input_size, stride, padding, dilation)


def merged_phases(dy: jax.Array, kernel: jax.Array, input_size: Pair, stride: Pair, padding: Sides) -> jax.Array:
    """All s*s phases as the channels of one convolution.

    The gradient of an RGB image has 3 channels, which fill 3 of 16 vector lanes; 12 fill 12.
    """
    in_cells = functools.partial(_merged_phases, kernel=kernel, input_size=input_size, stride=stride, padding=padding)
    exact = functools.partial(interleaved_phases, dilation=(1, 1), **in_cells.keywords)
    return _unless_filled(in_cells, exact, dy)


def _merged_phases(dy: jax.Array, kernel: jax.Array, input_size: Pair, stride: Pair, padding: Sides) -> jax.Array:
    (sh, sw), channels = stride, kernel.shape[2]
    kernel = _filled(kernel.swapaxes(2, 3), stride).transpose(0, 2, 4, 1, 3, 5)
    blocks = kernel.shape[:2]
    kernel = kernel.reshape(*blocks, -1, sh * sw * channels)
    dx = convolution(dy, kernel[::-1, ::-1], (1, 1), tuple((b - 1, b - 1) for b in blocks), (1, 1))
    n, rows, columns, _ = dx.shape
    dx = dx.reshape(n, rows, columns, sh, sw, channels).transpose(0, 1, 3, 2, 4, 5)
    dx = dx.reshape(n, rows * sh, columns * sw, channels)
    sides = zip(padding, input_size, dx.shape[1:3], strict=True)
    return pad(dx, tuple((-lo, size + lo - have) for (lo, _), size, have in sides))


def interleaved_phases(
    dy: jax.Array, kernel: jax.Array, input_size: Pair, stride: Pair, padding: Sides, dilation: Pair
) -> jax.Array:
    """s*s interleaved stride-1 convolutions: dy is not spread with zeros, so 1/(s*s) of the multiply-adds remain."""
    phases = phases_of(input_size, dy.shape[1:3], kernel.shape[:2], stride, padding, dilation)
    kernel = kernel.swapaxes(2, 3)
    return interleave([_phase_convolution(dy, kernel, phase) for phase in phases], stride, input_size)


def _phase_convolution(dy: jax.Array, kernel: jax.Array, phase: tuple[AxisPhase, AxisPhase]) -> jax.Array:
    kernel, padding, dilation, size = phase_parts(kernel, phase)
    if kernel.size == 0:
        return jnp.zeros((dy.shape[0], *size, kernel.shape[3]), dy.dtype)
    return convolution(dy, kernel, (1, 1), padding, dilation)


# ---------------------------------------------------------------- forms of the kernel gradient


def product_per_tap(
    x: jax.Array, dy: jax.Array, kernel_size: Pair, stride: Pair, padding: Sides, dilation: Pair
) -> jax.Array:
    """For every tap the product of the pixels that it sees with dy."""
    taps = taps_of(pad(x, padding), kernel_size, stride, dilation, dy.shape[1:3])
    products = [lax.dot_general(tap, dy, (((0, 1, 2), (0, 1, 2)), ((), ()))) for tap in taps]
    return jnp.stack(products).reshape(*kernel_size, x.shape[3], dy.shape[3])


def bands_as_images(
    x: jax.Array, dy: jax.Array, kernel_size: Pair, stride: Pair, padding: Sides, dilation: Pair
) -> jax.Array:
    """Bands of rows take the place of missing images, with the rows of x that they see; rows left go tap by tap."""
    bands = -(-MIN_IMAGES_AS_CHANNELS // max(known(x.shape[0]), 1))
    rows = dy.shape[1] // bands
    x, none = pad(x, padding), ((0, 0), (0, 0))
    seen = reach(kernel_size, (rows, dy.shape[2]), stride, dilation)[0]
    if rows == 0 or seen >= MAX_ROWS_PER_ROW * rows * stride[0]:
        return product_per_tap(x, dy, kernel_size, stride, none, dilation)
    starts = [band * rows for band in range(bands + 1)]
    of_x = jnp.concatenate([x[:, start * stride[0] :][:, :seen] for start in starts[:-1]])
    of_dy = jnp.concatenate([dy[:, start : start + rows] for start in starts[:-1]])
    dk = images_as_channels(of_x, of_dy, kernel_size, stride, none, dilation)
    if starts[-1] == dy.shape[1]:
        return dk
    x, dy = x[:, starts[-1] * stride[0] :], dy[:, starts[-1] :]
    return dk + product_per_tap(x, dy, kernel_size, stride, none, dilation)


def images_as_channels(
    x: jax.Array, dy: jax.Array, kernel_size: Pair, stride: Pair, padding: Sides, dilation: Pair
) -> jax.Array:
    """x convolved with dy: the batch becomes the channels that are summed, stride and dilation trade places."""
    extent = reach(kernel_size, dy.shape[1:3], stride, dilation)
    padding = tuple((lo, r - size - lo) for (lo, _), r, size in zip(padding, extent, x.shape[1:3], strict=True))
    dk = convolution(x.transpose(3, 1, 2, 0), dy.transpose(1, 2, 0, 3), dilation, padding, stride, off_library=True)
    return dk.transpose(1, 2, 0, 3)
