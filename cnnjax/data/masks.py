"""Masks, the class of every pixel of an image: what their values stand for, how they are read, folders of them."""

import io
import logging
import os
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np

from cnnjax.data.dataset import VOID
from cnnjax.data.decode import Placement, decode, formats, upright, upright_size
from cnnjax.data.folders import DEFAULT_SPLIT, LeftOut, held_out, images_in, mixed, printable, size_of, splits_of
from cnnjax.data.stream import Record
from cnnjax.errors import UserError

log = logging.getLogger(__name__)

CLASSES = "classes.txt"  # beside the images of a folder
NO_CLASS = ("void", "unlabelled", "unlabeled", "ignore")  # names of values that are no class
Colour = tuple[int, int, int]


@dataclass(frozen=True)
class MaskValues:
    """What the values of masks stand for.

    Attributes:
        names: of every value from 0; one of `NO_CLASS` is no class, and all others are the classes in this order.
        colours: of every value, for masks that are drawn in colours; none where pixels are the values.
        ignore_index: one more value that is no class, besides `VOID`.
    """

    names: tuple[str, ...]
    colours: tuple[Colour, ...] = ()
    ignore_index: int | None = None

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the classes that a network learns."""
        return tuple(name for value, name in enumerate(self.names) if self._is_class(value))

    def _is_class(self, value: int) -> bool:
        return self.names[value].lower() not in NO_CLASS and value != self.ignore_index

    def classes_of(self, image: Any) -> np.ndarray:
        """Return the class of every pixel of one of Pillow's images, uint8 (height, width), `VOID` where it has none.

        Raises:
            ValueError: a pixel has a value or a colour that stands for nothing.
        """
        table = np.full(256, -1, np.int16)
        for value in (VOID, *([] if self.ignore_index is None else [self.ignore_index])):
            table[value] = VOID
        numbers = iter(range(len(self.names)))
        for value in range(len(self.names)):
            table[value] = next(numbers) if self._is_class(value) else VOID
        if self.colours:
            return self._by_colour(np.asarray(image.convert("RGB")), table)
        if image.mode not in ("1", "L", "P", "I", "I;16", "I;16B"):
            raise ValueError(
                f"its mask has colours ({image.mode}): expected a PNG whose pixels are the numbers of the classes, or "
                f"a file {CLASSES} with a line NAME RED GREEN BLUE for each class"
            )
        values = np.asarray(image).astype(np.int64)
        classes = np.where((values >= 0) & (values < 256), table[values.clip(0, 255)], -1)
        if (classes < 0).any():
            row, column = np.argwhere(classes < 0)[0]
            lossy = ": JPEG changes values, save masks as PNG" if image.format == "JPEG" else ""
            raise ValueError(
                f"its mask has the value {values[row, column]} in row {row}, column {column}; expected 0 to "
                f"{len(self.names) - 1}, or {VOID} where there is no class{lossy}; another value without a class is "
                "given as `ignore_index`"
            )
        return classes.astype(np.uint8)

    def _by_colour(self, pixels: np.ndarray, table: np.ndarray) -> np.ndarray:
        packed = pixels.astype(np.int32) @ np.array([65536, 256, 1], np.int32)
        colours = np.array(self.colours, np.int32) @ np.array([65536, 256, 1], np.int32)
        order = np.argsort(colours, kind="stable")
        place = np.searchsorted(colours, packed, sorter=order).clip(0, len(colours) - 1)
        values = order[place]
        wrong = colours[values] != packed
        if wrong.any():
            row, column = np.argwhere(wrong)[0]
            raise ValueError(
                f"its mask has the colour {tuple(map(int, pixels[row, column]))} in row {row}, column {column}, which "
                f"{CLASSES} does not list"
            )
        return table[values].astype(np.uint8)


@dataclass(frozen=True)
class Masked:
    """Reads images with masks, both scaled until they fit into a size, and padded where their shape is another.

    Masks keep their values (the nearest pixel is taken); what is padded is black, and has no class.

    Attributes:
        image_shape: (height, width, channels) of every image.
        mask_size: (height, width) of every mask; the images' for masks to train on.
        values: what masks stand for.
    """

    image_shape: tuple[int, int, int]
    mask_size: tuple[int, int]
    values: MaskValues

    @property
    def spec(self) -> Mapping[str, jax.ShapeDtypeStruct]:
        shape = jax.ShapeDtypeStruct
        return {"images": shape(self.image_shape, np.uint8), "masks": shape(self.mask_size, np.uint8)}

    def read(self, record: Record) -> dict[str, Any]:
        from PIL import Image

        with Image.open(io.BytesIO(record["mask"]), formats=formats()) as file:
            kind, image = file.format, upright(file)
            image.format = kind
            classes = self.values.classes_of(image)
        height, width = upright_size(record["image"])
        if (height, width) != classes.shape:
            raise ValueError(f"it has {width}x{height} pixels, and its mask {classes.shape[1]}x{classes.shape[0]}")
        return {
            "images": decode(record["image"], self.image_shape, fit="contain"),
            "masks": fit_mask(classes, self.mask_size),
        }

    def check(self, batch: Mapping[str, np.ndarray], names: Iterable[str]) -> None:
        """Values are checked as masks are read."""


def fit_mask(classes: np.ndarray, size: tuple[int, int], fill: int = VOID) -> np.ndarray:
    """Return a mask scaled until it fits into (height, width), and padded with `fill`."""
    from PIL import Image

    if classes.shape == size:
        return classes
    place = Placement.of(classes.shape, size)
    scaled = Image.fromarray(classes).resize(place.scaled[::-1], Image.Resampling.NEAREST)
    whole = np.full(size, fill, classes.dtype)
    whole[place.rows, place.columns] = np.asarray(scaled)
    return whole


# ---------------------------------------------------------------- folders


@dataclass(frozen=True)
class MaskFiles:
    """Files of images and of their masks."""

    files: tuple[str, ...]
    masks: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.files)

    @property
    def relative(self) -> list[str]:
        """The files within their folder, with their sizes."""
        root = os.path.commonpath(self.files)
        pairs = zip(self.files, self.masks, strict=True)
        return [f"{printable(os.path.relpath(file, root))} {size_of(file)} {size_of(mask)}" for file, mask in pairs]

    def name(self, index: int) -> str:
        return printable(self.files[index])

    def read(self, index: int) -> Record:
        return {"image": Path(self.files[index]).read_bytes(), "mask": Path(self.masks[index]).read_bytes()}


def mask_folder(root: Path, validation_split: float | None = None) -> dict[str, MaskFiles]:
    """Return the sources "train", "validation" and "test" of a folder, as far as it has them.

    It has folders `images` and `masks`, in which an image and its mask have the same name but for the ending; or
    folders train, test, and val, valid or validation with these two in each. Where there are no validation images, a
    part of those to train on is taken as `folder_splits` does.

    Raises:
        UserError: there are no such folders, or an image has no mask.
    """
    left, shown = LeftOut(), printable(root)
    splits = splits_of(root, left) if not (root / "images").is_dir() else {"train": str(root)}
    left.take_back(str(root / CLASSES))
    found = {split: _pairs(Path(folder), left) for split, folder in splits.items()}
    if left.paths:
        counts = ", ".join(f"{len(pairs)} images in {split}" for split, pairs in found.items())
        log.warning("%s has %s; left out are %s", shown, counts, left)
    part = validation_split or (None if "test" in found else DEFAULT_SPLIT)
    if "validation" not in found and part:
        folder = os.path.join(splits["train"], "images")
        kept, held = held_out([(file, 0) for file, _ in found["train"]], folder, part)
        masks = dict(found["train"])
        found |= {"train": [(file, masks[file]) for file, _ in kept], "validation": [(f, masks[f]) for f, _ in held]}
        if not kept or not held:
            raise UserError(f"{shown} has one image: expected some more to validate on")
    return {split: MaskFiles(*map(tuple, zip(*mixed(pairs), strict=True))) for split, pairs in found.items()}


def _pairs(folder: Path, left: LeftOut) -> list[tuple[str, str]]:
    """Images of a folder with their masks."""
    shown = printable(folder)
    for name in ("images", "masks"):
        if not (folder / name).is_dir():
            raise UserError(f"{shown} has no folder {name}: expected {shown}/images/*.jpg and {shown}/masks/*.png")
    images, masks = (images_in(str(folder / name), left) for name in ("images", "masks"))
    by_stem = {_stem(mask, folder / "masks"): mask for mask in masks}
    pairs = [(image, by_stem.pop(_stem(image, folder / "images"), "")) for image in images]
    without = [image for image, mask in pairs if not mask]
    if without:
        more = f", and {len(without) - 1} more have none" if len(without) > 1 else ""
        expected = _stem(without[0], folder / "images")
        raise UserError(
            f"{printable(without[0])} has no mask{more}: expected {shown}/masks/{expected}.png; an image without any "
            f"class has a mask full of {VOID}"
        )
    for mask in by_stem.values():
        left.add("masks without an image", mask)
    return pairs


def _stem(file: str, folder: Path) -> str:
    return os.path.splitext(os.path.relpath(file, folder))[0]


def read_classes(file: Path, ignore_index: int | None = None) -> MaskValues:
    """Return what a file says of the values of masks, line by line from value 0: NAME, or NAME RED GREEN BLUE.

    Raises:
        UserError: some lines have a colour and others none, or a name or a colour is there twice.
    """
    lines = [_parsed(line) for line in file.read_text(encoding="utf-8").splitlines() if line.strip()]
    names, colours = [name for name, _ in lines], [colour for _, colour in lines if colour]
    if colours and len(colours) != len(names):
        bare = next(name for name, colour in lines if not colour)
        raise UserError(f"{file} has no colour of {bare}: expected NAME RED GREEN BLUE in every line, or in none")
    values = MaskValues(tuple(names), tuple(colours), ignore_index)
    for what, every in (("class", values.class_names), ("colour", values.colours)):
        for one, count in Counter(every).items():
            if count > 1:
                raise UserError(f"{file} has the {what} {one} {count} times: expected another one in every line")
    if len(values.class_names) < 2:
        raise UserError(f"{file} names {len(values.class_names)} classes: expected at least two, a line for each")
    return values


def _parsed(line: str) -> tuple[str, Colour | None]:
    words = line.split()
    if len(words) < 4 or not all(word.isdecimal() and int(word) < 256 for word in words[-3:]):
        return " ".join(words), None
    red, green, blue = map(int, words[-3:])
    return " ".join(words[:-3]), (red, green, blue)


def values_up_to(source: Any, ignore_index: int | None) -> MaskValues:
    """Return values without names, from 0 to the greatest one in the masks of a source: all of them are read."""
    from PIL import Image

    greatest = 1
    for index in range(len(source)):
        with Image.open(io.BytesIO(source.read(index)["mask"]), formats=formats()) as file:
            values = np.unique(np.asarray(upright(file)))
        counted = values[(values < VOID) & (values != ignore_index)]
        greatest = max(greatest, int(counted.max(initial=0)))
    return MaskValues(tuple(map(str, range(greatest + 1))), ignore_index=ignore_index)
