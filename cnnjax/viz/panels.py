"""Rows of small pictures and of line plots: what one idea does, side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from cnnjax.viz.figures import COLOURS, blank

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_POINTS = ("x", "+", "s")  # styles that draw no line
_MOST_NUMBERS = 200  # cells that numbers are still legible in


class Picture(NamedTuple):
    """A picture with its title.

    Attributes:
        values: (height, width), or colours (height, width, 3) in [0, 1] or bytes.
        title: above it.
        colours: matplotlib's name of the colour map of values.
        limits: values of the map's ends; default: the least and the largest.
        numbers: a format, e.g. ".3g", to write the values of a small picture in its cells.
        marked: cells (height, width) to frame.
    """

    values: np.ndarray
    title: str = ""
    colours: str = "gray"
    limits: tuple[float, float] | None = None
    numbers: str = ""
    marked: np.ndarray | None = None


class Lines(NamedTuple):
    """A plot of lines, (x, y) each by label; a label that starts with "_" is not in the legend.

    Attributes:
        title: above it.
        labels: of the two axes.
        lines: the values.
        scales: of the two axes, "linear" or "log".
        markers: whether the points are marked.
        styles: matplotlib's line styles of labels that are not drawn through.
    """

    title: str
    labels: tuple[str, str]
    lines: Mapping[str, tuple[np.ndarray, np.ndarray]]
    scales: tuple[str, str] = ("linear", "linear")
    markers: bool = False
    styles: Mapping[str, str] = {}


def picture_rows(rows: Mapping[str, Sequence[Picture]], *, size: float = 1.7) -> Figure:
    """Show pictures row by row, under each row's name.

    Args:
        rows: by name; "" has none.
        size: of a picture in inches.

    Raises:
        ValueError: numbers are asked for in a picture of too many cells.
    """
    columns = max(len(pictures) for pictures in rows.values())
    heights = [size + 0.3 * (1 + any(picture.title.count("\n") for picture in row)) for row in rows.values()]
    heights = [height + 0.25 * bool(name) for height, name in zip(heights, rows, strict=True)]
    figure = blank(1.08 * size * columns, sum(heights))
    parts: list[Any] = np.atleast_1d(np.asarray(figure.subfigures(len(rows), 1, height_ratios=heights))).tolist()
    for part, (name, pictures) in zip(parts, rows.items(), strict=True):
        if name:
            part.suptitle(name, fontsize=10, x=0.01, ha="left", weight="bold")
        for number in range(columns):
            axes = part.add_subplot(1, columns, number + 1)
            axes.set_axis_off()
            if number < len(pictures):
                _show(axes, pictures[number])
    return figure


def _show(axes: Axes, picture: Picture) -> None:
    low, high = picture.limits or (None, None)
    shown = axes.imshow(picture.values, cmap=picture.colours, vmin=low, vmax=high, interpolation="nearest")
    axes.set_title(picture.title, fontsize=8.5)
    if picture.numbers:
        if picture.values.size > _MOST_NUMBERS:
            raise ValueError(f"numbers fit in at most {_MOST_NUMBERS} cells, got {picture.values.shape}")
        points = 0.5 * 72 * axes.get_window_extent().width / axes.figure.dpi / max(picture.values.shape)
        for (row, column), value in np.ndenumerate(picture.values):
            red, green, blue, _ = shown.to_rgba(value)
            ink = "black" if 0.3 * red + 0.59 * green + 0.11 * blue > 0.5 else "white"
            text = format(value, picture.numbers)
            size = min(11, points * min(1, 2.6 / len(text)))
            axes.text(column, row, text, ha="center", va="center", fontsize=size, color=ink)
    if picture.marked is not None:
        for row, column in np.argwhere(picture.marked):
            frame = (
                (column - 0.44, column + 0.44, column + 0.44, column - 0.44, column - 0.44),
                (row - 0.44, row - 0.44, row + 0.44, row + 0.44, row - 0.44),
            )
            axes.plot(*frame, color=COLOURS[1], linewidth=1.8)


def line_plots(plots: Sequence[Lines], *, size: tuple[float, float] = (4.4, 3.4)) -> Figure:
    """Draw plots side by side; a label has one colour in all of them.

    Args:
        plots: from left to right.
        size: of a plot in inches.
    """
    from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter

    figure = blank(size[0] * len(plots), size[1])
    labels = list(dict.fromkeys(label for plot in plots for label in plot.lines))
    handles: dict[str, Any] = {}
    for number, plot in enumerate(plots, 1):
        axes = figure.add_subplot(1, len(plots), number)
        for label, (x, y) in plot.lines.items():
            colour, style = COLOURS[labels.index(label) % len(COLOURS)], (plot.styles or {}).get(label, "-")
            marker = "" if style in _POINTS else "o" * plot.markers
            (handles[label],) = axes.plot(x, y, style + marker, color=colour, markersize=4, linewidth=1.6)
        (across, up), (x_scale, y_scale) = plot.labels, plot.scales
        axes.set(title=plot.title, xlabel=across, ylabel=up, xscale=x_scale, yscale=y_scale)
        for axis, scale in ((axes.xaxis, x_scale), (axes.yaxis, y_scale)):
            low, high = axis.get_view_interval()
            if scale == "log" and high < 1e3 * low:  # powers of ten alone would be few
                axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
                axis.set_major_formatter("{x:g}")
                axis.set_minor_formatter(NullFormatter())
        if all(np.issubdtype(np.asarray(x).dtype, np.integer) for x, _ in plot.lines.values()) and x_scale == "linear":
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(alpha=0.3)
    named = {label: handle for label, handle in handles.items() if not label.startswith("_")}
    figure.legend(
        named.values(),
        named.keys(),
        loc="outside lower center",
        ncols=min(len(named), 3 * len(plots)),
        fontsize=8,
        frameon=False,
    )
    return figure
