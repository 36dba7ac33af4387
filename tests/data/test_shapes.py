import dataclasses
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.path import Path

from cnnjax.data import raster, shapes
from cnnjax.data.shapes import CLASS_NAMES, MIN_CONTRAST, generate

FIELDS = [field.name for field in dataclasses.fields(shapes.Shapes)]
RING_HOLE = 0.55**2  # share of the ring's disc that is hole

# Of generate(10) at version 1.0.0: labels, and mean pixel of every image
LABELS = [4, 9, 8, 7, 5, 3, 0, 1, 2, 6]
MEANS = [112.97, 72.02, 175.77, 111.76, 189.05, 160.54, 93.97, 202.4, 162.0, 44.98]


@pytest.fixture(scope="module")
def data():
    return generate(120, size=96, seed=3)


def centres(size):
    """Pixel centres (size * size, 2) as matplotlib wants them: (x, y), as fractions of the image."""
    y, x = np.mgrid[:size, :size].reshape(2, -1)
    return np.stack([x + 0.5, y + 0.5], -1) / size


def area(polygon):
    y, x = polygon.T
    return np.sum(x * np.roll(y, -1) - y * np.roll(x, -1)) / 2


def grown(mask):
    """The mask (size, size) with every pixel's eight neighbours added."""
    padded = np.pad(mask, 1)
    size = len(mask)
    return np.any([padded[i : i + size, j : j + size] for i in range(3) for j in range(3)], axis=0)


@pytest.mark.parametrize("size", [16, 17, 32, 75])
def test_any_size_gives_the_documented_arrays(size):
    data = generate(11, size=size)
    expected = {
        "images": (np.uint8, (11, size, size, 3)),
        "labels": (np.int32, (11,)),
        "boxes": (np.float32, (11, 4)),
        "masks": (np.bool_, (11, size, size)),
        "outlines": (np.float32, (11, 64, 2)),
    }
    assert {name: (getattr(data, name).dtype, getattr(data, name).shape) for name in FIELDS} == expected
    assert data.masks.any((1, 2)).all()


def test_every_run_of_ten_holds_each_class_once_in_a_random_order():
    labels = generate(230, size=16).labels.reshape(-1, 10)
    assert len(CLASS_NAMES) == len(set(CLASS_NAMES)) == 10
    assert (np.sort(labels, axis=1) == np.arange(10)).all()
    assert len(np.unique(labels, axis=0)) == len(labels)


def test_a_seed_repeats_bit_for_bit_and_another_differs():
    first, again, other = (generate(20, seed=seed) for seed in (5, 5, 6))
    for name in FIELDS:
        assert np.array_equal(getattr(first, name), getattr(again, name)), name
        assert not np.array_equal(getattr(first, name), getattr(other, name)), name


def test_a_longer_run_begins_with_the_shorter_ones():
    long = generate(203, seed=2)
    for count in (1, 37, 100, 101):
        short = generate(count, seed=2)
        for name in FIELDS:
            assert np.array_equal(getattr(short, name), getattr(long, name)[:count]), (name, count)


def test_no_scene_is_drawn_twice():
    assert len(np.unique(generate(300).outlines[:, 0], axis=0)) == 300


def test_size_changes_the_resolution_and_not_the_scene():
    small, large = generate(20, size=32), generate(20, size=128)
    for name in ("labels", "boxes", "outlines"):
        assert np.array_equal(getattr(small, name), getattr(large, name)), name
    reduced = large.images.reshape(20, 32, 4, 32, 4, 3).mean((2, 4))
    assert np.abs(reduced - small.images).mean() < 2  # of 255: the two differ only by how edges were sampled


def test_version_names_these_pixels():
    """A failure here means that generate() changed: bump VERSION together with the numbers."""
    data = generate(10)
    assert shapes.VERSION == "1.0.0"
    assert data.labels.tolist() == LABELS
    np.testing.assert_allclose(data.images.mean((1, 2, 3)), MEANS, atol=0.02)


def test_objects_lie_inside_the_image_and_their_outlines_touch_the_box(data):
    low, high = data.boxes[:, :2], data.boxes[:, 2:]
    assert (low >= 0.0199).all()
    assert (high <= 0.9801).all()
    assert (data.outlines.min(1) >= low - 1e-6).all()
    assert (data.outlines.max(1) <= high + 1e-6).all()
    gap = np.maximum(data.outlines.min(1) - low, high - data.outlines.max(1))  # a sharp tip lies between two points
    assert gap.max() < 0.03
    assert gap[data.labels == CLASS_NAMES.index("circle")].max() < 0.002


def test_masks_fill_their_boxes_to_a_pixel():
    """Away from tips too sharp to hold a pixel's centre."""
    data, size = generate(200, size=96), 96
    blunt = np.isin(data.labels, [CLASS_NAMES.index(name) for name in ("circle", "ring", "cross")])
    for mask, box, exact in zip(data.masks, data.boxes * size, blunt, strict=True):
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        extent = np.array([rows[0], columns[0], rows[-1] + 1, columns[-1] + 1])
        inset = (extent - box) * [1, 1, -1, -1]
        assert (inset >= -0.5 - 1e-4).all()  # a pixel belongs when its centre does
        assert (inset <= (1 if exact else 6)).all()


def test_outlines_are_evenly_spaced_and_clockwise(data):
    steps = np.linalg.norm(np.roll(data.outlines, -1, axis=1) - data.outlines, axis=-1)
    whole = steps > 0.98 * steps.max(1, keepdims=True)  # the others cut a corner
    assert (whole.mean(1) > 0.75).all()
    assert (steps > 0.2 * steps.max(1, keepdims=True)).all()
    assert all(area(outline) > 0 for outline in data.outlines)


def test_mask_area_is_the_outline_area(data):
    size = data.masks.shape[1]
    for label, mask, outline in zip(data.labels, data.masks, data.outlines, strict=True):
        expected = area(outline) * (1 - RING_HOLE if CLASS_NAMES[label] == "ring" else 1)
        assert mask.sum() / size**2 == pytest.approx(expected, rel=0.04), CLASS_NAMES[label]


def test_masks_agree_with_point_in_polygon_of_the_outlines(data):
    """But for the ring's hole, and at corners, which 64 points cut."""
    size = data.masks.shape[1]
    for k in np.flatnonzero(data.labels != CLASS_NAMES.index("ring"))[:50]:
        expected = Path(data.outlines[k, :, ::-1]).contains_points(centres(size)).reshape(size, size)
        assert (expected != data.masks[k]).sum() < 0.03 * expected.sum(), CLASS_NAMES[data.labels[k]]


def test_the_ring_and_only_the_ring_has_a_hole(data):
    for label, mask, box in zip(data.labels, data.masks, data.boxes * data.masks.shape[1], strict=True):
        y, x = ((box[:2] + box[2:]) / 2).astype(int)
        if CLASS_NAMES[label] == "ring":
            assert not mask[y, x]
        if CLASS_NAMES[label] in ("circle", "square", "cross"):
            assert mask[y, x]


def test_objects_stand_out_from_all_that_lies_behind_them_in_either_direction(data):
    luma = data.images @ np.array([0.299, 0.587, 0.114]) / 255
    brighter = np.empty(len(luma), bool)
    for k, mask in enumerate(data.masks):
        inner, outer = luma[k][~grown(~mask)], luma[k][~grown(mask)]  # blended edge pixels are neither
        brighter[k] = inner.mean() > outer.mean()
        gap = inner.min() - outer.max() if brighter[k] else outer.min() - inner.max()
        assert gap > MIN_CONTRAST - 1.5 / 255
    for label in range(10):
        assert 0 < brighter[data.labels == label].mean() < 1
    assert 0.3 < brighter.mean() < 0.7


polygons = st.tuples(st.integers(3, 12), st.integers(0, 2**32 - 1), st.integers(16, 40))


@settings(max_examples=60, deadline=None)
@given(polygons)
def test_rasteriser_agrees_with_point_in_polygon_and_area(case):
    """Random star-shaped polygons, some beyond the image; the part of the area that lies in it, by dense sampling."""
    corners, seed, size = case
    rng = np.random.default_rng(seed)
    angles = 2 * np.pi * (np.arange(corners) + 0.9 * rng.random(corners)) / corners
    radius = rng.uniform(0.1, 0.7, corners)
    polygon = rng.random(2) + radius[:, None] * np.stack([np.sin(angles), np.cos(angles)], -1)
    cross = raster.crossings(polygon[None], size)
    path = Path(polygon[:, ::-1])
    inside = path.contains_points(centres(size)).reshape(size, size)
    assert np.array_equal(raster.inside(cross, (1, size))[0], inside)
    dense = path.contains_points(centres(8 * size)).reshape(size, 8, size, 8).mean((1, 3))
    cover = raster.coverage(cross, (1, size))[0, 0]
    # A level edge is caught to half a scanline's distance, 1/10 pixel by the rasteriser and 1/16 by the dense samples.
    assert np.abs(cover - dense).max() < 2 * (1 / 10 + 1 / 16)
    assert cover.mean() == pytest.approx(dense.mean(), abs=2 * (1 / 10 + 1 / 16) / size)


def test_edges_are_anti_aliased_exactly_along_x():
    box = np.array([[[0.25, 0.2], [0.25, 0.7], [0.75, 0.7], [0.75, 0.2]]])  # in 16 pixels: x 3.2 to 11.2, y 4 to 12
    cover = raster.coverage(raster.crossings(box, 16), (1, 16))[0, 0]
    row = np.concatenate([np.zeros(3), [0.8], np.ones(7), [0.2], np.zeros(4)])
    np.testing.assert_allclose(cover, np.outer((np.arange(16) >= 4) & (np.arange(16) < 12), row), atol=1e-6)


def test_memory_beside_the_result_is_bounded():
    tracemalloc.start()
    data = generate(6, size=512)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 50e6 + sum(getattr(data, name).nbytes for name in FIELDS)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"count": 0}, r"count=0: expected an integer of at least 1"),
        ({"count": 2.0}, r"count=2\.0: expected an integer"),
        ({"count": True}, r"count=True: expected an integer"),
        ({"count": "10"}, r"count='10': expected an integer"),
        ({"count": 1, "size": 15}, r"size=15: expected an integer of at least 16"),
        ({"count": 1, "size": 32.5}, r"size=32\.5: expected an integer"),
        ({"count": 1, "seed": -1}, r"seed=-1: expected an integer of at least 0"),
    ],
)
def test_bad_arguments_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        generate(**arguments)
