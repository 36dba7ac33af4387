"""Normalisation layers."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax

from cnnjax import ops
from cnnjax.nn.initializers import filled
from cnnjax.nn.module import Module
from cnnjax.ops.arguments import image, integer
from cnnjax.ops.precision import in_single_precision

if TYPE_CHECKING:
    from jaxtyping import Array, Float


class BatchNorm(Module):
    """Normalise each channel by its mean and variance over the batch; in `eval` by their running averages.

    `y = (x - mean) / sqrt(var + eps) * scale + bias`. In training, `running = (1 - momentum) * running + momentum *
    batch`, the running variance from the unbiased estimate, as `torch.nn.BatchNorm2d`.

    Args:
        num_features: channels, the last axis.
        eps: added to the variance.
        momentum: weight of the newest batch in the running averages (Keras's momentum is one minus this).
        axis_name: mapped axis over whose replicas the statistics are shared; None: each replica its own.

    Source: Ioffe & Szegedy, "Batch normalization" (2015).
    """

    def __init__(self, num_features: int, eps: float = 1e-5, momentum: float = 0.1, *, axis_name: str | None = None):
        self.num_features, self.eps, self.momentum, self.axis_name = num_features, eps, momentum, axis_name
        self.scale = nnx.Param(filled(1, (num_features,)))
        self.bias = nnx.Param(filled(0, (num_features,)))
        self.mean = nnx.BatchStat(filled(0, (num_features,)))
        self.var = nnx.BatchStat(filled(1, (num_features,)))
        self.use_running_average = False  # set by train() and eval()

    def __call__(self, x: Float[Array, "n ... c"]) -> Float[Array, "n ... c"]:
        # In float32 throughout: the gradient of x is a difference of sums, and each of them rounded to half precision
        # would be off by more than what is left of cotangents that are nearly equal.
        images = image("x", _as_images(x, self.num_features))
        return in_single_precision(self._normalised)(images).reshape(x.shape)

    def _normalised(self, x: jax.Array) -> jax.Array:
        if self.use_running_average:
            mean, var = self.mean[...], self.var[...]
        else:
            mean, var = self._batch_statistics(x)
        return ops.batch_norm(x, mean, var, self.scale[...], self.bias[...], eps=self.eps)

    def _batch_statistics(self, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        mean, var = ops.moments(x)
        count = math.prod(x.shape[:3])
        if self.axis_name is not None:
            # The variance of the union: mean of the variances plus the variance of the means.
            local = mean
            mean = lax.pmean(mean, self.axis_name)
            var = lax.pmean(var + jnp.square(local - mean), self.axis_name)
            count *= lax.axis_size(self.axis_name)
        if count == 0:  # an empty batch says nothing of the statistics
            return mean, var
        if count == 1:
            raise ValueError(
                f"batch statistics need more than 1 value a channel in training, got x of shape {x.shape}: use larger "
                "batches or images, or `model.eval()`"
            )
        unbiased = var * (count / (count - 1))
        for running, batch in ((self.mean, mean), (self.var, unbiased)):
            # Not `running[...] =`: Flax asks a tracer for its sharding, and JAX writes an error message about all that
            # was traced before: a third of the time in which EfficientNet-B7's training step is traced and lowered.
            running.set_value((1 - self.momentum) * running[...] + self.momentum * lax.stop_gradient(batch))
        return mean, var


def share_batch_statistics(model: nnx.Module, axis_name: str | None) -> None:
    """Let every `BatchNorm` of a model share its statistics over the replicas of a mapped axis; None: each its own.

    Across replicas, a batch split over many devices is normalised as one device would; on each replica, devices
    exchange nothing and small shares make noisier statistics.
    """
    for _, module in nnx.iter_modules(model):
        if isinstance(module, BatchNorm):
            module.axis_name = axis_name


class GroupNorm(Module):
    """`ops.group_norm` with its scale and bias, and the arguments of `torch.nn.GroupNorm`; the same in `eval`.

    Args:
        num_groups: how many groups of neighbouring channels.
        num_channels: channels, the last axis.
        eps: added to the variance.

    Raises:
        ValueError: an argument is out of range, or the channels do not divide into groups.

    Source: Wu & He, "Group normalization" (2018).
    """

    def __init__(self, num_groups: int, num_channels: int, eps: float = 1e-5):
        self.num_groups = integer("num_groups", num_groups, 1)
        self.num_channels = integer("num_channels", num_channels, 1)
        if num_channels % num_groups:
            raise ValueError(f"num_groups={num_groups} must divide num_channels={num_channels}")
        self.eps = eps
        self.scale = nnx.Param(filled(1, (num_channels,)))
        self.bias = nnx.Param(filled(0, (num_channels,)))

    def __call__(self, x: Float[Array, "n ... c"]) -> Float[Array, "n ... c"]:
        images = _as_images(x, self.num_channels)
        y = ops.group_norm(images, self.num_groups, self.scale[...], self.bias[...], eps=self.eps)
        return y.reshape(x.shape)


class LayerNorm(Module):
    """`ops.layer_norm`, over the channels of each pixel, with its scale and bias; the same in `eval`.

    On NHWC images it is `torch.nn.LayerNorm(channels)`, ConvNeXt's normalisation.

    Args:
        normalized_shape: channels, the last axis.
        eps: added to the variance.

    Raises:
        ValueError: there is no channel.

    Source: Ba, Kiros & Hinton, "Layer normalization" (2016).
    """

    def __init__(self, normalized_shape: int, eps: float = 1e-5):
        self.normalized_shape, self.eps = integer("normalized_shape", normalized_shape, 1), eps
        self.scale = nnx.Param(filled(1, (normalized_shape,)))
        self.bias = nnx.Param(filled(0, (normalized_shape,)))

    def __call__(self, x: Float[Array, "n ... c"]) -> Float[Array, "n ... c"]:
        images = _as_images(x, self.normalized_shape)
        return ops.layer_norm(images, self.scale[...], self.bias[...], eps=self.eps).reshape(x.shape)


def _as_images(x: jax.Array, channels: int) -> jax.Array:
    """Any (batch, ..., channels) as (batch, height, width, channels)."""
    if x.shape[-1] != channels:
        raise ValueError(f"expected {channels} channels on the last axis of x, got shape {x.shape}")
    return x if x.ndim == 4 else x.reshape(x.shape[0], math.prod(x.shape[1:-1]), 1, channels)


class LocalResponseNorm(Module):
    """`ops.local_response_norm`, with the arguments of `torch.nn.LocalResponseNorm`."""

    def __init__(self, size: int, alpha: float = 1e-4, beta: float = 0.75, k: float = 1.0):
        self.size, self.alpha, self.beta, self.k = size, alpha, beta, k

    def __call__(self, x: Float[Array, "n h w c"]) -> Float[Array, "n h w c"]:
        return ops.local_response_norm(x, self.size, self.alpha, self.beta, self.k)
