"""Small arrays as grids of numbered cells, the way lectures draw a worked example: image * kernel = output."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from cnnjax.viz.figures import COLOURS

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.colors import Colormap
    from matplotlib.figure import Figure

Box = tuple[int, int, int, int]  # top, left, height, width, in cells
_GAP = 1.3  # cells between two grids, where the sign stands
_TITLE = 1.0  # cells above a row of grids
_MARGIN = 0.5  # cells around the figure
_EMPTY, _BORDER = "#F0F0F0", "#BBBBBB"


@cache
def signed() -> Colormap:
    """Return the colours of values around zero: negative ones are orange, zero is white, positive ones are blue."""
    from matplotlib.colors import LinearSegmentedColormap

    return LinearSegmentedColormap.from_list("signed", [COLOURS[1], "white", COLOURS[0]])


class Grid(NamedTuple):
    """An array drawn as cells with their values.

    Attributes:
        values: (height, width); cells that are nan are left empty.
        title: above it.
        sign: before it, such as "*" or "=".
        boxes: outlined parts of it.
        ring: width of a border of added pixels, whose cells are hatched.
        limits: least and largest value that colours distinguish; default: its own.
    """

    values: np.ndarray
    title: str = ""
    sign: str = ""
    boxes: Sequence[Box] = ()
    ring: int = 0
    limits: tuple[float, float] | None = None


def number_grids(rows: Sequence[Sequence[Grid]], *, cell: float = 0.34) -> Figure:
    """Draw rows of grids, every cell of the figure equally large.

    Positive values are blue, negative ones orange, zero is white.

    Args:
        rows: grids from left to right, for every row.
        cell: side of a cell in inches.
    """
    from matplotlib.figure import Figure

    heights = [_TITLE + max(grid.values.shape[0] for grid in row) for row in rows]
    widths = [sum(grid.values.shape[1] + _GAP for grid in row) - _GAP for row in rows]
    height, width = sum(heights) + 2 * _MARGIN, max(widths) + 2 * _MARGIN
    figure = Figure(figsize=(cell * width, cell * height))
    axes = figure.add_axes((0, 0, 1, 1))
    top = _MARGIN
    for row, row_height in zip(rows, heights, strict=True):
        tallest, left = row_height - _TITLE, _MARGIN
        for grid in row:
            y = top + _TITLE + (tallest - grid.values.shape[0]) / 2
            draw_grid(axes, grid, left=left, top=y, cell=cell)
            axes.text(left - _GAP / 2, top + _TITLE + tallest / 2, grid.sign, ha="center", va="center", fontsize=14)
            left += grid.values.shape[1] + _GAP
        top += row_height
    axes.set(xlim=(0, width), ylim=(height, 0))
    axes.set_axis_off()
    return figure


def draw_grid(axes: Axes, grid: Grid, *, left: float = 0, top: float = 0, cell: float = 0.34) -> None:
    """Draw one grid into axes that count in cells.

    Args:
        axes: y grows downwards in them.
        grid: what to draw.
        left: of its first column.
        top: of its first row.
        cell: side of a cell in inches, for the size of the letters.
    """
    from matplotlib.patches import Rectangle

    values = np.asarray(grid.values, float)
    height, width = values.shape
    colours = _colours(values, grid.limits)
    axes.imshow(colours, extent=(left, left + width, top + height, top), interpolation="nearest")
    texts = [number(value) for value in values.flat]
    # Letters are about 0.6 of their size wide; all of a grid are as large as its longest number allows.
    size = min(0.42 * cell, 0.8 * cell / (0.6 * max(1, *map(len, texts)))) * 72
    for (row, column), text in zip(np.ndindex(height, width), texts, strict=True):
        added = min(row, column, height - 1 - row, width - 1 - column) < grid.ring
        place = (left + column, top + row)
        hatch = "////" if added else None
        axes.add_patch(Rectangle(place, 1, 1, fill=False, edgecolor=_BORDER, linewidth=0.6, hatch=hatch))
        dark = colours[row, column] @ (0.3, 0.59, 0.11) < 0.55
        middle = (place[0] + 0.5, place[1] + 0.53)
        axes.text(*middle, text, ha="center", va="center", fontsize=size, color="white" if dark else "black")
    for box_top, box_left, box_height, box_width in grid.boxes:
        corner = (left + box_left, top + box_top)
        axes.add_patch(Rectangle(corner, box_width, box_height, fill=False, edgecolor="black", linewidth=2))
    axes.text(left + width / 2, top - 0.2, grid.title, ha="center", va="bottom", fontsize=min(8, 26 * cell))


def number(value: float) -> str:
    """Return a value as a cell shows it: three digits, or all before the point; nothing for nan."""
    if np.isnan(value):
        return ""
    value += 0.0  # minus zero is zero
    return (f"{value:.3g}" if abs(value) < 1000 else f"{value:.0f}").replace("-", "−")


def _colours(values: np.ndarray, limits: tuple[float, float] | None) -> np.ndarray:
    """RGB of every cell; none is so dark that its number could not be read."""
    from matplotlib.colors import Normalize, to_rgb

    low, high = limits or (np.nanmin(values, initial=0), np.nanmax(values, initial=0))
    reach = 1.25 * (max(abs(low), abs(high)) or 1)
    colours = signed()(Normalize(-reach, reach)(values))[..., :3]
    colours[np.isnan(values)] = to_rgb(_EMPTY)
    return colours
