"""Images as trained weights expect them: resized, cropped and normalised as Pillow and torchvision do."""

import math
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from cnnjax.errors import UserError

# ImageNet's, of red, green and blue from 0 to 1.
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

_SUPPORT = {"bilinear": 1, "bicubic": 2}  # pixels on either side that a filter reaches


@dataclass(frozen=True)
class Preprocess:
    """Resize images so that a crop of the middle has a given size, crop, and normalise: a pure function.

    Attributes:
        size: height and width of the crop.
        crop: the crop's part of the shorter side.
        interpolation: "bilinear" or "bicubic", with Pillow's filters, which average where images shrink.
        mean: of each channel, from 0 to 1.
        std: of each channel, likewise.
    """

    size: int
    crop: float = 0.875
    interpolation: str = "bicubic"
    mean: tuple[float, ...] = MEAN
    std: tuple[float, ...] = STD

    def __call__(self, images: Any) -> jax.Array:
        """Return what the network takes.

        Args:
            images: (batch, height, width, 3), integers from 0 to 255, which are rounded again as Pillow rounds, or
                floats from 0 to 1.

        Returns:
            (batch, size, size, 3), float32.

        Raises:
            UserError: another shape.
        """
        x = jnp.asarray(images)
        if x.ndim != 4 or x.shape[3] != len(self.mean):
            raise UserError(f"expected images (batch, height, width, {len(self.mean)}), got shape {x.shape}")
        (height, width), (top, left) = self._places(x.shape[1], x.shape[2])
        x = resize(x, height, width, self.interpolation)
        x = x[:, top : top + self.size, left : left + self.size]
        return (x - jnp.asarray(self.mean, x.dtype)) / jnp.asarray(self.std, x.dtype)

    def crop_picture(self, picture: Any) -> np.ndarray:
        """Return one of Pillow's images resized and cropped, not normalised: uint8 (size, size, channels)."""
        from PIL import Image

        (height, width), (top, left) = self._places(picture.height, picture.width)
        resized = picture.resize((width, height), Image.Resampling[self.interpolation.upper()])
        cropped = resized.crop((left, top, left + self.size, top + self.size))
        return np.asarray(cropped).reshape(self.size, self.size, -1)

    def _places(self, height: int, width: int) -> tuple[tuple[int, int], tuple[int, int]]:
        """The height and width that an image is resized to, and the top and left of the crop."""
        shorter, least = math.floor(self.size / self.crop), min(height, width)
        tall, wide = (shorter if side <= least else int(shorter * side / least) for side in (height, width))
        return (tall, wide), (round((tall - self.size) / 2), round((wide - self.size) / 2))


def resize(x: jax.Array, height: int, width: int, interpolation: str) -> jax.Array:
    """Resize images (batch, height, width, channels) as `PIL.Image.resize`, along the width and then the height.

    Integers are rounded after each, as Pillow does, and scaled to [0, 1]. Pillow 13 takes the height first where that
    is less work, so that some of its pixels are rounded otherwise.
    """
    levels = jnp.issubdtype(x.dtype, jnp.integer)
    x = x.astype(jnp.float32)
    for axis, size in ((2, width), (1, height)):
        if x.shape[axis] != size:
            weights = jnp.asarray(_weights(x.shape[axis], size, interpolation), x.dtype)
            x = jnp.moveaxis(jnp.tensordot(x, weights, ((axis,), (1,)), precision="highest"), -1, axis)
            x = jnp.clip(jnp.floor(x + 0.5), 0, 255) if levels else x
    return x / 255 if levels else x


def _weights(before: int, after: int, interpolation: str) -> np.ndarray:
    """What each of `before` pixels is worth to each of `after`: (after, before), rows that sum to 1."""
    scale = before / after
    stretch = max(scale, 1.0)
    reach = _SUPPORT[interpolation] * stretch
    center = (np.arange(after) + 0.5)[:, None] * scale
    pixel = np.arange(before)[None, :]
    first, stop = np.floor(center - reach + 0.5), np.floor(center + reach + 0.5)
    weights = _filter((pixel + 0.5 - center) / stretch, interpolation) * ((pixel >= first) & (pixel < stop))
    return weights / weights.sum(1, keepdims=True)


def _filter(distance: np.ndarray, interpolation: str) -> np.ndarray:
    """The triangle, or Keys's cubic (1981) with a = -1/2."""
    x = np.abs(distance)
    if interpolation == "bilinear":
        return np.maximum(1 - x, 0)
    near, far = (1.5 * x - 2.5) * x * x + 1, ((-0.5 * x + 2.5) * x - 4) * x + 2
    return np.where(x < 1, near, np.where(x < 2, far, 0.0))
