"""Anchors, encoded boxes and matches of detectors: pure functions with static shapes, to be traced into a step.

Boxes are x0, y0, x1, y1 in pixels. Targets of an image are padded: `valid` says which boxes there are.
"""

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from cnnjax.ops import box_iou

BELOW, BETWEEN = -1, -2  # of `match_by_iou`: background, and neither background nor an object
LARGEST_LOG = math.log(1000 / 16)  # of a decoded size, before its exponential

# ---------------------------------------------------------------- anchors


def grid_anchors(
    image_size: tuple[int, int],
    grids: Sequence[tuple[int, int]],
    sizes: Sequence[Sequence[float]],
    ratios: Sequence[Sequence[float]],
) -> np.ndarray:
    """Return the anchors of all levels as torchvision's `AnchorGenerator`, (sum of rows * columns * kinds, 4), float32.

    A kind is a size s and a ratio r = height / width: a box of width s / sqrt(r) and height s sqrt(r), its corners
    rounded, at every cell's top left corner; sizes change fastest, then ratios, columns, rows.

    Args:
        image_size: (height, width) in pixels.
        grids: (rows, columns) of the feature map of each level.
        sizes: of each level, in pixels.
        ratios: of each level.

    Raises:
        ValueError: not as many grids, sizes and ratios.
    """
    _same_lengths(grids, sizes=sizes, ratios=ratios)
    levels = []
    for grid, size, ratio in zip(grids, sizes, ratios, strict=True):
        root = np.sqrt(np.asarray(ratio, np.float32))
        length = np.asarray(size, np.float32)
        widths, heights = (np.outer(factor, length).ravel() for factor in (1 / root, root))
        kinds = np.round(np.stack([-widths, -heights, widths, heights], 1) / 2)
        y, x = (np.arange(cells) * (pixels // cells) for cells, pixels in zip(grid, image_size, strict=True))
        corners = np.stack([*np.meshgrid(x, y)] * 2, -1).reshape(-1, 1, 4)
        levels.append((corners + kinds[None]).reshape(-1, 4))
    return np.concatenate(levels).astype(np.float32)


def default_boxes(
    image_size: tuple[int, int],
    grids: Sequence[tuple[int, int]],
    ratios: Sequence[Sequence[float]],
    *,
    scales: Sequence[float] = (),
    lowest: float = 0.15,
    highest: float = 0.9,
    steps: Sequence[float] = (),
    clip: bool = True,
) -> np.ndarray:
    """Return the default boxes of SSD as torchvision's `DefaultBoxGenerator`, (sum of rows * columns * kinds, 4).

    The kinds of level k with scale s_k are squares of s_k and sqrt(s_k s_{k+1}), and for every ratio r boxes of
    s_k sqrt(r) by s_k / sqrt(r), wide and tall, in shares of the image, around the middle of each cell.

    Args:
        image_size: (height, width) in pixels.
        grids: (rows, columns) of the feature map of each level.
        ratios: of each level, besides 1.
        scales: one more than levels; by default from `lowest` to `highest` in equal steps, and 1.
        lowest: the first scale.
        highest: the last level's scale.
        steps: pixels between the cells of each level; by default the image's size over the grid's.
        clip: limit widths and heights to the image's.

    Raises:
        ValueError: not as many grids, ratios and steps, or not one scale more.

    Source: Liu et al., "SSD" (2016).
    """
    _same_lengths(grids, ratios=ratios, **({"steps": steps} if steps else {}))
    count = len(grids)
    if not scales:
        between = [lowest + (highest - lowest) * k / (count - 1) for k in range(count)] if count > 1 else []
        scales = [*between, 1.0] if between else [lowest, highest]
    if len(scales) != count + 1:
        raise ValueError(f"scales must be one more than grids, {count + 1}, got {len(scales)}")
    size = np.array(image_size[::-1], np.float32)
    levels = []
    for k, (rows, columns) in enumerate(grids):
        middle = math.sqrt(scales[k] * scales[k + 1])
        kinds = [(scales[k], scales[k]), (middle, middle)]
        for ratio in ratios[k]:
            long, short = scales[k] * math.sqrt(ratio), scales[k] / math.sqrt(ratio)
            kinds += [(long, short), (short, long)]
        shares = np.asarray(kinds, np.float32)
        half = 0.5 * (np.clip(shares, 0, 1) if clip else shares)
        cells = (image_size[1] / steps[k], image_size[0] / steps[k]) if steps else (columns, rows)
        x, y = ((np.arange(n) + 0.5) / cell for n, cell in zip((columns, rows), cells, strict=True))
        middles = np.stack(np.meshgrid(x, y), -1).reshape(-1, 1, 2).astype(np.float32)
        levels.append(np.concatenate([(middles - half) * size, (middles + half) * size], -1).reshape(-1, 4))
    return np.concatenate(levels)


# ---------------------------------------------------------------- codes


def encode(boxes: jax.Array, anchors: jax.Array, weights: Sequence[float] = (1, 1, 1, 1)) -> jax.Array:
    """Return `(wx dx / w, wy dy / h, ww log(w' / w), wh log(h' / h))`: boxes as seen from anchors of size (w, h).

    Args:
        boxes: (..., 4), of size (w', h'); (dx, dy) is from the anchor's centre to the box's.
        anchors: (..., 4), with an area. A box without area is encoded as if it were 1e-6 pixels wide or high, where
            torchvision's `BoxCoder` gives -inf.
        weights: (wx, wy, ww, wh).
    """
    (centre, size), (own, extent) = _centre_size(boxes), _centre_size(anchors)
    factors = jnp.asarray(weights, boxes.dtype)
    moved = (centre - own) / extent
    scaled = jnp.log(jnp.maximum(size, 1e-6) / extent)
    return jnp.concatenate([moved, scaled], -1) * _as_last(factors, boxes.ndim)


def decode(codes: jax.Array, anchors: jax.Array, weights: Sequence[float] = (1, 1, 1, 1)) -> jax.Array:
    """Return the boxes that `encode` has encoded; sizes grow at most by 1000 / 16, as with torchvision's `BoxCoder`.

    Args:
        codes: (..., 4).
        anchors: (..., 4).
        weights: as of `encode`.
    """
    own, extent = _centre_size(anchors)
    codes = codes / _as_last(jnp.asarray(weights, codes.dtype), codes.ndim)
    centre = own + codes[..., :2] * extent
    half = 0.5 * jnp.exp(jnp.minimum(codes[..., 2:], LARGEST_LOG)) * extent
    return jnp.concatenate([centre - half, centre + half], -1)


def encode_sides(boxes: jax.Array, anchors: jax.Array) -> jax.Array:
    """Return how far the sides of boxes are from anchors' centres: left, top, right, bottom, in sizes of the anchor.

    As FCOS (torchvision's `BoxLinearCoder`); negative where the centre is outside of the box.

    Args:
        boxes: (..., 4).
        anchors: (..., 4).
    """
    own, extent = _centre_size(anchors)
    return jnp.concatenate([(own - boxes[..., :2]) / extent, (boxes[..., 2:] - own) / extent], -1)


def decode_sides(codes: jax.Array, anchors: jax.Array) -> jax.Array:
    """Return the boxes that `encode_sides` has encoded.

    Args:
        codes: (..., 4).
        anchors: (..., 4).
    """
    own, extent = _centre_size(anchors)
    return jnp.concatenate([own - codes[..., :2] * extent, own + codes[..., 2:] * extent], -1)


def clip_boxes(boxes: jax.Array, image_size: tuple[int, int]) -> jax.Array:
    """Return boxes (..., 4) cut at the borders of an image of (height, width); NaN stays."""
    height, width = image_size
    most = jnp.asarray([width, height, width, height], boxes.dtype)
    return jnp.clip(boxes, 0, _as_last(most, boxes.ndim))


# ---------------------------------------------------------------- matches


def match_by_iou(
    boxes: jax.Array, valid: jax.Array, anchors: jax.Array, *, high: float, low: float, low_quality: bool = False
) -> jax.Array:
    """Return which box each anchor is to learn, as torchvision's `Matcher`.

    An anchor gets the box with the highest IoU, the first of equal ones, if that is at least `high`; else it is
    `BELOW` `low`, background, or `BETWEEN` the two, and left out of the loss.

    Args:
        boxes: of one image, padded, (boxes, 4).
        valid: which boxes there are, (boxes,). Boxes with NaN or without area match nothing.
        anchors: (anchors, 4).
        high: the least IoU of a match.
        low: the least IoU of an anchor that is not background.
        low_quality: anchors whose IoU with some box is the highest that this box has, get the box that they overlap
            with most, whatever the thresholds; a box that overlaps with no anchor gets none.

    Returns:
        indices into `boxes`, `BELOW` or `BETWEEN`, (anchors,). Without boxes all are `BELOW`.
    """
    usable = _usable(boxes, valid)
    if not len(boxes):
        return jnp.full(anchors.shape[0], BELOW, jnp.int32)
    quality = jnp.where(usable[:, None], box_iou(boxes, anchors), -1)
    best, match = quality.max(0), quality.argmax(0).astype(jnp.int32)
    chosen = jnp.where(best >= high, match, jnp.where(best >= low, BETWEEN, BELOW))
    if low_quality:
        most = quality.max(1, keepdims=True)
        chosen = jnp.where(((quality == most) & (most > 0)).any(0), match, chosen)
    return jnp.where(best < 0, BELOW, chosen)


def match_by_best(boxes: jax.Array, valid: jax.Array, anchors: jax.Array, *, threshold: float) -> jax.Array:
    """Return which box each anchor is to learn, as torchvision's `SSDMatcher`.

    As `match_by_iou` with one threshold, and the best anchor of each box gets it; of several such boxes the last.

    Args:
        boxes: of one image, padded, (boxes, 4).
        valid: which boxes there are, (boxes,).
        anchors: (anchors, 4).
        threshold: the least IoU of a match.

    Returns:
        indices into `boxes`, or `BELOW`, (anchors,).
    """
    matches = match_by_iou(boxes, valid, anchors, high=threshold, low=threshold)
    if not len(boxes):
        return matches
    usable = _usable(boxes, valid)
    best = jnp.where(usable, jnp.where(usable[:, None], box_iou(boxes, anchors), -1).argmax(1), -1)
    theirs = best[:, None] == jnp.arange(anchors.shape[0])[None, :]
    last = jnp.where(theirs, jnp.arange(len(boxes))[:, None], -1).max(0)
    return jnp.where(last >= 0, last, matches)


def match_by_centre(
    boxes: jax.Array, valid: jax.Array, anchors: jax.Array, levels: Sequence[int], *, radius: float = 1.5
) -> jax.Array:
    """Return which box each point of FCOS is to learn, as torchvision's `FCOS` matches.

    A box fits an anchor whose centre is in the box, nearer to the box's centre than `radius` anchors in x and y, and
    whose farthest side is 4 to 8 anchors away; the first level also takes nearer, the last one farther sides. Of
    several that fit the smallest is taken, the first of equal ones; torchvision rounds areas to 8 square pixels.

    Args:
        boxes: of one image, padded, (boxes, 4).
        valid: which boxes there are, (boxes,).
        anchors: squares, (anchors, 4), level after level.
        levels: how many anchors each level has.
        radius: of centre sampling, in sizes of the anchor.

    Returns:
        indices into `boxes`, or `BELOW`, (anchors,).

    Raises:
        ValueError: the levels have not as many anchors as there are.

    Source: Tian et al., "FCOS" (2019, 2020).
    """
    if sum(levels) != len(anchors):
        raise ValueError(f"levels must add up to the number of anchors, {len(anchors)}, got {tuple(levels)}")
    if not len(boxes):
        return jnp.full(anchors.shape[0], BELOW, jnp.int32)
    points, sizes = (anchors[:, :2] + anchors[:, 2:]) / 2, anchors[:, 2] - anchors[:, 0]
    places = jnp.arange(len(anchors))
    least = jnp.where(places < levels[0], 0, sizes * 4)
    most = jnp.where(places >= len(anchors) - levels[-1], jnp.inf, sizes * 8)
    points, centres = points[:, None, :], ((boxes[:, :2] + boxes[:, 2:]) / 2)[None]
    near = jnp.abs(points - centres).max(-1) < radius * sizes[:, None]
    sides = jnp.concatenate([points - boxes[None, :, :2], boxes[None, :, 2:] - points], -1)
    farthest = sides.max(-1)
    fits = near & (sides.min(-1) > 0) & (farthest > least[:, None]) & (farthest < most[:, None])
    areas = jnp.prod(boxes[:, 2:] - boxes[:, :2], -1)
    areas = jnp.where(fits & _usable(boxes, valid)[None, :], areas[None, :], jnp.inf)
    return jnp.where(areas.min(1) < jnp.inf, areas.argmin(1), BELOW).astype(jnp.int32)


# ---------------------------------------------------------------- parts


def _same_lengths(grids: Sequence[object], **lists: Sequence[object]) -> None:
    lengths = {"grids": len(grids)} | {name: len(values) for name, values in lists.items()}
    if len(set(lengths.values())) > 1:
        raise ValueError(f"every level needs one of each, got {lengths}")


def _centre_size(boxes: jax.Array) -> tuple[jax.Array, jax.Array]:
    size = boxes[..., 2:] - boxes[..., :2]
    return boxes[..., :2] + 0.5 * size, size


def _as_last(vector: jax.Array, axes: int) -> jax.Array:
    return vector.reshape((1,) * (axes - 1) + vector.shape)


def _usable(boxes: jax.Array, valid: jax.Array) -> jax.Array:
    """Return which boxes there are, and have an area; false of NaN."""
    return valid & (boxes[:, 2:] > boxes[:, :2]).all(-1)
