"""How pooling windows lie over an image, and folding over them by slices.

Why not `lax.reduce_window` on a CPU: it is a scalar loop, and its reverse, `select_and_scatter`, is a serial one (20 to
30 times slower than PyTorch). Here a window is read as `kh * kw` strided slices, which XLA:CPU fuses into one threaded
vector loop over channels. Two details decide the speed:

* Nothing is padded. A `pad` inside a fusion is a bounds check per element and tap, and outside it another pass over
  memory; the output is cut instead into runs of positions whose windows reach the same taps (a corner, an edge, the
  interior), and the runs are concatenated.
* The backward pass never scatters. Input position `stride * cell + phase` is only read by the few outputs
  `cell + offset`, so a gradient is one elementwise loop over (cell, phase).
"""

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from cnnjax.ops import arguments
from cnnjax.ops.arguments import Ints

# Up to this many taps a window is reduced in one pass over both axes, larger windows along the width, then along the
# height. One pass reads the input once; two take kh + kw taps instead of kh * kw (measured at 5x5: 2.6 times faster).
ONE_PASS_TAPS = 9


class Axis(NamedTuple):
    """Windows along one axis: tap `a` of output `o` reads input `o * stride + a * dilation - padding`."""

    size: int
    window: int
    stride: int
    padding: int
    dilation: int
    out: int

    def position(self, output: int, tap: int) -> int:
        """Return the input position that a tap reads; outside of [0, size) it is padding."""
        return output * self.stride + tap * self.dilation - self.padding


def pool_axes(
    x: jax.Array, window: Ints, stride: Ints | None, padding: Ints, dilation: Ints = 1, ceil_mode: bool = False
) -> tuple[Axis, Axis]:
    """Check pooling arguments and return the rows' and columns' geometry.

    Raises:
        ValueError: naming the argument, its value and what was expected.
    """
    windows = arguments.pair("window", window, 1)
    strides = windows if stride is None else arguments.pair("stride", stride, 1)
    paddings, dilations = arguments.pair("padding", padding, 0), arguments.pair("dilation", dilation, 1)
    numbers = zip(arguments.spatial(x), windows, strides, paddings, dilations, strict=True)
    beyond = [stride - 1 if ceil_mode else 0 for stride in strides]  # what the last window may lack
    sides = ((paddings[0], paddings[0] + beyond[0]), (paddings[1], paddings[1] + beyond[1]))
    arguments.check_fits(arguments.spatial(x), sides, windows, dilations)
    rows, columns = (_axis(*axis, ceil_mode) for axis in numbers)
    return rows, columns


def _axis(size: int, window: int, stride: int, padding: int, dilation: int, ceil_mode: bool) -> Axis:
    """Output size as torch: floor or ceil, and no window starts beyond the input and its first padding."""
    extent = dilation * (window - 1) + 1
    if padding > extent // 2:
        raise ValueError(f"padding must be at most half the window's {extent} pixels, {extent // 2}, got {padding}")
    room = size + 2 * padding - extent
    out = (room + (stride - 1 if ceil_mode else 0)) // stride + 1
    if ceil_mode and (out - 1) * stride >= size + padding:
        out -= 1
    within = (size + 2 * padding - 1) // dilation + 1  # taps beyond the padding are neither read nor counted
    return Axis(size, min(window, within), stride, padding, dilation, out)


def whole(size: int) -> Axis:
    """Return the axis left as it is: windows of one."""
    return Axis(size, 1, 1, 0, 1, size)


def fold_windows(x: jax.Array, rows: Axis, columns: Axis, combine: Callable[[Any], jax.Array], empty: Any) -> jax.Array:
    """Return `combine([(tap, slice), ...])` of every window, taps in row-major order; `empty` where it has no input."""
    n, _, _, c = x.shape
    bands = []
    for top, bottom, row_taps in _window_runs(rows):
        parts = []
        for left, right, column_taps in _window_runs(columns):
            taps = []
            for a in row_taps:
                for b in column_taps:
                    i, j = rows.position(top, a), columns.position(left, b)
                    stop = i + (bottom - top - 1) * rows.stride + 1, j + (right - left - 1) * columns.stride + 1
                    piece = lax.slice(x, (0, i, j, 0), (n, *stop, c), (1, rows.stride, columns.stride, 1))
                    taps.append((a * columns.window + b, piece))
            shape = (n, bottom - top, right - left, c)
            parts.append(combine(taps) if taps else jnp.broadcast_to(empty, shape))
        bands.append(lax.concatenate(parts, 2))
    return lax.concatenate(bands, 1)


def gather_windows(
    x: jax.Array, rows: Axis, columns: Axis, weigh: Callable[[jax.Array, tuple[slice, slice], np.ndarray], jax.Array]
) -> jax.Array:
    """Return a sum over each window that is linear in `x`, written so that its transpose is fast.

    The input is split into blocks (n, cells, phases, cells, phases, c); `weigh(block, region, taps)` scales a block by
    what it is worth to the outputs `region` (two slices), which read its phases as `taps` (-1: not read). Transposed,
    each split becomes a concatenate, each sum over phases a broadcast, and each pad a slice of the output's cotangent:
    one fused elementwise loop.
    """
    n, _, _, c = x.shape
    row_runs, column_runs = _cell_runs(rows), _cell_runs(columns)
    total = lax.full((n, rows.out, columns.out, c), 0, x.dtype)
    bands = lax.split(x, _cell_sizes(rows, row_runs), axis=1)
    for (r0, r1, (row_phases, row_readers)), band in zip(row_runs, bands, strict=True):
        blocks = lax.split(band, _cell_sizes(columns, column_runs), axis=2)
        for (c0, c1, (column_phases, column_readers)), flat in zip(column_runs, blocks, strict=True):
            block = lax.reshape(flat, (n, r1 - r0, row_phases, c1 - c0, column_phases, c))
            for e, row_taps in row_readers:
                for f, column_taps in column_readers:
                    taps = [[a * columns.window + b if min(a, b) >= 0 else -1 for b in column_taps] for a in row_taps]
                    region = slice(r0 + e, r1 + e), slice(c0 + f, c1 + f)
                    read = np.array(taps).reshape(1, 1, row_phases, 1, column_phases, 1)
                    part = lax.reduce_sum(weigh(block, region, read), (2, 4))
                    edges = (r0 + e, rows.out - r1 - e, 0), (c0 + f, columns.out - c1 - f, 0)
                    total = lax.add(total, lax.pad(part, np.zeros((), x.dtype), ((0, 0, 0), *edges, (0, 0, 0))))
    return total


def reduce_window(x: jax.Array, rows: Axis, columns: Axis, start: float, operation: Any) -> jax.Array:
    """Return `lax.reduce_window` with this geometry: the reference, and what GPU and TPU run."""

    def edges(axis: Axis) -> tuple[int, int]:
        return axis.padding, max(axis.position(axis.out - 1, axis.window - 1) + 1 - axis.size, 0)

    return lax.reduce_window(
        x,
        np.asarray(start, x.dtype),  # concrete, or JAX does not see which reduction this is and cannot differentiate it
        operation,
        (1, rows.window, columns.window, 1),
        (1, rows.stride, columns.stride, 1),
        ((0, 0), edges(rows), edges(columns), (0, 0)),
        window_dilation=(1, rows.dilation, columns.dilation, 1),
    )


def window_sums(x: jax.Array, rows: Axis, columns: Axis) -> jax.Array:
    """Return the sum of every window."""
    return lax.platform_dependent(
        x,
        cpu=partial(_sums_by_slices, rows=rows, columns=columns),
        default=partial(reduce_window, rows=rows, columns=columns, start=0, operation=lax.add),
    )


def _sums_by_slices(x: jax.Array, rows: Axis, columns: Axis) -> jax.Array:
    if rows.window * columns.window <= ONE_PASS_TAPS:
        return _sum(x, rows, columns)
    return _sum(_sum(x, whole(rows.size), columns), rows, whole(columns.out))


@partial(jax.custom_jvp, nondiff_argnums=(1, 2))
def _sum(x: jax.Array, rows: Axis, columns: Axis) -> jax.Array:
    return fold_windows(x, rows, columns, lambda taps: sum(value for _, value in taps), jnp.zeros((), x.dtype))


@_sum.defjvp
def _sum_jvp(
    rows: Axis, columns: Axis, primals: tuple[jax.Array], tangents: tuple[jax.Array]
) -> tuple[jax.Array, jax.Array]:
    def read(block: jax.Array, region: tuple[slice, slice], taps: np.ndarray) -> jax.Array:
        return block if (taps >= 0).all() else jnp.where(taps >= 0, block, jnp.zeros((), block.dtype))

    return _sum(primals[0], rows, columns), gather_windows(tangents[0], rows, columns, read)


def _runs(keys: Iterable[Any]) -> list[tuple[int, int, Any]]:
    """Maximal runs of equal keys as (start, stop, key)."""
    runs: list[tuple[int, int, Any]] = []
    for index, key in enumerate(keys):
        start = runs.pop()[0] if runs and runs[-1][2] == key else index
        runs.append((start, index + 1, key))
    return runs


def _window_runs(axis: Axis) -> list[tuple[int, int, Any]]:
    """Output positions grouped by the taps that fall inside the input."""
    return _runs(tuple(a for a in range(axis.window) if 0 <= axis.position(o, a) < axis.size) for o in range(axis.out))


def _cell_runs(axis: Axis) -> list[tuple[int, int, Any]]:
    """Cells of `stride` input positions grouped by (phases, the outputs that read them).

    The readers of cell `r` are (offset, tap per phase): output `r + offset` reads phase `u` as tap `taps[u]`, or not
    at all where that is -1. The last cell has fewer phases where the stride does not divide the size.
    """

    def cell(r: int) -> tuple[int, tuple[tuple[int, tuple[int, ...]], ...]]:
        phases = min(axis.stride, axis.size - r * axis.stride)
        readers: dict[int, list[int]] = {}
        for u in range(phases):
            for a in range(axis.window):
                output, rest = divmod(r * axis.stride + u + axis.padding - a * axis.dilation, axis.stride)
                if rest == 0 and 0 <= output < axis.out:
                    readers.setdefault(output - r, [-1] * phases)[u] = a
        return phases, tuple((offset, tuple(taps)) for offset, taps in sorted(readers.items()))

    return _runs(cell(r) for r in range(-(-axis.size // axis.stride)))


def _cell_sizes(axis: Axis, runs: list[tuple[int, int, Any]]) -> list[int]:
    return [min(stop * axis.stride, axis.size) - start * axis.stride for start, stop, _ in runs]
