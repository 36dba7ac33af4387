"""Masks in colours: alone, over their image, and side by side for several networks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from cnnjax.viz.figures import COLOURS, blank

if TYPE_CHECKING:
    from matplotlib.figure import Figure

VOID = 255  # of a pixel without a class


def palette(classes: int = 256) -> np.ndarray:
    """Return a colour for each class, uint8 (classes, 3): class 0 is black, and all differ clearly.

    The bits of a class's number, from the lowest, go to the highest bits of red, green and blue in turn, as in the
    masks of PASCAL VOC (Everingham et al. 2010).
    """
    numbers, colours = np.arange(classes), np.zeros((classes, 3), int)
    for bit in range(8):
        for channel in range(3):
            colours[:, channel] |= (numbers >> (3 * bit + channel) & 1) << (7 - bit)
    return colours.astype(np.uint8)


def coloured(mask: np.ndarray, colours: np.ndarray | None = None) -> np.ndarray:
    """Return a mask (..., height, width) as colours, uint8 (..., height, width, 3); white where there is no class."""
    colours = palette() if colours is None else colours
    table = np.full((256, 3), 255, np.uint8)
    table[: min(len(colours), VOID)] = colours[:VOID]
    return np.asarray(table[np.asarray(mask)])


def overlaid(image: np.ndarray, mask: np.ndarray, colours: np.ndarray | None = None, share: float = 0.55) -> np.ndarray:
    """Return an image of bytes with its mask over it; class 0 and pixels without a class leave it as it is.

    Args:
        image: (..., height, width, channels), 1 or 3 of them.
        mask: (..., height, width).
        colours: of the classes.
        share: of the mask's colour in a pixel.
    """
    shown = np.broadcast_to(np.asarray(image, np.float32), (*np.shape(mask), 3))
    blend = (1 - share) * shown + share * coloured(mask, colours)
    there = ((np.asarray(mask) != 0) & (np.asarray(mask) != VOID))[..., None]
    return np.rint(np.where(there, blend, shown)).astype(np.uint8)


def segmentations(
    images: np.ndarray, masks: Mapping[str, np.ndarray], class_names: Sequence[str], colours: np.ndarray | None = None
) -> Figure:
    """Draw a row for each image: the image, and its masks by their names; below, the colours of the classes.

    Args:
        images: (count, height, width, channels), bytes or floats in [0, 1].
        masks: by their titles, (count, height, width) each, of any size.
        class_names: what class k is called.
        colours: of the classes.
    """
    from matplotlib.patches import Patch

    colours = palette(max(len(class_names), 2)) if colours is None else colours
    count, height, width = np.shape(images)[:3]
    side = 2.0
    figure = blank(side * width / height * (1 + len(masks)), side * count + 0.6)
    grid = np.atleast_2d(figure.subplots(count, 1 + len(masks), squeeze=False))
    for row, image in zip(grid, np.asarray(images), strict=True):
        row[0].imshow(image.squeeze(), cmap="gray", interpolation="nearest")
    for column, (title, those) in enumerate(masks.items(), 1):
        grid[0, column].set_title(title, fontsize=9)
        for row, mask in zip(grid, those, strict=True):
            row[column].imshow(coloured(mask, colours), interpolation="nearest")
    grid[0, 0].set_title("image", fontsize=9)
    for axes in grid.flat:
        axes.set_axis_off()
    seen = np.unique(np.concatenate([np.unique(those) for those in masks.values()]))
    handles = [Patch(facecolor=colours[k] / 255, edgecolor="gray", label=class_names[k]) for k in seen if k != VOID]
    if (seen == VOID).any():
        handles.append(Patch(facecolor="white", edgecolor="gray", label="no class"))
    columns = max(1, int(side * width / height * (1 + len(masks)) / 1.1))
    figure.legend(handles=handles, loc="outside lower center", ncols=columns, fontsize=8, frameon=False)
    return figure


def class_bars(title: str, shares: Mapping[str, float]) -> Figure:
    """Draw a bar for each class, from 0 to 1, with its number; a class without one (nan) has a dash."""
    figure = blank(5.6, 0.28 * len(shares) + 0.9)
    axes = figure.add_subplot()
    values = np.array(list(shares.values()), float)
    axes.barh(range(len(values)), np.nan_to_num(values), color=COLOURS[0])
    for row, value in enumerate(values):
        axes.text(np.nan_to_num(value) + 0.01, row, "-" if np.isnan(value) else f"{value:.2f}", va="center", fontsize=8)
    axes.set_yticks(range(len(values)), list(shares), fontsize=8)
    axes.set(title=title, xlim=(0, 1.1))
    axes.invert_yaxis()
    return figure
