"""Normalisation.

Memory traffic limits batch normalisation in training, so the number of times that the activations are read decides its
speed. Plain differentiation takes four or five reductions over them in the backward pass. The two rules below need two,
sum(g) and sum(g * (x - mean)), and one elementwise pass for the gradient of x.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from cnnjax.ops import arguments
from cnnjax.ops.mix import mix
from cnnjax.ops.precision import in_single_precision, wide

if TYPE_CHECKING:
    from jaxtyping import Array, Float

# Sums in float32 lose log10(E[x]^2 / var) digits of the variance, and half as many of the mean measured in deviations;
# above this ratio both are computed again from centred values.
MAX_SQUARED_MEAN_PER_VARIANCE = 1e2


def batch_norm(
    x: Float[Array, "n h w c"],
    mean: Float[Array, " c"],
    var: Float[Array, " c"],
    scale: Float[Array, " c"],
    bias: Float[Array, " c"],
    *,
    eps: float = 1e-5,
) -> Float[Array, "n h w c"]:
    """Return `(x - mean) / sqrt(var + eps) * scale + bias`, per channel.

    Args:
        x: images (batch, height, width, channels); arithmetic is in float32 at least, the result in x's dtype.
        mean: (channels,); for training mean and variance come from `moments(x)`, and gradients flow through them. Half
            of x's gradient then comes from here and half from there, and they nearly cancel: convert x of half
            precision to float32 before both, as `nn.BatchNorm` does.
        var: (channels,).
        scale: (channels,).
        bias: (channels,).
        eps: positive, keeps a channel without variance finite.

    Raises:
        ValueError: wrong rank or dtype, a vector of another length, or eps is not positive.

    Source: Ioffe & Szegedy, "Batch normalization" (2015).
    """
    x = arguments.image("x", x)
    vectors = {"mean": mean, "var": var, "scale": scale, "bias": bias}
    mean, var, scale, bias = (
        arguments.vector(name, vector, x.shape[3], "channel").astype(wide(x.dtype)) for name, vector in vectors.items()
    )
    eps = arguments.real("eps", eps, positive=True)
    return _centred_affine(x, mean, scale * lax.rsqrt(var + eps), bias)


def moments(x: Float[Array, "n h w c"]) -> tuple[Float[Array, " c"], Float[Array, " c"]]:
    """Return mean and biased variance of every channel over batch, height and width, in float32 at least.

    Args:
        x: images (batch, height, width, channels).

    Raises:
        ValueError: wrong rank or dtype.
    """
    return _moments(arguments.image("x", x))


@jax.custom_jvp
def _moments(x: jax.Array) -> tuple[jax.Array, jax.Array]:
    x, count = x.astype(wide(x.dtype)), _count(x)
    return _mean_and_variance(x, lambda x: _sum_per_channel(x) / count, _pixel)


@_moments.defjvp
def _moments_jvp(
    primals: tuple[jax.Array], tangents: tuple[jax.Array]
) -> tuple[tuple[jax.Array, jax.Array], tuple[jax.Array, jax.Array]]:
    (x,), (x_dot,) = primals, tangents
    mean, var = _moments(x)
    count, x_dot = _count(x), x_dot.astype(mean.dtype)
    # d var = 2 mean((x - mean) (dx - d mean)), and mean(x - mean) = 0. Transposed: one elementwise pass over x.
    centred = (x.astype(mean.dtype) - _pixel(mean)) * (2 / count)
    return (mean, var), (_sum_per_channel(x_dot) / count, _sum_per_channel(x_dot * centred))


def _sum_per_channel(x: jax.Array) -> jax.Array:
    """Sum over batch, height and width: down the rows first, then the rest.

    The output of the first sum is whole rows (n, w, c), so its inner loop runs along memory and its outer loops run in
    threads. XLA's own loop over all three axes takes 5 times as long on one thread. The barrier keeps the sums apart.
    """
    return lax.optimization_barrier(x.sum(1)).sum((0, 1))


def spread(vector: jax.Array, like: jax.Array) -> jax.Array:
    """Broadcast a vector of channels to every pixel of `like`, in two steps whose transpose is `_sum_per_channel`."""
    n, _, w, c = like.shape
    row = lax.optimization_barrier(jnp.broadcast_to(vector, (n, w, c)))
    return lax.broadcast_in_dim(row, like.shape, (0, 2, 3))


def _pixel(vector: jax.Array) -> jax.Array:
    """A vector of channels as an image of one pixel, which JAX broadcasts over images also where ranks must agree."""
    return lax.expand_dims(vector, (0, 1, 2))


def _count(x: jax.Array) -> Any:
    """Values of each channel: a float, because there may be more than 2^31; of an empty batch 1, so that 0/1 is 0."""
    values = math.prod(x.shape[:3])
    return float(max(values, 1)) if isinstance(values, int) else values


def _mean_and_variance(
    x: jax.Array, mean_of: Callable[[jax.Array], jax.Array], spread_over: Callable[[jax.Array], jax.Array]
) -> tuple[jax.Array, jax.Array]:
    """Return mean and biased variance, from E[x^2] on a CPU unless the mean is far larger than the deviation.

    XLA:CPU's summing library fuses a product but not a difference: the mean of (x - mean)^2 writes x - mean to memory
    first. A branch on data is cheap on a CPU only.
    """

    def centred(x: jax.Array, mean: jax.Array) -> tuple[jax.Array, jax.Array]:
        rest = x - spread_over(mean)
        error = mean_of(rest)  # of the mean, whose terms were rounded in units of a large sum
        return mean + error, mean_of(rest * rest) - error * error

    def guarded(x: jax.Array, mean: jax.Array) -> tuple[jax.Array, jax.Array]:
        var = mean_of(x * x) - mean * mean
        safe = jnp.all(mean * mean <= MAX_SQUARED_MEAN_PER_VARIANCE * var)
        return lax.cond(safe, lambda: (mean, var), lambda: centred(x, mean))

    return lax.platform_dependent(x, mean_of(x), cpu=guarded, default=centred)


@jax.custom_jvp
def _centred_affine(x: jax.Array, mean: jax.Array, gain: jax.Array, bias: jax.Array) -> jax.Array:
    """`(x - mean) * gain + bias` in the vectors' precision, rounded to x's dtype."""
    return ((x.astype(mean.dtype) - _pixel(mean)) * _pixel(gain) + _pixel(bias)).astype(x.dtype)


@_centred_affine.defjvp
def _centred_affine_jvp(primals: tuple[jax.Array, ...], tangents: tuple[jax.Array, ...]) -> tuple[jax.Array, jax.Array]:
    (x, mean, gain, bias), (x_dot, mean_dot, gain_dot, bias_dot) = primals, tangents
    # The small vectors are combined before they meet the activations: the transpose has two sums, sum(g) and
    # sum(g * (x - mean)). The second without the mean would lose the digits that the mean has beyond the deviation.
    constant = spread(bias_dot - gain * mean_dot, x)
    centred = x.astype(mean.dtype) - _pixel(mean)
    tangent = x_dot.astype(mean.dtype) * _pixel(gain) + constant + centred * spread(gain_dot, x)
    return _centred_affine(x, mean, gain, bias), tangent.astype(x.dtype)


def local_response_norm(
    x: Float[Array, "n h w c"], size: int = 5, alpha: float = 1e-4, beta: float = 0.75, k: float = 2.0
) -> Float[Array, "n h w c"]:
    """Return `x / (k + alpha / size * sum of x^2 over size neighbouring channels) ** beta`, torch's formula.

    Krizhevsky et al. take alpha times the sum; torch, as here, divides alpha by the size. Beyond the first and last
    channel there are zeros.

    Args:
        x: images (batch, height, width, channels).
        size: channels in a neighbourhood.
        alpha: weight of their squares.
        beta: exponent.
        k: constant that is added.

    Raises:
        ValueError: wrong rank or dtype, a size below 1, or another number that is not finite.

    Source: Krizhevsky, Sutskever & Hinton, "ImageNet classification" (2012).
    """
    x = arguments.image("x", x)
    size = arguments.integer("size", size, 1)
    alpha, beta, k = (arguments.real(name, v) for name, v in (("alpha", alpha), ("beta", beta), ("k", k)))
    # A band matrix times x^2 gives the sums over neighbours as one matrix product, and their gradient as another.
    # Shifted slices of the innermost axis would leave the vector lanes.
    offset = np.arange(x.shape[3]) - np.arange(x.shape[3])[:, None]  # of an input from its output
    band = (offset <= (size - 1) // 2) & (offset >= -(size // 2))

    def normalised(x: jax.Array) -> jax.Array:
        return x * (k + (alpha / size) * mix(x * x, band, 3)) ** -beta

    return in_single_precision(normalised)(x)


def group_norm(
    x: Float[Array, "n h w c"], groups: int, scale: Float[Array, " c"], bias: Float[Array, " c"], *, eps: float = 1e-5
) -> Float[Array, "n h w c"]:
    """Return `(x - mean) / sqrt(var + eps) * scale + bias`, mean and biased variance of each image's channel groups.

    One group is layer normalisation over whole images, as many groups as channels are instance normalisation.

    Args:
        x: images (batch, height, width, channels); arithmetic is in float32 at least, the result in x's dtype.
        groups: how many groups of neighbouring channels.
        scale: (channels,).
        bias: (channels,).
        eps: positive, keeps a group without variance finite.

    Raises:
        ValueError: wrong rank or dtype, a vector of another length, groups that do not divide the channels, or eps is
            not positive.

    Source: Wu & He, "Group normalization" (2018).
    """
    x = arguments.image("x", x)
    channels = x.shape[3]
    groups = arguments.integer("groups", groups, 1)
    if channels % groups:
        raise ValueError(f"groups={groups} must divide the {channels} channels of x")
    scale, bias = (
        arguments.vector(name, vector, channels, "channel").astype(wide(x.dtype))
        for name, vector in {"scale": scale, "bias": bias}.items()
    )
    eps = arguments.real("eps", eps, positive=True)

    def normalised(x: jax.Array) -> jax.Array:
        mean, var = _group_moments(x, groups)
        gain = scale[None] * _per_channel(lax.rsqrt(var + eps), channels)
        # Batch normalisation of every image by itself: the same two sums in the backward pass.
        return jax.vmap(_centred_affine, (0, 0, 0, None))(x[:, None], _per_channel(mean, channels), gain, bias)[:, 0]

    return in_single_precision(normalised)(x)


@partial(jax.custom_jvp, nondiff_argnums=(1,))
def _group_moments(x: jax.Array, groups: int) -> tuple[jax.Array, jax.Array]:
    """Mean and biased variance (batch, groups), in float32 at least; see `_moments`."""
    x, channels = x.astype(wide(x.dtype)), x.shape[3]
    return _mean_and_variance(
        x, lambda x: _group_means(x, groups), lambda mean: _per_channel(mean, channels)[:, None, None]
    )


@_group_moments.defjvp
def _group_moments_jvp(
    groups: int, primals: tuple[jax.Array], tangents: tuple[jax.Array]
) -> tuple[tuple[jax.Array, jax.Array], tuple[jax.Array, jax.Array]]:
    (x,), (x_dot,) = primals, tangents
    mean, var = _group_moments(x, groups)
    x, x_dot = x.astype(mean.dtype), x_dot.astype(mean.dtype)
    centred = 2 * (x - _per_channel(mean, x.shape[3])[:, None, None])
    return (mean, var), (_group_means(x_dot, groups), _group_means(x_dot * centred, groups))


def _group_means(x: jax.Array, groups: int) -> jax.Array:
    """Images to (batch, groups)."""
    n, h, w, c = x.shape
    sums = jax.vmap(_sum_per_channel)(x[:, None])
    return sums.reshape(n, groups, c // groups).sum(2) / float(h * w * (c // groups))


def _per_channel(x: jax.Array, channels: int) -> jax.Array:
    """(batch, groups) to (batch, channels)."""
    return jnp.repeat(x, channels // x.shape[1], axis=1)


def layer_norm(
    x: Float[Array, "n h w c"], scale: Float[Array, " c"], bias: Float[Array, " c"], *, eps: float = 1e-5
) -> Float[Array, "n h w c"]:
    """Return `(x - mean) / sqrt(var + eps) * scale + bias`, mean and biased variance of each pixel's channels.

    Args:
        x: images (batch, height, width, channels); arithmetic is in float32 at least, the result in x's dtype.
        scale: (channels,).
        bias: (channels,).
        eps: positive, keeps a pixel without variance finite.

    Raises:
        ValueError: wrong rank or dtype, a vector of another length, or eps is not positive.

    Source: Ba, Kiros & Hinton, "Layer normalization" (2016); over channels alone as Liu et al., "A ConvNet for the
    2020s" (2022).
    """
    x = arguments.image("x", x)
    values = x.astype(wide(x.dtype))
    scale, bias = (
        arguments.vector(name, vector, x.shape[3], "channel").astype(values.dtype)
        for name, vector in {"scale": scale, "bias": bias}.items()
    )
    eps = arguments.real("eps", eps, positive=True)
    centred = values - values.mean(3, keepdims=True)
    var = jnp.square(centred).mean(3, keepdims=True)
    gain = lax.rsqrt(var + eps)
    return (centred * gain * spread(scale, x) + spread(bias, x)).astype(x.dtype)
