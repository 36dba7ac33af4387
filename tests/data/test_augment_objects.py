"""Boxes, their labels and masks of objects in augmentations, with exact values."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cnnjax.data import augment
from cnnjax.data.augment import Sample
from cnnjax.data.augment.geometry import move, shift
from cnnjax.data.augment.sample import labels_boxes
from cnnjax.errors import UserError

KEY = jax.random.key(3)
BOXES = [[0, 0, 4, 4], [6, 2, 10, 6], [5, 5, 10, 7], [0, 0, 0, 0]]


def sample_of(boxes=BOXES, labels=(3, 1, -2 - 4, -1), count=1, height=8, width=10):
    """Images whose objects are drawn in the map of objects, and in the image as its number divided by 255."""
    instances = np.zeros((count, height, width), np.uint8)
    for number, (x0, y0, x1, y1) in enumerate(np.asarray(boxes, int)):
        instances[:, y0:y1, x0:x1] = number + 1
    return Sample(
        jnp.asarray(np.repeat(instances[..., None] / np.float32(255), 3, -1)),
        jnp.asarray(np.tile(np.int32(labels), (count, 1))),
        jnp.asarray(np.tile(np.float32(boxes), (count, 1, 1))),
        masks=jnp.asarray(instances > 0, jnp.uint8),
        instances=jnp.asarray(instances),
        mask_fill=255,
    )


@jax.jit
def shifted(sample, x, y):
    count, height, width, _ = sample.images.shape
    return move(sample, shift(jnp.full(count, x), jnp.full(count, y), (height, width)), 0.0)


def test_boxes_are_cut_and_those_whose_centre_leaves_become_padding_with_their_labels():
    sample = sample_of()
    result = shifted(sample, 3, 1)
    # The second is cut to a quarter (its centre at 11 leaves), the third, a crowd, has its centre at 10.5.
    np.testing.assert_array_equal(result.boxes[0], [[3, 1, 7, 5], [0] * 4, [0] * 4, [0] * 4])
    np.testing.assert_array_equal(result.labels[0], [3, -1, -1, -1])
    result = shifted(sample, -1, -2)
    np.testing.assert_array_equal(result.boxes[0], [[0] * 4, [5, 0, 9, 4], [4, 3, 9, 5], [0] * 4])
    np.testing.assert_array_equal(result.labels[0], [-1, 1, -6, -1])
    result = shifted(sample, -1, -1)
    np.testing.assert_array_equal(result.boxes[0, 0], [0, 0, 3, 3])
    assert result.labels[0, 0] == 3


def test_masks_and_maps_of_objects_move_with_the_pixels_and_keep_what_is_left_of_a_dropped_object():
    sample = sample_of()
    result = shifted(sample, 3, 1)
    expected = np.zeros((8, 10), np.uint8)
    expected[1:, 3:] = np.asarray(sample.instances[0])[:-1, :-3]
    np.testing.assert_array_equal(result.instances[0], expected)
    assert (expected == 2).sum() == 3
    inside = np.zeros((8, 10), bool)
    inside[1:, 3:] = True
    np.testing.assert_array_equal(result.masks[0], np.where(inside, expected > 0, 255))
    assert result.instances.dtype == jnp.uint8


@pytest.mark.parametrize(("share", "kept"), [(0.24, True), (0.26, False)])
def test_a_box_of_which_less_than_a_share_stays_is_dropped(share, kept):
    """A large box whose centre stays in a window that shows a quarter of it."""
    sample = replace(sample_of([[0, 0, 10, 8]], (2,)), box_share=share)
    result = jax.jit(augment.zoom((2.0, 2.0)))(KEY, sample)
    np.testing.assert_allclose(result.boxes[0], [[0, 0, 10, 8]] if kept else [[0] * 4])
    np.testing.assert_array_equal(result.labels[0], [2 if kept else -1])


def test_labels_of_images_and_probabilities_are_not_those_of_boxes():
    labels = jnp.float32([[0.2, 0.8, 0, 0]])
    result = shifted(replace(sample_of(), labels=labels), 20, 0)
    assert not result.boxes.any()
    np.testing.assert_array_equal(result.labels, labels)
    assert not labels_boxes(replace(sample_of(), labels=jnp.int32([7])))


def test_a_mirror_moves_every_object_to_the_other_side_and_keeps_crowds():
    sample = sample_of()
    result = jax.jit(augment.mirror(1.0))(KEY, sample)
    np.testing.assert_array_equal(result.boxes[0], [[6, 0, 10, 4], [0, 2, 4, 6], [0, 5, 5, 7], [0] * 4])
    np.testing.assert_array_equal(result.labels, sample.labels)
    np.testing.assert_array_equal(result.instances, sample.instances[..., ::-1])


def test_colours_change_no_box_label_or_mask():
    sample = sample_of()
    result = jax.jit(augment.parse("brightness contrast gaussian-noise"))(KEY, sample)
    assert (result.images != sample.images).any()
    for name in ("boxes", "labels", "masks", "instances"):
        np.testing.assert_array_equal(getattr(result, name), getattr(sample, name))


def tight(instances, number):
    """The box around the pixels of an object."""
    rows, columns = np.nonzero(np.asarray(instances) == number)
    return np.array([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1])


CROPPED = 0.75  # of the images
crop = jax.jit(augment.object_crop((0.1, 0.2), p=CROPPED))


def cropped(sample):
    """The images that are cropped: all have a ramp of columns, which every crop stretches."""
    ramp = jnp.broadcast_to(((jnp.arange(20) + 0.5) / 20)[:, None], sample.images.shape)
    sample = replace(sample, images=ramp)
    result = crop(KEY, sample)
    changed = np.asarray((result.images != ramp).any((1, 2, 3)))
    assert CROPPED - 0.1 < changed.mean() < CROPPED + 0.1
    for name in ("boxes", "labels", "masks", "instances"):
        given, kept = (np.asarray(getattr(one, name))[~changed] for one in (sample, result))
        np.testing.assert_array_equal(given, kept)
    return jax.tree.map(lambda array: np.asarray(array)[changed], result)


def many(boxes, labels):
    return sample_of(boxes, labels, count=400, height=20, width=20)


def test_a_crop_keeps_the_centre_of_an_object_and_never_that_of_a_crowd_alone():
    result = cropped(many([[9, 9, 10, 10], [18, 18, 20, 20]], (0, -2)))
    assert (result.labels[:, 0] == 0).all()
    assert (result.labels[:, 1] == -1).mean() > 0.9
    sides = result.boxes[:, 0, 2:] - result.boxes[:, 0, :2]
    assert sides.min() > 1  # as large as the window is small
    places = result.boxes[:, 0, :2]
    assert places.min() < 2  # the object is anywhere in the window
    assert places.max() > 14
    for box, instances in list(zip(result.boxes[:, 0], result.instances, strict=True))[:20]:
        np.testing.assert_allclose(box, tight(instances, 1), atol=0.51)


def test_a_crop_chooses_among_the_objects_and_without_any_takes_any_window():
    kept = cropped(many([[1, 1, 3, 3], [16, 16, 18, 18]], (0, 1))).labels >= 0
    assert (kept.sum(1) == 1).all()
    assert 0.4 < kept[:, 0].mean() < 0.6
    result = cropped(many([[0] * 4, [0] * 4], (-1, -1)))
    assert result.images[:, 0, 0, 0].min() < 0.1  # windows begin at the left, and end at the right
    assert result.images[:, 0, -1, 0].max() > 0.9
    assert not result.boxes.any()


def test_a_crop_needs_boxes():
    with pytest.raises(UserError, match="takes images with boxes"):
        augment.object_crop()(KEY, replace(sample_of(), boxes=None))
    with pytest.raises(UserError, match=r"p=2: expected a number from 0 to 1"):
        augment.object_crop(p=2)


def test_zooming_out_changes_half_of_the_images_by_default():
    sample = many([[4, 4, 16, 12]], (5,))
    images = jax.jit(augment.zoom_out())(KEY, sample).images
    changed = (images != sample.images).any((1, 2, 3))
    assert 0.4 < changed.mean() < 0.6
    assert (images[changed] == 0.5).any((1, 2, 3)).mean() > 0.9  # grey beside them


def test_zooming_out_shrinks_boxes_masks_and_pixels_alike_and_fills_the_rest():
    sample = many([[4, 4, 16, 12]], (5,))
    result = jax.jit(augment.zoom_out((0.5, 0.5), p=0.75, fill=1.0))(KEY, sample)
    changed = np.asarray((result.images != sample.images).any((1, 2, 3)))
    assert 0.65 < changed.mean() < 0.85
    result = jax.tree.map(lambda array: np.asarray(array)[changed], result)
    boxes = result.boxes[:, 0]
    np.testing.assert_allclose(boxes[:, 2:] - boxes[:, :2], [[6, 4]] * len(boxes), rtol=1e-4)
    assert 2 <= boxes[:, 0].min() < 2.3  # the image's left border between 0 and 10
    assert 11.7 < boxes[:, 0].max() <= 12
    assert (result.labels == 5).all()
    np.testing.assert_allclose((result.masks == 255).mean((1, 2)), 0.75, atol=0.06)
    np.testing.assert_allclose((result.images[..., 0] == 1).mean((1, 2)), 0.75, atol=0.06)
    for box, instances in zip(boxes[:20], result.instances, strict=False):
        np.testing.assert_allclose(box, tight(instances, 1), atol=0.51)
