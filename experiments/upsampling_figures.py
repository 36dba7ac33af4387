"""The figures of the experiment `upsampling`."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure

from cnnjax import ops, viz
from cnnjax.lab.worked import nhwc
from cnnjax.viz import Lines, Picture
from experiments.upsampling import (
    INPUT,
    KERNEL,
    PART,
    SCALE,
    SIDE,
    bilinear_kernel,
    compare,
    copies,
    from_definitions,
    rms_error,
    transposed,
    worked_example,
)

GREY = (-0.5, 0.5)  # from black to white


def draw(image: np.ndarray, enlarged: dict[str, np.ndarray], learned: dict[str, np.ndarray]) -> dict[str, Figure]:
    """Return every figure by its name."""
    return {
        "gallery": _gallery(image, enlarged),
        "definitions": _definitions(),
        "transposed-convolution": _worked_example(),
        "learned-kernel": _learned(image, learned),
        "learning": _losses(learned, image),
    }


def _gallery(image: np.ndarray, enlarged: dict[str, np.ndarray]) -> Figure:
    rows = SIDE // SCALE
    small = image.reshape(rows, SCALE, rows, SCALE).mean((1, 3))
    shown = [
        Picture(picture, f"{name}\nerror {rms_error(picture, image):.3f}", limits=GREY)
        for name, picture in enlarged.items()
    ]
    first = [Picture(image, "original", limits=GREY), Picture(small, f"shrunk {SCALE} times", limits=GREY)]
    pictures = first + shown
    half = len(pictures) // 2
    title = "A photograph, shrunk and enlarged again (root mean square error)"
    return viz.picture_rows({title: pictures[:half], "": pictures[half:]}, size=2.3)


def _definitions() -> Figure:
    values = np.array([[1, 2], [3, 4]])
    cells = np.array([[1, 2, 6, 3], [3, 5, 2, 1], [1, 2, 2, 1], [7, 3, 4, 8]])
    options: dict[str, Any] = {"colours": "Blues", "numbers": ".3g", "limits": (0, 12)}
    from_values, from_cells = from_definitions(values, 2), from_definitions(cells, 2)
    pooled = cells.reshape(2, 2, 2, 2).max((1, 3))
    names = ("nearest", "bilinear", "bed of nails")
    rows = {
        "Twice as large": [
            Picture(values, "input", **options),
            *(Picture(from_values[name][1], name, **options) for name in names),
        ],
        "Max-unpooling": [
            Picture(cells, "before pooling, maxima framed", marked=from_cells["max-unpooling"][0] > 0, **options),
            Picture(pooled, "max pooling", **options),
            Picture(from_cells["max-unpooling"][1], "back to the saved indices", **options),
        ],
    }
    return viz.picture_rows(rows, size=2.2)


def _worked_example() -> Figure:
    options: dict[str, Any] = {"colours": "Blues", "numbers": ".3g", "limits": (0, 16)}
    terms = [
        Picture(term, f"{value} times the kernel", **options)
        for term, value in zip(copies(), INPUT.ravel(), strict=True)
    ]
    rows = {
        "Every input adds the kernel, times its value, at its place": [
            Picture(INPUT, "input", **options),
            Picture(KERNEL, "kernel", **options),
            Picture(worked_example(), "their transposed convolution", **options),
        ],
        "The four terms of the sum": terms,
    }
    return viz.picture_rows(rows, size=2)


def _learned(image: np.ndarray, learned: dict[str, np.ndarray]) -> Figure:
    kernel, interpolating = learned["kernel"], bilinear_kernel(2)
    options: dict[str, Any] = {"colours": "RdBu", "limits": (-1, 1), "numbers": ".2f"}
    small = jax.jit(lambda x: ops.avg_pool2d(x, 2))(nhwc(image))
    part = slice(20, 84)
    learned_kernel = partial(transposed, kernel=jnp.asarray(kernel), scale=2)
    ways = {"bilinear": partial(ops.upsample_bilinear, scale=2), "learned": learned_kernel}
    pictures = jax.jit(lambda x: {name: enlarge(x) for name, enlarge in ways.items()})(small)
    rows = {
        "Kernels that enlarge twice": [
            Picture(interpolating, "bilinear interpolation", **options),
            Picture(kernel, "learned by gradient descent", **options),
            Picture(kernel - interpolating, "difference", **options),
        ],
        "What they do": [
            Picture(image[part, part], "original", limits=GREY),
            *(Picture(np.asarray(pictures[name])[0, part, part, 0], name, limits=GREY) for name in ways),
        ],
    }
    return viz.picture_rows(rows, size=2.3)


def _losses(learned: dict[str, np.ndarray], image: np.ndarray) -> Figure:
    errors = compare(image[PART, PART], learned["kernel"])
    steps = np.arange(len(learned["losses"]))
    lines = {"transposed convolution, learning": (steps, np.sqrt(learned["losses"]))}
    lines |= {name: (steps, np.full(len(steps), errors[name])) for name in ("nearest", "bilinear")}
    styles = {"nearest": ":", "bilinear": "--"}
    labels = ("steps of Adam", "root mean square error")
    return viz.line_plots([Lines("learning to enlarge twice", labels, lines, ("linear", "log"), styles=styles)])
