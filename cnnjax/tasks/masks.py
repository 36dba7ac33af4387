"""What is computed of masks: losses of pixels, the frequencies of classes, and the figures of segmentation."""

import math
from collections.abc import Iterable, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from cnnjax.data.dataset import VOID
from cnnjax.ops import max_pool2d
from cnnjax.tasks.losses import softmax_cross_entropy

THIN = 7  # pixels; narrower regions are thin
TOLERANCE = 0.0075  # of the image's diagonal, within which a boundary is found
_HALF = 16  # bits: pixels are counted in two halves, for their number soon exceeds what float32 or int32 counts


# ---------------------------------------------------------------- losses


def weighted_cross_entropy(logits: jax.Array, masks: jax.Array, class_weights: Sequence[float] = ()) -> jax.Array:
    """Return the cross-entropy of every image, the mean over its pixels with a class, each weighted by its class.

    `sum_p w[t_p] (-log softmax(z_p)[t_p]) / sum_p w[t_p]` over pixels p with logits z and class t, as
    `torch.nn.CrossEntropyLoss(weight, ignore_index=255)` has it for a single image.

    Args:
        logits: (batch, height, width, classes).
        masks: (batch, height, width), classes or `data.VOID`.
        class_weights: w; 1 for all classes by default.

    Returns:
        (batch,), 0 of an image without any pixel that has a class.
    """
    if not class_weights:
        return softmax_cross_entropy(logits, masks, ignore_index=VOID)
    counts = masks != VOID
    weights = jnp.where(counts, jnp.asarray(class_weights, jnp.float32)[jnp.where(counts, masks, 0)], 0)
    # The loss of each pixel is that of an "image" of one pixel.
    flat = softmax_cross_entropy(logits.reshape(-1, logits.shape[-1]), masks.ravel(), ignore_index=VOID)
    total = weights.sum((1, 2))
    return (flat.reshape(masks.shape) * weights).sum((1, 2)) / jnp.where(total > 0, total, 1)


def dice_loss(logits: jax.Array, masks: jax.Array, smooth: float = 1.0) -> jax.Array:
    """Return one minus the mean over classes of `(2 sum_p q t + s) / (sum_p q + sum_p t + s)` of every image.

    q is the softmax of the logits, t is 1 where a pixel p has the class and else 0; pixels without a class are left
    out.

    Args:
        logits: (batch, height, width, classes).
        masks: (batch, height, width), classes or `data.VOID`.
        smooth: s, which keeps the overlap of a class defined that is neither there nor predicted.

    Returns:
        (batch,).

    Source: Milletari et al., "V-Net" (2016), with sums in place of sums of squares, as is usual.
    """
    counts = (masks != VOID)[..., None]
    predicted = jnp.where(counts, jax.nn.softmax(jnp.where(counts, logits, 0)), 0)
    truth = jax.nn.one_hot(masks, logits.shape[-1]) * counts  # of VOID no entry is 1
    overlap, whole = ((part).sum((1, 2)) for part in (predicted * truth, predicted + truth))
    return 1 - ((2 * overlap + smooth) / (whole + smooth)).mean(-1)


def median_frequency(masks: Iterable[np.ndarray], classes: int) -> tuple[float, ...]:
    """Return a weight for each class: the median of the classes' frequencies, divided by its own.

    A class's frequency is its share of the pixels with a class in those images that have it. A class that no image has
    weighs 0.

    Args:
        masks: (height, width) of each image, classes or `data.VOID`.
        classes: their number.

    Source: Eigen & Fergus, "Predicting depth, surface normals and semantic labels" (2015).
    """
    own, there = np.zeros(classes), np.zeros(classes)
    for mask in masks:
        counts = np.bincount(np.asarray(mask).ravel(), minlength=256)[:classes]
        own += counts
        there += counts.sum() * (counts > 0)
    frequency = np.divide(own, there, out=np.zeros(classes), where=there > 0)
    median = np.median(frequency[frequency > 0]) if frequency.any() else 0.0
    return tuple(float(median / value) if value else 0.0 for value in frequency)


def classes_of(masks: np.ndarray) -> np.ndarray:
    """Return the classes that masks have, sorted; `data.VOID` is none."""
    seen = np.zeros(256, bool)
    for mask in masks:
        seen[np.asarray(mask)] = True
    return np.flatnonzero(seen[:VOID])


# ---------------------------------------------------------------- figures


def confusion_of(predicted: jax.Array, masks: jax.Array, images: jax.Array, classes: int) -> jax.Array:
    """Count pixels of class row that were taken for class column, in two halves (2, classes, classes), int32.

    Such counts can be added over the batches of any data set; `whole` puts the halves together.

    Args:
        predicted: classes (batch, height, width).
        masks: classes or `data.VOID`, whose pixels do not count, of that shape.
        images: bool (batch,), which images count.
        classes: their number.
    """
    counts = (masks != VOID) & images[:, None, None]
    cells = jnp.where(counts, masks.astype(jnp.int32) * classes + predicted, classes**2)
    confusion = jnp.zeros(classes**2, jnp.int32).at[cells.ravel()].add(1, mode="drop").reshape(classes, classes)
    return jnp.stack([confusion >> _HALF, confusion & (1 << _HALF) - 1])


def whole(confusion: np.ndarray) -> np.ndarray:
    """Return the sum of what `confusion_of` counts as int64 (classes, classes)."""
    high, low = np.asarray(confusion).astype(np.int64)
    return np.asarray((high << _HALF) + low)


def iou_of(confusion: np.ndarray) -> np.ndarray:
    """Return the intersection over union of each class: `n_kk / (row_k + column_k - n_kk)`; NaN if it never occurs."""
    right = np.diag(confusion).astype(float)
    union = confusion.sum(0) + confusion.sum(1) - right
    return np.divide(right, union, out=np.full(len(right), math.nan), where=union > 0)


def scores(confusion: np.ndarray) -> dict[str, float]:
    """Return the figures of one confusion matrix over all pixels of a data set.

    - "pixel_accuracy": share of the pixels that are right.
    - "mean_accuracy": mean over classes of the share of their pixels that are right.
    - "mean_iou": mean over classes of `iou_of`; a class that is neither there nor predicted does not count.
    - "frequency_weighted_iou": mean of `iou_of` weighted by the classes' pixels.

    Args:
        confusion: integers (classes, classes), pixels of class row that were taken for class column.

    Source: Long et al., "Fully convolutional networks for semantic segmentation" (2015), section 5.
    """
    pixels, right, iou = confusion.sum(1), np.diag(confusion), iou_of(confusion)
    there = pixels > 0
    if not there.any():
        return dict.fromkeys(("pixel_accuracy", "mean_accuracy", "mean_iou", "frequency_weighted_iou"), math.nan)
    return {
        "pixel_accuracy": float(right.sum() / pixels.sum()),
        "mean_accuracy": float((right[there] / pixels[there]).mean()),
        "mean_iou": float(np.nanmean(iou)),
        "frequency_weighted_iou": float((iou[there] * pixels[there]).sum() / pixels.sum()),
    }


def boundary_f1(predicted: jax.Array, masks: jax.Array, classes: int, tolerance: float = TOLERANCE) -> jax.Array:
    """Return how well the boundaries of the regions of every image are found, a mean over classes.

    A pixel is on the boundary of its class if one of its four neighbours has another class. Of a class, precision is
    the share of the predicted boundary within the tolerance of the true one, recall the share of the true one within it
    of the predicted one, and F1 their harmonic mean; 0 if only one of both is there. Pixels without a true class have
    no boundaries, and make none.

    Args:
        predicted: classes (batch, height, width).
        masks: classes or `data.VOID`, of that shape.
        classes: their number.
        tolerance: largest distance, as a share of the image's diagonal; rounded up to whole pixels.

    Returns:
        (batch,), 0 of images without any boundary.

    Source: Csurka et al., "What is a good evaluation measure for semantic segmentation?" (2013).
    """
    counts = masks != VOID
    reach = max(1, math.ceil(tolerance * math.hypot(*masks.shape[1:])))
    truth, found = (_boundaries(jnp.where(counts, array, VOID), classes) for array in (masks, predicted))
    near_truth, near_found = _within(truth, reach), _within(found, reach)

    def share(of: jax.Array, near: jax.Array) -> jax.Array:
        return (of & near).sum((1, 2)) / jnp.maximum(of.sum((1, 2)), 1)

    precision, recall = share(found, near_truth), share(truth, near_found)
    f1 = 2 * precision * recall / jnp.where(precision + recall > 0, precision + recall, 1)
    there = truth.any((1, 2)) | found.any((1, 2))
    return (f1 * there).sum(-1) / jnp.maximum(there.sum(-1), 1)


def thin_counts(predicted: jax.Array, masks: jax.Array, images: jax.Array, classes: int) -> jax.Array:
    """Count the pixels of thin regions that have the right class, and all pixels of thin regions, int32 (2,).

    A region has one class; thin is what a morphological opening of it with a square of 7x7 pixels takes away. Beyond
    the border of an image a region goes on as it is at the border.

    Args:
        predicted: classes (batch, height, width).
        masks: classes or `data.VOID`, of that shape.
        images: bool (batch,), which images count.
        classes: their number.
    """
    regions = (masks[..., None] == jnp.arange(classes)).astype(jnp.float32)
    beyond = jnp.pad(regions, ((0, 0), (THIN, THIN), (THIN, THIN), (0, 0)), mode="edge")
    opened = _spread(-_spread(-beyond))[:, THIN:-THIN, THIN:-THIN]
    thin = ((regions > opened).any(-1)) & images[:, None, None]
    return jnp.stack([(thin & (predicted == masks)).sum(), thin.sum()]).astype(jnp.int32)


def _spread(x: jax.Array) -> jax.Array:
    """The maximum over the square around each pixel."""
    rows = max_pool2d(x, (THIN, 1), stride=1, padding=(THIN // 2, 0))
    return max_pool2d(rows, (1, THIN), stride=1, padding=(0, THIN // 2))


def _boundaries(labels: jax.Array, classes: int) -> jax.Array:
    """Whether each pixel is on the boundary of each class, bool (batch, height, width, classes)."""
    edge = jnp.zeros(labels.shape, bool)
    for axis in (1, 2):
        first, second = (_cut(labels, axis, *ends) for ends in ((0, -1), (1, None)))
        differ = (first != second) & (first != VOID) & (second != VOID)
        before, after = [(0, 0)] * 3, [(0, 0)] * 3
        before[axis], after[axis] = (0, 1), (1, 0)
        edge |= jnp.pad(differ, before) | jnp.pad(differ, after)
    return (labels[..., None] == jnp.arange(classes)) & edge[..., None]


def _cut(x: jax.Array, axis: int, start: int, stop: int | None) -> jax.Array:
    return x[(slice(None),) * axis + (slice(start, stop),)]


def _within(points: jax.Array, reach: int) -> jax.Array:
    """Whether each pixel has one of the points at most `reach` pixels away: a disc, row by row."""
    x, height = points.astype(jnp.float32), points.shape[1]
    near = jnp.zeros_like(x)
    for dy in range(-min(reach, height - 1), min(reach, height - 1) + 1):
        half = math.isqrt(reach**2 - dy**2)
        row = max_pool2d(x, (1, 2 * half + 1), stride=1, padding=(0, half)) if half else x
        moved = jnp.pad(row, ((0, 0), (max(dy, 0), max(-dy, 0)), (0, 0), (0, 0)))
        near = jnp.maximum(near, moved[:, max(-dy, 0) : max(-dy, 0) + height])
    return near > 0
