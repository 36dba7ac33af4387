"""Normalisation layers."""

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax

from cnnjax import ops
from cnnjax.nn.module import Module


class BatchNorm(Module):
    """Normalise each channel by its mean and variance over the batch; in `eval` by their running averages.

    `y = (x - mean) / sqrt(var + eps) * scale + bias`. In training, `running = (1 - momentum) * running + momentum *
    batch`, the running variance from the unbiased estimate, as `torch.nn.BatchNorm2d`.

    Args:
        num_features: channels, the last axis.
        eps: added to the variance.
        momentum: weight of the newest batch in the running averages (Keras's momentum is one minus this).
        axis_name: mapped axis over whose replicas the statistics are shared; None: each replica its own.

    Source: Ioffe & Szegedy, "Batch normalization" (2015); claim G4.
    """

    def __init__(self, num_features: int, eps: float = 1e-5, momentum: float = 0.1, *, axis_name: str | None = None):
        self.num_features, self.eps, self.momentum, self.axis_name = num_features, eps, momentum, axis_name
        self.scale = nnx.Param(jnp.ones(num_features))
        self.bias = nnx.Param(jnp.zeros(num_features))
        self.mean = nnx.BatchStat(jnp.zeros(num_features))
        self.var = nnx.BatchStat(jnp.ones(num_features))
        self.use_running_average = False  # set by train() and eval()

    def __call__(self, x: jax.Array) -> jax.Array:
        if x.shape[-1] != self.num_features:
            raise ValueError(f"expected {self.num_features} channels on the last axis of x, got shape {x.shape}")
        images = x if x.ndim == 4 else x.reshape(x.shape[0], -1, 1, self.num_features)
        if self.use_running_average:
            mean, var = self.mean[...], self.var[...]
        else:
            mean, var = self._batch_statistics(images)
        return ops.batch_norm(images, mean, var, self.scale[...], self.bias[...], eps=self.eps).reshape(x.shape)

    def _batch_statistics(self, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        mean, var = ops.moments(x)
        count = x.size // self.num_features
        if self.axis_name is not None:
            # The variance of the union: mean of the variances plus the variance of the means.
            local = mean
            mean = lax.pmean(mean, self.axis_name)
            var = lax.pmean(var + jnp.square(local - mean), self.axis_name)
            count *= lax.axis_size(self.axis_name)
        unbiased = var * (count / max(count - 1, 1))
        for running, batch in ((self.mean, mean), (self.var, unbiased)):
            running[...] = (1 - self.momentum) * running[...] + self.momentum * lax.stop_gradient(batch)
        return mean, var


class LocalResponseNorm(Module):
    """`ops.local_response_norm`, with the arguments of `torch.nn.LocalResponseNorm`."""

    def __init__(self, size: int, alpha: float = 1e-4, beta: float = 0.75, k: float = 1.0):
        self.size, self.alpha, self.beta, self.k = size, alpha, beta, k

    def __call__(self, x: jax.Array) -> jax.Array:
        return ops.local_response_norm(x, self.size, self.alpha, self.beta, self.k)
