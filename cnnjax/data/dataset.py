"""What every data source gives: labelled images in memory."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np


class Split(NamedTuple):
    """Labelled images: uint8 (size, height, width, channels) and int32 (size,)."""

    images: np.ndarray
    labels: np.ndarray

    @property
    def size(self) -> int:
        """Number of images."""
        return len(self.labels)

    def slice(self, start: int, stop: int) -> "Split":
        """Return images `start` to `stop`, without copying them."""
        return Split(self.images[start:stop], self.labels[start:stop])


@dataclass(frozen=True)
class Dataset:
    """A classification data set.

    Attributes:
        name: as `data.load` knows it.
        version: changes whenever the same name gives other images.
        class_names: what label k means.
        train: images to learn from.
        test: images to be judged by.
    """

    name: str
    version: str
    class_names: tuple[str, ...]
    train: Split
    test: Split

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(height, width, channels)."""
        height, width, channels = self.train.images.shape[1:]
        return height, width, channels


def hold_out(split: Split, fraction: float) -> tuple[Split, Split]:
    """Split off the last `fraction` of the images for validation, unshuffled, as Keras's `validation_split`.

    Returns:
        (train, validation); the train part has `floor(size * (1 - fraction))` images.
    """
    kept = int(split.size * (1 - fraction))
    return split.slice(0, kept), split.slice(kept, split.size)
