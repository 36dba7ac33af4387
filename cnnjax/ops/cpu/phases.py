"""What the CPU's convolutions are made of: sizes, padding, the input of each tap, and the phases of a stride.

The phase of an input position is its residue modulo the stride. Every phase of a strided convolution's input gradient
is a convolution with stride 1, of dy with the taps that reach that phase.
"""

import functools
import math
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

Pair = tuple[int, ...]  # (height, width)
Sides = tuple[tuple[int, int], ...]  # ((top, bottom), (left, right)); a negative one crops

MAX_PHASES_PER_STRIDE = 64  # vertical times horizontal stride; each phase is a computation to compile


class AxisPhase(NamedTuple):
    """One phase along one axis: the taps that reach it, how dy is padded for them, their dilation, and its size."""

    taps: slice
    padding: tuple[int, int]
    dilation: int
    size: int


def known(size: int) -> int:
    """Return a size to compare: in a program that is exported for batches of any size, that of a large one."""
    return size if isinstance(size, int) else 2**31


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


def pad(x: jax.Array, padding: Sides) -> jax.Array:
    """Zero padding of rows and columns; negative padding crops."""
    if all(lo == hi == 0 for lo, hi in padding):
        return x
    return lax.pad(x, jnp.zeros((), x.dtype), [(0, 0, 0), *((lo, hi, 0) for lo, hi in padding), (0, 0, 0)])


def taps_of(x: jax.Array, kernel_size: Pair, stride: Pair, dilation: Pair, size: Pair) -> list[jax.Array]:
    """The input that each kernel tap sees: strided views of the padded x, in the kernel's order.

    XLA fuses them into their readers and never stores them.
    """

    def view(a: int, b: int) -> jax.Array:
        start = (a * dilation[0], b * dilation[1])
        limit = [begin + (n - 1) * s + 1 for begin, n, s in zip(start, size, stride, strict=True)]
        return lax.slice(x, (0, *start, 0), (x.shape[0], *limit, x.shape[3]), (1, *stride, 1))

    return [view(a, b) for a in range(kernel_size[0]) for b in range(kernel_size[1])]


# ---------------------------------------------------------------- strides undone by interleaving stride-1 maps


def phases_of(
    input_size: Pair, output_size: Pair, kernel_size: Pair, stride: Pair, padding: Sides, dilation: Pair
) -> list[tuple[AxisPhase, AxisPhase]]:
    """Return the (vertical, horizontal) phases of the input positions, row by row."""
    rows, columns = (
        [_axis_phase(residue, *axis) for residue in range(axis[3])]
        for axis in zip(input_size, output_size, kernel_size, stride, (lo for lo, _ in padding), dilation, strict=True)
    )
    return [(row, column) for row in rows for column in columns]


def _axis_phase(residue: int, size: int, out: int, kernel_size: int, stride: int, pad: int, dilation: int) -> AxisPhase:
    # x[residue + s*q] gathers kernel[a] * dy[q + (residue + pad - a*dilation) / s] over the taps a where that is an
    # integer.
    taps = [a for a in range(kernel_size) if (residue + pad - a * dilation) % stride == 0]
    count = -(-size // stride)
    if not taps:
        return AxisPhase(slice(0, 0), (0, 0), 1, count)
    common = math.gcd(stride, dilation)
    first = (residue + pad - taps[-1] * dilation) // stride  # offset of the last tap: the lowest one
    last = (residue + pad - taps[0] * dilation) // stride
    sides = -first, count - 1 + last - (out - 1)
    return AxisPhase(slice(taps[0], None, stride // common), sides, dilation // common, count)


def phase_parts(kernel: jax.Array, phase: tuple[AxisPhase, AxisPhase]) -> tuple[jax.Array, Sides, Pair, Pair]:
    """Return the flipped taps of a phase, dy's padding, the taps' dilation, and the phase's size."""
    rows, columns = phase
    taps = kernel[rows.taps, columns.taps][::-1, ::-1]
    padding, dilation = (rows.padding, columns.padding), (rows.dilation, columns.dilation)
    return taps, padding, dilation, (rows.size, columns.size)


def interleave(phases: Sequence[jax.Array], stride: Pair, size: Pair) -> jax.Array:
    """Return the map of `size` in which the pixels of phase (u, v) are `phases[u * stride[1] + v]`."""
    if len(phases) == 1:
        return phases[0]
    sh, sw = stride
    rows = [jnp.stack(phases[i * sw : (i + 1) * sw], axis=3) for i in range(sh)]
    n, height, width, _, channels = rows[0].shape
    return jnp.stack(rows, axis=2).reshape(n, height * sh, width * sw, channels)[:, : size[0], : size[1]]


def taps_are_fewer_than_phases(kernel: jax.Array, stride: Pair) -> bool:
    """Whether a stride has too many phases to compile, most of them without a tap."""
    phases = math.prod(stride)
    return phases > MAX_PHASES_PER_STRIDE and kernel.shape[0] * kernel.shape[1] < phases


def spread_taps(
    parts: Sequence[jax.Array], kernel_size: Pair, size: Pair, stride: Pair, padding: Sides, dilation: Pair
) -> jax.Array:
    """Return an input gradient as the sum of its parts, dy times each tap, with the pixels of each `stride` apart."""

    def spread(part: jax.Array, a: int, b: int) -> jax.Array:
        first = [tap * d - lo for tap, d, (lo, _) in zip((a, b), dilation, padding, strict=True)]
        config = [
            (at, n - at - ((have - 1) * s + 1), s - 1)
            for at, n, have, s in zip(first, size, part.shape[1:3], stride, strict=True)
        ]
        return lax.pad(part, jnp.zeros((), part.dtype), [(0, 0, 0), *config, (0, 0, 0)])

    taps = [(a, b) for a in range(kernel_size[0]) for b in range(kernel_size[1])]
    return functools.reduce(jnp.add, [spread(part, *tap) for part, tap in zip(parts, taps, strict=True)])
