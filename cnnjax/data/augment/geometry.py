"""Augmentations that move pixels: one affine map per image, for its pixels, boxes, masks and keypoints alike.

Consecutive maps are multiplied before pixels are moved, so that an image is interpolated only once.

A warp gathers four neighbours of every pixel. That was the fastest of the ways tried on a CPU (128 images of 32x32x3,
in milliseconds): rotation 0.4 by gathers, 0.7 in two passes over slices, 9.7 by three shears; scaling 0.4 by
gathers, 0.9 as two products with interpolation matrices; a shift of whole pixels 0.4 by gathers, 0.2 by slices.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from cnnjax.data.augment.sample import Sample, check_images, check_interval, check_range, check_whole, labels_boxes
from cnnjax.data.objects import NO_OBJECT
from cnnjax.errors import UserError
from cnnjax.ops.cpu.fusion import stored_on_cpu

Size = tuple[int, int]  # height, width
Pair = tuple[float, float]  # least and largest


class Map(NamedTuple):
    """Where the pixels of an image come from: (N, 3, 3), input (x, y, 1) = matrix @ output (x, y, 1); output size."""

    matrix: jax.Array
    size: Size


@dataclass(frozen=True)
class Geometric:
    """An augmentation that draws an affine map for every image.

    Attributes:
        draw: returns a map per image, from a key, the number of images and their size.
        fill: value in [0, 1] of the pixels that come from outside the image.
    """

    draw: Callable[[jax.Array, int, Size], Map]
    fill: float = 0.0

    def __post_init__(self) -> None:
        check_range("fill", self.fill, 0, 1)

    def __call__(self, key: jax.Array, sample: Sample) -> Sample:
        check_images(sample)
        count, height, width, _ = sample.images.shape
        return move(sample, self.draw(key, count, (height, width)), self.fill)


def in_a_row(geometric: Sequence[Geometric], first: int) -> Geometric:
    """Return one augmentation for several with the same fill; number k draws from the key folded with first + k."""

    def draw(key: jax.Array, count: int, size: Size) -> Map:
        matrix = _matrix(count, 1, 0, 0, 0, 1, 0)
        for number, step in enumerate(geometric, first):
            drawn, size = step.draw(jax.random.fold_in(key, number), count, size)
            matrix = jnp.matmul(matrix, drawn, precision=lax.Precision.HIGHEST)
        return Map(matrix, size)

    return Geometric(draw, geometric[0].fill)


# ---------------------------------------------------------------- the augmentations


def translate(fraction: float = 0.125, fill: float = 0.0) -> Geometric:
    """Shift by whole pixels, uniform up to `fraction` (0 to 1) of the height and the width."""
    check_range("fraction", fraction, 0, 1)

    def draw(key: jax.Array, count: int, size: Size) -> Map:
        most = jnp.asarray([[int(fraction * length) for length in size]])
        y, x = jax.random.randint(key, (count, 2), -most, most + 1).T
        return Map(_matrix(count, 1, 0, -x, 0, 1, -y), size)

    return Geometric(draw, fill)


def random_crop(padding: int = 4, size: int | None = None, fill: float = 0.0) -> Geometric:
    """Pad all sides, then cut out a window at a uniform place.

    He et al. 2015, "Deep residual learning for image recognition", augment CIFAR so with padding 4; AlexNet (Krizhevsky
    et al. 2012) is trained with padding 0 and size 224 on images of 256.

    Args:
        padding: pixels on each side, at least 0.
        size: side of the window; default: height and width of the image.
        fill: value of the padding.

    Raises:
        UserError: an argument is out of range, or the window is larger than the padded image.
    """
    check_whole("padding", padding, 0)
    if size is not None:
        check_whole("size", size, 1)

    def draw(key: jax.Array, count: int, image: Size) -> Map:
        window = image if size is None else (size, size)
        room = np.asarray(image) + 2 * padding - window
        if room.min() < 0:
            raise UserError(f"size={size}: larger than images of {image} with padding={padding}")
        y, x = jax.random.randint(key, (count, 2), 0, jnp.asarray(room + 1)[None]).T - padding
        return Map(_matrix(count, 1, 0, x, 0, 1, y), window)

    return Geometric(draw, fill)


def resized_crop(scale: Pair = (0.08, 1.0), ratio: Pair = (3 / 4, 4 / 3), size: int | None = None) -> Geometric:
    """Cut out a window of random area, shape and place, and resize it (Szegedy et al. 2015, "Going deeper").

    The area is uniform in `scale` times the image's; the ratio of width to height is log-uniform in `ratio`, and
    limited so that the window fits in the image.

    Args:
        scale: least and largest share of the area, above 0 and at most 1.
        ratio: least and largest width / height, above 0.
        size: side of the result; default: height and width of the image.

    Raises:
        UserError: an argument is out of range.
    """
    check_interval("scale", scale, 0, 1)
    check_interval("ratio", ratio, 0)
    if size is not None:
        check_whole("size", size, 1)

    def draw(key: jax.Array, count: int, image: Size) -> Map:
        *keys, place_key = jax.random.split(key, 3)
        shares = window_shares(keys, count, image, scale, ratio)
        place = jax.random.uniform(place_key, (2, count)) * (1 - shares)
        return window(place, shares, image, image if size is None else (size, size))

    return Geometric(draw)


def window_shares(keys: Sequence[jax.Array], count: int, image: Size, scale: Pair, ratio: Pair) -> jax.Array:
    """Return heights and widths (2, N) of windows as shares of the image's, as `resized_crop` draws them."""
    area = jax.random.uniform(keys[0], (count,), minval=scale[0], maxval=scale[1])
    drawn = jnp.exp(jax.random.uniform(keys[1], (count,), minval=np.log(ratio[0]), maxval=np.log(ratio[1])))
    shape = jnp.clip(drawn * image[0] / image[1], area, 1 / area)  # of the window in units of the image
    return jnp.stack([jnp.sqrt(area / shape), jnp.sqrt(area * shape)])


def mirror(p: float = 0.5) -> Geometric:
    """Swap left and right with probability `p`; paired keypoints trade places."""
    check_range("p", p, 0, 1)

    def draw(key: jax.Array, count: int, size: Size) -> Map:
        flip = jax.random.bernoulli(key, float(p), (count,))
        return Map(_matrix(count, jnp.where(flip, -1, 1), 0, jnp.where(flip, size[1], 0), 0, 1, 0), size)

    return Geometric(draw)


def flip_vertical(p: float = 0.5) -> Geometric:
    """Swap top and bottom with probability `p`; this too is a mirror image, and paired keypoints trade places."""
    check_range("p", p, 0, 1)

    def draw(key: jax.Array, count: int, size: Size) -> Map:
        flip = jax.random.bernoulli(key, float(p), (count,))
        return Map(_matrix(count, 1, 0, 0, 0, jnp.where(flip, -1, 1), jnp.where(flip, size[0], 0)), size)

    return Geometric(draw)


def rotate(degrees: float = 15.0, fill: float = 0.0) -> Geometric:
    """Turn about the centre by an angle uniform in [-degrees, degrees], 0 to 180."""
    check_range("degrees", degrees, 0, 180)

    def draw(key: jax.Array, count: int, size: Size) -> Map:
        angle = jnp.deg2rad(jax.random.uniform(key, (count,), minval=-degrees, maxval=degrees))
        return turn(angle, size)

    return Geometric(draw, fill)


def rotate90() -> Geometric:
    """Turn by 0, 90, 180 or 270 degrees with equal probability; raise a UserError if the images are not square."""

    def draw(key: jax.Array, count: int, size: Size) -> Map:
        if size[0] != size[1]:
            raise UserError(f"rotate90 takes square images, got {size[0]}x{size[1]}")
        cosine, sine = jnp.asarray([[1, 0, -1, 0], [0, 1, 0, -1]])[:, jax.random.randint(key, (count,), 0, 4)]
        return _about_centre(count, cosine, sine, -sine, cosine, size)

    return Geometric(draw)


def zoom(scale: tuple[float, float] = (0.8, 1.2), fill: float = 0.0) -> Geometric:
    """Scale about the centre by a factor uniform in `scale`, above 0; more than 1 is larger."""
    check_interval("scale", scale, 0)

    def draw(key: jax.Array, count: int, size: Size) -> Map:
        step = 1 / jax.random.uniform(key, (count,), minval=scale[0], maxval=scale[1])
        return _about_centre(count, step, 0, 0, step, size)

    return Geometric(draw, fill)


# ---------------------------------------------------------------- maps


def turn(angle: jax.Array, size: Size) -> Map:
    """Return the maps that turn counter-clockwise, as seen, by angles (N,) in radians."""
    cosine, sine = jnp.cos(angle), jnp.sin(angle)
    return _about_centre(len(angle), cosine, -sine, sine, cosine, size)


def shear(x: jax.Array, y: jax.Array, size: Size) -> Map:
    """Return the maps that shift rows by x (N,) pixels for each below the centre, and columns likewise by y (N,)."""
    return _about_centre(len(x), 1, -x, -y, 1, size)


def shift(x: jax.Array, y: jax.Array, size: Size) -> Map:
    """Return the maps that shift by (x, y) pixels, each (N,)."""
    return Map(_matrix(len(x), 1, 0, -x, 0, 1, -y), size)


def window(place: jax.Array, shares: jax.Array, image: Size, out: Size) -> Map:
    """Return the maps that make windows as large as `out`.

    Their upper left corners `place` and their sides `shares`, (y, x) of every image, (2, N), are in units of the image.
    """
    (y, x), (down, across), (height, width) = place, shares, image
    return Map(_matrix(len(x), across * width / out[1], 0, x * width, 0, down * height / out[0], y * height), out)


Entry = jax.Array | float


def _matrix(count: int, *entries: Entry) -> jax.Array:
    """(count, 3, 3) of two rows of entries, each a number or (count,), and (0, 0, 1)."""
    every = [jnp.broadcast_to(jnp.asarray(entry, jnp.float32), (count,)) for entry in (*entries, 0, 0, 1)]
    return jnp.stack(every, -1).reshape(count, 3, 3)


def _about_centre(count: int, xx: Entry, xy: Entry, yx: Entry, yy: Entry, size: Size) -> Map:
    y, x = size[0] / 2, size[1] / 2
    return Map(_matrix(count, xx, xy, x - xx * x - xy * y, yx, yy, y - yx * x - yy * y), size)


# ---------------------------------------------------------------- moving


def move(sample: Sample, map: Map, fill: float) -> Sample:
    """Move images, boxes, masks and keypoints by one map per image.

    Images are read as `PIL.Image.transform` reads them with BILINEAR (no antialiasing: shrink them little), masks as
    with NEAREST. A box becomes the box around its four corners, cut off at the border; it becomes (0, 0, 0, 0), with
    label -1, where its centre leaves the image, or less than `sample.box_share` of its area stays. A keypoint that
    leaves the image becomes invisible.
    """
    labels, boxes, masks, keypoints = sample.labels, sample.boxes, sample.masks, sample.keypoints
    if boxes is not None:
        boxes = _move_boxes(boxes, map, sample.box_share)
        if labels is not None and labels_boxes(sample):
            labels = jnp.where((boxes[..., 2:] > boxes[..., :2]).all(-1), labels, NO_OBJECT)
    return replace(
        sample,
        images=stored_on_cpu(lambda images: _read_bilinear(images, map, fill), sample.images),
        labels=labels,
        boxes=boxes,
        masks=None if masks is None else _read_nearest(masks, map, sample.mask_fill),
        instances=None if sample.instances is None else _read_nearest(sample.instances, map, 0),
        keypoints=None if keypoints is None else _move_keypoints(keypoints, map, sample.keypoint_pairs),
    )


def _sources(map: Map, height: int, width: int) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Where every output pixel's centre lies in the input: x, y and whether that is inside, (N, *size) each."""
    columns, rows = jnp.arange(map.size[1])[None, None] + 0.5, jnp.arange(map.size[0])[None, :, None] + 0.5
    (xx, xy, x), (yx, yy, y) = (jnp.moveaxis(map.matrix[:, row], -1, 0)[..., None, None] for row in (0, 1))
    x, y = xx * columns + xy * rows + x, yx * columns + yy * rows + y
    return x, y, (x >= 0) & (x < width) & (y >= 0) & (y < height)


def _gather(planes: jax.Array, x: jax.Array, y: jax.Array) -> jax.Array:
    """Values (N, *size, C) of planes (N, H, W, C) at whole x and y (N, *size), clamped to the border."""
    count, height, width, channels = planes.shape
    column, row = (jnp.clip(at, 0, last).astype(jnp.int32) for at, last in ((x, width - 1), (y, height - 1)))
    index = (row * width + column).reshape(count, math.prod(x.shape[1:]), 1)
    pixels = planes.reshape(count, height * width, channels)
    # The index is clipped already; the default mode would compare and select again.
    return jnp.take_along_axis(pixels, index, axis=1, mode="promise_in_bounds").reshape(*x.shape, channels)


def _read_bilinear(images: jax.Array, map: Map, fill: float) -> jax.Array:
    x, y, inside = _sources(map, *images.shape[1:3])
    left, top = jnp.floor(x - 0.5), jnp.floor(y - 0.5)
    right_share, bottom_share = x - 0.5 - left, y - 0.5 - top
    corners = (
        (left, top, (1 - right_share) * (1 - bottom_share)),
        (left + 1, top, right_share * (1 - bottom_share)),
        (left, top + 1, (1 - right_share) * bottom_share),
        (left + 1, top + 1, right_share * bottom_share),
    )
    # Weights of 0 outside, and not a select around the sum, which takes twice as long on a CPU.
    read = sum(_gather(images, at_x, at_y) * jnp.where(inside, weight, 0)[..., None] for at_x, at_y, weight in corners)
    return (read + jnp.where(inside, 0, fill)[..., None]).astype(images.dtype)


def _read_nearest(masks: jax.Array, map: Map, fill: int) -> jax.Array:
    x, y, inside = _sources(map, *masks.shape[1:3])
    read = _gather(masks[..., None], jnp.floor(x), jnp.floor(y))[..., 0]
    return jnp.where(inside, read, jnp.asarray(fill, masks.dtype))


def _move_points(points: jax.Array, map: Map) -> jax.Array:
    """Where points (N, P, 2), each (x, y), go: the inverse of the map."""
    (xx, xy, x), (yx, yy, y) = (map.matrix[:, row, :, None].transpose(1, 0, 2) for row in (0, 1))
    across, down = points[..., 0] - x, points[..., 1] - y
    return jnp.stack([yy * across - xy * down, xx * down - yx * across], -1) / _determinant(map)[:, None, None]


def _determinant(map: Map) -> jax.Array:
    return map.matrix[:, 0, 0] * map.matrix[:, 1, 1] - map.matrix[:, 0, 1] * map.matrix[:, 1, 0]


def _move_boxes(boxes: jax.Array, map: Map, least: float) -> jax.Array:
    corners = boxes[..., [0, 1, 2, 1, 0, 3, 2, 3]].reshape(len(boxes), 4 * boxes.shape[1], 2)
    moved = _move_points(corners, map).reshape(*boxes.shape[:2], 4, 2)
    border = jnp.asarray(map.size[::-1], moved.dtype)[None, None]
    whole_low, whole_high, centre = moved.min(2), moved.max(2), moved.mean(2)
    low, high = jnp.clip(whole_low, 0, border), jnp.clip(whole_high, 0, border)
    given = (boxes[..., 2:] > boxes[..., :2]).all(-1)  # turned, a line would have an area
    inside = ((centre > 0) & (centre < border)).all(-1)
    large = jnp.prod(high - low, -1) >= least * jnp.prod(whole_high - whole_low, -1)
    left = given & inside & large & (high > low).all(-1)
    return jnp.where(left[..., None], jnp.concatenate([low, high], -1), 0).astype(boxes.dtype)


def _move_keypoints(keypoints: jax.Array, map: Map, pairs: Sequence[tuple[int, int]]) -> jax.Array:
    moved = _move_points(keypoints[..., :2], map)
    border = jnp.asarray(map.size[::-1], moved.dtype)[None, None]
    inside = ((moved >= 0) & (moved < border)).all(-1)
    placed = jnp.concatenate([moved, jnp.where(inside, keypoints[..., 2], 0)[..., None]], -1)
    partner = np.arange(keypoints.shape[1])
    for left, right in pairs:
        partner[left], partner[right] = right, left
    reflected = _determinant(map) < 0
    return jnp.where(reflected[:, None, None], placed[:, partner], placed).astype(keypoints.dtype)
