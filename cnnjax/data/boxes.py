"""Data sets of objects, with their boxes and masks: by name or folder, in memory or as a stream."""

import hashlib
import io
import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal, Protocol

import jax
import numpy as np

from cnnjax.data import scenes, shapes
from cnnjax.data.cache import cached
from cnnjax.data.coco import BoxFormat, coco_folder
from cnnjax.data.dataset import Dataset, Split
from cnnjax.data.decode import VERSION, decode, formats, upright, upright_size
from cnnjax.data.folders import contents, printable
from cnnjax.data.masks import fit_mask
from cnnjax.data.objects import NO_OBJECT, Objects, Places, check_corners, faults, named
from cnnjax.data.segmentation import SCENES_SIZE, SCENES_TEST, SCENES_TRAIN, Size, pair
from cnnjax.data.sources import (
    SHAPES_TEST,
    SHAPES_TRAIN,
    Streaming,
    dataset_of,
    decoded_or_streamed,
    is_folder,
    say_which,
    with_validation,
)
from cnnjax.data.stream import Record, Stream, TfdsSource
from cnnjax.data.tfds_source import boxes_of_tfds
from cnnjax.errors import UserError
from cnnjax.options import Checked, Count, CountOrZero, Fraction

log = logging.getLogger(__name__)

MOST = 255  # places without being asked for: more would make every batch large for a few images
MANY = 10000  # images whose boxes take a while to read


@dataclass(frozen=True)
class BoxSource(Checked):
    """Where images with boxes come from, as options; see `load_boxes`."""

    data: str = "shapes"
    """shapes, a TFDS set with boxes such as bccd, or a folder of images with COCO's JSON."""
    annotations: str = "instances.json"
    """COCO's JSON: its name in the folder, or in each of its train, val and test, or a path."""
    box_format: BoxFormat = "xywh"
    """What the JSON's boxes are: x_min, y_min, width, height as COCO's, or x_min, y_min, x_max, y_max."""
    image_size: Size | None = None
    """Height and width that images are scaled to fit into; one number for both."""
    max_objects: Count | None = None
    """Places for objects in each image; default: as many as the image with the most objects has, up to 255. With 1,
    shapes are images of one object."""
    keep_largest: bool = False
    """Keep the largest where an image has more objects than places; else it is an error."""
    bad_boxes: Literal["refuse", "drop"] = "refuse"
    """Boxes without area, outside of their images or not of numbers: refuse names the first, drop leaves them out."""
    instances: bool = False
    """Read the masks of objects, too."""
    stream: Streaming = "auto"
    """always: decode while training; never: decode before, into memory; auto: stream what is large for the memory."""
    workers: CountOrZero = 0
    """Processes that decode a stream; 0: threads."""
    skip_bad: bool = False
    """Leave out images that cannot be read, or whose boxes cannot be right; each is named."""
    validation_split: Fraction | None = None
    """Share of the training images held out to validate on, where there are no validation images; default: 0.2 of a
    folder that has no test images either, else none."""

    def identity(self) -> dict[str, str]:
        """Return what tells a folder of images from another one that had the same path: a hash of what is in it."""
        if not is_folder(self.data):
            return {}
        outside = Path(self.annotations)
        digest = hashlib.sha256(outside.read_bytes()).hexdigest()[:12] if outside.is_file() else ""
        return {"data_version": contents(self.data) + digest}

    def dataset(self) -> Dataset:
        """Load what the options name."""
        size = pair("image_size", self.image_size)
        if self.data == "shapes":
            return with_validation(self._scenes(size), self.validation_split)
        sources: Mapping[str, Source]
        own = None
        if is_folder(self.data):
            version, names, sources = self._folder()
        else:
            version, names, found, own = boxes_of_tfds(self.data, self.instances)
            sources = {split: TfdsObjects(source) for split, source in found.items()}
        size = size or own
        if size is None:
            raise UserError(
                f"images of {self.data} are scaled to one size: add `image_size`, height and width, such as (240, 320)"
            )
        sources, places = self._surveyed(sources)
        reader = Boxed((*size, 3), places, len(names), self.instances)
        parts = {split: Stream(s, reader, 0, len(s), self.workers, self.skip_bad) for split, s in sources.items()}
        if is_folder(self.data) and "validation" in parts:
            say_which(printable(self.data), parts)
        make = partial(dataset_of, printable(self.data), version, names)
        about = hashlib.sha256(repr((VERSION, version, reader, self.skip_bad)).encode()).hexdigest()[:12]
        pixels = sum(part.size for part in parts.values()) * (4 if self.instances else 3) * size[0] * size[1]
        dataset = decoded_or_streamed(parts, make, self.stream, f"boxes-{about}", pixels)
        return with_validation(dataset, self.validation_split)

    def _folder(self) -> tuple[str, tuple[str, ...], Mapping[str, "Source"]]:
        root = Path(self.data)
        if not root.is_dir():
            raise UserError(
                f"{printable(root)} is no folder: expected one of images, with COCO's JSON {self.annotations}"
            )
        names, sources, left = coco_folder(root, self.annotations, self.box_format, self.validation_split)
        left.take_back(str(root / self.annotations))
        for split in ("train", "val", "valid", "validation", "test"):
            left.take_back(str(root / split / self.annotations))
        if left.paths:
            log.warning("%s: left out are %s", printable(root), left)
        listed = "\n".join(f"{split} {line}" for split, source in sources.items() for line in source.relative)
        return hashlib.sha256(listed.encode()).hexdigest()[:12], names, sources

    def _surveyed(self, sources: Mapping[str, "Source"]) -> tuple[Mapping[str, "Source"], Places]:
        """Check all objects before any image is decoded: the splits that have some, and how these get places."""
        places = Places(self.max_objects or MOST, self.keep_largest, self.bad_boxes == "drop")
        most = {split: survey(source, split, places, self.skip_bad) for split, source in sources.items()}
        if not most["train"]:
            raise UserError(f"{printable(self.data)}: no training image has an object: expected some with boxes")
        without = [split for split, count in most.items() if not count]
        if without and len(without) + 1 < len(sources):  # a challenge keeps the objects of its test images secret
            log.warning("%s: no %s image has an object: left out", printable(self.data), " and no ".join(without))
            sources = {split: source for split, source in sources.items() if split not in without}
        return sources, replace(places, count=self.max_objects or max(most.values()))

    def _scenes(self, size: tuple[int, int] | None) -> Dataset:
        if self.stream == "always" or (size and size[0] != size[1]):
            raise UserError(
                "shapes are square and made in memory: leave out `stream='always'`, and give one number as `image_size`"
            )
        side, places = size[0] if size else SCENES_SIZE, self.max_objects or scenes.MOST_OBJECTS
        if places == 1:
            return self._single_shapes(side)
        if places < scenes.MOST_OBJECTS:
            raise UserError(
                f"an image of shapes has up to {scenes.MOST_OBJECTS} objects, got `max_objects`={places}: give 1 for "
                "images of one object each"
            )

        def make() -> Dataset:
            made = scenes.generate(SCENES_TRAIN + SCENES_TEST, size=side)
            more = ((0, 0), (0, places - scenes.MOST_OBJECTS))
            every = Split(
                made.images,
                np.pad(made.labels, more, constant_values=NO_OBJECT),
                np.pad(made.boxes, (*more, (0, 0))),
                instances=made.instances if self.instances else None,
            )
            training, test = every.slice(0, SCENES_TRAIN), every.slice(SCENES_TRAIN, every.size)
            return Dataset("shapes", shapes.VERSION, shapes.CLASS_NAMES, training, test)

        key = f"objects-{shapes.VERSION}-{SCENES_TRAIN}-{SCENES_TEST}-{side}-{places}{'-instances' * self.instances}"
        return cached(key, make)

    def _single_shapes(self, side: int) -> Dataset:
        def make() -> Dataset:
            made = shapes.generate(SHAPES_TRAIN + SHAPES_TEST, size=side)
            boxes = made.boxes[:, None, [1, 0, 3, 2]] * np.float32(side)
            instances = made.masks.astype(np.uint8) if self.instances else None
            every = Split(made.images, made.labels[:, None], boxes, instances=instances)
            training, test = every.slice(0, SHAPES_TRAIN), every.slice(SHAPES_TRAIN, every.size)
            return Dataset("shapes", shapes.VERSION, shapes.CLASS_NAMES, training, test)

        key = f"object-{shapes.VERSION}-{SHAPES_TRAIN}-{SHAPES_TEST}-{side}{'-instances' * self.instances}"
        return cached(key, make)


def load_boxes(name: str = "shapes", **options: Any) -> Dataset:
    """Load a data set of objects with boxes, and with `instances=True` the mask of each.

    Images keep their shape: they are scaled until they fit into one size, and what is left is black. Every image has
    the same number of places for objects; `labels` (images, places) and `boxes` (images, places, 4), x_min, y_min,
    x_max, y_max in pixels of the scaled image, are as `data.objects` says: `labels >= 0` are objects, -1 is an empty
    place with the box (0, 0, 0, 0), and -2 - c a crowd of class c. `instances` (images, height, width) has k + 1 where
    a pixel shows the object in place k. An image without objects is kept. A box that reaches out of its image is cut.

    Args:
        name: "shapes", generated scenes of one to four objects, or with `max_objects=1` of one; a TFDS set with
            features objects/bbox and objects/label ("bccd", "voc/2007", "coco/2017"), or bbox and label
            ("caltech101_boxes"), and for masks an image instance_mask whose value k is object k - 1
            ("dsb2018_nuclei"); or a folder of images with COCO's JSON, or with train, val and test of these.
        options: those of `BoxSource`; `image_size` is (height, width).

    Raises:
        UserError: an option is out of range, there is no such data, or it cannot be read; the message says what to do.
    """
    return BoxSource(name, **options).dataset()


# ---------------------------------------------------------------- reading


class Source(Protocol):
    """Encoded images with objects, by number."""

    def __len__(self) -> int: ...

    def name(self, index: int) -> str: ...

    def objects_of(self, index: int) -> Objects:
        """Return the objects of an image, which is not decoded."""
        ...

    def read(self, index: int) -> Record:
        """Return its "image", the bytes of a file, its "objects", and a function that makes the map of "instances"."""
        ...


@dataclass(frozen=True)
class TfdsObjects:
    """Objects of a TFDS split, whose boxes are y_min, x_min, y_max, x_max from 0 to 1."""

    source: TfdsSource

    def __len__(self) -> int:
        return len(self.source)

    def name(self, index: int) -> str:
        return self.source.name(index)

    def objects_of(self, index: int) -> Objects:
        objects: Objects = self.read(index)["objects"]
        return objects

    def read(self, index: int) -> Record:
        record = self.source.read(index)
        found = record.get("objects") or {"bbox": [record["bbox"]], "label": [record["label"]]}
        height, width = upright_size(record["image"])
        boxes = np.asarray(found["bbox"], np.float64).reshape(-1, 4)[:, [1, 0, 3, 2]] * [width, height, width, height]
        objects = Objects.of(boxes, found["label"], (height, width), found.get("is_crowd"))
        return {"image": record["image"], "objects": objects, "instances": partial(numbers_in, record.get("mask", b""))}


def numbers_in(encoded: bytes) -> np.ndarray:
    """Return the values of an image of one channel."""
    from PIL import Image

    with Image.open(io.BytesIO(encoded), formats=formats()) as file:
        return np.asarray(upright(file))


@dataclass(frozen=True)
class Boxed:
    """Reads images with objects, scaled until they fit into a size, and padded where their shape is another.

    Attributes:
        image_shape: (height, width, channels) of every image.
        places: puts objects into the places of an image.
        classes: number of classes.
        instances: whether the masks of objects are read.
    """

    image_shape: tuple[int, int, int]
    places: Places
    classes: int
    instances: bool = False

    @property
    def spec(self) -> Mapping[str, jax.ShapeDtypeStruct]:
        shape, count, size = jax.ShapeDtypeStruct, self.places.count, self.image_shape[:2]
        every = {
            "images": shape(self.image_shape, np.uint8),
            "labels": shape((count,), np.int32),
            "boxes": shape((count, 4), np.float32),
        }
        return every | ({"instances": shape(size, self.places.number_type)} if self.instances else {})

    def read(self, record: Record) -> dict[str, Any]:
        objects, size = record["objects"], self.image_shape[:2]
        height, width = upright_size(record["image"])
        if (height, width) != objects.size:
            raise ValueError(f"it has {width}x{height} pixels, and its annotations {objects.size[1]}x{objects.size[0]}")
        if ((objects.labels < 0) | (objects.labels >= self.classes)).any():
            raise ValueError(f"its objects have the labels {objects.labels}: expected 0 to {self.classes - 1}")
        kept = self.places.kept(objects)
        boxes, labels = self.places.put(objects.take(kept), size)
        read = {"images": decode(record["image"], self.image_shape, fit="contain"), "labels": labels, "boxes": boxes}
        if self.instances:
            numbers = record["instances"]()
            if numbers.shape != objects.size:
                raise ValueError(f"it has {width}x{height} pixels, and its mask {numbers.shape[1]}x{numbers.shape[0]}")
            numbers = self.places.renumbered(numbers, kept, len(objects.labels))
            read["instances"] = fit_mask(numbers, size, fill=0)
        return read

    def check(self, batch: Mapping[str, np.ndarray], names: Iterable[str]) -> None:
        """Objects are checked as they are read."""


def survey(source: Source, split: str, places: Places, skip_bad: bool) -> int:
    """Check the objects of all images, say what is cut or left out, and return the most that an image has.

    Raises:
        UserError: it names the first image whose objects cannot be right, or are too many, unless such are skipped.
    """
    most, every = 0, list[tuple[int, Objects]]()
    cut, dropped, crowded = (list[tuple[str, int]]() for _ in range(3))
    if len(source) > MANY:
        log.warning("reading the boxes of %d %s images", len(source), split)
    for index in range(len(source)):
        try:
            objects = source.objects_of(index)
        except Exception:  # of many kinds, for damaged files: it is named, or left out, when it is decoded
            continue
        every.append((index, objects))
    if every:
        check_corners(np.concatenate([objects.boxes for _, objects in every]), f"the boxes of the {split} images")
    for index, objects in every:
        name = source.name(index)
        try:
            kept = places.kept(objects)
        except ValueError as error:
            if not skip_bad:
                raise UserError(f"{name}: {error}") from None
            continue  # it is named when it is read
        wrong = len(list(faults(objects.boxes, objects.size)))
        for counts, count in (
            (cut, objects.reaching_out),
            (dropped, wrong),
            (crowded, len(objects.labels) - wrong - len(kept)),
        ):
            counts += [(name, count)] if count else []
        most = max(most, len(kept))
    for what, counts in (
        ("boxes reach out of their images, and are cut at the border", cut),
        ("boxes cannot be right, and are left out", dropped),
        ("of the smallest objects are left out, for want of places", crowded),
    ):
        if counts:
            log.warning("%s images: %d %s: %s", split, sum(count for _, count in counts), what, named(counts))
    return most
