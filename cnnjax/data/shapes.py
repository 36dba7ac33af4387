"""Shapes: generated images of ten geometric shapes on cluttered backgrounds, with boxes, masks and outlines.

This data set needs no download. A scene is drawn in units of the image (0 to 1), so that one seed gives the same
scenes at every size. Everything in it is a polygon, and one scanline rasteriser turns polygons into anti-aliased
coverage and exact masks.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from cnnjax.data.raster import bilinear, blended, coverage, crossings, inside, mixed

VERSION = "1.0.0"  # increased when generate() draws other pixels for a seed
OUTLINE_POINTS = 64
MIN_CONTRAST = 0.25  # least luma difference between any object colour and any background colour, in [0, 1]

_LUMA = np.array([0.299, 0.587, 0.114])  # Rec. 601
MARGIN = 0.02  # between the object's box and the border, as a fraction of the image
_RADIUS = (0.3, 0.46)  # of the widest class, likewise; the others are in proportion
_DISTRACTORS = 3
_NOISE_GRIDS = (4, 9, 20)  # cells across: coarse to fine value noise
BLOCK = 100  # scenes drawn from one generator; a change of it changes the pixels
PIXELS = 1 << 18  # rendered at a time, which bounds the memory and keeps the work in cache


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


CONTOURS, _OUTLINES = _tables()


class Block(NamedTuple):
    """B scenes in units of the image; colours are RGB in [0, 1]. Of several objects, an axis follows B."""

    labels: np.ndarray  # (B,)
    contours: np.ndarray  # (B, V, 2)
    outlines: np.ndarray  # (B, 64, 2)
    distractors: np.ndarray  # (B, D, 64, 2)
    palette: np.ndarray  # (B, 4 + D, 3): two of each object, background, background, distractors
    slope: np.ndarray  # (B, 2): gradient of the blend between the two colours of a pair
    noise: np.ndarray  # (B, G, G), samples of the noise in that blend


def _uniform(rng: np.random.Generator, low: float, high: float, *shape: int) -> np.ndarray:
    return low + (high - low) * rng.random(shape)


def rotated(points: np.ndarray, angle: np.ndarray) -> np.ndarray:
    """Points (..., K, 2) turned by `angle` (...), in radians."""
    y, x = points[..., 0], points[..., 1]
    sin, cos = np.sin(angle)[..., None], np.cos(angle)[..., None]
    return np.stack([y * cos + x * sin, x * cos - y * sin], -1)


def _placed(rng: np.random.Generator, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Contours and outlines of one object a scene: turned, scaled and shifted at random, its box inside the margin."""
    angle, radius = _uniform(rng, 0, 2 * np.pi, len(labels)), _uniform(rng, *_RADIUS, len(labels), 1, 1)
    contours, outlines = (radius * rotated(table[labels], angle) for table in (CONTOURS, _OUTLINES))
    low, high = contours.min(1), contours.max(1)
    room = 1 - 2 * MARGIN - (high - low)
    shift = (MARGIN - low + room * rng.random(room.shape))[:, None]
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
    return rotated(contours, _uniform(rng, 0, 2 * np.pi, *shape)) + rng.random((*shape, 1, 2))


def _with_luma(colours: np.ndarray, luma: np.ndarray) -> np.ndarray:
    """Colours (..., 3) blended with black or white until their luma is `luma` (...)."""
    luma, own = luma[..., None], (colours @ _LUMA)[..., None]
    return np.where(luma < own, colours * luma / own, 1 - (1 - colours) * (1 - luma) / (1 - own))


def _palette(rng: np.random.Generator, count: int, objects: int = 2) -> np.ndarray:
    """Colours, those of objects first, whose lumas a gap parts: objects on one side, all behind them on the other.

    Which side is the brighter is drawn at random. Luma is linear, so every blend of background colours stays as far
    from every blend of object colours.
    """
    split = _uniform(rng, 0.35, 0.65, count, 1)
    luma = (split - MIN_CONTRAST / 2) * _uniform(rng, 0.25, 1, count, objects + 2 + _DISTRACTORS)
    luma[:, :objects] = 1 - (1 - split - MIN_CONTRAST / 2) * _uniform(rng, 0.25, 1, count, objects)
    flip = rng.random((count, 1)) < 0.5
    return _with_luma(rng.random((*luma.shape, 3)), np.where(flip, 1 - luma, luma)).astype(np.float32)


def _noise(rng: np.random.Generator, count: int) -> np.ndarray:
    """Value noise (count, G, G): octaves of random cells, coarse ones the strongest, resampled to the finest grid."""
    noise = np.zeros((count, _NOISE_GRIDS[-1], _NOISE_GRIDS[-1]), np.float32)
    for octave, cells in enumerate(_NOISE_GRIDS):
        resample = bilinear(_NOISE_GRIDS[-1], cells)
        noise += resample @ (rng.random((count, cells, cells), np.float32) - 0.5) @ resample.T / (octave + 1)
    return noise * _uniform(rng, 0.1, 1.2, count, 1, 1).astype(np.float32)


def _draw(rng: np.random.Generator) -> Block:
    """A block of scenes; every run of ten holds each class once."""
    labels = rng.permuted(np.tile(np.arange(10), (BLOCK // 10, 1)), axis=1).ravel()
    return behind(rng, labels, *_placed(rng, labels))


def behind(
    rng: np.random.Generator, labels: np.ndarray, contours: np.ndarray, outlines: np.ndarray, colours: int = 2
) -> Block:
    """The scenes of objects, with so many colours for them: what is behind them is drawn here."""
    angle, steep = _uniform(rng, 0, 2 * np.pi, BLOCK), _uniform(rng, 0, 1.2, BLOCK)
    slope = steep[:, None] * np.stack([np.sin(angle), np.cos(angle)], -1)
    clutter, palette, noise = _distractors(rng, BLOCK), _palette(rng, BLOCK, colours), _noise(rng, BLOCK)
    return Block(labels, contours, outlines, clutter, palette, slope.astype(np.float32), noise)


def _render(scenes: Block, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Images uint8 (M, size, size, 3) and masks (M, size, size)."""
    shape = len(scenes.labels), size
    # Channel-first until the end: NumPy's loops over whole planes are several times as fast as over three channels.
    object_a, object_b, ground_a, ground_b, *clutter = np.moveaxis(scenes.palette, 1, 0)[..., None, None]
    blend = blended(scenes.slope, scenes.noise, size)
    image = mixed(ground_a, ground_b, blend)
    for k, colour in enumerate(clutter):
        image = mixed(image, colour, coverage(crossings(scenes.distractors[:, k], size), shape))
    cross = crossings(scenes.contours, size)
    image = mixed(image, mixed(object_a, object_b, blend), coverage(cross, shape))
    return np.moveaxis((image * 255 + 0.5).astype(np.uint8), 1, -1), inside(cross, shape)


def checked(**values: tuple[int, int]) -> list[int]:
    """Return integers, each given with the least that it may be; raise a ValueError that names another value."""
    for name, (value, least) in values.items():
        if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < least:
            raise ValueError(f"{name}={value!r}: expected an integer of at least {least}")
    return [int(value) for value, _ in values.values()]


def generate(count: int, *, size: int = 32, seed: int = 0) -> Shapes:
    """Draw `count` images of `size` x `size` pixels.

    Scene k depends on (seed, k) alone: generate(100)[:50] equals generate(50), and `size` changes the resolution, not
    the scene. Images 10 j to 10 j + 9 show each class once, in random order, so any count is balanced within one.
    Object and background differ in luma by MIN_CONTRAST or more, either of them the brighter.

    Raises ValueError unless count >= 1, size >= 16 and seed >= 0 are integers.
    """
    count, size, seed = checked(count=(count, 1), size=(size, 16), seed=(seed, 0))
    out = Shapes(
        images=np.empty((count, size, size, 3), np.uint8),
        labels=np.empty(count, np.int32),
        boxes=np.empty((count, 4), np.float32),
        masks=np.empty((count, size, size), np.bool_),
        outlines=np.empty((count, OUTLINE_POINTS, 2), np.float32),
    )
    step = max(1, PIXELS // size**2)
    for first in range(0, count, BLOCK):
        block = _draw(np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(first // BLOCK,))))
        last = min(first + BLOCK, count)
        for low in range(first, last, step):
            high = min(low + step, last)
            scenes = Block(*(field[low - first : high - first] for field in block))
            out.images[low:high], out.masks[low:high] = _render(scenes, size)
            out.labels[low:high], out.outlines[low:high] = scenes.labels, scenes.outlines
            out.boxes[low:high] = np.concatenate([scenes.contours.min(1), scenes.contours.max(1)], -1)
    return out
