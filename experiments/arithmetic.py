"""Convolution arithmetic: six relationships of sizes and their transposed twins, parameters, multiplications.

Lectures S0, S1 and S3 (claims C4 to C7 and C10), after Dumoulin and Visin's "A guide to convolution arithmetic for deep
learning" (2016). Formulas are compared with the shapes that `ops` computes on a grid of cases, parameter counts with
those of layers, and multiplications with the input values that each output depends on.

    python launch.py arithmetic
    python launch.py arithmetic --size 9 --kernel 4 --stride 3 --padding 1      # adds a case of your own

Takes about ten seconds. Expect transposed convolutions that restore the size they started from, a fully connected layer
that alone grows with the image, and four wrong formulas of S0: (3), (5), (6) lack floors, (4) does not subtract k - 1.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from matplotlib.figure import Figure

from cnnjax import geometry, nn, ops, runs, train, viz
from cnnjax.errors import UserError
from cnnjax.lab import markdown
from cnnjax.lab.claims import Claim, check, erratum
from cnnjax.lab.worked import Case, output_size, uses
from cnnjax.models import count_params
from cnnjax.options import Checked, Count, CountOrZero
from cnnjax.viz import Grid, Lines

LARGEST = 16  # rows of a padded image that can still be drawn
GIVEN = "i={} k={} s={} p={}".format  # a case in words
SIDES = (32, 64, 128, 256, 512, 1024)
SIZES, KERNELS = (5, 6, 8), (1, 2, 3, 4)  # of the grid of cases


class Relationship(NamedTuple):
    """A formula for the output size of one kind of convolution, and for the way back."""

    text: str  # the formula as in S0, with the floor and the padding corrected
    size: Callable[[int, int, int, int], int]  # the output size o, given i, k, s and p
    twin: Callable[[int, int, int, int, int], int]  # i, given o, k, s, p and the a pixels that the floor cut off
    paddings: Callable[[int], Sequence[int]]  # those that it covers, given k
    case: Case  # of S0's figure; the relationship covers stride 1 if this has it, else strides 2 and 3


RELATIONSHIPS = {  # twins: Dumoulin & Visin's relationships 8 to 11 and 14
    1: Relationship(
        "o = i - k + 1", lambda i, k, s, p: i - k + 1, lambda o, k, s, p, a: o + k - 1, lambda k: [0], Case(4, 3)
    ),
    2: Relationship(
        "o = i - k + 2p + 1",
        lambda i, k, s, p: i - k + 2 * p + 1,
        lambda o, k, s, p, a: o + k - 1 - 2 * p,
        lambda k: range(3),
        Case(5, 4, 1, 2),
    ),
    3: Relationship(
        "half padding, odd k: o = i",
        lambda i, k, s, p: i,
        lambda o, k, s, p, a: o,
        lambda k: [k // 2] if k % 2 else [],
        Case(5, 3, 1, 1),
    ),
    4: Relationship(
        "full padding: o = i + (k - 1)",
        lambda i, k, s, p: i + k - 1,
        lambda o, k, s, p, a: o - (k - 1),
        lambda k: [k - 1],
        Case(5, 3, 1, 2),
    ),
    5: Relationship(
        "o = floor((i - k) / s) + 1",
        lambda i, k, s, p: (i - k) // s + 1,
        lambda o, k, s, p, a: s * (o - 1) + a + k,
        lambda k: [0],
        Case(5, 3, 2),
    ),
    6: Relationship(
        "o = floor((i + 2p - k) / s) + 1",
        lambda i, k, s, p: (i + 2 * p - k) // s + 1,
        lambda o, k, s, p, a: s * (o - 1) + a + k - 2 * p,
        lambda k: range(3),
        Case(6, 3, 2, 1),
    ),
}
# Number, S0's formula as printed (of (3) the end is right), its value, and the case that shows that it is wrong.
PRINTED: tuple[tuple[int, str, Callable[[int, int, int, int], float], Case], ...] = (
    (3, "o = i + 2k/2 - (k - 1) = i", lambda i, k, s, p: i + 2 * k / 2 - (k - 1), RELATIONSHIPS[3].case),
    (4, "o = i + 2(k - 1)", lambda i, k, s, p: i + 2 * (k - 1), RELATIONSHIPS[4].case),
    (5, "o = (i - k) / s + 1", lambda i, k, s, p: (i - k) / s + 1, Case(6, 3, 2)),
    (6, "o = (i + 2p - k) / s + 1 for p = 0", lambda i, k, s, p: (i + 2 * p - k) / s + 1, RELATIONSHIPS[6].case),
)


@dataclass(frozen=True)
class Config(Checked):
    """Show the arithmetic of convolutions, and of a case of your own."""

    size: Count = 7
    """Rows of your square image (i); padded, at most 16."""
    kernel: Count = 3
    """Rows and columns of your kernel (k); at most those of the padded image."""
    stride: Count = 3
    """Pixels between two windows (s)."""
    padding: CountOrZero = 0
    """Pixels added on each side (p)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.kernel <= self.size + 2 * self.padding <= LARGEST:
            raise UserError(f"expected a padded image of at most {LARGEST} rows that the kernel fits, got {self}")


def load(config: Config) -> Case:
    """Return your case."""
    return Case(config.size, config.kernel, config.stride, config.padding)


def run(config: Config, yours: Case, run: runs.Run, parallel: train.Parallel) -> dict[str, Any]:
    """Draw the figures, and return sizes and parameters."""
    cases = {f"({number})": relationship.case for number, relationship in RELATIONSHIPS.items()} | {"yours": yours}
    sizes = {side: (conv_params(1, 100, 10), dense_params((side, side, 1), 100)) for side in SIDES}
    viz.save(viz.number_grids(_cases(cases), cell=0.26), run.figures / "six-relationships.png")
    viz.save(_floors(), run.figures / "floor.png")
    viz.save(_growth(sizes), run.figures / "parameters.png")
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


def grid(relationship: Relationship) -> list[Case]:
    """Return the cases that a relationship is checked on, S0's first."""
    strides = (1,) if relationship.case.stride == 1 else (2, 3)
    cases = (Case(i, k, s, p) for i in SIZES for k in KERNELS for s in strides for p in relationship.paddings(k))
    return list(dict.fromkeys([relationship.case, *cases]))


def cut_off(case: Case) -> int:
    """Return how many pixels the last window leaves over: a in Dumoulin & Visin's relationship 14."""
    return (case.size + 2 * case.padding - case.kernel) % case.stride


def transposed_size(case: Case, size: int) -> int:
    """Return the size that `ops.conv_transpose2d` makes of a case's output of that size, with a as output padding."""
    x = jax.eval_shape(
        lambda y, k: ops.conv_transpose2d(y, k, stride=case.stride, padding=case.padding, output_padding=cut_off(case)),
        jax.ShapeDtypeStruct((1, size, size, 1), jnp.float32),
        jax.ShapeDtypeStruct((case.kernel, case.kernel, 1, 1), jnp.float32),
    )
    return x.shape[1]


def conv_params(channels: int, filters: int, kernel: int, **options: Any) -> int:
    """Count the parameters of a convolutional layer without computing them."""
    return count_params(nnx.eval_shape(lambda: nn.Conv(channels, filters, kernel, **options, rngs=nnx.Rngs(0))))


def dense_params(image: tuple[int, int, int], units: int, **options: Any) -> int:
    """Count the parameters of a fully connected layer on flattened images without computing them."""
    return count_params(nnx.eval_shape(lambda: nn.Linear(image, units, **options, rngs=nnx.Rngs(0))))


def multiplications(size: int, channels: int, kernel: int, filters: int) -> np.ndarray:
    """Count the multiplications for each filter: the pairs of an output and an input value that it depends on."""
    kernels = jnp.ones((kernel, kernel, channels, filters))
    jacobian = jax.jit(jax.jacrev(lambda x: ops.conv2d(x, kernels)[0]))(jnp.ones((1, size, size, channels)))
    return np.count_nonzero(jacobian, axis=(0, 1, 3, 4, 5, 6))


# ---------------------------------------------------------------- figures


def _cases(cases: dict[str, Case]) -> list[list[Grid]]:
    """The padded input with how many windows use each pixel (empty: none), and the output."""
    grids = []
    counts = uses([Case(case.size + 2 * case.padding, case.kernel, case.stride) for case in cases.values()])
    for (name, case), used in zip(cases.items(), counts, strict=True):
        size = output_size(case)
        title = f"{name} {GIVEN(*case)}"
        window = [(0, 0, case.kernel, case.kernel)]
        grids += [
            Grid(np.where(used > 0, used, np.nan), title, boxes=window, ring=case.padding),
            Grid(np.full((size, size), np.nan), f"o={size}", "→", boxes=[(0, 0, 1, 1)]),
        ]
    return [grids[start : start + 4] for start in range(0, len(grids), 4)]


def _floors() -> Figure:
    """Output sizes of ops, over the formula without a floor."""
    sizes, strides = np.arange(3, 17), (1, 2, 3)
    cases = {stride: [Case(int(size), 3, stride) for size in sizes] for stride in strides}
    formula = {f"(i - 3) / {s} + 1": (sizes, np.array([case.formula for case in cases[s]])) for s in strides}
    found = {f"conv2d, stride {s}": (sizes, np.array([output_size(case) for case in cases[s]])) for s in strides}
    title, styles = "3x3 kernel: sizes are whole, formula (5) is not", dict.fromkeys(formula, ":")
    styles |= dict.fromkeys(found, "x")
    return viz.line_plots([Lines(title, ("input size i", "output size o"), formula | found, styles=styles)])


def _growth(sizes: dict[int, tuple[int, int]]) -> Figure:
    """Parameters of both layers against the image's side."""
    names = ("convolution, 100 filters of 10x10", "fully connected, 100 units")
    counts = np.array(list(sizes.values())).T
    lines = {name: (np.array(list(sizes)), row) for name, row in zip(names, counts, strict=True)}
    labels = ("image's side in pixels, one channel", "parameters")
    return viz.line_plots([Lines("", labels, lines, ("log", "log"), markers=True)])


def table(summary: dict[str, Any]) -> str:
    """Return every case as a Markdown table: its unrounded formula, its size, and the size transposed back."""
    head = ("relationship", "i", "k", "s", "p", "(i + 2p - k) / s + 1", "o", "transposed back to")
    rows = [
        (name, *case["case"], f"{case['unrounded']:g}", case["size"], case["back"])
        for name, case in summary["cases"].items()
    ]
    return markdown.table(head, rows)


def claims(summary: dict[str, Any] | None) -> list[Claim]:
    """Return claims C4 to C7 and C10, all computed here."""
    return [*_layers(), *_relationships(), *_errata(), *_multiplications(), *_explosion()]


def _layers() -> list[Claim]:
    volume = nnx.eval_shape(lambda: nn.Conv(3, 10, 5, padding=2, rngs=nnx.Rngs(0))(jnp.zeros((1, 32, 32, 3)))).shape[1:]
    count = conv_params(3, 10, 5)
    windows = [(w, f, s, p) for w in (7, 12) for f in (3, 5) for s in (1, 2) for p in (0, 2)]
    sizes = [(output_size(Case(w, f, s, p)), (w - f + 2 * p) // s + 1) for w, f, s, p in windows]
    layers = [(d, k, f) for d in (1, 3) for k in (2, 8) for f in (3, 5)]
    counts = [(conv_params(d, k, f), geometry.conv_params(d, k, f), f * f * d * k + k) for d, k, f in layers]
    same_sizes, same_counts = (sum(len(set(row)) == 1 for row in rows) for rows in (sizes, counts))
    return [
        check(
            "C4",
            "S3: 32x32x3 input, ten 5x5 filters, stride 1, padding 2: output, parameters, parameters a filter",
            "32x32x10, 760, 76",
            f"{'x'.join(map(str, volume))}, {count}, {count / 10:g}",
            (volume, count) == ((32, 32, 10), 760),
        ),
        check(
            "C5",
            "S1, S3: W2=(W1-F+2P)/S+1, rounded down; F.F.D1 weights a filter and K biases",
            "all",
            f"{same_sizes} of {len(sizes)} sizes, parameters of {same_counts} of {len(counts)} layers",
            (same_sizes, same_counts) == (len(sizes), len(counts)),
        ),
    ]


def _relationships() -> list[Claim]:
    checked = []
    for number, relationship in RELATIONSHIPS.items():
        own, sizes = relationship.case, {case: output_size(case) for case in grid(relationship)}
        printed = {wrong: formula for wrong, _, formula, _ in PRINTED if wrong > 3}.get(number)
        there = sum(size == relationship.size(*case) for case, size in sizes.items())
        twins = {case: relationship.twin(size, *case[1:], cut_off(case)) for case, size in sizes.items()}
        back = sum(transposed_size(case, size) == case.size == twins[case] for case, size in sizes.items())
        checked.append(
            check(
                "C6",
                f"S0 ({number}){', corrected' if printed else ''}: {relationship.text}, with {GIVEN(*own)}; on a grid; "
                "transposed back to i",
                f"{printed(*own):g} as printed" if printed else str(relationship.size(*own)),
                f"{sizes[own]}; {there} of {len(sizes)}; back {back} of {len(sizes)}",
                there == back == len(sizes),
            )
        )
    case = RELATIONSHIPS[6].case
    (used,) = uses([Case(case.size + 2 * case.padding, case.kernel, case.stride)])
    rows, columns = (np.flatnonzero((used == 0).all(axis)) for axis in (1, 0))
    return [
        *checked,
        check(
            "C6",
            "S0 (6): then the bottom row and right column of the padded 8x8 input are not covered by the kernel",
            "row 7, column 7",
            f"row {', '.join(map(str, rows))}, column {', '.join(map(str, columns))}",
            rows.tolist() == columns.tolist() == [7],
        ),
    ]


def _errata() -> list[Claim]:
    rows = []
    for number, text, formula, case in PRINTED:
        cases = grid(RELATIONSHIPS[number])
        wrong = sum(formula(*other) != output_size(other) for other in cases)
        rows.append(
            erratum(
                "C6",
                f"S0 prints output size ({number}) as {text}: wrong for {wrong} of {len(cases)}, as for {GIVEN(*case)}",
                f"{formula(*case):g}",
                f"{output_size(case)}, by {RELATIONSHIPS[number].text.split(': ')[-1]}",
                formula(*case) != output_size(case) == RELATIONSHIPS[number].size(*case),
            )
        )
    return rows


def _multiplications() -> list[Claim]:
    first, second = multiplications(6, 3, 3, filters=2)
    macs = [geometry.conv_macs(4, 3, filters, 3) for filters in (1, 2)]
    rows = (("a 3x3x3 filter", first, macs[0], 432), ("two 3x3x3 filters", first + second, macs[1], 864))
    statement = "S0: multiplications of {} on 6x6x3, as pairs of an output and an input, and by geometry.conv_macs"
    return [
        check("C7", statement.format(what), str(lecture), f"{counted}, {formula}", counted == formula == lecture)
        for what, counted, formula, lecture in rows
    ]


def _explosion() -> list[Claim]:
    shared = conv_params(1, 100, 10, bias=False)
    weights = {image: dense_params(image, 4, bias=False) for image in ((32, 32, 1), (1024, 1024, 1))}
    inputs = {image: dense_params(image, 1, bias=False) for image in ((64, 64, 3), (1000, 1000, 3))}
    filters, units = conv_params(3, 100, 10), dense_params((1000, 1000, 3), 100)
    return [
        check(
            "C10",
            "S3: 200x200 image, 100 filters of 10x10: weights, which no image's size changes; a unit for every output "
            "would make a fully connected layer of",
            "10K",
            f"{shared:,}; {geometry.dense_params(200 * 200, output_size(Case(200, 10)) ** 2 * 100, bias=False):,}",
            shared == 10_000,
        ),
        check(
            "C10",
            "S1: weights of four units on 32x32 and on 1024x1024",
            "1024x4, 1048576x4",
            ", ".join(f"{count // 4}x4" for count in weights.values()),
            list(weights.values()) == [1024 * 4, 1048576 * 4],
        ),
        check(
            "C10",
            "S1: weights of a unit on 64x64x3 and 1000x1000x3; 100 units on the latter against 100 filters of 10x10",
            "12288, 3 million",
            f"{', '.join(f'{count:,}' for count in inputs.values())}; {units:,} against {filters:,}",
            list(inputs.values()) == [12288, 3_000_000] and units > 1000 * filters,
        ),
    ]
