"""Max pooling that also returns the places of its maxima, and its partial inverse."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from cnnjax.ops import arguments
from cnnjax.ops.arguments import Ints, Pair
from cnnjax.ops.axes import Axis, pool_axes, whole
from cnnjax.ops.cpu.extremes import MAXIMUM, extreme_in_one_pass, pick, winners
from cnnjax.ops.cpu.phases import interleave
from cnnjax.ops.cpu.windows import MAX_TAPS_PER_PASS
from cnnjax.ops.meshes import sharded_by_batch
from cnnjax.ops.pool import window_extremes

if TYPE_CHECKING:
    from jaxtyping import Array, Float, Int


def max_pool2d_with_indices(
    x: Float[Array, "n h w c"], window: Ints, *, stride: Ints | None = None, padding: Ints = 0
) -> tuple[Float[Array, "n oh ow c"], Int[Array, "n oh ow c"]]:
    """Return `max_pool2d` and where each winner lies.

    Args:
        x: images (batch, height, width, channels).
        window: taps, an integer or (height, width).
        stride: pixels between two windows; default: the window.
        padding: pixels on each side that never win, at most half a window.

    Returns:
        The pooled images, and int32 indices `row * width + column` into the plane of x, as
        `torch.nn.functional.max_pool2d(return_indices=True)`. Differentiation treats the indices as constants.

    Raises:
        ValueError: as `max_pool2d`.

    Source: Zeiler & Fergus, "Visualizing and understanding convolutional networks" (2013), "switches".
    """
    x = arguments.image("x", x)
    rows, columns = pool_axes(x, window, stride, padding)
    indices = sharded_by_batch(partial(_indices, rows=rows, columns=columns))(lax.stop_gradient(x))
    return window_extremes(x, rows, columns, MAXIMUM), indices


def _indices(x: jax.Array, rows: Axis, columns: Axis) -> jax.Array:
    if rows.window * columns.window <= MAX_TAPS_PER_PASS:
        taps = winners(x, rows, columns, MAXIMUM).astype(np.int32)
        row_tap, column_tap = taps // columns.window, taps % columns.window
    else:  # along the width, then the height, as the values
        as_is, tall = whole(rows.size), whole(columns.out)
        across = extreme_in_one_pass(x, as_is, columns, MAXIMUM)
        row_winners = winners(across, rows, tall, MAXIMUM)
        row_tap = row_winners.astype(np.int32)
        column_tap = pick(winners(x, as_is, columns, MAXIMUM).astype(np.int32), row_winners, rows, tall)
    row = lax.broadcasted_iota(np.int32, row_tap.shape, 1) * rows.stride + row_tap * rows.dilation - rows.padding
    column = lax.broadcasted_iota(np.int32, row_tap.shape, 2) * columns.stride + column_tap * columns.dilation
    return row * columns.size + column - columns.padding


def max_unpool2d(
    y: Float[Array, "n h w c"], indices: Int[Array, "n h w c"], output_size: Ints
) -> Float[Array, "n oh ow c"]:
    """Return images with each value of `y` at its index and zeros elsewhere.

    Args:
        y: values (batch, height, width, channels).
        indices: integers of the same shape, `row * width + column` into a plane of `output_size`, as
            `max_pool2d_with_indices` returns them. Where they repeat, one of the values stays. An index outside
            of the plane is an error if its value is known, and is dropped under `jit`.
        output_size: height and width of the result.

    Returns:
        (batch, *output_size, channels); gradients flow to y.

    Raises:
        ValueError: wrong rank, dtype or shape, or an index outside the plane.

    Source: Noh, Hong & Han, "Learning deconvolution network for semantic segmentation" (2015).
    """
    y = arguments.image("y", y)
    indices = jnp.asarray(indices)
    if indices.shape != y.shape or not jnp.issubdtype(indices.dtype, jnp.integer):
        raise ValueError(f"indices must be integers of y's shape {y.shape}, got {indices.dtype} of {indices.shape}")
    size = arguments.pair("output_size", output_size, 1)
    arguments.check_size("output_size", output_size, (y.shape[0], *size, y.shape[3]))
    if not isinstance(indices, jax.core.Tracer) and indices.size and not _inside(indices, size):
        raise ValueError(
            f"indices must lie in a plane of output_size={size}, 0 to {size[0] * size[1] - 1}, got "
            f"{int(indices.min())} to {int(indices.max())}"
        )
    forms = {"cpu": partial(_unpool_on_cpu, size=size), "default": partial(_unpool_by_scatter, size=size)}
    return sharded_by_batch(partial(lax.platform_dependent, **forms))(y, indices.astype(np.int32))


def _inside(indices: jax.Array, size: Pair) -> bool:
    return bool((indices.min() >= 0) & (indices.max() < size[0] * size[1]))


def _unpool_by_scatter(y: jax.Array, indices: jax.Array, size: Pair) -> jax.Array:
    n, h, w, c = y.shape
    image, channel = jnp.arange(n)[:, None, None], jnp.arange(c)[None, None, :]
    flat = jnp.zeros((n, size[0] * size[1], c), y.dtype)
    at = flat.at[image, indices.reshape(n, h * w, c), channel]
    values = at.set(y.reshape(n, h * w, c), mode="drop", wrap_negative_indices=False)
    return values.reshape(n, *size, c)


def _unpool_on_cpu(y: jax.Array, indices: jax.Array, size: Pair) -> jax.Array:
    """XLA:CPU scatters one element at a time.

    After pooling with stride = window every index lies in its own cell, and the scatter is an elementwise comparison.
    Whether that holds depends on the data, on which a CPU can branch cheaply.
    """
    (_, h, w, _), s, t = y.shape, size[0] // y.shape[1], size[1] // y.shape[2]
    if (h * s, w * t) != size:
        return _unpool_by_scatter(y, indices, size)
    row = indices // size[1] - lax.broadcasted_iota(np.int32, y.shape, 1) * s
    column = indices % size[1] - lax.broadcasted_iota(np.int32, y.shape, 2) * t
    own_cell = jnp.all((row >= 0) & (row < s) & (column >= 0) & (column < t))
    return lax.cond(own_cell, partial(_unpool_cells, size=size), partial(_unpool_by_scatter, size=size), y, indices)


@partial(jax.custom_jvp, nondiff_argnums=(2,))
def _unpool_cells(y: jax.Array, indices: jax.Array, size: Pair) -> jax.Array:
    n, h, w, c = y.shape
    cells = (n, h, size[0] // h, w, size[1] // w, c)
    row = lax.broadcasted_iota(np.int32, cells, 1) * cells[2] + lax.broadcasted_iota(np.int32, cells, 2)
    column = lax.broadcasted_iota(np.int32, cells, 3) * cells[4] + lax.broadcasted_iota(np.int32, cells, 4)
    hit = lax.expand_dims(indices, (2, 4)) == row * size[1] + column
    return jnp.where(hit, lax.expand_dims(y, (2, 4)), jnp.zeros((), y.dtype)).reshape(n, *size, c)


@_unpool_cells.defjvp
def _unpool_cells_jvp(
    size: Pair, primals: tuple[jax.Array, jax.Array], tangents: tuple[jax.Array, jax.Array]
) -> tuple[jax.Array, jax.Array]:
    (y, indices), (y_dot, _) = primals, tangents
    s, t = size[0] // y.shape[1], size[1] // y.shape[2]
    rows = lax.broadcasted_iota(np.int32, y.shape, 1) * (s * size[1])
    offset = indices - rows - lax.broadcasted_iota(np.int32, y.shape, 2) * t
    zero = jnp.zeros((), y.dtype)
    phases = [jnp.where(offset == u * size[1] + v, y_dot, zero) for u in range(s) for v in range(t)]
    return _unpool_cells(y, indices, size), interleave(phases, (s, t), size)
