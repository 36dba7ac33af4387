"""Receptive fields: theory against measured gradients, three 3x3 layers against one 7x7, dilation, and what counts.

Lectures S0, S2 and S3 (claims E1 to E3): every convolution of F taps adds F-1 pixels to what a unit sees; three 3x3
layers see as much as one 7x7, which has 81 % more parameters; dilated layers see further with the same parameters, and
rates that double see exponentially far at full resolution. Two networks that differ in nothing but three 3x3 layers or
one 7x7 are trained side by side.

    python launch.py receptive-field                 # on generated shapes, without a network
    python launch.py receptive-field --data cifar10 --epochs 20 --seeds 3

Takes about two minutes, most of it training. Expect fields as the theory has them, accuracies of both networks that
seeds move more than their kernels do, and effective fields that are bells, much smaller than the theory's squares.
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

from cnnjax import data, geometry, models, nn, ops, runs, tasks, train, viz
from cnnjax.errors import UserError
from cnnjax.lab.markdown import table as markdown
from cnnjax.viz import Lines, Picture
from cnnjax.viz.figures import Curve
from experiments.receptive_field_claims import CHANNELS, NETWORKS, SIZE, STACKS, claims, extent, measured, weights_of

__all__ = ["Config", "claims", "load", "run", "table"]

EFFECTIVE_DEPTHS, EFFECTIVE_CHANNELS, DRAWS = (5, 10, 20), 8, 32


@dataclass(frozen=True)
class Config(train.Recipe, tasks.ClassificationLoss, data.Source):
    """Measure receptive fields, and train a network of 3x3 layers beside one of 7x7 layers."""

    epochs: Annotated[int, tyro.conf.arg(help="Passes over the training images, at least 1.")] = 12
    seeds: Annotated[int, tyro.conf.arg(help="How many seeds to train with, at least 1, counted up from --seed.")] = 5
    lr: Annotated[float | None, tyro.conf.arg(help="Peak learning rate, above 0.")] = 0.004
    schedule: Annotated[str, tyro.conf.arg(help=f"Of the learning rate: {', '.join(train.SCHEDULES)}.")] = "cosine"

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


def run(config: Config, dataset: data.Dataset, run: runs.Run, parallel: train.Parallel) -> dict[str, Any]:
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


# ---------------------------------------------------------------- what counts of a field


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
        weights[name] = (sides, np.array([weights_of(stack) for stack in STACKS[name]]))
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
    tables: list[tuple[Sequence[str], Sequence[Sequence[object]]]] = [
        (("network", "parameters", "multiply-adds", "test accuracy", "training", "seconds"), networks),
        (("layers", "measured fields of 1, 2, ... layers (pixels)"), fields),
        (("random 3x3 layers", "theory", "deviation", "area with 95 %"), effective),
    ]
    return "\n\n".join(markdown(head, rows) for head, rows in tables)
