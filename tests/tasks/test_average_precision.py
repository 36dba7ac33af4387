"""COCO's figures beside a small evaluation of our own, after the definition."""

import sys

import numpy as np
import pytest

from cnnjax.errors import UserError
from cnnjax.tasks.average_precision import average_precision
from tests.ops.test_boxes import random_boxes

pytest.importorskip("pycocotools")
THRESHOLDS = np.linspace(0.5, 0.95, 10)
IMAGES, CLASSES = 6, 3


def overlap(a, b):
    low, high = np.maximum(a[:2], b[:2]), np.minimum(a[2:], b[2:])
    inside = np.prod(np.maximum(high - low, 0))
    return inside / (np.prod(a[2:] - a[:2]) + np.prod(b[2:] - b[:2]) - inside)


def reference(data, kind, threshold):
    """The average precision at 101 recalls of one class, and its recall; crowds are not counted."""
    boxes, scores, labels, true_boxes, true_labels = data
    right, confidence = [], []
    for image in range(len(boxes)):
        free = [box for box, label in zip(true_boxes[image], true_labels[image], strict=True) if label == kind]
        for k in np.argsort(-scores[image], kind="stable"):
            if labels[image, k] != kind or scores[image, k] == -np.inf:
                continue
            best = max(range(len(free)), key=lambda j, k=k: overlap(boxes[image, k], free[j]), default=None)
            hit = best is not None and overlap(boxes[image, k], free[best]) >= threshold
            if hit:
                free.pop(best)
            right.append(hit)
            confidence.append(scores[image, k])
    hits = np.cumsum(np.array(right)[np.argsort(-np.array(confidence), kind="stable")])
    recall, precision = hits / (true_labels == kind).sum(), hits / np.arange(1, len(hits) + 1)
    precision = np.maximum.accumulate(precision[::-1])[::-1]
    places = np.searchsorted(recall, np.linspace(0, 1, 101), side="left")
    return np.append(precision, 0)[places].mean(), recall[-1]


@pytest.fixture(scope="module")
def data():
    """Boxes found roughly, some twice, some wrongly; the last image has none, and the second is found empty."""
    rng = np.random.default_rng(9)
    true_boxes = np.stack([random_boxes(rng, 5, 90) + np.float32([0, 0, 12, 12]) for _ in range(IMAGES)])
    true_labels = rng.integers(0, CLASSES, (IMAGES, 5))
    true_labels[:, 4], true_labels[-1] = -1, -1
    boxes = np.concatenate([true_boxes + rng.normal(0, 2, true_boxes.shape), true_boxes[::-1]], 1)
    labels = np.concatenate([np.abs(true_labels), rng.integers(0, CLASSES, (IMAGES, 5))], 1)
    scores = rng.random(labels.shape)
    scores[1] = -np.inf
    return boxes, scores, labels, true_boxes, true_labels


def test_figures_are_those_of_the_definition(data):
    found = average_precision(*data, num_classes=CLASSES)
    table = np.array([[reference(data, kind, threshold) for kind in range(CLASSES)] for threshold in THRESHOLDS])
    np.testing.assert_allclose(found.per_class, table[..., 0].mean(0), atol=1e-9)
    expected = {"mAP": table[..., 0].mean(), "mAP@.5": table[0, :, 0].mean(), "mAP@.75": table[5, :, 0].mean()}
    expected["AR@100"] = table[..., 1].mean()
    assert {name: found.figures[name] for name in expected} == pytest.approx(expected)
    assert 0.1 < expected["mAP"] < expected["mAP@.5"] < 1
    assert found.precision.shape == (10, 101, CLASSES)


def test_objects_are_small_or_large_by_their_area(data):
    *predicted, true_boxes, true_labels = data
    everything = np.full(true_labels.shape, 100.0)
    figures = average_precision(*predicted, true_boxes, true_labels, num_classes=CLASSES, areas=everything).figures
    assert figures["mAP small"] > 0
    assert np.isnan([figures["mAP medium"], figures["AR large"]]).all()


def test_predictions_in_a_crowd_are_neither_right_nor_wrong():
    true_boxes, true_labels = np.array([[[0, 0, 10, 10], [20, 20, 60, 60]]]), np.array([[0, 0]])
    boxes = np.array([[[22, 22, 30, 30], [40, 40, 50, 50], [0, 0, 10, 10]]])
    scores, labels = np.array([[0.9, 0.8, 0.7]]), np.zeros((1, 3), int)
    arguments = (boxes, scores, labels, true_boxes, true_labels)
    crowd = np.array([[False, True]])
    assert average_precision(*arguments, num_classes=1, crowd=crowd).figures["mAP"] == pytest.approx(1)
    assert average_precision(*arguments, num_classes=1).figures["mAP"] < 0.5


def test_nothing_found_is_zero_and_nothing_to_find_is_nan(data):
    boxes, scores, labels, true_boxes, true_labels = data
    nothing = average_precision(boxes, np.full_like(scores, -np.inf), labels, true_boxes, true_labels, num_classes=4)
    assert nothing.figures["mAP"] == nothing.figures["AR@100"] == 0
    assert np.isnan(nothing.per_class[3])
    empty = average_precision(boxes, scores, labels, 0 * true_boxes, np.abs(true_labels), num_classes=CLASSES)
    assert np.isnan(list(empty.figures.values())).all()


def test_a_predicted_box_with_nan_is_a_wrong_one():
    true, one = np.array([[[0, 0, 10, 10]]]), np.array([[0]])
    boxes = np.array([[[np.nan, 0, 10, 10], [0, 0, 10, 10]]])
    found = average_precision(boxes, np.array([[0.9, 0.8]]), np.zeros((1, 2), int), true, one, num_classes=1)
    assert found.figures["mAP"] == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("place", "change", "message"),
    [
        (0, lambda boxes: boxes[..., :3], r"`boxes` must have shape \(images, boxes, 4\)"),
        (1, lambda scores: scores[:, :2], r"`scores` must have shape \(6, 10\)"),
        (2, lambda labels: labels + 1, "`labels` of image 0 has class 3, but there are classes 0 to 2"),
        (3, lambda boxes: boxes * np.float32([1, 1, 1, np.nan]), "box 0 of image 0 in `true_boxes` is .*nan"),
        (4, lambda labels: labels + 9, "`true_labels` of image 0 has class"),
    ],
)
def test_what_does_not_fit_is_named(data, place, change, message):
    changed = list(data)
    changed[place] = change(changed[place])
    with pytest.raises(UserError, match=message):
        average_precision(*changed, num_classes=CLASSES)
    with pytest.raises(UserError, match="`boxes` are of 5 images, and `true_boxes` of 6"):
        average_precision(*(values[:5] for values in data[:3]), *data[3:], num_classes=CLASSES)


def test_without_pycocotools_the_message_says_how_to_get_it(data, monkeypatch):
    monkeypatch.setitem(sys.modules, "pycocotools.coco", None)
    with pytest.raises(UserError, match="pip install pycocotools, or cnnjax with its extra 'detection'"):
        average_precision(*data, num_classes=CLASSES)
