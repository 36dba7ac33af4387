"""Scenes of several objects: what they are made of, and that masks, instances, labels and boxes agree."""

import numpy as np
import pytest

from cnnjax.data import scenes, shapes
from cnnjax.data.shapes import CLASS_NAMES, MIN_CONTRAST

LUMA = np.array([0.299, 0.587, 0.114])


@pytest.fixture(scope="module")
def made():
    return scenes.generate(200, size=64)


def test_a_scene_depends_on_its_number_and_the_seed_alone(made):
    again = scenes.generate(120, size=64)
    for name, array in vars(again).items():
        np.testing.assert_array_equal(array, getattr(made, name)[:120])
    other = scenes.generate(10, size=64, seed=1)
    assert (other.images != made.images[:10]).any((1, 2, 3)).all()


def test_the_size_changes_the_resolution_and_not_the_scene(made):
    small = scenes.generate(50, size=32)
    np.testing.assert_array_equal(small.labels, made.labels[:50])
    np.testing.assert_allclose(small.boxes * 2, made.boxes[:50], rtol=1e-5)
    halved = made.images[:50].reshape(50, 32, 2, 32, 2, 3).mean((2, 4))
    assert np.abs(halved - small.images).mean() < 4
    assert (made.masks[:50, ::2, ::2] == small.masks).mean() > 0.97


def test_scenes_have_one_to_four_objects_of_every_class(made):
    counts = (made.labels >= 0).sum(1)
    assert set(counts) == {1, 2, 3, 4}
    assert set(made.labels[made.labels >= 0]) == set(range(len(CLASS_NAMES)))
    for labels in made.labels:  # those that are there come first
        assert (labels[: (labels >= 0).sum()] >= 0).all()


def test_a_pixel_has_the_class_of_the_object_that_it_belongs_to(made):
    for mask, instances, labels in zip(made.masks, made.instances, made.labels, strict=True):
        np.testing.assert_array_equal(mask, np.array([0, *(labels + 1)])[instances])
        assert set(np.unique(instances)) - {0} <= set(np.flatnonzero(labels >= 0) + 1)


def test_boxes_are_tight_around_objects_that_nothing_covers(made):
    checked = 0
    for instances, boxes, labels in zip(made.instances, made.boxes, made.labels, strict=True):
        for number, (x0, y0, x1, y1) in enumerate(boxes):
            if labels[number] < 0:
                assert not boxes[number].any()
                continue
            assert 0 <= x0 < x1 <= 64
            assert 0 <= y0 < y1 <= 64
            rows, columns = np.nonzero(instances == number + 1)
            found = np.array([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1])
            assert (found[:2] >= np.array([x0, y0]) - 0.51).all()
            assert (found[2:] <= np.array([x1, y1]) + 0.51).all()
            if number == (labels >= 0).sum() - 1:  # the last one is in front of all others
                np.testing.assert_allclose(found, [x0, y0, x1, y1], atol=2.5)  # thin tips cover no pixel's centre
                checked += 1
    assert checked == 200


def test_objects_fill_as_much_of_their_boxes_as_the_shapes_of_their_class():
    """By which the ten classes differ."""
    made, single = scenes.generate(600, size=64), shapes.generate(600, size=64)
    for label in range(len(CLASS_NAMES)):
        fills = []
        for instances, labels, boxes in zip(made.instances, made.labels, made.boxes, strict=True):
            last = (labels >= 0).sum() - 1
            if labels[last] == label:
                fills.append((instances == last + 1).sum() / np.prod(boxes[last, 2:] - boxes[last, :2]))
        own = single.labels == label
        expected = single.masks[own].mean((1, 2)) / np.prod(single.boxes[own, 2:] - single.boxes[own, :2], -1)
        np.testing.assert_allclose(np.mean(fills), expected.mean(), atol=0.03)


def test_boxes_share_a_quarter_at_most_of_the_smaller_one(made):
    for boxes in made.boxes:
        there = boxes[(boxes[:, 2] > boxes[:, 0])]
        for k, box in enumerate(there):
            for other in there[:k]:
                sides = np.maximum(np.minimum(box[2:], other[2:]) - np.maximum(box[:2], other[:2]), 0)
                areas = [np.prod(b[2:] - b[:2]) for b in (box, other)]
                assert np.prod(sides) <= 0.2501 * min(areas)


def test_objects_are_of_all_sizes_between_the_least_and_the_largest():
    made = scenes.generate(600, size=64)
    circles = made.boxes[made.labels == CLASS_NAMES.index("circle")]
    sides = (circles[:, 2] - circles[:, 0]) / 64
    least, largest = (2 * radius * 0.749326 for radius in (0.12, 0.26))  # the widest class has radius 1, circles less
    assert least - 1e-3 <= sides.min() <= least + 0.02
    assert largest - 0.02 <= sides.max() <= largest + 1e-3


def test_every_object_differs_in_luma_from_all_that_is_behind_it(made):
    """Objects lie on one side of a gap, the background and its clutter on the other."""
    luma = made.images / 255 @ LUMA
    for image, instances in zip(luma, made.instances, strict=True):
        around = np.stack([np.roll(instances, (dy - 1, dx - 1), (0, 1)) for dy, dx in np.ndindex(3, 3)])
        same = (around == instances).all(0)  # without pixels that an edge blends
        inner, outer = same & (instances > 0), same & (instances == 0)
        if inner.any():
            above = image[inner].min() - image[outer].max()
            below = image[outer].min() - image[inner].max()
            assert max(above, below) > MIN_CONTRAST - 0.02


def test_scenes_are_none_of_the_images_of_one_object(made):
    single = shapes.generate(100, size=64)
    assert not {image.tobytes() for image in single.images} & {image.tobytes() for image in made.images}


@pytest.mark.parametrize("wrong", [{"count": 0}, {"size": 8}, {"seed": -1}, {"size": 32.0}])
def test_arguments_out_of_range_are_named(wrong):
    (name,) = wrong
    with pytest.raises(ValueError, match=f"{name}="):
        scenes.generate(**{"count": 1, **wrong})
