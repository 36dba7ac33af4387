"""Data sets for segmentation: by name or folder, in memory or as a stream."""

import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from cnnjax.data import scenes, shapes
from cnnjax.data.cache import cached
from cnnjax.data.dataset import Dataset, Split
from cnnjax.data.decode import VERSION
from cnnjax.data.folders import contents, printable
from cnnjax.data.masks import CLASSES, Masked, MaskFiles, MaskValues, mask_folder, read_classes, values_up_to
from cnnjax.data.sources import Streaming, dataset_of, decoded_or_streamed, is_folder, say_which, with_validation
from cnnjax.data.stream import Stream
from cnnjax.data.tfds_source import masks_of_tfds
from cnnjax.errors import UserError
from cnnjax.options import AnyInteger, Checked, CountOrZero, Fraction

SCENES_TRAIN, SCENES_TEST, SCENES_SIZE = 2000, 500, 64
# What the values of masks stand for, from 0, in TFDS sets that do not say it themselves.
KNOWN = {
    "camvid": "sky building pole road pavement tree sign fence car pedestrian bicyclist void",
    "oxford_iiit_pet": "void pet background border",
}
Size = tuple[int, ...]  # height and width, or one number for both


@dataclass(frozen=True)
class MaskSource(Checked):
    """Where images with masks come from, as options; see `load_masks`."""

    data: str = "shapes"
    """shapes, a TFDS set with masks such as camvid, or a folder: images and masks, or train, val and test of these."""
    image_size: Size | None = None
    """Height and width that images are scaled to fit into; one number for both."""
    score_size: Size | None = None
    """Height and width of the masks that predictions are evaluated on; default: the images'."""
    stream: Streaming = "auto"
    """always: decode while training; never: decode before, into memory; auto: stream what is large for the memory."""
    workers: CountOrZero = 0
    """Processes that decode a stream; 0: threads."""
    skip_bad: bool = False
    """Leave out images and masks that cannot be decoded; each is named."""
    validation_split: Fraction | None = None
    """Share of the training images held out to validate on, where there are no validation images; default: 0.2 of a
    folder that has no test images either, else none."""
    mask_ignore: AnyInteger | None = None
    """Value of the masks' pixels that have no class, besides 255."""

    def identity(self) -> dict[str, str]:
        """Return what tells a folder of images from another one that had the same path: a hash of what is in it."""
        return {"data_version": contents(self.data)} if is_folder(self.data) else {}

    def dataset(self) -> Dataset:
        """Load what the options name."""
        size, mask_size = (pair(name, getattr(self, name)) for name in ("image_size", "score_size"))
        if self.data == "shapes":
            return with_validation(_scenes(size, mask_size, self.stream), self.validation_split)
        version, sources, own, values = _folder(self) if is_folder(self.data) else masks_of(self.data, self.mask_ignore)
        size = size or own
        if size is None:
            raise UserError(
                f"images of {self.data} are scaled to one size: add `image_size`, height and width, such as (180, 240)"
            )
        mask_size = mask_size or size
        parts = {
            split: Stream(
                source,
                Masked((*size, 3), size if split == "train" else mask_size, values),
                0,
                len(source),
                self.workers,
                self.skip_bad,
            )
            for split, source in sources.items()
        }
        if is_folder(self.data) and "validation" in parts:
            say_which(printable(self.data), parts)
        make = partial(dataset_of, printable(self.data), version, values.class_names)
        pixels = sum(part.size for part in parts.values()) * (3 * size[0] * size[1] + mask_size[0] * mask_size[1])
        about = hashlib.sha256(repr((VERSION, version, size, mask_size, values, self.skip_bad)).encode())
        dataset = decoded_or_streamed(parts, make, self.stream, f"masks-{about.hexdigest()[:12]}", pixels)
        return with_validation(dataset, self.validation_split)


def load_masks(name: str = "shapes", **options: Any) -> Dataset:
    """Load a data set for segmentation.

    Images keep their shape: they are scaled until they fit into one size, and what is left is black and has no class.
    Masks have the number of a class for every pixel, or `VOID`, 255, where it has none.

    Args:
        name: "shapes", generated scenes of one to four objects, the background being class 0; a TFDS set with a feature
            "segmentation_mask"; or a folder: `images/*.jpg` and `masks/*.png` of the same names, or train, val and test
            with these two in each. A mask's pixels are the numbers of the classes, or the indices of its palette. A
            file classes.txt in the folder names the class of every value, a line for each from 0 (void is no class);
            with lines NAME RED GREEN BLUE masks are read by their colours.
        options: those of `MaskSource`; `image_size` and `score_size` are (height, width).

    Raises:
        UserError: an option is out of range, there is no such data, or it cannot be read; the message says what to do.
    """
    return MaskSource(name, **options).dataset()


def pair(name: str, value: Any) -> tuple[int, int] | None:
    """Return the (height, width) that an option of one or two numbers says, or None."""
    if value is None:
        return None
    size = tuple(value) if isinstance(value, tuple | list) else (value,)
    whole = all(isinstance(n, int) and not isinstance(n, bool) and n >= 1 for n in size)
    if not whole or len(size) not in (1, 2):
        raise UserError(f"`{name}` must be one or two integers of at least 1, height and width, got {value!r}")
    return size[0], size[-1]


def _folder(options: MaskSource) -> tuple[str, Mapping[str, MaskFiles], None, MaskValues]:
    root = Path(options.data)
    if not root.is_dir():
        raise UserError(f"{printable(root)} is no folder: expected one with images/*.jpg and masks/*.png")
    sources = mask_folder(root, options.validation_split)
    file = root / CLASSES
    ignored = options.mask_ignore
    values = read_classes(file, ignored) if file.is_file() else values_up_to(sources["train"], ignored)
    digest = hashlib.sha256()
    for split, source in sources.items():
        times = [os.stat(path).st_mtime_ns for path in (*source.files, *source.masks) if os.path.exists(path)]
        digest.update(repr((split, source.files, source.relative, times)).encode())
    return digest.hexdigest()[:12], sources, None, values


def masks_of(name: str, ignored: int | None) -> tuple[str, Mapping[str, Any], tuple[int, int] | None, MaskValues]:
    """Return the version of a TFDS set, its sources, the size of its images if all have one, and its masks' values."""
    version, sources, own = masks_of_tfds(name)
    known = KNOWN.get(name.split(":")[0].split("/")[0])
    values = (
        MaskValues(tuple(known.split()), ignore_index=ignored) if known else values_up_to(sources["train"], ignored)
    )
    return version, sources, own, values


def _scenes(size: tuple[int, int] | None, mask_size: tuple[int, int] | None, stream: Streaming) -> Dataset:
    if stream == "always" or mask_size or (size and size[0] != size[1]):
        raise UserError(
            "shapes are square and made in memory: leave out `stream='always'` and `score_size`, and give one number "
            "as `image_size`"
        )
    side = size[0] if size else SCENES_SIZE

    def make() -> Dataset:
        made = scenes.generate(SCENES_TRAIN + SCENES_TEST, size=side)
        every = Split(made.images, masks=made.masks)
        training, test = every.slice(0, SCENES_TRAIN), every.slice(SCENES_TRAIN, every.size)
        return Dataset("shapes", shapes.VERSION, ("background", *shapes.CLASS_NAMES), training, test)

    return cached(f"scenes-{shapes.VERSION}-{SCENES_TRAIN}-{SCENES_TEST}-{side}", make)
