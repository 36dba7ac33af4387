"""Upsampling: nearest, bilinear, bed of nails, unpooling, transposed convolution and sub-pixel layers on one image.

Lecture S0, "Upsample CNN" and "Transposed CNN" (claims F1 and F2): four ways to enlarge a feature map that have nothing
to learn, each held against its definition in NumPy; and transposed convolution, on the worked example of a 2x2 kernel,
as the gradient of a convolution, and as a layer that learns to enlarge a photograph.

    python launch.py upsampling
    python launch.py upsampling --photograph flower

Takes half a minute. Expect a learned 4x4 kernel that beats bilinear interpolation on the photograph that it
learned from; learned from "china" it does so on "flower" too, but not the other way round.
"""

from dataclasses import dataclass
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from matplotlib.figure import Figure

from cnnjax import data, ops, runs, train, viz
from cnnjax.errors import unknown_name
from cnnjax.lab.markdown import table as markdown
from cnnjax.viz import Lines, Picture
from experiments.upsampling_claims import (
    INPUT,
    KERNEL,
    PART,
    SCALE,
    SIDE,
    STEPS,
    bilinear_kernel,
    claims,
    compare,
    copies,
    from_definitions,
    greys,
    learn,
    nhwc,
    transposed,
    worked_example,
)

__all__ = ["Config", "claims", "load", "run", "table"]

GREY = (-0.5, 0.5)  # from black to white


@dataclass(frozen=True)
class Config:
    """Enlarge a photograph in every way."""

    photograph: Annotated[str, tyro.conf.arg(help=f"{' or '.join(data.PHOTOGRAPHS)}, scikit-learn's.")] = "china"

    def __post_init__(self) -> None:
        if self.photograph not in data.PHOTOGRAPHS:
            raise unknown_name("photograph", self.photograph, data.PHOTOGRAPHS)


def load(config: Config) -> dict[str, np.ndarray]:
    """Return both photographs in grey by name; the config's comes first."""
    return greys(config.photograph)


def run(config: Config, images: dict[str, np.ndarray], run: runs.Run, parallel: train.Parallel) -> dict[str, Any]:
    """Enlarge, learn, draw the figures, and return the summary."""
    image = images[config.photograph]
    enlarged, learned = gallery(image), learn(image)
    viz.save(_draw_gallery(image, enlarged), run.figures / "gallery.png")
    viz.save(_draw_definitions(), run.figures / "definitions.png")
    viz.save(_draw_worked_example(), run.figures / "transposed-convolution.png")
    viz.save(_draw_learned(image, learned), run.figures / "learned-kernel.png")
    viz.save(_draw_losses(learned, image), run.figures / "learning.png")
    return {
        "photograph": config.photograph,
        "error": {name: _error(picture, image) for name, picture in enlarged.items()},
        "twice": {name: compare(other, learned["kernel"]) for name, other in images.items()},
        "kernel": np.round(learned["kernel"], 4).tolist(),
    }


def _error(picture: np.ndarray, image: np.ndarray) -> float:
    """Root mean square error, of grey values in a range of 1."""
    return float(np.sqrt(np.square(picture - image).mean()))


# ---------------------------------------------------------------- every way to enlarge


def sub_pixel(x: jax.Array, kernel: jax.Array, scale: int) -> jax.Array:
    """Return the same as `transposed` by a convolution to scale^2 channels, which are moved to space.

    Every output pixel sees 2x2 of the 3x3 pixels around its own: the kernel's taps are spread over the channels.
    """
    taps = np.zeros((3, 3, 1, scale * scale), np.int32) - 1
    for u, v in np.ndindex(scale, scale):
        for a, b in np.ndindex(3, 3):  # output scale*i + u comes from input i + a - 1 by the kernel's row
            row, column = u + scale // 2 - scale * (a - 1), v + scale // 2 - scale * (b - 1)
            if 0 <= row < 2 * scale and 0 <= column < 2 * scale:
                taps[a, b, 0, u * scale + v] = row * 2 * scale + column
    weights = jnp.where(taps >= 0, kernel.ravel()[taps], 0)
    return ops.pixel_shuffle(ops.conv2d(x, weights, padding=1), scale)


def gallery(image: np.ndarray) -> dict[str, np.ndarray]:
    """Return the photograph, shrunk to a quarter by means (by maxima for unpooling) and enlarged in every way."""

    @jax.jit
    def enlarge(image: jax.Array) -> list[jax.Array]:
        small = ops.avg_pool2d(image, SCALE)
        largest, indices = ops.max_pool2d_with_indices(image, SCALE)
        kernel = jnp.asarray(bilinear_kernel(SCALE), jnp.float32)
        return [
            ops.upsample_nearest(small, SCALE),
            ops.upsample_bilinear(small, SCALE),
            ops.bed_of_nails(small, SCALE),
            ops.max_unpool2d(largest, indices, SIDE),
            transposed(small, kernel, SCALE),
            sub_pixel(small, kernel, SCALE),
        ]

    names = ("nearest", "bilinear", "bed of nails", "max-unpooling", "transposed convolution", "sub-pixel")
    pictures = enlarge(nhwc(image))
    return {name: np.asarray(picture)[0, ..., 0] for name, picture in zip(names, pictures, strict=True)}


# ---------------------------------------------------------------- figures


def _draw_gallery(image: np.ndarray, enlarged: dict[str, np.ndarray]) -> Figure:
    small = image.reshape(SIDE // SCALE, SCALE, SIDE // SCALE, SCALE).mean((1, 3))
    shown = [
        Picture(picture, f"{name}\nerror {_error(picture, image):.3f}", limits=GREY)
        for name, picture in enlarged.items()
    ]
    first = [Picture(image, "original", limits=GREY), Picture(small, f"shrunk {SCALE} times", limits=GREY)]
    pictures = first + shown
    half = len(pictures) // 2
    rows = {"A photograph, shrunk and enlarged again (root mean square error)": pictures[:half], "": pictures[half:]}
    return viz.picture_rows(rows, size=2.3)


def _draw_definitions() -> Figure:
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


def _draw_worked_example() -> Figure:
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


def _draw_learned(image: np.ndarray, learned: dict[str, np.ndarray]) -> Figure:
    kernel, interpolating = learned["kernel"], bilinear_kernel(2)
    options: dict[str, Any] = {"colours": "RdBu", "limits": (-1, 1), "numbers": ".2f"}
    small = jax.jit(lambda x: ops.avg_pool2d(x, 2))(nhwc(image))
    part = slice(20, 84)
    pictures = jax.jit(lambda x, k: {"bilinear": ops.upsample_bilinear(x, 2), "learned": transposed(x, k, 2)})(
        small, jnp.asarray(kernel)
    )
    rows = {
        "Kernels that enlarge twice": [
            Picture(interpolating, "bilinear interpolation", **options),
            Picture(kernel, "learned by gradient descent", **options),
            Picture(kernel - interpolating, "difference", **options),
        ],
        "What they do": [
            Picture(image[part, part], "original", limits=GREY),
            *(
                Picture(np.asarray(pictures[name])[0, part, part, 0], name, limits=GREY)
                for name in ("bilinear", "learned")
            ),
        ],
    }
    return viz.picture_rows(rows, size=2.3)


def _draw_losses(learned: dict[str, np.ndarray], image: np.ndarray) -> Figure:
    errors, steps = compare(image[PART, PART], learned["kernel"]), np.arange(STEPS)
    lines = {"transposed convolution, learning": (steps, np.sqrt(learned["losses"]))}
    lines |= {name: (steps, np.full(STEPS, errors[name])) for name in ("nearest", "bilinear")}
    styles = {"nearest": ":", "bilinear": "--"}
    labels = ("steps of Adam", "root mean square error")
    return viz.line_plots([Lines("learning to enlarge twice", labels, lines, ("linear", "log"), styles=styles)])


# ---------------------------------------------------------------- what comes out


def table(summary: dict[str, Any]) -> str:
    """Return as Markdown tables the errors of every way to enlarge."""
    errors = [(name, f"{error:.4f}") for name, error in summary["error"].items()]
    own, twice = summary["photograph"], summary["twice"]
    ways = list(twice[own])
    rows = [
        (f"{name} (learned from it)" if name == own else name, *(f"{error[way]:.4f}" for way in ways))
        for name, error in twice.items()
    ]
    first = markdown((f"enlarged {SCALE} times, {own}", "root mean square error"), errors)
    return f"{first}\n\n{markdown(('enlarged twice', *ways), rows)}"
