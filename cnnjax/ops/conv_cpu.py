"""A convolution and its two gradients, each in the form that XLA's CPU backend runs fastest.

What XLA:CPU is slow at (measured on jaxlib 0.10 and 0.12), besides what `conv_cpu_dense` says of one dense
convolution: a kernel gradient in groups (`batch_group_count`) always takes a scalar loop, and a forward convolution in
groups is slow too.

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
from cnnjax.ops.conv_cpu_dense import convolution, fills_cells
from cnnjax.ops.conv_cpu_parts import (
    Pair,
    Sides,
    interleave,
    pad,
    phase_parts,
    phases_of,
    reach,
    spread_taps,
    taps_are_fewer_than_phases,
    taps_of,
)

FEW_IMAGES = 8  # below, a kernel gradient is a product a tap: a batch as input channels would leave lanes empty
# With up to as many pixels a channel, dy is multiplied by all taps at once: a convolution would turn the kernel around
# first (3x3 of 256 to 512 channels: 1.3 to 2.6 times slower; with 10 pixels a channel it is faster). Every tap is a
# term to compile.
FEW_PIXELS, MOST_TAPS = 2.5, 64
SIMD_WIDTH = 16  # narrow groups are merged up to one vector register of float32
MOST_CONVOLUTIONS = 64  # that a convolution in groups is split into
FEW_CHANNELS = 64  # up to as many in all, the s*s phases of a strided input gradient share one convolution


# ---------------------------------------------------------------- the three maps on the CPU


def forward(x: jax.Array, kernel: jax.Array, *, stride: Pair, padding: Sides, dilation: Pair, groups: int) -> jax.Array:
    """`y[n, i, j, o] = sum_abc x[n, i*s + a*d - p, j*s + b*d - p, c] * kernel[a, b, c, o]`."""
    depth = kernel.shape[2]
    if groups > 1 and depth == 1:
        return conv_cpu_depthwise.forward(x, kernel, stride, padding, dilation)
    if groups > 1:
        dense = functools.partial(convolution, stride=stride, padding=padding, dilation=dilation)
        return _by_groups(dense, x, kernel, groups)
    return convolution(x, kernel, stride, padding, dilation)


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
    taps = math.prod(kernel.shape[:2])
    few_pixels = math.prod(dy.shape[:3]) <= FEW_PIXELS * dy.shape[3] and taps <= MOST_TAPS
    if few_pixels or taps == 1 or taps_are_fewer_than_phases(kernel, stride):
        products = lax.dot_general(dy, kernel.reshape(-1, dy.shape[3]), (((3,), (1,)), ((), ())))
        parts = lax.split(products, [kernel.shape[2]] * taps, axis=3)
        return spread_taps(parts, kernel.shape[:2], input_size, stride, padding, dilation)
    kernel = kernel.swapaxes(2, 3)
    if stride == (1, 1):
        phase = phases_of(input_size, dy.shape[1:3], kernel.shape[:2], stride, padding, dilation)[0]
        return _phase_convolution(dy, kernel, phase)
    merge = kernel.shape[3] * math.prod(stride) <= FEW_CHANNELS or fills_cells(kernel, stride)
    if dilation == (1, 1) and merge:
        return _merged_phases_input_gradient(dy, kernel, input_size, stride, padding)
    # s*s interleaved stride-1 convolutions: no zero-stuffed dy, so 1/(s*s) of its multiply-adds.
    phases = phases_of(input_size, dy.shape[1:3], kernel.shape[:2], stride, padding, dilation)
    return interleave([_phase_convolution(dy, kernel, phase) for phase in phases], stride, input_size)


def _dense_kernel_gradient(
    x: jax.Array, dy: jax.Array, kernel_size: Pair, stride: Pair, padding: Sides, dilation: Pair
) -> jax.Array:
    # Both are turned around before they are multiplied: XLA would compute whatever they come from again in that loop,
    # value by value across the memory (a max pooling before a 1x1 convolution: 7 of the 130 ms of a SqueezeNet's step).
    x, dy = stored(lambda x: x, x), stored(lambda dy: dy, dy)
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
    dk = convolution(x.transpose(3, 1, 2, 0), dy.transpose(1, 2, 0, 3), dilation, padding, stride, off_library=True)
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
    dx = convolution(dy, kernel[::-1, ::-1], (1, 1), tuple((b - 1, b - 1) for b in blocks), (1, 1))
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


def _phase_convolution(dy: jax.Array, kernel: jax.Array, phase: Any) -> jax.Array:
    kernel, padding, dilation, size = phase_parts(kernel, phase)
    if kernel.size == 0:
        return jnp.zeros((dy.shape[0], *size, kernel.shape[3]), dy.dtype)
    return convolution(dy, kernel, (1, 1), padding, dilation)


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
