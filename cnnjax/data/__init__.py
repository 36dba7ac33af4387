"""Data sources: TFDS, folders, generated, and bundled; decoded once and memory-mapped from a cache, or streamed."""

from cnnjax.data import augment, scenes, shapes
from cnnjax.data.boxes import Boxed, BoxSource, load_boxes
from cnnjax.data.bundled import PHOTOGRAPHS, Photograph, digits, photograph
from cnnjax.data.cache import cache_dir, cached
from cnnjax.data.dataset import VOID, Dataset, Examples, Split, checksums, fingerprint, hold_out
from cnnjax.data.order import balanced_order, epoch_order
from cnnjax.data.segmentation import MaskSource, load_masks
from cnnjax.data.sources import Source, load
from cnnjax.data.stream import Labelled, Stream
from cnnjax.data.tfds_source import is_prepared, load_tfds

__all__ = [
    "PHOTOGRAPHS",
    "VOID",
    "BoxSource",
    "Boxed",
    "Dataset",
    "Examples",
    "Labelled",
    "MaskSource",
    "Photograph",
    "Source",
    "Split",
    "Stream",
    "augment",
    "balanced_order",
    "cache_dir",
    "cached",
    "checksums",
    "digits",
    "epoch_order",
    "fingerprint",
    "hold_out",
    "is_prepared",
    "load",
    "load_boxes",
    "load_masks",
    "load_tfds",
    "photograph",
    "scenes",
    "shapes",
]
