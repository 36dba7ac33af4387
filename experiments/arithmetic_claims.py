"""Lectures' statements about sizes, parameters and multiplications, checked against what `ops` and layers have."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from cnnjax import geometry, nn, ops
from cnnjax.lab.claims import Claim, check, erratum
from cnnjax.lab.worked import Case, output_size, uses

SIZES, KERNELS = (5, 6, 8), (1, 2, 3, 4)


class Relationship(NamedTuple):
    """A formula for the output size of one kind of convolution, and for the way back.

    Attributes:
        text: what it is, as S0 has it, with the floor and the padding put right.
        size: output size o of an input of i pixels.
        twin: size i that the transposed convolution makes of o; a is what the floor cut off.
        paddings: that it is about, for a kernel.
        strides: that it is about.
        case: S0's figure.
    """

    text: str
    size: Callable[[Case], int]
    twin: Callable[[int, Case, int], int]
    paddings: Callable[[int], Sequence[int]]
    strides: Sequence[int]
    case: Case


RELATIONSHIPS = {  # twins: Dumoulin & Visin's relationships 8 to 11 and 14
    1: Relationship(
        "o = i - k + 1",
        lambda c: c.size - c.kernel + 1,
        lambda o, c, a: o + c.kernel - 1,
        lambda k: [0],
        [1],
        Case(4, 3),
    ),
    2: Relationship(
        "o = i - k + 2p + 1",
        lambda c: c.size - c.kernel + 2 * c.padding + 1,
        lambda o, c, a: o + c.kernel - 1 - 2 * c.padding,
        lambda k: range(3),
        [1],
        Case(5, 4, 1, 2),
    ),
    3: Relationship(
        "half padding, odd k: o = i",
        lambda c: c.size,
        lambda o, c, a: o,
        lambda k: [k // 2] if k % 2 else [],
        [1],
        Case(5, 3, 1, 1),
    ),
    4: Relationship(
        "full padding: o = i + (k - 1)",
        lambda c: c.size + c.kernel - 1,
        lambda o, c, a: o - (c.kernel - 1),
        lambda k: [k - 1],
        [1],
        Case(5, 3, 1, 2),
    ),
    5: Relationship(
        "o = floor((i - k) / s) + 1",
        lambda c: (c.size - c.kernel) // c.stride + 1,
        lambda o, c, a: c.stride * (o - 1) + a + c.kernel,
        lambda k: [0],
        [2, 3],
        Case(5, 3, 2),
    ),
    6: Relationship(
        "o = floor((i + 2p - k) / s) + 1",
        lambda c: (c.size + 2 * c.padding - c.kernel) // c.stride + 1,
        lambda o, c, a: c.stride * (o - 1) + a + c.kernel - 2 * c.padding,
        lambda k: range(3),
        [2, 3],
        Case(6, 3, 2, 1),
    ),
}


def grid(relationship: Relationship) -> list[Case]:
    """Return the cases that a relationship is checked on, S0's first."""
    cases = (
        Case(size, kernel, stride, padding)
        for size in SIZES
        for kernel in KERNELS
        for stride in relationship.strides
        for padding in relationship.paddings(kernel)
    )
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


def conv_layer(channels: int, filters: int, kernel: int, **options: Any) -> nnx.Module:
    """Return a convolutional layer whose parameters have shapes but no values."""
    return nnx.eval_shape(lambda: nn.Conv(channels, filters, kernel, **options, rngs=nnx.Rngs(0)))


def dense_layer(image: tuple[int, int, int], units: int, **options: Any) -> nnx.Module:
    """Return a fully connected layer on flattened images, whose parameters have shapes but no values."""
    return nnx.eval_shape(lambda: nn.Linear(image, units, **options, rngs=nnx.Rngs(0)))


def params(layer: nnx.Module) -> int:
    """Return how many parameters a layer has."""
    return sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(nnx.state(layer, nnx.Param)))


def multiplications(size: int, channels: int, kernel: int, filters: int) -> np.ndarray:
    """Count the multiplications for each filter: the pairs of an output and an input value that it depends on."""
    kernels = jnp.ones((kernel, kernel, channels, filters))
    jacobian = jax.jit(jax.jacrev(lambda x: ops.conv2d(x, kernels)[0]))(jnp.ones((1, size, size, channels)))
    return np.count_nonzero(jacobian, axis=(0, 1, 3, 4, 5, 6))


# ---------------------------------------------------------------- claims


def claims(summary: dict[str, Any] | None) -> list[Claim]:
    """Return claims C4 to C7 and C10, all computed here."""
    return [*_layers(), *_relationships(), *_errata(), *_multiplications(), *_explosion()]


def _layers() -> list[Claim]:
    volume = nnx.eval_shape(lambda: nn.Conv(3, 10, 5, padding=2, rngs=nnx.Rngs(0))(jnp.zeros((1, 32, 32, 3)))).shape[1:]
    count = params(conv_layer(3, 10, 5))
    windows = [(w, f, s, p) for w in (7, 12) for f in (3, 5) for s in (1, 2) for p in (0, 2)]
    sizes = [(output_size(Case(w, f, s, p)), (w - f + 2 * p) // s + 1) for w, f, s, p in windows]
    layers = [(d, k, f) for d in (1, 3) for k in (2, 8) for f in (3, 5)]
    counts = [(params(conv_layer(d, k, f)), geometry.conv_params(d, k, f), f * f * d * k + k) for d, k, f in layers]
    same_sizes, same_counts = (sum(len(set(row)) == 1 for row in rows) for rows in (sizes, counts))
    return [
        check(
            "C4",
            "S3: 32x32x3 input, ten 5x5 filters, stride 1, padding 2: output, parameters, parameters a filter",
            "32x32x10, 760, 76",
            f"{'x'.join(map(str, volume))}, {count}, {count / 10:g}",
            "exact",
            (volume, count) == ((32, 32, 10), 760),
        ),
        check(
            "C5",
            "S1, S3: W2=(W1-F+2P)/S+1, rounded down; F.F.D1 weights a filter and K biases",
            "all",
            f"{same_sizes} of {len(sizes)} sizes, parameters of {same_counts} of {len(counts)} layers",
            "exact",
            (same_sizes, same_counts) == (len(sizes), len(counts)),
        ),
    ]


def _relationships() -> list[Claim]:
    checked = []
    for number, relationship in RELATIONSHIPS.items():
        own, sizes = relationship.case, {case: output_size(case) for case in grid(relationship)}
        printed = {wrong: formula for wrong, _, formula, _ in PRINTED}.get(number)
        there = sum(size == relationship.size(case) for case, size in sizes.items())
        back = sum(
            transposed_size(case, size) == case.size == relationship.twin(size, case, cut_off(case))
            for case, size in sizes.items()
        )
        checked.append(
            check(
                "C6",
                f"S0 ({number}){', corrected' if printed else ''}: {relationship.text}, with {_given(own)}; on a grid; "
                "transposed back to i",
                f"{printed(own):g} as printed" if printed else str(relationship.size(own)),
                f"{sizes[own]}; {there} of {len(sizes)}; back {back} of {len(sizes)}",
                "exact",
                there == back == len(sizes),
            )
        )
    case = RELATIONSHIPS[6].case
    (used,) = uses([Case(case.size + 2 * case.padding, case.kernel, case.stride)])
    rows, columns = np.flatnonzero((used == 0).all(1)), np.flatnonzero((used == 0).all(0))
    return [
        *checked,
        check(
            "C6",
            "S0 (6): then the bottom row and right column of the padded 8x8 input are not covered by the kernel",
            "row 7, column 7",
            f"row {', '.join(map(str, rows))}, column {', '.join(map(str, columns))}",
            "exact",
            rows.tolist() == columns.tolist() == [7],
        ),
    ]


def _given(case: Case) -> str:
    return f"i={case.size} k={case.kernel} s={case.stride} p={case.padding}"


# Number, S0's formula as printed, its value, and the case that shows it wrong.
PRINTED: tuple[tuple[int, str, Callable[[Case], float], Case], ...] = (
    (4, "o = i + 2(k - 1)", lambda c: c.size + 2 * (c.kernel - 1), RELATIONSHIPS[4].case),
    (5, "o = (i - k) / s + 1", lambda c: (c.size - c.kernel) / c.stride + 1, Case(6, 3, 2)),
    (
        6,
        "o = (i + 2p - k) / s + 1",
        lambda c: (c.size + 2 * c.padding - c.kernel) / c.stride + 1,
        RELATIONSHIPS[6].case,
    ),
)


def _errata() -> list[Claim]:
    rows = []
    for number, text, formula, case in PRINTED:
        cases = grid(RELATIONSHIPS[number])
        wrong = sum(formula(other) != output_size(other) for other in cases)
        rows.append(
            erratum(
                "C6",
                f"S0 prints ({number}) as {text}, which misses {wrong} of {len(cases)} sizes; with {_given(case)}",
                f"{formula(case):g}",
                f"{output_size(case)}, by {RELATIONSHIPS[number].text.split(': ')[-1]}",
                "exact",
                formula(case) != output_size(case) == RELATIONSHIPS[number].size(case),
            )
        )
    return rows


def _multiplications() -> list[Claim]:
    counts = multiplications(6, 3, 3, filters=2).cumsum()
    return [
        check(
            "C7",
            f"S0: multiplications of {what} on 6x6x3, as pairs of an output and an input, and by geometry.conv_macs",
            str(deck),
            f"{counted}, {geometry.conv_macs(4, 3, filters, 3)}",
            "exact",
            counted == geometry.conv_macs(4, 3, filters, 3) == deck,
        )
        for counted, filters, what, deck in zip(
            counts, (1, 2), ("a 3x3x3 filter", "two 3x3x3 filters"), (432, 864), strict=True
        )
    ]


def _explosion() -> list[Claim]:
    shared = params(conv_layer(1, 100, 10, bias=False))
    weights = {image: params(dense_layer(image, 4, bias=False)) for image in ((32, 32, 1), (1024, 1024, 1))}
    inputs = {image: params(dense_layer(image, 1, bias=False)) for image in ((64, 64, 3), (1000, 1000, 3))}
    filters, units = params(conv_layer(3, 100, 10)), params(dense_layer((1000, 1000, 3), 100))
    return [
        check(
            "C10",
            "S3: 200x200 image, 100 filters of 10x10: weights, which no image's size changes; a unit for every output "
            "would make a fully connected layer of",
            "10K",
            f"{shared:,}; {geometry.dense_params(200 * 200, output_size(Case(200, 10)) ** 2 * 100, bias=False):,}",
            "exact",
            shared == 10_000,
        ),
        check(
            "C10",
            "S1: weights of four units on 32x32 and on 1024x1024",
            "1024x4, 1048576x4",
            ", ".join(f"{count // 4}x4" for count in weights.values()),
            "exact",
            list(weights.values()) == [1024 * 4, 1048576 * 4],
        ),
        check(
            "C10",
            "S1: weights of a unit on 64x64x3 and 1000x1000x3; 100 units on the latter against 100 filters of 10x10",
            "12288, 3 million",
            f"{', '.join(f'{count:,}' for count in inputs.values())}; {units:,} against {filters:,}",
            "exact",
            list(inputs.values()) == [12288, 3_000_000] and units > 1000 * filters,
        ),
    ]
