"""Semantic segmentation: one class for each pixel."""

import logging
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import jax
import jax.numpy as jnp
import numpy as np

from cnnjax.data import Examples, Split
from cnnjax.data.augment import Sample
from cnnjax.data.dataset import VOID
from cnnjax.errors import UserError
from cnnjax.ops import resize_bilinear
from cnnjax.options import Checked
from cnnjax.tasks.masks import (
    boundary_f1,
    classes_of,
    confusion_of,
    dice_loss,
    median_frequency,
    scores,
    thin_counts,
    weighted_cross_entropy,
    whole,
)
from cnnjax.tasks.task import Outputs, Predictions, Task

if TYPE_CHECKING:
    from matplotlib.figure import Figure

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class SegmentationLoss(Checked):
    """The loss of each image.

    Raises:
        UserError: an unknown loss or weighting.
    """

    loss: Literal["cross-entropy", "dice", "cross-entropy+dice"] = "cross-entropy"
    """Loss of an image: the mean over its pixels, the overlap of its regions, or the sum of both."""
    class_weights: Literal["none", "median-frequency"] = "none"
    """How much the pixels of a class count in the cross-entropy: median-frequency gives rare classes more."""


@dataclass(frozen=True)
class Segmentation(Task):
    """Give each pixel one class; a network's outputs are logits (batch, height, width, classes).

    Masks (batch, height, width) have the class of every pixel; pixels that are `data.VOID`, 255, have none: they are
    neither learned from nor counted. Where masks have another size than the outputs, these are resized to it
    bilinearly.

    An evaluation has the figures of `scores`, the sum "confusion" (classes, classes) of all its pixels, and with
    `boundaries` the figures "boundary_f1" and "thin_accuracy", the share of the pixels of thin regions that are right.
    The figure "pixel_accuracy" of training is a mean over images.

    Args:
        loss: the loss and its options.
        class_names: what class k is called.
        class_weights: what the cross-entropy of a pixel of each class is multiplied by, as `for_training` finds it; 1
            by default, as in evaluations.
        boundaries: whether an evaluation also measures boundaries, which takes a while.
    """

    loss: SegmentationLoss = field(default_factory=SegmentationLoss)
    class_names: tuple[str, ...] = ()
    class_weights: tuple[float, ...] = ()
    boundaries: bool = False

    targets: ClassVar[Sequence[str]] = ("masks",)
    logged: ClassVar[Sequence[str]] = ("pixel_accuracy",)
    best: ClassVar[str] = "mean_iou"
    highest: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.class_weights and len(self.class_weights) != len(self.class_names):
            raise UserError(
                f"`class_weights` has {len(self.class_weights)} numbers for {len(self.class_names)} classes: expected "
                "one for each"
            )

    def for_training(self, examples: Examples) -> "Segmentation":
        if self.loss.class_weights == "none":
            return self
        return replace(self, class_weights=median_frequency(_masks_of(examples), len(self.class_names)))

    def check(self, examples: Examples, outputs: Outputs) -> None:
        if jnp.ndim(outputs) != 4:
            return  # `losses` says what is wrong
        classes, named = outputs.shape[-1], len(self.class_names)
        if named and named != classes:
            raise UserError(f"`class_names` are {named}, but the network has {classes} outputs: expected one for each")
        if isinstance(examples, Split) and examples.masks is not None:
            found = classes_of(examples.masks)
            if not found.size:
                raise UserError(f"no pixel of the masks has a class: all are {VOID}, which stands for none")
            if found.max() >= classes:
                raise UserError(
                    f"the masks have classes up to {found.max()}, but the network has {classes} outputs, for classes 0 "
                    f"to {classes - 1} ({VOID} is none): create it with `num_classes={found.max() + 1}`, or correct "
                    "the masks"
                )

    def weights(self, batch: Sample) -> jax.Array:
        return jnp.where((jnp.asarray(batch.masks) != VOID).any((1, 2)), super().weights(batch), 0)

    def before_augmentation(self, batch: Sample, outputs: Outputs) -> Sample:
        return replace(batch, mask_fill=VOID)  # what comes from outside the image has no class

    def losses(self, outputs: Outputs, batch: Sample) -> dict[str, jax.Array]:
        logits, masks = _sized(outputs, batch)
        parts = {}
        if self.loss.loss != "dice":
            parts["cross_entropy"] = weighted_cross_entropy(logits, masks, self.class_weights)
        if self.loss.loss != "cross-entropy":
            parts["dice"] = dice_loss(logits, masks)
        return parts

    def measure(self, outputs: Outputs, batch: Sample) -> dict[str, jax.Array]:
        logits, masks = _sized(outputs, batch)
        classes, predicted, counts = logits.shape[-1], logits.argmax(-1), masks != VOID
        right = ((predicted == masks) & counts).sum((1, 2)) / jnp.maximum(counts.sum((1, 2)), 1)
        measured = {
            "pixel_accuracy": jnp.sum(right * batch.weights),
            "confusion": confusion_of(predicted, masks, batch.weights > 0, classes),
        }
        if self.boundaries:
            measured["boundary_f1"] = jnp.sum(boundary_f1(predicted, masks, classes) * batch.weights)
            measured["thin"] = thin_counts(predicted, masks, batch.weights > 0, classes)
        return measured

    def decode(self, outputs: Outputs) -> Predictions:
        """Return the class of every pixel, "mask", int32 (batch, height, width)."""
        return {"mask": outputs.argmax(-1).astype(jnp.int32)}

    def summarize(
        self,
        figures: Mapping[str, float],
        sums: Mapping[str, np.ndarray],
        predictions: Predictions | None = None,
        targets: Sample | None = None,
    ) -> dict[str, float]:
        thin = {}
        if self.boundaries:
            right, count = sums["thin"].astype(float)
            thin = {"thin_accuracy": right / count if count else math.nan}
        return {**figures, **scores(whole(sums["confusion"])), **thin}

    def draw(self, images: np.ndarray, predictions: Predictions) -> "Figure":
        from cnnjax import viz

        return viz.segmentations(images, {"prediction": np.asarray(predictions["mask"])}, self.class_names)

    def to_json(self, predictions: Predictions) -> list[Any]:
        """Return the share of the pixels that each class has in each image, the largest first."""
        rows = []
        for mask in np.asarray(predictions["mask"]):
            classes, counts = np.unique(mask, return_counts=True)
            order = np.argsort(-counts, kind="stable")
            rows.append({"shares": {self._name(classes[k]): float(counts[k] / mask.size) for k in order}})
        return rows

    def _name(self, number: int) -> str:
        return self.class_names[number] if self.class_names else str(number)


def _sized(outputs: Outputs, batch: Sample) -> tuple[jax.Array, jax.Array]:
    """Return logits of the masks' size, and the masks."""
    if jnp.ndim(outputs) != 4:
        raise UserError(
            f"segmentation needs logits (batch, height, width, classes), got outputs of shape {jnp.shape(outputs)}: "
            "choose a network for segmentation, or another task"
        )
    masks = jnp.asarray(batch.masks)
    size = masks.shape[1], masks.shape[2]
    return outputs if outputs.shape[1:3] == size else resize_bilinear(outputs, size), masks


def _masks_of(examples: Examples) -> Iterable[np.ndarray]:
    """The masks of all examples, one after another; those of a stream are decoded for it."""
    if isinstance(examples, Split):
        if examples.masks is None:
            raise UserError("`class_weights` of segmentation need a mask for each training image: add them")
        return examples.masks
    log.warning("reading the masks of %d images", examples.size)
    indices = np.arange(examples.size)[:, None]
    return (np.asarray(batch.masks)[0] for batch in examples.batches(indices, np.ones(indices.shape, np.float32)))
