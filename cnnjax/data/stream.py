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
from collections.abc import Sequence
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


class Source(Protocol):
    """Encoded images by number."""

    def __len__(self) -> int:
        """Return how many there are."""
        ...

    def name(self, index: int) -> str:
        """Return a name by which a person finds the image."""
        ...

    def read(self, index: int) -> tuple[bytes, int]:
        """Return an image's file and its label."""
        ...


@dataclass(frozen=True)
class TfdsSource:
    """Records of a TFDS split, not yet decoded; `split` names it and its data set."""

    records: Any
    split: str
    label: str = "label"

    def __len__(self) -> int:
        return len(self.records)

    def name(self, index: int) -> str:
        return f"record {index} of {self.split}"

    def read(self, index: int) -> tuple[bytes, int]:
        record = self.records[index]
        return record["image"], int(record[self.label])


@dataclass(frozen=True)
class Stream:
    """Labelled images of one size, decoded when they are needed; can take the place of a `Split`.

    Attributes:
        source: where the encoded images come from.
        image_shape: (height, width, channels) of every image, scaled until it covers them and cropped to its middle.
        classes: number of classes.
        start: first image.
        stop: after the last image.
        workers: processes that decode; 0: threads of this process.
        skip_bad: whether an image that cannot be read is named and left out, instead of ending the run.
        deep: what becomes of images with more than 8 bits for each channel; as in `data.load`.
        ignore_index: a label that is no class; as in `data.load`.
        named: images left out so far, so that each is named once.
    """

    source: Source
    image_shape: tuple[int, int, int]
    classes: int
    start: int
    stop: int
    workers: int = 0
    skip_bad: bool = False
    deep: Deep = "refuse"
    ignore_index: int | None = None
    named: set[int] = field(default_factory=set, repr=False, compare=False)

    @property
    def size(self) -> int:
        """Number of images."""
        return self.stop - self.start

    @property
    def spec(self) -> Sample:
        """Shape and dtype of a batch of one image."""
        shapes = (1, *self.image_shape), (1,), (1,)
        images, labels, weights = map(jax.ShapeDtypeStruct, shapes, (np.uint8, np.int32, np.float32))
        return Sample(images, labels, weights=weights)  # type: ignore[arg-type]

    def select(self, targets: Sequence[str]) -> "Stream":
        """Return the stream; it has labels, and nothing else to leave out.

        Raises:
            UserError: another target is asked for.
        """
        check_targets(targets, ("labels",))
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
        return Split(np.asarray(batch.images), np.asarray(batch.labels))

    def batches(self, indices: np.ndarray, weights: np.ndarray) -> Batches:
        """Yield the batch of every row of `indices` and `weights` (steps, batch).

        An image that is left out has weight 0 and is replaced by another of its batch with its label, so that batch
        statistics and mixtures see only real images. The number of images left out is logged at the end.

        Raises:
            UserError: an image cannot be read and `skip_bad` is off, or no image can be read, or a label is not the
                number of a class.
        """
        import grain
        from absl import flags

        steps, batch_size = indices.shape
        load = functools.partial(_load, source=self.source, shape=self.image_shape, deep=self.deep)
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
            images, labels, bad = batch["image"], batch["label"], batch["error"] != ""
            check_labels(labels, self.classes, map(self.source.name, index), self.ignore_index)
            if bad.any():
                counts = bad & (weight > 0)
                self._skip(index[counts], batch["error"][counts])
                skipped += counts.sum()
                shown = np.arange(batch_size)
                shown[bad] = np.resize(np.flatnonzero(~bad), bad.sum())
                images, labels, weight = images[shown], labels[shown], np.where(bad, np.float32(0), weight)
            yield Sample(images, labels, weights=weight)
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


def _load(index: int, source: Source, shape: tuple[int, int, int], deep: Deep) -> dict[str, Any]:
    try:
        encoded, label = source.read(index)
        return {"image": decode(encoded, shape, deep), "label": np.int32(label), "error": ""}
    except Exception as error:  # Pillow and array_record raise many kinds for damaged files
        reason = re.sub(r" <_io.BytesIO[^>]*>", "", str(error).partition("\n")[0]) or type(error).__name__
        name = f"{source.name(index)} is no image that can be read ({reason})"
        return {"image": np.zeros(shape, np.uint8), "label": np.int32(0), "error": name}


def decode_all(stream: Examples) -> Split:
    """Return a stream's images in memory, without those that it leaves out."""
    batch = 256
    steps = -(-stream.size // batch)
    indices = np.resize(np.arange(stream.size), (steps, batch))
    weights = (np.arange(steps * batch) < stream.size).astype(np.float32).reshape(steps, batch)
    images, labels = np.empty((stream.size, *stream.image_shape), np.uint8), np.empty(stream.size, np.int32)
    kept = 0
    for decoded in stream.batches(indices, weights):
        good = np.asarray(decoded.weights) > 0
        images[kept : kept + good.sum()] = np.asarray(decoded.images)[good]
        labels[kept : kept + good.sum()] = np.asarray(decoded.labels)[good]
        kept += good.sum()
    return Split(images[:kept], labels[:kept])
