"""Lectures' statements about strides and padding, checked against the shapes and gradients of what `ops` computes."""

from typing import Any

import numpy as np

from cnnjax import geometry
from cnnjax.lab.claims import Claim, check, erratum
from cnnjax.lab.worked import KERNELS, Case, correlate, distance, grey, output_size, parse, s0_sum, show, uses

STRIDES = (1, 2, 3)
ROUNDING = 1e-5  # of float32 sums, relative to the largest of them
# S0 and S4, "Padding": the image, and the six numbers of the result that the slide prints.
PADDING_IMAGE = parse("3 3 4 4 7 0/9 7 6 5 8 2/6 5 5 6 9 2/7 1 3 2 7 8/0 3 7 1 8 3/4 0 4 3 2 2")
PADDING_RESULT = parse("-10 -13 1/-9 3 0")


def square(photograph: str, side: int = 64) -> np.ndarray:
    """Return the middle of a photograph, (side, side), in grey."""
    picture = grey(photograph, side)
    margin = max(0, picture.shape[1] - side) // 2
    return picture[:, margin : margin + side]


# ---------------------------------------------------------------- claims


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
            "exact",
            same and padded.shape == (8, 8) and ours.shape == (6, 6),
        ),
        erratum(
            "B3",
            f"S0: its result's upper left corner: {wrong.sum()} of the six numbers that the slide prints",
            show(PADDING_RESULT),
            show(first),
            "exact",
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
                f"{ROUNDING:g}",
                error <= ROUNDING and abs(corner - expected) <= ROUNDING,
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
                deck,
                f"{case.formula:.3g}; {output_size(case)}x{output_size(case)}; {columns} unused",
                "exact",
                f"{case.formula:.3g}" == deck.split(" ")[0]
                and output_size(case) == int(case.formula)
                and (columns > 0) == ("fit" in deck),
            )
            for case, columns, deck in zip(cases, unused, ("5", "3", "2.33 (does not fit)"), strict=True)
        ),
        check(
            "C2",
            "S1, S3: where it does not fit, toolkits round down: floor((N+2P-F)/S)+1",
            "all",
            f"{agreeing} of {len(grid)} sizes, {misfits} of which do not fit",
            "exact",
            agreeing == len(grid) and misfits > 0,
        ),
        check(
            "C3",
            "S0, S3, S4: P=(F-1)/2 keeps the size at stride 1: F=3, 5, 7 on 7x7",
            "P=1, 2, 3",
            f"P={', '.join(map(str, kept.values()))}: "
            f"{', '.join(str(output_size(Case(7, kernel, padding=padding))) for kernel, padding in kept.items())}",
            "exact",
            list(kept.values()) == [1, 2, 3]
            and all(output_size(Case(7, kernel, padding=padding)) == 7 for kernel, padding in kept.items()),
        ),
        check(
            "C11",
            "S1: 6x6 input, f=3, s=2, p=0",
            "2x2",
            f"{output_size(strided)}x{output_size(strided)}, from {strided.formula:g} rounded down",
            "exact",
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
            show(deck),
            show(ours),
            "exact",
            np.array_equal(ours, deck) and np.array_equal(geometry.pixel_utilization(size, kernel), deck),
        )
        for ours, ((size, kernel), deck) in zip(tables, printed.items(), strict=True)
    ]
    return [
        *checked,
        erratum(
            "C8",
            "S0, S4: padding ensures that all pixels are used equally frequently: 3x3 windows on 5x5, padding 1",
            "equally",
            f"corner {half[0, 0]}, edge {half[0, 2]}, middle {half[2, 2]}; with full padding all {full[0, 0]}",
            "exact",
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
            "exact",
            valid[:3] == [32, 28, 24] and set(same) == {32},
        )
    ]
