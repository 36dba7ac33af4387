"""Figures: pure functions from arrays to matplotlib figures, and one way to save them."""

from cnnjax.viz.figures import (
    confusion_matrices,
    curves,
    image_grid,
    kernels,
    option_effect,
    ratio_bars,
    save,
    tradeoff,
)

__all__ = ["confusion_matrices", "curves", "image_grid", "kernels", "option_effect", "ratio_bars", "save", "tradeoff"]
