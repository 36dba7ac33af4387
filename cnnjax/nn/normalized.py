"""A network together with the normalisation of its images."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from cnnjax.nn.module import Module


class Normalized(Module):
    """`network((x - mean) / std)`, for images x in [0, 1]; its layers have the network's own names.

    Args:
        network: the network.
        mean: of each channel, or one number for all.
        std: of each channel, or one number for all; larger than 0.
    """

    def __init__(self, network: Module, mean: Sequence[float], std: Sequence[float]):
        self.layers = network  # which names leave out
        self.heads = network.heads
        self.mean, self.std = tuple(mean), tuple(std)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.layers(normalize(x, self.mean, self.std))


def normalize(images: jax.Array, mean: Sequence[float] | None, std: Sequence[float] | None) -> jax.Array:
    """Return `(images - mean) / std`, of each channel, computed in float32; without a mean the images themselves."""
    if mean is None or std is None:
        return images
    wide = jnp.asarray(images, jnp.float32)
    normalized = (wide - jnp.asarray(mean, jnp.float32)) / jnp.asarray(std, jnp.float32)
    return normalized.astype(images.dtype)


def normalized(network: Module, mean: Sequence[float] | None, std: Sequence[float] | None) -> Module:
    """Return the network with normalisation; without a mean the network itself."""
    return network if mean is None or std is None else Normalized(network, mean, std)


def without_normalization(model: Module) -> Module:
    """Return the network behind a normalisation; any other one as it is."""
    return model.layers if isinstance(model, Normalized) else model
