"""Pooling over the two spatial axes."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from cnnjax.ops import arguments
from cnnjax.ops.arguments import Ints
from cnnjax.ops.axes import Axis, pool_axes
from cnnjax.ops.cpu.extremes import MAXIMUM, MINIMUM, Order, extremes
from cnnjax.ops.cpu.windows import sums
from cnnjax.ops.meshes import sharded_by_batch
from cnnjax.ops.mix import mix
from cnnjax.ops.precision import in_single_precision

if TYPE_CHECKING:
    from jaxtyping import Array, Float


def max_pool2d(
    x: Float[Array, "n h w c"],
    window: Ints,
    *,
    stride: Ints | None = None,
    padding: Ints = 0,
    dilation: Ints = 1,
    ceil_mode: bool = False,
) -> Float[Array, "n oh ow c"]:
    """Return the largest value of each window: `y[n, i, j, c] = max_ab x[n, i*s + a*d - p, j*s + b*d - p, c]`.

    Args:
        x: images (batch, height, width, channels) of any float dtype; the result has the same.
        window: taps, an integer or (height, width).
        stride: pixels between two windows; default: the window.
        padding: pixels on each side that never win, at most half a window.
        dilation: pixels between two taps.
        ceil_mode: round the output size up: the last window may reach beyond the padding after the image, but starts in
            the image or in the padding before it.

    Returns:
        (batch, out_height, out_width, channels), with sizes as `geometry.conv_output_size` unless `ceil_mode`. The
        gradient goes to the first winner in row-major order, also on ties, and NaN propagates, both as
        `torch.nn.functional.max_pool2d`.

    Raises:
        ValueError: wrong rank or dtype, or an argument out of range.
    """
    x = arguments.image("x", x)
    return window_extremes(x, *pool_axes(x, window, stride, padding, dilation, ceil_mode), MAXIMUM)


def min_pool2d(
    x: Float[Array, "n h w c"],
    window: Ints,
    *,
    stride: Ints | None = None,
    padding: Ints = 0,
    dilation: Ints = 1,
    ceil_mode: bool = False,
) -> Float[Array, "n oh ow c"]:
    """Return the smallest value of each window: `-max_pool2d(-x, ...)`.

    Args, returns and raises as `max_pool2d`.
    """
    x = arguments.image("x", x)
    return window_extremes(x, *pool_axes(x, window, stride, padding, dilation, ceil_mode), MINIMUM)


def avg_pool2d(
    x: Float[Array, "n h w c"],
    window: Ints,
    *,
    stride: Ints | None = None,
    padding: Ints = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
) -> Float[Array, "n oh ow c"]:
    """Return the mean of each window, as `torch.nn.functional.avg_pool2d`.

    Args:
        x: images (batch, height, width, channels).
        window: taps, an integer or (height, width).
        stride: pixels between two windows; default: the window.
        padding: zeros on each side, at most half a window.
        ceil_mode: round the output size up, as `max_pool2d`.
        count_include_pad: whether the padding's zeros count as values; what `ceil_mode` adds beyond never does.

    Returns:
        (batch, out_height, out_width, channels) of x's dtype.

    Raises:
        ValueError: as `max_pool2d`.
    """
    x = arguments.image("x", x)
    rows, columns = pool_axes(x, window, stride, padding, 1, ceil_mode)
    include_pad = arguments.flag("count_include_pad", count_include_pad)
    counts = np.outer(_counts(rows, include_pad), _counts(columns, include_pad))
    weight = 1 / (counts.flat[0] if (counts == counts.flat[0]).all() else counts[None, :, :, None])

    def means(x: jax.Array) -> jax.Array:
        return window_sums(x, rows, columns) * jnp.asarray(weight, x.dtype)

    return in_single_precision(means)(x)


def _counts(axis: Axis, include_pad: bool) -> np.ndarray:
    """Positions that each window averages over along one axis."""
    starts = np.arange(axis.out) * axis.stride - axis.padding
    low, high = (-axis.padding, axis.size + axis.padding) if include_pad else (0, axis.size)
    return np.minimum(starts + axis.window, high) - np.maximum(starts, low)


def lp_pool2d(
    x: Float[Array, "n h w c"], window: Ints, p: float = 2.0, *, stride: Ints | None = None
) -> Float[Array, "n oh ow c"]:
    """Return the p-norm of each window, `(sum |x|^p)^(1/p)`; its gradient is zero where a window or a value is zero.

    Args:
        x: images (batch, height, width, channels); arithmetic is in float32 at least, the result in x's dtype.
        window: taps, an integer or (height, width).
        p: exponent, positive; 2 is the Euclidean norm.
        stride: pixels between two windows; default: the window.

    Raises:
        ValueError: as `max_pool2d`, or p is not positive.
    """
    p = arguments.real("p", p, positive=True)
    x = arguments.image("x", x)
    rows, columns = pool_axes(x, window, stride, 0)

    def norms(x: jax.Array) -> jax.Array:
        return _power(window_sums(_power(jnp.abs(x), p), rows, columns), 1 / p)

    return in_single_precision(norms)(x)


def _power(x: jax.Array, exponent: float) -> jax.Array:
    """`x ** exponent` with slope 0 at 0: zeros are replaced by ones and restored, so no slope is infinite."""
    zero, one = jnp.zeros((), x.dtype), jnp.ones((), x.dtype)
    safe = jnp.where(x == 0, one, x)
    raised = {2.0: lax.square, 0.5: lax.sqrt}.get(exponent, lambda value: value**exponent)(safe)
    return jnp.where(x == 0, zero, raised)


def global_avg_pool2d(x: Float[Array, "n h w c"]) -> Float[Array, "n c"]:
    """Return the mean of every channel, (batch, channels).

    Source: Lin, Chen & Yan, "Network in network" (2013).
    """
    return in_single_precision(_mean)(arguments.image("x", x))


def _mean(x: jax.Array) -> jax.Array:
    # The first of two sums runs along memory; the barrier prevents XLA from merging them into one that does not.
    return lax.optimization_barrier(x.sum(1)).sum(1) / float(x.shape[1] * x.shape[2])


def global_max_pool2d(x: Float[Array, "n h w c"]) -> Float[Array, "n c"]:
    """Return the largest value of every channel, (batch, channels); the gradient goes to the first, row by row."""
    x = arguments.image("x", x)
    return _largest_row(_largest_row(x.swapaxes(1, 2)))


@jax.custom_jvp
def _largest_row(x: jax.Array) -> jax.Array:
    return x.max(1)


@_largest_row.defjvp
def _largest_row_jvp(primals: tuple[jax.Array], tangents: tuple[jax.Array]) -> tuple[jax.Array, jax.Array]:
    (x,), (x_dot,) = primals, tangents
    best = _largest_row(x)
    rows = lax.broadcasted_iota(np.int32, x.shape, 1)
    first = jnp.where((x == best[:, None]) | (x != x), rows, x.shape[1]).min(1)
    won = rows == lax.optimization_barrier(first)[:, None]
    return best, jnp.where(won, x_dot, jnp.zeros((), x.dtype)).sum(1)


def adaptive_avg_pool2d(x: Float[Array, "n h w c"], output_size: Ints) -> Float[Array, "n oh ow c"]:
    """Return means over `output_size` bins that cover the image, as `torch.nn.functional.adaptive_avg_pool2d`.

    Bin i of n covers pixels `floor(i * size / n)` to `ceil((i + 1) * size / n)`.

    Args:
        x: images (batch, height, width, channels).
        output_size: bins, an integer or (height, width); there may be more than pixels.

    Raises:
        ValueError: wrong rank or dtype, or a size below 1.
    """
    x = arguments.image("x", x)
    out = arguments.pair("output_size", output_size, 1)
    arguments.check_size("output_size", output_size, (x.shape[0], *out, x.shape[3]))
    if out == (1, 1):
        return global_avg_pool2d(x)[:, None, None]
    size = arguments.spatial(x)
    if size[0] % out[0] == 0 and size[1] % out[1] == 0:
        return avg_pool2d(x, (size[0] // out[0], size[1] // out[1]))
    rows, columns = (_bins(*axis) for axis in zip(size, out, strict=True))
    return in_single_precision(lambda x: mix(mix(x, rows, 1), columns, 2))(x)


def _bins(size: int, out: int) -> np.ndarray:
    """Weights (out, size) that average each bin."""
    weights = np.zeros((out, size))
    for i in range(out):
        start, stop = i * size // out, -(-(i + 1) * size // out)
        weights[i, start:stop] = 1 / (stop - start)
    return weights


# ---------------------------------------------------------------- by platform


def window_extremes(x: jax.Array, rows: Axis, columns: Axis, order: Order) -> jax.Array:
    """Return the extreme of every window; an infinity where a window has no input.

    Windows with dilation take the CPU's form everywhere, because JAX cannot differentiate theirs.
    """
    on_cpu = partial(extremes, rows=rows, columns=columns, order=order)
    elsewhere = partial(reduce_window, rows=rows, columns=columns, start=order.worst, operation=order.keep)
    has_gradient = (rows.dilation, columns.dilation) == (1, 1)
    compute = partial(lax.platform_dependent, cpu=on_cpu, default=elsewhere) if has_gradient else on_cpu
    return sharded_by_batch(in_single_precision(compute))(x)


def window_sums(x: jax.Array, rows: Axis, columns: Axis) -> jax.Array:
    """Return the sum of every window."""
    on_cpu = partial(sums, rows=rows, columns=columns)
    elsewhere = partial(reduce_window, rows=rows, columns=columns, start=0, operation=lax.add)
    return sharded_by_batch(partial(lax.platform_dependent, cpu=on_cpu, default=elsewhere))(x)


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
