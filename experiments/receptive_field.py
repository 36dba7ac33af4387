"""Receptive fields: theory and measured gradients, three 3x3 layers and one 7x7, dilation, and effective fields.

Lectures S0, S2 and S3 (claims E1 to E3): every convolution of F taps adds F-1 pixels to the receptive field; three 3x3
layers see as much as one 7x7, which has 81 % more parameters; dilated layers see further with the same parameters, and
with doubling rates the field grows exponentially at full resolution. Two networks are trained side by side, which
differ only in three 3x3 layers or one 7x7.

    python launch.py receptive-field                 # on generated shapes, without a network
    python launch.py receptive-field --data cifar10 --epochs 20 --seeds 3

Takes about two minutes, most of it training. Expect the fields of the theory, accuracies of the two networks that
differ less between kernels than between seeds, and effective fields that are bells, much smaller than those squares.
"""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from cnnjax import data, geometry, models, nn, ops, runs, tasks, train, viz
from cnnjax.errors import UserError
from cnnjax.lab import markdown
from cnnjax.lab.claims import Claim, check, not_run, stored
from cnnjax.options import Count, Positive
from cnnjax.train.schedules import Schedule

EFFECTIVE_DEPTHS, EFFECTIVE_CHANNELS, DRAWS = (5, 10, 20), 8, 32
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
LECTURE_PERCENT = 81
BEHIND = 0.03  # test accuracy that three layers may lack, and the largest standard error with which that is known
LEARNED = 0.4  # least accuracy of a trained network: four times that of guessing


@dataclass(frozen=True)
class Config(train.Recipe, tasks.ClassificationLoss, data.Source):
    """Measure receptive fields, and train a network of 3x3 layers beside one of 7x7 layers."""

    epochs: Count = 12
    seeds: Count = 5
    lr: Positive | None = 0.004
    schedule: Schedule = "cosine"

    def __post_init__(self) -> None:
        train.Recipe.__post_init__(self)
        tasks.ClassificationLoss.__post_init__(self)


def load(config: Config) -> data.Dataset:
    """Return the data set; raise a UserError if the config does not fit it."""
    dataset = config.dataset()
    if min(dataset.image_shape[:2]) < 8:
        raise UserError(f"data set {config.data!r} has images of {dataset.image_shape}; at least 8x8 pixels are needed")
    builds = {name: partial(build, kernels, dataset) for name, kernels in NETWORKS.items()}
    train.check_training(builds, _task(config, dataset), config, dataset.train)
    return dataset


def build(kernels: Sequence[int], dataset: data.Dataset, seed: int) -> models.Module:
    """Return a classifier with one block of convolutions with these kernels, at a quarter of the resolution.

    Conv 3x3 - ReLU - MaxPool 4 - (Conv - ReLU) for every kernel - MaxPool 2 - Linear, with 16 channels throughout.
    """
    rngs = nnx.Rngs(seed)
    height, width, channels = dataset.image_shape
    conv = partial(nn.Conv, padding="HALF", init="he_normal", rngs=rngs)
    block = [layer for kernel in kernels for layer in (conv(CHANNELS, CHANNELS, kernel), nn.Activation(nnx.relu))]
    features = (height // 8, width // 8, CHANNELS)
    return nn.Sequential(
        conv(channels, CHANNELS, 3),
        nn.Activation(nnx.relu),
        nn.MaxPool(4),
        *block,
        nn.MaxPool(2),
        nn.Linear(features, len(dataset.class_names), init="glorot_uniform", rngs=rngs),
    )


def run(config: Config, dataset: data.Dataset, run: runs.Run, parallel: train.Parallel) -> dict[str, Any]:
    """Measure the fields, train both networks with every seed, draw the figures, and return the summary."""
    fields, effective = measured(), {depth: effective_field(depth, config.seed) for depth in EFFECTIVE_DEPTHS}
    fits = {name: _train(name, config, dataset, run, parallel) for name in NETWORKS}
    if run.writes:
        from experiments import receptive_field_figures  # which draws what this file computes

        for name, figure in receptive_field_figures.draw(fields, effective, fits).items():
            viz.save(figure, run.figures / f"{name}.png")
    return {
        "data": {"name": dataset.name, "version": dataset.version},
        "fields": {name: [extent(field) for field in row] for name, row in fields.items()},
        "effective": {str(depth): describe(field, depth) for depth, field in effective.items()},
        "networks": {name: _describe(name, config, dataset, ends) for name, ends in fits.items()},
        "params_sha256": train.tree_sha256([fit.state.params for ends in fits.values() for fit in ends]),
    }


def _task(config: Config, dataset: data.Dataset) -> tasks.Classification:
    return tasks.Classification(config, dataset.class_names)


def _train(
    name: str, config: Config, dataset: data.Dataset, run: runs.Run, parallel: train.Parallel
) -> list[train.Fit]:
    network, task = partial(build, NETWORKS[name], dataset), _task(config, dataset)
    options: Any = {"run": run, "name": name.replace(" ", "-"), "parallel": parallel}
    return list(train.fit_seeds(network, task, config, dataset.train, dataset.test, **options))


def _describe(name: str, config: Config, dataset: data.Dataset, fits: Sequence[train.Fit]) -> dict[str, Any]:
    accuracies = [fit.history["validation/accuracy"][-1] for fit in fits]
    rows = models.layer_rows(build(NETWORKS[name], dataset, config.seed), dataset.image_shape)
    return {
        "params": sum(row.params for row in rows),
        "multiply_adds": sum(row.macs for row in rows),
        "test_accuracy": statistics.mean(accuracies),
        "test_accuracy_by_seed": accuracies,
        "train_accuracy": statistics.mean(fit.history["train/accuracy"][-1] for fit in fits),
        "seconds": statistics.mean(sum(fit.history["train/seconds"]) for fit in fits),
    }


# ---------------------------------------------------------------- what a unit sees


def measured() -> dict[str, list[np.ndarray]]:
    """Return for every stack the gradient (65, 65) of the output's middle with respect to the image.

    All weights are 1, so that contributions cannot cancel; padding keeps the size.
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
    """Return the side of the smallest square that holds all nonzero values; raise a ValueError if it is no square."""
    rows, columns = (np.flatnonzero(field.any(axis)) for axis in (1, 0))
    height, width = (int(places[-1] - places[0]) + 1 for places in (rows, columns))
    if height != width:
        raise ValueError(f"the field is {height} pixels high and {width} wide; expected a square")
    return height


def weights_of(stack: Stack, channels: int = 1) -> int:
    """Return how many weights the layers have, without biases."""
    return sum(geometry.conv_params(channels, channels, kernel, bias=False) for kernel, _, _ in stack)


def effective_field(depth: int, seed: int) -> np.ndarray:
    """Return each pixel's share (65, 65) in the output's middle through `depth` random 3x3 layers with ReLU.

    The share is the squared gradient of one output, summed over 8 input channels and averaged over 32 draws of He
    normal kernels and normal images.

    Source: Luo et al., "Understanding the effective receptive field in deep convolutional neural networks" (2016).
    """
    channels, rng = EFFECTIVE_CHANNELS, np.random.default_rng(seed)

    def middle(x: jax.Array, kernels: jax.Array) -> jax.Array:
        for kernel in kernels:
            x = nnx.relu(ops.conv2d(x, kernel, padding=1))
        return x[0, SIZE // 2, SIZE // 2].sum()

    squared = jax.jit(lambda x, kernels: jnp.square(jax.grad(middle)(x, kernels)[0]).sum(-1))
    total = np.zeros((SIZE, SIZE))
    for _ in range(DRAWS):
        kernels = rng.normal(0, np.sqrt(2 / (9 * channels)), (depth, 3, 3, channels, channels))
        total += np.asarray(squared(rng.normal(size=(1, SIZE, SIZE, channels)).astype("f"), kernels.astype("f")))
    return total / total.sum()


def describe(field: np.ndarray, depth: int) -> dict[str, float]:
    """Return the theory's side, the standard deviation along an axis, and the part of the area that holds 95 %."""
    side = geometry.receptive_field([(3, 1, 1)] * depth)
    places = np.arange(SIZE) - SIZE // 2
    deviation = float(np.sqrt((field.sum(0) * places**2).sum() + (field.sum(1) * places**2).sum()) / np.sqrt(2))
    ordered = np.sort(field.ravel())[::-1].cumsum()
    return {"theory": side, "deviation": deviation, "area_of_95_percent": int((ordered < 0.95).sum() + 1) / side**2}


# ---------------------------------------------------------------- results


def table(summary: dict[str, Any]) -> str:
    """Return Markdown tables of the trained networks, the measured fields and the effective fields."""
    networks = [
        (
            name,
            f"{result['params']:,}",
            f"{result['multiply_adds']:,}",
            f"{result['test_accuracy']:.1%} ({', '.join(f'{each:.1%}' for each in result['test_accuracy_by_seed'])})",
            f"{result['train_accuracy']:.1%}",
            f"{result['seconds']:.0f}",
        )
        for name, result in summary["networks"].items()
    ]
    fields = [(name, ", ".join(map(str, sides))) for name, sides in summary["fields"].items()]
    effective = [
        (depth, numbers["theory"], f"{numbers['deviation']:.1f}", f"{numbers['area_of_95_percent']:.0%}")
        for depth, numbers in summary["effective"].items()
    ]
    tables = (
        (("network", "parameters", "multiply-adds", "test accuracy", "training", "seconds"), networks),
        (("layers", "measured fields of 1, 2, ... layers (pixels)"), fields),
        (("random 3x3 layers", "theory", "deviation", "area with 95 %"), effective),
    )
    return "\n\n".join(markdown.table(head, rows) for head, rows in tables)


def claims(summary: dict[str, Any] | None) -> list[Claim]:
    """Return claims E1 to E3: fields are measured here, the training of E2 is read from a finished run."""
    fields = measured()
    sides = {name: [extent(field) for field in row] for name, row in fields.items()}
    return [
        _stacks(sides),
        *_three_or_seven(sides),
        *stored("receptive-field", _trained(summary)),
        _gaps(fields),
        _doubling(sides),
    ]


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
            sides["3x3"][2] == sides["7x7"][0] == 7,
        ),
        check(
            "E2",
            "a 7x7 layer has more parameters than three stacked 3x3 layers",
            f"{LECTURE_PERCENT} % more",
            f"{more:.1f} % more: {seven:,} and {three:,} at {CHANNELS} channels",
            abs(more - LECTURE_PERCENT) <= 0.5,
            "0.5 points",
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
        f"{ours} parameters; standard error of the difference {error:.1%} ({summary['data']['name']}, "
        f"{len(by_seed[0])} seeds)",
        three["test_accuracy"] >= seven["test_accuracy"] - BEHIND
        and error <= BEHIND
        and min(three["test_accuracy"], seven["test_accuracy"]) > LEARNED
        and three["params"] < seven["params"],
        f"test accuracy at most {BEHIND:.0%} behind, known to {BEHIND:.0%}; both over {LEARNED:.0%}; fewer parameters",
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
        sides[name] == [2 ** (depth + 1) - 1 for depth in depths] and size == SIZE and weights == plain,
        "exact: 2^(L+1) - 1",
    )
