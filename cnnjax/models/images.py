"""Checks of a network's input images before anything is computed, and the padding of sizes that do not fit."""

import jax
import jax.numpy as jnp

from cnnjax.errors import UserError
from cnnjax.nn import Module


def check_images(model: Module, x: jax.Array, smallest: int, hint: str = "") -> None:
    """Raise a UserError if images x are too small for a network's strides and poolings.

    Args:
        model: the network, for the message.
        x: images (batch, height, width, channels).
        smallest: height and width that the network needs.
        hint: what else a user could do.
    """
    if x.ndim != 4 or min(x.shape[1:3]) < smallest:
        raise UserError(
            f"{type(model).__name__} takes images (batch, height, width, channels) of at least {smallest}x{smallest} "
            f"pixels{hint}, got shape {x.shape}"
        )


def check_image_shape(model: Module, x: jax.Array, shape: tuple[int, int, int]) -> None:
    """Raise a UserError unless images x have the (height, width, channels) that a network was built for.

    Its fully connected layers only see the number of pixels, which is the same for 16x64 and 32x32 images.
    """
    if x.shape[1:] != shape:
        raise UserError(
            f"this {type(model).__name__} takes images (batch, {', '.join(map(str, shape))}), got shape {x.shape}: "
            "build it with their image_size and in_channels"
        )


def pad_to_multiple(x: jax.Array, stride: int) -> jax.Array:
    """Return images with zeros at the bottom and right, up to the next multiple of a network's stride.

    Maps of such sizes fit together after poolings and enlargements; `x[:, :height, :width]` cuts the logits back.
    """
    bottom, right = -x.shape[1] % stride, -x.shape[2] % stride
    return jnp.pad(x, ((0, 0), (0, bottom), (0, right), (0, 0))) if bottom or right else x
