"""Classification and localization: the class of an image's one object, and the box around it."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from cnnjax.data import Examples, Split
from cnnjax.data.augment import Sample
from cnnjax.errors import UserError
from cnnjax.models.detection import Localized
from cnnjax.ops import box_iou, generalized_box_iou
from cnnjax.options import Checked, NotNegative, Positive
from cnnjax.tasks.task import Outputs, Predictions, Task

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FOUND = 0.5  # intersection over union from which a box is right, as in ImageNet's challenge


@dataclass(frozen=True)
class LocalizationLoss(Checked):
    """The loss of each image: the cross-entropy of its class, and the loss of its box.

    Raises:
        UserError: an unknown loss, or a number out of range.
    """

    box_loss: Literal["smooth-l1", "giou", "smooth-l1+giou"] = "smooth-l1+giou"
    """Loss of a box: of its four corners' coordinates (smooth L1), of its overlap (generalised IoU), or the sum."""
    box_weight: NotNegative = 1.0
    """What the loss of the box is multiplied by, before the cross-entropy of the class is added."""
    box_beta: Positive = 0.1
    """Error of a coordinate, as a share of the image, from which smooth L1 grows linearly."""


class Target(NamedTuple):
    """The object of each image that is learned.

    Attributes:
        labels: int32 (batch,), its class; 0 where there is none.
        boxes: float (batch, 4); zeros where there is none.
        there: bool (batch,), whether there is one.
    """

    labels: jax.Array
    boxes: jax.Array
    there: jax.Array


def largest_object(labels: jax.typing.ArrayLike, boxes: jax.typing.ArrayLike) -> Target:
    """Return the object of each image whose box has the largest area, the first of equal ones; crowds are no objects.

    Args:
        labels: (batch, places), as `data.objects` says.
        boxes: (batch, places, 4).
    """
    labels, boxes = jnp.asarray(labels), jnp.asarray(boxes)
    areas = (boxes[..., 2] - boxes[..., 0]) * (boxes[..., 3] - boxes[..., 1])
    place = jnp.where(labels >= 0, areas, -1).argmax(1)[:, None]
    label = jnp.take_along_axis(labels, place, 1)[:, 0]
    there = label >= 0
    box = jnp.where(there[:, None], jnp.take_along_axis(boxes, place[..., None], 1)[:, 0], 0)
    return Target(jnp.where(there, label, 0).astype(jnp.int32), box, there)


@dataclass(frozen=True)
class Localization(Task):
    """Give each image the class and the box of its object; a network's outputs are `models.detection.Localized`.

    The object of an image is the one whose box is the largest; images without objects are neither learned from nor
    counted. The loss is `cross_entropy + w (smooth_l1 + giou)`, or one of the two:

    - smooth_l1 is the sum over x0 / width, y0 / height, x1 / width and y1 / height of the image of `e^2 / (2 b)`, or
      `|e| - b / 2` of errors from b on (Girshick, "Fast R-CNN", 2015);
    - giou is 1 minus the generalised intersection over union (Rezatofighi et al. 2019).

    An evaluation has the figures "accuracy", of the class; "mean_iou", the intersection over union of predicted and
    true box, averaged over images; "located", the share of images whose class is right and whose box has an IoU of at
    least 0.5; "joint_iou", the mean of an IoU that is 0 where the class is wrong, which goes on rising where all images
    are located; and the sum "confusion" (classes, classes). Predicted boxes are cut at the image's border before.

    Args:
        loss: the loss and its options.
        class_names: what class k is called.
    """

    loss: LocalizationLoss = field(default_factory=LocalizationLoss)
    class_names: tuple[str, ...] = ()

    targets: ClassVar[Sequence[str]] = ("labels", "boxes")
    logged: ClassVar[Sequence[str]] = ("accuracy", "mean_iou", "located", "joint_iou")
    best: ClassVar[str] = "joint_iou"
    highest: ClassVar[bool] = True

    def check(self, examples: Examples, outputs: Outputs) -> None:
        if not isinstance(outputs, Localized):
            return  # `losses` says what is wrong
        classes, named = outputs.logits.shape[-1], len(self.class_names)
        if named and named != classes:
            raise UserError(f"`class_names` are {named}, but the network has {classes} outputs: expected one for each")
        if isinstance(examples, Split):
            labels = _labels_of(examples)
            if labels.max(initial=-1) < 0:
                raise UserError("no image has an object: expected some with a box")
            if labels.max() >= classes:
                raise UserError(
                    f"the objects have classes up to {labels.max()}, but the network has {classes} outputs, for "
                    f"classes 0 to {classes - 1}: create it with `num_classes={labels.max() + 1}`, or correct the "
                    "labels"
                )

    def classes_of(self, examples: Examples) -> np.ndarray:
        if not isinstance(examples, Split):
            raise UserError("`sampling='balanced'` needs the objects of all images in memory: add `stream='never'`")
        target = largest_object(_labels_of(examples), np.asarray(examples.boxes))
        return np.where(target.there, target.labels, -1)

    def weights(self, batch: Sample) -> jax.Array:
        return jnp.where((jnp.asarray(batch.labels) >= 0).any(1), super().weights(batch), 0)

    def losses(self, outputs: Outputs, batch: Sample) -> dict[str, jax.Array]:
        outputs, target = _checked(outputs), _target(batch)
        height, width = outputs.image_size
        size, kinds = jnp.asarray([width, height] * 2, outputs.boxes.dtype), self.loss.box_loss.split("+")
        parts = {"cross_entropy": optax.softmax_cross_entropy_with_integer_labels(outputs.logits, target.labels)}
        if "smooth-l1" in kinds:
            errors = optax.huber_loss(outputs.boxes / size, target.boxes / size, delta=self.loss.box_beta)
            parts["smooth_l1"] = self.loss.box_weight * errors.sum(-1) / self.loss.box_beta
        if "giou" in kinds:
            overlap = generalized_box_iou(outputs.boxes[:, None], target.boxes[:, None])[:, 0, 0]
            parts["giou"] = self.loss.box_weight * (1 - overlap)
        # Augmentation can move the object out of the image, which then has nothing to learn.
        return {name: jnp.where(target.there, part, 0) for name, part in parts.items()}

    def measure(self, outputs: Outputs, batch: Sample) -> dict[str, jax.Array]:
        outputs, target = _checked(outputs), _target(batch)
        weights, classes, predicted = batch.weights * target.there, outputs.logits.shape[-1], outputs.logits.argmax(-1)
        overlap = box_iou(_inside(outputs)[:, None], target.boxes[:, None])[:, 0, 0]
        right = predicted == target.labels
        return {
            "accuracy": jnp.sum(right * weights),
            "mean_iou": jnp.sum(overlap * weights),
            "located": jnp.sum((right & (overlap >= FOUND)) * weights),
            "joint_iou": jnp.sum(right * overlap * weights),
            "confusion": jnp.zeros((classes, classes)).at[target.labels, predicted].add(weights, mode="drop"),
        }

    def decode(self, outputs: Outputs) -> Predictions:
        """Return "label" (batch,), "scores" (batch, classes), which are probabilities, and "box" (batch, 4).

        Boxes are x0, y0, x1, y1 in pixels of the network's images, inside of these.
        """
        outputs = _checked(outputs)
        label = outputs.logits.argmax(-1).astype(jnp.int32)
        return {"label": label, "scores": jax.nn.softmax(outputs.logits), "box": _inside(outputs)}

    def mean_outputs(self, outputs: Outputs, others: Outputs) -> Outputs:
        """Return outputs whose scores and boxes are the means of those of images and of their mirror images."""
        _, width = outputs.image_size
        logits = jnp.logaddexp(jax.nn.log_softmax(outputs.logits), jax.nn.log_softmax(others.logits)) - math.log(2)
        x0, y0, x1, y1 = jnp.split(others.boxes, 4, 1)
        mirrored = jnp.concatenate([width - x1, y0, width - x0, y1], 1)
        return Localized(logits, (outputs.boxes + mirrored) / 2, outputs.image_size)

    def draw(self, images: np.ndarray, predictions: Predictions) -> "Figure":
        from cnnjax import viz

        boxes = {"prediction": np.asarray(predictions["box"])[:, None]}
        return viz.boxed_images(images, boxes, self.titles(predictions))

    def to_json(self, predictions: Predictions) -> list[Any]:
        """Return the "class" of each image, its "score", and its "box", x0, y0, x1, y1 in pixels."""
        labels, scores, boxes = (np.asarray(predictions[name]) for name in ("label", "scores", "box"))
        return [
            {"class": self._name(label), "score": float(row[label]), "box": [round(float(x), 2) for x in box]}
            for label, row, box in zip(labels, scores, boxes, strict=True)
        ]

    def titles(self, predictions: Predictions) -> list[str]:
        """Return the class of each image and its probability, to be written above it."""
        return [f"{row['class']} ({row['score']:.0%})" for row in self.to_json(predictions)]

    def _name(self, label: int) -> str:
        return self.class_names[label] if self.class_names else str(label)


def _checked(outputs: Outputs) -> Localized:
    if not isinstance(outputs, Localized):
        raise UserError(
            f"localization needs logits and boxes, got outputs of type {type(outputs).__name__}: choose a network for "
            "localization, such as localizer, or another task"
        )
    return outputs


def _inside(outputs: Localized) -> jax.Array:
    height, width = outputs.image_size
    return jnp.clip(outputs.boxes, 0, jnp.asarray([width, height] * 2, outputs.boxes.dtype))


def _target(batch: Sample) -> Target:
    if jnp.ndim(batch.labels) != 2 or batch.boxes is None:  # type: ignore[arg-type] # None has no axes
        raise UserError("localization needs a label and a box of every object: read the data with `data.load_boxes`")
    return largest_object(batch.labels, batch.boxes)  # type: ignore[arg-type]


def _labels_of(examples: Split) -> np.ndarray:
    if examples.labels.ndim != 2:
        raise UserError("localization needs a label and a box of every object: read the data with `data.load_boxes`")
    return examples.labels
