"""Convolution arithmetic: six relationships of sizes and their transposed twins, parameters, multiplications.

Lectures S0, S1 and S3 (claims C4 to C7 and C10), after Dumoulin and Visin's "A guide to convolution arithmetic for deep
learning" (2016). Formulas are compared with the shapes that `ops` gives over a grid, parameters with those of layers,
and multiplications with the input values that the outputs depend on.

    python launch.py arithmetic
    python launch.py arithmetic --size 9 --kernel 4 --stride 3 --padding 1      # your own case beside the lecture's

Takes about ten seconds. Expect every transposed convolution to lead back to the size it came from, a fully connected
layer that grows with the image while a convolution does not, and three formulas of S0 that are not right as printed:
(4) forgets to take k - 1 off, (5) and (6) lack the floor that S1 and S3 have.
"""

from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
import tyro
from matplotlib.figure import Figure

from cnnjax import runs, train, viz
from cnnjax.errors import UserError
from cnnjax.lab.markdown import table as markdown
from cnnjax.lab.worked import Case, output_size, uses
from cnnjax.viz import Grid
from cnnjax.viz.figures import COLOURS
from experiments.arithmetic_claims import RELATIONSHIPS, claims, conv_layer, dense_layer, params, transposed_size

__all__ = ["Config", "claims", "load", "run", "table"]

LARGEST = 16  # rows of a padded image that can still be drawn
SIDES = (32, 64, 128, 256, 512, 1024)


@dataclass(frozen=True)
class Config:
    """Show the arithmetic of convolutions, and of a case of your own."""

    size: Annotated[
        int, tyro.conf.arg(help=f"Rows and columns of your image (i), at least 1 and, padded, at most {LARGEST}.")
    ] = 7
    kernel: Annotated[
        int, tyro.conf.arg(help="Of your kernel (k), at least 1 and at most those of the padded image.")
    ] = 3
    stride: Annotated[int, tyro.conf.arg(help="Pixels between two windows (s), at least 1.")] = 3
    padding: Annotated[int, tyro.conf.arg(help="Pixels added on each side (p), at least 0.")] = 0

    def __post_init__(self) -> None:
        padded = self.size + 2 * self.padding
        if min(self.size, self.kernel, self.stride) < 1 or self.padding < 0 or not self.kernel <= padded <= LARGEST:
            raise UserError(
                f"--size {self.size} --kernel {self.kernel} --stride {self.stride} --padding {self.padding}: expected "
                f"numbers from 1 (padding from 0), and a padded image of at most {LARGEST} rows that the kernel fits"
            )


def load(config: Config) -> Case:
    """Return the case to add to the lecture's."""
    return Case(config.size, config.kernel, config.stride, config.padding)


def run(config: Config, yours: Case, run: runs.Run, parallel: train.Parallel) -> dict[str, Any]:
    """Draw the figures, and return sizes and parameters."""
    cases = {f"({number})": relationship.case for number, relationship in RELATIONSHIPS.items()} | {"yours": yours}
    sizes = {side: (params(conv_layer(1, 100, 10)), params(dense_layer((side, side, 1), 100))) for side in SIDES}
    viz.save(viz.number_grids(_cases(cases), cell=0.26), run.figures / "six-relationships.png")
    viz.save(_floors(), run.figures / "floor.png")
    viz.save(_explosion(sizes), run.figures / "parameters.png")
    return {
        "cases": {
            name: {
                "case": list(case),
                "unrounded": case.formula,
                "size": output_size(case),
                "back": transposed_size(case, output_size(case)),
            }
            for name, case in cases.items()
        },
        "parameters": {str(side): list(counts) for side, counts in sizes.items()},
    }


# ---------------------------------------------------------------- figures


def _cases(cases: dict[str, Case]) -> list[list[Grid]]:
    """Padded input with how often each of its pixels is used, those that never are empty; and the output."""
    grids = []
    counts = uses([Case(case.size + 2 * case.padding, case.kernel, case.stride) for case in cases.values()])
    for (name, case), used in zip(cases.items(), counts, strict=True):
        size = output_size(case)
        title = f"{name} i={case.size} k={case.kernel} s={case.stride} p={case.padding}"
        window = [(0, 0, case.kernel, case.kernel)]
        grids += [
            Grid(np.where(used > 0, used, np.nan), title, boxes=window, ring=case.padding),
            Grid(np.full((size, size), np.nan), f"o={size}", "→", boxes=[(0, 0, 1, 1)]),
        ]
    return [grids[start : start + 4] for start in range(0, len(grids), 4)]


def _floors() -> Figure:
    """Sizes that ops gives, over the formula without a floor."""
    figure = Figure(figsize=(5.6, 4), layout="constrained")
    axes = figure.add_subplot()
    sizes = range(3, 17)
    for stride in (1, 2, 3):
        cases = [Case(size, 3, stride) for size in sizes]
        colour = COLOURS[stride - 1]
        axes.plot(sizes, [case.formula for case in cases], ":", color=colour, label=f"(i - 3) / {stride} + 1")
        axes.plot(sizes, [output_size(case) for case in cases], "o", color=colour, label=f"conv2d, stride {stride}")
    axes.set(xlabel="input size i", ylabel="output size o", title="3x3 kernel: sizes are whole, formula (5) is not")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    return figure


def _explosion(sizes: dict[int, tuple[int, int]]) -> Figure:
    """Parameters of both layers against the image's side."""
    figure = Figure(figsize=(5.6, 4), layout="constrained")
    axes = figure.add_subplot()
    sides = list(sizes)
    for number, label in enumerate(("convolution, 100 filters of 10x10", "fully connected, 100 units")):
        axes.loglog(sides, [counts[number] for counts in sizes.values()], "o-", color=COLOURS[number], label=label)
    axes.set(xlabel="image's side in pixels, one channel", ylabel="parameters")
    axes.set_xticks(sides, [str(side) for side in sides])
    axes.set_xticks([], minor=True)
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    return figure


# ---------------------------------------------------------------- what comes out


def table(summary: dict[str, Any]) -> str:
    """Return every case as a Markdown table: its formula unrounded, its size, and the way back."""
    head = ("relationship", "i", "k", "s", "p", "(i + 2p - k) / s + 1", "o", "transposed back to")
    rows = [
        (name, *case["case"], f"{case['unrounded']:g}", case["size"], case["back"])
        for name, case in summary["cases"].items()
    ]
    return markdown(head, rows)
