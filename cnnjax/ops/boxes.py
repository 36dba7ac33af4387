"""Boxes (x0, y0, x1, y1): their overlap, which of several to keep, and the features inside them.

Everything has static shapes and runs as a few array operations. Half precision is computed in float32: an area of
float16 overflows at 256 x 256.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
from jax import lax

from cnnjax.ops import arguments
from cnnjax.ops.arguments import Ints, Pair
from cnnjax.ops.precision import wide

if TYPE_CHECKING:
    from jaxtyping import Array, Bool, Float, Int

TILE = 256  # boxes of `nms` that are compared with all others at once
CHUNK = 64  # boxes of `roi_align` in one matrix product


def box_iou(a: Float[Array, "... n 4"], b: Float[Array, "... m 4"]) -> Float[Array, "... n m"]:
    """Return the intersection over union of every pair, `|a_i & b_j| / |a_i | b_j|`, as `torchvision.ops.box_iou`.

    Two boxes without any area have 0, where torchvision has NaN; NaN in a box makes its values NaN.

    Args:
        a: boxes (..., n, 4), x0, y0, x1, y1; leading axes are those of `b`.
        b: boxes (..., m, 4).

    Raises:
        ValueError: wrong shapes or dtype.
    """
    a, b = _boxes("a", a), _boxes("b", b)
    intersection, union = _intersection_union(a.astype(wide(a.dtype)), b.astype(wide(b.dtype)))
    return _ratio(intersection, union).astype(jnp.result_type(a, b))


def generalized_box_iou(a: Float[Array, "... n 4"], b: Float[Array, "... m 4"]) -> Float[Array, "... n m"]:
    """Return `IoU - (|hull| - |union|) / |hull|` of every pair; hull is the smallest box around both.

    It is in (-1, 1], and has a gradient where boxes are apart. Pairs whose hull has no area have 0, where
    `torchvision.ops.generalized_box_iou` has NaN; NaN in a box makes its values NaN.

    Args:
        a: boxes (..., n, 4), x0, y0, x1, y1; leading axes are those of `b`.
        b: boxes (..., m, 4).

    Raises:
        ValueError: wrong shapes or dtype.

    Source: Rezatofighi et al., "Generalized intersection over union" (2019).
    """
    a, b = _boxes("a", a), _boxes("b", b)
    one, other = a.astype(wide(a.dtype)), b.astype(wide(b.dtype))
    intersection, union = _intersection_union(one, other)
    one, other = one[..., :, None, :], other[..., None, :, :]
    sides = jnp.maximum(one[..., 2:], other[..., 2:]) - jnp.minimum(one[..., :2], other[..., :2])
    hull = _area(sides)
    return (_ratio(intersection, union) - _ratio(hull - union, hull)).astype(jnp.result_type(a, b))


def nms(
    boxes: Float[Array, "... n 4"],
    scores: Float[Array, "... n"],
    iou_threshold: float,
    *,
    max_output: int,
    classes: Int[Array, "... n"] | None = None,
) -> tuple[Int[Array, "... k"], Bool[Array, "... k"]]:
    """Return which boxes non-maximum suppression keeps, in decreasing order of scores.

    A box is kept unless a kept one of a higher score has an IoU above `iou_threshold` with it; of equal scores the
    first counts as higher. The choice and order are those of `torchvision.ops.nms`, and with `classes` those of
    `batched_nms`, which compares boxes of one class only. A box with NaN, a score of NaN or of -inf is never kept:
    padding takes -inf. Boxes without area overlap with none.

    Args:
        boxes: (..., n, 4), x0, y0, x1, y1; each leading index is a set of its own.
        scores: (..., n).
        iou_threshold: boxes with a larger IoU are suppressed.
        max_output: k, how many indices are returned.
        classes: integers (..., n).

    Returns:
        indices (..., k), int32, 0 where there are fewer kept boxes, and whether each is a kept box, (..., k).
        Neither has a gradient.

    Raises:
        ValueError: wrong shapes or dtypes, or `max_output` below 1.
    """
    boxes = lax.stop_gradient(_boxes("boxes", boxes))
    scores = lax.stop_gradient(jnp.asarray(scores))
    if scores.shape != boxes.shape[:-1] or not jnp.issubdtype(scores.dtype, jnp.floating):
        raise ValueError(
            f"scores must be floating point of shape {boxes.shape[:-1]}, one per box, got {scores.dtype} of shape "
            f"{scores.shape}"
        )
    classes = jnp.zeros(scores.shape, jnp.int32) if classes is None else jnp.asarray(classes)
    if classes.shape != scores.shape or not jnp.issubdtype(classes.dtype, jnp.integer):
        raise ValueError(
            f"classes must be integers of shape {scores.shape}, one per box, got {classes.dtype} of shape "
            f"{classes.shape}"
        )
    threshold = arguments.real("iou_threshold", iou_threshold)
    max_output = arguments.integer("max_output", max_output, 1)
    choose = partial(_choose, threshold=threshold, max_output=max_output)
    for _ in boxes.shape[:-2]:
        choose = jax.vmap(choose)
    return choose(boxes.astype(wide(boxes.dtype)), scores, classes)


def roi_align(
    x: Float[Array, "n h w c"],
    boxes: Float[Array, "r 5"],
    output_size: Ints,
    *,
    spatial_scale: float = 1.0,
    sampling_ratio: int = 2,
    aligned: bool = False,
) -> Float[Array, "r oh ow c"]:
    """Return the features inside boxes: of every bin the mean of values interpolated at regular points.

    As torchvision's compiled `roi_align`: points up to a pixel outside of the map take its border, those farther out
    are 0. The interpolation is a product with a matrix for the rows and one for the columns of every box, so its
    gradient needs no scatter; its cost grows with the number of images, so with as many boxes in every image use
    `jax.vmap`, each image with its own boxes.

    Args:
        x: features (images, height, width, channels). A value that is not finite spreads to all boxes.
        boxes: (r, 5): the image's index, and x0, y0, x1, y1 in the pixels of the image. An index of no image, as -1,
            gives zeros; NaN in a box gives NaN. They get no gradient, as in torchvision.
        output_size: bins (vertical, horizontal).
        spatial_scale: pixels of the map per pixel of the image.
        sampling_ratio: points per bin along each axis; 0 or less takes `ceil(size of a bin)`, at most the map's size.
        aligned: shift boxes by half a pixel, so that coordinates are those of pixels' corners. Without it, boxes have
            at least a size of 1; with it, a box without area gives the values on it, or 0 if `sampling_ratio` <= 0.

    Raises:
        ValueError: wrong shapes or dtypes, or an output size below 1.

    Source: He et al., "Mask R-CNN" (2017).
    """
    x = arguments.image("x", x)
    boxes = lax.stop_gradient(jnp.asarray(boxes))
    if boxes.ndim != 2 or boxes.shape[1] != 5 or not jnp.issubdtype(boxes.dtype, jnp.floating):
        raise ValueError(
            "boxes must be floating point of shape (boxes, 5): image, x0, y0, x1, y1, got "
            f"{boxes.dtype} of shape {boxes.shape}"
        )
    size = arguments.pair("output_size", output_size, 1)
    scale = arguments.real("spatial_scale", spatial_scale, positive=True)
    aligned = arguments.flag("aligned", aligned)
    samples = arguments.integer("sampling_ratio", sampling_ratio, -arguments.LARGEST_INTEGER)
    n, h, w, c = x.shape
    if 0 in (n, boxes.shape[0]):
        return jnp.zeros((boxes.shape[0], *size, c), x.dtype)
    precise = wide(jnp.result_type(x, boxes))
    image, corners = boxes[:, 0].astype(jnp.int32), boxes[:, 1:].astype(precise) * scale
    offset = 0.5 if aligned else 0.0
    axes = [(corners[:, k] - offset, corners[:, 2 + k] - offset) for k in (0, 1)]
    columns = _bin_weights(*axes[0], (size[1], w), samples, aligned)
    rows = _bin_weights(*axes[1], (size[0], h), samples, aligned)
    own = image[:, None] == jnp.arange(n)[None]
    rows = jnp.where(own[:, None, :, None], rows[:, :, None, :], 0).reshape(-1, size[0], n * h)
    flat = x.astype(precise).reshape(n * h, w * c)

    def pool(weights: tuple[jax.Array, jax.Array]) -> jax.Array:
        row, column = weights
        strips = jnp.matmul(row, flat, precision="highest").reshape(size[0], w, c)
        return jnp.einsum("qw,pwc->pqc", column, strips, precision="highest")

    return lax.map(pool, (rows, columns), batch_size=CHUNK).astype(x.dtype)


# ---------------------------------------------------------------- parts


def _boxes(name: str, boxes: Any) -> jax.Array:
    boxes = jnp.asarray(boxes)
    if boxes.ndim < 2 or boxes.shape[-1] != 4 or not jnp.issubdtype(boxes.dtype, jnp.floating):
        raise ValueError(
            f"{name} must be floating point of shape (..., boxes, 4): x0, y0, x1, y1, got {boxes.dtype} of shape "
            f"{boxes.shape}"
        )
    return boxes


def _area(sides: jax.Array) -> jax.Array:
    """Return the product of two sides, negative ones taken as 0; NaN stays."""
    sides = jnp.where(sides < 0, 0, sides)
    return sides[..., 0] * sides[..., 1]


def _ratio(part: jax.Array, whole: jax.Array) -> jax.Array:
    """Return `part / whole`, and 0 of nothing, without a NaN in the gradient."""
    return jnp.where(whole == 0, 0, part / jnp.where(whole == 0, 1, whole))


def _intersection_union(a: jax.Array, b: jax.Array) -> tuple[jax.Array, jax.Array]:
    one, other = a[..., :, None, :], b[..., None, :, :]
    if a.shape[:-2] != b.shape[:-2]:
        raise ValueError(f"a and b must have the same leading axes, got shapes {a.shape} and {b.shape}")
    sides = jnp.minimum(one[..., 2:], other[..., 2:]) - jnp.maximum(one[..., :2], other[..., :2])
    intersection = _area(sides)
    areas = [(box[..., 2] - box[..., 0]) * (box[..., 3] - box[..., 1]) for box in (one, other)]
    return intersection, areas[0] + areas[1] - intersection


def _choose(
    boxes: jax.Array, scores: jax.Array, classes: jax.Array, *, threshold: float, max_output: int
) -> tuple[jax.Array, jax.Array]:
    """Suppress one set of boxes, a tile of the sorted boxes after the other.

    Inside a tile, the kept boxes are the fixed point of "no kept box before it overlaps with it": each round settles
    at least one more box, and usually a few rounds settle all.
    """
    count = scores.shape[0]
    usable = (scores > -jnp.inf) & ~jnp.isnan(boxes).any(-1)
    order = jnp.argsort(jnp.where(usable, -scores, jnp.inf), stable=True)
    extra = -count % TILE
    boxes, classes = (jnp.pad(a[order], ((0, extra),) + ((0, 0),) * (a.ndim - 1)) for a in (boxes, classes))
    alive = jnp.pad(usable[order], (0, extra))
    earlier = jnp.arange(TILE)[None, :] < jnp.arange(TILE)[:, None]

    def suppress(tile: jax.Array, alive: jax.Array) -> jax.Array:
        start = tile * TILE
        own, kinds, mine = (lax.dynamic_slice_in_dim(a, start, TILE) for a in (boxes, classes, alive))
        overlaps = (box_iou(boxes, own) > threshold) & (classes[:, None] == kinds[None, :])
        inside = lax.dynamic_slice_in_dim(overlaps, start, TILE) & earlier

        def settle(state: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
            kept, _ = state
            new = mine & ~(inside & kept[None, :]).any(-1)
            return new, (new != kept).any()

        kept, _ = lax.while_loop(lambda state: state[1], settle, (mine, mine.any()))
        later = jnp.arange(count + extra) >= start + TILE
        alive = alive & ~(later & (overlaps & kept[None, :]).any(-1))
        return lax.dynamic_update_slice_in_dim(alive, kept, start, 0)

    alive = lax.fori_loop(0, (count + extra) // TILE, suppress, alive) if count else alive
    (places,) = jnp.nonzero(alive, size=max_output, fill_value=0)
    valid = jnp.arange(max_output) < alive.sum()
    indices = order[places] if count else jnp.zeros(max_output, jnp.int32)
    return jnp.where(valid, indices, 0).astype(jnp.int32), valid


def _bin_weights(start: jax.Array, end: jax.Array, sizes: Pair, samples: int, aligned: bool) -> jax.Array:
    """Return how much each pixel of an axis counts in each bin of each box, (boxes, bins, pixels)."""
    bins, pixels = sizes
    length = end - start
    if not aligned:
        length = jnp.maximum(length, 1)
    width = length / bins
    most = samples if samples > 0 else pixels
    number = jnp.full_like(width, samples) if samples > 0 else jnp.clip(jnp.ceil(width), 0, pixels)
    used = jnp.arange(most)[None, :] < number[:, None]
    used |= jnp.isnan(number)[:, None]
    steps = (jnp.arange(most, dtype=width.dtype)[None, :] + 0.5) * (width / jnp.maximum(number, 1))[:, None]
    offsets = start[:, None] + jnp.arange(bins, dtype=width.dtype)[None, :] * width[:, None]
    points = offsets[:, :, None] + steps[:, None, :]
    used = used[:, None, :] & ~((points < -1) | (points > pixels))
    near = jnp.clip(points, 0, pixels - 1)[..., None] - jnp.arange(pixels, dtype=width.dtype)[None, None, None]
    weights = jnp.where(used[..., None], jnp.maximum(1 - jnp.abs(near), 0), 0)
    return weights.sum(2) / jnp.maximum(number, 1)[:, None, None]
