"""Objects of an image: their boxes, classes and masks, checked, and put into the places of a batch.

Every image has the same number of places, for the shapes of a batch are fixed. Place k has a box, x_min, y_min, x_max,
y_max in pixels, and a label:

- 0, 1, ...: an object of this class;
- `NO_OBJECT`, -1: nothing, and the box is (0, 0, 0, 0);
- -2 - c: a crowd of class c, many objects in one box, which a detector neither learns nor is blamed for.

So `labels >= 0` are the objects to learn. Where masks of objects are known, a pixel has k + 1 for the object in place
k, and 0 for none.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import islice

import numpy as np

from cnnjax.data.decode import Placement
from cnnjax.errors import UserError

NO_OBJECT = -1  # the label of a place without an object
Size = tuple[int, int]  # height and width


@dataclass(frozen=True, eq=False)
class Objects:
    """What is in an image of `size`, (height, width), as it is stored.

    Attributes:
        boxes: float64 (objects, 4), x_min, y_min, x_max, y_max in pixels.
        labels: int32 (objects,), their classes.
        crowds: bool (objects,), whether it is a crowd.
        size: of the image.
        numbers: int (objects,), by which a person finds them, such as the ids of annotations; default: from 0.
    """

    boxes: np.ndarray
    labels: np.ndarray
    crowds: np.ndarray
    size: Size
    numbers: np.ndarray

    @classmethod
    def of(cls, boxes: object, labels: object, size: Size, crowds: object = None, numbers: object = None) -> "Objects":
        """Return the objects of sequences."""
        classes = np.asarray(labels, np.int32).reshape(-1)
        count = len(classes)
        return cls(
            np.asarray(boxes, np.float64).reshape(count, 4),
            classes,
            np.zeros(count, bool) if crowds is None else np.asarray(crowds, bool).reshape(count),
            size,
            np.arange(count) if numbers is None else np.asarray(numbers, np.int64).reshape(count),
        )

    def take(self, index: np.ndarray) -> "Objects":
        """Return some of the objects."""
        chosen = {name: getattr(self, name)[index] for name in ("boxes", "labels", "crowds", "numbers")}
        return replace(self, **chosen)

    def check(self) -> None:
        """Raise a ValueError that names the first object whose box cannot be right."""
        for number, what in faults(self.boxes, self.size):
            raise ValueError(
                f"its object {self.numbers[number]} {what}; correct it, or leave such out with `bad_boxes='drop'`"
            )

    @property
    def reaching_out(self) -> int:
        """How many boxes reach out of the image by more than a pixel, which are cut at its border."""
        height, width = self.size
        wrong = [number for number, _ in faults(self.boxes, self.size)]
        boxes = np.delete(self.boxes, wrong, axis=0)
        return int(((boxes[:, :2] < -1).any(1) | (boxes[:, 2:] > np.array([width, height]) + 1).any(1)).sum())


def faults(boxes: np.ndarray, size: Size) -> Iterator[tuple[int, str]]:
    """Yield the number of every box (boxes, 4) that cannot be one of an image of `size`, and what is wrong with it."""
    height, width = size
    with np.errstate(invalid="ignore"):
        sides = boxes[:, 2:] - boxes[:, :2]
    finite, empty = np.isfinite(boxes).all(1), (sides <= 0).any(1)
    outside = (boxes[:, :2] >= np.array([width, height])).any(1) | (boxes[:, 2:] <= 0).any(1)
    for number in np.flatnonzero(~finite | empty | outside):
        corners = "(" + ", ".join(f"{value:g}" for value in boxes[number]) + ")"
        if not finite[number]:
            yield int(number), f"has a box {corners}, not of finite numbers"
        elif empty[number]:
            yield int(number), f"has a box without area: {corners}, expected x_min < x_max and y_min < y_max"
        else:
            yield int(number), f"has a box {corners} outside of the image, which has {width}x{height} pixels"


def check_corners(boxes: np.ndarray, where: str) -> None:
    """Raise a UserError if most boxes (boxes, 4) have a negative size, as x, y, width and height taken for corners."""
    with np.errstate(invalid="ignore"):
        negative = (boxes[:, 2:] < boxes[:, :2]).any(1)
    if 2 * negative.sum() > len(boxes):
        raise UserError(
            f"{where}: {negative.sum()} of {len(boxes)} boxes have a negative size, x_max < x_min or y_max < y_min. "
            "They look like x, y, width, height: expected x_min, y_min, x_max, y_max"
        )


def check_boxes(boxes: np.ndarray, size: Size, where: str) -> None:
    """Raise a UserError if a box of images in memory, (images, places, 4), cannot be right.

    Args:
        boxes: (0, 0, 0, 0) is none.
        size: (height, width) of the images.
        where: what the images are of.
    """
    if boxes.ndim != 3 or boxes.shape[-1] != 4 or boxes.dtype.kind != "f":
        raise UserError(
            f"the boxes of {where} are of type {boxes.dtype} and shape {boxes.shape}; "
            "expected floats (images, boxes, 4)"
        )
    places = np.flatnonzero((np.asarray(boxes) != 0).any(-1))  # NaN is not 0
    given = np.asarray(boxes).reshape(-1, 4)[places]
    check_corners(given, f"the boxes of {where}")
    for number, what in islice(faults(given, size), 1):
        image, place = divmod(int(places[number]), boxes.shape[1])
        raise UserError(f"object {place} of image {image} of {where} {what}; (0, 0, 0, 0) is no box")


@dataclass(frozen=True)
class Places:
    """Puts objects into the places of an image that is scaled until it fits into `size`.

    Attributes:
        count: places.
        keep_largest: whether the smallest objects are left out where there are more; else that is an error.
        drop: whether objects whose boxes cannot be right are left out; else that is an error.
    """

    count: int
    keep_largest: bool = False
    drop: bool = False

    def kept(self, objects: Objects) -> np.ndarray:
        """Return which objects get places, in this order: objects before crowds, each as they are listed.

        Raises:
            ValueError: a box cannot be right, or there are more objects than places.
        """
        if not self.drop:
            objects.check()
        wrong = [number for number, _ in faults(objects.boxes, objects.size)]
        right = np.setdiff1d(np.arange(len(objects.labels)), wrong)
        right = right[np.argsort(objects.crowds[right], kind="stable")]
        if len(right) <= self.count:
            return right
        if not self.keep_largest:
            raise ValueError(
                f"it has {len(right)} objects and there are `max_objects`={self.count} places for them: give more, or "
                "keep the largest with `keep_largest=True`"
            )
        boxes = _cut(objects.boxes[right], objects.size)
        areas = np.where(objects.crowds[right], -1, np.prod(boxes[:, 2:] - boxes[:, :2], -1))
        return right[np.sort(np.argsort(-areas, kind="stable")[: self.count])]

    def put(self, objects: Objects, size: Size) -> tuple[np.ndarray, np.ndarray]:
        """Return boxes float32 (places, 4) in pixels of the scaled image, and labels int32 (places,)."""
        place = Placement.of(objects.size, size)
        scale = np.array(place.scaled[::-1]) / objects.size[::-1]
        start = np.array([place.columns.start, place.rows.start])
        boxes, labels = np.zeros((self.count, 4), np.float32), np.full(self.count, NO_OBJECT, np.int32)
        count = len(objects.labels)
        boxes[:count] = _cut(objects.boxes, objects.size) * np.tile(scale, 2) + np.tile(start, 2)
        labels[:count] = np.where(objects.crowds, -2 - objects.labels, objects.labels)
        return boxes, labels

    @property
    def number_type(self) -> np.dtype:
        """Type of a map of the objects: of bytes where these are enough."""
        return np.dtype(np.uint8 if self.count <= 255 else np.uint16)

    def renumbered(self, instances: np.ndarray, kept: np.ndarray, count: int) -> np.ndarray:
        """Return a map of `count` objects, k + 1 for object k, with the numbers that those `kept` have afterwards."""
        greatest = int(instances.max(initial=0))
        if greatest > count:
            raise ValueError(f"its mask has the number {greatest}, but it has {count} objects")
        table = np.zeros(count + 1, self.number_type)
        table[kept + 1] = np.arange(1, len(kept) + 1)
        return table[instances]


def _cut(boxes: np.ndarray, size: Size) -> np.ndarray:
    height, width = size
    return np.clip(boxes, 0, [width, height, width, height])


def classes_of(labels: np.ndarray) -> np.ndarray:
    """Return the class of every place, that of a crowd included; `NO_OBJECT` where there is nothing."""
    return np.where(labels < NO_OBJECT, -2 - labels, labels)


def named(pairs: Iterable[tuple[str, int]]) -> str:
    """Return counts by name in words: "a.jpg 2, b.jpg 1, and 3 more images"."""
    every = list(pairs)
    said = ", ".join(f"{name} ({count})" for name, count in every[:3])
    return said + (f", and {len(every) - 3} more images" if len(every) > 3 else "")
