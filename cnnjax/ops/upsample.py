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
from cnnjax.ops.meshes import sharded_by_batch
from cnnjax.ops.mix import mix
from cnnjax.ops.precision import in_single_precision

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
    return sharded_by_batch(in_single_precision(partial(_repeat, scale=_scale(x, scale))))(x)


def bed_of_nails(x: Float[Array, "n h w c"], scale: Ints) -> Float[Array, "n oh ow c"]:
    """Return every pixel at the top left of a cell of zeros: `y[n, scale*i, scale*j, c] = x[n, i, j, c]`.

    Args:
        x: images (batch, height, width, channels).
        scale: height and width of the cells, an integer or a pair.

    Raises:
        ValueError: wrong rank or dtype, or a scale below 1.
    """
    x = arguments.image("x", x)
    return sharded_by_batch(partial(_nails, scale=_scale(x, scale)))(x)


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
    c, (s, t) = x.shape[3], arguments.pair("scale", scale, 1)
    if c % (s * t):
        raise ValueError(f"x has {c} channels, not divisible by the {s * t} pixels of scale={scale}")
    return sharded_by_batch(partial(_shuffle, scale=(s, t)))(x)


def _shuffle(x: jax.Array, scale: Pair) -> jax.Array:
    (n, h, w, c), (s, t) = x.shape, scale
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
    s, t = _scale(x, scale)
    return _resize(
        x, size=(x.shape[1] * s, x.shape[2] * t), align_corners=arguments.flag("align_corners", align_corners)
    )


def resize_bilinear(
    x: Float[Array, "n h w c"], output_size: Ints, *, align_corners: bool = False
) -> Float[Array, "n oh ow c"]:
    """Return the image at another size, each pixel a distance-weighted mean of the four nearest.

    Smaller sizes are sampled, not averaged: nothing prevents aliasing, as in `torch.nn.functional.interpolate`.

    Args:
        x: images (batch, height, width, channels).
        output_size: an integer or (height, width).
        align_corners: as `upsample_bilinear`.

    Returns:
        (batch, *output_size, channels), as `torch.nn.functional.interpolate(mode="bilinear")`.

    Raises:
        ValueError: wrong rank or dtype, or a size below 1.
    """
    x = arguments.image("x", x)
    size = arguments.pair("output_size", output_size, 1)
    arguments.check_size("output_size", output_size, (x.shape[0], *size, x.shape[3]))
    return _resize(x, size=size, align_corners=arguments.flag("align_corners", align_corners))


@in_single_precision
def _resize(x: jax.Array, size: Pair, align_corners: bool) -> jax.Array:
    for axis, out in ((1, size[0]), (2, size[1])):
        have = x.shape[axis]
        if out == have:
            continue
        if align_corners or out % have:
            x = mix(x, _interpolation(have, out, align_corners), axis)
        else:  # if fused, the rows would be computed again for every column
            x = stored_on_cpu(partial(_mix_phases, axis=axis, scale=out // have), x)
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
    # A phase that lies on its pixel reads no neighbour: zero times infinity is NaN.
    phases = [x if f == 0 else x * (1 - abs(f)) + (before if f < 0 else after) * abs(f) for f in offsets]
    return jnp.stack(phases, axis + 1).reshape(*x.shape[:axis], size * scale, *x.shape[axis + 1 :])


def _interpolation(size: int, out: int, align_corners: bool) -> np.ndarray:
    """Weights (out, size) that interpolate linearly along an axis."""
    row = np.arange(out)
    if align_corners:
        position, unit = row * (size - 1), max(out - 1, 1)
    else:
        position, unit = np.maximum((2 * row + 1) * size - out, 0), 2 * out
    # Whole numbers of units of a pixel: an output that lies on a pixel reads that one alone.
    low, rest = position // unit, position % unit / unit
    weights = np.zeros((out, size))
    np.add.at(weights, (row, low), 1 - rest)
    np.add.at(weights, (row, np.minimum(low + 1, size - 1)), rest)
    return weights
