"""Figures: pure functions from arrays to matplotlib figures, and animations of sliding kernels, and their files."""

from cnnjax.viz.animation import save_animation, slide
from cnnjax.viz.boxes import boxed_images
from cnnjax.viz.figures import (
    bubbles,
    confusion_matrices,
    curves,
    image_grid,
    kernels,
    option_effect,
    ratio_bars,
    save,
    tradeoff,
)
from cnnjax.viz.grids import Grid, draw_grid, number_grids
from cnnjax.viz.masks import class_bars, coloured, overlaid, palette, segmentations
from cnnjax.viz.panels import Lines, Picture, line_plots, picture_rows

__all__ = [
    "Grid",
    "Lines",
    "Picture",
    "boxed_images",
    "bubbles",
    "class_bars",
    "coloured",
    "confusion_matrices",
    "curves",
    "draw_grid",
    "image_grid",
    "kernels",
    "line_plots",
    "number_grids",
    "option_effect",
    "overlaid",
    "palette",
    "picture_rows",
    "ratio_bars",
    "save",
    "save_animation",
    "segmentations",
    "slide",
    "tradeoff",
]
