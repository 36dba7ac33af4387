"""What every data source returns: images with their targets, in memory or as a stream."""

import itertools
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Any, Protocol

import jax
import numpy as np

from cnnjax.data.augment.sample import Sample
from cnnjax.data.objects import check_boxes, classes_of
from cnnjax.errors import UserError

VOID = 255  # in a mask: the pixel has no class
TARGETS = ("labels", "boxes", "masks", "instances", "keypoints")  # what may be known of an image, as `Sample` has it
FINGERPRINTED = 16  # examples
CHUNK = 4096  # examples whose checksum is computed at a time
Batches = Iterator[Sample]


class Examples(Protocol):
    """Images of one size with their targets that training and evaluation iterate over: a `Split` or a `Stream`."""

    @property
    def size(self) -> int:
        """Number of images."""
        ...

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(height, width, channels)."""
        ...

    @property
    def spec(self) -> Sample:
        """Shape and dtype of a batch of one image."""
        ...

    def select(self, targets: Sequence[str]) -> "Examples":
        """Return the images with only these targets."""
        ...

    def slice(self, start: int, stop: int) -> "Examples":
        """Return images `start` to `stop`."""
        ...

    def first(self, count: int) -> "Split":
        """Return the first images, in memory."""
        ...

    def batches(self, indices: np.ndarray, weights: np.ndarray) -> Batches:
        """Yield the batch of every row of `indices` and `weights` (steps, batch)."""
        ...


@dataclass(frozen=True, eq=False)
class Split:
    """Images in memory with what is known of them; None where nothing is.

    Attributes:
        images: (size, height, width, channels), uint8, or floats in [0, 1], which reach a network as they are.
        labels: int32 (size,), the class of each image; or (size, boxes), of each box, as `data.objects` says.
        boxes: float32 (size, boxes, 4), as `Sample` has them.
        masks: uint8 (size, height, width), the class of every pixel; `VOID`, 255, where it has none.
        instances: uint8 or uint16 (size, height, width), k + 1 where a pixel shows the object of box k, else 0.
        keypoints: float32 (size, points, 3), as `Sample` has them.

    Raises:
        UserError: the images are of another type, or floats out of [0, 1], or there are more or fewer targets.
    """

    images: np.ndarray
    labels: np.ndarray = None  # type: ignore[assignment] # as the data sets of most tasks have them
    boxes: np.ndarray | None = None
    masks: np.ndarray | None = None
    instances: np.ndarray | None = None
    keypoints: np.ndarray | None = None

    def __post_init__(self) -> None:
        for name, array in self.arrays.items():
            if len(array) != len(self.images):
                raise UserError(f"there are {len(self.images)} images but {len(array)} {name}: expected one for each")
        if self.masks is not None:
            check_masks(self.masks)
        if self.images.dtype == np.uint8:
            return
        expected = "expected uint8, or floats from 0 to 1"
        if self.images.dtype.kind != "f":
            raise UserError(f"the images are of type {self.images.dtype}; {expected}: convert bytes by astype('uint8')")
        if self.images.size and not (self.images.min() >= 0 and self.images.max() <= 1):
            least, most = self.images.min(), self.images.max()
            raise UserError(
                f"the images are floats from {least:g} to {most:g}; {expected}: divide values of bytes by 255, and let "
                "a network that wants other inputs normalise them itself"
            )

    @property
    def size(self) -> int:
        """Number of images."""
        return len(self.images)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(height, width, channels)."""
        height, width, channels = self.images.shape[1:]
        return height, width, channels

    @property
    def arrays(self) -> dict[str, np.ndarray]:
        """The arrays that are there, by their names."""
        every = {name: getattr(self, name) for name in ("images", *TARGETS)}
        return {name: array for name, array in every.items() if array is not None}

    @property
    def spec(self) -> Sample:
        """Shape and dtype of a batch of one image."""
        one: dict[str, Any] = {
            name: jax.ShapeDtypeStruct((1, *array.shape[1:]), array.dtype) for name, array in self.arrays.items()
        }
        return Sample(**one, weights=jax.ShapeDtypeStruct((1,), np.float32))  # type: ignore[arg-type]

    def select(self, targets: Sequence[str]) -> "Split":
        """Return the images with only these targets.

        Raises:
            UserError: one of them is not there.
        """
        check_targets(targets, tuple(self.arrays)[1:])
        return Split(self.images, **{name: getattr(self, name) for name in targets})

    def take(self, index: Any, weights: np.ndarray | None = None) -> Sample:
        """Return the batch of the images that a NumPy index names."""
        batch: dict[str, Any] = {name: np.asarray(array[index]) for name, array in self.arrays.items()}
        return Sample(**batch, weights=weights)  # type: ignore[arg-type]

    def first(self, count: int) -> "Split":
        """Return the first images."""
        return self.slice(0, count)

    def batches(self, indices: np.ndarray, weights: np.ndarray) -> Batches:
        """Yield the batch of every row of `indices` and `weights` (steps, ..., batch)."""
        for index, weight in zip(indices, weights, strict=True):
            yield self.take(index, weight)

    def slice(self, start: int, stop: int) -> "Split":
        """Return images `start` to `stop`, without copying them."""
        return Split(**{name: array[start:stop] for name, array in self.arrays.items()})


def check_masks(masks: np.ndarray) -> None:
    """Raise a UserError unless masks are integers (images, height, width) from 0 to 255."""
    expected = (
        f"expected integers (images, height, width): classes from 0 to {VOID - 1}, and {VOID} where there is none"
    )
    if masks.ndim != 3 or masks.dtype.kind not in "uib":
        raise UserError(f"the masks are of type {masks.dtype} and shape {masks.shape}; {expected}")
    if masks.dtype != np.uint8 and masks.size and not (masks.min() >= 0 and masks.max() <= VOID):
        raise UserError(f"the masks have values from {masks.min()} to {masks.max()}; {expected}")


def check_targets(wanted: Sequence[str], there: Sequence[str]) -> None:
    """Raise a UserError if a target is not among those that a data set has."""
    missing = [name for name in wanted if name not in there]
    if missing:
        raise UserError(
            f"the task learns {', '.join(missing)}, which the data does not have: it has {', '.join(there) or 'none'}. "
            "Choose other data, or another task"
        )


@dataclass(frozen=True)
class Dataset:
    """A data set.

    Attributes:
        name: as `data.load` knows it.
        version: changes when the images of a name change.
        class_names: name of the class with label k.
        train: images to train on.
        test: images to evaluate on; the validation images, where there are no others.
        validation: images to evaluate on while training, to choose by; None if the data has none of its own.
        ignore_index: a label that is no class; None: every label is one.

    Raises:
        UserError: a label or a box of images in memory cannot be right; a stream checks them as it reads them.
    """

    name: str
    version: str
    class_names: tuple[str, ...]
    train: Examples
    test: Examples
    validation: Examples | None = None
    ignore_index: int | None = None

    def __post_init__(self) -> None:
        for part, split in (("train", self.train), ("validation", self.validation), ("test", self.test)):
            where = f"the {part} images of data set {self.name!r}"
            if isinstance(split, Split) and split.labels is not None:
                names = (f"image {index} of {where}" for index in itertools.count())
                check_labels(split.labels, len(self.class_names), names, self.ignore_index)
            if isinstance(split, Split) and split.boxes is not None:
                check_boxes(split.boxes, split.image_shape[:2], where)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(height, width, channels)."""
        return self.train.image_shape


def check_labels(labels: np.ndarray, classes: int, names: Iterable[str], ignore_index: int | None = None) -> None:
    """Raise a UserError if a label is not the number of a class, 0 to `classes - 1`; `names` are its images'.

    JAX would count a negative label from the last class, and drop one that is too large. Labels (images, boxes) are
    those of objects, as `data.objects` says, which may be negative.
    """
    if labels.ndim == 2:
        found = classes_of(labels)
        worst = found.max(1, initial=0)
        if (worst >= classes).any():
            name = next(itertools.compress(names, worst >= classes))
            raise UserError(f"{name} has an object of class {worst.max()}; expected 0 to {classes - 1}")
        return
    wrong = (labels < 0) | (labels >= classes)
    wrong &= True if ignore_index is None else labels != ignore_index
    if wrong.any():
        name, label = next(itertools.compress(zip(names, labels, strict=False), wrong))
        raise UserError(
            f"{name} has the label {label}; expected the number of a class, 0 to {classes - 1} (TFDS has -1 where "
            "there is no label): correct it, choose data with labels, or leave such images out with "
            f"`ignore_index={label}`"
        )


def hold_out(split: Examples, fraction: float) -> tuple[Examples, Examples]:
    """Split off the last `fraction` of the images for validation, unshuffled, as Keras's `validation_split`.

    Returns:
        (train, validation); the train part has `floor(size * (1 - fraction))` images.

    Raises:
        UserError: the fraction is not between 0 and 1, or leaves one of the parts without images.
    """
    if not (isinstance(fraction, Real) and 0 < fraction < 1):
        raise UserError(f"`fraction` must be between 0 and 1, such as 0.1, got {fraction!r}")
    kept = int(split.size * (1 - fraction))
    if not 0 < kept < split.size:
        raise UserError(
            f"`fraction` {fraction:g} of {split.size} images leaves {kept} to train on and {split.size - kept} to "
            "validate on: expected at least one of each"
        )
    return split.slice(0, kept), split.slice(kept, split.size)


def fingerprint(examples: Examples) -> str:
    """Return a string that distinguishes data sets of one name: their size, and a checksum of the first examples."""
    crc = 0
    for array in examples.first(FINGERPRINTED).arrays.values():
        crc = zlib.crc32(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data, crc)
    return f"{examples.size} images of {'x'.join(map(str, examples.image_shape))} that begin with {crc:08x}"


def checksums(examples: Examples) -> dict[str, str]:
    """Return checksums of all examples by what they are of: "images" and "labels" in memory, "labels" of a folder.

    What would have to be decoded first, such as the images of a stream, is left out.
    """
    if not isinstance(examples, Split):
        return dict(getattr(examples, "checksums", dict)())
    crcs = {}
    for name, array in examples.arrays.items():
        crc = 0
        for start in range(0, len(array), CHUNK):  # memory-mapped images are not all read at once
            crc = zlib.crc32(np.ascontiguousarray(array[start : start + CHUNK]).reshape(-1).view(np.uint8).data, crc)
        crcs[name] = f"{crc:08x}"
    return crcs
