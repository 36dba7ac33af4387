"""Data sources: TFDS, generated, and bundled; decoded once and memory-mapped from a cache."""

from cnnjax.data import shapes
from cnnjax.data.bundled import digits
from cnnjax.data.cache import cache_dir, cached
from cnnjax.data.dataset import Dataset, Split, hold_out
from cnnjax.data.order import epoch_order
from cnnjax.data.tfds_source import is_prepared, load_tfds

__all__ = [
    "Dataset",
    "Split",
    "cache_dir",
    "cached",
    "digits",
    "epoch_order",
    "hold_out",
    "is_prepared",
    "load",
    "load_tfds",
    "shapes",
]

SHAPES_TRAIN, SHAPES_TEST = 5000, 2000  # enough for a CNN to learn from, and made in seconds


def load(name: str) -> Dataset:
    """Load a classification data set by name.

    Args:
        name: "shapes" (generated), "digits" (scikit-learn's), or any TFDS classification set: "cifar10", "cifar100",
            "mnist", "fashion_mnist", ...; the first two need no network.

    Raises:
        UserError: there is no such data set, or it cannot be had; the message says what to do.
    """
    if name == "shapes":
        return cached(f"shapes-{shapes.VERSION}-{SHAPES_TRAIN}-{SHAPES_TEST}", _make_shapes)
    if name == "digits":
        return cached("digits-32", digits)
    return load_tfds(name)


def _make_shapes() -> Dataset:
    made = shapes.generate(SHAPES_TRAIN + SHAPES_TEST)
    every = Split(made.images, made.labels)
    return Dataset(
        "shapes",
        shapes.VERSION,
        shapes.CLASS_NAMES,
        every.slice(0, SHAPES_TRAIN),
        every.slice(SHAPES_TRAIN, every.size),
    )
