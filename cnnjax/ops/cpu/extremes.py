"""Maximum and minimum of every window by strided slices, with a gradient that goes to the winner."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from cnnjax.ops.axes import Axis, whole
from cnnjax.ops.cpu.windows import MAX_TAPS_PER_PASS, fold_windows, gather_windows


class Order(NamedTuple):
    """Which of two values a pool keeps."""

    keep: Callable[[Any, Any], jax.Array]
    beats: Callable[[Any, Any], jax.Array]
    worst: float


MAXIMUM = Order(lax.max, lax.gt, -np.inf)
MINIMUM = Order(lax.min, lax.lt, np.inf)


def extremes(x: jax.Array, rows: Axis, columns: Axis, order: Order) -> jax.Array:
    """Return the extreme of every window; an infinity where a window has no input."""
    if rows.window * columns.window <= MAX_TAPS_PER_PASS:
        return extreme_in_one_pass(x, rows, columns, order)
    return extreme_in_two_passes(x, rows, columns, order)


@partial(jax.custom_jvp, nondiff_argnums=(1, 2, 3))
def extreme_in_one_pass(x: jax.Array, rows: Axis, columns: Axis, order: Order) -> jax.Array:
    """Compare `kh * kw` slices."""
    return fold_windows(x, rows, columns, partial(best_of, order=order), jnp.asarray(order.worst, x.dtype))


@extreme_in_one_pass.defjvp
def _extreme_jvp(
    rows: Axis, columns: Axis, order: Order, primals: tuple[jax.Array], tangents: tuple[jax.Array]
) -> tuple[jax.Array, jax.Array]:
    (x,), (x_dot,) = primals, tangents
    # The barrier keeps the winners as a small array: XLA would fuse their computation into each of their readers in
    # the backward pass, and repeat it there up to nine times.
    won = lax.optimization_barrier(winners(x, rows, columns, order))
    return extreme_in_one_pass(x, rows, columns, order), pick(x_dot, won, rows, columns)


def extreme_in_two_passes(x: jax.Array, rows: Axis, columns: Axis, order: Order) -> jax.Array:
    """Compare along the width, then along the height.

    The first row that holds the extreme, and in it the first column, is the row-major first winner.
    """
    across = extreme_in_one_pass(x, whole(rows.size), columns, order)
    return extreme_in_one_pass(across, rows, whole(columns.out), order)


def best_of(taps: list[tuple[int, jax.Array]], order: Order) -> jax.Array:
    """Return the extreme of slices, for `fold_windows`."""
    best = taps[0][1]
    for _, value in taps[1:]:
        best = order.keep(best, value)
    return best


def winners(x: jax.Array, rows: Axis, columns: Axis, order: Order) -> jax.Array:
    """Return the winning tap `a * kw + b` of every window in the smallest integer type; -1 where it has no input."""
    dtype = np.min_scalar_type(-rows.window * columns.window)

    def winner(taps: list[tuple[int, jax.Array]]) -> jax.Array:
        """The first of equal values wins, and the last NaN, as in torch."""
        first, best = taps[0]
        tap = lax.full_like(best, first, dtype)
        for number, value in taps[1:]:
            wins = lax.bitwise_or(order.beats(value, best), lax.ne(value, value))
            best, tap = lax.select(wins, value, best), lax.select(wins, lax.full_like(tap, number), tap)
        return tap

    return fold_windows(x, rows, columns, winner, jnp.asarray(-1, dtype))


def pick(x: jax.Array, tap_numbers: jax.Array, rows: Axis, columns: Axis) -> jax.Array:
    """Return the value that each window's winning tap reads from `x`; linear in `x`."""

    def won(block: jax.Array, region: tuple[slice, slice], taps: np.ndarray) -> jax.Array:
        n, _, _, c = tap_numbers.shape
        (top, bottom), (left, right) = ((part.start, part.stop) for part in region)
        tap = lax.slice(tap_numbers, (0, top, left, 0), (n, bottom, right, c))
        tap = lax.broadcast_in_dim(tap, block.shape, (0, 1, 3, 5))
        read = lax.eq(tap, lax.broadcast_in_dim(taps.astype(tap.dtype), block.shape, tuple(range(6))))
        return lax.select(read, block, lax.full_like(block, 0))

    return gather_windows(x, rows, columns, won)
