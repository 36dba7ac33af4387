"""Depthwise convolution and its gradients on the CPU: products of shifted maps, fused into one loop."""

import functools

import jax
import jax.numpy as jnp
from jax import lax

from cnnjax.fusion import stored
from cnnjax.ops.conv_cpu_parts import (
    Pair,
    Sides,
    interleave,
    output_size,
    pad,
    phase_parts,
    phases_of,
    spread_taps,
    taps_are_fewer_than_phases,
    taps_of,
)
from cnnjax.ops.windows import ONE_PASS_TAPS, Axis, fold_windows


def forward(x: jax.Array, kernel: jax.Array, stride: Pair, padding: Sides, dilation: Pair) -> jax.Array:
    """`conv_cpu.forward` with a group for every channel of x."""
    size = output_size(x, kernel.shape[:2], stride, padding, dilation)
    return _weighted_windows(_repeat_channels(x, kernel), kernel, stride, padding, dilation, size)


def input_gradient(
    dy: jax.Array, kernel: jax.Array, channels: int, input_size: Pair, stride: Pair, padding: Sides, dilation: Pair
) -> jax.Array:
    """`conv_cpu.input_gradient` with a group for every channel of x."""
    if taps_are_fewer_than_phases(kernel, stride):
        parts = [dy * weight for weight in kernel.reshape(-1, kernel.shape[3])]
        dx = spread_taps(parts, kernel.shape[:2], input_size, stride, padding, dilation)
    else:
        phases = phases_of(input_size, dy.shape[1:3], kernel.shape[:2], stride, padding, dilation)
        parts = [phase_parts(kernel, phase) for phase in phases]
        sums = [_weighted_windows(dy, taps, (1, 1), sides, gaps, size) for taps, sides, gaps, size in parts]
        dx = interleave(sums, stride, input_size)
    return dx if dx.shape[3] == channels else dx.reshape(*dx.shape[:3], channels, -1).sum(4)


def kernel_gradient(
    x: jax.Array, dy: jax.Array, kernel_size: Pair, stride: Pair, padding: Sides, dilation: Pair
) -> jax.Array:
    """`conv_cpu.kernel_gradient` with a group for every channel of x."""
    x = stored(lambda x: pad(_repeat_channels(x, dy), padding), x)
    taps = taps_of(x, kernel_size, stride, dilation, dy.shape[1:3])
    # One reduction with an output per tap reads x and dy once; over rows and columns only, so that the images are
    # shared among threads.
    zero = jnp.zeros((), x.dtype)
    axes = (1, 2) if x.shape[0] > 1 else (2,)
    sums = lax.reduce(
        [tap * dy for tap in taps], [zero] * len(taps), lambda a, b: [p + q for p, q in zip(a, b, strict=True)], axes
    )
    sums = jnp.stack(sums)
    return sums.sum(tuple(range(1, sums.ndim - 1))).reshape(*kernel_size, 1, -1)


def _weighted_windows(
    x: jax.Array, kernel: jax.Array, stride: Pair, padding: Sides, dilation: Pair, size: Pair
) -> jax.Array:
    """Sum of every window's pixels, each times its tap's weight.

    Small windows are cut where they leave the image (`windows` says why: half the time of padding it), for larger ones
    that would be too many pieces to compile.
    """
    zero = jnp.zeros((), x.dtype)
    if kernel.size == 0:
        return jnp.broadcast_to(zero, (x.shape[0], *size, x.shape[3]))
    if kernel.shape[0] * kernel.shape[1] > ONE_PASS_TAPS:
        x, padding = stored(lambda x: pad(x, padding), x), ((0, 0), (0, 0))
    axes = zip(x.shape[1:3], kernel.shape[:2], stride, (lo for lo, _ in padding), dilation, size, strict=True)
    rows, columns = (Axis(*axis) for axis in axes)
    weights = kernel.reshape(-1, kernel.shape[-1])
    return fold_windows(
        x, rows, columns, lambda taps: functools.reduce(jnp.add, [value * weights[tap] for tap, value in taps]), zero
    )


def _repeat_channels(x: jax.Array, like: jax.Array) -> jax.Array:
    multiplier = like.shape[-1] // x.shape[-1]
    return jnp.repeat(x, multiplier, axis=-1) if multiplier > 1 else x
