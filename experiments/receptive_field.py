"""Receptive fields: theory against measured gradients, three 3x3 layers against one 7x7, dilation, and what counts.

Lectures S0, S2 and S3 (claims E1 to E3): every convolution of F taps adds F-1 pixels to what a unit sees; three 3x3
layers see as much as one 7x7, which has 81 % more parameters; dilated layers see further with the same parameters, and
rates that double see exponentially far at full resolution. Two networks that differ in nothing but three 3x3 layers or
one 7x7 are trained side by side.

    python launch.py receptive-field                 # on generated shapes, without a network
    python launch.py receptive-field --data cifar10 --epochs 20 --seeds 3

Takes about four minutes on a busy core, nearly all of it training. Expect fields as the theory has them, accuracies of
both networks that seeds move more than their kernels do, and effective fields that are bells, much smaller than the
theory's squares.
"""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from flax import nnx
from matplotlib.figure import Figure

from cnnjax import data, geometry, models, nn, ops, train, viz
from cnnjax.errors import UserError
from cnnjax.viz import Lines, Picture
from cnnjax.viz.figures import Curve
from experiments import Claim, check

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
EFFECTIVE_DEPTHS, EFFECTIVE_CHANNELS, DRAWS = (5, 10, 20), 8, 32


@dataclass(frozen=True)
class Config(train.Recipe, data.Source):
    """Measure receptive fields, and train a network of 3x3 layers beside one of 7x7 layers."""

    epochs: Annotated[int, tyro.conf.arg(help="Passes over the training images.")] = 12
    seeds: Annotated[int, tyro.conf.arg(help="How many seeds to train with, counted up from the first.")] = 2
    lr: Annotated[float | None, tyro.conf.arg(help="Peak learning rate.")] = 0.004
    schedule: Annotated[str, tyro.conf.arg(help=f"Of the learning rate: {', '.join(train.SCHEDULES)}.")] = "cosine"


def load(config: Config) -> data.Dataset:
    """Return the data set; raise a UserError if the config does not fit it."""
    dataset = config.dataset()
    train.check_batch_size(config.batch_size, dataset.train)
    if min(dataset.image_shape[:2]) < 8:
        raise UserError(f"data set {config.data!r} has images of {dataset.image_shape}; at least 8x8 pixels are needed")
    return dataset


def build(kernels: Sequence[int], dataset: data.Dataset, seed: int) -> models.Module:
    """Return a classifier whose one block, at a quarter of the resolution, has convolutions with these kernels.

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


def run(config: Config, dataset: data.Dataset, run: train.Run, parallel: train.Parallel) -> dict[str, Any]:
    """Measure the fields, train both networks with every seed, draw the figures, and return the summary."""
    fields, effective = measured(), {depth: effective_field(depth, config.seed) for depth in EFFECTIVE_DEPTHS}
    fits = {name: _train(name, config, dataset, run, parallel) for name in NETWORKS}
    if run.writes:
        _draw(run.figures, fields, effective, fits)
    return {
        "data": {"name": dataset.name, "version": dataset.version},
        "fields": {name: [extent(field) for field in row] for name, row in fields.items()},
        "effective": {str(depth): describe(field, depth) for depth, field in effective.items()},
        "networks": {name: _describe(name, config, dataset, ends) for name, ends in fits.items()},
        "params_sha256": train.tree_sha256([fit.state.params for ends in fits.values() for fit in ends]),
    }


def _train(
    name: str, config: Config, dataset: data.Dataset, run: train.Run, parallel: train.Parallel
) -> list[train.Fit]:
    network = partial(build, NETWORKS[name], dataset)
    tag = name.replace(" ", "-")
    return list(train.fit_seeds(network, config, dataset.train, dataset.test, run=run, name=tag, parallel=parallel))


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


# ---------------------------------------------------------------- fields as gradients


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


def effective_field(depth: int, seed: int) -> np.ndarray:
    """Return how much each pixel contributes through `depth` random 3x3 layers with ReLU, as shares (65, 65).

    The squared gradient of one output of the middle, summed over 8 input channels and averaged over 32 draws of He
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
    """Return the theory's side, the deviation of the shares along an axis, and which part of the area holds 95 %."""
    side = geometry.receptive_field([(3, 1, 1)] * depth)
    places = np.arange(SIZE) - SIZE // 2
    deviation = float(np.sqrt((field.sum(0) * places**2).sum() + (field.sum(1) * places**2).sum()) / np.sqrt(2))
    ordered = np.sort(field.ravel())[::-1].cumsum()
    return {"theory": side, "deviation": deviation, "area_of_95_percent": int((ordered < 0.95).sum() + 1) / side**2}


# ---------------------------------------------------------------- figures


def _draw(
    folder: Any,
    fields: dict[str, list[np.ndarray]],
    effective: dict[int, np.ndarray],
    fits: dict[str, list[train.Fit]],
) -> None:
    viz.save(_draw_fields(fields), folder / "fields.png")
    viz.save(_draw_growth(fields), folder / "growth.png")
    viz.save(_draw_effective(effective), folder / "effective.png")
    viz.save(_draw_sections(effective), folder / "effective-sections.png")
    panels = {
        quantity: [
            Curve(f"{name} {split}", np.array([fit.history[f"{split}/{quantity}"] for fit in ends]), colour, style)
            for colour, (name, ends) in enumerate(fits.items())
            for split, style in (("train", "-"), ("validation", "--"))
        ]
        for quantity in ("loss", "accuracy")
    }
    viz.save(viz.curves(panels), folder / "training.png")


def _draw_fields(fields: dict[str, list[np.ndarray]]) -> Figure:
    def picture(field: np.ndarray, title: str, side: int) -> Picture:
        border = (SIZE - side) // 2
        shown = field[border : SIZE - border, border : SIZE - border] / field.max()
        return Picture(shown, f"{title}\nsees {extent(field)}", "Blues", (0, 1))

    layers = "depth {}".format
    rows = {
        "What the middle sees through 3x3 layers, and through one 7x7 (gradients, all weights 1)": [
            *(picture(field, layers(d), 11) for d, field in enumerate(fields["3x3"][:4], 1)),
            picture(fields["7x7"][0], "one 7x7", 11),
        ],
        "One 3x3 layer dilated by 1, 2, 3": [
            picture(field, f"rate {rate}", 11) for rate, field in enumerate(fields["3x3, one dilated"], 1)
        ],
        "3x3 layers dilated by 1, 2, 4, 8, 16": [
            picture(field, layers(d), SIZE) for d, field in enumerate(fields["3x3, doubling rates"], 1)
        ],
    }
    return viz.picture_rows(rows)


def _draw_growth(fields: dict[str, list[np.ndarray]]) -> Figure:
    theory, found, weights = {}, {}, {}
    for name in ("3x3", "5x5", "3x3, doubling rates"):
        sides = np.array([geometry.receptive_field(stack) for stack in STACKS[name]])
        depths = np.arange(1, len(sides) + 1)
        theory[name] = (depths, sides)
        found[f"{name}, measured"] = (depths, np.array([extent(field) for field in fields[name]]))
        weights[name] = (sides, np.array([_weights(stack) for stack in STACKS[name]]))
    sides = np.arange(3, SIZE, 2)
    weights["one layer"] = (sides, sides**2)
    measured_styles = dict.fromkeys(found, "x")
    across = "receptive field (pixels)"
    return viz.line_plots(
        [
            Lines("field against depth", ("layers", across), theory | found, ("linear", "log"), styles=measured_styles),
            Lines("what a field costs", (across, "weights for each pair of channels"), weights, ("log", "log")),
        ]
    )


def _weights(stack: Stack, channels: int = 1) -> int:
    return sum(geometry.conv_params(channels, channels, kernel, bias=False) for kernel, _, _ in stack)


def _draw_effective(effective: dict[int, np.ndarray]) -> Figure:
    shown = []
    for depth, field in effective.items():
        numbers = describe(field, depth)
        title = f"{depth} layers: theory {numbers['theory']}\n95 % in {numbers['area_of_95_percent']:.0%} of its area"
        border = int(SIZE - numbers["theory"]) // 2
        inside = field[border : SIZE - border, border : SIZE - border]
        shown.append(Picture(np.sqrt(inside / field.max()), title, "Blues", (0, 1)))
    return viz.picture_rows({"What counts of the theory's square, random 3x3 layers with ReLU": shown}, size=2.1)


def _draw_sections(effective: dict[int, np.ndarray]) -> Figure:
    places = np.arange(SIZE) - SIZE // 2
    lines, bells = {}, {}
    for depth, field in effective.items():
        deviation = describe(field, depth)["deviation"]
        lines[f"{depth} layers"] = (places, field.sum(0))
        bell = np.exp(-(places**2) / (2 * deviation**2))
        bells[f"_bell of {depth}"] = (places, bell / bell.sum())
    labels = ("column, from the middle", "share of the squared gradient")
    depths = np.array(EFFECTIVE_DEPTHS)
    deviations = np.array([describe(field, depth)["deviation"] for depth, field in effective.items()])
    return viz.line_plots(
        [
            Lines("sections, and bells of the same deviation", labels, lines | bells, styles=dict.fromkeys(bells, ":")),
            Lines(
                "deviation against depth",
                ("layers", "pixels"),
                {
                    "measured": (depths, deviations),
                    "root of the depth": (depths, deviations[0] * np.sqrt(depths / depths[0])),
                    "the theory's half side": (depths, depths),
                },
                ("log", "log"),
                markers=True,
            ),
        ]
    )


# ---------------------------------------------------------------- what comes out


def table(summary: dict[str, Any]) -> str:
    """Return as Markdown tables the trained networks, the measured fields and the effective ones."""
    lines = ["| network | parameters | multiply-adds | test accuracy | training | seconds |", "| --- " * 6 + "|"]
    for name, result in summary["networks"].items():
        each = ", ".join(f"{accuracy:.1%}" for accuracy in result["test_accuracy_by_seed"])
        lines.append(
            f"| {name} | {result['params']:,} | {result['multiply_adds']:,} | {result['test_accuracy']:.1%} ({each}) | "
            f"{result['train_accuracy']:.1%} | {result['seconds']:.0f} |"
        )
    lines += ["", "| layers | measured fields of 1, 2, ... layers (pixels) |", "| --- | --- |"]
    lines += [f"| {name} | {', '.join(map(str, sides))} |" for name, sides in summary["fields"].items()]
    lines += ["", "| random 3x3 layers | theory | deviation | area with 95 % |", "| --- " * 4 + "|"]
    for depth, numbers in summary["effective"].items():
        lines.append(
            f"| {depth} | {numbers['theory']} | {numbers['deviation']:.1f} | {numbers['area_of_95_percent']:.0%} |"
        )
    return "\n".join(lines)


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
    three, seven = _weights(((3, 1, 1),) * 3, CHANNELS), _weights(((7, 1, 1),), CHANNELS)
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
        return Claim("E2", statement, "", "", "", "not run: needs a finished run")
    three, seven = (summary["networks"][name] for name in NETWORKS)
    ours = ", ".join(
        f"{name} {result['test_accuracy']:.1%} with {result['params']:,}"
        for name, result in summary["networks"].items()
    )
    return check(
        "E2",
        statement,
        "can be replaced",
        f"{ours} parameters ({summary['data']['name']}, {len(three['test_accuracy_by_seed'])} seeds)",
        "test accuracy not more than 1 point behind, and fewer parameters",
        three["test_accuracy"] >= seven["test_accuracy"] - 0.01 and three["params"] < seven["params"],
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
    weights, plain = _weights(stacks[-1]), _weights(STACKS["3x3"][len(stacks) - 1])
    return check(
        "E3",
        "rates that double grow the field exponentially, without loss of resolution and at equal parameters",
        "exponential expansion",
        f"{_listed(sides[name])} pixels, undilated {_listed(sides['3x3'][: len(stacks)])}; {SIZE}x{SIZE} stay "
        f"{size}x{size}; {weights} and {plain} weights for each pair of channels",
        "exact: 2^(L+1) - 1",
        sides[name] == [2 ** (depth + 1) - 1 for depth in depths] and size == SIZE and weights == plain,
    )
