"""Data sets by name or folder, in memory or as a stream."""

import contextlib
import difflib
import hashlib
import logging
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np

from cnnjax.data import shapes
from cnnjax.data.bundled import digits
from cnnjax.data.cache import cached
from cnnjax.data.dataset import Dataset, Examples, Split, hold_out
from cnnjax.data.decode import VERSION, Deep
from cnnjax.data.folders import FolderSource, contents, folder_splits, printable
from cnnjax.data.stream import Labelled, Stream, decode_all
from cnnjax.data.tfds_source import decoded_bytes, load_tfds, stream_tfds
from cnnjax.errors import UserError
from cnnjax.options import Checked, Count, CountOrZero, Fraction

log = logging.getLogger(__name__)

SHAPES_TRAIN, SHAPES_TEST = 5000, 2000  # enough for a CNN to learn from, and made in seconds
Streaming = Literal["auto", "always", "never"]
LARGEST_SHARE = 0.25  # of the memory, for decoded images


@dataclass(frozen=True)
class Source(Checked):
    """Where labelled images come from, as options; see `load`."""

    data: str = "shapes"
    """shapes, digits, a TFDS set, or a folder: of train, val and test, each with CLASS/*.jpg, or CLASS/*.jpg alone."""
    image_size: Count | None = None
    """Height and width that images of a folder or a stream are resized to."""
    stream: Streaming = "auto"
    """always: decode while training; never: decode before, into memory; auto: stream what is large for the memory."""
    workers: CountOrZero = 0
    """Processes that decode a stream; 0: threads."""
    skip_bad: bool = False
    """Leave out images that cannot be decoded; each is named."""
    deep: Deep = "refuse"
    """Grey images of more than 8 bits: type scales 0 to 65,535 to 0 to 255 (floats 0 to 1), image scales each image's
    own least and greatest value; refuse does not read them. Of colours the upper 8 bits are read."""

    validation_split: Fraction | None = None
    """Share of the training images held out to validate on, where there are no validation images; default: 0.2 of a
    folder that has no test images either, else none."""

    def identity(self) -> dict[str, str]:
        """Return what tells a folder of images from another one that had the same path: a hash of what is in it."""
        return {"data_version": contents(self.data)} if is_folder(self.data) else {}

    def dataset(self) -> Dataset:
        """Load what the options name."""
        names = ("image_size", "stream", "workers", "skip_bad", "deep", "validation_split")
        ignored = getattr(self, "ignore_index", None)  # of a loss whose options stand beside these
        return load(self.data, **{name: getattr(self, name) for name in names}, ignore_index=ignored)


def load(
    name: str | os.PathLike[str],
    *,
    image_size: int | None = None,
    stream: Streaming = "auto",
    workers: int = 0,
    skip_bad: bool = False,
    deep: Deep = "refuse",
    validation_split: float | None = None,
    ignore_index: int | None = None,
) -> Dataset:
    """Load a classification data set.

    Args:
        name: "shapes" (generated) or "digits" (scikit-learn's), which need no network; any TFDS classification set:
            "cifar10", "mnist", ...; or the folder of a tree: `train/CLASS/*.jpg`, and beside it `val/CLASS/*.jpg` to
            validate on (also valid or validation) and `test/CLASS/*.jpg`, one of them or both or none; or
            `CLASS/*.jpg`. Without test images the validation images take their place, which a message says. Of a TFDS
            set that has both, with labels, "validation" is to validate on, and "test" to test on.
        image_size: height and width of the images of a stream or a folder; needed where they have different sizes.
        stream: "always" decodes while the network trains, "never" before, into memory; "auto" streams data that would
            take more than a quarter of the memory.
        workers: processes that decode a stream; 0: threads.
        skip_bad: whether images that cannot be decoded are named and left out.
        deep: what becomes of grey images of a folder with more than 8 bits: "type" scales 0 to 65,535, or floats from 0
            to 1, to bytes; "image" scales each image's own least and greatest value; "refuse" treats them as images
            that cannot be decoded. Of 16 bits for each colour, the upper 8 are read.
        validation_split: the share of the training images held out as `Dataset.validation`, where there are no
            validation images. Of a folder about this share of every class, chosen by a hash of the files' names, so
            that files added later move none; elsewhere the last images, as `hold_out`. None: 0.2 of a folder that has
            no test images either, else nothing.
        ignore_index: a label that is no class, such as TFDS's -1 where there is none: such images are kept, for a task
            that neither learns from nor counts them.

    Raises:
        UserError: an argument is out of range, or there is no such data set, or it cannot be loaded; the message says
            what to do.
    """
    name = os.fspath(name) if isinstance(name, os.PathLike) else name
    source = Source(name, image_size, stream, workers, skip_bad, deep, validation_split)  # checks the arguments
    if is_folder(name):
        return _load_folder(Path(name), source)
    return with_validation(_load_named(name, source, ignore_index), validation_split)


def with_validation(dataset: Dataset, share: float | None) -> Dataset:
    """Return the data set with a share of its training images held out, where it has none to validate on."""
    if share is None or dataset.validation is not None:
        return dataset
    train, validation = hold_out(dataset.train, share)
    return replace(dataset, train=train, validation=validation)


def _load_named(name: str, options: Source, ignore_index: int | None) -> Dataset:
    stream, size = options.stream, options.image_size
    if name in GENERATED:
        if stream == "always" or size is not None:
            raise UserError(f"{name} is made in memory at one size: leave out `stream='always'` and `image_size`")
        return GENERATED[name]()
    if stream == "always" or (stream == "auto" and is_large(decoded_bytes(name, size))):
        return stream_tfds(name, size, options.workers, options.skip_bad, ignore_index)
    if size is not None:
        raise UserError("`image_size` is for streams and folders: add `stream='always'`")
    return load_tfds(name, options.skip_bad, ignore_index)


def _shapes() -> Dataset:
    made = shapes.generate(SHAPES_TRAIN + SHAPES_TEST)
    height, width = made.masks.shape[1:]
    boxes = made.boxes[:, None, [1, 0, 3, 2]] * np.array([width, height, width, height], np.float32)
    masks = np.where(made.masks, made.labels[:, None, None] + 1, 0).astype(np.uint8)  # 0: background
    every = Split(made.images, made.labels, boxes, masks)
    training, test = every.slice(0, SHAPES_TRAIN), every.slice(SHAPES_TRAIN, every.size)
    return Dataset("shapes", shapes.VERSION, shapes.CLASS_NAMES, training, test)


GENERATED = {
    "shapes": lambda: cached(f"shapes-{shapes.VERSION}-{SHAPES_TRAIN}-{SHAPES_TEST}", _shapes),
    "digits": lambda: cached("digits-32", digits),
}


def is_large(size: int) -> bool:
    """Return whether so many bytes are better decoded while training."""
    return size > LARGEST_SHARE * os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def is_folder(name: str) -> bool:
    """Return whether the name of a data set is a path."""
    return os.sep in name or Path(name).is_dir()


def _load_folder(root: Path, options: Source) -> Dataset:
    shown, size, stream = printable(root), options.image_size, options.stream
    if not root.is_dir():
        beside = [path.name for path in root.parent.iterdir() if path.is_dir()] if root.parent.is_dir() else []
        near = difflib.get_close_matches(root.name, beside, 1)
        hint = f" (did you mean {printable(root.parent / near[0])}?)" if near else ""
        raise UserError(f"{shown} is no folder{hint}: expected one with train/CLASS/*.jpg and test/CLASS/*.jpg")
    if size is None:
        raise UserError(f"images of a folder, such as {shown}, are resized to one size: add `image_size=64`")
    names, splits = folder_splits(root, options.validation_split)
    fingerprint = _fingerprint(splits)
    reader = Labelled((size, size, 3), len(names), options.deep)
    how = options.workers, options.skip_bad
    parts = {split: Stream(source, reader, 0, len(source), *how) for split, source in splits.items()}
    if "validation" in parts:
        say_which(shown, parts)
    # With skip_bad there may be fewer images.
    key = f"folder-{fingerprint}-{size}{'-skip-bad' if options.skip_bad else ''}-{options.deep}"
    pixels = sum(part.size for part in parts.values()) * 3 * size**2
    return decoded_or_streamed(parts, partial(dataset_of, shown, fingerprint, names), stream, key, pixels)


def decoded_or_streamed(
    parts: Mapping[str, Stream],
    make: Callable[[Mapping[str, Examples]], Dataset],
    stream: Streaming,
    key: str,
    size: int,
) -> Dataset:
    """Return the data set that `make` makes of its parts: as streams, or decoded from the cache.

    Args:
        parts: by what they are for.
        make: makes the data set of them.
        stream: as in `load`.
        key: as in `cached`.
        size: bytes of the decoded examples.
    """
    if stream == "always" or (stream == "auto" and is_large(size)):
        return make(parts)
    return cached(key, lambda: make({split: decode_all(part) for split, part in parts.items()}))


def dataset_of(name: str, version: str, class_names: tuple[str, ...], parts: Mapping[str, Examples]) -> Dataset:
    """Return the data set; validation images are also those of the test where it has none."""
    validation = parts.get("validation")
    test: Any = parts.get("test", validation)  # a folder without both has a part of its own held out
    return Dataset(name, version, class_names, parts["train"], test, validation)


def say_which(name: str, parts: Mapping[str, Examples]) -> None:
    """Say which images are for what, where a folder has validation images or lacks others."""
    counts = f"{parts['train'].size} images to train on, {parts['validation'].size} to validate on"
    test = (
        f"{parts['test'].size} to test on" if "test" in parts else "which are also those of the test: it has no others"
    )
    log.warning("%s: %s, %s", name, counts, test)


def _fingerprint(splits: Mapping[str, FolderSource]) -> str:
    """A hash of the files' names, sizes and times, and of how they are decoded."""
    digest = hashlib.sha256(f"{VERSION}\n".encode())
    for split, source in splits.items():
        digest.update(f"{split} {len(source)}\n".encode())
        for file in source.files:
            digest.update(os.fsencode(file) + b"\n")
            with contextlib.suppress(OSError):  # a file that cannot be read is named when it is decoded
                stat = os.stat(file)
                digest.update(f"{stat.st_size} {stat.st_mtime_ns}\n".encode())
    return digest.hexdigest()[:12]
