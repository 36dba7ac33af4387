"""What networks check of the images that they are given, before anything is computed."""

import jax

from cnnjax.errors import UserError
from cnnjax.nn import Module


def check_images(model: Module, x: jax.Array, smallest: int, hint: str = "") -> None:
    """Raise a UserError unless a network's layers leave at least a pixel of images x.

    Args:
        model: the network, for the message.
        x: images (batch, height, width, channels).
        smallest: height and width that the network needs.
        hint: what else a person could do.
    """
    if x.ndim != 4 or min(x.shape[1:3]) < smallest:
        raise UserError(
            f"{type(model).__name__} takes images (batch, height, width, channels) of at least {smallest}x{smallest} "
            f"pixels{hint}, got shape {x.shape}"
        )
