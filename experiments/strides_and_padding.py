"""Strides and padding: output sizes, which pixels are used how often, and what lies beyond the border.

Lectures S0, S1, S2, S3 and S4 (claims B3, B12, C1, C2, C3, C8, C9 and C11). Every size is the shape of what `ops`
computes; how often a pixel is used is the gradient of a convolution with ones, summed, with respect to that pixel.

    python launch.py strides-and-padding
    python launch.py strides-and-padding --size 10 --kernel 4
    python launch.py strides-and-padding --photograph flower

Takes about ten seconds. Expect a stride of 3 that leaves a row and a column of a 7x7 image unused, borders that count
less with and without padding, a photograph continued in four ways, and one that repeated convolutions shrink to
nothing. Three statements do not hold: two numbers of S0's padding example, and that padding makes all pixels count
equally.
"""

from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
import tyro

from cnnjax import geometry, runs, train, viz
from cnnjax.errors import UserError
from cnnjax.lab.markdown import table as markdown
from cnnjax.lab.worked import KERNELS, Case, correlate, output_size, uses
from cnnjax.viz import Grid
from experiments.strides_and_padding_claims import PADDING_IMAGE, PADDING_RESULT, STRIDES, claims, square

__all__ = ["Config", "claims", "load", "run", "table"]

MODES = ("zeros", "replicate", "reflect", "circular")
MARGIN = 16  # pixels that the photograph is continued by, on each side


@dataclass(frozen=True)
class Config:
    """Show what strides and padding do."""

    size: Annotated[int, tyro.conf.arg(help="Rows and columns of the image whose windows are drawn, from 1 to 12.")] = 7
    kernel: Annotated[int, tyro.conf.arg(help="Rows and columns of the windows, from 1 to --size.")] = 3
    photograph: Annotated[str, tyro.conf.arg(help="china, flower, or a path to an image file.")] = "china"

    def __post_init__(self) -> None:
        if not 1 <= self.kernel <= self.size <= 12:
            raise UserError(
                f"--size {self.size} and --kernel {self.kernel}: expected a size up to 12, and a kernel from 1 to that"
            )


def load(config: Config) -> np.ndarray:
    """Return the middle of the photograph, square, in grey."""
    return square(config.photograph)


def run(config: Config, photograph: np.ndarray, run: runs.Run, parallel: train.Parallel) -> dict[str, Any]:
    """Draw the figures, and return sizes and uses of pixels."""
    cases = [Case(config.size, config.kernel, stride) for stride in STRIDES]
    used = uses(cases)
    figures = {
        "strides": viz.number_grids(
            [[_used(case, used, f"stride {case.stride}: ") for case, used in zip(cases, used, strict=True)]]
        ),
        "pixel-utilization": viz.number_grids(_utilization()),
        "padding": viz.number_grids([_padding()]),
        "padding-modes": viz.image_grid(*_modes(photograph), len(MODES)),
        "shrinking": viz.image_grid(*_shrinking(photograph[::2, ::2]), 8),
    }
    for name, figure in figures.items():
        viz.save(figure, run.figures / f"{name}.png")
    return {
        "strides": [
            {"case": list(case), "formula": case.formula, "size": output_size(case), "uses": used.tolist()}
            for case, used in zip(cases, used, strict=True)
        ]
    }


# ---------------------------------------------------------------- figures


def _used(case: Case, used: np.ndarray, title: str) -> Grid:
    """Uses of every pixel, unused ones empty, and the windows of the first row."""
    out = output_size(case)
    boxes = [(0, column * case.stride, case.kernel, case.kernel) for column in range(out)] if case.stride > 1 else []
    limits = (0, case.kernel**2)
    return Grid(np.where(used > 0, used, np.nan), f"{title}{out}x{out}", boxes=boxes, limits=limits)


def _utilization() -> list[list[Grid]]:
    tables = [Case(1, 1), Case(3, 2), Case(5, 3)]
    padded = [Case(5, 3, padding=padding) for padding in (0, 1, 2)]
    used = uses(tables + padded)
    titles = [f"{case.kernel}x{case.kernel} on {case.size}x{case.size}" for case in tables]
    titles += [f"3x3, {name} padding" for name in ("no", "half", "full")]
    grids = [Grid(table, title, limits=(0, 9)) for table, title in zip(used, titles, strict=True)]
    return [grids[:3], grids[3:]]


def _padding() -> list[Grid]:
    ours = correlate(PADDING_IMAGE, KERNELS["vertical"], padding=1)
    wrong = [(int(row), int(column), 1, 1) for row, column in np.argwhere(ours[:2, :3] != PADDING_RESULT)]
    return [
        Grid(np.pad(PADDING_IMAGE, 1), "S0: image, padded", ring=1),
        Grid(KERNELS["vertical"], "kernel", "*"),
        Grid(ours, "result", "=", boxes=wrong),
        Grid(PADDING_RESULT, "as printed", "≠", boxes=wrong),
    ]


def _modes(photograph: np.ndarray) -> tuple[np.ndarray, list[str]]:
    """The photograph continued in every way, and blurred with that continuation."""
    point, blur = np.ones((1, 1), np.float32), np.full((17, 17), 1 / 17**2, np.float32)
    continued = [correlate(photograph, point, padding=MARGIN, padding_mode=mode) for mode in MODES]
    blurred = [correlate(photograph, blur, padding=8, padding_mode=mode) for mode in MODES]
    pictures = [
        np.pad(picture, (len(continued[0]) - len(picture)) // 2, constant_values=1)
        for picture in [*continued, *blurred]
    ]
    titles = [*MODES, *(f"17x17 blur, {mode}" for mode in MODES)]
    return np.stack([np.clip(picture, 0, 1)[..., None].repeat(3, -1) for picture in pictures]), titles


def _shrink(image: np.ndarray, kernel: np.ndarray, padding: int) -> list[np.ndarray]:
    """Return an image, and what is left of it after each convolution until the kernel does not fit or 8 are there."""
    images = [image]
    while len(images) < 8 and min(images[-1].shape) + 2 * padding >= len(kernel):
        images.append(correlate(images[-1], kernel, padding=padding))
    return images


def _shrinking(image: np.ndarray) -> tuple[np.ndarray, list[str]]:
    """Repeated 5x5 convolutions without and with padding, all drawn to one scale."""
    blur = np.outer([1, 2, 3, 2, 1], [1, 2, 3, 2, 1]).astype(np.float32) / 81
    images = [*_shrink(image, blur, 0), *_shrink(image, blur, geometry.same_padding(5))]
    pictures = [np.pad(one, (len(image) - len(one)) // 2, constant_values=1) for one in images]
    titles = [f"{len(one)}x{len(one)}" for one in images]
    return np.stack([np.clip(picture, 0, 1)[..., None].repeat(3, -1) for picture in pictures]), titles


# ---------------------------------------------------------------- what comes out


def table(summary: dict[str, Any]) -> str:
    """Return as a Markdown table what every stride makes of the image."""
    rows = []
    for result in summary["strides"]:
        size, kernel, stride, _ = result["case"]
        unused = int((np.array(result["uses"]) == 0).sum())
        rows.append(
            (f"{size}x{size}", f"{kernel}x{kernel}", stride, f"{result['formula']:.3g}", result["size"], unused)
        )
    return markdown(("image", "kernel", "stride", "(N - F) / S + 1", "output size", "unused pixels"), rows)
