"""Enlarging images. Each function is linear.

Values are computed in the form that is fastest forward (a broadcast, a shifted mix), and tangents in the form whose
transpose XLA:CPU runs as one elementwise loop (the sum of strided slices of the cotangent).
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from cnnjax.ops import arguments
from cnnjax.ops.arguments import Ints, Pair
from cnnjax.ops.cpu.fusion import stored_on_cpu
from cnnjax.ops.cpu.phases import interleave

if TYPE_CHECKING:
    from jaxtyping import Array, Float


def upsample_nearest(x: Float[Array, "n h w c"], scale: Ints) -> Float[Array, "n oh ow c"]:
    """Return every pixel repeated: `y[n, i, j, c] = x[n, i // scale, j // scale, c]`.

    Args:
        x: images (batch, height, width, channels).
        scale: an integer or (vertical, horizontal).

    Raises:
        ValueError: wrong rank or dtype, or a scale below 1.
    """
    x = arguments.image("x", x)
    return _repeat(x, _scale(x, scale))


def bed_of_nails(x: Float[Array, "n h w c"], scale: Ints) -> Float[Array, "n oh ow c"]:
    """Return every pixel at the top left of a cell of zeros: `y[n, scale*i, scale*j, c] = x[n, i, j, c]`.

    Args:
        x: images (batch, height, width, channels).
        scale: height and width of the cells, an integer or a pair.

    Raises:
        ValueError: wrong rank or dtype, or a scale below 1.
    """
    x = arguments.image("x", x)
    return _nails(x, _scale(x, scale))


def pixel_shuffle(x: Float[Array, "n h w c"], scale: Ints) -> Float[Array, "n oh ow o"]:
    """Return channels moved to space: `y[n, s*i + u, t*j + v, k] = x[n, i, j, (k*s + u)*t + v]`.

    Args:
        x: images (batch, height, width, channels * s * t).
        scale: (s, t), or one integer for both.

    Returns:
        (batch, height * s, width * t, channels), as `torch.pixel_shuffle`.

    Raises:
        ValueError: wrong rank or dtype, a scale below 1, or channels that s * t does not divide.

    Source: Shi et al., "Real-time single image and video super-resolution" (2016).
    """
    x = arguments.image("x", x)
    (n, h, w, c), (s, t) = x.shape, arguments.pair("scale", scale, 1)
    if c % (s * t):
        raise ValueError(f"x has {c} channels, not divisible by the {s * t} pixels of scale={scale}")
    cells = x.reshape(n, h, w, c // (s * t), s, t).transpose(0, 1, 4, 2, 5, 3)
    return cells.reshape(n, h * s, w * t, c // (s * t))


def upsample_bilinear(
    x: Float[Array, "n h w c"], scale: Ints, *, align_corners: bool = False
) -> Float[Array, "n oh ow c"]:
    """Return the image at `scale` times the resolution, each pixel a distance-weighted mean of the four nearest.

    Args:
        x: images (batch, height, width, channels).
        scale: an integer or (vertical, horizontal).
        align_corners: whether outputs run from the centre of the first pixel to the centre of the last; otherwise
            pixels are areas, and the border repeats.

    Returns:
        (batch, height * scale, width * scale, channels), as `torch.nn.functional.interpolate(mode="bilinear")`.

    Raises:
        ValueError: wrong rank or dtype, or a scale below 1.
    """
    x = arguments.image("x", x)
    vertical, horizontal = _scale(x, scale)
    mix = _mix_by_matrix if align_corners else _mix_phases
    for axis, times in ((1, vertical), (2, horizontal)):
        if times > 1:  # if fused, the rows would be computed again for every column
            x = stored_on_cpu(partial(mix, axis=axis, scale=times), x)
    return x


def _scale(x: jax.Array, scale: Ints) -> Pair:
    """Return `scale` as a pair, after checking the size of the result."""
    s, t = arguments.pair("scale", scale, 1)
    arguments.check_size("scale", scale, (x.shape[0], x.shape[1] * s, x.shape[2] * t, x.shape[3]))
    return s, t


@partial(jax.custom_jvp, nondiff_argnums=(1,))
def _repeat(x: jax.Array, scale: Pair) -> jax.Array:
    (n, h, w, c), (s, t) = x.shape, scale
    return lax.broadcast_in_dim(x, (n, h, s, w, t, c), (0, 1, 3, 5)).reshape(n, h * s, w * t, c)


@_repeat.defjvp
def _repeat_jvp(scale: Pair, primals: tuple[jax.Array], tangents: tuple[jax.Array]) -> tuple[jax.Array, jax.Array]:
    y = _repeat(primals[0], scale)
    return y, interleave([tangents[0]] * (scale[0] * scale[1]), scale, y.shape[1:3])


@partial(jax.custom_jvp, nondiff_argnums=(1,))
def _nails(x: jax.Array, scale: Pair) -> jax.Array:
    (n, h, w, c), (s, t) = x.shape, scale
    cells = (n, h, s, w, t, c)
    corner = (lax.broadcasted_iota(np.int32, cells, 2) == 0) & (lax.broadcasted_iota(np.int32, cells, 4) == 0)
    return jnp.where(corner, lax.expand_dims(x, (2, 4)), jnp.zeros((), x.dtype)).reshape(n, h * s, w * t, c)


@_nails.defjvp
def _nails_jvp(scale: Pair, primals: tuple[jax.Array], tangents: tuple[jax.Array]) -> tuple[jax.Array, jax.Array]:
    (s, t), zero = scale, jnp.zeros((), primals[0].dtype)
    spread = ((0, 0, 0), (0, s - 1, s - 1), (0, t - 1, t - 1), (0, 0, 0))  # transposed: a strided slice
    return _nails(primals[0], scale), lax.pad(tangents[0], zero, spread)


def _mix_phases(x: jax.Array, axis: int, scale: int) -> jax.Array:
    """Interpolate linearly along an axis, pixels as areas: phase u of every cell mixes the same two neighbours."""
    size = x.shape[axis]
    first, last = lax.slice_in_dim(x, 0, 1, axis=axis), lax.slice_in_dim(x, size - 1, size, axis=axis)
    before = lax.concatenate([first, lax.slice_in_dim(x, 0, size - 1, axis=axis)], axis)
    after = lax.concatenate([lax.slice_in_dim(x, 1, size, axis=axis), last], axis)
    offsets = [(u + 0.5) / scale - 0.5 for u in range(scale)]
    phases = [x * (1 + f) + before * -f if f < 0 else x * (1 - f) + after * f for f in offsets]
    return jnp.stack(phases, axis + 1).reshape(*x.shape[:axis], size * scale, *x.shape[axis + 1 :])


def _mix_by_matrix(x: jax.Array, axis: int, scale: int) -> jax.Array:
    """Interpolate linearly along an axis, corners aligned: the weights differ per output and form a constant matrix."""
    size = x.shape[axis]
    at = np.arange(size * scale) * ((size - 1) / max(size * scale - 1, 1))
    low = np.minimum(np.floor(at).astype(int), size - 1)
    matrix = np.zeros((size * scale, size))
    np.add.at(matrix, (np.arange(size * scale), low), 1 - (at - low))
    np.add.at(matrix, (np.arange(size * scale), np.minimum(low + 1, size - 1)), at - low)
    mixed = lax.dot_general(jnp.asarray(matrix, x.dtype), x, (((1,), (axis,)), ((), ())), precision="highest")
    return jnp.moveaxis(mixed, 0, axis)
