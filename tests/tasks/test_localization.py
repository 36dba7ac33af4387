"""Localization: losses and figures beside NumPy, torch and torchvision, and which object of an image counts."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cnnjax import tasks
from cnnjax.data import Split
from cnnjax.data.augment import Sample
from cnnjax.errors import UserError
from cnnjax.models.detection import Localized
from cnnjax.tasks.localization import largest_object

CLASSES, SIZE = 4, (40, 60)  # height and width
NAMES = ("ant", "bee", "cat", "dog")


def example(seed=0, images=6):
    """Predictions near the true boxes, some of them outside of the image, and objects in three places."""
    rng = np.random.default_rng(seed)
    corner = rng.uniform(0, [30, 20], (images, 3, 2))
    boxes = np.concatenate([corner, corner + rng.uniform(5, [28, 18], (images, 3, 2))], -1).astype(np.float32)
    labels = rng.integers(0, CLASSES, (images, 3)).astype(np.int32)
    labels[:, 1] = -1
    boxes[:, 1] = 0
    labels[1] = [-1, -1, 2]
    labels[2] = [-2 - 1, -1, 3]  # a crowd
    boxes[2, 0] = [0, 0, 60, 40]
    labels[3], boxes[3] = -1, 0  # no object
    target = np.stack([boxes[i, place_of(labels[i], boxes[i])] for i in range(images)])
    predicted = target + rng.normal(size=target.shape) * 3
    predicted[0] = [-5, -8, 30, 20]
    predicted[3] = [10, 10, 20, 20]
    predicted[4] = [50, 30, 58, 38]  # apart from the object
    logits = rng.normal(size=(images, CLASSES)).astype(np.float32) * 2
    return Localized(jnp.asarray(logits), jnp.float32(predicted), SIZE), sample(labels, boxes)


def sample(labels, boxes, weights=None):
    count = len(labels)
    weights = np.ones(count, np.float32) if weights is None else weights
    return Sample(np.zeros((count, *SIZE, 3), np.float32), labels=labels, boxes=boxes, weights=weights)


def place_of(labels, boxes):
    """The place of the largest object, by sorting."""
    areas = [(-(x1 - x0) * (y1 - y0), k) for k, (x0, y0, x1, y1) in enumerate(boxes.tolist()) if labels[k] >= 0]
    return min(areas, default=(0, 0))[1]


def iou(a, b):
    a, b = np.float64(a), np.float64(b)
    sides = np.maximum(np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2]), 0)
    inside = sides.prod()
    return inside / ((a[2:] - a[:2]).prod() + (b[2:] - b[:2]).prod() - inside)


def test_the_object_of_an_image_is_its_largest_which_is_no_crowd():
    _, batch = example()
    found = largest_object(batch.labels, batch.boxes)
    places = [place_of(*pair) for pair in zip(batch.labels, batch.boxes, strict=True)]
    there = np.array([True, True, True, False, True, True])
    np.testing.assert_array_equal(found.there, there)
    np.testing.assert_array_equal(found.labels[there], batch.labels[np.arange(6), places][there])
    np.testing.assert_array_equal(found.boxes[there], batch.boxes[np.arange(6), places][there])
    assert (found.labels[3], *found.boxes[3]) == (0, 0, 0, 0, 0)
    assert len({*places}) > 1


def test_the_first_of_equally_large_objects_counts():
    boxes = np.float32([[[0, 0, 0, 0], [0, 0, 4, 2], [5, 5, 7, 9]]])
    assert largest_object(np.array([[-1, 3, 1]]), boxes).labels == 3


@pytest.mark.parametrize("weight", [1.0, 2.5])
def test_losses_and_gradients_are_torchvision_s(weight):
    torch = pytest.importorskip("torch")
    pytest.importorskip("experiments.bench.torchvision_without_ops")
    giou_loss = pytest.importorskip("torchvision.ops").generalized_box_iou_loss
    outputs, batch = example()
    task = tasks.Localization(tasks.LocalizationLoss(box_weight=weight, box_beta=0.05))
    there = np.array([True, True, True, False, True, True])
    found, slopes = jax.vjp(lambda outputs: task.losses(outputs, batch), outputs)
    places = [place_of(*pair) for pair in zip(batch.labels, batch.boxes, strict=True)]
    labels = torch.tensor(batch.labels[np.arange(6), places].astype(np.int64))[there]
    truth = torch.tensor(batch.boxes[np.arange(6), places], dtype=torch.float64)[there]
    logits, boxes = (torch.tensor(np.float64(part), requires_grad=True) for part in (outputs.logits, outputs.boxes))
    size = torch.tensor([60, 40, 60, 40], dtype=torch.float64)
    smooth = torch.nn.functional.smooth_l1_loss(boxes[there] / size, truth / size, reduction="none", beta=0.05)
    expected = {
        "cross_entropy": torch.nn.functional.cross_entropy(logits[there], labels, reduction="none"),
        "smooth_l1": weight * smooth.sum(1),
        "giou": weight * giou_loss(boxes[there], truth),
    }
    assert found.keys() == expected.keys()
    for name, part in expected.items():
        np.testing.assert_allclose(found[name][there], part.detach().numpy(), rtol=1e-5, atol=1e-6)
        assert found[name][3] == 0
        gradients = torch.autograd.grad(part.sum(), (logits, boxes), retain_graph=True, allow_unused=True)
        (ours,) = slopes({key: jnp.full(6, float(key == name)) for key in found})
        for mine, theirs in zip((ours.logits, ours.boxes), gradients, strict=True):
            theirs = np.zeros(mine.shape) if theirs is None else theirs.numpy()
            np.testing.assert_allclose(mine, theirs, atol=2e-6)


@pytest.mark.parametrize("loss", ["smooth-l1", "giou"])
def test_one_loss_of_the_box_leaves_the_other_out(loss):
    outputs, batch = example()
    both = tasks.Localization().losses(outputs, batch)
    found = tasks.Localization(tasks.LocalizationLoss(box_loss=loss)).losses(outputs, batch)
    assert found.keys() == {"cross_entropy", loss.replace("-", "_")}
    for name, part in found.items():
        np.testing.assert_array_equal(part, both[name])


def test_figures_are_those_of_numpy():
    outputs, batch = example()
    batch.weights[:] = [1, 2, 1, 0, 1, 1]
    measured = tasks.Localization().measure(outputs, batch)
    right, overlap, confusion = np.zeros(6), np.zeros(6), np.zeros((CLASSES, CLASSES))
    for k in {0, 1, 2, 4, 5}:
        place = place_of(batch.labels[k], batch.boxes[k])
        cut = np.clip(outputs.boxes[k], 0, [60, 40, 60, 40])
        truth, predicted = batch.labels[k, place], int(np.argmax(outputs.logits[k]))
        right[k], overlap[k] = truth == predicted, iou(cut, batch.boxes[k, place])
        confusion[truth, predicted] += batch.weights[k]
    assert {*right} == {0, 1}
    assert (overlap >= 0.5).any()
    assert ((overlap > 0) & (overlap < 0.5)).any()
    np.testing.assert_allclose(measured["accuracy"], batch.weights @ right)
    np.testing.assert_allclose(measured["mean_iou"], batch.weights @ overlap, rtol=1e-5)
    np.testing.assert_allclose(measured["located"], batch.weights @ (right * (overlap >= 0.5)))
    np.testing.assert_allclose(measured["joint_iou"], batch.weights @ (right * overlap), rtol=1e-5)
    np.testing.assert_array_equal(measured["confusion"], confusion)


def test_a_box_is_found_from_an_iou_of_a_half_on_where_the_class_is_right():
    boxes = np.float32([[[0, 0, 10, 10]]] * 3)
    predicted = jnp.float32([[0, 0, 10, 5], [0, 0, 10, 4.9], [0, 0, 10, 5]])
    outputs = Localized(jnp.float32([[1, 0], [1, 0], [0, 1]]), predicted, SIZE)
    measured = [
        tasks.Localization().measure(outputs, sample(np.zeros((3, 1), int), boxes, np.eye(3, dtype=np.float32)[k]))
        for k in range(3)
    ]
    assert [float(one["located"]) for one in measured] == [1, 0, 0]


def test_images_without_an_object_do_not_count():
    _, batch = example()
    np.testing.assert_array_equal(tasks.Localization().weights(batch), [1, 1, 1, 0, 1, 1])
    crowd = sample(np.array([[-3, -1]]), np.float32([[[0, 0, 9, 9], [0, 0, 0, 0]]]))
    np.testing.assert_array_equal(tasks.Localization().weights(crowd), [0])


def test_an_object_that_augmentation_has_moved_out_is_neither_learned_nor_counted():
    """Weights are those from before the augmentation."""
    outputs, _ = example()
    lost = sample(np.full((6, 3), -1), np.zeros((6, 3, 4), np.float32))
    task = tasks.Localization()
    slopes = jax.grad(lambda outputs: sum(part.sum() for part in task.losses(outputs, lost).values()))(outputs)
    np.testing.assert_array_equal(slopes.boxes, 0)
    np.testing.assert_array_equal(slopes.logits, 0)
    assert all(not np.asarray(value).any() for value in task.measure(outputs, lost).values())


def test_predictions_lie_in_the_image_and_are_written_by_name():
    outputs, _ = example()
    task = tasks.Localization(class_names=NAMES)
    found = task.decode(outputs)
    np.testing.assert_array_equal(found["box"], np.clip(outputs.boxes, 0, [60, 40, 60, 40]))
    first = task.to_json(found)[0]
    likely = np.exp(np.float64(outputs.logits[0])) / np.exp(np.float64(outputs.logits[0])).sum()
    assert first == {
        "class": NAMES[likely.argmax()],
        "score": pytest.approx(likely.max(), abs=1e-6),
        "box": [0.0, 0.0, 30.0, 20.0],
    }
    figure = task.draw(np.zeros((6, *SIZE, 3)), found)
    (patch,) = figure.axes[0].patches
    assert (patch.get_xy(), patch.get_width(), patch.get_height()) == ((0, 0), 30, 20)
    assert figure.axes[0].get_title() == f"{first['class']} ({likely.max():.0%})"


def test_the_mean_with_the_mirror_image_mirrors_its_box_back():
    outputs, _ = example()
    boxes = np.asarray(outputs.boxes)
    mirrored = np.stack([60 - boxes[:, 2], boxes[:, 1], 60 - boxes[:, 0], boxes[:, 3]], 1)
    task = tasks.Localization()
    found = task.mean_outputs(outputs, Localized(outputs.logits[::-1], jnp.asarray(mirrored), SIZE))
    np.testing.assert_allclose(found.boxes, boxes, atol=1e-5)
    both = [np.asarray(task.decode(one)["scores"]) for one in (outputs, replace(outputs, logits=outputs.logits[::-1]))]
    np.testing.assert_allclose(task.decode(found)["scores"], sum(both) / 2, atol=1e-6)


def test_balanced_sampling_goes_by_the_class_of_the_object():
    _, batch = example()
    split = Split(np.zeros((6, *SIZE, 3), np.uint8), batch.labels, batch.boxes)
    places = [place_of(*pair) for pair in zip(batch.labels, batch.boxes, strict=True)]
    np.testing.assert_array_equal(tasks.Localization().classes_of(split), batch.labels[np.arange(6), places])


def test_what_does_not_fit_is_told():
    outputs, batch = example()
    split = Split(np.zeros((6, *SIZE, 3), np.uint8), batch.labels, batch.boxes)
    task = tasks.Localization()
    task.check(split, outputs)
    with pytest.raises(UserError, match="`class_names` are 2, but the network has 4 outputs"):
        tasks.Localization(class_names=("a", "b")).check(split, outputs)
    with pytest.raises(UserError, match=r"classes up to 3, .* 2 outputs, for classes 0 to 1: .*`num_classes=4`"):
        task.check(split, replace(outputs, logits=outputs.logits[:, :2]))
    none = Split(split.images, np.full((6, 3), -1, np.int32), np.zeros((6, 3, 4), np.float32))
    with pytest.raises(UserError, match="no image has an object"):
        task.check(none, outputs)
    with pytest.raises(
        UserError, match=r"localization needs logits and boxes, got outputs of type Array.*another task"
    ):
        task.losses(outputs.logits, batch)
    with pytest.raises(UserError, match=r"a label and a box of every object: .*data\.load_boxes"):
        task.losses(outputs, replace(batch, labels=batch.labels[:, 0]))
    with pytest.raises(UserError, match="box_beta"):
        tasks.LocalizationLoss(box_beta=0)
