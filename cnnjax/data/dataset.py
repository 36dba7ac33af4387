"""What every data source gives: labelled images, in memory or as a stream."""

import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np

from cnnjax.errors import UserError

Batches = Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]


class Examples(Protocol):
    """Labelled images of one size that training and evaluation can go through: a `Split` or a `Stream`."""

    @property
    def size(self) -> int:
        """Number of images."""
        ...

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(height, width, channels)."""
        ...

    def slice(self, start: int, stop: int) -> "Examples":
        """Return images `start` to `stop`."""
        ...

    def first(self, count: int) -> "Split":
        """Return the first images, in memory."""
        ...

    def batches(self, indices: np.ndarray, weights: np.ndarray) -> Batches:
        """Yield (images, labels, weights) for every row of `indices` and `weights` (steps, batch)."""
        ...


class Split(NamedTuple):
    """Labelled images: uint8 (size, height, width, channels) and int32 (size,)."""

    images: np.ndarray
    labels: np.ndarray

    @property
    def size(self) -> int:
        """Number of images."""
        return len(self.labels)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(height, width, channels)."""
        height, width, channels = self.images.shape[1:]
        return height, width, channels

    def first(self, count: int) -> "Split":
        """Return the first images."""
        return self.slice(0, count)

    def batches(self, indices: np.ndarray, weights: np.ndarray) -> Batches:
        """Yield (images, labels, weights) for every row of `indices` and `weights` (steps, ..., batch)."""
        for index, weight in zip(indices, weights, strict=True):
            yield np.asarray(self.images[index]), np.asarray(self.labels[index]), weight

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

    Raises:
        UserError: a label of images in memory is no class's number; a stream says so when it reads one.
    """

    name: str
    version: str
    class_names: tuple[str, ...]
    train: Examples
    test: Examples

    def __post_init__(self) -> None:
        for part, split in (("train", self.train), ("test", self.test)):
            if isinstance(split, Split):
                names = (f"image {index} of the {part} images of data set {self.name!r}" for index in itertools.count())
                check_labels(split.labels, len(self.class_names), names)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(height, width, channels)."""
        return self.train.image_shape


def check_labels(labels: np.ndarray, classes: int, names: Iterable[str]) -> None:
    """Raise a UserError if a label is not the number of a class, 0 to `classes - 1`; `names` are its images'.

    JAX would count a negative one from the last class, and drop one that is too large.
    """
    wrong = (labels < 0) | (labels >= classes)
    if wrong.any():
        name, label = next(itertools.compress(zip(names, labels, strict=False), wrong))
        raise UserError(
            f"{name} has the label {label}; expected the number of a class, 0 to {classes - 1} (TFDS gives -1 where "
            "there is no label): correct it, or take data with labels"
        )


def hold_out(split: Examples, fraction: float) -> tuple[Examples, Examples]:
    """Split off the last `fraction` of the images for validation, unshuffled, as Keras's `validation_split`.

    Returns:
        (train, validation); the train part has `floor(size * (1 - fraction))` images.
    """
    kept = int(split.size * (1 - fraction))
    return split.slice(0, kept), split.slice(kept, split.size)
