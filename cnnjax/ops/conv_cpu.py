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

Pair = tuple[int, ...]  # (height, width)
Sides = tuple[tuple[int, int], ...]  # ((top, bottom), (left, right)); a negative one crops

DIMENSION_NUMBERS = ("NHWC", "HWIO", "NHWC")
# jaxlib 0.10 runs its library fusion of a convolution at half of Eigen's speed; from 0.11 on it is the faster of the
# two.
LIBRARY_FUSION_IS_SLOW = tuple(map(int, jax.__version__.split(".")[:2])) < (0, 11)
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
        return _depthwise_forward(x, kernel, stride, padding, dilation)
    if groups > 1:
        dense = functools.partial(_dense_forward, stride=stride, padding=padding, dilation=dilation)
        return _by_groups(dense, x, kernel, groups)
    return _dense_forward(x, kernel, stride, padding, dilation)


def input_gradient(
    dy: jax.Array, kernel: jax.Array, *, input_size: Pair, stride: Pair, padding: Sides, dilation: Pair, groups: int
) -> jax.Array:
    """The gradient of `sum(forward * dy)` with respect to x, which is `input_size` high and wide."""
    depth = kernel.shape[2]
    if groups > 1 and depth == 1:
        return _depthwise_input_gradient(dy, kernel, groups, input_size, stride, padding, dilation)
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
        return _depthwise_kernel_gradient(x, dy, kernel_size, stride, padding, dilation)
    if groups > 1:
        merged = _groups_to_merge(groups, depth)
        parts = [
            _dense_kernel_gradient(xs, dys, kernel_size, stride, padding, dilation)
            for xs, dys in zip(_split(x, groups // merged), _split(dy, groups // merged), strict=True)
        ]
        return _diagonal_blocks(jnp.concatenate(parts, -1), groups, merged)
    return _dense_kernel_gradient(x, dy, kernel_size, stride, padding, dilation)


# ---------------------------------------------------------------- dense


def _dense_forward(x: jax.Array, kernel: jax.Array, stride: Pair, padding: Sides, dilation: Pair) -> jax.Array:
    if kernel.shape[:2] == (1, 1):  # a matrix product: peak speed on every jaxlib
        x = _taps(
            _pad(x, padding), (1, 1), stride, dilation, output_size(x, kernel.shape[:2], stride, padding, dilation)
        )[0]
        return lax.dot_general(x, kernel[0, 0], (((3,), (0,)), ((), ())))
    return _convolution(x, kernel, stride, padding, dilation)


def _dense_input_gradient(
    dy: jax.Array, kernel: jax.Array, input_size: Pair, stride: Pair, padding: Sides, dilation: Pair
) -> jax.Array:
    if kernel.shape[:2] == (1, 1):
        dx = lax.dot_general(dy, kernel[0, 0], (((3,), (1,)), ((), ())))
        return _spread(dx, input_size, stride, padding)
    kernel = kernel.swapaxes(2, 3)
    if stride == (1, 1):
        phase = _phases(input_size, dy.shape[1:3], kernel.shape[:2], stride, padding, dilation)[0]
        return _phase_convolution(dy, kernel, phase)
    filled = math.prod(-(-k // s) * s for k, s in zip(kernel.shape[:2], stride, strict=True))
    merge = kernel.shape[3] * math.prod(stride) <= FEW_CHANNELS or filled <= LARGEST_FILL * math.prod(kernel.shape[:2])
    if dilation == (1, 1) and merge:
        return _merged_phases_input_gradient(dy, kernel, input_size, stride, padding)
    # s*s interleaved stride-1 convolutions: no zero-stuffed dy, so 1/(s*s) of its multiply-adds.
    phases = _phases(input_size, dy.shape[1:3], kernel.shape[:2], stride, padding, dilation)
    return _interleave([_phase_convolution(dy, kernel, phase) for phase in phases], stride, input_size)


def _dense_kernel_gradient(
    x: jax.Array, dy: jax.Array, kernel_size: Pair, stride: Pair, padding: Sides, dilation: Pair
) -> jax.Array:
    if kernel_size == (1, 1):
        x = _taps(_pad(x, padding), (1, 1), stride, dilation, dy.shape[1:3])[0]
        return lax.dot_general(x, dy, (((0, 1, 2), (0, 1, 2)), ((), ())))[None, None]
    if x.shape[0] < FEW_IMAGES:
        taps = _taps(_pad(x, padding), kernel_size, stride, dilation, dy.shape[1:3])
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
    return _pad(
        dx,
        tuple((-lo, size + lo - have) for (lo, _), size, have in zip(padding, input_size, dx.shape[1:3], strict=True)),
    )


def _convolution(
    x: jax.Array, kernel: jax.Array, stride: Pair, padding: Sides, dilation: Pair, off_library: bool = False
) -> jax.Array:
    """The one convolution call: in the only layout that reaches Eigen, with no kernel larger than its input."""
    crop = tuple((min(lo, 0), min(hi, 0)) for lo, hi in padding)
    if any(k > size + sum(c) for k, size, c in zip(kernel.shape[:2], x.shape[1:3], crop, strict=True)):
        x, padding = _pad(x, padding), ((0, 0), (0, 0))
    else:
        x, padding = _pad(x, crop), tuple((max(lo, 0), max(hi, 0)) for lo, hi in padding)
    if off_library or LIBRARY_FUSION_IS_SLOW:
        return _off_library_fusion(x, kernel, stride, padding, dilation)
    return lax.conv_general_dilated(
        x, kernel, stride, padding, rhs_dilation=dilation, dimension_numbers=DIMENSION_NUMBERS
    )


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


# ---------------------------------------------------------------- depthwise: products of shifted maps, fused


def _depthwise_forward(x: jax.Array, kernel: jax.Array, stride: Pair, padding: Sides, dilation: Pair) -> jax.Array:
    size = output_size(x, kernel.shape[:2], stride, padding, dilation)
    x = _materialized(_pad(_repeat_channels(x, kernel), padding))  # a pad inside the loop costs a branch per element
    return _weighted_sum(_taps(x, kernel.shape[:2], stride, dilation, size), kernel)


def _depthwise_input_gradient(
    dy: jax.Array, kernel: jax.Array, channels: int, input_size: Pair, stride: Pair, padding: Sides, dilation: Pair
) -> jax.Array:
    phases = _phases(input_size, dy.shape[1:3], kernel.shape[:2], stride, padding, dilation)
    dx = _interleave([_phase_sum(dy, kernel, phase) for phase in phases], stride, input_size)
    return dx if dx.shape[3] == channels else dx.reshape(*dx.shape[:3], channels, -1).sum(4)


def _depthwise_kernel_gradient(
    x: jax.Array, dy: jax.Array, kernel_size: Pair, stride: Pair, padding: Sides, dilation: Pair
) -> jax.Array:
    x = _materialized(_pad(_repeat_channels(x, dy), padding))
    taps = _taps(x, kernel_size, stride, dilation, dy.shape[1:3])
    # One reduction with an output per tap reads x and dy once; over rows and columns only, so that the images are
    # shared among threads.
    zero = jnp.zeros((), x.dtype)
    axes = (1, 2) if x.shape[0] > 1 else (2,)
    sums = lax.reduce(
        [tap * dy for tap in taps], [zero] * len(taps), lambda a, b: [p + q for p, q in zip(a, b, strict=True)], axes
    )
    sums = _materialized(jnp.stack(sums))
    return sums.sum(tuple(range(1, sums.ndim - 1))).reshape(*kernel_size, 1, -1)


def _repeat_channels(x: jax.Array, like: jax.Array) -> jax.Array:
    multiplier = like.shape[-1] // x.shape[-1]
    return jnp.repeat(x, multiplier, axis=-1) if multiplier > 1 else x


def _weighted_sum(taps: list[jax.Array], kernel: jax.Array) -> jax.Array:
    weights = kernel.reshape(-1, kernel.shape[-1])
    return functools.reduce(jnp.add, [tap * weight for tap, weight in zip(taps, weights, strict=True)])


def _phase_sum(dy: jax.Array, kernel: jax.Array, phase: Any) -> jax.Array:
    kernel, padding, dilation, size = _phase_parts(kernel, phase)
    if kernel.size == 0:
        return jnp.zeros((dy.shape[0], *size, dy.shape[3]), dy.dtype)
    return _weighted_sum(_taps(_materialized(_pad(dy, padding)), kernel.shape[:2], (1, 1), dilation, size), kernel)


# ---------------------------------------------------------------- strides undone by interleaving stride-1 maps


def _phases(
    input_size: Pair, output_size: Pair, kernel_size: Pair, stride: Pair, padding: Sides, dilation: Pair
) -> list[Any]:
    """For every residue (r0, r1) of input positions modulo the stride.

    Which taps reach it, and how dy is padded for them.
    """
    axes = [
        [_axis_phase(r, *axis) for r in range(axis[3])]
        for axis in zip(input_size, output_size, kernel_size, stride, (lo for lo, _ in padding), dilation, strict=True)
    ]
    return [(rows, columns) for rows in axes[0] for columns in axes[1]]


def _axis_phase(residue: int, size: int, out: int, kernel_size: int, stride: int, pad: int, dilation: int) -> Any:
    # x[residue + s*q] gathers kernel[a] * dy[q + (residue + pad - a*dilation) / s] over the taps a where that is an
    # integer.
    taps = [a for a in range(kernel_size) if (residue + pad - a * dilation) % stride == 0]
    count = -(-size // stride)
    if not taps:
        return slice(0, 0), (0, 0), 1, count
    common = math.gcd(stride, dilation)
    first = (residue + pad - taps[-1] * dilation) // stride  # offset of the last tap: the lowest one
    last = (residue + pad - taps[0] * dilation) // stride
    return slice(taps[0], None, stride // common), (-first, count - 1 + last - (out - 1)), dilation // common, count


def _phase_parts(kernel: jax.Array, phase: Any) -> Any:
    (rows, row_pad, row_dilation, height), (columns, column_pad, column_dilation, width) = phase
    return kernel[rows, columns][::-1, ::-1], (row_pad, column_pad), (row_dilation, column_dilation), (height, width)


def _phase_convolution(dy: jax.Array, kernel: jax.Array, phase: Any) -> jax.Array:
    kernel, padding, dilation, size = _phase_parts(kernel, phase)
    if kernel.size == 0:
        return jnp.zeros((dy.shape[0], *size, kernel.shape[3]), dy.dtype)
    return _convolution(dy, kernel, (1, 1), padding, dilation)


def _interleave(phases: list[jax.Array], stride: Pair, size: Pair) -> jax.Array:
    if len(phases) == 1:
        return phases[0]
    sh, sw = stride
    rows = [jnp.stack(phases[i * sw : (i + 1) * sw], axis=3) for i in range(sh)]
    n, height, width, _, channels = rows[0].shape
    return jnp.stack(rows, axis=2).reshape(n, height * sh, width * sw, channels)[:, : size[0], : size[1]]


def _spread(dx: jax.Array, size: Pair, stride: Pair, padding: Sides) -> jax.Array:
    """Rows and columns `stride` apart, zeros between, for a kernel of one tap."""
    config = [
        (-lo, n + lo - ((have - 1) * s + 1), s - 1)
        for (lo, _), n, have, s in zip(padding, size, dx.shape[1:3], stride, strict=True)
    ]
    return lax.pad(dx, jnp.zeros((), dx.dtype), [(0, 0, 0), *config, (0, 0, 0)])


# ---------------------------------------------------------------- small parts


def output_size(x: jax.Array, kernel_size: Pair, stride: Pair, padding: Sides, dilation: Pair) -> Pair:
    """Height and width of the output, rounded down."""
    return tuple(
        (size + lo + hi - d * (k - 1) - 1) // s + 1
        for size, k, s, (lo, hi), d in zip(x.shape[1:3], kernel_size, stride, padding, dilation, strict=True)
    )


def reach(kernel_size: Pair, output_size: Pair, stride: Pair, dilation: Pair) -> Pair:
    """Padded input positions that the windows touch."""
    return tuple(
        d * (k - 1) + s * (out - 1) + 1 for k, out, s, d in zip(kernel_size, output_size, stride, dilation, strict=True)
    )


def _pad(x: jax.Array, padding: Sides) -> jax.Array:
    """Zero padding of rows and columns; negative padding crops."""
    if all(lo == hi == 0 for lo, hi in padding):
        return x
    return lax.pad(x, jnp.zeros((), x.dtype), [(0, 0, 0), *((lo, hi, 0) for lo, hi in padding), (0, 0, 0)])


def _taps(x: jax.Array, kernel_size: Pair, stride: Pair, dilation: Pair, size: Pair) -> list[jax.Array]:
    """The input that each kernel tap sees: strided views of the padded x, in the kernel's order.

    Fused into what reads them, never stored.
    """

    def view(a: int, b: int) -> jax.Array:
        start = (a * dilation[0], b * dilation[1])
        limit = [begin + (n - 1) * s + 1 for begin, n, s in zip(start, size, stride, strict=True)]
        return lax.slice(x, (0, *start, 0), (x.shape[0], *limit, x.shape[3]), (1, *stride, 1))

    return [view(a, b) for a in range(kernel_size[0]) for b in range(kernel_size[1])]


_materialized = lax.optimization_barrier  # what XLA computes once and keeps, instead of again in every reader
