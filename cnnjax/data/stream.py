"""Images that are decoded while a network trains: folder trees and TFDS sets that do not fit into memory.

The order is the same function of seed and epoch as for data in memory (`epoch_order`), so both paths see the same
examples in the same order, and a resumed run needs only its step. Grain's threads or worker processes read, decode and
resize images ahead of the steps.
"""

import functools
import logging
import re
import sys
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, Protocol

import jax
import numpy as np

from cnnjax.data.augment.sample import Sample
from cnnjax.data.dataset import Batches, Examples, Split, check_labels, check_targets
from cnnjax.data.decode import Deep, decode
from cnnjax.errors import UserError

log = logging.getLogger(__name__)

THREADS = 4  # that decode in each process; Pillow releases Python's lock meanwhile
BATCHES_AHEAD = 4


Record = Mapping[str, Any]  # one example as it is stored: the image's file, and what is known of it


class Source(Protocol):
    """Encoded examples by number."""

    def __len__(self) -> int:
        """Return how many there are."""
        ...

    def name(self, index: int) -> str:
        """Return a name by which a person finds the image."""
        ...

    def read(self, index: int) -> Record:
        """Return an example: its "image", the bytes of a file, and its label, the file of its mask, or its objects."""
        ...


class Reader(Protocol):
    """Decodes records into images of one size and their targets."""

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(height, width, channels) of every image."""
        ...

    @property
    def spec(self) -> Mapping[str, jax.ShapeDtypeStruct]:
        """Shape and dtype of every array of an example, by the names of `Sample`, "images" first."""
        ...

    def read(self, record: Record) -> dict[str, Any]:
        """Return the arrays of an example; raise an exception that says why it cannot be read."""
        ...

    def check(self, batch: Mapping[str, np.ndarray], names: Iterable[str]) -> None:
        """Raise a UserError if a target cannot be right; `names` are the images'."""
        ...


@dataclass(frozen=True)
class Labelled:
    """Reads images of classes.

    Attributes:
        image_shape: (height, width, channels) of every image, scaled until it covers them and cropped to its middle.
        classes: number of classes.
        deep: what becomes of images with more than 8 bits for each channel; as in `data.load`.
        ignore_index: a label that is no class; as in `data.load`.
    """

    image_shape: tuple[int, int, int]
    classes: int
    deep: Deep = "refuse"
    ignore_index: int | None = None

    @property
    def spec(self) -> Mapping[str, jax.ShapeDtypeStruct]:
        shape = jax.ShapeDtypeStruct
        return {"images": shape(self.image_shape, np.uint8), "labels": shape((), np.int32)}

    def read(self, record: Record) -> dict[str, Any]:
        return {"images": decode(record["image"], self.image_shape, self.deep), "labels": np.int32(record["label"])}

    def check(self, batch: Mapping[str, np.ndarray], names: Iterable[str]) -> None:
        check_labels(batch["labels"], self.classes, names, self.ignore_index)


@dataclass(frozen=True)
class TfdsSource:
    """Records of a TFDS split, not yet decoded; `split` names it and its data set.

    Attributes:
        records: of the split.
        split: in words.
        features: which of a record's features is its "image", and its "label" or "mask".
    """

    records: Any
    split: str
    features: Mapping[str, str] = field(default_factory=lambda: {"image": "image", "label": "label"})

    def __len__(self) -> int:
        return len(self.records)

    def name(self, index: int) -> str:
        return f"record {index} of {self.split}"

    def read(self, index: int) -> Record:
        record = self.records[index]
        return {name: record[feature] for name, feature in self.features.items()}


@dataclass(frozen=True)
class Stream:
    """Images of one size with their targets, decoded when they are needed; can take the place of a `Split`.

    Attributes:
        source: where the encoded examples come from.
        reader: decodes them.
        start: first image.
        stop: after the last image.
        workers: processes that decode; 0: threads of this process.
        skip_bad: whether an image that cannot be read is named and left out, instead of ending the run.
        named: images left out so far, so that each is named once.
    """

    source: Source
    reader: Reader
    start: int
    stop: int
    workers: int = 0
    skip_bad: bool = False
    named: set[int] = field(default_factory=set, repr=False, compare=False)

    @property
    def size(self) -> int:
        """Number of images."""
        return self.stop - self.start

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(height, width, channels) of every image."""
        return self.reader.image_shape

    @property
    def spec(self) -> Sample:
        """Shape and dtype of a batch of one image."""
        one: dict[str, Any] = {
            name: jax.ShapeDtypeStruct((1, *leaf.shape), leaf.dtype) for name, leaf in self.reader.spec.items()
        }
        return Sample(**one, weights=jax.ShapeDtypeStruct((1,), np.float32))  # type: ignore[arg-type]

    @functools.cached_property
    def labels(self) -> np.ndarray | None:
        """The class of each image, int32 (size,), without decoding any, or None; a TFDS set is read once for it."""
        if "labels" not in self.reader.spec or self.reader.spec["labels"].shape:  # or they are of objects
            return None
        listed = getattr(self.source, "targets", None)  # of a folder
        if listed is None:
            log.warning("reading the labels of %d images", self.size)
            return np.array([self.source.read(index)["label"] for index in range(self.start, self.stop)], np.int32)
        return np.array(listed[self.start : self.stop], np.int32)

    def select(self, targets: Sequence[str]) -> "Stream":
        """Return the stream, whose targets are all decoded together.

        Raises:
            UserError: another target is asked for.
        """
        check_targets(targets, tuple(self.reader.spec)[1:])
        return self

    def slice(self, start: int, stop: int) -> "Stream":
        """Return images `start` to `stop`."""
        return replace(self, start=self.start + start, stop=min(self.start + stop, self.stop))

    def checksums(self) -> dict[str, str]:
        """Return checksums of what is known without decoding: the labels and the files of a folder."""
        listed = {name: getattr(self.source, name, ())[self.start : self.stop] for name in ("targets", "relative")}
        labels, files = np.array(listed["targets"], np.int32), "\n".join(listed["relative"]).encode()
        found = {"labels": labels.tobytes(), "files": files}
        return {name: f"{zlib.crc32(content):08x}" for name, content in found.items() if content}

    def first(self, count: int) -> Split:
        """Return the first images, decoded."""
        count = min(count, self.size)
        batch = next(self.batches(np.arange(count)[None], np.ones((1, count), np.float32)))
        return Split(**{name: np.asarray(getattr(batch, name)) for name in self.reader.spec})

    def batches(self, indices: np.ndarray, weights: np.ndarray) -> Batches:
        """Yield the batch of every row of `indices` and `weights` (steps, batch).

        An image that is left out has weight 0 and is replaced by another of its batch with its targets, so that batch
        statistics and mixtures see only real images. The number of images left out is logged at the end.

        Raises:
            UserError: an image cannot be read and `skip_bad` is off, or no image can be read, or a label is not the
                number of a class.
        """
        import grain
        from absl import flags

        steps, batch_size = indices.shape
        load = functools.partial(_load, source=self.source, reader=self.reader)
        examples = grain.MapDataset.source(_Numbers(indices.ravel() + self.start)).map(load).batch(batch_size)
        read = grain.ReadOptions(num_threads=THREADS, prefetch_buffer_size=BATCHES_AHEAD)
        loaded = examples.to_iter_dataset(read)
        if self.workers:
            if not flags.FLAGS.is_parsed():
                flags.FLAGS.mark_as_parsed()  # Grain's workers read absl's flags
            loaded = _through_pipes(loaded).mp_prefetch(
                grain.MultiprocessingOptions(min(self.workers, steps), BATCHES_AHEAD)
            )
        skipped = 0
        for index, weight, batch in zip(indices + self.start, weights, loaded, strict=True):
            errors = batch.pop("error")
            bad = errors != ""
            self.reader.check(batch, map(self.source.name, index))
            if bad.any():
                counts = bad & (weight > 0)
                self._skip(index[counts], errors[counts])
                skipped += counts.sum()
                shown = np.arange(batch_size)
                shown[bad] = np.resize(np.flatnonzero(~bad), bad.sum())
                batch = {name: array[shown] for name, array in batch.items()}
                weight = np.where(bad, np.float32(0), weight)
            yield Sample(**batch, weights=weight)
        if skipped:
            log.warning("skipped %d of %d images", skipped, np.count_nonzero(weights))
        if skipped == self.size:
            raise UserError(f"none of the {self.size} images can be read, {self.source.name(self.start)} among them")

    def _skip(self, numbers: np.ndarray, errors: Sequence[str]) -> None:
        """Log images that cannot be read, each once."""
        for number, error in zip(numbers, errors, strict=True):
            if not self.skip_bad:
                raise UserError(f"{error}: repair or remove it, or leave it out with `skip_bad=True`")
            if number not in self.named:
                log.warning("skipped: %s", error)
            self.named.add(number)


def _through_pipes(dataset: Any) -> Any:
    """Return a Grain dataset whose worker processes send arrays through pipes, not in shared memory.

    Grain unlinks shared memory in a thread that Python does not wait for as it ends, and not what a worker sends while
    it is stopped: Python then warns of leaked memory, and after SIGKILL it would stay until the machine starts anew.
    """
    from grain.experimental import DatasetOptions, WithOptionsIterDataset

    if "min_shm_size" not in {option.name for option in fields(DatasetOptions)}:  # an older Grain
        return dataset
    return WithOptionsIterDataset(dataset, DatasetOptions(min_shm_size=sys.maxsize))


class _Numbers:
    """The numbers of the examples in order, as a random-access source for Grain."""

    def __init__(self, numbers: np.ndarray):
        self._numbers = numbers

    def __len__(self) -> int:
        return len(self._numbers)

    def __getitem__(self, index: Any) -> int:
        return int(self._numbers[index])

    def __repr__(self) -> str:
        return f"_Numbers({len(self)})"  # Grain prints its sources


def _load(index: int, source: Source, reader: Reader) -> dict[str, Any]:
    try:
        return {**reader.read(source.read(index)), "error": ""}
    except Exception as error:  # Pillow and array_record raise many kinds for damaged files
        reason = re.sub(r" <_io.BytesIO[^>]*>", "", str(error).partition("\n")[0]) or type(error).__name__
        name = f"{source.name(index)} is no image that can be read ({reason})"
        nothing = {name: np.zeros(leaf.shape, leaf.dtype) for name, leaf in reader.spec.items()}
        return {**nothing, "error": name}


def decode_all(stream: Examples) -> Split:
    """Return a stream's images in memory, without those that it leaves out."""
    batch = max(1, min(256, stream.size))
    steps = -(-stream.size // batch)
    indices = np.resize(np.arange(stream.size), (steps, batch))
    weights = (np.arange(steps * batch) < stream.size).astype(np.float32).reshape(steps, batch)
    one = {name: leaf for name, leaf in vars(stream.spec).items() if name != "weights" and hasattr(leaf, "dtype")}
    arrays = {name: np.empty((stream.size, *leaf.shape[1:]), leaf.dtype) for name, leaf in one.items()}
    kept = 0
    for decoded in stream.batches(indices, weights):
        good = np.asarray(decoded.weights) > 0
        for name, array in arrays.items():
            array[kept : kept + good.sum()] = np.asarray(getattr(decoded, name))[good]
        kept += good.sum()
    return Split(**{name: array[:kept] for name, array in arrays.items()})
