"""Anchors, codes and matches beside torchvision's own classes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cnnjax.models import boxes as ours
from tests.ops.test_boxes import random_boxes

torch = pytest.importorskip("torch")
pytest.importorskip("experiments.bench.torchvision_without_ops")
pytest.importorskip("torchvision")
pytestmark = pytest.mark.parity
IMAGE = (90, 120)
GRIDS = [(11, 15), (5, 7)]


@pytest.fixture(scope="module")
def theirs():
    from torchvision.models.detection import _utils, anchor_utils, fcos

    return {"utils": _utils, "anchors": anchor_utils, "fcos": fcos}


@pytest.fixture(scope="module")
def anchors():
    return ours.grid_anchors(IMAGE, GRIDS, [[8], [16]], [[1.0], [1.0]])


@pytest.fixture(scope="module")
def targets(anchors):
    found = random_boxes(np.random.default_rng(4), 6, 80, whole=True)
    found[0] = anchors[30] + 1
    found[1] = [90, 80, 91, 81]  # overlaps little with any anchor
    found[3, 2:] = found[3, :2]  # without area
    found[5] = np.nan
    return found, np.array([True, True, True, True, False, True])


def images(module):
    maps = [torch.zeros(1, 1, *grid) for grid in GRIDS]
    from torchvision.models.detection.image_list import ImageList

    return module(ImageList(torch.zeros(1, 3, *IMAGE), [IMAGE]), maps)[0].numpy()


def test_anchors_are_torchvision_s(theirs):
    sizes, ratios = [[8, 11.3], [16, 23]], [[0.5, 1.0, 2.0], [1.0, 3.0]]
    expected = images(theirs["anchors"].AnchorGenerator(tuple(map(tuple, sizes)), tuple(map(tuple, ratios))))
    np.testing.assert_allclose(ours.grid_anchors(IMAGE, GRIDS, sizes, ratios), expected, atol=1e-5)


@pytest.mark.parametrize(
    "options",
    [{}, {"scales": [0.1, 0.6, 1.1]}, {"scales": [0.1, 1.2, 1.5], "clip": False}, {"steps": [8, 16]}],
)
def test_default_boxes_are_torchvision_s(theirs, options):
    expected = images(theirs["anchors"].DefaultBoxGenerator([[2], [2, 3]], **options))
    np.testing.assert_allclose(ours.default_boxes(IMAGE, GRIDS, [[2], [2, 3]], **options), expected, atol=1e-4)


def test_levels_of_different_lengths_are_named():
    with pytest.raises(ValueError, match="'grids': 2, 'sizes': 1"):
        ours.grid_anchors(IMAGE, GRIDS, [[8]], [[1.0], [1.0]])
    with pytest.raises(ValueError, match="scales must be one more than grids, 3, got 2"):
        ours.default_boxes(IMAGE, GRIDS, [[2], [2]], scales=[0.1, 0.2])


def test_codes_are_torchvision_s(theirs, anchors):
    rng, weights = np.random.default_rng(5), (10.0, 10.0, 5.0, 5.0)
    some, found = anchors[:40], random_boxes(np.random.default_rng(6), 40, 100) + np.float32([0, 0, 1, 1])
    coder, linear = theirs["utils"].BoxCoder(weights), theirs["utils"].BoxLinearCoder()
    codes = rng.standard_normal((40, 4)).astype(np.float32) * 8
    pairs = [
        (jax.jit(lambda b, a: ours.encode(b, a, weights)), coder.encode_single, found),
        (jax.jit(lambda c, a: ours.decode(c, a, weights)), coder.decode_single, codes * 4),
        (jax.jit(ours.encode_sides), lambda b, a: linear.encode(a, b), found),
        (jax.jit(ours.decode_sides), linear.decode, codes),
    ]
    for mine, other, values in pairs:
        with jax.numpy_rank_promotion("raise"):
            result = mine(values, some)
        expected = other(torch.tensor(values), torch.tensor(some))
        np.testing.assert_allclose(result, expected, rtol=1e-5, atol=1e-4)
    np.testing.assert_allclose(ours.decode(ours.encode(found, some, weights), some, weights), found, atol=1e-3)
    np.testing.assert_array_equal(ours.encode(found, some), ours.encode(found, some, (1, 1, 1, 1)))
    assert np.isfinite(ours.encode(jnp.float32([[1, 1, 1, 1]]), some[:1])).all()


def test_boxes_are_cut_at_the_border():
    cut = ours.clip_boxes(jnp.float32([[-1, -2, 130, 95], [3, 4, 5, 6]]), IMAGE)
    np.testing.assert_array_equal(cut, [[0, 0, 120, 90], [3, 4, 5, 6]])


@pytest.mark.parametrize("low_quality", [False, True])
def test_matches_by_iou_are_torchvision_s(theirs, anchors, targets, low_quality):
    boxes, valid = targets
    there = [0, 1, 2]  # what torchvision is given: neither padding nor boxes that match nothing
    quality = np.asarray(ours.box_iou(boxes[there], anchors))
    matcher = theirs["utils"].Matcher(0.4, 0.2, low_quality)
    expected = matcher(torch.tensor(quality)).numpy()
    assert {-1, -2, 0} <= set(expected)
    with jax.numpy_rank_promotion("raise"):
        result = jax.jit(lambda *a: ours.match_by_iou(*a, high=0.4, low=0.2, low_quality=low_quality))(
            boxes, valid, anchors
        )
    np.testing.assert_array_equal(result, expected)


def test_matches_by_best_are_torchvision_s(theirs, anchors, targets):
    boxes, valid = targets
    boxes = boxes.copy()
    boxes[2] = boxes[1]  # two boxes with one best anchor
    quality = np.asarray(ours.box_iou(boxes[:3], anchors))
    expected = theirs["utils"].SSDMatcher(0.4)(torch.tensor(quality)).numpy()
    assert {-1, 0, 2} == set(expected)
    with jax.numpy_rank_promotion("raise"):
        result = jax.jit(lambda *a: ours.match_by_best(*a, threshold=0.4))(boxes, valid, anchors)
    np.testing.assert_array_equal(result, expected)


def test_matches_by_centre_are_torchvision_s(theirs, anchors):
    boxes = random_boxes(np.random.default_rng(8), 9, 90, whole=True)
    boxes[:3] = [[10, 10, 60, 50], [20, 12, 62, 70], [0, 0, 119, 89]]
    point = (anchors[40, :2] + anchors[40, 2:]) / 2
    boxes[3] = *(point - 0.25), *(point + 0.25)
    valid = np.array([True] * 7 + [False] * 2)
    levels = [rows * columns for rows, columns in GRIDS]
    fcos, matches = theirs["fcos"].FCOS.__new__(theirs["fcos"].FCOS), []
    torch.nn.Module.__init__(fcos)
    fcos.center_sampling_radius, fcos.head = 1.5, torch.nn.Identity()
    fcos.head.compute_loss = lambda targets, outputs, anchors, matched: matches.extend(matched)
    fcos.compute_loss([{"boxes": torch.tensor(boxes[:7])}], {}, [torch.tensor(anchors)], levels)
    assert len(set(matches[0].tolist())) > 3
    assert 3 in matches[0]
    with jax.numpy_rank_promotion("raise"):
        result = jax.jit(lambda *a: ours.match_by_centre(*a, levels))(boxes, valid, anchors)
    np.testing.assert_array_equal(result, matches[0])
    with pytest.raises(ValueError, match="levels must add up to the number of anchors"):
        ours.match_by_centre(boxes, valid, anchors, levels[:1])


def test_without_a_usable_box_everything_is_background(anchors, targets):
    boxes, _ = targets
    levels = [rows * columns for rows, columns in GRIDS]
    for some, valid in (
        (boxes[:0], np.zeros(0, bool)),
        (boxes, np.zeros(6, bool)),
        (boxes, np.arange(6) % 2 * np.arange(6) > 1),
    ):
        for match in (
            ours.match_by_iou(some, valid, anchors, high=0.5, low=0.4, low_quality=True),
            ours.match_by_best(some, valid, anchors, threshold=0.5),
            ours.match_by_centre(some, valid, anchors, levels),
        ):
            assert (np.asarray(match) == ours.BELOW).all()
