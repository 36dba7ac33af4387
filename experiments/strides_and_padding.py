"""Strides and padding: output sizes, which pixels are used how often, and what lies beyond the border.

Lectures S0, S1, S2, S3 and S4 (claims B3, B12, C1, C2, C3, C8, C9 and C11). Every size is the shape of an output of
`ops`; how often a pixel is used is the gradient of a summed convolution with ones with respect to that pixel.

    python launch.py strides-and-padding
    python launch.py strides-and-padding --size 10 --kernel 4
    python launch.py strides-and-padding --photograph flower

Takes about ten seconds. Expect a stride of 3 that leaves a row and a column of a 7x7 image unused, border pixels that
are used less often with and without padding, a photograph continued in four ways, and one that repeated convolutions
shrink to nothing. Wrong are two numbers of S0's padding example, and that with padding all pixels count equally.
"""

from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np

from cnnjax import geometry, runs, train, viz
from cnnjax.errors import UserError
from cnnjax.lab import markdown
from cnnjax.lab.claims import ROUNDING, Claim, check, erratum
from cnnjax.lab.worked import KERNELS, Case, correlate, distance, grey, output_size, parse, s0_sum, show, uses
from cnnjax.options import Checked, Count, within
from cnnjax.viz import Grid

MODES = ("zeros", "replicate", "reflect", "circular")
MARGIN = 16  # pixels by which each side of the photograph is continued
STRIDES = (1, 2, 3)
# S0 and S4, "Padding": the image, and the six numbers of the result that the slide prints.
PADDING_IMAGE = parse("3 3 4 4 7 0/9 7 6 5 8 2/6 5 5 6 9 2/7 1 3 2 7 8/0 3 7 1 8 3/4 0 4 3 2 2")
PADDING_RESULT = parse("-10 -13 1/-9 3 0")


@dataclass(frozen=True)
class Config(Checked):
    """Show what strides and padding do."""

    size: Annotated[int, within(1, 12)] = 7
    """Rows and columns of the image whose windows are drawn."""
    kernel: Count = 3
    """Rows and columns of the windows, at most those of the image."""
    photograph: str = "china"
    """china, flower, or a path to an image file."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.kernel > self.size:
            raise UserError(f"`kernel` must be at most `size={self.size}`, got {self.kernel}")


def load(config: Config) -> np.ndarray:
    """Return the middle of the photograph in grey."""
    return square(config.photograph)


def square(photograph: str, side: int = 64) -> np.ndarray:
    """Return the middle of a photograph in grey, (side, side)."""
    picture = grey(photograph, side)
    margin = max(0, picture.shape[1] - side) // 2
    return picture[:, margin : margin + side]


def run(config: Config, photograph: np.ndarray, run: runs.Run, parallel: train.Parallel) -> dict[str, Any]:
    """Draw the figures, and return sizes and uses of pixels."""
    cases = [Case(config.size, config.kernel, stride) for stride in STRIDES]
    used = uses(cases)
    strides = [_used(case, count, f"stride {case.stride}: ") for case, count in zip(cases, used, strict=True)]
    figures = {
        "strides": viz.number_grids([strides]),
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
    """How often every pixel is used (empty: never), and the windows of the first row."""
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
    """The photograph continued in every mode, and blurred with that padding."""
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
    """Return an image and its repeated convolutions, until the kernel does not fit or there are 8 images."""
    images = [image]
    while len(images) < 8 and min(images[-1].shape) + 2 * padding >= len(kernel):
        images.append(correlate(images[-1], kernel, padding=padding))
    return images


def _shrinking(image: np.ndarray) -> tuple[np.ndarray, list[str]]:
    """Repeated 5x5 convolutions without and with padding, all drawn at the same scale."""
    blur = np.outer([1, 2, 3, 2, 1], [1, 2, 3, 2, 1]).astype(np.float32) / 81
    images = [*_shrink(image, blur, 0), *_shrink(image, blur, geometry.same_padding(5))]
    pictures = [np.pad(one, (len(image) - len(one)) // 2, constant_values=1) for one in images]
    titles = [f"{len(one)}x{len(one)}" for one in images]
    return np.stack([np.clip(picture, 0, 1)[..., None].repeat(3, -1) for picture in pictures]), titles


def table(summary: dict[str, Any]) -> str:
    """Return a Markdown table of the output size and the unused pixels for every stride."""
    rows = []
    for result in summary["strides"]:
        size, kernel, stride, _ = result["case"]
        unused = int((np.array(result["uses"]) == 0).sum())
        rows.append(
            (f"{size}x{size}", f"{kernel}x{kernel}", stride, f"{result['formula']:.3g}", result["size"], unused)
        )
    return markdown.table(("image", "kernel", "stride", "(N - F) / S + 1", "output size", "unused pixels"), rows)


def claims(summary: dict[str, Any] | None) -> list[Claim]:
    """Return claims B3, B12, C1, C2, C3, C8, C9 and C11, all computed here."""
    return [*_padded_example(), *_beyond_the_border(), *_sizes(), *_pixels(), *_repeated()]


def _padded_example() -> list[Claim]:
    padded, kernel = np.pad(PADDING_IMAGE, 1), KERNELS["vertical"]
    ours, terms = correlate(PADDING_IMAGE, kernel, padding=1), s0_sum(padded, kernel)
    same = np.array_equal(ours, terms)
    first, wrong = ours[:2, :3], ours[:2, :3] != PADDING_RESULT
    return [
        check(
            "B3",
            "S0: a 6x6 image padded by 1 and a 3x3 kernel; the same as the formula evaluated term by term",
            "6x6 to 8x8, result 6x6",
            f"6x6 to {padded.shape[0]}x{padded.shape[1]}, result {ours.shape[0]}x{ours.shape[1]}",
            same and padded.shape == (8, 8) and ours.shape == (6, 6),
        ),
        erratum(
            "B3",
            f"S0 prints the upper left corner of its padded 6x6 image's result: {wrong.sum()} of six numbers are wrong",
            show(PADDING_RESULT),
            show(first),
            same and wrong.tolist() == [[False, True, False], [True, False, False]],
        ),
    ]


def _beyond_the_border() -> list[Claim]:
    photograph, kernel = square("china"), KERNELS["blur"]
    checked = []
    for mode in ("zeros", "replicate"):
        ours = correlate(photograph, kernel, padding=1, padding_mode=mode)
        padded = np.pad(photograph, 1, mode="constant" if mode == "zeros" else "edge")
        corner = correlate(np.ones((4, 4)), kernel, padding=1, padding_mode=mode)[0, 0]
        expected = {"zeros": 4 / 9, "replicate": 1}[mode]
        error = distance(ours[:7], s0_sum(padded[:9].astype(float), kernel))
        checked.append(
            check(
                "B12",
                f"S2: padding with {mode}: a blurred photograph is the formula's on NumPy's padding; the corner of an "
                "even surface of 1",
                "zeros" if mode == "zeros" else "pixels of the outermost rows and columns",
                f"{error:.0e} apart; corner {corner:.3g}",
                error <= ROUNDING and abs(corner - expected) <= ROUNDING,
                f"{ROUNDING:g}",
            )
        )
    return checked


def _sizes() -> list[Claim]:
    cases = [Case(7, 3, stride) for stride in STRIDES]
    grid = [
        Case(size, kernel, stride, padding)
        for size in (5, 6, 7, 10)
        for kernel in (1, 2, 3, 5)
        for stride in STRIDES
        for padding in (0, 1, 2)
    ]
    floors = [int(np.floor(case.formula)) for case in grid]
    agreeing = sum(output_size(case) == floor for case, floor in zip(grid, floors, strict=True))
    misfits = sum(case.formula != floor for case, floor in zip(grid, floors, strict=True))
    unused = [int((used == 0).all(0).sum()) for used in uses(cases)]
    kept = {kernel: geometry.same_padding(kernel) for kernel in (3, 5, 7)}
    strided = Case(6, 3, 2)
    return [
        *(
            check(
                "C1",
                f"S0, S4: 7x7 input, 3x3 filter, stride {case.stride}: (N-F)/S+1, output size, unused columns",
                lecture,
                f"{case.formula:.3g}; {output_size(case)}x{output_size(case)}; {columns} unused",
                f"{case.formula:.3g}" == lecture.split(" ")[0]
                and output_size(case) == int(case.formula)
                and (columns > 0) == ("fit" in lecture),
            )
            for case, columns, lecture in zip(cases, unused, ("5", "3", "2.33 (does not fit)"), strict=True)
        ),
        check(
            "C2",
            "S1, S3: where it does not fit, toolkits round down: floor((N+2P-F)/S)+1",
            "all",
            f"{agreeing} of {len(grid)} sizes, {misfits} of which do not fit",
            agreeing == len(grid) and misfits > 0,
        ),
        check(
            "C3",
            "S0, S3, S4: P=(F-1)/2 keeps the size at stride 1: F=3, 5, 7 on 7x7",
            "P=1, 2, 3",
            f"P={', '.join(map(str, kept.values()))}: "
            f"{', '.join(str(output_size(Case(7, kernel, padding=padding))) for kernel, padding in kept.items())}",
            list(kept.values()) == [1, 2, 3]
            and all(output_size(Case(7, kernel, padding=padding)) == 7 for kernel, padding in kept.items()),
        ),
        check(
            "C11",
            "S1: 6x6 input, f=3, s=2, p=0",
            "2x2",
            f"{output_size(strided)}x{output_size(strided)}, from {strided.formula:g} rounded down",
            output_size(strided) == 2,
        ),
    ]


def _pixels() -> list[Claim]:
    printed = {  # S4 prints the last two
        (1, 1): parse("1"),
        (3, 2): parse("121/242/121"),
        (5, 3): parse("12321/24642/36963/24642/12321"),
    }
    *tables, half, full = uses([*(Case(*key) for key in printed), Case(5, 3, padding=1), Case(5, 3, padding=2)])
    checked = [
        check(
            "C8",
            f"S0, S4: pixel utilization of {kernel}x{kernel} windows, by gradients and by geometry.pixel_utilization",
            show(lecture),
            show(ours),
            np.array_equal(ours, lecture) and np.array_equal(geometry.pixel_utilization(size, kernel), lecture),
        )
        for ours, ((size, kernel), lecture) in zip(tables, printed.items(), strict=True)
    ]
    return [
        *checked,
        erratum(
            "C8",
            "S0, S4: with padding all pixels are used equally often. Uses in a 5x5 image by 3x3 windows, padding 1",
            "equally",
            f"corner {half[0, 0]}, edge {half[0, 2]}, middle {half[2, 2]}; with full padding all {full[0, 0]}",
            bool(half[0, 0] < half[0, 2] < half[2, 2]) and bool((full == full[0, 0]).all()),
        ),
    ]


def _repeated() -> list[Claim]:
    valid, same, padding = [32], [32], geometry.same_padding(5)
    for _ in range(7):
        valid.append(output_size(Case(valid[-1], 5)))
        same.append(output_size(Case(same[-1], 5, padding=padding)))
    return [
        check(
            "C9",
            "S0, S3: repeated 5x5 convolutions shrink a 32x32 input; padded ones do not",
            "32, 28, 24, ...",
            f"{', '.join(map(str, valid))}; padded by {padding}: {same[-1]}",
            valid[:3] == [32, 28, 24] and set(same) == {32},
        )
    ]
