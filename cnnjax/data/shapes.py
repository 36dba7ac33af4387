"""Shapes: generated images of ten geometric shapes on cluttered backgrounds, with boxes, masks and outlines.

This data set needs no download. A scene is drawn in units of the image (0 to 1), so that one seed gives the same
scenes at every size. Everything in it is a polygon, and one scanline rasteriser turns polygons into anti-aliased
coverage and exact masks.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

VERSION = "1.0.0"  # increased when generate() draws other pixels for a seed
OUTLINE_POINTS = 64
MIN_CONTRAST = 0.25  # least luma difference between any object colour and any background colour, in [0, 1]

_LUMA = np.array([0.299, 0.587, 0.114])  # Rec. 601
_MARGIN = 0.02  # between the object's box and the border, as a fraction of the image
_RADIUS = (0.3, 0.46)  # of the widest class, likewise; the others are in proportion
_DISTRACTORS = 3
_NOISE_GRIDS = (4, 9, 20)  # cells across: coarse to fine value noise
_BLOCK = 100  # scenes drawn from one generator; a change of it changes the pixels
_PIXELS = 1 << 18  # rendered at a time, which bounds the memory and keeps the work in cache
_SUBROWS = 5  # scanlines per pixel row; odd, so that the middle one passes through the pixel centres


@dataclass(frozen=True, eq=False)
class Shapes:
    """N images of one object each.

    Coordinates are fractions of the image, y down: the centre of pixel i is at (i + 0.5) / size.
    """

    images: np.ndarray  # uint8 (N, size, size, 3)
    labels: np.ndarray  # int32 (N,), indices into CLASS_NAMES
    boxes: np.ndarray  # float32 (N, 4): ymin, xmin, ymax, xmax, tight around the object
    masks: np.ndarray  # bool (N, size, size): pixels whose centre lies in the object
    outlines: np.ndarray  # float32 (N, 64, 2): (y, x), evenly spaced along the outer contour, clockwise


def _arc(start: float, stop: float, count: int, radius: float = 1.0) -> np.ndarray:
    """(count, 2) points (y, x) from angle `start` up to but without `stop`, in radians; 0 is right, pi/2 is down."""
    angles = np.linspace(start, stop, count, endpoint=False)
    return radius * np.stack([np.sin(angles), np.cos(angles)], -1)


def _corners(count: int) -> np.ndarray:
    """Regular polygon in the unit circle, one corner up."""
    return _arc(-np.pi / 2, 1.5 * np.pi, count)


def _cross() -> np.ndarray:
    arm, quarter = np.array([[-1, -0.32], [-1, 0.32], [-0.32, 0.32]]), np.array([[0, -1], [1, 0]])
    return np.concatenate([arm @ np.linalg.matrix_power(quarter, k) for k in range(4)])


def _heart() -> np.ndarray:
    t = np.linspace(0, 2 * np.pi, 96, endpoint=False)
    height = 13 * np.cos(t) - 5 * np.cos(2 * t) - 2 * np.cos(3 * t) - np.cos(4 * t)
    return np.stack([-height, 16 * np.sin(t) ** 3], -1)


def _crescent() -> np.ndarray:
    """Unit disc less a disc of radius 0.8 centred 0.5 to its right: two arcs between the points where they meet."""
    x = (1 - 0.8**2 + 0.5**2) / (2 * 0.5)
    outer, inner = np.arccos(x), np.arccos((x - 0.5) / 0.8)
    bite = _arc(2 * np.pi - inner, inner, 48, radius=0.8) + np.array([0, 0.5])
    return np.concatenate([_arc(outer, 2 * np.pi - outer, 80), bite])


_OUTER = {  # closed contours in any units, clockwise as seen
    "circle": _arc(0, 2 * np.pi, 96),
    "semicircle": np.append(_arc(np.pi, 2 * np.pi, 64), [[0, 1]], axis=0),
    "ring": _arc(0, 2 * np.pi, 96),
    "crescent": _crescent(),
    "triangle": _corners(3),
    "square": _corners(4),
    "star": _corners(10) * np.tile([1.0, 0.42], 5)[:, None],
    "cross": _cross(),
    "arrow": np.array([[-1, 0], [-0.2, 0.75], [-0.2, 0.27], [1, 0.27], [1, -0.27], [-0.2, -0.27], [-0.2, -0.75]]),
    "heart": _heart(),
}
_HOLES = {"ring": _arc(0, 2 * np.pi, 64, radius=0.55)}
CLASS_NAMES = tuple(_OUTER)


def _evenly(contour: np.ndarray) -> np.ndarray:
    """(64, 2) points at equal arc length along a closed contour."""
    closed = np.concatenate([contour, contour[:1]])
    length = np.concatenate([[0], np.cumsum(np.hypot(*np.diff(closed, axis=0).T))])
    at = np.linspace(0, length[-1], OUTLINE_POINTS, endpoint=False)
    return np.stack([np.interp(at, length, closed[:, axis]) for axis in (0, 1)], -1)


def _with_hole(outer: np.ndarray, hole: np.ndarray) -> np.ndarray:
    """One closed path around both; the hole runs backwards, and the seam, run both ways, encloses nothing."""
    return np.concatenate([outer, outer[:1], hole[:1], hole[::-1]])


def _size(path: np.ndarray) -> float:
    """Geometric mean of radius and root area: classes alike in it are told apart by neither width nor area alone."""
    y, x = path.T
    area = np.sum(x * np.roll(y, -1) - y * np.roll(x, -1)) / 2
    return float(np.sqrt(np.hypot(y, x).max() * np.sqrt(area)))


def _tables() -> tuple[np.ndarray, np.ndarray]:
    """Contours (10, V, 2), padded by repeating their last vertex, and outlines (10, 64, 2); the widest has radius 1."""
    paths, outlines = [], []
    for name, outer in _OUTER.items():
        outer = outer - (outer.min(0) + outer.max(0)) / 2
        path = _with_hole(outer, _HOLES[name]) if name in _HOLES else outer
        paths.append(path / _size(path))
        outlines.append(_evenly(outer) / _size(path))
    length = max(map(len, paths))
    contours = np.stack([np.pad(path, ((0, length - len(path)), (0, 0)), mode="edge") for path in paths])
    radius = np.hypot(contours[..., 0], contours[..., 1]).max()
    return contours / radius, np.stack(outlines) / radius


_CONTOURS, _OUTLINES = _tables()


class _Scenes(NamedTuple):
    """B scenes in units of the image; colours are RGB in [0, 1]."""

    labels: np.ndarray  # (B,)
    contours: np.ndarray  # (B, V, 2)
    outlines: np.ndarray  # (B, 64, 2)
    distractors: np.ndarray  # (B, D, 64, 2)
    palette: np.ndarray  # (B, 4 + D, 3): object, object, background, background, distractors
    slope: np.ndarray  # (B, 2): gradient of the blend between the two colours of a pair
    noise: np.ndarray  # (B, G, G), samples of the noise in that blend


def _uniform(rng: np.random.Generator, low: float, high: float, *shape: int) -> np.ndarray:
    return low + (high - low) * rng.random(shape)


def _rotated(points: np.ndarray, angle: np.ndarray) -> np.ndarray:
    """Points (..., K, 2) turned by `angle` (...), in radians."""
    y, x = points[..., 0], points[..., 1]
    sin, cos = np.sin(angle)[..., None], np.cos(angle)[..., None]
    return np.stack([y * cos + x * sin, x * cos - y * sin], -1)


def _placed(rng: np.random.Generator, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Contours and outlines of one object a scene: turned, scaled and shifted at random, its box inside the margin."""
    angle, radius = _uniform(rng, 0, 2 * np.pi, len(labels)), _uniform(rng, *_RADIUS, len(labels), 1, 1)
    contours, outlines = (radius * _rotated(table[labels], angle) for table in (_CONTOURS, _OUTLINES))
    low, high = contours.min(1), contours.max(1)
    room = 1 - 2 * _MARGIN - (high - low)
    shift = (_MARGIN - low + room * rng.random(room.shape))[:, None]
    return contours + shift, outlines + shift


def _blobs(rng: np.random.Generator, *shape: int) -> np.ndarray:
    """Wobbly contours (*shape, 64, 2), r(t) = a (1 + b cos(2 t + p) + c cos(3 t + q)), too uneven to pass for discs."""
    t = np.linspace(0, 2 * np.pi, 64, endpoint=False)
    order = np.array([[2], [3]])
    size, depth = _uniform(rng, 0.06, 0.16, *shape, 1), _uniform(rng, 0.6, 1, *shape, 2, 1)
    wave = [[0.45], [0.18]] * depth * np.cos(order * t + _uniform(rng, 0, 2 * np.pi, *shape, 2, 1))
    radius = size * (1 + wave.sum(-2))
    return radius[..., None] * np.stack([np.sin(t), np.cos(t)], -1)


def _stripes(rng: np.random.Generator, *shape: int) -> np.ndarray:
    """Straight and wavy bars (*shape, 64, 2), from hairlines to beams, some longer than the image."""
    t = np.linspace(-1, 1, 32)
    length, width = _uniform(rng, 0.25, 1.0, *shape, 1), _uniform(rng, 0.008, 0.05, *shape, 1)
    sway = np.maximum(_uniform(rng, -0.1, 0.1, *shape, 1), 0)  # half of them are straight
    spine = sway * np.sin(_uniform(rng, 3, 8, *shape, 1) * t + _uniform(rng, 0, 2 * np.pi, *shape, 1))
    y = np.concatenate([spine + width, (spine - width)[..., ::-1]], -1)
    return np.stack([y, length * np.concatenate([t, t[::-1]])], -1)


def _distractors(rng: np.random.Generator, count: int) -> np.ndarray:
    shape = (count, _DISTRACTORS)
    blob = rng.random(shape) < 0.4
    contours = np.where(blob[..., None, None], _blobs(rng, *shape), _stripes(rng, *shape))
    return _rotated(contours, _uniform(rng, 0, 2 * np.pi, *shape)) + rng.random((*shape, 1, 2))


def _with_luma(colours: np.ndarray, luma: np.ndarray) -> np.ndarray:
    """Colours (..., 3) blended with black or white until their luma is `luma` (...)."""
    luma, own = luma[..., None], (colours @ _LUMA)[..., None]
    return np.where(luma < own, colours * luma / own, 1 - (1 - colours) * (1 - luma) / (1 - own))


def _palette(rng: np.random.Generator, count: int) -> np.ndarray:
    """Colours whose lumas a gap parts: object on one side, everything behind it on the other, either side at random.

    Luma is linear, so every blend of background colours stays as far from every blend of object colours.
    """
    split = _uniform(rng, 0.35, 0.65, count, 1)
    luma = (split - MIN_CONTRAST / 2) * _uniform(rng, 0.25, 1, count, 4 + _DISTRACTORS)
    luma[:, :2] = 1 - (1 - split - MIN_CONTRAST / 2) * _uniform(rng, 0.25, 1, count, 2)
    flip = rng.random((count, 1)) < 0.5
    return _with_luma(rng.random((*luma.shape, 3)), np.where(flip, 1 - luma, luma)).astype(np.float32)


def _noise(rng: np.random.Generator, count: int) -> np.ndarray:
    """Value noise (count, G, G): octaves of random cells, coarse ones the strongest, resampled to the finest grid."""
    noise = np.zeros((count, _NOISE_GRIDS[-1], _NOISE_GRIDS[-1]), np.float32)
    for octave, cells in enumerate(_NOISE_GRIDS):
        resample = _bilinear(_NOISE_GRIDS[-1], cells)
        noise += resample @ (rng.random((count, cells, cells), np.float32) - 0.5) @ resample.T / (octave + 1)
    return noise * _uniform(rng, 0.1, 1.2, count, 1, 1).astype(np.float32)


def _draw(rng: np.random.Generator) -> _Scenes:
    """A block of scenes; every run of ten holds each class once."""
    labels = rng.permuted(np.tile(np.arange(10), (_BLOCK // 10, 1)), axis=1).ravel()
    contours, outlines = _placed(rng, labels)
    angle, steep = _uniform(rng, 0, 2 * np.pi, _BLOCK), _uniform(rng, 0, 1.2, _BLOCK)
    slope = steep[:, None] * np.stack([np.sin(angle), np.cos(angle)], -1)
    clutter, palette, noise = _distractors(rng, _BLOCK), _palette(rng, _BLOCK), _noise(rng, _BLOCK)
    return _Scenes(labels, contours, outlines, clutter, palette, slope.astype(np.float32), noise)


class _Crossings(NamedTuple):
    """Where scanlines, five to a row of pixels, meet the edges of M polygons."""

    row: np.ndarray  # of pixels, counted through all M images
    middle: np.ndarray  # whether the scanline runs through the centres of that row's pixels
    x: np.ndarray  # in pixels, clipped to [0, size]
    winding: np.ndarray  # 1.0 where the edge runs down, -1.0 where it runs up


def _crossings(contours: np.ndarray, size: int) -> _Crossings:
    """Crossings of closed contours (M, V, 2), in units of the image; an edge owns its upper end and not its lower."""
    start, stop = (ends.reshape(-1, 2) * size for ends in (contours, np.roll(contours, -1, axis=1)))
    down = start[:, :1] < stop[:, :1]
    top, bottom = np.where(down, start, stop), np.where(down, stop, start)  # an edge run both ways must round alike
    first, last = (np.ceil(end[:, 0] * _SUBROWS - 0.5).clip(0, size * _SUBROWS).astype(int) for end in (top, bottom))
    counts = last - first
    edge = np.repeat(np.arange(len(counts)), counts)
    scanline = np.arange(len(edge)) + np.repeat(first - np.cumsum(counts) + counts, counts)
    with np.errstate(divide="ignore", invalid="ignore"):  # of level edges, which cross no scanline
        tilt = (bottom[:, 1] - top[:, 1]) / (bottom[:, 0] - top[:, 0])
    x = top[edge, 1] + ((scanline + 0.5) / _SUBROWS - top[edge, 0]) * tilt[edge]
    row = edge // contours.shape[1] * size + scanline // _SUBROWS
    middle = scanline % _SUBROWS == _SUBROWS // 2
    return _Crossings(row, middle, np.clip(x, 0, size), np.where(down[edge, 0], 1.0, -1.0))


def _filled(row: np.ndarray, column: np.ndarray, weights: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """(M, size, size) for shape (M, size): each weight added to its pixel and to all pixels right of it."""
    count, size = shape
    width = size + 2  # a crossing at the right border puts its weights beyond it
    grid = np.bincount(row * width + column, weights, minlength=count * size * width).reshape(count, size, width)
    return np.abs(np.cumsum(grid, axis=-1, out=grid)[..., :size])


def _coverage(cross: _Crossings, shape: tuple[int, int]) -> np.ndarray:
    """Share (M, 1, size, size) of every pixel that its polygon covers: exact along x, a mean of scanlines along y."""
    column = cross.x.astype(int)
    beyond = cross.winding * (cross.x - column) / _SUBROWS  # a crossing covers the rest of its own pixel only
    columns = np.concatenate([column, column + 1])
    weights = np.concatenate([cross.winding / _SUBROWS - beyond, beyond])
    return _filled(np.tile(cross.row, 2), columns, weights, shape).astype(np.float32)[:, None]


def _inside(cross: _Crossings, shape: tuple[int, int]) -> np.ndarray:
    """Whether the centre of every pixel (M, size, size) lies in its polygon."""
    row, x, winding = (values[cross.middle] for values in (cross.row, cross.x, cross.winding))
    return _filled(row, np.ceil(x - 0.5).astype(int), winding, shape) > 0.5


def _bilinear(size: int, cells: int) -> np.ndarray:
    """(size, cells) weights that resample `cells` samples, the outer two at the borders, at `size` pixel centres."""
    at = (np.arange(size)[:, None] + 0.5) / size * (cells - 1)
    return np.maximum(1 - np.abs(at - np.arange(cells)), 0).astype(np.float32)


def _blend(slope: np.ndarray, noise: np.ndarray, size: int) -> np.ndarray:
    """Field (M, 1, size, size) in [0, 1], a gradient plus noise: where a pixel stands between a pair of colours."""
    centre = ((np.arange(size) + 0.5) / size - 0.5).astype(np.float32)
    resample = _bilinear(size, noise.shape[1])
    ramp = slope[:, 0, None, None] * centre[:, None] + slope[:, 1, None, None] * centre
    return np.clip(ramp + resample @ noise @ resample.T + 0.5, 0, 1)[:, None]


def _mixed(under: np.ndarray, over: np.ndarray, share: np.ndarray) -> np.ndarray:
    mixed = share * (over - under)
    mixed += under
    return mixed


def _render(scenes: _Scenes, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Images uint8 (M, size, size, 3) and masks (M, size, size)."""
    shape = len(scenes.labels), size
    # Channel-first until the end: NumPy's loops over whole planes are several times as fast as over three channels.
    object_a, object_b, ground_a, ground_b, *clutter = np.moveaxis(scenes.palette, 1, 0)[..., None, None]
    blend = _blend(scenes.slope, scenes.noise, size)
    image = _mixed(ground_a, ground_b, blend)
    for k, colour in enumerate(clutter):
        image = _mixed(image, colour, _coverage(_crossings(scenes.distractors[:, k], size), shape))
    cross = _crossings(scenes.contours, size)
    image = _mixed(image, _mixed(object_a, object_b, blend), _coverage(cross, shape))
    return np.moveaxis((image * 255 + 0.5).astype(np.uint8), 1, -1), _inside(cross, shape)


def _checked(name: str, value: int, least: int) -> int:
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < least:
        raise ValueError(f"{name}={value!r}: expected an integer of at least {least}")
    return int(value)


def generate(count: int, *, size: int = 32, seed: int = 0) -> Shapes:
    """Draw `count` images of `size` x `size` pixels.

    Scene k depends on (seed, k) alone: generate(100)[:50] equals generate(50), and `size` changes the resolution, not
    the scene. Images 10 j to 10 j + 9 show each class once, in random order, so any count is balanced within one.
    Object and background differ in luma by MIN_CONTRAST or more, either of them the brighter.

    Raises ValueError unless count >= 1, size >= 16 and seed >= 0 are integers.
    """
    count, size, seed = _checked("count", count, 1), _checked("size", size, 16), _checked("seed", seed, 0)
    out = Shapes(
        images=np.empty((count, size, size, 3), np.uint8),
        labels=np.empty(count, np.int32),
        boxes=np.empty((count, 4), np.float32),
        masks=np.empty((count, size, size), np.bool_),
        outlines=np.empty((count, OUTLINE_POINTS, 2), np.float32),
    )
    step = max(1, _PIXELS // size**2)
    for first in range(0, count, _BLOCK):
        block = _draw(np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(first // _BLOCK,))))
        last = min(first + _BLOCK, count)
        for low in range(first, last, step):
            high = min(low + step, last)
            scenes = _Scenes(*(field[low - first : high - first] for field in block))
            out.images[low:high], out.masks[low:high] = _render(scenes, size)
            out.labels[low:high], out.outlines[low:high] = scenes.labels, scenes.outlines
            out.boxes[low:high] = np.concatenate([scenes.contours.min(1), scenes.contours.max(1)], -1)
    return out
