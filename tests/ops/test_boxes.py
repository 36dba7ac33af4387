"""Boxes beside torchvision's own Python files, and beside its compiled kernels transcribed to NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cnnjax import ops


def random_boxes(rng, count, size=20.0, whole=False):
    corners = rng.uniform(0, size, (count, 2, 2))
    corners = np.round(corners) if whole else corners
    return np.concatenate([corners.min(1), corners.max(1)], 1).astype(np.float32)


@pytest.fixture(scope="module")
def torchvision_ops():
    torch = pytest.importorskip("torch")
    pytest.importorskip("experiments.bench.torchvision_without_ops")
    return torch, pytest.importorskip("torchvision.ops")


# ---------------------------------------------------------------- overlap


@pytest.mark.parity
@pytest.mark.parametrize("name", ["box_iou", "generalized_box_iou"])
def test_overlaps_and_their_gradients_are_torchvision_s(name, torchvision_ops):
    torch, theirs = torchvision_ops
    rng = np.random.default_rng(0)
    a, b = random_boxes(rng, 7), random_boxes(rng, 5)
    b[0] = a[0]
    tensors = [torch.tensor(boxes, requires_grad=True) for boxes in (a, b)]
    expected = getattr(theirs, name)(*tensors)
    cotangent = rng.standard_normal((7, 5)).astype(np.float32)
    gradients = torch.autograd.grad(expected, tensors, torch.tensor(cotangent))
    with jax.numpy_rank_promotion("raise"):
        ours, pull = jax.vjp(jax.jit(getattr(ops, name)), a, b)
    np.testing.assert_allclose(ours, expected.detach(), atol=1e-6)
    for mine, other in zip(pull(cotangent), gradients, strict=True):
        np.testing.assert_allclose(mine, other, atol=1e-5)
    batched = getattr(ops, name)(np.stack([a, a]), np.stack([b, b]))
    np.testing.assert_array_equal(batched[1], getattr(ops, name)(a, b))


@pytest.mark.parametrize("function", [ops.box_iou, ops.generalized_box_iou])
def test_boxes_without_area_have_no_overlap_and_nan_stays(function):
    point = jnp.float32([[1, 1, 1, 1]])
    assert function(point, point) == 0
    assert np.isfinite(jax.grad(lambda a: function(a, point).sum())(point)).all()
    assert np.isnan(function(jnp.float32([[0, 0, np.nan, 1]]), jnp.float32([[0, 0, 1, 1]]))).all()
    assert function(jnp.zeros((0, 4)), point).shape == (0, 1)


def test_half_precision_areas_do_not_overflow():
    box = jnp.array([[0, 0, 1000, 1000]], jnp.float16)
    assert ops.box_iou(box, box) == 1
    assert ops.generalized_box_iou(box, box).dtype == jnp.float16


# ---------------------------------------------------------------- non-maximum suppression


def reference_nms(boxes, scores, threshold, classes=None):
    """The loop of torchvision's csrc/ops/cpu/nms_kernel.cpp."""
    boxes = boxes.astype(np.float32)
    areas = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    order, gone, kept = np.argsort(-scores, kind="stable"), np.zeros(len(boxes), bool), []
    for place, i in enumerate(order):
        if gone[i]:
            continue
        kept.append(i)
        for j in order[place + 1 :]:
            low, high = np.maximum(boxes[i, :2], boxes[j, :2]), np.minimum(boxes[i, 2:], boxes[j, 2:])
            inside = np.prod(np.maximum(high - low, 0))
            union = areas[i] + areas[j] - inside
            gone[j] |= union > 0 and inside / union > threshold and (classes is None or classes[i] == classes[j])
    return kept


def kept(boxes, scores, threshold, **options):
    indices, valid = jax.jit(lambda b, s: ops.nms(b, s, threshold, **options))(boxes, scores)
    assert not indices[~valid].any()
    return list(np.asarray(indices)[np.asarray(valid)])


@pytest.mark.parametrize("count", [1, 40, 300])
@pytest.mark.parametrize("threshold", [0.0, 0.2, 0.5])
def test_nms_keeps_what_torchvision_keeps_in_its_order(count, threshold):
    rng = np.random.default_rng(count)
    boxes, scores = random_boxes(rng, count, whole=True), rng.integers(0, 12, count).astype(np.float32)
    classes = rng.integers(0, 3, count)
    with jax.numpy_rank_promotion("raise"):
        assert kept(boxes, scores, threshold, max_output=count) == reference_nms(boxes, scores, threshold)
    by_class = kept(boxes, scores, threshold, max_output=count, classes=classes)
    assert by_class == reference_nms(boxes, scores, threshold, classes)
    assert kept(boxes, scores, threshold, max_output=3) == reference_nms(boxes, scores, threshold)[:3]


def test_an_overlap_at_the_threshold_is_kept_and_a_chain_is_followed():
    boxes = np.float32([[0, 0, 2, 1], [0, 0, 1, 1], [10, 0, 20, 1], [12, 0, 22, 1], [14, 0, 24, 1]])
    scores = np.float32([5, 4, 3, 2, 1])
    # The second of the chain is suppressed, so it does not suppress the third.
    assert kept(boxes, scores, 0.5, max_output=5) == [0, 1, 2, 4]


def test_nms_never_keeps_nan_or_padding():
    boxes = np.float32([[0, 0, np.nan, 1], [0, 0, 1, 1], [5, 5, 6, 6], [3, 3, 3, 3], [3, 3, 3, 3]])
    scores = np.float32([9, np.nan, -np.inf, 1, 2])
    assert kept(boxes, scores, 0.5, max_output=5) == [4, 3]
    assert kept(boxes[:0], scores[:0], 0.5, max_output=2) == []


def test_nms_of_a_batch_is_that_of_each():
    rng = np.random.default_rng(1)
    boxes = np.stack([random_boxes(rng, 30), random_boxes(rng, 30)]).astype(jnp.bfloat16)
    scores = rng.random((2, 30)).astype(np.float32)
    indices, valid = ops.nms(boxes, scores, 0.3, max_output=30)
    mapped, _ = jax.vmap(lambda b, s: ops.nms(b, s, 0.3, max_output=30))(boxes, scores)
    np.testing.assert_array_equal(indices, mapped)
    for k in range(2):
        assert list(np.asarray(indices[k])[np.asarray(valid[k])]) == reference_nms(boxes[k], scores[k], 0.3)


# ---------------------------------------------------------------- features of boxes


def reference_roi_align(x, boxes, size, scale, samples, aligned):
    """The loop of torchvision's csrc/ops/cpu/roi_align_kernel.cpp, in float64 and NHWC."""
    _, h, w, c = x.shape
    out = np.zeros((len(boxes), *size, c))
    for r, (image, *corners) in enumerate(boxes.astype(float)):
        x0, y0, x1, y1 = np.array(corners) * scale - (0.5 if aligned else 0)
        sides = np.array([y1 - y0, x1 - x0])
        bins = (sides if aligned else np.maximum(sides, 1)) / size
        counts = (samples, samples) if samples > 0 else tuple(int(np.ceil(side)) for side in bins)
        for p, q in np.ndindex(size):
            for i, j in np.ndindex(counts):
                y, z = (
                    begin + (place + (k + 0.5) / count) * side
                    for begin, place, k, count, side in zip((y0, x0), (p, q), (i, j), counts, bins, strict=True)
                )
                if -1 <= y <= h and -1 <= z <= w:
                    y, z = np.clip(y, 0, h - 1), np.clip(z, 0, w - 1)
                    top, left = int(y), int(z)
                    for a, b in ((0, 0), (0, 1), (1, 0), (1, 1)):
                        weight = (y - top if a else 1 - y + top) * (z - left if b else 1 - z + left)
                        pixel = x[int(image), min(top + a, h - 1), min(left + b, w - 1)]
                        out[r, p, q] += weight * pixel / max(np.prod(counts), 1)
    return out


FORMS = [(1.0, 2, False), (0.5, 2, True), (0.5, 3, False), (0.25, 0, True), (0.5, -1, False)]


@pytest.fixture(scope="module")
def features():
    rng = np.random.default_rng(2)
    inside = np.concatenate([rng.integers(0, 2, (5, 1)), random_boxes(rng, 5, 8)], 1).astype(np.float32)
    outside = np.float32([[1, -6, -3, 4, 5], [0, 3, 6, 25, 19], [0, 2, 2, 2, 2], [1, 50, 50, 60, 60]])
    return rng.standard_normal((2, 9, 10, 3)).astype(np.float32), inside, np.concatenate([inside, outside])


@pytest.mark.parametrize(("scale", "samples", "aligned"), FORMS)
def test_roi_align_is_torchvision_s_kernel(features, scale, samples, aligned):
    x, _, boxes = features
    options = {"spatial_scale": scale, "sampling_ratio": samples, "aligned": aligned}
    with jax.numpy_rank_promotion("raise"):
        ours = jax.jit(lambda x, b: ops.roi_align(x, b, (2, 3), **options))(x, boxes)
    np.testing.assert_allclose(ours, reference_roi_align(x, boxes, (2, 3), scale, samples, aligned), atol=1e-5)


@pytest.mark.parity
@pytest.mark.parametrize(("scale", "samples", "aligned"), FORMS)
def test_roi_align_and_its_gradient_are_torchvision_s_pure_form(features, torchvision_ops, scale, samples, aligned):
    torch, _ = torchvision_ops
    from importlib import import_module

    pure = import_module("torchvision.ops.roi_align")._roi_align
    pure = getattr(pure, "__wrapped__", pure)  # not compiled
    x, boxes, _ = features
    tensor = torch.tensor(x.transpose(0, 3, 1, 2).copy(), requires_grad=True)
    expected = pure(tensor, torch.tensor(boxes), scale, 2, 3, samples, aligned)
    cotangent = np.random.default_rng(3).standard_normal((5, 2, 3, 3)).astype(np.float32)
    expected.backward(torch.tensor(cotangent.transpose(0, 3, 1, 2).copy()))
    ours, pull = jax.vjp(
        lambda x: ops.roi_align(x, boxes, (2, 3), spatial_scale=scale, sampling_ratio=samples, aligned=aligned), x
    )
    np.testing.assert_allclose(ours, expected.detach().numpy().transpose(0, 2, 3, 1), atol=1e-5)
    np.testing.assert_allclose(pull(cotangent)[0], tensor.grad.numpy().transpose(0, 2, 3, 1), atol=1e-5)


def test_roi_align_of_no_image_is_zero_and_of_nan_is_nan(features):
    x, boxes, _ = features
    changed = boxes.copy()
    changed[0, 0], changed[1, 3] = -1, np.nan
    for samples in (2, 0):
        ours = ops.roi_align(x, changed, 2, sampling_ratio=samples)
        assert not ours[0].any()
        assert np.isnan(ours[1]).all()
        np.testing.assert_allclose(ours[2:], ops.roi_align(x, boxes, 2, sampling_ratio=samples)[2:], atol=1e-6)
    assert ops.roi_align(x, boxes[:0], 2).shape == (0, 2, 2, 3)


def test_roi_align_of_half_precision_rounds_once_and_maps(features):
    x, boxes, _ = features
    half = jnp.asarray(x, jnp.bfloat16)
    ours = ops.roi_align(half, boxes, 2)
    np.testing.assert_array_equal(ours, ops.roi_align(half.astype(jnp.float32), boxes, 2).astype(jnp.bfloat16))
    alone = np.concatenate([np.zeros((5, 1)), boxes[:, 1:]], 1).astype(np.float32)
    mapped = jax.vmap(lambda x: ops.roi_align(x[None], alone, 2))(x)
    for k in range(2):
        np.testing.assert_allclose(mapped[k], ops.roi_align(x[k : k + 1], alone, 2), atol=1e-6)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: ops.box_iou(jnp.zeros((2, 3)), jnp.zeros((2, 4))), "^a must be floating point"),
        (lambda: ops.box_iou(jnp.zeros((1, 2, 4)), jnp.zeros((2, 4))), "same leading axes"),
        (lambda: ops.generalized_box_iou(jnp.zeros((2, 4)), jnp.zeros((2, 4), int)), "^b must be floating point"),
        (lambda: ops.nms(jnp.zeros((2, 4)), jnp.zeros(3), 0.5, max_output=1), "^scores must be"),
        (lambda: ops.nms(jnp.zeros((2, 4)), jnp.zeros(2), 0.5, max_output=0), "^max_output must be at least 1"),
        (lambda: ops.nms(jnp.zeros((2, 4)), jnp.zeros(2), None, max_output=1), "^iou_threshold must be a number"),
        (
            lambda: ops.nms(jnp.zeros((2, 4)), jnp.zeros(2), 0.5, max_output=1, classes=jnp.zeros(2)),
            "^classes must be integers",
        ),
        (lambda: ops.roi_align(jnp.zeros((1, 4, 4, 1)), jnp.zeros((2, 4)), 2), "^boxes must be floating point"),
        (lambda: ops.roi_align(jnp.zeros((1, 4, 4, 1)), jnp.zeros((2, 5)), 0), "^output_size must be at least 1"),
    ],
)
def test_wrong_arguments_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
