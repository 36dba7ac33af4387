"""Classification data sets of TensorFlow Datasets, read without TensorFlow."""

import hashlib
import logging
import math
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from cnnjax import compat
from cnnjax.data.cache import cached
from cnnjax.data.dataset import Dataset, Split
from cnnjax.data.decode import MODES, VERSION, decode
from cnnjax.data.stream import Labelled, Stream, TfdsSource, decode_all
from cnnjax.errors import UserError, unknown_name

log = logging.getLogger(__name__)

_CHUNK = 2048  # images decoded at a time
_HELD_OUT = ("test", "validation")


def load_tfds(name: str, skip_bad: bool = False, ignore_index: int | None = None) -> Dataset:
    """Load a TFDS classification data set into memory, downloading it first where it is not prepared.

    TFDS decides where it lies: in `$TFDS_DATA_DIR`, or `~/tensorflow_datasets`. The decoded arrays are cached.

    Args:
        name: as in TFDS: "cifar10", "cifar10:3.0.2", "binary_alpha_digits", ...
        skip_bad: as in `Stream`, which then decodes the images.

    Raises:
        UserError: there is no such data set, its images differ in size, have no labels or more than 8 bits per channel,
            its files are damaged, or it cannot be downloaded.
    """
    builder = _prepared(name)
    folder = Path(os.fspath(builder.data_dir))
    info = (folder / "dataset_info.json").read_bytes()
    # Two copies of one version may differ in their pixels: the folder and its own description decide, too.
    fingerprint = hashlib.sha256(bytes(folder.resolve()) + info + bytes([VERSION])).hexdigest()[:12]
    key = f"{name.replace('/', '-').replace(':', '-')}-{builder.version}-{fingerprint}"
    key += f"-{len(_check_features(builder, name))}" + ("" if ignore_index is None else f"-ignore{ignore_index}")
    if skip_bad:
        return cached(f"{key}-skip-bad", lambda: _decode_good(name, ignore_index))
    return cached(key, lambda: _decode(builder, name, ignore_index))


def decoded_bytes(name: str, image_size: int | None) -> int:
    """Return the bytes that a TFDS set takes in memory; 0 if its images differ in size and `image_size` is None."""
    info = _builder(_tfds(), name).info
    images = info.features["image"].shape if "image" in info.features else (0,)
    shape = (image_size, image_size, images[-1]) if image_size else images
    examples = sum(info.splits[split].num_examples for split in ("train", *_HELD_OUT) if split in info.splits)
    return 0 if None in shape else examples * math.prod(shape)


def stream_tfds(
    name: str, image_size: int | None, workers: int, skip_bad: bool, ignore_index: int | None = None
) -> Dataset:
    """Open a TFDS set as a stream: nothing is decoded yet.

    Args:
        name: as in `load_tfds`.
        image_size: height and width that images are resized to; default: their own size, if all have the same.
        workers: as in `Stream`.
        skip_bad: as in `Stream`.
        ignore_index: as in `data.load`.

    Raises:
        UserError: as in `load_tfds`, or the images differ in size and `image_size` is None, or their number of channels
            is not supported.
    """
    builder = _prepared(name)
    parts = _check_features(builder, name)
    features, skip = builder.info.features, {"image": _tfds().decode.SkipDecoding()}
    names, (*own_size, channels) = tuple(features["label"].names), features["image"].shape
    shape = (*((image_size, image_size) if image_size else own_size), channels)
    if None in shape[:2]:
        raise UserError(f"data set {name!r} has images of different sizes: choose one with `image_size`")
    if channels not in MODES:
        raise UserError(f"data set {name!r} has images of {channels} channels; a stream takes {sorted(MODES)}")
    with _reading(builder, name):
        sources = {
            part: TfdsSource(builder.as_data_source(split, decoders=skip), f"split {split!r} of data set {name!r}")
            for part, split in parts.items()
        }
    reader = Labelled(shape, len(names), ignore_index=ignore_index)
    streams = {part: Stream(source, reader, 0, len(source), workers, skip_bad) for part, source in sources.items()}
    return Dataset(name, str(builder.version), names, **streams, ignore_index=ignore_index)


def is_prepared(name: str) -> bool:
    """Return whether the data set can be read without a download."""
    try:
        return bool(_builder(_tfds(), name).is_prepared())
    except UserError:
        return False


def _tfds() -> ModuleType:
    logging.getLogger("absl").setLevel(logging.ERROR)  # it recommends OpenCV at every start
    import tensorflow_datasets as tfds

    from cnnjax.data.builders import caltech101_boxes, camvid, dsb2018_nuclei  # noqa: F401 # which registers them

    compat.skip_tfds_bucket(tfds)
    return tfds


def _builder(tfds: ModuleType, name: str) -> Any:
    try:
        return tfds.builder(name, try_gcs=False)
    except tfds.core.registered.DatasetNotFoundError:
        folders = {path.name for path in Path().iterdir() if path.is_dir() and not path.name.startswith(".")}
        known = {*tfds.list_builders(with_community_datasets=False), "shapes", "digits", *folders}
        error = f"{unknown_name('data set', name, known)}.".replace("?.", "?")
        raise UserError(
            f"{error} Sets without a download are shapes and digits, others TFDS's, such as cifar10; no folder is "
            "here under that name"
        ) from None
    except Exception as error:  # the data set's own code and damaged files raise many kinds
        raise UserError(f"data set {name!r} cannot be opened: {_first_line(error)}") from error


def _prepared(name: str) -> Any:
    """Return the builder of a data set of uint8 images, downloading the set first where it is not prepared."""
    builder = _builder(_tfds(), name)
    features = builder.info.features
    dtype = features["image"].np_dtype if "image" in features else np.uint8
    if dtype != np.uint8:  # numbers would be taken modulo 256
        raise UserError(
            f"data set {name!r} has images of {getattr(dtype, '__name__', dtype)}; expected uint8, a byte for each "
            "channel: scale them to 0 to 255 and save them as a folder with train/CLASS/*.png and test/CLASS/*.png"
        )
    if not builder.is_prepared():
        _prepare(builder, name)
    return builder


def _prepare(builder: Any, name: str) -> None:
    log.warning("%s is not prepared in %s: downloading it with TFDS", name, builder.data_dir)
    try:
        _check_reachable(builder)
        builder.download_and_prepare(file_format="array_record")
    except Exception as error:  # whatever TFDS or the network raises, the remedy is the same
        raise UserError(
            f"data set {name!r} is not prepared in {builder.data_dir}, and downloading it failed "
            f"({_first_line(error)}). On a machine with a network, prepare it with: pip install tensorflow && tfds "
            f"build {name} --file_format=array_record, and point TFDS_DATA_DIR to the folder that holds it. The "
            "data sets shapes and digits need no network."
        ) from error


def _check_reachable(builder: Any) -> None:
    """Fail at once where there is no network: TFDS itself retries for minutes."""
    import requests

    for url in list(builder.url_infos)[:1]:
        requests.head(url, timeout=10)


def _decode(builder: Any, name: str, ignore_index: int | None) -> Dataset:
    features, parts = builder.info.features, _check_features(builder, name)
    if None in features["image"].shape:
        raise UserError(
            f"data set {name!r} has images of different sizes {features['image'].shape}; expected one size; to "
            "stream it at one, give `stream='always'` and `image_size`"
        )
    with _reading(builder, name):
        decoded = {part: _decode_split(builder, split) for part, split in parts.items()}
    names = tuple(features["label"].names)
    return Dataset(name, str(builder.version), names, **decoded, ignore_index=ignore_index)


def _decode_good(name: str, ignore_index: int | None) -> Dataset:
    stream = stream_tfds(name, None, 0, True, ignore_index)
    validation = stream.validation and decode_all(stream.validation)
    return replace(stream, train=decode_all(stream.train), test=decode_all(stream.test), validation=validation)


@contextmanager
def _reading(builder: Any, name: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # array_record raises RuntimeError, ValueError, IndexError, ... for damaged files
        raise UserError(
            f"data set {name!r} in {builder.data_dir} cannot be read ({_first_line(error)}): its files are damaged or "
            "missing. Delete that folder and prepare it again."
        ) from error


def _check_features(builder: Any, name: str) -> dict[str, str]:
    """Return the splits by what they are for: training, test and, where both others have labels, validation."""
    features, splits = builder.info.features, builder.info.splits
    held_out = [split for split in _HELD_OUT if split in splits]
    if not {"image", "label"} <= set(features) or "train" not in splits or not held_out:
        raise UserError(
            f"data set {name!r} has features {sorted(features)} and splits {sorted(splits)}; expected an image and a "
            "label, and splits named train and test or validation"
        )
    labelled = [split for split in held_out if _is_labelled(builder, split)]
    parts = {"train": "train", **dict(zip(("test", "validation"), labelled or held_out[:1], strict=False))}
    for split in parts.values():
        if not splits[split].num_examples:
            raise UserError(f"data set {name!r} has no images in split {split!r}: prepare it again, or take another")
    return parts


def _is_labelled(builder: Any, split: str) -> bool:
    """Return whether a split has images with labels: those that a challenge keeps secret are -1."""
    if not builder.info.splits[split].num_examples:
        return False
    try:
        return bool(builder.as_data_source(split)[0]["label"] >= 0)
    except Exception:  # damage is reported when the images are read
        return True


def _decode_split(builder: Any, split: str) -> Split:
    shape = builder.info.features["image"].shape
    ours = shape[-1] in MODES  # as a stream decodes them; TFDS does not turn images as their EXIF orientation says
    source = builder.as_data_source(split, decoders={"image": _tfds().decode.SkipDecoding()} if ours else None)
    images = np.empty((len(source), *shape), np.uint8)
    labels = np.empty(len(source), np.int32)
    for start in range(0, len(source), _CHUNK):
        records = source.__getitems__(range(start, min(start + _CHUNK, len(source))))
        found = (record["image"] for record in records)
        images[start : start + len(records)] = [decode(image, shape) if ours else image for image in found]
        labels[start : start + len(records)] = [record["label"] for record in records]
    return Split(images, labels)


def _first_line(error: BaseException) -> str:
    text = str(error).strip() or type(error).__name__
    return text.splitlines()[0][:300]


# ---------------------------------------------------------------- masks and boxes

MASK, INSTANCES = "segmentation_mask", "instance_mask"


def masks_of_tfds(name: str) -> tuple[str, dict[str, TfdsSource], tuple[int, int] | None]:
    """Return the version of a TFDS set with masks, its splits train, validation and test, and its images' one size.

    Args:
        name: as in `load_tfds`.

    Raises:
        UserError: there is no such data set, it has no masks or no images to train on, or it cannot be read.
    """
    builder, features = _prepared(name), {"image": "image", "mask": MASK}
    sources = _opened(builder, name, features, f"an image and a {MASK}" if MASK not in builder.info.features else "")
    return _copy(builder), sources, _own_size(builder)


def boxes_of_tfds(
    name: str, instances: bool
) -> tuple[str, tuple[str, ...], dict[str, TfdsSource], tuple[int, int] | None]:
    """Return the version of a TFDS set with boxes, its classes, its splits, and its images' one size if they have one.

    Args:
        name: as in `load_tfds`.
        instances: whether the masks of objects are read, too.

    Raises:
        UserError: as in `masks_of_tfds`.
    """
    builder = _prepared(name)
    features = builder.info.features
    several = "objects" in features and {"bbox", "label"} <= set(getattr(features["objects"], "feature", ()))
    asked = {"image": "image", **({"objects": "objects"} if several else {"bbox": "bbox", "label": "label"})}
    asked |= {"mask": INSTANCES} if instances else {}
    lacking = (
        "an image and objects with bbox and label, or a bbox and a label"
        if not set(asked.values()) <= set(features)
        else ""
    )
    if lacking and instances:
        lacking += f", and an {INSTANCES}: leave out `instances=True` for boxes alone"
    sources = _opened(builder, name, asked, lacking)
    names = tuple((features["objects"].feature if several else features)["label"].names)
    return _copy(builder), names, sources, _own_size(builder)


def _opened(builder: Any, name: str, asked: Mapping[str, str], lacking: str) -> dict[str, TfdsSource]:
    """Open the splits train, validation and test, with images undecoded; `lacking` says what the data set lacks."""
    features, splits = builder.info.features, builder.info.splits
    there = [split for split in ("train", *_HELD_OUT) if split in splits and splits[split].num_examples]
    if lacking or "image" not in features or there[:1] != ["train"] or len(there) < 2:
        raise UserError(
            f"data set {name!r} has features {sorted(features)} and splits {sorted(splits)}; expected "
            f"{lacking or 'an image'}, and splits named train and test or validation"
        )
    skip = {asked[part]: _tfds().decode.SkipDecoding() for part in ("image", "mask") if part in asked}
    with _reading(builder, name):
        return {
            split: TfdsSource(
                builder.as_data_source(split, decoders=skip), f"split {split!r} of data set {name!r}", asked
            )
            for split in there
        }


def _own_size(builder: Any) -> tuple[int, int] | None:
    height, width, _ = builder.info.features["image"].shape
    return None if None in (height, width) else (height, width)


def _copy(builder: Any) -> str:
    """The version, and what tells a copy of a data set from another one."""
    folder = Path(os.fspath(builder.data_dir)).resolve()
    info = (folder / "dataset_info.json").read_bytes()
    return f"{builder.version} {hashlib.sha256(bytes(folder) + info).hexdigest()[:12]}"
