"""Depthwise convolution and its gradients on the CPU: products of shifted maps, fused into one loop."""

import functools

import jax
import jax.numpy as jnp
from jax import lax

from cnnjax.ops.axes import Axis
from cnnjax.ops.cpu.fusion import stored
from cnnjax.ops.cpu.phases import (
    Pair,
    Sides,
    interleave,
    known,
    output_size,
    pad,
    phase_parts,
    phases_of,
    spread_taps,
    taps_are_fewer_than_phases,
    taps_of,
)
from cnnjax.ops.cpu.windows import MAX_TAPS_PER_PASS, fold_windows


def forward(x: jax.Array, kernel: jax.Array, stride: Pair, padding: Sides, dilation: Pair) -> jax.Array:
    """`conv.forward` with one group per channel of x."""
    size = output_size(x, kernel.shape[:2], stride, padding, dilation)
    return weighted_windows(_repeat_channels(x, kernel), kernel, stride, padding, dilation, size)


def input_gradient(
    dy: jax.Array, kernel: jax.Array, channels: int, input_size: Pair, stride: Pair, padding: Sides, dilation: Pair
) -> jax.Array:
    """`conv.input_gradient` with one group per channel of x."""
    if dy.shape[3] != channels:  # several outputs per channel
        dx = input_gradient(dy, kernel, dy.shape[3], input_size, stride, padding, dilation)
        return dx.reshape(*dx.shape[:3], channels, dy.shape[3] // channels).sum(4)
    if taps_are_fewer_than_phases(kernel, stride):
        return spread_products(dy, kernel, input_size, stride, padding, dilation)
    return interleaved_phases(dy, kernel, input_size, stride, padding, dilation)


def kernel_gradient(
    x: jax.Array, dy: jax.Array, kernel_size: Pair, stride: Pair, padding: Sides, dilation: Pair
) -> jax.Array:
    """`conv.kernel_gradient` with one group per channel of x."""
    x = stored(lambda x: pad(_repeat_channels(x, dy), padding), x)
    taps = taps_of(x, kernel_size, stride, dilation, dy.shape[1:3])
    # One reduction with an output per tap reads x and dy once; over rows and columns only, so that the images are
    # shared among threads.
    zero = jnp.zeros((), x.dtype)
    axes = (1, 2) if known(x.shape[0]) > 1 else (2,)
    sums = lax.reduce(
        [tap * dy for tap in taps], [zero] * len(taps), lambda a, b: [p + q for p, q in zip(a, b, strict=True)], axes
    )
    sums = jnp.stack(sums)
    return sums.sum(tuple(range(1, sums.ndim - 1))).reshape(*kernel_size, 1, -1)


def spread_products(
    dy: jax.Array, kernel: jax.Array, input_size: Pair, stride: Pair, padding: Sides, dilation: Pair
) -> jax.Array:
    """The products of dy with every tap, spread and added."""
    parts = [dy * weight for weight in _weights(kernel)]
    return spread_taps(parts, kernel.shape[:2], input_size, stride, padding, dilation)


def interleaved_phases(
    dy: jax.Array, kernel: jax.Array, input_size: Pair, stride: Pair, padding: Sides, dilation: Pair
) -> jax.Array:
    """s*s interleaved stride-1 convolutions."""
    phases = phases_of(input_size, dy.shape[1:3], kernel.shape[:2], stride, padding, dilation)
    parts = [phase_parts(kernel, phase) for phase in phases]
    sums = [weighted_windows(dy, taps, (1, 1), sides, gaps, size) for taps, sides, gaps, size in parts]
    return interleave(sums, stride, input_size)


def weighted_windows(
    x: jax.Array, kernel: jax.Array, stride: Pair, padding: Sides, dilation: Pair, size: Pair
) -> jax.Array:
    """Sum the pixels of every window, each times its tap's weight."""
    if kernel.size == 0:
        return jnp.broadcast_to(jnp.zeros((), x.dtype), (x.shape[0], *size, x.shape[3]))
    if kernel.shape[0] * kernel.shape[1] <= MAX_TAPS_PER_PASS:
        return cut_windows(x, kernel, stride, padding, dilation, size)
    return padded_windows(x, kernel, stride, padding, dilation, size)


def cut_windows(x: jax.Array, kernel: jax.Array, stride: Pair, padding: Sides, dilation: Pair, size: Pair) -> jax.Array:
    """Windows are cut where they leave the image; `windows` explains why."""
    axes = zip(x.shape[1:3], kernel.shape[:2], stride, (lo for lo, _ in padding), dilation, size, strict=True)
    rows, columns = (Axis(*axis) for axis in axes)
    weights = _weights(kernel)

    def weighted(taps: list[tuple[int, jax.Array]]) -> jax.Array:
        return functools.reduce(jnp.add, [value * weights[tap] for tap, value in taps])

    return fold_windows(x, rows, columns, weighted, jnp.zeros((), x.dtype))


def padded_windows(
    x: jax.Array, kernel: jax.Array, stride: Pair, padding: Sides, dilation: Pair, size: Pair
) -> jax.Array:
    """The image is padded: large windows would be cut into too many pieces to compile."""
    x = stored(lambda x: pad(x, padding), x)
    return cut_windows(x, kernel, stride, ((0, 0), (0, 0)), dilation, size)


def _weights(kernel: jax.Array) -> list[jax.Array]:
    """The weights of each tap, as images of one pixel."""
    return list(kernel.reshape(-1, 1, 1, 1, kernel.shape[3]))


def _repeat_channels(x: jax.Array, like: jax.Array) -> jax.Array:
    multiplier = like.shape[-1] // x.shape[-1]
    return jnp.repeat(x, multiplier, axis=-1) if multiplier > 1 else x
