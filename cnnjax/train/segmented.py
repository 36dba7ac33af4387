"""A trained network for segmentation in use: masks of images of any size, averaged over mirror images and scales.

Networks that find something somewhere see the whole image, with black around it.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from cnnjax.data.decode import Placement, decode, upright_size
from cnnjax.errors import UserError
from cnnjax.nn import Module
from cnnjax.ops import resize_bilinear
from cnnjax.tasks import Segmentation, SegmentationLoss
from cnnjax.train.trained import Trained, check_image

OVERLAP = 0.5  # of a window with the next one


@dataclass(frozen=True, eq=False)
class Whole(Trained):
    """A trained network that sees whole images, scaled until they fit into `image_shape`, with black around them."""

    def fit_pixels(self, image: Any) -> np.ndarray:
        """Return an image, a file or an array, at its own size, float32 in [0, 1].

        Raises:
            UserError: as `predict`.
        """
        channels = self.image_shape[2]
        if isinstance(image, str | os.PathLike):
            return self._read(image, lambda encoded: decode(encoded, (*upright_size(encoded), channels)))
        return _as_floats(np.asarray(image), channels)

    def _decoded(self, encoded: bytes) -> np.ndarray:
        return decode(encoded, self.image_shape, fit="contain")

    def _covered(self, image: np.ndarray) -> np.ndarray:
        return contained(_as_floats(image, self.image_shape[2]), self.image_shape)

    def _place(self, image: Any) -> tuple[tuple[int, int], Placement]:
        """Height and width of an image, a file or an array, and where it lies in what the network sees."""
        is_file = isinstance(image, str | os.PathLike)
        height, width = upright_size(Path(image).read_bytes()) if is_file else np.shape(image)[:2]
        return (height, width), Placement.of((height, width), self.image_shape[:2])


@dataclass(frozen=True, eq=False)
class Segmenter(Whole):
    """A trained network for segmentation, and what it needs to predict; as `Trained`."""

    @property
    def task(self) -> Segmentation:  # type: ignore[override]
        """What the network has learned."""
        return Segmentation(SegmentationLoss(self.about["loss"]), self.classes)

    def predict(self, images: Any, *, windows: bool = False) -> list[np.ndarray]:  # type: ignore[override]
        """Return the class of every pixel of images of any size, uint8 (height, width) each.

        An image is scaled until it fits into `image_shape`, and the probabilities of its pixels are scaled back.

        Args:
            images: as `Trained.predict` takes them.
            windows: look at each image in its own size, through windows of `image_shape` that overlap by a half, whose
                probabilities are averaged; for images with details that scaling would lose.

        Raises:
            UserError: as `Trained.predict`.
        """
        look = self._through_windows if windows else self._whole
        return [look(image) for image in self._each(images)]

    def averaged(self, *, flip: bool = False, scales: Sequence[float] = (1.0,)) -> "Segmenter":
        """Return the network with probabilities that are means over scaled images, and over their mirror images."""
        return replace(self, model=Averaged(self.model, flip, tuple(scales)))

    @property
    def flipped(self) -> "Segmenter":
        """The same network on an image and on its mirror image: its probabilities are the means of both."""
        return self.averaged(flip=True)

    def _whole(self, image: Any) -> np.ndarray:
        pixels = self.fit_image(image)  # which says what is wrong with it
        size, place = self._place(image)
        return largest(self.probabilities(pixels[None])[0][place.rows, place.columns], size)

    def _through_windows(self, image: Any) -> np.ndarray:
        pixels = self.fit_pixels(image)
        window = self.image_shape[:2]
        short = [(0, max(0, least - length)) for least, length in zip(window, pixels.shape[:2], strict=True)]
        padded = np.pad(pixels, (*short, (0, 0)))
        rows, columns = (_starts(padded.shape[axis], window[axis]) for axis in (0, 1))
        total = np.zeros((*padded.shape[:2], len(self.classes)), np.float32)
        counts = np.zeros((*padded.shape[:2], 1), np.float32)
        for y in rows:
            for x in columns:
                place = slice(y, y + window[0]), slice(x, x + window[1])
                total[place] += self.probabilities(padded[place][None])[0]
                counts[place] += 1
        return np.asarray((total / counts)[: pixels.shape[0], : pixels.shape[1]].argmax(-1).astype(np.uint8))

    def _scores(self, logits: jax.Array) -> jax.Array:
        return jax.nn.softmax(logits)


class Averaged(Module):
    """The logarithm of mean probabilities, over scaled images and their mirror images.

    Args:
        network: gives logits (batch, height, width, classes) of the images' size.
        flip: whether mirror images, left and right exchanged, count as well.
        scales: what height and width are multiplied by.
    """

    def __init__(self, network: Module, flip: bool, scales: tuple[float, ...]):
        if not scales or not all(scale > 0 for scale in scales):
            raise UserError(f"`scales` must be numbers larger than 0, got {scales}")
        self.layers, self.flip, self.scales = network, flip, scales

    def __call__(self, x: jax.Array) -> jax.Array:
        height, width = x.shape[1:3]
        found = []
        for scale in self.scales:
            size = max(1, round(height * scale)), max(1, round(width * scale))
            scaled = x if size == (height, width) else resize_bilinear(x, size)
            found.append(jax.nn.softmax(self.layers(scaled)))
            if self.flip:
                found.append(jax.nn.softmax(self.layers(scaled[:, :, ::-1]))[:, :, ::-1])
        sized = [one if one.shape[1:3] == (height, width) else resize_bilinear(one, (height, width)) for one in found]
        mean = sum(sized[1:], start=sized[0]) / len(sized)
        return jnp.log(jnp.maximum(mean, jnp.finfo(mean.dtype).tiny))


def contained(image: np.ndarray, shape: tuple[int, int, int]) -> np.ndarray:
    """Return floats scaled until they fit into a shape, with zeros around, as `data.decode` places files."""
    place = Placement.of((image.shape[0], image.shape[1]), shape[:2])
    whole = np.zeros(shape, np.float32)
    planes = [_resized(image[..., channel], place.scaled) for channel in range(shape[2])]
    whole[place.rows, place.columns] = np.stack(planes, -1)
    return whole


def largest(probabilities: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Return the most probable class of every pixel after (height, width, classes) is scaled to `size`, uint8.

    Class by class, so that of a large photograph two planes are in memory, and not one for each class.
    """
    best = _resized(probabilities[..., 0], size)
    classes = np.zeros(size, np.uint8)
    for number in range(1, probabilities.shape[-1]):
        plane = _resized(probabilities[..., number], size)
        classes[plane > best] = number
        best = np.maximum(best, plane)
    return classes


def _as_floats(image: np.ndarray, channels: int) -> np.ndarray:
    check_image(image, channels)
    return image / np.float32(255) if image.dtype == np.uint8 else image.astype(np.float32)


def _resized(plane: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    from PIL import Image

    if plane.shape == size:
        return plane
    picture = Image.fromarray(np.ascontiguousarray(plane, np.float32))
    return np.asarray(picture.resize(size[::-1], Image.Resampling.BILINEAR))


def _starts(length: int, window: int) -> list[int]:
    """Where windows begin that overlap by half or more and cover everything."""
    step = max(1, int(window * (1 - OVERLAP)))
    return sorted({*range(0, length - window + 1, step), length - window})
