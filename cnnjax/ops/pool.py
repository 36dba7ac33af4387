"""Pooling over the two spatial axes."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from cnnjax.ops import arguments
from cnnjax.ops.arguments import Ints
from cnnjax.ops.windows import Axis, fold_windows, gather_windows, pool_axes, reduce_window, whole

# Up to this many taps a window is reduced in one pass over both axes, larger windows along the width, then along the
# height. One pass reads the input once; two take kh + kw taps instead of kh * kw (measured at 5x5: 2.6 times faster).
ONE_PASS_TAPS = 9


def max_pool2d(
    x: jax.Array,
    window: Ints,
    *,
    stride: Ints | None = None,
    padding: Ints = 0,
    dilation: Ints = 1,
    ceil_mode: bool = False,
) -> jax.Array:
    """Return the largest value of each window: `y[n, i, j, c] = max_ab x[n, i*s + a*d - p, j*s + b*d - p, c]`.

    Args:
        x: images (batch, height, width, channels) of any float dtype; the result has the same.
        window: taps, an integer or (height, width).
        stride: pixels between two windows; default: the window.
        padding: pixels on each side that never win, at most half a window.
        dilation: pixels between two taps.
        ceil_mode: round the output size up; a window must still start inside the input or its first padding.

    Returns:
        (batch, out_height, out_width, channels), with sizes as `geometry.conv_output_size` unless `ceil_mode`. The
        gradient goes to the first winner in row-major order, also on ties, and NaN propagates, both as
        `torch.nn.functional.max_pool2d`.

    Raises:
        ValueError: wrong rank or dtype, or an argument out of range.

    Source: claims D1, D2, D4, D6, D7.
    """
    return _extreme_pool(x, window, stride, padding, dilation, ceil_mode, MAXIMUM)


class Order(NamedTuple):
    """Which of two values a pool keeps."""

    keep: Callable[[Any, Any], jax.Array]
    beats: Callable[[Any, Any], jax.Array]
    worst: float


MAXIMUM = Order(lax.max, lax.gt, -np.inf)


def _extreme_pool(
    x: jax.Array, window: Ints, stride: Ints | None, padding: Ints, dilation: Ints, ceil_mode: bool, order: Order
) -> jax.Array:
    x = arguments.image("x", x)
    rows, columns = pool_axes(x, window, stride, padding, dilation, ceil_mode)
    return lax.platform_dependent(
        x,
        cpu=partial(_extreme_by_slices, rows=rows, columns=columns, order=order),
        default=partial(_extreme_by_reduce_window, rows=rows, columns=columns, order=order),
    )


def _extreme_by_reduce_window(x: jax.Array, rows: Axis, columns: Axis, order: Order) -> jax.Array:
    return reduce_window(x, rows, columns, order.worst, order.keep)


def _extreme_by_slices(x: jax.Array, rows: Axis, columns: Axis, order: Order) -> jax.Array:
    if rows.window * columns.window <= ONE_PASS_TAPS:
        return _extreme(x, rows, columns, order)
    # Along the width, then the height: the first row that holds the extreme, and in it the first column, is the
    # row-major first winner.
    return _extreme(_extreme(x, whole(rows.size), columns, order), rows, whole(columns.out), order)


@partial(jax.custom_jvp, nondiff_argnums=(1, 2, 3))
def _extreme(x: jax.Array, rows: Axis, columns: Axis, order: Order) -> jax.Array:
    return fold_windows(x, rows, columns, partial(_best, order=order), jnp.asarray(order.worst, x.dtype))


@_extreme.defjvp
def _extreme_jvp(
    rows: Axis, columns: Axis, order: Order, primals: tuple[jax.Array], tangents: tuple[jax.Array]
) -> tuple[jax.Array, jax.Array]:
    (x,), (x_dot,) = primals, tangents
    # The barrier keeps the winners as a small array: XLA would fuse their computation into each of their readers in
    # the backward pass, and repeat it there up to nine times.
    winners = lax.optimization_barrier(_winners(x, rows, columns, order))
    return _extreme(x, rows, columns, order), _pick(x_dot, winners, rows, columns)


def _best(taps: list[tuple[int, jax.Array]], order: Order) -> jax.Array:
    best = taps[0][1]
    for _, value in taps[1:]:
        best = order.keep(best, value)
    return best


def _winners(x: jax.Array, rows: Axis, columns: Axis, order: Order) -> jax.Array:
    """The winning tap `a * kw + b` of every window, in the smallest integer type; -1 where a window has no input."""
    dtype = np.min_scalar_type(-rows.window * columns.window)

    def winner(taps: list[tuple[int, jax.Array]]) -> jax.Array:
        """The first of equals, and the last NaN, as torch."""
        first, best = taps[0]
        tap = jnp.full(best.shape, first, dtype)
        for number, value in taps[1:]:
            wins = order.beats(value, best) | (value != value)
            best, tap = jnp.where(wins, value, best), jnp.where(wins, jnp.asarray(number, dtype), tap)
        return tap

    return fold_windows(x, rows, columns, winner, jnp.asarray(-1, dtype))


def _pick(x: jax.Array, winners: jax.Array, rows: Axis, columns: Axis) -> jax.Array:
    """The value that each window's winning tap reads from `x`; linear in `x`."""

    def won(block: jax.Array, region: tuple[slice, slice], taps: np.ndarray) -> jax.Array:
        tap = lax.expand_dims(winners[:, region[0], region[1]], (2, 4))
        return jnp.where(tap == taps.astype(winners.dtype), block, jnp.zeros((), x.dtype))

    return gather_windows(x, rows, columns, won)
