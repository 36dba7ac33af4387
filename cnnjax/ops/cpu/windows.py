"""Folding over the windows of a pool by strided slices.

On a CPU `lax.reduce_window` is a scalar loop, and its reverse, `select_and_scatter`, is serial (20 to 30 times slower
than PyTorch). Here a window is read as `kh * kw` strided slices, which XLA:CPU fuses into one threaded vector loop over
channels. Two details make it fast:

* Nothing is padded. A `pad` inside a fusion is a bounds check per element and tap, and outside it another pass over
  memory. Instead the output is cut into runs of positions whose windows reach the same taps (a corner, an edge, the
  interior), and the runs are concatenated.
* The backward pass never scatters. Input position `stride * cell + phase` is only read by the few outputs
  `cell + offset`, so a gradient is one elementwise loop over (cell, phase).
"""

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from cnnjax.ops.axes import Axis, whole

# Up to as many taps, a window is reduced in one pass over both axes; larger ones along the width, then along the
# height. One pass reads the input once; two take kh + kw taps instead of kh * kw.
MAX_TAPS_PER_PASS = 9


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
    """Return a weighted sum over each window that is linear in `x` and has a fast transpose.

    The input is split into blocks (n, cells, phases, cells, phases, c). `weigh(block, region, taps)` weights a block
    for the outputs `region` (two slices), which read its phases as `taps` (-1: not read). In the transpose each split
    becomes a concatenate, each sum over phases a broadcast, and each pad a slice of the output's cotangent: one fused
    elementwise loop.
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


def sums(x: jax.Array, rows: Axis, columns: Axis) -> jax.Array:
    """Return the sum of every window."""
    if rows.window * columns.window <= MAX_TAPS_PER_PASS:
        return sum_in_one_pass(x, rows, columns)
    return sum_in_two_passes(x, rows, columns)


@partial(jax.custom_jvp, nondiff_argnums=(1, 2))
def sum_in_one_pass(x: jax.Array, rows: Axis, columns: Axis) -> jax.Array:
    """Add up `kh * kw` slices."""
    return fold_windows(x, rows, columns, lambda taps: sum(value for _, value in taps), jnp.zeros((), x.dtype))


@sum_in_one_pass.defjvp
def _sum_jvp(
    rows: Axis, columns: Axis, primals: tuple[jax.Array], tangents: tuple[jax.Array]
) -> tuple[jax.Array, jax.Array]:
    def read(block: jax.Array, region: tuple[slice, slice], taps: np.ndarray) -> jax.Array:
        return block if (taps >= 0).all() else jnp.where(taps >= 0, block, jnp.zeros((), block.dtype))

    return sum_in_one_pass(primals[0], rows, columns), gather_windows(tangents[0], rows, columns, read)


def sum_in_two_passes(x: jax.Array, rows: Axis, columns: Axis) -> jax.Array:
    """Add up along the width, then along the height."""
    across = sum_in_one_pass(x, whole(rows.size), columns)
    return sum_in_one_pass(across, rows, whole(columns.out))


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
