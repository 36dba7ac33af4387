"""Boxes drawn over their images."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from cnnjax.viz.figures import COLOURS, blank

if TYPE_CHECKING:
    from matplotlib.figure import Figure

STYLES = ("-", "--", ":")  # of the lines of each kind of box, which are told apart without colours, too


def boxed_images(
    images: np.ndarray | Sequence[np.ndarray],
    boxes: Mapping[str, np.ndarray | Sequence[np.ndarray]],
    titles: Sequence[str] = (),
    columns: int = 6,
) -> Figure:
    """Draw images row by row with their boxes and a title each; below, which lines are which boxes.

    Args:
        images: (height, width, channels) each, bytes or floats in [0, 1]; their sizes may differ.
        boxes: by their names, such as "prediction" and "ground truth", for each image (boxes, 4): x0, y0, x1, y1 in its
            pixels, where pixel (i, j) covers the square from (i, j) to (i + 1, j + 1). A box without area is none.
        titles: of the images.
        columns: images in a row, at most.
    """
    from matplotlib.lines import Line2D
    from matplotlib.patches import Rectangle

    columns = min(columns, len(images))
    rows = math.ceil(len(images) / columns)
    figure = blank(1.9 * columns, 2.1 * rows + 0.4)
    every = list(figure.subplots(rows, columns, squeeze=False).flat)
    lines: dict[str, Any] = {
        name: {"edgecolor": COLOURS[(1, 2, 0)[k % 3]], "linestyle": STYLES[k % 3], "linewidth": 1.8}
        for k, name in enumerate(boxes)
    }
    for axes in every:
        axes.set_axis_off()
    for number, (axes, image) in enumerate(zip(every, images, strict=False)):
        picture = np.asarray(image)
        height, width = picture.shape[:2]
        axes.imshow(picture.squeeze(), cmap="gray", interpolation="nearest", extent=(0, width, height, 0))
        if titles:
            axes.set_title(titles[number], fontsize=8)
        for name, those in boxes.items():
            for x0, y0, x1, y1 in np.asarray(those[number], float).reshape(-1, 4):
                if x1 > x0 and y1 > y0:
                    axes.add_patch(Rectangle((x0, y0), x1 - x0, y1 - y0, fill=False, clip_on=False, **lines[name]))
    handles = [
        Line2D([], [], color=style["edgecolor"], linestyle=style["linestyle"], label=name)
        for name, style in lines.items()
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles), fontsize=8, frameon=False)
    return figure
