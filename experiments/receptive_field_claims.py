"""Lectures' statements about receptive fields, evaluated: what a unit sees, by theory and by gradients."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from cnnjax import geometry, ops
from cnnjax.lab.claims import Claim, check, not_run

Stack = tuple[tuple[int, int, int], ...]  # (kernel, stride, dilation) from input to output, as `geometry` takes them

SIZE = 65  # of the measured stacks' images in pixels: more than any of them sees
STACKS: dict[str, tuple[Stack, ...]] = {
    "3x3": tuple(((3, 1, 1),) * depth for depth in range(1, 6)),
    "5x5": tuple(((5, 1, 1),) * depth for depth in range(1, 4)),
    "7x7": (((7, 1, 1),),),
    "3x3, one dilated": tuple(((3, 1, rate),) for rate in (1, 2, 3)),
    "3x3, doubling rates": tuple(tuple((3, 1, 2**layer) for layer in range(depth)) for depth in range(1, 6)),
}
CHANNELS = 16  # of the trained networks
NETWORKS = {"three 3x3": (3, 3, 3), "one 7x7": (7,)}  # kernels of a block
DECK_PERCENT = 81
LEARNED = 0.4  # accuracy of a network that has learned something: four times that of guessing


def measured() -> dict[str, list[np.ndarray]]:
    """Return for every stack the gradient (65, 65) of the output's middle with respect to the image.

    All weights are 1, so that nothing that the middle sees can cancel; padding keeps the size.
    """
    return {name: [_gradient(stack) for stack in row] for name, row in STACKS.items()}


def _gradient(stack: Stack) -> np.ndarray:
    gradient = jnp.zeros((1, SIZE, SIZE, 1)).at[0, SIZE // 2, SIZE // 2, 0].set(1)
    for layer in reversed(stack):
        gradient = _through_layer(gradient, *layer)
    return np.asarray(gradient)[0, ..., 0]


@partial(jax.jit, static_argnums=(1, 2, 3))
def _through_layer(gradient: jax.Array, kernel: int, stride: int, dilation: int) -> jax.Array:
    ones = jnp.ones((kernel, kernel, 1, 1))
    padding = geometry.same_padding(kernel, dilation)
    layer = partial(ops.conv2d, kernel=ones, stride=stride, padding=padding, dilation=dilation)
    (back,) = jax.vjp(layer, jnp.zeros((1, SIZE, SIZE, 1)))[1](gradient)
    return back


def extent(field: np.ndarray) -> int:
    """Return the side of the smallest square that holds all that is not zero; both sides must agree."""
    rows, columns = (np.flatnonzero(field.any(axis)) for axis in (1, 0))
    height, width = (int(places[-1] - places[0]) + 1 for places in (rows, columns))
    if height != width:
        raise ValueError(f"the field is {height} pixels high and {width} wide; expected a square")
    return height


def weights_of(stack: Stack, channels: int = 1) -> int:
    """Return how many weights the layers have, biases left out."""
    return sum(geometry.conv_params(channels, channels, kernel, bias=False) for kernel, _, _ in stack)


# ---------------------------------------------------------------- claims


def claims(summary: dict[str, Any] | None) -> list[Claim]:
    """Return claims E1 to E3: fields measured here, the training of E2 read from a finished run."""
    fields = measured()
    sides = {name: [extent(field) for field in row] for name, row in fields.items()}
    return [_stacks(sides), *_three_or_seven(sides), _trained(summary), _gaps(fields), _doubling(sides)]


def _listed(values: Sequence[int]) -> str:
    return ", ".join(map(str, values))


def _stacks(sides: dict[str, list[int]]) -> Claim:
    names = ("3x3", "5x5")
    theory = {name: [geometry.receptive_field(stack) for stack in STACKS[name]] for name in names}
    formula = {name: [1 + len(stack) * (stack[0][0] - 1) for stack in STACKS[name]] for name in names}
    return check(
        "E1",
        "L layers of FxF see 1+L(F-1) pixels",
        "3x3 layers: 3, 5, 7",
        "; ".join(f"{name}: theory {_listed(theory[name])}, gradients {_listed(sides[name])}" for name in names),
        "exact",
        all(sides[name] == theory[name] == formula[name] for name in names) and sides["3x3"][:3] == [3, 5, 7],
    )


def _three_or_seven(sides: dict[str, list[int]]) -> list[Claim]:
    three, seven = weights_of(((3, 1, 1),) * 3, CHANNELS), weights_of(((7, 1, 1),), CHANNELS)
    more = 100 * (seven - three) / three
    return [
        check(
            "E2",
            "three stacked 3x3 layers have a 7x7 receptive field",
            "7",
            f"three 3x3 see {sides['3x3'][2]}, one 7x7 sees {sides['7x7'][0]}",
            "exact",
            sides["3x3"][2] == sides["7x7"][0] == 7,
        ),
        check(
            "E2",
            "a 7x7 layer has more parameters than three stacked 3x3 layers",
            f"{DECK_PERCENT} % more",
            f"{more:.1f} % more: {seven:,} and {three:,} at {CHANNELS} channels",
            "0.5 points",
            abs(more - DECK_PERCENT) <= 0.5,
        ),
    ]


def _trained(summary: dict[str, Any] | None) -> Claim:
    statement = "trained side by side, three 3x3 layers do what one 7x7 does, with fewer parameters"
    if summary is None:
        return not_run("E2", statement, "needs a finished run")
    three, seven = (summary["networks"][name] for name in NETWORKS)
    ours = ", ".join(
        f"{name} {result['test_accuracy']:.1%} with {result['params']:,}"
        for name, result in summary["networks"].items()
    )
    by_seed = [result["test_accuracy_by_seed"] for result in (three, seven)]
    error = float(np.sqrt(sum(np.var(accuracies, ddof=1) / len(accuracies) for accuracies in by_seed)))
    return check(
        "E2",
        statement,
        "can be replaced",
        f"{ours} parameters ({summary['data']['name']}, {len(by_seed[0])} seeds)",
        f"test accuracy at most two standard errors behind, {2 * error:.1%}, both over {LEARNED:.0%}; fewer parameters",
        three["test_accuracy"] >= seven["test_accuracy"] - 2 * error
        and min(three["test_accuracy"], seven["test_accuracy"]) > LEARNED
        and three["params"] < seven["params"],
    )


def _gaps(fields: dict[str, list[np.ndarray]]) -> Claim:
    dilated = fields["3x3, one dilated"]
    sides = [extent(field) for field in dilated]
    theory = [geometry.receptive_field(stack) for stack in STACKS["3x3, one dilated"]]
    gaps: list[int] = [int(np.diff(np.flatnonzero(field.any(0))).max()) - 1 for field in dilated]
    taps = [int(np.count_nonzero(field)) for field in dilated]
    return check(
        "E3",
        "dilation l inserts l-1 gaps between taps: 3x3 with rates 1, 2, 3",
        "sees 3, 5, 7",
        f"sees {_listed(sides)}; gaps {_listed(gaps)}; weights {_listed(taps)}",
        "exact",
        sides == theory == [3, 5, 7] and gaps == [0, 1, 2] and set(taps) == {9},
    )


def _doubling(sides: dict[str, list[int]]) -> Claim:
    name = "3x3, doubling rates"
    stacks, depths = STACKS[name], range(1, len(STACKS[name]) + 1)
    size = SIZE
    for kernel, stride, dilation in stacks[-1]:
        size = geometry.conv_output_size(
            size, kernel, stride=stride, padding=geometry.same_padding(kernel, dilation), dilation=dilation
        )
    weights, plain = weights_of(stacks[-1]), weights_of(STACKS["3x3"][len(stacks) - 1])
    return check(
        "E3",
        "rates that double grow the field exponentially, without loss of resolution and at equal parameters",
        "exponential expansion",
        f"{_listed(sides[name])} pixels, undilated {_listed(sides['3x3'][: len(stacks)])}; {SIZE}x{SIZE} stay "
        f"{size}x{size}; {weights} and {plain} weights for each pair of channels",
        "exact: 2^(L+1) - 1",
        sides[name] == [2 ** (depth + 1) - 1 for depth in depths] and size == SIZE and weights == plain,
    )
