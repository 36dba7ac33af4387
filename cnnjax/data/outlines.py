"""Outlines of objects to pixels: polygons and run lengths, as COCO's JSON has them."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from cnnjax.data.objects import Size
from cnnjax.data.raster import crossings, inside


def drawn(outlines: Sequence[Any], size: Size, numbers: Sequence[int]) -> np.ndarray:
    """Return the map of the objects of an image, uint16 of `size`: k + 1 for object k, smaller ones in front.

    Args:
        outlines: of every object: polygons, or run lengths.
        size: (height, width).
        numbers: by which messages call the objects.

    Raises:
        ValueError: an object has no outline, or one that cannot be read.
    """
    masks = []
    for outline, number in zip(outlines, numbers, strict=True):
        try:
            masks.append(mask_of(outline, size))
        except ValueError as error:
            raise ValueError(f"its object {number} {error}") from None
    instances = np.zeros(size, np.uint16)
    areas = [mask.sum() for mask in masks]
    for number in np.argsort(areas, kind="stable")[::-1]:
        instances[masks[number]] = number + 1
    return instances


def mask_of(outline: Any, size: Size) -> np.ndarray:
    """Return whether an object covers the centre of every pixel of `size`, (height, width).

    Args:
        outline: polygons, each a list x, y, x, y, ..., which the mask unites; or run lengths of pixels by columns,
            first those outside, `{"size": [height, width], "counts": ...}`, as numbers or in COCO's string.

    Raises:
        ValueError: it is none of these, or of another size.
    """
    if not outline:
        raise ValueError("has no segmentation: expected polygons or run lengths, or load boxes alone")
    if isinstance(outline, dict):
        return _runs(outline, size)
    mask = np.zeros(size, bool)
    for polygon in outline if isinstance(outline, list) else [outline]:
        if not isinstance(polygon, list) or len(polygon) < 6 or len(polygon) % 2:
            raise ValueError(f"has the polygon {str(polygon)[:60]}: expected x, y of at least three points")
        corners = np.asarray(polygon, np.float64).reshape(-1, 2)
        if not np.isfinite(corners).all():
            raise ValueError("has a polygon whose points are not finite numbers")
        low = np.clip(np.floor(corners.min(0)), 0, size[::-1]).astype(int)
        high = np.clip(np.ceil(corners.max(0)), low, size[::-1]).astype(int)
        width, height = high - low
        side = max(width, height, 1)
        at = (corners - low)[None, :, ::-1] / side  # (y, x) in units of a square, which may begin at any pixel
        mask[low[1] : high[1], low[0] : high[0]] |= inside(crossings(at, side), (1, side))[0, :height, :width]
    return mask


def _runs(outline: dict[str, Any], size: Size) -> np.ndarray:
    counts = outline.get("counts")
    numbers = _unpacked(counts) if isinstance(counts, str) else counts
    given = tuple(outline.get("size") or ())
    if given != size:
        raise ValueError(f"has run lengths of size {given}: expected (height, width) of the image, {size}")
    if not isinstance(numbers, list) or sum(numbers) != size[0] * size[1] or min(numbers) < 0:
        raise ValueError(f"has run lengths that do not fill its {size[1]}x{size[0]} pixels")
    return np.repeat(np.arange(len(numbers)) % 2 == 1, numbers).reshape(size[::-1]).T


def _unpacked(text: str) -> list[int]:
    """Run lengths of COCO's string: five bits a character, the lowest first; from the fourth, less the last but one.

    Source: `rleFrString` in maskApi.c of cocoapi.
    """
    counts, value, shift = list[int](), 0, 0
    for character in text:
        code = ord(character) - 48
        value |= (code & 31) << shift
        shift += 5
        if not code & 32:
            if code & 16:
                value -= 1 << shift
            counts.append(value + counts[-2] if len(counts) > 2 else value)
            value, shift = 0, 0
    return counts
