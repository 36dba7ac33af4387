"""The figures that experiments share. Colours are Okabe & Ito's, which colour-blind readers can tell apart."""

from __future__ import annotations

import errno
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:  # matplotlib takes half a second to import: it is imported where a figure is made
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.text import Annotation
    from matplotlib.transforms import Bbox

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
_DPI = 150


class Curve(NamedTuple):
    """Values an epoch: (epochs,), or (runs, epochs) for a mean and the band between its extremes."""

    label: str
    values: np.ndarray
    colour: int
    style: str = "-"


def blank(width: float, height: float) -> Figure:
    """Return an empty figure of this size in inches."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def save(figure: Figure, path: Path) -> None:
    """Write a figure as PNG, making its folder.

    Raises:
        OSError: it cannot be written; names the file.
    """
    path.parent.mkdir(exist_ok=True)
    try:
        figure.savefig(path, dpi=_DPI, facecolor="white")
    except OSError as error:  # which names no file, or has no number
        raise OSError(error.errno or errno.EIO, error.strerror or str(error), str(path)) from error


def image_grid(images: np.ndarray, titles: Sequence[str], columns: int) -> Figure:
    """Show images (count, height, width, 3), uint8 or in [0, 1], row by row with a title each."""
    rows = math.ceil(len(images) / columns)
    figure = blank(1.6 * columns, 1.8 * rows)
    for axes, image, title in zip(_grid(figure, rows, columns), images, titles, strict=False):
        axes.imshow(image.squeeze(), cmap="gray", interpolation="nearest")
        axes.set_title(title, fontsize=9)
    return figure


def curves(panels: Mapping[str, Sequence[Curve]]) -> Figure:
    """Draw a panel for every quantity, with its curves over the epochs."""
    from matplotlib.ticker import MaxNLocator

    figure = blank(5.2 * len(panels), 4)
    for number, (title, lines) in enumerate(panels.items(), 1):
        axes = figure.add_subplot(1, len(panels), number)
        for line in lines:
            runs = np.atleast_2d(line.values)
            epochs = np.arange(1, runs.shape[1] + 1)
            colour = COLOURS[line.colour % len(COLOURS)]
            axes.plot(epochs, runs.mean(0), line.style, color=colour, label=line.label, linewidth=1.6)
            if len(runs) > 1:
                axes.fill_between(epochs, runs.min(0), runs.max(0), color=colour, alpha=0.15, linewidth=0)
        axes.set(title=title, xlabel="epoch")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(alpha=0.3)
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=min(len(labels), 4), fontsize=8, frameon=False)
    return figure


def confusion_matrices(matrices: Mapping[str, np.ndarray], class_names: Sequence[str]) -> Figure:
    """Draw how images of each class (row) were classified (column), as shares of the row."""
    figure = blank(5.6 * len(matrices), 5.4)
    for number, (title, counts) in enumerate(matrices.items(), 1):
        axes = figure.add_subplot(1, len(matrices), number)
        shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
        axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
        ticks = range(len(class_names))
        axes.set_xticks(ticks, class_names, rotation=60, ha="right", fontsize=8)
        axes.set_yticks(ticks, class_names, fontsize=8)
        axes.set(title=title, xlabel="predicted", ylabel="true")
        if len(class_names) <= 20:
            for (row, column), share in np.ndenumerate(shares):
                colour = "white" if share > 0.55 else "black"
                axes.text(column, row, f"{share:.0%}"[:-1], ha="center", va="center", fontsize=7, color=colour)
    return figure


def tradeoff(points: Mapping[str, tuple[float, float]], hollow: Mapping[str, tuple[float, float]]) -> Figure:
    """Draw accuracy against parameters: filled points for our runs, hollow ones for a reference."""
    figure = blank(5.6, 4)
    axes = figure.add_subplot()
    for number, (label, (params, accuracy)) in enumerate(points.items()):
        axes.plot(params / 1e6, 100 * accuracy, "o", color=COLOURS[number], markersize=10, label=label)
    for number, (label, (params, accuracy)) in enumerate(hollow.items()):
        axes.plot(
            params / 1e6, 100 * accuracy, "o", color=COLOURS[number], markersize=14, fillstyle="none", label=label
        )
    axes.set(xlabel="parameters (millions)", ylabel="test accuracy (%)", xlim=(0, None))
    axes.margins(0.15)
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    return figure


def bubbles(points: Mapping[str, tuple[float, float, float]]) -> Figure:
    """Draw accuracy against multiply-adds, each network's area its parameters, as Canziani et al. (2016) do.

    Args:
        points: by network, billions of multiply-adds, accuracy in percent, and millions of parameters.
    """
    figure = blank(10, 6)
    axes = figure.add_subplot()
    families = dict.fromkeys(re.split(r"\d", name)[0].rstrip("_") for name in points)
    colours = {family: COLOURS[number % len(COLOURS)] for number, family in enumerate(families)}
    labels = []
    for name, (gmacs, accuracy, params) in sorted(points.items(), key=lambda item: -item[1][2]):
        colour = colours[re.split(r"\d", name)[0].rstrip("_")]
        axes.scatter(gmacs, accuracy, s=8 * params, color=colour, alpha=0.45, linewidths=0)
        labels.append(
            axes.annotate(
                name,
                (gmacs, accuracy),
                (0, 0),
                textcoords="offset points",
                fontsize=6,
                ha="center",
                va="center",
                arrowprops={"arrowstyle": "-", "linewidth": 0.4, "shrinkA": 0, "shrinkB": 0},
            )
        )
    for params in (1, 10, 100):
        axes.scatter([], [], s=8 * params, color="grey", alpha=0.45, label=f"{params} million parameters")
    axes.set(xscale="log", xlabel="multiply-adds of an image (10^9)", ylabel="published top-1 accuracy on ImageNet (%)")
    axes.xaxis.set_major_formatter("{x:g}")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8, loc="lower right", labelspacing=1.4, borderpad=1.2, handletextpad=1.6)
    _part(figure, labels)
    return figure


def _part(figure: Figure, labels: Sequence[Annotation]) -> None:
    """Move labels up or down, each as little as it takes to lie on none of those before it."""
    from matplotlib.text import Text

    figure.draw_without_rendering()  # before the first drawing the layout is unknown
    taken: list[Bbox] = []
    for label in labels:
        box = Text.get_window_extent(label)
        rows = sorted(range(-len(labels), len(labels) + 1), key=abs)
        moves = ((row * box.height, box.translated(0, row * box.height)) for row in rows)
        move, free = next((move, place) for move, place in moves if not any(map(place.overlaps, taken)))
        label.xyann = (0, move * 72 / figure.dpi)
        taken.append(free)


def option_effect(option: str, values: Sequence[str], lines: Mapping[str, np.ndarray], metric: str) -> Figure:
    """Draw a metric against the values of an option, a line for every label: the mean of its runs and their range.

    Args:
        option: its name.
        values: as they were written; if all are numbers, their axis is one of numbers.
        lines: by label, (runs, values), nan for what is missing.
        metric: its name.
    """
    figure = blank(6.4, 4)
    axes = figure.add_subplot()
    try:
        places = np.array([float(value) for value in values])
    except ValueError:
        places = np.arange(float(len(values)))
    if places.min() > 0 and places.max() >= 10 * places.min():
        axes.set_xscale("log")
    order = np.argsort(places)
    for number, (label, runs) in enumerate(lines.items()):
        known = np.ma.masked_invalid(runs[:, order])
        colour = COLOURS[number % len(COLOURS)]
        axes.plot(places[order], known.mean(0), "o-", color=colour, label=label, linewidth=1.6)
        if len(runs) > 1:
            axes.fill_between(places[order], known.min(0), known.max(0), color=colour, alpha=0.15, linewidth=0)
    axes.set(xlabel=option, ylabel=metric)
    axes.set_xticks(places, values)
    axes.set_xticks([], minor=True)
    axes.grid(alpha=0.3)
    if any(lines):
        axes.legend(fontsize=8)
    return figure


def ratio_bars(labels: Sequence[str], ratios: Mapping[str, Sequence[float]], title: str) -> Figure:
    """Draw a horizontal bar for every label and contender on a logarithmic axis, from 1 outwards."""
    from matplotlib.ticker import LogLocator, NullFormatter

    figure = blank(8, 0.32 * len(labels) + 1.2)
    axes = figure.add_subplot()
    places = np.arange(len(labels))
    height = 0.8 / len(ratios)
    for number, (contender, values) in enumerate(ratios.items()):
        offset = (number - (len(ratios) - 1) / 2) * height
        heights = np.asarray(values) - 1
        colour = COLOURS[len(ratios) - 1 - number]
        bars = axes.barh(places + offset, heights, height, left=1, color=colour, label=contender)
        axes.bar_label(bars, [f"{value:.3g}" for value in values], padding=2, fontsize=6)
    axes.axvline(1, color="black", linewidth=1)
    axes.set(xscale="log", xlabel=title)
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.margins(x=0.1, y=0.02)
    axes.set_yticks(places, labels, fontsize=8)
    axes.invert_yaxis()
    axes.grid(axis="x", alpha=0.3)
    figure.legend(loc="outside upper center", ncols=len(ratios), fontsize=8, frameon=False)
    return figure


def kernels(weights: np.ndarray, columns: int = 8) -> Figure:
    """Show the kernels (height, width, 3, out) of a first layer as colour pictures, each stretched to its range."""
    low, high = weights.min((0, 1, 2)), weights.max((0, 1, 2))
    pictures = ((weights - low) / np.maximum(high - low, 1e-12)).transpose(3, 0, 1, 2)
    rows = math.ceil(len(pictures) / columns)
    figure = blank(0.9 * columns, 0.95 * rows)
    for axes, picture in zip(_grid(figure, rows, columns), pictures, strict=False):
        axes.imshow(picture.squeeze(), cmap="gray", interpolation="nearest")
    return figure


def _grid(figure: Figure, rows: int, columns: int) -> list[Axes]:
    every = [figure.add_subplot(rows, columns, number + 1) for number in range(rows * columns)]
    for axes in every:
        axes.set_axis_off()
    return every
