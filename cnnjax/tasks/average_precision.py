"""The figures of detection as COCO defines them, by `pycocotools`, from arrays of predictions and targets."""

import contextlib
import io
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from cnnjax.errors import UserError

FIGURES = (
    *("mAP", "mAP@.5", "mAP@.75", "mAP small", "mAP medium", "mAP large"),
    *("AR@1", "AR@10", "AR@100", "AR small", "AR medium", "AR large"),
)  # in the order of `COCOeval.stats`
NO_BOX = (0, 0, 0, 0)


@dataclass(frozen=True)
class AveragePrecision:
    """What COCO's evaluation gives; NaN where there is nothing to find.

    Attributes:
        figures: the twelve of COCO by name. mAP is the mean over classes and over IoU 0.5, 0.55, ..., 0.95 of the
            average precision; AR@k is the recall with k boxes an image; small is below 32^2 pixels, large above 96^2.
        per_class: the average precision of each class, (classes,).
        precision: at recalls 0, 0.01, ..., 1 of each class, for each IoU, (10, 101, classes).
    """

    figures: dict[str, float]
    per_class: np.ndarray
    precision: np.ndarray


def average_precision(
    boxes: np.ndarray,
    scores: np.ndarray,
    labels: np.ndarray,
    true_boxes: np.ndarray,
    true_labels: np.ndarray,
    *,
    num_classes: int,
    crowd: np.ndarray | None = None,
    areas: np.ndarray | None = None,
) -> AveragePrecision:
    """Return COCO's figures of predicted boxes.

    Args:
        boxes: predicted, (images, k, 4), x0, y0, x1, y1 in pixels. One with NaN matches nothing, and so is wrong.
        scores: (images, k); -inf or NaN says that there is no prediction.
        labels: classes (images, k), from 0.
        true_boxes: (images, b, 4); (0, 0, 0, 0) is no box.
        true_labels: (images, b); negative where there is no box.
        num_classes: how many classes there are.
        crowd: which true boxes are of crowds, (images, b): any number of predictions in one are neither right nor
            wrong.
        areas: of the objects in square pixels, (images, b), by which small and large are told; of the boxes by default.

    Raises:
        UserError: shapes that do not fit, classes out of range, a true box that is not finite, or no `pycocotools`.

    Source: Lin et al., "Microsoft COCO" (2014), and `pycocotools.cocoeval`.
    """
    boxes, scores, labels = np.asarray(boxes, float), np.asarray(scores, float), np.asarray(labels)
    true_boxes, true_labels = np.asarray(true_boxes, float), np.asarray(true_labels)
    sides = true_boxes[..., 2:] - true_boxes[..., :2] if true_boxes.shape[-1:] == (4,) else true_boxes
    crowd = np.zeros(true_labels.shape, bool) if crowd is None else np.asarray(crowd, bool)
    areas = sides.prod(-1) if areas is None else np.asarray(areas, float)
    _check_shapes("boxes", boxes, {"scores": scores, "labels": labels})
    _check_shapes("true_boxes", true_boxes, {"true_labels": true_labels, "crowd": crowd, "areas": areas})
    if len(boxes) != len(true_boxes):
        raise UserError(
            f"`boxes` are of {len(boxes)} images, and `true_boxes` of {len(true_boxes)}: give the same ones"
        )
    there = (true_labels >= 0) & (true_boxes != NO_BOX).any(-1)
    predicted = np.isfinite(scores) | (scores == np.inf)
    _check_classes("labels", labels, predicted, num_classes)
    _check_classes("true_labels", true_labels, there, num_classes)
    _check_finite(true_boxes, there)
    boxes = np.where(np.isfinite(boxes).all(-1, keepdims=True), boxes, 0)
    truth = list(_annotations(true_boxes, true_labels, there, area=areas, iscrowd=crowd.astype(int)))
    found = list(_annotations(boxes, labels, predicted, score=scores, area=(boxes[..., 2:] - boxes[..., :2]).prod(-1)))
    return _evaluated(truth, found, len(boxes), num_classes)


def _check_shapes(name: str, boxes: np.ndarray, others: dict[str, np.ndarray]) -> None:
    if boxes.ndim != 3 or boxes.shape[-1] != 4:
        raise UserError(f"`{name}` must have shape (images, boxes, 4), got {boxes.shape}")
    for other, values in others.items():
        if values.shape != boxes.shape[:2]:
            raise UserError(f"`{other}` must have shape {boxes.shape[:2]}, one per box of `{name}`, got {values.shape}")


def _check_classes(name: str, labels: np.ndarray, there: np.ndarray, num_classes: int) -> None:
    wrong = there & ((labels < 0) | (labels >= num_classes))
    if wrong.any():
        image, box = np.argwhere(wrong)[0]
        raise UserError(
            f"`{name}` of image {image} has class {labels[image, box]}, but there are classes 0 to {num_classes - 1}"
        )


def _check_finite(boxes: np.ndarray, there: np.ndarray) -> None:
    wrong = there & ~np.isfinite(boxes).all(-1)
    if wrong.any():
        image, box = np.argwhere(wrong)[0]
        raise UserError(
            f"box {box} of image {image} in `true_boxes` is {boxes[image, box].tolist()}: expected finite coordinates"
        )


def _annotations(
    boxes: np.ndarray, labels: np.ndarray, there: np.ndarray, **values: np.ndarray
) -> Iterator[dict[str, Any]]:
    """Give the boxes in COCO's form; ids count from 1, for to pycocotools the id 0 is no match."""
    for number, (image, box) in enumerate(np.argwhere(there), 1):
        x0, y0, x1, y1 = boxes[image, box].tolist()
        yield {
            "id": number,
            "image_id": int(image) + 1,
            "category_id": int(labels[image, box]) + 1,
            "bbox": [x0, y0, x1 - x0, y1 - y0],
            "iscrowd": 0,
            **{name: value[image, box].item() for name, value in values.items()},
        }


def _evaluated(truth: list[Any], found: list[Any], num_images: int, num_classes: int) -> AveragePrecision:
    try:
        from pycocotools.coco import COCO
        from pycocotools.cocoeval import COCOeval
    except ImportError:
        raise UserError(
            "COCO's average precision needs pycocotools: pip install pycocotools, or cnnjax with its extra 'detection'"
        ) from None
    with contextlib.redirect_stdout(io.StringIO()):  # it reports its progress
        sets = []
        for annotations in (truth, found):
            coco = COCO()
            coco.dataset = {
                "images": [{"id": k + 1} for k in range(num_images)],
                "categories": [{"id": k + 1} for k in range(num_classes)],
                "annotations": annotations,
            }
            coco.createIndex()
            sets.append(coco)
        evaluation = COCOeval(*sets, "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    stats = np.where(evaluation.stats < 0, np.nan, evaluation.stats)
    everything = evaluation.eval["precision"][:, :, :, 0, -1]  # of objects of all sizes, with 100 boxes an image
    precision = np.where(everything < 0, np.nan, everything)
    return AveragePrecision(dict(zip(FIGURES, stats.tolist(), strict=True)), precision.mean((0, 1)), precision)
