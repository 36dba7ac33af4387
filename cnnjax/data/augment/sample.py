"""A batch of images and their targets: what data sets return, augmentation changes and a task learns."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from cnnjax.errors import UserError


@partial(
    jax.tree_util.register_dataclass,
    data_fields=["images", "labels", "boxes", "masks", "instances", "keypoints", "weights"],
    meta_fields=["mask_fill", "keypoint_pairs", "box_share"],
)
@dataclass(frozen=True)
class Sample:
    """N images of H x W pixels and their targets; None for targets that they do not have.

    Coordinates are pixels, x right and y down: pixel (i, j) covers the square from (i, j) to (i + 1, j + 1).

    Attributes:
        images: uint8 (N, H, W, C) as data sets give them; float in [0, 1] for augmentation and from there on.
        labels: int32 (N,), the class of each image; float (N, K), the probability of each class, for augmentations that
            mix images; int32 (N, B), the class of each box, -1 where there is none, and -2 - c for a crowd of class c.
        boxes: float (N, B, 4): x_min, y_min, x_max, y_max; (0, 0, 0, 0) is no box.
        masks: integer or bool (N, H, W), the class of every pixel.
        instances: unsigned integer (N, H, W), k + 1 where a pixel shows the object of box k, else 0. What is left of an
            object whose box is dropped stays, so that no part of an object is taken for background.
        keypoints: float (N, P, 3): x, y, and visible, 0 or larger.
        weights: float32 (N,), how much each image counts; 0 for one that only fills the batch up.
        mask_fill: class of the pixels that come from outside the image.
        keypoint_pairs: indices of keypoints that trade places in a mirror image, e.g. (left eye, right eye).
        box_share: share of its area that a box must keep inside the image when it is moved, 0 to 1; one that keeps
            less, or whose centre leaves the image, becomes no box.
    """

    images: jax.Array
    labels: jax.Array | None = None
    boxes: jax.Array | None = None
    masks: jax.Array | None = None
    instances: jax.Array | None = None
    keypoints: jax.Array | None = None
    weights: jax.Array = None  # type: ignore[assignment] # only an augmentation by itself does without
    mask_fill: int = 0
    keypoint_pairs: tuple[tuple[int, int], ...] = ()
    box_share: float = 0.1


Augmentation = Callable[[jax.Array, Sample], Sample]
"""A pure function of a key (`jax.random.key`) and a batch; random numbers are drawn for each image separately."""


def labels_boxes(sample: Sample) -> bool:
    """Return whether the labels are those of the boxes."""
    labels, boxes = sample.labels, sample.boxes
    return boxes is not None and labels is not None and labels.ndim == 2 and jnp.issubdtype(labels.dtype, jnp.integer)


def change_images(sample: Sample, change: Callable[[jax.Array], jax.Array]) -> Sample:
    """Return the sample with changed images, clipped to [0, 1] and of the same type."""
    check_images(sample)
    return replace(sample, images=jnp.clip(change(sample.images), 0, 1).astype(sample.images.dtype))


def check_images(sample: Sample) -> None:
    """Raise a UserError unless the images are a batch of floats."""
    shape, dtype = sample.images.shape, sample.images.dtype
    if len(shape) != 4 or not jnp.issubdtype(dtype, jnp.floating):
        raise UserError(f"images: expected floats in [0, 1], (N, H, W, C), got {dtype} {shape}: divide bytes by 255")


def check_range(name: str, value: Any, low: float, high: float = math.inf) -> None:
    """Raise a UserError unless `value` is a finite number from `low` to `high`."""
    number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    if not number or not low <= value <= high:
        upper = "" if high == math.inf else f" to {high:g}"
        raise UserError(f"{name}={value!r}: expected a number from {low:g}{upper or ' up'}")


def check_whole(name: str, value: Any, low: int) -> None:
    """Raise a UserError unless `value` is an integer of at least `low`."""
    if isinstance(value, bool) or not isinstance(value, int) or value < low:
        raise UserError(f"{name}={value!r}: expected an integer of at least {low}")


def check_interval(name: str, value: Any, low: float, high: float = math.inf) -> None:
    """Raise a UserError unless `value` is a pair of rising finite numbers, above `low` and at most `high`."""
    pair = isinstance(value, tuple) and len(value) == 2 and all(isinstance(end, int | float) for end in value)
    if not pair or not low < value[0] <= value[1] <= high or value[1] == math.inf:
        upper = "" if high == math.inf else f" and at most {high:g}"
        raise UserError(f"{name}={value!r}: expected a pair of rising numbers above {low:g}{upper}")
