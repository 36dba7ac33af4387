"""Polygons to pixels: anti-aliased coverage and exact masks by scanlines, and fields that shade them."""

from typing import NamedTuple

import numpy as np

_SUBROWS = 5  # scanlines per pixel row; odd, so that the middle one passes through the pixel centres


class Crossings(NamedTuple):
    """Where scanlines, five to a row of pixels, meet the edges of M polygons."""

    row: np.ndarray  # of pixels, counted through all M images
    middle: np.ndarray  # whether the scanline runs through the centres of that row's pixels
    x: np.ndarray  # in pixels, clipped to [0, size]
    winding: np.ndarray  # 1.0 where the edge runs down, -1.0 where it runs up


def crossings(contours: np.ndarray, size: int) -> Crossings:
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
    return Crossings(row, middle, np.clip(x, 0, size), np.where(down[edge, 0], 1.0, -1.0))


def _filled(row: np.ndarray, column: np.ndarray, weights: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """(M, size, size) for shape (M, size): each weight added to its pixel and to all pixels right of it."""
    count, size = shape
    width = size + 2  # a crossing at the right border puts its weights beyond it
    grid = np.bincount(row * width + column, weights, minlength=count * size * width).reshape(count, size, width)
    return np.abs(np.cumsum(grid, axis=-1, out=grid)[..., :size])


def coverage(cross: Crossings, shape: tuple[int, int]) -> np.ndarray:
    """Share (M, 1, size, size) of every pixel that its polygon covers: exact along x, a mean of scanlines along y."""
    column = cross.x.astype(int)
    beyond = cross.winding * (cross.x - column) / _SUBROWS  # a crossing covers the rest of its own pixel only
    columns = np.concatenate([column, column + 1])
    weights = np.concatenate([cross.winding / _SUBROWS - beyond, beyond])
    return _filled(np.tile(cross.row, 2), columns, weights, shape).astype(np.float32)[:, None]


def inside(cross: Crossings, shape: tuple[int, int]) -> np.ndarray:
    """Whether the centre of every pixel (M, size, size) lies in its polygon."""
    row, x, winding = (values[cross.middle] for values in (cross.row, cross.x, cross.winding))
    return _filled(row, np.ceil(x - 0.5).astype(int), winding, shape) > 0.5


def bilinear(size: int, cells: int) -> np.ndarray:
    """(size, cells) weights that resample `cells` samples, the outer two at the borders, at `size` pixel centres."""
    at = (np.arange(size)[:, None] + 0.5) / size * (cells - 1)
    return np.maximum(1 - np.abs(at - np.arange(cells)), 0).astype(np.float32)


def blended(slope: np.ndarray, noise: np.ndarray, size: int) -> np.ndarray:
    """Field (M, 1, size, size) in [0, 1], a gradient plus noise: where a pixel stands between a pair of colours."""
    centre = ((np.arange(size) + 0.5) / size - 0.5).astype(np.float32)
    resample = bilinear(size, noise.shape[1])
    ramp = slope[:, 0, None, None] * centre[:, None] + slope[:, 1, None, None] * centre
    return np.clip(ramp + resample @ noise @ resample.T + 0.5, 0, 1)[:, None]


def mixed(under: np.ndarray, over: np.ndarray, share: np.ndarray) -> np.ndarray:
    """Return `under` where `share` is 0, `over` where it is 1, and a blend of both between."""
    mixed = share * (over - under)
    mixed += under
    return mixed
